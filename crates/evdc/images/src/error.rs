//! What can go wrong with an image, and whether trying again helps.

use std::io;
use std::path::{Path, PathBuf};

use crate::digest::Digest;

/// What a caller should do about an [`ImageError`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorKind {
    /// It may work later: a network, a registry, a store that is busy.
    Retry,
    /// What was given is not acceptable and will not become so: a hostile layer, a wrong digest, a missing platform.
    Invalid,
    /// There is no such image.
    NotFound,
    /// The registry wants other credentials.
    Denied,
    /// This machine or this user cannot do it.
    Unsupported,
    /// The disk or the store is broken.
    Broken,
}

/// Why an operation on images failed.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
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
    /// The image breaks a rule or a limit.
    #[error("refused {subject}: {reason}")]
    Refused {
        /// Which part of the image.
        subject: String,
        /// Which rule, and what was found.
        reason: String,
    },
    /// Bytes that are not what their digest says.
    #[error(
        "{subject} should have digest {expected} but has {found}: it was changed on the way or is damaged; fetch it again"
    )]
    WrongDigest {
        /// Which part of the image.
        subject: String,
        /// What the manifest says.
        expected: Digest,
        /// What the bytes have.
        found: Digest,
    },
    /// Nothing by that name.
    #[error("there is no image {0} in the store; pull or load it first")]
    NotFound(String),
    /// The image has no variant for this machine.
    #[error("{reference} is not made for {wanted}; it offers {offered}")]
    NoPlatform {
        /// Which image.
        reference: String,
        /// What this machine is.
        wanted: String,
        /// What the index lists.
        offered: String,
    },
    /// Not without root.
    #[error("{0} needs root: run the node as root to run containers on it")]
    NeedsRoot(&'static str),
    /// The registry answered, with a refusal.
    #[error("registry {registry} answered {status} for {what}{}", detail(message))]
    Registry {
        /// Which registry.
        registry: String,
        /// HTTP status.
        status: u16,
        /// What was asked for.
        what: String,
        /// What it said, cut to a readable length.
        message: String,
    },
    /// The registry could not be reached or broke off.
    #[error("cannot reach registry {registry}: {message}")]
    Unreachable {
        /// Which registry.
        registry: String,
        /// Why.
        message: String,
    },
    /// Something is being pulled or loaded, so nothing can be collected now.
    #[error("images are being pulled or loaded; collect garbage when that is done")]
    Busy,
}

fn detail(message: &str) -> String {
    if message.is_empty() { String::new() } else { format!(": {message}") }
}

impl ImageError {
    /// What to do about it.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Io { .. } => ErrorKind::Broken,
            Self::Refused { .. } | Self::WrongDigest { .. } | Self::NoPlatform { .. } => ErrorKind::Invalid,
            Self::NotFound(_) => ErrorKind::NotFound,
            Self::NeedsRoot(_) => ErrorKind::Unsupported,
            Self::Registry { status: 401 | 403, .. } => ErrorKind::Denied,
            Self::Registry { status: 404, .. } => ErrorKind::NotFound,
            Self::Registry { .. } | Self::Unreachable { .. } | Self::Busy => ErrorKind::Retry,
        }
    }

    pub(crate) fn refused(subject: impl Into<String>, reason: impl Into<String>) -> Self {
        Self::Refused { subject: subject.into(), reason: reason.into() }
    }
}

/// For `map_err`: an I/O error with what was tried on which file.
pub(crate) fn io_error(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> ImageError {
    let path = path.to_owned();
    move |source| ImageError::Io { what, path, source }
}

/// The same for an error of a raw system call.
pub(crate) fn sys_error(what: &'static str, path: &Path) -> impl FnOnce(rustix::io::Errno) -> ImageError {
    let path = path.to_owned();
    move |errno| ImageError::Io { what, path, source: errno.into() }
}
