//! Bytes both ways between two streams until both directions have ended, something breaks, or nothing moves for too long.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::sleep;

use crate::counts::Counts;

/// Bytes that one direction of one connection holds at most: a few records of a lane, so that its reader and writer do not wait for each other, and with
/// 1,024 connections 128 MiB in the worst case, when nobody reads.
const BUFFER_BYTES: usize = 64 << 10;

/// A connection on which nothing moves for this long is ended. Not shorter than what routers have to keep idle ones for (RFC 5382, REQ-5: 2 h 4 min).
pub(crate) const IDLE_MAX: Duration = Duration::from_secs(2 * 3600 + 4 * 60);

/// Whether anything moves. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub(crate) struct Motion(Arc<AtomicU64>);

impl Motion {
    /// Returns once nothing has moved for `idle`, or up to twice that.
    pub(crate) async fn stopped(&self, idle: Duration) {
        let mut before = None;
        loop {
            let now = self.0.load(Ordering::Relaxed);
            if before == Some(now) {
                return;
            }
            before = Some(now);
            sleep(idle).await;
        }
    }
}

/// A stream whose bytes are counted: written ones as sent, read ones as received.
pub(crate) struct Watched<S> {
    stream: S,
    counts: Counts,
    motion: Motion,
}

impl<S> Watched<S> {
    pub(crate) fn new(stream: S, counts: Counts) -> Self {
        Self { stream, counts, motion: Motion::default() }
    }

    pub(crate) fn motion(&self) -> Motion {
        self.motion.clone()
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Watched<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, sink: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = sink.filled().len();
        let polled = Pin::new(&mut self.stream).poll_read(cx, sink);
        let bytes = sink.filled().len() - before;
        if bytes > 0 {
            self.motion.0.fetch_add(1, Ordering::Relaxed);
            self.counts.received(bytes);
        }
        polled
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Watched<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write(cx, bytes);
        if let Poll::Ready(Ok(bytes)) = polled {
            self.motion.0.fetch_add(1, Ordering::Relaxed);
            self.counts.sent(bytes);
        }
        polled
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// Copies between the one who began (`near`) and the one who answers (`far`), while something moves on either. Each direction ends by itself; when this fails, both
/// streams are to be dropped as they are, so that either end learns that it is no orderly end.
pub(crate) async fn splice<N, F>(near: &mut N, far: &mut F, motion: Motion, idle: Duration) -> io::Result<()>
where
    N: AsyncRead + AsyncWrite + Unpin,
    F: AsyncRead + AsyncWrite + Unpin,
{
    tokio::select! {
        copied = tokio::io::copy_bidirectional_with_sizes(near, far, BUFFER_BYTES, BUFFER_BYTES) => copied.map(drop),
        () = motion.stopped(idle) => Err(io::Error::new(io::ErrorKind::TimedOut, "nothing moved for too long")),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, duplex};

    use super::*;

    #[tokio::test]
    async fn directions_end_one_by_one_and_bytes_are_counted() {
        let (mut program, mut near) = duplex(64);
        let (mut server, far) = duplex(64);
        let counts = Counts::default();
        let mut far = Watched::new(far, counts.clone());
        let motion = far.motion();
        let copying = splice(&mut near, &mut far, motion, IDLE_MAX);
        let talking = async {
            program.write_all(b"question").await.unwrap();
            program.shutdown().await.unwrap();
            let mut question = Vec::new();
            server.read_to_end(&mut question).await.unwrap();
            assert_eq!(question, b"question");
            server.write_all(b"an answer").await.unwrap();
            server.shutdown().await.unwrap();
            let mut answer = Vec::new();
            program.read_to_end(&mut answer).await.unwrap();
            assert_eq!(answer, b"an answer");
        };
        let (copied, ()) = tokio::join!(copying, talking);
        copied.unwrap();
        assert_eq!((counts.now().sent, counts.now().received), (8, 9));
    }

    #[tokio::test(start_paused = true)]
    async fn who_does_not_read_is_given_up() {
        let (mut program, mut near) = duplex(64);
        let (_server, far) = duplex(64);
        let mut far = Watched::new(far, Counts::default());
        let motion = far.motion();
        let writing = tokio::spawn(async move { program.write_all(&[0; 1 << 20]).await });
        let ended = splice(&mut near, &mut far, motion, Duration::from_secs(60)).await.unwrap_err();
        assert_eq!(ended.kind(), io::ErrorKind::TimedOut);
        drop(near);
        writing.await.unwrap().unwrap_err();
    }

    #[tokio::test(start_paused = true)]
    async fn what_moves_is_not_given_up() {
        let (mut program, mut near) = duplex(64);
        let (mut server, far) = duplex(64);
        let mut far = Watched::new(far, Counts::default());
        let motion = far.motion();
        let copying = splice(&mut near, &mut far, motion, Duration::from_secs(60));
        let talking = async {
            for _ in 0..20 {
                sleep(Duration::from_secs(50)).await;
                program.write_all(b"x").await.unwrap();
                server.read_u8().await.unwrap();
            }
            program.shutdown().await.unwrap();
            server.shutdown().await.unwrap();
        };
        tokio::join!(copying, talking).0.unwrap();
    }
}
