//! The peers this node knows, kept in the embedded store so that they stay known across restarts.

use std::sync::Arc;

use atoll_ids::NodeId;
use atoll_kv::{KeyValue, Mutation, SCAN_ENTRIES_MAX, Scan};
use atoll_link::{PeerStore, PeerStoreError, StoredPeer};
use atoll_wire::{decode, encode};
use bytes::Bytes;
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;

/// Peers lie under `peer/<node id>`.
const PREFIX: &str = "peer/";

/// [`PeerStore`] over the key-value seam.
pub(crate) struct KvPeers {
    kv: Arc<dyn KeyValue>,
}

impl KvPeers {
    /// Keeps peers in `kv`.
    pub(crate) fn new(kv: Arc<dyn KeyValue>) -> Arc<Self> {
        Arc::new(Self { kv })
    }

    fn key(node: NodeId) -> Bytes {
        Bytes::from(format!("{PREFIX}{node}"))
    }
}

impl PeerStore for KvPeers {
    fn load_all(&self) -> BoxFuture<'_, Result<Vec<StoredPeer>, PeerStoreError>> {
        async move {
            let mut peers = Vec::new();
            let mut after: Option<Bytes> = None;
            loop {
                let mut scan = Scan::new(PREFIX, SCAN_ENTRIES_MAX);
                if let Some(after) = after {
                    scan = scan.after(after);
                }
                let page = self.kv.scan(scan).await.map_err(failed)?;
                after = page.last().map(|entry| entry.key.clone());
                if page.is_empty() {
                    return Ok(peers);
                }
                for entry in page {
                    peers.push(decode(&entry.value).map_err(failed)?);
                }
            }
        }
        .boxed()
    }

    fn save(&self, peer: StoredPeer) -> BoxFuture<'_, Result<(), PeerStoreError>> {
        async move {
            let mutation = Mutation::Put { key: Self::key(peer.node()), value: Bytes::from(encode(&peer)) };
            self.kv.commit(Vec::new(), vec![mutation]).await.map(drop).map_err(failed)
        }
        .boxed()
    }

    fn remove(&self, node: NodeId) -> BoxFuture<'_, Result<(), PeerStoreError>> {
        async move {
            let mutation = Mutation::Delete { key: Self::key(node) };
            self.kv.commit(Vec::new(), vec![mutation]).await.map(drop).map_err(failed)
        }
        .boxed()
    }
}

fn failed(error: impl std::error::Error + Send + Sync + 'static) -> PeerStoreError {
    Box::new(error)
}
