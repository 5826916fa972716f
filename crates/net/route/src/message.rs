//! What neighbours say to each other about routes. Encoded: a version, then postcard.

use atoll_ids::NodeId;
use atoll_wire::{DecodeError, Versioned, decode};
use serde::{Deserialize, Serialize};

use crate::beacon::Sealed;

/// Most hops of a route. Longer ones are not passed on: at that length a relay anywhere is better.
pub const HOPS_MAX: usize = 64;

/// Most updates and most requests in a message; more are sent in several.
pub const UPDATES_MAX: usize = 32;

/// Most bytes of a message: [`UPDATES_MAX`] routes with signed beacons and the longest paths.
pub const MESSAGE_BYTES_MAX: usize = 16 * 1024;

/// The number a node gives a neighbour. Means something to that node alone.
pub type Port = u16;

/// What a neighbour has to say about one node.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(bound = "B: Sealed")]
pub enum Update<B> {
    /// "I have a route."
    Route {
        /// Of the node at its end.
        beacon: B,
        /// The round trip to it over this route, in microseconds.
        metric_us: u32,
        /// The ports from that node to the receiver of this update, the way back. One per hop.
        path: Vec<Port>,
    },
    /// "I have none any more."
    Gone {
        /// To whom.
        node: NodeId,
    },
}

/// "I lost my route: I can use one with a higher sequence, or with this one and a lower metric."
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Request {
    /// To whom.
    pub node: NodeId,
    /// Of what was had.
    pub sequence: u64,
    /// As said to neighbours, at best.
    pub metric_us: u32,
    /// How many more hops this may go towards that node.
    pub hops: u8,
}

/// A message to a neighbour.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(bound = "B: Sealed")]
pub struct Message<B> {
    /// News.
    pub updates: Vec<Update<B>>,
    /// Wishes.
    pub requests: Vec<Request>,
}

impl<B: Sealed> Versioned for Message<B> {
    const VERSION: u16 = 1;
    const NAME: &'static str = "message about routes";
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

/// Reads a message. Beacons in it are not yet believed.
///
/// # Errors
///
/// [`MessageError`].
pub fn decode_message<B: Sealed>(bytes: &[u8]) -> Result<Message<B>, MessageError> {
    if bytes.len() > MESSAGE_BYTES_MAX {
        return Err(MessageError::TooLong { found: bytes.len() });
    }
    let message: Message<B> = decode(bytes)?;
    let paths = message.updates.iter().map(|update| match update {
        Update::Route { path, .. } => path.len(),
        Update::Gone { .. } => 0,
    });
    for (what, found, max) in [
        ("updates", message.updates.len(), UPDATES_MAX),
        ("requests", message.requests.len(), UPDATES_MAX),
        ("hops", paths.max().unwrap_or(0), HOPS_MAX),
    ] {
        if found > max {
            return Err(MessageError::TooMany { what, found, max });
        }
    }
    Ok(message)
}
