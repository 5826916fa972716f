//! The head of a volume: which checkpoint and which journal segments are the file system, and who may write.
//!
//! The head is one small value that is only ever replaced by compare-and-set ([`HeadStore::swing`]). Mounting raises its epoch; whoever mounted earlier finds
//! at its next swing that the head has moved and may write no more. That is the fence, and it needs nothing of the nodes that keep shards.
//!
//! The head is sealed for the volume (AES-256-GCM-SIV under a key derived from the volume's secret, the volume's name and owner as associated data): whoever keeps
//! it sees its size and when it changes, and can withhold it or bring an old one back, but not make one. A head store must not do the latter;
//! the file system cannot notice.

use std::sync::Arc;

use atoll_engine::BlobManifest;
use atoll_kv::{Condition, KeyValue, KvError, Mutation};
use atoll_wire::Versioned;
use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use serde::{Deserialize, Serialize};
use thiserror::Error;
use zeroize::Zeroizing;

use crate::secret::{VolumeConfig, VolumeName, VolumeSecret, open, seal};

/// Largest head in bytes, so that it fits wherever small values are kept: a key-value store, a Kubernetes object.
pub const HEAD_BYTES_MAX: usize = 64 << 10;
/// Purpose of the key that seals heads; part of the stored format.
const CONTEXT: &str = "atoll 2026-11 fs heads v1";

/// A head as it is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredHead {
    /// What `swing` wants to see again; its text is the store's own business.
    pub revision: String,
    /// The sealed head.
    pub bytes: Bytes,
}

/// Why a head was not loaded or swung.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum HeadError {
    /// It is not (any more) what was expected: somebody else has swung it.
    #[error("the volume's head was changed by another node")]
    Moved,
    /// The store does not answer. The swing may have happened.
    #[error("the volume's head cannot be reached: {why}")]
    Unavailable {
        /// What the store said.
        why: String,
    },
}

/// Keeps the head of one volume: linearizable, durable when `swing` returns.
pub trait HeadStore: Send + Sync + 'static {
    /// The head; `None` if there is none yet.
    fn load(&self) -> BoxFuture<'_, Result<Option<StoredHead>, HeadError>>;

    /// Replaces the head that has this revision (`None`: makes the first) and gives the new revision.
    fn swing(&self, expected: Option<String>, head: Bytes) -> BoxFuture<'_, Result<String, HeadError>>;

    /// Removes the head that has this revision.
    fn remove(&self, expected: String) -> BoxFuture<'_, Result<(), HeadError>>;
}

/// Keeps a head in a key-value store, under `fs/head/NAME`.
pub struct KvHeadStore {
    kv: Arc<dyn KeyValue>,
    key: Bytes,
}

impl KvHeadStore {
    /// The head of the volume with this name.
    #[must_use]
    pub fn new(kv: Arc<dyn KeyValue>, name: &VolumeName) -> Self {
        Self { kv, key: format!("fs/head/{name}").into() }
    }

    async fn commit(&self, expected: Option<String>, mutation: Mutation) -> Result<String, HeadError> {
        let key = self.key.clone();
        let condition = match expected {
            None => Condition::Absent { key },
            Some(text) => Condition::Revision { key, revision: text.parse().map_err(|_| HeadError::Moved)? },
        };
        match self.kv.commit(vec![condition], vec![mutation]).await {
            Ok(revision) => Ok(revision.to_string()),
            Err(KvError::Conflict { .. }) => Err(HeadError::Moved),
            Err(error) => Err(unavailable(&error)),
        }
    }
}

fn unavailable(error: &KvError) -> HeadError {
    HeadError::Unavailable { why: error.to_string() }
}

impl HeadStore for KvHeadStore {
    fn load(&self) -> BoxFuture<'_, Result<Option<StoredHead>, HeadError>> {
        async {
            let entry = self.kv.get(&self.key).await.map_err(|error| unavailable(&error))?;
            Ok(entry.map(|entry| StoredHead { revision: entry.revision.to_string(), bytes: entry.value }))
        }
        .boxed()
    }

    fn swing(&self, expected: Option<String>, head: Bytes) -> BoxFuture<'_, Result<String, HeadError>> {
        self.commit(expected, Mutation::Put { key: self.key.clone(), value: head }).boxed()
    }

    fn remove(&self, expected: String) -> BoxFuture<'_, Result<(), HeadError>> {
        self.commit(Some(expected), Mutation::Delete { key: self.key.clone() }).map(|done| done.map(drop)).boxed()
    }
}

/// A segment that the head names.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Segment {
    pub(crate) manifest: BlobManifest,
    pub(crate) bytes: u64,
}

/// What the file system is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Head {
    /// How often the volume was mounted.
    pub(crate) epoch: u64,
    /// How often the head was swung.
    pub(crate) sequence: u64,
    pub(crate) checkpoint: Option<Segment>,
    /// What happened since, in order.
    pub(crate) journal: Vec<Segment>,
}

impl Versioned for Head {
    const VERSION: u16 = 1;
    const NAME: &'static str = "file system head";
}

impl Head {
    pub(crate) fn segments(&self) -> impl Iterator<Item = &Segment> {
        self.checkpoint.iter().chain(&self.journal)
    }

    pub(crate) fn segments_mut(&mut self) -> impl Iterator<Item = &mut Segment> {
        self.checkpoint.iter_mut().chain(&mut self.journal)
    }
}

/// Decodes an opened head, for fuzzing: whether it is one.
#[must_use]
pub fn decode_head(bytes: &[u8]) -> bool {
    atoll_wire::decode::<Head>(bytes).is_ok()
}

/// Seals and opens the heads of one volume.
pub(crate) struct HeadSeal {
    key: Zeroizing<[u8; 32]>,
    place: Vec<u8>,
}

impl HeadSeal {
    pub(crate) fn new(secret: &VolumeSecret, config: &VolumeConfig) -> Self {
        let place = [b"head ".as_slice(), config.owner.as_bytes(), config.name.as_str().as_bytes()].concat();
        Self { key: secret.derive(CONTEXT), place }
    }

    pub(crate) fn seal(&self, head: &Head) -> Bytes {
        seal(&self.key, &self.place, atoll_wire::encode(head)).into()
    }

    pub(crate) fn open(&self, bytes: &[u8]) -> Option<Head> {
        if bytes.len() > HEAD_BYTES_MAX {
            return None;
        }
        atoll_wire::decode(&open(&self.key, &self.place, bytes)?).ok()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use atoll_ids::OwnerId;

    use super::*;

    fn seal(secret: u8, name: &str) -> HeadSeal {
        let config = VolumeConfig::new(name.parse().unwrap(), OwnerId::from_bytes([7; 32]), "4+2".parse().unwrap());
        HeadSeal::new(&VolumeSecret::from_bytes([secret; 32]), &config)
    }

    #[test]
    fn a_head_opens_for_its_volume_only_and_version_1_is_still_read() {
        let segment = |byte: u8| Segment { manifest: BlobManifest::from_bytes(vec![byte].into()), bytes: byte.into() };
        let head = Head { epoch: 1, sequence: 300, checkpoint: Some(segment(5)), journal: vec![segment(6)] };
        assert_eq!(atoll_wire::encode(&head), [1, 0, 1, 172, 2, 1, 1, 5, 5, 1, 1, 6, 6]);
        assert!(decode_head(&atoll_wire::encode(&head)));
        let sealed = seal(1, "a").seal(&head);
        assert_eq!(seal(1, "a").open(&sealed), Some(head));
        assert_eq!(seal(1, "b").open(&sealed), None);
        assert_eq!(seal(2, "a").open(&sealed), None);
        assert_eq!(seal(1, "a").open(&sealed[..sealed.len() - 1]), None);
        assert_eq!(seal(1, "a").open(&vec![0; HEAD_BYTES_MAX + 1]), None);
    }
}
