//! What this crate remembers in its run folder: one small file per pod, and the Services and policies last programmed. Written whole and renamed into
//! place; not synced, because the namespaces they speak of do not survive the machine either. A file that cannot be read is reported, not guessed at.

use std::io;
use std::net::Ipv6Addr;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::config::PodKey;
use crate::policies::Policies;
use crate::services::{Backends, ServicePort, Services};

const VERSION: u32 = 1;

/// One pod that has, or is about to have, a namespace.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct PodRecord {
    version: u32,
    pub(crate) address: Ipv6Addr,
    pub(crate) interface: String,
}

impl PodRecord {
    pub(crate) fn new(address: Ipv6Addr, interface: String) -> Self {
        Self { version: VERSION, address, interface }
    }
}

#[derive(Serialize, Deserialize)]
struct ServicesRecord {
    version: u32,
    services: Vec<(ServicePort, Backends)>,
}

#[derive(Serialize, Deserialize)]
struct PoliciesRecord {
    version: u32,
    policies: Policies,
}

/// The run folder.
#[derive(Clone, Debug)]
pub(crate) struct Records {
    root: PathBuf,
}

impl Records {
    pub(crate) fn open(root: &Path) -> io::Result<Self> {
        std::fs::create_dir_all(root.join("pods"))?;
        std::fs::create_dir_all(root.join("netns"))?;
        Ok(Self { root: root.to_owned() })
    }

    pub(crate) fn namespace(&self, pod: &PodKey) -> PathBuf {
        self.root.join("netns").join(pod.as_str())
    }

    fn pod(&self, pod: &PodKey) -> PathBuf {
        self.root.join("pods").join(format!("{pod}.json"))
    }

    pub(crate) fn pods(&self) -> io::Result<Vec<(PodKey, PodRecord)>> {
        let mut pods = Vec::new();
        for entry in std::fs::read_dir(self.root.join("pods"))? {
            let name = entry?.file_name();
            let key: Option<PodKey> =
                name.to_str().and_then(|name| name.strip_suffix(".json")).and_then(|key| key.parse().ok());
            let Some(key) = key else { continue };
            pods.push((key, read(&self.root.join("pods").join(&name))?));
        }
        pods.sort_by(|one, other| one.0.cmp(&other.0));
        Ok(pods)
    }

    pub(crate) fn save_pod(&self, pod: &PodKey, record: &PodRecord) -> io::Result<()> {
        write(&self.pod(pod), record)
    }

    pub(crate) fn remove_pod(&self, pod: &PodKey) -> io::Result<()> {
        absent_is_fine(std::fs::remove_file(self.pod(pod)))
    }

    pub(crate) fn services(&self) -> io::Result<Services> {
        match read::<ServicesRecord>(&self.root.join("services.json")) {
            Ok(record) => Ok(record.services.into_iter().collect()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Services::new()),
            Err(error) => Err(error),
        }
    }

    pub(crate) fn save_services(&self, services: &Services) -> io::Result<()> {
        let services = services.iter().map(|(port, backends)| (*port, backends.clone())).collect();
        write(&self.root.join("services.json"), &ServicesRecord { version: VERSION, services })
    }

    /// None at all leave every pod closed until somebody says what it may.
    pub(crate) fn policies(&self) -> io::Result<Policies> {
        match read::<PoliciesRecord>(&self.root.join("policies.json")) {
            Ok(record) => Ok(record.policies),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Policies::default()),
            Err(error) => Err(error),
        }
    }

    pub(crate) fn save_policies(&self, policies: &Policies) -> io::Result<()> {
        let record = PoliciesRecord { version: VERSION, policies: policies.clone() };
        write(&self.root.join("policies.json"), &record)
    }

    /// Takes away the folder; fails when something is still mounted in it.
    pub(crate) fn remove_all(&self) -> io::Result<()> {
        absent_is_fine(std::fs::remove_dir_all(&self.root))
    }
}

pub(crate) fn absent_is_fine(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

fn read<T: for<'a> Deserialize<'a>>(path: &Path) -> io::Result<T> {
    let bytes = std::fs::read(path)?;
    let broken = |what: String| io::Error::new(io::ErrorKind::InvalidData, format!("{}: {what}", path.display()));
    let value: serde_json::Value = serde_json::from_slice(&bytes).map_err(|error| broken(error.to_string()))?;
    if value.get("version") != Some(&VERSION.into()) {
        return Err(broken("was written by another version of atoll; stop the pods with that one".to_owned()));
    }
    serde_json::from_value(value).map_err(|error| broken(error.to_string()))
}

fn write<T: Serialize>(path: &Path, value: &T) -> io::Result<()> {
    let new = path.with_extension("new");
    std::fs::write(&new, serde_json::to_vec(value)?)?;
    std::fs::rename(&new, path)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;

    #[test]
    fn records_of_the_first_version_are_read_for_ever() {
        let dir = tempfile::tempdir().unwrap();
        let records = Records::open(dir.path()).unwrap();
        let pod = r#"{"version":1,"address":"fd00::5","interface":"atp0123456789a"}"#;
        std::fs::write(dir.path().join("pods/p1.json"), pod).unwrap();
        let services = r#"{"version":1,"services":[[{"address":"fd00::9","protocol":"tcp","port":80},
            {"endpoints":[["fd00::5",8080]],"affinity":"none"}]]}"#;
        std::fs::write(dir.path().join("services.json"), services).unwrap();
        let expected = PodRecord::new("fd00::5".parse().unwrap(), "atp0123456789a".to_owned());
        assert_eq!(records.pods().unwrap(), [("p1".parse().unwrap(), expected)]);
        let policies = r#"{"version":1,"policies":{"pods":{"p1":{"ingress":[{"peers":{"of":{"group":
            "00112233445566778899aabbccddeeff","blocks":[["fd00::","fd00::ff"]]}},"ports":{"of":{"tcp":[[80,90]],"udp":[],
            "named":[["udp","ffeeddccbbaa99887766554433221100"]]}}}],"egress":null}},
            "groups":{"00112233445566778899aabbccddeeff":["fd00::5"]},
            "named_ports":{"ffeeddccbbaa99887766554433221100":[["fd00::5",53]]}}}"#;
        std::fs::write(dir.path().join("policies.json"), policies).unwrap();
        let policies = records.policies().unwrap();
        assert_eq!((policies.pods.len(), policies.groups.len(), policies.named_ports.len()), (1, 1, 1));
        records.save_policies(&policies).unwrap();
        assert_eq!(records.policies().unwrap(), policies);
        let services = records.services().unwrap();
        assert_eq!(services.len(), 1);
        records.save_services(&services).unwrap();
        assert_eq!(records.services().unwrap(), services);
        std::fs::write(dir.path().join("pods/p1.json"), pod.replace(":1,", ":2,")).unwrap();
        assert!(records.pods().is_err());
    }
}
