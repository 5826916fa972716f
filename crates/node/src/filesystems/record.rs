//! What the node remembers of file systems: what each is, and where it is to be mounted.

use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use atoll_fs::{VolumeDescriptor, VolumeName};
use atoll_kv::{Entry, KeyValue, Mutation, Scan};
use atoll_wire::Versioned;
use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::FsError;

const DESCRIPTORS: &str = "fs/volume/";
const MOUNTS: &str = "fs/mount/";

/// The most file systems of one node: each that is mounted has memory of its own.
const COUNT_MAX: usize = 1000;

/// Where one is to be mounted.
#[derive(Serialize, Deserialize)]
struct MountRecord {
    path: Vec<u8>,
}

impl Versioned for MountRecord {
    const VERSION: u16 = 1;
    const NAME: &'static str = "file system mount";
}

pub(super) struct Records(Arc<dyn KeyValue>);

impl Records {
    pub(super) fn new(kv: Arc<dyn KeyValue>) -> Self {
        Self(kv)
    }

    async fn read<T: Versioned + serde::de::DeserializeOwned>(
        &self,
        prefix: &str,
        name: &VolumeName,
    ) -> Result<Option<T>, FsError> {
        let found = self.0.get(&key(prefix, name)).await?;
        found.map(|entry| decode(&entry)).transpose()
    }

    async fn put(&self, prefix: &str, name: &VolumeName, value: Vec<u8>) -> Result<(), FsError> {
        let put = Mutation::Put { key: key(prefix, name), value: value.into() };
        Ok(self.0.commit(Vec::new(), vec![put]).await.map(drop)?)
    }

    pub(super) async fn descriptor(&self, name: &VolumeName) -> Result<Option<VolumeDescriptor>, FsError> {
        self.read(DESCRIPTORS, name).await
    }

    pub(super) async fn describe(&self, name: &VolumeName, what: &VolumeDescriptor) -> Result<(), FsError> {
        if self.names().await?.len() >= COUNT_MAX {
            return Err(FsError::TooMany(COUNT_MAX));
        }
        self.put(DESCRIPTORS, name, atoll_wire::encode(what)).await
    }

    pub(super) async fn forget(&self, name: &VolumeName) -> Result<(), FsError> {
        let gone = Mutation::Delete { key: key(DESCRIPTORS, name) };
        Ok(self.0.commit(Vec::new(), vec![gone]).await.map(drop)?)
    }

    pub(super) async fn names(&self) -> Result<Vec<VolumeName>, FsError> {
        let found = self.0.scan(Scan::new(DESCRIPTORS, COUNT_MAX)).await?;
        Ok(found.iter().filter_map(|entry| name_of(DESCRIPTORS, entry)).collect())
    }

    pub(super) async fn mount(&self, name: &VolumeName) -> Result<Option<PathBuf>, FsError> {
        Ok(self.read::<MountRecord>(MOUNTS, name).await?.map(path))
    }

    pub(super) async fn mounts(&self) -> Result<Vec<(VolumeName, PathBuf)>, FsError> {
        let found = self.0.scan(Scan::new(MOUNTS, COUNT_MAX)).await?;
        let named = found.iter().filter_map(|entry| Some((name_of(MOUNTS, entry)?, entry)));
        named.map(|(name, entry)| Ok((name, path(decode(entry)?)))).collect()
    }

    pub(super) async fn wish(&self, name: &VolumeName, at: &Path) -> Result<(), FsError> {
        let record = MountRecord { path: at.as_os_str().as_bytes().to_vec() };
        self.put(MOUNTS, name, atoll_wire::encode(&record)).await
    }

    pub(super) async fn unwish(&self, name: &VolumeName) -> Result<(), FsError> {
        let gone = Mutation::Delete { key: key(MOUNTS, name) };
        Ok(self.0.commit(Vec::new(), vec![gone]).await.map(drop)?)
    }
}

fn path(record: MountRecord) -> PathBuf {
    PathBuf::from(OsString::from_vec(record.path))
}

fn key(prefix: &str, name: &VolumeName) -> Bytes {
    format!("{prefix}{name}").into()
}

fn name_of(prefix: &str, entry: &Entry) -> Option<VolumeName> {
    std::str::from_utf8(entry.key.strip_prefix(prefix.as_bytes())?).ok()?.parse().ok()
}

fn decode<T: Versioned + serde::de::DeserializeOwned>(entry: &Entry) -> Result<T, FsError> {
    let key = || String::from_utf8_lossy(&entry.key).into_owned();
    atoll_wire::decode(&entry.value).map_err(|source| FsError::Corrupt { key: key(), source })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;

    #[test]
    fn version_1_of_a_mount_is_still_read() {
        let record: MountRecord = atoll_wire::decode(&[1, 0, 2, b'/', b'x']).unwrap();
        assert_eq!(path(record), Path::new("/x"));
    }
}
