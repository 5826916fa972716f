//! The connections on which relaying is done: one to each peer that something is sent to, dialled when there is something, closed when there was nothing for a
//! while. They must be direct: a relay that is reached by a relay would carry itself. Where QUIC does not come up, a lane (TCP) takes its place; then the peer is also reached
//! itself in this way, as what is for it is sent over the lane.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use atoll_ids::NodeId;
use atoll_lane::LaneStream;
use atoll_relay::{Frame, HEADER_BYTES, Input, Parcel, Refusal};
use bytes::Bytes;
use iroh::endpoint::{ConnectOptions, Connection};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::{MissedTickBehavior, interval};
use tracing::debug;

use crate::address::AddressRecord;
use crate::book::CountGuard;
use crate::dial::{DialError, either};
use crate::error::Refusal as LinkRefusal;
use crate::node::Node;
use crate::packets::packet_transport;
use crate::quic::code;
use crate::via::carrier::{Carrier, FrameLane, LaneEnd, NotSent};
use crate::via::relay::Manners;
use crate::via::{RELAY, lock};

/// What waits for a connection to be made: a handshake's first flight for some peers at once.
const WAITING_MAX: usize = 64;

/// A connection on which nothing was sent for this long is closed.
const IDLE: Duration = Duration::from_secs(60);

/// How often it is looked whether a connection is still direct and in use.
const CHECK_EVERY: Duration = Duration::from_secs(1);

/// How long a peer that was not reached is left alone.
const REST: Duration = Duration::from_secs(2);

/// The same for one that does not know this protocol: that takes an upgrade.
const REST_FOREIGN: Duration = Duration::from_secs(60);

/// What QUIC has before a lane is tried. Where UDP gets through at all it is up by then.
pub(crate) const LANE_AFTER: Duration = Duration::from_secs(1);

/// A lane on which something was sent and nothing heard for this long is given up: both ends of the connections inside send something every two seconds.
const LANE_SILENCE: Duration = Duration::from_secs(15);

/// How long a peer that is reached by a lane has to be reached directly until QUIC is used for relaying again.
const LANE_SPARED: Duration = Duration::from_secs(10);

/// What frames to a relay may take when its own way on carries less than ours to it: the least that QUIC gets through anywhere, 1,200 bytes, less what a
/// datagram's header takes there.
const NARROW_BYTES: usize = 1100;

/// What is sent to a relay, or by one.
#[derive(Debug, Clone)]
pub(super) enum Load {
    /// For a node, through the peer that it is sent to.
    Through { to: NodeId, parcel: Parcel },
    /// A frame as it is.
    Frame(Frame),
}

/// The connection to one peer.
pub(super) enum Way {
    Dialling { waiting: VecDeque<Load> },
    Up { carrier: Carrier, used: Instant },
    Resting { until: Instant },
}

/// Whether a lane is used and nothing comes.
fn is_silent(lane: &LaneEnd, used: Instant) -> bool {
    used.elapsed() < LANE_SILENCE && lane.heard().elapsed() >= LANE_SILENCE
}

/// What came of dialling.
enum Dialled {
    Quic(Connection),
    Lane(FrameLane<LaneStream>),
}

impl Way {
    pub(super) fn is_up(&self) -> bool {
        matches!(self, Self::Up { .. })
    }
}

impl Node {
    /// Sends to a peer that is a relay or a target; dials it if need be. What cannot be sent is given up.
    pub(super) fn send_load(self: &Arc<Self>, peer: NodeId, load: Load) {
        let mut ways = lock(&self.via.ways);
        match ways.get_mut(&peer) {
            Some(Way::Up { carrier, used }) if !carrier.is_closed() => {
                *used = Instant::now();
                let carrier = carrier.clone();
                drop(ways);
                return self.send_load_on(peer, &carrier, load);
            }
            Some(Way::Dialling { waiting }) if waiting.len() < WAITING_MAX => return waiting.push_back(load),
            Some(Way::Resting { until }) if Instant::now() >= *until => {}
            Some(Way::Dialling { .. } | Way::Resting { .. }) => {
                self.via.unsent.fetch_add(1, Ordering::Relaxed);
                return;
            }
            _ => {}
        }
        if self.is_closing() || self.record_for_way(&peer).is_none() {
            ways.remove(&peer);
            return;
        }
        ways.insert(peer, Way::Dialling { waiting: VecDeque::from([load]) });
        drop(ways);
        self.spawn(self.clone().open_way(peer, false));
    }

    /// Opens a lane to a peer that QUIC does not reach, unless there is one or was just none.
    pub(crate) fn want_lane(self: &Arc<Self>, peer: NodeId) {
        if self.is_closing() || self.book.record(&peer).is_none_or(|record| record.lane.is_empty()) {
            return;
        }
        let mut ways = lock(&self.via.ways);
        match ways.get(&peer) {
            Some(Way::Up { carrier, .. }) if !carrier.is_closed() => return,
            Some(Way::Dialling { .. }) => return,
            Some(Way::Resting { until }) if Instant::now() < *until => return,
            _ => {}
        }
        ways.insert(peer, Way::Dialling { waiting: VecDeque::new() });
        drop(ways);
        self.spawn(self.clone().open_way(peer, true));
    }

    /// Where a peer is that carries for us, or a relay that a ticket names.
    fn record_for_way(&self, peer: &NodeId) -> Option<AddressRecord> {
        self.book.record(peer).or_else(|| self.via.reach.relay_of_ticket(peer))
    }

    /// Whether frames for a peer have a chance: it is not one that was just not reached.
    pub(super) fn has_way(&self, peer: &NodeId) -> bool {
        !matches!(lock(&self.via.ways).get(peer), Some(Way::Resting { until }) if Instant::now() < *until)
    }

    fn send_load_on(self: &Arc<Self>, peer: NodeId, carrier: &Carrier, load: Load) {
        let frames = match &load {
            Load::Frame(frame) => vec![frame.encode()],
            Load::Through { to, parcel } => self.frames(peer, *to, parcel, carrier.room()),
        };
        if matches!(&load, Load::Through { parcel: Parcel::Probe(_), .. }) {
            self.show_passes(peer, carrier);
        }
        let sent = !frames.is_empty()
            && frames.into_iter().all(|frame| match carrier.send(frame) {
                Ok(()) => true,
                Err(NotSent::TooLarge) => {
                    self.say_too_large(peer, &load);
                    false
                }
                Err(NotSent::Dropped) => false,
            });
        if !sent {
            self.via.unsent.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// The frames for a parcel; none if it cannot be carried. For the peer itself it is as if somebody had carried it already.
    fn frames(&self, relay: NodeId, to: NodeId, parcel: &Parcel, room: usize) -> Vec<Bytes> {
        let frame = |parcel: Parcel| {
            let payload = parcel.encode();
            if to == relay { Frame::Deliver { from: self.id, payload } } else { Frame::Forward { to, payload } }
                .encode()
        };
        let Parcel::Whole { cargo, bytes: datagram } = parcel else { return vec![frame(parcel.clone())] };
        let narrow = lock(&self.via.choices).is_narrow(&to, &relay);
        let room = if narrow { room.min(NARROW_BYTES) } else { room };
        let number = self.via.number.fetch_add(1, Ordering::Relaxed);
        let packed = Parcel::pack(*cargo, datagram, room.saturating_sub(HEADER_BYTES), number);
        packed.into_iter().flat_map(|(one, two)| std::iter::once(one).chain(two)).map(frame).collect()
    }

    /// The way to the target carries less than the one from the sender: the sender has to cut smaller.
    fn say_too_large(&self, target: NodeId, load: &Load) {
        if let Load::Frame(Frame::Deliver { from, .. }) = load {
            self.answer_frame(from, &Frame::Refused { to: target, refusal: Refusal::TooLarge });
        }
    }

    /// Says something on a connection that the peer dialled.
    pub(super) fn answer_frame(&self, peer: &NodeId, frame: &Frame) {
        let accepted = lock(&self.via.accepted);
        if let Some((_, carrier)) = accepted.iter().rev().find(|(node, _)| node == peer) {
            let _: Result<(), _> = carrier.send(frame.encode());
        }
    }

    async fn open_way(self: Arc<Self>, peer: NodeId, by_lane: bool) {
        match self.dial_way(peer, by_lane).await {
            Ok(Dialled::Quic(connection)) => {
                let carrier = Carrier::Quic(connection.clone());
                self.begin_way(peer, &carrier);
                debug!(peer = %peer.short(), room = carrier.room(), "relaying has a connection");
                let reading = self.read_way(peer, &connection, &carrier);
                let idle = self.keep_way(peer, &carrier, true, reading).await;
                self.end_way(peer, &carrier, idle);
            }
            Ok(Dialled::Lane(lane)) => {
                debug!(peer = %peer.short(), "relaying has a lane");
                // The connections that it is for are made anew by it.
                self.via.note(peer, false);
                self.keep_lane(peer, lane, true).await;
            }
            Err(error) => {
                debug!(peer = %peer.short(), %error, "no connection for relaying");
                let foreign = matches!(error, DialError::Refused(LinkRefusal::Protocol));
                let until = Instant::now() + if foreign { REST_FOREIGN } else { REST };
                let mut ways = lock(&self.via.ways);
                // The peer may have come by a lane in the meantime.
                if !ways.get(&peer).is_some_and(Way::is_up) {
                    ways.insert(peer, Way::Resting { until });
                    drop(ways);
                    self.choose(Input::Gone { relay: peer });
                }
            }
        }
    }

    async fn dial_way(self: &Arc<Self>, peer: NodeId, by_lane: bool) -> Result<Dialled, DialError> {
        let record = self.record_for_way(&peer).ok_or_else(|| DialError::Failed("forgotten".to_owned()))?;
        let by_quic = async {
            let options = ConnectOptions::new().with_transport_config(packet_transport());
            let connection = self.dial_with(peer, &record, RELAY, options).await?;
            let carrier = Carrier::Quic(connection.clone());
            if carrier.is_direct() {
                return Ok(Dialled::Quic(connection));
            }
            carrier.close(code::DONE, "a relay is reached directly or not at all");
            Err(DialError::Failed("there is no direct path".to_owned()))
        };
        let lane = async { self.dial_lane(peer, RELAY, &record).await.map(|lane| Dialled::Lane(FrameLane::new(lane))) };
        if by_lane { lane.await } else { either(by_quic, LANE_AFTER, lane).await }
    }

    /// What is for the peer goes by this from now on.
    fn begin_way(self: &Arc<Self>, peer: NodeId, carrier: &Carrier) {
        let up = Way::Up { carrier: carrier.clone(), used: Instant::now() };
        let before = lock(&self.via.ways).insert(peer, up);
        self.show_passes(peer, carrier);
        if let Some(Way::Dialling { waiting }) = before {
            for load in waiting {
                self.send_load_on(peer, carrier, load);
            }
        }
    }

    fn end_way(self: &Arc<Self>, peer: NodeId, carrier: &Carrier, idle: bool) {
        carrier.close(code::DONE, "nothing to relay");
        let used = {
            let mut ways = lock(&self.via.ways);
            let used = matches!(ways.get(&peer), Some(Way::Up { carrier: kept, .. }) if kept.is(carrier));
            if used {
                ways.remove(&peer);
            }
            used
        };
        if used && carrier.is_lane() {
            self.via.reach.set_laned(peer, false);
        }
        if !idle && used {
            self.choose(Input::Gone { relay: peer });
        }
    }

    async fn read_way(self: &Arc<Self>, peer: NodeId, connection: &Connection, carrier: &Carrier) {
        let mut manners = Manners::new();
        loop {
            match connection.read_datagram().await {
                Ok(frame) => self.hear_frame(peer, carrier, frame, &mut manners),
                Err(error) => return debug!(peer = %peer.short(), %error, "a connection for relaying ended"),
            }
        }
    }

    /// Carries on until `reading` ends, it is not direct any more, or another took its place or, if we dialled it, it was not used for a while: then true.
    async fn keep_way(
        self: &Arc<Self>,
        peer: NodeId,
        carrier: &Carrier,
        dialled: bool,
        reading: impl Future<Output = ()>,
    ) -> bool {
        let mut reading = std::pin::pin!(reading);
        let mut checks = interval(CHECK_EVERY);
        checks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut direct_since = None;
        loop {
            tokio::select! {
                () = &mut reading => return false,
                _ = checks.tick() => {
                    let used = match lock(&self.via.ways).get(&peer) {
                        Some(Way::Up { carrier: kept, used }) if kept.is(carrier) => *used,
                        _ => return true,
                    };
                    let needless = self.record_for_way(&peer).is_none();
                    if dialled && used.elapsed() >= IDLE || needless {
                        return true;
                    }
                    let over = match carrier {
                        Carrier::Quic(_) => !carrier.is_direct(),
                        Carrier::Lane(lane) => is_silent(lane, used) || dialled && self.spares_lane(&peer, &mut direct_since),
                    };
                    if over {
                        return false;
                    }
                }
            }
        }
    }

    /// Whether QUIC could take the place of a lane.
    fn spares_lane(&self, peer: &NodeId, direct_since: &mut Option<Instant>) -> bool {
        if !self.book.is_direct(peer) {
            *direct_since = None;
        }
        self.book.is_direct(peer) && direct_since.get_or_insert_with(Instant::now).elapsed() >= LANE_SPARED
    }

    /// Carries frames of a peer on a lane, and those for it, until it ends.
    async fn keep_lane<S: AsyncRead + AsyncWrite + Send>(
        self: &Arc<Self>,
        peer: NodeId,
        lane: FrameLane<S>,
        dialled: bool,
    ) {
        let carrier = Carrier::Lane(lane.end.clone());
        self.begin_way(peer, &carrier);
        // A stranger to whom we came for its help is not reached so itself.
        self.via.reach.set_laned(peer, self.book.knows(&peer));
        if let Some(keeper) = self.book.keeper(&peer) {
            keeper.wake.notify_one();
        }
        let mut manners = Manners::new();
        let reading = lane.run(peer, |frame| self.hear_frame(peer, &carrier, frame, &mut manners));
        let idle = self.keep_way(peer, &carrier, dialled, reading).await;
        self.end_way(peer, &carrier, idle);
    }

    /// Takes in what a peer sends on a connection that it dialled.
    pub(crate) async fn receive_frames(self: Arc<Self>, peer: NodeId, connection: Connection, _admission: CountGuard) {
        let carrier = Carrier::Quic(connection.clone());
        lock(&self.via.accepted).push((peer, carrier.clone()));
        let mut manners = Manners::new();
        while let Ok(frame) = connection.read_datagram().await {
            self.hear_frame(peer, &carrier, frame, &mut manners);
        }
        lock(&self.via.accepted).retain(|(_, kept)| !kept.is(&carrier));
    }

    /// The same on a lane. Who comes by one could not come otherwise, so what is for it goes by it, too.
    pub(crate) async fn receive_frames_by_lane(
        self: Arc<Self>,
        peer: NodeId,
        lane: impl AsyncRead + AsyncWrite + Send,
        _admission: CountGuard,
    ) {
        debug!(peer = %peer.short(), "a peer has a lane for relaying");
        let lane = FrameLane::new(lane);
        let carrier = Carrier::Lane(lane.end.clone());
        lock(&self.via.accepted).push((peer, carrier.clone()));
        self.keep_lane(peer, lane, false).await;
        lock(&self.via.accepted).retain(|(_, kept)| !kept.is(&carrier));
    }
}
