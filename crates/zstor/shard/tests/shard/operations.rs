//! Everything a client can ask, of a real server over real segments.

use std::num::NonZeroUsize;
use std::sync::Arc;

use atoll_ids::ByteCount;
use atoll_keys::OwnerKey;
use atoll_shard::limits::SHARD_BYTES_MAX;
use atoll_shard::{Admission, HomeError, PutOutcome, Refusal, ShardClient, ShardEntry, ShardHome};
use bytes::Bytes;
use futures_util::future::{join_all, try_join_all};

use crate::world::{GIB, World, grant, id};

#[tokio::test]
async fn all_operations() {
    let world = World::new();
    let home: Arc<dyn ShardHome> = Arc::new(world.client());
    let node = world.host;
    let data = Bytes::from_static(b"a small shard");
    assert_eq!(home.put(id(1), data.clone()).await, Ok(PutOutcome::Stored));
    assert_eq!(home.put(id(1), data.clone()).await, Ok(PutOutcome::AlreadyThere));
    let different = home.put(id(1), Bytes::from_static(b"other bytes here")).await;
    assert_eq!(different, Err(HomeError::DifferentContent { node, id: id(1) }));
    assert_eq!(home.get(id(1)).await, Ok(data.clone()));
    assert_eq!(home.verify(id(1)).await, Ok(()));
    assert_eq!(home.get(id(2)).await, Err(HomeError::NotFound { node, id: id(2) }));
    assert_eq!(home.verify(id(2)).await, Err(HomeError::NotFound { node, id: id(2) }));

    let stat = home.stat().await.unwrap();
    assert_eq!((stat.shards, stat.used, stat.quota), (1, ByteCount(data.len() as u64), Some(ByteCount(GIB))));
    assert!(stat.free.0 > 0);

    assert_eq!(home.delete(id(1)).await, Ok(()));
    assert_eq!(home.delete(id(1)).await, Ok(()));
    assert_eq!(home.get(id(1)).await, Err(HomeError::NotFound { node, id: id(1) }));
    assert_eq!(home.stat().await.unwrap().shards, 0);

    let health = home.health();
    assert!(health.connected && health.get_latency.is_some() && health.put_latency.is_some());
    assert_eq!((health.in_flight, health.queued, health.failures), (0, 0, 0));
}

#[tokio::test]
async fn shards_of_every_size() {
    let world = World::new();
    let client = world.client();
    // Around the sizes at which reading and writing take another way.
    for (n, len) in (0..).zip([1, 100, 16383, 16384, 16385, 65536, 262_144, 1 << 20, atoll_segments::SHARD_BYTES_MAX]) {
        let data: Bytes = (0..len).map(|i| u8::try_from(i % 251).unwrap()).collect::<Vec<_>>().into();
        client.put(id(n), data.clone()).await.unwrap();
        assert!(client.get(id(n)).await.unwrap() == data, "{len} bytes");
    }
    for len in [atoll_segments::SHARD_BYTES_MAX + 1, SHARD_BYTES_MAX + 1] {
        let refused = client.put(id(99), vec![0; len].into()).await;
        assert!(matches!(refused, Err(HomeError::TooLarge { len: l, .. }) if l == len), "{refused:?}");
    }
    client.ping().await.unwrap();
}

#[tokio::test]
async fn many_at_once_and_a_listing() {
    let world = World::new();
    let client = ShardClient::with_connections(world.host, world.dial(), world.grant(), NonZeroUsize::new(3).unwrap());
    let data = |n: u64| Bytes::from(n.to_be_bytes().repeat(1 + usize::try_from(n % 7).unwrap()));
    let puts = (0..1000).map(|n| client.put(id(n), data(n)));
    try_join_all(puts).await.unwrap();
    let got = try_join_all((0..1000).map(|n| client.get(id(n)))).await.unwrap();
    assert!((0..1000).zip(got).all(|(n, got)| got == data(n)));

    let (mut after, mut listed) = (None, Vec::new());
    loop {
        let page = client.list(after, 300).await.unwrap();
        let Some(last) = page.last() else { break };
        assert!(page.len() <= 300);
        after = Some(last.id);
        listed.extend(page);
    }
    let expected = (0..1000).map(|n| ShardEntry { id: id(n), len: u32::try_from(data(n).len()).unwrap() });
    assert!(listed.into_iter().eq(expected));
    assert_eq!(client.list(None, 0).await, Ok(vec![]));
    let counted = world.server.stats().snapshot();
    assert_eq!((counted.requests.put, counted.requests.get, counted.streams), (1000, 1000, 3));
}

#[tokio::test]
async fn owners_do_not_meet() {
    let world = World::new();
    let mine = world.client();
    let other = OwnerKey::generate();
    let theirs = ShardClient::new(world.host, world.dial(), grant(&other, world.node));
    mine.put(id(1), Bytes::from_static(b"mine")).await.unwrap();
    assert!(matches!(theirs.get(id(1)).await, Err(HomeError::NotFound { .. })));
    assert_eq!(theirs.list(None, 10).await, Ok(vec![]));
    theirs.delete(id(1)).await.unwrap();
    assert_eq!(theirs.put(id(1), Bytes::from_static(b"theirs")).await, Ok(PutOutcome::Stored));
    assert_eq!(mine.get(id(1)).await.unwrap(), Bytes::from_static(b"mine"));
    assert_eq!(theirs.get(id(1)).await.unwrap(), Bytes::from_static(b"theirs"));
    assert_eq!(mine.stat().await.unwrap().used, ByteCount(4));
}

#[tokio::test]
async fn quota() {
    let world = World::with_policy(|_, _| Admission::Admit { quota: Some(ByteCount(1000)) });
    let client = world.client();
    let results = join_all((0..20).map(|n| client.put(id(n), vec![1; 100].into()))).await;
    let stored = results.iter().filter(|result| result.is_ok()).count();
    let refused =
        |result: &&Result<_, HomeError>| matches!(result, Err(HomeError::Refused { why: Refusal::Quota, .. }));
    assert_eq!((stored, results.iter().filter(refused).count()), (10, 10));
    assert_eq!(client.stat().await.unwrap().used, ByteCount(1000));
    client.delete(client.list(None, 1).await.unwrap()[0].id).await.unwrap();
    client.put(id(100), vec![1; 100].into()).await.unwrap();
    assert_eq!(client.health().failures, 0);
}

#[tokio::test]
async fn damage_on_the_way_is_found() {
    use atoll_shard::protocol::{Answer, Code, Request};
    let world = World::new();
    let mut raw = world.welcomed().await;
    raw.send(&Request::Put { id: id(1), crc: 1, payload: Bytes::from_static(b"damaged") }.encode(5)).await;
    let (request, answer) = raw.answer().await.unwrap();
    assert!(request == 5 && matches!(answer, Answer::Failed { code: Code::Damaged, .. }), "{answer:?}");
    assert_eq!(world.segments.totals().shards, 0);
}

#[tokio::test]
async fn shutdown_answers_what_was_read() {
    let world = World::new();
    let dial = world.dial();
    let client = ShardClient::new(world.host, dial.clone(), world.grant());
    client.ping().await.unwrap();
    let puts = join_all((0..50).map(|n| client.put(id(n), vec![7; 5000].into())));
    tokio::pin!(puts);
    assert!(futures_util::poll!(&mut puts).is_pending());
    tokio::task::yield_now().await;
    dial.shutdown.cancel();
    let results = puts.await;
    for task in dial.take_tasks() {
        assert!(task.await.unwrap().is_ok());
    }
    // Whatever was acknowledged is there; whatever was not failed clearly.
    let stored = results.iter().filter(|result| result.is_ok()).count() as u64;
    assert!(results.iter().all(|r| matches!(r, Ok(_) | Err(HomeError::Unreachable { .. }))), "{results:?}");
    assert_eq!(world.segments.totals().shards, stored);
    assert_eq!(world.server.stats().snapshot().in_flight, 0);
}
