//! Nodes on the same local network hear where the others are: signed address records by multicast.
//!
//! Now and then, and whenever its addresses change, a node sends its record in one UDP packet to port 5770 of 239.255.57.70 and of
//! `ff12::6174:6f6c:6c` on every interface: less and less often while nobody comes or goes. What is heard are *addresses*: a known peer that moved is found again, even when both moved. A stranger stays
//! one: it is only shown ([`Neighbour`]), as a person may want to invite it. Records are signed and ordered by sequence, so a forged or an old one
//! changes nothing; multicast that does not get through, or a port that is taken, costs nothing but this way of finding.
//!
//! Whoever listens on the network learns which nodes are there; `LinkConfig::lan` turns it off.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6, UdpSocket as StdSocket};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use atoll_ids::NodeId;
use atoll_keys::Signed;
use atoll_wire::{DecodeError, Versioned};
use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, ipproto, socket_with, sockopt};
use serde::{Deserialize, Serialize};
use tokio::net::UdpSocket;
use tokio::time::sleep_until;
use tracing::debug;

use crate::address::{AddressRecord, RecordError, open_record};
use crate::node::Node;

/// Where announcements go. Beside the port that nodes listen on by default, and fixed: who does not know anybody cannot ask where.
const PORT: u16 = 5770;

/// From the range that organisations use as they like (RFC 2365); never leaves the network because its TTL is 1.
const GROUP_V4: Ipv4Addr = Ipv4Addr::new(239, 255, 57, 70);

/// Transient, of link scope; "atoll" in ASCII.
const GROUP_V6: Ipv6Addr = Ipv6Addr::new(0xff12, 0, 0, 0, 0, 0x6174, 0x6f6c, 0x6c);

/// What an announcement begins with, so that what else uses the port is told from it.
const MAGIC: &[u8] = b"atoll-lan";

/// The longest announcement that is looked at: a record with every address and a relay takes below 1,700 bytes.
pub const ANNOUNCEMENT_BYTES_MAX: usize = 4096;

/// The pause between two announcements after something happened: this node moved, a node came or a peer went. From one to the next it doubles.
const PAUSE_LEAST: Duration = Duration::from_secs(10);

/// The longest pause. An announcement takes some 400 bytes in each family: 7 bytes per second.
const PAUSE_MOST: Duration = Duration::from_secs(120);

/// How soon a node answers one that it had not heard before, and no sooner after the last announcement.
const ANSWER_AFTER: Duration = Duration::from_secs(1);

/// Signatures checked per second; each takes some 50 µs. What comes beyond is not looked at.
const CHECKS_PER_SECOND: u32 = 200;

/// Strangers remembered: more than a person looks through.
const STRANGERS_MAX: usize = 64;

/// A stranger that was not heard for this long is gone: three announcements are lost together rarely.
const GONE_AFTER: Duration = Duration::from_secs(3 * PAUSE_MOST.as_secs() + 5);

/// What is sent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Announcement {
    record: Signed<AddressRecord>,
}

impl Versioned for Announcement {
    const VERSION: u16 = 1;
    const NAME: &'static str = "announcement";
}

/// Why a packet is not an announcement.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AnnouncementError {
    /// Something else, or too long.
    #[error("this is not an announcement of a node")]
    Foreign,
    /// Of another version, or malformed.
    #[error(transparent)]
    Decode(#[from] DecodeError),
    /// Not genuine.
    #[error(transparent)]
    Record(#[from] RecordError),
}

/// Reads an announcement and checks its signature.
///
/// # Errors
///
/// [`AnnouncementError`].
pub fn decode_announcement(bytes: &[u8]) -> Result<(Signed<AddressRecord>, AddressRecord), AnnouncementError> {
    if bytes.len() > ANNOUNCEMENT_BYTES_MAX {
        return Err(AnnouncementError::Foreign);
    }
    let body = bytes.strip_prefix(MAGIC).ok_or(AnnouncementError::Foreign)?;
    let Announcement { record: signed } = atoll_wire::decode(body)?;
    let record = open_record(&signed)?;
    Ok((signed, record))
}

fn encode_announcement(record: &Signed<AddressRecord>) -> Vec<u8> {
    let body = atoll_wire::encode(&Announcement { record: record.clone() });
    [MAGIC, &body].concat()
}

/// A node on the local network that is not known here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Neighbour {
    /// Who it is.
    pub node: NodeId,
    /// Where it says that it is.
    pub addresses: Vec<SocketAddr>,
    /// How long ago it was heard.
    pub heard: Duration,
}

/// Strangers that were heard, with when.
#[derive(Debug, Default)]
pub(crate) struct Neighbours {
    heard: Mutex<BTreeMap<NodeId, (AddressRecord, Instant)>>,
}

impl Neighbours {
    /// True if it was not heard lately, and is remembered now.
    fn note(&self, record: AddressRecord) -> bool {
        let mut heard = self.heard.lock().unwrap_or_else(PoisonError::into_inner);
        heard.retain(|_, (_, at)| at.elapsed() < GONE_AFTER);
        let new = !heard.contains_key(&record.node);
        if new && heard.len() >= STRANGERS_MAX {
            // It would seem new each time, and everybody would answer everybody all the time.
            return false;
        }
        heard.insert(record.node, (record, Instant::now()));
        new
    }

    fn list(&self) -> Vec<Neighbour> {
        let heard = self.heard.lock().unwrap_or_else(PoisonError::into_inner);
        let lately = heard.iter().filter(|(_, (_, at))| at.elapsed() < GONE_AFTER);
        let neighbour = |(node, (record, at)): (&NodeId, &(AddressRecord, Instant))| Neighbour {
            node: *node,
            addresses: record.quic.clone(),
            heard: at.elapsed(),
        };
        lately.map(neighbour).collect()
    }
}

/// At most so many per second.
struct Budget {
    left: u32,
    since: Instant,
}

impl Budget {
    fn take(&mut self, now: Instant) -> bool {
        if now.duration_since(self.since) >= Duration::from_secs(1) {
            (self.left, self.since) = (CHECKS_PER_SECOND, now);
        }
        self.left.checked_sub(1).map(|left| self.left = left).is_some()
    }
}

/// When the next announcement is due.
struct Pace {
    next: Instant,
    pause: Duration,
}

impl Pace {
    fn new(now: Instant) -> Self {
        Self { next: now, pause: PAUSE_LEAST }
    }

    fn announced(&mut self, now: Instant) {
        self.next = now + self.pause;
        self.pause = (self.pause * 2).min(PAUSE_MOST);
    }

    /// Something changed: others are to hear of us within `soon`.
    fn hurry(&mut self, now: Instant, soon: Duration) {
        self.pause = PAUSE_LEAST;
        // Not put off by each that comes.
        self.next = self.next.min(now + soon);
    }
}

/// The sockets, and where they take part in the groups.
struct Sockets {
    v4: Option<UdpSocket>,
    v6: Option<UdpSocket>,
    joined_v4: BTreeSet<Ipv4Addr>,
    joined_v6: BTreeSet<u32>,
}

impl Sockets {
    fn open() -> Self {
        let or_none = |opened: io::Result<UdpSocket>, family: &str| {
            opened.inspect_err(|error| debug!(%error, family, "no finding on the local network")).ok()
        };
        Self {
            v4: or_none(open((Ipv4Addr::UNSPECIFIED, PORT).into()), "IPv4"),
            v6: or_none(open((Ipv6Addr::UNSPECIFIED, PORT).into()), "IPv6"),
            joined_v4: BTreeSet::new(),
            joined_v6: BTreeSet::new(),
        }
    }

    /// Takes part on every interface that there is by now. An interface that went takes its memberships along.
    fn join(&mut self, v4: &BTreeSet<Ipv4Addr>, v6: &BTreeSet<u32>) {
        if let Some(socket) = &self.v4 {
            self.joined_v4.retain(|ip| v4.contains(ip));
            for ip in v4.difference(&self.joined_v4.clone()) {
                if socket.join_multicast_v4(GROUP_V4, *ip).is_ok() {
                    self.joined_v4.insert(*ip);
                }
            }
        }
        if let Some(socket) = &self.v6 {
            self.joined_v6.retain(|index| v6.contains(index));
            for index in v6.difference(&self.joined_v6.clone()) {
                if socket.join_multicast_v6(&GROUP_V6, *index).is_ok() {
                    self.joined_v6.insert(*index);
                }
            }
        }
    }

    async fn announce(&self, bytes: &[u8]) {
        if let Some(socket) = &self.v4 {
            for ip in &self.joined_v4 {
                let chosen = sockopt::set_ip_multicast_if(socket, ip);
                let sent = match chosen {
                    Ok(()) => socket.send_to(bytes, (GROUP_V4, PORT)).await.map(drop),
                    Err(error) => Err(error.into()),
                };
                if let Err(error) = sent {
                    debug!(%ip, %error, "not announced");
                }
            }
        }
        if let Some(socket) = &self.v6 {
            for index in &self.joined_v6 {
                let to = SocketAddrV6::new(GROUP_V6, PORT, 0, *index);
                if let Err(error) = socket.send_to(bytes, to).await {
                    debug!(index, %error, "not announced");
                }
            }
        }
    }

    /// Waits for a packet from anybody.
    async fn receive(&self, buffer: &mut [u8; ANNOUNCEMENT_BYTES_MAX + 1], other: &mut [u8]) -> io::Result<Vec<u8>> {
        let from = async |socket: &Option<UdpSocket>, buffer: &mut [u8]| match socket {
            Some(socket) => socket.recv(buffer).await.map(|count| buffer[..count].to_vec()),
            None => std::future::pending().await,
        };
        tokio::select! {
            received = from(&self.v4, buffer) => received,
            received = from(&self.v6, other) => received,
        }
    }
}

/// A socket that shares its port with other nodes on this machine.
fn open(address: SocketAddr) -> io::Result<UdpSocket> {
    let (family, flags) = match address {
        SocketAddr::V4(_) => (AddressFamily::INET, SocketFlags::CLOEXEC),
        SocketAddr::V6(_) => (AddressFamily::INET6, SocketFlags::CLOEXEC),
    };
    let socket = socket_with(family, SocketType::DGRAM, flags | SocketFlags::NONBLOCK, Some(ipproto::UDP))?;
    sockopt::set_socket_reuseaddr(&socket, true)?;
    if address.is_ipv6() {
        sockopt::set_ipv6_v6only(&socket, true)?;
    }
    bind(&socket, &address)?;
    UdpSocket::from_std(StdSocket::from(socket))
}

/// Interfaces that have a link-local IPv6 address, by index, as the kernel lists them (`/proc/net/if_inet6`: address, index, prefix length, scope, flags, name).
fn link_local_interfaces(table: &str) -> BTreeSet<u32> {
    let lines = table.lines().filter_map(|line| {
        let mut fields = line.split_whitespace();
        let (address, index) = (fields.next()?, fields.next()?);
        let is_link_local = address.starts_with("fe8");
        is_link_local.then(|| u32::from_str_radix(index, 16).ok())?
    });
    lines.collect()
}

impl Node {
    /// Strangers on the local network.
    pub(crate) fn neighbours(&self) -> Vec<Neighbour> {
        let mut neighbours = self.lan.list();
        // One may have become a peer meanwhile.
        neighbours.retain(|neighbour| !self.book.knows(&neighbour.node));
        neighbours
    }

    /// Announces this node and listens to others until the link stops.
    pub(crate) async fn meet_neighbours(self: Arc<Self>) {
        let mut sockets = Sockets::open();
        let (mut own, mut changes) = (self.own.subscribe(), self.book.changes());
        let mut pace = Pace::new(Instant::now());
        let mut buffers = (Box::new([0; ANNOUNCEMENT_BYTES_MAX + 1]), Box::new([0; ANNOUNCEMENT_BYTES_MAX + 1]));
        let mut budget = Budget { left: CHECKS_PER_SECOND, since: Instant::now() };
        loop {
            let received = tokio::select! {
                () = self.stop.cancelled() => return,
                () = sleep_until(pace.next.into()) => None,
                changed = own.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    pace.hurry(Instant::now(), Duration::ZERO);
                    continue;
                }
                Ok(()) = changes.changed() => {
                    pace.hurry(Instant::now(), PAUSE_LEAST);
                    continue;
                }
                received = sockets.receive(&mut buffers.0, &mut *buffers.1) => Some(received),
            };
            match received {
                None => {
                    self.announce(&mut sockets).await;
                    pace.announced(Instant::now());
                }
                Some(Ok(bytes)) if budget.take(Instant::now()) => {
                    if self.hear_of(&bytes).await {
                        pace.hurry(Instant::now(), ANSWER_AFTER);
                    }
                }
                Some(Ok(_)) => {}
                Some(Err(error)) => {
                    debug!(%error, "cannot hear the local network");
                    tokio::time::sleep(ANSWER_AFTER).await;
                }
            }
        }
    }

    async fn announce(&self, sockets: &mut Sockets) {
        let (signed, record) = {
            let own = self.own.borrow();
            (own.signed.clone(), own.record.clone())
        };
        let reachable: Vec<IpAddr> = record.quic.iter().map(SocketAddr::ip).filter(|ip| !ip.is_loopback()).collect();
        if reachable.is_empty() {
            return;
        }
        let v4 = reachable.iter().filter_map(|ip| match ip {
            IpAddr::V4(ip) => Some(*ip),
            IpAddr::V6(_) => None,
        });
        // Of this process's own network namespace, unlike what lies in /sys.
        let table = tokio::fs::read_to_string("/proc/net/if_inet6").await.unwrap_or_default();
        sockets.join(&v4.collect(), &link_local_interfaces(&table));
        sockets.announce(&encode_announcement(&signed)).await;
    }

    /// True if the sender should hear of us soon.
    async fn hear_of(&self, bytes: &[u8]) -> bool {
        let (signed, record) = match decode_announcement(bytes) {
            Ok((_, record)) if record.node == self.id => return false,
            Ok(heard) => heard,
            Err(error) => {
                debug!(%error, "an announcement is not looked at");
                return false;
            }
        };
        let node = record.node;
        let Some(keeper) = self.book.keeper(&node) else { return self.lan.note(record) };
        self.book.overhear(signed, record).await;
        let absent = !self.book.is_present(&node);
        if absent {
            keeper.wake.notify_one();
        }
        absent
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use atoll_keys::NodeKey;
    use proptest::prelude::{any, proptest};

    use super::*;

    fn record(key: &NodeKey) -> AddressRecord {
        let quic = vec!["192.0.2.1:5771".parse().unwrap()];
        AddressRecord { node: key.id(), sequence: 3, quic, lane: Vec::new(), relay: None }
    }

    #[test]
    fn an_announcement_is_heard_if_its_node_signed_it() {
        let (key, other) = (NodeKey::generate(), NodeKey::generate());
        let bytes = encode_announcement(&Signed::sign(&record(&key), &key));
        assert_eq!(decode_announcement(&bytes).unwrap().1, record(&key));
        let forged = encode_announcement(&Signed::sign(&record(&key), &other));
        assert!(matches!(decode_announcement(&forged), Err(AnnouncementError::Record(_))));
        assert_eq!(decode_announcement(b"M-SEARCH * HTTP/1.1"), Err(AnnouncementError::Foreign));
        assert_eq!(decode_announcement(&[0; ANNOUNCEMENT_BYTES_MAX + 1]), Err(AnnouncementError::Foreign));
    }

    #[test]
    fn a_crowd_fills_neither_the_memory_nor_the_network() {
        let neighbours = Neighbours::default();
        for number in 0..2 * STRANGERS_MAX {
            let record = record(&NodeKey::generate());
            assert_eq!(neighbours.note(record.clone()), number < STRANGERS_MAX, "{number}");
            assert!(!neighbours.note(record), "{number} is not answered again");
        }
        assert_eq!(neighbours.list().len(), STRANGERS_MAX);
    }

    #[test]
    fn announcements_become_rare_until_something_happens() {
        let start = Instant::now();
        let at = |seconds: u64| start + Duration::from_secs(seconds);
        let mut pace = Pace::new(start);
        let mut times = Vec::new();
        while pace.next < at(600) {
            times.push((pace.next - start).as_secs());
            pace.announced(pace.next);
        }
        assert_eq!(times, [0, 10, 30, 70, 150, 270, 390, 510]);
        // Somebody new, and another before the answer is due.
        pace.hurry(at(520), ANSWER_AFTER);
        pace.hurry(at(520) + ANSWER_AFTER / 2, ANSWER_AFTER);
        assert_eq!(pace.next, at(521));
        pace.announced(at(521));
        assert_eq!(pace.next, at(531));
        // One that was announced just now waits, and a change of our own does not.
        pace.hurry(at(521), ANSWER_AFTER);
        assert_eq!(pace.next, at(522));
        pace.hurry(at(521), Duration::ZERO);
        assert_eq!(pace.next, at(521));
    }

    #[test]
    fn checks_have_a_budget() {
        let now = Instant::now();
        let mut budget = Budget { left: 1, since: now };
        assert!(budget.take(now));
        assert!(!budget.take(now));
        assert!(budget.take(now + Duration::from_secs(1)));
    }

    #[test]
    fn interfaces_are_read_from_the_kernels_table() {
        let table = "00000000000000000000000000000001 01 80 10 80       lo\n\
                     fe80000000000000e8a1b2fffe000001 0a 40 20 80     eth0\n\
                     06a3000000000000000000000000beef 0b 80 00 80   atoll0\nrubbish\n";
        assert_eq!(link_local_interfaces(table), BTreeSet::from([10]));
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(mut bytes: Vec<u8>, magic in any::<bool>()) {
            if magic {
                bytes.splice(0..0, [MAGIC, &[1, 0]].concat());
            }
            let _: Result<_, AnnouncementError> = decode_announcement(&bytes);
        }
    }
}
