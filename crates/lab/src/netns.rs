//! One network namespace: what is run, set and filtered in it.

use std::io::{self, Read as _, Write as _};
use std::os::fd::AsFd as _;
use std::path::Path;
use std::process::{Command, Stdio};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::LabError;

/// Where iproute2 keeps namespaces that have a name.
const NAMESPACES: &str = "/run/netns";

/// A network namespace that has a name. A value like this does not keep it alive: the lab does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Netns {
    name: String,
}

impl Netns {
    pub(crate) fn called(name: String) -> Self {
        Self { name }
    }

    /// As `ip netns` knows it.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Does something in this network, on a thread of its own. Sockets that it makes stay there.
    ///
    /// # Errors
    ///
    /// The namespace is gone, or what is done fails.
    pub fn inside<T: Send>(&self, work: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
        let namespace = std::fs::File::open(Path::new(NAMESPACES).join(&self.name))?;
        let enter = || move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network));
        let worked =
            std::thread::scope(|scope| scope.spawn(|| enter().map_err(io::Error::from).and_then(|()| work())).join());
        worked.unwrap_or_else(|_| Err(io::Error::other("it panicked")))
    }

    /// A command that runs a program in this network, and otherwise as if it were run here. What is still running at the end of the lab is killed.
    #[must_use]
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net={NAMESPACES}/{}", self.name)).arg("--").arg(program);
        command
    }

    /// `ip` in this network.
    ///
    /// # Errors
    ///
    /// [`LabError::Step`] with what it said.
    pub fn ip(&self, arguments: &[&str]) -> Result<(), LabError> {
        ip(&[&["-n", &self.name], arguments].concat())
    }

    /// Adds rules to this network's packet filter, all of them or none.
    ///
    /// # Errors
    ///
    /// [`LabError::Step`] with what `nft` said.
    pub fn nft(&self, rules: &str) -> Result<(), LabError> {
        let mut command = self.command("nft");
        command.args(["-f", "-"]);
        finish(command, rules, "nft -f -")
    }

    /// Sets a setting of the kernel for this network, such as `ipv4/ip_forward`.
    ///
    /// # Errors
    ///
    /// [`LabError::Step`] if there is none of that name or it refuses the value.
    pub fn set(&self, setting: &str, value: &str) -> Result<(), LabError> {
        // What lies below /proc/sys/net is that of the network of whoever opens it.
        let written = self.inside(|| std::fs::write(Path::new("/proc/sys/net").join(setting), value));
        let failed = |error: io::Error| LabError::Step { command: format!("set {setting}"), said: error.to_string() };
        written.map_err(failed)
    }

    /// Lets everything that comes in by an interface vanish without a sign: the link stays up, nobody is told.
    ///
    /// # Errors
    ///
    /// [`LabError::Step`].
    pub fn deafen(&self, interface: &str) -> Result<(), LabError> {
        let hook = format!("type filter hook ingress device {interface} priority -500; policy drop;");
        self.nft(&format!("table netdev deaf-{interface} {{\n chain in {{ {hook} }}\n}}\n"))
    }

    /// Ends a [`deafen`](Self::deafen).
    ///
    /// # Errors
    ///
    /// [`LabError::Step`].
    pub fn undeafen(&self, interface: &str) -> Result<(), LabError> {
        self.nft(&format!("delete table netdev deaf-{interface}\n"))
    }
}

/// Runs `ip`, outside of all namespaces.
pub(crate) fn ip(arguments: &[&str]) -> Result<(), LabError> {
    let mut command = Command::new("ip");
    command.args(arguments);
    finish(command, "", &format!("ip {}", arguments.join(" ")))
}

/// Runs a command to its end.
fn finish(mut command: Command, input: &str, what: &str) -> Result<(), LabError> {
    let failed = |said: String| LabError::Step { command: what.to_owned(), said };
    command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = command.spawn().map_err(|error| failed(error.to_string()))?;
    if let Some(mut stdin) = child.stdin.take() {
        // Who does not read closes it, and says on its standard error why.
        let _: io::Result<()> = stdin.write_all(input.as_bytes());
    }
    let mut said = String::new();
    if let Some(mut errors) = child.stderr.take() {
        let _: io::Result<usize> = errors.read_to_string(&mut said);
    }
    match child.wait() {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(failed(format!("{status}: {}", said.trim()))),
        Err(error) => Err(failed(error.to_string())),
    }
}
