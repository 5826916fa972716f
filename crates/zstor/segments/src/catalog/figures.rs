//! The figures a catalog gives out: about a namespace, about the whole store. They are computed from the accounts when
//! asked for.

use super::{Catalog, Namespace};
use crate::format::DATA_START;
use atoll_ids::OwnerId;

/// What a namespace uses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NamespaceStat {
    /// Number of shards.
    pub shards: u64,
    /// Their payload in bytes.
    pub bytes: u64,
    /// The most `bytes` may become; `None`: as much as there is.
    pub quota: Option<u64>,
}

/// What the whole store uses. `used + reclaimable + reserved` is what its files take on the disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Bytes of disk the store may take.
    pub capacity: u64,
    /// Bytes of records with live shards, headers included.
    pub used: u64,
    /// Bytes written that hold nothing live: deleted shards, tombstones, padding, segment headers. A segment gives them
    /// back when nothing in it is live any more.
    pub reclaimable: u64,
    /// Bytes preallocated and not yet written.
    pub reserved: u64,
    /// Bytes that further records can take now, preallocated or not. One segment's worth stays reserved for tombstones.
    pub available: u64,
    /// Number of live shards.
    pub shards: u64,
    /// Number of segments.
    pub segments: u64,
}

impl Catalog {
    /// What a namespace uses; zeros for one that holds nothing.
    pub(crate) fn stat(&self, owner: &OwnerId) -> NamespaceStat {
        let namespace = self.namespaces.get(owner);
        NamespaceStat {
            shards: namespace.map_or(0, |n| n.shards.len() as u64),
            bytes: namespace.map_or(0, |n| n.bytes),
            quota: namespace.and_then(|n: &Namespace| n.quota).or(self.default_quota),
        }
    }

    /// What the store uses.
    pub(crate) fn totals(&self) -> Totals {
        let used = self.segments.values().map(|s| s.live_bytes).sum::<u64>();
        let written = self.segments.values().map(|s| s.tail).sum::<u64>() + self.lost_bytes;
        let files = self.committed + self.spare_bytes;
        Totals {
            capacity: self.capacity,
            used,
            reclaimable: written - used,
            reserved: files - written,
            available: self.available(),
            shards: self.segments.values().map(|s| u64::from(s.live)).sum(),
            segments: self.segments.len() as u64,
        }
    }

    /// Bytes further puts can take: the rest of the open segment, and of those that may still be opened.
    pub(super) fn available(&self) -> u64 {
        if !self.may_put() {
            return 0;
        }
        let open = self.open.and_then(|s| self.segments.get(&s)).map_or(0, |s| s.file_bytes - s.tail);
        let free = self.capacity - self.committed - self.segment_bytes;
        open + free / self.segment_bytes * (self.segment_bytes - DATA_START)
    }
}
