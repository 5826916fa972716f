//! Who owns whom, and what follows from it. Pure.
//!
//! **Invariants.** Nothing is proposed for deletion while one of its owners is known. The work for an object follows from the graph alone, so it can be
//! asked for any number of times.

use std::collections::{BTreeSet, HashMap};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};

use crate::objects::{Key, is_leaving, uid};

/// On an object that is deleted after its dependents.
pub(crate) const FOREGROUND: &str = "foregroundDeletion";

/// On an object whose dependents shall stay.
pub(crate) const ORPHAN: &str = "orphan";

/// All objects with their owners, by uid.
#[derive(Default)]
pub(crate) struct Graph {
    items: HashMap<String, Item>,
    dependents: HashMap<String, BTreeSet<String>>,
}

/// One object.
#[derive(Debug, Clone)]
pub(crate) struct Item {
    /// Which kind it is, in the driver's own numbering.
    pub(crate) resource: usize,
    pub(crate) key: Key,
    pub(crate) owners: Vec<OwnerReference>,
    pub(crate) finalizers: Vec<String>,
    is_leaving: bool,
}

/// What is to be done with one object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Work {
    /// None of its owners is known. If the server knows none either, it goes.
    CheckOwners(String),
    Delete(String),
    /// It no longer waits for its dependents.
    Release(String, &'static str),
    /// It loses an owner that leaves it behind.
    Disown {
        dependent: String,
        owner: String,
    },
}

impl Graph {
    pub(crate) fn get(&self, uid: &str) -> Option<&Item> {
        self.items.get(uid)
    }

    /// Takes an object; answers whose work may have changed.
    pub(crate) fn apply(&mut self, resource: usize, meta: &ObjectMeta) -> BTreeSet<String> {
        let id = uid(meta).to_owned();
        let mut concerned = self.unlink(&id);
        let owners = meta.owner_references.clone().unwrap_or_default();
        for owner in &owners {
            self.dependents.entry(owner.uid.clone()).or_default().insert(id.clone());
            concerned.insert(owner.uid.clone());
        }
        let finalizers = meta.finalizers.clone().unwrap_or_default();
        let item = Item { resource, key: Key::of(meta), owners, finalizers, is_leaving: is_leaving(meta) };
        self.items.insert(id.clone(), item);
        concerned.insert(id);
        concerned
    }

    /// Forgets an object; answers whose work may have changed.
    pub(crate) fn remove(&mut self, id: &str) -> BTreeSet<String> {
        let mut concerned = self.unlink(id);
        self.items.remove(id);
        concerned.extend(self.dependents.get(id).into_iter().flatten().cloned());
        concerned
    }

    fn unlink(&mut self, id: &str) -> BTreeSet<String> {
        let owners = self.items.get(id).map(|item| item.owners.clone()).unwrap_or_default();
        for owner in &owners {
            if let Some(dependents) = self.dependents.get_mut(&owner.uid) {
                dependents.remove(id);
                if dependents.is_empty() {
                    self.dependents.remove(&owner.uid);
                }
            }
        }
        owners.into_iter().map(|owner| owner.uid).collect()
    }

    /// All objects of a kind.
    pub(crate) fn of_resource(&self, resource: usize) -> BTreeSet<String> {
        self.items.iter().filter(|(_, item)| item.resource == resource).map(|(id, _)| id.clone()).collect()
    }

    /// What is to be done because of this object.
    pub(crate) fn work(&self, id: &str) -> Vec<Work> {
        let Some(item) = self.items.get(id) else { return Vec::new() };
        let has = |finalizer: &str| item.finalizers.iter().any(|other| other == finalizer);
        let dependents = || self.dependents.get(id).into_iter().flatten();
        if item.is_leaving && has(ORPHAN) {
            let disowned = dependents().map(|it| Work::Disown { dependent: it.clone(), owner: id.to_owned() });
            let work: Vec<Work> = disowned.collect();
            return if work.is_empty() { vec![Work::Release(id.to_owned(), ORPHAN)] } else { work };
        }
        if item.is_leaving && has(FOREGROUND) {
            let known = || dependents().filter_map(|it| Some((it, self.items.get(it)?)));
            let blocks =
                |item: &Item| item.owners.iter().any(|it| it.uid == id && it.block_owner_deletion == Some(true));
            if !known().any(|(_, dependent)| blocks(dependent)) {
                return vec![Work::Release(id.to_owned(), FOREGROUND)];
            }
            return known().filter(|(_, it)| !it.is_leaving).map(|(id, _)| Work::Delete(id.clone())).collect();
        }
        let is_abandoned = !item.owners.is_empty() && item.owners.iter().all(|it| !self.items.contains_key(&it.uid));
        if is_abandoned && !item.is_leaving { vec![Work::CheckOwners(id.to_owned())] } else { Vec::new() }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use serde_json::{Value, json};

    use super::*;

    fn meta(id: &str, owners: &[&str], extra: Value) -> ObjectMeta {
        let owners: Vec<Value> = owners
            .iter()
            .map(|it| json!({"apiVersion": "v1", "kind": "K", "name": it, "uid": it, "blockOwnerDeletion": true}))
            .collect();
        let mut meta = json!({"name": id, "uid": id, "ownerReferences": owners});
        meta.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        serde_json::from_value(meta).unwrap()
    }

    fn leaving(finalizer: &str) -> Value {
        json!({"deletionTimestamp": "2026-01-01T00:00:00Z", "finalizers": [finalizer]})
    }

    #[test]
    fn what_has_no_owner_left_goes() {
        let mut graph = Graph::default();
        graph.apply(0, &meta("set", &["deployment"], json!({})));
        assert_eq!(graph.work("set"), [Work::CheckOwners("set".to_owned())]);
        assert!(graph.apply(0, &meta("deployment", &[], json!({}))).contains("deployment"));
        assert!(graph.work("set").is_empty());
        graph.apply(0, &meta("pod", &["set", "other"], json!({})));
        assert!(graph.remove("set").contains("pod"));
        assert_eq!(graph.work("pod"), [Work::CheckOwners("pod".to_owned())]);
        graph.apply(0, &meta("other", &[], json!({})));
        assert!(graph.work("pod").is_empty());
        assert!(graph.work("unknown").is_empty());
    }

    #[test]
    fn foreground_waits_for_the_dependents() {
        let mut graph = Graph::default();
        graph.apply(0, &meta("owner", &[], leaving(FOREGROUND)));
        assert_eq!(graph.work("owner"), [Work::Release("owner".to_owned(), FOREGROUND)]);
        assert!(graph.apply(0, &meta("child", &["owner"], json!({}))).contains("owner"));
        assert_eq!(graph.work("owner"), [Work::Delete("child".to_owned())]);
        graph.apply(0, &meta("child", &["owner"], leaving("other")));
        assert!(graph.work("owner").is_empty());
        assert!(graph.remove("child").contains("owner"));
        assert_eq!(graph.work("owner"), [Work::Release("owner".to_owned(), FOREGROUND)]);
    }

    #[test]
    fn orphans_are_disowned_first() {
        let mut graph = Graph::default();
        graph.apply(0, &meta("owner", &[], leaving(ORPHAN)));
        graph.apply(1, &meta("child", &["owner"], json!({})));
        let disown = Work::Disown { dependent: "child".to_owned(), owner: "owner".to_owned() };
        assert_eq!(graph.work("owner"), [disown]);
        graph.apply(1, &meta("child", &[], json!({})));
        assert_eq!(graph.work("owner"), [Work::Release("owner".to_owned(), ORPHAN)]);
        assert_eq!(graph.of_resource(1), ["child".to_owned()].into());
    }
}
