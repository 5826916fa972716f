//! One pod's worker: takes the steps that [`crate::plan`] names, one after the other, and tells the API what came of them.
//!
//! Everything that happens to the pod comes to it as a wake-up: a change of the object, the end of a container, a probe's verdict, a time. It holds what
//! is observed and nothing else, so a new worker on the same folder continues where one was killed. A step that fails is tried again later.

mod start;
mod stop;
mod watch;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use atoll_podnet::PodKey;
use atoll_runtime::{ContainerStatus, SandboxId, SandboxSpec, State};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Pod, PodStatus};
use tokio::sync::{mpsc, watch as channel};
use tokio_util::sync::CancellationToken;

use crate::agent::Shared;
use crate::env::Facts;
use crate::launch::{LABEL_CONTAINER, LABEL_IMAGE, hostname};
use crate::log_files;
use crate::observed::{Ended, Health, History, Observed, Seen, SeenState, VOLUME_LOST, Waiting, containers};
use crate::plan::{Action, decide};
use crate::records::{self, PodRecord};
use crate::report::{self, Heard};
use crate::seams::Problem;
use crate::status::status;
use crate::volumes::{Mounted, VolumeProblem};
use watch::Inside;

/// Wake-ups of one pod that wait: its containers' ends and its probes' verdicts; who sends them waits.
const INSIDE_WAITING_MAX: usize = 64;

/// After a step failed for a reason that may pass.
const TRY_AGAIN: SignedDuration = SignedDuration::from_secs(2);

/// After something about the API or this node went wrong: not in a hot circle.
const PAUSE: Duration = Duration::from_secs(2);

/// An answer of the API server that takes longer is none: nothing that has to be done here may wait for it for ever.
const API_PATIENCE: Duration = Duration::from_secs(10);

/// How often volumes made of objects are brought up to date (kubelet: a minute and what its caches add), and an unheard status is told again.
const RESYNC: SignedDuration = SignedDuration::from_secs(60);

/// What the agent wants of a worker.
#[derive(Clone, Debug)]
pub(crate) struct Wish {
    pub(crate) pod: Arc<Pod>,
    /// The API server does not have it any more, or has it elsewhere.
    pub(crate) gone: bool,
    /// The API server has been heard on it since the agent began.
    pub(crate) confirmed: bool,
}

pub(crate) struct Worker {
    shared: Arc<Shared>,
    uid: String,
    key: PodKey,
    wish: channel::Receiver<Wish>,
    observed: Observed,
    mounted: Mounted,
    /// Volumes that were mounted anew and of which the containers have not been told yet.
    anew: BTreeSet<String>,
    namespace: PathBuf,
    inside: mpsc::Receiver<Inside>,
    tell: mpsc::Sender<Inside>,
    /// Probes and waits of the attempt that runs, by container.
    watched: BTreeMap<String, CancellationToken>,
    pulls_failed: BTreeMap<String, u32>,
    told: Option<PodStatus>,
    unheard: bool,
    synced_at: Timestamp,
}

impl Worker {
    pub(crate) fn new(
        shared: Arc<Shared>,
        uid: String,
        key: PodKey,
        wish: channel::Receiver<Wish>,
        exclusive: bool,
    ) -> Self {
        let (tell, inside) = mpsc::channel(INSIDE_WAITING_MAX);
        let observed = Observed { exclusive, ..Observed::default() };
        Self {
            shared,
            uid,
            key,
            wish,
            observed,
            mounted: Mounted::default(),
            anew: BTreeSet::new(),
            namespace: PathBuf::new(),
            inside,
            tell,
            watched: BTreeMap::new(),
            pulls_failed: BTreeMap::new(),
            told: None,
            unheard: false,
            synced_at: Timestamp::now(),
        }
    }

    /// Until the pod is gone, or the agent ends (then its containers run on).
    pub(crate) async fn run(mut self, stop: CancellationToken) {
        let ended = stop.clone();
        tokio::select! {
            () = self.live() => {}
            () = ended.cancelled() => {}
        }
        for token in self.watched.values() {
            token.cancel();
        }
    }

    async fn live(&mut self) {
        self.adopt().await;
        loop {
            let wish = self.wish.borrow_and_update().clone();
            self.observed.gone = wish.gone;
            self.observed.unconfirmed = !wish.confirmed;
            self.observed.cut_off = *self.shared.cut_off.borrow();
            let now = Timestamp::now();
            let plan = decide(&wish.pod, &self.observed, now);
            self.tell_status(&wish, now).await;
            match plan.action {
                Some(Action::Delete) => {
                    let deleted = report::delete(&self.shared.client, &wish.pod);
                    match tokio::time::timeout(API_PATIENCE, deleted).await {
                        Ok(Ok(Heard::Yes | Heard::Gone)) => return,
                        Ok(Err(error)) => self.pause("could not delete the pod", &error).await,
                        Err(late) => self.pause("could not delete the pod", &late).await,
                    }
                }
                Some(action) => self.act(&wish.pod, action).await,
                None if wish.gone && self.observed.removed => return,
                None => self.wait(&wish.pod, plan.again_at).await,
            }
        }
    }

    async fn act(&mut self, pod: &Pod, action: Action) {
        tracing::debug!(pod = %self.name(pod), ?action, "next step");
        match action {
            Action::Prepare => self.prepare(pod).await,
            Action::Start { name, attempt } => self.start(pod, &name, attempt).await,
            Action::Stop { name, why, grace } => self.stop_unhealthy(pod, &name, &why, grace).await,
            Action::StopAll { grace, failure } => {
                if failure.is_some() {
                    self.observed.failure = failure;
                }
                self.stop_all(pod, grace).await;
            }
            Action::Remove { forget } => {
                if let Err(problem) = self.remove(forget).await {
                    self.shared.events.send(pod, None, true, "FailedKillPod", &problem.0);
                    self.pause("could not remove a pod", &problem).await;
                }
            }
            // Taken by the caller.
            Action::Delete => {}
        }
    }

    /// Something to be tried again: neither in a hot circle nor so late that anybody notices.
    async fn pause(&self, what: &str, error: &(dyn std::error::Error + Sync)) {
        tracing::warn!(pod = %self.key, %error, "{what}; trying again");
        tokio::time::sleep(PAUSE).await;
    }

    /// Until something happens.
    async fn wait(&mut self, pod: &Pod, again_at: Option<Timestamp>) {
        let now = Timestamp::now();
        let retry = self.unheard.then(|| now.saturating_add(TRY_AGAIN).unwrap_or(now));
        let resync = self.synced_at.saturating_add(RESYNC).unwrap_or(now);
        let until = again_at.into_iter().chain(retry).chain([resync]).min().unwrap_or(resync);
        let pause = Duration::try_from(until.duration_since(now)).unwrap_or_default();
        let mut cut_off = self.shared.cut_off.clone();
        tokio::select! {
            // A closed channel is an agent that ends; `run` sees that.
            changed = self.wish.changed() => if changed.is_err() { std::future::pending::<()>().await },
            changed = cut_off.changed() => if changed.is_err() { std::future::pending::<()>().await },
            inside = self.inside.recv() => if let Some(inside) = inside { self.happened(pod, inside) },
            () = tokio::time::sleep(pause) => {}
        }
        while let Ok(inside) = self.inside.try_recv() {
            self.happened(pod, inside);
        }
        if Timestamp::now() >= resync {
            self.resync(pod).await;
        }
    }

    async fn resync(&mut self, pod: &Pod) {
        self.synced_at = Timestamp::now();
        self.told = None;
        let running = self.observed.containers.values().any(History::is_running);
        if !running || !self.observed.prepared {
            return;
        }
        let facts = self.facts();
        let refreshed = self.shared.volumes.mount(pod, &self.uid, &facts, &mut self.anew);
        let refreshed = tokio::time::timeout(API_PATIENCE, refreshed).await;
        match refreshed {
            Ok(Ok(mounted)) => self.take_mounted(pod, mounted),
            Ok(Err(error)) => tracing::warn!(pod = %self.key, %error, "volumes could not be brought up to date"),
            Err(_) => {}
        }
    }

    /// Takes up what an earlier process left: containers that run, their numbers, what the API was told.
    async fn adopt(&mut self) {
        let wish = self.wish.borrow().clone();
        let before = wish.pod.status.clone().unwrap_or_default();
        self.observed.start_time = before.start_time.as_ref().map(|time| time.0).or_else(|| Some(Timestamp::now()));
        let statuses = before.container_statuses.iter().chain(&before.init_container_statuses).flatten();
        for told in statuses {
            let history = self.observed.containers.entry(told.name.clone()).or_default();
            let known = told.container_id.is_some();
            history.attempts_before = u32::try_from(told.restart_count).unwrap_or_default() + u32::from(known);
            // The attempt that the API knows of may still run.
            history.crashes = u32::try_from(told.restart_count).unwrap_or_default().min(6);
            history.health = Health { started: told.started.unwrap_or_default(), ready: told.ready, unhealthy: None };
        }
        let found = loop {
            match self.shared.runtime.containers().await {
                Ok(found) => break found,
                Err(error) => self.pause("could not list containers", &error).await,
            }
        };
        for container in found {
            if container.sandbox.as_str() == self.uid {
                self.take_up(container);
            }
        }
        if self.observed.containers.values().any(History::is_running) {
            // Its network is there and is needed for probes; volumes follow with the first step.
            if let Ok((address, namespace)) = self.shared.network.attach(&self.key).await {
                self.observed.address = Some(address);
                self.namespace = namespace;
            }
            // A volume that only one may write waits for the API to say that the pod is still this node's.
            if wish.confirmed || !self.observed.exclusive {
                self.prepare(&wish.pod).await;
            }
        }
        let running: Vec<String> =
            self.observed.containers.iter().filter(|(_, it)| it.is_running()).map(|(name, _)| name.clone()).collect();
        for name in running {
            self.watch(&wish.pod, &name, false);
        }
    }

    fn take_up(&mut self, container: ContainerStatus) {
        let Some(name) = container.labels.get(LABEL_CONTAINER).cloned() else { return };
        let image_id = container.labels.get(LABEL_IMAGE).cloned().unwrap_or_default();
        let history = self.observed.containers.entry(name).or_default();
        if history.latest.as_ref().is_some_and(|seen| seen.attempt > container.attempt) {
            return;
        }
        let id = container.id.as_str().to_owned();
        let state = match container.state {
            State::Created => SeenState::Created,
            State::Running => SeenState::Running { since: container.started_at.unwrap_or(container.created_at) },
            State::Exited(exit) => SeenState::Exited(watch::ended(&id, &exit, container.started_at, String::new())),
        };
        history.latest = Some(Seen { attempt: container.attempt, id, image_id, state });
    }

    /// Network, volumes, sandbox.
    async fn prepare(&mut self, pod: &Pod) {
        match self.try_prepare(pod).await {
            Ok(()) => {
                self.observed.prepared = true;
                self.observed.removed = false;
                self.observed.blocked = None;
            }
            Err((reason, message)) => {
                let same = self.observed.blocked.as_ref().is_some_and(|it| it.message == message);
                if !same {
                    self.shared.events.send(pod, None, true, &reason, &message);
                }
                let now = Timestamp::now();
                let until = now.saturating_add(TRY_AGAIN).unwrap_or(now);
                self.observed.blocked = Some(Waiting { reason: "ContainerCreating".to_owned(), message, until });
            }
        }
    }

    async fn try_prepare(&mut self, pod: &Pod) -> Result<(), (String, String)> {
        let named = |reason: &'static str| move |message: String| (reason.to_owned(), message);
        let spec = pod.spec.clone().unwrap_or_default();
        // Written down before anything is made, so that nothing is made that a later process does not know of.
        self.keep(pod).map_err(named("FailedCreatePodSandBox"))?;
        let attached = self.shared.network.attach(&self.key).await;
        let (address, namespace) = attached.map_err(|problem| named("FailedCreatePodSandBox")(problem.0))?;
        self.observed.address = Some(address);
        self.namespace = namespace;
        let mut wish = self.wish.clone();
        let known = tokio::select! {
            biased;
            known = self.shared.policies_known(&self.key) => known,
            // Nobody will ever say what it may.
            _ = wish.wait_for(|wish| wish.gone) => Err(Problem("the pod is gone".to_owned())),
        };
        known.map_err(|problem| named("FailedCreatePodSandBox")(problem.0))?;
        let facts = self.facts();
        let mut cut_off = self.shared.cut_off.clone();
        let mounted = tokio::select! {
            mounted = self.shared.volumes.mount(pod, &self.uid, &facts, &mut self.anew) => mounted,
            _ = cut_off.wait_for(|cut_off| *cut_off) => {
                return Err(named("FailedMount")("the API server cannot be reached".to_owned()));
            }
        };
        let mounted = mounted.map_err(|error: VolumeProblem| named("FailedMount")(error.to_string()))?;
        self.take_mounted(pod, mounted);
        if self.mounted.exclusive != self.observed.exclusive {
            self.observed.exclusive = self.mounted.exclusive;
            self.keep(pod).map_err(named("FailedMount"))?;
        }
        let sandbox = SandboxSpec {
            id: self.sandbox(),
            group: self.shared.config.group.clone(),
            hostname: hostname(pod, &spec),
            resources: atoll_runtime::Resources::default(),
            labels: BTreeMap::new(),
        };
        let made = self.shared.runtime.create_sandbox(sandbox).await;
        made.map_err(|error| named("FailedCreatePodSandBox")(error.to_string()))
    }

    /// Takes in where the volumes are, and notes which containers have lost one: the process that served it was killed, and they run on with what it left.
    fn take_mounted(&mut self, pod: &Pod, mounted: Mounted) {
        let (spec, anew) = (pod.spec.clone().unwrap_or_default(), std::mem::take(&mut self.anew));
        for (_, container) in containers(&spec) {
            let lost = container.volume_mounts.iter().flatten().find(|it| anew.contains(&it.name));
            let Some(lost) = lost else { continue };
            let why = format!(
                "Container {}: what served volume {:?} has ended; it is mounted anew and the container is restarted",
                container.name, lost.name
            );
            let history = self.history(&container.name);
            if history.is_running() {
                history.volume_lost = Some(why.clone());
                self.shared.events.send(pod, Some(&container.name), true, VOLUME_LOST, &why);
            }
        }
        self.mounted = mounted;
    }

    fn keep(&self, pod: &Pod) -> Result<(), String> {
        let record = PodRecord::new(pod.clone(), self.observed.exclusive);
        let kept = records::save(&self.shared.volumes.pod(&self.uid), &record);
        kept.map_err(|error| format!("could not note the pod on disk: {error}"))
    }

    fn sandbox(&self) -> SandboxId {
        // The uid was a valid name when the worker was made (see `Agent::key_of`).
        self.key.as_str().parse().expect("a pod's key is a valid sandbox name")
    }

    async fn remove(&mut self, forget: bool) -> Result<(), Problem> {
        for token in std::mem::take(&mut self.watched).into_values() {
            token.cancel();
        }
        let broken = |error: atoll_runtime::RuntimeError| Problem(error.to_string());
        let containers = self.shared.runtime.containers().await.map_err(broken)?;
        self.shared.runtime.remove_sandbox(&self.sandbox()).await.map_err(broken)?;
        for container in containers.iter().filter(|it| it.sandbox.as_str() == self.uid) {
            self.shared.images.remove_rootfs(container.id.as_str()).await?;
        }
        self.shared.volumes.unmount(&self.uid).await?;
        self.shared.network.detach(&self.key).await?;
        self.observed.prepared = false;
        self.observed.address = None;
        if forget {
            let logs = log_files::folder(&self.shared.config.dir.join("logs"), &self.wish.borrow().pod);
            log_files::remove(&logs)
                .map_err(|error| Problem(format!("could not remove {}: {error}", logs.display())))?;
            let folder = self.shared.volumes.pod(&self.uid);
            records::remove(&folder)
                .map_err(|error| Problem(format!("could not remove {}: {error}", folder.display())))?;
            self.observed.removed = true;
        }
        Ok(())
    }

    async fn tell_status(&mut self, wish: &Wish, now: Timestamp) {
        if wish.gone {
            return;
        }
        let fresh = status(&wish.pod, &self.observed, &self.shared.host_ips, now);
        if self.told.as_ref().is_some_and(|told| same(told, &fresh)) {
            return;
        }
        if self.observed.cut_off {
            // Nobody hears it, and what is to be stopped must not wait.
            self.unheard = true;
            return;
        }
        let sent = report::send_status(&self.shared.client, &wish.pod, &fresh);
        let mut cut_off = self.shared.cut_off.clone();
        let sent = tokio::select! {
            sent = sent => sent,
            _ = cut_off.wait_for(|cut_off| *cut_off) => {
                self.unheard = true;
                return;
            }
        };
        match sent {
            Ok(_) => {
                self.told = Some(fresh);
                self.unheard = false;
            }
            Err(error) => {
                tracing::debug!(pod = %self.key, %error, "a status was not heard");
                self.unheard = true;
            }
        }
    }

    fn facts(&self) -> Facts {
        Facts {
            pod_ip: self.observed.address.map(|address| address.to_string()),
            host_ips: self.shared.host_ips.clone(),
            cpu_millis: i128::from(self.shared.config.cpu_millis),
            memory_bytes: i128::from(self.shared.config.memory_bytes),
        }
    }

    fn name(&self, pod: &Pod) -> String {
        let of = |text: &Option<String>| text.clone().unwrap_or_default();
        format!("{}/{}", of(&pod.metadata.namespace), of(&pod.metadata.name))
    }

    fn history(&mut self, name: &str) -> &mut History {
        self.observed.containers.entry(name.to_owned()).or_default()
    }

    fn hold(&mut self, name: &str, reason: &str, message: &str, delay: SignedDuration) {
        let now = Timestamp::now();
        let until = now.saturating_add(delay).unwrap_or(now);
        let waiting = Waiting { reason: reason.to_owned(), message: message.to_owned(), until };
        self.history(name).waiting = Some(waiting);
    }

    fn note_end(&mut self, name: &str, ended: Ended) {
        if let Some(token) = self.watched.remove(name) {
            token.cancel();
        }
        let history = self.history(name);
        if history.ended().is_none() {
            history.end(ended);
        }
    }
}

/// Whether nothing but the times of transitions that did not happen differs.
fn same(told: &PodStatus, fresh: &PodStatus) -> bool {
    let plain = |status: &PodStatus| {
        let mut status = status.clone();
        for condition in status.conditions.iter_mut().flatten() {
            condition.last_transition_time = None;
        }
        status
    };
    plain(told) == plain(fresh)
}
