//! Memory for large bodies, which goes round: fresh memory is faulted in page by page, and at gigabytes a second that costs a tenth of all the work.
//!
//! One pool for the process, because what one connection gives back the next one needs. A body comes back when the last view of it is dropped. What it held before
//! is still in it when it is taken again; whoever reads into it hands out only what was read.

use std::sync::{Mutex, PoisonError};

use bytes::Bytes;

/// Smaller bodies are left to the allocator, which has such memory at hand.
const POOLED_BYTES_MIN: usize = 64 << 10;

/// Idle memory that is kept: the shards of the stripes that an engine has in flight.
const IDLE_BYTES_MAX: usize = 12 << 20;

static IDLE: Mutex<Vec<Vec<u8>>> = Mutex::new(Vec::new());

/// A body that is being read.
pub(crate) struct Body {
    memory: Vec<u8>,
    len: usize,
}

impl Body {
    /// Room for `len` bytes.
    pub(crate) fn take(len: usize) -> Self {
        let found = if len < POOLED_BYTES_MIN { None } else { find(len) };
        Self { memory: found.unwrap_or_else(|| vec![0; len]), len }
    }

    /// All of it, with any content.
    pub(crate) fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.memory[..self.len]
    }

    /// What was read into it.
    pub(crate) fn freeze(mut self) -> Bytes {
        if self.memory.len() < POOLED_BYTES_MIN {
            return Bytes::from(std::mem::take(&mut self.memory));
        }
        Bytes::from_owner(self)
    }
}

/// An idle buffer of at least `len` bytes, but not so large that most of it would lie idle still.
fn find(len: usize) -> Option<Vec<u8>> {
    let mut idle = IDLE.lock().unwrap_or_else(PoisonError::into_inner);
    let at = idle.iter().rposition(|memory| memory.len() >= len && memory.len() <= 2 * len)?;
    Some(idle.swap_remove(at))
}

impl AsRef<[u8]> for Body {
    fn as_ref(&self) -> &[u8] {
        &self.memory[..self.len]
    }
}

impl Drop for Body {
    fn drop(&mut self) {
        if self.memory.len() < POOLED_BYTES_MIN {
            return;
        }
        let mut idle = IDLE.lock().unwrap_or_else(PoisonError::into_inner);
        let held: usize = idle.iter().map(Vec::len).sum();
        if held + self.memory.len() <= IDLE_BYTES_MAX {
            idle.push(std::mem::take(&mut self.memory));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_and_large_bodies_hold_what_was_read() {
        for len in [0, 1, POOLED_BYTES_MIN - 1, POOLED_BYTES_MIN, 300_000, IDLE_BYTES_MAX + 1] {
            for round in [1, 2] {
                let mut body = Body::take(len);
                body.bytes_mut().fill(round);
                let body = body.freeze();
                assert_eq!(body.len(), len);
                assert!(body.iter().all(|&byte| byte == round));
            }
        }
        let held: usize = IDLE.lock().map(|idle| idle.iter().map(Vec::len).sum()).unwrap_or(usize::MAX);
        assert!(held <= IDLE_BYTES_MAX);
    }
}
