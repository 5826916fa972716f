//! Nodes that find each other: [`FindWorld`].

use std::collections::HashMap;
use std::time::Duration;

use atoll_find::{Config, Contact, Find, Input, Key, Message, Output};
use atoll_wire::encode;

use crate::queue::Queue;
use crate::random::Random;
use crate::stats::Spread;

mod hostile;
mod tag;

pub use hostile::Attack;
use tag::{SIGNED_BYTES, Tag};

/// When a run begins, in microseconds since 1970: some day, as records are dated.
const EPOCH_US: u64 = 1_800_000_000_000_000;

/// What carries a message: IPv6 and UDP headers, QUIC's short header, the tag of its encryption, the frame of a stream.
const CARRIER_BYTES: u64 = 80;

/// What setting up a connection takes, both ways together: a TLS 1.3 handshake with X25519MLKEM768 in QUIC, whose first packets are padded.
const SETUP_BYTES: u64 = 6_000;

/// How long a connection stands after its last message.
const IDLE_US: u64 = 60 * SECOND;

/// A second in microseconds.
const SECOND: u64 = 1_000_000;

/// How nodes are spread and what happens to them.
#[derive(Clone, Copy, Debug)]
pub struct Setting {
    /// How many nodes.
    pub nodes: usize,
    /// Everything depends on this.
    pub seed: u64,
    /// One way, the same between all, in milliseconds; else nodes have places on a plane, 5 to 100 ms apart.
    pub latency_ms: Option<u64>,
    /// The part of messages that come a round trip later.
    pub loss: f64,
    /// The time after which the last node has begun to join.
    pub ramp: Duration,
}

impl Setting {
    /// Nodes on a plane, 1 % loss, joining at up to 1,000 a second.
    pub fn plane(nodes: usize, seed: u64) -> Self {
        let ramp = Duration::from_secs((nodes as u64 / 1000).max(10));
        Self { nodes, seed, latency_ms: None, loss: 0.01, ramp }
    }
}

#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "most are deliveries, and events lie in a slab that is reused")]
enum Event {
    Wake { node: u32, generation: u32 },
    Deliver { from: Contact, to: Contact, message: Message<Tag> },
    Begin { node: u32 },
    Leave { node: u32, generation: u32 },
}

struct Node {
    core: Find<Tag>,
    me: Contact,
    place: (f32, f32),
    alive: bool,
    generation: u32,
    wake_us: u64,
    since_us: u64,
}

/// What was sent in a window of time, by all nodes together.
#[derive(Clone, Copy, Debug, Default)]
pub struct Traffic {
    /// Messages.
    pub messages: u64,
    /// Their bytes with what carries them.
    pub bytes: u64,
    /// Connections that did not stand and were set up.
    pub setups: u64,
}

impl Traffic {
    /// Bytes per second and node over connections that stand, and with their setting up.
    pub fn per_second(&self, nodes: usize, window: Duration) -> (f64, f64) {
        let all = window.as_secs_f64() * nodes as f64;
        (self.bytes as f64 / all, (self.bytes + self.setups * SETUP_BYTES) as f64 / all)
    }
}

/// What lookups came to.
#[derive(Clone, Debug, Default)]
pub struct LookupReport {
    /// How many there were.
    pub begun: usize,
    /// How many found a record.
    pub found: usize,
    /// Steps of those.
    pub steps: Spread,
    /// Milliseconds of those.
    pub ms: Spread,
    /// Messages per lookup of either kind, by all nodes, upkeep included.
    pub messages: f64,
}

/// State of the nodes.
#[derive(Clone, Copy, Debug, Default)]
pub struct FindReport {
    /// Contacts per node.
    pub contacts: Spread,
    /// Records per node.
    pub records: Spread,
    /// Nodes that are joined.
    pub joined: usize,
}

#[derive(Default)]
struct Watched {
    /// Lookups that are measured, by who looks for whom.
    open: HashMap<(u32, Key), u64>,
    ms: Vec<f64>,
    steps: Vec<f64>,
    missed: usize,
}

/// Nodes, their messages on the way, and the clock.
pub struct FindWorld {
    setting: Setting,
    random: Random,
    queue: Queue<Event>,
    now_us: u64,
    nodes: Vec<Node>,
    talked: HashMap<(u32, u32), u64>,
    swept_us: u64,
    traffic: Traffic,
    watched: Watched,
    session: Option<Duration>,
    attack: Option<Attack>,
}

impl FindWorld {
    /// Nodes that begin to join one after the other, each by way of one that came before it.
    pub fn new(setting: Setting) -> Self {
        let mut world = Self {
            setting,
            random: Random::new(setting.seed),
            queue: Queue::new(),
            now_us: EPOCH_US,
            nodes: Vec::with_capacity(setting.nodes),
            talked: HashMap::new(),
            swept_us: EPOCH_US,
            traffic: Traffic::default(),
            watched: Watched::default(),
            session: None,
            attack: None,
        };
        for index in 0..setting.nodes {
            world.add();
            let at = EPOCH_US + setting.ramp.as_micros() as u64 * index as u64 / setting.nodes as u64;
            world.queue.push(at, Event::Begin { node: index as u32 });
        }
        world
    }

    fn add(&mut self) {
        let index = self.nodes.len() as u32;
        let place = (self.random.unit() as f32, self.random.unit() as f32);
        let me = tag::contact(index, 0);
        let config = Config { serves: true, seed: self.random.next(), sparing: false };
        let core = Find::new(me.node, config);
        let node = Node { core, me, place, alive: false, generation: 0, wake_us: u64::MAX, since_us: u64::MAX };
        self.nodes.push(node);
    }

    /// A node more, that begins now. Its number.
    pub fn join_one(&mut self) -> usize {
        self.add();
        let node = self.nodes.len() - 1;
        self.begin(node as u32);
        node
    }

    /// Lets nodes leave without a word after an exponentially distributed time with this mean, each followed by a new one; or stops that.
    pub fn churn(&mut self, session: Option<Duration>) {
        self.session = session;
        let Some(session) = session else { return };
        for node in 0..self.nodes.len() as u32 {
            self.schedule_leave(node, session);
        }
    }

    fn schedule_leave(&mut self, node: u32, session: Duration) {
        let after = self.random.exponential(session.as_secs_f64() * SECOND as f64) as u64;
        let generation = self.nodes[node as usize].generation;
        self.queue.push(self.now_us + after, Event::Leave { node, generation });
    }

    /// This part of all nodes is gone at once.
    pub fn kill(&mut self, part: f64) {
        for node in 0..self.nodes.len() {
            if self.random.unit() < part {
                self.nodes[node].alive = false;
            }
        }
    }

    /// Lets time pass.
    pub fn run(&mut self, time: Duration) {
        let until_us = self.now_us + time.as_micros() as u64;
        while let Some((at_us, event)) = self.queue.pop(until_us) {
            self.now_us = at_us;
            self.happen(event);
            self.sweep();
        }
        self.now_us = until_us;
    }

    /// Forgets connections that stand no more.
    fn sweep(&mut self) {
        if self.now_us > self.swept_us + IDLE_US {
            let before = self.now_us - IDLE_US;
            self.talked.retain(|_, last_us| *last_us > before);
            self.swept_us = self.now_us;
        }
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Begin { node } => self.begin(node),
            Event::Wake { node, generation } => {
                let it = &self.nodes[node as usize];
                if it.generation == generation && it.wake_us <= self.now_us {
                    self.nodes[node as usize].wake_us = u64::MAX;
                    self.step(node, Input::Tick);
                }
            }
            Event::Deliver { from, to, message } => {
                let node = tag::index(&to.node);
                let it = &self.nodes[node as usize];
                if it.alive && it.me.node == to.node {
                    match self.hostile_answer(from, to, &message) {
                        Some(answers) => answers.into_iter().for_each(|answer| self.send(node, from, answer)),
                        None => self.step(node, Input::Received { from, message }),
                    }
                }
            }
            Event::Leave { node, generation } => {
                if self.nodes[node as usize].generation == generation && self.session.is_some() {
                    self.replace(node);
                }
            }
        }
    }

    /// A new node in the place of one that left.
    fn replace(&mut self, node: u32) {
        let config = Config { serves: true, seed: self.random.next(), sparing: false };
        let it = &mut self.nodes[node as usize];
        let generation = it.generation + 1;
        let me = tag::contact(node, generation);
        let core = Find::new(me.node, config);
        *it = Node { core, me, place: it.place, alive: false, generation, wake_us: u64::MAX, since_us: u64::MAX };
        self.begin(node);
        if let Some(session) = self.session {
            self.schedule_leave(node, session);
        }
    }

    fn begin(&mut self, node: u32) {
        let ticket = self.random_alive();
        let it = &mut self.nodes[node as usize];
        (it.alive, it.since_us) = (true, self.now_us);
        let record = Tag { node: it.me.node, sequence: self.now_us / 1000 };
        self.step(node, Input::Own { record, moved: false });
        if let Some(ticket) = ticket {
            self.step(node, Input::Begin(ticket));
        }
    }

    /// A node that others can be told of.
    fn random_alive(&mut self) -> Option<Contact> {
        for _ in 0..1000 {
            let it = &self.nodes[self.random.below(self.nodes.len())];
            if it.alive && !self.is_hostile(tag::index(&it.me.node)) {
                return Some(it.me);
            }
        }
        self.nodes.iter().find(|it| it.alive).map(|it| it.me)
    }

    fn step(&mut self, node: u32, input: Input<Tag>) {
        let now = Duration::from_micros(self.now_us);
        let out = self.nodes[node as usize].core.step(now, input);
        for each in out {
            match each {
                Output::Send { to, message } => self.send(node, to, message),
                Output::Sign { above } => {
                    let sequence = (self.now_us / 1000).max(above + 1);
                    let record = Tag { node: self.nodes[node as usize].me.node, sequence };
                    self.step(node, Input::Own { record, moved: false });
                }
                Output::Found { node: found, steps, .. } => {
                    if let Some(began_us) = self.watched.open.remove(&(node, Key::of(&found))) {
                        self.watched.ms.push((self.now_us - began_us) as f64 / 1000.0);
                        self.watched.steps.push(f64::from(steps));
                    }
                }
                Output::NotFound { key: missed, .. } => {
                    self.watched.missed += usize::from(self.watched.open.remove(&(node, missed)).is_some());
                }
            }
        }
        let it = &mut self.nodes[node as usize];
        let wake_us = it.core.wake(now).as_micros() as u64;
        if wake_us < it.wake_us {
            it.wake_us = wake_us;
            self.queue.push(wake_us, Event::Wake { node, generation: it.generation });
        }
    }

    fn send(&mut self, from: u32, to: Contact, message: Message<Tag>) {
        let records = match &message {
            Message::Ask(ask) => u64::from(ask.keep.is_some()),
            Message::Answer(answer) => u64::from(answer.record.is_some()),
            Message::Tell(_) => 1,
        };
        self.traffic.messages += 1;
        self.traffic.bytes += CARRIER_BYTES + encode(&message).len() as u64 + records * SIGNED_BYTES;
        let other = tag::index(&to.node);
        let one_way_us = self.one_way_us(from, other);
        let pair = (from.min(other), from.max(other));
        let stands = self.talked.get(&pair).is_some_and(|last_us| self.now_us <= last_us + IDLE_US);
        let mut after_us = one_way_us;
        if !stands {
            self.traffic.setups += 1;
            after_us += 2 * one_way_us;
        }
        if self.random.unit() < self.setting.loss {
            after_us += 2 * one_way_us;
        }
        if self.nodes[other as usize].alive {
            self.talked.insert(pair, self.now_us + after_us);
        }
        let from = self.nodes[from as usize].me;
        self.queue.push(self.now_us + after_us, Event::Deliver { from, to, message });
    }

    fn one_way_us(&self, a: u32, b: u32) -> u64 {
        if let Some(ms) = self.setting.latency_ms {
            return ms * 1000;
        }
        let (a, b) = (self.nodes[a as usize].place, self.nodes[b as usize].place);
        // From one corner of the plane to the other: 100 ms, as between Europe and East Asia.
        let distance = f64::from((a.0 - b.0).hypot(a.1 - b.1)) / 2_f64.sqrt();
        (5_000.0 + 95_000.0 * distance) as u64
    }

    /// What was sent since this was last asked for.
    pub fn take_traffic(&mut self) -> Traffic {
        std::mem::take(&mut self.traffic)
    }

    /// How many events there were since the beginning.
    pub fn events(&self) -> u64 {
        self.queue.scheduled()
    }

    /// State of the nodes that are there.
    pub fn report(&self) -> FindReport {
        let counts = || self.nodes.iter().filter(|it| it.alive).map(|it| it.core.counts());
        FindReport {
            contacts: Spread::of(counts().map(|it| it.contacts as f64)),
            records: Spread::of(counts().map(|it| it.records as f64)),
            joined: self.nodes.iter().filter(|it| it.alive && it.core.is_joined()).count(),
        }
    }

    /// Random nodes look for random nodes that have been there for a minute, spread over ten seconds.
    pub fn look_up(&mut self, count: usize) -> LookupReport {
        let settled_us = self.now_us - 60 * SECOND;
        let settled: Vec<u32> = (0..self.nodes.len() as u32)
            .filter(|node| self.nodes[*node as usize].alive && self.nodes[*node as usize].since_us <= settled_us)
            .filter(|node| !self.is_hostile(*node))
            .collect();
        let pairs: Vec<(u32, u32)> = (0..count)
            .map(|_| (settled[self.random.below(settled.len())], settled[self.random.below(settled.len())]))
            .filter(|(from, of)| from != of)
            .collect();
        self.look_up_pairs(&pairs)
    }

    /// Each of these looks for the other.
    pub fn look_up_pairs(&mut self, pairs: &[(u32, u32)]) -> LookupReport {
        let before = self.traffic.messages;
        self.watched = Watched::default();
        let gap = Duration::from_secs(10) / pairs.len().max(1) as u32;
        let mut begun = 0;
        for (from, of) in pairs {
            let node = self.nodes[*of as usize].me.node;
            let fresh = self.watched.open.insert((*from, Key::of(&node)), self.now_us).is_none();
            begun += usize::from(fresh);
            self.step(*from, Input::Find { key: Key::of(&node), newer_than: 0 });
            self.run(gap);
        }
        let last = Duration::from_secs(30);
        self.run(last);
        let messages = (self.traffic.messages - before) as f64 / begun.max(1) as f64;
        let Watched { ms, steps, .. } = std::mem::take(&mut self.watched);
        LookupReport { begun, found: ms.len(), steps: Spread::of(steps), ms: Spread::of(ms), messages }
    }
}
