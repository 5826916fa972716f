//! Reads one record back and checks it: nothing leaves here whose checksums do not fit.

use crate::aligned::AlignedBuffer;
use crate::catalog::{Location, SegmentFile};
use crate::error::DiskError;
use crate::format::{RECORD_HEADER_BYTES, RecordHeader, RecordKind, block_down, block_up, crc64};
use atoll_ids::{OwnerId, ShardId};
use bytes::Bytes;

/// Why a record was not read.
#[derive(Debug)]
pub(crate) enum ReadError {
    /// Header or payload do not fit their checksums, or it is another record.
    Rotten,
    /// The disk could not read.
    Disk(DiskError),
}

/// The payload of the record at `at`, which must be this shard's.
pub(crate) fn read_shard(
    segment: &SegmentFile,
    at: Location,
    owner: &OwnerId,
    shard: &ShardId,
) -> Result<Bytes, ReadError> {
    let offset = u64::from(at.offset);
    let start = block_down(offset);
    let end = block_up(offset + RECORD_HEADER_BYTES as u64 + u64::from(at.len));
    let mut buffer = AlignedBuffer::zeroed((end - start) as usize);
    let got = segment
        .file
        .pread(buffer.bytes_mut(), start)
        .map_err(|e| ReadError::Disk(DiskError::new("reading a segment", e)))?;

    let header_at = (offset - start) as usize;
    let payload = header_at + RECORD_HEADER_BYTES..header_at + RECORD_HEADER_BYTES + at.len as usize;
    if got < payload.end {
        return Err(ReadError::Rotten);
    }
    let bytes = buffer.bytes();
    let header = RecordHeader::decode(&bytes[header_at..], &segment.header, offset).ok_or(ReadError::Rotten)?;
    let expected =
        header.kind == RecordKind::Put && header.len == at.len && header.owner == *owner && header.shard == *shard;
    if !expected || crc64(&bytes[payload.clone()]) != header.crc {
        return Err(ReadError::Rotten);
    }
    Ok(buffer.into_bytes(payload))
}
