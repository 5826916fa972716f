//! What every operation answers, on a simulated and on the real disk.

use crate::harness::{content, open, owner, put, run, shard, small};
use crate::sim::SimDisk;
use atoll_segments::{DeleteError, GetError, OpenError, PutError, PutOutcome, Segments, SegmentsConfig, crc64};
use bytes::Bytes;
use std::sync::Arc;

#[test]
fn put_get_delete_list_and_stat() {
    run(async {
        let store = open(&SimDisk::default());
        let data = content(1, 0, 5000);
        assert_eq!(put(&store, 1, &data).await.unwrap(), PutOutcome::Stored);
        assert_eq!(put(&store, 2, &Bytes::new()).await.unwrap(), PutOutcome::Stored);
        assert_eq!(put(&store, 1, &data).await.unwrap(), PutOutcome::AlreadyThere);
        assert!(matches!(put(&store, 1, &content(1, 1, 5000)).await, Err(PutError::DifferentContent)));
        assert_eq!(store.get(owner(1), shard(1)).await.unwrap(), data);
        assert_eq!(store.get(owner(1), shard(2)).await.unwrap(), Bytes::new());
        assert!(matches!(store.get(owner(2), shard(1)).await, Err(GetError::NotFound)), "another namespace");
        store.verify(owner(1), shard(1)).await.unwrap();
        assert_eq!((store.stat(owner(1)).shards, store.stat(owner(1)).bytes), (2, 5000));

        let mut all = vec![(shard(1), 5000), (shard(2), 0)];
        all.sort_unstable();
        assert_eq!(store.list(owner(1), None, 10), all);
        assert_eq!(store.list(owner(1), None, 1), all[..1]);
        assert_eq!(store.list(owner(1), Some(all[0].0), 10), all[1..]);

        store.delete(owner(1), shard(1)).await.unwrap();
        assert!(matches!(store.delete(owner(1), shard(1)).await, Err(DeleteError::NotFound)));
        assert!(matches!(store.get(owner(1), shard(1)).await, Err(GetError::NotFound)));
        // A deleted shard may come back as something else.
        assert_eq!(put(&store, 1, &content(1, 1, 9)).await.unwrap(), PutOutcome::Stored);
    });
}

#[test]
fn damaged_on_the_way_and_too_long_are_refused() {
    run(async {
        let store = open(&SimDisk::default());
        let data = content(1, 0, 100);
        let refused = store.put(owner(1), shard(1), crc64(&data) ^ 1, data.clone()).await;
        assert!(matches!(refused, Err(PutError::CrcMismatch { found, .. }) if found == crc64(&data)));
        let long = Bytes::from(vec![0; 3 << 20]);
        assert!(matches!(put(&store, 1, &long).await, Err(PutError::TooLong { len, max }) if len > max));
        assert_eq!(store.totals().shards, 0);
    });
}

#[test]
fn the_longest_shard_fits_a_segment_of_its_own() {
    run(async {
        let store = open(&SimDisk::default());
        let Err(PutError::TooLong { max, .. }) = put(&store, 0, &Bytes::from(vec![0; 3 << 20])).await else { panic!() };
        for key in 0..3 {
            assert_eq!(put(&store, key, &content(key, 0, max)).await.unwrap(), PutOutcome::Stored);
        }
        for key in 0..3 {
            assert_eq!(store.get(owner(1), shard(key)).await.unwrap(), content(key, 0, max));
        }
    });
}

#[test]
fn the_same_put_at_the_same_time_is_stored_once() {
    run(async {
        let store = open(&SimDisk::default());
        let data = content(7, 0, 3000);
        let tasks: Vec<_> = (0..50)
            .map(|_| {
                let (store, data) = (store.clone(), data.clone());
                tokio::spawn(async move { put(&store, 7, &data).await.unwrap() })
            })
            .collect();
        let mut stored = 0;
        for task in tasks {
            stored += usize::from(task.await.unwrap() == PutOutcome::Stored);
        }
        assert_eq!(stored, 1);
        assert_eq!((store.totals().shards, store.stat(owner(1)).bytes), (1, 3000));
    });
}

#[test]
fn quota_counts_what_is_stored_and_what_is_on_its_way() {
    run(async {
        let store = open(&SimDisk::default());
        store.set_quota(owner(1), Some(10_000));
        let tasks: Vec<_> = (0..40)
            .map(|key| {
                let store = store.clone();
                tokio::spawn(async move { put(&store, key, &content(key, 0, 1000)).await })
            })
            .collect();
        let (mut stored, mut refused) = (0, 0);
        for task in tasks {
            match task.await.unwrap() {
                Ok(_) => stored += 1,
                Err(PutError::QuotaExceeded { quota: 10_000, asked: 1000, .. }) => refused += 1,
                Err(e) => panic!("{e}"),
            }
        }
        assert_eq!((stored, refused), (10, 30));
        store.put(owner(2), shard(1), crc64(b"x"), Bytes::from_static(b"x")).await.unwrap();
        let (first, _) = store.list(owner(1), None, 1)[0];
        store.delete(owner(1), first).await.unwrap();
        put(&store, 100, &content(100, 0, 1000)).await.unwrap();
        assert!(matches!(
            put(&store, 101, &content(101, 0, 1)).await,
            Err(PutError::QuotaExceeded { used: 10_000, .. })
        ));
        store.set_quota(owner(1), None);
        put(&store, 101, &content(101, 0, 1)).await.unwrap();
    });
}

#[test]
fn a_default_quota_holds_for_owners_without_one() {
    run(async {
        let config = SegmentsConfig { default_quota: Some(100), ..small() };
        let store = Segments::open_on(Arc::new(SimDisk::default()), config).unwrap();
        assert_eq!(store.stat(owner(1)).quota, Some(100));
        assert!(matches!(
            put(&store, 1, &content(1, 0, 101)).await,
            Err(PutError::QuotaExceeded { quota: 100, used: 0, asked: 101 })
        ));
        put(&store, 1, &content(1, 0, 100)).await.unwrap();
    });
}

#[test]
fn nonsense_configurations_are_refused_with_the_limits() {
    for (config, says) in [
        (SegmentsConfig { segment_bytes: 5000, ..small() }, "multiple of 4096"),
        (SegmentsConfig { segment_bytes: 4096, ..small() }, "between"),
        (SegmentsConfig { segment_bytes: 4 << 30, ..small() }, "between"),
        (SegmentsConfig { capacity: 100_000, ..small() }, "at least"),
        (SegmentsConfig { reads_in_flight: 0, ..small() }, "at least 1"),
    ] {
        match Segments::open_on(Arc::new(SimDisk::default()), config) {
            Err(OpenError::Config(text)) => assert!(text.contains(says), "{text}"),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn after_close_nothing_is_taken_and_reads_go_on() {
    run(async {
        let disk = SimDisk::default();
        let store = open(&disk);
        put(&store, 1, &content(1, 0, 300)).await.unwrap();
        store.close().await;
        assert!(matches!(put(&store, 2, &content(2, 0, 300)).await, Err(PutError::Disk(_))));
        assert!(matches!(store.delete(owner(1), shard(1)).await, Err(DeleteError::Disk(_))));
        assert_eq!(store.get(owner(1), shard(1)).await.unwrap(), content(1, 0, 300));
        drop(store);
        let files = disk.names();
        assert_eq!(files.len(), 1, "{files:?}");
        assert_eq!(disk.image(&files[0]).len(), 8192 + 4096, "a closed segment is as long as its content");
    });
}

#[test]
fn a_hundred_thousand_shards_on_a_real_disk_are_found_again() {
    run(async {
        let dir = tempfile::tempdir().unwrap();
        let config = SegmentsConfig { segment_bytes: 4 << 20, spare_ahead: true, ..SegmentsConfig::new(256 << 20) };
        let store = Segments::open(dir.path(), config.clone()).unwrap();
        assert!(matches!(Segments::open(dir.path(), config.clone()), Err(OpenError::Locked)));
        let tasks: Vec<_> = (0..200u64)
            .map(|task| {
                let store = store.clone();
                tokio::spawn(async move {
                    for key in task * 500..(task + 1) * 500 {
                        put(&store, key, &content(key, 0, (key % 300) as usize)).await.unwrap();
                    }
                })
            })
            .collect();
        for task in tasks {
            task.await.unwrap();
        }
        let before = (store.totals().shards, store.stat(owner(1)));
        assert_eq!(before.0, 100_000);
        store.close().await;
        drop(store);

        let store = Segments::open(dir.path(), config).unwrap();
        assert_eq!((store.totals().shards, store.stat(owner(1))), before);
        assert_eq!(store.open_report().damaged_regions + store.open_report().torn_records, 0);
        for key in (0..100_000).step_by(997) {
            assert_eq!(store.get(owner(1), shard(key)).await.unwrap(), content(key, 0, (key % 300) as usize));
        }
    });
}
