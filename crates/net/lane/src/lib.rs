//! One lane: a TLS 1.3 connection over TCP whose two ends know each other by [`NodeId`](atoll_ids::NodeId).
//!
//! A lane carries what is large. It is for moving shards at the speed of the disk, where one QUIC connection in user
//! space costs several times the CPU. It finds nobody (no discovery, no NAT traversal, no retries) and gives the bytes
//! no meaning; `atoll-link` decides when to open one and what is said on it.
//!
//! # The construction, and why it is safe
//!
//! TLS 1.3 by rustls with the primitives of aws-lc-rs, nothing of our own:
//!
//! - **Identity**: both ends present an RFC 7250 raw public key, an Ed25519 `SubjectPublicKeyInfo`, and sign the handshake
//!   transcript with it. A client accepts exactly the key it dialled; a server accepts any key, *proven*, and reports
//!   whose it was, so that its caller decides.
//! - **Secrecy**: X25519MLKEM768 and no other key exchange, so recorded traffic stays closed to a quantum computer as
//!   well; AES-256-GCM, ChaCha20-Poly1305 as the alternative for machines without AES instructions. No TLS 1.2, no session tickets, no early data
//!   (which could be replayed).
//! - **Meaning**: ALPN carries the protocol's name; both ends refuse a connection on which they do not agree.
//!
//! # How it fails
//!
//! Establishing: [`LaneError`], which says whether trying again can help. Afterwards, through [`std::io::Error`]: an end
//! without `close_notify` is [`UnexpectedEof`](std::io::ErrorKind::UnexpectedEof) (somebody cut the line; what came before is
//! authentic but not complete), anything that does not authenticate is
//! [`InvalidData`](std::io::ErrorKind::InvalidData). Bytes are handed on only after their record was authenticated.

mod buffers;
mod error;
mod establish;
mod identity;
mod session;
mod stream;

pub use error::{LaneError, WrongNode};
pub use establish::{Accepted, Acceptor, Connector, HANDSHAKE_BYTES_MAX, HANDSHAKE_TIMEOUT};
pub use stream::LaneStream;
