//! Groups and sandboxes of the embedded runtime.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::PoisonError;

use jiff::Timestamp;
use rustix::mount::{UnmountFlags, unmount};

use super::{Inner, private_dir};
use crate::error::{RuntimeError, io_error, sys_error};
use crate::helper::{self, Kind};
use crate::names::{GroupName, SandboxId};
use crate::oci;
use crate::records::{self, GroupRecord, SandboxRecord, VERSION};
use crate::spec::{GroupSpec, SandboxSpec};
use crate::status::SandboxStatus;

/// What `statfs` calls a namespace that is mounted.
const NSFS_MAGIC: i64 = 0x6e73_6673;
/// The cgroup of sandboxes without a group. A name that no group can have, as it begins with an underscore.
const NO_GROUP: &str = "_node";

impl Inner {
    fn group_path(&self, name: &GroupName) -> PathBuf {
        self.dir.join("groups").join(format!("{name}.json"))
    }

    pub(super) fn set_group(&self, group: &GroupSpec) -> Result<(), RuntimeError> {
        self.needs_root()?;
        let _one = self.sandboxes.lock().unwrap_or_else(PoisonError::into_inner);
        let path = self.group_path(&group.name);
        let record: Option<GroupRecord> = records::read(&path)?;
        let cgroup = record.map_or_else(|| self.cgroup_root.join(group.name.as_str()), |record| record.cgroup);
        self.cgroups.set(&cgroup, &group.limits)?;
        records::write(&path, &GroupRecord { version: VERSION, cgroup }, true)
    }

    pub(super) fn remove_group(&self, name: &GroupName) -> Result<(), RuntimeError> {
        let _one = self.sandboxes.lock().unwrap_or_else(PoisonError::into_inner);
        let path = self.group_path(name);
        let Some(record) = records::read::<GroupRecord>(&path)? else { return Ok(()) };
        if let Some(sandbox) = self.sandboxes()?.into_iter().find(|sandbox| sandbox.group.as_ref() == Some(name)) {
            let reason = format!("sandbox {} is still in it", sandbox.id);
            return Err(RuntimeError::invalid(format!("removing group {name}"), reason));
        }
        self.cgroups.remove(&record.cgroup)?;
        fs::remove_file(&path).map_err(io_error("remove", &path))
    }

    pub(super) fn create_sandbox(&self, spec: SandboxSpec) -> Result<(), RuntimeError> {
        self.needs_root()?;
        oci::check_sandbox(&spec)?;
        let _one = self.sandboxes.lock().unwrap_or_else(PoisonError::into_inner);
        let dir = self.sandbox_dir(&spec.id);
        let path = dir.join("sandbox.json");
        let record = match records::read::<SandboxRecord>(&path)? {
            Some(record) if record.spec != spec => return Err(RuntimeError::Exists(format!("sandbox {}", spec.id))),
            Some(record) => record,
            None => {
                let group = match &spec.group {
                    Some(name) => {
                        records::read::<GroupRecord>(&self.group_path(name))?
                            .ok_or_else(|| RuntimeError::NotFound(format!("group {name}")))?
                            .cgroup
                    }
                    None => self.cgroup_root.join(NO_GROUP),
                };
                let cgroup = group.join(spec.id.as_str());
                SandboxRecord { version: VERSION, spec, cgroup, created_at: Timestamp::now() }
            }
        };
        private_dir(&dir)?;
        self.cgroups.set(&record.cgroup, &record.spec.resources)?;
        records::write(&path, &record, false)?;
        if is_ready(&dir) {
            return Ok(());
        }
        let mut command = helper::command(&self.helper, Kind::Sandbox, &dir);
        let output = command.stdout(Stdio::piped()).output().map_err(io_error("start", &self.helper))?;
        super::containers::understand(&output.stdout, || format!("sandbox {}", record.spec.id), "created", &dir)
    }

    pub(super) fn remove_sandbox(&self, id: &SandboxId) -> Result<(), RuntimeError> {
        let dir = self.sandbox_dir(id);
        for container in self.containers()?.into_iter().filter(|container| container.sandbox == *id) {
            self.delete(&container.id)?;
        }
        let _one = self.sandboxes.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(record) = self.sandbox(id)? else { return self.discard(&dir) };
        for kind in ["ipc", "uts"] {
            let place = dir.join("ns").join(kind);
            while is_namespace(&place) {
                unmount(&place, UnmountFlags::DETACH).map_err(sys_error("unmount", &place))?;
            }
        }
        self.cgroups.remove(&record.cgroup)?;
        self.discard(&dir)
    }

    pub(super) fn remove_all(&self) -> Result<usize, RuntimeError> {
        let sandboxes = self.names::<SandboxId>("sandboxes")?;
        sandboxes.iter().try_for_each(|id| self.remove_sandbox(id))?;
        self.names::<GroupName>("groups")?.iter().try_for_each(|name| self.remove_group(name))?;
        Ok(sandboxes.len())
    }

    /// The record of a sandbox, if there is one.
    pub(super) fn sandbox(&self, id: &SandboxId) -> Result<Option<SandboxRecord>, RuntimeError> {
        records::read(&self.sandbox_dir(id).join("sandbox.json"))
    }

    pub(super) fn sandboxes(&self) -> Result<Vec<SandboxStatus>, RuntimeError> {
        let mut all = Vec::new();
        for id in self.names::<SandboxId>("sandboxes")? {
            // Removed meanwhile, or never finished.
            let Some(record) = self.sandbox(&id)? else { continue };
            let ready = is_ready(&self.sandbox_dir(&id));
            let SandboxSpec { group, labels, .. } = record.spec;
            all.push(SandboxStatus { id, group, labels, created_at: record.created_at, ready });
        }
        all.sort_by(|a, b| a.id.cmp(&b.id));
        Ok(all)
    }
}

/// Whether both namespaces are there.
fn is_ready(dir: &Path) -> bool {
    ["ipc", "uts"].iter().all(|kind| is_namespace(&dir.join("ns").join(kind)))
}

fn is_namespace(path: &Path) -> bool {
    rustix::fs::statfs(path).is_ok_and(|stat| stat.f_type == NSFS_MAGIC)
}
