//! How a client gets a stream to a node: the seam towards the network.
//!
//! This crate knows neither TCP nor QUIC. Whoever composes the node hands in something that opens a stream on which
//! both ends are already authenticated by `NodeId` and the protocol [`ALPN`](crate::ALPN) was agreed on.

use atoll_ids::NodeId;
use futures_util::future::BoxFuture;
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncWrite};

/// Bytes both ways. Implemented by everything that can be it.
pub trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin + ?Sized> Stream for T {}

/// A stream of any kind.
pub type BoxStream = Box<dyn Stream>;

/// Opens authenticated streams to nodes.
pub trait Dial: Send + Sync {
    /// A new stream to `node`, over which [`ALPN`](crate::ALPN) is spoken. The implementation must have verified that
    /// the other end is `node`. It may take as long as it needs; the client gives up after
    /// [`DIAL_LIMIT`](crate::limits::DIAL_LIMIT).
    fn open(&self, node: NodeId) -> BoxFuture<'_, Result<BoxStream, DialError>>;
}

/// Why no stream could be opened.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum DialError {
    /// Nobody knows where this node is. It has to be joined or invited first.
    #[error("no address is known for it")]
    UnknownNode,
    /// It was tried and did not work; it may work later.
    #[error("{0}")]
    Unreachable(String),
}
