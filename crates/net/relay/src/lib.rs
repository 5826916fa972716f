//! Relays, without any I/O: the frames of `atoll/relay/1`, what a relay carries for whom, and which relay a node uses.
//!
//! A node that another cannot reach directly is reached through a third that both reach. What is carried are the datagrams of the very QUIC connection
//! between the two, so its encryption and authentication stay between the two ends; a relay sees who sends how much to whom, and can drop it, and nothing else.
//!
//! - [`Frame`] is what goes to and from a relay, [`Parcel`] what the two ends put into it for each other.
//! - [`Forwarder`] is the relay: a total budget, one for each user, a fair turn for everybody who waits, and a reason for everything that it refuses.
//! - [`Awaited`] is for which strangers it carries: those that a peer awaits, to that peer.
//! - [`Choices`] is the user: candidates are measured through and through, the least smoothed round trip wins with hysteresis, one that is silent while
//!   something is being sent is left within about a second.
//!
//! Time is handed in, so tests run in virtual time.

mod awaited;
mod bucket;
mod choice;
mod forwarder;
mod frame;
mod parcel;
mod pass;

pub use awaited::{AWAITED_MAX, Awaited, GUEST_TIME, GUESTS_MAX, PASSES_MAX};
pub use bucket::Bucket;
pub use choice::{Action, Choices, Input, RELAYS_MAX, TARGETS_MAX, WayReport, WayState, Why};
pub use forwarder::{Budget, Counts, Forwarder, Next, USER_QUEUE_BYTES_MAX, USERS_MAX};
pub use frame::{Frame, FrameError, HEADER_BYTES, PAYLOAD_BYTES_MAX, Refusal};
pub use parcel::{Cargo, DATAGRAM_BYTES_MAX, Halves, PARCEL_HEADER_BYTES, Parcel, ParcelError};
pub use pass::{Pass, Proof};
