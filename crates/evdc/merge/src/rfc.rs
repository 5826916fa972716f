//! The two patches that know no schema: JSON Patch (RFC 6902) and merge patch (RFC 7386), by the crate `json-patch`, with the limits that foreign
//! patches need.

use json_patch::{PatchOperation, jsonptr::Pointer};
use serde_json::Value;
use thiserror::Error;

use crate::DEPTH_MAX;

/// Most operations in one JSON Patch; Kubernetes' own limit.
pub const OPERATIONS_MAX: usize = 10_000;

/// Most bytes that all `copy` operations of one JSON Patch may make: ten of them would otherwise turn a kilobyte into a megabyte. An object has no more.
pub const COPIED_BYTES_MAX: usize = 3 << 20;

/// Why a JSON Patch was not applied. The object is as it was.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum JsonPatchError {
    /// The patch is not one.
    #[error("the body is not a JSON Patch, a list of operations with op, path and value or from: {0}")]
    Malformed(#[source] serde_json::Error),
    /// The patch is too long.
    #[error("the JSON Patch has {0} operations; at most {OPERATIONS_MAX} are taken")]
    TooLong(usize),
    /// The patch would make the object too large or too deep.
    #[error(
        "operation {at} of the JSON Patch would make the object too large or nest it deeper than {DEPTH_MAX} levels"
    )]
    TooLarge {
        /// Which operation, from 0.
        at: usize,
    },
    /// The patch does not fit the object.
    #[error("operation {at} of the JSON Patch does not fit the object: {why}")]
    DoesNotFit {
        /// Which operation, from 0.
        at: usize,
        /// What `json-patch` says.
        why: String,
    },
}

/// Applies a JSON Patch (RFC 6902).
///
/// # Errors
/// If the patch is malformed, too large, or does not fit; then the object is unchanged.
pub fn json_patch(object: &mut Value, patch: &Value) -> Result<(), JsonPatchError> {
    let patch: json_patch::Patch = serde::Deserialize::deserialize(patch).map_err(JsonPatchError::Malformed)?;
    if patch.0.len() > OPERATIONS_MAX {
        return Err(JsonPatchError::TooLong(patch.0.len()));
    }
    let mut result = object.clone();
    let mut copied = 0;
    for (at, operation) in patch.0.iter().enumerate() {
        if !fits(&result, operation, &mut copied) {
            return Err(JsonPatchError::TooLarge { at });
        }
        json_patch::patch(&mut result, std::slice::from_ref(operation))
            .map_err(|error| JsonPatchError::DoesNotFit { at, why: error.kind.to_string() })?;
    }
    *object = result;
    Ok(())
}

/// Whether the operation keeps the limits on depth and on bytes copied.
fn fits(object: &Value, operation: &PatchOperation, copied: &mut usize) -> bool {
    let deep = |path: &Pointer, value: &Value| path.count() + depth(value) <= DEPTH_MAX;
    let source = |from: &Pointer| object.pointer(from.as_str());
    match operation {
        PatchOperation::Add(add) => deep(&add.path, &add.value),
        PatchOperation::Replace(replace) => deep(&replace.path, &replace.value),
        PatchOperation::Move(it) => source(&it.from).is_none_or(|value| deep(&it.path, value)),
        PatchOperation::Copy(it) => source(&it.from).is_none_or(|value| {
            *copied += size(value);
            *copied <= COPIED_BYTES_MAX && deep(&it.path, value)
        }),
        PatchOperation::Remove(_) | PatchOperation::Test(_) => true,
    }
}

/// Levels of nesting; 1 for a plain value.
fn depth(value: &Value) -> usize {
    let inner = match value {
        Value::Array(items) => items.iter().map(depth).max(),
        Value::Object(fields) => fields.values().map(depth).max(),
        _ => None,
    };
    1 + inner.unwrap_or(0)
}

/// Roughly the bytes of the value as text.
fn size(value: &Value) -> usize {
    match value {
        Value::Array(items) => 2 + items.iter().map(|item| 1 + size(item)).sum::<usize>(),
        Value::Object(fields) => 2 + fields.iter().map(|(name, field)| name.len() + 4 + size(field)).sum::<usize>(),
        Value::String(text) => text.len() + 2,
        _ => 8,
    }
}

/// Applies a merge patch (RFC 7386): objects are merged, null removes, everything else replaces. It cannot fail.
pub fn merge_patch(object: &mut Value, patch: &Value) {
    json_patch::merge(object, patch);
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use serde_json::json;

    use super::*;

    fn check(object: Value, patch: Value, expect: Result<Value, &str>) {
        let mut patched = object.clone();
        match (json_patch(&mut patched, &patch), expect) {
            (Ok(()), Ok(expect)) => assert_eq!(patched, expect, "{patch}"),
            (Err(error), Err(words)) => {
                assert!(error.to_string().contains(words), "{error}: not about {words}");
                assert_eq!(patched, object, "changed by a failed patch");
            }
            (result, expect) => panic!("{patch}: {result:?}, expected {expect:?}"),
        }
    }

    #[test]
    fn json_patches() {
        let object = json!({"spec": {"containers": [{"image": "nginx"}]}, "metadata": {"labels": {"a/b": "c"}}});
        let add = json!([{"op": "add", "path": "/spec/containers/-", "value": {"image": "redis"}}]);
        check(
            object.clone(),
            add,
            Ok(json!({"spec": {"containers": [{"image": "nginx"}, {"image": "redis"}]},
            "metadata": {"labels": {"a/b": "c"}}})),
        );
        let escaped = json!([{"op": "remove", "path": "/metadata/labels/a~1b"}]);
        check(
            object.clone(),
            escaped,
            Ok(json!({"spec": {"containers": [{"image": "nginx"}]}, "metadata": {"labels": {}}})),
        );
        let failing = json!([{"op": "add", "path": "/x", "value": 1}, {"op": "test", "path": "/spec/containers/0/image", "value": "httpd"}]);
        check(object.clone(), failing, Err("operation 1"));
        check(object.clone(), json!([{"op": "replace", "path": "/spec/none/deeper", "value": 1}]), Err("does not fit"));
        check(object.clone(), json!({"spec": 1}), Err("not a JSON Patch"));
        check(object.clone(), json!([{"op": "swap", "path": "/spec"}]), Err("not a JSON Patch"));
        let test = json!({"op": "test", "path": "/metadata/labels/a~1b", "value": "c"});
        check(object, Value::Array(vec![test; OPERATIONS_MAX + 1]), Err("10001 operations"));
    }

    #[test]
    fn copies_cannot_blow_up_an_object() {
        let doubling = json!([{"op": "copy", "from": "", "path": "/b"}, {"op": "copy", "from": "", "path": "/a"}]);
        let operations = doubling.as_array().unwrap().iter().cycle().take(60).cloned().collect();
        check(json!({"a": "x".repeat(1000)}), Value::Array(operations), Err("too large"));
        let mut deeper = Vec::new();
        let mut path = "/a".to_owned();
        for _ in 0..9 {
            deeper.push(json!({"op": "copy", "from": "", "path": path}));
            path = path.repeat(2);
        }
        check(json!({"a": 1}), Value::Array(deeper), Err("nest it deeper"));
    }

    /// The examples of RFC 7386, appendix A.
    #[test]
    fn merge_patches() {
        for (object, patch, expect) in [
            (json!({"a": "b"}), json!({"a": "c"}), json!({"a": "c"})),
            (json!({"a": "b"}), json!({"b": "c"}), json!({"a": "b", "b": "c"})),
            (json!({"a": "b"}), json!({"a": null}), json!({})),
            (json!({"a": ["b"]}), json!({"a": "c"}), json!({"a": "c"})),
            (json!({"a": {"b": "c"}}), json!({"a": {"b": "d", "c": null}}), json!({"a": {"b": "d"}})),
            (json!({"a": [{"b": "c"}]}), json!({"a": [1]}), json!({"a": [1]})),
            (json!({"a": "foo"}), json!(null), json!(null)),
            (json!([1, 2]), json!({"a": "b", "c": null}), json!({"a": "b"})),
            (json!({}), json!({"a": {"bb": {"ccc": null}}}), json!({"a": {"bb": {}}})),
        ] {
            let mut patched = object.clone();
            merge_patch(&mut patched, &patch);
            assert_eq!(patched, expect, "{object} with {patch}");
        }
    }
}
