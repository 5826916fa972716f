//! Which network an address is in, at two widths. Keys cost nothing, networks do: so whatever is scarce (places in a table, in a shortlist, in the
//! store, questions per second) is given out by network and not by key.
//!
//! Not by owner: an owner's key is as free as a node's, so a limit per owner would bind only the honest.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::message::Contact;

/// A network, or a single place in a private one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Network(u128, u8);

impl Network {
    /// What one customer of a provider usually has: an IPv6 /64, an IPv4 address.
    pub fn narrow(at: SocketAddr) -> Self {
        Self::of(at, 64, 32)
    }

    /// What is cheaply had at once: an IPv6 /48, an IPv4 /24.
    pub fn wide(at: SocketAddr) -> Self {
        Self::of(at, 48, 24)
    }

    /// In a private network every address and port is a network of its own: who can be reached there is in the same house, and a house may
    /// have one /64 for all it holds. Someone outside gains nothing by naming such an address, as nobody answers there for them.
    fn of(at: SocketAddr, v6_bits: u8, v4_bits: u8) -> Self {
        match at.ip().to_canonical() {
            IpAddr::V4(ip) if is_private_v4(ip) => Self(u128::from(u32::from(ip)) << 16 | u128::from(at.port()), 254),
            IpAddr::V6(ip) if is_private_v6(ip) => Self(u128::from(ip).rotate_left(16) ^ u128::from(at.port()), 255),
            IpAddr::V4(ip) => Self(u128::from(u32::from(ip) >> (32 - v4_bits)), v4_bits),
            IpAddr::V6(ip) => Self(u128::from(ip) >> (128 - v6_bits), 128 + (v6_bits >> 1)),
        }
    }

    /// A number for a sketch.
    pub(crate) fn hash(self, seed: u64) -> u64 {
        let folded = (self.0 >> 64) as u64 ^ (self.0 as u64).rotate_left(23) ^ u64::from(self.1);
        crate::random::mix(folded ^ seed)
    }
}

/// Which of these to take, in their order: at most `each` of a wide network, and if that leaves fewer than `count`, the first of the others besides.
pub(crate) fn apart(contacts: &[Contact], count: usize, each: usize) -> Vec<usize> {
    let mut taken: BTreeMap<Network, usize> = BTreeMap::new();
    let (mut chosen, mut rest) = (Vec::new(), Vec::new());
    for (at, contact) in contacts.iter().enumerate() {
        let taken = taken.entry(Network::wide(contact.at)).or_default();
        *taken += 1;
        if *taken <= each {
            chosen.push(at)
        } else {
            rest.push(at)
        }
        if chosen.len() == count {
            return chosen;
        }
    }
    let missing = count - chosen.len();
    chosen.extend(rest.into_iter().take(missing));
    chosen
}

fn is_private_v4(ip: Ipv4Addr) -> bool {
    // 100.64.0.0/10 (RFC 6598) is shared by a provider's customers, who cannot reach each other there.
    ip.is_private() || ip.is_loopback() || ip.is_link_local()
}

fn is_private_v6(ip: Ipv6Addr) -> bool {
    ip.is_unique_local() || ip.is_loopback() || ip.is_unicast_link_local()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;

    #[test]
    fn what_is_one_network() {
        #[track_caller]
        fn check(a: &str, b: &str, narrow: bool, wide: bool) {
            let [a, b] = [a, b].map(|text| text.parse::<SocketAddr>().unwrap());
            assert_eq!(Network::narrow(a) == Network::narrow(b), narrow, "narrow");
            assert_eq!(Network::wide(a) == Network::wide(b), wide, "wide");
        }
        check("192.0.2.1:1", "192.0.2.1:2", true, true);
        check("192.0.2.1:1", "[::ffff:192.0.2.1]:2", true, true);
        check("192.0.2.1:1", "192.0.2.2:1", false, true);
        check("192.0.2.1:1", "192.0.3.1:1", false, false);
        check("[2001:db8::1]:1", "[2001:db8::2]:9", true, true);
        check("[2001:db8:0:1::1]:1", "[2001:db8:0:2::1]:1", false, true);
        check("[2001:db8:1::1]:1", "[2001:db8:2::1]:1", false, false);
        check("127.0.0.1:1", "127.0.0.1:2", false, false);
        check("[fd00::1]:1", "[fd00::2]:1", false, false);
        check("10.0.0.1:1", "10.0.0.1:1", true, true);
    }
}
