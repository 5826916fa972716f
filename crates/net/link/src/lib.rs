//! Who a node knows, and how it reaches them.
//!
//! A [`Link`] is a node's presence on the network: an iroh endpoint whose id *is* the [`NodeId`](atoll_ids::NodeId), lanes
//! beside it for bulk, relays where nothing direct works, and the peers that it got to know by [`Ticket`] and finds again after every restart. [`Packets`] carry IP packets, beside the connection where UDP gets through (the fast path). Protocols
//! register a [`StreamHandler`]; whoever wants something of a peer [opens](LinkHandle::open) a stream. What is said
//! on a stream is not the link's business.
//!
//! # What it promises
//!
//! - Every stream is authenticated at both ends by NodeId, under hybrid (X25519 with ML-KEM-768) key exchange, whatever carries it.
//! - Only known peers get past the handshake. Strangers can do nothing but show an invitation and, where finding is on, ask and answer where nodes are, and
//!   introduce themselves to exchange packets ([`Acquaintance`]).
//! - No server of anyone's is contacted unless the configuration names it. Planetary addresses are neither dialled nor advertised by it.
//! - Handshakes, connections, streams, frames and buffers are limited; a reader that stalls stalls its writer.
//! - A stream that ends without `shutdown` is an error at the other end, never a short success.
//!
//! # How it fails
//!
//! Each operation has an error of its own ([`BindError`], [`OpenError`], [`JoinError`], …) that tells what is worth trying again. A peer that
//! cannot be reached stays known and is looked for again, at growing intervals.

mod accept;
mod acquaint;
mod address;
mod book;
mod dial;
mod doors;
mod error;
mod fast;
mod find;
mod frames;
mod introduce;
mod invite;
mod join;
mod kept;
mod lan;
mod link;
mod meter;
mod node;
mod packets;
mod peers;
mod presence;
mod quic;
mod stream;
mod suspects;
mod ticket;
mod via;

pub use atoll_relay::Budget as RelayBudget;

pub use acquaint::{
    Acquaintance, CREDENTIALS_BYTES_MAX, Introduction, IntroductionError, Society, decode_introduction,
};
pub use address::{ADDRESSES_MAX, AddressRecord, RecordError, is_dialable, open_record};
pub use atoll_find::Miss;
pub use error::{BindError, InviteError, JoinError, OpenError, Refusal};
pub use fast::FastCounts;
pub use find::{FindCounts, FindError, Found};
pub use frames::{FRAME_BYTES_MAX, Hello, JoinAnswer, JoinHello, decode_hello, decode_join_answer, decode_join_hello};
pub use introduce::IntroduceError;
pub use invite::JoinRefusal;
pub use lan::{ANNOUNCEMENT_BYTES_MAX, AnnouncementError, Neighbour, decode_announcement};
pub use link::{Builder, Link, LinkConfig, LinkHandle};
pub use meter::Carried;
pub use packets::{PacketCounts, PacketRefusal, Packets};
pub use peers::{Connected, FixedPeer, FixedPeerError, MemoryPeers, Path, Peer, PeerStore, PeerStoreError, StoredPeer};
pub use stream::{BoxStream, Stream, StreamHandler, Traffic};
pub use ticket::{TICKET_CHARS_MAX, TICKET_RELAYS_MAX, Ticket, TicketError};
pub use via::RelayCounts;
pub use via::paths::{Candidate, Paths};
