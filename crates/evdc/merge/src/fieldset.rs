//! Sets of field paths, as `metadata.managedFields[].fieldsV1` writes them.
//!
//! A set is a tree whose nodes say whether they belong to it. In JSON each step is a member named by a prefix and its content (`f:` a field, `k:` the
//! keys of a list's item, `v:` an item of a set, `i:` a position), and `.` says that a node with children belongs to the set itself.
//!
//! **Invariant.** No node is without both membership and children, except the root of the empty set; so equal sets are equal trees.

use std::collections::BTreeMap;

use serde_json::{Map, Value};
use thiserror::Error;

/// One step of a path, in its canonical text.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Step(String);

impl Step {
    /// A field of an object.
    #[must_use]
    pub fn field(name: &str) -> Self {
        Self(format!("f:{name}"))
    }

    /// The item of a list with these keys.
    #[must_use]
    pub fn keys(keys: &BTreeMap<&str, Value>) -> Self {
        let fields: Vec<String> = keys.iter().map(|(name, value)| format!("{}:{value}", Value::from(*name))).collect();
        Self(format!("k:{{{}}}", fields.join(",")))
    }

    /// The item of a set with this value.
    #[must_use]
    pub fn value(value: &Value) -> Self {
        Self(format!("v:{value}"))
    }

    /// The name, if this is a field.
    #[must_use]
    pub fn as_field(&self) -> Option<&str> {
        self.0.strip_prefix("f:")
    }

    fn parse(text: &str) -> Result<Self, FieldSetError> {
        let unknown = || FieldSetError(text.chars().take(100).collect());
        let (kind, content) = text.split_at_checked(2).ok_or_else(unknown)?;
        match kind {
            "f:" => Ok(Self::field(content)),
            "v:" => serde_json::from_str(content).map(|value| Self::value(&value)).map_err(|_| unknown()),
            "k:" => {
                let keys: BTreeMap<String, Value> = serde_json::from_str(content).map_err(|_| unknown())?;
                Ok(Self::keys(&keys.iter().map(|(name, value)| (name.as_str(), value.clone())).collect()))
            }
            "i:" => content.parse::<u64>().map(|at| Self(format!("i:{at}"))).map_err(|_| unknown()),
            _ => Err(unknown()),
        }
    }
}

/// As Kubernetes writes paths in conflicts: `.spec`, `[name="web"]`, `[="item"]`, `[3]`.
impl std::fmt::Display for Step {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (kind, content) = self.0.split_at(2);
        match kind {
            "f:" => write!(f, ".{content}"),
            "v:" => write!(f, "[={content}]"),
            "i:" => write!(f, "[{content}]"),
            _ => {
                let keys: BTreeMap<String, Value> = serde_json::from_str(content).unwrap_or_default();
                let keys: Vec<String> = keys.iter().map(|(name, value)| format!("{name}={value}")).collect();
                write!(f, "[{}]", keys.join(","))
            }
        }
    }
}

/// A set of field paths.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FieldSet {
    is_member: bool,
    children: BTreeMap<Step, FieldSet>,
}

/// Text that is not `FieldsV1`.
#[derive(Debug, Error, PartialEq, Eq)]
#[error("not a step of FieldsV1: {0:?}; steps are f:name, k:{{keys}}, v:value, i:position and \".\"")]
pub struct FieldSetError(String);

impl FieldSet {
    /// Reads `FieldsV1`. A decoder of foreign bytes: its depth is bounded by that of the value.
    ///
    /// # Errors
    /// If the value is not made of known steps.
    pub fn decode(fields: &Value) -> Result<Self, FieldSetError> {
        let set = Self::decode_node(fields)?;
        // The whole object is not a field of it.
        Ok(Self { is_member: false, ..set })
    }

    fn decode_node(fields: &Value) -> Result<Self, FieldSetError> {
        let object = fields.as_object().ok_or_else(|| FieldSetError("not an object".to_owned()))?;
        let mut set = Self::default();
        for (step, inner) in object {
            if step == "." {
                set.is_member = true;
                continue;
            }
            let mut child = Self::decode_node(inner)?;
            child.is_member |= child.children.is_empty();
            set.children.insert(Step::parse(step)?, child);
        }
        Ok(set)
    }

    /// Writes `FieldsV1`.
    #[must_use]
    pub fn encode(&self) -> Value {
        let mut fields = Map::new();
        if self.is_member && !self.children.is_empty() {
            fields.insert(".".to_owned(), Value::Object(Map::new()));
        }
        fields.extend(self.children.iter().map(|(step, child)| (step.0.clone(), child.encode())));
        Value::Object(fields)
    }

    /// Whether nothing belongs to the set.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        !self.is_member && self.children.is_empty()
    }

    /// All paths, each as its steps, parents first.
    #[must_use]
    pub fn paths(&self) -> Vec<Vec<&Step>> {
        let mut paths = Vec::new();
        self.collect(&mut Vec::new(), &mut paths);
        paths
    }

    fn collect<'a>(&'a self, prefix: &mut Vec<&'a Step>, paths: &mut Vec<Vec<&'a Step>>) {
        if self.is_member {
            paths.push(prefix.clone());
        }
        for (step, child) in &self.children {
            prefix.push(step);
            child.collect(prefix, paths);
            prefix.pop();
        }
    }

    pub(crate) fn insert(&mut self, path: &[Step]) {
        let node = path.iter().fold(self, |node, step| node.children.entry(step.clone()).or_default());
        node.is_member = true;
    }

    /// Whether the node one step below belongs to the set.
    pub(crate) fn has(&self, step: &Step) -> bool {
        self.children.get(step).is_some_and(|child| child.is_member)
    }

    /// What lies below a step, if anything does.
    pub(crate) fn below(&self, step: &Step) -> Option<&Self> {
        self.children.get(step).filter(|child| !child.children.is_empty())
    }

    pub(crate) fn children(&self) -> impl Iterator<Item = (&Step, &Self)> {
        self.children.iter()
    }

    /// The paths in either.
    #[must_use]
    pub fn union(&self, other: &Self) -> Self {
        let mut set = self.clone();
        set.is_member |= other.is_member;
        for (step, child) in &other.children {
            let own = set.children.entry(step.clone()).or_default();
            *own = own.union(child);
        }
        set
    }

    /// The paths of this that are not in the other. Those below a path of the other stay.
    #[must_use]
    pub fn difference(&self, other: &Self) -> Self {
        self.zip(other, self.is_member && !other.is_member, |own, other| match other {
            Some(other) => own.difference(other),
            None => own.clone(),
        })
    }

    /// The paths of this that are not in the other, nor below one that is.
    #[must_use]
    pub fn without(&self, other: &Self) -> Self {
        self.zip(other, self.is_member && !other.is_member, |own, other| match other {
            Some(other) if other.is_member => Self::default(),
            Some(other) => own.without(other),
            None => own.clone(),
        })
    }

    /// The paths in both.
    #[must_use]
    pub fn intersection(&self, other: &Self) -> Self {
        self.zip(other, self.is_member && other.is_member, |own, other| match other {
            Some(other) => own.intersection(other),
            None => Self::default(),
        })
    }

    fn zip(&self, other: &Self, is_member: bool, combine: impl Fn(&Self, Option<&Self>) -> Self) -> Self {
        let combined = self.children.iter().map(|(step, own)| (step.clone(), combine(own, other.children.get(step))));
        Self { is_member, children: combined.filter(|(_, child)| !child.is_empty()).collect() }
    }

    /// The same set with some nodes added or kept as members.
    pub(crate) fn with_children(&self, children: impl IntoIterator<Item = (Step, Self, bool)>) -> Self {
        let children = children.into_iter().map(|(step, mut child, is_member)| {
            child.is_member |= is_member;
            (step, child)
        });
        Self { is_member: self.is_member, children: children.collect() }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use serde_json::json;

    use super::*;

    /// From Kubernetes' documentation of server-side apply, with the steps that it does not show.
    #[test]
    fn what_is_written_is_what_was_read() {
        let fields = json!({"f:metadata": {"f:labels": {"f:test-label": {}}, "f:finalizers": {".": {}, "v:\"a\"": {}}},
            "f:spec": {"f:containers": {"k:{\"name\":\"web\"}": {".": {}, "f:ports":
                {"k:{\"containerPort\":80,\"protocol\":\"TCP\"}": {".": {}, "f:containerPort": {}}}}}}, "i:3": {}});
        let set = FieldSet::decode(&fields).unwrap();
        assert_eq!(set.encode(), fields);
        let paths: Vec<String> =
            set.paths().iter().map(|path| path.iter().map(ToString::to_string).collect()).collect();
        assert_eq!(
            paths,
            [
                ".metadata.finalizers",
                ".metadata.finalizers[=\"a\"]",
                ".metadata.labels.test-label",
                ".spec.containers[name=\"web\"]",
                ".spec.containers[name=\"web\"].ports[containerPort=80,protocol=\"TCP\"]",
                ".spec.containers[name=\"web\"].ports[containerPort=80,protocol=\"TCP\"].containerPort",
                "[3]",
            ]
        );
        let spaced = json!({"k:{ \"protocol\":\"TCP\", \"containerPort\": 80}": {}});
        assert_eq!(
            FieldSet::decode(&spaced).unwrap().encode(),
            json!({"k:{\"containerPort\":80,\"protocol\":\"TCP\"}": {}})
        );
    }

    #[test]
    fn what_is_no_set_is_refused() {
        for fields in
            [json!([]), json!({"x:a": {}}), json!({"f:a": 1}), json!({"": {}}), json!({"k:[]": {}}), json!({"é": {}})]
        {
            assert!(FieldSet::decode(&fields).is_err(), "{fields}");
        }
    }

    #[test]
    fn algebra() {
        let set = |fields: Value| FieldSet::decode(&fields).unwrap();
        let both = set(json!({"f:a": {".": {}, "f:b": {}}, "f:c": {}}));
        let one = set(json!({"f:a": {}}));
        assert_eq!(both.difference(&one), set(json!({"f:a": {"f:b": {}}, "f:c": {}})));
        assert_eq!(both.without(&one), set(json!({"f:c": {}})));
        assert_eq!(both.intersection(&one), one);
        assert_eq!(one.union(&both), both);
        assert!(both.difference(&both).is_empty());
    }
}
