//! Routes over several hops, for nodes that neither a direct path nor a single relay joins: the islands. Pure: no I/O, no clock, no tasks.
//!
//! # How
//!
//! Compact routing by vicinities and landmarks (Thorup and Zwick; Disco). Every node keeps routes to the about 2√N nodes nearest to it, learned from neighbours
//! as by Babel (RFC 8966), and to the about √N landmarks, which elect themselves by a hash. A node's [`Address`] is a landmark near it and the ports from there; others look
//! it up in the node's record. A packet goes to the landmark, by ports from there, and as soon as it meets a node that knows the destination, directly. The metric
//! is the smoothed round trip.
//!
//! # What it promises
//!
//! - No loops, at no time, whatever is lost, late, repeated or out of order: routes obey Babel's feasibility condition ([`Router::step`]), and a packet's phases never
//!   go back ([`Header`]).
//! - State is at most O(√N): three offers of each of 2√N near nodes and 3√N landmarks, and 32√N distances of 40 bytes, remembered against loops. At a million nodes: 5000 routes.
//!   The bound holds in every topology, hubs included.
//! - A route is believed only under its destination's signature; forged, old and replayed beacons have no effect.
//! - A neighbour can lie about how near something is, and drop what it attracts: whoever notices the silence says so ([`Input::Silent`]) and the way is left for
//!   a minute; after three destinations, everything by way of that neighbour. A landmark that drops packets is not named any more ([`Input::Useless`]).
//! - Landmarks alone on the way cost at most five times the shortest path, three with [`Router::way_back`] told to the peer; usually 1.1 (`docs/network-simulation.md`).
//!
//! # What it does not
//!
//! - It does not carry packets or messages: the driver has one authenticated connection to each neighbour, keeps messages in order or takes the link down, and encrypts packets end to
//!   end, so that no node on the way reads or changes them.
//! - It is not the first choice: [`Detour`] says when packets are to go this way at all.
//! - It does not count hops against a budget or limit how much a node forwards for others; the relay's budget of the driver does.
//! - A spanning tree with a root (Yggdrasil's) was not chosen: two to three times the shortest path, and everything changes when the root does.

mod beacon;
mod forward;
mod message;
mod route;
mod router;
mod worth;

pub use beacon::{Beacon, Sealed};
pub use forward::{Address, Header, Hop, Lost, Phase};
pub use message::{
    HOPS_MAX, MESSAGE_BYTES_MAX, Message, MessageError, Port, Request, UPDATES_MAX, Update, decode_message,
};
pub use router::{Counts, Input, Output, Router};
pub use worth::Detour;
