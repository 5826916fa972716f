//! Streams as protocols see them: bytes both ways to a peer, whatever carries them.
//!
//! Lanes and QUIC streams behave alike here: `shutdown` ends one direction cleanly, and dropping a stream without it is an
//! error at the other end, so that something incomplete never looks whole.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};

use atoll_ids::NodeId;
use atoll_lane::LaneStream;
use futures_util::future::BoxFuture;
use iroh::endpoint::{Connection, RecvStream, SendStream};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::book::CountGuard;
use crate::kept::Busy;
use crate::quic::code;

/// Bytes both ways.
pub trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// A stream to a peer. Write, flush, and end with `shutdown`.
pub type BoxStream = Box<dyn Stream>;

/// What a stream is for, which decides what carries it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Traffic {
    /// Small and prompt: a QUIC stream, wherever the peer is.
    Control,
    /// A few words now and then, which by themselves are no reason to keep a connection: on the one that shows that the peer is there, or as [`Self::Control`] while there
    /// is none.
    Aside,
    /// Much: a lane (TCP) if the peer can be reached that way, otherwise a QUIC stream.
    Bulk,
}

/// Serves one protocol to peers that open streams for it.
pub trait StreamHandler: Send + Sync + 'static {
    /// Serves `stream`, which `peer` (proven, and known to us) opened. The stream is aborted unless it was shut down.
    fn handle(&self, peer: NodeId, stream: BoxStream) -> BoxFuture<'static, ()>;
}

impl<F> StreamHandler for F
where
    F: Fn(NodeId, BoxStream) -> BoxFuture<'static, ()> + Send + Sync + 'static,
{
    fn handle(&self, peer: NodeId, stream: BoxStream) -> BoxFuture<'static, ()> {
        self(peer, stream)
    }
}

/// A bidirectional QUIC stream. Keeps its connection alive.
pub(crate) struct QuicStream {
    send: SendStream,
    receive: RecvStream,
    finished: bool,
    _on: Holds,
}

/// What a stream keeps alive.
pub(crate) enum Holds {
    /// A connection that others look after.
    Connection(Connection),
    /// A place on a connection that is kept while it is used.
    Kept(Busy),
}

impl Holds {
    pub(crate) fn connection(&self) -> &Connection {
        match self {
            Self::Connection(connection) => connection,
            Self::Kept(busy) => busy.connection(),
        }
    }
}

impl QuicStream {
    pub(crate) fn new(send: SendStream, receive: RecvStream, on: Holds) -> Self {
        Self { send, receive, finished: false, _on: on }
    }
}

impl Drop for QuicStream {
    fn drop(&mut self) {
        if !self.finished {
            // Left alone, the stream would end as if it were complete.
            let _: Result<(), _> = self.send.reset(code::ABORTED.into());
        }
    }
}

impl AsyncRead for QuicStream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, sink: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        AsyncRead::poll_read(Pin::new(&mut self.receive), cx, sink)
    }
}

impl AsyncWrite for QuicStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        AsyncWrite::poll_write(Pin::new(&mut self.send), cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        AsyncWrite::poll_flush(Pin::new(&mut self.send), cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.finished = true;
        AsyncWrite::poll_shutdown(Pin::new(&mut self.send), cx)
    }
}

/// A lane that is counted while it lives.
pub(crate) struct CountedLane {
    lane: LaneStream,
    _counted: Option<CountGuard>,
}

impl CountedLane {
    pub(crate) fn new(lane: LaneStream, counted: Option<CountGuard>) -> Self {
        Self { lane, _counted: counted }
    }
}

impl AsyncRead for CountedLane {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, sink: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.lane).poll_read(cx, sink)
    }
}

impl AsyncWrite for CountedLane {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.lane).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.lane).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.lane.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.lane).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.lane).poll_shutdown(cx)
    }
}
