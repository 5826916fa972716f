//! Lost nodes, rotten shards, nodes that come back.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use atoll_engine::{HealOptions, HealReport, ListError};

use crate::grid::{Grid, MIB, content, id};

fn objects() -> Vec<(String, bytes::Bytes)> {
    let mut objects: Vec<_> =
        (0..40).map(|at| (format!("small/{at:02}"), content(at, 50 + at as usize * 100))).collect();
    objects.push(("middle".into(), content(100, 3 * MIB)));
    objects.push(("large".into(), content(101, 67 * MIB + 1)));
    objects
}

const STRIPES: usize = 40 + 3 + 68;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn any_m_nodes_may_be_lost_again_and_again() {
    let grid = Grid::new(6);
    let engine = grid.start("4+2").await;
    let objects = objects();
    for (key, bytes) in &objects {
        grid.put(&engine, key, bytes).await.unwrap();
    }
    let clean = engine.heal(HealOptions::default()).await.unwrap();
    let expect = HealReport { objects: 42, stripes: STRIPES as u64, ..HealReport::default() };
    assert_eq!(clean, expect);

    // Two die, two others join; then two more.
    for lost in [[0, 1], [2, 3]] {
        for number in lost {
            grid.kill(number, true);
            grid.add();
        }
        let dry = engine.heal(HealOptions { dry_run: true, ..HealOptions::default() }).await.unwrap();
        assert_eq!((dry.missing, dry.rebuilt), (2 * STRIPES as u64, 0));
        let told = Arc::new(AtomicU64::new(0));
        let tell = told.clone();
        let progress = Arc::new(move |progress: atoll_engine::HealProgress| {
            tell.fetch_max(progress.objects, Ordering::SeqCst);
        });
        let report = engine.heal(HealOptions { progress: Some(progress), ..HealOptions::default() }).await.unwrap();
        assert_eq!(
            (report.missing, report.rebuilt, report.lost),
            (2 * STRIPES as u64, 2 * STRIPES as u64, 0),
            "{report:?}"
        );
        assert_eq!(told.load(Ordering::SeqCst), 42);
        let again = engine.heal(HealOptions::default()).await.unwrap();
        assert_eq!((again.missing, again.rebuilt, again.strays), (0, 0, 0), "a second run finds nothing");
        for (key, bytes) in &objects {
            grid.check(&engine, key, bytes).await;
        }
    }
    // The first ones return with everything they had: superfluous by now.
    for number in 0..4 {
        grid.home(number).heal();
        grid.set_up(number, true);
    }
    let report = engine.heal(HealOptions { deep: true, ..HealOptions::default() }).await.unwrap();
    assert_eq!((report.missing, report.strays), (0, 4 * STRIPES as u64), "{report:?}");
    assert_eq!(grid.shards(), 6 * STRIPES);
    for (key, _) in &objects {
        engine.remove(&grid.bucket, key).await.unwrap();
    }
    grid.settle(&engine).await;
    assert_eq!(grid.shards(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_one_node_in_place_of_two_it_does_what_it_can() {
    let grid = Grid::new(6);
    let engine = grid.start("4+2").await;
    let bytes = content(1, 5 * MIB);
    grid.put(&engine, "a", &bytes).await.unwrap();
    grid.kill(0, false);
    grid.kill(1, true);
    grid.add();
    let report = engine.heal(HealOptions::default()).await.unwrap();
    assert_eq!((report.missing, report.rebuilt, report.unplaced, report.lost), (10, 5, 5, 0), "{report:?}");
    assert_eq!(report.away.iter().map(|fault| fault.node).collect::<Vec<_>>(), [id(0), id(1)]);
    grid.kill(2, true);
    grid.check(&engine, "a", &bytes).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lost_and_rotten_shards_are_made_again_where_they_were() {
    let grid = Grid::new(6);
    let engine = grid.start("4+2").await;
    let bytes = content(1, 5 * MIB);
    grid.put(&engine, "a", &bytes).await.unwrap();
    let lost = grid.home(0).ids()[0];
    grid.home(0).lose_shard(lost);
    for number in [1, 2] {
        for shard in grid.home(number).ids() {
            grid.home(number).rot_shard(shard);
        }
    }
    let shallow = engine.heal(HealOptions { dry_run: true, ..HealOptions::default() }).await.unwrap();
    assert_eq!((shallow.missing, shallow.rotten), (1, 0));
    let deep = HealOptions { deep: true, ..HealOptions::default() };
    let report = engine.heal(deep.clone()).await.unwrap();
    // One stripe has lost three of six, more than it can bear.
    assert_eq!((report.missing, report.rotten, report.rebuilt, report.lost), (1, 10, 8, 1), "{report:?}");
    assert_eq!((report.unrecoverable[0].key.as_str(), report.unrecoverable[0].have), ("a", 3));
    assert_eq!(report.unrecoverable[0].missing.len(), 3);
    let again = engine.heal(deep).await.unwrap();
    assert_eq!((again.missing, again.rotten, again.rebuilt), (1, 2, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_heals_at_once_do_not_undo_each_other() {
    let grid = Grid::new(6);
    let engine = grid.start("4+2").await;
    let objects = objects();
    for (key, bytes) in &objects {
        grid.put(&engine, key, bytes).await.unwrap();
    }
    grid.kill(0, true);
    grid.add();
    let (one, two) = tokio::join!(engine.heal(HealOptions::default()), engine.heal(HealOptions::default()));
    let (one, two) = (one.unwrap(), two.unwrap());
    assert_eq!(one.rebuilt + two.rebuilt, STRIPES as u64, "one of them had nothing to do: {one:?} {two:?}");
    let after = engine.heal(HealOptions::default()).await.unwrap();
    assert_eq!((after.missing, after.degraded), (0, 0), "{after:?}");
    grid.kill(1, true);
    grid.kill(2, true);
    for (key, bytes) in &objects {
        grid.check(&engine, key, bytes).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_may_be_back_is_waited_for_while_a_stripe_has_one_to_spare() {
    let grid = Grid::new(6);
    let engine = grid.start("4+2").await;
    let bytes = content(1, 5 * MIB);
    grid.put(&engine, "a", &bytes).await.unwrap();
    let sparing = || HealOptions { spared: [id(0)].into(), ..HealOptions::default() };
    grid.kill(0, true);
    grid.add();
    let report = engine.heal(sparing()).await.unwrap();
    assert_eq!((report.degraded, report.mended, report.waiting, report.rebuilt), (5, 0, 5, 0), "{report:?}");
    // A second one: one more, and it would be lost.
    grid.kill(1, true);
    grid.add();
    let report = engine.heal(sparing()).await.unwrap();
    assert_eq!((report.degraded, report.mended, report.waiting, report.rebuilt), (5, 5, 0, 10), "{report:?}");
    grid.check(&engine, "a", &bytes).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_heal_keeps_to_its_pace() {
    let grid = Grid::new(6);
    let engine = grid.start("4+2").await;
    grid.put(&engine, "a", &content(1, 8 * MIB)).await.unwrap();
    grid.kill(0, true);
    grid.add();
    // Eight shards of a quarter of a stripe, at eight a second: the first goes at once.
    let pace = Some(Arc::new(atoll_engine::Pace::new(8 * MIB as u64 / 4)));
    let began = std::time::Instant::now();
    let report = engine.heal(HealOptions { pace, ..HealOptions::default() }).await.unwrap();
    assert_eq!((report.rebuilt, report.mended), (8, 8));
    assert!(began.elapsed().as_millis() >= 850, "{:?}", began.elapsed());
}

#[tokio::test]
async fn an_unknown_bucket_is_refused() {
    let grid = Grid::new(3);
    let engine = grid.start("2+1").await;
    let options = HealOptions { bucket: Some("nothing".parse().unwrap()), ..HealOptions::default() };
    assert!(matches!(engine.heal(options).await, Err(ListError::NoSuchBucket { .. })));
}
