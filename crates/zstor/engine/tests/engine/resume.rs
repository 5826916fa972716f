//! Uploads that break off: continued where they can be, tidied away where not, whatever moment it happens at.

use std::fs::File;
use std::io::{Seek, SeekFrom, Write};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use atoll_engine::{Engine, Progress, PutError, PutOptions, Source};
use bytes::Bytes;
use tokio::sync::Notify;

use crate::grid::{Grid, MIB, content, eventually, read};

fn file(path: &Path) -> Source {
    let file = File::open(path).unwrap();
    let len = file.metadata().unwrap().len();
    Source::File(file, len)
}

/// Stores a file and drops the upload when so many bytes are stored.
async fn interrupt(grid: &Grid, engine: &Engine, path: &Path, at: u64) {
    let reached = Arc::new(Notify::new());
    let tell = reached.clone();
    let progress = move |progress: Progress| {
        if progress.bytes >= at {
            tell.notify_one();
        }
    };
    let options = PutOptions { progress: Some(Arc::new(progress)), ..PutOptions::default() };
    tokio::select! {
        biased;
        () = reached.notified() => {}
        done = engine.put(&grid.bucket, "big", file(path), options) => panic!("was to be interrupted: {done:?}"),
    }
}

/// Stores a file; how much of it an earlier attempt had stored.
async fn finish(grid: &Grid, engine: &Engine, path: &Path, restart: bool) -> u64 {
    let resumed = Arc::new(AtomicU64::new(0));
    let seen = resumed.clone();
    let progress = move |progress: Progress| seen.store(progress.resumed, Ordering::SeqCst);
    let options = PutOptions { progress: Some(Arc::new(progress)), restart, ..PutOptions::default() };
    let info = engine.put(&grid.bucket, "big", file(path), options).await.unwrap();
    assert_eq!(info.content, blake3::hash(&std::fs::read(path).unwrap()));
    resumed.load(Ordering::SeqCst)
}

const SIZE: usize = 150 * MIB + 5;
const SHARDS: usize = 151 * 3;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_is_continued_after_a_crash() {
    let grid = Grid::new(3);
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("big");
    let bytes = content(1, SIZE);
    std::fs::write(&path, &bytes).unwrap();
    let engine = grid.start("2+1").await;
    interrupt(&grid, &engine, &path, 130 << 20).await;
    drop(engine);

    let engine = grid.open().await;
    let uploads = engine.uploads().await.unwrap();
    assert_eq!(uploads.len(), 1);
    assert!(!uploads[0].active && uploads[0].durable >= 64 << 20, "{uploads:?}");
    let durable = uploads[0].durable;
    assert_eq!(finish(&grid, &engine, &path, false).await, durable);
    grid.check(&engine, "big", &bytes).await;
    grid.settle(&engine).await;
    assert_eq!(grid.shards(), SHARDS, "nothing of the first attempt is left over");
    assert!(engine.uploads().await.unwrap().is_empty());

    engine.remove(&grid.bucket, "big").await.unwrap();
    grid.settle(&engine).await;
    assert_eq!(grid.shards(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_changed_file_is_not_continued() {
    let grid = Grid::new(3);
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("big");
    std::fs::write(&path, content(1, SIZE)).unwrap();
    let engine = grid.start("2+1").await;
    interrupt(&grid, &engine, &path, 130 << 20).await;
    // Changed without a trace in its time of change: only the hash tells.
    let modified = std::fs::metadata(&path).unwrap().modified().unwrap();
    let mut writer = File::options().write(true).open(&path).unwrap();
    writer.seek(SeekFrom::Start(5)).unwrap();
    writer.write_all(b"changed").unwrap();
    writer.set_modified(modified).unwrap();
    drop(writer);
    assert_eq!(finish(&grid, &engine, &path, false).await, 0);
    grid.check(&engine, "big", &std::fs::read(&path).unwrap().into()).await;
    grid.settle(&engine).await;
    assert_eq!(grid.shards(), SHARDS);

    interrupt(&grid, &engine, &path, 66 << 20).await;
    let upload = engine.uploads().await.unwrap().remove(0);
    assert!(engine.abort_upload(upload.id).await.unwrap());
    assert!(!engine.abort_upload(upload.id).await.unwrap());
    grid.settle(&engine).await;
    assert_eq!(grid.shards(), SHARDS, "an aborted upload leaves nothing");
    interrupt(&grid, &engine, &path, 66 << 20).await;
    assert_eq!(finish(&grid, &engine, &path, true).await, 0, "asked to begin anew");
    grid.settle(&engine).await;
    assert_eq!(grid.shards(), SHARDS);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_that_breaks_leaves_nothing() {
    /// Gives some bytes and then an error, or nothing more for ever.
    struct Breaks(usize, bool);
    impl tokio::io::AsyncRead for Breaks {
        fn poll_read(
            mut self: std::pin::Pin<&mut Self>,
            _: &mut std::task::Context<'_>,
            buffer: &mut tokio::io::ReadBuf<'_>,
        ) -> std::task::Poll<std::io::Result<()>> {
            let len = buffer.remaining().min(self.0);
            if len == 0 {
                return if self.1 {
                    std::task::Poll::Ready(Err(std::io::Error::other("torn")))
                } else {
                    std::task::Poll::Pending
                };
            }
            buffer.put_slice(&vec![7; len]);
            self.0 -= len;
            std::task::Poll::Ready(Ok(()))
        }
    }
    let grid = Grid::new(3);
    let engine = grid.start("2+1").await;
    for len in [0, 100, 5 * MIB, 70 * MIB] {
        let source = Source::Stream(Box::pin(Breaks(len, true)), None);
        let error = engine.put(&grid.bucket, "a", source, PutOptions::default()).await.unwrap_err();
        assert!(matches!(error, PutError::Source { .. }), "{len}: {error}");
    }
    {
        let source = Source::Stream(Box::pin(Breaks(70 * MIB, false)), None);
        let upload = engine.put(&grid.bucket, "a", source, PutOptions::default());
        let mut upload = Box::pin(upload);
        eventually("much is stored", async || {
            tokio::select! {
                _ = &mut upload => panic!("it has no end"),
                () = tokio::time::sleep(std::time::Duration::from_millis(1)) => {}
            }
            grid.shards() >= 60 * 3
        })
        .await;
    }
    eventually("what was stored is gone", async || {
        engine.collect_garbage().await.unwrap();
        grid.shards() == 0 && grid.kv.keys("u/").is_empty()
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_given_up_cannot_be_published_any_more() {
    for len in [100, 3 * MIB] {
        let grid = Arc::new(Grid::new(3));
        let engine = grid.start("2+1").await;
        *grid.kv.held.lock().unwrap() = Some(Vec::new());
        let put = tokio::spawn({
            let (grid, engine) = (grid.clone(), engine.clone());
            async move {
                let stream = Source::Stream(Box::pin(std::io::Cursor::new(content(1, len).to_vec())), None);
                engine.put(&grid.bucket, "a", stream, PutOptions::default()).await
            }
        });
        eventually("it is about to be published", async || {
            grid.kv.held.lock().unwrap().as_ref().is_some_and(|held| !held.is_empty())
        })
        .await;
        put.abort();
        assert!(put.await.unwrap_err().is_cancelled());
        eventually("its shards are gone", async || {
            engine.collect_garbage().await.unwrap();
            grid.shards() == 0
        })
        .await;
        // The commit that was under way comes late.
        for (conditions, mutations) in grid.kv.held.lock().unwrap().take().unwrap() {
            assert!(grid.kv.apply(conditions, mutations).unwrap_err().is_conflict(), "{len}");
        }
        assert!(read(&engine, &grid.bucket, "a").await.is_err());
    }
}

/// What the history below does, as a model: what may be under each key.
async fn history(grid: &Grid, engine: &Engine, path: &Path, done: &Mutex<usize>) -> Result<(), ()> {
    let step = |at: usize| *done.lock().unwrap() = at;
    let put = async |key: &str, bytes: Bytes| grid.put(engine, key, &bytes).await.map(|_| ()).map_err(|_| ());
    put("a", content(1, 100)).await?;
    step(1);
    put("a", content(2, 3 * MIB)).await?;
    step(2);
    put("b", content(3, 2000)).await?;
    step(3);
    engine.put(&grid.bucket, "big", file(path), PutOptions::default()).await.map_err(|_| ())?;
    step(4);
    engine.remove(&grid.bucket, "a").await.map_err(|_| ())?;
    step(5);
    put("b", content(4, 10)).await?;
    step(6);
    engine.collect_garbage().await.map_err(|_| ())?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_crash_at_any_commit_loses_and_leaks_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("big");
    let big = content(9, 66 * MIB);
    std::fs::write(&path, &big).unwrap();
    for commits in 1.. {
        let grid = Grid::new(3);
        let engine = grid.start("2+1").await;
        let done = Mutex::new(0);
        grid.kv.commits_left.store(commits, Ordering::SeqCst);
        let whole = history(&grid, &engine, &path, &done).await.is_ok();
        drop(engine);
        grid.kv.commits_left.store(0, Ordering::SeqCst);

        let engine = grid.open().await;
        let done = done.into_inner().unwrap();
        let a = |at: usize| match at {
            0 | 5.. => None,
            1 => Some(content(1, 100)),
            2..5 => Some(content(2, 3 * MIB)),
        };
        let b = |at: usize| match at {
            0..3 => None,
            3..6 => Some(content(3, 2000)),
            6.. => Some(content(4, 10)),
        };
        let large = |at: usize| (at >= 4).then(|| big.clone());
        for (key, model) in [("a", &a as &dyn Fn(usize) -> Option<Bytes>), ("b", &b), ("big", &large)] {
            let found = read(&engine, &grid.bucket, key).await.ok().map(|content| content.unwrap());
            assert!(found == model(done) || found == model(done + 1), "{key} after {commits} commits, {done} steps");
        }
        for upload in engine.uploads().await.unwrap() {
            engine.abort_upload(upload.id).await.unwrap();
        }
        grid.settle(&engine).await;
        let mut expect = 0;
        for object in engine.list(&grid.bucket, &Default::default()).await.unwrap().objects {
            expect += usize::try_from(object.stripes).unwrap() * 3;
        }
        assert_eq!(grid.shards(), expect, "after {commits} commits, {done} steps");
        if whole {
            assert!(commits > 10, "the history has more commits than that");
            break;
        }
    }
}
