//! What somebody may try, and what happens to what was allowed once it is not any more.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::time::Duration;

use proptest::prelude::{Strategy, any, prop_oneof, proptest};
use proptest::{collection, prop_assert, prop_assert_eq};

use super::*;
use crate::craft::{Craft, SYN};
use crate::flow::{FLOWS_MAX, FLOWS_PER_REMOTE_MAX};
use crate::packet::number;
use crate::rule::{Group, Out};

const ACK: u8 = 0x10;
const RST: u8 = 0x04;
const FIN: u8 = 0x01;

fn node(number: u8) -> NodeId {
    NodeId::from_bytes([number; 32])
}

fn address(number: u8) -> Ipv6Addr {
    node(number).planetary_address().ip()
}

fn rules(texts: &[&str]) -> Vec<Rule> {
    texts.iter().map(|rule| rule.parse().unwrap()).collect()
}

/// Node 1, who knows nodes 2 to 9.
fn filter(texts: &[&str]) -> Filter {
    let mut filter = Filter::new(node(1).planetary_address(), rules(texts));
    filter.set_peers((2..10).map(|number| PeerEntry { node: node(number), owner: None }));
    filter
}

/// From node 2 to us; its [`Craft::back`] is what we say to it.
fn from_two() -> Craft {
    Craft::between(address(2), address(1))
}

fn hears(filter: &mut Filter, now: Instant, packet: &[u8]) -> Result<(), Reason> {
    filter.inbound(now, node(2), packet)
}

const UNSOLICITED: Result<(), Reason> = Err(Reason::Unsolicited);
const REVOKED: Result<(), Reason> = Err(Reason::Revoked);

#[test]
fn answers_to_nothing_stay_out() {
    let (now, mut filter) = (Instant::now(), filter(&["peers tcp/443"]));
    let two = from_two();
    for packet in [
        two.tcp(443, 40_000, SYN | ACK),
        two.tcp(443, 40_000, ACK),
        two.tcp(443, 40_000, RST),
        two.tcp(443, 40_000, FIN | ACK),
        two.udp(53, 40_000),
        two.echo_reply(1),
        two.error_about(1, &two.back().udp(40_000, 53)),
        two.error_about(3, &two.back().tcp(443, 40_000, ACK)),
        two.error_about(2, &two.back().echo_request(1)),
    ] {
        assert_eq!(hears(&mut filter, now, &packet), UNSOLICITED);
    }
    assert_eq!(filter.flows(), 0);
}

#[test]
fn a_replayed_syn_opens_nothing_and_ends_nothing() {
    let (now, mut filter) = (Instant::now(), filter(&[]));
    let (two, us) = (from_two(), from_two().back());
    filter.outbound(now, &us.tcp(40_000, 443, SYN)).unwrap();
    assert_eq!(hears(&mut filter, now, &two.tcp(443, 40_000, SYN | ACK)), Ok(()));
    for _ in 0..1000 {
        assert_eq!(hears(&mut filter, now, &two.tcp(443, 40_000, SYN)), UNSOLICITED);
    }
    // An hour later, as before: it was not taken for a new beginning.
    let later = now + Duration::from_secs(3600);
    assert_eq!(hears(&mut filter, later, &two.tcp(443, 40_000, ACK)), Ok(()));

    // One that was let in once is not let in again after its rule is gone, nor makes it what went on in between something else.
    filter.set_policy(rules(&["peers tcp/22"]));
    let syn = two.tcp(50_000, 22, SYN);
    assert_eq!(hears(&mut filter, later, &syn), Ok(()));
    filter.set_policy(rules(&[]));
    assert_eq!(hears(&mut filter, later, &syn), UNSOLICITED);
    assert_eq!(filter.flows(), 2);
}

#[test]
fn errors_are_about_what_was_said_to_that_peer() {
    let (now, mut filter) = (Instant::now(), filter(&["peers tcp/22"]));
    let (two, us) = (from_two(), from_two().back());
    let said = us.udp(40_000, 53);
    filter.outbound(now, &said).unwrap();
    assert_eq!(hears(&mut filter, now, &two.error_about(2, &said)), Ok(()));
    // By another, about the same; about the same ports in the other direction; about what we said to another.
    let three = Craft::between(address(3), address(1));
    assert_eq!(filter.inbound(now, node(3), &three.error_about(2, &said)), UNSOLICITED);
    assert_eq!(hears(&mut filter, now, &two.error_about(2, &two.udp(53, 40_000))), UNSOLICITED);
    let other = three.back().udp(40_000, 53);
    filter.outbound(now, &other).unwrap();
    assert_eq!(hears(&mut filter, now, &two.error_about(2, &other)), UNSOLICITED);
    // An error about an error, and one whose quotation makes no sense.
    assert_eq!(hears(&mut filter, now, &two.error_about(1, &two.error_about(1, &said))), UNSOLICITED);
    assert_eq!(hears(&mut filter, now, &two.error_about(1, &[0; 48])), Err(Reason::Malformed));
    // About our answers, as long as they may be given: a path's MTU is told this way.
    assert_eq!(hears(&mut filter, now, &two.tcp(50_000, 22, SYN)), Ok(()));
    let answer = us.tcp(22, 50_000, SYN | ACK);
    filter.outbound(now, &answer).unwrap();
    assert_eq!(hears(&mut filter, now, &two.error_about(2, &answer)), Ok(()));
    filter.set_policy(rules(&[]));
    assert_eq!(hears(&mut filter, now, &two.error_about(2, &answer)), UNSOLICITED);
}

/// A piece of a UDP packet: where it begins in units of eight bytes, whether more follow, its content.
fn piece(craft: Craft, id: u8, at: u16, more: bool, content: &[u8]) -> Vec<u8> {
    let place = (at << 3 | u16::from(more)).to_be_bytes();
    craft.raw(number::FRAGMENT, &[&[17, 0, place[0], place[1], 0, 0, 0, id], content].concat())
}

fn ports(from: u16, to: u16) -> Vec<u8> {
    [&from.to_be_bytes()[..], &to.to_be_bytes(), &[0, 40, 0, 0], &[0; 24]].concat()
}

#[test]
fn pieces_do_not_overtake_or_overlap() {
    let (now, mut filter) = (Instant::now(), filter(&["peers udp/53"]));
    let two = from_two();
    let first = piece(two, 1, 0, true, &ports(9, 53));
    // Before the first, which begins at 0 and has 32 bytes.
    assert_eq!(hears(&mut filter, now, &piece(two, 1, 4, false, &[0; 8])), UNSOLICITED);
    assert_eq!(hears(&mut filter, now, &first), Ok(()));
    assert_eq!(hears(&mut filter, now, &piece(two, 1, 4, false, &[0; 8])), Ok(()));
    // Over its ports, or over its end.
    for at in 1..4 {
        assert_eq!(hears(&mut filter, now, &piece(two, 1, at, true, &[0; 64])), Err(Reason::Overlapping));
    }
    // Again from the beginning, with ports that are not allowed.
    assert_eq!(hears(&mut filter, now, &piece(two, 1, 0, true, &ports(9, 54))), UNSOLICITED);
    // Of a packet whose first piece did not pass, and of another peer's packet of the same number.
    assert_eq!(hears(&mut filter, now, &piece(two, 2, 0, true, &ports(9, 54))), UNSOLICITED);
    assert_eq!(hears(&mut filter, now, &piece(two, 2, 4, false, &[0; 8])), UNSOLICITED);
    let three = Craft::between(address(3), address(1));
    assert_eq!(filter.inbound(now, node(3), &piece(three, 1, 4, false, &[0; 8])), UNSOLICITED);
    assert_eq!(filter.inbound(now, node(3), &piece(two, 1, 4, false, &[0; 8])), Err(Reason::Spoofed));
    // Half of the ports' header in the first piece.
    assert_eq!(hears(&mut filter, now, &piece(two, 3, 0, true, &[0, 9, 0, 53])), Err(Reason::Malformed));
}

#[test]
fn pieces_of_one_do_not_take_the_room_of_others() {
    let (now, mut filter) = (Instant::now(), filter(&["peers udp/53"]));
    for id in 0..=255 {
        assert_eq!(hears(&mut filter, now, &piece(from_two(), id, 0, true, &ports(9, 53))), Ok(()));
    }
    assert_eq!(hears(&mut filter, now, &piece(from_two(), 255, 4, false, &[0; 8])), UNSOLICITED, "it has too many");
    let three = Craft::between(address(3), address(1));
    assert_eq!(filter.inbound(now, node(3), &piece(three, 1, 0, true, &ports(9, 53))), Ok(()));
    assert_eq!(filter.inbound(now, node(3), &piece(three, 1, 4, false, &[0; 8])), Ok(()));
}

#[test]
fn extension_headers_hide_nothing() {
    let now = Instant::now();
    let two = from_two();
    let udp = |to: u16| [&9u16.to_be_bytes()[..], &to.to_be_bytes(), &[0, 8, 0, 0]].concat();
    // Headers of eight bytes: what follows, length, padding.
    let options = |next: u8| vec![next, 0, 1, 4, 0, 0, 0, 0];
    let fragment = |next: u8| vec![next, 0, 0, 0, 0, 0, 0, 1];
    #[track_caller]
    fn check(now: Instant, packet: &[u8], expect: Result<(), Reason>) {
        assert_eq!(hears(&mut filter(&["peers udp/53"]), now, packet), expect);
    }
    // Behind any of them the ports are found, allowed or not.
    for (to, expect) in [(53, Ok(())), (54, UNSOLICITED)] {
        check(now, &two.raw(number::HOP_BY_HOP, &[options(17), udp(to)].concat()), expect);
        check(
            now,
            &two.raw(number::DESTINATION, &[options(number::DESTINATION), options(17), udp(to)].concat()),
            expect,
        );
        check(now, &two.raw(number::FRAGMENT, &[fragment(number::DESTINATION), options(17), udp(to)].concat()), expect);
    }
    // A source route, an unending row, a fragment in a fragment, a header that ends outside, options where ports would have to be.
    check(now, &two.raw(number::ROUTING, &[options(17), udp(53)].concat()), Err(Reason::Malformed));
    check(
        now,
        &two.raw(number::DESTINATION, &[options(number::DESTINATION).repeat(9), udp(53)].concat()),
        Err(Reason::Malformed),
    );
    check(
        now,
        &two.raw(number::FRAGMENT, &[fragment(number::FRAGMENT), fragment(17), udp(53)].concat()),
        Err(Reason::Malformed),
    );
    check(now, &two.raw(number::DESTINATION, &[17, 255, 0, 0, 0, 0, 0, 0]), Err(Reason::Malformed));
    check(now, &two.raw(number::DESTINATION, &options(17)), Err(Reason::Malformed));
    // The row of headers goes on in the next piece: what it leads to cannot be told.
    let more = [number::DESTINATION, 0, 0, 1, 0, 0, 0, 1];
    check(now, &two.raw(number::FRAGMENT, &[&more[..], &[17, 3, 0, 0, 0, 0, 0, 0]].concat()), Err(Reason::Malformed));
    // No next header, and protocols without ports, are not what the rule names.
    for protocol in [59, 50, 51, 132, 135, 255] {
        check(now, &two.raw(protocol, &udp(53)), UNSOLICITED);
    }
}

#[test]
fn a_flood_from_one_leaves_the_others_alone() {
    let (now, mut filter) = (Instant::now(), filter(&["peers udp/9000"]));
    for peer in 3..10 {
        let us = Craft::between(address(1), address(peer));
        for port in 0..200 {
            filter.outbound(now, &us.tcp(40_000 + port, 443, SYN)).unwrap();
        }
    }
    // With the answers that our programs give.
    for port in 0..=u16::MAX {
        assert_eq!(hears(&mut filter, now, &from_two().udp(port, 9000)), Ok(()));
        filter.outbound(now, &from_two().back().udp(9000, port)).unwrap();
    }
    assert_eq!(filter.flows(), 7 * 200 + FLOWS_PER_REMOTE_MAX);
    for peer in 3..10 {
        let them = Craft::between(address(peer), address(1));
        for port in 0..200 {
            assert_eq!(filter.inbound(now, node(peer), &them.tcp(443, 40_000 + port, SYN | ACK)), Ok(()));
        }
    }
    // What it was let in for goes on, whether it is remembered or not.
    assert_eq!(hears(&mut filter, now, &from_two().udp(0, 9000)), Ok(()));
    assert!(filter.flows() <= FLOWS_MAX);
}

fn clock(instant: Instant, seconds: i64) -> Clock {
    Clock { instant, wall: Timestamp::from_second(seconds).unwrap() }
}

#[test]
fn a_grant_that_ran_out_ends_what_it_opened() {
    let start = Instant::now();
    let mut filter = filter(&["peers tcp/22 until 1970-01-01T00:01:00Z", "peers udp/53 until 1970-01-01T00:01:00Z"]);
    let (two, us) = (from_two(), from_two().back());
    assert_eq!(hears(&mut filter, start, &two.tcp(50_000, 22, SYN)), UNSOLICITED, "nobody knows what time it is");
    filter.set_clock(clock(start, 0));
    assert_eq!(hears(&mut filter, start, &two.tcp(50_000, 22, SYN)), Ok(()));
    filter.outbound(start, &us.tcp(22, 50_000, SYN | ACK)).unwrap();
    assert_eq!(hears(&mut filter, start, &two.udp(50_000, 53)), Ok(()));
    let just_before = start + Duration::from_millis(59_999);
    assert_eq!(hears(&mut filter, just_before, &two.tcp(50_000, 22, ACK)), Ok(()));
    assert_eq!(hears(&mut filter, just_before, &two.udp(50_000, 53)), Ok(()));

    let end = start + Duration::from_secs(60);
    assert_eq!(hears(&mut filter, end, &two.tcp(50_000, 22, ACK)), REVOKED);
    assert_eq!(filter.outbound(end, &us.tcp(22, 50_000, ACK)), Err(Reason::Revoked));
    assert_eq!(hears(&mut filter, end, &two.udp(50_000, 53)), REVOKED);
    assert_eq!(hears(&mut filter, end, &two.tcp(50_001, 22, SYN)), UNSOLICITED);
    assert_eq!(filter.check(end, Direction::In, node(2), Probe::Tcp(22)).looked_at[0], (0, Miss::Over));

    // Somebody sets the clock back a little, then by an hour: what is over by the wall's clock is over.
    filter.set_clock(clock(end, 60));
    assert_eq!(hears(&mut filter, end, &two.tcp(50_001, 22, SYN)), UNSOLICITED);
    filter.set_clock(clock(end, 10));
    assert_eq!(hears(&mut filter, end, &two.tcp(50_001, 22, SYN)), Ok(()));
    // A machine that slept for an hour.
    filter.set_clock(clock(end, 3600));
    assert_eq!(hears(&mut filter, end, &two.tcp(50_001, 22, ACK)), REVOKED);
}

#[test]
fn a_rule_that_is_taken_away_takes_its_conversations_along() {
    let (now, mut filter) = (Instant::now(), filter(&["peers tcp/22", "peers udp/53"]));
    let (two, us) = (from_two(), from_two().back());
    assert_eq!(hears(&mut filter, now, &two.tcp(50_000, 22, SYN)), Ok(()));
    filter.outbound(now, &us.tcp(22, 50_000, SYN | ACK)).unwrap();
    assert_eq!(hears(&mut filter, now, &two.udp(50_000, 53)), Ok(()));
    filter.outbound(now, &us.udp(53, 50_000)).unwrap();
    filter.outbound(now, &us.tcp(40_000, 443, SYN)).unwrap();

    // Another rule allows the same.
    filter.set_policy(rules(&["peers"]));
    assert_eq!(hears(&mut filter, now, &two.tcp(50_000, 22, ACK)), Ok(()));
    filter.set_policy(rules(&["peers icmp"]));
    // Our side goes on sending, for minutes: it opens nothing.
    for seconds in (0..600).step_by(30) {
        let now = now + Duration::from_secs(seconds);
        assert_eq!(filter.outbound(now, &us.tcp(22, 50_000, ACK)), Err(Reason::Revoked));
        assert_eq!(hears(&mut filter, now, &two.tcp(50_000, 22, ACK)), REVOKED);
        if seconds < 180 {
            assert_eq!(filter.outbound(now, &us.udp(53, 50_000)), Err(Reason::Revoked));
            assert_eq!(hears(&mut filter, now, &two.udp(50_000, 53)), REVOKED);
        }
    }
    // That it is over may be told.
    assert_eq!(filter.outbound(now, &us.tcp(22, 50_000, RST)), Ok(node(2)));
    assert_eq!(hears(&mut filter, now, &two.tcp(50_000, 22, ACK)), REVOKED);
    // What we began goes on.
    assert_eq!(hears(&mut filter, now, &two.tcp(443, 40_000, SYN | ACK)), Ok(()));
    // Allowed again, it goes on.
    filter.set_policy(rules(&["peers tcp/22"]));
    assert_eq!(hears(&mut filter, now, &two.tcp(50_000, 22, ACK)), Ok(()));
}

#[test]
fn nobody_makes_itself_forgotten_to_go_on() {
    let (now, mut filter) = (Instant::now(), filter(&["peers udp/53", "peers udp/9000"]));
    let (two, us) = (from_two(), from_two().back());
    assert_eq!(hears(&mut filter, now, &two.udp(50_000, 53)), Ok(()));
    // So many others that the first is forgotten; then our answer to it.
    (0..=u16::MAX).for_each(|port| assert_eq!(hears(&mut filter, now, &two.udp(port, 9000)), Ok(())));
    filter.outbound(now, &us.udp(53, 50_000)).unwrap();
    filter.set_policy(rules(&[]));
    assert_eq!(hears(&mut filter, now, &two.udp(50_000, 53)), REVOKED);
}

#[test]
fn what_was_under_way_before_a_restart_goes_on_if_it_may() {
    let now = Instant::now();
    let (two, us) = (from_two(), from_two().back());
    // A connection that we opened, and one that was opened to us while that was allowed. It is not any more.
    let mut restarted = filter(&["peers tcp/80"]);
    assert_eq!(restarted.outbound(now, &us.tcp(40_000, 443, ACK)), Ok(node(2)));
    assert_eq!(hears(&mut restarted, now, &two.tcp(443, 40_000, ACK)), Ok(()));
    assert_eq!(restarted.outbound(now, &us.tcp(22, 50_000, ACK)), Ok(node(2)));
    assert_eq!(hears(&mut restarted, now, &two.tcp(50_000, 22, ACK)), UNSOLICITED);
    // One that still is, whichever side speaks first.
    assert_eq!(hears(&mut restarted, now, &two.tcp(50_000, 80, ACK)), Ok(()));
    assert_eq!(restarted.outbound(now, &us.tcp(80, 50_001, ACK)), Ok(node(2)));
    restarted.set_policy(rules(&[]));
    assert_eq!(hears(&mut restarted, now, &two.tcp(50_000, 80, ACK)), REVOKED);
    assert_eq!(hears(&mut restarted, now, &two.tcp(50_001, 80, ACK)), REVOKED);
}

#[test]
fn what_is_not_listed_does_not_go_out_but_answers_do() {
    let now = Instant::now();
    let (two, us) = (from_two(), from_two().back());
    let mut filter = filter(&[]);
    let policy = |texts: &[&str]| Policy { rules: rules(texts), out: Out::Listed, ..Policy::default() };
    filter.set_policy(policy(&["to peers tcp/443", "to peers icmp", "peers tcp/22", "peers udp/53", "peers icmp"]));
    let refused = Err(Reason::NotListed);
    assert_eq!(filter.outbound(now, &us.tcp(40_000, 443, SYN)), Ok(node(2)));
    assert_eq!(hears(&mut filter, now, &two.tcp(443, 40_000, SYN | ACK)), Ok(()));
    assert_eq!(filter.outbound(now, &us.echo_request(1)), Ok(node(2)));
    for packet in [us.tcp(40_000, 444, SYN), us.udp(40_000, 443), us.raw(132, &[0; 12]), us.icmp(130)] {
        assert_eq!(filter.outbound(now, &packet), refused);
    }
    // Answers, and only to what was asked.
    for packet in [us.udp(53, 50_000), us.tcp(22, 50_000, SYN), us.tcp(23, 50_000, ACK), us.tcp(40_001, 444, ACK)] {
        assert_eq!(filter.outbound(now, &packet), refused);
    }
    assert_eq!(hears(&mut filter, now, &two.udp(50_000, 53)), Ok(()));
    assert_eq!(filter.outbound(now, &us.udp(53, 50_000)), Ok(node(2)));
    assert_eq!(hears(&mut filter, now, &two.tcp(50_000, 22, SYN)), Ok(()));
    assert_eq!(filter.outbound(now, &us.tcp(22, 50_000, SYN | ACK)), Ok(node(2)));
    assert_eq!(filter.outbound(now, &us.echo_reply(9)), Ok(node(2)));
    assert_eq!(filter.outbound(now, &us.error_about(1, &two.udp(50_000, 53))), Ok(node(2)));
    assert_eq!(filter.outbound(now, &us.error_about(1, &two.udp(50_000, 54))), refused);
    // Pieces of what may go out.
    assert_eq!(filter.outbound(now, &piece(us, 1, 0, true, &ports(53, 50_000))), Ok(node(2)));
    assert_eq!(filter.outbound(now, &piece(us, 1, 4, false, &[0; 8])), Ok(node(2)));
    assert_eq!(filter.outbound(now, &piece(us, 2, 4, false, &[0; 8])), refused);
    // The list gets shorter.
    filter.set_policy(policy(&["to peers icmp"]));
    assert_eq!(filter.outbound(now, &us.tcp(40_000, 443, ACK)), Err(Reason::Revoked));
    assert_eq!(hears(&mut filter, now, &two.tcp(443, 40_000, ACK)), REVOKED);
}

#[test]
fn groups_are_who_is_in_them() {
    let now = Instant::now();
    let owner = OwnerId::from_bytes([77; 32]);
    let groups: Vec<Group> =
        vec![format!("admins node:{} owner:{owner}", node(3)).parse().unwrap(), "empty".parse().unwrap()];
    let texts = ["group:admins tcp/22", "group:empty tcp/23", "group:missing tcp/24"];
    let mut filter = filter(&[]);
    filter.set_policy(Policy { rules: rules(&texts), groups, ..Policy::default() });
    let passes = |filter: &mut Filter, from: u8, port: u16| {
        filter.inbound(now, node(from), &Craft::between(address(from), address(1)).tcp(1, port, SYN)).is_ok()
    };
    assert_eq!([2, 3].map(|from| passes(&mut filter, from, 22)), [false, true]);
    assert_eq!([23, 24].map(|port| passes(&mut filter, 3, port)), [false, false]);
    // Whose a node is may become known later, or turn out otherwise.
    for (known, expect) in [(Some(owner), true), (None, false)] {
        let entry = |number: u8| PeerEntry { node: node(number), owner: known.filter(|_| number == 2) };
        filter.set_peers((2..4).map(entry));
        assert_eq!(passes(&mut filter, 2, 22), expect);
    }
}

#[test]
fn a_forgotten_peer_takes_its_conversations_along() {
    let (now, mut filter) = (Instant::now(), filter(&[]));
    filter.outbound(now, &from_two().back().udp(40_000, 53)).unwrap();
    let others = || (3..10).map(|number| PeerEntry { node: node(number), owner: None });
    filter.set_peers(others());
    assert_eq!(filter.flows(), 0);
    assert_eq!(hears(&mut filter, now, &from_two().udp(53, 40_000)), Err(Reason::Stranger));
    // Whoever has its number now has nothing of it.
    filter.set_peers(others().chain([PeerEntry { node: node(20), owner: None }]));
    let new = Craft::between(address(20), address(1));
    assert_eq!(filter.inbound(now, node(20), &new.udp(53, 40_000)), UNSOLICITED);
    assert_eq!(filter.outbound(now, &new.back().udp(40_000, 53)), Ok(node(20)));
}

#[derive(Debug, Clone)]
enum Step {
    Packet { out: bool, peer: u8, kind: u8, ports: (u8, u8), flags: u8 },
    Rules(Vec<u8>, bool),
    Wait(u16),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let packet = (any::<bool>(), 2u8..6, any::<u8>(), any::<(u8, u8)>(), any::<u8>())
        .prop_map(|(out, peer, kind, ports, flags)| Step::Packet { out, peer, kind, ports, flags });
    let step = prop_oneof![
        8 => packet,
        1 => (collection::vec(any::<u8>(), 0..6), any::<bool>()).prop_map(|(rules, listed)| Step::Rules(rules, listed)),
        1 => (0u16..100).prop_map(Step::Wait),
    ];
    collection::vec(step, 0..80)
}

fn any_packet(craft: Craft, kind: u8, (from, to): (u8, u8), flags: u8) -> Vec<u8> {
    let port = |number: u8| [22, 53, 40_000, 40_001][usize::from(number % 4)];
    let (from, to) = (port(from), port(to));
    match kind % 10 {
        0..3 => craft.tcp(from, to, [SYN, SYN | ACK, ACK, FIN | ACK, RST][usize::from(flags) % 5]),
        3 | 4 => craft.udp(from, to),
        5 if flags.is_multiple_of(2) => craft.echo_request(to),
        5 => craft.echo_reply(to),
        6 => craft.error_about(flags % 6, &craft.back().udp(to, from)),
        7 => craft.raw(flags, &[0; 24]),
        8 => piece(craft, flags % 2, 0, true, &ports(from, to)),
        _ => piece(craft, flags % 2, u16::from(flags % 8), false, &[0; 24]),
    }
}

fn any_rule(number: u8) -> Rule {
    let who = ["peers".to_owned(), format!("node:{}", node(2)), format!("node:{}", node(3))];
    let what = ["tcp/22", "tcp/1-39999", "udp/53", "icmp", "all", "udp"];
    let until = ["", " until 1970-01-01T00:01:30Z"];
    let out = if number.is_multiple_of(2) { "" } else { "to " };
    let number = usize::from(number) / 2;
    format!("{out}{} {}{}", who[number % 3], what[number / 3 % 6], until[number / 18 % 2]).parse().unwrap()
}

proptest! {
    /// The explanation is what happens, and if no rule allows it, none is said to.
    #[test]
    fn what_is_explained_is_what_happens(steps in steps()) {
        let mut filter = filter(&[]);
        let mut now = Instant::now();
        filter.set_clock(clock(now, 0));
        for step in steps {
            let (out, peer, packet) = match step {
                Step::Wait(seconds) => {
                    now += Duration::from_secs(seconds.into());
                    continue;
                }
                Step::Rules(numbers, listed) => {
                    let rules = numbers.into_iter().map(any_rule).collect();
                    let out = if listed { Out::Listed } else { Out::All };
                    filter.set_policy(Policy { rules, out, ..Policy::default() });
                    continue;
                }
                Step::Packet { out, peer, kind, ports, flags } => {
                    let craft = Craft::between(address(peer), address(1));
                    let craft = if out { craft.back() } else { craft };
                    (out, node(peer), any_packet(craft, kind, ports, flags))
                }
            };
            let (explained, happens) = if out {
                let flows = filter.flows();
                let explained = filter.explain_outbound(now, &packet);
                prop_assert_eq!(filter.flows(), flows);
                (explained, filter.outbound(now, &packet).map(drop))
            } else {
                let flows = filter.flows();
                let explained = filter.explain_inbound(now, peer, &packet);
                prop_assert_eq!(filter.flows(), flows);
                (explained, filter.inbound(now, peer, &packet))
            };
            prop_assert_eq!(explained.verdict.map(drop), happens);
            let allowing = |(_, miss): &(usize, Miss)| *miss == Miss::Other;
            match explained.verdict {
                Ok(Cause::Rule(rule)) => {
                    let direction = if out { Direction::Out } else { Direction::In };
                    prop_assert_eq!(filter.rules()[rule].direction, direction);
                }
                Err(Reason::Unsolicited | Reason::NotListed) => prop_assert!(!explained.looked_at.iter().any(allowing)),
                _ => {}
            }
        }
    }
}
