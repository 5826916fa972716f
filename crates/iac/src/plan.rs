//! What would be done, in the order in which it would be done, and how that reads. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

use serde::Serialize;
use serde_json::Value as Json;

use crate::diff::{self, FieldChange};
use crate::inventory::Inventory;
use crate::resource::{Resource, ResourceId};
use crate::stack::Stack;

/// What is there of the resources asked for.
pub type Live = BTreeMap<ResourceId, Json>;

/// Fields of kinds that an API does not let change; a change of one makes the object anew.
const IMMUTABLE: [(&str, &[&str]); 8] = [
    ("Deployment", &["spec.selector"]),
    ("ReplicaSet", &["spec.selector"]),
    ("DaemonSet", &["spec.selector"]),
    ("StatefulSet", &["spec.selector", "spec.serviceName", "spec.volumeClaimTemplates"]),
    ("Job", &["spec.selector", "spec.template", "spec.completions"]),
    ("Service", &["spec.clusterIP"]),
    ("PersistentVolumeClaim", &["spec.storageClassName", "spec.accessModes", "spec.volumeName", "spec.selector"]),
    ("StorageClass", &["provisioner", "parameters", "reclaimPolicy", "volumeBindingMode"]),
];

/// Longest value shown on a line of a plan.
const SHOWN_CHARS_MAX: usize = 120;

/// One change.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(tag = "change", rename_all = "lowercase")]
pub enum Change {
    /// It is not there.
    Create {
        /// Which.
        id: ResourceId,
        /// As it will be.
        spec: Json,
    },
    /// It differs.
    Update {
        /// Which.
        id: ResourceId,
        /// In what.
        fields: Vec<FieldChange>,
    },
    /// It differs in what cannot be changed: it is deleted and made anew.
    Replace {
        /// Which.
        id: ResourceId,
        /// In what.
        fields: Vec<FieldChange>,
    },
    /// This stack made it and the files do not have it any more.
    Delete {
        /// Which.
        id: ResourceId,
    },
    /// It is as written, but the inventory does not say so (a write that was interrupted, or a file that says the same in other words),
    /// or it is gone by itself. Nothing is done but that the inventory is set right.
    Record {
        /// Which.
        id: ResourceId,
    },
}

impl Change {
    /// Which resource it changes.
    #[must_use]
    pub fn id(&self) -> &ResourceId {
        match self {
            Self::Create { id, .. }
            | Self::Update { id, .. }
            | Self::Replace { id, .. }
            | Self::Delete { id }
            | Self::Record { id } => id,
        }
    }
}

/// Why nothing can be planned.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    /// The inventory is another stack's.
    #[error("this inventory is of the stack {found}, not of {wanted}")]
    OtherStack {
        /// Whose it is.
        found: String,
        /// Whose it should be.
        wanted: String,
    },
    /// It is there, and this stack did not make it.
    #[error("{place}: {id} exists and was not made by this stack: take another name, or delete it first")]
    NotOwned {
        /// Where it is written.
        place: String,
        /// Which.
        id: ResourceId,
    },
    /// Resources need each other in a circle.
    #[error("{0} needs itself by way of what it needs")]
    Circle(ResourceId),
}

/// Changes in the order in which they are made.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Plan {
    /// The stack.
    pub stack: String,
    /// The changes.
    pub changes: Vec<Change>,
    /// What will be there, by resource, for those that are written.
    #[serde(skip)]
    pub(crate) wanted: BTreeMap<ResourceId, Resource>,
}

/// Plans to make `live` what the stack says. `live` must hold what is there of the stack's and the inventory's resources.
///
/// # Errors
/// The inventory is another stack's, something is there that the stack did not make, or resources need each other in a circle.
pub fn plan(stack: &Stack, live: &Live, inventory: &Inventory) -> Result<Plan, PlanError> {
    if inventory.stack != stack.name {
        return Err(PlanError::OtherStack { found: inventory.stack.clone(), wanted: stack.name.clone() });
    }
    let needs = |id: &ResourceId| stack.resources.get(id).map(|it| it.needs.clone()).unwrap_or_default();
    let mut changes = Vec::new();
    for id in ordered(stack.resources.keys(), needs)? {
        let resource = &stack.resources[&id];
        changes.extend(change(resource, live.get(&id), inventory)?);
    }
    let gone: Vec<&ResourceId> = inventory.owned.keys().filter(|it| !stack.resources.contains_key(*it)).collect();
    changes.extend(removals(gone, live, inventory)?);
    Ok(Plan { stack: stack.name.clone(), changes, wanted: stack.resources.clone() })
}

/// Plans to remove everything that the stack made, what needs others first.
///
/// # Errors
/// Resources need each other in a circle.
pub fn destroy(live: &Live, inventory: &Inventory) -> Result<Plan, PlanError> {
    let changes = removals(inventory.owned.keys().collect(), live, inventory)?;
    Ok(Plan { stack: inventory.stack.clone(), changes, wanted: BTreeMap::new() })
}

fn change(resource: &Resource, live: Option<&Json>, inventory: &Inventory) -> Result<Option<Change>, PlanError> {
    let id = resource.id.clone();
    let owned = inventory.owned.get(&id);
    let Some(live) = live else { return Ok(Some(Change::Create { id, spec: resource.spec.clone() })) };
    let Some(owned) = owned else {
        return Err(PlanError::NotOwned { place: resource.place.to_string(), id });
    };
    let mut fields = diff::fields(&resource.spec, live, Some(&owned.spec));
    fields.extend(moved(&id, live));
    if fields.is_empty() {
        let stale = owned.pending || owned.spec != resource.spec || owned.needs != resource.needs;
        return Ok(stale.then_some(Change::Record { id }));
    }
    Ok(Some(if needs_replacement(&id, &fields) {
        Change::Replace { id, fields }
    } else {
        Change::Update { id, fields }
    }))
}

fn needs_replacement(id: &ResourceId, fields: &[FieldChange]) -> bool {
    match id {
        // A lease is a contract: another size is another contract.
        ResourceId::Lease { .. } => true,
        // A release belongs to its application.
        ResourceId::App { .. } => fields.iter().any(|it| it.path == "app"),
        ResourceId::Evdc(_) => false,
        ResourceId::Object { kind, .. } => {
            let fixed = IMMUTABLE.iter().find(|(known, _)| known == kind).map_or(&[][..], |(_, fixed)| fixed);
            fields.iter().any(|it| {
                fixed.iter().any(|fixed| {
                    it.path.strip_prefix(fixed).is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
                })
            })
        }
    }
}

fn removals(gone: Vec<&ResourceId>, live: &Live, inventory: &Inventory) -> Result<Vec<Change>, PlanError> {
    let needs = |id: &ResourceId| inventory.owned.get(id).map(|it| it.needs.clone()).unwrap_or_default();
    let order = ordered(gone.into_iter(), needs)?;
    let change = |id: ResourceId| if live.contains_key(&id) { Change::Delete { id } } else { Change::Record { id } };
    Ok(order.into_iter().rev().map(change).collect())
}

/// What is needed before what needs it; otherwise by name.
fn ordered<'a>(
    ids: impl Iterator<Item = &'a ResourceId>,
    needs: impl Fn(&ResourceId) -> BTreeSet<ResourceId>,
) -> Result<Vec<ResourceId>, PlanError> {
    let ids: BTreeSet<&ResourceId> = ids.collect();
    let mut waits: BTreeMap<&ResourceId, usize> = BTreeMap::new();
    let mut needed_by: BTreeMap<ResourceId, Vec<&ResourceId>> = BTreeMap::new();
    for id in &ids {
        let own: Vec<ResourceId> = needs(id).into_iter().filter(|it| ids.contains(it)).collect();
        waits.insert(id, own.len());
        for it in own {
            needed_by.entry(it).or_default().push(id);
        }
    }
    let mut free: BTreeSet<&ResourceId> = waits.iter().filter(|(_, count)| **count == 0).map(|(id, _)| *id).collect();
    let mut order = Vec::new();
    while let Some(id) = free.pop_first() {
        for it in needed_by.get(id).into_iter().flatten() {
            if let Some(count) = waits.get_mut(it) {
                *count -= 1;
                if *count == 0 {
                    free.insert(it);
                }
            }
        }
        waits.remove(id);
        order.push(id.clone());
    }
    match waits.keys().next() {
        Some(id) => Err(PlanError::Circle((*id).clone())),
        None => Ok(order),
    }
}

/// What has moved within an application.
fn moved(id: &ResourceId, live: &Json) -> Vec<FieldChange> {
    match id {
        ResourceId::App { .. } => serde_json::from_value(live["moved"].clone()).unwrap_or_default(),
        _ => Vec::new(),
    }
}

/// How something that the stack made has moved since.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Drift {
    /// Which.
    pub id: ResourceId,
    /// Whether it is gone altogether.
    pub missing: bool,
    /// What differs: from as it was written, to as it is.
    pub fields: Vec<FieldChange>,
}

/// What has moved since it was last written.
#[must_use]
pub fn drift(live: &Live, inventory: &Inventory) -> Vec<Drift> {
    let moved = inventory.owned.iter().filter_map(|(id, owned)| {
        let Some(live) = live.get(id) else { return Some(Drift { id: id.clone(), missing: true, fields: Vec::new() }) };
        let fields = diff::fields(&owned.spec, live, None).into_iter().chain(moved(id, live));
        let turned = fields.map(|it| FieldChange { path: it.path, from: it.to, to: it.from });
        let fields: Vec<FieldChange> = turned.collect();
        (!fields.is_empty()).then(|| Drift { id: id.clone(), missing: false, fields })
    });
    moved.collect()
}

impl Plan {
    /// Whether everything is as written.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        !self.changes.iter().any(|it| !matches!(it, Change::Record { .. }))
    }

    /// For people: a line per change, and its fields below. Values of secrets are not shown.
    #[must_use]
    pub fn text(&self) -> String {
        let mut out = String::new();
        for change in &self.changes {
            let (sign, fields) = match change {
                Change::Create { .. } => ("+", &[][..]),
                Change::Update { fields, .. } => ("~", &fields[..]),
                Change::Replace { fields, .. } => ("-/+", &fields[..]),
                Change::Delete { .. } => ("-", &[][..]),
                Change::Record { .. } => continue,
            };
            // Writing to a text does not fail.
            let _ = writeln!(out, "{sign} {}", change.id());
            if let Change::Create { id, spec } = change
                && !matches!(id, ResourceId::Object { .. })
            {
                let _ = writeln!(out, "    {}", shown(Some(spec)));
            }
            for field in fields {
                let (from, to) = match is_secret(change.id()) {
                    true => ("(secret)".to_owned(), "(secret)".to_owned()),
                    false => (shown(field.from.as_ref()), shown(field.to.as_ref())),
                };
                let _ = writeln!(out, "    {}: {from} → {to}", field.path);
            }
        }
        let count = |wanted: fn(&Change) -> bool| self.changes.iter().filter(|it| wanted(it)).count();
        if self.is_empty() {
            out.push_str("Nothing to do: everything is as written.\n");
        } else {
            let _ = writeln!(
                out,
                "{} to create, {} to change, {} to replace, {} to delete.",
                count(|it| matches!(it, Change::Create { .. })),
                count(|it| matches!(it, Change::Update { .. })),
                count(|it| matches!(it, Change::Replace { .. })),
                count(|it| matches!(it, Change::Delete { .. })),
            );
        }
        out
    }

    /// For programs: the changes as JSON. Values of secrets are not shown.
    #[must_use]
    pub fn json(&self) -> Json {
        let mut json = serde_json::to_value(self).unwrap_or(Json::Null);
        for (change, it) in self.changes.iter().zip(json["changes"].as_array_mut().into_iter().flatten()) {
            if is_secret(change.id())
                && let Some(map) = it.as_object_mut()
            {
                map.remove("spec");
                map.remove("fields");
            }
        }
        json
    }
}

/// Drift for people: a line per resource, and its fields below. Values of secrets are not shown.
#[must_use]
pub fn drift_text(drift: &[Drift]) -> String {
    if drift.is_empty() {
        return "Nothing has moved: everything is as it was written.\n".to_owned();
    }
    let mut out = String::new();
    for Drift { id, missing, fields } in drift {
        // Writing to a text does not fail.
        let _ = writeln!(out, "{} {id}", if *missing { "-" } else { "~" });
        for field in fields {
            let (from, to) = match is_secret(id) {
                true => ("(secret)".to_owned(), "(secret)".to_owned()),
                false => (shown(field.from.as_ref()), shown(field.to.as_ref())),
            };
            let _ = writeln!(out, "    {}: {from} → {to}", field.path);
        }
    }
    let gone = drift.iter().filter(|it| it.missing).count();
    let _ = writeln!(out, "{} moved, {gone} gone. `atoll apply` makes it as written.", drift.len() - gone);
    out
}

/// Drift for programs. Values of secrets are not shown.
#[must_use]
pub fn drift_json(drift: &[Drift]) -> Json {
    let hidden = |it: &Drift| match is_secret(&it.id) {
        true => Drift { fields: Vec::new(), ..it.clone() },
        false => it.clone(),
    };
    serde_json::to_value(drift.iter().map(hidden).collect::<Vec<_>>()).unwrap_or(Json::Null)
}

fn is_secret(id: &ResourceId) -> bool {
    matches!(id, ResourceId::Object { kind, .. } if kind == "Secret")
}

fn shown(value: Option<&Json>) -> String {
    let Some(value) = value else { return "(nothing)".into() };
    let text = value.to_string();
    if text.chars().count() <= SHOWN_CHARS_MAX {
        return text;
    }
    text.chars().take(SHOWN_CHARS_MAX).collect::<String>() + "…"
}
