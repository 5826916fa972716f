//! The connections on which relaying is done: one to each peer that something is sent to, dialled when there is something, closed when there was nothing for a
//! while. They must be direct: a relay that is reached by a relay would carry itself.

use std::collections::VecDeque;
use std::collections::hash_map::Entry;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use atoll_ids::NodeId;
use atoll_relay::{Frame, HEADER_BYTES, Input, Parcel, Refusal};
use bytes::Bytes;
use iroh::endpoint::{ConnectOptions, Connection, SendDatagramError};
use tokio::time::{MissedTickBehavior, interval};
use tracing::debug;

use crate::book::CountGuard;
use crate::dial::DialError;
use crate::error::Refusal as LinkRefusal;
use crate::node::Node;
use crate::packets::packet_transport;
use crate::quic::{code, is_direct};
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
    Up { connection: Connection, used: Instant },
    Resting { until: Instant },
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
            Some(Way::Up { connection, used }) if connection.close_reason().is_none() => {
                *used = Instant::now();
                let connection = connection.clone();
                drop(ways);
                return self.send_load_on(peer, &connection, load);
            }
            Some(Way::Dialling { waiting }) if waiting.len() < WAITING_MAX => return waiting.push_back(load),
            Some(Way::Resting { until }) if Instant::now() >= *until => {}
            Some(Way::Dialling { .. } | Way::Resting { .. }) => {
                self.via.unsent.fetch_add(1, Ordering::Relaxed);
                return;
            }
            _ => {}
        }
        if self.is_closing() || !self.book.knows(&peer) {
            ways.remove(&peer);
            return;
        }
        ways.insert(peer, Way::Dialling { waiting: VecDeque::from([load]) });
        drop(ways);
        self.spawn(self.clone().open_way(peer));
    }

    /// Whether frames for a peer have a chance: it is not one that was just not reached.
    pub(super) fn has_way(&self, peer: &NodeId) -> bool {
        !matches!(lock(&self.via.ways).get(peer), Some(Way::Resting { until }) if Instant::now() < *until)
    }

    fn send_load_on(self: &Arc<Self>, peer: NodeId, connection: &Connection, load: Load) {
        let room = connection.max_datagram_size().unwrap_or(0);
        let frames = match &load {
            Load::Frame(frame) => vec![frame.encode()],
            Load::Through { to, parcel } => self.frames(peer, *to, parcel, room),
        };
        let sent = !frames.is_empty()
            && frames.into_iter().all(|frame| match connection.send_datagram(frame) {
                Ok(()) => true,
                Err(SendDatagramError::TooLarge) => {
                    self.say_too_large(peer, &load);
                    false
                }
                Err(_) => false,
            });
        if !sent {
            self.via.unsent.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// The frames for a parcel; none if it cannot be carried.
    fn frames(&self, relay: NodeId, to: NodeId, parcel: &Parcel, room: usize) -> Vec<Bytes> {
        let frame = |parcel: Parcel| Frame::Forward { to, payload: parcel.encode() }.encode();
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
    fn answer_frame(&self, peer: &NodeId, frame: &Frame) {
        let accepted = lock(&self.via.accepted);
        if let Some((_, connection)) = accepted.iter().rev().find(|(node, _)| node == peer) {
            let _: Result<(), _> = connection.send_datagram(frame.encode());
        }
    }

    async fn open_way(self: Arc<Self>, peer: NodeId) {
        let connection = match self.dial_way(peer).await {
            Ok(connection) => connection,
            Err(error) => {
                debug!(peer = %peer.short(), %error, "no connection for relaying");
                let foreign = matches!(error, DialError::Refused(LinkRefusal::Protocol));
                let until = Instant::now() + if foreign { REST_FOREIGN } else { REST };
                lock(&self.via.ways).insert(peer, Way::Resting { until });
                return self.choose(Input::Gone { relay: peer });
            }
        };
        let up = Way::Up { connection: connection.clone(), used: Instant::now() };
        let before = lock(&self.via.ways).insert(peer, up);
        if let Some(Way::Dialling { waiting }) = before {
            for load in waiting {
                self.send_load_on(peer, &connection, load);
            }
        }
        debug!(peer = %peer.short(), room = connection.max_datagram_size(), "relaying has a connection");
        let idle = self.keep_way(peer, &connection).await;
        connection.close(code::DONE.into(), b"nothing to relay");
        if let Entry::Occupied(way) = lock(&self.via.ways).entry(peer)
            && matches!(way.get(), Way::Up { connection: kept, .. } if kept.stable_id() == connection.stable_id())
        {
            way.remove();
        }
        if !idle {
            self.choose(Input::Gone { relay: peer });
        }
    }

    async fn dial_way(&self, peer: NodeId) -> Result<Connection, DialError> {
        let record = self.book.record(&peer).ok_or_else(|| DialError::Failed("forgotten".to_owned()))?;
        let options = ConnectOptions::new().with_transport_config(packet_transport());
        let connection = self.dial_with(peer, &record, RELAY, options).await?;
        if !is_direct(&connection) {
            connection.close(code::DONE.into(), b"a relay is reached directly or not at all");
            return Err(DialError::Failed("there is no direct path".to_owned()));
        }
        Ok(connection)
    }

    /// Reads on a connection until it ends, is not direct any more, or was not used for a while: then true.
    async fn keep_way(self: &Arc<Self>, peer: NodeId, connection: &Connection) -> bool {
        let mut manners = Manners::new();
        let mut checks = interval(CHECK_EVERY);
        checks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                read = connection.read_datagram() => match read {
                    Ok(frame) => self.hear_frame(peer, connection, frame, &mut manners),
                    Err(error) => {
                        debug!(peer = %peer.short(), %error, "a connection for relaying ended");
                        return false;
                    }
                },
                _ = checks.tick() => {
                    let used = match lock(&self.via.ways).get(&peer) {
                        Some(Way::Up { connection: kept, used }) if kept.stable_id() == connection.stable_id() => *used,
                        _ => return true,
                    };
                    if used.elapsed() >= IDLE {
                        return true;
                    }
                    if !is_direct(connection) {
                        return false;
                    }
                }
            }
        }
    }

    /// Takes in what a peer sends on a connection that it dialled.
    pub(crate) async fn receive_frames(self: Arc<Self>, peer: NodeId, connection: Connection, _admission: CountGuard) {
        lock(&self.via.accepted).push((peer, connection.clone()));
        let mut manners = Manners::new();
        while let Ok(frame) = connection.read_datagram().await {
            self.hear_frame(peer, &connection, frame, &mut manners);
        }
        lock(&self.via.accepted).retain(|(_, kept)| kept.stable_id() != connection.stable_id());
    }
}
