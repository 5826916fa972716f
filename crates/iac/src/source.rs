//! YAML with places: every key and value knows its file, line and column, so that an error points at what is wrong.

use std::fmt;

use serde::de::{self, Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::Value as Json;
use serde_saphyr::Spanned;

/// Largest file: far above what people write, small enough to refuse generated floods.
const FILE_BYTES_MAX: usize = 4 << 20;
/// Deepest nesting of YAML.
const DEPTH_MAX: usize = 100;

/// A file of a stack.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SourceFile {
    /// Its name as errors show it.
    pub name: String,
    /// Its text.
    pub text: String,
}

/// Where something is written; line and column from 1.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Place {
    /// The file's name.
    pub file: String,
    /// The line.
    pub line: u64,
    /// The column.
    pub column: u64,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.file, self.line, self.column)
    }
}

/// What is wrong with the files, and where.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{place}: {message}")]
pub struct SourceError {
    /// Where.
    pub place: Place,
    /// What is wrong and what to do.
    pub message: String,
}

/// A value and where it stands.
#[derive(Debug, Clone)]
pub(crate) struct Spot {
    pub(crate) place: Place,
    pub(crate) tree: Tree,
}

#[derive(Debug, Clone)]
pub(crate) enum Tree {
    Scalar(Json),
    List(Vec<Spot>),
    Map(Vec<(String, Place, Spot)>),
}

impl Spot {
    pub(crate) fn fail<T>(&self, message: impl Into<String>) -> Result<T, SourceError> {
        Err(SourceError { place: self.place.clone(), message: message.into() })
    }

    pub(crate) fn json(&self) -> Json {
        match &self.tree {
            Tree::Scalar(it) => it.clone(),
            Tree::List(items) => items.iter().map(Self::json).collect(),
            Tree::Map(entries) => Json::Object(entries.iter().map(|(key, _, it)| (key.clone(), it.json())).collect()),
        }
    }

    pub(crate) fn get(&self, key: &str) -> Option<&Self> {
        match &self.tree {
            Tree::Map(entries) => entries.iter().find(|(known, ..)| known == key).map(|(.., it)| it),
            _ => None,
        }
    }

    /// The entries of a map, whose keys must be among `known`.
    pub(crate) fn fields(&self, what: &str, known: &[&str]) -> Result<(), SourceError> {
        for (key, place, _) in self.entries(what)? {
            if !known.contains(&key.as_str()) {
                let near = nearest(key, known.iter().copied());
                let hint =
                    near.map_or_else(|| format!("known are {}", known.join(", ")), |it| format!("did you mean {it}?"));
                let message = format!("{what} has no {key}: {hint}");
                return Err(SourceError { place: place.clone(), message });
            }
        }
        Ok(())
    }

    pub(crate) fn entries(&self, what: &str) -> Result<&[(String, Place, Self)], SourceError> {
        match &self.tree {
            Tree::Map(entries) => Ok(entries),
            _ => self.fail(format!("{what} must be a table (key: value)")),
        }
    }

    pub(crate) fn need(&self, what: &str, key: &str) -> Result<&Self, SourceError> {
        self.get(key).map_or_else(|| self.fail(format!("{what} lacks {key}")), Ok)
    }

    pub(crate) fn text(&self, what: &str) -> Result<&str, SourceError> {
        match &self.tree {
            Tree::Scalar(Json::String(it)) => Ok(it),
            _ => self.fail(format!("{what} must be a text")),
        }
    }

    pub(crate) fn number(&self, what: &str, from: u64, to: u64) -> Result<u64, SourceError> {
        match &self.tree {
            Tree::Scalar(it) if it.as_u64().is_some_and(|it| (from..=to).contains(&it)) => {
                Ok(it.as_u64().unwrap_or(from))
            }
            _ => self.fail(format!("{what} must be a whole number from {from} to {to}")),
        }
    }

    /// A name that Kubernetes and DNS take.
    pub(crate) fn name(&self, what: &str) -> Result<String, SourceError> {
        let text = self.text(what)?;
        if is_name(text) { Ok(text.to_owned()) } else { self.fail(format!("{what} {text:?}: {NAME_RULE}")) }
    }
}

pub(crate) const NAME_RULE: &str = "a name has 1 to 53 lower-case letters, digits and dashes, none of them at an end";

pub(crate) fn is_name(text: &str) -> bool {
    (1..=53).contains(&text.len())
        && text.chars().all(|it| it.is_ascii_lowercase() || it.is_ascii_digit() || it == '-')
        && !text.starts_with('-')
        && !text.ends_with('-')
}

/// What was probably meant.
pub(crate) fn nearest<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let scored = known.into_iter().map(|it| (strsim::damerau_levenshtein(word, it), it));
    // A third of the letters may be wrong, and at least one.
    scored.filter(|(distance, it)| *distance <= (it.len().max(word.len()) / 3).max(1)).min().map(|(_, it)| it)
}

/// The documents of a file; empty ones are left out.
pub(crate) fn documents(file: &SourceFile) -> Result<Vec<Spot>, SourceError> {
    let at = |line, column| Place { file: file.name.clone(), line, column };
    if file.text.len() > FILE_BYTES_MAX {
        let message = format!("has {} bytes, at most {FILE_BYTES_MAX} are read", file.text.len());
        return Err(SourceError { place: at(1, 1), message });
    }
    let options = serde_saphyr::options! { with_snippet: false };
    let parsed: Vec<Spanned<Raw>> = serde_saphyr::from_multiple_with_options(&file.text, options).map_err(|it| {
        let place = it.location().map_or_else(|| at(1, 1), |it| at(it.line(), it.column()));
        SourceError { place, message: it.to_string() }
    })?;
    let spots = parsed.into_iter().map(|it| spot(&file.name, it, 0)).collect::<Result<Vec<_>, _>>()?;
    Ok(spots.into_iter().filter(|it| !matches!(it.tree, Tree::Scalar(Json::Null))).collect())
}

fn spot(file: &str, it: Spanned<Raw>, depth: usize) -> Result<Spot, SourceError> {
    let place = |at: serde_saphyr::Location| Place { file: file.to_owned(), line: at.line(), column: at.column() };
    let here = place(it.referenced);
    if depth > DEPTH_MAX {
        return Err(SourceError { place: here, message: format!("nested deeper than {DEPTH_MAX} levels") });
    }
    let tree = match it.value {
        Raw::Scalar(it) => Tree::Scalar(it),
        Raw::List(items) => {
            Tree::List(items.into_iter().map(|it| spot(file, it, depth + 1)).collect::<Result<_, _>>()?)
        }
        Raw::Map(entries) => {
            let entry = |(key, it): (Spanned<String>, Spanned<Raw>)| {
                Ok((key.value, place(key.referenced), spot(file, it, depth + 1)?))
            };
            Tree::Map(entries.into_iter().map(entry).collect::<Result<_, _>>()?)
        }
    };
    Ok(Spot { place: here, tree })
}

/// YAML as it is parsed, before the file's name is added.
enum Raw {
    Scalar(Json),
    List(Vec<Spanned<Raw>>),
    Map(Vec<(Spanned<String>, Spanned<Raw>)>),
}

impl<'de> Deserialize<'de> for Raw {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(RawVisitor)
    }
}

struct RawVisitor;

impl<'de> Visitor<'de> for RawVisitor {
    type Value = Raw;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_bool<E>(self, it: bool) -> Result<Raw, E> {
        Ok(Raw::Scalar(it.into()))
    }

    fn visit_i64<E>(self, it: i64) -> Result<Raw, E> {
        Ok(Raw::Scalar(it.into()))
    }

    fn visit_u64<E>(self, it: u64) -> Result<Raw, E> {
        Ok(Raw::Scalar(it.into()))
    }

    fn visit_f64<E: de::Error>(self, it: f64) -> Result<Raw, E> {
        let number = serde_json::Number::from_f64(it).ok_or_else(|| E::custom("a number must be finite"))?;
        Ok(Raw::Scalar(Json::Number(number)))
    }

    fn visit_str<E>(self, it: &str) -> Result<Raw, E> {
        Ok(Raw::Scalar(it.into()))
    }

    fn visit_unit<E>(self) -> Result<Raw, E> {
        Ok(Raw::Scalar(Json::Null))
    }

    fn visit_none<E>(self) -> Result<Raw, E> {
        Ok(Raw::Scalar(Json::Null))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut access: A) -> Result<Raw, A::Error> {
        let mut items = Vec::new();
        while let Some(it) = access.next_element()? {
            items.push(it);
        }
        Ok(Raw::List(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Raw, A::Error> {
        let mut entries = Vec::new();
        while let Some(it) = access.next_entry()? {
            entries.push(it);
        }
        Ok(Raw::Map(entries))
    }
}
