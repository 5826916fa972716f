//! Segments of the shard log, as a crash, a failing disk or a person with an editor may have left them.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::{collections::BTreeMap, fs, path::Path};

use atoll_fuzz::fuzz;
use atoll_ids::{OwnerId, ShardId};
use atoll_segments::{
    GetError, Segments, SegmentsConfig, crc64,
    format::{
        BLOCK_BYTES, DATA_START, RECORD_HEADER_BYTES, RecordHeader, RecordKind, SegmentHeader, record_bytes,
        scan::scan_bytes,
    },
};
use bytes::Bytes;

const HEADER: SegmentHeader = SegmentHeader { sequence: 1, id: [7; 16], previous: None };

/// Length of the segments in memory.
const SEGMENT_BYTES: usize = 8 * BLOCK_BYTES;

/// A record as one batch of its own at the beginning of a block.
fn record(number: u64, payload: &[u8]) -> RecordHeader {
    RecordHeader {
        kind: RecordKind::Put,
        first: true,
        last: true,
        len: u32::try_from(payload.len()).unwrap(),
        sequence: number,
        durable: number - 1,
        owner: OwnerId::from_bytes([1; 32]),
        shard: ShardId::from_bytes([number as u8; 16]),
        crc: crc64(payload),
    }
}

/// A segment with these records, each at its offset. Overlapping is allowed; what does not fit is cut.
fn segment(records: &[(usize, RecordHeader, &[u8])]) -> Vec<u8> {
    let mut bytes = HEADER.encode();
    bytes.resize(SEGMENT_BYTES, 0);
    for (offset, header, payload) in records {
        let encoded = [&header.encode(&HEADER, *offset as u64)[..], payload].concat();
        let end = (offset + encoded.len()).min(SEGMENT_BYTES);
        bytes[*offset..end].copy_from_slice(&encoded[..end - offset]);
    }
    bytes
}

fn valid_segment() -> Vec<u8> {
    let start = DATA_START as usize;
    let payload = [5; 100];
    let (mut first, mut second) = (record(1, &payload), record(2, b"second"));
    (first.last, second.first) = (false, false);
    let records = [
        (start, first, &payload[..]),
        (start + record_bytes(payload.len()), second, b"second"),
        (start + BLOCK_BYTES, record(3, b"third"), b"third"),
    ];
    segment(&records)
}

/// What every scan promises, whatever it was given.
fn check_scan(bytes: &[u8]) {
    let report = scan_bytes(bytes);
    assert!(report.header.is_some() || report.records.is_empty());
    assert!(report.rotten <= report.records.len());
    let mut end = DATA_START;
    let mut sequence = 0;
    for found in &report.records {
        assert!(found.offset >= end, "records overlap");
        assert!(found.header.sequence > sequence, "numbers do not ascend");
        end = found.offset + (RECORD_HEADER_BYTES + found.header.len as usize) as u64;
        sequence = found.header.sequence;
        assert!(end <= bytes.len() as u64, "a record beyond the segment");
    }
    assert!(report.records.is_empty() || report.tail >= end);
}

#[test]
fn damaged_segments() {
    assert_eq!(scan_bytes(&valid_segment()).records.len(), 3);
    fuzz!(20_000, vec![valid_segment()], check_scan);
}

/// Records with a sound checksum that say anything: past the checksum is where a scan has to reason.
#[test]
fn forged_records() {
    let script: Vec<u8> = (0..60).map(|byte: u8| byte.wrapping_mul(37)).collect();
    fuzz!(20_000, vec![script], |bytes: &[u8]| {
        let mut records = Vec::new();
        for part in bytes.chunks_exact(12).take(12) {
            let [place, kind, flags, fill, len0, len1, len2, sequence, durable, ..] = *part else { continue };
            // At places where records are looked for, close enough together to overlap.
            let offset = DATA_START as usize + usize::from(place) * 64;
            let mut header = record(u64::from(sequence) + 1, &[fill; 40]);
            header.kind = if kind % 4 == 0 { RecordKind::Tombstone } else { RecordKind::Put };
            (header.first, header.last) = (flags & 1 != 0, flags & 2 != 0);
            header.len =
                u32::from_le_bytes([len0, len1, if kind > 200 { len2 } else { 0 }, if kind > 250 { len2 } else { 0 }]);
            header.durable = if flags & 4 != 0 { u64::MAX } else { u64::from(durable) };
            records.push((offset, header, vec![fill; 40]));
        }
        let records: Vec<_> =
            records.iter().map(|(offset, header, payload)| (*offset, *header, &payload[..])).collect();
        check_scan(&segment(&records));
    });
}

fn config() -> SegmentsConfig {
    let segment_bytes = SEGMENT_BYTES as u64;
    SegmentsConfig { segment_bytes, capacity: 4 * segment_bytes, spare_ahead: false, ..SegmentsConfig::new(0) }
}

const OWNER: OwnerId = OwnerId::from_bytes([1; 32]);

/// Fills a new store with a few shards; returns its files and the shards.
async fn fill(dir: &Path) -> (BTreeMap<String, Vec<u8>>, Vec<(ShardId, Bytes)>) {
    let store = Segments::open(dir, config()).unwrap();
    let shards: Vec<_> =
        (1..=6_u8).map(|it| (ShardId::from_bytes([it; 16]), Bytes::from(vec![it; 900 * usize::from(it)]))).collect();
    for (id, data) in &shards {
        store.put(OWNER, *id, crc64(data), data.clone()).await.unwrap();
    }
    store.close().await;
    drop(store);
    let mut files = BTreeMap::new();
    for entry in fs::read_dir(dir).unwrap() {
        let entry = entry.unwrap();
        files.insert(entry.file_name().into_string().unwrap(), fs::read(entry.path()).unwrap());
    }
    (files, shards)
}

/// Puts the files as they were.
fn restore(dir: &Path, files: &BTreeMap<String, Vec<u8>>) {
    fs::remove_dir_all(dir).unwrap();
    fs::create_dir(dir).unwrap();
    for (name, content) in files {
        fs::write(dir.join(name), content).unwrap();
    }
}

/// A damaged store opens or says why not, its figures make sense, and it never gives out other bytes than were put in.
async fn check_store(dir: &Path, shards: &[(ShardId, Bytes)]) {
    let Ok(store) = Segments::open(dir, config()) else { return };
    let totals = store.totals();
    assert!(totals.used + totals.reclaimable + totals.reserved <= 2 * totals.capacity, "{totals:?}");
    for (id, data) in shards {
        match store.get(OWNER, *id).await {
            Ok(found) => assert_eq!(found, data),
            Err(GetError::NotFound | GetError::Rotten) => {}
            Err(error) => panic!("{error}"),
        }
    }
    store.close().await;
}

/// A whole store with one damaged file.
#[test]
fn damaged_stores() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let (files, shards) = runtime.block_on(fill(dir.path()));
    let names: Vec<&String> = files.keys().filter(|name| name.ends_with(".log")).collect();
    let valid: Vec<Vec<u8>> = names.iter().map(|name| files[*name].clone()).collect();
    fuzz!(500, valid, |bytes: &[u8]| {
        restore(dir.path(), &files);
        fs::write(dir.path().join(names[bytes.len() % names.len()]), bytes).unwrap();
        runtime.block_on(check_store(dir.path(), &shards));
    });
}

/// Each file cut at many lengths, also where no record ends: what a file system may have left.
#[test]
fn cut_stores() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let (files, shards) = runtime.block_on(fill(dir.path()));
    for (name, content) in files.iter().filter(|(name, _)| name.ends_with(".log")) {
        for length in (0..content.len()).step_by(1531) {
            restore(dir.path(), &files);
            fs::write(dir.path().join(name), &content[..length]).unwrap();
            runtime.block_on(check_store(dir.path(), &shards));
        }
    }
}
