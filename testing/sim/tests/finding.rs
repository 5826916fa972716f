//! Small networks of nodes that find each other, with every test run. Each run is named by its seed.

use std::time::Duration;

use atoll_sim::{FindWorld, Setting};

const MINUTE: Duration = Duration::from_secs(60);

fn world(nodes: usize, seed: u64) -> FindWorld {
    let mut world = FindWorld::new(Setting::plane(nodes, seed));
    world.run(3 * MINUTE);
    assert_eq!(world.report().joined, nodes, "seed {seed}");
    world
}

#[test]
fn everybody_is_found_in_a_few_steps() {
    for (nodes, steps_max) in [(2, 1.0), (10, 2.0), (100, 3.0), (1000, 5.0)] {
        let seed = 11 + nodes as u64;
        let report = world(nodes, seed).look_up(200);
        assert_eq!(report.found, report.begun, "seed {seed}, {nodes} nodes: {report:?}");
        assert!(report.steps.max <= steps_max, "seed {seed}, {nodes} nodes: {report:?}");
    }
}

/// The figure to reach: within a second at 50 ms one way, where each new connection costs a round trip more.
#[test]
fn who_joins_a_hundred_nodes_finds_somebody_within_a_second() {
    for seed in 1..6 {
        let mut world = FindWorld::new(Setting { latency_ms: Some(50), ..Setting::plane(100, seed) });
        world.run(3 * MINUTE);
        let new = world.join_one() as u32;
        let report = world.look_up_pairs(&[(new, 50)]);
        assert_eq!(report.found, 1, "seed {seed}");
        assert!(report.ms.max <= 1000.0, "seed {seed}: {report:?}");
    }
}

#[test]
fn a_hundred_idle_nodes_are_almost_silent() {
    let mut world = world(100, 3);
    world.run(57 * MINUTE);
    world.take_traffic();
    world.run(60 * MINUTE);
    let (bytes, _) = world.take_traffic().per_second(100, 60 * MINUTE);
    assert!(bytes <= 20.0, "{bytes} bytes/s");
}

#[test]
fn under_churn_and_after_a_disaster_nodes_are_still_found() {
    let mut world = world(300, 5);
    world.churn(Some(60 * MINUTE));
    world.run(60 * MINUTE);
    let report = world.look_up(300);
    assert!(report.found * 100 >= report.begun * 98, "{report:?}");
    world.churn(None);
    world.run(10 * MINUTE);
    world.kill(0.3);
    let report = world.look_up(300);
    assert!(report.found * 100 >= report.begun * 97, "{report:?}");
}

#[test]
fn hostile_nodes_in_few_networks_hide_nobody() {
    for seed in [7, 8] {
        let mut world = world(200, seed);
        world.attack(17, 1000, 8, 2);
        let records = world.report().records;
        assert!(records.max < 200.0, "seed {seed}: {records:?}");
        let victim: Vec<(u32, u32)> = (100..150).map(|from| (from, 17)).collect();
        let report = world.look_up_pairs(&victim);
        assert_eq!(report.found, report.begun, "seed {seed}: {report:?}");
        let report = world.look_up(200);
        assert_eq!(report.found, report.begun, "seed {seed}: {report:?}");
    }
}

#[test]
fn a_run_repeats() {
    let run = || {
        let mut world = world(50, 9);
        let report = world.look_up(50);
        (world.events(), report.found, report.ms)
    };
    assert_eq!(run(), run());
}
