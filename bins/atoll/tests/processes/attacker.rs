//! A machine beside the nodes that hears what passes on their bridge, and sends what it likes in anybody's name. IPv4, as there the kernel takes a
//! packet's source as it is written. Takes root.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read as _;
use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::JoinHandle;
use std::time::Duration;

use atoll_ids::NodeId;
use atoll_lab::{Host, Lab};
use iroh::endpoint::presets;
use iroh::{Endpoint, EndpointAddr, PublicKey, RelayMode};
use rustix::net::{AddressFamily, SendFlags, SocketFlags, SocketType, eth, ipproto, sendto, socket_with, sockopt};
use rustls::crypto::aws_lc_rs;

/// What the kernel keeps for the attacker while it is busy: floods are heard to the end.
const KERNEL_BYTES: usize = 16 << 20;

/// Bytes of an Ethernet header.
const ETHERNET_BYTES: usize = 14;

/// Bytes of an IPv4 header without options.
const IPV4_BYTES: usize = 20;

/// Bytes of a UDP header.
const UDP_BYTES: usize = 8;

/// IPv4 in an Ethernet header.
const ETHERTYPE_IPV4: [u8; 2] = [8, 0];

/// UDP in an IPv4 header.
const UDP: u8 = 17;

/// A UDP datagram that somebody else sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Datagram {
    pub(crate) from: SocketAddrV4,
    pub(crate) to: SocketAddrV4,
    pub(crate) payload: Vec<u8>,
}

impl Datagram {
    fn read(frame: &[u8]) -> Option<Self> {
        let (ethernet, packet) = frame.split_at_checked(ETHERNET_BYTES)?;
        if ethernet[12..] != ETHERTYPE_IPV4 || packet.len() < IPV4_BYTES || packet[9] != UDP {
            return None;
        }
        let address = |at: usize| Ipv4Addr::new(packet[at], packet[at + 1], packet[at + 2], packet[at + 3]);
        let udp =
            packet.get(usize::from(packet[0] & 15) * 4..usize::from(u16::from_be_bytes([packet[2], packet[3]])))?;
        let port = |at: usize| Some(u16::from_be_bytes([*udp.get(at)?, *udp.get(at + 1)?]));
        let (from, to) = (SocketAddrV4::new(address(12), port(0)?), SocketAddrV4::new(address(16), port(2)?));
        Some(Self { from, to, payload: udp.get(UDP_BYTES..)?.to_vec() })
    }

    /// Bytes of the IP packet.
    pub(crate) fn bytes(&self) -> usize {
        IPV4_BYTES + UDP_BYTES + self.payload.len()
    }
}

/// See the [module](self).
pub(crate) struct Attacker {
    pub(crate) host: Host,
    raw: OwnedFd,
    heard: Arc<Mutex<Vec<Datagram>>>,
    ended: Arc<AtomicBool>,
    hearing: Option<JoinHandle<()>>,
}

impl Attacker {
    /// Takes the place of the host that takes no part.
    pub(crate) fn on(lab: &Lab) -> Self {
        lab.let_all_hear_all().unwrap();
        let host = lab.outside().clone();
        host.netns().ip(&["link", "set", "eth0", "promisc", "on"]).unwrap();
        let flags = SocketFlags::CLOEXEC;
        let (raw, tap) = host
            .inside(|| {
                let raw = socket_with(AddressFamily::INET, SocketType::RAW, flags, Some(ipproto::RAW))?;
                let tap = socket_with(AddressFamily::PACKET, SocketType::RAW, flags, Some(eth::ALL))?;
                sockopt::set_socket_recv_buffer_size_force(&tap, KERNEL_BYTES)?;
                sockopt::set_socket_timeout(&tap, sockopt::Timeout::Recv, Some(Duration::from_millis(100)))?;
                Ok((raw, tap))
            })
            .unwrap();
        let (heard, ended) = (Arc::new(Mutex::new(Vec::new())), Arc::new(AtomicBool::new(false)));
        let own = hardware_address(&host);
        let (hears, ends) = (heard.clone(), ended.clone());
        let hearing = std::thread::spawn(move || {
            let (mut tap, mut frame) = (File::from(tap), vec![0; 1 << 16]);
            while !ends.load(Ordering::Relaxed) {
                let Ok(count) = tap.read(&mut frame) else { continue };
                // What the attacker sends itself comes by as well.
                if frame.get(6..12) != Some(&own)
                    && let Some(datagram) = Datagram::read(&frame[..count])
                {
                    hears.lock().unwrap().push(datagram);
                }
            }
        });
        Self { host, raw, heard, ended, hearing: Some(hearing) }
    }

    fn heard(&self) -> MutexGuard<'_, Vec<Datagram>> {
        self.heard.lock().unwrap()
    }

    /// How much was heard so far: what comes later begins there.
    pub(crate) fn now(&self) -> usize {
        self.heard().len()
    }

    /// What was heard since then and is like that.
    pub(crate) fn heard_since(&self, since: usize, like: impl Fn(&Datagram) -> bool) -> Vec<Datagram> {
        self.heard()[since..].iter().filter(|datagram| like(datagram)).cloned().collect()
    }

    /// Sends a datagram in whose name it says.
    pub(crate) fn sends(&self, datagram: &Datagram) {
        let mut packet = vec![0; IPV4_BYTES + UDP_BYTES];
        // The kernel fills in length, identification and checksum (raw(7)); UDP has none, which over IPv4 it may do without.
        (packet[0], packet[8], packet[9]) = (0x45, 64, UDP);
        packet[12..16].copy_from_slice(&datagram.from.ip().octets());
        packet[16..20].copy_from_slice(&datagram.to.ip().octets());
        packet[20..22].copy_from_slice(&datagram.from.port().to_be_bytes());
        packet[22..24].copy_from_slice(&datagram.to.port().to_be_bytes());
        let length = u16::try_from(UDP_BYTES + datagram.payload.len()).unwrap();
        packet[24..26].copy_from_slice(&length.to_be_bytes());
        packet.extend_from_slice(&datagram.payload);
        sendto(&self.raw, &packet, SendFlags::empty(), &SocketAddrV4::new(*datagram.to.ip(), 0)).unwrap();
    }

    /// The same for many, not faster than a busy machine takes them in.
    pub(crate) fn sends_all<'a>(&self, datagrams: impl IntoIterator<Item = &'a Datagram>) {
        for (at, datagram) in datagrams.into_iter().enumerate() {
            self.sends(datagram);
            if at % 16 == 15 {
                std::thread::sleep(Duration::from_millis(1));
            }
        }
    }

    /// Handshakes begun with a node by the very library that nodes use, each as the datagrams that its first message takes. They are not sent.
    pub(crate) fn handshakes(&self, with: NodeId, count: usize) -> Vec<Vec<Vec<u8>>> {
        let drawn = self.host.inside(|| {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            Ok(runtime.block_on(draw_handshakes(with, count)))
        });
        drawn.unwrap()
    }
}

impl Drop for Attacker {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::Relaxed);
        if let Some(hearing) = self.hearing.take() {
            let _: std::thread::Result<()> = hearing.join();
        }
    }
}

/// The address of a host's cable.
fn hardware_address(host: &Host) -> [u8; 6] {
    let output = host.command("ip").args(["-j", "link", "show", "eth0"]).output().unwrap();
    let links: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let bytes: Vec<u8> =
        links[0]["address"].as_str().unwrap().split(':').map(|byte| u8::from_str_radix(byte, 16).unwrap()).collect();
    bytes.try_into().unwrap()
}

/// The connection's name that a handshake's first datagrams carry, if this is one of them (RFC 9000, section 17.2.2).
fn begins_handshake(payload: &[u8]) -> Option<&[u8]> {
    let [first, _, _, _, _, length, rest @ ..] = payload else { return None };
    // A long header, of a packet of the first kind.
    (first & 0xf0 == 0xc0).then(|| rest.get(..usize::from(*length)))?
}

/// Datagrams of a first message: the hybrid key share does not fit one.
const FIRST_DATAGRAMS: usize = 2;

/// Begun at once while they are drawn.
const AT_ONCE: usize = 16;

async fn draw_handshakes(with: NodeId, count: usize) -> Vec<Vec<Vec<u8>>> {
    let sink = UdpSocket::bind("127.0.0.1:0").unwrap();
    sink.set_nonblocking(true).unwrap();
    sockopt::set_socket_recv_buffer_size_force(&sink, KERNEL_BYTES).unwrap();
    let endpoint = Endpoint::builder(presets::Empty)
        .crypto_provider(Arc::new(aws_lc_rs::default_provider()))
        .relay_mode(RelayMode::Disabled)
        .bind()
        .await
        .unwrap();
    let at =
        EndpointAddr::new(PublicKey::from_bytes(with.as_bytes()).unwrap()).with_ip_addr(sink.local_addr().unwrap());
    let mut begun: BTreeMap<Vec<u8>, Vec<Vec<u8>>> = BTreeMap::new();
    let mut buffer = [0; 2048];
    let mut rounds = 0;
    while begun.values().filter(|datagrams| datagrams.len() == FIRST_DATAGRAMS).count() < count {
        rounds += 1;
        assert!(rounds < 4 * (count / AT_ONCE + 8), "{} of {count} handshakes could be begun", begun.len());
        let dial = || tokio::time::timeout(Duration::from_millis(150), endpoint.connect(at.clone(), b"atoll/join/1"));
        let _: Vec<_> = futures_util::future::join_all((0..AT_ONCE).map(|_| dial())).await;
        while let Ok(count) = sink.recv(&mut buffer) {
            let payload = &buffer[..count];
            if let Some(name) = begins_handshake(payload) {
                let datagrams = begun.entry(name.to_vec()).or_default();
                // What comes behind is sent again, or takes it back.
                if datagrams.len() < FIRST_DATAGRAMS {
                    datagrams.push(payload.to_vec());
                }
            }
        }
    }
    begun.into_values().filter(|datagrams| datagrams.len() == FIRST_DATAGRAMS).take(count).collect()
}
