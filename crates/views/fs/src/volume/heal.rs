//! Healing a volume: every blob it refers to, its journal and its checkpoint.
//!
//! New places of a blob are recorded in the journal like any other change; those of segments are recorded in the head. A heal may be stopped at any moment; the
//! next one does what is left.

use std::collections::BTreeSet;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use atoll_engine::{BlobHealer, BlobManifest, Call, HealedBlob, Vigil};
use atoll_ids::NodeId;
use tokio::time::sleep;

use super::{Shared, lock};
use crate::errno::Errno;
use crate::tree::change::Change;
use crate::tree::extents::BlobId;

/// How far a heal is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HealProgress {
    /// Blobs looked at.
    pub blobs: u64,
    /// Blobs there are.
    pub total: u64,
    /// Shards rebuilt.
    pub rebuilt: u64,
}

/// What a heal found and did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HealReport {
    /// Blobs looked at, segments of the journal included.
    pub blobs: u64,
    /// Shards that were not where they should be.
    pub missing: u64,
    /// Shards made again and stored.
    pub rebuilt: u64,
    /// Shards on nodes that are waited for.
    pub waiting: u64,
    /// Shards that no node could take: more nodes are needed.
    pub unplaced: u64,
    /// Stripes with too few shards left. They may come back with the nodes that are away.
    pub lost: u64,
    /// Blobs whose manifest or shards are forged.
    pub tampered: u64,
}

impl HealReport {
    /// Whether every shard is where it should be now.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        self.unplaced == 0 && self.lost == 0 && self.tampered == 0
    }

    /// Adds what was found of another volume.
    pub fn absorb(&mut self, other: &Self) {
        self.blobs += other.blobs;
        self.missing += other.missing;
        self.rebuilt += other.rebuilt;
        self.waiting += other.waiting;
        self.unplaced += other.unplaced;
        self.lost += other.lost;
        self.tampered += other.tampered;
    }

    fn add(&mut self, blob: &HealedBlob) {
        self.missing += blob.missing + blob.rotten;
        self.rebuilt += blob.rebuilt;
        self.waiting += blob.waiting;
        self.unplaced += blob.unplaced;
        self.lost += blob.lost;
    }
}

/// Heals when homes have been away for long, or when something was stored with shards missing.
pub(super) async fn run(shared: Weak<Shared>, every: Duration) {
    let mut vigil: Option<Vigil> = None;
    loop {
        sleep(every).await;
        let Some(now) = shared.upgrade() else { return };
        if now.writable().is_err() {
            return;
        }
        let vigil = vigil.get_or_insert_with(|| Vigil::new(now.options.heal_after, Instant::now()));
        let (called, degraded) = (Instant::now(), now.has_degraded().await);
        let Call::Heal { spared } = vigil.look(called, &now.homes.list(), degraded) else { continue };
        let healed = now.heal(&|_| {}, spared).await;
        let whole = healed.as_ref().is_ok_and(HealReport::is_whole);
        vigil.healed(called, Instant::now(), whole);
        match healed {
            Ok(report) if whole => tracing::debug!(target: "atoll::fs", volume = %now.config.name, ?report, "healed"),
            Ok(report) => {
                tracing::warn!(target: "atoll::fs", volume = %now.config.name, ?report, "healed in part; it is tried again");
            }
            Err(error) => tracing::warn!(target: "atoll::fs", volume = %now.config.name, %error, "heal failed"),
        }
    }
}

impl Shared {
    async fn has_degraded(&self) -> bool {
        let blobs = !lock(&self.degraded).is_empty();
        blobs || self.log.lock().await.head.segments().any(|segment| self.is_degraded(&segment.manifest))
    }

    pub(super) async fn heal(
        self: &Arc<Self>,
        progress: &(impl Fn(HealProgress) + Send + Sync),
        spared: BTreeSet<NodeId>,
    ) -> Result<HealReport, Errno> {
        self.writable()?;
        // One that a person asked for and one by itself would rebuild the same shards in the same places.
        let _one_at_a_time = self.healing.lock().await;
        let healer = self.blobs.healer().await.sparing(spared);
        let blobs: Vec<(BlobId, BlobManifest)> = {
            let tree = self.tree();
            let plain = tree.blobs.iter().filter(|(_, blob)| !blob.pinned && blob.live > 0);
            plain.map(|(&id, blob)| (id, blob.manifest.clone())).collect()
        };
        let mut report = HealReport::default();
        let total = blobs.len() as u64;
        for (id, manifest) in blobs {
            let bytes = self.heal_blob(&healer, id, &manifest, &mut report).await;
            if let Some(pace) = &self.options.pace {
                pace.spend(bytes).await;
            }
            progress(HealProgress { blobs: report.blobs, total, rebuilt: report.rebuilt });
        }
        self.heal_segments(&healer, &mut report).await;
        {
            let mut status = lock(&self.status);
            status.heals += 1;
            status.rebuilt_shards += report.rebuilt;
            status.lost_stripes = report.lost;
        }
        self.sync().await?;
        Ok(report)
    }

    /// Heals one blob. How many bytes were rebuilt.
    async fn heal_blob(
        &self,
        healer: &BlobHealer,
        id: BlobId,
        manifest: &BlobManifest,
        report: &mut HealReport,
    ) -> u64 {
        report.blobs += 1;
        let Ok(healed) = healer.heal(manifest, false).await else {
            report.tampered += 1;
            return 0;
        };
        report.add(&healed);
        let whole = healed.unplaced + healed.lost == 0;
        let Some(new) = healed.manifest else { return healed.rebuilt_bytes };
        let deleted = {
            let mut tree = self.tree();
            let size = tree.blobs.get(&id).map(|blob| blob.size);
            match size {
                Some(size) => {
                    let _ = tree.commit(vec![Change::Blob { blob: id, manifest: new.clone(), size }]);
                    if whole {
                        lock(&self.degraded).remove(&id);
                    }
                    false
                }
                None => true,
            }
        };
        if deleted {
            // It went while it was being healed; nobody refers to what was rebuilt.
            let _ = self.blobs.delete(&new).await;
        }
        healed.rebuilt_bytes
    }

    /// Heals what the head names, with the journal held still.
    async fn heal_segments(&self, healer: &BlobHealer, report: &mut HealReport) {
        let mut log = self.log.lock().await;
        if log.is_unsettled() {
            // Its manifests are in an attempt whose outcome is not known; the next heal comes to them.
            report.unplaced += 1;
            return;
        }
        let mut moved = false;
        for segment in log.head.segments_mut() {
            report.blobs += 1;
            let Ok(healed) = healer.heal(&segment.manifest, false).await else {
                report.tampered += 1;
                continue;
            };
            report.add(&healed);
            let whole = healed.unplaced + healed.lost == 0;
            let Some(new) = healed.manifest else { continue };
            let mut tree = self.tree();
            if let Some((&id, blob)) = tree.blobs.iter_mut().find(|(_, blob)| blob.manifest == segment.manifest) {
                blob.manifest = new.clone();
                if whole {
                    lock(&self.degraded).remove(&id);
                }
            }
            segment.manifest = new;
            moved = true;
        }
        log.healed |= moved;
    }
}
