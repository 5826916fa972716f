//! Storing an object of more than one stripe: its journal, and how an interrupted upload is continued. The stripes themselves go through `pipeline.rs`.
//!
//! The journal is committed before the first shard of a run leaves, and with every few manifest pages, at most one commit at a time, so at no moment
//! are there more than [`window`] stripes beyond what the journal says. That many are deleted when an upload is given up or continued.
//!
//! Continuing: the file must be the same by device, inode, size and time of change, and what the journal covers is read again and its hash compared.
//! The rest is sealed by a new run, never with a key and counter that were used before.

use std::collections::hash_map::Entry;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use atoll_codec::{ObjectKey, STRIPE_BYTES};
use atoll_ids::ObjectId;
use atoll_kv::{Condition, Mutation};
use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream;
use jiff::Timestamp;
use tokio::sync::OwnedSemaphorePermit;

use crate::chart::Chart;
use crate::config::EngineConfig;
use crate::digest::{ContentDigest, Leaf};
use crate::error::PutError;
use crate::feed::{Feed, FileSource, Piece};
use crate::garbage::Abandoned;
use crate::info::ObjectInfo;
use crate::inner::{Inner, lock};
use crate::keyspace;
use crate::pipeline::{Journal, UNSAVED_PAGES_MAX, pump, together};
use crate::put::{Guard, Job, PutOptions, Target, stopped};
use crate::record::{Body, Garbage, PAGE_STRIPES, SourceIdentity, Tail, UploadRecord};
use crate::store::{Stored, delete, is_conflict};

/// Interrupted uploads of one key that are looked at. There is more than one only if different files were stored under it, each interrupted.
const CANDIDATES_MAX: usize = 64;
/// How often beginning is tried when others change the same records at the same time.
const BEGIN_TRIES: usize = 32;
/// A task that is stopped ends when it next waits, so within the time it takes to seal a stripe; that is looked at this often.
const WIND_DOWN_PAUSE: Duration = Duration::from_millis(1);
/// How often it is looked at before whoever waits goes on without: a second or so on any machine that works.
const WIND_DOWN_CHECKS: usize = 500;
/// Stripes that are read at once to check what a journal covers.
const REHASH_AT_ONCE: usize = 4;

/// Stripes that may have been begun beyond the durable ones: the pages being committed, those that wait, the one being collected, the stripes in
/// flight, and two groups between the halves of the pipeline.
pub(crate) fn window(config: &EngineConfig) -> u32 {
    let pages = 2 * UNSAVED_PAGES_MAX + 1;
    let together = together(config.stripes_in_flight);
    u32::try_from(pages * PAGE_STRIPES + config.stripes_in_flight + 2 * together).unwrap_or(u32::MAX)
}

/// Marks an upload as stopped when whoever stores it stops, though some of its tasks may not have ended yet.
struct Ending {
    inner: Arc<Inner>,
    id: ObjectId,
}

impl Drop for Ending {
    fn drop(&mut self) {
        if let Some(ending) = lock(&self.inner.uploading).get_mut(&self.id) {
            *ending = true;
        }
    }
}

impl Job {
    /// Waits for the tasks of a failed upload to end, which were told to: at the next point where they wait for anything.
    async fn wind_down(self: &Arc<Self>) {
        for _ in 0..WIND_DOWN_CHECKS {
            if Arc::strong_count(self) == 1 {
                return;
            }
            tokio::time::sleep(WIND_DOWN_PAUSE).await;
        }
    }
}

/// What an upload starts from.
struct Begun {
    record: UploadRecord,
    /// What has to hold for the first commit, and what it changes besides the journal.
    conditions: Vec<Condition>,
    changes: Vec<Mutation>,
    guard: Guard,
    /// Claims on uploads that are given up with the first commit.
    others: Vec<Guard>,
}

impl Inner {
    pub(crate) async fn put_large(
        self: &Arc<Self>,
        target: Target,
        mut feed: Feed,
        first: Option<(Piece, OwnedSemaphorePermit)>,
        options: PutOptions,
    ) -> Result<ObjectInfo, PutError> {
        let (job, record) = self.begin(&target, feed.file(), &options).await?;
        let _ending = Ending { inner: self.clone(), id: record.id };
        let upload_key = keyspace::upload(&target.name, &target.key, record.id);
        let resumed = record.body.stripes * STRIPE_BYTES as u64;
        feed.seek(resumed);
        let total = feed.len_hint();
        options.report(resumed, total, resumed);
        let mut journal = Journal::new(self.clone(), &options, total, record);
        let stored = pump(&job, &mut feed, first, &mut journal).await.and_then(|()| feed.verify_unchanged());
        if matches!(stored, Err(PutError::SourceChanged { .. })) {
            job.abandon(Some(Abandoned::Upload { key: upload_key.clone() }));
        }
        if stored.is_err() {
            job.wind_down().await;
        }
        stored?;
        let (record, mut changes) = journal.finish();
        changes.push(delete(upload_key.clone()));
        let info = self.publish(&target, record, &upload_key, changes, None).await?;
        job.abandon(None);
        Ok(info)
    }

    /// Takes up or begins an upload: when this returns, its journal is committed and shards may leave.
    async fn begin(
        self: &Arc<Self>,
        target: &Target,
        file: Option<FileSource>,
        options: &PutOptions,
    ) -> Result<(Arc<Job>, UploadRecord), PutError> {
        let chart = self.current_chart();
        let mut bucket = target.bucket.clone();
        for _ in 0..BEGIN_TRIES {
            let Begun { mut record, mut conditions, mut changes, mut guard, others } =
                self.continue_or_begin(target, file.clone(), options).await?;
            let upload_key = keyspace::upload(&target.name, &target.key, record.id);
            if record.source.is_none() {
                guard.abandon = Some(Abandoned::Upload { key: upload_key.clone() });
            }
            let job = Arc::new(self.begin_run(&mut record, &chart, guard)?);
            changes.push(self.store.put(upload_key, &record));
            let new_map = self.add_map(&chart, &mut changes);
            conditions.push(bucket.unchanged());
            match self.store.commit(conditions, changes).await {
                Ok(_) => {
                    drop(others);
                    self.wake.notify_one();
                    if new_map {
                        self.charts.mark_stored(chart.id());
                    }
                    return Ok((job, record));
                }
                // The bucket was changed, or the collector was quicker to tidy an earlier upload away.
                Err(error) if is_conflict(&error) => bucket = self.open_bucket(&target.name).await?,
                Err(error) => return Err(error.into()),
            }
        }
        Err(PutError::Contended { key: target.key.clone() })
    }

    /// The journal of an interrupted upload of this very file, or a new one. Other interrupted uploads of the key are given up.
    async fn continue_or_begin(
        self: &Arc<Self>,
        target: &Target,
        file: Option<FileSource>,
        options: &PutOptions,
    ) -> Result<Begun, PutError> {
        let prefix = keyspace::uploads_of(&target.name, &target.key);
        let found: Vec<Stored<UploadRecord>> = self.store.scan(prefix, None, CANDIDATES_MAX).await?;
        let mut chosen = None;
        let (mut conditions, mut changes, mut others) = (Vec::new(), Vec::new(), Vec::new());
        for upload in found {
            let Some(guard) = self.claim(upload.value.id).await else { continue };
            // What was read may have been finished by someone else before it was claimed.
            conditions.push(upload.unchanged());
            let wanted = file.as_ref().filter(|_| chosen.is_none() && !options.restart);
            let usable = match wanted {
                Some(file) => self.still_good(&upload.value, target, file).await?,
                None => false,
            };
            if usable {
                self.bury_tail(&upload.value, &mut changes);
                chosen = Some((upload.value, guard));
            } else {
                self.bury_upload(&upload.key, upload.value, &mut changes);
                others.push(guard);
            }
        }
        let (record, guard) = match chosen {
            Some(chosen) => chosen,
            None => {
                let record = self.new_upload(target, file.map(|file| file.identity));
                let guard = self.claim(record.id).await.ok_or_else(|| stopped("two uploads drew the same id"))?;
                (record, guard)
            }
        };
        Ok(Begun { record, conditions, changes, guard, others })
    }

    /// Takes an upload for oneself; `None` if someone is working on it. Waits for the last tasks of one that was stopped.
    pub(crate) async fn claim(self: &Arc<Self>, id: ObjectId) -> Option<Guard> {
        for _ in 0..WIND_DOWN_CHECKS {
            match lock(&self.uploading).entry(id) {
                Entry::Vacant(free) => {
                    free.insert(false);
                    return Some(Guard { inner: self.clone(), uploading: Some(id), abandon: None });
                }
                Entry::Occupied(taken) if !taken.get() => return None,
                Entry::Occupied(_) => {}
            }
            tokio::time::sleep(WIND_DOWN_PAUSE).await;
        }
        None
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
    fn begin_run(
        self: &Arc<Self>,
        record: &mut UploadRecord,
        chart: &Arc<Chart>,
        guard: Guard,
    ) -> Result<Job, PutError> {
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
            guard: Mutex::new(guard),
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
