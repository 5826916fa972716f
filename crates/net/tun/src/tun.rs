//! The interface at work: packets between the TUN and the [`PacketLink`], each past the filter.
//!
//! One task per direction, so that two cores work for one interface; they meet at the filter's lock, which is held for a batch of packets and never over
//! anything that waits.

use std::net::Ipv6Addr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use atoll_ids::{NodeId, PlanetaryAddress};
use bytes::Bytes;
use futures_util::future::BoxFuture;
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tun_rs::{AsyncDevice, GROTable, IDEAL_BATCH_SIZE, VIRTIO_NET_HDR_LEN};

use crate::craft;
use crate::device::{Device, INTERFACE_MTU, KernelRoutes, RaiseError, TunConfig};
use crate::explain::{Explanation, Probe};
use crate::filter::{Clock, Filter, PeerEntry, Reason};
use crate::packet::HEADER_BYTES;
use crate::routes::{Place, Prefix, PrefixError};
use crate::rule::{Direction, Policy, Rule};

/// The largest thing that the kernel hands over at once: many segments of one connection, behind one header.
const READ_BYTES: usize = VIRTIO_NET_HDR_LEN + 65_535;

/// Packets written to the kernel in one go. Each has a buffer that others of its connection can be appended to, of [`READ_BYTES`] at most.
const WRITE_BATCH: usize = 64;

/// How often what is over is forgotten.
const SWEEP_EVERY: Duration = Duration::from_secs(30);

/// Answers to packets that lead nowhere, per second: enough for programs to notice, not for a loop.
const ANSWERS_PER_SECOND: u32 = 100;

/// The interface was taken away; how long until it is looked at again whether reading works.
const READ_AGAIN: Duration = Duration::from_millis(100);

/// Errors in a row after which the interface is given up.
const READ_ERRORS_MAX: u32 = 50;

/// What carries packets to other nodes.
pub trait PacketLink: Send + Sync + 'static {
    /// Sends packets to a node, best effort; never waits.
    fn send(&self, to: NodeId, packets: &[Bytes]);

    /// Waits for packets and adds them to `batch`, each with the node that sent it, authenticated. False once there are no more.
    fn receive<'a>(&'a self, batch: &'a mut Vec<(NodeId, Bytes)>) -> BoxFuture<'a, bool>;
}

/// Why an interface ended before it was told to.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// Somebody removed it, or it broke.
    #[error("the interface {name} is gone: {reason}")]
    Gone {
        /// Its name.
        name: String,
        /// What the system said.
        reason: String,
    },
}

/// How an interface fares.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TunStatus {
    /// Its name.
    pub name: String,
    /// Its address.
    pub address: PlanetaryAddress,
    /// Its MTU, in bytes.
    pub mtu: u16,
    /// Why the local network is not kept off the address, if it is not.
    pub unguarded: Option<String>,
    /// Packets that went out.
    pub sent: u64,
    /// Packets that came in.
    pub received: u64,
    /// Packets that did not pass, by reason; those of which there are any.
    pub dropped: Vec<(Reason, u64)>,
    /// Conversations being followed.
    pub flows: usize,
    /// Prefixes of pod networks, with the node that each is at; `None` is here.
    pub routes: Vec<(Prefix, Option<NodeId>)>,
    /// What is let in.
    pub rules: Vec<Rule>,
}

struct Shared {
    config: TunConfig,
    unguarded: Option<String>,
    filter: Mutex<Filter>,
    routes_changed: Notify,
    sent: AtomicU64,
    received: AtomicU64,
    dropped: [AtomicU64; Reason::ALL.len()],
}

impl Shared {
    fn filter(&self) -> MutexGuard<'_, Filter> {
        self.filter.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn drop_for(&self, reason: Reason) {
        self.dropped[reason as usize].fetch_add(1, Ordering::Relaxed);
    }
}

/// An interface that is up; packets pass once it is [run](Tun::run). Dropping it takes it away.
pub struct Tun {
    device: Device,
    shared: Arc<Shared>,
}

impl std::fmt::Debug for Tun {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tun").field("config", &self.shared.config).finish_non_exhaustive()
    }
}

/// Access to an interface. Cheap to clone.
#[derive(Clone)]
pub struct TunHandle {
    shared: Arc<Shared>,
}

impl std::fmt::Debug for TunHandle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TunHandle").field("config", &self.shared.config).finish_non_exhaustive()
    }
}

impl Tun {
    /// Raises an interface, with a policy (or the rules of one) for what may pass.
    ///
    /// # Errors
    ///
    /// [`RaiseError`].
    pub async fn raise(config: TunConfig, policy: impl Into<Policy>) -> Result<Self, RaiseError> {
        let policy = policy.into();
        let device = Device::raise(&config).await?;
        let mut filter = Filter::new(config.address, policy);
        filter.set_clock(Clock::now());
        let filter = Mutex::new(filter);
        let unguarded = device.guard.as_ref().err().cloned();
        let shared = Shared {
            config,
            unguarded,
            filter,
            routes_changed: Notify::new(),
            sent: AtomicU64::new(0),
            received: AtomicU64::new(0),
            dropped: Default::default(),
        };
        Ok(Self { device, shared: Arc::new(shared) })
    }

    /// A handle to look after the interface with.
    #[must_use]
    pub fn handle(&self) -> TunHandle {
        TunHandle { shared: self.shared.clone() }
    }

    /// Carries packets until the link ends. Dropping the future takes the interface away.
    ///
    /// # Errors
    ///
    /// [`RunError`].
    pub async fn run(self, link: Arc<dyn PacketLink>) -> Result<(), RunError> {
        let Self { device: Device { tun, kernel, guard: _guard }, shared } = self;
        let tun = Arc::new(tun);
        let mut tasks = JoinSet::new();
        tasks.spawn(outward(tun.clone(), link.clone(), shared.clone()));
        tasks.spawn(inward(tun, link, shared.clone()));
        tasks.spawn(look_after(kernel, shared));
        match tasks.join_next().await {
            Some(Ok(outcome)) => outcome,
            _ => Ok(()),
        }
    }
}

impl TunHandle {
    /// Replaces the peers. Packets of nodes that are not among them are dropped, and none go to them.
    pub fn set_peers(&self, peers: impl IntoIterator<Item = PeerEntry>) {
        self.shared.filter().set_peers(peers);
    }

    /// Replaces the rules. Conversations that they do not allow any more end.
    pub fn set_policy(&self, policy: impl Into<Policy>) {
        let mut filter = self.shared.filter();
        filter.set_clock(Clock::now());
        filter.set_policy(policy);
    }

    /// Says whether `node` could begin this with us, or we with it, and why.
    #[must_use]
    pub fn check(&self, direction: Direction, node: NodeId, probe: Probe) -> Explanation {
        self.shared.filter().check(Instant::now(), direction, node, probe)
    }

    /// Names the UDP ports of the connections that carry the packets, which must not run through the interface.
    pub fn set_underlay_ports(&self, ports: Vec<u16>) {
        self.shared.filter().set_underlay_ports(ports);
    }

    /// The prefixes of pod networks.
    #[must_use]
    pub fn routes(&self) -> Routes {
        Routes { shared: self.shared.clone() }
    }

    /// How it fares.
    #[must_use]
    pub fn status(&self) -> TunStatus {
        let shared = &self.shared;
        let count = |reason: Reason| (reason, shared.dropped[reason as usize].load(Ordering::Relaxed));
        let filter = shared.filter();
        let place = |(prefix, place)| match place {
            Place::Here => (prefix, None),
            Place::At(node) => (prefix, Some(node)),
        };
        TunStatus {
            name: shared.config.name.clone(),
            address: shared.config.address,
            mtu: INTERFACE_MTU,
            unguarded: shared.unguarded.clone(),
            sent: shared.sent.load(Ordering::Relaxed),
            received: shared.received.load(Ordering::Relaxed),
            dropped: Reason::ALL.into_iter().map(count).filter(|(_, count)| *count > 0).collect(),
            flows: filter.flows(),
            routes: filter.routes.list().map(place).collect(),
            rules: filter.rules().to_vec(),
        }
    }
}

/// The prefixes of pod networks. While a network has any, its /48 leads into the interface; what lies in no prefix is answered with "no route". Cheap to clone.
///
/// The kernel forwards between the interface and the pods: `net.ipv6.conf.all.forwarding` is for who runs the pods to set.
#[derive(Clone)]
pub struct Routes {
    shared: Arc<Shared>,
}

impl std::fmt::Debug for Routes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.shared.filter().routes.list()).finish()
    }
}

impl Routes {
    /// A prefix is at another node: packets to it go there, and only packets of that node may come from it.
    ///
    /// # Errors
    ///
    /// [`PrefixError::TooMany`].
    pub fn set(&self, prefix: Prefix, at: NodeId) -> Result<(), PrefixError> {
        self.place(prefix, Place::At(at))
    }

    /// A prefix is here: packets from the same network come in for it, and packets from it go out.
    ///
    /// # Errors
    ///
    /// [`PrefixError::TooMany`].
    pub fn set_local(&self, prefix: Prefix) -> Result<(), PrefixError> {
        self.place(prefix, Place::Here)
    }

    /// A prefix is nowhere any more.
    pub fn remove(&self, prefix: Prefix) {
        self.shared.filter().routes.remove(prefix);
        self.shared.routes_changed.notify_one();
    }

    fn place(&self, prefix: Prefix, place: Place) -> Result<(), PrefixError> {
        self.shared.filter().routes.set(prefix, place)?;
        self.shared.routes_changed.notify_one();
        Ok(())
    }
}

/// From the TUN to other nodes.
async fn outward(tun: Arc<AsyncDevice>, link: Arc<dyn PacketLink>, shared: Arc<Shared>) -> Result<(), RunError> {
    let mut read = vec![0; READ_BYTES];
    let mut packets = vec![vec![0; usize::from(INTERFACE_MTU)]; IDEAL_BATCH_SIZE];
    let mut sizes = vec![0; IDEAL_BATCH_SIZE];
    let mut budget = Answers::default();
    let mut errors = 0;
    loop {
        let count = match tun.recv_multiple(&mut read, &mut packets, &mut sizes, 0).await {
            Ok(count) => count,
            // Not the device's word but tun-rs': a packet larger than our MTU, because somebody changed that of the interface.
            Err(error) if error.raw_os_error().is_none() => {
                tracing::debug!(%error, "a packet from the interface makes no sense");
                continue;
            }
            Err(error) if errors < READ_ERRORS_MAX => {
                errors += 1;
                tracing::debug!(%error, "cannot read from the interface");
                tokio::time::sleep(READ_AGAIN).await;
                continue;
            }
            Err(error) => {
                return Err(RunError::Gone { name: shared.config.name.clone(), reason: error.to_string() });
            }
        };
        errors = 0;
        let batch = packets.iter().zip(&sizes).take(count).map(|(packet, size)| &packet[..*size]);
        let (carried, answers) = judge_outward(&shared, &mut budget, batch);
        for run in carried.chunk_by(|(one, _), (other, _)| one == other) {
            let packets: Vec<Bytes> = run.iter().map(|(_, packet)| packet.clone()).collect();
            link.send(run[0].0, &packets);
        }
        if !answers.is_empty() {
            write(&tun, &mut GROTable::default(), answers).await;
        }
    }
}

type Carried = Vec<(NodeId, Bytes)>;

/// What goes where, and what is answered at once.
fn judge_outward<'a>(
    shared: &Shared,
    budget: &mut Answers,
    batch: impl Iterator<Item = &'a [u8]>,
) -> (Carried, Vec<Vec<u8>>) {
    let now = Instant::now();
    let (mut carried, mut answers) = (Vec::new(), Vec::new());
    let mut filter = shared.filter();
    for packet in batch {
        match filter.outbound(now, packet) {
            Ok(node) => carried.push((node, Bytes::copy_from_slice(packet))),
            Err(reason) => {
                shared.drop_for(reason);
                if reason == Reason::Nowhere && budget.take(now) {
                    answers.extend(no_route(shared.config.address.ip(), packet));
                }
            }
        }
    }
    shared.sent.fetch_add(carried.len() as u64, Ordering::Relaxed);
    (carried, answers)
}

/// "There is no route to there" (RFC 4443, section 3.1), behind room for the device's header. Not about an ICMPv6 message other than an echo request: errors about errors
/// never end.
fn no_route(own: Ipv6Addr, packet: &[u8]) -> Option<Vec<u8>> {
    const UNREACHABLE: u8 = 1;
    const NO_ROUTE: u8 = 0;
    let parsed = crate::packet::parse(packet).ok()?;
    if matches!(parsed.payload, crate::packet::Payload::Error { .. } | crate::packet::Payload::Icmp { .. }) {
        return None;
    }
    // As much of it as fits into the least MTU.
    let quoted = &packet[..packet.len().min(usize::from(INTERFACE_MTU) - HEADER_BYTES - 8)];
    let answer = craft::icmpv6(own, parsed.source, UNREACHABLE, NO_ROUTE, &[&[0; 4], quoted].concat());
    Some([&[0; VIRTIO_NET_HDR_LEN][..], &answer].concat())
}

/// How many answers are left for this second.
#[derive(Default)]
struct Answers {
    given: u32,
    since: Option<Instant>,
}

impl Answers {
    fn take(&mut self, now: Instant) -> bool {
        if self.since.is_none_or(|since| now.duration_since(since) >= Duration::from_secs(1)) {
            (self.given, self.since) = (0, Some(now));
        }
        self.given += 1;
        self.given <= ANSWERS_PER_SECOND
    }
}

/// From other nodes to the TUN.
async fn inward(tun: Arc<AsyncDevice>, link: Arc<dyn PacketLink>, shared: Arc<Shared>) -> Result<(), RunError> {
    let mut batch = Vec::new();
    let mut table = GROTable::default();
    while link.receive(&mut batch).await {
        let now = Instant::now();
        let mut passed: Vec<Bytes> = Vec::with_capacity(batch.len());
        {
            let mut filter = shared.filter();
            for (from, packet) in batch.drain(..) {
                match filter.inbound(now, from, &packet) {
                    Ok(()) => passed.push(packet),
                    Err(reason) => shared.drop_for(reason),
                }
            }
        }
        shared.received.fetch_add(passed.len() as u64, Ordering::Relaxed);
        for packets in passed.chunks(WRITE_BATCH) {
            // Room in front for the device's header, and behind for segments of the same connection.
            let room = VIRTIO_NET_HDR_LEN + packets.iter().map(Bytes::len).sum::<usize>().min(READ_BYTES);
            let buffer = |packet: &Bytes| {
                let mut buffer = Vec::with_capacity(2 * VIRTIO_NET_HDR_LEN + room);
                buffer.resize(VIRTIO_NET_HDR_LEN, 0);
                buffer.extend_from_slice(packet);
                buffer
            };
            write(&tun, &mut table, packets.iter().map(buffer).collect()).await;
        }
    }
    Ok(())
}

/// Writes packets, each behind room for the device's header. One that the kernel refuses is lost, as packets are.
async fn write(tun: &AsyncDevice, table: &mut GROTable, mut packets: Vec<Vec<u8>>) {
    if let Err(error) = tun.send_multiple(table, &mut packets, VIRTIO_NET_HDR_LEN).await {
        tracing::debug!(%error, "the interface does not take a packet");
    }
}

/// Keeps the kernel's routes to what was asked for, and forgets what is over.
async fn look_after(mut kernel: KernelRoutes, shared: Arc<Shared>) -> Result<(), RunError> {
    let mut sweeps = tokio::time::interval(SWEEP_EVERY);
    loop {
        tokio::select! {
            _ = sweeps.tick() => {
                let mut filter = shared.filter();
                filter.set_clock(Clock::now());
                filter.sweep(Instant::now());
            }
            () = shared.routes_changed.notified() => {
                let networks = shared.filter().routes.networks();
                kernel.set_networks(&networks).await;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;
    use crate::craft::Craft;
    use crate::packet::{Payload, parse};

    #[test]
    fn what_leads_nowhere_is_answered_but_no_error_is() {
        let own: Ipv6Addr = "600::1".parse().unwrap();
        let craft = Craft::between(own, "600::2".parse().unwrap());
        let answer = no_route(own, &craft.udp(1, 2)).unwrap();
        let parsed = parse(&answer[VIRTIO_NET_HDR_LEN..]).unwrap();
        assert_eq!((parsed.destination, parsed.payload), (own, Payload::Error { about: 48 }));
        assert!(no_route(own, &craft.error_about(1, &craft.udp(1, 2))).is_none());
        assert!(no_route(own, &craft.icmp(133)).is_none());
        let large = craft.raw(17, &vec![0; 1240]);
        assert_eq!(no_route(own, &large).unwrap().len(), VIRTIO_NET_HDR_LEN + usize::from(INTERFACE_MTU));
    }

    #[test]
    fn answers_are_limited() {
        let (mut answers, now) = (Answers::default(), Instant::now());
        let given = (0..2 * ANSWERS_PER_SECOND).filter(|_| answers.take(now)).count();
        assert_eq!(given, ANSWERS_PER_SECOND as usize);
        assert!(answers.take(now + Duration::from_secs(1)));
    }
}
