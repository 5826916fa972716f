//! A home on another node: requests of many callers, pipelined over one connection or a few.
//!
//! A connection is opened when the first request needs it, kept while it is used, and closed after a while without
//! requests. Callers put requests in a queue, bounded by number and bytes; a task per connection sends them in order
//! and hands out answers as they come. There is no timeout per request: callers that cannot wait ask elsewhere and drop
//! the future. What fails a request is
//!
//! - the connection: broken (`Unreachable`) or silent for [`STALL_LIMIT`](crate::limits::STALL_LIMIT) with requests
//!   pending (`TimedOut`). What was sent fails; what was only queued goes over a new connection. If that cannot be had,
//!   it fails, and so does at once every request until the back-off is over;
//! - the server: refusals and errors about the shard; the connection goes on;
//! - the peer breaking the protocol: the connection is cut, everything pending fails with `Protocol`.
//!
//! A dropped future leaves no trace if its request was still queued; if it was sent, its answer is discarded when it comes.

mod connection;
mod meter;
mod slot;

use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, PoisonError};

use atoll_ids::{NodeId, ShardId};
use atoll_keys::Signed;
use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use self::meter::Meter;
use self::slot::{Slot, Standing};
use crate::crc64;
use crate::dial::Dial;
use crate::grant::StorageGrant;
use crate::home::{Health, HomeError, HomeStat, PutOutcome, ShardEntry, ShardHome};
use crate::limits::{CONNECTIONS_MAX, LIST_ENTRIES_MAX, QUEUE_BYTES_MAX, QUEUE_REQUESTS_MAX, SHARD_BYTES_MAX};
use crate::protocol::{Answer, Kind, ProtocolError, Request};

/// The shards of one owner at one node. Methods must be called within a tokio runtime. Dropping it closes its connections.
pub struct ShardClient {
    shared: Arc<Shared>,
}

/// What the client and its connection tasks have in common.
struct Shared {
    node: NodeId,
    dial: Arc<dyn Dial>,
    grant: Mutex<Signed<StorageGrant>>,
    slots: Vec<Slot>,
    queue_requests: Arc<Semaphore>,
    queue_bytes: Arc<Semaphore>,
    meter: Meter,
    closed: CancellationToken,
}

/// Room in the queue, given back when the request was written or will not be.
struct Room {
    _request: OwnedSemaphorePermit,
    _bytes: OwnedSemaphorePermit,
}

impl Shared {
    fn grant(&self) -> Signed<StorageGrant> {
        self.grant.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn unreachable(&self, text: impl ToString) -> HomeError {
        HomeError::Unreachable { node: self.node, text: text.to_string() }
    }

    fn broken_protocol(&self, what: impl ToString) -> HomeError {
        HomeError::Protocol { node: self.node, text: what.to_string() }
    }

    /// The least busy connection that is not in back-off; if all are, why.
    fn choose(&self) -> Result<usize, HomeError> {
        let mut best: Option<(usize, usize)> = None;
        let mut failure = None;
        for (index, slot) in self.slots.iter().enumerate() {
            match slot.standing() {
                Standing::Open { load } if best.is_none_or(|(least, _)| load < least) => best = Some((load, index)),
                Standing::Open { .. } => {}
                Standing::BackOff { error, .. } => failure = failure.or(Some(error)),
            }
        }
        match (best, failure) {
            (Some((_, index)), _) => Ok(index),
            (None, Some(error)) => Err(error),
            (None, None) => Err(self.unreachable("the client has no connections")),
        }
    }
}

impl ShardClient {
    /// A client for the shards of the grant's owner at `node`, over one connection that `dial` opens when it is needed.
    #[must_use]
    pub fn new(node: NodeId, dial: Arc<dyn Dial>, grant: Signed<StorageGrant>) -> Self {
        Self::with_connections(node, dial, grant, NonZeroUsize::MIN)
    }

    /// Like [`new`](Self::new), over up to `connections` connections ([`CONNECTIONS_MAX`] at most); a further one is
    /// opened when all others have unanswered requests.
    #[must_use]
    pub fn with_connections(
        node: NodeId,
        dial: Arc<dyn Dial>,
        grant: Signed<StorageGrant>,
        connections: NonZeroUsize,
    ) -> Self {
        let shared = Shared {
            node,
            dial,
            grant: Mutex::new(grant),
            slots: (0..connections.get().min(CONNECTIONS_MAX)).map(|_| Slot::new()).collect(),
            queue_requests: Arc::new(Semaphore::new(QUEUE_REQUESTS_MAX)),
            queue_bytes: Arc::new(Semaphore::new(QUEUE_BYTES_MAX)),
            meter: Meter::default(),
            closed: CancellationToken::new(),
        };
        Self { shared: Arc::new(shared) }
    }

    /// Uses a new grant from the next connection on, and ends any back-off: it may have been the grant.
    pub fn renew(&self, grant: Signed<StorageGrant>) {
        *self.shared.grant.lock().unwrap_or_else(PoisonError::into_inner) = grant;
        self.shared.slots.iter().for_each(Slot::end_back_off);
    }

    /// Asks the node to answer, and returns when it does.
    ///
    /// # Errors
    /// What keeps the node from answering.
    pub async fn ping(&self) -> Result<(), HomeError> {
        match self.call(Request::Ping).await? {
            Answer::Pong => Ok(()),
            other => Err(self.mismatch(Kind::Ping, &other)),
        }
    }

    /// Sends a request and returns its answer, which fits it.
    async fn call(&self, request: Request) -> Result<Answer, HomeError> {
        let kind = request.kind();
        let start = Instant::now();
        let result = self.exchange(request).await;
        self.shared.meter.record(kind, start.elapsed(), &result);
        result
    }

    async fn exchange(&self, request: Request) -> Result<Answer, HomeError> {
        let shared = &self.shared;
        // In back-off: fail before waiting for room that others hold.
        shared.choose()?;
        let room = self.room(request.payload().len()).await?;
        let (answer, receiver) = oneshot::channel();
        let index = shared.choose()?;
        let slot = &shared.slots[index];
        let (ticket, start) = slot.push(request, answer, room);
        if let Some(attempt) = start {
            tokio::spawn(connection::run(Arc::clone(shared), index, attempt));
        }
        let mut unsent = Unsent { slot, ticket: Some(ticket) };
        let result = receiver.await.unwrap_or_else(|_| Err(shared.unreachable("its client was closed")));
        unsent.ticket = None;
        result
    }

    async fn room(&self, payload_bytes: usize) -> Result<Room, HomeError> {
        if payload_bytes > SHARD_BYTES_MAX {
            let node = self.shared.node;
            return Err(HomeError::TooLarge { node, len: payload_bytes, max_bytes: SHARD_BYTES_MAX });
        }
        let closed = |_| self.shared.unreachable("its client was closed");
        let bytes = u32::try_from(payload_bytes).expect("checked above");
        let bytes = Arc::clone(&self.shared.queue_bytes).acquire_many_owned(bytes).await.map_err(closed)?;
        let request = Arc::clone(&self.shared.queue_requests).acquire_owned().await.map_err(closed)?;
        Ok(Room { _request: request, _bytes: bytes })
    }

    /// The connection lets only fitting answers through, so this is for the compiler more than for people.
    fn mismatch(&self, asked: Kind, answer: &Answer) -> HomeError {
        self.shared.broken_protocol(ProtocolError::Mismatch { asked, got: answer.kind() })
    }
}

impl Drop for ShardClient {
    fn drop(&mut self) {
        self.shared.closed.cancel();
    }
}

impl std::fmt::Debug for ShardClient {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ShardClient").field("node", &self.shared.node).finish_non_exhaustive()
    }
}

/// Takes a request out of the queue again if its caller loses interest before it was sent.
struct Unsent<'a> {
    slot: &'a Slot,
    ticket: Option<u64>,
}

impl Drop for Unsent<'_> {
    fn drop(&mut self) {
        if let Some(ticket) = self.ticket {
            self.slot.withdraw(ticket);
        }
    }
}

impl ShardHome for ShardClient {
    fn node(&self) -> NodeId {
        self.shared.node
    }

    fn put(&self, id: ShardId, data: Bytes) -> BoxFuture<'_, Result<PutOutcome, HomeError>> {
        async move {
            let request = Request::Put { id, crc: crc64(&data), payload: data };
            match self.call(request).await? {
                Answer::Stored(outcome) => Ok(outcome),
                other => Err(self.mismatch(Kind::Put, &other)),
            }
        }
        .boxed()
    }

    fn get(&self, id: ShardId) -> BoxFuture<'_, Result<Bytes, HomeError>> {
        async move {
            match self.call(Request::Get(id)).await? {
                Answer::Shard(data) => Ok(data),
                other => Err(self.mismatch(Kind::Get, &other)),
            }
        }
        .boxed()
    }

    fn delete(&self, id: ShardId) -> BoxFuture<'_, Result<(), HomeError>> {
        async move {
            match self.call(Request::Delete(id)).await? {
                Answer::Deleted => Ok(()),
                other => Err(self.mismatch(Kind::Delete, &other)),
            }
        }
        .boxed()
    }

    fn list(&self, after: Option<ShardId>, limit: usize) -> BoxFuture<'_, Result<Vec<ShardEntry>, HomeError>> {
        async move {
            let limit = limit.min(LIST_ENTRIES_MAX);
            let request = Request::List { after, limit: u32::try_from(limit).expect("at most 4096") };
            match self.call(request).await? {
                Answer::Listing(page) => Ok(page),
                other => Err(self.mismatch(Kind::List, &other)),
            }
        }
        .boxed()
    }

    fn stat(&self) -> BoxFuture<'_, Result<HomeStat, HomeError>> {
        async move {
            match self.call(Request::Stat).await? {
                Answer::Stats(stat) => Ok(stat),
                other => Err(self.mismatch(Kind::Stat, &other)),
            }
        }
        .boxed()
    }

    fn verify(&self, id: ShardId) -> BoxFuture<'_, Result<(), HomeError>> {
        async move {
            match self.call(Request::Verify(id)).await? {
                Answer::Verified => Ok(()),
                other => Err(self.mismatch(Kind::Verify, &other)),
            }
        }
        .boxed()
    }

    fn health(&self) -> Health {
        let mut health = self.shared.meter.health();
        let mut back_off = None;
        let mut all_back_off = true;
        for slot in &self.shared.slots {
            slot.add_to(&mut health);
            match slot.standing() {
                Standing::Open { .. } => all_back_off = false,
                Standing::BackOff { remaining, .. } => {
                    back_off = Some(back_off.map_or(remaining, |least| remaining.min(least)));
                }
            }
        }
        health.back_off = back_off.filter(|_| all_back_off);
        health
    }
}
