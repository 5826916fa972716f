//! What frames for relaying travel on: datagrams of a QUIC connection, or a lane where UDP does not get through.
//!
//! On a lane a frame stands behind its length (u16, little endian). What is to be sent waits in a bounded queue; when that is full, because the far end or the way
//! to it is slow, the newest is dropped, as on any path. So nothing here waits for a peer but the task that writes to it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use atoll_ids::NodeId;
use atoll_relay::{HEADER_BYTES, PAYLOAD_BYTES_MAX};
use bytes::{BufMut, Bytes, BytesMut};
use iroh::endpoint::{Connection, SendDatagramError};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::quic::is_direct;

/// The longest frame.
const FRAME_BYTES_MAX: usize = HEADER_BYTES + PAYLOAD_BYTES_MAX;

/// Frames that wait to be written to a lane: some 350 KiB, a third of a second at the default budget of a relay. More would be delay and no more throughput.
const QUEUE_MAX: usize = 256;

/// Frames written in one go: a few records of TLS.
const AT_ONCE: usize = 32;

/// Numbers lanes.
static NUMBER: AtomicU64 = AtomicU64::new(0);

/// Why a frame was not sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum NotSent {
    /// The way does not carry frames of this size.
    TooLarge,
    /// It is over, or more waits than may.
    Dropped,
}

/// The end of a lane where frames are handed over.
#[derive(Debug, Clone)]
pub(crate) struct LaneEnd {
    number: u64,
    began: Instant,
    queue: mpsc::Sender<Bytes>,
    closed: CancellationToken,
    /// Milliseconds after `began` at which the far end was last heard.
    heard: Arc<AtomicU64>,
}

/// See the module's documentation.
#[derive(Debug, Clone)]
pub(crate) enum Carrier {
    Quic(Connection),
    Lane(LaneEnd),
}

impl Carrier {
    pub(super) fn send(&self, frame: Bytes) -> Result<(), NotSent> {
        match self {
            Self::Quic(connection) => connection.send_datagram(frame).map_err(|error| match error {
                SendDatagramError::TooLarge => NotSent::TooLarge,
                _ => NotSent::Dropped,
            }),
            Self::Lane(lane) if lane.closed.is_cancelled() => Err(NotSent::Dropped),
            Self::Lane(lane) => lane.queue.try_send(frame).map_err(|_| NotSent::Dropped),
        }
    }

    /// The longest frame that it takes.
    pub(super) fn room(&self) -> usize {
        match self {
            Self::Quic(connection) => connection.max_datagram_size().unwrap_or(0),
            Self::Lane(_) => FRAME_BYTES_MAX,
        }
    }

    pub(super) fn is_closed(&self) -> bool {
        match self {
            Self::Quic(connection) => connection.close_reason().is_some(),
            Self::Lane(lane) => lane.closed.is_cancelled(),
        }
    }

    pub(super) fn close(&self, code: u32, reason: &str) {
        match self {
            Self::Quic(connection) => connection.close(code.into(), reason.as_bytes()),
            Self::Lane(lane) => lane.closed.cancel(),
        }
    }

    pub(super) fn is(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Quic(one), Self::Quic(other)) => one.stable_id() == other.stable_id(),
            (Self::Lane(one), Self::Lane(other)) => one.number == other.number,
            _ => false,
        }
    }

    pub(super) fn is_lane(&self) -> bool {
        matches!(self, Self::Lane(_))
    }

    /// Whether it leads to the peer and not through a third: a relay that is reached by a relay would carry itself.
    pub(super) fn is_direct(&self) -> bool {
        match self {
            Self::Quic(connection) => is_direct(connection),
            Self::Lane(_) => true,
        }
    }
}

impl LaneEnd {
    fn now(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// When the far end was last heard.
    pub(super) fn heard(&self) -> Instant {
        self.began + std::time::Duration::from_millis(self.heard.load(Ordering::Relaxed))
    }
}

/// A lane that carries frames.
pub(super) struct FrameLane<S> {
    pub(super) end: LaneEnd,
    waiting: mpsc::Receiver<Bytes>,
    stream: S,
}

impl<S: AsyncRead + AsyncWrite + Send> FrameLane<S> {
    pub(super) fn new(stream: S) -> Self {
        let (queue, waiting) = mpsc::channel(QUEUE_MAX);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let end =
            LaneEnd { number, began: Instant::now(), queue, closed: CancellationToken::new(), heard: Arc::default() };
        Self { end, waiting, stream }
    }

    /// Carries frames until the lane ends or is closed; hands over each that comes. `peer` is for the log.
    pub(super) async fn run(self, peer: NodeId, mut hear: impl FnMut(Bytes)) {
        let Self { end, waiting, stream } = self;
        let (reader, writer) = tokio::io::split(stream);
        let reading = async {
            let mut reader = tokio::io::BufReader::with_capacity(AT_ONCE * FRAME_BYTES_MAX, reader);
            while let Some(frame) = read_frame(&mut reader).await? {
                end.heard.store(end.now(), Ordering::Relaxed);
                hear(frame);
            }
            Ok::<(), std::io::Error>(())
        };
        let ended = tokio::select! {
            ended = reading => ended,
            ended = write_frames(writer, waiting) => ended,
            () = end.closed.cancelled() => Ok(()),
        };
        tracing::debug!(peer = %peer.short(), ?ended, "a lane for relaying ended");
        end.closed.cancel();
    }
}

/// The next frame; none at the end.
async fn read_frame(reader: &mut (impl AsyncRead + Unpin)) -> std::io::Result<Option<Bytes>> {
    let mut length = [0; 2];
    if reader.read(&mut length[..1]).await? == 0 {
        return Ok(None);
    }
    reader.read_exact(&mut length[1..]).await?;
    let length = usize::from(u16::from_le_bytes(length));
    if length > FRAME_BYTES_MAX {
        let text = format!("a frame for a relay has {length} bytes; {FRAME_BYTES_MAX} are possible");
        return Err(std::io::Error::new(std::io::ErrorKind::InvalidData, text));
    }
    let mut frame = BytesMut::zeroed(length);
    reader.read_exact(&mut frame).await?;
    Ok(Some(frame.freeze()))
}

async fn write_frames(mut writer: impl AsyncWrite + Unpin, mut waiting: mpsc::Receiver<Bytes>) -> std::io::Result<()> {
    let mut batch = Vec::with_capacity(AT_ONCE);
    let mut bytes = BytesMut::with_capacity(AT_ONCE * (2 + FRAME_BYTES_MAX));
    while waiting.recv_many(&mut batch, AT_ONCE).await > 0 {
        for frame in batch.drain(..) {
            let Ok(length) = u16::try_from(frame.len()) else { continue };
            bytes.put_u16_le(length);
            bytes.put_slice(&frame);
        }
        writer.write_all(&bytes).await?;
        writer.flush().await?;
        bytes.clear();
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use proptest::prelude::{any, prop, proptest};
    use tokio::io::duplex;

    use super::*;

    const PEER: NodeId = NodeId::from_bytes([1; 32]);

    fn runtime() -> tokio::runtime::Runtime {
        tokio::runtime::Builder::new_current_thread().build().unwrap()
    }

    #[tokio::test]
    async fn frames_cross_a_lane_in_order_and_it_ends_at_both_ends() {
        let (one, other) = duplex(1000);
        let (one, other) = (FrameLane::new(one), FrameLane::new(other));
        let (here, there) = (Carrier::Lane(one.end.clone()), Carrier::Lane(other.end.clone()));
        let frames: Vec<Bytes> = (0..QUEUE_MAX).map(|at| vec![at as u8; at * 6].into()).collect();
        frames.iter().for_each(|frame| here.send(frame.clone()).unwrap());
        assert_eq!(here.send(Bytes::new()), Err(NotSent::Dropped), "the newest is dropped when the queue is full");
        let mut heard = Vec::new();
        let running = tokio::spawn(one.run(PEER, |_| {}));
        let before = there.clone();
        other
            .run(PEER, |frame| {
                heard.push(frame);
                if heard.len() == QUEUE_MAX {
                    before.close(0, "enough");
                }
            })
            .await;
        running.await.unwrap();
        assert_eq!(heard, frames);
        assert!(here.is_closed() && there.is_closed());
        assert_eq!(here.send(Bytes::new()), Err(NotSent::Dropped));
    }

    proptest! {
        #[test]
        fn any_bytes_are_frames_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..5000)) {
            runtime().block_on(async {
                let mut reader = &bytes[..];
                let mut taken = 0;
                while let Ok(Some(frame)) = read_frame(&mut reader).await {
                    taken += 2 + frame.len();
                    assert_eq!(&bytes[taken - frame.len()..taken], &frame[..]);
                }
                assert!(taken <= bytes.len());
            });
        }
    }
}
