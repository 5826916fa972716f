//! Networks of a few cores in one test, with messages that are lost, late and out of order; and attacks on one core.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::collections::BTreeMap;

use atoll_keys::{NodeKey, Signed};
use atoll_wire::{decode, encode};
use proptest::prelude::{any, proptest};
use proptest::{prop_assert, prop_assert_eq, test_runner::TestCaseError};
use serde::{Deserialize, Serialize};

use super::*;
use crate::message::{HOPS_MAX, Request, Update};
use crate::{Address, Header, Hop, MESSAGE_BYTES_MAX, Phase, decode_message};

const NOW: Duration = Duration::from_secs(1_800_000_000);

/// A beacon whose signature is a field.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Plain(Beacon, bool);

impl Sealed for Plain {
    fn open(&self) -> Option<Beacon> {
        self.1.then_some(self.0)
    }

    fn claimed_node(&self) -> NodeId {
        self.0.node
    }
}

fn node(number: usize) -> NodeId {
    let mut bytes = [5; 32];
    bytes[..8].copy_from_slice(&(number as u64).to_le_bytes());
    NodeId::from_bytes(bytes)
}

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

/// What is on its way.
struct Sent {
    due: Duration,
    from: usize,
    to: usize,
    message: Message<Plain>,
}

/// A network in which everything may go wrong.
struct Net {
    now: Duration,
    cores: Vec<Router<Plain>>,
    /// Round trips of links that stand, in milliseconds.
    links: BTreeMap<(usize, usize), u64>,
    sent: Vec<Sent>,
    chance: u64,
    /// Out of 100 messages, so many are lost, and how late others may be.
    loss: u64,
    late_ms: u64,
}

impl Net {
    fn new(nodes: usize, seed: u64) -> Self {
        let cores = (0..nodes).map(|number| Router::new(node(number))).collect();
        let (links, sent) = (BTreeMap::new(), Vec::new());
        Self { now: NOW, cores, links, sent, chance: seed, loss: 0, late_ms: 0 }
    }

    fn below(&mut self, end: u64) -> u64 {
        self.chance = self.chance.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.chance >> 33) % end
    }

    fn step(&mut self, at: usize, input: Input<Plain>) {
        for each in self.cores[at].step(self.now, input) {
            match each {
                Output::Send { to, message } => {
                    let to = (0..self.cores.len()).find(|other| node(*other) == to).unwrap();
                    let Some(round_trip) = self.links.get(&(at.min(to), at.max(to))).copied() else { continue };
                    let (loss, late) = (self.loss, self.below(self.late_ms + 1));
                    if self.below(100) >= loss {
                        let message = decode_message(&encode(&message)).unwrap();
                        self.sent.push(Sent { due: self.now + ms(round_trip / 2 + late), from: at, to, message });
                    }
                }
                Output::Sign { above, landmark } => {
                    let sequence = millis(self.now).max(above + 1);
                    let beacon = Plain(Beacon { node: node(at), sequence, landmark }, true);
                    self.step(at, Input::Own(beacon));
                }
                Output::Moved(_) => {}
            }
        }
    }

    fn link(&mut self, a: usize, b: usize, round_trip_ms: u64) {
        let pair = (a.min(b), a.max(b));
        if a != b && !self.links.contains_key(&pair) {
            self.links.insert(pair, round_trip_ms);
            for (at, other) in [(a, b), (b, a)] {
                self.step(at, Input::Up { neighbour: node(other), round_trip: ms(round_trip_ms) });
            }
        }
    }

    fn unlink(&mut self, a: usize, b: usize) {
        if self.links.remove(&(a.min(b), a.max(b))).is_some() {
            self.sent.retain(|sent| (sent.from.min(sent.to), sent.from.max(sent.to)) != (a.min(b), a.max(b)));
            for (at, other) in [(a, b), (b, a)] {
                self.step(at, Input::Down(node(other)));
            }
        }
    }

    /// Lets time pass, checking that nothing loops whenever something happened.
    fn run(&mut self, time: Duration) -> Result<(), TestCaseError> {
        let until = self.now + time;
        loop {
            let message = (0..self.sent.len()).min_by_key(|at| self.sent[*at].due);
            let message_due = message.map_or(until, |at| self.sent[at].due);
            let (tick_due, tick) =
                self.cores.iter().enumerate().map(|(at, core)| (core.wake(self.now), at)).min().unwrap();
            let due = message_due.min(tick_due);
            if due >= until {
                self.now = until;
                return Ok(());
            }
            self.now = due.max(self.now);
            match message.filter(|_| message_due <= tick_due) {
                Some(at) => {
                    let Sent { from, to, message, .. } = self.sent.swap_remove(at);
                    self.step(to, Input::Received { from: node(from), message });
                }
                None => self.step(tick, Input::Tick),
            }
            self.check_no_loops()?;
        }
    }

    fn number(&self, id: &NodeId) -> usize {
        (0..self.cores.len()).find(|number| node(*number) == *id).unwrap()
    }

    fn check_no_loops(&self) -> Result<(), TestCaseError> {
        for to in 0..self.cores.len() {
            for from in 0..self.cores.len() {
                let (mut at, mut hops) = (from, 0);
                while at != to
                    && let Some(next) = self.cores[at].next_hop(&node(to))
                {
                    (at, hops) = (self.number(&next), hops + 1);
                    prop_assert!(hops <= self.cores.len(), "a loop on the way from {from} to {to}");
                }
            }
        }
        Ok(())
    }

    /// Shortest round trips from a node, `u64::MAX` where there is no way.
    fn shortest(&self, from: usize) -> Vec<u64> {
        let mut best = vec![u64::MAX; self.cores.len()];
        best[from] = 0;
        for _ in 0..self.cores.len() {
            for ((a, b), cost) in &self.links {
                for (a, b) in [(*a, *b), (*b, *a)] {
                    best[b] = best[b].min(best[a].saturating_add(*cost));
                }
            }
        }
        best
    }

    /// Every way there is is known, and not much longer than the shortest.
    fn check_converged(&self) -> Result<(), TestCaseError> {
        for from in 0..self.cores.len() {
            for (to, shortest) in self.shortest(from).into_iter().enumerate().filter(|(to, _)| *to != from) {
                let found = self.cores[from].round_trip(&node(to)).map(|time| time.as_millis() as u64);
                prop_assert_eq!(found.is_some(), shortest < u64::MAX, "from {} to {}: {:?}", from, to, found);
                // Each hop may be a tenth off, by the margin without which routes would waver.
                prop_assert!(
                    found.is_none_or(|found| found <= shortest * 3 / 2 + 5),
                    "{from} to {to}: {found:?} of {shortest}, {:?}",
                    self.links
                );
                let header = self.cores[from].header(node(to), None);
                if let Some(header) = header {
                    prop_assert_eq!(self.deliver(from, header), Some(node(to)));
                }
            }
        }
        Ok(())
    }

    /// Where a packet ends up.
    fn deliver(&self, from: usize, mut header: Header) -> Option<NodeId> {
        let mut at = from;
        loop {
            match self.cores[at].forward(header) {
                Hop::Here => return Some(node(at)),
                Hop::Drop(_) => return None,
                Hop::Next(next, rest) => (at, header) = (self.number(&next), rest),
            }
        }
    }

    fn random_change(&mut self) {
        let count = self.cores.len() as u64;
        let (a, b, what) = (self.below(count) as usize, self.below(count) as usize, self.below(4));
        let round_trip = 1 + self.below(100);
        match what {
            0 | 1 => self.link(a, b, round_trip),
            2 => self.unlink(a, b),
            _ => {
                if let Some(cost) = self.links.get_mut(&(a.min(b), a.max(b))) {
                    *cost = round_trip;
                    for _ in 0..40 {
                        for (at, other) in [(a, b), (b, a)] {
                            let round_trip = ms(round_trip);
                            self.step(at, Input::Measured { neighbour: node(other), round_trip });
                        }
                    }
                }
            }
        }
    }
}

proptest! {
    #![proptest_config(proptest::test_runner::Config { cases: 24, ..Default::default() })]

    /// The promise: no loop at any time, and in the end the shortest ways.
    #[test]
    fn never_a_loop_and_in_the_end_every_way(seed in any::<u64>(), nodes in 3..10_usize, loss in 0..30_u64, late_ms in 0..500_u64) {
        let mut net = Net::new(nodes, seed);
        for number in 1..nodes {
            let other = net.below(number as u64) as usize;
            let round_trip = 1 + net.below(100);
            net.link(number, other, round_trip);
        }
        (net.loss, net.late_ms) = (loss, late_ms);
        for _ in 0..30 {
            net.random_change();
            let pause = net.below(800);
            net.run(ms(pause))?;
        }
        (net.loss, net.late_ms) = (0, 0);
        // What was lost is made up for when beacons are signed anew; where nothing was lost or late, at once.
        let repair = if loss + late_ms == 0 { Duration::from_secs(20) } else { Duration::from_secs(150 * 60) };
        net.run(repair)?;
        net.check_converged()?;
    }
}

/// A ring: 0 – 1 – … – 0.
fn ring(nodes: usize) -> Net {
    let mut net = Net::new(nodes, 1);
    for number in 0..nodes {
        net.link(number, (number + 1) % nodes, 10);
    }
    net.run(Duration::from_secs(5)).unwrap();
    net.check_converged().unwrap();
    net
}

#[test]
fn a_broken_link_is_routed_around_within_a_second() {
    let mut net = ring(8);
    assert_eq!(net.cores[0].next_hop(&node(3)), Some(node(1)));
    net.unlink(1, 2);
    net.run(ms(1000)).unwrap();
    net.check_converged().unwrap();
    assert_eq!(net.cores[0].next_hop(&node(3)), Some(node(7)));
}

#[test]
fn a_network_that_was_apart_comes_together_within_seconds() {
    let mut net = Net::new(6, 1);
    for number in 1..6 {
        net.link(number - 1, number, 10);
    }
    net.run(Duration::from_secs(5)).unwrap();
    net.unlink(2, 3);
    net.run(Duration::from_secs(300)).unwrap();
    net.check_converged().unwrap();
    // Longer than before, so that nothing of what was said then is good enough.
    net.link(2, 3, 90);
    net.run(Duration::from_secs(3)).unwrap();
    net.check_converged().unwrap();
}

#[test]
fn a_node_that_drops_what_it_forwards_is_routed_around() {
    let mut net = ring(8);
    net.step(0, Input::Silent { to: node(3), via: node(1) });
    net.run(ms(1000)).unwrap();
    assert_eq!(net.cores[0].next_hop(&node(3)), Some(node(7)));
    assert_eq!(net.cores[0].next_hop(&node(2)), Some(node(1)), "one silent destination may be the destination's fault");
    for to in [1, 2] {
        net.step(0, Input::Silent { to: node(to), via: node(1) });
    }
    net.run(ms(1000)).unwrap();
    for to in 1..8 {
        assert_eq!(net.cores[0].next_hop(&node(to)), Some(node(7)), "to {to}");
    }
    // The neighbours of the one that drops know nothing of it, and are not led into a loop.
    net.run(Duration::from_secs(600)).unwrap();
}

#[test]
fn an_announcement_that_is_forged_old_or_replayed_has_no_effect() {
    let mut net = ring(5);
    let now_ms = millis(net.now);
    let before: Vec<_> = (1..5).map(|to| net.cores[0].next_hop(&node(to))).collect();
    let sequence = net.cores[2].own.as_ref().unwrap().0.sequence;
    let route = |sequence: u64, valid: bool, metric_us: u32| Update::Route {
        beacon: Plain(Beacon { node: node(2), sequence, landmark: false }, valid),
        metric_us,
        path: vec![1],
    };
    let attacks = [
        ("forged", route(sequence + 1, false, 1)),
        ("old", route(sequence - 1, true, 1)),
        ("expired", route(now_ms - 3 * 3_600_000, true, 1)),
        ("of the future", route(now_ms + 3_600_000, true, 1)),
        ("as good as what we said ourselves", route(sequence, true, 20_000)),
        (
            "without a way back",
            Update::Route {
                beacon: Plain(Beacon { node: node(2), sequence: sequence + 1, landmark: false }, true),
                metric_us: 1,
                path: Vec::new(),
            },
        ),
    ];
    for (what, update) in attacks {
        let message = Message { updates: vec![update], requests: Vec::new() };
        net.step(0, Input::Received { from: node(4), message });
        net.run(ms(1000)).unwrap();
        let after: Vec<_> = (1..5).map(|to| net.cores[0].next_hop(&node(to))).collect();
        assert_eq!(after, before, "{what}");
    }
    // A stranger is no neighbour.
    let message = Message { updates: vec![route(sequence + 5, true, 1)], requests: Vec::new() };
    net.step(0, Input::Received { from: node(3), message });
    assert_eq!(net.cores[0].next_hop(&node(2)), before[1]);
}

#[test]
fn real_signatures_are_checked() {
    let (key, other) = (NodeKey::generate(), NodeKey::generate());
    let beacon = Beacon { node: key.id(), sequence: 7, landmark: true };
    let signed: Signed<Beacon> = decode(&encode(&Signed::sign(&beacon, &key))).unwrap();
    assert_eq!((signed.open(), signed.claimed_node()), (Some(beacon), key.id()));
    assert_eq!(Signed::sign(&beacon, &other).open(), None);
}

/// A neighbour makes up nodes that are near, and does not push out those of others.
#[test]
fn state_is_bounded_and_one_neighbour_does_not_take_it_all() {
    let mut core: Router<Plain> = Router::new(node(0));
    for number in [1, 2] {
        core.step(NOW, Input::Up { neighbour: node(number), round_trip: ms(10) });
    }
    let told = |from: usize, number: usize, metric_us: u32| {
        let beacon =
            Plain(Beacon { node: node(number), sequence: millis(NOW), landmark: number.is_multiple_of(2) }, true);
        let updates = vec![Update::Route { beacon, metric_us, path: vec![1] }];
        Input::Received { from: node(from), message: Message { updates, requests: Vec::new() } }
    };
    for number in 10..18 {
        core.step(NOW, told(1, number, 50_000));
    }
    for number in 1000..20_000 {
        core.step(NOW + ms(number as u64), told(2, number, 1));
    }
    let counts = core.counts();
    assert!(counts.vicinity <= 16 && counts.landmarks <= 8 && counts.held <= 16 * 16, "{counts:?}");
    let kept = (10..18).filter(|number| core.next_hop(&node(*number)) == Some(node(1))).count();
    assert!(kept >= 4, "{kept}");
    let honest = core.step(NOW, Input::Size(1_000_000));
    assert!(honest.len() <= 2);
    for number in 100_000..130_000 {
        core.step(NOW + ms(number as u64), told(1 + number % 4 / 2, number, 1000));
    }
    let counts = core.counts();
    assert!(counts.vicinity <= 2000 && counts.landmarks <= 3000, "{counts:?}");
}

/// A line in which only the first node is a landmark, as if there were many more nodes.
#[test]
fn packets_find_who_is_not_near_by_landmark_and_labels_and_never_go_back() {
    let mut net = Net::new(12, 1);
    for number in 1..12 {
        net.link(number - 1, number, 10);
    }
    net.run(Duration::from_secs(5)).unwrap();
    let way_back = net.cores[11].way_back(&node(0)).unwrap();
    assert_eq!(way_back.path.len(), 11);
    // As if nobody knew node 11: by ports alone.
    let header = Header { to: node(99), phase: Phase::Landmark(way_back.clone()), hops: HOPS_MAX as u8 };
    let (mut at, mut header, mut seen) = (0, header, vec![0]);
    while let Hop::Next(next, rest) = net.cores[at].forward(header.clone()) {
        (at, header) = (net.number(&next), rest);
        seen.push(at);
    }
    assert_eq!(seen, (0..12).collect::<Vec<_>>());
    // Whoever knows the destination takes over, and from there on only they do.
    let header = Header { to: node(11), phase: Phase::Landmark(way_back), hops: HOPS_MAX as u8 };
    let Hop::Next(_, rest) = net.cores[3].forward(header) else { panic!() };
    assert_eq!(rest.phase, Phase::Direct);
    let lost = Header { to: node(99), phase: Phase::Direct, hops: 3 };
    assert!(matches!(net.cores[3].forward(lost), Hop::Drop(crate::Lost::NoRoute)));
    let tired = Header { to: node(11), phase: Phase::Direct, hops: 0 };
    assert!(matches!(net.cores[3].forward(tired), Hop::Drop(crate::Lost::TooFar)));
}

#[test]
fn a_landmark_by_way_of_which_nothing_arrives_is_not_named() {
    let mut net = Net::new(40, 1);
    for number in 0..40 {
        net.step(number, Input::Size(16));
        net.link(number, number.saturating_sub(1), 10);
    }
    net.run(Duration::from_secs(5)).unwrap();
    let named = net.cores[20].address().unwrap().landmark;
    assert!(net.number(&named).abs_diff(20) < 20);
    net.step(20, Input::Useless(named));
    net.run(Duration::from_secs(1)).unwrap();
    let other = net.cores[20].address().unwrap().clone();
    assert_ne!(other.landmark, named);
    // The new address leads here, also where nobody on the way knows more.
    let header = Header { to: node(20), phase: Phase::Landmark(other.clone()), hops: HOPS_MAX as u8 };
    assert_eq!(net.deliver(net.number(&other.landmark), header), Some(node(20)));
    net.run(Duration::from_secs(11 * 60)).unwrap();
    net.step(20, Input::Measured { neighbour: node(19), round_trip: ms(100) });
    net.run(Duration::from_secs(60)).unwrap();
    assert!(net.cores[20].address().is_some());
}

#[test]
fn messages_have_limits() {
    let beacon = Plain(Beacon { node: node(1), sequence: 1, landmark: false }, true);
    let route = |hops: usize| Update::Route { beacon: beacon.clone(), metric_us: 1, path: vec![1; hops] };
    let request = Request { node: node(1), sequence: 1, metric_us: 1, hops: 1 };
    let check = |updates: Vec<Update<Plain>>, requests: usize, fits: bool| {
        let message = Message { updates, requests: vec![request; requests] };
        assert_eq!(decode_message::<Plain>(&encode(&message)).is_ok(), fits);
    };
    check(vec![route(HOPS_MAX); 32], 32, true);
    check(vec![route(HOPS_MAX + 1)], 0, false);
    check(vec![route(1); 33], 0, false);
    check(Vec::new(), 33, false);
    assert!(decode_message::<Plain>(&vec![0; MESSAGE_BYTES_MAX + 1]).is_err());
    let key = NodeKey::generate();
    let beacon = Signed::sign(&Beacon { node: key.id(), sequence: u64::MAX, landmark: true }, &key);
    let updates = vec![Update::Route { beacon, metric_us: u32::MAX, path: vec![Port::MAX; HOPS_MAX] }; 32];
    let request = Request { node: key.id(), sequence: u64::MAX, metric_us: u32::MAX, hops: u8::MAX };
    let largest = encode(&Message { updates, requests: vec![request; 32] });
    assert!(largest.len() <= MESSAGE_BYTES_MAX, "{}", largest.len());
}

#[test]
fn who_restarts_signs_above_what_is_about() {
    let mut net = ring(4);
    let before = net.cores[0].own.clone().unwrap().0;
    net.cores[0].own = None;
    let update = Update::Route {
        beacon: Plain(Beacon { sequence: before.sequence + 500, ..before }, true),
        metric_us: 1,
        path: vec![1],
    };
    net.step(0, Input::Received { from: node(1), message: Message { updates: vec![update], requests: Vec::new() } });
    net.run(ms(1500)).unwrap();
    let after = net.cores[0].own.clone().unwrap().0;
    assert!(after.sequence > before.sequence + 500);
    assert_ne!(Some(Address { landmark: node(0), path: Vec::new() }), net.cores[0].address().cloned());
}
