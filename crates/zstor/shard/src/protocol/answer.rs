//! What a server answers, and its encoding. See the table in [`protocol`](super).

use atoll_ids::{ByteCount, ShardId};
use bytes::{BufMut, Bytes};

use super::{ENTRY_BYTES, Fields, HEADER_BYTES, Header, Kind, ProtocolError, STAT_BYTES, fitting};
use crate::home::{HomeStat, PutOutcome, ShardEntry};

/// An answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// The shard is durable.
    Stored(PutOutcome),
    /// The shard asked for.
    Shard(Bytes),
    /// The shard is not there any more.
    Deleted,
    /// A page of the listing, in the order of ids; at most [`LIST_ENTRIES_MAX`](crate::limits::LIST_ENTRIES_MAX).
    Listing(Vec<ShardEntry>),
    /// What is used and allowed.
    Stats(HomeStat),
    /// The shard was read and is sound.
    Verified,
    /// Here.
    Pong,
    /// The request was not done; the connection goes on.
    Failed {
        /// Why, for the program.
        code: Code,
        /// Why, for a person.
        text: String,
    },
    /// The server ends the connection; request id 0.
    End {
        /// Why, for a person.
        text: String,
    },
}

/// Why a request was not done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Code {
    /// No such shard.
    NotFound = 1,
    /// The shard no longer matches its checksum.
    Rotten = 2,
    /// Other bytes are stored under this id.
    DifferentContent = 3,
    /// The payload does not match its checksum.
    Damaged = 4,
    /// The grant is not, or no longer, valid.
    Grant = 5,
    /// The owner's quota is used up.
    Quota = 6,
    /// The node is full.
    Full = 7,
    /// The node does not store this.
    Policy = 8,
    /// The node tried and failed.
    Broken = 9,
}

impl Code {
    /// Every code.
    pub const ALL: [Self; 9] = [
        Self::NotFound,
        Self::Rotten,
        Self::DifferentContent,
        Self::Damaged,
        Self::Grant,
        Self::Quota,
        Self::Full,
        Self::Policy,
        Self::Broken,
    ];
}

impl Answer {
    /// The frame's kind.
    #[must_use]
    pub fn kind(&self) -> Kind {
        match self {
            Self::Stored(_) => Kind::Stored,
            Self::Shard(_) => Kind::Shard,
            Self::Deleted => Kind::Deleted,
            Self::Listing(_) => Kind::Listing,
            Self::Stats(_) => Kind::Stats,
            Self::Verified => Kind::Verified,
            Self::Pong => Kind::Pong,
            Self::Failed { .. } => Kind::Failed,
            Self::End { .. } => Kind::End,
        }
    }

    /// The payload that follows [`head`](Self::head) on the wire.
    #[must_use]
    pub fn payload(&self) -> Bytes {
        match self {
            Self::Shard(payload) => payload.clone(),
            _ => Bytes::new(),
        }
    }

    /// Appends header and body, all but the payload of a shard, to `out`. Texts are cut to their limit.
    pub fn head(&self, request: u64, out: &mut impl BufMut) {
        let body_bytes = match self {
            Self::Stored(_) => 1,
            Self::Shard(payload) => payload.len(),
            Self::Deleted | Self::Verified | Self::Pong => 0,
            Self::Listing(entries) => entries.len() * ENTRY_BYTES,
            Self::Stats(_) => STAT_BYTES,
            Self::Failed { text, .. } => 1 + fitting(text).len(),
            Self::End { text } => fitting(text).len(),
        };
        out.put_slice(&Header::new(self.kind(), request, body_bytes).to_bytes());
        match self {
            Self::Stored(PutOutcome::Stored) => out.put_u8(0),
            Self::Stored(PutOutcome::AlreadyThere) => out.put_u8(1),
            Self::Shard(_) | Self::Deleted | Self::Verified | Self::Pong => {}
            Self::Listing(entries) => {
                for entry in entries {
                    out.put_slice(entry.id.as_bytes());
                    out.put_u32_le(entry.len);
                }
            }
            Self::Stats(stat) => {
                out.put_u64_le(stat.shards);
                out.put_u64_le(stat.used.0);
                out.put_u64_le(stat.free.0);
                out.put_u8(u8::from(stat.quota.is_some()));
                out.put_u64_le(stat.quota.map_or(0, |quota| quota.0));
            }
            Self::Failed { code, text } => {
                out.put_u8(*code as u8);
                out.put_slice(fitting(text).as_bytes());
            }
            Self::End { text } => out.put_slice(fitting(text).as_bytes()),
        }
    }

    /// Header, body and payload in one piece.
    #[must_use]
    pub fn encode(&self, request: u64) -> Vec<u8> {
        let payload = self.payload();
        let mut out = Vec::with_capacity(HEADER_BYTES + payload.len());
        self.head(request, &mut out);
        out.put_slice(&payload);
        out
    }

    /// Reads the body that followed `header`. The payload stays where it is.
    ///
    /// # Errors
    /// [`ProtocolError`] if this is no answer, or its content is impossible.
    pub fn decode(header: Header, body: Bytes) -> Result<Self, ProtocolError> {
        let mut fields = Fields::new(header.kind, &body);
        if body.len() != header.length as usize {
            return Err(fields.error("body is not of the length in the header"));
        }
        let answer = match header.kind {
            Kind::Shard => return Ok(Self::Shard(body)),
            Kind::End => return Ok(Self::End { text: fields.text()? }),
            Kind::Failed => {
                let byte = fields.byte()?;
                let code = Code::ALL.into_iter().find(|code| *code as u8 == byte);
                let code = code.ok_or_else(|| fields.error("unknown code"))?;
                return Ok(Self::Failed { code, text: fields.text()? });
            }
            Kind::Stored => Self::Stored(match fields.byte()? {
                0 => PutOutcome::Stored,
                1 => PutOutcome::AlreadyThere,
                _ => return Err(fields.error("unknown outcome")),
            }),
            Kind::Deleted => Self::Deleted,
            Kind::Listing => Self::Listing(decode_listing(&mut fields)?),
            Kind::Stats => Self::Stats(decode_stat(&mut fields)?),
            Kind::Verified => Self::Verified,
            Kind::Pong => Self::Pong,
            other => return Err(ProtocolError::Kind(other as u8)),
        };
        fields.end()?;
        Ok(answer)
    }
}

/// A listing must be in strictly ascending order: a client that pages through it must come to an end.
fn decode_listing(fields: &mut Fields<'_>) -> Result<Vec<ShardEntry>, ProtocolError> {
    let mut entries: Vec<ShardEntry> = Vec::new();
    while !fields.is_empty() {
        let id = ShardId::from_bytes(fields.array()?);
        let len = fields.u32()?;
        if entries.last().is_some_and(|last| last.id >= id) {
            return Err(fields.error("not in order"));
        }
        entries.push(ShardEntry { id, len });
    }
    Ok(entries)
}

fn decode_stat(fields: &mut Fields<'_>) -> Result<HomeStat, ProtocolError> {
    let shards = fields.u64()?;
    let used = ByteCount(fields.u64()?);
    let free = ByteCount(fields.u64()?);
    let has_quota = fields.byte()?;
    let quota = fields.u64()?;
    let quota = match (has_quota, quota) {
        (0, 0) => None,
        (1, quota) => Some(ByteCount(quota)),
        _ => return Err(fields.error("impossible quota")),
    };
    Ok(HomeStat { shards, used, quota, free })
}
