//! Making changes durable: written bytes to blobs, records to a segment, the segment into the head.
//!
//! One flush at a time; whoever wants what a flush under way already covers waits for it and goes. A flush is prepared (blobs stored) and then swung. When it is
//! unclear whether a swing happened, the prepared attempt is kept and settled before anything else: the head is loaded and either is the attempt,
//! or is what was expected and the swing is repeated, or somebody else has it, which is the fence.
//!
//! Little data travels in the segment itself; more goes into blobs of [`PACK_BYTES`]. When the journal is long, the segment is a checkpoint instead: the
//! whole tree, and the segments before it go.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::time::Duration;

use atoll_engine::{BlobManifest, PutError, Source};
use bytes::Bytes;
use futures_util::stream;
use futures_util::{StreamExt, TryStreamExt};
use tokio::time::{Instant, sleep, timeout, timeout_at};

use super::{Shared, lock};
use crate::errno::Errno;
use crate::head::{HEAD_BYTES_MAX, Head, HeadError, Segment};
use crate::tree::change::{Change, HEADER_BYTES, Header, Transaction, push_frame};
use crate::tree::extents::BlobId;
use crate::tree::flush::{Pack, Snapshot};

/// Written bytes up to which they travel in the segment: one dispersal instead of two.
const INLINE_BYTES_MAX: u64 = 1 << 20;
/// Largest blob of file data. Larger ones are harder to free, smaller ones need more manifest per byte.
pub(super) const PACK_BYTES: usize = 4 << 20;
/// Packs that are stored at once; the store's byte budget bounds their stripes.
const PACKS_AT_ONCE: usize = 4;
/// Journal segments after which a checkpoint is written: a mount reads them all.
const JOURNAL_SEGMENTS_MAX: usize = 64;
/// Journal bytes after which a checkpoint is written if that is smaller than they are.
const JOURNAL_BYTES_MIN: u64 = 8 << 20;
/// A head beyond this is due for a checkpoint, well before it no longer fits.
const HEAD_BYTES_DUE: usize = 40 << 10;
/// How long one call of the head store may take before its outcome counts as unknown.
const SWING_LIMIT: Duration = Duration::from_secs(10);
/// Pause before a flush that failed is tried again.
const RETRY_PAUSE: Duration = Duration::from_millis(500);

/// The end of the journal.
pub(super) struct Log {
    pub(super) head: Head,
    pub(super) revision: String,
    /// What of the tree is durable.
    pub(super) version: u64,
    attempt: Option<Attempt>,
    /// A head that differs from the stored one only in healed manifests.
    pub(super) healed: bool,
}

/// A flush whose blobs are stored.
struct Attempt {
    head: Head,
    bytes: Bytes,
    packs: Vec<(Pack, BlobManifest, bool)>,
    doomed: Vec<BlobId>,
    /// Segments that a checkpoint has made superfluous.
    replaced: Vec<Segment>,
    version: u64,
    /// Whether the swing may have happened.
    unclear: bool,
}

/// Why a flush did not succeed.
#[derive(Debug)]
enum FlushError {
    Fenced,
    Later(String),
}

impl From<PutError> for FlushError {
    fn from(error: PutError) -> Self {
        Self::Later(error.to_string())
    }
}

impl Log {
    pub(super) fn new(head: Head, revision: String) -> Self {
        Self { head, revision, version: 0, attempt: None, healed: false }
    }

    /// Whether an attempt waits whose outcome is not known.
    pub(super) fn is_unsettled(&self) -> bool {
        self.attempt.is_some()
    }

    /// Whether the next segment should be a checkpoint.
    fn wants_checkpoint(&self) -> bool {
        let journal: u64 = self.head.journal.iter().map(|segment| segment.bytes).sum();
        let checkpoint = self.head.checkpoint.as_ref().map_or(0, |segment| segment.bytes);
        let manifests: usize = self.head.segments().map(|segment| segment.manifest.as_bytes().len() + 16).sum();
        self.head.journal.len() >= JOURNAL_SEGMENTS_MAX
            || manifests > HEAD_BYTES_DUE
            || (journal > JOURNAL_BYTES_MIN && journal > checkpoint)
    }
}

/// Flushes every so often, and when woken.
pub(super) async fn run(shared: Weak<Shared>, every: Duration) {
    loop {
        let Some(now) = shared.upgrade() else { return };
        let _ = timeout(every, now.wake.notified()).await;
        if now.writable().is_err() {
            return;
        }
        let _ = now.flush_once().await;
        drop(now);
    }
}

impl Shared {
    /// Makes everything up to now durable, within the volume's patience.
    pub(super) async fn sync(self: &Arc<Self>) -> Result<(), Errno> {
        let want = self.tree().version;
        let deadline = Instant::now() + self.options.patience;
        loop {
            let shared = self.clone();
            // A task of its own: whoever waits may go, the flush is not to be cut off half-way.
            let flush = tokio::spawn(async move { shared.flush_to(want).await });
            match timeout_at(deadline, flush).await {
                Ok(Ok(Ok(()))) => return Ok(()),
                Ok(Ok(Err(FlushError::Fenced))) => return Err(Errno::Stale),
                Ok(Ok(Err(FlushError::Later(_)))) if Instant::now() + RETRY_PAUSE < deadline => {
                    sleep(RETRY_PAUSE).await;
                }
                _ => return Err(Errno::Io),
            }
        }
    }

    /// One try to make everything durable; for the background.
    pub(super) async fn flush_once(self: &Arc<Self>) -> Result<(), Errno> {
        let want = self.tree().version;
        let done = self.flush_to(want).await;
        if let Err(FlushError::Later(why)) = &done {
            tracing::warn!(target: "atoll::fs", volume = %self.config.name, why, "flush failed; it is tried again");
        }
        done.map_err(|_| Errno::Io)
    }

    async fn flush_to(self: &Arc<Self>, want: u64) -> Result<(), FlushError> {
        let mut log = self.log.lock().await;
        if log.version >= want && log.attempt.is_none() && !log.healed {
            return Ok(());
        }
        let done = Box::pin(self.flush(&mut log)).await;
        {
            let mut status = lock(&self.status);
            status.epoch = log.head.epoch;
            status.sequence = log.head.sequence;
            status.failing = match &done {
                Ok(()) => None,
                Err(FlushError::Later(why)) => Some(why.clone()),
                Err(FlushError::Fenced) => Some("another node has mounted the volume".to_owned()),
            };
        }
        self.room.notify_waiters();
        done
    }

    async fn flush(self: &Arc<Self>, log: &mut Log) -> Result<(), FlushError> {
        if self.fenced.load(Ordering::Acquire) {
            return Err(FlushError::Fenced);
        }
        if let Some(attempt) = log.attempt.take() {
            self.swing(log, attempt).await?;
        }
        if log.version >= self.tree().version && !log.healed {
            return Ok(());
        }
        let whole = log.wants_checkpoint();
        if whole {
            self.compact().await;
        }
        let attempt = self.prepare(log, whole).await?;
        self.swing(log, attempt).await
    }

    /// Stores what a new head will refer to.
    async fn prepare(self: &Arc<Self>, log: &Log, whole: bool) -> Result<Attempt, FlushError> {
        let shared = self.clone();
        // A checkpoint of many files takes a while to write down.
        let snapshot = tokio::task::spawn_blocking(move || shared.tree().snapshot(whole)).await;
        let mut snapshot = snapshot.map_err(|error| FlushError::Later(error.to_string()))?;
        let mut stored = Vec::new();
        match self.store(log, &mut snapshot, &mut stored).await {
            Ok(attempt) => Ok(attempt),
            Err(error) => {
                self.tree().restore(snapshot.transactions);
                self.discard(stored);
                Err(error)
            }
        }
    }

    /// Deletes blobs that nothing will refer to.
    fn discard(self: &Arc<Self>, manifests: Vec<BlobManifest>) {
        let shared = self.clone();
        tokio::spawn(async move {
            for manifest in manifests {
                let _ = shared.blobs.delete(&manifest).await;
            }
        });
    }

    async fn store(
        self: &Arc<Self>,
        log: &Log,
        snapshot: &mut Snapshot,
        stored: &mut Vec<BlobManifest>,
    ) -> Result<Attempt, FlushError> {
        let inline = snapshot.part_bytes() <= INLINE_BYTES_MAX;
        let mut packs = self.tree().pack(&snapshot.parts, PACK_BYTES);
        let mut own = if inline { packs.pop() } else { None };
        debug_assert!(!inline || packs.is_empty());
        let mut placed = Vec::new();
        let mut work = stream::iter(packs).map(|pack| self.store_pack(pack)).buffered(PACKS_AT_ONCE);
        while let Some((pack, manifest)) = work.try_next().await? {
            stored.push(manifest.clone());
            placed.push((pack, manifest, false));
        }
        drop(work);
        let mut last = std::mem::take(&mut snapshot.attrs);
        for (pack, manifest, _) in &placed {
            let (blob, size) = (pack.blob, pack.len);
            last.push(Change::Blob { blob, manifest: manifest.clone(), size });
            last.extend(pack.changes());
        }
        if let Some(own) = &mut own {
            own.start = HEADER_BYTES;
            last.push(Change::Own { blob: own.blob, size: own.start + own.len });
            last.extend(own.changes());
        }
        let bytes = segment(snapshot, own.as_ref(), Transaction(last));
        let size = bytes.len() as u64;
        let manifest = self.blobs.put(Source::Bytes(bytes)).await?;
        stored.push(manifest.clone());
        if let Some(own) = own {
            placed.push((own, manifest.clone(), true));
        }
        let segment = Segment { manifest, bytes: size };
        let mut head = log.head.clone();
        head.sequence += 1;
        let mut replaced = Vec::new();
        if snapshot.whole.is_some() {
            replaced.extend(head.checkpoint.replace(segment));
            replaced.append(&mut head.journal);
        } else {
            head.journal.push(segment);
        }
        let bytes = self.seal.seal(&head);
        if bytes.len() > HEAD_BYTES_MAX {
            return Err(FlushError::Later("the volume holds too many files for its head".to_owned()));
        }
        let (doomed, version) = (std::mem::take(&mut snapshot.doomed), snapshot.version);
        Ok(Attempt { head, bytes, packs: placed, doomed, replaced, version, unclear: false })
    }

    async fn store_pack(&self, pack: Pack) -> Result<(Pack, BlobManifest), FlushError> {
        let mut bytes = Vec::with_capacity(usize::try_from(pack.len).unwrap_or(0));
        for part in &pack.parts {
            bytes.extend_from_slice(&part.bytes);
        }
        let manifest = self.blobs.put(Source::Bytes(bytes.into())).await?;
        Ok((pack, manifest))
    }

    /// Swings the head to an attempt, or keeps the attempt for the next try.
    async fn swing(self: &Arc<Self>, log: &mut Log, mut attempt: Attempt) -> Result<(), FlushError> {
        if !attempt.unclear {
            match timeout(SWING_LIMIT, self.heads.swing(Some(log.revision.clone()), attempt.bytes.clone())).await {
                Ok(Ok(revision)) => return self.finish(log, attempt, revision),
                // It may have been moved by ourselves, if an answer got lost on the way and the store was asked twice.
                Ok(Err(HeadError::Moved)) | Err(_) => {}
                Ok(Err(HeadError::Unavailable { why })) => {
                    attempt.unclear = true;
                    log.attempt = Some(attempt);
                    return Err(FlushError::Later(why));
                }
            }
        }
        match timeout(SWING_LIMIT, self.heads.load()).await {
            Ok(Ok(Some(found))) if found.bytes == attempt.bytes => self.finish(log, attempt, found.revision),
            Ok(Ok(Some(found))) if found.revision == log.revision => {
                attempt.unclear = false;
                log.attempt = Some(attempt);
                Err(FlushError::Later("the head was not swung".to_owned()))
            }
            Ok(Ok(_)) => {
                // What the attempt stored stays: its swing may have come through just before the other's, who then has replayed it.
                self.fence();
                Err(FlushError::Fenced)
            }
            Ok(Err(error)) => {
                attempt.unclear = true;
                log.attempt = Some(attempt);
                Err(FlushError::Later(error.to_string()))
            }
            Err(_) => {
                attempt.unclear = true;
                log.attempt = Some(attempt);
                Err(FlushError::Later("the head store does not answer".to_owned()))
            }
        }
    }

    /// The attempt is the file system now.
    fn finish(self: &Arc<Self>, log: &mut Log, attempt: Attempt, revision: String) -> Result<(), FlushError> {
        log.head = attempt.head;
        log.revision = revision;
        log.version = attempt.version;
        self.durable.store(attempt.version, Ordering::Release);
        log.healed = false;
        let mut superfluous = Vec::new();
        {
            let mut tree = self.tree();
            for (pack, manifest, pinned) in &attempt.packs {
                if tree.settle(pack, manifest, *pinned).is_err() {
                    return Err(FlushError::Later("the tree contradicts its own snapshot".to_owned()));
                }
                if self.is_degraded(manifest) {
                    lock(&self.degraded).insert(pack.blob);
                }
            }
            tree.sweep();
            for segment in attempt.replaced {
                let mut own = tree.blobs.values_mut().filter(|blob| blob.manifest == segment.manifest);
                match own.next() {
                    Some(blob) => blob.pinned = false,
                    None => superfluous.push(segment.manifest),
                }
            }
        }
        self.tidy(attempt.doomed, superfluous);
        Ok(())
    }
}

/// The bytes of a segment.
fn segment(snapshot: &Snapshot, own: Option<&Pack>, last: Transaction) -> Bytes {
    let (mut frames, mut count) = (Vec::new(), 0);
    match &snapshot.whole {
        Some((whole, many)) => {
            frames.extend_from_slice(whole);
            count += many;
        }
        None => {
            for transaction in &snapshot.transactions {
                push_frame(&mut frames, transaction);
                count += 1;
            }
        }
    }
    push_frame(&mut frames, &last);
    let header = Header { data_bytes: own.map_or(0, |pack| pack.len), frames: count + 1 };
    let mut bytes = header.encode();
    for part in own.iter().flat_map(|pack| &pack.parts) {
        bytes.extend_from_slice(&part.bytes);
    }
    bytes.extend_from_slice(&frames);
    bytes.into()
}
