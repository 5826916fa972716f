//! Where a value came from, and what can be wrong with it.

use std::fmt;
use std::path::PathBuf;

use crate::kind::Kind;
use crate::settings::{Key, variable};

/// Foreign text in a message is cut to this many characters: enough to recognise it, too little to drown the message.
const SHOWN_CHARS_MAX: usize = 60;

/// Names longer than this are not compared with the right ones: nobody misspells that much, and comparing takes time in proportion.
const COMPARED_BYTES_MAX: usize = 100;

/// Problems reported at once. Whoever has more has handed over the wrong file.
pub(crate) const PROBLEMS_MAX: usize = 20;

/// Where a value came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// The table of settings.
    Default,
    /// The configuration file.
    File {
        /// Its path.
        path: PathBuf,
        /// The line of the value, counted from 1.
        line: usize,
    },
    /// A variable of the environment.
    Environment {
        /// Its name.
        variable: String,
    },
    /// A flag of the command line.
    Flag {
        /// As it is written there.
        flag: String,
    },
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File { path, line } => write!(f, "{}:{line}", path.display()),
            Self::Environment { variable } => write!(f, "environment {variable}"),
            Self::Flag { flag } => write!(f, "flag {flag}"),
        }
    }
}

impl Origin {
    /// The form in which a person at this place would write the name of a setting.
    fn name_there(&self, name: &str) -> String {
        match self {
            Self::Environment { .. } => variable(name),
            _ => name.to_owned(),
        }
    }
}

/// One thing that is wrong. All are for a person to put right.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    /// The file is far larger than any configuration.
    #[error("{} has {bytes} bytes; a configuration has at most {max}", path.display())]
    FileTooLarge {
        /// The file.
        path: PathBuf,
        /// Its size.
        bytes: usize,
        /// The largest size that is read.
        max: usize,
    },
    /// The file is not TOML.
    #[error("{}:{line}: this is not TOML: {message}", path.display())]
    Syntax {
        /// The file.
        path: PathBuf,
        /// The line, counted from 1.
        line: usize,
        /// What the parser says.
        message: String,
    },
    /// No setting has this name.
    #[error("{origin}: there is no setting `{name}`{}", did_you_mean(suggestion.as_ref()))]
    Unknown {
        /// Where it was given.
        origin: Origin,
        /// The name as given.
        name: String,
        /// The nearest right one, in the form it has at that place.
        suggestion: Option<String>,
    },
    /// The value is not what the setting takes.
    #[error("{origin}: `{name}` is {found}, but must be {expected}, for example {example}{}", because(reason.as_ref()))]
    Value {
        /// Where it was given.
        origin: Origin,
        /// The setting.
        name: &'static str,
        /// What was given.
        found: String,
        /// What the setting takes.
        expected: String,
        /// An example in the form it has at that place.
        example: String,
        /// What exactly is wrong, when that is more than not being what is expected.
        reason: Option<String>,
    },
    /// A value where the file needs a section.
    #[error(
        "{origin}: `{name}` is a section with settings of its own, such as `{name}.{inside}`; it cannot have a value"
    )]
    SectionExpected {
        /// Where it was given.
        origin: Origin,
        /// The section.
        name: String,
        /// A setting of that section.
        inside: String,
    },
    /// Each value is right, but the program cannot work with it; see [`crate::Settings::refuse`].
    #[error("{origin}: `{name}` is {found}: {reason}")]
    Refused {
        /// Where it was given.
        origin: Origin,
        /// The setting.
        name: &'static str,
        /// Its value.
        found: String,
        /// Why it cannot be.
        reason: String,
    },
}

fn did_you_mean(suggestion: Option<&String>) -> String {
    suggestion.map(|name| format!("; did you mean `{name}`?")).unwrap_or_default()
}

fn because(reason: Option<&String>) -> String {
    reason.map(|reason| format!(" ({reason})")).unwrap_or_default()
}

impl Problem {
    pub(crate) fn unknown(keys: &[Key], origin: Origin, name: &str) -> Self {
        let suggestion = nearest(keys, name).map(|right| origin.name_there(right));
        let name = match &origin {
            Origin::Environment { variable } => cut(variable),
            _ => cut(name),
        };
        Self::Unknown { origin, name, suggestion }
    }

    pub(crate) fn value(key: &Key, origin: Origin, found: &str, reason: Option<String>) -> Self {
        let Key { name, kind, .. } = key;
        Self::Value {
            expected: kind.expected(),
            example: example(kind, &origin),
            origin,
            name,
            found: cut(found),
            reason,
        }
    }

    pub(crate) fn refused(name: &'static str, origin: Origin, found: &str, reason: String) -> Self {
        Self::Refused { origin, name, found: cut(found), reason }
    }
}

fn example(kind: &Kind, origin: &Origin) -> String {
    kind.example(matches!(origin, Origin::File { .. }))
}

/// Foreign text made safe to show: short and without line breaks or terminal escapes.
pub(crate) fn cut(text: &str) -> String {
    let mut chars = text.chars();
    let mut shown: String =
        chars.by_ref().take(SHOWN_CHARS_MAX).map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect();
    if chars.next().is_some() {
        shown.push('…');
    }
    shown
}

/// The setting that was probably meant: one whose name is nearly the same, or the only one that ends the same (the section was
/// forgotten, or is another).
fn nearest(keys: &[Key], name: &str) -> Option<&'static str> {
    if name.len() > COMPARED_BYTES_MAX {
        return None;
    }
    // Variables do not tell dots from underscores, and people do not tell hyphens from either.
    let alike = |name: &str| name.to_lowercase().replace(['.', '-'], "_");
    let given = alike(name);
    let distances = keys.iter().map(|key| (strsim::osa_distance(&given, &alike(key.name)), key.name));
    // A third of the letters wrong is another word, and so are five of a long one.
    let limit = (given.chars().count() / 3).clamp(1, 4);
    let close = distances.filter(|(distance, _)| *distance <= limit).min_by_key(|(distance, _)| *distance);
    close.map(|(_, name)| name).or_else(|| {
        let last = |name: &str| name.rsplit('.').next().map(alike);
        let mut same_end = keys.iter().filter(|key| last(key.name) == last(name));
        match (same_end.next(), same_end.next()) {
            (Some(only), None) => Some(only.name),
            _ => None,
        }
    })
}

/// Everything that is wrong with the settings; never empty. `Display` writes one problem per line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SettingsError {
    problems: Vec<Problem>,
    /// How many more there are than are kept.
    more: usize,
}

impl SettingsError {
    /// The problems, in the order file, environment, flags; at most 20.
    pub fn problems(&self) -> &[Problem] {
        &self.problems
    }
}

impl fmt::Display for SettingsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, problem) in self.problems.iter().enumerate() {
            if at > 0 {
                f.write_str("\n")?;
            }
            write!(f, "{problem}")?;
        }
        if self.more > 0 { write!(f, "\nand {} more", self.more) } else { Ok(()) }
    }
}

impl std::error::Error for SettingsError {}

impl From<Problem> for SettingsError {
    fn from(problem: Problem) -> Self {
        Self { problems: vec![problem], more: 0 }
    }
}

/// Gathers problems up to a limit. They are made only while there is room.
#[derive(Default)]
pub(crate) struct Problems {
    problems: Vec<Problem>,
    more: usize,
}

impl Problems {
    pub(crate) fn add(&mut self, problem: impl FnOnce() -> Problem) {
        if self.problems.len() < PROBLEMS_MAX { self.problems.push(problem()) } else { self.more += 1 }
    }

    pub(crate) fn into_result(self) -> Result<(), SettingsError> {
        let Self { problems, more } = self;
        if problems.is_empty() { Ok(()) } else { Err(SettingsError { problems, more }) }
    }
}
