//! Nodes for tests: on loopback, with short pauses, serving an echo.

use std::sync::Arc;
use std::time::Duration;

use atoll_ids::NodeId;
use atoll_keys::{NodeKey, Signed};
use atoll_link::{
    AddressRecord, BindError, BoxStream, Link, LinkConfig, LinkHandle, MemoryPeers, Peer, PeerStore, StoredPeer,
    Traffic,
};
use futures_util::future::BoxFuture;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// A protocol that sends back what it gets.
pub(crate) const ECHO: &str = "atoll/echo/1";

/// Long for a busy machine; nothing waits that long when it works.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

pub(crate) struct Node {
    pub(crate) key: Arc<NodeKey>,
    pub(crate) store: Arc<MemoryPeers>,
    pub(crate) link: Link,
    pub(crate) handle: LinkHandle,
}

pub(crate) fn on_loopback() -> LinkConfig {
    LinkConfig {
        bind: vec!["127.0.0.1:0".parse().unwrap()],
        lane_bind: vec!["127.0.0.1:0".parse().unwrap()],
        retry_least: Duration::from_millis(50),
        retry_most: Duration::from_millis(400),
        dial_timeout: Duration::from_secs(2),
        ..LinkConfig::default()
    }
}

fn echo(_peer: NodeId, stream: BoxStream) -> BoxFuture<'static, ()> {
    Box::pin(async move {
        let (mut reader, mut writer) = tokio::io::split(stream);
        if tokio::io::copy(&mut reader, &mut writer).await.is_ok() {
            let _: std::io::Result<()> = writer.shutdown().await;
        }
    })
}

pub(crate) async fn try_start(
    key: Arc<NodeKey>,
    store: Arc<MemoryPeers>,
    config: LinkConfig,
) -> Result<Node, BindError> {
    let link = Link::builder(key.clone(), config, store.clone()).protocol(ECHO, Arc::new(echo)).bind().await?;
    Ok(Node { key, store, handle: link.handle(), link })
}

impl Node {
    pub(crate) async fn start() -> Self {
        Self::start_with(on_loopback()).await
    }

    pub(crate) async fn start_with(config: LinkConfig) -> Self {
        try_start(Arc::new(NodeKey::generate()), Arc::default(), config).await.unwrap()
    }

    pub(crate) fn id(&self) -> NodeId {
        self.handle.node_id()
    }

    /// Ends the node without telling anybody, and starts it again elsewhere.
    pub(crate) async fn restart(self) -> Self {
        self.restart_with(on_loopback()).await
    }

    pub(crate) async fn restart_with(self, config: LinkConfig) -> Self {
        let Self { key, store, link, handle } = self;
        drop((link, handle));
        let starting = async {
            loop {
                match try_start(key.clone(), store.clone(), config.clone()).await {
                    // Where it listened may not be free yet.
                    Err(BindError::PortInUse { .. }) => tokio::time::sleep(Duration::from_millis(20)).await,
                    started => return started.unwrap(),
                }
            }
        };
        tokio::time::timeout(PATIENCE, starting).await.unwrap()
    }

    /// Knows where `other` is, without `other` knowing us.
    pub(crate) async fn knowing(other: &Node) -> Self {
        Self::knowing_with(other, on_loopback()).await
    }

    pub(crate) async fn knowing_with(other: &Node, config: LinkConfig) -> Self {
        let store = Arc::new(MemoryPeers::default());
        let record = Signed::sign(&other.handle.addresses(), &*other.key);
        store.save(StoredPeer { record, last_seen: 0 }).await.unwrap();
        try_start(Arc::new(NodeKey::generate()), store, config).await.unwrap()
    }

    /// Waits until what is known of `peer` is as wanted.
    pub(crate) async fn until(&self, peer: NodeId, what: &str, wanted: impl Fn(&Peer) -> bool) {
        let mut changes = self.handle.changes();
        let waiting = async {
            loop {
                changes.borrow_and_update();
                if self.handle.peer(&peer).is_some_and(|peer| wanted(&peer)) {
                    return;
                }
                changes.changed().await.unwrap();
            }
        };
        let outcome = tokio::time::timeout(PATIENCE, waiting).await;
        assert!(outcome.is_ok(), "{what}: never; {:?}", self.handle.peer(&peer));
    }

    pub(crate) async fn until_connected(&self, peer: NodeId) {
        self.until(peer, "connected", |peer| peer.connected.is_some()).await;
    }

    /// Sends a question to the echo of `peer` and checks the answer.
    pub(crate) async fn asks(&self, peer: NodeId, traffic: Traffic) {
        let mut stream = self.handle.open(peer, ECHO, traffic).await.unwrap();
        stream.write_all(b"are you there?").await.unwrap();
        stream.shutdown().await.unwrap();
        let mut answer = Vec::new();
        tokio::time::timeout(PATIENCE, stream.read_to_end(&mut answer)).await.unwrap().unwrap();
        assert_eq!(answer, b"are you there?");
    }
}

/// Two nodes that know each other.
pub(crate) async fn pair() -> (Node, Node) {
    pair_with(on_loopback(), on_loopback()).await
}

pub(crate) async fn pair_with(one: LinkConfig, other: LinkConfig) -> (Node, Node) {
    let (one, other) = (Node::start_with(one).await, Node::start_with(other).await);
    let ticket = one.handle.invite(Duration::from_secs(60), 1).unwrap();
    other.handle.join(&ticket).await.unwrap();
    (one, other)
}

/// A record of `key` that says that it is nowhere.
pub(crate) fn nowhere(key: &NodeKey, sequence: u64) -> Signed<AddressRecord> {
    let record = AddressRecord { node: key.id(), sequence, quic: Vec::new(), lane: Vec::new(), relay: None };
    Signed::sign(&record, key)
}
