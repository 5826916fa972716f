//! The machines of the story: hosts in network namespaces, a node on each, and how all of it goes away.
//!
//! A node's containers have namespaces and mounts of their own and outlive it: they are ended by `atoll down --clear` on each host, by the guardian of the lab
//! if this process does not come to it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use atoll_control::{Client, InviteRequest, JoinRequest};
use atoll_lab::{Host, Lab, LabError};
use tokio::io::AsyncWriteExt as _;
use tokio::process::Command;

use crate::{GridError, NodeProcess, Start};

/// Who a machine is and what its node is told.
#[derive(Debug)]
pub(super) struct Machine {
    pub(super) name: &'static str,
    owner: &'static str,
    settings: &'static [&'static str],
}

const LENDS: &[&str] = &[
    "lend.cpu=1000",
    "lend.memory=1G",
    "lend.storage=4G",
    "storage.capacity=4G",
    "network.allow=peers icmp,peers tcp/7777",
];
const LENDS_STORAGE: &[&str] = &["lend.storage=4G", "storage.capacity=4G"];
const HOME: &[&str] = &["storage.capacity=4G"];
const GATEWAY: &[&str] = &["gateway.domain=atoll.test", "storage.capacity=64M"];
const STRANGER: &[&str] = &["storage.capacity=64M"];

/// The tenant's own node first, then those that others join. Three owners lend five machines that run something, and two of them a sixth and seventh that
/// only keep: 4+2 takes six homes, and eight so that with two dead everything is made whole again.
pub(super) const MACHINES: [Machine; 10] = [
    Machine { name: HOME_NAME, owner: "dora", settings: HOME },
    Machine { name: GATEWAY_NAME, owner: "dora", settings: GATEWAY },
    Machine { name: "anna-1", owner: "anna", settings: LENDS },
    Machine { name: "anna-2", owner: "anna", settings: LENDS },
    Machine { name: "ben-1", owner: "ben", settings: LENDS },
    Machine { name: "ben-2", owner: "ben", settings: LENDS },
    Machine { name: "carl-1", owner: "carl", settings: LENDS },
    Machine { name: ATTIC_NAME, owner: "ben", settings: LENDS_STORAGE },
    Machine { name: "carl-attic", owner: "carl", settings: LENDS_STORAGE },
    Machine { name: STRANGER_NAME, owner: "eve", settings: STRANGER },
];

/// The tenant's.
pub(super) const HOME_NAME: &str = "home";
/// The one with a public address.
pub(super) const GATEWAY_NAME: &str = "gateway";
/// A machine that keeps and runs nothing.
pub(super) const ATTIC_NAME: &str = "ben-attic";
/// On the same network, and nobody's peer.
pub(super) const STRANGER_NAME: &str = "stranger";
/// Those that run something.
pub(super) const FIVE: [&str; 5] = ["anna-1", "anna-2", "ben-1", "ben-2", "carl-1"];

/// How long something is tried again while nodes are killed.
const HUNTED_PATIENCE: Duration = Duration::from_secs(120);

/// Between two tries.
const PAUSE: Duration = Duration::from_millis(500);

/// All machines, up.
pub struct Machines {
    // Ended in this order: the nodes, then what they leave and the hosts.
    nodes: BTreeMap<&'static str, NodeProcess>,
    lab: Lab,
    program: PathBuf,
    folder: PathBuf,
    /// Nodes are killed all the time: what fails is tried again, as a person would.
    pub(super) hunted: bool,
}

impl From<LabError> for GridError {
    fn from(error: LabError) -> Self {
        Self::Wrong(error.to_string())
    }
}

impl Machines {
    /// Raises the hosts and starts their nodes; nobody knows anybody yet.
    pub(super) async fn raise(
        program: &Path,
        folder: &Path,
        keep: bool,
        mut on_step: impl FnMut(&str),
    ) -> Result<Self, GridError> {
        let lab = Lab::with_last_words(MACHINES.len(), |hosts| last_words(program, folder, hosts))?;
        let (program, folder) = (program.to_path_buf(), folder.to_path_buf());
        let mut machines = Self { nodes: BTreeMap::new(), lab, program, folder, hunted: false };
        let mut phrases: BTreeMap<&str, String> = BTreeMap::new();
        for (index, machine) in MACHINES.iter().enumerate() {
            on_step(&format!("starting {}, a node of {}", machine.name, machine.owner));
            if let Some(phrase) = phrases.get(machine.owner) {
                // A person's second machine: the 24 words make the same owner of it.
                machines.atoll_fed(machine.name, &["id", "restore"], phrase).await?;
            }
            let settings = machine.settings.iter().map(|setting| (*setting).to_owned());
            let settings = settings.chain([format!("node.name={}", machine.name)]).collect();
            let host = Some(machines.lab.host(index).clone());
            let start = Start { program: machines.program.clone(), settings, host, keep };
            let node = NodeProcess::start(machine.name, &machines.dir(machine.name), start).await?;
            machines.nodes.insert(machine.name, node);
            if !phrases.contains_key(machine.owner) {
                phrases.insert(machine.owner, machines.atoll(machine.name, &["id", "phrase"]).await?);
            }
        }
        Ok(machines)
    }

    /// Makes everybody but the stranger known to the tenant, and the five to each other.
    pub(super) async fn join(&self) -> Result<(), GridError> {
        let others = |name: &&Machine| name.name != HOME_NAME && name.name != STRANGER_NAME;
        self.join_to(HOME_NAME, MACHINES.iter().filter(others).map(|machine| machine.name)).await?;
        for (index, name) in FIVE.iter().enumerate() {
            self.join_to(name, FIVE[index + 1..].iter().copied()).await?;
        }
        Ok(())
    }

    async fn join_to(&self, to: &str, from: impl Iterator<Item = &'static str>) -> Result<(), GridError> {
        let node = self.node(to);
        for name in from {
            let invited = node.client().invite(&InviteRequest { ttl_seconds: 600, uses: 1 }).await;
            let ticket = invited.map_err(|source| node.control(source))?.ticket;
            let other = self.node(name);
            other.client().join(&JoinRequest { ticket }).await.map_err(|source| other.control(source))?;
        }
        Ok(())
    }

    /// Does something; where nodes are killed meanwhile, does it again until it succeeds, within reason.
    pub(super) async fn again<T>(&self, work: impl AsyncFn() -> Result<T, GridError>) -> Result<T, GridError> {
        let began = Instant::now();
        loop {
            match work().await {
                Err(_) if self.hunted && began.elapsed() < HUNTED_PATIENCE => tokio::time::sleep(PAUSE).await,
                done => return done,
            }
        }
    }

    /// Runs `atoll` on a machine, as its owner would.
    pub(super) async fn atoll(&self, name: &str, arguments: &[&str]) -> Result<String, GridError> {
        self.again(async || self.atoll_fed(name, arguments, "").await).await
    }

    async fn atoll_fed(&self, name: &str, arguments: &[&str], input: &str) -> Result<String, GridError> {
        let mut command = self.command(name, &self.program);
        command.arg("--data-dir").arg(self.dir(name)).args(arguments);
        said(&format!("atoll {}", arguments.join(" ")), command, input).await
    }

    /// A command on a machine; it ends with the story.
    pub(super) fn command(&self, name: &str, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::from(self.host(name).command(program));
        command.env_remove("ATOLL_DATA_DIR").kill_on_drop(true);
        command
    }

    /// Somebody on a machine that takes no part.
    pub(super) fn visitor(&self, program: &str) -> Command {
        let mut command = Command::from(self.lab.outside().command(program));
        command.kill_on_drop(true);
        command
    }

    pub(super) fn host(&self, name: &str) -> &Host {
        let index = MACHINES.iter().position(|machine| machine.name == name);
        self.lab.host(index.expect("the story names its own machines"))
    }

    pub(super) fn node(&self, name: &str) -> &NodeProcess {
        &self.nodes[name]
    }

    pub(super) fn node_mut(&mut self, name: &str) -> Result<&mut NodeProcess, GridError> {
        self.nodes.get_mut(name).ok_or_else(|| GridError::Wrong(format!("there is no machine {name}")))
    }

    /// The tenant's node.
    pub(super) fn home(&self) -> &Client {
        self.node(HOME_NAME).client()
    }

    pub(super) fn program(&self) -> &Path {
        &self.program
    }

    pub(super) fn dir(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// Where everything lies.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Puts what the nodes logged where it stays.
    pub(super) fn save_logs(&self) -> std::io::Result<PathBuf> {
        let logs = self.folder.with_extension("logs");
        std::fs::create_dir_all(&logs)?;
        for (name, node) in &self.nodes {
            std::fs::copy(node.log(), logs.join(name).with_extension("log"))?;
        }
        Ok(logs)
    }

    /// Ends the nodes in order, then what they left, then the hosts.
    pub(super) async fn end(mut self) -> Result<(), GridError> {
        for node in self.nodes.values_mut().filter(|node| node.is_started()) {
            node.kill().await?;
        }
        // The guardian takes some seconds; nothing else is to be done meanwhile.
        let ended = tokio::task::spawn_blocking(move || drop(self)).await;
        ended.map_err(|error| GridError::Wrong(error.to_string()))
    }

    /// Leaves everything running; answers with the script that ends it.
    pub(super) fn leave(self) -> Result<PathBuf, GridError> {
        let Self { nodes, lab, program, folder, hunted: _ } = self;
        // Dropping them would end them.
        std::mem::forget(nodes);
        let mut script = String::from("#!/bin/sh\n");
        for namespace in lab.namespaces() {
            script += &format!("kill -9 $(ip netns pids {namespace}) 2>/dev/null\n");
        }
        script += &last_words(&program, &folder, lab.hosts());
        for namespace in lab.namespaces() {
            script += &format!("ip netns delete {namespace}\n");
        }
        let path = folder.with_extension("end.sh");
        script += &format!("rm -f {}\n", quoted(&path));
        std::fs::write(&path, script)
            .map_err(|source| GridError::Io { what: format!("cannot write {}", path.display()), source })?;
        lab.leave_standing()?;
        Ok(path)
    }
}

/// What ends the containers of every node, and removes all data.
fn last_words(program: &Path, folder: &Path, hosts: &[Host]) -> String {
    let mut script = String::new();
    for (machine, host) in MACHINES.iter().zip(hosts) {
        let dir = folder.join(machine.name);
        let (program, dir) = (quoted(program), quoted(&dir));
        let clear = format!("{program} --data-dir {dir} down --clear");
        script += &format!("nsenter --net=/run/netns/{} -- {clear} >/dev/null 2>&1 &\n", host.namespace());
    }
    script + &format!("wait\nrm -rf {}\n", quoted(folder))
}

/// For a shell.
fn quoted(path: &Path) -> String {
    format!("'{}'", path.display().to_string().replace('\'', r"'\''"))
}

/// Runs a command to its end, and gives what it said; what it complained about, if it failed.
pub(super) async fn said(what: &str, mut command: Command, input: &str) -> Result<String, GridError> {
    let failed = |source| GridError::Io { what: format!("cannot run {what}"), source };
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().map_err(failed)?;
    if let Some(mut stdin) = child.stdin.take() {
        // Who does not read closes it: no failure of ours.
        let _: std::io::Result<()> = stdin.write_all(input.as_bytes()).await;
    }
    let output = child.wait_with_output().await.map_err(failed)?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
    if output.status.success() {
        return Ok(text(&output.stdout));
    }
    let (status, errors) = (output.status, text(&output.stderr));
    Err(GridError::Wrong(format!("`{what}` failed ({status}): {errors}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shell_is_told_paths_and_nothing_else() {
        assert_eq!(quoted(Path::new("/tmp/it's; rm -rf x")), r"'/tmp/it'\''s; rm -rf x'");
    }
}
