//! Kubernetes' protobuf bodies, decoded to the JSON they stand for. `kubectl` from 1.32 on and Helm 4 send them; answers are always JSON.
//!
//! The wire format is walked with the table of `schema.rs`; there is no generated code. Go writes every field that is not a pointer, also when it is empty,
//! so an empty value counts as absent unless the table says that the field is a pointer or kept.

use data_encoding::BASE64;
use jiff::Timestamp;
use serde_json::{Map, Value, json};

use crate::{
    error::ApiError,
    schema::{Field, Message, Type, message, message_of},
};

/// Media type of these bodies.
pub const MEDIA_TYPE: &str = "application/vnd.kubernetes.protobuf";

/// What every body begins with.
const MAGIC: &[u8] = b"k8s\0";

/// Deepest nesting: far more than any schema of a custom resource has.
const DEPTH_MAX: usize = 64;

/// Decodes a body: the envelope that names the kind, and the object in it.
///
/// # Errors
/// `BadRequest` for bytes that are no such body, or a kind that this server has no table for.
pub fn decode(body: &[u8]) -> Result<Value, ApiError> {
    let Some(envelope) = body.strip_prefix(MAGIC) else {
        return Err(ApiError::bad_request(
            "the body is not Kubernetes' protobuf: it does not begin with k8s and a zero",
        ));
    };
    let broken = || ApiError::bad_request("the protobuf body is damaged: it ends early, or nests too deep");
    let (mut api_version, mut kind, mut raw) = (String::new(), String::new(), &b""[..]);
    for field in Wire(envelope) {
        match field.ok_or_else(broken)? {
            (1, Item::Bytes(names)) => {
                for name in Wire(names) {
                    match name.ok_or_else(broken)? {
                        (1, Item::Bytes(text)) => api_version = String::from_utf8_lossy(text).into_owned(),
                        (2, Item::Bytes(text)) => kind = String::from_utf8_lossy(text).into_owned(),
                        _ => {}
                    }
                }
            }
            (2, Item::Bytes(bytes)) => raw = bytes,
            _ => {}
        }
    }
    let (group, version) = api_version.split_once('/').unwrap_or(("", &api_version));
    // Options are sent under whatever group they act on.
    let known =
        if kind == "DeleteOptions" { message("meta.v1.DeleteOptions") } else { message_of(group, version, &kind) };
    let Some(of) = known else {
        let message = format!("no kind \"{kind}\" is registered for version \"{api_version}\" for protobuf; send JSON");
        return Err(ApiError::bad_request(message));
    };
    let mut object = decode_message(of, raw, 0).ok_or_else(broken)?;
    object.insert("apiVersion".to_owned(), api_version.into());
    object.insert("kind".to_owned(), kind.into());
    Ok(Value::Object(object))
}

/// One value on the wire.
#[derive(Debug, Clone, Copy)]
enum Item<'a> {
    Number(u64),
    Fixed64(u64),
    Fixed32,
    Bytes(&'a [u8]),
}

/// The fields of a message; `None` where it is damaged.
struct Wire<'a>(&'a [u8]);

impl<'a> Wire<'a> {
    fn varint(&mut self) -> Option<u64> {
        let mut value = 0_u64;
        for shift in (0..64).step_by(7) {
            let (byte, rest) = self.0.split_first()?;
            self.0 = rest;
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Some(value);
            }
        }
        None
    }

    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(taken)
    }

    fn field(&mut self) -> Option<(u32, Item<'a>)> {
        let tag = self.varint()?;
        let number = u32::try_from(tag >> 3).ok()?;
        let item = match tag & 7 {
            0 => Item::Number(self.varint()?),
            1 => Item::Fixed64(u64::from_le_bytes(self.take(8)?.try_into().ok()?)),
            2 => {
                let count = usize::try_from(self.varint()?).ok()?;
                Item::Bytes(self.take(count)?)
            }
            5 => self.take(4).map(|_| Item::Fixed32)?,
            _ => return None,
        };
        Some((number, item))
    }
}

impl<'a> Iterator for Wire<'a> {
    type Item = Option<(u32, Item<'a>)>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let field = self.field();
        if field.is_none() {
            self.0 = b"";
        }
        Some(field)
    }
}

fn decode_message(of: &'static Message, bytes: &[u8], depth: usize) -> Option<Map<String, Value>> {
    if depth > DEPTH_MAX {
        return None;
    }
    let mut object = Map::new();
    for item in Wire(bytes) {
        let (number, item) = item?;
        let Some(field) = of.fields.iter().find(|field| field.number == number) else { continue };
        decode_field(field, item, depth, &mut object)?;
    }
    for field in of.fields.iter().filter(|field| field.kept && !field.name.is_empty()) {
        if !object.contains_key(field.name)
            && let Some(zero) = zero(&field.kind)
        {
            object.insert(field.name.to_owned(), zero);
        }
    }
    Some(object)
}

fn decode_field(field: &'static Field, item: Item<'_>, depth: usize, object: &mut Map<String, Value>) -> Option<()> {
    match (&field.kind, item) {
        (Type::Message(name), Item::Bytes(bytes)) if field.name.is_empty() => {
            object.extend(decode_message(message(name)?, bytes, depth + 1)?);
        }
        (Type::List(of), item) => {
            let list = object.entry(field.name).or_insert_with(|| json!([])).as_array_mut()?;
            match (of.as_ref(), item) {
                (Type::I32 | Type::I64, Item::Bytes(packed)) => {
                    let mut packed = Wire(packed);
                    while !packed.0.is_empty() {
                        list.push(packed.varint()?.cast_signed().into());
                    }
                }
                (of, item) => list.push(decode_value(of, item, depth + 1)?),
            }
        }
        (Type::Map(of), Item::Bytes(bytes)) => {
            let (key, value) = decode_entry(of, bytes, depth)?;
            object.entry(field.name).or_insert_with(|| json!({})).as_object_mut()?.insert(key, value);
        }
        (Type::MapOfLists(of), Item::Bytes(bytes)) => {
            let (key, value) = decode_list_entry(of, bytes, depth)?;
            object.entry(field.name).or_insert_with(|| json!({})).as_object_mut()?.insert(key, value);
        }
        (kind, item) => {
            let value = decode_value(kind, item, depth + 1)?;
            if field.pointer && !value.is_null() || field.kept || !is_zero(&value) {
                object.insert(field.name.to_owned(), value);
            }
        }
    }
    Some(())
}

/// The zero that Go writes for a field without `omitempty`; only for simple values.
fn zero(kind: &Type) -> Option<Value> {
    match kind {
        Type::String => Some("".into()),
        Type::I32 | Type::I64 => Some(0.into()),
        Type::Bool => Some(false.into()),
        _ => None,
    }
}

fn is_zero(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Bool(value) => !value,
        Value::Number(number) => number.as_f64() == Some(0.0),
        Value::String(text) => text.is_empty(),
        Value::Array(items) => items.is_empty(),
        Value::Object(fields) => fields.is_empty(),
    }
}

fn decode_entry(of: &Type, bytes: &[u8], depth: usize) -> Option<(String, Value)> {
    let (mut key, mut value) = (String::new(), None);
    for item in Wire(bytes) {
        match item? {
            (1, Item::Bytes(text)) => key = text_of(text),
            (2, item) => value = Some(decode_value(of, item, depth + 1)?),
            _ => {}
        }
    }
    let value = value.or_else(|| zero(of)).unwrap_or_else(|| match of {
        Type::Bytes | Type::Quantity => "".into(),
        _ => json!({}),
    });
    Some((key, value))
}

fn decode_list_entry(of: &Type, bytes: &[u8], depth: usize) -> Option<(String, Value)> {
    let (mut key, mut list) = (String::new(), Vec::new());
    for item in Wire(bytes) {
        match item? {
            (1, Item::Bytes(text)) => key = text_of(text),
            (2, Item::Bytes(items)) => {
                for item in Wire(items) {
                    list.push(decode_value(of, item?.1, depth + 1)?);
                }
            }
            _ => {}
        }
    }
    Some((key, list.into()))
}

fn text_of(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn decode_value(kind: &Type, item: Item<'_>, depth: usize) -> Option<Value> {
    Some(match (kind, item) {
        (Type::String, Item::Bytes(text)) => text_of(text).into(),
        (Type::Bytes, Item::Bytes(bytes)) => BASE64.encode(bytes).into(),
        (Type::Bool, Item::Number(number)) => (number != 0).into(),
        // A negative int32 is sign-extended on the wire.
        (Type::I32 | Type::I64, Item::Number(number)) => number.cast_signed().into(),
        (Type::F64, Item::Fixed64(bits)) => f64::from_bits(bits).into(),
        (Type::Time, Item::Bytes(bytes)) => time(bytes, false)?,
        (Type::MicroTime, Item::Bytes(bytes)) => time(bytes, true)?,
        (Type::Duration, Item::Bytes(bytes)) => duration(number_of(bytes, 1)?).into(),
        (Type::Quantity, Item::Bytes(bytes)) => text_of(bytes_of(bytes, 1)?).into(),
        (Type::IntOrString, Item::Bytes(bytes)) => match number_of(bytes, 1)? {
            0 => number_of(bytes, 2)?.into(),
            _ => text_of(bytes_of(bytes, 3)?).into(),
        },
        (Type::Fields | Type::Raw | Type::Json, Item::Bytes(bytes)) => match bytes_of(bytes, 1)? {
            b"" => Value::Null,
            raw => serde_json::from_slice(raw).ok()?,
        },
        (Type::SchemaOrArray | Type::SchemaOrBool | Type::SchemaOrStrings, Item::Bytes(bytes)) => {
            schema_or(kind, bytes, depth)?
        }
        (Type::Message(name), Item::Bytes(bytes)) => Value::Object(decode_message(message(name)?, bytes, depth)?),
        (Type::List(of), Item::Bytes(_)) => decode_value(of, item, depth)?,
        _ => return None,
    })
}

/// The last bytes field of this number; empty when there is none.
fn bytes_of(bytes: &[u8], number: u32) -> Option<&[u8]> {
    let mut found = &b""[..];
    for item in Wire(bytes) {
        if let (at, Item::Bytes(bytes)) = item?
            && at == number
        {
            found = bytes;
        }
    }
    Some(found)
}

/// The last number field of this number; 0 when there is none.
fn number_of(bytes: &[u8], number: u32) -> Option<i64> {
    let mut found = 0;
    for item in Wire(bytes) {
        if let (at, Item::Number(value)) = item?
            && at == number
        {
            found = value.cast_signed();
        }
    }
    Some(found)
}

fn time(bytes: &[u8], micro: bool) -> Option<Value> {
    if bytes.is_empty() {
        return Some(Value::Null);
    }
    let nanos = i32::try_from(number_of(bytes, 2)?).ok()?;
    let at = Timestamp::new(number_of(bytes, 1)?, nanos).ok()?;
    let format = if micro { "%Y-%m-%dT%H:%M:%S.%6fZ" } else { "%Y-%m-%dT%H:%M:%SZ" };
    Some(at.strftime(format).to_string().into())
}

/// A duration of nanoseconds in Go's notation, in seconds.
fn duration(nanos: i64) -> String {
    let seconds = nanos / 1_000_000_000;
    match nanos % 1_000_000_000 {
        0 => format!("{seconds}s"),
        _ => format!("{nanos}ns"),
    }
}

/// A schema, or the simpler thing that may stand in its place.
fn schema_or(kind: &Type, bytes: &[u8], depth: usize) -> Option<Value> {
    let of = message("apiextensions.v1.JSONSchemaProps")?;
    let (mut schema, mut schemas, mut strings, mut allows) = (None, Vec::new(), Vec::new(), false);
    let schema_number = if *kind == Type::SchemaOrBool { 2 } else { 1 };
    for item in Wire(bytes) {
        match item? {
            (number, Item::Bytes(bytes)) if number == schema_number => {
                schema = Some(Value::Object(decode_message(of, bytes, depth + 1)?));
            }
            (_, Item::Number(number)) => allows = number != 0,
            (_, Item::Bytes(bytes)) if *kind == Type::SchemaOrStrings => strings.push(Value::from(text_of(bytes))),
            (_, Item::Bytes(bytes)) => schemas.push(Value::Object(decode_message(of, bytes, depth + 1)?)),
            _ => return None,
        }
    }
    Some(schema.unwrap_or_else(|| match kind {
        Type::SchemaOrBool => allows.into(),
        Type::SchemaOrStrings => strings.into(),
        _ => schemas.into(),
    }))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use proptest::prelude::*;

    use super::*;

    fn bytes(number: u8, inner: &[u8]) -> Vec<u8> {
        let length = inner.len();
        let prefix = if length < 128 { vec![length as u8] } else { vec![length as u8 | 0x80, (length >> 7) as u8] };
        let tag = u16::from(number) << 3 | 2;
        let tag = if tag < 128 { vec![tag as u8] } else { vec![tag as u8 | 0x80, (tag >> 7) as u8] };
        [tag, prefix, inner.to_vec()].concat()
    }

    fn body(api_version: &str, kind: &str, object: &[u8]) -> Vec<u8> {
        let names = [bytes(1, api_version.as_bytes()), bytes(2, kind.as_bytes())].concat();
        [MAGIC.to_vec(), bytes(1, &names), bytes(2, object)].concat()
    }

    #[test]
    fn a_deployment_is_decoded_without_what_go_adds() {
        let metadata =
            [bytes(1, b"web"), bytes(2, b""), bytes(8, b""), bytes(11, &[bytes(1, b"app"), bytes(2, b"x")].concat())]
                .concat();
        let port = [bytes(1, b""), vec![2 << 3, 0], vec![3 << 3, 80], bytes(4, b"TCP")].concat();
        let container = [bytes(1, b"c"), bytes(2, b"img"), bytes(6, &port), bytes(8, b"")].concat();
        let probe_free = bytes(2, &bytes(2, &container));
        let spec = [vec![1 << 3, 0], bytes(3, &[bytes(1, b""), probe_free].concat()), vec![5 << 3, 0]].concat();
        let object = [bytes(1, &metadata), bytes(2, &spec), bytes(3, b"")].concat();
        let found = decode(&body("apps/v1", "Deployment", &object)).unwrap();
        assert_eq!(found["metadata"], json!({"name": "web", "labels": {"app": "x"}}));
        assert_eq!(found["spec"]["replicas"], 0, "a pointer to zero is zero");
        assert!(found["spec"].get("minReadySeconds").is_none(), "a plain zero is absent");
        let container = json!({"name": "c", "image": "img", "ports": [{"containerPort": 80, "protocol": "TCP"}]});
        assert_eq!(found["spec"]["template"]["spec"]["containers"][0], container);
        assert!(found.get("status").is_none());
    }

    #[test]
    fn inlined_messages_and_special_types_are_written_as_json_has_them() {
        let source = bytes(19, &[bytes(1, &bytes(1, b"cm"))].concat());
        let volume = [bytes(1, b"v"), bytes(2, &source)].concat();
        let get = [bytes(1, b"/"), bytes(2, &[vec![1 << 3, 1], bytes(3, b"http")].concat())].concat();
        let probe = [bytes(1, &bytes(2, &get)), vec![2 << 3, 5]].concat();
        let container = [bytes(1, b"c"), bytes(10, &probe)].concat();
        let spec = [bytes(1, &volume), bytes(2, &container)].concat();
        let found = decode(&body("v1", "Pod", &bytes(2, &spec))).unwrap();
        assert_eq!(found["spec"]["volumes"][0], json!({"name": "v", "configMap": {"name": "cm"}}));
        let probe = json!({"httpGet": {"path": "/", "port": "http"}, "initialDelaySeconds": 5});
        assert_eq!(found["spec"]["containers"][0]["livenessProbe"], probe);
    }

    #[test]
    fn delete_options_are_decoded_under_any_group() {
        let options = [vec![1 << 3, 0], bytes(4, b"Background")].concat();
        let found = decode(&body("apps/v1", "DeleteOptions", &options)).unwrap();
        assert_eq!((&found["gracePeriodSeconds"], &found["propagationPolicy"]), (&json!(0), &json!("Background")));
    }

    proptest! {
        #[test]
        fn no_bytes_break_the_decoder(object in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = decode(&body("v1", "Pod", &object));
            let _ = decode(&body("apiextensions.k8s.io/v1", "CustomResourceDefinition", &object));
            let _ = decode(&object);
        }
    }
}
