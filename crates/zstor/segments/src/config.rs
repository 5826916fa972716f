//! What can be set about a store of segments, and the limits that are not for setting.

use crate::format::{BLOCK_BYTES, DATA_START, RECORD_HEADER_BYTES};

/// Segments are of this length where the capacity allows it. Long enough that opening one (0.5 ms) does not show, short
/// enough that a store of a few GiB gives space back piece by piece.
pub const SEGMENT_BYTES: u64 = 256 << 20;

/// Payload bytes waiting to be written, at most. Four batches: enough to keep both committers busy while the senders
/// refill it.
pub const QUEUE_BYTES: usize = 16 << 20;

/// What a waiting record costs besides its payload: task, header, map entries. Bounds the number of tiny shards that
/// wait.
pub(crate) const QUEUE_RECORD_COST: usize = 512;

/// Reads in flight, at most. Past a queue depth of 16 an NVMe drive gets no faster with 256 KiB reads; at 2 MiB each it
/// also bounds the memory of readers to 32 MiB.
pub const READS_IN_FLIGHT: usize = 16;

/// Segments in a store, at least: one is kept free for tombstones, so that a full store can still be emptied.
pub const SEGMENTS_MIN: u64 = 4;

/// Longest segment: offsets are kept in 32 bits.
pub const SEGMENT_BYTES_MAX: u64 = 2 << 30;

/// How a store is made.
#[derive(Clone, Debug)]
pub struct SegmentsConfig {
    /// Bytes of disk the store may take, all in.
    pub capacity: u64,
    /// Length of a segment in bytes; a multiple of 4 KiB.
    pub segment_bytes: u64,
    /// Payload bytes that may wait to be written.
    pub queue_bytes: usize,
    /// Reads in flight.
    pub reads_in_flight: usize,
    /// Quota in payload bytes of a namespace that was given none of its own. `None`: no quota.
    pub default_quota: Option<u64>,
    /// Prepare the next segment before it is needed, in the background.
    pub spare_ahead: bool,
}

impl SegmentsConfig {
    /// A store of `capacity` bytes, everything else as it is best: segments of 256 MiB, shorter ones where there would
    /// be fewer than 16.
    pub fn new(capacity: u64) -> Self {
        let fair = (capacity / 32).next_power_of_two().clamp(4 << 20, SEGMENT_BYTES);
        Self {
            capacity,
            segment_bytes: fair,
            queue_bytes: QUEUE_BYTES,
            reads_in_flight: READS_IN_FLIGHT,
            default_quota: None,
            spare_ahead: true,
        }
    }

    /// What is wrong with it, if anything is.
    pub(crate) fn problem(&self) -> Option<String> {
        let block = BLOCK_BYTES as u64;
        let segment_min = DATA_START + 2 * block;
        if !self.segment_bytes.is_multiple_of(block) || !(segment_min..=SEGMENT_BYTES_MAX).contains(&self.segment_bytes)
        {
            return Some(format!(
                "segments of {} bytes: must be a multiple of {block} between {segment_min} and {SEGMENT_BYTES_MAX}",
                self.segment_bytes
            ));
        }
        if self.capacity < SEGMENTS_MIN * self.segment_bytes {
            return Some(format!(
                "a capacity of {} bytes: must be at least {} (four segments of {} bytes)",
                self.capacity,
                SEGMENTS_MIN * self.segment_bytes,
                self.segment_bytes
            ));
        }
        if self.reads_in_flight == 0 || self.queue_bytes == 0 {
            return Some("no reads in flight, or no queue at all: both must be at least 1".to_owned());
        }
        None
    }

    /// Longest shard that fits a segment of this store.
    pub(crate) fn shard_bytes_max(&self) -> usize {
        let room = usize::try_from(self.segment_bytes - DATA_START).unwrap_or(usize::MAX);
        crate::format::SHARD_BYTES_MAX.min(room - RECORD_HEADER_BYTES)
    }
}
