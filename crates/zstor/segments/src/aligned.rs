//! Buffers at addresses O_DIRECT accepts, without `unsafe`: a vector that is a block too long, used from its first
//! aligned byte on.
//!
//! Those for reading go round ([`Recycled`]): fresh memory is faulted in page by page, which at gigabytes a second costs more than the read itself.

use crate::format::BLOCK_BYTES;
use bytes::Bytes;
use std::sync::{Arc, Mutex, PoisonError, Weak};

/// Idle buffers that are kept, in bytes: a few reads of several shards each.
const IDLE_BYTES_MAX: usize = 4 << 20;
/// Smaller ones are left to the allocator, which has them at hand.
const RECYCLED_BYTES_MIN: usize = 64 << 10;

/// A buffer of a fixed length whose address is a multiple of 4 KiB.
#[derive(Debug)]
pub(crate) struct AlignedBuffer {
    raw: Vec<u8>,
    start: usize,
    len: usize,
}

impl AlignedBuffer {
    /// `len` zeros.
    pub(crate) fn zeroed(len: usize) -> Self {
        let raw = vec![0; len + BLOCK_BYTES];
        let start = raw.as_ptr().align_offset(BLOCK_BYTES).min(BLOCK_BYTES);
        Self { raw, start, len }
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.raw[self.start..self.start + self.len]
    }

    pub(crate) fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.raw[self.start..self.start + self.len]
    }
}

/// Buffers that were used before, for whoever reads next.
#[derive(Clone, Debug, Default)]
pub(crate) struct Recycled(Arc<Mutex<Vec<AlignedBuffer>>>);

/// A buffer that goes back when the last view of it is dropped.
#[derive(Debug)]
pub(crate) struct Borrowed {
    buffer: AlignedBuffer,
    to: Weak<Mutex<Vec<AlignedBuffer>>>,
}

impl Recycled {
    /// A buffer of at least `len` bytes with any content.
    pub(crate) fn take(&self, len: usize) -> Borrowed {
        let fits = |idle: &AlignedBuffer| idle.len >= len && idle.len <= 2 * len;
        let mut idle = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let found = idle.iter().rposition(fits).map(|at| idle.swap_remove(at));
        drop(idle);
        Borrowed { buffer: found.unwrap_or_else(|| AlignedBuffer::zeroed(len)), to: Arc::downgrade(&self.0) }
    }
}

impl Borrowed {
    pub(crate) fn bytes(&self) -> &[u8] {
        self.buffer.bytes()
    }

    pub(crate) fn bytes_mut(&mut self) -> &mut [u8] {
        self.buffer.bytes_mut()
    }

    /// The whole buffer, to be shared without copying it.
    pub(crate) fn freeze(self) -> Bytes {
        Bytes::from_owner(self)
    }
}

impl AsRef<[u8]> for Borrowed {
    fn as_ref(&self) -> &[u8] {
        self.bytes()
    }
}

impl Drop for Borrowed {
    fn drop(&mut self) {
        let Some(to) = self.to.upgrade() else { return };
        let buffer = std::mem::replace(&mut self.buffer, AlignedBuffer { raw: Vec::new(), start: 0, len: 0 });
        let mut idle = to.lock().unwrap_or_else(PoisonError::into_inner);
        let held: usize = idle.iter().map(|idle| idle.len).sum();
        if buffer.len >= RECYCLED_BYTES_MIN && held + buffer.len <= IDLE_BYTES_MAX {
            idle.push(buffer);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_goes_round_and_stays_aligned() {
        let recycled = Recycled::default();
        let mut first = recycled.take(100_000);
        first.bytes_mut().fill(7);
        let at = first.bytes().as_ptr();
        let whole = first.freeze();
        let part = whole.slice(10..20);
        drop(whole);
        assert_ne!(recycled.take(100_000).bytes().as_ptr(), at, "still looked at");
        drop(part);
        let idle = || recycled.0.lock().map(|idle| idle.len()).unwrap_or_default();
        assert_eq!(idle(), 2);
        drop(recycled.take(300_000));
        drop(recycled.take(1000));
        assert_eq!(idle(), 3, "too small to be kept");
        let again = recycled.take(90_000);
        assert_eq!(again.bytes().as_ptr().align_offset(BLOCK_BYTES), 0);
        assert_eq!(idle(), 2);
        drop(recycled.take(IDLE_BYTES_MAX));
        assert_eq!(idle(), 2, "more than is kept");
    }
}
