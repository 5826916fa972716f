//! Regular expressions. The `regex` crate has RE2's syntax and, like it, linear time; patterns are limited in size by the crate.

use regex::Regex;

use super::{Function, Outcome, row, text, whole};
use crate::value::{Failure, Value};

pub(super) const TABLE: &[Function] = &[
    row("regexMatch", "ss", |_, a| Ok(Value::Bool(compile(a).is_ok_and(|it| it.is_match(text(a, 1)))))),
    row("mustRegexMatch", "ss", |_, a| Ok(Value::Bool(compile(a)?.is_match(text(a, 1))))),
    row("regexFind", "ss", |_, a| find(a)),
    row("mustRegexFind", "ss", |_, a| find(a)),
    row("regexFindAll", "ssi", |_, a| find_all(a)),
    row("mustRegexFindAll", "ssi", |_, a| find_all(a)),
    row("regexReplaceAll", "sss", |_, a| replace(a)),
    row("mustRegexReplaceAll", "sss", |_, a| replace(a)),
    row("regexReplaceAllLiteral", "sss", |_, a| replace_literally(a)),
    row("mustRegexReplaceAllLiteral", "sss", |_, a| replace_literally(a)),
    row("regexSplit", "ssi", |_, a| split(a)),
    row("mustRegexSplit", "ssi", |_, a| split(a)),
    row("regexQuoteMeta", "s", |_, a| Ok(Value::str(quote_meta(text(a, 0))))),
];

fn compile(arguments: &[Value]) -> Result<Regex, Failure> {
    let pattern = text(arguments, 0);
    Regex::new(pattern).map_err(|it| format!("error parsing regexp: {it}"))
}

fn find(arguments: &[Value]) -> Outcome {
    Ok(Value::str(compile(arguments)?.find(text(arguments, 1)).map_or("", |it| it.as_str())))
}

fn limit(arguments: &[Value]) -> usize {
    usize::try_from(whole(arguments, 2)).unwrap_or(usize::MAX)
}

fn find_all(arguments: &[Value]) -> Outcome {
    let pattern = compile(arguments)?;
    let found = pattern.find_iter(text(arguments, 1)).take(limit(arguments));
    Ok(Value::list(found.map(|it| Value::str(it.as_str())).collect()))
}

fn replace(arguments: &[Value]) -> Outcome {
    let pattern = compile(arguments)?;
    Ok(Value::str(pattern.replace_all(text(arguments, 1), text(arguments, 2))))
}

fn replace_literally(arguments: &[Value]) -> Outcome {
    let pattern = compile(arguments)?;
    Ok(Value::str(pattern.replace_all(text(arguments, 1), regex::NoExpand(text(arguments, 2)))))
}

fn split(arguments: &[Value]) -> Outcome {
    let (pattern, text) = (compile(arguments)?, text(arguments, 1));
    Ok(Value::list(pattern.splitn(text, limit(arguments)).map(Value::str).collect()))
}

/// Go escapes exactly these.
fn quote_meta(text: &str) -> String {
    let mut out = String::new();
    for it in text.chars() {
        if r"\.+*?()|[]{}^$".contains(it) {
            out.push('\\');
        }
        out.push(it);
    }
    out
}
