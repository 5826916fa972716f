//! Homes in memory, for tests of whoever stores through this crate: [`MemoryNodes`] is a grid of [`MemoryHome`]s that can be killed, hung and brought back.

use std::sync::{Arc, Mutex};

use atoll_ids::{Domain, NodeId};
use atoll_shard::ShardHome;
pub use atoll_shard::testing::{Faults, MemoryHome};

use crate::homes::{HomeInfo, Homes};
use crate::inner::lock;

/// Nodes in memory. Their numbers count from 0 in the order they were added.
#[derive(Default)]
pub struct MemoryNodes {
    nodes: Mutex<Vec<(Arc<MemoryHome>, HomeInfo)>>,
}

impl MemoryNodes {
    /// So many empty nodes.
    ///
    /// # Panics
    /// For more than 255.
    #[must_use]
    pub fn new(count: usize) -> Arc<Self> {
        let nodes = Arc::new(Self::default());
        for _ in 0..count {
            nodes.add();
        }
        nodes
    }

    /// Adds an empty node; its number.
    ///
    /// # Panics
    /// If there are 255.
    pub fn add(&self) -> usize {
        let mut nodes = lock(&self.nodes);
        let number = nodes.len();
        let byte = u8::try_from(number + 1).expect("tests have few nodes");
        let node = NodeId::from_bytes([byte; 32]);
        let info = HomeInfo { node, weight: 1 << 40, domain: Domain::default(), up: true };
        nodes.push((Arc::new(MemoryHome::new(node)), info));
        number
    }

    /// One of them.
    pub fn home(&self, number: usize) -> Arc<MemoryHome> {
        lock(&self.nodes)[number].0.clone()
    }

    /// Lets a node not answer; with `known` others have noticed.
    pub fn kill(&self, number: usize, known: bool) {
        self.home(number).fault(|faults| faults.unreachable = true);
        lock(&self.nodes)[number].1.up = !known;
    }

    /// Brings a node back with what it had.
    pub fn revive(&self, number: usize) {
        self.home(number).heal();
        lock(&self.nodes)[number].1.up = true;
    }

    /// All shards on all nodes.
    pub fn shards(&self) -> usize {
        lock(&self.nodes).iter().map(|(home, _)| home.ids().len()).sum()
    }
}

impl Homes for MemoryNodes {
    fn list(&self) -> Vec<HomeInfo> {
        lock(&self.nodes).iter().map(|(_, info)| info.clone()).collect()
    }

    fn home(&self, id: NodeId) -> Option<Arc<dyn ShardHome>> {
        let nodes = lock(&self.nodes);
        let (home, _) = nodes.iter().find(|(_, info)| info.node == id)?;
        Some(home.clone())
    }
}
