//! Prefixes of pod networks: which node a packet goes to, and whose packets a source address may be on.
//!
//! An eVDC has a /48 of its own within `fc00::/7`, and every node of it a prefix in there. Packets pass only between prefixes of one and the same
//! /48, so two eVDCs on the same nodes do not meet. Which node has which prefix is what the eVDC's signed membership says; here it is taken as given.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::Ipv6Addr;
use std::str::FromStr;

use atoll_ids::NodeId;

/// The length of the prefix that an eVDC has.
const NETWORK_LENGTH: u8 = 48;

/// The longest prefix that a node may have: hosts are told apart by 64 bits.
const LENGTH_MAX: u8 = 64;

/// Prefixes at once: a hundred eVDCs with as many nodes each would be a lot for one machine.
pub const PREFIXES_MAX: usize = 16_384;

/// A part of a pod network: /48 to /64 within `fc00::/7`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Prefix {
    bits: u128,
    length: u8,
}

/// Why something is not a prefix of a pod network.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PrefixError {
    /// Not written like one.
    #[error("{text:?} is not a prefix like fd12:3456:789a:1::/64")]
    Syntax {
        /// What was given, cut to a readable length.
        text: String,
    },
    /// Outside `fc00::/7`.
    #[error("{address} lies outside fc00::/7, where pod networks are")]
    Outside {
        /// The address.
        address: Ipv6Addr,
    },
    /// Too long or too short.
    #[error("a pod network's prefix has 48 to 64 bits, not {length}")]
    Length {
        /// How long it is.
        length: u8,
    },
    /// There are too many.
    #[error("there are {PREFIXES_MAX} prefixes already")]
    TooMany,
}

impl Prefix {
    /// The prefix of `length` bits that `address` is in.
    ///
    /// # Errors
    ///
    /// [`PrefixError`].
    pub fn new(address: Ipv6Addr, length: u8) -> Result<Self, PrefixError> {
        if address.octets()[0] & 0xfe != 0xfc {
            return Err(PrefixError::Outside { address });
        }
        if !(NETWORK_LENGTH..=LENGTH_MAX).contains(&length) {
            return Err(PrefixError::Length { length });
        }
        Ok(Self::cut(address, length))
    }

    fn cut(address: Ipv6Addr, length: u8) -> Self {
        let bits = u128::from(address) & (u128::MAX << (128 - u32::from(length)));
        Self { bits, length }
    }

    /// Its first address.
    #[must_use]
    pub fn address(self) -> Ipv6Addr {
        Ipv6Addr::from(self.bits)
    }

    /// How many bits it has.
    #[must_use]
    pub fn length(self) -> u8 {
        self.length
    }

    /// The /48 of the whole network.
    #[must_use]
    pub fn network(self) -> Self {
        Self::cut(self.address(), NETWORK_LENGTH)
    }

    /// Whether an address is in it.
    #[must_use]
    pub fn contains(self, address: Ipv6Addr) -> bool {
        Self::cut(address, self.length) == self
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address(), self.length)
    }
}

impl FromStr for Prefix {
    type Err = PrefixError;

    fn from_str(text: &str) -> Result<Self, PrefixError> {
        let syntax = || PrefixError::Syntax { text: text.chars().take(60).collect() };
        let (address, length) = text.split_once('/').ok_or_else(syntax)?;
        Self::new(address.parse().map_err(|_| syntax())?, length.parse().map_err(|_| syntax())?)
    }
}

/// Where a prefix is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    Here,
    At(NodeId),
}

/// All prefixes.
#[derive(Debug, Default)]
pub(crate) struct Table {
    places: BTreeMap<Prefix, Place>,
    /// Lengths in use, to be tried from the longest.
    lengths: BTreeSet<u8>,
}

impl Table {
    pub(crate) fn set(&mut self, prefix: Prefix, place: Place) -> Result<(), PrefixError> {
        if self.places.len() >= PREFIXES_MAX && !self.places.contains_key(&prefix) {
            return Err(PrefixError::TooMany);
        }
        self.places.insert(prefix, place);
        self.lengths.insert(prefix.length);
        Ok(())
    }

    pub(crate) fn remove(&mut self, prefix: Prefix) {
        self.places.remove(&prefix);
        self.lengths = self.places.keys().map(|prefix| prefix.length).collect();
    }

    /// Where an address is, by the longest prefix that it is in.
    pub(crate) fn find(&self, address: Ipv6Addr) -> Option<Place> {
        let prefixes = self.lengths.iter().rev().map(|length| Prefix::cut(address, *length));
        prefixes.filter_map(|prefix| self.places.get(&prefix)).next().copied()
    }

    pub(crate) fn list(&self) -> impl Iterator<Item = (Prefix, Place)> + '_ {
        self.places.iter().map(|(prefix, place)| (*prefix, *place))
    }

    /// The networks that have a prefix.
    pub(crate) fn networks(&self) -> BTreeSet<Prefix> {
        self.places.keys().map(|prefix| prefix.network()).collect()
    }
}

/// Whether two addresses are in one network.
pub(crate) fn same_network(one: Ipv6Addr, other: Ipv6Addr) -> bool {
    Prefix::cut(one, NETWORK_LENGTH) == Prefix::cut(other, NETWORK_LENGTH)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;

    #[test]
    fn prefixes_are_read_and_written() {
        let prefix: Prefix = "fd00:1:2:3:4::5/64".parse().unwrap();
        assert_eq!(prefix.to_string(), "fd00:1:2:3::/64");
        assert_eq!(prefix.network().to_string(), "fd00:1:2::/48");
        assert!(prefix.contains("fd00:1:2:3::9".parse().unwrap()));
        assert!(!prefix.contains("fd00:1:2:4::9".parse().unwrap()));
        for wrong in ["", "fd00::", "fd00::/a", "fd00::/47", "fd00::/65", "600::/64", "fd00::/300"] {
            assert!(wrong.parse::<Prefix>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn the_longest_prefix_counts() {
        let (one, two) = (Place::At(NodeId::from_bytes([1; 32])), Place::At(NodeId::from_bytes([2; 32])));
        let mut table = Table::default();
        table.set("fd00:1:2::/48".parse().unwrap(), one).unwrap();
        table.set("fd00:1:2:3::/64".parse().unwrap(), two).unwrap();
        assert_eq!(table.find("fd00:1:2:3::1".parse().unwrap()), Some(two));
        assert_eq!(table.find("fd00:1:2:4::1".parse().unwrap()), Some(one));
        assert_eq!(table.find("fd00:1:3::1".parse().unwrap()), None);
        table.remove("fd00:1:2:3::/64".parse().unwrap());
        assert_eq!(table.find("fd00:1:2:3::1".parse().unwrap()), Some(one));
    }
}
