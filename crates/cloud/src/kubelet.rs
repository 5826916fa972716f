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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use atoll_ids::LeaseId;
    use atoll_keys::NodeKey;
    use atoll_kubelet::{Command, CommandIo, LogWish, Pods, Refusal};
    use atoll_kv::{Embedded, EmbeddedConfig};
    use atoll_lease::Member;
    use atoll_wire::write_frame;
    use bytes::Bytes;
    use futures_util::stream::BoxStream as Pieces;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpStream;

    use super::*;
    use crate::assignment::tests::{NOW, world};

    /// Has none, which is an answer.
    struct NoPods;

    impl Pods for NoPods {
        fn logs(&self, _: LogWish) -> BoxFuture<'_, Result<Pieces<'static, Result<Bytes, Refusal>>, Refusal>> {
            async { Err(Refusal::NotFound("no such pod".to_owned())) }.boxed()
        }

        fn exec(&self, _: Command, _: CommandIo) -> BoxFuture<'_, Result<i32, Refusal>> {
            async { Err(Refusal::NotFound("no such pod".to_owned())) }.boxed()
        }

        fn dial<'a>(&'a self, _: &'a str, _: &'a str, _: u16) -> BoxFuture<'a, Result<TcpStream, Refusal>> {
            async { Err(Refusal::NotFound("no such pod".to_owned())) }.boxed()
        }
    }

    /// What a node is answered that asks for a log, in an eVDC of this id.
    async fn asked(kubelets: &Kubelets, peer: NodeId, evdc: EvdcId) -> String {
        let (mut ours, theirs) = tokio::io::duplex(4096);
        let asking = async {
            // Whoever is not heard finds the stream closed.
            let _ = write_frame(&mut ours, evdc.as_bytes(), 16).await;
            let request = b"GET /containerLogs/a/b/c HTTP/1.1\r\nhost: node\r\nconnection: close\r\n\r\n";
            let _ = ours.write_all(request).await;
            let mut answer = String::new();
            ours.read_to_string(&mut answer).await.unwrap();
            answer
        };
        tokio::join!(kubelets.handle(peer, Box::new(theirs)), asking).1
    }

    #[tokio::test]
    async fn only_the_node_of_the_api_is_answered() {
        let dir = tempfile::tempdir().unwrap();
        let kv =
            Arc::new(Embedded::open(dir.path(), EmbeddedConfig { free_bytes_min: 0, ..Default::default() }).unwrap());
        let world = world();
        let mut draft = world.draft();
        let [control, other] = [2, 3].map(|number| Member {
            node: NodeKey::generate().id(),
            lease: LeaseId::from_bytes([number; 16]),
            name: format!("member-{number}"),
            subnet: number.into(),
        });
        draft.membership.control = control.node;
        draft.membership.members.extend([control.clone(), other.clone()]);
        let evdc = draft.membership.evdc;
        let assignments = Assignments::open(kv, world.node, NOW).await.unwrap();
        assignments.take(world.sign(&draft), NOW).await.unwrap();
        let kubelets = Kubelets::new(assignments);
        assert_eq!(asked(&kubelets, control.node, evdc).await, "", "no agent runs yet");
        let stop = CancellationToken::new();
        kubelets.set(evdc, Kubelet::new(Arc::new(NoPods)), stop.clone());
        let answer = asked(&kubelets, control.node, evdc).await;
        assert!(answer.starts_with("HTTP/1.1 404") && answer.contains("no such pod"), "{answer}");
        let (gateway, _) = draft.membership.gateway.clone().unwrap();
        for stranger in [other.node, draft.membership.home, gateway, world.node, NodeKey::generate().id()] {
            assert_eq!(asked(&kubelets, stranger, evdc).await, "");
        }
        assert_eq!(asked(&kubelets, control.node, EvdcId::from_bytes([9; 16])).await, "", "of another eVDC");
        stop.cancel();
        assert_eq!(asked(&kubelets, control.node, evdc).await, "", "the agent has ended");
    }
}
