//! Nodes and a key-value store in memory, and an engine over them.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use atoll_engine::{
    Engine, EngineConfig, GetError, HedgeRule, HomeInfo, Homes, ObjectInfo, PutError, PutOptions, ReadError, Source,
};
use atoll_ids::{BucketName, Domain, NodeId, ShardId};
use atoll_keys::OwnerKey;
use atoll_kv::{Condition, Entry, KeyValue, KvError, Mutation, Revision, Scan};
use atoll_shard::testing::MemoryHome;
use atoll_shard::{Health, HomeError, HomeStat, PutOutcome, ShardEntry, ShardHome};
use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;

pub(crate) const MIB: usize = 1 << 20;

/// Entries and the revision of the last commit.
type KvState = (BTreeMap<Bytes, (Bytes, Revision)>, Revision);

/// A key-value store in memory that can be told to fail.
#[derive(Default)]
pub(crate) struct MemoryKv {
    state: Mutex<KvState>,
    /// Commits that still succeed; the store is dead afterwards. 0 is no limit.
    pub(crate) commits_left: AtomicUsize,
    pub(crate) commits: AtomicUsize,
    /// Commits that would publish an object are kept here and never answered, while there is a list.
    pub(crate) held: Mutex<Option<Vec<Held>>>,
}

/// A commit that was not carried out.
type Held = (Vec<Condition>, Vec<Mutation>);

impl MemoryKv {
    pub(crate) fn keys(&self, prefix: &str) -> Vec<String> {
        let state = self.state.lock().unwrap();
        let keys = state.0.keys().filter(|key| key.starts_with(prefix.as_bytes()));
        keys.map(|key| key.escape_ascii().to_string()).collect()
    }

    /// Changes the stored bytes of every key with this prefix.
    pub(crate) fn alter(&self, prefix: &str, change: impl Fn(&mut Vec<u8>)) {
        for (key, value) in &mut self.state.lock().unwrap().0 {
            if key.starts_with(prefix.as_bytes()) {
                let mut bytes = value.0.to_vec();
                change(&mut bytes);
                value.0 = bytes.into();
            }
        }
    }

    pub(crate) fn contains(&self, needle: &[u8]) -> bool {
        let state = self.state.lock().unwrap();
        state.0.values().any(|(value, _)| value.windows(needle.len()).any(|window| window == needle))
    }

    /// Carries a commit out.
    pub(crate) fn apply(&self, conditions: Vec<Condition>, mutations: Vec<Mutation>) -> Result<Revision, KvError> {
        let mut state = self.state.lock().unwrap();
        for condition in conditions {
            let at = state.0.get(condition.key()).map(|(_, revision)| *revision);
            let holds = match condition {
                Condition::Revision { revision, .. } => at == Some(revision),
                Condition::Absent { .. } => at.is_none(),
                Condition::Present { .. } => at.is_some(),
            };
            if !holds {
                return Err(KvError::Conflict { key: condition.key().clone() });
            }
        }
        state.1 += 1;
        let revision = state.1;
        for mutation in mutations {
            match mutation {
                Mutation::Put { key, value } => {
                    state.0.insert(key, (value, revision));
                }
                Mutation::Delete { key } => {
                    state.0.remove(&key);
                }
            }
        }
        Ok(revision)
    }

    /// Whether a commit was put aside.
    fn hold(&self, conditions: &[Condition], mutations: &[Mutation]) -> bool {
        let publishes =
            mutations.iter().any(|change| matches!(change, Mutation::Put { key, .. } if key.starts_with(b"o/")));
        match self.held.lock().unwrap().as_mut().filter(|_| publishes) {
            Some(held) => {
                held.push((conditions.to_vec(), mutations.to_vec()));
                true
            }
            None => false,
        }
    }

    fn dead() -> KvError {
        KvError::Unavailable { path: "memory".into(), operation: "commit", reason: "switched off by the test".into() }
    }
}

impl KeyValue for MemoryKv {
    fn get(&self, key: &[u8]) -> BoxFuture<'_, Result<Option<Entry>, KvError>> {
        let found = self.state.lock().unwrap().0.get_key_value(key).map(|(key, (value, revision))| Entry {
            key: key.clone(),
            value: value.clone(),
            revision: *revision,
        });
        async move { Ok(found) }.boxed()
    }

    fn scan(&self, scan: Scan) -> BoxFuture<'_, Result<Vec<Entry>, KvError>> {
        assert!((1..=10_000).contains(&scan.limit));
        let state = self.state.lock().unwrap();
        let from = match &scan.after {
            Some(after) if *after >= scan.prefix => Bound::Excluded(after.clone()),
            _ => Bound::Included(scan.prefix.clone()),
        };
        let entries = state.0.range((from, Bound::Unbounded)).take_while(|(key, _)| key.starts_with(&scan.prefix));
        let entry = |(key, (value, revision)): (&Bytes, &(Bytes, Revision))| Entry {
            key: key.clone(),
            value: value.clone(),
            revision: *revision,
        };
        let found = entries.take(scan.limit).map(entry).collect();
        async move { Ok(found) }.boxed()
    }

    fn commit(&self, conditions: Vec<Condition>, mutations: Vec<Mutation>) -> BoxFuture<'_, Result<Revision, KvError>> {
        async move {
            if self.hold(&conditions, &mutations) {
                std::future::pending::<()>().await;
            }
            match self.commits_left.load(Ordering::SeqCst) {
                0 => {}
                1 => return Err(Self::dead()),
                more => self.commits_left.store(more - 1, Ordering::SeqCst),
            }
            self.commits.fetch_add(1, Ordering::SeqCst);
            self.apply(conditions, mutations)
        }
        .boxed()
    }
}

struct Node {
    home: Arc<MemoryHome>,
    info: HomeInfo,
    swallows: bool,
}

/// A home that stores what it is given and breaks off before it can say so.
struct Swallowing(Arc<MemoryHome>);

impl ShardHome for Swallowing {
    fn node(&self) -> NodeId {
        self.0.node()
    }

    fn put(&self, id: ShardId, data: Bytes) -> BoxFuture<'_, Result<PutOutcome, HomeError>> {
        async move {
            self.0.put(id, data).await?;
            Err(HomeError::Unreachable { node: self.node(), text: "broke off".to_owned() })
        }
        .boxed()
    }

    fn get(&self, id: ShardId) -> BoxFuture<'_, Result<Bytes, HomeError>> {
        self.0.get(id)
    }

    fn delete(&self, id: ShardId) -> BoxFuture<'_, Result<(), HomeError>> {
        self.0.delete(id)
    }

    fn list(&self, after: Option<ShardId>, limit: usize) -> BoxFuture<'_, Result<Vec<ShardEntry>, HomeError>> {
        self.0.list(after, limit)
    }

    fn stat(&self) -> BoxFuture<'_, Result<HomeStat, HomeError>> {
        self.0.stat()
    }

    fn verify(&self, id: ShardId) -> BoxFuture<'_, Result<(), HomeError>> {
        self.0.verify(id)
    }

    fn health(&self) -> Health {
        self.0.health()
    }
}

/// Nodes in memory.
#[derive(Default)]
pub(crate) struct Nodes {
    nodes: Mutex<Vec<Node>>,
}

impl Homes for Nodes {
    fn list(&self) -> Vec<HomeInfo> {
        self.nodes.lock().unwrap().iter().map(|node| node.info.clone()).collect()
    }

    fn home(&self, id: NodeId) -> Option<Arc<dyn ShardHome>> {
        let nodes = self.nodes.lock().unwrap();
        let node = nodes.iter().find(|node| node.info.node == id)?;
        Some(if node.swallows { Arc::new(Swallowing(node.home.clone())) } else { node.home.clone() })
    }
}

/// Everything an engine needs.
pub(crate) struct Grid {
    pub(crate) nodes: Arc<Nodes>,
    pub(crate) kv: Arc<MemoryKv>,
    pub(crate) owner: Arc<OwnerKey>,
    pub(crate) config: EngineConfig,
    pub(crate) bucket: BucketName,
}

/// Short delays, so that tests of slow nodes are fast; patient enough for a busy machine not to be taken for one.
pub(crate) fn config() -> EngineConfig {
    let ms = Duration::from_millis;
    EngineConfig {
        put_hedge: HedgeRule { floor: ms(100), cap: ms(500), factor: 4.0, assumed: ms(50) },
        patience: ms(1500),
        collect_pause: ms(50),
        ..EngineConfig::default()
    }
}

impl Grid {
    pub(crate) fn new(nodes: usize) -> Self {
        let grid = Self {
            nodes: Arc::default(),
            kv: Arc::default(),
            owner: Arc::new(OwnerKey::generate()),
            config: config(),
            bucket: "photos".parse().unwrap(),
        };
        for _ in 0..nodes {
            grid.add();
        }
        grid
    }

    /// Adds an empty node; its number.
    pub(crate) fn add(&self) -> usize {
        self.add_in(Domain::default())
    }

    pub(crate) fn add_in(&self, domain: Domain) -> usize {
        let mut nodes = self.nodes.nodes.lock().unwrap();
        let number = nodes.len();
        let node = id(number);
        let info = HomeInfo { node, weight: 1 << 40, domain, up: true };
        nodes.push(Node { home: Arc::new(MemoryHome::new(node)), info, swallows: false });
        number
    }

    pub(crate) fn home(&self, number: usize) -> Arc<MemoryHome> {
        self.nodes.nodes.lock().unwrap()[number].home.clone()
    }

    /// Lets a node store and break off, or answer again.
    pub(crate) fn swallow(&self, number: usize, swallows: bool) {
        self.nodes.nodes.lock().unwrap()[number].swallows = swallows;
    }

    pub(crate) fn set_up(&self, number: usize, up: bool) {
        self.nodes.nodes.lock().unwrap()[number].info.up = up;
    }

    /// Kills a node; with `known` others have noticed.
    pub(crate) fn kill(&self, number: usize, known: bool) {
        self.home(number).fault(|faults| faults.unreachable = true);
        self.set_up(number, !known);
    }

    pub(crate) fn count(&self) -> usize {
        self.nodes.nodes.lock().unwrap().len()
    }

    /// All shards on all nodes.
    pub(crate) fn shards(&self) -> usize {
        (0..self.count()).map(|number| self.home(number).ids().len()).sum()
    }

    /// An engine over what there is.
    pub(crate) async fn open(&self) -> Engine {
        Engine::open(self.config.clone(), self.kv.clone(), self.owner.clone(), self.nodes.clone()).await.unwrap()
    }

    /// An engine with the bucket.
    pub(crate) async fn start(&self, policy: &str) -> Engine {
        let engine = self.open().await;
        engine.create_bucket(&self.bucket, policy.parse::<atoll_codec::Policy>().unwrap()).await.unwrap();
        engine
    }

    pub(crate) async fn put(&self, engine: &Engine, key: &str, content: &Bytes) -> Result<ObjectInfo, PutError> {
        engine.put(&self.bucket, key, Source::Bytes(content.clone()), PutOptions::default()).await
    }

    pub(crate) async fn read(&self, engine: &Engine, key: &str) -> Result<Bytes, ReadError> {
        read(engine, &self.bucket, key).await.unwrap()
    }

    #[track_caller]
    pub(crate) fn check<'a>(
        &'a self,
        engine: &'a Engine,
        key: &'a str,
        expect: &'a Bytes,
    ) -> impl Future<Output = ()> + 'a {
        let caller = std::panic::Location::caller();
        async move {
            match self.read(engine, key).await {
                Ok(found) => assert!(found == expect, "{key} differs ({caller})"),
                Err(error) => panic!("{key}: {error} ({caller})"),
            }
        }
    }

    /// Collects until nothing waits.
    pub(crate) async fn settle(&self, engine: &Engine) {
        eventually("garbage is collected", async || {
            engine.collect_garbage().await.unwrap();
            self.kv.keys("g/").is_empty()
        })
        .await;
    }
}

pub(crate) fn id(number: usize) -> NodeId {
    NodeId::from_bytes([u8::try_from(number).unwrap() + 1; 32])
}

/// The whole of an object.
pub(crate) async fn read(
    engine: &Engine,
    bucket: &BucketName,
    key: &str,
) -> Result<Result<Bytes, ReadError>, GetError> {
    let mut reader = engine.get(bucket, key, None).await?;
    let mut all = Vec::new();
    while let Some(next) = reader.next().await {
        match next {
            Ok(bytes) => all.extend_from_slice(&bytes),
            Err(error) => return Ok(Err(error)),
        }
    }
    Ok(Ok(all.into()))
}

/// Bytes that do not compress and differ for every seed.
pub(crate) fn content(seed: u64, len: usize) -> Bytes {
    let mut bytes = vec![0; len];
    blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut bytes);
    bytes.into()
}

/// Waits for something that happens in the background.
pub(crate) async fn eventually(what: &str, mut is_so: impl AsyncFnMut() -> bool) {
    let begun = Instant::now();
    while !is_so().await {
        assert!(begun.elapsed() < Duration::from_secs(20), "never: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
