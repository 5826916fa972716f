//! Starting a container: what is refused, its image, its environment, its file system, the runtime; and what is said when one of these fails.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::Duration;

use atoll_runtime::{ContainerSpec, Exit, RuntimeError};
use futures_util::FutureExt;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Container, Pod, PodSpec, Secret};
use kube::Api;

use super::Worker;
use super::stop::run_hook;
use super::watch::Place;
use crate::env::{ConfigProblem, environment};
use crate::inputs::{Wanted, fetch};
use crate::launch::{Launch, container_id, hostname, refused};
use crate::log_files;
use crate::observed::{Ended, Seen, SeenState, containers};
use crate::seams::{ImageFacts, ImageProblem, Pull};

/// Before a container is looked at again whose configuration cannot be made.
const CONFIG_AGAIN: SignedDuration = SignedDuration::from_secs(10);

/// kubelet's, doubled with every failure up to the other.
const PULL_AGAIN: SignedDuration = SignedDuration::from_secs(10);
const PULL_AGAIN_MAX: SignedDuration = SignedDuration::from_mins(5);

/// Kubernetes' limit for a termination message.
const MESSAGE_BYTES_MAX: u64 = 4_096;

/// What kubelet reports for a container that could not be started.
const START_ERROR_CODE: i32 = 128;

/// The longest that a postStart hook may hold up what comes after.
const POST_START_MAX: Duration = Duration::from_secs(120);

enum Failure {
    /// Reason and message; looked at again after a while.
    Config(&'static str, String),
    Image(ImageProblem),
    /// The runtime: counts as an attempt.
    Start(String),
    /// The pod is wanted no more.
    Interrupted,
}

impl From<ConfigProblem> for Failure {
    fn from(problem: ConfigProblem) -> Self {
        Self::Config("CreateContainerConfigError", problem.0)
    }
}

impl Worker {
    pub(super) async fn start(&mut self, pod: &Pod, name: &str, attempt: u32) {
        let spec = pod.spec.clone().unwrap_or_default();
        let Some(container) = containers(&spec).map(|(_, it)| it).find(|it| it.name == name).cloned() else { return };
        match self.try_start(pod, &spec, &container, attempt).await {
            Ok(()) => {
                self.history(name).waiting = None;
                self.watch(pod, name, true);
                self.post_start(pod, &container).await;
            }
            Err(Failure::Interrupted) => {}
            Err(Failure::Config(reason, message)) => {
                self.shared.events.send(pod, Some(name), true, "Failed", &format!("Error: {message}"));
                self.hold(name, reason, &message, CONFIG_AGAIN);
            }
            Err(Failure::Image(problem)) => self.image_failed(pod, &container, &problem),
            Err(Failure::Start(message)) => {
                self.shared.events.send(pod, Some(name), true, "Failed", &format!("Error: {message}"));
                let id = format!("{}.{name}.{attempt}", self.uid);
                let now = Timestamp::now();
                let ended = Ended {
                    id: id.clone(),
                    code: START_ERROR_CODE,
                    signal: None,
                    reason: "StartError".to_owned(),
                    message,
                    started_at: None,
                    finished_at: now,
                };
                let history = self.history(name);
                history.waiting = None;
                history.latest = Some(Seen { attempt, id, image_id: String::new(), state: SeenState::Created });
                history.end(ended);
            }
        }
    }

    async fn try_start(
        &mut self,
        pod: &Pod,
        spec: &PodSpec,
        container: &Container,
        attempt: u32,
    ) -> Result<(), Failure> {
        if let Some(why) = refused(spec, container) {
            return Err(Failure::Config("CreateContainerConfigError", why));
        }
        let image = self.image(pod, spec, container).await?;
        let namespace = pod.metadata.namespace.clone().unwrap_or_else(|| "default".to_owned());
        let mut wanted = Wanted::default();
        wanted.environment(container);
        let inputs = tokio::time::timeout(super::API_PATIENCE, fetch(&self.shared.client, &namespace, &wanted)).await;
        let late = |_| Failure::Config("CreateContainerConfigError", "the API server does not answer".to_owned());
        let inputs =
            inputs.map_err(late)?.map_err(|error| Failure::Config("CreateContainerConfigError", error.to_string()))?;
        let links = spec.enable_service_links.unwrap_or(true);
        let services = self.shared.service_variables(&namespace, links).await;
        let facts = self.facts();
        let environment = environment(pod, container, &inputs, &services, &image.env, &facts)?;
        self.clear_old(&container.name, attempt).await.map_err(Failure::Start)?;
        let id = container_id(&self.uid, &container.name, attempt)?;
        let rootfs = self.shared.images.rootfs(&image, id.as_str(), &image.user).await;
        let (rootfs, user) = rootfs.map_err(|problem| Failure::Start(problem.0))?;
        let own_mounts = self.own_files(pod, spec, container, attempt);
        let own_mounts =
            own_mounts.map_err(|error| Failure::Start(format!("could not write the pod's files: {error}")))?;
        let log = self.shared.log_path(pod, &container.name, attempt);
        if let Some(folder) = log.parent() {
            std::fs::create_dir_all(folder)
                .map_err(|error| Failure::Start(format!("no folder for its log: {error}")))?;
            log_files::keep_previous(folder, attempt)
                .map_err(|error| Failure::Start(format!("its old logs cannot be removed: {error}")))?;
        }
        let log_bytes = log_files::file_bytes_max(self.shared.config.storage_bytes);
        let memory_bytes = i128::from(self.shared.config.memory_bytes);
        let launch = Launch {
            pod,
            spec,
            container,
            uid: &self.uid,
            attempt,
            image: &image,
            rootfs,
            user,
            environment,
            mounted: &self.mounted,
            namespace: &self.namespace,
            own_mounts,
            log,
            log_bytes,
            memory_bytes,
        };
        let wish = launch.spec()?;
        self.run_it(pod, container, wish, &image).await
    }

    async fn run_it(
        &mut self,
        pod: &Pod,
        container: &Container,
        wish: ContainerSpec,
        image: &ImageFacts,
    ) -> Result<(), Failure> {
        let (id, attempt) = (wish.id.clone(), wish.attempt);
        let failed = |error: RuntimeError| Failure::Start(error.to_string());
        self.shared.runtime.create(wish).await.map_err(failed)?;
        self.shared.events.send(
            pod,
            Some(&container.name),
            false,
            "Created",
            &format!("Created container: {}", container.name),
        );
        self.shared.runtime.start(&id).await.map_err(failed)?;
        let seen = Seen {
            attempt,
            id: id.as_str().to_owned(),
            image_id: image.id.clone(),
            state: SeenState::Running { since: Timestamp::now() },
        };
        self.history(&container.name).latest = Some(seen);
        self.shared.events.send(
            pod,
            Some(&container.name),
            false,
            "Started",
            &format!("Started container {}", container.name),
        );
        Ok(())
    }

    /// The image, unless the pod is deleted while it is fetched.
    async fn image(&mut self, pod: &Pod, spec: &PodSpec, container: &Container) -> Result<ImageFacts, Failure> {
        let reference = container.image.clone().unwrap_or_default();
        let pull = match container.image_pull_policy.as_deref() {
            Some("Always") => Pull::Always,
            Some("Never") => Pull::Never,
            _ => Pull::IfNotPresent,
        };
        let auth = tokio::time::timeout(super::API_PATIENCE, self.pull_secrets(pod, spec)).await.unwrap_or_default();
        let shared = self.shared.clone();
        let (mut wish, mut cut_off) = (self.wish.clone(), self.shared.cut_off.clone());
        let exclusive = self.observed.exclusive;
        let deleted = async move {
            // A closed channel is an agent that ends: interrupted as well.
            let over = wish.wait_for(|wish| wish.gone || wish.pod.metadata.deletion_timestamp.is_some()).map(drop);
            // Other containers of the pod may have to stop.
            let cut_off = cut_off.wait_for(|cut_off| *cut_off && exclusive).map(drop);
            tokio::select! {
                () = over => {}
                () = cut_off => {}
            }
        };
        let fetched = async {
            let _turn = shared.pulls.acquire().await;
            shared.images.ensure(&reference, pull, &auth).await
        };
        let image = tokio::select! {
            image = fetched => image.map_err(Failure::Image)?,
            () = deleted => return Err(Failure::Interrupted),
        };
        self.pulls_failed.remove(&container.name);
        let text = format!("Container image {reference:?} is present on machine");
        self.shared.events.send(pod, Some(&container.name), false, "Pulled", &text);
        Ok(image)
    }

    fn image_failed(&mut self, pod: &Pod, container: &Container, problem: &ImageProblem) {
        let image = container.image.as_deref().unwrap_or_default();
        let failures = self.pulls_failed.entry(container.name.clone()).or_default();
        *failures += 1;
        let delay = (PULL_AGAIN * 2_i32.pow((*failures - 1).min(6))).min(PULL_AGAIN_MAX);
        let (reason, message) = match problem {
            ImageProblem::InvalidName(why) => {
                ("InvalidImageName", format!("Failed to apply default image tag {image:?}: {why}"))
            }
            ImageProblem::NeverPull(_) => ("ErrImageNeverPull", problem.to_string()),
            ImageProblem::Pull(why) if *failures == 1 => ("ErrImagePull", why.clone()),
            ImageProblem::Pull(why) => {
                let name = "ImagePullBackOff";
                (name, format!("Back-off pulling image {image:?}: ErrImagePull: {why}"))
            }
        };
        // The first failure is shown briefly, then the waiting is.
        let delay = if reason == "ErrImagePull" { SignedDuration::from_secs(2) } else { delay };
        self.shared.events.send(
            pod,
            Some(&container.name),
            true,
            "Failed",
            &format!("Failed to pull image {image:?}: {message}"),
        );
        self.hold(&container.name, reason, &message, delay);
    }

    /// Documents of the pod's `imagePullSecrets`; one that is absent is passed over, as by kubelet.
    async fn pull_secrets(&self, pod: &Pod, spec: &PodSpec) -> Vec<Vec<u8>> {
        let namespace = pod.metadata.namespace.as_deref().unwrap_or("default");
        let secrets: Api<Secret> = Api::namespaced(self.shared.client.clone(), namespace);
        let mut found = Vec::new();
        for reference in spec.image_pull_secrets.iter().flatten() {
            if let Ok(Some(secret)) = secrets.get_opt(&reference.name).await {
                found.extend(docker_config(&secret));
            }
        }
        found
    }

    /// Removes attempts before this one: their end is remembered, their file system is not needed.
    async fn clear_old(&mut self, name: &str, attempt: u32) -> Result<(), String> {
        let history = self.history(name);
        if let Some(ended) = history.ended().cloned() {
            history.previous = Some(ended);
        }
        let containers = self.shared.runtime.containers().await.map_err(|error| error.to_string())?;
        let label = crate::launch::LABEL_CONTAINER;
        let mine = containers.iter().filter(|it| it.sandbox.as_str() == self.uid);
        for old in mine.filter(|it| it.labels.get(label).map(String::as_str) == Some(name) && it.attempt <= attempt) {
            self.shared.runtime.delete(&old.id).await.map_err(|error| error.to_string())?;
            self.shared.images.remove_rootfs(old.id.as_str()).await.map_err(|problem| problem.0)?;
        }
        Ok(())
    }

    async fn post_start(&mut self, pod: &Pod, container: &Container) {
        let Some(hook) = container.lifecycle.as_ref().and_then(|it| it.post_start.clone()) else { return };
        let Some(id) = self.history(&container.name).latest.as_ref().and_then(|seen| seen.id.parse().ok()) else {
            return;
        };
        let runtime = self.shared.runtime.clone();
        let place = Place { runtime, id, address: self.observed.address, container: container.clone() };
        if let Err(error) = run_hook(&place, &hook, POST_START_MAX).await {
            self.shared.events.send(pod, Some(&container.name), true, "FailedPostStartHook", &error);
            self.history(&container.name).health.unhealthy = Some("FailedPostStartHook".to_owned());
        }
    }

    /// `/etc/hosts`, `/etc/hostname`, `/etc/resolv.conf` and the file for the termination message: target and source.
    fn own_files(
        &self,
        pod: &Pod,
        spec: &PodSpec,
        container: &Container,
        attempt: u32,
    ) -> std::io::Result<Vec<(PathBuf, PathBuf)>> {
        let folder = self.shared.volumes.pod(&self.uid).join("etc");
        std::fs::create_dir_all(&folder)?;
        let name = hostname(pod, spec);
        let mut hosts =
            String::from("# Kubernetes-managed hosts file.\n127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost\n");
        if let Some(address) = self.observed.address {
            let full = spec.subdomain.as_ref().map(|subdomain| {
                let namespace = pod.metadata.namespace.as_deref().unwrap_or("default");
                format!("{name}.{subdomain}.{namespace}.svc.{}\t", self.shared.config.cluster_domain)
            });
            hosts.push_str(&format!("{address}\t{}{name}\n", full.unwrap_or_default()));
        }
        for alias in spec.host_aliases.iter().flatten() {
            let names = alias.hostnames.clone().unwrap_or_default().join("\t");
            hosts.push_str(&format!("{}\t{names}\n", alias.ip));
        }
        let files =
            [("hosts", hosts), ("hostname", format!("{name}\n")), ("resolv.conf", self.shared.resolver(pod, spec))];
        let mut mounts = Vec::new();
        for (file, text) in files {
            let path = folder.join(file);
            if std::fs::read_to_string(&path).ok().as_deref() != Some(text.as_str()) {
                std::fs::write(&path, text)?;
            }
            mounts.push((Path::new("/etc").join(file), path));
        }
        let message = self.message_file(&container.name, attempt);
        if let Some(parent) = message.parent() {
            std::fs::create_dir_all(parent)?;
        }
        std::fs::write(&message, b"")?;
        std::fs::set_permissions(&message, std::os::unix::fs::PermissionsExt::from_mode(0o666))?;
        let target = container.termination_message_path.clone().unwrap_or_else(|| "/dev/termination-log".to_owned());
        mounts.push((PathBuf::from(target), message));
        Ok(mounts)
    }

    fn message_file(&self, name: &str, attempt: u32) -> PathBuf {
        self.shared.volumes.pod(&self.uid).join("messages").join(format!("{name}.{attempt}"))
    }

    /// What the container left in its message file, or the end of its log where it asks for that.
    pub(super) fn termination_message(&self, pod: &Pod, name: &str, attempt: u32, exit: &Exit) -> String {
        let mut bytes = Vec::new();
        let file = std::fs::File::open(self.message_file(name, attempt));
        let read = file.and_then(|file| file.take(MESSAGE_BYTES_MAX).read_to_end(&mut bytes));
        if read.is_err() || bytes.is_empty() {
            let spec = pod.spec.clone().unwrap_or_default();
            let policy = containers(&spec)
                .find(|(_, it)| it.name == name)
                .and_then(|(_, it)| it.termination_message_policy.clone());
            if policy.as_deref() == Some("FallbackToLogsOnError") && exit.code != 0 {
                return crate::streams::last_lines(&self.shared.log_path(pod, name, attempt));
            }
        }
        String::from_utf8_lossy(&bytes).into_owned()
    }
}

/// The docker `config.json` in a pull secret, of either type.
fn docker_config(secret: &Secret) -> Option<Vec<u8>> {
    let data = secret.data.as_ref()?;
    if let Some(whole) = data.get(".dockerconfigjson") {
        return Some(whole.0.clone());
    }
    // The older form is the inner object alone.
    let auths: serde_json::Value = serde_json::from_slice(&data.get(".dockercfg")?.0).ok()?;
    serde_json::to_vec(&serde_json::json!({ "auths": auths })).ok()
}
