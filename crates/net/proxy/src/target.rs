//! What a program asks for, read from the text it names it by.

use std::net::{IpAddr, Ipv4Addr};
use std::str::FromStr;

use atoll_ids::{NodeId, PlanetaryAddress};

use crate::hosts::is_host_name;

/// What names of the planetary network end with.
const SUFFIX: &str = ".atoll";

/// What a program wants to reach.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// A node, by its id: `NODEID` or `NODEID.atoll`.
    Node(NodeId),
    /// A node, by its planetary address.
    Planetary(PlanetaryAddress),
    /// A node, by a name that ends in `.atoll`; lower case.
    Named(String),
    /// An address outside the planetary network.
    Address(IpAddr),
    /// A name outside it; lower case.
    Outside(String),
}

/// Why a text is no target.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is neither an address, nor a node's id, nor a host's name")]
pub struct TargetError {
    text: String,
}

impl Target {
    /// An address, wherever it lies. An IPv4 address in IPv6's clothes is taken for what it is.
    #[must_use]
    pub fn of_ip(ip: IpAddr) -> Self {
        match ip.to_canonical() {
            IpAddr::V6(v6) => PlanetaryAddress::from_ip(v6).map_or(Self::Address(v6.into()), Self::Planetary),
            v4 @ IpAddr::V4(_) => Self::Address(v4),
        }
    }
}

impl FromStr for Target {
    type Err = TargetError;

    fn from_str(text: &str) -> Result<Self, TargetError> {
        let bare = text.strip_prefix('[').and_then(|text| text.strip_suffix(']'));
        if let Ok(ip) = bare.unwrap_or(text).parse() {
            return Ok(Self::of_ip(ip));
        }
        let name = text.strip_suffix('.').unwrap_or(text).to_ascii_lowercase();
        // The dot says that a name is complete. What stands before it may be an address all the same, and browsers take it for one.
        if let Ok(ip) = name.parse::<Ipv4Addr>() {
            return Ok(Self::of_ip(ip.into()));
        }
        if let Ok(node) = name.strip_suffix(SUFFIX).unwrap_or(&name).parse() {
            return Ok(Self::Node(node));
        }
        if !is_host_name(&name) {
            // More characters than a name has would drown the message.
            return Err(TargetError { text: text.chars().take(80).collect() });
        }
        Ok(if name.ends_with(SUFFIX) || name == SUFFIX[1..] { Self::Named(name) } else { Self::Outside(name) })
    }
}

impl std::fmt::Display for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Node(node) => node.fmt(f),
            Self::Planetary(address) => address.fmt(f),
            Self::Address(address) => address.fmt(f),
            Self::Named(name) | Self::Outside(name) => f.write_str(name),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;

    #[test]
    fn targets_are_told_apart() {
        let check = |text: &str, expect: Option<Target>| assert_eq!(text.parse().ok(), expect, "{text:?}");
        let node = NodeId::from_bytes([7; 32]);
        let planetary = node.planetary_address();
        check(&node.to_string(), Some(Target::Node(node)));
        check(&node.to_string().to_uppercase(), Some(Target::Node(node)));
        check(&format!("{node}.atoll"), Some(Target::Node(node)));
        check(&planetary.to_string(), Some(Target::Planetary(planetary)));
        check(&format!("[{planetary}]"), Some(Target::Planetary(planetary)));
        check("Attic.Me.Atoll.", Some(Target::Named("attic.me.atoll".into())));
        check("atoll", Some(Target::Named("atoll".into())));
        check("notatoll", Some(Target::Outside("notatoll".into())));
        check("192.0.2.1", Some(Target::Address([192, 0, 2, 1].into())));
        check("::ffff:127.0.0.1", Some(Target::Address([127, 0, 0, 1].into())));
        check("[2001:db8::1]", Some(Target::Address("2001:db8::1".parse().unwrap())));
        check("Example.COM", Some(Target::Outside("example.com".into())));
        check("10.0.10.0.", Some(Target::Address([10, 0, 10, 0].into())));
        check("[127.0.0.1].", None);
        check("127.0.0.1..", None);
        check("::1.", None);
        check("127.1", Some(Target::Outside("127.1".into())));
        check("", None);
        check("a b", None);
        check("fe80::1%eth0", None);
        check("[192.0.2.1", None);
        check("a\u{0}b", None);
    }
}
