//! Two nodes get to know each other by a ticket: `atoll/join/1`, the only protocol open to strangers.
//!
//! One stream, one frame each way. The joining node shows that it knows the secret (see [`invite`](crate::invite)), both hand over their signed
//! records, and each stores the other: the inviting node before it says welcome, the joining node after.

use std::sync::{Arc, PoisonError};
use std::time::Duration;

use atoll_ids::NodeId;
use iroh::endpoint::Connection;
use tokio::time::timeout;
use tracing::{debug, info, warn};

use crate::address::open_record;
use crate::book::now_ms;
use crate::dial::DialError;
use crate::error::{InviteError, JoinError, Refusal};
use crate::frames::{JoinAnswer, JoinHello, MessageError, receive, send};
use crate::invite::JoinRefusal;
use crate::node::Node;
use crate::peers::Peer;
use crate::quic::code;
use crate::ticket::Ticket;

/// The protocol's name.
pub(crate) const JOIN: &str = "atoll/join/1";

/// How long the exchange of two frames may take.
const JOIN_TIMEOUT: Duration = Duration::from_secs(10);

/// How long the inviting node keeps the connection for its answer to arrive.
const LINGER: Duration = Duration::from_secs(5);

/// Seconds since 1970.
fn now() -> u64 {
    now_ms() / 1000
}

impl Node {
    /// Makes a ticket that `uses` nodes can join with before `ttl` is over.
    pub(crate) fn invite(&self, ttl: Duration, uses: u32) -> Result<Ticket, InviteError> {
        if ttl.as_secs() == 0 || uses == 0 {
            return Err(InviteError::Empty);
        }
        let expires = now().saturating_add(ttl.as_secs());
        let mut invites = self.invites.lock().unwrap_or_else(PoisonError::into_inner);
        let secret = invites.add(now(), expires, uses).ok_or(InviteError::TooMany)?;
        let own = self.own.borrow().signed.clone();
        Ok(Ticket::new(own, secret, expires).expect("we signed this record ourselves, within its limits"))
    }

    /// Answers a node that wants to join.
    pub(crate) async fn serve_join(self: Arc<Self>, peer: NodeId, connection: Connection) {
        let exchange = async {
            let (mut say, mut hear) = connection.accept_bi().await.map_err(|error| error.to_string())?;
            let hello: JoinHello = receive(&mut hear).await.map_err(|error| error.to_string())?;
            let answer = self.judge(peer, hello).await;
            send(&mut say, &answer).await.map_err(|error| error.to_string())?;
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
        let answer = match self.ask_to_join(ticket).await {
            Ok(answer) => answer,
            Err(DialError::Refused(Refusal::Busy | Refusal::Closing)) => {
                return Err(JoinError::Refused { node, reason: JoinRefusal::Unavailable });
            }
            // Whether a ticket has expired is for the clock of the node that made it, unless that cannot be asked.
            Err(_) if ticket.expires() <= now() => return Err(JoinError::Expired),
            Err(error) => return Err(JoinError::Unreachable { node, reason: error.to_string() }),
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
        if self.book.add(signed, record).await.map_err(JoinError::Store)? {
            self.look_after(node);
        }
        info!(peer = %node, "joined");
        self.book.peer(&node).ok_or(JoinError::Closed)
    }

    async fn ask_to_join(&self, ticket: &Ticket) -> Result<JoinAnswer, DialError> {
        let node = ticket.node();
        let connection = self.dial(node, ticket.record(), JOIN).await?;
        let hello = JoinHello { record: self.own.borrow().signed.clone(), proof: ticket.secret().proof(self.id, node) };
        let exchange = async {
            let (mut say, mut hear) = connection.open_bi().await.map_err(|error| error.to_string())?;
            send(&mut say, &hello).await.map_err(|error| error.to_string())?;
            say.finish().map_err(|error| error.to_string())?;
            receive(&mut hear).await.map_err(|error: MessageError| error.to_string())
        };
        let outcome = timeout(JOIN_TIMEOUT, exchange).await;
        let closed = connection.close_reason();
        connection.close(code::DONE.into(), b"");
        match (outcome, closed) {
            (Ok(Ok(answer)), _) => Ok(answer),
            (_, Some(reason)) => Err(DialError::of(&reason)),
            (Ok(Err(error)), None) => Err(DialError::Failed(error)),
            (Err(_), None) => Err(DialError::Failed("it did not answer in time".to_owned())),
        }
    }
}
