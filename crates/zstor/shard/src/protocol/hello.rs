//! The first frame each way: who the client acts for, and whether that is accepted.

use atoll_ids::ByteCount;
use atoll_keys::Signed;
use atoll_wire::Versioned;
use serde::{Deserialize, Serialize};

use crate::grant::StorageGrant;
use crate::home::Refusal;
use crate::limits::{IN_FLIGHT_MAX, LIST_ENTRIES_MAX, SHARD_BYTES_MAX};

/// The client's first frame.
#[derive(Debug, Serialize, Deserialize)]
pub struct Hello {
    /// The owner's word that the node at this end of the stream may act for it.
    pub grant: Signed<StorageGrant>,
}

impl Versioned for Hello {
    const VERSION: u16 = 1;
    const NAME: &'static str = "shard hello";
}

/// The server's first frame.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Greeting {
    /// Requests may follow.
    Welcome(Welcome),
    /// Nothing may follow; the server closes.
    Refused(RefusedHello),
}

impl Versioned for Greeting {
    const VERSION: u16 = 1;
    const NAME: &'static str = "shard greeting";
}

/// What the client may do here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Welcome {
    /// What the server takes.
    pub limits: ServerLimits,
    /// The most the owner may store here; `None` is no limit but the node's capacity.
    pub quota: Option<ByteCount>,
    /// What the owner stores here now.
    pub used: ByteCount,
}

/// What a server takes on one stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServerLimits {
    /// Largest shard in bytes.
    pub shard_bytes_max: u32,
    /// Most requests without an answer; further ones are read when answers were taken.
    pub in_flight_max: u32,
    /// Most entries in a listing.
    pub list_entries_max: u32,
}

impl Default for ServerLimits {
    /// The limits of this version of the protocol.
    fn default() -> Self {
        let narrow = |limit: usize| u32::try_from(limit).expect("limits are far below 4 GiB");
        Self {
            shard_bytes_max: narrow(SHARD_BYTES_MAX),
            in_flight_max: narrow(IN_FLIGHT_MAX),
            list_entries_max: narrow(LIST_ENTRIES_MAX),
        }
    }
}

/// Why the client may not do anything here.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RefusedHello {
    /// For the program.
    pub why: Refusal,
    /// For a person; at most [`TEXT_BYTES_MAX`](crate::limits::TEXT_BYTES_MAX) bytes are kept.
    pub text: String,
}
