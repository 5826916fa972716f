//! What goes on beside the worker for each container that runs: waiting for its end, and its probes. Each is a task that ends with the attempt.

use std::net::Ipv6Addr;
use std::sync::Arc;
use std::time::Duration;

use atoll_runtime::{ContainerId, ExecExit, ExecSpec, Exit, Runtime};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Container, Pod, Probe};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::Worker;
use crate::observed::{Ended, Health};
use crate::probes::{Kind, Tally, http, of, port_of, shortened, tcp, times};

/// Enough of a command's output to say what was wrong.
const OUTPUT_BYTES_MAX: usize = 4_096;

/// After the runtime could not say: its trouble is not the container's end.
const WAIT_AGAIN: Duration = Duration::from_secs(1);

/// What a task tells its worker.
#[derive(Debug)]
pub(super) enum Inside {
    /// The attempt ended.
    Ended { name: String, attempt: u32, exit: Exit },
    /// A probe's thresholds were reached.
    Probe { name: String, attempt: u32, kind: Kind, good: bool, message: String },
}

pub(super) fn ended(id: &str, exit: &Exit, started_at: Option<Timestamp>, message: String) -> Ended {
    Ended {
        id: id.to_owned(),
        code: exit.code,
        signal: exit.signal,
        reason: exit.reason.as_kubernetes().to_owned(),
        message: if message.is_empty() { exit.message.clone() } else { message },
        started_at,
        finished_at: exit.finished_at,
    }
}

/// Where a probe is made.
#[derive(Clone)]
pub(super) struct Place {
    pub(super) runtime: Arc<dyn Runtime>,
    pub(super) id: ContainerId,
    pub(super) address: Option<Ipv6Addr>,
    pub(super) container: Container,
}

impl Worker {
    /// Watches the running attempt of this container. A fresh one is held to be neither started nor ready until its probes say so.
    pub(super) fn watch(&mut self, pod: &Pod, name: &str, fresh: bool) {
        let spec = pod.spec.clone().unwrap_or_default();
        let found = crate::observed::containers(&spec).map(|(_, it)| it).find(|it| it.name == name).cloned();
        let (Some(container), Some(seen)) = (found, self.history(name).latest.clone()) else { return };
        let Ok(id) = seen.id.parse::<ContainerId>() else { return };
        let has = |kind| of(&container, kind).is_some();
        let mut health = self.history(name).health.clone();
        if fresh {
            health = Health { started: !has(Kind::Startup), ready: !has(Kind::Readiness), unhealthy: None };
        } else {
            health.started |= !has(Kind::Startup);
            health.ready |= !has(Kind::Readiness);
        }
        let started = health.started;
        self.history(name).health = health;
        let token = CancellationToken::new();
        if let Some(old) = self.watched.insert(name.to_owned(), token.clone()) {
            old.cancel();
        }
        let place = Place { runtime: self.shared.runtime.clone(), id, address: self.observed.address, container };
        let task = Task { tell: self.tell.clone(), token, place, name: name.to_owned(), attempt: seen.attempt };
        tokio::spawn(task.clone().wait_for_end());
        for kind in [Kind::Readiness, Kind::Liveness] {
            tokio::spawn(task.clone().probe_after_startup(kind, started));
        }
    }

    /// Takes in what a task said, unless it speaks of an attempt that is over.
    pub(super) fn happened(&mut self, pod: &Pod, inside: Inside) {
        match inside {
            Inside::Ended { name, attempt, exit } => {
                let Some(seen) = self.history(&name).latest.clone().filter(|it| it.attempt == attempt) else { return };
                let since = self.history(&name).running_since();
                let message = self.termination_message(pod, &name, attempt, &exit);
                self.note_end(&name, ended(&seen.id, &exit, since, message));
            }
            Inside::Probe { name, attempt, kind, good, message } => {
                let history = self.history(&name);
                if history.latest.as_ref().is_none_or(|it| it.attempt != attempt) || !history.is_running() {
                    return;
                }
                match (kind, good) {
                    (Kind::Startup, true) => history.health.started = true,
                    (Kind::Readiness, good) => history.health.ready = good,
                    (Kind::Liveness, true) => {}
                    (Kind::Startup | Kind::Liveness, false) => {
                        let which = kind.as_str().to_lowercase();
                        history.health.unhealthy =
                            Some(format!("Container {name} failed {which} probe, will be restarted"));
                    }
                }
                if !good {
                    let text = format!("{} probe failed: {message}", kind.as_str());
                    self.shared.events.send(pod, Some(&name), true, "Unhealthy", &text);
                }
            }
        }
    }
}

#[derive(Clone)]
struct Task {
    tell: mpsc::Sender<Inside>,
    token: CancellationToken,
    place: Place,
    name: String,
    attempt: u32,
}

impl Task {
    async fn wait_for_end(self) {
        let exit = async {
            loop {
                match self.place.runtime.wait(&self.place.id).await {
                    Ok(exit) => return Some(exit),
                    Err(error) if error.kind() == atoll_runtime::ErrorKind::NotFound => return None,
                    Err(error) => {
                        tracing::warn!(container = %self.place.id, %error, "could not wait for a container's end");
                        tokio::time::sleep(WAIT_AGAIN).await;
                    }
                }
            }
        };
        let exit = tokio::select! {
            exit = exit => exit,
            () = self.token.cancelled() => return,
        };
        let exit = exit.unwrap_or_else(|| Exit {
            code: 137,
            signal: None,
            reason: atoll_runtime::ExitReason::SupervisorLost,
            message: "The container could not be located when the pod was looked at".to_owned(),
            finished_at: Timestamp::now(),
        });
        let inside = Inside::Ended { name: self.name.clone(), attempt: self.attempt, exit };
        // A worker that is gone needs no word.
        let _ = self.tell.send(inside).await;
    }

    /// Readiness carries the startup probe too: the others begin when it has succeeded.
    async fn probe_after_startup(self, kind: Kind, started: bool) {
        let token = self.token.clone();
        let work = async {
            if !started && let Some(probe) = of(&self.place.container, Kind::Startup).cloned() {
                let first = kind == Kind::Readiness;
                if !self.probe(Kind::Startup, &probe, first).await {
                    return;
                }
            }
            if let Some(probe) = of(&self.place.container, kind).cloned() {
                self.probe(kind, &probe, true).await;
            }
        };
        tokio::select! {
            () = work => {}
            () = token.cancelled() => {}
        }
    }

    /// Probes until there is nothing more to find out: a startup probe ends with its verdict, the others with the attempt.
    async fn probe(&self, kind: Kind, probe: &Probe, tell: bool) -> bool {
        let (period, timeout, delay) = times(probe);
        let mut tally = Tally::new(probe);
        let mut last = None;
        tokio::time::sleep(delay).await;
        loop {
            let result = probe_once(&self.place, probe, timeout).await;
            let verdict = tally.count(result.is_ok());
            if let Some(good) = verdict
                && last != Some(good)
            {
                last = Some(good);
                let message = result.err().map(|it| shortened(&it)).unwrap_or_default();
                let (name, attempt) = (self.name.clone(), self.attempt);
                if tell && self.tell.send(Inside::Probe { name, attempt, kind, good, message }).await.is_err() {
                    return false;
                }
                if kind == Kind::Startup {
                    return good;
                }
            }
            tokio::time::sleep(period).await;
        }
    }
}

async fn probe_once(place: &Place, probe: &Probe, timeout: Duration) -> Result<(), String> {
    if let Some(exec) = &probe.exec {
        return run_in(place, exec.command.clone().unwrap_or_default(), timeout).await;
    }
    let address = place.address.ok_or("the pod has no address")?;
    if let Some(socket) = &probe.tcp_socket {
        return tcp(address, port_of(&place.container, &socket.port)?, timeout).await;
    }
    if let Some(get) = &probe.http_get {
        return http(address, port_of(&place.container, &get.port)?, get, timeout).await;
    }
    Ok(())
}

/// Runs a command in the container; the error is what it said.
pub(super) async fn run_in(place: &Place, args: Vec<String>, timeout: Duration) -> Result<(), String> {
    let exec = ExecSpec { args, env: Vec::new(), cwd: None, user: None, timeout: Some(timeout) };
    let output =
        place.runtime.exec_capture(&place.id, exec, OUTPUT_BYTES_MAX).await.map_err(|error| error.to_string())?;
    match output.exit {
        ExecExit::Exited(0) => Ok(()),
        ExecExit::Exited(code) => {
            let said = [output.stdout, output.stderr].concat();
            let said = String::from_utf8_lossy(&said);
            Err(if said.trim().is_empty() { format!("command exited with {code}") } else { said.into_owned() })
        }
        ExecExit::TimedOut => Err(format!("command timed out after {} s", timeout.as_secs())),
    }
}
