//! What the store knows in memory: which shard lies where, what each namespace uses, what each segment still holds.
//!
//! It is a plain value behind one lock; nothing here waits or does I/O, and every call takes microseconds. All changes
//! to a shard go through `begin_*` and `finish`: between the two the key is *pending*, and whoever else wants to change
//! it waits. So operations on one shard never overlap, whatever order the disk completes them in.
//!
//! # When a segment may go
//!
//! A record that makes an earlier one dead (a tombstone, or a put that replaces rotten bytes) is its *killer*. If a
//! killer went while its victim stayed on disk, the next recovery would bring the victim back. So a segment *needs* the
//! segments in which its records' victims lie to be gone first. It may go when it is sealed, holds no live shard, and
//! nothing it needs exists any more. By induction every dead record on disk keeps its killer on disk. Two more
//! conditions: a segment with unreadable blocks stays (we do not know what it holds), and one whose predecessor is not
//! yet cut to its length stays, for its header says where that one ends.

use crate::config::SegmentsConfig;
use crate::disk::DiskFile;
use crate::error::{DeleteError, PutError};
use crate::format::{DATA_START, RecordKind, SegmentHeader, record_bytes};
use atoll_ids::{OwnerId, ShardId};
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::ops::Bound;
use std::sync::Arc;
use tokio::sync::oneshot;

mod figures;

pub use figures::{NamespaceStat, Totals};

/// A segment as readers see it: what is needed to read a record and check it.
pub(crate) struct SegmentFile {
    pub(crate) header: SegmentHeader,
    pub(crate) file: Arc<dyn DiskFile>,
}

/// Where a shard lies. Twelve bytes: with the id and the tree around it a shard takes under 50 bytes of memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Location {
    pub(crate) segment: u32,
    pub(crate) offset: u32,
    pub(crate) len: u32,
}

impl Location {
    fn disk_bytes(self) -> u64 {
        record_bytes(self.len as usize) as u64
    }
}

/// One segment's accounts.
pub(crate) struct SegmentEntry {
    pub(crate) file: Arc<SegmentFile>,
    /// Length of the file in bytes.
    pub(crate) file_bytes: u64,
    /// Where its last acknowledged batch ends.
    pub(crate) tail: u64,
    /// Nothing will be appended any more.
    pub(crate) sealed: bool,
    /// The file is exactly as long as its content, durably.
    pub(crate) cut: bool,
    /// Some blocks could not be read, or the header is lost: never cut, never removed.
    pub(crate) unreadable: bool,
    live: u32,
    live_bytes: u64,
    needs: BTreeSet<u32>,
}

impl SegmentEntry {
    pub(crate) fn new(file: Arc<SegmentFile>, file_bytes: u64) -> Self {
        Self {
            file,
            file_bytes,
            tail: DATA_START,
            sealed: false,
            cut: false,
            unreadable: false,
            live: 0,
            live_bytes: 0,
            needs: BTreeSet::new(),
        }
    }

    fn sequence(&self) -> u32 {
        self.file.header.sequence
    }
}

#[derive(Default)]
struct Namespace {
    shards: BTreeMap<ShardId, Location>,
    bytes: u64,
    incoming: u64,
    quota: Option<u64>,
}

/// Who waits for a change to be settled.
type Waiters = Vec<oneshot::Sender<()>>;

/// Answer to the wish to put a shard.
pub(crate) enum BeginPut {
    /// Go on: the key is pending until `finish`.
    Begun,
    /// Someone else is changing it: wait, then ask again.
    Wait(oneshot::Receiver<()>),
    /// It is there already.
    Present {
        /// Where.
        at: Location,
        /// In which segment.
        segment: Arc<SegmentFile>,
        /// A tombstone of it failed and may be on the disk: that it is there must be written down again before it can
        /// be relied on.
        doubtful: bool,
    },
    /// No, and why.
    Refused(PutError),
}

/// Answer to the wish to delete a shard.
pub(crate) enum BeginDelete {
    /// Go on: the key is pending until `finish`.
    Begun,
    /// Someone else is changing it: wait, then ask again.
    Wait(oneshot::Receiver<()>),
    /// It is not there.
    Absent,
}

/// The index and the accounts.
pub(crate) struct Catalog {
    capacity: u64,
    segment_bytes: u64,
    default_quota: Option<u64>,
    namespaces: HashMap<OwnerId, Namespace>,
    segments: BTreeMap<u32, SegmentEntry>,
    /// The segment that is not sealed, if there is one.
    open: Option<u32>,
    /// Segments that hold what we could not read.
    unreadable: Vec<u32>,
    /// Bytes of all segment files, those included that cannot be read as such.
    committed: u64,
    pending: HashMap<(OwnerId, ShardId), Waiters>,
    /// Shards with a failed record that may yet be found on the disk: until the next segment is open, whose header
    /// declares it dead.
    doubtful: HashSet<(OwnerId, ShardId)>,
    /// Bytes of records accepted and not yet settled.
    queued_bytes: u64,
    /// Bytes of the file kept ready for the next segment.
    pub(crate) spare_bytes: u64,
    /// Bytes of files that look like segments and cannot be read as such.
    lost_bytes: u64,
}

impl Catalog {
    pub(crate) fn new(config: &SegmentsConfig) -> Self {
        Self {
            capacity: config.capacity,
            segment_bytes: config.segment_bytes,
            default_quota: config.default_quota,
            namespaces: HashMap::new(),
            segments: BTreeMap::new(),
            open: None,
            unreadable: Vec::new(),
            committed: 0,
            pending: HashMap::new(),
            doubtful: HashSet::new(),
            queued_bytes: 0,
            spare_bytes: 0,
            lost_bytes: 0,
        }
    }

    /// Where a shard lies, if it is there.
    pub(crate) fn find(&self, owner: &OwnerId, shard: &ShardId) -> Option<(Location, Arc<SegmentFile>)> {
        let location = *self.namespaces.get(owner)?.shards.get(shard)?;
        let segment = self.segments.get(&location.segment)?;
        Some((location, segment.file.clone()))
    }

    /// Asks to put a shard of `len` bytes; `replace` is a copy the caller found rotten.
    pub(crate) fn begin_put(
        &mut self,
        owner: OwnerId,
        shard: ShardId,
        len: u32,
        replace: Option<Location>,
    ) -> BeginPut {
        if let Some(waiters) = self.pending.get_mut(&(owner, shard)) {
            let (sender, receiver) = oneshot::channel();
            waiters.push(sender);
            return BeginPut::Wait(receiver);
        }
        if let Some((at, segment)) = self.find(&owner, &shard)
            && replace != Some(at)
        {
            return BeginPut::Present { at, segment, doubtful: self.doubtful.contains(&(owner, shard)) };
        }
        let asked = u64::from(len);
        if let Some((quota, used)) = self.quota_exceeded(&owner, asked, replace) {
            return BeginPut::Refused(PutError::QuotaExceeded { quota, used, asked });
        }
        let cost = record_bytes(len as usize) as u64;
        if cost + self.queued_bytes > self.available() {
            return BeginPut::Refused(self.fullness().into());
        }
        self.namespaces.entry(owner).or_default().incoming += asked;
        self.queued_bytes += cost;
        self.pending.insert((owner, shard), Waiters::new());
        BeginPut::Begun
    }

    /// Asks to delete a shard.
    pub(crate) fn begin_delete(&mut self, owner: OwnerId, shard: ShardId) -> BeginDelete {
        if let Some(waiters) = self.pending.get_mut(&(owner, shard)) {
            let (sender, receiver) = oneshot::channel();
            waiters.push(sender);
            return BeginDelete::Wait(receiver);
        }
        // A put of it that failed may be on the disk: then only a tombstone makes sure that it is not there.
        if self.find(&owner, &shard).is_none() && !self.doubtful.contains(&(owner, shard)) {
            return BeginDelete::Absent;
        }
        self.pending.insert((owner, shard), Waiters::new());
        BeginDelete::Begun
    }

    fn quota_exceeded(&self, owner: &OwnerId, asked: u64, replace: Option<Location>) -> Option<(u64, u64)> {
        let namespace = self.namespaces.get(owner);
        let quota = namespace.and_then(|n| n.quota).or(self.default_quota)?;
        let used = namespace.map_or(0, |n| n.bytes + n.incoming) - replace.map_or(0, |l| u64::from(l.len));
        (used + asked > quota).then_some((quota, used))
    }

    /// Settles a pending change: `at` is where its record lies and is durable, `None` if it failed. Whether a segment
    /// may have become removable.
    pub(crate) fn finish(
        &mut self,
        kind: RecordKind,
        owner: OwnerId,
        shard: ShardId,
        len: u32,
        at: Option<Location>,
    ) -> bool {
        if let Some(waiters) = self.pending.remove(&(owner, shard)) {
            for waiter in waiters {
                // One that is gone no longer waits.
                let _ = waiter.send(());
            }
        }
        if kind == RecordKind::Put {
            self.queued_bytes -= record_bytes(len as usize) as u64;
            if let Some(namespace) = self.namespaces.get_mut(&owner) {
                namespace.incoming -= u64::from(len);
            }
        }
        let freed = match at {
            Some(at) => self.apply(kind, owner, shard, at),
            None => false,
        };
        self.drop_namespace_if_empty(&owner);
        freed
    }

    /// Takes in a record of the log, in the order of the log. Whether a segment may have become removable.
    pub(crate) fn apply(&mut self, kind: RecordKind, owner: OwnerId, shard: ShardId, at: Location) -> bool {
        let namespace = self.namespaces.entry(owner).or_default();
        let victim = match kind {
            RecordKind::Put => {
                namespace.bytes += u64::from(at.len);
                namespace.shards.insert(shard, at)
            }
            RecordKind::Tombstone => namespace.shards.remove(&shard),
        };
        namespace.bytes -= victim.map_or(0, |v| u64::from(v.len));
        if kind == RecordKind::Put
            && let Some(segment) = self.segments.get_mut(&at.segment)
        {
            segment.live += 1;
            segment.live_bytes += at.disk_bytes();
        }
        match victim {
            Some(victim) => self.kill(victim, at.segment),
            None => {
                self.need_unreadable(at.segment);
                false
            }
        }
    }

    fn kill(&mut self, victim: Location, killer: u32) -> bool {
        if victim.segment != killer
            && let Some(segment) = self.segments.get_mut(&killer)
        {
            segment.needs.insert(victim.segment);
        }
        let Some(segment) = self.segments.get_mut(&victim.segment) else { return false };
        segment.live -= 1;
        segment.live_bytes -= victim.disk_bytes();
        segment.live == 0 && segment.sealed
    }

    /// A record without a known victim may have one where we could not read.
    fn need_unreadable(&mut self, killer: u32) {
        if !self.unreadable.is_empty()
            && let Some(segment) = self.segments.get_mut(&killer)
        {
            segment.needs.extend(self.unreadable.iter().filter(|s| **s < killer));
        }
    }

    fn drop_namespace_if_empty(&mut self, owner: &OwnerId) {
        if self.namespaces.get(owner).is_some_and(|n| n.shards.is_empty() && n.incoming == 0 && n.quota.is_none()) {
            self.namespaces.remove(owner);
        }
    }

    /// A record of this shard was written and failed.
    pub(crate) fn doubt(&mut self, owner: OwnerId, shard: ShardId) {
        self.doubtful.insert((owner, shard));
    }

    /// All failed records are dead by the word of a durable header.
    pub(crate) fn end_doubts(&mut self) {
        self.doubtful.clear();
    }

    /// No pending change will ever be settled: lets go of everyone who waits for one.
    pub(crate) fn abandon(&mut self) {
        self.pending.clear();
    }

    /// Ids and lengths of shards after `after`, ascending, at most `limit`.
    pub(crate) fn list(&self, owner: &OwnerId, after: Option<ShardId>, limit: usize) -> Vec<(ShardId, u32)> {
        let Some(namespace) = self.namespaces.get(owner) else { return Vec::new() };
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        namespace.shards.range((from, Bound::Unbounded)).take(limit).map(|(id, at)| (*id, at.len)).collect()
    }

    pub(crate) fn set_quota(&mut self, owner: OwnerId, quota: Option<u64>) {
        self.namespaces.entry(owner).or_default().quota = quota;
        self.drop_namespace_if_empty(&owner);
    }

    // Segments.

    pub(crate) fn add_segment(&mut self, entry: SegmentEntry) {
        let sequence = entry.sequence();
        self.committed += entry.file_bytes;
        if !entry.sealed {
            self.open = Some(sequence);
        }
        self.segments.insert(sequence, entry);
    }

    /// Counts a file that looks like a segment and cannot be read as one.
    pub(crate) fn add_lost(&mut self, sequence: u32, bytes: u64) {
        self.committed += bytes;
        self.lost_bytes += bytes;
        // Never in `segments`, so it cannot hold up the removal of others; what it held is lost for good with its
        // header.
        tracing::warn!(sequence, bytes, "a segment's header is lost and its shards with it; the file is left as it is");
    }

    /// Enters what scanning a segment found out.
    pub(crate) fn settle_segment(&mut self, sequence: u32, tail: u64, unreadable: bool) {
        let Some(segment) = self.segments.get_mut(&sequence) else { return };
        segment.tail = tail.min(segment.file_bytes);
        segment.cut = segment.tail == segment.file_bytes;
        segment.unreadable = unreadable;
        if unreadable {
            self.unreadable.push(sequence);
        }
    }

    pub(crate) fn set_tail(&mut self, sequence: u32, tail: u64) {
        if let Some(segment) = self.segments.get_mut(&sequence) {
            segment.tail = tail;
        }
    }

    pub(crate) fn seal(&mut self, sequence: u32) {
        if let Some(segment) = self.segments.get_mut(&sequence) {
            segment.sealed = true;
        }
        if self.open == Some(sequence) {
            self.open = None;
        }
    }

    /// A sealed segment that is longer than its content: file and length wanted.
    pub(crate) fn next_to_cut(&self) -> Option<(u32, Arc<SegmentFile>, u64)> {
        let entry = self.segments.values().find(|s| s.sealed && !s.cut && !s.unreadable)?;
        Some((entry.sequence(), entry.file.clone(), entry.tail))
    }

    pub(crate) fn mark_cut(&mut self, sequence: u32) {
        if let Some(segment) = self.segments.get_mut(&sequence) {
            segment.cut = true;
            self.committed -= segment.file_bytes - segment.tail;
            segment.file_bytes = segment.tail;
        }
    }

    /// Takes out a segment that may go, if there is one (the rule stands at the head of this file).
    pub(crate) fn take_removable(&mut self) -> Option<SegmentEntry> {
        let sequence = self.segments.values().find(|s| self.is_removable(s)).map(SegmentEntry::sequence)?;
        let entry = self.segments.remove(&sequence)?;
        self.committed -= entry.file_bytes;
        Some(entry)
    }

    fn is_removable(&self, segment: &SegmentEntry) -> bool {
        let predecessor = segment.file.header.previous.and_then(|p| self.segments.get(&p.sequence));
        segment.sealed
            && segment.cut
            && segment.live == 0
            && !segment.unreadable
            && predecessor.is_none_or(|p| p.cut)
            && segment.needs.iter().all(|s| !self.segments.contains_key(s))
    }

    /// Whether puts may use space: one segment's worth is kept for tombstones.
    pub(crate) fn may_put(&self) -> bool {
        self.committed + self.segment_bytes <= self.capacity
    }

    /// Whether another segment may be opened, for puts or for tombstones alone.
    pub(crate) fn may_open_segment(&self, for_puts: bool) -> bool {
        let segments = if for_puts { 2 } else { 1 };
        self.committed + segments * self.segment_bytes <= self.capacity
    }

    /// How full the store is.
    pub(crate) fn fullness(&self) -> Fullness {
        let used = self.segments.values().map(|s| s.tail).sum::<u64>() + self.lost_bytes;
        Fullness { capacity: self.capacity, used }
    }
}

/// How full a store is, in bytes: records live or not yet reclaimed.
pub(crate) struct Fullness {
    pub(crate) capacity: u64,
    pub(crate) used: u64,
}

impl From<Fullness> for PutError {
    fn from(Fullness { capacity, used }: Fullness) -> Self {
        Self::Full { capacity, used }
    }
}

impl From<Fullness> for DeleteError {
    fn from(Fullness { capacity, used }: Fullness) -> Self {
        Self::Full { capacity, used }
    }
}
