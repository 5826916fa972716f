//! What the pages show: the node's parts at one moment.

use atoll_control::{AppStatus, BucketInfo, EvdcStatus, GatewayStatus, NodeStatus, OfferStatus, PodStatus};
use futures_util::future::BoxFuture;

use crate::pages::Page;

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
    /// What runs in them; empty where the page does not show it, as asking takes time.
    pub workloads: Vec<Workloads>,
    /// The gateway, if it is one.
    pub gateway: Option<GatewayStatus>,
}

/// What runs in one eVDC.
#[derive(Debug, Clone, Default)]
pub struct Workloads {
    /// Its name.
    pub evdc: String,
    /// Applications installed in it.
    pub apps: Vec<AppStatus>,
    /// Its pods.
    pub pods: Vec<PodStatus>,
    /// Why they are not known, if its API does not say.
    pub problem: Option<String>,
}

/// Where snapshots come from.
pub trait Source: Send + Sync + 'static {
    /// The node now, with what this page shows.
    fn snapshot(&self, page: Page) -> BoxFuture<'_, Snapshot>;
}
