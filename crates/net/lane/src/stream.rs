//! An established lane as a byte stream.
//!
//! This is the thin driver around [`Session`]: it moves the two queues of wire bytes from and to the socket in as few
//! system calls as possible. Every poll function keeps its state in the stream, so a future that reads or writes may be
//! dropped at any time without losing or repeating a byte.
//!
//! As with any buffering stream, `write` may leave encrypted bytes here when the socket is full; they go out with the
//! next `write`, `flush` or `shutdown`, and `flush` waits for them.

use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use atoll_ids::NodeId;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use crate::session::Session;

/// A lane to one node. `shutdown` ends this end's direction and leaves the other open; dropping the lane without it
/// makes the other end's read fail, so that an incomplete stream cannot pass for a whole one.
pub struct LaneStream {
    tcp: TcpStream,
    session: Box<Session>,
    peer: NodeId,
    closing: bool,
}

impl std::fmt::Debug for LaneStream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LaneStream").field("peer", &self.peer).field("tcp", &self.tcp).finish_non_exhaustive()
    }
}

impl LaneStream {
    pub(crate) fn new(tcp: TcpStream, session: Session, peer: NodeId) -> Self {
        Self { tcp, session: Box::new(session), peer, closing: false }
    }

    /// The node at the other end, proven by the handshake.
    pub fn peer(&self) -> NodeId {
        self.peer
    }

    /// The address of the other end.
    ///
    /// # Errors
    ///
    /// What the operating system says, for instance when the connection is gone.
    pub fn peer_address(&self) -> io::Result<SocketAddr> {
        self.tcp.peer_addr()
    }

    /// The key exchange that protects this lane.
    pub fn key_exchange(&self) -> &'static str {
        self.session
            .common()
            .negotiated_key_exchange_group()
            .and_then(|group| group.name().as_str())
            .unwrap_or("unknown")
    }

    /// The cipher that protects this lane.
    pub fn cipher(&self) -> &'static str {
        self.session.common().negotiated_cipher_suite().and_then(|suite| suite.suite().as_str()).unwrap_or("unknown")
    }

    /// Replaces the keys of both directions with the next traffic. Happens by itself long before a key is worn out;
    /// for connections that are to live for months.
    ///
    /// # Errors
    ///
    /// When the lane has failed or this end is shut down.
    pub fn rekey(&mut self) -> io::Result<()> {
        self.session.rekey().map_err(failure)
    }

    /// Memory that this lane holds in buffers, in bytes: 0 when it rests.
    pub fn held_bytes(&self) -> usize {
        self.session.held_bytes()
    }

    /// Writes the outgoing queue to the socket until it is empty.
    fn poll_drain(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.session.outgoing().is_empty() {
            let outgoing = self.session.outgoing();
            let count = ready!(Pin::new(&mut self.tcp).poll_write(cx, outgoing.filled()))?;
            if count == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            outgoing.consume(count);
        }
        Poll::Ready(Ok(()))
    }

    /// Sends alerts and key updates that receiving made necessary, as far as the socket takes them at once. It must not
    /// wait: the task that waits to write is possibly another one, and the socket wakes only one.
    fn push_control(&mut self) {
        if !self.session.take_control() {
            return;
        }
        let outgoing = self.session.outgoing();
        while !outgoing.is_empty() {
            match self.tcp.try_write(outgoing.filled()) {
                Ok(count) if count > 0 => outgoing.consume(count),
                // A failure comes back to whoever writes or reads next.
                _ => return,
            }
        }
    }

    /// Reads once from the socket into the incoming queue. False at the end of the connection.
    fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<bool>> {
        if self.tcp.poll_read_ready(cx)?.is_pending() {
            self.session.rest();
            return Poll::Pending;
        }
        let mut wire = ReadBuf::new(self.session.spare().map_err(failure)?);
        ready!(Pin::new(&mut self.tcp).poll_read(cx, &mut wire))?;
        let count = wire.filled().len();
        self.session.arrived(count);
        Poll::Ready(Ok(count > 0))
    }

    fn poll_send(&mut self, cx: &mut Context<'_>, slices: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        if self.closing {
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::BrokenPipe, "this end of the lane is shut down")));
        }
        ready!(self.poll_drain(cx))?;
        let mut taken = 0;
        for slice in slices.iter().filter(|slice| !slice.is_empty()) {
            let count = self.session.send(slice).map_err(failure)?;
            taken += count;
            if count < slice.len() {
                break;
            }
        }
        self.session.take_control();
        if let Poll::Ready(sent) = self.poll_drain(cx) {
            sent?;
            self.session.outgoing().release_if_empty();
        }
        Poll::Ready(Ok(taken))
    }
}

/// What a broken TLS connection is to somebody who knows byte streams.
fn failure(error: rustls::Error) -> io::Error {
    let kind = match error {
        rustls::Error::AlertReceived(_) => io::ErrorKind::ConnectionAborted,
        _ => io::ErrorKind::InvalidData,
    };
    io::Error::new(kind, error)
}

impl AsyncRead for LaneStream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, sink: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if sink.remaining() == 0 {
            return Poll::Ready(Ok(()));
        }
        let before = sink.filled().len();
        loop {
            let outcome = this.session.receive(sink);
            this.push_control();
            if sink.filled().len() > before {
                // An error behind these bytes is kept and comes with the next read.
                return Poll::Ready(Ok(()));
            }
            outcome.map_err(failure)?;
            if this.session.is_finished() {
                this.session.rest();
                return Poll::Ready(Ok(()));
            }
            if !ready!(this.poll_fill(cx))? {
                let text = "the connection ended without a close: what was received may be incomplete";
                return Poll::Ready(Err(io::Error::new(io::ErrorKind::UnexpectedEof, text)));
            }
        }
    }
}

impl AsyncWrite for LaneStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, plain: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_send(cx, &[IoSlice::new(plain)])
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.poll_send(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_drain(cx))?;
        self.session.outgoing().release_if_empty();
        Pin::new(&mut self.tcp).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        ready!(this.poll_drain(cx))?;
        if !this.closing {
            this.closing = true;
            // A failed lane cannot say goodbye: its TCP connection still ends below.
            let _: Result<(), rustls::Error> = this.session.close();
            ready!(this.poll_drain(cx))?;
        }
        Pin::new(&mut this.tcp).poll_shutdown(cx)
    }
}
