//! Types about what is stored: buckets, objects, and the long jobs that move them.

use std::path::PathBuf;

use atoll_ids::{BucketName, ByteCount};
use serde::{Deserialize, Serialize};

use crate::{ApiError, AppStatus, RemovedApp, StackSummary};

/// `PUT /v1/buckets/{name}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BucketRequest {
    /// Data and parity shards, `4+2`.
    pub policy: String,
}

/// A bucket.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BucketInfo {
    /// Its name.
    pub name: BucketName,
    /// Data and parity shards, `4+2`.
    pub policy: String,
    /// When it was made (RFC 3339).
    pub created: String,
}

/// What an object is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ObjectKind {
    /// Bytes.
    File,
    /// A symbolic link; its target is the content.
    Symlink,
    /// An empty directory (a key that ends with `/`).
    Directory,
}

/// One object as `ls` and `stat` show it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ObjectInfo {
    /// Its bucket.
    pub bucket: BucketName,
    /// Its key.
    pub key: String,
    /// What it is.
    pub kind: ObjectKind,
    /// Bytes of content.
    pub size: u64,
    /// Bytes that its shards take on the nodes, all together.
    pub stored: u64,
    /// Id of this version of the object.
    pub version: String,
    /// BLAKE3 of the content, hex.
    pub blake3: String,
    /// Data and parity shards.
    pub policy: String,
    /// How many stripes it is cut into.
    pub stripes: u64,
    /// Last change of the content at its source (RFC 3339).
    pub modified: Option<String>,
    /// When it was stored (RFC 3339).
    pub created: String,
    /// Unix permission bits of the source.
    pub mode: Option<u32>,
}

/// `GET /v1/list`: one page.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listing {
    /// Objects in key order.
    pub objects: Vec<ObjectInfo>,
    /// Prefixes up to the delimiter that stand for further objects.
    pub prefixes: Vec<String>,
    /// Where the next page starts, if there is one.
    pub next: Option<String>,
}

/// `GET /v1/usage`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Usage {
    /// How many objects.
    pub objects: u64,
    /// Their content.
    pub bytes: ByteCount,
    /// What their shards take on the nodes.
    pub stored: ByteCount,
}

/// A local file or directory that the node opens itself. Device and inode tell whether the node sees the same file under
/// that path as the caller does (it may run in another mount namespace).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Source {
    /// Absolute path.
    pub path: PathBuf,
    /// `st_dev` as the caller sees it.
    pub device: u64,
    /// `st_ino` as the caller sees it.
    pub inode: u64,
    /// For a directory: store what is in it, not the directory under its own name.
    pub contents_only: bool,
}

/// `POST /v1/put`: store local files and directories. Answers with [`Event`]s.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PutRequest {
    /// What to store.
    pub sources: Vec<Source>,
    /// Where.
    pub bucket: BucketName,
    /// Key, or prefix if it is empty or ends with `/`.
    pub key: String,
    /// Store again what looks unchanged (same size and time of change).
    pub force: bool,
}

/// `POST /v1/get`: write objects to local files. Answers with [`Event`]s.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GetRequest {
    /// From where.
    pub bucket: BucketName,
    /// A key, or a prefix if it is empty or ends with `/`.
    pub key: String,
    /// Absolute path: a file for a key, a directory for a prefix.
    pub destination: PathBuf,
    /// Write again what looks unchanged (same size and time of change).
    pub force: bool,
}

/// `POST /v1/remove`. Answers with [`Event`]s.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RemoveRequest {
    /// From where.
    pub bucket: BucketName,
    /// A key, or a prefix with `recursive`.
    pub key: String,
    /// Everything that starts with `key`.
    pub recursive: bool,
}

/// `POST /v1/heal`. Answers with [`Event`]s.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HealRequest {
    /// One bucket, or all.
    pub bucket: Option<BucketName>,
    /// Only look.
    pub dry_run: bool,
    /// Have the nodes read every shard again, not only say that it is there.
    pub deep: bool,
}

/// What a long job says while it works.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub enum Event {
    /// How far it is.
    Progress {
        /// Files or objects done.
        items: u64,
        /// How many there are, as far as known.
        items_total: Option<u64>,
        /// Bytes done.
        bytes: u64,
        /// How many there are, as far as known.
        bytes_total: Option<u64>,
    },
    /// This is begun now.
    Step {
        /// Which step it is, from 1.
        number: u64,
        /// How many there are.
        of: u64,
        /// What is done.
        what: String,
    },
    /// This is waited for now.
    Waiting {
        /// What.
        what: String,
    },
    /// Something was left out, and why; the job goes on.
    Warning {
        /// What and why.
        message: String,
    },
    /// It is done.
    Done {
        /// What was done.
        summary: Summary,
    },
    /// It failed.
    Failed {
        /// Why.
        error: ApiError,
    },
}

/// What a job did.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "job", rename_all = "kebab-case")]
pub enum Summary {
    /// Put, get or remove.
    Transfer(TransferSummary),
    /// Heal.
    Heal(HealSummary),
    /// A release as it stands now.
    App(AppStatus),
    /// A release is removed.
    RemovedApp(RemovedApp),
    /// A stack was applied or destroyed.
    Stack(StackSummary),
}

/// What a put, get or remove did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct TransferSummary {
    /// Files or objects moved.
    pub items: u64,
    /// Files or objects that were there already, unchanged.
    pub unchanged: u64,
    /// Things left out, each with a warning before.
    pub skipped: u64,
    /// Bytes of content moved.
    pub bytes: u64,
    /// Wall-clock seconds.
    pub seconds: f64,
}

/// What a heal found and did.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct HealSummary {
    /// Objects looked at.
    pub objects: u64,
    /// Stripes looked at.
    pub stripes: u64,
    /// Shards that were not where they should be.
    pub missing: u64,
    /// Shards that were there but wrong.
    pub rotten: u64,
    /// Shards made again.
    pub rebuilt: u64,
    /// Bytes of the shards made again.
    pub rebuilt_bytes: u64,
    /// Objects that too few shards are left of.
    pub unrecoverable: Vec<String>,
    /// Wall-clock seconds.
    pub seconds: f64,
}
