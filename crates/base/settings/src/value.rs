//! A setting's value, once it has been read.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use atoll_ids::ByteCount;

/// The value of a setting. `Display` writes it as it would be given in the environment or to a flag.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    /// Of [`crate::Kind::Bool`].
    Bool(bool),
    /// Of [`crate::Kind::Integer`].
    Integer(i64),
    /// Of [`crate::Kind::ByteCount`].
    ByteCount(ByteCount),
    /// Of [`crate::Kind::Duration`]; whole milliseconds.
    Duration(Duration),
    /// Of [`crate::Kind::Text`], [`crate::Kind::Choice`] and [`crate::Kind::Custom`].
    Text(String),
    /// Of [`crate::Kind::Path`].
    Path(PathBuf),
    /// Of [`crate::Kind::SocketAddr`].
    SocketAddr(SocketAddr),
    /// Of [`crate::Kind::List`].
    List(Vec<Value>),
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bool(value) => write!(f, "{value}"),
            Self::Integer(value) => write!(f, "{value}"),
            Self::ByteCount(value) => write!(f, "{}", value.exact()),
            Self::Duration(value) => f.write_str(&duration_text(*value)),
            Self::Text(value) => f.write_str(value),
            Self::Path(value) => write!(f, "{}", value.display()),
            Self::SocketAddr(value) => write!(f, "{value}"),
            Self::List(values) => {
                let texts: Vec<_> = values.iter().map(Self::to_string).collect();
                f.write_str(&texts.join(","))
            }
        }
    }
}

/// Units of a duration, largest first, with their milliseconds.
const UNITS: [(&str, u64); 5] = [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1000), ("ms", 1)];

/// `90 s` as `1m30s`.
fn duration_text(duration: Duration) -> String {
    let mut rest = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    let mut text = String::new();
    for (unit, milliseconds) in UNITS {
        if rest >= milliseconds {
            text += &format!("{}{unit}", rest / milliseconds);
            rest %= milliseconds;
        }
    }
    if text.is_empty() { "0s".to_owned() } else { text }
}

/// `1m30s` as 90 s: whole numbers, each with a unit, added up.
pub(crate) fn parse_duration(text: &str) -> Option<Duration> {
    let mut rest = text.trim();
    let mut sum: u64 = 0;
    if rest.is_empty() {
        return None;
    }
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit())?;
        let (number, after) = rest.split_at(digits);
        let after = after.trim_start();
        let letters = after.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(after.len());
        let (unit, after) = after.split_at(letters);
        let (_, milliseconds) = UNITS.into_iter().find(|(name, _)| *name == unit)?;
        sum = sum.checked_add(number.parse::<u64>().ok()?.checked_mul(milliseconds)?)?;
        rest = after.trim_start();
    }
    Some(Duration::from_millis(sum))
}

/// A type that [`crate::Settings::get`] gives out.
pub trait FromValue: Sized {
    /// The value as this type, or `None` if it is of another kind or does not fit.
    fn from_value(value: &Value) -> Option<Self>;
}

macro_rules! from_value {
    ($($type:ty: $variant:ident),*) => {$(
        impl FromValue for $type {
            fn from_value(value: &Value) -> Option<Self> {
                if let Value::$variant(value) = value { Some(value.clone()) } else { None }
            }
        }
    )*};
}

from_value!(bool: Bool, ByteCount: ByteCount, Duration: Duration, String: Text, PathBuf: Path, SocketAddr: SocketAddr);

macro_rules! from_integer {
    ($($type:ty),*) => {$(
        impl FromValue for $type {
            fn from_value(value: &Value) -> Option<Self> {
                if let Value::Integer(value) = value { Self::try_from(*value).ok() } else { None }
            }
        }
    )*};
}

from_integer!(i64, u64, u32, u16, u8, usize);

impl<T: FromValue> FromValue for Vec<T> {
    fn from_value(value: &Value) -> Option<Self> {
        if let Value::List(values) = value { values.iter().map(T::from_value).collect() } else { None }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use proptest::prelude::{any, proptest};
    use proptest::prop_assert_eq;

    use super::*;

    #[test]
    fn durations() {
        #[track_caller]
        fn check(text: &str, milliseconds: u64, shown: &str) {
            let duration = parse_duration(text).unwrap();
            assert_eq!(duration, Duration::from_millis(milliseconds));
            assert_eq!(Value::Duration(duration).to_string(), shown);
        }
        check("0s", 0, "0s");
        check("500ms", 500, "500ms");
        check("90s", 90_000, "1m30s");
        check(" 1h 30 m ", 5_400_000, "1h30m");
        check("36h", 129_600_000, "1d12h");
        check("1s5ms", 1005, "1s5ms");
        for text in
            ["", " ", "5", "s", "-1s", "1.5s", "1w", "1S", "1s5", "18446744073709551616s", "999999999999999999d", "1é"]
        {
            assert_eq!(parse_duration(text), None, "{text}");
        }
    }

    #[test]
    fn values_come_out_as_what_they_are() {
        assert_eq!(u16::from_value(&Value::Integer(65_535)), Some(65_535));
        assert_eq!(u16::from_value(&Value::Integer(65_536)), None);
        assert_eq!(bool::from_value(&Value::Integer(1)), None);
        let list = Value::List(vec![Value::Integer(1), Value::Integer(2)]);
        assert_eq!(Vec::<u8>::from_value(&list), Some(vec![1, 2]));
        assert_eq!(Vec::<String>::from_value(&list), None);
        assert_eq!(list.to_string(), "1,2");
    }

    proptest! {
        #[test]
        fn shown_durations_are_read_back(milliseconds in any::<u64>()) {
            let duration = Duration::from_millis(milliseconds);
            prop_assert_eq!(parse_duration(&duration_text(duration)), Some(duration));
        }

        #[test]
        fn arbitrary_durations_never_panic(text in any::<String>(), close in "[0-9]{0,30}[a-z ]{0,3}[0-9]{0,3}[a-z]{0,2}") {
            let _ = parse_duration(&text);
            let _ = parse_duration(&close);
        }
    }
}
