//! What is said at the beginning of a stream of `atoll/dial/1`: one frame with what to connect to, one with the answer, then the connection's bytes.

use std::net::IpAddr;

use atoll_wire::{DecodeError, Versioned, decode};
use serde::{Deserialize, Serialize};

use crate::hosts::is_host_name;

/// The protocol's name.
pub const PROTOCOL: &str = "atoll/dial/1";

/// Most bytes of either frame: the longest name (253 bytes) and a few numbers.
pub const FRAME_BYTES_MAX: u32 = 512;

/// What a peer is to connect to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DialRequest {
    /// Where.
    pub place: Place,
    /// Which port there.
    pub port: u16,
    /// By what.
    pub protocol: Protocol,
}

/// Where a peer is to connect to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Place {
    /// A program on the peer itself.
    Here,
    /// An address that the peer reaches.
    Address(IpAddr),
    /// A name that the peer looks up.
    Name(String),
}

/// What is spoken at the target.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Protocol {
    /// TCP.
    Tcp,
}

impl Versioned for DialRequest {
    const VERSION: u16 = 1;
    const NAME: &'static str = "request to connect";
}

/// What came of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum DialAnswer {
    /// It is connected; what follows is the connection's.
    Connected,
    /// It is not; the stream ends.
    Denied(Denial),
}

impl Versioned for DialAnswer {
    const VERSION: u16 = 1;
    const NAME: &'static str = "answer to a request to connect";
}

/// Why a peer does not connect. No text of the peer's is passed on: what a person reads is made here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum Denial {
    /// No rule lets the asking node reach this.
    #[error("no rule there lets this node reach it (settings network.allow and, beyond the node itself, network.exit)")]
    NotAllowed,
    /// Nothing listens at the port.
    #[error("nothing listens there")]
    Closed,
    /// There is no way to the address.
    #[error("that node has no way there")]
    Unreachable,
    /// It did not answer.
    #[error("it did not answer that node in time")]
    Silent,
    /// The name means nothing to the peer.
    #[error("that node finds no address for the name")]
    NoSuchName,
    /// The peer serves as many as it may.
    #[error("that node serves as many connections as it may at once; try again later")]
    TooMany,
    /// The peer has just started or is about to end.
    #[error("that node is starting or stopping; try again")]
    NotNow,
}

/// Reads a request; names that are none are refused.
///
/// # Errors
/// [`DecodeError`].
pub fn decode_dial(bytes: &[u8]) -> Result<DialRequest, DecodeError> {
    let request: DialRequest = decode(bytes)?;
    match &request.place {
        Place::Name(name) if !is_host_name(name) => {
            Err(DecodeError::Malformed { name: DialRequest::NAME, reason: "its name is no host's".into() })
        }
        _ => Ok(request),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use atoll_wire::encode;

    use super::*;

    fn request(place: Place) -> DialRequest {
        DialRequest { place, port: 443, protocol: Protocol::Tcp }
    }

    /// Fixtures of version 1: they stay.
    #[test]
    fn version_1_is_what_it_was() {
        let check = |value: &DialRequest, hex: &str| {
            let bytes = encode(value);
            assert_eq!(bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>(), hex);
            assert_eq!(&decode_dial(&bytes).unwrap(), value);
        };
        check(&request(Place::Here), "010000bb0300");
        check(&request(Place::Address([10, 0, 0, 1].into())), "010001000a000001bb0300");
        check(&request(Place::Name("a.b".into())), "01000203612e62bb0300");
        assert_eq!(encode(&DialAnswer::Connected), [1, 0, 0]);
        assert_eq!(encode(&DialAnswer::Denied(Denial::Closed)), [1, 0, 1, 1]);
    }

    #[test]
    fn a_name_must_be_a_hosts() {
        for name in ["", "a b", "a/b", "a\n", "-", "::1"] {
            assert!(decode_dial(&encode(&request(Place::Name(name.into())))).is_err(), "{name:?}");
        }
    }

    #[test]
    fn the_largest_request_fits() {
        let longest = ["a".repeat(63), "b".repeat(63), "c".repeat(63), "d".repeat(61)].join(".");
        assert!(encode(&request(Place::Name(longest))).len() < FRAME_BYTES_MAX as usize);
    }
}
