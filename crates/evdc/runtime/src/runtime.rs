//! The trait that whatever runs containers fulfils.

use std::os::fd::OwnedFd;

use futures_util::future::BoxFuture;
use tokio::sync::oneshot;

use crate::cgroups::Usage;
use crate::error::RuntimeError;
use crate::machine::Machine;
use crate::names::{ContainerId, GroupName, SandboxId};
use crate::spec::{ContainerSpec, ExecSpec, GroupSpec, SandboxSpec, Signal, Target};
use crate::status::{ContainerStatus, ExecExit, Exit, SandboxStatus};

/// Ends of pipes, files or sockets for a further process; what is not given is empty and swallows.
#[derive(Debug, Default)]
pub struct ExecIo {
    /// Read by the process.
    pub stdin: Option<OwnedFd>,
    /// Written by the process.
    pub stdout: Option<OwnedFd>,
    /// Written by the process.
    pub stderr: Option<OwnedFd>,
    /// If given, the process has a terminal instead of all these, whose other end is sent here before it runs.
    pub terminal: Option<oneshot::Sender<OwnedFd>>,
}

/// What a further process said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExecOutput {
    /// How it ended.
    pub exit: ExecExit,
    /// The beginning of its output.
    pub stdout: Vec<u8>,
    /// The beginning of its error output.
    pub stderr: Vec<u8>,
}

/// Runs sandboxes and containers.
///
/// All calls can be repeated after a failure, and those that remove succeed when there is nothing to remove. Dropping the future of a
/// call leaves what was begun to be finished in the background, except for [`exec`](Self::exec), whose process is killed.
pub trait Runtime: Send + Sync + 'static {
    /// What this machine can do.
    fn machine(&self) -> &Machine;

    /// Makes a group or changes its limits.
    fn set_group(&self, group: GroupSpec) -> BoxFuture<'_, Result<(), RuntimeError>>;

    /// Removes a group, which must have no sandboxes.
    fn remove_group<'a>(&'a self, name: &'a GroupName) -> BoxFuture<'a, Result<(), RuntimeError>>;

    /// Makes a sandbox; the same again is the same. Its group must be there.
    fn create_sandbox(&self, sandbox: SandboxSpec) -> BoxFuture<'_, Result<(), RuntimeError>>;

    /// Removes a sandbox with its containers, killing those that run.
    fn remove_sandbox<'a>(&'a self, id: &'a SandboxId) -> BoxFuture<'a, Result<(), RuntimeError>>;

    /// All sandboxes.
    fn sandboxes(&self) -> BoxFuture<'_, Result<Vec<SandboxStatus>, RuntimeError>>;

    /// Makes a container. Its process is there but waits; nothing of the image has run.
    fn create(&self, container: ContainerSpec) -> BoxFuture<'_, Result<(), RuntimeError>>;

    /// Lets a container that was made run.
    fn start<'a>(&'a self, id: &'a ContainerId) -> BoxFuture<'a, Result<(), RuntimeError>>;

    /// How a container is.
    fn status<'a>(&'a self, id: &'a ContainerId) -> BoxFuture<'a, Result<ContainerStatus, RuntimeError>>;

    /// All containers, also those that an earlier process of this program made.
    fn containers(&self) -> BoxFuture<'_, Result<Vec<ContainerStatus>, RuntimeError>>;

    /// Waits until a container has ended.
    fn wait<'a>(&'a self, id: &'a ContainerId) -> BoxFuture<'a, Result<Exit, RuntimeError>>;

    /// Sends a signal. To a container that has ended it is none, and no error.
    fn kill<'a>(
        &'a self,
        id: &'a ContainerId,
        signal: Signal,
        target: Target,
    ) -> BoxFuture<'a, Result<(), RuntimeError>>;

    /// Removes a container, killing it if it runs. Its log stays, and so does its root file system.
    fn delete<'a>(&'a self, id: &'a ContainerId) -> BoxFuture<'a, Result<(), RuntimeError>>;

    /// Runs a further process in a running container until it ends or takes too long.
    fn exec<'a>(
        &'a self,
        id: &'a ContainerId,
        exec: ExecSpec,
        io: ExecIo,
    ) -> BoxFuture<'a, Result<ExecExit, RuntimeError>>;

    /// The same without input, keeping at most `bytes_max` of each output: for probes.
    fn exec_capture<'a>(
        &'a self,
        id: &'a ContainerId,
        exec: ExecSpec,
        bytes_max: usize,
    ) -> BoxFuture<'a, Result<ExecOutput, RuntimeError>>;

    /// What a container uses now.
    fn usage<'a>(&'a self, id: &'a ContainerId) -> BoxFuture<'a, Result<Usage, RuntimeError>>;
}
