//! Peers that stay known find each other again: `atoll/hello/2`.
//!
//! One task looks after each peer. While the two are connected it waits; otherwise it dials where the peer was last, again
//! and again with growing pauses. When they meet they exchange their signed records, and again whenever one of them moves, so two nodes find
//! each other as long as one of them is still where the other saw it last. The connection stays and shows that the peer is alive. While something goes on between the two, a
//! empty datagram asks for a sign of life every two seconds, and the connection ends after five without any. Otherwise iroh's own probes, a third as many, are enough, and
//! it ends after fifteen.
//!
//! Either end opens streams on it. One begins with a byte that says what it is: a greeting, or a stream of a protocol that is named next, for those who have a few words to say now
//! and then ([`Traffic::Aside`](crate::Traffic::Aside)).

use std::sync::Arc;
use std::time::{Duration, Instant};

use atoll_ids::NodeId;
use bytes::Bytes;
use iroh::endpoint::{Connection, ConnectionError, RecvStream, SendStream, Side};
use tokio::sync::watch;
use tokio::time::{MissedTickBehavior, interval, timeout};
use tracing::{debug, info};

use crate::address::open_record;
use crate::book::{CountGuard, Keeper};
use crate::dial::{DialError, OPENING};
use crate::frames::{Hello, receive, send};
use crate::node::{Node, Own};
use crate::quic::{KEEP_ALIVE, code, is_direct};
use crate::stream::{Holds, QuicStream};

/// The protocol's name.
pub(crate) const HELLO: &str = "atoll/hello/2";

/// How a greeting begins. Streams of other protocols begin with [`OPENING`].
const GREETING: u8 = 0;

/// A datagram that asks for a sign of life: QUIC acknowledges it. No message about nodes is empty.
pub(crate) const PROBE: &[u8] = b"";

/// How long one exchange of greetings may take.
const HELLO_TIMEOUT: Duration = Duration::from_secs(5);

/// A connection on which nothing came for this long is in doubt: one probe and its answer are missing. Relays are asked whether they see the peer.
const DOUBTFUL: Duration = Duration::from_millis(2500);

/// A connection on which nothing came for this long is left, if the peer is heard from in another way. Two probes are missing.
const SILENT: Duration = Duration::from_millis(4500);

/// A connection between two that use each other ends when nothing came for this long.
const DEAD: Duration = Duration::from_secs(5);

/// How long after it last was a peer counts as used for packets.
const PACKETS_USED: Duration = Duration::from_secs(60);

/// Two that dial each other at the same moment may both keep what they made. After this long a connection is known to be alive beside another, and one of them
/// goes.
const SETTLED: Duration = Duration::from_secs(20);

/// How long nothing came although the peer was asked every two seconds.
struct Silence {
    came: u64,
    since: Instant,
}

impl Silence {
    fn new(now: Instant) -> Self {
        Self { came: 0, since: now }
    }

    /// `came` is what came until now; `asked` is whether the peer is asked for signs of life.
    fn listen(&mut self, now: Instant, came: u64, asked: bool) -> Duration {
        if came != self.came || !asked {
            *self = Self { came, since: now };
        }
        now.duration_since(self.since)
    }
}

/// Pauses between attempts to reach a peer: doubled each time between the configured limits.
struct Pauses {
    next: Duration,
    least: Duration,
    most: Duration,
}

impl Pauses {
    fn new(least: Duration, most: Duration) -> Self {
        Self { next: least, least, most }
    }

    fn reset(&mut self) {
        self.next = self.least;
    }

    /// The next pause: between half and all of its nominal length, so that many nodes that lost the same peer do not return at once.
    fn take(&mut self) -> Duration {
        let nominal = self.next;
        self.next = (nominal * 2).min(self.most);
        let mut random = [0; 2];
        getrandom::fill(&mut random).expect("the operating system has randomness");
        nominal.mul_f64(0.5 + f64::from(u16::from_le_bytes(random)) / f64::from(u16::MAX) / 2.0)
    }
}

impl Node {
    /// Starts the task that looks after a peer.
    pub(crate) fn look_after(self: &Arc<Self>, peer: NodeId) {
        if let Some(keeper) = self.book.keeper(&peer) {
            let (stop, forgotten, node) = (self.stop.clone(), keeper.forgotten.clone(), self.clone());
            self.spawn(async move {
                let both = forgotten.run_until_cancelled(node.keep(peer, &keeper));
                stop.run_until_cancelled(both).await;
            });
        }
    }

    /// Connects to a peer whenever it is not connected. Never returns.
    async fn keep(self: &Arc<Self>, peer: NodeId, keeper: &Keeper) {
        let mut pauses = Pauses::new(self.config.retry_least, self.config.retry_most);
        loop {
            if self.book.is_present(&peer) {
                pauses.reset();
                keeper.wake.notified().await;
                continue;
            }
            match self.greet(peer).await {
                Ok((connection, own)) => {
                    pauses.reset();
                    // Both dial when both start. Of two connections the one made by the lower id stays.
                    if self.book.is_present(&peer) && self.id > peer {
                        connection.close(code::DUPLICATE.into(), b"another connection does the same");
                    } else {
                        self.clone().presence(peer, connection, own, None).await;
                    }
                }
                Err(error) => {
                    let pause = pauses.take();
                    debug!(peer = %peer.short(), %error, ?pause, "a peer is not reached");
                    // A word from or about the peer ends the pause.
                    let _: Result<(), _> = timeout(pause, keeper.wake.notified()).await;
                }
            }
        }
    }

    /// Connects to a peer and greets. Gives the connection, and our record as the peer has now heard it.
    async fn greet(self: &Arc<Self>, peer: NodeId) -> Result<(Connection, watch::Receiver<Own>), DialError> {
        let record = self.book.record(&peer).ok_or_else(|| DialError::Failed("forgotten".to_owned()))?;
        let connection = self.dial(peer, &record, HELLO).await?;
        let own = self.own.subscribe();
        match timeout(HELLO_TIMEOUT, self.exchange(peer, &connection)).await {
            Ok(Ok(())) => Ok((connection, own)),
            outcome => Err(match (connection.close_reason(), outcome) {
                (Some(reason), _) => DialError::of(&reason),
                (None, Ok(Err(error))) => DialError::Failed(error),
                (None, _) => DialError::Failed("it did not greet in time".to_owned()),
            }),
        }
    }

    /// Stays on a connection with a peer until it ends: answers greetings, and greets when `own` changes.
    pub(crate) async fn presence(
        self: Arc<Self>,
        peer: NodeId,
        connection: Connection,
        mut own: watch::Receiver<Own>,
        _admission: Option<CountGuard>,
    ) {
        let Some(keeper) = self.book.keeper(&peer) else { return };
        let Some(present) = self.book.present(peer, connection.clone()) else { return };
        info!(peer = %peer.short(), "connected");
        self.hear_datagrams(peer, &connection);
        let began = Instant::now();
        let mut silence = Silence::new(began);
        let mut looks = interval(KEEP_ALIVE);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = self.stop.cancelled() => {
                    connection.close(code::CLOSING.into(), b"shutting down");
                    break;
                }
                () = keeper.forgotten.cancelled() => {
                    connection.close(code::UNKNOWN.into(), b"forgotten");
                    break;
                }
                reason = connection.closed() => {
                    info!(peer = %peer.short(), %reason, "disconnected");
                    // Nobody ended it, so the path did: by a relay it may go on at once.
                    if !matches!(reason, ConnectionError::ApplicationClosed(_) | ConnectionError::LocallyClosed) {
                        self.via.note(peer, false);
                    }
                    break;
                }
                _ = looks.tick() => {
                    let used = self.is_used(&peer);
                    let silent = silence.listen(Instant::now(), connection.stats().udp_rx.datagrams, used);
                    if used && !silent.is_zero() {
                        // One that cannot be sent is missed like one that was lost.
                        let _: Result<(), _> = connection.send_datagram(Bytes::from_static(PROBE));
                    }
                    self.mind_silence(peer, &connection, silent);
                    if began.elapsed() >= SETTLED && self.is_surplus(peer, &connection) {
                        connection.close(code::DUPLICATE.into(), b"another connection does the same");
                        break;
                    }
                }
                stream = connection.accept_bi() => match stream {
                    Ok((say, hear)) => self.clone().take_stream(peer, &connection, say, hear),
                    Err(_) => continue,
                },
                Ok(()) = own.changed() => {
                    let (node, connection) = (self.clone(), connection.clone());
                    self.spawn(async move {
                        let greeting = timeout(HELLO_TIMEOUT, node.exchange(peer, &connection));
                        if let Ok(Err(error)) = greeting.await {
                            debug!(peer = %peer.short(), error, "a peer did not hear that we moved");
                        }
                    });
                }
            }
        }
        // When it was seen last is worth keeping.
        drop(present);
        self.book.write_or_warn(&peer).await;
    }

    /// Whether the peer made a connection that is to stay in place of this one. See [`Self::keep`].
    fn is_surplus(&self, peer: NodeId, connection: &Connection) -> bool {
        let is_ours = |connection: &Connection| connection.side() == Side::Client;
        let stays = |other: &Connection| !is_ours(other) && other.close_reason().is_none();
        self.id > peer && is_ours(connection) && self.book.present_on(&peer).iter().any(stays)
    }

    /// Nothing came along a connection for a while. If the peer is heard from otherwise, it is the way's fault, and there is a better one.
    fn mind_silence(self: &Arc<Self>, peer: NodeId, connection: &Connection, silent: Duration) {
        if silent < DOUBTFUL {
            return;
        }
        if silent >= DEAD {
            // Other connections along this way find out by themselves. If it leads nowhere, the next attempt may go by a relay.
            connection.close(code::MOVING.into(), b"nothing comes this way");
            return self.via.note(peer, false);
        }
        if silent < SILENT {
            if is_direct(connection) && self.via.reach.has_relay_to(&self.book, &peer) {
                self.measure_relays(peer);
            }
            return;
        }
        let by_relay = self.via.heard_within(&peer, DOUBTFUL);
        if (by_relay || self.packets_heard_within(&peer, DOUBTFUL)) && self.leave_dead_way(&peer) {
            info!(peer = %peer.short(), ?silent, by_relay, "its way leads nowhere any more; looking for another");
            if by_relay {
                self.via.note(peer, false);
            }
        }
    }

    /// Whether something goes on with a peer, so that it has to be noticed soon if it is gone.
    fn is_used(&self, peer: &NodeId) -> bool {
        self.book.is_in_use(peer)
            || self.packets_heard_within(peer, PACKETS_USED)
            || self.packets.open_with().contains(peer)
    }

    /// A stream that the peer opened on the connection of greetings.
    fn take_stream(self: Arc<Self>, peer: NodeId, connection: &Connection, say: SendStream, mut hear: RecvStream) {
        let (node, connection) = (self.clone(), connection.clone());
        self.spawn_stream(async move {
            let mut kind = [0];
            match timeout(HELLO_TIMEOUT, hear.read_exact(&mut kind)).await {
                Ok(Ok(())) if kind == [GREETING] => node.answer(peer, say, hear).await,
                Ok(Ok(())) if kind == [OPENING] => {
                    node.serve_aside(peer, QuicStream::new(say, hear, Holds::Connection(connection))).await;
                }
                _ => debug!(peer = %peer.short(), "a stream did not say what it is"),
            }
        });
    }

    fn hello(&self, peer: &NodeId) -> Hello {
        let known = self.book.record(peer).map_or(0, |record| record.sequence);
        Hello { record: self.own.borrow().signed.clone(), known, instance: self.instance }
    }

    async fn exchange(self: &Arc<Self>, peer: NodeId, connection: &Connection) -> Result<(), String> {
        let (mut say, mut hear) = connection.open_bi().await.map_err(|error| error.to_string())?;
        say.write_all(&[GREETING]).await.map_err(|error| error.to_string())?;
        send(&mut say, &self.hello(&peer)).await.map_err(|error| error.to_string())?;
        say.finish().map_err(|error| error.to_string())?;
        let hello = receive(&mut hear).await.map_err(|error| error.to_string())?;
        if self.hear(peer, hello).await? {
            self.begin_anew(&peer);
            connection.close(code::DONE.into(), b"restarted");
        }
        Ok(())
    }

    async fn answer(self: Arc<Self>, peer: NodeId, mut say: SendStream, mut hear: RecvStream) {
        let exchange = async {
            let hello = receive(&mut hear).await.map_err(|error| error.to_string())?;
            let restarted = self.hear(peer, hello).await?;
            send(&mut say, &self.hello(&peer)).await.map_err(|error| error.to_string())?;
            say.finish().map_err(|error| error.to_string())?;
            if restarted {
                // Once it has the answer.
                let _: Result<_, _> = say.stopped().await;
                self.begin_anew(&peer);
            }
            Ok::<_, String>(())
        };
        if let Ok(Err(error)) = timeout(HELLO_TIMEOUT, exchange).await {
            debug!(peer = %peer.short(), error, "a greeting failed");
        }
    }

    /// Takes in what a peer says about itself. True if it restarted since we last met.
    async fn hear(&self, peer: NodeId, hello: Hello) -> Result<bool, String> {
        let record = open_record(&hello.record).map_err(|error| error.to_string())?;
        if record.node != peer {
            return Err(format!("it speaks for node {}", record.node.short()));
        }
        let news = self.book.learn(hello.record, record, hello.instance).await;
        // It remembers a record of ours newer than today's: our clock went back, or our state was restored.
        let own = self.own.borrow().record.sequence;
        if hello.known > own {
            self.publish(hello.known);
        }
        Ok(news.restarted)
    }

    /// Begins anew with a peer that restarted: what we still have open ends at a process that is no more.
    ///
    /// All connections go, the one that told us included. As long as iroh has any to a node it keeps dialling along the path it chose, which is that of
    /// the old process; with none left it looks again.
    pub(crate) fn begin_anew(&self, peer: &NodeId) {
        self.connections.close(peer, code::DONE, "restarted");
        self.packets.close(peer, code::DONE, "restarted");
        self.via.close(peer, code::DONE, "restarted");
        for connection in self.book.present_on(peer) {
            connection.close(code::DONE.into(), b"restarted");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn silence_counts_while_a_peer_is_asked() {
        let start = Instant::now();
        let mut silence = Silence::new(start);
        // (at second, what came until then, whether the peer is asked, the silence)
        for (at, came, asked, expect) in [
            (2, 5, true, 0),
            (4, 5, true, 2),
            (6, 6, true, 0),
            (8, 6, true, 2),
            (10, 6, true, 4),
            (12, 6, false, 0),
            (40, 6, false, 0),
            (42, 6, true, 2),
            (44, 7, true, 0),
        ] {
            let silent = silence.listen(start + Duration::from_secs(at), came, asked);
            assert_eq!(silent, Duration::from_secs(expect), "at {at} s");
        }
    }

    #[test]
    fn pauses_grow_to_their_limit_and_start_again() {
        let mut pauses = Pauses::new(Duration::from_secs(1), Duration::from_secs(8));
        for nominal in [1, 2, 4, 8, 8] {
            let pause = pauses.take();
            let nominal = Duration::from_secs(nominal);
            assert!(pause >= nominal / 2 && pause <= nominal, "{pause:?} of {nominal:?}");
        }
        pauses.reset();
        assert!(pauses.take() <= Duration::from_secs(1));
    }
}
