//! What is known of a pod on this node, as values: the input of [`crate::plan`] and [`crate::status`] besides the pod itself. Filled by the worker.

use std::collections::BTreeMap;
use std::net::Ipv6Addr;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Container, Pod, PodSpec};

/// A container that ran this long and ends is no longer in a crash loop (kubelet: twice the longest back-off).
const CALM: SignedDuration = SignedDuration::from_mins(10);

/// The longest time between two starts (kubelet's).
const BACK_OFF_MAX: SignedDuration = SignedDuration::from_mins(5);

/// The first delay; each further crash doubles it (kubelet's).
const BACK_OFF_FIRST: SignedDuration = SignedDuration::from_secs(10);

/// Everything the worker knows.
#[derive(Clone, Debug, Default)]
pub struct Observed {
    /// Network, volumes and sandbox are there.
    pub prepared: bool,
    /// Why they are not yet, when the last try failed.
    pub blocked: Option<Waiting>,
    /// The pod's address.
    pub address: Option<Ipv6Addr>,
    /// When this node first saw the pod.
    pub start_time: Option<Timestamp>,
    /// By container name, init containers among them.
    pub containers: BTreeMap<String, History>,
    /// The API has been out of reach for so long that what must not run twice has to stop.
    pub cut_off: bool,
    /// Whether the pod holds a volume that only one node may write.
    pub exclusive: bool,
    /// The pod is not wanted here any more, though nobody asked to delete it here: it is gone from the API.
    pub gone: bool,
    /// Everything of it on this node was removed.
    pub removed: bool,
    /// Why the whole pod failed on this node's decision (reason, message).
    pub failure: Option<(String, String)>,
}

/// Something that does not go on now.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Waiting {
    /// As kubelet words it: `ImagePullBackOff`, `CreateContainerConfigError`, ….
    pub reason: String,
    /// For a person.
    pub message: String,
    /// When to try again.
    pub until: Timestamp,
}

/// One container's life so far.
#[derive(Clone, Debug, Default)]
pub struct History {
    /// The newest attempt.
    pub latest: Option<Seen>,
    /// How the one before it ended.
    pub previous: Option<Ended>,
    /// Why the next attempt does not start.
    pub waiting: Option<Waiting>,
    /// Attempts that the API knows of and the runtime does not (the machine was restarted).
    pub attempts_before: u32,
    /// Ends in a row without a calm run in between.
    pub crashes: u32,
    /// What probes found out about the newest attempt.
    pub health: Health,
    /// The newest attempt has lost a volume, and how: it runs on what nobody serves any more.
    pub volume_lost: Option<String>,
}

/// One attempt.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Seen {
    /// Counted from zero: the restart count.
    pub attempt: u32,
    /// `atoll://…` in the status.
    pub id: String,
    /// The image's id (digest).
    pub image_id: String,
    /// Where it is.
    pub state: SeenState,
}

/// Where an attempt is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum SeenState {
    /// Made, not started.
    Created,
    /// Runs.
    Running {
        /// Since when.
        since: Timestamp,
    },
    /// Has ended.
    Exited(Ended),
}

/// An end.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Ended {
    /// Which attempt's id.
    pub id: String,
    /// 128 + signal when it was killed.
    pub code: i32,
    /// The signal, if one ended it.
    pub signal: Option<i32>,
    /// `Completed`, `Error`, `OOMKilled`, `StartError`, `ContainerStatusUnknown`.
    pub reason: String,
    /// The termination message, or what went wrong.
    pub message: String,
    /// Unknown when it never started.
    pub started_at: Option<Timestamp>,
    /// When.
    pub finished_at: Timestamp,
}

/// The reason of an end that was the loss of a volume.
pub const VOLUME_LOST: &str = "VolumeLost";

impl Ended {
    /// Whether it did what it was for. Whoever lost a volume did not, also if it ended politely when it was asked to.
    #[must_use]
    pub fn is_success(&self) -> bool {
        self.code == 0 && self.reason != VOLUME_LOST
    }
}

/// What probes say. Without probes a running container is all well.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Health {
    /// The startup probe succeeded.
    pub started: bool,
    /// The readiness probe succeeds.
    pub ready: bool,
    /// Which probe has failed for good, and how.
    pub unhealthy: Option<String>,
}

impl Default for Health {
    fn default() -> Self {
        Self { started: true, ready: true, unhealthy: None }
    }
}

impl History {
    /// The number of the attempt after the newest.
    #[must_use]
    pub fn next_attempt(&self) -> u32 {
        self.latest.as_ref().map_or(self.attempts_before, |seen| seen.attempt.saturating_add(1))
    }

    /// Whether it runs.
    #[must_use]
    pub fn is_running(&self) -> bool {
        self.running_since().is_some()
    }

    /// Since when it runs.
    #[must_use]
    pub fn running_since(&self) -> Option<Timestamp> {
        match self.latest.as_ref()?.state {
            SeenState::Running { since } => Some(since),
            SeenState::Created | SeenState::Exited(_) => None,
        }
    }

    /// How the newest attempt ended.
    #[must_use]
    pub fn ended(&self) -> Option<&Ended> {
        match &self.latest.as_ref()?.state {
            SeenState::Exited(ended) => Some(ended),
            SeenState::Created | SeenState::Running { .. } => None,
        }
    }

    /// Notes that the newest attempt ended.
    pub fn end(&mut self, mut ended: Ended) {
        let calm = ended.started_at.is_some_and(|started| ended.finished_at.duration_since(started) >= CALM);
        let lost = self.volume_lost.take();
        // The loss of a volume is not its doing: it starts again at once.
        self.crashes = if calm || lost.is_some() { 1 } else { self.crashes.saturating_add(1) };
        if let Some(why) = lost {
            (ended.reason, ended.message) = (VOLUME_LOST.to_owned(), why);
        }
        if let Some(seen) = &mut self.latest {
            seen.state = SeenState::Exited(ended);
        }
    }

    /// When the attempt after the one that ended may start: at once the first time, later and later while it keeps ending.
    #[must_use]
    pub fn restart_at(&self) -> Option<Timestamp> {
        let ended = self.ended()?;
        Some(ended.finished_at.saturating_add(back_off(self.crashes)).unwrap_or(ended.finished_at))
    }
}

/// The delay after this many ends in a row.
#[must_use]
pub fn back_off(crashes: u32) -> SignedDuration {
    match crashes {
        0 | 1 => SignedDuration::ZERO,
        more => (BACK_OFF_FIRST * 2_i32.pow((more - 2).min(8))).min(BACK_OFF_MAX),
    }
}

/// What a container is in its pod.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Role {
    /// Runs to its end before the next.
    Init,
    /// An init container with restartPolicy Always: starts in order, stays.
    Sidecar,
    /// One of `containers`.
    Main,
}

/// `spec.restartPolicy`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RestartPolicy {
    /// Also after success.
    Always,
    /// After failure.
    OnFailure,
    /// Not.
    Never,
}

/// The pod's restart policy; `Always` by default.
#[must_use]
pub fn restart_policy(spec: &PodSpec) -> RestartPolicy {
    match spec.restart_policy.as_deref() {
        Some("OnFailure") => RestartPolicy::OnFailure,
        Some("Never") => RestartPolicy::Never,
        _ => RestartPolicy::Always,
    }
}

/// What this init container is.
#[must_use]
pub fn init_role(container: &Container) -> Role {
    if container.restart_policy.as_deref() == Some("Always") { Role::Sidecar } else { Role::Init }
}

/// All containers in the order in which they start.
pub fn containers(spec: &PodSpec) -> impl Iterator<Item = (Role, &Container)> {
    let init = spec.init_containers.iter().flatten().map(|container| (init_role(container), container));
    init.chain(spec.containers.iter().map(|container| (Role::Main, container)))
}

/// Whether this container is started again after such an end.
#[must_use]
pub fn restarts(role: Role, policy: RestartPolicy, ended: &Ended) -> bool {
    match (role, policy) {
        (Role::Sidecar, _) | (Role::Main, RestartPolicy::Always) => true,
        (Role::Main, RestartPolicy::OnFailure) => !ended.is_success(),
        (Role::Init, RestartPolicy::Always | RestartPolicy::OnFailure) => !ended.is_success(),
        (Role::Init | Role::Main, RestartPolicy::Never) => false,
    }
}

/// Whether the API server has been told that this pod is over.
#[must_use]
pub fn is_over(pod: &Pod) -> bool {
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    matches!(phase, Some("Succeeded" | "Failed"))
}
