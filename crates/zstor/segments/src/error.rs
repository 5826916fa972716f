//! What can go wrong, per operation, told apart by what the caller should do.

use crate::format::HeaderError;
use atoll_ids::ByteCount;
use std::io;
use std::sync::Arc;

/// An error of the disk; shared, because one failed sync fails every put of its batch.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{doing}: {source}")]
pub struct DiskError {
    /// What was being done.
    pub doing: &'static str,
    /// What the operating system said.
    pub source: Arc<io::Error>,
}

impl DiskError {
    pub(crate) fn new(doing: &'static str, source: io::Error) -> Self {
        Self { doing, source: Arc::new(source) }
    }

    pub(crate) fn closed() -> Self {
        Self::new("handing a record to the log", io::Error::other("the log is closed"))
    }

    /// Whether there is no space left on the device.
    pub fn is_full(&self) -> bool {
        matches!(
            self.source.kind(),
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge
        )
    }
}

/// Why a store could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The configuration makes no sense.
    #[error("the store cannot be made with {0}")]
    Config(String),
    /// Another process has it open.
    #[error("the shard directory is in use by another process; stop that one first")]
    Locked,
    /// The disk does not answer as it should.
    #[error("the store cannot be read: {0}")]
    Disk(#[from] DiskError),
    /// A segment of a newer format.
    #[error("{name}: {source}; start the version that wrote it")]
    Newer {
        /// The file.
        name: String,
        /// What its header says.
        source: HeaderError,
    },
}

/// Why a shard was not stored. Nothing of it remains.
#[derive(Clone, Debug, thiserror::Error)]
pub enum PutError {
    /// No space in the store, or on the disk below it. Delete something, or wait for space to be reclaimed.
    #[error("the store is full: {} of {} in use", ByteCount(*.used), ByteCount(*.capacity))]
    Full {
        /// Bytes the store may take.
        capacity: u64,
        /// Bytes of it in use by records, live or not yet reclaimed.
        used: u64,
    },
    /// The owner's quota would be exceeded.
    #[error("quota of {} exceeded: {} in use, {} more asked for", ByteCount(*.quota), ByteCount(*.used), ByteCount(*.asked))]
    QuotaExceeded {
        /// The quota in payload bytes.
        quota: u64,
        /// Payload bytes in use or on their way in.
        used: u64,
        /// Payload bytes of this shard.
        asked: u64,
    },
    /// The bytes are not those the checksum was made of: damaged on the way. Send them again.
    #[error(
        "the shard's checksum is {found:016x}, announced was {expected:016x}; it was damaged on the way, send it again"
    )]
    CrcMismatch {
        /// The checksum announced.
        expected: u64,
        /// The checksum of what arrived.
        found: u64,
    },
    /// The id is taken by other bytes. Shards are immutable. No promise that those bytes stay: a deletion of them that failed before may still
    /// come to light after a crash.
    #[error("a shard of this id with different content is stored already; shards cannot be changed")]
    DifferentContent,
    /// Longer than a shard may be.
    #[error("a shard of {len} bytes is too long; the limit is {max}")]
    TooLong {
        /// Its length in bytes.
        len: usize,
        /// The limit in bytes.
        max: usize,
    },
    /// The disk failed. The store goes on in a new segment; the put may be tried again.
    #[error("the shard was not stored: {0}")]
    Disk(DiskError),
}

/// Why a shard was not read.
#[derive(Clone, Debug, thiserror::Error)]
pub enum GetError {
    /// There is no such shard in this namespace.
    #[error("there is no such shard")]
    NotFound,
    /// It is there, but its bytes have rotted. Rebuild it from the others of its stripe and put it again: that replaces
    /// it.
    #[error("the stored shard does not fit its checksum: it has rotted on the disk")]
    Rotten,
    /// The disk could not read it.
    #[error("the shard could not be read: {0}")]
    Disk(DiskError),
}

/// Why a shard was not deleted.
#[derive(Clone, Debug, thiserror::Error)]
pub enum DeleteError {
    /// There is no such shard in this namespace.
    #[error("there is no such shard")]
    NotFound,
    /// There is no space even for the tombstone.
    #[error("the store is full, even for a note that something was deleted: {} of {} in use", ByteCount(*.used), ByteCount(*.capacity))]
    Full {
        /// Bytes the store may take.
        capacity: u64,
        /// Bytes in use.
        used: u64,
    },
    /// The disk failed; the shard is still there.
    #[error("the shard was not deleted: {0}")]
    Disk(DiskError),
}
