//! Reading and writing the parts of an object that every kind has, and paths into any object.

use atoll_kv::Revision;
use jiff::Timestamp;
use serde_json::{Map, Value};

/// The value at a path of field names.
pub(crate) fn at<'a>(object: &'a Value, path: &[&str]) -> Option<&'a Value> {
    path.iter().try_fold(object, |value, name| value.get(name))
}

/// The text at a path; empty when there is none, as Kubernetes treats an absent string.
pub(crate) fn text<'a>(object: &'a Value, path: &[&str]) -> &'a str {
    at(object, path).and_then(Value::as_str).unwrap_or_default()
}

/// The whole number at a path.
pub(crate) fn number(object: &Value, path: &[&str]) -> Option<i64> {
    at(object, path).and_then(Value::as_i64)
}

/// The list at a path; empty when there is none.
pub(crate) fn list<'a>(object: &'a Value, path: &[&str]) -> &'a [Value] {
    at(object, path).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default()
}

/// The object under `name`, made if it is not there or not an object. `value` must be an object, or becomes one.
pub(crate) fn child<'a>(value: &'a mut Value, name: &str) -> &'a mut Value {
    let child = fields(value).entry(name).or_insert_with(|| Value::Object(Map::new()));
    if !child.is_object() {
        *child = Value::Object(Map::new());
    }
    child
}

/// The fields of an object; anything else becomes an empty object first.
pub(crate) fn fields(value: &mut Value) -> &mut Map<String, Value> {
    if !value.is_object() {
        *value = Value::Object(Map::new());
    }
    match value {
        Value::Object(fields) => fields,
        _ => unreachable!("made an object above"),
    }
}

/// `metadata`, made if it is not there.
pub(crate) fn meta(object: &mut Value) -> &mut Map<String, Value> {
    fields(child(object, "metadata"))
}

/// Sets a field if it is not there (or null).
pub(crate) fn default(value: &mut Value, name: &str, default: impl Into<Value>) {
    let fields = fields(value);
    if fields.get(name).is_none_or(Value::is_null) {
        fields.insert(name.to_owned(), default.into());
    }
}

pub(crate) fn name(object: &Value) -> &str {
    text(object, &["metadata", "name"])
}

pub(crate) fn namespace(object: &Value) -> &str {
    text(object, &["metadata", "namespace"])
}

pub(crate) fn uid(object: &Value) -> &str {
    text(object, &["metadata", "uid"])
}

pub(crate) fn is_deleting(object: &Value) -> bool {
    at(object, &["metadata", "deletionTimestamp"]).is_some()
}

pub(crate) fn has_finalizers(object: &Value) -> bool {
    !list(object, &["metadata", "finalizers"]).is_empty()
}

/// `metadata.resourceVersion` as a revision; `None` when absent or not one of ours.
pub(crate) fn revision(object: &Value) -> Option<Revision> {
    text(object, &["metadata", "resourceVersion"]).parse().ok()
}

pub(crate) fn set_revision(object: &mut Value, revision: Revision) {
    meta(object).insert("resourceVersion".to_owned(), revision.to_string().into());
}

/// Now, as Kubernetes writes times: RFC 3339 in whole seconds.
pub(crate) fn now() -> String {
    time(Timestamp::now())
}

/// A time as Kubernetes writes it.
pub(crate) fn time(at: Timestamp) -> String {
    at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// Random bytes from the operating system.
///
/// # Panics
/// When the operating system has no randomness to give; nothing here may run without.
pub(crate) fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).expect("the operating system gives random bytes");
    bytes
}

/// A random UUID (version 4).
pub(crate) fn new_uid() -> String {
    let mut bytes = random::<16>();
    bytes[6] = bytes[6] & 0x0f | 0x40;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    let hex = data_encoding::HEXLOWER.encode(&bytes);
    format!("{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..])
}

/// Five random characters of those Kubernetes uses for generated names: no vowels, so that no words arise.
pub(crate) fn name_suffix() -> String {
    const ALPHABET: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
    random::<5>().iter().map(|byte| char::from(ALPHABET[usize::from(*byte) % ALPHABET.len()])).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uids_are_uuids() {
        let uid = new_uid();
        assert_eq!((uid.len(), &uid[14..15]), (36, "4"), "{uid}");
        assert_ne!(uid, new_uid());
    }

    #[test]
    fn children_are_made() {
        let mut object = serde_json::json!({"metadata": null, "spec": {"a": 1}});
        meta(&mut object).insert("name".to_owned(), "x".into());
        default(child(&mut object, "spec"), "a", 2);
        default(child(&mut object, "spec"), "b", 2);
        assert_eq!(object, serde_json::json!({"metadata": {"name": "x"}, "spec": {"a": 1, "b": 2}}));
    }
}
