//! Maps. `set`, `unset` and the merges change the map they are given, which all its holders see: that is how charts use them.

use super::{Function, Outcome, measured, row, strval, text};
use crate::value::{DEPTH_MAX, Failure, MapRef, Value};

pub(super) const TABLE: &[Function] = &[
    row("dict", "a*", |_, a| dict(a)),
    row("get", "ms", |_, a| Ok(map(a, 0).get(text(a, 1)).unwrap_or_else(|| Value::str("")))),
    row("set", "msa", |_, a| set(a)),
    row("unset", "ms", |_, a| {
        map(a, 0).remove(text(a, 1));
        Ok(a[0].clone())
    }),
    row("hasKey", "ms", |_, a| Ok(Value::Bool(map(a, 0).get(text(a, 1)).is_some()))),
    row("pluck", "sm*", |_, a| Ok(Value::list((1..a.len()).filter_map(|at| map(a, at).get(text(a, 0))).collect()))),
    row("keys", "m*", |_, a| Ok(Value::list((0..a.len()).flat_map(|at| map(a, at).keys()).map(Value::str).collect()))),
    row("values", "m", |_, a| Ok(Value::list(map(a, 0).entries().into_iter().map(|(_, it)| it).collect()))),
    row("pick", "ms*", |_, a| Ok(picked(a, true))),
    row("omit", "ms*", |_, a| Ok(picked(a, false))),
    row("merge", "mm*", |_, a| merge(a, false)),
    row("mergeOverwrite", "mm*", |_, a| merge(a, true)),
    row("mustMerge", "mm*", |_, a| merge(a, false)),
    row("mustMergeOverwrite", "mm*", |_, a| merge(a, true)),
    row("deepCopy", "a", |_, a| a[0].deep_copy()),
    row("mustDeepCopy", "a", |_, a| a[0].deep_copy()),
    row("dig", "aa*", |_, a| dig(a)),
];

fn map(arguments: &[Value], index: usize) -> MapRef {
    match arguments.get(index) {
        Some(Value::Map(it)) => it.clone(),
        _ => MapRef::default(),
    }
}

fn dict(arguments: &[Value]) -> Outcome {
    let made = MapRef::default();
    for pair in arguments.chunks(2) {
        made.insert(strval(&pair[0]), pair.get(1).cloned().unwrap_or_else(|| Value::str("")));
    }
    measured(Value::Map(made))
}

fn set(arguments: &[Value]) -> Outcome {
    let Value::Map(map) = &arguments[0] else { return Err("assignment to entry in nil map".into()) };
    let (key, value) = (text(arguments, 1), &arguments[2]);
    let nests = matches!(value, Value::Map(_) | Value::List(_));
    let before = map.get(key);
    map.insert(key, value.clone());
    // Only something that holds others can make a map too deep, or part of itself.
    if nests && let Err(message) = arguments[0].measure() {
        match before {
            Some(before) => map.insert(key, before),
            None => drop(map.remove(key)),
        }
        return Err(message);
    }
    Ok(arguments[0].clone())
}

fn picked(arguments: &[Value], wanted: bool) -> Value {
    let names: Vec<&str> = (1..arguments.len()).map(|at| text(arguments, at)).collect();
    let entries = map(arguments, 0).entries().into_iter();
    Value::map(entries.filter(|(key, _)| names.contains(&key.as_str()) == wanted))
}

/// Merges every further map into the first.
fn merge(arguments: &[Value], overwrite: bool) -> Outcome {
    let Value::Map(target) = &arguments[0] else { return Ok(Value::map([])) };
    for source in &arguments[1..] {
        source.measure()?;
        if let Value::Map(source) = source {
            merge_into(target, source, overwrite, 0)?;
        }
    }
    measured(arguments[0].clone())
}

/// As `mergo`: what is empty in the target is filled; with `overwrite` the source wins; maps merge deeply.
fn merge_into(target: &MapRef, source: &MapRef, overwrite: bool, depth: usize) -> Result<(), Failure> {
    if depth > DEPTH_MAX {
        return Err(format!("maps to merge nest deeper than {DEPTH_MAX} levels"));
    }
    for (key, value) in source.entries() {
        match (target.get(&key), value) {
            (Some(Value::Map(inner)), Value::Map(value)) => merge_into(&inner, &value, overwrite, depth + 1)?,
            (_, value) if overwrite => target.insert(key, value),
            (Some(present), _) if present.truth() => {}
            (_, Value::Nil) => {}
            (_, value) => target.insert(key, value),
        }
    }
    Ok(())
}

/// `dig "a" "b" DEFAULT MAP`.
fn dig(arguments: &[Value]) -> Outcome {
    let [path @ .., default, last] = arguments else { return Err("dig needs at least three arguments".into()) };
    if path.is_empty() {
        return Err("dig needs at least three arguments".into());
    }
    let mut value = last.clone();
    for key in path {
        let Value::Str(key) = key else { return Err(format!("dig takes texts as keys, not {}", key.type_name())) };
        let Value::Map(map) = &value else {
            let name = value.type_name();
            return Err(format!("interface conversion: interface {{}} is {name}, not map[string]interface {{}}"));
        };
        match map.get(key) {
            Some(found) => value = found,
            None => return Ok(default.clone()),
        }
    }
    Ok(value)
}
