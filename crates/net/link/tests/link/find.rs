//! Peers find each other again.

use std::sync::Arc;
use std::time::Duration;

use atoll_keys::NodeKey;
use atoll_link::{MemoryPeers, PeerStore, StoredPeer, Traffic};

use crate::support::{Node, nowhere, on_loopback, pair, try_start};

#[tokio::test]
async fn a_node_that_restarts_elsewhere_is_found_again() {
    let (one, other) = pair().await;
    one.until_connected(other.id()).await;
    let before = other.handle.addresses();
    let other = other.restart().await;
    let after = other.handle.addresses();
    assert_ne!(before.quic, after.quic);
    one.until(other.id(), "the new address", |peer| peer.record.quic == after.quic).await;
    one.asks(other.id(), Traffic::Control).await;
    one.asks(other.id(), Traffic::Bulk).await;
    other.asks(one.id(), Traffic::Bulk).await;
}

#[tokio::test]
async fn the_inviting_node_may_move_as_well() {
    let (one, other) = pair().await;
    other.until_connected(one.id()).await;
    let one = one.restart().await;
    let after = one.handle.addresses();
    other.until(one.id(), "the new address", |peer| peer.record.quic == after.quic).await;
    other.asks(one.id(), Traffic::Bulk).await;
}

#[tokio::test]
async fn who_shuts_down_is_seen_to_leave_and_to_return() {
    let (one, other) = pair().await;
    one.until_connected(other.id()).await;
    let (id, key, store) = (other.id(), other.key.clone(), other.store.clone());
    assert!(other.link.shutdown(Duration::from_secs(5)).await, "nothing was open");
    one.until(id, "gone", |peer| peer.connected.is_none()).await;
    assert!(one.handle.open(id, crate::support::ECHO, Traffic::Control).await.is_err());
    let other = try_start(key, store, on_loopback()).await.unwrap();
    one.until_connected(other.id()).await;
    one.asks(other.id(), Traffic::Control).await;
}

/// The store of one remembers a record from the other's future, as after its clock was wrong for a while.
#[tokio::test]
async fn a_node_whose_clock_went_back_is_believed_again() {
    let (key, store) = (Arc::new(NodeKey::generate()), Arc::new(MemoryPeers::default()));
    let future = u64::MAX / 2;
    let remembers = Node::start().await;
    let (remembering_key, remembering_store) = (remembers.key.clone(), remembers.store.clone());
    drop(remembers);
    remembering_store.save(StoredPeer { record: nowhere(&key, future), last_seen: 0 }).await.unwrap();
    let remembers = try_start(remembering_key.clone(), remembering_store, on_loopback()).await.unwrap();
    let record = atoll_keys::Signed::sign(&remembers.handle.addresses(), &*remembering_key);
    store.save(StoredPeer { record, last_seen: 0 }).await.unwrap();

    let node = try_start(key, store, on_loopback()).await.unwrap();
    remembers.until(node.id(), "a newer record", |peer| peer.record.sequence > future).await;
    remembers.asks(node.id(), Traffic::Bulk).await;
}

#[tokio::test]
async fn a_peer_that_is_nowhere_is_unreachable_and_stays_known() {
    let (key, store) = (Arc::new(NodeKey::generate()), Arc::new(MemoryPeers::default()));
    store.save(StoredPeer { record: nowhere(&key, 1), last_seen: 0 }).await.unwrap();
    let node = try_start(Arc::new(NodeKey::generate()), store, on_loopback()).await.unwrap();
    let error = node.handle.open(key.id(), crate::support::ECHO, Traffic::Bulk).await.err().unwrap();
    assert!(error.is_transient(), "{error}");
    assert!(node.handle.peer(&key.id()).is_some());
}
