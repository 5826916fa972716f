//! How the fields of a kind merge: one table for strategic merge and server-side apply. It says nothing of what values are allowed.
//!
//! The table of Kubernetes' kinds is `schema/kinds.txt`. A line `@group Kind …` names kinds (`Kind=Type` where the type is called otherwise), a line
//! `Type: field=how …` says how the fields of a type merge that do not by default (objects field by field, lists as a whole):
//!
//! | how | meaning |
//! |---|---|
//! | `T` | an object of type T |
//! | `!` | an object that one manager owns as a whole |
//! | `%` | the same, and strategic merge replaces it too |
//! | `[T:a,b=X]` | a list of T that is a map by the keys a and b (X where b is missing); strategic merge goes by the first |
//! | `[!:a]` | the same with items owned as a whole |
//! | `[T:a]-` | a map for apply only; strategic merge replaces the list |
//! | `[T~a]` | a map for strategic merge only |
//! | `<>`, `<>-` | a list that is a set; with `-`, strategic merge replaces it |
//!
//! **Invariant.** A [`Schema`] does not change; cloning it copies two words.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, LazyLock},
};

use serde_json::Value;

/// How values of one kind merge.
#[derive(Debug, Clone)]
pub struct Schema {
    table: Arc<Table>,
    root: Field,
}

/// All types that fields refer to by number.
#[derive(Debug, Default)]
struct Table {
    types: Vec<Shape>,
}

/// What is known of the fields of an object.
#[derive(Debug, Default)]
struct Shape {
    fields: BTreeMap<String, Field>,
    /// How the values of a map merge whose keys are data; `None` where the keys are the names of fields.
    values: Option<Field>,
}

/// How the value of a field merges.
#[derive(Debug, Clone, Default)]
struct Field {
    mode: Mode,
    strategic: Strategic,
    /// The type of the object, if anything is known of it.
    shape: Option<usize>,
    item: Option<Box<Field>>,
}

/// How server-side apply owns a value.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) enum Mode {
    /// Objects field by field, lists as a whole.
    #[default]
    Default,
    /// As a whole.
    Atomic,
    /// A list that is a map by these keys.
    Keyed(Arc<[Key]>),
    /// A list whose items are owned each.
    Set,
}

/// What strategic merge does with a list or an object.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) enum Strategic {
    /// Merges objects, replaces lists.
    #[default]
    Default,
    /// Merges a list of objects by this key.
    Key(Arc<str>),
    /// Merges a list of plain values.
    Values,
    /// Replaces.
    Replace,
}

/// One of the fields that together identify an item of a list.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Key {
    pub(crate) name: String,
    /// Stands for the field where an item lacks it.
    pub(crate) default: Option<String>,
}

/// A place in a kind.
#[derive(Clone, Copy)]
pub(crate) struct Node<'a> {
    table: &'a Table,
    field: &'a Field,
}

static UNKNOWN: Field = Field { mode: Mode::Default, strategic: Strategic::Default, shape: None, item: None };

impl Schema {
    /// The schema of a kind of Kubernetes; `group` is empty for the core. Of an unknown kind only the metadata is known.
    #[must_use]
    pub fn of(group: &str, kind: &str) -> Self {
        let shape = KINDS.roots.get(&(group.to_owned(), kind.to_owned())).copied().unwrap_or(KINDS.object);
        Self { table: Arc::clone(&KINDS.table), root: Field { shape: Some(shape), ..Field::default() } }
    }

    /// The schema that a CustomResourceDefinition gives as `openAPIV3Schema`: `x-kubernetes-list-type`, `-list-map-keys` and `-map-type` are
    /// followed; metadata is that of every object.
    #[must_use]
    pub fn from_open_api(schema: &Value) -> Self {
        let mut table = Table::default();
        let mut root = table.read_open_api(schema, 0);
        let meta = KINDS.copy_metadata(&mut table);
        let shape = *root.shape.get_or_insert_with(|| table.push(Shape::default()));
        table.types[shape].fields.insert("metadata".to_owned(), meta);
        root.mode = Mode::Default;
        Self { table: Arc::new(table), root }
    }

    pub(crate) fn root(&self) -> Node<'_> {
        Node { table: &self.table, field: &self.root }
    }
}

impl<'a> Node<'a> {
    /// The place of a field of an object here.
    pub(crate) fn field(self, name: &str) -> Self {
        let shape = self.field.shape.map(|at| &self.table.types[at]);
        let field = shape.and_then(|shape| shape.fields.get(name).or(shape.values.as_ref()));
        Node { table: self.table, field: field.unwrap_or(&UNKNOWN) }
    }

    /// The place of an item of a list here.
    pub(crate) fn item(self) -> Self {
        Node { table: self.table, field: self.field.item.as_deref().unwrap_or(&UNKNOWN) }
    }

    /// Whether the keys of an object here are names of fields rather than data.
    pub(crate) fn has_named_fields(self) -> bool {
        self.field.shape.is_none_or(|at| self.table.types[at].values.is_none())
    }

    pub(crate) fn mode(self) -> &'a Mode {
        &self.field.mode
    }

    pub(crate) fn strategic(self) -> &'a Strategic {
        &self.field.strategic
    }
}

impl Table {
    fn push(&mut self, shape: Shape) -> usize {
        self.types.push(shape);
        self.types.len() - 1
    }

    fn read_open_api(&mut self, schema: &Value, depth: usize) -> Field {
        let text = |key: &str| schema.get(key).and_then(Value::as_str);
        if depth > crate::DEPTH_MAX {
            return Field::default();
        }
        if text("x-kubernetes-map-type") == Some("atomic") {
            return Field { mode: Mode::Atomic, ..Field::default() };
        }
        if text("type") == Some("array") {
            let item = schema.get("items").map(|items| Box::new(self.read_open_api(items, depth + 1)));
            let mode = match text("x-kubernetes-list-type") {
                Some("map") => Mode::Keyed(open_api_keys(schema)),
                Some("set") => Mode::Set,
                _ => Mode::Default,
            };
            return Field { mode, item, ..Field::default() };
        }
        let mut shape = Shape::default();
        for (name, property) in schema.get("properties").and_then(Value::as_object).into_iter().flatten() {
            shape.fields.insert(name.clone(), self.read_open_api(property, depth + 1));
        }
        shape.values = schema
            .get("additionalProperties")
            .filter(|values| values.is_object())
            .map(|values| self.read_open_api(values, depth + 1));
        Field { shape: Some(self.push(shape)), ..Field::default() }
    }
}

fn open_api_keys(schema: &Value) -> Arc<[Key]> {
    let names = schema.get("x-kubernetes-list-map-keys").and_then(Value::as_array).into_iter().flatten();
    let default =
        |name: &str| Some(schema.get("items")?.get("properties")?.get(name)?.get("default")?.as_str()?.to_owned());
    names.filter_map(Value::as_str).map(|name| Key { name: name.to_owned(), default: default(name) }).collect()
}

/// Kubernetes' kinds.
struct Kinds {
    table: Arc<Table>,
    roots: HashMap<(String, String), usize>,
    object: usize,
    metadata: usize,
}

static KINDS: LazyLock<Kinds> = LazyLock::new(|| Kinds::parse(include_str!("schema/kinds.txt")));

impl Kinds {
    fn parse(text: &str) -> Self {
        let lines = || text.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
        let types = || lines().filter_map(|line| line.split_once(": "));
        let numbers: HashMap<&str, usize> = types().enumerate().map(|(at, (name, _))| (name, at)).collect();
        let number = |name: &str| *numbers.get(name).unwrap_or_else(|| panic!("kinds.txt has no type {name}"));
        let mut table = Table::default();
        for (_, fields) in types() {
            let fields = fields.split_whitespace().filter_map(|field| field.split_once('='));
            let fields = fields.map(|(name, how)| (name.to_owned(), parse_field(how, &number)));
            table.push(Shape { fields: fields.collect(), values: None });
        }
        let mut roots = HashMap::new();
        for line in lines() {
            let Some((group, kinds)) = line.strip_prefix('@').and_then(|line| line.split_once(' ')) else { continue };
            for kind in kinds.split(' ') {
                let (kind, name) = kind.split_once('=').unwrap_or((kind, kind));
                roots.insert((group.to_owned(), kind.to_owned()), number(name));
            }
        }
        Self { table: Arc::new(table), roots, object: number("Object"), metadata: number("ObjectMeta") }
    }

    /// Adds the type of metadata to another table; its fields refer to no further type.
    fn copy_metadata(&self, to: &mut Table) -> Field {
        let fields = self.table.types[self.metadata].fields.clone();
        Field { shape: Some(to.push(Shape { fields, values: None })), ..Field::default() }
    }
}

fn parse_field(how: &str, number: &impl Fn(&str) -> usize) -> Field {
    let (how, replaced) = how.strip_suffix('-').map_or((how, false), |how| (how, true));
    let plain = |mode, strategic| Field { mode, strategic, ..Field::default() };
    match how {
        "!" => return plain(Mode::Atomic, Strategic::Default),
        "%" => return plain(Mode::Atomic, Strategic::Replace),
        "<>" => return plain(Mode::Set, if replaced { Strategic::Default } else { Strategic::Values }),
        _ => {}
    }
    let Some(list) = how.strip_prefix('[').and_then(|how| how.strip_suffix(']')) else {
        return Field { shape: Some(number(how)), ..Field::default() };
    };
    let at = list.find([':', '~']).unwrap_or_else(|| panic!("kinds.txt: {how} names no key"));
    let (item, keys) = (&list[..at], &list[at + 1..]);
    let item = match item {
        "" => Field::default(),
        "!" => plain(Mode::Atomic, Strategic::Default),
        item => Field { shape: Some(number(item)), ..Field::default() },
    };
    let keys: Arc<[Key]> = keys.split(',').map(parse_key).collect();
    let strategic = if replaced { Strategic::Default } else { Strategic::Key(keys[0].name.as_str().into()) };
    let mode = if list.as_bytes()[at] == b':' { Mode::Keyed(keys) } else { Mode::Default };
    Field { mode, strategic, shape: None, item: Some(Box::new(item)) }
}

fn parse_key(key: &str) -> Key {
    let (name, default) = key.split_once('=').map_or((key, None), |(name, default)| (name, Some(default.to_owned())));
    Key { name: name.to_owned(), default }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use serde_json::json;

    use super::*;

    fn at<'a>(schema: &'a Schema, path: &str) -> Node<'a> {
        path.split('.').fold(schema.root(), |node, step| if step == "[]" { node.item() } else { node.field(step) })
    }

    #[test]
    fn the_table_says_what_kubernetes_publishes() {
        let deployment = Schema::of("apps", "Deployment");
        let check = |path: &str, keys: &[&str]| match at(&deployment, path).mode() {
            Mode::Keyed(found) => assert_eq!(found.iter().map(|key| &*key.name).collect::<Vec<_>>(), keys, "{path}"),
            other => assert!(keys.is_empty() && *other != Mode::Set, "{path}: {other:?}"),
        };
        check("spec.template.spec.containers", &["name"]);
        check("spec.template.spec.containers.[].ports", &["containerPort", "protocol"]);
        check("spec.template.spec.initContainers.[].volumeMounts", &["mountPath"]);
        check("spec.template.spec.tolerations", &[]);
        check("spec.template.metadata.ownerReferences", &["uid"]);
        check("status.conditions", &["type"]);
        assert_eq!(*at(&deployment, "spec.selector").mode(), Mode::Atomic);
        assert_eq!(*at(&deployment, "metadata.finalizers").mode(), Mode::Set);
        let claims = Schema::of("apps", "StatefulSet");
        assert_eq!(*at(&claims, "spec.volumeClaimTemplates").mode(), Mode::Default);
        assert_eq!(*at(&Schema::of("example.org", "Thing"), "metadata.finalizers").strategic(), Strategic::Values);
    }

    #[test]
    fn a_custom_resource_brings_its_own() {
        let schema = Schema::from_open_api(
            &json!({"type": "object", "properties": {"spec": {"type": "object", "properties": {
                "ports": {"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["port", "protocol"],
                    "items": {"type": "object", "properties": {"protocol": {"type": "string", "default": "TCP"},
                        "tags": {"type": "array", "x-kubernetes-list-type": "set"}}}},
                "whole": {"type": "object", "x-kubernetes-map-type": "atomic"},
                "named": {"type": "object", "additionalProperties": {"type": "object", "x-kubernetes-map-type": "atomic"}},
            }}}}),
        );
        let Mode::Keyed(keys) = at(&schema, "spec.ports").mode() else { panic!("not a map") };
        assert_eq!(keys[1], Key { name: "protocol".to_owned(), default: Some("TCP".to_owned()) });
        assert_eq!(*at(&schema, "spec.ports.[].tags").mode(), Mode::Set);
        assert_eq!(*at(&schema, "spec.whole").mode(), Mode::Atomic);
        assert_eq!(*at(&schema, "spec.named.any").mode(), Mode::Atomic);
        assert!(!at(&schema, "spec.named").has_named_fields());
        assert!(matches!(at(&schema, "metadata.ownerReferences").mode(), Mode::Keyed(_)));
    }
}
