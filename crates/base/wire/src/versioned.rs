//! Values with a version in front: `[u16 little-endian version][postcard body]`.
//!
//! Versions count from 1; 0 is never written, so zeroed storage is not taken for a value. Bytes after the body are refused: they
//! would be a place to hide things from a signature or to smuggle fields past an old reader. A type that changes gets the next
//! version and says in [`Versioned::from_older`] how the old ones become it; a fixture of each stays in its tests.

use serde::Serialize;
use serde::de::DeserializeOwned;

/// Bytes of the version in front of a body.
pub const VERSION_BYTES: usize = 2;

/// A type that is stored or sent.
///
/// Its serde implementation must be one that postcard can encode: sequences with a known length, nothing that needs
/// `deserialize_any` (so no `#[serde(flatten)]`, no untagged enums).
pub trait Versioned: Serialize + DeserializeOwned {
    /// The version that [`encode`] writes, from 1 upwards.
    const VERSION: u16;
    /// What the type is called in errors, with its article's worth of context: `"object manifest"`.
    const NAME: &'static str;

    /// Reads the body of an older version and makes it one of today. Called for versions below [`Self::VERSION`].
    ///
    /// # Errors
    /// By default [`DecodeError::Version`]: there is no older version, or it is no longer understood.
    fn from_older(version: u16, body: &[u8]) -> Result<Self, DecodeError> {
        let _ = body;
        Err(DecodeError::Version { name: Self::NAME, found: version, known: Self::VERSION })
    }
}

/// Why bytes are not a value of the expected type. None of these gets better by trying again with the same bytes.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// A version this program does not read: usually a newer one.
    #[error("this {name} has version {found} and this program reads up to version {known}{}", advice(*found, *known))]
    Version {
        /// [`Versioned::NAME`].
        name: &'static str,
        /// The version found.
        found: u16,
        /// The newest version this program knows.
        known: u16,
    },
    /// Damaged, cut short, or something else altogether.
    #[error("this is no well-formed {name}: {reason}")]
    Malformed {
        /// [`Versioned::NAME`].
        name: &'static str,
        /// What the decoder stumbled over.
        reason: String,
    },
    /// A well-formed value with more bytes behind it.
    #[error("this {name} is followed by {bytes} bytes that do not belong to it")]
    Trailing {
        /// [`Versioned::NAME`].
        name: &'static str,
        /// How many bytes too many.
        bytes: usize,
    },
}

fn advice(found: u16, known: u16) -> &'static str {
    if found > known { ": update atoll to read it" } else { ", but not this one" }
}

/// The versioned encoding of a value.
///
/// # Panics
/// If the type breaks the rules of [`Versioned`] about what postcard can encode. That is independent of the value for derived
/// implementations, so the first test finds it.
pub fn encode<T: Versioned>(value: &T) -> Vec<u8> {
    const { assert!(T::VERSION > 0, "versions count from 1") };
    postcard::to_extend(value, T::VERSION.to_le_bytes().to_vec())
        .unwrap_or_else(|error| panic!("the type of {} cannot be encoded: {error}", T::NAME))
}

/// Reads what [`encode`] wrote, now or by an older version.
///
/// # Errors
/// [`DecodeError`]; the input is foreign and nothing about it is assumed.
pub fn decode<T: Versioned>(bytes: &[u8]) -> Result<T, DecodeError> {
    let Some((version, body)) = bytes.split_first_chunk::<VERSION_BYTES>() else {
        let reason = format!("{} bytes cannot hold even its version", bytes.len());
        return Err(DecodeError::Malformed { name: T::NAME, reason });
    };
    match u16::from_le_bytes(*version) {
        version if version == T::VERSION => decode_body(T::NAME, body),
        version @ 1.. if version < T::VERSION => T::from_older(version, body),
        found => Err(DecodeError::Version { name: T::NAME, found, known: T::VERSION }),
    }
}

/// Reads a body without its version, for [`Versioned::from_older`]: `T` is the type as it was then.
///
/// # Errors
/// [`DecodeError::Malformed`] and [`DecodeError::Trailing`], under the given name.
pub fn decode_body<T: DeserializeOwned>(name: &'static str, body: &[u8]) -> Result<T, DecodeError> {
    match postcard::take_from_bytes(body) {
        Ok((value, [])) => Ok(value),
        Ok((_, rest)) => Err(DecodeError::Trailing { name, bytes: rest.len() }),
        Err(error) => Err(DecodeError::Malformed { name, reason: error.to_string() }),
    }
}

/// The version some encoded bytes carry, or `None` if they are too short to have one.
pub fn version_of(bytes: &[u8]) -> Option<u16> {
    bytes.first_chunk().copied().map(u16::from_le_bytes)
}

#[cfg(test)]
mod tests;
