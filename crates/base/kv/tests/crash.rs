//! Killed at random moments, the store has everything it acknowledged: this test runs itself as a child that commits in a loop and
//! reports each acknowledged revision, kills it with SIGKILL, opens the store and compares.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::{
    env,
    io::{BufRead as _, BufReader, Write as _},
    os::unix::process::ExitStatusExt as _,
    path::Path,
    process::{Command, Stdio},
    time::{SystemTime, UNIX_EPOCH},
};

use atoll_kv::{Bytes, Embedded, EmbeddedConfig, KeyValue, Mutation, Revision, Scan};
use proptest::{
    prelude::Rng as _,
    test_runner::{RngAlgorithm, TestRng},
};

/// Set for the child: the directory of its store.
const CHILD_DIR: &str = "ATOLL_KV_CRASH_DIR";

/// Repeats a run: the seed a failed one printed.
const SEED: &str = "ATOLL_TEST_SEED";

/// Kills per run, on one store that grows.
const ROUNDS: usize = 12;

/// Writers of the child; their commits share groups.
const WRITERS: u64 = 4;

fn open(dir: &Path) -> Embedded {
    Embedded::open(dir.join("kv"), EmbeddedConfig { free_bytes_min: 0, ..EmbeddedConfig::default() }).unwrap()
}

/// What one commit writes: two keys that must live or die together, the first overwritten by the writer's next commit.
fn mutations(writer: u64, count: u64) -> Vec<Mutation> {
    let length = count.wrapping_mul(2_654_435_761) % 20_000;
    let value = Bytes::from(vec![count as u8; length as usize]);
    vec![
        Mutation::Put { key: last_key(writer), value: count.to_le_bytes().to_vec().into() },
        Mutation::Put { key: log_key(writer, count), value },
    ]
}

fn last_key(writer: u64) -> Bytes {
    format!("last/{writer}").into()
}

fn log_key(writer: u64, count: u64) -> Bytes {
    format!("log/{writer}/{count:016}").into()
}

/// The count in a writer's last commit, with that commit's revision.
async fn last_of(store: &Embedded, writer: u64) -> Option<(u64, Revision)> {
    let entry = store.get(&last_key(writer)).await.unwrap()?;
    Some((u64::from_le_bytes(entry.value[..].try_into().unwrap()), entry.revision))
}

/// The child. Not a test of its own: without the directory it has nothing to do.
#[test]
fn child_commits_until_killed() {
    let Some(dir) = env::var_os(CHILD_DIR) else { return };
    let store = open(Path::new(&dir));
    let writers = (0..WRITERS).map(|writer| {
        let store = &store;
        async move {
            let first = last_of(store, writer).await.map_or(0, |(count, _)| count + 1);
            for count in first.. {
                let revision = store.commit(vec![], mutations(writer, count)).await.unwrap();
                let line = format!("acknowledged {revision} {writer} {count}\n");
                std::io::stderr().write_all(line.as_bytes()).unwrap();
            }
        }
    });
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(futures_util::future::join_all(writers));
}

/// Runs the child, kills it once it has acknowledged `kill_after` commits, and returns all it acknowledged: (revision, writer, count).
fn run_child(dir: &Path, kill_after: usize) -> Vec<(Revision, u64, u64)> {
    let mut child = Command::new(env::current_exe().unwrap())
        .args(["--exact", "child_commits_until_killed", "--nocapture", "--test-threads=1"])
        .env(CHILD_DIR, dir)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut acknowledged = Vec::new();
    for line in BufReader::new(child.stderr.take().unwrap()).split(b'\n') {
        let line = String::from_utf8(line.unwrap()).unwrap();
        let numbers: Vec<u64> = match line.strip_prefix("acknowledged ") {
            Some(numbers) => numbers.split(' ').map(|number| number.parse().unwrap()).collect(),
            None => panic!("the child said: {line}"),
        };
        let [revision, writer, count] = numbers[..] else { panic!("the child said: {line}") };
        acknowledged.push((revision, writer, count));
        if acknowledged.len() == kill_after {
            child.kill().unwrap();
        }
    }
    let status = child.wait().unwrap();
    assert_eq!(status.signal(), Some(9), "{status}");
    acknowledged
}

/// Every acknowledged commit is there, whole; commits that were not acknowledged are there whole or not at all.
async fn verify(dir: &Path, acknowledged: &[(Revision, u64, u64)]) {
    let store = open(dir);
    let newest = acknowledged.iter().map(|(revision, ..)| *revision).max().unwrap();
    assert!(store.revision() >= newest, "revision {newest} lost: the store is at {}", store.revision());
    for (revision, writer, count) in acknowledged {
        let Some(Mutation::Put { key, value }) = mutations(*writer, *count).pop() else { unreachable!("a put") };
        let found = store.get(&key).await.unwrap().unwrap_or_else(|| panic!("revision {revision} lost"));
        assert_eq!((found.revision, found.value), (*revision, value));
    }
    for writer in 0..WRITERS {
        let Some((count, revision)) = last_of(&store, writer).await else { continue };
        let twin = store.get(&log_key(writer, count)).await.unwrap();
        assert_eq!(twin.unwrap().revision, revision, "half a commit of writer {writer}");
        let beyond = Scan::new(format!("log/{writer}/"), 1).after(log_key(writer, count));
        assert_eq!(store.scan(beyond).await.unwrap(), [], "half a commit of writer {writer}");
    }
}

#[test]
fn killed_at_random_moments_it_keeps_what_it_acknowledged() {
    let seed = match env::var(SEED) {
        Ok(seed) => seed.parse().unwrap(),
        Err(_) => SystemTime::now().duration_since(UNIX_EPOCH).unwrap().subsec_nanos().into(),
    };
    eprintln!("{SEED}={seed} repeats this run");
    let mut wide = [0; 32];
    wide[..8].copy_from_slice(&u64::to_le_bytes(seed));
    let mut random = TestRng::from_seed(RngAlgorithm::ChaCha, &wide);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let dir = tempfile::tempdir().unwrap();
    for round in 0..ROUNDS {
        let acknowledged = run_child(dir.path(), 1 + random.next_u32() as usize % 150);
        eprintln!("round {round}: {} commits acknowledged before the kill", acknowledged.len());
        runtime.block_on(verify(dir.path(), &acknowledged));
    }
}
