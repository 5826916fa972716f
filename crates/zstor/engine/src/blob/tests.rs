//! Tests of blobs over nodes in memory.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::time::Duration;

use super::*;
use crate::testing::MemoryNodes;

const MIB: usize = 1 << 20;

fn content(seed: u64, len: usize) -> Bytes {
    let mut bytes = vec![0; len];
    blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut bytes);
    bytes.into()
}

fn blobs(nodes: &Arc<MemoryNodes>, secret: u8, least: usize) -> Blobs {
    let mut config = BlobsConfig::new("4+2".parse().unwrap());
    config.engine.patience = Duration::from_millis(1500);
    config.least = least;
    Blobs::new(config, OwnerId::from_bytes([7; 32]), &[secret; 32], nodes.clone()).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_goes_in_comes_out_by_range_and_by_stream() {
    let nodes = MemoryNodes::new(6);
    let blobs = blobs(&nodes, 1, 6);
    for len in [0, 1, 4096, MIB, MIB + 1, 3 * MIB + 17] {
        let bytes = content(1, len);
        let manifest = blobs.put(Source::Bytes(bytes.clone())).await.unwrap();
        assert_eq!(blobs.read(&manifest, 0..u64::MAX).await.unwrap(), bytes);
        let (from, to) = (len / 3, len * 2 / 3);
        assert_eq!(blobs.read(&manifest, from as u64..to as u64).await.unwrap(), bytes.slice(from..to));
        assert_eq!(blobs.info(&manifest).unwrap().size, len as u64);
        let stream = Source::Stream(Box::pin(std::io::Cursor::new(bytes.clone())), None);
        let streamed = blobs.put(stream).await.unwrap();
        assert_eq!(blobs.read(&streamed, 0..u64::MAX).await.unwrap(), bytes);
        assert_eq!(blobs.delete(&manifest).await.unwrap() + blobs.delete(&streamed).await.unwrap(), 0);
        assert_eq!(nodes.shards(), 0);
    }
}

#[tokio::test]
async fn a_manifest_opens_for_its_volume_and_owner_only() {
    let nodes = MemoryNodes::new(6);
    let ours = blobs(&nodes, 1, 6);
    let manifest = ours.put(Source::Bytes(content(1, 100))).await.unwrap();
    assert!(matches!(blobs(&nodes, 2, 6).info(&manifest), Err(ReadError::Tampered { .. })));
    let config = ours.config().clone();
    let other = Blobs::new(config, OwnerId::from_bytes([8; 32]), &[1; 32], nodes.clone()).unwrap();
    assert!(matches!(other.info(&manifest), Err(ReadError::Tampered { .. })));
    let again = BlobManifest::from_bytes(manifest.as_bytes().clone());
    assert_eq!(ours.info(&again).unwrap().size, 100);
    for at in (0..manifest.as_bytes().len()).step_by(7) {
        let mut bytes = manifest.as_bytes().to_vec();
        bytes[at] ^= 1;
        assert!(ours.info(&BlobManifest::from_bytes(bytes.into())).is_err(), "byte {at}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lost_shards_go_to_spares() {
    let nodes = MemoryNodes::new(8);
    let blobs = blobs(&nodes, 1, 6);
    let bytes = content(3, 2 * MIB);
    let manifest = blobs.put(Source::Bytes(bytes.clone())).await.unwrap();
    nodes.kill(0, true);
    nodes.kill(1, true);
    assert_eq!(blobs.read(&manifest, 0..u64::MAX).await.unwrap(), bytes);
    let healed = blobs.healer().await.heal(&manifest, false).await.unwrap();
    assert_eq!((healed.missing, healed.lost, healed.unplaced), (healed.rebuilt, 0, 0));
    let now = healed.manifest.clone().unwrap_or(manifest);
    let again = blobs.healer().await.heal(&now, false).await.unwrap();
    assert_eq!(again.missing, 0);
    assert!(again.manifest.is_none() && healed.rebuilt > 0);
    nodes.kill(2, true);
    nodes.kill(3, true);
    assert_eq!(blobs.read(&now, 0..u64::MAX).await.unwrap(), bytes);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_degraded_write_is_completed_by_a_heal() {
    for known in [true, false] {
        let nodes = MemoryNodes::new(6);
        nodes.kill(5, known);
        assert!(matches!(
            blobs(&nodes, 1, 6).put(Source::Bytes(content(3, 10))).await,
            Err(PutError::NotEnoughNodes { .. })
        ));
        let blobs = blobs(&nodes, 1, 5);
        let bytes = content(3, MIB + 5);
        let manifest = blobs.put(Source::Bytes(bytes.clone())).await.unwrap();
        assert_eq!(blobs.info(&manifest).unwrap().absent, 2);
        nodes.kill(0, true);
        assert_eq!(blobs.read(&manifest, 0..u64::MAX).await.unwrap(), bytes);
        nodes.revive(5);
        nodes.revive(0);
        // A node that failed is passed over until a probe finds it well.
        let healed = loop {
            let healed = blobs.healer().await.heal(&manifest, false).await.unwrap();
            if healed.unplaced == 0 {
                break healed;
            }
            blobs.inner.probe_suspects();
            tokio::time::sleep(Duration::from_millis(20)).await;
        };
        assert_eq!(healed.rebuilt, 2);
        let whole = healed.manifest.unwrap();
        assert_eq!(blobs.info(&whole).unwrap().absent, 0);
        nodes.kill(1, true);
        nodes.kill(2, true);
        assert_eq!(blobs.read(&whole, 0..u64::MAX).await.unwrap(), bytes);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn too_few_nodes_are_refused_and_leave_nothing() {
    let nodes = MemoryNodes::new(6);
    nodes.kill(4, false);
    nodes.kill(5, false);
    let blobs = blobs(&nodes, 1, 5);
    assert!(matches!(blobs.put(Source::Bytes(content(3, 10))).await, Err(PutError::NotEnoughNodes { .. })));
}
