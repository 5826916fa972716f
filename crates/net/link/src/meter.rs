//! What is carried to and from each peer: bytes of streams, whatever carries those, and of IP packets, without what the connection itself adds.

use std::collections::HashMap;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use atoll_ids::NodeId;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::stream::BoxStream;

/// What was carried to and from a peer since this node was started, in bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Carried {
    /// To the peer.
    pub sent_bytes: u64,
    /// From the peer.
    pub received_bytes: u64,
}

/// The counters of one peer.
#[derive(Debug, Default)]
pub(crate) struct Meter {
    sent: AtomicU64,
    received: AtomicU64,
}

impl Meter {
    pub(crate) fn sent(&self, bytes: usize) {
        self.sent.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    pub(crate) fn received(&self, bytes: usize) {
        self.received.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    fn read(&self) -> Carried {
        Carried { sent_bytes: self.sent.load(Ordering::Relaxed), received_bytes: self.received.load(Ordering::Relaxed) }
    }
}

/// The counters of all peers with which anything was carried.
#[derive(Debug, Default)]
pub(crate) struct Meters(Mutex<HashMap<NodeId, Arc<Meter>>>);

impl Meters {
    fn all(&self) -> MutexGuard<'_, HashMap<NodeId, Arc<Meter>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Those of a peer. Only of peers that are known, or there would be no end to them.
    pub(crate) fn of(&self, peer: NodeId) -> Arc<Meter> {
        self.all().entry(peer).or_default().clone()
    }

    pub(crate) fn read(&self, peer: &NodeId) -> Carried {
        self.all().get(peer).map(|meter| meter.read()).unwrap_or_default()
    }

    pub(crate) fn forget(&self, peer: &NodeId) {
        self.all().remove(peer);
    }

    /// The same stream, counted.
    pub(crate) fn meter(&self, peer: NodeId, stream: BoxStream) -> BoxStream {
        Box::new(Metered { stream, meter: self.of(peer) })
    }
}

struct Metered {
    stream: BoxStream,
    meter: Arc<Meter>,
}

impl AsyncRead for Metered {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, sink: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = sink.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(cx, sink);
        self.meter.received(sink.filled().len() - before);
        read
    }
}

impl AsyncWrite for Metered {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, bytes);
        if let Poll::Ready(Ok(count)) = written {
            self.meter.sent(count);
        }
        written
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, slices);
        if let Poll::Ready(Ok(count)) = written {
            self.meter.sent(count);
        }
        written
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, duplex};

    use super::*;

    #[tokio::test]
    async fn both_directions_are_counted_for_their_peer() {
        let (meters, peer, other) = (Meters::default(), NodeId::from_bytes([1; 32]), NodeId::from_bytes([2; 32]));
        let (here, mut there) = duplex(16);
        let mut stream = meters.meter(peer, Box::new(here));
        // More than fits at once: parts that were taken are counted, others are not.
        let writes = async {
            stream.write_all(&[7; 100]).await.unwrap();
            let mut back = [0; 30];
            stream.read_exact(&mut back).await.unwrap();
        };
        let answers = async {
            let mut all = [0; 100];
            there.read_exact(&mut all).await.unwrap();
            there.write_all(&[8; 30]).await.unwrap();
        };
        tokio::join!(writes, answers);
        assert_eq!(meters.read(&peer), Carried { sent_bytes: 100, received_bytes: 30 });
        assert_eq!(meters.read(&other), Carried::default());
        meters.forget(&peer);
        assert_eq!(meters.read(&peer), Carried::default());
    }
}
