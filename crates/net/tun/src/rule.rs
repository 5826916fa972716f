//! Rules: who may begin a conversation with this node, and about what.
//!
//! As text, a rule is *who* and *what*: `owner:o… tcp/443`, `node:n… udp/5000-6000`, `peers icmp`. Without *what* it is everything. There are only
//! rules that allow: what none of them names stays out.

use std::fmt;
use std::str::FromStr;

use atoll_ids::{NodeId, OwnerId};

/// Whom a rule is about. Strangers are nobody: their packets do not get as far as the filter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum From {
    /// Every node that this one knows.
    Peers,
    /// The known nodes of one owner.
    Owner(OwnerId),
    /// One node.
    Node(NodeId),
}

/// What a rule lets in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum What {
    /// Everything.
    Everything,
    /// Echo requests.
    Icmp,
    /// TCP to these ports.
    Tcp(Ports),
    /// UDP to these ports.
    Udp(Ports),
}

/// A range of ports, both ends included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ports {
    /// The lowest.
    pub first: u16,
    /// The highest.
    pub last: u16,
}

impl Ports {
    /// All of them.
    pub const ALL: Self = Self { first: 0, last: u16::MAX };

    /// Whether a port is among them.
    #[must_use]
    pub fn contains(self, port: u16) -> bool {
        (self.first..=self.last).contains(&port)
    }
}

/// One rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rule {
    /// Whom it is about.
    pub from: From,
    /// What it lets in.
    pub what: What,
}

/// Why a text is not a rule.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not a rule: {reason} (a rule is like `peers icmp`, `node:ID tcp/22` or `owner:ID udp/5000-6000`)")]
pub struct RuleError {
    text: String,
    reason: String,
}

impl FromStr for Rule {
    type Err = RuleError;

    fn from_str(text: &str) -> Result<Self, RuleError> {
        // More characters than a rule takes would drown the message.
        let refuse = |reason| RuleError { text: text.chars().take(120).collect(), reason };
        let mut words = text.split_whitespace();
        let who = words.next().ok_or_else(|| refuse("it is empty".to_owned()))?;
        let from = parse_from(who).map_err(refuse)?;
        let what = words.next().map_or(Ok(What::Everything), parse_what).map_err(refuse)?;
        match words.next() {
            Some(word) => Err(refuse(format!("{word:?} is one word too many"))),
            None => Ok(Self { from, what }),
        }
    }
}

fn parse_from(text: &str) -> Result<From, String> {
    if text == "peers" {
        return Ok(From::Peers);
    }
    if let Some(id) = text.strip_prefix("owner:") {
        return id.parse().map(From::Owner).map_err(|error| format!("{error}"));
    }
    if let Some(id) = text.strip_prefix("node:") {
        return id.parse().map(From::Node).map_err(|error| format!("{error}"));
    }
    Err(format!("{text:?} is nobody; it begins with `peers`, `owner:ID` or `node:ID`"))
}

fn parse_what(text: &str) -> Result<What, String> {
    let (protocol, ports) = match text.split_once('/') {
        Some((protocol, ports)) => (protocol, Some(ports)),
        None => (text, None),
    };
    let ports = ports.map(parse_ports).transpose()?;
    match (protocol, ports) {
        ("tcp", ports) => Ok(What::Tcp(ports.unwrap_or(Ports::ALL))),
        ("udp", ports) => Ok(What::Udp(ports.unwrap_or(Ports::ALL))),
        ("icmp", None) => Ok(What::Icmp),
        ("icmp", Some(_)) => Err("icmp has no ports".to_owned()),
        _ => Err(format!("{protocol:?} is not a protocol; there are tcp, udp and icmp")),
    }
}

fn parse_ports(text: &str) -> Result<Ports, String> {
    let port = |text: &str| text.parse::<u16>().map_err(|_| format!("{text:?} is not a port from 0 to 65535"));
    let (first, last) = match text.split_once('-') {
        Some((first, last)) => (port(first)?, port(last)?),
        None => (port(text)?, port(text)?),
    };
    if first > last {
        return Err(format!("{text} is no range: the first port is above the last"));
    }
    Ok(Ports { first, last })
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.from {
            From::Peers => f.write_str("peers")?,
            From::Owner(owner) => write!(f, "owner:{owner}")?,
            From::Node(node) => write!(f, "node:{node}")?,
        }
        match self.what {
            What::Everything => Ok(()),
            What::Icmp => f.write_str(" icmp"),
            What::Tcp(ports) => write!(f, " tcp{ports}"),
            What::Udp(ports) => write!(f, " udp{ports}"),
        }
    }
}

impl fmt::Display for Ports {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.first, self.last) {
            (0, u16::MAX) => Ok(()),
            (first, last) if first == last => write!(f, "/{first}"),
            (first, last) => write!(f, "/{first}-{last}"),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;

    #[test]
    fn rules_are_written_as_they_are_read() {
        let (node, owner) = (NodeId::from_bytes([7; 32]), OwnerId::from_bytes([8; 32]));
        let texts = [
            "peers icmp".to_owned(),
            "peers".to_owned(),
            format!("owner:{owner} tcp/443"),
            format!("node:{node} udp/5000-6000"),
            format!("node:{node} tcp"),
        ];
        for text in texts {
            assert_eq!(text.parse::<Rule>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn what_is_wrong_is_told() {
        #[track_caller]
        fn check(text: &str, expect: &str) {
            let error = text.parse::<Rule>().unwrap_err().to_string();
            assert!(error.contains(expect), "{expect:?} is not in {error:?}");
        }
        check("", "it is empty");
        check("everybody tcp/1", "\"everybody\" is nobody");
        check("peers sctp/1", "\"sctp\" is not a protocol");
        check("peers icmp/1", "icmp has no ports");
        check("peers tcp/70000", "\"70000\" is not a port");
        check("peers tcp/9-8", "the first port is above the last");
        check("peers tcp/1 udp/1", "\"udp/1\" is one word too many");
        check("node:xyz", "not a rule");
    }
}
