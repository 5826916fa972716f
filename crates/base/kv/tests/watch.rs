//! Watching the embedded store: no gap, no repetition, no reordering, and the past is shown as it was or not at all.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::{collections::BTreeMap, sync::Arc};

use atoll_kv::{Bytes, Change, Embedded, EmbeddedConfig, KeyValue, Mutation, Revision, Scan, Watch, WatchError};
use futures_util::{StreamExt, future::join_all};
use proptest::{collection::vec, prelude::*};

fn open(dir: &tempfile::TempDir, history_bytes_max: usize) -> Embedded {
    let config = EmbeddedConfig { free_bytes_min: 0, history_bytes_max, ..EmbeddedConfig::default() };
    Embedded::open(dir.path().join("kv"), config).unwrap()
}

fn put(key: &str, value: &str) -> Mutation {
    Mutation::Put { key: Bytes::copy_from_slice(key.as_bytes()), value: Bytes::copy_from_slice(value.as_bytes()) }
}

/// Reads changes until everything up to `until` was delivered.
async fn collect(store: &Embedded, prefix: &'static str, after: Revision, until: Revision) -> Vec<Change> {
    let mut stream = store.watch(prefix.into(), after).unwrap();
    let (mut changes, mut at) = (Vec::new(), after);
    while at < until {
        let batch = stream.next().await.unwrap().unwrap();
        assert!(batch.revision > at, "batches move on");
        at = batch.revision;
        changes.extend(batch.changes);
    }
    changes
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn concurrent_writers_leave_no_gap() {
    const WRITERS: u64 = 8;
    const COMMITS: u64 = 40;
    let dir = tempfile::tempdir().unwrap();
    let store = Arc::new(open(&dir, 1 << 20));
    let watcher = tokio::spawn({
        let store = Arc::clone(&store);
        async move { collect(&store, "a/", 0, WRITERS * COMMITS).await }
    });
    join_all((0..WRITERS).map(|writer| {
        let store = Arc::clone(&store);
        async move {
            for number in 0..COMMITS {
                let prefix = if number % 2 == 0 { "a" } else { "b" };
                let key = format!("{prefix}/{writer}");
                store.commit(vec![], vec![put(&key, &number.to_string())]).await.unwrap();
            }
        }
    }))
    .await;
    let changes = watcher.await.unwrap();
    assert_eq!(changes.len() as u64, WRITERS * COMMITS / 2);
    assert!(changes.windows(2).all(|pair| pair[0].revision < pair[1].revision));
    let mut state = BTreeMap::new();
    for change in changes {
        let old = state.insert(change.key.clone(), change.new.clone().unwrap());
        assert_eq!(change.old.map(|old| old.value), old, "old is what the change before wrote");
    }
}

#[tokio::test]
async fn what_is_gone_is_said_to_be_gone() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(&dir, 2000);
    let mut slow = store.watch("".into(), 0).unwrap();
    for number in 0..20 {
        store.commit(vec![], vec![put("key", &number.to_string())]).await.unwrap();
    }
    assert!(matches!(slow.next().await, Some(Err(WatchError::Compacted { after: 0, .. }))));
    assert!(slow.next().await.is_none(), "an error ends the stream");
    assert!(matches!(store.watch("".into(), 0), Err(WatchError::Compacted { .. })));
    assert!(matches!(store.scan_at(Scan::new("", 1), Some(1)).await, Err(WatchError::Compacted { .. })));
    assert!(matches!(store.scan_at(Scan::new("", 1), Some(21)).await, Err(WatchError::Future { asked: 21, last: 20 })));
    drop(store);
    let store = open(&dir, 2000);
    assert!(matches!(store.watch("".into(), 19), Err(WatchError::Compacted { after: 19, oldest: 20 })));
    let mut stream = store.watch("".into(), 20).unwrap();
    drop(store);
    assert_eq!(stream.next().await, Some(Err(WatchError::Closed)));
}

#[tokio::test]
async fn without_a_history_watching_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(&dir, 0);
    assert_eq!(store.watch("".into(), 0).err(), Some(WatchError::Off));
    store.commit(vec![], vec![put("a", "1")]).await.unwrap();
    assert_eq!(store.scan_at(Scan::new("", 9), None).await.unwrap().revision, 1);
    assert_eq!(store.scan_at(Scan::new("", 9), Some(0)).await, Err(WatchError::Off));
}

async fn past(commits: Vec<Vec<(u8, Option<u8>)>>, limit: usize) -> Result<(), TestCaseError> {
    let dir = tempfile::tempdir().unwrap();
    let store = open(&dir, 1 << 20);
    let mut states = vec![BTreeMap::new()];
    for commit in &commits {
        let mutations = commit.iter().map(|(key, value)| match value {
            Some(value) => put(&key.to_string(), &value.to_string()),
            None => Mutation::Delete { key: key.to_string().into() },
        });
        store.commit(vec![], mutations.collect()).await.unwrap();
        let mut state = states.last().unwrap().clone();
        for (key, value) in commit {
            match value {
                Some(value) => state.insert(key.to_string(), value.to_string()),
                None => state.remove(&key.to_string()),
            };
        }
        states.push(state);
    }
    for (revision, state) in states.iter().enumerate() {
        let page = store.scan_at(Scan::new("", limit), Some(revision as u64)).await.unwrap();
        let found: Vec<_> = page.entries.iter().map(|entry| (entry.key.to_vec(), entry.value.to_vec())).collect();
        let expected =
            state.iter().take(limit).map(|(key, value)| (key.clone().into_bytes(), value.clone().into_bytes()));
        prop_assert_eq!(found, expected.collect::<Vec<_>>());
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 16, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_past_is_shown_as_it_was(
        commits in vec(vec((0..6_u8, prop::option::of(any::<u8>())), 1..4), 0..20),
        limit in 1..8_usize,
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(past(commits, limit))?;
    }
}
