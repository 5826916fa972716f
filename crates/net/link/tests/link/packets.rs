//! Packets between nodes, and nodes that know each other by configuration.

use std::time::Duration;

use atoll_link::{FixedPeer, LinkConfig, PacketRefusal};
use bytes::Bytes;
use tokio::time::timeout;

use crate::support::{Node, PATIENCE, on_loopback, pair_with};

fn carrying() -> LinkConfig {
    LinkConfig { packets: true, ..on_loopback() }
}

/// Sends until it arrives: the way may have to be made first, and packets may be lost.
async fn arrives(from: &Node, to: &Node, packet: &[u8]) {
    let receiving = async {
        let mut batch = Vec::new();
        loop {
            assert!(to.handle.packets().receive(&mut batch).await);
            for (sender, arrived) in batch.drain(..) {
                assert_eq!(sender, from.id());
                if arrived == packet {
                    return;
                }
            }
        }
    };
    let sending = async {
        loop {
            let _: Result<(), PacketRefusal> = from.handle.packets().send(to.id(), Bytes::copy_from_slice(packet));
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    let outcome = timeout(PATIENCE, async {
        tokio::select! {
            () = receiving => {}
            () = sending => {}
        }
    });
    outcome.await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn packets_go_both_ways_at_once_and_again_after_a_restart() {
    let (one, other) = pair_with(carrying(), carrying()).await;
    tokio::join!(arrives(&one, &other, &[0x61; 1420]), arrives(&other, &one, &[0x62; 1280]));
    // What IPv6 needs at least passes without a search for it.
    assert!(one.handle.packets().mtu(&other.id()).unwrap() >= 1280);
    let other = other.restart_with(carrying()).await;
    arrives(&one, &other, &[0x63; 100]).await;
    arrives(&other, &one, &[0x64; 100]).await;
    let counts = one.handle.packets().counts();
    assert!(counts.sent > 0 && counts.received > 0, "{counts:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn packets_are_for_peers_and_of_a_size_that_fits() {
    let (one, other) = pair_with(carrying(), carrying()).await;
    let stranger = Node::start_with(carrying()).await;
    let packet = Bytes::from_static(b"let me in");
    assert_eq!(stranger.handle.packets().send(one.id(), packet.clone()), Err(PacketRefusal::Unknown));
    // One that knows where to go is closed out by the other side.
    let knowing = Node::knowing_with(&one, carrying()).await;
    let _: Result<(), PacketRefusal> = knowing.handle.packets().send(one.id(), packet);
    arrives(&other, &one, b"only this").await;
    let large = Bytes::from(vec![0; 60_000]);
    let refused = other.handle.packets().send(one.id(), large);
    assert!(matches!(refused, Err(PacketRefusal::TooLarge { mtu }) if mtu >= 1280), "{refused:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_carries_none_takes_none() {
    let (one, other) = pair_with(carrying(), on_loopback()).await;
    assert_eq!(other.handle.packets().send(one.id(), Bytes::from_static(b"x")), Err(PacketRefusal::Closed));
    let packets = one.handle.packets();
    let refused = async {
        // It waits for the connection, which is refused; then the peer is left alone for a while.
        while packets.send(other.id(), Bytes::from_static(b"x")) != Err(PacketRefusal::Resting) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(PATIENCE, refused).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_that_name_each_other_know_each_other() {
    let first = Node::start().await;
    let (id, address) = (first.id(), first.handle.addresses().quic[0]);
    let second = Node::start_with(LinkConfig { peers: vec![FixedPeer { node: id, address }], ..on_loopback() }).await;
    let fixed = FixedPeer { node: second.id(), address: second.handle.addresses().quic[0] };
    let first = first.restart_with(LinkConfig { bind: vec![address], peers: vec![fixed], ..on_loopback() }).await;
    first.until_connected(second.id()).await;
    second.until_connected(first.id()).await;
}

#[test]
fn a_fixed_peer_is_read_or_told_what_is_wrong() {
    let node = atoll_keys::NodeKey::generate().id();
    let text = format!("{node}@[2001:db8::1]:5771");
    let peer: FixedPeer = text.parse().unwrap();
    assert_eq!((peer.node, peer.address), (node, "[2001:db8::1]:5771".parse().unwrap()));
    let check = |text: &str, expect: &str| {
        let error = text.parse::<FixedPeer>().unwrap_err().to_string();
        assert!(error.contains(expect), "{expect:?} is not in {error:?}");
    };
    check("192.0.2.1:5771", "there is no @");
    check(&format!("{node}@192.0.2.1"), "is no address with a port");
    check(&format!("{node}@[{}]:5771", node.planetary_address()), "cannot be dialled");
    check("nobody@192.0.2.1:5771", "NODEID@ADDRESS:PORT");
}
