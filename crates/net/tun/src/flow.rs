//! Conversations that this node takes part in, and who began each: so that answers are let in and out, and nothing else.
//!
//! A table with limits and timeouts and without a clock of its own: the time is handed in. It says what is known; what follows from that is for the
//! filter to judge, anew for each packet: a conversation is worth no more than the rule it was begun under still is.
//!
//! # Who goes when the table is full
//!
//! One of the peer that has the most. So nobody who has no more than an equal share loses anything to another, however many conversations that one
//! begins. Of its own, a peer first loses what it began and nobody answered, the oldest first; then what we asked it; and only then what goes on in both
//! directions, of a few the one that was silent longest.

use std::collections::{BTreeSet, HashMap};
use std::time::{Duration, Instant};

use crate::packet::TcpFlags;

/// Conversations at once, at some 100 bytes each.
pub const FLOWS_MAX: usize = 65_536;

/// Conversations with one peer at once.
pub const FLOWS_PER_REMOTE_MAX: usize = FLOWS_MAX / 4;

/// Conversations in both directions looked at to find the one that was silent longest.
const SAMPLE: usize = 16;

/// A TCP connection that nobody answered: longer than a SYN is repeated on a path that works.
const TCP_OPENING: Duration = Duration::from_secs(60);

/// A TCP connection that is silent (RFC 5382: not below 2 hours 4 minutes).
const TCP_OPEN: Duration = Duration::from_secs(7440);

/// A TCP connection that one side ended: the last segments are still under way.
const TCP_CLOSING: Duration = Duration::from_secs(60);

/// One that a peer began and that ended: twice the longest pause between two repetitions of a segment (Linux: 120 s). Forgotten earlier, what our side repeats
/// after the rule was taken back would look like the beginning of something.
const TCP_CLOSING_THEIRS: Duration = Duration::from_secs(240);

/// UDP without an answer.
const UDP_ASKED: Duration = Duration::from_secs(60);

/// UDP in both directions (RFC 4787: not below 2 minutes).
const UDP_ANSWERED: Duration = Duration::from_secs(180);

/// An echo request and its replies.
const ECHO: Duration = Duration::from_secs(60);

/// No slot.
const NONE: u32 = u32::MAX;

/// A peer's number in the filter.
pub(crate) type PeerIndex = u32;

/// Peers at once, by the bits that a [`Key`] has for them.
pub(crate) const PEERS_MAX: usize = 1 << 24;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Protocol {
    Tcp,
    Udp,
    Echo,
}

/// What a conversation is known by, in one word that is quick to look up: the peer, the protocol, our port (or the id of the echo), theirs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Key(u64);

impl Key {
    pub(crate) fn new(protocol: Protocol, peer: PeerIndex, ours: u16, theirs: u16) -> Self {
        debug_assert!((peer as usize) < PEERS_MAX);
        Self(u64::from(peer) << 40 | (protocol as u64) << 32 | u64::from(ours) << 16 | u64::from(theirs))
    }

    pub(crate) fn peer(self) -> PeerIndex {
        (self.0 >> 40) as PeerIndex
    }

    pub(crate) fn protocol(self) -> Protocol {
        match self.0 >> 32 & 0xff {
            0 => Protocol::Tcp,
            1 => Protocol::Udp,
            _ => Protocol::Echo,
        }
    }

    pub(crate) fn ours(self) -> u16 {
        (self.0 >> 16 & 0xffff) as u16
    }

    pub(crate) fn theirs(self) -> u16 {
        (self.0 & 0xffff) as u16
    }
}

/// Who began it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Opener {
    Us,
    Them,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Asked,
    Answered,
    Closing,
}

/// A conversation that was found.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Found {
    slot: u32,
    pub(crate) opener: Opener,
}

#[derive(Debug, Clone, Copy)]
struct Flow {
    key: Key,
    opener: Opener,
    state: State,
    seen: Instant,
    before: u32,
    after: u32,
}

impl Flow {
    fn ends(&self) -> Instant {
        let stays = match (self.key.protocol(), self.state) {
            (Protocol::Tcp, State::Asked) => TCP_OPENING,
            (Protocol::Tcp, State::Answered) => TCP_OPEN,
            (Protocol::Tcp, State::Closing) if self.opener == Opener::Them => TCP_CLOSING_THEIRS,
            (Protocol::Tcp, State::Closing) => TCP_CLOSING,
            (Protocol::Udp, State::Asked) => UDP_ASKED,
            (Protocol::Udp, _) => UDP_ANSWERED,
            (Protocol::Echo, _) => ECHO,
        };
        self.seen + stays
    }

    fn class(&self) -> usize {
        match (self.state, self.opener) {
            (State::Answered, _) => SETTLED,
            (_, Opener::Us) => 1,
            (_, Opener::Them) => 0,
        }
    }

    /// The state after a packet of `by`.
    fn next(&self, by: Opener, flags: Option<TcpFlags>) -> State {
        let by_opener = by == self.opener;
        match (flags, self.state) {
            (Some(flags), _) if flags.finishes || flags.resets => State::Closing,
            (Some(flags), State::Closing) if flags.opens && by_opener => State::Asked,
            (_, State::Asked) if !by_opener => State::Answered,
            (_, state) => state,
        }
    }
}

/// Lists of one peer's conversations, in the order in which they may go.
const CLASSES: usize = 3;

/// The class of those that go on in both directions.
const SETTLED: usize = CLASSES - 1;

#[derive(Debug, Clone, Copy)]
struct List {
    first: u32,
    last: u32,
}

const EMPTY: List = List { first: NONE, last: NONE };

#[derive(Debug, Clone, Copy)]
struct Share {
    lists: [List; CLASSES],
    count: u32,
}

/// The table.
#[derive(Debug, Default)]
pub(crate) struct Flows {
    index: HashMap<Key, u32>,
    slots: Vec<Flow>,
    free: Vec<u32>,
    /// By peer.
    shares: Vec<Share>,
    /// Peers that have any, by how many.
    by_count: BTreeSet<(u32, PeerIndex)>,
}

impl Flows {
    pub(crate) fn len(&self) -> usize {
        self.index.len()
    }

    /// The conversation, if it goes on.
    pub(crate) fn find(&self, now: Instant, key: Key) -> Option<Found> {
        let slot = *self.index.get(&key)?;
        let flow = &self.slots[slot as usize];
        (now < flow.ends()).then_some(Found { slot, opener: flow.opener })
    }

    /// A packet of `by` went on with it.
    pub(crate) fn goes_on(&mut self, now: Instant, found: Found, by: Opener, flags: Option<TcpFlags>) {
        let flow = &mut self.slots[found.slot as usize];
        flow.seen = now;
        let state = flow.next(by, flags);
        if state != flow.state {
            let (before, mut moved) = (flow.class(), *flow);
            moved.state = state;
            flow.state = state;
            let peer = flow.key.peer();
            if moved.class() != before {
                self.unlink(peer, before, found.slot);
                self.link(peer, moved.class(), found.slot);
            }
        }
    }

    /// Somebody still speaks in a conversation that is over.
    pub(crate) fn still_tries(&mut self, now: Instant, found: Found) {
        self.slots[found.slot as usize].seen = now;
    }

    /// A conversation begins, in place of what there was of the same key.
    pub(crate) fn begin(&mut self, now: Instant, key: Key, opener: Opener) {
        if let Some(slot) = self.index.get(&key).copied() {
            self.remove(slot);
        }
        self.make_room(key.peer());
        let flow = Flow { key, opener, state: State::Asked, seen: now, before: NONE, after: NONE };
        let slot = match self.free.pop() {
            Some(slot) => {
                self.slots[slot as usize] = flow;
                slot
            }
            None => {
                self.slots.push(flow);
                (self.slots.len() - 1) as u32
            }
        };
        self.index.insert(key, slot);
        let peer = key.peer();
        if self.shares.len() <= peer as usize {
            self.shares.resize(peer as usize + 1, Share { lists: [EMPTY; CLASSES], count: 0 });
        }
        self.link(peer, flow.class(), slot);
        self.count(peer, 1);
    }

    /// Forgets what is over.
    pub(crate) fn sweep(&mut self, now: Instant) {
        let over: Vec<u32> =
            self.index.values().copied().filter(|slot| now >= self.slots[*slot as usize].ends()).collect();
        over.into_iter().for_each(|slot| self.remove(slot));
    }

    /// Forgets a peer's conversations; its number may be given to another.
    pub(crate) fn forget(&mut self, peer: PeerIndex) {
        while let Some(slot) = self.first_to_go(peer) {
            self.remove(slot);
        }
    }

    fn make_room(&mut self, peer: PeerIndex) {
        let is_over_share =
            self.shares.get(peer as usize).is_some_and(|share| share.count as usize >= FLOWS_PER_REMOTE_MAX);
        let loser = match self.by_count.last() {
            _ if is_over_share => Some(peer),
            Some((_, heaviest)) if self.index.len() >= FLOWS_MAX => Some(*heaviest),
            _ => None,
        };
        if let Some(slot) = loser.and_then(|loser| self.first_to_go(loser)) {
            self.remove(slot);
        }
    }

    fn first_to_go(&mut self, peer: PeerIndex) -> Option<u32> {
        let lists = self.shares.get(peer as usize)?.lists;
        if let Some(list) = lists[..SETTLED].iter().find(|list| list.first != NONE) {
            return Some(list.first);
        }
        // Those that spoke since go to the back of the line.
        let mut silent = lists[SETTLED].first;
        for _ in 0..SAMPLE {
            let next = self.shares[peer as usize].lists[SETTLED].first;
            if next == NONE || next == silent && self.slots[next as usize].after == NONE {
                break;
            }
            if self.slots[next as usize].seen < self.slots[silent as usize].seen {
                silent = next;
            }
            self.unlink(peer, SETTLED, next);
            self.link(peer, SETTLED, next);
        }
        (silent != NONE).then_some(silent)
    }

    fn remove(&mut self, slot: u32) {
        let flow = self.slots[slot as usize];
        let peer = flow.key.peer();
        self.unlink(peer, flow.class(), slot);
        self.count(peer, -1);
        self.index.remove(&flow.key);
        self.free.push(slot);
    }

    fn count(&mut self, peer: PeerIndex, change: i32) {
        let share = &mut self.shares[peer as usize];
        self.by_count.remove(&(share.count, peer));
        share.count = share.count.saturating_add_signed(change);
        if share.count > 0 {
            self.by_count.insert((share.count, peer));
        }
    }

    /// Adds at the end of a list.
    fn link(&mut self, peer: PeerIndex, class: usize, slot: u32) {
        let list = &mut self.shares[peer as usize].lists[class];
        let last = std::mem::replace(&mut list.last, slot);
        match last {
            NONE => list.first = slot,
            last => self.slots[last as usize].after = slot,
        }
        let flow = &mut self.slots[slot as usize];
        (flow.before, flow.after) = (last, NONE);
    }

    fn unlink(&mut self, peer: PeerIndex, class: usize, slot: u32) {
        let Flow { before, after, .. } = self.slots[slot as usize];
        let list = &mut self.shares[peer as usize].lists[class];
        match before {
            NONE => list.first = after,
            before => self.slots[before as usize].after = after,
        }
        let list = &mut self.shares[peer as usize].lists[class];
        match after {
            NONE => list.last = before,
            after => self.slots[after as usize].before = before,
        }
    }
}

#[cfg(test)]
mod tests;
