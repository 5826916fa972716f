//! Peers: what is kept about a node we know, where it is kept, and what others see of it.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::str::FromStr;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use atoll_ids::NodeId;
use atoll_keys::Signed;
use atoll_wire::Versioned;
use futures_util::future::BoxFuture;
use serde::{Deserialize, Serialize};

use crate::address::{AddressRecord, is_dialable};

/// What is kept of a peer between two runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoredPeer {
    /// The newest thing it said about where it is.
    pub record: Signed<AddressRecord>,
    /// When it was connected last, in milliseconds since 1970; 0 for never.
    pub last_seen: u64,
}

impl Versioned for StoredPeer {
    const VERSION: u16 = 1;
    const NAME: &'static str = "stored peer";
}

impl StoredPeer {
    /// Whose record this is, as the record claims: the key to store it under.
    pub fn node(&self) -> NodeId {
        NodeId::from_bytes(*self.record.claimed_signer())
    }
}

/// What went wrong in a store. The link passes it on and does not look inside.
pub type PeerStoreError = Box<dyn std::error::Error + Send + Sync>;

/// Where peers are kept between two runs. A peer is stored before a join succeeds, so what `save` acknowledged must survive a crash.
pub trait PeerStore: Send + Sync + 'static {
    /// Every peer.
    fn load_all(&self) -> BoxFuture<'_, Result<Vec<StoredPeer>, PeerStoreError>>;

    /// Keeps a peer, in place of what was kept of the same node.
    fn save(&self, peer: StoredPeer) -> BoxFuture<'_, Result<(), PeerStoreError>>;

    /// Forgets a peer; nothing happens if it is not there.
    fn remove(&self, node: NodeId) -> BoxFuture<'_, Result<(), PeerStoreError>>;
}

/// Peers in memory only: for tests, and for nodes that are to forget.
#[derive(Debug, Default)]
pub struct MemoryPeers {
    peers: Mutex<BTreeMap<NodeId, StoredPeer>>,
}

impl PeerStore for MemoryPeers {
    fn load_all(&self) -> BoxFuture<'_, Result<Vec<StoredPeer>, PeerStoreError>> {
        let all = self.peers.lock().unwrap_or_else(PoisonError::into_inner).values().cloned().collect();
        Box::pin(async { Ok(all) })
    }

    fn save(&self, peer: StoredPeer) -> BoxFuture<'_, Result<(), PeerStoreError>> {
        self.peers.lock().unwrap_or_else(PoisonError::into_inner).insert(peer.node(), peer);
        Box::pin(async { Ok(()) })
    }

    fn remove(&self, node: NodeId) -> BoxFuture<'_, Result<(), PeerStoreError>> {
        self.peers.lock().unwrap_or_else(PoisonError::into_inner).remove(&node);
        Box::pin(async { Ok(()) })
    }
}

/// A node that the configuration names: it is known without a ticket, as long as it knows us in the same way or by one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FixedPeer {
    /// Who.
    pub node: NodeId,
    /// Where it listens for QUIC.
    pub address: SocketAddr,
}

/// Why a text does not name a peer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{text:?} does not name a peer: expected NODEID@ADDRESS:PORT, like n…@192.0.2.1:5771 or n…@[2001:db8::1]:5771; {reason}"
)]
pub struct FixedPeerError {
    text: String,
    reason: String,
}

impl FromStr for FixedPeer {
    type Err = FixedPeerError;

    fn from_str(text: &str) -> Result<Self, FixedPeerError> {
        // More characters than any peer takes would drown the message.
        let refuse = |reason: String| FixedPeerError { text: text.chars().take(120).collect(), reason };
        let (node, address) = text.trim().split_once('@').ok_or_else(|| refuse("there is no @".to_owned()))?;
        let node = node.parse().map_err(|error| refuse(format!("{error}")))?;
        let address = address.parse().map_err(|_| refuse(format!("{address:?} is no address with a port")))?;
        if !is_dialable(&address) {
            return Err(refuse(format!(
                "{address} cannot be dialled: it must be an address of the underlying network"
            )));
        }
        Ok(Self { node, address })
    }
}

/// A node we know, as it stands at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    /// Who.
    pub id: NodeId,
    /// Where it says it is.
    pub record: AddressRecord,
    /// When it was connected last (now, if it is), in milliseconds since 1970; 0 for never.
    pub last_seen: u64,
    /// How it is connected; `None` while it is not.
    pub connected: Option<Connected>,
    /// Lanes open to and from it.
    pub lanes: usize,
    /// Connections that are kept for protocols beside the one that shows that it is there.
    pub connections: usize,
}

/// A living connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Connected {
    /// The way packets take now.
    pub path: Path,
    /// The round trip measured on it.
    pub round_trip: Duration,
}

/// A way to a peer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Path {
    /// Directly to this address.
    Direct(SocketAddr),
    /// Through the relay at this URL.
    Relay(String),
    /// Through this peer, who relays; `None` while that is changing.
    Via(Option<NodeId>),
}

impl std::fmt::Display for Path {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Direct(address) => write!(f, "direct {address}"),
            Self::Relay(url) => write!(f, "relay {url}"),
            Self::Via(Some(node)) => write!(f, "via {}", node.short()),
            Self::Via(None) => f.write_str("via a relay"),
        }
    }
}
