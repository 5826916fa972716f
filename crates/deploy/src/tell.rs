//! What is told while something long is done.

/// One thing told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Note {
    /// This is begun now: the `number`th of `of`, counted from 1.
    Step {
        /// Which.
        number: u64,
        /// How many there are.
        of: u64,
        /// What is done.
        what: String,
    },
    /// What is waited for just now.
    Waiting(String),
    /// Something was left out, and why.
    Warning(String),
}

/// Takes notes; must not block.
pub type Tell = dyn Fn(Note) + Send + Sync;
