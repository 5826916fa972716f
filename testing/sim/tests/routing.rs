//! Small networks of nodes that forward for each other, with every test run. Each run is named by its seed.

use std::time::Duration;

use atoll_sim::{RouteWorld, Shape};

const SECOND: Duration = Duration::from_secs(1);

fn world(shape: Shape, nodes: usize, seed: u64) -> RouteWorld {
    let mut world = RouteWorld::new(shape, nodes, seed);
    world.run(30 * SECOND);
    world
}

#[test]
fn everybody_is_reached_by_short_ways_and_state_is_bounded() {
    for (shape, nodes) in [(Shape::Plane, 60), (Shape::Plane, 400), (Shape::Hubs, 400)] {
        let seed = 21 + nodes as u64;
        let mut world = world(shape, nodes, seed);
        let report = world.report();
        let bound = 5.0 * (nodes as f64 * 1.2).sqrt() + 24.0;
        assert!(report.routes.max <= bound, "seed {seed}, {shape:?}, {nodes} nodes: {report:?}");
        let pairs = world.pairs(400);
        let stretch = world.stretch(&pairs);
        assert_eq!(stretch.delivered, stretch.pairs, "seed {seed}, {shape:?}, {nodes} nodes: {stretch:?}");
        assert!(stretch.first.max <= 5.5 && stretch.first.mean <= 1.3, "seed {seed}, {shape:?}: {stretch:?}");
        assert!(stretch.later.max <= 3.3, "seed {seed}, {shape:?}: {stretch:?}");
    }
}

#[test]
fn dead_nodes_and_black_holes_are_routed_around() {
    let seed = 33;
    let mut world = world(Shape::Plane, 300, seed);
    let pairs = world.pairs(400);
    let report = world.recovery(&pairs, 20 * SECOND);
    assert!(report.cut > 0 && report.recovered == report.cut, "seed {seed}: {report:?}");
    assert!(report.seconds.median <= 1.5, "seed {seed}: {report:?}");
    let pairs = world.pairs(400);
    let report = world.black_holes(&pairs, 60 * SECOND);
    // Where several in a row drop packets, finding the way between them takes longer than this.
    assert!(report.cut > 0 && report.recovered * 100 >= report.cut * 90, "seed {seed}: {report:?}");
}

#[test]
fn churn_leaves_nobody_unreachable() {
    let seed = 34;
    let mut world = world(Shape::Plane, 200, seed);
    world.churn(600 * SECOND, 300 * SECOND);
    world.run(60 * SECOND);
    let pairs = world.pairs(400);
    let stretch = world.stretch(&pairs);
    assert_eq!(stretch.delivered, stretch.pairs, "seed {seed}: {stretch:?}");
}
