//! The core: [`Router::step`] takes what happened and says what to do.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use atoll_ids::NodeId;

use crate::beacon::{Beacon, Sealed, millis};
use crate::forward::Address;
use crate::message::{Message, Port};
use crate::route::{Distance, Offer, Route};

mod exchange;
mod learn;
mod upkeep;

/// Longest round trip of a route; beyond, it is no use.
const METRIC_US_MAX: u32 = 60_000_000;

/// A measured link counts for more or less only when it differs from what it counted for by this part, and by this: jitter must not make routes waver.
const COST_PART: u32 = 8;
const COST_US_MIN: u32 = 1000;

/// How long a way that traffic was met with silence on is not used, unless there is no other.
const BLAME_MS: u64 = 60_000;

/// Each time again, twice as long, up to an hour.
const BLAME_DOUBLINGS: u32 = 6;

/// Destinations behind a neighbour that are silent within that time before all that it offers is left: it drops what it should forward.
const BLAMES_MAX: u32 = 3;

/// What happened.
#[derive(Clone, Debug)]
pub enum Input<B> {
    /// Time passed; see [`Router::wake`].
    Tick,
    /// A link to a neighbour stands, with this round trip.
    Up {
        /// Who.
        neighbour: NodeId,
        /// How far.
        round_trip: Duration,
    },
    /// A link is gone, or silent.
    Down(NodeId),
    /// The round trip of a link was measured.
    Measured {
        /// Whose.
        neighbour: NodeId,
        /// How far.
        round_trip: Duration,
    },
    /// There are about this many nodes.
    Size(u64),
    /// Our own beacon, newly signed.
    Own(B),
    /// A message came over the link to this neighbour.
    Received {
        /// Who sent it.
        from: NodeId,
        /// What.
        message: Message<B>,
    },
    /// Packets that came by way of this landmark, as our address says, do not arrive: another is to be named for a while.
    Useless(NodeId),
    /// Packets to a node by way of a neighbour were met with silence.
    Silent {
        /// The destination.
        to: NodeId,
        /// The neighbour.
        via: NodeId,
    },
}

/// What to do.
#[derive(Clone, Debug, PartialEq)]
pub enum Output<B> {
    /// Send a message to a neighbour, after what was sent to it before.
    Send {
        /// To whom.
        to: NodeId,
        /// What.
        message: Message<B>,
    },
    /// Sign a beacon with a higher sequence than this, and hand it in as [`Input::Own`].
    Sign {
        /// The sequence so far.
        above: u64,
        /// Whether we are a landmark.
        landmark: bool,
    },
    /// Our address is another: sign it into the record that others look up.
    Moved(Address),
}

#[derive(Clone, Debug)]
struct Neighbour {
    node: NodeId,
    /// What its link counts for.
    cost_us: u32,
    /// What it was measured to be, smoothed.
    smoothed_us: u32,
    blames: u32,
    blamed_ms: u64,
    suspect_until_ms: u64,
}

/// A route that should be there, and is not or is not good.
#[derive(Clone, Copy, Debug)]
struct Wish {
    had: Distance,
    /// When to ask for it, and how often it was asked for.
    due_ms: u64,
    asked: u32,
}

/// The core of routing over several hops; see the top of this crate.
#[derive(Clone, Debug)]
pub struct Router<B> {
    me: NodeId,
    own: Option<(Beacon, B)>,
    neighbours: BTreeMap<Port, Neighbour>,
    ports: BTreeMap<NodeId, Port>,
    last_port: Port,
    routes: BTreeMap<NodeId, Route<B>>,
    /// Feasible distances of nodes that there is no route to any more, as long as somebody may have one by what we said.
    held: BTreeMap<NodeId, Distance>,
    size: u64,
    landmark: bool,
    /// Whom neighbours are to be told about.
    news: BTreeSet<NodeId>,
    /// Neighbours that know nothing yet.
    greet: BTreeSet<Port>,
    wishes: BTreeMap<NodeId, Wish>,
    /// The farthest near node and landmark while there is no room for more, so that what is refused costs nothing.
    farthest_us: [Option<u32>; 2],
    passed_on: VecDeque<(NodeId, u64, u64)>,
    address: Option<Address>,
    /// Landmarks not to be named, and until when.
    shunned: BTreeMap<NodeId, u64>,
    timers: upkeep::Timers,
}

/// How much there is of what, for status pages and tests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Counts {
    /// Nodes near by that there is a route to.
    pub vicinity: usize,
    /// Landmarks that there is a route to.
    pub landmarks: usize,
    /// Feasible distances remembered without a route.
    pub held: usize,
    /// Offers of all routes.
    pub offers: usize,
}

impl<B: Sealed> Router<B> {
    /// The core of a node.
    pub fn new(me: NodeId) -> Self {
        Self {
            me,
            own: None,
            neighbours: BTreeMap::new(),
            ports: BTreeMap::new(),
            last_port: 0,
            routes: BTreeMap::new(),
            held: BTreeMap::new(),
            size: 1,
            landmark: false,
            news: BTreeSet::new(),
            greet: BTreeSet::new(),
            wishes: BTreeMap::new(),
            farthest_us: [None; 2],
            passed_on: VecDeque::new(),
            address: None,
            shunned: BTreeMap::new(),
            timers: upkeep::Timers::default(),
        }
    }

    /// Takes in what happened, at a time since 1970 by a clock that does not jump, and says what to do.
    pub fn step(&mut self, now: Duration, input: Input<B>) -> Vec<Output<B>> {
        let now_ms = millis(now);
        let mut out = Vec::new();
        match input {
            Input::Tick => {}
            Input::Up { neighbour, round_trip } => self.up(now_ms, neighbour, round_trip),
            Input::Down(neighbour) => self.down(now_ms, &neighbour),
            Input::Measured { neighbour, round_trip } => self.measured(now_ms, &neighbour, round_trip),
            Input::Size(size) => self.sized(now_ms, size),
            Input::Own(beacon) => self.own_signed(now_ms, beacon),
            Input::Received { from, message } => self.received(now_ms, &from, message, &mut out),
            Input::Useless(landmark) => self.shun(now_ms, landmark),
            Input::Silent { to, via } => self.silent(now_ms, to, &via),
        }
        self.look_after(now_ms, &mut out);
        out
    }

    fn up(&mut self, now_ms: u64, node: NodeId, round_trip: Duration) {
        if node == self.me || self.ports.contains_key(&node) {
            return self.measured(now_ms, &node, round_trip);
        }
        // Ports go round, so that a label of a neighbour that is gone does not lead to another for as long as possible.
        let free = (1..=Port::MAX).map(|step| self.last_port.wrapping_add(step)).filter(|port| *port != 0);
        let Some(port) = free.into_iter().find(|port| !self.neighbours.contains_key(port)) else { return };
        let cost_us = micros(round_trip);
        let neighbour = Neighbour { node, cost_us, smoothed_us: cost_us, blames: 0, blamed_ms: 0, suspect_until_ms: 0 };
        self.last_port = port;
        self.neighbours.insert(port, neighbour);
        self.ports.insert(node, port);
        self.greet.insert(port);
        self.flush_soon(now_ms);
    }

    fn down(&mut self, now_ms: u64, node: &NodeId) {
        let Some(port) = self.ports.remove(node) else { return };
        self.neighbours.remove(&port);
        self.greet.remove(&port);
        for node in self.offered_by(port) {
            self.withdraw(now_ms, node, port);
        }
    }

    fn measured(&mut self, now_ms: u64, node: &NodeId, round_trip: Duration) {
        let Some(port) = self.ports.get(node).copied() else { return };
        let Some(neighbour) = self.neighbours.get_mut(&port) else { return };
        let smoothed = (u64::from(neighbour.smoothed_us) * 7 + u64::from(micros(round_trip))) / 8;
        neighbour.smoothed_us = smoothed as u32;
        let change = neighbour.smoothed_us.abs_diff(neighbour.cost_us);
        if change > neighbour.cost_us / COST_PART && change > COST_US_MIN {
            neighbour.cost_us = neighbour.smoothed_us;
            for node in self.offered_by(port) {
                self.choose(now_ms, node, false);
            }
        }
    }

    fn silent(&mut self, now_ms: u64, to: NodeId, via: &NodeId) {
        let Some(port) = self.ports.get(via).copied() else { return };
        let Some(route) = self.routes.get_mut(&to) else { return };
        let Some(offer) = route.offers.iter_mut().find(|offer| offer.port == port) else { return };
        let first = offer.blamed_until_ms <= now_ms;
        offer.blames += u32::from(first);
        offer.blamed_until_ms = now_ms + (BLAME_MS << offer.blames.saturating_sub(1).min(BLAME_DOUBLINGS));
        let mut concerned = vec![to];
        if let Some(neighbour) = self.neighbours.get_mut(&port) {
            if now_ms > neighbour.blamed_ms + BLAME_MS {
                neighbour.blames = 0;
            }
            neighbour.blames += u32::from(first);
            neighbour.blamed_ms = now_ms;
            if neighbour.blames >= BLAMES_MAX {
                neighbour.suspect_until_ms = now_ms + BLAME_MS;
                concerned = self.offered_by(port);
            }
        }
        for node in concerned {
            self.choose(now_ms, node, false);
            self.distrust(now_ms, node);
        }
    }

    /// Where nothing but ways that are blamed is left, neighbours are told that there is none, and the node is asked for a newer beacon, which may come by another.
    fn distrust(&mut self, now_ms: u64, node: NodeId) {
        let Some(route) = self.routes.get(&node) else { return };
        if route.current().is_some_and(|offer| self.is_blamed(now_ms, offer)) {
            let feasible = route.feasible;
            self.wish(now_ms, node, feasible, 0);
            self.news.insert(node);
            self.flush_soon(now_ms);
        }
    }

    /// Neighbours are asked for something better than what they were told.
    fn wish(&mut self, now_ms: u64, node: NodeId, had: Option<Distance>, after_ms: u64) {
        let Some(had) = had else { return };
        let due_ms = now_ms + after_ms;
        // One that is due earlier stays as it is.
        if self.wishes.get(&node).is_none_or(|wish| wish.asked > 0 || wish.due_ms > due_ms) {
            self.wishes.insert(node, Wish { had, due_ms, asked: 0 });
        }
        self.flush_at(due_ms + upkeep::FLUSH_MS);
    }

    fn offered_by(&self, port: Port) -> Vec<NodeId> {
        let offered = self.routes.iter().filter(|(_, route)| route.offer_of(port).is_some());
        offered.map(|(node, _)| *node).collect()
    }

    fn is_blamed(&self, now_ms: u64, offer: &Offer<B>) -> bool {
        let suspect = self.neighbours.get(&offer.port).is_some_and(|it| it.suspect_until_ms > now_ms);
        suspect || offer.blamed_until_ms > now_ms
    }

    /// The round trip over an offer, in microseconds; `None` if its link is gone.
    fn total_us(&self, offer: &Offer<B>) -> Option<u32> {
        let cost = self.neighbours.get(&offer.port)?.cost_us;
        Some(offer.distance.metric_us.saturating_add(cost))
    }

    /// Who we are.
    pub fn me(&self) -> NodeId {
        self.me
    }

    /// The neighbour on the way to a node, if there is a route to it.
    pub fn next_hop(&self, node: &NodeId) -> Option<NodeId> {
        let offer = self.routes.get(node)?.current()?;
        self.neighbour_at(offer.port)
    }

    pub(crate) fn neighbour_at(&self, port: Port) -> Option<NodeId> {
        self.neighbours.get(&port).map(|neighbour| neighbour.node)
    }

    /// The round trip to a node, if there is a route to it: for [`Detour`](crate::Detour).
    pub fn round_trip(&self, node: &NodeId) -> Option<Duration> {
        let offer = self.routes.get(node)?.current()?;
        self.total_us(offer).map(|us| Duration::from_micros(u64::from(us)))
    }

    /// Our address, if there is a landmark in reach: all that others need to send here.
    pub fn address(&self) -> Option<&Address> {
        self.address.as_ref()
    }

    /// How a node reaches us by the way we reach it: told to a peer once, its packets take no way round by a landmark.
    pub fn way_back(&self, node: &NodeId) -> Option<Address> {
        let path = self.routes.get(node)?.current()?.path.to_vec();
        Some(Address { landmark: *node, path })
    }

    /// How much there is of what.
    pub fn counts(&self) -> Counts {
        let landmarks = self.routes.values().filter(|route| route.landmark).count();
        let offers = self.routes.values().map(|route| route.offers.len()).sum();
        Counts { vicinity: self.routes.len() - landmarks, landmarks, held: self.held.len(), offers }
    }
}

/// A link's cost: at least 1, so that metrics grow with every hop.
fn micros(time: Duration) -> u32 {
    u32::try_from(time.as_micros()).unwrap_or(u32::MAX).clamp(1, METRIC_US_MAX)
}

#[cfg(test)]
mod tests;
