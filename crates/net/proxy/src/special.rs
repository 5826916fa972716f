//! Addresses that are not just any machine's: what a rule has to name to the last bit, or what nobody connects to at all.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use atoll_ids::PlanetaryAddress;
use ipnet::{Ipv4Net, Ipv6Net};

/// What is special about an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Special {
    /// Nothing: a machine on some network; `global` if it is a part of the Internet.
    No {
        /// Whether it is handed out for use on the Internet.
        global: bool,
    },
    /// The machine itself, its link, the planetary network, or a cloud's service that tells machines their secrets: only by its own name.
    Exact,
    /// No one machine: unspecified, multicast, broadcast, reserved.
    Never,
}

/// Services by which clouds tell their machines who they are and what they may do, where they lie outside 169.254.0.0/16: Alibaba's, Oracle's, Azure's.
const METADATA_V4: [Ipv4Addr; 3] =
    [Ipv4Addr::new(100, 100, 100, 200), Ipv4Addr::new(192, 0, 0, 192), Ipv4Addr::new(168, 63, 129, 16)];

/// The same over IPv6: Amazon's and Google's.
const METADATA_V6: [Ipv6Addr; 2] =
    [Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254), Ipv6Addr::new(0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254)];

const fn v4(a: u8, b: u8, c: u8, d: u8, length: u8) -> Ipv4Net {
    Ipv4Net::new_assert(Ipv4Addr::new(a, b, c, d), length)
}

const fn v6(first: u16, second: u16, length: u8) -> Ipv6Net {
    Ipv6Net::new_assert(Ipv6Addr::new(first, second, 0, 0, 0, 0, 0, 0), length)
}

/// IPv4 that is not the Internet's (IANA's special-purpose address registry, RFC 6890).
const LOCAL_V4: [Ipv4Net; 9] = [
    v4(10, 0, 0, 0, 8),
    v4(100, 64, 0, 0, 10),
    v4(172, 16, 0, 0, 12),
    v4(192, 0, 0, 0, 24),
    v4(192, 0, 2, 0, 24),
    v4(192, 168, 0, 0, 16),
    v4(198, 18, 0, 0, 15),
    v4(198, 51, 100, 0, 24),
    v4(203, 0, 113, 0, 24),
];

/// Within IPv6's global unicast, what is not the Internet's: IETF protocols with Teredo (2001::/23), documentation, 6to4, whose addresses hold others.
const LOCAL_V6: [Ipv6Net; 4] = [v6(0x2001, 0, 23), v6(0x2001, 0xdb8, 32), v6(0x2002, 0, 16), v6(0x3fff, 0, 20)];

/// Global unicast (RFC 4291, section 2.4, as it is handed out).
const GLOBAL_V6: Ipv6Net = v6(0x2000, 0, 3);

/// IPv4 behind a translator (RFC 6052, RFC 8215): the address that is meant is in its last bits.
const TRANSLATED: [Ipv6Net; 2] =
    [v6(0x64, 0xff9b, 96), Ipv6Net::new_assert(Ipv6Addr::new(0x64, 0xff9b, 1, 0, 0, 0, 0, 0), 48)];

impl Special {
    /// What is special about this one. An IPv4 address in IPv6's clothes is judged as what it is.
    #[must_use]
    pub fn of(ip: IpAddr) -> Self {
        match ip.to_canonical() {
            IpAddr::V4(ip) => Self::of_v4(ip),
            IpAddr::V6(ip) => Self::of_v6(ip),
        }
    }

    fn of_v4(ip: Ipv4Addr) -> Self {
        let first = ip.octets()[0];
        // 0.0.0.0/8 is this machine to Linux; 240.0.0.0/4 is reserved, with broadcast at its end.
        if first == 0 || ip.is_multicast() || first >= 240 {
            Self::Never
        } else if ip.is_loopback() || ip.is_link_local() || METADATA_V4.contains(&ip) {
            Self::Exact
        } else {
            Self::No { global: !LOCAL_V4.iter().any(|net| net.contains(&ip)) }
        }
    }

    fn of_v6(ip: Ipv6Addr) -> Self {
        // All of ::/96 but ::1 is unspecified or IPv4 in a form that was given up (RFC 4291, section 2.5.5.1).
        let compatible = ip.segments()[..6] == [0; 6] && ip != Ipv6Addr::LOCALHOST;
        if compatible || ip.is_multicast() || ip.to_ipv4_mapped().is_some() {
            return Self::Never;
        }
        let planetary = PlanetaryAddress::from_ip(ip).is_ok();
        let local = ip.is_loopback() || ip.is_unicast_link_local() || METADATA_V6.contains(&ip);
        if planetary || local || TRANSLATED.iter().any(|net| net.contains(&ip)) {
            return Self::Exact;
        }
        Self::No { global: GLOBAL_V6.contains(&ip) && !LOCAL_V6.iter().any(|net| net.contains(&ip)) }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;

    #[test]
    fn what_is_special() {
        let check = |text: &str, expect: Special| assert_eq!(Special::of(text.parse().unwrap()), expect, "{text}");
        let (global, local) = (Special::No { global: true }, Special::No { global: false });
        check("1.1.1.1", global);
        check("172.32.0.1", global);
        check("2606:4700::1111", global);
        check("10.1.2.3", local);
        check("172.31.0.1", local);
        check("192.168.0.1", local);
        check("100.64.0.1", local);
        check("192.0.2.1", local);
        check("fd00::1", local);
        check("2001:db8::1", local);
        check("2001::1", local);
        check("2002:7f00:1::", local);
        check("127.0.0.1", Special::Exact);
        check("127.255.255.254", Special::Exact);
        check("169.254.169.254", Special::Exact);
        check("100.100.100.200", Special::Exact);
        check("168.63.129.16", Special::Exact);
        check("fd00:ec2::254", Special::Exact);
        check("::1", Special::Exact);
        check("fe80::1", Special::Exact);
        check("600::1", Special::Exact);
        check("64:ff9b::7f00:1", Special::Exact);
        check("64:ff9b:1::a", Special::Exact);
        check("::ffff:127.0.0.1", Special::Exact);
        check("::ffff:1.1.1.1", global);
        check("0.0.0.0", Special::Never);
        check("0.1.2.3", Special::Never);
        check("::", Special::Never);
        check("::127.0.0.1", Special::Never);
        check("::ffff:0.0.0.0", Special::Never);
        check("224.0.0.1", Special::Never);
        check("255.255.255.255", Special::Never);
        check("240.0.0.1", Special::Never);
        check("ff02::1", Special::Never);
    }
}
