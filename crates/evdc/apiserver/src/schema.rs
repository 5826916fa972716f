//! The fields of the built-in kinds: one table (`schema/builtin.txt`) that drives decoding of protobuf bodies, the check for unknown and
//! ill-typed fields, and the OpenAPI documents.
//!
//! The table is data of this program, made by `schema/generate.py`; a line that does not parse is a bug and is found by the tests.

use std::{
    collections::{BTreeMap, HashMap},
    sync::LazyLock,
};

pub(crate) mod conform;

const TABLE: &str = include_str!("../schema/builtin.txt");

/// The same for kinds that Kubernetes does not have.
const OWN_TABLE: &str = include_str!("../schema/own.txt");

/// What a field holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Type {
    String,
    /// Base64 in JSON.
    Bytes,
    Bool,
    I32,
    I64,
    F64,
    /// RFC 3339, seconds.
    Time,
    /// RFC 3339, microseconds.
    MicroTime,
    /// Go's notation of a duration.
    Duration,
    Quantity,
    IntOrString,
    /// `FieldsV1`: JSON of managed fields.
    Fields,
    /// An object of any kind.
    Raw,
    /// Any JSON.
    Json,
    SchemaOrArray,
    SchemaOrBool,
    SchemaOrStrings,
    List(Box<Type>),
    Map(Box<Type>),
    /// A map whose protobuf values are messages that hold a list.
    MapOfLists(Box<Type>),
    /// Another message of the table.
    Message(&'static str),
}

/// How a list merges, by `x-kubernetes-list-type` and the older patch extensions.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Merging {
    pub(crate) list_type: Option<&'static str>,
    pub(crate) map_keys: Vec<&'static str>,
    pub(crate) patch_strategy: Option<&'static str>,
    pub(crate) patch_key: Option<&'static str>,
}

/// One field of a message.
#[derive(Debug, Clone)]
pub(crate) struct Field {
    /// Number in protobuf.
    pub(crate) number: u32,
    /// Name in JSON; empty for a message whose fields stand in its parent.
    pub(crate) name: &'static str,
    pub(crate) kind: Type,
    /// Whether it is written in protobuf only when set, so that a zero means zero and not absence.
    pub(crate) pointer: bool,
    pub(crate) required: bool,
    /// Whether it is written in JSON when it is empty.
    pub(crate) kept: bool,
    pub(crate) merging: Merging,
}

/// A message: the fields of a kind or of a part of it.
#[derive(Debug)]
pub(crate) struct Message {
    pub(crate) name: &'static str,
    pub(crate) fields: Vec<Field>,
}

#[cfg(test)]
impl Message {
    /// The field of this name, also if it stands in an inlined message.
    pub(crate) fn field(&self, name: &str) -> Option<&'static Field> {
        flat(self.name)?.get(name).copied()
    }
}

struct Tables {
    messages: BTreeMap<&'static str, Message>,
}

static TABLES: LazyLock<Tables> = LazyLock::new(|| {
    let mut messages = parse(TABLE);
    messages.extend(parse(OWN_TABLE));
    Tables { messages }
});

type Flat = HashMap<&'static str, BTreeMap<&'static str, &'static Field>>;

/// Fields by JSON name, with inlined ones.
static FLAT: LazyLock<Flat> = LazyLock::new(|| {
    let gather = |message: &'static Message| {
        let mut fields = BTreeMap::new();
        add_flat(message, &mut fields);
        (message.name, fields)
    };
    TABLES.messages.values().map(gather).collect()
});

fn add_flat(message: &'static Message, fields: &mut BTreeMap<&'static str, &'static Field>) {
    for field in &message.fields {
        match &field.kind {
            Type::Message(inner) if field.name.is_empty() => {
                if let Some(inner) = TABLES.messages.get(inner) {
                    add_flat(inner, fields);
                }
            }
            _ => {
                fields.insert(field.name, field);
            }
        }
    }
}

/// The message of this name, such as `core.v1.PodSpec`.
pub(crate) fn message(name: &str) -> Option<&'static Message> {
    TABLES.messages.get(name)
}

/// The fields of a message by JSON name, with inlined ones.
pub(crate) fn flat(name: &str) -> Option<&'static BTreeMap<&'static str, &'static Field>> {
    FLAT.get(name)
}

/// The table's name for a kind, such as `apps.v1.Deployment`.
pub(crate) fn message_of(group: &str, version: &str, kind: &str) -> Option<&'static Message> {
    let package = match group {
        "" => "core",
        "networking.k8s.io" => "networking",
        "storage.k8s.io" => "storage",
        "rbac.authorization.k8s.io" => "rbac",
        "coordination.k8s.io" => "coordination",
        "discovery.k8s.io" => "discovery",
        "events.k8s.io" => "events",
        "authentication.k8s.io" => "authentication",
        "authorization.k8s.io" => "authorization",
        "apiextensions.k8s.io" => "apiextensions",
        "networking.atoll.cloud" => "networkingatoll",
        "apps" | "policy" | "autoscaling" => group,
        _ => return None,
    };
    message(&format!("{package}.{version}.{kind}"))
}

fn parse(table: &'static str) -> BTreeMap<&'static str, Message> {
    let mut messages = BTreeMap::new();
    let mut current: Option<Message> = None;
    for line in table.lines().filter(|line| !line.starts_with('#')) {
        match line.strip_prefix(' ') {
            Some(words) => {
                let field = parse_field(words).unwrap_or_else(|| unreachable!("the table is our own: {line}"));
                current.as_mut().expect("the table begins with a name").fields.push(field);
            }
            None => {
                let next = Message { name: line, fields: Vec::new() };
                messages.extend(current.replace(next).map(|message| (message.name, message)));
            }
        }
    }
    messages.extend(current.map(|message| (message.name, message)));
    messages
}

fn parse_field(words: &'static str) -> Option<Field> {
    let mut words = words.split(' ');
    let number = words.next()?.parse().ok()?;
    let name = words.next().map(|name| if name == "-" { "" } else { name })?;
    let kind = words.next()?;
    let (pointer, kind) = kind.strip_prefix('*').map_or((false, kind), |kind| (true, kind));
    let kind = parse_type(kind)?;
    let mut field = Field { number, name, kind, pointer, required: false, kept: false, merging: Merging::default() };
    for word in words {
        match word.split_once('=') {
            None if word == "required" => (field.required, field.kept) = (true, true),
            None if word == "kept" => field.kept = true,
            Some(("list", rest)) => {
                let (kind, keys) = rest.split_once(':').unwrap_or((rest, ""));
                field.merging.list_type = Some(kind);
                field.merging.map_keys = keys.split(',').filter(|key| !key.is_empty()).collect();
            }
            Some(("patch", rest)) => {
                let (strategy, key) = rest.split_once(':').unwrap_or((rest, ""));
                field.merging.patch_strategy = Some(strategy);
                field.merging.patch_key = (!key.is_empty()).then_some(key);
            }
            _ => return None,
        }
    }
    Some(field)
}

fn parse_type(word: &'static str) -> Option<Type> {
    if let Some(item) = word.strip_prefix("[]") {
        return Some(Type::List(Box::new(parse_type(item)?)));
    }
    if let Some(item) = word.strip_prefix("{}items:") {
        return Some(Type::MapOfLists(Box::new(parse_type(item)?)));
    }
    if let Some(item) = word.strip_prefix("{}") {
        return Some(Type::Map(Box::new(parse_type(item)?)));
    }
    if let Some(name) = word.strip_prefix('@') {
        return Some(Type::Message(name));
    }
    Some(match word {
        "string" => Type::String,
        "bytes" => Type::Bytes,
        "bool" => Type::Bool,
        "i32" => Type::I32,
        "i64" => Type::I64,
        "f64" => Type::F64,
        "time" => Type::Time,
        "microtime" => Type::MicroTime,
        "duration" => Type::Duration,
        "quantity" => Type::Quantity,
        "intstr" => Type::IntOrString,
        "fields" => Type::Fields,
        "raw" => Type::Raw,
        "json" => Type::Json,
        "schema-or-array" => Type::SchemaOrArray,
        "schema-or-bool" => Type::SchemaOrBool,
        "schema-or-strings" => Type::SchemaOrStrings,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;

    fn references(kind: &Type) -> Option<&'static str> {
        match kind {
            Type::List(item) | Type::Map(item) | Type::MapOfLists(item) => references(item),
            Type::Message(name) => Some(name),
            _ => None,
        }
    }

    #[test]
    fn the_table_is_whole() {
        assert!(TABLES.messages.len() > 200);
        for message in TABLES.messages.values() {
            for field in &message.fields {
                if let Some(name) = references(&field.kind) {
                    assert!(TABLES.messages.contains_key(name), "{}.{} names {name}", message.name, field.name);
                }
            }
        }
    }

    #[test]
    fn fields_are_found_where_json_has_them() {
        let volume = message("core.v1.Volume").unwrap();
        assert_eq!(volume.field("configMap").unwrap().kind, Type::Message("core.v1.ConfigMapVolumeSource"));
        assert!(volume.field("volumeSource").is_none());
        let ports = message_of("", "v1", "Service").unwrap().field("spec").map(|field| field.kind.clone());
        assert_eq!(ports, Some(Type::Message("core.v1.ServiceSpec")));
        let replicas = message("apps.v1.DeploymentSpec").unwrap().field("replicas").unwrap();
        assert!(replicas.pointer && replicas.kind == Type::I32);
        assert_eq!(message("core.v1.ServiceSpec").unwrap().field("ports").unwrap().merging.patch_key, Some("port"));
    }
}
