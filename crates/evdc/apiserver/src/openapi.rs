//! The OpenAPI documents: `/openapi/v3` with one document for each group and version, and `/openapi/v2` in JSON and protobuf.
//!
//! Their schemas are made from the table of built-in fields and from the definitions of custom resources. They tell clients what fields there are and how lists
//! merge; they have no descriptions. Operations are listed as far as clients look at them.

use std::collections::BTreeSet;

use http::{HeaderValue, Response, header, request::Parts};
use serde_json::{Map, Value, json};

use crate::{
    error::ApiError,
    kinds::{Registry, Resource},
    respond::{self, ResponseBody},
    schema::{Field, Type, flat},
};

mod v2;

/// Answers a path below `/openapi`.
pub(crate) fn serve(registry: &Registry, path: &str, parts: &Parts) -> Result<Response<ResponseBody>, ApiError> {
    let segments: Vec<&str> = path.split('/').filter(|segment| !segment.is_empty()).collect();
    match segments.as_slice() {
        ["openapi", "v2"] => v2::serve(registry, parts),
        ["openapi", "v3"] => Ok(respond::json(200, &index(registry))),
        ["openapi", "v3", "api", version] => document(registry, "", version, parts),
        ["openapi", "v3", "apis", group, version] => document(registry, group, version, parts),
        _ => Err(ApiError::no_route()),
    }
}

fn index(registry: &Registry) -> Value {
    let mut paths = Map::new();
    for (group, versions) in registry.groups() {
        for version in versions {
            let path = if group.is_empty() { format!("api/{version}") } else { format!("apis/{group}/{version}") };
            // The hash lets clients keep what they have; it changes with the resources of the version.
            let hash = hash(&format!("{:?}", registry.in_version(group, version)));
            let url = format!("/openapi/v3/{path}?hash={hash}");
            paths.insert(path, json!({"serverRelativeURL": url}));
        }
    }
    json!({"paths": paths})
}

fn hash(text: &str) -> String {
    use sha2::Digest as _;
    data_encoding::HEXUPPER.encode(&sha2::Sha256::digest(text.as_bytes())[..16])
}

fn document(
    registry: &Registry,
    group: &str,
    version: &str,
    parts: &Parts,
) -> Result<Response<ResponseBody>, ApiError> {
    let accept = parts.headers.get(header::ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let json_accepted = accept.is_empty() || accept.contains("application/json") || accept.contains("*/*");
    if !json_accepted {
        return Err(ApiError::new(
            406,
            "NotAcceptable",
            "the OpenAPI v3 documents are served as application/json only",
        ));
    }
    let resources = registry.in_version(group, version);
    if resources.is_empty() {
        return Err(ApiError::no_route());
    }
    let mut paths = Map::new();
    let mut schemas = Schemas::new("#/components/schemas/");
    for resource in resources {
        add_paths(resource, &mut paths);
        schemas.add_kind(resource);
    }
    if !group.is_empty() || version == "v1" {
        schemas.add_message("meta.v1.DeleteOptions");
    }
    let document = json!({
        "openapi": "3.0.0", "info": {"title": "Kubernetes", "version": crate::discovery::version()["gitVersion"]},
        "paths": paths, "components": {"schemas": schemas.done},
    });
    let mut response = respond::json(200, &document);
    let etag = HeaderValue::from_str(&format!("\"{}\"", hash(&document.to_string())));
    if let Ok(etag) = etag {
        response.headers_mut().insert(header::ETAG, etag);
    }
    Ok(response)
}

/// The paths of a resource with the operations that clients look for: which parameters a PATCH takes tells kubectl and Helm what the server can do.
fn add_paths(resource: &Resource, paths: &mut Map<String, Value>) {
    let root = if resource.group.is_empty() {
        format!("/api/{}", resource.version)
    } else {
        format!("/apis/{}/{}", resource.group, resource.version)
    };
    let scope = if resource.namespaced { "/namespaces/{namespace}" } else { "" };
    let collection = format!("{root}{scope}/{}", resource.plural);
    let kind = json!({"group": resource.group, "version": resource.version, "kind": resource.kind});
    let query = |name: &str| json!({"name": name, "in": "query", "schema": {"type": "string", "uniqueItems": true}});
    let operation = |action: &str, parameters: &[&str]| {
        json!({
            "operationId": format!("{action}{}", resource.kind), "x-kubernetes-action": action,
            "x-kubernetes-group-version-kind": kind, "parameters": parameters.iter().map(|name| query(name)).collect::<Vec<_>>(),
            "responses": {"200": {"description": "OK"}},
        })
    };
    let with_body = |action: &str, media_types: &[&str], parameters: &[&str]| {
        let mut operation = operation(action, parameters);
        let schema = json!({"schema": {"$ref": format!("#/components/schemas/{}", schema_name(resource))}});
        let content: Map<String, Value> =
            media_types.iter().map(|&media_type| (media_type.to_owned(), schema.clone())).collect();
        operation["requestBody"] = json!({"content": content});
        operation
    };
    const LIST: &[&str] = &["labelSelector", "fieldSelector", "limit", "continue", "watch", "resourceVersion"];
    if resource.is_view {
        paths.insert(format!("{collection}/{{name}}"), json!({"get": operation("get", &[])}));
        paths.insert(collection, json!({"get": operation("list", LIST)}));
        return;
    }
    let writes = ["dryRun", "fieldManager", "fieldValidation"];
    let any = ["application/json", "application/yaml", crate::protobuf::MEDIA_TYPE];
    let mut on_collection = json!({"post": with_body("post", &any, &writes)});
    if resource.is_review {
        paths.insert(collection, on_collection);
        return;
    }
    on_collection["get"] = operation("list", LIST);
    on_collection["delete"] = operation("deletecollection", &["dryRun", "labelSelector", "propagationPolicy"]);
    let mut patches =
        vec!["application/apply-patch+yaml", "application/json-patch+json", "application/merge-patch+json"];
    if resource.custom.is_none() {
        patches.push("application/strategic-merge-patch+json");
    }
    let item = json!({
        "get": operation("get", &[]),
        "put": with_body("put", &any, &writes),
        "patch": with_body("patch", &patches, &["dryRun", "fieldManager", "fieldValidation", "force"]),
        "delete": operation("delete", &["dryRun", "gracePeriodSeconds", "propagationPolicy"]),
    });
    paths.insert(format!("{collection}/{{name}}"), item);
    paths.insert(collection, on_collection);
}

/// The name of a message in Kubernetes' documents, such as `io.k8s.api.apps.v1.Deployment`.
fn public_name(message: &str) -> String {
    match message.split_once('.') {
        Some(("meta", rest)) => format!("io.k8s.apimachinery.pkg.apis.meta.{rest}"),
        Some(("apiextensions", rest)) => format!("io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.{rest}"),
        _ => format!("io.k8s.api.{message}"),
    }
}

fn schema_name(resource: &Resource) -> String {
    match resource.message {
        Some(message) => public_name(message.name),
        None => {
            let domain: Vec<&str> = resource.group.rsplit('.').collect();
            format!("{}.{}.{}", domain.join("."), resource.version, resource.kind)
        }
    }
}

/// Schemas gathered with all that they refer to.
struct Schemas {
    prefix: &'static str,
    done: Map<String, Value>,
    seen: BTreeSet<&'static str>,
}

impl Schemas {
    fn new(prefix: &'static str) -> Self {
        Self { prefix, done: Map::new(), seen: BTreeSet::new() }
    }

    fn add_kind(&mut self, resource: &Resource) {
        let kinds = json!([{"group": resource.group, "version": resource.version, "kind": resource.kind}]);
        let mut schema = match (&resource.message, &resource.custom) {
            (Some(message), _) => {
                self.add_message(message.name);
                self.done.get(&public_name(message.name)).cloned().unwrap_or_default()
            }
            (None, Some(custom)) => {
                self.add_message("meta.v1.ObjectMeta");
                let mut schema =
                    if custom.schema.is_object() { custom.schema.clone() } else { json!({"type": "object"}) };
                schema["properties"]["metadata"] = self.reference("meta.v1.ObjectMeta");
                schema
            }
            (None, None) => return,
        };
        schema["properties"]["apiVersion"] = json!({"type": "string"});
        schema["properties"]["kind"] = json!({"type": "string"});
        schema["x-kubernetes-group-version-kind"] = kinds;
        self.done.insert(schema_name(resource), schema);
    }

    fn reference(&self, message: &str) -> Value {
        json!({"$ref": format!("{}{}", self.prefix, public_name(message))})
    }

    fn add_message(&mut self, name: &'static str) {
        if !self.seen.insert(name) {
            return;
        }
        let Some(fields) = flat(name) else { return };
        let mut properties = Map::new();
        let mut required = Vec::new();
        for (name, field) in fields {
            properties.insert((*name).to_owned(), self.property(field));
            if field.required {
                required.push(*name);
            }
        }
        let mut schema = json!({"type": "object", "properties": properties});
        if !required.is_empty() {
            schema["required"] = required.into();
        }
        self.done.insert(public_name(name), schema);
    }

    fn property(&mut self, field: &'static Field) -> Value {
        let mut schema = self.of_type(&field.kind);
        let merging = &field.merging;
        let wrap = |schema: &mut Value| {
            // Beside a reference nothing else is read.
            if schema.get("$ref").is_some() {
                *schema = json!({"allOf": [schema.take()]});
            }
        };
        if let Some(kind) = merging.list_type {
            schema["x-kubernetes-list-type"] = kind.into();
        }
        if !merging.map_keys.is_empty() {
            schema["x-kubernetes-list-map-keys"] = merging.map_keys.clone().into();
        }
        if let Some(strategy) = merging.patch_strategy {
            wrap(&mut schema);
            schema["x-kubernetes-patch-strategy"] = strategy.into();
        }
        if let Some(key) = merging.patch_key {
            schema["x-kubernetes-patch-merge-key"] = key.into();
        }
        schema
    }

    fn of_type(&mut self, kind: &'static Type) -> Value {
        match kind {
            Type::String | Type::Duration | Type::Quantity => json!({"type": "string"}),
            Type::Bytes => json!({"type": "string", "format": "byte"}),
            Type::Bool => json!({"type": "boolean"}),
            Type::I32 => json!({"type": "integer", "format": "int32"}),
            Type::I64 => json!({"type": "integer", "format": "int64"}),
            Type::F64 => json!({"type": "number", "format": "double"}),
            Type::Time | Type::MicroTime => json!({"type": "string", "format": "date-time"}),
            Type::IntOrString => json!({"type": "string", "format": "int-or-string"}),
            Type::Fields | Type::Raw => json!({"type": "object"}),
            Type::Json | Type::SchemaOrArray | Type::SchemaOrBool | Type::SchemaOrStrings => json!({}),
            Type::List(item) => json!({"type": "array", "items": self.of_type(item)}),
            Type::Map(item) => json!({"type": "object", "additionalProperties": self.of_type(item)}),
            Type::MapOfLists(item) => {
                json!({"type": "object", "additionalProperties": {"type": "array", "items": self.of_type(item)}})
            }
            Type::Message(name) => {
                self.add_message(name);
                self.reference(name)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reference_is_answered() {
        let registry = Registry::builtin();
        let mut schemas = Schemas::new("#/");
        registry.all().for_each(|resource| schemas.add_kind(resource));
        let text = Value::Object(schemas.done.clone()).to_string();
        for part in text.split("\"$ref\":\"#/").skip(1) {
            let name = part.split('"').next().unwrap_or_default();
            assert!(schemas.done.contains_key(name), "{name}");
        }
        let ports = &schemas.done["io.k8s.api.core.v1.ServiceSpec"]["properties"]["ports"];
        assert_eq!(ports["x-kubernetes-patch-merge-key"], "port");
    }
}
