//! What can happen to a file system: the records of the journal and of checkpoints, and how they are written down.
//!
//! Every operation is one [`Transaction`]: a list of [`Change`]s that say how things are now, not what was called. Replaying them in order gives the same
//! tree; so does replaying a checkpoint, which is nothing but the changes that make the tree from an empty one.
//!
//! A **segment** (a journal segment or a checkpoint) is one blob: `[u16 version][u16 0][u32 0][u64 data bytes][u64 frames][u64 0]`, then data of files, then
//! frames `[u32 length][transaction]`. Small writes travel in the segment that speaks of them, so that an fsync is one blob and one swing.
//!
//! Segments are authenticated before they are decoded; the decoders are the second line and neither panic nor allocate more than the input holds.

use atoll_engine::BlobManifest;
use atoll_wire::{DecodeError, Versioned};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::extents::BlobId;

/// The number of a file, directory, link or whatever else has attributes.
pub type Ino = u64;

/// The directory that holds everything.
pub const ROOT: Ino = 1;

/// Bytes before a segment's data.
pub(crate) const HEADER_BYTES: u64 = 32;
/// Version of the segment's own layout.
const SEGMENT_VERSION: u16 = 1;
/// Longest frame in bytes: a transaction with the manifest of the largest blob that is made, and room.
pub(crate) const FRAME_BYTES_MAX: usize = 32 << 20;

/// What something is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Kind {
    /// A file with bytes.
    File,
    /// A directory.
    Directory,
    /// A symbolic link.
    Symlink,
    /// A named pipe.
    Fifo,
    /// A Unix socket's name.
    Socket,
    /// A character device's name.
    CharDevice,
    /// A block device's name.
    BlockDevice,
}

/// A time: seconds since 1970 and nanoseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Time {
    /// Seconds since 1970; negative before.
    pub seconds: i64,
    /// Nanoseconds beyond, below 10⁹.
    pub nanoseconds: u32,
}

/// What `stat` shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attr {
    /// What it is.
    pub kind: Kind,
    /// Permission bits with set-user-id, set-group-id and sticky (12 bits).
    pub perm: u16,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Names it has; of a directory, 2 and one per subdirectory. 0: removed, but still in use.
    pub nlink: u32,
    /// Bytes.
    pub size: u64,
    /// Which device, for devices.
    pub rdev: u32,
    /// Last access: set on creation and by `utimensat` only, as with `noatime`.
    pub atime: Time,
    /// Last change of content.
    pub mtime: Time,
    /// Last change of anything.
    pub ctime: Time,
}

/// One thing that is different now.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Change {
    /// It exists and has these attributes.
    Inode { ino: Ino, attr: Attr },
    /// It is gone, with its content.
    Gone { ino: Ino },
    /// The name in the directory means this one.
    Entry { dir: Ino, name: Vec<u8>, ino: Ino },
    /// The name is gone from the directory.
    NoEntry { dir: Ino, name: Vec<u8> },
    /// The symbolic link points there.
    Target { ino: Ino, target: Vec<u8> },
    /// The extended attribute has this value, or is gone.
    Xattr { ino: Ino, name: Vec<u8>, value: Option<Vec<u8>> },
    /// There are no bytes from here on.
    Cut { ino: Ino, from: u64 },
    /// These bytes of the file are in that blob from `from` on.
    Stored { ino: Ino, at: u64, len: u64, blob: BlobId, from: u64 },
    /// There is such a blob, of so many bytes that files may refer to.
    Blob { blob: BlobId, manifest: BlobManifest, size: u64 },
    /// This segment is that blob; its manifest is where the segment's is.
    Own { blob: BlobId, size: u64 },
    /// The blob's shards are deleted.
    BlobGone { blob: BlobId },
}

/// Changes that happen together.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Transaction(pub(crate) Vec<Change>);

impl Versioned for Transaction {
    const VERSION: u16 = 1;
    const NAME: &'static str = "file system journal record";
}

/// Why a segment cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum SegmentError {
    /// Its first bytes are not those of a segment that this program knows.
    #[error("the segment has an unknown layout; a newer program wrote it: use that")]
    Layout,
    /// It ends too early, or a length in it is impossible.
    #[error("the segment is cut off or damaged at record {frame}")]
    Damaged {
        /// The record, counted from 0.
        frame: u64,
    },
    /// A record does not decode.
    #[error(transparent)]
    Record(#[from] DecodeError),
}

/// The beginning of a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) data_bytes: u64,
    pub(crate) frames: u64,
}

impl Header {
    pub(crate) fn encode(self) -> Vec<u8> {
        let mut bytes = vec![0; 8];
        bytes[..2].copy_from_slice(&SEGMENT_VERSION.to_le_bytes());
        bytes.extend_from_slice(&self.data_bytes.to_le_bytes());
        bytes.extend_from_slice(&self.frames.to_le_bytes());
        bytes.resize(32, 0);
        bytes
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, SegmentError> {
        let word = |at: usize| bytes.get(at..at + 8).and_then(|word| word.try_into().ok()).map(u64::from_le_bytes);
        match (word(0), word(8), word(16), word(24)) {
            (Some(version), Some(data_bytes), Some(frames), Some(0)) if version == u64::from(SEGMENT_VERSION) => {
                Ok(Self { data_bytes, frames })
            }
            _ => Err(SegmentError::Layout),
        }
    }
}

/// Appends a transaction as a frame.
pub(crate) fn push_frame(frames: &mut Vec<u8>, transaction: &Transaction) {
    let body = atoll_wire::encode(transaction);
    let len = u32::try_from(body.len()).expect("a transaction is far below 4 GiB");
    frames.extend_from_slice(&len.to_le_bytes());
    frames.extend_from_slice(&body);
}

/// Takes frames out of bytes as they come.
#[derive(Debug, Default)]
pub(crate) struct FrameReader {
    buffer: Vec<u8>,
    frame: u64,
}

impl FrameReader {
    /// Adds the next bytes.
    pub(crate) fn push(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// The transactions that are complete.
    pub(crate) fn take(&mut self) -> Result<Vec<Transaction>, SegmentError> {
        let (mut transactions, mut at) = (Vec::new(), 0);
        while let Some((len, rest)) = self.buffer[at..].split_first_chunk::<4>() {
            let len = u32::from_le_bytes(*len) as usize;
            if len > FRAME_BYTES_MAX {
                return Err(SegmentError::Damaged { frame: self.frame });
            }
            let Some(body) = rest.get(..len) else { break };
            transactions.push(atoll_wire::decode(body)?);
            self.frame += 1;
            at += 4 + len;
        }
        self.buffer.drain(..at);
        Ok(transactions)
    }

    /// Checks that everything was read.
    pub(crate) fn finish(&self, frames: u64) -> Result<(), SegmentError> {
        let whole = self.buffer.is_empty() && self.frame == frames;
        if whole { Ok(()) } else { Err(SegmentError::Damaged { frame: self.frame }) }
    }
}

/// Decodes a segment, for fuzzing: how many changes it holds.
///
/// # Errors
/// [`SegmentError`]
pub fn decode_segment(bytes: &[u8]) -> Result<usize, SegmentError> {
    let header = Header::decode(bytes)?;
    let start = usize::try_from(header.data_bytes).ok().and_then(|data| data.checked_add(32));
    let frames = start.and_then(|start| bytes.get(start..)).ok_or(SegmentError::Damaged { frame: 0 })?;
    let mut reader = FrameReader::default();
    reader.push(frames);
    let transactions = reader.take()?;
    reader.finish(header.frames)?;
    let mut tree = super::Tree::default();
    // What contradicts itself is refused by the tree, not by the decoder.
    let _ = transactions.iter().try_for_each(|transaction| tree.replay(transaction, None));
    Ok(transactions.iter().map(|transaction| transaction.0.len()).sum())
}
