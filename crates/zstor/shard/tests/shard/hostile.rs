//! Peers that send anything. Nobody panics, hangs or takes more than their limits, and afterwards everybody else is served.

use std::sync::LazyLock;
use std::time::Duration;

use atoll_shard::limits::SHARD_BYTES_MAX;
use atoll_shard::protocol::{Answer, HEADER_BYTES, Kind, Request};
use atoll_shard::{HomeError, PutOutcome, ServeError, ShardHome, crc64};
use bytes::Bytes;
use proptest::prelude::{Strategy, any, prop_assert, proptest};
use proptest::test_runner::Config;
use tokio::io::AsyncWriteExt;
use tokio::runtime::Runtime;
use tokio::time::timeout;

use crate::world::{Raw, Stage, World, id};

/// More than any of this takes; only a hang takes longer.
const HANG: Duration = Duration::from_secs(20);

static RUNTIME: LazyLock<Runtime> = LazyLock::new(|| Runtime::new().unwrap());

/// Bytes that begin like frames more often than chance would have it.
fn garbage() -> impl Strategy<Value = Vec<u8>> {
    let noise = proptest::collection::vec(any::<u8>(), 0..100);
    let kind = proptest::sample::select(&Kind::ALL[..]);
    let frame = (kind, 0..60u32, 0..4u64, noise.clone()).prop_map(|(kind, length, request, noise)| {
        let mut bytes = length.to_le_bytes().to_vec();
        bytes.extend([kind as u8, 0, 0, 0]);
        bytes.extend(request.to_le_bytes());
        bytes.extend(noise);
        bytes
    });
    let good = (0..5u64, 0..3u64).prop_map(|(request, shard)| Request::Get(id(shard)).encode(request));
    let piece = proptest::prop_oneof![noise, frame, good];
    proptest::collection::vec(piece, 0..6).prop_map(|pieces| pieces.concat())
}

/// Sends, hangs up, and waits for the server to be done.
async fn serve_garbage(mut raw: Raw, bytes: &[u8]) -> Result<(), ServeError> {
    // The server may hang up first.
    let _ = raw.stream.write_all(bytes).await;
    let _ = raw.stream.shutdown().await;
    let mut rest = Vec::new();
    let _ = tokio::io::AsyncReadExt::read_to_end(&mut raw.stream, &mut rest).await;
    raw.serving.unwrap().await.unwrap()
}

proptest! {
    #![proptest_config(Config::with_cases(64))]

    #[test]
    fn any_bytes_as_a_client(bytes in garbage()) {
        RUNTIME.block_on(async {
            let world = World::new();
            let raw = world.welcomed().await;
            let end = timeout(HANG, serve_garbage(raw, &bytes)).await.unwrap();
            prop_assert!(matches!(end, Ok(()) | Err(ServeError::Protocol(_) | ServeError::Io(_))), "{end:?}");
            world.client().ping().await.unwrap();
            Ok(())
        })?;
    }

    #[test]
    fn any_bytes_as_a_hello(bytes in proptest::collection::vec(any::<u8>(), 0..300), framed in any::<bool>()) {
        RUNTIME.block_on(async {
            let mut sent = Vec::new();
            if framed {
                sent.extend(u32::try_from(bytes.len()).unwrap().to_le_bytes());
            }
            sent.extend(&bytes);
            let world = World::new();
            let end = timeout(HANG, serve_garbage(world.raw(), &sent)).await.unwrap();
            let expected = matches!(end, Err(ServeError::Hello(_) | ServeError::Io(_))) || sent.is_empty();
            prop_assert!(expected, "{end:?}");
            Ok(())
        })?;
    }

    #[test]
    fn any_bytes_as_a_server(bytes in garbage(), greeted in any::<bool>()) {
        RUNTIME.block_on(async {
            let (client, _stage, mut streams) = Stage::client();
            let server = async {
                let mut raw = if greeted {
                    Raw::accept(&mut streams, 64).await
                } else {
                    Raw { stream: streams.recv().await.unwrap(), serving: None }
                };
                let _ = raw.stream.write_all(&bytes).await;
            };
            let calls = async { tokio::join!(client.get(id(1)), client.put(id(2), Bytes::new()), client.list(None, 5)) };
            let (calls, ()) = timeout(HANG, async { tokio::join!(calls, server) }).await.unwrap();
            // Garbage may happen to be an answer; a wrong kind of answer never gets through.
            prop_assert!(calls.1.is_err() || calls.1 == Ok(PutOutcome::Stored) || calls.1 == Ok(PutOutcome::AlreadyThere));
            Ok(())
        })?;
    }
}

/// A conversation cut anywhere stores only what was complete.
#[tokio::test]
async fn truncated_requests() {
    let world = World::new();
    let payload = Bytes::from_static(b"0123456789");
    let put = |n| Request::Put { id: id(n), crc: crc64(&payload), payload: payload.clone() }.encode(n);
    let conversation = [put(1), put(2)].concat();
    for cut in 0..=conversation.len() {
        let raw = world.welcomed().await;
        let end = serve_garbage(raw, &conversation[..cut]).await;
        let whole = cut % put(1).len() == 0;
        assert!(if whole { end.is_ok() } else { matches!(end, Err(ServeError::Io(_))) }, "cut at {cut}: {end:?}");
        assert_eq!(world.segments.totals().shards, (cut / put(1).len()) as u64, "cut at {cut}");
        for n in 1..=2 {
            let _ = world.segments.delete(world.owner.id(), id(n)).await;
        }
    }
}

/// Sends a header that cannot be, and expects to be told and cut before any body is sent.
#[tokio::test]
async fn impossible_frames_are_cut_with_a_word() {
    let world = World::new();
    let check = async |length: u32, kind: u8, reserved: u8, expected: &str| {
        let mut header = [0; HEADER_BYTES];
        header[..4].copy_from_slice(&length.to_le_bytes());
        (header[4], header[5]) = (kind, reserved);
        let mut raw = world.welcomed().await;
        // What was asked before is still answered.
        raw.send(&[Request::Ping.encode(8), header.to_vec()].concat()).await;
        let (answers, end) = timeout(HANG, raw.end()).await.unwrap();
        assert!(matches!(end, Err(ServeError::Protocol(_))), "{end:?}");
        let told = matches!(&answers[..], [Answer::Pong, Answer::End { text }] if text.contains(expected));
        assert!(told, "{answers:?}");
    };
    check(u32::MAX, Kind::Put as u8, 0, "4294967295 bytes").await;
    check(u32::try_from(SHARD_BYTES_MAX + 25).unwrap(), Kind::Put as u8, 0, "are possible").await;
    check(1, Kind::Ping as u8, 0, "are possible").await;
    check(0, 0, 0, "unknown kind 0").await;
    check(0, Kind::Pong as u8, 0, "unknown kind").await;
    check(0, Kind::Ping as u8, 1, "reserved").await;
    assert_eq!(world.server.stats().snapshot().protocol_errors, 6);
}

/// What a server must not answer.
#[tokio::test]
async fn a_server_that_breaks_the_protocol() {
    let check = async |answer: Vec<u8>, expected: &str| {
        let (client, _stage, mut streams) = Stage::client();
        let server = async {
            let mut raw = Raw::accept(&mut streams, 64).await;
            raw.request().await.unwrap();
            raw.send(&answer).await;
            raw
        };
        let (result, _raw) = timeout(HANG, async { tokio::join!(client.list(Some(id(5)), 2), server) }).await.unwrap();
        let Err(HomeError::Protocol { text, .. }) = &result else { panic!("{result:?}") };
        assert!(text.contains(expected), "{text}");
        assert_eq!(client.health().failures_in_a_row, 1);
    };
    let entries = |from: u64, n: u64| {
        let entries = (from..from + n).map(|n| atoll_shard::ShardEntry { id: id(n), len: 1 });
        Answer::Listing(entries.collect()).encode(1)
    };
    check(Answer::Pong.encode(1), "Pong as the answer to List").await;
    check(Answer::Pong.encode(2), "not pending").await;
    check(Answer::Shard(vec![0; 1000].into()).encode(1), "Shard as the answer to List").await;
    check(Request::Ping.encode(1), "Ping as the answer to List").await;
    check(vec![0xff; 64], "unknown kind").await;
    check(entries(6, 3), "longer than asked for").await;
    check(entries(5, 1), "does not go forward").await;
    check(entries(4, 2), "does not go forward").await;
}
