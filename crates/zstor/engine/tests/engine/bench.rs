//! Not a benchmark of record: prints what the pipeline does in memory when asked to, and otherwise only that it ends.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use atoll_engine::{Engine, HomeInfo, Homes, PutOptions, Source};
use atoll_ids::{Domain, NodeId, ShardId};
use atoll_shard::{Health, HomeError, HomeStat, PutOutcome, ShardEntry, ShardHome};
use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;

use crate::grid::{Grid, MIB, content, id};

/// A home that costs next to nothing: it keeps what it is given, or with the flag set only says so.
struct FreeHome(NodeId, Mutex<HashMap<ShardId, Bytes>>, Arc<AtomicBool>);

impl ShardHome for FreeHome {
    fn node(&self) -> NodeId {
        self.0
    }

    fn put(&self, id: ShardId, data: Bytes) -> BoxFuture<'_, Result<PutOutcome, HomeError>> {
        if !self.2.load(Ordering::Relaxed) {
            // A copy: otherwise the buffers never return to their pool.
            self.1.lock().unwrap().insert(id, Bytes::copy_from_slice(&data));
        }
        async { Ok(PutOutcome::Stored) }.boxed()
    }

    fn get(&self, id: ShardId) -> BoxFuture<'_, Result<Bytes, HomeError>> {
        let found = self.1.lock().unwrap().get(&id).cloned();
        async move { found.ok_or(HomeError::NotFound { node: self.0, id }) }.boxed()
    }

    fn delete(&self, id: ShardId) -> BoxFuture<'_, Result<(), HomeError>> {
        self.1.lock().unwrap().remove(&id);
        async { Ok(()) }.boxed()
    }

    fn list(&self, _: Option<ShardId>, _: usize) -> BoxFuture<'_, Result<Vec<ShardEntry>, HomeError>> {
        async { Ok(Vec::new()) }.boxed()
    }

    fn stat(&self) -> BoxFuture<'_, Result<HomeStat, HomeError>> {
        let (used, free) = (atoll_ids::ByteCount(0), atoll_ids::ByteCount(u64::MAX));
        async move { Ok(HomeStat { shards: 0, used, quota: None, free }) }.boxed()
    }

    fn verify(&self, _: ShardId) -> BoxFuture<'_, Result<(), HomeError>> {
        async { Ok(()) }.boxed()
    }

    fn health(&self) -> Health {
        Health::default()
    }
}

struct FreeHomes(Vec<Arc<FreeHome>>);

impl Homes for FreeHomes {
    fn list(&self) -> Vec<HomeInfo> {
        let info = |home: &Arc<FreeHome>| HomeInfo { node: home.0, weight: 1, domain: Domain::default(), up: true };
        self.0.iter().map(info).collect()
    }

    fn home(&self, node: NodeId) -> Option<Arc<dyn ShardHome>> {
        self.0.iter().find(|home| home.0 == node).map(|home| home.clone() as Arc<dyn ShardHome>)
    }
}

/// Seconds of processor time this process has used: what counts when others use the machine as well.
fn cpu() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
    (fields[11].parse::<f64>().unwrap() + fields[12].parse::<f64>().unwrap()) / 100.0
}

/// `cargo test --release -p atoll-engine rates -- --nocapture --ignored` shows rates without network and disk.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "measures; run by hand in release mode"]
async fn rates_in_memory() {
    let grid = Grid::new(0);
    let discard = Arc::new(AtomicBool::new(true));
    let homes = Arc::new(FreeHomes(
        (0..6).map(|number| Arc::new(FreeHome(id(number), Mutex::default(), discard.clone()))).collect(),
    ));
    let config = atoll_engine::EngineConfig::default();
    let engine = Engine::open(config, grid.kv.clone(), grid.owner.clone(), homes).await.unwrap();
    engine.create_bucket(&grid.bucket, "4+2".parse::<atoll_codec::Policy>().unwrap()).await.unwrap();
    let len = 1024 * MIB;
    let bytes = content(1, len);
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), &bytes).unwrap();
    let rate = |time: std::time::Duration| len as f64 / 1e9 / time.as_secs_f64();
    for round in 0..3 {
        let (begun, used) = (Instant::now(), cpu());
        let source = Source::File(file.reopen().unwrap(), len as u64);
        engine.put(&grid.bucket, "big", source, PutOptions::default()).await.unwrap();
        let (put, put_cpu) = (begun.elapsed(), cpu() - used);
        discard.store(false, Ordering::Relaxed);
        grid.put(&engine, "big", &bytes).await.unwrap();
        discard.store(true, Ordering::Relaxed);
        let (begun, used) = (Instant::now(), cpu());
        let mut reader = engine.get(&grid.bucket, "big", None).await.unwrap();
        let mut got = 0;
        while let Some(next) = reader.next().await {
            got += next.unwrap().len();
        }
        assert_eq!(got, len);
        let (get, get_cpu) = (begun.elapsed(), cpu() - used);
        eprintln!(
            "round {round}: put {:.2} GB/s ({put_cpu:.2} s), get {:.2} GB/s ({get_cpu:.2} s)",
            rate(put),
            rate(get)
        );
        grid.settle(&engine).await;
    }
    let (begun, used) = (Instant::now(), cpu());
    let put = async |from: usize| {
        for at in (from..20_000).step_by(64) {
            grid.put(&engine, &format!("f{at}"), &bytes.slice(at..at + 4000)).await.unwrap();
        }
    };
    futures_util::future::join_all((0..64).map(put)).await;
    let rate = 20_000.0 / begun.elapsed().as_secs_f64();
    eprintln!("20,000 files of 4 kB: {rate:.0} per second ({:.2} s)", cpu() - used);
}
