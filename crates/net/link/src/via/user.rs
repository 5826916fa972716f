//! What this node sends through others: hands the choice of relays what happens, and does what it says.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use atoll_ids::NodeId;
use atoll_relay::{Action, Cargo, Input, Parcel};
use bytes::Bytes;
use tokio::sync::mpsc;
use tokio::time::{MissedTickBehavior, interval};

use crate::node::Node;
use crate::via::ways::Load;
use crate::via::{Outgoing, lock};

/// How often it is looked whether a relay went silent, while there are any in use.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// Datagrams taken in one go.
const BATCH: usize = 64;

/// Candidates that the choice is given, nearest first: it measures a few and passes over those that refuse.
const CANDIDATES_MAX: usize = 256;

impl Node {
    /// Sends what iroh and the fast path hand over for peers that are reached by relays.
    pub(super) async fn send_by_relays(self: Arc<Self>, mut outgoing: mpsc::Receiver<Outgoing>) {
        let mut looks = interval(LOOK_EVERY);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut batch = Vec::with_capacity(BATCH);
        loop {
            let active = lock(&self.via.choices).is_active(Instant::now());
            tokio::select! {
                count = outgoing.recv_many(&mut batch, BATCH) => {
                    if count == 0 {
                        return;
                    }
                    for (to, cargo, datagram) in batch.drain(..) {
                        self.send_by_relay(to, cargo, datagram);
                    }
                }
                _ = looks.tick(), if active => self.choose(Input::Tick),
            }
        }
    }

    fn send_by_relay(self: &Arc<Self>, to: NodeId, cargo: Cargo, datagram: Bytes) {
        if !self.via.reach.speaks_to(&self.book, &to) {
            return;
        }
        self.choose(Input::Sent { target: to });
        let relays = lock(&self.via.choices).ways(Instant::now(), &to);
        let counter = if relays.is_empty() { &*self.via.unsent } else { &self.via.sent };
        counter.fetch_add(1, Ordering::Relaxed);
        for relay in relays {
            self.send_load(relay, Load::Through { to, parcel: Parcel::Whole { cargo, bytes: datagram.clone() } });
        }
    }

    /// Tells the choice what happened, and does what it wants done.
    pub(super) fn choose(self: &Arc<Self>, input: Input<'_>) {
        let mut actions = lock(&self.via.choices).step(Instant::now(), input);
        while let Some(action) = actions.pop() {
            match action {
                Action::Probe { target, relay, number } => {
                    self.send_load(relay, Load::Through { to: target, parcel: Parcel::Probe(number) });
                }
                Action::Candidates { target } => {
                    let relays = self.via.reach.relays_to(&self.book, &target, CANDIDATES_MAX);
                    let told = Input::Candidates { target, relays: &relays };
                    actions.extend(lock(&self.via.choices).step(Instant::now(), told));
                }
            }
        }
    }

    /// Has relays to a peer measured.
    pub(crate) fn measure_relays(self: &Arc<Self>, peer: NodeId) {
        self.choose(Input::Asked { target: peer });
    }
}
