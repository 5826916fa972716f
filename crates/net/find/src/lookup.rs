//! One lookup: asking ever nearer to a key, along several paths that share no node (S/Kademlia), so that who lies leads one of them astray only.
//!
//! Bounded: each path asks one node at a time (a further one when an answer is late), ends when its nearest have answered, and all of them together
//! ask no more than [`ASKED_MAX`].

use std::collections::BTreeSet;
use std::net::SocketAddr;

use atoll_ids::NodeId;

use crate::key::Key;
use crate::message::Contact;
use crate::network::{Network, apart};

/// Paths: with a fifth of all nodes hostile and five steps, one path gets through with probability 0.33, one of three with 0.70; more paths cost
/// more of everybody's traffic.
pub(crate) const PATHS: usize = 3;

/// Nodes that a path keeps in mind.
const SHORTLIST: usize = 16;

/// Of a narrow network in a path's shortlist: an answer full of made-up neighbours of the key must not fill it.
const NARROW_MAX: usize = 2;

/// Most nodes that a lookup asks: five times what one takes among 100,000 nodes of which none are hostile.
const ASKED_MAX: usize = 96;

/// Nodes that must have been asked before a lookup ends without success: as many as keep a record; and of a wide network, as many as are asked to.
const SWEEP: usize = 8;
const SWEEP_APART: usize = 2;

/// After this long without an answer a path asks somebody else besides: two round trips over a bad connection.
pub(crate) const LATE_MS: u64 = 400;

/// What a lookup is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// To get to know the nearest to ourselves.
    Join,
    /// To get to know some of a part of the space.
    Refresh,
    /// To find the record of a node.
    Find,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Fresh,
    Asked { at_ms: u64 },
    Answered,
    Silent,
}

#[derive(Clone, Debug)]
struct Candidate {
    contact: Contact,
    distance: u128,
    state: State,
    /// In how many steps we got to it.
    step: u8,
}

/// A lookup in progress.
#[derive(Clone, Debug)]
pub(crate) struct Lookup {
    me: NodeId,
    pub(crate) purpose: Purpose,
    pub(crate) target: Key,
    pub(crate) newer_than: u64,
    paths: [Vec<Candidate>; PATHS],
    asked: BTreeSet<NodeId>,
    /// The nearest of each path that must have answered before it ends.
    width: usize,
}

impl Lookup {
    /// Begins with these contacts, dealt to the paths.
    pub(crate) fn new(me: NodeId, purpose: Purpose, target: Key, newer_than: u64, seeds: Vec<Contact>) -> Self {
        // With three paths: about as many as keep a record, and for joining about as many as count as near.
        let width = if purpose == Purpose::Join { 5 } else { 3 };
        let paths = Default::default();
        let mut lookup = Self { me, purpose, target, newer_than, paths, asked: BTreeSet::new(), width };
        for (number, seed) in seeds.into_iter().enumerate() {
            lookup.consider(number % PATHS, seed, 1);
        }
        lookup
    }

    /// Whether it is for the record of whoever has this key.
    pub(crate) fn seeks(&self, key: Key) -> bool {
        self.purpose == Purpose::Find && self.target == key
    }

    fn consider(&mut self, path: usize, contact: Contact, step: u8) {
        let known = self.asked.contains(&contact.node)
            || self.paths[path].iter().any(|other| other.contact.node == contact.node);
        if contact.node == self.me || known || self.crowded(path, contact.at) {
            return;
        }
        let distance = self.target.distance(Key::of(&contact.node));
        let path = &mut self.paths[path];
        let place = path.partition_point(|other| other.distance < distance);
        path.insert(place, Candidate { contact, distance, state: State::Fresh, step });
        // The farthest goes, unless an answer of it is awaited.
        if path.len() > SHORTLIST
            && let Some(last) = path.iter().rposition(|other| !matches!(other.state, State::Asked { .. }))
        {
            path.remove(last);
        }
    }

    fn crowded(&self, path: usize, at: SocketAddr) -> bool {
        let network = Network::narrow(at);
        self.paths[path].iter().filter(|other| Network::narrow(other.contact.at) == network).count() >= NARROW_MAX
    }

    /// Whom to ask now, each with its path.
    pub(crate) fn next(&mut self, now_ms: u64) -> Vec<(usize, Contact)> {
        let mut questions = Vec::new();
        for path in 0..PATHS {
            while let Some(at) = self.wanted(path, now_ms) {
                let candidate = &mut self.paths[path][at];
                candidate.state = State::Asked { at_ms: now_ms };
                questions.push((path, candidate.contact));
                self.asked.insert(candidate.contact.node);
            }
        }
        if questions.is_empty() && self.is_done() && self.purpose != Purpose::Refresh {
            self.sweep(now_ms, &mut questions);
        }
        questions
    }

    /// When all paths have ended: whoever is among the nearest of all of them and was not asked by any. The last word before nothing is found.
    fn sweep(&mut self, now_ms: u64, questions: &mut Vec<(usize, Contact)>) {
        let all = self.paths.iter().enumerate().flat_map(|(path, them)| them.iter().map(move |it| (path, it)));
        let mut alive: Vec<(u128, usize, Contact)> =
            all.filter(|(_, it)| it.state != State::Silent).map(|(path, it)| (it.distance, path, it.contact)).collect();
        alive.sort_unstable_by_key(|(distance, path, _)| (*distance, *path));
        alive.dedup_by_key(|(distance, ..)| *distance);
        let contacts: Vec<Contact> = alive.iter().map(|(.., contact)| *contact).collect();
        for at in apart(&contacts, SWEEP, SWEEP_APART) {
            let (_, path, contact) = alive[at];
            if self.asked.len() >= ASKED_MAX || !self.asked.insert(contact.node) {
                continue;
            }
            self.set(path, &contact.node, State::Asked { at_ms: now_ms });
            questions.push((path, contact));
        }
    }

    /// The candidate that a path wants to ask now.
    fn wanted(&self, path: usize, now_ms: u64) -> Option<usize> {
        let is_awaited = |it: &Candidate| matches!(it.state, State::Asked { at_ms } if now_ms < at_ms + LATE_MS);
        if self.asked.len() >= ASKED_MAX || self.paths[path].iter().any(is_awaited) {
            return None;
        }
        let is_usable = |it: &Candidate| match it.state {
            // Nobody is asked twice, by whichever path.
            State::Fresh => !self.asked.contains(&it.contact.node),
            State::Asked { .. } | State::Answered => true,
            State::Silent => false,
        };
        let usable: Vec<usize> =
            self.paths[path].iter().enumerate().filter(|(_, it)| is_usable(it)).map(|(at, _)| at).collect();
        let contacts: Vec<Contact> = usable.iter().map(|at| self.paths[path][*at].contact).collect();
        // One of each wide network: who crowds around the key does not end the path.
        let nearest = apart(&contacts, self.width, 1).into_iter().map(|at| usable[at]);
        nearest.into_iter().find(|at| self.paths[path][*at].state == State::Fresh)
    }

    /// A node on a path has answered with these contacts. Says in how many steps we got there.
    pub(crate) fn answered(&mut self, path: usize, node: &NodeId, contacts: &[Contact]) -> u8 {
        let step = self.set(path, node, State::Answered);
        for (number, contact) in contacts.iter().enumerate() {
            self.consider(path, *contact, step.saturating_add(1));
            // A path that nobody began (we knew one node when the lookup began) starts from a share of what another found.
            let other = number % PATHS;
            if self.paths[other].is_empty() {
                self.consider(other, *contact, step.saturating_add(1));
            }
        }
        step
    }

    /// A node on a path has not answered.
    pub(crate) fn silent(&mut self, path: usize, node: &NodeId) {
        self.set(path, node, State::Silent);
    }

    fn set(&mut self, path: usize, node: &NodeId, state: State) -> u8 {
        let found = self.paths[path].iter_mut().find(|it| it.contact.node == *node);
        found.map_or(0, |candidate| {
            candidate.state = state;
            candidate.step
        })
    }

    /// Whether nothing is awaited any more; after [`Self::next`] had nothing to ask.
    pub(crate) fn is_done(&self) -> bool {
        !self.paths.iter().flatten().any(|it| matches!(it.state, State::Asked { .. }))
    }

    /// Whether anybody answered at all.
    pub(crate) fn was_answered(&self) -> bool {
        self.paths.iter().flatten().any(|it| it.state == State::Answered)
    }

    /// When an answer becomes late, and somebody else is to be asked besides.
    pub(crate) fn wake_ms(&self, now_ms: u64) -> Option<u64> {
        let late = self.paths.iter().flatten().filter_map(|it| match it.state {
            State::Asked { at_ms } => Some(at_ms + LATE_MS),
            _ => None,
        });
        late.filter(|late| *late > now_ms).min()
    }
}

#[cfg(test)]
mod tests;
