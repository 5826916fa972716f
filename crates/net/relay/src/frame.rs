//! What goes to and from a relay: one frame in one QUIC datagram, or behind its length on a lane.
//!
//! ```text
//! version u16 (1, little endian) | kind u8 | node, 32 bytes | payload
//! ```
//!
//! The node is the one at the far end: to whom for [`Frame::Forward`], from whom for [`Frame::Deliver`]. Who speaks is proven by the connection.

use atoll_ids::NodeId;
use bytes::{BufMut, Bytes, BytesMut};

use crate::pass::{Pass, Proof};

/// The version of this format.
const VERSION: u16 = 1;

/// What a frame has before its payload.
pub const HEADER_BYTES: usize = 2 + 1 + 32;

/// The longest payload: no path of the Internet carries datagrams of more than 1,500 bytes without being asked to.
pub const PAYLOAD_BYTES_MAX: usize = 1500;

/// Why a relay does not carry something. Values are sent, so they never change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, thiserror::Error)]
pub enum Refusal {
    /// Its owner does not offer it.
    #[error("it does not relay: its owner turned that off (setting relay.offer)")]
    Off,
    /// It does not know the target.
    #[error("it does not know that node")]
    Unknown,
    /// It knows the target and is not directly connected with it.
    #[error("it is not directly connected with that node")]
    Away,
    /// More is waiting than the sender's share of the budget lets through.
    #[error("the budget that its owner set is used up for now (settings relay.rate, relay.rate_per_user)")]
    Budget,
    /// It carries for as many users as it can.
    #[error("it relays for too many others")]
    Crowded,
    /// The way to the target does not carry frames of this size.
    #[error("its way to that node does not carry packets of this size")]
    TooLarge,
    /// A reason that this version does not know.
    #[error("it refuses, for a reason that this version does not know")]
    Other,
}

impl Refusal {
    fn to_byte(self) -> u8 {
        match self {
            Self::Off => 1,
            Self::Unknown => 2,
            Self::Away => 3,
            Self::Budget => 4,
            Self::Crowded => 5,
            Self::TooLarge => 6,
            Self::Other => 255,
        }
    }

    fn from_byte(byte: u8) -> Self {
        match byte {
            1 => Self::Off,
            2 => Self::Unknown,
            3 => Self::Away,
            4 => Self::Budget,
            5 => Self::Crowded,
            6 => Self::TooLarge,
            _ => Self::Other,
        }
    }
}

/// See the module's documentation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Frame {
    /// To a relay: carry this to a node.
    Forward {
        /// To whom.
        to: NodeId,
        /// What; the relay does not look into it.
        payload: Bytes,
    },
    /// From a relay: this is from a node.
    Deliver {
        /// From whom, as the relay says.
        from: NodeId,
        /// What.
        payload: Bytes,
    },
    /// From a relay: something for this node was not carried. Named is the node that it is said to, if it is not awaited here either ([`Frame::Await`]).
    Refused {
        /// To whom it was to go.
        to: NodeId,
        /// Why not.
        refusal: Refusal,
    },
    /// To a relay: strangers with this pass may talk to the sender through it for a while.
    Await {
        /// Who is awaited: the sender.
        node: NodeId,
        /// What they have to know.
        pass: Pass,
        /// For how many seconds.
        seconds: u16,
    },
    /// To a relay, from a stranger: that node awaits me.
    Show {
        /// Who awaits the sender.
        to: NodeId,
        /// That the sender knows a pass.
        proof: Proof,
    },
}

/// Why bytes are not a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// Cut off.
    #[error("a frame for a relay is cut off")]
    Short,
    /// Of another version.
    #[error("a frame for a relay is of version {found}; this is {VERSION}")]
    Version {
        /// Which.
        found: u16,
    },
    /// Of a kind that does not exist.
    #[error("a frame for a relay is of a kind that does not exist")]
    Kind,
    /// Larger than any.
    #[error("a frame for a relay carries {found} bytes; {PAYLOAD_BYTES_MAX} are possible")]
    Long {
        /// How many.
        found: usize,
    },
}

/// Bytes of what is said with [`Frame::Await`]: the pass and the seconds.
const AWAIT_BYTES: usize = 32 + 2;

fn wrong_length(body: &[u8], right: usize) -> FrameError {
    if body.len() < right { FrameError::Short } else { FrameError::Long { found: body.len() } }
}

impl Frame {
    /// As bytes.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        let mut await_body = [0; AWAIT_BYTES];
        let (kind, node, payload): (u8, &NodeId, &[u8]) = match self {
            Self::Forward { to, payload } => (1, to, payload),
            Self::Deliver { from, payload } => (2, from, payload),
            Self::Refused { to, refusal } => (3, to, &[refusal.to_byte()]),
            Self::Await { node, pass, seconds } => {
                await_body[..32].copy_from_slice(pass.as_bytes());
                await_body[32..].copy_from_slice(&seconds.to_le_bytes());
                (4, node, &await_body)
            }
            Self::Show { to, proof } => (5, to, proof),
        };
        let mut bytes = BytesMut::with_capacity(HEADER_BYTES + payload.len());
        bytes.put_u16_le(VERSION);
        bytes.put_u8(kind);
        bytes.put_slice(node.as_bytes());
        bytes.put_slice(payload);
        bytes.freeze()
    }

    /// From bytes of a peer.
    ///
    /// # Errors
    ///
    /// [`FrameError`].
    pub fn decode(mut bytes: Bytes) -> Result<Self, FrameError> {
        let [low, high, rest @ ..] = &bytes[..] else { return Err(FrameError::Short) };
        let found = u16::from_le_bytes([*low, *high]);
        if found != VERSION {
            return Err(FrameError::Version { found });
        }
        let [kind, rest @ ..] = rest else { return Err(FrameError::Short) };
        let (kind, Some(node)) = (*kind, rest.first_chunk::<32>()) else { return Err(FrameError::Short) };
        let node = NodeId::from_bytes(*node);
        let payload = bytes.split_off(HEADER_BYTES);
        if payload.len() > PAYLOAD_BYTES_MAX {
            return Err(FrameError::Long { found: payload.len() });
        }
        match (kind, &payload[..]) {
            (1..=3, []) => Err(FrameError::Short),
            (1, _) => Ok(Self::Forward { to: node, payload }),
            (2, _) => Ok(Self::Deliver { from: node, payload }),
            (3, [reason]) => Ok(Self::Refused { to: node, refusal: Refusal::from_byte(*reason) }),
            (3, more) => Err(FrameError::Long { found: more.len() }),
            (4, body) => {
                let body = <&[u8; AWAIT_BYTES]>::try_from(body).map_err(|_| wrong_length(body, AWAIT_BYTES))?;
                let [pass @ .., low, high] = *body;
                Ok(Self::Await { node, pass: Pass::from_bytes(pass), seconds: u16::from_le_bytes([low, high]) })
            }
            (5, body) => {
                let proof = Proof::try_from(body).map_err(|_| wrong_length(body, 32))?;
                Ok(Self::Show { to: node, proof })
            }
            _ => Err(FrameError::Kind),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use proptest::prelude::{any, proptest};

    use super::*;

    fn node(number: u8) -> NodeId {
        NodeId::from_bytes([number; 32])
    }

    #[test]
    fn frames_survive_the_wire() {
        let payload = Bytes::from_static(b"opaque");
        let mut frames =
            vec![Frame::Forward { to: node(1), payload: payload.clone() }, Frame::Deliver { from: node(2), payload }];
        for refusal in [
            Refusal::Off,
            Refusal::Unknown,
            Refusal::Away,
            Refusal::Budget,
            Refusal::Crowded,
            Refusal::TooLarge,
            Refusal::Other,
        ] {
            frames.push(Frame::Refused { to: node(3), refusal });
        }
        frames.push(Frame::Await { node: node(4), pass: Pass::from_bytes([5; 32]), seconds: 60 });
        frames.push(Frame::Show { to: node(4), proof: [6; 32] });
        for frame in frames {
            assert_eq!(Frame::decode(frame.encode()), Ok(frame));
        }
    }

    /// What version 1 looks like, for ever.
    #[test]
    fn version_one() {
        let frame = Frame::Forward { to: node(7), payload: Bytes::from_static(&[0xaa]) };
        let expected = [&[1, 0, 1][..], &[7; 32], &[0xaa]].concat();
        assert_eq!(frame.encode(), expected);
        let frame = Frame::Await { node: node(7), pass: Pass::from_bytes([8; 32]), seconds: 258 };
        assert_eq!(frame.encode(), [&[1, 0, 4][..], &[7; 32], &[8; 32], &[2, 1]].concat());
        let frame = Frame::Show { to: node(7), proof: [9; 32] };
        assert_eq!(frame.encode(), [&[1, 0, 5][..], &[7; 32], &[9; 32]].concat());
    }

    #[test]
    fn what_is_no_frame_says_why_not() {
        let check = |bytes: Vec<u8>, expected| assert_eq!(Frame::decode(bytes.into()), Err(expected));
        let header = |kind: u8| [&[1, 0, kind][..], &[7; 32]].concat();
        check(vec![], FrameError::Short);
        check(vec![2, 0], FrameError::Version { found: 2 });
        check(header(1)[..20].to_vec(), FrameError::Short);
        check(header(1), FrameError::Short);
        check([header(9), vec![1]].concat(), FrameError::Kind);
        check([header(3), vec![1, 2]].concat(), FrameError::Long { found: 2 });
        check([header(4), vec![1; 33]].concat(), FrameError::Short);
        check([header(4), vec![1; 35]].concat(), FrameError::Long { found: 35 });
        check([header(5), vec![1; 31]].concat(), FrameError::Short);
        check([header(5), vec![1; 33]].concat(), FrameError::Long { found: 33 });
        let long = PAYLOAD_BYTES_MAX + 1;
        check([header(2), vec![0; long]].concat(), FrameError::Long { found: long });
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(mut bytes: Vec<u8>, begun in any::<bool>()) {
            if begun {
                bytes.splice(0..0, [1, 0]);
            }
            if let Ok(frame) = Frame::decode(bytes.clone().into()) {
                // A reason from the future is the one thing that does not come back as it was.
                assert!(frame.encode() == bytes || matches!(frame, Frame::Refused { refusal: Refusal::Other, .. }));
            }
        }
    }
}
