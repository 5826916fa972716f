//! The configuration file: TOML, flattened to dotted names with their lines.

use std::path::Path;

use toml::de::{DeTable, DeValue};

use crate::kind::shown_toml;
use crate::problem::{Origin, Problem, Problems};
use crate::settings::{FILE_BYTES_MAX, Key};
use crate::value::Value;

/// Reads the file: for each value that is a setting, which one (its position in the table of keys), the value, and where it stands.
pub(crate) fn read(keys: &[Key], path: &Path, text: &str, problems: &mut Problems) -> Vec<(usize, Value, Origin)> {
    if text.len() > FILE_BYTES_MAX {
        problems.add(|| Problem::FileTooLarge { path: path.to_owned(), bytes: text.len(), max: FILE_BYTES_MAX });
        return Vec::new();
    }
    let root = match DeTable::parse(text) {
        Ok(root) => root,
        Err(error) => {
            let at = error.span().map_or(0, |span| span.start);
            // The parser may quote the file.
            let message = error.message().replace(char::is_control, " ");
            problems.add(|| Problem::Syntax { path: path.to_owned(), line: Lines::of(text).at(at), message });
            return Vec::new();
        }
    };
    let mut leaves = Vec::new();
    flatten(keys, "", root.get_ref(), &mut leaves);
    leaves.sort_by_key(|leaf| leaf.offset);
    let lines = Lines::of(text);
    let mut values = Vec::new();
    for Leaf { name, offset, value } in leaves {
        let origin = Origin::File { path: path.to_owned(), line: lines.at(offset) };
        let Some(at) = keys.iter().position(|key| key.name == name) else {
            problems.add(|| not_a_setting(keys, origin, name));
            continue;
        };
        match keys[at].kind.read_toml(value) {
            Ok(value) => values.push((at, value, origin)),
            Err(reason) => problems.add(|| Problem::value(&keys[at], origin, &shown_toml(value), reason)),
        }
    }
    values
}

fn not_a_setting(keys: &[Key], origin: Origin, name: String) -> Problem {
    let inside = keys.iter().find_map(|key| key.name.strip_prefix(&name)?.strip_prefix('.'));
    match inside {
        Some(inside) => Problem::SectionExpected { origin, name, inside: inside.to_owned() },
        None => Problem::unknown(keys, origin, &name),
    }
}

struct Leaf<'a> {
    name: String,
    /// Where its key begins in the text.
    offset: usize,
    value: &'a DeValue<'a>,
}

/// Collects what has a value. Depth is limited by the TOML parser (80).
fn flatten<'a>(keys: &[Key], prefix: &str, table: &'a DeTable<'a>, leaves: &mut Vec<Leaf<'a>>) {
    for (key, value) in table {
        let name =
            if prefix.is_empty() { segment(key.get_ref()) } else { format!("{prefix}.{}", segment(key.get_ref())) };
        match value.get_ref() {
            // An empty section is none of our business if it exists, and a misspelt name if it does not.
            DeValue::Table(inner) if is_section(keys, &name) || !(inner.is_empty() || is_key(keys, &name)) => {
                flatten(keys, &name, inner, leaves);
            }
            value => leaves.push(Leaf { name, offset: key.span().start, value }),
        }
    }
}

fn is_key(keys: &[Key], name: &str) -> bool {
    keys.iter().any(|key| key.name == name)
}

fn is_section(keys: &[Key], name: &str) -> bool {
    keys.iter().any(|key| key.name.strip_prefix(name).is_some_and(|rest| rest.starts_with('.')))
}

/// One part of a name. A quoted key can contain dots: it stays quoted, so that it is not taken for a section and a key.
fn segment(key: &str) -> String {
    let bare = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    if !key.is_empty() && key.chars().all(bare) { key.to_owned() } else { format!("{key:?}") }
}

/// Finds the line of an offset by bisection: a file of a megabyte can have as many mistakes as lines.
struct Lines {
    starts: Vec<usize>,
}

impl Lines {
    fn of(text: &str) -> Self {
        let after_breaks = text.bytes().enumerate().filter(|(_, byte)| *byte == b'\n').map(|(at, _)| at + 1);
        Self { starts: std::iter::once(0).chain(after_breaks).collect() }
    }

    /// The line, counted from 1.
    fn at(&self, offset: usize) -> usize {
        self.starts.partition_point(|start| *start <= offset)
    }
}
