//! The message bus of this node: its setting, and the bus's view of link and peers.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use atoll_bus::{Bus, BusConfig, BusHandle, BusLink, Limits, PROTOCOL, StoreError, Stream};
use atoll_ids::{NodeId, OwnerId};
use atoll_kv::KeyValue;
use atoll_link::{BoxStream, LinkHandle, StreamHandler, Traffic};
use atoll_settings::{Key, Kind};
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use tokio::sync::{oneshot, watch};

use crate::config::Config;
use crate::peer_table::PeerTable;

/// The setting of the bus.
pub(crate) const ALLOW: Key = Key {
    name: "bus.allow",
    kind: Kind::List(&Kind::Text),
    default: Some("own"),
    doc: "who may send messages here, and on which topics: `own` (nodes of this owner), `peers status.*`, `owner:ID backup.**`, `node:ID`",
    flag: None,
};

/// The link as the bus needs it.
pub(crate) fn link(link: LinkHandle) -> Arc<dyn BusLink> {
    Arc::new(Carrier(link))
}

struct Carrier(LinkHandle);

impl BusLink for Carrier {
    fn open(&self, node: NodeId) -> BoxFuture<'_, Result<Box<dyn Stream>, String>> {
        async move {
            let opened = self.0.open(node, PROTOCOL, Traffic::Control).await;
            opened.map(|stream| Box::new(stream) as Box<dyn Stream>).map_err(|error| error.to_string())
        }
        .boxed()
    }

    fn connected(&self) -> Vec<NodeId> {
        self.0.peers().into_iter().filter(|peer| peer.connected.is_some()).map(|peer| peer.id).collect()
    }

    fn changes(&self) -> watch::Receiver<u64> {
        self.0.changes()
    }
}

/// Serves the bus to peers once it is there; before that, streams are dropped and peers try again.
#[derive(Clone, Default)]
pub(crate) struct BusDoor(Arc<OnceLock<(BusHandle, PeerTable)>>);

impl BusDoor {
    /// Opens the bus over what the node remembers; from now on streams are served.
    pub(crate) async fn open(
        &self,
        config: &Config,
        kv: Arc<dyn KeyValue>,
        (node, owner): (NodeId, OwnerId),
        peers: &PeerTable,
    ) -> Result<Bus, StoreError> {
        let allow = config.bus_allow.clone();
        let bus = Bus::open(kv, BusConfig { node, owner, allow, limits: Limits::default() }).await?;
        // It is opened once.
        let _: Result<(), _> = self.0.set((bus.handle(), peers.clone()));
        Ok(bus)
    }
}

impl StreamHandler for BusDoor {
    fn handle(&self, peer: NodeId, stream: BoxStream) -> BoxFuture<'static, ()> {
        let door = self.clone();
        async move {
            let Some((bus, peers)) = door.0.get() else { return };
            if let Err(error) = bus.serve(peer, peers.owner(&peer), stream).await {
                tracing::debug!(peer = %peer.short(), %error, "a stream of messages ended early");
            }
        }
        .boxed()
    }
}

/// Whoever acknowledges over the control API waits here for what comes of it.
pub(crate) type AckReply = oneshot::Sender<Result<(), atoll_bus::BusError>>;

/// The bus as the control API uses it. Cheap to clone.
#[derive(Clone)]
pub(crate) struct BusRole {
    pub(crate) handle: BusHandle,
    /// Messages that receivers have, by the tag with which they are acknowledged.
    handed: Arc<Mutex<HashMap<String, oneshot::Sender<AckReply>>>>,
}

impl BusRole {
    pub(crate) fn new(handle: BusHandle) -> Self {
        Self { handle, handed: Arc::default() }
    }

    /// A tag under which the acknowledgement of a message is waited for.
    pub(crate) fn hand(&self) -> Handed {
        let mut random = [0; 16];
        getrandom::fill(&mut random).expect("the operating system has randomness");
        let tag: String = random.iter().map(|byte| format!("{byte:02x}")).collect();
        let (tell, acknowledged) = oneshot::channel();
        self.handed.lock().unwrap_or_else(PoisonError::into_inner).insert(tag.clone(), tell);
        Handed { role: self.clone(), tag, acknowledged }
    }

    /// Whoever waits under a tag, if anybody does.
    pub(crate) fn acknowledge(&self, tag: &str) -> Option<oneshot::Sender<AckReply>> {
        self.handed.lock().unwrap_or_else(PoisonError::into_inner).remove(tag)
    }
}

/// A message that a receiver has. Dropped, its tag is of no use any more.
pub(crate) struct Handed {
    role: BusRole,
    pub(crate) tag: String,
    pub(crate) acknowledged: oneshot::Receiver<AckReply>,
}

impl Drop for Handed {
    fn drop(&mut self) {
        self.role.acknowledge(&self.tag);
    }
}
