//! What to do next for one pod (pure): the pod as wanted and what is observed in, one step out. Called again after every step and every
//! event, so it holds no state; the same input gives the same step, and with everything in place it gives none.

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Container, Pod, PodSpec};

use crate::observed::{
    History, Observed, RestartPolicy, Role, SeenState, containers, is_over, restart_policy, restarts,
};

/// What Kubernetes gives a pod to end when nothing else is said.
pub const GRACE_DEFAULT: SignedDuration = SignedDuration::from_secs(30);

/// What a pod gets whose node is cut off: it must have ended before another node may take its volumes.
pub const GRACE_CUT_OFF: SignedDuration = SignedDuration::from_secs(5);

/// What a container gets that has lost a volume: nothing that it could still write would be kept.
pub const GRACE_VOLUME_LOST: SignedDuration = SignedDuration::from_secs(2);

/// One step. The worker takes it to its end before it asks again.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Action {
    /// Network, volumes, sandbox.
    Prepare,
    /// Image, container, start.
    Start {
        /// Which container.
        name: String,
        /// The attempt's number.
        attempt: u32,
    },
    /// End one container; whether it starts again is decided after.
    Stop {
        /// Which container.
        name: String,
        /// For the event.
        why: String,
        /// Between the polite and the other signal, where that is not the pod's own to say.
        grace: Option<SignedDuration>,
    },
    /// End all that run, sidecars last.
    StopAll {
        /// Between the polite and the other signal.
        grace: SignedDuration,
        /// Why the pod failed, if it did by this.
        failure: Option<(String, String)>,
    },
    /// Remove sandbox, network and volumes; with `forget` also logs and records.
    Remove {
        /// The pod itself goes.
        forget: bool,
    },
    /// Tell the API server that nothing of it is left.
    Delete,
}

/// The next step and when to ask again without an event.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Plan {
    /// None: nothing to do.
    pub action: Option<Action>,
    /// A time that something waits for.
    pub again_at: Option<Timestamp>,
}

impl Plan {
    fn act(action: Action) -> Self {
        Self { action: Some(action), again_at: None }
    }

    fn wait(until: Timestamp) -> Self {
        Self { action: None, again_at: Some(until) }
    }
}

/// The next step for this pod.
#[must_use]
pub fn decide(pod: &Pod, observed: &Observed, now: Timestamp) -> Plan {
    let Some(spec) = &pod.spec else { return Plan::default() };
    let leaving = observed.gone || pod.metadata.deletion_timestamp.is_some();
    if leaving {
        return leave(pod, observed);
    }
    if let Some(plan) = end_early(pod, spec, observed, now) {
        return plan;
    }
    if !observed.prepared {
        return match &observed.blocked {
            Some(blocked) if blocked.until > now => Plan::wait(blocked.until),
            _ => Plan::act(Action::Prepare),
        };
    }
    let mut later = deadline(pod, spec, observed);
    let policy = restart_policy(spec);
    let steps = Steps { policy, observed, now };
    let plan = steps.next(spec);
    later = earlier(later, plan.again_at);
    Plan { action: plan.action, again_at: later }
}

fn leave(pod: &Pod, observed: &Observed) -> Plan {
    if any_running(observed) {
        return Plan::act(Action::StopAll { grace: grace(pod), failure: None });
    }
    match (observed.removed, observed.gone) {
        (false, _) => Plan::act(Action::Remove { forget: true }),
        (true, false) => Plan::act(Action::Delete),
        (true, true) => Plan::default(),
    }
}

/// How long the pod has to end.
#[must_use]
pub fn grace(pod: &Pod) -> SignedDuration {
    let asked = pod.metadata.deletion_grace_period_seconds;
    let own = pod.spec.as_ref().and_then(|spec| spec.termination_grace_period_seconds);
    asked.or(own).map_or(GRACE_DEFAULT, |seconds| SignedDuration::from_secs(seconds.max(0)))
}

/// What ends a pod that nobody deleted: it is over, its deadline, a node that is cut off.
fn end_early(pod: &Pod, spec: &PodSpec, observed: &Observed, now: Timestamp) -> Option<Plan> {
    let running = any_running(observed);
    let failed = |reason: &str, message: &str| Some((reason.to_owned(), message.to_owned()));
    if is_over(pod) || observed.failure.is_some() || has_ended(spec, observed) {
        return Some(match (running, observed.prepared) {
            (true, _) => Plan::act(Action::StopAll { grace: grace(pod), failure: None }),
            (false, true) => Plan::act(Action::Remove { forget: false }),
            (false, false) => Plan::default(),
        });
    }
    if deadline(pod, spec, observed).is_some_and(|deadline| deadline <= now) {
        let failure = failed("DeadlineExceeded", "Pod was active on the node longer than the specified deadline");
        return Some(Plan::act(Action::StopAll { grace: grace(pod), failure }));
    }
    if observed.cut_off && observed.exclusive {
        return Some(match (running, observed.prepared) {
            (true, _) => Plan::act(Action::StopAll { grace: grace(pod).min(GRACE_CUT_OFF), failure: None }),
            (false, true) => Plan::act(Action::Remove { forget: false }),
            (false, false) => Plan::default(),
        });
    }
    None
}

fn deadline(_pod: &Pod, spec: &PodSpec, observed: &Observed) -> Option<Timestamp> {
    let seconds = spec.active_deadline_seconds?;
    observed.start_time?.checked_add(SignedDuration::from_secs(seconds)).ok()
}

fn any_running(observed: &Observed) -> bool {
    observed.containers.values().any(History::is_running)
}

fn earlier(one: Option<Timestamp>, other: Option<Timestamp>) -> Option<Timestamp> {
    one.into_iter().chain(other).min()
}

/// Whether no container of it will run again: an init container failed for good, or all main containers ended and none starts again.
#[must_use]
pub fn has_ended(spec: &PodSpec, observed: &Observed) -> bool {
    let policy = restart_policy(spec);
    let history = |container: &Container| observed.containers.get(&container.name);
    let for_good = |role, container: &Container| {
        history(container).and_then(History::ended).is_some_and(|ended| !restarts(role, policy, ended))
    };
    let failed =
        |container: &Container| history(container).and_then(History::ended).is_some_and(|ended| !ended.is_success());
    let init_failed = containers(spec).any(|(role, it)| role == Role::Init && for_good(role, it) && failed(it));
    init_failed || spec.containers.iter().all(|container| for_good(Role::Main, container))
}

struct Steps<'a> {
    policy: RestartPolicy,
    observed: &'a Observed,
    now: Timestamp,
}

/// Whether the containers after this one may be looked at, or what to do first.
enum Step {
    Next,
    Halt(Plan),
}

impl Steps<'_> {
    fn next(&self, spec: &PodSpec) -> Plan {
        let begun = spec.containers.iter().any(|container| self.latest(&container.name).is_some());
        let mut later = None;
        for (role, container) in containers(spec) {
            match self.step(role, &container.name, begun) {
                Step::Next => {}
                Step::Halt(plan) if plan.action.is_some() => return plan,
                Step::Halt(plan) => {
                    later = earlier(later, plan.again_at);
                    // Init containers hold up what comes after them; once the main containers have begun nothing holds up another.
                    if role != Role::Main && !begun {
                        return Plan { action: None, again_at: later };
                    }
                }
            }
        }
        Plan { action: None, again_at: later }
    }

    fn latest(&self, name: &str) -> Option<&SeenState> {
        Some(&self.observed.containers.get(name)?.latest.as_ref()?.state)
    }

    fn step(&self, role: Role, name: &str, begun: bool) -> Step {
        let fresh = History::default();
        let history = self.observed.containers.get(name).unwrap_or(&fresh);
        if role == Role::Init && begun {
            return Step::Next;
        }
        match history.latest.as_ref().map(|seen| &seen.state) {
            // A container that was made and not started: the process that made it ended in between.
            None | Some(SeenState::Created) => self.start(name, history),
            Some(SeenState::Running { .. }) if history.volume_lost.is_some() => {
                let why = history.volume_lost.clone().unwrap_or_default();
                Step::Halt(Plan::act(Action::Stop { name: name.to_owned(), why, grace: Some(GRACE_VOLUME_LOST) }))
            }
            Some(SeenState::Running { .. }) => match (&history.health.unhealthy, role) {
                (Some(why), _) => {
                    Step::Halt(Plan::act(Action::Stop { name: name.to_owned(), why: why.clone(), grace: None }))
                }
                (None, Role::Main) => Step::Next,
                (None, Role::Sidecar) if history.health.started => Step::Next,
                (None, Role::Sidecar | Role::Init) => Step::Halt(Plan::default()),
            },
            Some(SeenState::Exited(ended)) if restarts(role, self.policy, ended) => match history.restart_at() {
                Some(at) if at > self.now => Step::Halt(Plan::wait(at)),
                _ => self.start(name, history),
            },
            Some(SeenState::Exited(_)) => Step::Next,
        }
    }

    fn start(&self, name: &str, history: &History) -> Step {
        Step::Halt(match &history.waiting {
            Some(waiting) if waiting.until > self.now => Plan::wait(waiting.until),
            _ => Plan::act(Action::Start { name: name.to_owned(), attempt: history.next_attempt() }),
        })
    }
}

#[cfg(test)]
mod tests;
