//! Amounts of data.
//!
//! People write and read powers of 1024: `100G` and `100 GiB` are the same, and `100GB` is the power of 1000 that disk vendors
//! mean (as GNU tools have it). `Display` rounds to one decimal for people; the serde text is exact, so no configuration or
//! API round trip changes a value.

use std::fmt;
use std::iter::Sum;
use std::str::FromStr;

use serde::de::{Error, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Names of the powers of 1024, starting with 1024⁰.
const UNITS: [&str; 7] = ["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];

/// Decimals read after the point: enough for a byte of an EiB (1024⁶ has 19 digits); more is a mistake.
const DECIMALS_MAX: usize = 18;

/// A number of bytes.
///
/// ```
/// # use atoll_ids::ByteCount;
/// assert_eq!("1.5G".parse(), Ok(ByteCount(1_610_612_736)));
/// assert_eq!(ByteCount(1_610_612_736).to_string(), "1.5 GiB");
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ByteCount(pub u64);

/// Why a text is not an amount of data.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ByteCountError {
    /// Not a number followed by a unit.
    #[error("{text:?} is not an amount of data; write for example 4096, 512M, 1.5GiB or 2T")]
    Syntax {
        /// What was given, cut to a readable length.
        text: String,
    },
    /// Larger than 2⁶⁴ − 1 bytes.
    #[error("{text:?} is more than can be counted (16 EiB)")]
    TooLarge {
        /// What was given.
        text: String,
    },
}

impl ByteCount {
    /// The text that stands for exactly this amount: whole bytes, or the largest unit that divides it. `1536 MiB`.
    pub fn exact(&self) -> impl fmt::Display + use<> {
        let mut value = self.0;
        let mut unit = 0;
        while value != 0 && value.is_multiple_of(1024) && unit + 1 < UNITS.len() {
            value /= 1024;
            unit += 1;
        }
        Exact { value, unit: UNITS[unit] }
    }
}

struct Exact {
    value: u64,
    unit: &'static str,
}

impl fmt::Display for Exact {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&format!("{} {}", self.value, self.unit))
    }
}

impl fmt::Display for ByteCount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0 < 1024 {
            return f.pad(&format!("{} B", self.0));
        }
        let mut unit = 1;
        let mut tenths = tenths_of(self.0, unit);
        // 1023.96 KiB would round to 1024.0 KiB, which people call 1 MiB.
        while tenths >= 10_240 && unit + 1 < UNITS.len() {
            unit += 1;
            tenths = tenths_of(self.0, unit);
        }
        let (whole, tenth) = (tenths / 10, tenths % 10);
        if tenth == 0 {
            f.pad(&format!("{whole} {}", UNITS[unit]))
        } else {
            f.pad(&format!("{whole}.{tenth} {}", UNITS[unit]))
        }
    }
}

/// `bytes` in tenths of 1024^`unit`, rounded half up.
fn tenths_of(bytes: u64, unit: usize) -> u128 {
    let size = 1_u128 << (10 * unit);
    (u128::from(bytes) * 10 + size / 2) / size
}

/// Bytes of a unit as people write it, or `None` if it is none.
fn unit_bytes(unit: &str) -> Option<u128> {
    let unit = unit.to_ascii_lowercase();
    if unit.is_empty() || unit == "b" {
        return Some(1);
    }
    let power = u32::try_from("kmgtpe".find(unit.chars().next()?)?).ok()? + 1;
    match unit.get(1..)? {
        "" | "i" | "ib" => Some(1024_u128.pow(power)),
        "b" => Some(1000_u128.pow(power)),
        _ => None,
    }
}

fn parse(text: &str) -> Option<u128> {
    let text = text.trim();
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    let unit = unit_bytes(unit.trim_start())?;
    let (whole, fraction) = match number.split_once('.') {
        // Half a byte is a mistake.
        Some(_) if unit == 1 => return None,
        Some((whole, fraction)) => (whole, fraction),
        None => (number, "0"),
    };
    if fraction.is_empty() || fraction.len() > DECIMALS_MAX || fraction.contains('.') || whole.is_empty() {
        return None;
    }
    // A number too long for u128 is saturated: it is refused as too large, which is what is wrong with it.
    let whole: u128 = whole.parse().unwrap_or(u128::MAX);
    let scale = 10_u128.pow(u32::try_from(fraction.len()).ok()?);
    let fraction: u128 = fraction.parse().ok()?;
    Some(whole.saturating_mul(unit).saturating_add(fraction * unit / scale))
}

impl FromStr for ByteCount {
    type Err = ByteCountError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let shown = || text.chars().take(60).collect();
        let bytes = parse(text).ok_or_else(|| ByteCountError::Syntax { text: shown() })?;
        u64::try_from(bytes).map(Self).map_err(|_| ByteCountError::TooLarge { text: shown() })
    }
}

impl Sum for ByteCount {
    /// Saturates: more than 16 EiB cannot be told from 16 EiB.
    fn sum<I: Iterator<Item = Self>>(iter: I) -> Self {
        Self(iter.fold(0, |sum, each| sum.saturating_add(each.0)))
    }
}

impl From<u64> for ByteCount {
    fn from(bytes: u64) -> Self {
        Self(bytes)
    }
}

impl Serialize for ByteCount {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if serializer.is_human_readable() {
            serializer.collect_str(&self.exact())
        } else {
            serializer.serialize_u64(self.0)
        }
    }
}

impl<'de> Deserialize<'de> for ByteCount {
    /// In human-readable formats a plain number counts as bytes.
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        if deserializer.is_human_readable() {
            deserializer.deserialize_any(TextOrNumber)
        } else {
            u64::deserialize(deserializer).map(Self)
        }
    }
}

struct TextOrNumber;

impl Visitor<'_> for TextOrNumber {
    type Value = ByteCount;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an amount of data such as \"1.5GiB\" or a number of bytes")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<ByteCount, E> {
        text.parse().map_err(E::custom)
    }

    fn visit_u64<E: Error>(self, bytes: u64) -> Result<ByteCount, E> {
        Ok(ByteCount(bytes))
    }

    fn visit_i64<E: Error>(self, bytes: i64) -> Result<ByteCount, E> {
        u64::try_from(bytes).map(ByteCount).map_err(|_| E::custom("an amount of data cannot be negative"))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use proptest::prelude::{any, proptest};
    use proptest::{prop_assert, prop_assert_eq};

    use super::*;

    #[test]
    fn shown_to_people() {
        #[track_caller]
        fn check(bytes: u64, expect: &str) {
            assert_eq!(ByteCount(bytes).to_string(), expect);
        }
        check(0, "0 B");
        check(1023, "1023 B");
        check(1024, "1 KiB");
        check(1536, "1.5 KiB");
        check(1_048_575, "1 MiB");
        check(1_047_500, "1022.9 KiB");
        check(1 << 30, "1 GiB");
        check((1 << 40) + (1 << 39), "1.5 TiB");
        check(u64::MAX, "16 EiB");
        assert_eq!(format!("{:>8}|{:<8}", ByteCount(1024), ByteCount(7)), "   1 KiB|7 B     ");
    }

    #[test]
    fn read_from_people() {
        #[track_caller]
        fn check(text: &str, expect: u64) {
            assert_eq!(text.parse(), Ok(ByteCount(expect)), "{text}");
        }
        check("4096", 4096);
        check(" 4096 B ", 4096);
        check("100G", 100 << 30);
        check("100g", 100 << 30);
        check("100 GiB", 100 << 30);
        check("100Gi", 100 << 30);
        check("100GB", 100_000_000_000);
        check("1.5GiB", 3 << 29);
        check("0.5K", 512);
        check("0.1K", 102);
        check("15.999E", 18_445_591_152_204_944_769);
    }

    #[test]
    fn refused() {
        #[track_caller]
        fn check(text: &str) {
            let error = text.parse::<ByteCount>().unwrap_err();
            assert!(matches!(error, ByteCountError::Syntax { .. }), "{text}: {error}");
        }
        for text in [
            "",
            "G",
            "1.5",
            "1.5B",
            "1..5G",
            "1.G",
            ".5G",
            "-1",
            "1e9",
            "1 X",
            "1Gib/s",
            "1é",
            "é",
            "0.1234567890123456789G",
        ] {
            check(text);
        }
        for text in ["16E", "18446744073709551616", &"9".repeat(50)] {
            assert!(matches!(text.parse::<ByteCount>(), Err(ByteCountError::TooLarge { .. })), "{text}");
        }
        let error = "lots".parse::<ByteCount>().unwrap_err().to_string();
        assert_eq!(error, "\"lots\" is not an amount of data; write for example 4096, 512M, 1.5GiB or 2T");
    }

    #[test]
    fn serde_forms() {
        assert_eq!(serde_json::to_string(&ByteCount(3 << 29)).unwrap(), "\"1536 MiB\"");
        assert_eq!(serde_json::from_str::<ByteCount>("4096").unwrap(), ByteCount(4096));
        assert!(serde_json::from_str::<ByteCount>("-1").is_err());
        assert!(serde_json::from_str::<ByteCount>("1.5").is_err());
        assert_eq!(postcard::to_stdvec(&ByteCount(300)).unwrap(), [0xac, 0x02]);
    }

    proptest! {
        #[test]
        fn the_exact_text_and_serde_lose_nothing(bytes in any::<u64>(), zeros in 0_u32..64) {
            let count = ByteCount(bytes << zeros);
            prop_assert_eq!(count.exact().to_string().parse::<ByteCount>().unwrap(), count);
            let json = serde_json::to_string(&count).unwrap();
            prop_assert_eq!(serde_json::from_str::<ByteCount>(&json).unwrap(), count);
            prop_assert_eq!(postcard::from_bytes::<ByteCount>(&postcard::to_stdvec(&count).unwrap()).unwrap(), count);
        }

        #[test]
        fn what_people_see_is_within_a_twentieth_of_the_unit(bytes in 0_u64..1 << 60) {
            let shown = ByteCount(bytes).to_string().parse::<ByteCount>().unwrap().0;
            prop_assert!(shown.abs_diff(bytes) <= bytes / 20 + 1, "{} for {}", shown, bytes);
        }

        #[test]
        fn arbitrary_text_never_panics(text in any::<String>(), number in "[0-9.]{0,60}[ kKmMgGtTpPeEiIbBxé]{0,4}") {
            let _ = text.parse::<ByteCount>();
            let _ = number.parse::<ByteCount>();
        }
    }
}
