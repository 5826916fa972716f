//! The seam between the engine and the places where shards live.
//!
//! A [`ShardHome`] keeps immutable, named byte strings for one owner: an atoll node spoken to over a stream
//! ([`ShardClient`](crate::ShardClient)), memory in tests ([`MemoryHome`](crate::testing::MemoryHome)). It does not
//! place, encode or authenticate anything: the caller decides which home gets which shard and checks every byte it gets
//! back under the owner's key.
//!
//! Invariants every implementation keeps:
//! - `put` completes only when the shard is durable at the home, and may be repeated: the same bytes under the same id are
//!   [`PutOutcome::AlreadyThere`], other bytes are [`HomeError::DifferentContent`] and change nothing.
//! - A returned future may be dropped at any time. What it asked for may or may not happen; nothing else is disturbed.
//! - No call waits for ever, but it may wait long (tens of seconds on a hung node): callers that care about latency hedge.
//!
//! Failures are [`HomeError`], one variant per thing a caller would do differently.

use std::time::Duration;

use atoll_ids::{ByteCount, NodeId, ShardId};
use bytes::Bytes;
use futures_util::future::BoxFuture;
use serde::{Deserialize, Serialize};
use thiserror::Error;

/// A place that keeps the shards of one owner.
pub trait ShardHome: Send + Sync {
    /// The node this home is on; names it in errors and in placement.
    fn node(&self) -> NodeId;

    /// Stores `data` as `id`; completes when it is durable there. Idempotent.
    ///
    /// # Errors
    /// Any [`HomeError`] except `NotFound` and `Rotten`.
    fn put(&self, id: ShardId, data: Bytes) -> BoxFuture<'_, Result<PutOutcome, HomeError>>;

    /// The bytes stored as `id`. The home has checked them against its own checksum; the caller still authenticates them.
    ///
    /// # Errors
    /// `NotFound`, `Rotten`, or what keeps the home from answering.
    fn get(&self, id: ShardId) -> BoxFuture<'_, Result<Bytes, HomeError>>;

    /// Removes `id`; succeeds also when there is no such shard, so it can be repeated.
    ///
    /// # Errors
    /// What keeps the home from answering.
    fn delete(&self, id: ShardId) -> BoxFuture<'_, Result<(), HomeError>>;

    /// The shards that follow `after` in the order of their ids, at most `limit`, possibly fewer. Only an empty page is
    /// the end.
    ///
    /// # Errors
    /// What keeps the home from answering.
    fn list(&self, after: Option<ShardId>, limit: usize) -> BoxFuture<'_, Result<Vec<ShardEntry>, HomeError>>;

    /// What this owner uses and may use here.
    ///
    /// # Errors
    /// What keeps the home from answering.
    fn stat(&self) -> BoxFuture<'_, Result<HomeStat, HomeError>>;

    /// Makes the home read the shard from its medium and check it, without sending it.
    ///
    /// # Errors
    /// `NotFound`, `Rotten`, or what keeps the home from answering.
    fn verify(&self, id: ShardId) -> BoxFuture<'_, Result<(), HomeError>>;

    /// What is known, without asking, about how well this home answers. Cheap; meant for hedging and for choosing spares.
    fn health(&self) -> Health;
}

/// How a put ended well.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PutOutcome {
    /// The shard was written.
    Stored,
    /// The same bytes were already there under this id.
    AlreadyThere,
}

/// One line of a listing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ShardEntry {
    /// The shard's id.
    pub id: ShardId,
    /// Its length in bytes.
    pub len: u32,
}

/// What an owner uses at a home.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HomeStat {
    /// Shards of this owner.
    pub shards: u64,
    /// Bytes of this owner's shards.
    pub used: ByteCount,
    /// The most this owner may use; `None` is no limit but the node's own capacity.
    pub quota: Option<ByteCount>,
    /// Bytes that the home could still take, whoever they are from.
    pub free: ByteCount,
}

/// What a client has observed of a home, without asking it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Health {
    /// At least one connection is up and was welcomed.
    pub connected: bool,
    /// Requests fail at once for this long, because the last attempts to connect failed.
    pub back_off: Option<Duration>,
    /// Requests sent and not answered.
    pub in_flight: usize,
    /// Requests not sent yet.
    pub queued: usize,
    /// While requests are in flight: how long nothing has moved in either direction. Zero otherwise.
    pub silent: Duration,
    /// Smoothed time from call to answer of gets (weight of a new sample 1/8); `None` before the first.
    pub get_latency: Option<Duration>,
    /// The same for puts, which include the home's flush to its medium.
    pub put_latency: Option<Duration>,
    /// Requests that ended in `Unreachable`, `TimedOut` or `Protocol` since the client was made.
    pub failures: u64,
    /// How many of those came since the last answer.
    pub failures_in_a_row: u64,
}

/// What a home refused for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Refusal {
    /// The grant is not valid: wrong signature, for another node, too early, expired. A new grant is needed.
    Grant,
    /// The owner's quota at this home is used up.
    Quota,
    /// The home has no space left for anyone.
    Full,
    /// The home does not store for this owner, or not this.
    Policy,
}

/// Why a home did not do what it was asked. Each variant is something a caller would treat differently.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum HomeError {
    /// No connection, or it broke before the answer. Try elsewhere, or here later; whether the request took effect is
    /// unknown.
    #[error("node {} cannot be reached: {text}", .node.short())]
    Unreachable {
        /// The node.
        node: NodeId,
        /// What went wrong.
        text: String,
    },
    /// The connection is up but nothing moved on it for too long. Try elsewhere; whether the request took effect is
    /// unknown.
    #[error("node {} did not answer: nothing moved for {} s", .node.short(), .after.as_secs())]
    TimedOut {
        /// The node.
        node: NodeId,
        /// How long it was silent.
        after: Duration,
    },
    /// The home will not do it; the same request will be refused again until something changes. Use another home.
    #[error("node {} refused: {text}", .node.short())]
    Refused {
        /// The node.
        node: NodeId,
        /// For what.
        why: Refusal,
        /// The home's words.
        text: String,
    },
    /// There is no such shard here.
    #[error("node {} does not have shard {id}", .node.short())]
    NotFound {
        /// The node.
        node: NodeId,
        /// The shard.
        id: ShardId,
    },
    /// The home has the shard, but what it reads from its medium no longer matches the checksum. Rebuild it from the
    /// others.
    #[error("shard {id} is rotten on node {}", .node.short())]
    Rotten {
        /// The node.
        node: NodeId,
        /// The shard.
        id: ShardId,
    },
    /// The home has other bytes under this id and keeps them. Ids are unique, so one of the two is a mistake.
    #[error("node {} already has different bytes as shard {id}", .node.short())]
    DifferentContent {
        /// The node.
        node: NodeId,
        /// The shard.
        id: ShardId,
    },
    /// The bytes were damaged between the caller and the home (checksum). Nothing was stored; put it again.
    #[error("shard {id} arrived damaged at node {}; send it again", .node.short())]
    Damaged {
        /// The node.
        node: NodeId,
        /// The shard.
        id: ShardId,
    },
    /// The shard is larger than the protocol carries. The caller's mistake; nothing was sent.
    #[error("shard of {len} bytes for node {} is over the limit of {max_bytes} bytes", .node.short())]
    TooLarge {
        /// The node.
        node: NodeId,
        /// Its length in bytes.
        len: usize,
        /// The most a shard may have.
        max_bytes: usize,
    },
    /// The home tried and failed, for instance its disk reported an error. Use another home.
    #[error("node {} failed: {text}", .node.short())]
    Failed {
        /// The node.
        node: NodeId,
        /// The home's words.
        text: String,
    },
    /// The peer does not keep to the protocol. The connection was cut; the peer is broken or hostile.
    #[error("node {} broke the shard protocol: {text}", .node.short())]
    Protocol {
        /// The node.
        node: NodeId,
        /// What it did.
        text: String,
    },
}

impl HomeError {
    /// The node the error is about.
    #[must_use]
    pub fn node(&self) -> NodeId {
        match self {
            Self::Unreachable { node, .. }
            | Self::TimedOut { node, .. }
            | Self::Refused { node, .. }
            | Self::NotFound { node, .. }
            | Self::Rotten { node, .. }
            | Self::DifferentContent { node, .. }
            | Self::Damaged { node, .. }
            | Self::TooLarge { node, .. }
            | Self::Failed { node, .. }
            | Self::Protocol { node, .. } => *node,
        }
    }

    /// Whether the same request to the same home may succeed later without anyone doing anything.
    #[must_use]
    pub fn is_temporary(&self) -> bool {
        matches!(self, Self::Unreachable { .. } | Self::TimedOut { .. } | Self::Damaged { .. })
    }

    /// Whether the home is silent or misbehaving, as opposed to having given a clear answer.
    #[must_use]
    pub fn is_no_answer(&self) -> bool {
        matches!(self, Self::Unreachable { .. } | Self::TimedOut { .. } | Self::Protocol { .. })
    }
}
