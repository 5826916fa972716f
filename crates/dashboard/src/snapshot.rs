//! What the pages show: the node's parts at one moment.

use atoll_control::{BucketInfo, EvdcStatus, GatewayStatus, NodeStatus, OfferStatus};
use futures_util::future::BoxFuture;

/// The node at one moment.
#[derive(Debug, Clone)]
pub struct Snapshot {
    /// The node itself, its roles and peers.
    pub node: NodeStatus,
    /// Its owner's buckets.
    pub buckets: Vec<BucketInfo>,
    /// What peers lend; empty where the page does not show it, as asking takes time.
    pub offers: Vec<OfferStatus>,
    /// Its owner's eVDCs.
    pub evdcs: Vec<EvdcStatus>,
    /// The gateway, if it is one.
    pub gateway: Option<GatewayStatus>,
}

/// Where snapshots come from.
pub trait Source: Send + Sync + 'static {
    /// The node now; `offers` asks for the peers' offers too.
    fn snapshot(&self, offers: bool) -> BoxFuture<'_, Snapshot>;
}
