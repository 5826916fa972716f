//! How a value lies in the engine: a version byte, the revision that wrote it, the value.

use bytes::Bytes;

use crate::{Entry, KvError, Revision};

/// Version of the record layout; the first byte of every stored value.
const RECORD_VERSION: u8 = 1;

/// Version byte plus the revision as little-endian `u64`.
const HEADER_BYTES: usize = 1 + size_of::<Revision>();

/// The stored form of a value.
pub(super) fn encode(revision: Revision, value: &[u8]) -> Vec<u8> {
    let mut record = Vec::with_capacity(HEADER_BYTES + value.len());
    record.push(RECORD_VERSION);
    record.extend_from_slice(&revision.to_le_bytes());
    record.extend_from_slice(value);
    record
}

/// The entry a stored record stands for. The value shares the record's memory.
pub(super) fn decode(key: Bytes, record: Bytes) -> Result<Entry, KvError> {
    let corrupt = |key, reason| Err(KvError::Corrupt { key, reason });
    let Some((header, _)) = record.split_first_chunk::<HEADER_BYTES>() else {
        return corrupt(key, "it is shorter than its header");
    };
    let [version, revision @ ..] = *header;
    if version != RECORD_VERSION {
        return corrupt(key, "its version is unknown");
    }
    let revision = Revision::from_le_bytes(revision);
    Ok(Entry { key, value: record.slice(HEADER_BYTES..), revision })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;

    #[test]
    fn a_record_of_version_1_stays_readable() {
        let fixture = Bytes::from_static(b"\x01\x2a\0\0\0\0\0\0\0value");
        let entry = decode(Bytes::from_static(b"key"), fixture.clone()).unwrap();
        assert_eq!((entry.revision, &entry.value[..]), (42, &b"value"[..]));
        assert_eq!(encode(42, b"value"), fixture);
    }

    #[test]
    fn damaged_records_are_named() {
        for record in [&b""[..], b"\x01\0\0\0\0\0\0\0", b"\x02\0\0\0\0\0\0\0\0value"] {
            let error = decode(Bytes::from_static(b"key"), Bytes::from_static(record)).unwrap_err();
            assert!(matches!(error, KvError::Corrupt { .. }), "{record:?}: {error}");
        }
    }
}
