//! The engine's errors as the control API tells them.

use atoll_control::{ApiError, Kind};
use atoll_engine as engine;

/// An engine error whose text and kind are carried over.
pub(crate) trait Told: std::fmt::Display {
    /// Whose move it is.
    fn kind(&self) -> engine::Kind;
}

macro_rules! told {
    ($($error:ident),*) => {
        $(impl Told for engine::$error {
            fn kind(&self) -> engine::Kind {
                self.kind()
            }
        })*
    };
}

told!(BucketError, PutError, GetError, ReadError, RemoveError, ListError, MetaError);

/// The API's error for `error`.
pub(crate) fn told(error: &impl Told) -> ApiError {
    ApiError::new(kind(error.kind()), error.to_string())
}

/// The same, saying which object it is about.
pub(crate) fn told_of(bucket: &atoll_ids::BucketName, key: &str, error: &impl Told) -> ApiError {
    ApiError::new(kind(error.kind()), format!("{bucket}/{key}: {error}"))
}

fn kind(kind: engine::Kind) -> Kind {
    match kind {
        engine::Kind::Input => Kind::Input,
        engine::Kind::NotFound => Kind::NotFound,
        engine::Kind::Conflict => Kind::Conflict,
        engine::Kind::Unavailable => Kind::Unavailable,
        engine::Kind::Broken => Kind::Broken,
    }
}
