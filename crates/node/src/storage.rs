//! The storage role: shards on this machine's disk, served to peers, and used by this node's own engine without a network.

use std::sync::Arc;
use std::time::Duration;

use atoll_control::StorageStatus;
use atoll_ids::{ByteCount, NodeId, OwnerId, ShardId};
use atoll_segments::{DeleteError, GetError, PutError, Segments};
use atoll_shard::{Health, HomeError, HomeStat, PutOutcome, Refusal, ShardEntry, ShardHome};
use bytes::Bytes;
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;

/// This node's own segments as a home for its owner's shards.
pub(crate) struct LocalHome {
    node: NodeId,
    owner: OwnerId,
    segments: Segments,
}

impl LocalHome {
    /// The namespace of `owner` in `segments`.
    pub(crate) fn new(node: NodeId, owner: OwnerId, segments: Segments) -> Arc<Self> {
        Arc::new(Self { node, owner, segments })
    }

    fn failed(&self, error: &dyn std::fmt::Display) -> HomeError {
        HomeError::Failed { node: self.node, text: error.to_string() }
    }

    fn get_error(&self, id: ShardId, error: &GetError) -> HomeError {
        match error {
            GetError::NotFound => HomeError::NotFound { node: self.node, id },
            GetError::Rotten => HomeError::Rotten { node: self.node, id },
            other => self.failed(other),
        }
    }
}

impl ShardHome for LocalHome {
    fn node(&self) -> NodeId {
        self.node
    }

    fn put(&self, id: ShardId, data: Bytes) -> BoxFuture<'_, Result<PutOutcome, HomeError>> {
        async move {
            let crc = atoll_codec::crc64(&data);
            let node = self.node;
            match self.segments.put(self.owner, id, crc, data).await {
                Ok(atoll_segments::PutOutcome::Stored) => Ok(PutOutcome::Stored),
                Ok(atoll_segments::PutOutcome::AlreadyThere) => Ok(PutOutcome::AlreadyThere),
                Err(error @ PutError::Full { .. }) => {
                    Err(HomeError::Refused { node, why: Refusal::Full, text: error.to_string() })
                }
                Err(error @ PutError::QuotaExceeded { .. }) => {
                    Err(HomeError::Refused { node, why: Refusal::Quota, text: error.to_string() })
                }
                Err(PutError::DifferentContent) => Err(HomeError::DifferentContent { node, id }),
                Err(error) => Err(self.failed(&error)),
            }
        }
        .boxed()
    }

    fn get(&self, id: ShardId) -> BoxFuture<'_, Result<Bytes, HomeError>> {
        async move { self.segments.get(self.owner, id).await.map_err(|error| self.get_error(id, &error)) }.boxed()
    }

    fn delete(&self, id: ShardId) -> BoxFuture<'_, Result<(), HomeError>> {
        async move {
            match self.segments.delete(self.owner, id).await {
                Ok(_) | Err(DeleteError::NotFound) => Ok(()),
                Err(error) => Err(self.failed(&error)),
            }
        }
        .boxed()
    }

    fn list(&self, after: Option<ShardId>, limit: usize) -> BoxFuture<'_, Result<Vec<ShardEntry>, HomeError>> {
        let page = self.segments.list(self.owner, after, limit);
        async move { Ok(page.into_iter().map(|(id, len)| ShardEntry { id, len }).collect()) }.boxed()
    }

    fn stat(&self) -> BoxFuture<'_, Result<HomeStat, HomeError>> {
        let (mine, totals) = (self.segments.stat(self.owner), self.segments.totals());
        let stat = HomeStat {
            shards: mine.shards,
            used: ByteCount(mine.bytes),
            quota: mine.quota.map(ByteCount),
            free: ByteCount(totals.capacity.saturating_sub(totals.used)),
        };
        async move { Ok(stat) }.boxed()
    }

    fn verify(&self, id: ShardId) -> BoxFuture<'_, Result<(), HomeError>> {
        async move { self.segments.verify(self.owner, id).await.map_err(|error| self.get_error(id, &error)) }.boxed()
    }

    fn health(&self) -> Health {
        Health { connected: true, silent: Duration::ZERO, ..Health::default() }
    }
}

/// What this node lends and how much of it is taken.
pub(crate) fn status(segments: &Segments) -> StorageStatus {
    let totals = segments.totals();
    StorageStatus { capacity: ByteCount(totals.capacity), used: ByteCount(totals.used), shards: totals.shards }
}
