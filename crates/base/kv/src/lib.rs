//! The key-value seam: ordered keys, one global revision, compare-and-set commits, and the embedded engine behind it.
//!
//! Everything a node must not forget and that is small (peers, buckets, manifests) goes through [`KeyValue`]. It is not a
//! place for shards, and it knows nothing of what the keys mean.
//!
//! **The model.** The store is a map from keys to values with one counter, the [`Revision`]. A commit that writes raises it by
//! exactly one, and every value remembers the revision that last wrote it. A commit carries conditions ("this key is still at
//! revision 7", "this key does not exist") and mutations; either all conditions hold and all mutations happen, or nothing
//! does and the answer names a key that stood in the way. That is enough to build read-modify-write, locks and queues without
//! transactions that stay open. A store that is also [`Watch`] tells of every change after a revision.
//!
//! **Invariants.**
//! - A commit that was answered with a revision is on the disk; a crash at any moment keeps it.
//! - Reads see only what is on the disk: there is no state a crash could take back that anyone has seen.
//! - Revisions never repeat, also across restarts.
//!
//! **Failure.** A commit answered with [`KvError::Conflict`], [`KvError::Limit`] or [`KvError::DiskFull`] has changed nothing. After
//! [`KvError::Unavailable`] the outcome is unknown: read again before deciding.

pub use bytes::Bytes;
use futures_util::future::BoxFuture;

pub use crate::{
    embedded::{Embedded, EmbeddedConfig},
    error::{KvError, OpenError},
    watch::{Batch, Change, ChangeStream, Page, Version, Watch, WatchError},
};

mod embedded;
mod error;
mod watch;

/// A point in the history of a store; the empty store is at 0, each commit that writes adds 1.
pub type Revision = u64;

/// Longest key in bytes. Keys are paths made of names; the engine keeps them in every index block, so they should be short.
pub const KEY_BYTES_MAX: usize = 4 << 10;

/// Largest value in bytes. A manifest of a very large object is cut into pieces of this size; a larger value would make one
/// commit hold up all others for longer than a disk takes to write a few blocks.
pub const VALUE_BYTES_MAX: usize = 4 << 20;

/// Largest commit in bytes, counting the keys and values of all conditions and mutations: room for one full value and its index entries,
/// and a bound on what one caller can make the store hold in memory.
pub const COMMIT_BYTES_MAX: usize = 8 << 20;

/// Most entries one scan may return. Whoever wants more continues `after` the last key; a page of a directory listing has 1,000.
pub const SCAN_ENTRIES_MAX: usize = 10_000;

/// A key with its value, as it was when it was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The key.
    pub key: Bytes,
    /// The value.
    pub value: Bytes,
    /// The revision at which the value was last written.
    pub revision: Revision,
}

/// What must hold at the moment of a commit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Condition {
    /// The key exists and was last written at this revision.
    Revision {
        /// The key looked at.
        key: Bytes,
        /// The revision it must have.
        revision: Revision,
    },
    /// The key does not exist.
    Absent {
        /// The key looked at.
        key: Bytes,
    },
    /// The key exists, at whatever revision.
    Present {
        /// The key looked at.
        key: Bytes,
    },
}

impl Condition {
    /// The key this condition looks at.
    pub fn key(&self) -> &Bytes {
        match self {
            Self::Revision { key, .. } | Self::Absent { key } | Self::Present { key } => key,
        }
    }
}

/// One change of a commit. Several changes of the same key in one commit apply in order: the last one stays.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Mutation {
    /// Writes the value, whether or not the key existed.
    Put {
        /// The key written.
        key: Bytes,
        /// Its new value.
        value: Bytes,
    },
    /// Removes the key; removing one that does not exist is no error.
    Delete {
        /// The key removed.
        key: Bytes,
    },
}

impl Mutation {
    /// The key this mutation changes.
    pub fn key(&self) -> &Bytes {
        match self {
            Self::Put { key, .. } | Self::Delete { key } => key,
        }
    }
}

/// Which entries to read: keys that start with `prefix` and come after `after`, in byte order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scan {
    /// The bytes every returned key starts with; empty for all keys.
    pub prefix: Bytes,
    /// Only keys greater than this one; the last key of the previous page. It need not exist.
    pub after: Option<Bytes>,
    /// Most entries to return, 1 to [`SCAN_ENTRIES_MAX`]. Fewer come back only when there are no more.
    pub limit: usize,
}

impl Scan {
    /// The first `limit` entries whose key starts with `prefix`.
    pub fn new(prefix: impl Into<Bytes>, limit: usize) -> Self {
        Self { prefix: prefix.into(), after: None, limit }
    }

    /// The same scan, continued after this key.
    #[must_use]
    pub fn after(mut self, key: impl Into<Bytes>) -> Self {
        self.after = Some(key.into());
        self
    }
}

/// An ordered key-value store with revisions and conditional commits.
///
/// Object safe, so that whoever needs a store holds an `Arc<dyn KeyValue>` and tests hand in another one.
pub trait KeyValue: Send + Sync + 'static {
    /// The entry under `key`, or `None`.
    ///
    /// # Errors
    /// [`KvError::Limit`] for an empty or overlong key, [`KvError::Unavailable`] and [`KvError::Corrupt`] when it cannot be read.
    fn get(&self, key: &[u8]) -> BoxFuture<'_, Result<Option<Entry>, KvError>>;

    /// The entries `scan` asks for, ordered by key, all from one moment.
    ///
    /// # Errors
    /// [`KvError::Limit`] for a limit out of range, [`KvError::Unavailable`] and [`KvError::Corrupt`] when an entry cannot be read.
    fn scan(&self, scan: Scan) -> BoxFuture<'_, Result<Vec<Entry>, KvError>>;

    /// Applies all mutations if all conditions hold, and answers with the revision at which they were written, once they are durable.
    ///
    /// Without mutations nothing is written: the conditions are checked and the current revision is returned. A commit whose future is dropped
    /// may or may not happen.
    ///
    /// # Errors
    /// [`KvError::Conflict`] when a condition does not hold, [`KvError::Limit`] when something is too large, [`KvError::DiskFull`] when there is
    /// no room; all of these changed nothing. [`KvError::Unavailable`] when the outcome is unknown.
    fn commit(&self, conditions: Vec<Condition>, mutations: Vec<Mutation>) -> BoxFuture<'_, Result<Revision, KvError>>;
}
