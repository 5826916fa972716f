//! Joining, and staying reached, where no packet passes between two nodes without the help of a third, or none at all but by TCP. As in `relay`, one node listens on
//! IPv4 only and the other on IPv6 only where nothing is to be direct between them.

use std::time::{Duration, Instant};

use atoll_link::{JoinError, LinkConfig, Path, Ticket, Traffic};
use bytes::Bytes;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

use crate::relay::{GENEROUS, know_each_other, listening_on, path, relaying};
use crate::support::{ECHO, Node, PATIENCE};

const MINUTE: Duration = Duration::from_secs(60);

async fn meet(one: &Node, other: &Node) {
    know_each_other(one, other).await;
    one.until_connected(other.id()).await;
    other.until_connected(one.id()).await;
}

/// Through text, as a person would.
fn invites(node: &Node) -> Ticket {
    node.handle.invite(MINUTE, 1).unwrap().to_string().parse().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn two_that_have_a_peer_in_common_join_through_it() {
    let relay = Node::start_with(relaying(Some(GENEROUS))).await;
    let one = Node::start_with(listening_on(&["127.0.0.1:0"], None)).await;
    let other = Node::start_with(listening_on(&["[::1]:0"], None)).await;
    meet(&one, &relay).await;
    meet(&other, &relay).await;
    let began = Instant::now();
    let peer = other.handle.join(&invites(&one)).await.unwrap();
    assert_eq!(peer.id, one.id());
    eprintln!("joined through a relay in {:?}", began.elapsed());
    for traffic in [Traffic::Control, Traffic::Bulk] {
        one.asks(other.id(), traffic).await;
        other.asks(one.id(), traffic).await;
    }
    one.until_connected(other.id()).await;
    assert_eq!(path(&one, &other), Some(Path::Via(Some(relay.id()))));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stranger_joins_through_a_relay_that_the_ticket_names_and_uses_it_for_nothing_else() {
    let relay = Node::start_with(relaying(Some(GENEROUS))).await;
    let one = Node::start_with(listening_on(&["127.0.0.1:0"], None)).await;
    let third = Node::start_with(listening_on(&["127.0.0.1:0"], None)).await;
    meet(&one, &relay).await;
    meet(&third, &relay).await;
    let ticket = invites(&one);
    assert_eq!(ticket.relays().collect::<Vec<_>>(), [relay.id()]);
    let stranger = Node::start_with(listening_on(&["[::1]:0"], None)).await;
    let peer = stranger.handle.join(&ticket).await.unwrap();
    assert_eq!(peer.id, one.id());
    assert!(one.handle.peer(&stranger.id()).is_some());
    assert!(relay.handle.peer(&stranger.id()).is_none(), "it is a stranger still");
    assert!(stranger.handle.peer(&relay.id()).is_none());
    assert!(relay.handle.relay_counts().for_others.carried > 0);

    // Somebody else with a ticket that names a relay where nobody told that a joiner is awaited: the third made it before it was told, and is gone.
    let forged = invites(&third);
    assert_eq!(forged.relays().collect::<Vec<_>>(), [relay.id()]);
    relay.handle.forget(&third.id()).await.unwrap();
    let refused = stranger.handle.join(&forged).await.unwrap_err();
    assert!(matches!(refused, JoinError::Unreachable { .. }), "{refused:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_does_not_relay_lets_no_strangers_through_and_is_named_once() {
    let idle = Node::start_with(relaying(None)).await;
    let one = Node::start_with(listening_on(&["127.0.0.1:0"], None)).await;
    meet(&one, &idle).await;
    let ticket = invites(&one);
    let stranger = Node::start_with(listening_on(&["[::1]:0"], None)).await;
    let refused = stranger.handle.join(&ticket).await.unwrap_err();
    assert!(matches!(refused, JoinError::Unreachable { .. }), "{refused:?}");
    assert!(one.handle.peer(&stranger.id()).is_none());
    let named = async {
        while one.handle.invite(MINUTE, 1).unwrap().relays().next().is_some() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    timeout(PATIENCE, named).await.unwrap();
}

/// UDP passes neither way, TCP does: QUIC listens on different families.
fn captive() -> LinkConfig {
    listening_on(&["[::1]:0"], None)
}

fn hub() -> LinkConfig {
    LinkConfig { lane_bind: vec!["127.0.0.1:0".parse().unwrap()], ..listening_on(&["127.0.0.1:0"], Some(GENEROUS)) }
}

async fn packets_pass(from: &Node, to: &Node) {
    let packet = Bytes::from(vec![0x67; 1280]);
    let arriving = async {
        let mut batch = Vec::new();
        loop {
            assert!(to.handle.packets().receive(&mut batch).await);
            if batch.drain(..).any(|(sender, arrived)| sender == from.id() && arrived == packet) {
                return;
            }
        }
    };
    let sending = async {
        loop {
            let _: Result<(), _> = from.handle.packets().send(to.id(), packet.clone());
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    let outcome = timeout(PATIENCE, async {
        tokio::select! {
            () = arriving => {}
            () = sending => {}
        }
    });
    outcome.await.unwrap();
}

async fn much_passes(from: &Node, to: &Node) {
    let message: Vec<u8> = (0..2 << 20).map(|at: u32| (at * 31 % 251) as u8).collect();
    let stream = from.handle.open(to.id(), ECHO, Traffic::Control).await.unwrap();
    let (mut reader, mut writer) = tokio::io::split(stream);
    let sent = message.clone();
    let writing = tokio::spawn(async move {
        writer.write_all(&sent).await.unwrap();
        writer.shutdown().await.unwrap();
    });
    let mut received = Vec::new();
    timeout(PATIENCE, reader.read_to_end(&mut received)).await.unwrap().unwrap();
    writing.await.unwrap();
    assert!(received == message);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_has_no_udp_joins_by_a_lane_and_is_reached_by_it() {
    let hub = Node::start_with(hub()).await;
    let captive = Node::start_with(captive()).await;
    let began = Instant::now();
    captive.handle.join(&invites(&hub)).await.unwrap();
    eprintln!("joined by a lane in {:?}", began.elapsed());
    captive.until_connected(hub.id()).await;
    hub.until_connected(captive.id()).await;
    eprintln!("connected by a lane after {:?}", began.elapsed());
    assert_eq!(path(&captive, &hub), Some(Path::Via(Some(hub.id()))));
    captive.asks(hub.id(), Traffic::Control).await;
    hub.asks(captive.id(), Traffic::Control).await;
    hub.asks(captive.id(), Traffic::Bulk).await;
    packets_pass(&captive, &hub).await;
    packets_pass(&hub, &captive).await;
    much_passes(&captive, &hub).await;
    much_passes(&hub, &captive).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_has_no_udp_reaches_others_through_a_lane_to_a_relay() {
    let hub = Node::start_with(hub()).await;
    let captive = Node::start_with(captive()).await;
    let far = Node::start_with(listening_on(&["127.0.0.1:0"], None)).await;
    captive.handle.join(&invites(&hub)).await.unwrap();
    far.handle.join(&invites(&hub)).await.unwrap();
    captive.until_connected(hub.id()).await;
    far.until_connected(hub.id()).await;
    hub.until_connected(captive.id()).await;
    let began = Instant::now();
    captive.handle.join(&invites(&far)).await.unwrap();
    eprintln!("joined through a relay by a lane in {:?}", began.elapsed());
    captive.asks(far.id(), Traffic::Control).await;
    far.asks(captive.id(), Traffic::Control).await;
    packets_pass(&captive, &far).await;
    packets_pass(&far, &captive).await;
    much_passes(&captive, &far).await;
    far.until_connected(captive.id()).await;
    assert_eq!(path(&captive, &far), Some(Path::Via(Some(hub.id()))));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stranger_without_udp_joins_by_a_lane_to_a_relay_that_the_ticket_names() {
    let hub = Node::start_with(hub()).await;
    let one = Node::start_with(listening_on(&["127.0.0.1:0"], None)).await;
    meet(&one, &hub).await;
    let stranger = Node::start_with(captive()).await;
    let peer = stranger.handle.join(&invites(&one)).await.unwrap();
    assert_eq!(peer.id, one.id());
    assert!(hub.handle.peer(&stranger.id()).is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn who_has_no_udp_comes_back_when_the_other_end_was_started_again() {
    let node = Node::start_with(hub()).await;
    let captive = Node::start_with(captive()).await;
    captive.handle.join(&invites(&node)).await.unwrap();
    captive.until_connected(node.id()).await;
    let lane = node.handle.addresses().lane;
    let node = node.restart_with(LinkConfig { lane_bind: lane, ..hub() }).await;
    let began = Instant::now();
    let reached = async {
        while captive.handle.open(node.id(), ECHO, Traffic::Control).await.is_err() {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    timeout(PATIENCE, reached).await.unwrap();
    eprintln!("back after {:?}", began.elapsed());
    node.asks(captive.id(), Traffic::Control).await;
}
