//! iroh's unstable traits: the transport, the choice between it and direct paths, and when it is tried. They are used here and nowhere else.
//!
//! An address of this transport is a [`NodeId`]; which relay carries is not in it. Sending puts a datagram into a bounded queue and never waits: what does not fit
//! is lost, which QUIC reacts to as on any path. It must not do more than that, because iroh calls it while it holds the connection that sends, and what carries is another connection.

use std::io::{self, IoSliceMut};
use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use atoll_ids::NodeId;
use atoll_relay::Cargo;
use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::future::ready;
use futures_util::stream::{BoxStream, once};
use iroh::address_lookup::{self, AddressLookup, EndpointData, EndpointInfo, Item};
use iroh::endpoint::transports::{
    Addr, CustomEndpoint, CustomSender, CustomTransport, FourTuple, PathSelection, PathSelectionContext,
    PathSelectionData, PathSelector, RecvInfo, Transmit,
};
use iroh::{EndpointId, TransportAddr};
use iroh_base::CustomAddr;
use noq_udp::RecvMeta;
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};

use crate::book::Book;
use crate::via::reach::Reach;
use crate::via::{Ends, Outgoing};

/// The number of this kind of address: "atoll" in ASCII. It never leaves the process.
const TRANSPORT: u64 = 0x61_746f_6c6c;

/// Datagrams that wait on their way out or in: some 3 MiB. A relay's budget is far below what this buffers in a second.
const QUEUE_MAX: usize = 2048;

/// Datagrams that iroh may hand over in one go. One would turn segmentation off for direct paths as well.
const SEGMENTS_MAX: NonZeroUsize = NonZeroUsize::new(64).expect("not zero");

/// How long direct paths have the handshake for themselves. QUIC repeats its first packet after a second, then also by relays; where the direct way works, it is done by then.
const DIRECT_FIRST: Duration = Duration::from_millis(500);

/// How long it is looked out for a relay or a lane to turn up. As long as dialling takes by default; the next attempt looks again.
const LOOK_OUT: Duration = Duration::from_secs(5);

/// What IPv6 may be slower than IPv4 and still be preferred; iroh's default.
const IPV6_ADVANTAGE: Duration = Duration::from_millis(3);

/// How much better another path of the same kind must be; iroh's default.
const BETTER_BY: Duration = Duration::from_millis(5);

/// The address of a peer on this transport.
pub(crate) fn address(peer: &NodeId) -> TransportAddr {
    TransportAddr::Custom(CustomAddr::from_parts(TRANSPORT, peer.as_bytes()))
}

fn node(address: &CustomAddr) -> Option<NodeId> {
    let id = <[u8; 32]>::try_from(address.data()).ok()?;
    (address.id() == TRANSPORT).then(|| NodeId::from_bytes(id))
}

/// See the module's documentation.
#[derive(Debug)]
pub(crate) struct ViaTransport {
    outgoing: mpsc::Sender<Outgoing>,
    /// Taken by the endpoint, of which there is one.
    arriving: Mutex<Option<mpsc::Receiver<(NodeId, Bytes)>>>,
    unsent: Arc<AtomicU64>,
}

impl ViaTransport {
    /// A transport for one endpoint, and what the rest of the link needs of it.
    pub(crate) fn new() -> (Arc<Self>, Ends) {
        let (outgoing, leaving) = mpsc::channel(QUEUE_MAX);
        let (arrived, arriving) = mpsc::channel(QUEUE_MAX);
        let unsent = Arc::new(AtomicU64::new(0));
        let ends = Ends { arrived, outgoing: (outgoing.clone(), leaving), unsent: unsent.clone() };
        (Arc::new(Self { outgoing, arriving: Mutex::new(Some(arriving)), unsent }), ends)
    }
}

impl CustomTransport for ViaTransport {
    fn bind(&self) -> io::Result<Box<dyn CustomEndpoint>> {
        let arriving = self.arriving.lock().unwrap_or_else(PoisonError::into_inner).take();
        let arriving = arriving.ok_or_else(|| io::Error::other("this transport is for one endpoint"))?;
        let sender = Sender { outgoing: self.outgoing.clone(), unsent: self.unsent.clone() };
        Ok(Box::new(Receiver { arriving, sender, addresses: n0_watcher::Watchable::new(Vec::new()) }))
    }
}

#[derive(Debug, Clone)]
struct Sender {
    outgoing: mpsc::Sender<Outgoing>,
    unsent: Arc<AtomicU64>,
}

impl CustomSender for Sender {
    fn is_valid_send_addr(&self, address: &CustomAddr) -> bool {
        node(address).is_some()
    }

    fn poll_send(
        &self,
        _: &mut Context<'_>,
        to: &CustomAddr,
        _: Option<&CustomAddr>,
        transmit: &Transmit<'_>,
    ) -> Poll<io::Result<()>> {
        let Some(to) = node(to) else { return Poll::Ready(Err(io::Error::other("not an address of a peer"))) };
        let size = transmit.segment_size.unwrap_or(transmit.contents.len()).max(1);
        for datagram in transmit.contents.chunks(size) {
            if self.outgoing.try_send((to, Cargo::Quic, Bytes::copy_from_slice(datagram))).is_err() {
                self.unsent.fetch_add(1, Ordering::Relaxed);
            }
        }
        Poll::Ready(Ok(()))
    }
}

#[derive(Debug)]
struct Receiver {
    arriving: mpsc::Receiver<(NodeId, Bytes)>,
    sender: Sender,
    /// None: what is published about this node says nothing of this transport.
    addresses: n0_watcher::Watchable<Vec<CustomAddr>>,
}

impl CustomEndpoint for Receiver {
    fn watch_local_addrs(&self) -> n0_watcher::Direct<Vec<CustomAddr>> {
        self.addresses.watch()
    }

    fn create_sender(&self) -> Arc<dyn CustomSender> {
        Arc::new(self.sender.clone())
    }

    fn poll_recv(
        &mut self,
        cx: &mut Context<'_>,
        buffers: &mut [IoSliceMut<'_>],
        metas: &mut [RecvMeta],
        infos: &mut [RecvInfo],
    ) -> Poll<io::Result<usize>> {
        let room = buffers.len().min(metas.len()).min(infos.len());
        let mut filled = 0;
        while filled < room {
            match self.arriving.poll_recv(cx) {
                Poll::Ready(Some((from, datagram))) if datagram.len() <= buffers[filled].len() => {
                    buffers[filled][..datagram.len()].copy_from_slice(&datagram);
                    let meta = &mut metas[filled];
                    (meta.len, meta.stride) = (datagram.len(), datagram.len());
                    infos[filled] = RecvInfo::new(CustomAddr::from_parts(TRANSPORT, from.as_bytes()), None);
                    filled += 1;
                }
                // Larger than any datagram of QUIC that iroh has room for: not one of it.
                Poll::Ready(Some(_)) => {}
                Poll::Ready(None) if filled == 0 => return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
                Poll::Pending if filled == 0 => return Poll::Pending,
                _ => break,
            }
        }
        Poll::Ready(Ok(filled))
    }

    fn max_transmit_segments(&self) -> NonZeroUsize {
        SEGMENTS_MAX
    }
}

/// Direct paths as iroh chooses among them by default, then a relay of ours, then one that the configuration names.
#[derive(Debug)]
pub(crate) struct DirectFirst;

/// The less the better: the kind of path, then its round trip in nanoseconds with what is to its credit.
fn rank(path: &FourTuple, round_trip: Duration) -> (u8, i128) {
    let nanos = |time: Duration| i128::try_from(time.as_nanos()).unwrap_or(i128::MAX);
    match path.remote() {
        Addr::Ip(address) if address.is_ipv6() => (0, nanos(round_trip) - nanos(IPV6_ADVANTAGE)),
        Addr::Ip(_) => (0, nanos(round_trip)),
        Addr::Custom(_) => (1, nanos(round_trip)),
        Addr::Relay(..) => (2, nanos(round_trip)),
    }
}

impl PathSelector for DirectFirst {
    fn select(&self, context: &PathSelectionContext<'_>) -> PathSelection {
        let mut best: Option<(PathSelectionData<'_>, (u8, i128))> = None;
        let mut current: Option<(u8, i128)> = None;
        for path in context.paths() {
            let Some(stats) = path.stats() else { continue };
            let rank = rank(path.network_path(), stats.rtt);
            if Some(path.network_path()) == context.current() {
                current = Some(current.map_or(rank, |current| current.min(rank)));
            }
            if best.as_ref().is_none_or(|(_, best)| rank < *best) {
                best = Some((path, rank));
            }
        }
        let mut selection = PathSelection::none();
        if let Some((best, (kind, round_trip))) = best {
            let better_by = i128::try_from(BETTER_BY.as_nanos()).unwrap_or(i128::MAX);
            let stays = current.is_some_and(|(at, now)| at == kind && round_trip + better_by > now);
            if !stays {
                selection.set(&best);
            }
        }
        selection
    }
}

/// Tells iroh, a moment after it began to look for a peer, that it may be reached by relays: if it is one of ours, or being joined, and there is another through which to try.
pub(crate) struct Lookup(pub(crate) Arc<Book>, pub(crate) Arc<Reach>);

impl std::fmt::Debug for Lookup {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Lookup")
    }
}

impl AddressLookup for Lookup {
    fn resolve(&self, id: EndpointId) -> Option<BoxStream<'static, Result<Item, address_lookup::Error>>> {
        let (book, reach, peer) = (self.0.clone(), self.1.clone(), NodeId::from_bytes(*id.as_bytes()));
        let found = async move {
            sleep(DIRECT_FIRST).await;
            let mut changes = reach.changes();
            let there_is_one = async {
                while !reach.has_relay_to(&book, &peer) {
                    if changes.changed().await.is_err() {
                        return;
                    }
                }
            };
            let found = timeout(LOOK_OUT, there_is_one).await.is_ok();
            let data = EndpointData::from_iter([address(&peer)]);
            found.then(|| Ok(Item::new(EndpointInfo { endpoint_id: id, data }, "relays", None)))
        };
        Some(once(found).filter_map(ready).boxed())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;

    #[test]
    fn a_direct_path_is_preferred_whatever_its_round_trip() {
        let ms = Duration::from_millis;
        let ip = |text: &str| FourTuple::from_remote(Addr::Ip(text.parse().unwrap()));
        let peer = NodeId::from_bytes([7; 32]);
        let TransportAddr::Custom(via) = address(&peer) else { panic!("of another kind") };
        assert_eq!(node(&via), Some(peer));
        let via = FourTuple::from_remote(Addr::Custom(via));
        assert!(rank(&ip("192.0.2.1:1"), ms(900)) < rank(&via, ms(1)));
        assert!(rank(&via, ms(10)) < rank(&via, ms(20)));
        assert!(rank(&ip("[2001:db8::1]:1"), ms(12)) < rank(&ip("192.0.2.1:1"), ms(10)));
        assert!(rank(&ip("192.0.2.1:1"), ms(10)) < rank(&ip("[2001:db8::1]:1"), ms(14)));
    }
}
