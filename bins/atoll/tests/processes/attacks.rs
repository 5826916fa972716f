//! Attacks on real nodes by a machine on their own network that hears everything and speaks in anybody's name: sealed packets and connections. Each is first
//! shown to reach the node, then to gain nothing (`docs/attacks.md` lists them). Takes root, iproute2, util-linux, iputils-ping and nftables.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddrV4, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use atoll_lab::{Host, Lab, Netns};

use crate::attacker::{Attacker, Datagram};
use crate::lab_node::{LabNode, eventually};

/// The port of the UDP program that peers may reach.
pub(crate) const PROGRAM: u16 = 9000;

/// What peers may reach.
const ALLOW: &str = "network.allow=peers icmp,peers tcp/8080,peers udp/9000";

/// A machine that is not there.
const NOBODY: Ipv4Addr = Ipv4Addr::new(10, 57, 71, 199);

/// QUIC's datagrams while nothing is known of the path.
const DATAGRAM: usize = 1200;

/// Messages whose packets are recorded.
const MESSAGES: usize = 50;

/// Two nodes that know each other, and who attacks them. Over IPv4 alone, so that there is one way between them.
pub(crate) struct World {
    // Ended in this order.
    pub(crate) one: LabNode,
    pub(crate) two: LabNode,
    pub(crate) attacker: Attacker,
    pub(crate) lab: Lab,
    pub(crate) folder: tempfile::TempDir,
}

impl World {
    pub(crate) fn new(hosts: usize, settings: &[&str]) -> Self {
        let (lab, folder) = (Lab::new(hosts).unwrap(), tempfile::tempdir().unwrap());
        for host in lab.hosts().iter().chain([lab.outside()]) {
            host.netns().set("ipv6/conf/eth0/disable_ipv6", "1").unwrap();
        }
        let attacker = Attacker::on(&lab);
        let settings = [&[ALLOW], settings].concat();
        let [one, two] = [0, 1].map(|number| LabNode::start(lab.host(number).netns(), folder.path(), &settings));
        one.joins(&two);
        eventually("ping one way", || one.pings(&two));
        eventually("ping the other way", || two.pings(&one));
        Self { one, two, attacker, lab, folder }
    }

    /// What passed from one host's to another's port since then, in order.
    fn passed(&self, since: usize, from: &Host, to: &Host, port: u16) -> Vec<Datagram> {
        let like = |it: &Datagram| *it.from.ip() == from.ipv4() && *it.to.ip() == to.ipv4() && it.to.port() == port;
        self.attacker.heard_since(since, like)
    }

    fn both_are_fast(&self) {
        let fast = |node: &LabNode| node.net()["peers"][0]["fast"].is_string();
        eventually("the fast path", || {
            self.one.pings(&self.two) && self.two.pings(&self.one) && fast(&self.one) && fast(&self.two)
        });
    }

    /// Has the first node's program say something to the second's, and waits until it is heard.
    fn say(&self, program: &Program, what: &str) {
        let socket = self.one.netns.inside(|| UdpSocket::bind((self.one.address(), 0))).unwrap();
        for number in 0..MESSAGES {
            socket.send_to(message(what, number).as_bytes(), (self.two.address(), PROGRAM)).unwrap();
            std::thread::sleep(Duration::from_millis(3));
        }
        eventually("all is heard", || (0..MESSAGES).all(|number| program.times(&message(what, number)) > 0));
    }
}

fn message(what: &str, number: usize) -> String {
    format!("{what} {number}")
}

/// A program next to a node that listens to UDP.
pub(crate) struct Program {
    heard: Arc<Mutex<Vec<String>>>,
    ended: Arc<AtomicBool>,
    listening: Option<JoinHandle<()>>,
}

impl Program {
    pub(crate) fn at(node: &LabNode, port: u16) -> Self {
        let socket = node.netns.inside(|| UdpSocket::bind((Ipv6Addr::UNSPECIFIED, port))).unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
        let (heard, ended) = (Arc::new(Mutex::new(Vec::new())), Arc::new(AtomicBool::new(false)));
        let (hears, ends) = (heard.clone(), ended.clone());
        let listening = std::thread::spawn(move || {
            let mut buffer = [0; 2048];
            while !ends.load(Ordering::Relaxed) {
                if let Ok(count) = socket.recv(&mut buffer) {
                    hears.lock().unwrap().push(String::from_utf8_lossy(&buffer[..count]).into_owned());
                }
            }
        });
        Self { heard, ended, listening: Some(listening) }
    }

    pub(crate) fn times(&self, what: &str) -> usize {
        self.heard.lock().unwrap().iter().filter(|heard| *heard == what).count()
    }

    /// Nothing that it heard begins with any of these.
    pub(crate) fn heard_nothing_of(&self, beginnings: &[&str]) {
        let heard = self.heard.lock().unwrap();
        let is_one = |heard: &&String| beginnings.iter().any(|beginning| heard.starts_with(beginning));
        assert_eq!(heard.iter().find(is_one), None, "something arrived");
    }

    /// Whether everything that was ever heard was heard once.
    fn heard_nothing_twice(&self) {
        let mut heard = self.heard.lock().unwrap().clone();
        let count = heard.len();
        heard.sort();
        heard.dedup();
        assert_eq!(heard.len(), count, "something arrived twice");
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::Relaxed);
        if let Some(listening) = self.listening.take() {
            let _: std::thread::Result<()> = listening.join();
        }
    }
}

/// How often the fast path did something with what came, by the name that `atoll net status` gives it.
fn count(node: &LabNode, what: &str) -> u64 {
    node.net()["fast"][format!("packets_{what}")].as_u64().unwrap()
}

fn fast_port(node: &LabNode) -> u16 {
    u16::try_from(node.net()["fast"]["ports"][0].as_u64().unwrap()).unwrap()
}

/// Where a node sends what it has for its first peer.
fn fast_target(node: &LabNode) -> Option<String> {
    node.net()["peers"][0]["fast"].as_str().map(str::to_owned)
}

fn received(node: &LabNode) -> u64 {
    node.net()["interface"]["packets_received"].as_u64().unwrap()
}

/// UDP datagrams that the kernel handed to programs on a host.
pub(crate) fn datagrams_taken(netns: &Netns) -> u64 {
    let table = netns.inside(|| std::fs::read_to_string("/proc/thread-self/net/snmp")).unwrap();
    let values = table.lines().filter(|line| line.starts_with("Udp: ")).nth(1).unwrap();
    values.split(' ').nth(1).unwrap().parse().unwrap()
}

/// Has a machine know a neighbour that does not exist, so that what it says to it is said aloud.
fn knows_nobody(netns: &Netns) {
    netns.ip(&["neighbour", "replace", &NOBODY.to_string(), "lladdr", "02:00:00:00:00:99", "dev", "eth0"]).unwrap();
}

/// Sealed packets that are sent again, changed, turned back to their sender, or sent by somebody who held them back.
#[test]
fn sealed_packets_in_the_wrong_hands() {
    let world = World::new(2, &["network.lan=off"]);
    let World { one, two, attacker, lab, .. } = &world;
    let program = Program::at(two, PROGRAM);
    world.both_are_fast();
    let (opened, since) = (count(two, "opened"), attacker.now());
    world.say(&program, "recorded");
    let sealed = world.passed(since, lab.host(0), lab.host(1), fast_port(two));
    // The upper half of the first byte is the format's version.
    assert!(sealed.len() >= MESSAGES && sealed.iter().all(|it| it.payload[0] >> 4 == 1), "{}", sealed.len());
    assert!(count(two, "opened") >= opened + MESSAGES as u64, "what was recorded is what was opened");
    let number = sealed.len() as u64;

    let (replayed, since) = (count(two, "replayed"), attacker.now());
    attacker.sends_all(&sealed);
    eventually("all are known for what came before", || count(two, "replayed") == replayed + number);
    program.heard_nothing_twice();
    // Nor does one that asks for an answer get a second one.
    let answers = |it: &Datagram| it.payload.first() == Some(&0x12) && *it.from.ip() == lab.host(1).ipv4();
    let asked = world.passed(since, lab.host(0), lab.host(1), fast_port(two)).len();
    assert!(attacker.heard_since(since, answers).len() <= asked, "a replayed probe was answered");

    // Genuine but for one bit, under numbers that did not come yet.
    let forged = count(two, "forged");
    let changed = |it: &Datagram| {
        let mut changed = it.clone();
        changed.payload[8] ^= 1;
        *changed.payload.last_mut().unwrap() ^= 1;
        changed
    };
    attacker.sends_all(&sealed.iter().map(changed).collect::<Vec<_>>());
    eventually("all are refused as forged", || count(two, "forged") == forged + number);

    // Back to who sealed them, as if the other had.
    let refused = |node: &LabNode| ["replayed", "forged", "stray"].iter().map(|what| count(node, what)).sum::<u64>();
    let before = refused(one);
    let (from, to) = (lab.host(1).ipv4(), lab.host(0).ipv4());
    let turned = sealed.iter().map(|it| Datagram {
        from: SocketAddrV4::new(from, fast_port(two)),
        to: SocketAddrV4::new(to, fast_port(one)),
        payload: it.payload.clone(),
    });
    attacker.sends_all(&turned.collect::<Vec<_>>());
    eventually("nobody opens what it sealed itself", || refused(one) == before + number);

    held_back(&world, &program);
    program.heard_nothing_twice();
    assert!(one.pings(two) && two.pings(one));
}

/// Packets that never arrived, sent on from the attacker's own address: it may carry them, as any router does, but the answers do not go its way.
fn held_back(world: &World, program: &Program) {
    let World { one, two, attacker, lab, .. } = world;
    world.both_are_fast();
    let port = fast_port(two);
    let since = attacker.now();
    two.netns
        .nft(&format!(
            "table inet held {{\n chain in {{ type filter hook input priority 0; udp dport {port} drop\n }}\n}}\n"
        ))
        .unwrap();
    let socket = one.netns.inside(|| UdpSocket::bind((one.address(), 0))).unwrap();
    for number in 0..5 {
        socket.send_to(message("held back", number).as_bytes(), (two.address(), PROGRAM)).unwrap();
        std::thread::sleep(Duration::from_millis(5));
    }
    let withheld = world.passed(since, lab.host(0), lab.host(1), port);
    two.netns.nft("delete table inet held\n").unwrap();
    let own = SocketAddrV4::new(lab.outside().ipv4(), 4000);
    let moved: Vec<Datagram> = withheld.iter().map(|it| Datagram { from: own, ..it.clone() }).collect();
    assert!(moved.len() >= 5, "{} were held back", moved.len());
    let since = attacker.now();
    attacker.sends_all(&moved);
    eventually("they are heard", || program.times(&message("held back", 4)) == 1);
    let began = Instant::now();
    while began.elapsed() < Duration::from_secs(3) {
        let target = fast_target(two);
        assert!(
            target.as_ref().is_none_or(|at| !at.starts_with(&own.ip().to_string())),
            "the path was turned to {target:?}"
        );
        assert!(two.pings(one), "it was led astray");
    }
    let drawn: usize = attacker.heard_since(since, |it| it.to == own).iter().map(Datagram::bytes).sum();
    eprintln!("attacks: {drawn} bytes of probes went to who sent {} genuine packets from elsewhere", moved.len());
    // Few probes, each of a packet's size, and then no more.
    assert!(drawn < 32 << 10, "{drawn} bytes");
}

/// The same inside of connections, where QUIC numbers packets itself.
#[test]
fn quic_datagrams_that_are_sent_again() {
    let world = World::new(2, &["network.lan=off", "network.fast=off"]);
    let World { one, two, attacker, lab, .. } = &world;
    let program = Program::at(two, PROGRAM);
    let since = attacker.now();
    world.say(&program, "recorded");
    let to_two = |it: &Datagram| *it.from.ip() == lab.host(0).ipv4() && *it.to.ip() == lab.host(1).ipv4();
    let recorded = attacker.heard_since(since, to_two);
    // Some are of two messages.
    assert!(recorded.len() >= MESSAGES / 2, "{} datagrams for {MESSAGES} messages", recorded.len());
    let (came, taken) = (received(two), datagrams_taken(&two.netns));
    // As they were, and from somewhere else.
    let own = SocketAddrV4::new(lab.outside().ipv4(), 4000);
    let moved: Vec<Datagram> = recorded.iter().map(|it| Datagram { from: own, ..it.clone() }).collect();
    let since = attacker.now();
    attacker.sends_all(recorded.iter().chain(&moved));
    let expected = taken + 2 * recorded.len() as u64;
    eventually("the node takes all of them in", || datagrams_taken(&two.netns) >= expected);
    assert!(two.pings(one) && one.pings(two));
    // A ping there and one back.
    assert!(received(two) <= came + 2, "{} packets came of what was sent again", received(two) - came);
    program.heard_nothing_twice();
    let path = two.net()["peers"][0]["path"].as_str().unwrap().to_owned();
    assert!(path.contains(&lab.host(0).ipv4().to_string()), "{path}");
    let drawn: usize = attacker.heard_since(since, |it| it.to == own).iter().map(Datagram::bytes).sum();
    let sent: usize = moved.iter().map(Datagram::bytes).sum();
    assert!(drawn <= 3 * sent, "{drawn} bytes came back for {sent}");
}

/// Whoever is named as the sender of something is not hit by answers.
#[test]
fn made_up_senders_draw_no_answers() {
    let world = World::new(2, &["network.lan=off"]);
    let World { two, attacker, lab, .. } = &world;
    let program = Program::at(two, PROGRAM);
    knows_nobody(&two.netns);
    let to_nobody = |it: &Datagram| *it.to.ip() == NOBODY;
    let since = attacker.now();
    let socket = two.netns.inside(|| UdpSocket::bind("0.0.0.0:0")).unwrap();
    socket.send_to(b"seen", (NOBODY, 1)).unwrap();
    eventually("what goes to nobody is heard", || !attacker.heard_since(since, to_nobody).is_empty());

    world.both_are_fast();
    let since = attacker.now();
    world.say(&program, "recorded");
    // Probes among them: there is one every 200 ms while something is sent.
    eventually("a probe is recorded", || {
        world.say(&program, &format!("more at {}", attacker.now()));
        world.passed(since, lab.host(0), lab.host(1), fast_port(two)).iter().any(|it| it.payload[0] == 0x11)
    });
    let sealed = world.passed(since, lab.host(0), lab.host(1), fast_port(two));
    let from = SocketAddrV4::new(NOBODY, 4000);
    let again = sealed.iter().map(|it| Datagram { from, ..it.clone() });
    let junk =
        [0x10, 0x11, 0x12, 0x13, 0x20, 0xff].into_iter().flat_map(|first| [32, 48, 1312].map(|size| (first, size)));
    let junk = junk.map(|(first, size)| {
        let mut payload = vec![7; size];
        payload[0] = first;
        // To a path that there is.
        payload[4..8].copy_from_slice(&sealed[0].payload[4..8]);
        Datagram { from, to: sealed[0].to, payload }
    });
    let all: Vec<Datagram> = again.chain(junk).collect();
    let (since, taken) = (attacker.now(), datagrams_taken(&two.netns));
    attacker.sends_all(&all);
    eventually("the node takes all of them in", || datagrams_taken(&two.netns) >= taken + all.len() as u64);
    assert!(two.pings(&world.one));
    assert_eq!(attacker.heard_since(since, to_nobody), [], "the fast path answers who is not authenticated");

    handshakes_draw_little(&world);
}

/// The first message of a handshake is answered, as it must be, with no more than three times its bytes (RFC 9000, section 8.1).
fn handshakes_draw_little(world: &World) {
    let World { two, attacker, lab, .. } = world;
    let to = two.listens(lab.host(1).ipv4(), "quic");
    let (since, began) = (attacker.now(), Instant::now());
    let bytes = |datagrams: &[Datagram]| datagrams.iter().map(|it| it.payload.len()).sum::<usize>();
    let drawn = |port: u16| bytes(&attacker.heard_since(since, |it| it.to == SocketAddrV4::new(NOBODY, port)));
    let mut sent = Vec::new();
    for (handshake, port) in attacker.handshakes(two.id().parse().unwrap(), 8).into_iter().zip(4001..) {
        let from = SocketAddrV4::new(NOBODY, port);
        let first: Vec<Datagram> = handshake.into_iter().map(|payload| Datagram { from, to, payload }).collect();
        let mut times = 0;
        while drawn(port) == 0 {
            assert!(times < 20, "it is not answered");
            attacker.sends_all(&first);
            times += 1;
            wait(Duration::from_secs(2), || drawn(port) > 0);
        }
        sent.push((port, times * bytes(&first)));
    }
    // What is sent again for want of an answer counts, too.
    std::thread::sleep(Duration::from_secs(4));
    for (port, sent) in &sent {
        // noq begins another datagram as long as anything is left of three times what came, and ends it: it was seen to send 3.35 times as much.
        assert!(drawn(*port) <= 3 * sent + DATAGRAM, "{} bytes for {sent}", drawn(*port));
    }
    let (sent, drawn) = sent.iter().fold((0, 0), |(a, b), (port, sent)| (a + sent, b + drawn(*port)));
    let factor = drawn as f64 / sent as f64;
    eprintln!(
        "attacks: {drawn} bytes went to a made-up sender of {sent} within {:?}: {factor:.2} times as many",
        began.elapsed()
    );
}

/// Waits until something holds, or not any longer.
fn wait(patience: Duration, holds: impl Fn() -> bool) {
    let began = Instant::now();
    while !holds() && began.elapsed() < patience {
        std::thread::sleep(Duration::from_millis(20));
    }
}
