//! wireguard-go: WireGuard in user space. It knows every peer's key and address beforehand, from its configuration.

use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context as _, Result};

use crate::product::{Network, Product, Running, has_interface, said, said_to};
use crate::shape::{Plan, Shape};

const PORT: u16 = 51820;

/// Where its nodes are configured: one folder for all network namespaces, so interfaces need names of their own.
const SOCKETS: &str = "/var/run/wireguard";

pub(super) fn make(name: String, programs: Vec<PathBuf>) -> Box<dyn Product> {
    Box::new(Wireguard { name, programs })
}

struct Wireguard {
    name: String,
    programs: Vec<PathBuf>,
}

struct Nodes<'a> {
    product: &'a Wireguard,
    plan: &'a Plan,
    /// Private and public, of each node.
    keys: Vec<(String, String)>,
    running: Vec<Interface>,
}

/// A process, and the socket that it leaves when it is killed.
struct Interface {
    _process: Running,
    socket: PathBuf,
}

impl Drop for Interface {
    fn drop(&mut self) {
        let _: std::io::Result<()> = std::fs::remove_file(&self.socket);
    }
}

impl Product for Wireguard {
    fn name(&self) -> &str {
        &self.name
    }

    fn cannot(&self, shape: Shape) -> Option<&'static str> {
        (shape == Shape::Line).then_some("it does not route over other nodes")
    }

    fn prepare<'a>(&'a self, plan: &'a Plan) -> Result<Box<dyn Network + 'a>> {
        let keys = plan.nodes.iter().map(|_| {
            let private = said(Command::new("wg").arg("genkey"))?;
            let public = said_to(Command::new("wg").arg("pubkey"), &private)?;
            Ok((private, public))
        });
        let keys = keys.collect::<Result<_>>()?;
        Ok(Box::new(Nodes { product: self, plan, keys, running: Vec::new() }))
    }
}

impl Nodes<'_> {
    fn configuration(&self, node: usize) -> Result<String> {
        let mut text = format!("[Interface]\nPrivateKey = {}\nListenPort = {PORT}\n", self.keys[node].0);
        for (peer, (_, public)) in self.keys.iter().enumerate().filter(|(peer, _)| *peer != node) {
            let own = overlay(peer);
            writeln!(text, "[Peer]\nPublicKey = {public}\nAllowedIPs = {own}/32")?;
            // One address per peer is all it takes.
            if let Some(at) = self.plan.shape.reach(node, peer).first() {
                writeln!(text, "Endpoint = {at}:{PORT}")?;
            }
        }
        Ok(text)
    }
}

impl Network for Nodes<'_> {
    fn start(&mut self, node: usize) -> Result<()> {
        let (netns, folder) = (&self.plan.nodes[node], self.plan.folder(node)?);
        let interface = format!("wg{}-{node}", std::process::id());
        let socket = PathBuf::from(format!("{SOCKETS}/{interface}.sock"));
        let (file, log) = (folder.join("wg.conf"), folder.join("log"));
        std::fs::write(&file, self.configuration(node)?)?;
        let mut command = netns.command(&self.product.programs[0]);
        command.args(["-f", &interface]).env("LOG_LEVEL", "error");
        let mut process = Running::start(command, &log)?;
        process.until("its socket", &log, || socket.exists() && has_interface(netns, &interface))?;
        self.running.push(Interface { _process: process, socket });
        said(netns.command("wg").args(["setconf", &interface]).arg(&file)).context("wg setconf")?;
        netns.ip(&["address", "add", &format!("{}/16", overlay(node)), "dev", &interface])?;
        netns.ip(&["link", "set", &interface, "up"])?;
        Ok(())
    }

    fn address(&self, node: usize) -> IpAddr {
        overlay(node).into()
    }
}

fn overlay(node: usize) -> Ipv4Addr {
    Ipv4Addr::new(10, 70, 0, u8::try_from(node + 1).expect("few nodes"))
}
