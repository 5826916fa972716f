//! Large byte buffers, lent to lanes while bytes are moving and taken back when they rest.
//!
//! A lane wants a quarter of a mebibyte in each direction to move many TLS records per system call, and a node may keep
//! hundreds of idle lanes. So a lane that waits holds no buffer at all. The pool keeps a few to spare allocation on the
//! fast path and frees the rest; it never blocks and never fails.
//!
//! A buffer comes back with old bytes in it: it is a place, and whoever borrows one keeps track of which part is theirs.

use std::sync::{Arc, Mutex, PoisonError};

/// Plaintext that one encryption step takes, in bytes: 17 full TLS records per system call, so that a message with 256 KiB of payload and its header goes
/// out with one. In one run on a busy machine 64 KiB cost 9 % more CPU per byte and 128 KiB 3 %; 1 MiB gained nothing beyond noise.
pub(crate) const CHUNK_BYTES: usize = 272 * 1024;

/// What TLS 1.3 adds to a record: 5 bytes of header, 1 of inner content type, 16 of tag.
pub(crate) const RECORD_OVERHEAD: usize = 22;

/// The most plaintext a TLS record can hold (RFC 8446, 5.1).
pub(crate) const RECORD_BYTES_MAX: usize = 16 * 1024;

/// Room in an outgoing buffer that data never takes: for alerts and key updates, which are tens of bytes each.
pub(crate) const CONTROL_BYTES: usize = 1024;

/// Size of a lent buffer: a full chunk as records, and room for control records.
pub(crate) const BUFFER_BYTES: usize = CHUNK_BYTES + (CHUNK_BYTES / RECORD_BYTES_MAX) * RECORD_OVERHEAD + CONTROL_BYTES;

/// Buffers kept for reuse: 16 × 274 KiB is about 4 MiB, enough for eight lanes busy in both directions.
const KEPT_MAX: usize = 16;

/// A pool that lanes of one connector or acceptor share.
#[derive(Debug, Clone, Default)]
pub(crate) struct Pool {
    kept: Arc<Mutex<Vec<Box<[u8]>>>>,
}

impl Pool {
    /// A buffer of [`BUFFER_BYTES`], with arbitrary content.
    fn take(&self) -> Box<[u8]> {
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner).pop();
        kept.unwrap_or_else(|| vec![0; BUFFER_BYTES].into_boxed_slice())
    }

    fn give_back(&self, buffer: Box<[u8]>) {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.len() < KEPT_MAX {
            kept.push(buffer);
        }
    }
}

/// A queue of bytes in a borrowed buffer: filled at the end, consumed at the front, holding no memory while empty and
/// released.
#[derive(Debug)]
pub(crate) struct Window {
    pool: Pool,
    buffer: Option<Box<[u8]>>,
    start: usize,
    end: usize,
}

impl Window {
    pub(crate) fn new(pool: Pool) -> Self {
        Self { pool, buffer: None, start: 0, end: 0 }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.start == self.end
    }

    /// The bytes waiting.
    pub(crate) fn filled(&mut self) -> &mut [u8] {
        match &mut self.buffer {
            Some(buffer) => &mut buffer[self.start..self.end],
            None => &mut [],
        }
    }

    /// Room behind the waiting bytes. Moves them to the front first, which is cheap because at most one incomplete
    /// record waits when more is wanted.
    pub(crate) fn spare(&mut self) -> &mut [u8] {
        let buffer = self.buffer.get_or_insert_with(|| self.pool.take());
        if self.start > 0 {
            buffer.copy_within(self.start..self.end, 0);
            self.end -= self.start;
            self.start = 0;
        }
        &mut buffer[self.end..]
    }

    /// Declares the first `count` bytes of [`spare`](Self::spare) filled.
    pub(crate) fn fill(&mut self, count: usize) {
        self.end += count;
        debug_assert!(self.end <= BUFFER_BYTES, "filled beyond the buffer");
    }

    /// Drops `count` bytes at the front.
    pub(crate) fn consume(&mut self, count: usize) {
        self.start += count;
        debug_assert!(self.start <= self.end, "consumed more than was there");
        if self.is_empty() {
            self.start = 0;
            self.end = 0;
        }
    }

    /// Returns the memory if nothing waits in it.
    pub(crate) fn release_if_empty(&mut self) {
        if self.is_empty()
            && let Some(buffer) = self.buffer.take()
        {
            self.pool.give_back(buffer);
        }
    }

    /// Memory held now, in bytes.
    pub(crate) fn held_bytes(&self) -> usize {
        self.buffer.as_ref().map_or(0, |buffer| buffer.len())
    }
}

impl Drop for Window {
    fn drop(&mut self) {
        if let Some(buffer) = self.buffer.take() {
            self.pool.give_back(buffer);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_is_a_queue() {
        let mut window = Window::new(Pool::default());
        assert!(window.filled().is_empty());
        window.spare()[..5].copy_from_slice(b"atoll");
        window.fill(5);
        window.consume(2);
        assert_eq!(window.filled(), b"oll");
        window.spare()[..1].copy_from_slice(b"y");
        window.fill(1);
        assert_eq!(window.filled(), b"olly");
    }

    #[test]
    fn an_empty_window_gives_its_memory_back_and_the_pool_reuses_it() {
        let pool = Pool::default();
        let mut window = Window::new(pool.clone());
        window.spare();
        window.fill(1);
        window.release_if_empty();
        assert_eq!(window.held_bytes(), BUFFER_BYTES, "bytes still wait in it");
        window.consume(1);
        window.release_if_empty();
        assert_eq!(window.held_bytes(), 0);
        assert_eq!(pool.kept.lock().expect("not poisoned").len(), 1);
    }

    #[test]
    fn the_pool_keeps_only_so_many() {
        let pool = Pool::default();
        for _ in 0..KEPT_MAX + 3 {
            pool.give_back(vec![0; 1].into_boxed_slice());
        }
        assert_eq!(pool.kept.lock().expect("not poisoned").len(), KEPT_MAX);
    }
}
