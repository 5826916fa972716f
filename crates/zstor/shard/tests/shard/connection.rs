//! What becomes of requests when the connection does not behave: the client against a server played by the test, mostly on
//! paused time.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use atoll_shard::limits::{BACK_OFF_MAX, CLIENT_IDLE_LIMIT, DIAL_LIMIT, STALL_LIMIT};
use atoll_shard::protocol::{Answer, Code, Request};
use atoll_shard::{HomeError, PutOutcome, ShardClient, ShardHome};
use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::future::join_all;
use tokio::io::AsyncReadExt;
use tokio::time::{Instant, advance};

use crate::world::{Raw, Stage, World, id};

#[tokio::test]
async fn answers_in_any_order() {
    let (client, stage, mut streams) = Stage::client();
    let server = async {
        let mut raw = Raw::accept(&mut streams, 64).await;
        let mut requests = Vec::new();
        for _ in 0..20 {
            requests.push(raw.request().await.unwrap());
        }
        for (request, asked) in requests.into_iter().rev() {
            let Request::Get(shard) = asked else { panic!("{asked:?}") };
            raw.send(&Answer::Shard(shard.as_bytes().to_vec().into()).encode(request)).await;
        }
        raw
    };
    let (got, _raw) = tokio::join!(join_all((0..20).map(|n| client.get(id(n)))), server);
    for (n, got) in (0..).zip(got) {
        assert_eq!(got.unwrap(), id(n).as_bytes()[..]);
    }
    assert_eq!(stage.dialled.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn every_error_has_its_kind() {
    let (client, _stage, mut streams) = Stage::client();
    tokio::spawn(async move {
        let mut raw = Raw::accept(&mut streams, 64).await;
        for code in Code::ALL {
            let (request, _) = raw.request().await.unwrap();
            raw.send(&Answer::Failed { code, text: "be\u{7}cause".to_owned() }.encode(request)).await;
        }
        std::future::pending::<()>().await;
    });
    for code in Code::ALL {
        let error = client.get(id(1)).await.unwrap_err();
        let fits = match code {
            Code::NotFound => matches!(error, HomeError::NotFound { .. }),
            Code::Rotten => matches!(error, HomeError::Rotten { .. }),
            Code::DifferentContent => matches!(error, HomeError::DifferentContent { .. }),
            Code::Damaged => matches!(error, HomeError::Damaged { .. }),
            Code::Grant | Code::Quota | Code::Full | Code::Policy => {
                let HomeError::Refused { why, text, .. } = &error else { panic!("{code:?}: {error:?}") };
                format!("{why:?}") == format!("{code:?}") && text == "be cause"
            }
            Code::Broken => matches!(&error, HomeError::Failed { text, .. } if text == "be cause"),
        };
        assert!(fits, "{code:?}: {error:?}");
        assert!(error.to_string().contains(&client.node().short().to_string()));
    }
    assert_eq!(client.health().failures, 0);
}

#[tokio::test]
async fn reconnects_after_a_cut() {
    let world = World::new();
    let dial = world.dial();
    let client = ShardClient::new(world.host, dial.clone(), world.grant());
    for round in 0..5 {
        client.put(id(round), Bytes::from_static(b"x")).await.unwrap();
        assert_eq!(client.get(id(round)).await.unwrap(), Bytes::from_static(b"x"));
        dial.cut();
        // Wait until the client has noticed; a request before that may fail, one after must not.
        while client.health().connected {
            tokio::task::yield_now().await;
        }
    }
    assert_eq!(dial.dialled.load(Ordering::SeqCst), 5);
}

#[tokio::test]
async fn a_cut_fails_what_was_sent_and_retries_what_was_not() {
    let (client, stage, mut streams) = Stage::client();
    let server = async {
        let mut raw = Raw::accept(&mut streams, 1).await;
        let (first, _) = raw.request().await.unwrap();
        raw.send(&Answer::Pong.encode(first)).await;
        raw.request().await.unwrap();
        drop(raw);
        let mut raw = Raw::accept(&mut streams, 1).await;
        let (third, _) = raw.request().await.unwrap();
        raw.send(&Answer::Pong.encode(third)).await;
        raw
    };
    let pings = join_all((0..3).map(|_| client.ping()));
    let (pings, _raw) = tokio::join!(pings, server);
    assert!(matches!(&pings[..], [Ok(()), Err(HomeError::Unreachable { .. }), Ok(())]), "{pings:?}");
    assert_eq!(stage.dialled.load(Ordering::SeqCst), 2);
    assert_eq!(client.health().failures, 1);
}

#[tokio::test(start_paused = true)]
async fn backs_off() {
    let world = World::new();
    let dial = world.dial();
    dial.down.store(true, Ordering::SeqCst);
    let client = ShardClient::new(world.host, dial.clone(), world.grant());
    let dialled = || dial.dialled.load(Ordering::SeqCst);
    let mut pause = Duration::from_millis(50);
    for attempt in 1..=12 {
        assert!(matches!(client.ping().await, Err(HomeError::Unreachable { .. })));
        assert_eq!(dialled(), attempt);
        let start = Instant::now();
        let remaining = client.health().back_off.unwrap();
        assert!(remaining >= pause / 2 && remaining <= pause, "{attempt}: {remaining:?} of {pause:?}");
        // Fails at once and does not dial.
        let results = join_all((0..100).map(|_| client.get(id(1)))).await;
        assert!(results.iter().all(|result| matches!(result, Err(HomeError::Unreachable { .. }))));
        assert_eq!((dialled(), start.elapsed()), (attempt, Duration::ZERO));
        advance(remaining + Duration::from_millis(1)).await;
        pause = (pause * 2).min(BACK_OFF_MAX);
    }
    assert_eq!(client.health().failures_in_a_row, 12 * 101);
    dial.down.store(false, Ordering::SeqCst);
    client.ping().await.unwrap();
    let health = client.health();
    assert_eq!((health.failures_in_a_row, health.back_off, health.connected), (0, None, true));
}

#[tokio::test(start_paused = true)]
async fn silence_ends_a_connection() {
    let (client, _stage, mut streams) = Stage::client();
    let get = client.get(id(1));
    let serve = async {
        let raw = Raw::accept(&mut streams, 64).await;
        tokio::time::sleep(Duration::from_secs(10)).await;
        let health = client.health();
        assert_eq!((health.in_flight, health.silent.as_secs()), (1, 10));
        raw
    };
    let start = Instant::now();
    let (result, _raw) = tokio::join!(get, serve);
    assert_eq!(result, Err(HomeError::TimedOut { node: client.node(), after: STALL_LIMIT }));
    assert_eq!(start.elapsed().as_secs(), STALL_LIMIT.as_secs());
    assert_eq!(client.health().failures, 1);
}

/// Slow is not silent: one byte now and then keeps a connection.
#[tokio::test(start_paused = true)]
async fn slowness_is_not_silence() {
    let (client, _stage, mut streams) = Stage::client();
    let serve = async {
        let mut raw = Raw::accept(&mut streams, 64).await;
        let (request, _) = raw.request().await.unwrap();
        for byte in Answer::Shard(Bytes::from_static(b"slow")).encode(request) {
            tokio::time::sleep(STALL_LIMIT - Duration::from_secs(1)).await;
            raw.send(&[byte]).await;
        }
        raw
    };
    let (result, _raw) = tokio::join!(client.get(id(1)), serve);
    assert_eq!(result.unwrap(), Bytes::from_static(b"slow"));
}

/// A stall is noticed in time also when the connection was idle long before.
#[tokio::test(start_paused = true)]
async fn silence_after_idleness() {
    let (client, _stage, mut streams) = Stage::client();
    let serve = async {
        let mut raw = Raw::accept(&mut streams, 64).await;
        let (request, _) = raw.request().await.unwrap();
        raw.send(&Answer::Pong.encode(request)).await;
        raw
    };
    let (pong, _raw) = tokio::join!(client.ping(), serve);
    pong.unwrap();
    tokio::time::sleep(Duration::from_secs(47)).await;
    let start = Instant::now();
    assert!(matches!(client.ping().await, Err(HomeError::TimedOut { .. })));
    assert_eq!(start.elapsed().as_secs(), STALL_LIMIT.as_secs());
}

#[tokio::test(start_paused = true)]
async fn a_server_that_does_not_greet() {
    let (client, _stage, mut streams) = Stage::client();
    let start = Instant::now();
    let result = client.ping().await;
    assert_eq!(result, Err(HomeError::TimedOut { node: client.node(), after: DIAL_LIMIT }));
    assert_eq!(start.elapsed().as_secs(), DIAL_LIMIT.as_secs());
    // The stream was closed, not left behind.
    let mut stream = streams.recv().await.unwrap();
    let mut rest = Vec::new();
    stream.read_to_end(&mut rest).await.unwrap();
    assert!(client.health().back_off.is_some());
}

#[tokio::test(start_paused = true)]
async fn idle_connections_are_closed_and_opened_again() {
    let (client, stage, mut streams) = Stage::client();
    for round in 1..=3 {
        let serve = async {
            let mut raw = Raw::accept(&mut streams, 64).await;
            let (request, _) = raw.request().await.unwrap();
            raw.send(&Answer::Pong.encode(request)).await;
            raw
        };
        let (pong, mut raw) = tokio::join!(client.ping(), serve);
        pong.unwrap();
        assert!(client.health().connected);
        let start = Instant::now();
        assert!(raw.request().await.is_none());
        assert_eq!(start.elapsed().as_secs(), CLIENT_IDLE_LIMIT.as_secs());
        assert!(!client.health().connected);
        assert_eq!(stage.dialled.load(Ordering::SeqCst), round);
    }
    assert_eq!(client.health().failures, 0);
}

/// What was dropped before it was sent is never sent; what was dropped after that disturbs nobody.
#[tokio::test]
async fn dropped_futures() {
    let (client, stage, mut streams) = Stage::client();
    let mut sent = client.get(id(1));
    assert!((&mut sent).now_or_never().is_none());
    let mut raw = Raw::accept(&mut streams, 1).await;
    let (first, request) = raw.request().await.unwrap();
    assert_eq!(request, Request::Get(id(1)));

    let mut queued = client.put(id(2), Bytes::from_static(b"never sent"));
    assert!((&mut queued).now_or_never().is_none());
    let mut kept = client.put(id(3), Bytes::from_static(b"sent"));
    assert!((&mut kept).now_or_never().is_none());
    drop(queued);
    drop(sent);
    // The late answer is discarded and makes room for the next.
    raw.send(&Answer::Shard(Bytes::from_static(b"late")).encode(first)).await;
    let (third, request) = raw.request().await.unwrap();
    assert!(matches!(request, Request::Put { id: shard, .. } if shard == id(3)), "{request:?}");
    raw.send(&Answer::Stored(PutOutcome::Stored).encode(third)).await;
    assert_eq!(kept.await, Ok(PutOutcome::Stored));
    let health = client.health();
    assert_eq!((health.in_flight, health.queued, stage.dialled.load(Ordering::SeqCst)), (0, 0, 1));
}

#[tokio::test]
async fn a_dropped_client_hangs_up() {
    let (client, _stage, mut streams) = Stage::client();
    assert!(client.ping().now_or_never().is_none());
    let mut raw = Raw::accept(&mut streams, 64).await;
    drop(client);
    while raw.request().await.is_some() {}
}

/// Tries until the node is reached, as often as the test cuts and then some.
async fn insist<T, F: Future<Output = Result<T, HomeError>>>(client: &ShardClient, call: impl Fn() -> F) -> T {
    for _ in 0..100 {
        match call().await {
            Ok(value) => return value,
            Err(HomeError::Unreachable { .. }) => {
                tokio::time::sleep(client.health().back_off.unwrap_or_default()).await;
            }
            Err(error) => panic!("{error}"),
        }
    }
    panic!("never reached");
}

/// Many callers, some of whom lose interest and the others insist, over connections that keep breaking: what was
/// acknowledged is there, and in the end nothing is left over in the client or the server.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_storm() {
    const CALLERS: u64 = 1500;
    let world = World::new();
    let dial = world.dial();
    let two = std::num::NonZeroUsize::new(2).unwrap();
    let client = Arc::new(ShardClient::with_connections(world.host, dial.clone(), world.grant(), two));
    let data =
        |n: u64| Bytes::from(vec![u8::try_from(n % 256).unwrap(); 1 + usize::try_from(n * 37 % 30_000).unwrap()]);
    let mut callers = tokio::task::JoinSet::new();
    for n in 0..CALLERS {
        let client = Arc::clone(&client);
        callers.spawn(async move {
            if n % 3 == 0 {
                let patience = Duration::from_micros(n * 7919 % 4000);
                let put = tokio::time::timeout(patience, client.put(id(n), data(n)));
                return matches!(put.await, Ok(Ok(_))).then_some(n);
            }
            insist(&client, || client.put(id(n), data(n))).await;
            Some(n)
        });
    }
    let mut stored = Vec::new();
    let mut ended = 0;
    while let Some(outcome) = callers.join_next().await {
        stored.extend(outcome.unwrap());
        ended += 1;
        if ended % 300 == 0 {
            dial.cut();
        }
    }
    assert!(stored.len() as u64 >= CALLERS / 3 * 2);
    for n in stored {
        assert!(insist(&client, || client.get(id(n))).await == data(n), "{n}");
    }
    // All the room in the queue is there again.
    join_all((0..1000).map(|_| client.ping())).await.into_iter().for_each(Result::unwrap);
    let health = client.health();
    assert_eq!((health.in_flight, health.queued), (0, 0));
    drop(client);
    for task in dial.take_tasks() {
        let _ = task.await;
    }
    assert_eq!(world.server.stats().snapshot().streams_open, 0);
}
