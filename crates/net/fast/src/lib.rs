//! IP packets over UDP, each sealed by itself: what is on the wire, with which keys, and when a path is good. No I/O.
//!
//! Two nodes that have an authenticated connection (TLS 1.3 inside QUIC) use its exporter for a path beside it that carries nothing but packets, many at a time. There
//! is no handshake here and no identity: both are the connection's. With it the path comes and goes.
//!
//! # How it is made
//!
//! 1. Each end draws 128 bits and tells them on a stream of the connection, with its UDP ports, what it wants to be called by (the receiver's index), and whether its
//!    processor has AES ([`Terms`]).
//! 2. `secret` = exporter of the TLS session under [`EXPORTER_LABEL`], 32 bytes. `root` = HKDF-Extract(salt of this format, `secret`), and for each of
//!    the two directions `chain₀` = HKDF-Expand(`root`, dialler's NodeId ‖ acceptor's NodeId ‖ both drawn values ‖ cipher ‖ direction), all with SHA-256.
//! 3. Epoch `e` has the key HKDF-Expand(`chainₑ`, "key" ‖ e) and the nonce mask HKDF-Expand(`chainₑ`, "iv" ‖ e); `chainₑ₊₁` = HKDF-Expand(`chainₑ`, "next" ‖ e), and
//!    `chainₑ` is forgotten.
//! 4. A packet is sealed with AES-256-GCM (ChaCha20-Poly1305 unless both have AES). Nonce = mask ⊕ counter, as in TLS 1.3. The [`Header`] is authenticated with it.
//! 5. The sender goes over to the next epoch after two minutes or four million packets, once the receiver answered a probe of this one. The receiver has the next
//!    key ready, and keeps the one before for five seconds.
//!
//! # Why it is safe
//!
//! - **Who sees packets** learns their sizes, times and numbers, and that two addresses speak Atoll. Keys of 256 bits under a hybrid key exchange (X25519 with ML-KEM-768).
//! - **Who changes or makes packets** is refused by the tag: nothing is handed on, moved in a window, or counted as a sign of life before it is
//!   checked. So many forgeries as the cipher allows under one key, and the path ends.
//! - **Who replays packets**: a counter passes once per epoch, and an epoch comes once. What is older than [`WINDOW`] packets is refused as well.
//! - **Who reflects packets** back to their sender: each direction has keys of its own.
//! - **Who moves packets** to another receiver, another path or another connection: its keys differ, by exporter, NodeIds and drawn values. To
//!   another address: the address is probed and used only if the peer answers from there ([`Watch`]), so he gains what he had, a place between the two. He can always drop.
//! - **A nonce is never used twice with a key.** A [`Sealer`] counts by itself, has no copy and no way to be stored; it is made of a [`Half`], which is used up
//!   by that and can only be drawn. So a stream that is opened twice on one connection, a restart, or a restored snapshot of the disk all begin with other keys. (A virtual
//!   machine that is cloned while it runs is the one exception, as for all of TLS. The clone loses its connections within seconds.)
//! - **Forward secrecy**: between connections that of TLS. Within one, a chain's past cannot be computed from its present; but the TLS session keeps its exporter secret as
//!   long as the connection lives, so who takes over the memory of a node reads what it recorded of *this* connection. Connections end after a minute without packets.
//! - **A peer that restarted** has no connection, so nothing that was sealed for it before opens afterwards.
//! - **Amplification**: answers are smaller than probes. Memory: what this crate keeps per path has a fixed size.
//!
//! # Checksums
//!
//! The kernel leaves TCP's checksum to the network card, and here there is none. Between two nodes that seal it would say nothing that the tag does not say better, so
//! segments travel with it begun ([`Kind::Segment`]), and the receiver's kernel takes them as it takes what a card has checked. A peer that lies about it harms conversations of
//! its own. What a node passes on for others, and what leaves for where nothing is sealed, has its checksum finished ([`finish_checksum`]).
//!
//! # What it does not do
//!
//! It hides neither sizes nor times, and does not react to congestion: what is inside the packets does, and is told of it ([`ecn`]). It does not split packets:
//! how large they may be on a path the [`Watch`] finds out, and who sends larger ones splits them first.

mod burst;
mod cut;
mod ecn;
mod header;
mod inbox;
mod keys;
mod open;
mod seal;
mod sum;
mod terms;
mod watch;
mod window;

pub use burst::{Burst, Run, SLOT_BYTES};
pub use cut::Cut;
pub use ecn::{CONGESTED, ecn, mark_congested};
pub use header::{
    HEADER_BYTES, Header, Kind, PACKET_BYTES_FLOOR, PACKET_BYTES_LEAST, PACKET_BYTES_MAX, SEALED_BYTES_MAX, TAG_BYTES,
};
pub use inbox::{Arrived, BUFFER_BYTES, BUFFERS, Finds, Inbox};
pub use keys::{Cipher, EXPORTER_LABEL, Secret, has_aes};
pub use open::{OLD_EPOCH, OpenError, Opener};
pub use seal::{EPOCH_PACKETS, EPOCH_PACKETS_MAX, EPOCH_TIME, SealError, Sealer};
pub use sum::{finish_checksum, tcp_headers};
pub use terms::{Half, Ports, Side, TERMS_BYTES_MAX, Terms, decode_terms};
pub use watch::{Besides, DOUBT, OFTEN, OTHERS_MAX, PAUSE_MAX, Probe, SELDOM, SILENCE, Size, Step, Watch, Way};
pub use window::{WINDOW, Window};

#[cfg(test)]
mod tests;
