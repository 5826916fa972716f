//! What a call can fail with: the part of POSIX's errors that a file system answers, with a sentence for people.

use thiserror::Error;

/// Why a call failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum Errno {
    /// `ENOENT`
    #[error("no such file or directory")]
    NotFound,
    /// `EEXIST`
    #[error("it exists already")]
    Exists,
    /// `ENOTDIR`
    #[error("not a directory")]
    NotDirectory,
    /// `EISDIR`
    #[error("is a directory")]
    IsDirectory,
    /// `ENOTEMPTY`
    #[error("the directory is not empty")]
    NotEmpty,
    /// `ENAMETOOLONG`
    #[error("a name has at most 255 bytes, a link's target 4095")]
    NameTooLong,
    /// `EINVAL`
    #[error("not possible with this argument")]
    Invalid,
    /// `EPERM`
    #[error("not permitted")]
    NotPermitted,
    /// `EMLINK`
    #[error("too many links to one file")]
    TooManyLinks,
    /// `EFBIG`
    #[error("the file would become too large")]
    TooLarge,
    /// `ENOSPC`
    #[error("the volume holds as many files as it can")]
    NoSpace,
    /// `E2BIG`
    #[error("the extended attributes would become too large")]
    TooBig,
    /// `ENODATA`
    #[error("no such extended attribute")]
    NoData,
    /// `ENOTSUP`
    #[error("this file system does not offer that")]
    NotSupported,
    /// `EIO`
    #[error("the data cannot be had or stored: too few nodes answer, or what they have is damaged")]
    Io,
    /// `ESTALE`
    #[error("another node has mounted the volume since; this mount may no longer write")]
    Stale,
}
