//! Why a packet passes or does not, in words that lead somewhere: which rule it was, or which there are and why none of them is it.
//!
//! The verdict is the filter's own: what decides about a packet in passing decides here, and only what would follow from it is left out.

use std::fmt;
use std::net::Ipv6Addr;
use std::str::FromStr;

use crate::craft;
use crate::filter::Reason;
use crate::packet::number;
use crate::rule::{Ports, What, WordError};

/// Why a packet passes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// A rule allows it; this is its place in the policy.
    Rule(usize),
    /// What goes out is not restricted.
    Unrestricted,
    /// It belongs to a conversation that was begun the other way.
    Answer,
    /// It is an error about something that was said.
    AboutAnswer,
    /// It is a piece of a packet whose first piece passed.
    Piece,
    /// It stays within a pod network.
    Pods,
}

/// Why a rule is not the one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Miss {
    /// It is about the other direction.
    Direction,
    /// It is about others.
    Who,
    /// It allows something else.
    What,
    /// It ran out.
    Over,
    /// It would allow the beginning of a conversation, which this is not.
    Other,
}

/// What becomes of a packet, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Explanation {
    /// Whether it passes.
    pub verdict: Result<Cause, Reason>,
    /// If no rule is why it passes: the rules' places in the policy, and why it is none of them.
    pub looked_at: Vec<(usize, Miss)>,
}

/// A conversation that somebody may want to begin.
///
/// As text: `tcp/443`, `udp/53`, `icmp`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Probe {
    /// TCP to this port.
    Tcp(u16),
    /// UDP to this port.
    Udp(u16),
    /// An echo request.
    Icmp,
}

impl Probe {
    /// What a rule would have to allow.
    #[must_use]
    pub fn what(self) -> What {
        let one = |port| Ports { first: port, last: port };
        match self {
            Self::Tcp(port) => What::Tcp(one(port)),
            Self::Udp(port) => What::Udp(one(port)),
            Self::Icmp => What::Icmp,
        }
    }

    /// The packet that would begin it. From port 0, which no program has, so that it belongs to nothing that is under way.
    #[must_use]
    pub fn packet(self, source: Ipv6Addr, destination: Ipv6Addr) -> Vec<u8> {
        let ports = |port: u16| [[0; 2], port.to_be_bytes()].concat();
        match self {
            Self::Tcp(port) => {
                const SYN: [u8; 2] = [0x50, 0x02];
                let header = [&ports(port)[..], &[0; 8], &SYN, &[0; 6]].concat();
                craft::ipv6(source, destination, number::TCP, &header)
            }
            Self::Udp(port) => {
                craft::ipv6(source, destination, number::UDP, &[&ports(port)[..], &[0, 8, 0, 0]].concat())
            }
            Self::Icmp => craft::icmpv6(source, destination, 128, 0, &[0; 4]),
        }
    }
}

impl FromStr for Probe {
    type Err = WordError;

    fn from_str(text: &str) -> Result<Self, WordError> {
        match text.parse::<What>()? {
            What::Icmp => Ok(Self::Icmp),
            What::Tcp(ports) if ports.first == ports.last => Ok(Self::Tcp(ports.first)),
            What::Udp(ports) if ports.first == ports.last => Ok(Self::Udp(ports.first)),
            _ => Err(WordError::new(format!("{text:?} is not one conversation, like tcp/443, udp/53 or icmp"))),
        }
    }
}

impl fmt::Display for Probe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.what().fmt(f)
    }
}

impl Cause {
    /// The rule, if it is one.
    #[must_use]
    pub fn rule(self) -> Option<usize> {
        match self {
            Self::Rule(rule) => Some(rule),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;
    use crate::packet::{Payload, TcpFlags, parse};

    #[test]
    fn probes_are_packets() {
        let (one, two): (Ipv6Addr, Ipv6Addr) = ("600::1".parse().unwrap(), "600::2".parse().unwrap());
        let check = |text: &str, expect: Payload| {
            let probe: Probe = text.parse().unwrap();
            assert_eq!(probe.to_string(), text);
            let packet = parse(&probe.packet(one, two)).unwrap();
            assert_eq!((packet.source, packet.destination, packet.payload), (one, two, expect));
        };
        let flags = TcpFlags { opens: true, finishes: false, resets: false };
        check("tcp/443", Payload::Tcp { from: 0, to: 443, flags });
        check("udp/53", Payload::Udp { from: 0, to: 53 });
        check("icmp", Payload::EchoRequest { id: 0 });
        for wrong in ["", "tcp", "udp/1-2", "all", "sctp/1"] {
            assert!(wrong.parse::<Probe>().is_err(), "{wrong}");
        }
    }
}
