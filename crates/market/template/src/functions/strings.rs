//! Texts. Bounds are Go's: bytes where Go counts bytes; where that would cut a character in two, the cut moves before it.

use super::{Function, Outcome, row, strval, text, texts, whole};
use crate::gofmt;
use crate::value::{Failure, Value};

/// Longest text a repetition or an indentation makes.
const REPEATED_BYTES_MAX: usize = 16 << 20;

pub(super) const TABLE: &[Function] = &[
    row("trim", "s", |_, a| Ok(Value::str(text(a, 0).trim()))),
    row("trimAll", "ss", |_, a| Ok(Value::str(text(a, 1).trim_matches(|it| text(a, 0).contains(it))))),
    row("trimSuffix", "ss", |_, a| Ok(Value::str(text(a, 1).strip_suffix(text(a, 0)).unwrap_or(text(a, 1))))),
    row("trimPrefix", "ss", |_, a| Ok(Value::str(text(a, 1).strip_prefix(text(a, 0)).unwrap_or(text(a, 1))))),
    row("upper", "s", |_, a| Ok(Value::str(text(a, 0).to_uppercase()))),
    row("lower", "s", |_, a| Ok(Value::str(text(a, 0).to_lowercase()))),
    row("title", "s", |_, a| Ok(Value::str(first_letters(text(a, 0), true)))),
    row("untitle", "s", |_, a| Ok(Value::str(first_letters(text(a, 0), false)))),
    row("repeat", "is", |_, a| repeat(whole(a, 0), text(a, 1))),
    row("substr", "iis", |_, a| Ok(Value::str(substr(whole(a, 0), whole(a, 1), text(a, 2))))),
    row("trunc", "is", |_, a| Ok(Value::str(trunc(whole(a, 0), text(a, 1))))),
    row("abbrev", "is", |_, a| Ok(Value::str(abbrev(whole(a, 0), text(a, 1))))),
    row("initials", "s", |_, a| {
        Ok(Value::str(text(a, 0).split_whitespace().filter_map(|it| it.chars().next()).collect::<String>()))
    }),
    row("nospace", "s", |_, a| Ok(Value::str(text(a, 0).split_whitespace().collect::<String>()))),
    row("contains", "ss", |_, a| Ok(Value::Bool(text(a, 1).contains(text(a, 0))))),
    row("hasPrefix", "ss", |_, a| Ok(Value::Bool(text(a, 1).starts_with(text(a, 0))))),
    row("hasSuffix", "ss", |_, a| Ok(Value::Bool(text(a, 1).ends_with(text(a, 0))))),
    row("quote", "a*", |_, a| Ok(Value::str(each(a, |it| gofmt::quote(&strval(it)))))),
    row("squote", "a*", |_, a| Ok(Value::str(each(a, |it| format!("'{}'", strval(it)))))),
    row("cat", "a*", |_, a| Ok(Value::str(each(a, strval)))),
    row("indent", "is", |_, a| indent(whole(a, 0), text(a, 1)).map(Value::str)),
    row("nindent", "is", |_, a| indent(whole(a, 0), text(a, 1)).map(|it| Value::str(format!("\n{it}")))),
    row("replace", "sss", |_, a| Ok(Value::str(text(a, 2).replace(text(a, 0), text(a, 1))))),
    row("plural", "ssi", |_, a| Ok(a[usize::from(whole(a, 2) != 1)].clone())),
    row("snakecase", "s", |_, a| Ok(Value::str(words(text(a, 0)).join("_")))),
    row("kebabcase", "s", |_, a| Ok(Value::str(words(text(a, 0)).join("-")))),
    row("camelcase", "s", |_, a| {
        Ok(Value::str(words(text(a, 0)).iter().map(|it| first_letters(it, true)).collect::<String>()))
    }),
    row("swapcase", "s", |_, a| Ok(Value::str(swapcase(text(a, 0))))),
    row("join", "sa", |_, a| Ok(Value::str(texts(&a[1]).join(text(a, 0))))),
    row("splitList", "ss", |_, a| Ok(Value::list(split(text(a, 1), text(a, 0)).map(Value::str).collect()))),
    row("split", "ss", |_, a| Ok(numbered(split(text(a, 1), text(a, 0))))),
    row("splitn", "sis", |_, a| {
        let most = usize::try_from(whole(a, 1)).unwrap_or(usize::MAX);
        Ok(numbered(text(a, 2).splitn(most, text(a, 0)).map(ToOwned::to_owned)))
    }),
    row("wrap", "is", |_, a| Ok(Value::str(wrap(whole(a, 0), text(a, 1), "\n")))),
    row("wrapWith", "iss", |_, a| Ok(Value::str(wrap(whole(a, 0), text(a, 2), text(a, 1))))),
    row("base", "s", |_, a| Ok(Value::str(base(text(a, 0))))),
    row("dir", "s", |_, a| Ok(Value::str(dir(text(a, 0))))),
    row("ext", "s", |_, a| Ok(Value::str(base(text(a, 0)).rfind('.').map_or("", |at| &base(text(a, 0))[at..])))),
    row("isAbs", "s", |_, a| Ok(Value::Bool(text(a, 0).starts_with('/')))),
];

/// Each argument but nils, with spaces between.
fn each(arguments: &[Value], how: impl Fn(&Value) -> String) -> String {
    arguments.iter().filter(|it| !matches!(it, Value::Nil)).map(how).collect::<Vec<_>>().join(" ")
}

fn first_letters(text: &str, up: bool) -> String {
    let mut out = String::with_capacity(text.len());
    let mut inside = false;
    for it in text.chars() {
        match (inside, up) {
            (false, true) => out.extend(it.to_uppercase()),
            (false, false) => out.extend(it.to_lowercase()),
            (true, _) => out.push(it),
        }
        inside = it.is_alphanumeric() || it == '_' || it == '\'';
    }
    out
}

fn repeat(count: i64, text: &str) -> Outcome {
    let count = usize::try_from(count).map_err(|_| Failure::from("strings: negative Repeat count"))?;
    if count.saturating_mul(text.len()) > REPEATED_BYTES_MAX {
        return Err(format!("repeat would make more than {REPEATED_BYTES_MAX} bytes"));
    }
    Ok(Value::str(text.repeat(count)))
}

/// The byte offset, moved before the character it lies in and into the text.
fn offset(text: &str, at: i64) -> usize {
    let mut at = usize::try_from(at).unwrap_or(0).min(text.len());
    while !text.is_char_boundary(at) {
        at -= 1;
    }
    at
}

fn substr(from: i64, to: i64, text: &str) -> String {
    let end = if to < 0 { text.len() } else { offset(text, to) };
    let start = if from < 0 { 0 } else { offset(text, from) };
    text.get(start..end.max(start)).unwrap_or_default().to_owned()
}

fn trunc(count: i64, text: &str) -> String {
    let bytes = i64::try_from(text.len()).unwrap_or(i64::MAX);
    if count < 0 {
        return text[offset(text, bytes.saturating_add(count))..].to_owned();
    }
    text[..offset(text, count)].to_owned()
}

fn abbrev(width: i64, text: &str) -> String {
    const DOTS: &str = "...";
    let width = usize::try_from(width).unwrap_or(0);
    if width < 4 || text.chars().count() <= width {
        return text.to_owned();
    }
    text.chars().take(width - DOTS.len()).collect::<String>() + DOTS
}

fn indent(spaces: i64, text: &str) -> Result<String, Failure> {
    let spaces = usize::try_from(spaces).map_err(|_| Failure::from("strings: negative Repeat count"))?;
    let lines = text.matches('\n').count() + 1;
    if spaces.saturating_mul(lines) > REPEATED_BYTES_MAX {
        return Err(format!("indentation would make more than {REPEATED_BYTES_MAX} bytes"));
    }
    let margin = " ".repeat(spaces);
    Ok(format!("{margin}{}", text.replace('\n', &format!("\n{margin}"))))
}

/// The lower-case words of a name in any of the usual cases.
fn words(text: &str) -> Vec<String> {
    let letters: Vec<char> = text.chars().collect();
    let mut words = vec![String::new()];
    for (at, it) in letters.iter().enumerate() {
        if matches!(it, '_' | '-' | ' ' | '.') {
            words.push(String::new());
            continue;
        }
        let before = at.checked_sub(1).and_then(|at| letters.get(at)).copied().unwrap_or('_');
        let after = letters.get(at + 1).copied().unwrap_or('_');
        let starts = it.is_uppercase() && (before.is_lowercase() || (before.is_uppercase() && after.is_lowercase()));
        if starts {
            words.push(String::new());
        }
        if let Some(word) = words.last_mut() {
            word.extend(it.to_lowercase());
        }
    }
    words.retain(|it| !it.is_empty());
    words
}

fn swapcase(text: &str) -> String {
    let swap = |it: char| if it.is_uppercase() { it.to_lowercase().to_string() } else { it.to_uppercase().to_string() };
    text.chars().map(swap).collect()
}

fn split<'a>(text: &'a str, by: &'a str) -> Box<dyn Iterator<Item = String> + 'a> {
    if by.is_empty() {
        Box::new(text.chars().map(|it| it.to_string()))
    } else {
        Box::new(text.split(by).map(ToOwned::to_owned))
    }
}

/// Sprig's `split` answers with a map `_0`, `_1`, ….
fn numbered(parts: impl Iterator<Item = String>) -> Value {
    Value::map(parts.enumerate().map(|(at, it)| (format!("_{at}"), Value::str(it))))
}

fn wrap(width: i64, text: &str, newline: &str) -> String {
    let width = usize::try_from(width).unwrap_or(0).max(1);
    let mut out = String::new();
    let mut column = 0;
    for word in text.split(' ') {
        let size = word.chars().count();
        if column > 0 && column + 1 + size > width {
            out.push_str(newline);
            column = 0;
        } else if column > 0 {
            out.push(' ');
            column += 1;
        }
        out.push_str(word);
        column += size;
    }
    out
}

fn base(path: &str) -> &str {
    match path.trim_end_matches('/') {
        "" if path.is_empty() => ".",
        "" => "/",
        trimmed => trimmed.rsplit('/').next().unwrap_or(trimmed),
    }
}

fn dir(path: &str) -> String {
    match path.rsplit_once('/') {
        None => ".".into(),
        Some(("", _)) => "/".into(),
        Some((dir, _)) => dir.trim_end_matches('/').to_owned(),
    }
}
