//! What can go wrong, one enum per operation.
//!
//! Every error has a [`Kind`], by which a caller decides whether to try again, to tell the person that the request was wrong, or to raise an
//! alarm. The texts say what happened, to what, and what to do.

use std::fmt;
use std::io;

use atoll_codec::Policy;
use atoll_ids::{BucketName, NodeId, OwnerId};
use atoll_kv::KvError;
use atoll_wire::DecodeError;
use thiserror::Error;

use crate::keyspace::KEY_BYTES_MAX;

/// Whose move it is after an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The request was wrong; the same request fails again.
    Input,
    /// What was named does not exist.
    NotFound,
    /// It exists already, or somebody changed it in between.
    Conflict,
    /// Not now: nodes are missing or full. The same request may succeed later.
    Unavailable,
    /// Something that should hold does not: tampered data, a damaged record, the wrong key.
    Broken,
}

/// A node and what was wrong with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeFault {
    /// The node.
    pub node: NodeId,
    /// What it answered, or that it did not.
    pub why: String,
}

impl fmt::Display for NodeFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.node.short(), self.why)
    }
}

/// Faults as one line of text.
struct Faults<'a>(&'a [NodeFault]);

impl fmt::Display for Faults<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return f.write_str("no further node is known");
        }
        f.write_str("missing: ")?;
        for (at, fault) in self.0.iter().enumerate() {
            write!(f, "{}{fault}", if at == 0 { "" } else { ", " })?;
        }
        Ok(())
    }
}

/// Reading or writing the metadata failed.
#[derive(Clone, Debug, Error)]
pub enum MetaError {
    /// The store holds another owner's metadata.
    #[error(
        "the metadata here is encrypted for owner {}, this node has the key of {}; use the owner key that stored it",
        .stored_for.short(), .ours.short()
    )]
    WrongKey {
        /// Whose it is.
        stored_for: OwnerId,
        /// Whose key was used.
        ours: OwnerId,
    },
    /// A record does not open under the owner's key where it lies, so it was altered or moved; or it contradicts itself.
    #[error("the record of {what} was altered or damaged; restore the key-value store from a copy")]
    Tampered {
        /// What the record is about.
        what: String,
    },
    /// A record of another version of this program.
    #[error(transparent)]
    Decode(#[from] DecodeError),
    /// The store itself failed.
    #[error(transparent)]
    Store(#[from] KvError),
}

impl MetaError {
    /// Whose move it is.
    #[must_use]
    pub fn kind(&self) -> Kind {
        match self {
            Self::WrongKey { .. } | Self::Tampered { .. } | Self::Decode(_) => Kind::Broken,
            Self::Store(error) => kv_kind(error),
        }
    }
}

fn kv_kind(error: &KvError) -> Kind {
    match error {
        KvError::Conflict { .. } => Kind::Conflict,
        KvError::Limit { .. } => Kind::Input,
        KvError::DiskFull { .. } => Kind::Unavailable,
        KvError::Unavailable { .. } | KvError::Corrupt { .. } => Kind::Broken,
    }
}

/// Why an engine was not opened.
#[derive(Clone, Debug, Error)]
pub enum OpenError {
    /// The configuration contradicts itself.
    #[error("engine setting {what} must be {allowed}, not {found}")]
    Config {
        /// The setting.
        what: &'static str,
        /// What it may be.
        allowed: &'static str,
        /// What it is.
        found: String,
    },
    /// The metadata could not be read.
    #[error(transparent)]
    Meta(#[from] MetaError),
}

/// Why a bucket was not made, found or removed.
#[derive(Clone, Debug, Error)]
pub enum BucketError {
    /// There is none of that name.
    #[error("there is no bucket {bucket}; `atoll bucket create {bucket}` makes it")]
    NoSuchBucket {
        /// The name.
        bucket: BucketName,
    },
    /// There is one already.
    #[error("bucket {bucket} exists already, with policy {policy}")]
    Exists {
        /// The name.
        bucket: BucketName,
        /// Its policy.
        policy: Policy,
    },
    /// It still holds objects.
    #[error("bucket {bucket} is not empty: it holds for example \"{example}\"; remove its objects first")]
    NotEmpty {
        /// The name.
        bucket: BucketName,
        /// The key of an object in it.
        example: String,
    },
    /// The metadata could not be read or written.
    #[error(transparent)]
    Meta(#[from] MetaError),
}

/// Why an object was not stored. Nothing of it can be seen, and what it replaces is still there.
#[derive(Debug, Error)]
pub enum PutError {
    /// There is no such bucket.
    #[error("there is no bucket {bucket}; `atoll bucket create {bucket}` makes it")]
    NoSuchBucket {
        /// The name.
        bucket: BucketName,
    },
    /// The object cannot be called that.
    #[error("an object's key has 1 to {KEY_BYTES_MAX} bytes and no NUL; {found}")]
    BadKey {
        /// What is wrong with it.
        found: String,
    },
    /// A symbolic link or directory has no content.
    #[error("a {kind} has no content, but its source gives {bytes} bytes")]
    NotAFile {
        /// What it was said to be.
        kind: &'static str,
        /// What the source gives, at least.
        bytes: u64,
    },
    /// Not enough nodes to hold the shards of a stripe, each in a failure domain of its own.
    #[error(
        "policy {policy} needs {needed} nodes and {answering} can take a shard; {}; add nodes, or bring back the missing ones, and try again",
        Faults(missing)
    )]
    NotEnoughNodes {
        /// The bucket's policy.
        policy: Policy,
        /// Nodes it takes (k+m).
        needed: usize,
        /// Nodes that did or could take a shard.
        answering: usize,
        /// Nodes that should, and why not.
        missing: Vec<NodeFault>,
    },
    /// The source could not be read.
    #[error("the source cannot be read at byte {at}: {error}")]
    Source {
        /// How far it was read.
        at: u64,
        /// What the operating system said.
        error: io::Error,
    },
    /// The file was changed while it was being read.
    #[error("the source changed while it was being stored ({what}); store it again when nothing writes to it")]
    SourceChanged {
        /// What changed.
        what: String,
    },
    /// More stripes than one object can have.
    #[error("the object is too large: one upload holds at most 256 TiB")]
    TooLarge,
    /// Others keep storing under the same key.
    #[error("\"{key}\" is being stored by others at the same time; try again")]
    Contended {
        /// The key.
        key: String,
    },
    /// The engine is shutting down, or one of its tasks failed.
    #[error("the upload was stopped: {why}")]
    Stopped {
        /// By what.
        why: String,
    },
    /// The metadata could not be read or written.
    #[error(transparent)]
    Meta(#[from] MetaError),
}

/// Why an object was not found or its reading not begun.
#[derive(Clone, Debug, Error)]
pub enum GetError {
    /// There is no such bucket.
    #[error("there is no bucket {bucket}")]
    NoSuchBucket {
        /// The name.
        bucket: BucketName,
    },
    /// There is no such object.
    #[error("there is no object \"{key}\" in bucket {bucket}")]
    NotFound {
        /// The bucket.
        bucket: BucketName,
        /// The key.
        key: String,
    },
    /// The range lies outside the object.
    #[error("bytes {start} to {end} are not in an object of {size} bytes")]
    Range {
        /// First byte asked for.
        start: u64,
        /// The byte after the last.
        end: u64,
        /// The object's size.
        size: u64,
    },
    /// The object belongs to another owner.
    #[error(
        "the object is encrypted for owner {}, this node has the key of {}; use the owner key that stored it",
        .stored_for.short(), .ours.short()
    )]
    WrongKey {
        /// Whose it is.
        stored_for: OwnerId,
        /// Whose key was used.
        ours: OwnerId,
    },
    /// The object's records were altered.
    #[error("the record of {what} was altered or damaged; restore the key-value store from a copy")]
    Tampered {
        /// What the record is about.
        what: String,
    },
    /// The metadata could not be read.
    #[error(transparent)]
    Meta(MetaError),
}

/// Why reading stopped. What was handed out before is right; nothing after it was handed out.
#[derive(Clone, Debug, Error)]
pub enum ReadError {
    /// Too few shards of a stripe can be had.
    #[error(
        "stripe {stripe} needs {need} shards and {have} can be had; {}; bring a missing node back and try again",
        Faults(missing)
    )]
    TooFewShards {
        /// The stripe, counted from 0.
        stripe: u64,
        /// Shards it takes (k).
        need: usize,
        /// Good shards that were had.
        have: usize,
        /// The nodes whose shards were not, and why.
        missing: Vec<NodeFault>,
    },
    /// The manifest or the stripe is not what the owner stored.
    #[error("{what} was altered: it fails authentication; nothing of it was handed on")]
    Tampered {
        /// What it is.
        what: String,
    },
    /// The object was replaced or removed and its shards are gone.
    #[error("the object was removed while it was being read; read it again")]
    Removed,
    /// The engine is shutting down, or one of its tasks failed.
    #[error("reading was stopped: {why}")]
    Stopped {
        /// By what.
        why: String,
    },
    /// The metadata could not be read.
    #[error(transparent)]
    Meta(#[from] MetaError),
}

/// Why an object was not removed.
#[derive(Clone, Debug, Error)]
pub enum RemoveError {
    /// There is no such object.
    #[error("there is no object \"{key}\" in bucket {bucket}")]
    NotFound {
        /// The bucket.
        bucket: BucketName,
        /// The key.
        key: String,
    },
    /// Others keep storing under the same key.
    #[error("\"{key}\" is being stored by others at the same time; try again")]
    Contended {
        /// The key.
        key: String,
    },
    /// The metadata could not be read or written.
    #[error(transparent)]
    Meta(#[from] MetaError),
}

/// Why a listing or a heal did not go through.
#[derive(Clone, Debug, Error)]
pub enum ListError {
    /// There is no such bucket.
    #[error("there is no bucket {bucket}")]
    NoSuchBucket {
        /// The name.
        bucket: BucketName,
    },
    /// The metadata could not be read or written.
    #[error(transparent)]
    Meta(#[from] MetaError),
}

impl From<MetaError> for GetError {
    fn from(error: MetaError) -> Self {
        match error {
            MetaError::WrongKey { stored_for, ours } => Self::WrongKey { stored_for, ours },
            MetaError::Tampered { what } => Self::Tampered { what },
            other => Self::Meta(other),
        }
    }
}

impl OpenError {
    /// Whose move it is.
    #[must_use]
    pub fn kind(&self) -> Kind {
        match self {
            Self::Config { .. } => Kind::Input,
            Self::Meta(error) => error.kind(),
        }
    }
}

impl BucketError {
    /// Whose move it is.
    #[must_use]
    pub fn kind(&self) -> Kind {
        match self {
            Self::NoSuchBucket { .. } => Kind::NotFound,
            Self::Exists { .. } | Self::NotEmpty { .. } => Kind::Conflict,
            Self::Meta(error) => error.kind(),
        }
    }
}

impl PutError {
    /// Whose move it is.
    #[must_use]
    pub fn kind(&self) -> Kind {
        match self {
            Self::NoSuchBucket { .. } => Kind::NotFound,
            Self::BadKey { .. } | Self::NotAFile { .. } | Self::Source { .. } | Self::TooLarge => Kind::Input,
            Self::SourceChanged { .. } | Self::Contended { .. } => Kind::Conflict,
            Self::NotEnoughNodes { .. } | Self::Stopped { .. } => Kind::Unavailable,
            Self::Meta(error) => error.kind(),
        }
    }
}

impl GetError {
    /// Whose move it is.
    #[must_use]
    pub fn kind(&self) -> Kind {
        match self {
            Self::NoSuchBucket { .. } | Self::NotFound { .. } => Kind::NotFound,
            Self::Range { .. } => Kind::Input,
            Self::WrongKey { .. } | Self::Tampered { .. } => Kind::Broken,
            Self::Meta(error) => error.kind(),
        }
    }
}

impl ReadError {
    /// Whose move it is.
    #[must_use]
    pub fn kind(&self) -> Kind {
        match self {
            Self::TooFewShards { .. } | Self::Stopped { .. } => Kind::Unavailable,
            Self::Removed => Kind::Conflict,
            Self::Tampered { .. } => Kind::Broken,
            Self::Meta(error) => error.kind(),
        }
    }
}

impl RemoveError {
    /// Whose move it is.
    #[must_use]
    pub fn kind(&self) -> Kind {
        match self {
            Self::NotFound { .. } => Kind::NotFound,
            Self::Contended { .. } => Kind::Conflict,
            Self::Meta(error) => error.kind(),
        }
    }
}

impl ListError {
    /// Whose move it is.
    #[must_use]
    pub fn kind(&self) -> Kind {
        match self {
            Self::NoSuchBucket { .. } => Kind::NotFound,
            Self::Meta(error) => error.kind(),
        }
    }
}
