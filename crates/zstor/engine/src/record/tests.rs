//! A fixture of every record of every version: what was written once must be read for ever, and is written the same way until its version changes.
#![allow(clippy::unwrap_used, reason = "tests")]

use super::*;

/// A value of a type that can only be read: from its postcard form.
fn read<T: serde::de::DeserializeOwned>(bytes: &[u8]) -> T {
    postcard::from_bytes(bytes).unwrap()
}

fn body(inline: Vec<StripeEntry>) -> Body {
    Body {
        key: read(&[7; 60]),
        policy: Policy::new(2, 1).unwrap(),
        level: DomainLevel::Site,
        runs: vec![read(&[1; 16]), read(&[2; 16])],
        maps: vec![MapId::from_bytes([3; 16])],
        stripes: 1,
        stored: 1500,
        inline,
    }
}

fn stripe() -> StripeEntry {
    // Counter 5, 1000 bytes of plaintext and of ciphertext, the stripe's tag, three shard tags.
    let mut record = vec![5, 0xe8, 7, 0xe8, 7];
    record.extend([4; 16]);
    record.push(3);
    record.extend([5; 48]);
    let place = |index, node| Place { index, node: NodeId::from_bytes([node; 32]) };
    StripeEntry { run: 1, map: 0, record: read(&record), moved: vec![place(2, 9)], strays: vec![place(2, 8)] }
}

fn tail() -> Tail {
    Tail {
        id: ObjectId::from_bytes([6; 16]),
        key: read(&[7; 60]),
        policy: Policy::new(2, 1).unwrap(),
        level: DomainLevel::Node,
        salt: read(&[1; 16]),
        map: Some(MapId::from_bytes([3; 16])),
        counter: 70,
        stripe: 134,
        count: 142,
    }
}

#[track_caller]
fn check<T: Versioned + PartialEq + std::fmt::Debug>(value: &T, fixture: &str) {
    let written: String = atoll_wire::encode(value).iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(written, fixture, "{} is written differently: give it a new version", T::NAME);
    let bytes: Vec<u8> =
        (0..fixture.len()).step_by(2).map(|at| u8::from_str_radix(&fixture[at..at + 2], 16).unwrap()).collect();
    assert_eq!(&atoll_wire::decode::<T>(&bytes).unwrap(), value);
    assert!(decode_any(&bytes).contains(&T::NAME));
    for cut in 0..bytes.len() {
        assert!(atoll_wire::decode::<T>(&bytes[..cut]).is_err(), "{} cut at {cut}", T::NAME);
    }
}

#[test]
fn version_1() {
    let time: Timestamp = "2026-11-22T20:00:00.5Z".parse().unwrap();
    let policy = Policy::new(4, 2).unwrap();
    check(&OwnerMark { owner: OwnerId::from_bytes([1; 32]) }, include_str!("fixtures/owner-mark-v1.hex").trim());
    let bucket = BucketRecord { policy, level: DomainLevel::Node, created: time, closing: false };
    check(&bucket, include_str!("fixtures/bucket-v1.hex").trim());
    let meta = ObjectMeta {
        kind: ObjectKind::Symlink("a".into()),
        mode: Some(0o644),
        modified: Some(time),
        content_type: Some("text/plain".into()),
    };
    let id = ObjectId::from_bytes([6; 16]);
    let (size, content) = (1000, [10; 32]);
    let object = ObjectRecord { id, size, created: time, meta, content, body: body(vec![stripe()]) };
    check(&object, include_str!("fixtures/object-v1.hex").trim());
    let page = ManifestPage { stripes: vec![stripe(), StripeEntry { moved: vec![], strays: vec![], ..stripe() }] };
    check(&page, include_str!("fixtures/page-v1.hex").trim());
    let mut digest = ContentDigest::default();
    digest.push(crate::digest::Leaf::of(0, b"content"));
    let source = SourceIdentity { device: 1, inode: 2, size: 3, modified_ns: -4 };
    let upload = UploadRecord {
        bucket: "photos".parse().unwrap(),
        object_key: "key".into(),
        id,
        started: time,
        source: Some(source),
        body: body(Vec::new()),
        run_first: 64,
        run_map: None,
        window: 142,
        digest,
    };
    check(&upload, include_str!("fixtures/upload-v1.hex").trim());
    check(&tail(), include_str!("fixtures/tail-v1.hex").trim());
    check(&Garbage::Tail(tail()), include_str!("fixtures/garbage-tail-v1.hex").trim());
    check(&Garbage::Version { id, body: body(vec![stripe()]) }, include_str!("fixtures/garbage-version-v1.hex").trim());
    let remains = Garbage::Remains(vec![(NodeId::from_bytes([9; 32]), vec![ShardId::from_bytes([11; 16])])]);
    check(&remains, include_str!("fixtures/garbage-remains-v1.hex").trim());
}
