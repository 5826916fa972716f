//! The records kept for others: bounded, and fair when there are more than fit.
//!
//! A record is *proven* when the node that it is about brought it itself, over a connection that its key authenticated and its address
//! answered on; one that somebody else brought is not. When the store is full, first unproven records go, then those of the network that has the
//! most, then those farthest from us. So records of made-up keys never displace proven ones; and proven ones of an attacker's are limited by the
//! networks that they have, not by the keys that they make.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use atoll_ids::NodeId;

use crate::key::Key;
use crate::network::Network;
use crate::record::{Opened, Record};

/// Records kept: a node is among the eight nearest of eight others on average, and of thirty hardly ever. At most 4 MiB.
const RECORDS_MAX: usize = 1024;

/// Records that one narrow network may have here: some nodes behind one address, not a flood of them.
const PER_NETWORK_MAX: usize = 16;

#[derive(Clone, Debug)]
struct Kept<R> {
    opened: Opened,
    record: R,
    network: Network,
    proven: bool,
}

/// What became of a record that was brought.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Put {
    /// There was none of the node, or an older one.
    News,
    /// There is one that is as new.
    Known,
    /// Expired, from the future, or there is no room for it.
    Refused,
}

/// Records by the key of whom they are about.
#[derive(Clone, Debug)]
pub(crate) struct Store<R> {
    me: Key,
    kept: BTreeMap<Key, Kept<R>>,
}

impl<R: Record> Store<R> {
    pub(crate) fn new(me: Key) -> Self {
        Self { me, kept: BTreeMap::new() }
    }

    pub(crate) fn len(&self) -> usize {
        self.kept.len()
    }

    /// The record of whoever has this key, while it is valid.
    pub(crate) fn get(&self, now_ms: u64, key: Key) -> Option<(Opened, &R)> {
        let kept = self.kept.get(&key)?;
        (kept.opened.until_ms() > now_ms).then_some((kept.opened, &kept.record))
    }

    /// Takes in a record that verified as `opened`, brought by `from` at `at`.
    pub(crate) fn put(&mut self, now_ms: u64, record: &R, opened: Opened, from: &NodeId, at: SocketAddr) -> Put {
        if !opened.is_current(now_ms) {
            return Put::Refused;
        }
        let (key, network, proven) = (Key::of(&opened.node), Network::narrow(at), *from == opened.node);
        if let Some(kept) = self.kept.get_mut(&key) {
            if proven {
                (kept.proven, kept.network) = (true, network);
            }
            if kept.opened.sequence >= opened.sequence {
                return Put::Known;
            }
            (kept.opened, kept.record) = (opened, record.clone());
            return Put::News;
        }
        let new = Kept { opened, record: record.clone(), network, proven };
        if self.make_room(now_ms, key, &new) {
            self.kept.insert(key, new);
            Put::News
        } else {
            Put::Refused
        }
    }

    /// Whether there is room for a newcomer, after the one that is worth least has gone if need be.
    fn make_room(&mut self, now_ms: u64, key: Key, new: &Kept<R>) -> bool {
        let mut used: BTreeMap<Network, usize> = BTreeMap::new();
        if self.kept.len() < PER_NETWORK_MAX {
            return true;
        }
        for kept in self.kept.values() {
            *used.entry(kept.network).or_default() += 1;
        }
        let share = |network: &Network| used.get(network).copied().unwrap_or(0);
        let crowded = share(&new.network) >= PER_NETWORK_MAX;
        if self.kept.len() < RECORDS_MAX && !crowded {
            return true;
        }
        // Worth: larger goes first.
        let worth = |key: &Key, kept: &Kept<R>, more: usize| {
            let expired = kept.opened.until_ms() <= now_ms;
            (expired, !kept.proven, share(&kept.network) + more, self.me.distance(*key))
        };
        let candidates = self.kept.iter().filter(|(_, kept)| !crowded || kept.network == new.network);
        let Some((last, least)) =
            candidates.map(|(key, kept)| (*key, worth(key, kept, 0))).max_by_key(|(_, worth)| *worth)
        else {
            return false;
        };
        // A network that is at its limit replaces its own, and only what is worth less.
        let gives_way = least > worth(&key, new, usize::from(!crowded));
        if gives_way {
            self.kept.remove(&last);
        }
        gives_way
    }

    /// Drops what has expired.
    pub(crate) fn expire(&mut self, now_ms: u64) {
        self.kept.retain(|_, kept| kept.opened.until_ms() > now_ms);
    }
}

#[cfg(test)]
mod tests;
