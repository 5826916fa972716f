//! The log cut at every byte of a small history, and crashes at every operation of one.

use crate::harness::{Model, Step, content, history, open, owner, put, run, shard, small};
use crate::sim::{Faults, Random, SimDisk};
use atoll_segments::{GetError, Segments};
use std::sync::Arc;

/// One segment, a few puts and deletes of all sizes, each in a batch of its own; after each, where the log ended.
async fn small_history(disk: &SimDisk) -> Vec<(usize, Vec<Step>)> {
    let store = open(disk);
    let lens = [0, 1, 700, 4000, 5000, 16];
    let mut steps: Vec<Step> = (0..6).map(|key| Step::Put { key, version: 0, len: lens[key as usize] }).collect();
    steps.push(Step::Delete { key: 3 });
    steps.push(Step::Put { key: 3, version: 1, len: 300 });
    let mut ends = vec![(8192, Vec::new())];
    let mut done = Vec::new();
    for step in steps {
        Model::default().step(&store, &step).await;
        done.push(step);
        let totals = store.totals();
        ends.push(((totals.used + totals.reclaimable) as usize, done.clone()));
    }
    ends
}

#[test]
fn the_log_cut_at_every_byte_keeps_what_was_acknowledged_before_the_cut() {
    run(async {
        let disk = SimDisk::default();
        let ends = small_history(&disk).await;
        let name = disk.names().remove(0);
        let whole = disk.image(&name);
        let mut cuts = 0;
        for window in ends.windows(2) {
            let ((from, before), (to, after)) = (&window[0], &window[1]);
            for cut in *from..*to {
                // What follows the cut was never written: zeros. Cutting among zeros makes no difference.
                if cut > *from && whole[cut - 1] == 0 && whole[cut..*to].iter().all(|b| *b == 0) {
                    break;
                }
                cuts += 1;
                let torn = disk.settled();
                torn.tamper(&name, |bytes| bytes[cut..].fill(0));
                check_cut(&torn, before, after, cut).await;
            }
        }
        assert!(cuts > 10_000, "{cuts}");
    });
}

/// What was acknowledged before the cut is there; the step the cut goes through happened or did not.
async fn check_cut(torn: &SimDisk, before: &[Step], after: &[Step], cut: usize) {
    let store = open(torn);
    let (was, will) = (state(before), state(after));
    for key in 0..6 {
        let seen = match store.get(owner(1), shard(key)).await {
            Ok(data) => Some(data),
            Err(GetError::NotFound) => None,
            Err(e) => panic!("cut at {cut}, key {key}: {e}"),
        };
        let key = key as usize;
        assert!(seen == was[key] || seen == will[key], "cut at {cut}, key {key}");
    }
    assert_eq!(store.open_report().damaged_regions, 0, "cut at {cut}: a crash is no damage");
}

fn state(steps: &[Step]) -> Vec<Option<bytes::Bytes>> {
    let mut state = vec![None; 6];
    for step in steps {
        state[step.key() as usize] = match step {
            Step::Put { key, version, len } => Some(content(*key, *version, *len)),
            Step::Delete { .. } => None,
        };
    }
    state
}

#[test]
fn after_any_cut_the_store_goes_on_and_stays_consistent() {
    run(async {
        let disk = SimDisk::default();
        let ends = small_history(&disk).await;
        let name = disk.names().remove(0);
        for cut in (0..ends[ends.len() - 1].0).step_by(509) {
            let torn = disk.settled();
            torn.tamper(&name, |bytes| bytes.truncate(cut));
            for _ in 0..3 {
                let store = open(&torn);
                put(&store, 50, &content(50, 0, 6000)).await.unwrap();
                let listed = store.list(owner(1), None, 100);
                drop(store);
                assert_eq!(open(&torn).list(owner(1), None, 100), listed, "cut at {cut}");
            }
        }
    });
}

/// Runs a history until the disk dies after `ops` operations, looks at what the crash left, goes on, crashes again.
async fn crash_at(ops: u64, seed: u64) -> bool {
    let mut random = Random::new(seed ^ (ops << 20));
    let mut disk = SimDisk::default();
    let mut model = Model::default();
    let mut died = false;
    for round in 0..3 {
        let store = Segments::open_on(Arc::new(disk.clone()), small()).unwrap();
        model.check(&store, true).await;
        disk.fail(Faults {
            kinds: Vec::new(),
            after: if round == 0 { ops } else { random.below(60) },
            count: u64::MAX,
        });
        for steps in history(&mut random, 24, 12).chunks(4) {
            let mut distinct: Vec<Step> = Vec::new();
            for step in steps {
                if distinct.iter().all(|s| s.key() != step.key()) {
                    distinct.push(step.clone());
                }
            }
            model.together(&store, &distinct).await;
        }
        died = disk.ops() > ops;
        disk = disk.crash(&mut random);
        drop(store);
    }
    let store = open(&disk);
    model.check(&store, true).await;
    assert_eq!(store.open_report().damaged_regions, 0, "a crash is no damage");
    died
}

#[test]
fn a_crash_at_every_operation_loses_nothing_acknowledged() {
    let seed = std::env::var("ATOLL_TEST_SEED").ok().and_then(|s| s.parse().ok()).unwrap_or(1);
    for ops in 0..150 {
        for variant in 0..2 {
            println!("ATOLL_TEST_SEED={seed}: crash after {ops} operations, variant {variant}");
            run(crash_at(ops, seed * 2 + variant));
        }
    }
}
