//! How fast a stripe becomes shards and comes back, in memory, on one core, in bytes of plaintext per second.
//!
//! Random data, the worst case for everything but zstd, in stripes of 1 MiB, with the CRC-64/NVME of each shard that a client sends along
//! or checks. Results are in docs/benchmarks.md.

use std::hint::black_box;

use atoll_codec::{Codec, ObjectKey, Policy, STRIPE_BYTES, crc64};
use bytes::Bytes;
use criterion::{BenchmarkGroup, Criterion, Throughput, criterion_group, criterion_main, measurement::WallTime};

/// Plaintexts that take turns: 16 MiB, more than the inner caches hold, as an upload would.
const PLAINTEXTS: usize = 16;

fn noise() -> Vec<u8> {
    let mut bytes = vec![0; PLAINTEXTS * STRIPE_BYTES];
    blake3::Hasher::new().finalize_xof().fill(&mut bytes);
    bytes
}

fn text() -> Vec<u8> {
    let noise = noise();
    let words = [
        "stripe ", "shard ", "node ", "the ", "of ", "a ", "is ", "kept ", "where ", "nobody ", "reads ", "it, ",
        "and.\n",
    ];
    let picked = noise.iter().flat_map(|byte| words[usize::from(*byte) % words.len()].bytes());
    picked.take(PLAINTEXTS * STRIPE_BYTES).collect()
}

fn seal(group: &mut BenchmarkGroup<'_, WallTime>, name: &str, policy: Policy, source: &[u8]) {
    let codec = Codec::new(policy);
    let sealer = codec.sealer(&ObjectKey::generate());
    let mut plaintexts = source.chunks_exact(STRIPE_BYTES).cycle();
    group.bench_function(format!("seal {name}"), |bencher| {
        bencher.iter(|| {
            let plain = plaintexts.next().expect("a cycle does not end");
            let slot = sealer.next().expect("the run is not full");
            let stripe = sealer.seal(slot, plain).expect("a whole stripe");
            stripe.shards.iter().fold(0, |all, shard| all ^ crc64(shard))
        });
    });
}

/// Opens stripes of which the first `lost` shards are missing.
fn open(group: &mut BenchmarkGroup<'_, WallTime>, name: &str, policy: Policy, lost: usize, source: &[u8]) {
    let codec = Codec::new(policy);
    let key = ObjectKey::generate();
    let sealer = codec.sealer(&key);
    let opener = codec.opener(&key, sealer.salt());
    let sealed: Vec<_> = source
        .chunks_exact(STRIPE_BYTES)
        .map(|plain| {
            let stripe = sealer.seal(sealer.next().expect("the run is not full"), plain).expect("a whole stripe");
            // Each shard in memory of its own, as it comes from a network.
            let shards = stripe.shards.iter().map(|shard| Bytes::copy_from_slice(shard)).enumerate();
            (stripe.record, shards.skip(lost).take(policy.data()).collect::<Vec<_>>())
        })
        .collect();
    let mut stripes = sealed.iter().cycle();
    group.bench_function(format!("open {name}, {lost} lost"), |bencher| {
        bencher.iter(|| {
            let (record, shards) = stripes.next().expect("a cycle does not end");
            black_box(shards.iter().fold(0, |all, (_, shard)| all ^ crc64(shard)));
            opener.open(record, shards).expect("nothing is forged")
        });
    });
}

fn pipeline(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("codec");
    group.throughput(Throughput::Bytes(STRIPE_BYTES as u64));
    let (noise, text) = (noise(), text());
    for name in ["4+2", "10+4", "16+4"] {
        let policy: Policy = name.parse().expect("a policy");
        seal(&mut group, name, policy, &noise);
        open(&mut group, name, policy, 0, &noise);
        open(&mut group, name, policy, policy.parity(), &noise);
    }
    let policy: Policy = "4+2".parse().expect("a policy");
    seal(&mut group, "4+2 text", policy, &text);
    open(&mut group, "4+2 text", policy, 0, &text);
    group.finish();
}

criterion_group!(benches, pipeline);
criterion_main!(benches);
