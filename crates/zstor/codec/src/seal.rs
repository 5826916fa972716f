//! [`Sealer`]: plaintext in, shards and a record out. Owns the salt and the counter, and with them the uniqueness of every nonce.

use std::fmt;
use std::sync::atomic::{AtomicU32, Ordering};

use atoll_ids::ShardId;
use bytes::Bytes;
use thiserror::Error;

use crate::codec::Codec;
use crate::compress;
use crate::key::{ObjectKey, RunSalt};
use crate::policy::Policy;
use crate::record::StripeRecord;
use crate::run::{Header, Keys};
use crate::{RUN_STRIPES_MAX, STRIPE_BYTES};

/// Seals the stripes of one run of one object. Shared by reference among threads: take slots in the order of the stripes, seal
/// them on any thread in any order.
///
/// It cannot be cloned and takes no salt: that is what keeps a nonce from repeating.
pub struct Sealer {
    codec: Codec,
    keys: Keys,
    salt: RunSalt,
    next: AtomicU32,
}

/// The right to seal one stripe, once, with the sealer that gave it. A slot that is dropped leaves a gap in the counters, which is
/// harmless.
#[derive(Debug)]
#[must_use = "a slot is consumed by sealing a stripe"]
pub struct Slot {
    counter: u32,
    run: RunSalt,
}

impl Slot {
    /// The counter the stripe will have.
    pub fn counter(&self) -> u32 {
        self.counter
    }
}

/// A stripe as it goes out.
#[derive(Clone, Debug)]
pub struct SealedStripe {
    /// For the manifest.
    pub record: StripeRecord,
    /// k data shards, then m parity shards, equally long. They are slices of one buffer, which returns to its pool when all
    /// are dropped.
    pub shards: Vec<Bytes>,
    /// The id of each shard.
    pub ids: Vec<ShardId>,
}

/// The run has as many stripes as one key may seal. Go on with another [`Sealer`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("one run seals at most {RUN_STRIPES_MAX} stripes: continue the object with a new run")]
pub struct RunFull;

/// Why a stripe was not sealed: in each case a mistake of the caller. The slot is spent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum SealError {
    /// Nothing to seal.
    #[error("a stripe has at least one byte: an empty object has no stripes")]
    Empty,
    /// More than a stripe holds.
    #[error("{len} bytes were given where a stripe holds {STRIPE_BYTES}: cut the object into stripes")]
    TooLong {
        /// Bytes given.
        len: usize,
    },
    /// A slot of another sealer, whose counter may already have been used with this key.
    #[error("slot {counter} was given out by another sealer")]
    ForeignSlot {
        /// Its counter.
        counter: u32,
    },
}

impl Sealer {
    /// Starts a run with a fresh salt. Where many objects are sealed, [`Codec::sealer`] saves making the code and buffers each time.
    ///
    /// # Panics
    /// If the operating system gives no randomness.
    pub fn new(key: &ObjectKey, policy: Policy) -> Self {
        Codec::new(policy).sealer(key)
    }

    pub(crate) fn with_codec(key: &ObjectKey, codec: Codec) -> Self {
        let salt = RunSalt::draw();
        Self { codec, keys: Keys::derive(key, salt), salt, next: AtomicU32::new(0) }
    }

    /// The salt of this run, for the manifest.
    pub fn salt(&self) -> RunSalt {
        self.salt
    }

    /// Its policy.
    pub fn policy(&self) -> Policy {
        self.codec.policy()
    }

    /// The slot of the next stripe.
    ///
    /// # Errors
    /// [`RunFull`] after [`RUN_STRIPES_MAX`] slots.
    pub fn next(&self) -> Result<Slot, RunFull> {
        // Relaxed: only that no value is given out twice matters, and a read-modify-write is one total order by itself.
        let claim = |next| (next < RUN_STRIPES_MAX).then_some(next + 1);
        match self.next.fetch_update(Ordering::Relaxed, Ordering::Relaxed, claim) {
            Ok(counter) => Ok(Slot { counter, run: self.salt }),
            Err(_) => Err(RunFull),
        }
    }

    /// The id that a shard of this run has.
    pub fn shard_id(&self, counter: u32, index: usize) -> ShardId {
        self.keys.shard_id(counter, index as u32)
    }

    /// Seals 1 byte to 1 MiB of plaintext. Takes about 0.2 ms for random data and 1.5 ms for text on a full stripe, so run it where
    /// blocking is allowed.
    ///
    /// # Errors
    /// [`SealError`]; the slot is then spent.
    pub fn seal(&self, slot: Slot, plain: &[u8]) -> Result<SealedStripe, SealError> {
        let Slot { counter, run } = slot;
        if run != self.salt {
            return Err(SealError::ForeignSlot { counter });
        }
        match plain.len() {
            0 => return Err(SealError::Empty),
            len if len > STRIPE_BYTES => return Err(SealError::TooLong { len }),
            _ => {}
        }
        let policy = self.policy();
        let mut buffer = self.codec.pool.take(policy.shards() * policy.shard_len(plain.len()));
        let area = buffer.bytes_mut();

        // Compression goes straight to where the ciphertext will be: one buffer, no copy.
        let compressed = compress::compress(plain, &mut area[..plain.len()]);
        let sealed_len = compressed.unwrap_or(plain.len());
        let header = Header { policy, counter, plain_len: plain.len() as u32, sealed_len: sealed_len as u32 };
        let stripe_tag = match compressed {
            Some(len) => self.keys.seal_in_place(&header, &mut area[..len]),
            None => self.keys.seal(&header, plain, &mut area[..plain.len()]),
        };

        let shard_len = policy.shard_len(sealed_len);
        let area = &mut area[..policy.shards() * shard_len];
        self.add_parity(area, sealed_len, shard_len);
        let shard_tags = (0..).zip(area.chunks_exact(shard_len));
        let shard_tags = shard_tags.map(|(index, shard)| self.keys.tag_shard(counter, index, shard)).collect();
        let record = StripeRecord {
            counter,
            plain_len: header.plain_len,
            sealed_len: header.sealed_len,
            stripe_tag,
            shard_tags,
        };

        let whole = buffer.freeze(policy.shards() * shard_len);
        let shards =
            (0..policy.shards()).map(|index| whole.slice(index * shard_len..(index + 1) * shard_len)).collect();
        let ids = (0..policy.shards()).map(|index| self.shard_id(counter, index)).collect();
        Ok(SealedStripe { record, shards, ids })
    }

    /// Zeroes the padding after the ciphertext (the buffer held another stripe before) and computes the parity shards.
    fn add_parity(&self, area: &mut [u8], sealed_len: usize, shard_len: usize) {
        let (data, parity) = area.split_at_mut(self.policy().data() * shard_len);
        data[sealed_len..].fill(0);
        let data: Vec<&[u8]> = data.chunks_exact(shard_len).collect();
        let mut parity: Vec<&mut [u8]> = parity.chunks_exact_mut(shard_len).collect();
        self.codec.code.encode(&data, &mut parity).expect("shards are as many as the policy says and equally long");
    }
}

impl fmt::Debug for Sealer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sealer").field("policy", &self.policy()).field("salt", &self.salt).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;

    #[test]
    fn a_run_ends_at_its_limit_and_stays_ended() {
        let sealer = Sealer::new(&ObjectKey::generate(), Policy::new(1, 1).unwrap());
        sealer.next.store(RUN_STRIPES_MAX - 1, Ordering::Relaxed);
        let last = sealer.next().unwrap();
        let record = sealer.seal(last, b"x").unwrap().record;
        assert_eq!(record.counter(), RUN_STRIPES_MAX - 1);
        assert!(record.shape(sealer.policy()).is_ok());
        for _ in 0..3 {
            assert_eq!(sealer.next().unwrap_err(), RunFull);
        }
    }

    #[test]
    fn slots_are_unique_among_threads() {
        let sealer = Sealer::new(&ObjectKey::generate(), Policy::new(1, 1).unwrap());
        let take = || (0..500).map(|_| sealer.next().unwrap().counter()).collect::<Vec<_>>();
        let mut all: Vec<u32> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..4).map(|_| scope.spawn(take)).collect();
            threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
        });
        all.sort_unstable();
        assert_eq!(all, (0..2000).collect::<Vec<_>>());
    }

    #[test]
    fn misuse_is_refused() {
        let key = ObjectKey::generate();
        let policy = Policy::new(2, 1).unwrap();
        let (one, two) = (Sealer::new(&key, policy), Sealer::new(&key, policy));
        assert_ne!(one.salt(), two.salt());
        assert_eq!(two.seal(one.next().unwrap(), b"x").unwrap_err(), SealError::ForeignSlot { counter: 0 });
        assert_eq!(one.seal(one.next().unwrap(), b"").unwrap_err(), SealError::Empty);
        let long = vec![0; STRIPE_BYTES + 1];
        assert_eq!(one.seal(one.next().unwrap(), &long).unwrap_err(), SealError::TooLong { len: STRIPE_BYTES + 1 });
        assert_eq!(one.next().unwrap().counter(), 3, "refused slots are spent");
    }
}
