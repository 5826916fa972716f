//! The pod's status from what is observed (pure), worded as kubelet words it: people and programs match on these words.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{
    Container, ContainerState, ContainerStateRunning, ContainerStateTerminated, ContainerStateWaiting, ContainerStatus,
    HostIP, Pod, PodCondition, PodIP, PodSpec, PodStatus,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use crate::observed::{
    Ended, History, Observed, RestartPolicy, Role, SeenState, Waiting, containers, restart_policy, restarts,
};
use crate::plan::has_ended;

/// What a container's id begins with in the status: the runtime's name.
pub const CONTAINER_ID_SCHEME: &str = "atoll://";

/// The whole status; conditions that others set, and times of transitions that did not happen, are kept from the pod.
#[must_use]
pub fn status(pod: &Pod, observed: &Observed, host_ips: &[String], now: Timestamp) -> PodStatus {
    let Some(spec) = &pod.spec else { return PodStatus::default() };
    let before = pod.status.clone().unwrap_or_default();
    let view = View { pod, spec, observed, policy: restart_policy(spec), now };
    let of = |wanted: fn(Role) -> bool| -> Vec<ContainerStatus> {
        containers(spec).filter(|(role, _)| wanted(*role)).map(|(role, it)| view.container(role, it)).collect()
    };
    let init = of(|role| role != Role::Main);
    let main = of(|role| role == Role::Main);
    let phase = view.phase();
    let conditions = view.conditions(&before, &init, &main, phase);
    let (reason, message) = match &observed.failure {
        Some((reason, message)) => (Some(reason.clone()), Some(message.clone())),
        None => (None, None),
    };
    let ip = observed.address.map(|address| address.to_string()).or(before.pod_ip);
    PodStatus {
        phase: Some(phase.to_owned()),
        conditions: Some(conditions),
        host_ip: host_ips.first().cloned(),
        host_ips: Some(host_ips.iter().map(|ip| HostIP { ip: ip.clone() }).collect()),
        pod_ips: ip.as_ref().map(|ip| vec![PodIP { ip: ip.clone() }]),
        pod_ip: ip,
        start_time: before.start_time.or(observed.start_time.map(Time)),
        init_container_statuses: (!init.is_empty()).then_some(init),
        container_statuses: Some(main),
        qos_class: before.qos_class.or_else(|| Some(quality(spec).to_owned())),
        observed_generation: pod.metadata.generation,
        reason,
        message,
        nominated_node_name: before.nominated_node_name,
        ..PodStatus::default()
    }
}

/// Guaranteed, Burstable or `BestEffort`, by Kubernetes' definition over cpu and memory of all containers.
#[must_use]
pub fn quality(spec: &PodSpec) -> &'static str {
    let mut any = false;
    let mut all = true;
    for (_, container) in containers(spec) {
        let resources = container.resources.clone().unwrap_or_default();
        let (limits, requests) = (resources.limits.unwrap_or_default(), resources.requests.unwrap_or_default());
        for name in ["cpu", "memory"] {
            let (limit, request) = (limits.get(name), requests.get(name));
            any |= limit.is_some() || request.is_some();
            // The API server fills in a missing request from the limit.
            all &= limit.is_some() && request.is_none_or(|request| Some(request) == limit);
        }
    }
    match (any, all) {
        (false, _) => "BestEffort",
        (true, true) => "Guaranteed",
        (true, false) => "Burstable",
    }
}

struct View<'a> {
    pod: &'a Pod,
    spec: &'a PodSpec,
    observed: &'a Observed,
    policy: RestartPolicy,
    now: Timestamp,
}

impl View<'_> {
    fn history(&self, container: &Container) -> Option<&History> {
        self.observed.containers.get(&container.name)
    }

    /// Whether the init containers are done; sidecars must have started.
    fn is_initialized(&self) -> bool {
        if self.spec.containers.iter().any(|it| self.history(it).is_some_and(|history| history.latest.is_some())) {
            return true;
        }
        containers(self.spec).all(|(role, it)| match (role, self.history(it)) {
            (Role::Main, _) => true,
            (Role::Init, history) => history.and_then(History::ended).is_some_and(Ended::is_success),
            (Role::Sidecar, history) => history.is_some_and(|it| it.is_running() && it.health.started),
        })
    }

    fn phase(&self) -> &'static str {
        let told = self.pod.status.as_ref().and_then(|status| status.phase.as_deref());
        match told {
            // A pod that is over stays so, whatever is forgotten here.
            Some("Succeeded") => return "Succeeded",
            Some("Failed") => return "Failed",
            _ if self.observed.failure.is_some() => return "Failed",
            _ => {}
        }
        let ends: Vec<Option<&Ended>> =
            self.spec.containers.iter().map(|it| self.history(it).and_then(History::ended)).collect();
        if has_ended(self.spec, self.observed) {
            let good = ends.iter().all(|ended| ended.is_some_and(Ended::is_success));
            return if good { "Succeeded" } else { "Failed" };
        }
        let begun = |it: &Container| {
            let latest = self.history(it).and_then(|history| history.latest.as_ref());
            let known = latest.is_some_and(|seen| seen.state != SeenState::Created);
            known || self.history(it).is_some_and(|history| history.previous.is_some() || history.attempts_before > 0)
        };
        if self.is_initialized() && self.spec.containers.iter().all(begun) { "Running" } else { "Pending" }
    }

    fn container(&self, role: Role, container: &Container) -> ContainerStatus {
        let fresh = History::default();
        let history = self.history(container).unwrap_or(&fresh);
        let (state, last) = self.states(role, container, history);
        let running = history.is_running();
        let started = running && history.health.started;
        let ready = match role {
            Role::Main => started && history.health.ready,
            Role::Sidecar => started && history.health.ready,
            Role::Init => history.ended().is_some_and(Ended::is_success),
        };
        let seen = history.latest.as_ref();
        ContainerStatus {
            name: container.name.clone(),
            image: container.image.clone().unwrap_or_default(),
            image_id: seen.map(|seen| seen.image_id.clone()).unwrap_or_default(),
            container_id: seen.map(|seen| format!("{CONTAINER_ID_SCHEME}{}", seen.id)),
            restart_count: i32::try_from(seen.map_or(history.attempts_before, |seen| seen.attempt)).unwrap_or(i32::MAX),
            ready,
            started: Some(started),
            state: Some(state),
            last_state: Some(last),
            ..ContainerStatus::default()
        }
    }

    fn states(&self, role: Role, container: &Container, history: &History) -> (ContainerState, ContainerState) {
        let last = |ended: Option<&Ended>| ended.map(terminated).unwrap_or_default();
        let previous = last(history.previous.as_ref());
        if let Some(since) = history.running_since() {
            let running = ContainerStateRunning { started_at: Some(Time(since)) };
            return (ContainerState { running: Some(running), ..ContainerState::default() }, previous);
        }
        let Some(ended) = history.ended() else {
            return (self.not_yet(role, history), previous);
        };
        let again = restarts(role, self.policy, ended)
            && self.pod.metadata.deletion_timestamp.is_none()
            && self.observed.failure.is_none();
        match (&history.waiting, history.restart_at()) {
            (Some(held), _) if again => (waiting(&held.reason, &held.message), terminated(ended)),
            (None, Some(at)) if again && at > self.now => {
                (waiting("CrashLoopBackOff", &self.back_off_message(container, history)), terminated(ended))
            }
            _ => (terminated(ended), previous),
        }
    }

    fn not_yet(&self, role: Role, history: &History) -> ContainerState {
        match (&history.waiting, &self.observed.blocked) {
            (Some(Waiting { reason, message, .. }), _) => waiting(reason, message),
            _ if role == Role::Main && !self.is_initialized() => waiting("PodInitializing", ""),
            (None, Some(blocked)) => waiting(&blocked.reason, &blocked.message),
            (None, None) if role == Role::Main && self.spec.init_containers.is_none() => {
                waiting("ContainerCreating", "")
            }
            (None, None) => waiting("PodInitializing", ""),
        }
    }

    fn back_off_message(&self, container: &Container, history: &History) -> String {
        let delay = crate::observed::back_off(history.crashes).as_secs();
        let delay = match (delay / 60, delay % 60) {
            (0, seconds) => format!("{seconds}s"),
            (minutes, seconds) => format!("{minutes}m{seconds}s"),
        };
        let meta = &self.pod.metadata;
        let of = |text: &Option<String>| text.clone().unwrap_or_default();
        format!(
            "back-off {delay} restarting failed container={} pod={}_{}({})",
            container.name,
            of(&meta.name),
            of(&meta.namespace),
            of(&meta.uid)
        )
    }

    fn conditions(
        &self,
        before: &PodStatus,
        init: &[ContainerStatus],
        main: &[ContainerStatus],
        phase: &str,
    ) -> Vec<PodCondition> {
        let over = phase == "Succeeded";
        let unready: Vec<&str> = main.iter().filter(|it| !it.ready).map(|it| it.name.as_str()).collect();
        let incomplete: Vec<&str> = init.iter().filter(|it| !it.ready).map(|it| it.name.as_str()).collect();
        let initialized = match (self.is_initialized() || over, over) {
            (true, true) if !init.is_empty() => Verdict::yes_because("PodCompleted"),
            (true, _) => Verdict::yes(),
            _ => Verdict::no(
                "ContainersNotInitialized",
                format!("containers with incomplete status: {}", list(&incomplete)),
            ),
        };
        let ready = |of_pod: bool| match (over, unready.is_empty()) {
            (true, _) => Verdict::no("PodCompleted", String::new()),
            _ if phase == "Failed" => Verdict::no("PodFailed", String::new()),
            (_, false) => {
                Verdict::no("ContainersNotReady", format!("containers with unready status: {}", list(&unready)))
            }
            (_, true) if of_pod => self.gates(before),
            (_, true) => Verdict::yes(),
        };
        let set = [
            (
                "PodReadyToStartContainers",
                if self.observed.prepared { Verdict::yes() } else { Verdict::no("", String::new()) },
            ),
            ("Initialized", initialized),
            ("Ready", ready(true)),
            ("ContainersReady", ready(false)),
            ("PodScheduled", Verdict::yes()),
        ];
        let old = before.conditions.as_deref().unwrap_or_default();
        let ours = set.each_ref().map(|(type_, _)| *type_);
        let foreign = old.iter().filter(|it| !ours.contains(&it.type_.as_str())).cloned();
        let own = set.into_iter().map(|(type_, verdict)| self.condition(type_, verdict, old));
        own.chain(foreign).collect()
    }

    /// Conditions that the pod's readiness also hangs on, set by others.
    fn gates(&self, before: &PodStatus) -> Verdict {
        let met = |gate: &str| {
            before.conditions.iter().flatten().any(|condition| condition.type_ == gate && condition.status == "True")
        };
        let unmet = self.spec.readiness_gates.iter().flatten().find(|gate| !met(&gate.condition_type));
        unmet.map_or_else(Verdict::yes, |gate| {
            let message =
                format!("corresponding condition of pod readiness gate {:?} does not exist.", gate.condition_type);
            Verdict::no("ReadinessGatesNotReady", message)
        })
    }

    fn condition(&self, type_: &str, verdict: Verdict, old: &[PodCondition]) -> PodCondition {
        let status = if verdict.holds { "True" } else { "False" };
        let same = old.iter().find(|it| it.type_ == type_ && it.status == status);
        let since = same.and_then(|it| it.last_transition_time.clone()).unwrap_or(Time(self.now));
        PodCondition {
            type_: type_.to_owned(),
            status: status.to_owned(),
            reason: Some(verdict.reason).filter(|reason| !reason.is_empty()),
            message: Some(verdict.message).filter(|message| !message.is_empty()),
            last_transition_time: Some(since),
            ..PodCondition::default()
        }
    }
}

struct Verdict {
    holds: bool,
    reason: String,
    message: String,
}

impl Verdict {
    fn yes() -> Self {
        Self::yes_because("")
    }

    fn yes_because(reason: &str) -> Self {
        Self { holds: true, reason: reason.to_owned(), message: String::new() }
    }

    fn no(reason: &str, message: String) -> Self {
        Self { holds: false, reason: reason.to_owned(), message }
    }
}

/// As Go prints a list of strings.
fn list(names: &[&str]) -> String {
    format!("[{}]", names.join(" "))
}

fn waiting(reason: &str, message: &str) -> ContainerState {
    let message = Some(message.to_owned()).filter(|message| !message.is_empty());
    let waiting = ContainerStateWaiting { reason: Some(reason.to_owned()), message };
    ContainerState { waiting: Some(waiting), ..ContainerState::default() }
}

fn terminated(ended: &Ended) -> ContainerState {
    let terminated = ContainerStateTerminated {
        container_id: Some(format!("{CONTAINER_ID_SCHEME}{}", ended.id)),
        exit_code: ended.code,
        signal: ended.signal,
        reason: Some(ended.reason.clone()),
        message: Some(ended.message.clone()).filter(|message| !message.is_empty()),
        started_at: ended.started_at.map(Time),
        finished_at: Some(Time(ended.finished_at)),
    };
    ContainerState { terminated: Some(terminated), ..ContainerState::default() }
}

#[cfg(test)]
mod tests;
