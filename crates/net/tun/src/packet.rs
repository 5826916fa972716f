//! Reading an IPv6 packet as far as the filter needs it: addresses, and what kind of conversation it belongs to.
//!
//! Pure, and safe on any bytes: every access is bounded, at most [`EXTENSIONS_MAX`] extension headers are walked, nothing is
//! allocated. What cannot be understood is [`Malformed`], never guessed.

use std::net::Ipv6Addr;

/// Bytes of the fixed IPv6 header.
pub(crate) const HEADER_BYTES: usize = 40;

/// Extension headers before the transport's. Four kinds exist that may come before it (RFC 8200, section 4.1); one twice is already strange.
pub const EXTENSIONS_MAX: usize = 6;

/// Protocol numbers (IANA).
pub(crate) mod number {
    pub(crate) const HOP_BY_HOP: u8 = 0;
    pub(crate) const TCP: u8 = 6;
    pub(crate) const UDP: u8 = 17;
    pub(crate) const ROUTING: u8 = 43;
    pub(crate) const FRAGMENT: u8 = 44;
    pub(crate) const ICMP: u8 = 58;
    pub(crate) const DESTINATION: u8 = 60;
}

const TCP_FIN: u8 = 0x01;
const TCP_SYN: u8 = 0x02;
const TCP_RST: u8 = 0x04;
const TCP_ACK: u8 = 0x10;

/// ICMPv6 types (RFC 4443). Errors are below 128.
const ECHO_REQUEST: u8 = 128;
const ECHO_REPLY: u8 = 129;
const ERROR_TYPES: std::ops::RangeInclusive<u8> = 1..=4;

/// Why bytes are not a packet that can be let through.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// Shorter than its headers say.
    #[error("cut short")]
    Short,
    /// Not IPv6.
    #[error("not IPv6")]
    Version,
    /// The length in the header is not that of the packet.
    #[error("its length is wrong")]
    Length,
    /// More extension headers than are walked.
    #[error("too many extension headers")]
    Extensions,
    /// A routing header: it would have the packet go elsewhere than its destination says.
    #[error("a routing header")]
    Routing,
    /// A header in which a length or an offset makes no sense.
    #[error("a header that makes no sense")]
    Header,
}

/// What a TCP segment does to its connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TcpFlags {
    /// Opens (SYN without ACK).
    pub opens: bool,
    /// Ends it in one direction (FIN).
    pub finishes: bool,
    /// Ends it at once (RST).
    pub resets: bool,
}

/// What a packet carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Payload {
    /// TCP.
    Tcp {
        /// Source port.
        from: u16,
        /// Destination port.
        to: u16,
        /// What it does.
        flags: TcpFlags,
    },
    /// UDP.
    Udp {
        /// Source port.
        from: u16,
        /// Destination port.
        to: u16,
    },
    /// An ICMPv6 echo request.
    EchoRequest {
        /// Which conversation.
        id: u16,
    },
    /// An ICMPv6 echo reply.
    EchoReply {
        /// Which conversation.
        id: u16,
    },
    /// An ICMPv6 error about the packet that lies from this offset on.
    Error {
        /// Where the packet begins that it is about.
        about: usize,
    },
    /// Another ICMPv6 message.
    Icmp {
        /// Its type.
        kind: u8,
    },
    /// Another protocol.
    Other {
        /// Its number.
        protocol: u8,
    },
    /// A fragment that is not the first: the ports were in another packet.
    Rest,
}

/// A fragment's place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fragment {
    /// The number that its packet's fragments share.
    pub id: u32,
    /// Whether the transport's header is in it.
    pub first: bool,
    /// Where it begins in what was cut up, in bytes.
    pub start: u32,
    /// Where it ends there.
    pub end: u32,
}

/// A packet, read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Packet {
    /// Where it comes from, as it says.
    pub source: Ipv6Addr,
    /// Where it goes.
    pub destination: Ipv6Addr,
    /// What it carries.
    pub payload: Payload,
    /// Whether it is part of a larger one.
    pub fragment: Option<Fragment>,
}

/// Reads a packet. This is the entry for foreign bytes, and for the fuzzer.
///
/// # Errors
///
/// [`Malformed`].
pub fn parse(bytes: &[u8]) -> Result<Packet, Malformed> {
    let length = usize::from(u16_at(bytes, 4)?);
    if bytes.len() != HEADER_BYTES + length {
        return Err(if bytes.len() < HEADER_BYTES { Malformed::Short } else { Malformed::Length });
    }
    read(bytes, true)
}

/// Reads the beginning of a packet that an ICMPv6 error quotes; the rest may be missing.
pub(crate) fn parse_quoted(bytes: &[u8]) -> Result<Packet, Malformed> {
    read(bytes, false)
}

/// `whole` is whether the packet's end is here.
fn read(bytes: &[u8], whole: bool) -> Result<Packet, Malformed> {
    if byte_at(bytes, 0)? >> 4 != 6 {
        return Err(Malformed::Version);
    }
    let (source, destination) = (address_at(bytes, 8)?, address_at(bytes, 24)?);
    let (mut next, mut at) = (byte_at(bytes, 6)?, HEADER_BYTES);
    let mut fragment = None;
    for _ in 0..=EXTENSIONS_MAX {
        match next {
            number::HOP_BY_HOP | number::DESTINATION => {
                next = byte_at(bytes, at)?;
                at += 8 * (usize::from(byte_at(bytes, at + 1)?) + 1);
            }
            number::ROUTING => return Err(Malformed::Routing),
            number::FRAGMENT if fragment.is_some() => return Err(Malformed::Header),
            number::FRAGMENT => {
                let (id, offset) = (u32_at(bytes, at + 4)?, u16_at(bytes, at + 2)? & !7);
                let start = u32::from(offset);
                // What is quoted may be cut; nobody asks for its end.
                let length = u32::try_from(bytes.len().saturating_sub(at + 8)).unwrap_or(u32::MAX);
                fragment = Some(Fragment { id, first: offset == 0, start, end: start.saturating_add(length) });
                if offset != 0 {
                    return Ok(Packet { source, destination, payload: Payload::Rest, fragment });
                }
                next = byte_at(bytes, at)?;
                at += 8;
            }
            protocol => {
                let payload = transport(protocol, bytes, at, whole)?;
                return Ok(Packet { source, destination, payload, fragment });
            }
        }
    }
    Err(Malformed::Extensions)
}

fn transport(protocol: u8, bytes: &[u8], at: usize, whole: bool) -> Result<Payload, Malformed> {
    Ok(match protocol {
        number::TCP => {
            let (from, to) = (u16_at(bytes, at)?, u16_at(bytes, at + 2)?);
            // A quotation may end after the ports.
            let flags = if whole { byte_at(bytes, at + 13)? } else { byte_at(bytes, at + 13).unwrap_or(0) };
            let has = |flag: u8| flags & flag != 0;
            let flags = TcpFlags { opens: has(TCP_SYN) && !has(TCP_ACK), finishes: has(TCP_FIN), resets: has(TCP_RST) };
            // All of the header or none of it: a part of it in another fragment could be anything.
            if whole && bytes.len() < at + 20 {
                return Err(Malformed::Short);
            }
            Payload::Tcp { from, to, flags }
        }
        number::UDP => {
            if whole && bytes.len() < at + 8 {
                return Err(Malformed::Short);
            }
            Payload::Udp { from: u16_at(bytes, at)?, to: u16_at(bytes, at + 2)? }
        }
        number::ICMP => {
            let kind = byte_at(bytes, at)?;
            match kind {
                ECHO_REQUEST => Payload::EchoRequest { id: u16_at(bytes, at + 4)? },
                ECHO_REPLY => Payload::EchoReply { id: u16_at(bytes, at + 4)? },
                kind if ERROR_TYPES.contains(&kind) => {
                    u32_at(bytes, at + 4)?;
                    Payload::Error { about: at + 8 }
                }
                kind => Payload::Icmp { kind },
            }
        }
        protocol => Payload::Other { protocol },
    })
}

fn byte_at(bytes: &[u8], at: usize) -> Result<u8, Malformed> {
    bytes.get(at).copied().ok_or(Malformed::Short)
}

fn array_at<const N: usize>(bytes: &[u8], at: usize) -> Result<[u8; N], Malformed> {
    bytes.get(at..).and_then(|rest| rest.first_chunk()).copied().ok_or(Malformed::Short)
}

fn u16_at(bytes: &[u8], at: usize) -> Result<u16, Malformed> {
    array_at(bytes, at).map(u16::from_be_bytes)
}

fn u32_at(bytes: &[u8], at: usize) -> Result<u32, Malformed> {
    array_at(bytes, at).map(u32::from_be_bytes)
}

fn address_at(bytes: &[u8], at: usize) -> Result<Ipv6Addr, Malformed> {
    array_at::<16>(bytes, at).map(Ipv6Addr::from)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use proptest::prelude::{any, proptest};

    use super::*;
    use crate::craft::{self, Craft};

    #[track_caller]
    fn check(bytes: &[u8], expect: Result<Payload, Malformed>) {
        assert_eq!(parse(bytes).map(|packet| packet.payload), expect);
    }

    #[test]
    fn what_packets_carry_is_read() {
        let craft = Craft::between("600::1".parse().unwrap(), "600::2".parse().unwrap());
        let opens = TcpFlags { opens: true, finishes: false, resets: false };
        check(&craft.tcp(4000, 443, craft::SYN), Ok(Payload::Tcp { from: 4000, to: 443, flags: opens }));
        check(&craft.udp(53, 5353), Ok(Payload::Udp { from: 53, to: 5353 }));
        check(&craft.echo_request(7), Ok(Payload::EchoRequest { id: 7 }));
        check(&craft.echo_reply(7), Ok(Payload::EchoReply { id: 7 }));
        check(&craft.icmp(135), Ok(Payload::Icmp { kind: 135 }));
        check(&craft.error_about(1, &craft.udp(1, 2)), Ok(Payload::Error { about: 48 }));
        check(&craft.raw(132, &[0; 12]), Ok(Payload::Other { protocol: 132 }));
        check(
            &craft.raw(number::HOP_BY_HOP, &[58, 0, 1, 4, 0, 0, 0, 0, 128, 0, 0, 0, 0, 9, 0, 0]),
            Ok(Payload::EchoRequest { id: 9 }),
        );
    }

    #[test]
    fn fragments_are_told_apart() {
        let craft = Craft::between("600::1".parse().unwrap(), "600::2".parse().unwrap());
        let first = craft.raw(number::FRAGMENT, &[17, 0, 0, 1, 0, 0, 0, 9, 0, 53, 20, 233, 0, 8, 0, 0]);
        let packet = parse(&first).unwrap();
        assert_eq!(packet.fragment, Some(Fragment { id: 9, first: true, start: 0, end: 8 }));
        assert_eq!(packet.payload, Payload::Udp { from: 53, to: 5353 });
        let rest = craft.raw(number::FRAGMENT, &[17, 0, 0, 8, 0, 0, 0, 9, 1, 2, 3]);
        let packet = parse(&rest).unwrap();
        assert_eq!(packet.fragment, Some(Fragment { id: 9, first: false, start: 8, end: 11 }));
        assert_eq!(packet.payload, Payload::Rest);
        // Half a header in the first fragment could become anything by the second.
        check(
            &craft.raw(number::FRAGMENT, &[6, 0, 0, 1, 0, 0, 0, 9, 0, 53, 20, 233, 0, 8, 0, 0]),
            Err(Malformed::Short),
        );
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        let craft = Craft::between("600::1".parse().unwrap(), "600::2".parse().unwrap());
        let good = craft.udp(1, 2);
        check(&[], Err(Malformed::Short));
        check(&good[..39], Err(Malformed::Short));
        check(&good[..good.len() - 1], Err(Malformed::Length));
        check(&[good.clone(), vec![0]].concat(), Err(Malformed::Length));
        let mut four = good.clone();
        four[0] = 0x45;
        check(&four, Err(Malformed::Version));
        check(&craft.raw(number::ROUTING, &[0; 24]), Err(Malformed::Routing));
        check(&craft.raw(number::DESTINATION, &[17, 200, 0, 0, 0, 0, 0, 0]), Err(Malformed::Short));
        check(&craft.raw(number::HOP_BY_HOP, &[0; 80]), Err(Malformed::Extensions));
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(mut bytes: Vec<u8>, plausible in any::<bool>(), next in any::<u8>()) {
            if plausible && bytes.len() >= HEADER_BYTES {
                bytes[0] = 0x60;
                let length = u16::try_from(bytes.len() - HEADER_BYTES).unwrap();
                bytes[4..6].copy_from_slice(&length.to_be_bytes());
                bytes[6] = [number::HOP_BY_HOP, number::TCP, number::FRAGMENT, number::ICMP][usize::from(next) % 4];
            }
            let _: Result<Packet, Malformed> = parse(&bytes);
            let _: Result<Packet, Malformed> = parse_quoted(&bytes);
        }
    }
}
