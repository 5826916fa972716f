//! What comes on the connections for relaying, and what this node does for others.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use atoll_ids::NodeId;
use atoll_relay::{Bucket, Cargo, Frame, Input, Next, Parcel, Refusal};
use bytes::Bytes;
use iroh::endpoint::Connection;
use tokio::time::{sleep, timeout};
use tracing::trace;

use crate::node::Node;
use crate::via::lock;
use crate::via::ways::Load;

/// Refusals told per second and connection: one would do, and what is refused may come by the thousand.
const REFUSALS_PER_SECOND: u64 = 20;

/// Probes answered per second and connection. Peers send one every few seconds for each node that they reach through it.
const ECHOES_PER_SECOND: u64 = 100;

/// Frames handed on before others get the thread.
const AT_ONCE: usize = 32;

/// The shortest pause when the budget is used up; timers are no finer.
const PAUSE_LEAST: Duration = Duration::from_millis(1);

/// How much is answered on one connection.
pub(super) struct Manners {
    refusals: Bucket,
    echoes: Bucket,
}

impl Manners {
    pub(super) fn new() -> Self {
        let limit = |per_second: u64| Bucket::new(per_second, per_second);
        Self { refusals: limit(REFUSALS_PER_SECOND), echoes: limit(ECHOES_PER_SECOND) }
    }
}

impl Node {
    /// Takes in one frame of a peer.
    pub(super) fn hear_frame(
        self: &Arc<Self>,
        peer: NodeId,
        connection: &Connection,
        frame: Bytes,
        manners: &mut Manners,
    ) {
        match Frame::decode(frame) {
            Ok(Frame::Forward { to, payload }) => {
                if let Err(refusal) = self.carry(peer, to, payload)
                    && manners.refusals.take(Instant::now(), 1)
                {
                    let _: Result<(), _> = connection.send_datagram(Frame::Refused { to, refusal }.encode());
                }
            }
            Ok(Frame::Deliver { from, payload }) => self.take_delivery(peer, from, payload, manners),
            Ok(Frame::Refused { to, refusal }) => {
                trace!(relay = %peer.short(), to = %to.short(), %refusal, "a relay refuses");
                self.choose(Input::Refused { target: to, relay: peer, refusal });
            }
            Err(error) => trace!(peer = %peer.short(), %error, "not a frame"),
        }
    }

    /// Carries something for a peer, or says why not.
    fn carry(&self, from: NodeId, to: NodeId, payload: Bytes) -> Result<(), Refusal> {
        let mut forwarder = lock(&self.via.forwarder);
        let refusal = if !self.via.offers {
            Some(Refusal::Off)
        } else if to == self.id || !self.book.knows(&from) || !self.book.knows(&to) {
            Some(Refusal::Unknown)
        } else if !self.book.is_present(&to) || !self.has_way(&to) {
            Some(Refusal::Away)
        } else {
            None
        };
        if let Some(refusal) = refusal {
            forwarder.note_refused();
            return Err(refusal);
        }
        forwarder.offer(Instant::now(), from, to, payload)?;
        self.via.to_hand_on.notify_one();
        Ok(())
    }

    /// Hands on what others sent, as the budget allows.
    pub(super) async fn hand_on_for_others(self: Arc<Self>) {
        let mut at_once = 0;
        loop {
            let next = lock(&self.via.forwarder).next(Instant::now());
            match next {
                Next::Send { from, to, payload } => {
                    self.send_load(to, Load::Frame(Frame::Deliver { from, payload }));
                    at_once += 1;
                    if at_once == AT_ONCE {
                        at_once = 0;
                        tokio::task::yield_now().await;
                    }
                }
                // Somebody whose share is not used up may have something in the meantime.
                Next::Wait(pause) => drop(timeout(pause.max(PAUSE_LEAST), self.woken()).await),
                Next::Nothing => self.via.to_hand_on.notified().await,
            }
        }
    }

    /// Something new is there. Not more often than timers are fine, so that a flood does not keep us busy with looking.
    async fn woken(&self) {
        self.via.to_hand_on.notified().await;
        sleep(PAUSE_LEAST).await;
    }

    /// Takes in what a relay delivers from a node.
    fn take_delivery(self: &Arc<Self>, relay: NodeId, from: NodeId, payload: Bytes, manners: &mut Manners) {
        // A stranger gets no answer through a relay.
        if from == self.id || from == relay || !self.book.knows(&from) {
            return;
        }
        match Parcel::decode(payload) {
            Ok(Parcel::Whole { cargo, bytes }) => self.take_datagram(relay, from, cargo, bytes),
            Ok(Parcel::Half { cargo, number, second, bytes }) => {
                let whole = lock(&self.via.halves).entry(from).or_default().join(number, second, bytes);
                if let Some(datagram) = whole {
                    self.take_datagram(relay, from, cargo, datagram);
                }
            }
            Ok(Parcel::Probe(number)) => {
                if manners.echoes.take(Instant::now(), 1) {
                    self.send_load(relay, Load::Through { to: from, parcel: Parcel::Echo(number) });
                }
            }
            Ok(Parcel::Echo(number)) => self.choose(Input::Echoed { target: from, relay, number }),
            Err(error) => trace!(relay = %relay.short(), from = %from.short(), %error, "not a parcel"),
        }
    }

    fn take_datagram(self: &Arc<Self>, relay: NodeId, from: NodeId, cargo: Cargo, datagram: Bytes) {
        self.choose(Input::Heard { target: from, relay });
        if cargo == Cargo::Sealed {
            self.via.received.fetch_add(1, Ordering::Relaxed);
            return self.take_sealed(from, &datagram);
        }
        if self.via.arrived.try_send((from, datagram)).is_ok() {
            self.via.received.fetch_add(1, Ordering::Relaxed);
        }
    }
}
