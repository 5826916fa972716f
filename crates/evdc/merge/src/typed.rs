//! Walks over values by their schema: which paths a value has, how two values differ, one merged into another, paths cut out.
//!
//! A list that its schema calls a map or a set, but whose items lack their keys or repeat them, is taken as a whole: such lists exist (two
//! variables of one name), and ownership of a part of them would be ownership of nothing in particular.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value};

use crate::{
    fieldset::{FieldSet, Step},
    schema::{Key, Mode, Node},
};

/// What a value is to ownership.
enum View<'a> {
    Leaf(&'a Value),
    Object(&'a Map<String, Value>),
    Items(Vec<(Step, &'a Value)>),
}

fn view<'a>(node: Node<'_>, value: &'a Value) -> View<'a> {
    match (node.mode(), value) {
        (Mode::Atomic, _) => View::Leaf(value),
        (_, Value::Object(fields)) => View::Object(fields),
        (Mode::Keyed(_) | Mode::Set, Value::Array(items)) => match distinct(node.mode(), items) {
            Some(items) => View::Items(items),
            None => View::Leaf(value),
        },
        _ => View::Leaf(value),
    }
}

fn distinct<'a>(mode: &Mode, items: &'a [Value]) -> Option<Vec<(Step, &'a Value)>> {
    let items: Vec<_> = items.iter().map(|item| Some((step(mode, item)?, item))).collect::<Option<_>>()?;
    let steps: BTreeSet<&Step> = items.iter().map(|(step, _)| step).collect();
    (steps.len() == items.len()).then_some(items)
}

/// What identifies the item in its list; `None` if nothing does.
fn step(mode: &Mode, item: &Value) -> Option<Step> {
    match (mode, item) {
        (Mode::Keyed(keys), Value::Object(fields)) => {
            let value = |key: &Key| match fields.get(&key.name) {
                Some(value) => Some(value.clone()),
                None => key.default.clone().map(Value::String),
            };
            let found: BTreeMap<&str, Value> =
                keys.iter().filter_map(|key| Some((key.name.as_str(), value(key)?))).collect();
            (!found.is_empty()).then(|| Step::keys(&found))
        }
        (Mode::Set, item) if !item.is_null() => Some(Step::value(item)),
        _ => None,
    }
}

fn child<'a>(node: Node<'a>, step: &Step) -> Node<'a> {
    step.as_field().map_or_else(|| node.item(), |name| node.field(name))
}

/// All paths of the value that someone can own.
pub(crate) fn paths(node: Node<'_>, value: &Value) -> FieldSet {
    let mut set = FieldSet::default();
    collect(node, value, &mut Vec::new(), &mut set);
    set
}

fn collect(node: Node<'_>, value: &Value, path: &mut Vec<Step>, set: &mut FieldSet) {
    match view(node, value) {
        View::Leaf(_) => set.insert(path),
        View::Object(fields) => {
            for (name, field) in fields {
                path.push(Step::field(name));
                collect(node.field(name), field, path, set);
                if !node.has_named_fields() || field.as_object().is_some_and(Map::is_empty) {
                    set.insert(path);
                }
                path.pop();
            }
        }
        View::Items(items) => {
            for (step, item) in items {
                path.push(step);
                collect(node.item(), item, path, set);
                set.insert(path);
                path.pop();
            }
        }
    }
}

/// How one value differs from another. No path is in two of the sets.
#[derive(Debug, Default)]
pub(crate) struct Comparison {
    pub(crate) added: FieldSet,
    pub(crate) modified: FieldSet,
    pub(crate) removed: FieldSet,
}

impl Comparison {
    /// Of two values of one kind.
    pub(crate) fn between(node: Node<'_>, old: &Value, new: &Value) -> Self {
        let mut comparison = Self::default();
        comparison.compare(node, Some(old), Some(new), &mut Vec::new());
        comparison
    }

    /// Leaves out what lies at or below these paths.
    pub(crate) fn without(&self, ignored: &FieldSet) -> Self {
        let [added, modified, removed] = [&self.added, &self.modified, &self.removed].map(|set| set.without(ignored));
        Self { added, modified, removed }
    }

    fn compare(&mut self, node: Node<'_>, old: Option<&Value>, new: Option<&Value>, path: &mut Vec<Step>) {
        match (old.map(|value| view(node, value)), new.map(|value| view(node, value))) {
            (None, None) => return,
            (Some(View::Leaf(old)), Some(View::Leaf(new))) => {
                if old != new {
                    self.modified.insert(path);
                }
                return;
            }
            (Some(View::Object(old)), Some(View::Object(new))) => self.objects(node, old, new, path),
            (Some(View::Items(old)), Some(View::Items(new))) => self.items(node, old, new, path),
            (None | Some(View::Leaf(_)), None | Some(View::Leaf(_))) => {}
            (old, new) => {
                // One side has parts that the other cannot have.
                let mixed = old.is_some() && new.is_some();
                for (view, is_new) in [(old, false), (new, true)] {
                    match view {
                        Some(View::Object(fields)) if is_new => self.objects(node, &Map::new(), fields, path),
                        Some(View::Object(fields)) => self.objects(node, fields, &Map::new(), path),
                        Some(View::Items(items)) if is_new => self.items(node, Vec::new(), items, path),
                        Some(View::Items(items)) => self.items(node, items, Vec::new(), path),
                        _ => {}
                    }
                }
                if mixed {
                    self.modified.insert(path);
                }
            }
        }
        match (old, new) {
            (None, Some(_)) => self.added.insert(path),
            (Some(_), None) => self.removed.insert(path),
            _ => {}
        }
    }

    fn objects(&mut self, node: Node<'_>, old: &Map<String, Value>, new: &Map<String, Value>, path: &mut Vec<Step>) {
        let added = new.keys().filter(|name| !old.contains_key(*name));
        for name in old.keys().chain(added) {
            path.push(Step::field(name));
            self.compare(node.field(name), old.get(name), new.get(name), path);
            path.pop();
        }
    }

    fn items(&mut self, node: Node<'_>, old: Vec<(Step, &Value)>, new: Vec<(Step, &Value)>, path: &mut Vec<Step>) {
        let mut pairs: BTreeMap<Step, (Option<&Value>, Option<&Value>)> = BTreeMap::new();
        for (step, item) in old {
            pairs.entry(step).or_default().0 = Some(item);
        }
        for (step, item) in new {
            pairs.entry(step).or_default().1 = Some(item);
        }
        for (step, (old, new)) in pairs {
            path.push(step);
            self.compare(node.item(), old, new, path);
            path.pop();
        }
    }
}

/// The live value with the configuration laid over it: what the configuration does not name stays.
///
/// Items of a list come in the order of the configuration; one that only the live list has stays behind the item it stood behind.
pub(crate) fn merge(node: Node<'_>, live: &Value, config: &Value) -> Value {
    match (node.mode(), live, config) {
        (Mode::Atomic, _, config) => config.clone(),
        (_, Value::Object(live), Value::Object(config)) => {
            let mut merged = live.clone();
            for (name, field) in config {
                let value = live.get(name).map_or_else(|| field.clone(), |old| merge(node.field(name), old, field));
                merged.insert(name.clone(), value);
            }
            Value::Object(merged)
        }
        (mode @ (Mode::Keyed(_) | Mode::Set), Value::Array(live), Value::Array(config)) => {
            Value::Array(merge_items(node, mode, live, config))
        }
        (_, _, config) => config.clone(),
    }
}

fn merge_items(node: Node<'_>, mode: &Mode, live: &[Value], config: &[Value]) -> Vec<Value> {
    let position: BTreeMap<Step, usize> =
        config.iter().enumerate().filter_map(|(at, item)| Some((step(mode, item)?, at))).collect();
    let mut leading = Vec::new();
    let mut following: Vec<Vec<Value>> = vec![Vec::new(); config.len()];
    let mut counterpart: Vec<Option<&Value>> = vec![None; config.len()];
    let mut after = None;
    for item in live {
        match step(mode, item).and_then(|step| position.get(&step).copied()) {
            Some(at) => {
                counterpart[at].get_or_insert(item);
                after = Some(at);
            }
            None => after.map_or(&mut leading, |at| &mut following[at]).push(item.clone()),
        }
    }
    let mut merged = leading;
    for (at, item) in config.iter().enumerate() {
        merged.push(counterpart[at].map_or_else(|| item.clone(), |old| merge(node.item(), old, item)));
        merged.append(&mut following[at]);
    }
    merged
}

/// The value without these paths. What is left empty stays, unless it is one of the paths itself.
pub(crate) fn remove(node: Node<'_>, value: &Value, set: &FieldSet) -> Value {
    match value {
        Value::Object(fields) if *node.mode() != Mode::Atomic => {
            let kept = fields.iter().filter_map(|(name, field)| {
                let step = Step::field(name);
                Some((name.clone(), remove_child(node.field(name), field, set, &step)?))
            });
            Value::Object(kept.collect())
        }
        Value::Array(items) if matches!(node.mode(), Mode::Keyed(_) | Mode::Set) => {
            let kept = items.iter().filter_map(|item| match step(node.mode(), item) {
                Some(step) => remove_child(node.item(), item, set, &step),
                None => Some(item.clone()),
            });
            Value::Array(kept.collect())
        }
        _ => value.clone(),
    }
}

fn remove_child(node: Node<'_>, value: &Value, set: &FieldSet, step: &Step) -> Option<Value> {
    if set.has(step) {
        return None;
    }
    Some(set.below(step).map_or_else(|| value.clone(), |below| remove(node, value, below)))
}

/// The set with every named field that lies above one of its paths: those vanish with the last thing in them, while the entries of a
/// map and the items of a list do so only if they were owned themselves.
pub(crate) fn with_named_fields(node: Node<'_>, set: &FieldSet) -> FieldSet {
    set.with_children(set.children().map(|(step, below)| {
        let is_named = step.as_field().is_some() && node.has_named_fields();
        (step.clone(), with_named_fields(child(node, step), below), is_named)
    }))
}

/// Where a configuration has a list whose items cannot be told apart.
pub(crate) fn find_ambiguous(node: Node<'_>, value: &Value, path: &mut Vec<Step>) -> Option<(String, String)> {
    let here = |path: &[Step]| path.iter().map(ToString::to_string).collect::<String>();
    match (node.mode(), value) {
        (Mode::Atomic, _) => None,
        (_, Value::Object(fields)) => fields.iter().find_map(|(name, field)| {
            path.push(Step::field(name));
            let found = find_ambiguous(node.field(name), field, path);
            path.pop();
            found
        }),
        (mode @ (Mode::Keyed(_) | Mode::Set), Value::Array(items)) => {
            let mut seen = BTreeSet::new();
            for (at, item) in items.iter().enumerate() {
                let Some(step) = step(mode, item) else {
                    return Some((here(path), format!("item {at} has none of the fields that identify it")));
                };
                path.push(step.clone());
                if !seen.insert(step) {
                    return Some((here(path), "duplicate entries".to_owned()));
                }
                let found = find_ambiguous(node.item(), item, path);
                path.pop();
                if found.is_some() {
                    return found;
                }
            }
            None
        }
        _ => None,
    }
}
