//! The one error that crosses the control socket: what happened, to what, and what to do about it.

use serde::{Deserialize, Serialize};

/// Whose move it is after an error. Callers decide by this, never by the text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// The request was wrong; the same request will fail again.
    Input,
    /// What was named does not exist.
    NotFound,
    /// It exists already, or somebody else changed it in between.
    Conflict,
    /// Not now: nodes are missing, a disk is full. The same request may succeed later.
    Unavailable,
    /// Something that should hold does not: tampered data, a broken disk, a defect.
    Broken,
}

impl Kind {
    /// The HTTP status that carries this kind (RFC 9110, section 15).
    #[must_use]
    pub fn http_status(self) -> u16 {
        match self {
            Self::Input => 400,
            Self::NotFound => 404,
            Self::Conflict => 409,
            Self::Unavailable => 503,
            Self::Broken => 500,
        }
    }
}

/// An error as the node reports it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct ApiError {
    /// Whose move it is.
    pub kind: Kind,
    /// What happened and to what.
    pub message: String,
    /// What to do, where there is something to do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub help: Option<String>,
}

impl ApiError {
    /// An error of `kind` that says `message`.
    pub fn new(kind: Kind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), help: None }
    }

    /// Adds what the person can do about it.
    #[must_use]
    pub fn with_help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }
}
