//! The write path: group commit.
//!
//! Callers queue records; two committer threads take turns. Each takes all that is queued (up to a batch), packs it
//! into its aligned buffer, writes it with one call at the place it was given, syncs, and acknowledges. While one waits
//! for the disk the other packs and writes, so the disk always has something to do, and the more is queued the larger
//! batches get: no timer, no tuning.
//!
//! # Order
//!
//! Batches are *settled* in the order of the log, whatever order their syncs return in: a batch is acknowledged only
//! after all before it were. So what recovery finds before the first hole is all that was ever acknowledged.
//!
//! # When writing or syncing fails
//!
//! After a failed fdatasync nobody knows which blocks reached the disk, and asking again proves nothing: the kernel may
//! have dropped the dirty state with the first report. So the segment is given up at once: this batch and those behind
//! it fail, the segment is sealed where the last acknowledged batch ends, and the next record opens a new segment whose
//! header says where the old one ends, *before* anything in the new one is acknowledged. What the failed batches left
//! on the disk is thereby dead, whether it got there or not. If no segment can be opened the records fail, reads and
//! the index go on, and the next record tries again. Until one is open, the shards of failed records are *doubtful*: a
//! crash now might bring the failed put or delete to light after all. So "already there" and "there is no such shard"
//! are not said of them without a record that makes it true.

use crate::aligned::AlignedBuffer;
use crate::catalog::{Catalog, Location, SegmentFile};
use crate::disk::Disk;
use crate::error::DiskError;
use crate::format::{
    BATCH_BYTES_MAX, BLOCK_BYTES, DATA_START, PreviousSegment, RECORD_HEADER_BYTES, RecordHeader, RecordKind, block_up,
    record_bytes,
};
use crate::keeper::Keeper;
use crate::sync::{lock, read, wait, write};
use atoll_ids::{OwnerId, ShardId};
use bytes::Bytes;
use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, RwLock};
use tokio::sync::{OwnedSemaphorePermit, oneshot};

mod roll;

/// Two: one packs and writes while the other syncs. A third adds memory and no speed.
pub(crate) const COMMITTERS: usize = 2;

/// Why a record did not get into the log.
#[derive(Clone, Debug)]
pub(crate) enum LogError {
    /// No segment may be opened for it.
    Full,
    /// The disk failed.
    Disk(DiskError),
}

/// A record on its way into the log. Its key is pending in the catalog until the log settles it.
pub(crate) struct Job {
    pub(crate) kind: RecordKind,
    pub(crate) owner: OwnerId,
    pub(crate) shard: ShardId,
    pub(crate) crc: u64,
    pub(crate) data: Bytes,
    pub(crate) done: oneshot::Sender<Result<(), LogError>>,
    /// Its share of the queue, given back when it is settled.
    pub(crate) permit: OwnedSemaphorePermit,
}

impl Job {
    fn bytes(&self) -> usize {
        record_bytes(self.data.len())
    }
}

/// The segment that is being written.
struct Active {
    segment: Arc<SegmentFile>,
    bytes: u64,
    /// Where the next batch goes.
    next: u64,
    /// Where the last acknowledged batch ends.
    tail: u64,
    failed: bool,
}

#[derive(Default)]
struct State {
    queue: VecDeque<Job>,
    active: Option<Active>,
    /// The segment before the active one, or before the next one if there is none.
    previous: Option<PreviousSegment>,
    next_segment: u32,
    next_sequence: u64,
    /// Number of the last acknowledged record.
    durable: u64,
    /// Batches given out, batches settled: equal when nothing is under way.
    taken: u64,
    settled: u64,
    /// Committers that wait for work: nobody is woken who is not waiting.
    idle: usize,
    /// A committer is opening a segment.
    rolling: bool,
    closing: bool,
    /// A committer panicked: nothing can be settled any more.
    broken: bool,
}

/// Where the log goes on after recovery.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Resume {
    pub(crate) previous: Option<PreviousSegment>,
    pub(crate) next_segment: u32,
    pub(crate) next_sequence: u64,
}

/// The log, shared by those who queue and those who commit.
pub(crate) struct Log {
    disk: Arc<dyn Disk>,
    catalog: Arc<RwLock<Catalog>>,
    keeper: Arc<Keeper>,
    state: Mutex<State>,
    /// There is something in the queue: for idle committers.
    work: Condvar,
    /// A batch was settled or a segment opened: for committers that wait for the other one.
    changed: Condvar,
}

/// Records with their place in the log.
struct Batch {
    ticket: u64,
    segment: Arc<SegmentFile>,
    offset: u64,
    first_sequence: u64,
    durable: u64,
    jobs: Vec<Job>,
}

impl Log {
    pub(crate) fn new(disk: Arc<dyn Disk>, catalog: Arc<RwLock<Catalog>>, keeper: Arc<Keeper>, resume: Resume) -> Self {
        let state = State {
            previous: resume.previous,
            next_segment: resume.next_segment,
            next_sequence: resume.next_sequence,
            durable: resume.previous.map_or(0, |p| p.durable),
            ..State::default()
        };
        Self { disk, catalog, keeper, state: Mutex::new(state), work: Condvar::new(), changed: Condvar::new() }
    }

    /// Queues a record. What waits is bounded by the permits the jobs hold.
    pub(crate) fn push(&self, job: Job) {
        let mut state = lock(&self.state);
        if state.closing {
            drop(state);
            return self.fail(vec![job], &LogError::Disk(DiskError::closed()));
        }
        state.queue.push_back(job);
        let idle = state.idle > 0;
        drop(state);
        if idle {
            self.work.notify_one();
        }
    }

    /// Ends the committers once everything queued is settled.
    pub(crate) fn close(&self) {
        lock(&self.state).closing = true;
        self.work.notify_all();
        self.changed.notify_all();
    }

    /// A committer's thread.
    pub(crate) fn run(&self) {
        let _fuse = Fuse(self);
        let mut buffer = AlignedBuffer::zeroed(BATCH_BYTES_MAX);
        while let Some(batch) = self.take() {
            let packed = pack(&batch, &mut buffer);
            let written = batch.segment.file.pwrite(&buffer.bytes()[..packed], batch.offset);
            let result = match written {
                Ok(()) => batch.segment.file.sync().map_err(|e| DiskError::new("syncing a segment", e)),
                Err(e) => Err(DiskError::new("writing a segment", e)),
            };
            self.keeper.at_work();
            self.settle(batch, packed as u64, result);
        }
    }

    /// The next batch, with its place in the active segment; `None` when the log is closed and empty.
    fn take(&self) -> Option<Batch> {
        let mut state = lock(&self.state);
        loop {
            if state.broken {
                return None;
            }
            let Some(front) = state.queue.front() else {
                if state.closing {
                    return None;
                }
                state.idle += 1;
                state = wait(&self.work, state);
                state.idle -= 1;
                continue;
            };
            if state.rolling {
                state = wait(&self.changed, state);
                continue;
            }
            let (bytes, kind) = (front.bytes() as u64, front.kind);
            if kind == RecordKind::Put && !read(&self.catalog).may_put() {
                let refused = take_puts(&mut state.queue);
                drop(state);
                self.fail(refused, &LogError::Full);
                state = lock(&self.state);
                continue;
            }
            match &state.active {
                Some(active) if !active.failed && active.next + bytes <= active.bytes => {
                    return Some(cut_batch(&mut state));
                }
                // What is under way belongs to the old segment and must be settled before its end is written down.
                _ if state.taken != state.settled => state = wait(&self.changed, state),
                _ => {
                    state.rolling = true;
                    drop(state);
                    state = self.roll(kind == RecordKind::Put);
                }
            }
        }
    }

    /// In the order of the log: enters a batch into the index, or fails it, and tells those who wait.
    fn settle(&self, batch: Batch, bytes: u64, mut result: Result<(), DiskError>) {
        let mut state = lock(&self.state);
        while state.settled != batch.ticket && !state.broken {
            state = wait(&self.changed, state);
        }
        if state.broken {
            // Dropping the jobs tells those who wait.
            return;
        }
        if let Some(active) = &mut state.active {
            if active.failed && result.is_ok() {
                let earlier = std::io::Error::other("an earlier batch of the segment failed");
                result = Err(DiskError::new("syncing a segment", earlier));
            }
            active.failed |= result.is_err();
        }
        drop(state);

        let count = batch.jobs.len() as u64;
        let freed = self.enter(&batch, bytes, result.is_ok());

        let mut state = lock(&self.state);
        if result.is_ok() {
            state.durable = batch.first_sequence + count - 1;
            if let Some(active) = &mut state.active {
                active.tail = batch.offset + bytes;
            }
        }
        state.settled += 1;
        drop(state);
        self.changed.notify_all();

        if let Err(e) = &result {
            tracing::error!(segment = batch.segment.header.sequence, error = %e, "a batch failed; the segment is given up");
        }
        let result = result.map_err(LogError::Disk);
        for job in batch.jobs {
            // Whoever gave up waiting need not be told.
            let _ = job.done.send(result.clone());
            drop(job.permit);
        }
        if freed {
            self.keeper.look();
        }
    }

    fn enter(&self, batch: &Batch, bytes: u64, durable: bool) -> bool {
        let segment = batch.segment.header.sequence;
        let mut catalog = write(&self.catalog);
        if durable {
            catalog.set_tail(segment, batch.offset + bytes);
        }
        let mut offset = batch.offset;
        let mut freed = false;
        for job in &batch.jobs {
            let len = job.data.len() as u32;
            // Segments are shorter than 4 GiB (SEGMENT_BYTES_MAX).
            let at = durable.then_some(Location { segment, offset: offset as u32, len });
            if !durable {
                catalog.doubt(job.owner, job.shard);
            }
            freed |= catalog.finish(job.kind, job.owner, job.shard, len, at);
            offset += job.bytes() as u64;
        }
        freed
    }

    /// Fails records that never got a place in the log.
    fn fail(&self, jobs: Vec<Job>, error: &LogError) {
        let mut catalog = write(&self.catalog);
        for job in &jobs {
            catalog.finish(job.kind, job.owner, job.shard, job.data.len() as u32, None);
        }
        drop(catalog);
        for job in jobs {
            let _ = job.done.send(Err(error.clone()));
        }
    }
}

/// A committer that panics must not leave the callers waiting: everything not yet acknowledged fails, now and from now
/// on.
struct Fuse<'a>(&'a Log);

impl Drop for Fuse<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let mut state = lock(&self.0.state);
            state.broken = true;
            state.closing = true;
            let queue = std::mem::take(&mut state.queue);
            drop(state);
            self.0.work.notify_all();
            self.0.changed.notify_all();
            drop(queue);
            write(&self.0.catalog).abandon();
        }
    }
}

fn take_puts(queue: &mut VecDeque<Job>) -> Vec<Job> {
    let (puts, others): (Vec<Job>, Vec<Job>) =
        std::mem::take(queue).into_iter().partition(|job| job.kind == RecordKind::Put);
    queue.extend(others);
    puts
}

/// Takes from the queue what fits a batch and the active segment. The first record fits: the caller has looked.
fn cut_batch(state: &mut State) -> Batch {
    let active = state.active.as_mut().expect("the caller found a segment with room");
    let room = (active.bytes - active.next).min(BATCH_BYTES_MAX as u64) as usize;
    let mut bytes = 0;
    let mut jobs = Vec::new();
    while let Some(job) = state.queue.front()
        && bytes + job.bytes() <= room
    {
        bytes += job.bytes();
        jobs.extend(state.queue.pop_front());
    }
    let batch = Batch {
        ticket: state.taken,
        segment: active.segment.clone(),
        offset: active.next,
        first_sequence: state.next_sequence,
        durable: state.durable,
        jobs,
    };
    active.next += block_up(bytes as u64);
    state.taken += 1;
    state.next_sequence += batch.jobs.len() as u64;
    batch
}

/// Writes the batch into `buffer`, padded to whole blocks; its length.
fn pack(batch: &Batch, buffer: &mut AlignedBuffer) -> usize {
    let out = buffer.bytes_mut();
    let mut at = 0;
    let last = batch.jobs.len() - 1;
    for (i, job) in batch.jobs.iter().enumerate() {
        let header = RecordHeader {
            kind: job.kind,
            first: i == 0,
            last: i == last,
            len: job.data.len() as u32,
            sequence: batch.first_sequence + i as u64,
            durable: batch.durable,
            owner: job.owner,
            shard: job.shard,
            crc: job.crc,
        };
        let payload = at + RECORD_HEADER_BYTES;
        let end = payload + job.data.len();
        out[at..payload].copy_from_slice(&header.encode(&batch.segment.header, batch.offset + at as u64));
        out[payload..end].copy_from_slice(&job.data);
        at += job.bytes();
        out[end..at].fill(0);
    }
    let padded = at.next_multiple_of(BLOCK_BYTES);
    out[at..padded].fill(0);
    padded
}

const _: () = assert!(DATA_START.is_multiple_of(BLOCK_BYTES as u64) && BATCH_BYTES_MAX.is_multiple_of(BLOCK_BYTES));
