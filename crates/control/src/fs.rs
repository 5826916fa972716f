//! Types about file systems and about healing.

use std::path::PathBuf;

use atoll_ids::{ByteCount, NodeId};
use serde::{Deserialize, Serialize};

/// `PUT /v1/fs/{name}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FsRequest {
    /// Data and parity shards, `4+2`.
    pub policy: String,
    /// The most that its files may hold; as much as the nodes take unless set.
    pub capacity: Option<ByteCount>,
}

/// `PUT /v1/fs/{name}/mount`. Device and inode tell whether the node sees the same directory under that path as the caller does.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FsMountRequest {
    /// Absolute path of a directory.
    pub path: PathBuf,
    /// `st_dev` as the caller sees it.
    pub device: u64,
    /// `st_ino` as the caller sees it.
    pub inode: u64,
}

/// A file system.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FsStatus {
    /// Its name.
    pub name: String,
    /// Data and parity shards, `4+2`.
    pub policy: String,
    /// How many shards of a stripe are durable before `fsync` returns.
    pub least: u8,
    /// The most that its files may hold, if that was settled.
    pub capacity: Option<ByteCount>,
    /// How often it was mounted.
    pub epoch: u64,
    /// How often its state was stored.
    pub sequence: u64,
    /// Where it is to be mounted.
    pub path: Option<PathBuf>,
    /// What keeps it from being mounted there, if it is not.
    pub problem: Option<String>,
    /// How it is doing while it is mounted.
    pub mounted: Option<FsMounted>,
}

/// Answer to `DELETE /v1/fs/{name}`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct FsRemoved {
    /// Shards that stay on nodes that do not answer; nobody can read them.
    pub left: u64,
}

/// A mounted file system.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FsMounted {
    /// Files, directories and links.
    pub inodes: u64,
    /// What its files hold.
    pub used: ByteCount,
    /// Written, and not dispersed yet: what a crash would lose, unless it is synced first.
    pub dirty: ByteCount,
    /// Whether nothing is: names and attributes count as well.
    pub stored: bool,
    /// Parts that were stored with shards missing and are not healed yet.
    pub degraded: u64,
    /// Shards made again since it was mounted.
    pub rebuilt: u64,
    /// Stripes that too few shards are left of.
    pub beyond_repair: u64,
    /// Why storing fails, while it does.
    pub failing: Option<String>,
}

/// `GET /v1/healing`, and part of the node's status: how whole this owner's data is, and what is done about it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HealingStatus {
    /// How long a node must have been away before its shards are made again elsewhere, in seconds.
    pub after_seconds: u64,
    /// How many bytes of shards are made again in a second, at most.
    pub rate: ByteCount,
    /// Whether it is healing now.
    pub running: bool,
    /// Nodes that are away.
    pub away: Vec<AwayNode>,
    /// Seconds since the last look at everything ended; none has yet if absent.
    pub looked_seconds: Option<u64>,
    /// Stripes seen by the look that runs, or by the last one.
    pub stripes: u64,
    /// Of these, the ones that had shards missing or rotten.
    pub degraded: u64,
    /// Of these, the ones that have all their shards again.
    pub mended: u64,
    /// Shards that no node could take: more nodes are needed.
    pub unplaced: u64,
    /// Objects and file systems of which too few shards are left. They may come back with the nodes that are away.
    pub beyond_repair: u64,
    /// Shards made again since the node started.
    pub rebuilt: u64,
    /// Their bytes.
    pub rebuilt_bytes: ByteCount,
    /// Why the last look failed, if it did.
    pub problem: Option<String>,
}

impl HealingStatus {
    /// Stripes known to have fewer shards than they should.
    #[must_use]
    pub fn below_full(&self) -> u64 {
        self.degraded.saturating_sub(self.mended)
    }
}

/// A volume of a tenant that is mounted on this node, for a pod.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VolumeStatus {
    /// Its name in the eVDC.
    pub name: String,
    /// How it is doing.
    pub mounted: FsMounted,
}

/// A node that is away.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AwayNode {
    /// Which.
    pub node: NodeId,
    /// The name it goes by.
    pub name: Option<String>,
    /// For how long, in seconds.
    pub seconds: u64,
}
