//! Hosts for tests and the demo: network namespaces on one bridge, cut and joined at will, gone afterwards whatever happens.
//!
//! Where one bridge is not enough there are [`Wires`]: namespaces with nothing in them, between which a test lays cables, and an [`Internet`]
//! made of them, whose sites lie behind routers that translate addresses in any of the four ways ([`Nat`]).
//!
//! A [`Lab`] has a hub (a namespace with the bridge), some hosts and one host `outside`, each a namespace with one cable (veth) to the bridge, an address of
//! both families and a default route to the hub. Nothing of it is in the machine's own namespace, so no address or name can collide there; the names of
//! the namespaces carry the process id. Processes are started in a host by `nsenter --net`, which leaves mounts and cgroups as they are.
//!
//! # How it ends
//!
//! A guardian process, started first, waits for the end of its standard input. That comes when the lab is dropped, and also when its process
//! panics, is interrupted or is killed; then the guardian ends what still runs in the namespaces of this lab, does what it was told to do at the end
//! ([`Lab::with_last_words`]: containers have namespaces of their own and mounts, so they are not found this way) and removes them.
//!
//! It takes root, iproute2 and util-linux; without them [`LabError`] says what to install.

mod internet;
mod nat;
mod netns;
mod wires;

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

pub use internet::{Internet, Site};
pub use nat::Nat;
pub use netns::Netns;
pub use wires::{End, Wires};

use netns::ip;

/// Hosts that a lab can have: they share a /24.
pub const HOSTS_MAX: usize = 200;

/// The last byte of the hub's address: above those of all hosts.
const HUB: u8 = 254;

/// Labs of this process, so that each has a name of its own.
static LABS: AtomicU32 = AtomicU32::new(0);

/// Waits for the end of its input, then removes what the names given as arguments stand for, the first of which is a script to be run before the namespaces
/// go. A process in a namespace is only ended if that is of this lab; so is one that is only on its way into it.
/// Somebody who was killed takes a moment to be gone, and is waited for.
const GUARDIAN: &str = r#"
trap '' INT TERM HUP
cat >/dev/null
last_words=$1
shift
printf -- '--net=/run/netns/%s\n' "$@" | grep -slzFx -f - /proc/[0-9]*/cmdline | while IFS=/ read -r _ _ pid _; do
  kill -9 "$pid" 2>/dev/null
done
for name in "$@"; do
  for again in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do
    pids=$(ip netns pids "$name" 2>/dev/null)
    [ -z "$pids" ] && break
    for pid in $pids; do kill -9 "$pid" 2>/dev/null; done
    sleep 0.05
  done
done
sh -c "$last_words"
for name in "$@"; do ip netns delete "$name" 2>/dev/null; done
"#;

/// Why there is no lab.
#[derive(Debug, thiserror::Error)]
pub enum LabError {
    /// Not root.
    #[error("network namespaces take root: run this test as root")]
    NotRoot,
    /// A program is missing.
    #[error("{program} is missing: apt-get install {package}")]
    Missing {
        /// Which.
        program: &'static str,
        /// What it is in.
        package: &'static str,
    },
    /// More hosts than a lab can have.
    #[error("a lab has up to {HOSTS_MAX} hosts, not {wanted}")]
    TooMany {
        /// How many were wanted.
        wanted: usize,
    },
    /// A step failed.
    #[error("`{command}` failed: {said}")]
    Step {
        /// What was run.
        command: String,
        /// What it said.
        said: String,
    },
}

/// Some hosts on one bridge. See the [crate](self).
#[derive(Debug)]
pub struct Lab {
    hub: String,
    hosts: Vec<Host>,
    outside: Host,
    guardian: Child,
}

/// One host of a lab.
#[derive(Debug, Clone)]
pub struct Host {
    netns: Netns,
    cable: String,
    number: u8,
}

impl Lab {
    /// Makes a lab with so many hosts, numbered from 0, and the one outside.
    ///
    /// # Errors
    ///
    /// [`LabError`]; nothing is left behind.
    pub fn new(hosts: usize) -> Result<Self, LabError> {
        Self::with_last_words(hosts, |_| String::new())
    }

    /// The same, with a shell script for the end: it is run when nothing runs in the namespaces any more and they are still there. It is told of
    /// the hosts before they are made.
    ///
    /// # Errors
    ///
    /// [`LabError`]; nothing is left behind.
    pub fn with_last_words(hosts: usize, last_words: impl FnOnce(&[Host]) -> String) -> Result<Self, LabError> {
        check_machine()?;
        if hosts > HOSTS_MAX {
            return Err(LabError::TooMany { wanted: hosts });
        }
        let name = unique_name();
        let host = |number: usize| Host {
            netns: Netns::called(format!("{name}-{number}")),
            cable: format!("cable{number}"),
            number: u8::try_from(number + 1).expect("fewer than 200"),
        };
        let hub = format!("{name}-hub");
        let (outside, hosts) = (host(hosts), (0..hosts).map(host).collect::<Vec<_>>());
        let namespaces = hosts.iter().chain([&outside]).map(Host::namespace).chain([hub.as_str()]);
        let guardian = guard(&last_words(&hosts), namespaces)?;
        let lab = Self { hub, hosts, outside, guardian };
        // From here on, dropping it removes what there is.
        lab.build()?;
        Ok(lab)
    }

    fn build(&self) -> Result<(), LabError> {
        ip(&["netns", "add", &self.hub])?;
        let hub = |arguments: &[&str]| ip(&[&["-n", &self.hub], arguments].concat());
        hub(&["link", "add", "bridge", "type", "bridge", "forward_delay", "0", "mcast_snooping", "0"])?;
        hub(&["address", "add", &format!("{}/24", v4(HUB)), "dev", "bridge"])?;
        hub(&["address", "add", &format!("{}/64", v6(HUB)), "dev", "bridge", "nodad"])?;
        hub(&["link", "set", "bridge", "up"])?;
        for host in self.hosts.iter().chain([&self.outside]) {
            ip(&["netns", "add", host.namespace()])?;
            let peer = ["peer", "name", "eth0", "netns", host.namespace()];
            hub(&[&["link", "add", &host.cable, "type", "veth"][..], &peer].concat())?;
            hub(&["link", "set", &host.cable, "master", "bridge", "up"])?;
            let at = |arguments: &[&str]| host.netns.ip(arguments);
            at(&["link", "set", "lo", "up"])?;
            at(&["address", "add", &format!("{}/24", host.ipv4()), "dev", "eth0"])?;
            at(&["address", "add", &format!("{}/64", host.ipv6()), "dev", "eth0", "nodad"])?;
            at(&["link", "set", "eth0", "up"])?;
            at(&["route", "add", "default", "via", &v4(HUB).to_string()])?;
            at(&["-6", "route", "add", "default", "via", &v6(HUB).to_string()])?;
        }
        Ok(())
    }

    /// Lets the hosts live on when this ends; removing them is then somebody else's.
    ///
    /// # Errors
    ///
    /// [`LabError::Step`] if the guardian cannot be told.
    pub fn leave_standing(mut self) -> Result<(), LabError> {
        let killed = self.guardian.kill().and_then(|()| self.guardian.wait());
        killed.map(drop).map_err(|error| LabError::Step { command: "kill".to_owned(), said: error.to_string() })
    }

    /// Names of all namespaces, the hub's and that of the host outside among them.
    pub fn namespaces(&self) -> impl Iterator<Item = &str> {
        let hosts = self.hosts.iter().chain([&self.outside]).map(Host::namespace);
        hosts.chain([self.hub.as_str()])
    }

    /// A host.
    ///
    /// # Panics
    ///
    /// If there is none of that number.
    #[must_use]
    pub fn host(&self, number: usize) -> &Host {
        &self.hosts[number]
    }

    /// All hosts but the one outside.
    #[must_use]
    pub fn hosts(&self) -> &[Host] {
        &self.hosts
    }

    /// A machine on the same network that takes no part.
    #[must_use]
    pub fn outside(&self) -> &Host {
        &self.outside
    }

    /// Lets everything to and from a host vanish without a sign, as a broken switch does: its link stays up.
    ///
    /// # Errors
    ///
    /// [`LabError::Step`].
    pub fn cut(&self, host: &Host) -> Result<(), LabError> {
        ip(&["-n", &self.hub, "link", "set", &host.cable, "nomaster"])
    }

    /// Puts hosts onto a bridge of their own: they reach each other and nobody else, and no link goes down. [`restore`](Self::restore) takes one back.
    ///
    /// # Errors
    ///
    /// [`LabError::Step`]; also if there is such a bridge already.
    pub fn split(&self, hosts: &[&Host]) -> Result<(), LabError> {
        let hub = |arguments: &[&str]| ip(&[&["-n", &self.hub], arguments].concat());
        hub(&["link", "add", "apart", "type", "bridge", "forward_delay", "0", "mcast_snooping", "0"])?;
        hub(&["link", "set", "apart", "up"])?;
        hosts.iter().try_for_each(|host| hub(&["link", "set", &host.cable, "master", "apart"]))
    }

    /// Has the bridge send everything to everybody, as a hub or radio does: whoever listens hears what is meant for others.
    ///
    /// # Errors
    ///
    /// [`LabError::Step`].
    pub fn let_all_hear_all(&self) -> Result<(), LabError> {
        // With no time to remember them it learns no addresses.
        ip(&["-n", &self.hub, "link", "set", "bridge", "type", "bridge", "ageing_time", "0"])
    }

    /// Ends a [`cut`](Self::cut) or a [`split`](Self::split) for a host.
    ///
    /// # Errors
    ///
    /// [`LabError::Step`].
    pub fn restore(&self, host: &Host) -> Result<(), LabError> {
        ip(&["-n", &self.hub, "link", "set", &host.cable, "master", "bridge"])
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        drop(self.guardian.stdin.take());
        // Nothing of it is left once this returns.
        let _: std::io::Result<_> = self.guardian.wait();
    }
}

impl Host {
    /// Its IPv4 address.
    #[must_use]
    pub fn ipv4(&self) -> Ipv4Addr {
        v4(self.number)
    }

    /// Its IPv6 address.
    #[must_use]
    pub fn ipv6(&self) -> Ipv6Addr {
        v6(self.number)
    }

    /// Its namespace's name, as `ip netns` knows it.
    #[must_use]
    pub fn namespace(&self) -> &str {
        self.netns.name()
    }

    /// Its namespace.
    #[must_use]
    pub fn netns(&self) -> &Netns {
        &self.netns
    }

    /// Does something in the host's network. See [`Netns::inside`].
    ///
    /// # Errors
    ///
    /// The host is gone, or what is done fails.
    pub fn inside<T: Send>(&self, work: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
        self.netns.inside(work)
    }

    /// A command that runs a program in the host's network. See [`Netns::command`].
    #[must_use]
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        self.netns.command(program)
    }
}

fn v4(number: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 57, 71, number)
}

fn v6(number: u8) -> Ipv6Addr {
    Ipv6Addr::new(0xfd57, 0x7100, 0, 0, 0, 0, 0, number.into())
}

fn check_machine() -> Result<(), LabError> {
    let id = Command::new("id").arg("-u").output();
    if !id.is_ok_and(|output| output.stdout.trim_ascii() == b"0") {
        return Err(LabError::NotRoot);
    }
    for (program, package, flag) in [("ip", "iproute2", "-Version"), ("nsenter", "util-linux", "--version")] {
        let found = Command::new(program).arg(flag).stdout(Stdio::null()).stderr(Stdio::null()).status();
        if found.is_err() {
            return Err(LabError::Missing { program, package });
        }
    }
    Ok(())
}

/// What the namespaces of one lab begin with.
fn unique_name() -> String {
    format!("atoll-lab-{}-{}", std::process::id(), LABS.fetch_add(1, Ordering::Relaxed))
}

/// Starts the guardian, out of the reach of the terminal's signals.
fn guard<'a>(last_words: &str, namespaces: impl Iterator<Item = &'a str>) -> Result<Child, LabError> {
    let mut command = Command::new("sh");
    command.args(["-c", GUARDIAN, "guardian", last_words]).args(namespaces).process_group(0);
    command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
    command.spawn().map_err(|error| LabError::Step { command: "sh".to_owned(), said: error.to_string() })
}
