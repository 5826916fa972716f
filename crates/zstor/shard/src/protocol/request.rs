//! What a client asks, and its encoding. See the table in [`protocol`](super).

use atoll_ids::ShardId;
use bytes::{BufMut, Bytes};

use super::{Fields, HEADER_BYTES, Header, ID_BYTES, Kind, PUT_PREFIX_BYTES, ProtocolError};

/// A request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request {
    /// Store a shard.
    Put {
        /// Its id.
        id: ShardId,
        /// CRC-64/NVME of the payload, made by whoever produced the bytes.
        crc: u64,
        /// The shard.
        payload: Bytes,
    },
    /// Send a shard.
    Get(ShardId),
    /// Remove a shard.
    Delete(ShardId),
    /// Name the shards after an id, in order.
    List {
        /// The last id of the previous page.
        after: Option<ShardId>,
        /// Most entries to send; the server may send fewer.
        limit: u32,
    },
    /// Tell what is used and allowed.
    Stat,
    /// Read a shard and check it.
    Verify(ShardId),
    /// Answer.
    Ping,
}

impl Request {
    /// The frame's kind.
    #[must_use]
    pub fn kind(&self) -> Kind {
        match self {
            Self::Put { .. } => Kind::Put,
            Self::Get(_) => Kind::Get,
            Self::Delete(_) => Kind::Delete,
            Self::List { .. } => Kind::List,
            Self::Stat => Kind::Stat,
            Self::Verify(_) => Kind::Verify,
            Self::Ping => Kind::Ping,
        }
    }

    /// The shard it is about.
    #[must_use]
    pub fn shard(&self) -> Option<ShardId> {
        match self {
            Self::Put { id, .. } | Self::Get(id) | Self::Delete(id) | Self::Verify(id) => Some(*id),
            Self::List { .. } | Self::Stat | Self::Ping => None,
        }
    }

    /// The payload that follows [`head`](Self::head) on the wire.
    #[must_use]
    pub fn payload(&self) -> Bytes {
        match self {
            Self::Put { payload, .. } => payload.clone(),
            _ => Bytes::new(),
        }
    }

    /// Appends header and fixed part, all but the payload, to `out`. The payload must not be over
    /// [`SHARD_BYTES_MAX`](crate::limits::SHARD_BYTES_MAX).
    pub fn head(&self, request: u64, out: &mut impl BufMut) {
        let body_bytes = match self {
            Self::Put { payload, .. } => PUT_PREFIX_BYTES + payload.len(),
            Self::Get(_) | Self::Delete(_) | Self::Verify(_) => ID_BYTES,
            Self::List { after, .. } => 4 + after.map_or(0, |_| ID_BYTES),
            Self::Stat | Self::Ping => 0,
        };
        out.put_slice(&Header::new(self.kind(), request, body_bytes).to_bytes());
        match self {
            Self::Put { id, crc, .. } => {
                out.put_slice(id.as_bytes());
                out.put_u64_le(*crc);
            }
            Self::Get(id) | Self::Delete(id) | Self::Verify(id) => out.put_slice(id.as_bytes()),
            Self::List { after, limit } => {
                out.put_u32_le(*limit);
                if let Some(after) = after {
                    out.put_slice(after.as_bytes());
                }
            }
            Self::Stat | Self::Ping => {}
        }
    }

    /// Header, fixed part and payload in one piece.
    #[must_use]
    pub fn encode(&self, request: u64) -> Vec<u8> {
        let payload = self.payload();
        let mut out = Vec::with_capacity(HEADER_BYTES + PUT_PREFIX_BYTES + payload.len());
        self.head(request, &mut out);
        out.put_slice(&payload);
        out
    }

    /// Reads the body that followed `header`. The payload stays where it is.
    ///
    /// # Errors
    /// [`ProtocolError`] if this is no request, or its content is impossible.
    pub fn decode(header: Header, body: Bytes) -> Result<Self, ProtocolError> {
        let mut fields = Fields::new(header.kind, &body);
        if body.len() != header.length as usize {
            return Err(fields.error("body is not of the length in the header"));
        }
        let request = match header.kind {
            Kind::Put => {
                let id = ShardId::from_bytes(fields.array()?);
                let crc = fields.u64()?;
                return Ok(Self::Put { id, crc, payload: body.slice(PUT_PREFIX_BYTES..) });
            }
            Kind::Get => Self::Get(ShardId::from_bytes(fields.array()?)),
            Kind::Delete => Self::Delete(ShardId::from_bytes(fields.array()?)),
            Kind::Verify => Self::Verify(ShardId::from_bytes(fields.array()?)),
            Kind::List => {
                let limit = fields.u32()?;
                let after = if fields.is_empty() { None } else { Some(ShardId::from_bytes(fields.array()?)) };
                Self::List { after, limit }
            }
            Kind::Stat => Self::Stat,
            Kind::Ping => Self::Ping,
            other => return Err(ProtocolError::Kind(other as u8)),
        };
        fields.end()?;
        Ok(request)
    }
}
