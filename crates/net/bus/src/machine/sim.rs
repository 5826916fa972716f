//! Seeded simulation: a few nodes, a network that loses, repeats and reorders, crashes between any two steps, clocks that jump. A failure names its seed; `BUS_SIM_SEED` runs
//! that one alone.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};

use atoll_ids::{MessageId, NodeId, OwnerId};
use bytes::Bytes;

use super::disk::Disk;
use super::{Ask, Core, CoreConfig, Effect, Filter, Hold, Input, Now, Outgoing};
use crate::frames::{Answer, Envelope, Payload, Question};
use crate::limits::{Limits, TTL_MS_DEFAULT, TTL_MS_MIN};
use crate::records::{InRecord, InState, OutState, Write};
use crate::rule::Rules;
use crate::topic::{Pattern, Topic};

/// An exchange without an answer is given up after this, as by the driver.
const LATE_MS: u64 = 10_000;

/// Moments of trouble in a run.
const TROUBLES: usize = 600;

/// How long the nodes may take to bring everything to its end once there is peace, in simulated milliseconds.
const PEACE_MS: u64 = 3600 * 1000;

const OWNER: OwnerId = OwnerId::from_bytes([200; 32]);

struct Rng(u64);

impl Rng {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }

    /// True once in so many times.
    fn once_in(&mut self, times: u64) -> bool {
        self.below(times) == 0
    }
}

#[derive(Debug, Clone)]
enum Event {
    Question { from: usize, to: usize, run: u64, exchange: u64, question: Question },
    Answer { to: usize, by: usize, run: u64, exchange: u64, answer: Result<Answer, String> },
}

/// What was durably accepted, for one recipient.
#[derive(Debug)]
struct Accepted {
    order: u64,
    from: usize,
    topic: Topic,
    ttl: u64,
    at: u64,
    answers: bool,
    payload: Bytes,
}

struct SimNode {
    id: NodeId,
    disk: Disk,
    core: Option<Core>,
    /// Counts its runs.
    run: u64,
    began: u64,
    wall: i64,
    jumped: bool,
    /// The consumer: whether it waits, and what it has.
    waits: bool,
    has: Option<(Hold, InRecord)>,
}

struct World {
    seed: u64,
    rng: Rng,
    time: u64,
    events: BinaryHeap<Reverse<(u64, u64)>>,
    queued: BTreeMap<u64, Event>,
    counter: u64,
    nodes: Vec<SimNode>,
    limits: Limits,
    jumps: bool,
    peace: bool,
    /// Questions being answered: token to who asked.
    asked: BTreeMap<u64, (usize, u64, u64)>,
    accepted: BTreeMap<(usize, MessageId), Accepted>,
    /// By receiver and id, in the order in which they were taken for good.
    taken: BTreeMap<(usize, MessageId), u64>,
    last_taken: BTreeMap<(usize, usize), u64>,
    told: BTreeSet<(usize, MessageId)>,
    crashes: u64,
}

impl World {
    fn new(seed: u64) -> Self {
        let mut rng = Rng(seed);
        let remembered = if rng.once_in(2) { 100_000 } else { 8 };
        let limits = Limits {
            outbox_messages: 60,
            outbox_bytes: 4000,
            inbox_messages: 12,
            peer_messages: 5,
            remembered,
            ..Limits::default()
        };
        let count = 2 + rng.below(3) as u8;
        let node = |number: u8| SimNode {
            id: NodeId::from_bytes([number + 1; 32]),
            disk: Disk::default(),
            core: None,
            run: 0,
            began: 0,
            wall: 1_800_000_000_000,
            jumped: false,
            waits: false,
            has: None,
        };
        let mut world = Self {
            seed,
            jumps: rng.once_in(2),
            rng,
            time: 0,
            events: BinaryHeap::new(),
            queued: BTreeMap::new(),
            counter: 0,
            nodes: (0..count).map(node).collect(),
            limits,
            peace: false,
            asked: BTreeMap::new(),
            accepted: BTreeMap::new(),
            taken: BTreeMap::new(),
            last_taken: BTreeMap::new(),
            told: BTreeSet::new(),
            crashes: 0,
        };
        for number in 0..world.nodes.len() {
            world.start(number);
        }
        world
    }

    fn moment(&self, number: usize) -> Now {
        let node = &self.nodes[number];
        let wall = node.wall + i64::try_from(self.time).unwrap();
        Now { steady: self.time - node.began, wall: u64::try_from(wall.max(0)).unwrap() }
    }

    fn start(&mut self, number: usize) {
        let rules = ["peers open.**", "own own.**"].map(|rule| rule.parse().unwrap());
        let seed = self.rng.next();
        let config = CoreConfig { limits: self.limits, rules: Rules::new(OWNER, rules.to_vec()), seed };
        let node = &mut self.nodes[number];
        node.run += 1;
        node.began = self.time;
        (node.waits, node.has) = (false, None);
        let now = self.moment(number);
        let node = &mut self.nodes[number];
        node.core = Some(Core::load(config, now, node.disk.stored()));
    }

    fn crash(&mut self, number: usize) {
        self.nodes[number].core = None;
        self.crashes += 1;
    }

    fn at(&mut self, time: u64, event: Event) {
        self.counter += 1;
        self.events.push(Reverse((time, self.counter)));
        self.queued.insert(self.counter, event);
    }

    /// Puts something on the wire: it may be lost, come twice, and overtake others.
    fn wire(&mut self, event: &Event) {
        if self.peace {
            return self.at(self.time + 1, event.clone());
        }
        let copies = [0, 1, 1, 1, 2][self.rng.below(5) as usize];
        for _ in 0..copies {
            let delay = if self.rng.once_in(10) { self.rng.below(60_000) } else { self.rng.below(500) };
            self.at(self.time + delay, event.clone());
        }
    }

    /// One step of a node, with the crashes that may happen in it.
    fn drive(&mut self, number: usize, input: Input) {
        let now = self.moment(number);
        let Some(core) = self.nodes[number].core.as_mut() else { return };
        let out = core.step(now, input);
        if !self.peace && self.rng.once_in(150) {
            return self.crash(number);
        }
        self.commit(number, out.writes);
        if !self.peace && self.rng.once_in(150) {
            return self.crash(number);
        }
        for effect in out.effects {
            self.carry_out(number, effect);
        }
        self.check_bounds(number);
    }

    fn commit(&mut self, number: usize, writes: Vec<Write>) {
        let mut payload = Bytes::new();
        for write in writes {
            match &write {
                Write::PutSent(_, sent) => payload = sent.clone(),
                Write::PutOut(record) if record.state == OutState::Waiting => {
                    let to = self.nodes.iter().position(|node| node.id == record.to).unwrap();
                    self.counter += 1;
                    let accepted = Accepted {
                        order: self.counter,
                        from: number,
                        topic: record.topic.clone(),
                        ttl: record.ttl,
                        at: self.time,
                        answers: record.answers.is_some(),
                        payload: payload.clone(),
                    };
                    self.accepted.entry((to, record.id)).or_insert(accepted);
                }
                Write::PutIn(record) if matches!(record.state, InState::Taken { .. }) => self.is_taken(number, record),
                _ => {}
            }
            self.nodes[number].disk.apply(write);
        }
    }

    fn is_taken(&mut self, number: usize, record: &InRecord) {
        let seed = self.seed;
        let key = (number, record.id);
        let accepted = &self.accepted[&key];
        assert!(self.taken.insert(key, accepted.order).is_none(), "seed {seed}: taken twice: {record:?}");
        let last = self.last_taken.entry((number, accepted.from)).or_default();
        assert!(*last < accepted.order, "seed {seed}: out of order: {record:?}");
        *last = accepted.order;
    }

    fn carry_out(&mut self, number: usize, effect: Effect) {
        let run = self.nodes[number].run;
        match effect {
            Effect::Exchange { to, exchange, ask } => {
                let to = self.nodes.iter().position(|node| node.id == to).unwrap();
                let question = self.question(number, ask);
                let late = Event::Answer { to: number, by: to, run, exchange, answer: Err("late".to_owned()) };
                self.at(self.time + LATE_MS, late);
                self.wire(&Event::Question { from: number, to, run, exchange, question });
            }
            Effect::Answer { token, answer } => {
                let (from, run, exchange) = self.asked.remove(&token).unwrap();
                self.wire(&Event::Answer { to: from, by: number, run, exchange, answer: Ok(answer) });
            }
            Effect::Hand { hold, record, .. } => {
                let (seed, key) = (self.seed, (number, record.id));
                assert!(!self.told.contains(&key), "seed {seed}: handed out after its end: {record:?}");
                let body = &self.nodes[number].disk.bodies[&record.arrival];
                assert_eq!(*body, self.accepted[&key].payload, "seed {seed}");
                self.nodes[number].waits = false;
                self.nodes[number].has = Some((hold, record));
            }
            Effect::Acked { held, .. } => {
                let (_, record) = self.nodes[number].has.take().unwrap();
                assert!(held, "seed {}: the only consumer had it", self.seed);
                self.told.insert((number, record.id));
            }
            Effect::Accepted { .. } | Effect::Settled(_) => {}
        }
    }

    fn question(&self, number: usize, ask: Ask) -> Question {
        let Ask::Deliver(batch) = ask else { return Question::Hello };
        let envelope = |(record, ttl): (crate::OutRecord, u64)| Envelope {
            position: record.position,
            id: record.id,
            topic: record.topic,
            answers: record.answers,
            ttl,
            payload: Payload(self.nodes[number].disk.sent[&record.id].clone()),
        };
        Question::Deliver(batch.into_iter().map(envelope).collect())
    }

    fn check_bounds(&self, number: usize) {
        let Some(core) = &self.nodes[number].core else { return };
        let (counts, limits) = (core.counts(), self.limits);
        assert!(counts.waiting <= limits.outbox_messages as u64 && counts.unread <= limits.inbox_messages as u64);
        let Disk { outbox, sent, inbox, bodies, .. } = &self.nodes[number].disk;
        assert!(outbox.len() as u64 <= counts.waiting + limits.remembered as u64);
        assert!(sent.len() as u64 <= counts.waiting && bodies.len() as u64 == counts.unread);
        assert!(inbox.len() as u64 <= counts.unread + limits.remembered as u64);
    }

    /// What happens next in the world, not later than `until`.
    fn advance(&mut self, until: u64) {
        loop {
            let ticks = self.nodes.iter().filter_map(|node| Some(node.core.as_ref()?.next_tick()? + node.began));
            let tick = ticks.min().unwrap_or(u64::MAX).max(self.time);
            let event = self.events.peek().map_or(u64::MAX, |Reverse((time, _))| *time);
            let next = tick.min(event);
            if next > until {
                self.time = self.time.max(until);
                return;
            }
            self.time = self.time.max(next);
            if event <= tick {
                let Reverse((_, counter)) = self.events.pop().unwrap();
                let event = self.queued.remove(&counter).unwrap();
                self.happens(event);
                continue;
            }
            for number in 0..self.nodes.len() {
                let node = &self.nodes[number];
                let due = node.core.as_ref().and_then(Core::next_tick).is_some_and(|at| at + node.began <= self.time);
                if due {
                    self.drive(number, Input::Tick);
                }
            }
        }
    }

    fn happens(&mut self, event: Event) {
        match event {
            Event::Question { from, to, run, exchange, question } => {
                if self.nodes[to].core.is_none() {
                    return;
                }
                self.counter += 1;
                let token = self.counter;
                self.asked.insert(token, (from, run, exchange));
                let known = self.peace || !self.rng.once_in(8);
                let owner = known.then_some(OWNER);
                self.drive(to, Input::Heard { token, from: self.nodes[from].id, owner, question });
            }
            Event::Answer { to, by, run, exchange, answer } => {
                if self.nodes[to].run == run {
                    let by = self.nodes[by].id;
                    self.drive(to, Input::Exchanged { to: by, exchange, result: answer });
                }
            }
        }
    }

    /// Somebody does something.
    fn trouble(&mut self) {
        let number = self.rng.below(self.nodes.len() as u64) as usize;
        if self.nodes[number].core.is_none() {
            if self.rng.once_in(3) {
                self.start(number);
            }
            return;
        }
        match self.rng.below(20) {
            0..8 => self.sends(number),
            8..17 => self.consumes(number),
            17 => {
                let other = self.rng.below(self.nodes.len() as u64) as usize;
                self.drive(number, Input::Reachable(self.nodes[other].id));
            }
            18 if self.rng.once_in(4) => self.crash(number),
            19 if self.jumps && self.rng.once_in(4) => {
                // Two days either way.
                self.nodes[number].wall += self.rng.below(4 * 86_400_000) as i64 - 2 * 86_400_000;
                self.nodes[number].jumped = true;
            }
            _ => {}
        }
    }

    fn sends(&mut self, number: usize) {
        let topic = ["open.a", "open.b.c", "own.a", "closed.a"][self.rng.below(4) as usize];
        let to: Vec<NodeId> = if self.rng.once_in(6) {
            self.nodes.iter().map(|node| node.id).collect()
        } else {
            let to = self.rng.below(self.nodes.len() as u64) as usize;
            vec![self.nodes[to].id]
        };
        let ttl = if self.rng.once_in(4) { TTL_MS_MIN + self.rng.below(20_000) } else { TTL_MS_DEFAULT };
        self.send(number, to, topic.parse().unwrap(), None, ttl);
    }

    fn send(&mut self, number: usize, to: Vec<NodeId>, topic: Topic, answers: Option<MessageId>, ttl: u64) {
        let mut id = [0; 16];
        id[..8].copy_from_slice(&self.rng.next().to_le_bytes());
        let payload = Bytes::from(vec![id[0]; self.rng.below(100) as usize]);
        let message = Outgoing { id: MessageId::from_bytes(id), to, topic, answers, ttl, payload };
        self.drive(number, Input::Send { token: 0, message });
    }

    /// The one consumer of a node: waits, acts, acknowledges, or gives back.
    fn consumes(&mut self, number: usize) {
        let node = &self.nodes[number];
        match node.has.clone() {
            None if !node.waits => {
                self.nodes[number].waits = true;
                self.drive(number, Input::Want { waiter: 1, filter: Filter::topics(Pattern::everything()) });
            }
            None => {}
            Some((hold, _)) if !self.peace && self.rng.once_in(5) => {
                self.nodes[number].has = None;
                self.drive(number, Input::Release(hold));
            }
            Some((hold, record)) => {
                if !self.peace && self.rng.once_in(4) {
                    self.send(number, vec![record.from], record.topic, Some(record.id), TTL_MS_DEFAULT);
                }
                if self.nodes[number].has.is_some() {
                    self.drive(number, Input::Ack { token: 0, hold });
                }
            }
        }
    }

    fn is_quiet(&self) -> bool {
        self.nodes.iter().all(|node| {
            node.core.as_ref().is_some_and(|core| {
                let counts = core.counts();
                counts.waiting == 0 && counts.unread == 0
            })
        })
    }

    fn run(mut self) -> Self {
        for _ in 0..TROUBLES {
            self.trouble();
            let pause = if self.rng.once_in(30) { self.rng.below(90_000) } else { self.rng.below(300) };
            self.advance(self.time + pause);
        }
        self.peace = true;
        for number in 0..self.nodes.len() {
            if self.nodes[number].core.is_none() {
                self.start(number);
            }
        }
        let over = self.time + PEACE_MS;
        while !self.is_quiet() {
            assert!(
                self.time < over,
                "seed {}: not quiet: {:#?}",
                self.seed,
                self.nodes.iter().map(|node| node.core.as_ref().unwrap().counts()).collect::<Vec<_>>()
            );
            for number in 0..self.nodes.len() {
                self.consumes(number);
            }
            self.advance(self.time + 50);
        }
        self.check_fates();
        self
    }

    fn check_fates(&self) {
        let seed = self.seed;
        for ((to, id), accepted) in &self.accepted {
            let taken = self.taken.contains_key(&(*to, *id));
            let [sender, receiver] = [&self.nodes[accepted.from], &self.nodes[*to]];
            let jumped = sender.jumped || receiver.jumped;
            let welcome = !accepted.topic.as_str().starts_with("closed") && !accepted.answers;
            if welcome && !jumped && accepted.ttl == TTL_MS_DEFAULT {
                assert!(taken, "seed {seed}: lost: {id} {accepted:?}");
            }
            if self.limits.remembered < 1000 {
                continue;
            }
            let record = sender.disk.outbox.values().find(|record| record.id == *id && record.to == receiver.id);
            let arrived = receiver.disk.inbox.values().find(|record| record.id == *id && record.from == sender.id);
            match record.unwrap().state {
                OutState::Waiting => panic!("seed {seed}: {id} waits for ever"),
                OutState::Delivered { .. } => assert!(arrived.is_some(), "seed {seed}: {id} is nowhere"),
                OutState::Refused { .. } => assert!(!welcome && !taken, "seed {seed}: {id} {accepted:?}"),
                OutState::Expired { .. } => {
                    let waited = self.time - accepted.at;
                    assert!(
                        waited >= accepted.ttl || sender.jumped,
                        "seed {seed}: {id} {accepted:?} after {waited} ms"
                    );
                }
            }
            if let Some(arrived) = arrived {
                assert_eq!(matches!(arrived.state, InState::Taken { .. }), taken, "seed {seed}: {arrived:?}");
            }
        }
    }
}

#[test]
fn nothing_is_lost_and_nothing_is_taken_twice() {
    let seeds = match std::env::var("BUS_SIM_SEED") {
        Ok(seed) => vec![seed.parse().unwrap()],
        Err(_) => (0..200).collect::<Vec<u64>>(),
    };
    let alone = seeds.len() == 1;
    let (mut accepted, mut taken, mut crashes) = (0, 0, 0);
    for seed in seeds {
        let world = World::new(seed).run();
        accepted += world.accepted.len();
        taken += world.taken.len();
        crashes += world.crashes;
    }
    eprintln!("{accepted} messages accepted, {taken} taken, {crashes} crashes");
    // The simulation is worth nothing if nothing happens in it.
    assert!(alone || (accepted > 20_000 && taken > 10_000 && crashes > 1_000), "{accepted} {taken} {crashes}");
}
