//! tinc 1.0: a mesh whose nodes pass packets on for each other. Every node has the public keys of all.

use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr};
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context as _, Result};

use crate::product::{Network, Product, Running, has_interface, said};
use crate::shape::{Plan, Shape};

/// Bits of the keys: its own default.
const KEY: &str = "-K2048";

pub(super) fn make(name: String, programs: Vec<PathBuf>) -> Box<dyn Product> {
    Box::new(Tinc { name, programs })
}

struct Tinc {
    name: String,
    programs: Vec<PathBuf>,
}

struct Nodes<'a> {
    product: &'a Tinc,
    plan: &'a Plan,
    running: Vec<Running>,
}

impl Product for Tinc {
    fn name(&self) -> &str {
        &self.name
    }

    fn cannot(&self, _shape: Shape) -> Option<&'static str> {
        None
    }

    fn prepare<'a>(&'a self, plan: &'a Plan) -> Result<Box<dyn Network + 'a>> {
        let mut public = Vec::new();
        for node in 0..plan.nodes.len() {
            public.push(self.make_key(plan, node)?);
        }
        for node in 0..plan.nodes.len() {
            let hosts = plan.folder(node)?.join("hosts");
            for (other, key) in public.iter().enumerate() {
                let mut text = format!("Subnet = {}/32\n", overlay(other));
                let places = if other == node { Vec::new() } else { plan.shape.reach(node, other) };
                for at in places {
                    writeln!(text, "Address = {at}")?;
                }
                text += key;
                std::fs::write(hosts.join(format!("n{other}")), text)?;
            }
        }
        Ok(Box::new(Nodes { product: self, plan, running: Vec::new() }))
    }
}

impl Tinc {
    /// Writes a node's configuration; gives its public key.
    fn make_key(&self, plan: &Plan, node: usize) -> Result<String> {
        let folder = plan.folder(node)?;
        std::fs::create_dir_all(folder.join("hosts"))?;
        let mut text =
            format!("Name = n{node}\nInterface = tinc0\nDeviceType = tun\nMode = router\nAddressFamily = ipv4\n");
        for contact in plan.shape.contacts(node) {
            writeln!(text, "ConnectTo = n{contact}")?;
        }
        std::fs::write(folder.join("tinc.conf"), text)?;
        let up = folder.join("tinc-up");
        let own = overlay(node);
        std::fs::write(&up, format!("#!/bin/sh\nip address add {own}/16 dev $INTERFACE\nip link set $INTERFACE up\n"))?;
        std::fs::set_permissions(&up, std::fs::Permissions::from_mode(0o755))?;
        // Without a terminal it takes its own names for the files.
        said(Command::new(&self.programs[0]).arg("-c").arg(&folder).arg(KEY))?;
        let file = folder.join("hosts").join(format!("n{node}"));
        std::fs::read_to_string(&file).with_context(|| format!("{} has no key", file.display()))
    }
}

impl Network for Nodes<'_> {
    fn start(&mut self, node: usize) -> Result<()> {
        let folder = self.plan.folder(node)?;
        let log = folder.join("log");
        let netns = &self.plan.nodes[node];
        let mut command = netns.command(&self.product.programs[0]);
        command.arg("-c").arg(&folder).arg("-D").arg(format!("--pidfile={}", folder.join("pid").display()));
        let mut process = Running::start(command, &log)?;
        process.until("its interface", &log, || has_interface(netns, "tinc0"))?;
        self.running.push(process);
        Ok(())
    }

    fn address(&self, node: usize) -> IpAddr {
        overlay(node).into()
    }
}

fn overlay(node: usize) -> Ipv4Addr {
    Ipv4Addr::new(10, 83, 0, u8::try_from(node + 1).expect("few nodes"))
}
