//! Reads records back and checks them: nothing leaves here whose checksums do not fit.
//!
//! Records that were written together lie together, and are read together: neighbours in one segment come with one call to the disk, up to
//! [`RUN_BYTES_MAX`].

use crate::aligned::Recycled;
use crate::catalog::{Location, SegmentFile};
use crate::error::DiskError;
use crate::format::{BLOCK_BYTES, RECORD_HEADER_BYTES, RecordHeader, RecordKind, block_down, block_up, crc64};
use atoll_ids::{OwnerId, ShardId};
use bytes::Bytes;
use std::sync::Arc;

/// Read with one call, at most (a longer record has a call of its own). Beyond a mebibyte a disk gets no faster.
const RUN_BYTES_MAX: u64 = (1 << 20) + 16 * BLOCK_BYTES as u64;

/// A record to be read: where it is and what it must be.
pub(crate) struct Wanted {
    pub(crate) segment: Arc<SegmentFile>,
    pub(crate) at: Location,
    pub(crate) owner: OwnerId,
    pub(crate) shard: ShardId,
}

impl Wanted {
    fn start(&self) -> u64 {
        block_down(u64::from(self.at.offset))
    }

    fn end(&self) -> u64 {
        block_up(u64::from(self.at.offset) + RECORD_HEADER_BYTES as u64 + u64::from(self.at.len))
    }

    /// Whether `next` can be read with the same call as what begins at `start` and ends with this.
    fn joins(&self, start: u64, next: &Self) -> bool {
        let behind = next.start() <= self.end() && next.start() >= self.start();
        next.at.segment == self.at.segment && behind && next.end() - start <= RUN_BYTES_MAX
    }
}

/// Why a record was not read.
#[derive(Debug)]
pub(crate) enum ReadError {
    /// Header or payload do not fit their checksums, or it is another record.
    Rotten,
    /// The disk could not read.
    Disk(DiskError),
}

/// The payloads of some records, each with its own outcome, in the order of `wanted`.
pub(crate) fn read_shards(wanted: &[Wanted], buffers: &Recycled) -> Vec<Result<Bytes, ReadError>> {
    let mut order: Vec<usize> = (0..wanted.len()).collect();
    order.sort_by_key(|&index| (wanted[index].at.segment, wanted[index].at.offset));
    let mut results: Vec<Result<Bytes, ReadError>> = wanted.iter().map(|_| Err(ReadError::Rotten)).collect();
    let mut rest = &order[..];
    while let Some(&first) = rest.first() {
        let start = wanted[first].start();
        let ends = rest.windows(2).position(|pair| !wanted[pair[0]].joins(start, &wanted[pair[1]]));
        let (run, behind) = rest.split_at(ends.map_or(rest.len(), |last| last + 1));
        read_run(wanted, run, buffers, &mut results);
        rest = behind;
    }
    results
}

/// Reads neighbours with one call.
fn read_run(wanted: &[Wanted], run: &[usize], buffers: &Recycled, results: &mut [Result<Bytes, ReadError>]) {
    let (first, last) = (&wanted[run[0]], &wanted[run[run.len() - 1]]);
    let start = first.start();
    let length = (last.end() - start) as usize;
    let mut buffer = buffers.take(length);
    let got = match first.segment.file.pread(&mut buffer.bytes_mut()[..length], start) {
        Ok(got) => got,
        Err(error) if run.len() == 1 => {
            results[run[0]] = Err(ReadError::Disk(DiskError::new("reading a segment", error)));
            return;
        }
        // A bad block must not take its neighbours with it.
        Err(_) => return run.iter().for_each(|&one| read_run(wanted, &[one], buffers, results)),
    };
    let whole = buffer.freeze().slice(..got);
    for &index in run {
        let offset = (u64::from(wanted[index].at.offset) - start) as usize;
        results[index] = check(&wanted[index], &whole, offset);
    }
}

/// The payload of the record that begins at `header_at` of what was read, if it is the right one and sound.
fn check(wanted: &Wanted, whole: &Bytes, header_at: usize) -> Result<Bytes, ReadError> {
    let Wanted { segment, at, owner, shard } = wanted;
    let payload = header_at + RECORD_HEADER_BYTES..header_at + RECORD_HEADER_BYTES + at.len as usize;
    if whole.len() < payload.end {
        return Err(ReadError::Rotten);
    }
    let header = RecordHeader::decode(&whole[header_at..], &segment.header, u64::from(at.offset));
    let header = header.ok_or(ReadError::Rotten)?;
    let expected =
        header.kind == RecordKind::Put && header.len == at.len && header.owner == *owner && header.shard == *shard;
    if !expected || crc64(&whole[payload.clone()]) != header.crc {
        return Err(ReadError::Rotten);
    }
    Ok(whole.slice(payload))
}
