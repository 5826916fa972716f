//! The one way a value becomes text and is read back, for all the types here; and serde's choice between text and bytes.
//!
//! Base32 is RFC 4648 without padding, printed in lower case (52 characters for a key: it fits a DNS label) and read in either
//! case. Hexadecimal is printed in lower case and read in either case.

use data_encoding::{BASE32_NOPAD_NOCASE, DecodeError, DecodeKind, HEXLOWER_PERMISSIVE};

/// How the bytes of an id are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Alphabet {
    Base32,
    Hex,
}

impl Alphabet {
    pub(crate) fn encode(self, bytes: &[u8]) -> String {
        match self {
            Self::Base32 => BASE32_NOPAD_NOCASE.encode(bytes).to_ascii_lowercase(),
            Self::Hex => HEXLOWER_PERMISSIVE.encode(bytes),
        }
    }

    /// Characters that `bytes` bytes take.
    pub(crate) const fn chars(self, bytes: usize) -> usize {
        match self {
            Self::Base32 => (bytes * 8).div_ceil(5),
            Self::Hex => bytes * 2,
        }
    }

    /// Reads exactly `N` bytes; the caller has checked that the text has `chars(N)` characters, all ASCII.
    pub(crate) fn decode<const N: usize>(self, text: &str) -> Result<[u8; N], DecodeError> {
        let decoded = match self {
            Self::Base32 => BASE32_NOPAD_NOCASE.decode(text.as_bytes())?,
            Self::Hex => HEXLOWER_PERMISSIVE.decode(text.as_bytes())?,
        };
        decoded.try_into().map_err(|_| DecodeError { position: 0, kind: DecodeKind::Length })
    }
}

/// Implements `Serialize` and `Deserialize` by `Display` and `FromStr`, in every format.
macro_rules! serde_by_text {
    ($type:ty) => {
        impl serde::Serialize for $type {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> serde::Deserialize<'de> for $type {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = <std::borrow::Cow<'de, str> as serde::Deserialize>::deserialize(deserializer)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}

pub(crate) use serde_by_text;
