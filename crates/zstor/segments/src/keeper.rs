//! Looks after files in the background: keeps the next segment ready, cuts sealed segments to their length, gives back
//! dead ones.
//!
//! # Why the next segment is prepared, and how
//!
//! Space is reserved with fallocate, which takes a millisecond whatever the size. But what it reserves is *unwritten*:
//! the first write to each extent must be recorded in the file system's journal, and fdatasync then commits the
//! journal. Measured on ext4 on an NVMe-like virtual disk, batches of 4 MiB: 2.3 GB/s into unwritten extents, 3.5–5
//! GB/s into written ones; a single 4 KiB record 166 µs against 98 µs. Filling every segment with zeros first would
//! write everything twice, and that halves the rate of a long load. So
//!
//! - a segment never waits for zeros: fallocate is enough to begin;
//! - while nobody writes or reads, the spare is filled with zeros, so that a burst after a pause meets written extents;
//! - a dead segment's file becomes the next spare: its extents are written already.
//!
//! Failures here cost no data: a segment that could not be cut or removed stays and is tried again at the next
//! occasion, and when no spare can be made the log learns it when it asks for one.

use crate::aligned::AlignedBuffer;
use crate::catalog::{Catalog, SegmentEntry};
use crate::disk::{Disk, DiskFile};
use crate::format::DATA_START;
use crate::names;
use crate::sync::{lock, read, wait, wait_timeout, write};
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, RwLock};
use std::time::{Duration, Instant};

/// Zeros are written this many bytes at a time: half a millisecond of the disk's time, which is what a batch may have
/// to wait for.
const ZERO_BYTES: usize = 1 << 20;

/// Zeros are written when no batch was written and nothing read for this long. Shorter than the pauses between a person's commands, longer
/// than those within one.
const IDLE: Duration = Duration::from_millis(100);

/// A file kept ready for the next segment.
pub(crate) struct Spare {
    pub(crate) name: String,
    pub(crate) file: Arc<dyn DiskFile>,
    /// Bytes from the beginning whose extents are known to be written.
    pub(crate) written: u64,
}

#[derive(Default)]
struct State {
    spare: Option<Spare>,
    /// Someone is making or filling the spare outside of the lock.
    busy: bool,
    /// Something was sealed or died since the keeper last looked.
    look: bool,
    /// The last attempt to make a spare failed: no further one until something changes.
    spare_failed: bool,
    closing: bool,
}

/// Shared between the log, which takes spares and reports changes, and the keeper's thread.
pub(crate) struct Keeper {
    disk: Arc<dyn Disk>,
    catalog: Arc<RwLock<Catalog>>,
    segment_bytes: u64,
    spare_ahead: bool,
    state: Mutex<State>,
    changed: Condvar,
    /// Held while segments are cut and removed. One at a time: a killer may only go after its victim's going is
    /// durable.
    sweeping: Mutex<()>,
    next_spare: AtomicU64,
    /// Batches and reads so far.
    works: AtomicU64,
}

impl Keeper {
    pub(crate) fn new(
        disk: Arc<dyn Disk>,
        catalog: Arc<RwLock<Catalog>>,
        segment_bytes: u64,
        spare_ahead: bool,
        spare: Option<Spare>,
    ) -> Self {
        write(&catalog).spare_bytes = if spare.is_some() { segment_bytes } else { 0 };
        let next_spare = spare.as_ref().and_then(|s| names::spare_number(&s.name)).map_or(0, |n| n + 1);
        Self {
            disk,
            catalog,
            segment_bytes,
            spare_ahead,
            state: Mutex::new(State { spare, look: true, ..State::default() }),
            changed: Condvar::new(),
            sweeping: Mutex::new(()),
            next_spare: AtomicU64::new(next_spare),
            works: AtomicU64::new(0),
        }
    }

    /// Something was sealed or died: look what can be given back.
    pub(crate) fn look(&self) {
        lock(&self.state).look = true;
        self.changed.notify_all();
    }

    /// Something is written or read: this is no time to write zeros.
    pub(crate) fn at_work(&self) {
        self.works.fetch_add(1, Ordering::Relaxed);
    }

    /// Ends the thread at the next occasion.
    pub(crate) fn close(&self) {
        lock(&self.state).closing = true;
        self.changed.notify_all();
    }

    /// The spare, made now if there is none.
    pub(crate) fn take_spare(&self) -> io::Result<Spare> {
        let mut state = lock(&self.state);
        while state.busy {
            state = wait(&self.changed, state);
        }
        if let Some(spare) = state.spare.take() {
            write(&self.catalog).spare_bytes = 0;
            self.changed.notify_all();
            return Ok(spare);
        }
        state.busy = true;
        drop(state);
        let made = self.make_spare();
        let mut state = lock(&self.state);
        state.busy = false;
        state.spare_failed = made.is_err();
        self.changed.notify_all();
        made
    }

    /// Removes a file that did not become a segment.
    pub(crate) fn discard(&self, name: &str) {
        if let Err(e) = self.disk.remove(name)
            && e.kind() != io::ErrorKind::NotFound
        {
            tracing::warn!(name, error = %e, "a file that did not become a segment could not be removed; the next start does it");
        }
    }

    fn make_spare(&self) -> io::Result<Spare> {
        let name = names::spare(self.next_spare.fetch_add(1, Ordering::Relaxed));
        let file = self.disk.create(&name)?;
        match file.allocate(self.segment_bytes) {
            Ok(()) => Ok(Spare { name, file, written: 0 }),
            Err(e) => {
                self.discard(&name);
                Err(e)
            }
        }
    }

    /// The keeper's thread.
    pub(crate) fn run(&self) {
        let mut zeros = None;
        let mut seen = (u64::MAX, Instant::now());
        loop {
            let mut state = lock(&self.state);
            if state.closing {
                return;
            }
            if std::mem::take(&mut state.look) {
                state.spare_failed = false;
                drop(state);
                self.sweep();
            } else if self.wants_spare(&state) {
                state.busy = true;
                drop(state);
                self.prepare_spare();
            } else if !state.busy
                && self.spare_ahead
                && state.spare.as_ref().is_some_and(|s| s.written < self.segment_bytes)
            {
                if self.is_idle(&mut seen) {
                    state.busy = true;
                    let spare = state.spare.take();
                    drop(state);
                    self.fill_spare(spare, zeros.get_or_insert_with(|| AlignedBuffer::zeroed(ZERO_BYTES)));
                } else {
                    drop(wait_timeout(&self.changed, state, IDLE / 2));
                }
            } else {
                zeros = None;
                drop(wait(&self.changed, state));
            }
        }
    }

    fn wants_spare(&self, state: &State) -> bool {
        self.spare_ahead
            && state.spare.is_none()
            && !state.busy
            && !state.spare_failed
            && read(&self.catalog).may_open_segment(false)
    }

    fn is_idle(&self, seen: &mut (u64, Instant)) -> bool {
        let batches = self.works.load(Ordering::Relaxed);
        if seen.0 != batches {
            *seen = (batches, Instant::now());
        }
        seen.1.elapsed() >= IDLE
    }

    fn prepare_spare(&self) {
        let made = self.make_spare();
        let mut state = lock(&self.state);
        state.busy = false;
        match made {
            Ok(spare) => {
                state.spare = Some(spare);
                write(&self.catalog).spare_bytes = self.segment_bytes;
            }
            Err(e) => {
                state.spare_failed = true;
                tracing::warn!(error = %e, "the next segment cannot be prepared");
            }
        }
        self.changed.notify_all();
    }

    fn fill_spare(&self, spare: Option<Spare>, zeros: &AlignedBuffer) {
        let spare = spare.map(|mut spare| {
            let len = (self.segment_bytes - spare.written).min(ZERO_BYTES as u64);
            match self.write_zeros(&mut spare, zeros, len) {
                Ok(()) => {}
                Err(e) => {
                    tracing::warn!(error = %e, "the next segment cannot be filled ahead; it is used as it is");
                    spare.written = self.segment_bytes;
                }
            }
            spare
        });
        let mut state = lock(&self.state);
        state.spare = spare;
        state.busy = false;
        self.changed.notify_all();
    }

    /// When the whole file is written, its name says so: the next start need not write it again.
    fn write_zeros(&self, spare: &mut Spare, zeros: &AlignedBuffer, len: u64) -> io::Result<()> {
        spare.file.pwrite(&zeros.bytes()[..len as usize], spare.written)?;
        spare.written += len;
        if spare.written == self.segment_bytes {
            spare.file.sync()?;
            let name = names::ready_spare(self.next_spare.fetch_add(1, Ordering::Relaxed));
            self.disk.rename(&spare.name, &name)?;
            spare.name = name;
        }
        Ok(())
    }

    /// Cuts sealed segments to their length and gives back dead ones.
    pub(crate) fn sweep(&self) {
        let _one_at_a_time = lock(&self.sweeping);
        self.cut_sealed();
        self.remove_dead();
    }

    fn cut_sealed(&self) {
        loop {
            let next = read(&self.catalog).next_to_cut();
            let Some((sequence, segment, tail)) = next else { return };
            if let Err(e) = segment.file.truncate(tail).and_then(|()| segment.file.sync()) {
                tracing::warn!(sequence, error = %e, "a full segment could not be cut to its length; its unused end stays reserved");
                return;
            }
            write(&self.catalog).mark_cut(sequence);
        }
    }

    fn remove_dead(&self) {
        loop {
            let next = write(&self.catalog).take_removable();
            let Some(entry) = next else { return };
            let sequence = entry.file.header.sequence;
            if let Err(e) = self.give_back(&entry) {
                tracing::warn!(sequence, error = %e, "a dead segment could not be removed; its space stays in use");
                write(&self.catalog).add_segment(entry);
                return;
            }
            tracing::debug!(sequence, "dead segment given back");
        }
    }

    /// Makes the segment's file the spare if there is none, else removes it. Durable before anything that depends on it
    /// goes.
    fn give_back(&self, entry: &SegmentEntry) -> io::Result<()> {
        let name = names::segment(entry.file.header.sequence);
        let mut state = lock(&self.state);
        if state.spare.is_some() || state.busy || !self.spare_ahead || !read(&self.catalog).may_open_segment(false) {
            drop(state);
            match self.disk.remove(&name) {
                // An earlier attempt removed it and could not make that durable.
                Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
                _ => return self.disk.sync_dir(),
            }
        }
        state.busy = true;
        drop(state);
        let spare = self.recycle(&name, entry);
        let mut state = lock(&self.state);
        state.busy = false;
        if let Ok(Some(spare)) = &spare {
            write(&self.catalog).spare_bytes = self.segment_bytes;
            state.spare = Some(Spare { name: spare.name.clone(), file: spare.file.clone(), written: spare.written });
        }
        self.changed.notify_all();
        spare.map(|_| ())
    }

    fn recycle(&self, name: &str, entry: &SegmentEntry) -> io::Result<Option<Spare>> {
        let spare_name = names::spare(self.next_spare.fetch_add(1, Ordering::Relaxed));
        match self.disk.rename(name, &spare_name) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                self.disk.sync_dir()?;
                return Ok(None);
            }
            other => other?,
        }
        self.disk.sync_dir()?;
        // An open file goes by its new name just as well.
        let file = entry.file.file.clone();
        match file.allocate(self.segment_bytes) {
            Ok(()) => Ok(Some(Spare { name: spare_name, file, written: entry.tail.max(DATA_START) })),
            Err(e) => {
                tracing::debug!(error = %e, "a dead segment is not long enough to be used again");
                self.discard(&spare_name);
                Ok(None)
            }
        }
    }
}
