//! Few copies and few system calls, and the right bytes however the stream cuts them.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::pin::Pin;
use std::task::{Context, Poll};

use atoll_ids::ShardId;
use proptest::prelude::{Strategy, prop_assert_eq, proptest};
use proptest::test_runner::Config;
use tokio::io::AsyncReadExt;

use super::*;
use crate::protocol::{Answer, Request};

/// Takes at most so many bytes at a time, and keeps them with the length of each write.
#[derive(Default)]
struct Sink {
    most: Option<usize>,
    vectored: bool,
    bytes: Vec<u8>,
    writes: Vec<usize>,
    flushes: usize,
}

impl AsyncWrite for &mut Sink {
    fn poll_write(mut self: Pin<&mut Self>, _: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let n = buf.len().min(self.most.unwrap_or(usize::MAX));
        self.bytes.extend_from_slice(&buf[..n]);
        self.writes.push(n);
        Poll::Ready(Ok(n))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let taken = if self.vectored { slices.len() } else { 1 };
        let bytes = slices.iter().take(taken).flat_map(|slice| slice.iter());
        let all: Vec<u8> = bytes.take(self.most.unwrap_or(usize::MAX)).copied().collect();
        self.as_mut().poll_write(cx, &all)
    }

    fn poll_flush(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.flushes += 1;
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

fn put(len: usize) -> Request {
    let payload: Bytes = (0..len).map(|i| u8::try_from(i % 253).unwrap()).collect::<Vec<_>>().into();
    Request::Put { id: ShardId::from_bytes([3; 16]), crc: 9, payload }
}

async fn write_all(sink: &mut Sink, requests: &[Request]) {
    let progress = Progress::new();
    let mut writer = FrameWriter::new(sink, &progress, None);
    for (id, request) in (0..).zip(requests) {
        writer.write(|out| request.head(id, out), &request.payload()).await.unwrap();
    }
    writer.flush().await.unwrap();
    writer.flush().await.unwrap();
}

fn encoded(requests: &[Request]) -> Vec<u8> {
    (0..).zip(requests).flat_map(|(id, request)| request.encode(id)).collect()
}

#[tokio::test]
async fn small_frames_share_a_write() {
    let requests: Vec<Request> = (0..100).map(|_| put(100)).collect();
    let mut sink = Sink::default();
    write_all(&mut sink, &requests).await;
    assert_eq!(sink.bytes, encoded(&requests));
    assert_eq!((sink.writes.len(), sink.flushes), (1, 1));
}

#[tokio::test]
async fn a_large_payload_goes_out_with_what_was_gathered() {
    let requests = [put(10), put(300_000), put(10)];
    let mut sink = Sink { vectored: true, ..Sink::default() };
    write_all(&mut sink, &requests).await;
    assert_eq!(sink.bytes, encoded(&requests));
    assert_eq!(sink.writes, [(40 + 10) + 40 + 300_000, 40 + 10]);
}

#[tokio::test]
async fn gathering_has_a_limit() {
    let requests: Vec<Request> = (0..200).map(|_| put(BYPASS_BYTES - 1)).collect();
    let mut sink = Sink::default();
    write_all(&mut sink, &requests).await;
    assert!(sink.writes.iter().all(|written| *written < GATHER_BYTES + BYPASS_BYTES + 40));
    assert_eq!(sink.bytes, encoded(&requests));
}

#[tokio::test]
async fn a_payload_is_read_into_memory_of_its_own_and_not_copied_from_there() {
    let request = put(300_000);
    let bytes = request.encode(1);
    let progress = Progress::new();
    let mut reader = FrameReader::new(&bytes[..], &progress, None);
    let header = reader.header().await.unwrap().unwrap();
    let body = reader.body(header).await.unwrap();
    assert_eq!(body.len(), header.length as usize);
    let decoded = Request::decode(header, body.clone()).unwrap();
    assert_eq!(decoded, request);
    assert_eq!(decoded.payload().as_ptr(), body[body.len() - 300_000..].as_ptr());
    assert!(reader.header().await.unwrap().is_none());
}

#[tokio::test(start_paused = true)]
async fn stalls_are_told_from_ends() {
    let bytes = put(50).encode(1);
    let limit = Duration::from_secs(3);
    for cut in 1..bytes.len() {
        let read = async |hang: bool| {
            let (near, mut far) = tokio::io::duplex(1000);
            AsyncWriteExt::write_all(&mut far, &bytes[..cut]).await.unwrap();
            let _far = hang.then_some(far);
            let progress = Progress::new();
            let mut reader = FrameReader::new(near, &progress, Some(limit));
            match reader.header().await {
                Ok(Some(header)) => reader.body(header).await.map(|_| ()),
                Ok(None) => panic!("bytes were there"),
                Err(fault) => Err(fault),
            }
        };
        assert!(matches!(read(true).await, Err(Fault::Stalled(after)) if after == limit));
        assert!(matches!(read(false).await, Err(Fault::Protocol(ProtocolError::Truncated))));
    }
}

proptest! {
    #![proptest_config(Config::with_cases(48))]

    /// However a stream cuts what is written and read, the same frames arrive.
    #[test]
    fn any_cut(
        lens in proptest::collection::vec(proptest::sample::select(vec![0, 1, 100, 16_383, 16_384, 20_000]), 1..6),
        most in (1..40_000usize).prop_map(|n| if n % 3 == 0 { 7 + n % 90 } else { n }),
        vectored in proptest::bool::ANY,
        pipe in (1..60_000usize).prop_map(|n| if n % 3 == 0 { 1 + n % 90 } else { n }),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let requests: Vec<Request> = lens.iter().map(|len| put(*len)).collect();
            let mut sink = Sink { most: Some(most), vectored, ..Sink::default() };
            write_all(&mut sink, &requests).await;
            let (near, mut far) = tokio::io::duplex(pipe);
            let feed = async {
                far.write_all(&sink.bytes).await.unwrap();
                drop(far);
            };
            let read = async {
                let progress = Progress::new();
                let mut reader = FrameReader::new(near, &progress, None);
                let mut got = Vec::new();
                while let Some(header) = reader.header().await.unwrap() {
                    let body = reader.body(header).await.unwrap();
                    got.push(Request::decode(header, body).unwrap());
                }
                got
            };
            let (got, ()) = tokio::join!(read, feed);
            prop_assert_eq!(got, requests);
            Ok(())
        })?;
    }
}

#[tokio::test]
async fn finishing_closes_the_stream() {
    let (near, mut far) = tokio::io::duplex(1000);
    let progress = Progress::new();
    let mut writer = FrameWriter::new(near, &progress, None);
    writer.write(|out| Answer::Pong.head(4, out), &[]).await.unwrap();
    writer.finish().await.unwrap();
    let mut all = Vec::new();
    far.read_to_end(&mut all).await.unwrap();
    assert_eq!(all, Answer::Pong.encode(4));
}
