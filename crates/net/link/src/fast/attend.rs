//! Looks after a path: where it goes, whether packets arrive, and how long it is kept without a connection.

use std::net::SocketAddr;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use atoll_fast::{Besides, DOUBT, Way};
use bytes::Bytes;
use iroh::TransportAddr;
use iroh::endpoint::Connection;
use tokio::time::{sleep, sleep_until};
use tracing::info;

use super::FastPath;
use crate::address::is_dialable;
use crate::node::Node;

/// How often it is looked where the connection goes, at least.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// A path without a connection on which nothing was heard for this long is given up. A peer whose packets do arrive hears of it within a second.
const LINGER: Duration = Duration::from_secs(10);

/// What a connection is asked with whether it still gets through: a datagram that is no packet. It is acknowledged.
const ASKING: Bytes = Bytes::new();

/// Whether a connection gets through, as far as can be told without waiting.
#[derive(Default)]
struct Hearing {
    /// Datagrams that came until now.
    came: u64,
    /// Since when it is asked without anything coming.
    asked: Option<Instant>,
    /// It was asked and nothing came, nor has since.
    dead: bool,
}

impl Hearing {
    /// Whether it gets through by itself. While there is `doubt`, it is asked.
    fn listen(&mut self, now: Instant, connection: &Connection, doubt: bool) -> bool {
        if connection.close_reason().is_some() || !is_direct(connection) {
            return false;
        }
        let came = connection.stats().udp_rx.datagrams;
        if came != self.came {
            *self = Self { came, ..Self::default() };
        }
        if doubt {
            let _: Result<(), _> = connection.send_datagram(ASKING);
            self.dead |= now.duration_since(*self.asked.get_or_insert(now)) >= DOUBT;
        } else {
            self.asked = None;
        }
        !self.dead
    }
}

impl FastPath<'_> {
    /// Keeps the path where the connection is, and watches whether packets arrive. Never returns.
    async fn attend(&self, node: &Node, connection: Option<&Connection>) {
        let session = &*self.session;
        let (mut bursts, mut hearing, mut was_at) = (0, Hearing::default(), session.target());
        loop {
            let now = Instant::now();
            let aim = connection.and_then(direct).and_then(|address| self.theirs.at(address)).filter(is_dialable);
            let busy = {
                let mut sending = session.sending();
                sending.sealer.turn(now);
                std::mem::replace(&mut bursts, sending.bursts) != sending.bursts
            };
            let (doubt, at_work) = session.watching(|watch| (watch.doubts(now), watch.target().is_some()));
            let at_work = at_work && !doubt;
            let gets_through = connection.is_some_and(|connection| hearing.listen(now, connection, doubt));
            let besides =
                Besides { connection: gets_through, relays: node.via.reach.has_relay_to(&node.book, &session.peer) };
            let places = if at_work { Vec::new() } else { self.places(node) };
            let step = session.watching(|watch| {
                watch.know(places.into_iter());
                if connection.is_some() {
                    watch.aim(aim);
                }
                watch.step(now, busy, besides)
            });
            for probe in step.probes {
                self.paths.probe(session, probe);
            }
            let at = session.target();
            if at != was_at {
                info!(peer = %session.peer.short(), side = ?session.side, ?at, "fast path");
                was_at = at;
            }
            session.dozing.store(!busy, Ordering::Relaxed);
            tokio::select! {
                () = sleep_until(step.again.min(now + LOOK_EVERY).into()) => {}
                () = session.wake.notified() => {}
            }
        }
    }

    /// Where the peer's record says that it is, at its port for packets.
    fn places(&self, node: &Node) -> Vec<SocketAddr> {
        let record = node.whereabouts(&self.session.peer);
        let said = record.iter().flat_map(|record| &record.quic);
        let mut places: Vec<SocketAddr> =
            said.filter_map(|address| self.theirs.at(*address)).filter(is_dialable).collect();
        places.sort_unstable();
        places.dedup();
        places
    }

    /// Keeps a path whose connection is gone: until the peer is silent or forgotten, or another has long taken its place. `wanted` is asked now and then.
    pub(crate) async fn linger(&self, node: &Node, wanted: impl Fn() -> bool) {
        let began = Instant::now();
        let until_unwanted = async {
            loop {
                let heard = self.session.heard().map_or(began, |heard| heard.max(began));
                let replaced = self.paths.has_newer(&self.session) && began.elapsed() > LINGER / 2;
                if replaced || heard.elapsed() > LINGER || node.whereabouts(&self.session.peer).is_none() || !wanted() {
                    return;
                }
                sleep(LOOK_EVERY).await;
            }
        };
        tokio::select! {
            () = self.attend(node, None) => {}
            () = until_unwanted => {}
        }
    }

    /// Whether packets get through on it.
    pub(crate) fn works(&self) -> bool {
        self.session.target().is_some()
    }
}

impl Node {
    /// Looks after a path, if there is one. Never returns.
    pub(super) async fn attend(&self, path: Option<&FastPath<'_>>, connection: &Connection) {
        match path {
            Some(path) => path.attend(self, Some(connection)).await,
            None => std::future::pending().await,
        }
    }

    /// Whether a peer was heard by a way of its packets within this time.
    pub(crate) fn packets_heard_within(&self, peer: &atoll_ids::NodeId, time: Duration) -> bool {
        self.fast.heard(peer).is_some_and(|heard| heard.elapsed() < time)
    }

    /// The way that sealed packets to a peer take by relays, if they do.
    pub(crate) fn is_relayed(&self, peer: &atoll_ids::NodeId) -> bool {
        self.packets.session(peer).is_some_and(|session| session.target() == Some(Way::Relayed))
    }
}

/// The address that a connection uses now, if it uses one.
fn direct(connection: &Connection) -> Option<SocketAddr> {
    let paths = connection.paths();
    match paths.iter().find(|path| path.is_selected())?.remote_addr() {
        TransportAddr::Ip(address) => Some(*address),
        _ => None,
    }
}

/// Whether a connection does not go by a relay of peers.
fn is_direct(connection: &Connection) -> bool {
    let paths = connection.paths();
    paths.iter().any(|path| path.is_selected() && !matches!(path.remote_addr(), TransportAddr::Custom(_)))
}
