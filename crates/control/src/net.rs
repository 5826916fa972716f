//! Types about the planetary network: the interface, the peers' addresses on it, and who is near.

use atoll_ids::NodeId;
use serde::{Deserialize, Serialize};

/// `GET /v1/net`: the planetary network as this node sees it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct NetStatus {
    /// This node's address.
    pub address: String,
    /// The interface; `None` where there is none.
    pub interface: Option<InterfaceStatus>,
    /// A line about the interface, or why there is none.
    pub note: String,
    /// The fast path for packets; `None` where it is off or no socket could be had.
    pub fast: Option<FastStatus>,
    /// The nodes it knows.
    pub peers: Vec<NetPeer>,
    /// Nodes on the local network that it does not know.
    pub neighbours: Vec<NeighbourStatus>,
}

/// `GET /v1/net/find`: where a node says it is, looked up among nodes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct NetFound {
    /// The node.
    pub node: NodeId,
    /// Its planetary address.
    pub address: String,
    /// What it is called here, if it is.
    pub name: Option<String>,
    /// Where it can be reached, as its record says.
    pub addresses: Vec<String>,
    /// The relay through which it can be reached.
    pub relay: Option<String>,
    /// The record's sequence; a higher one replaces it.
    pub sequence: u64,
    /// How long ago it was signed.
    pub age_seconds: f64,
    /// In how many steps it was found; 0 if it was here.
    pub steps: u8,
    /// How long that took.
    pub took_ms: f64,
}

/// The planetary interface.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InterfaceStatus {
    /// Its name.
    pub name: String,
    /// Its MTU, in bytes.
    pub mtu: u16,
    /// Packets that went out to other nodes.
    pub packets_sent: u64,
    /// Packets that came in from them.
    pub packets_received: u64,
    /// Packets that did not pass the filter, by reason.
    pub packets_dropped: Vec<DroppedPackets>,
    /// Conversations being followed.
    pub flows: u64,
    /// What peers may begin.
    pub rules: Vec<String>,
    /// Prefixes of pod networks.
    pub routes: Vec<NetRoute>,
}

/// The fast path: packets sealed one by one, as UDP datagrams beside the connections.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FastStatus {
    /// UDP ports at which sealed packets are taken in.
    pub ports: Vec<u16>,
    /// Packets sealed and sent.
    pub packets_sealed: u64,
    /// Packets that arrived and were opened.
    pub packets_opened: u64,
    /// Refused because they came before, or too late to tell.
    pub packets_replayed: u64,
    /// Refused because they were not genuine.
    pub packets_forged: u64,
    /// For no path that there is, such as one from before a restart.
    pub packets_stray: u64,
    /// Lost because there was congestion on the way and their senders understand nothing but loss.
    pub packets_congested: u64,
}

/// Packets that did not pass for one reason.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DroppedPackets {
    /// `unsolicited`, `spoofed`, `nowhere`, …
    pub reason: String,
    /// How many.
    pub packets: u64,
}

/// Where a prefix of a pod network is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetRoute {
    /// The prefix.
    pub prefix: String,
    /// The node it is at; `None` is here.
    pub node: Option<NodeId>,
}

/// A peer on the planetary network.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct NetPeer {
    /// Who.
    pub node: NodeId,
    /// The name it goes by, as it says itself.
    pub name: Option<String>,
    /// Its address.
    pub address: String,
    /// The way that packets to it take now; `None` while it is not connected.
    pub path: Option<String>,
    /// The round trip measured on that way, in milliseconds.
    pub rtt_ms: Option<f64>,
    /// The largest packet that the way carries, in bytes, once packets went there.
    pub mtu: Option<u64>,
    /// Bytes sent to it since the node was started.
    #[serde(default)]
    pub sent_bytes: u64,
    /// Bytes that came from it since the node was started.
    #[serde(default)]
    pub received_bytes: u64,
    /// Where packets to it go on the fast path; `None` while they take the connection.
    pub fast: Option<String>,
}

/// `GET /v1/net/path?node=NODE`: the ways to a peer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct NetPaths {
    /// To whom.
    pub node: NodeId,
    /// The name it goes by, as it says itself.
    pub name: Option<String>,
    /// Direct ways first, then relays.
    pub candidates: Vec<NetPath>,
    /// Why the way is used that is, or why none is.
    pub why: String,
}

/// One way to a peer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct NetPath {
    /// `direct`, `via` (through a peer that relays) or `relay` (through a server that the configuration names).
    pub kind: String,
    /// The address or URL, unless it is through a peer.
    pub address: Option<String>,
    /// The peer that relays.
    pub via: Option<NodeId>,
    /// Its name, as it says itself.
    pub via_name: Option<String>,
    /// Whether packets take this way now.
    pub used: bool,
    /// The smoothed round trip to the peer and back, in milliseconds.
    pub rtt_ms: Option<f64>,
    /// The part of packets (of probes, through a peer) that were lost, 0 to 1.
    pub loss: Option<f64>,
    /// Seconds since the last sign of life, where that is known.
    pub silent_seconds: Option<f64>,
    /// `in use`, `answers`, `does not answer`, `refuses: …`
    pub state: String,
}

/// A node on the local network that is no peer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NeighbourStatus {
    /// Who it says it is, signed.
    pub node: NodeId,
    /// Where it says it is.
    pub addresses: Vec<String>,
    /// Seconds since it was heard.
    pub heard_seconds: u64,
}
