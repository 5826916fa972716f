//! The keys of the engine's records in the key-value store.
//!
//! | key | value | one per |
//! |---|---|---|
//! | `e/owner` | [`OwnerMark`](crate::record::OwnerMark), not encrypted | store |
//! | `b/<bucket>` | [`BucketRecord`](crate::record::BucketRecord) | bucket |
//! | `o/<bucket>\0<key>` | [`ObjectRecord`](crate::record::ObjectRecord) | object |
//! | `p/<object id>/<page>` | [`ManifestPage`](crate::record::ManifestPage) | 64 stripes of an object that is not small |
//! | `m/<map id>` | `atoll_placement::Map` | set of nodes that something was placed on |
//! | `u/<bucket>\0<key>\0<object id>` | [`UploadRecord`](crate::record::UploadRecord) | upload under way or interrupted |
//! | `r/<object id>` | [`Tail`](crate::record::Tail) | single-stripe object that may be being stored |
//! | `g/<object id>[.<n>\|.p<page>]` | [`Garbage`](crate::record::Garbage) | something whose shards are still to be deleted |
//!
//! Ids and page numbers are fixed-width lower-case hexadecimal, so they sort. Buckets cannot contain NUL and object keys must not, so no key can be
//! read as two things. Every value but the first is sealed by `vault.rs`.

use atoll_ids::{BucketName, ObjectId};
use atoll_placement::MapId;
use bytes::Bytes;

/// Longest object key in bytes: S3's limit.
pub const KEY_BYTES_MAX: usize = 1024;

pub(crate) const BUCKETS: &[u8] = b"b/";
pub(crate) const UPLOADS: &[u8] = b"u/";
pub(crate) const RESERVED: &[u8] = b"r/";
pub(crate) const GARBAGE: &[u8] = b"g/";

pub(crate) fn owner() -> Bytes {
    Bytes::from_static(b"e/owner")
}

pub(crate) fn bucket(name: &BucketName) -> Bytes {
    format!("b/{name}").into()
}

pub(crate) fn object(bucket: &BucketName, key: &str) -> Bytes {
    format!("o/{bucket}\0{key}").into()
}

pub(crate) fn page(object: ObjectId, page: u32) -> Bytes {
    format!("p/{object}/{page:08x}").into()
}

pub(crate) fn map(id: MapId) -> Bytes {
    format!("m/{id}").into()
}

pub(crate) fn uploads_of(bucket: &BucketName, key: &str) -> Bytes {
    format!("u/{bucket}\0{key}\0").into()
}

pub(crate) fn upload(bucket: &BucketName, key: &str, object: ObjectId) -> Bytes {
    format!("u/{bucket}\0{key}\0{object}").into()
}

pub(crate) fn reserved(object: ObjectId) -> Bytes {
    format!("r/{object}").into()
}

pub(crate) fn garbage(object: ObjectId) -> Bytes {
    format!("g/{object}").into()
}

pub(crate) fn garbage_tail(object: ObjectId, run: usize) -> Bytes {
    format!("g/{object}.{run}").into()
}

pub(crate) fn garbage_page(object: ObjectId, page: u32) -> Bytes {
    format!("g/{object}.p{page:08x}").into()
}

/// Bucket and object key of an `o/` key.
pub(crate) fn split_object(key: &[u8]) -> Option<(BucketName, String)> {
    let text = std::str::from_utf8(key).ok()?.strip_prefix("o/")?;
    let (bucket, key) = text.split_once('\0')?;
    Some((bucket.parse().ok()?, key.to_owned()))
}

/// Bucket of a `b/` key.
pub(crate) fn split_bucket(key: &[u8]) -> Option<BucketName> {
    std::str::from_utf8(key).ok()?.strip_prefix("b/")?.parse().ok()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;

    #[test]
    fn keys_are_told_apart_again() {
        let bucket: BucketName = "photos".parse().unwrap();
        let key = object(&bucket, "a/b c/é.jpg");
        assert_eq!(split_object(&key), Some((bucket.clone(), "a/b c/é.jpg".to_owned())));
        assert_eq!(split_bucket(&super::bucket(&bucket)), Some(bucket.clone()));
        let id = ObjectId::from_bytes([7; 16]);
        assert_ne!(reserved(id), garbage(id));
        assert!(page(id, 9) < page(id, 16) && page(id, 255) < page(id, 256));
        assert!(upload(&bucket, "k", id).starts_with(&uploads_of(&bucket, "k")));
        for foreign in [&b"o/photos"[..], b"b/x", b"o/\xff\0k", b""] {
            assert_eq!(split_object(foreign), None);
        }
    }
}
