//! Nodes that are dead, hung, slow, full or lying.

use std::sync::Arc;
use std::time::{Duration, Instant};

use atoll_engine::{Kind, NodeFault, PutError, ReadError};
use atoll_ids::{Domain, NodeId};
use atoll_placement::DomainLevel;
use atoll_shard::Refusal;

use crate::grid::{Grid, MIB, content, eventually, id};

fn nodes(faults: &[NodeFault]) -> Vec<NodeId> {
    faults.iter().map(|fault| fault.node).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_of_six_may_be_dead_hung_or_lying() {
    let grid = Grid::new(6);
    let engine = grid.start("4+2").await;
    let bytes = content(1, 9 * MIB + 5);
    grid.put(&engine, "a", &bytes).await.unwrap();
    grid.kill(0, true);
    grid.kill(1, false);
    grid.check(&engine, "a", &bytes).await;
    for number in 0..6 {
        grid.home(number).heal();
    }
    grid.home(2).fault(|faults| faults.corrupt = true);
    grid.home(5).fault(|faults| faults.corrupt = true);
    grid.check(&engine, "a", &bytes).await;
    grid.home(2).heal();
    grid.home(3).fault(|faults| faults.hang = true);
    grid.check(&engine, "a", &bytes).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hung_node_costs_a_reader_one_delay() {
    let grid = Grid::new(6);
    let engine = grid.start("4+2").await;
    let bytes = content(1, 40 * MIB);
    grid.put(&engine, "a", &bytes).await.unwrap();
    let time = async || {
        let begun = Instant::now();
        grid.check(&engine, "a", &bytes).await;
        begun.elapsed()
    };
    // The faster of two, against what else this machine is doing.
    let usual = time().await.min(time().await);
    grid.home(0).fault(|faults| faults.hang = true);
    let hung = time().await;
    assert!(hung < usual * 3 + Duration::from_millis(200), "{hung:?} instead of {usual:?}");
    let again = time().await;
    assert!(again < usual * 3 + Duration::from_millis(200), "remembered: {again:?} instead of {usual:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn too_few_shards_name_the_nodes() {
    let grid = Grid::new(6);
    let engine = grid.start("4+2").await;
    grid.put(&engine, "a", &content(1, 3 * MIB)).await.unwrap();
    grid.kill(1, true);
    grid.kill(3, false);
    grid.home(4).lose_all();
    let error = grid.read(&engine, "a").await.unwrap_err();
    let ReadError::TooFewShards { stripe, need, have, ref missing } = error else { panic!("{error}") };
    assert_eq!((stripe, need, have), (0, 4, 3));
    assert_eq!(nodes(missing), [id(1), id(3), id(4)]);
    let text = error.to_string();
    assert!(text.contains(&id(3).short().to_string()) && text.contains("does not have the shard"), "{text}");
    assert_eq!(error.kind(), Kind::Unavailable);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn forged_beyond_repair_gives_no_wrong_bytes() {
    let grid = Grid::new(6);
    let engine = grid.start("4+2").await;
    grid.put(&engine, "a", &content(1, 2 * MIB)).await.unwrap();
    for number in 0..3 {
        grid.home(number).fault(|faults| faults.corrupt = true);
    }
    let error = grid.read(&engine, "a").await.unwrap_err();
    let ReadError::TooFewShards { have: 3, need: 4, ref missing, .. } = error else { panic!("{error}") };
    assert_eq!(nodes(missing), [id(0), id(1), id(2)]);
    assert!(missing.iter().all(|fault| fault.why.contains("forged")), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_write_goes_on_to_spares_and_is_read_back() {
    type Break = fn(&Grid);
    let breaks: [(&str, Break); 5] = [
        ("dead", |grid| grid.kill(2, false)),
        ("hung", |grid| grid.home(2).fault(|faults| faults.hang = true)),
        ("full", |grid| grid.home(2).fault(|faults| faults.refuse = Some(Refusal::Full))),
        ("swallowing", |grid| grid.swallow(2, true)),
        ("slow", |grid| grid.home(2).fault(|faults| faults.slow = Duration::from_secs(2))),
    ];
    for (name, break_it) in breaks {
        let grid = Grid::new(8);
        let engine = grid.start("4+2").await;
        break_it(&grid);
        let bytes = content(1, 20 * MIB);
        let begun = Instant::now();
        grid.put(&engine, "a", &bytes).await.unwrap();
        assert!(begun.elapsed() < Duration::from_secs(10), "{name}: {:?}", begun.elapsed());
        let elsewhere: usize = (0..8).filter(|&number| number != 2).map(|number| grid.home(number).ids().len()).sum();
        assert!(elsewhere >= 20 * 6, "{name}: {elsewhere}");
        grid.check(&engine, "a", &bytes).await;
        // What a node stored that was given up on is deleted with the object.
        grid.home(2).heal();
        grid.swallow(2, false);
        engine.remove(&grid.bucket, "a").await.unwrap();
        grid.settle(&engine).await;
        assert_eq!(grid.shards(), 0, "{name}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn not_enough_nodes_says_how_many_and_which() {
    let grid = Grid::new(6);
    let engine = grid.start("4+2").await;
    for (break_it, known) in [("known", true), ("unknown", false)] {
        grid.kill(4, known);
        for len in [100, 3 * MIB] {
            let error = grid.put(&engine, "a", &content(1, len)).await.unwrap_err();
            let PutError::NotEnoughNodes { needed, answering, ref missing, .. } = error else { panic!("{error}") };
            assert_eq!((needed, answering, nodes(missing)), (6, 5, vec![id(4)]), "{break_it}: {error}");
            assert_eq!(error.kind(), Kind::Unavailable);
        }
        grid.home(4).heal();
        grid.set_up(4, true);
    }
    // Several at once are all named, however they are missing.
    grid.kill(0, false);
    grid.kill(2, true);
    grid.kill(3, false);
    grid.home(5).fault(|faults| faults.hang = true);
    for len in [100, 3 * MIB] {
        let error = grid.put(&engine, "a", &content(1, len)).await.unwrap_err();
        let PutError::NotEnoughNodes { answering, ref missing, .. } = error else { panic!("{error}") };
        assert_eq!((answering, nodes(missing)), (2, vec![id(0), id(2), id(3), id(5)]), "{error}");
    }
    for number in [0, 2, 3, 5] {
        grid.home(number).heal();
        grid.set_up(number, true);
    }
    grid.settle(&engine).await;
    assert_eq!(grid.shards(), 0, "what was stored in vain is gone");
    grid.home(4).fault(|faults| faults.hang = true);
    let error = grid.put(&engine, "a", &content(1, 100)).await.unwrap_err();
    assert!(matches!(&error, PutError::NotEnoughNodes { missing, .. } if nodes(missing) == [id(4)]), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_two_shards_in_one_failure_domain() {
    let grid = Grid::new(0);
    for site in 0..4 {
        for _ in 0..2 {
            grid.add_in(Domain { site: format!("site{site}"), ..Domain::default() });
        }
    }
    let engine = grid.open().await;
    let policy: atoll_codec::Policy = "2+1".parse().unwrap();
    let settings = atoll_engine::BucketSettings { policy, level: DomainLevel::Site };
    engine.create_bucket(&grid.bucket, settings).await.unwrap();
    grid.kill(0, false);
    let bytes = content(1, 12 * MIB);
    grid.put(&engine, "a", &bytes).await.unwrap();
    // Both nodes of any one site may go.
    for site in 0..4 {
        for number in [2 * site, 2 * site + 1] {
            grid.home(number).fault(|faults| faults.unreachable = true);
        }
        grid.check(&engine, "a", &bytes).await;
        for number in [2 * site, 2 * site + 1] {
            grid.home(number).heal();
        }
    }
    let settings = atoll_engine::BucketSettings { policy: "4+2".parse().unwrap(), level: DomainLevel::Site };
    let wide = "wide-bucket".parse().unwrap();
    engine.create_bucket(&wide, settings).await.unwrap();
    let options = atoll_engine::PutOptions::default();
    let error = engine.put(&wide, "a", atoll_engine::Source::Bytes(content(1, 10)), options).await.unwrap_err();
    assert!(matches!(error, PutError::NotEnoughNodes { needed: 6, answering: 4, .. }), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_at_once_through_a_small_budget() {
    let mut grid = Grid::new(6);
    grid.config.put_bytes_max = 3 * MIB;
    grid.config.get_bytes_max = 3 * MIB;
    let grid = Arc::new(grid);
    let engine = grid.start("4+2").await;
    let tasks = (0..24u64).map(|at| {
        let (grid, engine) = (grid.clone(), engine.clone());
        tokio::spawn(async move {
            let bytes = content(at, (at as usize % 4) * MIB + 10);
            grid.put(&engine, &at.to_string(), &bytes).await.unwrap();
            grid.check(&engine, &at.to_string(), &bytes).await;
        })
    });
    for task in tasks.collect::<Vec<_>>() {
        task.await.unwrap();
    }
    // Readers whose consumers stopped do not stop others.
    let mut idle = Vec::new();
    for _ in 0..4 {
        let mut reader = engine.get(&grid.bucket, "3", None).await.unwrap();
        reader.next().await.unwrap().unwrap();
        idle.push(reader);
    }
    grid.check(&engine, "7", &content(7, 3 * MIB + 10)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_dead_node_still_has_waits_for_it_and_troubles_nobody_else() {
    let grid = Grid::new(6);
    let engine = grid.start("4+2").await;
    grid.put(&engine, "small", &content(1, 10)).await.unwrap();
    grid.put(&engine, "large", &content(2, 70 * MIB)).await.unwrap();
    grid.kill(0, false);
    for key in ["small", "large"] {
        engine.remove(&grid.bucket, key).await.unwrap();
    }
    eventually("the others have deleted theirs", async || {
        engine.collect_garbage().await.unwrap();
        grid.shards() == 71
    })
    .await;
    assert_eq!(grid.home(0).ids().len(), 71);
    assert_eq!(grid.kv.keys("g/").len(), 3, "one object and two pages: {:?}", grid.kv.keys("g/"));
    let before = grid.home(1).calls();
    let report = engine.collect_garbage().await.unwrap();
    assert_eq!((report.collected, report.waiting), (0, 3));
    assert_eq!(grid.home(1).calls(), before, "the others are not asked again");
    grid.home(0).heal();
    grid.settle(&engine).await;
    assert_eq!(grid.shards(), 0);
}
