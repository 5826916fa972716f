//! A [`ContainerSpec`] in the words of the OCI runtime specification, with Docker's defaults for what is mounted, masked and read-only.
//! Pure: what the machine can do is handed in.

use std::path::{Component, Path, PathBuf};

use serde_json::{Value, json};

use crate::capabilities;
use crate::cgroups::{cpu_period, cpu_quota, cpu_shares};
use crate::error::RuntimeError;
use crate::machine::Machine;
use crate::spec::{ContainerSpec, ExecSpec, Mount, MountSource, Network, PidNamespace, Resources, SandboxSpec};

/// The version of the specification that is written.
const VERSION: &str = "1.0.2";
/// For containers that bring no `PATH`: Docker's.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// Most words and variables together in bytes; the kernel takes 2 MiB at most.
const ARGUMENTS_BYTES_MAX: usize = 1 << 20;
/// Longest host name, as the kernel has it.
const HOSTNAME_BYTES_MAX: usize = 64;
/// Hidden from containers: they tell of the host or let it be changed.
const MASKED: [&str; 12] = [
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
];
/// To be seen only.
const READ_ONLY: [&str; 5] = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];
/// Kernel settings that belong to a namespace; all others would change the host's.
const SYSCTLS: [&str; 7] = [
    "kernel.msgmax",
    "kernel.msgmnb",
    "kernel.msgmni",
    "kernel.sem",
    "kernel.shmall",
    "kernel.shmmax",
    "kernel.shmmni",
];

/// What a container's configuration needs besides its own description.
pub(crate) struct Surroundings<'a> {
    pub(crate) machine: &'a Machine,
    pub(crate) cgroup: &'a Path,
    /// The folder with the sandbox's namespaces.
    pub(crate) namespaces: &'a Path,
    /// Of the container whose processes are shared.
    pub(crate) pid_namespace: Option<&'a Path>,
    pub(crate) limits_swap: bool,
}

/// Refuses what makes no sense before anything is made.
pub(crate) fn check(spec: &ContainerSpec) -> Result<(), RuntimeError> {
    let refuse = |reason: String| Err(RuntimeError::invalid(format!("container {}", spec.id), reason));
    if spec.args.first().is_none_or(String::is_empty) {
        return refuse("it has no program to run".to_owned());
    }
    let bytes = spec.args.iter().map(String::len).sum::<usize>()
        + spec.env.iter().map(|(name, value)| name.len() + value.len() + 2).sum::<usize>();
    if bytes > ARGUMENTS_BYTES_MAX {
        return refuse(format!("its arguments and environment have {bytes} bytes, the most are {ARGUMENTS_BYTES_MAX}"));
    }
    if let Some((name, _)) = spec.env.iter().find(|(name, _)| name.is_empty() || name.contains('=')) {
        return refuse(format!("{name:?} cannot be the name of a variable"));
    }
    let texts = spec.args.iter().chain(spec.env.iter().flat_map(|(name, value)| [name, value]));
    if texts.into_iter().any(|text| text.contains('\0')) {
        return refuse("its arguments or environment contain a zero byte".to_owned());
    }
    for path in [&spec.rootfs, &spec.cwd].into_iter().chain(spec.mounts.iter().map(|mount| &mount.target)) {
        if !path.is_absolute() || path.components().any(|part| part == Component::ParentDir) {
            return refuse(format!("{} is not an absolute path without ..", path.display()));
        }
    }
    let own_net = spec.network != Network::Host;
    let unsafe_sysctl = |name: &&String| {
        let known = SYSCTLS.contains(&name.as_str()) || name.starts_with("fs.mqueue.");
        !(known || own_net && name.starts_with("net."))
    };
    if let Some(name) = spec.sysctls.keys().find(unsafe_sysctl) {
        return refuse(format!("sysctl {name} would change the host"));
    }
    Ok(())
}

/// The same for a sandbox.
pub(crate) fn check_sandbox(spec: &SandboxSpec) -> Result<(), RuntimeError> {
    let name = &spec.hostname;
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b".-_".contains(&byte);
    if name.is_empty() || name.len() > HOSTNAME_BYTES_MAX || !name.bytes().all(allowed) {
        let reason = format!("{name:?} is no host name of 1 to {HOSTNAME_BYTES_MAX} letters, digits, dots and hyphens");
        return Err(RuntimeError::invalid(format!("sandbox {}", spec.id), reason));
    }
    Ok(())
}

/// `config.json` of a bundle.
pub(crate) fn config(spec: &ContainerSpec, around: &Surroundings<'_>) -> Result<Value, RuntimeError> {
    let mut mounts = default_mounts(around.machine.cgroup_version == Some(2));
    mounts.extend(spec.mounts.iter().map(mount));
    Ok(json!({
        "ociVersion": VERSION,
        "process": process(spec, around.machine)?,
        "root": {"path": spec.rootfs, "readonly": spec.read_only_rootfs},
        "mounts": mounts,
        "linux": {
            "namespaces": namespaces(spec, around),
            "cgroupsPath": around.cgroup,
            "resources": resources(&spec.resources, around),
            "sysctl": spec.sysctls,
            "rootfsPropagation": "private",
            "maskedPaths": MASKED,
            "readonlyPaths": READ_ONLY,
        },
    }))
}

fn process(spec: &ContainerSpec, machine: &Machine) -> Result<Value, RuntimeError> {
    let set = capabilities::resolve(&spec.capabilities, machine.capabilities);
    let set = set.map_err(|reason| RuntimeError::invalid(format!("container {}", spec.id), reason))?;
    // Another user than root gets none in effect; the bounding set says what set-user-ID programs can give it back.
    let effective: &[String] = if spec.user.uid == 0 { &set } else { &[] };
    let user = &spec.user;
    Ok(json!({
        "terminal": false,
        "user": {"uid": user.uid, "gid": user.gid, "additionalGids": user.additional_gids},
        "args": spec.args,
        "env": environment(&spec.env, user.home.as_deref()),
        "cwd": spec.cwd,
        "capabilities": {
            "bounding": set, "effective": effective, "permitted": effective, "inheritable": [], "ambient": [],
        },
        "noNewPrivileges": spec.no_new_privileges,
        "rlimits": rlimits(spec, machine),
        "oomScoreAdj": machine.oom_score_adj(spec.oom_score_adj),
    }))
}

/// The process of an exec: the container's own with what the exec changes.
pub(crate) fn exec_process(
    spec: &ContainerSpec,
    exec: &ExecSpec,
    terminal: bool,
    machine: &Machine,
) -> Result<Value, RuntimeError> {
    let mut merged = spec.clone();
    merged.args.clone_from(&exec.args);
    merged.env.retain(|(name, _)| !exec.env.iter().any(|(other, _)| other == name));
    merged.env.extend(exec.env.iter().cloned());
    if let Some(cwd) = &exec.cwd {
        merged.cwd.clone_from(cwd);
    }
    if let Some(user) = &exec.user {
        merged.user.clone_from(user);
    }
    check(&merged)?;
    let mut process = process(&merged, machine)?;
    // The score was given to the container; the helper that starts this process need not be able to give it again.
    if let Some(process) = process.as_object_mut() {
        process.remove("oomScoreAdj");
        process.insert("terminal".to_owned(), terminal.into());
    }
    Ok(process)
}

fn environment(own: &[(String, String)], home: Option<&Path>) -> Vec<String> {
    let has = |wanted: &str| own.iter().any(|(name, _)| name == wanted);
    let mut all = Vec::new();
    if !has("PATH") {
        all.push(format!("PATH={PATH}"));
    }
    if let (false, Some(home)) = (has("HOME"), home) {
        all.push(format!("HOME={}", home.display()));
    }
    all.extend(own.iter().map(|(name, value)| format!("{name}={value}")));
    all
}

fn rlimits(spec: &ContainerSpec, machine: &Machine) -> Vec<Value> {
    let clamp = |name: &str, wanted: u64| if machine.raise_limits { wanted } else { wanted.min(hard_limit(name)) };
    let one = |limit: &crate::spec::Rlimit| {
        let hard = clamp(&limit.name, limit.hard);
        json!({"type": limit.name, "soft": limit.soft.min(hard), "hard": hard})
    };
    spec.rlimits.iter().map(one).collect()
}

/// What this process may give at most.
fn hard_limit(name: &str) -> u64 {
    use rustix::process::Resource;
    let resource = match name {
        "RLIMIT_AS" => Resource::As,
        "RLIMIT_CORE" => Resource::Core,
        "RLIMIT_CPU" => Resource::Cpu,
        "RLIMIT_DATA" => Resource::Data,
        "RLIMIT_FSIZE" => Resource::Fsize,
        "RLIMIT_MEMLOCK" => Resource::Memlock,
        "RLIMIT_NOFILE" => Resource::Nofile,
        "RLIMIT_NPROC" => Resource::Nproc,
        "RLIMIT_STACK" => Resource::Stack,
        _ => return u64::MAX,
    };
    rustix::process::getrlimit(resource).maximum.unwrap_or(u64::MAX)
}

fn namespaces(spec: &ContainerSpec, around: &Surroundings<'_>) -> Vec<Value> {
    let mut all = vec![
        json!({"type": "mount"}),
        json!({"type": "ipc", "path": around.namespaces.join("ipc")}),
        json!({"type": "uts", "path": around.namespaces.join("uts")}),
    ];
    match &spec.network {
        Network::Path(path) => all.push(json!({"type": "network", "path": path})),
        Network::None => all.push(json!({"type": "network"})),
        Network::Host => {}
    }
    match (&spec.pid, around.pid_namespace) {
        (PidNamespace::Private, _) => all.push(json!({"type": "pid"})),
        (PidNamespace::Of(_), Some(path)) => all.push(json!({"type": "pid", "path": path})),
        (PidNamespace::Of(_), None) | (PidNamespace::Host, _) => {}
    }
    if around.machine.cgroup_version == Some(2) {
        all.push(json!({"type": "cgroup"}));
    }
    all
}

fn resources(limits: &Resources, around: &Surroundings<'_>) -> Value {
    let has = |name: &str| around.machine.controllers.iter().any(|it| it == name);
    // All devices but the usual ones, which libcontainer allows again.
    let mut all = json!({"devices": [{"allow": false, "access": "rwm"}]});
    if let Some(memory) = limits.memory.filter(|_| has("memory")) {
        all["memory"] = json!({"limit": memory.0});
        if around.limits_swap {
            all["memory"]["swap"] = json!(memory.0);
        }
    }
    if has("cpu") {
        all["cpu"] = json!({"shares": cpu_shares(limits.cpu_millis_request)});
        if let Some(millis) = limits.cpu_millis_max {
            all["cpu"]["quota"] = json!(cpu_quota(millis));
            all["cpu"]["period"] = json!(cpu_period());
        }
    }
    if let Some(pids) = limits.pids.filter(|_| has("pids")) {
        all["pids"] = json!({"limit": pids});
    }
    all
}

/// Cgroups are shown on version 2 only, where the container has a namespace of its own. libcontainer mounts those of version 1 so that root
/// in the container can write to them, and raise its own limits.
fn default_mounts(cgroups: bool) -> Vec<Value> {
    let one = |target: &str, kind: &str, options: &[&str]| json!({"destination": target, "type": kind, "source": kind, "options": options});
    let mut all = vec![
        one("/proc", "proc", &["nosuid", "noexec", "nodev"]),
        one("/dev", "tmpfs", &["nosuid", "strictatime", "mode=755", "size=65536k"]),
        one("/dev/pts", "devpts", &["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]),
        one("/dev/shm", "tmpfs", &["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"]),
        one("/dev/mqueue", "mqueue", &["nosuid", "noexec", "nodev"]),
        one("/sys", "sysfs", &["nosuid", "noexec", "nodev", "ro"]),
    ];
    if cgroups {
        all.push(one("/sys/fs/cgroup", "cgroup", &["nosuid", "noexec", "nodev", "relatime", "ro"]));
    }
    all
}

fn mount(mount: &Mount) -> Value {
    let access = if mount.read_only { "ro" } else { "rw" };
    match &mount.source {
        MountSource::Bind(source) => json!({
            "destination": mount.target, "type": "bind", "source": source,
            "options": ["rbind", "rprivate", "nosuid", "nodev", access],
        }),
        MountSource::Tmpfs { size } => {
            let mut options: Vec<String> =
                ["nosuid", "nodev", "mode=1777", access].into_iter().map(str::to_owned).collect();
            options.extend(size.map(|size| format!("size={}", size.0)));
            json!({"destination": mount.target, "type": "tmpfs", "source": "tmpfs", "options": options})
        }
    }
}

/// The namespace of a process, for another container to join.
pub(crate) fn pid_namespace_of(pid: u32) -> PathBuf {
    PathBuf::from(format!("/proc/{pid}/ns/pid"))
}
