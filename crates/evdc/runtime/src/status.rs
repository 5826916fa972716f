//! What a runtime says about what it runs.

use std::collections::BTreeMap;
use std::path::PathBuf;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::names::{ContainerId, GroupName, SandboxId};

/// A sandbox that exists.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SandboxStatus {
    /// Its name.
    pub id: SandboxId,
    /// In which group.
    pub group: Option<GroupName>,
    /// As given when it was made.
    pub labels: BTreeMap<String, String>,
    /// When it was made.
    pub created_at: Timestamp,
    /// Whether its namespaces are there; not after the machine was restarted. Creating it again makes them again.
    pub ready: bool,
}

/// A container that exists.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ContainerStatus {
    /// Its name.
    pub id: ContainerId,
    /// In which sandbox.
    pub sandbox: SandboxId,
    /// As given when it was made.
    pub attempt: u32,
    /// As given when it was made.
    pub labels: BTreeMap<String, String>,
    /// How far it is.
    pub state: State,
    /// Its first process as the host sees it, while it has one.
    pub pid: Option<u32>,
    /// When it was made.
    pub created_at: Timestamp,
    /// When it was started.
    pub started_at: Option<Timestamp>,
    /// Where its output is.
    pub log_path: PathBuf,
}

/// How far a container is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// Made, not started.
    Created,
    /// Started, not ended.
    Running,
    /// Ended.
    Exited(Exit),
}

/// How a container ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exit {
    /// What it returned; 128 and the signal's number if it was killed.
    pub code: i32,
    /// What killed it.
    pub signal: Option<i32>,
    /// Why, in one word.
    pub reason: ExitReason,
    /// Why, in a sentence; empty where the word says it all.
    pub message: String,
    /// When.
    pub finished_at: Timestamp,
}

/// Why a container ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ExitReason {
    /// With success.
    Completed,
    /// With an error or by a signal.
    Error,
    /// It used more memory than it may, and the kernel killed it or a process in it.
    OomKilled,
    /// Its supervisor is gone, by a restart of the machine or by force; what it returned is not known.
    SupervisorLost,
}

impl ExitReason {
    /// The word that Kubernetes has for it.
    pub fn as_kubernetes(self) -> &'static str {
        match self {
            Self::Completed => "Completed",
            Self::Error => "Error",
            Self::OomKilled => "OOMKilled",
            Self::SupervisorLost => "ContainerStatusUnknown",
        }
    }
}

/// How a further process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ExecExit {
    /// It returned this; 128 and the signal's number if it was killed.
    Exited(i32),
    /// It took too long and was killed.
    TimedOut,
}
