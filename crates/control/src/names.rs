//! Types about names on the planetary network.

use atoll_ids::{NodeId, OwnerId};
use serde::{Deserialize, Serialize};

/// `GET /v1/net/names`: the names that this node answers for, and how programs come to ask it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NamesStatus {
    /// Where the DNS server listens; `None` if it does not.
    pub server: Option<String>,
    /// A line about how programs come to ask it, or why they do not.
    pub note: String,
    /// The resolvers that are asked about everything else; none unless this node is the machine's resolver.
    pub upstreams: Vec<String>,
    /// The names, sorted. Those that follow from a node's id (`<node id>.node.atoll`) are left out.
    pub names: Vec<NameStatus>,
    /// Names that were given to owners here.
    pub owners: Vec<OwnerName>,
}

/// One name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NameStatus {
    /// In full: `web1.anna.atoll`.
    pub name: String,
    /// `node` for what a node calls itself, `alias` for what it was called here.
    pub kind: String,
    /// The node.
    pub node: NodeId,
    /// Whose it is, where that is known.
    pub owner: Option<OwnerId>,
    /// Its planetary address.
    pub address: String,
}

/// What an owner is called here.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OwnerName {
    /// `anna`, whose nodes are `….anna.atoll`.
    pub name: String,
    /// Who.
    pub owner: OwnerId,
}

/// `PUT /v1/net/name?name=`: gives an owner (`anna`) or a node (`wiki.mine`) a name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NameRequest {
    /// The owner's id; or the node's id, or a name that it has now.
    pub target: String,
}

/// `GET /v1/net/resolve?name=`: what a name or an address stands for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResolvedName {
    /// What was asked, in full.
    pub name: String,
    /// What it stands for: one node, or several of one owner that call themselves the same.
    pub nodes: Vec<NamedNode>,
}

/// A node that a name stands for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NamedNode {
    /// Its planetary address.
    pub address: String,
    /// Its best name, if it is known here.
    pub name: Option<String>,
    /// The node.
    pub node: NodeId,
}
