//! The [`Runtime`] trait and the embedded OCI runtime behind it (namespaces, cgroups), as a single-threaded helper process.
//!
//! A [`Runtime`] runs sandboxes (what a pod's containers share) and containers in them. [`Embedded`] is the one built in: every
//! container has a small supervisor process, which is this program again, started with arguments that only [`is_helper`] knows. The
//! supervisor creates the container with libcontainer (which forks, and must therefore be alone in its process), holds its output,
//! writes its log and records how it ended. It belongs to no one: when the node stops or is killed, containers run on, and the next
//! [`Embedded`] on the same directory finds them all.
//!
//! A program that uses [`Embedded`] must begin its `main` with
//!
//! ```no_run
//! # use std::process::ExitCode;
//! fn main() -> ExitCode {
//!     let arguments: Vec<_> = std::env::args_os().collect();
//!     if atoll_runtime::is_helper(&arguments) {
//!         return atoll_runtime::helper_main(&arguments);
//!     }
//!     // … threads and everything else from here on.
//!     ExitCode::SUCCESS
//! }
//! ```
//!
//! Not here: pods and their restart policies, probes' schedules, networks (a container joins a namespace that it is given), images.
//! Refused by the shape of [`ContainerSpec`]: privileged containers, terminals but for [`Runtime::exec`], seccomp profiles.

mod capabilities;
mod cgroups;
mod embedded;
mod error;
mod helper;
pub mod logs;
mod machine;
mod names;
mod oci;
mod records;
mod runtime;
mod spec;
mod status;

pub use atoll_images::User;
pub use cgroups::{CgroupRoot, Usage};
pub use embedded::{Embedded, EmbeddedConfig};
pub use error::{ErrorKind, RuntimeError};
pub use helper::{helper_main, is_helper};
pub use machine::Machine;
pub use names::{ContainerId, GroupName, NameError, SandboxId};
pub use runtime::{ExecIo, ExecOutput, Runtime};
pub use spec::{
    Capabilities, ContainerSpec, ExecSpec, GroupSpec, LogTarget, Mount, MountSource, Network, PidNamespace, Resources,
    Rlimit, SandboxSpec, Signal, Target,
};
pub use status::{ContainerStatus, ExecExit, Exit, ExitReason, SandboxStatus, State};
