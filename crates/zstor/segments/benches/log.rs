//! How close the segment log comes to the disk below it: durable puts beside the disk's own direct, synced writes in
//! the same run.
//!
//! It writes about 4 GiB under `ATOLL_BENCH_DIR` (default: the directory for temporary files) and removes them. Run it
//! with `cargo bench -p atoll-segments`. It is a plain program: what it measures takes seconds, and repeating it is the
//! reader's choice.

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
const READ: usize = 256 << 10;
const CHILD: &str = "one-case";

const CASES: [Case; 4] = [
    Case { len: 256 << 10, in_flight: 16, puts: 3_000 },
    Case { len: 4 << 10, in_flight: 1_000, puts: 120_000 },
    Case { len: 1 << 10, in_flight: 4_000, puts: 200_000 },
    Case { len: 4 << 10, in_flight: 1, puts: 2_000 },
];

fn main() {
    let root = std::env::var_os("ATOLL_BENCH_DIR").map_or_else(std::env::temp_dir, Into::into);
    let dir = tempfile::Builder::new().prefix("atoll-segments-bench").tempdir_in(root).unwrap();
    let args: Vec<String> = std::env::args().collect();
    if let [_, word, case, idle, raw, read] = &args[..]
        && word == CHILD
    {
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
        let case = CASES[case.parse::<usize>().unwrap()];
        let run = case.run(dir.path(), idle == "true", raw.parse().unwrap(), read.parse().unwrap());
        return runtime.block_on(run);
    }

    let Raw { fresh, written, read } = raw(&dir.path().join("raw"));
    println!("raw disk, direct: write of 4 MiB + fdatasync, one after the other; read of 256 KiB, 16 at a time");
    println!("  write into unwritten extents    {fresh:6.2} GB/s");
    println!("  write into written extents      {written:6.2} GB/s");
    println!("  read                            {read:6.2} GB/s");
    for idle in [false, true] {
        println!("log, next segment {}:", if idle { "filled ahead (the store was idle)" } else { "only allocated" });
        let raw = if idle { written } else { fresh };
        for case in 0..CASES.len() {
            // A process of its own, so that its peak memory is its own.
            let args = [CHILD.to_owned(), case.to_string(), idle.to_string(), raw.to_string(), read.to_string()];
            let status = std::process::Command::new(std::env::current_exe().unwrap()).args(args).status().unwrap();
            assert!(status.success());
        }
    }
}

/// GB/s of the disk itself.
struct Raw {
    fresh: f64,
    written: f64,
    read: f64,
}

fn raw(dir: &Path) -> Raw {
    let disk = FileDisk::open(dir).unwrap();
    println!("O_DIRECT: {}", if disk.is_direct() { "yes" } else { "no, buffered" });
    let file = disk.create("raw").unwrap();
    file.allocate(RAW_BYTES).unwrap();
    let memory = noise(BLOCK + 4096, 1);
    let start = memory.as_ptr().align_offset(4096);
    let write = || {
        let begin = Instant::now();
        for offset in (0..RAW_BYTES).step_by(BLOCK) {
            file.pwrite(&memory[start..start + BLOCK], offset).unwrap();
            file.sync().unwrap();
        }
        RAW_BYTES as f64 / begin.elapsed().as_secs_f64() / 1e9
    };
    let (fresh, written) = (write(), write());
    let next = AtomicU64::new(0);
    let begin = Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..16 {
            scope.spawn(|| {
                let mut memory = vec![0; READ + 4096];
                let start = memory.as_ptr().align_offset(4096);
                loop {
                    let offset = next.fetch_add(READ as u64, Ordering::Relaxed);
                    if offset >= RAW_BYTES {
                        return;
                    }
                    file.pread(&mut memory[start..start + READ], offset).unwrap();
                }
            });
        }
    });
    let read = RAW_BYTES as f64 / begin.elapsed().as_secs_f64() / 1e9;
    disk.remove("raw").unwrap();
    Raw { fresh, written, read }
}

/// One load.
#[derive(Clone, Copy)]
struct Case {
    len: usize,
    in_flight: usize,
    puts: u64,
}

impl Case {
    async fn run(self, dir: &Path, idle: bool, raw: f64, raw_read: f64) {
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

        let bytes = self.puts as f64 * self.len as f64 / 1e9;
        println!(
            "  {:4} KiB, {:5} in flight: put {:6.2} GB/s ({:.2} of raw), {:8.0} puts/s; get {:6.2} GB/s ({:.2} of raw), {:8.0} gets/s; reopen {open:.0?}; peak memory {}",
            self.len >> 10,
            self.in_flight,
            bytes / put,
            bytes / put / raw,
            self.puts as f64 / put,
            bytes / get,
            bytes / get / raw_read,
            self.puts as f64 / get,
            peak_memory(),
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
