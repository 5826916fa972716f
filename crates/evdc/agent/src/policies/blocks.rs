//! Spans of addresses and of ports: blocks without their exceptions, and many spans as few that lie apart (pure).

use std::net::{IpAddr, Ipv6Addr};

use k8s_openapi::api::networking::v1::IPBlock;

/// A number that has a next one.
pub(super) trait Step: Copy + Ord {
    fn next(self) -> Option<Self>;
}

impl Step for u16 {
    fn next(self) -> Option<Self> {
        self.checked_add(1)
    }
}

impl Step for Ipv6Addr {
    fn next(self) -> Option<Self> {
        self.to_bits().checked_add(1).map(Self::from_bits)
    }
}

/// The same numbers in the fewest spans, in order.
pub(super) fn merged<T: Step>(mut spans: Vec<(T, T)>) -> Vec<(T, T)> {
    spans.sort_unstable();
    let mut merged: Vec<(T, T)> = Vec::with_capacity(spans.len());
    for (first, last) in spans {
        match merged.last_mut() {
            Some(before) if before.1.next().is_none_or(|next| first <= next) => before.1 = before.1.max(last),
            _ => merged.push((first, last)),
        }
    }
    merged
}

/// The addresses of a block without its exceptions. IPv4 is nobody's here.
pub(super) fn spans(block: &IPBlock) -> Result<Vec<(Ipv6Addr, Ipv6Addr)>, String> {
    let Some((first, last)) = cidr(&block.cidr)? else {
        return Err(format!("{} is IPv4; pods of this eVDC speak IPv6, so it selects nobody", block.cidr));
    };
    let mut holes = Vec::new();
    for except in block.except.iter().flatten() {
        // One that is not understood might be all of the block.
        holes.extend(cidr(except)?);
    }
    let mut left = Vec::new();
    let mut next = Some(first);
    for (hole, end) in merged(holes) {
        let Some(from) = next.filter(|from| *from <= last) else { break };
        if from < hole {
            left.push((from, Ipv6Addr::from_bits(hole.to_bits() - 1).min(last)));
        }
        if end >= from {
            next = end.next();
        }
    }
    left.extend(next.filter(|from| *from <= last).map(|from| (from, last)));
    Ok(left)
}

/// First and last address; `None` for IPv4.
fn cidr(text: &str) -> Result<Option<(Ipv6Addr, Ipv6Addr)>, String> {
    let parse = || {
        let (address, length) = text.split_once('/')?;
        let (address, length): (IpAddr, u32) = (address.parse().ok()?, length.parse().ok()?);
        match address {
            IpAddr::V4(_) => (length <= 32).then_some(None),
            IpAddr::V6(address) => {
                let rest = u128::MAX.checked_shr(length).unwrap_or(0);
                let bits = address.to_bits();
                (length <= 128).then(|| Some((Ipv6Addr::from_bits(bits & !rest), Ipv6Addr::from_bits(bits | rest))))
            }
        }
    };
    parse().ok_or_else(|| format!("{text:?} is no block of addresses; it selects nobody"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;

    #[test]
    fn exceptions_are_cut_out() {
        let check = |block: &str, except: &[&str], expected: &[(&str, &str)]| {
            let except = except.iter().map(|it| (*it).to_owned()).collect();
            let found = spans(&IPBlock { cidr: block.to_owned(), except: Some(except) }).unwrap();
            let expected: Vec<_> =
                expected.iter().map(|(first, last)| (first.parse().unwrap(), last.parse().unwrap())).collect();
            assert_eq!(merged(found), expected, "{block}");
        };
        check("fd00::/124", &[], &[("fd00::", "fd00::f")]);
        check("fd00::3/124", &[], &[("fd00::", "fd00::f")]);
        check("fd00::/124", &["fd00::4/127"], &[("fd00::", "fd00::3"), ("fd00::6", "fd00::f")]);
        check("fd00::/124", &["fd00::/127", "fd00::f/128"], &[("fd00::2", "fd00::e")]);
        check("fd00::/124", &["fd00::4/126", "fd00::4/127"], &[("fd00::", "fd00::3"), ("fd00::8", "fd00::f")]);
        check("fd00::/124", &["fd00::/124"], &[]);
        check("fd00::/124", &["fd00::/120"], &[]);
        check("fd00::/124", &["fd01::/120", "fc00::/16"], &[("fd00::", "fd00::f")]);
        check("::/0", &["8000::/1"], &[("::", "7fff:ffff:ffff:ffff:ffff:ffff:ffff:ffff")]);
        check("::/0", &["::/1"], &[("8000::", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff")]);
    }

    #[test]
    fn what_is_no_block_selects_nobody() {
        let check = |block: &str, except: &str| {
            let except = (!except.is_empty()).then(|| vec![except.to_owned()]);
            assert!(spans(&IPBlock { cidr: block.to_owned(), except }).is_err(), "{block}");
        };
        check("10.0.0.0/8", "");
        check("fd00::", "");
        check("fd00::/129", "");
        check("fd00::/8", "nonsense");
    }

    #[test]
    fn spans_are_joined() {
        let check = |spans: &[(u16, u16)], expected: &[(u16, u16)]| assert_eq!(merged(spans.to_vec()), expected);
        check(&[], &[]);
        check(&[(5, 9), (1, 2)], &[(1, 2), (5, 9)]);
        check(&[(1, 4), (5, 9)], &[(1, 9)]);
        check(&[(1, 9), (2, 3), (12, 12)], &[(1, 9), (12, 12)]);
        check(&[(0, u16::MAX), (80, 80)], &[(0, u16::MAX)]);
    }
}
