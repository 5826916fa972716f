//! What all operations of an engine share. No operation is here; each has a file of its own.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use atoll_codec::{BufferPool, Codec, ObjectKey, Policy, WrappedKey};
use atoll_ids::{NodeId, ObjectId};
use atoll_keys::OwnerKey;
use atoll_shard::{HomeError, ShardHome};
use tokio::sync::{Notify, Semaphore};
use tokio::task::JoinError;
use zeroize::Zeroizing;

use crate::chart::{Chart, Charts};
use crate::config::EngineConfig;
use crate::error::MetaError;
use crate::garbage::Abandoned;
use crate::health::{Operation, Tracker};
use crate::homes::Homes;
use crate::pool::{Budget, PlainBuffers};
use crate::reserve::Reservations;
use crate::store::Store;

/// Purpose of the key that wraps object keys; part of the stored format.
const KEK_CONTEXT: &str = "atoll 2026-11 zstor object keys v1";
/// Idle shard buffers kept for reuse: what the default budget lets be in flight.
const IDLE_SHARD_BYTES_MAX: usize = 24 << 20;
/// Beyond this many nodes the health table drops those that are no longer known.
const TRACKED_NODES_MAX: usize = 4096;

/// What is being read.
#[derive(Default)]
pub(crate) struct Reading {
    /// Versions and how many readers each has.
    pub(crate) versions: HashMap<ObjectId, usize>,
    /// The collector waits for one of them.
    pub(crate) awaited: bool,
}

pub(crate) struct Inner {
    pub(crate) config: EngineConfig,
    pub(crate) store: Store,
    pub(crate) homes: Arc<dyn Homes>,
    pub(crate) charts: Charts,
    pub(crate) put_budget: Budget,
    pub(crate) get_budget: Budget,
    pub(crate) plain: PlainBuffers,
    pub(crate) reservations: Reservations,
    /// Uploads that someone is working on; `true` for those that were stopped and of which only the last tasks have to end.
    pub(crate) uploading: Mutex<HashMap<ObjectId, bool>>,
    /// Versions that someone is reading.
    pub(crate) reading: Mutex<Reading>,
    /// What was given up half-way and is to become garbage.
    pub(crate) abandoned: Mutex<Vec<Abandoned>>,
    /// Wakes the collector.
    pub(crate) wake: Arc<Notify>,
    /// One collection at a time.
    pub(crate) collecting: tokio::sync::Mutex<()>,
    /// One heal at a time.
    pub(crate) healing: tokio::sync::Mutex<()>,
    kek: Zeroizing<[u8; 32]>,
    tracker: Mutex<Tracker>,
    turns: Arc<Semaphore>,
    buffers: BufferPool,
    codecs: Mutex<HashMap<Policy, Codec>>,
}

/// The value behind a lock. None of the maps here is ever left half-changed, so a panic elsewhere does not matter.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Inner {
    pub(crate) fn new(config: EngineConfig, store: Store, owner: &OwnerKey, homes: Arc<dyn Homes>) -> Self {
        Self::with_kek(config, store, owner.derive_secret(KEK_CONTEXT), homes)
    }

    /// One whose object keys are wrapped under `kek`.
    pub(crate) fn with_kek(
        config: EngineConfig,
        store: Store,
        kek: Zeroizing<[u8; 32]>,
        homes: Arc<dyn Homes>,
    ) -> Self {
        // One more than there are processors, because a turn may wait for the disk.
        let turns = std::thread::available_parallelism().map_or(2, usize::from) + 1;
        Self {
            put_budget: Budget::new(config.put_bytes_max),
            get_budget: Budget::new(config.get_bytes_max),
            tracker: Mutex::new(Tracker::new(config.put_hedge, config.get_hedge)),
            config,
            store,
            homes,
            charts: Charts::default(),
            plain: PlainBuffers::default(),
            reservations: Reservations::default(),
            uploading: Mutex::default(),
            reading: Mutex::default(),
            abandoned: Mutex::default(),
            wake: Arc::new(Notify::new()),
            collecting: tokio::sync::Mutex::default(),
            healing: tokio::sync::Mutex::default(),
            kek,
            turns: Arc::new(Semaphore::new(turns)),
            buffers: BufferPool::new(IDLE_SHARD_BYTES_MAX),
            codecs: Mutex::default(),
        }
    }

    pub(crate) fn codec(&self, policy: Policy) -> Codec {
        let make = || Codec::with_pool(policy, self.buffers.clone());
        lock(&self.codecs).entry(policy).or_insert_with(make).clone()
    }

    pub(crate) fn wrap(&self, key: &ObjectKey, object: ObjectId) -> WrappedKey {
        key.wrap(&self.kek, object)
    }

    pub(crate) fn unwrap_key(&self, key: &WrappedKey, object: ObjectId) -> Result<ObjectKey, MetaError> {
        key.unwrap(&self.kek, object).map_err(|_| MetaError::Tampered { what: format!("the key of object {object}") })
    }

    pub(crate) fn current_chart(&self) -> Arc<Chart> {
        self.charts.current(self.homes.as_ref())
    }

    /// Runs work that occupies a thread, when it is its turn: no more at once than there are processors, so that threads and their buffers
    /// stay few.
    pub(crate) async fn compute<T, F>(&self, work: F) -> Result<T, JoinError>
    where
        T: Send + 'static,
        F: FnOnce() -> T + Send + 'static,
    {
        let turn = self.turns.clone().acquire_owned().await.expect("the semaphore is never closed");
        tokio::task::spawn_blocking(move || {
            let done = work();
            drop(turn);
            done
        })
        .await
    }

    pub(crate) fn home(&self, node: NodeId) -> Option<Arc<dyn ShardHome>> {
        self.homes.home(node)
    }

    pub(crate) fn tracker(&self) -> MutexGuard<'_, Tracker> {
        lock(&self.tracker)
    }

    /// Notes how a request to a node ended.
    pub(crate) fn note<T>(&self, node: NodeId, operation: Operation, sent: Instant, result: &Result<T, HomeError>) {
        let now = now();
        let mut tracker = self.tracker();
        match result {
            Err(error) if error.is_no_answer() => tracker.no_answer(node, now),
            _ => tracker.answered(node, operation, now.saturating_duration_since(sent), now),
        }
        if matches!(result, Err(HomeError::Refused { .. } | HomeError::Failed { .. })) && operation == Operation::Put {
            tracker.refused(node, now);
        }
        if tracker.len() > TRACKED_NODES_MAX {
            let known: HashSet<NodeId> = self.homes.list().into_iter().map(|home| home.node).collect();
            tracker.retain(|node| known.contains(&node));
        }
    }

    /// Whether bytes went to or came from the node lately, by what its client has seen: then it is busy or far away, not hung.
    pub(crate) fn is_moving(&self, node: NodeId, within: Duration) -> bool {
        let silent = self.home(node).map_or(Duration::ZERO, |home| home.health().silent);
        // Zero says that the client does not know.
        !silent.is_zero() && silent < within
    }

    /// Whether there is reason to go on waiting for a node: it moved or answered something within the time that patience lasts.
    pub(crate) fn is_worth_waiting_for(&self, node: NodeId) -> bool {
        let patience = self.config.patience;
        self.is_moving(node, patience) || self.tracker().heard_within(node, patience, now())
    }

    /// Asks suspects whose time has come whether they are back, without keeping anyone waiting.
    pub(crate) fn probe_suspects(self: &Arc<Self>) {
        let due = self.tracker().due_probes(now());
        for node in due {
            let Some(home) = self.home(node) else { continue };
            let inner = Arc::downgrade(self);
            let limit = self.config.probe_limit;
            tokio::spawn(async move {
                let answer = tokio::time::timeout(limit, home.stat()).await;
                let lives = answer.is_ok_and(|answer| !answer.is_err_and(|error| error.is_no_answer()));
                if let (true, Some(inner)) = (lives, inner.upgrade()) {
                    inner.tracker().alive(node, now());
                }
            });
        }
    }
}

/// The present on the clock that timers use.
pub(crate) fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

/// What a home's error says, without the node's name, which stands beside it.
pub(crate) fn reason(error: &HomeError) -> String {
    match error {
        HomeError::Unreachable { text, .. } => format!("cannot be reached: {text}"),
        HomeError::TimedOut { after, .. } => format!("did not answer for {:.1} s", after.as_secs_f64()),
        HomeError::Refused { text, .. } => format!("refused: {text}"),
        HomeError::NotFound { .. } => "does not have the shard".to_owned(),
        HomeError::Rotten { .. } => "its copy of the shard is rotten".to_owned(),
        HomeError::DifferentContent { .. } => "has other bytes under the shard's id".to_owned(),
        HomeError::Damaged { .. } => "received the shard damaged".to_owned(),
        HomeError::TooLarge { .. } => "does not take shards that large".to_owned(),
        HomeError::Failed { text, .. } => format!("failed: {text}"),
        HomeError::Protocol { text, .. } => format!("broke the protocol: {text}"),
    }
}
