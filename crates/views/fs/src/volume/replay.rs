//! Mounting: the fence, then the checkpoint, then the journal.

use atoll_engine::{Blobs, ReadError};

use super::flush::Log;
use super::{VolumeError, now};
use crate::head::{Head, HeadError, HeadSeal, HeadStore, Segment};
use crate::secret::VolumeConfig;
use crate::tree::Tree;
use crate::tree::change::{FrameReader, HEADER_BYTES, Header, ROOT, SegmentError};

/// How often the epoch is tried to be raised when others swing the head at the same time: the earlier writer may do so every few milliseconds until
/// it is fenced.
const FENCE_TRIES: usize = 16;

/// Takes the volume over and reads it.
pub(super) async fn mount(
    config: &VolumeConfig,
    blobs: &Blobs,
    seal: &HeadSeal,
    heads: &dyn HeadStore,
) -> Result<(Log, Tree), VolumeError> {
    let (head, revision) = fence(config, seal, heads).await?;
    let mut tree = Tree::default();
    for segment in head.segments() {
        replay(blobs, segment, &mut tree).await?;
    }
    let mut log = Log::new(head, revision);
    if tree.inodes.contains_key(&ROOT) {
        log.version = tree.version;
        tree.drop_orphans();
    } else {
        tree = Tree::format(now());
    }
    Ok((log, tree))
}

/// Raises the epoch: from here on the earlier writer's swings fail.
async fn fence(config: &VolumeConfig, seal: &HeadSeal, heads: &dyn HeadStore) -> Result<(Head, String), VolumeError> {
    for _ in 0..FENCE_TRIES {
        let found = heads.load().await?.ok_or_else(|| VolumeError::NotFound { name: config.name.clone() })?;
        let mut head = seal.open(&found.bytes).ok_or_else(|| VolumeError::WrongSecret { name: config.name.clone() })?;
        head.epoch += 1;
        head.sequence += 1;
        match heads.swing(Some(found.revision), seal.seal(&head)).await {
            Ok(revision) => return Ok((head, revision)),
            Err(HeadError::Moved) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Err(VolumeError::Contended { name: config.name.clone() })
}

/// Replays one segment, a stripe at a time.
async fn replay(blobs: &Blobs, segment: &Segment, tree: &mut Tree) -> Result<(), VolumeError> {
    let damaged = || SegmentError::Damaged { frame: 0 };
    let header = Header::decode(&blobs.read(&segment.manifest, 0..HEADER_BYTES).await?)?;
    let start = HEADER_BYTES.checked_add(header.data_bytes).ok_or_else(damaged)?;
    let mut reader = blobs.reader(&segment.manifest, start..u64::MAX)?;
    let mut frames = FrameReader::default();
    loop {
        let next: Option<Result<_, ReadError>> = reader.next().await;
        let Some(bytes) = next else { break };
        frames.push(&bytes?);
        for transaction in frames.take()? {
            tree.replay(&transaction, Some(&segment.manifest))?;
        }
    }
    Ok(frames.finish(header.frames)?)
}
