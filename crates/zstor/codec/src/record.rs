//! [`StripeRecord`]: what the owner must keep of a stripe to get it back.
//!
//! A record read from anywhere may say anything. [`StripeRecord::shape`] checks it against the policy before a number in it
//! decides about memory; whether it is *true* is for the stripe's tag to say.

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::policy::Policy;
use crate::run::{Header, Tag};
use crate::{RUN_STRIPES_MAX, STRIPE_BYTES};

/// What the owner keeps of a stripe: lengths, the tag of the stripe and one of each shard. In the manifest it takes 24 to 30 bytes
/// and 16 for each shard, about 120 bytes per MiB at 4+2. Postcard's varints keep small numbers small.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StripeRecord {
    pub(crate) counter: u32,
    pub(crate) plain_len: u32,
    /// Less than `plain_len` exactly when the stripe is compressed.
    pub(crate) sealed_len: u32,
    pub(crate) stripe_tag: Tag,
    pub(crate) shard_tags: Vec<Tag>,
}

/// A record no stripe can have. The manifest it came from is damaged, or the policy is another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("the record of stripe {counter} is impossible under the policy {policy}: {reason}")]
pub struct BadRecord {
    /// The stripe it says it is of.
    pub counter: u32,
    /// The policy it was read under.
    pub policy: Policy,
    /// What cannot be.
    pub reason: &'static str,
}

/// The lengths of a stripe whose record was checked.
#[derive(Clone, Copy)]
pub(crate) struct Shape {
    pub(crate) header: Header,
    pub(crate) plain_len: usize,
    pub(crate) sealed_len: usize,
    pub(crate) shard_len: usize,
}

impl StripeRecord {
    /// Which stripe of its run this is.
    pub fn counter(&self) -> u32 {
        self.counter
    }

    /// Bytes of plaintext.
    pub fn plain_len(&self) -> u32 {
        self.plain_len
    }

    /// Bytes of ciphertext that the data shards hold together, before padding.
    pub fn sealed_len(&self) -> u32 {
        self.sealed_len
    }

    /// Whether the plaintext was compressed.
    pub fn is_compressed(&self) -> bool {
        self.sealed_len < self.plain_len
    }

    /// Bytes of each shard.
    ///
    /// # Errors
    /// [`BadRecord`] when no stripe can have this record.
    pub fn shard_len(&self, policy: Policy) -> Result<usize, BadRecord> {
        self.shape(policy).map(|shape| shape.shard_len)
    }

    /// Checks that a sealer with this policy could have made the record.
    pub(crate) fn shape(&self, policy: Policy) -> Result<Shape, BadRecord> {
        let bad = |reason| Err(BadRecord { counter: self.counter, policy, reason });
        let (plain_len, sealed_len) = (self.plain_len as usize, self.sealed_len as usize);
        if self.counter >= RUN_STRIPES_MAX {
            return bad("its number is above the limit of a run");
        }
        if plain_len == 0 || plain_len > STRIPE_BYTES {
            return bad("a stripe has 1 byte to 1 MiB of plaintext");
        }
        if sealed_len == 0 || sealed_len > plain_len {
            return bad("the ciphertext is empty or longer than the plaintext");
        }
        if self.shard_tags.len() != policy.shards() {
            return bad("it does not have one tag for each shard");
        }
        let header = Header { policy, counter: self.counter, plain_len: self.plain_len, sealed_len: self.sealed_len };
        Ok(Shape { header, plain_len, sealed_len, shard_len: policy.shard_len(sealed_len) })
    }
}
