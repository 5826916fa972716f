//! The address book: every known peer with what is known and going on, in memory, in front of the [`PeerStore`].
//!
//! The book decides who is known. Everything here is quick and never waits, but for what writes to the store; those
//! writes are one after the other and each takes what the book says at that moment, so the store never goes back.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use atoll_ids::NodeId;
use atoll_keys::Signed;
use iroh::endpoint::Connection;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::address::{AddressRecord, open_record};
use crate::doors::Network;
use crate::peers::{FixedPeer, Path, Peer, PeerStore, PeerStoreError, StoredPeer};
use crate::quic::path_of;

/// How long lanes to a peer are not tried after none of its addresses answered: long enough not to slow every stream down by a
/// failed attempt, short enough to notice that a firewall was opened.
const LANE_REST: Duration = Duration::from_secs(30);

/// Connections that one peer may have open to us, and lanes as well: a handful per protocol; beyond that something leaks.
const INCOMING_MAX: usize = 64;

/// Streams that are served for one peer at once, whatever carries them.
const SERVED_MAX: usize = 256;

/// What is counted for each peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Count {
    /// Connections that it made to us.
    Connections,
    /// Lanes that it opened to us. Counted apart, so that there is a way when they are used up.
    LanesIn,
    /// Its streams that we serve.
    Served,
    /// Lanes between us, whoever opened them.
    Lanes,
    /// Connections that are kept for a protocol, whoever made them.
    Uses,
}

impl Count {
    fn max(self) -> usize {
        match self {
            Self::Connections | Self::LanesIn => INCOMING_MAX,
            Self::Served => SERVED_MAX,
            Self::Lanes | Self::Uses => usize::MAX,
        }
    }
}

/// Milliseconds since 1970.
pub(crate) fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

struct Entry {
    /// Nothing yet of a node that only the configuration names.
    signed: Option<Signed<AddressRecord>>,
    record: AddressRecord,
    /// Where the configuration says that it is, whatever it says itself.
    fixed: Vec<SocketAddr>,
    last_seen: u64,
    /// Connections on which the two greet, each with its number.
    present: Vec<(u64, Connection)>,
    instance: Option<u64>,
    counts: [usize; 5],
    lanes_rest_until: Option<Instant>,
    keeper: Keeper,
}

/// What the task that looks after a peer waits for.
#[derive(Debug, Clone)]
pub(crate) struct Keeper {
    /// Rung when there may be something to do.
    pub(crate) wake: Arc<Notify>,
    /// Ends when the peer is forgotten.
    pub(crate) forgotten: CancellationToken,
    /// Until when nothing is opened to the peer or taken from it.
    quiet_until: Arc<Mutex<Option<Instant>>>,
}

impl Keeper {
    /// Lets nothing be opened to the peer or taken from it for a while.
    pub(crate) fn be_quiet(&self, pause: Duration) {
        *self.quiet_until.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now() + pause);
    }

    /// How much longer that is.
    pub(crate) fn quiet(&self) -> Duration {
        let until = *self.quiet_until.lock().unwrap_or_else(PoisonError::into_inner);
        until.map_or(Duration::ZERO, |until| until.saturating_duration_since(Instant::now()))
    }
}

pub(crate) struct Book {
    entries: Mutex<BTreeMap<NodeId, Entry>>,
    store: Arc<dyn PeerStore>,
    writing: tokio::sync::Mutex<()>,
    changes: watch::Sender<u64>,
}

/// What a greeting taught us.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct News {
    pub(crate) moved: bool,
    pub(crate) restarted: bool,
}

impl Book {
    /// Reads the store. Records that no longer verify are left out and reported.
    pub(crate) async fn open(store: Arc<dyn PeerStore>) -> Result<Self, PeerStoreError> {
        let mut entries = BTreeMap::new();
        for StoredPeer { record: signed, last_seen } in store.load_all().await? {
            match open_record(&signed) {
                Ok(record) => {
                    entries.insert(record.node, Entry::new(Some(signed), record, last_seen));
                }
                Err(error) => warn!(%error, "a stored peer is not usable and left out"),
            }
        }
        let (entries, writing) = (Mutex::new(entries), tokio::sync::Mutex::new(()));
        Ok(Self { entries, store, writing, changes: watch::Sender::new(0) })
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<NodeId, Entry>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn changed(&self) {
        self.changes.send_modify(|count| *count += 1);
    }

    /// Counts up whenever a peer comes, goes, connects, disconnects or moves.
    pub(crate) fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    pub(crate) fn knows(&self, node: &NodeId) -> bool {
        self.lock().contains_key(node)
    }

    /// Whether a peer says that it is in this network, or the configuration says so.
    pub(crate) fn is_home(&self, network: Network) -> bool {
        let entries = self.lock();
        let mut places =
            entries.values().flat_map(|entry| entry.fixed.iter().chain(&entry.record.quic).chain(&entry.record.lane));
        network == Network::Relayed || places.any(|place| Network::from(place.ip()) == network)
    }

    pub(crate) fn nodes(&self) -> Vec<NodeId> {
        self.lock().keys().copied().collect()
    }

    /// Where to look for a node: what it said, and what the configuration says.
    pub(crate) fn record(&self, node: &NodeId) -> Option<AddressRecord> {
        let entries = self.lock();
        let entry = entries.get(node)?;
        let mut record = entry.record.clone();
        let fixed = entry.fixed.iter().filter(|address| !entry.record.quic.contains(address));
        record.quic.extend(fixed);
        Some(record)
    }

    /// Makes nodes known by configuration. They are stored once they have said themselves where they are.
    pub(crate) fn fix(&self, peers: &[FixedPeer]) {
        let mut entries = self.lock();
        for peer in peers {
            let entry = entries.entry(peer.node).or_insert_with(|| {
                let record =
                    AddressRecord { node: peer.node, sequence: 0, quic: Vec::new(), lane: Vec::new(), relay: None };
                Entry::new(None, record, 0)
            });
            entry.fixed.push(peer.address);
        }
    }

    /// Takes in a newer record of a known peer that came by another way than from itself.
    pub(crate) async fn overhear(&self, signed: Signed<AddressRecord>, record: AddressRecord) {
        let node = record.node;
        let newer = self.lock().get_mut(&node).is_some_and(|entry| entry.learn(signed, record));
        if newer {
            self.write_or_warn(&node).await;
            self.changed();
        }
    }

    pub(crate) fn signed_record(&self, node: &NodeId) -> Option<Signed<AddressRecord>> {
        self.lock().get(node).and_then(|entry| entry.signed.clone())
    }

    pub(crate) fn keeper(&self, node: &NodeId) -> Option<Keeper> {
        self.lock().get(node).map(|entry| entry.keeper.clone())
    }

    pub(crate) fn peer(&self, node: &NodeId) -> Option<Peer> {
        self.lock().get(node).map(Entry::peer)
    }

    pub(crate) fn peers(&self) -> Vec<Peer> {
        self.lock().values().map(Entry::peer).collect()
    }

    /// Makes a node known, and stores it. True if it was not known before.
    pub(crate) async fn add(
        &self,
        signed: Signed<AddressRecord>,
        record: AddressRecord,
    ) -> Result<bool, PeerStoreError> {
        let node = record.node;
        let new = {
            let mut entries = self.lock();
            match entries.get_mut(&node) {
                Some(entry) => {
                    entry.learn(signed, record);
                    false
                }
                None => {
                    entries.insert(node, Entry::new(Some(signed), record, 0));
                    true
                }
            }
        };
        if let Err(error) = self.write(&node).await {
            if new {
                self.lock().remove(&node);
            }
            return Err(error);
        }
        self.changed();
        Ok(new)
    }

    /// Forgets a node, and removes it from the store. True if it was known.
    pub(crate) async fn remove(&self, node: &NodeId) -> Result<bool, PeerStoreError> {
        let _turn = self.writing.lock().await;
        self.store.remove(*node).await?;
        let removed = self.lock().remove(node);
        if let Some(entry) = &removed {
            entry.keeper.forgotten.cancel();
            self.changed();
        }
        Ok(removed.is_some())
    }

    /// Takes in what a known peer says about itself.
    pub(crate) async fn learn(&self, signed: Signed<AddressRecord>, record: AddressRecord, instance: u64) -> News {
        let node = record.node;
        let mut news = News::default();
        if let Some(entry) = self.lock().get_mut(&node) {
            let was_at = entry.record.quic.clone();
            news.moved = entry.learn(signed, record);
            news.restarted = match entry.instance.replace(instance) {
                Some(before) => before != instance,
                // Known from an invitation, and never met since: if it is elsewhere now, what was opened to it leads to where nobody is any more.
                None => news.moved && entry.record.quic != was_at,
            };
        }
        if news.moved {
            self.write_or_warn(&node).await;
            self.changed();
        }
        news
    }

    async fn write(&self, node: &NodeId) -> Result<(), PeerStoreError> {
        let _turn = self.writing.lock().await;
        let stored = self.lock().get(node).and_then(Entry::stored);
        match stored {
            Some(stored) => self.store.save(stored).await,
            None => Ok(()),
        }
    }

    /// For what the peer will tell us again.
    pub(crate) async fn write_or_warn(&self, node: &NodeId) {
        if let Err(error) = self.write(node).await {
            warn!(peer = %node.short(), %error, "a peer cannot be stored; after a restart an older address is used");
        }
    }

    pub(crate) fn is_present(&self, node: &NodeId) -> bool {
        self.lock().get(node).is_some_and(|entry| !entry.present.is_empty())
    }

    /// Whether a peer is connected directly.
    pub(crate) fn is_direct(&self, node: &NodeId) -> bool {
        self.lock().get(node).is_some_and(|entry| entry.direct_round_trip().is_some())
    }

    /// The peers through which another may be reached, those with the least round trip first: all that are connected directly.
    pub(crate) fn relays_to(&self, target: &NodeId, max: usize) -> Vec<NodeId> {
        let entries = self.lock();
        let others = entries.iter().filter(|(node, _)| *node != target);
        let mut direct: Vec<(Duration, NodeId)> =
            others.filter_map(|(node, entry)| Some((entry.direct_round_trip()?, *node))).collect();
        drop(entries);
        direct.sort_unstable();
        direct.into_iter().take(max).map(|(_, node)| node).collect()
    }

    /// The connections on which the two greet.
    pub(crate) fn present_on(&self, node: &NodeId) -> Vec<Connection> {
        let entries = self.lock();
        let present = entries.get(node).into_iter().flat_map(|entry| &entry.present);
        present.map(|(_, connection)| connection.clone()).collect()
    }

    /// Counts a connection on which the two greet, as long as the guard lives. `None` if the node is not known.
    pub(crate) fn present(self: &Arc<Self>, node: NodeId, connection: Connection) -> Option<PresenceGuard> {
        let number = connection.stable_id() as u64;
        let mut entries = self.lock();
        let entry = entries.get_mut(&node)?;
        entry.present.push((number, connection));
        entry.last_seen = now_ms();
        drop(entries);
        self.changed();
        Some(PresenceGuard { book: self.clone(), node, number })
    }

    /// Counts one more of something of a peer, as long as the guard lives. `None` if there are as many as may be, or the node is not known.
    pub(crate) fn admit(self: &Arc<Self>, node: NodeId, count: Count) -> Option<CountGuard> {
        let mut entries = self.lock();
        let counted = &mut entries.get_mut(&node)?.counts[count as usize];
        if *counted >= count.max() {
            return None;
        }
        *counted += 1;
        Some(CountGuard { book: self.clone(), node, count })
    }

    /// Whether something goes on with a peer beside greetings.
    pub(crate) fn is_in_use(&self, node: &NodeId) -> bool {
        let used = |entry: &Entry| entry.counts[Count::Uses as usize] + entry.counts[Count::Lanes as usize] > 0;
        self.lock().get(node).is_some_and(used)
    }

    pub(crate) fn lanes_rest(&self, node: &NodeId) -> bool {
        let now = Instant::now();
        self.lock().get(node).and_then(|entry| entry.lanes_rest_until).is_some_and(|until| now < until)
    }

    pub(crate) fn rest_lanes(&self, node: &NodeId) {
        if let Some(entry) = self.lock().get_mut(node) {
            entry.lanes_rest_until = Some(Instant::now() + LANE_REST);
        }
    }
}

impl Entry {
    fn new(signed: Option<Signed<AddressRecord>>, record: AddressRecord, last_seen: u64) -> Self {
        let (wake, forgotten) = (Arc::new(Notify::new()), CancellationToken::new());
        let keeper = Keeper { wake, forgotten, quiet_until: Arc::default() };
        Self {
            signed,
            record,
            fixed: Vec::new(),
            last_seen,
            present: Vec::new(),
            instance: None,
            counts: [0; 5],
            lanes_rest_until: None,
            keeper,
        }
    }

    /// Takes a newer record. True if it was one.
    fn learn(&mut self, signed: Signed<AddressRecord>, record: AddressRecord) -> bool {
        if record.sequence <= self.record.sequence {
            return false;
        }
        if record.lane != self.record.lane {
            self.lanes_rest_until = None;
        }
        self.signed = Some(signed);
        self.record = record;
        self.keeper.wake.notify_one();
        true
    }

    fn stored(&self) -> Option<StoredPeer> {
        Some(StoredPeer { record: self.signed.clone()?, last_seen: self.last_seen })
    }

    /// The round trip to it, if it is connected directly.
    fn direct_round_trip(&self) -> Option<Duration> {
        let connected = self.present.last().and_then(|(_, connection)| path_of(connection))?;
        matches!(connected.path, Path::Direct(_)).then_some(connected.round_trip)
    }

    fn peer(&self) -> Peer {
        let connection = self.present.last().map(|(_, connection)| connection);
        Peer {
            id: self.record.node,
            record: self.record.clone(),
            last_seen: if connection.is_some() { now_ms() } else { self.last_seen },
            connected: connection.and_then(path_of),
            lanes: self.counts[Count::Lanes as usize],
            connections: self.counts[Count::Uses as usize],
        }
    }
}

/// Says, while it lives, that a peer is connected.
pub(crate) struct PresenceGuard {
    book: Arc<Book>,
    node: NodeId,
    number: u64,
}

impl Drop for PresenceGuard {
    fn drop(&mut self) {
        if let Some(entry) = self.book.lock().get_mut(&self.node) {
            entry.present.retain(|(number, _)| *number != self.number);
            entry.last_seen = now_ms();
            entry.keeper.wake.notify_one();
        }
        self.book.changed();
    }
}

/// One of what is counted.
pub(crate) struct CountGuard {
    book: Arc<Book>,
    node: NodeId,
    count: Count,
}

impl Drop for CountGuard {
    fn drop(&mut self) {
        // A peer that was forgotten and joined again meanwhile begins at zero.
        if let Some(entry) = self.book.lock().get_mut(&self.node) {
            let counted = &mut entry.counts[self.count as usize];
            *counted = counted.saturating_sub(1);
        }
    }
}
