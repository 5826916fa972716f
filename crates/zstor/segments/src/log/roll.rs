//! Opening the next segment.
//!
//! The order matters: header written and synced, name given, directory synced, and only then does anything go into the
//! segment. A crash anywhere in between leaves a spare, or a segment without records, and either is put to use or
//! removed by the next start.

use super::{Active, Log, LogError, State, take_puts};
use crate::aligned::AlignedBuffer;
use crate::catalog::{SegmentEntry, SegmentFile};
use crate::error::DiskError;
use crate::format::{DATA_START, PreviousSegment, SegmentHeader};
use crate::keeper::Spare;
use crate::names;
use crate::sync::{lock, read, write};
use std::io;
use std::sync::{Arc, MutexGuard};

impl Log {
    /// Seals the active segment and opens the next. To be called with `rolling` set and nothing under way. On failure,
    /// all queued records that need the new segment fail.
    pub(super) fn roll(&self, for_put: bool) -> MutexGuard<'_, State> {
        let (sequence, previous, sealed) = self.seal_active();
        if let Some(sealed) = sealed {
            write(&self.catalog).seal(sealed);
            self.keeper.look();
        }
        let opened = self.open_segment(sequence, previous, for_put);
        let mut state = lock(&self.state);
        state.rolling = false;
        let failed = match opened {
            Ok(active) => {
                state.active = Some(active);
                None
            }
            Err(error) => {
                let puts_only = for_put && matches!(error, LogError::Full);
                let jobs = if puts_only { take_puts(&mut state.queue) } else { state.queue.drain(..).collect() };
                Some((jobs, error))
            }
        };
        self.changed.notify_all();
        match failed {
            None => state,
            Some((jobs, error)) => {
                drop(state);
                self.fail(jobs, &error);
                lock(&self.state)
            }
        }
    }

    /// After the last record: seals the active segment, so that it is cut to its length and the next start need not
    /// search its empty end.
    pub(crate) fn seal(&self) {
        if let (_, _, Some(sealed)) = self.seal_active() {
            write(&self.catalog).seal(sealed);
        }
    }

    /// Takes the active segment out of use; the next segment's number, what its header says of its predecessor, and
    /// which one was sealed now.
    fn seal_active(&self) -> (u32, Option<PreviousSegment>, Option<u32>) {
        let mut state = lock(&self.state);
        let durable = state.durable;
        let sealed = state.active.take().map(|active| {
            let sequence = active.segment.header.sequence;
            state.previous = Some(PreviousSegment { sequence, tail: active.tail, durable });
            sequence
        });
        let sequence = state.next_segment;
        // Used up even if opening it fails: a number never stands for two segments.
        state.next_segment += 1;
        (sequence, state.previous, sealed)
    }

    fn open_segment(
        &self,
        sequence: u32,
        previous: Option<PreviousSegment>,
        for_put: bool,
    ) -> Result<Active, LogError> {
        let may_open = || read(&self.catalog).may_open_segment(for_put);
        if !may_open() {
            // The keeper may be behind with giving back what just died; deletes above all must not fail for that.
            self.keeper.sweep();
            if !may_open() {
                return Err(LogError::Full);
            }
        }
        let opened = self.keeper.take_spare().and_then(|spare| {
            let name = spare.name.clone();
            self.name_segment(spare, sequence, previous).inspect_err(|_| {
                self.keeper.discard(&name);
                self.keeper.discard(&names::segment(sequence));
            })
        });
        let (segment, bytes) = opened.map_err(|e| LogError::Disk(DiskError::new("opening a segment", e)))?;
        let mut catalog = write(&self.catalog);
        catalog.add_segment(SegmentEntry::new(segment.clone(), bytes));
        catalog.end_doubts();
        drop(catalog);
        Ok(Active { segment, bytes, next: DATA_START, tail: DATA_START, failed: false })
    }

    fn name_segment(
        &self,
        spare: Spare,
        sequence: u32,
        previous: Option<PreviousSegment>,
    ) -> io::Result<(Arc<SegmentFile>, u64)> {
        let header = SegmentHeader { sequence, id: self.disk.segment_id()?, previous };
        let mut buffer = AlignedBuffer::zeroed(DATA_START as usize);
        buffer.bytes_mut().copy_from_slice(&header.encode());
        spare.file.pwrite(buffer.bytes(), 0)?;
        spare.file.sync()?;
        let bytes = spare.file.length()?;
        self.disk.rename(&spare.name, &names::segment(sequence))?;
        self.disk.sync_dir()?;
        Ok((Arc::new(SegmentFile { header, file: spare.file }), bytes))
    }
}
