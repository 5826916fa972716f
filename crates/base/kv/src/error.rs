//! What can go wrong when opening a store and when using it, in words for a person and kinds for a program.

use std::{fmt, ops::RangeInclusive, path::PathBuf};

use bytes::Bytes;

/// Why a read or a commit did not happen.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KvError {
    /// A condition of the commit does not hold; nothing was changed. Read the key again and decide anew.
    #[error("key {} has changed in between; read it again and retry", Shown(key))]
    Conflict {
        /// The key whose condition failed.
        key: Bytes,
    },
    /// The caller asked for something outside the limits; nothing was changed. The same call fails again.
    #[error("{what} must be {} to {}, not {got}", allowed.start(), allowed.end())]
    Limit {
        /// What was out of range, with its unit.
        what: &'static str,
        /// The range allowed.
        allowed: RangeInclusive<usize>,
        /// What was asked for.
        got: usize,
    },
    /// There is not enough free space to accept new data; nothing was changed. Works again when space has been freed, and deleting still works.
    #[error(
        "disk full: {free_bytes} bytes are free at {}, the key-value store needs {needed_bytes} to accept new data; free some space and try again",
        path.display()
    )]
    DiskFull {
        /// Directory of the store.
        path: PathBuf,
        /// Bytes free for this user.
        free_bytes: u64,
        /// Bytes that have to be free.
        needed_bytes: u64,
    },
    /// The engine could not do it. For a commit the outcome is unknown; when it was a write that failed, the store refuses further
    /// writes until it is opened again.
    #[error("the key-value store at {} cannot {operation}: {reason}", path.display())]
    Unavailable {
        /// Directory of the store.
        path: PathBuf,
        /// What was attempted.
        operation: &'static str,
        /// The cause, and what to do where that is known.
        reason: String,
    },
    /// A stored record does not decode: the disk or someone else changed it. Restore the directory from a copy.
    #[error("the record of key {} in the key-value store is damaged: {reason}", Shown(key))]
    Corrupt {
        /// The key whose record is damaged.
        key: Bytes,
        /// What is wrong with it.
        reason: &'static str,
    },
}

/// Why a store could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process has it open.
    #[error("the key-value store at {} is in use by another process; stop that one first", path.display())]
    Locked {
        /// Directory of the store.
        path: PathBuf,
    },
    /// The directory holds something else. It is left as it is.
    #[error("{} is not a key-value store and not empty; choose another directory", path.display())]
    Foreign {
        /// The directory.
        path: PathBuf,
    },
    /// It was written by a version of this program that stores differently.
    #[error("the key-value store at {} has format {found}, this program knows {known}; use the program that wrote it", path.display())]
    Version {
        /// Directory of the store.
        path: PathBuf,
        /// The format found, as text.
        found: String,
        /// The format this program reads and writes.
        known: u8,
    },
    /// Its contents contradict themselves.
    #[error("the key-value store at {} is damaged ({reason}); restore it from a copy", path.display())]
    Corrupt {
        /// Directory of the store.
        path: PathBuf,
        /// What was found.
        reason: String,
    },
    /// The file system refused.
    #[error("cannot open the key-value store at {}: {source}", path.display())]
    Io {
        /// Directory of the store.
        path: PathBuf,
        /// What the operating system said.
        source: std::io::Error,
    },
}

/// The text of an engine error without the engine's debug dressing where the operating system said something better.
pub(crate) fn engine_reason(error: &fjall::Error) -> String {
    match error {
        fjall::Error::Io(io) | fjall::Error::Storage(fjall::LsmError::Io(io)) => io_reason(io),
        fjall::Error::Poisoned => {
            "an earlier write failed, so what is on the disk is uncertain; restart to recover it".to_owned()
        }
        other => other.to_string(),
    }
}

fn io_reason(error: &std::io::Error) -> String {
    if error.kind() == std::io::ErrorKind::StorageFull {
        format!("disk full ({error}); free some space and restart")
    } else {
        error.to_string()
    }
}

/// Sorts an engine error met while opening.
pub(crate) fn open_error(path: PathBuf, error: fjall::Error) -> OpenError {
    match error {
        fjall::Error::Locked => OpenError::Locked { path },
        fjall::Error::Io(source) | fjall::Error::Storage(fjall::LsmError::Io(source)) => OpenError::Io { path, source },
        fjall::Error::InvalidVersion(found) => OpenError::Version {
            path,
            found: found.map_or("unknown".to_owned(), |version| format!("of engine {version:?}")),
            known: crate::embedded::FORMAT,
        },
        other => OpenError::Corrupt { path, reason: other.to_string() },
    }
}

/// A key for a person: text where it is text, escapes elsewhere, cut to a length that fits a line.
struct Shown<'a>(&'a Bytes);

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        /// Enough to recognise a key by; keys can be 4 KiB long.
        const SHOWN_BYTES_MAX: usize = 96;
        let cut = &self.0[..self.0.len().min(SHOWN_BYTES_MAX)];
        write!(f, "\"{}\"", cut.escape_ascii())?;
        if cut.len() < self.0.len() { write!(f, "… ({} bytes)", self.0.len()) } else { Ok(()) }
    }
}

/// Refuses what is outside `allowed`.
pub(crate) fn within(what: &'static str, allowed: RangeInclusive<usize>, got: usize) -> Result<(), KvError> {
    if allowed.contains(&got) { Ok(()) } else { Err(KvError::Limit { what, allowed, got }) }
}

impl KvError {
    /// Whether a condition failed: the case in which a caller reads again and retries.
    pub fn is_conflict(&self) -> bool {
        matches!(self, Self::Conflict { .. })
    }
}

/// A conflict on `key` when its condition does not hold.
pub(crate) fn conflict_unless(holds: bool, key: &Bytes) -> Result<(), KvError> {
    if holds { Ok(()) } else { Err(KvError::Conflict { key: key.clone() }) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_say_what_where_and_what_to_do() {
        let check = |error: KvError, expected: &str| assert_eq!(error.to_string(), expected);
        check(
            KvError::Conflict { key: Bytes::from_static(b"peer/\x00a") },
            "key \"peer/\\x00a\" has changed in between; read it again and retry",
        );
        check(
            KvError::Limit { what: "a value's length in bytes", allowed: 0..=10, got: 11 },
            "a value's length in bytes must be 0 to 10, not 11",
        );
        let long = KvError::Corrupt { key: Bytes::from(vec![b'k'; 4096]), reason: "too short" }.to_string();
        assert!(long.contains("… (4096 bytes)") && long.len() < 250, "{long}");
    }
}
