//! A socket of this machine: a program's connection to the proxy, or ours to a program.
//!
//! It behaves like the link's streams: dropped without `shutdown`, it is reset, so that something incomplete never looks whole.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{Buf as _, Bytes};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};

#[derive(Debug)]
enum Socket {
    Tcp(TcpStream),
    Unix(UnixStream),
}

/// See the module's documentation.
#[derive(Debug)]
pub(crate) struct Local {
    /// What was read too far, and is to be read again.
    early: Bytes,
    socket: Socket,
    finished: bool,
}

impl Local {
    pub(crate) fn tcp(stream: TcpStream) -> Self {
        // A connection that cannot be set so is slower, no more.
        let _: io::Result<()> = stream.set_nodelay(true);
        Self { early: Bytes::new(), socket: Socket::Tcp(stream), finished: false }
    }

    pub(crate) fn unix(stream: UnixStream) -> Self {
        Self { early: Bytes::new(), socket: Socket::Unix(stream), finished: false }
    }

    /// Puts back what was read, in front of what was put back before.
    pub(crate) fn unread(&mut self, bytes: &[u8]) {
        if !bytes.is_empty() {
            self.early = [bytes, &self.early].concat().into();
        }
    }
}

impl Drop for Local {
    fn drop(&mut self) {
        // Over a Unix socket there is no reset: its reader sees an end, as with any server on one.
        if let (Socket::Tcp(stream), false) = (&self.socket, self.finished) {
            let _: io::Result<()> = stream.set_zero_linger();
        }
    }
}

impl AsyncRead for Local {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, sink: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if !self.early.is_empty() {
            let length = self.early.len().min(sink.remaining());
            sink.put_slice(&self.early[..length]);
            self.early.advance(length);
            return Poll::Ready(Ok(()));
        }
        match &mut self.socket {
            Socket::Tcp(stream) => Pin::new(stream).poll_read(cx, sink),
            Socket::Unix(stream) => Pin::new(stream).poll_read(cx, sink),
        }
    }
}

impl AsyncWrite for Local {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match &mut self.socket {
            Socket::Tcp(stream) => Pin::new(stream).poll_write(cx, bytes),
            Socket::Unix(stream) => Pin::new(stream).poll_write(cx, bytes),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.socket {
            Socket::Tcp(stream) => Pin::new(stream).poll_flush(cx),
            Socket::Unix(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.finished = true;
        match &mut self.socket {
            Socket::Tcp(stream) => Pin::new(stream).poll_shutdown(cx),
            Socket::Unix(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}
