//! Why something with a file system was not done.

use std::path::PathBuf;

use atoll_control::{ApiError, Kind};
use atoll_fs::{Errno, MountError, Policy, VolumeError, VolumeName, WrongOwner};
use atoll_kv::KvError;
use atoll_wire::DecodeError;
use thiserror::Error;

/// See the module's documentation.
#[derive(Debug, Error)]
pub(crate) enum FsError {
    #[error("there is a file system {0} already")]
    Exists(VolumeName),
    #[error("this node knows no file system {0}")]
    NotFound(VolumeName),
    #[error("policy {policy} needs {} nodes that lend storage; this node knows {homes}", policy.shards())]
    TooFewNodes { policy: Policy, homes: usize },
    #[error("a node has at most {0} file systems")]
    TooMany(usize),
    #[error("file system {name} is mounted on {}", at.display())]
    Mounted { name: VolumeName, at: PathBuf },
    #[error("file system {0} is not mounted")]
    NotMounted(VolumeName),
    #[error("the node does not see the directory {} that you see; it runs in another mount namespace", .0.display())]
    Elsewhere(PathBuf),
    #[error("file system {name}: what was written last is not stored: {error}")]
    Unstored { name: VolumeName, error: Errno },
    #[error("cannot mount on {}: {source}", at.display())]
    Directory { at: PathBuf, source: std::io::Error },
    #[error(transparent)]
    Volume(#[from] VolumeError),
    #[error(transparent)]
    Mount(#[from] MountError),
    #[error(transparent)]
    WrongOwner(#[from] WrongOwner),
    #[error(transparent)]
    Store(#[from] KvError),
    #[error("the record under {key} cannot be read: {source}")]
    Corrupt { key: String, source: DecodeError },
}

impl From<FsError> for ApiError {
    fn from(error: FsError) -> Self {
        let (kind, help) = match &error {
            FsError::Exists(_) => (Kind::Conflict, None),
            FsError::NotFound(_) => (
                Kind::NotFound,
                Some(
                    "`atoll fs ls` lists them, `atoll fs create` makes one. What a file system is made of is known to the node that made it alone: \
                     to mount it on another machine is not offered yet",
                ),
            ),
            FsError::TooFewNodes { .. } => {
                (Kind::Input, Some("join more nodes, or ask for fewer shards: --policy 2+1 needs three"))
            }
            FsError::TooMany(_) => (Kind::Input, None),
            FsError::Mounted { .. } => (Kind::Conflict, Some("`atoll fs umount` it first")),
            FsError::NotMounted(_) => (Kind::Conflict, None),
            FsError::Elsewhere(_) => (Kind::Input, Some("name a directory that both see, or start the node here")),
            FsError::Unstored { .. } => (Kind::Unavailable, Some("`atoll status` shows which nodes are away")),
            FsError::Directory { .. } => (Kind::Input, None),
            FsError::Volume(VolumeError::Read(_) | VolumeError::Head(_) | VolumeError::Contended { .. }) => {
                (Kind::Unavailable, Some("`atoll status` shows which nodes are away"))
            }
            FsError::Volume(VolumeError::Exists { .. }) => (Kind::Conflict, None),
            FsError::Volume(_) | FsError::WrongOwner(_) | FsError::Corrupt { .. } | FsError::Store(_) => {
                (Kind::Broken, None)
            }
            FsError::Mount(_) => (Kind::Input, None),
        };
        let told = Self::new(kind, error.to_string());
        match help {
            Some(help) => told.with_help(help),
            None => told,
        }
    }
}
