//! Stores local files and directories.

use std::fs::{File, Metadata};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use atoll_control::{ApiError, Event, Kind, PutRequest, TransferSummary};
use atoll_engine::{Engine, GetError, ObjectKind, ObjectMeta, PutError, PutOptions, Source};
use atoll_ids::BucketName;
use jiff::Timestamp;
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;

use super::names::key_of;
use super::{OBJECTS_AT_ONCE, Tracker, slots};
use crate::failure::{told, told_of};

/// Found and waiting to be stored: enough that a worker never waits for the walk.
const FOUND_WAITING_MAX: usize = 1024;

/// One thing to store.
struct Item {
    path: PathBuf,
    key: String,
    /// As the walk saw it; only a hint.
    size: u64,
}

/// What the walk tells.
enum Found {
    Item(Item),
    Left(String),
}

/// Stores what the request names.
///
/// # Errors
/// [`ApiError`] if a source is not there or the store refuses; files that cannot be read are warnings.
pub(crate) async fn run(
    engine: Engine,
    request: PutRequest,
    events: mpsc::Sender<Event>,
) -> Result<TransferSummary, ApiError> {
    let tracker = Tracker::start(events);
    let roots = roots(&request)?;
    count_in_background(&roots, &tracker);
    let (send, mut found) = mpsc::channel(FOUND_WAITING_MAX);
    let walk = tokio::task::spawn_blocking(move || {
        for root in roots {
            if walk(&root, &send).is_err() {
                return;
            }
        }
    });
    let job = Arc::new(Job { engine, bucket: request.bucket, force: request.force, tracker: tracker.clone() });
    let mut tasks: JoinSet<Result<(), ApiError>> = JoinSet::new();
    let free = Arc::new(Semaphore::new(OBJECTS_AT_ONCE));
    loop {
        let next = tokio::select! {
            next = found.recv() => next,
            Some(ended) = tasks.join_next(), if !tasks.is_empty() => { flatten(ended)?; continue }
            () = tracker.cancelled() => return Err(cancelled()),
        };
        // All that ended, each time: a task holds its memory until it is joined, and of the branches above chance takes one.
        while let Some(ended) = tasks.try_join_next() {
            flatten(ended)?;
        }
        match next {
            None => break,
            Some(Found::Left(message)) => tracker.skipped(message).await,
            Some(Found::Item(item)) => {
                let slot = tokio::select! {
                    slot = free.clone().acquire_many_owned(slots(item.size)) => slot.map_err(|_| cancelled())?,
                    () = tracker.cancelled() => return Err(cancelled()),
                };
                let job = job.clone();
                tasks.spawn(async move {
                    let result = job.store(item).await;
                    drop(slot);
                    result
                });
            }
        }
    }
    while let Some(ended) =
        tokio::select! { ended = tasks.join_next() => ended, () = tracker.cancelled() => return Err(cancelled()) }
    {
        flatten(ended)?;
    }
    walk.await.map_err(|error| ApiError::new(Kind::Broken, error.to_string()))?;
    Ok(tracker.summary())
}

pub(super) fn cancelled() -> ApiError {
    ApiError::new(Kind::Unavailable, "cancelled")
}

pub(super) fn flatten(ended: Result<Result<(), ApiError>, tokio::task::JoinError>) -> Result<(), ApiError> {
    ended.map_err(|error| ApiError::new(Kind::Broken, error.to_string()))?
}

/// A source and the key prefix of what is below it.
#[derive(Clone)]
struct Root {
    path: PathBuf,
    /// For a directory: what stands before the relative path. For a file: its whole key.
    key: String,
    directory: bool,
}

fn roots(request: &PutRequest) -> Result<Vec<Root>, ApiError> {
    request.sources.iter().map(|source| root(source, &request.key)).collect()
}

fn root(source: &atoll_control::Source, key: &str) -> Result<Root, ApiError> {
    let path = source.path.clone();
    let shown = path.display();
    let metadata = std::fs::metadata(&path)
        .map_err(|error| ApiError::new(Kind::Input, format!("the node cannot read {shown}: {error}")))?;
    if metadata.dev() != source.device || metadata.ino() != source.inode {
        let message = format!("the node sees another file at {shown} than you do");
        let help = "it runs in another mount namespace; store it through a pipe: atoll put - BUCKET/KEY < FILE";
        return Err(ApiError::new(Kind::Input, message).with_help(help));
    }
    let prefix = key.is_empty() || key.ends_with('/');
    let name = path.file_name().and_then(|name| name.to_str());
    let named = || name.ok_or_else(|| ApiError::new(Kind::Input, format!("the name of {shown} is not UTF-8")));
    if metadata.is_dir() {
        let key = match (source.contents_only, prefix) {
            (true, true) => key.to_owned(),
            (true, false) => format!("{key}/"),
            (false, true) => format!("{key}{}/", named()?),
            (false, false) => format!("{key}/"),
        };
        return Ok(Root { path, key, directory: true });
    }
    let key = if prefix { format!("{key}{}", named()?) } else { key.to_owned() };
    Ok(Root { path, key, directory: false })
}

/// Knowing the whole makes the bar honest; it costs a look at every directory entry, beside the transfer.
fn count_in_background(roots: &[Root], tracker: &Arc<Tracker>) {
    let (roots, tracker) = (roots.to_vec(), tracker.clone());
    tokio::task::spawn_blocking(move || {
        let (mut items, mut bytes) = (0, 0);
        let mut pending: Vec<PathBuf> = roots.into_iter().map(|root| root.path).collect();
        while let Some(path) = pending.pop() {
            if tracker.is_cancelled() {
                return;
            }
            let Ok(metadata) = path.symlink_metadata() else { continue };
            if metadata.is_dir() {
                let entries = std::fs::read_dir(&path).into_iter().flatten().flatten();
                pending.extend(entries.map(|entry| entry.path()));
            } else {
                items += 1;
                bytes += metadata.len();
            }
        }
        tracker.total(items, bytes);
    });
}

/// The receiver is gone.
struct Unwanted;

/// Sends everything below `root`, directories before what is in them.
fn walk(root: &Root, send: &mpsc::Sender<Found>) -> Result<(), Unwanted> {
    let tell = |found| send.blocking_send(found).map_err(|_| Unwanted);
    if !root.directory {
        return tell(Found::Item(Item { size: size_of(&root.path), path: root.path.clone(), key: root.key.clone() }));
    }
    let mut pending = vec![root.path.clone()];
    while let Some(directory) = pending.pop() {
        let entries = match std::fs::read_dir(&directory) {
            Ok(entries) => entries,
            Err(error) => {
                tell(Found::Left(format!("{}: {error}", directory.display())))?;
                continue;
            }
        };
        let mut empty = true;
        for entry in entries {
            empty = false;
            let entry = match entry {
                Ok(entry) => entry,
                Err(error) => {
                    tell(Found::Left(format!("{}: {error}", directory.display())))?;
                    break;
                }
            };
            let path = entry.path();
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                pending.push(path);
            } else {
                tell(found(root, path, ""))?;
            }
        }
        if empty && directory != root.path {
            tell(found(root, directory, "/"))?;
        }
    }
    Ok(())
}

fn found(root: &Root, path: PathBuf, suffix: &str) -> Found {
    let relative = path.strip_prefix(&root.path).unwrap_or(&path);
    match key_of(&root.key, relative) {
        Some(key) => Found::Item(Item { size: size_of(&path), key: key + suffix, path }),
        None => Found::Left(format!("{}: its name is not UTF-8", path.display())),
    }
}

fn size_of(path: &Path) -> u64 {
    path.symlink_metadata().map_or(0, |metadata| metadata.len())
}

struct Job {
    engine: Engine,
    bucket: BucketName,
    force: bool,
    tracker: Arc<Tracker>,
}

/// A file, looked at and opened.
enum Opened {
    File(File, Metadata),
    Symlink(PathBuf, Metadata),
    Directory(Metadata),
    /// A socket, pipe or device.
    Special,
}

impl Job {
    async fn store(&self, item: Item) -> Result<(), ApiError> {
        let path = item.path.clone();
        let opened = tokio::task::spawn_blocking(move || open(&path)).await;
        match opened.map_err(|error| ApiError::new(Kind::Broken, error.to_string()))? {
            Err(error) => self.tracker.skipped(format!("{}: {error}", item.path.display())).await,
            Ok(Opened::Special) => {
                let message = format!("{}: it is neither a file, nor a directory, nor a link", item.path.display());
                self.tracker.skipped(message).await;
            }
            Ok(Opened::File(file, metadata)) => {
                let (len, meta) = (metadata.len(), meta(ObjectKind::File, &metadata));
                self.store_one(item, Source::File(file, len), len, meta).await?;
            }
            Ok(Opened::Symlink(target, metadata)) => match target.into_os_string().into_string() {
                Ok(target) => {
                    self.store_one(item, Source::Empty, 0, meta(ObjectKind::Symlink(target), &metadata)).await?
                }
                Err(_) => self.tracker.skipped(format!("{}: its target is not UTF-8", item.path.display())).await,
            },
            Ok(Opened::Directory(metadata)) => {
                self.store_one(item, Source::Empty, 0, meta(ObjectKind::Directory, &metadata)).await?;
            }
        }
        Ok(())
    }

    async fn store_one(&self, item: Item, source: Source, len: u64, meta: ObjectMeta) -> Result<(), ApiError> {
        if !self.force && self.is_there(&item.key, len, &meta).await? {
            self.tracker.unchanged(len);
            return Ok(());
        }
        let (tracker, told_before) = (self.tracker.clone(), AtomicU64::new(0));
        let progress = Arc::new(move |progress: atoll_engine::Progress| {
            let before = told_before.fetch_max(progress.bytes, Ordering::Relaxed);
            tracker.moved_bytes(progress.bytes.saturating_sub(before));
        });
        let options = PutOptions { meta, restart: self.force, progress: Some(progress) };
        match self.engine.put(&self.bucket, &item.key, source, options).await {
            Ok(_) => {
                self.tracker.moved_item();
                Ok(())
            }
            // The file's fault, not the store's: the others go on.
            Err(error @ (PutError::Source { .. } | PutError::SourceChanged { .. } | PutError::BadKey { .. })) => {
                self.tracker.skipped(format!("{}: {error}", item.path.display())).await;
                Ok(())
            }
            Err(error) => Err(told_of(&self.bucket, &item.key, &error)),
        }
    }

    async fn is_there(&self, key: &str, len: u64, meta: &ObjectMeta) -> Result<bool, ApiError> {
        let found = self.engine.stat(&self.bucket, key).await;
        match found {
            Ok(info) => Ok(info.size == len
                && info.meta.kind == meta.kind
                && info.meta.mode == meta.mode
                && info.meta.modified.is_some()
                && info.meta.modified == meta.modified),
            Err(GetError::NotFound { .. }) => Ok(false),
            Err(error) => Err(told(&error)),
        }
    }
}

fn open(path: &Path) -> std::io::Result<Opened> {
    let metadata = path.symlink_metadata()?;
    let kind = metadata.file_type();
    if kind.is_symlink() {
        return Ok(Opened::Symlink(std::fs::read_link(path)?, metadata));
    }
    if kind.is_dir() {
        return Ok(Opened::Directory(metadata));
    }
    if !kind.is_file() {
        return Ok(Opened::Special);
    }
    let file = File::open(path)?;
    // Looked at again through the descriptor: the path may name another file by now.
    let metadata = file.metadata()?;
    Ok(if metadata.is_file() { Opened::File(file, metadata) } else { Opened::Special })
}

fn meta(kind: ObjectKind, metadata: &Metadata) -> ObjectMeta {
    let nanoseconds = i32::try_from(metadata.mtime_nsec()).unwrap_or(0);
    ObjectMeta {
        kind,
        mode: Some(metadata.mode() & 0o7777),
        modified: Timestamp::new(metadata.mtime(), nanoseconds).ok(),
        content_type: None,
    }
}
