//! What comes from other nodes for the planetary interface: packets, and announcements on the local network; and the texts of rules and prefixes.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::time::Instant;

use atoll_fuzz::fuzz;
use atoll_ids::NodeId;
use atoll_link::decode_announcement;
use atoll_tun::{Filter, Group, PeerEntry, Prefix, Rule, parse};

fn node(number: u8) -> NodeId {
    NodeId::from_bytes([number; 32])
}

/// A UDP packet from node 2 to node 1.
fn packet() -> Vec<u8> {
    let addresses = [node(2), node(1)].map(|node| node.planetary_address().ip().octets());
    [&[0x60, 0, 0, 0, 0, 12, 17, 64][..], &addresses.concat(), &[0x10, 0, 0, 53, 0, 12, 0, 0, 1, 2, 3, 4]].concat()
}

#[test]
fn packets_without_a_rule() {
    assert!(parse(&packet()).is_ok());
    fuzz!(30_000, vec![packet()], |bytes: &[u8]| {
        assert!(filter_passes(bytes).is_err(), "nothing was asked for and nothing is allowed");
    });
}

fn filter_passes(bytes: &[u8]) -> Result<(), atoll_tun::Reason> {
    let mut filter = Filter::new(node(1).planetary_address(), Vec::new());
    filter.set_peers([PeerEntry { node: node(2), owner: None }]);
    filter.inbound(Instant::now(), node(2), bytes)
}

#[test]
fn announcements() {
    fuzz!(20_000, vec![[&b"atoll-lan"[..], &[1, 0]].concat()], |bytes: &[u8]| {
        assert!(decode_announcement(bytes).is_err(), "nobody signed this");
    });
}

#[test]
fn rules_and_prefixes() {
    let rules = ["peers icmp", "peers tcp/1-65535", "to group:a udp until 2026-12-31T00:00:00Z # why"];
    let valid = rules.into_iter().chain(["fd00:1:2:3::/64"]).map(|text| text.as_bytes().to_vec());
    fuzz!(30_000, valid.collect(), |bytes: &[u8]| {
        let text = String::from_utf8_lossy(bytes);
        if let Ok(rule) = text.parse::<Rule>() {
            assert_eq!(rule.to_string().parse::<Rule>(), Ok(rule));
        }
        let _: Result<Group, _> = text.parse();
        if let Ok(prefix) = text.parse::<Prefix>() {
            assert_eq!(prefix.to_string().parse::<Prefix>(), Ok(prefix));
        }
    });
}
