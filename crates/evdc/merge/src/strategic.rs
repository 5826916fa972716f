//! Strategic merge patch: a merge patch whose lists may merge by a key, with directives in the patch.
//!
//! | directive | where | what it does |
//! |---|---|---|
//! | `$patch: replace` | in an object, or an item of a list | the object or the list becomes what else the patch says |
//! | `$patch: delete` | in an object, or an item of a list | empties the object, removes the item with that key |
//! | `$retainKeys: […]` | in an object | removes all fields that are not listed |
//! | `$deleteFromPrimitiveList/f: […]` | beside the list f | removes these values |
//! | `$setElementOrder/f: […]` | beside the list f | puts the items in this order |

use std::sync::Arc;

use serde_json::{Map, Value};
use thiserror::Error;

use crate::schema::{Node, Schema, Strategic};

const PATCH: &str = "$patch";
const RETAIN_KEYS: &str = "$retainKeys";
const DELETE_VALUES: &str = "$deleteFromPrimitiveList/";
const ORDER: &str = "$setElementOrder/";

/// Why a strategic merge patch was not applied. The object is as it was.
#[derive(Debug, Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum StrategicError {
    /// The patch is not an object.
    #[error("a strategic merge patch must be an object")]
    NotAnObject,
    /// `$patch` has another value.
    #[error("unknown patch directive $patch: {0}; it is replace, delete or merge")]
    Directive(String),
    /// A directive that takes a list has something else, or is beside nothing that it could apply to.
    #[error("invalid {0} in the patch: it takes a list that fits the field it names")]
    Malformed(String),
    /// An item of the patch has no key.
    #[error("map: {item} does not contain declared merge key: {key}")]
    NoKey {
        /// The field that items are merged by.
        key: String,
        /// The item.
        item: String,
    },
    /// `$retainKeys` does not list a field that the patch sets.
    #[error("$retainKeys does not list {0}, which the patch sets")]
    NotRetained(String),
}

/// Applies a strategic merge patch.
///
/// # Errors
/// If the patch is not one; then the object is unchanged.
pub fn strategic_merge(schema: &Schema, object: &mut Value, patch: &Value) -> Result<(), StrategicError> {
    let patch = patch.as_object().ok_or(StrategicError::NotAnObject)?;
    let empty = Map::new();
    let merged = merge_objects(schema.root(), object.as_object().unwrap_or(&empty), patch)?;
    *object = Value::Object(merged);
    Ok(())
}

type Object = Map<String, Value>;

fn merge_objects(node: Node<'_>, original: &Object, patch: &Object) -> Result<Object, StrategicError> {
    match directive(patch)? {
        Directive::Replace => return Ok(plain(patch)),
        Directive::Delete => return Ok(Object::new()),
        Directive::Merge => {}
    }
    let mut merged = original.clone();
    if let Some(keys) = patch.get(RETAIN_KEYS) {
        retain(&mut merged, patch, keys)?;
    }
    for (name, field) in patch.iter().filter(|(name, _)| !name.starts_with('$')) {
        if field.is_null() {
            merged.remove(name);
            continue;
        }
        let value = match (merged.get(name), field) {
            (Some(Value::Object(old)), Value::Object(new)) if *node.field(name).strategic() != Strategic::Replace => {
                Value::Object(merge_objects(node.field(name), old, new)?)
            }
            (Some(Value::Array(old)), Value::Array(new)) => Value::Array(merge_lists(node.field(name), old, new)?),
            _ => plain_value(field),
        };
        merged.insert(name.clone(), value);
    }
    for (directive, values) in patch {
        if let Some(name) = directive.strip_prefix(DELETE_VALUES) {
            let gone = list(directive, values)?;
            if let Some(Value::Array(items)) = merged.get_mut(name) {
                items.retain(|item| !gone.contains(item));
            }
        }
    }
    for (directive, order) in patch {
        if let Some(name) = directive.strip_prefix(ORDER) {
            reorder(node.field(name), directive, order, original.get(name), merged.get_mut(name))?;
        }
    }
    Ok(merged)
}

enum Directive {
    Merge,
    Replace,
    Delete,
}

fn directive(patch: &Object) -> Result<Directive, StrategicError> {
    match patch.get(PATCH).map(|directive| directive.as_str().ok_or(directive)) {
        None | Some(Ok("merge")) => Ok(Directive::Merge),
        Some(Ok("replace")) => Ok(Directive::Replace),
        Some(Ok("delete")) => Ok(Directive::Delete),
        Some(Ok(other)) => Err(StrategicError::Directive(other.to_owned())),
        Some(Err(other)) => Err(StrategicError::Directive(other.to_string())),
    }
}

fn list<'a>(directive: &str, values: &'a Value) -> Result<&'a Vec<Value>, StrategicError> {
    values.as_array().ok_or_else(|| StrategicError::Malformed(directive.to_owned()))
}

fn retain(merged: &mut Object, patch: &Object, keys: &Value) -> Result<(), StrategicError> {
    let keys: Vec<&str> = list(RETAIN_KEYS, keys)?.iter().filter_map(Value::as_str).collect();
    let set = patch.iter().filter(|(name, value)| !name.starts_with('$') && !value.is_null());
    if let Some((name, _)) = set.map(|(name, value)| (name.as_str(), value)).find(|(name, _)| !keys.contains(name)) {
        return Err(StrategicError::NotRetained(name.to_owned()));
    }
    merged.retain(|name, _| keys.contains(&name.as_str()));
    Ok(())
}

fn merge_lists(node: Node<'_>, original: &[Value], patch: &[Value]) -> Result<Vec<Value>, StrategicError> {
    match node.strategic() {
        Strategic::Key(key) => merge_keyed(node, key, original, patch),
        Strategic::Values => {
            let new =
                patch.iter().enumerate().filter(|(at, item)| !original.contains(item) && !patch[..*at].contains(item));
            let merged = original.iter().chain(new.map(|(_, item)| item)).cloned().collect();
            Ok(ordered(merged, original, patch, &|a, b| a == b))
        }
        Strategic::Default | Strategic::Replace => Ok(plain_items(patch)),
    }
}

fn merge_keyed(
    node: Node<'_>,
    key: &Arc<str>,
    original: &[Value],
    patch: &[Value],
) -> Result<Vec<Value>, StrategicError> {
    let mut merged = original.to_vec();
    let mut named = Vec::new();
    let mut replaces = false;
    for item in patch {
        let fields = item.as_object().ok_or_else(|| no_key(key, item))?;
        match directive(fields)? {
            Directive::Replace => {
                replaces = true;
                // A lone directive only says that the list is replaced.
                named.extend((fields.len() > 1).then(|| Value::Object(plain(fields))));
            }
            Directive::Delete => {
                let value = fields.get(&**key).ok_or_else(|| no_key(key, item))?;
                merged.retain(|old| old.get(&**key) != Some(value));
            }
            Directive::Merge => {
                named.push(item.clone());
                let value = fields.get(&**key).ok_or_else(|| no_key(key, item))?;
                let old = merged.iter_mut().find(|old| old.get(&**key) == Some(value));
                match old {
                    Some(Value::Object(old)) => *old = merge_objects(node.item(), old, fields)?,
                    _ => merged.push(Value::Object(plain(fields))),
                }
            }
        }
    }
    if replaces {
        return Ok(plain_items(&named));
    }
    Ok(ordered(merged, original, &named, &|a, b| same_key(key, a, b)))
}

fn no_key(key: &str, item: &Value) -> StrategicError {
    StrategicError::NoKey { key: key.to_owned(), item: item.to_string().chars().take(200).collect() }
}

fn same_key(key: &str, a: &Value, b: &Value) -> bool {
    a.get(key).is_some_and(|value| Some(value) == b.get(key))
}

fn reorder(
    node: Node<'_>,
    directive: &str,
    order: &Value,
    original: Option<&Value>,
    merged: Option<&mut Value>,
) -> Result<(), StrategicError> {
    let order = list(directive, order)?;
    let Some(Value::Array(items)) = merged else { return Ok(()) };
    let original = original.and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    let taken = std::mem::take(items);
    *items = match node.strategic() {
        Strategic::Key(key) => ordered(taken, original, order, &|a, b| same_key(key, a, b)),
        Strategic::Values => ordered(taken, original, order, &|a, b| a == b),
        Strategic::Default | Strategic::Replace => return Err(StrategicError::Malformed(directive.to_owned())),
    };
    Ok(())
}

/// The items in the order that the patch names; those it does not name stay before what they stood before.
fn ordered(
    items: Vec<Value>,
    original: &[Value],
    order: &[Value],
    same: &dyn Fn(&Value, &Value) -> bool,
) -> Vec<Value> {
    let rank = |item: &Value, list: &[Value]| list.iter().position(|other| same(item, other));
    let (mut named, unnamed): (Vec<_>, Vec<_>) = items.into_iter().partition(|item| rank(item, order).is_some());
    named.sort_by_key(|item| rank(item, order));
    let mut result = Vec::with_capacity(named.len() + unnamed.len());
    let mut named = named.into_iter().peekable();
    for item in unnamed {
        let place = rank(&item, original);
        // Whatever stood behind this item, or was not there, does not come before it only if both were there.
        while let Some(next) =
            named.next_if(|next| !matches!((place, rank(next, original)), (Some(a), Some(b)) if a < b))
        {
            result.push(next);
        }
        result.push(item);
    }
    result.extend(named);
    result
}

/// A part of the patch that meets nothing to merge with: without its directives and nulls.
fn plain(patch: &Object) -> Object {
    let fields = patch.iter().filter(|(name, value)| !name.starts_with('$') && !value.is_null());
    fields.map(|(name, value)| (name.clone(), plain_value(value))).collect()
}

fn plain_value(value: &Value) -> Value {
    match value {
        Value::Object(fields) => Value::Object(plain(fields)),
        Value::Array(items) => Value::Array(plain_items(items)),
        _ => value.clone(),
    }
}

fn plain_items(items: &[Value]) -> Vec<Value> {
    let kept =
        items.iter().filter(|item| !matches!(item.get(PATCH).and_then(Value::as_str), Some("delete" | "replace")));
    kept.map(plain_value).collect()
}

#[cfg(test)]
mod tests;
