//! The plain values everything else speaks about: who ([`NodeId`], [`OwnerId`]), where ([`PlanetaryAddress`], [`Domain`]), what
//! ([`ObjectId`], [`ShardId`], [`BucketName`]) and how much ([`ByteCount`]).
//!
//! Each has one canonical text form, which `Display` prints and `FromStr` reads back, and one binary form. Serde uses the text in
//! human-readable formats (JSON, TOML) and the raw bytes elsewhere (postcard), so neither form depends on where a value is used.
//!
//! Not here: secret keys and signatures (`atoll-keys`), anything that does I/O or reads a clock. Nothing in this crate panics on
//! foreign input; what cannot be read is refused with an error that says what was expected.

mod address;
mod bucket;
mod byte_count;
mod domain;
mod id;
mod text;

pub use address::{AddressError, PlanetaryAddress};
pub use bucket::{BucketName, BucketNameError};
pub use byte_count::{ByteCount, ByteCountError};
pub use domain::{Domain, DomainError, LABEL_BYTES_MAX};
pub use id::{EvdcId, LeaseId, MessageId, NodeId, ObjectId, OwnerId, ParseIdError, ShardId, Short};
