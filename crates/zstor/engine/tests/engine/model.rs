//! Random histories against a model: a map from keys to contents.

use std::collections::BTreeMap;

use atoll_engine::{GetError, HealOptions};
use bytes::Bytes;
use proptest::prelude::*;

use crate::grid::{Grid, MIB, content, eventually, read};

#[derive(Clone, Debug)]
enum Step {
    Put {
        key: u8,
        seed: u64,
        len: usize,
    },
    Remove {
        key: u8,
    },
    Get {
        key: u8,
    },
    /// One node at a time is down, since 2+2 on five nodes can store with one missing.
    Kill {
        node: usize,
        known: bool,
    },
    Revive,
    /// A node loses everything; another heal must come before the next loss.
    Wipe {
        node: usize,
    },
    Heal,
    Restart,
}

fn step() -> impl Strategy<Value = Step> {
    let len = prop_oneof![Just(0usize), 1usize..5000, Just(MIB), Just(2 * MIB + 17), Just(5 * MIB + 1)];
    prop_oneof![
        6 => (0u8..4, any::<u64>(), len).prop_map(|(key, seed, len)| Step::Put { key, seed, len }),
        2 => (0u8..4).prop_map(|key| Step::Remove { key }),
        4 => (0u8..4).prop_map(|key| Step::Get { key }),
        2 => (0usize..5, any::<bool>()).prop_map(|(node, known)| Step::Kill { node, known }),
        2 => Just(Step::Revive),
        1 => (0usize..5).prop_map(|node| Step::Wipe { node }),
        1 => Just(Step::Heal),
        1 => Just(Step::Restart),
    ]
}

async fn run(steps: Vec<Step>) {
    let grid = Grid::new(5);
    let mut engine = grid.start("2+2").await;
    let mut model: BTreeMap<String, Bytes> = BTreeMap::new();
    let mut down: Option<usize> = None;
    let mut wiped = false;
    for step in steps {
        match step {
            Step::Put { key, seed, len } => {
                let (key, bytes) = (key.to_string(), content(seed, len));
                grid.put(&engine, &key, &bytes).await.unwrap();
                model.insert(key, bytes);
            }
            Step::Remove { key } => {
                let key = key.to_string();
                let removed = engine.remove(&grid.bucket, &key).await.is_ok();
                assert_eq!(removed, model.remove(&key).is_some());
            }
            Step::Get { key } => {
                let key = key.to_string();
                match (read(&engine, &grid.bucket, &key).await, model.get(&key)) {
                    (Ok(found), Some(expect)) => assert!(found.unwrap() == expect, "{key}"),
                    (Err(GetError::NotFound { .. }), None) => {}
                    (found, expect) => panic!("{key}: {found:?} but {}", expect.is_some()),
                }
            }
            Step::Kill { node, known } if down.is_none() => {
                grid.kill(node, known);
                down = Some(node);
            }
            Step::Wipe { node } if !wiped => {
                grid.home(node).lose_all();
                wiped = true;
            }
            Step::Kill { .. } | Step::Wipe { .. } => {}
            Step::Revive => {
                if let Some(node) = down.take() {
                    grid.home(node).heal();
                    grid.set_up(node, true);
                }
            }
            Step::Heal => {
                let report = engine.heal(HealOptions::default()).await.unwrap();
                assert_eq!(report.lost, 0, "{report:?}");
                // With a node down there may be no place for what it had.
                wiped = wiped && report.unplaced > 0;
            }
            Step::Restart => {
                drop(engine);
                engine = grid.open().await;
            }
        }
    }
    if let Some(node) = down {
        grid.home(node).heal();
        grid.set_up(node, true);
    }
    for (key, bytes) in &model {
        grid.check(&engine, key, bytes).await;
    }
    grid.settle(&engine).await;
    let expect: usize = model.values().map(|bytes| bytes.len().div_ceil(MIB) * 4).sum();
    eventually("exactly the shards of the objects are there", async || {
        engine.heal(HealOptions::default()).await.unwrap();
        grid.shards() == expect
    })
    .await;
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, max_shrink_iters: 64, ..ProptestConfig::default() })]
    #[test]
    fn random_histories(steps in prop::collection::vec(step(), 1..40)) {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        runtime.block_on(run(steps));
    }
}
