//! [`BufferPool`]: a few large buffers that go round instead of being mapped, faulted in and unmapped for every stripe.
//!
//! A buffer comes back when the last `Bytes` that looks into it is dropped, on whatever thread that is. What a buffer held before is still
//! in it when it is taken again: whoever takes one must overwrite all it hands on. Only ciphertext and plaintext pass
//! through, never keys. It cannot fail: a poisoned lock still guards a valid list.

use std::fmt;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use bytes::Bytes;

/// Buffers smaller than this are left to the allocator, which keeps them without asking the kernel.
const POOLED_BYTES_MIN: usize = 64 << 10;
/// A buffer starts at a multiple of this, so that vector stores do not straddle cache lines.
const ALIGN: usize = 64;
/// Idle memory a pool keeps unless told otherwise: ten stripes of 4+2.
const IDLE_BYTES_MAX_DEFAULT: usize = 16 << 20;

/// Idle buffers, shared by all sealers and openers that were given this pool. Cheap to clone.
#[derive(Clone)]
pub struct BufferPool {
    shared: Arc<Shared>,
}

struct Shared {
    idle: Mutex<Vec<Vec<u8>>>,
    idle_bytes_max: usize,
}

impl Shared {
    fn idle(&self) -> MutexGuard<'_, Vec<Vec<u8>>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn bytes_of(buffers: &[Vec<u8>]) -> usize {
    buffers.iter().map(Vec::len).sum()
}

impl BufferPool {
    /// A pool that keeps up to `idle_bytes_max` bytes of buffers nobody uses. What is in use is bounded by its users alone.
    pub fn new(idle_bytes_max: usize) -> Self {
        Self { shared: Arc::new(Shared { idle: Mutex::default(), idle_bytes_max }) }
    }

    /// Bytes in idle buffers now.
    pub fn idle_bytes(&self) -> usize {
        bytes_of(&self.shared.idle())
    }

    /// A buffer of `len` bytes holding anything.
    pub(crate) fn take(&self, len: usize) -> Buffer {
        let need = len + ALIGN;
        let found = if len < POOLED_BYTES_MIN { None } else { self.find(need) };
        let storage = found.unwrap_or_else(|| vec![0; need]);
        // For byte pointers the offset is always found; were it not, the buffer would merely be unaligned.
        let start = storage.as_ptr().align_offset(ALIGN).min(ALIGN);
        Buffer { storage, visible: start..start + len, pool: Arc::downgrade(&self.shared) }
    }

    /// An idle buffer of at least `need` bytes but not more than twice that, so that a small stripe does not sit on a large buffer.
    fn find(&self, need: usize) -> Option<Vec<u8>> {
        let mut idle = self.shared.idle();
        let at = idle.iter().rposition(|storage| storage.len() >= need && storage.len() <= 2 * need)?;
        Some(idle.remove(at))
    }
}

impl Default for BufferPool {
    /// A pool that keeps up to 16 MiB idle.
    fn default() -> Self {
        Self::new(IDLE_BYTES_MAX_DEFAULT)
    }
}

impl fmt::Debug for BufferPool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BufferPool").field("idle_bytes", &self.idle_bytes()).finish_non_exhaustive()
    }
}

/// A buffer on loan.
pub(crate) struct Buffer {
    storage: Vec<u8>,
    visible: Range<usize>,
    pool: Weak<Shared>,
}

impl Buffer {
    /// All of it.
    pub(crate) fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.storage[self.visible.clone()]
    }

    /// The first `len` bytes, now immutable and shareable; the rest stays out of sight.
    pub(crate) fn freeze(mut self, len: usize) -> Bytes {
        debug_assert!(len <= self.visible.len());
        self.visible.end = self.visible.start + len;
        Bytes::from_owner(self)
    }
}

impl AsRef<[u8]> for Buffer {
    fn as_ref(&self) -> &[u8] {
        &self.storage[self.visible.clone()]
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        if self.storage.len() < POOLED_BYTES_MIN {
            return;
        }
        let Some(shared) = self.pool.upgrade() else { return };
        let mut idle = shared.idle();
        if bytes_of(&idle) + self.storage.len() <= shared.idle_bytes_max {
            idle.push(std::mem::take(&mut self.storage));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LARGE: usize = 1 << 20;

    #[test]
    fn a_buffer_comes_back_with_the_last_view_of_it() {
        let pool = BufferPool::default();
        let mut buffer = pool.take(LARGE);
        assert_eq!(buffer.bytes_mut().as_ptr().align_offset(ALIGN), 0);
        buffer.bytes_mut().fill(7);
        let whole = buffer.freeze(LARGE - 5);
        assert_eq!(whole.len(), LARGE - 5);
        let part = whole.slice(10..20);
        drop(whole);
        assert_eq!(pool.idle_bytes(), 0);
        assert_eq!(part[..], [7; 10]);
        std::thread::spawn(move || drop(part)).join().expect("the thread does not panic");
        assert_eq!(pool.idle_bytes(), LARGE + ALIGN);

        let again = pool.take(LARGE - 100);
        assert_eq!(pool.idle_bytes(), 0, "the same one, a little too large");
        drop(again);
        let small = pool.take(LARGE / 4);
        assert_eq!(pool.idle_bytes(), LARGE + ALIGN, "much too large to be lent");
        drop(small);
        assert_eq!(pool.idle_bytes(), LARGE + ALIGN + LARGE / 4 + ALIGN);
    }

    #[test]
    fn idle_memory_is_bounded_and_small_buffers_are_not_kept() {
        let pool = BufferPool::new(2 * LARGE + 2 * ALIGN);
        let many: Vec<_> = (0..5).map(|_| pool.take(LARGE)).collect();
        drop(many);
        assert_eq!(pool.idle_bytes(), 2 * (LARGE + ALIGN));
        let pool = BufferPool::default();
        drop(pool.take(100));
        assert_eq!(pool.idle_bytes(), 0);
    }

    #[test]
    fn buffers_outlive_their_pool() {
        let pool = BufferPool::default();
        let bytes = pool.take(LARGE).freeze(LARGE);
        drop(pool);
        assert_eq!(bytes.len(), LARGE);
    }
}
