//! Types about the node itself: who it is, what it does, whom it knows.

use atoll_ids::{ByteCount, NodeId, OwnerId};
use serde::{Deserialize, Serialize};

use crate::{HealingStatus, VolumeStatus};

/// `GET /v1/status`: a running node at one moment.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct NodeStatus {
    /// Who it is.
    pub node: NodeId,
    /// The name its owner gave it, if any.
    pub name: Option<String>,
    /// Whose it is.
    pub owner: OwnerId,
    /// Its address on the planetary network.
    pub planetary_address: String,
    /// Version of the program.
    pub version: String,
    /// Process id.
    pub pid: u32,
    /// Seconds since it started.
    pub uptime_seconds: u64,
    /// Everything it keeps lies below this folder.
    pub data_dir: String,
    /// Socket addresses it can be reached at, QUIC first, then lanes.
    pub addresses: Vec<String>,
    /// Where `/metrics` and `/healthz` are served.
    pub metrics: Option<String>,
    /// The dashboard's URL.
    #[serde(default)]
    pub dashboard: Option<String>,
    /// What it does, and what it cannot do here and why.
    pub roles: Vec<RoleStatus>,
    /// What it lends, if it lends storage.
    pub storage: Option<StorageStatus>,
    /// The nodes it knows.
    pub peers: Vec<PeerStatus>,
    /// How whole its owner's data is.
    #[serde(default)]
    pub healing: Option<HealingStatus>,
    /// Volumes of tenants that are mounted here.
    #[serde(default)]
    pub volumes: Vec<VolumeStatus>,
}

/// One role of a node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RoleStatus {
    /// `network`, `storage`.
    pub role: String,
    /// Whether it is carried out.
    pub active: bool,
    /// Why not, or what is special about it.
    pub note: Option<String>,
}

/// The storage a node lends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct StorageStatus {
    /// What it lends in all.
    pub capacity: ByteCount,
    /// What is taken.
    pub used: ByteCount,
    /// How many shards it keeps.
    pub shards: u64,
}

/// One known peer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PeerStatus {
    /// Who it is.
    pub node: NodeId,
    /// The name it goes by, as it says itself.
    pub name: Option<String>,
    /// Whose it is, as proven by its owner's signature.
    pub owner: Option<OwnerId>,
    /// Whether it answered the last probe.
    pub reachable: bool,
    /// Round trip of the last probe, in milliseconds.
    pub rtt_ms: Option<f64>,
    /// Seconds since it last answered.
    pub last_seen_seconds: Option<u64>,
    /// What it lends.
    pub storage: Option<StorageStatus>,
    /// The domain below which it says that it gives names, if it is a gateway.
    #[serde(default)]
    pub gateway: Option<String>,
    /// Where it says it can be reached.
    pub addresses: Vec<String>,
}

/// `POST /v1/invite`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InviteRequest {
    /// How long the ticket can be used, in seconds.
    pub ttl_seconds: u64,
    /// How many nodes may join by it.
    pub uses: u32,
}

/// Answer to [`InviteRequest`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Invited {
    /// The ticket's text, for `atoll join`.
    pub ticket: String,
}

/// `POST /v1/join`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JoinRequest {
    /// A ticket's text.
    pub ticket: String,
}

/// Answer to [`JoinRequest`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Joined {
    /// Who was joined.
    #[serde(flatten)]
    pub peer: PeerStatus,
    /// The relay through which it was joined, if that is no peer of this node: it carries nothing more than the joining.
    #[serde(default)]
    pub through: Option<NodeId>,
}

/// One configuration key with its value and where that came from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConfigEntry {
    /// `storage.capacity`
    pub key: String,
    /// The effective value as text.
    pub value: String,
    /// `default`, `file PATH:LINE`, `environment VAR`, `flag --NAME`.
    pub origin: String,
    /// What the key is for.
    pub doc: String,
}
