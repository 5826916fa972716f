//! Deleting the shards of what is no longer referred to.
//!
//! Nothing is deleted before a durable record says that it is garbage: the commit that replaces or removes an object writes one, so a crash at any
//! moment leaks nothing. The collector goes through these records; one is removed when all its shards are gone. It takes no input, can be run at
//! any time and twice, and is woken by whoever makes garbage. Of shards on nodes that do not answer a record stays for a later round, and only of these; a node
//! that is no longer known is taken for gone with all it had.
//!
//! A version that is being read stays until its readers are done.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Weak};

use atoll_codec::Opener;
use atoll_ids::{NodeId, ObjectId, ShardId};
use atoll_kv::Mutation;
use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream;
use tokio::sync::Notify;
use tokio::time::timeout;

use crate::chart::{Chart, seed};
use crate::error::MetaError;
use crate::inner::{Inner, lock};
use crate::keyspace;
use crate::record::{Body, Garbage, ManifestPage, StripeEntry, Tail, UploadRecord, page_count};
use crate::store::{SCAN_STEP, Stored, delete, is_conflict, present};

/// Garbage records that are worked on at once.
const RECORDS_AT_ONCE: usize = 8;
/// Deletions of one record that are under way at once; a deletion is a few bytes each way.
const DELETIONS_AT_ONCE: usize = 64;

/// Something given up half-way. The collector makes it garbage.
#[derive(Clone)]
pub(crate) enum Abandoned {
    /// A single-stripe object that was not published.
    Reserved { key: Bytes, tail: Tail },
    /// An upload that cannot be continued.
    Upload { key: Bytes },
}

/// What a collection did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CollectReport {
    /// Versions and remains of uploads of which everything was deleted.
    pub collected: u64,
    /// Shards that were deleted or were not there any more.
    pub shards: u64,
    /// Records that stay because a node did not answer or a reader is not done.
    pub waiting: u64,
}

/// A shard and a node that may have it.
type Target = (ShardId, NodeId);

/// What became of the deletions of one record.
#[derive(Default)]
struct Outcome {
    /// Shards that are gone.
    gone: u64,
    /// What is left, on nodes that did not answer.
    left: Vec<Target>,
    /// Further records that were made of what is left.
    split_off: u64,
}

/// What becomes of a record.
enum Verdict {
    Done(Outcome),
    /// It waits for a reader.
    Keep,
}

/// Collects in the background for as long as the engine is there.
pub(crate) async fn run(inner: Weak<Inner>, wake: Arc<Notify>) {
    let mut waiting = false;
    loop {
        let Some(pause) = inner.upgrade().map(|inner| inner.config.collect_pause) else { return };
        if waiting {
            // Either there is new garbage or the nodes that did not answer get another chance.
            let _ = timeout(pause, wake.notified()).await;
        } else {
            wake.notified().await;
        }
        let Some(inner) = inner.upgrade() else { return };
        waiting = match inner.collect().await {
            Ok(report) => report.waiting > 0,
            Err(error) => {
                tracing::warn!(target: "atoll::engine", %error, "collecting deleted objects failed, will try again");
                true
            }
        };
    }
}

impl Inner {
    /// Turns what an earlier process left behind into garbage: reservations, uploads that cannot be continued, buckets half removed.
    pub(crate) async fn recover(&self) -> Result<(), MetaError> {
        let mut after = None;
        loop {
            let page: Vec<Stored<Tail>> =
                self.store.scan(Bytes::from_static(keyspace::RESERVED), after, SCAN_STEP).await?;
            let Some(last) = page.last() else { break };
            after = Some(last.key.clone());
            let mut changes = Vec::new();
            for reserved in page {
                self.bury_reserved(reserved.key, reserved.value, &mut changes);
            }
            self.store.commit(Vec::new(), changes).await?;
        }
        let mut after = None;
        loop {
            let page: Vec<Stored<UploadRecord>> =
                self.store.scan(Bytes::from_static(keyspace::UPLOADS), after, SCAN_STEP).await?;
            let Some(last) = page.last() else { break };
            after = Some(last.key.clone());
            for upload in page.into_iter().filter(|upload| upload.value.source.is_none()) {
                let mut changes = Vec::new();
                self.bury_upload(&upload.key, upload.value, &mut changes);
                self.store.commit(Vec::new(), changes).await?;
            }
        }
        self.settle_buckets().await
    }

    /// One collection.
    pub(crate) async fn collect(self: &Arc<Self>) -> Result<CollectReport, MetaError> {
        let _one = self.collecting.lock().await;
        self.probe_suspects();
        self.bury_abandoned().await?;
        let mut report = CollectReport::default();
        let mut after = None;
        loop {
            let page: Vec<Stored<Garbage>> =
                self.store.scan(Bytes::from_static(keyspace::GARBAGE), after, SCAN_STEP).await?;
            let Some(last) = page.last() else { return Ok(report) };
            after = Some(last.key.clone());
            let mut work =
                stream::iter(page).map(|garbage| self.collect_one(garbage)).buffer_unordered(RECORDS_AT_ONCE);
            let mut changes = Vec::new();
            while let Some(result) = work.next().await {
                let (key, verdict) = result?;
                let Verdict::Done(Outcome { gone, left, split_off }) = verdict else {
                    report.waiting += 1;
                    continue;
                };
                report.shards += gone;
                report.waiting += split_off;
                if left.is_empty() {
                    report.collected += 1;
                    changes.push(delete(key));
                } else {
                    report.waiting += 1;
                    // As it was, if it was nothing but such remains and none of them is gone: not worth writing.
                    if gone > 0 {
                        changes.push(self.store.put(key, &remains(left)));
                    }
                }
            }
            if !changes.is_empty() {
                self.store.commit(Vec::new(), changes).await?;
            }
        }
    }

    async fn bury_abandoned(&self) -> Result<(), MetaError> {
        let mut abandoned = std::mem::take(&mut *lock(&self.abandoned));
        while let Some(one) = abandoned.pop() {
            let buried = self.bury_one(one.clone()).await;
            // A conflict: its object was published after all, before it was given up.
            if let Err(error) = buried
                && !is_conflict(&error)
            {
                abandoned.push(one);
                lock(&self.abandoned).extend(abandoned);
                return Err(error);
            }
        }
        Ok(())
    }

    async fn bury_one(&self, abandoned: Abandoned) -> Result<(), MetaError> {
        let mut changes = Vec::new();
        let condition = match abandoned {
            Abandoned::Reserved { key, tail } => {
                let condition = present(&key);
                self.bury_reserved(key, tail, &mut changes);
                condition
            }
            Abandoned::Upload { key } => {
                let upload: Option<Stored<UploadRecord>> = self.store.get(key.clone()).await?;
                let Some(upload) = upload else { return Ok(()) };
                let condition = upload.unchanged();
                self.bury_upload(&key, upload.value, &mut changes);
                condition
            }
        };
        self.store.commit(vec![condition], changes).await.map(|_| ())
    }

    fn bury_reserved(&self, key: Bytes, tail: Tail, changes: &mut Vec<Mutation>) {
        changes.push(self.store.put(keyspace::garbage_tail(tail.id, 0), &Garbage::Tail(tail)));
        changes.push(delete(key));
    }

    async fn collect_one(self: &Arc<Self>, garbage: Stored<Garbage>) -> Result<(Bytes, Verdict), MetaError> {
        let outcome = match garbage.value {
            Garbage::Version { id, .. } if self.is_being_read(id) => return Ok((garbage.key, Verdict::Keep)),
            Garbage::Version { id, body } => self.collect_version(id, &body).await?,
            Garbage::Tail(tail) => self.collect_tail(&tail).await?,
            Garbage::Remains(shards) => {
                let targets = shards.into_iter().flat_map(|(node, ids)| ids.into_iter().map(move |id| (id, node)));
                self.delete_all(targets.collect()).await
            }
        };
        Ok((garbage.key, Verdict::Done(outcome)))
    }

    /// Whether someone reads the version; then the collector is woken when they are done.
    fn is_being_read(&self, id: ObjectId) -> bool {
        let mut reading = lock(&self.reading);
        let found = reading.versions.contains_key(&id);
        reading.awaited |= found;
        found
    }

    /// Deletes a version, page by page. A page is gone when it was gone through; what is left of it has a record of its own.
    async fn collect_version(&self, id: ObjectId, body: &Body) -> Result<Outcome, MetaError> {
        let openers = self.openers(id, body)?;
        if !body.inline.is_empty() {
            let targets = self.targets(id, body, &openers, 0, &body.inline).await?;
            return Ok(self.delete_all(targets).await);
        }
        let mut outcome = Outcome::default();
        for number in 0..page_count(body.stripes) {
            let key = keyspace::page(id, number);
            let Some(page) = self.store.get::<ManifestPage>(key.clone()).await? else { continue };
            let first = u64::from(number) * crate::record::PAGE_STRIPES as u64;
            let targets = self.targets(id, body, &openers, first, &page.value.stripes).await?;
            let Outcome { gone, left, .. } = self.delete_all(targets).await;
            let mut changes = vec![delete(key)];
            if !left.is_empty() {
                changes.push(self.store.put(keyspace::garbage_page(id, number), &remains(left)));
                outcome.split_off += 1;
            }
            self.store.commit(Vec::new(), changes).await?;
            outcome.gone += gone;
        }
        Ok(outcome)
    }

    /// Every shard of some stripes and every node that may have it.
    async fn targets(
        &self,
        id: ObjectId,
        body: &Body,
        openers: &[Arc<Opener>],
        first: u64,
        stripes: &[StripeEntry],
    ) -> Result<Vec<(ShardId, NodeId)>, MetaError> {
        let mut targets = Vec::new();
        for (stripe, entry) in (first..).zip(stripes) {
            let damaged = || MetaError::Tampered { what: format!("the manifest of object {id}") };
            let opener = openers.get(usize::from(entry.run)).ok_or_else(damaged)?;
            let chart = self.charts.load(&self.store, body.map(entry).ok_or_else(damaged)?).await?;
            let holders = holders(&chart, body, entry, &seed(id, stripe)).ok_or_else(damaged)?;
            let counter = entry.record.counter();
            targets
                .extend(holders.into_iter().enumerate().map(|(index, node)| (opener.shard_id(counter, index), node)));
            let stray = |place: &crate::record::Place| (opener.shard_id(counter, usize::from(place.index)), place.node);
            targets.extend(entry.strays.iter().map(stray));
        }
        Ok(targets)
    }

    async fn collect_tail(&self, tail: &Tail) -> Result<Outcome, MetaError> {
        let key = self.unwrap_key(&tail.key, tail.id)?;
        let opener = self.codec(tail.policy).opener(&key, tail.salt);
        let chart = match tail.map {
            Some(map) => Some(self.charts.load(&self.store, map).await?),
            None => None,
        };
        let all: Vec<NodeId> = self.homes.list().into_iter().map(|home| home.node).collect();
        let shards = tail.policy.shards();
        let mut outcome = Outcome::default();
        for step in 0..tail.count {
            let counter = tail.counter.saturating_add(step);
            let ranked =
                chart.as_ref().map(|chart| chart.ranked(&seed(tail.id, tail.stripe + u64::from(step)), tail.level));
            let targets = (0..shards).flat_map(|index| {
                let id = opener.shard_id(counter, index);
                // A shard goes to its own rank or to a spare, never to the rank of another.
                let nodes: Vec<NodeId> = match &ranked {
                    Some(ranked) => {
                        ranked.get(index).into_iter().chain(ranked.iter().skip(shards).take(shards)).copied().collect()
                    }
                    None => all.clone(),
                };
                nodes.into_iter().map(move |node| (id, node))
            });
            let targets: Vec<_> = targets.collect();
            let Outcome { gone, left, .. } = self.delete_all(targets).await;
            outcome.gone += gone;
            outcome.left.extend(left);
        }
        Ok(outcome)
    }

    async fn delete_all(&self, targets: Vec<Target>) -> Outcome {
        let mut work = stream::iter(targets)
            .map(|(id, node)| async move { (self.delete_shard(id, node).await, (id, node)) })
            .buffer_unordered(DELETIONS_AT_ONCE);
        let mut outcome = Outcome::default();
        while let Some((gone, target)) = work.next().await {
            if gone { outcome.gone += 1 } else { outcome.left.push(target) }
        }
        outcome
    }

    /// Deletes a shard on a node. Whether it is gone.
    pub(crate) async fn delete_shard(&self, id: ShardId, node: NodeId) -> bool {
        let Some(home) = self.home(node) else { return true };
        if self.tracker().is_suspect(node) {
            return false;
        }
        match timeout(self.config.patience, home.delete(id)).await {
            Ok(Ok(())) => true,
            Ok(Err(error)) => {
                if error.is_no_answer() {
                    self.tracker().no_answer(node, crate::inner::now());
                }
                false
            }
            Err(_) => {
                self.tracker().no_answer(node, crate::inner::now());
                false
            }
        }
    }

    /// An opener for each run of an object.
    pub(crate) fn openers(&self, id: ObjectId, body: &Body) -> Result<Vec<Arc<Opener>>, MetaError> {
        if body.runs.is_empty() {
            return Ok(Vec::new());
        }
        let key = self.unwrap_key(&body.key, id)?;
        let codec = self.codec(body.policy);
        Ok(body.runs.iter().map(|&salt| Arc::new(codec.opener(&key, salt))).collect())
    }
}

/// The record of what is left.
fn remains(left: Vec<Target>) -> Garbage {
    let mut by_node: BTreeMap<NodeId, Vec<ShardId>> = BTreeMap::new();
    for (id, node) in left {
        by_node.entry(node).or_default().push(id);
    }
    Garbage::Remains(by_node.into_iter().collect())
}

/// The nodes that have the shards of a stripe, by index; `None` if the map has too few nodes for that.
pub(crate) fn holders(chart: &Chart, body: &Body, entry: &StripeEntry, seed: &[u8; 16]) -> Option<Vec<NodeId>> {
    let ranked = chart.ranked(seed, body.level);
    let moved: HashMap<usize, NodeId> =
        entry.moved.iter().map(|place| (usize::from(place.index), place.node)).collect();
    (0..body.policy.shards()).map(|index| moved.get(&index).or_else(|| ranked.get(index)).copied()).collect()
}
