//! What neighbours are told and asked.

use atoll_ids::NodeId;

use super::{Output, Router, Wish};
use crate::beacon::Sealed;
use crate::message::{HOPS_MAX, Message, Port, Request, UPDATES_MAX, Update};
use crate::route::{Distance, Offer, Route};

/// A request that was passed on is not passed on again for this long, …
const PASSED_ON_MS: u64 = 1000;
/// … its answer is awaited for this long, …
const AWAITED_MS: u64 = 10_000;
/// … and this many are remembered.
const PASSED_ON_MAX: usize = 256;

/// A route is asked for so many times, after this time, twice that, …
const ASKED_MAX: u32 = 4;
const AGAIN_MS: u64 = 2000;

/// What is said of one node, but for the last port of the path, and whose offer it is.
struct News<B> {
    node: NodeId,
    update: Update<B>,
    from: Option<Port>,
}

impl<B: Sealed> Router<B> {
    pub(super) fn received(&mut self, now_ms: u64, from: &NodeId, message: Message<B>, out: &mut Vec<Output<B>>) {
        let Some(port) = self.ports.get(from).copied() else { return };
        for update in message.updates.into_iter().take(UPDATES_MAX) {
            self.learn(now_ms, port, update);
        }
        for request in message.requests.into_iter().take(UPDATES_MAX) {
            self.requested(now_ms, port, request, out);
        }
    }

    /// A neighbour lost its route.
    fn requested(&mut self, now_ms: u64, port: Port, request: Request, out: &mut Vec<Output<B>>) {
        let had = Distance { sequence: request.sequence, metric_us: request.metric_us };
        if request.node == self.me {
            let newer = self.own.as_ref().is_some_and(|(own, _)| own.sequence > had.sequence);
            if !newer {
                return self.outdo(now_ms, had.sequence);
            }
        } else {
            let Some(route) = self.routes.get(&request.node) else { return };
            let Some(offer) = route.current() else { return };
            let Some(metric_us) = self.total_us(offer) else { return };
            let ours = Distance { metric_us, ..offer.distance };
            let of_use = offer.port != port && ours.is_better_than(had);
            if !of_use {
                let next = offer.port;
                return self.pass_on(now_ms, port, next, request, out);
            }
        }
        if let Some(news) = self.news_of(now_ms, request.node) {
            let update = vec![for_port(&news.update, port)];
            self.send(port, Message { updates: update, requests: Vec::new() }, out);
        }
    }

    /// Passes a request on towards the node that it is about, which alone can sign something newer.
    fn pass_on(&mut self, now_ms: u64, from: Port, next: Port, request: Request, out: &mut Vec<Output<B>>) {
        let Some(hops) = request.hops.min(HOPS_MAX as u8).checked_sub(1) else { return };
        self.passed_on.retain(|(_, _, at_ms)| *at_ms + AWAITED_MS > now_ms);
        let just_now = |at_ms: u64| at_ms + PASSED_ON_MS > now_ms;
        let again = self.passed_on.iter().any(|it| it.0 == request.node && it.1 >= request.sequence && just_now(it.2));
        if again || next == from {
            return;
        }
        if self.passed_on.len() >= PASSED_ON_MAX {
            self.passed_on.pop_front();
        }
        self.passed_on.push_back((request.node, request.sequence, now_ms));
        // Who is between the asker and the node may well have a nearer way; it is the asker's that counts. From here on only a newer beacon is an answer.
        let request = Request { metric_us: 0, hops, ..request };
        self.send(next, Message { updates: Vec::new(), requests: vec![request] }, out);
    }

    /// Whether somebody waits for a beacon of a node that is newer than theirs, as this one is.
    pub(super) fn is_awaited(&self, now_ms: u64, node: &NodeId, sequence: u64) -> bool {
        let mut awaited = self.passed_on.iter().filter(|(_, _, at_ms)| at_ms + AWAITED_MS > now_ms);
        awaited.any(|(asked, had, _)| asked == node && *had < sequence)
    }

    /// Tells neighbours what is new, and asks for what is missing.
    pub(super) fn flush(&mut self, now_ms: u64, out: &mut Vec<Output<B>>) {
        let greet = std::mem::take(&mut self.greet);
        let news = std::mem::take(&mut self.news);
        let wishes = self.due_wishes(now_ms);
        let everything: Vec<NodeId> = if greet.is_empty() { Vec::new() } else { self.routes.keys().copied().collect() };
        let everything: Vec<News<B>> =
            everything.into_iter().chain([self.me]).filter_map(|node| self.news_of(now_ms, node)).collect();
        let news: Vec<News<B>> = news.into_iter().filter_map(|node| self.news_of(now_ms, node)).collect();
        let ports: Vec<Port> = self.neighbours.keys().copied().collect();
        for port in ports {
            let news = if greet.contains(&port) { &everything } else { &news };
            // Not to where it came from, and not to whom it is about: they could not use it.
            let neighbour = self.neighbour_at(port);
            let of_use = |each: &&News<B>| each.from != Some(port) && Some(each.node) != neighbour;
            let news: Vec<&News<B>> = news.iter().filter(of_use).collect();
            let mut wishes = wishes.chunks(UPDATES_MAX);
            let mut news = news.chunks(UPDATES_MAX);
            loop {
                let (updates, requests) = (news.next(), wishes.next());
                if updates.is_none() && requests.is_none() {
                    break;
                }
                let updates = updates.unwrap_or_default().iter().map(|each| for_port(&each.update, port)).collect();
                let requests = requests.unwrap_or_default().to_vec();
                self.send(port, Message { updates, requests }, out);
            }
        }
    }

    /// What is to be asked for now. A request may get lost where others are in trouble, too; so it is repeated a few times, ever later, while there is need.
    fn due_wishes(&mut self, now_ms: u64) -> Vec<Request> {
        let fulfilled = |node: &NodeId, had: Distance| {
            let better = |offer: &Offer<B>| offer.distance.is_better_than(had) && !self.is_blamed(now_ms, offer);
            self.routes.get(node).and_then(Route::current).is_some_and(better)
        };
        let done =
            |(node, wish): (&NodeId, &Wish)| (wish.asked >= ASKED_MAX || fulfilled(node, wish.had)).then_some(*node);
        let done: Vec<NodeId> = self.wishes.iter().filter_map(done).collect();
        self.wishes.retain(|node, _| !done.contains(node));
        let mut due = Vec::new();
        for (node, wish) in self.wishes.iter_mut().filter(|(_, wish)| wish.due_ms <= now_ms) {
            (wish.asked, wish.due_ms) = (wish.asked + 1, now_ms + (AGAIN_MS << wish.asked));
            let Distance { sequence, metric_us } = wish.had;
            due.push(Request { node: *node, sequence, metric_us, hops: HOPS_MAX as u8 });
        }
        if let Some(next_ms) = self.wishes.values().map(|wish| wish.due_ms).min() {
            self.flush_at(next_ms);
        }
        due
    }

    /// What there is to say about a node. From now on we said it.
    fn news_of(&mut self, now_ms: u64, node: NodeId) -> Option<News<B>> {
        if node == self.me {
            let (_, beacon) = self.own.as_ref()?;
            let update = Update::Route { beacon: beacon.clone(), metric_us: 0, path: Vec::new() };
            return Some(News { node, update, from: None });
        }
        let said = self.routes.get(&node).and_then(|route| {
            let offer = route.current()?;
            let distance = Distance { metric_us: self.total_us(offer)?, ..offer.distance };
            // A way that we do not trust is offered to nobody. And said nothing about it, a better one may be longer and still feasible.
            let offered = !self.is_blamed(now_ms, offer);
            (offered && offer.path.len() < HOPS_MAX)
                .then(|| (distance, offer.beacon.clone(), offer.path.to_vec(), offer.port))
        });
        let Some((distance, beacon, path, from)) = said else {
            if let Some(route) = self.routes.get_mut(&node) {
                route.told = None;
            }
            return Some(News { node, update: Update::Gone { node }, from: None });
        };
        self.routes.get_mut(&node)?.tell(distance);
        let update = Update::Route { beacon, metric_us: distance.metric_us, path };
        Some(News { node, update, from: Some(from) })
    }

    fn send(&self, port: Port, message: Message<B>, out: &mut Vec<Output<B>>) {
        if let Some(to) = self.neighbour_at(port) {
            out.push(Output::Send { to, message });
        }
    }
}

/// The update as one neighbour gets it: the way back begins at the other end and ends with our port for that neighbour.
fn for_port<B: Sealed>(update: &Update<B>, port: Port) -> Update<B> {
    let mut update = update.clone();
    if let Update::Route { path, .. } = &mut update {
        path.push(port);
    }
    update
}
