//! Where a node is: signed records, kept by the nodes themselves and found in a bounded number of steps. Pure: no I/O, no clock, no tasks.
//!
//! # How
//!
//! A Kademlia-like table: nodes stand at points of a 128-bit space ([`Key`]: a hash of the NodeId), each knows the nearest to itself and some of every
//! farther part. A node brings its [`Record`] to the eight nearest to its own key; who looks for it asks ever nearer to that key, along three paths that share
//! no node. The number of steps grows with the logarithm of the number of nodes and is limited in any case. One contact is enough to begin: a ticket's.
//! Peers with a standing connection also tell each other when one of them has moved, over two hops.
//!
//! # What it promises
//!
//! - A record is believed only under the signature of the node that it is about; the highest sequence wins; two and a half hours after it was signed it is gone.
//! - State is bounded: about 16 + 8 log₂(N / 16) contacts, 1024 records, 64 lookups, 512 questions, counters of fixed size, whoever sends what.
//! - Only who answered a question of ours is in the table or in an answer of ours; who is there and answers is not displaced. Made-up records displace none that
//!   their node brought itself.
//! - Places in tables, shortlists and the store and questions per second are limited per network (IPv6 /64 and /48, IPv4 address and /24).
//!
//! # What it does not
//!
//! - It does not carry messages. The driver sends them over connections that authenticate both ends by NodeId, hands in from where they really came, and
//!   dials contacts, which are claims until the handshake.
//! - It does not keep an attacker from trying keys until they are near a chosen one. Who has as many *networks* near a key as there are honest nodes can hide
//!   its record from lookups, never forge it; peers and tickets still lead to the node.
//! - It limits by network, not by owner: an owner's key costs as little as a node's.
//! - A node whose clock is off by more than a few hours keeps no record that others accept; it finds others all the same.

mod find;
mod key;
mod lookup;
mod message;
mod meter;
mod network;
mod random;
mod record;
mod store;
mod table;
#[cfg(test)]
mod testing;

pub use find::{Config, Counts, Find, Input, Miss, Output};
pub use key::Key;
pub use message::{
    Answer, Ask, CONTACTS_MAX, Contact, MESSAGE_BYTES_MAX, Message, MessageError, RUMOUR_HOPS_MAX, Tell, decode_message,
};
pub use network::Network;
pub use record::{Opened, Record, Whereabouts};
