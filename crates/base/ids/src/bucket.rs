//! Names of buckets.
//!
//! The rules are S3's for new buckets, so that every bucket can be offered through an S3 view later and a name is always a valid
//! host name and a harmless path component.

use std::fmt;
use std::net::Ipv4Addr;
use std::str::FromStr;

use crate::text::serde_by_text;

/// Fewest characters of a name, as in S3.
const CHARS_MIN: usize = 3;
/// Most characters of a name: a DNS label has no more.
const CHARS_MAX: usize = 63;

/// A bucket: 3 to 63 lower-case letters, digits, dots and hyphens, starting and ending with a letter or digit, without two dots in a
/// row and not looking like an IPv4 address.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BucketName(String);

/// Why a text cannot be the name of a bucket.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BucketNameError {
    /// Too short or too long.
    #[error("a bucket name has 3 to 63 characters, this one has {found}")]
    Length {
        /// Characters that were given.
        found: usize,
    },
    /// A character that no name has.
    #[error("a bucket name has only lower-case letters, digits, dots and hyphens, not {found:?}")]
    Character {
        /// The first such character.
        found: char,
    },
    /// A dot or hyphen at the start or end.
    #[error("a bucket name starts and ends with a lower-case letter or a digit")]
    Edge,
    /// Two dots in a row.
    #[error("a bucket name has no two dots in a row")]
    EmptyLabel,
    /// Four numbers with dots between.
    #[error("a bucket name cannot look like an IP address")]
    LooksLikeAddress,
}

impl BucketName {
    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl AsRef<str> for BucketName {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for BucketName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl FromStr for BucketName {
    type Err = BucketNameError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let alphanumeric = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
        let found = text.chars().count();
        if !(CHARS_MIN..=CHARS_MAX).contains(&found) {
            return Err(BucketNameError::Length { found });
        }
        if let Some(found) = text.chars().find(|&c| !alphanumeric(c) && c != '.' && c != '-') {
            return Err(BucketNameError::Character { found });
        }
        if !text.starts_with(alphanumeric) || !text.ends_with(alphanumeric) {
            return Err(BucketNameError::Edge);
        }
        if text.contains("..") {
            return Err(BucketNameError::EmptyLabel);
        }
        if text.parse::<Ipv4Addr>().is_ok() {
            return Err(BucketNameError::LooksLikeAddress);
        }
        Ok(Self(text.to_owned()))
    }
}

impl TryFrom<String> for BucketName {
    type Error = BucketNameError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

serde_by_text!(BucketName);

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use proptest::prelude::{any, proptest};
    use proptest::prop_assert_eq;

    use super::*;

    #[test]
    fn rules() {
        #[track_caller]
        fn check(text: &str, expect: Result<(), BucketNameError>) {
            assert_eq!(text.parse::<BucketName>().map(|_| ()), expect, "{text}");
        }
        check("abc", Ok(()));
        check("0-0", Ok(()));
        check("photos.2026", Ok(()));
        check(&"a".repeat(63), Ok(()));
        check("ab", Err(BucketNameError::Length { found: 2 }));
        check(&"a".repeat(64), Err(BucketNameError::Length { found: 64 }));
        check("Photos", Err(BucketNameError::Character { found: 'P' }));
        check("a/b", Err(BucketNameError::Character { found: '/' }));
        check("café", Err(BucketNameError::Character { found: 'é' }));
        check("-ab", Err(BucketNameError::Edge));
        check("ab.", Err(BucketNameError::Edge));
        check("a..b", Err(BucketNameError::EmptyLabel));
        check("10.0.0.1", Err(BucketNameError::LooksLikeAddress));
    }

    #[test]
    fn serde_checks_the_rules() {
        let name: BucketName = serde_json::from_str("\"photos\"").unwrap();
        assert_eq!(serde_json::to_string(&name).unwrap(), "\"photos\"");
        assert!(serde_json::from_str::<BucketName>("\"../etc\"").is_err());
        let foreign = postcard::to_stdvec("../etc").unwrap();
        assert!(postcard::from_bytes::<BucketName>(&foreign).is_err());
        let own = postcard::to_stdvec(&name).unwrap();
        assert_eq!(postcard::from_bytes::<BucketName>(&own).unwrap(), name);
    }

    proptest! {
        #[test]
        fn what_is_accepted_prints_as_it_was(text in any::<String>(), close in "[a-z0-9.-]{0,70}") {
            for text in [text, close] {
                if let Ok(name) = text.parse::<BucketName>() {
                    prop_assert_eq!(name.as_str(), text);
                }
            }
        }
    }
}
