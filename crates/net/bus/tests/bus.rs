//! Buses over real stores and pipes between them: sending to who is away, restarts, refusals, floods, replies, a disk that fails.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use atoll_bus::{
    Bus, BusConfig, BusError, BusHandle, BusLink, Delivery, Filter, InState, Limits, NewMessage, OutState, Pattern,
    Refusal, Stream, Subscription,
};
use atoll_ids::{NodeId, OwnerId};
use atoll_kv::{Condition, Embedded, EmbeddedConfig, Entry, KeyValue, KvError, Mutation, OpenError, Revision, Scan};
use bytes::Bytes;
use futures_util::future::BoxFuture;
use tempfile::TempDir;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

/// Long for a busy machine; nothing waits that long when it works.
const PATIENCE: Duration = Duration::from_secs(30);

const OWN: OwnerId = OwnerId::from_bytes([100; 32]);

fn node(number: u8) -> NodeId {
    NodeId::from_bytes([number; 32])
}

/// Who is up, by node, with whose it is.
#[derive(Clone)]
struct Net {
    up: Arc<Mutex<HashMap<NodeId, (BusHandle, OwnerId)>>>,
    changes: watch::Sender<u64>,
}

impl Net {
    fn new() -> Self {
        Self { up: Arc::default(), changes: watch::Sender::new(0) }
    }

    fn set(&self, node: NodeId, bus: Option<(BusHandle, OwnerId)>) {
        let mut up = self.up.lock().unwrap();
        match bus {
            Some(bus) => drop(up.insert(node, bus)),
            None => drop(up.remove(&node)),
        }
        self.changes.send_modify(|count| *count += 1);
    }
}

/// What one node sees of the net.
struct Seen {
    net: Net,
    from: NodeId,
    owner: OwnerId,
}

impl BusLink for Seen {
    fn open(&self, to: NodeId) -> BoxFuture<'_, Result<Box<dyn Stream>, String>> {
        let found = self.net.up.lock().unwrap().get(&to).cloned();
        let (from, owner) = (self.from, self.owner);
        Box::pin(async move {
            let (bus, _) = found.ok_or("it is not there")?;
            let (here, there) = tokio::io::duplex(1 << 16);
            tokio::spawn(async move { bus.serve(from, Some(owner), there).await });
            Ok(Box::new(here) as Box<dyn Stream>)
        })
    }

    fn connected(&self) -> Vec<NodeId> {
        self.net.up.lock().unwrap().keys().copied().collect()
    }

    fn changes(&self) -> watch::Receiver<u64> {
        self.net.changes.subscribe()
    }
}

/// A store whose commits fail while it is told to fail.
struct Failing {
    kv: Embedded,
    fails: Arc<AtomicBool>,
}

impl KeyValue for Failing {
    fn get(&self, key: &[u8]) -> BoxFuture<'_, Result<Option<Entry>, KvError>> {
        self.kv.get(key)
    }

    fn scan(&self, scan: Scan) -> BoxFuture<'_, Result<Vec<Entry>, KvError>> {
        self.kv.scan(scan)
    }

    fn commit(&self, conditions: Vec<Condition>, mutations: Vec<Mutation>) -> BoxFuture<'_, Result<Revision, KvError>> {
        if self.fails.load(Ordering::SeqCst) {
            let full = KvError::DiskFull { path: PathBuf::from("here"), free_bytes: 0, needed_bytes: 1 };
            return Box::pin(async { Err(full) });
        }
        self.kv.commit(conditions, mutations)
    }
}

struct Host {
    id: NodeId,
    owner: OwnerId,
    allow: &'static [&'static str],
    limits: Limits,
    folder: TempDir,
    net: Net,
    fails: Arc<AtomicBool>,
    bus: Option<(BusHandle, CancellationToken, JoinHandle<()>)>,
}

impl Host {
    async fn start_with(net: &Net, number: u8, owner: OwnerId, allow: &'static [&'static str], limits: Limits) -> Self {
        let (id, folder) = (node(number), tempfile::tempdir().unwrap());
        let mut host = Self { id, owner, allow, limits, folder, net: net.clone(), fails: Arc::default(), bus: None };
        host.start_again().await;
        host
    }

    async fn start(net: &Net, number: u8) -> Self {
        Self::start_with(net, number, OWN, &["own"], Limits::default()).await
    }

    async fn start_again(&mut self) {
        let config = EmbeddedConfig { free_bytes_min: 0, ..EmbeddedConfig::default() };
        // Streams that were being served may hold on to it for a moment.
        let opened = async {
            loop {
                match Embedded::open(self.folder.path(), config.clone()) {
                    Err(OpenError::Locked { .. }) => tokio::time::sleep(Duration::from_millis(10)).await,
                    opened => return opened.unwrap(),
                }
            }
        };
        let kv = timeout(PATIENCE, opened).await.expect("nobody holds the store any more");
        let kv = Arc::new(Failing { kv, fails: self.fails.clone() });
        let allow = self.allow.iter().map(|rule| rule.parse().unwrap()).collect();
        let config = BusConfig { node: self.id, owner: self.owner, allow, limits: self.limits };
        let bus = Bus::open(kv, config).await.unwrap();
        let (handle, stop) = (bus.handle(), CancellationToken::new());
        let seen = Seen { net: self.net.clone(), from: self.id, owner: self.owner };
        let running = tokio::spawn(bus.run(Arc::new(seen), stop.clone()));
        self.net.set(self.id, Some((handle.clone(), self.owner)));
        self.bus = Some((handle, stop, running));
    }

    /// Ends it wherever it is.
    async fn kill(&mut self) {
        self.net.set(self.id, None);
        let (handle, _, running) = self.bus.take().unwrap();
        running.abort();
        assert!(running.await.is_err_and(|error| error.is_cancelled()));
        drop(handle);
    }

    fn bus(&self) -> BusHandle {
        self.bus.as_ref().unwrap().0.clone()
    }

    fn receives(&self, pattern: &str) -> Subscription {
        self.bus().subscribe(Filter::topics(pattern.parse().unwrap()))
    }
}

fn message(to: &Host, topic: &str, payload: impl Into<Bytes>) -> NewMessage {
    let (topic, ttl) = (topic.parse().unwrap(), Duration::from_secs(3600));
    NewMessage { to: vec![to.id], topic, payload: payload.into(), ttl }
}

async fn next(subscription: &mut Subscription) -> Delivery {
    timeout(PATIENCE, subscription.next()).await.expect("a message").unwrap()
}

async fn take(subscription: &mut Subscription) -> Bytes {
    let delivery = next(subscription).await;
    let payload = delivery.message().payload.clone();
    delivery.ack().await.unwrap();
    payload
}

async fn fate(bus: &BusHandle, id: atoll_ids::MessageId) -> OutState {
    timeout(PATIENCE, bus.settled(id)).await.expect("an end").unwrap()[0].record.state
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_waits_for_who_is_away_and_arrives_once() {
    let net = Net::new();
    let (one, mut two) = (Host::start(&net, 1).await, Host::start(&net, 2).await);
    two.kill().await;
    let binary: Vec<u8> = (0..=255).cycle().take(200_000).collect();
    let id = one.bus().send(message(&two, "backup.done", binary.clone())).await.unwrap();
    for number in 0..100_u8 {
        one.bus().send(message(&two, "backup.more", vec![number])).await.unwrap();
    }
    assert_eq!(one.bus().fate(id).await.unwrap()[0].record.state, OutState::Waiting);
    two.start_again().await;
    let mut all = two.receives("backup.**");
    assert_eq!(take(&mut all).await, binary);
    for number in 0..100_u8 {
        assert_eq!(take(&mut all).await, [number][..], "in the order in which they were sent");
    }
    drop(all);
    assert!(matches!(fate(&one.bus(), id).await, OutState::Delivered { .. }));
    two.kill().await;
    two.start_again().await;
    assert!(two.receives("**").next_now().await.unwrap().is_none(), "what was acknowledged is gone");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_accepted_outlives_the_sender() {
    let net = Net::new();
    let (mut one, mut two) = (Host::start(&net, 1).await, Host::start(&net, 2).await);
    two.kill().await;
    one.bus().send(message(&two, "a", "kept")).await.unwrap();
    one.kill().await;
    two.start_again().await;
    one.start_again().await;
    assert_eq!(take(&mut two.receives("a")).await, "kept");
    // What a consumer had in hand when its node died comes again, and only then.
    one.bus().send(message(&two, "a", "again")).await.unwrap();
    let mut before = two.receives("a");
    let had = next(&mut before).await;
    two.kill().await;
    assert!(matches!(had.ack().await, Err(BusError::Unavailable)));
    drop(before);
    two.start_again().await;
    assert_eq!(take(&mut two.receives("a")).await, "again");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_may_not_send_is_told_why() {
    let net = Net::new();
    let stranger = OwnerId::from_bytes([101; 32]);
    let other = Host::start_with(&net, 1, stranger, &["own"], Limits::default()).await;
    let two = Host::start_with(&net, 2, OWN, &["own", "peers public.*"], Limits::default()).await;
    let id = other.bus().send(message(&two, "private", "x")).await.unwrap();
    assert!(matches!(fate(&other.bus(), id).await, OutState::Refused { why: Refusal::Topic, .. }));
    let id = other.bus().send(message(&two, "public.a", "y")).await.unwrap();
    assert!(matches!(fate(&other.bus(), id).await, OutState::Delivered { .. }));
    assert_eq!(take(&mut two.receives("**")).await, "y");
    // Itself is one of one's own.
    two.bus().send(message(&two, "private", "to myself")).await.unwrap();
    assert_eq!(take(&mut two.receives("**")).await, "to myself");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_is_bounded_and_another_gets_through() {
    let net = Net::new();
    let limits = Limits { inbox_messages: 100, peer_messages: 30, ..Limits::default() };
    let (one, three) = (Host::start(&net, 1).await, Host::start(&net, 3).await);
    let two = Host::start_with(&net, 2, OWN, &["own"], limits).await;
    for number in 0..200_u8 {
        one.bus().send(message(&two, "flood", vec![number])).await.unwrap();
    }
    let id = three.bus().send(message(&two, "quiet", "hello")).await.unwrap();
    assert!(matches!(fate(&three.bus(), id).await, OutState::Delivered { .. }));
    assert_eq!(take(&mut two.receives("quiet")).await, "hello");
    let told_full = async {
        loop {
            let (sent, _) = one.bus().messages().await.unwrap();
            let problem = sent.last().unwrap().problem.clone();
            if problem.is_some_and(|problem| problem.starts_with("full")) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(PATIENCE, told_full).await.expect("the sender knows that there is no room");
    assert_eq!(two.bus().counts().unread, 30);
    let mut flood = two.receives("flood");
    for number in 0..200_u8 {
        assert_eq!(take(&mut flood).await, [number][..], "all of it arrives once there is room");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn questions_are_answered() {
    let net = Net::new();
    // Neither lets the other send anything by itself but the question.
    let one = Host::start_with(&net, 1, OWN, &[], Limits::default()).await;
    let two = Host::start_with(&net, 2, OwnerId::from_bytes([101; 32]), &["peers ask"], Limits::default()).await;
    let (id, mut answers) = one.bus().ask(message(&two, "ask", "how many?")).await.unwrap();
    let mut anything = one.receives("**");
    let question = next(&mut two.receives("ask")).await;
    assert_eq!(question.message().record.id, id);
    question.ack().await.unwrap();
    two.bus().reply(id, Bytes::from_static(b"three"), Duration::from_secs(60)).await.unwrap();
    let answer = next(&mut answers).await;
    assert_eq!((answer.message().record.answers, &answer.message().payload[..]), (Some(id), &b"three"[..]));
    assert!(anything.next_now().await.unwrap().is_none(), "it is for who asked");
    answer.ack().await.unwrap();
    two.bus().reply(id, Bytes::from_static(b"no, four"), Duration::from_secs(60)).await.unwrap();
    drop(answers);
    assert_eq!(take(&mut anything).await, "no, four", "nobody asks any more, so it is for anybody");
    let unknown = atoll_ids::MessageId::from_bytes([9; 16]);
    let refused = two.bus().reply(unknown, Bytes::new(), Duration::from_secs(60)).await;
    assert!(matches!(refused, Err(BusError::Unknown(_))), "{refused:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn consumers_that_go_leave_messages_to_others() {
    let net = Net::new();
    let (one, two) = (Host::start(&net, 1).await, Host::start(&net, 2).await);
    let mut gone = two.receives("**");
    assert!(timeout(Duration::from_millis(50), gone.next()).await.is_err(), "cancelled while it waited");
    drop(gone);
    one.bus().send(message(&two, "a", "for whoever is left")).await.unwrap();
    let mut first = two.receives("**");
    drop(next(&mut first).await);
    let mut second = two.receives("**");
    assert_eq!(take(&mut second).await, "for whoever is left");
    let (_, inbox) = two.bus().messages().await.unwrap();
    assert!(matches!(inbox[0].state, InState::Taken { .. }) && inbox.len() == 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_fails_is_told_and_nothing_is_lost() {
    let net = Net::new();
    let (one, mut two) = (Host::start(&net, 1).await, Host::start(&net, 2).await);
    one.bus().send(message(&two, "a", "before")).await.unwrap();
    let mut subscription = two.receives("**");
    let held = next(&mut subscription).await;
    two.fails.store(true, Ordering::SeqCst);
    assert!(matches!(held.ack().await, Err(BusError::Unavailable)), "it is not gone for good");
    let sent = two.bus().send(message(&one, "a", "back")).await;
    assert!(matches!(sent, Err(BusError::Unavailable)), "{sent:?}");
    one.bus().send(message(&two, "a", "meanwhile")).await.unwrap();
    two.fails.store(false, Ordering::SeqCst);
    assert_eq!(take(&mut subscription).await, "before");
    assert_eq!(take(&mut subscription).await, "meanwhile");
    drop(subscription);
    two.kill().await;
    two.start_again().await;
    assert!(two.receives("**").next_now().await.unwrap().is_none());
    assert!(one.receives("**").next_now().await.unwrap().is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_is_an_answer_to_nobody_once_the_node_stops() {
    let net = Net::new();
    let mut one = Host::start(&net, 1).await;
    let bus = one.bus();
    let (_, stop, running) = one.bus.take().unwrap();
    let mut subscription = bus.subscribe(Filter::topics(Pattern::everything()));
    stop.cancel();
    running.await.unwrap();
    assert!(matches!(subscription.next().await, Err(BusError::Unavailable)));
    assert!(matches!(bus.send(message(&one, "a", "x")).await, Err(BusError::Unavailable)));
}
