//! The shard protocol, version 1, as pure encoding and decoding: no I/O, no state.
//!
//! A stream starts with one length-limited frame each way ([`Hello`], then [`Greeting`]), versioned like everything
//! stored or sent. If the greeting is a welcome, frames follow in both directions, each a fixed [`Header`] and a body:
//!
//! ```text
//! 0   u32 LE   length of the body in bytes
//! 4   u8       kind: of request 1–7, of answer 65–71, 126 failed, 127 the connection ends
//! 5   3 × 0    reserved, must be zero
//! 8   u64 LE   request id: chosen by the client, never reused on a connection; an answer repeats it
//! ```
//!
//! | kind | request body | answer body |
//! |---|---|---|
//! | 1 / 65 put | id 16 B, CRC-64/NVME of the payload u64 LE, payload | u8: 0 stored, 1 already there |
//! | 2 / 66 get | id | payload |
//! | 3 / 67 delete | id | – |
//! | 4 / 68 list | u32 LE limit, then nothing or 16 B: after which id | per shard: id, u32 LE length |
//! | 5 / 69 stat | – | u64 LE shards, used, free; u8 has quota; u64 LE quota |
//! | 6 / 70 verify | id | – |
//! | 7 / 71 ping | – | – |
//! | 126 failed | | u8 [`Code`], text in UTF-8 |
//! | 127 end | | text in UTF-8; request id 0 |
//!
//! Answers come in any order. Payloads are raw: never encoded again, never copied to be framed.
//!
//! Invariants: a header is only accepted if its length is possible for its kind, before anything is allocated for the
//! body; every decoder here takes arbitrary bytes and returns an error, never panics, and accepts exactly what the
//! encoder makes.

mod answer;
mod hello;
mod request;

use thiserror::Error;

pub use answer::{Answer, Code};
pub use hello::{Greeting, Hello, RefusedHello, ServerLimits, Welcome};
pub use request::Request;

use crate::limits::{LIST_ENTRIES_MAX, SHARD_BYTES_MAX, TEXT_BYTES_MAX};

/// Length of a [`Header`] in bytes.
pub const HEADER_BYTES: usize = 16;

/// Length of a shard's id in bytes.
pub(crate) const ID_BYTES: usize = 16;

/// What comes before the payload in a put: the id and the checksum.
pub(crate) const PUT_PREFIX_BYTES: usize = ID_BYTES + 8;

/// Length of one entry of a listing in bytes.
pub(crate) const ENTRY_BYTES: usize = ID_BYTES + 4;

/// Length of the answer to a stat in bytes.
pub(crate) const STAT_BYTES: usize = 3 * 8 + 1 + 8;

/// How a peer broke the protocol.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ProtocolError {
    /// A kind that does not exist, or not in this direction.
    #[error("frame of unknown kind {0}")]
    Kind(u8),
    /// Reserved bytes are in use: a later version, or not this protocol at all.
    #[error("reserved bytes of a frame are not zero")]
    Reserved,
    /// A body that is longer or shorter than its kind allows.
    #[error("{kind:?} frame of {length} bytes; {min} to {max} are possible")]
    Length {
        /// The frame's kind.
        kind: Kind,
        /// The length it claims.
        length: u32,
        /// The least it may have.
        min: usize,
        /// The most it may have.
        max: usize,
    },
    /// The length is possible but the content is not.
    #[error("malformed {kind:?} frame: {what}")]
    Content {
        /// The frame's kind.
        kind: Kind,
        /// What is wrong.
        what: &'static str,
    },
    /// An answer to something that was not asked.
    #[error("answer to request {0}, which is not pending")]
    NotAsked(u64),
    /// An answer of a kind that does not fit the question.
    #[error("{got:?} as the answer to {asked:?}")]
    Mismatch {
        /// What was asked.
        asked: Kind,
        /// What came.
        got: Kind,
    },
    /// The stream ended inside a frame.
    #[error("the stream ended inside a frame")]
    Truncated,
}

/// What a frame is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
#[expect(missing_docs, reason = "the table at the top of the module says what each is")]
pub enum Kind {
    Put = 1,
    Get = 2,
    Delete = 3,
    List = 4,
    Stat = 5,
    Verify = 6,
    Ping = 7,
    Stored = 65,
    Shard = 66,
    Deleted = 67,
    Listing = 68,
    Stats = 69,
    Verified = 70,
    Pong = 71,
    Failed = 126,
    End = 127,
}

impl Kind {
    /// Every kind.
    pub const ALL: [Self; 16] = [
        Self::Put,
        Self::Get,
        Self::Delete,
        Self::List,
        Self::Stat,
        Self::Verify,
        Self::Ping,
        Self::Stored,
        Self::Shard,
        Self::Deleted,
        Self::Listing,
        Self::Stats,
        Self::Verified,
        Self::Pong,
        Self::Failed,
        Self::End,
    ];

    /// The kind with this number.
    #[must_use]
    pub fn from_byte(byte: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| *kind as u8 == byte)
    }

    /// Whether clients send it.
    #[must_use]
    pub fn is_request(self) -> bool {
        (self as u8) < 64
    }

    /// The kind that answers this request when all is well; itself for what is no request.
    #[must_use]
    pub fn answer(self) -> Self {
        match self {
            Self::Put => Self::Stored,
            Self::Get => Self::Shard,
            Self::Delete => Self::Deleted,
            Self::List => Self::Listing,
            Self::Stat => Self::Stats,
            Self::Verify => Self::Verified,
            Self::Ping => Self::Pong,
            other => other,
        }
    }

    /// The shortest and the longest body in bytes.
    #[must_use]
    pub fn body_bytes(self) -> (usize, usize) {
        match self {
            Self::Put => (PUT_PREFIX_BYTES, PUT_PREFIX_BYTES + SHARD_BYTES_MAX),
            Self::Get | Self::Delete | Self::Verify => (ID_BYTES, ID_BYTES),
            Self::List => (4, 4 + ID_BYTES),
            Self::Stat | Self::Ping | Self::Deleted | Self::Verified | Self::Pong => (0, 0),
            Self::Stored => (1, 1),
            Self::Shard => (0, SHARD_BYTES_MAX),
            Self::Listing => (0, LIST_ENTRIES_MAX * ENTRY_BYTES),
            Self::Stats => (STAT_BYTES, STAT_BYTES),
            Self::Failed => (1, 1 + TEXT_BYTES_MAX),
            Self::End => (0, TEXT_BYTES_MAX),
        }
    }
}

/// The fixed start of every frame after the greeting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// What the frame is.
    pub kind: Kind,
    /// Length of the body in bytes.
    pub length: u32,
    /// Which request it is or answers.
    pub request: u64,
}

impl Header {
    /// The header of a frame with this body length, which the caller has made possible for the kind.
    pub(crate) fn new(kind: Kind, request: u64, body_bytes: usize) -> Self {
        debug_assert!((kind.body_bytes().0..=kind.body_bytes().1).contains(&body_bytes));
        let length = u32::try_from(body_bytes).expect("no kind allows a body of 4 GiB");
        Self { kind, length, request }
    }

    /// The header as it is sent.
    #[must_use]
    pub fn to_bytes(self) -> [u8; HEADER_BYTES] {
        let mut bytes = [0; HEADER_BYTES];
        bytes[..4].copy_from_slice(&self.length.to_le_bytes());
        bytes[4] = self.kind as u8;
        bytes[8..].copy_from_slice(&self.request.to_le_bytes());
        bytes
    }

    /// Reads a header that came from a peer.
    ///
    /// # Errors
    /// [`ProtocolError`] if the kind is unknown, reserved bytes are used, or the length is impossible for the kind.
    /// After it returned `Ok`, allocating `length` bytes is safe.
    pub fn decode(bytes: &[u8; HEADER_BYTES]) -> Result<Self, ProtocolError> {
        let kind = Kind::from_byte(bytes[4]).ok_or(ProtocolError::Kind(bytes[4]))?;
        if bytes[5..8] != [0; 3] {
            return Err(ProtocolError::Reserved);
        }
        let length = u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
        let (min, max) = kind.body_bytes();
        if !(min..=max).contains(&(length as usize)) {
            return Err(ProtocolError::Length { kind, length, min, max });
        }
        let mut request = [0; 8];
        request.copy_from_slice(&bytes[8..]);
        Ok(Self { kind, length, request: u64::from_le_bytes(request) })
    }
}

/// Takes a frame's body apart from the front; the end of the body is an error that names the kind.
pub(crate) struct Fields<'a> {
    kind: Kind,
    rest: &'a [u8],
}

impl<'a> Fields<'a> {
    pub(crate) fn new(kind: Kind, body: &'a [u8]) -> Self {
        Self { kind, rest: body }
    }

    pub(crate) fn error(&self, what: &'static str) -> ProtocolError {
        ProtocolError::Content { kind: self.kind, what }
    }

    pub(crate) fn array<const N: usize>(&mut self) -> Result<[u8; N], ProtocolError> {
        let (first, rest) = self.rest.split_first_chunk::<N>().ok_or_else(|| self.error("too short"))?;
        self.rest = rest;
        Ok(*first)
    }

    pub(crate) fn u64(&mut self) -> Result<u64, ProtocolError> {
        self.array().map(u64::from_le_bytes)
    }

    pub(crate) fn u32(&mut self) -> Result<u32, ProtocolError> {
        self.array().map(u32::from_le_bytes)
    }

    pub(crate) fn byte(&mut self) -> Result<u8, ProtocolError> {
        self.array::<1>().map(|[byte]| byte)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    pub(crate) fn text(self) -> Result<String, ProtocolError> {
        if self.rest.len() > TEXT_BYTES_MAX {
            return Err(self.error("text over its limit"));
        }
        match std::str::from_utf8(self.rest) {
            Ok(text) => Ok(text.to_owned()),
            Err(_) => Err(self.error("text is not UTF-8")),
        }
    }

    pub(crate) fn end(&self) -> Result<(), ProtocolError> {
        if self.rest.is_empty() { Ok(()) } else { Err(self.error("bytes left over")) }
    }
}

/// `text` cut to what a frame may carry, at a character boundary.
pub(crate) fn fitting(text: &str) -> &str {
    let mut end = text.len().min(TEXT_BYTES_MAX);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

#[cfg(test)]
mod tests;
