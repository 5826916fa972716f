//! How what is there differs from what should be, field by field.
//!
//! A server adds fields of its own (defaults, status, identifiers), so only what is written counts: a field that is written must be
//! there and equal, and one that was written the last time and is not any more must be gone.

use serde::{Deserialize, Serialize};
use serde_json::Value as Json;

use crate::quantity;

/// Deepest nesting compared; files are limited to less.
const DEPTH_MAX: usize = 200;

/// One field that changes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FieldChange {
    /// Its path, such as `spec.containers[web].image`.
    pub path: String,
    /// What is there; `None` if nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<Json>,
    /// What should be; `None` if nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<Json>,
}

/// In what something that is there differs from what should be, of the fields that should be.
#[must_use]
pub fn differences(wanted: &Json, live: &Json) -> Vec<FieldChange> {
    fields(wanted, live, None)
}

/// Compares. `last` is what was written the last time, if this stack made it.
pub(crate) fn fields(wanted: &Json, live: &Json, last: Option<&Json>) -> Vec<FieldChange> {
    let mut changes = Vec::new();
    compare("", wanted, live, last, &mut changes, 0);
    changes
}

fn compare(path: &str, wanted: &Json, live: &Json, last: Option<&Json>, changes: &mut Vec<FieldChange>, depth: usize) {
    if depth > DEPTH_MAX {
        return;
    }
    match (wanted, live) {
        (Json::Object(wanted), Json::Object(there)) => {
            for (key, value) in wanted {
                let (path, last) = (join(path, key), last.and_then(|it| it.get(key)));
                match there.get(key) {
                    Some(live) => compare(&path, value, live, last, changes, depth + 1),
                    None if is_nothing(value) => {}
                    None => changes.push(FieldChange { path, from: None, to: Some(value.clone()) }),
                }
            }
            for key in last.and_then(Json::as_object).into_iter().flat_map(serde_json::Map::keys) {
                if let (false, Some(live)) = (wanted.contains_key(key), there.get(key)) {
                    changes.push(FieldChange { path: join(path, key), from: Some(live.clone()), to: None });
                }
            }
        }
        (Json::Array(wanted), Json::Array(there)) => lists(path, wanted, there, last, changes, depth),
        _ if same(wanted, live) => {}
        _ => changes.push(FieldChange { path: path.to_owned(), from: Some(live.clone()), to: Some(wanted.clone()) }),
    }
}

/// Lists of named things are compared by name where the names agree in number and order; others by position. A list of another length
/// changes as a whole.
fn lists(
    path: &str,
    wanted: &[Json],
    live: &[Json],
    last: Option<&Json>,
    changes: &mut Vec<FieldChange>,
    depth: usize,
) {
    let name = |it: &Json| it.get("name").and_then(Json::as_str).map(ToOwned::to_owned);
    let named = !wanted.is_empty() && wanted.iter().chain(live).all(|it| name(it).is_some());
    let moved = named && wanted.iter().map(name).ne(live.iter().map(name));
    if wanted.len() != live.len() || moved {
        let (from, to) = (Some(Json::Array(live.to_vec())), Some(Json::Array(wanted.to_vec())));
        changes.push(FieldChange { path: path.to_owned(), from, to });
        return;
    }
    for (index, (wanted, live)) in wanted.iter().zip(live).enumerate() {
        let label = name(wanted).filter(|_| named);
        let last = last.and_then(Json::as_array).and_then(|it| match &label {
            Some(label) => it.iter().find(|it| name(it).as_ref() == Some(label)),
            None => it.get(index),
        });
        let path = format!("{path}[{}]", label.unwrap_or_else(|| index.to_string()));
        compare(&path, wanted, live, last, changes, depth + 1);
    }
}

fn join(path: &str, key: &str) -> String {
    let key = if key.contains('.') { format!("[{key}]") } else { key.to_owned() };
    match (path.is_empty(), key.starts_with('[')) {
        (true, _) => key,
        (false, true) => format!("{path}{key}"),
        (false, false) => format!("{path}.{key}"),
    }
}

/// What a server may leave out because it says nothing.
fn is_nothing(value: &Json) -> bool {
    match value {
        Json::Null => true,
        Json::Object(map) => map.is_empty(),
        Json::Array(items) => items.is_empty(),
        _ => false,
    }
}

/// Equal, or the same quantity in another spelling: a Kubernetes API answers `1` to `1000m`.
fn same(a: &Json, b: &Json) -> bool {
    let quantity = |it: &Json| match it {
        Json::String(text) => quantity::thousandths(text),
        Json::Number(number) => quantity::thousandths(&number.to_string()),
        _ => None,
    };
    // Two texts without a unit are just texts: "1.0" is not "1.00".
    let unit = |it: &Json| it.as_str().is_none_or(|it| it.ends_with(|it: char| it.is_ascii_alphabetic()));
    a == b
        || (is_nothing(a) && b.is_null())
        || ((unit(a) || unit(b)) && quantity(a).is_some() && quantity(a) == quantity(b))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn only_what_is_written_counts() {
        let check = |wanted: Json, live: Json, last: Json, expect: &[&str]| {
            let paths: Vec<String> = fields(&wanted, &live, Some(&last)).into_iter().map(|it| it.path).collect();
            assert_eq!(paths, expect, "{wanted} {live}");
        };
        check(json!({"a": 1}), json!({"a": 1, "status": {}}), json!({}), &[]);
        check(json!({"a": 1}), json!({"a": 2}), json!({}), &["a"]);
        check(json!({"a": {"b": 1}}), json!({"a": {"b": 1, "c": 2}}), json!({"a": {"c": 2}}), &["a.c"]);
        check(json!({"a": {}}), json!({}), json!({}), &[]);
        check(json!({"m": "1000m"}), json!({"m": "1"}), json!({}), &[]);
        check(json!({"m": "1.0"}), json!({"m": "1.00"}), json!({}), &["m"]);
        check(json!({"m": "1Gi"}), json!({"m": "1024Mi"}), json!({}), &[]);
        check(
            json!({"c": [{"name": "web", "image": "a:2"}]}),
            json!({"c": [{"name": "web", "image": "a:1", "pull": "x"}]}),
            json!({}),
            &["c[web].image"],
        );
        check(json!({"l": [1, 2]}), json!({"l": [1]}), json!({}), &["l"]);
        check(json!({"x": {"a.b/c": 1}}), json!({"x": {}}), json!({}), &["x[a.b/c]"]);
    }
}
