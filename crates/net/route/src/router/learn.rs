//! What neighbours say becomes routes: which offers are believed, which nodes there is room for, which offer is used.

use std::cmp::Reverse;

use atoll_ids::NodeId;

use super::{METRIC_US_MAX, Router};
use crate::beacon::{Beacon, Sealed, is_current};
use crate::message::{HOPS_MAX, Port, Update};
use crate::route::{Distance, Offer, Route};

/// Another offer than the one in use is taken when it is less than this part of it, in tenths.
const SWITCH_TENTHS: u64 = 9;

/// How long a way that became longer is used as it is before its end is asked for a newer beacon, which goes to everybody near: most of those who
/// notice do so at about the same time, and one beacon does for all.
const RENEW_MS: u64 = 15_000;

/// How long a node that is told of again, but by too old a beacon, is waited for before it is asked for a newer one.
const RECLAIM_MS: u64 = 500;

/// A beacon that is newer by less than this is told on only to who asks: where there is much change, landmarks sign often, and all would have to hear each.
/// Two thirds of the usual pause between two.
const QUIET_MS: u64 = 20 * 60 * 1000;

/// Room for nodes near by and for landmarks: this many times the square root of how many nodes there are, and at least this many. With landmarks chosen
/// with probability 1/√N, two are expected among the nearest 2√N.
const VICINITY: (f64, usize) = (2.0, 16);
const LANDMARKS: (f64, usize) = (3.0, 8);

/// Feasible distances remembered without a route, as a multiple of the vicinity. When there is no more room, nodes that are new to us are not routed to: rather no
/// route than a loop.
const HELD: usize = 16;

impl<B: Sealed> Router<B> {
    /// Takes in what a neighbour says about one node.
    pub(super) fn learn(&mut self, now_ms: u64, port: Port, update: Update<B>) {
        let (beacon, metric_us, path) = match update {
            Update::Gone { node } => return self.withdraw(now_ms, node, port),
            Update::Route { beacon, metric_us, path } => (beacon, metric_us, path),
        };
        let Some(said) = self.believe(&beacon) else { return };
        if said.node == self.me {
            // Our own, of before a restart: what we sign now has to be newer to count.
            if self.own.as_ref().is_none_or(|(own, _)| own.sequence < said.sequence) {
                self.outdo(now_ms, said.sequence);
            }
            return;
        }
        let distance = Distance { sequence: said.sequence, metric_us };
        let too_far = path.is_empty() || path.len() >= HOPS_MAX || metric_us >= METRIC_US_MAX;
        if too_far || !is_current(said.sequence, now_ms) {
            return self.withdraw(now_ms, said.node, port);
        }
        if !self.is_feasible(&said.node, distance) {
            return self.refuse(now_ms, said, distance, port);
        }
        let path = path.into_boxed_slice();
        let landmark = said.landmark;
        let offer = Offer { port, distance, beacon, landmark, path, blamed_until_ms: 0, blames: 0 };
        let Some(total_us) = self.total_us(&offer) else { return };
        if !self.routes.contains_key(&said.node) && !self.make_room(now_ms, said, total_us, port) {
            return;
        }
        let held = &mut self.held;
        let new = || Route::new(said.landmark, held.remove(&said.node));
        let route = self.routes.entry(said.node).or_insert_with(new);
        let before = route.current();
        let other_way = before.is_some_and(|used| used.port == port && used.path != offer.path);
        if before.is_none_or(|used| said.sequence > used.distance.sequence) {
            route.landmark = said.landmark;
        }
        let neighbours = &self.neighbours;
        route.take(offer, |port| neighbours.get(&port).map_or(METRIC_US_MAX, |it| it.cost_us));
        self.choose(now_ms, said.node, other_way);
    }

    /// What a beacon says if it is signed; not checked again if it is the very one of a route.
    fn believe(&self, beacon: &B) -> Option<Beacon> {
        let node = beacon.claimed_node();
        let known = self.routes.get(&node).and_then(|route| route.offers.iter().find(|offer| offer.beacon == *beacon));
        match known {
            Some(offer) => Some(Beacon { node, sequence: offer.distance.sequence, landmark: offer.landmark }),
            None => beacon.open(),
        }
    }

    fn is_feasible(&self, node: &NodeId, distance: Distance) -> bool {
        let feasible = match self.routes.get(node) {
            Some(route) => route.feasible,
            None => self.held.get(node).copied(),
        };
        feasible.is_none_or(|feasible| distance.is_better_than(feasible))
    }

    /// An offer that might lead back to us. If it is that of the neighbour in use, whose way became longer, what it said before stays in use: it cannot loop, but
    /// is out of date, so the node is asked for a newer beacon, by which the longer way can be offered.
    fn refuse(&mut self, now_ms: u64, said: Beacon, distance: Distance, port: Port) {
        let node = said.node;
        let Some(route) = self.routes.get(&node) else {
            // There is none at all, and would be by a newer beacon: a network that was apart has come together again.
            let (room, used) = self.room_for(said.landmark);
            let had = self.held.get(&node).copied().filter(|_| used < room);
            return self.wish(now_ms, node, had, RECLAIM_MS);
        };
        // Overtaken on its way: nobody goes back to an older beacon.
        if route.offer_of(port).is_some_and(|offer| offer.distance.sequence > distance.sequence) {
            return;
        }
        let stays =
            route.used == Some(port) && route.current().is_some_and(|used| used.distance.sequence == distance.sequence);
        match route.feasible {
            // Nearer it cannot get; newer it can.
            Some(feasible) if stays => {
                self.wish(now_ms, node, Some(Distance { metric_us: 0, ..feasible }), RENEW_MS);
            }
            _ => self.withdraw(now_ms, node, port),
        }
    }

    /// A neighbour offers nothing for a node any more, or nothing of use.
    pub(super) fn withdraw(&mut self, now_ms: u64, node: NodeId, port: Port) {
        let Some(route) = self.routes.get_mut(&node) else { return };
        let before = route.offers.len();
        route.offers.retain(|offer| offer.port != port);
        if route.offers.len() < before {
            self.choose(now_ms, node, false);
        }
    }

    /// Chooses which offer to use, and notes what neighbours have to be told. `other_way` if the route leads another way than before in any case.
    pub(super) fn choose(&mut self, now_ms: u64, node: NodeId, other_way: bool) {
        let Some(route) = self.routes.get(&node) else { return };
        let usable = route.offers.iter().filter(|offer| route.is_feasible(offer.distance));
        let rated = usable.filter_map(|it| Some(((self.is_blamed(now_ms, it), self.total_us(it)?), it.port)));
        let rated: Vec<((bool, u32), Port)> = rated.collect();
        let Some((best, mut used)) = rated.iter().min().copied() else {
            return self.lose(now_ms, node, true);
        };
        let current = rated.iter().find(|(_, port)| Some(*port) == route.used);
        let mut total_us = best.1;
        if let Some((rate, port)) = current
            && rate.0 == best.0
            && u64::from(best.1) * 10 >= u64::from(rate.1) * SWITCH_TENTHS
        {
            (used, total_us) = (*port, rate.1);
        }
        let sequence = route.offer_of(used).map_or(0, |offer| offer.distance.sequence);
        let differs = route.told.is_none_or(|told| {
            let newer = sequence.saturating_sub(told.sequence) >= QUIET_MS
                || sequence > told.sequence && self.is_awaited(now_ms, &node, sequence);
            newer || told.metric_us.abs_diff(total_us) > told.metric_us / super::COST_PART
        });
        let news = differs || other_way || route.used != Some(used);
        if let Some(route) = self.routes.get_mut(&node) {
            route.used = Some(used);
        }
        if news {
            self.news.insert(node);
            self.flush_soon(now_ms);
        }
    }

    /// There is no route to a node any more. `wish` if there should be.
    fn lose(&mut self, now_ms: u64, node: NodeId, wish: bool) {
        let Some(route) = self.routes.remove(&node) else { return };
        self.farthest_us = [None; 2];
        if let Some(feasible) = route.feasible {
            self.held.insert(node, feasible);
            if wish {
                self.wish(now_ms, node, Some(feasible), 0);
            }
        }
        self.news.remove(&node);
        if route.told.is_some() {
            self.news.insert(node);
        }
        self.flush_soon(now_ms);
    }

    /// Whether a node that is new to us may have a route; one that is farther gives way for it.
    fn make_room(&mut self, now_ms: u64, said: Beacon, total_us: u32, port: Port) -> bool {
        if self.held.len() >= self.room(VICINITY.0, VICINITY.1) * HELD && !self.held.contains_key(&said.node) {
            return false;
        }
        let alike = || self.routes.iter().filter(|(_, route)| route.landmark == said.landmark);
        let farthest = self.farthest_us[usize::from(said.landmark)];
        if farthest.is_some_and(|farthest| u64::from(total_us) * 10 >= u64::from(farthest) * SWITCH_TENTHS) {
            return false;
        }
        let (room, used) = self.room_for(said.landmark);
        if used < room {
            return true;
        }
        // A neighbour that has three quarters of all room displaces its own only: it must not push everybody else's nodes out by making up near ones.
        let by_port = alike().filter(|(_, route)| route.used == Some(port)).count();
        let greedy = self.neighbours.len() > 1 && by_port * 4 >= room * 3;
        let candidates = alike().filter(|(_, route)| !greedy || route.used == Some(port));
        let rated = candidates.filter_map(|(node, route)| Some((self.total_us(route.current()?)?, Reverse(*node))));
        let Some((farthest_us, Reverse(farthest))) = rated.max() else { return false };
        let nearer = u64::from(total_us) * 10 < u64::from(farthest_us) * SWITCH_TENTHS;
        if nearer {
            self.lose(now_ms, farthest, false);
        } else if !greedy {
            self.farthest_us[usize::from(said.landmark)] = Some(farthest_us);
        }
        nearer
    }

    /// How many landmarks or nodes near by there is room for, and how many there are.
    fn room_for(&self, landmark: bool) -> (usize, usize) {
        let (factor, least) = if landmark { LANDMARKS } else { VICINITY };
        let used = self.routes.values().filter(|route| route.landmark == landmark).count();
        (self.room(factor, least), used)
    }

    fn room(&self, factor: f64, least: usize) -> usize {
        (((self.size as f64).sqrt() * factor) as usize).max(least)
    }
}
