//! What decides: defaults, requirements, the kinds of values; what renders within a rendering (`include`, `tpl`); what asks the host
//! (`lookup`, random texts).

use super::{Function, Outcome, is_empty, row, text, whole};
use crate::exec::Run;
use crate::value::{Failure, Value};

pub(super) const TABLE: &[Function] = &[
    row("default", "aa*", |_, a| {
        Ok(match a.get(1) {
            Some(given) if !is_empty(given) => given.clone(),
            _ => a[0].clone(),
        })
    }),
    row("empty", "a", |_, a| Ok(Value::Bool(is_empty(&a[0])))),
    row("coalesce", "a*", |_, a| Ok(a.iter().find(|it| !is_empty(it)).cloned().unwrap_or_default())),
    row("all", "a*", |_, a| Ok(Value::Bool(!a.iter().any(is_empty)))),
    row("any", "a*", |_, a| Ok(Value::Bool(!a.iter().all(is_empty)))),
    row("ternary", "aab", |_, a| Ok(if a[2].truth() { a[0].clone() } else { a[1].clone() })),
    row("fail", "s", |_, a| Err(said(text(a, 0)))),
    row("required", "sa", |_, a| required(text(a, 0), &a[1])),
    row("include", "sa", |run, a| run.include(text(a, 0), &a[1])),
    row("tpl", "sa", |run, a| run.tpl(text(a, 0), &a[1])),
    row("lookup", "ssss", |run, a| run.env.find([text(a, 0), text(a, 1), text(a, 2), text(a, 3)])),
    row("typeOf", "a", |_, a| Ok(Value::str(a[0].type_name()))),
    row("typeIs", "sa", |_, a| Ok(Value::Bool(text(a, 0) == a[1].type_name()))),
    row("typeIsLike", "sa", |_, a| {
        let name = a[1].type_name();
        Ok(Value::Bool(text(a, 0) == name || format!("*{}", text(a, 0)) == name))
    }),
    row("kindOf", "a", |_, a| Ok(Value::str(a[0].kind()))),
    row("kindIs", "sa", |_, a| Ok(Value::Bool(text(a, 0) == a[1].kind()))),
    row("deepEqual", "aa", |_, a| a[0].deep_equal(&a[1]).map(Value::Bool)),
    row("hello", "", |_, _| Ok(Value::str("Hello!"))),
    row("randAlphaNum", "i", |run, a| random(run, whole(a, 0), |it| it.is_ascii_alphanumeric())),
    row("randAlpha", "i", |run, a| random(run, whole(a, 0), |it| it.is_ascii_alphabetic())),
    row("randNumeric", "i", |run, a| random(run, whole(a, 0), |it| it.is_ascii_digit())),
    row("randAscii", "i", |run, a| random(run, whole(a, 0), |it| (b' '..=b'~').contains(it))),
];

/// A message of the chart's author, marked so that [`crate::TemplateError::as_helm`] finds it.
fn said(message: &str) -> Failure {
    format!("{}{message}{}", crate::set::SAID[0], crate::set::SAID[1])
}

fn required(warning: &str, value: &Value) -> Outcome {
    match value {
        Value::Nil => Err(said(warning)),
        Value::Str(it) if it.is_empty() => Err(said(warning)),
        other => Ok(other.clone()),
    }
}

/// Random letters. Bytes that are not wanted are thrown away, so that each letter is as likely as any other.
fn random(run: &Run<'_>, count: i64, wanted: fn(&u8) -> bool) -> Outcome {
    // Secrets have tens of letters; this bounds what one call can ask of the host.
    const LETTERS_MAX: usize = 65_536;
    let Some(source) = run.env.random else {
        return Err("no source of randomness here: give the value instead".into());
    };
    let count = usize::try_from(count).map_err(|_| Failure::from("a count of letters cannot be negative"))?;
    if count > LETTERS_MAX {
        return Err(format!("at most {LETTERS_MAX} letters at once"));
    }
    let mut letters = String::with_capacity(count);
    let mut buffer = [0; 256];
    while letters.len() < count {
        source(&mut buffer)?;
        let missing = count - letters.len();
        letters.extend(buffer.iter().map(|it| it & 0x7f).filter(wanted).take(missing).map(char::from));
    }
    Ok(Value::str(letters))
}
