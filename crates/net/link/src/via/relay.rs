//! What comes on the connections for relaying, and what this node does for others.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use atoll_ids::NodeId;
use atoll_relay::{Bucket, Cargo, Frame, Input, Next, Parcel, Refusal};
use bytes::Bytes;
use tokio::time::{sleep, timeout};
use tracing::trace;

use crate::node::Node;
use crate::via::carrier::Carrier;
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
    pub(super) fn hear_frame(self: &Arc<Self>, peer: NodeId, carrier: &Carrier, frame: Bytes, manners: &mut Manners) {
        match Frame::decode(frame) {
            Ok(Frame::Forward { to, payload }) => {
                if let Err(refusal) = self.carry(peer, to, payload)
                    && manners.refusals.take(Instant::now(), 1)
                {
                    let _: Result<(), _> = carrier.send(Frame::Refused { to, refusal }.encode());
                }
            }
            Ok(Frame::Deliver { from, payload }) => self.take_delivery((peer, carrier), from, payload, manners),
            Ok(Frame::Refused { to, refusal }) if to == self.id => self.not_awaited_at(peer, refusal),
            Ok(Frame::Refused { to, refusal }) => {
                trace!(relay = %peer.short(), to = %to.short(), %refusal, "a relay refuses");
                self.choose(Input::Refused { target: to, relay: peer, refusal });
            }
            Ok(Frame::Await { node, pass, seconds }) => {
                if let Err(refusal) = self.expect(peer, node, pass, seconds)
                    && manners.refusals.take(Instant::now(), 1)
                {
                    let _: Result<(), _> = carrier.send(Frame::Refused { to: node, refusal }.encode());
                }
            }
            // Who is known here needs no pass.
            Ok(Frame::Show { .. }) => {}
            Err(error) => trace!(peer = %peer.short(), %error, "not a frame"),
        }
    }

    /// Carries something for a peer, or says why not.
    pub(super) fn carry(&self, from: NodeId, to: NodeId, payload: Bytes) -> Result<(), Refusal> {
        // The one that is not known here is let through to the other, which is.
        let guests = lock(&self.via.awaited).links(Instant::now(), &from, &to);
        let (knows_from, knows_to) = (self.book.knows(&from), self.book.knows(&to));
        let mut forwarder = lock(&self.via.forwarder);
        let refusal = if !self.via.offers {
            Some(Refusal::Off)
        } else if to == self.id || !(knows_from && knows_to || guests && (knows_from || knows_to)) {
            Some(Refusal::Unknown)
        } else if knows_to && (!self.book.is_present(&to) || !self.has_way(&to)) {
            Some(Refusal::Away)
        } else {
            None
        };
        if let Some(refusal) = refusal {
            forwarder.note_refused();
            return Err(refusal);
        }
        let now = Instant::now();
        if knows_from {
            forwarder.offer(now, from, to, payload)?;
        } else {
            forwarder.offer_from_guest(now, from, to, payload)?;
        }
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
                    let frame = Frame::Deliver { from, payload };
                    if self.book.knows(&to) {
                        self.send_load(to, Load::Frame(frame));
                    } else {
                        // A stranger is not dialled: it came.
                        self.answer_frame(&to, &frame);
                    }
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
    fn take_delivery(
        self: &Arc<Self>,
        (relay, carrier): (NodeId, &Carrier),
        from: NodeId,
        payload: Bytes,
        manners: &mut Manners,
    ) {
        // On a lane a peer speaks for itself as well.
        let itself = from == relay && !carrier.is_lane();
        if from == self.id || itself || !self.listens_to(from, relay) {
            return;
        }
        match Parcel::decode(payload) {
            Ok(Parcel::Whole { cargo, bytes }) => self.take_datagram(relay, from, cargo, bytes),
            Ok(Parcel::Half { cargo, number, second, bytes }) => {
                if let Some(datagram) = self.join_half(from, number, second, bytes) {
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

    /// What is kept of strangers goes with them.
    fn join_half(&self, from: NodeId, number: u16, second: bool, bytes: Bytes) -> Option<Bytes> {
        let mut halves = lock(&self.via.halves);
        if !halves.contains_key(&from) {
            halves.retain(|node, _| self.via.reach.speaks_to(&self.book, node));
        }
        halves.entry(from).or_default().join(number, second, bytes)
    }

    fn take_datagram(self: &Arc<Self>, relay: NodeId, from: NodeId, cargo: Cargo, datagram: Bytes) {
        if cargo == Cargo::Sealed && !self.book.knows(&from) {
            return trace!(relay = %relay.short(), from = %from.short(), "a packet of a stranger");
        }
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
