//! The far side: connects for peers to what they may reach, and copies bytes.
//!
//! A peer's request is read, judged, and only then is anything looked up or connected to. To programs of this node the packet filter's rules decide; with the
//! interface up they are reached at the planetary address, as packets would reach them, and without one on loopback. There many programs listen that are
//! meant for this machine alone, so on loopback only a rule that names TCP counts, not one that stands for everything, and never for the node's own ports.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs as _, UdpSocket};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use atoll_ids::{NodeId, OwnerId};
use atoll_link::{BoxStream, StreamHandler};
use atoll_wire::{encode, read_frame, write_frame};
use futures_util::future::BoxFuture;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::counts::Counts;
use crate::exit::{ExitRule, judge, may_leave};
use crate::local::Local;
use crate::splice::{IDLE_MAX, Watched, splice};
use crate::wire::{Denial, DialAnswer, DialRequest, FRAME_BYTES_MAX, Place, decode_dial};

/// Look-ups at once. Each holds a thread for as long as the system's resolver takes, whoever waits for it, and the node has two dozen for everything.
const LOOKUPS_MAX: usize = 4;

/// A look-up that takes longer counts as none.
const LOOKUP_WITHIN: Duration = Duration::from_secs(5);

/// Addresses of one name that are tried.
const ADDRESSES_MAX: usize = 8;

/// Limits of the serving side.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Connections at once for one peer: half of the streams that the link serves it, so that shards and questions get through beside them.
    pub per_peer: usize,
    /// Connections at once for all peers: with 128 KiB each at most.
    pub in_all: usize,
    /// How long a request may take to arrive.
    pub request_within: Duration,
    /// How long connecting may take, over all addresses.
    pub connect_within: Duration,
    /// How long nothing may move on a connection.
    pub idle: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            per_peer: 128,
            in_all: 1024,
            request_within: Duration::from_secs(10),
            connect_within: Duration::from_secs(10),
            idle: IDLE_MAX,
        }
    }
}

/// Where programs of this node are reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Here {
    /// At this planetary address: the interface is up.
    Interface(Ipv6Addr),
    /// On loopback: there is none.
    Loopback {
        /// Ports of the node itself, which are for this machine alone whatever a rule says.
        own: Vec<u16>,
    },
}

/// What holds on this node, asked anew for each request.
pub trait Grants: Send + Sync + 'static {
    /// Whose a peer is, as far as it has proven.
    fn owner(&self, node: &NodeId) -> Option<OwnerId>;

    /// Whether the rules of the packet filter let a peer, which is `owner`'s as far as that was proven, begin TCP to a port of this node; if `named`, only those
    /// that name TCP count, and not those that stand for everything.
    fn allows(&self, peer: NodeId, owner: Option<OwnerId>, port: u16, named: bool) -> bool;

    /// Where programs of this node are reached.
    fn here(&self) -> Here;
}

/// Serves `atoll/dial/1`. Cheap to clone.
#[derive(Clone)]
pub struct DialServer(Arc<Inner>);

struct Inner {
    exit: Vec<ExitRule>,
    limits: Limits,
    grants: OnceLock<Arc<dyn Grants>>,
    busy: Arc<Busy>,
    lookups: Arc<Semaphore>,
    counts: Counts,
    stop: CancellationToken,
}

impl DialServer {
    /// A server that denies everything until it is told by whose rules ([`Self::open`]): a link needs its handlers before there is anything to ask.
    #[must_use]
    pub fn new(exit: Vec<ExitRule>, limits: Limits, stop: CancellationToken) -> Self {
        Self(Arc::new(Inner {
            exit,
            limits,
            grants: OnceLock::new(),
            busy: Arc::default(),
            lookups: Arc::new(Semaphore::new(LOOKUPS_MAX)),
            counts: Counts::default(),
            stop,
        }))
    }

    /// Begins to serve as `grants` say. Only the first call counts.
    pub fn open(&self, grants: Arc<dyn Grants>) {
        let _: Result<(), _> = self.0.grants.set(grants);
    }

    /// What went through.
    #[must_use]
    pub fn counts(&self) -> &Counts {
        &self.0.counts
    }

    /// The rules for what lies beyond this node.
    #[must_use]
    pub fn exit_rules(&self) -> &[ExitRule] {
        &self.0.exit
    }

    async fn serve(self, peer: NodeId, mut stream: BoxStream) -> Result<(), String> {
        let Inner { limits, counts, busy, stop, .. } = &*self.0;
        let frame = timeout(limits.request_within, read_frame(&mut stream, FRAME_BYTES_MAX)).await;
        let frame = frame.map_err(|_| "no request came in time")?.map_err(|error| error.to_string())?;
        let request = decode_dial(&frame.ok_or("no request came")?).map_err(|error| error.to_string())?;
        let admitted = busy.admit(peer, limits);
        let connected = match &admitted {
            None => Err(Denial::TooMany),
            Some(_) if stop.is_cancelled() => Err(Denial::NotNow),
            Some(_) => match timeout(limits.connect_within, self.connect(peer, &request)).await {
                Ok(connected) => connected,
                Err(_) => Err(Denial::Silent),
            },
        };
        let answer = connected.as_ref().map_or_else(|denial| DialAnswer::Denied(*denial), |_| DialAnswer::Connected);
        let said = async {
            write_frame(&mut stream, &encode(&answer), FRAME_BYTES_MAX).await.map_err(|error| error.to_string())?;
            let ended = if connected.is_ok() { stream.flush().await } else { stream.shutdown().await };
            ended.map_err(|error| error.to_string())
        };
        timeout(limits.request_within, said).await.map_err(|_| "it does not take the answer")??;
        let mut local = match connected {
            Ok(local) => Watched::new(local, counts.clone()),
            Err(denial) => {
                counts.denied();
                tracing::debug!(peer = %peer.short(), ?request, %denial, "not connected");
                return Ok(());
            }
        };
        let (_open, motion) = (counts.connected(), local.motion());
        tokio::select! {
            copied = splice(&mut stream, &mut local, motion, limits.idle) => copied.map_err(|error| error.to_string()),
            () = stop.cancelled() => Err("this node stops".into()),
        }
    }

    async fn connect(&self, peer: NodeId, request: &DialRequest) -> Result<Local, Denial> {
        let grants = self.0.grants.get().ok_or(Denial::NotNow)?;
        let owner = grants.owner(&peer);
        match &request.place {
            Place::Here => {
                let here = grants.here();
                let allowed = match &here {
                    Here::Interface(_) => grants.allows(peer, owner, request.port, false),
                    Here::Loopback { own } => {
                        !own.contains(&request.port) && grants.allows(peer, owner, request.port, true)
                    }
                };
                if !allowed {
                    return Err(Denial::NotAllowed);
                }
                connect_here(&here, request.port).await.map_err(|error| denial(&error))
            }
            Place::Address(ip) => self.connect_out(peer, owner, &[*ip], request.port).await,
            Place::Name(name) => {
                // Whom no rule takes anywhere learns nothing of what this node's resolver knows.
                if !may_leave(&self.0.exit, peer, owner, request.port) {
                    return Err(Denial::NotAllowed);
                }
                let found = self.look_up(name.clone()).await?;
                self.connect_out(peer, owner, &found, request.port).await
            }
        }
    }

    /// Connects to the first that answers of those that may be reached. What was judged is what is connected to.
    async fn connect_out(
        &self,
        peer: NodeId,
        owner: Option<OwnerId>,
        addresses: &[IpAddr],
        port: u16,
    ) -> Result<Local, Denial> {
        let allowed = |ip: &IpAddr| judge(&self.0.exit, peer, owner, *ip, port, is_ours(*ip));
        let canonical = addresses.iter().map(IpAddr::to_canonical);
        let allowed: Vec<IpAddr> = canonical.filter(allowed).take(ADDRESSES_MAX).collect();
        let mut failed = Denial::NotAllowed;
        let each = self.0.limits.connect_within / u32::try_from(allowed.len().max(1)).unwrap_or(1);
        for ip in allowed {
            match timeout(each, TcpStream::connect((ip, port))).await {
                Ok(Ok(stream)) => return Ok(Local::tcp(stream)),
                Ok(Err(error)) => failed = denial(&error),
                Err(_) => failed = Denial::Silent,
            }
        }
        Err(failed)
    }

    async fn look_up(&self, name: String) -> Result<Vec<IpAddr>, Denial> {
        let looking = async {
            let place = self.0.lookups.clone().acquire_owned().await.map_err(|_| Denial::NotNow)?;
            let looked = tokio::task::spawn_blocking(move || {
                // Held by the thread: it goes on when nobody waits for it any more.
                let _place = place;
                (name.as_str(), 0).to_socket_addrs().map(|found| found.map(|address| address.ip()).collect())
            });
            looked.await.map_err(|_| Denial::NotNow)?.map_err(|_| Denial::NoSuchName)
        };
        let mut found: Vec<IpAddr> = timeout(LOOKUP_WITHIN, looking).await.map_err(|_| Denial::Silent)??;
        found.dedup();
        if found.is_empty() { Err(Denial::NoSuchName) } else { Ok(found) }
    }
}

impl StreamHandler for DialServer {
    fn handle(&self, peer: NodeId, stream: BoxStream) -> BoxFuture<'static, ()> {
        let server = self.clone();
        Box::pin(async move {
            if let Err(reason) = server.serve(peer, stream).await {
                tracing::debug!(peer = %peer.short(), reason, "a connection for a peer broke off");
            }
        })
    }
}

/// Connects to a program of this node.
pub(crate) async fn connect_here(here: &Here, port: u16) -> io::Result<Local> {
    let stream = match here {
        Here::Interface(ip) => TcpStream::connect((*ip, port)).await?,
        Here::Loopback { .. } => match TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await {
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                TcpStream::connect((Ipv6Addr::LOCALHOST, port)).await.map_err(|_| error)?
            }
            connected => connected?,
        },
    };
    Ok(Local::tcp(stream))
}

/// Whether an address is one of this machine's: only those can be bound. (Where the system lets every address be bound, every one is taken for ours and refused.)
fn is_ours(ip: IpAddr) -> bool {
    UdpSocket::bind(SocketAddr::new(ip.to_canonical(), 0)).is_ok()
}

fn denial(error: &io::Error) -> Denial {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => Denial::Closed,
        io::ErrorKind::TimedOut => Denial::Silent,
        _ => Denial::Unreachable,
    }
}

/// Connections under way, by peer.
#[derive(Default)]
struct Busy(Mutex<(usize, HashMap<NodeId, usize>)>);

struct BusyGuard {
    busy: Arc<Busy>,
    peer: NodeId,
}

impl Busy {
    fn admit(self: &Arc<Self>, peer: NodeId, limits: &Limits) -> Option<BusyGuard> {
        let mut busy = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (in_all, by_peer) = &mut *busy;
        let own = by_peer.get(&peer).copied().unwrap_or_default();
        if *in_all >= limits.in_all || own >= limits.per_peer {
            return None;
        }
        *in_all += 1;
        by_peer.insert(peer, own + 1);
        Some(BusyGuard { busy: self.clone(), peer })
    }
}

impl Drop for BusyGuard {
    fn drop(&mut self) {
        let mut busy = self.busy.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (in_all, by_peer) = &mut *busy;
        *in_all -= 1;
        if let Some(own) = by_peer.get_mut(&self.peer) {
            *own -= 1;
            if *own == 0 {
                by_peer.remove(&self.peer);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;

    #[test]
    fn places_are_limited_by_peer_and_in_all_and_given_back() {
        let busy = Arc::new(Busy::default());
        let limits = Limits { per_peer: 2, in_all: 3, ..Limits::default() };
        let peer = |number: u8| NodeId::from_bytes([number; 32]);
        let mut held = vec![busy.admit(peer(1), &limits).unwrap(), busy.admit(peer(1), &limits).unwrap()];
        assert!(busy.admit(peer(1), &limits).is_none());
        held.push(busy.admit(peer(2), &limits).unwrap());
        assert!(busy.admit(peer(3), &limits).is_none());
        held.remove(0);
        held.push(busy.admit(peer(3), &limits).unwrap());
        drop(held);
        assert_eq!(*busy.0.lock().unwrap(), (0, HashMap::new()));
    }

    #[test]
    fn own_addresses_are_known() {
        assert!(is_ours(Ipv4Addr::LOCALHOST.into()));
        assert!(is_ours("::ffff:127.0.0.1".parse().unwrap()));
        assert!(!is_ours("192.0.2.1".parse().unwrap()));
        assert!(!is_ours("2001:db8::1".parse().unwrap()));
    }
}
