//! Watching: what changed after a revision, in order and without gaps, and how things stood at a revision not long past.
//!
//! The last changes are kept in memory, up to a number of bytes. A watcher is a position in them and nothing else, so a thousand watchers cost
//! next to nothing and a slow one holds nobody up: when the changes it has not read yet are dropped, it is told [`WatchError::Compacted`]
//! and has to read everything anew. After a restart everything before is compacted.
//!
//! **Invariants.** A batch holds all changes (of the prefix) between the revision of the batch before and its own, no revision is cut in two, and
//! nothing is shown before it is durable.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Mutex, MutexGuard, PoisonError},
};

use bytes::Bytes;
use futures_util::{future::BoxFuture, stream::BoxStream};
use tokio::sync::watch;

use crate::{Entry, KeyValue, KvError, Revision, Scan};

/// Most changes handed over at once, so that a watcher far behind does not copy all of the history at a stroke. A revision is
/// never cut, so a batch may exceed this by one commit.
const BATCH_CHANGES_MAX: usize = 512;

/// What a kept change costs besides its bytes: the record itself and the headers of its shared buffers.
const CHANGE_OVERHEAD_BYTES: usize = 200;

/// A value as it was, and the revision that wrote it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Version {
    /// The revision that wrote it.
    pub revision: Revision,
    /// The value.
    pub value: Bytes,
}

/// One key changed by a commit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// The revision of the commit.
    pub revision: Revision,
    /// The key.
    pub key: Bytes,
    /// What was there before, if anything.
    pub old: Option<Version>,
    /// What is there now; `None` when the key was deleted. Never `None` in both.
    pub new: Option<Bytes>,
}

impl Change {
    fn bytes(&self) -> usize {
        let old = self.old.as_ref().map_or(0, |old| old.value.len());
        CHANGE_OVERHEAD_BYTES + self.key.len() + old + self.new.as_ref().map_or(0, Bytes::len)
    }
}

/// What happened up to a revision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Batch {
    /// The changes of the watched prefix, by revision; none when only other keys changed.
    pub changes: Vec<Change>,
    /// Everything up to this revision has now been delivered.
    pub revision: Revision,
}

/// Entries, all as they stood at one revision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page {
    /// The entries, ordered by key.
    pub entries: Vec<Entry>,
    /// The revision at which this was so.
    pub revision: Revision,
}

/// Why changes, or an earlier state, cannot be delivered.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WatchError {
    /// They are no longer kept. Read everything anew and watch from the revision of that.
    #[error("changes after revision {after} are no longer kept (only those after {oldest}); read everything again")]
    Compacted {
        /// The revision asked for.
        after: Revision,
        /// The earliest revision that can be asked for.
        oldest: Revision,
    },
    /// The state of a revision that has not happened was asked for.
    #[error("revision {asked} has not happened yet; the last one is {last}")]
    Future {
        /// The revision asked for.
        asked: Revision,
        /// The last revision.
        last: Revision,
    },
    /// The store was opened without a history.
    #[error("this key-value store keeps no history; open it with history_bytes_max above 0")]
    Off,
    /// The store has been closed.
    #[error("the key-value store has been closed")]
    Closed,
    /// The store could not be read.
    #[error(transparent)]
    Read(#[from] KvError),
}

/// Batches of changes; ends after an error.
pub type ChangeStream = BoxStream<'static, Result<Batch, WatchError>>;

/// A [`KeyValue`] store that tells of its changes.
pub trait Watch: KeyValue {
    /// The last durable revision.
    ///
    /// # Errors
    /// [`KvError::Unavailable`] when the store cannot be asked.
    fn revision(&self) -> BoxFuture<'_, Result<Revision, KvError>>;

    /// Like [`KeyValue::scan`], with the revision at which this was so; at the last revision, or at the given one.
    ///
    /// # Errors
    /// [`WatchError::Compacted`] and [`WatchError::Future`] when that revision cannot be shown, [`WatchError::Read`] otherwise.
    fn scan_at(&self, scan: Scan, at: Option<Revision>) -> BoxFuture<'_, Result<Page, WatchError>>;

    /// All changes of keys with this prefix after revision `after`, as they become durable.
    ///
    /// # Errors
    /// [`WatchError::Compacted`] when they are no longer kept, [`WatchError::Off`] when none ever are. Errors also end the stream.
    fn watch(&self, prefix: Bytes, after: Revision) -> Result<ChangeStream, WatchError>;
}

/// The last changes of a store.
pub(crate) struct History {
    ring: Mutex<Ring>,
    /// The last revision watchers may see.
    visible: watch::Sender<Revision>,
}

struct Ring {
    changes: VecDeque<Change>,
    bytes: usize,
    bytes_max: usize,
    /// Changes up to and including this revision are not kept.
    compacted: Revision,
    closed: bool,
}

impl History {
    /// An empty history that begins after `revision`.
    pub(crate) fn new(revision: Revision, bytes_max: usize) -> Self {
        let ring = Ring { changes: VecDeque::new(), bytes: 0, bytes_max, compacted: revision, closed: false };
        Self { ring: Mutex::new(ring), visible: watch::Sender::new(revision) }
    }

    fn ring(&self) -> MutexGuard<'_, Ring> {
        // The ring is consistent between any two statements that could panic.
        self.ring.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether changes are kept at all.
    pub(crate) fn is_on(&self) -> bool {
        self.ring().bytes_max > 0
    }

    /// Takes the changes of commits that are about to be written. Watchers do not see them before [`History::publish`]; states of
    /// the past that are computed from a snapshot may already need them.
    pub(crate) fn stage(&self, changes: Vec<Change>) {
        let mut ring = self.ring();
        for change in changes {
            ring.bytes += change.bytes();
            ring.changes.push_back(change);
        }
    }

    /// Everything up to this revision is durable.
    pub(crate) fn publish(&self, revision: Revision) {
        self.ring().trim();
        self.visible.send_if_modified(|visible| std::mem::replace(visible, revision) != revision);
    }

    /// The staged changes after this revision did not become durable.
    pub(crate) fn retract(&self, revision: Revision) {
        let mut ring = self.ring();
        while ring.changes.back().is_some_and(|change| change.revision > revision) {
            let dropped = ring.changes.pop_back();
            ring.bytes -= dropped.map_or(0, |change| change.bytes());
        }
    }

    /// Ends all watchers.
    pub(crate) fn close(&self) {
        self.ring().closed = true;
        self.visible.send_modify(|_| {});
    }

    /// The next batch for a watcher that has seen everything up to `after`; `None` when nothing has happened since.
    fn next(&self, prefix: &[u8], after: Revision) -> Result<Option<Batch>, WatchError> {
        let ring = self.ring();
        // Read under the lock, so that everything up to it is in the ring.
        let visible = *self.visible.borrow();
        if ring.closed {
            return Err(WatchError::Closed);
        }
        if visible <= after {
            return Ok(None);
        }
        ring.check(after)?;
        let mut batch = Batch { changes: Vec::new(), revision: visible };
        for change in ring.after(after).take_while(|change| change.revision <= visible) {
            let full = batch.changes.len() >= BATCH_CHANGES_MAX;
            if full && batch.changes.last().is_some_and(|last| last.revision < change.revision) {
                batch.revision = change.revision - 1;
                break;
            }
            if change.key.starts_with(prefix) {
                batch.changes.push(change.clone());
            }
        }
        Ok(Some(batch))
    }

    /// What keys with this prefix were at revision `at`, where that differs from how they are at `now`.
    pub(crate) fn undo(
        &self,
        prefix: &[u8],
        at: Revision,
        now: Revision,
    ) -> Result<BTreeMap<Bytes, Option<Version>>, WatchError> {
        if at > now {
            return Err(WatchError::Future { asked: at, last: now });
        }
        let ring = self.ring();
        if at < now {
            ring.check(at)?;
        }
        let mut states = BTreeMap::new();
        for change in ring.after(at).take_while(|change| change.revision <= now) {
            if change.key.starts_with(prefix) {
                states.entry(change.key.clone()).or_insert_with(|| change.old.clone());
            }
        }
        Ok(states)
    }
}

impl Ring {
    fn check(&self, after: Revision) -> Result<(), WatchError> {
        if self.bytes_max == 0 {
            return Err(WatchError::Off);
        }
        if after < self.compacted {
            return Err(WatchError::Compacted { after, oldest: self.compacted });
        }
        Ok(())
    }

    fn after(&self, revision: Revision) -> impl Iterator<Item = &Change> {
        let from = self.changes.partition_point(|change| change.revision <= revision);
        self.changes.range(from..)
    }

    /// Drops the oldest changes beyond the limit, whole revisions at a time.
    fn trim(&mut self) {
        while let Some(first) = self.changes.front() {
            if self.bytes <= self.bytes_max && first.revision > self.compacted {
                break;
            }
            self.compacted = self.compacted.max(first.revision);
            self.bytes -= first.bytes();
            self.changes.pop_front();
        }
    }
}

/// The stream behind [`Watch::watch`] over a history in this process.
pub(crate) fn stream(
    history: std::sync::Arc<History>,
    prefix: Bytes,
    after: Revision,
) -> Result<ChangeStream, WatchError> {
    {
        let ring = history.ring();
        ring.check(after)?;
    }
    let visible = history.visible.subscribe();
    let state = Some((history, visible, prefix, after));
    let stream = futures_util::stream::unfold(state, |state| async move {
        let (history, mut visible, prefix, after) = state?;
        loop {
            // Marked as seen before looking, so that a change in between wakes us.
            visible.mark_unchanged();
            match history.next(&prefix, after) {
                Ok(Some(batch)) => {
                    let revision = batch.revision;
                    return Some((Ok(batch), Some((history, visible, prefix, revision))));
                }
                Ok(None) => {
                    // The sender lives in the history that we hold.
                    let _ = visible.changed().await;
                }
                Err(error) => return Some((Err(error), None)),
            }
        }
    });
    Ok(Box::pin(stream))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;

    fn change(revision: Revision, key: &str) -> Change {
        Change { revision, key: Bytes::copy_from_slice(key.as_bytes()), old: None, new: Some(Bytes::from_static(b"x")) }
    }

    fn add(history: &History, changes: Vec<Change>) {
        let last = changes.last().unwrap().revision;
        history.stage(changes);
        history.publish(last);
    }

    #[test]
    fn old_changes_go_by_whole_revisions() {
        let history = History::new(0, 4 * (CHANGE_OVERHEAD_BYTES + 2));
        add(&history, vec![change(1, "a"), change(1, "b"), change(2, "c")]);
        assert_eq!(history.next(b"", 0).unwrap().unwrap().changes.len(), 3);
        add(&history, vec![change(3, "d"), change(4, "e")]);
        assert_eq!(history.next(b"", 0), Err(WatchError::Compacted { after: 0, oldest: 1 }));
        assert_eq!(history.next(b"", 1).unwrap().unwrap().changes.len(), 3);
    }

    #[test]
    fn staged_changes_are_not_shown() {
        let history = History::new(7, 1 << 20);
        history.stage(vec![change(8, "a")]);
        assert_eq!(history.next(b"", 7), Ok(None));
        history.retract(7);
        history.publish(7);
        assert_eq!(history.next(b"", 7), Ok(None));
        add(&history, vec![change(8, "b")]);
        assert_eq!(history.next(b"", 7).unwrap().unwrap().changes, [change(8, "b")]);
    }

    #[test]
    fn a_watcher_far_behind_gets_batches_without_gaps() {
        let history = History::new(0, 1 << 24);
        add(
            &history,
            (1..=2000).map(|revision| change(revision, if revision % 2 == 0 { "a/x" } else { "b" })).collect(),
        );
        let (mut at, mut seen) = (0, Vec::new());
        while let Some(batch) = history.next(b"a/", at).unwrap() {
            assert!(batch.changes.len() <= BATCH_CHANGES_MAX && batch.revision > at);
            seen.extend(batch.changes.iter().map(|change| change.revision));
            at = batch.revision;
        }
        assert_eq!(at, 2000);
        assert!(seen.iter().copied().eq((1..=1000).map(|half| half * 2)));
    }
}
