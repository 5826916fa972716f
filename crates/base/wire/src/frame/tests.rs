//! Frames over streams that deliver a byte at a time, end early, or lie about lengths.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::pin::Pin;
use std::task::{Context, Poll};

use proptest::prelude::{any, proptest};
use proptest::{prop_assert, prop_assert_eq};
use tokio::io::ReadBuf;

use super::*;

fn run<F: Future>(future: F) -> F::Output {
    tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(future)
}

/// Delivers at most `step` bytes per read.
struct Dribble<'a> {
    bytes: &'a [u8],
    step: usize,
}

impl AsyncRead for Dribble<'_> {
    fn poll_read(mut self: Pin<&mut Self>, _: &mut Context<'_>, to: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let n = self.step.min(self.bytes.len()).min(to.remaining());
        let (now, later) = self.bytes.split_at(n);
        to.put_slice(now);
        self.bytes = later;
        Poll::Ready(Ok(()))
    }
}

#[test]
fn golden_bytes() {
    let mut stream = Vec::new();
    run(write_frame(&mut stream, b"abc", 3)).unwrap();
    run(write_frame(&mut stream, b"", 0)).unwrap();
    assert_eq!(stream, [3, 0, 0, 0, b'a', b'b', b'c', 0, 0, 0, 0]);
}

#[test]
fn a_frame_over_the_limit_is_refused_by_its_header() {
    let mut stream = Vec::new();
    let error = run(write_frame(&mut stream, &[0; 11], 10)).unwrap_err();
    assert_eq!(error.to_string(), "a frame of 11 bytes is larger than the 10 bytes allowed here");
    assert!(stream.is_empty());

    let claims_4_gib = [0xff; 4];
    let error = run(read_frame(&mut &claims_4_gib[..], 10)).unwrap_err();
    assert_eq!(error.to_string(), "a frame of 4294967295 bytes is larger than the 10 bytes allowed here");
}

#[test]
fn an_end_inside_a_frame_is_not_a_clean_end() {
    #[track_caller]
    fn check(stream: &[u8], expect: &str) {
        assert_eq!(run(read_frame(&mut &stream[..], 10)).unwrap_err().to_string(), expect);
    }
    assert!(run(read_frame(&mut &[][..], 10)).unwrap().is_none());
    check(&[3], "the stream ended after 1 of the 4 bytes of a frame");
    check(&[3, 0, 0, 0], "the stream ended after 4 of the 7 bytes of a frame");
    check(&[3, 0, 0, 0, 1, 2], "the stream ended after 6 of the 7 bytes of a frame");
}

/// A pipe of 7 bytes: no header or body is written or read in one go, and large bodies take the path that does not copy them.
#[test]
fn both_ends_wait_for_each_other() {
    let bodies = [vec![1; JOIN_BYTES_MAX], vec![2; JOIN_BYTES_MAX + 1], Vec::new(), vec![3; 50_000]];
    run(async {
        let (mut near, mut far) = tokio::io::duplex(7);
        let write = async {
            for body in &bodies {
                write_frame(&mut near, body, 50_000).await.unwrap();
            }
            drop(near);
        };
        let read = async {
            for body in &bodies {
                assert_eq!(read_frame(&mut far, 50_000).await.unwrap().unwrap(), body);
            }
            assert!(read_frame(&mut far, 50_000).await.unwrap().is_none());
        };
        tokio::join!(write, read);
    });
}

#[test]
fn a_failing_stream_is_reported_as_such() {
    run(async {
        let (mut near, far) = tokio::io::duplex(7);
        drop(far);
        for body in [&[0; 100][..], &[0; 10_000]] {
            let error = write_frame(&mut near, body, 10_000).await.unwrap_err();
            assert!(matches!(&error, FrameError::Io(source) if source.kind() == io::ErrorKind::BrokenPipe), "{error}");
        }
        let error = read_frame(&mut Failing, 10).await.unwrap_err();
        assert!(matches!(&error, FrameError::Io(source) if source.kind() == io::ErrorKind::ConnectionReset), "{error}");
    });
}

struct Failing;

impl AsyncRead for Failing {
    fn poll_read(self: Pin<&mut Self>, _: &mut Context<'_>, _: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()))
    }
}

proptest! {
    #[test]
    fn frames_arrive_as_sent_however_the_stream_is_cut(
        bodies in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..6000), 0..5),
        step in 1_usize..10_000,
    ) {
        let mut stream = Vec::new();
        for body in &bodies {
            run(write_frame(&mut stream, body, 6000)).unwrap();
        }
        let mut reader = Dribble { bytes: &stream, step };
        for body in &bodies {
            let frame = run(read_frame(&mut reader, 6000)).unwrap();
            prop_assert_eq!(frame.as_deref(), Some(&body[..]));
        }
        prop_assert!(run(read_frame(&mut reader, 6000)).unwrap().is_none());
    }

    #[test]
    fn arbitrary_streams_never_panic_nor_exceed_the_limit(stream in any::<Vec<u8>>(), max in 0_u32..64) {
        let mut reader = &stream[..];
        while let Ok(Some(frame)) = run(read_frame(&mut reader, max)) {
            prop_assert!(frame.len() <= max as usize);
        }
    }
}
