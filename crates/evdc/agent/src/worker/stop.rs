//! Ending containers: the preStop hook, the polite signal, the other one; all of a pod at once, sidecars after the rest.

use std::sync::Arc;
use std::time::Duration;

use atoll_runtime::{ContainerId, Exit, Runtime, Signal, Target};
use futures_util::future::join_all;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Container, LifecycleHandler, Pod};
use tokio::sync::watch as channel;
use tokio::time::Instant;

use super::watch::{Place, ended, run_in};
use super::{Wish, Worker};
use crate::launch::LABEL_STOP_SIGNAL;
use crate::observed::{Role, containers};
use crate::plan::grace;
use crate::probes::{http, port_of};

/// What a hook may use beyond the grace period, as with kubelet, so that the signal can still do its work.
const HOOK_EXTRA: Duration = Duration::from_secs(2);

/// How long the kernel may take after SIGKILL before we look again.
const KILL_PATIENCE: Duration = Duration::from_secs(10);

/// One container to be ended.
struct Ending {
    runtime: Arc<dyn Runtime>,
    id: ContainerId,
    place: Place,
    pre_stop: Option<LifecycleHandler>,
    deadline: Instant,
    wish: channel::Receiver<Wish>,
}

impl Worker {
    pub(super) async fn stop_unhealthy(&mut self, pod: &Pod, name: &str, why: &str, given: Option<SignedDuration>) {
        self.shared.events.send(pod, Some(name), false, "Killing", why);
        let probe_grace = pod.spec.as_ref().and_then(|spec| {
            let (_, container) = containers(spec).find(|(_, it)| it.name == name)?;
            container.liveness_probe.as_ref()?.termination_grace_period_seconds
        });
        let time = probe_grace.map_or_else(|| grace(pod), SignedDuration::from_secs);
        let time = given.map_or(time, |given| given.min(time));
        self.stop(pod, &[name.to_owned()], time).await;
    }

    pub(super) async fn stop_all(&mut self, pod: &Pod, grace: SignedDuration) {
        let spec = pod.spec.clone().unwrap_or_default();
        let deadline = Instant::now() + Duration::try_from(grace).unwrap_or_default();
        for sidecars in [false, true] {
            let of = |role: Role| (role == Role::Sidecar) == sidecars;
            let named = containers(&spec).filter(|(role, _)| of(*role)).map(|(_, it)| it.name.clone());
            let running: Vec<String> = named.filter(|name| self.history(name).is_running()).collect();
            for name in &running {
                self.shared.events.send(pod, Some(name), false, "Killing", &format!("Stopping container {name}"));
            }
            let left = deadline.saturating_duration_since(Instant::now());
            self.stop(pod, &running, SignedDuration::try_from(left).unwrap_or_default()).await;
        }
        // What a changed pod does not name any more, and what runs all the same.
        let others: Vec<String> =
            self.observed.containers.iter().filter(|(_, it)| it.is_running()).map(|(name, _)| name.clone()).collect();
        self.stop(pod, &others, SignedDuration::ZERO).await;
    }

    async fn stop(&mut self, pod: &Pod, names: &[String], grace: SignedDuration) {
        let grace = Duration::try_from(grace).unwrap_or_default();
        let spec = pod.spec.clone().unwrap_or_default();
        let mut endings = Vec::new();
        for name in names {
            let Some(seen) = self.history(name).latest.clone() else { continue };
            let Ok(id) = seen.id.parse::<ContainerId>() else { continue };
            let found = containers(&spec).map(|(_, it)| it).find(|it| it.name == *name).cloned();
            let container = found.unwrap_or_else(|| Container { name: name.clone(), ..Container::default() });
            let pre_stop = container.lifecycle.as_ref().and_then(|it| it.pre_stop.clone());
            let runtime = self.shared.runtime.clone();
            let place = Place { runtime: runtime.clone(), id: id.clone(), address: self.observed.address, container };
            let deadline = Instant::now() + grace;
            let ending = Ending { runtime, id, place, pre_stop, deadline, wish: self.wish.clone() };
            endings.push(async move { (name.clone(), seen, ending.end().await) });
        }
        for (name, seen, exit) in join_all(endings).await {
            let since = self.history(&name).running_since();
            match exit {
                Ok(exit) => {
                    let message = self.termination_message(pod, &name, seen.attempt, &exit);
                    self.note_end(&name, ended(&seen.id, &exit, since, message));
                }
                // Still running as far as anyone knows: the next round tries again.
                Err(why) => {
                    tracing::warn!(container = %seen.id, why, "a container could not be ended; trying again");
                    tokio::time::sleep(super::PAUSE).await;
                }
            }
        }
    }
}

impl Ending {
    async fn end(mut self) -> Result<Exit, String> {
        let waiting = self.runtime.clone();
        let id = self.id.clone();
        let mut exit = std::pin::pin!(waiting.wait(&id));
        if let Some(hook) = self.pre_stop.take()
            && self.deadline > Instant::now()
        {
            let left = self.deadline.saturating_duration_since(Instant::now()) + HOOK_EXTRA;
            let place = self.place.clone();
            let mut hook = std::pin::pin!(run_hook(&place, &hook, left));
            loop {
                let deadline = self.deadline + HOOK_EXTRA;
                tokio::select! {
                    ended = &mut exit => return ended.map_err(|error| error.to_string()),
                    result = &mut hook => {
                        if let Err(error) = result {
                            tracing::info!(container = %self.id, error, "a preStop hook failed");
                        }
                        break;
                    }
                    () = self.shortened() => {}
                    () = tokio::time::sleep_until(deadline) => break,
                }
            }
        }
        if self.deadline > Instant::now() {
            let signal = self.stop_signal().await;
            if let Err(error) = self.runtime.kill(&self.id, signal, Target::Init).await {
                tracing::warn!(container = %self.id, %error, "a container could not be asked to end");
            }
            loop {
                let deadline = self.deadline;
                tokio::select! {
                    ended = &mut exit => return ended.map_err(|error| error.to_string()),
                    () = self.shortened() => {}
                    () = tokio::time::sleep_until(deadline) => break,
                }
            }
        }
        self.runtime.kill(&self.id, Signal::KILL, Target::All).await.map_err(|error| error.to_string())?;
        match tokio::time::timeout(KILL_PATIENCE, exit).await {
            Ok(ended) => ended.map_err(|error| error.to_string()),
            Err(_) => Err("it runs on after SIGKILL".to_owned()),
        }
    }

    async fn stop_signal(&self) -> Signal {
        let labels = self.runtime.status(&self.id).await.map(|status| status.labels).unwrap_or_default();
        labels.get(LABEL_STOP_SIGNAL).and_then(|text| text.parse().ok()).unwrap_or(Signal::TERM)
    }

    /// Waits for a wish that gives less time, and takes it over: `kubectl delete --force` after a patient one.
    async fn shortened(&mut self) {
        loop {
            if self.wish.changed().await.is_err() {
                // The agent ends; the time that was given holds.
                return std::future::pending().await;
            }
            let wish = self.wish.borrow_and_update().clone();
            let leaving = wish.gone || wish.pod.metadata.deletion_timestamp.is_some();
            let deletion = wish.pod.metadata.deletion_timestamp.as_ref().map_or_else(Timestamp::now, |at| at.0);
            let left = Duration::try_from(deletion.duration_since(Timestamp::now())).unwrap_or_default();
            let left = if wish.pod.metadata.deletion_grace_period_seconds == Some(0) { Duration::ZERO } else { left };
            let sooner = Instant::now() + left;
            if leaving && sooner < self.deadline {
                self.deadline = sooner;
                return;
            }
        }
    }
}

/// A lifecycle hook.
pub(super) async fn run_hook(place: &Place, hook: &LifecycleHandler, timeout: Duration) -> Result<(), String> {
    if let Some(exec) = &hook.exec {
        return run_in(place, exec.command.clone().unwrap_or_default(), timeout).await;
    }
    if let Some(sleep) = &hook.sleep {
        tokio::time::sleep(Duration::from_secs(u64::try_from(sleep.seconds).unwrap_or_default()).min(timeout)).await;
        return Ok(());
    }
    if let Some(get) = &hook.http_get {
        let address = place.address.ok_or("the pod has no address")?;
        return http(address, port_of(&place.container, &get.port)?, get, timeout).await;
    }
    Err("a hook can be exec, httpGet or sleep".to_owned())
}
