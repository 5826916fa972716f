//! The interface at work: packets between the TUN and the [`PacketLink`], each past the filter.
//!
//! One task per direction, so that two cores work for one interface; they meet at the filter's lock, which is held for a batch of packets and never over
//! anything that waits.

use std::net::Ipv6Addr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use atoll_fast::{Arrived, Burst, Cut, HEADER_BYTES as SEAL_HEADER_BYTES, Inbox, PACKET_BYTES_LEAST, SLOT_BYTES};
use atoll_ids::{NodeId, PlanetaryAddress};
use bytes::Bytes;
use futures_util::future::BoxFuture;
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tun_rs::{AsyncDevice, GROTable, VIRTIO_NET_HDR_LEN};

use crate::craft;
use crate::device::{Device, INTERFACE_MTU, KernelRoutes, RaiseError, TunConfig};
use crate::explain::{Explanation, Probe};
use crate::filter::{Clock, Filter, PeerEntry, Reason};
use crate::glue::{Front, glue};
use crate::handed::{Handed, SEGMENTS_MAX, look};
use crate::packet::{HEADER_BYTES, Packet};
use crate::routes::{Place, Prefix, PrefixError};
use crate::rule::{Direction, Policy, Rule};

/// The largest thing that the kernel hands over at once: many segments of one connection, behind one header.
const READ_BYTES: usize = VIRTIO_NET_HDR_LEN + 65_535;

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

    /// Sends packets that lie in a buffer of the caller's and may be changed there. What the network does not take at once is sent by the future that comes back.
    fn send_burst<'a>(&'a self, to: NodeId, burst: Burst<'a>) -> Option<BoxFuture<'a, ()>> {
        let packets: Vec<Bytes> = burst.packets().map(Bytes::copy_from_slice).collect();
        self.send(to, &packets);
        None
    }

    /// The same for a long TCP packet that is to be cut into segments.
    fn send_cut<'a>(&'a self, to: NodeId, cut: Cut<'a>) -> Option<BoxFuture<'a, ()>> {
        self.send(to, &cut.split());
        None
    }

    /// The largest packet that the way to a node carries whole, in bytes, where that is known to be less than what the interface takes. Larger ones
    /// arrive none the less.
    fn narrow(&self, _to: &NodeId) -> Option<usize> {
        None
    }

    /// Waits for packets and puts them into `inbox`, in place of what is there; otherwise like [`receive`](Self::receive).
    fn receive_into<'a>(&'a self, inbox: &'a mut Inbox) -> BoxFuture<'a, bool> {
        inbox.clear();
        self.receive(inbox.loose())
    }
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
    // Each packet where it can be sealed.
    let mut buffer = vec![0; SEGMENTS_MAX * SLOT_BYTES];
    let mut sizes = Vec::with_capacity(SEGMENTS_MAX);
    let mut budget = Answers::default();
    let mut errors = 0;
    loop {
        let length = match tun.recv(&mut read).await {
            Ok(length) => length,
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
        let answers = match look(&mut read[..length], &mut buffer, &mut sizes) {
            Handed::Long(cut) => send_long(&shared, &mut budget, &*link, cut).await,
            Handed::Packets(buffer) => send_each(&shared, &mut budget, &*link, buffer, &sizes).await,
            Handed::Senseless => {
                shared.drop_for(Reason::Malformed);
                continue;
            }
        };
        if !answers.is_empty() {
            write(&tun, &mut GROTable::default(), answers).await;
        }
    }
}

/// Sends a long packet where it goes: it is judged once, for it is of one conversation. Gives what is answered at once.
async fn send_long(shared: &Shared, budget: &mut Answers, link: &dyn PacketLink, cut: Cut<'_>) -> Vec<Vec<u8>> {
    let mut answers = Vec::new();
    let judged = judge_outward(shared, budget, Instant::now(), &mut shared.filter(), cut.packet(), &mut answers);
    if let Some(to) = judged {
        shared.sent.fetch_add(cut.count() as u64, Ordering::Relaxed);
        answers.extend(too_large(shared, budget, link, &to, cut.packet(), cut.largest()));
        if let Some(rest) = link.send_cut(to, cut) {
            rest.await;
        }
    }
    answers
}

/// Sends packets where they go. Gives what is answered at once.
async fn send_each(
    shared: &Shared,
    budget: &mut Answers,
    link: &dyn PacketLink,
    buffer: &mut [u8],
    sizes: &[usize],
) -> Vec<Vec<u8>> {
    let mut answers = Vec::new();
    let places: Vec<Option<NodeId>> = {
        let (now, mut filter) = (Instant::now(), shared.filter());
        let packets = buffer.chunks(SLOT_BYTES).zip(sizes);
        let mut judge = |packet| judge_outward(shared, budget, now, &mut filter, packet, &mut answers);
        packets.map(|(slot, size)| judge(&slot[SEAL_HEADER_BYTES..][..*size])).collect()
    };
    shared.sent.fetch_add(places.iter().flatten().count() as u64, Ordering::Relaxed);
    let mut at = 0;
    for run in places.chunk_by(|one, other| one == other) {
        let slots = at..at + run.len();
        at = slots.end;
        let Some(to) = run[0] else { continue };
        let packets = &mut buffer[slots.start * SLOT_BYTES..slots.end * SLOT_BYTES];
        let largest = slots.clone().max_by_key(|slot| sizes[*slot]).unwrap_or(at);
        let packet = &packets[(largest - slots.start) * SLOT_BYTES + SEAL_HEADER_BYTES..][..sizes[largest]];
        answers.extend(too_large(shared, budget, link, &to, packet, packet.len()));
        if let Some(rest) = link.send_burst(to, Burst::new(packets, &sizes[slots])) {
            rest.await;
        }
    }
    answers
}

/// Where a packet goes; what is answered at once is added to `answers`.
fn judge_outward(
    shared: &Shared,
    budget: &mut Answers,
    now: Instant,
    filter: &mut Filter,
    packet: &[u8],
    answers: &mut Vec<Vec<u8>>,
) -> Option<NodeId> {
    match filter.outbound(now, packet) {
        Ok(node) => Some(node),
        Err(reason) => {
            shared.drop_for(reason);
            if reason == Reason::Nowhere && budget.take(now) {
                answers.extend(no_route(shared.config.address.ip(), packet));
            }
            None
        }
    }
}

/// What tells a sender that its packets are too large for the way, if they are (RFC 4443, section 3.2). They are sent all the same; smaller ones would be sent better.
fn too_large(
    shared: &Shared,
    budget: &mut Answers,
    link: &dyn PacketLink,
    to: &NodeId,
    packet: &[u8],
    size: usize,
) -> Option<Vec<u8>> {
    // Below this nobody has to heed it.
    if size <= PACKET_BYTES_LEAST {
        return None;
    }
    let mtu = link.narrow(to)?.max(PACKET_BYTES_LEAST);
    (size > mtu && budget.take(Instant::now()))
        .then(|| packet_too_big(shared.config.address.ip(), packet, mtu))
        .flatten()
}

fn packet_too_big(own: Ipv6Addr, packet: &[u8], mtu: usize) -> Option<Vec<u8>> {
    const PACKET_TOO_BIG: u8 = 2;
    let parsed = crate::packet::parse(packet).ok()?;
    if matches!(parsed.payload, crate::packet::Payload::Error { .. }) {
        return None;
    }
    let told = u32::try_from(mtu).unwrap_or(u32::MAX).to_be_bytes();
    Some(error_about(own, &parsed, PACKET_TOO_BIG, 0, told, packet))
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
    Some(error_about(own, &parsed, UNREACHABLE, NO_ROUTE, [0; 4], packet))
}

/// An ICMPv6 error to a packet's sender, behind room for the device's header.
fn error_about(own: Ipv6Addr, parsed: &Packet, kind: u8, code: u8, told: [u8; 4], packet: &[u8]) -> Vec<u8> {
    // As much of it as fits into the least MTU.
    let quoted = &packet[..packet.len().min(PACKET_BYTES_LEAST - HEADER_BYTES - 8)];
    let answer = craft::icmpv6(own, parsed.source, kind, code, &[&told, quoted].concat());
    [&[0; VIRTIO_NET_HDR_LEN][..], &answer].concat()
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
    let (mut inbox, mut front) = (Inbox::default(), Front::default());
    while link.receive_into(&mut inbox).await {
        let passed = judge_inward(&shared, &inbox);
        let mut left = &passed[..];
        while !left.is_empty() {
            let (count, slices) = glue(&mut front, left);
            // What the kernel refuses is lost, as packets are.
            if let Err(error) = tun.send_vectored(&slices).await {
                tracing::debug!(%error, "the interface does not take a packet");
            }
            left = &left[count..];
        }
    }
    Ok(())
}

/// Whether the filter would say of a packet what it said of the one right before: a TCP segment with the same addresses and ports, in the middle of a
/// conversation (nothing but ACK and perhaps PSH is set), so that it changes no state. Segments come by the dozen; one of them is judged.
fn is_more_of(before: &[u8], packet: &[u8]) -> bool {
    const TCP: u8 = 6;
    const FLAGS: usize = HEADER_BYTES + 13;
    const ACK: u8 = 0x10;
    const PSH: u8 = 0x08;
    let is_plain = |packet: &[u8]| {
        packet.len() >= HEADER_BYTES + 20
            && packet[0] >> 4 == 6
            && usize::from(u16::from_be_bytes([packet[4], packet[5]])) == packet.len() - HEADER_BYTES
            && packet[6] == TCP
            && packet[FLAGS] & !PSH == ACK
    };
    // Next header, hop limit, addresses, ports.
    is_plain(before) && is_plain(packet) && before[6..HEADER_BYTES + 4] == packet[6..HEADER_BYTES + 4]
}

/// The packets that may come in.
fn judge_inward<'a>(shared: &Shared, inbox: &'a Inbox) -> Vec<Arrived<'a>> {
    let now = Instant::now();
    let mut passed = Vec::with_capacity(inbox.count());
    let mut filter = shared.filter();
    let mut before: Option<(NodeId, &[u8])> = None;
    for arrived in inbox.packets() {
        let Arrived { from, packet, .. } = arrived;
        if before.is_some_and(|(sender, before)| sender == from && is_more_of(before, packet)) {
            passed.push(arrived);
            continue;
        }
        let judged = filter.inbound(now, from, packet);
        before = judged.is_ok().then_some((from, packet));
        match judged {
            Ok(()) => passed.push(arrived),
            Err(reason) => shared.drop_for(reason),
        }
    }
    shared.received.fetch_add(passed.len() as u64, Ordering::Relaxed);
    passed
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
        assert_eq!(no_route(own, &large).unwrap().len(), VIRTIO_NET_HDR_LEN + PACKET_BYTES_LEAST);
    }

    #[test]
    fn who_sends_too_much_at_once_is_told_how_much_passes() {
        let own: Ipv6Addr = "600::1".parse().unwrap();
        let craft = Craft::between(own, "600::2".parse().unwrap());
        let answer = packet_too_big(own, &craft.raw(17, &[0; 1380]), 1300).unwrap();
        let packet = &answer[VIRTIO_NET_HDR_LEN..];
        assert_eq!(
            (packet.len(), &packet[40..42], &packet[44..48]),
            (PACKET_BYTES_LEAST, &[2, 0][..], &[0, 0, 5, 20][..])
        );
        assert!(packet_too_big(own, &craft.error_about(1, &craft.raw(17, &[0; 1300])), 1300).is_none());
    }

    #[test]
    fn one_verdict_is_for_segments_of_one_conversation_only() {
        let craft = Craft::between("600::1".parse().unwrap(), "600::2".parse().unwrap());
        let back = Craft::between("600::2".parse().unwrap(), "600::1".parse().unwrap());
        let tcp = |craft: &Craft, from, to, flags| craft.tcp(from, to, flags);
        let first = tcp(&craft, 1, 2, 0x10);
        assert!(is_more_of(&first, &first) && is_more_of(&first, &tcp(&craft, 1, 2, 0x18)));
        for (what, other) in [
            ("another port", tcp(&craft, 1, 3, 0x10)),
            ("the other way", tcp(&back, 1, 2, 0x10)),
            ("a beginning", tcp(&craft, 1, 2, 0x12)),
            ("an end", tcp(&craft, 1, 2, 0x11)),
            ("a reset", tcp(&craft, 1, 2, 0x14)),
            ("UDP", craft.udp(1, 2)),
            ("no whole packet", first[..50].to_vec()),
            ("more than a packet", [&first[..], b"x"].concat()),
            ("nothing", Vec::new()),
        ] {
            assert!(!is_more_of(&first, &other) && !is_more_of(&other, &first), "{what}");
        }
    }

    #[test]
    fn answers_are_limited() {
        let (mut answers, now) = (Answers::default(), Instant::now());
        let given = (0..2 * ANSWERS_PER_SECOND).filter(|_| answers.take(now)).count();
        assert_eq!(given, ANSWERS_PER_SECOND as usize);
        assert!(answers.take(now + Duration::from_secs(1)));
    }
}
