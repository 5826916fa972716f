//! Nebula: certificates of one authority, and node 0 as the lighthouse that tells the others where they are.

use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::process::Command;

use anyhow::Result;
use serde_json::{Map, Value, json};

use crate::product::{Network, Product, Running, has_interface, said};
use crate::shape::{Plan, Shape};

const PORT: u16 = 4242;

const INTERFACE: &str = "nebula0";

pub(super) fn make(name: String, programs: Vec<PathBuf>) -> Box<dyn Product> {
    Box::new(Nebula { name, programs })
}

struct Nebula {
    name: String,
    /// `nebula`, `nebula-cert`.
    programs: Vec<PathBuf>,
}

struct Nodes<'a> {
    product: &'a Nebula,
    plan: &'a Plan,
    running: Vec<Running>,
}

impl Product for Nebula {
    fn name(&self) -> &str {
        &self.name
    }

    fn cannot(&self, shape: Shape) -> Option<&'static str> {
        // Since 1.6 there are relays, but one relay never hands on to another.
        (shape == Shape::Line).then_some("it does not route over several nodes")
    }

    fn prepare<'a>(&'a self, plan: &'a Plan) -> Result<Box<dyn Network + 'a>> {
        let cert = || {
            let mut command = Command::new(&self.programs[1]);
            command.current_dir(plan.shared());
            command
        };
        said(cert().args(["ca", "-name", "lab"]))?;
        for node in 0..plan.nodes.len() {
            let folder = plan.folder(node)?;
            let name = format!("n{node}");
            let files = [folder.join("node.crt"), folder.join("node.key")];
            let mut sign = cert();
            sign.args(["sign", "-name", &name, "-ip", &format!("{}/16", overlay(node))]);
            said(sign.arg("-out-crt").arg(&files[0]).arg("-out-key").arg(&files[1]))?;
            std::fs::write(folder.join("config.yml"), configuration(plan, node)?)?;
        }
        Ok(Box::new(Nodes { product: self, plan, running: Vec::new() }))
    }
}

/// YAML, of which JSON is a part.
fn configuration(plan: &Plan, node: usize) -> Result<Vec<u8>> {
    let folder = plan.folder(node)?;
    let hosts: Vec<String> =
        plan.shape.contacts(node).into_iter().map(|contact| overlay(contact).to_string()).collect();
    let places = plan.shape.contacts(node).into_iter().map(|contact| {
        let at = plan.shape.reach(node, contact).iter().map(|at| format!("{at}:{PORT}")).collect::<Vec<_>>();
        (overlay(contact).to_string(), at.into())
    });
    let anything = json!([{ "port": "any", "proto": "any", "host": "any" }]);
    let configuration = json!({
        "pki": { "ca": plan.shared().join("ca.crt"), "cert": folder.join("node.crt"), "key": folder.join("node.key") },
        "static_host_map": places.collect::<Map<String, Value>>(),
        "lighthouse": { "am_lighthouse": node == 0, "interval": 60,
            "hosts": if node == 0 { Vec::new() } else { hosts.into_iter().take(1).collect() } },
        "listen": { "host": "0.0.0.0", "port": PORT },
        "punchy": { "punch": true },
        "tun": { "dev": INTERFACE },
        "firewall": { "outbound": anything, "inbound": anything },
        "logging": { "level": "warning", "format": "text" },
    });
    Ok(serde_json::to_vec(&configuration)?)
}

impl Network for Nodes<'_> {
    fn start(&mut self, node: usize) -> Result<()> {
        let folder = self.plan.folder(node)?;
        let log = folder.join("log");
        let netns = &self.plan.nodes[node];
        let mut command = netns.command(&self.product.programs[0]);
        command.arg("-config").arg(folder.join("config.yml"));
        let mut process = Running::start(command, &log)?;
        process.until("its interface", &log, || has_interface(netns, INTERFACE))?;
        self.running.push(process);
        Ok(())
    }

    fn address(&self, node: usize) -> IpAddr {
        overlay(node).into()
    }
}

fn overlay(node: usize) -> Ipv4Addr {
    Ipv4Addr::new(10, 82, 0, u8::try_from(node + 1).expect("few nodes"))
}
