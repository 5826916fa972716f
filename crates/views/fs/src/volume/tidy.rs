//! Giving space back: deleting blobs that nothing refers to, rewriting those of which little is left.
//!
//! Deleting comes after the swing that made the last reference disappear, never before. A blob whose nodes do not all answer stays on the list (in the tree,
//! so across mounts) and is tried again after a later flush.

use std::collections::HashMap;
use std::sync::Arc;

use atoll_engine::BlobManifest;

use super::{Shared, lock};
use crate::tree::Body;
use crate::tree::change::{Change, Ino};
use crate::tree::extents::{BlobId, Extent, Place};

/// Bytes that one checkpoint rewrites at most: they go through memory.
const COMPACT_BYTES_MAX: u64 = 32 << 20;
/// Blobs below this are gathered into larger ones: each costs a manifest.
const SMALL_BYTES: u64 = 256 << 10;
/// But not fewer of them than this.
const SMALL_COUNT_MIN: usize = 8;

/// An extent to rewrite.
struct Move {
    ino: Ino,
    at: u64,
    len: u64,
    blob: BlobId,
    from: u64,
}

impl Shared {
    /// Deletes, in the background, dead blobs of the tree and segments that the head no longer names.
    pub(super) fn tidy(self: &Arc<Self>, doomed: Vec<BlobId>, superfluous: Vec<BlobManifest>) {
        if doomed.is_empty() && superfluous.is_empty() {
            return;
        }
        let shared = self.clone();
        tokio::spawn(async move {
            for blob in doomed {
                shared.bury(blob).await;
            }
            for manifest in superfluous {
                let left = shared.blobs.delete(&manifest).await;
                if left.is_ok_and(|left| left > 0) {
                    let mut tree = shared.tree();
                    let blob = tree.fresh_blob();
                    let _ = tree.note(vec![Change::Blob { blob, manifest, size: 0 }]);
                }
            }
        });
    }

    async fn bury(&self, blob: BlobId) {
        let Some(manifest) = self.tree().blobs.get(&blob).map(|it| it.manifest.clone()) else { return };
        if !self.blobs.delete(&manifest).await.is_ok_and(|left| left == 0) {
            return;
        }
        let mut tree = self.tree();
        // A heal may have given it new places in the meantime; then it is deleted once more after the next flush.
        if tree.blobs.get(&blob).is_some_and(|it| it.live == 0 && it.manifest == manifest) {
            let _ = tree.note(vec![Change::BlobGone { blob }]);
            lock(&self.degraded).remove(&blob);
        }
    }

    /// Takes what is left in sparse and small blobs back into memory, so that the flush that follows writes it together. Blobs that cannot be read now
    /// stay as they are.
    pub(super) async fn compact(&self) {
        let (chosen, moves) = self.sparse();
        for Move { ino, at, len, blob, from } in moves {
            let Some(manifest) = chosen.get(&blob) else { continue };
            let mut bytes = Vec::with_capacity(usize::try_from(len).unwrap_or(0));
            if self.fetch(blob, manifest, from, len, &mut bytes).await.is_err() {
                continue;
            }
            let mut tree = self.tree();
            let stored = Extent { len, place: Place::Stored { blob, from } };
            let same = tree.extents(ino).is_ok_and(|extents| extents.within(at, at + len) == [(at, stored)]);
            if same {
                let _ = tree.place(ino, at, Extent { len, place: Place::Memory(bytes.into()) });
            }
        }
    }

    fn sparse(&self) -> (HashMap<BlobId, BlobManifest>, Vec<Move>) {
        let tree = self.tree();
        let usable = || tree.blobs.iter().filter(|(_, blob)| !blob.pinned && blob.live > 0);
        let gather = usable().filter(|(_, blob)| blob.size < SMALL_BYTES).count() >= SMALL_COUNT_MIN;
        let mut budget = COMPACT_BYTES_MAX;
        let mut chosen = HashMap::new();
        for (&id, blob) in usable() {
            let sparse = blob.live < blob.size / 2 || (gather && blob.size < SMALL_BYTES);
            if sparse && blob.live <= budget {
                budget -= blob.live;
                chosen.insert(id, blob.manifest.clone());
            }
        }
        let mut moves = Vec::new();
        for (&ino, inode) in tree.inodes.iter().filter(|_| !chosen.is_empty()) {
            let Body::File(extents) = &inode.body else { continue };
            for (at, extent) in extents.iter() {
                match extent.place {
                    Place::Stored { blob, from } if chosen.contains_key(&blob) => {
                        moves.push(Move { ino, at, len: extent.len, blob, from });
                    }
                    _ => {}
                }
            }
        }
        (chosen, moves)
    }
}
