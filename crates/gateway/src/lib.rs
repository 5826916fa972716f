//! The gateway: the only door. HTTPS in front, replicas behind that have dialled in.
//!
//! ```text
//! browser ──TLS──► Front ──choose──► replica's session ──"connect 7"──► Connector on the replica's node
//!                    └──────── data stream 7, dialled by that node ◄──────────┘ ──TCP──► the replica
//! ```
//! A node with replicas keeps one *session* to the gateway, on a stream that it dialled. Over it, it says which names and paths its replicas answer; the
//! gateway asks over it for connections, and the node dials a *data stream* for each. Nothing listens on the node.
//!
//! # Invariants
//! - A name is answered only by nodes that show a [`Claim`] signed by the tenant to whom the name belongs; it belongs to the first who claimed it,
//!   durably ([`Names`]).
//! - A data stream belongs to the session that was asked for it: same peer, a token drawn for the session, a ticket used once.
//! - A request is sent to another replica only if the first one did not get it, or if it is idempotent and had no answer.
//! - Everything from outside is bounded: connections, headers, the time of a handshake and of an answer.
//!
//! It knows neither Kubernetes nor the network that carries the streams: both are handed in.

mod authority;
mod back;
mod certificates;
mod claim;
mod connector;
mod front;
mod names;
mod proxy;
mod replica;
mod table;
mod wire;

pub use authority::{Authority, AuthorityError};
pub use back::{Gateway, GatewayConfig, RouteStatus, Stats};
pub use certificates::{CertificateError, Certificates};
pub use claim::{Claim, ClaimError, HOST_BYTES_MAX, is_host};
pub use connector::{Connector, ConnectorStatus, Dial, DialError, Served};
pub use front::{FrontConfig, FrontError, serve_https, serve_redirect};
pub use names::{NameError, Names};
pub use table::{PathKind, Route, Table};
pub use wire::{PROTOCOL, ROUTES_MAX, decode_from_gateway, decode_opening, decode_update};

/// A stream of bytes to or from a peer.
pub trait Stream: tokio::io::AsyncRead + tokio::io::AsyncWrite + Send + Unpin {}

impl<T: tokio::io::AsyncRead + tokio::io::AsyncWrite + Send + Unpin> Stream for T {}

/// A stream of bytes to or from a peer, whatever carries it.
pub type BoxStream = Box<dyn Stream>;
