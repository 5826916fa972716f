//! Writes objects to local files.
//!
//! A file appears under its name only when it is whole: it is written beside it as `.<name>.<version>.atoll-part` and renamed. If the
//! job breaks off, that part stays, and the next `get` of the same version continues it after checking, with the
//! object's BLAKE3, that what is there is right.

use std::fs::{self, File, FileTimes, OpenOptions, Permissions};
use std::io::{self, IoSlice, Read as _};
use std::os::unix::fs::{FileExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use atoll_control::{ApiError, Event, GetRequest, Kind, TransferSummary};
use atoll_engine::{Engine, LIST_MAX, ListQuery, ObjectInfo, ObjectKind};
use atoll_ids::BucketName;
use rustix::io::{Errno, ReadWriteFlags, pwritev2};
use tokio::sync::{Semaphore, mpsc};
use tokio::task::{JoinHandle, JoinSet};

use super::names::path_below;
use super::put::{cancelled, flatten};
use super::{OBJECTS_AT_ONCE, Tracker, slots};
use crate::failure::{told, told_of};

/// A part is continued at the start of a stripe.
const STRIPE_BYTES: u64 = atoll_codec::STRIPE_BYTES as u64;

/// Objects from this size on are written past the page cache where the kernel can (Linux 6.14): each block goes to the disk at once and gives its memory to those after
/// it. A gigabyte would otherwise push a gigabyte out of the cache, for a file that is likely to be read once; and where memory that lay free has to be fetched
/// from a hypervisor first, filling the cache is several times slower than the disk. Smaller ones are left to the cache, which is faster.
const UNCACHED_FROM_BYTES: u64 = 64 << 20;

/// `RWF_DONTCACHE`: see pwritev2(2).
const DONT_CACHE: ReadWriteFlags = ReadWriteFlags::from_bits_retain(0x80);

/// Read at once when a part is checked.
const CHECK_BYTES: usize = 1 << 20;

/// Writes what the request names.
///
/// # Errors
/// [`ApiError`] if nothing is there, the store cannot read it, or the disk refuses.
pub(crate) async fn run(
    engine: Engine,
    request: GetRequest,
    events: mpsc::Sender<Event>,
) -> Result<TransferSummary, ApiError> {
    let tracker = Tracker::start(events);
    let job = Arc::new(Job {
        engine: engine.clone(),
        bucket: request.bucket.clone(),
        force: request.force,
        tracker: tracker.clone(),
    });
    let everything_below = request.key.is_empty() || request.key.ends_with('/');
    if everything_below {
        tree(&job, &request).await?;
    } else {
        let info = engine.stat(&request.bucket, &request.key).await.map_err(|error| told(&error))?;
        tracker.total(1, info.size);
        tokio::select! {
            done = job.fetch(info, request.destination.clone()) => done?,
            () = tracker.cancelled() => return Err(cancelled()),
        }
    }
    Ok(tracker.summary())
}

fn not_found(request: &GetRequest) -> ApiError {
    let message = format!("there is no object {}/{}", request.bucket, request.key);
    ApiError::new(Kind::NotFound, message).with_help("a key that ends with / means everything below it")
}

async fn tree(job: &Arc<Job>, request: &GetRequest) -> Result<(), ApiError> {
    let usage = job.engine.usage(&request.bucket, &request.key).await;
    let usage = usage.map_err(|error| told(&error))?;
    if usage.objects == 0 {
        return Err(not_found(request));
    }
    job.tracker.total(usage.objects, usage.bytes);
    make_directory(&request.destination).await?;
    let free = Arc::new(Semaphore::new(OBJECTS_AT_ONCE));
    let mut tasks: JoinSet<Result<(), ApiError>> = JoinSet::new();
    // Links are made last, so that no object is written through one that came from the store.
    let mut links = Vec::new();
    let mut after = None;
    loop {
        let query = ListQuery { prefix: request.key.clone(), delimiter: None, after, limit: LIST_MAX };
        let page = job.engine.list(&request.bucket, &query).await;
        let page = page.map_err(|error| told(&error))?;
        for info in page.objects {
            let relative = info.key.get(request.key.len()..).unwrap_or_default();
            let path = match path_below(&request.destination, relative) {
                Ok(path) => path,
                Err(error) => {
                    job.tracker.skipped(error.to_string()).await;
                    continue;
                }
            };
            if matches!(info.meta.kind, ObjectKind::Symlink(_)) {
                links.push((info, path));
                continue;
            }
            let slot = tokio::select! {
                slot = free.clone().acquire_many_owned(slots(info.size)) => slot.map_err(|_| cancelled())?,
                () = job.tracker.cancelled() => return Err(cancelled()),
            };
            let job = job.clone();
            tasks.spawn(async move {
                let result = job.fetch(info, path).await;
                drop(slot);
                result
            });
            while let Some(ended) = tasks.try_join_next() {
                flatten(ended)?;
            }
        }
        after = page.next;
        if after.is_none() {
            break;
        }
    }
    while let Some(ended) = tokio::select! {
        ended = tasks.join_next() => ended,
        () = job.tracker.cancelled() => return Err(cancelled()),
    } {
        flatten(ended)?;
    }
    for (info, path) in links {
        job.fetch(info, path).await?;
    }
    Ok(())
}

async fn make_directory(path: &Path) -> Result<(), ApiError> {
    let made = path.to_path_buf();
    blocking(move || fs::create_dir_all(&made)).await?.map_err(|error| cannot_write(path, &error))
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, ApiError> {
    tokio::task::spawn_blocking(work).await.map_err(|error| ApiError::new(Kind::Broken, error.to_string()))
}

fn cannot_write(path: &Path, error: &io::Error) -> ApiError {
    let kind = if error.kind() == io::ErrorKind::StorageFull { Kind::Unavailable } else { Kind::Input };
    ApiError::new(kind, format!("the node cannot write {}: {error}", path.display()))
}

struct Job {
    engine: Engine,
    bucket: BucketName,
    force: bool,
    tracker: Arc<Tracker>,
}

impl Job {
    async fn fetch(&self, info: ObjectInfo, path: PathBuf) -> Result<(), ApiError> {
        if !self.force {
            let (known, at) = (info.clone(), path.clone());
            if blocking(move || is_there(&known, &at)).await? {
                self.tracker.unchanged(info.size);
                return Ok(());
            }
        }
        match info.meta.kind.clone() {
            ObjectKind::Directory => make_directory(&path).await?,
            ObjectKind::Symlink(target) => {
                let link = path.clone();
                blocking(move || make_link(&target, &link)).await?.map_err(|error| cannot_write(&path, &error))?;
            }
            ObjectKind::File => self.fetch_file(info, &path).await?,
        }
        self.tracker.moved_item();
        Ok(())
    }

    async fn reader(&self, info: &ObjectInfo, from: u64) -> Result<atoll_engine::ObjectReader, ApiError> {
        let range = (from > 0).then_some(from..info.size);
        let reader = self.engine.get(&self.bucket, &info.key, range).await;
        reader.map_err(|error| told(&error))
    }

    async fn fetch_file(&self, info: ObjectInfo, path: &Path) -> Result<(), ApiError> {
        let (about, at) = (info.clone(), path.to_path_buf());
        let mut part = blocking(move || Part::open(&about, at)).await?.map_err(|error| cannot_write(path, &error))?;
        self.tracker.moved_bytes(part.written);
        let mut reader = self.reader(&info, part.written).await?;
        if reader.info().id != info.id {
            let message = format!("{}/{} was replaced while it was read", self.bucket, info.key);
            return Err(ApiError::new(Kind::Conflict, message).with_help("run the same command again"));
        }
        // One stripe is written while the next ones are read. A thread only for as long as it writes: many files are under way at once, and the
        // engine needs threads to go on.
        let mut next = reader.next().await;
        while let Some(chunk) = next {
            let chunk = chunk.map_err(|error| told_of(&self.bucket, &info.key, &error))?;
            let length = chunk.len() as u64;
            let writing = tokio::task::spawn_blocking(move || part.append(&chunk));
            let (following, written) = tokio::join!(reader.next(), written(writing, path));
            (next, part) = (following, written?);
            self.tracker.moved_bytes(length);
        }
        blocking(move || part.finish(&info)).await?.map_err(|error| cannot_write(path, &error))
    }
}

async fn written(writing: JoinHandle<io::Result<Part>>, path: &Path) -> Result<Part, ApiError> {
    let part = writing.await.map_err(|error| ApiError::new(Kind::Broken, error.to_string()))?;
    part.map_err(|error| cannot_write(path, &error))
}

/// The same size and time of change, as rsync decides it.
fn is_there(info: &ObjectInfo, path: &Path) -> bool {
    let Ok(metadata) = path.symlink_metadata() else { return false };
    match info.meta.kind {
        ObjectKind::Directory => metadata.is_dir(),
        ObjectKind::Symlink(_) => false,
        ObjectKind::File => {
            metadata.is_file()
                && metadata.len() == info.size
                && info.meta.modified.is_some_and(|time| metadata.modified().ok() == Some(SystemTime::from(time)))
        }
    }
}

fn make_link(target: &str, path: &Path) -> io::Result<()> {
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent)?;
    }
    match std::os::unix::fs::symlink(target, path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            if path.symlink_metadata()?.is_symlink() {
                fs::remove_file(path)?;
                return std::os::unix::fs::symlink(target, path);
            }
            Err(error)
        }
        done => done,
    }
}

/// A file that is being written.
struct Part {
    file: File,
    part: PathBuf,
    path: PathBuf,
    written: u64,
    continued: bool,
    /// Written past the page cache, until the kernel says that it cannot.
    uncached: bool,
}

impl Part {
    /// Opens the part of `info` beside `path`, and keeps what an earlier, broken off job left in it.
    fn open(info: &ObjectInfo, path: PathBuf) -> io::Result<Self> {
        if path.is_dir() {
            return Err(io::Error::from(io::ErrorKind::IsADirectory));
        }
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent)?;
        }
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        // The longest file name is 255 bytes; a version's id tells parts apart without the name.
        let short: String = name.chars().take(32).collect();
        let part = path.with_file_name(format!(".{short}.{}.atoll-part", info.id));
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&part)?;
        let length = file.metadata()?.len();
        // Only a whole number of stripes can be continued, and the end of the object must still be read.
        let keep = if length < info.size { length / STRIPE_BYTES * STRIPE_BYTES } else { 0 };
        file.set_len(keep)?;
        let uncached = info.size >= UNCACHED_FROM_BYTES;
        Ok(Self { file, part, path, written: keep, continued: keep > 0, uncached })
    }

    fn append(mut self, chunk: &[u8]) -> io::Result<Self> {
        let mut rest = chunk;
        while self.uncached && !rest.is_empty() {
            match pwritev2(&self.file, &[IoSlice::new(rest)], self.written, DONT_CACHE) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(count) => {
                    self.written += count as u64;
                    rest = &rest[count..];
                }
                Err(Errno::INTR) => {}
                Err(Errno::OPNOTSUPP | Errno::INVAL | Errno::NOSYS) => self.uncached = false,
                Err(error) => return Err(error.into()),
            }
        }
        self.file.write_all_at(rest, self.written)?;
        self.written += rest.len() as u64;
        Ok(self)
    }

    /// Puts the whole file in its place.
    fn finish(self, info: &ObjectInfo) -> io::Result<()> {
        if self.written != info.size {
            return Err(io::Error::other("the store gave another length than it promised"));
        }
        if self.continued {
            self.check(info)?;
        }
        if let Some(mode) = info.meta.mode {
            self.file.set_permissions(Permissions::from_mode(mode & 0o777))?;
        }
        if let Some(time) = info.meta.modified {
            self.file.set_times(FileTimes::new().set_modified(SystemTime::from(time)))?;
        }
        fs::rename(&self.part, &self.path)
    }

    /// What an earlier job wrote was not watched by this one: the whole must have the object's hash.
    fn check(&self, info: &ObjectInfo) -> io::Result<()> {
        let mut file = File::open(&self.part)?;
        let mut hasher = blake3::Hasher::new();
        let mut chunk = vec![0; CHECK_BYTES];
        loop {
            let read = file.read(&mut chunk)?;
            if read == 0 {
                break;
            }
            hasher.update(&chunk[..read]);
        }
        if hasher.finalize() == info.content {
            return Ok(());
        }
        fs::remove_file(&self.part)?;
        Err(io::Error::other("the part an earlier run left was damaged and is removed; run the same command again"))
    }
}
