//! Why a lane could not be established.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use atoll_ids::NodeId;

/// The other end proved a key, but not the one that was dialled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("expected node {expected}, but {found} answered")]
pub struct WrongNode {
    /// Who was dialled.
    pub expected: NodeId,
    /// Who answered.
    pub found: NodeId,
}

/// Why a lane could not be established.
#[derive(Debug, thiserror::Error)]
pub enum LaneError {
    /// TCP did not connect.
    #[error("cannot connect to {address}: {source}")]
    Connect {
        /// Where to.
        address: SocketAddr,
        /// What the operating system said.
        source: io::Error,
    },
    /// The other end was too slow.
    #[error("the other end did not complete {what} within {limit:?}")]
    Timeout {
        /// Which part of it.
        what: &'static str,
        /// How long it had.
        limit: Duration,
    },
    /// The connection broke before the handshake was complete.
    #[error("the connection broke during the handshake: {0}")]
    Io(#[from] io::Error),
    /// Somebody else listens there.
    #[error(transparent)]
    WrongNode(#[from] WrongNode),
    /// The ends have no protocol in common.
    #[error("the other end does not speak {wanted}")]
    Protocol {
        /// What was asked for, or what is offered here.
        wanted: String,
    },
    /// The other end refused us and said so.
    #[error("the other end refused the handshake: {0}")]
    Refused(String),
    /// What the other end sent is not the handshake we accept.
    #[error("not an acceptable TLS 1.3 handshake: {0}")]
    Tls(rustls::Error),
    /// The other end sent more than any handshake needs.
    #[error("the other end sent more than {limit} bytes without completing the handshake")]
    TooMuch {
        /// The most that is read.
        limit: usize,
    },
    /// The name cannot be a protocol's: ALPN allows 1 to 255 bytes.
    #[error("{0:?} cannot be a protocol name: 1 to 255 bytes are possible")]
    ProtocolName(String),
}

impl LaneError {
    /// Whether the same attempt may succeed later without anyone changing anything: the network's fault rather than a
    /// wrong address, key or protocol.
    pub fn is_transient(&self) -> bool {
        matches!(self, Self::Connect { .. } | Self::Timeout { .. } | Self::Io(_))
    }

    /// Sorts what rustls reports during a handshake about the protocols `wanted`.
    pub(crate) fn from_tls(error: rustls::Error, wanted: &str) -> Self {
        use rustls::{AlertDescription, CertificateError, Error};
        match error {
            Error::InvalidCertificate(CertificateError::Other(ref other)) => {
                match other.0.downcast_ref::<WrongNode>() {
                    Some(wrong) => Self::WrongNode(*wrong),
                    None => Self::Tls(error),
                }
            }
            Error::NoApplicationProtocol | Error::AlertReceived(AlertDescription::NoApplicationProtocol) => {
                Self::Protocol { wanted: wanted.to_owned() }
            }
            Error::AlertReceived(alert) => Self::Refused(format!("{alert:?}")),
            other => Self::Tls(other),
        }
    }
}
