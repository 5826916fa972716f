//! Storing an object of more than one stripe: a journalled pipeline, and how an interrupted one is continued.
//!
//! One half of the pipeline cuts stripes and starts a task for each; the other collects them in order, writes manifest pages and the journal. The byte
//! budget and the bounded channel between the halves limit what is in flight. The journal is committed before the first shard
//! of a run leaves, and with every page; a commit runs beside the pipeline, at most one at a time, so at no moment are there more than
//! [`window`] stripes beyond what the journal says. That many are deleted when an upload is given up or continued.
//!
//! Continuing: the file must be the same by device, inode, size and time of change, and what the journal covers is read again and its hash compared.
//! The rest is sealed by a new run, never with a key and counter that were used before.

use std::sync::Arc;

use atoll_codec::{ObjectKey, STRIPE_BYTES};
use atoll_kv::Mutation;
use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream;
use jiff::Timestamp;
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio_util::task::AbortOnDropHandle;

use crate::chart::Chart;
use crate::config::EngineConfig;
use crate::digest::{ContentDigest, Leaf};
use crate::error::{MetaError, PutError};
use crate::feed::{Feed, FileSource, Piece};
use crate::garbage::Abandoned;
use crate::info::ObjectInfo;
use crate::inner::{Inner, lock};
use crate::keyspace;
use crate::pool::stripe_bytes;
use crate::put::{Guard, Job, PutOptions, StoredStripe, Target, stopped};
use crate::record::{
    Body, Garbage, INLINE_STRIPES_MAX, ManifestPage, ObjectRecord, PAGE_STRIPES, SourceIdentity, StripeEntry, Tail,
    UploadRecord,
};
use crate::store::{Stored, delete, is_conflict};

/// Interrupted uploads of one key that are looked at. There is more than one only if different files were stored under it, each interrupted.
const CANDIDATES_MAX: usize = 64;
/// Stripes that are read at once to check what a journal covers.
const REHASH_AT_ONCE: usize = 4;

type Flight = AbortOnDropHandle<Result<StoredStripe, PutError>>;

/// Stripes that may have been begun beyond the durable ones: the page being committed, the page being collected, those in flight, and two between
/// the halves of the pipeline.
pub(crate) fn window(config: &EngineConfig) -> u32 {
    u32::try_from(2 * PAGE_STRIPES + config.stripes_in_flight + 2).unwrap_or(u32::MAX)
}

/// The second half of the pipeline.
struct Journal<'a> {
    inner: Arc<Inner>,
    options: &'a PutOptions,
    total: Option<u64>,
    resumed: u64,
    /// What is committed with the next page.
    record: UploadRecord,
    /// Stripes since the last page.
    page: Vec<StripeEntry>,
    /// Bytes of content so far.
    size: u64,
    commit: Option<AbortOnDropHandle<Result<(), MetaError>>>,
}

impl Inner {
    pub(crate) async fn put_large(
        self: &Arc<Self>,
        target: Target,
        mut feed: Feed,
        first: Option<(Piece, OwnedSemaphorePermit)>,
        options: PutOptions,
    ) -> Result<ObjectInfo, PutError> {
        let chart = self.current_chart();
        let (mut record, mut changes) = self.continue_or_begin(&target, feed.file(), &options).await?;
        let upload_key = keyspace::upload(&target.name, &target.key, record.id);
        lock(&self.uploading).insert(record.id);
        let mut guard = Guard { inner: self.clone(), uploading: Some(record.id), abandon: None };
        let job = Arc::new(self.begin_run(&mut record, &chart)?);
        changes.push(self.store.put(upload_key.clone(), &record));
        let new_map = self.add_map(&chart, &mut changes);
        match self.store.commit(vec![target.bucket.unchanged()], changes).await {
            Ok(_) => {}
            Err(error) if is_conflict(&error) => {
                self.open_bucket(&target.name).await?;
                return Err(PutError::Contended { key: target.key });
            }
            Err(error) => return Err(error.into()),
        }
        if new_map {
            self.charts.mark_stored(chart.id());
        }
        let give_up = Abandoned::Upload { key: upload_key.clone() };
        if record.source.is_none() {
            guard.abandon = Some(give_up.clone());
        }

        let resumed = record.body.stripes * STRIPE_BYTES as u64;
        feed.seek(resumed);
        let total = feed.len_hint();
        options.report(resumed, total, resumed);
        let (page, commit) = (Vec::with_capacity(PAGE_STRIPES), None);
        let mut journal =
            Journal { inner: self.clone(), options: &options, total, resumed, record, page, size: resumed, commit };
        let stored = pump(&job, &mut feed, first, &mut journal).await.and_then(|()| feed.verify_unchanged());
        if matches!(stored, Err(PutError::SourceChanged { .. })) {
            guard.abandon = Some(give_up);
        }
        stored?;
        let (record, mut changes) = journal.finish(&options);
        changes.push(delete(upload_key));
        let info = self.publish(&target, record, changes, None).await?;
        guard.abandon = None;
        Ok(info)
    }

    /// The journal of an interrupted upload of this very file, or a new one, and the changes to commit with it.
    async fn continue_or_begin(
        self: &Arc<Self>,
        target: &Target,
        file: Option<FileSource>,
        options: &PutOptions,
    ) -> Result<(UploadRecord, Vec<Mutation>), PutError> {
        let prefix = keyspace::uploads_of(&target.name, &target.key);
        let found: Vec<Stored<UploadRecord>> = self.store.scan(prefix, None, CANDIDATES_MAX).await?;
        let (mut chosen, mut changes) = (None, Vec::new());
        for upload in found {
            if lock(&self.uploading).contains(&upload.value.id) {
                continue;
            }
            let wanted = file.as_ref().filter(|_| chosen.is_none() && !options.restart);
            let usable = match wanted {
                Some(file) => self.still_good(&upload.value, target, file).await?,
                None => false,
            };
            if usable {
                self.bury_tail(&upload.value, &mut changes);
                chosen = Some(upload.value);
            } else {
                self.bury_upload(&upload.key, upload.value, &mut changes);
                self.wake.notify_one();
            }
        }
        let record = chosen.unwrap_or_else(|| self.new_upload(target, file.map(|file| file.identity)));
        Ok((record, changes))
    }

    /// Whether an upload can be continued from this source: it is the same file, and what is stored of it is what it still says.
    async fn still_good(
        self: &Arc<Self>,
        upload: &UploadRecord,
        target: &Target,
        from: &FileSource,
    ) -> Result<bool, PutError> {
        let bucket = &target.bucket.value;
        let same = upload.source == Some(from.identity)
            && (upload.body.policy, upload.body.level) == (bucket.policy, bucket.level)
            && upload.body.stripes * STRIPE_BYTES as u64 <= from.len
            && upload.body.runs.len() < usize::from(u16::MAX)
            && upload.body.maps.len() < usize::from(u16::MAX);
        if !same {
            return Ok(false);
        }
        let leaf = |stripe: u64| {
            let piece =
                Piece::File { file: from.file.clone(), offset: stripe * STRIPE_BYTES as u64, len: STRIPE_BYTES };
            async move {
                let _room = self.put_budget.take(STRIPE_BYTES).await;
                let inner = self.clone();
                let work = move || piece.with(&inner.plain, |bytes| Leaf::of(stripe, bytes));
                self.compute(work).await.map_err(stopped)?
            }
        };
        let mut leaves = stream::iter(0..upload.body.stripes).map(leaf).buffered(REHASH_AT_ONCE);
        let mut digest = ContentDigest::default();
        while let Some(leaf) = leaves.next().await {
            digest.push(leaf?);
        }
        Ok(digest == upload.digest)
    }

    fn new_upload(&self, target: &Target, source: Option<SourceIdentity>) -> UploadRecord {
        let id = crate::reserve::fresh_id();
        let bucket = &target.bucket.value;
        let body = Body {
            key: self.wrap(&ObjectKey::generate(), id),
            policy: bucket.policy,
            level: bucket.level,
            runs: Vec::new(),
            maps: Vec::new(),
            stripes: 0,
            stored: 0,
            inline: Vec::new(),
        };
        UploadRecord {
            bucket: target.name.clone(),
            object_key: target.key.clone(),
            id,
            started: Timestamp::now(),
            source,
            body,
            run_first: 0,
            run_map: None,
            window: 0,
            digest: ContentDigest::default(),
        }
    }

    /// Starts a sealing run and enters it in the journal.
    fn begin_run(self: &Arc<Self>, record: &mut UploadRecord, chart: &Arc<Chart>) -> Result<Job, PutError> {
        let key = self.unwrap_key(&record.body.key, record.id)?;
        let sealer = Arc::new(self.codec(record.body.policy).sealer(&key));
        record.body.runs.push(sealer.salt());
        record.run_first = record.body.stripes;
        record.run_map = Some(chart.id());
        record.window = window(&self.config);
        let maps = &mut record.body.maps;
        let map = maps.iter().position(|&id| id == chart.id()).unwrap_or_else(|| {
            maps.push(chart.id());
            maps.len() - 1
        });
        let index = |at: usize| u16::try_from(at).map_err(|_| PutError::TooLarge);
        Ok(Job {
            inner: self.clone(),
            id: record.id,
            sealer,
            chart: chart.clone(),
            policy: record.body.policy,
            level: record.body.level,
            run: index(record.body.runs.len() - 1)?,
            map: index(map)?,
        })
    }

    /// Adds what makes garbage of an upload that is given up.
    pub(crate) fn bury_upload(&self, key: &Bytes, upload: UploadRecord, changes: &mut Vec<Mutation>) {
        self.bury_tail(&upload, changes);
        let UploadRecord { id, body, .. } = upload;
        if body.stripes > 0 {
            changes.push(self.store.put(keyspace::garbage(id), &Garbage::Version { id, body }));
        }
        changes.push(delete(key.clone()));
    }

    /// Adds what makes garbage of the stripes that an upload's last run may have begun beyond its journal.
    fn bury_tail(&self, upload: &UploadRecord, changes: &mut Vec<Mutation>) {
        let Some(&salt) = upload.body.runs.last() else { return };
        let Ok(counter) = u32::try_from(upload.body.stripes - upload.run_first.min(upload.body.stripes)) else {
            return;
        };
        let tail = Tail {
            id: upload.id,
            key: upload.body.key.clone(),
            policy: upload.body.policy,
            level: upload.body.level,
            salt,
            map: upload.run_map,
            counter,
            stripe: upload.body.stripes,
            count: upload.window,
        };
        let at = keyspace::garbage_tail(upload.id, upload.body.runs.len());
        changes.push(self.store.put(at, &Garbage::Tail(tail)));
    }
}

/// Runs both halves of the pipeline to the end of the source.
async fn pump(
    job: &Arc<Job>,
    feed: &mut Feed,
    first: Option<(Piece, OwnedSemaphorePermit)>,
    journal: &mut Journal<'_>,
) -> Result<(), PutError> {
    let in_flight = job.inner.config.stripes_in_flight.saturating_sub(1).max(1);
    let (sender, flights) = mpsc::channel(in_flight);
    let from = journal.record.body.stripes;
    let ((), ()) = tokio::try_join!(produce(job, feed, first, from, sender), journal.collect(flights))?;
    Ok(())
}

/// Cuts stripes and starts storing them.
async fn produce(
    job: &Arc<Job>,
    feed: &mut Feed,
    mut first: Option<(Piece, OwnedSemaphorePermit)>,
    from: u64,
    flights: mpsc::Sender<Flight>,
) -> Result<(), PutError> {
    for stripe in from.. {
        // Wait for a place in the channel first, so that what is begun is bounded by it.
        let Ok(place) = flights.reserve().await else { return Ok(()) };
        let (piece, permit) = match first.take() {
            Some(first) => first,
            None => {
                let len = feed.next_len_max();
                if len == 0 {
                    break;
                }
                let permit = job.inner.put_budget.take(stripe_bytes(job.policy, len)).await;
                let Some(piece) = feed.next(&job.inner.plain).await? else { break };
                (piece, permit)
            }
        };
        let slot = job.sealer.next().map_err(|_| PutError::TooLarge)?;
        let job = job.clone();
        let task = tokio::spawn(async move {
            let stored = job.store(stripe, slot, piece).await;
            drop(permit);
            stored
        });
        place.send(AbortOnDropHandle::new(task));
    }
    Ok(())
}

impl Journal<'_> {
    /// Takes stored stripes in order until the other half is done.
    async fn collect(&mut self, mut flights: mpsc::Receiver<Flight>) -> Result<(), PutError> {
        while let Some(flight) = flights.recv().await {
            let stripe = flight.await.map_err(stopped)??;
            self.record.digest.push(stripe.leaf);
            self.record.body.stored += stripe.shards;
            self.size += stripe.plain;
            self.page.push(stripe.entry);
            if self.page.len() == PAGE_STRIPES {
                self.turn_page().await?;
            }
            self.options.report(self.size, self.total, self.resumed);
        }
        self.settle().await
    }

    /// Starts committing a full page, after the one before is committed.
    async fn turn_page(&mut self) -> Result<(), PutError> {
        self.settle().await?;
        let number = u32::try_from(self.record.body.stripes / PAGE_STRIPES as u64).map_err(|_| PutError::TooLarge)?;
        self.record.body.stripes += PAGE_STRIPES as u64;
        let page = ManifestPage { stripes: std::mem::take(&mut self.page) };
        let store = &self.inner.store;
        let upload = keyspace::upload(&self.record.bucket, &self.record.object_key, self.record.id);
        let changes = vec![store.put(keyspace::page(self.record.id, number), &page), store.put(upload, &self.record)];
        let inner = self.inner.clone();
        let commit = async move { inner.store.commit(Vec::new(), changes).await.map(|_| ()) };
        self.commit = Some(AbortOnDropHandle::new(tokio::spawn(commit)));
        Ok(())
    }

    async fn settle(&mut self) -> Result<(), PutError> {
        if let Some(commit) = self.commit.take() {
            commit.await.map_err(stopped)??;
        }
        Ok(())
    }

    /// The object, and the page that is not yet stored.
    fn finish(self, options: &PutOptions) -> (ObjectRecord, Vec<Mutation>) {
        let UploadRecord { id, mut body, digest, .. } = self.record;
        let before = body.stripes;
        body.stripes += self.page.len() as u64;
        let mut changes = Vec::new();
        if body.stripes <= INLINE_STRIPES_MAX as u64 {
            body.inline = self.page;
        } else if !self.page.is_empty() {
            let number = u32::try_from(before / PAGE_STRIPES as u64).expect("earlier pages were numbered likewise");
            let page = ManifestPage { stripes: self.page };
            changes.push(self.inner.store.put(keyspace::page(id, number), &page));
        }
        let (size, created, meta, content) = (self.size, Timestamp::now(), options.meta.clone(), digest.finish());
        (ObjectRecord { id, size, created, meta, content, body }, changes)
    }
}
