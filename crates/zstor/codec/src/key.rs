//! [`ObjectKey`], how it is kept ([`WrappedKey`]), and the salt of a run. Keys are zeroized when dropped and never printed.

use std::fmt;

use atoll_ids::ObjectId;
use aws_lc_rs::aead::{AES_256_GCM_SIV, Aad, LessSafeKey, Nonce, UnboundKey};
use serde::{Deserialize, Serialize};
use thiserror::Error;
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

/// Starts the associated data of a wrapped key, so that it cannot pass for anything else sealed under the same key-encryption key.
const WRAP_CONTEXT: &[u8; 24] = b"atoll/wrapped-object-key";

/// The secret of one object: whoever has it can read the object, given its manifest and shards.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct ObjectKey([u8; 32]);

/// Fills an array from the operating system's generator.
///
/// # Panics
/// If the operating system gives no randomness, which Linux does not let happen once it has booted. Nothing could be sealed safely.
fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).expect("the operating system has a random number generator");
    bytes
}

impl ObjectKey {
    /// A fresh random key.
    ///
    /// # Panics
    /// If the operating system gives no randomness.
    pub fn generate() -> Self {
        Self(random())
    }

    /// The secret, to derive from.
    pub(crate) fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// Encrypts this key under `kek`, the owner's key-encryption key, for `object`. The result may be stored anywhere.
    pub fn wrap(&self, kek: &[u8; 32], object: ObjectId) -> WrappedKey {
        let nonce = random();
        let mut key = self.0;
        let tag = wrapping_key(kek)
            .seal_in_place_separate_tag(Nonce::assume_unique_for_key(nonce), wrap_aad(object), &mut key)
            .expect("AES-GCM-SIV seals 32 bytes");
        let mut wrapped = WrappedKey { nonce, key, tag: [0; 16] };
        wrapped.tag.copy_from_slice(tag.as_ref());
        wrapped
    }
}

impl fmt::Debug for ObjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ObjectKey(secret)")
    }
}

fn wrapping_key(kek: &[u8; 32]) -> LessSafeKey {
    LessSafeKey::new(UnboundKey::new(&AES_256_GCM_SIV, kek).expect("the key has 32 bytes"))
}

fn wrap_aad(object: ObjectId) -> Aad<[u8; 40]> {
    let mut aad = [0; 40];
    aad[..24].copy_from_slice(WRAP_CONTEXT);
    aad[24..].copy_from_slice(object.as_bytes());
    Aad::from(aad)
}

/// An [`ObjectKey`] encrypted under the owner's key-encryption key, for one object.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WrappedKey {
    nonce: [u8; 12],
    key: [u8; 32],
    tag: [u8; 16],
}

/// A wrapped key that does not open.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error(
    "the key of object {object} does not open: it belongs to another owner or another object, or it was altered; \
     use the owner key that stored the object"
)]
pub struct WrongKey {
    /// The object it was to be opened for.
    pub object: ObjectId,
}

impl WrappedKey {
    /// Decrypts the key of `object`.
    ///
    /// # Errors
    /// [`WrongKey`] unless it was wrapped under the same `kek` for the same object and is unaltered; these cannot be told apart.
    pub fn unwrap(&self, kek: &[u8; 32], object: ObjectId) -> Result<ObjectKey, WrongKey> {
        let mut key = Zeroizing::new(self.key);
        wrapping_key(kek)
            .open_in_place_separate_tag(
                Nonce::assume_unique_for_key(self.nonce),
                wrap_aad(object),
                &self.tag,
                key.as_mut_slice(),
            )
            .map_err(|_| WrongKey { object })?;
        Ok(ObjectKey(*key))
    }
}

/// What tells one sealing run of an object from another; not secret, kept in the manifest.
///
/// There is deliberately no way to make one but to read one back or to make a [`Sealer`](crate::Sealer).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct RunSalt([u8; 16]);

impl RunSalt {
    /// A fresh one.
    pub(crate) fn draw() -> Self {
        Self(random())
    }

    /// Its bytes.
    pub const fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }
}

impl fmt::Debug for RunSalt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RunSalt({:032x})", u128::from_be_bytes(self.0))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;

    const OBJECT: ObjectId = ObjectId::from_bytes([3; 16]);

    #[test]
    fn a_wrapped_key_opens_for_its_owner_and_object_only() {
        let key = ObjectKey::generate();
        let wrapped = key.wrap(&[1; 32], OBJECT);
        assert_eq!(wrapped.unwrap(&[1; 32], OBJECT).unwrap().0, key.0);
        assert_eq!(wrapped.unwrap(&[2; 32], OBJECT).unwrap_err(), WrongKey { object: OBJECT });
        let other = ObjectId::from_bytes([4; 16]);
        assert_eq!(wrapped.unwrap(&[1; 32], other).unwrap_err(), WrongKey { object: other });
        assert_ne!(wrapped, key.wrap(&[1; 32], OBJECT), "the nonce is fresh");
        assert_ne!(key.0, ObjectKey::generate().0);
    }

    #[test]
    fn every_flipped_bit_of_a_wrapped_key_is_noticed() {
        let bytes = postcard::to_stdvec(&ObjectKey::generate().wrap(&[1; 32], OBJECT)).unwrap();
        assert_eq!(bytes.len(), 60);
        for bit in 0..bytes.len() * 8 {
            let mut altered = bytes.clone();
            altered[bit / 8] ^= 1 << (bit % 8);
            let wrapped: WrappedKey = postcard::from_bytes(&altered).unwrap();
            assert!(wrapped.unwrap(&[1; 32], OBJECT).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn secrets_are_not_printed() {
        assert_eq!(format!("{:?}", ObjectKey([0xab; 32])), "ObjectKey(secret)");
    }
}
