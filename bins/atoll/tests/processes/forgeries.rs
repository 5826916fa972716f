//! What somebody says in another's name, and what a peer or a stranger sends where nothing was granted. Takes root, iproute2, util-linux, iputils-ping and nftables.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddrV4};
use std::sync::Arc;
use std::time::{Duration, Instant};

use atoll_ids::NodeId;
use atoll_keys::{NodeKey, Signed};
use atoll_link::{AddressRecord, Link, LinkConfig, MemoryPeers, OpenError, Traffic, decode_announcement};
use atoll_wire::Versioned;
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tokio::time::{sleep, timeout};

use crate::attacker::Datagram;
use crate::attacks::{PROGRAM, Program, World};
use crate::lab_node::{LabNode, eventually};

/// Where announcements are heard.
pub(crate) const ANNOUNCED: u16 = 5770;

/// The group they go to.
const GROUP: Ipv4Addr = Ipv4Addr::new(239, 255, 57, 70);

/// A port at which a program listens that nobody may reach.
const PRIVATE: u16 = 9001;

/// Long for a busy machine; nothing waits that long when it works.
const PATIENCE: Duration = Duration::from_secs(60);

/// An announcement, whose type has no constructor for strangers.
#[derive(Clone, Serialize, Deserialize)]
struct Announcement(Signed<AddressRecord>);

impl Versioned for Announcement {
    const VERSION: u16 = 1;
    const NAME: &'static str = "announcement";
}

/// What a machine says that has this record.
pub(crate) fn announcement(record: Signed<AddressRecord>) -> Vec<u8> {
    [&b"atoll-lan"[..], &atoll_wire::encode(&Announcement(record))].concat()
}

/// A record that says that a node is there.
pub(crate) fn record_of(node: NodeId, at: SocketAddrV4, sequence: u64) -> AddressRecord {
    AddressRecord { node, sequence, quic: vec![at.into()], lane: Vec::new(), relay: None }
}

/// Where a node believes its first peer to be.
fn believed(node: &LabNode) -> BTreeSet<String> {
    let status = node.json(&["status"]);
    let addresses = status["peers"][0]["addresses"].as_array().unwrap();
    addresses.iter().map(|address| address.as_str().unwrap().to_owned()).collect()
}

/// Says something to a node as if on the local network, and then something genuine of a stranger; when that is known, all was looked at.
fn says_to(world: &World, announcements: &[Vec<u8>]) {
    let stranger = NodeKey::generate();
    let own = SocketAddrV4::new(world.lab.outside().ipv4(), 4000);
    let last = announcement(Signed::sign(&record_of(stranger.id(), own, 1), &stranger));
    let say = |payload: &Vec<u8>, from: Ipv4Addr| {
        let to = SocketAddrV4::new(world.lab.host(1).ipv4(), ANNOUNCED);
        world.attacker.sends(&Datagram { from: SocketAddrV4::new(from, ANNOUNCED), to, payload: payload.clone() });
    };
    announcements.iter().for_each(|payload| say(payload, world.lab.host(0).ipv4()));
    say(&last, own.ip().to_owned());
    let id = stranger.id().to_string();
    eventually("what is genuine is heard", || {
        let net = world.two.net();
        net["neighbours"].as_array().unwrap().iter().any(|seen| seen["node"] == id.as_str())
    });
}

/// Records of a peer that somebody else signed, that were changed, or that are older than what is known.
#[test]
fn forged_and_old_announcements() {
    let world = World::new(2, &[]);
    let World { one, two, attacker, lab, .. } = &world;
    let (ip, one_id): (_, NodeId) = (lab.host(0).ipv4(), one.id().parse().unwrap());
    let of_one = |it: &Datagram| *it.from.ip() == ip && *it.to.ip() == GROUP && it.to.port() == ANNOUNCED;
    eventually("it announces itself", || !attacker.heard_since(0, of_one).is_empty());
    let genuine = attacker.heard_since(0, of_one).pop().unwrap().payload;
    let (signed, record) = decode_announcement(&genuine).unwrap();
    assert_eq!(record.node, one_id);
    let before = believed(two);
    assert!(before.iter().any(|address| address.contains(&format!(" {ip}:"))), "{before:?}");

    // Newer than anything, and leading to the attacker: under its own key, under the genuine signature, and with any byte changed.
    let (mallory, own) = (NodeKey::generate(), SocketAddrV4::new(lab.outside().ipv4(), 4000));
    let lie = record_of(one_id, own, u64::MAX);
    let mut forged = vec![announcement(Signed::sign(&lie, &mallory))];
    for at in 9..genuine.len() {
        let mut changed = genuine.clone();
        changed[at] ^= 1;
        assert!(decode_announcement(&changed).is_err(), "byte {at} counts for nothing");
        if at % 7 == 0 {
            forged.push(changed);
        }
    }
    forged.push(genuine[..genuine.len() - 1].to_vec());
    says_to(&world, &forged);
    assert_eq!(believed(two), before, "a forged record was believed");

    // It is elsewhere, too, and says so; what it said before does not take that back.
    one.netns.ip(&["address", "add", "10.57.71.150/24", "dev", "eth0"]).unwrap();
    let has_moved = |believed: &BTreeSet<String>| believed.iter().any(|address| address.contains(" 10.57.71.150:"));
    eventually("the new address is known", || has_moved(&believed(two)));
    says_to(&world, &[announcement(signed), genuine]);
    assert!(has_moved(&believed(two)), "an old record was believed");
    assert!(one.pings(two) && two.pings(one));
}

/// A UDP packet of the planetary network as somebody made it by hand.
fn packet(from: Ipv6Addr, to: Ipv6Addr, port: u16, text: &str) -> Bytes {
    let length = u16::try_from(8 + text.len()).unwrap();
    let mut udp =
        [&4000_u16.to_be_bytes()[..], &port.to_be_bytes(), &length.to_be_bytes(), &[0, 0], text.as_bytes()].concat();
    let pseudo = [&from.octets()[..], &to.octets(), &u32::from(length).to_be_bytes(), &[0, 0, 0, 17], &udp].concat();
    let words = pseudo.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0)));
    let sum: u32 = words.sum();
    let sum = (sum & 0xffff) + (sum >> 16);
    let sum = !((sum & 0xffff) + (sum >> 16)) as u16;
    // None at all is written as zero.
    udp[6..8].copy_from_slice(&if sum == 0 { 0xffff } else { sum }.to_be_bytes());
    let header = [&[0x60, 0, 0, 0][..], &length.to_be_bytes(), &[17, 64], &from.octets(), &to.octets()].concat();
    [header, udp].concat().into()
}

/// Packets that did not pass a node's filter for this reason.
fn dropped(node: &LabNode, reason: &str) -> u64 {
    let net = node.net();
    let dropped = net["interface"]["packets_dropped"].as_array().unwrap();
    dropped.iter().find(|it| it["reason"] == reason).map_or(0, |it| it["packets"].as_u64().unwrap())
}

/// A node of the attacker's own, in the attacker's network, that no filter of its own holds back.
async fn mallory() -> Link {
    let config = LinkConfig {
        bind: vec![(Ipv4Addr::UNSPECIFIED, 0).into()],
        lane_bind: Vec::new(),
        packets: true,
        ..LinkConfig::default()
    };
    Link::builder(Arc::new(NodeKey::generate()), config, Arc::new(MemoryPeers::default())).bind().await.unwrap()
}

/// Sends until something holds.
async fn sends_until(what: &str, mut send: impl FnMut(), holds: impl Fn() -> bool) {
    let began = Instant::now();
    while !holds() {
        assert!(began.elapsed() < PATIENCE, "{what}: never");
        send();
        sleep(Duration::from_millis(50)).await;
    }
}

/// A peer that sends in the name of others, and where it has no grant; and a node that is no peer.
#[test]
fn packets_with_another_source_or_without_a_grant() {
    let world = World::new(2, &["network.lan=off"]);
    let (granted, private) = (Program::at(&world.two, PROGRAM), Program::at(&world.two, PRIVATE));
    let ticket = world.two.atoll(&["invite"]);
    let done = world.lab.outside().inside(|| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let attack = attack(&world, &granted, &private, ticket.trim());
        runtime.block_on(async { timeout(4 * PATIENCE, attack).await }).unwrap();
        Ok(())
    });
    done.unwrap();
    granted.heard_nothing_of(&["another's", "a stranger"]);
    private.heard_nothing_of(&[""]);
    assert!(world.one.pings(&world.two) && world.two.pings(&world.one));
}

async fn attack(world: &World, granted: &Program, private: &Program, ticket: &str) {
    let (two, id): (_, NodeId) = (&world.two, world.two.id().parse().unwrap());
    let peer = mallory().await;
    let handle = peer.handle();
    handle.join(&ticket.parse().unwrap()).await.unwrap();
    let own = handle.node_id().planetary_address().ip();
    let send = |from: Ipv6Addr, port: u16, text: &str| {
        let _: Result<(), _> = handle.packets().send(id, packet(from, two.address(), port, text));
    };
    sends_until("its own packets arrive", || send(own, PROGRAM, "its own"), || granted.times("its own") > 0).await;

    // In the name of another peer, of the node itself, of nobody, and of a pod network.
    let nobody = "600::bad".parse().unwrap();
    for from in [world.one.address(), two.address(), nobody, Ipv6Addr::LOCALHOST, "fd00:1:2:3::4".parse().unwrap()] {
        let spoofed = dropped(two, "spoofed");
        let text = format!("another's: {from}");
        sends_until(&text, || send(from, PROGRAM, &text), || dropped(two, "spoofed") >= spoofed + 5).await;
    }
    // Under its own, to a port that no rule names; a program listens there.
    let unsolicited = dropped(two, "unsolicited");
    let refused = || dropped(two, "unsolicited") >= unsolicited + 5;
    sends_until("what is not granted", || send(own, PRIVATE, "not granted"), refused).await;
    assert_eq!(private.times("not granted"), 0);

    // The same from who is no peer, and knows where the node is.
    let stranger = mallory().await;
    let unknown = stranger.handle();
    unknown.introduce(handle.record_of(&id).unwrap()).await.unwrap();
    let opened = unknown.open(id, "atoll/echo/1", Traffic::Control).await;
    assert!(matches!(opened, Err(OpenError::Refused { .. })), "{:?}", opened.err());
    let came = two.net()["interface"]["packets_received"].as_u64().unwrap();
    let from = unknown.node_id().planetary_address().ip();
    for number in 0..40 {
        let packet = packet(from, two.address(), PROGRAM, &format!("a stranger {number}"));
        let _: Result<(), _> = unknown.packets().send(id, packet);
        sleep(Duration::from_millis(50)).await;
    }
    // What the peers say to each other meanwhile is little.
    let came = two.net()["interface"]["packets_received"].as_u64().unwrap() - came;
    assert!(came < 10, "{came} packets came");
}
