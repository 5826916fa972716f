//! Control groups: limits over groups, sandboxes and containers, what they use, and ending everything in one.
//!
//! A cgroup is a path below the mount of every hierarchy: version 1 has one per controller, version 2 a single one. Containers' own are
//! made by libcontainer; those above them here. Hierarchies without controllers (a version 2 mount beside version 1) are left alone.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use atoll_ids::ByteCount;
use rustix::process::{Pid, kill_process};

use crate::error::{RuntimeError, io_error};
use crate::records::system_signal;
use crate::spec::{Resources, Signal};

/// Length of the period of which a quota is a part, in microseconds: the kernel's default.
const CPU_PERIOD_MICROS: u64 = 100_000;
/// Fewest shares that version 1 takes; also the share of what asks for nothing.
pub(crate) const CPU_SHARES_MIN: u64 = 2;
/// Times a cgroup is tried to be removed while its last processes go, and the pause between.
const REMOVE_TRIES: u32 = 200;
const REMOVE_PAUSE: Duration = Duration::from_millis(10);
/// No limit, as version 1 writes it in files of bytes and microseconds.
const UNLIMITED: &str = "-1";

/// Where Atoll's cgroups are, below the mount of every hierarchy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CgroupRoot(PathBuf);

impl CgroupRoot {
    /// This path; absolute.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self(path.into())
    }

    /// `name` below the memory cgroup that this process is in on version 1, so that limits set on Atoll hold for what it runs; `/name` on
    /// version 2, where a cgroup with processes cannot have others with limits below it.
    pub fn beside_own(name: &str) -> Self {
        let own = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
        let memory = own.lines().find_map(|line| {
            let mut fields = line.splitn(3, ':').skip(1);
            let controllers = fields.next()?;
            controllers.split(',').any(|it| it == "memory").then(|| fields.next().unwrap_or("/"))
        });
        Self(Path::new(memory.unwrap_or("/")).join(name))
    }

    pub(crate) fn join(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Default for CgroupRoot {
    fn default() -> Self {
        Self::beside_own("atoll")
    }
}

/// What a container uses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Processor time since it was made.
    pub cpu: Duration,
    /// Memory that cannot be had back at once: the working set, without the file cache not used lately.
    pub memory: ByteCount,
    /// Processes and threads.
    pub pids: u64,
    /// Times the kernel killed in it for want of memory.
    pub oom_kills: u64,
}

/// The mounted hierarchies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Cgroups {
    /// Controllers and where each is mounted.
    V1(Vec<(Vec<String>, PathBuf)>),
    /// Where it is mounted, and its controllers.
    V2(PathBuf, Vec<String>),
    None,
}

impl Cgroups {
    pub(crate) fn find() -> Self {
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        Self::from_mounts(&mounts, |mount| fs::read_to_string(mount.join("cgroup.controllers")).unwrap_or_default())
    }

    /// `controllers` tells what a version 2 mount has.
    fn from_mounts(mounts: &str, controllers: impl Fn(&Path) -> String) -> Self {
        let mut hierarchies = Vec::new();
        let mut unified = None;
        for line in mounts.lines() {
            let Some((before, after)) = line.split_once(" - ") else { continue };
            let Some(place) = before.split(' ').nth(4) else { continue };
            let mut after = after.split(' ');
            let (kind, options) = (after.next().unwrap_or(""), after.nth(1).unwrap_or(""));
            match kind {
                "cgroup" => hierarchies.push((options.split(',').map(str::to_owned).collect(), PathBuf::from(place))),
                "cgroup2" if place == "/sys/fs/cgroup" => unified = Some(PathBuf::from(place)),
                _ => {}
            }
        }
        match unified {
            Some(mount) => {
                let controllers = controllers(&mount).split_whitespace().map(str::to_owned).collect();
                Self::V2(mount, controllers)
            }
            None if hierarchies.is_empty() => Self::None,
            None => Self::V1(hierarchies),
        }
    }

    pub(crate) fn version(&self) -> Option<u8> {
        match self {
            Self::V1(_) => Some(1),
            Self::V2(..) => Some(2),
            Self::None => None,
        }
    }

    /// Those that limits need.
    pub(crate) fn controllers(&self) -> Vec<String> {
        let has = |name: &str| match self {
            Self::V1(_) => self.v1(name, Path::new("/")).is_some(),
            Self::V2(_, controllers) => controllers.iter().any(|it| it == name),
            Self::None => false,
        };
        ["cpu", "memory", "pids"].into_iter().filter(|name| has(name)).map(str::to_owned).collect()
    }

    fn v1(&self, controller: &str, cgroup: &Path) -> Option<PathBuf> {
        let Self::V1(hierarchies) = self else { return None };
        let (_, mount) = hierarchies.iter().find(|(names, _)| names.iter().any(|name| name == controller))?;
        Some(mount.join(relative(cgroup)))
    }

    /// The cgroup's directory in every hierarchy.
    fn directories(&self, cgroup: &Path) -> Vec<PathBuf> {
        match self {
            Self::V1(hierarchies) => hierarchies.iter().map(|(_, mount)| mount.join(relative(cgroup))).collect(),
            Self::V2(mount, _) => vec![mount.join(relative(cgroup))],
            Self::None => Vec::new(),
        }
    }

    /// Makes a cgroup above containers, or changes its limits.
    pub(crate) fn set(&self, cgroup: &Path, limits: &Resources) -> Result<(), RuntimeError> {
        match self {
            Self::V1(_) => self.set_v1(cgroup, limits),
            Self::V2(mount, controllers) => set_v2(mount, controllers, cgroup, limits),
            Self::None => Ok(()),
        }
    }

    fn set_v1(&self, cgroup: &Path, limits: &Resources) -> Result<(), RuntimeError> {
        for controller in ["cpu", "memory", "pids"] {
            let Some(dir) = self.v1(controller, cgroup) else { continue };
            fs::create_dir_all(&dir).map_err(io_error("create", &dir))?;
            match controller {
                "memory" => set_v1_memory(&dir, limits)?,
                "pids" => put(&dir, "pids.max", &limits.pids.map_or("max".to_owned(), |pids| pids.to_string()))?,
                _ => {
                    put(&dir, "cpu.cfs_period_us", &CPU_PERIOD_MICROS.to_string())?;
                    let quota = limits.cpu_millis_max.map(|millis| cpu_quota(millis).to_string());
                    put(&dir, "cpu.cfs_quota_us", quota.as_deref().unwrap_or(UNLIMITED))?;
                    put(&dir, "cpu.shares", &cpu_shares(limits.cpu_millis_request).to_string())?;
                }
            }
        }
        Ok(())
    }

    /// Numbers of all processes in it, not below it.
    pub(crate) fn processes(&self, cgroup: &Path) -> Vec<i32> {
        let dir = match self {
            Self::V1(_) => self.v1("pids", cgroup).or_else(|| self.v1("memory", cgroup)),
            Self::V2(mount, _) => Some(mount.join(relative(cgroup))),
            Self::None => None,
        };
        let text = dir.and_then(|dir| fs::read_to_string(dir.join("cgroup.procs")).ok()).unwrap_or_default();
        text.lines().filter_map(|line| line.parse().ok()).collect()
    }

    /// Signals everything in it. Those that are being born while it is looked at are met by a second look for SIGKILL.
    pub(crate) fn signal(&self, cgroup: &Path, signal: Signal) -> Result<(), rustix::io::Errno> {
        if let (Self::V2(mount, _), Signal::KILL) = (self, signal)
            && fs::write(mount.join(relative(cgroup)).join("cgroup.kill"), "1").is_ok()
        {
            return Ok(());
        }
        let rounds = if signal == Signal::KILL { 3 } else { 1 };
        for _ in 0..rounds {
            for pid in self.processes(cgroup).into_iter().filter_map(Pid::from_raw) {
                match kill_process(pid, system_signal(signal)?) {
                    Ok(()) | Err(rustix::io::Errno::SRCH) => {}
                    Err(errno) => return Err(errno),
                }
            }
        }
        Ok(())
    }

    /// Removes it with what is empty below it. Its processes must be ending.
    pub(crate) fn remove(&self, cgroup: &Path) -> Result<(), RuntimeError> {
        self.directories(cgroup).iter().try_for_each(|dir| remove(dir))
    }

    pub(crate) fn usage(&self, cgroup: &Path) -> Usage {
        let number = |dir: &Path, file: &str| -> u64 { get(dir, file).trim().parse().unwrap_or(0) };
        match self {
            Self::V1(_) => {
                let mut usage = Usage { oom_kills: self.oom_kills(cgroup), ..Usage::default() };
                if let Some(dir) = self.v1("cpuacct", cgroup) {
                    usage.cpu = Duration::from_nanos(number(&dir, "cpuacct.usage"));
                }
                if let Some(dir) = self.v1("memory", cgroup) {
                    let inactive = field(&get(&dir, "memory.stat"), "total_inactive_file");
                    usage.memory = ByteCount(number(&dir, "memory.usage_in_bytes").saturating_sub(inactive));
                }
                if let Some(dir) = self.v1("pids", cgroup) {
                    usage.pids = number(&dir, "pids.current");
                }
                usage
            }
            Self::V2(mount, _) => {
                let dir = mount.join(relative(cgroup));
                let inactive = field(&get(&dir, "memory.stat"), "inactive_file");
                Usage {
                    cpu: Duration::from_micros(field(&get(&dir, "cpu.stat"), "usage_usec")),
                    memory: ByteCount(number(&dir, "memory.current").saturating_sub(inactive)),
                    pids: number(&dir, "pids.current"),
                    oom_kills: self.oom_kills(cgroup),
                }
            }
            Self::None => Usage::default(),
        }
    }

    /// How often the kernel killed in it for want of memory.
    pub(crate) fn oom_kills(&self, cgroup: &Path) -> u64 {
        match self {
            Self::V1(_) => {
                let dir = self.v1("memory", cgroup);
                dir.map_or(0, |dir| field(&get(&dir, "memory.oom_control"), "oom_kill"))
            }
            Self::V2(mount, _) => field(&get(&mount.join(relative(cgroup)), "memory.events"), "oom_kill"),
            Self::None => 0,
        }
    }

    /// Whether memory limits can include swap.
    pub(crate) fn limits_swap(&self) -> bool {
        match self {
            Self::V1(_) => {
                self.v1("memory", Path::new("/")).is_some_and(|dir| dir.join("memory.memsw.limit_in_bytes").exists())
            }
            Self::V2(_, controllers) => controllers.iter().any(|it| it == "memory"),
            Self::None => false,
        }
    }
}

fn set_v1_memory(dir: &Path, limits: &Resources) -> Result<(), RuntimeError> {
    let limit = limits.memory.map_or(UNLIMITED.to_owned(), |memory| memory.0.to_string());
    let swap = "memory.memsw.limit_in_bytes";
    if !dir.join(swap).exists() {
        return put(dir, "memory.limit_in_bytes", &limit);
    }
    // Memory with swap may never be less than memory: which one is set first depends on the direction.
    if put(dir, "memory.limit_in_bytes", &limit).is_ok() {
        return put(dir, swap, &limit);
    }
    put(dir, swap, &limit)?;
    put(dir, "memory.limit_in_bytes", &limit)
}

fn set_v2(mount: &Path, controllers: &[String], cgroup: &Path, limits: &Resources) -> Result<(), RuntimeError> {
    let mut dir = mount.to_owned();
    for part in relative(cgroup).components() {
        // Each level has to hand its controllers down before the next has their files.
        for controller in ["cpu", "memory", "pids"].iter().filter(|name| controllers.iter().any(|it| it == *name)) {
            put(&dir, "cgroup.subtree_control", &format!("+{controller}"))?;
        }
        dir.push(part);
        match fs::create_dir(&dir) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(io_error("create", &dir)(error)),
            _ => {}
        }
    }
    let has = |name: &str| controllers.iter().any(|it| it == name);
    if has("memory") {
        put(&dir, "memory.max", &limits.memory.map_or("max".to_owned(), |memory| memory.0.to_string()))?;
    }
    if has("pids") {
        put(&dir, "pids.max", &limits.pids.map_or("max".to_owned(), |pids| pids.to_string()))?;
    }
    if has("cpu") {
        let quota = limits.cpu_millis_max.map_or("max".to_owned(), |millis| cpu_quota(millis).to_string());
        put(&dir, "cpu.max", &format!("{quota} {CPU_PERIOD_MICROS}"))?;
        put(&dir, "cpu.weight", &cpu_weight(cpu_shares(limits.cpu_millis_request)).to_string())?;
    }
    Ok(())
}

/// Microseconds per period; the kernel takes no less than a thousand.
pub(crate) fn cpu_quota(millis: u32) -> u64 {
    (u64::from(millis) * CPU_PERIOD_MICROS / 1000).max(1000)
}

/// Length of the period for a quota, in microseconds.
pub(crate) fn cpu_period() -> u64 {
    CPU_PERIOD_MICROS
}

/// Version 1's measure: 1024 for a core, as Kubernetes reckons.
pub(crate) fn cpu_shares(millis: Option<u32>) -> u64 {
    millis.map_or(CPU_SHARES_MIN, |millis| (u64::from(millis) * 1024 / 1000).clamp(CPU_SHARES_MIN, 262_144))
}

/// Version 2's measure for the same, by the formula that runtimes share.
fn cpu_weight(shares: u64) -> u64 {
    1 + (shares.clamp(CPU_SHARES_MIN, 262_144) - CPU_SHARES_MIN) * 9999 / 262_142
}

fn relative(cgroup: &Path) -> &Path {
    cgroup.strip_prefix("/").unwrap_or(cgroup)
}

fn put(dir: &Path, file: &str, value: &str) -> Result<(), RuntimeError> {
    let path = dir.join(file);
    fs::write(&path, value).map_err(io_error("set", &path))
}

fn get(dir: &Path, file: &str) -> String {
    fs::read_to_string(dir.join(file)).unwrap_or_default()
}

/// The number after a name, one pair a line.
fn field(text: &str, name: &str) -> u64 {
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    line.and_then(|value| value.trim().parse().ok()).unwrap_or(0)
}

fn remove(dir: &Path) -> Result<(), RuntimeError> {
    let Ok(entries) = fs::read_dir(dir) else { return Ok(()) };
    for entry in entries.flatten().filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())) {
        remove(&entry.path())?;
    }
    let mut tries = 0;
    loop {
        match fs::remove_dir(dir) {
            Ok(()) => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            // Dead processes leave a cgroup a moment after they are gone for everyone else; the kernel tells nobody when.
            Err(error) if error.kind() == io::ErrorKind::ResourceBusy && tries < REMOVE_TRIES => {
                tries += 1;
                std::thread::sleep(REMOVE_PAUSE);
            }
            Err(error) => return Err(io_error("remove", dir)(error)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layouts_are_recognised() {
        let v1 = "30 24 0:26 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n\
                  31 24 0:27 / /sys/fs/cgroup/cpu,cpuacct rw,nosuid - cgroup cgroup rw,cpu,cpuacct\n\
                  32 24 0:28 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n";
        let found = Cgroups::from_mounts(v1, |_| String::new());
        assert_eq!((found.version(), found.controllers()), (Some(1), vec!["cpu".to_owned(), "memory".to_owned()]));
        let memory = found.v1("memory", Path::new("/a/b"));
        assert_eq!(memory.as_deref(), Some(Path::new("/sys/fs/cgroup/memory/a/b")));
        let v2 = "29 23 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n";
        let found = Cgroups::from_mounts(v2, |_| "cpuset cpu io memory pids\n".to_owned());
        assert_eq!((found.version(), found.controllers().len()), (Some(2), 3));
        assert_eq!(Cgroups::from_mounts("nonsense", |_| String::new()), Cgroups::None);
    }

    #[test]
    fn shares_and_quotas() {
        assert_eq!(cpu_quota(1500), 150_000);
        assert_eq!(cpu_quota(1), 1000);
        assert_eq!(cpu_shares(None), 2);
        assert_eq!(cpu_shares(Some(1000)), 1024);
        assert_eq!(cpu_weight(2), 1);
        assert_eq!(cpu_weight(262_144), 10_000);
        assert_eq!(field("a 1\noom_kill 3\noom_kill_x 4\n", "oom_kill"), 3);
    }
}
