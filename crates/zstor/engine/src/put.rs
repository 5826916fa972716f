//! Storing an object: which way it goes, and how it becomes visible.
//!
//! An object of at most one stripe takes a reservation (`reserve.rs`), has its shards stored, and is published by one commit. A larger one goes through
//! the journalled pipeline of `upload.rs`. Either way the object appears, or replaces what was under its key, in a single commit after
//! all its shards are durable; the replaced version becomes garbage in that same commit.
//!
//! Of an upload that fails or is dropped nothing is visible, and what it left on nodes is deleted: at once by the collector, or when the engine
//! is opened next. Except for files: their journal stays so that the upload can be continued.

use std::sync::{Arc, Mutex};

use atoll_codec::{Policy, STRIPE_BYTES, SealedStripe, Sealer, Slot};
use atoll_ids::{BucketName, ObjectId};
use atoll_kv::{Condition, Mutation};
use atoll_placement::DomainLevel;
use bytes::Bytes;
use futures_util::future::try_join_all;
use jiff::Timestamp;
use tokio::sync::OwnedSemaphorePermit;

use crate::chart::{Chart, seed};
use crate::digest::{ContentDigest, Leaf};
use crate::error::PutError;
use crate::feed::{Feed, Piece, Source};
use crate::garbage::Abandoned;
use crate::info::ObjectInfo;
use crate::inner::{Inner, lock};
use crate::keyspace::{self, KEY_BYTES_MAX};
use crate::pool::stripe_bytes;
use crate::record::{Body, BucketRecord, Garbage, ObjectKind, ObjectMeta, ObjectRecord, StripeEntry};
use crate::scatter::scatter;
use crate::store::{Stored, conflict, delete, is_conflict, present};

/// How often publishing is tried when others store under the same key at the same time.
const PUBLISH_TRIES: usize = 32;

/// How far an upload is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Bytes of content that are stored, those of an earlier attempt included.
    pub bytes: u64,
    /// Bytes there will be, if known.
    pub total: Option<u64>,
    /// Of `bytes`, how many an earlier attempt had stored.
    pub resumed: u64,
}

/// Called when an upload has got further; from the task that stores, so it should return at once.
pub type ProgressFn = Arc<dyn Fn(Progress) + Send + Sync>;

/// How to store an object.
#[derive(Clone, Default)]
pub struct PutOptions {
    /// What its owner says about it.
    pub meta: ObjectMeta,
    /// Begin anew even if an interrupted upload of the same file could be continued.
    pub restart: bool,
    /// Whom to tell how far it is.
    pub progress: Option<ProgressFn>,
}

impl PutOptions {
    pub(crate) fn report(&self, bytes: u64, total: Option<u64>, resumed: u64) {
        if let Some(progress) = &self.progress {
            progress(Progress { bytes, total, resumed });
        }
    }
}

/// Where an object goes.
pub(crate) struct Target {
    pub(crate) name: BucketName,
    pub(crate) key: String,
    pub(crate) bucket: Stored<BucketRecord>,
}

/// What all stripes of an upload have in common.
pub(crate) struct Job {
    pub(crate) inner: Arc<Inner>,
    pub(crate) id: ObjectId,
    pub(crate) sealer: Arc<Sealer>,
    pub(crate) chart: Arc<Chart>,
    pub(crate) policy: Policy,
    pub(crate) level: DomainLevel,
    pub(crate) run: u16,
    pub(crate) map: u16,
    /// Goes with the last task of the upload: only then can nothing be stored any more.
    pub(crate) guard: Mutex<Guard>,
}

/// A stripe cut from its source.
pub(crate) struct Cut {
    /// Its number in the object.
    pub(crate) stripe: u64,
    pub(crate) slot: Slot,
    pub(crate) piece: Piece,
}

/// A stripe ready to be sent.
struct SealedCut {
    stripe: u64,
    plain: u64,
    leaf: Leaf,
    sealed: SealedStripe,
}

/// A stripe whose shards are durable.
pub(crate) struct StoredStripe {
    pub(crate) entry: StripeEntry,
    pub(crate) leaf: Leaf,
    pub(crate) plain: u64,
    pub(crate) shards: u64,
}

/// Sees to it that what is given up half-way becomes garbage.
pub(crate) struct Guard {
    pub(crate) inner: Arc<Inner>,
    pub(crate) uploading: Option<ObjectId>,
    pub(crate) abandon: Option<Abandoned>,
}

impl Drop for Guard {
    fn drop(&mut self) {
        if let Some(id) = self.uploading {
            lock(&self.inner.uploading).remove(&id);
        }
        if let Some(abandoned) = self.abandon.take() {
            lock(&self.inner.abandoned).push(abandoned);
            self.inner.wake.notify_one();
        }
    }
}

type First = Option<(Piece, OwnedSemaphorePermit)>;

impl Inner {
    pub(crate) async fn put(
        self: &Arc<Self>,
        name: &BucketName,
        key: &str,
        source: Source,
        options: PutOptions,
    ) -> Result<ObjectInfo, PutError> {
        check_key(key)?;
        let bucket = self.open_bucket(name).await?;
        let target = Target { name: name.clone(), key: key.to_owned(), bucket };
        let policy = target.bucket.value.policy;
        let mut feed = Feed::new(source)?;
        let first = self.first_of_stream(&mut feed, policy).await?;
        check_kind(&options.meta.kind, &feed, first.as_ref())?;
        let small = match (&first, &feed) {
            (Some((piece, _)), _) => piece.len() < STRIPE_BYTES,
            (None, Feed::Stream { .. }) => true,
            (None, feed) => feed.is_small(),
        };
        if small {
            Box::pin(self.put_small(target, feed, first, options)).await
        } else {
            Box::pin(self.put_large(target, feed, first, options)).await
        }
    }

    /// A bucket that takes objects.
    pub(crate) async fn open_bucket(&self, name: &BucketName) -> Result<Stored<BucketRecord>, PutError> {
        let bucket: Option<Stored<BucketRecord>> = self.store.get(keyspace::bucket(name)).await?;
        let open = bucket.filter(|bucket| !bucket.value.closing);
        open.ok_or_else(|| PutError::NoSuchBucket { bucket: name.clone() })
    }

    /// The first stripe of a stream, which has to be read to know whether there will be more than one.
    async fn first_of_stream(&self, feed: &mut Feed, policy: Policy) -> Result<First, PutError> {
        if !matches!(feed, Feed::Stream { .. }) {
            return Ok(None);
        }
        let permit = self.put_budget.take(stripe_bytes(policy, STRIPE_BYTES)).await;
        Ok(feed.next(&self.plain).await?.map(|piece| (piece, permit)))
    }

    async fn put_small(
        self: &Arc<Self>,
        target: Target,
        mut feed: Feed,
        first: First,
        options: PutOptions,
    ) -> Result<ObjectInfo, PutError> {
        let BucketRecord { policy, level, .. } = target.bucket.value;
        let ended = matches!(feed, Feed::Stream { .. }) || feed.next_len_max() == 0;
        if first.is_none() && ended {
            return self.put_empty(target, options).await;
        }
        let reservation = self.reserve(policy, level).await?;
        let reserved = keyspace::reserved(reservation.id);
        let abandon = Some(Abandoned::Reserved { key: reserved.clone(), tail: reservation.tail(policy, level) });
        let guard = Mutex::new(Guard { inner: self.clone(), uploading: None, abandon });
        let (piece, permit) = match first {
            Some(first) => first,
            None => {
                let permit = self.put_budget.take(stripe_bytes(policy, feed.next_len_max())).await;
                let piece = feed.next(&self.plain).await?.expect("its length was looked at above");
                (piece, permit)
            }
        };
        let chart = self.current_chart();
        let (id, sealer) = (reservation.id, reservation.sealer.clone());
        let job = Job { inner: self.clone(), id, sealer, chart: chart.clone(), policy, level, run: 0, map: 0, guard };
        let slot = job.sealer.next().map_err(|_| PutError::TooLarge)?;
        let mut stored = job.store(vec![Cut { stripe: 0, slot, piece }]).await?;
        let stripe = stored.pop().expect("one stripe was given");
        drop(permit);
        feed.verify_unchanged()?;

        let mut digest = ContentDigest::default();
        digest.push(stripe.leaf);
        let body = Body {
            key: reservation.wrapped.clone(),
            policy,
            level,
            runs: vec![job.sealer.salt()],
            maps: vec![chart.id()],
            stripes: 1,
            stored: stripe.shards,
            inline: vec![stripe.entry],
        };
        let content = digest.finish();
        options.report(stripe.plain, Some(stripe.plain), 0);
        let record =
            ObjectRecord { id, size: stripe.plain, created: Timestamp::now(), meta: options.meta, content, body };
        let info = self.publish(&target, record, &reserved, vec![delete(reserved.clone())], Some(&chart)).await?;
        job.abandon(None);
        Ok(info)
    }

    /// An object without content: a record and nothing else.
    async fn put_empty(&self, target: Target, options: PutOptions) -> Result<ObjectInfo, PutError> {
        let BucketRecord { policy, level, .. } = target.bucket.value;
        let id = crate::reserve::fresh_id();
        let key = self.wrap(&atoll_codec::ObjectKey::generate(), id);
        let (runs, maps, inline) = (Vec::new(), Vec::new(), Vec::new());
        let body = Body { key, policy, level, runs, maps, stripes: 0, stored: 0, inline };
        let content = ContentDigest::default().finish();
        options.report(0, Some(0), 0);
        let record = ObjectRecord { id, size: 0, created: Timestamp::now(), meta: options.meta, content, body };
        self.publish(&target, record, &target.bucket.key, Vec::new(), None).await
    }

    /// Makes an object visible, in one commit together with `changes`; what it replaces becomes garbage.
    ///
    /// `claim` is the record of the object's journal or reservation. It must still be there: once the collector has taken it, the shards are on their
    /// way out, and neither can happen after the other.
    pub(crate) async fn publish(
        &self,
        target: &Target,
        record: ObjectRecord,
        claim: &Bytes,
        changes: Vec<Mutation>,
        chart: Option<&Chart>,
    ) -> Result<ObjectInfo, PutError> {
        let at = keyspace::object(&target.name, &target.key);
        let mut bucket = target.bucket.clone();
        for _ in 0..PUBLISH_TRIES {
            let old: Option<Stored<ObjectRecord>> = self.store.get(at.clone()).await?;
            let was = old.as_ref().map_or_else(|| Condition::Absent { key: at.clone() }, Stored::unchanged);
            let mut mutations = changes.clone();
            mutations.push(self.store.put(at.clone(), &record));
            let replaced = old.is_some_and(|old| self.bury(old.value, &mut mutations));
            let new_map = chart.filter(|chart| self.add_map(chart, &mut mutations));
            match self.store.commit(vec![bucket.unchanged(), was, present(claim)], mutations).await {
                Ok(_) => {
                    if let Some(chart) = new_map {
                        self.charts.mark_stored(chart.id());
                    }
                    if replaced {
                        self.wake.notify_one();
                    }
                    return Ok(ObjectInfo::new(target.name.clone(), target.key.clone(), &record));
                }
                Err(error) if conflict(&error) == Some(claim) && *claim != bucket.key => {
                    return Err(stopped("it was given up in the meantime"));
                }
                Err(error) if is_conflict(&error) => bucket = self.open_bucket(&target.name).await?,
                Err(error) => return Err(error.into()),
            }
        }
        Err(PutError::Contended { key: target.key.clone() })
    }

    /// Adds what makes a version garbage. Whether it has anything to delete.
    pub(crate) fn bury(&self, old: ObjectRecord, mutations: &mut Vec<Mutation>) -> bool {
        let ObjectRecord { id, body, .. } = old;
        let has_shards = body.stripes > 0;
        if has_shards {
            mutations.push(self.store.put(keyspace::garbage(id), &Garbage::Version { id, body }));
        }
        has_shards
    }

    /// Adds what stores a map, if it is not known to be stored. Whether it was added.
    pub(crate) fn add_map(&self, chart: &Chart, mutations: &mut Vec<Mutation>) -> bool {
        let new = !self.charts.is_stored(chart.id());
        if new {
            mutations.push(self.store.put(keyspace::map(chart.id()), &chart.map));
        }
        new
    }
}

impl Job {
    /// Sets what becomes garbage when the upload ends.
    pub(crate) fn abandon(&self, what: Option<Abandoned>) {
        lock(&self.guard).abandon = what;
    }

    /// Reads, hashes and seals stripes on a thread of its own, then stores their shards.
    ///
    /// Stripes that follow each other are stored together because waking threads costs as much as the work on one: they share the turn at the
    /// processor, and what they have for a node reaches it together and shares its next commit.
    pub(crate) async fn store(&self, cuts: Vec<Cut>) -> Result<Vec<StoredStripe>, PutError> {
        let (inner, sealer) = (self.inner.clone(), self.sealer.clone());
        let work = move || cuts.into_iter().map(|cut| cut.seal(&inner, &sealer)).collect::<Result<Vec<_>, PutError>>();
        let sealed = self.inner.compute(work).await.map_err(stopped)??;
        try_join_all(sealed.iter().map(|sealed| self.scatter(sealed))).await
    }

    async fn scatter(&self, from: &SealedCut) -> Result<StoredStripe, PutError> {
        let SealedCut { stripe, plain, leaf, sealed } = from;
        let seed = seed(self.id, *stripe);
        let scattered = scatter(&self.inner, &self.chart, self.level, &seed, self.policy, sealed).await?;
        let (run, map, record) = (self.run, self.map, sealed.record.clone());
        let entry = StripeEntry { run, map, record, moved: scattered.moved, strays: scattered.strays };
        Ok(StoredStripe { entry, leaf: *leaf, plain: *plain, shards: shard_bytes(sealed) })
    }
}

impl Cut {
    fn seal(self, inner: &Inner, sealer: &Sealer) -> Result<SealedCut, PutError> {
        let Self { stripe, slot, piece } = self;
        let plain = piece.len() as u64;
        let (leaf, sealed) = piece.with(&inner.plain, |bytes| (Leaf::of(stripe, bytes), sealer.seal(slot, bytes)))?;
        Ok(SealedCut { stripe, plain, leaf, sealed: sealed.map_err(stopped)? })
    }
}

fn shard_bytes(sealed: &SealedStripe) -> u64 {
    sealed.shards.iter().map(|shard| shard.len() as u64).sum()
}

pub(crate) fn stopped(error: impl std::fmt::Display) -> PutError {
    PutError::Stopped { why: error.to_string() }
}

fn check_key(key: &str) -> Result<(), PutError> {
    let refuse = |found: &str| Err(PutError::BadKey { found: found.to_owned() });
    match key.len() {
        0 => refuse("this one is empty"),
        len if len > KEY_BYTES_MAX => refuse(&format!("this one has {len} bytes")),
        _ if key.contains('\0') => refuse("this one contains NUL"),
        _ => Ok(()),
    }
}

fn check_kind(kind: &ObjectKind, feed: &Feed, first: Option<&(Piece, OwnedSemaphorePermit)>) -> Result<(), PutError> {
    let bytes = first.map_or_else(
        || if matches!(feed, Feed::Stream { .. }) { 0 } else { feed.len_hint().unwrap_or(0) },
        |(piece, _)| piece.len() as u64,
    );
    let kind = match kind {
        ObjectKind::File => return Ok(()),
        ObjectKind::Symlink(_) => "symbolic link",
        ObjectKind::Directory => "directory",
    };
    if bytes > 0 { Err(PutError::NotAFile { kind, bytes }) } else { Ok(()) }
}
