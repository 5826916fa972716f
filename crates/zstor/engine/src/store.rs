//! Typed, sealed records in the key-value store: the only way of this crate to it.
//!
//! Failure: a value that does not open is [`MetaError::WrongKey`] if the store was begun by another owner, otherwise [`MetaError::Tampered`]. Once another
//! owner's mark was found, everything is refused, so that two owners' records never mix under one set of names.

use std::sync::Arc;

use atoll_ids::OwnerId;
use atoll_keys::OwnerKey;
use atoll_kv::{Condition, Entry, KeyValue, KvError, Mutation, Revision, Scan};
use atoll_wire::Versioned;
use bytes::Bytes;

use crate::error::MetaError;
use crate::keyspace;
use crate::record::OwnerMark;
use crate::vault::Vault;

/// Records of a scan that are read at once.
pub(crate) const SCAN_STEP: usize = 256;

/// A record, where it lies, and when it was written.
#[derive(Clone, Debug)]
pub(crate) struct Stored<T> {
    pub(crate) key: Bytes,
    pub(crate) value: T,
    pub(crate) revision: Revision,
}

impl<T> Stored<T> {
    /// The condition that the record is still this one.
    pub(crate) fn unchanged(&self) -> Condition {
        Condition::Revision { key: self.key.clone(), revision: self.revision }
    }
}

pub(crate) struct Store {
    /// Where the records are; none for whoever hands them out instead (`blob.rs`).
    kv: Option<Arc<dyn KeyValue>>,
    vault: Vault,
    owner: OwnerId,
    /// The other owner whose store this is.
    foreign: Option<OwnerId>,
}

impl Store {
    /// Opens the store for an owner; a new one is marked as theirs.
    pub(crate) async fn open(kv: Arc<dyn KeyValue>, key: &OwnerKey) -> Result<Self, MetaError> {
        let mut store = Self { kv: Some(kv), vault: Vault::new(key), owner: key.id(), foreign: None };
        let found = store.mark().await?;
        store.foreign = (found != store.owner).then_some(found);
        Ok(store)
    }

    /// A store that keeps nothing, for records that are sealed and handed out.
    pub(crate) fn none(vault: Vault, owner: OwnerId) -> Self {
        Self { kv: None, vault, owner, foreign: None }
    }

    /// What seals the records.
    pub(crate) fn vault(&self) -> &Vault {
        &self.vault
    }

    fn kv(&self) -> Result<&Arc<dyn KeyValue>, MetaError> {
        let none = || KvError::Unavailable {
            path: "none".into(),
            operation: "use",
            reason: "content without a name has no key-value store".into(),
        };
        Ok(self.kv.as_ref().ok_or_else(none)?)
    }

    /// The owner the store is marked for, which is ours if there was none.
    async fn mark(&self) -> Result<OwnerId, MetaError> {
        let key = keyspace::owner();
        loop {
            if let Some(entry) = self.kv()?.get(&key).await? {
                let mark: OwnerMark = atoll_wire::decode(&entry.value)?;
                return Ok(mark.owner);
            }
            let value = atoll_wire::encode(&OwnerMark { owner: self.owner }).into();
            let put = Mutation::Put { key: key.clone(), value };
            match self.kv()?.commit(vec![Condition::Absent { key: key.clone() }], vec![put]).await {
                Ok(_) => return Ok(self.owner),
                Err(KvError::Conflict { .. }) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Refuses to go on in another owner's store.
    pub(crate) fn ours(&self) -> Result<(), MetaError> {
        match self.foreign {
            Some(stored_for) => Err(MetaError::WrongKey { stored_for, ours: self.owner }),
            None => Ok(()),
        }
    }

    pub(crate) async fn get<T: Versioned>(&self, key: Bytes) -> Result<Option<Stored<T>>, MetaError> {
        self.ours()?;
        let entry = self.kv()?.get(&key).await?;
        entry.map(|entry| self.open_entry(entry)).transpose()
    }

    /// Records whose key starts with `prefix`, after `after`, in key order.
    pub(crate) async fn scan<T: Versioned>(
        &self,
        prefix: Bytes,
        after: Option<Bytes>,
        limit: usize,
    ) -> Result<Vec<Stored<T>>, MetaError> {
        self.ours()?;
        let entries = self.kv()?.scan(Scan { prefix, after, limit }).await?;
        entries.into_iter().map(|entry| self.open_entry(entry)).collect()
    }

    /// The mutation that writes a record.
    pub(crate) fn put<T: Versioned>(&self, key: Bytes, value: &T) -> Mutation {
        let value = self.vault.seal(&key, atoll_wire::encode(value)).into();
        Mutation::Put { key, value }
    }

    pub(crate) async fn commit(
        &self,
        conditions: Vec<Condition>,
        mutations: Vec<Mutation>,
    ) -> Result<Revision, MetaError> {
        self.ours()?;
        Ok(self.kv()?.commit(conditions, mutations).await?)
    }

    fn open_entry<T: Versioned>(&self, entry: Entry) -> Result<Stored<T>, MetaError> {
        let Ok(plain) = self.vault.open(&entry.key, &entry.value) else {
            return Err(MetaError::Tampered { what: entry.key.escape_ascii().to_string() });
        };
        let value = atoll_wire::decode(&plain)?;
        Ok(Stored { key: entry.key, value, revision: entry.revision })
    }
}

/// The mutation that removes a record.
pub(crate) fn delete(key: Bytes) -> Mutation {
    Mutation::Delete { key }
}

/// The condition that a record is there.
pub(crate) fn present(key: &Bytes) -> Condition {
    Condition::Present { key: key.clone() }
}

/// The record whose change made a commit fail, if that is why it failed.
pub(crate) fn conflict(error: &MetaError) -> Option<&Bytes> {
    match error {
        MetaError::Store(KvError::Conflict { key }) => Some(key),
        _ => None,
    }
}

/// Whether a commit failed only because a record changed in between.
pub(crate) fn is_conflict(error: &MetaError) -> bool {
    conflict(error).is_some()
}
