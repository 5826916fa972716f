//! From a target to a connection: which node it is or which one takes it, a stream to that node, and its answer.

use std::collections::HashMap;
use std::io;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::task::{Context, Poll};
use std::time::Duration;

use atoll_ids::NodeId;
use atoll_link::{BoxStream, LinkHandle, OpenError, Traffic};
use atoll_wire::{decode, encode, read_frame, write_frame};
use futures_util::future::BoxFuture;
use hyper::StatusCode;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _, ReadBuf};
use tokio::time::timeout;

use crate::counts::{Counts, OpenGuard};
use crate::route::Routes;
use crate::serve::{Here, connect_here};
use crate::socks::Reply;
use crate::splice::{Motion, Watched};
use crate::target::Target;
use crate::wire::{Denial, DialAnswer, DialRequest, FRAME_BYTES_MAX, PROTOCOL, Place, Protocol};

/// A peer looks a name up within five seconds and connects within ten; the rest is the way there and back.
const ANSWER_WITHIN: Duration = Duration::from_secs(20);

/// Lanes at once to one peer. It takes 64 from a node, and they are wanted for shards; what comes beyond this goes over QUIC, whose streams share one
/// connection.
const LANES_MAX: usize = 16;

/// Why a name stands for no node.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// Nobody known here is called so.
    #[error("no node known here is called {name}")]
    Unknown {
        /// The name.
        name: String,
    },
    /// Several are.
    #[error("{nodes} nodes are called {name}; name one by its id")]
    Ambiguous {
        /// The name.
        name: String,
        /// How many.
        nodes: usize,
    },
    /// It could not be found out.
    #[error("{name} could not be looked up: {reason}")]
    Failed {
        /// The name.
        name: String,
        /// Why not.
        reason: String,
    },
}

/// Says which node a name that ends in `.atoll` stands for. Names come in lower case, without a dot at their end.
pub trait Resolve: Send + Sync + 'static {
    /// The node.
    fn resolve(&self, name: &str) -> BoxFuture<'static, Result<NodeId, NameError>>;
}

impl<F> Resolve for F
where
    F: Fn(&str) -> BoxFuture<'static, Result<NodeId, NameError>> + Send + Sync + 'static,
{
    fn resolve(&self, name: &str) -> BoxFuture<'static, Result<NodeId, NameError>> {
        self(name)
    }
}

/// Why there is no connection to a target.
#[derive(Debug, thiserror::Error)]
pub enum ReachError {
    /// A planetary address of nobody.
    #[error("{address} is the address of no node known here: join it with a ticket")]
    UnknownAddress {
        /// The address.
        address: String,
    },
    /// A name that stands for no node.
    #[error(transparent)]
    Name(#[from] NameError),
    /// Outside the planetary network, and no node takes it.
    #[error(
        "{target} lies outside the planetary network, and no exit is set for it (setting network.exit_via, or `atoll net proxy --exit NODE`)"
    )]
    NoExit {
        /// What was asked for.
        target: String,
    },
    /// The exit that is set is this node.
    #[error("the exit for {target} is this node itself")]
    OwnExit {
        /// What was asked for.
        target: String,
    },
    /// There is no stream to the node.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The node does not connect.
    #[error("{target} port {port} is not reached through node {}: {denial}", node.short())]
    Denied {
        /// What was asked for.
        target: String,
        /// Which port.
        port: u16,
        /// Who was asked.
        node: NodeId,
        /// Its answer.
        denial: Denial,
    },
    /// The node gave no answer that is one.
    #[error("node {} did not say whether it connects: {reason}", node.short())]
    NoAnswer {
        /// Who was asked.
        node: NodeId,
        /// What happened.
        reason: String,
    },
    /// A port of this node's own does not answer.
    #[error("port {port} of this node: {source}")]
    Here {
        /// Which port.
        port: u16,
        /// What the system says.
        source: io::Error,
    },
}

impl ReachError {
    /// The nearest code of SOCKS.
    pub(crate) fn reply(&self) -> Reply {
        match self {
            Self::NoExit { .. } | Self::OwnExit { .. } => Reply::NotAllowed,
            Self::UnknownAddress { .. } | Self::Name(_) | Self::Open(_) => Reply::HostUnreachable,
            Self::Here { .. } => Reply::Refused,
            Self::NoAnswer { .. } => Reply::Failure,
            Self::Denied { denial, .. } => match denial {
                Denial::NotAllowed => Reply::NotAllowed,
                Denial::Closed => Reply::Refused,
                Denial::Unreachable => Reply::NetworkUnreachable,
                Denial::NoSuchName => Reply::HostUnreachable,
                Denial::Silent => Reply::Expired,
                Denial::TooMany | Denial::NotNow => Reply::Failure,
            },
        }
    }

    /// The nearest status of HTTP (RFC 9110, section 15).
    pub(crate) fn status(&self) -> StatusCode {
        match self {
            Self::NoExit { .. } | Self::OwnExit { .. } | Self::Denied { denial: Denial::NotAllowed, .. } => {
                StatusCode::FORBIDDEN
            }
            Self::Denied { denial: Denial::Silent, .. } => StatusCode::GATEWAY_TIMEOUT,
            Self::Denied { denial: Denial::TooMany | Denial::NotNow, .. } => StatusCode::SERVICE_UNAVAILABLE,
            _ => StatusCode::BAD_GATEWAY,
        }
    }
}

/// Opens connections to targets. Cheap to clone.
#[derive(Clone)]
pub struct Reacher(Arc<Inner>);

struct Inner {
    link: LinkHandle,
    names: Arc<dyn Resolve>,
    /// Where this node's own programs are.
    here: Box<dyn Fn() -> Here + Send + Sync>,
    routes: RwLock<Routes>,
    lanes: Arc<Lanes>,
    counts: Counts,
}

impl Reacher {
    /// Reaches over `link`. `here` says where this node's own programs are reached.
    pub fn new(
        link: LinkHandle,
        names: Arc<dyn Resolve>,
        here: impl Fn() -> Here + Send + Sync + 'static,
        routes: Routes,
    ) -> Self {
        let inner = Inner {
            link,
            names,
            here: Box::new(here),
            routes: RwLock::new(routes),
            lanes: Arc::default(),
            counts: Counts::default(),
        };
        Self(Arc::new(inner))
    }

    /// What went through.
    #[must_use]
    pub fn counts(&self) -> &Counts {
        &self.0.counts
    }

    /// Which nodes take what lies outside.
    #[must_use]
    pub fn routes(&self) -> Routes {
        self.0.routes.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Replaces them for what comes from now on.
    pub fn set_routes(&self, routes: Routes) {
        *self.0.routes.write().unwrap_or_else(PoisonError::into_inner) = routes;
    }

    /// Connects to a port of a target. What is given is a connection to the program there.
    ///
    /// # Errors
    /// [`ReachError`].
    pub async fn open(&self, target: &Target, port: u16) -> Result<Reached, ReachError> {
        let opened = self.try_open(target, port).await;
        if let Err(error) = &opened {
            self.0.counts.denied();
            tracing::debug!(%target, port, %error, "not reached");
        }
        opened
    }

    async fn try_open(&self, target: &Target, port: u16) -> Result<Reached, ReachError> {
        let (node, place) = self.way(target).await?;
        if node == self.0.link.node_id() {
            if place != Place::Here {
                return Err(ReachError::OwnExit { target: target.to_string() });
            }
            let connected = timeout(ANSWER_WITHIN, connect_here(&(self.0.here)(), port)).await;
            let connected = connected.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
            let local = connected.map_err(|source| ReachError::Here { port, source })?;
            return Ok(self.reached(Box::new(local), None));
        }
        let lane = self.0.lanes.take(node);
        let traffic = if lane.is_some() { Traffic::Bulk } else { Traffic::Control };
        let mut stream = self.0.link.open(node, PROTOCOL, traffic).await?;
        let request = DialRequest { place, port, protocol: Protocol::Tcp };
        let answer = timeout(ANSWER_WITHIN, ask(&mut stream, &request)).await;
        let answer = answer.unwrap_or_else(|_| Err(format!("nothing came within {} s", ANSWER_WITHIN.as_secs())));
        match answer.map_err(|reason| ReachError::NoAnswer { node, reason })? {
            DialAnswer::Connected => Ok(self.reached(stream, lane)),
            DialAnswer::Denied(denial) => {
                // It is about to close as well; how that goes no longer matters.
                let _: io::Result<()> = stream.shutdown().await;
                Err(ReachError::Denied { target: target.to_string(), port, node, denial })
            }
        }
    }

    fn reached(&self, stream: BoxStream, lane: Option<LaneGuard>) -> Reached {
        let counts = &self.0.counts;
        Reached { stream: Watched::new(stream, counts.clone()), _lane: lane, _open: counts.connected() }
    }

    /// Which node to ask, and for what.
    async fn way(&self, target: &Target) -> Result<(NodeId, Place), ReachError> {
        let exit = |exit: Option<NodeId>| exit.ok_or_else(|| ReachError::NoExit { target: target.to_string() });
        match target {
            Target::Node(node) => Ok((*node, Place::Here)),
            Target::Named(name) => Ok((self.0.names.resolve(name).await?, Place::Here)),
            Target::Planetary(address) => {
                let own = self.0.link.node_id();
                let known = self.0.link.peers().into_iter().map(|peer| peer.id).chain([own]);
                let mut known = known.filter(|node| node.planetary_address() == *address);
                let node = known.next().ok_or_else(|| ReachError::UnknownAddress { address: address.to_string() })?;
                Ok((node, Place::Here))
            }
            Target::Address(ip) => {
                let node = exit(self.routes().for_address(*ip))?;
                Ok((node, Place::Address(IpAddr::to_canonical(ip))))
            }
            Target::Outside(name) => Ok((exit(self.routes().for_name(name))?, Place::Name(name.clone()))),
        }
    }
}

async fn ask(stream: &mut BoxStream, request: &DialRequest) -> Result<DialAnswer, String> {
    let exchange = async {
        write_frame(stream, &encode(request), FRAME_BYTES_MAX).await?;
        stream.flush().await?;
        read_frame(stream, FRAME_BYTES_MAX).await
    };
    let frame = exchange.await.map_err(|error| error.to_string())?;
    decode(&frame.ok_or("it closed the stream")?).map_err(|error| error.to_string())
}

/// Lanes in use, by peer.
#[derive(Default)]
struct Lanes(Mutex<HashMap<NodeId, usize>>);

struct LaneGuard {
    lanes: Arc<Lanes>,
    node: NodeId,
}

impl Lanes {
    fn take(self: &Arc<Self>, node: NodeId) -> Option<LaneGuard> {
        let mut lanes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let count = lanes.entry(node).or_default();
        if *count >= LANES_MAX {
            return None;
        }
        *count += 1;
        Some(LaneGuard { lanes: self.clone(), node })
    }
}

impl Drop for LaneGuard {
    fn drop(&mut self) {
        let mut lanes = self.lanes.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = lanes.get_mut(&self.node) {
            *count -= 1;
            if *count == 0 {
                lanes.remove(&self.node);
            }
        }
    }
}

/// A connection to a program elsewhere. Dropped without `shutdown`, it is reset there.
pub struct Reached {
    stream: Watched<BoxStream>,
    _lane: Option<LaneGuard>,
    _open: OpenGuard,
}

impl Reached {
    pub(crate) fn motion(&self) -> Motion {
        self.stream.motion()
    }
}

impl AsyncRead for Reached {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, sink: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, sink)
    }
}

impl AsyncWrite for Reached {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
