//! What the rules say about a conversation that comes otherwise than in packets: over a stream that a peer opened, say.
//!
//! It is the filter's own judgement of the first packet, so that there is one answer to "may this peer reach that port", whatever carries it.

use atoll_ids::{NodeId, OwnerId};

use crate::filter::{lets_in, names};
use crate::packet::{Payload, TcpFlags};
use crate::rule::{Rule, What};

/// What a peer wants to begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Asked {
    /// TCP to this port.
    Tcp(u16),
    /// UDP to this port.
    Udp(u16),
    /// An echo request.
    Icmp,
}

impl Asked {
    /// What the filter would see of it.
    fn first_packet(self) -> Payload {
        let flags = TcpFlags { opens: true, finishes: false, resets: false };
        match self {
            Self::Tcp(to) => Payload::Tcp { from: 0, to, flags },
            Self::Udp(to) => Payload::Udp { from: 0, to },
            Self::Icmp => Payload::EchoRequest { id: 0 },
        }
    }
}

/// Whether a rule lets `node`, which is `owner`'s as far as that was proven, begin this.
#[must_use]
pub fn allows(rules: &[Rule], node: NodeId, owner: Option<OwnerId>, asked: Asked) -> bool {
    let payload = asked.first_packet();
    rules.iter().any(|rule| names(rule, node, owner) && lets_in(rule, &payload))
}

/// The same by rules only that name the protocol: `peers` and `node:ID` alone, which stand for everything, do not count.
#[must_use]
pub fn allows_by_name(rules: &[Rule], node: NodeId, owner: Option<OwnerId>, asked: Asked) -> bool {
    let payload = asked.first_packet();
    let by_name = |rule: &&Rule| !matches!(rule.what, What::Everything);
    rules.iter().filter(by_name).any(|rule| names(rule, node, owner) && lets_in(rule, &payload))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;

    #[test]
    fn the_rules_are_asked() {
        let (node, owner) = (NodeId::from_bytes([7; 32]), OwnerId::from_bytes([8; 32]));
        let check = |rule: &str, asked: Asked, expect: bool, by_name: bool| {
            let rules = [rule.parse::<Rule>().unwrap()];
            assert_eq!(allows(&rules, node, Some(owner), asked), expect, "{rule:?} {asked:?}");
            assert_eq!(allows_by_name(&rules, node, Some(owner), asked), by_name, "{rule:?} {asked:?}");
        };
        check("peers", Asked::Tcp(22), true, false);
        check("peers tcp", Asked::Tcp(22), true, true);
        check("peers tcp/20-30", Asked::Tcp(22), true, true);
        check("peers tcp/20-30", Asked::Tcp(31), false, false);
        check("peers tcp/22", Asked::Udp(22), false, false);
        check("peers udp/22", Asked::Udp(22), true, true);
        check("peers icmp", Asked::Icmp, true, true);
        check("peers icmp", Asked::Tcp(1), false, false);
        check(&format!("node:{node} tcp/22"), Asked::Tcp(22), true, true);
        check(&format!("owner:{owner} tcp/22"), Asked::Tcp(22), true, true);
        check(&format!("owner:{owner}"), Asked::Tcp(22), true, false);
        let other = NodeId::from_bytes([9; 32]);
        check(&format!("node:{other} tcp/22"), Asked::Tcp(22), false, false);
    }

    #[test]
    fn whose_a_node_is_must_be_proven() {
        let (node, owner) = (NodeId::from_bytes([7; 32]), OwnerId::from_bytes([8; 32]));
        let rules = [format!("owner:{owner} tcp/22").parse::<Rule>().unwrap()];
        assert!(!allows(&rules, node, None, Asked::Tcp(22)));
        assert!(!allows(&rules, node, Some(OwnerId::from_bytes([9; 32])), Asked::Tcp(22)));
        assert!(!allows(&[], node, Some(owner), Asked::Tcp(22)));
    }
}
