//! Finding lost and rotten shards and rebuilding them.
//!
//! Every stripe of every object is compared with what the nodes say they have (`heal/inventory.rs`). A shard that is missing, rotten, or on a node that does
//! not answer is rebuilt from *k* others and stored again: on its node if that is back, else on the next node in the ranking over the nodes that are
//! there now, in a failure domain that the stripe does not use yet. The new place goes into the manifest by a commit that is conditional on the object still
//! being the same version.
//!
//! It keeps no state, so it can be stopped at any moment and run again; a second run finds nothing to do. If it is killed between storing a shard and
//! committing its place, the next run stores it in the same place again. Copies on nodes that were away when their shard was
//! rebuilt are remembered in the manifest and deleted by the first run that meets the node.

pub(crate) mod inventory;

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};

use atoll_codec::Opener;
use atoll_ids::{BucketName, NodeId, ObjectId};
use atoll_kv::Condition;
use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream;
use tokio::time::timeout;

use crate::chart::{Chart, seed};
use crate::error::{ListError, MetaError, NodeFault, ReadError};
use crate::garbage::holders;
use crate::gather::{self, Wanted};
use crate::inner::{Inner, lock, now, reason};
use crate::keyspace;
use crate::pace::Pace;
use crate::pool::stripe_bytes;
use crate::record::{ManifestPage, ObjectRecord, PAGE_STRIPES, Place, StripeEntry};
use crate::store::{SCAN_STEP, Stored, is_conflict};
use inventory::{Finding, Inventory};

/// Objects that are worked on at once: enough that small ones share the flushes of the metadata store.
const OBJECTS_AT_ONCE: usize = 32;
/// Stripes of one object that are worked on at once. The byte budget of reads bounds the sum over objects.
const STRIPES_AT_ONCE: usize = 8;
/// Objects listed as lost, at most; the count goes on.
const LOST_LISTED_MAX: usize = 1000;

/// Called when another object, or another 64 stripes of a large one, were looked at.
pub type HealProgressFn = Arc<dyn Fn(HealProgress) + Send + Sync>;

/// What to heal and how.
#[derive(Clone, Default)]
pub struct HealOptions {
    /// Only this bucket.
    pub bucket: Option<BucketName>,
    /// Only look.
    pub dry_run: bool,
    /// Have nodes read every shard and compare it with their checksum, not only say that they have it.
    pub deep: bool,
    /// Whom to tell how far it is.
    pub progress: Option<HealProgressFn>,
    /// How fast shards are rebuilt; as fast as it goes unless set.
    pub pace: Option<Arc<Pace>>,
    /// Nodes that may be back soon: while they are away, their shards are left where they are, as long as the stripe has one to spare.
    pub spared: BTreeSet<NodeId>,
}

/// How far a heal is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HealProgress {
    /// Objects looked at.
    pub objects: u64,
    /// Stripes looked at.
    pub stripes: u64,
    /// Shards rebuilt.
    pub rebuilt: u64,
    /// Bytes of the shards rebuilt.
    pub rebuilt_bytes: u64,
    /// Stripes that had shards missing or rotten.
    pub degraded: u64,
    /// Of these, the ones that have all their shards again.
    pub mended: u64,
}

/// What a heal found and did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HealReport {
    /// Objects looked at.
    pub objects: u64,
    /// Stripes looked at.
    pub stripes: u64,
    /// Shards that were not where they should be, those on nodes that do not answer included.
    pub missing: u64,
    /// Shards that were there but no longer match their checksum.
    pub rotten: u64,
    /// Shards made again and stored.
    pub rebuilt: u64,
    /// Their bytes.
    pub rebuilt_bytes: u64,
    /// Shards that could be made again but no node could take: more nodes are needed.
    pub unplaced: u64,
    /// Stripes that had shards missing or rotten.
    pub degraded: u64,
    /// Of these, the ones that have all their shards again.
    pub mended: u64,
    /// Shards on nodes that are waited for ([`HealOptions::spared`]).
    pub waiting: u64,
    /// Superfluous copies that were deleted.
    pub strays: u64,
    /// Objects of which a stripe has too few shards left. They may come back with the nodes that are away.
    pub lost: u64,
    /// The first thousand of these.
    pub unrecoverable: Vec<Lost>,
    /// Nodes that did not answer.
    pub away: Vec<NodeFault>,
}

/// An object of which a stripe cannot be rebuilt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lost {
    /// Its bucket.
    pub bucket: BucketName,
    /// Its key.
    pub key: String,
    /// The first such stripe.
    pub stripe: u64,
    /// Shards it takes.
    pub need: usize,
    /// Shards there are.
    pub have: usize,
    /// The nodes that should have the others.
    pub missing: Vec<NodeFault>,
}

/// A heal under way.
struct Heal {
    inner: Arc<Inner>,
    options: HealOptions,
    inventory: Inventory,
    /// The nodes that are there now.
    chart: Arc<Chart>,
    report: Mutex<HealReport>,
}

/// An object under treatment.
struct Patient {
    bucket: BucketName,
    key: String,
    object: Stored<ObjectRecord>,
    openers: Vec<Arc<Opener>>,
}

/// Why a stripe was not brought back to full strength.
enum Failure {
    Lost { need: usize, have: usize, missing: Vec<NodeFault> },
    Meta(MetaError),
}

impl From<MetaError> for Failure {
    fn from(error: MetaError) -> Self {
        Self::Meta(error)
    }
}

impl Inner {
    pub(crate) async fn heal(self: &Arc<Self>, options: HealOptions) -> Result<HealReport, ListError> {
        // Two at once would rebuild the same shards in the same places, and the one whose commit comes second would delete what it takes for its own.
        let _one_at_a_time = if options.dry_run { None } else { Some(self.healing.lock().await) };
        let all = self.all_buckets().await?.into_iter().map(|(name, _)| name);
        let buckets: Vec<BucketName> = match &options.bucket {
            None => all.collect(),
            Some(one) => {
                let found: Vec<_> = all.filter(|name| name == one).collect();
                if found.is_empty() {
                    return Err(ListError::NoSuchBucket { bucket: one.clone() });
                }
                found
            }
        };
        let inventory = Inventory::take(self).await;
        let report = Mutex::new(HealReport { away: inventory.away(), ..HealReport::default() });
        let heal = Heal { inner: self.clone(), options, inventory, chart: self.current_chart(), report };
        for bucket in buckets {
            heal.bucket(&bucket).await?;
        }
        let mut report = heal.report.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
        report.unrecoverable.sort_by(|a, b| (&a.bucket, &a.key).cmp(&(&b.bucket, &b.key)));
        Ok(report)
    }
}

impl Heal {
    async fn bucket(&self, bucket: &BucketName) -> Result<(), MetaError> {
        let mut after = None;
        loop {
            let prefix = keyspace::object(bucket, "");
            let page: Vec<Stored<ObjectRecord>> = self.inner.store.scan(prefix, after, SCAN_STEP).await?;
            let Some(last) = page.last() else { return Ok(()) };
            after = Some(last.key.clone());
            let mut work =
                stream::iter(page).map(|object| self.object(bucket, object)).buffer_unordered(OBJECTS_AT_ONCE);
            while let Some(done) = work.next().await {
                done?;
            }
        }
    }

    async fn object(&self, bucket: &BucketName, object: Stored<ObjectRecord>) -> Result<(), MetaError> {
        let damaged = || MetaError::Tampered { what: object.key.escape_ascii().to_string() };
        let (_, key) = keyspace::split_object(&object.key).ok_or_else(damaged)?;
        let openers = self.inner.openers(object.value.id, &object.value.body)?;
        let patient = Patient { bucket: bucket.clone(), key, object, openers };
        if patient.object.value.body.inline.is_empty() {
            for number in 0..patient.object.value.body.pages() {
                self.page(&patient, number).await?;
                self.tell();
            }
        } else {
            self.inline(&patient).await?;
        }
        lock(&self.report).objects += 1;
        self.tell();
        Ok(())
    }

    fn tell(&self) {
        let HealReport { objects, stripes, rebuilt, rebuilt_bytes, degraded, mended, .. } = *lock(&self.report);
        if let Some(tell) = &self.options.progress {
            tell(HealProgress { objects, stripes, rebuilt, rebuilt_bytes, degraded, mended });
        }
    }

    async fn inline(&self, patient: &Patient) -> Result<(), MetaError> {
        let mut record = patient.object.value.clone();
        if !self.stripes(patient, 0, &mut record.body.inline).await? {
            return Ok(());
        }
        let put = self.inner.store.put(patient.object.key.clone(), &record);
        let done = self.inner.store.commit(vec![patient.object.unchanged()], vec![put]).await;
        self.committed(patient, 0, &patient.object.value.body.inline, &record.body.inline, done).await
    }

    async fn page(&self, patient: &Patient, number: u32) -> Result<(), MetaError> {
        let key = keyspace::page(patient.object.value.id, number);
        let Some(page) = self.inner.store.get::<ManifestPage>(key.clone()).await? else {
            // Replaced or removed and collected in the meantime: then the object's record has changed as well.
            let still: Option<Stored<ObjectRecord>> = self.inner.store.get(patient.object.key.clone()).await?;
            let same = still.is_some_and(|still| still.revision == patient.object.revision);
            return if same { Err(MetaError::Tampered { what: key.escape_ascii().to_string() }) } else { Ok(()) };
        };
        let first = u64::from(number) * PAGE_STRIPES as u64;
        let mut healed = page.value.clone();
        if !self.stripes(patient, first, &mut healed.stripes).await? {
            return Ok(());
        }
        let conditions: Vec<Condition> = vec![patient.object.unchanged(), page.unchanged()];
        let put = self.inner.store.put(key, &healed);
        let done = self.inner.store.commit(conditions, vec![put]).await;
        self.committed(patient, first, &page.value.stripes, &healed.stripes, done).await
    }

    /// After a commit of new places: if the object has changed in between, nobody refers to what was stored there, so it is deleted again.
    async fn committed(
        &self,
        patient: &Patient,
        first: u64,
        before: &[StripeEntry],
        after: &[StripeEntry],
        done: Result<u64, MetaError>,
    ) -> Result<(), MetaError> {
        match done {
            Err(error) if is_conflict(&error) => {}
            other => return other.map(|_| ()),
        }
        tracing::debug!(target: "atoll::engine", key = patient.key, first, "object changed while it was healed");
        for (old, new) in before.iter().zip(after) {
            for place in new.moved.iter().filter(|place| !old.moved.contains(place)) {
                let Some(opener) = patient.openers.get(usize::from(new.run)) else { continue };
                let id = opener.shard_id(new.record.counter(), usize::from(place.index));
                self.inner.delete_shard(id, place.node).await;
            }
        }
        Ok(())
    }

    /// Heals some stripes. Whether an entry changed.
    async fn stripes(&self, patient: &Patient, first: u64, entries: &mut [StripeEntry]) -> Result<bool, MetaError> {
        let work = (first..).zip(entries.iter().cloned());
        let mut work = stream::iter(work)
            .map(|(stripe, entry)| async move { (stripe, self.stripe(patient, stripe, entry).await) })
            .buffered(STRIPES_AT_ONCE);
        let (mut healed, mut lost) = (Vec::with_capacity(entries.len()), None);
        while let Some((stripe, outcome)) = work.next().await {
            match outcome {
                Ok(entry) => healed.push(entry),
                Err(Failure::Meta(error)) => return Err(error),
                Err(Failure::Lost { need, have, missing }) => {
                    let (bucket, key) = (patient.bucket.clone(), patient.key.clone());
                    lost.get_or_insert(Lost { bucket, key, stripe, need, have, missing });
                    healed.push(None);
                }
            }
        }
        drop(work);
        if let Some(lost) = lost {
            self.note_lost(lost);
        }
        let mut changed = false;
        for (entry, healed) in entries.iter_mut().zip(healed) {
            if let Some(healed) = healed {
                *entry = healed;
                changed = true;
            }
        }
        Ok(changed)
    }

    fn note_lost(&self, lost: Lost) {
        let mut report = lock(&self.report);
        let known = |one: &Lost| one.bucket == lost.bucket && one.key == lost.key;
        if report.unrecoverable.last().is_some_and(known) {
            return;
        }
        report.lost += 1;
        if report.unrecoverable.len() < LOST_LISTED_MAX {
            report.unrecoverable.push(lost);
        }
    }

    /// Heals one stripe; the entry, if it changed.
    async fn stripe(&self, patient: &Patient, stripe: u64, entry: StripeEntry) -> Result<Option<StripeEntry>, Failure> {
        let id = patient.object.value.id;
        let body = &patient.object.value.body;
        let damaged = || MetaError::Tampered { what: format!("the manifest of object {id}") };
        let opener = patient.openers.get(usize::from(entry.run)).ok_or_else(damaged)?.clone();
        let map = body.map(&entry).ok_or_else(damaged)?;
        let placed_by = self.inner.charts.load(&self.inner.store, map).await?;
        let seed = seed(id, stripe);
        let holders = holders(&placed_by, body, &entry, &seed).ok_or_else(damaged)?;
        let wanted = Wanted { stripe, entry, holders, opener };
        let findings = self.examine(&wanted).await;
        let mut entry = wanted.entry.clone();
        let mut changed = self.clear_strays(&wanted, &mut entry).await;
        if findings.iter().any(|finding| *finding != Finding::Present) {
            let ranked = placed_by.ranked(&seed, body.level);
            changed |= self.repair(patient, id, &wanted, &findings, &ranked, &mut entry).await?;
        }
        Ok(changed.then_some(entry))
    }

    /// Looks for every shard of a stripe.
    async fn examine(&self, wanted: &Wanted) -> Vec<Finding> {
        let counter = wanted.entry.record.counter();
        let mut findings = Vec::with_capacity(wanted.holders.len());
        for (index, &node) in wanted.holders.iter().enumerate() {
            let id = wanted.opener.shard_id(counter, index);
            findings.push(self.inventory.find(&self.inner, node, id, self.options.deep).await);
        }
        let mut report = lock(&self.report);
        report.stripes += 1;
        report.degraded += u64::from(findings.iter().any(|finding| *finding != Finding::Present));
        for finding in &findings {
            match finding {
                Finding::Present => {}
                Finding::Rotten => report.rotten += 1,
                Finding::Missing | Finding::Away(_) => report.missing += 1,
            }
        }
        findings
    }

    /// Deletes superfluous copies on nodes that are there. Whether any was.
    async fn clear_strays(&self, wanted: &Wanted, entry: &mut StripeEntry) -> bool {
        if self.options.dry_run || entry.strays.is_empty() {
            return false;
        }
        let mut left = Vec::new();
        for stray in std::mem::take(&mut entry.strays) {
            let index = usize::from(stray.index);
            let legitimate = wanted.holders.get(index) == Some(&stray.node);
            let id = wanted.opener.shard_id(wanted.entry.record.counter(), index);
            if legitimate || self.inner.delete_shard(id, stray.node).await {
                lock(&self.report).strays += 1;
            } else {
                left.push(stray);
            }
        }
        entry.strays = left;
        entry.strays != wanted.entry.strays
    }

    /// Rebuilds what is not there. Whether the entry changed.
    async fn repair(
        &self,
        patient: &Patient,
        object: ObjectId,
        wanted: &Wanted,
        findings: &[Finding],
        ranked: &[NodeId],
        entry: &mut StripeEntry,
    ) -> Result<bool, Failure> {
        let policy = wanted.opener.policy();
        let mut lost: Vec<usize> = (0..findings.len()).filter(|&index| findings[index] != Finding::Present).collect();
        let have = findings.len() - lost.len();
        if have < policy.data() {
            let fault = |&index: &usize| NodeFault { node: wanted.holders[index], why: findings[index].to_string() };
            return Err(Failure::Lost { need: policy.data(), have, missing: lost.iter().map(fault).collect() });
        }
        if self.options.dry_run {
            return Ok(false);
        }
        let all = lost.len();
        if have > policy.data() {
            lost.retain(|&index| !is_spared(&self.options.spared, &findings[index], wanted.holders[index]));
        }
        lock(&self.report).waiting += (all - lost.len()) as u64;
        if lost.is_empty() {
            return Ok(false);
        }
        if let Some(pace) = &self.options.pace {
            let shard = u64::from(wanted.entry.record.plain_len()).div_ceil(policy.data() as u64);
            pace.spend(shard * lost.len() as u64).await;
        }
        let plain = wanted.entry.record.plain_len() as usize;
        let _room = self.inner.get_budget.take(stripe_bytes(policy, plain)).await;
        let rebuilt = match gather::rebuild(&self.inner, wanted, lost.clone()).await {
            Ok(rebuilt) => rebuilt,
            Err(ReadError::TooFewShards { need, have, missing, .. }) => {
                return Err(Failure::Lost { need, have, missing });
            }
            Err(ReadError::Meta(error)) => return Err(error.into()),
            Err(_) => {
                return Err(
                    MetaError::Tampered { what: format!("\"{}\", stripe {}", patient.key, wanted.stripe) }.into()
                );
            }
        };
        let mut holders = wanted.holders.clone();
        let (mut changed, mut placed) = (false, 0);
        for (&index, shard) in lost.iter().zip(rebuilt) {
            let targets = self.targets(&seed(object, wanted.stripe), patient, &holders, index, &findings[index]);
            let Some(target) = self.place(wanted, index, &shard, &findings[index], targets).await else {
                lock(&self.report).unplaced += 1;
                continue;
            };
            {
                let mut report = lock(&self.report);
                report.rebuilt += 1;
                report.rebuilt_bytes += shard.len() as u64;
            }
            changed |= relocate(entry, index, holders[index], target, ranked.get(index).copied());
            holders[index] = target;
            placed += 1;
        }
        if placed == all {
            lock(&self.report).mended += 1;
        }
        Ok(changed)
    }

    /// Where a shard may go, best first.
    fn targets(
        &self,
        seed: &[u8; 16],
        patient: &Patient,
        holders: &[NodeId],
        index: usize,
        finding: &Finding,
    ) -> Vec<NodeId> {
        let level = patient.object.value.body.level;
        let own = (!matches!(finding, Finding::Away(_))).then_some(holders[index]);
        let others: Vec<NodeId> =
            holders.iter().enumerate().filter(|(at, _)| *at != index).map(|(_, &node)| node).collect();
        let free = |node: &NodeId| !others.iter().any(|&other| self.chart.together(other, *node, level));
        let tracker = self.inner.tracker();
        let willing = |node: &NodeId| self.inventory.answers(*node) && !tracker.is_unwilling(*node, now());
        let ranked = self.chart.ranked(seed, level).into_iter().filter(|node| Some(*node) != own);
        own.into_iter().chain(ranked).filter(|node| willing(node)).filter(free).collect()
    }

    /// Stores a rebuilt shard on the first target that takes it.
    async fn place(
        &self,
        wanted: &Wanted,
        index: usize,
        shard: &Bytes,
        finding: &Finding,
        targets: Vec<NodeId>,
    ) -> Option<NodeId> {
        let id = wanted.opener.shard_id(wanted.entry.record.counter(), index);
        for node in targets {
            let Some(home) = self.inner.home(node) else { continue };
            // A node does not overwrite what it has under an id, so a rotten copy goes first.
            let rotten_here = *finding == Finding::Rotten && wanted.holders[index] == node;
            if rotten_here && !self.inner.delete_shard(id, node).await {
                continue;
            }
            match timeout(self.inner.config.patience, home.put(id, shard.clone())).await {
                Ok(Ok(_)) => return Some(node),
                Ok(Err(error)) => {
                    tracing::debug!(target: "atoll::engine", node = %node.short(), why = reason(&error), "rebuilt shard not taken");
                    self.inner.note(node, crate::health::Operation::Put, now(), &Err::<(), _>(error));
                }
                Err(_) => self.inner.tracker().no_answer(node, now()),
            }
        }
        None
    }
}

/// Whether a shard is left on a node that is away, because that may be back soon.
pub(crate) fn is_spared(spared: &BTreeSet<NodeId>, finding: &Finding, holder: NodeId) -> bool {
    matches!(finding, Finding::Away(_)) && spared.contains(&holder)
}

/// Enters the new place of a shard. Whether the entry changed.
fn relocate(entry: &mut StripeEntry, index: usize, from: NodeId, to: NodeId, ranked: Option<NodeId>) -> bool {
    let short = u8::try_from(index).expect("a stripe has at most 96 shards");
    let before = entry.clone();
    entry.moved.retain(|place| place.index != short);
    if ranked != Some(to) {
        entry.moved.push(Place { index: short, node: to });
    }
    let gone = Place { index: short, node: from };
    entry.strays.retain(|stray| *stray != Place { index: short, node: to });
    if from != to && !entry.strays.contains(&gone) {
        entry.strays.push(gone);
    }
    *entry != before
}
