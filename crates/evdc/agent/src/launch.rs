//! What the runtime is asked for, for one container of a pod (pure), and what of a pod is refused here, by name.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use atoll_ids::ByteCount;
use atoll_runtime::{
    Capabilities, ContainerId, ContainerSpec, LogTarget, Mount, MountSource, Network, PidNamespace, Resources,
    SandboxId, User,
};
use k8s_openapi::api::core::v1::{Container, Pod, PodSpec};

use crate::env::{ConfigProblem, expand};
use crate::probes;
use crate::quantity::{thousandths, units};
use crate::seams::{ImageFacts, UserIds};
use crate::status::quality;
use crate::volumes::Mounted;

/// Labels by which a container is recognised after a restart of this program.
pub(crate) const LABEL_NAMESPACE: &str = "atoll.cloud/namespace";
/// The pod's name.
pub(crate) const LABEL_POD: &str = "atoll.cloud/pod";
/// The container's name.
pub(crate) const LABEL_CONTAINER: &str = "atoll.cloud/container";
/// The image's digest.
pub(crate) const LABEL_IMAGE: &str = "atoll.cloud/image";
/// The signal that asks it to end.
pub(crate) const LABEL_STOP_SIGNAL: &str = "atoll.cloud/stop-signal";

/// kubelet's default for the files of a container's log.
const LOG_FILES: u32 = 5;

/// Linux's limit.
const HOSTNAME_BYTES_MAX: usize = 63;

/// Everything that a container is made from.
pub(crate) struct Launch<'a> {
    pub(crate) pod: &'a Pod,
    pub(crate) spec: &'a PodSpec,
    pub(crate) container: &'a Container,
    pub(crate) uid: &'a str,
    pub(crate) attempt: u32,
    pub(crate) image: &'a ImageFacts,
    pub(crate) rootfs: PathBuf,
    pub(crate) user: UserIds,
    pub(crate) environment: BTreeMap<String, String>,
    pub(crate) mounted: &'a Mounted,
    pub(crate) namespace: &'a Path,
    /// Made by the agent: `/etc/hosts` and the like, target and source.
    pub(crate) own_mounts: Vec<(PathBuf, PathBuf)>,
    pub(crate) log: PathBuf,
    /// From which size a new file is begun for it.
    pub(crate) log_bytes: u64,
    /// Bytes that all pods of the node may use.
    pub(crate) memory_bytes: i128,
}

/// The id of an attempt.
pub(crate) fn container_id(uid: &str, name: &str, attempt: u32) -> Result<ContainerId, ConfigProblem> {
    format!("{uid}.{name}.{attempt}")
        .parse()
        .map_err(|error: atoll_runtime::NameError| ConfigProblem(error.to_string()))
}

/// What of this container is not done here; `None` if all of it is.
pub(crate) fn refused(spec: &PodSpec, container: &Container) -> Option<String> {
    let context = container.security_context.clone().unwrap_or_default();
    let on = |flag: Option<bool>| flag == Some(true);
    let profile =
        context.seccomp_profile.as_ref().or(spec.security_context.as_ref().and_then(|it| it.seccomp_profile.as_ref()));
    let whole = [
        (on(spec.host_network), "hostNetwork: pods have a network of their own"),
        (on(spec.host_pid) || on(spec.host_ipc), "hostPID and hostIPC would open the node to pods"),
        (on(spec.share_process_namespace), "shareProcessNamespace is not offered"),
        (spec.runtime_class_name.is_some(), "no runtimeClassName is offered but the default one: leave it out"),
        (
            on(context.privileged),
            "privileged containers would own the node; add the capabilities that are needed instead",
        ),
        (context.proc_mount.as_deref().is_some_and(|it| it != "Default"), "procMount can only be Default"),
        (profile.is_some_and(|it| it.type_ == "Localhost"), "seccompProfile Localhost is not offered"),
        (on(container.tty) || on(container.stdin), "stdin and tty are not offered: use kubectl exec"),
        (container.volume_devices.as_ref().is_some_and(|it| !it.is_empty()), "volumeDevices are not offered"),
    ];
    let found = whole.into_iter().find_map(|(is, why)| is.then(|| why.to_owned()));
    let mount = || {
        let part = |text: &Option<String>| text.as_deref().is_some_and(|text| !text.is_empty());
        let mut mounts = container.volume_mounts.iter().flatten();
        mounts.find(|it| part(&it.sub_path) || part(&it.sub_path_expr)).map(|it| {
            format!(
                "subPath (of {}) is not offered: mount the volume, or choose single files by its items",
                it.mount_path
            )
        })
    };
    let propagation = || {
        let mut mounts = container.volume_mounts.iter().flatten();
        let other = mounts.find(|it| it.mount_propagation.as_deref().is_some_and(|it| it != "None"));
        other.map(|it| format!("mountPropagation (of {}) can only be None", it.mount_path))
    };
    found.or_else(mount).or_else(propagation).or_else(|| probes::refused(container))
}

impl Launch<'_> {
    /// The container, complete.
    pub(crate) fn spec(mut self) -> Result<ContainerSpec, ConfigProblem> {
        let problem = |text: String| ConfigProblem(text);
        let id = container_id(self.uid, &self.container.name, self.attempt)?;
        let sandbox: SandboxId =
            self.uid.parse().map_err(|error: atoll_runtime::NameError| problem(error.to_string()))?;
        // As container engines do; programs take their own name from it.
        self.environment.entry("HOSTNAME".to_owned()).or_insert_with(|| hostname(self.pod, self.spec));
        let args = self.command_line()?;
        let user = self.user()?;
        let mounts = self.mounts()?;
        let context = self.container.security_context.clone().unwrap_or_default();
        let capabilities = context.capabilities.unwrap_or_default();
        let cwd = self.container.working_dir.clone().filter(|it| !it.is_empty());
        let cwd = cwd.or_else(|| Some(self.image.working_dir.clone()).filter(|it| !it.is_empty()));
        let text = |value: &Option<String>| value.clone().unwrap_or_default();
        let signal = self.image.stop_signal.clone().unwrap_or_else(|| "SIGTERM".to_owned());
        let labels = [
            (LABEL_NAMESPACE, text(&self.pod.metadata.namespace)),
            (LABEL_POD, text(&self.pod.metadata.name)),
            (LABEL_CONTAINER, self.container.name.clone()),
            (LABEL_IMAGE, self.image.id.clone()),
            (LABEL_STOP_SIGNAL, signal),
        ];
        let sysctls = self.spec.security_context.iter().filter_map(|it| it.sysctls.as_ref()).flatten();
        Ok(ContainerSpec {
            id,
            sandbox,
            attempt: self.attempt,
            labels: labels.into_iter().map(|(name, value)| (name.to_owned(), value)).collect(),
            rootfs: self.rootfs.clone(),
            read_only_rootfs: context.read_only_root_filesystem == Some(true),
            args,
            cwd: PathBuf::from(cwd.unwrap_or_else(|| "/".to_owned())),
            user,
            mounts,
            network: Network::Path(self.namespace.to_owned()),
            pid: PidNamespace::Private,
            capabilities: Capabilities {
                add: capabilities.add.unwrap_or_default(),
                drop: capabilities.drop.unwrap_or_default(),
            },
            no_new_privileges: context.allow_privilege_escalation == Some(false),
            rlimits: Vec::new(),
            sysctls: sysctls.map(|it| (it.name.clone(), it.value.clone())).collect(),
            resources: resources(self.container)?,
            oom_score_adj: oom_score(self.spec, self.container, self.memory_bytes),
            log: LogTarget { path: self.log.clone(), max_bytes: ByteCount(self.log_bytes), files: LOG_FILES },
            env: std::mem::take(&mut self.environment).into_iter().collect(),
        })
    }

    /// `command` replaces the image's entrypoint and its arguments, `args` the arguments alone.
    fn command_line(&self) -> Result<Vec<String>, ConfigProblem> {
        let given = |list: &Option<Vec<String>>| list.clone().filter(|list| !list.is_empty());
        let expanded = |list: Vec<String>| list.iter().map(|it| expand(it, &self.environment)).collect::<Vec<_>>();
        let (command, arguments) = (given(&self.container.command), given(&self.container.args));
        let mut line = command.clone().map_or_else(|| self.image.entrypoint.clone(), expanded);
        match (command, arguments) {
            (_, Some(arguments)) => line.extend(arguments.iter().map(|it| expand(it, &self.environment))),
            (None, None) => line.extend(self.image.cmd.clone()),
            (Some(_), None) => {}
        }
        if line.is_empty() {
            return Err(ConfigProblem(format!("no command specified for container {}", self.container.name)));
        }
        Ok(line)
    }

    fn user(&self) -> Result<User, ConfigProblem> {
        let own = self.container.security_context.clone().unwrap_or_default();
        let pod = self.spec.security_context.clone().unwrap_or_default();
        let number = |value: Option<i64>| value.map(u32::try_from).transpose();
        let wrong = |_| ConfigProblem("users and groups are numbers from 0 to 4294967295".to_owned());
        let mut user = self.user.clone();
        if let Some(uid) = number(own.run_as_user.or(pod.run_as_user)).map_err(wrong)? {
            user.uid = uid;
        }
        if let Some(gid) = number(own.run_as_group.or(pod.run_as_group)).map_err(wrong)? {
            user.gid = gid;
        }
        for group in pod.supplemental_groups.iter().flatten().copied().chain(pod.fs_group) {
            let group = u32::try_from(group).map_err(wrong)?;
            if !user.additional_gids.contains(&group) {
                user.additional_gids.push(group);
            }
        }
        if own.run_as_non_root.or(pod.run_as_non_root) == Some(true) && user.uid == 0 {
            let of = |text: &Option<String>| text.clone().unwrap_or_default();
            let meta = &self.pod.metadata;
            return Err(ConfigProblem(format!(
                "container has runAsNonRoot and image will run as root (pod: \"{}_{}({})\", container: {})",
                of(&meta.name),
                of(&meta.namespace),
                self.uid,
                self.container.name
            )));
        }
        let mut result = User::default();
        (result.uid, result.gid, result.additional_gids) = (user.uid, user.gid, user.additional_gids);
        Ok(result)
    }

    fn mounts(&self) -> Result<Vec<Mount>, ConfigProblem> {
        let bind = |source: &Path, target: &Path, read_only| Mount {
            source: MountSource::Bind(source.to_owned()),
            target: target.to_owned(),
            read_only,
        };
        let taken =
            |target: &Path| self.container.volume_mounts.iter().flatten().any(|it| Path::new(&it.mount_path) == target);
        let own = self.own_mounts.iter().filter(|(target, _)| !taken(target));
        let mut mounts: Vec<Mount> = own.map(|(target, source)| bind(source, target, false)).collect();
        for mount in self.container.volume_mounts.iter().flatten() {
            let folder = self.mounted.folders.get(&mount.name);
            let folder = folder.ok_or_else(|| ConfigProblem(format!("volume {:?} not found", mount.name)))?;
            let target = Path::new(&mount.mount_path);
            let clean = target.components().all(|it| !matches!(it, std::path::Component::ParentDir));
            if !clean {
                return Err(ConfigProblem(format!("the mount path {:?} must not contain ..", mount.mount_path)));
            }
            let target = if target.is_absolute() { target.to_owned() } else { Path::new("/").join(target) };
            // What is made of objects belongs to the agent.
            let of_objects = self.spec.volumes.iter().flatten().find(|it| it.name == mount.name).is_some_and(|it| {
                it.config_map.is_some() || it.secret.is_some() || it.projected.is_some() || it.downward_api.is_some()
            });
            mounts.push(bind(folder, &target, mount.read_only == Some(true) || of_objects));
        }
        // What is mounted below something else comes after it.
        mounts.sort_by_key(|mount| mount.target.components().count());
        Ok(mounts)
    }
}

/// Limits and requests of a container.
pub(crate) fn resources(container: &Container) -> Result<Resources, ConfigProblem> {
    let given = container.resources.clone().unwrap_or_default();
    let (limits, requests) = (given.limits.unwrap_or_default(), given.requests.unwrap_or_default());
    let wrong = || ConfigProblem(format!("container {}: a quantity of its resources cannot be read", container.name));
    let millis = |of: Option<&k8s_openapi::apimachinery::pkg::api::resource::Quantity>| {
        of.map(|it| thousandths(it).and_then(|it| u32::try_from(it).ok()).ok_or_else(wrong)).transpose()
    };
    let memory = limits.get("memory").map(|it| units(it).ok_or_else(wrong)).transpose()?;
    Ok(Resources {
        memory: memory.map(ByteCount),
        cpu_millis_max: millis(limits.get("cpu"))?,
        cpu_millis_request: millis(requests.get("cpu").or(limits.get("cpu")))?,
        pids: None,
    })
}

/// As kubelet: who has promised the least goes first.
fn oom_score(spec: &PodSpec, container: &Container, memory_bytes: i128) -> i32 {
    match quality(spec) {
        "Guaranteed" => -997,
        "BestEffort" => 1_000,
        _ => {
            let requests = container.resources.as_ref().and_then(|it| it.requests.as_ref());
            let asked = requests.and_then(|it| it.get("memory")).and_then(units).unwrap_or_default();
            let share = i128::from(asked).saturating_mul(1_000) / memory_bytes.max(1);
            i32::try_from((1_000 - share).clamp(3, 999)).unwrap_or(999)
        }
    }
}

/// What `hostname` says: as asked, or the pod's name, cut to what Linux takes.
pub(crate) fn hostname(pod: &Pod, spec: &PodSpec) -> String {
    let name = spec.hostname.clone().or_else(|| pod.metadata.name.clone()).unwrap_or_else(|| "pod".to_owned());
    let cut: String = name.chars().take(HOSTNAME_BYTES_MAX).collect();
    cut.trim_end_matches(['-', '.']).to_owned()
}

#[cfg(test)]
mod tests;
