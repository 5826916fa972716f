//! The one folder that holds everything a node keeps: where it is, who may use it, and what lies where.
//!
//! Invariant: while a [`DataDir`] exists, no other process has one for the same folder (an advisory lock on `lock`, released by
//! the kernel however the process ends).

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Seek as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};

/// Everything of a node is private to the user who runs it.
const DIRECTORY_MODE: u32 = 0o700;

/// Why a data directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DataDirError {
    /// Neither a flag, nor the environment, nor a home directory says where.
    #[error("there is no home directory to keep the node's data in; name one with --data-dir")]
    Nowhere,
    /// Another process holds it.
    #[error("the data directory {} is in use by another atoll node (process {holder}); stop that one or choose another --data-dir", path.display())]
    InUse {
        /// The folder.
        path: PathBuf,
        /// Its process id, as far as it wrote it down.
        holder: String,
    },
    /// The system refuses.
    #[error("cannot use {}: {source}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
}

/// A locked data directory.
#[derive(Debug)]
pub struct DataDir {
    path: PathBuf,
    _lock: File,
}

impl DataDir {
    /// Where the data lies unless told otherwise: `$XDG_DATA_HOME/atoll`, else `~/.local/share/atoll` (XDG Base Directory
    /// Specification). `environment` looks a variable up.
    ///
    /// # Errors
    /// [`DataDirError::Nowhere`] if neither `XDG_DATA_HOME` nor `HOME` is set to an absolute path.
    pub fn default_path(environment: impl Fn(&str) -> Option<String>) -> Result<PathBuf, DataDirError> {
        let absolute = |name: &str| environment(name).map(PathBuf::from).filter(|path| path.is_absolute());
        absolute("XDG_DATA_HOME")
            .or_else(|| absolute("HOME").map(|home| home.join(".local/share")))
            .map(|base| base.join("atoll"))
            .ok_or(DataDirError::Nowhere)
    }

    /// Makes the folder if need be and locks it.
    ///
    /// # Errors
    /// [`DataDirError::InUse`] if a node runs there, [`DataDirError::Io`] if the system refuses.
    pub fn lock(path: &Path) -> Result<Self, DataDirError> {
        let failed = |at: &Path| {
            let at = at.to_path_buf();
            move |source: io::Error| DataDirError::Io { path: at, source }
        };
        fs::DirBuilder::new().recursive(true).mode(DIRECTORY_MODE).create(path).map_err(failed(path))?;
        let path = path.canonicalize().map_err(failed(path))?;
        let lock_path = path.join("lock");
        let mut lock = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&lock_path)
            .map_err(failed(&lock_path))?;
        match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => {
                let mut holder = String::new();
                // Who holds it is a courtesy; not being able to read it changes nothing.
                let _ = lock.take(32).read_to_string(&mut holder);
                let holder = if holder.trim().is_empty() { "unknown".into() } else { holder.trim().to_owned() };
                return Err(DataDirError::InUse { path, holder });
            }
            Err(errno) => return Err(failed(&lock_path)(errno.into())),
        }
        lock.set_len(0).map_err(failed(&lock_path))?;
        lock.rewind().map_err(failed(&lock_path))?;
        writeln!(lock, "{}", std::process::id()).map_err(failed(&lock_path))?;
        Ok(Self { path, _lock: lock })
    }

    /// The folder, absolute.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The node's key.
    #[must_use]
    pub fn node_key(&self) -> PathBuf {
        self.path.join(NODE_KEY)
    }

    /// The owner's key.
    #[must_use]
    pub fn owner_key(&self) -> PathBuf {
        self.path.join(OWNER_KEY)
    }

    /// The embedded key-value store.
    #[must_use]
    pub fn kv(&self) -> PathBuf {
        self.path.join("kv")
    }

    /// The segments of the storage role, unless configured elsewhere.
    #[must_use]
    pub fn shards(&self) -> PathBuf {
        self.path.join("shards")
    }

    /// The control socket.
    #[must_use]
    pub fn control_socket(&self) -> PathBuf {
        self.path.join(atoll_control::SOCKET_NAME)
    }
}

/// Waits until no node holds the data directory `path`. Blocks the thread.
///
/// # Errors
/// [`DataDirError::Io`] if its lock cannot be opened; a folder without a lock is free.
pub fn wait_until_unlocked(path: &Path) -> Result<(), DataDirError> {
    let failed = |source: io::Error| DataDirError::Io { path: path.join("lock"), source };
    match File::open(path.join("lock")) {
        Ok(lock) => flock(&lock, FlockOperation::LockShared).map_err(|errno| failed(errno.into())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(failed(error)),
    }
}

/// File name of the node's key below the data directory.
pub const NODE_KEY: &str = "node.key";

/// File name of the owner's key below the data directory.
pub const OWNER_KEY: &str = "owner.key";

/// File name of the configuration below the data directory.
pub const CONFIG_FILE: &str = "atoll.toml";

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;

    #[test]
    fn the_default_follows_the_xdg_specification() {
        let check = |variables: &[(&str, &str)], expected: Option<&str>| {
            let lookup =
                |name: &str| variables.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned());
            assert_eq!(DataDir::default_path(lookup).ok(), expected.map(PathBuf::from));
        };
        check(&[("XDG_DATA_HOME", "/data"), ("HOME", "/home/me")], Some("/data/atoll"));
        check(&[("HOME", "/home/me")], Some("/home/me/.local/share/atoll"));
        check(&[("XDG_DATA_HOME", "relative"), ("HOME", "/home/me")], Some("/home/me/.local/share/atoll"));
        check(&[], None);
    }

    #[test]
    fn a_second_node_is_told_who_holds_the_folder() {
        let folder = tempfile::tempdir().unwrap();
        let first = DataDir::lock(folder.path()).unwrap();
        let refusal = DataDir::lock(folder.path()).unwrap_err();
        assert!(refusal.to_string().contains(&format!("process {}", std::process::id())), "{refusal}");
        drop(first);
        DataDir::lock(folder.path()).unwrap();
    }
}
