//! The planetary interface: packets between a TUN device and other nodes, through a filter that is closed by default.
//!
//! A [`Tun`] is raised with the node's planetary address and then run over a [`PacketLink`], which is whatever carries packets to a
//! [`NodeId`](atoll_ids::NodeId). Between the two stands the [`Filter`]: pure, stateful, and the only judge of what passes.
//! How packets get to other nodes, who is a peer and whose it is, and what a pod network's membership says, is not known here: it is handed in
//! through the [`TunHandle`].
//!
//! # What it promises
//!
//! - Nothing comes in that was not asked for or that no [`Rule`] names; a source address is always its sender's. A rule that is taken away or runs out takes the
//!   conversations with it that were begun under it.
//! - An [`Explanation`] is the decision itself, made by the same code.
//! - Its address is not reached through another interface (by nftables; without `nft` the status says that it is not so).
//! - The interface lives and dies with the process. While it is up, `0600::/8` leads into it, and so does the /48 of every pod network that has a prefix.
//! - Its address is marked deprecated and the route names it as source: programs use it towards planetary addresses and nothing else does. In
//!   particular it is no candidate for the connections that carry the packets.
//! - Memory is bounded, whatever comes: flows, fragments, prefixes and queues have limits, and no peer takes the share of another.
//!
//! # How it fails
//!
//! [`RaiseError`] says what this machine lacks; the node goes on without an interface. A packet that cannot be carried is dropped and counted.

mod ask;
mod craft;
mod device;
mod explain;
mod filter;
mod flow;
mod fragments;
mod glue;
mod guard;
mod handed;
mod packet;
mod routes;
mod rule;
mod spans;
mod standing;
mod tun;

pub use ask::{Asked, allows, allows_by_name};
pub use device::{INTERFACE_MTU, RaiseError, TunConfig};
pub use explain::{Cause, Explanation, Miss, Probe};
pub use filter::{Clock, Filter, PeerEntry, Reason};
pub use flow::{FLOWS_MAX, FLOWS_PER_REMOTE_MAX};
pub use packet::{EXTENSIONS_MAX, Fragment, Malformed, Packet, Payload, TcpFlags, parse};
pub use routes::{PREFIXES_MAX, Prefix, PrefixError};
pub use rule::{
    Direction, GROUPS_MAX, Group, GroupError, MEMBERS_MAX, NOTE_CHARS_MAX, Out, Policy, Ports, RULES_MAX, Rule,
    RuleError, What, Who, WordError,
};
pub use tun::{PacketLink, Routes, RunError, Tun, TunHandle, TunStatus};
