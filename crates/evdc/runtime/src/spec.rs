//! What is wanted of a runtime: neutral descriptions that an embedded runtime and a CRI implementation can both follow.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use atoll_ids::ByteCount;
use atoll_images::User;
use serde::{Deserialize, Serialize};

use crate::names::{ContainerId, GroupName, SandboxId};

/// Limits and shares. `None` is no limit of its own; those of what is around still hold.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resources {
    /// Most memory; beyond it the kernel kills.
    pub memory: Option<ByteCount>,
    /// Most processor time in thousandths of a core.
    pub cpu_millis_max: Option<u32>,
    /// Share of processor time when there is not enough, in thousandths of a core: a request.
    pub cpu_millis_request: Option<u32>,
    /// Most processes and threads.
    pub pids: Option<u32>,
}

/// A group of sandboxes under common limits: a lease.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupSpec {
    /// Its name.
    pub name: GroupName,
    /// What all its containers together may use.
    pub limits: Resources,
}

/// What the containers of a pod share: host name, System V IPC, a cgroup.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SandboxSpec {
    /// Its name.
    pub id: SandboxId,
    /// In which group; `None` for the node's own.
    pub group: Option<GroupName>,
    /// What `hostname` says in its containers; 64 bytes at most.
    pub hostname: String,
    /// What its containers together may use.
    pub resources: Resources,
    /// Kept and given back, for the caller to recognise it by.
    pub labels: BTreeMap<String, String>,
}

/// Where a mount comes from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum MountSource {
    /// A file or directory of the host, with what is mounted below it.
    Bind(PathBuf),
    /// Memory.
    Tmpfs {
        /// Most bytes; they count as the container's memory.
        size: Option<ByteCount>,
    },
}

/// Something mounted into a container.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mount {
    /// What.
    pub source: MountSource,
    /// Where, an absolute path in the container. Made if it is not there.
    pub target: PathBuf,
    /// Not to be written to.
    pub read_only: bool,
}

/// Which network a container has.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Network {
    /// That of a namespace, such as `/run/netns/x` or `/proc/1234/ns/net`.
    Path(PathBuf),
    /// The host's.
    Host,
    /// None but a loopback device that is down.
    None,
}

/// Which processes a container sees.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum PidNamespace {
    /// Its own.
    #[default]
    Private,
    /// All.
    Host,
    /// Those of a running container of the same sandbox, which end when that one ends.
    Of(ContainerId),
}

/// Changes to the default capabilities, which are Docker's less `MKNOD` (device nodes are never needed in a pod and a way out of it where
/// no device cgroup watches). Names without `CAP_`; `ALL` stands for all of the default ones when dropped. `ALL` cannot be added.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Capabilities {
    /// Besides the default ones.
    pub add: Vec<String>,
    /// Of the default ones, not.
    pub drop: Vec<String>,
}

/// A limit per process, by its name in `getrlimit(2)`. Clamped to what this process may give.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rlimit {
    /// Such as `RLIMIT_NOFILE`.
    pub name: String,
    /// What holds.
    pub soft: u64,
    /// What it may be raised to.
    pub hard: u64,
}

/// Where a container's output goes, in the format of CRI: one line each with time, stream and whether it is whole.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogTarget {
    /// The current file. Older ones are beside it, with `.1` for the newest.
    pub path: PathBuf,
    /// From which size a new file is begun.
    pub max_bytes: ByteCount,
    /// How many files there are at most, the current one included.
    pub files: u32,
}

/// A container to be made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerSpec {
    /// Its name.
    pub id: ContainerId,
    /// In which sandbox.
    pub sandbox: SandboxId,
    /// How many came before it in the same place: kept and given back.
    pub attempt: u32,
    /// Kept and given back, for the caller to recognise it by.
    pub labels: BTreeMap<String, String>,
    /// Its root file system, mounted.
    pub rootfs: PathBuf,
    /// Whether the root file system is not to be written to.
    pub read_only_rootfs: bool,
    /// Program and arguments. A program without a slash is looked for in `PATH`.
    pub args: Vec<String>,
    /// Its environment, complete but for `PATH` and `HOME`, which have defaults.
    pub env: Vec<(String, String)>,
    /// Where it starts, absolute. It must be there.
    pub cwd: PathBuf,
    /// Who it runs as.
    pub user: User,
    /// In this order, over the usual `/proc`, `/dev`, `/sys` and so on.
    pub mounts: Vec<Mount>,
    /// Its network.
    pub network: Network,
    /// Its processes.
    pub pid: PidNamespace,
    /// What root may do in it.
    pub capabilities: Capabilities,
    /// Whether programs cannot gain rights (set-user-ID has no effect).
    pub no_new_privileges: bool,
    /// Limits per process.
    pub rlimits: Vec<Rlimit>,
    /// Namespaced kernel settings.
    pub sysctls: BTreeMap<String, String>,
    /// What it may use.
    pub resources: Resources,
    /// −1000 to 1000: the higher, the sooner it is killed when the machine is out of memory. Raised to what this process may give.
    pub oom_score_adj: i32,
    /// Where its output goes.
    pub log: LogTarget,
}

/// A further process in a running container.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExecSpec {
    /// Program and arguments.
    pub args: Vec<String>,
    /// Besides the container's own.
    pub env: Vec<(String, String)>,
    /// Where it starts; `None` as the container.
    pub cwd: Option<PathBuf>,
    /// Who it runs as; `None` as the container.
    pub user: Option<User>,
    /// After which it is killed.
    pub timeout: Option<Duration>,
}

/// Whom a signal is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// The container's first process.
    Init,
    /// All its processes.
    All,
}

/// A signal by its number. From text: `SIGTERM`, `TERM` or `15`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Signal(i32);

/// The signals that images and pods name.
const SIGNALS: [(&str, Signal); 9] = [
    ("HUP", Signal(1)),
    ("INT", Signal(2)),
    ("QUIT", Signal(3)),
    ("KILL", Signal::KILL),
    ("USR1", Signal(10)),
    ("USR2", Signal(12)),
    ("ALRM", Signal(14)),
    ("TERM", Signal::TERM),
    ("WINCH", Signal(28)),
];

impl Signal {
    /// Ends a process at once.
    pub const KILL: Self = Self(9);
    /// Asks a process to end.
    pub const TERM: Self = Self(15);

    /// Its number.
    pub fn number(self) -> i32 {
        self.0
    }
}

impl FromStr for Signal {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let name = text.to_ascii_uppercase();
        let name = name.strip_prefix("SIG").unwrap_or(&name);
        let named = SIGNALS.iter().find(|(known, _)| *known == name).map(|(_, signal)| *signal);
        // Without the real-time ones: 31 is the last that has the same number everywhere.
        let numbered = || name.parse().ok().filter(|number| (1..=31).contains(number)).map(Self);
        named.or_else(numbered).ok_or_else(|| format!("{text:?} is not a signal; write for example SIGTERM or 15"))
    }
}
