//! Space: a full store, a full disk, and segments that give theirs back.

use crate::harness::{SEGMENT, content, open, owner, put, run, shard, small, until};
use crate::sim::SimDisk;
use atoll_segments::{GetError, PutError, Segments, SegmentsConfig};
use std::sync::Arc;

async fn fill(store: &Segments) -> u64 {
    for key in 0.. {
        match put(store, key, &content(key, 0, 9000)).await {
            Ok(_) => {}
            Err(PutError::Full { capacity, used }) => {
                assert!(used <= capacity, "{used} of {capacity}");
                return key;
            }
            Err(e) => panic!("{e}"),
        }
    }
    unreachable!()
}

#[test]
fn a_full_store_reads_deletes_and_writes_again() {
    for spare_ahead in [false, true] {
        run(async {
            let disk = SimDisk::default();
            let config = SegmentsConfig { capacity: 6 * SEGMENT, spare_ahead, ..small() };
            let store = Segments::open_on(Arc::new(disk.clone()), config).unwrap();
            let full = fill(&store).await;
            assert_eq!(full, 15, "five segments of three batches each; one is kept for tombstones");
            assert!(store.totals().available < 9000, "{:?}", store.totals());
            for key in 0..full {
                assert_eq!(store.get(owner(1), shard(key)).await.unwrap(), content(key, 0, 9000));
            }
            for key in 0..full {
                store.delete(owner(1), shard(key)).await.unwrap();
            }
            until("space is given back", || store.totals().segments <= 2).await;
            let again = fill(&store).await;
            assert!(again >= 9, "{again} of {full} fit again");
            let totals = store.totals();
            assert!(totals.used + totals.reclaimable + totals.reserved <= totals.capacity, "{totals:?}");
        });
    }
}

#[test]
fn a_full_disk_is_survived_and_used_again_when_there_is_space() {
    run(async {
        let disk = SimDisk::default();
        disk.limit_space(Some(3 * SEGMENT));
        let store = open(&disk);
        let full = fill(&store).await;
        assert!(full >= 8, "{full}");
        assert_eq!(store.get(owner(1), shard(0)).await.unwrap(), content(0, 0, 9000));
        store.delete(owner(1), shard(1)).await.expect_err("a tombstone needs a segment and there is no space for one");
        assert_eq!(store.get(owner(1), shard(1)).await.unwrap(), content(1, 0, 9000));
        disk.limit_space(None);
        store.delete(owner(1), shard(1)).await.unwrap();
        put(&store, 1000, &content(1000, 0, 9000)).await.unwrap();
        assert!(matches!(store.get(owner(1), shard(1)).await, Err(GetError::NotFound)));
        drop(store);
        let store = open(&disk);
        assert!(matches!(store.get(owner(1), shard(1)).await, Err(GetError::NotFound)));
        assert_eq!(store.get(owner(1), shard(1000)).await.unwrap(), content(1000, 0, 9000));
    });
}

#[test]
fn dead_segments_go_and_the_dead_stay_dead() {
    for spare_ahead in [false, true] {
        run(async {
            let disk = SimDisk::default();
            let config = SegmentsConfig { spare_ahead, ..small() };
            let store = Segments::open_on(Arc::new(disk.clone()), config.clone()).unwrap();
            // One survivor in the first segment keeps it, and with it the tombstones of its dead neighbours.
            for key in 0..40 {
                put(&store, key, &content(key, 0, 9000)).await.unwrap();
            }
            for key in 1..40 {
                store.delete(owner(1), shard(key)).await.unwrap();
            }
            for key in 100..104 {
                put(&store, key, &content(key, 0, 9000)).await.unwrap();
                store.delete(owner(1), shard(key)).await.unwrap();
            }
            until("dead segments go", || store.totals().segments <= 8).await;
            drop(store);
            let store = Segments::open_on(Arc::new(disk.settled()), config).unwrap();
            assert_eq!(store.list(owner(1), None, 100), [(shard(0), 9000)]);
            store.delete(owner(1), shard(0)).await.unwrap();
            until("with the survivor everything goes", || store.totals().segments <= 1).await;
        });
    }
}

#[test]
fn reopening_does_not_use_up_space() {
    run(async {
        let disk = SimDisk::default();
        for round in 0..20 {
            let store = open(&disk);
            put(&store, round, &content(round, 0, 100)).await.unwrap();
            drop(store);
        }
        let store = open(&disk);
        let totals = store.totals();
        assert_eq!((totals.shards, totals.reserved), (20, 0));
        assert!(totals.reclaimable < 21 * 12_288, "{totals:?}");
    });
}
