//! Much of what costs a stranger little: handshakes that are begun and not gone on with, lanes on which nothing is said, announcements of nodes that do not exist. Takes root, iproute2,
//! util-linux, iputils-ping and nftables.

use std::net::{Ipv4Addr, SocketAddrV4, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use atoll_ids::NodeId;
use atoll_keys::{NodeKey, Signed};

use crate::attacker::Datagram;
use crate::attacks::{World, datagrams_taken};
use crate::forgeries::{ANNOUNCED, announcement, record_of};
use crate::lab_node::{LabNode, eventually};

/// Handshakes that are begun, again and again, each time from elsewhere.
const HANDSHAKES: usize = 500;

/// Lanes that are held open at once.
const LANES: usize = 400;

/// Nodes that are announced and do not exist.
const STRANGERS: u32 = 2000;

/// Strangers that a node remembers (`link`'s `lan`).
const STRANGERS_MAX: usize = 64;

/// What a flood may cost a node in memory while it lasts. What is kept for one handshake is some tens of KiB, for as many as there are places.
const BYTES_MAX: u64 = 48 << 20;

/// What a node takes of memory.
fn memory(node: &LabNode) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", node.pid())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().strip_suffix(" kB").unwrap().parse::<u64>().unwrap() << 10
}

/// Somebody whom there is not, another one for each number.
fn made_up(number: usize) -> SocketAddrV4 {
    let low = u32::try_from(number % (1 << 17)).unwrap();
    SocketAddrV4::new(Ipv4Addr::from_bits(Ipv4Addr::new(198, 18, 0, 0).to_bits() + low), 4000)
}

/// First messages of handshakes under made-up names, at some hundreds per second.
#[test]
fn handshakes_that_nobody_goes_on_with() {
    let mut world = World::new(3, &["network.lan=off"]);
    let node: NodeId = world.two.id().parse().unwrap();
    let begun = world.attacker.handshakes(node, HANDSHAKES);
    let to = world.two.listens(world.lab.host(1).ipv4(), "quic");
    let (before, taken) = (memory(&world.two), datagrams_taken(&world.two.netns));
    let (ended, sent) = (AtomicBool::new(false), AtomicUsize::new(0));
    let World { one, two, attacker, lab, folder } = &mut world;
    let (attacker, folder, ends) = (&*attacker, folder.path(), &ended);
    let peak = std::thread::scope(|scope| {
        scope.spawn(|| {
            for number in 0.. {
                if ends.load(Ordering::Relaxed) {
                    return;
                }
                let datagram = |payload: &Vec<u8>| Datagram { from: made_up(number), to, payload: payload.clone() };
                attacker.sends_all(&begun[number % HANDSHAKES].iter().map(datagram).collect::<Vec<_>>());
                sent.fetch_add(1, Ordering::Relaxed);
                std::thread::sleep(Duration::from_millis(2));
            }
        });
        // More than there are places for.
        eventually("a thousand were begun", || sent.load(Ordering::Relaxed) > 1000);
        // A peer that has nothing open with it, and one that it does not know yet.
        let began = Instant::now();
        one.restart();
        eventually("a known peer gets through", || one.pings(two));
        eprintln!("attacks: a peer that restarted got through {:?} after its start", began.elapsed());
        let began = Instant::now();
        let third = LabNode::start(lab.host(2).netns(), folder, &["network.lan=off"]);
        third.joins(two);
        eventually("one that joins gets through", || third.pings(two));
        eprintln!("attacks: one that joined got through {:?} after its start", began.elapsed());
        let peak = memory(two);
        ended.store(true, Ordering::Relaxed);
        peak
    });
    let (sent, taken) = (sent.into_inner(), datagrams_taken(&world.two.netns) - taken);
    eprintln!("attacks: {sent} handshakes begun, {taken} datagrams taken in, {before} bytes before, {peak} during it");
    assert!(taken > 2000, "the flood did not reach the node");
    assert!(peak < before + BYTES_MAX, "from {before} to {peak} bytes");
}

/// TCP connections on which nothing is said, as many as go, from one address.
#[test]
fn lanes_on_which_nothing_is_said() {
    let mut world = World::new(2, &["network.lan=off"]);
    let lane = world.two.listens(world.lab.host(1).ipv4(), "lane").into();
    let before = memory(&world.two);
    let (ended, open) = (AtomicBool::new(false), AtomicUsize::new(0));
    let World { one, two, lab, .. } = &mut world;
    let outside = lab.outside();
    let flood = || {
        let mut held = Vec::new();
        while !ended.load(Ordering::Relaxed) {
            // The old ones go when the new ones are there.
            held = (0..LANES).filter_map(|_| TcpStream::connect_timeout(&lane, Duration::from_secs(2)).ok()).collect();
            open.store(Vec::len(&held), Ordering::Relaxed);
            std::thread::sleep(Duration::from_millis(500));
        }
        drop(held);
        Ok(())
    };
    let (took, peak) = std::thread::scope(|scope| {
        scope.spawn(|| outside.inside(flood));
        eventually("most could be opened", || open.load(Ordering::Relaxed) > LANES / 2);
        let began = Instant::now();
        one.restart();
        eventually("a known peer gets through", || one.pings(two) && one.reaches(two));
        let through = (began.elapsed(), memory(two));
        ended.store(true, Ordering::Relaxed);
        through
    });
    eprintln!(
        "attacks: {LANES} idle lanes, {before} bytes before, {peak} during it, a peer got through after {took:?}"
    );
    assert!(peak < before + BYTES_MAX, "from {before} to {peak} bytes");
}

/// Announcements of nodes that there are not, each under a key of its own.
#[test]
fn a_crowd_on_the_local_network() {
    let world = World::new(2, &[]);
    let World { one, two, attacker, lab, .. } = &world;
    let to = SocketAddrV4::new(lab.host(1).ipv4(), ANNOUNCED);
    let crowd = (0..STRANGERS).map(|number| {
        let mut secret = [7; 32];
        secret[..4].copy_from_slice(&number.to_be_bytes());
        let (key, from) = (NodeKey::from_secret_bytes(&secret), made_up(number as usize));
        Datagram { from, to, payload: announcement(Signed::sign(&record_of(key.id(), from, 1), &key)) }
    });
    let crowd: Vec<Datagram> = crowd.collect();
    let (before, since, taken) = (memory(two), attacker.now(), datagrams_taken(&two.netns));
    let began = Instant::now();
    // At some 400 per second: twice as many as are looked at.
    for some in crowd.chunks(40) {
        attacker.sends_all(some);
        std::thread::sleep(Duration::from_millis(100));
    }
    eventually("all were taken in", || datagrams_taken(&two.netns) >= taken + u64::from(STRANGERS));
    let (took, peak) = (began.elapsed(), memory(two));
    let neighbours = two.net()["neighbours"].as_array().unwrap().len();
    let ip = lab.host(1).ipv4();
    let said = attacker.heard_since(since, |it| *it.from.ip() == ip && it.to.port() == ANNOUNCED).len();
    eprintln!(
        "attacks: {STRANGERS} strangers in {took:?}: {neighbours} kept, {said} announcements drawn, {before} bytes before, {peak} after"
    );
    // A peer that was heard before it became one has a place, too, and is not shown.
    assert!((STRANGERS_MAX - 2..=STRANGERS_MAX).contains(&neighbours), "{neighbours} are kept");
    assert!(said as u64 <= took.as_secs() + 3, "more than one answer a second");
    assert!(peak < before + BYTES_MAX, "from {before} to {peak} bytes");
    assert!(one.pings(two) && two.pings(one));
}
