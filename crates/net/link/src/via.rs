//! Peers that cannot be reached directly are reached through a third that both reach: `atoll/relay/1`.
//!
//! To iroh this is one more transport ([`transport`]): what it sends to a peer "via" are the datagrams of the very QUIC connection between the two, handshake
//! included, and they travel inside datagrams of a connection to the relay and of one from there to the peer. The relay sees who sends how much to whom. An address of this transport is
//! the peer's id and names no relay: which one carries is decided here for every datagram ([`atoll_relay::Choices`]), so iroh sees one path that goes on when
//! a relay does not. [`user`] is that side, [`relay`] the other one, [`guests`] what both do for strangers that join, [`ways`] the connections all use, [`carrier`] what these are made of.
//!
//! # What holds
//!
//! - Only known peers are carried for, and only to known peers that are connected directly or by a lane; strangers with a pass for a minute, to the peer that awaits them. A relay is never reached
//!   through a relay.
//! - Where UDP does not get through, a lane to the relay takes the place of the connection, and the peer at its other end is reached by it, too.
//! - The connections for relaying send on what this node dialled and receive on all, as those for packets do.
//! - When a direct path works it is used, whatever its round trip: a relay's budget is somebody else's.
//! - Memory is bounded: queues by number, users and targets by the cores in `atoll-relay`.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::atomic::{AtomicU16, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use atoll_ids::NodeId;
use atoll_relay::{Awaited, Budget, Cargo, Choices, Counts, Forwarder, GUESTS_MAX, Halves, WayReport, WayState};
use bytes::Bytes;
use tokio::sync::{Notify, Semaphore, mpsc};

use crate::node::Node;
use crate::via::carrier::Carrier;
use crate::via::reach::Reach;
use crate::via::ways::Way;

mod carrier;
mod guests;
pub(crate) mod paths;
pub(crate) mod reach;
mod relay;
#[cfg(test)]
mod tests;
pub(crate) mod transport;
mod user;
pub(crate) mod ways;

/// The protocol's name.
pub(crate) const RELAY: &str = "atoll/relay/1";

/// What was relayed since the start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RelayCounts {
    /// What this node did for others.
    pub for_others: Counts,
    /// Datagrams that it sent through others.
    pub sent: u64,
    /// Those that reached it through others.
    pub received: u64,
    /// Those that it gave up, as no relay took them or more waited than may.
    pub unsent: u64,
}

/// The state of relaying, both for others and by others.
pub(crate) struct Via {
    choices: Mutex<Choices>,
    forwarder: Mutex<Forwarder>,
    /// Whether this node carries for others.
    offers: bool,
    /// Rung when there is something to hand on.
    to_hand_on: Notify,
    ways: Mutex<HashMap<NodeId, Way>>,
    /// Connections that peers dialled, and strangers that are let through.
    accepted: Mutex<Vec<(NodeId, Carrier)>>,
    /// Who is awaited by peers of this node.
    awaited: Mutex<Awaited>,
    /// Places for strangers that are let through or are about to show that they may be: these have five seconds for that.
    guests: Arc<Semaphore>,
    /// Peers that do not let anybody through to this node, and until when they are not asked.
    unwilling: Mutex<BTreeMap<NodeId, Instant>>,
    /// Rung when there is a new invitation.
    pub(crate) invited: Notify,
    pub(crate) reach: Arc<Reach>,
    halves: Mutex<HashMap<NodeId, Halves>>,
    /// Peers that were reached in this way last time: it is tried at once next time.
    needed: Mutex<BTreeSet<NodeId>>,
    arrived: mpsc::Sender<(NodeId, Bytes)>,
    outgoing: mpsc::Sender<Outgoing>,
    /// Numbers datagrams that travel in halves.
    number: AtomicU16,
    sent: AtomicU64,
    received: AtomicU64,
    unsent: Arc<AtomicU64>,
}

/// A datagram that is to go by relays, to whom and of what.
pub(crate) type Outgoing = (NodeId, Cargo, Bytes);

/// What iroh's transport and the rest share.
pub(crate) struct Ends {
    pub(crate) arrived: mpsc::Sender<(NodeId, Bytes)>,
    pub(crate) outgoing: (mpsc::Sender<Outgoing>, mpsc::Receiver<Outgoing>),
    pub(crate) unsent: Arc<AtomicU64>,
}

/// Where sealed packets are put that are to go by relays.
#[derive(Clone)]
pub(crate) struct Relays {
    outgoing: mpsc::Sender<Outgoing>,
    unsent: Arc<AtomicU64>,
}

impl Relays {
    /// Never waits: what does not fit is lost.
    pub(crate) fn send(&self, to: NodeId, sealed: &[u8]) {
        if self.outgoing.try_send((to, Cargo::Sealed, Bytes::copy_from_slice(sealed))).is_err() {
            self.unsent.fetch_add(1, Ordering::Relaxed);
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Via {
    /// `budget` is what this node carries for others, if it does.
    pub(crate) fn new(
        own: NodeId,
        budget: Option<Budget>,
        arrived: mpsc::Sender<(NodeId, Bytes)>,
        outgoing: mpsc::Sender<Outgoing>,
        unsent: Arc<AtomicU64>,
        reach: Arc<Reach>,
    ) -> Self {
        let mut first = [0; 8];
        getrandom::fill(&mut first).expect("the operating system has randomness");
        Self {
            choices: Mutex::new(Choices::new(own, u64::from_le_bytes(first))),
            forwarder: Mutex::new(Forwarder::new(budget.unwrap_or(Budget { rate: 0, rate_per_user: 0 }))),
            offers: budget.is_some(),
            to_hand_on: Notify::new(),
            ways: Mutex::default(),
            accepted: Mutex::default(),
            awaited: Mutex::default(),
            guests: Arc::new(Semaphore::new(2 * GUESTS_MAX)),
            unwilling: Mutex::default(),
            invited: Notify::new(),
            reach,
            halves: Mutex::default(),
            needed: Mutex::default(),
            arrived,
            outgoing,
            number: AtomicU16::new(0),
            sent: AtomicU64::new(0),
            received: AtomicU64::new(0),
            unsent,
        }
    }

    /// Closes what is open with a peer for relaying.
    pub(crate) fn close(&self, peer: &NodeId, code: u32, reason: &str) {
        // One that is being dialled at this moment is new and stays.
        let up = lock(&self.ways).extract_if(|node, way| node == peer && way.is_up()).next();
        if let Some((_, Way::Up { carrier, .. })) = up {
            carrier.close(code, reason);
        }
        for (_, carrier) in lock(&self.accepted).extract_if(.., |(node, _)| node == peer) {
            carrier.close(code, reason);
        }
        self.reach.set_laned(*peer, false);
        lock(&self.halves).remove(peer);
    }

    /// For packets that are sealed already.
    pub(crate) fn relays(&self) -> Relays {
        Relays { outgoing: self.outgoing.clone(), unsent: self.unsent.clone() }
    }

    /// Whether something of a peer came by a relay within this time.
    pub(crate) fn heard_within(&self, peer: &NodeId, time: Duration) -> bool {
        let report = lock(&self.choices).report(Instant::now(), peer);
        let lately = |way: &WayReport| way.state == WayState::Answers && way.silent.is_some_and(|silent| silent < time);
        report.is_some_and(|(ways, _)| ways.iter().any(lately))
    }

    /// Whether a peer was reached in this way last time.
    pub(crate) fn is_needed(&self, peer: &NodeId) -> bool {
        lock(&self.needed).contains(peer)
    }

    /// Notes by which way a peer was reached.
    pub(crate) fn note(&self, peer: NodeId, direct: bool) {
        if direct {
            lock(&self.needed).remove(&peer);
        } else {
            lock(&self.needed).insert(peer);
        }
    }

    /// The relay that carries what is sent to a peer.
    pub(crate) fn relay_to(&self, peer: &NodeId) -> Option<NodeId> {
        lock(&self.choices).chosen(peer)
    }

    pub(crate) fn counts(&self) -> RelayCounts {
        RelayCounts {
            for_others: lock(&self.forwarder).counts(Instant::now()),
            sent: self.sent.load(Ordering::Relaxed),
            received: self.received.load(Ordering::Relaxed),
            unsent: self.unsent.load(Ordering::Relaxed),
        }
    }
}

impl Node {
    /// Starts what runs all the time.
    pub(crate) fn relay_on(self: &Arc<Self>, outgoing: mpsc::Receiver<Outgoing>) {
        self.spawn(self.clone().send_by_relays(outgoing));
        self.spawn(self.clone().await_joiners());
        if self.via.offers {
            self.spawn(self.clone().hand_on_for_others());
        }
    }
}
