//! [`Opener`]: shards and a record in, authenticated plaintext out. Also finds forged shards and rebuilds lost ones.
//!
//! Nothing it returns is unauthenticated: plaintext passed the stripe's tag, a rebuilt shard passed its own.

use std::fmt;

use atoll_ids::ShardId;
use bytes::Bytes;
use thiserror::Error;

use crate::codec::Codec;
use crate::compress;
use crate::key::{ObjectKey, RunSalt};
use crate::policy::Policy;
use crate::pool::Buffer;
use crate::record::{BadRecord, Shape, StripeRecord};
use crate::run::Keys;

/// Opens the stripes of one run of one object. Shared by reference among threads.
pub struct Opener {
    codec: Codec,
    keys: Keys,
    salt: RunSalt,
}

/// Why a stripe was not opened. No byte of it was handed on.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum OpenError {
    /// Get more shards and try again.
    #[error("stripe {counter} needs {need} shards and {have} are at hand")]
    TooFewShards {
        /// The stripe.
        counter: u32,
        /// Different shards of the stripe that were given.
        have: usize,
        /// Shards it takes.
        need: usize,
    },
    /// The shards do not give the stripe that the record is of. If `bad` names some, get others in their place and try again; if none is
    /// bad, the record itself is not of this run or was altered.
    #[error("stripe {counter} fails authentication: {}", blame(bad))]
    BadStripe {
        /// The stripe.
        counter: u32,
        /// Indexes of given shards that are forged or rotten.
        bad: Vec<usize>,
    },
    /// The record is damaged for good.
    #[error(transparent)]
    BadRecord(#[from] BadRecord),
}

/// Why lost shards were not rebuilt.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum RebuildError {
    /// Get more shards and try again.
    #[error("rebuilding stripe {counter} needs {need} shards and {have} are at hand")]
    TooFewShards {
        /// The stripe.
        counter: u32,
        /// Different shards of the stripe that were given and are not to be rebuilt.
        have: usize,
        /// Shards it takes.
        need: usize,
    },
    /// As in [`OpenError::BadStripe`].
    #[error("rebuilding stripe {counter} gives shards that fail authentication: {}", blame(bad))]
    BadStripe {
        /// The stripe.
        counter: u32,
        /// Indexes of given shards that are forged or rotten.
        bad: Vec<usize>,
    },
    /// A shard to rebuild that the policy does not have, or that was named twice.
    #[error("shard {index} of stripe {counter} cannot be rebuilt: it does not exist or was named twice")]
    NoSuchShard {
        /// The stripe.
        counter: u32,
        /// The index.
        index: usize,
    },
    /// The record is damaged for good.
    #[error(transparent)]
    BadRecord(#[from] BadRecord),
}

fn blame(bad: &[usize]) -> String {
    match bad {
        [] => "no shard is to blame, so the record is of another run or was altered".to_owned(),
        [one] => format!("shard {one} is forged or rotten"),
        many => {
            let list: Vec<String> = many.iter().map(usize::to_string).collect();
            format!("shards {} are forged or rotten", list.join(", "))
        }
    }
}

/// k shards to work with, or how many there were.
enum Choice<'a> {
    Enough(Vec<(usize, &'a [u8])>),
    TooFew {
        have: usize,
    },
    /// There would be enough, were these not of the wrong length.
    Misshapen(Vec<usize>),
}

impl Opener {
    /// Opens what the run with this salt sealed. Where many objects are read, [`Codec::opener`] saves making the code each time.
    pub fn new(key: &ObjectKey, salt: RunSalt, policy: Policy) -> Self {
        Codec::new(policy).opener(key, salt)
    }

    pub(crate) fn with_codec(key: &ObjectKey, salt: RunSalt, codec: Codec) -> Self {
        Self { codec, keys: Keys::derive(key, salt), salt }
    }

    /// Its policy.
    pub fn policy(&self) -> Policy {
        self.codec.policy()
    }

    /// The run it opens.
    pub fn salt(&self) -> RunSalt {
        self.salt
    }

    /// The id under which a storage node keeps a shard.
    pub fn shard_id(&self, counter: u32, index: usize) -> ShardId {
        self.keys.shard_id(counter, index as u32)
    }

    /// Whether these bytes are shard `index` of the stripe, unaltered. Needs no other shard; costs less than a checksum would at
    /// most speeds (GMAC).
    pub fn check(&self, record: &StripeRecord, index: usize, shard: &[u8]) -> bool {
        record.shape(self.policy()).is_ok_and(|shape| self.is_genuine(record, shape, index, shard))
    }

    fn is_genuine(&self, record: &StripeRecord, shape: Shape, index: usize, shard: &[u8]) -> bool {
        let Some(tag) = record.shard_tags.get(index) else { return false };
        shard.len() == shape.shard_len && self.keys.shard_is_genuine(record.counter, index as u32, shard, tag)
    }

    /// The plaintext of a stripe, from any k of its shards, given with their indexes in any order. With the k data shards present, no
    /// decoding is done; further shards are not looked at. Shards need not be checked before.
    ///
    /// # Errors
    /// [`OpenError`]
    pub fn open(&self, record: &StripeRecord, shards: &[(usize, Bytes)]) -> Result<Bytes, OpenError> {
        let shape = record.shape(self.policy())?;
        let counter = record.counter;
        let chosen = match self.choose(shape, shards, &[]) {
            Choice::Enough(chosen) => chosen,
            Choice::TooFew { have } => {
                return Err(OpenError::TooFewShards { counter, have, need: self.policy().data() });
            }
            Choice::Misshapen(bad) => return Err(OpenError::BadStripe { counter, bad }),
        };
        let mut buffer = self.gather(shape, &chosen);
        let sealed = &mut buffer.bytes_mut()[..shape.sealed_len];
        if self.keys.open_in_place(&shape.header, &record.stripe_tag, sealed).is_err() {
            return Err(OpenError::BadStripe { counter, bad: self.find_bad(record, shape, shards, &[]) });
        }
        if !record.is_compressed() {
            return Ok(buffer.freeze(shape.plain_len));
        }
        let mut plain = self.codec.pool.take(shape.plain_len);
        if !compress::decompress(sealed, plain.bytes_mut()) {
            // Authentic, yet not what a sealer writes.
            return Err(OpenError::BadStripe { counter, bad: Vec::new() });
        }
        Ok(plain.freeze(shape.plain_len))
    }

    /// The shards `missing`, in that order, from any k others. Shards of `present` that are also missing are not used. What is rebuilt
    /// was checked against its tag.
    ///
    /// # Errors
    /// [`RebuildError`]
    pub fn rebuild(
        &self,
        record: &StripeRecord,
        present: &[(usize, Bytes)],
        missing: &[usize],
    ) -> Result<Vec<Bytes>, RebuildError> {
        let shape = record.shape(self.policy())?;
        let counter = record.counter;
        let wrong = |(at, index): (usize, &usize)| *index >= self.policy().shards() || missing[..at].contains(index);
        if let Some((_, &index)) = missing.iter().enumerate().find(|&named| wrong(named)) {
            return Err(RebuildError::NoSuchShard { counter, index });
        }
        let chosen = match self.choose(shape, present, missing) {
            Choice::Enough(chosen) => chosen,
            Choice::TooFew { have } => {
                return Err(RebuildError::TooFewShards { counter, have, need: self.policy().data() });
            }
            Choice::Misshapen(bad) => return Err(RebuildError::BadStripe { counter, bad }),
        };
        let mut buffer = self.codec.pool.take(missing.len() * shape.shard_len);
        let slots = buffer.bytes_mut().chunks_exact_mut(shape.shard_len);
        let mut outputs: Vec<(usize, &mut [u8])> = missing.iter().copied().zip(slots).collect();
        self.reconstruct(&chosen, &mut outputs);
        if !outputs.iter().all(|(index, shard)| self.is_genuine(record, shape, *index, shard)) {
            return Err(RebuildError::BadStripe { counter, bad: self.find_bad(record, shape, present, missing) });
        }
        let whole = buffer.freeze(missing.len() * shape.shard_len);
        Ok((0..missing.len()).map(|at| whole.slice(at * shape.shard_len..(at + 1) * shape.shard_len)).collect())
    }

    /// Picks k different shards that have the right length and are not `excluded`, data shards first: those need no decoding.
    fn choose<'a>(&self, shape: Shape, shards: &'a [(usize, Bytes)], excluded: &[usize]) -> Choice<'a> {
        let mut by_index: Vec<Option<&'a [u8]>> = vec![None; self.policy().shards()];
        let mut misshapen = Vec::new();
        for (index, shard) in shards {
            let Some(place) = by_index.get_mut(*index) else { continue };
            if excluded.contains(index) {
                continue;
            }
            if shard.len() == shape.shard_len {
                *place = Some(shard);
            } else {
                misshapen.push(*index);
            }
        }
        let need = self.policy().data();
        let usable = by_index.into_iter().enumerate().filter_map(|(index, shard)| Some((index, shard?)));
        let chosen: Vec<_> = usable.take(need).collect();
        match chosen.len() {
            have if have == need => Choice::Enough(chosen),
            _ if !misshapen.is_empty() => Choice::Misshapen(misshapen),
            have => Choice::TooFew { have },
        }
    }

    /// Puts the data shards one after the other: copies those at hand, computes the others.
    fn gather(&self, shape: Shape, chosen: &[(usize, &[u8])]) -> Buffer {
        let mut buffer = self.codec.pool.take(self.policy().data() * shape.shard_len);
        let mut at_hand = chosen.iter().peekable();
        let mut missing = Vec::new();
        for (index, place) in buffer.bytes_mut().chunks_exact_mut(shape.shard_len).enumerate() {
            match at_hand.next_if(|(at, _)| *at == index) {
                Some((_, shard)) => place.copy_from_slice(shard),
                None => missing.push((index, place)),
            }
        }
        self.reconstruct(chosen, &mut missing);
        buffer
    }

    fn reconstruct(&self, chosen: &[(usize, &[u8])], missing: &mut [(usize, &mut [u8])]) {
        if !missing.is_empty() {
            let done = self.codec.code.reconstruct(chosen, missing);
            done.expect("k different shards were chosen, all equally long, none of them missing");
        }
    }

    /// Which of the given shards are not what they are said to be, but for those that were not used anyway.
    fn find_bad(
        &self,
        record: &StripeRecord,
        shape: Shape,
        shards: &[(usize, Bytes)],
        excluded: &[usize],
    ) -> Vec<usize> {
        let used = shards.iter().filter(|(index, _)| !excluded.contains(index));
        let bad = used.filter(|(index, shard)| !self.is_genuine(record, shape, *index, shard));
        bad.map(|(index, _)| *index).collect()
    }
}

impl fmt::Debug for Opener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Opener").field("policy", &self.policy()).field("salt", &self.salt).finish_non_exhaustive()
    }
}
