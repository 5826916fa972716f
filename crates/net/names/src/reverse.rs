//! Names of addresses: an IPv6 address as 32 labels of one hexadecimal digit below `ip6.arpa` (RFC 3596, section 2.5).

use std::net::Ipv6Addr;

/// Digits of an address.
pub(crate) const DIGITS: usize = 32;

/// What `0600::/8` is below, in reading order: this node answers for all of it, so that no question about a planetary address leaves the machine.
pub(crate) const REVERSE: [&str; 4] = ["6", "0", "ip6", "arpa"];

/// The digits that labels below `ip6.arpa` stand for, the most significant first; fewer than 32 name a prefix. `None` if they stand for none.
pub fn nibbles(labels: &[&str]) -> Option<Vec<u8>> {
    let [digits @ .., "ip6", "arpa"] = labels else { return None };
    if digits.len() > DIGITS {
        return None;
    }
    let digit = |label: &&str| match label.as_bytes() {
        [byte] => char::from(*byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok()),
        _ => None,
    };
    digits.iter().rev().map(digit).collect()
}

/// The name of an address, without a dot at the end.
#[must_use]
pub fn reverse_name(address: Ipv6Addr) -> String {
    let digits = format!("{:032x}", address.to_bits());
    let labels: String = digits.chars().rev().flat_map(|digit| [digit, '.']).collect();
    labels + "ip6.arpa"
}

/// The first and the last address with these leading digits.
pub(crate) fn range(digits: &[u8]) -> (u128, u128) {
    let value = digits.iter().fold(0_u128, |value, digit| (value << 4) | u128::from(*digit));
    let rest = u32::try_from(4 * (DIGITS - digits.len().min(DIGITS))).unwrap_or(0);
    let low = value.checked_shl(rest).unwrap_or(0);
    (low, low | 1_u128.checked_shl(rest).map_or(u128::MAX, |size| size - 1))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use proptest::prelude::{any, proptest};
    use proptest::prop_assert_eq;

    use super::*;

    #[test]
    fn names_of_addresses() {
        let address: Ipv6Addr = "6d6:f810:d4d2:ccee:bcc8:e987:6f40:30c2".parse().unwrap();
        let name = reverse_name(address);
        assert_eq!(name, "2.c.0.3.0.4.f.6.7.8.9.e.8.c.c.b.e.e.c.c.2.d.4.d.0.1.8.f.6.d.6.0.ip6.arpa");
        #[track_caller]
        fn check(name: &str, expect: Option<&[u8]>) {
            assert_eq!(nibbles(&name.split('.').collect::<Vec<_>>()).as_deref(), expect, "{name}");
        }
        check("ip6.arpa", Some(&[]));
        check("6.0.ip6.arpa", Some(&[0, 6]));
        check("d.6.0.ip6.arpa", Some(&[0, 6, 0xd]));
        check("g.6.0.ip6.arpa", None);
        check("10.6.0.ip6.arpa", None);
        check("", None);
        check("1.in-addr.arpa", None);
        check(&("0.".repeat(33) + "ip6.arpa"), None);
    }

    #[test]
    fn ranges() {
        assert_eq!(range(&[]), (0, u128::MAX));
        assert_eq!(range(&[0, 6]), (6 << 120, (7 << 120) - 1));
        assert_eq!(range(&[0xf; 32]), (u128::MAX, u128::MAX));
    }

    proptest! {
        #[test]
        fn a_name_is_read_as_the_address_that_it_is_of(bits in any::<u128>()) {
            let name = reverse_name(Ipv6Addr::from_bits(bits));
            let digits = nibbles(&name.split('.').collect::<Vec<_>>()).unwrap();
            prop_assert_eq!(range(&digits), (bits, bits));
        }
    }
}
