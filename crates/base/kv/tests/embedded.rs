//! The embedded store against its contract: conditions, scans, limits, reopening, and what it says when it must refuse.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::{collections::BTreeSet, fs, sync::Arc};

use atoll_kv::{
    Bytes, COMMIT_BYTES_MAX, Condition, Embedded, EmbeddedConfig, KEY_BYTES_MAX, KeyValue, KvError, Mutation,
    OpenError, Revision, SCAN_ENTRIES_MAX, Scan, VALUE_BYTES_MAX,
};
use tempfile::TempDir;

struct Fixture {
    store: Embedded,
    dir: TempDir,
}

/// No minimum of free space: the tests must pass on a nearly full disk.
fn config() -> EmbeddedConfig {
    EmbeddedConfig { free_bytes_min: 0, ..EmbeddedConfig::default() }
}

fn open() -> Fixture {
    let dir = tempfile::tempdir().unwrap();
    Fixture { store: Embedded::open(dir.path().join("kv"), config()).unwrap(), dir }
}

impl Fixture {
    fn reopen(self) -> Self {
        let Self { store, dir } = self;
        drop(store);
        Self { store: Embedded::open(dir.path().join("kv"), config()).unwrap(), dir }
    }
}

fn bytes(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}

fn put(key: &str, value: &str) -> Mutation {
    Mutation::Put { key: bytes(key), value: bytes(value) }
}

fn delete(key: &str) -> Mutation {
    Mutation::Delete { key: bytes(key) }
}

fn at(key: &str, revision: Revision) -> Condition {
    Condition::Revision { key: bytes(key), revision }
}

fn absent(key: &str) -> Condition {
    Condition::Absent { key: bytes(key) }
}

fn present(key: &str) -> Condition {
    Condition::Present { key: bytes(key) }
}

async fn keys(store: &Embedded, scan: Scan) -> Vec<String> {
    let entries = store.scan(scan).await.unwrap();
    entries.into_iter().map(|entry| String::from_utf8(entry.key.to_vec()).unwrap()).collect()
}

#[tokio::test]
async fn values_carry_the_revision_that_wrote_them() {
    let Fixture { store, dir: _dir } = open();
    assert_eq!(store.revision(), 0);
    assert_eq!(store.get(b"a").await.unwrap(), None);
    assert_eq!(store.commit(vec![], vec![put("a", "1"), put("b", "1")]).await.unwrap(), 1);
    assert_eq!(store.commit(vec![], vec![put("a", "2")]).await.unwrap(), 2);
    let a = store.get(b"a").await.unwrap().unwrap();
    assert_eq!((&a.value[..], a.revision), (&b"2"[..], 2));
    assert_eq!(store.get(b"b").await.unwrap().unwrap().revision, 1);
    assert_eq!(store.commit(vec![], vec![delete("a")]).await.unwrap(), 3);
    assert_eq!(store.get(b"a").await.unwrap(), None);
    assert_eq!(store.revision(), 3);
}

#[tokio::test]
async fn a_commit_happens_only_if_all_conditions_hold() {
    let Fixture { store, dir: _dir } = open();
    store.commit(vec![], vec![put("there", "x")]).await.unwrap();
    store.commit(vec![], vec![put("other", "x")]).await.unwrap();
    let cases = [
        (vec![at("there", 1)], None),
        (vec![at("there", 2)], Some("there")),
        (vec![at("missing", 0)], Some("missing")),
        (vec![present("there"), present("other")], None),
        (vec![present("missing")], Some("missing")),
        (vec![absent("missing")], None),
        (vec![absent("there")], Some("there")),
        (vec![at("there", 1), absent("other")], Some("other")),
    ];
    for (conditions, conflict) in cases {
        let before = store.revision();
        let outcome = store.commit(conditions.clone(), vec![put("touched", "y")]).await;
        match conflict {
            None => assert_eq!(outcome.unwrap(), before + 1, "{conditions:?}"),
            Some(key) => {
                assert_eq!(outcome.unwrap_err(), KvError::Conflict { key: bytes(key) }, "{conditions:?}");
                assert_eq!(store.revision(), before, "{conditions:?}: a refused commit counts for nothing");
            }
        }
    }
}

#[tokio::test]
async fn a_commit_without_mutations_only_checks() {
    let Fixture { store, dir: _dir } = open();
    store.commit(vec![], vec![put("a", "1")]).await.unwrap();
    assert_eq!(store.commit(vec![present("a")], vec![]).await.unwrap(), 1);
    assert!(store.commit(vec![absent("a")], vec![]).await.unwrap_err().is_conflict());
    assert_eq!(store.revision(), 1);
}

#[tokio::test]
async fn the_last_mutation_of_a_key_stays() {
    let fixture = open();
    let mutations = vec![put("a", "1"), delete("a"), put("a", "2"), put("b", "1"), delete("b"), delete("never")];
    assert_eq!(fixture.store.commit(vec![], mutations).await.unwrap(), 1);
    let fixture = fixture.reopen();
    assert_eq!(&fixture.store.get(b"a").await.unwrap().unwrap().value[..], b"2");
    assert_eq!(keys(&fixture.store, Scan::new("", 10)).await, ["a"]);
}

#[tokio::test]
async fn scans_are_ordered_and_continue() {
    let Fixture { store, dir: _dir } = open();
    let names = ["b/2", "a", "b/10", "c", "b", "b/1", "b\u{7f}"];
    store.commit(vec![], names.iter().map(|name| put(name, "")).collect()).await.unwrap();
    let check =
        async |scan: Scan, expected: &[&str]| assert_eq!(keys(&store, scan.clone()).await, expected, "{scan:?}");
    check(Scan::new("", 100), &["a", "b", "b/1", "b/10", "b/2", "b\u{7f}", "c"]).await;
    check(Scan::new("b/", 100), &["b/1", "b/10", "b/2"]).await;
    check(Scan::new("b/", 2), &["b/1", "b/10"]).await;
    check(Scan::new("b/", 2).after("b/10"), &["b/2"]).await;
    check(Scan::new("b/", 2).after("b/11"), &["b/2"]).await;
    check(Scan::new("b/", 2).after("b/2"), &[]).await;
    check(Scan::new("b/", 2).after("a"), &["b/1", "b/10"]).await;
    check(Scan::new("b/", 2).after("z"), &[]).await;
    check(Scan::new("nothing", 2), &[]).await;
}

#[tokio::test]
async fn limits_are_named_and_the_largest_fits() {
    let fixture = open();
    let store = &fixture.store;
    let refused = async |mutations, what| match store.commit(vec![], mutations).await.unwrap_err() {
        KvError::Limit { what: found, .. } => assert!(found.contains(what), "{found}"),
        other => panic!("{other}"),
    };
    let big = |key: usize, value: usize| Mutation::Put { key: vec![b'k'; key].into(), value: vec![7; value].into() };
    refused(vec![put("", "x")], "key").await;
    refused(vec![big(KEY_BYTES_MAX + 1, 0)], "key").await;
    refused(vec![big(1, VALUE_BYTES_MAX + 1)], "value").await;
    refused(vec![big(1, COMMIT_BYTES_MAX / 2), big(2, COMMIT_BYTES_MAX / 2)], "commit").await;
    assert!(matches!(store.get(b"").await, Err(KvError::Limit { .. })));
    for limit in [0, SCAN_ENTRIES_MAX + 1] {
        assert!(matches!(store.scan(Scan::new("", limit)).await, Err(KvError::Limit { .. })));
    }
    assert_eq!(store.revision(), 0);
    // Enough of the largest to go through flushes of the write buffer.
    for _ in 0..4 {
        store.commit(vec![], vec![big(KEY_BYTES_MAX, VALUE_BYTES_MAX)]).await.unwrap();
    }
    let fixture = fixture.reopen();
    let found = fixture.store.get(&[b'k'; KEY_BYTES_MAX]).await.unwrap().unwrap();
    assert_eq!((found.value.len(), found.revision), (VALUE_BYTES_MAX, 4));
    assert!(found.value.iter().all(|byte| *byte == 7));
}

#[tokio::test]
async fn reopening_keeps_entries_and_revisions() {
    let mut fixture = open();
    for round in 1..=3 {
        let revision = fixture.store.commit(vec![], vec![put(&format!("round/{round}"), "x")]).await.unwrap();
        assert_eq!(revision, round);
        fixture = fixture.reopen();
        assert_eq!(fixture.store.revision(), round);
    }
    let entries = fixture.store.scan(Scan::new("round/", 10)).await.unwrap();
    assert_eq!(entries.iter().map(|entry| entry.revision).collect::<Vec<_>>(), [1, 2, 3]);
    // The newest key is deleted: the revision must not fall back to the newest that is left.
    fixture.store.commit(vec![], vec![delete("round/3")]).await.unwrap();
    assert_eq!(fixture.reopen().store.revision(), 4);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_concurrent_claims_exactly_one_wins() {
    let Fixture { store, dir: _dir } = open();
    let store = Arc::new(store);
    let claims: Vec<_> = (0..32)
        .map(|claimant: u32| {
            let store = Arc::clone(&store);
            tokio::spawn(async move {
                store.commit(vec![absent("leader")], vec![put("leader", &claimant.to_string())]).await
            })
        })
        .collect();
    let mut won = Vec::new();
    for (claimant, claim) in claims.into_iter().enumerate() {
        match claim.await.unwrap() {
            Ok(revision) => won.push((claimant, revision)),
            Err(error) => assert!(error.is_conflict(), "{error}"),
        }
    }
    let [(winner, revision)] = won[..] else { panic!("{} claims won", won.len()) };
    let leader = store.get(b"leader").await.unwrap().unwrap();
    assert_eq!((&leader.value[..], leader.revision), (winner.to_string().as_bytes(), revision));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn concurrent_counters_lose_no_increment() {
    const TASKS: u64 = 8;
    const INCREMENTS: u64 = 10;
    let Fixture { store, dir: _dir } = open();
    let store = Arc::new(store);
    store.commit(vec![], vec![put("counter", "0")]).await.unwrap();
    let tasks: Vec<_> = (0..TASKS)
        .map(|_| {
            let store = Arc::clone(&store);
            tokio::spawn(async move {
                for _ in 0..INCREMENTS {
                    increment(&store).await;
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    let total = store.get(b"counter").await.unwrap().unwrap().value;
    assert_eq!(&total[..], (TASKS * INCREMENTS).to_string().as_bytes());
}

/// Adds one to the counter, starting over for as long as someone else was faster.
async fn increment(store: &Embedded) {
    loop {
        let found = store.get(b"counter").await.unwrap().unwrap();
        let next = std::str::from_utf8(&found.value).unwrap().parse::<u64>().unwrap() + 1;
        match store.commit(vec![at("counter", found.revision)], vec![put("counter", &next.to_string())]).await {
            Ok(_) => return,
            Err(error) => assert!(error.is_conflict(), "{error}"),
        }
    }
}

#[tokio::test]
async fn commits_written_together_have_a_revision_each() {
    let Fixture { store, dir: _dir } = open();
    let name = |index: usize| format!("{index:03}");
    let commits = (0..200).map(|index| store.commit(vec![], vec![put(&name(index), "x")]));
    let revisions = futures_util::future::try_join_all(commits).await.unwrap();
    for (index, revision) in revisions.iter().enumerate() {
        assert_eq!(store.get(name(index).as_bytes()).await.unwrap().unwrap().revision, *revision);
    }
    assert_eq!(revisions.into_iter().collect::<BTreeSet<_>>(), (1..=200).collect());
}

#[tokio::test]
async fn a_full_disk_refuses_new_data_and_allows_deleting() {
    let Fixture { store, dir } = open();
    store.commit(vec![], vec![put("a", "1")]).await.unwrap();
    drop(store);
    let never_enough = EmbeddedConfig { free_bytes_min: u64::MAX, ..config() };
    let store = Embedded::open(dir.path().join("kv"), never_enough).unwrap();
    let error = store.commit(vec![], vec![put("b", "1")]).await.unwrap_err();
    assert!(matches!(error, KvError::DiskFull { .. }), "{error}");
    assert!(error.to_string().contains("disk full"), "{error}");
    assert_eq!(store.commit(vec![], vec![delete("a")]).await.unwrap(), 2);
}

#[test]
fn a_store_is_opened_once() {
    let Fixture { store, dir } = open();
    let error = Embedded::open(dir.path().join("kv"), config()).unwrap_err();
    assert!(matches!(error, OpenError::Locked { .. }), "{error}");
    drop(store);
    Embedded::open(dir.path().join("kv"), config()).unwrap();
}

#[test]
fn foreign_directories_are_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("thesis.txt");
    fs::write(&file, "years of work").unwrap();
    let error = Embedded::open(dir.path(), config()).unwrap_err();
    assert!(matches!(error, OpenError::Foreign { .. }), "{error}");
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    let error = Embedded::open(&file, config()).unwrap_err();
    assert!(matches!(error, OpenError::Io { .. }), "{error}");
    assert_eq!(fs::read(&file).unwrap(), b"years of work");
}

#[test]
fn an_interrupted_creation_is_started_over() {
    let dir = tempfile::tempdir().unwrap();
    let half = dir.path().join("kv.new");
    fs::create_dir_all(half.join("keyspaces")).unwrap();
    fs::write(half.join("0.jnl"), "half").unwrap();
    fs::write(half.join("lock"), "").unwrap();
    Embedded::open(dir.path().join("kv"), config()).unwrap();
    assert!(!half.exists());
}

#[test]
fn another_format_is_refused() {
    let Fixture { store, dir } = open();
    drop(store);
    fs::write(dir.path().join("kv/version"), b"not a version").unwrap();
    let error = Embedded::open(dir.path().join("kv"), config()).unwrap_err();
    assert!(matches!(error, OpenError::Version { .. }), "{error}");
}
