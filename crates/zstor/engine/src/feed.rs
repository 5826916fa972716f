//! Where an object's content comes from, cut into stripes.
//!
//! A file is only measured here and read later, on the thread that seals the stripe, by position: nothing depends on the file's cursor and several
//! stripes are read at once. A stream is read here, in order, into one buffer per stripe.

use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::pin::Pin;
use std::sync::Arc;

use atoll_codec::STRIPE_BYTES;
use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncReadExt};

use crate::error::PutError;
use crate::pool::PlainBuffers;
use crate::record::SourceIdentity;

/// Something that gives bytes as they come.
pub type ByteStream = Pin<Box<dyn AsyncRead + Send>>;

/// The content of an object to store.
pub enum Source {
    /// Nothing: an empty file, a symbolic link, a directory.
    Empty,
    /// The first so many bytes of a local file. The upload can be continued after an interruption.
    File(File, u64),
    /// What comes from a stream until its end. The length, if known, is only for showing progress.
    Stream(ByteStream, Option<u64>),
    /// Bytes in memory.
    Bytes(Bytes),
}

/// The plaintext of one stripe, at hand or still in the file.
pub(crate) enum Piece {
    File { file: Arc<File>, offset: u64, len: usize },
    Memory(Bytes),
    Buffer { buffer: Vec<u8>, len: usize },
}

pub(crate) enum Feed {
    File { file: Arc<File>, identity: SourceIdentity, len: u64, at: u64 },
    Stream { stream: ByteStream, hint: Option<u64>, at: u64 },
    Bytes { bytes: Bytes, at: usize },
}

/// A file to store, apart from how far it was read.
#[derive(Clone)]
pub(crate) struct FileSource {
    pub(crate) file: Arc<File>,
    pub(crate) identity: SourceIdentity,
    /// Bytes to store.
    pub(crate) len: u64,
}

impl Feed {
    pub(crate) fn new(source: Source) -> Result<Self, PutError> {
        Ok(match source {
            Source::Empty => Self::Bytes { bytes: Bytes::new(), at: 0 },
            Source::Bytes(bytes) => Self::Bytes { bytes, at: 0 },
            Source::Stream(stream, hint) => Self::Stream { stream, hint, at: 0 },
            Source::File(file, len) => {
                let identity = identify(&file).map_err(|error| PutError::Source { at: 0, error })?;
                Self::File { file: Arc::new(file), identity, len, at: 0 }
            }
        })
    }

    /// How many bytes there will be, where that is known.
    pub(crate) fn len_hint(&self) -> Option<u64> {
        match self {
            Self::File { len, .. } => Some(*len),
            Self::Stream { hint, .. } => *hint,
            Self::Bytes { bytes, .. } => Some(bytes.len() as u64),
        }
    }

    /// The most that the next stripe can have; 0 at the end.
    pub(crate) fn next_len_max(&self) -> usize {
        match self {
            Self::File { len, at, .. } => usize::try_from(len - at).unwrap_or(STRIPE_BYTES).min(STRIPE_BYTES),
            Self::Stream { .. } => STRIPE_BYTES,
            Self::Bytes { bytes, at } => (bytes.len() - at).min(STRIPE_BYTES),
        }
    }

    /// Whether everything fits one stripe for certain.
    pub(crate) fn is_small(&self) -> bool {
        match self {
            Self::Stream { .. } => false,
            Self::File { .. } | Self::Bytes { .. } => self.len_hint() <= Some(STRIPE_BYTES as u64),
        }
    }

    /// The file, if it is one and so can be read again.
    pub(crate) fn file(&self) -> Option<FileSource> {
        match self {
            Self::File { file, identity, len, .. } => {
                Some(FileSource { file: file.clone(), identity: *identity, len: *len })
            }
            Self::Stream { .. } | Self::Bytes { .. } => None,
        }
    }

    /// Goes on at this position, which a file can.
    pub(crate) fn seek(&mut self, to: u64) {
        if let Self::File { at, len, .. } = self {
            *at = to.min(*len);
        }
    }

    /// The next stripe: full, unless it is the last. `None` at the end.
    pub(crate) async fn next(&mut self, buffers: &PlainBuffers) -> Result<Option<Piece>, PutError> {
        let max = self.next_len_max();
        if max == 0 {
            return Ok(None);
        }
        match self {
            Self::File { file, at, .. } => {
                let piece = Piece::File { file: file.clone(), offset: *at, len: max };
                *at += max as u64;
                Ok(Some(piece))
            }
            Self::Bytes { bytes, at } => {
                let piece = Piece::Memory(bytes.slice(*at..*at + max));
                *at += max;
                Ok(Some(piece))
            }
            Self::Stream { stream, at, .. } => {
                let mut buffer = buffers.take(STRIPE_BYTES);
                let len = fill(stream, &mut buffer).await.map_err(|error| PutError::Source { at: *at, error })?;
                *at += len as u64;
                Ok((len > 0).then_some(Piece::Buffer { buffer, len }))
            }
        }
    }

    /// Checks that the file is still the one that was begun with.
    pub(crate) fn verify_unchanged(&self) -> Result<(), PutError> {
        let Self::File { file, identity, at, .. } = self else { return Ok(()) };
        let current = identify(file).map_err(|error| PutError::Source { at: *at, error })?;
        if current.size != identity.size {
            let what = format!("it had {} bytes and has {} now", identity.size, current.size);
            return Err(PutError::SourceChanged { what });
        }
        if current.modified_ns != identity.modified_ns {
            return Err(PutError::SourceChanged { what: "it was written to".to_owned() });
        }
        Ok(())
    }
}

impl Piece {
    /// Bytes of the stripe.
    pub(crate) fn len(&self) -> usize {
        match self {
            Self::File { len, .. } | Self::Buffer { len, .. } => *len,
            Self::Memory(bytes) => bytes.len(),
        }
    }

    /// Calls `with` on the plaintext. Blocks while a file is read.
    pub(crate) fn with<T>(self, buffers: &PlainBuffers, with: impl FnOnce(&[u8]) -> T) -> Result<T, PutError> {
        match self {
            Self::Memory(bytes) => Ok(with(&bytes)),
            Self::Buffer { buffer, len } => {
                let done = with(&buffer[..len]);
                buffers.give(buffer);
                Ok(done)
            }
            Self::File { file, offset, len } => {
                let mut buffer = buffers.take(len);
                let read = file.read_exact_at(&mut buffer[..len], offset).map_err(|error| short(error, offset));
                let done = read.map(|()| with(&buffer[..len]));
                buffers.give(buffer);
                done
            }
        }
    }
}

fn short(error: io::Error, at: u64) -> PutError {
    if error.kind() == io::ErrorKind::UnexpectedEof {
        PutError::SourceChanged { what: format!("it ended before byte {at} plus a stripe, though it was longer") }
    } else {
        PutError::Source { at, error }
    }
}

async fn fill(stream: &mut ByteStream, buffer: &mut [u8]) -> io::Result<usize> {
    let mut len = 0;
    while len < buffer.len() {
        match stream.read(&mut buffer[len..]).await? {
            0 => break,
            more => len += more,
        }
    }
    Ok(len)
}

fn identify(file: &File) -> io::Result<SourceIdentity> {
    let metadata = file.metadata()?;
    let modified_ns = i128::from(metadata.mtime()) * 1_000_000_000 + i128::from(metadata.mtime_nsec());
    Ok(SourceIdentity { device: metadata.dev(), inode: metadata.ino(), size: metadata.size(), modified_ns })
}
