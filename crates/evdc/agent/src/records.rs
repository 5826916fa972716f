//! What the agent keeps on disk per pod: the pod as last seen, so that after a restart it knows what runs here and what to stop, even
//! if the API server cannot be reached; and whether the pod holds a volume that must not be written from two nodes.

use std::io;
use std::path::Path;

use k8s_openapi::api::core::v1::Pod;
use serde::{Deserialize, Serialize};

const VERSION: u32 = 1;
const FILE: &str = "pod.json";

/// One pod.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct PodRecord {
    version: u32,
    pub(crate) exclusive: bool,
    pub(crate) pod: Pod,
}

impl PodRecord {
    pub(crate) fn new(pod: Pod, exclusive: bool) -> Self {
        Self { version: VERSION, exclusive, pod }
    }
}

pub(crate) fn save(folder: &Path, record: &PodRecord) -> io::Result<()> {
    std::fs::create_dir_all(folder)?;
    let fresh = folder.join("pod.json.new");
    std::fs::write(&fresh, serde_json::to_vec(record)?)?;
    std::fs::rename(&fresh, folder.join(FILE))
}

/// All pods that were here. A record that cannot be read is reported and left alone: its pod comes again from the API, or stays for a person.
pub(crate) fn load_all(root: &Path) -> io::Result<Vec<PodRecord>> {
    std::fs::create_dir_all(root)?;
    let mut records = Vec::new();
    for entry in std::fs::read_dir(root)? {
        let path = entry?.path().join(FILE);
        let Ok(bytes) = std::fs::read(&path) else { continue };
        match serde_json::from_slice::<PodRecord>(&bytes) {
            Ok(record) if record.version == VERSION => records.push(record),
            Ok(record) => {
                tracing::warn!(path = %path.display(), version = record.version, "a pod's record of another version")
            }
            Err(error) => tracing::warn!(path = %path.display(), %error, "a pod's record cannot be read"),
        }
    }
    Ok(records)
}

/// Forgets the pod, if nothing of it is mounted any more.
pub(crate) fn remove(folder: &Path) -> io::Result<()> {
    // Only when it is empty: what is mounted in it is a tenant's data.
    let removed = std::fs::remove_dir(folder.join("claims"));
    if let Err(error) = removed
        && error.kind() != io::ErrorKind::NotFound
    {
        return Err(error);
    }
    match std::fs::remove_dir_all(folder) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}
