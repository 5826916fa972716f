//! Planetary addresses: the IPv6 address of a node, derived from its key.
//!
//! `0600::/8`, then the first 120 bits of BLAKE3 of the public key under a domain string of its own. An address therefore
//! cannot be claimed without a key that hashes to it (a second preimage over 120 bits), and nobody hands addresses out.

use std::fmt;
use std::net::Ipv6Addr;
use std::str::FromStr;

use crate::id::NodeId;
use crate::text::serde_by_text;

/// Separates this use of BLAKE3 from every other; part of the address for ever.
const CONTEXT: &str = "atoll 2026-11 planetary address v1";

/// First byte of every planetary address: `0600::/8`, which IANA has not handed out, so it meets no address of the Internet.
const PREFIX: u8 = 0x06;

/// The IPv6 address of a node on the planetary network. Always within `0600::/8`.
///
/// Text: as RFC 5952 writes IPv6 addresses.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PlanetaryAddress(Ipv6Addr);

/// Why something is not a planetary address.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AddressError {
    /// Not an IPv6 address at all.
    #[error("{text:?} is not an IPv6 address; a planetary address looks like 6a3:b1c2:…")]
    Syntax {
        /// What was given, cut to a readable length.
        text: String,
    },
    /// An IPv6 address that belongs to something else.
    #[error("{found} is not a planetary address: those lie within 600::/8")]
    OutsidePrefix {
        /// The address that was given.
        found: Ipv6Addr,
    },
}

impl NodeId {
    /// The address this node has on the planetary network, wherever it is.
    pub fn planetary_address(&self) -> PlanetaryAddress {
        let hash = blake3::derive_key(CONTEXT, self.as_bytes());
        let mut octets = [PREFIX; 16];
        for (to, from) in octets.iter_mut().skip(1).zip(hash) {
            *to = from;
        }
        PlanetaryAddress(Ipv6Addr::from(octets))
    }
}

impl PlanetaryAddress {
    /// The plain IPv6 address.
    pub const fn ip(&self) -> Ipv6Addr {
        self.0
    }

    /// Takes an address that came from elsewhere.
    ///
    /// # Errors
    /// [`AddressError::OutsidePrefix`] when it is not within `0600::/8`.
    pub fn from_ip(ip: Ipv6Addr) -> Result<Self, AddressError> {
        if ip.octets()[0] == PREFIX { Ok(Self(ip)) } else { Err(AddressError::OutsidePrefix { found: ip }) }
    }
}

impl fmt::Display for PlanetaryAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl fmt::Debug for PlanetaryAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PlanetaryAddress({})", self.0)
    }
}

impl FromStr for PlanetaryAddress {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.parse() {
            Ok(ip) => Self::from_ip(ip),
            // 60 characters are more than any IPv6 address takes; a pasted novel would drown the message.
            Err(_) => Err(AddressError::Syntax { text: text.chars().take(60).collect() }),
        }
    }
}

serde_by_text!(PlanetaryAddress);

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use proptest::prelude::{any, proptest};
    use proptest::{prop_assert, prop_assert_eq};

    use super::*;

    /// Computed by an independent implementation of BLAKE3. These may never change.
    #[test]
    fn golden_addresses() {
        #[track_caller]
        fn check(key: [u8; 32], expect: &str) {
            assert_eq!(NodeId::from_bytes(key).planetary_address().to_string(), expect);
        }
        check([0; 32], "6d6:f810:d4d2:ccee:bcc8:e987:6f40:30c2");
        check([0xff; 32], "6fc:7d99:d63b:d4b0:83da:511b:8fbf:c35e");
        check(std::array::from_fn(|i| u8::try_from(i).unwrap()), "64c:3a84:6a54:a112:3e8a:28eb:da29:4b94");
    }

    #[test]
    fn foreign_addresses_are_refused() {
        #[track_caller]
        fn check(text: &str, expect: &str) {
            assert_eq!(text.parse::<PlanetaryAddress>().unwrap_err().to_string(), expect);
        }
        check("::1", "::1 is not a planetary address: those lie within 600::/8");
        check("fd00::1", "fd00::1 is not a planetary address: those lie within 600::/8");
        check("6::1", "6::1 is not a planetary address: those lie within 600::/8");
        check("10.0.0.1", "\"10.0.0.1\" is not an IPv6 address; a planetary address looks like 6a3:b1c2:…");
        assert!("6ff::1".parse::<PlanetaryAddress>().is_ok());
    }

    proptest! {
        #[test]
        fn survive_text_and_serde(key in any::<[u8; 32]>()) {
            let address = NodeId::from_bytes(key).planetary_address();
            prop_assert_eq!(address.ip().octets()[0], 6);
            prop_assert_eq!(address.to_string().parse::<PlanetaryAddress>().unwrap(), address);
            let json = serde_json::to_string(&address).unwrap();
            prop_assert_eq!(serde_json::from_str::<PlanetaryAddress>(&json).unwrap(), address);
            prop_assert!(PlanetaryAddress::from_ip(address.ip()).is_ok());
        }
    }
}
