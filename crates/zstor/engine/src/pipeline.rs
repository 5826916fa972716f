//! The pipeline of a large upload: one half cuts stripes and starts a task for a few of them, the other collects them in order, writes manifest pages and keeps the
//! journal.
//!
//! The byte budget and the bounded channel between the halves limit what is in flight. Pages are committed beside the pipeline, one commit at a time: only
//! when [`UNSAVED_PAGES_MAX`] further pages were filled in the meantime does the pipeline wait for the metadata's disk. If either half fails the other stops, and stripes
//! that are on their way are dropped.

use std::sync::Arc;

use atoll_codec::STRIPE_BYTES;
use atoll_kv::Mutation;
use jiff::Timestamp;
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio_util::task::AbortOnDropHandle;

use crate::error::{MetaError, PutError};
use crate::feed::{Feed, Piece};
use crate::inner::Inner;
use crate::keyspace;
use crate::pool::stripe_bytes;
use crate::put::{Cut, Job, PutOptions, StoredStripe, stopped};
use crate::record::{INLINE_STRIPES_MAX, ManifestPage, ObjectRecord, PAGE_STRIPES, StripeEntry, UploadRecord};
use crate::store::present;

/// Pages that may wait for a commit. At gigabytes per second a page is filled in some 40 ms, and a flush on a disk that is busy with shards can take a few
/// times that.
pub(crate) const UNSAVED_PAGES_MAX: usize = 4;

/// Stripes that are stored together, at most (see [`Job::store`]): with 256 KiB shards, a mebibyte for each node.
const STRIPES_TOGETHER: usize = 4;

type Flight = AbortOnDropHandle<Result<Vec<StoredStripe>, PutError>>;

/// How many stripes go together when so many may be in flight: three groups, one being sealed, one on its way, one waiting for disks.
pub(crate) fn together(stripes_in_flight: usize) -> usize {
    (stripes_in_flight / 3).clamp(1, STRIPES_TOGETHER)
}

/// The second half of the pipeline.
pub(crate) struct Journal<'a> {
    inner: Arc<Inner>,
    options: &'a PutOptions,
    total: Option<u64>,
    resumed: u64,
    /// What is committed with the next page.
    record: UploadRecord,
    /// Stripes since the last page.
    page: Vec<StripeEntry>,
    /// Full pages that wait for the commit before theirs; counted in the record already.
    unsaved: Vec<Mutation>,
    /// Bytes of content so far.
    size: u64,
    commit: Option<AbortOnDropHandle<Result<(), MetaError>>>,
}

/// Runs both halves of the pipeline to the end of the source.
pub(crate) async fn pump(
    job: &Arc<Job>,
    feed: &mut Feed,
    first: Option<(Piece, OwnedSemaphorePermit)>,
    journal: &mut Journal<'_>,
) -> Result<(), PutError> {
    let stripes_in_flight = job.inner.config.stripes_in_flight;
    let in_flight = (stripes_in_flight / together(stripes_in_flight)).saturating_sub(1).max(1);
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
    let together = together(job.inner.config.stripes_in_flight);
    let mut stripe = from;
    loop {
        // Wait for a place in the channel first, so that what is begun is bounded by it.
        let Ok(place) = flights.reserve().await else { return Ok(()) };
        let (mut cuts, mut permits) = (Vec::with_capacity(together), Vec::with_capacity(together));
        while cuts.len() < together {
            let next = match first.take() {
                Some(first) => Some(first),
                None => cut(job, feed, cuts.is_empty()).await?,
            };
            let Some((piece, permit)) = next else { break };
            let slot = job.sealer.next().map_err(|_| PutError::TooLarge)?;
            cuts.push(Cut { stripe, slot, piece });
            permits.push(permit);
            stripe += 1;
        }
        if cuts.is_empty() {
            return Ok(());
        }
        let job = job.clone();
        let task = tokio::spawn(async move {
            let stored = job.store(cuts).await;
            drop(permits);
            stored
        });
        place.send(AbortOnDropHandle::new(task));
    }
}

/// The next stripe and its share of the memory; `None` at the end. For a stripe that is not the first of its group also `None` if it would have to be
/// waited for: whoever holds memory must not wait for more, and what came slowly from a stream need not wait for what follows.
async fn cut(job: &Job, feed: &mut Feed, first: bool) -> Result<Option<(Piece, OwnedSemaphorePermit)>, PutError> {
    let len = feed.next_len_max();
    if len == 0 || (!first && matches!(feed, Feed::Stream { .. })) {
        return Ok(None);
    }
    let bytes = stripe_bytes(job.policy, len);
    let budget = &job.inner.put_budget;
    let permit = if first { Some(budget.take(bytes).await) } else { budget.try_take(bytes) };
    let Some(permit) = permit else { return Ok(None) };
    Ok(feed.next(&job.inner.plain).await?.map(|piece| (piece, permit)))
}

impl<'a> Journal<'a> {
    /// The journal of an upload whose record is committed.
    pub(crate) fn new(inner: Arc<Inner>, options: &'a PutOptions, total: Option<u64>, record: UploadRecord) -> Self {
        let resumed = record.body.stripes * STRIPE_BYTES as u64;
        let (page, unsaved, commit) = (Vec::with_capacity(PAGE_STRIPES), Vec::new(), None);
        Self { inner, options, total, resumed, record, page, unsaved, size: resumed, commit }
    }

    /// Takes stored stripes in order until the other half is done.
    async fn collect(&mut self, mut flights: mpsc::Receiver<Flight>) -> Result<(), PutError> {
        while let Some(flight) = flights.recv().await {
            for stripe in flight.await.map_err(stopped)?? {
                self.record.digest.push(stripe.leaf);
                self.record.body.stored += stripe.shards;
                self.size += stripe.plain;
                self.page.push(stripe.entry);
                if self.page.len() == PAGE_STRIPES {
                    self.turn_page().await?;
                }
            }
            self.options.report(self.size, self.total, self.resumed);
        }
        self.settle().await
    }

    /// Starts committing the full pages; those that are filled while a commit is under way go with the next.
    async fn turn_page(&mut self) -> Result<(), PutError> {
        let number = u32::try_from(self.record.body.stripes / PAGE_STRIPES as u64).map_err(|_| PutError::TooLarge)?;
        self.record.body.stripes += PAGE_STRIPES as u64;
        let page = ManifestPage { stripes: std::mem::take(&mut self.page) };
        let store = &self.inner.store;
        self.unsaved.push(store.put(keyspace::page(self.record.id, number), &page));
        let committing = self.commit.as_ref().is_some_and(|commit| !commit.is_finished());
        if committing && self.unsaved.len() < UNSAVED_PAGES_MAX {
            return Ok(());
        }
        let upload = keyspace::upload(&self.record.bucket, &self.record.object_key, self.record.id);
        let mut changes = std::mem::take(&mut self.unsaved);
        changes.push(store.put(upload.clone(), &self.record));
        self.settle().await?;
        let inner = self.inner.clone();
        // If the upload was dropped and taken by the collector, a commit that comes late must not bring the journal back.
        let commit = async move { inner.store.commit(vec![present(&upload)], changes).await.map(|_| ()) };
        self.commit = Some(AbortOnDropHandle::new(tokio::spawn(commit)));
        Ok(())
    }

    async fn settle(&mut self) -> Result<(), PutError> {
        if let Some(commit) = self.commit.take() {
            commit.await.map_err(stopped)??;
        }
        Ok(())
    }

    /// The object, and the pages that are not yet stored.
    pub(crate) fn finish(self) -> (ObjectRecord, Vec<Mutation>) {
        let UploadRecord { id, mut body, digest, .. } = self.record;
        let before = body.stripes;
        body.stripes += self.page.len() as u64;
        let mut changes = self.unsaved;
        if body.stripes <= INLINE_STRIPES_MAX as u64 {
            body.inline = self.page;
        } else if !self.page.is_empty() {
            let number = u32::try_from(before / PAGE_STRIPES as u64).expect("earlier pages were numbered likewise");
            let page = ManifestPage { stripes: self.page };
            changes.push(self.inner.store.put(keyspace::page(id, number), &page));
        }
        let (size, created, meta, content) = (self.size, Timestamp::now(), self.options.meta.clone(), digest.finish());
        (ObjectRecord { id, size, created, meta, content, body }, changes)
    }
}
