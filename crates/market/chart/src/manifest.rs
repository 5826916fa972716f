//! Rendered text to objects: documents split, hooks told from the rest, both in the order in which Helm installs.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value as Json;

use crate::cluster::ObjectRef;

/// Kinds in the order of installation; others come after, by name. Removal goes the other way round.
const INSTALL_ORDER: [&str; 36] = [
    "PriorityClass",
    "Namespace",
    "NetworkPolicy",
    "ResourceQuota",
    "LimitRange",
    "PodSecurityPolicy",
    "PodDisruptionBudget",
    "ServiceAccount",
    "Secret",
    "SecretList",
    "ConfigMap",
    "StorageClass",
    "PersistentVolume",
    "PersistentVolumeClaim",
    "CustomResourceDefinition",
    "ClusterRole",
    "ClusterRoleList",
    "ClusterRoleBinding",
    "ClusterRoleBindingList",
    "Role",
    "RoleList",
    "RoleBinding",
    "RoleBindingList",
    "Service",
    "DaemonSet",
    "Pod",
    "ReplicationController",
    "ReplicaSet",
    "Deployment",
    "HorizontalPodAutoscaler",
    "StatefulSet",
    "Job",
    "CronJob",
    "IngressClass",
    "Ingress",
    "APIService",
];

/// An object that a chart rendered.
#[derive(Debug, Clone, PartialEq)]
pub struct Manifest {
    /// The template it came from, such as `guestbook/templates/web.yaml`.
    pub source: String,
    /// Its text, as it stands in the release record.
    pub text: String,
    /// What the text says.
    pub object: Json,
}

impl Manifest {
    /// Which object it is.
    #[must_use]
    pub fn reference(&self) -> ObjectRef {
        ObjectRef::of(&self.object)
    }
}

/// When a hook runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[expect(missing_docs, reason = "the names are Helm's and say it all")]
pub enum HookEvent {
    PreInstall,
    PostInstall,
    PreDelete,
    PostDelete,
    PreUpgrade,
    PostUpgrade,
    PreRollback,
    PostRollback,
    #[serde(alias = "test-success")]
    Test,
}

/// An object that is not part of a release but runs at an event of it. The JSON is Helm's.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Hook {
    /// The object's name.
    #[serde(default)]
    pub name: String,
    /// The object's kind.
    #[serde(default)]
    pub kind: String,
    /// The template it came from.
    #[serde(default)]
    pub path: String,
    /// Its text.
    #[serde(default)]
    pub manifest: String,
    /// When it runs.
    #[serde(default)]
    pub events: Vec<HookEvent>,
    /// Lower runs first.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub weight: i64,
    /// When it is deleted: `before-hook-creation` (also if empty), `hook-succeeded`, `hook-failed`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub delete_policies: Vec<String>,
    /// What else Helm keeps of it.
    #[serde(flatten)]
    pub other: serde_json::Map<String, Json>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks for a reference")]
fn is_zero(it: &i64) -> bool {
    *it == 0
}

/// What is wrong with rendered text: the template and why.
pub(crate) type Bad = (String, String);

/// Splits rendered files, by name, into objects and hooks.
pub(crate) fn sort(files: &BTreeMap<String, String>) -> Result<(Vec<Manifest>, Vec<Hook>), Bad> {
    let (mut manifests, mut hooks) = (Vec::new(), Vec::new());
    for (source, text) in files {
        for document in documents(text) {
            let object = atoll_template::yaml::read(document).map_err(|it| (source.clone(), it))?;
            if object.is_null() {
                continue;
            }
            check(&object).map_err(|it| (source.clone(), it))?;
            let manifest = Manifest { source: source.clone(), text: document.to_owned(), object };
            match hook_of(&manifest).map_err(|it| (source.clone(), it))? {
                Some(hook) => hooks.push(hook),
                None => manifests.push(manifest),
            }
        }
    }
    manifests.sort_by_cached_key(|it| order(it.object["kind"].as_str().unwrap_or_default()));
    hooks.sort_by_cached_key(|it: &Hook| order(&it.kind));
    Ok((manifests, hooks))
}

/// Where a kind stands; unknown kinds come last, by name.
pub(crate) fn order(kind: &str) -> (usize, String) {
    match INSTALL_ORDER.iter().position(|it| *it == kind) {
        Some(at) => (at, String::new()),
        None => (INSTALL_ORDER.len(), kind.to_owned()),
    }
}

/// The documents of a file, without the lines of dashes.
fn documents(text: &str) -> Vec<&str> {
    let mut found = Vec::new();
    let mut start = 0;
    let mut at = 0;
    for line in text.split_inclusive('\n') {
        if line.trim_end() == "---" || line.starts_with("--- ") {
            found.push(&text[start..at]);
            start = at + line.len();
        }
        at += line.len();
    }
    found.push(&text[start..]);
    found.into_iter().map(str::trim).filter(|it| !it.is_empty()).collect()
}

fn check(object: &Json) -> Result<(), String> {
    for key in ["apiVersion", "kind"] {
        if object[key].as_str().is_none_or(str::is_empty) {
            return Err(format!("an object has no {key}"));
        }
    }
    if object["metadata"]["name"].as_str().is_none_or(str::is_empty) && !object["items"].is_array() {
        return Err(format!("a {} has no metadata.name", object["kind"].as_str().unwrap_or_default()));
    }
    Ok(())
}

fn hook_of(manifest: &Manifest) -> Result<Option<Hook>, String> {
    let object = &manifest.object;
    let annotation = |key: &str| object["metadata"]["annotations"][key].as_str();
    let Some(events) = annotation("helm.sh/hook") else { return Ok(None) };
    let words = |text: &str| text.split(',').map(|it| it.trim().to_lowercase()).filter(|it| !it.is_empty()).collect();
    let names: Vec<String> = words(events);
    let parsed: Result<Vec<HookEvent>, _> =
        names.iter().map(|it| serde_json::from_value(Json::String(it.clone()))).collect();
    let events = parsed.map_err(|_| format!("helm.sh/hook {events:?} is not an event that is supported"))?;
    Ok(Some(Hook {
        name: object["metadata"]["name"].as_str().unwrap_or_default().to_owned(),
        kind: object["kind"].as_str().unwrap_or_default().to_owned(),
        path: manifest.source.clone(),
        manifest: manifest.text.clone(),
        events,
        weight: annotation("helm.sh/hook-weight").and_then(|it| it.parse().ok()).unwrap_or(0),
        delete_policies: annotation("helm.sh/hook-delete-policy").map(words).unwrap_or_default(),
        other: serde_json::Map::new(),
    }))
}
