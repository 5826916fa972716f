//! Two nodes get to know each other by a ticket: `atoll/join/1`, the only protocol open to strangers.
//!
//! One stream, one frame each way, on a QUIC connection, directly or through a relay, or on a lane where UDP does not get through. The joining node shows that it knows the secret (see [`invite`](crate::invite)), both hand over their signed
//! records, and each stores the other: the inviting node before it says welcome, the joining node after.

use std::sync::{Arc, PoisonError};
use std::time::Duration;

use atoll_ids::NodeId;
use iroh::endpoint::Connection;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::{sleep, timeout};
use tracing::{debug, info, warn};

use crate::address::open_record;
use crate::book::now_ms;
use crate::dial::{DialError, either};
use crate::error::{InviteError, JoinError, Refusal};
use crate::frames::{JoinAnswer, JoinHello, MessageError, receive, send};
use crate::invite::JoinRefusal;
use crate::node::Node;
use crate::peers::Peer;
use crate::quic::{code, is_direct};
use crate::ticket::Ticket;
use crate::via::reach::Reach;
use crate::via::ways::LANE_AFTER;

/// The protocol's name.
pub(crate) const JOIN: &str = "atoll/join/1";

/// How long the exchange of two frames may take.
const JOIN_TIMEOUT: Duration = Duration::from_secs(10);

/// How long the inviting node keeps the connection for its answer to arrive.
const LINGER: Duration = Duration::from_secs(5);

/// How long two that joined through a relay have to meet directly before the connection by which they joined is closed: less than [`LINGER`].
const MEETING: Duration = Duration::from_secs(4);

/// How long saying goodbye may take.
const CLOSING: Duration = Duration::from_millis(500);

/// Seconds since 1970.
pub(crate) fn now() -> u64 {
    now_ms() / 1000
}

impl Node {
    /// Makes a ticket that `uses` nodes can join with before `ttl` is over.
    pub(crate) fn invite(&self, ttl: Duration, uses: u32) -> Result<Ticket, InviteError> {
        if ttl.as_secs() == 0 || uses == 0 {
            return Err(InviteError::Empty);
        }
        let expires = now().saturating_add(ttl.as_secs());
        let relays = self.ticket_relays();
        let named = relays.iter().map(|relay| relay.node).collect();
        let mut invites = self.invites.lock().unwrap_or_else(PoisonError::into_inner);
        let secret = invites.add(now(), expires, uses, named).ok_or(InviteError::TooMany)?;
        drop(invites);
        self.via.invited.notify_one();
        let own = self.own.borrow().signed.clone();
        Ok(Ticket::new(own, secret, expires, relays).expect("we signed this record ourselves, within its limits"))
    }

    /// Answers a node that wants to join.
    pub(crate) async fn serve_join(self: Arc<Self>, peer: NodeId, connection: Connection) {
        let exchange = async {
            let (mut say, mut hear) = connection.accept_bi().await.map_err(|error| error.to_string())?;
            self.answer_join(peer, &mut hear, &mut say).await?;
            say.finish().map_err(|error| error.to_string())
        };
        match timeout(JOIN_TIMEOUT, exchange).await {
            // The joining node closes once it has the answer.
            Ok(Ok(())) => drop(timeout(LINGER, connection.closed()).await),
            Ok(Err(error)) => debug!(peer = %peer.short(), error, "an attempt to join broke off"),
            Err(_) => debug!(peer = %peer.short(), "an attempt to join took too long"),
        }
        connection.close(code::DONE.into(), b"");
    }

    /// The same on a lane.
    pub(crate) async fn serve_join_by_lane(self: Arc<Self>, peer: NodeId, lane: impl AsyncRead + AsyncWrite) {
        let (mut hear, mut say) = tokio::io::split(lane);
        let exchange = async {
            self.answer_join(peer, &mut hear, &mut say).await?;
            say.shutdown().await.map_err(|error| error.to_string())
        };
        match timeout(JOIN_TIMEOUT, exchange).await {
            Ok(Ok(())) => drop(timeout(LINGER, hear.read_u8()).await),
            Ok(Err(error)) => debug!(peer = %peer.short(), error, "an attempt to join broke off"),
            Err(_) => debug!(peer = %peer.short(), "an attempt to join took too long"),
        }
    }

    async fn answer_join(
        self: &Arc<Self>,
        peer: NodeId,
        hear: &mut (impl AsyncRead + Unpin),
        say: &mut (impl AsyncWrite + Unpin),
    ) -> Result<(), String> {
        let hello: JoinHello = receive(hear).await.map_err(|error| error.to_string())?;
        let answer = self.judge(peer, hello).await;
        send(say, &answer).await.map_err(|error| error.to_string())
    }

    async fn judge(self: &Arc<Self>, peer: NodeId, hello: JoinHello) -> JoinAnswer {
        let record = match open_record(&hello.record) {
            Ok(record) if record.node == peer => record,
            _ => return JoinAnswer::Refused(JoinRefusal::BadRecord),
        };
        let known = self.book.knows(&peer);
        let redeemed = {
            let mut invites = self.invites.lock().unwrap_or_else(PoisonError::into_inner);
            invites.redeem(now(), peer, self.id, &hello.proof, known)
        };
        if let Err(refusal) = redeemed {
            info!(peer = %peer.short(), %refusal, "a node was not let in");
            return JoinAnswer::Refused(refusal);
        }
        match self.book.add(hello.record, record).await {
            Ok(new) => {
                if new {
                    info!(%peer, "a node joined");
                    self.look_after(peer);
                }
                JoinAnswer::Welcome { record: self.own.borrow().signed.clone() }
            }
            Err(error) => {
                warn!(%peer, %error, "a node that wants to join cannot be stored");
                if !known {
                    let mut invites = self.invites.lock().unwrap_or_else(PoisonError::into_inner);
                    invites.give_back(peer, self.id, &hello.proof);
                }
                JoinAnswer::Refused(JoinRefusal::Unavailable)
            }
        }
    }

    /// Joins the node that made a ticket.
    pub(crate) async fn join(self: &Arc<Self>, ticket: &Ticket) -> Result<Peer, JoinError> {
        let node = ticket.node();
        if self.is_closing() {
            return Err(JoinError::Closed);
        }
        if node == self.id {
            return Err(JoinError::Own);
        }
        let attempt = Attempt::begin(self, ticket);
        let (answer, by) = match self.ask_to_join(ticket).await {
            Ok(answered) => answered,
            Err(DialError::Refused(Refusal::Busy | Refusal::Closing)) => {
                return Err(JoinError::Refused { node, reason: JoinRefusal::Unavailable });
            }
            // Whether a ticket has expired is for the clock of the node that made it, unless that cannot be asked.
            Err(_) if ticket.expires() <= now() => return Err(JoinError::Expired),
            Err(error) => return Err(JoinError::Unreachable { node, reason: why_unreached(ticket, &error) }),
        };
        let signed = match answer {
            JoinAnswer::Welcome { record } => record,
            JoinAnswer::Refused(JoinRefusal::Expired) => return Err(JoinError::Expired),
            JoinAnswer::Refused(reason) => return Err(JoinError::Refused { node, reason }),
        };
        let record = open_record(&signed)?;
        if record.node != node {
            return Err(JoinError::Record(crate::RecordError::Foreign { node: record.node }));
        }
        let new = self.book.add(signed, record).await.map_err(JoinError::Store)?;
        if matches!(by, By::Lane) {
            // What follows is reached in this way, too.
            self.via.note(node, false);
            self.want_lane(node);
        }
        if new {
            self.look_after(node);
        }
        if let By::Relay(connection) = by {
            self.spawn(self.clone().stay_while_meeting(node, connection, attempt));
        }
        info!(peer = %node, "joined");
        self.book.peer(&node).ok_or(JoinError::Closed)
    }

    /// By QUIC, directly and by relays, and by a lane where that does not come up.
    async fn ask_to_join(self: &Arc<Self>, ticket: &Ticket) -> Result<(JoinAnswer, By), DialError> {
        let node = ticket.node();
        let hello = JoinHello { record: self.own.borrow().signed.clone(), proof: ticket.secret().proof(self.id, node) };
        let by_quic = async {
            match self.ask_by_quic(ticket, &hello).await {
                // What was sent to the address that it answered first may not have arrived. Now it answers another.
                Err(DialError::Failed(error)) => {
                    debug!(peer = %node.short(), error, "no answer to an attempt to join; once more");
                    self.ask_by_quic(ticket, &hello).await
                }
                outcome => outcome,
            }
        };
        either(by_quic, LANE_AFTER, self.ask_by_lane(ticket, &hello)).await
    }

    async fn ask_by_lane(&self, ticket: &Ticket, hello: &JoinHello) -> Result<(JoinAnswer, By), DialError> {
        let lane = self.dial_lane(ticket.node(), JOIN, ticket.record()).await?;
        let (mut hear, mut say) = tokio::io::split(lane);
        let exchange = async {
            send(&mut say, hello).await?;
            let answer = receive(&mut hear).await?;
            // The answer is all that was to come.
            let _: std::io::Result<()> = say.shutdown().await;
            Ok::<_, MessageError>(answer)
        };
        match timeout(JOIN_TIMEOUT, exchange).await {
            Ok(answer) => answer.map(|answer| (answer, By::Lane)).map_err(|error| DialError::Failed(error.to_string())),
            Err(_) => Err(DialError::Failed("it did not answer in time".to_owned())),
        }
    }

    async fn ask_by_quic(self: &Arc<Self>, ticket: &Ticket, hello: &JoinHello) -> Result<(JoinAnswer, By), DialError> {
        let connection = self.dial(ticket.node(), ticket.record(), JOIN).await?;
        let exchange = async {
            let (mut say, mut hear) = connection.open_bi().await.map_err(|error| error.to_string())?;
            send(&mut say, hello).await.map_err(|error| error.to_string())?;
            say.finish().map_err(|error| error.to_string())?;
            receive(&mut hear).await.map_err(|error: MessageError| error.to_string())
        };
        let outcome = timeout(JOIN_TIMEOUT, exchange).await;
        if let Ok(Ok(answer)) = outcome {
            if is_direct(&connection) || !matches!(answer, JoinAnswer::Welcome { .. }) {
                connection.close(code::DONE.into(), b"");
                return Ok((answer, By::Direct));
            }
            return Ok((answer, By::Relay(connection)));
        }
        let closed = connection.close_reason();
        connection.close(code::DONE.into(), b"");
        match (outcome, closed) {
            (_, Some(reason)) => Err(DialError::of(&reason)),
            (Ok(Err(error)), None) => Err(DialError::Failed(error)),
            _ => Err(DialError::Failed("it did not answer in time".to_owned())),
        }
    }

    /// Keeps the connection by which two nodes joined until they have met: holes that are punched on it serve the next, and a relay that lets us
    /// through for joining alone carries that one's first packets.
    async fn stay_while_meeting(self: Arc<Self>, node: NodeId, connection: Connection, attempt: Attempt) {
        let mut changes = self.book.changes();
        let met = async { while !self.book.is_direct(&node) && changes.changed().await.is_ok() {} };
        if timeout(MEETING, met).await.is_err() && self.book.relays_to(&node, 1).is_empty() {
            warn!(
                peer = %node.short(),
                "joined through a relay, and there is no direct way: join a node that both reach, which then relays"
            );
        }
        connection.close(code::DONE.into(), b"");
        // So that the relay still carries this.
        sleep(CLOSING).await;
        drop(attempt);
    }
}

/// What a person is told of an attempt that came to nothing.
fn why_unreached(ticket: &Ticket, error: &DialError) -> String {
    let relays: Vec<String> = ticket.relays().map(|relay| relay.short().to_string()).collect();
    if relays.is_empty() {
        return error.to_string();
    }
    format!("{error}, nor does a relay that the ticket names bring us there ({})", relays.join(", "))
}

/// What carried an attempt to join.
enum By {
    Direct,
    Lane,
    Relay(Connection),
}

/// While it lives, the inviting node is reached by the relays that its ticket names.
struct Attempt {
    reach: Arc<Reach>,
    node: NodeId,
}

impl Attempt {
    fn begin(own: &Node, ticket: &Ticket) -> Self {
        own.via.reach.join(ticket, own.id);
        Self { reach: own.via.reach.clone(), node: ticket.node() }
    }
}

impl Drop for Attempt {
    fn drop(&mut self) {
        self.reach.joined(&self.node);
    }
}
