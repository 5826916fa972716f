//! Walks the records of one segment, jumping over what is broken: the pure half of recovery.
//!
//! The walk needs no index and changes nothing. It believes a record header whose checksum fits, whose number is larger
//! than the one before and whose payload lies within the segment. Where there is none, it searches on: in steps of 16
//! bytes for the length of a batch, then from block to block. What it jumps over is reported as a gap; the caller knows
//! whether a gap is damage or what a crash tore. It does not look at payloads. It fails only if its source does.

use super::{
    BATCH_BYTES_MAX, BLOCK_BYTES, DATA_START, RECORD_ALIGN, RECORD_HEADER_BYTES, RecordHeader, SegmentHeader, block_up,
    crc64, record_bytes,
};
use std::io;

/// Bytes of a segment, however they are got.
pub trait Source {
    /// `len` bytes at `offset`, fewer only where the source ends.
    ///
    /// # Errors
    /// Those of reading.
    fn at(&mut self, offset: u64, len: usize) -> io::Result<&[u8]>;
}

/// A record found, and where.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Found {
    /// Offset of its header in the segment.
    pub offset: u64,
    /// The header.
    pub header: RecordHeader,
}

impl Found {
    /// Where the batch or the next record after it begins.
    fn next(&self) -> u64 {
        let end = self.offset + record_bytes(self.header.len as usize) as u64;
        if self.header.last { block_up(end) } else { end }
    }
}

/// A stretch without a sound record between (or before) sound ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gap {
    /// Where it begins.
    pub start: u64,
    /// Where the next sound record is.
    pub end: u64,
    /// Number of the last sound record before it; at the segment's beginning, of the last one acknowledged before it.
    pub after: u64,
}

/// How a walk ended.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Walk {
    /// End of the last sound record's batch.
    pub tail: u64,
    /// Number of the last sound record; if there is none, of the last one acknowledged before the segment.
    pub last_sequence: u64,
    /// The highest acknowledged number any record bears witness to.
    pub durable: u64,
    /// What was jumped over.
    pub gaps: Vec<Gap>,
}

/// Calls `found` for every sound record of the segment with `header` before `end`.
///
/// # Errors
/// Those of the source.
pub fn walk<S: Source + ?Sized>(
    source: &mut S,
    header: &SegmentHeader,
    end: u64,
    mut found: impl FnMut(Found),
) -> io::Result<Walk> {
    // What was acknowledged before the segment was opened does not stand in it.
    let before = header.previous.map_or(0, |p| p.durable);
    let mut walk = Walk { tail: DATA_START, last_sequence: before, durable: before, ..Walk::default() };
    let mut at = DATA_START;
    loop {
        let record = match record_at(source, header, at, end, walk.last_sequence)? {
            Some(record) => record,
            None => match search(source, header, at, end, walk.last_sequence)? {
                Some(record) => {
                    walk.gaps.push(Gap { start: at, end: record.offset, after: walk.last_sequence });
                    record
                }
                None => return Ok(walk),
            },
        };
        walk.last_sequence = record.header.sequence;
        walk.durable = walk.durable.max(record.header.durable);
        at = record.next();
        walk.tail = block_up(at).min(end);
        found(record);
    }
}

fn record_at<S: Source + ?Sized>(
    source: &mut S,
    segment: &SegmentHeader,
    offset: u64,
    end: u64,
    after: u64,
) -> io::Result<Option<Found>> {
    if offset.saturating_add(RECORD_HEADER_BYTES as u64) > end {
        return Ok(None);
    }
    Ok(sound(source.at(offset, RECORD_HEADER_BYTES)?, segment, offset, end, after))
}

fn sound(bytes: &[u8], segment: &SegmentHeader, offset: u64, end: u64, after: u64) -> Option<Found> {
    let header = RecordHeader::decode(bytes, segment, offset)?;
    let fits = offset + (RECORD_HEADER_BYTES as u64) + u64::from(header.len) <= end;
    (fits && header.sequence > after).then_some(Found { offset, header })
}

/// The next sound record after `from`.
fn search<S: Source + ?Sized>(
    source: &mut S,
    segment: &SegmentHeader,
    from: u64,
    end: u64,
    after: u64,
) -> io::Result<Option<Found>> {
    let near = from.saturating_add(BATCH_BYTES_MAX as u64);
    let mut at = from + RECORD_ALIGN as u64;
    while at < end {
        let block_end = (at / BLOCK_BYTES as u64 + 1) * BLOCK_BYTES as u64;
        // A header may reach into the next block.
        let bytes = source.at(at, (block_end - at) as usize + RECORD_HEADER_BYTES)?;
        // Within the length of a batch any record may follow; beyond it a new batch must have begun, at a block
        // boundary.
        let starts = if at < near || !at.is_multiple_of(BLOCK_BYTES as u64) { (block_end - at) as usize } else { 1 };
        for start in (0..starts.min(bytes.len())).step_by(RECORD_ALIGN) {
            if RecordHeader::looks_like_one(&bytes[start..])
                && let Some(found) = sound(&bytes[start..], segment, at + start as u64, end, after)
            {
                return Ok(Some(found));
            }
        }
        at = block_end;
    }
    Ok(None)
}

/// What [`scan_bytes`] found in the bytes of a whole segment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ScanReport {
    /// The segment's header, if either copy is sound.
    pub header: Option<SegmentHeader>,
    /// The records, in the order of the log.
    pub records: Vec<Found>,
    /// How many of them have a payload whose checksum does not fit.
    pub rotten: usize,
    /// What the walk jumped over.
    pub gaps: Vec<Gap>,
    /// Where the last batch ends.
    pub tail: u64,
}

/// Decodes a whole segment held in memory: the entry point for fuzzing. Any bytes are fine; it neither panics nor
/// allocates more than a small multiple of what it is given.
pub fn scan_bytes(bytes: &[u8]) -> ScanReport {
    let mut report = ScanReport { header: None, records: Vec::new(), rotten: 0, gaps: Vec::new(), tail: 0 };
    let Ok(header) = SegmentHeader::decode_either(bytes) else { return report };
    report.header = Some(header);
    let mut records = Vec::new();
    if let Ok(walk) = walk(&mut Memory(bytes), &header, bytes.len() as u64, |found| records.push(found)) {
        report.gaps = walk.gaps;
        report.tail = walk.tail;
    }
    report.rotten = records.iter().filter(|found| !payload_is_sound(bytes, found)).count();
    report.records = records;
    report
}

fn payload_is_sound(bytes: &[u8], found: &Found) -> bool {
    let start = found.offset as usize + RECORD_HEADER_BYTES;
    bytes.get(start..start + found.header.len as usize).is_some_and(|payload| crc64(payload) == found.header.crc)
}

struct Memory<'a>(&'a [u8]);

impl Source for Memory<'_> {
    fn at(&mut self, offset: u64, len: usize) -> io::Result<&[u8]> {
        let start = usize::try_from(offset).unwrap_or(usize::MAX).min(self.0.len());
        Ok(&self.0[start..start.saturating_add(len).min(self.0.len())])
    }
}
