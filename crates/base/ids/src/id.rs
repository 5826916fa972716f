//! Ids that are a fixed number of bytes.
//!
//! [`NodeId`] and [`OwnerId`] are Ed25519 public keys, but only as bytes: whether they are a point of the curve is found out
//! where a signature is verified or a handshake done (`atoll-keys`, rustls), and nothing is trusted before that. They are
//! separate types because mixing them up would be a security hole that compiles.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::text::Alphabet;

/// Characters of an id that [`NodeId::short`] and its like show: 50 bits in base32, enough to tell the nodes of a grid apart at
/// a glance, and never used to decide anything.
const SHORT_CHARS: usize = 10;

/// Why a text is not an id.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParseIdError {
    /// The text is too short or too long.
    #[error("{what} has {expected} characters, this text has {found}: was it copied whole?")]
    Length {
        /// Which kind of id was expected.
        what: &'static str,
        /// Characters an id of this kind has.
        expected: usize,
        /// Characters the text has.
        found: usize,
    },
    /// A character that the alphabet of the id does not have.
    #[error("{what} is written in {alphabet}; the character {found:?} at position {position} is not")]
    Character {
        /// Which kind of id was expected.
        what: &'static str,
        /// The alphabet, in words.
        alphabet: &'static str,
        /// The character that does not belong.
        found: char,
        /// Its position, counted from 1.
        position: usize,
    },
    /// The last character carries bits that no id has, so a character was changed.
    #[error("this is not {what}: its last character cannot occur there; was it copied whole?")]
    Trailing {
        /// Which kind of id was expected.
        what: &'static str,
    },
}

fn parse<const N: usize>(text: &str, alphabet: Alphabet, what: &'static str) -> Result<[u8; N], ParseIdError> {
    let words = match alphabet {
        Alphabet::Base32 => "base32 (a to z, 2 to 7)",
        Alphabet::Hex => "hexadecimal (0 to 9, a to f)",
    };
    let belongs = |c: char| match alphabet {
        Alphabet::Base32 => c.is_ascii_alphabetic() || ('2'..='7').contains(&c),
        Alphabet::Hex => c.is_ascii_hexdigit(),
    };
    let expected = alphabet.chars(N);
    let found = text.chars().count();
    if found != expected {
        return Err(ParseIdError::Length { what, expected, found });
    }
    if let Some((at, c)) = text.chars().enumerate().find(|&(_, c)| !belongs(c)) {
        return Err(ParseIdError::Character { what, alphabet: words, found: c, position: at + 1 });
    }
    alphabet.decode(text).map_err(|_| ParseIdError::Trailing { what })
}

/// The first characters of an id, for people: `{}` of [`NodeId::short`] and its like.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Short([u8; SHORT_CHARS]);

impl Short {
    fn new(text: &str) -> Self {
        let mut chars = [b'?'; SHORT_CHARS];
        for (to, from) in chars.iter_mut().zip(text.bytes()) {
            *to = from;
        }
        Self(chars)
    }
}

impl fmt::Display for Short {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(std::str::from_utf8(&self.0).unwrap_or_default())
    }
}

impl fmt::Debug for Short {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

macro_rules! byte_id {
    ($(#[$doc:meta])* $name:ident, $bytes:literal, $alphabet:expr, $what:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name([u8; $bytes]);

        impl $name {
            /// Bytes of the binary form.
            pub const BYTES: usize = $bytes;

            /// The id that these bytes are. Any bytes will do.
            pub const fn from_bytes(bytes: [u8; $bytes]) -> Self {
                Self(bytes)
            }

            /// The id that these bytes are, or `None` if they are too few or too many.
            pub fn from_slice(bytes: &[u8]) -> Option<Self> {
                bytes.try_into().ok().map(Self)
            }

            /// The bytes of the id.
            pub const fn as_bytes(&self) -> &[u8; $bytes] {
                &self.0
            }

            /// The first characters of the text form, to show to people.
            pub fn short(&self) -> Short {
                Short::new(&$alphabet.encode(&self.0))
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&$alphabet.encode(&self.0))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self)
            }
        }

        impl FromStr for $name {
            type Err = ParseIdError;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                parse(text, $alphabet, $what).map(Self)
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                if serializer.is_human_readable() { serializer.collect_str(self) } else { self.0.serialize(serializer) }
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                if deserializer.is_human_readable() {
                    let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
                    text.parse().map_err(serde::de::Error::custom)
                } else {
                    <[u8; $bytes]>::deserialize(deserializer).map(Self)
                }
            }
        }
    };
}

byte_id!(
    /// A machine that runs `atoll`: its Ed25519 public key. Text: 52 characters of lower-case base32.
    NodeId, 32, Alphabet::Base32, "a node id"
);

byte_id!(
    /// A person or organisation: their Ed25519 public key. Text: 52 characters of lower-case base32.
    OwnerId, 32, Alphabet::Base32, "an owner id"
);

byte_id!(
    /// A shard: what one storage node keeps of one stripe. Meaningless to the node that keeps it. Text: 32 hexadecimal digits.
    ShardId, 16, Alphabet::Hex, "a shard id"
);

byte_id!(
    /// One version of an object: a new one is drawn each time an object is written. Text: 32 hexadecimal digits.
    ObjectId, 16, Alphabet::Hex, "an object id"
);

byte_id!(
    /// A slice of a node promised to an owner. Drawn at random by the tenant; a renewal keeps it. Text: 32 hexadecimal digits.
    LeaseId, 16, Alphabet::Hex, "a lease id"
);

byte_id!(
    /// An owner's virtual data centre: a hash of the owner and its name. Text: 32 hexadecimal digits.
    EvdcId, 16, Alphabet::Hex, "an eVDC id"
);

byte_id!(
    /// A message between nodes: drawn at random when it is sent. Text: 32 hexadecimal digits.
    MessageId, 16, Alphabet::Hex, "a message id"
);

#[cfg(test)]
mod tests;
