//! What callers are told about buckets, objects and uploads.

use atoll_codec::Policy;
use atoll_ids::{BucketName, ObjectId};
use atoll_placement::DomainLevel;
use jiff::Timestamp;

use crate::record::{BucketRecord, ObjectMeta, ObjectRecord, UploadRecord};

/// How a bucket's objects are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BucketSettings {
    /// Data and parity shards.
    pub policy: Policy,
    /// What no two shards of a stripe may share.
    pub level: DomainLevel,
}

impl From<Policy> for BucketSettings {
    /// Shards on different nodes.
    fn from(policy: Policy) -> Self {
        Self { policy, level: DomainLevel::Node }
    }
}

/// A bucket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BucketInfo {
    /// Its name.
    pub name: BucketName,
    /// Data and parity shards.
    pub policy: Policy,
    /// What no two shards of a stripe share.
    pub level: DomainLevel,
    /// When it was made.
    pub created: Timestamp,
}

/// An object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObjectInfo {
    /// Its bucket.
    pub bucket: BucketName,
    /// Its key.
    pub key: String,
    /// This version of it.
    pub id: ObjectId,
    /// Bytes of content.
    pub size: u64,
    /// Bytes of its shards, all together.
    pub stored: u64,
    /// When it was stored.
    pub created: Timestamp,
    /// What its owner says about it.
    pub meta: ObjectMeta,
    /// BLAKE3 of the content.
    pub content: blake3::Hash,
    /// Data and parity shards.
    pub policy: Policy,
    /// Stripes it is cut into.
    pub stripes: u64,
}

/// An upload that is under way or was interrupted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UploadInfo {
    /// The bucket it goes to.
    pub bucket: BucketName,
    /// The key it will have.
    pub key: String,
    /// The version it will be.
    pub id: ObjectId,
    /// When it was begun.
    pub started: Timestamp,
    /// Bytes of content that are durable.
    pub durable: u64,
    /// Whether someone is working on it now.
    pub active: bool,
}

impl BucketInfo {
    pub(crate) fn new(name: BucketName, record: &BucketRecord) -> Self {
        Self { name, policy: record.policy, level: record.level, created: record.created }
    }
}

impl ObjectInfo {
    pub(crate) fn new(bucket: BucketName, key: String, record: &ObjectRecord) -> Self {
        Self {
            bucket,
            key,
            id: record.id,
            size: record.size,
            stored: record.body.stored,
            created: record.created,
            meta: record.meta.clone(),
            content: blake3::Hash::from_bytes(record.content),
            policy: record.body.policy,
            stripes: record.body.stripes,
        }
    }
}

impl UploadInfo {
    pub(crate) fn new(record: &UploadRecord, active: bool) -> Self {
        Self {
            bucket: record.bucket.clone(),
            key: record.object_key.clone(),
            id: record.id,
            started: record.started,
            durable: record.body.stripes * atoll_codec::STRIPE_BYTES as u64,
            active,
        }
    }
}
