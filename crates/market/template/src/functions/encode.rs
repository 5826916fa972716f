//! Encodings and digests: JSON, YAML, base64, SHA-256.
//!
//! Not here: what makes keys, certificates or password hashes; a chart that needs a secret gets it as a value.

use data_encoding::{BASE32, BASE64, HEXLOWER};
use sha2::{Digest, Sha256};

use super::{Function, Outcome, row, text};
use crate::value::{Failure, Value};
use crate::yaml;

pub(super) const TABLE: &[Function] = &[
    row("toYaml", "a", |_, a| Ok(Value::str(yaml::write(&a[0]).unwrap_or_default()))),
    row("mustToYaml", "a", |_, a| yaml::write(&a[0]).map(Value::str)),
    row("toYamlPretty", "a", |_, a| yaml::write_indented(&a[0]).map(Value::str)),
    row("fromYaml", "s", |_, a| Ok(read_yaml(text(a, 0)).unwrap_or_else(error_map))),
    row("fromYamlArray", "s", |_, a| {
        Ok(read_yaml_list(text(a, 0)).unwrap_or_else(|it| Value::list(vec![Value::str(it)])))
    }),
    row("toJson", "a", |_, a| Ok(Value::str(json(&a[0]).unwrap_or_default()))),
    row("mustToJson", "a", |_, a| json(&a[0]).map(Value::str)),
    row("toRawJson", "a", |_, a| Ok(Value::str(raw_json(&a[0]).unwrap_or_default()))),
    row("mustToRawJson", "a", |_, a| raw_json(&a[0]).map(Value::str)),
    row("toPrettyJson", "a", |_, a| Ok(Value::str(pretty(&a[0]).unwrap_or_default()))),
    row("mustToPrettyJson", "a", |_, a| pretty(&a[0]).map(Value::str)),
    row("fromJson", "s", |_, a| Ok(read_json(text(a, 0)).unwrap_or_else(error_map))),
    row("mustFromJson", "s", |_, a| read_json(text(a, 0))),
    row("fromJsonArray", "s", |_, a| Ok(read_json(text(a, 0)).unwrap_or_else(|it| Value::list(vec![Value::str(it)])))),
    row("b64enc", "s", |_, a| Ok(Value::str(BASE64.encode(text(a, 0).as_bytes())))),
    row("b64dec", "s", |_, a| Ok(Value::str(decoded(64, BASE64.decode(text(a, 0).as_bytes()))))),
    row("b32enc", "s", |_, a| Ok(Value::str(BASE32.encode(text(a, 0).as_bytes())))),
    row("b32dec", "s", |_, a| Ok(Value::str(decoded(32, BASE32.decode(text(a, 0).as_bytes()))))),
    row("sha256sum", "s", |_, a| Ok(Value::str(HEXLOWER.encode(&Sha256::digest(text(a, 0).as_bytes()))))),
];

/// Helm answers text that does not parse with a map that says why.
fn error_map(message: Failure) -> Value {
    Value::map([("Error".to_owned(), Value::str(message))])
}

fn read_yaml(text: &str) -> Outcome {
    match yaml::read(text)? {
        serde_json::Value::Null => Ok(Value::map([])),
        it @ serde_json::Value::Object(_) => Ok(Value::from_json(&it)),
        _ => Err("error unmarshaling JSON: while decoding JSON: json: cannot unmarshal into Go value of type \
                  map[string]interface {}"
            .into()),
    }
}

fn read_yaml_list(text: &str) -> Outcome {
    match yaml::read(text)? {
        serde_json::Value::Null => Ok(Value::list(Vec::new())),
        it @ serde_json::Value::Array(_) => Ok(Value::from_json(&it)),
        _ => Err("error unmarshaling JSON: while decoding JSON: json: cannot unmarshal into Go value of type \
                  []interface {}"
            .into()),
    }
}

fn read_json(text: &str) -> Outcome {
    serde_json::from_str(text).map(|it| Value::from_json(&it)).map_err(|it| it.to_string())
}

fn raw_json(value: &Value) -> Result<String, Failure> {
    Ok(value.to_json()?.to_string())
}

/// Go's encoder writes what could end a script in HTML as `\u003c`, and the two line separators escaped.
fn escaped(json: &str) -> String {
    let mut out = String::with_capacity(json.len());
    for it in json.chars() {
        match it {
            '<' | '>' | '&' | '\u{2028}' | '\u{2029}' => out.push_str(&format!("\\u{:04x}", u32::from(it))),
            it => out.push(it),
        }
    }
    out
}

fn json(value: &Value) -> Result<String, Failure> {
    Ok(escaped(&raw_json(value)?))
}

fn pretty(value: &Value) -> Result<String, Failure> {
    let json = serde_json::to_string_pretty(&value.to_json()?).map_err(|it| it.to_string())?;
    Ok(escaped(&json))
}

/// Sprig answers with the text of the error; bytes that are no text cannot be a value here.
fn decoded(base: u8, bytes: Result<Vec<u8>, data_encoding::DecodeError>) -> String {
    match bytes {
        Ok(bytes) => String::from_utf8(bytes).unwrap_or_else(|it| String::from_utf8_lossy(it.as_bytes()).into_owned()),
        Err(it) => format!("illegal base{base} data at input byte {}", it.position),
    }
}
