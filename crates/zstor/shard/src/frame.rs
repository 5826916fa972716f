//! Moves frames between a stream and memory with as few copies and system calls as the sizes allow.
//!
//! Reading: a small buffer in front of the stream serves headers and small bodies; a large body is read straight into
//! memory of its own (`bodies.rs`), which then is the payload. Writing: heads and small payloads are gathered; a
//! large payload is written from where it lies, together with what was gathered before it.
//!
//! Invariants: memory per direction is the buffer plus one frame; nothing is allocated for a body before its header was
//! accepted. A fault leaves the stream unusable, as does dropping any future here except [`FrameReader::ready`].

use std::io::{self, IoSlice};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use thiserror::Error;
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::time::{Instant, timeout};

use crate::bodies::Body;
use crate::limits::{BYPASS_BYTES, GATHER_BYTES, READ_BUFFER_BYTES};
use crate::protocol::{HEADER_BYTES, Header, ProtocolError};

/// What ends a stream.
#[derive(Debug, Error)]
pub(crate) enum Fault {
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("{0}")]
    Protocol(#[from] ProtocolError),
    #[error("nothing moved for {} s", .0.as_secs())]
    Stalled(Duration),
}

/// When bytes last moved on a connection, in either direction.
#[derive(Debug)]
pub(crate) struct Progress {
    origin: Instant,
    last_ms: AtomicU64,
}

impl Progress {
    pub(crate) fn new() -> Self {
        Self { origin: Instant::now(), last_ms: AtomicU64::new(0) }
    }

    /// Something moved just now.
    pub(crate) fn touch(&self) {
        let now_ms = u64::try_from(self.origin.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.last_ms.store(now_ms, Ordering::Relaxed);
    }

    pub(crate) fn last(&self) -> Instant {
        self.origin + Duration::from_millis(self.last_ms.load(Ordering::Relaxed))
    }
}

/// Waits for one step of I/O, at most `limit` if there is one.
async fn step<T>(limit: Option<Duration>, io: impl Future<Output = io::Result<T>>) -> Result<T, Fault> {
    match limit {
        None => Ok(io.await?),
        Some(limit) => Ok(timeout(limit, io).await.map_err(|_| Fault::Stalled(limit))??),
    }
}

/// Reads frames.
pub(crate) struct FrameReader<'a, R> {
    inner: BufReader<R>,
    progress: &'a Progress,
    stall: Option<Duration>,
}

impl<'a, R: AsyncRead + Unpin> FrameReader<'a, R> {
    /// `stall`: how long a frame that has begun may stand still.
    pub(crate) fn new(inner: R, progress: &'a Progress, stall: Option<Duration>) -> Self {
        Self { inner: BufReader::with_capacity(READ_BUFFER_BYTES, inner), progress, stall }
    }

    /// Waits for the first byte of a frame; false at the end of the stream. May be dropped.
    pub(crate) async fn ready(&mut self) -> io::Result<bool> {
        Ok(!self.inner.fill_buf().await?.is_empty())
    }

    /// The next header; `None` if the stream ends where a frame would begin.
    pub(crate) async fn header(&mut self) -> Result<Option<Header>, Fault> {
        if !self.ready().await? {
            return Ok(None);
        }
        let mut bytes = [0; HEADER_BYTES];
        let mut filled = 0;
        while filled < HEADER_BYTES {
            filled += Self::some(step(self.stall, self.inner.read(&mut bytes[filled..])).await?)?;
            self.progress.touch();
        }
        Ok(Some(Header::decode(&bytes)?))
    }

    /// The body that follows `header`.
    pub(crate) async fn body(&mut self, header: Header) -> Result<Bytes, Fault> {
        let mut body = Body::take(header.length as usize);
        let mut rest = body.bytes_mut();
        while !rest.is_empty() {
            let read = Self::some(step(self.stall, self.inner.read(rest)).await?)?;
            rest = &mut rest[read..];
            self.progress.touch();
        }
        Ok(body.freeze())
    }

    fn some(read: usize) -> Result<usize, ProtocolError> {
        if read == 0 { Err(ProtocolError::Truncated) } else { Ok(read) }
    }
}

/// Writes frames.
pub(crate) struct FrameWriter<'a, W> {
    inner: W,
    gathered: BytesMut,
    /// Something was written since the last flush.
    unflushed: bool,
    progress: &'a Progress,
    stall: Option<Duration>,
}

impl<'a, W: AsyncWrite + Unpin> FrameWriter<'a, W> {
    /// `stall`: how long a write may stand still.
    pub(crate) fn new(inner: W, progress: &'a Progress, stall: Option<Duration>) -> Self {
        Self { inner, gathered: BytesMut::with_capacity(GATHER_BYTES), unflushed: false, progress, stall }
    }

    /// Writes a frame, or gathers it to be written with the next.
    pub(crate) async fn write(&mut self, head: impl FnOnce(&mut BytesMut), payload: &[u8]) -> Result<(), Fault> {
        head(&mut self.gathered);
        if payload.len() >= BYPASS_BYTES {
            return self.drain(payload).await;
        }
        self.gathered.extend_from_slice(payload);
        if self.gathered.len() >= GATHER_BYTES { self.drain(&[]).await } else { Ok(()) }
    }

    /// Sends everything on its way; does nothing if it is already.
    pub(crate) async fn flush(&mut self) -> Result<(), Fault> {
        self.drain(&[]).await?;
        if std::mem::take(&mut self.unflushed) {
            step(self.stall, self.inner.flush()).await?;
        }
        Ok(())
    }

    /// Flushes and says that no more will come.
    pub(crate) async fn finish(&mut self) -> Result<(), Fault> {
        self.flush().await?;
        step(self.stall, self.inner.shutdown()).await
    }

    /// Writes what was gathered, then `payload`.
    async fn drain(&mut self, mut payload: &[u8]) -> Result<(), Fault> {
        let mut gathered = &self.gathered[..];
        while !(gathered.is_empty() && payload.is_empty()) {
            let slices = [IoSlice::new(gathered), IoSlice::new(payload)];
            let slices = if gathered.is_empty() { &slices[1..] } else { &slices[..] };
            let written = step(self.stall, self.inner.write_vectored(slices)).await?;
            if written == 0 {
                return Err(io::Error::from(io::ErrorKind::WriteZero).into());
            }
            let of_gathered = written.min(gathered.len());
            gathered.advance(of_gathered);
            payload.advance(written - of_gathered);
            self.unflushed = true;
            self.progress.touch();
        }
        self.gathered.clear();
        Ok(())
    }
}

#[cfg(test)]
mod tests;
