//! What outlives a node on its machine, ended: containers with their limits, pod networks, mounts. Keys, shards and what the node remembers stay.
//!
//! It works on what lies on disk, so it does not matter whether the node was stopped or killed, and it can be done again after it failed half-way.

use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use atoll_cloud::{Assignments, StoreError, remove_network};
use atoll_keys::{KeyFileError, NodeKey};
use atoll_names::{GivenBack, TakeError};
use atoll_runtime::{Embedded, EmbeddedConfig, RuntimeError};
use serde::Serialize;

use crate::cloud::{RUNTIME_DIR, run_dir};
use crate::daemon::{NodeError, open_kv};
use crate::data_dir::{DataDir, DataDirError};

/// What was ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Cleared {
    /// Pods whose containers were removed.
    pub pods: usize,
    /// Mounts that were still there after that.
    pub mounts: usize,
    /// Whether the machine's `resolv.conf` was put back.
    pub resolv_conf: bool,
}

/// Why something is left.
#[derive(Debug, thiserror::Error)]
pub enum ClearError {
    /// The data directory cannot be used.
    #[error(transparent)]
    DataDir(#[from] DataDirError),
    /// The node's key cannot be read.
    #[error(transparent)]
    Key(#[from] KeyFileError),
    /// What the node remembers cannot be read.
    #[error(transparent)]
    State(#[from] Box<NodeError>),
    /// What it was assigned cannot be read.
    #[error(transparent)]
    Assignments(#[from] StoreError),
    /// A container stays.
    #[error("containers are left: {0}")]
    Runtime(#[from] RuntimeError),
    /// The machine's `resolv.conf` stays as the node wrote it.
    #[error(transparent)]
    ResolvConf(#[from] TakeError),
    /// A pod network stays.
    #[error("a pod network is left: {0}")]
    Network(String),
    /// The system refuses.
    #[error("{what} {}: {source}", path.display())]
    Io {
        /// What was tried.
        what: &'static str,
        /// With what.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
}

/// Ends what a node left that does not run. A folder without a node is clear.
///
/// # Errors
/// [`ClearError`]: what is left and why; it can be called again.
pub async fn clear(data_dir: &Path) -> Result<Cleared, ClearError> {
    if !data_dir.exists() {
        return Ok(Cleared { pods: 0, mounts: 0, resolv_conf: false });
    }
    let locked = DataDir::lock(data_dir)?;
    let resolv_conf = atoll_names::give_back(&crate::names::note(locked.path()))? == GivenBack::Restored;
    let run_dir = run_dir(data_dir);
    let runtime = data_dir.join(RUNTIME_DIR);
    let pods = match runtime.exists() {
        true => Embedded::open(EmbeddedConfig::new(runtime))?.remove_all().await?,
        false => 0,
    };
    if run_dir.exists() {
        clear_networks(&locked, &run_dir).await?;
    }
    let mounts = unmount_below(&[data_dir, locked.path(), &run_dir])?;
    match std::fs::remove_dir_all(&run_dir) {
        Err(source) if source.kind() != std::io::ErrorKind::NotFound => {
            Err(ClearError::Io { what: "cannot remove", path: run_dir, source })
        }
        _ => Ok(Cleared { pods, mounts, resolv_conf }),
    }
}

async fn clear_networks(locked: &DataDir, run_dir: &Path) -> Result<(), ClearError> {
    let node = NodeKey::load_or_create(&locked.node_key())?.id();
    let kv = open_kv(locked).map_err(Box::new)?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    for assigned in Assignments::open(kv, node, now).await?.all() {
        remove_network(run_dir, &assigned).await.map_err(ClearError::Network)?;
    }
    Ok(())
}

/// Detaches every mount in these folders, the last first.
fn unmount_below(folders: &[&Path]) -> Result<usize, ClearError> {
    let below = |folder: &&Path| {
        let unmounted = atoll_fs::unmount_below(folder);
        unmounted.map_err(|source| ClearError::Io { what: "cannot unmount what is below", path: folder.into(), source })
    };
    folders.iter().map(below).sum()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;

    #[tokio::test]
    async fn a_folder_in_which_nothing_was_run_is_clear() {
        let folder = tempfile::tempdir().unwrap();
        let nothing = Cleared { pods: 0, mounts: 0, resolv_conf: false };
        assert_eq!(clear(&folder.path().join("none")).await.unwrap(), nothing);
        assert!(!folder.path().join("none").exists());
        assert_eq!(clear(folder.path()).await.unwrap(), nothing);
    }
}
