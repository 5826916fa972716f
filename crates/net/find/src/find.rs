//! The core: [`Find::step`] takes what happened and says what to do.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use atoll_ids::NodeId;

use crate::key::Key;
use crate::lookup::{Lookup, PATHS, Purpose};
use crate::message::{Answer, Ask, CONTACTS_MAX, Contact, Message, RUMOUR_HOPS_MAX, Tell};
use crate::meter::Meter;
use crate::random::Random;
use crate::record::{Opened, Record, millis};
use crate::store::{Put, Store};
use crate::table::Table;

mod upkeep;

/// Nodes that keep a record: Kademlia's k, with which one hour's loss of half of them leaves one record in 250 to be found elsewhere.
const KEEPERS: usize = 8;

/// No answer after this means none: a connection and a question over the worst link that is worth using.
const ANSWER_MS_MAX: u64 = 2000;

/// Lookups at once; more are refused, as they would only make each other late.
const LOOKUPS_MAX: usize = 64;

/// Questions without an answer at once, whatever they are for.
const PENDING_MAX: usize = 512;

/// Contacts from tickets, configuration and the local network, to begin from.
const BEGINNINGS_MAX: usize = 32;

/// Peers that rumours are told to; a node with more connections tells some.
const PEERS_MAX: usize = 64;

/// How many peers a rumour is passed on to by those who did not start it.
const RUMOUR_FAN_OUT: usize = 4;

/// What passing a rumour costs of its sender's budget, in questions: it may become four messages.
const RUMOUR_COST: u16 = 4;

/// What happened.
#[derive(Clone, Debug)]
pub enum Input<R> {
    /// Time passed; see [`Find::wake`].
    Tick,
    /// This is our own record now, newly signed; `moved` if it says something else than before but for its sequence.
    Own {
        /// The record.
        record: R,
        /// Whether peers are told.
        moved: bool,
    },
    /// Somebody to begin from: of a ticket, the configuration, the local network.
    Begin(Contact),
    /// A peer with a standing connection came or went.
    Peer {
        /// Who, and where the connection leads.
        contact: Contact,
        /// Whether it is there.
        connected: bool,
    },
    /// Somebody wants to know where a node is.
    Find {
        /// Who: of the node itself, or of its planetary address.
        key: Key,
        /// Only a record with a higher sequence is of use: that of the one that leads nowhere, or 0.
        newer_than: u64,
    },
    /// A message came over a connection that authenticated its sender.
    Received {
        /// The sender, and from where it really came.
        from: Contact,
        /// What.
        message: Message<R>,
    },
    /// No connection to a node could be made, or its connection broke: no need to wait for its answers.
    Unreachable(NodeId),
}

/// What to do.
#[derive(Clone, Debug, PartialEq)]
pub enum Output<R> {
    /// Send a message.
    Send {
        /// To whom; dial it there if there is no connection.
        to: Contact,
        /// What.
        message: Message<R>,
    },
    /// A node that was looked for, or a peer, says that it is here.
    Found {
        /// Who.
        node: NodeId,
        /// Its record, verified.
        record: R,
        /// In how many steps; 0 when it was here already.
        steps: u8,
    },
    /// A node that was looked for is not found.
    NotFound {
        /// Who.
        key: Key,
        /// Why not.
        why: Miss,
    },
    /// Sign our record anew, with a higher sequence than this, and hand it in as [`Input::Own`].
    Sign {
        /// The sequence so far.
        above: u64,
    },
}

/// Why a node was not found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Miss {
    /// Too many lookups at once: try again in a second.
    #[error("too many lookups at once")]
    Busy,
    /// Nobody could be asked: join first.
    #[error("no node that could be asked answered")]
    NobodyAnswered,
    /// Those who would know it have no such record: the node is off, or never was.
    #[error("the nodes that would know have no record of it")]
    NoRecord,
}

/// How a node takes part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Config {
    /// Whether others may ask this node: not, when nobody can dial it. It asks and is found all the same.
    pub serves: bool,
    /// Seed of choices that need not be secret (but better are: they say which networks share a budget).
    pub seed: u64,
    /// Whether most messages need a connection first, which costs more than ten times what they do: what is done to keep up is then done less often.
    pub sparing: bool,
}

#[derive(Clone, Copy, Debug)]
struct Pending {
    to: Contact,
    until_ms: u64,
    /// Lookup and path that wait for it, if any do.
    lookup: Option<(u32, usize)>,
    /// Whether it brings our record.
    keeps: bool,
}

/// The core of finding nodes; see the top of this crate.
#[derive(Clone, Debug)]
pub struct Find<R> {
    me: NodeId,
    key: Key,
    serves: bool,
    sparing: bool,
    own: Option<(Opened, R)>,
    table: Table,
    store: Store<R>,
    meter: Meter,
    random: Random,
    beginnings: VecDeque<Contact>,
    peers: BTreeMap<NodeId, Contact>,
    lookups: BTreeMap<u32, Lookup>,
    pending: BTreeMap<u32, Pending>,
    next_id: u32,
    /// The nearest that our record was brought to.
    kept_by: Vec<NodeId>,
    upkeep: upkeep::Upkeep,
}

/// How much there is of what, for status pages and tests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Counts {
    /// Nodes that answered and are kept in mind.
    pub contacts: usize,
    /// Records kept for others.
    pub records: usize,
    /// Lookups in progress.
    pub lookups: usize,
    /// About how many nodes there are in all.
    pub estimate: u64,
}

impl<R: Record> Find<R> {
    /// The core of a node.
    pub fn new(me: NodeId, config: Config) -> Self {
        let key = Key::of(&me);
        let mut random = Random::new(config.seed);
        Self {
            me,
            key,
            serves: config.serves,
            sparing: config.sparing,
            own: None,
            table: Table::new(key),
            store: Store::new(key),
            meter: Meter::new(random.next()),
            next_id: random.next() as u32,
            random,
            beginnings: VecDeque::new(),
            peers: BTreeMap::new(),
            lookups: BTreeMap::new(),
            pending: BTreeMap::new(),
            kept_by: Vec::new(),
            upkeep: upkeep::Upkeep::default(),
        }
    }

    /// How much there is of what.
    pub fn counts(&self) -> Counts {
        let (contacts, records) = (self.table.len(), self.store.len());
        Counts { contacts, records, lookups: self.lookups.len(), estimate: self.table.estimate() }
    }

    /// Whether the nearest are known and have our record.
    pub fn is_joined(&self) -> bool {
        self.upkeep.joined
    }

    /// Takes in what happened, at a time since 1970 by a clock that does not jump, and says what to do.
    pub fn step(&mut self, now: Duration, input: Input<R>) -> Vec<Output<R>> {
        let now_ms = millis(now);
        let mut out = Vec::new();
        match input {
            Input::Tick => {}
            Input::Own { record, moved } => self.own_changed(now_ms, record, moved, &mut out),
            Input::Begin(contact) => self.begin(now_ms, contact),
            Input::Peer { contact, connected } => self.peer(now_ms, contact, connected),
            Input::Find { key, newer_than } => self.find(now_ms, key, newer_than, &mut out),
            Input::Received { from, message } => self.received(now_ms, from, message, &mut out),
            Input::Unreachable(node) => {
                let gone = |pending: &Pending| pending.to.node == node;
                self.give_up(&gone);
            }
        }
        self.look_after(now_ms, &mut out);
        out
    }

    fn begin(&mut self, now_ms: u64, contact: Contact) {
        self.beginnings.retain(|other| other.node != contact.node);
        if contact.node != self.me {
            self.beginnings.push_back(contact);
            if self.beginnings.len() > BEGINNINGS_MAX {
                self.beginnings.pop_front();
            }
            self.hope(now_ms);
        }
    }

    fn peer(&mut self, now_ms: u64, contact: Contact, connected: bool) {
        if !connected {
            self.peers.remove(&contact.node);
        } else if self.peers.len() < PEERS_MAX || self.peers.contains_key(&contact.node) {
            self.peers.insert(contact.node, contact);
            self.table.offer(contact);
            self.hope(now_ms);
        }
    }

    fn find(&mut self, now_ms: u64, target: Key, newer_than: u64, out: &mut Vec<Output<R>>) {
        let here = self.store.get(now_ms, target).filter(|(opened, _)| opened.sequence > newer_than);
        if let Some((opened, record)) = here {
            out.push(Output::Found { node: opened.node, record: record.clone(), steps: 0 });
            return;
        }
        if let Some(lookup) = self.lookups.values_mut().find(|lookup| lookup.seeks(target)) {
            lookup.newer_than = lookup.newer_than.max(newer_than);
            return;
        }
        if self.lookups.len() >= LOOKUPS_MAX {
            out.push(Output::NotFound { key: target, why: Miss::Busy });
            return;
        }
        self.look_up(Purpose::Find, target, newer_than);
    }

    /// Begins a lookup; `look_after` asks its questions.
    fn look_up(&mut self, purpose: Purpose, target: Key, newer_than: u64) {
        let mut seeds = self.table.closest(target, PATHS * 3, &self.me);
        if seeds.len() < PATHS {
            seeds.extend(self.peers.values());
            seeds.extend(&self.beginnings);
        }
        let id = self.new_id();
        self.lookups.insert(id, Lookup::new(self.me, purpose, target, newer_than, seeds));
    }

    fn new_id(&mut self) -> u32 {
        self.next_id = self.next_id.wrapping_add(1);
        self.next_id
    }

    fn ask(&mut self, now_ms: u64, to: Contact, lookup: Option<(u32, usize)>, ask: Ask<R>, out: &mut Vec<Output<R>>) {
        let id = self.new_id();
        let keeps = ask.keep.is_some();
        self.pending.insert(id, Pending { to, until_ms: now_ms + ANSWER_MS_MAX, lookup, keeps });
        out.push(Output::Send { to, message: Message::Ask(Ask { id, serves: self.serves, ..ask }) });
    }

    fn received(&mut self, now_ms: u64, from: Contact, message: Message<R>, out: &mut Vec<Output<R>>) {
        match message {
            Message::Ask(ask) => self.asked(now_ms, from, ask, out),
            Message::Answer(answer) => self.answered(now_ms, from, answer, out),
            Message::Tell(tell) => self.told(now_ms, from, &tell, out),
        }
    }

    fn asked(&mut self, now_ms: u64, from: Contact, ask: Ask<R>, out: &mut Vec<Output<R>>) {
        let cost = 1 + u16::from(ask.keep.is_some());
        if !self.meter.allows(now_ms, from.at, cost) {
            return;
        }
        if let Some(record) = &ask.keep {
            self.learn(now_ms, from, record, out);
        }
        if ask.serves {
            self.table.offer(from);
        }
        let wanted = ask.newer_than.and_then(|newer_than| self.record_of(now_ms, ask.key, newer_than));
        let count = usize::from(ask.contacts).min(CONTACTS_MAX);
        let contacts = self.table.closest(ask.key, count, &from.node);
        let answer = Answer { id: ask.id, record: wanted, contacts };
        out.push(Output::Send { to: from, message: Message::Answer(answer) });
    }

    fn record_of(&self, now_ms: u64, key: Key, newer_than: u64) -> Option<R> {
        let own = self.own.as_ref().filter(|_| key == self.key).map(|(opened, record)| (*opened, record));
        let found = own.or_else(|| self.store.get(now_ms, key));
        found.filter(|(opened, _)| opened.sequence > newer_than).map(|(_, record)| record.clone())
    }

    fn answered(&mut self, now_ms: u64, from: Contact, answer: Answer<R>, out: &mut Vec<Output<R>>) {
        // Only what was asked, by whom it was asked of.
        if self.pending.get(&answer.id).is_none_or(|pending| pending.to.node != from.node) {
            return;
        }
        let Some(pending) = self.pending.remove(&answer.id) else { return };
        self.table.answered(now_ms, from);
        let contacts = &answer.contacts[..answer.contacts.len().min(CONTACTS_MAX)];
        let Some((id, path)) = pending.lookup else {
            for contact in contacts {
                self.table.offer(*contact);
            }
            return;
        };
        let Some(lookup) = self.lookups.get_mut(&id) else { return };
        let steps = lookup.answered(path, &from.node, contacts);
        if let (Purpose::Find, Some(record)) = (lookup.purpose, answer.record)
            && let Some(opened) = record.open()
            && Key::of(&opened.node) == lookup.target
            && (opened.sequence > lookup.newer_than && opened.is_current(now_ms))
        {
            self.lookups.remove(&id);
            out.push(Output::Found { node: opened.node, record, steps });
        }
    }

    fn told(&mut self, now_ms: u64, from: Contact, tell: &Tell<R>, out: &mut Vec<Output<R>>) {
        let is_peer = self.peers.contains_key(&from.node);
        if is_peer && self.meter.allows(now_ms, from.at, RUMOUR_COST) && self.learn(now_ms, from, &tell.record, out) {
            let hops = tell.hops.min(RUMOUR_HOPS_MAX);
            if hops > 0 {
                let rumour = Tell { record: tell.record.clone(), hops: hops - 1 };
                self.tell(&rumour, RUMOUR_FAN_OUT, &from.node, out);
            }
        }
    }

    /// Tells some peers, from a random one on.
    fn tell(&mut self, rumour: &Tell<R>, count: usize, except: &NodeId, out: &mut Vec<Output<R>>) {
        let first = self.random.below(self.peers.len().max(1) as u64) as usize;
        let peers = self.peers.values().cycle().skip(first).take(self.peers.len());
        for peer in peers.filter(|peer| peer.node != *except).take(count) {
            out.push(Output::Send { to: *peer, message: Message::Tell(rumour.clone()) });
        }
    }

    /// Believes a record if it is signed by whom it is about. True if it was news.
    fn learn(&mut self, now_ms: u64, from: Contact, record: &R, out: &mut Vec<Output<R>>) -> bool {
        let Some(opened) = record.open().filter(|opened| opened.node != self.me) else { return false };
        if self.store.put(now_ms, record, opened, &from.node, from.at) != Put::News {
            return false;
        }
        let (node, key) = (opened.node, Key::of(&opened.node));
        let before = self.lookups.len();
        self.lookups.retain(|_, lookup| !lookup.seeks(key) || lookup.newer_than >= opened.sequence);
        if self.lookups.len() < before || self.peers.contains_key(&node) {
            out.push(Output::Found { node, record: record.clone(), steps: 0 });
        }
        true
    }
}

#[cfg(test)]
mod tests;
