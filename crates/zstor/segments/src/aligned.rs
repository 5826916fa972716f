//! Buffers at addresses O_DIRECT accepts, without `unsafe`: a vector that is a block too long, used from its first
//! aligned byte on.

use crate::format::BLOCK_BYTES;
use bytes::Bytes;
use std::ops::Range;

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

    /// Part of the buffer, without copying it.
    pub(crate) fn into_bytes(self, range: Range<usize>) -> Bytes {
        let start = self.start;
        Bytes::from(self.raw).slice(start + range.start..start + range.end)
    }
}
