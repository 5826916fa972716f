//! Containers' logs on disk: `<namespace>_<pod>_<uid>/<container>/<attempt>.log` and what was rotated away from it (`….log.1`, …). How long they stay and
//! how much room they take: the newest attempt's and the one's before it, while the pod is there, and all of them together a share of the node's storage.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use k8s_openapi::api::core::v1::Pod;

use crate::agent::Shared;

/// How often their size is looked at. A container that writes 10 MB/s is 300 MB over until then.
const TRIM_EVERY: Duration = Duration::from_secs(30);

/// Of what the lease gives for storage, this part is for logs.
const SHARE_OF_STORAGE: u64 = 8;

/// kubelet's default for one file of a log, and the least: less would hold no stack trace.
const FILE_BYTES_MAX: u64 = 10 << 20;
const FILE_BYTES_MIN: u64 = 64 << 10;

/// On a small lease one file is this part of all logs, so that a few pods do not push the others' out.
const FILES_IN_ALL: u64 = 64;

/// What all logs of a node with so much storage may take.
pub(crate) fn bytes_max(storage_bytes: u64) -> u64 {
    storage_bytes / SHARE_OF_STORAGE
}

/// From which size a new file is begun.
pub(crate) fn file_bytes_max(storage_bytes: u64) -> u64 {
    (bytes_max(storage_bytes) / FILES_IN_ALL).clamp(FILE_BYTES_MIN, FILE_BYTES_MAX)
}

/// Where the logs of a pod are.
pub(crate) fn folder(logs: &Path, pod: &Pod) -> PathBuf {
    let of = |text: &Option<String>| text.clone().unwrap_or_default();
    let meta = &pod.metadata;
    logs.join(format!("{}_{}_{}", of(&meta.namespace), of(&meta.name), of(&meta.uid)))
}

/// Removes a folder of logs; none is fine.
pub(crate) fn remove(folder: &Path) -> io::Result<()> {
    match std::fs::remove_dir_all(folder) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Removes the logs of pods that nobody knows of.
pub(crate) fn sweep(logs: &Path, known: &BTreeSet<String>) -> io::Result<()> {
    for entry in std::fs::read_dir(logs)? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        // A uid has no underscore, and neither have names.
        if name.rsplit('_').next().is_none_or(|uid| !known.contains(uid)) {
            remove(&entry.path())?;
        }
    }
    Ok(())
}

/// Removes what attempts before the last left, once this one is about to begin.
pub(crate) fn keep_previous(container: &Path, attempt: u32) -> io::Result<()> {
    for log in files(container)? {
        if log.attempt.saturating_add(1) < attempt {
            std::fs::remove_file(&log.path)?;
        }
    }
    Ok(())
}

/// Looks at their size until the agent ends.
pub(crate) async fn run(shared: Arc<Shared>) {
    let mut ticks = tokio::time::interval(TRIM_EVERY);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let (logs, most) = (shared.config.dir.join("logs"), bytes_max(shared.config.storage_bytes));
        let trimmed = tokio::task::spawn_blocking(move || trim(&logs, most)).await.map_err(io::Error::other);
        match trimmed.and_then(|it| it) {
            Ok(0) => {}
            Ok(bytes) => tracing::info!(bytes, "old logs of containers were removed: all together were too large"),
            Err(error) => tracing::warn!(%error, "logs of containers could not be looked through"),
        }
    }
}

/// Removes the oldest until no more than so many bytes are left: rotated files first, then logs of attempts that are over. What containers write now stays;
/// it has a limit of its own. Returns how many bytes went.
pub(crate) fn trim(logs: &Path, bytes_max: u64) -> io::Result<u64> {
    let mut all = Vec::new();
    for pod in folders(logs)? {
        for container in folders(&pod)? {
            let files = files(&container)?;
            let newest = files.iter().map(|log| log.attempt).max();
            all.extend(files.into_iter().map(|log| {
                let current = Some(log.attempt) == newest && log.age == 0;
                (log, current)
            }));
        }
    }
    let mut bytes: u64 = all.iter().map(|(log, _)| log.bytes).sum();
    all.retain(|(_, current)| !current);
    all.sort_by_key(|(log, _)| (log.age == 0, log.written));
    let mut removed = 0;
    for (log, _) in all {
        if bytes <= bytes_max {
            break;
        }
        match std::fs::remove_file(&log.path) {
            // Rotated again, or gone with its pod.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            done => done?,
        }
        bytes -= log.bytes;
        removed += log.bytes;
    }
    Ok(removed)
}

struct LogFile {
    path: PathBuf,
    attempt: u32,
    /// How often it was rotated; none: it is the current one of its attempt.
    age: u32,
    bytes: u64,
    written: SystemTime,
}

/// The log files of a container. What is not named like one is left alone.
fn files(container: &Path) -> io::Result<Vec<LogFile>> {
    let mut found = Vec::new();
    for entry in entries(container)? {
        let name = entry.file_name().to_string_lossy().into_owned();
        let Some((attempt, rest)) = name.split_once(".log") else { continue };
        let age = if rest.is_empty() { Some(0) } else { rest.strip_prefix('.').and_then(|age| age.parse().ok()) };
        let (Ok(attempt), Some(age), Ok(metadata)) = (attempt.parse(), age, entry.metadata()) else { continue };
        let written = metadata.modified().unwrap_or(SystemTime::UNIX_EPOCH);
        found.push(LogFile { path: entry.path(), attempt, age, bytes: metadata.len(), written });
    }
    Ok(found)
}

fn folders(of: &Path) -> io::Result<Vec<PathBuf>> {
    let is_folder = |entry: &std::fs::DirEntry| entry.file_type().is_ok_and(|it| it.is_dir());
    Ok(entries(of)?.into_iter().filter(is_folder).map(|entry| entry.path()).collect())
}

/// What is in a folder; nothing if it has just gone.
fn entries(folder: &Path) -> io::Result<Vec<std::fs::DirEntry>> {
    match std::fs::read_dir(folder) {
        Ok(entries) => entries.collect(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;

    /// Files of 100 bytes, each written a second after the one before.
    fn write(logs: &Path, names: &[&str]) {
        for (second, name) in names.iter().enumerate() {
            let path = logs.join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(&path, [b'x'; 100]).unwrap();
            let at = SystemTime::UNIX_EPOCH + Duration::from_secs(second as u64);
            std::fs::File::options().write(true).open(&path).unwrap().set_modified(at).unwrap();
        }
    }

    fn left(logs: &Path) -> Vec<String> {
        let mut left = Vec::new();
        for pod in folders(logs).unwrap() {
            for container in folders(&pod).unwrap() {
                let names = entries(&container).unwrap().into_iter().map(|entry| entry.path());
                left.extend(names.map(|path| path.strip_prefix(logs).unwrap().to_str().unwrap().to_owned()));
            }
        }
        left.sort();
        left
    }

    #[test]
    fn the_oldest_go_first_and_what_is_written_stays() {
        let dir = tempfile::tempdir().unwrap();
        let logs = dir.path();
        let names = [
            "a_p_1/c/0.log",
            "a_p_1/c/1.log.2",
            "a_p_1/c/1.log.1",
            "b_q_2/c/0.log.1",
            "b_q_2/c/0.log",
            "a_p_1/c/1.log",
        ];
        write(logs, &names);
        assert_eq!(trim(logs, 600).unwrap(), 0);
        assert_eq!(trim(logs, 450).unwrap(), 200);
        assert_eq!(
            left(logs),
            ["a_p_1/c/0.log", "a_p_1/c/1.log", "b_q_2/c/0.log", "b_q_2/c/0.log.1"],
            "rotated ones, the oldest first"
        );
        assert_eq!(trim(logs, 0).unwrap(), 200);
        assert_eq!(left(logs), ["a_p_1/c/1.log", "b_q_2/c/0.log"], "what containers write now stays");
    }

    #[test]
    fn logs_go_with_their_attempts_and_pods() {
        let dir = tempfile::tempdir().unwrap();
        let logs = dir.path();
        write(logs, &["a_p_1/c/0.log", "a_p_1/c/0.log.1", "a_p_1/c/1.log", "a_p_1/c/other", "b_q_2/c/0.log"]);
        keep_previous(&logs.join("a_p_1/c"), 2).unwrap();
        assert_eq!(left(logs), ["a_p_1/c/1.log", "a_p_1/c/other", "b_q_2/c/0.log"]);
        sweep(logs, &BTreeSet::from(["2".to_owned()])).unwrap();
        assert_eq!(left(logs), ["b_q_2/c/0.log"]);
        keep_previous(&logs.join("none"), 7).unwrap();
        remove(&logs.join("none")).unwrap();
    }

    #[test]
    fn a_small_lease_has_small_files() {
        assert_eq!(file_bytes_max(10 << 30), 10 << 20);
        assert_eq!(file_bytes_max(1 << 30), 2 << 20);
        assert_eq!(file_bytes_max(1 << 20), FILE_BYTES_MIN);
    }
}
