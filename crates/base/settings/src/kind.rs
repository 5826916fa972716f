//! The kinds of value a setting can have, and how each is read from text and from TOML.

use std::path::PathBuf;

use atoll_ids::ByteCount;
use toml::de::DeValue;

use crate::value::{Value, parse_duration};

/// What a setting's value has to be.
#[derive(Clone, Copy, Debug)]
pub enum Kind {
    /// `true` or `false`.
    Bool,
    /// A whole number.
    Integer {
        /// The smallest allowed.
        min: i64,
        /// The largest allowed.
        max: i64,
    },
    /// An amount of data: `"1.5 GiB"`, or in TOML also a number of bytes.
    ByteCount,
    /// A time span such as `"500ms"` or `"1h30m"`, to the millisecond. A bare number has no unit and is refused.
    Duration,
    /// Any text.
    Text,
    /// One of these words.
    Choice(&'static [&'static str]),
    /// A path, not empty, taken as it is: what a relative one is relative to is up to the table's owner.
    Path,
    /// An IP address with a port.
    SocketAddr,
    /// Any number of values of one kind: an array in TOML, separated by commas elsewhere (so a single value must not contain a
    /// comma there). Lists of lists are not supported.
    List(&'static Kind),
    /// Text with a rule of its own.
    Custom {
        /// What is expected, with an article: `a policy`.
        expected: &'static str,
        /// An example.
        example: &'static str,
        /// Says what is wrong with a text, if something is.
        check: fn(&str) -> Result<(), String>,
    },
}

/// Why a value is not of its kind: a reason of its own, or none besides that it is not what is expected.
pub(crate) type Misfit = Option<String>;

impl Kind {
    pub(crate) fn expected(&self) -> String {
        match self {
            Self::Bool => "true or false".to_owned(),
            Self::Integer { min, max } => format!("a whole number from {min} to {max}"),
            Self::ByteCount => "an amount of data".to_owned(),
            Self::Duration => "a duration".to_owned(),
            Self::Text => "text".to_owned(),
            Self::Choice(words) => format!("one of {}", words.join(", ")),
            Self::Path => "a path".to_owned(),
            Self::SocketAddr => "an IP address with a port".to_owned(),
            Self::List(each) => format!("a list, each of it {}", each.expected()),
            Self::Custom { expected, .. } => (*expected).to_owned(),
        }
    }

    /// An example as it would stand in the file (`toml`), or in a variable or flag.
    pub(crate) fn example(&self, toml: bool) -> String {
        let text = match self {
            Self::Bool => return "true".to_owned(),
            Self::Integer { min, .. } => return min.to_string(),
            Self::List(each) if toml => return format!("[{}]", each.example(true)),
            Self::List(each) => return each.example(false),
            Self::ByteCount => "100GiB",
            Self::Duration => "30s",
            Self::Text => "some text",
            Self::Choice(words) => words.first().copied().unwrap_or_default(),
            Self::Path => "/srv/atoll",
            Self::SocketAddr => "127.0.0.1:8000",
            Self::Custom { example, .. } => example,
        };
        if toml { format!("\"{text}\"") } else { text.to_owned() }
    }

    /// Reads a value from a variable, a flag or a default.
    pub(crate) fn read_text(&self, text: &str) -> Result<Value, Misfit> {
        let trimmed = text.trim();
        match self {
            Self::Bool => trimmed.parse().map(Value::Bool).map_err(|_| None),
            Self::Integer { min, max } => match trimmed.parse() {
                Ok(number) if (*min..=*max).contains(&number) => Ok(Value::Integer(number)),
                _ => Err(None),
            },
            Self::ByteCount => trimmed.parse().map(Value::ByteCount).map_err(|_| None),
            Self::Duration => parse_duration(trimmed).map(Value::Duration).ok_or(None),
            Self::Text => Ok(Value::Text(text.to_owned())),
            Self::Choice(words) if words.contains(&trimmed) => Ok(Value::Text(trimmed.to_owned())),
            Self::Choice(_) => Err(None),
            Self::Path if text.is_empty() => Err(None),
            Self::Path => Ok(Value::Path(PathBuf::from(text))),
            Self::SocketAddr => trimmed.parse().map(Value::SocketAddr).map_err(|_| None),
            Self::List(_) if trimmed.is_empty() => Ok(Value::List(Vec::new())),
            Self::List(each) => {
                text.split(',').map(|part| each.read_text(part.trim())).collect::<Result<_, _>>().map(Value::List)
            }
            Self::Custom { check, .. } => check(text).map(|()| Value::Text(text.to_owned())).map_err(Some),
        }
    }

    /// Reads a value from the file.
    pub(crate) fn read_toml(&self, value: &DeValue<'_>) -> Result<Value, Misfit> {
        match (self, value) {
            (Self::Bool, DeValue::Boolean(value)) => Ok(Value::Bool(*value)),
            (Self::Bool | Self::Integer { .. }, DeValue::String(_)) => Err(None),
            (Self::Integer { min, max }, DeValue::Integer(number)) => {
                match i64::from_str_radix(number.as_str(), number.radix()) {
                    Ok(number) if (*min..=*max).contains(&number) => Ok(Value::Integer(number)),
                    _ => Err(None),
                }
            }
            (Self::ByteCount, DeValue::Integer(number)) => {
                let bytes = u64::from_str_radix(number.as_str(), number.radix());
                bytes.map(|bytes| Value::ByteCount(ByteCount(bytes))).map_err(|_| None)
            }
            (Self::List(each), DeValue::Array(values)) => {
                values.iter().map(|value| each.read_toml(value.get_ref())).collect::<Result<_, _>>().map(Value::List)
            }
            (Self::List(_), _) => Err(None),
            (_, DeValue::String(text)) => self.read_text(text),
            _ => Err(None),
        }
    }
}

/// A value of the file as a person would recognise it.
pub(crate) fn shown_toml(value: &DeValue<'_>) -> String {
    match value {
        DeValue::String(text) => format!("\"{text}\""),
        DeValue::Integer(number) => number.to_string(),
        DeValue::Float(number) => number.to_string(),
        DeValue::Boolean(value) => value.to_string(),
        DeValue::Datetime(datetime) => datetime.to_string(),
        DeValue::Array(values) => {
            let shown: Vec<_> = values.iter().map(|value| shown_toml(value.get_ref())).collect();
            format!("[{}]", shown.join(", "))
        }
        DeValue::Table(_) => "a section".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;

    #[test]
    fn every_example_is_what_is_expected() {
        const NUMBER: Kind = Kind::Integer { min: -3, max: 9 };
        let policy = Kind::Custom { expected: "a policy", example: "4+2", check: |_| Ok(()) };
        for kind in [
            Kind::Bool,
            NUMBER,
            Kind::ByteCount,
            Kind::Duration,
            Kind::Text,
            Kind::Choice(&["quick", "safe"]),
            Kind::Path,
            Kind::SocketAddr,
            Kind::List(&Kind::SocketAddr),
            Kind::List(&NUMBER),
            policy,
        ] {
            let from_text = kind.read_text(&kind.example(false)).unwrap();
            let toml = format!("x = {}", kind.example(true));
            let table = toml::de::DeTable::parse(&toml).unwrap();
            let from_toml = kind.read_toml(table.get_ref()["x"].get_ref()).unwrap();
            assert_eq!(from_text, from_toml, "{kind:?}");
            assert_eq!(kind.read_text(&from_text.to_string()).unwrap(), from_text, "{kind:?}");
        }
    }
}
