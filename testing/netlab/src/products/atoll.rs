//! Atoll: nodes that join by ticket, as a person would have them do.

use std::fs::File;
use std::io::{BufRead as _, BufReader};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::{ChildStdin, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use serde_json::Value;

use crate::product::{Network, Product, Running, said};
use crate::shape::{Plan, Shape};
use crate::tools::IPERF_PORT;

/// What all names of it begin with.
pub(crate) const NAME: &str = "Atoll";

/// How long a join is tried.
const JOINED_WITHIN: Duration = Duration::from_secs(60);

/// See the module.
pub(super) struct Atoll {
    name: String,
    program: PathBuf,
    settings: Vec<String>,
}

impl Atoll {
    /// `settings` win over those that the lab needs.
    pub(super) fn new(program: &Path, settings: Vec<String>) -> Result<Self> {
        let program = program.canonicalize().with_context(|| format!("there is no {}", program.display()))?;
        let version = said(std::process::Command::new(&program).arg("--version"))?;
        let name = format!("{NAME} {}", version.trim_start_matches("atoll ").trim());
        Ok(Self { name, program, settings })
    }
}

struct Node {
    /// Its end is the node's.
    stdin: Option<ChildStdin>,
    process: Running,
    address: IpAddr,
}

struct Nodes<'a> {
    product: &'a Atoll,
    plan: &'a Plan,
    nodes: Vec<Node>,
    /// Of the node that is started next.
    tickets: Vec<String>,
}

impl Product for Atoll {
    fn name(&self) -> &str {
        &self.name
    }

    fn cannot(&self, _shape: Shape) -> Option<&'static str> {
        // Whatever it cannot do shows.
        None
    }

    fn prepare<'a>(&'a self, plan: &'a Plan) -> Result<Box<dyn Network + 'a>> {
        Ok(Box::new(Nodes { product: self, plan, nodes: Vec::new(), tickets: Vec::new() }))
    }
}

impl Nodes<'_> {
    fn atoll(&self, node: usize, arguments: &[&str]) -> Result<String> {
        let mut command = self.plan.nodes[node].command(&self.product.program);
        command.env_remove("ATOLL_DATA_DIR").arg("--data-dir").arg(self.plan.folder(node)?).args(arguments);
        said(&mut command)
    }

    fn launch(&self, node: usize) -> Result<Node> {
        let folder = self.plan.folder(node)?;
        let log = folder.join("log");
        let mut command = self.plan.nodes[node].command(&self.product.program);
        command.env_remove("ATOLL_DATA_DIR").arg("--data-dir").arg(&folder).args(["--output", "json", "up"]);
        command.arg("--until-stdin-closes");
        let needed = ["node.roles=network".to_owned(), format!("network.allow=peers icmp,peers tcp/{IPERF_PORT}")];
        for setting in needed.iter().chain(&self.product.settings) {
            command.args(["--set", setting]);
        }
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(File::create(&log)?);
        let mut child = command.spawn().context("cannot start atoll")?;
        let (stdin, stdout) = child.stdin.take().zip(child.stdout.take()).context("no pipes to it")?;
        let process = Running::of(child);
        let mut line = String::new();
        BufReader::new(stdout).read_line(&mut line)?;
        let log = || std::fs::read_to_string(&log).unwrap_or_default();
        let status: Value = serde_json::from_str(&line).with_context(|| format!("it did not come up: {}", log()))?;
        let address = status["planetary_address"].as_str().context("it has no planetary address")?;
        Ok(Node { stdin: Some(stdin), process, address: address.parse()? })
    }
}

impl Nodes<'_> {
    /// Joins; where a hundred nodes share a machine the other may not answer at once, and a person tries again.
    fn join(&self, node: usize, ticket: &str) -> Result<()> {
        let began = Instant::now();
        loop {
            match self.atoll(node, &["join", ticket]) {
                Err(_) if began.elapsed() < JOINED_WITHIN => {}
                joined => return joined.map(drop).context("it could not join"),
            }
        }
    }
}

impl Network for Nodes<'_> {
    fn before(&mut self, node: usize) -> Result<()> {
        let contacts = self.plan.shape.contacts(node);
        self.tickets = contacts.iter().map(|contact| self.atoll(*contact, &["invite"])).collect::<Result<_>>()?;
        Ok(())
    }

    fn start(&mut self, node: usize) -> Result<()> {
        self.nodes.push(self.launch(node)?);
        for ticket in std::mem::take(&mut self.tickets) {
            self.join(node, &ticket)?;
        }
        Ok(())
    }

    fn restart(&mut self, node: usize, orderly: bool) -> Result<()> {
        let old = &mut self.nodes[node];
        if orderly {
            drop(old.stdin.take());
        } else {
            old.process.kill()?;
        }
        old.process.until_ended()?;
        self.nodes[node] = self.launch(node)?;
        Ok(())
    }

    fn address(&self, node: usize) -> IpAddr {
        self.nodes[node].address
    }
}
