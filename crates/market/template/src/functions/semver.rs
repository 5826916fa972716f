//! Semantic versions as Masterminds' library compares them, which charts ask of Kubernetes' version.
//!
//! A constraint is alternatives (`||`) of conditions (by comma or space): `=`, `!=`, `<`, `<=`, `>`, `>=`, `~`, `^`, wildcards and
//! ranges (`1.2 - 1.4`). A pre-release only matches a condition that has a pre-release itself (hence the `-0` in charts).

use std::cmp::Ordering;
use std::rc::Rc;

use super::{Function, Outcome, row, text};
use crate::value::{Failure, Object, Value};

pub(super) const TABLE: &[Function] = &[
    row("semverCompare", "ss", |_, a| compare(text(a, 0), text(a, 1)).map(Value::Bool)),
    row("semver", "s", |_, a| parse(text(a, 0)).map(|it| Value::Object(Rc::new(it)))),
];

/// A version; `parts` says how many of major, minor and patch were written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Version {
    numbers: [u64; 3],
    parts: usize,
    pre: String,
    build: String,
    original: String,
}

fn invalid() -> Failure {
    "invalid semantic version".into()
}

fn parse(text: &str) -> Result<Version, Failure> {
    let original = text.to_owned();
    let text = text.strip_prefix('v').unwrap_or(text);
    let (text, build) = text.split_once('+').unwrap_or((text, ""));
    let (numbers, pre) = text.split_once('-').unwrap_or((text, ""));
    let allowed = |it: &str| it.chars().all(|it| it.is_ascii_alphanumeric() || matches!(it, '-' | '.'));
    if !allowed(pre) || !allowed(build) {
        return Err(invalid());
    }
    let mut version = Version { numbers: [0; 3], parts: 0, pre: pre.to_owned(), build: build.to_owned(), original };
    for part in numbers.split('.') {
        let digits = !part.is_empty() && part.chars().all(|it| it.is_ascii_digit());
        if version.parts == 3 || !digits {
            return Err(invalid());
        }
        version.numbers[version.parts] = part.parse().map_err(|_| invalid())?;
        version.parts += 1;
    }
    Ok(version)
}

impl Version {
    fn order(&self, other: &Self) -> Ordering {
        self.numbers.cmp(&other.numbers).then_with(|| pre_order(&self.pre, &other.pre))
    }

    fn canonical(&self) -> String {
        let [major, minor, patch] = self.numbers;
        let mut text = format!("{major}.{minor}.{patch}");
        for (mark, part) in [('-', &self.pre), ('+', &self.build)] {
            if !part.is_empty() {
                text.push(mark);
                text.push_str(part);
            }
        }
        text
    }
}

fn pre_order(a: &str, b: &str) -> Ordering {
    match (a.is_empty(), b.is_empty()) {
        (true, true) => return Ordering::Equal,
        (true, false) => return Ordering::Greater,
        (false, true) => return Ordering::Less,
        (false, false) => {}
    }
    let (mut left, mut right) = (a.split('.'), b.split('.'));
    loop {
        let order = match (left.next(), right.next()) {
            (None, None) => return Ordering::Equal,
            (None, Some(_)) => Ordering::Less,
            (Some(_), None) => Ordering::Greater,
            (Some(a), Some(b)) => match (a.parse::<u64>(), b.parse::<u64>()) {
                (Ok(a), Ok(b)) => a.cmp(&b),
                (Ok(_), Err(_)) => Ordering::Less,
                (Err(_), Ok(_)) => Ordering::Greater,
                (Err(_), Err(_)) => a.cmp(b),
            },
        };
        if order != Ordering::Equal {
            return order;
        }
    }
}

pub(super) fn compare(constraint: &str, version: &str) -> Result<bool, Failure> {
    let version = parse(version)?;
    let mut matched = false;
    for alternative in constraint.split("||") {
        let mut all = true;
        for (operator, operand) in conditions(alternative).ok_or_else(|| improper(constraint))? {
            all &= holds(operator, &operand, &version).ok_or_else(|| improper(constraint))?;
        }
        matched |= all;
    }
    Ok(matched)
}

fn improper(constraint: &str) -> Failure {
    format!("improper constraint: {}", crate::gofmt::quote(constraint))
}

/// The conditions of one alternative: operator and operand.
fn conditions(text: &str) -> Option<Vec<(&'static str, String)>> {
    let spaced = text.replace(" - ", " \u{0} ");
    let mut words = spaced.split([' ', ',']).filter(|it| !it.is_empty()).peekable();
    let mut found = Vec::new();
    while let Some(word) = words.next() {
        let (operator, rest) = operator(word);
        let operand = if rest.is_empty() { words.next()?.to_owned() } else { rest.to_owned() };
        if words.next_if_eq(&"\u{0}").is_some() {
            found.push((">=", operand));
            found.push(("<=", words.next()?.to_owned()));
        } else {
            found.push((operator, operand));
        }
    }
    (!found.is_empty()).then_some(found)
}

fn operator(word: &str) -> (&'static str, &str) {
    const OPERATORS: [(&str, &str); 11] = [
        (">=", ">="),
        ("=>", ">="),
        ("<=", "<="),
        ("=<", "<="),
        ("!=", "!="),
        ("~>", "~"),
        (">", ">"),
        ("<", "<"),
        ("~", "~"),
        ("^", "^"),
        ("=", "="),
    ];
    let found = OPERATORS.iter().find_map(|(sign, meaning)| Some((*meaning, word.strip_prefix(sign)?)));
    found.unwrap_or(("", word))
}

/// Whether a version meets a condition; `None` if the condition cannot be read.
fn holds(operator: &str, operand: &str, version: &Version) -> Option<bool> {
    let (base, tail) = operand.find(['-', '+']).map_or((operand, ""), |at| operand.split_at(at));
    let wild = |it: &str| matches!(it, "x" | "X" | "*");
    let written: Vec<&str> = base.strip_prefix('v').unwrap_or(base).split('.').take_while(|it| !wild(it)).collect();
    if written.is_empty() {
        return Some(version.pre.is_empty() && !matches!(operator, "!=" | "<" | ">"));
    }
    let limit = parse(&(written.join(".") + tail)).ok()?;
    let open = limit.parts < 3;
    // A pre-release is only looked at by a condition that names one.
    if !version.pre.is_empty() && limit.pre.is_empty() {
        return Some(operator == "!=");
    }
    let same = version.numbers[..limit.parts] == limit.numbers[..limit.parts];
    let order = version.order(&limit);
    Some(match operator {
        "" | "=" if open => same,
        "" | "=" => order == Ordering::Equal,
        "!=" if open => !same,
        "!=" => order != Ordering::Equal,
        ">" if open => order == Ordering::Greater && !same,
        ">" => order == Ordering::Greater,
        ">=" => order != Ordering::Less,
        "<" => order == Ordering::Less,
        "<=" if open => order == Ordering::Less || same,
        "<=" => order != Ordering::Greater,
        // The patch may move, or the minor if only the major was written.
        "~" => order != Ordering::Less && version.numbers[..limit.parts.min(2)] == limit.numbers[..limit.parts.min(2)],
        // All may move but the first number that is not zero.
        "^" => {
            let fixed = limit.numbers.iter().position(|it| *it != 0).map_or(limit.parts, |it| it + 1).min(limit.parts);
            order != Ordering::Less && version.numbers[..fixed] == limit.numbers[..fixed]
        }
        _ => return None,
    })
}

impl Object for Version {
    fn type_name(&self) -> &'static str {
        "*semver.Version"
    }

    fn field(&self, name: &str) -> Option<Value> {
        #[expect(
            clippy::cast_possible_wrap,
            reason = "version numbers that large do not occur; they would only print negative"
        )]
        let number = |at: usize| Value::Int64(self.numbers[at] as i64);
        Some(match name {
            "Major" => number(0),
            "Minor" => number(1),
            "Patch" => number(2),
            "Prerelease" => Value::str(&self.pre),
            "Metadata" => Value::str(&self.build),
            "Original" => Value::str(&self.original),
            "String" => Value::str(self.canonical()),
            _ => return None,
        })
    }

    fn call(&self, name: &str, arguments: &[Value]) -> Option<Outcome> {
        let [Value::Object(other)] = arguments else { return None };
        let Value::Str(other) = other.plain() else { return None };
        let other = parse(&other).ok()?;
        Some(Ok(match name {
            "Compare" => Value::Int(self.order(&other) as i64),
            "Equal" => Value::Bool(self.order(&other) == Ordering::Equal),
            "GreaterThan" => Value::Bool(self.order(&other) == Ordering::Greater),
            "LessThan" => Value::Bool(self.order(&other) == Ordering::Less),
            _ => return None,
        }))
    }

    fn plain(&self) -> Value {
        Value::str(self.canonical())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn constraints() {
        let check = |constraint: &str, version: &str, expect: bool| {
            assert_eq!(compare(constraint, version), Ok(expect), "{constraint} {version}");
        };
        check(">=1.19-0", "v1.33.1-atoll", true);
        check(">=1.19", "v1.33.1-atoll", false);
        check("<1.14-0", "1.33.0", false);
        check("^1.2.3", "1.9.0", true);
        check("^0.2.3", "0.3.0", false);
        check("~1.2.3", "1.2.9", true);
        check("~1.2", "1.3.0", false);
        check("~1", "1.9.9", true);
        check("1.2.x", "1.2.5", true);
        check(">=1.2, <1.4 || 2.x", "2.7.1", true);
        check("1.2 - 1.4", "1.3.0", true);
        check(">1.2", "1.2.5", false);
        check("*", "3.0.0", true);
        check("= 1.0.0", "1.0.0+build", true);
        assert!(compare("what", "1.0.0").is_err());
        assert!(compare("1.0", "one").is_err());
    }
}
