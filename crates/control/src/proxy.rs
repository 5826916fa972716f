//! Types about reaching out: the proxy for programs of this machine, and what peers reach through this node.

use serde::{Deserialize, Serialize};

/// `GET /v1/net/proxy`: the proxy and what went through.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProxyStatus {
    /// The address on loopback, for SOCKS5 and HTTP.
    pub address: Option<String>,
    /// The Unix socket for the same.
    pub socket: Option<String>,
    /// Why there is less than that.
    pub note: Option<String>,
    /// Which nodes take what lies outside the planetary network.
    pub exit_via: Vec<String>,
    /// Who may reach what beyond this node through it.
    pub exit: Vec<String>,
    /// What programs of this machine reached.
    pub programs: ProxyCounts,
    /// What peers reached here and through here.
    pub peers: ProxyCounts,
}

/// Figures of one side since the node started.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProxyCounts {
    /// Connections open.
    pub open: u64,
    /// Connections that came about.
    pub connected: u64,
    /// Requests that did not come to a connection.
    pub denied: u64,
    /// Bytes from who began a connection.
    pub sent_bytes: u64,
    /// Bytes to who began it.
    pub received_bytes: u64,
}

/// `PUT /v1/net/proxy`: from now on, and until the node restarts, these nodes take what lies outside.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProxyRequest {
    /// Routes as in the setting `network.exit_via`.
    pub exit_via: Vec<String>,
}
