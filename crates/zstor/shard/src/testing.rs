//! A home in memory, with switches for everything that goes wrong with real ones. For tests of whoever stores through
//! [`ShardHome`].
//!
//! [`MemoryHome`] keeps the contract of the trait completely (idempotent puts, ordered listings, quota, limits); it is
//! just not durable. Faults are switched at any time, also under calls that are already waiting, and take effect before
//! the call touches the shards: a put that fails with `Unreachable` or `TimedOut` has stored nothing.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use atoll_ids::{ByteCount, NodeId, ShardId};
use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use crate::home::{Health, HomeError, HomeStat, PutOutcome, Refusal, ShardEntry, ShardHome};
use crate::limits::{LIST_ENTRIES_MAX, SHARD_BYTES_MAX, STALL_LIMIT};

/// What is wrong with a [`MemoryHome`]. The default is nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Faults {
    /// Every call fails at once with `Unreachable`, as with a dead node.
    pub unreachable: bool,
    /// No call is answered while this is set, as with a stopped process; after [`STALL_LIMIT`] it fails with `TimedOut`.
    pub hang: bool,
    /// Every call takes this much longer.
    pub slow: Duration,
    /// Every get answers with a bit flipped and does not notice, as a hostile node would.
    pub corrupt: bool,
    /// Every put is refused for this.
    pub refuse: Option<Refusal>,
}

/// A shard and whether its medium still returns what was written.
#[derive(Clone, Debug)]
struct Kept {
    data: Bytes,
    rotten: bool,
}

/// How often each operation was called, whatever became of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Calls {
    /// Calls of `put`.
    pub puts: u64,
    /// Calls of `get`.
    pub gets: u64,
    /// Calls of `delete`.
    pub deletes: u64,
}

#[derive(Debug, Default)]
struct Counters {
    puts: AtomicU64,
    gets: AtomicU64,
    deletes: AtomicU64,
    failures: AtomicU64,
    failures_in_a_row: AtomicU64,
    in_flight: AtomicUsize,
}

/// A [`ShardHome`] in memory.
#[derive(Debug)]
pub struct MemoryHome {
    node: NodeId,
    quota: Option<ByteCount>,
    shards: Mutex<BTreeMap<ShardId, Kept>>,
    faults: watch::Sender<Faults>,
    counters: Counters,
}

/// Counts a call as in flight until it ends or is dropped.
struct InFlight<'a>(&'a AtomicUsize);

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl MemoryHome {
    /// An empty home without a quota.
    #[must_use]
    pub fn new(node: NodeId) -> Self {
        Self {
            node,
            quota: None,
            shards: Mutex::default(),
            faults: watch::Sender::new(Faults::default()),
            counters: Counters::default(),
        }
    }

    /// An empty home that refuses to hold more than `quota`.
    #[must_use]
    pub fn with_quota(node: NodeId, quota: ByteCount) -> Self {
        Self { quota: Some(quota), ..Self::new(node) }
    }

    /// Changes what is wrong; `home.fault(|f| f.hang = true)`. Calls that wait notice it.
    pub fn fault(&self, change: impl FnOnce(&mut Faults)) {
        self.faults.send_modify(change);
    }

    /// Makes everything work again; shards that were lost, corrupted or rotten stay so.
    pub fn heal(&self) {
        self.fault(|faults| *faults = Faults::default());
    }

    /// Flips a bit of a stored shard unnoticed: `get` returns wrong bytes and `verify` is content. Returns whether
    /// there was one with a byte to change.
    pub fn corrupt_shard(&self, id: ShardId) -> bool {
        match self.shards().get_mut(&id) {
            Some(kept) if !kept.data.is_empty() => {
                kept.data = flipped(&kept.data);
                true
            }
            _ => false,
        }
    }

    /// Lets a shard rot: `get` and `verify` find out and fail with `Rotten`. Returns whether there was one.
    pub fn rot_shard(&self, id: ShardId) -> bool {
        self.shards().get_mut(&id).is_some_and(|kept| {
            kept.rotten = true;
            true
        })
    }

    /// Loses a shard. Returns whether there was one.
    pub fn lose_shard(&self, id: ShardId) -> bool {
        self.shards().remove(&id).is_some()
    }

    /// Loses everything, as a replaced disk would.
    pub fn lose_all(&self) {
        self.shards().clear();
    }

    /// The ids of all shards, in order; no fault affects it.
    #[must_use]
    pub fn ids(&self) -> Vec<ShardId> {
        self.shards().keys().copied().collect()
    }

    /// How often each operation was called.
    #[must_use]
    pub fn calls(&self) -> Calls {
        Calls {
            puts: self.counters.puts.load(Ordering::Relaxed),
            gets: self.counters.gets.load(Ordering::Relaxed),
            deletes: self.counters.deletes.load(Ordering::Relaxed),
        }
    }

    fn shards(&self) -> MutexGuard<'_, BTreeMap<ShardId, Kept>> {
        // Nothing panics while holding it; even so the map is whole after every statement.
        self.shards.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What every call goes through first.
    async fn pass(&self) -> Result<InFlight<'_>, HomeError> {
        self.counters.in_flight.fetch_add(1, Ordering::Relaxed);
        let guard = InFlight(&self.counters.in_flight);
        let outcome = self.suffer().await;
        if outcome.is_err() {
            self.counters.failures.fetch_add(1, Ordering::Relaxed);
            self.counters.failures_in_a_row.fetch_add(1, Ordering::Relaxed);
        } else {
            self.counters.failures_in_a_row.store(0, Ordering::Relaxed);
        }
        outcome.map(|()| guard)
    }

    async fn suffer(&self) -> Result<(), HomeError> {
        let mut faults = self.faults.subscribe();
        let slow = faults.borrow().slow;
        if !slow.is_zero() {
            sleep(slow).await;
        }
        let released = faults.wait_for(|faults| faults.unreachable || !faults.hang);
        match timeout(STALL_LIMIT, released).await {
            Err(_) => Err(HomeError::TimedOut { node: self.node, after: STALL_LIMIT }),
            Ok(Ok(faults)) if !faults.unreachable => Ok(()),
            Ok(_) => Err(HomeError::Unreachable { node: self.node, text: "switched off by the test".to_owned() }),
        }
    }

    fn keep(&self, id: ShardId, data: Bytes) -> Result<PutOutcome, HomeError> {
        let refuse = |why, text: &str| Err(HomeError::Refused { node: self.node, why, text: text.to_owned() });
        if let Some(why) = self.faults.borrow().refuse {
            return refuse(why, "switched to refuse by the test");
        }
        let mut shards = self.shards();
        if let Some(kept) = shards.get(&id) {
            return if kept.data == data {
                Ok(PutOutcome::AlreadyThere)
            } else {
                Err(HomeError::DifferentContent { node: self.node, id })
            };
        }
        let used: u64 = shards.values().map(|kept| kept.data.len() as u64).sum();
        if self.quota.is_some_and(|quota| used + data.len() as u64 > quota.0) {
            return refuse(Refusal::Quota, "the quota is used up");
        }
        shards.insert(id, Kept { data, rotten: false });
        Ok(PutOutcome::Stored)
    }

    fn sound(&self, id: ShardId) -> Result<Bytes, HomeError> {
        match self.shards().get(&id) {
            None => Err(HomeError::NotFound { node: self.node, id }),
            Some(kept) if kept.rotten => Err(HomeError::Rotten { node: self.node, id }),
            Some(kept) => Ok(kept.data.clone()),
        }
    }
}

fn flipped(data: &Bytes) -> Bytes {
    let mut data = data.to_vec();
    if let Some(byte) = data.first_mut() {
        *byte ^= 0x80;
    }
    data.into()
}

impl ShardHome for MemoryHome {
    fn node(&self) -> NodeId {
        self.node
    }

    fn put(&self, id: ShardId, data: Bytes) -> BoxFuture<'_, Result<PutOutcome, HomeError>> {
        async move {
            self.counters.puts.fetch_add(1, Ordering::Relaxed);
            if data.len() > SHARD_BYTES_MAX {
                let (node, len) = (self.node, data.len());
                return Err(HomeError::TooLarge { node, len, max_bytes: SHARD_BYTES_MAX });
            }
            let _in_flight = self.pass().await?;
            self.keep(id, data)
        }
        .boxed()
    }

    fn get(&self, id: ShardId) -> BoxFuture<'_, Result<Bytes, HomeError>> {
        async move {
            self.counters.gets.fetch_add(1, Ordering::Relaxed);
            let _in_flight = self.pass().await?;
            let data = self.sound(id)?;
            Ok(if self.faults.borrow().corrupt { flipped(&data) } else { data })
        }
        .boxed()
    }

    fn delete(&self, id: ShardId) -> BoxFuture<'_, Result<(), HomeError>> {
        async move {
            self.counters.deletes.fetch_add(1, Ordering::Relaxed);
            let _in_flight = self.pass().await?;
            self.lose_shard(id);
            Ok(())
        }
        .boxed()
    }

    fn list(&self, after: Option<ShardId>, limit: usize) -> BoxFuture<'_, Result<Vec<ShardEntry>, HomeError>> {
        async move {
            let _in_flight = self.pass().await?;
            let from = after.map_or(Bound::Unbounded, Bound::Excluded);
            let shards = self.shards();
            let page = shards.range((from, Bound::Unbounded)).take(limit.min(LIST_ENTRIES_MAX));
            Ok(page
                .map(|(id, kept)| ShardEntry {
                    id: *id,
                    len: u32::try_from(kept.data.len()).expect("puts are limited to 4 MiB"),
                })
                .collect())
        }
        .boxed()
    }

    fn stat(&self) -> BoxFuture<'_, Result<HomeStat, HomeError>> {
        async move {
            let _in_flight = self.pass().await?;
            let shards = self.shards();
            let used = shards.values().map(|kept| kept.data.len() as u64).sum();
            let free = self.quota.map_or(u64::MAX, |quota| quota.0).saturating_sub(used);
            Ok(HomeStat {
                shards: shards.len() as u64,
                used: ByteCount(used),
                quota: self.quota,
                free: ByteCount(free),
            })
        }
        .boxed()
    }

    fn verify(&self, id: ShardId) -> BoxFuture<'_, Result<(), HomeError>> {
        async move {
            let _in_flight = self.pass().await?;
            self.sound(id).map(|_| ())
        }
        .boxed()
    }

    fn health(&self) -> Health {
        Health {
            connected: !self.faults.borrow().unreachable,
            in_flight: self.counters.in_flight.load(Ordering::Relaxed),
            failures: self.counters.failures.load(Ordering::Relaxed),
            failures_in_a_row: self.counters.failures_in_a_row.load(Ordering::Relaxed),
            ..Health::default()
        }
    }
}

#[cfg(test)]
mod tests;
