//! Who is reached by relays beyond what the book knows: peers to which a lane is up, nodes that are being joined, strangers that come to join.
//!
//! The lookup that iroh asks and the rest of the link share it. A peer with a lane is its own relay: what is for it goes over the lane, and it can carry
//! for others as one that is connected directly.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use atoll_ids::NodeId;
use atoll_relay::{GUESTS_MAX, Pass};
use tokio::sync::watch;

use crate::address::AddressRecord;
use crate::book::Book;
use crate::ticket::Ticket;

/// How long a stranger that came to join is answered after it was last heard: joining takes seconds, and then it is no stranger.
const CALLER_TIME: Duration = Duration::from_secs(30);

/// Strangers that are answered at once.
const CALLERS_MAX: usize = 4 * GUESTS_MAX;

/// A node that is being joined.
struct Joining {
    pass: Pass,
    relays: Vec<AddressRecord>,
    /// Attempts going on.
    count: usize,
}

#[derive(Default)]
struct Inner {
    laned: BTreeSet<NodeId>,
    joining: BTreeMap<NodeId, Joining>,
    /// By which relay a stranger came, and when it was last heard.
    callers: BTreeMap<NodeId, (NodeId, Instant)>,
}

/// See the module's documentation.
pub(crate) struct Reach {
    inner: Mutex<Inner>,
    /// Counts up when somebody can be reached in a new way.
    changes: watch::Sender<u64>,
}

impl Default for Reach {
    fn default() -> Self {
        Self { inner: Mutex::default(), changes: watch::Sender::new(0) }
    }
}

impl Reach {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn changed(&self) {
        self.changes.send_modify(|count| *count += 1);
    }

    /// Counts up when somebody can be reached in a new way.
    pub(crate) fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// A lane for relaying to a peer is up, or is no more.
    pub(crate) fn set_laned(&self, peer: NodeId, is_up: bool) {
        let mut inner = self.lock();
        let changed = if is_up { inner.laned.insert(peer) } else { inner.laned.remove(&peer) };
        drop(inner);
        if changed {
            self.changed();
        }
    }

    pub(crate) fn is_laned(&self, peer: &NodeId) -> bool {
        self.lock().laned.contains(peer)
    }

    /// The node that a ticket invites to can be reached by relays until [`Self::joined`].
    pub(crate) fn join(&self, ticket: &Ticket, own: NodeId) {
        let mut inner = self.lock();
        let relays = ticket.named_relays().iter().filter(|relay| relay.node != own && relay.node != ticket.node());
        let relays = relays.map(|relay| relay.record()).collect();
        let count = inner.joining.get(&ticket.node()).map_or(0, |joining| joining.count) + 1;
        inner.joining.insert(ticket.node(), Joining { pass: ticket.secret().pass(), relays, count });
        drop(inner);
        self.changed();
    }

    /// An attempt to join is over.
    pub(crate) fn joined(&self, node: &NodeId) {
        let mut inner = self.lock();
        let Some(joining) = inner.joining.get_mut(node) else { return };
        joining.count -= 1;
        if joining.count == 0 {
            inner.joining.remove(node);
        }
    }

    pub(crate) fn is_joining(&self, node: &NodeId) -> bool {
        self.lock().joining.contains_key(node)
    }

    /// Where a relay is that is known from a ticket only.
    pub(crate) fn relay_of_ticket(&self, node: &NodeId) -> Option<AddressRecord> {
        let inner = self.lock();
        let mut named = inner.joining.values().flat_map(|joining| &joining.relays);
        named.find(|relay| relay.node == *node).cloned()
    }

    /// The passes to show a relay, with who is behind each.
    pub(crate) fn passes_for(&self, relay: &NodeId) -> Vec<(NodeId, Pass)> {
        let inner = self.lock();
        let named = |joining: &Joining| joining.relays.iter().any(|named| named.node == *relay);
        let joining = inner.joining.iter().filter(|(_, joining)| named(joining));
        joining.map(|(node, joining)| (*node, joining.pass.clone())).collect()
    }

    /// A stranger was heard by a relay, and may be about to join. False if too many are, altogether or by this relay: one that makes strangers up does not keep out those
    /// that come by others.
    pub(crate) fn hear_caller(&self, now: Instant, caller: NodeId, relay: NodeId) -> bool {
        let mut inner = self.lock();
        inner.callers.retain(|_, (_, heard)| now.saturating_duration_since(*heard) < CALLER_TIME);
        let by_it = inner.callers.values().filter(|(by, _)| *by == relay).count();
        let is_full = by_it >= GUESTS_MAX || inner.callers.len() >= CALLERS_MAX;
        if is_full && inner.callers.get(&caller).is_none_or(|(by, _)| *by != relay) {
            return false;
        }
        inner.callers.insert(caller, (relay, now));
        true
    }

    fn caller(&self, node: &NodeId) -> Option<NodeId> {
        let inner = self.lock();
        inner.callers.get(node).filter(|(_, heard)| heard.elapsed() < CALLER_TIME).map(|(relay, _)| *relay)
    }

    /// Whether anything is sent to a node by relays.
    pub(crate) fn speaks_to(&self, book: &Book, node: &NodeId) -> bool {
        book.knows(node) || self.is_joining(node) || self.caller(node).is_some()
    }

    /// Whether there is anybody through whom a node may be reached.
    pub(crate) fn has_relay_to(&self, book: &Book, target: &NodeId) -> bool {
        !self.relays_to(book, target, 1).is_empty()
    }

    /// Through whom a node may be reached, the most promising first.
    pub(crate) fn relays_to(&self, book: &Book, target: &NodeId, max: usize) -> Vec<NodeId> {
        let known = book.knows(target);
        if !known && let Some(relay) = self.caller(target) {
            return vec![relay];
        }
        let inner = self.lock();
        if inner.laned.contains(target) {
            return vec![*target];
        }
        let joining = inner.joining.get(target);
        if !known && joining.is_none() {
            return Vec::new();
        }
        let mut relays: Vec<NodeId> =
            joining.into_iter().flat_map(|joining| &joining.relays).map(|relay| relay.node).collect();
        let laned: Vec<NodeId> = inner.laned.iter().copied().collect();
        drop(inner);
        for relay in book.relays_to(target, max).into_iter().chain(laned) {
            if !relays.contains(&relay) {
                relays.push(relay);
            }
        }
        relays.truncate(max);
        relays
    }
}
