//! SPDY/3.1 as far as Kubernetes' clients use it: streams with headers over one connection, opened by the client. It is what kubectl speaks for
//! commands before 1.31, and for ports always.
//!
//! Deliberately absent: what no such client does. Streams are not pushed, header blocks that are sent are empty, settings and flow-control windows are
//! read over (the clients' library ignores them as well): a reader that is slow makes the connection wait. [`Decoder`] and [`head`] are pure.

mod dictionary;
mod frame;
mod headers;
mod session;

pub use frame::{CONTROL_BYTES_MAX, Control, Decoder, Head, HeadError, SpdyError, head};
pub(crate) use session::{Stream, session};
