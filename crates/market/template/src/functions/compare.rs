//! Go's own functions: comparison, logic, `len`, `index`, printing, escaping.

use super::{Function, Outcome, row, text};
use crate::exec::{Run, int};
use crate::gofmt;
use crate::value::{Failure, Value};

pub(super) const TABLE: &[Function] = &[
    row("and", "aa*", |_, _| Ok(Value::Nil)),
    row("or", "aa*", |_, _| Ok(Value::Nil)),
    row("not", "a", |_, a| Ok(Value::Bool(!a[0].truth()))),
    row("eq", "aa*", |_, a| equal_to_any(a).map(Value::Bool)),
    row("ne", "aa", |_, a| Ok(Value::Bool(!equal(&a[0], &a[1])?))),
    row("lt", "aa", |_, a| Ok(Value::Bool(less(&a[0], &a[1])?))),
    row("le", "aa", |_, a| Ok(Value::Bool(less_or_equal(&a[0], &a[1])?))),
    row("gt", "aa", |_, a| Ok(Value::Bool(!less_or_equal(&a[0], &a[1])?))),
    row("ge", "aa", |_, a| Ok(Value::Bool(!less(&a[0], &a[1])?))),
    row("len", "a", |_, a| len(&a[0])),
    row("index", "aa*", |_, a| index(a)),
    row("print", "a*", |_, a| Ok(Value::str(print(a)))),
    row("println", "a*", |_, a| Ok(Value::str(a.iter().map(gofmt::plain).collect::<Vec<_>>().join(" ") + "\n"))),
    row("printf", "sa*", |_, a| Ok(Value::str(gofmt::sprintf(text(a, 0), &a[1..])))),
    row("html", "a*", |_, a| Ok(Value::str(escape(&print(a), html)))),
    row("js", "a*", |_, a| Ok(Value::str(escape(&print(a), js)))),
    row("urlquery", "a*", |_, a| Ok(Value::str(query(&print(a))))),
    row("call", "aa*", call),
];

fn call(_: &mut Run<'_>, _: &[Value]) -> Outcome {
    Err("functions are not values here: call is not supported".into())
}

/// `fmt.Sprint`: a space between two operands of which neither is text.
fn print(arguments: &[Value]) -> String {
    let mut out = String::new();
    for (at, it) in arguments.iter().enumerate() {
        let apart = at > 0 && !matches!(it, Value::Str(_)) && !matches!(arguments[at - 1], Value::Str(_));
        if apart {
            out.push(' ');
        }
        out.push_str(&gofmt::plain(it));
    }
    out
}

#[derive(PartialEq, Eq, Clone, Copy)]
enum Basic {
    Bool,
    Whole,
    Float,
    Str,
    None,
}

fn basic(value: &Value) -> Basic {
    match value {
        Value::Bool(_) => Basic::Bool,
        Value::Int(_) | Value::Int64(_) => Basic::Whole,
        Value::Float(_) => Basic::Float,
        Value::Str(_) => Basic::Str,
        _ => Basic::None,
    }
}

fn incompatible(a: &Value, b: &Value) -> Failure {
    format!("incompatible types for comparison: {} and {}", a.type_name(), b.type_name())
}

fn equal_to_any(arguments: &[Value]) -> Result<bool, Failure> {
    let [first, others @ ..] = arguments else { return Ok(false) };
    if others.is_empty() {
        return Err("missing argument for comparison".into());
    }
    for other in others {
        if equal(first, other)? {
            return Ok(true);
        }
    }
    Ok(false)
}

fn equal(a: &Value, b: &Value) -> Result<bool, Failure> {
    for side in [a, b] {
        if let Value::List(_) | Value::Map(_) = side
            && basic(a) == basic(b)
            && !matches!((a, b), (Value::Nil, _) | (_, Value::Nil))
        {
            return Err(format!("non-comparable type {}: {}", gofmt::plain(side), side.type_name()));
        }
    }
    Ok(match (a, b) {
        (Value::Nil, Value::Nil) => true,
        (Value::Nil, _) | (_, Value::Nil) => false,
        (Value::Bool(a), Value::Bool(b)) => a == b,
        (Value::Int(a) | Value::Int64(a), Value::Int(b) | Value::Int64(b)) => a == b,
        #[expect(clippy::float_cmp, reason = "Go compares floats exactly too")]
        (Value::Float(a), Value::Float(b)) => a == b,
        (Value::Str(a), Value::Str(b)) => a == b,
        _ => return Err(incompatible(a, b)),
    })
}

fn less(a: &Value, b: &Value) -> Result<bool, Failure> {
    let kinds = (basic(a), basic(b));
    if kinds.0 == Basic::None || kinds.1 == Basic::None {
        return Err("invalid type for comparison".into());
    }
    match (a, b) {
        (Value::Int(a) | Value::Int64(a), Value::Int(b) | Value::Int64(b)) => Ok(a < b),
        (Value::Float(a), Value::Float(b)) => Ok(a < b),
        (Value::Str(a), Value::Str(b)) => Ok(a < b),
        (Value::Bool(_), Value::Bool(_)) => Err("invalid type for comparison".into()),
        _ => Err(incompatible(a, b)),
    }
}

fn less_or_equal(a: &Value, b: &Value) -> Result<bool, Failure> {
    Ok(less(a, b)? || equal(a, b)?)
}

fn len(value: &Value) -> Outcome {
    Ok(int(match value {
        Value::Str(it) => it.len(),
        Value::List(it) => it.len(),
        Value::Map(it) => it.len(),
        Value::Nil => return Err("len of nil pointer".into()),
        Value::Object(it) => return len(&it.plain()),
        other => return Err(format!("len of type {}", other.type_name())),
    }))
}

fn index(arguments: &[Value]) -> Outcome {
    let [first, keys @ ..] = arguments else { return Ok(Value::Nil) };
    let mut value = first.clone();
    if matches!(value, Value::Nil) {
        return Err("index of untyped nil".into());
    }
    for key in keys {
        value = match (&value, key) {
            (Value::Nil, _) => return Err("index of nil pointer".into()),
            (Value::Map(map), Value::Str(key)) => map.get(key).unwrap_or_default(),
            (Value::Map(_), Value::Nil) => return Err("value is nil; should be of type string".into()),
            (Value::Map(_), other) => {
                return Err(format!("value has type {}; should be string", other.type_name()));
            }
            (Value::List(items), key) => items[position(key, items.len())?].clone(),
            (Value::Str(it), key) => Value::Int(i64::from(it.as_bytes()[position(key, it.len())?])),
            (other, _) => return Err(format!("can't index item of type {}", other.type_name())),
        };
    }
    Ok(value)
}

/// An index into `len` things.
fn position(key: &Value, len: usize) -> Result<usize, Failure> {
    let at = match key {
        Value::Int(it) | Value::Int64(it) => *it,
        Value::Nil => return Err("cannot index slice/array with nil".into()),
        other => return Err(format!("cannot index slice/array with type {}", other.type_name())),
    };
    let found = usize::try_from(at).ok().filter(|it| *it < len);
    found.ok_or_else(|| format!("index out of range: {at}"))
}

fn escape(text: &str, one: fn(char) -> Option<String>) -> String {
    text.chars().map(|it| one(it).unwrap_or_else(|| it.to_string())).collect()
}

fn html(it: char) -> Option<String> {
    Some(
        match it {
            '<' => "&lt;",
            '>' => "&gt;",
            '&' => "&amp;",
            '"' => "&#34;",
            '\'' => "&#39;",
            '\0' => "\u{fffd}",
            _ => return None,
        }
        .into(),
    )
}

fn js(it: char) -> Option<String> {
    Some(match it {
        '\\' => "\\\\".into(),
        '\'' => "\\'".into(),
        '"' => "\\\"".into(),
        '<' | '>' | '&' | '=' => format!("\\u{:04X}", u32::from(it)),
        it if it < ' ' || it == '\u{2028}' || it == '\u{2029}' => format!("\\u{:04X}", u32::from(it)),
        _ => return None,
    })
}

fn query(text: &str) -> String {
    let mut out = String::new();
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => out.push(char::from(byte)),
            b' ' => out.push('+'),
            other => out.push_str(&format!("%{other:02X}")),
        }
    }
    out
}
