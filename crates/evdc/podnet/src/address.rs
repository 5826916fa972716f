//! Prefixes, and the address, interface name and link addresses of a pod (pure). Everything is computed from names by a hash; only
//! a collision, which the caller reports through `taken`, makes it try the next candidate. Fails when thousands of candidates are taken.

use std::collections::BTreeSet;
use std::fmt;
use std::net::Ipv6Addr;
use std::str::FromStr;

/// All interfaces of pods, of any eVDC, begin so: the rules between the planetary interface and pods match by it.
pub(crate) const INTERFACE_PREFIX: &str = "atp";

/// Host parts below this are the node's (its own address is `::1`), never a pod's.
const RESERVED: u64 = 0x1_0000;

/// With 2⁶⁴ host parts even the second candidate is never needed; a bound all the same.
const CANDIDATES_MAX: u32 = 4_096;

/// An IPv6 network: an address whose bits beyond the length are zero, and the length in bits.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Prefix {
    address: Ipv6Addr,
    bits: u8,
}

/// Why a text or a pair is no [`Prefix`].
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{text:?} is not an IPv6 prefix: write it as fd12:3456:789a::/48, with zeroes after the prefix")]
pub struct PrefixError {
    text: String,
}

impl Prefix {
    /// The network of the first `bits` bits of `address`.
    ///
    /// # Errors
    ///
    /// More than 128 bits, or bits set beyond the length.
    pub fn new(address: Ipv6Addr, bits: u8) -> Result<Self, PrefixError> {
        if bits > 128 || address.to_bits() & !mask(bits) != 0 {
            return Err(PrefixError { text: format!("{address}/{bits}") });
        }
        Ok(Self { address, bits })
    }

    /// The first address.
    #[must_use]
    pub fn address(&self) -> Ipv6Addr {
        self.address
    }

    /// Length in bits.
    #[must_use]
    pub fn bits(&self) -> u8 {
        self.bits
    }

    /// Whether the address lies in it.
    #[must_use]
    pub fn contains(&self, address: Ipv6Addr) -> bool {
        address.to_bits() & mask(self.bits) == self.address.to_bits()
    }

    /// Whether all of `inner` lies in it.
    #[must_use]
    pub fn covers(&self, inner: &Self) -> bool {
        inner.bits >= self.bits && self.contains(inner.address)
    }

    /// The address with this number in the bits after the prefix.
    pub(crate) fn host(&self, number: u64) -> Ipv6Addr {
        Ipv6Addr::from_bits(self.address.to_bits() | (u128::from(number) & !mask(self.bits)))
    }
}

fn mask(bits: u8) -> u128 {
    u128::MAX.checked_shl(128 - u32::from(bits.min(128))).unwrap_or(0)
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.bits)
    }
}

impl FromStr for Prefix {
    type Err = PrefixError;

    fn from_str(text: &str) -> Result<Self, PrefixError> {
        let error = || PrefixError { text: text.to_owned() };
        let (address, bits) = text.split_once('/').ok_or_else(error)?;
        let bits: u8 = bits.parse().map_err(|_| error())?;
        Self::new(address.parse().map_err(|_| error())?, bits)
    }
}

/// What is computed from a pod's key.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Identity {
    pub(crate) address: Ipv6Addr,
    pub(crate) interface: String,
}

/// The first candidate for this pod whose address and interface nobody holds.
pub(crate) fn allocate(
    evdc: &str,
    pod: &str,
    node: &Prefix,
    taken: &BTreeSet<Ipv6Addr>,
    interfaces: &BTreeSet<String>,
) -> Option<Identity> {
    (0..CANDIDATES_MAX)
        .filter_map(|attempt| candidate(evdc, pod, node, attempt))
        .find(|candidate| !taken.contains(&candidate.address) && !interfaces.contains(&candidate.interface))
}

fn candidate(evdc: &str, pod: &str, node: &Prefix, attempt: u32) -> Option<Identity> {
    let bytes = hash("pod", &format!("{evdc}/{pod}/{attempt}"));
    let number = u64::from_be_bytes(bytes[..8].try_into().expect("eight of thirty-two bytes"));
    let name: String = bytes[8..14].iter().map(|byte| format!("{byte:02x}")).collect();
    // 14 characters: the kernel takes 15.
    let interface = format!("{INTERFACE_PREFIX}{}", &name[..11]);
    (number >= RESERVED).then(|| Identity { address: node.host(number), interface })
}

/// Link addresses of the host's end and of the pod's end: locally administered, computed from the interface's name.
pub(crate) fn link_addresses(interface: &str) -> (String, String) {
    let bytes = hash("link", interface);
    let tail = |bytes: &[u8]| bytes.iter().map(|byte| format!(":{byte:02x}")).collect::<String>();
    (format!("02{}", tail(&bytes[..5])), format!("06{}", tail(&bytes[5..10])))
}

fn hash(what: &str, text: &str) -> [u8; 32] {
    blake3::derive_key(&format!("atoll podnet v1 {what}"), text.as_bytes())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use proptest::prelude::{any, prop_assert, prop_assert_eq, proptest};

    use super::*;

    #[test]
    fn prefixes_are_read_strictly() {
        let check = |text: &str, good: bool| assert_eq!(text.parse::<Prefix>().is_ok(), good, "{text}");
        check("fd00:1:2::/48", true);
        check("::/0", true);
        check("fd00::1/128", true);
        check("fd00::1/64", false);
        check("fd00::/129", false);
        check("fd00::", false);
        check("10.0.0.0/8", false);
    }

    #[test]
    fn a_taken_address_is_passed_over() {
        let node: Prefix = "fd00:1:2:3::/64".parse().unwrap();
        let none = BTreeSet::new();
        let first = allocate("e", "p", &node, &BTreeSet::new(), &none).unwrap();
        assert_eq!(allocate("e", "p", &node, &BTreeSet::new(), &none).unwrap(), first);
        let second = allocate("e", "p", &node, &BTreeSet::from([first.address]), &none).unwrap();
        assert_ne!(second.address, first.address);
        let third = allocate("e", "p", &node, &BTreeSet::new(), &BTreeSet::from([first.interface])).unwrap();
        assert_eq!(third, second);
    }

    proptest! {
        #[test]
        fn pods_get_addresses_of_their_node(pod in "[a-z0-9-]{1,40}", subnet in any::<u16>()) {
            let evdc = Prefix::new("fd12:3456:789a::".parse().unwrap(), 48).unwrap();
            let node = Prefix::new(Ipv6Addr::from_bits(evdc.address().to_bits() | (u128::from(subnet) << 64)), 64).unwrap();
            let identity = allocate("e", &pod, &node, &BTreeSet::new(), &BTreeSet::new()).unwrap();
            prop_assert!(node.contains(identity.address) && evdc.covers(&node));
            prop_assert!(identity.address > node.host(RESERVED - 1));
            prop_assert_eq!(identity.interface.len(), 14);
            prop_assert_eq!(node.to_string().parse::<Prefix>().unwrap(), node);
        }
    }
}
