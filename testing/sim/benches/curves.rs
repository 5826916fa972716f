//! The curves of `docs/network-simulation.md`: `cargo bench -p atoll-sim --bench curves -- find 100 1000 10000`.
#![expect(clippy::print_stdout, reason = "a program that prints tables")]

use std::time::{Duration, Instant};

use atoll_sim::{FindWorld, LookupReport, RouteWorld, Setting, Shape};

const MINUTE: Duration = Duration::from_secs(60);

/// The seed of all curves.
const SEED: u64 = 20_261_130;

fn main() {
    let words: Vec<String> = std::env::args().skip(1).filter(|word| !word.starts_with('-')).collect();
    let sizes: Vec<usize> = words.iter().filter_map(|word| word.parse().ok()).collect();
    let sizes = if sizes.is_empty() { vec![100, 1000] } else { sizes };
    let wants =
        |what: &str| words.iter().all(|word| word.parse::<usize>().is_ok()) || words.iter().any(|word| word == what);
    if wants("find") {
        println!("seed {SEED}");
        sizes.iter().for_each(|nodes| find(*nodes));
    }
    if wants("route") {
        println!("seed {SEED}");
        for shape in [Shape::Plane, Shape::Hubs] {
            sizes.iter().for_each(|nodes| route(shape, *nodes));
        }
    }
}

/// From this many nodes on, phases are shorter: the whole would take hours.
const LARGE: usize = 50_000;

/// One size, from joining to disaster.
fn find(nodes: usize) {
    let (settle, window, after) = if nodes < LARGE { (115, 30, 20) } else { (30, 15, 10) };
    let began = Instant::now();
    let mut world = FindWorld::new(Setting::plane(nodes, SEED));
    world.run(Duration::from_secs((nodes as u64 / 1000).max(10)) + 5 * MINUTE);
    let traffic = world.take_traffic();
    let report = world.report();
    println!("\n## {nodes} nodes, {} joined", report.joined);
    println!(
        "joining: {:.0} messages, {:.0} bytes per node",
        each(traffic.messages, nodes),
        each(traffic.bytes, nodes)
    );
    println!("contacts per node: {}; records: {}", report.contacts, report.records);
    print_lookups("lookups", &world.look_up(1000));
    world.run(settle * MINUTE);
    world.take_traffic();
    world.run(window * MINUTE);
    print_traffic(&format!("idle after {settle} minutes"), &mut world, nodes, window * MINUTE);
    world.churn(Some(60 * MINUTE));
    world.run(window * MINUTE);
    world.take_traffic();
    world.run(window * MINUTE);
    print_traffic("churn (sessions of 60 minutes)", &mut world, nodes, window * MINUTE);
    print_lookups("lookups under churn", &world.look_up(1000));
    let report = world.report();
    println!("under churn: contacts per node {}; records {}", report.contacts, report.records);
    world.churn(None);
    world.kill(0.25);
    print_lookups("lookups just after a quarter died", &world.look_up(1000));
    world.run(after * MINUTE);
    print_lookups(&format!("lookups {after} minutes later"), &world.look_up(1000));
    println!("{} events in {:.0} s; {}", world.events(), began.elapsed().as_secs_f64(), memory());
}

/// The most memory that this process had.
fn memory() -> String {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find(|line| line.starts_with("VmHWM"));
    line.map_or_else(String::new, |line| line.split_whitespace().collect::<Vec<_>>().join(" "))
}

/// One size and shape, from nothing to black holes.
fn route(shape: Shape, nodes: usize) {
    let began = Instant::now();
    let mut world = RouteWorld::new(shape, nodes, SEED);
    world.run(2 * MINUTE);
    let report = world.report();
    println!("\n## {nodes} nodes, {shape:?}, {} with an address", report.addressed);
    println!("links per node {}", report.links);
    println!("routes per node {}; offers {}; held {}", report.routes, report.offers, report.held);
    println!("beginning: {:.0} bytes per node", each(report.bytes, nodes));
    print_stretch("stretch", &mut world);
    world.run(58 * MINUTE);
    world.report();
    world.run(30 * MINUTE);
    print_bytes("idle", &mut world, nodes, 30 * MINUTE);
    let pairs = world.pairs(2000);
    print_recovery("nodes died on the way", &world.recovery(&pairs, MINUTE));
    world.report();
    world.churn(60 * MINUTE, 5 * MINUTE);
    print_bytes("churn (sessions of 60 minutes)", &mut world, nodes, 5 * MINUTE);
    print_stretch("just after churn", &mut world);
    world.run(2 * MINUTE);
    print_stretch("two minutes later", &mut world);
    let pairs = world.pairs(2000);
    print_recovery("black holes on the way", &world.black_holes(&pairs, MINUTE));
    println!("{:.0} s; {}", began.elapsed().as_secs_f64(), memory());
}

fn print_bytes(what: &str, world: &mut RouteWorld, nodes: usize, window: Duration) {
    let report = world.report();
    let bytes = each(report.bytes, nodes) / window.as_secs_f64();
    println!("{what}: {bytes:.1} bytes/s per node; held {}", report.held);
}

fn print_stretch(what: &str, world: &mut RouteWorld) {
    let pairs = world.pairs(2000);
    let report = world.stretch(&pairs);
    println!(
        "{what}: {} of {} delivered; first packet {} max {:.2}; later {} max {:.2}",
        report.delivered, report.pairs, report.first, report.first.max, report.later, report.later.max
    );
}

fn print_recovery(what: &str, report: &atoll_sim::RecoveryReport) {
    let atoll_sim::RecoveryReport { cut, recovered, seconds } = report;
    println!("{what}: {recovered} of {cut} recovered; s: median {:.1}, {seconds}", seconds.median);
}

fn each(total: u64, nodes: usize) -> f64 {
    total as f64 / nodes as f64
}

fn print_traffic(what: &str, world: &mut FindWorld, nodes: usize, window: Duration) {
    let traffic = world.take_traffic();
    let (bytes, with_setups) = traffic.per_second(nodes, window);
    println!("{what}: {bytes:.2} bytes/s per node; {with_setups:.2} with setting up connections");
}

fn print_lookups(what: &str, report: &LookupReport) {
    let LookupReport { begun, found, steps, ms, .. } = report;
    println!("{what}: {found} of {begun} found; steps {steps}; ms {ms}");
}
