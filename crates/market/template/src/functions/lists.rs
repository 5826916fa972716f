//! Lists. None of these changes the list it is given.

use super::{Function, Outcome, is_empty, items, measured, row, strval, texts, whole};
use crate::exec::Run;
use crate::value::{Failure, Value};

/// Longest list a count can make; a loop over it is bounded by the steps anyway.
const ITEMS_MAX: i64 = 1_000_000;

pub(super) const TABLE: &[Function] = &[
    row("list", "a*", |_, a| measured(Value::list(a.to_vec()))),
    row("tuple", "a*", |_, a| measured(Value::list(a.to_vec()))),
    row("first", "a", |_, a| Ok(items(&a[0], "find first")?.first().cloned().unwrap_or_default())),
    row("mustFirst", "a", |_, a| Ok(items(&a[0], "find first")?.first().cloned().unwrap_or_default())),
    row("last", "a", |_, a| Ok(items(&a[0], "find last")?.last().cloned().unwrap_or_default())),
    row("mustLast", "a", |_, a| Ok(items(&a[0], "find last")?.last().cloned().unwrap_or_default())),
    row("rest", "a", |_, a| Ok(part(items(&a[0], "find rest")?, 1, 0))),
    row("mustRest", "a", |_, a| Ok(part(items(&a[0], "find rest")?, 1, 0))),
    row("initial", "a", |_, a| Ok(part(items(&a[0], "find initial")?, 0, 1))),
    row("mustInitial", "a", |_, a| Ok(part(items(&a[0], "find initial")?, 0, 1))),
    row("append", "aa", append),
    row("push", "aa", append),
    row("mustAppend", "aa", append),
    row("prepend", "aa", prepend),
    row("mustPrepend", "aa", prepend),
    row("concat", "a*", |_, a| concat(a)),
    row("reverse", "a", |_, a| Ok(Value::list(items(&a[0], "find reverse")?.iter().rev().cloned().collect()))),
    row("mustReverse", "a", |_, a| Ok(Value::list(items(&a[0], "find reverse")?.iter().rev().cloned().collect()))),
    row("uniq", "a", |_, a| uniq(&a[0])),
    row("mustUniq", "a", |_, a| uniq(&a[0])),
    row("without", "aa*", |_, a| without(a)),
    row("mustWithout", "aa*", |_, a| without(a)),
    row("has", "aa", |_, a| has(&a[1], &a[0]).map(Value::Bool)),
    row("mustHas", "aa", |_, a| has(&a[1], &a[0]).map(Value::Bool)),
    row("compact", "a", |_, a| compact(&a[0])),
    row("mustCompact", "a", |_, a| compact(&a[0])),
    row("slice", "aa*", |_, a| slice(a)),
    row("mustSlice", "aa*", |_, a| slice(a)),
    row("chunk", "ia", |_, a| chunk(whole(a, 0), &a[1])),
    row("sortAlpha", "a", |_, a| Ok(sorted(&a[0]))),
    row("until", "i", |_, a| until(0, whole(a, 0), if whole(a, 0) < 0 { -1 } else { 1 })),
    row("untilStep", "iii", |_, a| until(whole(a, 0), whole(a, 1), whole(a, 2))),
    row("seq", "a*", |_, a| seq(a)),
];

fn part(items: &[Value], skip: usize, drop: usize) -> Value {
    let end = items.len().saturating_sub(drop);
    Value::list(items.get(skip..end).unwrap_or_default().to_vec())
}

fn append(_: &mut Run<'_>, arguments: &[Value]) -> Outcome {
    let mut all = items(&arguments[0], "push")?.to_vec();
    all.push(arguments[1].clone());
    measured(Value::list(all))
}

fn prepend(_: &mut Run<'_>, arguments: &[Value]) -> Outcome {
    let mut all = vec![arguments[1].clone()];
    all.extend_from_slice(items(&arguments[0], "prepend")?);
    measured(Value::list(all))
}

fn concat(arguments: &[Value]) -> Outcome {
    let mut all = Vec::new();
    for it in arguments {
        all.extend_from_slice(items(it, "concat")?);
    }
    measured(Value::list(all))
}

fn has(list: &Value, wanted: &Value) -> Result<bool, Failure> {
    if matches!(list, Value::Nil) {
        return Ok(false);
    }
    for it in items(list, "find items")? {
        if it.deep_equal(wanted)? {
            return Ok(true);
        }
    }
    Ok(false)
}

fn uniq(list: &Value) -> Outcome {
    let mut seen = Vec::new();
    for it in items(list, "find uniq")? {
        if !has(&Value::list(seen.clone()), it)? {
            seen.push(it.clone());
        }
    }
    Ok(Value::list(seen))
}

fn without(arguments: &[Value]) -> Outcome {
    let unwanted = Value::list(arguments[1..].to_vec());
    let mut kept = Vec::new();
    for it in items(&arguments[0], "find without")? {
        if !has(&unwanted, it)? {
            kept.push(it.clone());
        }
    }
    Ok(Value::list(kept))
}

fn compact(list: &Value) -> Outcome {
    Ok(Value::list(items(list, "compact")?.iter().filter(|it| !is_empty(it)).cloned().collect()))
}

fn slice(arguments: &[Value]) -> Outcome {
    let Value::List(all) = &arguments[0] else {
        return Err(format!("list should be type of slice or array but {}", arguments[0].kind()));
    };
    let bound = |at: usize, default: usize| match arguments.get(at) {
        None => Ok(default),
        Some(Value::Int(it) | Value::Int64(it)) => match usize::try_from(*it) {
            Ok(it) if it <= all.len() => Ok(it),
            _ => Err(format!("slice index out of range: {it}")),
        },
        Some(other) => Err(format!("slice takes whole numbers, not {}", other.type_name())),
    };
    let (from, to) = (bound(1, 0)?, bound(2, all.len())?);
    all.get(from..to).map(|it| Value::list(it.to_vec())).ok_or_else(|| format!("slice from {from} to {to}"))
}

fn chunk(size: i64, list: &Value) -> Outcome {
    let size = usize::try_from(size).ok().filter(|it| *it > 0).ok_or("chunk size must be at least 1")?;
    Ok(Value::list(items(list, "chunk")?.chunks(size).map(|it| Value::list(it.to_vec())).collect()))
}

fn sorted(list: &Value) -> Value {
    match list {
        Value::List(_) => {
            let mut all = texts(list);
            all.sort();
            Value::list(all.into_iter().map(Value::str).collect())
        }
        other => Value::list(vec![Value::str(strval(other))]),
    }
}

fn until(from: i64, to: i64, step: i64) -> Outcome {
    let mut all = Vec::new();
    if step == 0 || (step > 0) != (to > from) {
        return Ok(Value::list(all));
    }
    if (to.saturating_sub(from) / step) > ITEMS_MAX {
        return Err(format!("a list of more than {ITEMS_MAX} numbers"));
    }
    let mut at = from;
    while if step > 0 { at < to } else { at > to } {
        all.push(Value::Int(at));
        at = at.saturating_add(step);
    }
    Ok(Value::list(all))
}

/// `seq LAST`, `seq FIRST LAST`, `seq FIRST STEP LAST`: the numbers as a text, as the shell's `seq`.
fn seq(arguments: &[Value]) -> Outcome {
    let numbers: Vec<i64> = (0..arguments.len()).map(|at| whole(arguments, at)).collect();
    let (from, step, to) = match numbers[..] {
        [to] => (1, if to < 1 { -1 } else { 1 }, to),
        [from, to] => (from, if to < from { -1 } else { 1 }, to),
        [from, step, to] => (from, step, to),
        _ => return Ok(Value::str("")),
    };
    let list = until(from, to.saturating_add(step.signum()), step)?;
    Ok(Value::str(texts(&list).join(" ")))
}
