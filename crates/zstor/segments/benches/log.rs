//! How close the segment log comes to the disk below it: durable puts beside the disk's own direct, synced writes in the same run.
//!
//! It writes about 4 GiB under `ATOLL_BENCH_DIR` (default: the directory for temporary files) and removes them. Run it with
//! `cargo bench -p atoll-segments`. It is a plain program: what it measures takes seconds, and repeating it is the reader's choice.

#![expect(clippy::print_stdout, reason = "its output is the result")]
#![expect(clippy::unwrap_used, reason = "a bench that cannot write should stop there")]

use atoll_ids::{OwnerId, ShardId};
use atoll_segments::disk::{Disk, FileDisk};
use atoll_segments::{Segments, SegmentsConfig, crc64};
use bytes::Bytes;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

const RAW_BYTES: u64 = 768 << 20;
const BLOCK: usize = 4 << 20;

fn main() {
    let root = std::env::var_os("ATOLL_BENCH_DIR").map_or_else(std::env::temp_dir, Into::into);
    let dir = tempfile::Builder::new().prefix("atoll-segments-bench").tempdir_in(root).unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();

    let (fresh, written) = raw(&dir.path().join("raw"));
    println!("raw disk, 4 MiB direct + fdatasync, one after the other:");
    println!("  into unwritten extents          {fresh:6.2} GB/s");
    println!("  into written extents            {written:6.2} GB/s");
    for idle in [false, true] {
        println!("log, next segment {}:", if idle { "filled ahead (the store was idle)" } else { "only allocated" });
        let base = if idle { written } else { fresh };
        for case in [
            Case { len: 256 << 10, in_flight: 16, puts: 3_000 },
            Case { len: 4 << 10, in_flight: 1_000, puts: 120_000 },
            Case { len: 1 << 10, in_flight: 4_000, puts: 200_000 },
            Case { len: 4 << 10, in_flight: 1, puts: 2_000 },
        ] {
            runtime.block_on(case.run(&dir.path().join(format!("log-{idle}")), idle, base));
        }
    }
    println!("peak memory of this process: {}", peak_memory());
}

/// GB/s of the disk itself: first writing and overwriting.
fn raw(dir: &Path) -> (f64, f64) {
    let disk = FileDisk::open(dir).unwrap();
    println!("O_DIRECT: {}", if disk.is_direct() { "yes" } else { "no, buffered" });
    let file = disk.create("raw").unwrap();
    file.allocate(RAW_BYTES).unwrap();
    let memory = noise(BLOCK + 4096, 1);
    let start = memory.as_ptr().align_offset(4096);
    let rate = || {
        let begin = Instant::now();
        for offset in (0..RAW_BYTES).step_by(BLOCK) {
            file.pwrite(&memory[start..start + BLOCK], offset).unwrap();
            file.sync().unwrap();
        }
        RAW_BYTES as f64 / begin.elapsed().as_secs_f64() / 1e9
    };
    let rates = (rate(), rate());
    disk.remove("raw").unwrap();
    rates
}

/// One load.
#[derive(Clone, Copy)]
struct Case {
    len: usize,
    in_flight: usize,
    puts: u64,
}

impl Case {
    async fn run(self, dir: &Path, idle: bool, raw: f64) {
        let mut config = SegmentsConfig::new(8 << 30);
        config.segment_bytes = if idle { 1 << 30 } else { 256 << 20 };
        config.spare_ahead = idle;
        let store = Segments::open(dir, config).unwrap();
        while idle && !ready(dir) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let data = Bytes::from(noise(self.len, 7));
        let crc = crc64(&data);
        let next = Arc::new(AtomicU64::new(0));
        let begin = Instant::now();
        let tasks: Vec<_> = (0..self.in_flight)
            .map(|_| {
                let (store, data, next) = (store.clone(), data.clone(), next.clone());
                tokio::spawn(async move {
                    while let Some(id) = take(&next, self.puts) {
                        store.put(owner(), id, crc, data.clone()).await.unwrap();
                    }
                })
            })
            .collect();
        for task in tasks {
            task.await.unwrap();
        }
        let put = begin.elapsed().as_secs_f64();
        let get = self.read_back(&store).await;
        store.close().await;
        drop(store);
        let begin = Instant::now();
        drop(Segments::open(dir, SegmentsConfig { spare_ahead: false, ..SegmentsConfig::new(8 << 30) }).unwrap());
        let open = begin.elapsed();
        std::fs::remove_dir_all(dir).unwrap();

        let bytes = self.puts as f64 * self.len as f64 / 1e9;
        println!(
            "  {:4} KiB, {:5} in flight: put {:6.2} GB/s ({:.2} of raw), {:8.0} puts/s; get {:6.2} GB/s, {:8.0} gets/s; reopen {open:.0?}",
            self.len >> 10,
            self.in_flight,
            bytes / put,
            bytes / put / raw,
            self.puts as f64 / put,
            bytes / get,
            self.puts as f64 / get,
        );
    }

    async fn read_back(self, store: &Segments) -> f64 {
        let next = Arc::new(AtomicU64::new(0));
        let begin = Instant::now();
        let tasks: Vec<_> = (0..self.in_flight)
            .map(|_| {
                let (store, next) = (store.clone(), next.clone());
                tokio::spawn(async move {
                    while let Some(id) = take(&next, self.puts) {
                        assert_eq!(store.get(owner(), id).await.unwrap().len(), self.len);
                    }
                })
            })
            .collect();
        for task in tasks {
            task.await.unwrap();
        }
        begin.elapsed().as_secs_f64()
    }
}

fn owner() -> OwnerId {
    OwnerId::from_bytes([3; 32])
}

fn take(next: &AtomicU64, end: u64) -> Option<ShardId> {
    let n = next.fetch_add(1, Ordering::Relaxed);
    // Ids are hashes in life: neighbours in time are not neighbours in order.
    let spread = u128::from(n).wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835);
    (n < end).then(|| ShardId::from_bytes(spread.to_be_bytes()))
}

fn ready(dir: &Path) -> bool {
    std::fs::read_dir(dir).unwrap().any(|e| e.unwrap().file_name().to_string_lossy().ends_with(".ready"))
}

fn noise(len: usize, mut seed: u64) -> Vec<u8> {
    let mut next = || {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        seed as u8
    };
    (0..len).map(|_| next()).collect()
}

fn peak_memory() -> String {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    status.lines().find_map(|l| l.strip_prefix("VmHWM:")).map_or("unknown".to_owned(), |s| s.trim().to_owned())
}
