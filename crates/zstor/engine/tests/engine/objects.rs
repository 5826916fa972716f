//! What holds when nothing fails.

use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use atoll_codec::Policy;
use atoll_engine::{
    BucketError, Engine, GetError, Kind, ListQuery, MetaError, ObjectKind, ObjectMeta, PutError, PutOptions,
    RemoveError, Source,
};
use atoll_keys::OwnerKey;
use bytes::Bytes;

use crate::grid::{Grid, MIB, content, read};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_size_comes_back_from_every_source() {
    let grid = Grid::new(6);
    let engine = grid.start("4+2").await;
    let directory = tempfile::tempdir().unwrap();
    for (at, len) in [0, 1, 1000, MIB - 1, MIB, MIB + 1, 4 * MIB, 5 * MIB + 7, 66 * MIB + 1].into_iter().enumerate() {
        let bytes = content(at as u64, len);
        let path = directory.path().join(len.to_string());
        std::fs::write(&path, &bytes).unwrap();
        let stream: atoll_engine::ByteStream = Box::pin(std::io::Cursor::new(bytes.to_vec()));
        let sources = [
            ("bytes", Source::Bytes(bytes.clone())),
            ("file", Source::File(std::fs::File::open(&path).unwrap(), len as u64)),
            ("stream", Source::Stream(stream, None)),
        ];
        for (name, source) in sources {
            let key = format!("{name}/{len}");
            let info = engine.put(&grid.bucket, &key, source, PutOptions::default()).await.unwrap();
            assert_eq!((info.size, info.content), (len as u64, blake3::hash(&bytes)), "{key}");
            assert_eq!(info.stripes, len.div_ceil(MIB) as u64);
            grid.check(&engine, &key, &bytes).await;
            assert_eq!(engine.stat(&grid.bucket, &key).await.unwrap(), info);
        }
    }
    assert!(grid.kv.keys("u/").is_empty(), "no journal is left");
    engine.close().await.unwrap();
    assert!(grid.kv.keys("r/").is_empty(), "no reservation is left");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ranges_are_exact() {
    let grid = Grid::new(6);
    let engine = grid.start("4+2").await;
    let bytes = content(1, 3 * MIB + 100);
    grid.put(&engine, "a", &bytes).await.unwrap();
    let size = bytes.len() as u64;
    for (start, end) in
        [(0, 0), (0, 1), (5, MIB), (MIB - 1, MIB + 1), (MIB, 2 * MIB), (10, bytes.len()), (3 * MIB, bytes.len())]
    {
        let mut reader = engine.get(&grid.bucket, "a", Some(start as u64..end as u64)).await.unwrap();
        let mut got = Vec::new();
        while let Some(next) = reader.next().await {
            got.extend_from_slice(&next.unwrap());
        }
        assert!(got == bytes[start..end], "{start}..{end}");
    }
    let beyond = engine.get(&grid.bucket, "a", Some(size..size + 10)).await.unwrap();
    assert_eq!(beyond.range(), size..size);
    let outside = engine.get(&grid.bucket, "a", Some(size + 1..size + 2)).await;
    assert!(matches!(outside, Err(GetError::Range { .. })));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replaced_and_removed_objects_leave_nothing() {
    let grid = Grid::new(6);
    let engine = grid.start("4+2").await;
    for len in [10, 70 * MIB, 3 * MIB, 100] {
        grid.put(&engine, "a", &content(len as u64, len)).await.unwrap();
    }
    grid.check(&engine, "a", &content(100, 100)).await;
    grid.settle(&engine).await;
    assert_eq!(grid.shards(), 6, "only the last version is there");
    engine.remove(&grid.bucket, "a").await.unwrap();
    assert!(matches!(engine.remove(&grid.bucket, "a").await, Err(RemoveError::NotFound { .. })));
    grid.settle(&engine).await;
    assert_eq!(grid.shards(), 0);
    assert!(grid.kv.keys("p/").is_empty() && grid.kv.keys("o/").is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_keeps_its_version() {
    let grid = Grid::new(6);
    let engine = grid.start("4+2").await;
    let (old, new) = (content(1, 20 * MIB), content(2, 10));
    grid.put(&engine, "a", &old).await.unwrap();
    let mut reader = engine.get(&grid.bucket, "a", None).await.unwrap();
    let mut got = reader.next().await.unwrap().unwrap().to_vec();
    grid.put(&engine, "a", &new).await.unwrap();
    engine.collect_garbage().await.unwrap();
    while let Some(next) = reader.next().await {
        got.extend_from_slice(&next.unwrap());
    }
    assert!(got == old);
    drop(reader);
    grid.check(&engine, "a", &new).await;
    grid.settle(&engine).await;
    assert_eq!(grid.shards(), 6);
}

#[tokio::test]
async fn buckets_and_names() {
    let grid = Grid::new(3);
    let engine = grid.start("2+1").await;
    let policy: Policy = "2+1".parse().unwrap();
    let again = engine.create_bucket(&grid.bucket, policy).await;
    assert!(matches!(&again, Err(error @ BucketError::Exists { .. }) if error.kind() == Kind::Conflict));
    let other = "other".parse().unwrap();
    assert!(matches!(engine.bucket(&other).await, Err(BucketError::NoSuchBucket { .. })));
    assert!(matches!(engine.stat(&other, "a").await, Err(GetError::NoSuchBucket { .. })));
    assert!(matches!(engine.stat(&grid.bucket, "a").await, Err(GetError::NotFound { .. })));
    let put = engine.put(&other, "a", Source::Empty, PutOptions::default()).await;
    assert!(matches!(put, Err(PutError::NoSuchBucket { .. })));
    for key in ["", "a\0b", &"x".repeat(1025)] {
        let put = engine.put(&grid.bucket, key, Source::Empty, PutOptions::default()).await;
        assert!(matches!(put, Err(PutError::BadKey { .. })), "{key:?}");
    }
    grid.put(&engine, "a/b", &content(1, 10)).await.unwrap();
    let refused = engine.remove_bucket(&grid.bucket).await.unwrap_err();
    assert!(matches!(&refused, BucketError::NotEmpty { example, .. } if example == "a/b"));
    engine.remove(&grid.bucket, "a/b").await.unwrap();
    assert_eq!(engine.buckets().await.unwrap().len(), 1);
    engine.remove_bucket(&grid.bucket).await.unwrap();
    assert!(engine.buckets().await.unwrap().is_empty());
    assert!(matches!(engine.remove_bucket(&grid.bucket).await, Err(BucketError::NoSuchBucket { .. })));
}

#[tokio::test]
async fn links_and_directories_are_records_only() {
    let grid = Grid::new(3);
    let engine = grid.start("2+1").await;
    let modified = "2026-11-22T19:00:00.123456789Z".parse().unwrap();
    let meta = ObjectMeta {
        kind: ObjectKind::Symlink("../target".into()),
        mode: Some(0o777),
        modified: Some(modified),
        content_type: Some("text/plain".into()),
    };
    let options = PutOptions { meta: meta.clone(), ..PutOptions::default() };
    engine.put(&grid.bucket, "link", Source::Empty, options.clone()).await.unwrap();
    let info = engine.stat(&grid.bucket, "link").await.unwrap();
    assert_eq!((info.meta, info.size, info.content), (meta, 0, blake3::hash(b"")));
    assert_eq!(grid.shards(), 0);
    let refused = engine.put(&grid.bucket, "x", Source::Bytes(content(1, 1)), options).await;
    assert!(matches!(refused, Err(PutError::NotAFile { bytes: 1, .. })));
    assert!(!grid.kv.contains(b"../target"), "metadata is encrypted");
}

#[tokio::test]
async fn listing_in_pages_and_by_prefix() {
    let grid = Grid::new(3);
    let engine = grid.start("2+1").await;
    let keys = ["a", "a/1", "a/2", "a/b/3", "a0", "b/x/y", "b/z", "c", "é/1", "é/2"];
    for key in keys {
        engine.put(&grid.bucket, key, Source::Empty, PutOptions::default()).await.unwrap();
    }
    let check = async |prefix: &str, delimiter: Option<char>, expect: &[&str]| {
        for limit in [1, 2, 3, 0] {
            let mut query = ListQuery { prefix: prefix.into(), delimiter, after: None, limit };
            let mut all = Vec::new();
            loop {
                let page = engine.list(&grid.bucket, &query).await.unwrap();
                let entries = page.objects.len() + page.common_prefixes.len();
                assert!(limit == 0 || entries <= limit);
                all.extend(page.objects.into_iter().map(|object| object.key));
                all.extend(page.common_prefixes);
                query.after = page.next;
                if query.after.is_none() {
                    break;
                }
                assert!(entries > 0);
            }
            all.sort();
            assert_eq!(all, expect, "{prefix:?} {delimiter:?} {limit}");
        }
    };
    check("", None, &keys).await;
    check("a", None, &keys[..5]).await;
    check("", Some('/'), &["a", "a/", "a0", "b/", "c", "é/"]).await;
    check("a/", Some('/'), &["a/1", "a/2", "a/b/"]).await;
    check("b/", Some('/'), &["b/x/", "b/z"]).await;
    check("zzz", Some('/'), &[]).await;
    grid.put(&engine, "a/big", &content(1, 1000)).await.unwrap();
    let usage = engine.usage(&grid.bucket, "a/").await.unwrap();
    assert_eq!((usage.objects, usage.bytes, usage.stored), (4, 1000, 1500));
}

#[tokio::test]
async fn another_owner_and_altered_records_are_told_apart() {
    let grid = Grid::new(3);
    let engine = grid.start("2+1").await;
    grid.put(&engine, "a", &content(1, 10)).await.unwrap();
    drop(engine);
    let stranger =
        Grid { owner: Arc::new(OwnerKey::generate()), nodes: grid.nodes.clone(), kv: grid.kv.clone(), ..Grid::new(0) };
    let engine = stranger.open().await;
    let error = read(&engine, &grid.bucket, "a").await.unwrap_err();
    assert!(matches!(&error, GetError::WrongKey { stored_for, .. } if *stored_for == grid.owner.id()), "{error}");
    let error = grid.put(&engine, "b", &content(1, 10)).await.unwrap_err();
    assert!(matches!(error, PutError::Meta(MetaError::WrongKey { .. })), "{error}");
    drop(engine);

    let engine = grid.open().await;
    grid.check(&engine, "a", &content(1, 10)).await;
    grid.kv.alter("o/", |value| *value.last_mut().unwrap() ^= 1);
    let error = read(&engine, &grid.bucket, "a").await.unwrap_err();
    assert!(matches!(&error, GetError::Tampered { .. }) && error.kind() == Kind::Broken, "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn small_objects_cost_one_commit_each() {
    let grid = Grid::new(6);
    let engine = grid.start("4+2").await;
    let before = grid.kv.commits.load(Ordering::SeqCst);
    let put = async |from: usize| {
        for at in (from..320).step_by(16) {
            grid.put(&engine, &format!("f{at}"), &content(at as u64, 100 + at)).await.unwrap();
        }
    };
    futures_util::future::join_all((0..16).map(put)).await;
    let commits = grid.kv.commits.load(Ordering::SeqCst) - before;
    assert!(commits <= 320 + 3, "{commits} commits");
    for at in [0, 7, 319] {
        grid.check(&engine, &format!("f{at}"), &content(at as u64, 100 + at)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_the_real_store_across_a_restart() {
    let grid = Grid::new(6);
    let directory = tempfile::tempdir().unwrap();
    let open = async || {
        let config = atoll_kv::EmbeddedConfig { free_bytes_min: 0, ..Default::default() };
        let path = directory.path().join("kv");
        let kv =
            Arc::new(tokio::task::spawn_blocking(|| atoll_kv::Embedded::open(path, config)).await.unwrap().unwrap());
        Engine::open(grid.config.clone(), kv, grid.owner.clone(), grid.nodes.clone()).await.unwrap()
    };
    let engine = open().await;
    engine.create_bucket(&grid.bucket, "4+2".parse::<Policy>().unwrap()).await.unwrap();
    let (small, large) = (content(1, 1000), content(2, 70 * MIB));
    grid.put(&engine, "small", &small).await.unwrap();
    grid.put(&engine, "large", &large).await.unwrap();
    engine.close().await.unwrap();
    drop(engine);
    let engine = loop {
        // The collector of the first engine holds the store until it has noticed.
        let config = atoll_kv::EmbeddedConfig { free_bytes_min: 0, ..Default::default() };
        match atoll_kv::Embedded::open(directory.path().join("kv"), config) {
            Ok(kv) => {
                break Engine::open(grid.config.clone(), Arc::new(kv), grid.owner.clone(), grid.nodes.clone())
                    .await
                    .unwrap();
            }
            Err(atoll_kv::OpenError::Locked { .. }) => tokio::time::sleep(std::time::Duration::from_millis(5)).await,
            Err(error) => panic!("{error}"),
        }
    };
    grid.check(&engine, "small", &small).await;
    grid.check(&engine, "large", &large).await;
}

#[tokio::test]
async fn a_file_that_changes_under_the_upload_is_refused() {
    let grid = Grid::new(3);
    let engine = grid.start("2+1").await;
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(&content(1, 100)).unwrap();
    let short = Source::File(file.reopen().unwrap(), 200);
    let error = engine.put(&grid.bucket, "a", short, PutOptions::default()).await.unwrap_err();
    assert!(matches!(error, PutError::SourceChanged { .. }), "{error}");
    grid.settle(&engine).await;
    assert_eq!(grid.shards(), 0);
    let empty: Bytes = Bytes::new();
    grid.put(&engine, "empty", &empty).await.unwrap();
    grid.check(&engine, "empty", &empty).await;
}

/// A stream need not be `Sync`, and still every operation can be spawned.
#[tokio::test]
async fn operations_can_be_spawned() {
    fn check<T: Send>(future: T) -> T {
        future
    }
    struct NotSync(std::cell::Cell<u8>);
    impl tokio::io::AsyncRead for NotSync {
        fn poll_read(
            self: std::pin::Pin<&mut Self>,
            _: &mut std::task::Context<'_>,
            buffer: &mut tokio::io::ReadBuf<'_>,
        ) -> std::task::Poll<std::io::Result<()>> {
            if self.0.get() > 0 {
                self.0.set(self.0.get() - 1);
                buffer.put_slice(b"x");
            }
            std::task::Poll::Ready(Ok(()))
        }
    }
    let grid = Grid::new(3);
    let engine = grid.start("2+1").await;
    let source = Source::Stream(Box::pin(NotSync(3.into())), None);
    check(engine.put(&grid.bucket, "a", source, PutOptions::default())).await.unwrap();
    let mut reader = check(engine.get(&grid.bucket, "a", None)).await.unwrap();
    assert_eq!(check(reader.next()).await.unwrap().unwrap(), "xxx");
    check(engine.heal(Default::default())).await.unwrap();
    check(engine.collect_garbage()).await.unwrap();
    check(engine.list(&grid.bucket, &ListQuery::default())).await.unwrap();
    check(engine.remove(&grid.bucket, "a")).await.unwrap();
}
