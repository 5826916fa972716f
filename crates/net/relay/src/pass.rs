//! What a stranger shows to a relay so that it is let through to a node that awaits it.
//!
//! A [`Pass`] is a key that only the awaited node, its relays and the bearers of its ticket have. A stranger proves that it has it without sending it: BLAKE3
//! keyed by it over the ids of the stranger, the relay and the awaited node. BLAKE3's keyed mode is a PRF and the connection has proven who the stranger and the
//! relay are, so a proof is worth nothing to anybody else or anywhere else. A relay could give a pass to others: it opens nothing but the way through it.

use atoll_ids::NodeId;

/// Shows that a stranger has a pass.
pub type Proof = [u8; 32];

/// See the module's documentation. Its `Debug` shows nothing.
#[derive(Clone, PartialEq, Eq)]
pub struct Pass([u8; 32]);

impl std::fmt::Debug for Pass {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Pass(…)")
    }
}

impl Pass {
    /// The pass with these bytes, which must be a key that cannot be guessed.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    pub(crate) fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// Shows to `relay` that `stranger` has this pass to `awaited`.
    #[must_use]
    pub fn proof(&self, stranger: NodeId, relay: NodeId, awaited: NodeId) -> Proof {
        *self.hash(stranger, relay, awaited).as_bytes()
    }

    /// Whether a proof is one of this pass.
    pub(crate) fn fits(&self, proof: &Proof, stranger: NodeId, relay: NodeId, awaited: NodeId) -> bool {
        // `blake3::Hash` compares in constant time.
        self.hash(stranger, relay, awaited) == blake3::Hash::from_bytes(*proof)
    }

    fn hash(&self, stranger: NodeId, relay: NodeId, awaited: NodeId) -> blake3::Hash {
        let mut hasher = blake3::Hasher::new_keyed(&self.0);
        hasher.update(stranger.as_bytes()).update(relay.as_bytes()).update(awaited.as_bytes());
        hasher.finalize()
    }
}
