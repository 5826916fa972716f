//! IP packets to and from peers: `atoll/packet/1`, one packet per QUIC datagram, or half of one where that carries less ([`halves`]).
//!
//! A node sends on the connection that it dialled and receives on those that its peers dialled. So two nodes that dial each other at the same time
//! do not collide, and who sends chooses the transport's parameters: datagrams are best effort and what they carry has a congestion
//! control of its own, so ours does not second-guess it ([`PassThrough`]). A connection is dialled when there is something to send and closed
//! when there was nothing for a while. Where UDP of our own gets through, packets go beside the connection and not in it ([`fast`](crate::fast)).
//!
//! Nothing here looks into a packet; who may send what is for the filter that stands behind [`Packets::receive`]. A packet can be lost
//! anywhere and nothing is told about it but a count. Every queue is bounded and gives up the oldest or the newest when it is full.

use std::any::Any;
use std::collections::hash_map::Entry;
use std::collections::{BTreeSet, HashMap, VecDeque};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU16, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use atoll_fast::{Burst, Cut, HEADER_BYTES, Inbox, PACKET_BYTES_MAX, SLOT_BYTES, Way, finish_checksum};
use atoll_ids::NodeId;
use bytes::Bytes;
use futures_util::future::BoxFuture;
use iroh::endpoint::{
    ConnectOptions, Connection, ConnectionError, Controller, ControllerFactory, MtuDiscoveryConfig, SendDatagramError,
    VarInt,
};
use tokio::sync::mpsc;
use tokio::time::sleep;
use tracing::debug;

use crate::book::CountGuard;
use crate::dial::DialError;
use crate::fast::{FastCounts, FastPath, Session};
use crate::node::Node;
use crate::quic::{code, transport};

pub(crate) mod halves;

use halves::{Halves, half_of, halve, is_half};

/// The protocol's name.
pub(crate) const PACKET: &str = "atoll/packet/1";

/// Packets that wait for a connection to be made: the first segments of a few programs, not a stream.
const WAITING_MAX: usize = 64;

/// Packets that arrived and wait for the receiver, of all peers together: 5 MB of the usual size.
const ARRIVED_MAX: usize = 4096;

/// Packets taken from a connection at once.
const BATCH: usize = 64;

/// A connection on which nothing was sent for this long is closed; another takes one round trip.
const IDLE: Duration = Duration::from_secs(60);

/// How long a peer that was not reached is left alone: a program that retries once a second is not kept waiting much.
const REST: Duration = Duration::from_secs(1);

/// Everything with a peer ends for a way that leads nowhere at most this often: where it is not the way's fault, what works is to be left alone.
const ANEW_EVERY: Duration = Duration::from_secs(8);

/// After this long a connection's MTU is not expected to grow much any more.
const SETTLED: Duration = Duration::from_secs(5);

/// Longer than connections take to be closed, and than one that the peer was just making takes to be turned away.
const QUIET: Duration = Duration::from_millis(300);

/// The UDP payload that connections begin with. A planetary packet of 1,280 bytes needs up to 1,324 with QUIC's header and tag; with 48 bytes of
/// IPv6 and UDP this is 1,400 on the wire, which passes Ethernet, PPPoE and most tunnels. noq's own discovery goes up from here, and down if it must; larger packets
/// go in halves.
const INITIAL_MTU: u16 = 1352;

/// The largest UDP payload that is looked for: Ethernet's 1,500 bytes with IPv4. That has room for a whole packet of the interface.
const MTU_MAX: u16 = 1472;

/// Bytes waiting to leave on one connection; the oldest go when there are more.
const SEND_BUFFER: usize = 1 << 20;

/// Bytes in flight on one connection: 1 Gbit/s over 134 ms. No reaction to loss: what is inside reacts.
const WINDOW: u64 = 16 << 20;

/// Why a packet is not sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PacketRefusal {
    /// Not a peer.
    #[error("this node is not known")]
    Unknown,
    /// It was not reached just now.
    #[error("this node was not reached a moment ago")]
    Resting,
    /// More is waiting for the connection to be made than is kept.
    #[error("too many packets wait for the connection")]
    Full,
    /// The path does not carry packets of this size.
    #[error("the path carries packets of up to {mtu} bytes")]
    TooLarge {
        /// What it carries, in bytes.
        mtu: usize,
    },
    /// The link ends, or carries no packets.
    #[error("no packets are carried")]
    Closed,
}

/// What was carried since the start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PacketCounts {
    /// Packets handed to a connection.
    pub sent: u64,
    /// Packets refused or given up while they waited for a connection.
    pub unsent: u64,
    /// Packets that arrived.
    pub received: u64,
}

/// The way to one peer.
enum Out {
    Dialling {
        waiting: VecDeque<Bytes>,
    },
    /// A connection, or what is left of it: a fast path that still works, while another connection is dialled.
    Up {
        connection: Connection,
        since: Instant,
        used: Instant,
        fast: Option<Arc<Session>>,
    },
    Resting {
        until: Instant,
    },
}

/// The connections for packets.
pub(crate) struct PacketPaths {
    out: Mutex<HashMap<NodeId, Out>>,
    /// Connections that peers dialled, to be closed with the peer.
    dialled_by_peers: Mutex<Vec<(NodeId, Connection)>>,
    /// Peers with which everything was begun anew lately.
    begun_anew: Mutex<HashMap<NodeId, Instant>>,
    arrived: mpsc::Sender<(NodeId, Bytes)>,
    arriving: tokio::sync::Mutex<mpsc::Receiver<(NodeId, Bytes)>>,
    /// For who wants packets in memory of their own.
    inbox: tokio::sync::Mutex<Option<Inbox>>,
    /// Numbers packets that travel in halves.
    number: AtomicU16,
    sent: AtomicU64,
    unsent: AtomicU64,
    received: AtomicU64,
}

impl Default for PacketPaths {
    fn default() -> Self {
        let (arrived, arriving) = mpsc::channel(ARRIVED_MAX);
        Self {
            out: Mutex::default(),
            dialled_by_peers: Mutex::default(),
            begun_anew: Mutex::default(),
            arrived,
            arriving: tokio::sync::Mutex::new(arriving),
            inbox: tokio::sync::Mutex::default(),
            number: AtomicU16::new(0),
            sent: AtomicU64::new(0),
            unsent: AtomicU64::new(0),
            received: AtomicU64::new(0),
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl PacketPaths {
    /// Closes what is open with a peer.
    pub(crate) fn close(&self, peer: &NodeId, code: u32, reason: &str) {
        // One that is being dialled at this moment is new and stays.
        if let Some(Out::Up { connection, .. }) =
            lock(&self.out).extract_if(|node, out| node == peer && out.is_up()).next().map(|(_, out)| out)
        {
            connection.close(code.into(), reason.as_bytes());
        }
        for (_, connection) in lock(&self.dialled_by_peers).extract_if(.., |(node, _)| node == peer) {
            connection.close(code.into(), reason.as_bytes());
        }
    }

    /// The nodes with which a connection for packets is open or being made.
    pub(crate) fn open_with(&self) -> BTreeSet<NodeId> {
        let mut open: BTreeSet<NodeId> = lock(&self.dialled_by_peers).iter().map(|(node, _)| *node).collect();
        open.extend(
            lock(&self.out).iter().filter(|(_, out)| !matches!(out, Out::Resting { .. })).map(|(node, _)| *node),
        );
        open
    }

    /// How many connections for packets a node has open to us.
    pub(crate) fn dialled_by(&self, peer: &NodeId) -> usize {
        lock(&self.dialled_by_peers).iter().filter(|(node, _)| node == peer).count()
    }

    /// Closes what is open with a node, and keeps nothing of it.
    pub(crate) fn forget(&self, node: &NodeId) {
        self.close(node, code::DONE, "not in use");
        lock(&self.out).remove(node);
    }

    /// Whether it is long enough ago that everything was begun anew with a peer for its packets' sake.
    fn may_begin_anew(&self, peer: NodeId) -> bool {
        let mut begun = lock(&self.begun_anew);
        begun.retain(|_, at| at.elapsed() < ANEW_EVERY);
        match begun.entry(peer) {
            Entry::Occupied(_) => false,
            Entry::Vacant(free) => {
                free.insert(Instant::now());
                true
            }
        }
    }

    /// Takes in a packet that came by a relay. It is lost if the receiver is far behind.
    pub(crate) fn take_in(&self, from: NodeId, packet: Bytes) {
        self.received.fetch_add(1, Ordering::Relaxed);
        let _: Result<(), _> = self.arrived.try_send((from, packet));
    }

    /// The fast path to a peer, if there is one.
    pub(crate) fn session(&self, peer: &NodeId) -> Option<Arc<Session>> {
        match lock(&self.out).get(peer)? {
            Out::Up { fast, .. } => fast.clone(),
            _ => None,
        }
    }

    /// Closes the connections with a peer whose way leads nowhere any more, and leaves the fast paths: they may know a better one.
    pub(crate) fn leave_connections(&self, peer: &NodeId) {
        if let Some(Out::Up { connection, .. }) = lock(&self.out).get(peer) {
            connection.close(code::MOVING.into(), b"this way leads nowhere");
        }
        for (_, connection) in lock(&self.dialled_by_peers).iter().filter(|(node, _)| node == peer) {
            connection.close(code::MOVING.into(), b"this way leads nowhere");
        }
    }

    /// The fast path to a peer, if packets arrive on it. Notes that there is something to send.
    fn fast(&self, peer: &NodeId) -> Option<Arc<Session>> {
        match lock(&self.out).get_mut(peer)? {
            Out::Up { used, fast, .. } => {
                *used = Instant::now();
                fast.clone()
            }
            _ => None,
        }
    }

    /// The packets, each in halves if a way that carries so many bytes does not carry it whole.
    fn fit(&self, packets: &[Bytes], carries: usize) -> Vec<Bytes> {
        let mut parts = Vec::with_capacity(packets.len());
        for packet in packets {
            if packet.len() <= carries {
                parts.push(packet.clone());
            } else {
                parts.extend(halve(packet, self.number.fetch_add(1, Ordering::Relaxed)));
            }
        }
        parts
    }

    fn count(&self, outcome: Result<usize, PacketRefusal>, of: usize) {
        let sent = outcome.unwrap_or(0);
        self.sent.fetch_add(sent as u64, Ordering::Relaxed);
        self.unsent.fetch_add((of - sent) as u64, Ordering::Relaxed);
    }
}

impl Out {
    fn is_up(&self) -> bool {
        matches!(self, Self::Up { .. })
    }
}

/// Access to the packets of a link. Cheap to clone.
#[derive(Clone)]
pub struct Packets {
    node: Arc<Node>,
}

impl std::fmt::Debug for Packets {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Packets").field("counts", &self.counts()).finish_non_exhaustive()
    }
}

impl Packets {
    pub(crate) fn new(node: Arc<Node>) -> Self {
        Self { node }
    }

    /// Sends an IP packet of up to [`PACKET_BYTES_MAX`] bytes to a peer, best effort; never waits. Where there is no connection yet it waits for one.
    ///
    /// # Errors
    ///
    /// [`PacketRefusal`]. No error does not mean that it arrives.
    pub fn send(&self, to: NodeId, packet: Bytes) -> Result<(), PacketRefusal> {
        self.send_many(to, &[packet])
    }

    /// Sends packets to a peer in one go, as [`send`](Self::send) does one.
    ///
    /// # Errors
    ///
    /// [`PacketRefusal`], for all of them; [`PacketRefusal::TooLarge`] when any is, and then the others are sent.
    pub fn send_many(&self, to: NodeId, packets: &[Bytes]) -> Result<(), PacketRefusal> {
        let outcome = self.node.send_packets(to, packets);
        self.node.packets.count(outcome, packets.len());
        match outcome {
            Ok(sent) if sent < packets.len() => Err(PacketRefusal::TooLarge { mtu: PACKET_BYTES_MAX }),
            Ok(_) => Ok(()),
            Err(refusal) => Err(refusal),
        }
    }

    /// Sends packets that lie in a buffer of the caller's, as [`send_many`](Self::send_many) does. What the network does not take at once is sent by the future that
    /// comes back; dropping that loses it.
    pub fn send_burst<'a>(&'a self, to: NodeId, mut burst: Burst<'a>) -> Option<BoxFuture<'a, ()>> {
        let count = burst.count();
        if let Some(session) = self.node.packets.fast(&to) {
            match self.node.fast.send(&session, burst) {
                Ok(rest) => {
                    self.node.packets.count(Ok(count), count);
                    return rest;
                }
                Err(back) => burst = back,
            }
        }
        let packets: Vec<Bytes> = burst.packets().map(Bytes::copy_from_slice).collect();
        self.node.packets.count(self.node.send_packets(to, &packets), count);
        None
    }

    /// The same for a long TCP packet that is to be cut into segments.
    pub fn send_cut<'a>(&'a self, to: NodeId, mut cut: Cut<'a>) -> Option<BoxFuture<'a, ()>> {
        let count = cut.count();
        if let Some(session) = self.node.packets.fast(&to) {
            match self.node.fast.send_cut(&session, cut) {
                Ok(rest) => {
                    self.node.packets.count(Ok(count), count);
                    return rest;
                }
                Err(back) => cut = back,
            }
        }
        let packets = cut.split();
        self.node.packets.count(self.node.send_packets(to, &packets), count);
        None
    }

    /// Waits for packets and adds them to `batch`, each with the peer that sent it. False once the link has ended.
    pub async fn receive(&self, batch: &mut Vec<(NodeId, Bytes)>) -> bool {
        let mut kept = self.node.packets.inbox.lock().await;
        let inbox = kept.get_or_insert_default();
        let more = self.receive_into(inbox).await;
        batch.extend(inbox.packets().map(|arrived| {
            let mut packet = arrived.packet.to_vec();
            if arrived.begun {
                finish_checksum(&mut packet);
            }
            (arrived.from, Bytes::from(packet))
        }));
        more
    }

    /// Waits for packets and puts them into `inbox`, in place of what is there. False once the link has ended.
    ///
    /// Whoever receives also answers the probes of fast paths: without, peers send their packets inside connections.
    pub async fn receive_into(&self, inbox: &mut Inbox) -> bool {
        let Node { packets, fast, kill, .. } = &*self.node;
        let mut arriving = packets.arriving.lock().await;
        inbox.clear();
        while !kill.is_cancelled() {
            fast.receive(inbox);
            let by_fast_path = inbox.count();
            while inbox.loose().len() < BATCH
                && let Ok(packet) = arriving.try_recv()
            {
                inbox.loose().push(packet);
            }
            if inbox.count() > 0 {
                packets.received.fetch_add(by_fast_path as u64, Ordering::Relaxed);
                return true;
            }
            tokio::select! {
                () = fast.readable() => {}
                count = arriving.recv_many(inbox.loose(), BATCH) => return count > 0,
                () = kill.cancelled() => {}
            }
        }
        false
    }

    /// Where packets to a peer go on the fast path; `None` while they take the connection, or there is none.
    pub fn fast_path(&self, to: &NodeId) -> Option<SocketAddr> {
        match lock(&self.node.packets.out).get(to)? {
            Out::Up { fast, .. } => match fast.as_ref()?.target()? {
                Way::Direct(to) => Some(to),
                Way::Relayed => None,
            },
            _ => None,
        }
    }

    /// The UDP ports of the fast path; none where it is off.
    pub fn fast_ports(&self) -> Vec<u16> {
        let ports = self.node.fast.ports();
        [ports.v4, ports.v6].into_iter().filter(|port| *port != 0).collect()
    }

    /// What went over fast paths since the start.
    pub fn fast_counts(&self) -> FastCounts {
        self.node.fast.counts()
    }

    /// The largest packet that the way to a peer carries whole now, in bytes; `None` while there is no connection. Larger ones go in halves.
    pub fn mtu(&self, to: &NodeId) -> Option<usize> {
        match lock(&self.node.packets.out).get(to)? {
            Out::Up { connection, fast, .. } => {
                fast.as_ref().and_then(|session| session.carries()).or_else(|| connection.max_datagram_size())
            }
            _ => None,
        }
    }

    /// The same, where the way is known to carry less than the largest packet and is not just being found out about: for senders to be told.
    pub fn narrow(&self, to: &NodeId) -> Option<usize> {
        match lock(&self.node.packets.out).get(to)? {
            Out::Up { connection, since, fast, .. } => {
                let session = fast.as_ref().filter(|session| session.target().is_some());
                let carries = match session {
                    Some(session) => session.narrow(),
                    None => connection.max_datagram_size().filter(|_| since.elapsed() > SETTLED),
                };
                carries.filter(|carries| *carries < PACKET_BYTES_MAX)
            }
            _ => None,
        }
    }

    /// What was carried since the start.
    pub fn counts(&self) -> PacketCounts {
        let paths = &self.node.packets;
        PacketCounts {
            sent: paths.sent.load(Ordering::Relaxed),
            unsent: paths.unsent.load(Ordering::Relaxed),
            received: paths.received.load(Ordering::Relaxed),
        }
    }
}

impl Node {
    /// Gives how many were handed on, or kept for a connection that is being made.
    fn send_packets(self: &Arc<Self>, to: NodeId, packets: &[Bytes]) -> Result<usize, PacketRefusal> {
        if self.is_closing() || !self.config.packets {
            return Err(PacketRefusal::Closed);
        }
        let mut out = lock(&self.packets.out);
        match out.get_mut(&to) {
            Some(Out::Up { connection, used, fast, .. }) if fast.is_some() || connection.close_reason().is_none() => {
                *used = Instant::now();
                let (connection, fast) = (connection.clone(), fast.clone());
                drop(out);
                return match fast {
                    Some(session) => self.send_fast(&session, &connection, packets),
                    None => self.hand_on(to, &connection, packets),
                };
            }
            Some(Out::Dialling { waiting }) => {
                let room = WAITING_MAX.saturating_sub(waiting.len()).min(packets.len());
                waiting.extend(packets[..room].iter().cloned());
                return if room == packets.len() { Ok(room) } else { Err(PacketRefusal::Full) };
            }
            Some(Out::Resting { until }) if Instant::now() < *until => return Err(PacketRefusal::Resting),
            _ => {}
        }
        if !self.book.knows(&to) && !self.acquaintances.knows(&to) {
            out.remove(&to);
            return Err(PacketRefusal::Unknown);
        }
        let waiting = packets.iter().take(WAITING_MAX).cloned().collect();
        out.insert(to, Out::Dialling { waiting });
        drop(out);
        self.spawn(self.clone().open_packets(to));
        Ok(packets.len().min(WAITING_MAX))
    }

    /// Copies packets to where they can be sealed, in halves if they have to be. If the path is no good any more, they are the connection's.
    fn send_fast(&self, session: &Session, connection: &Connection, packets: &[Bytes]) -> Result<usize, PacketRefusal> {
        let Some(carries) = session.carries().filter(|_| packets.iter().all(|packet| packet.len() <= PACKET_BYTES_MAX))
        else {
            return self.hand_on(session.peer, connection, packets);
        };
        let parts = self.packets.fit(packets, carries);
        let sizes: Vec<usize> = parts.iter().map(Bytes::len).collect();
        let mut buffer = vec![0; parts.len() * SLOT_BYTES];
        for (slot, part) in buffer.chunks_mut(SLOT_BYTES).zip(&parts) {
            slot[HEADER_BYTES..][..part.len()].copy_from_slice(part);
        }
        match self.fast.send(session, Burst::new(&mut buffer, &sizes)) {
            // What the network does not take at once is lost: who calls this does not wait.
            Ok(_rest) => Ok(packets.len()),
            Err(_back) => self.hand_on(session.peer, connection, packets),
        }
    }

    /// Dials, hands on what waited, and closes the connection when it is not used any more. A fast path that works outlives the connection: another is dialled, and the path beside
    /// that takes its place.
    async fn open_packets(self: Arc<Self>, to: NodeId) {
        let mut path: Option<FastPath<'_>> = None;
        loop {
            let dialled = match &path {
                None => self.dial_for_packets(to).await,
                Some(kept) => {
                    // In turn, with pauses: somebody may be looking for the way at the same time.
                    let dialling = async {
                        loop {
                            match self.dial_for_packets(to).await {
                                Ok(connection) => return Ok(connection),
                                Err(error) => debug!(peer = %to.short(), %error, "no other connection for packets yet"),
                            }
                            sleep(REST).await;
                        }
                    };
                    tokio::select! {
                        dialled = dialling => dialled,
                        () = kept.linger(&self, || self.wants(&to, &kept.session)) => {
                            Err(DialError::Failed("its fast path is silent as well".to_owned()))
                        }
                    }
                }
            };
            let connection = match dialled {
                Ok(connection) => connection,
                Err(error) => return self.let_rest(to, &error),
            };
            if !self.put_up(to, &connection, path.as_ref()) {
                return connection.close(code::DONE.into(), b"nothing to send");
            }
            let ready = |session| {
                if let Some(Out::Up { connection: kept, fast, .. }) = lock(&self.packets.out).get_mut(&to)
                    && kept.stable_id() == connection.stable_id()
                {
                    *fast = Some(session);
                }
            };
            let lost = tokio::select! {
                lost = self.until_idle(to, &connection) => lost,
                () = self.keep_fast_path(to, &connection, &mut path, ready) => false,
            };
            if !lost || self.is_closing() || !path.as_ref().is_some_and(FastPath::works) {
                return self.take_down(to, &connection);
            }
            debug!(peer = %to.short(), "packets lost their connection and go on beside it");
        }
    }

    async fn dial_for_packets(self: &Arc<Self>, to: NodeId) -> Result<Connection, DialError> {
        let record = self.whereabouts(&to).ok_or_else(|| DialError::Failed("forgotten".to_owned()))?;
        let options = ConnectOptions::new().with_transport_config(packet_transport());
        let connection = self.dial_with(to, &record, PACKET, options).await?;
        self.show_ourselves(to, connection).await
    }

    /// Notes the connection and hands on what waited for it. False if nobody wants it any more.
    fn put_up(&self, to: NodeId, connection: &Connection, kept: Option<&FastPath<'_>>) -> bool {
        let mut out = lock(&self.packets.out);
        let fast = kept.map(|path| path.session.clone());
        let (used, waiting) = match out.get_mut(&to) {
            Some(Out::Dialling { waiting }) => (Instant::now(), std::mem::take(waiting)),
            Some(Out::Up { used, .. }) if kept.is_some() => (*used, VecDeque::new()),
            _ => return false,
        };
        out.insert(to, Out::Up { connection: connection.clone(), since: Instant::now(), used, fast });
        if let Err(error) = self.hand_on(to, connection, &Vec::from(waiting)) {
            debug!(peer = %to.short(), %error, "packets that waited for a connection are lost");
        }
        debug!(peer = %to.short(), mtu = connection.max_datagram_size(), "packets have a connection");
        true
    }

    /// There is no connection: leaves the peer alone for a moment.
    fn let_rest(self: &Arc<Self>, to: NodeId, error: &DialError) {
        debug!(peer = %to.short(), %error, "no connection for packets");
        self.led_nowhere(&to);
        // The two are connected, and yet this way leads nowhere: it is one that iroh keeps to from before. It lets go of it at a moment at which nothing
        // is open to the peer, so there has to be one.
        if matches!(error, DialError::Failed(_)) && self.book.is_present(&to) && self.packets.may_begin_anew(to) {
            self.be_quiet(&to);
            self.begin_anew(&to);
        }
        let until = Instant::now() + REST;
        let before = lock(&self.packets.out).insert(to, Out::Resting { until });
        if let Some(Out::Dialling { waiting }) = before {
            self.packets.unsent.fetch_add(waiting.len() as u64, Ordering::Relaxed);
        }
    }

    fn be_quiet(&self, peer: &NodeId) {
        if let Some(keeper) = self.book.keeper(peer) {
            keeper.be_quiet(QUIET);
        }
    }

    /// Whether packets still go by this path, and lately did.
    fn wants(&self, to: &NodeId, session: &Arc<Session>) -> bool {
        match lock(&self.packets.out).get(to) {
            Some(Out::Up { fast: Some(fast), used, .. }) => Arc::ptr_eq(fast, session) && used.elapsed() < IDLE,
            _ => false,
        }
    }

    /// Leaves the way along which nothing comes from a peer that is heard from otherwise, and looks for one that works. False if that was done a moment ago.
    ///
    /// iroh keeps to a path as long as anything is open along it, and opens one by relays of ours only in a handshake; so all connections end. What goes over the fast path goes on.
    pub(crate) fn leave_dead_way(&self, peer: &NodeId) -> bool {
        if !self.packets.may_begin_anew(*peer) {
            return false;
        }
        self.be_quiet(peer);
        self.packets.leave_connections(peer);
        self.connections.close(peer, code::MOVING, "this way leads nowhere");
        self.via.close(peer, code::MOVING, "this way leads nowhere");
        for connection in self.book.present_on(peer) {
            connection.close(code::MOVING.into(), b"this way leads nowhere");
        }
        true
    }

    /// Until nothing was sent for a while; true if the connection was lost before.
    async fn until_idle(&self, to: NodeId, connection: &Connection) -> bool {
        loop {
            let used = match lock(&self.packets.out).get(&to) {
                Some(Out::Up { connection: kept, used, .. }) if kept.stable_id() == connection.stable_id() => *used,
                _ => return false,
            };
            let left = IDLE.saturating_sub(used.elapsed());
            if left.is_zero() {
                return false;
            }
            tokio::select! {
                () = sleep(left) => {}
                reason = connection.closed() => {
                    debug!(peer = %to.short(), %reason, "the connection for packets ended");
                    let up = matches!(lock(&self.packets.out).get(&to), Some(Out::Up { .. }));
                    return up && is_lost(&reason);
                }
            }
        }
    }

    fn take_down(&self, to: NodeId, connection: &Connection) {
        let mut out = lock(&self.packets.out);
        if let Some(Out::Up { connection: kept, .. }) = out.get(&to)
            && kept.stable_id() == connection.stable_id()
        {
            out.remove(&to);
        }
        drop(out);
        connection.close(code::DONE.into(), b"nothing to send");
    }

    /// Takes in the packets of a peer until it closes the connection; if that is lost instead, as long as its fast path is heard.
    pub(crate) async fn receive_packets(
        self: Arc<Self>,
        peer: NodeId,
        connection: Connection,
        admission: Option<CountGuard>,
    ) {
        lock(&self.packets.dialled_by_peers).push((peer, connection.clone()));
        let mut path = None;
        tokio::select! {
            () = self.receive_datagrams(peer, &connection) => {}
            () = self.serve_fast_path(peer, &connection, &mut path) => {}
        }
        lock(&self.packets.dialled_by_peers).retain(|(_, kept)| kept.stable_id() != connection.stable_id());
        drop(admission);
        if let (Some(path), Some(true)) = (path, connection.close_reason().as_ref().map(is_lost)) {
            path.linger(&self, || !self.is_closing()).await;
        }
    }

    /// Puts packets into a connection, in halves where they are too large for its datagrams. Gives how many were of a size that is carried at all.
    fn hand_on(&self, to: NodeId, connection: &Connection, packets: &[Bytes]) -> Result<usize, PacketRefusal> {
        let mtu = connection.max_datagram_size().ok_or(PacketRefusal::Closed)?;
        if packets.iter().all(|packet| packet.len() <= mtu) {
            connection.send_many_datagrams(packets).map_err(|_| PacketRefusal::Closed)?;
            self.meters.of(to).sent(packets.iter().map(Bytes::len).sum());
            return Ok(packets.len());
        }
        let fits = |packet: &Bytes| packet.len() <= PACKET_BYTES_MAX && half_of(packet.len()) <= mtu;
        let fitting: Vec<Bytes> = packets.iter().filter(|packet| fits(packet)).cloned().collect();
        if fitting.is_empty() && !packets.is_empty() {
            return Err(PacketRefusal::TooLarge { mtu: PACKET_BYTES_MAX });
        }
        let parts = self.packets.fit(&fitting, mtu);
        connection.send_many_datagrams(&parts).map_err(|error| match error {
            SendDatagramError::TooLarge => PacketRefusal::TooLarge { mtu },
            _ => PacketRefusal::Closed,
        })?;
        self.meters.of(to).sent(fitting.iter().map(Bytes::len).sum());
        Ok(fitting.len())
    }

    async fn receive_datagrams(&self, peer: NodeId, connection: &Connection) {
        let mut batch = vec![Bytes::new(); BATCH];
        let (meter, mut halves) = (self.meters.of(peer), Halves::default());
        while let Ok(count) = connection.read_many_datagrams(&mut batch).await {
            let came = batch[..count].iter_mut().map(std::mem::take);
            let packets: Vec<Bytes> =
                came.filter_map(|bytes| if is_half(&bytes) { halves.join(&bytes) } else { Some(bytes) }).collect();
            self.packets.received.fetch_add(packets.len() as u64, Ordering::Relaxed);
            meter.received(packets.iter().map(Bytes::len).sum());
            for packet in packets {
                // While the receiver is behind, noq gives up the oldest of what this peer sends.
                if self.packets.arrived.send((peer, packet)).await.is_err() {
                    return;
                }
            }
        }
    }
}

/// Whether a connection ended for its way, and not because somebody ended it for good.
fn is_lost(reason: &ConnectionError) -> bool {
    let moves = |code: VarInt| code == VarInt::from_u32(code::MOVING);
    match reason {
        ConnectionError::ApplicationClosed(close) => moves(close.error_code),
        ConnectionError::ConnectionClosed(_) | ConnectionError::VersionMismatch => false,
        _ => true,
    }
}

pub(crate) fn packet_transport() -> iroh::endpoint::QuicTransportConfig {
    let mut discovery = MtuDiscoveryConfig::default();
    discovery.upper_bound(MTU_MAX);
    transport(true)
        .initial_mtu(INITIAL_MTU)
        .mtu_discovery_config(Some(discovery))
        .datagram_send_buffer_size(SEND_BUFFER)
        .congestion_controller_factory(Arc::new(PassThrough))
        .build()
}

/// A congestion controller that has a fixed window. Inside an IP packet there is TCP or something else that looks after itself; two controllers on top of
/// each other were measured to be ten times slower on a path with some loss.
#[derive(Debug, Clone, Copy)]
struct PassThrough;

impl ControllerFactory for PassThrough {
    fn build(self: Arc<Self>, _now: Instant, _mtu: u16) -> Box<dyn Controller> {
        Box::new(*self)
    }
}

impl Controller for PassThrough {
    fn on_congestion_event(&mut self, _: Instant, _: Instant, _: bool, _: bool, _: u64, _: u64) {}

    fn on_mtu_update(&mut self, _: u16) {}

    fn window(&self) -> u64 {
        WINDOW
    }

    fn clone_box(&self) -> Box<dyn Controller> {
        Box::new(*self)
    }

    fn initial_window(&self) -> u64 {
        WINDOW
    }

    fn into_any(self: Box<Self>) -> Box<dyn Any> {
        self
    }
}
