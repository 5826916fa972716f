//! The home in memory keeps the contract it stands in for, and each switch does what it says.
#![allow(clippy::unwrap_used, reason = "tests")]

use super::*;

fn home() -> MemoryHome {
    MemoryHome::new(NodeId::from_bytes([7; 32]))
}

fn id(n: u8) -> ShardId {
    ShardId::from_bytes([n; 16])
}

#[tokio::test]
async fn keeps_the_contract() {
    let home = home();
    let data = Bytes::from_static(b"shard");
    assert_eq!(home.put(id(2), data.clone()).await, Ok(PutOutcome::Stored));
    assert_eq!(home.put(id(2), data.clone()).await, Ok(PutOutcome::AlreadyThere));
    assert_eq!(
        home.put(id(2), Bytes::from_static(b"other")).await,
        Err(HomeError::DifferentContent { node: home.node(), id: id(2) })
    );
    assert_eq!(home.get(id(2)).await, Ok(data));
    home.put(id(1), Bytes::new()).await.unwrap();
    home.put(id(3), Bytes::from_static(b"abc")).await.unwrap();
    let entry = |n, len| ShardEntry { id: id(n), len };
    assert_eq!(home.list(None, 2).await, Ok(vec![entry(1, 0), entry(2, 5)]));
    assert_eq!(home.list(Some(id(2)), 2).await, Ok(vec![entry(3, 3)]));
    assert_eq!(home.list(Some(id(3)), 2).await, Ok(vec![]));
    let stat = home.stat().await.unwrap();
    assert_eq!((stat.shards, stat.used), (3, ByteCount(8)));
    home.delete(id(2)).await.unwrap();
    home.delete(id(2)).await.unwrap();
    assert_eq!(home.get(id(2)).await, Err(HomeError::NotFound { node: home.node(), id: id(2) }));
    assert!(matches!(home.put(id(4), vec![0; SHARD_BYTES_MAX + 1].into()).await, Err(HomeError::TooLarge { .. })));
    assert_eq!(home.calls(), Calls { puts: 6, gets: 2, deletes: 2 });
}

#[tokio::test]
async fn quota_is_exact() {
    let home = MemoryHome::with_quota(NodeId::from_bytes([7; 32]), ByteCount(4));
    home.put(id(1), Bytes::from_static(b"1234")).await.unwrap();
    let refused = home.put(id(2), Bytes::from_static(b"5")).await;
    assert!(matches!(refused, Err(HomeError::Refused { why: Refusal::Quota, .. })));
    assert_eq!(home.stat().await.unwrap().free, ByteCount(0));
}

#[tokio::test(start_paused = true)]
async fn faults() {
    let home = home();
    home.put(id(1), Bytes::from_static(b"abc")).await.unwrap();
    home.fault(|faults| faults.unreachable = true);
    assert!(matches!(home.get(id(1)).await, Err(HomeError::Unreachable { .. })));
    assert_eq!(home.health().failures_in_a_row, 1);
    home.heal();

    home.fault(|faults| faults.corrupt = true);
    assert_ne!(home.get(id(1)).await.unwrap(), Bytes::from_static(b"abc"));
    home.heal();
    assert_eq!(home.get(id(1)).await.unwrap(), Bytes::from_static(b"abc"));

    home.fault(|faults| faults.hang = true);
    assert!(matches!(home.get(id(1)).await, Err(HomeError::TimedOut { .. })));
    let mut waiting = home.get(id(1));
    assert!(waiting.as_mut().now_or_never().is_none());
    assert_eq!(home.health().in_flight, 1);
    home.heal();
    waiting.await.unwrap();
    assert_eq!(home.health().in_flight, 0);

    home.fault(|faults| faults.slow = Duration::from_secs(3));
    let start = tokio::time::Instant::now();
    home.get(id(1)).await.unwrap();
    assert_eq!(start.elapsed(), Duration::from_secs(3));
    home.heal();

    home.fault(|faults| faults.refuse = Some(Refusal::Full));
    let refused = home.put(id(9), Bytes::new()).await;
    assert!(matches!(refused, Err(HomeError::Refused { why: Refusal::Full, .. })));

    assert!(home.corrupt_shard(id(1)));
    assert_ne!(home.get(id(1)).await.unwrap(), Bytes::from_static(b"abc"));
    home.verify(id(1)).await.unwrap();
    assert!(home.rot_shard(id(1)));
    assert!(matches!(home.verify(id(1)).await, Err(HomeError::Rotten { .. })));
    assert!(home.lose_shard(id(1)));
    assert!(!home.lose_shard(id(1)));
}
