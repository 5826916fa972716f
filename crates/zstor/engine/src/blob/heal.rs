//! Making up for shards of blobs that are lost, rotten, on nodes that do not answer, or were never stored.
//!
//! A [`BlobHealer`] asks all nodes once what they have and then looks at any number of manifests. A missing shard is made from *k* others and stored on its
//! node if that is back, else on the next in the ranking over the nodes that are there now, in a failure domain that the stripe does not
//! use yet. Who keeps the manifest must replace it by the one that comes back; until then the old one still reads. Healing twice does no harm: a
//! heal whose manifest got lost is done the same way again.

use std::collections::BTreeSet;
use std::sync::Arc;

use atoll_codec::Opener;
use atoll_ids::NodeId;
use bytes::Bytes;
use tokio::time::timeout;

use super::{BlobManifest, BlobRecord, BlobStripe, Blobs, NOWHERE};
use crate::chart::{Chart, seed};
use crate::error::{NodeFault, ReadError};
use crate::gather::{self, Wanted};
use crate::heal::inventory::{Finding, Inventory};
use crate::heal::is_spared;
use crate::health::Operation;
use crate::inner::{now, reason};
use crate::pool::stripe_bytes;

/// What became of one blob.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HealedBlob {
    /// The manifest to keep from now on, if it changed.
    pub manifest: Option<BlobManifest>,
    /// Shards that were not where they should be.
    pub missing: u64,
    /// Shards whose checksum was wrong.
    pub rotten: u64,
    /// Shards made again and stored.
    pub rebuilt: u64,
    /// Their bytes.
    pub rebuilt_bytes: u64,
    /// Shards on nodes that are waited for ([`BlobHealer::sparing`]).
    pub waiting: u64,
    /// Shards that could be made again but no node could take: more nodes are needed.
    pub unplaced: u64,
    /// Stripes with too few shards left. They may come back with the nodes that are away.
    pub lost: u64,
}

/// Looks at blobs and rebuilds what is missing of them.
pub struct BlobHealer {
    blobs: Blobs,
    inventory: Inventory,
    chart: Arc<Chart>,
    spared: BTreeSet<NodeId>,
}

/// A stripe under treatment.
struct Patient<'a> {
    stripe: u64,
    record: &'a mut BlobRecord,
    opener: Arc<Opener>,
}

impl Blobs {
    /// Asks the nodes what they have, to heal blobs by it.
    pub async fn healer(&self) -> BlobHealer {
        let inventory = Inventory::take(&self.inner).await;
        BlobHealer { blobs: self.clone(), inventory, chart: self.inner.current_chart(), spared: BTreeSet::new() }
    }
}

impl BlobHealer {
    /// The nodes that did not answer.
    #[must_use]
    pub fn away(&self) -> Vec<NodeFault> {
        self.inventory.away()
    }

    /// Waits for these nodes: while they are away, their shards are left where they are, as long as the stripe has one to spare.
    #[must_use]
    pub fn sparing(mut self, nodes: BTreeSet<NodeId>) -> Self {
        self.spared = nodes;
        self
    }

    /// Heals one blob. With `deep`, nodes read every shard and compare it with their checksum.
    ///
    /// # Errors
    /// [`ReadError::Tampered`] if the manifest or the stripes are forged.
    pub async fn heal(&self, manifest: &BlobManifest, deep: bool) -> Result<HealedBlob, ReadError> {
        let mut record = self.blobs.open(manifest)?;
        let before = record.clone();
        let opener = self.blobs.opener(&record)?;
        let mut outcome = HealedBlob::default();
        for stripe in 0..record.stripes.len() as u64 {
            let mut patient = Patient { stripe, record: &mut record, opener: opener.clone() };
            self.stripe(&mut patient, deep, &mut outcome).await?;
        }
        if record != before {
            outcome.manifest = Some(self.blobs.seal(&record));
        }
        Ok(outcome)
    }

    async fn stripe(&self, patient: &mut Patient<'_>, deep: bool, outcome: &mut HealedBlob) -> Result<(), ReadError> {
        self.clear_strays(patient).await;
        let (wanted, absent) = patient.record.wanted(patient.stripe, patient.entry(), &patient.opener);
        let mut findings = Vec::with_capacity(wanted.holders.len());
        for (index, &node) in wanted.holders.iter().enumerate() {
            let id = patient.opener.shard_id(wanted.entry.record.counter(), index);
            findings.push(if absent.contains(&index) {
                Finding::Missing
            } else {
                self.inventory.find(&self.blobs.inner, node, id, deep).await
            });
        }
        let mut lost: Vec<usize> = (0..findings.len()).filter(|&index| findings[index] != Finding::Present).collect();
        let rotten = findings.iter().filter(|finding| **finding == Finding::Rotten).count() as u64;
        outcome.rotten += rotten;
        outcome.missing += lost.len() as u64 - rotten;
        let policy = patient.record.policy;
        if lost.is_empty() {
            return Ok(());
        }
        if findings.len() - lost.len() < policy.data() {
            outcome.lost += 1;
            return Ok(());
        }
        if findings.len() - lost.len() > policy.data() {
            let all = lost.len();
            lost.retain(|&index| !is_spared(&self.spared, &findings[index], wanted.holders[index]));
            outcome.waiting += (all - lost.len()) as u64;
        }
        if lost.is_empty() {
            return Ok(());
        }
        let plain = wanted.entry.record.plain_len() as usize;
        let _room = self.blobs.inner.get_budget.take(stripe_bytes(policy, plain)).await;
        let rebuilt = match gather::rebuild(&self.blobs.inner, &wanted, lost.clone()).await {
            Ok(rebuilt) => rebuilt,
            Err(ReadError::TooFewShards { .. }) => {
                outcome.lost += 1;
                return Ok(());
            }
            Err(error) => return Err(error),
        };
        for (&index, shard) in lost.iter().zip(rebuilt) {
            match self.place(patient, &wanted, index, &findings[index], &shard).await {
                Some(node) => {
                    outcome.rebuilt += 1;
                    outcome.rebuilt_bytes += shard.len() as u64;
                    patient.relocate(index, node);
                }
                None => outcome.unplaced += 1,
            }
        }
        Ok(())
    }

    /// Stores a rebuilt shard on the first node that may have it and takes it.
    async fn place(
        &self,
        patient: &Patient<'_>,
        wanted: &Wanted,
        index: usize,
        finding: &Finding,
        shard: &Bytes,
    ) -> Option<NodeId> {
        let inner = &self.blobs.inner;
        let id = wanted.opener.shard_id(wanted.entry.record.counter(), index);
        for node in self.targets(patient, index, finding) {
            let Some(home) = inner.home(node) else { continue };
            // A node does not overwrite what it has under an id, so a rotten copy goes first.
            let rotten_here = *finding == Finding::Rotten && wanted.holders[index] == node;
            if rotten_here && !inner.delete_shard(id, node).await {
                continue;
            }
            match timeout(inner.config.patience, home.put(id, shard.clone())).await {
                Ok(Ok(_)) => return Some(node),
                Ok(Err(error)) => {
                    tracing::debug!(target: "atoll::engine", node = %node.short(), why = reason(&error), "rebuilt shard not taken");
                    inner.note(node, Operation::Put, now(), &Err::<(), _>(error));
                }
                Err(_) => inner.tracker().no_answer(node, now()),
            }
        }
        None
    }

    /// Where a shard may go, best first.
    fn targets(&self, patient: &Patient<'_>, index: usize, finding: &Finding) -> Vec<NodeId> {
        let level = patient.record.level;
        let holders = patient.record.holders(patient.entry());
        let own = holders[index].filter(|_| !matches!(finding, Finding::Away(_)));
        let others: Vec<NodeId> =
            holders.iter().enumerate().filter(|(at, _)| *at != index).filter_map(|(_, node)| *node).collect();
        let free = |node: &NodeId| !others.iter().any(|&other| self.chart.together(other, *node, level));
        let tracker = self.blobs.inner.tracker();
        let willing = |node: &NodeId| self.inventory.answers(*node) && !tracker.is_unwilling(*node, now());
        let seed = seed(patient.record.id, patient.stripe);
        let ranked = self.chart.ranked(&seed, level).into_iter().filter(|node| Some(*node) != own);
        own.into_iter().chain(ranked).filter(|node| willing(node)).filter(free).collect()
    }

    /// Deletes superfluous copies on nodes that are there.
    async fn clear_strays(&self, patient: &mut Patient<'_>) {
        let counter = patient.entry().record.counter();
        let mut left = Vec::new();
        for (index, at) in patient.entry().strays.clone() {
            let node = patient.record.nodes.get(usize::from(at)).copied();
            let legitimate = patient.entry().holders.get(usize::from(index)) == Some(&at);
            let id = patient.opener.shard_id(counter, usize::from(index));
            let gone = match node {
                Some(node) if !legitimate => self.blobs.inner.delete_shard(id, node).await,
                _ => true,
            };
            if !gone {
                left.push((index, at));
            }
        }
        patient.entry_mut().strays = left;
    }
}

impl Patient<'_> {
    fn at(&self) -> usize {
        usize::try_from(self.stripe).expect("it is an index into the list of stripes")
    }

    fn entry(&self) -> &BlobStripe {
        &self.record.stripes[self.at()]
    }

    fn entry_mut(&mut self) -> &mut BlobStripe {
        let at = self.at();
        &mut self.record.stripes[at]
    }

    /// Enters the new place of a shard; what its old node may still have is to be deleted.
    fn relocate(&mut self, index: usize, to: NodeId) {
        let number = self.record.number(to);
        let short = u8::try_from(index).expect("a stripe has at most 96 shards");
        let entry = self.entry_mut();
        let from = std::mem::replace(&mut entry.holders[index], number);
        entry.strays.retain(|stray| *stray != (short, number));
        if from != number && from != NOWHERE && !entry.strays.contains(&(short, from)) {
            entry.strays.push((short, from));
        }
    }
}
