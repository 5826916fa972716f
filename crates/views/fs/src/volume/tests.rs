//! Volumes over nodes in memory: what survives, what is refused, what is given back.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::collections::HashMap;

use atoll_engine::testing::MemoryNodes;
use atoll_ids::OwnerId;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;

use super::*;
use crate::head::StoredHead;
use crate::tree::change::{Ino, Kind, ROOT};
use crate::tree::names::Make;
use crate::tree::ops::SetAttr;

/// A head in memory that can be unreachable, before or after it has done what was asked.
#[derive(Default)]
struct MemoryHead {
    state: Mutex<(Option<StoredHead>, u64)>,
    away: AtomicBool,
    mute: AtomicBool,
}

impl MemoryHead {
    fn answer<T>(&self, done: Result<T, HeadError>) -> Result<T, HeadError> {
        let muted = self.mute.load(Ordering::SeqCst);
        if muted { Err(HeadError::Unavailable { why: "mute".to_owned() }) } else { done }
    }

    fn reach(&self) -> Result<MutexGuard<'_, (Option<StoredHead>, u64)>, HeadError> {
        let away = self.away.load(Ordering::SeqCst);
        if away { Err(HeadError::Unavailable { why: "away".to_owned() }) } else { Ok(lock(&self.state)) }
    }

    fn replace(&self, expected: Option<&str>, head: Option<Bytes>) -> Result<String, HeadError> {
        let mut state = self.reach()?;
        if state.0.as_ref().map(|head| head.revision.as_str()) != expected {
            return Err(HeadError::Moved);
        }
        state.1 += 1;
        let revision = state.1.to_string();
        state.0 = head.map(|bytes| StoredHead { revision: revision.clone(), bytes });
        Ok(revision)
    }
}

impl HeadStore for MemoryHead {
    fn load(&self) -> BoxFuture<'_, Result<Option<StoredHead>, HeadError>> {
        async { self.answer(self.reach().map(|state| state.0.clone())) }.boxed()
    }

    fn swing(&self, expected: Option<String>, head: Bytes) -> BoxFuture<'_, Result<String, HeadError>> {
        async move { self.answer(self.replace(expected.as_deref(), Some(head))) }.boxed()
    }

    fn remove(&self, expected: String) -> BoxFuture<'_, Result<(), HeadError>> {
        async move { self.answer(self.replace(Some(&expected), None).map(drop)) }.boxed()
    }
}

struct World {
    nodes: Arc<MemoryNodes>,
    heads: Arc<MemoryHead>,
    config: VolumeConfig,
    secret: VolumeSecret,
    options: VolumeOptions,
}

impl World {
    async fn new(nodes: usize) -> Self {
        let name = "disk0".parse().unwrap();
        let config = VolumeConfig::new(name, OwnerId::from_bytes([7; 32]), "4+2".parse().unwrap());
        let mut options = VolumeOptions {
            flush_every: Duration::from_secs(3600),
            heal_every: Duration::from_secs(3600),
            patience: Duration::from_secs(20),
            ..VolumeOptions::default()
        };
        options.engine.patience = Duration::from_millis(1500);
        let secret = VolumeSecret::generate();
        let world = Self { nodes: MemoryNodes::new(nodes), heads: Arc::default(), config, secret, options };
        Volume::format(&world.config, &world.secret, world.heads.as_ref()).await.unwrap();
        world
    }

    async fn open(&self) -> Volume {
        self.try_open().await.unwrap()
    }

    async fn try_open(&self) -> Result<Volume, VolumeError> {
        let (nodes, heads) = (self.nodes.clone(), self.heads.clone());
        Volume::open(self.config.clone(), &self.secret, nodes, heads, self.options.clone()).await
    }
}

fn make(volume: &Volume, name: &str) -> Ino {
    let make = Make { kind: Kind::File, perm: 0o644, uid: 0, gid: 0, rdev: 0, target: Vec::new() };
    volume.shared.tree().make(ROOT, name.as_bytes(), make, now()).unwrap().0
}

fn find(volume: &Volume, name: &str) -> Option<Ino> {
    volume.shared.tree().lookup(ROOT, name.as_bytes()).ok().map(|(ino, _)| ino)
}

fn write(volume: &Volume, ino: Ino, at: u64, bytes: &Bytes) {
    volume.shared.write(ino, at, bytes.clone()).unwrap();
}

async fn content_of(volume: &Volume, name: &str) -> Bytes {
    let ino = find(volume, name).unwrap();
    volume.shared.read(ino, 0, u64::MAX).await.unwrap()
}

fn content(seed: u64, len: usize) -> Bytes {
    let mut bytes = vec![0; len];
    blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut bytes);
    bytes.into()
}

async fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
    let begun = std::time::Instant::now();
    while !is_so() {
        assert!(begun.elapsed() < Duration::from_secs(20), "never: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_synced_survives_and_the_rest_is_gone_whole() {
    let world = World::new(6).await;
    let volume = world.open().await;
    let (small, large) = (content(1, 5000), content(2, 9 << 20));
    let (a, b) = (make(&volume, "a"), make(&volume, "b"));
    write(&volume, a, 100, &small);
    volume.sync().await.unwrap();
    write(&volume, b, 0, &large);
    write(&volume, a, 0, &content(3, 50));
    volume.sync().await.unwrap();
    assert!(volume.status().clean && volume.status().dirty_bytes == 0);
    make(&volume, "lost");
    write(&volume, a, 0, &content(4, 6000));
    drop(volume);

    let again = world.open().await;
    assert_eq!(again.status().epoch, 2);
    assert_eq!(content_of(&again, "b").await, large);
    let mut expected = content(3, 50).to_vec();
    expected.resize(100, 0);
    expected.extend_from_slice(&small);
    assert_eq!(content_of(&again, "a").await, expected);
    assert_eq!(find(&again, "lost"), None);
    again.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_mount_fences_the_first() {
    let world = World::new(6).await;
    let first = world.open().await;
    make(&first, "a");
    first.sync().await.unwrap();
    let second = world.open().await;
    let late = make(&first, "late");
    assert_eq!(first.sync().await, Err(Errno::Stale));
    assert!(first.status().fenced && !second.status().fenced);
    assert_eq!(first.shared.write(late, 0, content(1, 1)), Err(Errno::Stale));
    assert_eq!(first.sync().await, Err(Errno::Stale));
    let b = make(&second, "b");
    write(&second, b, 0, &content(1, 10));
    second.sync().await.unwrap();
    drop(second);
    let third = world.open().await;
    assert!(find(&third, "a").is_some() && find(&third, "b").is_some() && find(&third, "late").is_none());
    assert_eq!(third.status().epoch, 3);
    let (epoch, _) = Volume::peek(&world.config, &world.secret, world.heads.as_ref()).await.unwrap();
    assert_eq!(epoch, 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn checkpoints_shorten_the_journal_and_blobs_are_given_back() {
    let world = World::new(6).await;
    let volume = world.open().await;
    let ino = make(&volume, "db");
    let mut model = vec![0; 64 << 10];
    for step in 0..150u64 {
        let page = content(step, 4096);
        let at = (step * 7 % 16) * 4096;
        model[at as usize..at as usize + 4096].copy_from_slice(&page);
        write(&volume, ino, at, &page);
        volume.sync().await.unwrap();
    }
    let log = volume.shared.log.lock().await;
    assert!(log.head.checkpoint.is_some() && log.head.journal.len() < 100, "{}", log.head.journal.len());
    drop(log);
    let dead = || volume.shared.tree().dead_blobs().len();
    eventually("dead blobs are deleted", || dead() <= 1).await;
    drop(volume);
    let volume = world.open().await;
    assert_eq!(content_of(&volume, "db").await, model);
    volume.shared.tree().unlink(ROOT, b"db", now()).unwrap();
    volume.sync().await.unwrap();
    volume.close().await.unwrap();
    let (nodes, heads) = (world.nodes.clone(), world.heads.clone());
    let left = Volume::destroy(world.config.clone(), &world.secret, nodes, heads, world.options.clone()).await.unwrap();
    assert_eq!(left, 0);
    eventually("no shard is left", || world.nodes.shards() == 0).await;
    assert!(matches!(world.try_open().await, Err(VolumeError::NotFound { .. })));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_unclear_swing_is_settled_not_repeated() {
    let world = World::new(6).await;
    let volume = world.open().await;
    make(&volume, "a");
    // The head is swung but the answer is lost.
    world.heads.mute.store(true, Ordering::SeqCst);
    assert_eq!(volume.shared.flush_once().await, Err(Errno::Io));
    assert!(volume.status().failing.is_some());
    world.heads.mute.store(false, Ordering::SeqCst);
    volume.sync().await.unwrap();
    // It is not reached at all.
    world.heads.away.store(true, Ordering::SeqCst);
    make(&volume, "b");
    assert_eq!(volume.shared.flush_once().await, Err(Errno::Io));
    make(&volume, "c");
    world.heads.away.store(false, Ordering::SeqCst);
    volume.sync().await.unwrap();
    assert_eq!(volume.status().failing, None);
    drop(volume);
    let again = world.open().await;
    assert!(["a", "b", "c"].iter().all(|name| find(&again, name).is_some()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn writes_go_on_without_a_node_and_heal() {
    let mut world = World::new(7).await;
    world.options.heal_every = Duration::from_millis(50);
    world.options.heal_after = Duration::ZERO;
    let volume = world.open().await;
    let (bytes, more) = (content(1, 3 << 20), content(2, 2 << 20));
    let ino = make(&volume, "a");
    write(&volume, ino, 0, &bytes);
    volume.sync().await.unwrap();
    world.nodes.kill(5, true);
    world.nodes.kill(6, true);
    // Five of six: less than the policy, enough for `least`.
    let ino = make(&volume, "b");
    write(&volume, ino, 0, &more);
    volume.sync().await.unwrap();
    assert!(volume.status().degraded_blobs > 0);
    world.nodes.revive(6);
    eventually("the volume is healed", || volume.status().degraded_blobs == 0).await;
    let report = volume.heal(|_| {}).await.unwrap();
    assert!(report.is_whole(), "{report:?}");
    // Two others may go now.
    world.nodes.kill(0, true);
    world.nodes.kill(1, true);
    drop(volume);
    let again = world.open().await;
    assert_eq!((content_of(&again, "a").await, content_of(&again, "b").await), (bytes, more));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cut_network_fails_syncs_in_time_and_loses_nothing() {
    let mut world = World::new(6).await;
    world.options.patience = Duration::from_secs(2);
    let volume = world.open().await;
    let bytes = content(1, 100_000);
    let ino = make(&volume, "a");
    write(&volume, ino, 0, &bytes);
    for number in 0..6 {
        world.nodes.kill(number, true);
    }
    let begun = Instant::now();
    assert_eq!(volume.sync().await, Err(Errno::Io));
    assert!(begun.elapsed() < Duration::from_secs(8), "{:?}", begun.elapsed());
    assert_eq!(volume.shared.read(ino, 0, 10).await.unwrap(), bytes.slice(..10));
    for number in 0..6 {
        world.nodes.revive(number);
    }
    loop {
        if volume.sync().await.is_ok() {
            break;
        }
    }
    drop(volume);
    assert_eq!(content_of(&world.open().await, "a").await, bytes);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn limits_hold() {
    let mut world = World::new(6).await;
    world.config.capacity_bytes = 1000;
    world.options.dirty_bytes_max = 500;
    let volume = world.open().await;
    let ino = make(&volume, "a");
    write(&volume, ino, 0, &content(1, 900));
    assert_eq!(volume.shared.write(ino, 900, content(1, 200)), Err(Errno::NoSpace));
    write(&volume, ino, 100, &content(1, 800));
    assert!(volume.shared.is_crowded());
    volume.shared.room().await.unwrap();
    assert!(!volume.shared.is_crowded());
    assert!(matches!(
        Volume::format(&world.config, &world.secret, world.heads.as_ref()).await,
        Err(VolumeError::Exists { .. })
    ));
    let wrong = World { secret: VolumeSecret::generate(), ..world };
    assert!(matches!(wrong.try_open().await, Err(VolumeError::WrongSecret { .. })));
}

/// Random calls while flushes, checkpoints and rewriting go on all the time, against plain bytes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn flushing_all_the_time_changes_nothing() {
    let seed: u64 = now().nanoseconds.into();
    eprintln!("seed {seed}");
    let mut world = World::new(6).await;
    world.options.flush_every = Duration::from_millis(1);
    world.options.dirty_bytes_max = 4 << 20;
    let volume = world.open().await;
    let mut model: HashMap<String, Vec<u8>> = HashMap::new();
    for step in 0..600u64 {
        let random = content(seed ^ (step << 32), 16);
        let number = |at: usize| usize::from(u16::from_le_bytes([random[at], random[at + 1]]));
        let name = format!("f{}", number(0) % 6);
        let file = model.entry(name.clone()).or_default();
        let ino = find(&volume, &name).unwrap_or_else(|| make(&volume, &name));
        match number(2) % 16 {
            0 => {
                volume.shared.tree().unlink(ROOT, name.as_bytes(), now()).unwrap();
                model.remove(&name);
            }
            1..3 => {
                let size = number(4) * 4;
                let set = SetAttr { size: Some(size as u64), ..SetAttr::default() };
                volume.shared.tree().set_attr(ino, set, now()).unwrap();
                file.resize(size, 0);
            }
            3..5 => {
                let (at, len) = (number(4), number(6) * 2);
                let read = volume.shared.read(ino, at as u64, len as u64).await.unwrap();
                assert_eq!(read, file[at.min(file.len())..(at + len).min(file.len())], "step {step} of seed {seed}");
            }
            5 => volume.sync().await.unwrap(),
            _ => {
                let (at, bytes) = (number(4) * 2, content(step, 1 + number(6) / (1 + number(8) % 64)));
                volume.shared.room().await.unwrap();
                volume.shared.write(ino, at as u64, bytes.clone()).unwrap();
                file.resize(file.len().max(at + bytes.len()), 0);
                file[at..at + bytes.len()].copy_from_slice(&bytes);
            }
        }
    }
    volume.sync().await.unwrap();
    for (name, bytes) in &model {
        assert!(content_of(&volume, name).await == bytes, "{name} differs, seed {seed}");
    }
    assert!(volume.status().sequence > 20);
    drop(volume);
    let again = world.open().await;
    for (name, bytes) in &model {
        assert!(content_of(&again, name).await == bytes, "{name} differs after a mount, seed {seed}");
    }
    again.close().await.unwrap();
}
