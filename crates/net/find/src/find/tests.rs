//! What a node does on what it hears, one step at a time; whole networks are simulated in `testing/sim`.
#![allow(clippy::unwrap_used, reason = "tests")]

use atoll_keys::{NodeKey, Signed, Statement};
use atoll_wire::{Versioned, decode, encode};
use serde::{Deserialize, Serialize};

use super::*;
use crate::record::Whereabouts;
use crate::testing::Plain;
use crate::{MESSAGE_BYTES_MAX, MessageError, decode_message};

const NOW: Duration = Duration::from_secs(1_800_000_000);

fn later(ms: u64) -> Duration {
    NOW + Duration::from_millis(ms)
}

fn sequence(ms: u64) -> u64 {
    millis(later(ms))
}

fn contact(number: u32) -> Contact {
    let mut bytes = [3; 32];
    bytes[..4].copy_from_slice(&number.to_le_bytes());
    let at = format!("[2a00:{:x}:{:x}::1]:1", number >> 16, number & 0xffff);
    Contact { node: NodeId::from_bytes(bytes), at: at.parse().unwrap() }
}

fn core(number: u32) -> Find<Plain> {
    Find::new(contact(number).node, Config { serves: true, seed: u64::from(number), sparing: false })
}

/// The questions that were sent, each with its addressee.
fn asks(out: &[Output<Plain>]) -> Vec<(Contact, Ask<Plain>)> {
    let ask = |each: &Output<Plain>| match each {
        Output::Send { to, message: Message::Ask(ask) } => Some((*to, ask.clone())),
        _ => None,
    };
    out.iter().filter_map(ask).collect()
}

fn receive(core: &mut Find<Plain>, ms: u64, from: Contact, message: Message<Plain>) -> Vec<Output<Plain>> {
    core.step(later(ms), Input::Received { from, message })
}

/// A node that joined by way of node 1, and nothing else.
fn joined(number: u32) -> Find<Plain> {
    let mut core = core(number);
    let asked = asks(&core.step(NOW, Input::Begin(contact(1))));
    let [(to, ask)] = &asked[..] else { panic!("{asked:?}") };
    assert_eq!(*to, contact(1));
    receive(&mut core, 50, contact(1), Message::Answer(Answer { id: ask.id, record: None, contacts: Vec::new() }));
    assert!(core.is_joined());
    core
}

#[test]
fn who_joins_brings_its_record_and_signs_it_anew() {
    let mut core = joined(2);
    let record = Plain::new(core.me, sequence(60));
    let out = core.step(later(60), Input::Own { record: record.clone(), moved: false });
    let kept: Vec<_> = asks(&out).into_iter().filter_map(|(to, ask)| Some((to, ask.keep?))).collect();
    assert_eq!(kept, [(contact(1), record)]);
    let mut now = later(60);
    let signs = loop {
        now = core.wake(now).max(now + Duration::from_millis(1));
        let out = core.step(now, Input::Tick);
        for (to, ask) in asks(&out) {
            let answer = Answer { id: ask.id, record: None, contacts: Vec::new() };
            core.step(now, Input::Received { from: to, message: Message::Answer(answer) });
        }
        if let Some(Output::Sign { above }) = out.iter().find(|each| matches!(each, Output::Sign { .. })) {
            break *above;
        }
        assert!(now < later(3_600_000), "never signed anew");
    };
    assert_eq!(signs, sequence(60));
}

#[test]
fn nobody_answers_and_it_is_tried_again() {
    let mut core = core(2);
    assert_eq!(asks(&core.step(NOW, Input::Begin(contact(1)))).len(), 1);
    let (mut now, mut attempts) = (NOW, 0);
    while attempts < 3 {
        now = core.wake(now).max(now + Duration::from_millis(1));
        attempts += asks(&core.step(now, Input::Tick)).len();
        assert!(now < later(60_000));
    }
    assert!(!core.is_joined());
}

#[test]
fn an_answer_counts_only_from_whom_was_asked() {
    let mut core = core(2);
    let (_, ask) = asks(&core.step(NOW, Input::Begin(contact(1)))).remove(0);
    let answer = Message::Answer(Answer { id: ask.id, record: None, contacts: vec![contact(7)] });
    receive(&mut core, 1, contact(9), answer.clone());
    assert_eq!(core.counts().contacts, 0);
    receive(&mut core, 2, contact(1), answer);
    assert_eq!(core.counts().contacts, 1);
}

#[test]
fn a_record_is_found_only_if_it_is_the_one_that_was_looked_for() {
    #[track_caller]
    fn check(record: Plain, expected: bool) {
        let mut core = joined(2);
        let wanted = contact(5).node;
        let (to, ask) =
            asks(&core.step(later(100), Input::Find { key: Key::of(&wanted), newer_than: sequence(10) })).remove(0);
        assert_eq!((ask.key, ask.newer_than), (Key::of(&wanted), Some(sequence(10))));
        let answer = Answer { id: ask.id, record: Some(record), contacts: Vec::new() };
        let out = receive(&mut core, 150, to, Message::Answer(answer));
        assert_eq!(out.iter().any(|each| matches!(each, Output::Found { .. })), expected, "{out:?}");
        assert_eq!(out.iter().any(|each| matches!(each, Output::NotFound { why: Miss::NoRecord, .. })), !expected);
    }
    let wanted = contact(5).node;
    check(Plain::new(wanted, sequence(11)), true);
    check(Plain::new(wanted, sequence(10)), false);
    check(Plain::new(contact(6).node, sequence(11)), false);
    check(Plain { forged: true, ..Plain::new(wanted, sequence(11)) }, false);
    check(Plain::new(wanted, sequence(3_600_000)), false);
}

#[test]
fn what_was_brought_is_given_out_and_forged_is_not() {
    let mut core = joined(2);
    let bring = |core: &mut Find<Plain>, number: u32, record: Plain| {
        let key = Key::of(&contact(number).node);
        let ask = Ask { id: 1, serves: true, key, contacts: 0, newer_than: Some(0), keep: Some(record) };
        let out = receive(core, 100, contact(number), Message::Ask(ask));
        let mut answers = out.into_iter().filter_map(|each| match each {
            Output::Send { message: Message::Answer(answer), .. } => Some(answer.record),
            _ => None,
        });
        answers.next_back().unwrap()
    };
    let record = |number: u32, ms: u64| Plain::new(contact(number).node, sequence(ms));
    assert_eq!(bring(&mut core, 5, record(5, 20)), Some(record(5, 20)));
    assert_eq!(bring(&mut core, 5, record(5, 10)), Some(record(5, 20)), "older");
    assert_eq!(bring(&mut core, 6, Plain { forged: true, ..record(6, 20) }), None);
    assert_eq!(core.counts().records, 1);
}

#[test]
fn a_flood_of_questions_from_one_network_is_not_answered() {
    let mut core = joined(2);
    let ask = Ask { id: 1, serves: true, key: core.key, contacts: 8, newer_than: None, keep: None };
    let answered = (0..1000).filter(|_| !receive(&mut core, 100, contact(5), Message::Ask(ask.clone())).is_empty());
    assert!(answered.count() <= 70);
    assert!(!receive(&mut core, 100, contact(6), Message::Ask(ask.clone())).is_empty());
}

#[test]
fn rumours_come_from_peers_and_end() {
    let mut core = joined(2);
    for number in 10..20 {
        core.step(NOW, Input::Peer { contact: contact(number), connected: true });
    }
    let tells = |out: &[Output<Plain>]| {
        let tell = |each: &Output<Plain>| match each {
            Output::Send { to, message: Message::Tell(tell) } => Some((to.node, tell.hops)),
            _ => None,
        };
        out.iter().filter_map(tell).collect::<Vec<_>>()
    };
    let rumour = |number: u32, ms: u64, hops: u8| {
        Message::Tell(Tell { record: Plain::new(contact(number).node, sequence(ms)), hops })
    };
    let first = tells(&receive(&mut core, 100, contact(10), rumour(30, 1, 2)));
    assert_eq!(first.len(), RUMOUR_FAN_OUT);
    assert!(first.iter().all(|(to, hops)| *to != contact(10).node && *hops == 1));
    assert!(tells(&receive(&mut core, 100, contact(11), rumour(30, 1, 2))).is_empty(), "no news");
    assert!(tells(&receive(&mut core, 100, contact(11), rumour(31, 1, 0))).is_empty(), "at its end");
    assert!(tells(&receive(&mut core, 100, contact(99), rumour(32, 1, 2))).is_empty(), "a stranger");
    let own = Input::Own { record: Plain::new(core.me, sequence(100)), moved: true };
    assert_eq!(tells(&core.step(later(100), own)).len(), 10);
    // A peer's own move is said to whoever drives this.
    let out = receive(&mut core, 200, contact(12), rumour(12, 150, 1));
    assert!(out.iter().any(|each| matches!(each, Output::Found { node, .. } if *node == contact(12).node)));
}

#[test]
fn lookups_are_limited_and_an_unreachable_node_is_not_waited_for() {
    let mut core = joined(2);
    for number in 100..100 + LOOKUPS_MAX as u32 {
        assert_eq!(asks(&core.step(NOW, Input::Find { key: Key::of(&contact(number).node), newer_than: 0 })).len(), 1);
    }
    let node = contact(999).node;
    let out = core.step(NOW, Input::Find { key: Key::of(&node), newer_than: 0 });
    assert_eq!(out, [Output::NotFound { key: Key::of(&node), why: Miss::Busy }]);
    let out = core.step(later(1), Input::Unreachable(contact(1).node));
    let missed = out.iter().filter(|each| matches!(each, Output::NotFound { why: Miss::NobodyAnswered, .. }));
    assert_eq!(missed.count(), LOOKUPS_MAX);
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Address {
    node: NodeId,
    sequence: u64,
}

impl Versioned for Address {
    const VERSION: u16 = 1;
    const NAME: &'static str = "address of this test";
}

impl Statement for Address {
    const DOMAIN: &'static str = "atoll/test-address";
}

impl Whereabouts for Address {
    fn node(&self) -> NodeId {
        self.node
    }

    fn sequence(&self) -> u64 {
        self.sequence
    }

    fn is_within_limits(&self) -> bool {
        self.sequence < u64::MAX
    }
}

#[test]
fn real_signatures_are_checked() {
    let (key, other) = (NodeKey::generate(), NodeKey::generate());
    let address = Address { node: key.id(), sequence: 7 };
    let opened = Opened { node: key.id(), sequence: 7 };
    assert_eq!(Signed::sign(&address, &key).open(), Some(opened));
    assert_eq!(Signed::sign(&address, &other).open(), None);
    assert_eq!(Signed::sign(&Address { sequence: u64::MAX, ..address }, &key).open(), None);
}

#[test]
fn messages_have_limits() {
    let key = Key::from([0; 16]);
    let ask = Ask::<Plain> { id: 1, serves: true, key, contacts: 9, newer_than: None, keep: None };
    assert!(matches!(
        decode_message::<Plain>(&encode(&Message::Ask(ask))),
        Err(MessageError::TooMany { found: 9, max: 8, .. })
    ));
    let answer = Answer::<Plain> { id: 1, record: None, contacts: vec![contact(1); 9] };
    assert!(decode_message::<Plain>(&encode(&Message::Answer(answer.clone()))).is_err());
    let tell = Tell { record: Plain::new(contact(1).node, 1), hops: 3 };
    assert!(decode_message::<Plain>(&encode(&Message::Tell(tell))).is_err());
    assert!(matches!(decode_message::<Plain>(&vec![0; MESSAGE_BYTES_MAX + 1]), Err(MessageError::TooLong { .. })));
    let good = Message::Answer(Answer { contacts: vec![contact(1); 8], ..answer });
    assert_eq!(decode_message::<Plain>(&encode(&good)), Ok(good.clone()));
    assert_eq!(decode::<Message<Plain>>(&encode(&good)), Ok(good));
}
