//! The protocol `atoll/gateway/1` between a gateway and a node with replicas.
//!
//! Every stream is dialled by the node and begins with an [`Opening`]. A session goes on with [`Update`]s from the node and [`FromGateway`] from the
//! gateway; a data stream goes on with one [`Outcome`] from the node and then the bytes of one connection to the replica.

use atoll_keys::Signed;
use atoll_wire::{DecodeError, Versioned, decode};
use serde::{Deserialize, Serialize};

use crate::claim::Claim;
use crate::table::Route;

/// The protocol's name.
pub const PROTOCOL: &str = "atoll/gateway/1";

/// Routes of one session. With 64-byte names they fill half a frame.
pub const ROUTES_MAX: usize = 1024;

/// A full table of routes with names of ordinary length.
pub(crate) const FRAME_BYTES_MAX: u32 = 512 << 10;

/// Claims shown at once: a tenant's, for each of the tenants with replicas on the node.
pub(crate) const CLAIMS_MAX: usize = 64;

/// Proves that a data stream belongs to a session; drawn by the gateway.
pub(crate) type Token = [u8; 16];

/// What a stream is.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) enum Opening {
    /// A session; [`Update`]s follow.
    Session,
    /// A connection that the gateway asked for.
    Data {
        /// The session's.
        token: Token,
        /// Which of the connections asked for.
        ticket: u64,
    },
}

impl Versioned for Opening {
    const VERSION: u16 = 1;
    const NAME: &'static str = "gateway opening";
}

/// What the node's replicas answer now; replaces what was said before. Sent anew at least every [`crate::back::SILENCE_MAX`] / 3 as a sign of life.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct Update {
    /// The tenants' words for all hosts below.
    pub(crate) claims: Vec<Signed<Claim>>,
    /// The routes.
    pub(crate) routes: Vec<Route>,
}

impl Versioned for Update {
    const VERSION: u16 = 1;
    const NAME: &'static str = "gateway update";
}

/// What the gateway says in a session.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum FromGateway {
    /// The session stands.
    Welcome {
        /// For the data streams.
        token: Token,
    },
    /// Dial a data stream to this replica.
    Connect {
        /// To be repeated on the data stream.
        ticket: u64,
        /// The node's number for the replica.
        replica: u32,
    },
    /// The last update was taken; these hosts were refused, and why.
    Taken {
        /// Host and reason.
        refused: Vec<(String, String)>,
    },
}

impl Versioned for FromGateway {
    const VERSION: u16 = 1;
    const NAME: &'static str = "gateway message";
}

/// How connecting to the replica went.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Outcome {
    /// Bytes follow.
    Connected,
    /// The replica does not take connections.
    Failed(String),
}

impl Versioned for Outcome {
    const VERSION: u16 = 1;
    const NAME: &'static str = "gateway outcome";
}

/// Decodes the first frame of a stream, for fuzzing: whether it is one.
///
/// # Errors
/// [`DecodeError`]
pub fn decode_opening(bytes: &[u8]) -> Result<(), DecodeError> {
    decode::<Opening>(bytes).map(|_| ())
}

/// Decodes a node's update, for fuzzing: whether it is one.
///
/// # Errors
/// [`DecodeError`]
pub fn decode_update(bytes: &[u8]) -> Result<(), DecodeError> {
    decode::<Update>(bytes).map(|_| ())
}

/// Decodes a gateway's message, for fuzzing: whether it is one.
///
/// # Errors
/// [`DecodeError`]
pub fn decode_from_gateway(bytes: &[u8]) -> Result<(), DecodeError> {
    decode::<FromGateway>(bytes).map(|_| ())
}
