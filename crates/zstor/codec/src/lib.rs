//! One stripe of an object ⇄ k+m sealed shards.
//!
//! ```text
//! plain ≤ 1 MiB ─► zstd, if it helps ─► AES-256-GCM ─► k equal data shards ─► Reed–Solomon ─► m parity shards
//!                                          │ tag                               a GMAC tag for each of the k+m
//!                                          └──────────► StripeRecord ◄──────────────────────┘
//! ```
//!
//! The shards go to storage nodes that are not trusted with anything; the [`StripeRecord`] stays with the owner, in the manifest.
//! [`Sealer`] makes them, [`Opener`] is the only way back and has no unchecked variant. Not here: where shards go (`atoll-placement`,
//! the engine), what a manifest is, any I/O.
//!
//! # The construction, format 1
//!
//! An object has a random 256-bit [`ObjectKey`], kept in the manifest as a [`WrappedKey`]. Every [`Sealer`] draws a random 128-bit
//! [`RunSalt`] and derives three keys with BLAKE3's `derive_key`, under three context strings, from `object key ‖ salt`:
//!
//! | key | used for |
//! |---|---|
//! | stripe key | AES-256-GCM of the stripe; nonce = 0³² ‖ counter as 64-bit big-endian; the tag goes to the record |
//! | tag key | GMAC of a shard: AES-256-GCM of nothing with the shard as associated data; nonce = 64-bit counter ‖ 32-bit shard index |
//! | id key | [`ShardId`](atoll_ids::ShardId) = first 16 bytes of the keyed BLAKE3 hash of 64-bit counter ‖ 32-bit shard index |
//!
//! The associated data of a stripe is `"atoll/stripe" ‖ format ‖ k ‖ m ‖ counter ‖ plain length ‖ sealed length`, each of fixed width. A
//! stripe is compressed exactly when its sealed length is less than its plain length, so that is bound as well.
//!
//! # Why it is safe
//!
//! - **Keys are separate.** `derive_key` with distinct hard-coded contexts gives independent keys; no key serves two algorithms or
//!   purposes, and two runs share none: that their salts collide has a probability below 2⁻⁶⁴ after 2³² runs of one object.
//! - **A nonce cannot repeat, by type.** [`Sealer::new`] and [`Codec::sealer`] take no salt. The counter is an atomic that only goes up and
//!   is handed out as a [`Slot`], which cannot be made, copied or used twice, nor with another sealer. So (stripe key,
//!   counter) is used for one plaintext only, and (tag key, counter, index) for one shard only. An interrupted upload goes
//!   on with a new sealer: even if its source changed meanwhile, key and nonce never meet two texts. What no type can prevent is a
//!   snapshot of a whole machine, memory included, that is resumed twice in the middle of a run.
//! - **Limits.** A run has at most [`RUN_STRIPES_MAX`] = 2²⁸ stripes of at most 2¹⁶ blocks, so at most 2⁴⁴ blocks (256 TiB) under one key: the
//!   advantage of the AES permutation over a random function stays under 2⁻⁴⁰, where NIST SP 800-38D with deterministic
//!   nonces would allow more. Forging a stripe or a shard succeeds with at most 2⁻¹¹¹ per attempt.
//! - **What is bound.** Changing a number in a record, swapping shards, stripes, runs or objects, or another policy, fails the stripe's
//!   tag: each goes into the key, the nonce, the associated data or the ciphertext. A shard's tag (which also covers the padding at the end of
//!   the data shards, zeros that no plaintext is made of) only tells *which* shard to throw away; plaintext is released on
//!   the stripe's tag alone, a rebuilt shard on its own.
//! - **Compression is inside the encryption.** Lengths of shards say how well a stripe compressed. That is a leak to know about when an
//!   attacker can put text of their choice beside a secret in one stripe *and* see its shards stored, over and over.
//! - **No bomb.** zstd decompresses only what was authenticated, into a buffer of exactly the recorded plain length, at most 1 MiB
//!   ([`STRIPE_BYTES`]); one byte more or less is an error.
//! - **A wrapped key** is AES-256-GCM-SIV under the owner's key-encryption key, with a random nonce and the [`ObjectId`](atoll_ids::ObjectId) as associated
//!   data. SIV, because an owner wraps many keys under one key: a repeated nonce would reveal nothing even then, as the
//!   wrapped keys differ.
//!
//! # Failure
//!
//! Each operation has its error enum. [`OpenError::TooFewShards`] may pass when more shards arrive, [`OpenError::BadStripe`] names the shards to replace,
//! the rest is broken for good. Bytes from outside (records, shards) cannot cause a panic or an allocation beyond one stripe.
//!
//! # Cost
//!
//! A stripe takes one buffer for all its shards, which are slices of it; buffers return to a [`BufferPool`] when the last shard is
//! dropped. Each thread that seals or opens keeps one zstd context.

mod codec;
mod compress;
mod key;
mod open;
mod policy;
mod pool;
mod record;
mod run;
mod seal;

pub use codec::Codec;
pub use key::{ObjectKey, RunSalt, WrappedKey, WrongKey};
pub use open::{OpenError, Opener, RebuildError};
pub use policy::{Policy, PolicyError};
pub use pool::BufferPool;
pub use record::{BadRecord, StripeRecord};
pub use seal::{RunFull, SealError, SealedStripe, Sealer, Slot};

/// Bytes of plaintext in a stripe, at most; all stripes of an object but the last have exactly this many.
///
/// 1 MiB: shards of 4+2 are 256 KiB, large enough that a disk and a TCP connection run at full speed, while dozens of stripes in flight
/// still fit in tens of MiB. The format relies on it (it bounds decompression), so a larger value is a new format.
pub const STRIPE_BYTES: usize = 1 << 20;

/// Stripes one [`Sealer`] seals, at most: 256 TiB under one key. A longer object goes on with another sealer.
pub const RUN_STRIPES_MAX: u32 = 1 << 28;

/// CRC-64/NVME of some bytes, the checksum storage nodes keep with a shard. It finds rot; it proves nothing about who wrote it.
pub fn crc64(bytes: &[u8]) -> u64 {
    crc_fast::crc64_nvme(bytes)
}

#[cfg(test)]
mod tests {
    #[test]
    fn crc64_is_the_nvme_one() {
        // Check value of the catalogue of parametrised CRC algorithms.
        assert_eq!(super::crc64(b"123456789"), 0xae8b_1486_0a79_9888);
    }
}
