//! [`Policy`]: into how many shards a stripe is cut and how many may be lost. A value is always within the allowed range.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use thiserror::Error;

/// Data shards, at most. More would make shards of a stripe smaller than 16 KiB, where fixed costs per shard dominate.
const DATA_MAX: u8 = 64;
/// Parity shards, at most: half of the largest k. Together 96 shards, well within the 256 of GF(2⁸).
const PARITY_MAX: u8 = 32;

/// Shards at least this long are rounded up to a multiple of [`SHARD_ALIGN`], which wastes under 1.6 %. Smaller ones are not rounded:
/// an object of a few bytes should not grow by a cache line per shard.
const SHARD_ALIGN_FROM: usize = 4096;
/// One cache line, and one vector register of the widest kernel: every shard in a stripe's buffer starts on its own.
const SHARD_ALIGN: usize = 64;

/// `data`+`parity`, for example 4+2: four shards are enough to read, any two may be lost.
///
/// Text form `4+2`, also in human-readable formats of serde; two bytes elsewhere.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Policy {
    data: u8,
    parity: u8,
}

/// Why this is not a policy. Fix the input.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum PolicyError {
    /// Numbers out of range.
    #[error(
        "the policy {data}+{parity} is out of range: data shards are 1 to {DATA_MAX}, parity shards 1 to {PARITY_MAX}"
    )]
    Range {
        /// Data shards asked for.
        data: u64,
        /// Parity shards asked for.
        parity: u64,
    },
    /// Not of the form `4+2`.
    #[error(
        "\"{text}\" is not a policy: write data+parity shards, such as 4+2 (1 to {DATA_MAX} data, 1 to {PARITY_MAX} parity)"
    )]
    Form {
        /// The text.
        text: String,
    },
}

impl Policy {
    /// A policy of `data` shards that are needed to read and `parity` further ones.
    ///
    /// # Errors
    /// [`PolicyError::Range`] unless data is 1 to 64 and parity 1 to 32.
    pub const fn new(data: u8, parity: u8) -> Result<Self, PolicyError> {
        if data < 1 || data > DATA_MAX || parity < 1 || parity > PARITY_MAX {
            return Err(PolicyError::Range { data: data as u64, parity: parity as u64 });
        }
        Ok(Self { data, parity })
    }

    /// Shards that are needed to read (k).
    pub const fn data(self) -> usize {
        self.data as usize
    }

    /// Shards that may be lost (m).
    pub const fn parity(self) -> usize {
        self.parity as usize
    }

    /// All shards of a stripe (k+m).
    pub const fn shards(self) -> usize {
        self.data() + self.parity()
    }

    /// The two numbers as they enter the associated data.
    pub(crate) const fn to_bytes(self) -> [u8; 2] {
        [self.data, self.parity]
    }

    /// Bytes of each shard of a stripe with `sealed_len` bytes of ciphertext.
    pub(crate) const fn shard_len(self, sealed_len: usize) -> usize {
        let exact = sealed_len.div_ceil(self.data());
        if exact < SHARD_ALIGN_FROM { exact } else { exact.next_multiple_of(SHARD_ALIGN) }
    }
}

impl fmt::Display for Policy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&format!("{}+{}", self.data, self.parity))
    }
}

impl fmt::Debug for Policy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Policy({self})")
    }
}

impl FromStr for Policy {
    type Err = PolicyError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let number = |part: &str| part.bytes().all(|b| b.is_ascii_digit()).then(|| part.parse::<u64>().ok()).flatten();
        let parts = text.trim().split_once('+').and_then(|(data, parity)| Some((number(data)?, number(parity)?)));
        let Some((data, parity)) = parts else { return Err(PolicyError::Form { text: text.to_owned() }) };
        match (u8::try_from(data), u8::try_from(parity)) {
            (Ok(data), Ok(parity)) => Self::new(data, parity),
            _ => Err(PolicyError::Range { data, parity }),
        }
    }
}

impl Serialize for Policy {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if serializer.is_human_readable() {
            serializer.collect_str(self)
        } else {
            self.to_bytes().serialize(serializer)
        }
    }
}

impl<'de> Deserialize<'de> for Policy {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        if deserializer.is_human_readable() {
            String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
        } else {
            let [data, parity] = Deserialize::deserialize(deserializer)?;
            Self::new(data, parity).map_err(de::Error::custom)
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;

    fn check(text: &str, expect: Result<(usize, usize), &str>) {
        let found = text.parse::<Policy>().map(|p| (p.data(), p.parity())).map_err(|e| e.to_string());
        match (found, expect) {
            (Ok(found), Ok(expect)) => assert_eq!(found, expect, "{text}"),
            (Err(found), Err(expect)) => assert!(found.contains(expect), "{text}: {found}"),
            (found, _) => panic!("{text}: {found:?}"),
        }
    }

    #[test]
    fn text_is_read_and_refused_with_the_range() {
        check("4+2", Ok((4, 2)));
        check(" 16+4\n", Ok((16, 4)));
        check("1+1", Ok((1, 1)));
        check("64+32", Ok((64, 32)));
        for text in ["0+2", "4+0", "65+2", "4+33", "256+1", "4+99999999999"] {
            check(text, Err("1 to 64"));
            check(text, Err("1 to 32"));
        }
        for text in
            ["", "4", "+", "4+", "+2", "4-2", "4+2+1", "a+b", "4 + 2", "-4+2", "++2", "4++2", "99999999999999999999+1"]
        {
            check(text, Err("is not a policy"));
        }
    }

    #[test]
    fn both_serde_forms_check_the_range() {
        let policy = Policy::new(10, 4).unwrap();
        assert_eq!(serde_json::to_string(&policy).unwrap(), "\"10+4\"");
        assert_eq!(serde_json::from_str::<Policy>("\"10+4\"").unwrap(), policy);
        assert!(serde_json::from_str::<Policy>("\"0+4\"").is_err());
        assert_eq!(postcard::to_stdvec(&policy).unwrap(), [10, 4]);
        assert_eq!(postcard::from_bytes::<Policy>(&[10, 4]).unwrap(), policy);
        for bytes in [[0, 1], [1, 0], [65, 1], [1, 33], [255, 255]] {
            assert!(postcard::from_bytes::<Policy>(&bytes).is_err(), "{bytes:?}");
        }
    }

    #[test]
    fn shards_are_as_small_as_they_can_be_or_whole_cache_lines() {
        let policy = Policy::new(4, 2).unwrap();
        for (sealed, shard) in
            [(1, 1), (4, 1), (5, 2), (16_380, 4095), (16_384, 4096), (16_385, 4160), (1 << 20, 1 << 18)]
        {
            assert_eq!(policy.shard_len(sealed), shard, "{sealed}");
        }
        assert_eq!(Policy::new(10, 4).unwrap().shard_len(1 << 20), 104_896);
    }
}
