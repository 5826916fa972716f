//! Towards a peer: connections that are kept, streams on them, and lanes where they can be had.
//!
//! There is one QUIC connection per peer and protocol (ALPN names a protocol per connection), used from both ends and [kept](crate::kept) while it is used. A
//! stream begins with one byte from the opener and one byte of answer, so that `open` knows whether it is served; on a lane the
//! connection itself is the opener's byte, and on the connection of greetings the protocol's name follows that byte.

use std::future::pending;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use atoll_ids::NodeId;
use atoll_lane::LaneStream;
use futures_util::StreamExt;
use futures_util::future::{Either, select};
use futures_util::stream::FuturesUnordered;
use iroh::endpoint::{ConnectOptions, ConnectingError, Connection, ConnectionError};
use iroh::{EndpointAddr, EndpointId};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::{sleep, timeout};
use tracing::debug;

use crate::address::{AddressRecord, is_dialable};
use crate::book::Count;
use crate::error::{OpenError, Refusal};
use crate::kept::{Busy, Kept};
use crate::node::Node;
use crate::presence::HELLO;
use crate::quic::{code, is_direct, quiet_transport, transport};
use crate::stream::{BoxStream, CountedLane, Holds, QuicStream, Traffic};
use crate::via::RELAY;
use crate::via::transport::address as via_address;
use crate::via::ways::LANE_AFTER;

/// The byte with which a QUIC stream is opened.
pub(crate) const OPENING: u8 = 1;

/// The byte with which a stream is accepted; others are a [`Refusal`].
pub(crate) const ACCEPTED: u8 = 0;

/// How long a peer may take to accept a stream, and how long we wait for one of its places for streams to become free.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

/// A protocol that every node has and none speaks. Offered behind the wanted one, it is what a peer chooses that does not have that. noq does
/// not tell the client when the server finds no protocol in common, if the client's hello takes more than one packet, and
/// with a post-quantum key share it always does.
pub(crate) const NONE: &str = "atoll/none/1";

/// Why a peer was not reached.
#[derive(Debug)]
pub(crate) enum DialError {
    Refused(Refusal),
    Failed(String),
}

impl DialError {
    pub(crate) fn of(error: &ConnectionError) -> Self {
        refusal(error).map_or_else(|| Self::Failed(error.to_string()), Self::Refused)
    }

    pub(crate) fn for_opening(self, node: NodeId) -> OpenError {
        match self {
            Self::Refused(reason) => OpenError::Refused { node, reason },
            Self::Failed(reason) => OpenError::Unreachable { node, reason },
        }
    }
}

impl std::fmt::Display for DialError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Refused(reason) => reason.fmt(f),
            Self::Failed(reason) => f.write_str(reason),
        }
    }
}

/// The refusal that a closed connection stands for, if it does.
fn refusal(error: &ConnectionError) -> Option<Refusal> {
    match error {
        ConnectionError::ApplicationClosed(close) => match u32::try_from(close.error_code.into_inner()).ok()? {
            code::UNKNOWN => Some(Refusal::Unknown),
            code::BUSY => Some(Refusal::Busy),
            code::PROTOCOL => Some(Refusal::Protocol),
            code::CLOSING => Some(Refusal::Closing),
            _ => None,
        },
        _ => None,
    }
}

impl Node {
    /// Opens a stream to a known peer.
    pub(crate) async fn open(
        self: &Arc<Self>,
        peer: NodeId,
        protocol: &'static str,
        traffic: Traffic,
    ) -> Result<BoxStream, OpenError> {
        if self.is_closing() {
            return Err(OpenError::Closed);
        }
        let record = self.book.record(&peer).ok_or(OpenError::UnknownPeer { node: peer })?;
        if traffic == Traffic::Aside
            && let Some(opened) = self.open_aside(&peer, protocol).await
        {
            return opened;
        }
        if traffic == Traffic::Bulk && !record.lane.is_empty() && !self.book.lanes_rest(&peer) {
            // TCP connects to a process that is stopped as well: the handshake and the answer need a limit of their own.
            let limit = self.config.lane_timeout + ANSWER_TIMEOUT / 2;
            let attempt = timeout(limit, self.open_lane(peer, protocol, &record)).await;
            match attempt.unwrap_or_else(|_| Err(DialError::Failed("no answer to a lane".to_owned()))) {
                Ok(stream) => return Ok(stream),
                Err(DialError::Refused(reason @ (Refusal::Unknown | Refusal::Protocol | Refusal::Closing))) => {
                    return Err(OpenError::Refused { node: peer, reason });
                }
                Err(DialError::Refused(_)) => {}
                Err(DialError::Failed(error)) => {
                    debug!(peer = %peer.short(), %error, "no lane; using QUIC for a while");
                    self.book.rest_lanes(&peer);
                }
            }
        }
        self.open_quic(peer, protocol, &record).await
    }

    async fn open_lane(
        self: &Arc<Self>,
        peer: NodeId,
        protocol: &str,
        record: &AddressRecord,
    ) -> Result<BoxStream, DialError> {
        let lane = self.dial_lane(peer, protocol, record).await?;
        Ok(Box::new(CountedLane::new(lane, self.book.admit(peer, Count::Lanes))))
    }

    /// Tries all lane addresses of a node at once and takes the first that works.
    pub(crate) async fn dial_lane(
        &self,
        peer: NodeId,
        protocol: &str,
        record: &AddressRecord,
    ) -> Result<LaneStream, DialError> {
        let addresses = record.lane.iter().filter(|address| is_dialable(address));
        let mut attempts: FuturesUnordered<_> =
            addresses.map(|address| self.connector.connect(*address, peer, protocol)).collect();
        let mut failure = DialError::Failed("it named no lane address".to_owned());
        while let Some(attempt) = attempts.next().await {
            match attempt {
                Ok(lane) => return begin_lane(lane).await,
                Err(error) => failure = DialError::Failed(error.to_string()),
            }
        }
        Err(failure)
    }

    async fn open_quic(
        self: &Arc<Self>,
        peer: NodeId,
        protocol: &'static str,
        record: &AddressRecord,
    ) -> Result<BoxStream, OpenError> {
        loop {
            let (busy, kept) = self.connection(peer, protocol, record).await.map_err(|e| e.for_opening(peer))?;
            let connection = busy.connection().clone();
            match begin_stream(Holds::Kept(busy), &[OPENING]).await {
                Ok(stream) => return Ok(Box::new(stream)),
                // It may have died long ago without anybody noticing: a new one tells.
                Err(DialError::Failed(error)) if kept => {
                    debug!(peer = %peer.short(), error, "a kept connection is of no use any more");
                    self.drop_connection(peer, protocol, &connection).await;
                }
                Err(error) => return Err(error.for_opening(peer)),
            }
        }
    }

    /// Opens a stream on the connection that shows that the peer is there, if there is one and it takes it.
    async fn open_aside(&self, peer: &NodeId, protocol: &str) -> Option<Result<BoxStream, OpenError>> {
        let connection = self.book.present_on(peer).pop()?;
        match begin_stream(Holds::Connection(connection), &aside(protocol)).await {
            Ok(stream) => Some(Ok(Box::new(stream))),
            Err(DialError::Refused(reason)) => Some(Err(OpenError::Refused { node: *peer, reason })),
            Err(DialError::Failed(error)) => {
                debug!(peer = %peer.short(), error, "nothing to be asked on the connection of greetings");
                None
            }
        }
    }

    /// The connection for a protocol, on which a stream counts already, and whether it was there before.
    async fn connection(
        self: &Arc<Self>,
        peer: NodeId,
        protocol: &'static str,
        record: &AddressRecord,
    ) -> Result<(Busy, bool), DialError> {
        let slot = self.connections.slot(peer, protocol);
        let mut kept = slot.lock().await;
        if let Some(kept) = kept.as_ref().filter(|kept| kept.connection().close_reason().is_none()) {
            return Ok((kept.enter(), true));
        }
        let dialled = Kept::new(self.dial(peer, record, protocol).await?);
        let busy = dialled.enter();
        *kept = Some(dialled.clone());
        self.spawn(self.clone().serve_connection(peer, protocol, dialled, None));
        Ok((busy, false))
    }

    async fn drop_connection(&self, peer: NodeId, protocol: &'static str, unusable: &Connection) {
        let slot = self.connections.slot(peer, protocol);
        let mut kept = slot.lock().await;
        kept.take_if(|kept| kept.connection().stable_id() == unusable.stable_id());
    }

    /// Makes a connection to a node where its record says it is.
    pub(crate) async fn dial(
        self: &Arc<Self>,
        peer: NodeId,
        record: &AddressRecord,
        protocol: &str,
    ) -> Result<Connection, DialError> {
        let transport = if protocol == HELLO { quiet_transport() } else { transport(true) };
        let options = ConnectOptions::new().with_transport_config(transport.build());
        self.dial_with(peer, record, protocol, options).await
    }

    /// The same with options for the connection.
    pub(crate) async fn dial_with(
        self: &Arc<Self>,
        peer: NodeId,
        record: &AddressRecord,
        protocol: &str,
        options: ConnectOptions,
    ) -> Result<Connection, DialError> {
        if let Some(quiet) = self.book.keeper(&peer).map(|keeper| keeper.quiet()).filter(|quiet| !quiet.is_zero()) {
            sleep(quiet).await;
        }
        let failed = |reason: &str| DialError::Failed(reason.to_owned());
        let id = EndpointId::from_bytes(peer.as_bytes()).map_err(|_| failed("its id is no Ed25519 key"))?;
        let relay = record.relay.as_ref().and_then(|url| url.parse().ok());
        let mut to = EndpointAddr::new(id);
        for address in record.quic.iter().filter(|address| is_dialable(address)) {
            to = to.with_ip_addr(*address);
        }
        // Relays are for those who configured some: no other server is ever contacted, whatever a record says.
        if let Some(url) = relay.filter(|_| !self.config.relays.is_empty()) {
            to = to.with_relay_url(url);
        }
        // Direct paths have the start; where none worked last time, or none is known, relays are tried along with them.
        let by_relay = protocol != RELAY && (to.is_empty() || self.via.is_needed(&peer));
        let has_relay = self.via.reach.has_relay_to(&self.book, &peer);
        if by_relay && has_relay {
            to = to.with_addrs([via_address(&peer)]);
        }
        if to.is_empty() && record.lane.is_empty() {
            return Err(failed("it named no address that can be dialled"));
        }
        let connecting = timeout(self.config.dial_timeout, self.connect(to, protocol, options));
        // A lane that comes up meanwhile carries the very packets of this attempt.
        let lane = async {
            if protocol != RELAY {
                sleep(if by_relay && !has_relay { Duration::ZERO } else { LANE_AFTER }).await;
                self.want_lane(peer);
            }
            pending().await
        };
        let connection = tokio::select! {
            outcome = connecting => outcome.map_err(|_| failed("no answer from any of its addresses"))??,
            never = lane => never,
        };
        self.via.note(peer, is_direct(&connection));
        if connection.alpn() == NONE.as_bytes() {
            connection.close(code::PROTOCOL.into(), b"then there is nothing to talk about");
            return Err(DialError::Refused(Refusal::Protocol));
        }
        Ok(connection)
    }

    async fn connect(
        &self,
        to: EndpointAddr,
        protocol: &str,
        options: ConnectOptions,
    ) -> Result<Connection, DialError> {
        let options = options.with_additional_alpns(vec![NONE.as_bytes().to_vec()]);
        let connecting = self.endpoint.connect_with_opts(to, protocol.as_bytes(), options).await;
        match connecting.map_err(|error| DialError::Failed(error.to_string()))?.await {
            Ok(connection) => Ok(connection),
            Err(ConnectingError::ConnectionError { source, .. }) => Err(DialError::of(&source)),
            Err(error) => Err(DialError::Failed(error.to_string())),
        }
    }
}

/// The outcome of the first of two attempts that succeeds. The second begins when the first has failed, or has had its start; if neither succeeds it is the first one's error.
pub(crate) async fn either<T>(
    first: impl Future<Output = Result<T, DialError>>,
    start: Duration,
    second: impl Future<Output = Result<T, DialError>>,
) -> Result<T, DialError> {
    let mut first = pin!(first);
    match timeout(start, &mut first).await {
        Ok(Ok(done)) => return Ok(done),
        Ok(Err(error)) => return second.await.map_err(|_| error),
        Err(_) => {}
    }
    match select(first, pin!(second)).await {
        Either::Left((Ok(done), _)) | Either::Right((Ok(done), _)) => Ok(done),
        Either::Left((Err(error), second)) => second.await.map_err(|_| error),
        Either::Right((Err(_), first)) => first.await,
    }
}

async fn begin_lane(mut lane: LaneStream) -> Result<LaneStream, DialError> {
    let answer = lane.read_u8().await.map_err(|error| DialError::Failed(error.to_string()))?;
    Refusal::from_byte(answer).map_or(Ok(lane), |reason| Err(DialError::Refused(reason)))
}

/// How a stream of a protocol begins on the connection of greetings.
fn aside(protocol: &str) -> Vec<u8> {
    let length = u8::try_from(protocol.len()).expect("names of protocols are that short");
    [&[OPENING, length], protocol.as_bytes()].concat()
}

/// Opens a stream on a connection and waits for the peer to accept it.
async fn begin_stream(on: Holds, opening: &[u8]) -> Result<QuicStream, DialError> {
    let connection = on.connection().clone();
    let lost = |text: String| match connection.close_reason() {
        Some(reason) => DialError::of(&reason),
        None => DialError::Failed(text),
    };
    let (send, receive) = match timeout(ANSWER_TIMEOUT, connection.open_bi()).await {
        Ok(opened) => opened.map_err(|error| DialError::of(&error))?,
        Err(_) => return Err(DialError::Refused(Refusal::Busy)),
    };
    let mut stream = QuicStream::new(send, receive, on);
    stream.write_all(opening).await.map_err(|error| lost(error.to_string()))?;
    match timeout(ANSWER_TIMEOUT, stream.read_u8()).await {
        Ok(Ok(answer)) => match Refusal::from_byte(answer) {
            None => Ok(stream),
            Some(reason) => Err(DialError::Refused(reason)),
        },
        Ok(Err(error)) => Err(lost(error.to_string())),
        Err(_) => Err(lost("it did not accept the stream in time".to_owned())),
    }
}
