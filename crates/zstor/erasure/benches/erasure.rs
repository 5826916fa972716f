//! Criterion benches of every implementation at hand: `cargo bench -p atoll-erasure --bench erasure -- '10\+4'`.
//!
//! Throughput counts the data of a stripe, k × shard length, for decoding too. For ratios on a machine that is not
//! idle see `ratios.rs`.

mod contenders;

use std::time::{Duration, Instant};

use contenders::{Case, Operation, Work};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};

fn stripes(criterion: &mut Criterion) {
    for case in Case::all() {
        for operation in [Operation::Encode, Operation::Decode] {
            let title = format!("{operation} {}+{}", case.data, case.parity);
            let mut group = criterion.benchmark_group(title);
            group.throughput(Throughput::Bytes(case.bytes() as u64));
            let mut work = Work::new(case);
            for mut contender in contenders::all(case) {
                if contender.same_code() {
                    work.check(contender.as_mut(), operation);
                }
                group.bench_function(BenchmarkId::new(contender.name(), case.size), |bencher| {
                    bencher.iter_custom(|times| {
                        let start = Instant::now();
                        contender.run(operation, &mut work, times.try_into().unwrap_or(u32::MAX));
                        start.elapsed()
                    });
                });
            }
            group.finish();
        }
    }
}

criterion_group! {
    name = benches;
    config = Criterion::default()
        .sample_size(20)
        .warm_up_time(Duration::from_millis(200))
        .measurement_time(Duration::from_millis(800));
    targets = stripes
}
criterion_main!(benches);
