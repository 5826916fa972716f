//! Opening a store's directory, and making one such that a crash leaves either none or a whole one.
//!
//! The engine makes its files one after the other and does not recover from a crash in between. So a new store is built in a directory beside
//! (`<path>.new`) and renamed; what an interrupted attempt left there is removed by the next.

use std::{
    fs::{self, File, TryLockError},
    io,
    path::{Path, PathBuf},
    sync::{Arc, atomic::AtomicU64},
};

use fjall::{Database, Keyspace, KeyspaceCreateOptions, PersistMode};

use super::{
    ENGINE_THREADS, EmbeddedConfig, FORMAT, JOURNAL_BYTES_MAX, META_REVISION, OPEN_FILES_MAX, Store, WRITE_BUFFER_BYTES,
};
use crate::{OpenError, Revision, error::open_error, watch::History};

/// Keyspace of the callers' keys.
const RECORDS: &str = "records";

/// Keyspace of what the store knows about itself.
const META: &str = "meta";

/// Key, in [`META`], of the store's format (one byte).
const META_FORMAT: &str = "format";

/// The file by which the engine recognises its directory.
const ENGINE_MARKER: &str = "version";

/// The file the engine locks while it has the directory open.
const ENGINE_LOCK: &str = "lock";

/// Opens the store in `path`; if there is none, makes one.
pub(super) fn open_or_create(path: &Path, config: &EmbeddedConfig) -> Result<Store, OpenError> {
    let path = std::path::absolute(path).map_err(|source| OpenError::Io { path: path.to_owned(), source })?;
    let io_error = |source| OpenError::Io { path: path.clone(), source };
    if !path.join(ENGINE_MARKER).try_exists().map_err(io_error)? {
        if !is_absent_or_empty(&path).map_err(io_error)? {
            return Err(OpenError::Foreign { path });
        }
        create(&path, config)?;
    }
    let database = open_engine(&path, config).map_err(|error| open_error(path.clone(), error))?;
    load(path, database, config.history_bytes_max)
}

fn is_absent_or_empty(path: &Path) -> io::Result<bool> {
    match fs::read_dir(path) {
        Ok(mut entries) => Ok(entries.next().is_none()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(true),
        Err(error) => Err(error),
    }
}

/// Builds an empty store beside `path` and puts it in place.
fn create(path: &Path, config: &EmbeddedConfig) -> Result<(), OpenError> {
    let io_error = |source| OpenError::Io { path: path.to_owned(), source };
    let mut beside = path.as_os_str().to_owned();
    beside.push(".new");
    let beside = PathBuf::from(beside);
    remove_leftover(&beside).map_err(|error| match error {
        TryLockError::WouldBlock => OpenError::Locked { path: path.to_owned() },
        TryLockError::Error(source) => io_error(source),
    })?;
    fill(&beside, config).map_err(|error| open_error(path.to_owned(), error))?;
    fs::rename(&beside, path).map_err(io_error)?;
    if let Some(parent) = path.parent() {
        File::open(parent).and_then(|parent| parent.sync_all()).map_err(io_error)?;
    }
    Ok(())
}

/// Removes what an interrupted creation left, unless another process is creating right now.
fn remove_leftover(path: &Path) -> Result<(), TryLockError> {
    match File::open(path.join(ENGINE_LOCK)) {
        Ok(lock) => lock.try_lock()?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(TryLockError::Error(error)),
    }
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(TryLockError::Error(error)),
        _ => Ok(()),
    }
}

fn fill(path: &Path, config: &EmbeddedConfig) -> fjall::Result<()> {
    let database = open_engine(path, config)?;
    let options = || KeyspaceCreateOptions::default().max_memtable_size(WRITE_BUFFER_BYTES);
    database.keyspace(RECORDS, options)?;
    let meta = database.keyspace(META, options)?;
    let mut batch = database.batch().durability(Some(PersistMode::SyncAll));
    batch.insert(&meta, META_FORMAT, [FORMAT]);
    batch.insert(&meta, META_REVISION, Revision::default().to_le_bytes());
    batch.commit()
}

fn open_engine(path: &Path, config: &EmbeddedConfig) -> fjall::Result<Database> {
    Database::builder(path)
        .cache_size(config.cache_bytes)
        .max_journaling_size(JOURNAL_BYTES_MAX)
        .max_cached_files(Some(OPEN_FILES_MAX))
        .worker_threads(ENGINE_THREADS)
        .open()
}

/// Takes up an engine that has been opened: checks what it is and reads where it stands.
fn load(path: PathBuf, database: Database, history_bytes_max: usize) -> Result<Store, OpenError> {
    let engine = |error| open_error(path.clone(), error);
    let (Some(records), Some(meta)) =
        (existing(&database, RECORDS).map_err(engine)?, existing(&database, META).map_err(engine)?)
    else {
        return Err(OpenError::Foreign { path });
    };
    let corrupt = |reason: &str| OpenError::Corrupt { path: path.clone(), reason: reason.to_owned() };
    match meta.get(META_FORMAT).map_err(engine)?.as_deref() {
        Some([FORMAT]) => {}
        Some(&[other]) => {
            return Err(OpenError::Version { path, found: other.to_string(), known: FORMAT });
        }
        _ => return Err(corrupt("it does not name its format")),
    }
    let revision = meta.get(META_REVISION).map_err(engine)?.ok_or_else(|| corrupt("it has no revision"))?;
    let revision: [u8; 8] = (*revision).try_into().map_err(|_| corrupt("its revision is not eight bytes long"))?;
    let revision = Revision::from_le_bytes(revision);
    let history = Arc::new(History::new(revision, history_bytes_max));
    Ok(Store { path, database, records, meta, revision: AtomicU64::new(revision), history })
}

fn existing(database: &Database, name: &str) -> fjall::Result<Option<Keyspace>> {
    if !database.keyspace_exists(name) {
        return Ok(None);
    }
    database.keyspace(name, KeyspaceCreateOptions::default).map(Some)
}
