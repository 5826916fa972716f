//! What can go wrong with a container, and whether trying again helps.

use std::io;
use std::path::{Path, PathBuf};

/// What a caller should do about a [`RuntimeError`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorKind {
    /// It may work later.
    Retry,
    /// What was asked for is not acceptable and will not become so.
    Invalid,
    /// There is no such container, sandbox or group.
    NotFound,
    /// There is one already.
    Exists,
    /// The container is in another state than this needs.
    State,
    /// This machine or this user cannot do it.
    Unsupported,
    /// The disk, the kernel or the runtime's own files are broken.
    Broken,
}

/// Why an operation on containers failed.
#[derive(Debug, thiserror::Error)]
pub enum RuntimeError {
    /// The file system refused.
    #[error("cannot {what} {}: {source}", path.display())]
    Io {
        /// What was tried, such as "write".
        what: &'static str,
        /// On which file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// What was asked for makes no sense or is not allowed.
    #[error("{subject} is refused: {reason}")]
    Invalid {
        /// Which container, sandbox or group.
        subject: String,
        /// Why.
        reason: String,
    },
    /// Nothing by that name.
    #[error("there is no {0}")]
    NotFound(String),
    /// The name is taken.
    #[error("{0} exists already")]
    Exists(String),
    /// Not in this state.
    #[error("{subject} is {state}, so it cannot be {wanted}")]
    State {
        /// Which container.
        subject: String,
        /// What it is.
        state: &'static str,
        /// What was to be done with it.
        wanted: &'static str,
    },
    /// Not on this machine.
    #[error("{0}")]
    Unsupported(String),
    /// The container could not be made or started.
    #[error("{subject} could not be {what}: {reason}")]
    Failed {
        /// Which container.
        subject: String,
        /// What was tried, such as "created".
        what: &'static str,
        /// What the runtime said.
        reason: String,
    },
    /// A record was written by something else, or is damaged.
    #[error("{} is not a record that this version can read: {reason}", path.display())]
    Record {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
}

impl RuntimeError {
    /// What to do about it.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Io { source, .. } if source.kind() == io::ErrorKind::ResourceBusy => ErrorKind::Retry,
            Self::Io { .. } | Self::Record { .. } => ErrorKind::Broken,
            Self::Invalid { .. } | Self::Failed { .. } => ErrorKind::Invalid,
            Self::NotFound(_) => ErrorKind::NotFound,
            Self::Exists(_) => ErrorKind::Exists,
            Self::State { .. } => ErrorKind::State,
            Self::Unsupported(_) => ErrorKind::Unsupported,
        }
    }

    pub(crate) fn invalid(subject: impl Into<String>, reason: impl Into<String>) -> Self {
        Self::Invalid { subject: subject.into(), reason: reason.into() }
    }
}

/// For `map_err`: an I/O error with what was tried on which file.
pub(crate) fn io_error(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> RuntimeError {
    let path = path.to_owned();
    move |source| RuntimeError::Io { what, path, source }
}

/// The same for an error of a raw system call.
pub(crate) fn sys_error(what: &'static str, path: &Path) -> impl FnOnce(rustix::io::Errno) -> RuntimeError {
    let path = path.to_owned();
    move |errno| RuntimeError::Io { what, path, source: errno.into() }
}

/// The whole story of an error that keeps its causes to itself.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        source = cause.source();
    }
    text
}
