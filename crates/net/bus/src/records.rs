//! What is kept of messages: a record for each recipient in the outbox, a record for each message in the inbox, and what the core asks to be written.

use atoll_ids::{MessageId, NodeId, OwnerId};
use atoll_wire::Versioned;
use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::frames::Refusal;
use crate::topic::Topic;

/// A message on its way to one node, or what became of it. Times are in milliseconds since 1970.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OutRecord {
    /// Its place in the order of everything this node has sent.
    pub position: u64,
    /// Where it goes.
    pub to: NodeId,
    /// Its id; a message to several nodes has one.
    pub id: MessageId,
    /// What it is about.
    pub topic: Topic,
    /// The message that it answers.
    pub answers: Option<MessageId>,
    /// When it was accepted.
    pub accepted: u64,
    /// How long it may wait, in milliseconds.
    pub ttl: u64,
    /// Bytes of its payload.
    pub bytes: u32,
    /// What became of it.
    pub state: OutState,
}

impl Versioned for OutRecord {
    const VERSION: u16 = 1;
    const NAME: &'static str = "message in the outbox";
}

/// What became of a message that was sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum OutState {
    /// It is tried again until its time is over.
    Waiting,
    /// The other node has it on its disk.
    Delivered {
        /// Since when.
        at: u64,
    },
    /// Its time was over before the other node said that it has it.
    Expired {
        /// Since when.
        at: u64,
    },
    /// The other node does not take it.
    Refused {
        /// Since when.
        at: u64,
        /// Why.
        why: Refusal,
    },
}

/// A message that arrived, or what became of it. Times are in milliseconds since 1970.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InRecord {
    /// Its place in the order of everything that arrived here.
    pub arrival: u64,
    /// The node that sent it.
    pub from: NodeId,
    /// Whose node that was, if that was known.
    pub owner: Option<OwnerId>,
    /// Its id, as the sender drew it.
    pub id: MessageId,
    /// What it is about.
    pub topic: Topic,
    /// The message of this node that it answers.
    pub answers: Option<MessageId>,
    /// When it arrived.
    pub received: u64,
    /// How long it may still wait from then on, in milliseconds.
    pub ttl: u64,
    /// Bytes of its payload.
    pub bytes: u32,
    /// What became of it.
    pub state: InState,
}

impl Versioned for InRecord {
    const VERSION: u16 = 1;
    const NAME: &'static str = "message in the inbox";
}

/// What became of a message that arrived.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum InState {
    /// Nobody has acknowledged it.
    Unread,
    /// A consumer has acknowledged it.
    Taken {
        /// Since when.
        at: u64,
    },
    /// Its time was over before a consumer did.
    Expired {
        /// Since when.
        at: u64,
    },
}

/// One number that is kept: the highest position given out, or the last one taken from a peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mark {
    /// The position.
    pub position: u64,
}

impl Versioned for Mark {
    const VERSION: u16 = 1;
    const NAME: &'static str = "mark of messages";
}

/// What is to be on the disk before anything is said about a step. The writes of a step are one commit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Write {
    /// The highest position given out.
    High(u64),
    /// A record of the outbox, in place of the one at its position.
    PutOut(OutRecord),
    /// No record at this position any more.
    DropOut(u64),
    /// The payload of a message that waits in the outbox.
    PutSent(MessageId, Bytes),
    /// It waits no more for anybody.
    DropSent(MessageId),
    /// The last position taken from a peer.
    Mark(NodeId, u64),
    /// A record of the inbox.
    PutIn(InRecord),
    /// No record of this arrival any more.
    DropIn(u64),
    /// The payload of a message that arrived.
    PutBody(u64, Bytes),
    /// It is wanted no more.
    DropBody(u64),
}

/// Everything that is kept but the payloads.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Stored {
    /// See [`Write::High`].
    pub high: u64,
    /// The outbox, by position.
    pub outbox: Vec<OutRecord>,
    /// The inbox, by arrival.
    pub inbox: Vec<InRecord>,
    /// See [`Write::Mark`].
    pub marks: Vec<(NodeId, u64)>,
}
