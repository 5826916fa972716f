//! Who is who in a simulation: ids, addresses and records that say the number of their node.

use atoll_find::{Contact, Opened, Record};
use atoll_ids::NodeId;
use serde::{Deserialize, Serialize};

/// What a signed address record of a node with both address families is longer than a [`Tag`]: key, signature, addresses.
pub(super) const SIGNED_BYTES: u64 = 250 - 40;

/// A record whose signature is taken for granted; a forger has none.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Tag {
    pub(super) node: NodeId,
    pub(super) sequence: u64,
}

impl Record for Tag {
    fn open(&self) -> Option<Opened> {
        Some(Opened { node: self.node, sequence: self.sequence })
    }
}

/// The node of this number, in its so-and-so-many-th life, in a network of its own.
pub(super) fn contact(index: u32, generation: u32) -> Contact {
    contact_in(index, generation, format!("[2a00:{:x}:{:x}::1]:4000", index >> 16, index & 0xffff))
}

/// The same at another address.
pub(super) fn contact_in(index: u32, generation: u32, at: String) -> Contact {
    let mut bytes = [0; 32];
    bytes[..4].copy_from_slice(&index.to_le_bytes());
    bytes[4..8].copy_from_slice(&generation.to_le_bytes());
    let at = at.parse().expect("an address was written down");
    Contact { node: NodeId::from_bytes(bytes), at }
}

/// The number of a node.
pub(super) fn index(node: &NodeId) -> u32 {
    let mut first = [0; 4];
    first.copy_from_slice(&node.as_bytes()[..4]);
    u32::from_le_bytes(first)
}
