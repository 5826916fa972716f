//! Tests of the encodings, and of the walk over what may be anything.

#![allow(clippy::unwrap_used, reason = "tests")]

use super::scan::{scan_bytes, walk};
use super::{
    BLOCK_BYTES, DATA_START, HeaderError, PreviousSegment, RECORD_HEADER_BYTES, RecordHeader, RecordKind,
    SHARD_BYTES_MAX, SegmentHeader, crc64, record_bytes,
};
use atoll_ids::{OwnerId, ShardId};
use proptest::prelude::{any, prop_assert, prop_assert_eq};
use proptest::{collection::vec, proptest};

fn header() -> SegmentHeader {
    SegmentHeader {
        sequence: 7,
        id: [9; 16],
        previous: Some(PreviousSegment { sequence: 6, tail: 12_288, durable: 41 }),
    }
}

fn record(sequence: u64, payload: &[u8]) -> RecordHeader {
    RecordHeader {
        kind: RecordKind::Put,
        first: true,
        last: true,
        len: payload.len() as u32,
        sequence,
        durable: sequence - 1,
        owner: OwnerId::from_bytes([1; 32]),
        shard: ShardId::from_bytes([sequence as u8; 16]),
        crc: crc64(payload),
    }
}

/// A segment with one record per batch.
fn segment(payloads: &[&[u8]]) -> Vec<u8> {
    let mut bytes = header().encode();
    for (i, payload) in payloads.iter().enumerate() {
        let offset = bytes.len() as u64;
        bytes.extend_from_slice(&record(42 + i as u64, payload).encode(&header(), offset));
        bytes.extend_from_slice(payload);
        bytes.resize(bytes.len().next_multiple_of(BLOCK_BYTES), 0);
    }
    bytes
}

#[test]
fn crc_is_the_one_of_nvme() {
    // The check value of the catalogue of CRC algorithms.
    assert_eq!(crc64(b"123456789"), 0xae8b_1486_0a79_9888);
}

/// Version 1 as it was first written. A program that cannot read this has lost somebody's shards.
#[test]
fn version_1_is_read_for_ever() {
    let bytes = include_bytes!("../../tests/fixtures/segment-v1.log");
    let report = scan_bytes(bytes);
    assert_eq!(report.header, Some(header()));
    assert_eq!((report.records.len(), report.rotten, report.gaps.len(), report.tail), (2, 0, 0, 16_384));
    assert_eq!(report.records[0].header, record(42, b"a shard"));
    assert_eq!(report.records[1].header, record(43, b""));
    assert_eq!(bytes.as_slice(), segment(&[b"a shard", b""]), "and what is written now is the same");
}

#[test]
fn a_header_is_read_from_either_copy_and_only_if_sound() {
    let whole = header().encode();
    assert_eq!(SegmentHeader::decode_either(&whole), Ok(header()));
    for bit in 0..88 * 8 {
        let mut rotten = whole.clone();
        rotten[bit / 8] ^= 1 << (bit % 8);
        assert!(SegmentHeader::decode(&rotten).is_err(), "bit {bit}");
        assert_eq!(SegmentHeader::decode_either(&rotten), Ok(header()), "bit {bit}: the second copy stands");
    }
    for len in 0..88 {
        assert_eq!(SegmentHeader::decode(&whole[..len]), Err(HeaderError::Magic));
    }
}

#[test]
fn a_record_header_holds_only_in_its_segment_at_its_place() {
    let record = record(42, b"x");
    let bytes = record.encode(&header(), DATA_START);
    assert_eq!(RecordHeader::decode(&bytes, &header(), DATA_START), Some(record));
    assert_eq!(RecordHeader::decode(&bytes, &header(), DATA_START + 16), None);
    assert_eq!(RecordHeader::decode(&bytes, &SegmentHeader { id: [8; 16], ..header() }, DATA_START), None);
    assert_eq!(RecordHeader::decode(&bytes, &SegmentHeader { sequence: 8, ..header() }, DATA_START), None);
    for bit in 0..RECORD_HEADER_BYTES * 8 {
        let mut rotten = bytes;
        rotten[bit / 8] ^= 1 << (bit % 8);
        assert_eq!(RecordHeader::decode(&rotten, &header(), DATA_START), None, "bit {bit}");
    }
}

#[test]
fn sound_checksums_do_not_excuse_nonsense() {
    let long = RecordHeader { len: SHARD_BYTES_MAX as u32 + 1, ..record(1, b"") };
    let loaded = RecordHeader { kind: RecordKind::Tombstone, len: 1, ..record(1, b"") };
    for bad in [long, loaded] {
        assert_eq!(RecordHeader::decode(&bad.encode(&header(), 0), &header(), 0), None, "{bad:?}");
    }
}

#[test]
fn a_walk_stops_at_what_reaches_beyond_the_end_and_at_numbers_that_go_back() {
    let bytes = segment(&[b"one", &[7; 5000], b"three"]);
    let report = scan_bytes(&bytes[..DATA_START as usize + 2 * BLOCK_BYTES]);
    assert_eq!((report.records.len(), report.tail), (1, DATA_START + BLOCK_BYTES as u64));

    let mut again = bytes.clone();
    let at = again.len() as u64;
    again.extend_from_slice(&record(43, b"").encode(&header(), at));
    assert_eq!(scan_bytes(&again).records.len(), 3, "a number that goes back is no record");
}

proptest! {
    #[test]
    fn any_bytes_are_walked_without_harm(mut bytes in vec(any::<u8>(), 0..3000), at in 0..20_000usize) {
        let mut segment = segment(&[b"one", &[7; 5000], b"three", b""]);
        scan_bytes(&bytes);
        let at = at.min(segment.len());
        bytes.truncate(segment.len() - at);
        segment[at..at + bytes.len()].copy_from_slice(&bytes);
        let report = scan_bytes(&segment);
        prop_assert!(report.records.len() <= 4);
        let mut last = 0;
        for found in &report.records {
            prop_assert!(found.offset >= DATA_START && found.header.sequence > last);
            last = found.header.sequence;
        }
    }

    #[test]
    fn every_record_beside_a_hole_is_found(lens in vec(0..9000usize, 1..12), hole in any::<u64>(), size in 1..6000usize) {
        let payloads: Vec<Vec<u8>> = lens.iter().map(|len| vec![*len as u8; *len]).collect();
        let mut bytes = segment(&payloads.iter().map(Vec::as_slice).collect::<Vec<_>>());
        let whole = scan_bytes(&bytes);
        prop_assert_eq!(whole.records.len(), lens.len());
        let start = DATA_START + hole % (bytes.len() as u64 - DATA_START);
        let end = (start + size as u64).min(bytes.len() as u64);
        bytes[start as usize..end as usize].fill(0xee);
        let hit = |r: &super::scan::Found| start < r.offset + RECORD_HEADER_BYTES as u64 && r.offset < end;
        let expected: Vec<_> = whole.records.iter().filter(|r| !hit(r)).copied().collect();
        prop_assert_eq!(scan_bytes(&bytes).records, expected);
    }
}

#[test]
fn record_lengths_are_aligned() {
    for (len, bytes) in [(0, 96), (1, 112), (16, 112), (17, 128), (4000, 4096)] {
        assert_eq!(record_bytes(len), bytes);
    }
}

#[test]
fn a_source_that_fails_fails_the_walk() {
    struct Broken;
    impl super::scan::Source for Broken {
        fn at(&mut self, _: u64, _: usize) -> std::io::Result<&[u8]> {
            Err(std::io::Error::other("no"))
        }
    }
    assert!(walk(&mut Broken, &header(), 1 << 20, |_| ()).is_err());
}
