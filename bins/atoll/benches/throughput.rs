//! How fast a local grid stores and reads, beside what its disk does in the same run.
//!
//! Seven node processes and home, policy 4+2, random content, every shard synced before it is acknowledged. Each round measures the disk
//! (O_DIRECT, 4 MiB, fdatasync), a put and a get; the ratios are taken within a round. Then a 4 GiB object for the memory, and one node
//! stopped with SIGSTOP for the latency it adds.
//!
//! `cargo bench -p atoll --bench throughput -- [FOLDER]`; the folder's file system is what is measured.

#![expect(clippy::print_stdout, reason = "a benchmark prints its results")]
#![allow(clippy::unwrap_used, reason = "a benchmark ends at the first failure")]
#![allow(clippy::cast_precision_loss, reason = "rates for people")]

use std::fs::{File, OpenOptions};
use std::io::{Read as _, Write as _};
use std::os::unix::fs::{FileExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use atoll_control::{BucketRequest, Client, GetRequest, PutRequest, Source, Summary};
use atoll_grid::{Grid, GridConfig};
use atoll_ids::BucketName;

const GIB: u64 = 1 << 30;
const BLOCK_BYTES: usize = 4 << 20;
const ROUNDS: usize = 5;

#[tokio::main]
async fn main() {
    // `cargo test` runs benches with --test: then there is nothing to do. `cargo bench` passes --bench.
    if !std::env::args().any(|argument| argument == "--bench") {
        return;
    }
    let base = std::env::args()
        .skip(1)
        .find(|argument| !argument.starts_with("--"))
        .map_or_else(std::env::temp_dir, PathBuf::from);
    let folder = tempfile::tempdir_in(base).unwrap();
    let source = folder.path().join("source");
    noise(&source, GIB);
    let config = GridConfig {
        program: PathBuf::from(env!("CARGO_BIN_EXE_atoll")),
        folder: folder.path().join("grid"),
        storage_nodes: 6,
        capacity: "12G".into(),
        keep: false,
    };
    let mut grid = Grid::raise(config, |_| {}).await.unwrap();
    let bucket: BucketName = "bench".parse().unwrap();
    grid.client().create_bucket(&bucket, &BucketRequest { policy: "4+2".into() }).await.unwrap();
    rounds(&grid, &bucket, folder.path(), &source).await;
    memory(&grid, &bucket, folder.path()).await;
    latency(&mut grid, &bucket, folder.path()).await;
}

async fn rounds(grid: &Grid, bucket: &BucketName, folder: &Path, source: &Path) {
    let mut figures: [Vec<f64>; 9] = Default::default();
    for round in 0..ROUNDS {
        let (disk_write, disk_read) = disk(&folder.join("disk"));
        let tcp = tcp();
        let key = format!("round{round}");
        let put = GIB as f64 / put(grid.client(), bucket, &key, source).await;
        let get_file = GIB as f64 / get(grid.client(), bucket, &key, &folder.join("back")).await;
        assert!(same(source, &folder.join("back")), "what came back differs");
        std::fs::remove_file(folder.join("back")).unwrap();
        let get_stream = GIB as f64 / download(grid.client(), bucket, &key).await;
        let ratios = [put / disk_write, get_stream / disk_read, put / tcp];
        let values = [disk_write, disk_read, tcp, put, get_file, get_stream];
        for (figure, value) in figures.iter_mut().zip(values.into_iter().chain(ratios)) {
            figure.push(value);
        }
    }
    let names = ["disk write", "disk read", "plain TCP", "put", "get to a file", "get, streamed"];
    for (name, figure) in names.iter().zip(&mut figures) {
        let (low, median, high) = spread(figure);
        println!("{name:<24} {:.2} GB/s ({:.2} to {:.2})", median / 1e9, low / 1e9, high / 1e9);
    }
    for (name, figure) in ["put / disk write", "get / disk read", "put / plain TCP"].iter().zip(&mut figures[6..]) {
        let (low, median, high) = spread(figure);
        println!("{name:<24} {median:.2} ({low:.2} to {high:.2})");
    }
}

async fn memory(grid: &Grid, bucket: &BucketName, folder: &Path) {
    let source = folder.join("big");
    noise(&source, 4 * GIB);
    let put_seconds = put(grid.client(), bucket, "big", &source).await;
    std::fs::remove_file(&source).unwrap();
    let get_seconds = download(grid.client(), bucket, "big").await;
    let mib = |bytes: Option<u64>| bytes.map_or_else(|| "unknown".into(), |bytes| format!("{} MiB", bytes >> 20));
    println!("4 GiB: put {put_seconds:.2} s, get {get_seconds:.2} s");
    println!("memory at its highest: home {}", mib(grid.home.peak_memory_bytes()));
    let nodes = grid.nodes.iter().filter_map(atoll_grid::NodeProcess::peak_memory_bytes);
    println!("memory at its highest: a storage node {}", mib(nodes.max()));
}

/// What one stopped node adds to a read, first and later, and that a write goes to a spare.
async fn latency(grid: &mut Grid, bucket: &BucketName, folder: &Path) {
    let spare = grid.start_empty_node().await.unwrap();
    grid.nodes.push(spare);
    let source = folder.join("small");
    noise(&source, 8 << 20);
    let mut writes: Vec<f64> = Vec::new();
    for _ in 0..20 {
        writes.push(put(grid.client(), bucket, "small", &source).await);
    }
    let (_, usual_write, worst_write) = spread(&mut writes);
    println!("8 MiB write: healthy {:.1} ms (worst {:.1})", usual_write * 1e3, worst_write * 1e3);
    let mut healthy: Vec<f64> = Vec::new();
    for _ in 0..20 {
        healthy.push(download(grid.client(), bucket, "small").await);
    }
    let (_, usual, worst) = spread(&mut healthy);
    grid.nodes[0].pause().unwrap();
    let first = download(grid.client(), bucket, "small").await;
    let mut later: Vec<f64> = Vec::new();
    for _ in 0..20 {
        later.push(download(grid.client(), bucket, "small").await);
    }
    let (_, later, later_worst) = spread(&mut later);
    println!("8 MiB read: healthy {:.1} ms (worst {:.1})", usual * 1e3, worst * 1e3);
    println!(
        "8 MiB read, a node stopped: first {:.1} ms, then {:.1} ms (worst {:.1})",
        first * 1e3,
        later * 1e3,
        later_worst * 1e3
    );
    let mut writes: Vec<f64> = Vec::new();
    for round in 0..20 {
        writes.push(put(grid.client(), bucket, &format!("spare{round}"), &source).await);
    }
    let first = writes[0];
    let (_, usual, worst) = spread(&mut writes);
    println!(
        "8 MiB write, a node stopped, to the spare: first {:.1} ms, then {:.1} ms (worst {:.1})",
        first * 1e3,
        usual * 1e3,
        worst * 1e3
    );
    grid.nodes[0].resume().unwrap();
}

/// Random bytes.
fn noise(path: &Path, bytes: u64) {
    let mut file = File::create(path).unwrap();
    let mut random = blake3::Hasher::new().update(&bytes.to_le_bytes()).finalize_xof();
    let mut block = vec![0; BLOCK_BYTES];
    let mut left = bytes;
    while left > 0 {
        let length = left.min(BLOCK_BYTES as u64) as usize;
        random.fill(&mut block[..length]);
        file.write_all(&block[..length]).unwrap();
        left -= length as u64;
    }
    file.sync_all().unwrap();
}

/// Bytes a second that the disk takes and gives by itself, with random content (some disks are faster on zeros).
fn disk(path: &Path) -> (f64, f64) {
    let mut block = vec![0; BLOCK_BYTES + 4096];
    let skip = block.as_ptr().align_offset(4096);
    let block = &mut block[skip..skip + BLOCK_BYTES];
    blake3::Hasher::new().update(b"disk").finalize_xof().fill(block);
    let direct = rustix::fs::OFlags::DIRECT.bits().cast_signed();
    let file =
        OpenOptions::new().create(true).read(true).write(true).truncate(true).custom_flags(direct).open(path).unwrap();
    let began = Instant::now();
    for offset in (0..GIB).step_by(BLOCK_BYTES) {
        file.write_all_at(block, offset).unwrap();
    }
    file.sync_data().unwrap();
    let write = GIB as f64 / began.elapsed().as_secs_f64();
    let began = Instant::now();
    // As many reads at once as the grid has nodes.
    std::thread::scope(|scope| {
        for part in 0..6u64 {
            let file = &file;
            scope.spawn(move || {
                let mut block = vec![0; BLOCK_BYTES + 4096];
                let skip = block.as_ptr().align_offset(4096);
                let blocks = GIB / BLOCK_BYTES as u64;
                for index in (part..blocks).step_by(6) {
                    file.read_exact_at(&mut block[skip..skip + BLOCK_BYTES], index * BLOCK_BYTES as u64).unwrap();
                }
            });
        }
    });
    let read = GIB as f64 / began.elapsed().as_secs_f64();
    drop(file);
    std::fs::remove_file(path).unwrap();
    (write, read)
}

/// Bytes a second over one plain TCP connection on loopback, in writes of a shard's size: what the machine's processors can move at most, and
/// a put moves one and a half bytes for each.
fn tcp() -> f64 {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let reader = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut buffer = vec![0; 1 << 20];
        while stream.read(&mut buffer).unwrap() > 0 {}
    });
    let mut stream = std::net::TcpStream::connect(address).unwrap();
    let block = vec![0; 256 << 10];
    let began = Instant::now();
    for _ in 0..GIB / block.len() as u64 {
        stream.write_all(&block).unwrap();
    }
    drop(stream);
    reader.join().unwrap();
    GIB as f64 / began.elapsed().as_secs_f64()
}

async fn put(client: &Client, bucket: &BucketName, key: &str, source: &Path) -> f64 {
    let metadata = source.metadata().unwrap();
    let request = PutRequest {
        sources: vec![Source {
            path: source.to_path_buf(),
            device: metadata.dev(),
            inode: metadata.ino(),
            contents_only: false,
        }],
        bucket: bucket.clone(),
        key: key.to_owned(),
        force: true,
    };
    seconds(client.put(&request).await.unwrap().finish(|_| {}).await.unwrap())
}

async fn get(client: &Client, bucket: &BucketName, key: &str, destination: &Path) -> f64 {
    let request =
        GetRequest { bucket: bucket.clone(), key: key.to_owned(), destination: destination.to_path_buf(), force: true };
    seconds(client.get(&request).await.unwrap().finish(|_| {}).await.unwrap())
}

fn seconds(summary: Summary) -> f64 {
    match summary {
        Summary::Transfer(summary) => summary.seconds,
        Summary::Heal(summary) => summary.seconds,
        other => panic!("neither a transfer nor a healing: {other:?}"),
    }
}

async fn download(client: &Client, bucket: &BucketName, key: &str) -> f64 {
    let began = Instant::now();
    let mut body = client.download(bucket, key).await.unwrap();
    let within =
        tokio::time::timeout(Duration::from_secs(120), async { while body.next().await.unwrap().is_some() {} });
    within.await.unwrap();
    began.elapsed().as_secs_f64()
}

fn same(one: &Path, other: &Path) -> bool {
    let hash = |path: &Path| {
        let mut hasher = blake3::Hasher::new();
        std::io::copy(&mut File::open(path).unwrap(), &mut hasher).unwrap();
        hasher.finalize()
    };
    hash(one) == hash(other)
}

fn spread(figures: &mut [f64]) -> (f64, f64, f64) {
    figures.sort_by(f64::total_cmp);
    (figures[0], figures[figures.len() / 2], figures[figures.len() - 1])
}
