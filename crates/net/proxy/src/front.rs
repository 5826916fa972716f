//! What programs of this machine speak to: one port on loopback and one Unix socket, each for SOCKS5 and HTTP. The first byte tells them apart.
//!
//! The Unix socket is guarded by the file system. On loopback the system is asked whose the connection is.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::http;
use crate::local::Local;
use crate::reach::{ReachError, Reacher};
use crate::socks::{self, Reply, SocksError, decode_greeting, decode_request, encode_method, encode_reply};
use crate::splice::{IDLE_MAX, splice};
use crate::users::Users;

/// Programs' connections at once; more wait. A browser opens some dozens. With 128 KiB each at most.
const CONNECTIONS_MAX: usize = 512;

/// How long a program may take to say what it wants.
pub(crate) const REQUEST_WITHIN: Duration = Duration::from_secs(30);

/// How long a program's further words are read after it was refused.
const LINGER: Duration = Duration::from_secs(1);

/// How long to wait when the operating system has no more sockets.
const NO_SOCKETS_PAUSE: Duration = Duration::from_millis(50);

/// What SOCKS replies say of the address that a connection comes from: nothing.
const NOWHERE: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0);

/// The proxy, bound and not yet serving.
pub struct Front {
    reacher: Reacher,
    users: Users,
    tcp: Option<TcpListener>,
    unix: Option<UnixListener>,
}

/// What one connection needs.
#[derive(Clone)]
pub(crate) struct Session {
    pub(crate) reacher: Reacher,
    /// Whether this program may use the proxy at all.
    pub(crate) admitted: bool,
    pub(crate) stop: CancellationToken,
    /// Held until the last part of the connection is over.
    pub(crate) place: Arc<OwnedSemaphorePermit>,
}

impl Front {
    /// Serves programs at these listeners by `reacher`; `users` are who may come over TCP.
    #[must_use]
    pub fn new(reacher: Reacher, users: Users, tcp: Option<TcpListener>, unix: Option<UnixListener>) -> Self {
        Self { reacher, users, tcp, unix }
    }

    /// Serves until told to stop; then what is under way is reset.
    pub async fn run(self, stop: CancellationToken) {
        let Self { reacher, users, tcp, unix } = self;
        let (users, places) = (Arc::new(users), Arc::new(Semaphore::new(CONNECTIONS_MAX)));
        loop {
            let Ok(place) = places.clone().acquire_owned().await else { return };
            let accepted = tokio::select! {
                () = stop.cancelled() => return,
                accepted = accept_tcp(tcp.as_ref(), &users) => accepted,
                accepted = accept_unix(unix.as_ref()) => accepted,
            };
            let (local, asked) = match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    tracing::warn!(%error, "the proxy cannot take a connection");
                    tokio::time::sleep(NO_SOCKETS_PAUSE).await;
                    continue;
                }
            };
            let session =
                Session { reacher: reacher.clone(), admitted: true, stop: stop.clone(), place: Arc::new(place) };
            tokio::spawn(async move {
                let admitted = asked.admits().await;
                serve(local, Session { admitted, ..session }).await;
            });
        }
    }
}

/// The two ends of a connection, this machine's first, as far as the system says.
type Ends = io::Result<(SocketAddr, SocketAddr)>;

/// Who is at the other end, to be found out beside the accepting.
struct Asked(Option<(Arc<Users>, Ends)>);

impl Asked {
    async fn admits(self) -> bool {
        let Some((users, ends)) = self.0 else { return true };
        let admitted = match ends {
            Ok((here, there)) => users.admit(here, there).await,
            Err(error) => Err(error),
        };
        admitted.unwrap_or_else(|error| {
            tracing::warn!(%error, "the system does not tell whose a connection to the proxy is; it is refused");
            false
        })
    }
}

async fn accept_tcp(listener: Option<&TcpListener>, users: &Arc<Users>) -> io::Result<(Local, Asked)> {
    let Some(listener) = listener else { return std::future::pending().await };
    let (stream, there) = listener.accept().await?;
    let ends = stream.local_addr().map(|here| (here, there));
    Ok((Local::tcp(stream), Asked(Some((users.clone(), ends)))))
}

async fn accept_unix(listener: Option<&UnixListener>) -> io::Result<(Local, Asked)> {
    let Some(listener) = listener else { return std::future::pending().await };
    let (stream, _) = listener.accept().await?;
    Ok((Local::unix(stream), Asked(None)))
}

/// Serves one connection.
async fn serve(mut local: Local, session: Session) {
    let stop = session.stop.clone();
    let serving = async {
        let mut first = [0; 1];
        match timeout(REQUEST_WITHIN, local.read(&mut first)).await {
            Ok(Ok(1)) => local.unread(&first),
            // It said nothing: it looked whether anybody is here.
            _ => return,
        }
        if first[0] != socks::VERSION {
            return http::serve(local, session).await;
        }
        if let Err(error) = serve_socks(local, &session).await {
            tracing::debug!(%error, "a connection through SOCKS broke off");
        }
    };
    tokio::select! {
        () = serving => {}
        () = stop.cancelled() => {}
    }
}

async fn serve_socks(mut local: Local, session: &Session) -> io::Result<()> {
    let asked = timeout(REQUEST_WITHIN, ask_socks(&mut local, session.admitted)).await;
    let request = match asked.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?? {
        Ok(request) => request,
        Err(reply) => return end(&mut local, &reply).await,
    };
    match session.reacher.open(&request.target, request.port).await {
        Ok(mut reached) => {
            local.write_all(&encode_reply(Reply::Succeeded, NOWHERE)).await?;
            let motion = reached.motion();
            splice(&mut local, &mut reached, motion, IDLE_MAX).await
        }
        Err(error) => end(&mut local, &encode_reply(ReachError::reply(&error), NOWHERE)).await,
    }
}

/// What a program wants, or what to answer to what it said.
async fn ask_socks(local: &mut Local, admitted: bool) -> io::Result<Result<socks::Request, Vec<u8>>> {
    let greeted = message(local, decode_greeting).await?;
    let accepted = admitted && greeted.is_ok_and(|greeting| greeting.without_authentication);
    if !accepted {
        return Ok(Err(encode_method(false).into()));
    }
    local.write_all(&encode_method(true)).await?;
    let request = message(local, decode_request).await?;
    Ok(request.map_err(|error| {
        tracing::debug!(%error, "SOCKS");
        encode_reply(error.reply(), NOWHERE)
    }))
}

/// Says the last word. What the program still sends is read away for a moment: closing over it would be a reset, which may overtake the answer.
async fn end(local: &mut Local, answer: &[u8]) -> io::Result<()> {
    local.write_all(answer).await?;
    local.shutdown().await?;
    let draining = async {
        let mut unread = [0; 512];
        while matches!(local.read(&mut unread).await, Ok(length) if length > 0) {}
    };
    let _: Result<(), _> = timeout(LINGER, draining).await;
    Ok(())
}

/// Reads until a message is complete; what came behind it is put back.
async fn message<T>(
    local: &mut Local,
    decode: impl Fn(&[u8]) -> Result<Option<(T, usize)>, SocksError>,
) -> io::Result<Result<T, SocksError>> {
    let mut got = BytesMut::new();
    loop {
        match decode(&got) {
            Ok(Some((message, used))) => {
                local.unread(&got[used..]);
                return Ok(Ok(message));
            }
            Ok(None) => {}
            Err(error) => return Ok(Err(error)),
        }
        if local.read_buf(&mut got).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
}
