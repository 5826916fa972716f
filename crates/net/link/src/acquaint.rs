//! Acquaintances: nodes that are no peers and with which packets are exchanged all the same.
//!
//! A node becomes one when it is [found](crate::find) because somebody here sends to its planetary address, or when it opens `atoll/packet/1` here and shows, in one
//! frame, its signed record: the handshake proves who it is, the record says where it can be answered. What its packets may do is for the filter to say, which is told of it
//! ([`Society`]) before the first one arrives. Nothing else is open to it.
//!
//! Acquaintances are kept in memory only, and bounded: in all, and by the network that they come from, since keys cost nothing. Those that are not in use go
//! first, and never one that this node looked for on account of a stranger that came by itself. Who was not in use for a while is forgotten.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use atoll_find::Network;
use atoll_ids::{NodeId, PlanetaryAddress};
use atoll_keys::Signed;
use atoll_wire::{DecodeError, Versioned};
use iroh::endpoint::{Connection, RecvStream, SendStream};
use serde::{Deserialize, Serialize};
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tracing::{debug, info};

use crate::address::{AddressRecord, is_dialable, open_record};
use crate::dial::DialError;
use crate::node::Node;
use crate::peers::Path;
use crate::quic::{code, path_of};

/// Acquaintances at once: what a busy machine speaks to in some minutes, at a few KiB each.
const ACQUAINTANCES_MAX: usize = 256;

/// Of one narrow network (an IPv6 /64, an IPv4 address), and of a wide one (/48, /24).
const PER_NARROW_MAX: usize = 16;
const PER_WIDE_MAX: usize = 64;

/// Connections for packets that an acquaintance may have open to us: one, and another in its place.
const CONNECTIONS_MAX: usize = 4;

/// Strangers that introduce themselves at once.
const MEETINGS_MAX: usize = 32;

/// How long an introduction may take: a round trip, and a slow one again.
const MEETING_TIMEOUT: Duration = Duration::from_secs(3);

/// Who was not in use for this long is forgotten. Finding it again takes less than a second.
const IDLE: Duration = Duration::from_secs(600);

/// The most bytes of credentials: an owner's signature for a node takes 200.
pub const CREDENTIALS_BYTES_MAX: usize = 512;

/// The most bytes of an introduction: a record with every address, and credentials.
const INTRODUCTION_BYTES_MAX: u32 = 4096;

/// What strangers tell each other about themselves before they exchange packets. The answer is the same.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Introduction {
    /// Where the sender is.
    pub record: Signed<AddressRecord>,
    /// What else it shows of itself. The link does not look inside.
    pub credentials: Vec<u8>,
}

impl Versioned for Introduction {
    const VERSION: u16 = 1;
    const NAME: &'static str = "introduction";
}

/// Why bytes are not an introduction.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IntroductionError {
    /// Unreadable.
    #[error(transparent)]
    Decode(#[from] DecodeError),
    /// More credentials than anybody has.
    #[error("an introduction with {found} bytes of credentials where {CREDENTIALS_BYTES_MAX} are possible")]
    Credentials {
        /// How many bytes.
        found: usize,
    },
}

/// Reads an introduction. What it says is not yet believed.
///
/// # Errors
///
/// [`IntroductionError`].
pub fn decode_introduction(bytes: &[u8]) -> Result<Introduction, IntroductionError> {
    let introduction: Introduction = atoll_wire::decode(bytes)?;
    let found = introduction.credentials.len();
    if found > CREDENTIALS_BYTES_MAX {
        return Err(IntroductionError::Credentials { found });
    }
    Ok(introduction)
}

/// A node that is no peer, and with which packets are exchanged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Acquaintance {
    /// Who.
    pub node: NodeId,
    /// Where it says it is.
    pub record: AddressRecord,
    /// What it has shown of itself; empty until the two have spoken. Not verified.
    pub credentials: Vec<u8>,
}

/// Who wants to know of acquaintances, before their packets arrive. It must not wait, nor ask the link anything.
pub trait Society: Send + Sync + 'static {
    /// A node is an acquaintance from now on, or has shown more of itself.
    fn met(&self, who: &Acquaintance);

    /// A node is none any more; it may be a peer by now.
    fn parted(&self, node: &NodeId);
}

impl Society for () {
    fn met(&self, _: &Acquaintance) {}

    fn parted(&self, _: &NodeId) {}
}

struct Entry {
    who: Acquaintance,
    /// Where it was met; what limits go by.
    at: SocketAddr,
    /// Whether this node looked for it.
    wanted: bool,
    used: Instant,
}

impl Entry {
    /// Whether it is of the network that `at` is in, by one of both widths.
    fn is_of(&self, network: fn(SocketAddr) -> Network, at: SocketAddr) -> bool {
        network(self.at) == network(at)
    }
}

/// Gives the network of an address, narrow or wide.
type Width = fn(SocketAddr) -> Network;

/// Why somebody does not become an acquaintance.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("there are as many acquaintances as there may be")]
struct Crowded;

/// The table of acquaintances.
pub(crate) struct Acquaintances {
    table: Mutex<BTreeMap<NodeId, Entry>>,
    society: Arc<dyn Society>,
    meetings: Semaphore,
}

impl Acquaintances {
    pub(crate) fn new(society: Arc<dyn Society>) -> Self {
        Self { table: Mutex::default(), society, meetings: Semaphore::new(MEETINGS_MAX) }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<NodeId, Entry>> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn knows(&self, node: &NodeId) -> bool {
        self.lock().contains_key(node)
    }

    pub(crate) fn count(&self) -> usize {
        self.lock().len()
    }

    /// Everybody, by id.
    pub(crate) fn all(&self) -> Vec<Acquaintance> {
        self.lock().values().map(|entry| entry.who.clone()).collect()
    }

    /// Who has this address.
    pub(crate) fn at(&self, address: PlanetaryAddress) -> Option<NodeId> {
        let mut table = self.lock();
        let entry = table.values_mut().find(|entry| entry.who.node.planetary_address() == address)?;
        entry.used = Instant::now();
        Some(entry.who.node)
    }

    /// Where to look for one: what it said, and where it was met.
    fn record(&self, node: &NodeId) -> Option<AddressRecord> {
        let table = self.lock();
        let entry = table.get(node)?;
        let mut record = entry.who.record.clone();
        if !record.quic.contains(&entry.at) {
            record.quic.push(entry.at);
        }
        Some(record)
    }

    /// Takes somebody in, and gives who went for it. `open` are those that are in use.
    fn admit(
        &self,
        new: (Acquaintance, SocketAddr, bool),
        open: &std::collections::BTreeSet<NodeId>,
    ) -> Result<Vec<NodeId>, Crowded> {
        let ((who, at, wanted), now) = (new, Instant::now());
        let mut table = self.lock();
        if let Some(entry) = table.get_mut(&who.node) {
            let credentials = if who.credentials.is_empty() { &entry.who.credentials } else { &who.credentials };
            let credentials = credentials.clone();
            if who.record.sequence > entry.who.record.sequence {
                entry.who.record = who.record;
            }
            (entry.who.credentials, entry.used, entry.wanted) = (credentials, now, entry.wanted || wanted);
            if !wanted {
                entry.at = at;
            }
            self.society.met(&entry.who);
            return Ok(Vec::new());
        }
        let mut gone = Vec::new();
        let limits: [(usize, Option<Width>); 3] =
            [(PER_NARROW_MAX, Some(Network::narrow)), (PER_WIDE_MAX, Some(Network::wide)), (ACQUAINTANCES_MAX, None)];
        for (max, network) in limits {
            let of = |entry: &Entry| network.is_none_or(|network| entry.is_of(network, at));
            if table.values().filter(|entry| of(entry)).count() < max {
                continue;
            }
            let worth = |(node, entry): &(&NodeId, &Entry)| (entry.wanted, open.contains(*node), entry.used);
            let least = table.iter().filter(|(_, entry)| of(entry)).min_by_key(worth);
            let Some(node) = least.filter(|(_, entry)| wanted || !entry.wanted).map(|(node, _)| *node) else {
                gone.iter().for_each(|node| self.society.parted(node));
                return Err(Crowded);
            };
            table.remove(&node);
            gone.push(node);
        }
        gone.iter().for_each(|node| self.society.parted(node));
        self.society.met(&who);
        table.insert(who.node, Entry { who, at, wanted, used: now });
        Ok(gone)
    }

    fn drop(&self, node: &NodeId) {
        let mut table = self.lock();
        if table.remove(node).is_some() {
            self.society.parted(node);
        }
    }

    /// Those that were not in use for a while.
    fn idle(&self, open: &std::collections::BTreeSet<NodeId>) -> Vec<NodeId> {
        let mut table = self.lock();
        for node in open {
            if let Some(entry) = table.get_mut(node) {
                entry.used = Instant::now();
            }
        }
        table.iter().filter(|(_, entry)| entry.used.elapsed() >= IDLE).map(|(node, _)| *node).collect()
    }
}

impl Node {
    /// Where to look for a peer or an acquaintance.
    pub(crate) fn whereabouts(&self, node: &NodeId) -> Option<AddressRecord> {
        self.book.record(node).or_else(|| self.acquaintances.record(node))
    }

    /// Makes somebody an acquaintance that this node looked for. False if there are too many.
    pub(crate) fn get_to_know(&self, record: AddressRecord) -> bool {
        let Some(at) = record.quic.iter().copied().find(is_dialable) else { return false };
        let who = Acquaintance { node: record.node, record, credentials: Vec::new() };
        self.make_acquaintance(who, at, true).is_ok()
    }

    fn make_acquaintance(&self, who: Acquaintance, at: SocketAddr, wanted: bool) -> Result<(), Crowded> {
        let gone = self.acquaintances.admit((who, at, wanted), &self.packets.open_with())?;
        gone.iter().for_each(|node| self.leave_alone(node));
        Ok(())
    }

    fn leave_alone(&self, node: &NodeId) {
        if !self.book.knows(node) {
            self.packets.forget(node);
            self.meters.forget(node);
        }
    }

    /// Forgets an acquaintance and closes what is open with it.
    fn part_with(&self, node: &NodeId) {
        self.acquaintances.drop(node);
        self.leave_alone(node);
    }

    /// Forgets who was not in use for a while, or is a peer by now.
    pub(crate) fn forget_acquaintances(&self) {
        let peers = self.acquaintances.all().into_iter().map(|who| who.node).filter(|node| self.book.knows(node));
        peers.for_each(|node| self.acquaintances.drop(&node));
        for node in self.acquaintances.idle(&self.packets.open_with()) {
            debug!(node = %node.short(), "an acquaintance is forgotten");
            self.part_with(&node);
        }
    }

    /// An acquaintance cannot be dialled: what is known of it is of no use, unless it is heard. It is looked for again when there is something to send.
    pub(crate) fn led_nowhere(&self, node: &NodeId) {
        let Some(record) = self.acquaintances.record(node).filter(|_| !self.book.knows(node)) else { return };
        if self.packets.dialled_by(node) == 0 {
            self.finding.led_nowhere(node, record.sequence);
            self.acquaintances.drop(node);
            self.meters.forget(node);
        }
    }

    fn introduction(&self) -> Introduction {
        Introduction { record: self.own.borrow().signed.clone(), credentials: self.config.credentials.clone() }
    }

    /// On a connection for packets that we dialled: says who we are if we are no peer of theirs. A peer of ours that does not know us does not take it, and closes.
    pub(crate) async fn show_ourselves(&self, to: NodeId, connection: Connection) -> Result<Connection, DialError> {
        if self.book.knows(&to) {
            return Ok(connection);
        }
        let exchange = async {
            let (mut say, mut hear) = connection.open_bi().await.map_err(|error| error.to_string())?;
            say_introduction(&mut say, &self.introduction()).await?;
            hear_introduction(&mut hear).await
        };
        let outcome = timeout(MEETING_TIMEOUT, exchange).await.unwrap_or_else(|_| Err("it did not answer".to_owned()));
        if let Some(reason) = connection.close_reason() {
            return Err(DialError::of(&reason));
        }
        match outcome {
            Ok((record, credentials)) if record.node == to => {
                if let Some(at) = address(&connection) {
                    let who = Acquaintance { node: to, record, credentials };
                    let _: Result<(), Crowded> = self.make_acquaintance(who, at, true);
                }
            }
            Ok(_) => {
                connection.close(code::UNKNOWN.into(), b"you speak for another node");
                return Err(DialError::Failed("it speaks for another node".to_owned()));
            }
            // It knows us, and expected no introduction.
            Err(error) => debug!(node = %to.short(), error, "no introduction"),
        }
        Ok(connection)
    }

    /// A stranger opened a connection for packets: takes them in once it has said who it is.
    pub(crate) async fn meet(self: std::sync::Arc<Self>, peer: NodeId, connection: Connection) {
        let close = |code: u32, reason: &str| {
            debug!(peer = %peer.short(), reason, "refused a stranger");
            connection.close(code.into(), reason.as_bytes());
        };
        let Some(at) = address(&connection) else { return close(code::UNKNOWN, "strangers come directly") };
        let Ok(place) = self.acquaintances.meetings.try_acquire() else {
            return close(code::BUSY, "too many strangers at once");
        };
        if self.packets.dialled_by(&peer) >= CONNECTIONS_MAX {
            return close(code::BUSY, "too many connections");
        }
        let exchange = async {
            let (mut say, mut hear) = connection.accept_bi().await.map_err(|error| error.to_string())?;
            let (record, credentials) = hear_introduction(&mut hear).await?;
            if record.node != peer {
                return Err("it speaks for another node".to_owned());
            }
            let who = Acquaintance { node: peer, record, credentials };
            self.make_acquaintance(who, at, false).map_err(|crowded| crowded.to_string())?;
            say_introduction(&mut say, &self.introduction()).await
        };
        match timeout(MEETING_TIMEOUT, exchange).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => return close(code::UNKNOWN, &error),
            Err(_) => return close(code::UNKNOWN, "introduce yourself"),
        }
        drop(place);
        info!(peer = %peer.short(), %at, "a stranger introduced itself");
        self.receive_packets(peer, connection, None).await;
    }
}

/// The address that a connection leads to, if it does directly.
pub(crate) fn address(connection: &Connection) -> Option<SocketAddr> {
    match path_of(connection)?.path {
        Path::Direct(at) => Some(at),
        _ => None,
    }
}

async fn say_introduction(say: &mut SendStream, introduction: &Introduction) -> Result<(), String> {
    let bytes = atoll_wire::encode(introduction);
    atoll_wire::write_frame(say, &bytes, INTRODUCTION_BYTES_MAX).await.map_err(|error| error.to_string())?;
    say.finish().map_err(|error| error.to_string())
}

/// Hears an introduction, and checks who signed it.
async fn hear_introduction(hear: &mut RecvStream) -> Result<(AddressRecord, Vec<u8>), String> {
    let frame = atoll_wire::read_frame(hear, INTRODUCTION_BYTES_MAX).await.map_err(|error| error.to_string())?;
    let frame = frame.ok_or_else(|| "it said nothing".to_owned())?;
    let introduction = decode_introduction(&frame).map_err(|error| error.to_string())?;
    let record = open_record(&introduction.record).map_err(|error| error.to_string())?;
    Ok((record, introduction.credentials))
}

#[cfg(test)]
mod tests;
