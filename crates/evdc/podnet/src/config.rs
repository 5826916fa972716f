//! What one network is told, and the names it takes. Checked when read: a value of these types cannot smuggle anything into a rule or a path.

use std::fmt;
use std::net::Ipv6Addr;
use std::path::PathBuf;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::address::Prefix;
use crate::services::Protocol;

/// A pod's key becomes a file name; Kubernetes' uids have 36 characters.
const POD_KEY_BYTES_MAX: usize = 128;

/// nftables would take more; this keeps `atoll-<tag>` readable.
const TAG_BYTES_MAX: usize = 32;

/// The kernel's limit for the name of an interface, without its final zero byte.
const INTERFACE_BYTES_MAX: usize = 15;

/// IPv6 does not run below (RFC 8200, section 5).
const MTU_MIN: u32 = 1_280;

/// The length of an IPv6 packet is 16 bits.
const MTU_MAX: u32 = 65_535;

/// The MTU of pods where there is no planetary interface whose MTU they would take.
pub(crate) const MTU_DEFAULT: u32 = 1_500;

/// What distinguishes the tables of one eVDC on a node: 1 to 32 lower-case letters, digits and dashes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct EvdcTag(String);

/// What distinguishes a pod for ever, as its uid: letters, digits, `.`, `_`, `-`, at most 128, not beginning with a dot.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct PodKey(String);

/// A port of the node that pods may reach, at the node's address in the eVDC (see [`Config::node_address`]).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NodeService {
    /// TCP or UDP.
    pub protocol: Protocol,
    /// Its port.
    pub port: u16,
}

/// The network of one eVDC on this node.
#[derive(Clone, Debug)]
pub struct Config {
    /// Names the table `atoll-<tag>`.
    pub tag: EvdcTag,
    /// Where namespaces are mounted and records kept; gone after a restart of the machine, as the namespaces are (`/run/...`). Made if absent, not shared
    /// with anything else.
    pub run_dir: PathBuf,
    /// The eVDC's /48.
    pub evdc: Prefix,
    /// This node's /64 in it.
    pub node: Prefix,
    /// Where Services have their addresses; inside the /48, outside of every node's /64.
    pub services: Prefix,
    /// The interface by which the /48 reaches the other nodes. Without it the eVDC is this node alone.
    pub planetary: Option<String>,
    /// Bytes; the planetary interface's by default.
    pub mtu: Option<u32>,
    /// What pods may reach on the node. Empty: nothing.
    pub node_services: Vec<NodeService>,
}

/// What in a [`Config`] or a name cannot be.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ConfigError {
    /// Not a tag.
    #[error("{0:?} cannot name an eVDC's tables: 1 to 32 of a-z, 0-9 and -")]
    Tag(String),
    /// Not a pod's key.
    #[error("{0:?} cannot be a pod's key: 1 to 128 letters, digits, . _ -, not beginning with a dot")]
    PodKey(String),
    /// The prefixes do not lie in each other as they must.
    #[error(
        "prefixes {evdc} (eVDC), {node} (node), {services} (Services): take a /48, a /64 inside it, and a part of it outside that /64"
    )]
    Prefixes {
        /// The eVDC's.
        evdc: Prefix,
        /// The node's.
        node: Prefix,
        /// The Services'.
        services: Prefix,
    },
    /// Not an interface's name.
    #[error("{0:?} cannot be the planetary interface: 1 to 15 letters, digits, . _ -")]
    Interface(String),
    /// IPv6 needs 1,280.
    #[error("an MTU of {0} bytes is not possible: 1280 to 65535")]
    Mtu(u32),
}

impl Config {
    /// The node's own address in the eVDC: the source of its probes, where pods find [`Config::node_services`].
    #[must_use]
    pub fn node_address(&self) -> Ipv6Addr {
        self.node.host(1)
    }

    /// # Errors
    ///
    /// See [`ConfigError`].
    pub fn check(&self) -> Result<(), ConfigError> {
        let apart = !self.node.covers(&self.services) && !self.services.covers(&self.node);
        let inside = self.evdc.covers(&self.node) && self.evdc.covers(&self.services);
        if self.evdc.bits() != 48 || self.node.bits() != 64 || !apart || !inside || self.services.bits() < 64 {
            let (evdc, node, services) = (self.evdc, self.node, self.services);
            return Err(ConfigError::Prefixes { evdc, node, services });
        }
        if let Some(mtu) = self.mtu.filter(|mtu| !(MTU_MIN..=MTU_MAX).contains(mtu)) {
            return Err(ConfigError::Mtu(mtu));
        }
        match &self.planetary {
            Some(name) if !is_name(name, INTERFACE_BYTES_MAX) => Err(ConfigError::Interface(name.clone())),
            _ => Ok(()),
        }
    }
}

fn is_name(text: &str, bytes_max: usize) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    (1..=bytes_max).contains(&text.len()) && !text.starts_with(['.', '-']) && text.bytes().all(allowed)
}

impl FromStr for EvdcTag {
    type Err = ConfigError;

    fn from_str(text: &str) -> Result<Self, ConfigError> {
        let allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        if !is_name(text, TAG_BYTES_MAX) || !text.bytes().all(allowed) {
            return Err(ConfigError::Tag(text.to_owned()));
        }
        Ok(Self(text.to_owned()))
    }
}

impl EvdcTag {
    pub(crate) fn table(&self) -> String {
        format!("atoll-{}", self.0)
    }

    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for PodKey {
    type Err = ConfigError;

    fn from_str(text: &str) -> Result<Self, ConfigError> {
        if !is_name(text, POD_KEY_BYTES_MAX) {
            return Err(ConfigError::PodKey(text.to_owned()));
        }
        Ok(Self(text.to_owned()))
    }
}

impl TryFrom<String> for PodKey {
    type Error = ConfigError;

    fn try_from(text: String) -> Result<Self, ConfigError> {
        text.parse()
    }
}

impl From<PodKey> for String {
    fn from(key: PodKey) -> Self {
        key.0
    }
}

impl PodKey {
    /// As text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for PodKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;

    #[test]
    fn names_that_could_be_more_than_names_are_refused() {
        let check = |text: &str, good: bool| assert_eq!(text.parse::<PodKey>().is_ok(), good, "{text:?}");
        check("6f0e2c1a-6d0c-4e0e-9a54-3d9f6f3a8c11", true);
        check("", false);
        check("..", false);
        check("-rf", false);
        check("a/b", false);
        check("a b", false);
        check("a\n", false);
        check(&"a".repeat(129), false);
        assert!("Upper".parse::<EvdcTag>().is_err());
        assert_eq!("x1".parse::<EvdcTag>().unwrap().table(), "atoll-x1");
    }

    #[test]
    fn prefixes_must_lie_in_each_other() {
        let check = |evdc: &str, node: &str, services: &str, good: bool| {
            let config = Config {
                tag: "x".parse().unwrap(),
                run_dir: PathBuf::new(),
                evdc: evdc.parse().unwrap(),
                node: node.parse().unwrap(),
                services: services.parse().unwrap(),
                planetary: None,
                mtu: None,
                node_services: Vec::new(),
            };
            assert_eq!(config.check().is_ok(), good, "{evdc} {node} {services}");
        };
        check("fd00:1:2::/48", "fd00:1:2:3::/64", "fd00:1:2:ffff::/112", true);
        check("fd00:1:2::/48", "fd00:1:9:3::/64", "fd00:1:2:ffff::/112", false);
        check("fd00:1:2::/48", "fd00:1:2:3::/64", "fd00:1:2:3::/112", false);
        check("fd00:1:2::/48", "fd00:1:2:3::/64", "fd00:1:2::/48", false);
        check("fd00:1:2::/48", "fd00:1:2:3::/64", "fd00:9:2:ffff::/112", false);
        check("fd00:1::/40", "fd00:1:2:3::/64", "fd00:1:2:ffff::/112", false);
    }
}
