//! Names of what a runtime keeps. They name directories and cgroups, so their characters are few.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Longest name: shorter than a file name may be, with room for suffixes.
const BYTES_MAX: usize = 128;

/// Why a text names nothing here.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is no name for {1}; it has 1 to 128 letters, digits, underscores, dots and hyphens, beginning with a letter or digit"
)]
pub struct NameError(String, &'static str);

fn check(text: &str, what: &'static str) -> Result<String, NameError> {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte);
    let first = text.bytes().next().is_some_and(|byte| byte.is_ascii_alphanumeric());
    if first && text.len() <= BYTES_MAX && text.bytes().all(allowed) {
        return Ok(text.to_owned());
    }
    Err(NameError(text.chars().take(BYTES_MAX).collect(), what))
}

macro_rules! name {
    ($(#[$doc:meta])* $name:ident, $what:literal) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(String);

        impl $name {
            /// The name.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }

        impl FromStr for $name {
            type Err = NameError;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                check(text, $what).map(Self)
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(&self.0)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}

name!(
    /// A container. Chosen by the caller, never used again for another one while it exists.
    ContainerId,
    "a container"
);
name!(
    /// A sandbox: what the containers of a pod share.
    SandboxId,
    "a sandbox"
);
name!(
    /// A group of sandboxes under common limits: a lease.
    GroupName,
    "a group"
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_harmless_path_components() {
        for right in ["a", "pod-1.web_2", "0"] {
            assert!(right.parse::<ContainerId>().is_ok(), "{right}");
        }
        for wrong in ["", ".", "..", ".a", "-a", "a/b", "a b", "ä", &"a".repeat(129)] {
            assert!(wrong.parse::<SandboxId>().is_err(), "{wrong}");
        }
    }
}
