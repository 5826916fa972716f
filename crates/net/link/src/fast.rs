//! The fast path beside a connection for packets: sealed packets over UDP sockets of the node's own, many to a system call ([`atoll_fast`] says what is on the wire and why
//! that is safe).
//!
//! Who dialled the connection opens a stream on it and says its terms; who was dialled answers with its own. A peer that knows nothing of this does not answer, and packets
//! stay in the connection. The path goes where the connection goes, to the address that it uses at the moment, at the peer's port, or where the peer is heard from, once probes
//! are answered from there, and as long as they are. Otherwise packets take the connection, as if there were no path, if that gets through; else relays ([`relayed`]).
//!
//! A path that works outlives the connection beside which it began, until another takes its place: what the two have open over it does not notice ([`attend`]).
//!
//! There is no task between socket and interface: whoever takes packets in ([`Packets::receive_into`](crate::Packets::receive_into)) reads the sockets, opens
//! what is in them where it lies, and answers probes. So a node that takes no packets in confirms no path.

use std::collections::HashMap;
use std::future::poll_fn;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::task::Poll;
use std::time::{Duration, Instant};

use atoll_fast::{
    BUFFERS, Burst, Cut, Finds, HEADER_BYTES, Half, Header, Inbox, Kind, OpenError, PACKET_BYTES_MAX, Ports, Probe,
    Run, SEALED_BYTES_MAX, SealError, Sealer, Secret, Side, TAG_BYTES, TERMS_BYTES_MAX, Terms, Way, decode_terms,
    mark_congested, tcp_headers,
};
use atoll_ids::NodeId;
use bytes::Bytes;
use futures_util::future::BoxFuture;
use iroh::endpoint::{Connection, RecvStream, SendStream};
use noq_udp::{EcnCodepoint, RecvMeta};
use tokio::time::timeout;
use tracing::{debug, warn};

use crate::address::is_dialable;
use crate::node::Node;
use crate::packets::halves::{Halves, is_half};
use crate::via::Relays;

mod attend;
mod relayed;
mod session;
mod socket;

pub(crate) use session::Session;
use socket::FastSocket;

/// How long a dialler may take to say its terms once it opened a stream for them.
const TERMS_TIMEOUT: Duration = Duration::from_secs(5);

/// Segments sealed in one go for relays: as many as a long packet has.
const SEGMENTS_RELAYED: usize = 64;

/// A probe's number, and behind it the epoch in which it came.
const ANSWER_BYTES: usize = 12;

/// What went over the fast path since the start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct FastCounts {
    /// Packets sealed and sent.
    pub sealed: u64,
    /// Packets that arrived and were opened.
    pub opened: u64,
    /// Refused because they came before, or too late to tell.
    pub replayed: u64,
    /// Refused because they were not genuine.
    pub forged: u64,
    /// For no path that there is: of a peer's time before a restart, or of strangers.
    pub stray: u64,
    /// Lost because a router on the way said that there is congestion, and their senders understand nothing but loss.
    pub congested: u64,
}

#[derive(Default)]
struct Counts {
    sealed: AtomicU64,
    opened: AtomicU64,
    replayed: AtomicU64,
    forged: AtomicU64,
    stray: AtomicU64,
    congested: AtomicU64,
}

/// The sockets and the paths that use them.
pub(crate) struct FastPaths {
    sockets: Vec<FastSocket>,
    by_index: RwLock<HashMap<u32, Arc<Session>>>,
    counts: Counts,
    /// Which socket is read first; they take turns.
    turn: AtomicUsize,
    relays: Relays,
}

/// A path that is known to who receives, until this is dropped.
pub(crate) struct FastPath<'a> {
    paths: &'a FastPaths,
    pub(crate) session: Arc<Session>,
    theirs: Ports,
}

impl Drop for FastPath<'_> {
    fn drop(&mut self) {
        self.paths.by_index.write().unwrap_or_else(PoisonError::into_inner).remove(&self.session.index);
    }
}

/// Why there is no path. Packets take the connection.
#[derive(Debug, thiserror::Error)]
enum NoPath {
    #[error("the connection: {0}")]
    Connection(String),
    #[error("the terms: {0}")]
    Terms(String),
}

impl FastPaths {
    /// Binds a socket for the first address of each family, all with this port if it is free. What cannot be bound is done without.
    pub(crate) fn bind(addresses: &[SocketAddr], port: u16, relays: Relays) -> Self {
        let first = |v4: bool| addresses.iter().find(|address| address.is_ipv4() == v4);
        let mut sockets = Vec::new();
        for address in [first(true), first(false)].into_iter().flatten() {
            let at = SocketAddr::new(address.ip(), port);
            let bound = FastSocket::bind(at).or_else(|error| {
                if error.kind() != io::ErrorKind::AddrInUse || port == 0 {
                    return Err(error);
                }
                warn!(%at, "the port for the fast path (network.fast_port) is taken; another is used until the next start");
                FastSocket::bind(SocketAddr::new(address.ip(), 0))
            });
            match bound {
                Ok(socket) => sockets.push(socket),
                Err(error) if at.is_ipv6() && at.ip().is_unspecified() => debug!(%at, %error, "no fast path over IPv6"),
                Err(error) => warn!(%at, %error, "no fast path from here; packets take the connection"),
            }
        }
        Self { sockets, ..Self::none(relays) }
    }

    /// None, and there will be none.
    pub(crate) fn none(relays: Relays) -> Self {
        let (by_index, counts, turn) = <(RwLock<_>, Counts, AtomicUsize)>::default();
        Self { sockets: Vec::new(), by_index, counts, turn, relays }
    }

    /// Where sealed packets are taken in.
    pub(crate) fn ports(&self) -> Ports {
        let port = |v4: bool| self.socket(v4).map_or(0, |socket| socket.address().port());
        Ports { v4: port(true), v6: port(false) }
    }

    pub(crate) fn is_on(&self) -> bool {
        !self.sockets.is_empty()
    }

    fn socket(&self, v4: bool) -> Option<&FastSocket> {
        self.sockets.iter().find(|socket| socket.address().is_ipv4() == v4)
    }

    pub(crate) fn counts(&self) -> FastCounts {
        let Counts { sealed, opened, replayed, forged, stray, congested } = &self.counts;
        let [sealed, opened, replayed, forged, stray, congested] =
            [sealed, opened, replayed, forged, stray, congested].map(|count| count.load(Ordering::Relaxed));
        FastCounts { sealed, opened, replayed, forged, stray, congested }
    }

    fn of_index(&self, index: u32) -> Option<Arc<Session>> {
        self.by_index.read().unwrap_or_else(PoisonError::into_inner).get(&index).cloned()
    }

    /// Draws our half of a path, under an index that no other path has.
    fn draw(&self) -> Half {
        loop {
            let mut index = [0; 4];
            getrandom::fill(&mut index).expect("the operating system has randomness");
            let index = u32::from_le_bytes(index);
            if self.of_index(index).is_none() {
                return Half::draw(index, self.ports());
            }
        }
    }

    /// Seals packets and sends them; as [`send_sealed`](Self::send_sealed).
    pub(crate) fn send<'a>(
        &'a self,
        session: &Session,
        burst: Burst<'a>,
    ) -> Result<Option<BoxFuture<'a, ()>>, Burst<'a>> {
        self.send_sealed(session, (burst.count(), burst.largest()), burst, Burst::seal)
    }

    /// Cuts a long packet into segments, seals and sends them; as [`send_sealed`](Self::send_sealed).
    pub(crate) fn send_cut<'a>(
        &'a self,
        session: &Session,
        cut: Cut<'a>,
    ) -> Result<Option<BoxFuture<'a, ()>>, Cut<'a>> {
        self.send_sealed(session, (cut.count(), cut.largest()), cut, Cut::seal)
    }

    /// Seals and sends packets, as many and with at most as many bytes as said. What the kernel does not take at once is sent by the future; dropping that loses it. Gives
    /// back what there was to send if the path is no good for it.
    fn send_sealed<'a, T>(
        &'a self,
        session: &Session,
        (count, largest): (usize, usize),
        what: T,
        seal: impl FnOnce(T, &mut Sealer, usize, &mut Vec<Run>) -> Result<&'a [u8], SealError>,
    ) -> Result<Option<BoxFuture<'a, ()>>, T> {
        let count = count as u64;
        let mut sending = session.sending();
        let sending = &mut *sending;
        sending.bursts += 1;
        session.rouse();
        let good = sending.sealer.left() >= count && largest <= sending.carries;
        let Some(target) = sending.target.filter(|_| good) else { return Err(what) };
        let to = match target {
            Way::Direct(to) => match self.socket(to.is_ipv4()) {
                Some(socket) => Some((to, socket)),
                None => return Err(what),
            },
            Way::Relayed => None,
        };
        let segments = to.map_or(SEGMENTS_RELAYED, |(_, socket)| socket.segments_max());
        let Ok(bytes) = seal(what, &mut sending.sealer, segments, &mut sending.runs) else {
            return Ok(None);
        };
        self.counts.sealed.fetch_add(count, Ordering::Relaxed);
        let sealed: usize = sending.runs.iter().map(|run| run.at.len() - run.count * (HEADER_BYTES + TAG_BYTES)).sum();
        session.meter.sent(sealed);
        let Some((target, socket)) = to else {
            let sealed = sending.runs.iter().flat_map(|run| bytes[run.at.clone()].chunks(run.segment));
            sealed.for_each(|packet| self.relays.send(session.peer, packet));
            return Ok(None);
        };
        let full = sending.runs.iter().position(|run| {
            // Anything else is for the watch to notice: the probes fail as well.
            socket.send(target, None, bytes, run).is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock)
        });
        Ok(full.map(|at| Box::pin(send_rest(socket, target, bytes, sending.runs.split_off(at))) as BoxFuture<'a, ()>))
    }

    /// Seals a few bytes and sends them, best effort.
    fn say(&self, session: &Session, kind: Kind, text: &[u8], way: Way, from: Option<IpAddr>) {
        let mut slot = [0; SEALED_BYTES_MAX];
        let slot = &mut slot[..HEADER_BYTES + text.len() + TAG_BYTES];
        slot[HEADER_BYTES..][..text.len()].copy_from_slice(text);
        if session.sending().sealer.seal(kind, slot).is_err() {
            return;
        }
        let to = match way {
            Way::Direct(to) => to,
            Way::Relayed => return self.relays.send(session.peer, slot),
        };
        let run = Run { at: 0..slot.len(), segment: slot.len(), count: 1, ecn: 0 };
        if let Some(socket) = self.socket(to.is_ipv4())
            && let Err(error) = socket.send(to, from, slot, &run)
        {
            debug!(%to, %error, ?kind, "not sent");
        }
    }

    fn probe(&self, session: &Session, probe: Probe) {
        let mut text = [0; PACKET_BYTES_MAX];
        text[..8].copy_from_slice(&probe.number.to_be_bytes());
        let size = if session.side == Side::Dialler { probe.size.bytes() } else { 8 };
        self.say(session, Kind::Probe, &text[..size], probe.to, None);
    }

    /// Takes in what the sockets have, without waiting.
    pub(crate) fn receive(&self, inbox: &mut Inbox) {
        let mut metas = [RecvMeta::default(); BUFFERS];
        let (buffers, mut finds) = inbox.fill();
        let first = self.turn.fetch_add(1, Ordering::Relaxed);
        for number in 0..self.sockets.len() {
            let socket = &self.sockets[(first + number) % self.sockets.len()];
            let Ok(count) = socket.receive(buffers, &mut metas) else { continue };
            let now = Instant::now();
            for (at, (buffer, meta)) in buffers.iter_mut().zip(&metas).take(count).enumerate() {
                self.open(now, at, &mut buffer[..meta.len], meta, &mut finds);
            }
            // The buffers are in use now.
            return;
        }
    }

    /// Waits until a socket has something.
    pub(crate) async fn readable(&self) {
        poll_fn(|cx| {
            let ready = self.sockets.iter().filter(|socket| socket.poll_readable(cx).is_ready()).count();
            if ready > 0 { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
    }

    /// Opens what the kernel joined to one buffer: datagrams from one address, of one size but the last.
    fn open(&self, now: Instant, at: usize, buffer: &mut [u8], meta: &RecvMeta, finds: &mut Finds<'_>) {
        let mut datagrams = buffer.chunks_mut(meta.stride.max(1)).enumerate().peekable();
        while let Some((_, first)) = datagrams.peek() {
            let Some(session) = Header::read(first).and_then(|header| self.of_index(header.index)) else {
                self.counts.stray.fetch_add(1, Ordering::Relaxed);
                datagrams.next();
                continue;
            };
            let mut said = Vec::new();
            let (mut opened, mut bytes) = (0, 0);
            let mut receiving = session.receiving();
            let of_session =
                |datagram: &[u8]| Header::read(datagram).is_some_and(|header| header.index == session.index);
            let mut genuine = false;
            while let Some((number, datagram)) = datagrams.next_if(|(_, datagram)| of_session(datagram)) {
                let epoch = Header::read(datagram).map_or(0, |header| header.epoch);
                let (kind, text) = match receiving.opener.open(now, datagram) {
                    Ok(opened) => opened,
                    Err(error) => {
                        self.refuse(error);
                        continue;
                    }
                };
                genuine = true;
                match self.take(&mut receiving.halves, kind, epoch, text, meta.ecn) {
                    Taken::Said(heard) => said.push(heard),
                    Taken::Packet { begun } => {
                        let start = number * meta.stride + HEADER_BYTES;
                        finds.note(session.peer, at, start..start + text.len(), begun);
                        (opened, bytes) = (opened + 1, bytes + text.len());
                    }
                    Taken::Joined(packet) => {
                        (opened, bytes) = (opened + 1, bytes + packet.len());
                        finds.add(session.peer, packet);
                    }
                    Taken::Nothing => {}
                }
            }
            let moved = genuine && receiving.source.replace(meta.addr) != Some(meta.addr);
            if genuine {
                receiving.heard = Some(now);
            }
            drop(receiving);
            self.counts.opened.fetch_add(opened, Ordering::Relaxed);
            session.meter.received(bytes);
            self.hear(now, &session, meta, moved, &said);
        }
    }

    /// Says what is to be done with what was opened, and notes in it what a router said of congestion.
    fn take(&self, halves: &mut Halves, kind: Kind, epoch: u32, text: &mut [u8], ecn: Option<EcnCodepoint>) -> Taken {
        let begun = kind == Kind::Segment;
        match kind {
            Kind::Probe | Kind::Answer => Said::read(kind, epoch, text).map_or(Taken::Nothing, Taken::Said),
            Kind::Packet if is_half(text) => {
                halves.join(&Bytes::copy_from_slice(text)).map_or(Taken::Nothing, Taken::Joined)
            }
            _ if begun && tcp_headers(text).is_none() => {
                self.counts.stray.fetch_add(1, Ordering::Relaxed);
                Taken::Nothing
            }
            _ if ecn == Some(EcnCodepoint::Ce) && !mark_congested(text) => {
                self.counts.congested.fetch_add(1, Ordering::Relaxed);
                Taken::Nothing
            }
            _ => Taken::Packet { begun },
        }
    }

    fn refuse(&self, error: OpenError) {
        let count = match error {
            OpenError::Replayed => &self.counts.replayed,
            OpenError::Forged | OpenError::WornOut => &self.counts.forged,
            OpenError::Malformed | OpenError::Stale => &self.counts.stray,
        };
        count.fetch_add(1, Ordering::Relaxed);
    }

    /// A peer sends from there now. It has one socket per family, so all paths to it may lead there: where they lead is for probes to say.
    fn tell_of_move(&self, now: Instant, peer: &NodeId, from: SocketAddr) {
        let sessions = self.by_index.read().unwrap_or_else(PoisonError::into_inner);
        for session in sessions.values().filter(|session| session.peer == *peer) {
            if session.watching(|watch| watch.heard_from(now, from)) {
                session.wake.notify_one();
            }
        }
    }

    /// Does what probes and answers ask for, and notes where a peer sends from.
    fn hear(&self, now: Instant, session: &Session, meta: &RecvMeta, moved: bool, said: &[Said]) {
        if moved && is_dialable(&meta.addr) {
            self.tell_of_move(now, &session.peer, meta.addr);
        }
        for said in said {
            // From the address that was asked, or a router in between does not let it through.
            self.answer(session, said, Way::Direct(meta.addr), meta.dst_ip);
        }
    }

    /// Answers a probe the way it came, or takes an answer in.
    fn answer(&self, session: &Session, said: &Said, way: Way, from: Option<IpAddr>) {
        match said.kind {
            Kind::Probe => {
                let mut answer = [0; ANSWER_BYTES];
                answer[..8].copy_from_slice(&said.number.to_be_bytes());
                answer[8..].copy_from_slice(&said.epoch.to_be_bytes());
                self.say(session, Kind::Answer, &answer, way, from);
            }
            Kind::Answer => session.answered(said.number, said.epoch),
            Kind::Packet | Kind::Segment => {}
        }
    }
}

/// What is to be done with what was opened.
enum Taken {
    /// It is a packet, as it lies; `begun` is whether its checksum is only begun.
    Packet {
        begun: bool,
    },
    /// It was half of a packet, and this is all of it.
    Joined(Bytes),
    Said(Said),
    Nothing,
}

/// A probe or an answer.
struct Said {
    kind: Kind,
    number: u64,
    /// In which a probe was sealed, or the probe that is answered.
    epoch: u32,
}

impl Said {
    fn read(kind: Kind, sealed_in: u32, text: &[u8]) -> Option<Self> {
        let number = u64::from_be_bytes(*text.first_chunk()?);
        let told = text.get(8..ANSWER_BYTES).filter(|_| kind == Kind::Answer);
        let epoch = told.map_or(sealed_in, |told| told.iter().fold(0, |epoch, byte| epoch << 8 | u32::from(*byte)));
        Some(Self { kind, number, epoch })
    }
}

/// Sends what the kernel did not take at once.
async fn send_rest(socket: &FastSocket, to: SocketAddr, bytes: &[u8], runs: Vec<Run>) {
    for run in runs {
        while socket.send(to, None, bytes, &run).is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock) {
            if socket.writable().await.is_err() {
                return;
            }
        }
    }
}

async fn say_terms(stream: &mut SendStream, terms: &Terms) -> Result<(), NoPath> {
    let written = atoll_wire::write_frame(stream, &atoll_wire::encode(terms), TERMS_BYTES_MAX).await;
    written.map_err(|error| NoPath::Terms(error.to_string()))?;
    stream.finish().map_err(|error| NoPath::Terms(error.to_string()))
}

async fn hear_terms(stream: &mut RecvStream) -> Result<Terms, NoPath> {
    let frame =
        atoll_wire::read_frame(stream, TERMS_BYTES_MAX).await.map_err(|error| NoPath::Terms(error.to_string()))?;
    let frame = frame.ok_or_else(|| NoPath::Terms("nothing was said".to_owned()))?;
    decode_terms(&frame).map_err(|error| NoPath::Terms(error.to_string()))
}

impl Node {
    /// Has a fast path beside a connection that we dialled, in place of the one that is kept from before. `ready` is told of it. Never returns.
    pub(crate) async fn keep_fast_path<'a>(
        &'a self,
        peer: NodeId,
        connection: &Connection,
        kept: &mut Option<FastPath<'a>>,
        ready: impl FnOnce(Arc<Session>),
    ) {
        if self.fast.is_on() {
            let agreed = tokio::select! {
                agreed = self.ask_for_fast_path(peer, connection) => agreed,
                () = self.attend(kept.as_ref(), connection) => return,
            };
            match agreed {
                Ok(path) => {
                    ready(path.session.clone());
                    *kept = Some(path);
                }
                Err(error) => debug!(peer = %peer.short(), %error, "no fast path"),
            }
        }
        self.attend(kept.as_ref(), connection).await;
    }

    /// A peer that knows no fast paths leaves the stream unanswered as long as the connection lives.
    async fn ask_for_fast_path(&self, peer: NodeId, connection: &Connection) -> Result<FastPath<'_>, NoPath> {
        let lost = |error: iroh::endpoint::ConnectionError| NoPath::Connection(error.to_string());
        let half = self.fast.draw();
        let (mut say, mut hear) = connection.open_bi().await.map_err(lost)?;
        say_terms(&mut say, half.terms()).await?;
        let theirs = hear_terms(&mut hear).await?;
        self.begin_fast_path(half, Side::Dialler, peer, connection, &theirs)
    }

    /// Makes a path of two halves, and has it known to who receives.
    fn begin_fast_path(
        &self,
        half: Half,
        side: Side,
        peer: NodeId,
        connection: &Connection,
        theirs: &Terms,
    ) -> Result<FastPath<'_>, NoPath> {
        let label = atoll_fast::EXPORTER_LABEL;
        let secret = Secret::export(|out| connection.export_keying_material(out, label, &[]));
        let secret = secret.map_err(|_| NoPath::Connection("it exports no keys".to_owned()))?;
        let index = half.terms().index;
        let ends = half.join(&secret, side, &self.id, &peer, theirs);
        let session = Arc::new(Session::new(peer, side, index, self.meters.of(peer), ends));
        self.fast.by_index.write().unwrap_or_else(PoisonError::into_inner).insert(index, session.clone());
        Ok(FastPath { paths: &self.fast, session, theirs: theirs.ports })
    }

    /// Has a fast path beside a connection that a peer dialled, if and when it asks for one; when it asks again, another in its place. Never returns.
    pub(crate) async fn serve_fast_path<'a>(
        &'a self,
        peer: NodeId,
        connection: &Connection,
        path: &mut Option<FastPath<'a>>,
    ) {
        while self.fast.is_on() {
            let asked = async {
                tokio::select! {
                    stream = connection.accept_bi() => stream.ok(),
                    () = self.attend(path.as_ref(), connection) => None,
                }
            };
            let Some((mut say, mut hear)) = asked.await else { break };
            let agreed = async {
                let theirs = hear_terms(&mut hear).await?;
                let half = self.fast.draw();
                let terms = half.terms().clone();
                // Before the peer knows of it: its first probe comes right behind the answer.
                let path = self.begin_fast_path(half, Side::Acceptor, peer, connection, &theirs)?;
                say_terms(&mut say, &terms).await.map(|()| path)
            };
            match timeout(TERMS_TIMEOUT, agreed).await {
                Ok(Ok(agreed)) => *path = Some(agreed),
                Ok(Err(error)) => debug!(peer = %peer.short(), %error, "no fast path"),
                Err(_) => debug!(peer = %peer.short(), "no fast path: the terms took too long"),
            }
        }
        std::future::pending().await
    }
}
