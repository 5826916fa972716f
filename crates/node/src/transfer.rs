//! Long work over many objects: storing trees, reading trees back, removing prefixes. Each is a job that tells of its progress through a
//! bounded channel and ends when its receiver is gone.
//!
//! Jobs are resumable because they are repeatable: what is there already with the same size and time of change is not
//! moved again, and a big file that broke off continues where its last durable stripe ended.

pub(crate) mod get;
mod names;
pub(crate) mod put;
pub(crate) mod remove;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use atoll_control::{Event, TransferSummary};
use tokio::sync::mpsc;

/// Events that wait for a slow receiver; progress is dropped beyond, warnings wait.
pub(crate) const EVENTS_WAITING_MAX: usize = 64;

/// Small objects cost a round trip and a disk sync each; so many at once keep the disks' group commits full.
pub(crate) const OBJECTS_AT_ONCE: usize = 128;

/// Bytes of an object for one slot of [`OBJECTS_AT_ONCE`]: a small object takes one.
const SLOT_BYTES: u64 = 64 << 10;

/// A big object has a few stripes in memory at once, so it takes as many slots as a small one would take of their memory; eight of them
/// keep every node busy.
const SLOTS_MAX: u32 = OBJECTS_AT_ONCE as u32 / 8;

/// How many slots an object of `bytes` takes while it is moved.
pub(crate) fn slots(bytes: u64) -> u32 {
    u32::try_from(bytes / SLOT_BYTES + 1).unwrap_or(SLOTS_MAX).min(SLOTS_MAX)
}

/// Often enough for a bar that moves.
const PROGRESS_EVERY: Duration = Duration::from_millis(125);

/// Counts what a job has done and tells its receiver.
pub(crate) struct Tracker {
    began: Instant,
    events: mpsc::Sender<Event>,
    items: AtomicU64,
    bytes: AtomicU64,
    moved_items: AtomicU64,
    moved_bytes: AtomicU64,
    unchanged: AtomicU64,
    skipped: AtomicU64,
    total_items: AtomicU64,
    total_bytes: AtomicU64,
    total_known: AtomicBool,
}

impl Tracker {
    /// Starts counting, and telling through `events`.
    pub(crate) fn start(events: mpsc::Sender<Event>) -> Arc<Self> {
        let tracker = Arc::new(Self {
            began: Instant::now(),
            events,
            items: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            moved_items: AtomicU64::new(0),
            moved_bytes: AtomicU64::new(0),
            unchanged: AtomicU64::new(0),
            skipped: AtomicU64::new(0),
            total_items: AtomicU64::new(0),
            total_bytes: AtomicU64::new(0),
            total_known: AtomicBool::new(false),
        });
        let weak = Arc::downgrade(&tracker);
        tokio::spawn(async move {
            let mut ticks = tokio::time::interval(PROGRESS_EVERY);
            loop {
                ticks.tick().await;
                let Some(tracker) = weak.upgrade() else { return };
                // A receiver that is behind gets the next one instead.
                let _ = tracker.events.try_send(tracker.progress());
            }
        });
        tracker
    }

    /// Whether nobody wants the result any more.
    pub(crate) fn is_cancelled(&self) -> bool {
        self.events.is_closed()
    }

    /// Resolves once nobody wants the result any more.
    pub(crate) async fn cancelled(&self) {
        self.events.closed().await;
    }

    /// The whole is known now.
    pub(crate) fn total(&self, items: u64, bytes: u64) {
        self.total_items.store(items, Ordering::Relaxed);
        self.total_bytes.store(bytes, Ordering::Relaxed);
        self.total_known.store(true, Ordering::Relaxed);
    }

    /// `bytes` more were moved.
    pub(crate) fn moved_bytes(&self, bytes: u64) {
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
        self.moved_bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// One more item is done, its bytes counted before.
    pub(crate) fn moved_item(&self) {
        self.items.fetch_add(1, Ordering::Relaxed);
        self.moved_items.fetch_add(1, Ordering::Relaxed);
    }

    /// One item of `bytes` needed not be moved.
    pub(crate) fn unchanged(&self, bytes: u64) {
        self.items.fetch_add(1, Ordering::Relaxed);
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
        self.unchanged.fetch_add(1, Ordering::Relaxed);
    }

    /// One item was left out, and why.
    pub(crate) async fn skipped(&self, message: String) {
        self.items.fetch_add(1, Ordering::Relaxed);
        self.skipped.fetch_add(1, Ordering::Relaxed);
        // A receiver that is gone ends the job elsewhere.
        let _ = self.events.send(Event::Warning { message }).await;
    }

    fn progress(&self) -> Event {
        let known = self.total_known.load(Ordering::Relaxed);
        Event::Progress {
            items: self.items.load(Ordering::Relaxed),
            items_total: known.then(|| self.total_items.load(Ordering::Relaxed)),
            bytes: self.bytes.load(Ordering::Relaxed),
            bytes_total: known.then(|| self.total_bytes.load(Ordering::Relaxed)),
        }
    }

    /// What was done so far.
    pub(crate) fn summary(&self) -> TransferSummary {
        TransferSummary {
            items: self.moved_items.load(Ordering::Relaxed),
            unchanged: self.unchanged.load(Ordering::Relaxed),
            skipped: self.skipped.load(Ordering::Relaxed),
            bytes: self.moved_bytes.load(Ordering::Relaxed),
            seconds: self.began.elapsed().as_secs_f64(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn big_objects_take_more_slots_and_never_all() {
        let check = |bytes: u64, expected: u32| assert_eq!(slots(bytes), expected, "{bytes}");
        check(0, 1);
        check(SLOT_BYTES - 1, 1);
        check(SLOT_BYTES, 2);
        check(1 << 40, SLOTS_MAX);
        check(u64::MAX, SLOTS_MAX);
    }
}
