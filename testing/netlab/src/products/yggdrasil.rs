//! Yggdrasil: an overlay that routes over its nodes, by a spanning tree. Peerings over TCP, as its documentation shows them.

use std::net::IpAddr;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context as _, Result};
use serde_json::{Value, json};

use crate::product::{Network, Product, Running, said};
use crate::shape::{Plan, Shape};

const PORT: u16 = 9001;

pub(super) fn make(name: String, programs: Vec<PathBuf>) -> Box<dyn Product> {
    Box::new(Yggdrasil { name, programs })
}

struct Yggdrasil {
    name: String,
    programs: Vec<PathBuf>,
}

struct Nodes<'a> {
    product: &'a Yggdrasil,
    plan: &'a Plan,
    addresses: Vec<IpAddr>,
    running: Vec<Running>,
}

impl Product for Yggdrasil {
    fn name(&self) -> &str {
        &self.name
    }

    fn cannot(&self, _shape: Shape) -> Option<&'static str> {
        None
    }

    fn prepare<'a>(&'a self, plan: &'a Plan) -> Result<Box<dyn Network + 'a>> {
        let program = &self.programs[0];
        let mut addresses = Vec::new();
        for node in 0..plan.nodes.len() {
            let generated = said(Command::new(program).args(["-genconf", "-json"]))?;
            let mut configuration: Value = serde_json::from_str(&generated).context("its own configuration")?;
            for (key, value) in settings(plan, node) {
                configuration[key] = value;
            }
            let file = plan.folder(node)?.join("yggdrasil.conf");
            std::fs::write(&file, serde_json::to_vec(&configuration)?)?;
            let address = said(Command::new(program).arg("-useconffile").arg(&file).arg("-address"))?;
            addresses.push(address.parse().with_context(|| format!("{address:?} is no address"))?);
        }
        Ok(Box::new(Nodes { product: self, plan, addresses, running: Vec::new() }))
    }
}

fn settings(plan: &Plan, node: usize) -> [(&'static str, Value); 5] {
    let contacts = plan.shape.contacts(node).into_iter();
    let peers =
        contacts.filter_map(|contact| Some(format!("tcp://{}:{PORT}", plan.shape.reach(node, contact).first()?)));
    [
        ("Peers", peers.collect::<Vec<_>>().into()),
        ("Listen", json!([format!("tcp://0.0.0.0:{PORT}")])),
        ("AdminListen", "none".into()),
        ("MulticastInterfaces", json!([])),
        ("IfName", "ygg0".into()),
    ]
}

impl Network for Nodes<'_> {
    fn start(&mut self, node: usize) -> Result<()> {
        let folder = self.plan.folder(node)?;
        let (file, log) = (folder.join("yggdrasil.conf"), folder.join("log"));
        let mut command = self.plan.nodes[node].command(&self.product.programs[0]);
        command.arg("-useconffile").arg(&file);
        let mut process = Running::start(command, &log)?;
        let netns = &self.plan.nodes[node];
        let address = self.addresses[node].to_string();
        process.until("its interface", &log, || has_address(netns, &address))?;
        self.running.push(process);
        Ok(())
    }

    fn address(&self, node: usize) -> IpAddr {
        self.addresses[node]
    }
}

/// Whether the interface has its address.
fn has_address(netns: &atoll_lab::Netns, address: &str) -> bool {
    let listed = netns.command("ip").args(["-6", "address", "show", "to", address]).output();
    listed.is_ok_and(|output| !output.stdout.is_empty())
}
