//! Tickets, and who is let in.

use std::sync::Arc;
use std::time::Duration;

use atoll_keys::NodeKey;
use atoll_link::{BindError, JoinError, JoinRefusal, MemoryPeers, OpenError, Refusal, Ticket, Traffic};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};

use crate::support::{ECHO, Node, PATIENCE, on_loopback, pair, try_start};

const MINUTE: Duration = Duration::from_secs(60);

#[tokio::test]
async fn a_ticket_makes_two_nodes_know_each_other() {
    let (inviting, joining) = (Node::start().await, Node::start().await);
    let ticket = inviting.handle.invite(MINUTE, 1).unwrap();
    // As a person would: through text.
    let ticket: Ticket = ticket.to_string().parse().unwrap();
    assert_eq!(ticket.node(), inviting.id());
    let peer = joining.handle.join(&ticket).await.unwrap();
    assert_eq!(peer.id, inviting.id());
    for traffic in [Traffic::Control, Traffic::Bulk] {
        joining.asks(inviting.id(), traffic).await;
        inviting.asks(joining.id(), traffic).await;
    }
    inviting.until_connected(joining.id()).await;
    joining.until_connected(inviting.id()).await;
    let seen = inviting.handle.peer(&joining.id()).unwrap();
    assert!(seen.last_seen > 0);
    assert_eq!(seen.record.quic, joining.handle.addresses().quic);
    // Nobody asked for a relay or for anything beyond loopback.
    for node in [&inviting, &joining] {
        let addresses = node.handle.addresses();
        assert_eq!(addresses.relay, None);
        assert!(addresses.quic.iter().chain(&addresses.lane).all(|address| address.ip().is_loopback()));
    }
}

#[tokio::test]
async fn a_ticket_is_used_as_often_as_it_says() {
    let (inviting, first, second) = (Node::start().await, Node::start().await, Node::start().await);
    let ticket = inviting.handle.invite(MINUTE, 1).unwrap();
    first.handle.join(&ticket).await.unwrap();
    first.handle.join(&ticket).await.expect("who did not hear the answer may ask again");
    match second.handle.join(&ticket).await.unwrap_err() {
        JoinError::Refused { node, reason } => {
            assert_eq!((node, reason), (inviting.id(), JoinRefusal::UsedUp));
        }
        other => panic!("{other:?}"),
    }
    assert!(inviting.handle.peer(&second.id()).is_none());
    assert!(second.handle.peer(&inviting.id()).is_none());
}

#[tokio::test]
async fn an_expired_ticket_says_so() {
    let (inviting, joining) = (Node::start().await, Node::start().await);
    let ticket = inviting.handle.invite(Duration::from_secs(1), 1).unwrap();
    tokio::time::sleep(Duration::from_millis(2100)).await;
    let error = joining.handle.join(&ticket).await.unwrap_err();
    assert!(matches!(error, JoinError::Expired), "{error:?}");
}

#[tokio::test]
async fn a_ticket_of_a_previous_run_is_unknown() {
    let inviting = Node::start().await;
    let ticket = inviting.handle.invite(MINUTE, 1).unwrap();
    let mut config = on_loopback();
    config.bind = inviting.handle.addresses().quic;
    let Node { key, store, link, handle } = inviting;
    link.shutdown(Duration::ZERO).await;
    drop(handle);
    // iroh lets go of its socket in the background.
    let again = async {
        loop {
            match try_start(key.clone(), store.clone(), config.clone()).await {
                Ok(again) => break again,
                Err(BindError::PortInUse { .. }) => tokio::time::sleep(Duration::from_millis(20)).await,
                Err(other) => panic!("{other}"),
            }
        }
    };
    let again = tokio::time::timeout(PATIENCE, again).await.unwrap();
    let error = Node::start().await.handle.join(&ticket).await.unwrap_err();
    assert!(matches!(error, JoinError::Refused { reason: JoinRefusal::Unknown, .. }), "{error:?}");
    drop(again);
}

#[tokio::test]
async fn a_ticket_of_a_node_that_is_gone_and_ones_own_ticket_are_told_apart() {
    let (gone, joining) = (Node::start().await, Node::start().await);
    let ticket = gone.handle.invite(MINUTE, 1).unwrap();
    assert!(matches!(gone.handle.join(&ticket).await.unwrap_err(), JoinError::Own));
    gone.link.shutdown(Duration::ZERO).await;
    let error = joining.handle.join(&ticket).await.unwrap_err();
    assert!(matches!(error, JoinError::Unreachable { .. }), "{error:?}");
}

#[tokio::test]
async fn invitations_that_nobody_can_use_are_not_made() {
    let node = Node::start().await;
    assert!(node.handle.invite(Duration::ZERO, 1).is_err());
    assert!(node.handle.invite(MINUTE, 0).is_err());
}

#[tokio::test]
async fn strangers_open_nothing() {
    let node = Node::start().await;
    let stranger = Node::knowing(&node).await;
    for traffic in [Traffic::Control, Traffic::Bulk] {
        let refused = stranger.handle.open(node.id(), ECHO, traffic).await.err().unwrap();
        assert_eq!(refused, OpenError::Refused { node: node.id(), reason: Refusal::Unknown }, "{traffic:?}");
        assert!(!refused.is_transient());
        let unknown = node.handle.open(stranger.id(), ECHO, traffic).await.err().unwrap();
        assert_eq!(unknown, OpenError::UnknownPeer { node: stranger.id() });
    }
}

#[tokio::test]
async fn a_forgotten_peer_is_a_stranger_again() {
    let (one, other) = pair().await;
    other.asks(one.id(), Traffic::Control).await;
    let mut open = other.handle.open(one.id(), ECHO, Traffic::Control).await.unwrap();
    assert!(one.handle.forget(&other.id()).await.unwrap());
    assert!(!one.handle.forget(&other.id()).await.unwrap(), "it is forgotten already");
    for traffic in [Traffic::Control, Traffic::Bulk] {
        let refused = other.handle.open(one.id(), ECHO, traffic).await.err().unwrap();
        assert_eq!(refused, OpenError::Refused { node: one.id(), reason: Refusal::Unknown }, "{traffic:?}");
    }
    // What was open is closed.
    let rest = async {
        let _: std::io::Result<()> = open.write_all(b"still there?").await;
        open.read_to_end(&mut Vec::new()).await
    };
    assert!(rest.await.is_err());
}

#[tokio::test]
async fn noise_on_the_ports_does_no_harm() {
    let (one, other) = pair().await;
    let addresses = one.handle.addresses();
    let udp = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    for size in [0, 1, 20, 1200] {
        udp.send_to(&vec![0xff; size], addresses.quic[0]).await.unwrap();
    }
    let mut tcp = TcpStream::connect(addresses.lane[0]).await.unwrap();
    tcp.write_all(&[0x42; 1000]).await.unwrap();
    let _: std::io::Result<usize> = tcp.read_to_end(&mut Vec::new()).await;
    for traffic in [Traffic::Control, Traffic::Bulk] {
        other.asks(one.id(), traffic).await;
    }
}

#[tokio::test]
async fn a_port_in_use_is_named() {
    let node = Node::start().await;
    let taken = node.handle.addresses();
    for (bind, lane_bind, expect) in [
        (taken.quic.clone(), vec!["127.0.0.1:0".parse().unwrap()], taken.quic[0]),
        (vec!["127.0.0.1:0".parse().unwrap()], taken.lane.clone(), taken.lane[0]),
    ] {
        let mut config = on_loopback();
        (config.bind, config.lane_bind) = (bind, lane_bind);
        let started = try_start(Arc::new(NodeKey::generate()), Arc::new(MemoryPeers::default()), config).await;
        let error = started.err().unwrap();
        let text =
            format!("{expect} is in use by another program: stop it, or configure another port (0 takes any free one)");
        assert_eq!(error.to_string(), text);
    }
}

#[tokio::test]
async fn all_interfaces_are_real_addresses() {
    let mut config = on_loopback();
    config.bind = vec!["0.0.0.0:0".parse().unwrap(), "[::]:0".parse().unwrap()];
    config.lane_bind = config.bind.clone();
    let node = Node::start_with(config).await;
    let addresses = node.handle.addresses();
    assert!(!addresses.quic.is_empty() && !addresses.lane.is_empty(), "{addresses:?}");
    for address in addresses.quic.iter().chain(&addresses.lane) {
        assert!(!address.ip().is_unspecified() && address.port() != 0, "{address}");
    }
}

#[tokio::test]
async fn two_nodes_that_are_introduced_know_each_other() {
    let (one, other) = (Node::start().await, Node::start().await);
    let (first, second) = (one.handle.own_record(), other.handle.own_record());
    assert!(one.handle.introduce(first.clone()).await.is_err(), "nobody is introduced to itself");
    assert_eq!(one.handle.introduce(second.clone()).await.unwrap(), (other.id(), true));
    assert_eq!(other.handle.introduce(first).await.unwrap(), (one.id(), true));
    assert_eq!(one.handle.introduce(second.clone()).await.unwrap(), (other.id(), false));
    one.asks(other.id(), Traffic::Control).await;
    other.asks(one.id(), Traffic::Bulk).await;
    assert_eq!(one.handle.record_of(&other.id()).map(|it| *it.claimed_signer()), Some(*other.id().as_bytes()));
}
