//! Rot: bits that flip anywhere in a segment cost what they hit, are reported, and never come out as data.

use crate::harness::{content, open, owner, put, run, shard};
use crate::sim::SimDisk;
use atoll_segments::format::scan::scan_bytes;
use atoll_segments::{GetError, OpenError, PutError, PutOutcome};
use bytes::Bytes;

/// A disk with keys 0..20 in two segments, every third a tiny shard, batches of several records among them.
async fn rich() -> SimDisk {
    let disk = SimDisk::default();
    let store = open(&disk);
    let tasks: Vec<_> = (0..20u64)
        .map(|key| {
            let store = store.clone();
            tokio::spawn(async move { put(&store, key, &whole(key)).await.unwrap() })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    drop(store);
    assert_eq!(disk.names().len(), 2);
    disk
}

fn whole(key: u64) -> Bytes {
    content(key, 0, if key.is_multiple_of(3) { 20 } else { 4000 })
}

/// Every shard is whole, missing or known to be rotten; how many are whole.
async fn count_whole(disk: &SimDisk) -> usize {
    let store = open(disk);
    let mut found = 0;
    for key in 0..20 {
        match store.get(owner(1), shard(key)).await {
            Ok(data) => {
                assert_eq!(data, whole(key), "wrong bytes");
                found += 1;
            }
            Err(GetError::NotFound | GetError::Rotten) => {}
            Err(e) => panic!("{e}"),
        }
    }
    found
}

#[test]
fn a_flipped_bit_anywhere_never_gives_wrong_bytes_and_costs_one_shard_at_most() {
    run(async {
        let disk = rich().await;
        for name in disk.names() {
            let len = disk.image(&name).len();
            // Every byte of the first block of data and its headers, then a sample.
            for at in (0..120).chain(4096..4216).chain(8192..8600).chain((8600..len).step_by(211)) {
                let rotten = disk.settled();
                rotten.tamper(&name, |bytes| bytes[at] ^= 1 << (at % 8));
                let whole = count_whole(&rotten).await;
                assert!(whole >= 19, "{name}, byte {at}: only {whole} of 20 left");
            }
        }
    });
}

#[test]
fn a_lost_block_costs_what_lies_in_it_and_both_headers_cost_the_segment() {
    run(async {
        let disk = rich().await;
        let names = disk.names();
        let mut worst = 20;
        for block in 2..disk.image(&names[0]).len() / 4096 {
            let rotten = disk.settled();
            rotten.tamper(&names[0], |bytes| bytes[block * 4096..(block + 1) * 4096].fill(0xa5));
            worst = worst.min(count_whole(&rotten).await);
        }
        assert!(worst >= 16, "a block cost {} shards", 20 - worst);

        let beheaded = disk.settled();
        beheaded.tamper(&names[0], |bytes| bytes[..8192].fill(0));
        let left = count_whole(&beheaded).await;
        assert!((1..20).contains(&left), "{left}");
        let store = open(&beheaded);
        assert_eq!(store.open_report().lost_segments, 1);
        put(&store, 0, &whole(0)).await.unwrap();
        assert!(beheaded.names().contains(&names[0]), "what cannot be read is not removed");
    });
}

#[test]
fn a_rotten_header_amid_acknowledged_data_is_reported() {
    run(async {
        let disk = rich().await;
        let names = disk.names();
        let records = scan_bytes(&disk.image(&names[0])).records;
        let second = records[records.len() / 2];
        disk.tamper(&names[0], |bytes| bytes[second.offset as usize + 40] ^= 4);
        let store = open(&disk);
        assert_eq!(store.open_report().damaged_regions, 1, "{:?}", store.open_report());
        assert!(store.open_report().damaged_bytes >= u64::from(second.header.len));
        assert_eq!(store.totals().shards, 19);
    });
}

#[test]
fn a_rotten_shard_is_replaced_by_putting_it_again() {
    run(async {
        let disk = rich().await;
        let name = disk.names().remove(0);
        let record = scan_bytes(&disk.image(&name)).records.into_iter().find(|r| r.header.len == 4000).unwrap();
        let key = (0..20).find(|k| shard(*k) == record.header.shard).unwrap();
        disk.tamper(&name, |bytes| bytes[record.offset as usize + 96 + 1234] ^= 1);
        let store = open(&disk);
        assert!(matches!(store.get(owner(1), shard(key)).await, Err(GetError::Rotten)));
        assert!(matches!(store.verify(owner(1), shard(key)).await, Err(GetError::Rotten)));
        assert_eq!(put(&store, key, &whole(key)).await.unwrap(), PutOutcome::Stored);
        store.verify(owner(1), shard(key)).await.unwrap();
        assert_eq!(store.totals().shards, 20);
        assert_eq!(store.stat(owner(1)).bytes, (0..20).map(|k| whole(k).len() as u64).sum());
        drop(store);
        let store = open(&disk);
        store.verify(owner(1), shard(key)).await.unwrap();
        assert!(matches!(put(&store, key, &content(key, 1, 4000)).await, Err(PutError::DifferentContent)));
        // Deleted, neither copy comes back.
        store.delete(owner(1), shard(key)).await.unwrap();
        drop(store);
        assert!(matches!(open(&disk).get(owner(1), shard(key)).await, Err(GetError::NotFound)));
    });
}

#[test]
fn a_segment_of_a_newer_version_is_refused_with_its_version() {
    run(async {
        let disk = rich().await;
        let name = disk.names().remove(0);
        disk.tamper(&name, |bytes| {
            for copy in [0, 4096] {
                bytes[copy + 8] = 9;
                let crc = atoll_segments::crc64(&bytes[copy..copy + 80]);
                bytes[copy + 80..copy + 88].copy_from_slice(&crc.to_le_bytes());
            }
        });
        match atoll_segments::Segments::open_on(std::sync::Arc::new(disk), crate::harness::small()) {
            Err(OpenError::Newer { name: file, source }) => {
                assert_eq!(file, name);
                assert!(source.to_string().contains("version 9"));
            }
            other => panic!("{other:?}"),
        }
    });
}
