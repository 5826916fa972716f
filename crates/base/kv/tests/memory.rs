//! The memory of a store does not grow with what is written to it. A test of its own, because it measures its process.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::fs;

use atoll_kv::{Bytes, Embedded, EmbeddedConfig, KeyValue, Mutation, Scan};
use futures_util::{StreamExt as _, stream};

/// Most memory the process may ever have had: queue, write buffers, cache, what a flush and a compaction work on, and the test itself. A
/// node is to stay under 100 MiB with the rest of it.
const PEAK_BYTES_MAX: u64 = 64 << 20;

/// Written in all: several times what may be held.
const VALUES: usize = 1500;
const VALUE_BYTES: usize = 64 << 10;

/// Most memory this process ever had in RAM, in bytes.
fn peak_bytes() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().strip_suffix("kB").unwrap().trim().parse::<u64>().unwrap() << 10
}

#[tokio::test]
async fn memory_is_bounded_while_writing_and_reading() {
    let dir = tempfile::tempdir().unwrap();
    let config = EmbeddedConfig { free_bytes_min: 0, ..EmbeddedConfig::default() };
    let store = Embedded::open(dir.path().join("kv"), config.clone()).unwrap();
    let commits = stream::iter(0..VALUES).map(|index| {
        // Ten generations of each key, so that there is something to compact.
        let key = Bytes::from(format!("{:06}", index % (VALUES / 10)));
        let value = Bytes::from(vec![index as u8; VALUE_BYTES]);
        store.commit(vec![], vec![Mutation::Put { key, value }])
    });
    let written: Vec<_> = commits.buffer_unordered(64).map(Result::unwrap).collect().await;
    assert_eq!(written.len(), VALUES);
    let mut after: Option<Bytes> = None;
    let mut read = 0;
    loop {
        let page = store.scan(Scan { prefix: Bytes::new(), after: after.clone(), limit: 20 }).await.unwrap();
        let Some(last) = page.last() else { break };
        after = Some(last.key.clone());
        read += page.len();
    }
    assert_eq!(read, VALUES / 10);
    drop(store);
    // Opening replays the journal, which must not take more either.
    let store = Embedded::open(dir.path().join("kv"), config).unwrap();
    assert_eq!(store.revision(), VALUES as u64);
    let peak = peak_bytes();
    assert!(peak < PEAK_BYTES_MAX, "{} MiB at the peak", peak >> 20);
    eprintln!("{} MiB at the peak", peak >> 20);
}
