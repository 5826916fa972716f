//! The core against its promises, one at a time; and that it always is what would be loaded.
#![allow(clippy::unwrap_used, reason = "tests")]

use atoll_ids::{MessageId, NodeId, OwnerId};
use bytes::Bytes;
use proptest::prelude::*;

use super::disk::Disk;
use super::{Ask, Core, CoreConfig, Effect, Filter, Hold, Input, Now, Outgoing, SendRefusal};
use crate::frames::{Answer, Envelope, Payload, Question, Refusal, Stop};
use crate::limits::{
    FAR_EXCHANGES_MAX, Limits, MESSAGE_OVERHEAD_BYTES, PAYLOAD_BYTES_MAX, RETRY_LAST_MS, TTL_MS_DEFAULT, TTL_MS_MIN,
};
use crate::records::{InRecord, InState, OutRecord, OutState, Stored};
use crate::rule::Rules;
use crate::topic::Pattern;

const OWNER: OwnerId = OwnerId::from_bytes([200; 32]);

fn node(number: u8) -> NodeId {
    NodeId::from_bytes([number; 32])
}

fn id(number: u8) -> MessageId {
    MessageId::from_bytes([number; 16])
}

fn outgoing(number: u8, to: &[u8]) -> Outgoing {
    Outgoing {
        id: id(number),
        to: to.iter().copied().map(node).collect(),
        topic: "a.b".parse().unwrap(),
        answers: None,
        ttl: TTL_MS_DEFAULT,
        payload: Bytes::from(vec![number; 3]),
    }
}

fn envelope(position: u64) -> Envelope {
    Envelope {
        position,
        id: id(position as u8),
        topic: "a.b".parse().unwrap(),
        answers: None,
        ttl: TTL_MS_DEFAULT,
        payload: Payload(Bytes::from_static(b"abc")),
    }
}

/// A core over a disk, and a clock that is set.
struct Bench {
    core: Core,
    disk: Disk,
    now: Now,
    limits: Limits,
    rules: &'static [&'static str],
}

fn load(limits: Limits, rules: &[&str], now: Now, stored: Stored) -> Core {
    let rules = rules.iter().map(|rule| rule.parse().unwrap()).collect();
    Core::load(CoreConfig { limits, rules: Rules::new(OWNER, rules), seed: 1 }, now, stored)
}

impl Bench {
    fn new(limits: Limits, rules: &'static [&'static str]) -> Self {
        let now = Now { steady: 0, wall: 1_000_000 };
        let core = load(limits, rules, now, Stored::default());
        Self { core, disk: Disk::default(), now, limits, rules }
    }

    fn open() -> Self {
        Self::new(Limits::default(), &["peers"])
    }

    fn step(&mut self, input: Input) -> Vec<Effect> {
        let out = self.core.step(self.now, input);
        out.writes.into_iter().for_each(|write| self.disk.apply(write));
        out.effects
    }

    fn restart(&mut self) -> Vec<Effect> {
        self.now.steady = 0;
        self.core = load(self.limits, self.rules, self.now, self.disk.stored());
        self.step(Input::Tick)
    }

    fn pass(&mut self, milliseconds: u64) -> Vec<Effect> {
        self.now.steady += milliseconds;
        self.now.wall += milliseconds;
        self.step(Input::Tick)
    }

    fn send(&mut self, number: u8, to: &[u8]) -> Vec<Effect> {
        let effects = self.step(Input::Send { token: 0, message: outgoing(number, to) });
        assert!(effects.contains(&Effect::Accepted { token: 0, result: Ok(()) }), "{effects:?}");
        effects
    }

    fn refuses(&mut self, message: Outgoing) -> SendRefusal {
        let effects = self.step(Input::Send { token: 0, message });
        match effects.as_slice() {
            [Effect::Accepted { result: Err(refusal), .. }] => refusal.clone(),
            other => panic!("{other:?}"),
        }
    }

    fn hear(&mut self, from: u8, owner: Option<OwnerId>, batch: Vec<Envelope>) -> Answer {
        let question = Question::Deliver(batch);
        let effects = self.step(Input::Heard { token: 0, from: node(from), owner, question });
        let answer = effects.into_iter().find_map(|effect| match effect {
            Effect::Answer { answer, .. } => Some(answer),
            _ => None,
        });
        answer.unwrap()
    }

    /// Answers an exchange.
    fn answer(&mut self, exchange: &(NodeId, u64, Ask), result: Result<Answer, String>) -> Vec<Effect> {
        self.step(Input::Exchanged { to: exchange.0, exchange: exchange.1, result })
    }

    /// Greets and is greeted by a node that has seen nothing.
    fn meet(&mut self, effects: Vec<Effect>) -> (NodeId, u64, Ask) {
        let hello = exchange(effects);
        assert_eq!(hello.2, Ask::Hello);
        let effects = self.answer(&hello, Ok(Answer::Known(0)));
        exchange(effects)
    }

    fn want(&mut self, waiter: u64, filter: Filter) -> Vec<(u64, Hold, InRecord)> {
        let effects = self.step(Input::Want { waiter, filter });
        hands(effects)
    }

    fn state(&self, number: u8, to: u8) -> OutState {
        let fate = self.core.fate(&id(number));
        fate.iter().find(|status| status.record.to == node(to)).unwrap().record.state
    }
}

fn all() -> Filter {
    Filter::topics(Pattern::everything())
}

fn exchange(effects: Vec<Effect>) -> (NodeId, u64, Ask) {
    let found = effects.into_iter().find_map(|effect| match effect {
        Effect::Exchange { to, exchange, ask } => Some((to, exchange, ask)),
        _ => None,
    });
    found.expect("an exchange")
}

fn positions(exchange: &(NodeId, u64, Ask)) -> Vec<u64> {
    let Ask::Deliver(batch) = &exchange.2 else { panic!("{exchange:?}") };
    batch.iter().map(|(record, _)| record.position).collect()
}

fn hands(effects: Vec<Effect>) -> Vec<(u64, Hold, InRecord)> {
    let hand = |effect| match effect {
        Effect::Hand { waiter, hold, record } => Some((waiter, hold, record)),
        _ => None,
    };
    effects.into_iter().filter_map(hand).collect()
}

fn heard(taken: u32, stop: Option<Stop>) -> Answer {
    Answer::Heard { taken, stop }
}

#[test]
fn a_message_is_tried_until_it_is_delivered() {
    let mut bench = Bench::open();
    let sent = bench.send(1, &[9]);
    let batch = bench.meet(sent);
    assert_eq!(positions(&batch), [1]);
    assert!(bench.answer(&batch, Err("cut".into())).is_empty());
    assert_eq!(bench.core.fate(&id(1))[0].problem.as_deref(), Some("cut"));
    let next = bench.core.next_tick().unwrap();
    assert!((250..=500).contains(&next), "{next}");
    let again = exchange(bench.pass(next));
    assert_eq!(positions(&again), [1]);
    assert!(bench.answer(&batch, Ok(heard(1, None))).is_empty(), "an answer to what was given up");
    assert_eq!(bench.state(1, 9), OutState::Waiting);
    let effects = bench.answer(&again, Ok(heard(1, None)));
    assert_eq!(effects, [Effect::Settled(id(1))]);
    assert_eq!(bench.state(1, 9), OutState::Delivered { at: bench.now.wall });
    assert_eq!(bench.core.next_tick(), None);
    assert!(bench.disk.sent.is_empty());
}

#[test]
fn pauses_grow_and_end_when_the_node_is_heard_of() {
    let mut bench = Bench::open();
    let mut under_way = exchange(bench.send(1, &[9]));
    let mut pauses = Vec::new();
    for _ in 0..12 {
        bench.answer(&under_way, Err("nobody there".into()));
        let next = bench.core.next_tick().unwrap();
        pauses.push(next - bench.now.steady);
        under_way = exchange(bench.pass(next - bench.now.steady));
    }
    assert!(pauses.iter().all(|pause| *pause <= RETRY_LAST_MS), "{pauses:?}");
    assert!(pauses[11] >= RETRY_LAST_MS / 2 && pauses[3] < 5000, "{pauses:?}");
    bench.answer(&under_way, Err("nobody there".into()));
    let effects = bench.step(Input::Reachable(node(9)));
    assert_eq!(exchange(effects).2, Ask::Hello);
    // A node that is there and full gains nothing by coming again.
    let mut bench = Bench::open();
    let sent = bench.send(1, &[9]);
    let batch = bench.meet(sent);
    bench.answer(&batch, Ok(heard(0, Some(Stop::Full))));
    assert!(bench.core.fate(&id(1))[0].problem.as_deref().unwrap().starts_with("full"));
    assert!(bench.step(Input::Reachable(node(9))).is_empty());
}

#[test]
fn order_holds_and_what_is_refused_holds_nobody_up() {
    let mut bench = Bench::open();
    let sent = bench.send(1, &[9]);
    for number in 2..=5 {
        assert!(bench.send(number, &[9]).len() == 1, "one exchange at a time");
    }
    let batch = bench.meet(sent);
    assert_eq!(positions(&batch), [1, 2, 3, 4, 5]);
    let refused = Stop::Refused(Refusal::Topic);
    let effects = bench.answer(&batch, Ok(heard(2, Some(refused))));
    assert_eq!(bench.state(3, 9), OutState::Refused { at: bench.now.wall, why: Refusal::Topic });
    let rest = exchange(effects);
    assert_eq!(positions(&rest), [4, 5]);
    // Answers that make no sense change nothing.
    for nonsense in [heard(3, None), heard(1, None), heard(2, Some(Stop::Full)), Answer::Known(7)] {
        let mut bench = Bench::open();
        let sent = bench.send(1, &[9]);
        let batch = bench.meet(sent);
        bench.send(2, &[9]);
        let nonsense = if nonsense == heard(1, None) { heard(0, None) } else { nonsense };
        assert!(bench.answer(&batch, Ok(nonsense)).is_empty());
        assert_eq!(bench.state(1, 9), OutState::Waiting);
        assert!(bench.core.next_tick().unwrap() > 0, "it is left alone for a moment");
    }
}

#[test]
fn who_is_there_does_not_wait_for_who_is_not() {
    let mut bench = Bench::open();
    let effects = bench.send(1, &(10..60).collect::<Vec<u8>>());
    let dials = effects.iter().filter(|effect| matches!(effect, Effect::Exchange { .. })).count();
    assert_eq!(dials, FAR_EXCHANGES_MAX);
    assert_eq!(bench.core.next_tick(), Some(TTL_MS_DEFAULT), "nothing to do until one of them is over");
    let near = exchange(bench.step(Input::Reachable(node(59))));
    assert_eq!(near.0, node(59));
    // A failure makes a node far again, and its next batch small.
    let effects = bench.answer(&near, Ok(Answer::Known(0)));
    let batch = exchange(effects);
    bench.send(2, &[59]);
    bench.answer(&batch, Err("cut".into()));
    let again = exchange(bench.step(Input::Reachable(node(59))));
    assert_eq!(positions(&again), [50]);
    let effects = bench.answer(&again, Ok(heard(1, None)));
    assert_eq!(positions(&exchange(effects)), [51]);
}

#[test]
fn one_message_to_many_keeps_its_payload_until_the_last_has_it() {
    let mut bench = Bench::open();
    let effects = bench.send(1, &[7, 8, 8]);
    let hellos: Vec<_> = effects.into_iter().filter(|effect| matches!(effect, Effect::Exchange { .. })).collect();
    assert_eq!(hellos.len(), 2);
    for hello in hellos {
        assert_eq!(bench.disk.sent.len(), 1);
        let batch = bench.meet(vec![hello]);
        bench.answer(&batch, Ok(heard(1, None)));
    }
    assert!(bench.disk.sent.is_empty());
    assert_eq!(bench.core.fate(&id(1)).len(), 2);
}

#[test]
fn limits_of_the_outbox() {
    let limits = Limits { outbox_messages: 3, outbox_bytes: 10, ..Limits::default() };
    let mut bench = Bench::new(limits, &[]);
    let none = bench.refuses(outgoing(1, &[]));
    assert!(matches!(none, SendRefusal::Recipients { count: 0, .. }), "{none}");
    let large = Outgoing { payload: vec![0; PAYLOAD_BYTES_MAX + 1].into(), ..outgoing(1, &[9]) };
    assert!(matches!(bench.refuses(large), SendRefusal::TooLarge { .. }));
    let short = Outgoing { ttl: TTL_MS_MIN - 1, ..outgoing(1, &[9]) };
    assert_eq!(bench.refuses(short), SendRefusal::Ttl);
    bench.send(1, &[7, 8]);
    assert_eq!(bench.refuses(outgoing(1, &[9])), SendRefusal::Twice);
    assert_eq!(bench.refuses(outgoing(2, &[7, 8])), SendRefusal::Full { messages: 2, bytes: 3 });
    let bytes = Outgoing { payload: vec![0; 8].into(), ..outgoing(2, &[9]) };
    assert!(matches!(bench.refuses(bytes), SendRefusal::Full { .. }));
    bench.send(2, &[9]);
}

#[test]
fn time_ends_what_waits_and_restarts_do_not_prolong_it() {
    let mut bench = Bench::open();
    let sent = bench.send(1, &[9]);
    let hello = exchange(sent);
    bench.answer(&hello, Err("away".into()));
    bench.pass(TTL_MS_DEFAULT - 1000);
    bench.restart();
    assert_eq!(bench.state(1, 9), OutState::Waiting);
    bench.pass(999);
    assert_eq!(bench.state(1, 9), OutState::Waiting);
    bench.pass(1);
    assert_eq!(bench.state(1, 9), OutState::Expired { at: bench.now.wall });
    // A clock that went back prolongs nothing beyond the whole.
    bench.send(2, &[9]);
    bench.now.wall -= 500_000;
    bench.restart();
    bench.pass(TTL_MS_DEFAULT - 1);
    assert_eq!(bench.state(2, 9), OutState::Waiting);
    bench.pass(1);
    assert!(matches!(bench.state(2, 9), OutState::Expired { .. }));
    // While it is on its way its time is not over.
    let effects = bench.send(3, &[8]);
    let batch = bench.meet(effects);
    bench.pass(TTL_MS_DEFAULT + 5);
    assert_eq!(bench.state(3, 8), OutState::Waiting);
    bench.answer(&batch, Err("cut".into()));
    assert!(matches!(bench.state(3, 8), OutState::Expired { .. }));
}

#[test]
fn what_is_remembered_is_bounded() {
    let mut bench = Bench::new(Limits { remembered: 2, ..Limits::default() }, &["peers"]);
    let sent = bench.send(1, &[9]);
    let batch = bench.meet(sent);
    let mut effects = bench.answer(&batch, Ok(heard(1, None)));
    for number in 2..=4 {
        assert!(effects.contains(&Effect::Settled(id(number - 1))));
        let batch = exchange(bench.send(number, &[9]));
        effects = bench.answer(&batch, Ok(heard(1, None)));
    }
    assert!(bench.core.fate(&id(2)).is_empty());
    assert_eq!(bench.core.outbox().count(), 2);
    // Positions go on all the same.
    bench.disk.outbox.clear();
    bench.restart();
    let sent = bench.send(9, &[9]);
    let batch = bench.meet(sent);
    assert_eq!(positions(&batch), [5]);
}

/// The folder was wiped, or restored from an older copy: under its old positions a message would be taken for one that the receiver has.
#[test]
fn a_sender_without_its_memory_goes_on_above_what_was_seen() {
    let mut bench = Bench::open();
    for number in 1..=2 {
        bench.send(number, &[9]);
    }
    let elsewhere = bench.send(3, &[8]);
    drop(elsewhere);
    let effects = bench.restart();
    let mut hellos: Vec<_> = effects.into_iter().map(|effect| exchange(vec![effect])).collect();
    hellos.sort_by_key(|(to, ..)| *to);
    let effects = bench.answer(&hellos[1], Ok(Answer::Known(100)));
    let batch = exchange(effects);
    assert_eq!(positions(&batch), [101, 102]);
    let Ask::Deliver(records) = &batch.2 else { panic!() };
    assert_eq!(records.iter().map(|(record, _)| record.id).collect::<Vec<_>>(), [id(1), id(2)]);
    let effects = bench.answer(&hellos[0], Ok(Answer::Known(0)));
    assert_eq!(positions(&exchange(effects)), [3], "others are not concerned");
    bench.answer(&batch, Ok(heard(2, None)));
    let effects = bench.send(4, &[9]);
    assert_eq!(positions(&exchange(effects)), [103]);
    // A node that is in its right mind has seen no more than was sent.
    let effects = bench.restart();
    let (to, ..) = exchange(effects.clone());
    assert_eq!(to, node(8));
}

#[test]
fn duplicates_are_recognised_for_ever() {
    let mut bench = Bench::open();
    assert_eq!(bench.hear(5, None, vec![envelope(3), envelope(7)]), heard(2, None));
    assert_eq!(bench.hear(5, None, vec![envelope(7), envelope(8)]), heard(2, None));
    assert_eq!(bench.hear(6, None, vec![envelope(7)]), heard(1, None), "another sender's positions");
    for (_, hold, _) in bench.want(1, all()) {
        bench.step(Input::Ack { token: 0, hold });
    }
    bench.restart();
    assert_eq!(bench.hear(5, None, vec![envelope(3), envelope(7)]), heard(2, None));
    assert_eq!(bench.core.inbox().filter(|record| record.from == node(5)).count(), 3);
    let hello = Input::Heard { token: 1, from: node(5), owner: None, question: Question::Hello };
    assert_eq!(bench.step(hello), [Effect::Answer { token: 1, answer: Answer::Known(8) }]);
}

#[test]
fn who_is_not_named_by_a_rule_is_refused() {
    let mut bench = Bench::new(Limits::default(), &["own a.b"]);
    let refused = heard(0, Some(Stop::Refused(Refusal::Topic)));
    assert_eq!(bench.hear(5, Some(OwnerId::from_bytes([1; 32])), vec![envelope(1)]), refused);
    assert_eq!(bench.hear(5, None, vec![envelope(1)]), heard(0, Some(Stop::Later)));
    let other = Envelope { topic: "a.c".parse().unwrap(), ..envelope(2) };
    assert_eq!(
        bench.hear(5, Some(OWNER), vec![envelope(1), other, envelope(3)]),
        heard(1, Some(Stop::Refused(Refusal::Topic)))
    );
    assert_eq!(bench.hear(5, Some(OWNER), vec![envelope(3)]), heard(1, None));
}

#[test]
fn who_was_asked_may_answer_and_nobody_else() {
    let mut bench = Bench::new(Limits::default(), &["peers other"]);
    bench.send(1, &[5]);
    let answer = |position| Envelope { answers: Some(id(1)), ..envelope(position) };
    assert_eq!(bench.hear(5, None, vec![answer(1)]), heard(1, None));
    let refused = heard(0, Some(Stop::Refused(Refusal::NoQuestion)));
    assert_eq!(bench.hear(6, None, vec![answer(1)]), refused);
    let other = Envelope { answers: Some(id(2)), topic: "other".parse().unwrap(), ..envelope(9) };
    assert_eq!(bench.hear(6, None, vec![other]), refused, "whatever the rules say");
}

#[test]
fn floods_are_bounded_and_others_go_on() {
    let limits = Limits { inbox_messages: 10, peer_messages: 6, ..Limits::default() };
    let mut bench = Bench::new(limits, &["peers"]);
    let flood = |from: u64| (from..from + 20).map(envelope).collect::<Vec<_>>();
    // Half of all is the most that the first gets, as it may not have more than is left; the next gets half of the rest, and so on.
    for (from, expected) in [(1, 5), (2, 3), (3, 1), (4, 1), (5, 0)] {
        assert_eq!(bench.hear(from, None, flood(1)), heard(expected, Some(Stop::Full)), "peer {from}");
    }
    let (_, hold, record) = bench.want(1, all()).remove(0);
    assert_eq!((record.from, record.id), (node(1), id(1)));
    bench.step(Input::Ack { token: 0, hold });
    assert_eq!(bench.hear(5, None, flood(1)), heard(1, Some(Stop::Full)));
    assert_eq!(bench.hear(1, None, flood(6)), heard(0, Some(Stop::Full)));
    let limits = Limits { inbox_bytes: 4 * (MESSAGE_OVERHEAD_BYTES + 3), ..Limits::default() };
    let mut bench = Bench::new(limits, &["peers"]);
    assert_eq!(bench.hear(1, None, flood(1)), heard(2, Some(Stop::Full)), "by bytes, too");
}

#[test]
fn a_message_is_for_one_consumer_at_a_time() {
    let mut bench = Bench::open();
    assert!(bench.want(1, Filter::topics("x".parse().unwrap())).is_empty());
    assert!(bench.want(2, all()).is_empty());
    let question = Question::Deliver(vec![envelope(1)]);
    let effects = bench.step(Input::Heard { token: 0, from: node(5), owner: None, question });
    let [(waiter, hold, record)] = hands(effects).try_into().unwrap();
    assert_eq!((waiter, record.id), (2, id(1)));
    assert!(bench.want(3, all()).is_empty());
    bench.step(Input::Gone(3));
    assert!(bench.want(4, all()).is_empty());
    let effects = bench.step(Input::Release(hold));
    let [(waiter, again, _)] = hands(effects).try_into().unwrap();
    assert_eq!(waiter, 4, "3 has gone");
    let late = bench.step(Input::Ack { token: 7, hold });
    assert_eq!(late, [Effect::Acked { token: 7, held: false }]);
    // Nobody takes it away from who has it, not even time.
    bench.pass(TTL_MS_DEFAULT + 1);
    assert_eq!(bench.step(Input::Ack { token: 8, hold: again }), [Effect::Acked { token: 8, held: true }]);
    assert!(bench.disk.bodies.is_empty());
    let state = bench.core.inbox().next().unwrap().state;
    assert_eq!(state, InState::Taken { at: bench.now.wall });
    assert_eq!(bench.core.arrived(&id(1)).len(), 1, "it can still be answered");
}

#[test]
fn what_nobody_takes_expires() {
    let mut bench = Bench::open();
    bench.hear(5, None, vec![Envelope { ttl: 500, ..envelope(1) }]);
    bench.now.wall += 400;
    bench.restart();
    assert_eq!(bench.core.next_tick(), Some(100));
    bench.pass(100);
    let state = bench.core.inbox().next().unwrap().state;
    assert_eq!(state, InState::Expired { at: bench.now.wall });
    assert!(bench.disk.bodies.is_empty() && bench.core.arrived(&id(1)).is_empty());
    assert_eq!(bench.core.counts().expired, 1);
}

#[test]
fn answers_are_for_whoever_asks() {
    let mut bench = Bench::open();
    bench.send(1, &[5]);
    bench.step(Input::Asking(id(1)));
    assert!(bench.want(1, all()).is_empty());
    bench.hear(5, None, vec![Envelope { answers: Some(id(1)), ..envelope(1) }]);
    let asker = Filter { answers: Some(id(1)), ..all() };
    let [(waiter, hold, _)] = bench.want(2, asker).try_into().unwrap();
    assert_eq!(waiter, 2);
    assert!(hands(bench.step(Input::Release(hold))).is_empty(), "not for others while somebody asks");
    let effects = bench.step(Input::AskingOver(id(1)));
    assert_eq!(hands(effects).len(), 1, "then for anybody");
}

#[test]
fn consumers_choose_by_sender() {
    let mut bench = Bench::open();
    bench.hear(5, None, vec![envelope(1)]);
    bench.hear(6, Some(OWNER), vec![envelope(1)]);
    let from = |who: &str| Filter { from: Some(who.parse().unwrap()), ..all() };
    let [(.., record)] = bench.want(1, from("own")).try_into().unwrap();
    assert_eq!(record.from, node(6));
    let [(.., record)] = bench.want(2, from(&format!("node:{}", node(5)))).try_into().unwrap();
    assert_eq!(record.from, node(5));
}

/// Something that may happen to a core.
#[derive(Debug, Clone)]
enum Happens {
    Send(u8, Vec<u8>, u64),
    Hear(u8, u64, u8),
    Exchange(Result<Answer, String>),
    Want,
    Ack,
    Release,
    Pass(u64),
    Jump(i64),
    Restart,
}

fn happens() -> impl Strategy<Value = Happens> {
    let stop = prop_oneof![Just(Stop::Full), Just(Stop::Later), Just(Stop::Refused(Refusal::Topic))];
    let answer = prop_oneof![
        (0_u64..40).prop_map(Answer::Known),
        (0_u32..4, prop::option::of(stop)).prop_map(|(taken, stop)| Answer::Heard { taken, stop }),
    ];
    prop_oneof![
        4 => (any::<u8>(), prop::collection::vec(1_u8..4, 1..3), 1000_u64..90_000).prop_map(|(id, to, ttl)| Happens::Send(id, to, ttl)),
        4 => (1_u8..4, 1_u64..30, 1_u8..4).prop_map(|(from, position, count)| Happens::Hear(from, position, count)),
        6 => answer.prop_map(|answer| Happens::Exchange(Ok(answer))),
        1 => Just(Happens::Exchange(Err("cut".to_owned()))),
        2 => Just(Happens::Want),
        2 => Just(Happens::Ack),
        1 => Just(Happens::Release),
        2 => (0_u64..40_000).prop_map(Happens::Pass),
        1 => (-100_000_i64..100_000).prop_map(Happens::Jump),
        1 => Just(Happens::Restart),
    ]
}

proptest! {
    /// Whatever happens, the core is what would be loaded from the disk; nothing grows beyond its limit; and no exchange or hold is forgotten.
    #[test]
    fn the_core_is_what_is_on_the_disk(all_of_it in prop::collection::vec(happens(), 1..120)) {
        let limits = Limits { outbox_messages: 8, inbox_messages: 6, peer_messages: 4, remembered: 3, ..Limits::default() };
        let mut bench = Bench::new(limits, &["peers a.**"]);
        bench.now.wall = 10_000_000;
        let (mut flights, mut holds): (Vec<(NodeId, u64, Ask)>, Vec<Hold>) = Default::default();
        for (waiter, it) in all_of_it.into_iter().enumerate() {
            let effects = match it {
                Happens::Send(number, to, ttl) => bench.step(Input::Send { token: 0, message: Outgoing { ttl, ..outgoing(number, &to) } }),
                Happens::Hear(from, position, count) => {
                    let batch = (position..position + u64::from(count)).map(envelope).collect();
                    bench.step(Input::Heard { token: 0, from: node(from), owner: None, question: Question::Deliver(batch) })
                }
                Happens::Exchange(result) if !flights.is_empty() => bench.answer(&flights.remove(0), result),
                Happens::Want => bench.step(Input::Want { waiter: waiter as u64, filter: all() }),
                Happens::Ack if !holds.is_empty() => bench.step(Input::Ack { token: 0, hold: holds.remove(0) }),
                Happens::Release if !holds.is_empty() => bench.step(Input::Release(holds.remove(0))),
                Happens::Pass(time) => bench.pass(time),
                Happens::Jump(by) => { bench.now.wall = bench.now.wall.saturating_add_signed(by); Vec::new() }
                Happens::Restart => { flights.clear(); holds.clear(); bench.restart() }
                Happens::Exchange(_) | Happens::Ack | Happens::Release => Vec::new(),
            };
            for effect in effects {
                match effect {
                    Effect::Exchange { to, exchange, ask } => flights.push((to, exchange, ask)),
                    Effect::Hand { hold, .. } => holds.push(hold),
                    _ => {}
                }
            }
            let nodes: std::collections::BTreeSet<_> = flights.iter().map(|(to, ..)| *to).collect();
            prop_assert_eq!(nodes.len(), flights.len(), "two exchanges with one node");
            let stored = bench.disk.stored();
            let outbox: Vec<OutRecord> = bench.core.outbox().map(|status| status.record).collect();
            prop_assert_eq!(&outbox, &stored.outbox);
            let inbox: Vec<InRecord> = bench.core.inbox().cloned().collect();
            prop_assert_eq!(&inbox, &stored.inbox);
            let waiting: Vec<_> = outbox.iter().filter(|record| record.state == OutState::Waiting).collect();
            let unread: Vec<_> = inbox.iter().filter(|record| record.state == InState::Unread).collect();
            prop_assert!(waiting.len() <= 8 && outbox.len() - waiting.len() <= 3);
            prop_assert!(unread.len() <= 6 && inbox.len() - unread.len() <= 3);
            let bodies: std::collections::BTreeSet<_> = waiting.iter().map(|record| record.id).collect();
            prop_assert!(bench.disk.sent.keys().eq(bodies.iter()));
            prop_assert!(bench.disk.bodies.keys().copied().eq(unread.iter().map(|record| record.arrival)));
            // What waits and is not on its way has a next moment.
            prop_assert!(waiting.is_empty() || !flights.is_empty() || bench.core.next_tick().is_some());
        }
    }
}
