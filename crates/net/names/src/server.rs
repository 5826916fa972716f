//! The server: two sockets at one loopback address, and everything about them bounded.
//!
//! hickory's messages under loops of our own: the ones that come with hickory accept any number of connections, and this server shares its file descriptors with a node.

use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::answer::{Server, Step, Transport, step};
use crate::forward::Forward;
use crate::names::Names;

/// Where programs look for a resolver; resolv.conf cannot name another port.
const DNS_PORT: u16 = 53;

/// The addresses that are tried, by their last byte: a few nodes may run on one machine. They are not those of systemd-resolved (127.0.0.53, 127.0.0.54), dnsmasq
/// (127.0.0.1) or Debian's own name (127.0.1.1).
const LAST_BYTES: std::ops::RangeInclusive<u8> = 53..=60;

/// A port that is free for UDP may be taken for TCP; another is as good.
const TRIES: usize = 16;

/// The largest question over UDP: far more than any has, options included.
const QUESTION_BYTES_MAX: usize = 4096;

/// Most connections at once; who comes later waits in the kernel's queue.
const CONNECTIONS_MAX: usize = 32;

/// A connection on which nothing is asked for so long is closed (RFC 7766, section 6.2.3: a few seconds).
const IDLE_MAX: Duration = Duration::from_secs(5);

/// After an error of a socket, so that one that lasts does not keep a core busy.
const PAUSE: Duration = Duration::from_millis(100);

/// Where to listen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bind {
    /// At port 53 of the first free address, or at a free port where port 53 may not be had.
    Auto,
    /// Here.
    At(SocketAddr),
}

/// Why there is no server.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// Somebody else could ask.
    #[error("names are answered for on loopback only (127.0.0.0/8 or ::1), not at {0}")]
    Outside(SocketAddr),
    /// Not `auto` and no address.
    #[error("{0:?} is neither auto nor an address with a port such as 127.0.0.1:5353")]
    Syntax(String),
    /// The system refuses.
    #[error("cannot listen at {address}: {source}")]
    Io {
        /// Where.
        address: SocketAddr,
        /// What the system says.
        source: io::Error,
    },
}

impl FromStr for Bind {
    type Err = BindError;

    fn from_str(text: &str) -> Result<Self, BindError> {
        if text == "auto" {
            return Ok(Self::Auto);
        }
        let address: SocketAddr = text.parse().map_err(|_| BindError::Syntax(text.chars().take(60).collect()))?;
        if address.ip().is_loopback() { Ok(Self::At(address)) } else { Err(BindError::Outside(address)) }
    }
}

impl fmt::Display for Bind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => write!(f, "auto"),
            Self::At(address) => write!(f, "{address}"),
        }
    }
}

/// Sockets that are bound, both at the same address.
#[derive(Debug)]
pub struct Listener {
    udp: UdpSocket,
    tcp: TcpListener,
    address: SocketAddr,
}

impl Listener {
    /// Binds.
    ///
    /// # Errors
    /// [`BindError`].
    pub async fn bind(bind: Bind) -> Result<Self, BindError> {
        let Bind::At(address) = bind else { return Self::bind_auto().await };
        if !address.ip().is_loopback() {
            return Err(BindError::Outside(address));
        }
        Self::bind_at(address).await.map_err(|source| BindError::Io { address, source })
    }

    async fn bind_auto() -> Result<Self, BindError> {
        let address = |last: u8| Ipv4Addr::new(127, 64, 0, last);
        for address in LAST_BYTES.map(address) {
            match Self::bind_at((address, DNS_PORT).into()).await {
                Ok(bound) => return Ok(bound),
                Err(error) if error.kind() == io::ErrorKind::PermissionDenied => break,
                Err(error) => tracing::debug!(%address, %error, "port 53 is not to be had here"),
            }
        }
        let address = (address(*LAST_BYTES.start()), 0).into();
        Self::bind_at(address).await.map_err(|source| BindError::Io { address, source })
    }

    async fn bind_at(address: SocketAddr) -> io::Result<Self> {
        let mut tries = 1;
        loop {
            let udp = UdpSocket::bind(address).await?;
            let bound = udp.local_addr()?;
            match TcpListener::bind(bound).await {
                Ok(tcp) => return Ok(Self { udp, tcp, address: bound }),
                Err(error) if address.port() != 0 || tries == TRIES => return Err(error),
                Err(_) => tries += 1,
            }
        }
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Whether programs can be pointed at it by resolv.conf.
    #[must_use]
    pub fn is_at_dns_port(&self) -> bool {
        self.address.port() == DNS_PORT
    }

    /// Answers until told to stop. With `forward`, what is not ours is asked of others.
    pub async fn run(self, names: Names, forward: Option<Forward>, stop: CancellationToken) {
        let Self { udp, tcp, address } = self;
        let answering = Arc::new(Answering { names, forward, ip: address.ip() });
        tokio::select! {
            () = stop.cancelled() => {}
            () = datagrams(Arc::new(udp), answering.clone()) => {}
            () = connections(tcp, answering) => {}
        }
    }
}

/// What answers.
struct Answering {
    names: Names,
    forward: Option<Forward>,
    ip: IpAddr,
}

impl Answering {
    fn step(&self, message: &[u8], transport: Transport) -> Step {
        let server = Server { address: self.ip, forwards: self.forward.is_some() };
        step(message, transport, &self.names.zone(), server)
    }

    async fn ask_others(&self, message: &[u8], transport: Transport, payload: u16, failed: Vec<u8>) -> Vec<u8> {
        let Some(forward) = &self.forward else { return failed };
        forward.ask(message, transport, payload).await.unwrap_or(failed)
    }
}

async fn datagrams(socket: Arc<UdpSocket>, answering: Arc<Answering>) {
    // What is ours is answered at once; what others are asked is bounded by them.
    let mut asked = tokio::task::JoinSet::new();
    let mut buffer = vec![0; QUESTION_BYTES_MAX];
    loop {
        let (length, from) = match socket.recv_from(&mut buffer).await {
            Ok(received) => received,
            Err(error) => {
                tracing::debug!(%error, "a question was not received");
                sleep(PAUSE).await;
                continue;
            }
        };
        while asked.try_join_next().is_some() {}
        let message = buffer.get(..length).unwrap_or_default();
        match answering.step(message, Transport::Udp) {
            Step::Ignore => {}
            Step::Reply(reply) => send(&socket, &reply, from).await,
            Step::Forward { failed, payload } => {
                let (socket, answering, message) = (socket.clone(), answering.clone(), message.to_vec());
                asked.spawn(async move {
                    let answer = answering.ask_others(&message, Transport::Udp, payload, failed).await;
                    send(&socket, &answer, from).await;
                });
            }
        }
    }
}

async fn send(socket: &UdpSocket, reply: &[u8], to: SocketAddr) {
    if let Err(error) = socket.send_to(reply, to).await {
        tracing::debug!(%error, "an answer was not sent");
    }
}

async fn connections(listener: TcpListener, answering: Arc<Answering>) {
    let slots = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let mut open = tokio::task::JoinSet::new();
    loop {
        let Ok(slot) = slots.clone().acquire_owned().await else { return };
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::debug!(%error, "a connection was not accepted");
                sleep(PAUSE).await;
                continue;
            }
        };
        while open.try_join_next().is_some() {}
        let answering = answering.clone();
        open.spawn(async move {
            let ended = converse(stream, &answering).await;
            if let Err(error) = ended {
                tracing::debug!(%error, "a connection ended early");
            }
            drop(slot);
        });
    }
}

/// One question after the other, each behind its length in two bytes (RFC 1035, section 4.2.2).
async fn converse(mut stream: TcpStream, answering: &Answering) -> io::Result<()> {
    stream.set_nodelay(true)?;
    loop {
        let Ok(read) = timeout(IDLE_MAX, read_message(&mut stream)).await else { return Ok(()) };
        let Some(message) = read? else { return Ok(()) };
        let reply = match answering.step(&message, Transport::Tcp) {
            Step::Ignore => return Ok(()),
            Step::Reply(reply) => reply,
            Step::Forward { failed, payload } => answering.ask_others(&message, Transport::Tcp, payload, failed).await,
        };
        let length = u16::try_from(reply.len()).map_err(io::Error::other)?;
        let framed = [&length.to_be_bytes()[..], &reply].concat();
        match timeout(IDLE_MAX, stream.write_all(&framed)).await {
            Ok(written) => written?,
            Err(_) => return Ok(()),
        }
    }
}

/// `None` at the end of the conversation.
async fn read_message(stream: &mut TcpStream) -> io::Result<Option<Vec<u8>>> {
    let length = match stream.read_u16().await {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        length => usize::from(length?),
    };
    if length > QUESTION_BYTES_MAX {
        return Err(io::Error::other(format!("a question of {length} bytes")));
    }
    let mut message = vec![0; length];
    stream.read_exact(&mut message).await?;
    Ok(Some(message))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_it_may_listen() {
        #[track_caller]
        fn check(text: &str, expect: &str) {
            let said = text.parse::<Bind>().map_or_else(|error| error.to_string(), |bind| bind.to_string());
            assert!(said.contains(expect), "{text}: {said}");
        }
        check("auto", "auto");
        check("127.0.0.1:5353", "127.0.0.1:5353");
        check("[::1]:0", "[::1]:0");
        check("0.0.0.0:53", "loopback only");
        check("[::]:53", "loopback only");
        check("192.0.2.1:53", "loopback only");
        check("127.0.0.1", "neither auto nor");
    }
}
