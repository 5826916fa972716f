//! What others open to us: connections, lanes, and the streams on them.
//!
//! A stranger gets as far as the handshake (limited in number and time) and from there only to `atoll/join/1`, and where finding is on to `atoll/find/1` and, once it
//! has introduced itself, to `atoll/packet/1`. Everything else is for known peers; the check is made for each connection and again for each stream, so a forgotten peer opens nothing on what it has left.

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use atoll_ids::NodeId;
use atoll_lane::{Accepted, Acceptor, LaneStream};
use iroh::endpoint::{Incoming, IncomingAddr};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::time::timeout;
use tracing::{debug, warn};

use crate::book::{Count, CountGuard};
use crate::dial::{ACCEPTED, OPENING};
use crate::doors::{Network, Place};
use crate::error::{BindError, Refusal};
use crate::find::FIND;
use crate::join::JOIN;
use crate::kept::Kept;
use crate::node::Node;
use crate::packets::PACKET;
use crate::presence::HELLO;
use crate::quic::{address_error, code};
use crate::stream::{BoxStream, CountedLane, Holds, QuicStream};
use crate::suspects::Suspects;
use crate::via::RELAY;

/// How long a stranger may take for the QUIC handshake, and an opener for the first byte of its stream.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// Connections waiting in the kernel to be accepted.
const BACKLOG: u32 = 256;

/// How long to wait when the operating system has no more sockets.
const NO_SOCKETS_PAUSE: Duration = Duration::from_millis(100);

/// Listens for lanes. IPv6 sockets take IPv6 only, so that both families can have the same port. On a machine without IPv6, `[::]` is left
/// out.
pub(crate) fn listen(addresses: &[SocketAddr]) -> Result<Vec<TcpListener>, BindError> {
    let mut listeners = Vec::new();
    for address in addresses {
        match listen_on(*address) {
            Ok(listener) => listeners.push(listener),
            Err(error)
                if address.is_ipv6() && address.ip().is_unspecified() && error.kind() != io::ErrorKind::AddrInUse =>
            {
                debug!(%address, %error, "no lanes over IPv6");
            }
            Err(error) => return Err(address_error(*address, error)),
        }
    }
    Ok(listeners)
}

fn listen_on(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv6() { TcpSocket::new_v6()? } else { TcpSocket::new_v4()? };
    if address.is_ipv6() {
        rustix::net::sockopt::set_ipv6_v6only(&socket, true)?;
    }
    // A port on which connections of the previous run still wait to be forgotten can be taken again at once.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// Where the first packet of a connection came from, if directly.
fn address_of(incoming: &Incoming) -> Option<SocketAddr> {
    match incoming.remote_addr() {
        IncomingAddr::Ip(address) => Some(address),
        _ => None,
    }
}

/// Tells the opener of a lane that it is welcome.
async fn accept(lane: &mut LaneStream) -> bool {
    let said = async {
        lane.write_all(&[ACCEPTED]).await?;
        lane.flush().await
    };
    matches!(timeout(HANDSHAKE_TIMEOUT, said).await, Ok(Ok(())))
}

/// Tells it that it is not.
async fn refuse(lane: &mut LaneStream, refusal: Refusal) {
    let say = async {
        lane.write_all(&[refusal.to_byte()]).await?;
        lane.shutdown().await
    };
    let _: Result<io::Result<()>, _> = timeout(HANDSHAKE_TIMEOUT, say).await;
}

impl Node {
    /// Takes in QUIC connections until the link stops.
    pub(crate) async fn accept_connections(self: Arc<Self>) {
        while let Some(Some(incoming)) = self.stop.run_until_cancelled(self.endpoint.accept()).await {
            if let Some(from) = address_of(&incoming)
                && self.suspects().passes_over(Instant::now(), from)
            {
                debug!(%from, "a handshake from there died; another way is answered first");
                incoming.ignore();
                continue;
            }
            let network = match incoming.remote_addr() {
                IncomingAddr::Ip(address) => Network::from(address.ip()),
                _ => Network::Relayed,
            };
            // What comes by a relay has no address that could be made up.
            if self.doors.are_busy() && network != Network::Relayed && !incoming.remote_addr_validated() {
                // It may always be asked to if it did not show it yet.
                let _: Result<(), _> = incoming.retry();
                continue;
            }
            match self.doors.enter(network, || self.book.is_home(network)) {
                Some(place) => self.spawn(self.clone().welcome(incoming, place)),
                None => incoming.refuse(),
            }
        }
    }

    async fn welcome(self: Arc<Self>, incoming: Incoming, place: Place) {
        let from = address_of(&incoming);
        let handshake = async { incoming.accept().map_err(|e| e.to_string())?.await.map_err(|e| e.to_string()) };
        let outcome = timeout(HANDSHAKE_TIMEOUT, handshake).await;
        let went_well = matches!(outcome, Ok(Ok(_)));
        match from {
            Some(from) => self.suspects().ended(Instant::now(), from, went_well),
            None if went_well => self.suspects().relayed(Instant::now()),
            None => {}
        }
        let connection = match outcome {
            Ok(Ok(connection)) => connection,
            Ok(Err(error)) => return debug!(error, "a QUIC handshake failed"),
            Err(_) => return debug!("a QUIC handshake took too long"),
        };
        drop(place);
        let peer = NodeId::from_bytes(*connection.remote_id().as_bytes());
        let close = |code: u32, reason: &str| {
            debug!(peer = %peer.short(), reason, "refused a connection");
            connection.close(code.into(), reason.as_bytes());
        };
        if connection.alpn() == JOIN.as_bytes() {
            return match self.joins.clone().try_acquire_owned() {
                Ok(_place) => self.serve_join(peer, connection).await,
                Err(_) => close(code::BUSY, "too many nodes are joining"),
            };
        }
        if connection.alpn() == FIND.as_bytes() {
            return self.serve_finding(peer, connection).await;
        }
        if !self.book.knows(&peer) && self.config.find && connection.alpn() == PACKET.as_bytes() {
            return self.meet(peer, connection).await;
        }
        if connection.alpn() == RELAY.as_bytes() && !self.book.knows(&peer) && self.takes_guests() {
            return self.serve_guest(peer, connection).await;
        }
        if !self.book.knows(&peer) {
            return close(code::UNKNOWN, "this node is not known here: join with a ticket");
        }
        if self.book.keeper(&peer).is_some_and(|keeper| !keeper.quiet().is_zero()) {
            return close(code::DONE, "beginning anew; try again");
        }
        let Some(admission) = self.book.admit(peer, Count::Connections) else {
            return close(code::BUSY, "too many connections");
        };
        if connection.alpn() == HELLO.as_bytes() {
            let own = self.own.subscribe();
            return self.presence(peer, connection, own, Some(admission)).await;
        }
        if connection.alpn() == PACKET.as_bytes() {
            return self.receive_packets(peer, connection, Some(admission)).await;
        }
        if connection.alpn() == RELAY.as_bytes() {
            return self.receive_frames(peer, connection, admission).await;
        }
        let served = self.protocols.keys().find(|name| name.as_bytes() == connection.alpn());
        let Some(protocol) = served.copied() else {
            return close(code::PROTOCOL, "this protocol is not served");
        };
        let kept = Kept::new(connection);
        self.connections.offer(peer, protocol, &kept);
        self.serve_connection(peer, protocol, kept, Some(admission)).await;
    }

    /// Serves the streams that a peer opens on a connection, until it closes or nothing is open on it any more. How many there are at once is limited by QUIC.
    pub(crate) async fn serve_connection(
        self: Arc<Self>,
        peer: NodeId,
        protocol: &'static str,
        kept: Arc<Kept>,
        _admission: Option<CountGuard>,
    ) {
        let _used = self.book.admit(peer, Count::Uses);
        let keep_idle = self.config.keep_idle;
        loop {
            tokio::select! {
                stream = kept.connection().accept_bi() => match stream {
                    Ok((send, receive)) => {
                        let stream = QuicStream::new(send, receive, Holds::Kept(kept.enter()));
                        self.spawn_stream(self.clone().serve_stream(peer, protocol, stream));
                    }
                    Err(_) => return,
                },
                () = kept.idle(keep_idle) => if self.connections.end_idle((peer, protocol), &kept, keep_idle).await {
                    return;
                },
            }
        }
    }

    async fn serve_stream(self: Arc<Self>, peer: NodeId, protocol: &'static str, mut stream: QuicStream) {
        match timeout(HANDSHAKE_TIMEOUT, stream.read_u8()).await {
            Ok(Ok(OPENING)) => {}
            _ => return debug!(peer = %peer.short(), "a stream did not begin as streams do"),
        }
        self.begin(peer, protocol, Box::new(stream)).await;
    }

    /// Serves a stream on the connection of greetings, on which the opener's byte came and the protocol's name is to follow.
    pub(crate) async fn serve_aside(self: Arc<Self>, peer: NodeId, mut stream: QuicStream) {
        let name = async {
            let length = stream.read_u8().await?;
            let mut name = vec![0; usize::from(length)];
            stream.read_exact(&mut name).await.map(|_| name)
        };
        match timeout(HANDSHAKE_TIMEOUT, name).await {
            // A name that no protocol has is refused as one that is not served.
            Ok(Ok(name)) => self.begin(peer, &String::from_utf8_lossy(&name), Box::new(stream)).await,
            _ => debug!(peer = %peer.short(), "a stream did not say what it is for"),
        }
    }

    /// Answers the opening of a stream, and serves it if it is welcome.
    async fn begin(&self, peer: NodeId, protocol: &str, mut stream: BoxStream) {
        let served = self.book.admit(peer, Count::Served);
        let (answer, handler) = match self.protocols.get(protocol) {
            _ if self.is_closing() => (Refusal::Closing.to_byte(), None),
            _ if !self.book.knows(&peer) => (Refusal::Unknown.to_byte(), None),
            _ if served.is_none() => (Refusal::Busy.to_byte(), None),
            None => (Refusal::Protocol.to_byte(), None),
            Some(handler) => (ACCEPTED, Some(handler)),
        };
        let said = async {
            stream.write_all(&[answer]).await?;
            match handler {
                Some(_) => stream.flush().await,
                None => stream.shutdown().await,
            }
        };
        match (timeout(HANDSHAKE_TIMEOUT, said).await, handler) {
            (Ok(Ok(())), Some(handler)) => handler.handle(peer, self.meters.meter(peer, stream)).await,
            (Ok(Ok(())), None) => debug!(peer = %peer.short(), protocol, answer, "refused a stream"),
            _ => debug!(peer = %peer.short(), protocol, "a stream broke before it began"),
        }
    }

    /// Takes in lanes until the link stops.
    pub(crate) async fn accept_lanes(self: Arc<Self>, listener: TcpListener, acceptor: Acceptor) {
        while let Some(accepted) = self.stop.run_until_cancelled(listener.accept()).await {
            match accepted {
                Ok((tcp, from)) => {
                    let network = Network::from(from.ip());
                    match self.lane_doors.enter(network, || self.book.is_home(network)) {
                        Some(place) => self.spawn(self.clone().welcome_lane(tcp, acceptor.clone(), place)),
                        // Closing is the answer: the peer uses QUIC.
                        None => drop(tcp),
                    }
                }
                Err(error) => {
                    warn!(%error, "cannot accept a lane");
                    tokio::time::sleep(NO_SOCKETS_PAUSE).await;
                }
            }
        }
    }

    async fn welcome_lane(self: Arc<Self>, tcp: TcpStream, acceptor: Acceptor, place: Place) {
        let Accepted { mut stream, peer, protocol } = match acceptor.accept(tcp).await {
            Ok(accepted) => accepted,
            Err(error) => return debug!(%error, "a lane's handshake failed"),
        };
        drop(place);
        if protocol == JOIN {
            return self.welcome_to_join(peer, stream).await;
        }
        if protocol == RELAY && !self.book.knows(&peer) && self.takes_guests() {
            if accept(&mut stream).await {
                self.serve_guest_by_lane(peer, stream).await;
            }
            return;
        }
        let refusal = if self.book.knows(&peer) { Refusal::Busy } else { Refusal::Unknown };
        match self.book.admit(peer, Count::LanesIn) {
            Some(admission) if protocol == RELAY => {
                if accept(&mut stream).await {
                    self.receive_frames_by_lane(peer, stream, admission).await;
                }
            }
            Some(admission) => {
                let node = self.clone();
                self.spawn_stream(async move { node.serve_lane(peer, &protocol, stream, admission).await });
            }
            None => {
                debug!(peer = %peer.short(), %refusal, "refused a lane");
                refuse(&mut stream, refusal).await;
            }
        }
    }

    async fn welcome_to_join(self: Arc<Self>, peer: NodeId, mut stream: LaneStream) {
        match self.joins.clone().try_acquire_owned() {
            Ok(_place) => {
                if accept(&mut stream).await {
                    self.serve_join_by_lane(peer, stream).await;
                }
            }
            Err(_) => refuse(&mut stream, Refusal::Busy).await,
        }
    }

    fn suspects(&self) -> MutexGuard<'_, Suspects> {
        self.suspects.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn serve_lane(&self, peer: NodeId, protocol: &str, stream: LaneStream, _admission: CountGuard) {
        let lane = CountedLane::new(stream, self.book.admit(peer, Count::Lanes));
        self.begin(peer, protocol, Box::new(lane)).await;
    }
}
