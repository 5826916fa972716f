//! Kinds as data: what is served, under which names and with which subresources. The machinery asks these tables and knows no kind by itself.
//!
//! Built-in kinds stand in `kinds/builtin.rs`; CustomResourceDefinitions add theirs at run time (`kinds/custom.rs`). A [`Registry`] is a snapshot of both;
//! a request works on one snapshot from beginning to end.

use std::{collections::BTreeMap, sync::Arc};

use serde_json::Value;

use crate::{error::About, schema::Message};

pub(crate) mod builtin;
pub(crate) mod custom;

/// Where the numbers of the scale subresource stand in an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ScalePaths {
    pub(crate) spec_replicas: Vec<String>,
    pub(crate) status_replicas: Vec<String>,
    /// Path of a selector as text; for the built-in kinds it is made from `spec.selector`.
    pub(crate) selector: Option<Vec<String>>,
}

/// A column that a CustomResourceDefinition asks for.
#[derive(Debug, Clone)]
pub(crate) struct CustomColumn {
    pub(crate) name: String,
    pub(crate) kind: String,
    pub(crate) format: String,
    pub(crate) description: String,
    pub(crate) priority: i64,
    pub(crate) path: String,
}

/// What is particular to a custom resource.
#[derive(Debug)]
pub(crate) struct Custom {
    /// `openAPIV3Schema` of this version.
    pub(crate) schema: Value,
    pub(crate) columns: Vec<CustomColumn>,
    /// How lists merge, read from the schema.
    pub(crate) merging: atoll_merge::Schema,
    /// Whether the schema has CEL rules, which are not evaluated.
    pub(crate) has_rules: bool,
}

/// A resource of one group and version.
#[derive(Debug)]
pub(crate) struct Resource {
    pub(crate) group: String,
    pub(crate) version: String,
    pub(crate) kind: String,
    pub(crate) list_kind: String,
    pub(crate) plural: String,
    pub(crate) singular: String,
    pub(crate) short_names: Vec<String>,
    pub(crate) categories: Vec<String>,
    pub(crate) namespaced: bool,
    pub(crate) status: bool,
    pub(crate) scale: Option<ScalePaths>,
    /// Only `create`, nothing stored: a question and its answer.
    pub(crate) is_review: bool,
    /// Only read: its objects are those of another kind, shown in part.
    pub(crate) is_view: bool,
    /// Fields of a built-in kind.
    pub(crate) message: Option<&'static Message>,
    pub(crate) custom: Option<Custom>,
    /// `group/plural` under which the objects lie; two groups may show the same objects.
    pub(crate) storage: String,
}

impl Resource {
    pub(crate) fn about(&self) -> About<'_> {
        About { group: &self.group, plural: &self.plural, kind: &self.kind }
    }

    /// `v1`, `apps/v1`, …
    pub(crate) fn api_version(&self) -> String {
        if self.group.is_empty() { self.version.clone() } else { format!("{}/{}", self.group, self.version) }
    }

    /// Whether this is the built-in kind of that group.
    pub(crate) fn is(&self, group: &str, kind: &str) -> bool {
        self.group == group && self.kind == kind && self.custom.is_none()
    }

    /// The merge rules of this kind.
    pub(crate) fn merging(&self) -> atoll_merge::Schema {
        match &self.custom {
            Some(custom) => custom.merging.clone(),
            None => atoll_merge::Schema::of(&self.group, &self.kind),
        }
    }

    /// Whether `spec` changes count in `metadata.generation`.
    pub(crate) fn has_generation(&self) -> bool {
        self.custom.is_some()
            || !matches!(self.kind.as_str(), "Namespace" | "Node" | "Event" | "Lease" | "PersistentVolume")
    }

    /// The verbs it answers to.
    pub(crate) fn verbs(&self) -> &'static [&'static str] {
        if self.is_review {
            &["create"]
        } else if self.is_view {
            &["get", "list", "watch"]
        } else {
            &["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"]
        }
    }

    /// Its subresources: path, kind (with group and version where they differ), verbs.
    pub(crate) fn subresources(&self) -> Vec<Subresource> {
        let mut all = Vec::new();
        const READ_WRITE: &[&str] = &["get", "patch", "update"];
        if self.status {
            all.push(Subresource::new("status", &self.group, &self.version, &self.kind, READ_WRITE));
        }
        if self.scale.is_some() {
            all.push(Subresource::new("scale", "autoscaling", "v1", "Scale", READ_WRITE));
        }
        if self.is("", "Pod") {
            const STREAM: &[&str] = &["create", "get"];
            all.push(Subresource::new("attach", "", "v1", "PodAttachOptions", STREAM));
            all.push(Subresource::new("binding", "", "v1", "Binding", &["create"]));
            all.push(Subresource::new("eviction", "policy", "v1", "Eviction", &["create"]));
            all.push(Subresource::new("exec", "", "v1", "PodExecOptions", STREAM));
            all.push(Subresource::new("log", "", "v1", "Pod", &["get"]));
            all.push(Subresource::new("portforward", "", "v1", "PodPortForwardOptions", STREAM));
        }
        if self.is("", "ServiceAccount") {
            all.push(Subresource::new("token", "authentication.k8s.io", "v1", "TokenRequest", &["create"]));
        }
        if self.is("", "Namespace") {
            all.push(Subresource::new("finalize", "", "v1", "Namespace", &["update"]));
        }
        all
    }
}

/// A part of a resource with a path of its own.
#[derive(Debug, Clone)]
pub(crate) struct Subresource {
    pub(crate) name: &'static str,
    pub(crate) group: String,
    pub(crate) version: String,
    pub(crate) kind: String,
    pub(crate) verbs: &'static [&'static str],
}

impl Subresource {
    fn new(name: &'static str, group: &str, version: &str, kind: &str, verbs: &'static [&'static str]) -> Self {
        Self { name, group: group.to_owned(), version: version.to_owned(), kind: kind.to_owned(), verbs }
    }
}

/// All resources served at a moment.
#[derive(Debug, Clone)]
pub(crate) struct Registry {
    /// By group, version, plural. Built-in groups come first in discovery; see [`Registry::groups`].
    resources: BTreeMap<(String, String, String), Arc<Resource>>,
}

impl Registry {
    /// The built-in kinds.
    pub(crate) fn builtin() -> Self {
        Self::of(builtin::resources())
    }

    fn of(resources: impl IntoIterator<Item = Resource>) -> Self {
        let mut registry = Self { resources: BTreeMap::new() };
        registry.extend(resources);
        registry
    }

    /// Adds resources; those that are there already stay.
    pub(crate) fn extend(&mut self, resources: impl IntoIterator<Item = Resource>) {
        for resource in resources {
            let key = (resource.group.clone(), resource.version.clone(), resource.plural.clone());
            self.resources.entry(key).or_insert_with(|| Arc::new(resource));
        }
    }

    pub(crate) fn get(&self, group: &str, version: &str, plural: &str) -> Option<Arc<Resource>> {
        self.resources.get(&(group.to_owned(), version.to_owned(), plural.to_owned())).cloned()
    }

    pub(crate) fn all(&self) -> impl Iterator<Item = &Arc<Resource>> {
        self.resources.values()
    }

    /// Groups in the order of discovery (built-in ones as Kubernetes lists them), each with its versions, the preferred one first.
    pub(crate) fn groups(&self) -> Vec<(&str, Vec<&str>)> {
        let mut groups: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        for (group, version, _) in self.resources.keys() {
            let versions = groups.entry(group).or_default();
            if !versions.contains(&version.as_str()) {
                versions.push(version);
            }
        }
        let mut groups: Vec<_> = groups.into_iter().collect();
        for (_, versions) in &mut groups {
            versions.sort_by_key(|version| version_rank(version));
        }
        groups.sort_by_key(|(group, _)| builtin::group_rank(group));
        groups
    }

    pub(crate) fn in_version(&self, group: &str, version: &str) -> Vec<&Arc<Resource>> {
        self.resources.values().filter(|it| it.group == group && it.version == version).collect()
    }
}

/// Orders versions as Kubernetes prefers them: v2, v1, v1beta2, v1beta1, v1alpha1, others by name.
fn version_rank(version: &str) -> (u8, std::cmp::Reverse<u32>, u8, std::cmp::Reverse<u32>, String) {
    let parse = || -> Option<(u32, u8, u32)> {
        let rest = version.strip_prefix('v')?;
        let digits = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
        let major = rest[..digits].parse().ok()?;
        match &rest[digits..] {
            "" => Some((major, 0, 0)),
            stage => {
                let (rank, minor) = match stage.strip_prefix("beta") {
                    Some(minor) => (1, minor),
                    None => (2, stage.strip_prefix("alpha")?),
                };
                Some((major, rank, minor.parse().ok()?))
            }
        }
    };
    use std::cmp::Reverse;
    match parse() {
        Some((major, 0, _)) => (0, Reverse(major), 0, Reverse(0), String::new()),
        Some((major, stage, minor)) => (stage, Reverse(major), 0, Reverse(minor), String::new()),
        None => (3, Reverse(0), 0, Reverse(0), version.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_preferred_as_kubernetes_does() {
        let mut versions = ["foo1", "v1beta1", "v10", "v1", "v2beta1", "v1alpha1", "v2", "v1beta2"];
        versions.sort_by_key(|version| version_rank(version));
        assert_eq!(versions, ["v10", "v2", "v1", "v2beta1", "v1beta2", "v1beta1", "v1alpha1", "foo1"]);
    }

    #[test]
    fn every_builtin_kind_has_fields() {
        for resource in Registry::builtin().all() {
            assert!(resource.message.is_some(), "{}/{}", resource.group, resource.kind);
        }
    }
}
