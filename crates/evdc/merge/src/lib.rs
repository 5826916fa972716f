//! Patches of JSON objects as the Kubernetes API speaks them: JSON Patch (RFC 6902), merge patch (RFC 7386), strategic merge patch and
//! server-side apply with field ownership. Pure: objects in, objects out; no HTTP, no storage, no clock.
//!
//! Strategic merge and apply both ask one [`Schema`] how a field merges: which lists are maps by which keys, which are sets, which values are
//! replaced as a whole. For Kubernetes' own kinds that is a table of what its OpenAPI publishes; for custom resources it is read from
//! their schema; what neither says merges as Kubernetes' default: objects field by field, lists as a whole.
//!
//! **Invariants.** A function that answers an error has changed nothing. [`apply`] of the same configuration twice changes nothing the second
//! time. Without `force`, no value that another manager set changes under it. No result is nested deeper than [`DEPTH_MAX`] if object and patch
//! were not.
//!
//! **Failure.** [`JsonPatchError`], [`StrategicError`] and [`ApplyError`] each tell a patch that is wrong in itself from one that does not fit the object.

pub use crate::{
    fieldset::{FieldSet, FieldSetError, Step},
    managed::{ApplyError, Cause, Conflicts, Writer, apply, record_update},
    rfc::{COPIED_BYTES_MAX, JsonPatchError, OPERATIONS_MAX, json_patch, merge_patch},
    schema::Schema,
    strategic::{StrategicError, strategic_merge},
};

mod fieldset;
mod managed;
mod rfc;
mod schema;
mod strategic;
mod typed;

/// Deepest nesting of an object: what `serde_json` reads, so that whatever is written can be read again, and recursion is bounded.
pub const DEPTH_MAX: usize = 128;
