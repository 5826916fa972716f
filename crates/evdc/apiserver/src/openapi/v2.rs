//! `/openapi/v2`: Swagger 2.0 in JSON, and in the protobuf form that `kubectl` before 1.27 reads.
//!
//! Only definitions are served: no client is known to look at the paths of this version.

use http::{Response, header, request::Parts};
use serde_json::{Map, Value, json};

use super::Schemas;
use crate::{
    error::ApiError,
    kinds::Registry,
    respond::{self, ResponseBody},
};

/// Media types of the protobuf form; older clients write the first.
const PROTOBUF: [&str; 2] = [
    "application/com.github.proto-openapi.spec.v2@v1.0+protobuf",
    "application/com.github.proto-openapi.spec.v2.v1.0+protobuf",
];

pub(super) fn serve(registry: &Registry, parts: &Parts) -> Result<Response<ResponseBody>, ApiError> {
    let accept = parts.headers.get(header::ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let mut schemas = Schemas::new("#/definitions/");
    registry.all().for_each(|resource| schemas.add_kind(resource));
    if PROTOBUF.iter().any(|media_type| accept.contains(media_type)) {
        // Go's parser of media types does not take the older name, though clients ask by it.
        let [_, media_type] = PROTOBUF;
        return Ok(respond::typed(200, media_type, respond::full(encode_document(&schemas.done))));
    }
    if !accept.is_empty() && !accept.contains("application/json") && !accept.contains("*/*") {
        return Err(ApiError::new(406, "NotAcceptable", "/openapi/v2 is served as JSON and as protobuf v1.0 only"));
    }
    let document = json!({
        "swagger": "2.0", "info": {"title": "Kubernetes", "version": crate::discovery::version()["gitVersion"]},
        "paths": {}, "definitions": schemas.done,
    });
    Ok(respond::json(200, &document))
}

/// Writes protobuf: only fields that hold bytes, which is all that is needed but for two booleans.
#[derive(Default)]
struct Writer(Vec<u8>);

impl Writer {
    fn varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.0.push((value & 0x7f) as u8 | 0x80);
            value >>= 7;
        }
        self.0.push(value as u8);
    }

    fn bytes(&mut self, number: u64, bytes: &[u8]) {
        self.varint(number << 3 | 2);
        self.varint(bytes.len() as u64);
        self.0.extend_from_slice(bytes);
    }

    fn text(&mut self, number: u64, value: Option<&Value>) {
        if let Some(text) = value.and_then(Value::as_str) {
            self.bytes(number, text.as_bytes());
        }
    }
}

// Field numbers are those of gnostic's OpenAPIv2.proto.

fn encode_document(definitions: &Map<String, Value>) -> Vec<u8> {
    let mut info = Writer::default();
    info.bytes(1, b"Kubernetes");
    info.text(2, Some(&crate::discovery::version()["gitVersion"]));
    let mut document = Writer::default();
    document.bytes(1, b"2.0");
    document.bytes(2, &info.0);
    document.bytes(8, b"");
    document.bytes(9, &encode_named(1, definitions));
    document.0
}

/// A map from names to schemas, in the field of this number.
fn encode_named(number: u64, schemas: &Map<String, Value>) -> Vec<u8> {
    let mut all = Writer::default();
    for (name, schema) in schemas {
        let mut named = Writer::default();
        named.bytes(1, name.as_bytes());
        named.bytes(2, &encode_schema(schema));
        all.bytes(number, &named.0);
    }
    all.0
}

fn encode_schema(schema: &Value) -> Vec<u8> {
    let mut out = Writer::default();
    // Here extensions may stand beside a reference, and clients do not look into `allOf`.
    let only = schema["allOf"].as_array().filter(|parts| parts.len() == 1).and_then(|parts| parts[0].get("$ref"));
    out.text(1, schema.get("$ref").or(only));
    out.text(2, schema.get("format"));
    out.text(4, schema.get("description"));
    for name in schema["required"].as_array().into_iter().flatten() {
        out.text(19, Some(name));
    }
    if let Some(additional) = schema.get("additionalProperties").filter(|it| it.is_object()) {
        let mut item = Writer::default();
        item.bytes(1, &encode_schema(additional));
        out.bytes(21, &item.0);
    }
    if schema["type"].is_string() {
        let mut kind = Writer::default();
        kind.text(1, schema.get("type"));
        out.bytes(22, &kind.0);
    }
    if let Some(items) = schema.get("items") {
        let mut item = Writer::default();
        item.bytes(1, &encode_schema(items));
        out.bytes(23, &item.0);
    }
    if let Some(properties) = schema["properties"].as_object() {
        out.bytes(25, &encode_named(1, properties));
    }
    for (name, value) in schema.as_object().into_iter().flatten().filter(|(name, _)| name.starts_with("x-")) {
        let mut any = Writer::default();
        // JSON is YAML.
        any.bytes(2, value.to_string().as_bytes());
        let mut named = Writer::default();
        named.bytes(1, name.as_bytes());
        named.bytes(2, &any.0);
        out.bytes(31, &named.0);
    }
    out.0
}
