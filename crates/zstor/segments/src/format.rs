//! What a segment looks like on disk, byte for byte: encoding and decoding of segment headers and record headers.
//!
//! It does no I/O and keeps nothing; [`scan`] walks a whole segment with it. Everything here takes bytes that may be
//! torn, rotten or forged, so nothing panics and nothing is believed before its checksum was compared.
//!
//! ```text
//! segment   [header: 4 KiB] [the same header again: 4 KiB] [batch] [batch] … up to the segment's length
//! batch     starts at a multiple of 4 KiB; records one after the other, each at a multiple of 16; padded with zeros at its end
//! record    [header: 96 bytes] [payload]
//! ```
//!
//! A record header's checksum covers the segment's random id, its sequence number and the record's offset besides the
//! header's own bytes. So bytes left over from an earlier use of the file, and a payload that imitates a record, are
//! never taken for one.
//!
//! All integers are little-endian. Checksums are CRC-64/NVME.

use atoll_ids::{OwnerId, ShardId};
use crc_fast::{CrcAlgorithm, Digest};

pub mod scan;

pub use scan::{ScanReport, scan_bytes};

/// Everything on disk is aligned to this: O_DIRECT wants at least the logical block size (512 or 4096), and a write of
/// whole 4 KiB blocks never makes a drive read, modify and write one.
pub const BLOCK_BYTES: usize = 4096;

/// Records start at multiples of this within a batch: a lost header can then be searched for in steps of 16 bytes, not
/// of one.
pub const RECORD_ALIGN: usize = 16;

/// Length of a record header. A multiple of [`RECORD_ALIGN`].
pub const RECORD_HEADER_BYTES: usize = 96;

/// Where the first batch starts: after two copies of the segment header, in blocks of their own so that one bad block
/// loses neither the id all checksums depend on nor the segment with it.
pub const DATA_START: u64 = 2 * BLOCK_BYTES as u64;

/// The version of the segment format written here.
pub const FORMAT_VERSION: u16 = 1;

/// Largest payload of a record. A stripe is 1 MiB and a shard at most a whole stripe (k = 1) with what sealing adds;
/// twice that leaves room without letting one record fill a batch.
pub const SHARD_BYTES_MAX: usize = 2 << 20;

/// Largest batch, padding included. Large enough that a sync per batch costs little beside writing it (4 MiB take 1–2
/// ms on an NVMe drive, a sync 0.1), small enough that several buffers of this size fit any node.
pub const BATCH_BYTES_MAX: usize = 4 << 20;

const SEGMENT_MAGIC: [u8; 8] = *b"ATOLLSEG";
const RECORD_MAGIC: [u8; 4] = *b"ATrc";
const SEGMENT_HEADER_BYTES: usize = 88;
const FLAG_FIRST: u8 = 1;
const FLAG_LAST: u8 = 2;
const KIND_PUT: u8 = 1;
const KIND_TOMBSTONE: u8 = 2;

/// The checksum of shards: CRC-64/NVME of `bytes`.
pub fn crc64(bytes: &[u8]) -> u64 {
    crc_fast::checksum(CrcAlgorithm::Crc64Nvme, bytes)
}

/// `offset` rounded up to a whole block.
pub const fn block_up(offset: u64) -> u64 {
    offset.next_multiple_of(BLOCK_BYTES as u64)
}

/// `offset` rounded down to a whole block.
pub const fn block_down(offset: u64) -> u64 {
    offset - offset % BLOCK_BYTES as u64
}

/// Bytes a record with a payload of `len` bytes takes within a batch.
pub const fn record_bytes(len: usize) -> usize {
    (RECORD_HEADER_BYTES + len).next_multiple_of(RECORD_ALIGN)
}

/// What the first two blocks of a segment say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SegmentHeader {
    /// Place of this segment in the log; later segments have larger numbers, numbers are never used twice.
    pub sequence: u32,
    /// Random, drawn anew for each use of a file.
    pub id: [u8; 16],
    /// Where the preceding segment ends, if there is one: nothing at or after `tail` in it was ever acknowledged.
    pub previous: Option<PreviousSegment>,
}

/// What a segment knows of the one before it: written when it was opened, that is after everything in the older one had
/// been settled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PreviousSegment {
    /// Its sequence number.
    pub sequence: u32,
    /// Offset of its end in bytes.
    pub tail: u64,
    /// Records in it with a sequence number up to this were acknowledged (an invalid one is damage); later ones were
    /// not (an invalid one is what a crash tore).
    pub durable: u64,
}

/// Why bytes are no header of a segment this version can read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HeaderError {
    /// Not a segment at all, or its beginning is lost.
    #[error("no segment header: the magic bytes are missing")]
    Magic,
    /// The checksum does not fit.
    #[error("the segment header's checksum does not fit its content")]
    Checksum,
    /// Written by a newer version.
    #[error("the segment has format version {found}; this program knows version {FORMAT_VERSION}")]
    Version {
        /// The version found.
        found: u16,
    },
}

impl SegmentHeader {
    /// The header as two blocks of 4 KiB, both the same.
    pub fn encode(&self) -> Vec<u8> {
        let mut block = [0u8; BLOCK_BYTES];
        block[0..8].copy_from_slice(&SEGMENT_MAGIC);
        block[8..10].copy_from_slice(&FORMAT_VERSION.to_le_bytes());
        block[16..24].copy_from_slice(&u64::from(self.sequence).to_le_bytes());
        block[24..40].copy_from_slice(&self.id);
        if let Some(previous) = self.previous {
            block[40] = 1;
            block[48..56].copy_from_slice(&u64::from(previous.sequence).to_le_bytes());
            block[56..64].copy_from_slice(&previous.tail.to_le_bytes());
            block[64..72].copy_from_slice(&previous.durable.to_le_bytes());
        }
        let crc = crc64(&block[..SEGMENT_HEADER_BYTES - 8]);
        block[SEGMENT_HEADER_BYTES - 8..SEGMENT_HEADER_BYTES].copy_from_slice(&crc.to_le_bytes());
        [block, block].concat()
    }

    /// Reads one copy of the header from the beginning of `bytes`.
    ///
    /// # Errors
    /// If `bytes` are too short, rotten, or of another format or version.
    pub fn decode(bytes: &[u8]) -> Result<Self, HeaderError> {
        let Some(bytes) = bytes.get(..SEGMENT_HEADER_BYTES) else { return Err(HeaderError::Magic) };
        if bytes[0..8] != SEGMENT_MAGIC {
            return Err(HeaderError::Magic);
        }
        if u64_at(bytes, SEGMENT_HEADER_BYTES - 8) != crc64(&bytes[..SEGMENT_HEADER_BYTES - 8]) {
            return Err(HeaderError::Checksum);
        }
        let found = u16::from_le_bytes([bytes[8], bytes[9]]);
        if found != FORMAT_VERSION {
            return Err(HeaderError::Version { found });
        }
        let sequence = u32::try_from(u64_at(bytes, 16)).map_err(|_| HeaderError::Checksum)?;
        let previous = match bytes[40] {
            0 => None,
            _ => Some(PreviousSegment {
                sequence: u32::try_from(u64_at(bytes, 48)).map_err(|_| HeaderError::Checksum)?,
                tail: u64_at(bytes, 56),
                durable: u64_at(bytes, 64),
            }),
        };
        Ok(Self { sequence, id: array_at(bytes, 24), previous })
    }

    /// Reads whichever of the two copies at the beginning of `bytes` is sound.
    ///
    /// # Errors
    /// That of the first copy, if neither is.
    pub fn decode_either(bytes: &[u8]) -> Result<Self, HeaderError> {
        Self::decode(bytes).or_else(|e| Self::decode(bytes.get(BLOCK_BYTES..).unwrap_or_default()).map_err(|_| e))
    }
}

/// What a record does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RecordKind {
    /// The payload is the shard.
    Put,
    /// The shard is no more; there is no payload.
    Tombstone,
}

/// The 96 bytes before a payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecordHeader {
    /// What it does.
    pub kind: RecordKind,
    /// It is the first of its batch, and so stands at a block boundary.
    pub first: bool,
    /// It is the last of its batch: the next record stands at the next block boundary.
    pub last: bool,
    /// Length of the payload in bytes.
    pub len: u32,
    /// Number of the record in the whole log, ascending.
    pub sequence: u64,
    /// All records up to this one had been acknowledged, or were about to be, when this one was composed.
    pub durable: u64,
    /// Whose shard it is.
    pub owner: OwnerId,
    /// Which shard it is.
    pub shard: ShardId,
    /// CRC-64/NVME of the payload.
    pub crc: u64,
}

impl RecordHeader {
    /// The header as it stands at `offset` of the segment with `header`.
    pub fn encode(&self, segment: &SegmentHeader, offset: u64) -> [u8; RECORD_HEADER_BYTES] {
        let mut bytes = [0u8; RECORD_HEADER_BYTES];
        bytes[0..4].copy_from_slice(&RECORD_MAGIC);
        bytes[4] = match self.kind {
            RecordKind::Put => KIND_PUT,
            RecordKind::Tombstone => KIND_TOMBSTONE,
        };
        bytes[5] = u8::from(self.first) * FLAG_FIRST + u8::from(self.last) * FLAG_LAST;
        bytes[8..12].copy_from_slice(&self.len.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.sequence.to_le_bytes());
        bytes[24..32].copy_from_slice(&self.durable.to_le_bytes());
        bytes[32..64].copy_from_slice(self.owner.as_bytes());
        bytes[64..80].copy_from_slice(self.shard.as_bytes());
        bytes[80..88].copy_from_slice(&self.crc.to_le_bytes());
        let crc = salted_crc(segment, offset, &bytes[..88]);
        bytes[88..].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    /// Reads the header at the beginning of `bytes`, which stand at `offset` of the segment with `header`. `None` if
    /// there is no sound one.
    pub fn decode(bytes: &[u8], segment: &SegmentHeader, offset: u64) -> Option<Self> {
        let bytes = bytes.get(..RECORD_HEADER_BYTES)?;
        if bytes[0..4] != RECORD_MAGIC || u64_at(bytes, 88) != salted_crc(segment, offset, &bytes[..88]) {
            return None;
        }
        let kind = match bytes[4] {
            KIND_PUT => RecordKind::Put,
            KIND_TOMBSTONE => RecordKind::Tombstone,
            _ => return None,
        };
        let header = Self {
            kind,
            first: bytes[5] & FLAG_FIRST != 0,
            last: bytes[5] & FLAG_LAST != 0,
            len: u32::from_le_bytes(array_at(bytes, 8)),
            sequence: u64_at(bytes, 16),
            durable: u64_at(bytes, 24),
            owner: OwnerId::from_bytes(array_at(bytes, 32)),
            shard: ShardId::from_bytes(array_at(bytes, 64)),
            crc: u64_at(bytes, 80),
        };
        (header.len as usize <= SHARD_BYTES_MAX && (header.kind == RecordKind::Put || header.len == 0))
            .then_some(header)
    }

    /// Whether `bytes` begin like a record: a cheap test before the checksum.
    pub fn looks_like_one(bytes: &[u8]) -> bool {
        bytes.starts_with(&RECORD_MAGIC)
    }
}

fn salted_crc(segment: &SegmentHeader, offset: u64, bytes: &[u8]) -> u64 {
    let mut digest = Digest::new(CrcAlgorithm::Crc64Nvme);
    digest.update(&segment.id);
    digest.update(&u64::from(segment.sequence).to_le_bytes());
    digest.update(&offset.to_le_bytes());
    digest.update(bytes);
    digest.finalize()
}

fn array_at<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    let mut array = [0; N];
    array.copy_from_slice(&bytes[at..at + N]);
    array
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(array_at(bytes, at))
}

#[cfg(test)]
mod tests;
