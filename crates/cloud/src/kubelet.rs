//! From an API server to the pods' nodes: `atoll/kubelet/1`.
//!
//! A stream begins with a frame that names the eVDC; what follows is what an API server and a kubelet say to each other ([`atoll_kubelet`]). Only the node
//! that serves the eVDC's API may open one: the link says who it is, the assignment who it must be. What the clients of the API may is the API server's to
//! say.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use atoll_apiserver::{NodeProxy, NodeStream};
use atoll_ids::{EvdcId, NodeId};
use atoll_kubelet::Kubelet;
use atoll_link::{BoxStream, LinkHandle};
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_util::sync::CancellationToken;

use crate::assignment::Assignments;
use crate::dial::{named, open_named};

/// The protocol's name.
pub const KUBELET_PROTOCOL: &str = "atoll/kubelet/1";

/// Bytes on their way between an API server and an agent of one process.
const LOCAL_BYTES: usize = 64 << 10;

/// The agents of this node that answer for their pods. Cheap to clone.
#[derive(Clone)]
pub struct Kubelets {
    inner: Arc<Inner>,
}

struct Inner {
    assignments: Assignments,
    running: Mutex<BTreeMap<EvdcId, (Kubelet, CancellationToken)>>,
}

impl Kubelets {
    /// None answers yet.
    pub fn new(assignments: Assignments) -> Self {
        Self { inner: Arc::new(Inner { assignments, running: Mutex::default() }) }
    }

    /// Lets the agent of an eVDC answer until `stop`.
    pub(crate) fn set(&self, evdc: EvdcId, kubelet: Kubelet, stop: CancellationToken) {
        let mut running = self.running();
        running.retain(|_, (_, stop)| !stop.is_cancelled());
        running.insert(evdc, (kubelet, stop));
    }

    /// Serves a stream of [`KUBELET_PROTOCOL`].
    pub async fn handle(&self, peer: NodeId, mut stream: BoxStream) {
        let evdc = match named(&mut stream).await {
            Ok(evdc) => evdc,
            Err(error) => return tracing::debug!(peer = %peer.short(), error, "a stream to this node's pods"),
        };
        let entitled = self.inner.assignments.get(&evdc).is_some_and(|it| it.membership.control == peer);
        if !entitled {
            return tracing::debug!(peer = %peer.short(), "a stream to this node's pods, from a node that does not serve their API");
        }
        self.serve(evdc, stream).await;
    }

    async fn serve<S>(&self, evdc: EvdcId, stream: S)
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let running = self.running().get(&evdc).cloned();
        let Some((kubelet, stop)) = running.filter(|(_, stop)| !stop.is_cancelled()) else {
            return tracing::debug!(evdc = %evdc.short(), "a stream to pods of an eVDC that has no agent here");
        };
        if let Err(error) = kubelet.serve(stream, stop).await {
            tracing::debug!(evdc = %evdc.short(), %error, "a stream to this node's pods ended");
        }
    }

    fn running(&self) -> MutexGuard<'_, BTreeMap<EvdcId, (Kubelet, CancellationToken)>> {
        self.inner.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The way of one eVDC's API server to its members.
pub(crate) struct ToMembers {
    pub(crate) evdc: EvdcId,
    pub(crate) assignments: Assignments,
    pub(crate) link: LinkHandle,
    pub(crate) local: Kubelets,
}

impl ToMembers {
    async fn open(&self, name: &str) -> Result<Box<dyn NodeStream>, String> {
        // As the eVDC is now: members come and go.
        let assigned = self.assignments.get(&self.evdc).ok_or("this node no longer serves this eVDC")?;
        let member = assigned.membership.members.iter().find(|member| member.name == name);
        let member = member.ok_or_else(|| format!("{name} is no member of this eVDC"))?;
        if member.node == assigned.member.node {
            let (ours, theirs) = tokio::io::duplex(LOCAL_BYTES);
            let (local, evdc) = (self.local.clone(), self.evdc);
            tokio::spawn(async move { local.serve(evdc, theirs).await });
            return Ok(Box::new(ours));
        }
        let opened = open_named(&self.link, member.node, KUBELET_PROTOCOL, self.evdc).await;
        opened.map(|stream| Box::new(stream) as Box<dyn NodeStream>)
    }
}

impl NodeProxy for ToMembers {
    fn open(&self, node: &str) -> BoxFuture<'_, Result<Box<dyn NodeStream>, String>> {
        let node = node.to_owned();
        async move { Self::open(self, &node).await }.boxed()
    }
}
