//! What nodes say to each other about where nodes are.
//!
//! Who sent a message and from where is known from the connection that carried it, so no message says it. Encoded: a version, then postcard.

use std::net::SocketAddr;

use atoll_ids::NodeId;
use atoll_wire::{DecodeError, Versioned, decode};
use serde::{Deserialize, Serialize};

use crate::key::Key;
use crate::record::Record;

/// Most bytes of a message: an address record with all the addresses that it may have takes 1.5 KiB, the contacts beside it half of one.
pub const MESSAGE_BYTES_MAX: usize = 4096;

/// Most contacts in an answer: Kademlia's k. More make answers larger than a packet and lookups hardly shorter.
pub const CONTACTS_MAX: usize = 8;

/// How far a rumour goes: to the peers of who moved, and theirs. Beyond, a lookup is cheaper than telling everybody.
pub const RUMOUR_HOPS_MAX: u8 = 2;

/// A node and where it answers. A claim until it did: whoever dials it believes the handshake alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Contact {
    /// Who.
    pub node: NodeId,
    /// Where.
    pub at: SocketAddr,
}

/// A message.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(bound = "R: Record")]
pub enum Message<R> {
    /// A question.
    Ask(Ask<R>),
    /// Its answer.
    Answer(Answer<R>),
    /// A rumour: a peer has moved.
    Tell(Tell<R>),
}

/// Who is near this key? And: keep my record, if there is one.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(bound = "R: Record")]
pub struct Ask<R> {
    /// Chosen by the asker, to know the answer by.
    pub id: u32,
    /// Whether the asker can be asked, too.
    pub serves: bool,
    /// Near what.
    pub key: Key,
    /// How many contacts are wanted, at most [`CONTACTS_MAX`].
    pub contacts: u8,
    /// The record of whoever has this key is wanted if its sequence is higher.
    pub newer_than: Option<u64>,
    /// To keep: the asker's own.
    pub keep: Option<R>,
}

/// An answer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(bound = "R: Record")]
pub struct Answer<R> {
    /// Of the question.
    pub id: u32,
    /// The record that was wanted, if it is here.
    pub record: Option<R>,
    /// Who is nearest to the key among those that answered the answerer lately.
    pub contacts: Vec<Contact>,
}

/// A rumour.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(bound = "R: Record")]
pub struct Tell<R> {
    /// Of who has moved.
    pub record: R,
    /// How much further it may go, at most [`RUMOUR_HOPS_MAX`].
    pub hops: u8,
}

impl<R: Record> Versioned for Message<R> {
    const VERSION: u16 = 1;
    const NAME: &'static str = "message about where nodes are";
}

/// Why bytes are not a message.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MessageError {
    /// Longer than any message.
    #[error("a message of {found} bytes where {MESSAGE_BYTES_MAX} are possible")]
    TooLong {
        /// How many.
        found: usize,
    },
    /// More of something than there may be.
    #[error("a message with {found} {what} where {max} are possible")]
    TooMany {
        /// Of what.
        what: &'static str,
        /// How many there are.
        found: usize,
        /// How many there may be.
        max: usize,
    },
    /// Unreadable.
    #[error(transparent)]
    Decode(#[from] DecodeError),
}

/// Reads a message. Records in it are not yet believed.
///
/// # Errors
///
/// [`MessageError`].
pub fn decode_message<R: Record>(bytes: &[u8]) -> Result<Message<R>, MessageError> {
    if bytes.len() > MESSAGE_BYTES_MAX {
        return Err(MessageError::TooLong { found: bytes.len() });
    }
    let message: Message<R> = decode(bytes)?;
    let (what, found, max) = match &message {
        Message::Ask(ask) => ("contacts wanted", usize::from(ask.contacts), CONTACTS_MAX),
        Message::Answer(answer) => ("contacts", answer.contacts.len(), CONTACTS_MAX),
        Message::Tell(tell) => ("hops", usize::from(tell.hops), usize::from(RUMOUR_HOPS_MAX)),
    };
    if found > max { Err(MessageError::TooMany { what, found, max }) } else { Ok(message) }
}
