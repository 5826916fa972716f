//! What every part of a running link shares: the endpoint, the book, our own record, the tasks.

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex};

use atoll_ids::NodeId;
use atoll_keys::{NodeKey, Signed};
use atoll_lane::Connector;
use iroh::{Endpoint, Watcher};
use tokio::sync::{Semaphore, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::debug;

use crate::acquaint::{Acquaintances, Society};
use crate::address::{ADDRESSES_MAX, AddressRecord, is_dialable};
use crate::book::{Book, now_ms};
use crate::doors::Doors;
use crate::fast::FastPaths;
use crate::find::Finding;
use crate::invite::Invites;
use crate::kept::Connections;
use crate::lan::Neighbours;
use crate::link::LinkConfig;
use crate::meter::Meters;
use crate::packets::PacketPaths;
use crate::stream::StreamHandler;
use crate::suspects::Suspects;
use crate::via::Via;

/// Nodes joining at once.
const JOINS_MAX: usize = 16;

/// Our own record, as it is signed and as it reads.
#[derive(Debug, Clone)]
pub(crate) struct Own {
    pub(crate) signed: Signed<AddressRecord>,
    pub(crate) record: AddressRecord,
}

/// The state of a link. Its tasks hold it, and end when `kill` does.
pub(crate) struct Node {
    pub(crate) key: Arc<NodeKey>,
    pub(crate) id: NodeId,
    pub(crate) config: LinkConfig,
    pub(crate) endpoint: Endpoint,
    pub(crate) connector: Connector,
    /// Where lanes are listened for, with real ports, and where else they are reached.
    pub(crate) lanes: Vec<SocketAddr>,
    pub(crate) book: Arc<Book>,
    pub(crate) invites: Mutex<Invites>,
    pub(crate) own: watch::Sender<Own>,
    pub(crate) connections: Connections,
    pub(crate) packets: PacketPaths,
    pub(crate) meters: Meters,
    pub(crate) fast: FastPaths,
    pub(crate) via: Via,
    pub(crate) finding: Finding,
    pub(crate) acquaintances: Acquaintances,
    pub(crate) lan: Neighbours,
    pub(crate) protocols: BTreeMap<&'static str, Arc<dyn StreamHandler>>,
    /// Drawn at each start.
    pub(crate) instance: u64,
    /// For handshakes over QUIC, and for those of lanes: who has used up one has not used up the other.
    pub(crate) doors: Arc<Doors>,
    pub(crate) lane_doors: Arc<Doors>,
    pub(crate) suspects: Mutex<Suspects>,
    pub(crate) joins: Arc<Semaphore>,
    /// Streams being served: what a shutdown waits for.
    pub(crate) streams: TaskTracker,
    /// Everything else: what a shutdown ends.
    pub(crate) tasks: TaskTracker,
    /// Nothing new is begun any more.
    pub(crate) stop: CancellationToken,
    /// Everything ends.
    pub(crate) kill: CancellationToken,
}

/// What a [`Node`] is made of that its parts do not default.
pub(crate) struct Parts {
    pub(crate) key: Arc<NodeKey>,
    pub(crate) config: LinkConfig,
    pub(crate) endpoint: Endpoint,
    pub(crate) lanes: Vec<SocketAddr>,
    pub(crate) book: Arc<Book>,
    pub(crate) via: Via,
    pub(crate) protocols: BTreeMap<&'static str, Arc<dyn StreamHandler>>,
    pub(crate) society: Arc<dyn Society>,
}

impl Node {
    pub(crate) fn new(parts: Parts) -> Arc<Self> {
        let Parts { key, config, endpoint, lanes, book, via, protocols, society } = parts;
        let fast = match config.fast_port.filter(|_| config.packets) {
            Some(port) => FastPaths::bind(&config.bind, port, via.relays()),
            None => FastPaths::none(via.relays()),
        };
        let connector = Connector::new(&key).with_connect_timeout(config.lane_timeout);
        let record = places(&endpoint, &lanes, key.id(), now_ms());
        let own = watch::Sender::new(Own { signed: Signed::sign(&record, &*key), record });
        let mut instance = [0; 8];
        getrandom::fill(&mut instance).expect("the operating system has randomness");
        Arc::new(Self {
            id: key.id(),
            key,
            config,
            endpoint,
            connector,
            lanes,
            book,
            invites: Mutex::default(),
            own,
            connections: Connections::default(),
            packets: PacketPaths::default(),
            meters: Meters::default(),
            fast,
            via,
            finding: Finding::default(),
            acquaintances: Acquaintances::new(society),
            lan: Neighbours::default(),
            protocols,
            instance: u64::from_le_bytes(instance),
            doors: Arc::default(),
            lane_doors: Arc::default(),
            suspects: Mutex::default(),
            joins: Arc::new(Semaphore::new(JOINS_MAX)),
            streams: TaskTracker::new(),
            tasks: TaskTracker::new(),
            stop: CancellationToken::new(),
            kill: CancellationToken::new(),
        })
    }

    /// Runs something until it is done or the link ends.
    pub(crate) fn spawn(&self, work: impl Future<Output = ()> + Send + 'static) {
        let kill = self.kill.clone();
        self.tasks.spawn(async move {
            kill.run_until_cancelled(work).await;
        });
    }

    /// Serves a stream until it is done or the link ends; a shutdown waits for it.
    pub(crate) fn spawn_stream(&self, work: impl Future<Output = ()> + Send + 'static) {
        let kill = self.kill.clone();
        self.streams.spawn(async move {
            kill.run_until_cancelled(work).await;
        });
    }

    pub(crate) fn is_closing(&self) -> bool {
        self.stop.is_cancelled()
    }

    /// Signs a new record if we are somewhere else than the last one says, or if its sequence is not above `above`.
    pub(crate) fn publish(&self, above: u64) {
        self.own.send_if_modified(|own| {
            let sequence = now_ms().max(own.record.sequence + 1).max(above.saturating_add(1));
            let record = places(&self.endpoint, &self.lanes, self.id, sequence);
            if record.same_places(&own.record) && own.record.sequence > above {
                return false;
            }
            debug!(sequence, quic = ?record.quic, lane = ?record.lane, "our addresses");
            *own = Own { signed: Signed::sign(&record, &*self.key), record };
            true
        });
    }

    /// Publishes a new record whenever iroh finds other addresses.
    pub(crate) async fn watch_addresses(self: Arc<Self>) {
        let mut addresses = self.endpoint.watch_addr();
        while let Some(Ok(_)) = self.stop.run_until_cancelled(addresses.updated()).await {
            self.publish(0);
        }
    }
}

/// Where the node can be reached, as far as it knows.
fn places(endpoint: &Endpoint, lanes: &[SocketAddr], node: NodeId, sequence: u64) -> AddressRecord {
    let here = endpoint.addr();
    let bound = endpoint.bound_sockets();
    let mut quic: BTreeSet<SocketAddr> = here.ip_addrs().copied().collect();
    quic.extend(bound);
    quic.retain(is_dialable);
    let ips: BTreeSet<IpAddr> = quic.iter().map(SocketAddr::ip).collect();
    let lane = lanes.iter().flat_map(|listening| expand(listening, &ips)).collect::<BTreeSet<_>>();
    AddressRecord {
        node,
        sequence,
        quic: quic.into_iter().take(ADDRESSES_MAX).collect(),
        lane: lane.into_iter().filter(is_dialable).take(ADDRESSES_MAX).collect(),
        relay: here.relay_urls().next().map(ToString::to_string),
    }
}

/// The addresses that listening on one means: all of its family, if it is the unspecified one.
fn expand(listening: &SocketAddr, ips: &BTreeSet<IpAddr>) -> Vec<SocketAddr> {
    if !listening.ip().is_unspecified() {
        return vec![*listening];
    }
    let same_family = ips.iter().filter(|ip| ip.is_ipv4() == listening.is_ipv4());
    same_family.map(|ip| SocketAddr::new(*ip, listening.port())).collect()
}
