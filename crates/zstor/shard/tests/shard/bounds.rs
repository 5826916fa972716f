//! Memory and patience have limits on both sides, and nothing is lost at them.

use std::time::Duration;

use atoll_shard::limits::{
    ANSWER_BYTES_MAX, DIAL_LIMIT, IN_FLIGHT_MAX, PUT_BYTES_MAX, QUEUE_BYTES_MAX, QUEUE_REQUESTS_MAX, READS_MAX,
    SERVER_IDLE_LIMIT, SHARD_BYTES_MAX, STALL_LIMIT,
};
use atoll_shard::protocol::{Answer, Request};
use atoll_shard::{ServeError, ShardHome, crc64};
use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::future::join_all;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::{Instant, timeout};

use crate::world::{PIPE_BYTES, Raw, Stage, World, id};

/// A client that asks for much and reads nothing makes the server stop reading, with bounded memory; when it reads, all
/// is there.
#[tokio::test]
async fn a_reader_that_does_not_read() {
    const SHARD_BYTES: usize = 1 << 20;
    const ASKED: u64 = 1600;
    const PIPE: usize = 8 << 10;
    let world = World::new();
    let client = world.client();
    client.put(id(1), vec![3; SHARD_BYTES].into()).await.unwrap();
    let mut raw = world.welcomed_over(PIPE).await;
    // As many as fit the pipe and the server's read buffer, and then some that do not.
    let requests: Vec<u8> = (0..ASKED).flat_map(|n| Request::Get(id(1 + n % 4)).encode(n)).collect();
    let mut written = 0;
    while let Ok(wrote) = timeout(Duration::from_millis(300), raw.stream.write(&requests[written..])).await {
        written += wrote.unwrap();
    }
    assert!(written < requests.len());
    let stats = world.server.stats().snapshot();
    // Beside those unanswered, the few whose answers the pipe has taken: every fourth is larger than the pipe.
    assert!(stats.requests.get <= IN_FLIGHT_MAX as u64 + 64, "{stats:?}");
    let most = ANSWER_BYTES_MAX + (READS_MAX + 1) * SHARD_BYTES;
    assert!(stats.get_bytes <= most as u64, "{stats:?}");

    let (mut reader, mut writer) = tokio::io::split(raw.stream);
    let writing = async {
        writer.write_all(&requests[written..]).await.unwrap();
        writer.shutdown().await.unwrap();
    };
    let reading = async {
        let mut bytes = 0;
        let mut chunk = vec![0; 1 << 20];
        loop {
            match reader.read(&mut chunk).await.unwrap() {
                0 => return bytes,
                n => bytes += n as u64,
            }
        }
    };
    let (bytes, ()) = tokio::join!(reading, writing);
    raw.serving.unwrap().await.unwrap().unwrap();
    assert!(bytes > ASKED / 4 * SHARD_BYTES as u64);
    assert_eq!(world.server.stats().snapshot().requests.get, ASKED);
}

/// Callers wait when the queue is full, by bytes or by number; what is queued is bounded.
#[tokio::test]
async fn the_client_queue_is_bounded() {
    let (client, _stage, mut streams) = Stage::client();
    let check = async |callers: usize, shard_bytes: usize, queued_most: usize| {
        let data = Bytes::from(vec![1; shard_bytes]);
        let mut calls: Vec<_> = (0..callers).map(|n| client.put(id(n as u64), data.clone())).collect();
        for call in &mut calls {
            // Polled outside the runtime's budget, which would make some wait for nothing.
            assert!(tokio::task::unconstrained(call).now_or_never().is_none());
        }
        assert_eq!(client.health().queued, queued_most);
        drop(calls);
        assert_eq!(client.health().queued, 0);
    };
    check(3 * QUEUE_REQUESTS_MAX, 10, QUEUE_REQUESTS_MAX).await;
    check(10, SHARD_BYTES_MAX, QUEUE_BYTES_MAX / SHARD_BYTES_MAX).await;
    // And it works after that: nothing leaked.
    let serve = async {
        let mut raw = Raw::accept(&mut streams, 4).await;
        while let Some((request, _)) = raw.request().await {
            raw.send(&Answer::Pong.encode(request)).await;
        }
    };
    tokio::select! {
        () = serve => panic!("the client closed"),
        pongs = join_all((0..1000).map(|_| client.ping())) => assert!(pongs.iter().all(Result::is_ok)),
    }
}

/// The client never has more unanswered than the server announced.
#[tokio::test]
async fn the_window_is_kept() {
    let (client, _stage, mut streams) = Stage::client();
    let pings = join_all((0..10).map(|_| client.ping()));
    let server = async {
        let mut raw = Raw::accept(&mut streams, 3).await;
        let mut unanswered = Vec::new();
        for _ in 0..3 {
            unanswered.push(raw.request().await.unwrap().0);
        }
        for n in 0..10 {
            assert!(timeout(Duration::from_millis(5), raw.stream.read_u8()).await.is_err(), "after {n} answers");
            raw.send(&Answer::Pong.encode(unanswered.pop().unwrap())).await;
            if n < 7 {
                unanswered.push(raw.request().await.unwrap().0);
            }
        }
        raw
    };
    let (pongs, _raw) = tokio::join!(pings, server);
    assert!(pongs.iter().all(Result::is_ok));
}

#[tokio::test(start_paused = true)]
async fn a_server_does_not_wait_for_ever() {
    let check = async |sent: &[u8], after: Duration| {
        let world = World::new();
        let mut raw = world.welcomed().await;
        raw.send(sent).await;
        let start = Instant::now();
        let end = raw.serving.take().unwrap().await.unwrap();
        assert!(matches!(end, Err(ServeError::Stalled(limit)) if limit == after), "{end:?}");
        assert!(start.elapsed() >= after && start.elapsed() < after + Duration::from_secs(1));
        assert_eq!(world.server.stats().snapshot().stalled, 1);
    };
    check(&[], SERVER_IDLE_LIMIT).await;
    let put = Request::Put { id: id(1), crc: crc64(b"abc"), payload: Bytes::from_static(b"abc") }.encode(1);
    check(&put[..5], STALL_LIMIT).await;
    check(&put[..put.len() - 1], STALL_LIMIT).await;
    // Answers to pings fill the pipe, and nobody reads them.
    let pings: Vec<u8> = (0..2 * PIPE_BYTES as u64 / 16).flat_map(|n| Request::Ping.encode(n)).collect();
    let world = World::new();
    let mut raw = world.welcomed().await;
    assert!(timeout(Duration::from_secs(29), raw.stream.write_all(&pings)).await.is_ok());
    let end = raw.serving.take().unwrap().await.unwrap();
    assert!(matches!(end, Err(ServeError::Stalled(STALL_LIMIT))), "{end:?}");
}

#[tokio::test(start_paused = true)]
async fn a_hello_must_come_soon() {
    let world = World::new();
    let mut raw = world.raw();
    raw.send(&[5, 0]).await;
    let end = raw.serving.take().unwrap().await.unwrap();
    assert!(matches!(end, Err(ServeError::NoHello(DIAL_LIMIT))), "{end:?}");
}

/// More bytes of puts than the server holds at once: it takes them piece by piece.
#[tokio::test]
async fn puts_beyond_the_budget() {
    let world = World::new();
    let client = world.client();
    let shard_bytes = 1 << 20;
    let count = 2 * PUT_BYTES_MAX / shard_bytes;
    let data = |n: usize| Bytes::from(vec![u8::try_from(n).unwrap(); shard_bytes]);
    let puts = join_all((0..count).map(|n| client.put(id(n as u64), data(n)))).await;
    assert!(puts.iter().all(Result::is_ok));
    assert_eq!(world.server.stats().snapshot().put_bytes, (count * shard_bytes) as u64);
}
