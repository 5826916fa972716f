//! The seam to whoever knows which nodes there are and how to reach them (`crates/node`).

use std::sync::Arc;

use atoll_ids::{Domain, NodeId};
use atoll_shard::ShardHome;

/// The nodes that may keep shards of this owner.
pub trait Homes: Send + Sync + 'static {
    /// All of them, in any order. Called often: an implementation answers from memory.
    fn list(&self) -> Vec<HomeInfo>;

    /// A way to speak to one of them; `None` if it is not known (any more), and what was kept there is then taken for lost.
    fn home(&self, node: NodeId) -> Option<Arc<dyn ShardHome>>;
}

/// A node that may keep shards.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HomeInfo {
    /// The node.
    pub node: NodeId,
    /// Its share of what is stored: bytes of capacity. A node of weight 0 gets nothing new.
    pub weight: u64,
    /// What it may fail together with.
    pub domain: Domain,
    /// Whether it is believed to answer. New stripes are placed on nodes that are up; reading prefers them.
    pub up: bool,
}
