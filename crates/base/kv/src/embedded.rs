//! The embedded engine behind [`KeyValue`]: fjall, an LSM tree with a write-ahead journal, in one directory of this process.
//!
//! Reads go to the tree from Tokio's blocking threads. Commits go through a bounded queue to one thread (`commit.rs`) which writes all that
//! wait as one journal batch with one fdatasync: with many writers the disk's sync time is shared, with one it is paid once per commit.
//!
//! **Memory** is bounded: at most [`QUEUED_BYTES_MAX`] of waiting commits, the block cache of [`EmbeddedConfig::cache_bytes`], and write buffers
//! of four times [`WRITE_BUFFER_BYTES`] and one group of commits; a group waits until the engine has caught up.
//!
//! **Disk.** Besides the data itself the journal takes up to twice [`JOURNAL_BYTES_MAX`].
//!
//! **Failure.** When a write fails, what is on the disk is uncertain, so the engine refuses every later write until it is opened again (which
//! replays the journal and settles it); reads go on. A disk that is nearly full is noticed before that, see [`EmbeddedConfig::free_bytes_min`].

use std::{
    ops::Bound,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

use bytes::Bytes;
use fjall::{Database, Keyspace, Readable as _};
use futures_util::future::BoxFuture;
use tokio::sync::{Semaphore, mpsc, oneshot};

use crate::{
    COMMIT_BYTES_MAX, Condition, Entry, KEY_BYTES_MAX, KeyValue, KvError, Mutation, OpenError, Page, Revision,
    SCAN_ENTRIES_MAX, Scan, VALUE_BYTES_MAX, Watch, WatchError,
    error::{engine_reason, within},
    watch::{ChangeStream, History},
};

mod commit;
mod create;
mod record;

/// Version of the whole store: its keyspaces and what lies in them. Part of the data, checked when opening.
pub(crate) const FORMAT: u8 = 1;

/// Size at which a write buffer goes to disk. Metadata is small, and a node is to stay under 100 MiB with several of them.
const WRITE_BUFFER_BYTES: u64 = 4 << 20;

/// Smallest journal limit the engine takes; a larger one only makes opening after a crash slower.
const JOURNAL_BYTES_MAX: u64 = 64 << 20;

/// Files the engine keeps open. Two threads reading a tree of a few gigabytes need a few dozen.
const OPEN_FILES_MAX: usize = 64;

/// Engine threads that flush and compact. With one, a flush may wait for a compaction, and writers with it; with more, the engine keeps one
/// free for flushes by letting it spin while another compacts, which costs a core for longer than the wait would be.
const ENGINE_THREADS: usize = 1;

/// Most commits waiting for the commit thread, and so the most that share one fdatasync.
const QUEUE_COMMITS_MAX: usize = 256;

/// Most bytes of waiting commits: two of the largest, so that the next group is ready while one is written.
const QUEUED_BYTES_MAX: usize = 2 * COMMIT_BYTES_MAX;

/// What is counted for a commit besides its keys and values, so that empty ones are not free.
const COMMIT_OVERHEAD_BYTES: usize = 256;

/// How long a commit waits for the disk before it is reported as unavailable. A busy disk takes seconds at worst; after this it hangs.
const COMMIT_WAIT_MAX: Duration = Duration::from_secs(60);

/// Key, in the keyspace of the store itself, of the last revision (little-endian `u64`).
const META_REVISION: &str = "revision";

/// How to open an [`Embedded`] store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EmbeddedConfig {
    /// Bytes of memory for blocks read from disk.
    pub cache_bytes: u64,
    /// Bytes that must be free on the file system for new data to be accepted. Below this, puts are refused with [`KvError::DiskFull`] while
    /// nothing is broken yet; deletes still go through.
    pub free_bytes_min: u64,
    /// Bytes of the last changes kept in memory for [`Watch`], counting old and new values. 0 keeps none, and watching is refused: whoever
    /// does not watch does not pay for reading the old value at every write.
    pub history_bytes_max: usize,
}

/// History that fits the objects of a cluster: tens of thousands of changes of objects of a few kilobytes, minutes of a busy one.
const HISTORY_BYTES: usize = 64 << 20;

impl EmbeddedConfig {
    /// The default, with a history to watch.
    pub fn watched() -> Self {
        Self { history_bytes_max: HISTORY_BYTES, ..Self::default() }
    }
}

impl Default for EmbeddedConfig {
    /// 8 MiB of cache holds the index blocks of millions of keys; 256 MiB of free space is both journals, a round of write buffers and
    /// the copy a compaction makes, with a margin.
    fn default() -> Self {
        Self { cache_bytes: 8 << 20, free_bytes_min: 256 << 20, history_bytes_max: 0 }
    }
}

/// A [`KeyValue`] store in one directory, used by one process at a time.
///
/// Reads and commits need a Tokio runtime. Dropping it finishes the commits that wait and closes the directory.
#[derive(Debug)]
pub struct Embedded {
    store: Arc<Store>,
    queued_bytes: Arc<Semaphore>,
    /// `None` only while dropping.
    requests: Option<mpsc::Sender<commit::Request>>,
    committer: Option<JoinHandle<()>>,
}

impl Embedded {
    /// Opens the store in `path`, creating it if there is none. Blocks on the disk: after a crash it replays the journal, at most 128 MiB.
    ///
    /// # Errors
    /// See [`OpenError`]; a directory that is not a store is not touched.
    pub fn open(path: impl AsRef<Path>, config: EmbeddedConfig) -> Result<Self, OpenError> {
        let store = Arc::new(create::open_or_create(path.as_ref(), &config)?);
        let (requests, queue) = mpsc::channel(QUEUE_COMMITS_MAX);
        let thread = commit::Committer::new(Arc::clone(&store), queue, config.free_bytes_min);
        let committer = std::thread::Builder::new()
            .name("atoll-kv-commit".to_owned())
            .spawn(move || thread.run())
            .map_err(|source| OpenError::Io { path: store.path.clone(), source })?;
        Ok(Self {
            store,
            queued_bytes: Arc::new(Semaphore::new(QUEUED_BYTES_MAX)),
            requests: Some(requests),
            committer: Some(committer),
        })
    }

    /// The revision of the last durable commit; 0 for a new store.
    pub fn revision(&self) -> Revision {
        self.store.revision.load(Ordering::Acquire)
    }

    async fn read<T: Send + 'static>(
        &self,
        read: impl FnOnce(&Store) -> Result<T, KvError> + Send + 'static,
    ) -> Result<T, KvError> {
        let store = Arc::clone(&self.store);
        match tokio::task::spawn_blocking(move || read(&store)).await {
            Ok(outcome) => outcome,
            Err(stopped) => Err(self.store.unavailable("read", stopped.to_string())),
        }
    }

    async fn submit(&self, conditions: Vec<Condition>, mutations: Vec<Mutation>) -> Result<Revision, KvError> {
        let bytes = commit_bytes(&conditions, &mutations)?;
        let stopped = || self.store.unavailable("commit", "it has been closed".to_owned());
        let permits = u32::try_from(bytes).map_err(|_| stopped())?;
        let room = Arc::clone(&self.queued_bytes).acquire_many_owned(permits).await.map_err(|_| stopped())?;
        let (answer, answered) = oneshot::channel();
        let request = commit::Request { conditions, mutations, answer, room };
        let queue = self.requests.as_ref().ok_or_else(stopped)?;
        queue.send(request).await.map_err(|_| stopped())?;
        match tokio::time::timeout(COMMIT_WAIT_MAX, answered).await {
            Ok(Ok(outcome)) => outcome,
            Ok(Err(_)) => Err(stopped()),
            Err(_) => Err(self
                .store
                .unavailable("commit", format!("the disk has not answered for {} seconds", COMMIT_WAIT_MAX.as_secs()))),
        }
    }
}

impl KeyValue for Embedded {
    fn get(&self, key: &[u8]) -> BoxFuture<'_, Result<Option<Entry>, KvError>> {
        let checked = check_key(key).map(|()| Bytes::copy_from_slice(key));
        Box::pin(async move {
            let key = checked?;
            self.read(move |store| store.lookup(&store.database.snapshot(), key)).await
        })
    }

    fn scan(&self, scan: Scan) -> BoxFuture<'_, Result<Vec<Entry>, KvError>> {
        Box::pin(async move {
            within("a scan's limit in entries", 1..=SCAN_ENTRIES_MAX, scan.limit)?;
            self.read(move |store| store.scan(&scan)).await
        })
    }

    fn commit(&self, conditions: Vec<Condition>, mutations: Vec<Mutation>) -> BoxFuture<'_, Result<Revision, KvError>> {
        Box::pin(self.submit(conditions, mutations))
    }
}

impl Watch for Embedded {
    fn revision(&self) -> BoxFuture<'_, Result<Revision, KvError>> {
        Box::pin(std::future::ready(Ok(Embedded::revision(self))))
    }

    fn scan_at(&self, scan: Scan, at: Option<Revision>) -> BoxFuture<'_, Result<Page, WatchError>> {
        Box::pin(async move {
            within("a scan's limit in entries", 1..=SCAN_ENTRIES_MAX, scan.limit)?;
            let read = tokio::task::spawn_blocking({
                let store = Arc::clone(&self.store);
                move || store.scan_at(&scan, at)
            });
            read.await.map_err(|stopped| self.store.unavailable("read", stopped.to_string()))?
        })
    }

    fn watch(&self, prefix: Bytes, after: Revision) -> Result<ChangeStream, WatchError> {
        crate::watch::stream(Arc::clone(&self.store.history), prefix, after)
    }
}

impl Drop for Embedded {
    fn drop(&mut self) {
        drop(self.requests.take());
        if let Some(committer) = self.committer.take()
            && committer.join().is_err()
        {
            tracing::error!(path = %self.store.path.display(), "the commit thread of the key-value store panicked");
        }
        self.store.history.close();
    }
}

/// The open engine: what the commit thread and readers share.
struct Store {
    path: PathBuf,
    database: Database,
    /// The callers' keys.
    records: Keyspace,
    /// The store's own: its format and revision.
    meta: Keyspace,
    /// Last durable revision.
    revision: AtomicU64,
    history: Arc<History>,
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Store").field("path", &self.path).field("revision", &self.revision).finish_non_exhaustive()
    }
}

impl Store {
    fn lookup(&self, at: &fjall::Snapshot, key: Bytes) -> Result<Option<Entry>, KvError> {
        let record = at.get(&self.records, &key).map_err(|error| self.read_error(&error))?;
        record.map(|record| record::decode(key, Bytes::from_owner(record))).transpose()
    }

    fn scan(&self, scan: &Scan) -> Result<Vec<Entry>, KvError> {
        self.scan_snapshot(&self.database.snapshot(), scan, |_| true)
    }

    /// The entries of the present, with what changed since `at` taken back.
    fn scan_at(&self, scan: &Scan, at: Option<Revision>) -> Result<Page, WatchError> {
        let snapshot = self.database.snapshot();
        let found = snapshot.get(&self.meta, META_REVISION).map_err(|error| self.read_error(&error))?;
        let now = found.and_then(|bytes| Some(Revision::from_le_bytes((*bytes).try_into().ok()?)));
        let now = now.ok_or_else(|| self.unavailable("read", "its revision is missing".to_owned()))?;
        let Some(at) = at.filter(|at| *at != now) else {
            return Ok(Page { entries: self.scan_snapshot(&snapshot, scan, |_| true)?, revision: now });
        };
        let undone = self.history.undo(&scan.prefix, at, now)?;
        let mut entries = self.scan_snapshot(&snapshot, scan, |key| !undone.contains_key(key))?;
        let wanted = |key: &Bytes| scan.after.as_ref().is_none_or(|after| key > after);
        entries.extend(undone.into_iter().filter(|(key, _)| wanted(key)).filter_map(|(key, version)| {
            let version = version?;
            Some(Entry { key, value: version.value, revision: version.revision })
        }));
        entries.sort_by(|a, b| a.key.cmp(&b.key));
        entries.truncate(scan.limit);
        Ok(Page { entries, revision: at })
    }

    fn scan_snapshot(
        &self,
        snapshot: &fjall::Snapshot,
        scan: &Scan,
        wanted: impl Fn(&[u8]) -> bool,
    ) -> Result<Vec<Entry>, KvError> {
        let start = match &scan.after {
            Some(after) if *after >= scan.prefix => Bound::Excluded(&after[..]),
            _ => Bound::Included(&scan.prefix[..]),
        };
        let mut entries = Vec::new();
        let range = (start, Bound::Unbounded);
        for guard in snapshot.range::<&[u8], _>(&self.records, range) {
            let (key, record) = guard.into_inner().map_err(|error| self.read_error(&error))?;
            if !key.starts_with(&scan.prefix) {
                break;
            }
            if !wanted(&key) {
                continue;
            }
            entries.push(record::decode(Bytes::from_owner(key), Bytes::from_owner(record))?);
            if entries.len() == scan.limit {
                break;
            }
        }
        Ok(entries)
    }

    fn read_error(&self, error: &fjall::Error) -> KvError {
        self.unavailable("read", engine_reason(error))
    }

    fn unavailable(&self, operation: &'static str, reason: String) -> KvError {
        KvError::Unavailable { path: self.path.clone(), operation, reason }
    }
}

fn check_key(key: &[u8]) -> Result<(), KvError> {
    within("a key's length in bytes", 1..=KEY_BYTES_MAX, key.len())
}

/// Bytes a commit counts for, or why it is refused.
fn commit_bytes(conditions: &[Condition], mutations: &[Mutation]) -> Result<usize, KvError> {
    let mut bytes = COMMIT_OVERHEAD_BYTES;
    for condition in conditions {
        check_key(condition.key())?;
        bytes += condition.key().len();
    }
    for mutation in mutations {
        check_key(mutation.key())?;
        bytes += mutation.key().len();
        if let Mutation::Put { value, .. } = mutation {
            within("a value's length in bytes", 0..=VALUE_BYTES_MAX, value.len())?;
            bytes += value.len();
        }
    }
    within("a commit's size in bytes", 0..=COMMIT_BYTES_MAX, bytes)?;
    Ok(bytes)
}
