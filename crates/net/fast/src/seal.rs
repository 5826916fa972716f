//! Sealing: one [`Sealer`] per direction of a path, which owns its counters.

use std::time::{Duration, Instant};

use aws_lc_rs::aead::{Aad, Nonce};

use crate::header::{EPOCH_MAX, HEADER_BYTES, Header, Kind, TAG_BYTES};
use crate::keys::{Chain, EpochKey};

/// A key is followed by the next after so many packets: 4 million of 81 blocks are far below where GCM begins to leak (2⁻⁶⁰ at 2²³ full-sized
/// packets in RFC 9001, section 6.6).
pub const EPOCH_PACKETS: u64 = 1 << 22;

/// So many are never sealed with one key, whatever the other end says: while it does not confirm that it has the key, there is no next.
pub const EPOCH_PACKETS_MAX: u64 = 1 << 24;

/// A key is followed by the next after so long, as in WireGuard.
pub const EPOCH_TIME: Duration = Duration::from_secs(120);

/// Nothing more can be sealed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SealError {
    /// The key is used up, and the peer did not confirm it, so there is no other yet.
    #[error("the key is used up")]
    UsedUp,
    /// There is no room for header and tag around the packet.
    #[error("no room for header and tag")]
    NoRoom,
}

/// Seals one direction. It cannot be cloned, stored or made from anything but a fresh [`Half`](crate::Half), so no counter meets a key twice.
pub struct Sealer {
    chain: Chain,
    key: EpochKey,
    /// What the receiver calls us.
    index: u32,
    counter: u64,
    begun: Option<Instant>,
    confirmed: bool,
}

impl std::fmt::Debug for Sealer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sealer").field("epoch", &self.key.epoch).field("counter", &self.counter).finish_non_exhaustive()
    }
}

impl Sealer {
    pub(crate) fn new(mut chain: Chain, index: u32) -> Self {
        let key = chain.step();
        Self { chain, key, index, counter: 0, begun: None, confirmed: false }
    }

    /// Seals what lies in `slot` between room for the header and room for the tag.
    ///
    /// # Errors
    ///
    /// [`SealError`]; `slot` is as it was.
    pub fn seal(&mut self, kind: Kind, slot: &mut [u8]) -> Result<(), SealError> {
        let end = slot.len().checked_sub(TAG_BYTES).filter(|end| *end >= HEADER_BYTES).ok_or(SealError::NoRoom)?;
        let (header, nonce) = self.take_number(kind)?;
        let (front, tag_room) = slot.split_at_mut(end);
        let (header_room, text) = front.split_at_mut(HEADER_BYTES);
        let sealed = self.key.key().seal_in_place_separate_tag(nonce, Aad::from(header), text);
        // The only limit is 64 GiB.
        let tag = sealed.map_err(|_| SealError::NoRoom)?;
        header_room.copy_from_slice(&header);
        tag_room.copy_from_slice(tag.as_ref());
        Ok(())
    }

    /// Seals `text` into `slot`, which has room for it between header and tag.
    ///
    /// # Errors
    ///
    /// [`SealError`].
    pub fn seal_into(&mut self, kind: Kind, text: &[u8], slot: &mut [u8]) -> Result<(), SealError> {
        if slot.len() != HEADER_BYTES + text.len() + TAG_BYTES {
            return Err(SealError::NoRoom);
        }
        let (header, nonce) = self.take_number(kind)?;
        let (header_room, rest) = slot.split_at_mut(HEADER_BYTES);
        let (sealed, tag) = rest.split_at_mut(text.len());
        let key = self.key.key();
        let outcome = key.seal_out_of_place_scatter(nonce, Aad::from(header), text, sealed, &[], tag);
        outcome.map_err(|_| SealError::NoRoom)?;
        header_room.copy_from_slice(&header);
        Ok(())
    }

    /// A header that nothing was sealed with yet, and the nonce that belongs to it. Used up by the attempt already.
    fn take_number(&mut self, kind: Kind) -> Result<([u8; HEADER_BYTES], Nonce), SealError> {
        if self.counter >= EPOCH_PACKETS_MAX {
            return Err(SealError::UsedUp);
        }
        let header = Header { kind, epoch: self.key.epoch, index: self.index, counter: self.counter }.bytes();
        let nonce = self.key.nonce(self.counter);
        self.counter += 1;
        Ok((header, nonce))
    }

    /// How many can be sealed before the key is used up.
    #[must_use]
    pub fn left(&self) -> u64 {
        EPOCH_PACKETS_MAX - self.counter
    }

    /// As if so many had been sealed with this key.
    #[cfg(test)]
    pub(crate) fn skip_to(&mut self, counter: u64) {
        assert!(counter >= self.counter, "never back");
        self.counter = counter;
    }

    /// The key in use.
    #[must_use]
    pub fn epoch(&self) -> u32 {
        self.key.epoch
    }

    /// The other end opened something that was sealed in this epoch.
    pub fn confirm(&mut self, epoch: u32) {
        self.confirmed |= epoch == self.key.epoch;
    }

    /// Goes over to the next key if it is time, and the other end has this one: it is never more than one behind.
    pub fn turn(&mut self, now: Instant) {
        let begun = *self.begun.get_or_insert(now);
        let is_old = self.counter >= EPOCH_PACKETS || now.duration_since(begun) >= EPOCH_TIME;
        if is_old && self.confirmed && self.key.epoch < EPOCH_MAX {
            self.key = self.chain.step();
            (self.counter, self.begun, self.confirmed) = (0, Some(now), false);
        }
    }
}
