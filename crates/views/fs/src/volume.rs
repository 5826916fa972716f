//! A mounted volume: the tree in memory, its journal in zstor, and the tasks that keep the two together.
//!
//! - **Open**: load the head, raise its epoch (the fence), read the checkpoint, replay the journal (`volume/replay.rs`).
//! - **Change**: operations change the tree at once; a flush (`volume/flush.rs`) disperses what was written, then a segment with the records, then
//!   swings the head. [`Volume::sync`] returns after that. Flushes run every few seconds by themselves; concurrent callers share one.
//! - **Read**: bytes in memory, or stripes of blobs through a small cache (`volume/cache.rs`).
//! - **Tidy**: blobs that nothing refers to are deleted after the swing that let go of them, blobs with little left are rewritten (`volume/tidy.rs`).
//! - **Heal**: lost shards are rebuilt, on demand and when nodes have been away for a while (`volume/heal.rs`).
//!
//! # Failure
//!
//! - Nodes or the head store away: operations go on in memory until [`VolumeOptions::dirty_bytes_max`] is reached, then wait; what waits longer than
//!   [`VolumeOptions::patience`] fails with [`Errno::Io`]. Nothing that was written is dropped: the next flush tries again.
//! - Another mount: every change and sync fails with [`Errno::Stale`]; what was not synced is lost, as in a crash. Reading goes on.
//! - Death of the process: the next mount sees the state of the last swing, whole. Shards of a flush that was under way stay behind unknown, at
//!   most one flush's worth per death.

use std::collections::{BTreeSet, HashSet};
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use atoll_engine::{BlobManifest, Blobs, BlobsConfig, EngineConfig, Homes, OpenError, Pace, ReadError};
use bytes::Bytes;
use thiserror::Error;
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout_at};

use crate::errno::Errno;
use crate::head::{HeadError, HeadSeal, HeadStore};
use crate::secret::{VolumeConfig, VolumeName, VolumeSecret};
use crate::tree::change::{SegmentError, Time};
use crate::tree::extents::BlobId;
use crate::tree::{Contradiction, Tree};

mod cache;
mod flush;
mod heal;
mod read;
mod replay;
mod tidy;

use cache::Cache;
use flush::Log;
pub use heal::{HealProgress, HealReport};

/// Records that may wait for a flush before operations wait: some tens of megabytes.
const PENDING_MAX: usize = 100_000;

/// How a volume is used on this node.
#[derive(Clone, Debug)]
pub struct VolumeOptions {
    /// Limits and delays of the store.
    pub engine: EngineConfig,
    /// How long written data waits for company before it is flushed without being asked to.
    pub flush_every: Duration,
    /// Written bytes in memory beyond which writers wait.
    pub dirty_bytes_max: u64,
    /// Memory for what was read.
    pub cache_bytes: usize,
    /// How long a call waits for nodes or the head store before it fails.
    pub patience: Duration,
    /// How often homes are looked at for whether to heal.
    pub heal_every: Duration,
    /// How long a home must have been away before its shards are rebuilt elsewhere.
    pub heal_after: Duration,
    /// How fast they are, together with whoever else goes by it; as fast as it goes unless set.
    pub pace: Option<Arc<Pace>>,
}

impl Default for VolumeOptions {
    fn default() -> Self {
        Self {
            engine: EngineConfig::default(),
            flush_every: Duration::from_secs(5),
            dirty_bytes_max: 64 << 20,
            cache_bytes: 64 << 20,
            patience: Duration::from_secs(60),
            heal_every: Duration::from_secs(30),
            heal_after: Duration::from_secs(300),
            pace: None,
        }
    }
}

/// Why a volume was not made, opened or removed.
#[derive(Debug, Error)]
pub enum VolumeError {
    /// There is a head under the name already.
    #[error("volume {name} exists already")]
    Exists {
        /// The name.
        name: VolumeName,
    },
    /// There is no head under the name.
    #[error("there is no volume {name}; `atoll fs create {name}` makes it")]
    NotFound {
        /// The name.
        name: VolumeName,
    },
    /// The head does not open with this secret.
    #[error("the head of volume {name} does not open: another secret, or it was altered")]
    WrongSecret {
        /// The name.
        name: VolumeName,
    },
    /// Several nodes mount it at once.
    #[error("volume {name} is being mounted by others at the same time; try again")]
    Contended {
        /// The name.
        name: VolumeName,
    },
    /// The configuration contradicts itself.
    #[error(transparent)]
    Config(#[from] OpenError),
    /// The head store failed.
    #[error(transparent)]
    Head(#[from] HeadError),
    /// A segment cannot be had.
    #[error("the file system cannot be read from its nodes: {0}")]
    Read(#[from] ReadError),
    /// A segment does not decode.
    #[error(transparent)]
    Segment(#[from] SegmentError),
    /// Segments contradict each other.
    #[error(transparent)]
    Contradiction(#[from] Contradiction),
}

/// How a mounted volume is doing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct VolumeStatus {
    /// How often the volume was mounted, this time included.
    pub epoch: u64,
    /// How often its head was swung.
    pub sequence: u64,
    /// Another mount has taken over: nothing can be written here any more.
    pub fenced: bool,
    /// Written bytes that are not dispersed yet.
    pub dirty_bytes: u64,
    /// Whether everything is dispersed.
    pub clean: bool,
    /// Files, directories and links.
    pub inodes: u64,
    /// Bytes of file content.
    pub used_bytes: u64,
    /// Blobs, those waiting to be deleted included.
    pub blobs: u64,
    /// Blobs that were stored with shards missing and are not healed yet.
    pub degraded_blobs: u64,
    /// Heals that this mount has run.
    pub heals: u64,
    /// Shards that these rebuilt.
    pub rebuilt_shards: u64,
    /// Stripes that the last of them found beyond repair.
    pub lost_stripes: u64,
    /// Why the last flush failed, while it has not succeeded since.
    pub failing: Option<String>,
}

pub(crate) struct Shared {
    pub(crate) config: VolumeConfig,
    pub(crate) options: VolumeOptions,
    blobs: Blobs,
    homes: Arc<dyn Homes>,
    heads: Arc<dyn HeadStore>,
    seal: HeadSeal,
    tree: Mutex<Tree>,
    /// The journal's end; whoever flushes has it.
    log: tokio::sync::Mutex<Log>,
    status: Mutex<VolumeStatus>,
    degraded: Mutex<HashSet<BlobId>>,
    /// One heal at a time.
    healing: tokio::sync::Mutex<()>,
    fenced: AtomicBool,
    /// The mount is ending: nothing new is taken in.
    closing: AtomicBool,
    /// The version of the tree that is durable.
    durable: AtomicU64,
    cache: Cache,
    /// Wakes the flusher.
    wake: Notify,
    /// Tells writers that a flush has made room.
    room: Notify,
}

/// A volume that this node has mounted. Cheap to clone; all clones are the same mount. [`Volume::close`] ends it.
#[derive(Clone)]
pub struct Volume {
    pub(crate) shared: Arc<Shared>,
    tasks: Arc<Mutex<JoinSet<()>>>,
}

impl fmt::Debug for Volume {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Volume").field("config", &self.shared.config).finish_non_exhaustive()
    }
}

/// The value behind a lock. A panic while it was held is a defect, but what is behind it stays as whole as an interrupted operation leaves it.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The present.
pub(crate) fn now() -> Time {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Time { seconds: i64::try_from(since.as_secs()).unwrap_or(i64::MAX), nanoseconds: since.subsec_nanos() }
}

fn blobs(
    config: &VolumeConfig,
    options: &VolumeOptions,
    secret: &VolumeSecret,
    homes: &Arc<dyn Homes>,
) -> Result<Blobs, OpenError> {
    let (engine, least) = (options.engine.clone(), usize::from(config.least));
    let blobs = BlobsConfig { engine, policy: config.policy, level: config.level, least };
    Blobs::new(blobs, config.owner, secret.as_bytes(), homes.clone())
}

impl Volume {
    /// Makes an empty volume: its first head. The caller keeps its [`VolumeDescriptor`](crate::VolumeDescriptor).
    ///
    /// # Errors
    /// [`VolumeError::Exists`], [`VolumeError::Head`]
    pub async fn format(
        config: &VolumeConfig,
        secret: &VolumeSecret,
        heads: &dyn HeadStore,
    ) -> Result<(), VolumeError> {
        let bytes = HeadSeal::new(secret, config).seal(&crate::head::Head::default());
        match heads.swing(None, bytes).await {
            Ok(_) => Ok(()),
            Err(HeadError::Moved) => Err(VolumeError::Exists { name: config.name.clone() }),
            Err(error) => Err(error.into()),
        }
    }

    /// Mounts a volume on this node; an earlier mount elsewhere may no longer write from here on. Needs a multi-threaded tokio runtime, on which its tasks
    /// run until [`Volume::close`].
    ///
    /// # Errors
    /// [`VolumeError`]
    pub async fn open(
        config: VolumeConfig,
        secret: &VolumeSecret,
        homes: Arc<dyn Homes>,
        heads: Arc<dyn HeadStore>,
        options: VolumeOptions,
    ) -> Result<Self, VolumeError> {
        let blobs = blobs(&config, &options, secret, &homes)?;
        let seal = HeadSeal::new(secret, &config);
        let (log, tree) = replay::mount(&config, &blobs, &seal, heads.as_ref()).await?;
        let status = VolumeStatus { epoch: log.head.epoch, sequence: log.head.sequence, ..VolumeStatus::default() };
        let durable = log.version;
        let shared = Arc::new(Shared {
            cache: Cache::new(options.cache_bytes),
            config,
            options,
            blobs,
            homes,
            heads,
            seal,
            tree: Mutex::new(tree),
            log: tokio::sync::Mutex::new(log),
            status: Mutex::new(status),
            degraded: Mutex::default(),
            healing: tokio::sync::Mutex::default(),
            fenced: AtomicBool::new(false),
            closing: AtomicBool::new(false),
            durable: AtomicU64::new(durable),
            wake: Notify::new(),
            room: Notify::new(),
        });
        shared.count_degraded();
        let mut tasks = JoinSet::new();
        tasks.spawn(flush::run(Arc::downgrade(&shared), shared.options.flush_every));
        tasks.spawn(heal::run(Arc::downgrade(&shared), shared.options.heal_every));
        Ok(Self { shared, tasks: Arc::new(Mutex::new(tasks)) })
    }

    /// Makes everything that was done so far durable: dispersed to `least` shards per stripe, and the head swung.
    ///
    /// # Errors
    /// [`Errno::Io`] after the volume's patience, [`Errno::Stale`] if another mount took over.
    pub async fn sync(&self) -> Result<(), Errno> {
        self.shared.sync().await
    }

    /// Ends the mount: takes no more changes ([`Errno::Io`]), flushes what it can within the volume's patience, then stops its tasks. The volume stays as it is in zstor.
    ///
    /// # Errors
    /// As [`Volume::sync`]; the mount has ended all the same and what was not flushed is lost.
    pub async fn close(&self) -> Result<(), Errno> {
        self.shared.closing.store(true, Ordering::Release);
        let done = self.shared.sync().await;
        lock(&self.tasks).abort_all();
        done
    }

    /// How it is doing.
    #[must_use]
    pub fn status(&self) -> VolumeStatus {
        self.shared.status()
    }

    /// What is settled about it.
    #[must_use]
    pub fn config(&self) -> &VolumeConfig {
        &self.shared.config
    }

    /// Rebuilds what is lost of all its blobs. `progress` is told after each blob.
    ///
    /// # Errors
    /// [`Errno::Stale`] if another mount took over, [`Errno::Io`] if the new places could not be recorded.
    pub async fn heal(&self, progress: impl Fn(HealProgress) + Send + Sync) -> Result<HealReport, Errno> {
        self.shared.heal(&progress, BTreeSet::new()).await
    }

    /// What the head of a volume says, without mounting it: epoch, sequence.
    ///
    /// # Errors
    /// [`VolumeError::NotFound`], [`VolumeError::WrongSecret`], [`VolumeError::Head`]
    pub async fn peek(
        config: &VolumeConfig,
        secret: &VolumeSecret,
        heads: &dyn HeadStore,
    ) -> Result<(u64, u64), VolumeError> {
        let name = || config.name.clone();
        let found = heads.load().await?.ok_or_else(|| VolumeError::NotFound { name: name() })?;
        let opened = HeadSeal::new(secret, config).open(&found.bytes);
        let head = opened.ok_or_else(|| VolumeError::WrongSecret { name: name() })?;
        Ok((head.epoch, head.sequence))
    }

    /// Deletes a volume: every blob and its head. It may be interrupted and done again. How many shards are left on nodes that do not answer. A mount that still exists is fenced.
    ///
    /// # Errors
    /// [`VolumeError`]
    pub async fn destroy(
        config: VolumeConfig,
        secret: &VolumeSecret,
        homes: Arc<dyn Homes>,
        heads: Arc<dyn HeadStore>,
        options: VolumeOptions,
    ) -> Result<u64, VolumeError> {
        let blobs = blobs(&config, &options, secret, &homes)?;
        let seal = HeadSeal::new(secret, &config);
        let (log, tree) = replay::mount(&config, &blobs, &seal, heads.as_ref()).await?;
        let segments: HashSet<&BlobManifest> = log.head.segments().map(|segment| &segment.manifest).collect();
        let data = tree.blobs.values().map(|blob| &blob.manifest).filter(|manifest| !segments.contains(manifest));
        let mut left = 0;
        // Segments and head last, so that this can be done again if it is interrupted.
        for manifest in data {
            left += blobs.delete(manifest).await?;
        }
        heads.remove(log.revision.clone()).await?;
        for manifest in segments {
            left += blobs.delete(manifest).await?;
        }
        Ok(left)
    }
}

impl Shared {
    pub(crate) fn tree(&self) -> MutexGuard<'_, Tree> {
        lock(&self.tree)
    }

    /// Refuses changes when another mount has taken over, or this one is ending.
    pub(crate) fn writable(&self) -> Result<(), Errno> {
        match (self.fenced.load(Ordering::Acquire), self.closing.load(Ordering::Acquire)) {
            (true, _) => Err(Errno::Stale),
            (false, true) => Err(Errno::Io),
            (false, false) => Ok(()),
        }
    }

    fn fence(&self) {
        self.fenced.store(true, Ordering::Release);
        self.room.notify_waiters();
        let name = &self.config.name;
        tracing::error!(target: "atoll::fs", volume = %name, "another node has mounted the volume; this mount may no longer write");
    }

    /// Whether changes have to wait for a flush.
    pub(crate) fn is_crowded(&self) -> bool {
        let tree = self.tree();
        tree.dirty_bytes > self.options.dirty_bytes_max || tree.pending.len() > PENDING_MAX
    }

    /// Waits until there is room for more changes.
    pub(crate) async fn room(&self) -> Result<(), Errno> {
        let end = Instant::now() + self.options.patience;
        loop {
            let room = self.room.notified();
            self.writable()?;
            if !self.is_crowded() {
                return Ok(());
            }
            self.wake.notify_one();
            timeout_at(end, room).await.map_err(|_| Errno::Io)?;
        }
    }

    /// Takes bytes of a file into memory.
    pub(crate) fn write(&self, ino: u64, at: u64, bytes: Bytes) -> Result<(), Errno> {
        self.writable()?;
        let mut tree = self.tree();
        let (capacity, more) = (self.config.capacity_bytes, bytes.len() as u64);
        if capacity > 0 && tree.used_bytes.saturating_add(more) > capacity {
            // What is overwritten does not count twice.
            let (old, _) = tree.read(ino, at, more)?;
            let old: u64 = old.iter().map(|(_, extent)| extent.len).sum();
            if tree.used_bytes - old + more > capacity {
                return Err(Errno::NoSpace);
            }
        }
        tree.write(ino, at, bytes, now())?;
        if tree.dirty_bytes > self.options.dirty_bytes_max / 2 {
            self.wake.notify_one();
        }
        Ok(())
    }

    /// How many bytes fit: what was settled, or what the nodes that are there hold by the policy.
    pub(crate) fn capacity(&self) -> u64 {
        let settled = self.config.capacity_bytes;
        if settled > 0 {
            return settled;
        }
        let weights = self.homes.list().into_iter().filter(|home| home.up).map(|home| home.weight);
        let (all, policy) = (weights.fold(0u64, u64::saturating_add), self.config.policy);
        all / policy.shards() as u64 * policy.data() as u64
    }

    pub(crate) fn status(&self) -> VolumeStatus {
        let mut status = lock(&self.status).clone();
        let tree = self.tree();
        status.fenced = self.fenced.load(Ordering::Acquire);
        status.dirty_bytes = tree.dirty_bytes;
        status.inodes = tree.inodes.len() as u64;
        status.used_bytes = tree.used_bytes;
        status.blobs = tree.blobs.len() as u64;
        status.degraded_blobs = lock(&self.degraded).len() as u64;
        status.clean = self.durable.load(Ordering::Acquire) >= tree.version;
        status
    }

    fn count_degraded(&self) {
        let tree = self.tree();
        let degraded = tree.blobs.iter().filter(|(_, blob)| self.is_degraded(&blob.manifest)).map(|(&id, _)| id);
        lock(&self.degraded).extend(degraded);
    }

    fn is_degraded(&self, manifest: &BlobManifest) -> bool {
        self.blobs.info(manifest).is_ok_and(|info| info.absent > 0)
    }
}

#[cfg(test)]
mod tests;
