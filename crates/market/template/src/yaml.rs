//! YAML as Helm reads and writes it: read by YAML 1.1's rules for plain words (`yes`, `0755`), written with sorted keys, lists not
//! indented, and quotes where a plain word would be read as something else.
//!
//! Fails with the reader's message, which has line and column. Aliases are bounded by the reader's budget.

use serde_saphyr::options::DuplicateKeyPolicy;

use crate::value::{Failure, Value};

/// Reads one document.
///
/// # Errors
/// What is wrong with it, and where.
pub fn read(text: &str) -> Result<serde_json::Value, Failure> {
    let mut documents = read_all(text)?;
    match documents.len() {
        0 => Ok(serde_json::Value::Null),
        1 => Ok(documents.remove(0)),
        many => Err(format!("expected one YAML document, found {many}")),
    }
}

/// Reads all documents; empty ones are left out.
///
/// # Errors
/// What is wrong with one, and where.
pub fn read_all(text: &str) -> Result<Vec<serde_json::Value>, Failure> {
    let options = serde_saphyr::options! {
        // As Go's YAML library, which Helm uses: the last wins.
        duplicate_keys: DuplicateKeyPolicy::LastWins,
        legacy_octal_numbers: true,
        with_snippet: false,
    };
    serde_saphyr::from_multiple_with_options(text, options).map_err(|it| format!("YAML: {it}"))
}

/// Writes a value as Helm's `toYaml`: without a newline at the end.
///
/// # Errors
/// The value contains itself, is too large, or holds a float that is not finite.
pub fn write(value: &Value) -> Result<String, Failure> {
    Ok(write_json(&value.to_json()?))
}

/// As [`write`], with lists indented (`toYamlPretty`).
///
/// # Errors
/// As [`write`].
pub fn write_indented(value: &Value) -> Result<String, Failure> {
    let mut writer = Writer { out: String::new(), indent_lists: true };
    writer.top(&value.to_json()?);
    Ok(writer.out.trim_end_matches('\n').to_owned())
}

/// Writes JSON as YAML, without a newline at the end.
#[must_use]
pub fn write_json(value: &serde_json::Value) -> String {
    let mut writer = Writer { out: String::new(), indent_lists: false };
    writer.top(value);
    writer.out.strip_suffix('\n').unwrap_or(&writer.out).to_owned()
}

struct Writer {
    out: String,
    indent_lists: bool,
}

impl Writer {
    fn top(&mut self, value: &serde_json::Value) {
        match value {
            serde_json::Value::Object(map) if !map.is_empty() => self.map(map, 0, false),
            serde_json::Value::Array(items) if !items.is_empty() => self.list(items, 0, false),
            other => {
                self.scalar(other, 0);
                self.out.push('\n');
            }
        }
    }

    fn margin(&mut self, indent: usize) {
        self.out.extend(std::iter::repeat_n(' ', indent));
    }

    /// `inline` says that the first entry continues a line (after `- `).
    fn map(&mut self, map: &serde_json::Map<String, serde_json::Value>, indent: usize, inline: bool) {
        let mut entries: Vec<_> = map.iter().collect();
        entries.sort_by(|a, b| natural(a.0, b.0));
        for (index, (key, value)) in entries.into_iter().enumerate() {
            if index > 0 || !inline {
                self.margin(indent);
            }
            let key = if key.contains('\n') { double_quoted(key) } else { plain_or_quoted(key) };
            self.out.push_str(&key);
            self.out.push(':');
            match value {
                serde_json::Value::Object(inner) if !inner.is_empty() => {
                    self.out.push('\n');
                    self.map(inner, indent + 2, false);
                }
                serde_json::Value::Array(items) if !items.is_empty() => {
                    self.out.push('\n');
                    self.list(items, if self.indent_lists { indent + 2 } else { indent }, false);
                }
                other => {
                    self.out.push(' ');
                    self.scalar(other, indent + 2);
                    self.out.push('\n');
                }
            }
        }
    }

    fn list(&mut self, items: &[serde_json::Value], indent: usize, inline: bool) {
        for (index, item) in items.iter().enumerate() {
            if index > 0 || !inline {
                self.margin(indent);
            }
            self.out.push_str("- ");
            match item {
                serde_json::Value::Object(map) if !map.is_empty() => self.map(map, indent + 2, true),
                serde_json::Value::Array(items) if !items.is_empty() => self.list(items, indent + 2, true),
                other => {
                    self.scalar(other, indent + 2);
                    self.out.push('\n');
                }
            }
        }
    }

    fn scalar(&mut self, value: &serde_json::Value, indent: usize) {
        match value {
            serde_json::Value::Null => self.out.push_str("null"),
            serde_json::Value::Bool(it) => self.out.push_str(if *it { "true" } else { "false" }),
            serde_json::Value::Number(it) => self.out.push_str(&number(it)),
            serde_json::Value::Array(_) => self.out.push_str("[]"),
            serde_json::Value::Object(_) => self.out.push_str("{}"),
            serde_json::Value::String(it) => self.text(it, indent),
        }
    }

    fn text(&mut self, text: &str, indent: usize) {
        if !text.contains('\n') || !printable(text) {
            self.out.push_str(&plain_or_quoted(text));
            return;
        }
        self.out.push('|');
        if text.starts_with([' ', '\n']) {
            self.out.push('2');
        }
        if !text.ends_with('\n') {
            self.out.push('-');
        } else if text.ends_with("\n\n") || text == "\n" {
            self.out.push('+');
        }
        for line in text.strip_suffix('\n').unwrap_or(text).split('\n') {
            self.out.push('\n');
            if !line.is_empty() {
                self.margin(indent);
                self.out.push_str(line);
            }
        }
    }
}

/// Integers as they are; floats as Go's YAML library writes them.
fn number(it: &serde_json::Number) -> String {
    if it.is_f64() { crate::gofmt::float_v(it.as_f64().unwrap_or(0.0)) } else { it.to_string() }
}

/// go-yaml's order of keys: letters before digits that follow, runs of digits by their value.
fn natural(a: &str, b: &str) -> std::cmp::Ordering {
    let (left, right): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let mut digits = false;
    let mut at = 0;
    while at < left.len() && at < right.len() {
        let (x, y) = (left[at], right[at]);
        if x == y {
            digits = x.is_ascii_digit();
            at += 1;
            continue;
        }
        return match (x.is_alphabetic(), y.is_alphabetic()) {
            (true, true) => x.cmp(&y),
            (true, false) => {
                if digits {
                    std::cmp::Ordering::Less
                } else {
                    std::cmp::Ordering::Greater
                }
            }
            (false, true) => {
                if digits {
                    std::cmp::Ordering::Greater
                } else {
                    std::cmp::Ordering::Less
                }
            }
            (false, false) => by_number(&left, &right, at),
        };
    }
    left.len().cmp(&right.len())
}

/// Two texts that differ first at `at`, where neither has a letter: the numbers they stand in decide.
fn by_number(left: &[char], right: &[char], at: usize) -> std::cmp::Ordering {
    let start = (0..at).rev().take_while(|it| left[*it].is_ascii_digit()).last().unwrap_or(at);
    let run = |text: &[char]| -> String { text[start..].iter().take_while(|it| it.is_ascii_digit()).collect() };
    let (a, b) = (run(left), run(right));
    let (a, b) = (a.trim_start_matches('0').to_owned(), b.trim_start_matches('0').to_owned());
    a.len().cmp(&b.len()).then_with(|| a.cmp(&b)).then_with(|| left[at].cmp(&right[at]))
}

fn printable(text: &str) -> bool {
    text.chars().all(|it| it == '\n' || it == '\t' || (!it.is_control() && it != '\u{feff}'))
}

fn plain_or_quoted(text: &str) -> String {
    if !printable(text) || text.contains('\t') {
        return double_quoted(text);
    }
    if resolves_otherwise(text) {
        return format!("\"{text}\"");
    }
    if text.contains('\n') {
        return double_quoted(text);
    }
    if plain_syntax(text) { text.to_owned() } else { format!("'{}'", text.replace('\'', "''")) }
}

/// Whether a plain scalar of this text would not be read as text.
fn resolves_otherwise(text: &str) -> bool {
    const WORDS: [&str; 9] = ["y", "yes", "true", "on", "n", "no", "false", "off", "null"];
    let lower = text.to_lowercase();
    // Only the three usual spellings are words.
    let usual = text == lower || text == text.to_uppercase() || text.chars().skip(1).all(|it| !it.is_uppercase());
    if (usual && WORDS.contains(&lower.as_str())) || matches!(text, "" | "~") {
        return true;
    }
    if usual && matches!(lower.trim_start_matches(['+', '-']), ".inf" | ".nan") {
        return true;
    }
    looks_like_number(text) || looks_like_time(text)
}

fn looks_like_number(text: &str) -> bool {
    let bare = text.replace('_', "");
    if !bare.starts_with(|it: char| it.is_ascii_digit() || matches!(it, '+' | '-' | '.')) {
        return false;
    }
    let unsigned = bare.trim_start_matches(['+', '-']);
    if bare.len() - unsigned.len() > 1 || unsigned.is_empty() {
        return false;
    }
    let based = [("0b", 2), ("0x", 16), ("0o", 8)].iter().any(|(prefix, radix)| {
        unsigned.strip_prefix(prefix).is_some_and(|it| !it.is_empty() && it.chars().all(|it| it.is_digit(*radix)))
    });
    // Numbers to the base of 60 were removed from YAML; they are quoted for the sake of old readers.
    let sexagesimal = unsigned.contains(':')
        && unsigned.starts_with(|it: char| it.is_ascii_digit())
        && unsigned.split(':').all(|it| !it.is_empty() && it.chars().all(|it| it.is_ascii_digit() || it == '.'));
    let digits = unsigned.starts_with(|it: char| it.is_ascii_digit() || it == '.')
        && unsigned.contains(|it: char| it.is_ascii_digit());
    based || sexagesimal || (digits && unsigned.parse::<f64>().is_ok())
}

/// `2001-12-14`, alone or with a time behind.
fn looks_like_time(text: &str) -> bool {
    let bytes = text.as_bytes();
    let digits = |range: std::ops::Range<usize>| bytes.get(range).is_some_and(|it| it.iter().all(u8::is_ascii_digit));
    let date =
        bytes.len() >= 10 && digits(0..4) && bytes[4] == b'-' && digits(5..7) && bytes[7] == b'-' && digits(8..10);
    date && (bytes.len() == 10 || (matches!(bytes[10], b'T' | b't' | b' ') && text[11..].contains(':')))
}

fn plain_syntax(text: &str) -> bool {
    let first = text.chars().next().unwrap_or(' ');
    let second = text.chars().nth(1);
    let indicator = match first {
        '-' | '?' | ':' => second.is_none_or(|it| it == ' '),
        it => ",[]{}#&*!|>'\"%@`".contains(it),
    };
    !indicator
        && !text.starts_with("---")
        && !text.starts_with("...")
        && !text.starts_with([' ', '\t'])
        && !text.ends_with([' ', '\t', ':'])
        && !text.contains(": ")
        && !text.contains(" #")
        && !text.contains('\t')
}

fn double_quoted(text: &str) -> String {
    let mut out = String::from("\"");
    for it in text.chars() {
        match it {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\t' => out.push_str("\\t"),
            '\r' => out.push_str("\\r"),
            '\0' => out.push_str("\\0"),
            '\u{7}' => out.push_str("\\a"),
            '\u{8}' => out.push_str("\\b"),
            '\u{b}' => out.push_str("\\v"),
            '\u{c}' => out.push_str("\\f"),
            '\u{1b}' => out.push_str("\\e"),
            '\u{85}' => out.push_str("\\N"),
            '\u{feff}' => out.push_str("\\uFEFF"),
            it if it.is_control() => out.push_str(&format!("\\x{:02X}", u32::from(it))),
            it => out.push(it),
        }
    }
    out.push('"');
    out
}
