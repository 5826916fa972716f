//! The interface in a network namespace, over a link that the test is. Takes root and iproute2.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use atoll_ids::NodeId;
use atoll_lab::Lab;
use atoll_tun::{PacketLink, Payload, PeerEntry, RaiseError, Tun, TunConfig, parse};
use bytes::Bytes;
use futures_util::future::BoxFuture;
use tokio::net::{TcpStream, UdpSocket};
use tokio::sync::{Mutex, mpsc};
use tokio::time::timeout;

/// Set in the namespace.
const INSIDE: &str = "TUN_TEST_INSIDE";

const PATIENCE: Duration = Duration::from_secs(30);

fn node(number: u8) -> NodeId {
    NodeId::from_bytes([number; 32])
}

type Carried = (NodeId, Bytes);

/// A link whose other end is the test.
struct Wire {
    sent: mpsc::Sender<Carried>,
    arriving: Mutex<mpsc::Receiver<Carried>>,
}

impl PacketLink for Wire {
    fn send(&self, to: NodeId, packets: &[Bytes]) {
        for packet in packets {
            // What the test does not look at is lost, as packets are.
            let _: Result<(), _> = self.sent.try_send((to, packet.clone()));
        }
    }

    fn receive<'a>(&'a self, batch: &'a mut Vec<Carried>) -> BoxFuture<'a, bool> {
        Box::pin(async { self.arriving.lock().await.recv_many(batch, 16).await > 0 })
    }
}

/// Runs a test of this program in a namespace of its own; true in there.
fn inside(test: &str) -> bool {
    if std::env::var_os(INSIDE).is_some() {
        return true;
    }
    let lab = Lab::new(1).unwrap();
    let mut command = lab.host(0).command(std::env::current_exe().unwrap());
    let output = command.args(["--exact", test, "--nocapture"]).env(INSIDE, "1").output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    false
}

fn ip(arguments: &[&str]) -> String {
    let output = Command::new("ip").args(arguments).stderr(Stdio::inherit()).output().unwrap();
    assert!(output.status.success(), "ip {arguments:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// The same packet on its way back. The checksum is a sum, so it stays right.
fn back(packet: &[u8]) -> Bytes {
    let (ip, udp) = packet.split_at(40);
    let ports = [&udp[2..4], &udp[..2]].concat();
    Bytes::from([&ip[..8], &ip[24..40], &ip[8..24], &ports, &udp[4..]].concat())
}

/// Waits for the packet that carries `content`: the kernel says other things as well.
async fn carries(sent: &mut mpsc::Receiver<Carried>, content: &[u8]) -> Carried {
    let finding = async {
        loop {
            let (to, packet) = sent.recv().await.unwrap();
            if matches!(parse(&packet).unwrap().payload, Payload::Udp { .. }) && packet.ends_with(content) {
                return (to, packet);
            }
        }
    };
    timeout(PATIENCE, finding).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn packets_pass_between_programs_and_the_link() {
    if !inside("packets_pass_between_programs_and_the_link") {
        return;
    }
    let config = TunConfig { name: "atoll7".to_owned(), address: node(1).planetary_address() };
    let tun = Tun::raise(config.clone(), Vec::new()).await.unwrap();
    assert!(matches!(Tun::raise(config, Vec::new()).await, Err(RaiseError::Taken { .. })));
    let handle = tun.handle();
    handle.set_peers([2, 3].map(|number| PeerEntry { node: node(number), owner: None }));
    let ((sent, mut sending), (arrive, arriving)) = (mpsc::channel(64), mpsc::channel(64));
    let running = tokio::spawn(tun.run(Arc::new(Wire { sent, arriving: Mutex::new(arriving) })));

    // Between planetary addresses. The route chooses the source.
    let socket = UdpSocket::bind("[::]:0").await.unwrap();
    let there = (node(2).planetary_address().ip(), 7);
    socket.send_to(b"hello", there).await.unwrap();
    let (to, packet) = carries(&mut sending, b"hello").await;
    assert_eq!((to, parse(&packet).unwrap().source), (node(2), node(1).planetary_address().ip()));
    // Node 3 claims to be node 2; then node 2 answers.
    arrive.send((node(3), back(&packet))).await.unwrap();
    arrive.send((node(2), back(&packet))).await.unwrap();
    let mut buffer = [0; 64];
    let (count, from) = timeout(PATIENCE, socket.recv_from(&mut buffer)).await.unwrap().unwrap();
    assert_eq!((&buffer[..count], from.ip(), from.port()), (&b"hello"[..], there.0.into(), 7));
    assert!(timeout(Duration::from_millis(50), socket.recv_from(&mut buffer)).await.is_err());

    // Between pods, whose network leads into the interface while it has a prefix.
    ip(&["address", "add", "fd00:1:1:1::1/64", "dev", "lo"]);
    let (here, at_two) = ("fd00:1:1:1::/64".parse().unwrap(), "fd00:1:1:2::/64".parse().unwrap());
    handle.routes().set_local(here).unwrap();
    handle.routes().set(at_two, node(2)).unwrap();
    let network = ["-6", "route", "show", "fd00:1:1::/48"];
    wait_until(|| ip(&network).contains("dev atoll7")).await;
    let pod = UdpSocket::bind("[fd00:1:1:1::1]:0").await.unwrap();
    pod.send_to(b"pod", "[fd00:1:1:2::9]:7").await.unwrap();
    let (to, packet) = carries(&mut sending, b"pod").await;
    assert_eq!(to, node(2));
    arrive.send((node(2), back(&packet))).await.unwrap();
    let (count, _) = timeout(PATIENCE, pod.recv_from(&mut buffer)).await.unwrap().unwrap();
    assert_eq!(&buffer[..count], b"pod");
    handle.routes().remove(here);
    handle.routes().remove(at_two);
    wait_until(|| ip(&network).is_empty()).await;

    // A destination that nobody has is told at once.
    let told = timeout(PATIENCE, TcpStream::connect((node(9).planetary_address().ip(), 7))).await.unwrap();
    assert_eq!(told.unwrap_err().kind(), std::io::ErrorKind::NetworkUnreachable);

    // With the future goes everything.
    running.abort();
    assert!(running.await.unwrap_err().is_cancelled());
    wait_until(|| !ip(&["link", "show"]).contains("atoll7")).await;
    assert!(!ip(&["-6", "route"]).contains("600::/8"));
}

async fn wait_until(holds: impl Fn() -> bool) {
    let waiting = async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(PATIENCE, waiting).await.unwrap();
}
