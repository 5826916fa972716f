//! The runtime's files, and who a process is across restarts.
//!
//! ```text
//! sandboxes/<id>/sandbox.json        what was asked for and where its cgroup is
//! sandboxes/<id>/ns/{ipc,uts}        its namespaces, mounted so that they stay
//! groups/<name>.json                 a group's cgroup
//! containers/<id>/container.json     what was asked for
//! containers/<id>/bundle/            what libcontainer is given
//! containers/<id>/oci/               what libcontainer keeps
//! containers/<id>/state.json         the supervisor and the first process, written by the supervisor
//! containers/<id>/exit.json          how it ended, written once and flushed to disk
//! containers/<id>/control            the supervisor's socket
//! containers/<id>/supervisor.log     what the supervisor complained about
//! ```
//!
//! Every record has a version and appears by one rename. A process is named by number, start time and boot, so that a number which the
//! kernel has given away again is never taken for the old process.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use rustix::process::{Pid, PidfdFlags, Signal as SystemSignal, pidfd_open, pidfd_send_signal};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::error::{RuntimeError, io_error};
use crate::spec::{ContainerSpec, SandboxSpec, Signal};
use crate::status::Exit;

/// Version of all records.
pub(crate) const VERSION: u32 = 1;
/// Longest record: a container's environment and mounts can be long, not longer than this.
const BYTES_MAX: u64 = 4 << 20;
/// In `/proc/<pid>/stat` after the closing parenthesis: state is the first field, the start time the twentieth.
const START_FIELD: usize = 19;

/// A process that is still the same one later.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ProcessId {
    pub(crate) pid: i32,
    /// In clock ticks since the machine started.
    start: u64,
    boot: String,
}

impl ProcessId {
    /// The process that has this number now.
    pub(crate) fn of(pid: i32) -> Option<Self> {
        Some(Self { pid, start: start_of(pid)?, boot: boot()? })
    }

    /// A handle on the process if it runs. The check follows the opening, so the handle is on the right one.
    pub(crate) fn open(&self) -> Option<OwnedFd> {
        let handle = pidfd_open(Pid::from_raw(self.pid)?, PidfdFlags::empty()).ok()?;
        let same = boot().is_some_and(|boot| boot == self.boot) && start_of(self.pid) == Some(self.start);
        same.then_some(handle)
    }

    pub(crate) fn is_alive(&self) -> bool {
        // A zombie has ended; nobody may have waited for it yet.
        self.open().is_some() && !is_zombie(self.pid)
    }

    /// Sends a signal; whether there was a process to get it.
    pub(crate) fn signal(&self, signal: Signal) -> Result<bool, rustix::io::Errno> {
        let Some(handle) = self.open() else { return Ok(false) };
        match pidfd_send_signal(&handle, system_signal(signal)?) {
            Ok(()) => Ok(true),
            Err(rustix::io::Errno::SRCH) => Ok(false),
            Err(errno) => Err(errno),
        }
    }
}

/// The kernel's signal of that number.
pub(crate) fn system_signal(signal: Signal) -> Result<SystemSignal, rustix::io::Errno> {
    SystemSignal::from_named_raw(signal.number()).ok_or(rustix::io::Errno::INVAL)
}

fn stat_fields(pid: i32) -> Option<Vec<String>> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name of the program may itself have spaces and parentheses.
    let (_, fields) = stat.rsplit_once(") ")?;
    Some(fields.split(' ').map(str::to_owned).collect())
}

fn start_of(pid: i32) -> Option<u64> {
    stat_fields(pid)?.get(START_FIELD)?.parse().ok()
}

fn is_zombie(pid: i32) -> bool {
    stat_fields(pid).is_none_or(|fields| matches!(fields[0].as_str(), "Z" | "X"))
}

fn boot() -> Option<String> {
    let id = fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
    Some(id.trim().to_owned())
}

/// A sandbox as it was asked for.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct SandboxRecord {
    pub(crate) version: u32,
    pub(crate) spec: SandboxSpec,
    /// Below the mount of every cgroup hierarchy.
    pub(crate) cgroup: PathBuf,
    pub(crate) created_at: Timestamp,
}

/// A group.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct GroupRecord {
    pub(crate) version: u32,
    pub(crate) cgroup: PathBuf,
}

/// A container as it was asked for.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct ContainerRecord {
    pub(crate) version: u32,
    pub(crate) spec: ContainerSpec,
    pub(crate) cgroup: PathBuf,
    pub(crate) created_at: Timestamp,
}

/// A container as its supervisor sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct StateRecord {
    pub(crate) version: u32,
    pub(crate) supervisor: ProcessId,
    pub(crate) init: ProcessId,
    pub(crate) started_at: Option<Timestamp>,
}

/// How a container ended.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct ExitRecord {
    pub(crate) version: u32,
    pub(crate) exit: Exit,
}

/// A container's folder.
#[derive(Clone, Debug)]
pub(crate) struct ContainerDir(pub(crate) PathBuf);

impl ContainerDir {
    pub(crate) fn record(&self) -> PathBuf {
        self.0.join("container.json")
    }

    pub(crate) fn bundle(&self) -> PathBuf {
        self.0.join("bundle")
    }

    pub(crate) fn oci(&self) -> PathBuf {
        self.0.join("oci")
    }

    pub(crate) fn state(&self) -> PathBuf {
        self.0.join("state.json")
    }

    pub(crate) fn exit(&self) -> PathBuf {
        self.0.join("exit.json")
    }

    pub(crate) fn supervisor_log(&self) -> PathBuf {
        self.0.join("supervisor.log")
    }
}

/// Reads a record, if there is one.
pub(crate) fn read<T: DeserializeOwned>(path: &Path) -> Result<Option<T>, RuntimeError> {
    let mut bytes = Vec::new();
    match File::open(path).and_then(|file| file.take(BYTES_MAX).read_to_end(&mut bytes)) {
        Ok(_) => {}
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(io_error("read", path)(error)),
    }
    let record = |reason: String| RuntimeError::Record { path: path.to_owned(), reason };
    let value: serde_json::Value = serde_json::from_slice(&bytes).map_err(|error| record(error.to_string()))?;
    match value.get("version").and_then(serde_json::Value::as_u64) {
        Some(version) if version == u64::from(VERSION) => {}
        version => return Err(record(format!("its version is {version:?}, a newer Atoll wrote it"))),
    }
    serde_json::from_value(value).map(Some).map_err(|error| record(error.to_string()))
}

/// Writes a record in one step. `durable` ones survive the machine's sudden end, too.
pub(crate) fn write(path: &Path, record: &impl Serialize, durable: bool) -> Result<(), RuntimeError> {
    let bytes = serde_json::to_vec(record)
        .map_err(|error| RuntimeError::Record { path: path.to_owned(), reason: error.to_string() })?;
    let unfinished = path.with_extension("new");
    let mut file = File::create(&unfinished).map_err(io_error("create", &unfinished))?;
    file.write_all(&bytes).map_err(io_error("write", &unfinished))?;
    if durable {
        file.sync_data().map_err(io_error("flush", &unfinished))?;
    }
    fs::rename(&unfinished, path).map_err(io_error("create", path))?;
    let folder = path.parent().filter(|_| durable);
    folder.map_or(Ok(()), |folder| File::open(folder).and_then(|it| it.sync_all()).map_err(io_error("flush", folder)))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn a_process_is_known_again_and_no_other_taken_for_it() {
        let own = ProcessId::of(i32::try_from(std::process::id()).unwrap()).unwrap();
        assert!(own.is_alive());
        assert!(!ProcessId { start: own.start + 1, ..own.clone() }.is_alive());
        assert!(!ProcessId { boot: "another".to_owned(), ..own }.is_alive());
        let mut child = std::process::Command::new("/proc/self/exe")
            .arg("--list")
            .stdout(std::process::Stdio::null())
            .spawn()
            .unwrap();
        let process = ProcessId::of(i32::try_from(child.id()).unwrap()).unwrap();
        child.wait().unwrap();
        assert!(!process.is_alive());
        assert!(!process.signal(Signal::KILL).unwrap());
    }

    #[test]
    fn records_of_other_versions_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("r.json");
        assert!(read::<GroupRecord>(&path).unwrap().is_none());
        let record = GroupRecord { version: VERSION, cgroup: PathBuf::from("/x") };
        write(&path, &record, true).unwrap();
        assert_eq!(read::<GroupRecord>(&path).unwrap().unwrap().cgroup, record.cgroup);
        write(&path, &GroupRecord { version: 2, ..record }, false).unwrap();
        assert!(read::<GroupRecord>(&path).is_err());
        // What version 1 wrote must be read for ever.
        fs::write(&path, r#"{"version":1,"cgroup":"/atoll/lease"}"#).unwrap();
        assert!(read::<GroupRecord>(&path).unwrap().is_some());
    }
}
