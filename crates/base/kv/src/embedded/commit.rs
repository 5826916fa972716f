//! The commit thread: takes every commit that waits, decides them in order, writes the winners as one batch with one fdatasync, answers all.
//!
//! It is the only writer, so a condition checked here cannot be overtaken. Commits of one group see each other's writes through an overlay; the
//! engine receives each key once, with its last state, because it gives all writes of a batch the same sequence number.
//!
//! Nobody is answered, not even with a conflict, before the group is on the disk: a conflict may be due to a write of the same group, and telling of it early
//! would show state that a crash could still take back.

use std::{
    collections::BTreeMap,
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use bytes::Bytes;
use fjall::PersistMode;
use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot};

use super::{META_REVISION, QUEUE_COMMITS_MAX, Store, WRITE_BUFFER_BYTES, record};
use crate::{Change, Condition, KvError, Mutation, Revision, Version, error::conflict_unless, error::engine_reason};

/// All write buffers together, before a group is written: four, so that one can fill while others are flushed.
const WRITE_BUFFERS_BYTES_MAX: u64 = 4 * WRITE_BUFFER_BYTES;

/// How often to look whether a flush is done: it takes some 10 ms.
const FLUSH_POLL: Duration = Duration::from_millis(2);

/// How long to wait for a flush. A disk that does not write a few megabytes in this time is in trouble that a commit will report.
const FLUSH_WAIT_MAX: Duration = Duration::from_secs(20);

/// One waiting commit.
pub(super) struct Request {
    pub(super) conditions: Vec<Condition>,
    pub(super) mutations: Vec<Mutation>,
    pub(super) answer: oneshot::Sender<Result<Revision, KvError>>,
    /// Its share of the queue's bytes, given back when it has been answered.
    pub(super) room: OwnedSemaphorePermit,
}

/// A request that has been decided and waits for the disk.
struct Verdict {
    outcome: Result<Revision, KvError>,
    answer: oneshot::Sender<Result<Revision, KvError>>,
    room: OwnedSemaphorePermit,
}

/// What the commits of a group have changed so far: the value and its revision, or `None` for a deleted key.
type Overlay = BTreeMap<Bytes, Option<(Revision, Bytes)>>;

/// The state of the commit thread.
pub(super) struct Committer {
    store: Arc<Store>,
    queue: mpsc::Receiver<Request>,
    free_bytes_min: u64,
    /// Last revision on the disk.
    durable: Revision,
    /// The write error after which nothing is written any more.
    broken: Option<KvError>,
}

impl Committer {
    pub(super) fn new(store: Arc<Store>, queue: mpsc::Receiver<Request>, free_bytes_min: u64) -> Self {
        let durable = store.revision.load(Ordering::Acquire);
        Self { store, queue, free_bytes_min, durable, broken: None }
    }

    /// Serves the queue until every sender is gone and it is empty.
    pub(super) fn run(mut self) {
        while let Some(first) = self.queue.blocking_recv() {
            let mut group = vec![first];
            while group.len() < QUEUE_COMMITS_MAX
                && let Ok(next) = self.queue.try_recv()
            {
                group.push(next);
            }
            self.commit_group(group);
        }
    }

    fn commit_group(&mut self, group: Vec<Request>) {
        let full = self.check_space();
        let mut revision = self.durable;
        let mut overlay = Overlay::new();
        let mut verdicts = Vec::with_capacity(group.len());
        let watched = self.store.history.is_on();
        let mut changes = Vec::new();
        for Request { conditions, mutations, answer, room } in group {
            let outcome = self.admit(&conditions, &mutations, full.as_ref(), &overlay).and_then(|()| {
                if watched {
                    changes.extend(self.changes(&mutations, revision + 1, &overlay)?);
                }
                Ok(apply(mutations, &mut revision, &mut overlay))
            });
            verdicts.push(Verdict { outcome, answer, room });
        }
        self.store.history.stage(changes);
        let written = self.write(revision, overlay);
        match written {
            Ok(()) => self.store.history.publish(self.durable),
            Err(_) => self.store.history.retract(self.durable),
        }
        for Verdict { outcome, answer, room } in verdicts {
            let outcome = written.clone().and(outcome);
            // Whoever dropped the future does not want to know.
            let _ = answer.send(outcome);
            drop(room);
        }
    }

    /// Whether this commit may happen after those in `overlay`.
    fn admit(
        &self,
        conditions: &[Condition],
        mutations: &[Mutation],
        full: Option<&KvError>,
        overlay: &Overlay,
    ) -> Result<(), KvError> {
        if let Some(broken) = self.broken.as_ref().filter(|_| !mutations.is_empty()) {
            return Err(broken.clone());
        }
        if let Some(full) = full
            && mutations.iter().any(|mutation| matches!(mutation, Mutation::Put { .. }))
        {
            return Err(full.clone());
        }
        for condition in conditions {
            let key = condition.key();
            let found = self.revision_of(key, overlay)?;
            let holds = match condition {
                Condition::Revision { revision, .. } => found == Some(*revision),
                Condition::Absent { .. } => found.is_none(),
                Condition::Present { .. } => found.is_some(),
            };
            conflict_unless(holds, key)?;
        }
        Ok(())
    }

    /// What these mutations change, for the history: the last one of each key, where something was or is.
    fn changes(&self, mutations: &[Mutation], revision: Revision, overlay: &Overlay) -> Result<Vec<Change>, KvError> {
        let last: BTreeMap<&Bytes, &Mutation> = mutations.iter().map(|mutation| (mutation.key(), mutation)).collect();
        let mut changes = Vec::with_capacity(last.len());
        for (key, mutation) in last {
            let old = match overlay.get(key) {
                Some(state) => state.clone().map(|(revision, value)| Version { revision, value }),
                None => {
                    let entry = self.store.lookup(&self.store.database.snapshot(), key.clone())?;
                    entry.map(|entry| Version { revision: entry.revision, value: entry.value })
                }
            };
            let new = match mutation {
                Mutation::Put { value, .. } => Some(value.clone()),
                Mutation::Delete { .. } => None,
            };
            if old.is_some() || new.is_some() {
                changes.push(Change { revision, key: key.clone(), old, new });
            }
        }
        Ok(changes)
    }

    fn revision_of(&self, key: &Bytes, overlay: &Overlay) -> Result<Option<Revision>, KvError> {
        if let Some(changed) = overlay.get(key) {
            return Ok(changed.as_ref().map(|(revision, _)| *revision));
        }
        let entry = self.store.lookup(&self.store.database.snapshot(), key.clone())?;
        Ok(entry.map(|entry| entry.revision))
    }

    /// Makes the group durable and visible. One batch, one fdatasync: the journal is preallocated, but fdatasync also covers its size should it grow.
    fn write(&mut self, revision: Revision, overlay: Overlay) -> Result<(), KvError> {
        if revision == self.durable {
            return Ok(());
        }
        self.await_flushes();
        let mut batch = self.store.database.batch().durability(Some(PersistMode::SyncData));
        for (key, state) in overlay {
            match state {
                Some((revision, value)) => {
                    batch.insert(&self.store.records, &key[..], record::encode(revision, &value));
                }
                None => batch.remove(&self.store.records, &key[..]),
            }
        }
        batch.insert(&self.store.meta, META_REVISION, revision.to_le_bytes());
        batch.commit().map_err(|error| self.give_up(&error))?;
        self.durable = revision;
        self.store.revision.store(revision, Ordering::Release);
        Ok(())
    }

    /// Lets the engine catch up. It flushes write buffers in the background and, left alone, lets them grow for as long as its threads are
    /// busy. It offers nothing to wait for, so this looks again and again; with a limit, because a flush that failed never ends (then
    /// the write is refused).
    fn await_flushes(&self) {
        let started = Instant::now();
        while self.store.database.write_buffer_size() > WRITE_BUFFERS_BYTES_MAX && started.elapsed() < FLUSH_WAIT_MAX {
            std::thread::sleep(FLUSH_POLL);
        }
    }

    fn give_up(&mut self, error: &fjall::Error) -> KvError {
        let error = self.store.unavailable("write", engine_reason(error));
        tracing::error!(%error, "no further writes are accepted until the store is opened again");
        self.broken = Some(error.clone());
        error
    }

    /// The refusal for puts when the file system is nearly full. When it cannot be asked, the write itself will tell.
    fn check_space(&self) -> Option<KvError> {
        let found = rustix::fs::statvfs(&self.store.path).ok()?;
        let free_bytes = found.f_bavail.saturating_mul(found.f_frsize);
        (free_bytes < self.free_bytes_min).then(|| KvError::DiskFull {
            path: self.store.path.clone(),
            free_bytes,
            needed_bytes: self.free_bytes_min,
        })
    }
}

/// Adds an admitted commit to the group; returns the revision it is written at.
fn apply(mutations: Vec<Mutation>, revision: &mut Revision, overlay: &mut Overlay) -> Revision {
    if !mutations.is_empty() {
        *revision += 1;
    }
    for mutation in mutations {
        match mutation {
            Mutation::Put { key, value } => overlay.insert(key, Some((*revision, value))),
            Mutation::Delete { key } => overlay.insert(key, None),
        };
    }
    *revision
}
