//! Packets on their way out, in one buffer: each in a slot with room in front and behind, so that sealing copies nothing.

use std::ops::Range;

use crate::ecn::ecn;
use crate::header::{HEADER_BYTES, Kind, PACKET_BYTES_MAX, SEALED_BYTES_MAX, TAG_BYTES};
use crate::seal::{SealError, Sealer};

/// Bytes of a slot. Packet `i` begins [`HEADER_BYTES`] behind `i` slots.
pub const SLOT_BYTES: usize = SEALED_BYTES_MAX;

/// The most bytes in one UDP datagram, which is what the segments of one system call are on their way through the kernel (IPv4's limit is the lower).
const SEND_BYTES_MAX: usize = 65_507;

/// Packets to one node, in slots.
#[derive(Debug)]
pub struct Burst<'a> {
    buffer: &'a mut [u8],
    sizes: &'a [usize],
}

/// Sealed packets that one system call sends: all of `segment` bytes but the last, which may have fewer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Run {
    /// Where in the burst's buffer.
    pub at: Range<usize>,
    /// Bytes of each.
    pub segment: usize,
    /// How many there are.
    pub count: usize,
    /// What they all say of congestion.
    pub ecn: u8,
}

impl<'a> Burst<'a> {
    /// Packets of `sizes` bytes in the slots of `buffer`.
    ///
    /// # Panics
    ///
    /// If there are more sizes than slots, or one is too large for its slot.
    #[must_use]
    pub fn new(buffer: &'a mut [u8], sizes: &'a [usize]) -> Self {
        assert!(sizes.len() * SLOT_BYTES <= buffer.len(), "a slot for each");
        assert!(sizes.iter().all(|size| *size <= PACKET_BYTES_MAX), "that fits");
        Self { buffer, sizes }
    }

    /// The packets, until they are sealed.
    pub fn packets(&self) -> impl ExactSizeIterator<Item = &[u8]> {
        self.sizes.iter().enumerate().map(|(slot, size)| &self.buffer[slot * SLOT_BYTES + HEADER_BYTES..][..*size])
    }

    /// How many there are.
    #[must_use]
    pub fn count(&self) -> usize {
        self.sizes.len()
    }

    /// The bytes of the largest.
    #[must_use]
    pub fn largest(&self) -> usize {
        self.sizes.iter().copied().max().unwrap_or(0)
    }

    /// Seals all of them, and moves them together where they do not lie so already. `runs` gets what to send; what is left of the buffer holds it.
    ///
    /// # Errors
    ///
    /// [`SealError`], with nothing to be sent.
    pub fn seal(self, sealer: &mut Sealer, segments_max: usize, runs: &mut Vec<Run>) -> Result<&'a [u8], SealError> {
        runs.clear();
        let mut end = 0;
        for (slot, size) in self.sizes.iter().enumerate() {
            let (start, sealed) = (slot * SLOT_BYTES, HEADER_BYTES + size + TAG_BYTES);
            let says = ecn(&self.buffer[start + HEADER_BYTES..][..*size]);
            if let Err(error) = sealer.seal(Kind::Packet, &mut self.buffer[start..start + sealed]) {
                runs.clear();
                return Err(error);
            }
            if start != end {
                self.buffer.copy_within(start..start + sealed, end);
            }
            let at = end..end + sealed;
            end = at.end;
            note_run(runs, at.start, sealed, segments_max, says);
        }
        Ok(self.buffer)
    }
}

/// Notes `sealed` bytes at `at`, right behind what was noted before.
pub(crate) fn note_run(runs: &mut Vec<Run>, at: usize, sealed: usize, segments_max: usize, ecn: u8) {
    let end = at + sealed;
    match runs.last_mut() {
        Some(run) if run.ecn == ecn && run.takes(sealed, segments_max) => {
            (run.at.end, run.count) = (end, run.count + 1);
        }
        _ => runs.push(Run { at: at..end, segment: sealed, count: 1, ecn }),
    }
}

impl Run {
    fn takes(&self, sealed: usize, segments_max: usize) -> bool {
        let is_even = self.at.len() == self.segment * self.count;
        is_even && sealed <= self.segment && self.count < segments_max && self.at.len() + sealed <= SEND_BYTES_MAX
    }
}
