//! Objects in the key-value store: their keys, their form, reading, and writing with conditions.
//!
//! An object lies as JSON without its `resourceVersion`: that is the revision which wrote it. Its key is
//! `<prefix>objects/<group>/<plural>/[<namespace>/]<name>`; names contain no slash.

use std::sync::Arc;

use atoll_kv::{
    Bytes, Change, ChangeStream, Condition, Entry, KvError, Mutation, Revision, SCAN_ENTRIES_MAX, Scan, Watch,
};
use serde_json::Value;

use crate::{
    error::ApiError,
    kinds::Resource,
    object::{meta, name, namespace, set_revision},
};

/// Entries read at once when a whole list is wanted: bounds what a single snapshot read holds.
const CHUNK_ENTRIES: usize = if SCAN_ENTRIES_MAX < 2000 { SCAN_ENTRIES_MAX } else { 2000 };

/// Objects in the key-value store.
#[derive(Clone)]
pub(crate) struct Store {
    kv: Arc<dyn Watch>,
    prefix: String,
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Store").field("prefix", &self.prefix).finish_non_exhaustive()
    }
}

/// A part of a list.
#[derive(Debug)]
pub(crate) struct Listed {
    pub(crate) objects: Vec<Value>,
    pub(crate) revision: Revision,
    /// Where to go on, when there is more.
    pub(crate) after: Option<Bytes>,
}

impl Store {
    pub(crate) fn new(kv: Arc<dyn Watch>, prefix: String) -> Self {
        Self { kv, prefix }
    }

    pub(crate) async fn revision(&self) -> Result<Revision, ApiError> {
        Ok(self.kv.revision().await?)
    }

    /// Prefix of all objects of a resource, or of those in a namespace.
    pub(crate) fn prefix(&self, resource: &Resource, namespace: &str) -> Bytes {
        let mut prefix = format!("{}objects/{}/", self.prefix, resource.storage);
        if resource.namespaced && !namespace.is_empty() {
            prefix.push_str(namespace);
            prefix.push('/');
        }
        prefix.into()
    }

    pub(crate) fn key(&self, resource: &Resource, namespace: &str, name: &str) -> Bytes {
        let prefix = self.prefix(resource, namespace);
        [&prefix[..], name.as_bytes()].concat().into()
    }

    /// Key of something that is no object, such as an allocated address.
    pub(crate) fn side_key(&self, name: &str) -> Bytes {
        format!("{}{name}", self.prefix).into()
    }

    /// An object by its name.
    pub(crate) async fn get(
        &self,
        resource: &Resource,
        namespace: &str,
        name: &str,
    ) -> Result<Option<Value>, ApiError> {
        match self.kv.get(&self.key(resource, namespace, name)).await? {
            Some(entry) => Ok(Some(decode(&entry)?)),
            None => Ok(None),
        }
    }

    /// Up to `limit` objects that are wanted, all from one revision.
    pub(crate) async fn list(
        &self,
        prefix: &Bytes,
        after: Option<Bytes>,
        limit: usize,
        at: Option<Revision>,
        wanted: impl Fn(&Value) -> bool,
    ) -> Result<Listed, ApiError> {
        let mut listed = Listed { objects: Vec::new(), revision: at.unwrap_or(0), after };
        let mut at = at;
        loop {
            // One more than wanted tells whether there is more.
            let chunk = CHUNK_ENTRIES.min(limit.saturating_add(1)).max(2);
            let mut scan = Scan::new(prefix.clone(), chunk);
            scan.after = listed.after.take();
            let page = self.kv.scan_at(scan, at).await?;
            listed.revision = page.revision;
            at = Some(page.revision);
            let is_last = page.entries.len() < chunk;
            for entry in page.entries {
                if listed.objects.len() == limit {
                    return Ok(listed);
                }
                let object = decode(&entry)?;
                if wanted(&object) {
                    listed.objects.push(object);
                }
                listed.after = Some(entry.key);
            }
            if is_last {
                listed.after = None;
                return Ok(listed);
            }
        }
    }

    /// All objects of a resource, at the last revision.
    pub(crate) async fn all(&self, resource: &Resource, namespace: &str) -> Result<Vec<Value>, ApiError> {
        Ok(self.list(&self.prefix(resource, namespace), None, usize::MAX, None, |_| true).await?.objects)
    }

    /// How many objects of a resource there are, counted up to this many, or to a chunk.
    pub(crate) async fn count(&self, resource: &Resource, up_to: usize) -> Result<usize, ApiError> {
        let scan = Scan::new(self.prefix(resource, ""), up_to.clamp(1, CHUNK_ENTRIES));
        Ok(self.kv.scan_at(scan, None).await?.entries.len())
    }

    /// Changes of keys with this prefix.
    pub(crate) fn watch(&self, prefix: Bytes, after: Revision) -> Result<ChangeStream, ApiError> {
        Ok(self.kv.watch(prefix, after)?)
    }

    pub(crate) async fn commit(
        &self,
        conditions: Vec<Condition>,
        mutations: Vec<Mutation>,
    ) -> Result<Revision, KvError> {
        self.kv.commit(conditions, mutations).await
    }

    /// The mutation that writes an object.
    pub(crate) fn put(&self, resource: &Resource, object: &Value) -> Mutation {
        let mut stored = object.clone();
        meta(&mut stored).remove("resourceVersion");
        let key = self.key(resource, namespace(object), name(object));
        Mutation::Put { key, value: stored.to_string().into() }
    }

    /// A value that is no object.
    pub(crate) async fn side(&self, name: &str) -> Result<Option<Bytes>, KvError> {
        Ok(self.kv.get(&self.side_key(name)).await?.map(|entry| entry.value))
    }
}

fn parse(key: &Bytes, value: &[u8], revision: Revision) -> Result<Value, ApiError> {
    let mut object: Value = serde_json::from_slice(value)
        .map_err(|error| ApiError::internal(format!("the stored object {} is damaged: {error}", key.escape_ascii())))?;
    set_revision(&mut object, revision);
    Ok(object)
}

fn decode(entry: &Entry) -> Result<Value, ApiError> {
    parse(&entry.key, &entry.value, entry.revision)
}

/// The object before and after a change. A deleted object bears the revision of its deletion.
pub(crate) fn decode_change(change: &Change) -> Result<(Option<Value>, Option<Value>), ApiError> {
    let old = change.old.as_ref().map(|old| parse(&change.key, &old.value, change.revision)).transpose()?;
    let new = change.new.as_ref().map(|new| parse(&change.key, new, change.revision)).transpose()?;
    Ok((old, new))
}
