//! The table of settings, the layers, and what holds in the end.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

use crate::file;
use crate::kind::Kind;
use crate::problem::{Origin, Problem, Problems, SettingsError, cut};
use crate::value::{FromValue, Value};

/// Most bytes of a configuration file: thousands of times a real one; what is larger is some other file.
pub const FILE_BYTES_MAX: usize = 1 << 20;

/// What the variables that are settings start with.
const VARIABLE_PREFIX: &str = "ATOLL_";

/// One setting.
#[derive(Clone, Copy, Debug)]
pub struct Key {
    /// Its name: sections and key in lower case with dots between, `storage.capacity`.
    pub name: &'static str,
    /// What its value has to be.
    pub kind: Kind,
    /// Its value when nobody gives one, as it would be given in the environment. `None`: not set.
    pub default: Option<&'static str>,
    /// What it does, in a sentence.
    pub doc: &'static str,
    /// The flag of the command line that sets it, for people who ask.
    pub flag: Option<&'static str>,
}

impl Key {
    /// The variable of the environment that sets it: `ATOLL_STORAGE_CAPACITY`.
    pub fn variable(&self) -> String {
        variable(self.name)
    }
}

pub(crate) fn variable(name: &str) -> String {
    format!("{VARIABLE_PREFIX}{}", name.replace('.', "_").to_ascii_uppercase())
}

/// What was given, layer by layer.
#[derive(Clone, Debug, Default)]
pub struct Sources {
    file: Option<(PathBuf, String)>,
    variables: Vec<(OsString, OsString)>,
    ignored: Vec<String>,
    flags: Vec<(String, String, String)>,
}

impl Sources {
    /// Nothing: the defaults hold.
    pub fn new() -> Self {
        Self::default()
    }

    /// The configuration file: its path for messages, and its text.
    #[must_use]
    pub fn file(mut self, path: impl AsRef<Path>, text: impl Into<String>) -> Self {
        self.file = Some((path.as_ref().to_owned(), text.into()));
        self
    }

    /// The environment, all of it: `std::env::vars_os()`. Variables that do not start with `ATOLL_` are not looked at.
    #[must_use]
    pub fn environment<N: Into<OsString>, V: Into<OsString>>(
        mut self,
        variables: impl IntoIterator<Item = (N, V)>,
    ) -> Self {
        self.variables.extend(variables.into_iter().map(|(name, value)| (name.into(), value.into())));
        self
    }

    /// Variables that start with `ATOLL_` and are no settings, such as `ATOLL_LOG`.
    #[must_use]
    pub fn ignore_variables(mut self, names: &[&str]) -> Self {
        self.ignored.extend(names.iter().map(|&name| name.to_owned()));
        self
    }

    /// A flag that was given: the setting's name, its value, and the flag as the person wrote it (`--capacity`). Of two for one
    /// setting the later holds.
    #[must_use]
    pub fn flag(mut self, name: impl Into<String>, value: impl Into<String>, shown: impl Into<String>) -> Self {
        self.flags.push((name.into(), value.into(), shown.into()));
        self
    }
}

/// What holds, and where each value came from.
#[derive(Clone, Debug)]
pub struct Settings {
    keys: &'static [Key],
    /// One for each key.
    values: Vec<(Option<Value>, Origin)>,
}

/// One setting as it holds, for showing.
#[derive(Clone, Debug)]
pub struct Entry<'a> {
    /// The setting.
    pub key: &'static Key,
    /// Its value as it would be given in the environment; `None` when it is not set and has no default.
    pub text: Option<String>,
    /// Where the value came from.
    pub origin: &'a Origin,
}

impl Settings {
    /// Puts the layers together. A value that a higher layer hides must be right all the same.
    ///
    /// # Errors
    /// Everything that is wrong in any layer.
    ///
    /// # Panics
    /// If the table itself is wrong: two names that are the same variable, a name that is also a section, a name with other
    /// characters than lower-case letters, digits, `_` and dots, or a default that is not of its kind. That does not depend on
    /// what was given, so any test finds it.
    pub fn load(keys: &'static [Key], sources: &Sources) -> Result<Self, SettingsError> {
        check_table(keys);
        let mut values: Vec<_> = keys.iter().map(|key| (default(key), Origin::Default)).collect();
        let mut problems = Problems::default();
        let mut given = match &sources.file {
            Some((path, text)) => file::read(keys, path, text, &mut problems),
            None => Vec::new(),
        };
        given.extend(read_variables(keys, sources, &mut problems));
        given.extend(read_flags(keys, sources, &mut problems));
        problems.into_result()?;
        for (at, value, origin) in given {
            values[at] = (Some(value), origin);
        }
        Ok(Self { keys, values })
    }

    /// The value of a setting that has a default.
    ///
    /// # Panics
    /// If the table has no such setting, it is not set, or its kind does not give this type: mistakes in the program.
    pub fn get<T: FromValue>(&self, name: &str) -> T {
        self.get_optional(name).unwrap_or_else(|| panic!("the setting {name} has no default; use get_optional"))
    }

    /// The value of a setting, if it is set or has a default.
    ///
    /// # Panics
    /// If the table has no such setting or its kind does not give this type: mistakes in the program.
    pub fn get_optional<T: FromValue>(&self, name: &str) -> Option<T> {
        let (value, _) = &self.values[self.position(name)];
        let convert = |value| T::from_value(value).unwrap_or_else(|| panic!("the setting {name} is not of that type"));
        value.as_ref().map(convert)
    }

    /// Where the value of a setting came from.
    ///
    /// # Panics
    /// If the table has no such setting.
    pub fn origin(&self, name: &str) -> &Origin {
        &self.values[self.position(name)].1
    }

    /// The error that says that the program cannot work with this value, and where it came from. For rules that involve more than
    /// one setting, or the machine.
    ///
    /// # Panics
    /// If the table has no such setting.
    pub fn refuse(&self, name: &str, reason: impl ToString) -> SettingsError {
        let at = self.position(name);
        let (value, origin) = &self.values[at];
        let found = value.as_ref().map_or_else(|| "not set".to_owned(), Value::to_string);
        Problem::refused(self.keys[at].name, origin.clone(), &found, reason.to_string()).into()
    }

    /// All settings in the order of the table.
    pub fn iter(&self) -> impl Iterator<Item = Entry<'_>> {
        self.keys.iter().zip(&self.values).map(|(key, (value, origin))| Entry {
            key,
            text: value.as_ref().map(Value::to_string),
            origin,
        })
    }

    fn position(&self, name: &str) -> usize {
        let position = self.keys.iter().position(|key| key.name == name);
        position.unwrap_or_else(|| panic!("there is no setting {name} in the table"))
    }
}

fn default(key: &Key) -> Option<Value> {
    let read =
        |text| key.kind.read_text(text).unwrap_or_else(|_| panic!("the default of {} is not of its kind", key.name));
    key.default.map(read)
}

fn check_table(keys: &[Key]) {
    let well_formed = |part: &str| {
        part.starts_with(|c: char| c.is_ascii_lowercase())
            && part.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')
    };
    let mut variables: Vec<String> = Vec::with_capacity(keys.len());
    for key in keys {
        assert!(key.name.split('.').all(well_formed), "the setting name {:?} is not well-formed", key.name);
        let section = format!("{}.", key.name);
        assert!(!keys.iter().any(|other| other.name.starts_with(&section)), "{} is a setting and a section", key.name);
        let nested = matches!(key.kind, Kind::List(Kind::List(_)));
        assert!(!nested, "the setting {} is a list of lists", key.name);
        variables.push(key.variable());
    }
    variables.sort_unstable();
    let twice = variables.windows(2).find(|pair| pair[0] == pair[1]);
    assert!(twice.is_none(), "two settings have the same variable: {twice:?}");
}

fn read_variables(keys: &[Key], sources: &Sources, problems: &mut Problems) -> Vec<(usize, Value, Origin)> {
    let ours = |(name, value): &'_ (OsString, OsString)| {
        let name = name.to_string_lossy();
        let is_ours = name.starts_with(VARIABLE_PREFIX) && !sources.ignored.iter().any(|ignored| *ignored == name);
        is_ours.then(|| (name.into_owned(), value.clone()))
    };
    let mut given: Vec<(String, OsString)> = sources.variables.iter().filter_map(ours).collect();
    // The environment has no order; problems and tests like one.
    given.sort();
    let mut values = Vec::new();
    for (name, value) in given {
        let origin = Origin::Environment { variable: cut(&name) };
        let Some(at) = keys.iter().position(|key| key.variable() == name) else {
            let bare = name.strip_prefix(VARIABLE_PREFIX).unwrap_or(&name);
            problems.add(|| Problem::unknown(keys, origin, bare));
            continue;
        };
        match read_os_text(&keys[at].kind, &value) {
            Ok(value) => values.push((at, value, origin)),
            Err(reason) => {
                problems.add(|| Problem::value(&keys[at], origin, &format!("{:?}", value.to_string_lossy()), reason))
            }
        }
    }
    values
}

/// A path need not be Unicode; everything else must.
fn read_os_text(kind: &Kind, text: &OsStr) -> Result<Value, Option<String>> {
    match (kind, text.to_str()) {
        (_, Some(text)) => kind.read_text(text),
        (Kind::Path, None) => Ok(Value::Path(PathBuf::from(text))),
        (_, None) => Err(Some("it is not Unicode".to_owned())),
    }
}

fn read_flags(keys: &[Key], sources: &Sources, problems: &mut Problems) -> Vec<(usize, Value, Origin)> {
    let mut values = Vec::new();
    for (name, value, shown) in &sources.flags {
        let origin = Origin::Flag { flag: shown.clone() };
        let Some(at) = keys.iter().position(|key| key.name == name) else {
            problems.add(|| Problem::unknown(keys, origin, name));
            continue;
        };
        match keys[at].kind.read_text(value) {
            Ok(value) => values.push((at, value, origin)),
            Err(reason) => problems.add(|| Problem::value(&keys[at], origin, &format!("{value:?}"), reason)),
        }
    }
    values
}

#[cfg(test)]
mod tests;
