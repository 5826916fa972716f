//! Types about the cloud: offers, eVDCs, the gateway.

use atoll_ids::{ByteCount, EvdcId, NodeId, OwnerId};
use serde::{Deserialize, Serialize};

/// An amount of what nodes lend.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Amount {
    /// Thousandths of a processor core.
    pub cpu_milli: u32,
    /// Memory for workloads.
    pub memory: ByteCount,
    /// Room for shards.
    pub storage: ByteCount,
    /// Pods at once.
    pub pods: u32,
}

/// `GET /v1/offers`: what one peer lends now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OfferStatus {
    /// The node.
    pub node: NodeId,
    /// Its name, as it says itself.
    pub name: Option<String>,
    /// Whose it is.
    pub owner: OwnerId,
    /// All that it lends.
    pub total: Amount,
    /// What of it is free.
    pub free: Amount,
    /// The currency's code; empty when it is free of charge.
    pub currency: String,
    /// Millionths of the currency's unit for an hour of all of it.
    pub micro_per_hour: u64,
}

/// `PUT /v1/evdcs/{name}`: what is wished.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EvdcRequest {
    /// How many nodes.
    pub nodes: usize,
    /// How much of each.
    pub each: Amount,
    /// The most to pay for an hour of a node, in millionths of the currency's unit.
    pub price_max: u64,
    /// The gateway through which it is reached from outside.
    pub gateway: Option<GatewayRequest>,
}

/// A gateway and its domain.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GatewayRequest {
    /// The node.
    pub node: NodeId,
    /// The domain below which it gives names.
    pub domain: String,
}

/// `GET /v1/evdcs`, `GET /v1/evdcs/{name}`: an eVDC as its tenant's node keeps it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EvdcStatus {
    /// Its name.
    pub name: String,
    /// Its id.
    pub id: EvdcId,
    /// Whether all its nodes are rented and know of each other.
    pub ready: bool,
    /// What is in the way, if anything is.
    pub problem: Option<String>,
    /// Where the Kubernetes API is served on this machine: `https://127.0.0.1:PORT`.
    pub api: Option<String>,
    /// The gateway.
    pub gateway: Option<GatewayRequest>,
    /// What of each node is rented.
    pub each: Amount,
    /// The nodes.
    pub members: Vec<MemberStatus>,
}

/// One node of an eVDC.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct MemberStatus {
    /// Its name in Kubernetes.
    pub name: String,
    /// The node.
    pub node: NodeId,
    /// Whose it is.
    pub owner: OwnerId,
    /// Whether it serves the API.
    pub control: bool,
    /// Whether it lends storage alone: nothing runs there.
    #[serde(default)]
    pub storage_only: bool,
    /// Until when it is rented, seconds since 1970 UTC; `None` while it has granted nothing.
    pub until: Option<u64>,
    /// Whether it knows the present members.
    pub told: bool,
}

/// `GET /v1/evdcs/{name}/kubeconfig`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kubeconfig {
    /// A kubeconfig file: YAML. It holds a key.
    pub kubeconfig: String,
}

/// `GET /v1/gateway`: this node as a gateway.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GatewayStatus {
    /// The domain below which it gives names.
    pub domain: String,
    /// Where it listens for HTTPS.
    pub https: Vec<String>,
    /// The certificate of its own authority: PEM.
    pub authority: String,
    /// What is answered now.
    pub routes: Vec<GatewayRoute>,
    /// Nodes that have dialled in.
    pub nodes: Vec<NodeId>,
    /// Requests since the start.
    pub requests: u64,
    /// Of those, answered by the gateway itself with 5xx.
    pub failed: u64,
}

/// One rule of a gateway.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GatewayRoute {
    /// The host.
    pub host: String,
    /// The path.
    pub path: String,
    /// Whether the whole path must be this one, or begin with it.
    pub exact: bool,
    /// Replicas that answer now.
    pub replicas: usize,
}

/// `POST /v1/images`: takes in an archive of images.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LoadRequest {
    /// An OCI layout or archive, or a Docker archive, on the node's machine; absolute.
    pub path: String,
    /// What to call the image instead of the name in the archive.
    pub name: Option<String>,
}

/// `GET /v1/images`: an image on the node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageStatus {
    /// Its name.
    pub name: String,
    /// The digest of its configuration.
    pub id: String,
    /// What its layers have, compressed as they are.
    pub size: ByteCount,
}
