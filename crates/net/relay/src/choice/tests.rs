//! Two ends and some relays in virtual time.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::collections::BinaryHeap;

use proptest::prelude::{prop, prop_assert, proptest};

use super::*;

fn node(number: u8) -> NodeId {
    NodeId::from_bytes([number; 32])
}

/// What a relay does at the moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mood {
    Carries,
    /// Drops everything.
    Dead,
    /// Drops everything but probes.
    Liar,
    Refuses(Refusal),
}

#[derive(Debug, Clone, Copy)]
struct Relay {
    /// One way, end to end.
    delay: Duration,
    mood: Mood,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum What {
    Data,
    /// The answer to data.
    Answer,
    Probe(u64),
    Echo(u64),
    Refused(Refusal),
}

/// What arrives, when, at which end, by which relay.
type Event = (std::cmp::Reverse<Duration>, std::cmp::Reverse<u64>, usize, u8, What);

/// Two ends, of which the first leads. Relays are numbered from 10.
struct World {
    began: Instant,
    now: Duration,
    ends: [Choices; 2],
    relays: Vec<Relay>,
    events: BinaryHeap<Event>,
    counter: u64,
    /// When data arrived at each end.
    arrived: [Vec<Duration>; 2],
    /// By whom each end sent data last.
    by: [Option<u8>; 2],
}

impl PartialOrd for What {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for What {
    fn cmp(&self, _: &Self) -> std::cmp::Ordering {
        std::cmp::Ordering::Equal
    }
}

impl World {
    fn new(delays_ms: &[u64]) -> Self {
        let relay = |ms: &u64| Relay { delay: Duration::from_millis(*ms), mood: Mood::Carries };
        Self {
            began: Instant::now(),
            now: Duration::ZERO,
            ends: [Choices::new(node(1), 0), Choices::new(node(2), 1 << 32)],
            relays: delays_ms.iter().map(relay).collect(),
            events: BinaryHeap::new(),
            counter: 0,
            arrived: [Vec::new(), Vec::new()],
            by: [None; 2],
        }
    }

    fn step(&mut self, end: usize, input: Input<'_>) {
        for action in self.ends[end].step(self.began + self.now, input) {
            match action {
                Action::Probe { relay, number, .. } => self.send(end, relay.as_bytes()[0], What::Probe(number)),
                Action::Candidates { target } => {
                    let relays: Vec<NodeId> = (0..self.relays.len()).map(|at| node(10 + at as u8)).collect();
                    self.step(end, Input::Candidates { target, relays: &relays });
                }
            }
        }
    }

    /// Through a relay to the other end.
    fn send(&mut self, end: usize, relay: u8, what: What) {
        let Relay { delay, mood } = self.relays[usize::from(relay) - 10];
        let probing = matches!(what, What::Probe(_) | What::Echo(_));
        let (to, what) = match mood {
            Mood::Dead => return,
            Mood::Liar if !probing => return,
            Mood::Refuses(refusal) => (end, What::Refused(refusal)),
            _ => (1 - end, what),
        };
        self.counter += 1;
        self.events.push((std::cmp::Reverse(self.now + delay), std::cmp::Reverse(self.counter), to, relay, what));
    }

    fn data(&mut self, end: usize, what: What) {
        let target = node(2 - end as u8);
        self.step(end, Input::Sent { target });
        for relay in self.ends[end].ways(self.began + self.now, &target) {
            self.by[end] = Some(relay.as_bytes()[0]);
            self.send(end, relay.as_bytes()[0], what);
        }
    }

    fn arrive(&mut self, end: usize, by: u8, what: What) {
        let (target, relay) = (node(2 - end as u8), node(by));
        match what {
            What::Data | What::Answer => {
                self.arrived[end].push(self.now);
                self.step(end, Input::Heard { target, relay });
                if what == What::Data {
                    self.data(end, What::Answer);
                }
            }
            What::Probe(number) => self.send(end, by, What::Echo(number)),
            What::Echo(number) => self.step(end, Input::Echoed { target, relay, number }),
            What::Refused(refusal) => self.step(end, Input::Refused { target, relay, refusal }),
        }
    }

    /// Runs on while `sender` (if any) sends every 20 ms.
    fn run(&mut self, time: Duration, sender: Option<usize>) {
        let end = self.now + time;
        let mut next_send = self.now;
        while self.now < end {
            while let Some((std::cmp::Reverse(at), ..)) = self.events.peek()
                && *at <= self.now
            {
                let (_, _, to, by, what) = self.events.pop().unwrap();
                self.arrive(to, by, what);
            }
            if let Some(sender) = sender.filter(|_| self.now >= next_send) {
                self.data(sender, What::Data);
                next_send = self.now + Duration::from_millis(20);
            }
            if self.now.as_millis().is_multiple_of(100) {
                self.step(0, Input::Tick);
                self.step(1, Input::Tick);
            }
            self.now += Duration::from_millis(1);
        }
    }

    fn set(&mut self, relay: u8, mood: Mood) {
        self.relays[usize::from(relay) - 10].mood = mood;
    }

    fn used(&self, end: usize) -> Option<u8> {
        self.ends[end].chosen(&node(2 - end as u8)).map(|relay| relay.as_bytes()[0])
    }

    /// The longest time without anything arriving at an end since `since`.
    fn longest_gap(&self, end: usize, since: Duration) -> Duration {
        let times = self.arrived[end].iter().filter(|at| **at >= since);
        let times: Vec<Duration> = std::iter::once(since).chain(times.copied()).chain([self.now]).collect();
        times.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap()
    }
}

const SECOND: Duration = Duration::from_secs(1);

#[test]
fn the_least_round_trip_wins_at_both_ends() {
    for sender in 0..2 {
        let mut world = World::new(&[80, 20, 50]);
        world.run(SECOND * 3, Some(sender));
        assert_eq!((world.used(0), world.used(1)), (Some(11), Some(11)), "sender {sender}");
        assert!(world.arrived[1 - sender][0] <= Duration::from_millis(21), "the first datagram went by all");
    }
}

#[test]
fn two_that_are_alike_do_not_take_turns() {
    let mut world = World::new(&[20, 21]);
    world.run(SECOND * 3, Some(0));
    let used = world.used(0);
    for round in 0..60 {
        world.relays[round % 2].delay = Duration::from_millis(if round % 4 < 2 { 19 } else { 22 });
        world.run(SECOND, Some(0));
        assert_eq!(world.used(0), used, "in round {round}");
    }
}

#[test]
fn one_that_becomes_clearly_better_takes_over() {
    let mut world = World::new(&[80, 120]);
    world.run(SECOND * 5, Some(0));
    assert_eq!(world.used(0), Some(10));
    world.relays[1].delay = Duration::from_millis(10);
    // Others are probed every ten seconds, and each probe counts an eighth.
    world.run(SECOND * 90, Some(0));
    assert_eq!(world.used(0), Some(11));
}

/// However a relay fails, whoever of the two sends: what is sent arrives again within the second that it takes to notice, and some round trips.
#[test]
fn a_relay_that_goes_silent_is_left_within_a_second() {
    for (mood, sender) in [(Mood::Dead, 0), (Mood::Dead, 1), (Mood::Liar, 0), (Mood::Liar, 1)] {
        let mut world = World::new(&[20, 40]);
        world.run(SECOND * 20, Some(sender));
        assert_eq!(world.used(sender), Some(10));
        let failed = world.now;
        world.set(10, mood);
        world.run(SECOND * 10, Some(sender));
        let gap = world.longest_gap(1 - sender, failed);
        assert!(gap < Duration::from_millis(500), "{mood:?}, sender {sender}: {gap:?}");
        let answers = world.longest_gap(sender, failed);
        assert!(answers < Duration::from_millis(1500), "{mood:?}, sender {sender}: answers after {answers:?}");
        assert_eq!(world.used(sender), Some(11), "{mood:?}");
    }
}

#[test]
fn a_relay_that_refuses_is_left_at_once_and_one_out_of_budget_is_not() {
    let mut world = World::new(&[20, 40]);
    world.run(SECOND * 5, Some(0));
    world.set(10, Mood::Refuses(Refusal::Budget));
    world.run(Duration::from_millis(100), Some(0));
    assert_eq!(world.used(0), Some(10));
    world.set(10, Mood::Refuses(Refusal::Off));
    let failed = world.now;
    world.run(SECOND * 3, Some(0));
    assert_eq!(world.used(0), Some(11));
    assert!(world.longest_gap(1, failed) < Duration::from_millis(200));
    let (report, why) = world.ends[0].report(world.began + world.now, &node(2)).unwrap();
    assert_eq!(report[0].state, WayState::Refuses(Refusal::Off));
    assert_eq!(why, Why::Refused(node(10)));
}

#[test]
fn a_relay_that_recovers_is_used_again() {
    let mut world = World::new(&[20, 60]);
    world.run(SECOND * 5, Some(0));
    world.set(10, Mood::Dead);
    world.run(SECOND * 5, Some(0));
    assert_eq!(world.used(0), Some(11));
    world.set(10, Mood::Carries);
    world.run(SECOND * 60, Some(0));
    assert_eq!(world.used(0), Some(10));
}

#[test]
fn the_only_relay_is_tried_on_and_on() {
    let mut world = World::new(&[20]);
    world.run(SECOND * 3, Some(0));
    world.set(10, Mood::Dead);
    world.run(SECOND * 20, Some(0));
    world.set(10, Mood::Carries);
    let recovered = world.now;
    world.run(SECOND * 2, Some(0));
    assert!(world.longest_gap(1, recovered) < SECOND, "{:?}", world.longest_gap(1, recovered));
}

/// Keep-alives, one answered datagram every two seconds, do not look like silence.
#[test]
fn an_idle_connection_stays_where_it_is_and_costs_little() {
    let mut world = World::new(&[20, 40]);
    world.run(SECOND * 3, Some(0));
    let before = world.counter;
    for _ in 0..60 {
        world.data(0, What::Data);
        world.run(SECOND * 2, None);
        assert_eq!((world.used(0), world.used(1)), (Some(10), Some(10)));
        // An acknowledgement that nobody answers.
        world.data(0, What::Answer);
        world.run(Duration::from_millis(700), None);
    }
    let per_second = (world.counter - before) as f64 / 162.0;
    assert!(per_second < 4.0, "{per_second} frames each second");
}

#[test]
fn what_nobody_needs_is_not_measured_and_forgotten() {
    let mut world = World::new(&[20]);
    world.run(SECOND * 3, None);
    assert_eq!(world.counter, 0, "nothing was sent, so nothing is measured");
    world.run(SECOND, Some(0));
    world.run(SECOND * 15, None);
    let before = world.counter;
    world.run(SECOND * 20, None);
    assert_eq!(world.counter, before);
    assert!(!world.ends[0].is_active(world.began + world.now));
    world.run(FORGOTTEN, None);
    assert!(world.ends[0].targets.is_empty());
}

/// Of many candidates few know the target: all are asked in turn.
#[test]
fn the_one_among_many_that_carries_is_found() {
    let mut world = World::new(&[10; 60]);
    for relay in 0..60 {
        world.set(10 + relay, if relay == 57 { Mood::Carries } else { Mood::Refuses(Refusal::Unknown) });
    }
    world.run(SECOND * 60, Some(0));
    assert_eq!(world.used(0), Some(67));
}

#[test]
fn memory_is_bounded() {
    let (mut choices, now) = (Choices::new(node(1), 0), Instant::now());
    let relays: Vec<NodeId> = (10..40).map(node).collect();
    for number in 0..2 * TARGETS_MAX as u32 {
        let mut id = [9; 32];
        id[..4].copy_from_slice(&number.to_le_bytes());
        let target = NodeId::from_bytes(id);
        choices.step(now, Input::Sent { target });
    }
    assert_eq!(choices.targets.len(), TARGETS_MAX);
    let target = *choices.targets.keys().next().unwrap();
    choices.step(now, Input::Candidates { target, relays: &relays });
    for relay in &relays {
        choices.step(now, Input::Heard { target, relay: *relay });
        assert!(choices.targets[&target].ways.len() <= RELAYS_MAX);
        let chosen = choices.chosen(&target);
        assert!(chosen.is_none_or(|chosen| choices.targets[&target].ways.iter().any(|way| way.relay == chosen)));
    }
}

proptest! {
    /// Whatever relays do: as soon as one carries for a few seconds, what is sent arrives.
    #[test]
    fn one_relay_that_works_is_enough(
        moods in prop::collection::vec((0usize..4, 0usize..5), 1..12),
        sender in 0usize..2,
        good in 0usize..4,
    ) {
        let mut world = World::new(&[10, 30, 60, 100]);
        world.run(SECOND, Some(sender));
        for (relay, mood) in moods {
            let moods = [Mood::Carries, Mood::Dead, Mood::Liar, Mood::Refuses(Refusal::Away), Mood::Refuses(Refusal::Budget)];
            world.set(10 + relay as u8, moods[mood]);
            world.run(SECOND * 2, Some(sender));
        }
        for relay in 0..4 {
            world.set(10 + relay, if usize::from(relay) == good { Mood::Carries } else { Mood::Dead });
        }
        world.run(SECOND * 20, Some(sender));
        let since = world.now - SECOND;
        let gap = world.longest_gap(1 - sender, since);
        prop_assert!(gap < Duration::from_millis(300), "{gap:?}");
        prop_assert!(world.used(sender) == Some(10 + good as u8));
    }
}
