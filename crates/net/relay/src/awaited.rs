//! For which strangers a relay carries: those whom one of its peers awaits.
//!
//! A peer says that strangers with a pass may talk to it ([`Awaited::expect`]), for two minutes at most, so it says it again while that holds. A stranger shows that it has
//! the pass ([`Awaited::admit`]) and then reaches that peer and nobody else, for a minute. Everything is bounded: peers, passes, strangers, time.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use atoll_ids::NodeId;

use crate::frame::Refusal;
use crate::pass::{Pass, Proof};

/// Strangers that are let through at once: joining takes seconds.
pub const GUESTS_MAX: usize = 16;

/// Peers that await somebody at once.
const AWAITING_MAX: usize = 256;

/// Passes of one peer: tickets that it has out.
pub const PASSES_MAX: usize = 8;

/// The longest that a pass is kept without being told of again. Longer than the pauses of who tells, with room for lost messages.
pub const AWAITED_MAX: Duration = Duration::from_secs(120);

/// How long a stranger is let through: joining takes seconds, and a way without a relay is found in that time or not at all.
pub const GUEST_TIME: Duration = Duration::from_secs(60);

/// See the module's documentation.
#[derive(Debug, Default)]
pub struct Awaited {
    passes: BTreeMap<NodeId, Vec<(Pass, Instant)>>,
    guests: BTreeMap<NodeId, (NodeId, Instant)>,
}

impl Awaited {
    /// A peer awaits whoever has this pass.
    ///
    /// # Errors
    ///
    /// [`Refusal::Crowded`] when too many do so.
    pub fn expect(&mut self, now: Instant, peer: NodeId, pass: Pass, time: Duration) -> Result<(), Refusal> {
        self.forget_old(now);
        if !self.passes.contains_key(&peer) && self.passes.len() >= AWAITING_MAX {
            return Err(Refusal::Crowded);
        }
        let passes = self.passes.entry(peer).or_default();
        passes.retain(|(known, _)| *known != pass);
        if passes.len() >= PASSES_MAX {
            passes.remove(0);
        }
        passes.push((pass, now + time.min(AWAITED_MAX)));
        Ok(())
    }

    /// Whether anybody is awaited at all.
    pub fn is_any(&mut self, now: Instant) -> bool {
        self.forget_old(now);
        !self.passes.is_empty()
    }

    /// Lets a stranger through to the peer that awaits it, and to that one alone. `relay` is this node.
    ///
    /// # Errors
    ///
    /// [`Refusal::Unknown`] unless it has a pass, [`Refusal::Crowded`] when too many are let through.
    pub fn admit(
        &mut self,
        now: Instant,
        guest: NodeId,
        relay: NodeId,
        peer: NodeId,
        proof: &Proof,
    ) -> Result<(), Refusal> {
        self.forget_old(now);
        let mut passes = self.passes.get(&peer).into_iter().flatten();
        if !passes.any(|(pass, _)| pass.fits(proof, guest, relay, peer)) {
            return Err(Refusal::Unknown);
        }
        match self.guests.get(&guest) {
            // Showing it again makes it no longer.
            Some((to, _)) if *to == peer => return Ok(()),
            None if self.guests.len() >= GUESTS_MAX => return Err(Refusal::Crowded),
            _ => {}
        }
        self.guests.insert(guest, (peer, now + GUEST_TIME));
        Ok(())
    }

    /// Whether one of the two is a stranger that is let through to the other.
    #[must_use]
    pub fn links(&self, now: Instant, one: &NodeId, other: &NodeId) -> bool {
        let goes = |guest, to| self.guests.get(guest).is_some_and(|(peer, until)| peer == to && now < *until);
        goes(one, other) || goes(other, one)
    }

    /// A stranger is gone.
    pub fn leave(&mut self, guest: &NodeId) {
        self.guests.remove(guest);
    }

    fn forget_old(&mut self, now: Instant) {
        self.passes.retain(|_, passes| {
            passes.retain(|(_, until)| now < *until);
            !passes.is_empty()
        });
        self.guests.retain(|_, (_, until)| now < *until);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RELAY: NodeId = NodeId::from_bytes([1; 32]);
    const PEER: NodeId = NodeId::from_bytes([2; 32]);
    const GUEST: NodeId = NodeId::from_bytes([3; 32]);
    const OTHER: NodeId = NodeId::from_bytes([4; 32]);
    const PASS: Pass = Pass::from_bytes([9; 32]);

    fn guest(number: usize) -> NodeId {
        let mut bytes = [7; 32];
        bytes[..8].copy_from_slice(&(number as u64).to_le_bytes());
        NodeId::from_bytes(bytes)
    }

    #[test]
    fn who_has_the_pass_reaches_the_one_that_awaits_it_and_nobody_else() {
        let (mut awaited, now) = (Awaited::default(), Instant::now());
        let proof = PASS.proof(GUEST, RELAY, PEER);
        assert!(!awaited.is_any(now));
        assert_eq!(awaited.admit(now, GUEST, RELAY, PEER, &proof), Err(Refusal::Unknown), "nobody is awaited");
        assert_eq!(awaited.expect(now, PEER, PASS, Duration::from_secs(10)), Ok(()));
        for (who, to, proof) in [
            (OTHER, PEER, proof),
            (GUEST, OTHER, proof),
            (GUEST, PEER, PASS.proof(GUEST, OTHER, PEER)),
            (GUEST, PEER, PASS.proof(PEER, RELAY, GUEST)),
            (GUEST, PEER, Pass::from_bytes([8; 32]).proof(GUEST, RELAY, PEER)),
        ] {
            assert_eq!(awaited.admit(now, who, RELAY, to, &proof), Err(Refusal::Unknown));
            assert!(!awaited.links(now, &who, &to));
        }
        assert_eq!(awaited.admit(now, GUEST, RELAY, PEER, &proof), Ok(()));
        assert!(awaited.links(now, &GUEST, &PEER) && awaited.links(now, &PEER, &GUEST));
        assert!(!awaited.links(now, &GUEST, &OTHER) && !awaited.links(now, &PEER, &OTHER));
        awaited.leave(&GUEST);
        assert!(!awaited.links(now, &GUEST, &PEER));
    }

    #[test]
    fn everything_ends() {
        let (mut awaited, now) = (Awaited::default(), Instant::now());
        let proof = PASS.proof(GUEST, RELAY, PEER);
        // For ever is not for ever.
        awaited.expect(now, PEER, PASS, Duration::from_secs(100_000)).expect("there is room");
        assert_eq!(awaited.admit(now, GUEST, RELAY, PEER, &proof), Ok(()));
        let later = now + GUEST_TIME / 2;
        assert_eq!(awaited.admit(later, GUEST, RELAY, PEER, &proof), Ok(()));
        assert!(awaited.links(later, &GUEST, &PEER));
        assert!(!awaited.links(now + GUEST_TIME, &GUEST, &PEER), "showing it again makes it no longer");
        assert_eq!(awaited.admit(now + AWAITED_MAX, GUEST, RELAY, PEER, &proof), Err(Refusal::Unknown));
        assert!(!awaited.is_any(now + AWAITED_MAX));
    }

    #[test]
    fn there_are_only_so_many() {
        let (mut awaited, now) = (Awaited::default(), Instant::now());
        let minute = Duration::from_secs(60);
        for number in 0..=PASSES_MAX {
            awaited.expect(now, PEER, Pass::from_bytes([number as u8; 32]), minute).expect("there is room");
        }
        let proof = |number: u8| Pass::from_bytes([number; 32]).proof(GUEST, RELAY, PEER);
        assert_eq!(awaited.admit(now, GUEST, RELAY, PEER, &proof(0)), Err(Refusal::Unknown), "the oldest went");
        for number in 0..GUESTS_MAX {
            let proof = Pass::from_bytes([1; 32]).proof(guest(number), RELAY, PEER);
            assert_eq!(awaited.admit(now, guest(number), RELAY, PEER, &proof), Ok(()));
        }
        assert_eq!(awaited.admit(now, GUEST, RELAY, PEER, &proof(1)), Err(Refusal::Crowded));
        for number in 0..AWAITING_MAX - 1 {
            awaited.expect(now, guest(1000 + number), PASS, minute).expect("there is room");
        }
        assert_eq!(awaited.expect(now, guest(0), PASS, minute), Err(Refusal::Crowded));
    }
}
