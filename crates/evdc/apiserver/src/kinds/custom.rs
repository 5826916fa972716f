//! Custom resources: what a CustomResourceDefinition makes available, and the check of its objects against their schema.
//!
//! Structural schemas are enforced as far as types, required fields, enumerations, ranges, lengths and patterns go; unknown fields are pruned and
//! defaults filled in as Kubernetes does. CEL rules (`x-kubernetes-validations`) are not evaluated, and writers are warned of it.

use serde_json::{Map, Value};

use super::{Custom, CustomColumn, Resource, ScalePaths};
use crate::{
    error::Cause,
    object::{at, list, name, text},
};

/// The resources that a CustomResourceDefinition stands for: one for each served version.
pub(crate) fn resources(definition: &Value) -> Vec<Resource> {
    let versions = list(definition, &["spec", "versions"]);
    versions.iter().filter(|version| version["served"] == true).map(|version| resource(definition, version)).collect()
}

fn resource(definition: &Value, version: &Value) -> Resource {
    let names = &definition["spec"]["names"];
    let status = at(definition, &["status", "acceptedNames"]).unwrap_or(names);
    let strings = |value: &Value| -> Vec<String> {
        let items = value.as_array().into_iter().flatten();
        items.filter_map(Value::as_str).map(str::to_owned).collect()
    };
    let schema = at(version, &["schema", "openAPIV3Schema"]).cloned().unwrap_or_default();
    let subresources = &version["subresources"];
    let kind = text(names, &["kind"]).to_owned();
    let group = text(definition, &["spec", "group"]).to_owned();
    let plural = text(names, &["plural"]).to_owned();
    let or = |text: &str, other: String| if text.is_empty() { other } else { text.to_owned() };
    Resource {
        list_kind: or(text(names, &["listKind"]), format!("{kind}List")),
        singular: or(text(names, &["singular"]), kind.to_lowercase()),
        short_names: strings(&status["shortNames"]),
        categories: strings(&status["categories"]),
        namespaced: definition["spec"]["scope"] == "Namespaced",
        status: subresources.get("status").is_some(),
        scale: subresources.get("scale").map(scale),
        is_review: false,
        is_view: false,
        message: None,
        custom: Some(Custom {
            columns: list(version, &["additionalPrinterColumns"]).iter().map(column).collect(),
            merging: atoll_merge::Schema::from_open_api(&schema),
            has_rules: schema.to_string().contains("\"x-kubernetes-validations\""),
            schema,
        }),
        storage: format!("{group}/{plural}"),
        version: text(version, &["name"]).to_owned(),
        kind,
        group,
        plural,
    }
}

fn scale(scale: &Value) -> ScalePaths {
    let path = |text: &str| text.split('.').filter(|name| !name.is_empty()).map(str::to_owned).collect::<Vec<_>>();
    ScalePaths {
        spec_replicas: path(text(scale, &["specReplicasPath"])),
        status_replicas: path(text(scale, &["statusReplicasPath"])),
        selector: scale["labelSelectorPath"].as_str().map(path),
    }
}

fn column(column: &Value) -> CustomColumn {
    let text = |name: &str| text(column, &[name]).to_owned();
    CustomColumn {
        name: text("name"),
        kind: text("type"),
        format: text("format"),
        description: text("description"),
        priority: column["priority"].as_i64().unwrap_or(0),
        path: text("jsonPath"),
    }
}

/// Fields that every object has and no custom schema describes.
const OBJECT_FIELDS: [&str; 3] = ["apiVersion", "kind", "metadata"];

/// Fills in defaults and removes what the schema does not know; returns the paths removed.
pub(crate) fn prune_and_default(schema: &Value, object: &mut Value) -> Vec<String> {
    let mut removed = Vec::new();
    prune(schema, object, "", true, &mut removed);
    removed
}

fn prune(schema: &Value, value: &mut Value, path: &str, is_object_root: bool, removed: &mut Vec<String>) {
    match value {
        Value::Object(fields) => prune_fields(schema, fields, path, is_object_root, removed),
        Value::Array(items) => {
            if let Some(of) = schema.get("items") {
                for (index, item) in items.iter_mut().enumerate() {
                    prune(of, item, &format!("{path}[{index}]"), false, removed);
                }
            }
        }
        _ => {}
    }
}

fn prune_fields(schema: &Value, fields: &mut Map<String, Value>, path: &str, is_root: bool, removed: &mut Vec<String>) {
    let keeps_unknown = schema["x-kubernetes-preserve-unknown-fields"] == true;
    let is_object = is_root || schema["x-kubernetes-embedded-resource"] == true;
    let properties = schema.get("properties").and_then(Value::as_object);
    let additional = schema.get("additionalProperties").filter(|more| **more != Value::Bool(false));
    fields.retain(|name, value| {
        let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
        if is_object && OBJECT_FIELDS.contains(&name.as_str()) {
            return true;
        }
        let known = properties.and_then(|properties| properties.get(name));
        match known.or(additional) {
            Some(of) => {
                let nullable = of["nullable"] == true || of["x-kubernetes-preserve-unknown-fields"] == true;
                if value.is_null() && !nullable {
                    return false;
                }
                prune(of, value, &path, false, removed);
                true
            }
            None if keeps_unknown => true,
            None => {
                removed.push(path);
                false
            }
        }
    });
    for (name, of) in properties.into_iter().flatten() {
        if let Some(default) = of.get("default")
            && !fields.contains_key(name)
        {
            let mut default = default.clone();
            prune(of, &mut default, "", false, &mut Vec::new());
            fields.insert(name.clone(), default);
        }
    }
}

/// What is wrong with an object by its schema.
pub(crate) fn validate(schema: &Value, object: &Value) -> Vec<Cause> {
    let mut causes = Vec::new();
    check(schema, object, "", &mut causes);
    causes
}

/// Most faults named; an object with more is as invalid.
const CAUSES_MAX: usize = 50;

fn check(schema: &Value, value: &Value, path: &str, causes: &mut Vec<Cause>) {
    if causes.len() >= CAUSES_MAX || (value.is_null() && schema["nullable"] == true) {
        return;
    }
    let field = || if path.is_empty() { "<nil>".to_owned() } else { path.to_owned() };
    if let Some(detail) = mistyped(schema, value) {
        let message = format!("{} in body must be of type {}: \"{}\"", field(), detail, kind_of(value));
        causes.push(Cause::invalid(field(), &Value::from(kind_of(value)), &message));
        return;
    }
    if let Some(allowed) = schema["enum"].as_array()
        && !allowed.contains(value)
    {
        let allowed: Vec<&str> = allowed.iter().filter_map(Value::as_str).collect();
        causes.push(Cause::not_supported(field(), value, &allowed));
    }
    match value {
        Value::Object(fields) => check_fields(schema, fields, path, causes),
        Value::Array(items) => {
            check_count(schema, items.len(), ["minItems", "maxItems"], "items", &field(), causes);
            for (index, item) in items.iter().enumerate() {
                check(&schema["items"], item, &format!("{path}[{index}]"), causes);
            }
        }
        Value::String(text) => {
            check_count(schema, text.chars().count(), ["minLength", "maxLength"], "chars", &field(), causes);
            check_pattern(schema, text, &field(), causes);
        }
        Value::Number(_) => check_range(schema, value, &field(), causes),
        Value::Bool(_) | Value::Null => {}
    }
}

fn kind_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(number) if number.is_f64() => "number",
        Value::Number(_) => "integer",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

/// The type wanted, if this is not it.
fn mistyped<'a>(schema: &'a Value, value: &Value) -> Option<&'a str> {
    if schema["x-kubernetes-int-or-string"] == true {
        return (!value.is_string() && !value.is_i64() && !value.is_u64()).then_some("integer,string");
    }
    let wanted = schema["type"].as_str().filter(|wanted| !wanted.is_empty())?;
    let found = kind_of(value);
    let fits = found == wanted || (wanted == "number" && found == "integer");
    (!fits).then_some(wanted)
}

fn check_fields(schema: &Value, fields: &Map<String, Value>, path: &str, causes: &mut Vec<Cause>) {
    let inner = |name: &str| if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") };
    for name in schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str) {
        if !fields.contains_key(name) {
            causes.push(Cause::required(inner(name), ""));
        }
    }
    check_count(schema, fields.len(), ["minProperties", "maxProperties"], "properties", path, causes);
    for (name, value) in fields {
        let is_object_field = path.is_empty() && OBJECT_FIELDS.contains(&name.as_str());
        let of = schema["properties"].get(name).or_else(|| schema.get("additionalProperties"));
        if let Some(of) = of.filter(|_| !is_object_field) {
            check(of, value, &inner(name), causes);
        }
    }
}

fn check_count(schema: &Value, count: usize, names: [&str; 2], unit: &str, field: &str, causes: &mut Vec<Cause>) {
    let limit = |name: &str| schema[name].as_u64().and_then(|limit| usize::try_from(limit).ok());
    if let Some(min) = limit(names[0]).filter(|min| count < *min) {
        let detail = format!("{field} in body should be at least {min} {unit} long");
        causes.push(Cause::invalid(field, &count.into(), &detail));
    }
    if let Some(max) = limit(names[1]).filter(|max| count > *max) {
        let detail = format!("{field} in body should be at most {max} {unit} long");
        causes.push(Cause::invalid(field, &count.into(), &detail));
    }
}

fn check_range(schema: &Value, value: &Value, field: &str, causes: &mut Vec<Cause>) {
    let Some(number) = value.as_f64() else { return };
    let exclusive = |name: &str| schema[name] == true;
    if let Some(min) = schema["minimum"].as_f64()
        && (number < min || (exclusive("exclusiveMinimum") && number <= min))
    {
        causes.push(Cause::invalid(field, value, &format!("{field} in body should be greater than or equal to {min}")));
    }
    if let Some(max) = schema["maximum"].as_f64()
        && (number > max || (exclusive("exclusiveMaximum") && number >= max))
    {
        causes.push(Cause::invalid(field, value, &format!("{field} in body should be less than or equal to {max}")));
    }
}

fn check_pattern(schema: &Value, text: &str, field: &str, causes: &mut Vec<Cause>) {
    /// A pattern may not compile to more than this; it came from a user.
    const PATTERN_BYTES_MAX: usize = 1 << 20;
    let Some(pattern) = schema["pattern"].as_str() else { return };
    let built = regex::RegexBuilder::new(pattern).size_limit(PATTERN_BYTES_MAX).build();
    if built.is_ok_and(|pattern| !pattern.is_match(text)) {
        causes.push(Cause::invalid(field, &text.into(), &format!("{field} in body should match '{pattern}'")));
    }
}

/// What is wrong with a CustomResourceDefinition.
pub(crate) fn validate_definition(definition: &Value) -> Vec<Cause> {
    let mut causes = Vec::new();
    let names = &definition["spec"]["names"];
    let group = text(definition, &["spec", "group"]);
    for (field, value) in [
        ("spec.group", group),
        ("spec.names.plural", text(names, &["plural"])),
        ("spec.names.kind", text(names, &["kind"])),
    ] {
        if value.is_empty() {
            causes.push(Cause::required(field, ""));
        }
    }
    let expected = format!("{}.{group}", text(names, &["plural"]));
    if name(definition) != expected {
        let detail = "must be spec.names.plural+\".\"+spec.group";
        causes.push(Cause::invalid("metadata.name", &name(definition).into(), detail));
    }
    if !group.contains('.') {
        causes.push(Cause::invalid("spec.group", &group.into(), "should be a domain with at least one dot"));
    }
    let scope = &definition["spec"]["scope"];
    if scope != "Namespaced" && scope != "Cluster" {
        causes.push(Cause::not_supported("spec.scope", scope, &["Cluster", "Namespaced"]));
    }
    let versions = list(definition, &["spec", "versions"]);
    let stored = versions.iter().filter(|version| version["storage"] == true).count();
    if stored != 1 {
        let detail = "must have exactly one version marked as storage version";
        causes.push(Cause::invalid("spec.versions", &versions.len().into(), detail));
    }
    for (index, version) in versions.iter().enumerate() {
        if at(version, &["schema", "openAPIV3Schema"]).is_none() {
            causes.push(Cause::required(
                format!("spec.versions[{index}].schema.openAPIV3Schema"),
                "schemas are required",
            ));
        }
    }
    if text(definition, &["spec", "conversion", "strategy"]) == "Webhook" {
        let detail = "conversion webhooks are not supported here; use strategy None";
        causes.push(Cause::forbidden("spec.conversion.strategy", detail));
    }
    causes
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn schema() -> Value {
        json!({"type": "object", "required": ["spec"], "properties": {"spec": {"type": "object", "required": ["size"], "properties": {
            "size": {"type": "integer", "minimum": 1},
            "mode": {"type": "string", "enum": ["a", "b"], "default": "a"},
            "name": {"type": "string", "pattern": "^[a-z]+$", "maxLength": 5},
            "port": {"x-kubernetes-int-or-string": true},
            "free": {"type": "object", "x-kubernetes-preserve-unknown-fields": true},
        }}}})
    }

    #[test]
    fn unknown_fields_are_pruned_and_defaults_filled_in() {
        let mut object = json!({"apiVersion": "g/v1", "kind": "K", "metadata": {"name": "x"}, "other": 1,
            "spec": {"size": 1, "typo": 2, "free": {"any": {"thing": 1}}, "name": null}});
        assert_eq!(prune_and_default(&schema(), &mut object), ["other", "spec.typo"]);
        assert_eq!(object["spec"], json!({"size": 1, "free": {"any": {"thing": 1}}, "mode": "a"}));
    }

    #[test]
    fn faults_are_named() {
        let check = |spec: Value, fields: &[&str]| {
            let causes = validate(&schema(), &json!({"spec": spec}));
            assert_eq!(
                causes.iter().map(|cause| cause.field.as_str()).collect::<Vec<_>>(),
                fields,
                "{spec}: {causes:?}"
            );
        };
        check(json!({"size": 1, "mode": "b", "name": "abc", "port": "http"}), &[]);
        check(json!({}), &["spec.size"]);
        check(json!({"size": 0}), &["spec.size"]);
        check(json!({"size": "1"}), &["spec.size"]);
        check(json!({"size": 1, "mode": "c"}), &["spec.mode"]);
        check(json!({"size": 1, "name": "ABCDEF"}), &["spec.name", "spec.name"]);
        check(json!({"size": 1, "port": true}), &["spec.port"]);
    }
}
