//! The keys of one sealing run and the four things done with them. The crate's documentation says why this is safe.
//!
//! Sealing and tagging take their nonce from a counter that only [`Sealer`](crate::Sealer) may choose; [`Keys`] itself keeps no count.

use atoll_ids::ShardId;
use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use zeroize::Zeroizing;

use crate::key::{ObjectKey, RunSalt};
use crate::policy::Policy;

/// Context strings of BLAKE3's `derive_key`: globally unique, never changed. A new format gets new ones.
const STRIPE_KEY: &str = "atoll 2026-11 zstor codec v1 stripe key";
const TAG_KEY: &str = "atoll 2026-11 zstor codec v1 shard tag key";
const ID_KEY: &str = "atoll 2026-11 zstor codec v1 shard id key";

/// Version of the construction, bound by the associated data of every stripe.
const FORMAT: u16 = 1;
/// Starts the associated data of a stripe.
const STRIPE_CONTEXT: &[u8; 12] = b"atoll/stripe";

/// A GCM or GMAC tag.
pub(crate) type Tag = [u8; 16];

/// A tag did not match.
#[derive(Debug)]
pub(crate) struct Forged;

/// What the associated data of a stripe says.
#[derive(Clone, Copy)]
pub(crate) struct Header {
    pub(crate) policy: Policy,
    pub(crate) counter: u32,
    pub(crate) plain_len: u32,
    pub(crate) sealed_len: u32,
}

impl Header {
    fn aad(&self) -> Aad<[u8; 32]> {
        let mut aad = [0; 32];
        aad[..12].copy_from_slice(STRIPE_CONTEXT);
        aad[12..14].copy_from_slice(&FORMAT.to_be_bytes());
        aad[14..16].copy_from_slice(&self.policy.to_bytes());
        aad[16..24].copy_from_slice(&u64::from(self.counter).to_be_bytes());
        aad[24..28].copy_from_slice(&self.plain_len.to_be_bytes());
        aad[28..].copy_from_slice(&self.sealed_len.to_be_bytes());
        Aad::from(aad)
    }

    fn nonce(&self) -> Nonce {
        let mut nonce = [0; 12];
        nonce[4..].copy_from_slice(&u64::from(self.counter).to_be_bytes());
        Nonce::assume_unique_for_key(nonce)
    }
}

/// 64-bit counter ‖ 32-bit index: the nonce of a shard's tag and the message of its id.
fn shard_place(counter: u32, index: u32) -> [u8; 12] {
    let mut place = [0; 12];
    place[..8].copy_from_slice(&u64::from(counter).to_be_bytes());
    place[8..].copy_from_slice(&index.to_be_bytes());
    place
}

/// The keys of one run.
pub(crate) struct Keys {
    stripe: LessSafeKey,
    tag: LessSafeKey,
    id: Zeroizing<[u8; 32]>,
}

impl Keys {
    pub(crate) fn derive(object: &ObjectKey, salt: RunSalt) -> Self {
        let mut material = Zeroizing::new([0; 48]);
        material[..32].copy_from_slice(object.as_bytes());
        material[32..].copy_from_slice(salt.as_bytes());
        let derive = |context| Zeroizing::new(blake3::derive_key(context, material.as_slice()));
        let aes = |key: Zeroizing<[u8; 32]>| {
            LessSafeKey::new(UnboundKey::new(&AES_256_GCM, key.as_slice()).expect("the key has 32 bytes"))
        };
        Self { stripe: aes(derive(STRIPE_KEY)), tag: aes(derive(TAG_KEY)), id: derive(ID_KEY) }
    }

    /// Encrypts from `plain` to `sealed`, of equal length.
    pub(crate) fn seal(&self, header: &Header, plain: &[u8], sealed: &mut [u8]) -> Tag {
        let mut tag = [0; 16];
        self.stripe
            .seal_out_of_place_scatter(header.nonce(), header.aad(), plain, sealed, &[], &mut tag)
            .expect("AES-GCM seals up to 64 GiB, and the lengths are equal");
        tag
    }

    /// Encrypts in place.
    pub(crate) fn seal_in_place(&self, header: &Header, bytes: &mut [u8]) -> Tag {
        let sealed = self.stripe.seal_in_place_separate_tag(header.nonce(), header.aad(), bytes);
        to_tag(sealed.expect("AES-GCM seals up to 64 GiB").as_ref())
    }

    /// Decrypts in place. On error the bytes hold nothing of use and must not be looked at.
    pub(crate) fn open_in_place(&self, header: &Header, tag: &Tag, bytes: &mut [u8]) -> Result<(), Forged> {
        match self.stripe.open_in_place_separate_tag(header.nonce(), header.aad(), tag, bytes) {
            Ok(_) => Ok(()),
            Err(_) => Err(Forged),
        }
    }

    /// The tag of a shard.
    pub(crate) fn tag_shard(&self, counter: u32, index: u32, shard: &[u8]) -> Tag {
        let nonce = Nonce::assume_unique_for_key(shard_place(counter, index));
        let tag = self.tag.seal_in_place_separate_tag(nonce, Aad::from(shard), &mut []);
        to_tag(tag.expect("GMAC takes any length").as_ref())
    }

    /// Whether a shard has this tag, in constant time.
    pub(crate) fn shard_is_genuine(&self, counter: u32, index: u32, shard: &[u8], tag: &Tag) -> bool {
        let nonce = Nonce::assume_unique_for_key(shard_place(counter, index));
        self.tag.open_in_place_separate_tag(nonce, Aad::from(shard), tag, &mut []).is_ok()
    }

    /// The id of a shard.
    pub(crate) fn shard_id(&self, counter: u32, index: u32) -> ShardId {
        let hash = blake3::keyed_hash(&self.id, &shard_place(counter, index));
        ShardId::from_bytes(to_tag(&hash.as_bytes()[..16]))
    }
}

fn to_tag(bytes: &[u8]) -> Tag {
    let mut tag = [0; 16];
    tag.copy_from_slice(bytes);
    tag
}
