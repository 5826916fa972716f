//! What an agent needs, pretended: a runtime whose containers end when told, a network of addresses, volumes that note what is mounted.

use std::collections::BTreeMap;
use std::net::Ipv6Addr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use atoll_agent::streams::Streams;
use atoll_agent::{
    Agent, Attached, Config, ImageFacts, ImageProblem, ImageSource, Network, Parts, Problem, Pull, UserIds,
    VolumeDriver, VolumeRequest,
};
use atoll_podnet::{PodKey, Policies, Services};
use atoll_runtime::{
    ContainerId, ContainerSpec, ContainerStatus, ExecExit, ExecIo, ExecOutput, ExecSpec, Exit, ExitReason, GroupName,
    GroupSpec, Machine, Runtime, RuntimeError, SandboxId, SandboxSpec, SandboxStatus, Signal, State, Target, Usage,
};
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use jiff::Timestamp;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::api::Api;

const PATIENCE: Duration = Duration::from_secs(30);

pub(crate) struct World {
    pub(crate) api: Api,
    pub(crate) runtime: Arc<Pretended>,
    pub(crate) network: Arc<Addresses>,
    pub(crate) volumes: Arc<Mounts>,
    dir: tempfile::TempDir,
}

pub(crate) struct Running {
    pub(crate) streams: Streams,
    stop: CancellationToken,
    task: tokio::task::JoinHandle<()>,
}

impl Running {
    /// As when the process is killed: nothing is tidied.
    pub(crate) async fn stop(self) {
        self.stop.cancel();
        self.task.await.unwrap();
    }
}

impl World {
    pub(crate) fn new() -> Self {
        Self {
            api: Api::new(),
            runtime: Arc::new(Pretended::default()),
            network: Arc::new(Addresses::default()),
            volumes: Arc::new(Mounts::default()),
            dir: tempfile::tempdir().unwrap(),
        }
    }

    pub(crate) fn dir(&self) -> &Path {
        self.dir.path()
    }

    pub(crate) fn start(&self) -> Running {
        let stop = CancellationToken::new();
        let agent = self.agent("agent", None);
        Running { streams: agent.streams(), stop: stop.clone(), task: tokio::spawn(agent.run(stop)) }
    }

    /// What another agent on this machine, for pods in this group, can reach.
    pub(crate) fn streams_of(&self, group: &str) -> Streams {
        self.agent("other", Some(group.parse().unwrap())).streams()
    }

    fn agent(&self, dir: &str, group: Option<GroupName>) -> Agent {
        let mut config = Config::new("n1", self.dir().join(dir), self.dir().join("volatile"));
        config.group = group;
        config.addresses = vec!["fd00::1".to_owned()];
        config.lease_renew = Duration::from_millis(100);
        config.cut_off_after = Duration::from_secs(1);
        let parts = Parts {
            client: self.api.client(),
            runtime: self.runtime.clone(),
            network: self.network.clone(),
            images: Arc::new(Images),
            volumes: self.volumes.clone(),
        };
        Agent::new(config, parts).unwrap()
    }
}

#[derive(Default)]
struct Inside {
    sandboxes: BTreeMap<SandboxId, SandboxSpec>,
    containers: BTreeMap<ContainerId, (ContainerSpec, State, Option<Timestamp>)>,
    signals: Vec<(String, i32)>,
    created: Vec<String>,
    exec: i32,
}

/// A runtime without processes.
pub(crate) struct Pretended {
    inside: Mutex<Inside>,
    changed: watch::Sender<()>,
}

impl Default for Pretended {
    fn default() -> Self {
        Self { inside: Mutex::default(), changed: watch::channel(()).0 }
    }
}

impl Pretended {
    fn with<T>(&self, work: impl FnOnce(&mut Inside) -> T) -> T {
        let result = work(&mut self.inside.lock().unwrap());
        self.changed.send_replace(());
        result
    }

    pub(crate) fn end(&self, id: &str, code: i32) {
        self.with(|inside| {
            let reason = if code == 0 { ExitReason::Completed } else { ExitReason::Error };
            let exit = Exit { code, signal: None, reason, message: String::new(), finished_at: Timestamp::now() };
            let container = inside.containers.get_mut(&id.parse().unwrap()).unwrap();
            if !matches!(container.1, State::Exited(_)) {
                container.1 = State::Exited(exit);
            }
        });
    }

    fn names(inside: &Inside) -> Vec<String> {
        let running = inside.containers.iter().filter(|(_, it)| it.1 == State::Running);
        running.map(|(id, _)| id.as_str().to_owned()).collect()
    }

    pub(crate) fn running(&self) -> usize {
        Self::names(&self.inside.lock().unwrap()).len()
    }

    pub(crate) async fn until(&self, good: impl Fn(&[String]) -> bool) {
        let mut changed = self.changed.subscribe();
        let wait = changed.wait_for(|()| good(&Self::names(&self.inside.lock().unwrap())));
        tokio::time::timeout(PATIENCE, wait).await.expect("other containers run").unwrap();
    }

    pub(crate) fn is_empty(&self) -> bool {
        let inside = self.inside.lock().unwrap();
        inside.containers.is_empty() && inside.sandboxes.is_empty()
    }

    pub(crate) fn signals(&self, id: &str) -> Vec<i32> {
        let inside = self.inside.lock().unwrap();
        inside.signals.iter().filter(|(to, _)| to == id).map(|(_, signal)| *signal).collect()
    }

    pub(crate) fn created(&self, id: &str) -> usize {
        self.inside.lock().unwrap().created.iter().filter(|it| *it == id).count()
    }

    pub(crate) fn spec(&self, id: &str) -> ContainerSpec {
        self.inside.lock().unwrap().containers[&id.parse().unwrap()].0.clone()
    }

    pub(crate) fn set_exec(&self, code: i32) {
        self.inside.lock().unwrap().exec = code;
    }
}

fn done<'a, T: Send + 'a>(value: T) -> BoxFuture<'a, Result<T, RuntimeError>> {
    std::future::ready(Ok(value)).boxed()
}

fn status(spec: &ContainerSpec, state: &State, started_at: Option<Timestamp>) -> ContainerStatus {
    ContainerStatus {
        id: spec.id.clone(),
        sandbox: spec.sandbox.clone(),
        attempt: spec.attempt,
        labels: spec.labels.clone(),
        state: state.clone(),
        pid: None,
        created_at: Timestamp::now(),
        started_at,
        log_path: spec.log.path.clone(),
    }
}

impl Runtime for Pretended {
    fn machine(&self) -> &Machine {
        unreachable!("the agent does not ask for the machine")
    }

    fn set_group(&self, _: GroupSpec) -> BoxFuture<'_, Result<(), RuntimeError>> {
        done(())
    }

    fn remove_group<'a>(&'a self, _: &'a GroupName) -> BoxFuture<'a, Result<(), RuntimeError>> {
        done(())
    }

    fn create_sandbox(&self, sandbox: SandboxSpec) -> BoxFuture<'_, Result<(), RuntimeError>> {
        self.with(|inside| inside.sandboxes.insert(sandbox.id.clone(), sandbox));
        done(())
    }

    fn remove_sandbox<'a>(&'a self, id: &'a SandboxId) -> BoxFuture<'a, Result<(), RuntimeError>> {
        self.with(|inside| {
            inside.sandboxes.remove(id);
            inside.containers.retain(|_, it| it.0.sandbox != *id);
        });
        done(())
    }

    fn sandboxes(&self) -> BoxFuture<'_, Result<Vec<SandboxStatus>, RuntimeError>> {
        let inside = self.inside.lock().unwrap();
        let all = inside.sandboxes.values().map(|it| SandboxStatus {
            id: it.id.clone(),
            group: it.group.clone(),
            labels: it.labels.clone(),
            created_at: Timestamp::now(),
            ready: true,
        });
        done(all.collect())
    }

    fn create(&self, container: ContainerSpec) -> BoxFuture<'_, Result<(), RuntimeError>> {
        self.with(|inside| {
            inside.created.push(container.id.as_str().to_owned());
            inside.containers.insert(container.id.clone(), (container, State::Created, None));
        });
        done(())
    }

    fn start<'a>(&'a self, id: &'a ContainerId) -> BoxFuture<'a, Result<(), RuntimeError>> {
        self.with(|inside| {
            let container = inside.containers.get_mut(id).unwrap();
            (container.1, container.2) = (State::Running, Some(Timestamp::now()));
        });
        done(())
    }

    fn status<'a>(&'a self, id: &'a ContainerId) -> BoxFuture<'a, Result<ContainerStatus, RuntimeError>> {
        let inside = self.inside.lock().unwrap();
        let found = inside.containers.get(id).map(|it| status(&it.0, &it.1, it.2));
        std::future::ready(found.ok_or_else(|| RuntimeError::NotFound(id.to_string()))).boxed()
    }

    fn containers(&self) -> BoxFuture<'_, Result<Vec<ContainerStatus>, RuntimeError>> {
        let inside = self.inside.lock().unwrap();
        done(inside.containers.values().map(|it| status(&it.0, &it.1, it.2)).collect())
    }

    fn wait<'a>(&'a self, id: &'a ContainerId) -> BoxFuture<'a, Result<Exit, RuntimeError>> {
        async move {
            let mut changed = self.changed.subscribe();
            loop {
                changed.borrow_and_update();
                if let State::Exited(exit) = self.status(id).await?.state {
                    return Ok(exit);
                }
                changed.changed().await.unwrap();
            }
        }
        .boxed()
    }

    fn kill<'a>(&'a self, id: &'a ContainerId, signal: Signal, _: Target) -> BoxFuture<'a, Result<(), RuntimeError>> {
        self.with(|inside| inside.signals.push((id.as_str().to_owned(), signal.number())));
        self.end(id.as_str(), 128 + signal.number());
        done(())
    }

    fn delete<'a>(&'a self, id: &'a ContainerId) -> BoxFuture<'a, Result<(), RuntimeError>> {
        self.with(|inside| inside.containers.remove(id));
        done(())
    }

    fn exec<'a>(&'a self, _: &'a ContainerId, _: ExecSpec, _: ExecIo) -> BoxFuture<'a, Result<ExecExit, RuntimeError>> {
        done(ExecExit::Exited(self.inside.lock().unwrap().exec))
    }

    fn exec_capture<'a>(
        &'a self,
        _: &'a ContainerId,
        _: ExecSpec,
        _: usize,
    ) -> BoxFuture<'a, Result<ExecOutput, RuntimeError>> {
        let exit = ExecExit::Exited(self.inside.lock().unwrap().exec);
        done(ExecOutput { exit, stdout: Vec::new(), stderr: Vec::new() })
    }

    fn usage<'a>(&'a self, _: &'a ContainerId) -> BoxFuture<'a, Result<Usage, RuntimeError>> {
        done(Usage::default())
    }
}

/// Something that tests wait to change.
struct Watched<T>(watch::Sender<T>);

impl<T: Default> Default for Watched<T> {
    fn default() -> Self {
        Self(watch::channel(T::default()).0)
    }
}

impl<T> Watched<T> {
    async fn until(&self, good: impl Fn(&T) -> bool) {
        let mut seen = self.0.subscribe();
        let wait = seen.wait_for(|it| good(it));
        assert!(tokio::time::timeout(PATIENCE, wait).await.is_ok(), "it stays as it is");
    }
}

/// A network without interfaces.
#[derive(Default)]
pub(crate) struct Addresses {
    pods: Watched<BTreeMap<PodKey, Ipv6Addr>>,
    services: Watched<Services>,
    policies: Watched<Policies>,
}

impl Addresses {
    pub(crate) fn is_empty(&self) -> bool {
        self.pods.0.borrow().is_empty()
    }

    pub(crate) async fn until_empty(&self) {
        self.pods.until(BTreeMap::is_empty).await;
    }

    pub(crate) async fn until_attached(&self) {
        self.pods.until(|pods| !pods.is_empty()).await;
    }

    pub(crate) async fn until_policies(&self, good: impl Fn(&Policies) -> bool) {
        self.policies.until(good).await;
    }

    pub(crate) async fn until_services(&self, good: impl Fn(&Services) -> bool) {
        self.services.until(good).await;
    }
}

impl Network for Addresses {
    fn attach<'a>(&'a self, pod: &'a PodKey) -> BoxFuture<'a, Result<(Ipv6Addr, PathBuf), Problem>> {
        let next = u16::try_from(self.pods.0.borrow().len() + 1).unwrap();
        self.pods.0.send_modify(|pods| {
            pods.entry(pod.clone()).or_insert(Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 1, next));
        });
        let address = self.pods.0.borrow()[pod];
        std::future::ready(Ok((address, PathBuf::from("/netns")))).boxed()
    }

    fn detach<'a>(&'a self, pod: &'a PodKey) -> BoxFuture<'a, Result<(), Problem>> {
        self.pods.0.send_modify(|pods| {
            pods.remove(pod);
        });
        std::future::ready(Ok(())).boxed()
    }

    fn attached(&self) -> Vec<PodKey> {
        self.pods.0.borrow().keys().cloned().collect()
    }

    fn set_services<'a>(&'a self, services: &'a Services) -> BoxFuture<'a, Result<Vec<String>, Problem>> {
        self.services.0.send_replace(services.clone());
        std::future::ready(Ok(Vec::new())).boxed()
    }

    fn set_policies<'a>(&'a self, policies: &'a Policies) -> BoxFuture<'a, Result<Vec<String>, Problem>> {
        self.policies.0.send_replace(policies.clone());
        std::future::ready(Ok(Vec::new())).boxed()
    }

    fn is_known<'a>(&'a self, pod: &'a PodKey) -> BoxFuture<'a, bool> {
        let known = self.policies.0.borrow().pods.contains_key(pod);
        std::future::ready(known).boxed()
    }
}

/// Volumes that are only noted.
#[derive(Default)]
pub(crate) struct Mounts {
    mounted: Watched<BTreeMap<PathBuf, String>>,
    times: std::sync::atomic::AtomicUsize,
}

impl Mounts {
    pub(crate) fn mounted(&self) -> Vec<String> {
        self.mounted.0.borrow().values().cloned().collect()
    }

    /// How often one was mounted that was not.
    pub(crate) fn times(&self) -> usize {
        self.times.load(std::sync::atomic::Ordering::SeqCst)
    }

    /// As when the process that served them is killed.
    pub(crate) fn lose(&self) {
        self.mounted.0.send_modify(BTreeMap::clear);
    }

    pub(crate) async fn until_empty(&self) {
        self.mounted.until(BTreeMap::is_empty).await;
    }
}

impl VolumeDriver for Mounts {
    fn mount<'a>(&'a self, request: &'a VolumeRequest) -> BoxFuture<'a, Result<Attached, Problem>> {
        let mut attached = Attached::Kept;
        self.mounted.0.send_modify(|mounted| {
            if mounted.insert(request.target.clone(), request.handle.clone()).is_none() {
                attached = Attached::Anew;
                self.times.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
            }
        });
        std::future::ready(Ok(attached)).boxed()
    }

    fn unmount<'a>(&'a self, target: &'a Path) -> BoxFuture<'a, Result<(), Problem>> {
        self.mounted.0.send_modify(|mounted| {
            mounted.remove(target);
        });
        std::future::ready(Ok(())).boxed()
    }
}

/// Every image is there, and nothing is in it.
struct Images;

impl ImageSource for Images {
    fn ensure<'a>(
        &'a self,
        reference: &'a str,
        _: Pull,
        _: &'a [Vec<u8>],
    ) -> BoxFuture<'a, Result<ImageFacts, ImageProblem>> {
        let facts = ImageFacts { reference: reference.to_owned(), id: "sha256:0".to_owned(), ..ImageFacts::default() };
        std::future::ready(Ok(facts)).boxed()
    }

    fn rootfs<'a>(
        &'a self,
        _: &'a ImageFacts,
        id: &'a str,
        _: &'a str,
    ) -> BoxFuture<'a, Result<(PathBuf, UserIds), Problem>> {
        std::future::ready(Ok((Path::new("/rootfs").join(id), UserIds::default()))).boxed()
    }

    fn remove_rootfs<'a>(&'a self, _: &'a str) -> BoxFuture<'a, Result<(), Problem>> {
        std::future::ready(Ok(())).boxed()
    }
}
