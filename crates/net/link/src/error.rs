//! What can go wrong, one enum per operation, and the codes in which nodes tell each other.

use std::io;
use std::net::SocketAddr;

use atoll_ids::NodeId;
use atoll_lane::LaneError;

use crate::address::RecordError;
use crate::invite::JoinRefusal;
use crate::peers::PeerStoreError;

/// Why a link could not start. Only [`Self::Store`] can get better by itself.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// Another program, or another node, listens there.
    #[error("{addr} is in use by another program: stop it, or configure another port (0 takes any free one)")]
    PortInUse {
        /// The address.
        addr: SocketAddr,
    },
    /// This machine cannot listen there.
    #[error("cannot listen on {addr}: {source}")]
    Address {
        /// The address.
        addr: SocketAddr,
        /// What the operating system said.
        source: io::Error,
    },
    /// No address to listen on was given.
    #[error("no address to listen on is configured")]
    NoAddress,
    /// A configured relay is not a URL.
    #[error("{url:?} is not the URL of a relay, like https://relay.example.org")]
    Relay {
        /// What was configured.
        url: String,
    },
    /// A protocol's name cannot be one, or is taken.
    #[error("{name:?} cannot be a protocol: {reason}")]
    Protocol {
        /// The name.
        name: String,
        /// Why not.
        reason: &'static str,
    },
    /// Lanes cannot be set up.
    #[error("cannot set up lanes: {0}")]
    Lane(#[from] LaneError),
    /// The peers we know could not be read.
    #[error("cannot read the known peers: {0}")]
    Store(PeerStoreError),
    /// iroh did not start, for another reason than an address.
    #[error("the QUIC endpoint does not start: {0}")]
    Endpoint(String),
}

/// Why a peer does not serve a stream. Values are sent, so they never change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// It does not know us.
    #[error("it does not know this node: join it with a ticket")]
    Unknown,
    /// It serves as many streams for us as it will.
    #[error("it has too many streams open with this node: try again later")]
    Busy,
    /// It does not serve this protocol.
    #[error("it does not serve this protocol")]
    Protocol,
    /// It is shutting down.
    #[error("it is shutting down")]
    Closing,
    /// A reason that this version does not know.
    #[error("it refuses, for a reason that this version does not know")]
    Other,
}

impl Refusal {
    /// The byte that says so; 0 is for acceptance.
    pub(crate) fn to_byte(self) -> u8 {
        match self {
            Self::Unknown => 1,
            Self::Busy => 2,
            Self::Protocol => 3,
            Self::Closing => 4,
            Self::Other => 255,
        }
    }

    /// What a byte says, `None` for acceptance.
    pub(crate) fn from_byte(byte: u8) -> Option<Self> {
        match byte {
            0 => None,
            1 => Some(Self::Unknown),
            2 => Some(Self::Busy),
            3 => Some(Self::Protocol),
            4 => Some(Self::Closing),
            _ => Some(Self::Other),
        }
    }
}

/// Why no stream was opened.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// Not one of our peers.
    #[error("node {node} is not a known peer: join it with a ticket")]
    UnknownPeer {
        /// Who.
        node: NodeId,
    },
    /// It does not answer where it was last; worth trying again.
    #[error("node {node} cannot be reached: {reason}")]
    Unreachable {
        /// Who.
        node: NodeId,
        /// What happened last.
        reason: String,
    },
    /// It answers, and refuses.
    #[error("node {node} refuses: {reason}")]
    Refused {
        /// Who.
        node: NodeId,
        /// Why.
        reason: Refusal,
    },
    /// This link is shut down.
    #[error("this node is shutting down")]
    Closed,
}

impl OpenError {
    /// Whether the same may succeed later without anybody changing anything.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Unreachable { .. } => true,
            Self::Refused { reason, .. } => matches!(reason, Refusal::Busy | Refusal::Closing),
            Self::UnknownPeer { .. } | Self::Closed => false,
        }
    }
}

/// Why no invitation was made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InviteError {
    /// Too many are outstanding.
    #[error("too many invitations are outstanding: let some be used or expire first")]
    TooMany,
    /// It could be used by nobody.
    #[error("an invitation lasts at least a second and can be used at least once")]
    Empty,
}

/// Why a ticket did not make two nodes know each other.
#[derive(Debug, thiserror::Error)]
pub enum JoinError {
    /// Its time is over.
    #[error("this ticket has expired: ask for a new one")]
    Expired,
    /// Our own.
    #[error("this ticket invites to this very node: use it on another")]
    Own,
    /// The inviting node does not answer where the ticket says it is; worth trying again.
    #[error("node {node}, which made this ticket, cannot be reached: {reason}")]
    Unreachable {
        /// Who.
        node: NodeId,
        /// What happened last.
        reason: String,
    },
    /// The inviting node refuses.
    #[error("node {node} did not let us in: {reason}")]
    Refused {
        /// Who.
        node: NodeId,
        /// Why.
        reason: JoinRefusal,
    },
    /// What the inviting node says about itself is not acceptable.
    #[error("the inviting node is broken: {0}")]
    Record(#[from] RecordError),
    /// The new peer could not be stored.
    #[error("the new peer cannot be stored: {0}")]
    Store(PeerStoreError),
    /// This link is shut down.
    #[error("this node is shutting down")]
    Closed,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_survive_the_wire_and_zero_is_none() {
        for refusal in [Refusal::Unknown, Refusal::Busy, Refusal::Protocol, Refusal::Closing, Refusal::Other] {
            assert_eq!(Refusal::from_byte(refusal.to_byte()), Some(refusal));
        }
        assert_eq!(Refusal::from_byte(0), None);
        assert_eq!(Refusal::from_byte(77), Some(Refusal::Other));
    }
}
