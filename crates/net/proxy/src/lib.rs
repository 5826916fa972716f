//! Programs reach the planetary network without root and without an interface, and what lies behind other nodes by their grant.
//!
//! Two sides. Here, a [`Front`] on loopback speaks SOCKS5 and HTTP to programs and a [`Reacher`] opens a stream of `atoll/dial/1` to the node that the target
//! names. There, a [`DialServer`] asks the node's rules, connects, and copies bytes. Who is a peer, whose it is, what a name means and which rules hold is not known
//! here: it is handed in ([`Grants`], [`Resolve`]).
//!
//! # What it promises
//!
//! - Closed by default. To this node's own programs the rules of the packet filter decide (`network.allow`), to anything beyond it those of [`ExitRule`]; without
//!   any, nobody reaches anything.
//! - What is checked is the address that is connected to: names are looked up by the node that connects, and each address found is judged on its own.
//! - Other users of the machine get nothing: the Unix socket is the owner's, and a loopback connection is asked whose it is ([`Users`]).
//! - One direction may end before the other. A connection that breaks at one end breaks at the other (a reset), and is never a short success.
//! - Streams, handshakes, look-ups and buffers are limited, per peer and in all; who does not read stalls only who writes to it.
//!
//! # How it fails
//!
//! [`ReachError`] and [`Denial`] say what did not work, at which node and what to do; SOCKS gets the nearest code of RFC 1928, HTTP a status and that text.
//!
//! # What is not here
//!
//! UDP over SOCKS (refused), SOCKS4, TLS towards targets, and subnet routes through the interface.

mod counts;
mod exit;
mod front;
mod hosts;
mod http;
mod local;
mod reach;
mod route;
mod serve;
mod socks;
mod special;
mod splice;
mod target;
mod users;
mod wire;

pub use counts::{Counts, CountsNow};
pub use exit::{ExitRule, ExitRuleError, judge};
pub use front::Front;
pub use hosts::is_host_name;
pub use reach::{NameError, ReachError, Reached, Reacher, Resolve};
pub use route::{Route, RouteError, Routes};
pub use serve::{DialServer, Grants, Here, Limits};
pub use socks::{Greeting, Reply, Request, SocksError, decode_greeting, decode_request, encode_reply};
pub use special::Special;
pub use target::{Target, TargetError};
pub use users::{Users, owner_in};
pub use wire::{Denial, DialAnswer, DialRequest, FRAME_BYTES_MAX, PROTOCOL, Place, Protocol, decode_dial};
