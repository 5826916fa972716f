//! What was read lately, by stripes of blobs. Blobs never change, so nothing here is ever wrong; it is only forgotten.
//!
//! Readers that want the same stripe at the same time share one fetch: the kernel asks for a stripe in pieces of 128 KiB.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use tokio::sync::OnceCell;

use super::lock;
use crate::tree::extents::BlobId;

/// A blob and the number of a stripe in it.
pub(super) type Key = (BlobId, u64);

/// Bytes of a full stripe: what each place in the cache is taken to cost.
pub(super) const STRIPE_BYTES: u64 = 1 << 20;

pub(super) type Cell = Arc<OnceCell<Bytes>>;

#[derive(Default)]
struct State {
    cells: HashMap<Key, Cell>,
    /// In the order they came.
    order: VecDeque<Key>,
}

/// First in, first out: files are mostly read from front to back.
pub(super) struct Cache {
    state: Mutex<State>,
    max: usize,
}

impl Cache {
    pub(super) fn new(bytes: usize) -> Self {
        let stripe = usize::try_from(STRIPE_BYTES).unwrap_or(usize::MAX);
        Self { state: Mutex::default(), max: (bytes / stripe).max(4) }
    }

    /// The place of a stripe, filled or to be filled.
    pub(super) fn cell(&self, key: Key) -> Cell {
        let mut state = lock(&self.state);
        if let Some(cell) = state.cells.get(&key) {
            return cell.clone();
        }
        while state.order.len() >= self.max {
            let Some(oldest) = state.order.pop_front() else { break };
            state.cells.remove(&oldest);
        }
        let cell = Cell::default();
        state.cells.insert(key, cell.clone());
        state.order.push_back(key);
        cell
    }
}
