//! Encryption of metadata values before they leave the process for the key-value store.
//!
//! A value is `[1][96-bit nonce][ciphertext][128-bit tag]`: AES-256-GCM-SIV (RFC 8452) under a key that BLAKE3 derives from the owner's seed for this
//! purpose alone, with a random nonce, and the value's key in the store as associated data. So a value cannot be read without the
//! owner's key, changed, or moved to another key (one object's record under another's name). GCM-SIV because a repeated nonce, which random
//! 96-bit nonces do not rule out over a lifetime of writes, then only shows that two equal values are equal.
//!
//! What stays readable in the store: the *keys*, so bucket and object names and ids, and the sizes of values. Listing by prefix needs names in
//! order. Whoever can read the store's files learns what objects are called and when they change, not what is in them nor where it lies.
//!
//! It does not protect against an old value put back in the place of a newer one under the same key; the store's integrity is the disk's.

use atoll_keys::OwnerKey;
use aws_lc_rs::aead::{AES_256_GCM_SIV, Aad, NONCE_LEN, Nonce, RandomizedNonceKey};

/// Purpose of the derived key; part of the stored format.
const CONTEXT: &str = "atoll 2026-11 zstor metadata v1";
/// First byte of every value.
const FORMAT: u8 = 1;

/// Seals and opens values for one owner.
pub(crate) struct Vault {
    key: RandomizedNonceKey,
}

/// The value does not open under this owner's key at this place, or it was changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Unreadable;

impl Vault {
    pub(crate) fn new(owner: &OwnerKey) -> Self {
        Self::with_key(&owner.derive_secret(CONTEXT))
    }

    /// A vault under a key that was derived for it alone.
    pub(crate) fn with_key(key: &[u8; 32]) -> Self {
        let key = RandomizedNonceKey::new(&AES_256_GCM_SIV, key).expect("32 bytes are a key of AES-256");
        Self { key }
    }

    /// The sealed form of `plain` for the place `at`.
    pub(crate) fn seal(&self, at: &[u8], mut plain: Vec<u8>) -> Vec<u8> {
        let sealed = self.key.seal_in_place_append_tag(Aad::from(at), &mut plain);
        let nonce = sealed.expect("AES-GCM-SIV seals anything below 2^36 bytes");
        let mut value = Vec::with_capacity(1 + NONCE_LEN + plain.len());
        value.push(FORMAT);
        value.extend_from_slice(nonce.as_ref());
        value.extend_from_slice(&plain);
        value
    }

    /// What was sealed for the place `at`.
    pub(crate) fn open(&self, at: &[u8], value: &[u8]) -> Result<Vec<u8>, Unreadable> {
        let (&FORMAT, rest) = value.split_first().ok_or(Unreadable)? else { return Err(Unreadable) };
        let (nonce, sealed) = rest.split_first_chunk::<NONCE_LEN>().ok_or(Unreadable)?;
        let mut plain = sealed.to_vec();
        let nonce = Nonce::assume_unique_for_key(*nonce);
        let len = self.key.open_in_place(nonce, Aad::from(at), &mut plain).map_err(|_| Unreadable)?.len();
        plain.truncate(len);
        Ok(plain)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;

    #[test]
    fn opens_only_for_its_owner_at_its_place_unchanged() {
        let owner = OwnerKey::generate();
        let vault = Vault::new(&owner);
        let value = vault.seal(b"o/a", b"secret".to_vec());
        assert!(!value.windows(6).any(|window| window == b"secret"));
        assert_eq!(vault.open(b"o/a", &value).unwrap(), b"secret");
        assert_eq!(vault.open(b"o/b", &value), Err(Unreadable));
        assert_eq!(Vault::new(&OwnerKey::generate()).open(b"o/a", &value), Err(Unreadable));
        for at in 0..value.len() {
            let mut changed = value.clone();
            changed[at] ^= 1;
            assert_eq!(vault.open(b"o/a", &changed), Err(Unreadable), "byte {at}");
            assert_eq!(vault.open(b"o/a", &value[..at]), Err(Unreadable), "cut at {at}");
        }
    }
}
