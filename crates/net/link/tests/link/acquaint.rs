//! Nodes that never met find each other, and exchange packets.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use atoll_ids::NodeId;
use atoll_keys::NodeKey;
use atoll_link::{
    Acquaintance, FindError, Link, LinkConfig, MemoryPeers, OpenError, PacketRefusal, PeerStore, Refusal, Society,
    Traffic,
};
use bytes::Bytes;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use crate::support::{ECHO, Node, PATIENCE, on_loopback, pair_with, try_start};

pub(crate) fn finding() -> LinkConfig {
    LinkConfig { packets: true, find: true, ..on_loopback() }
}

/// Nodes each of which joined the one before, and nobody else.
async fn chain(count: usize) -> Vec<Node> {
    let mut nodes = vec![Node::start_with(finding()).await];
    for _ in 1..count {
        let node = Node::start_with(finding()).await;
        let ticket = nodes.last().unwrap().handle.invite(Duration::from_secs(60), 1).unwrap();
        node.handle.join(&ticket).await.unwrap();
        nodes.push(node);
    }
    nodes
}

/// Waits until the nearest nodes have this node's record.
pub(crate) async fn until_joined(node: &Node) {
    let waiting = async {
        while node.handle.find_counts().is_none_or(|counts| !counts.joined) {
            sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(PATIENCE, waiting).await.unwrap();
}

/// Sends until a packet arrives. Gives what arrived instead meanwhile.
async fn arrives(from: &Node, to: &Node, packet: &'static [u8]) {
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
            let _: Result<(), PacketRefusal> = from.handle.packets().send(to.id(), Bytes::from_static(packet));
            sleep(Duration::from_millis(20)).await;
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
async fn in_a_chain_of_joins_everybody_finds_everybody() {
    let nodes = chain(10).await;
    // Most have heard of most.
    let knows_most = |node: &Node| node.handle.find_counts().is_some_and(|counts| counts.contacts >= 6);
    let waiting = async {
        while !nodes.iter().all(knows_most) {
            sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(PATIENCE, waiting).await.unwrap();
    for from in &nodes {
        for to in &nodes {
            // Its record is on its way to those who keep it now.
            let found = timeout(PATIENCE, async {
                loop {
                    match from.handle.find(to.id().planetary_address()).await {
                        Ok(found) => return found,
                        Err(FindError::Missed(_)) => sleep(Duration::from_millis(100)).await,
                        Err(error) => panic!("{error}"),
                    }
                }
            });
            let found = found.await.unwrap();
            assert_eq!((found.record.node, &found.record.quic), (to.id(), &to.handle.addresses().quic));
            assert!(found.steps <= 6, "{} steps among ten nodes", found.steps);
        }
    }
    let nobody = NodeKey::generate().id().planetary_address();
    assert!(matches!(nodes[0].handle.find(nobody).await, Err(FindError::Missed(_))));
}

#[tokio::test(flavor = "multi_thread")]
async fn packets_go_between_nodes_that_never_met_and_nothing_else_does() {
    let nodes = chain(3).await;
    let [first, _, last] = &nodes[..] else { panic!() };
    // At once: whoever just joined is not made to wait.
    let met = timeout(PATIENCE, first.handle.get_acquainted(last.id().planetary_address())).await.unwrap();
    assert_eq!(met, Ok(last.id()));
    arrives(first, last, b"hello, stranger").await;
    arrives(last, first, b"hello yourself").await;
    for (one, other) in [(first, last), (last, first)] {
        assert_eq!(one.handle.peer(&other.id()), None);
        assert!(!one.store.load_all().await.unwrap().iter().any(|peer| peer.node() == other.id()));
        assert_eq!(one.handle.acquaintances().iter().map(|who| who.node).collect::<Vec<_>>(), [other.id()]);
        let refused = one.handle.open(other.id(), ECHO, Traffic::Control).await.err();
        assert_eq!(refused, Some(OpenError::UnknownPeer { node: other.id() }));
    }
}

/// The other side decides, whatever who opens believes.
#[tokio::test(flavor = "multi_thread")]
async fn an_acquaintance_opens_no_stream_and_no_greeting() {
    let node = Node::start_with(finding()).await;
    let knowing = Node::knowing_with(&node, finding()).await;
    for traffic in [Traffic::Control, Traffic::Bulk] {
        let refused = knowing.handle.open(node.id(), ECHO, traffic).await.err().unwrap();
        assert_eq!(refused, OpenError::Refused { node: node.id(), reason: Refusal::Unknown }, "{traffic:?}");
    }
    assert!(knowing.handle.peer(&node.id()).unwrap().connected.is_none());
    assert!(node.handle.peers().is_empty() && node.handle.acquaintances().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn where_finding_is_off_strangers_are_turned_away() {
    let nodes = chain(2).await;
    let off = Node::start_with(LinkConfig { packets: true, ..on_loopback() }).await;
    let ticket = nodes[0].handle.invite(Duration::from_secs(60), 1).unwrap();
    off.handle.join(&ticket).await.unwrap();
    until_joined(&nodes[1]).await;
    assert_eq!(off.handle.find(nodes[1].id().planetary_address()).await, Err(FindError::Off));
    let missed = nodes[1].handle.get_acquainted(off.id().planetary_address()).await;
    assert!(matches!(missed, Err(FindError::Missed(_))), "{missed:?}");
    // For a moment nobody is asked again.
    let again = nodes[1].handle.get_acquainted(off.id().planetary_address()).await;
    assert_eq!(again, Err(FindError::Lately));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_moved_is_found_where_it_is() {
    let mut nodes = chain(3).await;
    let last = nodes.pop().unwrap();
    until_joined(&last).await;
    let (first, address) = (&nodes[0], last.id().planetary_address());
    first.handle.get_acquainted(address).await.unwrap();
    arrives(first, &last, b"before").await;
    // Its connections end with it, and it starts elsewhere.
    let Node { key, store, link, handle } = last;
    drop(handle);
    link.shutdown(Duration::from_secs(5)).await;
    let last = try_start(key, store, finding()).await.unwrap();
    let sending = async {
        // As a program that sends does by way of the interface.
        loop {
            let _: Result<NodeId, FindError> = first.handle.get_acquainted(address).await;
            let _: Result<(), PacketRefusal> = first.handle.packets().send(last.id(), Bytes::from_static(b"after"));
            sleep(Duration::from_millis(50)).await;
        }
    };
    let receiving = async {
        let mut batch = Vec::new();
        while !batch.iter().any(|(from, packet)| *from == first.id() && packet == &b"after"[..]) {
            assert!(last.handle.packets().receive(&mut batch).await);
        }
    };
    let outcome = timeout(PATIENCE, async {
        tokio::select! {
            () = sending => {}
            () = receiving => {}
        }
    });
    outcome.await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_acquaintance_that_joins_is_a_peer_and_one_that_is_forgotten_may_introduce_itself_again() {
    let (one, other) = pair_with(finding(), finding()).await;
    let third = Node::start_with(finding()).await;
    let ticket = one.handle.invite(Duration::from_secs(60), 1).unwrap();
    third.handle.join(&ticket).await.unwrap();
    third.handle.get_acquainted(other.id().planetary_address()).await.unwrap();
    arrives(&third, &other, b"as a stranger").await;
    let ticket = other.handle.invite(Duration::from_secs(60), 1).unwrap();
    third.handle.join(&ticket).await.unwrap();
    arrives(&third, &other, b"as a peer").await;
    assert!(other.handle.peer(&third.id()).is_some());
    assert!(other.handle.forget(&third.id()).await.unwrap());
    // A peer in its own eyes does not introduce itself.
    let refused = third.handle.open(other.id(), ECHO, Traffic::Control).await.err();
    assert_eq!(refused, Some(OpenError::Refused { node: other.id(), reason: Refusal::Unknown }));
    assert!(other.handle.peer(&third.id()).is_none());
    third.handle.forget(&other.id()).await.unwrap();
    third.handle.get_acquainted(other.id().planetary_address()).await.unwrap();
    arrives(&third, &other, b"as a stranger again").await;
}

/// Tells whom it met.
struct Host(watch::Sender<Vec<Acquaintance>>, Mutex<Vec<NodeId>>);

impl Society for Host {
    fn met(&self, who: &Acquaintance) {
        self.0.send_modify(|met| met.push(who.clone()));
    }

    fn parted(&self, node: &NodeId) {
        self.1.lock().unwrap().push(*node);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_met_is_told_before_packets_arrive_with_what_it_shows() {
    let host = Arc::new(Host(watch::Sender::default(), Mutex::default()));
    let key = Arc::new(NodeKey::generate());
    let building = Link::builder(key.clone(), finding(), Arc::new(MemoryPeers::default())).society(host.clone());
    let link = building.bind().await.unwrap();
    let handle = link.handle();
    let middle = Node::start_with(finding()).await;
    let guest = Node::start_with(LinkConfig { credentials: b"a guest".to_vec(), ..finding() }).await;
    for node in [&handle, &guest.handle] {
        node.join(&middle.handle.invite(Duration::from_secs(60), 1).unwrap()).await.unwrap();
    }
    guest.handle.get_acquainted(handle.node_id().planetary_address()).await.unwrap();
    let receiving = async {
        let mut batch = Vec::new();
        assert!(handle.packets().receive(&mut batch).await);
        batch.remove(0)
    };
    guest.handle.packets().send(handle.node_id(), Bytes::from_static(b"knock")).unwrap();
    let (from, packet) = timeout(PATIENCE, receiving).await.unwrap();
    assert_eq!((from, &packet[..]), (guest.id(), &b"knock"[..]));
    let met = host.0.borrow().clone();
    assert_eq!((met.len(), met[0].node, &met[0].credentials[..]), (1, guest.id(), &b"a guest"[..]));
    assert!(host.1.lock().unwrap().is_empty());
}
