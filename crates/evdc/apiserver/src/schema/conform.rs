//! Makes a decoded object conform to the table: nulls and unknown fields go, and a value of the wrong type is named as Go's decoder names it.

use serde_json::Value;

use super::{Message, Type, flat, message};

/// What was found in an object.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Findings {
    /// Paths of fields that the kind does not have; they have been removed.
    pub(crate) unknown: Vec<String>,
    /// The first value that has the wrong type, in words.
    pub(crate) mistyped: Option<String>,
}

/// Most unknown fields named; more are as unknown.
const UNKNOWN_MAX: usize = 32;

/// Removes nulls and unknown fields of a message, and reports them.
pub(crate) fn conform(of: &'static Message, value: &mut Value) -> Findings {
    let mut walk = Walk::default();
    walk.message(of, value);
    walk.findings
}

#[derive(Default)]
struct Walk {
    findings: Findings,
    path: String,
    within: &'static str,
}

impl Walk {
    fn message(&mut self, of: &'static Message, value: &mut Value) {
        let Value::Object(fields) = value else { return self.mistyped(value, of.name) };
        let Some(known) = flat(of.name) else { return };
        let is_root = self.path.is_empty();
        let within = std::mem::replace(&mut self.within, of.name);
        fields.retain(|name, value| {
            if is_root && (name == "apiVersion" || name == "kind") {
                return true;
            }
            let length = self.path.len();
            if !self.path.is_empty() {
                self.path.push('.');
            }
            self.path.push_str(name);
            let keep = match known.get(name.as_str()) {
                Some(_) if value.is_null() => false,
                Some(field) => {
                    self.value(&field.kind, value);
                    true
                }
                // A pod template stored in a list of objects names its kind.
                None if name == "apiVersion" || name == "kind" => true,
                None => {
                    self.unknown();
                    false
                }
            };
            self.path.truncate(length);
            keep
        });
        self.within = within;
    }

    fn value(&mut self, kind: &Type, value: &mut Value) {
        match kind {
            Type::Message(name) => {
                if let Some(of) = message(name) {
                    self.message(of, value);
                }
            }
            Type::List(item) => self.list(item, value),
            Type::Map(item) => self.map(item, value),
            Type::MapOfLists(item) => self.map(&Type::List(item.clone()), value),
            Type::String | Type::Bytes | Type::Time | Type::MicroTime | Type::Duration if !value.is_string() => {
                self.mistyped(value, "string");
            }
            Type::Bool if !value.is_boolean() => self.mistyped(value, "bool"),
            Type::I32 if value.as_i64().is_none_or(|number| i32::try_from(number).is_err()) => {
                self.mistyped(value, "int32");
            }
            Type::I64 if value.as_i64().is_none() => self.mistyped(value, "int64"),
            Type::F64 if !value.is_number() => self.mistyped(value, "float64"),
            Type::Quantity if value.is_number() => *value = Value::String(value.to_string()),
            Type::Quantity if !value.is_string() => self.mistyped(value, "resource.Quantity"),
            Type::IntOrString if !value.is_string() && value.as_i64().is_none() => {
                self.mistyped(value, "intstr.IntOrString");
            }
            _ => {}
        }
    }

    fn list(&mut self, item: &Type, value: &mut Value) {
        let Value::Array(items) = value else { return self.mistyped(value, "[]") };
        for (index, value) in items.iter_mut().enumerate() {
            let length = self.path.len();
            self.path.push_str(&format!("[{index}]"));
            self.value(item, value);
            self.path.truncate(length);
        }
    }

    fn map(&mut self, item: &Type, value: &mut Value) {
        let Value::Object(entries) = value else { return self.mistyped(value, "map") };
        for (name, value) in entries.iter_mut() {
            if value.is_null() {
                // Go decodes null to the zero value of the map's values.
                *value = if matches!(item, Type::String) { Value::String(String::new()) } else { continue };
            }
            let length = self.path.len();
            self.path.push_str(&format!(".{name}"));
            self.value(item, value);
            self.path.truncate(length);
        }
    }

    fn unknown(&mut self) {
        if self.findings.unknown.len() < UNKNOWN_MAX {
            self.findings.unknown.push(self.path.clone());
        }
    }

    fn mistyped(&mut self, value: &Value, wanted: &str) {
        let found = match value {
            Value::Null => return,
            Value::Bool(_) => "bool",
            Value::Number(_) => "number",
            Value::String(_) => "string",
            Value::Array(_) => "array",
            Value::Object(_) => "object",
        };
        let (path, within) = (&self.path, self.within.rsplit('.').next().unwrap_or_default());
        self.findings.mistyped.get_or_insert_with(|| {
            format!("json: cannot unmarshal {found} into Go struct field {within}.{path} of type {wanted}")
        });
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use serde_json::json;

    use super::*;
    use crate::schema::message_of;

    #[test]
    fn unknown_fields_go_and_are_named() {
        let mut pod = json!({
            "apiVersion": "v1", "kind": "Pod",
            "spec": {
                "containers": [{"name": "a", "image": null, "foo": 1, "resources": {"limits": {"cpu": 1}}}],
                "volumes": [{"name": "v", "configMap": {"name": "c", "oops": true}}],
            },
            "extra": {},
        });
        let found = conform(message_of("", "v1", "Pod").unwrap(), &mut pod);
        assert_eq!(found.unknown, ["extra", "spec.containers[0].foo", "spec.volumes[0].configMap.oops"]);
        assert_eq!(found.mistyped, None);
        assert_eq!(pod["spec"]["containers"][0], json!({"name": "a", "resources": {"limits": {"cpu": "1"}}}));
    }

    #[test]
    fn wrong_types_are_named() {
        let check = |mut object: Value, words: &str| {
            let found = conform(message_of("apps", "v1", "Deployment").unwrap(), &mut object);
            assert!(found.mistyped.as_deref().unwrap().contains(words), "{found:?}");
        };
        check(
            json!({"spec": {"replicas": "3"}}),
            "string into Go struct field DeploymentSpec.spec.replicas of type int32",
        );
        check(
            json!({"metadata": {"labels": {"a": 1}}}),
            "number into Go struct field ObjectMeta.metadata.labels.a of type string",
        );
        check(json!({"spec": []}), "array into");
    }
}
