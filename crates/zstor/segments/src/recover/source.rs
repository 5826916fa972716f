//! A segment file as the walk over its records reads it.
//!
//! Records that follow closely are read in stretches of 1 MiB; after a long payload only the blocks with the next
//! header are. A block the disk cannot read counts as zeros, and is counted; if a whole stretch cannot be read, the
//! disk is broken rather than a block of it, and that is an error.

use crate::aligned::AlignedBuffer;
use crate::disk::DiskFile;
use crate::format::scan::Source;
use crate::format::{BLOCK_BYTES, DATA_START, block_down, block_up};
use std::io;

/// Read at once when records follow closely: at this size a disk reads at full speed.
const STRETCH_BYTES: usize = 1 << 20;

/// A jump over more than this is worth not reading what lies between: 64 KiB take as long to read as a seek in an NVMe
/// drive's queue.
const JUMP_BYTES: u64 = 64 << 10;

/// Reads a file piece by piece, forwards.
pub(super) struct FileSource<'a> {
    file: &'a dyn DiskFile,
    len: u64,
    buffer: AlignedBuffer,
    start: u64,
    filled: usize,
    unreadable: u64,
}

impl<'a> FileSource<'a> {
    pub(super) fn new(file: &'a dyn DiskFile, len: u64) -> Self {
        Self { file, len, buffer: AlignedBuffer::zeroed(STRETCH_BYTES), start: 0, filled: 0, unreadable: 0 }
    }

    /// How many blocks could not be read.
    pub(super) fn unreadable_blocks(&self) -> u64 {
        self.unreadable
    }

    /// The blocks with the segment's headers.
    pub(super) fn head(&mut self) -> io::Result<&[u8]> {
        self.fill(0, DATA_START as usize)?;
        Ok(&self.buffer.bytes()[..self.filled])
    }

    fn fill(&mut self, start: u64, want: usize) -> io::Result<()> {
        self.start = start;
        self.filled = match self.file.pread(&mut self.buffer.bytes_mut()[..want], start) {
            Ok(got) => got,
            Err(_) => self.fill_blockwise(start)?,
        };
        Ok(())
    }

    fn fill_blockwise(&mut self, start: u64) -> io::Result<usize> {
        let want = (block_up(self.len).saturating_sub(start)).min(STRETCH_BYTES as u64) as usize;
        let (mut bad, mut filled) = (0, 0);
        for at in (0..want).step_by(BLOCK_BYTES) {
            let block = &mut self.buffer.bytes_mut()[at..at + BLOCK_BYTES];
            match self.file.pread(block, start + at as u64) {
                Ok(got) => filled = at + got,
                Err(e) => {
                    bad += 1;
                    if bad * BLOCK_BYTES == want {
                        return Err(e);
                    }
                    block.fill(0);
                    filled = at + BLOCK_BYTES;
                }
            }
        }
        self.unreadable += bad as u64;
        Ok(filled)
    }
}

impl Source for FileSource<'_> {
    fn at(&mut self, offset: u64, len: usize) -> io::Result<&[u8]> {
        let end = (offset + len as u64).min(self.len);
        let window_end = self.start + self.filled as u64;
        if offset < self.start || end > window_end {
            let near = offset >= self.start && offset <= window_end.saturating_add(JUMP_BYTES);
            let start = block_down(offset);
            let want = if near { STRETCH_BYTES as u64 } else { block_up(end.max(offset)) - start };
            self.fill(start, want.min(STRETCH_BYTES as u64) as usize)?;
        }
        let from = ((offset - self.start) as usize).min(self.filled);
        let to = (end.saturating_sub(self.start) as usize).clamp(from, self.filled);
        Ok(&self.buffer.bytes()[from..to])
    }
}
