//! What this node knows of its peers at the moment: their cards, whether they answer, and the homes for shards they are.
//!
//! A prober asks every peer for its card: at once when it is new, comes or goes, now and then while the link is connected with it, and often otherwise. The engine sees the table as [`Homes`].

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use atoll_control::PeerStatus;
use atoll_engine::{HomeInfo, Homes};
use atoll_ids::{Domain, NodeId, OwnerId};
use atoll_keys::{OwnerKey, Signed};
use atoll_link::{LinkHandle, Traffic};
use atoll_segments::Segments;
use atoll_shard::{BoxStream, Dial, DialError, ShardClient, ShardHome, StorageGrant};
use futures_util::future::{BoxFuture, join_all};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::card::{self, Checked};
use crate::storage::{LocalHome, status as storage_status};

/// A node that died is noticed by the engine at once where it matters; this is for the status and for placement.
const PROBE_EVERY: Duration = Duration::from_secs(5);

/// The same while the link is connected with the peer and it answered: the link notices its death and says so. A question and its answer take a kilobyte, and most peers have
/// nothing new to say; who wants to know now [asks](PeerTable::freshen).
const PROBE_CONNECTED_EVERY: Duration = Duration::from_secs(300);

/// What was said longer ago than this is asked for again before it is shown.
const FRESH: Duration = Duration::from_secs(20);

/// An answer that takes longer counts as none.
const PROBE_WITHIN: Duration = Duration::from_secs(3);

/// See [`PeerTable::ask`].
const QUESTIONS_MAX: u32 = 5;

/// Long enough for a connection to be replaced, short against [`PROBE_WITHIN`].
const QUESTION_PAUSE: Duration = Duration::from_millis(100);

/// How long whoever wants to see what peers say waits for it.
const FRESHEN_WITHIN: Duration = Duration::from_millis(500);

/// A grant lets this node act for its owner on a peer. It is renewed long before it ends, and short enough that one that leaks
/// does not matter for long.
const GRANT_LIFETIME: Duration = Duration::from_secs(7 * 24 * 3600);

/// See [`GRANT_LIFETIME`].
const GRANT_RENEWED_EVERY: Duration = Duration::from_secs(24 * 3600);

/// What decides when a peer is asked.
#[derive(Debug, Clone, Copy, Default)]
struct Asking {
    /// Whether it was ever asked, with or without an answer.
    asked: bool,
    /// Whether it is being asked now.
    asking: bool,
    /// Whether the link was connected with it when it was asked last.
    connected: bool,
    reachable: bool,
    last_seen: Option<Instant>,
}

/// What is known of one peer.
struct Known {
    asking: Asking,
    card: Option<Checked>,
    round_trip: Option<Duration>,
    home: Arc<ShardClient>,
    granted: Instant,
}

/// See the module's documentation. Cheap to clone.
#[derive(Clone)]
pub(crate) struct PeerTable {
    shared: Arc<Shared>,
}

struct Shared {
    node: NodeId,
    owner: Arc<OwnerKey>,
    link: LinkHandle,
    local: Option<(Arc<LocalHome>, Segments, Domain)>,
    known: RwLock<HashMap<NodeId, Known>>,
    /// Counts finished questions, for whoever waits for one.
    answers: watch::Sender<u64>,
}

/// Opens shard streams through the link.
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

impl Asking {
    /// Whether it is to be asked now; with `only_new`, if something happened.
    fn is_due(&self, now: Instant, connected: bool, only_new: bool) -> bool {
        if self.asking {
            return false;
        }
        if !self.asked || self.connected != connected {
            return true;
        }
        let quiet_for = if connected && self.reachable { PROBE_CONNECTED_EVERY } else { PROBE_EVERY };
        // Half an interval early rather than late.
        let is_over = self.last_seen.is_none_or(|at| now.duration_since(at) + PROBE_EVERY / 2 >= quiet_for);
        !only_new && is_over
    }
}

impl PeerTable {
    /// A table that is filled by [`Self::run`]. `local` is this node's own storage and where it stands.
    pub(crate) fn new(node: NodeId, owner: Arc<OwnerKey>, link: LinkHandle, local: Option<(Segments, Domain)>) -> Self {
        let local =
            local.map(|(segments, domain)| (LocalHome::new(node, owner.id(), segments.clone()), segments, domain));
        let shared = Shared { node, owner, link, local, known: RwLock::default(), answers: watch::Sender::new(0) };
        Self { shared: Arc::new(shared) }
    }

    /// Asks every peer at an interval, and new ones at once, until told to stop.
    pub(crate) async fn run(self, stop: CancellationToken) {
        let mut changes = self.shared.link.changes();
        let mut ticks = tokio::time::interval(PROBE_EVERY);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut questions = JoinSet::new();
        loop {
            let only_new = tokio::select! {
                () = stop.cancelled() => return,
                _ = ticks.tick() => false,
                changed = changes.changed() => if changed.is_err() { return } else { true },
            };
            while questions.try_join_next().is_some() {}
            for peer in self.to_ask(only_new) {
                let table = self.clone();
                questions.spawn(async move { table.probe(peer).await });
            }
        }
    }

    /// Drops who was forgotten, and gives those whom to ask: nobody twice at the same time.
    fn to_ask(&self, only_new: bool) -> Vec<NodeId> {
        let peers = self.shared.link.peers();
        let peers: HashMap<NodeId, bool> = peers.into_iter().map(|peer| (peer.id, peer.connected.is_some())).collect();
        let mut known = self.shared.write();
        known.retain(|node, _| peers.contains_key(node));
        let mut due = Vec::new();
        for (node, connected) in peers {
            match known.get_mut(&node) {
                Some(known) if !known.asking.is_due(Instant::now(), connected, only_new) => {}
                Some(known) => {
                    known.asking.connected = connected;
                    due.push(node);
                }
                None => due.push(node),
            }
        }
        due
    }

    /// Asks every peer now and waits for the answers.
    pub(crate) async fn refresh(&self) {
        let peers = self.shared.link.peers();
        join_all(peers.into_iter().map(|peer| self.probe(peer.id))).await;
    }

    /// Asks those peers now that are there and have said nothing for a while, and waits a moment for the answers.
    pub(crate) async fn freshen(&self) {
        let old: Vec<NodeId> = {
            let known = self.shared.read();
            let is_old = |known: &Known| {
                known.asking.reachable
                    && !known.asking.asking
                    && known.asking.last_seen.is_none_or(|at| at.elapsed() > FRESH)
            };
            known.iter().filter(|(_, known)| is_old(known)).map(|(peer, _)| *peer).collect()
        };
        let asked = old.into_iter().map(|peer| {
            let table = self.clone();
            // Who does not answer in this moment may yet, and is told apart by that.
            tokio::spawn(async move { table.probe(peer).await })
        });
        let _: Result<_, _> = timeout(FRESHEN_WITHIN, join_all(asked)).await;
    }

    /// Waits until every peer was asked at least once: right after a start or a join, what is not known yet would look as if it were
    /// not there. A peer that does not answer is waited for once, not every time.
    pub(crate) async fn settled(&self) {
        let mut answers = self.shared.answers.subscribe();
        loop {
            let peers = self.shared.link.peers();
            let all_asked = {
                let known = self.shared.read();
                peers.iter().all(|peer| known.get(&peer.id).is_some_and(|known| known.asking.asked))
            };
            if all_asked || answers.changed().await.is_err() {
                return;
            }
        }
    }

    /// Asks one peer now.
    pub(crate) async fn probe(&self, peer: NodeId) {
        self.shared.write().entry(peer).or_insert_with(|| self.shared.unknown(peer)).asking.asking = true;
        let asked = timeout(PROBE_WITHIN, self.ask(peer));
        let asked = asked.await.unwrap_or_else(|_| Err(format!("no answer in {} s", PROBE_WITHIN.as_secs())));
        self.note(peer, asked);
        self.shared.answers.send_modify(|count| *count += 1);
    }

    /// Asks a few times: while two nodes are getting to know each other, a connection may be closed in favour of the one that the other made.
    async fn ask(&self, peer: NodeId) -> Result<(Checked, Duration), String> {
        let mut tries = 1;
        loop {
            match self.ask_once(peer).await {
                Err(_) if tries < QUESTIONS_MAX => tries += 1,
                done => return done,
            }
            tokio::time::sleep(QUESTION_PAUSE).await;
        }
    }

    async fn ask_once(&self, peer: NodeId) -> Result<(Checked, Duration), String> {
        let stream = self.shared.link.open(peer, card::PROTOCOL, Traffic::Aside).await;
        let stream = stream.map_err(|error| error.to_string())?;
        let began = Instant::now();
        let checked = card::ask(stream, peer).await.map_err(|error| error.to_string())?;
        Ok((checked, began.elapsed()))
    }

    fn note(&self, peer: NodeId, asked: Result<(Checked, Duration), String>) {
        let mut known = self.shared.write();
        let entry = known.entry(peer).or_insert_with(|| self.shared.unknown(peer));
        (entry.asking.asked, entry.asking.asking) = (true, false);
        if entry.granted.elapsed() > GRANT_RENEWED_EVERY {
            entry.home.renew(self.shared.grant());
            entry.granted = Instant::now();
        }
        match asked {
            Ok((checked, round_trip)) => {
                entry.card = Some(checked);
                entry.asking.reachable = true;
                entry.round_trip = Some(round_trip);
                entry.asking.last_seen = Some(Instant::now());
            }
            Err(why) => {
                if entry.asking.reachable {
                    tracing::info!(peer = %peer.short(), why, "peer does not answer");
                }
                entry.asking.reachable = false;
                entry.round_trip = None;
            }
        }
    }

    /// Counts up whenever a peer answered, or did not in time.
    pub(crate) fn answers(&self) -> watch::Receiver<u64> {
        self.shared.answers.subscribe()
    }

    /// Whose a peer is, as far as it has proven.
    pub(crate) fn owner(&self, peer: &NodeId) -> Option<OwnerId> {
        self.shared.read().get(peer)?.card.as_ref()?.domain.owner
    }

    /// The peers as the status shows them, by id.
    pub(crate) fn status(&self) -> Vec<PeerStatus> {
        let known = self.shared.read();
        let mut peers: Vec<PeerStatus> = self
            .shared
            .link
            .peers()
            .into_iter()
            .map(|peer| {
                let known = known.get(&peer.id);
                let card = known.and_then(|known| known.card.as_ref());
                let record = &peer.record;
                PeerStatus {
                    node: peer.id,
                    name: card.and_then(|card| card.name.clone()),
                    owner: card.and_then(|card| card.domain.owner),
                    reachable: known.is_some_and(|known| known.asking.reachable),
                    rtt_ms: known.and_then(|known| known.round_trip).map(|rtt| rtt.as_secs_f64() * 1e3),
                    last_seen_seconds: known.and_then(|known| known.asking.last_seen).map(|at| at.elapsed().as_secs()),
                    storage: card.and_then(|card| card.storage),
                    gateway: card.and_then(|card| card.gateway.clone()),
                    addresses: crate::addresses(&record.quic, &record.lane),
                }
            })
            .collect();
        peers.sort_by_key(|peer| peer.node);
        peers
    }
}

impl Shared {
    fn read(&self) -> RwLockReadGuard<'_, HashMap<NodeId, Known>> {
        self.known.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, HashMap<NodeId, Known>> {
        self.known.write().unwrap_or_else(PoisonError::into_inner)
    }

    fn unknown(&self, peer: NodeId) -> Known {
        let dial = Arc::new(LinkDial(self.link.clone()));
        Known {
            asking: Asking::default(),
            card: None,
            round_trip: None,
            home: Arc::new(ShardClient::new(peer, dial, self.grant())),
            granted: Instant::now(),
        }
    }

    fn grant(&self) -> Signed<StorageGrant> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let grant = StorageGrant {
            owner: self.owner.id(),
            node: self.node,
            not_before: now,
            not_after: now + GRANT_LIFETIME.as_secs(),
        };
        Signed::sign(&grant, &*self.owner)
    }
}

impl Homes for PeerTable {
    fn list(&self) -> Vec<HomeInfo> {
        let local = self.shared.local.iter().map(|(_, segments, domain)| HomeInfo {
            node: self.shared.node,
            weight: storage_status(segments).capacity.0,
            domain: domain.clone(),
            up: true,
        });
        let known = self.shared.read();
        let remote = known.iter().filter_map(|(node, known)| {
            let card = known.card.as_ref()?;
            let storage = card.storage?;
            Some(HomeInfo {
                node: *node,
                weight: storage.capacity.0,
                domain: card.domain.clone(),
                up: known.asking.reachable,
            })
        });
        local.chain(remote).collect()
    }

    fn home(&self, node: NodeId) -> Option<Arc<dyn ShardHome>> {
        if let Some((local, ..)) = self.shared.local.as_ref().filter(|_| node == self.shared.node) {
            return Some(local.clone());
        }
        self.shared.read().get(&node).map(|known| known.home.clone() as Arc<dyn ShardHome>)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peer_is_asked_when_something_happened_and_rarely_while_it_is_there() {
        let start = Instant::now();
        let fine = Asking { asked: true, asking: false, connected: true, reachable: true, last_seen: Some(start) };
        let check = |asking: Asking, connected: bool, only_new: bool, after: u64, expect: bool| {
            let due = asking.is_due(start + Duration::from_secs(after), connected, only_new);
            assert_eq!(due, expect, "{asking:?}, connected: {connected}, only new: {only_new}, after {after} s");
        };
        // New, being asked, gone, back.
        check(Asking::default(), false, true, 0, true);
        check(Asking { asking: true, ..fine }, false, false, 60, false);
        check(fine, false, true, 0, true);
        check(Asking { connected: false, ..fine }, true, true, 0, true);
        // There, and there still.
        check(fine, true, false, 5, false);
        check(fine, true, true, 60, false);
        check(fine, true, false, 60, false);
        check(fine, true, false, 300, true);
        // Not there, or it does not answer.
        check(Asking { connected: false, ..fine }, false, false, 5, true);
        check(Asking { reachable: false, ..fine }, true, false, 5, true);
        check(Asking { reachable: false, last_seen: None, ..fine }, true, false, 0, true);
    }
}
