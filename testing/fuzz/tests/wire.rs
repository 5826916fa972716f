//! Frames and versioned values, whatever bytes arrive. The sample type has every shape that real messages are made of.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::{collections::BTreeMap, net::Ipv6Addr};

use atoll_fuzz::fuzz;
use atoll_wire::{FrameError, Versioned, decode, encode, read_frame, version_of, write_frame};
use futures_util::FutureExt as _;
use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
enum Shape {
    Unit,
    Text(String),
    Pair(u64, i32),
    Record { list: Vec<Shape2>, maybe: Option<Vec<u8>>, map: BTreeMap<String, u16> },
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Shape2 {
    id: [u8; 16],
    flag: bool,
    letter: char,
    address: Ipv6Addr,
}

impl Versioned for Shape {
    const VERSION: u16 = 3;
    const NAME: &'static str = "shape";
}

fn shapes() -> Vec<Shape> {
    let item = Shape2 { id: [7; 16], flag: true, letter: 'é', address: Ipv6Addr::LOCALHOST };
    let map = [("one".to_owned(), 1), ("two".to_owned(), 2)].into();
    vec![
        Shape::Unit,
        Shape::Text("some text".to_owned()),
        Shape::Pair(u64::MAX, i32::MIN),
        Shape::Record { list: vec![item.clone(), item], maybe: Some(vec![0; 20]), map },
    ]
}

#[test]
fn versioned_values() {
    fuzz!(100_000, shapes().iter().map(encode).collect(), |bytes: &[u8]| {
        match decode::<Shape>(bytes) {
            Ok(shape) => {
                assert_eq!(version_of(bytes), Some(Shape::VERSION));
                assert_eq!(decode::<Shape>(&encode(&shape)), Ok(shape));
            }
            Err(error) => assert!(error.to_string().contains("shape"), "{error}"),
        }
    });
}

/// Most bytes of a frame in this test.
const FRAME_BYTES_MAX: u32 = 200;

/// The frames of a stream held in memory, up to its end or what is wrong with it.
async fn frames(mut stream: &[u8]) -> (Vec<bytes::Bytes>, Option<FrameError>) {
    let mut frames = Vec::new();
    loop {
        match read_frame(&mut stream, FRAME_BYTES_MAX).await {
            Ok(Some(frame)) => frames.push(frame),
            Ok(None) => return (frames, None),
            Err(error) => return (frames, Some(error)),
        }
    }
}

async fn stream(bodies: &[&[u8]]) -> Vec<u8> {
    let mut stream = Vec::new();
    for body in bodies {
        write_frame(&mut stream, body, FRAME_BYTES_MAX).await.unwrap();
    }
    stream
}

#[test]
fn framed_streams() {
    let valid = stream(&[b"", b"hello", &[7; FRAME_BYTES_MAX as usize], b"x"]).now_or_never().unwrap();
    fuzz!(100_000, vec![valid], |bytes: &[u8]| {
        let (frames, error) = frames(bytes).now_or_never().expect("memory does not wait");
        let bodies: Vec<&[u8]> = frames.iter().map(|frame| &frame[..]).collect();
        let read = stream(&bodies).now_or_never().unwrap();
        assert!(bytes.starts_with(&read), "frames that are not in the stream");
        assert_eq!(error.is_none(), read.len() == bytes.len(), "{error:?}");
    });
}
