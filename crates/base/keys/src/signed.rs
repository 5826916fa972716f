//! Statements: values that a key has signed, so that it does not matter who hands them over.
//!
//! # What is signed
//! ```text
//! "atoll statement\0" ‖ u32 length of DOMAIN ‖ DOMAIN ‖ u16 version ‖ u32 length of body ‖ body       (integers little-endian)
//! ```
//! Every part has a fixed or a stated length, so different (domain, version, body) never give the same message, and a signature
//! over one kind of statement is never valid as another. The bytes are kept as they were signed and decoded only after the signature was
//! checked: no re-encoding has to give the same bytes, and unverified input does not reach the decoder of a statement.
//!
//! # Signatures
//! A statement names its signer's Ed25519 key and carries a list of signatures, each with the number of its algorithm. A number this
//! program does not know is ignored, so a second, post-quantum signature can be added later without breaking old readers. Every
//! signature of a known algorithm must be valid, and there must be one. The list is not itself signed: whoever passes a
//! statement on can add to it or take from it. So never identify a statement by its encoded bytes; and when a second
//! algorithm comes, which one is required follows from the signer, not from what is in the list.
//!
//! Ed25519 is verified strictly (no small-order keys, no malleable encodings), so all verifiers agree.

use std::fmt;
use std::marker::PhantomData;

use atoll_ids::OwnerId;
use atoll_wire::{DecodeError, VERSION_BYTES, Versioned, decode, encode};
use ed25519_dalek::{Signature as Ed25519Signature, VerifyingKey};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::key::Signer;

/// Starts every signed message; differs from what TLS 1.3 signs with the same key (which starts with 64 spaces).
const TAG: &[u8] = b"atoll statement\0";

/// The number of Ed25519 in a list of signatures.
pub const ED25519: u8 = 1;

/// Most bytes of an encoded statement with its version. Statements are grants and records of a few hundred bytes; this bounds what a
/// stranger can make a node hash.
pub const STATEMENT_BYTES_MAX: usize = 64 * 1024;

/// Most signatures on a statement: today's, its successor, and room for a change between them.
const SIGNATURES_MAX: usize = 4;

/// Most bytes of a signature: ML-DSA-87 with its public key has 7219.
const SIGNATURE_BYTES_MAX: usize = 8 * 1024;

/// A type whose values are signed.
pub trait Statement: Versioned {
    /// What a signature of this type means, in a few words that no other type uses: `"atoll/storage-grant"`.
    const DOMAIN: &'static str;
}

/// A statement with its signer and signatures; what it says is seen only through [`Signed::verify`].
///
/// Stored or sent on its own it is [`Versioned`]; inside another versioned type, serde suffices.
pub struct Signed<T> {
    inner: Inner,
    statement: PhantomData<fn() -> T>,
}

/// Version 1 of the encoding.
#[derive(Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
struct Inner {
    /// `encode(T)`, as it was signed.
    statement: Vec<u8>,
    signer: [u8; 32],
    signatures: Vec<Signature>,
}

#[derive(Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
struct Signature {
    algorithm: u8,
    bytes: Vec<u8>,
}

/// Why a statement is not believed. None of these gets better by trying again with the same bytes.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum VerifyError {
    /// Signed by somebody else than the one who has to.
    #[error("this {what} is signed by {} and not by {}", text(found), text(expected))]
    WrongSigner {
        /// What the statement is.
        what: &'static str,
        /// Whose signature was needed.
        expected: [u8; 32],
        /// Who signed, as the statement claims.
        found: [u8; 32],
    },
    /// The signature is not one of these bytes by this key: forged or damaged.
    #[error("the signature of this {what} is not valid")]
    Invalid {
        /// What the statement is.
        what: &'static str,
    },
    /// No signature that this program knows how to check.
    #[error("this {what} has no signature that this program can check: update atoll")]
    NoKnownSignature {
        /// What the statement is.
        what: &'static str,
    },
    /// Properly signed, but not readable.
    #[error(transparent)]
    Decode(#[from] DecodeError),
}

/// A key as node and owner ids are written, whichever it is.
fn text(key: &[u8; 32]) -> String {
    OwnerId::from_bytes(*key).to_string()
}

/// The message that is signed, or `None` for a statement too short to have a version or too long to be one.
fn message<T: Statement>(statement: &[u8]) -> Option<Vec<u8>> {
    let (version, body) = statement.split_first_chunk::<VERSION_BYTES>()?;
    let domain_length = u32::try_from(T::DOMAIN.len()).ok()?.to_le_bytes();
    let body_length = u32::try_from(body.len()).ok()?.to_le_bytes();
    Some([TAG, &domain_length, T::DOMAIN.as_bytes(), version, &body_length, body].concat())
}

impl<T: Statement> Signed<T> {
    /// Signs a statement.
    ///
    /// # Panics
    /// If the value takes more than [`STATEMENT_BYTES_MAX`] bytes: nobody would accept it, so it is a mistake in the type.
    pub fn sign(value: &T, signer: &impl Signer) -> Self {
        let statement = encode(value);
        assert!(
            statement.len() <= STATEMENT_BYTES_MAX,
            "a {} of {} bytes is too long to sign",
            T::NAME,
            statement.len()
        );
        let message = message::<T>(&statement).expect("its length was checked, and encode writes a version");
        let signature = Signature { algorithm: ED25519, bytes: signer.sign(&message).to_vec() };
        let inner = Inner { statement, signer: signer.public(), signatures: vec![signature] };
        Self { inner, statement: PhantomData }
    }

    /// Who signed, as the statement claims: good for finding out whether it matters, not for trusting it.
    pub fn claimed_signer(&self) -> &[u8; 32] {
        &self.inner.signer
    }

    /// What the statement says and the key that signed it.
    ///
    /// # Errors
    /// [`VerifyError`], never [`VerifyError::WrongSigner`].
    pub fn verify(&self) -> Result<(T, [u8; 32]), VerifyError> {
        self.check_signatures()?;
        Ok((decode(&self.inner.statement)?, self.inner.signer))
    }

    /// What the statement says, if this key signed it.
    ///
    /// # Errors
    /// [`VerifyError`].
    pub fn verify_by(&self, expected: &[u8; 32]) -> Result<T, VerifyError> {
        let found = self.inner.signer;
        if found != *expected {
            return Err(VerifyError::WrongSigner { what: T::NAME, expected: *expected, found });
        }
        self.verify().map(|(value, _)| value)
    }

    fn check_signatures(&self) -> Result<(), VerifyError> {
        let invalid = VerifyError::Invalid { what: T::NAME };
        let Some(message) = message::<T>(&self.inner.statement) else { return Err(invalid) };
        let mut known = self.inner.signatures.iter().filter(|each| each.algorithm == ED25519).peekable();
        if known.peek().is_none() {
            return Err(VerifyError::NoKnownSignature { what: T::NAME });
        }
        let Ok(key) = VerifyingKey::from_bytes(&self.inner.signer) else { return Err(invalid) };
        let valid = known.all(|each| {
            Ed25519Signature::from_slice(&each.bytes)
                .is_ok_and(|signature| key.verify_strict(&message, &signature).is_ok())
        });
        if valid { Ok(()) } else { Err(invalid) }
    }
}

impl<T> Clone for Signed<T> {
    fn clone(&self) -> Self {
        Self { inner: self.inner.clone(), statement: PhantomData }
    }
}

impl<T> PartialEq for Signed<T> {
    /// Same bytes and same signatures; see the top of this file for why that is not the same as the same statement.
    fn eq(&self, other: &Self) -> bool {
        self.inner == other.inner
    }
}

impl<T> Eq for Signed<T> {}

impl<T> fmt::Debug for Signed<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Inner { statement, signer, signatures } = &self.inner;
        let algorithms: Vec<u8> = signatures.iter().map(|each| each.algorithm).collect();
        f.debug_struct("Signed")
            .field("bytes", &statement.len())
            .field("claimed_signer", &text(signer))
            .field("algorithms", &algorithms)
            .finish()
    }
}

impl<T> Serialize for Signed<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.inner.serialize(serializer)
    }
}

impl<'de, T> Deserialize<'de> for Signed<T> {
    /// Checks the limits only; signatures are checked by [`Signed::verify`].
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let inner = Inner::deserialize(deserializer)?;
        let within = inner.statement.len() <= STATEMENT_BYTES_MAX
            && inner.signatures.len() <= SIGNATURES_MAX
            && inner.signatures.iter().all(|each| each.bytes.len() <= SIGNATURE_BYTES_MAX);
        if within {
            Ok(Self { inner, statement: PhantomData })
        } else {
            Err(serde::de::Error::custom("a signed statement larger than any that is accepted"))
        }
    }
}

impl<T: Statement> Versioned for Signed<T> {
    const VERSION: u16 = 1;
    const NAME: &'static str = T::NAME;
}

#[cfg(test)]
mod tests;
