//! Where the bytes of one file are: extents by offset, in memory (not yet dispersed) or in a blob. What no extent covers reads as zeros.
//!
//! Invariant (property-tested): extents do not overlap and none is empty.

use std::collections::BTreeMap;

use bytes::Bytes;

/// The number of a blob within its volume.
pub(crate) type BlobId = u64;

/// Where an extent's bytes are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// Written and not yet dispersed.
    Memory(Bytes),
    /// In a blob from this byte on.
    Stored { blob: BlobId, from: u64 },
}

/// Bytes that lie together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Extent {
    pub(crate) len: u64,
    pub(crate) place: Place,
}

impl Extent {
    /// The part from `skip` on, of `len` bytes.
    fn part(&self, skip: u64, len: u64) -> Self {
        let place = match &self.place {
            Place::Memory(bytes) => {
                let at = |byte| usize::try_from(byte).expect("it lies in memory");
                Place::Memory(bytes.slice(at(skip)..at(skip + len)))
            }
            Place::Stored { blob, from } => Place::Stored { blob: *blob, from: from + skip },
        };
        Self { len, place }
    }

    pub(crate) fn is_dirty(&self) -> bool {
        matches!(self.place, Place::Memory(_))
    }
}

/// The extents of one file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Extents {
    map: BTreeMap<u64, Extent>,
    bytes: u64,
}

impl Extents {
    /// Removes what lies in a range; the removed parts.
    pub(crate) fn remove(&mut self, start: u64, end: u64) -> Vec<Extent> {
        if start >= end {
            return Vec::new();
        }
        let before = self.map.range(..start).next_back().filter(|(at, extent)| **at + extent.len > start);
        let first = before.map_or(start, |(&at, _)| at);
        let touched: Vec<u64> = self.map.range(first..end).map(|(&at, _)| at).collect();
        let mut removed = Vec::with_capacity(touched.len());
        for at in touched {
            let Some(extent) = self.map.remove(&at) else { continue };
            let (from, to) = (start.max(at), end.min(at + extent.len));
            if at < from {
                self.map.insert(at, extent.part(0, from - at));
            }
            if to < at + extent.len {
                self.map.insert(to, extent.part(to - at, at + extent.len - to));
            }
            self.bytes -= to - from;
            removed.push(extent.part(from - at, to - from));
        }
        removed
    }

    /// Puts an extent in the place of what was there; the replaced parts.
    pub(crate) fn insert(&mut self, at: u64, extent: Extent) -> Vec<Extent> {
        if extent.len == 0 {
            return Vec::new();
        }
        let removed = self.remove(at, at + extent.len);
        self.bytes += extent.len;
        if let Place::Stored { blob, from } = extent.place {
            let before = self.map.range_mut(..at).next_back();
            if let Some((&start, last)) = before
                && start + last.len == at
                && last.place == (Place::Stored { blob, from: from.wrapping_sub(last.len) })
            {
                last.len += extent.len;
                return removed;
            }
        }
        self.map.insert(at, extent);
        removed
    }

    /// The extents that touch a range, cut to it, with their offsets.
    pub(crate) fn within(&self, start: u64, end: u64) -> Vec<(u64, Extent)> {
        if start >= end {
            return Vec::new();
        }
        let before = self.map.range(..start).next_back().filter(|(at, extent)| **at + extent.len > start);
        let touched = before.into_iter().chain(self.map.range(start..end));
        let cut = |(&at, extent): (&u64, &Extent)| {
            let (from, to) = (start.max(at), end.min(at + extent.len));
            (from, extent.part(from - at, to - from))
        };
        touched.map(cut).collect()
    }

    /// Bytes that are not holes.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// All of them in order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (u64, &Extent)> {
        self.map.iter().map(|(&at, extent)| (at, extent))
    }

    /// Whether some of it is only in memory.
    pub(crate) fn is_dirty(&self) -> bool {
        self.map.values().any(Extent::is_dirty)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Every byte is a number; extents must answer like a plain array of them.
        #[test]
        fn reads_what_was_written_last(script in prop::collection::vec((0u8..3, 0u64..64, 1u64..24), 1..40)) {
            let mut extents = Extents::default();
            let mut model: Vec<Option<(u64, u64)>> = vec![None; 96];
            let mut live = 0u64;
            for (step, (what, at, len)) in (0u64..).zip(script) {
                let removed = match what {
                    0 => extents.remove(at, at + len),
                    _ => {
                        let place = if what == 1 {
                            Place::Stored { blob: step, from: 1000 }
                        } else {
                            Place::Memory(vec![step as u8; len as usize].into())
                        };
                        live += len;
                        extents.insert(at, Extent { len, place })
                    }
                };
                live -= removed.iter().map(|extent| extent.len).sum::<u64>();
                for offset in 0..len {
                    model[(at + offset) as usize] = (what != 0).then_some((step, offset));
                }
                prop_assert_eq!(live, extents.iter().map(|(_, extent)| extent.len).sum::<u64>());
                prop_assert_eq!(live, extents.bytes());
            }
            let mut end = 0;
            for (at, extent) in extents.iter() {
                prop_assert!(at >= end && extent.len > 0);
                end = at + extent.len;
                for offset in 0..extent.len {
                    let (step, byte) = model[(at + offset) as usize].unwrap();
                    match &extent.place {
                        Place::Memory(bytes) => prop_assert_eq!(bytes[offset as usize], step as u8),
                        Place::Stored { blob, from } => {
                            prop_assert_eq!((*blob, *from + offset), (step, 1000 + byte));
                        }
                    }
                }
            }
            for at in 0..96 {
                prop_assert_eq!(extents.within(at, at + 1).len(), usize::from(model[at as usize].is_some()));
            }
        }
    }
}
