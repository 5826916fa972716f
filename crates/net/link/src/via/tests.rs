//! Relays that lie: what they say is fed to a node as it comes from the wire.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::sync::Arc;
use std::time::{Duration, Instant};

use atoll_ids::NodeId;
use atoll_keys::NodeKey;
use atoll_relay::{Budget, Cargo, Frame, GUESTS_MAX, Parcel, Pass, Refusal};
use bytes::Bytes;
use tokio::io::duplex;

use super::carrier::{Carrier, FrameLane};
use super::lock;
use super::relay::Manners;
use crate::link::{Link, LinkConfig};
use crate::peers::MemoryPeers;

fn node(kind: u8, number: usize) -> NodeId {
    let mut id = [kind; 32];
    id[..8].copy_from_slice(&(number as u64).to_le_bytes());
    NodeId::from_bytes(id)
}

async fn started() -> Link {
    let loopback = vec!["127.0.0.1:0".parse().unwrap()];
    let relay = Some(Budget { rate: 1 << 20, rate_per_user: 1 << 20 });
    let config = LinkConfig { bind: loopback.clone(), lane_bind: loopback, relay, ..LinkConfig::default() };
    Link::builder(Arc::new(NodeKey::generate()), config, Arc::new(MemoryPeers::default())).bind().await.unwrap()
}

fn carrier() -> Carrier {
    Carrier::Lane(FrameLane::new(duplex(1).0).end)
}

/// A half of a datagram: something that is kept until the other one comes.
fn half(cargo: Cargo, number: usize) -> Bytes {
    Parcel::Half { cargo, number: number as u16, second: false, bytes: Bytes::from(vec![1; 600]) }.encode()
}

/// A peer makes up strangers, by the thousand, while somebody is invited.
#[tokio::test]
async fn a_relay_that_makes_up_strangers_takes_bounded_memory_and_keeps_no_others_out() {
    let (link, relays) = (started().await, [started().await, started().await]);
    let own = &link.handle().node;
    for relay in &relays {
        link.handle().introduce(relay.handle().own_record()).await.unwrap();
    }
    let [liar, honest] = relays.each_ref().map(|relay| relay.handle().node_id());
    let lies = |relay: NodeId, from: NodeId, payload: Bytes| {
        let frame = Frame::Deliver { from, payload }.encode();
        own.hear_frame(relay, &carrier(), frame, &mut Manners::new());
    };
    lies(liar, node(1, 0), half(Cargo::Quic, 0));
    assert!(lock(&own.via.halves).is_empty(), "nobody is invited");

    link.handle().invite(Duration::from_secs(60), 1).unwrap();
    for number in 0..5000 {
        lies(liar, node(1, number), half(Cargo::Quic, number));
    }
    assert_eq!(lock(&own.via.halves).len(), GUESTS_MAX);
    let joiner = node(2, 0);
    lies(honest, joiner, half(Cargo::Quic, 0));
    assert!(own.via.reach.speaks_to(&own.book, &joiner), "who comes by another relay is heard");
    // What was kept of strangers goes once they are silent for a while.
    let later = Instant::now() + Duration::from_secs(60);
    assert!(own.via.reach.hear_caller(later, node(3, 0), liar));
    assert!(!own.via.reach.speaks_to(&own.book, &node(1, 0)));
    lies(liar, node(3, 0), half(Cargo::Quic, 0));
    assert!(lock(&own.via.halves).len() <= 2, "{}", lock(&own.via.halves).len());
}

/// A stranger that a ticket named as a relay wants more than to carry what belongs to the joining.
#[tokio::test]
async fn a_relay_of_a_ticket_has_no_rights() {
    let (link, peer, inviting) = (started().await, started().await, started().await);
    let own = &link.handle().node;
    link.handle().introduce(peer.handle().own_record()).await.unwrap();
    let (known, relay) = (peer.handle().node_id(), node(9, 0));
    own.via.reach.join(&inviting.handle().invite(Duration::from_secs(60), 1).unwrap(), own.id);
    link.handle().invite(Duration::from_secs(60), 1).unwrap();
    for (from, listens) in [(inviting.handle().node_id(), true), (known, false), (node(1, 0), false)] {
        assert_eq!(own.listens_to(from, relay), listens);
    }
    assert_eq!(own.expect(relay, relay, Pass::from_bytes([1; 32]), 60), Err(Refusal::Unknown));
    assert_eq!(own.carry(relay, known, Bytes::from_static(b"x")), Err(Refusal::Unknown));
    own.not_awaited_at(relay, Refusal::Off);
    assert!(lock(&own.via.unwilling).is_empty());
    own.via.reach.joined(&inviting.handle().node_id());
    assert!(!own.listens_to(inviting.handle().node_id(), relay), "only while it is being joined");
}

/// A peer says that others await strangers, or speaks for them.
#[tokio::test]
async fn a_peer_speaks_for_nobody_else() {
    let (link, peer) = (started().await, started().await);
    let own = &link.handle().node;
    link.handle().introduce(peer.handle().own_record()).await.unwrap();
    let (peer, pass) = (peer.handle().node_id(), Pass::from_bytes([1; 32]));
    let other = node(1, 0);
    let expect = |node| own.expect(peer, node, pass.clone(), u16::MAX);
    assert_eq!((expect(other), expect(peer)), (Err(Refusal::Unknown), Ok(())));
    assert!(own.takes_guests());
}
