//! Golden bytes, old versions, and hostile bytes.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::collections::BTreeMap;

use proptest::collection::{btree_map, vec};
use proptest::prelude::{any, proptest};
use proptest::{prop_assert, prop_assert_eq};
use serde::Deserialize;

use super::*;

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Parcel {
    to: String,
    grams: u64,
    fragile: Option<bool>,
    contents: Vec<(u32, String)>,
    labels: BTreeMap<String, Vec<u8>>,
}

/// Version 1 of [`Parcel`] knew neither contents nor labels.
#[derive(Deserialize)]
struct ParcelV1 {
    to: String,
    grams: u64,
}

impl Versioned for Parcel {
    const VERSION: u16 = 3;
    const NAME: &'static str = "parcel";

    fn from_older(version: u16, body: &[u8]) -> Result<Self, DecodeError> {
        // Would take 0 as well: `decode` must not offer it.
        if version > 1 {
            return Err(DecodeError::Version { name: Self::NAME, found: version, known: Self::VERSION });
        }
        let ParcelV1 { to, grams } = decode_body(Self::NAME, body)?;
        Ok(Self { to, grams, ..parcel("", 0) })
    }
}

fn parcel(to: &str, grams: u64) -> Parcel {
    Parcel { to: to.to_owned(), grams, fragile: None, contents: Vec::new(), labels: BTreeMap::new() }
}

#[test]
fn golden_bytes() {
    let value = Parcel { fragile: Some(true), contents: vec![(7, "x".to_owned())], ..parcel("me", 300) };
    let bytes = [3, 0, 2, b'm', b'e', 0xac, 2, 1, 1, 1, 7, 1, b'x', 0];
    assert_eq!(encode(&value), bytes);
    assert_eq!(decode::<Parcel>(&bytes).unwrap(), value);
    assert_eq!(version_of(&bytes), Some(3));
    assert_eq!(version_of(&[3]), None);
}

#[test]
fn an_old_version_is_still_read() {
    assert_eq!(decode::<Parcel>(&[1, 0, 2, b'm', b'e', 5]).unwrap(), parcel("me", 5));
}

#[test]
fn refusals() {
    #[track_caller]
    fn check(bytes: &[u8], expect: &str) {
        assert_eq!(decode::<Parcel>(bytes).unwrap_err().to_string(), expect);
    }
    check(&[], "this is no well-formed parcel: 0 bytes cannot hold even its version");
    check(&[3], "this is no well-formed parcel: 1 bytes cannot hold even its version");
    check(&[4, 0], "this parcel has version 4 and this program reads up to version 3: update atoll to read it");
    check(&[0, 1, 9], "this parcel has version 256 and this program reads up to version 3: update atoll to read it");
    check(&[2, 0], "this parcel has version 2 and this program reads up to version 3, but not this one");
    check(&[0, 0], "this parcel has version 0 and this program reads up to version 3, but not this one");
    check(&[3, 0, 2, b'm'], "this is no well-formed parcel: Hit the end of buffer, expected more data");
    check(&[1, 0, 0, 5, 9, 9], "this parcel is followed by 2 bytes that do not belong to it");
    let mut bytes = encode(&parcel("me", 1));
    bytes.push(0);
    check(&bytes, "this parcel is followed by 1 bytes that do not belong to it");
}

/// A few bytes that claim 2⁶⁰ elements fail quickly instead of allocating for them.
#[test]
fn a_claimed_length_is_not_believed() {
    let huge = [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x0f];
    for prefix in [&[3_u8, 0][..], &[3, 0, 0, 0, 0], &[3, 0, 0, 0, 0, 0]] {
        let bytes = [prefix, &huge].concat();
        assert!(matches!(decode::<Parcel>(&bytes), Err(DecodeError::Malformed { .. })), "{prefix:?}");
    }
}

proptest! {
    #[test]
    fn what_is_encoded_is_decoded(
        to in ".{0,8}",
        grams in any::<u64>(),
        fragile in any::<Option<bool>>(),
        contents in vec((any::<u32>(), ".{0,4}"), 0..4),
        labels in btree_map(".{0,4}", vec(any::<u8>(), 0..4), 0..4),
    ) {
        let value = Parcel { to, grams, fragile, contents, labels };
        let bytes = encode(&value);
        prop_assert_eq!(decode::<Parcel>(&bytes).unwrap(), value);
        // Every proper prefix is refused, and so is every extension.
        for end in 0..bytes.len() {
            prop_assert!(decode::<Parcel>(&bytes[..end]).is_err());
        }
        prop_assert!(decode::<Parcel>(&[&bytes[..], &[0]].concat()).is_err());
    }

    #[test]
    fn arbitrary_bytes_never_panic(version in 0_u16..5, body in any::<Vec<u8>>()) {
        let _ = decode::<Parcel>(&body);
        let _ = decode::<Parcel>(&[&version.to_le_bytes()[..], &body].concat());
    }
}
