//! Bounds on memory and threads: byte permits for what is in flight, turns at the processor, and buffers that go round.
//!
//! The permits count what a stripe will hold at most: its plaintext and its shards. They are given back when the shards are stored, or when the
//! plaintext was handed to the reader. A request for more than the whole pool gets the whole pool, so a large stripe waits but never for ever.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use atoll_codec::{Policy, STRIPE_BYTES};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Permits are counted in this many bytes, because a semaphore hands out at most 2³² at once.
const UNIT_BYTES: usize = 1024;
/// Idle plaintext buffers that are kept: as many as threads that fill them on a larger machine.
const IDLE_BUFFERS_MAX: usize = 16;
/// Reads shorter than this get a buffer of their own size.
const SMALL_BYTES: usize = 64 << 10;

/// A budget of bytes.
pub(crate) struct Budget {
    units: Arc<Semaphore>,
    max: usize,
}

impl Budget {
    pub(crate) fn new(bytes: usize) -> Self {
        let max = (bytes / UNIT_BYTES).max(1);
        Self { units: Arc::new(Semaphore::new(max)), max }
    }

    fn units(&self, bytes: usize) -> u32 {
        u32::try_from(bytes.div_ceil(UNIT_BYTES).clamp(1, self.max)).unwrap_or(u32::MAX)
    }

    /// Waits for so many bytes.
    pub(crate) async fn take(&self, bytes: usize) -> OwnedSemaphorePermit {
        let permit = self.units.clone().acquire_many_owned(self.units(bytes)).await;
        permit.expect("the semaphore is never closed")
    }

    /// So many bytes if they are free now.
    pub(crate) fn try_take(&self, bytes: usize) -> Option<OwnedSemaphorePermit> {
        self.units.clone().try_acquire_many_owned(self.units(bytes)).ok()
    }

    /// Waits for so many bytes, but goes on without them after `grace`.
    ///
    /// For readers: those who hold the budget may be readers whose consumers stopped taking, and one stopped consumer must not stop everyone. A
    /// reader has at most one stripe on such terms.
    pub(crate) async fn take_or_go_on(&self, bytes: usize, grace: Duration) -> Option<OwnedSemaphorePermit> {
        tokio::time::timeout(grace, self.take(bytes)).await.ok()
    }
}

/// Bytes that a stripe of `plain` bytes takes while it is in flight: itself and its shards.
pub(crate) fn stripe_bytes(policy: Policy, plain: usize) -> usize {
    plain + plain * policy.shards() / policy.data()
}

/// Plaintext buffers for files that are read.
#[derive(Default)]
pub(crate) struct PlainBuffers {
    idle: Mutex<Vec<Vec<u8>>>,
}

impl PlainBuffers {
    /// A buffer of at least `len` bytes with any content; `len` is at most a stripe.
    pub(crate) fn take(&self, len: usize) -> Vec<u8> {
        if len < SMALL_BYTES {
            return vec![0; len];
        }
        let idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
        idle.unwrap_or_else(|| vec![0; STRIPE_BYTES])
    }

    /// Takes a buffer back.
    pub(crate) fn give(&self, buffer: Vec<u8>) {
        if buffer.len() < STRIPE_BYTES {
            return;
        }
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.len() < IDLE_BUFFERS_MAX {
            idle.push(buffer);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_budget_is_kept_and_never_blocks_what_exceeds_it() {
        let budget = Budget::new(1 << 20);
        let all = budget.take(100 << 20).await;
        assert!(budget.try_take(1).is_none());
        assert!(budget.take_or_go_on(1, Duration::from_millis(1)).await.is_none());
        drop(all);
        assert!(budget.try_take(1 << 19).is_some());
        assert_eq!(stripe_bytes(Policy::new(4, 2).expect("valid"), 1 << 20), 2_621_440);
    }

    #[test]
    fn buffers_go_round() {
        let buffers = PlainBuffers::default();
        assert_eq!(buffers.take(10).len(), 10);
        let large = buffers.take(SMALL_BYTES);
        assert_eq!(large.len(), STRIPE_BYTES);
        buffers.give(large);
        assert_eq!(buffers.idle.lock().map(|idle| idle.len()).unwrap_or_default(), 1);
        assert_eq!(buffers.take(STRIPE_BYTES).len(), STRIPE_BYTES);
    }
}
