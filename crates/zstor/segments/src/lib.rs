//! Shards on one disk: the storage node's segment log.
//!
//! A shard is an immutable run of bytes with an id, in the namespace of an owner. The store keeps shards in *segments*:
//! files of a fixed, preallocated length that are only ever appended to. Puts and deletes of all callers meet in a
//! queue; what is queued goes to the disk as one aligned write past the page cache, is synced once, and is acknowledged
//! together. An index in memory says where each shard lies; it is rebuilt from the record headers when the store is
//! opened, so there is nothing beside the segments that could disagree with them.
//!
//! ```text
//! put ─ CRC ─ quota, space ─┐                         ┌ committer ─ pack ─ pwrite ─ fdatasync ┐
//! put ──────────────────────┼─ queue (bounded bytes) ─┤                                       ├─ in order: index, acknowledge
//! delete ───────────────────┘                         └ committer ─ pack ─ pwrite ─ fdatasync ┘
//! get ─ index ─ pread ─ CRC ─ bytes                   keeper: next segment, cut, give back
//! ```
//!
//! # Promises
//!
//! - What was acknowledged survives a crash at any point, and a deleted shard does not come back.
//! - Bytes that do not fit their checksum are never given out. Rot in one place loses what lies there and nothing else.
//! - A failed sync is never asked again: the segment is given up and the log goes on in another (see `log`).
//! - Memory is bounded: the queue by bytes, reads by number, the index at under 50 bytes a shard.
//! - The store takes no more of the disk than its capacity, preallocated files included.
//!
//! # What it is not
//!
//! It knows no network, no grants and no placement; an owner is a namespace and a quota. It does not compact segments
//! that are partly dead: [`Totals::reclaimable`] says how much that would give back. A segment in which nothing is live
//! is given back at once.

mod aligned;
mod catalog;
mod config;
pub mod disk;
mod error;
#[doc(hidden)]
pub mod format;
mod keeper;
mod log;
mod names;
mod read;
mod recover;
mod store;
mod sync;

pub use catalog::{NamespaceStat, Totals};
pub use config::{QUEUE_BYTES, READS_IN_FLIGHT, SEGMENT_BYTES, SEGMENT_BYTES_MAX, SEGMENTS_MIN, SegmentsConfig};
pub use error::{DeleteError, DiskError, GetError, OpenError, PutError};
pub use format::{SHARD_BYTES_MAX, crc64};
pub use recover::OpenReport;
pub use store::{PutOutcome, Segments};
