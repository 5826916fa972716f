//! Strangers that join by a ticket and reach the inviting node through a relay only: what all three do for that.
//!
//! The inviting node names some of its relays in the ticket and tells them, as long as it stands, that whoever has its pass is awaited. The joining node dials one of
//! these, shows the pass, and then speaks with the inviting node through it as peers do. The relay lets it through to that node alone, for a minute, with a small share.
//!
//! # Why that is safe
//!
//! - **To the relay.** Strangers get in only while a peer awaits somebody, and only [`GUESTS_MAX`] at once; as many more may be about to show a pass, for [`SHOW_TIME`] each. Who has shown
//!   one reaches the peer that gave it out, for [`GUEST_TIME`], and nobody else: not the relay's other protocols (its connection takes frames of three kinds and no streams), nor its other peers. What all
//!   strangers send together is a small part of the relay's budget, whoever comes and goes; what they leave waiting goes with them. They are never dialled.
//! - **To the inviting node.** A stranger that comes by a relay gets what one gets that comes directly: a handshake, among a bounded number of them, and the one protocol that is open to
//!   strangers, where it presents the invitation or is closed. Nothing but QUIC is taken from it, only while an invitation stands, and only of so many strangers, per relay as well.
//! - **To the joining node.** A ticket may name any relay. That one gets no rights: what it brings is heard of the node that is being joined alone, and it can have nothing carried.
//! - **Against a relay that lies.** What the two say is end-to-end encrypted and each proves who it is, so it can be silent, late or count bytes; then the other relays of the ticket serve. It learns
//!   nothing from the pass with which it could join itself: proofs of the invitation are made with another key.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use atoll_ids::NodeId;
use atoll_relay::{AWAITED_MAX, Bucket, Frame, GUEST_TIME, Pass, Refusal};
use bytes::Bytes;
use iroh::endpoint::Connection;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::{sleep, timeout};
use tracing::{debug, trace};

use crate::join::now;
use crate::node::Node;
use crate::peers::Path;
use crate::quic::code;
use crate::ticket::{TICKET_RELAYS_MAX, TicketRelay};
use crate::via::carrier::{Carrier, FrameLane};
use crate::via::lock;
use crate::via::ways::Load;

/// How often relays are told who is awaited: several times within what they remember, and before a connection without traffic is closed.
const TELL_EVERY: Duration = Duration::from_secs(40);

/// How long a stranger may take to show a pass: it does so with its first frame.
const SHOW_TIME: Duration = Duration::from_secs(5);

/// Refusals told to a stranger per second.
const REFUSALS_PER_SECOND: u64 = 5;

/// How long a relay that does not let anybody through is not named any more. Its owner may change that.
const UNWILLING: Duration = Duration::from_secs(600);

impl Node {
    /// The peers to name in a ticket: those that are reached where they say they are, so that others reach them there, too.
    pub(crate) fn ticket_relays(&self) -> Vec<TicketRelay> {
        let now = Instant::now();
        let unwilling = {
            let mut unwilling = lock(&self.via.unwilling);
            unwilling.retain(|_, until| now < *until);
            unwilling.clone()
        };
        let mut found = Vec::new();
        for peer in self.book.peers().into_iter().filter(|peer| !unwilling.contains_key(&peer.id)) {
            let Some(connected) = &peer.connected else { continue };
            let (mut quic, mut lane) = (peer.record.quic, peer.record.lane);
            let at = match connected.path {
                Path::Direct(at) if quic.contains(&at) => at.ip(),
                // By TCP only: then others get there by that as well.
                Path::Via(_) if self.via.reach.is_laned(&peer.id) && !lane.is_empty() => lane[0].ip(),
                _ => continue,
            };
            quic.sort_by_key(|address| address.ip() != at);
            lane.sort_by_key(|address| address.ip() != at);
            let rank = (!is_everywhere(at), connected.round_trip);
            found.push((rank, TicketRelay::new(peer.id, &quic, &lane)));
        }
        found.sort_by_key(|(rank, _)| *rank);
        found.into_iter().take(TICKET_RELAYS_MAX).map(|(_, relay)| relay).collect()
    }

    /// Keeps the relays that tickets name informed of who is awaited.
    pub(super) async fn await_joiners(self: Arc<Self>) {
        loop {
            let awaiting = self.invites.lock().unwrap_or_else(PoisonError::into_inner).awaiting(now());
            for one in &awaiting {
                let seconds = u16::try_from(one.seconds.min(AWAITED_MAX.as_secs())).unwrap_or(u16::MAX);
                let frame = Frame::Await { node: self.id, pass: one.pass.clone(), seconds };
                for relay in one.relays.iter().filter(|relay| self.book.knows(relay)) {
                    self.send_load(*relay, Load::Frame(frame.clone()));
                }
            }
            let invited = self.via.invited.notified();
            if awaiting.is_empty() {
                invited.await;
            } else {
                let _: Result<(), _> = timeout(TELL_EVERY, invited).await;
            }
        }
    }

    /// A relay lets nobody through to this node.
    pub(super) fn not_awaited_at(&self, relay: NodeId, refusal: Refusal) {
        if !self.book.knows(&relay) {
            return;
        }
        debug!(relay = %relay.short(), %refusal, "a relay lets no joining node through to this one");
        lock(&self.via.unwilling).insert(relay, Instant::now() + UNWILLING);
    }

    /// Whether something is taken in that a relay brings: of a peer, of a node that we are joining, and of a stranger that may be about to join. A relay that is
    /// none of our peers but was named by a ticket is there for the joining alone.
    pub(super) fn listens_to(&self, from: NodeId, relay: NodeId) -> bool {
        if self.via.reach.is_joining(&from) {
            return true;
        }
        self.book.knows(&relay) && (self.book.knows(&from) || self.hears_caller(from, relay))
    }

    fn hears_caller(&self, stranger: NodeId, relay: NodeId) -> bool {
        let is_any_open = self.invites.lock().unwrap_or_else(PoisonError::into_inner).is_any_open(now());
        is_any_open && self.via.reach.hear_caller(Instant::now(), stranger, relay)
    }

    /// Shows a relay what it lets us through for, if a ticket names it. What may be lost is shown again.
    pub(super) fn show_passes(&self, relay: NodeId, carrier: &Carrier) {
        for (to, pass) in self.via.reach.passes_for(&relay) {
            let proof = pass.proof(self.id, relay, to);
            let _: Result<(), _> = carrier.send(Frame::Show { to, proof }.encode());
        }
    }

    /// A peer awaits strangers that have a pass.
    pub(super) fn expect(&self, peer: NodeId, node: NodeId, pass: Pass, seconds: u16) -> Result<(), Refusal> {
        if !self.via.offers {
            return Err(Refusal::Off);
        }
        if node != peer || !self.book.knows(&peer) {
            return Err(Refusal::Unknown);
        }
        lock(&self.via.awaited).expect(Instant::now(), peer, pass, Duration::from_secs(seconds.into()))
    }

    /// Whether strangers may come to be let through to a peer.
    pub(crate) fn takes_guests(&self) -> bool {
        self.via.offers && lock(&self.via.awaited).is_any(Instant::now())
    }

    /// Lets a stranger through that dialled this node.
    pub(crate) async fn serve_guest(self: Arc<Self>, guest: NodeId, connection: Connection) {
        let Ok(_place) = self.via.guests.clone().try_acquire_owned() else {
            return connection.close(code::BUSY.into(), b"too many nodes are joining");
        };
        let mut serving = Serving::new(guest, Carrier::Quic(connection.clone()));
        let admitted = serving.admitted.clone();
        let reading = async {
            while let Ok(frame) = connection.read_datagram().await {
                self.hear_guest(&mut serving, frame);
            }
        };
        tokio::select! {
            () = reading => {}
            () = time_is_over(&admitted) => {}
        }
        self.guest_left(&serving);
    }

    /// The same on a lane.
    pub(crate) async fn serve_guest_by_lane(self: Arc<Self>, guest: NodeId, lane: impl AsyncRead + AsyncWrite + Send) {
        let Ok(_place) = self.via.guests.clone().try_acquire_owned() else { return };
        let lane = FrameLane::new(lane);
        let mut serving = Serving::new(guest, Carrier::Lane(lane.end.clone()));
        let admitted = serving.admitted.clone();
        tokio::select! {
            () = lane.run(guest, |frame| self.hear_guest(&mut serving, frame)) => {}
            () = time_is_over(&admitted) => {}
        }
        self.guest_left(&serving);
    }

    fn hear_guest(&self, serving: &mut Serving, frame: Bytes) {
        let guest = serving.guest;
        let (to, outcome) = match Frame::decode(frame) {
            Ok(Frame::Show { to, proof }) => {
                let admitted = lock(&self.via.awaited).admit(Instant::now(), guest, self.id, to, &proof);
                if admitted.is_ok() && !serving.admitted.swap(true, Ordering::Relaxed) {
                    debug!(guest = %guest.short(), to = %to.short(), "a stranger is let through to who awaits it");
                    lock(&self.via.accepted).push((guest, serving.carrier.clone()));
                }
                (to, admitted)
            }
            // What comes before is lost as anything may be: a refusal would keep it away.
            Ok(Frame::Forward { to, payload }) if serving.admitted.load(Ordering::Relaxed) => {
                (to, self.carry(guest, to, payload))
            }
            other => return trace!(guest = %guest.short(), ?other, "not for a stranger to say"),
        };
        // What is over its share is lost as anything may be, too.
        if let Err(refusal) = outcome
            && refusal != Refusal::Budget
            && serving.refusals.take(Instant::now(), 1)
        {
            let _: Result<(), _> = serving.carrier.send(Frame::Refused { to, refusal }.encode());
        }
    }

    fn guest_left(&self, serving: &Serving) {
        serving.carrier.close(code::DONE, "joining takes no longer");
        lock(&self.via.accepted).retain(|(_, kept)| !kept.is(&serving.carrier));
        lock(&self.via.awaited).leave(&serving.guest);
        lock(&self.via.forwarder).leave(&serving.guest);
    }
}

/// Whether an address means the same everywhere: neither of this machine, of a local network nor behind a provider's translation.
fn is_everywhere(ip: std::net::IpAddr) -> bool {
    match ip.to_canonical() {
        std::net::IpAddr::V4(ip) => {
            let shared = ip.octets()[0] == 100 && ip.octets()[1] & 0xc0 == 64;
            !(ip.is_private() || ip.is_loopback() || ip.is_link_local() || shared)
        }
        std::net::IpAddr::V6(ip) => !(ip.is_loopback() || ip.is_unique_local() || ip.is_unicast_link_local()),
    }
}

/// A stranger that is here to be let through.
struct Serving {
    guest: NodeId,
    carrier: Carrier,
    admitted: Arc<AtomicBool>,
    refusals: Bucket,
}

impl Serving {
    fn new(guest: NodeId, carrier: Carrier) -> Self {
        let refusals = Bucket::new(REFUSALS_PER_SECOND, REFUSALS_PER_SECOND);
        Self { guest, carrier, admitted: Arc::default(), refusals }
    }
}

/// Waits until a stranger should have shown a pass and has not, or has had its time.
async fn time_is_over(admitted: &AtomicBool) {
    sleep(SHOW_TIME).await;
    if admitted.load(Ordering::Relaxed) {
        sleep(GUEST_TIME.saturating_sub(SHOW_TIME)).await;
    }
}
