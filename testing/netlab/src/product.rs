//! What a product must do to be measured, and the processes it consists of.

use std::fs::File;
use std::net::IpAddr;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use crate::shape::{Plan, Shape};

/// How long a process may take to come up.
pub(crate) const START_WITHIN: Duration = Duration::from_secs(20);

/// An overlay network, or what it is measured against.
pub(crate) trait Product {
    /// Name and version, as in the tables.
    fn name(&self) -> &str;

    /// Why it cannot be raised on a shape, if so: known from its own documentation.
    fn cannot(&self, shape: Shape) -> Option<&'static str>;

    /// Makes keys and configurations for all nodes of a plan; nothing runs yet.
    fn prepare<'a>(&'a self, plan: &'a Plan) -> Result<Box<dyn Network + 'a>>;
}

/// A product's nodes on one plan. What runs ends when it is dropped.
pub(crate) trait Network {
    /// What is done before the clock of a join runs: things that one has, or was sent, beforehand.
    fn before(&mut self, _node: usize) -> Result<()> {
        Ok(())
    }

    /// Starts a node and lets it join those that it is told of. Need not wait until it has.
    fn start(&mut self, node: usize) -> Result<()>;

    /// Ends a node, in order or at once, and starts it again with what it kept.
    fn restart(&mut self, _node: usize, _orderly: bool) -> Result<()> {
        bail!("how it is restarted is not known here")
    }

    /// The address of a node that was started.
    fn address(&self, node: usize) -> IpAddr;
}

/// A process that ends with this value.
#[derive(Debug)]
pub(crate) struct Running(Child);

impl Running {
    /// Starts it, with what it says in a file.
    pub(crate) fn start(mut command: Command, log: &Path) -> Result<Self> {
        let file = File::create(log).with_context(|| format!("cannot write {}", log.display()))?;
        command.stdin(Stdio::null()).stdout(file.try_clone()?).stderr(file);
        Ok(Self(command.spawn().with_context(|| format!("cannot start {command:?}"))?))
    }

    /// One that somebody else started.
    pub(crate) fn of(child: Child) -> Self {
        Self(child)
    }

    /// Ends it at once.
    pub(crate) fn kill(&mut self) -> Result<()> {
        self.0.kill().context("cannot end it")
    }

    /// Waits until it has ended.
    pub(crate) fn until_ended(&mut self) -> Result<()> {
        let began = Instant::now();
        while self.0.try_wait()?.is_none() {
            if began.elapsed() > START_WITHIN {
                bail!("it did not end within {} s", START_WITHIN.as_secs());
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(())
    }

    /// Waits for something that it does when it has come up.
    pub(crate) fn until(&mut self, what: &str, log: &Path, mut holds: impl FnMut() -> bool) -> Result<()> {
        let began = Instant::now();
        while !holds() {
            let ended = self.0.try_wait()?;
            if ended.is_some() || began.elapsed() > START_WITHIN {
                let said = std::fs::read_to_string(log).unwrap_or_default();
                let last: Vec<&str> = said.lines().rev().take(3).collect();
                bail!("it did not come to this: {what} ({ended:?}); it said: {}", last.join(" / "));
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        Ok(())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _: std::io::Result<()> = self.0.kill();
        let _: std::io::Result<_> = self.0.wait();
    }
}

/// Runs a command to its end; gives what it printed.
pub(crate) fn said(command: &mut Command) -> Result<String> {
    said_to(command, "")
}

/// The same with something on its standard input.
pub(crate) fn said_to(command: &mut Command, input: &str) -> Result<String> {
    use std::io::Write as _;
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().with_context(|| format!("cannot run {command:?}"))?;
    if let Some(mut stdin) = child.stdin.take() {
        // Who does not read closes it; whether that was wrong shows in its status.
        let _: std::io::Result<()> = stdin.write_all(input.as_bytes());
    }
    let Output { status, stdout, stderr } = child.wait_with_output()?;
    if !status.success() {
        // Without its arguments: among them are keys and tickets.
        let entered = command.get_args().nth(2).filter(|_| command.get_program() == "nsenter");
        let program = entered.unwrap_or(command.get_program()).display();
        bail!("{program} failed ({status}): {}", String::from_utf8_lossy(&stderr).trim());
    }
    Ok(String::from_utf8_lossy(&stdout).trim().to_owned())
}

/// Whether an interface is there.
pub(crate) fn has_interface(netns: &atoll_lab::Netns, interface: &str) -> bool {
    netns.ip(&["link", "show", interface]).is_ok()
}
