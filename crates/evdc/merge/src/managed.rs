//! Server-side apply and who owns which field (`metadata.managedFields`).
//!
//! The rules are those of Kubernetes: applying owns what the configuration names; a value that another manager owns and the configuration changes is
//! a conflict, unless it is forced; a field that its manager no longer names is removed, unless someone else owns it too. Every other
//! write owns what it changed.
//!
//! Not here: converting between versions of a kind (an entry's paths are taken as they are), the subresources' fields (the caller names what an
//! endpoint ignores), defaulting and validation (between [`apply`] and storing).
//!
//! **Invariant.** Identity, versions and ownership itself (`metadata.name`, `resourceVersion`, `managedFields`, …) are never owned.

use std::sync::LazyLock;

use serde_json::{Map, Value, json};
use thiserror::Error;

use crate::{
    fieldset::{FieldSet, Step},
    schema::Schema,
    typed::{self, Comparison},
};

/// Most managers by other writes than apply that are remembered one by one; older ones become one. Kubernetes' own number.
const UPDATERS_MAX: usize = 10;

/// The manager that owns what was there before the first apply to an object without owners.
const BEFORE_FIRST_APPLY: &str = "before-first-apply";

/// The manager that the oldest ones become.
const ANCIENT: &str = "ancient-changes";

/// Who writes, and where.
#[derive(Debug, Clone)]
pub struct Writer {
    /// The field manager's name.
    pub manager: String,
    /// The version the object is written in, such as `apps/v1`.
    pub api_version: String,
    /// The subresource written to, such as `status`; `None` for the object itself.
    pub subresource: Option<String>,
    /// Now, as RFC 3339 with whole seconds.
    pub time: String,
    /// Fields that this endpoint does not change, such as `[["status"]]` on the object itself; what lies below is neither owned nor in conflict.
    pub ignored: Vec<Vec<String>>,
}

/// Why a configuration was not applied. Nothing has changed.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ApplyError {
    /// The configuration is not an object.
    #[error("the configuration to apply must be an object")]
    NotAnObject,
    /// No manager is named.
    #[error("PatchOptions.meta.k8s.io \"\" is invalid: fieldManager: Required value: is required for apply patch")]
    NoManager,
    /// The configuration claims ownership itself.
    #[error("metadata.managedFields must be nil")]
    ManagedFields,
    /// Items of a list cannot be told apart.
    #[error("{path}: {why}")]
    Ambiguous {
        /// The list or the item.
        path: String,
        /// What is wrong with it.
        why: String,
    },
    /// Others own what the configuration changes.
    #[error(transparent)]
    Conflicts(Conflicts),
}

/// Fields that the configuration changes and others own, by owner. Its text is Kubernetes' answer to the client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Conflicts(Vec<(String, Vec<String>)>);

/// One field in conflict, as an answer of type `FieldManagerConflict` lists it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cause {
    /// The path of the field.
    pub field: String,
    /// Whom it conflicts with.
    pub message: String,
}

impl Conflicts {
    /// All fields in conflict, by owner.
    #[must_use]
    pub fn causes(&self) -> Vec<Cause> {
        let cause =
            |owner: &String, field: &String| Cause { field: field.clone(), message: format!("conflict with {owner}") };
        self.0.iter().flat_map(|(owner, fields)| fields.iter().map(move |field| cause(owner, field))).collect()
    }
}

impl std::error::Error for Conflicts {}

impl std::fmt::Display for Conflicts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if let [(owner, fields)] = self.0.as_slice()
            && let [field] = fields.as_slice()
        {
            return write!(f, "Apply failed with 1 conflict: conflict with {owner}: {field}");
        }
        let count: usize = self.0.iter().map(|(_, fields)| fields.len()).sum();
        write!(f, "Apply failed with {count} conflicts: ")?;
        for (at, (owner, fields)) in self.0.iter().enumerate() {
            write!(f, "{}conflicts with {owner}:", if at == 0 { "" } else { "\n" })?;
            for field in fields {
                write!(f, "\n- {field}")?;
            }
        }
        Ok(())
    }
}

/// One manager's entry.
#[derive(Debug, Clone)]
struct Entry {
    manager: String,
    is_apply: bool,
    api_version: String,
    subresource: String,
    time: String,
    fields: FieldSet,
}

impl Entry {
    fn new(writer: &Writer, is_apply: bool, fields: FieldSet) -> Self {
        Self {
            manager: writer.manager.clone(),
            is_apply,
            api_version: writer.api_version.clone(),
            subresource: writer.subresource.clone().unwrap_or_default(),
            time: writer.time.clone(),
            fields,
        }
    }

    fn decode(entry: &Value) -> Option<Self> {
        let text = |key: &str| entry.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
        Some(Self {
            manager: text("manager"),
            is_apply: match entry.get("operation")?.as_str()? {
                "Apply" => true,
                "Update" => false,
                _ => return None,
            },
            api_version: text("apiVersion"),
            subresource: text("subresource"),
            time: text("time"),
            fields: FieldSet::decode(entry.get("fieldsV1").unwrap_or(&json!({}))).ok()?,
        })
    }

    fn encode(&self) -> Value {
        let mut entry = json!({
            "manager": self.manager,
            "operation": if self.is_apply { "Apply" } else { "Update" },
            "apiVersion": self.api_version,
            "fieldsType": "FieldsV1",
            "fieldsV1": self.fields.encode(),
        });
        for (key, value) in [("time", &self.time), ("subresource", &self.subresource)] {
            if !value.is_empty() {
                entry[key] = json!(value);
            }
        }
        entry
    }

    /// Whether both are entries of one manager. An applier's version does not matter: it says all that it wants each time.
    fn is_same(&self, other: &Self) -> bool {
        self.manager == other.manager
            && self.is_apply == other.is_apply
            && self.subresource == other.subresource
            && (self.is_apply || self.api_version == other.api_version)
    }

    /// As conflicts name it.
    fn describe(&self) -> String {
        let mut text = format!("{:?}", self.manager);
        if !self.subresource.is_empty() {
            text += &format!(" with subresource {:?}", self.subresource);
        }
        if !self.is_apply {
            text += &format!(" using {}", self.api_version);
            if !self.time.is_empty() {
                text += &format!(" at {}", self.time);
            }
        }
        text
    }
}

/// Applies a configuration: what `PATCH` with `application/apply-patch+yaml` does. Without a live object it makes one.
///
/// Nulls in the configuration count as absent. The result carries the new ownership; it equals the live object if nothing changed.
///
/// # Errors
/// If the configuration is not one, or changes what others own and `force` is not given.
pub fn apply(
    schema: &Schema,
    live: Option<&Value>,
    config: &Value,
    writer: &Writer,
    force: bool,
) -> Result<Value, ApplyError> {
    let config = checked(schema, config, writer)?;
    let node = schema.root();
    let before = live.map(managers).unwrap_or_default();
    let live = live.map_or_else(|| json!({}), unmanaged);
    let mut others = before.clone();
    if others.is_empty() && live.as_object().is_some_and(|live| !live.is_empty()) {
        let first = Writer { manager: BEFORE_FIRST_APPLY.to_owned(), subresource: None, ..writer.clone() };
        others.push(Entry::new(&first, false, typed::paths(node, &live)));
    }
    let ignored = ignored(writer);
    let mut own = Entry::new(writer, true, typed::paths(node, &config).without(&ignored));
    let last = take(&mut others, &own).map(|entry| entry.fields).unwrap_or_default();
    let merged = typed::merge(node, &live, &config);
    let managed = others.iter().fold(own.fields.clone(), |all, entry| all.union(&entry.fields));
    let new = prune(schema, merged, &last, &managed);
    let comparison = Comparison::between(node, &live, &new).without(&ignored);
    let conflicts = disown(&mut others, &comparison);
    if !force && !conflicts.0.is_empty() {
        return Err(ApplyError::Conflicts(conflicts));
    }
    own.fields = own.fields.difference(&NEVER_OWNED);
    others.push(own);
    Ok(with_managers(new, others, &before))
}

/// Records in `metadata.managedFields` who owns what after any other write than [`apply`]; `new` is the object as it will be stored.
///
/// The client may send the ownership it read, or nothing; a list with one empty entry forgets all ownership, as in Kubernetes.
pub fn record_update(schema: &Schema, live: Option<&Value>, new: &mut Value, writer: &Writer) {
    let sent = new.pointer("/metadata/managedFields").and_then(Value::as_array).cloned().unwrap_or_default();
    let plain = unmanaged(new);
    if let [only] = sent.as_slice()
        && only.as_object().is_some_and(Map::is_empty)
    {
        *new = plain;
        return;
    }
    let before = live.map(managers).unwrap_or_default();
    let mut entries = if sent.is_empty() { before.clone() } else { managers(new) };
    let live = live.map_or_else(|| json!({}), unmanaged);
    let comparison = Comparison::between(schema.root(), &live, &plain).without(&ignored(writer));
    let mut own = Entry::new(writer, false, FieldSet::default());
    if let Some(entry) = take(&mut entries, &own) {
        own.fields = entry.fields;
    }
    disown(&mut entries, &comparison);
    own.fields = own.fields.difference(&comparison.removed).union(&comparison.modified).union(&comparison.added);
    own.fields = own.fields.difference(&NEVER_OWNED);
    entries.push(own);
    *new = with_managers(plain, entries, &before);
}

/// The configuration without nulls, if it can be applied at all.
fn checked(schema: &Schema, config: &Value, writer: &Writer) -> Result<Value, ApplyError> {
    if writer.manager.is_empty() {
        return Err(ApplyError::NoManager);
    }
    if !config.is_object() {
        return Err(ApplyError::NotAnObject);
    }
    let config = without_nulls(config);
    let claimed = config.pointer("/metadata/managedFields").and_then(Value::as_array);
    if claimed.is_some_and(|claimed| !claimed.is_empty()) {
        return Err(ApplyError::ManagedFields);
    }
    match typed::find_ambiguous(schema.root(), &config, &mut Vec::new()) {
        Some((path, why)) => Err(ApplyError::Ambiguous { path, why }),
        None => Ok(unmanaged(&config)),
    }
}

fn without_nulls(value: &Value) -> Value {
    match value {
        Value::Object(fields) => {
            let kept = fields.iter().filter(|(_, field)| !field.is_null());
            Value::Object(kept.map(|(name, field)| (name.clone(), without_nulls(field))).collect())
        }
        Value::Array(items) => Value::Array(items.iter().map(without_nulls).collect()),
        _ => value.clone(),
    }
}

/// Cuts out what the manager applied last time and neither it nor anyone else owns now.
fn prune(schema: &Schema, merged: Value, last: &FieldSet, managed: &FieldSet) -> Value {
    if last.is_empty() {
        return merged;
    }
    let node = schema.root();
    let last = typed::with_named_fields(node, last);
    let managed = typed::with_named_fields(node, managed);
    let all = typed::with_named_fields(node, &typed::paths(node, &merged));
    // Below something owned as a whole nothing is owned by itself, so what others own keeps all that leads to it.
    let unowned = all.difference(&managed).intersection(&last);
    typed::remove(node, &merged, &unowned)
}

/// Takes from the others what a change took from them, and says what it changed under them.
fn disown(others: &mut [Entry], change: &Comparison) -> Conflicts {
    let changed = change.modified.union(&change.added);
    let mut conflicts = Vec::new();
    for entry in others.iter_mut() {
        let conflict = entry.fields.intersection(&changed);
        if !conflict.is_empty() {
            let paths = conflict.paths().into_iter().map(|path| path.iter().map(ToString::to_string).collect());
            conflicts.push((entry.describe(), paths.collect()));
        }
        entry.fields = entry.fields.difference(&conflict).difference(&change.removed);
    }
    conflicts.sort();
    Conflicts(conflicts)
}

fn take(entries: &mut Vec<Entry>, like: &Entry) -> Option<Entry> {
    let at = entries.iter().position(|entry| entry.is_same(like))?;
    Some(entries.remove(at))
}

/// The entries of an object; none if one of them cannot be read, since ownership that is half known protects nothing.
fn managers(object: &Value) -> Vec<Entry> {
    let entries = object.pointer("/metadata/managedFields").and_then(Value::as_array);
    entries.and_then(|entries| entries.iter().map(Entry::decode).collect()).unwrap_or_default()
}

fn unmanaged(object: &Value) -> Value {
    let mut object = object.clone();
    if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
        metadata.remove("managedFields");
    }
    object
}

fn with_managers(mut object: Value, mut entries: Vec<Entry>, before: &[Entry]) -> Value {
    for entry in &mut entries {
        entry.fields = entry.fields.difference(&NEVER_OWNED);
    }
    entries.retain(|entry| !entry.fields.is_empty());
    for entry in &mut entries {
        let unchanged = before.iter().find(|old| old.is_same(entry) && old.fields == entry.fields);
        if let Some(old) = unchanged.filter(|old| old.api_version == entry.api_version) {
            entry.time.clone_from(&old.time);
        }
    }
    entries.sort_by(|a, b| (!a.is_apply, &a.time, &a.manager).cmp(&(!b.is_apply, &b.time, &b.manager)));
    forget_ancient(&mut entries);
    if !entries.is_empty()
        && let Some(fields) = object.as_object_mut()
        && let Some(metadata) = fields.entry("metadata").or_insert_with(|| json!({})).as_object_mut()
    {
        metadata.insert("managedFields".to_owned(), entries.iter().map(Entry::encode).collect());
    }
    object
}

/// Makes one entry of the oldest writers. The entries are sorted, appliers first.
fn forget_ancient(entries: &mut Vec<Entry>) {
    let appliers = entries.iter().filter(|entry| entry.is_apply).count();
    while entries.len() - appliers > UPDATERS_MAX {
        let oldest = entries.remove(appliers);
        let next = &mut entries[appliers];
        next.fields = next.fields.union(&oldest.fields);
        ANCIENT.clone_into(&mut next.manager);
        next.subresource.clear();
    }
}

fn ignored(writer: &Writer) -> FieldSet {
    let mut set = FieldSet::default();
    for path in &writer.ignored {
        set.insert(&path.iter().map(|name| Step::field(name)).collect::<Vec<_>>());
    }
    set
}

static NEVER_OWNED: LazyLock<FieldSet> = LazyLock::new(|| {
    let mut set = FieldSet::default();
    for name in ["apiVersion", "kind", "metadata", "spec", "status"] {
        set.insert(&[Step::field(name)]);
    }
    for name in [
        "name",
        "namespace",
        "creationTimestamp",
        "selfLink",
        "uid",
        "generation",
        "managedFields",
        "resourceVersion",
        "deletionTimestamp",
        "deletionGracePeriodSeconds",
    ] {
        set.insert(&[Step::field("metadata"), Step::field(name)]);
    }
    set
});
