//! The runtime that is built in: libcontainer, always in a process of its own, and files that say what runs.
//!
//! Nothing is kept in memory that is not on disk, so a new process on the same directory knows everything the old one knew. Work that
//! blocks (files, starting helpers) is done away from the threads that serve the network.

mod containers;
mod exec;
mod sandboxes;

use std::fs::{self, DirBuilder};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use futures_util::FutureExt;
use futures_util::future::BoxFuture;

use crate::cgroups::{CgroupRoot, Cgroups, Usage};
use crate::error::{RuntimeError, io_error};
use crate::machine::Machine;
use crate::names::{ContainerId, GroupName, SandboxId};
use crate::records::ContainerDir;
use crate::runtime::{ExecIo, ExecOutput, Runtime};
use crate::spec::{ContainerSpec, ExecSpec, GroupSpec, SandboxSpec, Signal, Target};
use crate::status::{ContainerStatus, ExecExit, Exit, SandboxStatus, State};

/// Where the embedded runtime keeps its files and finds itself.
#[derive(Clone, Debug)]
pub struct EmbeddedConfig {
    /// Its directory, made if it is not there. It must stay across restarts of the node.
    pub dir: PathBuf,
    /// Where its cgroups are.
    pub cgroup_root: CgroupRoot,
    /// The program whose `main` calls [`crate::helper_main`]: this one.
    pub helper: PathBuf,
}

impl EmbeddedConfig {
    /// This program, cgroups beside its own.
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self { dir: dir.into(), cgroup_root: CgroupRoot::default(), helper: PathBuf::from("/proc/self/exe") }
    }
}

/// The built-in runtime; clones are the same one. One process uses a directory at a time; the node's own lock sees to that.
#[derive(Clone, Debug)]
pub struct Embedded {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    dir: PathBuf,
    cgroup_root: CgroupRoot,
    helper: PathBuf,
    cgroups: Cgroups,
    machine: Machine,
    /// Sandboxes and groups are made and removed one at a time.
    sandboxes: Mutex<()>,
}

impl Embedded {
    /// Opens the runtime on its directory: finds what runs, removes what an earlier process left half-made. Says once, in the log, what
    /// this machine cannot do. Without root it opens, and refuses to run anything.
    pub fn open(config: EmbeddedConfig) -> Result<Self, RuntimeError> {
        let EmbeddedConfig { dir, cgroup_root, helper } = config;
        let dir = std::path::absolute(&dir).map_err(io_error("find", &dir))?;
        for folder in ["containers", "sandboxes", "groups", "trash"] {
            private_dir(&dir.join(folder))?;
        }
        let cgroups = Cgroups::find();
        let machine = Machine::probe(&cgroups);
        for warning in machine.warnings() {
            tracing::warn!("{warning}");
        }
        let inner = Inner { dir, cgroup_root, helper, cgroups, machine, sandboxes: Mutex::new(()) };
        inner.clean()?;
        Ok(Self { inner: Arc::new(inner) })
    }

    /// Ends and removes everything that runs here or ran, with its limits: for a node that is not to come back. Answers with the number of sandboxes.
    ///
    /// # Errors
    /// [`RuntimeError`] of the first that cannot be removed; what is removed until then stays removed.
    pub async fn remove_all(&self) -> Result<usize, RuntimeError> {
        self.blocking(Inner::remove_all).await
    }

    /// Work that blocks, with the result of its thread.
    fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Inner) -> Result<T, RuntimeError> + Send + 'static,
    ) -> BoxFuture<'static, Result<T, RuntimeError>> {
        let inner = Arc::clone(&self.inner);
        async move {
            match tokio::task::spawn_blocking(move || work(&inner)).await {
                Ok(result) => result,
                Err(error) => Err(RuntimeError::Unsupported(format!("the work was abandoned: {error}"))),
            }
        }
        .boxed()
    }
}

impl Inner {
    fn container_dir(&self, id: &ContainerId) -> ContainerDir {
        ContainerDir(self.dir.join("containers").join(id.as_str()))
    }

    fn sandbox_dir(&self, id: &SandboxId) -> PathBuf {
        self.dir.join("sandboxes").join(id.as_str())
    }

    fn needs_root(&self) -> Result<(), RuntimeError> {
        if self.machine.root {
            return Ok(());
        }
        Err(RuntimeError::Unsupported("running containers needs root: run the node as root".to_owned()))
    }

    /// Names of the folders below one of ours that are names at all.
    fn names<T: std::str::FromStr>(&self, folder: &str) -> Result<Vec<T>, RuntimeError> {
        let dir = self.dir.join(folder);
        let mut names = Vec::new();
        for entry in fs::read_dir(&dir).map_err(io_error("list", &dir))? {
            let entry = entry.map_err(io_error("list", &dir))?;
            let name = entry.file_name();
            names.extend(name.to_str().and_then(|name| name.strip_suffix(".json").unwrap_or(name).parse().ok()));
        }
        Ok(names)
    }

    /// Away in one step, then at leisure: nothing half-removed is ever taken for something.
    fn discard(&self, path: &Path) -> Result<(), RuntimeError> {
        // With its parent's name, for a sandbox and a container may have the same one.
        let name: Vec<_> = path.iter().rev().take(2).map(|part| part.to_string_lossy()).collect();
        let doomed = self.dir.join("trash").join(name.join("."));
        if doomed.exists() {
            fs::remove_dir_all(&doomed).map_err(io_error("remove", &doomed))?;
        }
        match fs::rename(path, &doomed) {
            Ok(()) => fs::remove_dir_all(&doomed).map_err(io_error("remove", &doomed)),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(io_error("remove", path)(error)),
        }
    }

    /// After an earlier process: containers that it was just making, execs that it was waiting for, what it was removing.
    fn clean(&self) -> Result<(), RuntimeError> {
        let trash = self.dir.join("trash");
        fs::remove_dir_all(&trash).map_err(io_error("empty", &trash))?;
        private_dir(&trash)?;
        for id in self.names::<ContainerId>("containers")? {
            let dir = self.container_dir(&id);
            let execs = dir.0.join("exec");
            if execs.exists() {
                fs::remove_dir_all(&execs).map_err(io_error("remove", &execs))?;
            }
            if !dir.state().exists() {
                self.undo(&dir)?;
            }
        }
        Ok(())
    }
}

/// Only for root: environments have secrets.
fn private_dir(path: &Path) -> Result<(), RuntimeError> {
    DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(io_error("create", path))
}

impl Runtime for Embedded {
    fn machine(&self) -> &Machine {
        &self.inner.machine
    }

    fn set_group(&self, group: GroupSpec) -> BoxFuture<'_, Result<(), RuntimeError>> {
        self.blocking(move |inner| inner.set_group(&group))
    }

    fn remove_group<'a>(&'a self, name: &'a GroupName) -> BoxFuture<'a, Result<(), RuntimeError>> {
        let name = name.clone();
        self.blocking(move |inner| inner.remove_group(&name))
    }

    fn create_sandbox(&self, sandbox: SandboxSpec) -> BoxFuture<'_, Result<(), RuntimeError>> {
        self.blocking(move |inner| inner.create_sandbox(sandbox))
    }

    fn remove_sandbox<'a>(&'a self, id: &'a SandboxId) -> BoxFuture<'a, Result<(), RuntimeError>> {
        let id = id.clone();
        self.blocking(move |inner| inner.remove_sandbox(&id))
    }

    fn sandboxes(&self) -> BoxFuture<'_, Result<Vec<SandboxStatus>, RuntimeError>> {
        self.blocking(Inner::sandboxes)
    }

    fn create(&self, container: ContainerSpec) -> BoxFuture<'_, Result<(), RuntimeError>> {
        self.blocking(move |inner| inner.create(container))
    }

    fn start<'a>(&'a self, id: &'a ContainerId) -> BoxFuture<'a, Result<(), RuntimeError>> {
        let id = id.clone();
        self.blocking(move |inner| inner.start(&id))
    }

    fn status<'a>(&'a self, id: &'a ContainerId) -> BoxFuture<'a, Result<ContainerStatus, RuntimeError>> {
        let id = id.clone();
        self.blocking(move |inner| inner.status(&id))
    }

    fn containers(&self) -> BoxFuture<'_, Result<Vec<ContainerStatus>, RuntimeError>> {
        self.blocking(Inner::containers)
    }

    fn wait<'a>(&'a self, id: &'a ContainerId) -> BoxFuture<'a, Result<Exit, RuntimeError>> {
        async move {
            loop {
                let supervisor = {
                    let id = id.clone();
                    self.blocking(move |inner| inner.supervisor(&id)).await?
                };
                if let Some(supervisor) = supervisor {
                    containers::ended(supervisor).await?;
                }
                if let State::Exited(exit) = self.status(id).await?.state {
                    return Ok(exit);
                }
            }
        }
        .boxed()
    }

    fn kill<'a>(
        &'a self,
        id: &'a ContainerId,
        signal: Signal,
        target: Target,
    ) -> BoxFuture<'a, Result<(), RuntimeError>> {
        let id = id.clone();
        self.blocking(move |inner| inner.kill(&id, signal, target))
    }

    fn delete<'a>(&'a self, id: &'a ContainerId) -> BoxFuture<'a, Result<(), RuntimeError>> {
        let id = id.clone();
        self.blocking(move |inner| inner.delete(&id))
    }

    fn exec<'a>(
        &'a self,
        id: &'a ContainerId,
        exec: ExecSpec,
        io: ExecIo,
    ) -> BoxFuture<'a, Result<ExecExit, RuntimeError>> {
        self.run_exec(id.clone(), exec, io).boxed()
    }

    fn exec_capture<'a>(
        &'a self,
        id: &'a ContainerId,
        exec: ExecSpec,
        bytes_max: usize,
    ) -> BoxFuture<'a, Result<ExecOutput, RuntimeError>> {
        self.capture_exec(id.clone(), exec, bytes_max).boxed()
    }

    fn usage<'a>(&'a self, id: &'a ContainerId) -> BoxFuture<'a, Result<Usage, RuntimeError>> {
        let id = id.clone();
        self.blocking(move |inner| inner.usage(&id))
    }
}
