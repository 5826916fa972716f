//! Frames: `[u32 little-endian length][that many bytes]` on a byte stream.
//!
//! A frame can be empty. The limit is the caller's, one per protocol and direction; a frame beyond it is refused from its header
//! alone, and the stream is then of no further use, because the rest of the frame is still on it.

use std::io;

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// Bytes of the length in front of a frame.
pub const FRAME_HEADER_BYTES: usize = 4;

/// Bodies up to this size are copied behind their header and written as one piece, so that a small message is one TLS record
/// and one packet even where vectored writes are not supported. Copying this much costs less than a second write.
const JOIN_BYTES_MAX: usize = 4096;

/// Why a frame could not be read or written. The stream is unusable afterwards, whichever it is.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    /// Larger than this protocol allows: the other side is broken, hostile, or speaks something else.
    #[error("a frame of {length} bytes is larger than the {max} bytes allowed here")]
    TooLarge {
        /// Bytes of the body.
        length: u64,
        /// Most bytes allowed.
        max: u32,
    },
    /// The stream ended inside a frame: the connection broke, trying again on a new one may help.
    #[error("the stream ended after {got} of the {expected} bytes of a frame")]
    Truncated {
        /// Bytes of the frame with its header, or of the header if not even that arrived.
        expected: u64,
        /// Bytes that arrived.
        got: u64,
    },
    /// The stream failed; trying again on a new one may help.
    #[error("the stream failed: {0}")]
    Io(#[from] io::Error),
}

/// Reads one frame of at most `max` bytes. `None` when the stream ends where a frame would begin.
///
/// Not cancel safe: dropped half-way, the bytes already read are lost and the stream is unusable.
///
/// # Errors
/// [`FrameError`].
pub async fn read_frame<R: AsyncRead + Unpin>(reader: &mut R, max: u32) -> Result<Option<Bytes>, FrameError> {
    let mut header = [0; FRAME_HEADER_BYTES];
    let mut got = 0;
    while got < header.len() {
        match reader.read(&mut header[got..]).await? {
            0 if got == 0 => return Ok(None),
            0 => {
                return Err(FrameError::Truncated { expected: FRAME_HEADER_BYTES as u64, got: got as u64 });
            }
            n => got += n,
        }
    }
    let length = u32::from_le_bytes(header);
    if length > max {
        return Err(FrameError::TooLarge { length: length.into(), max });
    }
    read_body(reader, length).await.map(Some)
}

async fn read_body<R: AsyncRead + Unpin>(reader: &mut R, length: u32) -> Result<Bytes, FrameError> {
    // u32 fits usize on every platform Atoll runs on.
    let mut body = BytesMut::with_capacity(length as usize);
    let mut rest = reader.take(length.into());
    while rest.limit() > 0 {
        if rest.read_buf(&mut body).await? == 0 {
            let header = FRAME_HEADER_BYTES as u64;
            let (expected, got) = (header + u64::from(length), header + body.len() as u64);
            return Err(FrameError::Truncated { expected, got });
        }
    }
    Ok(body.freeze())
}

/// Writes one frame. Does not flush: the caller does, after the last frame it has to say for now.
///
/// Not cancel safe: dropped half-way, the stream is unusable.
///
/// # Errors
/// [`FrameError::TooLarge`] before anything is written, otherwise [`FrameError::Io`].
pub async fn write_frame<W: AsyncWrite + Unpin>(writer: &mut W, body: &[u8], max: u32) -> Result<(), FrameError> {
    let too_large = || FrameError::TooLarge { length: body.len() as u64, max };
    let length = u32::try_from(body.len()).map_err(|_| too_large())?;
    if length > max {
        return Err(too_large());
    }
    let header = length.to_le_bytes();
    if body.len() <= JOIN_BYTES_MAX {
        writer.write_all(&[&header, body].concat()).await?;
    } else {
        writer.write_all_buf(&mut Buf::chain(&header[..], body)).await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests;
