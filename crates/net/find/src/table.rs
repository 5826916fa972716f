//! Who answers: the [`Table`] of contacts.
//!
//! Sorted by distance from ourselves, so that the nearest are its beginning and a bucket (all that share the same number of leading
//! bits with us) is a range. The nearest [`NEAR`] are always wanted; of each bucket beyond them up to [`BUCKET`].
//!
//! Against floods and eclipse: only who answered a question of ours gets in; who is in and answers is not displaced by a newcomer, but by one
//! among the nearest; and each network has a limited number of places, in each bucket and in all.

use std::net::SocketAddr;

use atoll_ids::NodeId;

use crate::key::Key;
use crate::message::Contact;
use crate::network::{Network, apart};

/// The nearest that are always kept: twice as many as keep a record, so that half may die unnoticed.
pub(crate) const NEAR: usize = 16;

/// Contacts per bucket: Kademlia's k.
const BUCKET: usize = 8;

/// Questions in a row without an answer after which a contact is dropped: one may be lost.
const FAILURES_MAX: u8 = 2;

/// Places of a narrow network (an IPv6 /64) in a bucket and in the whole table, then of a wide one (a /48).
const NARROW_MAX: (usize, usize) = (2, 16);
const WIDE_MAX: (usize, usize) = (4, 64);

/// Of a wide network among the nearest to a key that are named, asked to keep a record, or begun from.
const APART: usize = 2;

/// Newcomers remembered until it is found out whether they answer.
const SPARES_MAX: usize = 16;

/// Somebody who answered.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    pub(crate) contact: Contact,
    key: Key,
    pub(crate) since_ms: u64,
    heard_ms: u64,
    failures: u8,
}

/// Those who answered, and a few who may.
#[derive(Clone, Debug)]
pub(crate) struct Table {
    me: Key,
    entries: Vec<Entry>,
    spares: Vec<Contact>,
    /// Somebody new is among the nearest since this was last asked for.
    nearer: bool,
}

impl Table {
    pub(crate) fn new(me: Key) -> Self {
        Self { me, entries: Vec::new(), spares: Vec::new(), nearer: false }
    }

    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    fn position(&self, key: Key) -> Result<usize, usize> {
        let distance = self.me.distance(key);
        self.entries.binary_search_by(|entry| self.me.distance(entry.key).cmp(&distance))
    }

    /// The nearest to ourselves.
    pub(crate) fn near(&self) -> &[Entry] {
        &self.entries[..self.entries.len().min(NEAR)]
    }

    /// Whether somebody new is among the nearer half of the nearest since this was last asked.
    pub(crate) fn take_nearer(&mut self) -> bool {
        std::mem::take(&mut self.nearer)
    }

    /// The buckets that have somebody beyond the nearest, and that of the nearest, as leading bits shared with us.
    pub(crate) fn depth(&self) -> u32 {
        self.near().last().map_or(0, |entry| self.me.shared_bits(entry.key))
    }

    /// Contacts in a bucket.
    pub(crate) fn in_bucket(&self, bits: u32) -> usize {
        self.entries.iter().filter(|entry| self.me.shared_bits(entry.key) == bits).count()
    }

    /// Those nearest to a key, but for one node; of a wide network no more than [`APART`] while there are others, however near it crowds around the key.
    pub(crate) fn closest(&self, key: Key, count: usize, except: &NodeId) -> Vec<Contact> {
        let nearest = self.nearest(key, count, except);
        // Usually nobody crowds, and that is it.
        if !is_crowded(&nearest) {
            return nearest;
        }
        let all = self.nearest(key, self.entries.len(), except);
        apart(&all, count, APART).into_iter().map(|at| all[at]).collect()
    }

    /// Those nearest to a key; who did not answer lately only if there are too few others.
    fn nearest(&self, key: Key, count: usize, except: &NodeId) -> Vec<Contact> {
        let reliable = self.nearest_of(key, count, |entry| entry.failures == 0 && entry.contact.node != *except);
        if reliable.len() == count {
            return reliable;
        }
        self.nearest_of(key, count, |entry| entry.contact.node != *except)
    }

    fn nearest_of(&self, key: Key, count: usize, of: impl Fn(&Entry) -> bool) -> Vec<Contact> {
        let mut found: Vec<(u128, usize)> = Vec::with_capacity(count + 1);
        for (at, entry) in self.entries.iter().enumerate() {
            let distance = key.distance(entry.key);
            let full = found.len() == count;
            if full && found.last().is_none_or(|last| last.0 <= distance) || !of(entry) {
                continue;
            }
            let place = found.partition_point(|other| other.0 < distance);
            found.insert(place, (distance, at));
            found.truncate(count);
        }
        found.into_iter().map(|(_, at)| self.entries[at].contact).collect()
    }

    /// Whether a contact that is not here would get in if it answered.
    pub(crate) fn wants(&self, contact: &Contact) -> bool {
        let key = Key::of(&contact.node);
        key != self.me && self.position(key).is_err_and(|at| self.has_room(at, key, contact.at))
    }

    /// Room for a newcomer at a position.
    fn has_room(&self, position: usize, key: Key, at: SocketAddr) -> bool {
        let bits = self.me.shared_bits(key);
        let beyond = self.entries.iter().skip(NEAR).filter(|entry| self.me.shared_bits(entry.key) == bits).count();
        (position < NEAR || beyond < BUCKET) && self.network_has_room(bits, at)
    }

    fn network_has_room(&self, bits: u32, at: SocketAddr) -> bool {
        let (narrow, wide) = (Network::narrow(at), Network::wide(at));
        let (mut narrow_used, mut wide_used) = ((0, 0), (0, 0));
        for entry in &self.entries {
            if Network::wide(entry.contact.at) != wide {
                continue;
            }
            let here = usize::from(self.me.shared_bits(entry.key) == bits);
            wide_used = (wide_used.0 + here, wide_used.1 + 1);
            if Network::narrow(entry.contact.at) == narrow {
                narrow_used = (narrow_used.0 + here, narrow_used.1 + 1);
            }
        }
        let within = |used: (usize, usize), max: (usize, usize)| used.0 < max.0 && used.1 < max.1;
        within(narrow_used, NARROW_MAX) && within(wide_used, WIDE_MAX)
    }

    /// A contact has answered a question of ours.
    pub(crate) fn answered(&mut self, now_ms: u64, contact: Contact) {
        self.spares.retain(|spare| spare.node != contact.node);
        let key = Key::of(&contact.node);
        if key == self.me {
            return;
        }
        match self.position(key) {
            Ok(at) => {
                let bits = self.me.shared_bits(key);
                let same_network = Network::narrow(self.entries[at].contact.at) == Network::narrow(contact.at);
                if same_network || self.network_has_room(bits, contact.at) {
                    let entry = &mut self.entries[at];
                    (entry.contact, entry.heard_ms, entry.failures) = (contact, now_ms, 0);
                } else {
                    self.entries.remove(at);
                }
            }
            Err(at) if self.has_room(at, key, contact.at) => {
                let entry = Entry { contact, key, since_ms: now_ms, heard_ms: now_ms, failures: 0 };
                self.entries.insert(at, entry);
                self.nearer |= at < NEAR / 2;
                self.trim();
            }
            Err(_) => {}
        }
    }

    /// After an insertion: whoever fell out of the nearest competes for a place in their bucket, where the oldest stay.
    fn trim(&mut self) {
        let Some(fallen) = self.entries.get(NEAR) else { return };
        let bits = self.me.shared_bits(fallen.key);
        let bucket = || (NEAR..self.entries.len()).filter(|at| self.me.shared_bits(self.entries[*at].key) == bits);
        if bucket().count() > BUCKET
            && let Some(youngest) = bucket().max_by_key(|at| self.entries[*at].since_ms)
        {
            self.entries.remove(youngest);
        }
    }

    /// Somebody has not answered. True if it was a contact.
    pub(crate) fn failed(&mut self, node: &NodeId) -> bool {
        self.spares.retain(|spare| spare.node != *node);
        let Ok(at) = self.position(Key::of(node)) else { return false };
        self.entries[at].failures += 1;
        if self.entries[at].failures >= FAILURES_MAX {
            self.entries.remove(at);
        }
        true
    }

    /// Remembers a contact until it is asked whether it answers; the nearest first, as those matter most and nobody else brings them.
    pub(crate) fn offer(&mut self, contact: Contact) {
        if self.spares.iter().any(|spare| spare.node == contact.node) || !self.wants(&contact) {
            return;
        }
        let distance = |contact: &Contact| self.me.distance(Key::of(&contact.node));
        let place = self.spares.partition_point(|spare| distance(spare) > distance(&contact));
        self.spares.insert(place, contact);
        if self.spares.len() > SPARES_MAX {
            self.spares.remove(0);
        }
    }

    /// Who is to be asked whether they answer: a newcomer for whom there is room.
    pub(crate) fn next_spare(&mut self) -> Option<Contact> {
        while let Some(spare) = self.spares.pop() {
            if self.wants(&spare) {
                return Some(spare);
            }
        }
        None
    }

    pub(crate) fn has_spares(&self) -> bool {
        !self.spares.is_empty()
    }

    /// Who has been silent for the longest, if longer than since `before_ms`.
    pub(crate) fn stalest(&self, before_ms: u64) -> Option<Contact> {
        let stalest = self.entries.iter().min_by_key(|entry| entry.heard_ms)?;
        (stalest.heard_ms < before_ms).then_some(stalest.contact)
    }

    /// About how many nodes there are: the [`NEAR`]-th nearest is as far as that many points of so many are. Off by a quarter, usually.
    pub(crate) fn estimate(&self) -> u64 {
        match self.entries.get(NEAR - 1) {
            None => self.entries.len() as u64 + 1,
            Some(last) => {
                let part = self.me.distance(last.key) as f64 / u128::MAX as f64;
                ((NEAR as f64 - 0.5) / part.max(f64::MIN_POSITIVE)) as u64
            }
        }
    }
}

/// Whether more than [`APART`] are of one wide network.
fn is_crowded(contacts: &[Contact]) -> bool {
    let networks: Vec<Network> = contacts.iter().map(|contact| Network::wide(contact.at)).collect();
    networks.iter().any(|network| networks.iter().filter(|other| *other == network).count() > APART)
}

#[cfg(test)]
mod tests;
