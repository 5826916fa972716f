//! What is measured of routes: state, traffic, how much longer than the shortest they are, how long an outage takes.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use atoll_route::{Header, Phase};

use super::{BTreeSet, Duration, EPOCH_US, Hop, Input, RouteWorld, Spread, id, index};

/// State and traffic.
#[derive(Clone, Copy, Debug, Default)]
pub struct RouteReport {
    /// Routes per node.
    pub routes: Spread,
    /// Offers of those: what a node keeps.
    pub offers: Spread,
    /// Distances remembered without a route, per node.
    pub held: Spread,
    /// Links per node.
    pub links: Spread,
    /// Nodes that have an address.
    pub addressed: usize,
    /// Bytes and updates sent by all nodes since this was last asked for.
    pub bytes: u64,
    /// Updates sent by all nodes since then.
    pub updates: u64,
    /// When the last message was sent, in seconds since the beginning.
    pub quiet_s: f64,
}

/// How much longer than the shortest paths are.
#[derive(Clone, Copy, Debug, Default)]
pub struct StretchReport {
    /// Pairs of which one's packets reached the other.
    pub delivered: usize,
    /// Pairs between which there is a path.
    pub pairs: usize,
    /// Round trip of a first packet, as a multiple of the shortest.
    pub first: Spread,
    /// Once the other end told its way back, if it has one.
    pub later: Spread,
}

/// How long packets did not arrive.
#[derive(Clone, Copy, Debug, Default)]
pub struct RecoveryReport {
    /// Pairs whose path went through what failed, and of whom there was another path.
    pub cut: usize,
    /// Of those, the ones that got through again within the time allowed.
    pub recovered: usize,
    /// Seconds that took.
    pub seconds: Spread,
}

impl RouteWorld {
    /// State and traffic.
    pub fn report(&mut self) -> RouteReport {
        let alive = || self.nodes.iter().filter(|it| it.alive);
        let counts = || alive().map(|it| it.core.counts());
        let report = RouteReport {
            routes: Spread::of(counts().map(|it| (it.vicinity + it.landmarks) as f64)),
            offers: Spread::of(counts().map(|it| it.offers as f64)),
            held: Spread::of(counts().map(|it| it.held as f64)),
            links: Spread::of(alive().map(|it| it.links.len() as f64)),
            addressed: alive().filter(|it| it.core.address().is_some()).count(),
            bytes: self.bytes,
            updates: self.updates,
            quiet_s: (self.last_message_us - EPOCH_US) as f64 / 1e6,
        };
        (self.bytes, self.updates, self.messages) = (0, 0, 0);
        report
    }

    /// Random pairs.
    pub fn pairs(&mut self, count: usize) -> Vec<(u32, u32)> {
        let alive: Vec<u32> = (0..self.nodes.len() as u32).filter(|node| self.nodes[*node as usize].alive).collect();
        // Few senders, as each costs a search for all shortest paths.
        let senders: Vec<u32> = (0..count.div_ceil(20)).map(|_| alive[self.random.below(alive.len())]).collect();
        let pair = |at: usize| (senders[at / 20], alive[self.random.below(alive.len())]);
        (0..count).map(pair).filter(|(from, to)| from != to).collect()
    }

    /// How long the paths of these pairs are.
    pub fn stretch(&self, pairs: &[(u32, u32)]) -> StretchReport {
        let (mut first, mut later, mut connected) = (Vec::new(), Vec::new(), 0);
        let mut shortest: (u32, Vec<u64>) = (u32::MAX, Vec::new());
        for (from, to) in pairs {
            if shortest.0 != *from {
                shortest = (*from, self.shortest(*from));
            }
            if shortest.1[*to as usize] == u64::MAX {
                continue;
            }
            connected += 1;
            let best = shortest.1[*to as usize] as f64;
            let Some((path, us)) = self.deliver(*from, *to, false) else { continue };
            first.push(us as f64 / best);
            let again = self.deliver(*from, *to, true).map_or(us, |(_, us)| us);
            later.push(again.min(us) as f64 / best);
            debug_assert!(!path.is_empty());
        }
        StretchReport { delivered: first.len(), pairs: connected, first: Spread::of(first), later: Spread::of(later) }
    }

    /// Shortest round trips from a node in microseconds, by Dijkstra's algorithm.
    fn shortest(&self, from: u32) -> Vec<u64> {
        let mut best = vec![u64::MAX; self.nodes.len()];
        let mut queue = BinaryHeap::from([Reverse((0_u64, from))]);
        best[from as usize] = 0;
        while let Some(Reverse((us, at))) = queue.pop() {
            if us > best[at as usize] {
                continue;
            }
            for (other, link_us) in &self.nodes[at as usize].links {
                let through = us + u64::from(*link_us);
                if through < best[*other as usize] && !self.nodes[*other as usize].hole {
                    best[*other as usize] = through;
                    queue.push(Reverse((through, *other)));
                }
            }
        }
        best
    }

    /// The path of a packet and its round trip in microseconds; `None` if it is lost. `told` if the receiver told its way back.
    fn deliver(&self, from: u32, to: u32, told: bool) -> Option<(Vec<u32>, u64)> {
        let receiver = &self.nodes[to as usize].core;
        let way_back = if told { receiver.way_back(&id(from)) } else { None };
        let address = way_back.or_else(|| receiver.address().cloned());
        let mut header: Header = self.nodes[from as usize].core.header(id(to), address.as_ref())?;
        let (mut at, mut us, mut path) = (from, 0, vec![from]);
        loop {
            if self.nodes[at as usize].hole && at != from {
                return None;
            }
            match self.nodes[at as usize].core.forward(header) {
                Hop::Here => return Some((path, us)),
                Hop::Drop(_) => return None,
                Hop::Next(next, rest) => {
                    let next = index(&next);
                    us += u64::from(*self.nodes[at as usize].links.get(&next)?);
                    (at, header) = (next, rest);
                    path.push(at);
                }
            }
        }
    }

    /// Nodes die in the middle of the paths of pairs, one for every 50; measures when packets of those pairs arrive again.
    pub fn recovery(&mut self, pairs: &[(u32, u32)], allowed: Duration) -> RecoveryReport {
        let mut doomed = BTreeSet::new();
        let senders: BTreeSet<u32> = pairs.iter().map(|(from, _)| *from).collect();
        for (from, to) in pairs.iter().step_by(50) {
            if let Some((path, _)) = self.deliver(*from, *to, false) {
                doomed.extend(path.get(path.len() / 2).filter(|node| !senders.contains(node)));
            }
        }
        let through = |world: &Self, pair: &(u32, u32)| {
            world.deliver(pair.0, pair.1, false).is_some_and(|(path, _)| path.iter().any(|node| doomed.contains(node)))
        };
        let cut: Vec<(u32, u32)> = pairs.iter().copied().filter(|pair| through(self, pair)).collect();
        for node in &doomed {
            self.kill(*node);
        }
        let cut = self.connected(cut);
        self.until_delivered(&cut, allowed, |_, _, _| {})
    }

    /// Nodes in the middle of the paths of pairs drop all packets but say nothing, one for every 50; senders notice the silence each half second
    /// and blame their next hop, and so do those on the way.
    pub fn black_holes(&mut self, pairs: &[(u32, u32)], allowed: Duration) -> RecoveryReport {
        let senders: BTreeSet<u32> = pairs.iter().map(|(from, _)| *from).collect();
        for (from, to) in pairs.iter().step_by(50) {
            if let Some((path, _)) = self.deliver(*from, *to, false)
                && let Some(node) = path.get(path.len() / 2).filter(|node| !senders.contains(node))
            {
                self.nodes[*node as usize].hole = true;
            }
        }
        let lost = |pair: &(u32, u32)| self.deliver(pair.0, pair.1, false).is_none();
        let cut: Vec<(u32, u32)> = pairs.iter().copied().filter(lost).collect();
        let cut = self.connected(cut);
        let report = self.until_delivered(&cut, allowed, Self::blame);
        self.nodes.iter_mut().for_each(|it| it.hole = false);
        report
    }

    /// Whoever is before the silence blames the next hop. Where only the destination can name another way (from the landmark on, or when that is what is silent),
    /// it does.
    fn blame(&mut self, from: u32, to: u32) {
        let address = self.nodes[to as usize].core.address().cloned();
        let Some(mut header) = self.nodes[from as usize].core.header(id(to), address.as_ref()) else { return };
        let mut at = from;
        while let Hop::Next(next, rest) = self.nodes[at as usize].core.forward(header.clone()) {
            if self.nodes[index(&next) as usize].hole {
                let known = self.nodes[at as usize].core.next_hop(&id(to)).is_some();
                match (header.phase, address) {
                    (Phase::Landmark(address), _)
                        if !known && id(at) != address.landmark && next != address.landmark =>
                    {
                        self.step(at, Input::Silent { to: address.landmark, via: next });
                    }
                    (Phase::Landmark(_) | Phase::Labels(_), Some(address)) if !known => {
                        self.step(to, Input::Useless(address.landmark));
                    }
                    _ => self.step(at, Input::Silent { to: id(to), via: next }),
                }
                return;
            }
            (at, header) = (index(&next), rest);
        }
    }

    /// The pairs between which there is a path.
    fn connected(&self, pairs: Vec<(u32, u32)>) -> Vec<(u32, u32)> {
        let mut shortest: (u32, Vec<u64>) = (u32::MAX, Vec::new());
        let mut kept = Vec::new();
        for (from, to) in pairs {
            if shortest.0 != from {
                shortest = (from, self.shortest(from));
            }
            if shortest.1[to as usize] < u64::MAX {
                kept.push((from, to));
            }
        }
        kept
    }

    /// Tries every tenth of a second; who is silent for half a second may do something about it.
    fn until_delivered(
        &mut self,
        pairs: &[(u32, u32)],
        allowed: Duration,
        mut on_silence: impl FnMut(&mut Self, u32, u32),
    ) -> RecoveryReport {
        const STEP: Duration = Duration::from_millis(100);
        let mut open: Vec<(u32, u32)> = pairs.to_vec();
        let (mut seconds, mut passed, mut steps) = (Vec::new(), Duration::ZERO, 0);
        while passed < allowed && !open.is_empty() {
            self.run(STEP);
            passed += STEP;
            steps += 1;
            open.retain(|(from, to)| {
                let through = self.deliver(*from, *to, false).is_some();
                if through {
                    seconds.push(passed.as_secs_f64());
                }
                !through
            });
            if steps % 5 == 0 {
                open.iter().for_each(|(from, to)| on_silence(self, *from, *to));
            }
        }
        RecoveryReport { cut: pairs.len(), recovered: seconds.len(), seconds: Spread::of(seconds) }
    }
}
