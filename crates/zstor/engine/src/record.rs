//! What the engine stores about buckets and objects: plain, versioned values.
//!
//! Every type here is written by `atoll_wire::encode` and then sealed for the owner (`vault.rs`). A record that opened is the owner's own, but it
//! may be of another version of this program, so nothing in it is used as an index unchecked: [`Body`]'s accessors answer `None` and the caller
//! reports a damaged record.
//!
//! The manifest of an object is its list of [`StripeEntry`]s. Up to [`INLINE_STRIPES_MAX`] stay in the object's record; longer ones are cut into
//! [`ManifestPage`]s under keys of their own, so that no value and no memory grows with the object.

use atoll_codec::{Policy, RunSalt, StripeRecord, WrappedKey};
use atoll_ids::{BucketName, NodeId, ObjectId, OwnerId, ShardId};
use atoll_placement::{DomainLevel, MapId};
use atoll_wire::{DecodeError, Versioned};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::digest::ContentDigest;

/// Stripes of a manifest page: 64 MiB of content, so a page (about 8 KiB at 4+2) is also the smallest step in which an upload's progress is made durable.
pub(crate) const PAGE_STRIPES: usize = 64;
/// Stripes that are kept in the object's own record: below this a page of its own costs more than it saves, above it listings get slow.
pub(crate) const INLINE_STRIPES_MAX: usize = 4;

/// Whose records these are; tells a wrong key from a damaged store.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct OwnerMark {
    pub(crate) owner: OwnerId,
}

/// A bucket.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct BucketRecord {
    pub(crate) policy: Policy,
    pub(crate) level: DomainLevel,
    #[serde(with = "stamp")]
    pub(crate) created: Timestamp,
    /// Set while the bucket is being removed: it takes no objects.
    pub(crate) closing: bool,
}

/// What an object is, beside its content.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum ObjectKind {
    /// Bytes.
    #[default]
    File,
    /// A symbolic link to this target. It has no content.
    Symlink(String),
    /// A directory. It has no content.
    Directory,
}

/// What an object's owner says about it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ObjectMeta {
    /// What it is.
    pub kind: ObjectKind,
    /// Unix permission bits, if it came from a file system.
    pub mode: Option<u32>,
    /// When its content last changed at its source.
    #[serde(with = "stamp::option")]
    pub modified: Option<Timestamp>,
    /// Media type (RFC 9110), if known.
    pub content_type: Option<String>,
}

/// One version of an object.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ObjectRecord {
    pub(crate) id: ObjectId,
    /// Bytes of content.
    pub(crate) size: u64,
    #[serde(with = "stamp")]
    pub(crate) created: Timestamp,
    pub(crate) meta: ObjectMeta,
    /// BLAKE3 of the content.
    pub(crate) content: [u8; 32],
    pub(crate) body: Body,
}

/// Where the bytes are: all that is needed to find, read or delete the shards of a version.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Body {
    /// The object's key, wrapped under the owner's.
    pub(crate) key: WrappedKey,
    pub(crate) policy: Policy,
    pub(crate) level: DomainLevel,
    /// One salt per sealing run: the first attempt and each continuation.
    pub(crate) runs: Vec<RunSalt>,
    /// The maps that stripes were placed by.
    pub(crate) maps: Vec<MapId>,
    /// How many stripes there are.
    pub(crate) stripes: u64,
    /// Bytes of all shards together.
    pub(crate) stored: u64,
    /// The stripes, if there are few; otherwise they are in `stripes.div_ceil(64)` pages.
    pub(crate) inline: Vec<StripeEntry>,
}

/// One stripe of a manifest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct StripeEntry {
    /// Index into [`Body::runs`].
    pub(crate) run: u16,
    /// Index into [`Body::maps`].
    pub(crate) map: u16,
    pub(crate) record: StripeRecord,
    /// Shards that are not on the node their rank in the map names.
    pub(crate) moved: Vec<Place>,
    /// Copies that may exist elsewhere and are to be deleted with the stripe or before.
    pub(crate) strays: Vec<Place>,
}

/// A shard of the stripe and a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Place {
    pub(crate) index: u8,
    pub(crate) node: NodeId,
}

/// Up to [`PAGE_STRIPES`] stripes of an object.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ManifestPage {
    pub(crate) stripes: Vec<StripeEntry>,
}

/// What tells that a file is still the one an upload was begun with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SourceIdentity {
    pub(crate) device: u64,
    pub(crate) inode: u64,
    pub(crate) size: u64,
    /// Time of last change, nanoseconds since 1970.
    pub(crate) modified_ns: i128,
}

/// The journal of an upload. Its pages are durable before it says so.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct UploadRecord {
    pub(crate) bucket: BucketName,
    pub(crate) object_key: String,
    pub(crate) id: ObjectId,
    #[serde(with = "stamp")]
    pub(crate) started: Timestamp,
    /// `None` for a stream, which cannot be continued.
    pub(crate) source: Option<SourceIdentity>,
    /// As an object's; `stripes` counts the durable ones, all of them in full pages, none inline.
    pub(crate) body: Body,
    /// Number of the first stripe of the current run.
    pub(crate) run_first: u64,
    /// The map that the current run places by.
    pub(crate) run_map: Option<MapId>,
    /// How many stripes of the current run may exist beyond the durable ones.
    pub(crate) window: u32,
    /// Hash state over the durable stripes.
    pub(crate) digest: ContentDigest,
}

/// A range of stripes of one run of which shards may exist though no manifest lists them: what was on its way when an upload broke off.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Tail {
    pub(crate) id: ObjectId,
    pub(crate) key: WrappedKey,
    pub(crate) policy: Policy,
    pub(crate) level: DomainLevel,
    pub(crate) salt: RunSalt,
    /// The map they were placed by; `None`: any node there is.
    pub(crate) map: Option<MapId>,
    /// Counter of the first stripe in its run.
    pub(crate) counter: u32,
    /// Number of that stripe in the object.
    pub(crate) stripe: u64,
    /// How many stripes.
    pub(crate) count: u32,
}

/// Shards to delete.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Garbage {
    /// All of a version, and its pages.
    Version {
        /// Its id.
        id: ObjectId,
        /// Where its shards are.
        body: Body,
    },
    /// What an upload may have left beyond its journal.
    Tail(Tail),
    /// What is left of either after all nodes that answered were asked: shards by node.
    Remains(Vec<(NodeId, Vec<ShardId>)>),
}

impl Body {
    /// Pages that hold the manifest; 0 if it is inline.
    pub(crate) fn pages(&self) -> u32 {
        if self.inline.is_empty() { page_count(self.stripes) } else { 0 }
    }

    /// The map an entry was placed by.
    pub(crate) fn map(&self, entry: &StripeEntry) -> Option<MapId> {
        self.maps.get(usize::from(entry.map)).copied()
    }
}

/// Pages for this many stripes.
pub(crate) fn page_count(stripes: u64) -> u32 {
    u32::try_from(stripes.div_ceil(PAGE_STRIPES as u64)).unwrap_or(u32::MAX)
}

macro_rules! versioned {
    ($($type:ty, $version:literal, $name:literal;)*) => {
        $(impl Versioned for $type {
            const VERSION: u16 = $version;
            const NAME: &'static str = $name;
        })*
    };
}

versioned! {
    OwnerMark, 1, "owner mark";
    BucketRecord, 1, "bucket record";
    ObjectRecord, 1, "object record";
    ManifestPage, 1, "manifest page";
    UploadRecord, 1, "upload journal";
    Tail, 1, "upload reservation";
    Garbage, 1, "garbage record";
}

/// Every decoder of stored records, for fuzzing: reads `bytes` as each kind and says which understood them.
///
/// The records are authenticated before they are decoded, so this is the second line; still none may panic or allocate beyond
/// what the input can hold.
pub fn decode_any(bytes: &[u8]) -> Vec<&'static str> {
    fn try_one<T: Versioned>(bytes: &[u8], understood: &mut Vec<&'static str>) {
        let decoded: Result<T, DecodeError> = atoll_wire::decode(bytes);
        if decoded.is_ok() {
            understood.push(T::NAME);
        }
    }
    let mut understood = Vec::new();
    try_one::<OwnerMark>(bytes, &mut understood);
    try_one::<crate::blob::BlobRecord>(bytes, &mut understood);
    try_one::<BucketRecord>(bytes, &mut understood);
    try_one::<ObjectRecord>(bytes, &mut understood);
    try_one::<ManifestPage>(bytes, &mut understood);
    try_one::<UploadRecord>(bytes, &mut understood);
    try_one::<Tail>(bytes, &mut understood);
    try_one::<Garbage>(bytes, &mut understood);
    understood
}

/// Timestamps as nanoseconds since 1970: jiff's own serde form is text, three times as long.
pub(crate) mod stamp {
    use jiff::Timestamp;
    use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error};

    pub(crate) fn serialize<S: Serializer>(time: &Timestamp, serializer: S) -> Result<S::Ok, S::Error> {
        time.as_nanosecond().serialize(serializer)
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Timestamp, D::Error> {
        Timestamp::from_nanosecond(i128::deserialize(deserializer)?).map_err(D::Error::custom)
    }

    /// The same for a time that may be missing.
    pub(crate) mod option {
        use super::{Deserialize, Deserializer, Error, Serialize, Serializer, Timestamp};

        pub(crate) fn serialize<S: Serializer>(time: &Option<Timestamp>, serializer: S) -> Result<S::Ok, S::Error> {
            time.map(Timestamp::as_nanosecond).serialize(serializer)
        }

        pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Timestamp>, D::Error> {
            let nanoseconds = Option::<i128>::deserialize(deserializer)?;
            nanoseconds.map(|ns| Timestamp::from_nanosecond(ns).map_err(D::Error::custom)).transpose()
        }
    }
}

#[cfg(test)]
mod tests;
