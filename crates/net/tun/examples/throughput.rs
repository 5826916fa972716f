//! How fast TCP goes between two machines over planetary addresses: two network namespaces, two links, two interfaces, iperf3.
//!
//! `cargo run --release -p atoll-tun --example throughput [seconds]` as root, with iproute2 and iperf3. Prints Gbit/s of the bare cable, with packets inside QUIC, and on
//! the fast path, in both orders of magnitude that matter: one conversation and four.
#![allow(clippy::print_stdout, clippy::unwrap_used, reason = "a measurement that is read by a person")]

use std::net::IpAddr;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use atoll_fast::{Burst, Cut, Inbox};
use atoll_ids::NodeId;
use atoll_keys::NodeKey;
use atoll_lab::{Host, Lab};
use atoll_link::{FixedPeer, Link, LinkConfig, MemoryPeers, Packets};
use atoll_tun::{PacketLink, PeerEntry, Tun, TunConfig};
use bytes::Bytes;
use futures_util::future::BoxFuture;

/// Where both listen for QUIC: each has a network of its own.
const PORT: u16 = 5771;

struct Carrier(Packets);

impl PacketLink for Carrier {
    fn send(&self, to: NodeId, packets: &[Bytes]) {
        let _: Result<(), _> = self.0.send_many(to, packets);
    }

    fn receive<'a>(&'a self, batch: &'a mut Vec<(NodeId, Bytes)>) -> BoxFuture<'a, bool> {
        Box::pin(self.0.receive(batch))
    }

    fn send_burst<'a>(&'a self, to: NodeId, burst: Burst<'a>) -> Option<BoxFuture<'a, ()>> {
        self.0.send_burst(to, burst)
    }

    fn send_cut<'a>(&'a self, to: NodeId, cut: Cut<'a>) -> Option<BoxFuture<'a, ()>> {
        self.0.send_cut(to, cut)
    }

    fn receive_into<'a>(&'a self, inbox: &'a mut Inbox) -> BoxFuture<'a, bool> {
        Box::pin(self.0.receive_into(inbox))
    }
}

fn key(number: u8) -> NodeKey {
    NodeKey::from_secret_bytes(&[number + 1; 32])
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match &arguments[..] {
        [node, number, peer, fast] if node == "node" => {
            run_node(number.parse().unwrap(), peer.parse().unwrap(), fast == "fast")
        }
        seconds => measure(seconds.first().map_or(5, |seconds| seconds.parse().unwrap())),
    }
}

/// One of the two, in its namespace.
fn run_node(number: u8, peer: IpAddr, fast: bool) {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let (own, other) = (key(number), key(1 - number).id());
        let config = TunConfig { name: "atoll0".to_owned(), address: own.id().planetary_address() };
        let tun = Tun::raise(config, vec!["peers".parse().unwrap()]).await.unwrap();
        tun.handle().set_peers([PeerEntry { node: other, owner: None }]);
        let config = LinkConfig {
            bind: vec![(std::net::Ipv4Addr::UNSPECIFIED, PORT).into()],
            peers: vec![FixedPeer { node: other, address: (peer, PORT).into() }],
            packets: true,
            fast_port: fast.then_some(0),
            ..LinkConfig::default()
        };
        let link = Link::builder(Arc::new(own), config, Arc::new(MemoryPeers::default())).bind().await.unwrap();
        let packets = link.handle().packets();
        tun.handle().set_underlay_ports([vec![PORT], packets.fast_ports()].concat());
        let shown = packets.clone();
        tokio::spawn(async move {
            loop {
                tokio::time::sleep(Duration::from_secs(1)).await;
                if std::env::var_os("SHOW").is_some() {
                    eprintln!("{number}: {:?} {:?} {:?}", shown.fast_path(&other), shown.counts(), shown.fast_counts());
                }
            }
        });
        tun.run(Arc::new(Carrier(packets))).await.unwrap();
    });
}

struct Ended(Child);

impl Drop for Ended {
    fn drop(&mut self) {
        let _: std::io::Result<()> = self.0.kill();
        let _: std::io::Result<_> = self.0.wait();
    }
}

fn start(mut command: Command) -> Ended {
    Ended(command.stdin(Stdio::null()).stdout(Stdio::null()).spawn().unwrap())
}

fn measure(seconds: u32) {
    let lab = Lab::new(2).unwrap();
    let (from, to) = (lab.host(0), lab.host(1));
    let mut bare = Vec::new();
    for streams in [1, 4] {
        bare.push(iperf(from, to, &to.ipv4().to_string(), streams, seconds));
    }
    println!("{:<28} {:>6.2} and {:>6.2} Gbit/s (1 and 4 conversations)", "bare cable", bare[0], bare[1]);
    for (name, how) in [("packets inside QUIC", "inside"), ("fast path", "fast")] {
        let node = |number: u8, host: &Host, peer: &Host| {
            let mut command = host.command(std::env::current_exe().unwrap());
            command.args(["node", &number.to_string(), &peer.ipv4().to_string(), how]);
            start(command)
        };
        let _nodes = [node(0, from, to), node(1, to, from)];
        let address = key(1).id().planetary_address().to_string();
        until_pings(from, &address);
        let speeds = [1, 4].map(|streams| iperf(from, to, &address, streams, seconds));
        let parts = [speeds[0] / bare[0], speeds[1] / bare[1]].map(|part| part * 100.0);
        let idle = ping(from, &address);
        println!(
            "{name:<28} {:>6.2} and {:>6.2} Gbit/s, {:.0} % and {:.0} % of the cable; ping {idle:.3} ms",
            speeds[0], speeds[1], parts[0], parts[1],
        );
    }
    println!("{:<28} ping {:.3} ms", "bare cable", ping(from, &to.ipv4().to_string()));
}

fn until_pings(from: &Host, address: &str) {
    let began = Instant::now();
    let pings = || {
        let mut command = from.command("ping");
        command.args(["-c", "1", "-W", "1", address]).stdout(Stdio::null()).stderr(Stdio::null());
        command.status().unwrap().success()
    };
    while !pings() {
        assert!(began.elapsed() < Duration::from_secs(30), "no answer to a ping");
        std::thread::sleep(Duration::from_millis(50));
    }
    // And the path beside the connection.
    std::thread::sleep(Duration::from_secs(1));
}

/// The mean round trip, in milliseconds.
fn ping(from: &Host, address: &str) -> f64 {
    let output = from.command("ping").args(["-c", "50", "-i", "0.02", "-q", address]).output().unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    let times = said.lines().last().and_then(|line| line.split(" = ").nth(1)).unwrap_or_default();
    times.split('/').nth(1).and_then(|mean| mean.parse().ok()).unwrap_or(f64::NAN)
}

/// Gbit/s as the receiver counted them.
fn iperf(from: &Host, to: &Host, address: &str, streams: u32, seconds: u32) -> f64 {
    let mut server = to.command("iperf3");
    server.args(["-s", "-1"]);
    let _server = start(server);
    std::thread::sleep(Duration::from_millis(300));
    let mut client = from.command("iperf3");
    client.args(["-c", address, "-P", &streams.to_string(), "-t", &seconds.to_string(), "-O", "1", "-J"]);
    let output = client.output().unwrap();
    let said: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
    said["end"]["sum_received"]["bits_per_second"].as_f64().unwrap_or(f64::NAN) / 1e9
}
