//! Nodes that forward for each other: [`RouteWorld`].

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use atoll_ids::NodeId;
use atoll_route::{Beacon, Hop, Input, Message, Output, Router, Sealed, Update};
use atoll_wire::encode;
use serde::{Deserialize, Serialize};

use crate::queue::Queue;
use crate::random::Random;
use crate::stats::Spread;

mod graph;
mod measure;

pub use graph::Shape;
pub use measure::{RecoveryReport, RouteReport, StretchReport};

/// When a run begins, in microseconds since 1970: some day, as beacons are dated.
const EPOCH_US: u64 = 1_800_000_000_000_000;

/// What carries a message: IPv6 and UDP headers, QUIC's short header, the tag of its encryption, the frame of a stream.
const CARRIER_BYTES: u64 = 80;

/// What a signed beacon is longer than a [`Plain`] one: signer, signature, lengths.
const SIGNED_BYTES: u64 = 102;

/// How long it takes to notice that a neighbour is gone: three probes of a link that carries traffic.
const NOTICE_US: u64 = 750_000;

/// How long the place of a node that died stays empty.
const AWAY_US: u64 = 30_000_000;

/// A beacon whose signature is taken for granted.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Plain(Beacon);

impl Sealed for Plain {
    fn open(&self) -> Option<Beacon> {
        Some(self.0)
    }

    fn claimed_node(&self) -> NodeId {
        self.0.node
    }
}

#[derive(Debug)]
enum Event {
    Wake { node: u32 },
    Deliver { from: u32, to: u32, message: Message<Plain> },
    Notice { node: u32, gone: u32 },
}

struct Node {
    core: Router<Plain>,
    /// Neighbours, with round trips in microseconds.
    links: BTreeMap<u32, u32>,
    alive: bool,
    /// Forwards messages about routes, and no packets.
    hole: bool,
    wake_us: u64,
}

/// A node that died and is going to be replaced.
struct Away {
    until_us: u64,
    node: u32,
    links: Vec<(u32, u32)>,
}

/// Nodes, the links between them, what is on its way, and the clock.
pub struct RouteWorld {
    random: Random,
    queue: Queue<Event>,
    now_us: u64,
    nodes: Vec<Node>,
    messages: u64,
    updates: u64,
    bytes: u64,
    last_message_us: u64,
}

impl RouteWorld {
    /// Nodes linked in this shape, all at once.
    pub fn new(shape: Shape, nodes: usize, seed: u64) -> Self {
        let mut random = Random::new(seed);
        let links = graph::links(shape, nodes, &mut random);
        let node = |number: usize| Node {
            core: Router::new(id(number as u32)),
            links: BTreeMap::new(),
            alive: true,
            hole: false,
            wake_us: u64::MAX,
        };
        let nodes: Vec<Node> = (0..nodes).map(node).collect();
        let queue = Queue::new();
        let mut world = Self {
            random,
            queue,
            now_us: EPOCH_US,
            nodes,
            messages: 0,
            updates: 0,
            bytes: 0,
            last_message_us: EPOCH_US,
        };
        for number in 0..world.nodes.len() as u32 {
            // What the density of a table of contacts says, which is off by a fifth or so.
            let size = world.nodes.len() as f64 * (0.8 + 0.4 * world.random.unit());
            world.step(number, Input::Size(size as u64));
        }
        for (a, b, round_trip_us) in links {
            world.link(a, b, round_trip_us);
        }
        world
    }

    fn link(&mut self, a: u32, b: u32, round_trip_us: u32) {
        let round_trip = Duration::from_micros(u64::from(round_trip_us));
        for (at, other) in [(a, b), (b, a)] {
            self.nodes[at as usize].links.insert(other, round_trip_us);
            self.step(at, Input::Up { neighbour: id(other), round_trip });
        }
    }

    /// A node is gone without a word; its neighbours notice after a while.
    fn kill(&mut self, node: u32) -> Vec<(u32, u32)> {
        self.nodes[node as usize].alive = false;
        let links = std::mem::take(&mut self.nodes[node as usize].links);
        for other in links.keys() {
            self.nodes[*other as usize].links.remove(&node);
            self.queue.push(self.now_us + NOTICE_US, Event::Notice { node: *other, gone: node });
        }
        links.into_iter().collect()
    }

    /// A new node where another was, with the same number but nothing of what that knew.
    fn revive(&mut self, node: u32, links: &[(u32, u32)]) {
        let it = &mut self.nodes[node as usize];
        (it.core, it.alive, it.wake_us) = (Router::new(id(node)), true, u64::MAX);
        let size = self.nodes.len() as u64;
        self.step(node, Input::Size(size));
        for (other, round_trip_us) in links {
            if self.nodes[*other as usize].alive {
                self.link(node, *other, *round_trip_us);
            }
        }
    }

    /// Lets time pass.
    pub fn run(&mut self, time: Duration) {
        let until_us = self.now_us + time.as_micros() as u64;
        while let Some((at_us, event)) = self.queue.pop(until_us) {
            self.now_us = at_us;
            self.happen(event);
        }
        self.now_us = until_us;
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Wake { node } => {
                if self.nodes[node as usize].wake_us <= self.now_us {
                    self.nodes[node as usize].wake_us = u64::MAX;
                    self.step(node, Input::Tick);
                }
            }
            Event::Deliver { from, to, message } => {
                if self.nodes[to as usize].links.contains_key(&from) {
                    self.step(to, Input::Received { from: id(from), message });
                }
            }
            Event::Notice { node, gone } => {
                if !self.nodes[node as usize].links.contains_key(&gone) {
                    self.step(node, Input::Down(id(gone)));
                }
            }
        }
    }

    fn step(&mut self, node: u32, input: Input<Plain>) {
        if !self.nodes[node as usize].alive {
            return;
        }
        let now = Duration::from_micros(self.now_us);
        for each in self.nodes[node as usize].core.step(now, input) {
            match each {
                Output::Send { to, message } => self.send(node, index(&to), message),
                Output::Sign { above, landmark } => {
                    let sequence = (self.now_us / 1000).max(above + 1);
                    self.step(node, Input::Own(Plain(Beacon { node: id(node), sequence, landmark })));
                }
                Output::Moved(_) => {}
            }
        }
        let it = &mut self.nodes[node as usize];
        let wake_us = it.core.wake(now).as_micros() as u64;
        if wake_us < it.wake_us {
            it.wake_us = wake_us;
            self.queue.push(wake_us, Event::Wake { node });
        }
    }

    fn send(&mut self, from: u32, to: u32, message: Message<Plain>) {
        let Some(round_trip_us) = self.nodes[from as usize].links.get(&to).copied() else { return };
        let beacons = message.updates.iter().filter(|update| matches!(update, Update::Route { .. })).count() as u64;
        self.messages += 1;
        self.updates += message.updates.len() as u64;
        self.bytes += CARRIER_BYTES + encode(&message).len() as u64 + beacons * SIGNED_BYTES;
        self.last_message_us = self.now_us;
        let at_us = self.now_us + u64::from(round_trip_us) / 2;
        self.queue.push(at_us, Event::Deliver { from, to, message });
    }

    /// Lets random nodes die and others come, at this mean time between two such events of a node, for so long.
    pub fn churn(&mut self, session: Duration, time: Duration) {
        let pause = session / self.nodes.len() as u32;
        let until_us = self.now_us + time.as_micros() as u64;
        let mut away: Vec<Away> = Vec::new();
        while self.now_us < until_us {
            let node = self.random.below(self.nodes.len()) as u32;
            if self.nodes[node as usize].alive {
                let links = self.kill(node);
                away.push(Away { until_us: self.now_us + AWAY_US, node, links });
            }
            let due: Vec<Away> = away.extract_if(.., |it| it.until_us <= self.now_us).collect();
            due.iter().for_each(|it| self.revive(it.node, &it.links));
            let pause = self.random.exponential(pause.as_secs_f64());
            self.run(Duration::from_secs_f64(pause));
        }
        away.iter().for_each(|it| self.revive(it.node, &it.links));
    }
}

fn id(number: u32) -> NodeId {
    let mut bytes = [0; 32];
    bytes[..4].copy_from_slice(&number.to_le_bytes());
    NodeId::from_bytes(bytes)
}

fn index(node: &NodeId) -> u32 {
    let mut first = [0; 4];
    first.copy_from_slice(&node.as_bytes()[..4]);
    u32::from_le_bytes(first)
}
