//! Types about what passes the planetary interface: rules, grants, and why something passes or not.

use atoll_ids::NodeId;
use serde::{Deserialize, Serialize};

/// `GET /v1/net/rules`: one rule.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetRule {
    /// Its number, if it is a grant: what `POST /v1/net/deny` takes.
    pub grant: Option<u32>,
    /// The rule, as it would be written in `network.allow`.
    pub rule: String,
    /// Where it comes from: a file and its line, a flag, `default`, a grant, or an eVDC.
    pub origin: String,
    /// Whether it ran out.
    pub over: bool,
}

/// `POST /v1/net/allow`: gives a grant.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AllowRequest {
    /// `peers`, `owner:ID`, `node:ID`, `group:NAME`; or a peer's name, id or planetary address.
    pub who: String,
    /// `tcp/443`, `udp/5000-6000`, `icmp`, `all`.
    pub what: String,
    /// Whether it is about what this node begins, rather than what others begin with it.
    #[serde(default)]
    pub out: bool,
    /// Seconds until it ends.
    #[serde(default)]
    pub for_seconds: Option<u64>,
    /// What it is for.
    #[serde(default)]
    pub note: Option<String>,
}

/// `POST /v1/net/deny`: takes grants back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DenyRequest {
    /// A grant's number, or the rule that it is.
    pub rule: String,
}

/// `POST /v1/net/check`: asks whether something would pass.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CheckRequest {
    /// Who would begin it: `me`, or a peer's name, id or planetary address.
    pub from: String,
    /// With whom.
    pub to: String,
    /// `tcp/443`, `udp/53`, `icmp`.
    pub what: String,
}

/// Whether something would pass, at both ends.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CheckAnswer {
    /// Who would begin it.
    pub from: NodeId,
    /// With whom.
    pub to: NodeId,
    /// What.
    pub what: String,
    /// Whether it would pass; `None` if one end does not say.
    pub passes: Option<bool>,
    /// The end that sends, then the one that receives.
    pub sides: Vec<CheckSide>,
}

/// What one end says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CheckSide {
    /// Which node.
    pub node: NodeId,
    /// Whether it is the end that sends.
    pub sends: bool,
    /// Whether it would pass there; `None` if the node does not say.
    pub passes: Option<bool>,
    /// Why, in a sentence.
    pub why: String,
    /// The rule that allows it.
    pub rule: Option<NetRule>,
    /// The rules that do not.
    pub looked_at: Vec<LookedAt>,
    /// What would allow it.
    pub help: Option<String>,
}

/// A rule that does not allow something.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LookedAt {
    /// The rule.
    pub rule: NetRule,
    /// Why not.
    pub why_not: String,
}
