//! What carries messages about where nodes are: the connections on which peers greet, and lines, which are connections of their own (`atoll/find/1`) between two that have
//! something to say to each other, closed soon after the last word.
//!
//! A message is a datagram; one that is too long for that is a stream. So a lost one is lost: the core asks somebody else when an answer is late. The answer goes back over
//! the line on which the question came, so who cannot be dialled is answered, too.
//!
//! Bounded: lines, those of strangers by the network that they come from, messages that wait for a line. A newcomer takes the place of the line that was
//! silent for the longest.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use atoll_find::{Contact, MESSAGE_BYTES_MAX, Message, Network, decode_message};
use atoll_ids::NodeId;
use atoll_keys::Signed;
use bytes::Bytes;
use iroh::endpoint::{Connection, RecvStream, SendStream, Side};
use tokio::time::{sleep, timeout};
use tracing::debug;

use super::{Command, FIND};
use crate::acquaint::address;
use crate::address::AddressRecord;
use crate::node::Node;
use crate::peers::Path;
use crate::presence::PROBE;
use crate::quic::{code, path_of};

/// A line on which nothing was said for this long is closed. Questions of one lookup, and of joining, follow each other within two seconds; keeping it longer
/// costs signs of life, making another one about as much as 60 of these.
const IDLE: Duration = Duration::from_secs(5);

/// Lines that we dialled at once: three paths each of a dozen lookups, and a few that are silent.
const DIALLED_MAX: usize = 64;

/// Lines that others dialled at once, in all and of a narrow (/64) and a wide network (/48).
const ACCEPTED_MAX: usize = 128;
const PER_NARROW_MAX: usize = 16;
const PER_WIDE_MAX: usize = 48;

/// Messages to one node that wait for its line.
const WAITING_MAX: usize = 8;

/// Where a line could not be made it is not tried again for this long: whoever dies half-way leaves a handshake behind, and the other end should have room for those of
/// people who wait.
const RESTS: Duration = Duration::from_secs(20);

/// Places of which this is remembered.
const RESTING_MAX: usize = 256;

/// How long a stream with one message may take.
const STREAM_TIMEOUT: Duration = Duration::from_secs(2);

struct Line {
    node: NodeId,
    at: SocketAddr,
    connection: Connection,
    dialled: bool,
    used: Mutex<Instant>,
}

impl Line {
    fn used(&self) -> Instant {
        *self.used.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn touch(&self) {
        *self.used.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }
}

#[derive(Default)]
struct State {
    lines: Vec<Arc<Line>>,
    /// What waits for a line to be made.
    dialling: HashMap<NodeId, Vec<Bytes>>,
    /// Since when a line cannot be made there.
    resting: HashMap<(NodeId, SocketAddr), Instant>,
}

impl State {
    /// The line of this kind that was silent for the longest.
    fn stalest(&self, of: impl Fn(&Line) -> bool) -> Option<Arc<Line>> {
        self.lines.iter().filter(|line| of(line)).min_by_key(|line| line.used()).cloned()
    }

    fn rests(&self, to: &Contact) -> bool {
        self.resting.get(&(to.node, to.at)).is_some_and(|since| since.elapsed() < RESTS)
    }

    fn let_rest(&mut self, to: &Contact) {
        self.resting.retain(|_, since| since.elapsed() < RESTS);
        if self.resting.len() < RESTING_MAX {
            self.resting.insert((to.node, to.at), Instant::now());
        }
    }

    fn remove(&mut self, line: &Line) {
        self.lines.retain(|kept| kept.connection.stable_id() != line.connection.stable_id());
    }
}

/// The lines there are.
#[derive(Default)]
pub(super) struct Lines {
    state: Mutex<State>,
    sent: AtomicU64,
    sent_bytes: AtomicU64,
    dialled: AtomicU64,
}

impl Lines {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn count(&self) -> usize {
        self.lock().lines.len()
    }

    /// Messages sent, their bytes, lines dialled.
    pub(super) fn carried(&self) -> (u64, u64, u64) {
        let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
        (read(&self.sent), read(&self.sent_bytes), read(&self.dialled))
    }

    /// Takes in a line that somebody dialled, unless there are too many from there.
    fn admit(&self, line: &Arc<Line>) -> bool {
        let mut state = self.lock();
        let of = |network: fn(SocketAddr) -> Network| {
            let same = |kept: &&Arc<Line>| !kept.dialled && network(kept.at) == network(line.at);
            state.lines.iter().filter(same).count()
        };
        if of(Network::narrow) >= PER_NARROW_MAX || of(Network::wide) >= PER_WIDE_MAX {
            return false;
        }
        self.make_room(&mut state, ACCEPTED_MAX, false);
        state.lines.push(line.clone());
        true
    }

    /// Ends the line of a kind that was silent for the longest, if there are as many as may be.
    fn make_room(&self, state: &mut State, max: usize, dialled: bool) {
        if state.lines.iter().filter(|line| line.dialled == dialled).count() < max {
            return;
        }
        if let Some(stalest) = state.stalest(|line| line.dialled == dialled) {
            state.remove(&stalest);
            stalest.connection.close(code::DONE.into(), b"others want to speak");
        }
    }
}

impl Node {
    /// Sends a message, over what there is or what can be made.
    pub(super) fn send_message(self: &Arc<Self>, to: Contact, message: &Message<Signed<AddressRecord>>) {
        let bytes = Bytes::from(atoll_wire::encode(message));
        let lines = &self.finding.lines;
        lines.sent.fetch_add(1, Ordering::Relaxed);
        lines.sent_bytes.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        if let Some(connection) = self.greeting_line(&to.node)
            && connection.send_datagram(bytes.clone()).is_ok()
        {
            return;
        }
        let mut state = lines.lock();
        let alive = |line: &&Arc<Line>| line.node == to.node && line.connection.close_reason().is_none();
        if let Some(line) = state.lines.iter().find(alive).cloned() {
            drop(state);
            return self.say(&line, bytes);
        }
        if let Some(waiting) = state.dialling.get_mut(&to.node) {
            if waiting.len() < WAITING_MAX {
                waiting.push(bytes);
            }
            return;
        }
        if state.rests(&to) {
            drop(state);
            return self.finding.tell(Command::Unreachable(to.node));
        }
        if state.dialling.len() >= DIALLED_MAX {
            drop(state);
            return debug!(node = %to.node.short(), "too many lines are being made");
        }
        state.dialling.insert(to.node, vec![bytes]);
        drop(state);
        self.spawn(self.clone().dial_line(to));
    }

    /// The connection on which we greet a peer; of two, the one that stays.
    fn greeting_line(&self, peer: &NodeId) -> Option<Connection> {
        let mut present = self.book.present_on(peer);
        let stays = |connection: &Connection| (connection.side() == Side::Client) == (self.id < *peer);
        let at = present.iter().position(stays).or(present.len().checked_sub(1))?;
        Some(present.swap_remove(at))
    }

    fn say(self: &Arc<Self>, line: &Arc<Line>, bytes: Bytes) {
        line.touch();
        if line.connection.max_datagram_size().is_some_and(|max| bytes.len() <= max) {
            let _lost: Result<(), _> = line.connection.send_datagram(bytes);
            return;
        }
        let line = line.clone();
        self.spawn(async move {
            let saying = async {
                let (mut say, _) = line.connection.open_bi().await.ok()?;
                say.write_all(&bytes).await.ok()?;
                say.finish().ok()?;
                say.stopped().await.ok()
            };
            let _lost: Result<_, _> = timeout(STREAM_TIMEOUT, saying).await;
        });
    }

    async fn dial_line(self: Arc<Self>, to: Contact) {
        let record = AddressRecord { node: to.node, sequence: 0, quic: vec![to.at], lane: Vec::new(), relay: None };
        let record = self.book.record(&to.node).unwrap_or(record);
        let dialled = self.dial(to.node, &record, FIND).await;
        let lines = &self.finding.lines;
        let waiting = lines.lock().dialling.remove(&to.node).unwrap_or_default();
        let connection = match dialled {
            Ok(connection) => connection,
            Err(error) => {
                debug!(node = %to.node.short(), at = %to.at, %error, "no line");
                lines.lock().let_rest(&to);
                return self.finding.tell(Command::Unreachable(to.node));
            }
        };
        lines.dialled.fetch_add(1, Ordering::Relaxed);
        let at = match path_of(&connection).map(|way| way.path) {
            Some(Path::Direct(at)) => at,
            None => to.at,
            Some(Path::Via(_) | Path::Relay(_)) => {
                // The other end would say the same.
                connection.close(code::DONE.into(), b"strangers come directly");
                lines.lock().let_rest(&to);
                return self.finding.tell(Command::Unreachable(to.node));
            }
        };
        let line = Line { node: to.node, at, connection, dialled: true, used: Mutex::new(Instant::now()) };
        let line = Arc::new(line);
        {
            let mut state = lines.lock();
            lines.make_room(&mut state, DIALLED_MAX, true);
            state.lines.push(line.clone());
        }
        waiting.into_iter().for_each(|bytes| self.say(&line, bytes));
        self.listen(&line).await;
    }

    /// Takes in a line that somebody dialled, stranger or not.
    pub(crate) async fn serve_finding(self: Arc<Self>, peer: NodeId, connection: Connection) {
        let close = |code: u32, reason: &str| {
            debug!(peer = %peer.short(), reason, "refused a line");
            connection.close(code.into(), reason.as_bytes());
        };
        let Some(at) = address(&connection) else { return close(code::UNKNOWN, "strangers come directly") };
        let used = Mutex::new(Instant::now());
        let line = Arc::new(Line { node: peer, at, connection: connection.clone(), dialled: false, used });
        if !self.finding.lines.admit(&line) {
            return close(code::BUSY, "too many connections from there");
        }
        self.listen(&line).await;
    }

    /// Hears what is said on a line until it is silent or ends.
    async fn listen(self: &Arc<Self>, line: &Arc<Line>) {
        loop {
            let left = IDLE.saturating_sub(line.used().elapsed());
            if left.is_zero() {
                break;
            }
            tokio::select! {
                () = sleep(left) => {}
                datagram = line.connection.read_datagram() => {
                    let Ok(bytes) = datagram else { break };
                    line.touch();
                    self.hear_message(line.node, line.at, &bytes);
                }
                stream = line.connection.accept_bi() => {
                    let Ok((say, hear)) = stream else { break };
                    line.touch();
                    self.spawn(self.clone().hear_long(line.clone(), say, hear));
                }
            }
        }
        self.finding.lines.lock().remove(line);
        line.connection.close(code::DONE.into(), b"nothing to say");
    }

    async fn hear_long(self: Arc<Self>, line: Arc<Line>, _say: SendStream, mut hear: RecvStream) {
        if let Ok(Ok(bytes)) = timeout(STREAM_TIMEOUT, hear.read_to_end(MESSAGE_BYTES_MAX)).await {
            self.hear_message(line.node, line.at, &bytes);
        }
    }

    /// What a node said. What is no message is dropped.
    fn hear_message(&self, node: NodeId, at: SocketAddr, bytes: &[u8]) {
        match decode_message(bytes) {
            Ok(message) => self.finding.tell(Command::Received { from: Contact { node, at }, message }),
            Err(error) => debug!(node = %node.short(), %error, "not a message about where nodes are"),
        }
    }

    /// Hears the datagrams on the connection on which the two greet: what a peer says about where nodes are, and probes, which have done what they are for by arriving.
    pub(crate) fn hear_datagrams(self: &Arc<Self>, peer: NodeId, connection: &Connection) {
        let (node, connection) = (self.clone(), connection.clone());
        self.spawn(async move {
            while let Ok(bytes) = connection.read_datagram().await {
                if bytes.as_ref() == PROBE || !node.config.find {
                    continue;
                }
                // One that comes through a relay: where the peer says that it is.
                let said = || node.book.record(&peer)?.quic.first().copied();
                if let Some(at) = address(&connection).or_else(said) {
                    node.hear_message(peer, at, &bytes);
                }
            }
        });
    }
}
