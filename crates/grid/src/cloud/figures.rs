//! What processes use, from proc(5).

use std::time::Duration;

use crate::GridError;

/// Ticks of a second in `/proc/PID/stat`: the kernel's ABI on Linux, whatever it counts by itself.
const TICKS_PER_SECOND: f64 = 100.0;

/// Long enough for what is done once in some seconds to be among it.
const OVER: Duration = Duration::from_secs(15);

/// What some processes use together while nothing is asked of them.
#[derive(Debug, Clone, Copy, PartialEq, serde::Serialize)]
pub struct Idle {
    /// Resident memory in bytes; what they share is counted for each.
    pub memory_bytes: u64,
    /// Percent of one processor core.
    pub core_percent: f64,
}

impl Idle {
    /// Looks at these processes for a while.
    pub(super) async fn of(pids: &[u32]) -> Result<Self, GridError> {
        let before = ticks_of(pids)?;
        tokio::time::sleep(OVER).await;
        let ticks = ticks_of(pids)? - before;
        let memory_bytes = pids.iter().filter_map(|pid| memory_bytes(*pid)).sum();
        Ok(Self { memory_bytes, core_percent: 100.0 * ticks / TICKS_PER_SECOND / OVER.as_secs_f64() })
    }
}

fn ticks_of(pids: &[u32]) -> Result<f64, GridError> {
    let mut all = 0.0;
    for pid in pids {
        let path = format!("/proc/{pid}/stat");
        let stat = std::fs::read_to_string(&path)
            .map_err(|source| GridError::Io { what: format!("cannot read {path}"), source })?;
        all += ticks(&stat).ok_or_else(|| GridError::Wrong(format!("{path} is not understood")))?;
    }
    Ok(all)
}

/// Fields 14 and 15: time in the program and in the kernel for it. The second field may have spaces and parentheses in it.
fn ticks(stat: &str) -> Option<f64> {
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace().skip(11);
    let (user, system): (f64, f64) = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
    Some(user + system)
}

fn memory_bytes(pid: u32) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok().map(|kib| kib * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_found_behind_any_name() {
        let stat = "7 (a) b (c) S 1 7 7 0 -1 4194560 1 2 3 4 30 12 0 0 20 0 1 0 5 6 7";
        assert_eq!(ticks(stat), Some(42.0));
        assert_eq!(ticks("7 (a"), None);
        assert!(memory_bytes(std::process::id()).is_some_and(|bytes| bytes > 0));
    }
}
