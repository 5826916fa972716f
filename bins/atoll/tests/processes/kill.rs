//! A storage node under load is killed at 200 random moments: no shard that it acknowledged may be lost or changed.
//!
//! (Not `ATOLL_…`: the node takes that for a setting.) The seed is printed; `KILL_TEST_SEED` repeats a run's choices, `KILL_TEST_ROUNDS` makes it longer.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use atoll_ids::{NodeId, ShardId};
use atoll_keys::{NodeKey, OwnerKey, Signed};
use atoll_link::{Link, LinkConfig, LinkHandle, MemoryPeers, Traffic};
use atoll_shard::{BoxStream, Dial, DialError, HomeError, ShardClient, ShardHome, StorageGrant};
use bytes::Bytes;
use futures_util::future::BoxFuture;
use tokio::sync::watch;
use tokio::task::JoinSet;

const KILLS: u64 = 200;

/// Puts at once: enough that group commits hold several shards when they are cut.
const WRITERS: u64 = 24;

/// The longest that the node serves between two kills.
const SERVE_MS_MAX: u64 = 40;

struct LinkDial(LinkHandle);

impl Dial for LinkDial {
    fn open(&self, node: NodeId) -> BoxFuture<'_, Result<BoxStream, DialError>> {
        Box::pin(async move {
            let opened = self.0.open(node, atoll_shard::ALPN, Traffic::Bulk).await;
            let stream = opened.map_err(|error| DialError::Unreachable(error.to_string()))?;
            Ok(Box::new(stream) as BoxStream)
        })
    }
}

/// Shard `number` of this run: its id and content follow from seed and number alone.
fn shard(seed: u64, number: u64) -> (ShardId, Bytes) {
    let mut random = blake3::Hasher::new().update(&seed.to_le_bytes()).update(&number.to_le_bytes()).finalize_xof();
    let (mut id, mut size) = ([0; 16], [0; 4]);
    random.fill(&mut id);
    random.fill(&mut size);
    let mut content = vec![0; 1 + u32::from_le_bytes(size) as usize % 65_536];
    random.fill(&mut content);
    (ShardId::from_bytes(id), Bytes::from(content))
}

fn number(seed: u64, kill: u64, below: u64) -> u64 {
    let hash = blake3::Hasher::new().update(&seed.to_le_bytes()).update(b"kill").update(&kill.to_le_bytes()).finalize();
    u64::from_le_bytes(hash.as_bytes()[..8].try_into().unwrap()) % below
}

fn from_environment(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap())
}

fn now() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn no_acknowledged_shard_is_lost() {
    let seed = from_environment("KILL_TEST_SEED").unwrap_or_else(|| u64::from(now().subsec_nanos()));
    let kills = from_environment("KILL_TEST_ROUNDS").unwrap_or(KILLS);
    eprintln!("KILL_TEST_SEED={seed} KILL_TEST_ROUNDS={kills}");
    let folder = tempfile::tempdir().unwrap();
    let mut node = crate::common::lone_node(folder.path(), &["storage.capacity=8G"]).await.unwrap();
    let (key, owner) = (Arc::new(NodeKey::generate()), OwnerKey::generate());
    let loopback = vec!["127.0.0.1:0".parse().unwrap()];
    let config = LinkConfig { bind: loopback.clone(), lane_bind: loopback, ..LinkConfig::default() };
    let link = Link::builder(key.clone(), config, Arc::new(MemoryPeers::default())).bind().await.unwrap();
    let request = atoll_control::InviteRequest { ttl_seconds: 600, uses: 1 };
    let ticket = node.client().invite(&request).await.unwrap().ticket;
    let peer = link.handle().join(&ticket.parse().unwrap()).await.unwrap().id;
    let grant = StorageGrant {
        owner: owner.id(),
        node: key.id(),
        not_before: now().as_secs(),
        not_after: now().as_secs() + 3600,
    };
    let dial = Arc::new(LinkDial(link.handle()));
    let client = Arc::new(ShardClient::new(peer, dial, Signed::sign(&grant, &owner)));

    let load = Load::start(seed, client.clone());
    for kill in 0..kills {
        load.next_acknowledgement().await;
        // The random moment is what is tested: there is no event to wait for.
        tokio::time::sleep(Duration::from_micros(number(seed, kill, SERVE_MS_MAX * 1000))).await;
        node.kill().await.unwrap();
        node.start_again().await.unwrap();
    }
    let acknowledged = load.finish().await;
    eprintln!("{} shards were acknowledged", acknowledged.len());
    assert!(acknowledged.len() as u64 >= kills, "the load was too small to say anything");
    for number in acknowledged {
        let (id, content) = shard(seed, number);
        let found = retry(|| client.get(id)).await;
        assert!(found.as_ref() == Ok(&content), "shard {number}: {:?}", found.map(|found| found.len()));
    }
    drop(client);
    link.shutdown(Duration::from_secs(5)).await;
}

/// Asks again while the connection is being made anew.
async fn retry<'a, T>(mut ask: impl FnMut() -> BoxFuture<'a, Result<T, HomeError>>) -> Result<T, HomeError> {
    for _ in 0..100 {
        match ask().await {
            Err(error) if error.is_temporary() => tokio::time::sleep(Duration::from_millis(50)).await,
            done => return done,
        }
    }
    ask().await
}

/// Writers that put shard after shard and write down which were acknowledged.
struct Load {
    acknowledged: Arc<Mutex<BTreeSet<u64>>>,
    count: watch::Receiver<u64>,
    stop: watch::Sender<bool>,
    writers: JoinSet<()>,
}

impl Load {
    fn start(seed: u64, client: Arc<ShardClient>) -> Self {
        let acknowledged = Arc::new(Mutex::new(BTreeSet::new()));
        let (counter, count) = watch::channel(0);
        let (stop, stopped) = watch::channel(false);
        let (next, counter) = (Arc::new(AtomicU64::new(0)), Arc::new(counter));
        let mut writers = JoinSet::new();
        for _ in 0..WRITERS {
            let (client, acknowledged, stopped) = (client.clone(), acknowledged.clone(), stopped.clone());
            let (next, counter) = (next.clone(), counter.clone());
            writers.spawn(async move {
                while !*stopped.borrow() {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    let (id, content) = shard(seed, number);
                    match client.put(id, content).await {
                        Ok(_) => {
                            acknowledged.lock().unwrap().insert(number);
                            counter.send_modify(|count| *count += 1);
                        }
                        Err(error) => {
                            assert!(error.is_no_answer(), "{error}");
                            tokio::time::sleep(Duration::from_millis(5)).await;
                        }
                    }
                }
            });
        }
        Self { acknowledged, count, stop, writers }
    }

    /// Waits until one more shard is acknowledged than there are now.
    async fn next_acknowledgement(&self) {
        let mut count = self.count.clone();
        let before = *count.borrow_and_update();
        count.wait_for(|&count| count > before).await.unwrap();
    }

    async fn finish(mut self) -> BTreeSet<u64> {
        self.stop.send(true).unwrap();
        while let Some(ended) = self.writers.join_next().await {
            ended.unwrap();
        }
        std::mem::take(&mut self.acknowledged.lock().unwrap())
    }
}
