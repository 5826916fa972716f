//! From a TCP connection to a lane: dialling and answering, under limits of time and bytes.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use atoll_ids::NodeId;
use atoll_keys::NodeKey;
use rustix::net::sockopt;
use rustls::client::UnbufferedClientConnection;
use rustls::pki_types::ServerName;
use rustls::server::UnbufferedServerConnection;
use rustls::{NamedGroup, ServerConfig};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::buffers::Pool;
use crate::error::LaneError;
use crate::identity::{Identity, node_of};
use crate::session::{Connection, Session};
use crate::stream::LaneStream;

/// How long a handshake may take on an open TCP connection: a dozen round trips around the planet, or as many lost packets as make a connection useless.
pub const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// The most bytes read before the handshake is complete. A hello with a hybrid key share is about 1.5 KiB and what
/// follows less than 1 KiB; the rest is for extensions still to come.
pub const HANDSHAKE_BYTES_MAX: usize = 16 * 1024;

/// How long TCP may take to connect unless told otherwise: one lost SYN is repeated after a second.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

/// A lane on which nothing was heard for this long is probed: whoever lost power does not say goodbye, and would be waited for for ever.
const PROBE_AFTER: Duration = Duration::from_secs(15);

/// How long to wait between probes.
const PROBE_EVERY: Duration = Duration::from_secs(5);

/// Probes without an answer after which the lane is broken: 30 s after the last sign of life. This holds for lanes that are waiting;
/// with bytes under way it is for the protocol to lose patience, because `TCP_USER_TIMEOUT` would also end a lane whose reader
/// merely stalls.
const PROBES: u32 = 3;

/// rustls wants a name for every server. It is not sent (`enable_sni` is off) and nobody compares it.
const NO_NAME: &str = "atoll.invalid";

/// Dials lanes in the name of one node. Cheap to clone; lanes of one connector share spare buffers.
#[derive(Debug, Clone)]
pub struct Connector {
    identity: Identity,
    pool: Pool,
    connect_timeout: Duration,
}

impl Connector {
    /// Dials as the node that has `key`.
    pub fn new(key: &NodeKey) -> Self {
        Self { identity: Identity::new(key), pool: Pool::default(), connect_timeout: CONNECT_TIMEOUT }
    }

    /// Gives TCP this long to connect (the handshake after it has [`HANDSHAKE_TIMEOUT`]).
    #[must_use]
    pub fn with_connect_timeout(mut self, limit: Duration) -> Self {
        self.connect_timeout = limit;
        self
    }

    /// Opens a lane to the node `expected` at `address`, to speak `protocol` there.
    ///
    /// The other end learns who dials with the last message of the handshake, so its refusal of *us* comes as the
    /// first read's error.
    ///
    /// # Errors
    ///
    /// See [`LaneError`]. Dropping the future closes the connection.
    pub async fn connect(
        &self,
        address: SocketAddr,
        expected: NodeId,
        protocol: &str,
    ) -> Result<LaneStream, LaneError> {
        check_protocol(protocol)?;
        let limit = self.connect_timeout;
        let tcp = tokio::time::timeout(limit, TcpStream::connect(address))
            .await
            .map_err(|_| LaneError::Timeout { what: "the TCP connection", limit })?
            .map_err(|source| LaneError::Connect { address, source })?;
        let config = self.identity.client(expected, protocol).map_err(LaneError::Tls)?;
        let name = ServerName::try_from(NO_NAME).expect("a constant that is a DNS name");
        let connection = UnbufferedClientConnection::new(config, name).map_err(LaneError::Tls)?;
        let session = Session::new(Connection::Client(connection), &self.pool);
        establish(tcp, session, protocol).await.map(|accepted| accepted.stream)
    }
}

/// A lane that somebody opened to us.
#[derive(Debug)]
pub struct Accepted {
    /// The lane.
    pub stream: LaneStream,
    /// Who is at the other end: proven, but not yet welcome.
    pub peer: NodeId,
    /// What they want to speak, one of the acceptor's protocols.
    pub protocol: String,
}

/// Answers lanes in the name of one node. Cheap to clone; lanes of one acceptor share spare buffers.
#[derive(Debug, Clone)]
pub struct Acceptor {
    config: Arc<ServerConfig>,
    protocols: Arc<str>,
    pool: Pool,
}

impl Acceptor {
    /// Answers as the node that has `key` to those who speak one of `protocols`.
    ///
    /// # Errors
    ///
    /// [`LaneError::ProtocolName`] when a name is empty or longer than 255 bytes.
    pub fn new(key: &NodeKey, protocols: &[&str]) -> Result<Self, LaneError> {
        protocols.iter().try_for_each(|name| check_protocol(name))?;
        let config = Identity::new(key).server(protocols).map_err(LaneError::Tls)?;
        Ok(Self { config, protocols: protocols.join(" or ").into(), pool: Pool::default() })
    }

    /// Completes the handshake on a connection that a listener accepted. Whoever is at the other end is reported, not
    /// judged.
    ///
    /// # Errors
    ///
    /// See [`LaneError`]. Dropping the future closes the connection.
    pub async fn accept(&self, tcp: TcpStream) -> Result<Accepted, LaneError> {
        let connection = UnbufferedServerConnection::new(self.config.clone()).map_err(LaneError::Tls)?;
        let session = Session::new(Connection::Server(connection), &self.pool);
        establish(tcp, session, &self.protocols).await
    }
}

fn check_protocol(name: &str) -> Result<(), LaneError> {
    if (1..=255).contains(&name.len()) { Ok(()) } else { Err(LaneError::ProtocolName(name.to_owned())) }
}

async fn establish(tcp: TcpStream, session: Session, wanted: &str) -> Result<Accepted, LaneError> {
    prepare(&tcp)?;
    tokio::time::timeout(HANDSHAKE_TIMEOUT, shake_hands(tcp, session, wanted))
        .await
        .map_err(|_| LaneError::Timeout { what: "the handshake", limit: HANDSHAKE_TIMEOUT })?
}

/// Sets the options of the socket that every lane wants.
///
/// The sizes of its buffers are left to the kernel, which grows them with the path: fixed ones from 128 KiB to 2 MiB were
/// no faster on loopback, and any would be too small for some path.
fn prepare(tcp: &TcpStream) -> io::Result<()> {
    // Requests are small and answered before the next: waiting to fill a segment would only add delay.
    tcp.set_nodelay(true)?;
    sockopt::set_socket_keepalive(tcp, true)?;
    sockopt::set_tcp_keepidle(tcp, PROBE_AFTER)?;
    sockopt::set_tcp_keepintvl(tcp, PROBE_EVERY)?;
    sockopt::set_tcp_keepcnt(tcp, PROBES)?;
    Ok(())
}

async fn shake_hands(mut tcp: TcpStream, mut session: Session, wanted: &str) -> Result<Accepted, LaneError> {
    let mut budget = HANDSHAKE_BYTES_MAX;
    loop {
        let outcome = session.shake();
        // After an error too: then it is the alert that tells the other end why.
        let sent = tcp.write_all(session.outgoing().filled()).await;
        let count = session.outgoing().filled().len();
        session.outgoing().consume(count);
        if outcome.map_err(|error| LaneError::from_tls(error, wanted))? {
            sent?;
            break;
        }
        sent?;
        if budget == 0 {
            return Err(LaneError::TooMuch { limit: HANDSHAKE_BYTES_MAX });
        }
        let spare = session.spare().map_err(LaneError::Tls)?;
        let room = spare.len().min(budget);
        let count = tcp.read(&mut spare[..room]).await?;
        if count == 0 {
            return Err(LaneError::Io(io::ErrorKind::UnexpectedEof.into()));
        }
        session.arrived(count);
        budget -= count;
    }
    session.take_control();
    session.rest();
    let (peer, protocol) = agreement(&session, wanted)?;
    Ok(Accepted { stream: LaneStream::new(tcp, session, peer), peer, protocol })
}

/// What both ends agreed on, checked here once more because rustls allows a peer to leave each of these out.
fn agreement(session: &Session, wanted: &str) -> Result<(NodeId, String), LaneError> {
    let common = session.common();
    let peer = common
        .peer_certificates()
        .and_then(|keys| keys.first())
        .and_then(|key| node_of(key))
        .ok_or(LaneError::Tls(rustls::Error::NoCertificatesPresented))?;
    let protocol = common
        .alpn_protocol()
        .and_then(|name| str::from_utf8(name).ok())
        .ok_or_else(|| LaneError::Protocol { wanted: wanted.to_owned() })?;
    let group = common.negotiated_key_exchange_group().map(|group| group.name());
    if group != Some(NamedGroup::X25519MLKEM768) {
        return Err(LaneError::Tls(rustls::PeerIncompatible::NoKxGroupsInCommon.into()));
    }
    Ok((peer, protocol.to_owned()))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;

    #[tokio::test]
    async fn a_socket_is_prompt_and_notices_a_dead_peer() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let tcp = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        prepare(&tcp).unwrap();
        assert!(tcp.nodelay().unwrap());
        assert!(sockopt::socket_keepalive(&tcp).unwrap());
        assert_eq!(sockopt::tcp_keepidle(&tcp).unwrap(), PROBE_AFTER);
    }
}
