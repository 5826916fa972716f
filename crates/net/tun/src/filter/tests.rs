//! The filter, by tables and by properties: nothing unsolicited passes, answers do.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::time::Duration;

use proptest::prelude::{Strategy, any, prop_oneof, proptest};
use proptest::{collection, prop_assert, prop_assert_eq};

use super::*;
use crate::craft::{Craft, SYN};
use crate::packet::number;
use crate::routes::{Place, Prefix};

const ACK: u8 = 0x10;
const RST: u8 = 0x04;

fn node(number: u8) -> NodeId {
    NodeId::from_bytes([number; 32])
}

fn address(number: u8) -> Ipv6Addr {
    node(number).planetary_address().ip()
}

fn owner() -> OwnerId {
    OwnerId::from_bytes([77; 32])
}

/// Node 1, who knows nodes 2 (of the owner) and 3 (of nobody).
fn filter(rules: &[&str]) -> Filter {
    let rules: Vec<Rule> = rules.iter().map(|rule| rule.parse().unwrap()).collect();
    let mut filter = Filter::new(node(1).planetary_address(), rules);
    filter.set_peers([PeerEntry { node: node(2), owner: Some(owner()) }, PeerEntry { node: node(3), owner: None }]);
    filter.set_underlay_ports(vec![5771]);
    filter
}

fn out() -> Craft {
    Craft::between(address(1), address(2))
}

/// Node 1, who knows node 2 as a peer and has met node 3, of the owner, and node 4, of nobody.
fn among_strangers(rules: &[&str]) -> Filter {
    let mut filter = filter(rules);
    let entry = |number, owner| PeerEntry { node: node(number), owner };
    filter.set_society([entry(2, None)], [entry(3, Some(owner())), entry(4, None), entry(2, Some(owner()))]);
    filter
}

#[test]
fn an_acquaintance_gets_what_rules_grant_it_and_no_more() {
    let now = Instant::now();
    let check = |rule: &str, expect: [bool; 3]| {
        let mut filter = among_strangers(&[rule]);
        for (number, expect) in (2..).zip(expect) {
            let ping = Craft::between(address(number), address(1)).echo_request(1);
            assert_eq!(filter.inbound(now, node(number), &ping).is_ok(), expect, "{rule}: node {number}");
        }
    };
    check("to peers icmp", [false; 3]);
    check("peers icmp", [true, false, false]);
    check("peers", [true, false, false]);
    check("anyone icmp", [true; 3]);
    check("anyone tcp", [false; 3]);
    check(&format!("owner:{} icmp", owner()), [false, true, false]);
    check(&format!("node:{} icmp", node(4)), [false, false, true]);
}

#[test]
fn an_acquaintance_answers_and_becomes_a_peer_in_the_middle_of_it() {
    let now = Instant::now();
    let mut filter = among_strangers(&["peers tcp/22"]);
    let (out, back) = (Craft::between(address(1), address(4)), Craft::between(address(4), address(1)));
    assert_eq!(filter.outbound(now, &out.tcp(40_000, 80, SYN)), Ok(node(4)));
    assert_eq!(filter.inbound(now, node(4), &back.tcp(80, 40_000, SYN | ACK)), Ok(()));
    assert_eq!(filter.inbound(now, node(4), &back.tcp(40_000, 22, SYN)), Err(Reason::Unsolicited));
    let entry = |number| PeerEntry { node: node(number), owner: None };
    filter.set_society([entry(4)], []);
    assert_eq!(filter.inbound(now, node(4), &back.tcp(80, 40_000, ACK)), Ok(()));
    assert_eq!(filter.inbound(now, node(4), &back.tcp(40_000, 22, SYN)), Ok(()));
    filter.set_society([], [entry(4)]);
    assert_eq!(filter.inbound(now, node(4), &back.tcp(40_001, 22, SYN)), Err(Reason::Unsolicited));
    filter.set_society([], []);
    assert_eq!(filter.inbound(now, node(4), &back.tcp(80, 40_000, ACK)), Err(Reason::Stranger));
}

#[test]
fn without_rules_only_answers_come_in() {
    let now = Instant::now();
    let (out, back) = (out(), out().back());
    let conversations = [
        (out.tcp(4000, 80, SYN), back.tcp(80, 4000, SYN | ACK)),
        (out.udp(4000, 53), back.udp(53, 4000)),
        (out.echo_request(5), back.echo_reply(5)),
    ];
    for (question, answer) in &conversations {
        let mut filter = filter(&[]);
        assert_eq!(filter.inbound(now, node(2), answer), Err(Reason::Unsolicited));
        assert_eq!(filter.outbound(now, question), Ok(node(2)));
        assert_eq!(filter.inbound(now, node(2), answer), Ok(()));
        // Not from another, whatever it claims.
        assert_eq!(filter.inbound(now, node(3), answer), Err(Reason::Spoofed));
    }
}

#[test]
fn an_answer_fits_its_question() {
    let now = Instant::now();
    let mut filter = filter(&[]);
    filter.outbound(now, &out().tcp(4000, 80, SYN)).unwrap();
    filter.outbound(now, &out().echo_request(5)).unwrap();
    let mut check = |answer: Vec<u8>| assert_eq!(filter.inbound(now, node(2), &answer), Err(Reason::Unsolicited));
    check(out().back().tcp(81, 4000, ACK));
    check(out().back().tcp(80, 4001, ACK));
    check(out().back().udp(80, 4000));
    check(out().back().echo_reply(6));
    check(out().back().echo_request(5));
    // Opening is no answer.
    check(out().back().tcp(80, 4000, SYN));
}

#[test]
fn saying_no_lets_nothing_in() {
    let now = Instant::now();
    let mut filter = filter(&[]);
    filter.outbound(now, &out().tcp(22, 4000, RST | ACK)).unwrap();
    assert_eq!(filter.inbound(now, node(2), &out().back().tcp(4000, 22, ACK)), Err(Reason::Unsolicited));
}

#[test]
fn rules_let_in_what_they_name() {
    let owner_rule = format!("owner:{} tcp/443", owner());
    let node_rule = format!("node:{} udp/5000-6000", node(3));
    let all_of_one = format!("node:{}", node(2));
    #[track_caller]
    fn check(rule: &str, from: u8, packet: impl Fn(Craft) -> Vec<u8>, passes: bool) {
        let packet = packet(Craft::between(address(from), address(1)));
        let outcome = filter(&[rule]).inbound(Instant::now(), node(from), &packet);
        assert_eq!(outcome, if passes { Ok(()) } else { Err(Reason::Unsolicited) }, "{rule}");
    }
    check("peers icmp", 2, |craft| craft.echo_request(1), true);
    check("peers icmp", 2, |craft| craft.tcp(1, 22, SYN), false);
    check(&owner_rule, 2, |craft| craft.tcp(1, 443, SYN), true);
    check(&owner_rule, 2, |craft| craft.tcp(1, 444, SYN), false);
    check(&owner_rule, 2, |craft| craft.udp(1, 443), false);
    check(&owner_rule, 3, |craft| craft.tcp(1, 443, SYN), false);
    check(&node_rule, 3, |craft| craft.udp(1, 5500), true);
    check(&node_rule, 2, |craft| craft.udp(1, 5500), false);
    check(&all_of_one, 2, |craft| craft.tcp(1, 22, SYN), true);
    check(&all_of_one, 2, |craft| craft.raw(132, &[0; 12]), true);
    // Neighbour discovery, router advertisements and redirects never.
    for kind in [133, 134, 135, 136, 137, 143] {
        check(&all_of_one, 2, |craft| craft.icmp(kind), false);
    }
    check("peers", 3, |craft| craft.tcp(1, 22, SYN), true);
}

#[test]
fn nobody_speaks_for_another() {
    let now = Instant::now();
    let mut filter = filter(&["peers"]);
    let packet = Craft::between(address(3), address(1)).echo_request(1);
    assert_eq!(filter.inbound(now, node(2), &packet), Err(Reason::Spoofed));
    assert_eq!(filter.inbound(now, node(9), &packet), Err(Reason::Stranger));
    let own = Craft::between(address(1), address(1)).echo_request(1);
    assert_eq!(filter.inbound(now, node(2), &own), Err(Reason::Spoofed));
    let elsewhere = Craft::between(address(2), address(3)).echo_request(1);
    assert_eq!(filter.inbound(now, node(2), &elsewhere), Err(Reason::NotHere));
    let everybody = Craft::between(address(2), "ff02::1".parse().unwrap()).echo_request(1);
    assert_eq!(filter.inbound(now, node(2), &everybody), Err(Reason::NotHere));
    assert_eq!(filter.inbound(now, node(2), b"rubbish"), Err(Reason::Malformed));
}

#[test]
fn errors_come_in_about_what_we_said() {
    let now = Instant::now();
    let mut filter = filter(&[]);
    let (said, unsaid) = (out().udp(4000, 53), out().udp(4000, 54));
    filter.outbound(now, &said).unwrap();
    let back = out().back();
    assert_eq!(filter.inbound(now, node(2), &back.error_about(1, &said)), Ok(()));
    // A quotation may be cut.
    assert_eq!(filter.inbound(now, node(2), &back.error_about(2, &said[..44])), Ok(()));
    assert_eq!(filter.inbound(now, node(2), &back.error_about(1, &unsaid)), Err(Reason::Unsolicited));
    assert_eq!(filter.inbound(now, node(2), &back.error_about(1, &said[..30])), Err(Reason::Malformed));
    // Node 3 has nothing to say about what we said to node 2.
    let other = Craft::between(address(3), address(1)).error_about(1, &said);
    assert_eq!(filter.inbound(now, node(3), &other), Err(Reason::Unsolicited));
}

#[test]
fn fragments_follow_the_first() {
    let now = Instant::now();
    let mut filter = filter(&["peers udp/53"]);
    let from = Craft::between(address(2), address(1));
    let first = |port: u8| from.raw(number::FRAGMENT, &[17, 0, 0, 1, 0, 0, 0, port, 9, 9, 0, port, 0, 8, 0, 0]);
    let rest = |id: u8| from.raw(number::FRAGMENT, &[17, 0, 0, 8, 0, 0, 0, id, 1, 2, 3]);
    assert_eq!(filter.inbound(now, node(2), &rest(53)), Err(Reason::Unsolicited));
    assert_eq!(filter.inbound(now, node(2), &first(53)), Ok(()));
    assert_eq!(filter.inbound(now, node(2), &rest(53)), Ok(()));
    assert_eq!(filter.inbound(now + crate::fragments::WITHIN, node(2), &rest(53)), Err(Reason::Unsolicited));
    assert_eq!(filter.inbound(now, node(2), &first(54)), Err(Reason::Unsolicited));
    assert_eq!(filter.inbound(now, node(2), &rest(54)), Err(Reason::Unsolicited));
}

#[test]
fn what_goes_out_has_our_address_and_a_destination() {
    let now = Instant::now();
    let mut filter = filter(&[]);
    #[track_caller]
    fn check(filter: &mut Filter, now: Instant, packet: &[u8], expect: Result<NodeId, Reason>) {
        assert_eq!(filter.outbound(now, packet), expect);
    }
    check(&mut filter, now, &out().udp(1, 2), Ok(node(2)));
    check(&mut filter, now, &Craft::between(address(3), address(2)).udp(1, 2), Err(Reason::ForeignSource));
    check(&mut filter, now, &Craft::between(address(1), address(9)).udp(1, 2), Err(Reason::Nowhere));
    check(&mut filter, now, &Craft::between(address(1), "ff02::2".parse().unwrap()).icmp(133), Err(Reason::Multicast));
    check(
        &mut filter,
        now,
        &Craft::between(address(1), "2001:db8::1".parse().unwrap()).udp(1, 2),
        Err(Reason::Nowhere),
    );
    // A connection that carries packets does not run through itself.
    check(&mut filter, now, &out().udp(5771, 5771), Err(Reason::Underlay));
    let incoming = Craft::between(address(2), address(1)).udp(9, 5771);
    filter.set_rules(vec!["peers".parse().unwrap()]);
    assert_eq!(filter.inbound(now, node(2), &incoming), Err(Reason::Underlay));
}

#[test]
fn pod_networks_keep_to_themselves() {
    let now = Instant::now();
    let mut filter = filter(&["peers"]);
    let mut place = |prefix: &str, place| filter.routes.set(prefix.parse::<Prefix>().unwrap(), place).unwrap();
    place("fd00:1:1:1::/64", Place::Here);
    place("fd00:1:1:2::/64", Place::At(node(2)));
    place("fd00:2:2:1::/64", Place::Here);
    place("fd00:2:2:3::/64", Place::At(node(3)));
    let craft = |from: &str, to: &str| Craft::between(from.parse().unwrap(), to.parse().unwrap()).udp(1, 2);
    assert_eq!(filter.outbound(now, &craft("fd00:1:1:1::a", "fd00:1:1:2::b")), Ok(node(2)));
    assert_eq!(filter.inbound(now, node(2), &craft("fd00:1:1:2::b", "fd00:1:1:1::a")), Ok(()));
    // Another node's prefix, another network, a network that reaches for the node, a node that reaches for a network.
    assert_eq!(filter.inbound(now, node(3), &craft("fd00:1:1:2::b", "fd00:1:1:1::a")), Err(Reason::Spoofed));
    assert_eq!(filter.inbound(now, node(3), &craft("fd00:2:2:3::b", "fd00:1:1:1::a")), Err(Reason::Spoofed));
    assert_eq!(filter.outbound(now, &craft("fd00:1:1:1::a", "fd00:2:2:3::b")), Err(Reason::ForeignSource));
    let own = address(1).to_string();
    assert_eq!(filter.inbound(now, node(2), &craft("fd00:1:1:2::b", &own)), Err(Reason::Spoofed));
    assert_eq!(filter.inbound(now, node(2), &craft(&address(2).to_string(), "fd00:1:1:1::a")), Err(Reason::Spoofed));
    assert_eq!(filter.outbound(now, &craft("fd00:1:1:1::a", &address(2).to_string())), Err(Reason::ForeignSource));
    assert_eq!(filter.outbound(now, &craft("fd00:1:1:1::a", "fd00:1:1:9::b")), Err(Reason::Nowhere));
}

#[derive(Debug, Clone)]
enum Step {
    /// We ask: kind, our port, their port.
    Ask(u8, u8, u8),
    /// They send the like.
    Send(u8, u8, u8),
    Wait(u16),
}

fn packet(craft: Craft, kind: u8, from: u8, to: u8, answer: bool) -> Vec<u8> {
    let (from, to) = (u16::from(from % 4), u16::from(to % 4));
    match kind % 3 {
        0 => craft.tcp(from, to, if answer { ACK } else { SYN }),
        1 => craft.udp(from, to),
        _ if answer => craft.echo_reply(to),
        _ => craft.echo_request(from),
    }
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let ports = || (any::<u8>(), any::<u8>(), any::<u8>());
    let step = prop_oneof![
        ports().prop_map(|(kind, ours, theirs)| Step::Ask(kind, ours, theirs)),
        ports().prop_map(|(kind, ours, theirs)| Step::Send(kind, ours, theirs)),
        (0u16..200).prop_map(Step::Wait),
    ];
    collection::vec(step, 0..60)
}

proptest! {
    /// Whatever was said before: what comes in was asked for within the longest time that an answer may take, and what was asked within the shortest comes in.
    #[test]
    fn answers_come_in_and_nothing_else(steps in steps()) {
        let mut filter = filter(&[]);
        let mut now = Instant::now();
        let mut asked: HashMap<(u8, u8, u8), Instant> = HashMap::new();
        for step in steps {
            match step {
                Step::Ask(kind, ours, theirs) => {
                    prop_assert_eq!(filter.outbound(now, &packet(out(), kind, ours, theirs, false)), Ok(node(2)));
                    let theirs = if kind % 3 == 2 { 0 } else { theirs % 4 };
                    asked.insert((kind % 3, ours % 4, theirs), now);
                }
                Step::Send(kind, ours, theirs) => {
                    let passed = filter.inbound(now, node(2), &packet(out().back(), kind, theirs, ours, true)).is_ok();
                    let theirs = if kind % 3 == 2 { 0 } else { theirs % 4 };
                    let at = asked.get(&(kind % 3, ours % 4, theirs));
                    prop_assert!(!passed || at.is_some());
                    prop_assert!(passed || at.is_none_or(|at| now.duration_since(*at) >= Duration::from_secs(60)));
                }
                Step::Wait(seconds) => now += Duration::from_secs(seconds.into()),
            }
        }
    }

    /// No bytes of anybody get in where nothing was said and nothing is allowed.
    #[test]
    fn nothing_unsolicited_comes_in(from in 1u8..6, mut bytes in collection::vec(any::<u8>(), 40..120), next: u8) {
        let length = u16::try_from(bytes.len() - 40).unwrap();
        bytes[0] = 0x60;
        bytes[4..6].copy_from_slice(&length.to_be_bytes());
        bytes[6] = [number::TCP, number::UDP, number::ICMP, number::FRAGMENT, number::HOP_BY_HOP, next][usize::from(next) % 6];
        bytes[8..24].copy_from_slice(&address(from).octets());
        bytes[24..40].copy_from_slice(&address(1).octets());
        prop_assert!(filter(&[]).inbound(Instant::now(), node(from), &bytes).is_err());
    }
}

/// After a restart of the node, while programs' sockets live on.
#[test]
fn what_stands_from_before_is_answered_once_more() {
    let now = Instant::now();
    let (out, back) = (out(), out().back());
    let standing = || {
        let hex = |address: Ipv6Addr| {
            let words = address.octets();
            let words = words.chunks(4).map(|word| u32::from_ne_bytes(word.try_into().unwrap()));
            words.map(|word| format!("{word:08X}")).collect::<String>()
        };
        let list = format!("head\n 0: {}:9C40 {}:0050 01 rest\n", hex(address(1)), hex(address(2)));
        crate::standing::Standing::read(address(1), &list, now)
    };
    for (what, packet, expected) in [
        ("what it says", back.tcp(80, 40_000, ACK), Ok(())),
        ("another port", back.tcp(80, 40_001, ACK), Err(Reason::Unsolicited)),
        ("a beginning", back.tcp(80, 40_000, SYN), Err(Reason::Unsolicited)),
        ("a reset", back.tcp(80, 40_000, RST), Err(Reason::Unsolicited)),
        ("no TCP", back.udp(80, 40_000), Err(Reason::Unsolicited)),
    ] {
        let mut filter = filter(&[]);
        filter.set_standing(standing());
        assert_eq!(filter.inbound(now, node(2), &packet), expected, "{what}");
        assert_eq!(filter.flows(), usize::from(expected.is_ok()), "{what}");
    }
    // It ends as all do, and does not stand again.
    let mut filter = filter(&[]);
    filter.set_standing(standing());
    filter.inbound(now, node(2), &back.tcp(80, 40_000, ACK)).unwrap();
    filter.outbound(now, &out.tcp(40_000, 80, RST)).unwrap();
    let later = now + Duration::from_secs(600);
    filter.sweep(later);
    assert_eq!(filter.inbound(later, node(2), &back.tcp(80, 40_000, ACK)), Err(Reason::Unsolicited));
    // Where only what is listed goes out, it has to be listed.
    let mut filter = Filter::new(node(1).planetary_address(), Policy { out: crate::Out::Listed, ..Policy::default() });
    filter.set_peers([PeerEntry { node: node(2), owner: None }]);
    filter.set_standing(standing());
    assert_eq!(filter.inbound(now, node(2), &back.tcp(80, 40_000, ACK)), Err(Reason::Unsolicited));
}
