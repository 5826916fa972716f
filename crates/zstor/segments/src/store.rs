//! The store's handle: puts, gets, deletes and questions, from any number of tasks.

use crate::aligned::Recycled;
use crate::catalog::{BeginDelete, BeginPut, Catalog, Location, NamespaceStat, Totals};
use crate::config::{QUEUE_RECORD_COST, SegmentsConfig};
use crate::disk::{Disk, FileDisk};
use crate::error::{DeleteError, DiskError, GetError, OpenError, PutError};
use crate::format::{RecordKind, crc64};
use crate::keeper::Keeper;
use crate::log::{COMMITTERS, Job, Log, LogError};
use crate::read::{ReadError, Wanted, read_shards};
use crate::recover::{OpenReport, recover};
use crate::sync::{lock, read, write};
use atoll_ids::{OwnerId, ShardId};
use bytes::Bytes;
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, RwLock};
use std::thread::JoinHandle;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

/// How a put ended well.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PutOutcome {
    /// The shard is on the disk, synced.
    Stored,
    /// The same bytes were there already, and were read back to make sure.
    AlreadyThere,
}

/// A store of shards on one disk. Clones are handles to the same store; it closes when the last one is dropped.
///
/// The async methods must be called within a tokio runtime. A future that is dropped leaves the store sound: what was
/// queued is still written, only nobody learns of it.
#[derive(Clone)]
pub struct Segments {
    inner: Arc<Inner>,
}

struct Inner {
    catalog: Arc<RwLock<Catalog>>,
    log: Arc<Log>,
    keeper: Arc<Keeper>,
    queue: Arc<Semaphore>,
    queue_bytes: usize,
    reads: Arc<Semaphore>,
    buffers: Recycled,
    shard_bytes_max: usize,
    report: OpenReport,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

impl std::fmt::Debug for Segments {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Segments").field("totals", &self.totals()).finish()
    }
}

impl Segments {
    /// Opens the store in `dir`, creating it where needed: reads all record headers (blocking) and rebuilds the index.
    ///
    /// # Errors
    /// If the configuration makes no sense, the directory is in use or cannot be read, or a newer version wrote it.
    pub fn open(dir: &Path, config: SegmentsConfig) -> Result<Self, OpenError> {
        let disk = FileDisk::open(dir).map_err(|e| match e.kind() {
            io::ErrorKind::WouldBlock => OpenError::Locked,
            _ => OpenError::Disk(DiskError::new("opening the shard directory", e)),
        })?;
        Self::open_on(Arc::new(disk), config)
    }

    /// Opens a store on any disk.
    ///
    /// # Errors
    /// As [`Segments::open`].
    pub fn open_on(disk: Arc<dyn Disk>, config: SegmentsConfig) -> Result<Self, OpenError> {
        if let Some(problem) = config.problem() {
            return Err(OpenError::Config(problem));
        }
        let recovered = recover(disk.as_ref(), &config)?;
        let catalog = Arc::new(RwLock::new(recovered.catalog));
        let keeper = Arc::new(Keeper::new(
            disk.clone(),
            catalog.clone(),
            config.segment_bytes,
            config.spare_ahead,
            recovered.spare,
        ));
        let log = Arc::new(Log::new(disk, catalog.clone(), keeper.clone(), recovered.resume));
        let inner = Inner {
            catalog,
            log,
            keeper,
            queue: Arc::new(Semaphore::new(config.queue_bytes)),
            queue_bytes: config.queue_bytes,
            reads: Arc::new(Semaphore::new(config.reads_in_flight)),
            buffers: Recycled::default(),
            shard_bytes_max: config.shard_bytes_max(),
            report: recovered.report,
            threads: Mutex::new(Vec::new()),
        };
        // Made before the threads, so that a thread that cannot be started ends those that were.
        let store = Self { inner: Arc::new(inner) };
        store.start_threads().map_err(|e| DiskError::new("starting a thread of the log", e))?;
        Ok(store)
    }

    fn start_threads(&self) -> io::Result<()> {
        let mut threads = lock(&self.inner.threads);
        for i in 0..COMMITTERS {
            let log = self.inner.log.clone();
            threads.push(std::thread::Builder::new().name(format!("segments-log-{i}")).spawn(move || log.run())?);
        }
        let keeper = self.inner.keeper.clone();
        threads.push(std::thread::Builder::new().name("segments-keeper".to_owned()).spawn(move || keeper.run())?);
        Ok(())
    }

    /// What opening the store found.
    pub fn open_report(&self) -> &OpenReport {
        &self.inner.report
    }

    /// Stores a shard. `crc` is the CRC-64/NVME ([`crc64`]) of `data` as its sender made it. When this returns `Ok`,
    /// the shard is synced to the disk. Putting the same bytes again is fine, and replaces a copy that has rotted.
    ///
    /// # Errors
    /// See [`PutError`]; nothing is stored then. After [`PutError::Disk`] the shard may be put again.
    pub async fn put(&self, owner: OwnerId, shard: ShardId, crc: u64, data: Bytes) -> Result<PutOutcome, PutError> {
        if data.len() > self.inner.shard_bytes_max {
            return Err(PutError::TooLong { len: data.len(), max: self.inner.shard_bytes_max });
        }
        let found = crc64(&data);
        if found != crc {
            return Err(PutError::CrcMismatch { expected: crc, found });
        }
        let mut replace = None;
        loop {
            let permit = self.queue_permit(data.len()).await.map_err(PutError::Disk)?;
            // In a statement of its own: the lock must be free before anything is awaited.
            let begin = write(&self.inner.catalog).begin_put(owner, shard, data.len() as u32, replace);
            match begin {
                BeginPut::Begun => {
                    let record = Record { kind: RecordKind::Put, owner, shard, crc, data };
                    return self
                        .append(record, permit)
                        .await
                        .map(|()| PutOutcome::Stored)
                        .map_err(|e| self.put_error(e));
                }
                BeginPut::Wait(settled) => {
                    drop(permit);
                    // Settled, or the log is gone: either way ask again.
                    let _ = settled.await;
                }
                BeginPut::Present { at, segment, doubtful } => {
                    drop(permit);
                    let mut outcome = self.read(vec![Wanted { segment, at, owner, shard }]).await;
                    match outcome.pop().unwrap_or(Err(ReadError::Rotten)) {
                        Ok(stored) if stored == data && !doubtful => return Ok(PutOutcome::AlreadyThere),
                        Ok(stored) if stored == data => replace = Some(at),
                        Ok(_) => return Err(PutError::DifferentContent),
                        Err(ReadError::Rotten) => replace = Some(at),
                        Err(ReadError::Disk(e)) => return Err(PutError::Disk(e)),
                    }
                }
                BeginPut::Refused(error) => return Err(error),
            }
        }
    }

    /// Reads a shard.
    ///
    /// # Errors
    /// See [`GetError`].
    pub async fn get(&self, owner: OwnerId, shard: ShardId) -> Result<Bytes, GetError> {
        let mut got = self.get_all(owner, &[shard]).await;
        got.pop().unwrap_or(Err(GetError::NotFound))
    }

    /// Reads several shards, each with its own outcome, in the order asked for. Those that were written together are read together. They hold their
    /// memory together, too: ask for a few at a time.
    pub async fn get_all(&self, owner: OwnerId, shards: &[ShardId]) -> Vec<Result<Bytes, GetError>> {
        let mut results: Vec<Result<Bytes, GetError>> = shards.iter().map(|_| Err(GetError::NotFound)).collect();
        // Whose copy was rotten, and where: its segment may have gone while we read, and then it stands elsewhere now, or nowhere.
        let mut open: Vec<(usize, Option<Location>)> = (0..shards.len()).map(|index| (index, None)).collect();
        while !open.is_empty() {
            let (mut asked, mut wanted) = (Vec::with_capacity(open.len()), Vec::with_capacity(open.len()));
            for (index, rotten_at) in open {
                let shard = shards[index];
                let found = read(&self.inner.catalog).find(&owner, &shard);
                match found {
                    None => results[index] = Err(GetError::NotFound),
                    Some((at, _)) if rotten_at == Some(at) => results[index] = Err(GetError::Rotten),
                    Some((at, segment)) => {
                        asked.push((index, at));
                        wanted.push(Wanted { segment, at, owner, shard });
                    }
                }
            }
            open = Vec::new();
            for ((index, at), outcome) in asked.into_iter().zip(self.read(wanted).await) {
                match outcome {
                    Ok(data) => results[index] = Ok(data),
                    Err(ReadError::Rotten) => open.push((index, Some(at))),
                    Err(ReadError::Disk(e)) => results[index] = Err(GetError::Disk(e)),
                }
            }
        }
        results
    }

    /// Reads a shard from the disk and checks it, without handing it out.
    ///
    /// # Errors
    /// See [`GetError`].
    pub async fn verify(&self, owner: OwnerId, shard: ShardId) -> Result<(), GetError> {
        self.get(owner, shard).await.map(drop)
    }

    /// Deletes a shard. When this returns `Ok`, that is durable: the shard does not come back.
    ///
    /// # Errors
    /// See [`DeleteError`]; the shard is still there, except after `NotFound`.
    pub async fn delete(&self, owner: OwnerId, shard: ShardId) -> Result<(), DeleteError> {
        loop {
            let permit = self.queue_permit(0).await.map_err(DeleteError::Disk)?;
            let begin = write(&self.inner.catalog).begin_delete(owner, shard);
            match begin {
                BeginDelete::Begun => {
                    let record = Record { kind: RecordKind::Tombstone, owner, shard, crc: 0, data: Bytes::new() };
                    return self.append(record, permit).await.map_err(|e| self.delete_error(e));
                }
                BeginDelete::Wait(settled) => {
                    drop(permit);
                    let _ = settled.await;
                }
                BeginDelete::Absent => return Err(DeleteError::NotFound),
            }
        }
    }

    /// Ids and lengths in bytes of an owner's shards after `after`, ascending by id, at most `limit`.
    pub fn list(&self, owner: OwnerId, after: Option<ShardId>, limit: usize) -> Vec<(ShardId, u32)> {
        read(&self.inner.catalog).list(&owner, after, limit)
    }

    /// What an owner's namespace uses.
    pub fn stat(&self, owner: OwnerId) -> NamespaceStat {
        read(&self.inner.catalog).stat(&owner)
    }

    /// Limits an owner's payload to `quota` bytes; `None` goes back to the store's default. What is stored beyond it
    /// stays.
    ///
    /// Quotas are policy of whoever runs the store, and kept there: they are not in the log and must be set again after
    /// opening.
    pub fn set_quota(&self, owner: OwnerId, quota: Option<u64>) {
        write(&self.inner.catalog).set_quota(owner, quota);
    }

    /// What the store uses.
    pub fn totals(&self) -> Totals {
        read(&self.inner.catalog).totals()
    }

    /// Takes no further puts and deletes, waits until those queued are settled, and stops the store's threads. Reads go
    /// on until the last handle is dropped.
    pub async fn close(&self) {
        self.inner.queue.close();
        let inner = self.inner.clone();
        // Only fails when the runtime goes down; then dropping the handle does the same.
        let _ = tokio::task::spawn_blocking(move || inner.stop()).await;
    }

    async fn queue_permit(&self, len: usize) -> Result<OwnedSemaphorePermit, DiskError> {
        let cost = (len + QUEUE_RECORD_COST).min(self.inner.queue_bytes);
        // At most 2 MiB and a bit (SHARD_BYTES_MAX), so it fits.
        self.inner.queue.clone().acquire_many_owned(cost as u32).await.map_err(|_| DiskError::closed())
    }

    async fn append(&self, record: Record, permit: OwnedSemaphorePermit) -> Result<(), LogError> {
        let (done, settled) = oneshot::channel();
        let Record { kind, owner, shard, crc, data } = record;
        self.inner.log.push(Job { kind, owner, shard, crc, data, done, permit });
        settled.await.unwrap_or_else(|_| Err(LogError::Disk(DiskError::closed())))
    }

    async fn read(&self, wanted: Vec<Wanted>) -> Vec<Result<Bytes, ReadError>> {
        if wanted.is_empty() {
            return Vec::new();
        }
        self.inner.keeper.at_work();
        let count = wanted.len();
        let failed = |e: &str| {
            let failed = || ReadError::Disk(DiskError::new("reading a segment", io::Error::other(e.to_owned())));
            (0..count).map(|_| Err(failed())).collect()
        };
        let Ok(permit) = self.inner.reads.clone().acquire_owned().await else { return failed("the store is closed") };
        let buffers = self.inner.buffers.clone();
        let read = tokio::task::spawn_blocking(move || {
            let results = read_shards(&wanted, &buffers);
            drop(permit);
            results
        });
        read.await.unwrap_or_else(|_| failed("the reading task was cancelled"))
    }

    fn put_error(&self, error: LogError) -> PutError {
        match error {
            LogError::Disk(e) if !e.is_full() => PutError::Disk(e),
            _ => read(&self.inner.catalog).fullness().into(),
        }
    }

    fn delete_error(&self, error: LogError) -> DeleteError {
        match error {
            LogError::Disk(e) if !e.is_full() => DeleteError::Disk(e),
            _ => read(&self.inner.catalog).fullness().into(),
        }
    }
}

/// What is to be appended.
struct Record {
    kind: RecordKind,
    owner: OwnerId,
    shard: ShardId,
    crc: u64,
    data: Bytes,
}

impl Inner {
    /// Settles what is queued, ends the threads and seals the log. Can be called twice.
    fn stop(&self) {
        self.queue.close();
        self.log.close();
        let threads = std::mem::take(&mut *lock(&self.threads));
        if threads.is_empty() {
            return;
        }
        self.keeper.close();
        for thread in threads {
            if thread.join().is_err() {
                tracing::error!("a thread of the segment log panicked");
            }
        }
        self.log.seal();
        self.keeper.sweep();
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.stop();
    }
}
