//! The two kinds of key. They are separate types, with separate ids and files, so that a node's key is never used to speak for an
//! owner by mistake.

use std::fmt;
use std::path::Path;

use atoll_ids::{NodeId, OwnerId};
use ed25519_dalek::SigningKey;
use zeroize::Zeroizing;

use crate::file::{self, KeyFileError, KeyKind};
use crate::phrase::{Phrase, PhraseError};

/// Something that signs with Ed25519.
///
/// Sign statements through [`crate::Signed::sign`]: bytes that someone else chose, signed as they are, could be a
/// statement.
pub trait Signer {
    /// The public key.
    fn public(&self) -> [u8; 32];

    /// The Ed25519 signature of exactly these bytes.
    fn sign(&self, message: &[u8]) -> [u8; 64];
}

/// Boxed, so that moving a key does not leave copies behind; `SigningKey` overwrites itself when dropped.
struct Secret(Box<SigningKey>);

impl Secret {
    fn from_seed(seed: &[u8; 32]) -> Self {
        Self(Box::new(SigningKey::from_bytes(seed)))
    }

    fn generate() -> Self {
        let mut seed = Zeroizing::new([0; 32]);
        getrandom::fill(seed.as_mut()).expect("the operating system always has randomness");
        Self::from_seed(&seed)
    }
}

macro_rules! key {
    ($(#[$doc:meta])* $name:ident, $id:ident, $kind:expr) => {
        $(#[$doc])*
        pub struct $name(Secret);

        impl $name {
            /// A new key from the operating system's randomness, in memory only.
            ///
            /// # Panics
            /// If the operating system has no source of randomness; nothing could be done safely then.
            pub fn generate() -> Self {
                Self(Secret::generate())
            }

            /// The key with this seed.
            pub fn from_secret_bytes(seed: &[u8; 32]) -> Self {
                Self(Secret::from_seed(seed))
            }

            /// Reads the key from its file.
            ///
            /// # Errors
            /// [`KeyFileError`]: missing, damaged, of another kind, or readable by others.
            pub fn load(path: &Path) -> Result<Self, KeyFileError> {
                file::load(path, $kind).map(|seed| Self::from_secret_bytes(&seed))
            }

            /// Makes a new key and its file.
            ///
            /// # Errors
            /// [`KeyFileError::Exists`] if there is one already: a key is never overwritten. [`KeyFileError::Io`].
            pub fn create(path: &Path) -> Result<Self, KeyFileError> {
                let key = Self::generate();
                key.save(path)?;
                Ok(key)
            }

            /// Reads the key from its file, or makes both. Of several processes doing so at once, all get the same key.
            ///
            /// # Errors
            /// As [`Self::load`]; a file that is there but cannot be used is never replaced.
            pub fn load_or_create(path: &Path) -> Result<Self, KeyFileError> {
                match Self::load(path) {
                    Err(KeyFileError::NotFound { .. }) => {}
                    other => return other,
                }
                match Self::create(path) {
                    Err(KeyFileError::Exists { .. }) => Self::load(path),
                    other => other,
                }
            }

            /// Writes the key to a new file with mode 0600. It is complete and on the disk when this returns, or not there.
            ///
            /// # Errors
            /// [`KeyFileError::Exists`] if there is a file already; [`KeyFileError::Io`].
            pub fn save(&self, path: &Path) -> Result<(), KeyFileError> {
                file::save(path, $kind, self.0.0.as_bytes())
            }

            /// The public id.
            pub fn id(&self) -> $id {
                $id::from_bytes(self.public())
            }

            /// The seed, for libraries that need the key itself (rustls, iroh).
            pub fn secret_bytes(&self) -> Zeroizing<[u8; 32]> {
                Zeroizing::new(*self.0.0.as_bytes())
            }
        }

        impl Signer for $name {
            fn public(&self) -> [u8; 32] {
                self.0.0.verifying_key().to_bytes()
            }

            fn sign(&self, message: &[u8]) -> [u8; 64] {
                ed25519_dalek::Signer::sign(self.0.0.as_ref(), message).to_bytes()
            }
        }

        impl fmt::Debug for $name {
            /// Shows the public id only.
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self.id())
            }
        }
    };
}

key!(
    /// The key of a node. Whoever has it is the node.
    NodeKey, NodeId, KeyKind::Node
);

key!(
    /// The key of an owner. Whoever has it can read everything the owner stored and act in their name.
    OwnerKey, OwnerId, KeyKind::Owner
);

impl OwnerKey {
    /// The 24 words to write down. They are the key: nothing else is needed to have everything back.
    pub fn phrase(&self) -> Phrase {
        Phrase::of_seed(self.0.0.as_bytes())
    }

    /// The key of which somebody wrote down the words.
    ///
    /// # Errors
    /// [`PhraseError`] says which word is wrong, if one is.
    pub fn from_phrase(text: &str) -> Result<Self, PhraseError> {
        Phrase::parse(text).map(|phrase| Self::from_secret_bytes(&phrase.seed()))
    }

    /// A secret of this owner for one purpose, such as the key that encrypts the keys of objects. `context` names the purpose
    /// once and for ever, for example `"atoll 2026-11 zstor key encryption v1"`.
    ///
    /// It is BLAKE3's `derive_key` of the seed: secrets of different contexts are independent, and none reveals the seed.
    pub fn derive_secret(&self, context: &'static str) -> Zeroizing<[u8; 32]> {
        Zeroizing::new(blake3::derive_key(context, self.0.0.as_bytes()))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;

    /// RFC 8032, 7.1, test 1: the public key and the signature of the empty message.
    #[test]
    fn keys_are_ed25519() {
        let seed = hex("9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60");
        let key = NodeKey::from_secret_bytes(&seed);
        assert_eq!(key.public(), hex("d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a"));
        assert_eq!(
            key.sign(b""),
            hex::<64>(concat!(
                "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e06522490155",
                "5fb8821590a33bacc61e39701cf9b46bd25bf5f0595bbe24655141438e7a100b"
            ))
        );
        assert_eq!(*key.secret_bytes(), seed);
    }

    fn hex<const N: usize>(text: &str) -> [u8; N] {
        data_encoding::HEXLOWER.decode(text.as_bytes()).unwrap().try_into().unwrap()
    }

    #[test]
    fn debug_shows_the_id_and_not_the_seed() {
        let key = OwnerKey::from_secret_bytes(&[7; 32]);
        assert_eq!(format!("{key:?}"), format!("OwnerKey({})", key.id()));
    }

    #[test]
    fn generated_keys_differ() {
        assert_ne!(NodeKey::generate().id(), NodeKey::generate().id());
    }

    #[test]
    fn derived_secrets_are_stable_and_independent() {
        let key = OwnerKey::from_secret_bytes(&[7; 32]);
        let secret = key.derive_secret("atoll 2026-11 test a");
        assert_eq!(*secret, blake3::derive_key("atoll 2026-11 test a", &[7; 32]));
        assert_ne!(secret, key.derive_secret("atoll 2026-11 test b"));
        assert_ne!(*secret, [7; 32]);
    }
}
