//! Which invitations are outstanding, and whether somebody who wants to join has one. A pure core: the time is handed in.
//!
//! # The proof
//!
//! A joining node shows that it knows a ticket's secret without sending it: BLAKE3 keyed by a key derived from the
//! secret, over both NodeIds. BLAKE3's keyed mode is a PRF, so a proof says nothing about the secret. The connection on which it is
//! sent has proven both NodeIds, and the proof names them in their roles: shown to anybody else or by anybody else it is worth nothing, and there is nothing to replay.
//!
//! # The pass
//!
//! Relays that are to let the bearer of a ticket through learn a key that is derived from the secret under another context: from it nothing is learnt of the secret
//! or of proofs, so a relay cannot join with it.
//!
//! Invitations are kept in memory only: a restart of the inviting node ends them.

use atoll_ids::NodeId;
use atoll_relay::{PASSES_MAX, Pass};
use serde::{Deserialize, Serialize};
use zeroize::{Zeroize, ZeroizeOnDrop};

/// BLAKE3 context in which a secret becomes the key of proofs.
const PROOF_CONTEXT: &str = "atoll 2026-11 join proof v1";

/// BLAKE3 context in which a secret becomes what relays let its bearer through for.
const PASS_CONTEXT: &str = "atoll 2026-12 pass to an inviting node v1";

/// Invitations outstanding at once: each is tried for each attempt to join, which costs a few hundred nanoseconds.
const INVITES_MAX: usize = 256;

/// How long an ended invitation is remembered, in seconds, so that its bearer hears what is wrong with it.
const REMEMBERED_SECONDS: u64 = 3600;

/// The secret of one invitation. Its `Debug` shows nothing.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, Zeroize, ZeroizeOnDrop)]
pub(crate) struct Secret([u8; 16]);

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret(…)")
    }
}

impl Secret {
    fn generate() -> Self {
        let mut bytes = [0; 16];
        getrandom::fill(&mut bytes).expect("the operating system has randomness");
        Self(bytes)
    }

    #[cfg(test)]
    pub(crate) fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }

    /// Shows that `joiner` knows this secret of `inviter`.
    pub(crate) fn proof(&self, joiner: NodeId, inviter: NodeId) -> [u8; 32] {
        let key = blake3::derive_key(PROOF_CONTEXT, &self.0);
        let mut hasher = blake3::Hasher::new_keyed(&key);
        hasher.update(joiner.as_bytes()).update(inviter.as_bytes());
        *hasher.finalize().as_bytes()
    }

    /// What relays let the bearer of the secret through for.
    pub(crate) fn pass(&self) -> Pass {
        Pass::from_bytes(blake3::derive_key(PASS_CONTEXT, &self.0))
    }
}

/// Why somebody may not join.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum JoinRefusal {
    /// The proof fits no invitation: never made here, made before a restart, or ended long ago.
    #[error("it knows no such invitation (it ends when the node restarts): ask for a new ticket")]
    Unknown,
    /// The invitation has ended.
    #[error("the ticket has expired: ask for a new one")]
    Expired,
    /// The invitation was used as often as it may be.
    #[error("the ticket was used already: ask for a new one")]
    UsedUp,
    /// What the joining node says about itself is not signed by it.
    #[error("it does not accept our address record")]
    BadRecord,
    /// It cannot keep new peers at the moment.
    #[error("it cannot take in new peers at the moment: try again later")]
    Unavailable,
}

#[derive(Debug)]
struct Invite {
    secret: Secret,
    expires: u64,
    uses_left: u32,
    /// Those that the ticket names.
    relays: Vec<NodeId>,
}

impl Invite {
    fn is_open(&self, now: u64) -> bool {
        self.expires > now && self.uses_left > 0
    }
}

/// What relays have to know of an invitation.
#[derive(Debug)]
pub(crate) struct Awaiting {
    pub(crate) pass: Pass,
    /// Seconds left.
    pub(crate) seconds: u64,
    pub(crate) relays: Vec<NodeId>,
}

/// All invitations of one node.
#[derive(Debug, Default)]
pub(crate) struct Invites {
    invites: Vec<Invite>,
}

impl Invites {
    /// Makes an invitation that ends at `expires` (seconds since 1970) or after `uses`. `None` when too many are outstanding.
    pub(crate) fn add(&mut self, now: u64, expires: u64, uses: u32, relays: Vec<NodeId>) -> Option<Secret> {
        self.invites.retain(|invite| invite.expires.saturating_add(REMEMBERED_SECONDS) > now);
        if self.invites.len() >= INVITES_MAX {
            self.invites.retain(|invite| invite.is_open(now));
        }
        if self.invites.len() >= INVITES_MAX {
            return None;
        }
        let secret = Secret::generate();
        self.invites.push(Invite { secret: secret.clone(), expires, uses_left: uses, relays });
        Some(secret)
    }

    /// Whether anybody may join.
    pub(crate) fn is_any_open(&self, now: u64) -> bool {
        self.invites.iter().any(|invite| invite.is_open(now))
    }

    /// The newest invitations whose bearers come through relays, as many as one relay takes.
    pub(crate) fn awaiting(&self, now: u64) -> Vec<Awaiting> {
        let open = self.invites.iter().rev().filter(|invite| invite.is_open(now) && !invite.relays.is_empty());
        let awaiting = |invite: &Invite| {
            let (pass, seconds) = (invite.secret.pass(), invite.expires.saturating_sub(now));
            Awaiting { pass, seconds, relays: invite.relays.clone() }
        };
        open.take(PASSES_MAX).map(awaiting).collect()
    }

    /// Takes one use of the invitation that `proof` fits. A node that is known already takes none, so that whoever did
    /// not hear the answer can ask again.
    pub(crate) fn redeem(
        &mut self,
        now: u64,
        joiner: NodeId,
        inviter: NodeId,
        proof: &[u8; 32],
        known: bool,
    ) -> Result<(), JoinRefusal> {
        let invite = self.find(joiner, inviter, proof).ok_or(JoinRefusal::Unknown)?;
        if invite.expires <= now {
            return Err(JoinRefusal::Expired);
        }
        if known {
            return Ok(());
        }
        invite.uses_left = invite.uses_left.checked_sub(1).ok_or(JoinRefusal::UsedUp)?;
        Ok(())
    }

    /// Returns a use that came to nothing.
    pub(crate) fn give_back(&mut self, joiner: NodeId, inviter: NodeId, proof: &[u8; 32]) {
        if let Some(invite) = self.find(joiner, inviter, proof) {
            invite.uses_left = invite.uses_left.saturating_add(1);
        }
    }

    fn find(&mut self, joiner: NodeId, inviter: NodeId, proof: &[u8; 32]) -> Option<&mut Invite> {
        // `blake3::Hash` compares in constant time.
        let proof = blake3::Hash::from_bytes(*proof);
        self.invites.iter_mut().find(|invite| proof == invite.secret.proof(joiner, inviter))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;

    const JOINER: NodeId = NodeId::from_bytes([1; 32]);
    const INVITER: NodeId = NodeId::from_bytes([2; 32]);

    #[test]
    fn an_invitation_is_used_as_often_as_it_says() {
        let mut invites = Invites::default();
        let secret = invites.add(100, 200, 2, Vec::new()).unwrap();
        let other = NodeId::from_bytes([3; 32]);
        let third = NodeId::from_bytes([4; 32]);
        for (joiner, known, expect) in [
            (JOINER, false, Ok(())),
            (JOINER, true, Ok(())),
            (other, false, Ok(())),
            (third, false, Err(JoinRefusal::UsedUp)),
            (JOINER, true, Ok(())),
        ] {
            let proof = secret.proof(joiner, INVITER);
            assert_eq!(invites.redeem(150, joiner, INVITER, &proof, known), expect);
        }
        invites.give_back(other, INVITER, &secret.proof(other, INVITER));
        assert_eq!(invites.redeem(150, third, INVITER, &secret.proof(third, INVITER), false), Ok(()));
    }

    #[test]
    fn an_invitation_ends() {
        let mut invites = Invites::default();
        let secret = invites.add(100, 200, 1, Vec::new()).unwrap();
        let proof = secret.proof(JOINER, INVITER);
        assert_eq!(invites.redeem(200, JOINER, INVITER, &proof, false), Err(JoinRefusal::Expired));
        // Making another forgets those that ended long ago.
        invites.add(200 + REMEMBERED_SECONDS, u64::MAX, 1, Vec::new()).unwrap();
        assert_eq!(invites.redeem(199, JOINER, INVITER, &proof, false), Err(JoinRefusal::Unknown));
    }

    #[test]
    fn a_proof_is_good_for_one_pair_of_nodes() {
        let mut invites = Invites::default();
        let secret = invites.add(100, 200, 1, Vec::new()).unwrap();
        for proof in [
            secret.proof(INVITER, JOINER),
            secret.proof(JOINER, JOINER),
            Secret::from_bytes([0; 16]).proof(JOINER, INVITER),
            [0; 32],
        ] {
            assert_eq!(invites.redeem(150, JOINER, INVITER, &proof, false), Err(JoinRefusal::Unknown));
        }
    }

    #[test]
    fn relays_hear_of_open_invitations_that_name_them_and_learn_no_proof() {
        let mut invites = Invites::default();
        let relay = NodeId::from_bytes([5; 32]);
        assert!(!invites.is_any_open(100));
        let secret = invites.add(100, 200, 1, vec![relay]).unwrap();
        invites.add(100, 200, 1, Vec::new()).unwrap();
        let awaiting = invites.awaiting(150);
        assert_eq!(awaiting.len(), 1);
        assert_eq!((&awaiting[0].pass, awaiting[0].seconds), (&secret.pass(), 50));
        assert_ne!(secret.pass().proof(JOINER, relay, INVITER), secret.proof(JOINER, INVITER));
        assert_eq!(invites.redeem(150, JOINER, INVITER, &secret.proof(JOINER, INVITER), false), Ok(()));
        assert!(invites.awaiting(150).is_empty(), "it is used up");
        assert!(invites.is_any_open(150) && !invites.is_any_open(200));
        for _ in 0..2 * PASSES_MAX {
            invites.add(100, 200, 1, vec![relay]).unwrap();
        }
        assert_eq!(invites.awaiting(150).len(), PASSES_MAX);
    }

    #[test]
    fn there_are_only_so_many() {
        let mut invites = Invites::default();
        for _ in 0..INVITES_MAX {
            invites.add(100, 200, 1, Vec::new()).unwrap();
        }
        assert!(invites.add(100, 200, 1, Vec::new()).is_none());
        assert!(invites.add(200, 300, 1, Vec::new()).is_some(), "ended ones make room");
    }
}
