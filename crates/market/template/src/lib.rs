//! Go's `text/template` with the functions that Helm charts use: Go's own, Sprig's and Helm's. Pure: no clock, no files, no network,
//! no randomness but what an [`Environment`] hands in.
//!
//! The semantics are the reference's: maps are shared references, numbers keep Go's types, `range` walks maps in the order of their
//! keys, errors have Go's words and positions. `tests/go.json` holds what real Go printed for a table of templates.
//!
//! Refused with one clear line: `call`, complex numbers, functions that read a clock or make keys and certificates, and whatever is
//! not in the table of functions (as Go says it: `function "x" not defined`).
//!
//! Templates are foreign text: nesting, steps and output are limited ([`Limits`]). Deep nesting takes stack, so whoever renders
//! foreign templates does it within [`on_big_stack`].

mod env;
mod exec;
mod functions;
mod gofmt;
mod lex;
mod node;
mod number;
mod parse;
mod set;
mod value;
pub mod yaml;

pub use env::{Environment, Limits, Lookup, MissingKey, Random};
pub use set::{Set, TemplateError};
pub use value::{DEPTH_MAX, Failure, MapRef, NODES_MAX, Object, Value};

/// Whether a template function of that name exists.
#[must_use]
pub fn has_function(name: &str) -> bool {
    functions::find(name).is_some()
}

/// Runs `work` on a thread whose stack suffices for [`Limits::default`]; the memory is only reserved, not used, until needed.
///
/// # Errors
/// The system gives no thread, or `work` panicked.
pub fn on_big_stack<T: Send>(work: impl FnOnce() -> T + Send) -> Result<T, TemplateError> {
    // A level of nesting takes up to 16 KiB in an unoptimised build, and `Limits::default` allows a thousand.
    const STACK_BYTES: usize = 64 << 20;
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name("template".into()).stack_size(STACK_BYTES);
        let thread =
            thread.spawn_scoped(scope, work).map_err(|it| TemplateError(format!("no thread to render on: {it}")))?;
        thread
            .join()
            .map_err(|_| TemplateError("the renderer panicked: this is a defect of Atoll, please report it".into()))
    })
}

/// Whether a version meets a constraint, as `semverCompare` has it.
///
/// # Errors
/// The constraint or the version cannot be read.
pub fn version_matches(constraint: &str, version: &str) -> Result<bool, TemplateError> {
    functions::version_matches(constraint, version).map_err(TemplateError)
}
