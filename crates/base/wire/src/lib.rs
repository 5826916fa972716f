//! How values become bytes: a version and a body ([`encode`], [`decode`]), and frames on a stream ([`read_frame`],
//! [`write_frame`]), and the exchange of one question for one answer ([`exchange`]).
//!
//! Everything Atoll stores or sends goes through here, so that everything starts with a version and nothing foreign is read
//! without a limit. Not here: what the messages are and who may send them; each protocol owns its types.
//!
//! # What hostile input can do
//! - It never causes a panic: every failure is a [`DecodeError`] or a [`FrameError`].
//! - A frame announced larger than the limit is refused before a byte of it is allocated.
//! - Decoding allocates in proportion to the input, whatever lengths it claims: strings and byte strings are checked against what is
//!   there, and sequences are pre-allocated up to 1 MiB at most (serde's own rule). Two kinds of type would break this and must not be
//!   [`Versioned`]: sequences of zero-sized values (their length costs the sender nothing) and types that contain themselves
//!   (their depth is the stack's).

pub mod exchange;

mod frame;
mod versioned;

pub use frame::{FRAME_HEADER_BYTES, FrameError, read_frame, write_frame};
pub use versioned::{DecodeError, VERSION_BYTES, Versioned, decode, decode_body, encode, version_of};
