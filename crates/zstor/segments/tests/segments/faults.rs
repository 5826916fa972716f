//! A disk that fails: once, for a while, for ever; at every operation of a history.

use crate::harness::{Model, Step, content, history, open, owner, put, run, shard, small, until};
use crate::sim::{Faults, Kind, Random, SimDisk};
use atoll_segments::{DeleteError, GetError, OpenError, PutError, PutOutcome, Segments, SegmentsConfig};
use std::sync::Arc;
use std::time::Duration;

/// A history during which the disk fails, which then heals: the store goes on; and after a crash all is as
/// acknowledged.
async fn fail_at(after: u64, count: u64, kinds: &[Kind], spare_ahead: bool) {
    let disk = SimDisk::default();
    let config = SegmentsConfig { spare_ahead, ..small() };
    let store = Segments::open_on(Arc::new(disk.clone()), config).unwrap();
    let mut random = Random::new(after * 31 + count);
    let mut model = Model::default();
    disk.fail(Faults { kinds: kinds.to_vec(), after, count });
    for step in history(&mut random, 30, 8) {
        model.step(&store, &step).await;
    }
    disk.heal();
    model.check(&store, false).await;
    for step in history(&mut random, 10, 8) {
        model.step(&store, &step).await;
    }
    model.step(&store, &Step::Put { key: 99, version: 0, len: 10 }).await;
    assert_eq!(store.get(owner(1), shard(99)).await.unwrap(), content(99, 0, 10), "a healed disk is written again");
    model.check(&store, false).await;
    let crashed = disk.crash(&mut random);
    drop(store);
    let store = open(&crashed);
    model.check(&store, true).await;
    drop(store);
    model.check(&open(&crashed), true).await;
}

#[test]
fn failing_once_at_every_operation_of_each_kind() {
    for kind in [Kind::Write, Kind::Sync, Kind::Names, Kind::Allocate, Kind::Truncate] {
        for after in 0..40 {
            println!("{kind:?} fails after {after}");
            run(fail_at(after, 1, &[kind], after % 2 == 0));
        }
    }
}

#[test]
fn failing_for_a_while_at_every_operation() {
    for after in 0..120 {
        println!("everything but reading fails 7 times after {after}");
        run(fail_at(after, 7, &[Kind::Write, Kind::Sync, Kind::Names, Kind::Allocate, Kind::Truncate], after % 2 == 1));
    }
}

#[test]
fn a_failed_sync_is_never_trusted_again() {
    run(async {
        let disk = SimDisk::default();
        let store = open(&disk);
        put(&store, 1, &content(1, 0, 500)).await.unwrap();
        disk.fail(Faults { kinds: vec![Kind::Sync], after: 0, count: 1 });
        assert!(matches!(put(&store, 2, &content(2, 0, 500)).await, Err(PutError::Disk(_))));
        // The segment cannot even be cut where it ends: the next one's header has to do.
        disk.fail(Faults { kinds: vec![Kind::Truncate], after: 0, count: u64::MAX });
        put(&store, 3, &content(3, 0, 500)).await.unwrap();
        assert_eq!(disk.names().len(), 2, "the log went on in another segment");
        drop(store);
        // Whatever the failed batch left behind, it is dead.
        let store = open(&disk.settled());
        assert!(matches!(store.get(owner(1), shard(2)).await, Err(GetError::NotFound)));
        for key in [1, 3] {
            assert_eq!(store.get(owner(1), shard(key)).await.unwrap(), content(key, 0, 500));
        }
    });
}

/// While no segment was opened after it, a deletion that failed is neither done nor undone: a crash decides. Only a new record may end that.
#[test]
fn a_failed_deletion_is_open_until_the_log_goes_on() {
    for goes_on in [false, true] {
        run(async {
            let disk = SimDisk::default();
            let store = open(&disk);
            put(&store, 1, &content(1, 0, 500)).await.unwrap();
            disk.fail(Faults { kinds: vec![Kind::Sync], after: 0, count: 1 });
            assert!(matches!(store.delete(owner(1), shard(1)).await, Err(DeleteError::Disk(_))));
            assert!(matches!(put(&store, 1, &content(1, 1, 500)).await, Err(PutError::DifferentContent)));
            if goes_on {
                let again = put(&store, 1, &content(1, 0, 500)).await.unwrap();
                assert_eq!(again, PutOutcome::Stored, "not said to be there without a record that makes it true");
            }
            // A crash, before which all that was written reached the disk after all, the deletion with it.
            let crashed = disk.settled();
            drop(store);
            let found = open(&crashed).get(owner(1), shard(1)).await.ok();
            assert_eq!(found.is_some(), goes_on);
        });
    }
}

/// Two batches under way, the first held up in its sync, the second through with the disk: nothing is acknowledged
/// before the first is.
#[test]
fn a_batch_is_settled_after_those_before_it_and_fails_with_them() {
    for well in [true, false] {
        run(async {
            let disk = SimDisk::default();
            let store = open(&disk);
            put(&store, 0, &content(0, 0, 10)).await.unwrap();
            let gate = disk.hold_next_sync();
            let spawn = |key| {
                let store = store.clone();
                tokio::spawn(async move { put(&store, key, &content(key, 0, 700)).await })
            };
            let first = spawn(1);
            until("the first batch is held up", || disk.is_holding()).await;
            let ops = disk.ops();
            let second = spawn(2);
            until("the second is written and synced", || disk.ops() == ops + 2).await;
            tokio::time::sleep(Duration::from_millis(20)).await;
            assert!(!second.is_finished(), "acknowledged before the batch before it");
            gate.release(well);
            let (first, second) = (first.await.unwrap(), second.await.unwrap());
            assert_eq!((first.is_ok(), second.is_ok()), (well, well));
            put(&store, 3, &content(3, 0, 10)).await.unwrap();
            drop(store);
            let keys = open(&disk.settled()).totals().shards;
            assert_eq!(keys, if well { 4 } else { 2 });
        });
    }
}

#[test]
fn a_read_error_is_told_apart_from_rot_and_absence() {
    run(async {
        let disk = SimDisk::default();
        let store = open(&disk);
        put(&store, 1, &content(1, 0, 500)).await.unwrap();
        disk.fail(Faults { kinds: vec![Kind::Read], after: 0, count: 1 });
        assert!(matches!(store.get(owner(1), shard(1)).await, Err(GetError::Disk(_))));
        store.verify(owner(1), shard(1)).await.unwrap();
    });
}

#[test]
fn opening_a_dead_disk_fails_and_harms_nothing() {
    run(async {
        let disk = SimDisk::default();
        let store = open(&disk);
        for key in 0..30 {
            put(&store, key, &content(key, 0, 9000)).await.unwrap();
        }
        drop(store);
        for after in 0..60 {
            let broken = disk.settled();
            broken.fail(Faults { kinds: Vec::new(), after, count: u64::MAX });
            match Segments::open_on(Arc::new(broken.clone()), small()) {
                Err(OpenError::Disk(_)) => {}
                Err(e) => panic!("{e}"),
                Ok(store) => drop(store),
            }
            broken.heal();
            assert_eq!(open(&broken).totals().shards, 30, "after {after} operations");
        }
    });
}

#[test]
fn one_unreadable_block_costs_what_lies_in_it() {
    run(async {
        let disk = SimDisk::default();
        let store = open(&disk);
        for key in 0..5 {
            put(&store, key, &content(key, 0, 3000)).await.unwrap();
        }
        drop(store);
        // The headers are read; then the whole stretch fails, then four blocks of it.
        disk.fail(Faults { kinds: vec![Kind::Read], after: 1, count: 5 });
        let store = open(&disk);
        assert!(store.open_report().unreadable_blocks > 0, "{:?}", store.open_report());
        assert!((1..5).contains(&store.totals().shards), "{:?}", store.totals());
        drop(store);
        assert_eq!(open(&disk).totals().shards, 5, "and nothing was removed for it");
    });
}
