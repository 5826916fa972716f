//! Makes what a sandbox's containers share besides the network: IPC and host name, kept by mounts so that no process has to.

use std::fs::{self, File};
use std::path::Path;
use std::process::ExitCode;

use rustix::mount::{UnmountFlags, mount_bind, unmount};
use rustix::thread::UnshareFlags;

use super::{Answer, answer};
use crate::error::{RuntimeError, io_error, sys_error};
use crate::records::{self, SandboxRecord};

pub(super) fn main(dir: &Path) -> ExitCode {
    match make(dir) {
        Ok(()) => {
            answer(&Answer::Done);
            ExitCode::SUCCESS
        }
        Err(error) => {
            answer(&Answer::Failed(error.to_string()));
            ExitCode::FAILURE
        }
    }
}

fn make(dir: &Path) -> Result<(), RuntimeError> {
    let record: Option<SandboxRecord> = records::read(&dir.join("sandbox.json"))?;
    let record = record.ok_or_else(|| RuntimeError::NotFound(format!("sandbox in {}", dir.display())))?;
    #[expect(
        deprecated,
        reason = "these two flags leave file descriptors shared, which is what the other form warns of"
    )]
    rustix::thread::unshare(UnshareFlags::NEWIPC | UnshareFlags::NEWUTS)
        .map_err(sys_error("make namespaces for", dir))?;
    rustix::system::sethostname(record.spec.hostname.as_bytes()).map_err(sys_error("name", dir))?;
    let folder = dir.join("ns");
    fs::create_dir_all(&folder).map_err(io_error("create", &folder))?;
    for kind in ["ipc", "uts"] {
        let place = folder.join(kind);
        // One that was left half-made.
        while unmount(&place, UnmountFlags::DETACH).is_ok() {}
        File::create(&place).map_err(io_error("create", &place))?;
        mount_bind(format!("/proc/self/ns/{kind}"), &place).map_err(sys_error("mount", &place))?;
    }
    Ok(())
}
