//! What a node remembers of names: those that its owner gave, and what the nodes that it knows were last called, so that names hold from the first moment after a
//! restart and while a node is away.

use std::collections::BTreeMap;
use std::sync::Arc;

use atoll_ids::{NodeId, OwnerId};
use atoll_kv::{KeyValue, KvError, Mutation, SCAN_ENTRIES_MAX, Scan};
use atoll_wire::{DecodeError, Versioned, decode, encode};
use serde::{Deserialize, Serialize};

use crate::label::GivenName;
use crate::zone::{Book, KnownNode};

/// Names given lie under `names/given/<name>`.
const GIVEN: &str = "names/given/";

/// What nodes were called lies under `names/seen/<node id>`.
const SEEN: &str = "names/seen/";

/// More names are not given by hand; each costs memory and time at every change.
const GIVEN_MAX: usize = 4096;

/// Why names cannot be read or kept.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The store.
    #[error(transparent)]
    Kv(#[from] KvError),
    /// A record of another version or damaged.
    #[error("the record {key}: {source}")]
    Corrupt {
        /// Its key.
        key: String,
        /// What is wrong with it.
        source: DecodeError,
    },
    /// Too many.
    #[error("no more than {GIVEN_MAX} names can be given; take one back first")]
    TooMany,
}

/// Whom a given name stands for: an owner's or a node's id, as the name's form says.
#[derive(Serialize, Deserialize)]
struct GivenRecord([u8; 32]);

impl Versioned for GivenRecord {
    const VERSION: u16 = 1;
    const NAME: &'static str = "given name";
}

/// What a node was last called, and by whose signature it was whose.
#[derive(Serialize, Deserialize)]
struct SeenRecord {
    owner: OwnerId,
    name: Option<String>,
}

impl Versioned for SeenRecord {
    const VERSION: u16 = 1;
    const NAME: &'static str = "seen name";
}

/// See the module's documentation. Cheap to clone.
#[derive(Clone)]
pub struct Store(Arc<dyn KeyValue>);

impl Store {
    /// Remembers in `kv`.
    pub fn new(kv: Arc<dyn KeyValue>) -> Self {
        Self(kv)
    }

    /// The names that were given.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn book(&self) -> Result<Book, StoreError> {
        let mut book = Book::default();
        for (name, GivenRecord(id)) in self.all::<GivenRecord>(GIVEN).await? {
            match name.parse() {
                Ok(GivenName::Owner(label)) => drop(book.owners.insert(label, OwnerId::from_bytes(id))),
                Ok(GivenName::Alias(label)) => drop(book.aliases.insert(label, NodeId::from_bytes(id))),
                // It was a name once.
                Err(error) => tracing::warn!(name, %error, "a given name is left out"),
            }
        }
        Ok(book)
    }

    /// Gives an owner or a node a name; one of the same text is replaced.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn give(&self, name: &GivenName, id: [u8; 32]) -> Result<(), StoreError> {
        let key = format!("{GIVEN}{name}");
        let given = self.0.scan(Scan::new(GIVEN, GIVEN_MAX)).await?;
        if given.len() == GIVEN_MAX && !given.iter().any(|entry| entry.key == key) {
            return Err(StoreError::TooMany);
        }
        let put = Mutation::Put { key: key.into(), value: encode(&GivenRecord(id)).into() };
        Ok(self.0.commit(Vec::new(), vec![put]).await.map(drop)?)
    }

    /// Takes a name back. Gives whether there was one.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn take_back(&self, name: &GivenName) -> Result<bool, StoreError> {
        let key = format!("{GIVEN}{name}");
        if self.0.get(key.as_bytes()).await?.is_none() {
            return Ok(false);
        }
        self.0.commit(Vec::new(), vec![Mutation::Delete { key: key.into() }]).await?;
        Ok(true)
    }

    /// What nodes were last called.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn seen(&self) -> Result<BTreeMap<NodeId, KnownNode>, StoreError> {
        let all = self.all::<SeenRecord>(SEEN).await?;
        let known = |(node, SeenRecord { owner, name }): (String, SeenRecord)| {
            let node: NodeId = node.parse().ok()?;
            Some((node, KnownNode { node, owner: Some(owner), name }))
        };
        Ok(all.into_iter().filter_map(known).collect())
    }

    /// Remembers what these are called, and forgets those that are gone.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn remember(&self, changed: &[KnownNode], gone: &[NodeId]) -> Result<(), StoreError> {
        let key = |node: &NodeId| format!("{SEEN}{node}").into();
        let put = |known: &KnownNode| {
            let record = SeenRecord { owner: known.owner?, name: known.name.clone() };
            Some(Mutation::Put { key: key(&known.node), value: encode(&record).into() })
        };
        let delete = gone.iter().map(|node| Mutation::Delete { key: key(node) });
        let mutations: Vec<Mutation> = changed.iter().filter_map(put).chain(delete).collect();
        if mutations.is_empty() {
            return Ok(());
        }
        Ok(self.0.commit(Vec::new(), mutations).await.map(drop)?)
    }

    async fn all<T: Versioned>(&self, prefix: &str) -> Result<Vec<(String, T)>, StoreError> {
        let mut all = Vec::new();
        let mut scan = Scan::new(prefix.to_owned(), SCAN_ENTRIES_MAX);
        loop {
            let page = self.0.scan(scan.clone()).await?;
            for entry in &page {
                let key = String::from_utf8_lossy(&entry.key).into_owned();
                let record = decode(&entry.value);
                let record = record.map_err(|source| StoreError::Corrupt { key: key.clone(), source })?;
                all.push((key.strip_prefix(prefix).unwrap_or_default().to_owned(), record));
            }
            match page.last() {
                Some(last) if page.len() == SCAN_ENTRIES_MAX => scan = scan.after(last.key.clone()),
                _ => return Ok(all),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use atoll_kv::{Embedded, EmbeddedConfig};

    use super::*;

    fn store(folder: &std::path::Path) -> Store {
        Store::new(Arc::new(Embedded::open(folder, EmbeddedConfig::default()).unwrap()))
    }

    #[tokio::test]
    async fn names_are_kept_replaced_and_taken_back() {
        let folder = tempfile::tempdir().unwrap();
        let store = store(folder.path());
        let (anna, wiki): (GivenName, GivenName) = ("anna".parse().unwrap(), "wiki.mine".parse().unwrap());
        store.give(&anna, [1; 32]).await.unwrap();
        store.give(&anna, [2; 32]).await.unwrap();
        store.give(&wiki, [3; 32]).await.unwrap();
        let book = store.book().await.unwrap();
        assert_eq!(book.owners.into_values().collect::<Vec<_>>(), [OwnerId::from_bytes([2; 32])]);
        assert_eq!(book.aliases.into_values().collect::<Vec<_>>(), [NodeId::from_bytes([3; 32])]);
        assert!(store.take_back(&anna).await.unwrap());
        assert!(!store.take_back(&anna).await.unwrap());
        assert!(store.book().await.unwrap().owners.is_empty());
    }

    #[tokio::test]
    async fn what_nodes_were_called_is_remembered() {
        let folder = tempfile::tempdir().unwrap();
        let store = store(folder.path());
        let known = |number: u8, name: &str| KnownNode {
            node: NodeId::from_bytes([number; 32]),
            owner: Some(OwnerId::from_bytes([9; 32])),
            name: Some(name.to_owned()),
        };
        store.remember(&[known(1, "a"), known(2, "b")], &[]).await.unwrap();
        store.remember(&[known(1, "c")], &[known(2, "").node]).await.unwrap();
        assert_eq!(store.seen().await.unwrap().into_values().collect::<Vec<_>>(), [known(1, "c")]);
    }
}
