//! How long it takes to place a stripe. Results are in docs/benchmarks.md.

use atoll_ids::{Domain, NodeId};
use atoll_placement::{Candidate, DomainLevel, Map};
use criterion::{Criterion, criterion_group, criterion_main};

fn map(nodes: u64) -> Map {
    let candidate = |number: u64| {
        let domain = Domain::new(None, &format!("site {}", number % 20), "").expect("a label");
        Candidate {
            id: NodeId::from_bytes(*blake3::hash(&number.to_le_bytes()).as_bytes()),
            weight: (number + 1) << 40,
            domain,
        }
    };
    Map::new((0..nodes).map(candidate).collect()).expect("different nodes")
}

fn place(criterion: &mut Criterion) {
    for (nodes, n, level) in [
        (6, 6, DomainLevel::Node),
        (50, 14, DomainLevel::Node),
        (50, 14, DomainLevel::Site),
        (1000, 20, DomainLevel::Site),
        (65_536, 20, DomainLevel::Node),
    ] {
        let map = map(nodes);
        let mut seed = 0u128;
        criterion.bench_function(&format!("place {n} of {nodes}, by {level}"), |bencher| {
            bencher.iter(|| {
                seed += 1;
                map.place(&seed.to_le_bytes(), n, level).expect("enough domains")
            });
        });
    }
}

criterion_group!(benches, place);
criterion_main!(benches);
