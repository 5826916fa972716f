//! Packets made by hand, for tests and for the filter's own answers: the checksum of ICMPv6 and what tests need besides.

use std::net::Ipv6Addr;

use crate::packet::{HEADER_BYTES, number};

/// How many hops a packet that we make may take. The kernel's default.
const HOP_LIMIT: u8 = 64;

/// The SYN flag of TCP.
#[cfg(test)]
pub(crate) const SYN: u8 = 0x02;

/// An IPv6 packet of `protocol` with `body` behind the header.
pub(crate) fn ipv6(source: Ipv6Addr, destination: Ipv6Addr, protocol: u8, body: &[u8]) -> Vec<u8> {
    let length = u16::try_from(body.len()).expect("we make small packets");
    let mut packet = Vec::with_capacity(HEADER_BYTES + body.len());
    packet.extend([0x60, 0, 0, 0]);
    packet.extend(length.to_be_bytes());
    packet.extend([protocol, HOP_LIMIT]);
    packet.extend(source.octets());
    packet.extend(destination.octets());
    packet.extend(body);
    packet
}

/// An ICMPv6 message with its checksum (RFC 4443, section 2.3); `body` begins behind type, code and checksum.
pub(crate) fn icmpv6(source: Ipv6Addr, destination: Ipv6Addr, kind: u8, code: u8, body: &[u8]) -> Vec<u8> {
    let mut message = vec![kind, code, 0, 0];
    message.extend(body);
    let sum = checksum(source, destination, number::ICMP, &message);
    message[2..4].copy_from_slice(&sum.to_be_bytes());
    ipv6(source, destination, number::ICMP, &message)
}

/// The Internet checksum over the pseudo header and `message`.
fn checksum(source: Ipv6Addr, destination: Ipv6Addr, protocol: u8, message: &[u8]) -> u16 {
    let length = u32::try_from(message.len()).expect("we make small packets").to_be_bytes();
    let pseudo = [&source.octets()[..], &destination.octets(), &length, &[0, 0, 0, protocol]].concat();
    let words = |bytes: &[u8]| -> u32 {
        let pairs = bytes.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0)));
        pairs.sum()
    };
    let mut sum = words(&pseudo) + words(message);
    while sum > 0xffff {
        sum = (sum >> 16) + (sum & 0xffff);
    }
    !(sum as u16)
}

/// Packets between two addresses.
#[cfg(test)]
#[derive(Debug, Clone, Copy)]
pub(crate) struct Craft {
    source: Ipv6Addr,
    destination: Ipv6Addr,
}

#[cfg(test)]
impl Craft {
    pub(crate) fn between(source: Ipv6Addr, destination: Ipv6Addr) -> Self {
        Self { source, destination }
    }

    pub(crate) fn back(self) -> Self {
        Self { source: self.destination, destination: self.source }
    }

    pub(crate) fn raw(&self, protocol: u8, body: &[u8]) -> Vec<u8> {
        ipv6(self.source, self.destination, protocol, body)
    }

    pub(crate) fn tcp(&self, from: u16, to: u16, flags: u8) -> Vec<u8> {
        let ports = [from.to_be_bytes(), to.to_be_bytes()].concat();
        self.raw(number::TCP, &[&ports[..], &[0; 8], &[0x50, flags], &[0; 6]].concat())
    }

    pub(crate) fn udp(&self, from: u16, to: u16) -> Vec<u8> {
        let ports = [from.to_be_bytes(), to.to_be_bytes()].concat();
        self.raw(number::UDP, &[&ports[..], &[0, 8, 0, 0]].concat())
    }

    pub(crate) fn icmp(&self, kind: u8) -> Vec<u8> {
        icmpv6(self.source, self.destination, kind, 0, &[0; 4])
    }

    pub(crate) fn echo_request(&self, id: u16) -> Vec<u8> {
        icmpv6(self.source, self.destination, 128, 0, &[&id.to_be_bytes()[..], &[0, 1]].concat())
    }

    pub(crate) fn echo_reply(&self, id: u16) -> Vec<u8> {
        icmpv6(self.source, self.destination, 129, 0, &[&id.to_be_bytes()[..], &[0, 1]].concat())
    }

    pub(crate) fn error_about(&self, kind: u8, about: &[u8]) -> Vec<u8> {
        icmpv6(self.source, self.destination, kind, 0, &[&[0; 4], about].concat())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;

    /// A message with a right checksum sums up to nothing.
    #[test]
    fn checksums_are_right() {
        let (source, destination) = ("600::1".parse().unwrap(), "6ff::2".parse().unwrap());
        for body in [&b"\0\x01\0\x01"[..], b"odd", b""] {
            let packet = icmpv6(source, destination, 128, 0, body);
            assert_eq!(checksum(source, destination, number::ICMP, &packet[HEADER_BYTES..]), 0);
        }
    }
}
