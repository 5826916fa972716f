//! What the rules say about a conversation that comes otherwise than in packets: over a stream that a peer opened, say.
//!
//! It is the filter's own judgement of the first packet, so that there is one answer to "may this peer reach that port", whatever carries it.

use atoll_ids::{NodeId, OwnerId};
use jiff::Timestamp;

use crate::rule::{Direction, Policy, RULES_MAX, What};
use crate::spans::Topic;

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

impl From<Asked> for Topic {
    fn from(asked: Asked) -> Self {
        match asked {
            Asked::Tcp(port) => Self::Tcp(port),
            Asked::Udp(port) => Self::Udp(port),
            Asked::Icmp => Self::Echo,
        }
    }
}

/// Whether a rule that holds `now` lets `node`, which is `owner`'s as far as that was proven, begin this.
#[must_use]
pub fn allows(policy: &Policy, now: Timestamp, node: NodeId, owner: Option<OwnerId>, asked: Asked) -> bool {
    allowed(policy, now, node, owner, |what| what.covers(asked.into()))
}

/// The same by rules only that name the protocol: `peers` and `node:ID` alone, which stand for everything, do not count.
#[must_use]
pub fn allows_by_name(policy: &Policy, now: Timestamp, node: NodeId, owner: Option<OwnerId>, asked: Asked) -> bool {
    let by_name = |what: What| !matches!(what, What::Everything) && what.covers(asked.into());
    allowed(policy, now, node, owner, by_name)
}

fn allowed(
    policy: &Policy,
    now: Timestamp,
    node: NodeId,
    owner: Option<OwnerId>,
    covers: impl Fn(What) -> bool,
) -> bool {
    policy.rules.iter().take(RULES_MAX).any(|rule| {
        let holds = rule.direction == Direction::In && rule.until.is_none_or(|until| now < until);
        holds && covers(rule.what) && policy.concerns(&rule.who, node, owner, true)
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;

    #[test]
    fn the_rules_are_asked() {
        let (node, owner) = (NodeId::from_bytes([7; 32]), OwnerId::from_bytes([8; 32]));
        let check = |rule: &str, asked: Asked, expect: bool, by_name: bool| {
            let (rules, now) = (Policy::from(vec![rule.parse().unwrap()]), Timestamp::UNIX_EPOCH);
            assert_eq!(allows(&rules, now, node, Some(owner), asked), expect, "{rule:?} {asked:?}");
            assert_eq!(allows_by_name(&rules, now, node, Some(owner), asked), by_name, "{rule:?} {asked:?}");
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
        let rules = Policy::from(vec![format!("owner:{owner} tcp/22").parse().unwrap()]);
        let now = Timestamp::UNIX_EPOCH;
        assert!(!allows(&rules, now, node, None, Asked::Tcp(22)));
        assert!(!allows(&rules, now, node, Some(OwnerId::from_bytes([9; 32])), Asked::Tcp(22)));
        assert!(!allows(&Policy::default(), now, node, Some(owner), Asked::Tcp(22)));
    }

    #[test]
    fn a_rule_that_is_over_or_about_the_other_direction_lets_nobody_in() {
        let node = NodeId::from_bytes([7; 32]);
        let until: Timestamp = "2026-12-31T00:00:00Z".parse().unwrap();
        let check = |rule: &str, now: Timestamp, expect: bool| {
            let policy = Policy::from(vec![rule.parse().unwrap()]);
            assert_eq!(allows(&policy, now, node, None, Asked::Tcp(22)), expect, "{rule} at {now}");
        };
        let before = until - jiff::SignedDuration::from_secs(1);
        check("peers tcp/22 until 2026-12-31T00:00Z", before, true);
        check("peers tcp/22 until 2026-12-31T00:00Z", until, false);
        check("to peers tcp/22", before, false);
    }
}
