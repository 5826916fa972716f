//! What this machine and this user can do, found out once.

use std::fs;

use crate::capabilities::bit;
use crate::cgroups::Cgroups;

/// What is there for running containers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Machine {
    /// Whether this process is root. Without it no container runs.
    pub root: bool,
    /// Whether limits may be raised and processes protected from the out-of-memory killer (`CAP_SYS_RESOURCE`).
    pub raise_limits: bool,
    /// 1 or 2; `None` where no controllers are mounted, and then nothing is limited.
    pub cgroup_version: Option<u8>,
    /// Controllers that are there of those that limits need: `cpu`, `memory`, `pids`.
    pub controllers: Vec<String>,
    /// The out-of-memory score of this process, below which none can be given without `CAP_SYS_RESOURCE`.
    pub oom_score_adj: i32,
    /// Capabilities that can be given on, a bit each.
    pub(crate) capabilities: u64,
}

impl Machine {
    /// Looks.
    pub(crate) fn probe(cgroups: &Cgroups) -> Self {
        let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
        let mask = |key: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(key));
            line.and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok()).unwrap_or(0)
        };
        let own_score = fs::read_to_string("/proc/self/oom_score_adj").ok().and_then(|text| text.trim().parse().ok());
        Self {
            root: rustix::process::geteuid().is_root(),
            raise_limits: mask("CapEff:") & bit("SYS_RESOURCE") != 0,
            cgroup_version: cgroups.version(),
            controllers: cgroups.controllers(),
            oom_score_adj: own_score.unwrap_or(0),
            capabilities: mask("CapBnd:") & mask("CapEff:"),
        }
    }

    /// The lowest score at or above the wish that a container can be given here.
    pub(crate) fn oom_score_adj(&self, wish: i32) -> i32 {
        let lowest = if self.raise_limits { -1000 } else { self.oom_score_adj };
        wish.clamp(lowest, 1000)
    }

    /// A sentence for everything that is missing, to be said once.
    pub fn warnings(&self) -> Vec<String> {
        let mut warnings = Vec::new();
        if !self.root {
            warnings.push("not running as root: no containers can run on this node".to_owned());
        }
        if !self.raise_limits {
            let lowest = self.oom_score_adj;
            warnings.push(format!(
                "CAP_SYS_RESOURCE is missing: oomScoreAdj below {lowest} becomes {lowest}, and limits per process are not raised"
            ));
        }
        let missing: Vec<&str> = ["cpu", "memory", "pids"]
            .into_iter()
            .filter(|name| !self.controllers.iter().any(|it| it == name))
            .collect();
        if !missing.is_empty() {
            warnings.push(format!("no cgroup controller for {}: not limited on this node", missing.join(", ")));
        }
        warnings
    }
}
