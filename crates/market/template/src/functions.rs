//! The functions that templates call: one table, each with the types of its parameters, so that wrong arguments are refused with Go's
//! words before the function runs.
//!
//! A signature is a letter per parameter: `s` string, `i` int, `I` int64, `f` float64, `b` bool, `m` map, `l` list, `a` anything; a
//! `*` at the end repeats the last. Functions return the text of their error, to which the evaluator adds the place.

mod compare;
mod dicts;
mod encode;
mod flow;
mod lists;
mod math;
mod regexps;
mod semver;
mod strings;

use std::collections::BTreeMap;
use std::sync::LazyLock;

use crate::exec::Run;
use crate::value::{Failure, Value};

/// Words of the grammar, which no function can have for a name.
pub(crate) const KEYWORDS: [&str; 11] =
    ["block", "break", "continue", "define", "else", "end", "if", "nil", "range", "template", "with"];

pub(crate) type Outcome = Result<Value, Failure>;

/// A function of templates.
pub(crate) struct Function {
    name: &'static str,
    signature: &'static str,
    pub(crate) run: fn(&mut Run<'_>, &[Value]) -> Outcome,
}

/// Short for a row of the table.
const fn row(name: &'static str, signature: &'static str, run: fn(&mut Run<'_>, &[Value]) -> Outcome) -> Function {
    Function { name, signature, run }
}

static TABLE: LazyLock<BTreeMap<&'static str, &'static Function>> = LazyLock::new(|| {
    let tables: [&'static [Function]; 9] = [
        compare::TABLE,
        dicts::TABLE,
        encode::TABLE,
        flow::TABLE,
        lists::TABLE,
        math::TABLE,
        regexps::TABLE,
        semver::TABLE,
        strings::TABLE,
    ];
    tables.into_iter().flatten().map(|it| (it.name, it)).collect()
});

pub(crate) fn find(name: &str) -> Option<&'static Function> {
    TABLE.get(name).copied()
}

impl Function {
    fn variadic(&self) -> bool {
        self.signature.ends_with('*')
    }

    /// Go's complaint about the number of arguments, if it has one.
    pub(crate) fn wrong_count(&self, given: usize, written: usize) -> Option<String> {
        let name = self.name;
        if self.variadic() {
            let least = self.signature.len() - 2;
            return (given < least)
                .then(|| format!("wrong number of args for {name}: want at least {least} got {written}"));
        }
        let want = self.signature.len();
        (given != want).then(|| format!("wrong number of args for {name}: want {want} got {given}"))
    }

    /// The letter of the parameter at an index.
    pub(crate) fn parameter(&self, index: usize) -> char {
        let letters = self.signature.trim_end_matches('*').as_bytes();
        letters.get(index).or(letters.last()).map_or('a', |it| char::from(*it))
    }
}

/// Go's type of a parameter.
pub(crate) fn type_of(parameter: char) -> &'static str {
    match parameter {
        's' => "string",
        'i' => "int",
        'I' => "int64",
        'f' => "float64",
        'b' => "bool",
        'm' => "map[string]interface {}",
        'l' => "[]interface {}",
        _ => "interface {}",
    }
}

/// Whether a value may be given for a parameter; `from_field` says that a nil came out of a map.
pub(crate) fn conform(value: &Value, parameter: char, from_field: bool) -> Result<(), String> {
    let want = type_of(parameter);
    let fits = match (parameter, value) {
        ('a', _) => true,
        (_, Value::Nil) if from_field => {
            return Err(format!("wrong type for value; expected {want}; got interface {{}}"));
        }
        ('m' | 'l', Value::Nil) => true,
        (_, Value::Nil) => return Err(format!("invalid value; expected {want}")),
        ('s', Value::Str(_))
        | ('i', Value::Int(_))
        | ('I', Value::Int64(_))
        | ('f', Value::Float(_))
        | ('b', Value::Bool(_))
        | ('m', Value::Map(_))
        | ('l', Value::List(_)) => true,
        _ => false,
    };
    if fits { Ok(()) } else { Err(format!("wrong type for value; expected {want}; got {}", value.type_name())) }
}

/// An argument that the signature says is text.
fn text(arguments: &[Value], index: usize) -> &str {
    match arguments.get(index) {
        Some(Value::Str(it)) => it,
        _ => "",
    }
}

/// An argument that the signature says is a whole number.
fn whole(arguments: &[Value], index: usize) -> i64 {
    match arguments.get(index) {
        Some(Value::Int(it) | Value::Int64(it)) => *it,
        _ => 0,
    }
}

/// Sprig's `strval`: anything as a text.
fn strval(value: &Value) -> String {
    crate::gofmt::plain(value)
}

/// Sprig's idea of empty.
fn is_empty(value: &Value) -> bool {
    !value.truth()
}

/// A list argument as items; what is no list is refused with Sprig's words.
fn items<'a>(value: &'a Value, doing: &str) -> Result<&'a [Value], Failure> {
    match value {
        Value::List(items) => Ok(items),
        Value::Nil => Err(format!("Cannot {doing} on type nil")),
        other => Err(format!("Cannot {doing} on type {}", other.kind())),
    }
}

/// The texts of a list, nils left out: Sprig's `strslice`.
fn texts(value: &Value) -> Vec<String> {
    match value {
        Value::List(items) => items.iter().filter(|it| !matches!(it, Value::Nil)).map(strval).collect(),
        Value::Nil => Vec::new(),
        other => vec![strval(other)],
    }
}

/// Refuses a result that nests too deeply or is too large.
fn measured(value: Value) -> Outcome {
    value.measure()?;
    Ok(value)
}

/// Whether a version meets a constraint.
pub(crate) fn version_matches(constraint: &str, version: &str) -> Result<bool, Failure> {
    semver::compare(constraint, version)
}
