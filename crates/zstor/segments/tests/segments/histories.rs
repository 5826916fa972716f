//! Random histories with crashes, reopenings and failures, against the model.

use crate::harness::{Model, Step, run, small};
use crate::sim::{Faults, Kind, Random, SimDisk};
use atoll_segments::{Segments, SegmentsConfig};
use proptest::prelude::{Just, Strategy, any, prop_oneof};
use proptest::{collection::vec, proptest, test_runner::Config};
use std::sync::Arc;

#[derive(Clone, Debug)]
enum Event {
    Steps(Vec<Step>),
    Crash { after: u64 },
    Reopen,
    Fail { kind: Kind, after: u64, count: u64 },
    Check,
}

fn step() -> impl Strategy<Value = Step> {
    let len = prop_oneof![4 => 0..600usize, 2 => 3000..5000usize, 2 => 8000..30_000usize];
    prop_oneof![
        2 => (0..10u64, 0..2u64, len).prop_map(|(key, version, len)| Step::Put { key, version, len }),
        1 => (0..10u64).prop_map(|key| Step::Delete { key }),
    ]
}

fn event() -> impl Strategy<Value = Event> {
    let kind =
        prop_oneof![Just(Kind::Write), Just(Kind::Sync), Just(Kind::Names), Just(Kind::Allocate), Just(Kind::Truncate)];
    prop_oneof![
        8 => vec(step(), 1..12).prop_map(Event::Steps),
        2 => (0..80u64).prop_map(|after| Event::Crash { after }),
        1 => Just(Event::Reopen),
        1 => (kind, 0..10u64, 1..4u64).prop_map(|(kind, after, count)| Event::Fail { kind, after, count }),
        1 => Just(Event::Check),
    ]
}

async fn play(events: Vec<Event>, seed: u64, spare_ahead: bool) {
    let mut random = Random::new(seed);
    let mut disk = SimDisk::default();
    let config = SegmentsConfig { spare_ahead, ..small() };
    let open = |disk: &SimDisk| Segments::open_on(Arc::new(disk.clone()), config.clone()).unwrap();
    let mut store = open(&disk);
    let mut model = Model::default();
    let mut crash_next = false;
    for event in events {
        match event {
            Event::Steps(steps) => {
                let mut rest = steps;
                while !rest.is_empty() {
                    let mut now: Vec<Step> = Vec::new();
                    rest.retain(|step| {
                        let taken = now.iter().all(|s| s.key() != step.key());
                        if taken {
                            now.push(step.clone());
                        }
                        !taken
                    });
                    model.together(&store, &now).await;
                }
                if std::mem::take(&mut crash_next) {
                    disk = disk.crash(&mut random);
                    store = open(&disk);
                    model.check(&store, true).await;
                    assert_eq!(store.open_report().damaged_regions, 0, "a crash is no damage");
                }
            }
            Event::Crash { after } => {
                disk.fail(Faults { kinds: Vec::new(), after, count: u64::MAX });
                crash_next = true;
            }
            Event::Reopen if !crash_next => {
                disk.heal();
                drop(store);
                store = open(&disk);
                model.check(&store, true).await;
            }
            Event::Fail { kind, after, count } if !crash_next => disk.fail(Faults { kinds: vec![kind], after, count }),
            Event::Check if !crash_next => {
                disk.heal();
                model.check(&store, false).await;
            }
            Event::Reopen | Event::Fail { .. } | Event::Check => {}
        }
    }
}

proptest! {
    #![proptest_config(Config { cases: 150, failure_persistence: None, ..Config::default() })]

    #[test]
    fn any_history_leaves_what_was_acknowledged(events in vec(event(), 1..25), seed in any::<u64>(), spare_ahead in any::<bool>()) {
        run(play(events, seed, spare_ahead));
    }
}
