//! Arithmetic and conversions. Whole numbers are Go's `int64`: they wrap, and division by zero is an error.

use super::{Function, Outcome, row, strval, text};
use crate::exec::lossy;
use crate::number;
use crate::value::{Failure, Value};

pub(super) const TABLE: &[Function] = &[
    row("int", "a", |_, a| Ok(Value::Int(whole(&a[0])))),
    row("int64", "a", |_, a| Ok(Value::Int64(whole(&a[0])))),
    row("float64", "a", |_, a| Ok(Value::Float(float(&a[0])))),
    row("atoi", "s", |_, a| Ok(Value::Int(text(a, 0).parse().unwrap_or(0)))),
    row("toDecimal", "a", |_, a| Ok(Value::Int64(i64::from_str_radix(&strval(&a[0]), 8).unwrap_or(0)))),
    row("toString", "a", |_, a| Ok(Value::str(strval(&a[0])))),
    row("toStrings", "a", |_, a| Ok(Value::list(super::texts(&a[0]).into_iter().map(Value::str).collect()))),
    row("add", "a*", |_, a| Ok(Value::Int64(a.iter().map(whole).fold(0, i64::wrapping_add)))),
    row("add1", "a", |_, a| Ok(Value::Int64(whole(&a[0]).wrapping_add(1)))),
    row("sub", "aa", |_, a| Ok(Value::Int64(whole(&a[0]).wrapping_sub(whole(&a[1]))))),
    row("mul", "aa*", |_, a| Ok(Value::Int64(a.iter().map(whole).fold(1, i64::wrapping_mul)))),
    row("div", "aa", |_, a| divide(a, i64::wrapping_div)),
    row("mod", "aa", |_, a| divide(a, i64::wrapping_rem)),
    row("max", "aa*", |_, a| Ok(Value::Int64(a.iter().map(whole).max().unwrap_or(0)))),
    row("biggest", "aa*", |_, a| Ok(Value::Int64(a.iter().map(whole).max().unwrap_or(0)))),
    row("min", "aa*", |_, a| Ok(Value::Int64(a.iter().map(whole).min().unwrap_or(0)))),
    row("maxf", "aa*", |_, a| Ok(Value::Float(a.iter().map(float).fold(f64::MIN, f64::max)))),
    row("minf", "aa*", |_, a| Ok(Value::Float(a.iter().map(float).fold(f64::MAX, f64::min)))),
    row("addf", "a*", |_, a| Ok(Value::Float(a.iter().map(float).sum()))),
    row("add1f", "a", |_, a| Ok(Value::Float(float(&a[0]) + 1.0))),
    row("subf", "aa*", |_, a| Ok(Value::Float(a[1..].iter().map(float).fold(float(&a[0]), |a, b| a - b)))),
    row("mulf", "aa*", |_, a| Ok(Value::Float(a.iter().map(float).product()))),
    row("divf", "aa*", |_, a| Ok(Value::Float(a[1..].iter().map(float).fold(float(&a[0]), |a, b| a / b)))),
    row("floor", "a", |_, a| Ok(Value::Float(float(&a[0]).floor()))),
    row("ceil", "a", |_, a| Ok(Value::Float(float(&a[0]).ceil()))),
    row("round", "aia*", |_, a| round(a)),
];

/// Anything as a whole number, 0 for what is none.
#[expect(clippy::cast_possible_truncation, reason = "toward zero, as Go converts; out of range saturates")]
fn whole(value: &Value) -> i64 {
    match value {
        Value::Int(it) | Value::Int64(it) => *it,
        Value::Float(it) => *it as i64,
        Value::Bool(it) => i64::from(*it),
        // A text of digits is read as in Go's source, so that "0x10" is 16; `cast` drops a fraction of zeros.
        Value::Str(it) => {
            let digits = it.strip_suffix(".0").unwrap_or(it);
            number::int_any_base(digits.trim()).unwrap_or(0)
        }
        _ => 0,
    }
}

fn float(value: &Value) -> f64 {
    match value {
        Value::Float(it) => *it,
        Value::Str(it) => number::float(it).unwrap_or(0.0),
        other => lossy(whole(other)),
    }
}

fn divide(arguments: &[Value], how: fn(i64, i64) -> i64) -> Outcome {
    match whole(&arguments[1]) {
        0 => Err("runtime error: integer divide by zero".into()),
        by => Ok(Value::Int64(how(whole(&arguments[0]), by))),
    }
}

/// `round NUMBER DIGITS [ROUND-ON]`.
fn round(arguments: &[Value]) -> Outcome {
    let digits = match &arguments[1] {
        Value::Int(it) => i32::try_from(*it).map_err(|_| Failure::from("too many digits"))?,
        _ => 0,
    };
    let on = arguments.get(2).map_or(0.5, float);
    let scale = 10_f64.powi(digits);
    let scaled = float(&arguments[0]) * scale;
    let fraction = scaled.fract();
    let rounded = if fraction >= on { scaled.ceil() } else { scaled.floor() };
    Ok(Value::Float(rounded / scale))
}
