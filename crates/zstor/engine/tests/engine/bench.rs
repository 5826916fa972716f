//! Not a benchmark of record: prints what the pipeline does in memory when asked to, and otherwise only that it ends.

use std::time::Instant;

use crate::grid::{Grid, MIB, content};

/// `cargo test --release -p atoll-engine bench -- --nocapture --ignored` shows rates without network and disk.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "measures; run by hand in release mode"]
async fn rates_in_memory() {
    let grid = Grid::new(6);
    let engine = grid.start("4+2").await;
    let len = 1024 * MIB;
    let bytes = content(1, len);
    for round in 0..3 {
        let begun = Instant::now();
        grid.put(&engine, "big", &bytes).await.unwrap();
        let put = begun.elapsed();
        let begun = Instant::now();
        let mut reader = engine.get(&grid.bucket, "big", None).await.unwrap();
        let mut got = 0;
        while let Some(next) = reader.next().await {
            got += next.unwrap().len();
        }
        assert_eq!(got, len);
        let get = begun.elapsed();
        let rate = |time: std::time::Duration| len as f64 / 1e9 / time.as_secs_f64();
        eprintln!("round {round}: put {:.2} GB/s, get {:.2} GB/s", rate(put), rate(get));
        grid.settle(&engine).await;
    }
    let begun = Instant::now();
    let put = async |from: usize| {
        for at in (from..20_000).step_by(64) {
            grid.put(&engine, &format!("f{at}"), &bytes.slice(at..at + 4000)).await.unwrap();
        }
    };
    futures_util::future::join_all((0..64).map(put)).await;
    eprintln!("20,000 files of 4 kB: {:.0} per second", 20_000.0 / begun.elapsed().as_secs_f64());
}
