//! The gateway's inner side: sessions of the nodes that have dialled in, and connections to their replicas.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use atoll_ids::NodeId;
use atoll_wire::{decode, encode, read_frame, write_frame};
use thiserror::Error;
use tokio::io::{AsyncWriteExt as _, WriteHalf};
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

use crate::BoxStream;
use crate::claim::Claim;
use crate::names::Names;
use crate::table::{Choice, PathKind, ReplicaKey, Route, Table};
use crate::wire::{CLAIMS_MAX, FRAME_BYTES_MAX, FromGateway, Opening, Outcome, ROUTES_MAX, Token, Update};

/// A session that says nothing for this long is over, and its replicas are not chosen any more. Nodes say something every third of it, so one lost
/// packet does not end a session, and a dead node is left within six seconds.
pub(crate) const SILENCE_MAX: Duration = Duration::from_secs(6);

/// A stream that was opened says what it is within this.
const OPENING_WITHIN: Duration = Duration::from_secs(5);

/// A node answers a wish for a connection within this: a round trip, and a connection within the node.
const CONNECT_WITHIN: Duration = Duration::from_secs(5);

/// Messages to a node that it has not taken. Each is a wish for a connection; a node that is this far behind is not answering.
const OUTBOX_MESSAGES: usize = 256;

/// Sessions at once: one per node with replicas.
const SESSIONS_MAX: usize = 1024;

/// What the gateway must know of itself.
pub struct GatewayConfig {
    /// The node it runs on: claims are for it.
    pub node: NodeId,
    /// The names that it gives.
    pub names: Names,
}

/// Counters since the start.
#[derive(Debug, Default)]
pub struct Stats {
    /// Requests that came.
    pub requests: AtomicU64,
    /// Requests answered by the gateway itself with 5xx.
    pub failed: AtomicU64,
    /// Requests sent to a second replica.
    pub retried: AtomicU64,
}

/// One rule, for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RouteStatus {
    /// The host.
    pub host: String,
    /// The path.
    pub path: String,
    /// How the path is compared.
    pub kind: PathKind,
    /// Replicas that answer now.
    pub replicas: usize,
}

/// Why there is no connection to a replica.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub(crate) enum ConnectError {
    #[error("its node is not connected")]
    Gone,
    #[error("its node does not answer")]
    Late,
    #[error("{0}")]
    Failed(String),
}

/// The gateway. Cheap to clone.
#[derive(Clone)]
pub struct Gateway {
    inner: Arc<Inner>,
}

struct Inner {
    config: GatewayConfig,
    table: Mutex<Table>,
    sessions: Mutex<HashMap<u64, Session>>,
    next: AtomicU64,
    stats: Stats,
}

type Connected = Result<BoxStream, ConnectError>;

struct Session {
    peer: NodeId,
    token: Token,
    outbox: mpsc::Sender<FromGateway>,
    pending: HashMap<u64, oneshot::Sender<Connected>>,
}

impl Gateway {
    /// A gateway without sessions.
    #[must_use]
    pub fn new(config: GatewayConfig) -> Self {
        let (table, sessions, next, stats) = <(_, _, AtomicU64, _)>::default();
        Self { inner: Arc::new(Inner { config, table, sessions, next, stats }) }
    }

    /// Serves a stream that the authenticated `peer` dialled for [`PROTOCOL`](crate::PROTOCOL), until it ends.
    pub async fn handle(&self, peer: NodeId, mut stream: BoxStream) {
        let opening = match timeout(OPENING_WITHIN, read_frame(&mut stream, FRAME_BYTES_MAX)).await {
            Ok(Ok(Some(frame))) => decode(&frame),
            _ => return,
        };
        match opening {
            Ok(Opening::Session) => self.session(peer, stream).await,
            Ok(Opening::Data { token, ticket }) => self.data(peer, token, ticket, stream).await,
            Err(error) => tracing::debug!(peer = %peer.short(), %error, "a stream to the gateway was not understood"),
        }
    }

    async fn session(&self, peer: NodeId, stream: BoxStream) {
        let mut token = Token::default();
        if getrandom::fill(&mut token).is_err() {
            tracing::error!("the system gives no random bytes");
            return;
        }
        let id = self.inner.next.fetch_add(1, Ordering::Relaxed);
        let (outbox, messages) = mpsc::channel(OUTBOX_MESSAGES);
        {
            let mut sessions = self.sessions();
            if sessions.len() >= SESSIONS_MAX {
                tracing::warn!(peer = %peer.short(), "a node was turned away: there are {SESSIONS_MAX} sessions already");
                return;
            }
            sessions.insert(id, Session { peer, token, outbox: outbox.clone(), pending: HashMap::new() });
        }
        let (mut incoming, outgoing) = tokio::io::split(stream);
        let writer = tokio::spawn(write(outgoing, token, messages));
        tracing::info!(peer = %peer.short(), session = id, "a node with replicas dialled in");
        let mut taken = Taken::default();
        while let Ok(Ok(Some(frame))) = timeout(SILENCE_MAX, read_frame(&mut incoming, FRAME_BYTES_MAX)).await {
            if taken.bytes == frame {
                continue;
            }
            let Ok(update) = decode::<Update>(&frame) else { break };
            if update.routes.len() > ROUTES_MAX || update.claims.len() > CLAIMS_MAX {
                break;
            }
            let (routes, refused) = self.entitled(peer, update, &mut taken.hosts).await;
            // What was refused may be granted the next time: another tenant's name can become free.
            taken.bytes = if refused.is_empty() { frame } else { bytes::Bytes::new() };
            self.table().set(id, &routes);
            if outbox.try_send(FromGateway::Taken { refused }).is_err() {
                break;
            }
        }
        tracing::info!(peer = %peer.short(), session = id, "a session ended");
        self.table().set(id, &[]);
        self.sessions().remove(&id);
        writer.abort();
    }

    /// The routes whose names the peer may answer for, and the others with the reason.
    async fn entitled(
        &self,
        peer: NodeId,
        update: Update,
        known: &mut HashSet<String>,
    ) -> (Vec<Route>, Vec<(String, String)>) {
        let Inner { config, .. } = &*self.inner;
        let mut refused = Vec::new();
        let mut claims = Vec::new();
        for signed in &update.claims {
            match Claim::check(signed, peer, config.node, now()) {
                Ok(claim) => claims.push(claim),
                Err(error) => refused.push(("*".to_owned(), error.to_string())),
            }
        }
        let mut routes = Vec::new();
        for route in update.routes {
            let Some(claim) = claims.iter().find(|claim| claim.covers(&route.host)) else {
                refused.push((route.host, "no claim of the node's covers this name".into()));
                continue;
            };
            // The owner is part of the key: a name known for one tenant says nothing of another.
            let key = format!("{} {}", claim.tenant, route.host);
            if !known.contains(&key) {
                if let Err(error) = config.names.take(&route.host, claim.tenant).await {
                    refused.push((route.host, error.to_string()));
                    continue;
                }
                known.insert(key);
            }
            routes.push(route);
        }
        refused.sort();
        refused.dedup();
        refused.truncate(CLAIMS_MAX);
        (routes, refused)
    }

    async fn data(&self, peer: NodeId, token: Token, ticket: u64, mut stream: BoxStream) {
        let waiting = {
            let mut sessions = self.sessions();
            let session = sessions.values_mut().find(|session| session.token == token && session.peer == peer);
            session.and_then(|session| session.pending.remove(&ticket))
        };
        let Some(waiting) = waiting else {
            tracing::debug!(peer = %peer.short(), ticket, "a data stream that nobody waits for");
            return;
        };
        let outcome = match timeout(CONNECT_WITHIN, read_frame(&mut stream, FRAME_BYTES_MAX)).await {
            Ok(Ok(Some(frame))) => decode::<Outcome>(&frame).map_err(|error| ConnectError::Failed(error.to_string())),
            _ => Err(ConnectError::Gone),
        };
        let connected = match outcome {
            Ok(Outcome::Connected) => Ok(stream),
            Ok(Outcome::Failed(why)) => Err(ConnectError::Failed(why.chars().take(200).collect())),
            Err(error) => Err(error),
        };
        // Whoever waited may have gone; then the stream is dropped.
        let _: Result<(), Connected> = waiting.send(connected);
    }

    /// A connection to a replica, over a stream that its node dials for it.
    pub(crate) async fn connect(&self, key: ReplicaKey) -> Connected {
        let (sender, receiver) = oneshot::channel();
        let ticket = self.inner.next.fetch_add(1, Ordering::Relaxed);
        {
            let mut sessions = self.sessions();
            let session = sessions.get_mut(&key.0).ok_or(ConnectError::Gone)?;
            session.outbox.try_send(FromGateway::Connect { ticket, replica: key.1 }).map_err(|_| ConnectError::Late)?;
            session.pending.insert(ticket, sender);
        }
        match timeout(CONNECT_WITHIN, receiver).await {
            Ok(Ok(connected)) => connected,
            Ok(Err(_)) => Err(ConnectError::Gone),
            Err(_) => {
                if let Some(session) = self.sessions().get_mut(&key.0) {
                    session.pending.remove(&ticket);
                }
                Err(ConnectError::Late)
            }
        }
    }

    pub(crate) fn choose(&self, host: &str, path: &str, tried: &[ReplicaKey]) -> Choice {
        self.table().choose(host, path, tried)
    }

    pub(crate) fn done(&self, key: ReplicaKey) {
        self.table().done(key);
    }

    /// Whether any replica answers for this host (lower case).
    #[must_use]
    pub fn knows(&self, host: &str) -> bool {
        self.table().knows(host)
    }

    /// The rules that are answered now.
    #[must_use]
    pub fn routes(&self) -> Vec<RouteStatus> {
        let rules = self.table().rules();
        rules.into_iter().map(|(host, path, kind, replicas)| RouteStatus { host, path, kind, replicas }).collect()
    }

    /// The nodes that have dialled in.
    #[must_use]
    pub fn nodes(&self) -> Vec<NodeId> {
        self.sessions().values().map(|session| session.peer).collect()
    }

    /// Counters since the start.
    #[must_use]
    pub fn stats(&self) -> &Stats {
        &self.inner.stats
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.inner.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn sessions(&self) -> MutexGuard<'_, HashMap<u64, Session>> {
        self.inner.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a session said last, and the names that were found to be its tenants'.
#[derive(Default)]
struct Taken {
    bytes: bytes::Bytes,
    hosts: HashSet<String>,
}

async fn write(mut outgoing: WriteHalf<BoxStream>, token: Token, mut messages: mpsc::Receiver<FromGateway>) {
    let mut next = Some(FromGateway::Welcome { token });
    while let Some(message) = next {
        let written = async {
            write_frame(&mut outgoing, &encode(&message), FRAME_BYTES_MAX).await.map_err(|_| ())?;
            outgoing.flush().await.map_err(|_| ())
        };
        if written.await.is_err() {
            return;
        }
        next = messages.recv().await;
    }
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
