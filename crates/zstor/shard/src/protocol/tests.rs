//! What is encoded is decoded to the same; anything else is an error and never a panic; the layout is what the table says.
#![allow(clippy::unwrap_used, reason = "tests")]

use atoll_ids::{ByteCount, ShardId};
use bytes::Bytes;
use proptest::prelude::{Just, Strategy, any, prop_assert, prop_assert_eq, prop_oneof, proptest};

use super::*;
use crate::home::{HomeStat, PutOutcome, ShardEntry};

/// Splits one frame as a reader would.
fn split(frame: &[u8]) -> (Header, Bytes) {
    let header = Header::decode(frame[..HEADER_BYTES].try_into().unwrap()).unwrap();
    (header, Bytes::copy_from_slice(&frame[HEADER_BYTES..]))
}

fn shard_id() -> impl Strategy<Value = ShardId> {
    any::<[u8; 16]>().prop_map(ShardId::from_bytes)
}

fn payload() -> impl Strategy<Value = Bytes> {
    proptest::collection::vec(any::<u8>(), 0..300).prop_map(Bytes::from)
}

fn request() -> impl Strategy<Value = Request> {
    prop_oneof![
        (shard_id(), any::<u64>(), payload()).prop_map(|(id, crc, payload)| Request::Put { id, crc, payload }),
        shard_id().prop_map(Request::Get),
        shard_id().prop_map(Request::Delete),
        shard_id().prop_map(Request::Verify),
        (proptest::option::of(shard_id()), any::<u32>()).prop_map(|(after, limit)| Request::List { after, limit }),
        Just(Request::Stat),
        Just(Request::Ping),
    ]
}

fn stat() -> impl Strategy<Value = HomeStat> {
    let count = || any::<u64>().prop_map(ByteCount);
    (any::<u64>(), count(), proptest::option::of(count()), count()).prop_map(|(shards, used, quota, free)| HomeStat {
        shards,
        used,
        quota,
        free,
    })
}

fn answer() -> impl Strategy<Value = Answer> {
    let entries = proptest::collection::btree_map(shard_id(), any::<u32>(), 0..20)
        .prop_map(|map| map.into_iter().map(|(id, len)| ShardEntry { id, len }).collect());
    let code = proptest::sample::select(&Code::ALL[..]);
    prop_oneof![
        Just(Answer::Stored(PutOutcome::Stored)),
        Just(Answer::Stored(PutOutcome::AlreadyThere)),
        payload().prop_map(Answer::Shard),
        Just(Answer::Deleted),
        entries.prop_map(Answer::Listing),
        stat().prop_map(Answer::Stats),
        Just(Answer::Verified),
        Just(Answer::Pong),
        (code, "\\PC{0,100}").prop_map(|(code, text)| Answer::Failed { code, text }),
        "\\PC{0,100}".prop_map(|text| Answer::End { text }),
    ]
}

/// Any header that is accepted, with a body of its length or another.
fn any_frame() -> impl Strategy<Value = (Header, Bytes)> {
    let kind = proptest::sample::select(&Kind::ALL[..]);
    (kind, any::<u64>(), payload(), any::<bool>()).prop_map(|(kind, request, body, fits)| {
        let length = if fits { u32::try_from(body.len()).unwrap() } else { 7 };
        (Header { kind, length, request }, body)
    })
}

proptest! {
    #[test]
    fn requests_survive(request in request(), id in any::<u64>()) {
        let (header, body) = split(&request.encode(id));
        prop_assert_eq!((header.kind, header.request), (request.kind(), id));
        prop_assert_eq!(Request::decode(header, body), Ok(request));
    }

    #[test]
    fn answers_survive(answer in answer(), id in any::<u64>()) {
        let (header, body) = split(&answer.encode(id));
        prop_assert_eq!((header.kind, header.request), (answer.kind(), id));
        prop_assert_eq!(Answer::decode(header, body), Ok(answer));
    }

    /// Whatever is accepted is what the encoder makes of it: there is one encoding.
    #[test]
    fn frames_have_one_encoding((header, body) in any_frame()) {
        if let Ok(request) = Request::decode(header, body.clone()) {
            prop_assert_eq!(&request.encode(header.request)[HEADER_BYTES..], &body[..]);
        }
        if let Ok(answer) = Answer::decode(header, body.clone()) {
            prop_assert_eq!(&answer.encode(header.request)[HEADER_BYTES..], &body[..]);
        }
    }

    #[test]
    fn headers_have_one_encoding(bytes in any::<[u8; HEADER_BYTES]>(), kind in any::<u8>(), length in 0..5000u32) {
        let mut plausible = bytes;
        plausible[..4].copy_from_slice(&length.to_le_bytes());
        plausible[4] = kind;
        plausible[5..8].fill(0);
        for bytes in [bytes, plausible] {
            if let Ok(header) = Header::decode(&bytes) {
                let (min, max) = header.kind.body_bytes();
                prop_assert!((min..=max).contains(&(header.length as usize)));
                prop_assert_eq!(header.to_bytes(), bytes);
            }
        }
    }

    #[test]
    fn greetings_and_hellos_do_not_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = atoll_wire::decode::<Hello>(&bytes);
        let _ = atoll_wire::decode::<Greeting>(&bytes);
    }
}

/// Version 1 as bytes. If this changes, it is another version.
#[test]
fn layout() {
    let check = |frame: Vec<u8>, expected: &str| {
        let hex: String = frame.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(hex, expected.replace(' ', ""));
    };
    let id = ShardId::from_bytes([0xab; 16]);
    let id_hex = "abababababababababababababababab";
    check(
        Request::Put { id, crc: 0x1122, payload: Bytes::from_static(b"\x01\x02") }.encode(3),
        &format!("1a000000 01 000000 0300000000000000 {id_hex} 2211000000000000 0102"),
    );
    check(Request::Get(id).encode(4), &format!("10000000 02 000000 0400000000000000 {id_hex}"));
    check(
        Request::List { after: Some(id), limit: 9 }.encode(5),
        &format!("14000000 04 000000 0500000000000000 09000000 {id_hex}"),
    );
    check(Request::Ping.encode(6), "00000000 07 000000 0600000000000000");
    check(Answer::Stored(PutOutcome::AlreadyThere).encode(3), "01000000 41 000000 0300000000000000 01");
    check(Answer::Shard(Bytes::from_static(b"\x07")).encode(4), "01000000 42 000000 0400000000000000 07");
    check(
        Answer::Failed { code: Code::NotFound, text: "x".to_owned() }.encode(4),
        "02000000 7e 000000 0400000000000000 01 78",
    );
    check(Answer::End { text: "y".to_owned() }.encode(0), "01000000 7f 000000 0000000000000000 79");
    let stat = HomeStat { shards: 1, used: ByteCount(2), quota: Some(ByteCount(4)), free: ByteCount(3) };
    check(
        Answer::Stats(stat).encode(1),
        "21000000 45 000000 0100000000000000 0100000000000000 0200000000000000 0300000000000000 01 0400000000000000",
    );
}

/// What is said before the frames, version 1 as bytes.
#[test]
fn layout_of_the_greeting() {
    fn check<T: atoll_wire::Versioned + PartialEq + std::fmt::Debug>(value: T, expected: &str) {
        let hex: String = atoll_wire::encode(&value).iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(hex, expected.replace(' ', ""));
        assert_eq!(atoll_wire::decode::<T>(&atoll_wire::encode(&value)), Ok(value));
    }
    let limits = ServerLimits { shard_bytes_max: 2 << 20, in_flight_max: 256, list_entries_max: 4096 };
    let (quota, used) = (Some(ByteCount(5)), ByteCount(300));
    check(Greeting::Welcome(Welcome { limits, quota, used }), "0100 00 80808001 8002 8020 01 05 ac02");
    let refused = |why| Greeting::Refused(RefusedHello { why, text: "no".to_owned() });
    check(refused(crate::Refusal::Grant), "0100 01 00 02 6e6f");
    check(refused(crate::Refusal::Quota), "0100 01 01 02 6e6f");
    check(refused(crate::Refusal::Full), "0100 01 02 02 6e6f");
    check(refused(crate::Refusal::Policy), "0100 01 03 02 6e6f");
    let (owner, node) = (atoll_ids::OwnerId::from_bytes([1; 32]), atoll_ids::NodeId::from_bytes([2; 32]));
    let grant = crate::StorageGrant { owner, node, not_before: 1, not_after: 128 };
    check(grant, &format!("0100 {} {} 01 8001", "01".repeat(32), "02".repeat(32)));
}

#[test]
fn impossible_lengths_are_refused_from_the_header() {
    let check = |kind: Kind, length: u32, accepted: bool| {
        let header = Header { kind, length, request: 1 };
        assert_eq!(Header::decode(&header.to_bytes()).is_ok(), accepted, "{kind:?} of {length}");
    };
    let limit = |n: usize| u32::try_from(n).unwrap();
    check(Kind::Put, limit(PUT_PREFIX_BYTES - 1), false);
    check(Kind::Put, limit(PUT_PREFIX_BYTES), true);
    check(Kind::Put, limit(PUT_PREFIX_BYTES + SHARD_BYTES_MAX), true);
    check(Kind::Put, limit(PUT_PREFIX_BYTES + SHARD_BYTES_MAX + 1), false);
    check(Kind::Put, u32::MAX, false);
    check(Kind::Get, 15, false);
    check(Kind::Get, 17, false);
    check(Kind::Stat, 1, false);
    check(Kind::Shard, limit(SHARD_BYTES_MAX + 1), false);
    check(Kind::Listing, limit(LIST_ENTRIES_MAX * ENTRY_BYTES + 1), false);
    check(Kind::Failed, 0, false);
    check(Kind::Failed, limit(TEXT_BYTES_MAX + 2), false);
}

#[test]
fn malformed_content_is_refused() {
    let check = |kind: Kind, body: Vec<u8>| {
        let header = Header { kind, length: u32::try_from(body.len()).unwrap(), request: 1 };
        let body = Bytes::from(body);
        let as_request = Request::decode(header, body.clone());
        let as_answer = Answer::decode(header, body);
        assert!(as_request.is_err() && as_answer.is_err(), "{kind:?}: {as_request:?} {as_answer:?}");
    };
    check(Kind::List, vec![0; 5]);
    check(Kind::List, vec![0; 21]);
    check(Kind::Stored, vec![2]);
    check(Kind::Failed, vec![0]);
    check(Kind::Failed, vec![200, b'x']);
    check(Kind::Failed, vec![1, 0xff]);
    check(Kind::End, vec![0xc3]);
    check(Kind::End, vec![b'x'; TEXT_BYTES_MAX + 1]);
    check(Kind::Listing, vec![0; ENTRY_BYTES - 1]);
    // Twice the same id: no progress for who pages.
    check(Kind::Listing, vec![0; 2 * ENTRY_BYTES]);
    let mut stat = vec![0; STAT_BYTES];
    stat[STAT_BYTES - 1] = 1;
    check(Kind::Stats, stat.clone());
    stat[24] = 2;
    check(Kind::Stats, stat);
}

#[test]
fn long_texts_are_cut_between_characters() {
    let text = "é".repeat(TEXT_BYTES_MAX);
    assert_eq!(fitting(&text).len(), TEXT_BYTES_MAX);
    assert_eq!(fitting(&format!("x{text}")).len(), TEXT_BYTES_MAX - 1);
    let (header, body) = split(&Answer::End { text: format!("x{text}") }.encode(0));
    assert!(Answer::decode(header, body).is_ok());
}
