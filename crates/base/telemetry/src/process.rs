//! Numbers about this process, under the names every Prometheus client uses, read from `/proc` at each scrape.
//!
//! What cannot be read is reported as not-a-number, which a scraper shows as a gap, rather than as a zero that looks like a measurement.

use std::fs;

use crate::metrics::{Computed, MetricError, Metrics};

/// Clock ticks per second in `/proc`. Linux fixes what it shows there at 100, whatever the kernel's own timer does (`USER_HZ`).
const TICKS_PER_SECOND: f64 = 100.0;

/// Adds the process metrics to the registry.
///
/// # Errors
/// [`MetricError::Duplicate`] the second time.
pub fn register(metrics: &Metrics) -> Result<(), MetricError> {
    let add = |name, help, read: fn() -> Option<f64>| {
        metrics.add(name, help, Computed::new(name, move || read().unwrap_or(f64::NAN)))
    };
    add("process_resident_memory_bytes", "Memory of this process that is in RAM", || {
        resident_bytes().map(|bytes| bytes as f64)
    })?;
    add("process_open_fds", "Open file descriptors", open_files)?;
    add("process_start_time_seconds", "Start of this process in seconds since 1970", start_seconds)?;
    add("process_cpu_seconds_total", "Processor time used, by the program and by the kernel for it", cpu_seconds)
}

/// Bytes of this process that are in RAM; `None` where there is no `/proc`.
pub fn resident_bytes() -> Option<u64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kibibytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kibibytes * 1024)
}

fn open_files() -> Option<f64> {
    // Listing the directory opens it, which is not what is asked for.
    let count = fs::read_dir("/proc/self/fd").ok()?.count();
    Some(count.saturating_sub(1) as f64)
}

fn start_seconds() -> Option<f64> {
    let stat = fs::read_to_string("/proc/stat").ok()?;
    let boot: f64 = stat.lines().find_map(|line| line.strip_prefix("btime "))?.trim().parse().ok()?;
    Some(boot + ticks(&[STAT_STARTED])? / TICKS_PER_SECOND)
}

fn cpu_seconds() -> Option<f64> {
    Some(ticks(&[STAT_USER, STAT_SYSTEM])? / TICKS_PER_SECOND)
}

/// Places in `/proc/self/stat`, counted from 1 as in proc(5).
const STAT_USER: usize = 14;
const STAT_SYSTEM: usize = 15;
const STAT_STARTED: usize = 22;

/// The sum of these fields of `/proc/self/stat`.
fn ticks(fields: &[usize]) -> Option<f64> {
    sum_fields(&fs::read_to_string("/proc/self/stat").ok()?, fields)
}

fn sum_fields(stat: &str, fields: &[usize]) -> Option<f64> {
    // Field 2 is the program's name in parentheses and may contain both spaces and parentheses; the third follows the last one.
    let (_, rest) = stat.rsplit_once(')')?;
    let rest: Vec<&str> = rest.split_ascii_whitespace().collect();
    fields.iter().map(|field| rest.get(field - 3)?.parse::<f64>().ok()).sum()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use std::time::{SystemTime, UNIX_EPOCH};

    use super::*;

    #[test]
    fn the_numbers_are_plausible() {
        assert!((1 << 20..1 << 40).contains(&resident_bytes().unwrap()));
        assert!((3.0..100_000.0).contains(&open_files().unwrap()));
        let age = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs_f64() - start_seconds().unwrap();
        assert!((-2.0..86_400.0).contains(&age), "started {age} seconds ago");
        assert!((0.0..86_400.0).contains(&cpu_seconds().unwrap()));
    }

    #[test]
    fn a_program_name_cannot_confuse_the_fields() {
        let stat = "1 (a) b) R 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21 22 23";
        assert_eq!(sum_fields(stat, &[14]), Some(14.0));
        assert_eq!(sum_fields(stat, &[14, 15, 22]), Some(51.0));
        assert_eq!(sum_fields("1 (cut", &[14]), None);
    }

    #[test]
    fn they_appear_in_the_registry() {
        let metrics = Metrics::new();
        register(&metrics).unwrap();
        let text = metrics.encode();
        for name in ["process_resident_memory_bytes ", "process_open_fds ", "process_cpu_seconds_total "] {
            assert!(text.lines().any(|line| line.starts_with(name) && !line.ends_with("NaN")), "{name}:\n{text}");
        }
        assert!(register(&metrics).is_err());
    }
}
