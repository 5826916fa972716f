//! [`Blobs`]: content without a name. Bytes in, a sealed manifest out; whoever keeps the manifest can read, heal and delete the content.
//!
//! What a view (a file system, a block device) needs of the store, and nothing of buckets, names or the key-value store: the manifest is
//! self-contained. It names every shard's node, so no placement map has to be found again, and it is sealed with AES-256-GCM-SIV under a key
//! derived from the volume's secret, bound to the owner; the content's own key is wrapped inside it under a second derived key. Whoever
//! keeps manifests learns their sizes and nothing else, and cannot make or change one.
//!
//! The secret is one 32-byte value, not an owner's key: a machine that was lent one volume gets that volume's secret and a storage grant, and
//! with them can read this volume and no other.
//!
//! **Degraded writes.** With [`BlobsConfig::least`] below k+m a stripe is stored when that many shards are durable and the nodes for the others
//! do not answer; the manifest says which are missing, and [`BlobHealer`](crate::BlobHealer) makes them up.
//!
//! **Failure.** A put that fails deletes what it had stored, as far as nodes answer. One that is cut off by the death of the process leaves its
//! shards behind: nobody knows of them. Whoever needs to bound that keeps single blobs small.

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;

use atoll_codec::{ObjectKey, Opener, Policy, RunSalt, STRIPE_BYTES, Sealer, Slot, StripeRecord, WrappedKey};
use atoll_ids::{NodeId, ObjectId, OwnerId, ShardId};
use atoll_placement::DomainLevel;
use atoll_wire::Versioned;
use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream;
use serde::{Deserialize, Serialize};
use tokio_util::task::AbortOnDropHandle;
use zeroize::Zeroizing;

use crate::chart::{Chart, seed};
use crate::config::EngineConfig;
use crate::error::{OpenError, PutError, ReadError};
use crate::feed::{Feed, Piece, Source};
use crate::homes::Homes;
use crate::inner::Inner;
use crate::pool::stripe_bytes;
use crate::put::stopped;
use crate::reserve::fresh_id;
use crate::scatter::{Quorum, Scattered, scatter_at_least};
use crate::store::Store;
use crate::vault::Vault;

pub(crate) mod heal;
pub(crate) mod read;

/// Stripes of one blob: its manifest is one value in memory, some 130 bytes per stripe at 4+2.
const STRIPES_MAX: usize = 4096;
/// Largest blob in bytes.
pub const BLOB_BYTES_MAX: u64 = (STRIPES_MAX * STRIPE_BYTES) as u64;
/// Largest sealed manifest that is opened, in bytes: one of [`BLOB_BYTES_MAX`] with 96 shards per stripe and a move of each stays below.
const MANIFEST_BYTES_MAX: usize = 16 << 20;
/// Purposes of the keys derived from a volume's secret; part of the stored format.
const MANIFEST_CONTEXT: &str = "atoll 2026-11 zstor blob manifests v1";
const KEK_CONTEXT: &str = "atoll 2026-11 zstor blob keys v1";
/// Deletions of one blob that are on their way at once.
const DELETIONS_AT_ONCE: usize = 64;
/// Stands for a shard that is nowhere.
const NOWHERE: u16 = u16::MAX;

/// How blobs are stored.
#[derive(Clone, Debug, PartialEq)]
pub struct BlobsConfig {
    /// Limits and delays.
    pub engine: EngineConfig,
    /// Shards per stripe.
    pub policy: Policy,
    /// What no two shards of a stripe may share.
    pub level: DomainLevel,
    /// How many shards of each stripe must be durable, k to k+m. Below k+m, content is stored while nodes are missing; with exactly k, the loss
    /// of one node before the heal loses it.
    pub least: usize,
}

impl BlobsConfig {
    /// All shards of every stripe must be durable, each on a node of its own.
    #[must_use]
    pub fn new(policy: Policy) -> Self {
        Self { engine: EngineConfig::default(), policy, level: DomainLevel::Node, least: policy.shards() }
    }
}

/// Where a blob is and how it is read: sealed, versioned, opaque to whoever keeps it.
#[derive(Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(from = "Vec<u8>", into = "Vec<u8>")]
pub struct BlobManifest(Bytes);

impl From<Vec<u8>> for BlobManifest {
    fn from(bytes: Vec<u8>) -> Self {
        Self(bytes.into())
    }
}

impl From<BlobManifest> for Vec<u8> {
    fn from(manifest: BlobManifest) -> Self {
        manifest.0.into()
    }
}

impl BlobManifest {
    /// A manifest that was kept somewhere. Whether it is genuine shows when it is used.
    #[must_use]
    pub fn from_bytes(bytes: Bytes) -> Self {
        Self(bytes)
    }

    /// What to keep.
    #[must_use]
    pub fn as_bytes(&self) -> &Bytes {
        &self.0
    }
}

impl fmt::Debug for BlobManifest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "BlobManifest({} bytes)", self.0.len())
    }
}

/// What a manifest says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlobInfo {
    /// Its id.
    pub id: ObjectId,
    /// Bytes of content.
    pub size: u64,
    /// Bytes of all shards that were stored.
    pub stored: u64,
    /// Stripes.
    pub stripes: u64,
    /// Shards that were never stored, because nodes for them were missing.
    pub absent: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct BlobRecord {
    id: ObjectId,
    key: WrappedKey,
    policy: Policy,
    level: DomainLevel,
    salt: RunSalt,
    size: u64,
    /// Bytes of one full set of shards.
    stored: u64,
    /// The nodes that stripes refer to.
    nodes: Vec<NodeId>,
    stripes: Vec<BlobStripe>,
}

impl Versioned for BlobRecord {
    const VERSION: u16 = 1;
    const NAME: &'static str = "blob manifest";
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct BlobStripe {
    record: StripeRecord,
    /// Per shard: its node's number in the table, or [`NOWHERE`].
    holders: Vec<u16>,
    /// Copies that may exist elsewhere: shard and node's number.
    strays: Vec<(u8, u16)>,
}

/// Stores content without a name for one volume. Cheap to clone.
#[derive(Clone)]
pub struct Blobs {
    inner: Arc<Inner>,
    config: Arc<BlobsConfig>,
    owner: OwnerId,
}

impl fmt::Debug for Blobs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Blobs").field("owner", &self.owner).field("config", &self.config).finish_non_exhaustive()
    }
}

impl Blobs {
    /// The blobs of the volume with this secret, kept by these homes for this owner.
    ///
    /// # Errors
    /// [`OpenError::Config`]
    pub fn new(
        config: BlobsConfig,
        owner: OwnerId,
        secret: &[u8; 32],
        homes: Arc<dyn Homes>,
    ) -> Result<Self, OpenError> {
        config.engine.check()?;
        let policy = config.policy;
        if !(policy.data()..=policy.shards()).contains(&config.least) {
            let (what, allowed) = ("least", "at least the data shards and at most all shards of the policy");
            return Err(OpenError::Config { what, allowed, found: format!("{} with {policy}", config.least) });
        }
        let derive = |context| Zeroizing::new(blake3::derive_key(context, secret));
        let store = Store::none(Vault::with_key(&derive(MANIFEST_CONTEXT)), owner);
        let inner = Arc::new(Inner::with_kek(config.engine.clone(), store, derive(KEK_CONTEXT), homes));
        Ok(Self { inner, config: Arc::new(config), owner })
    }

    /// How these are stored.
    #[must_use]
    pub fn config(&self) -> &BlobsConfig {
        &self.config
    }

    /// Stores content. Returns when it is durable on the nodes.
    ///
    /// # Errors
    /// [`PutError`]; then nothing is kept.
    pub async fn put(&self, source: Source) -> Result<BlobManifest, PutError> {
        let mut feed = Feed::new(source)?;
        let key = ObjectKey::generate();
        let id = fresh_id();
        let sealer = Arc::new(self.inner.codec(self.config.policy).sealer(&key));
        let mut record = BlobRecord {
            id,
            key: self.inner.wrap(&key, id),
            policy: self.config.policy,
            level: self.config.level,
            salt: sealer.salt(),
            size: 0,
            stored: 0,
            nodes: Vec::new(),
            stripes: Vec::new(),
        };
        let job = Arc::new(Job { blobs: self.clone(), id, sealer, chart: self.inner.current_chart() });
        match job.run(&mut feed, &mut record).await {
            Ok(()) => Ok(self.seal(&record)),
            Err(error) => {
                let blobs = self.clone();
                // Nobody waits for this: whoever stores tries again, or has given up.
                tokio::spawn(async move { blobs.delete_record(&record).await });
                Err(error)
            }
        }
    }

    /// What a manifest says.
    ///
    /// # Errors
    /// [`ReadError::Tampered`]
    pub fn info(&self, manifest: &BlobManifest) -> Result<BlobInfo, ReadError> {
        let record = self.open(manifest)?;
        let absent = record.stripes.iter().flat_map(|stripe| &stripe.holders).filter(|&&at| at == NOWHERE).count();
        let BlobRecord { id, size, stored, ref stripes, .. } = record;
        Ok(BlobInfo { id, size, stored, stripes: stripes.len() as u64, absent: absent as u64 })
    }

    /// Deletes a blob. How many shards are left on nodes that do not answer; call it again for them. It may be called for what is gone.
    ///
    /// # Errors
    /// [`ReadError::Tampered`]
    pub async fn delete(&self, manifest: &BlobManifest) -> Result<u64, ReadError> {
        let record = self.open(manifest)?;
        Ok(self.delete_record(&record).await)
    }

    async fn delete_record(&self, record: &BlobRecord) -> u64 {
        let Ok(opener) = self.opener(record) else { return 0 };
        let mut targets: Vec<(ShardId, NodeId)> = Vec::new();
        for stripe in &record.stripes {
            let held = stripe.holders.iter().enumerate().map(|(index, &at)| (index, at));
            let strays = stripe.strays.iter().map(|&(index, at)| (usize::from(index), at));
            for (index, at) in held.chain(strays) {
                if let Some(&node) = record.nodes.get(usize::from(at)) {
                    targets.push((opener.shard_id(stripe.record.counter(), index), node));
                }
            }
        }
        let work = stream::iter(targets).map(|(id, node)| async move { self.inner.delete_shard(id, node).await });
        let left = work.buffer_unordered(DELETIONS_AT_ONCE).filter(|gone| std::future::ready(!gone));
        left.count().await as u64
    }

    fn place(&self) -> Vec<u8> {
        [b"blob manifest ".as_slice(), self.owner.as_bytes()].concat()
    }

    fn seal(&self, record: &BlobRecord) -> BlobManifest {
        BlobManifest(self.inner.store.vault().seal(&self.place(), atoll_wire::encode(record)).into())
    }

    fn open(&self, manifest: &BlobManifest) -> Result<BlobRecord, ReadError> {
        let tampered = || ReadError::Tampered { what: "the manifest of a blob".to_owned() };
        if manifest.0.len() > MANIFEST_BYTES_MAX {
            return Err(tampered());
        }
        let plain = self.inner.store.vault().open(&self.place(), &manifest.0).map_err(|_| tampered())?;
        let record: BlobRecord = atoll_wire::decode(&plain).map_err(|error| ReadError::Meta(error.into()))?;
        let shards = record.policy.shards();
        let whole = record.size.div_ceil(STRIPE_BYTES as u64) == record.stripes.len() as u64
            && record.stripes.iter().all(|stripe| stripe.holders.len() == shards);
        if whole { Ok(record) } else { Err(tampered()) }
    }

    fn opener(&self, record: &BlobRecord) -> Result<Arc<Opener>, ReadError> {
        let key = self.inner.unwrap_key(&record.key, record.id)?;
        Ok(Arc::new(self.inner.codec(record.policy).opener(&key, record.salt)))
    }
}

/// A blob being stored.
struct Job {
    blobs: Blobs,
    id: ObjectId,
    sealer: Arc<Sealer>,
    chart: Arc<Chart>,
}

/// A stripe whose shards are durable.
struct Durable {
    record: StripeRecord,
    scattered: Scattered,
    plain: u64,
    shards: u64,
}

impl Job {
    /// Stores stripes in order, several at once.
    async fn run(self: &Arc<Self>, feed: &mut Feed, record: &mut BlobRecord) -> Result<(), PutError> {
        let mut flights: VecDeque<AbortOnDropHandle<Result<Durable, PutError>>> = VecDeque::new();
        let mut ended = false;
        let mut begun: u64 = 0;
        loop {
            while !ended && flights.len() < self.blobs.inner.config.stripes_in_flight {
                let Some(flight) = self.begin(feed, begun).await? else {
                    ended = true;
                    break;
                };
                flights.push_back(flight);
                begun += 1;
            }
            let Some(flight) = flights.pop_front() else { break };
            record.push(flight.await.map_err(stopped)??);
        }
        feed.verify_unchanged()
    }

    async fn begin(
        self: &Arc<Self>,
        feed: &mut Feed,
        stripe: u64,
    ) -> Result<Option<AbortOnDropHandle<Result<Durable, PutError>>>, PutError> {
        let inner = &self.blobs.inner;
        let len = feed.next_len_max();
        if len == 0 {
            return Ok(None);
        }
        let permit = inner.put_budget.take(stripe_bytes(self.blobs.config.policy, len)).await;
        let Some(piece) = feed.next(&inner.plain).await? else { return Ok(None) };
        if stripe >= STRIPES_MAX as u64 {
            return Err(PutError::TooLarge);
        }
        let slot = self.sealer.next().map_err(|_| PutError::TooLarge)?;
        let job = self.clone();
        let task = tokio::spawn(async move {
            let stored = job.store(stripe, slot, piece).await;
            drop(permit);
            stored
        });
        Ok(Some(AbortOnDropHandle::new(task)))
    }

    async fn store(&self, stripe: u64, slot: Slot, piece: Piece) -> Result<Durable, PutError> {
        let plain = piece.len() as u64;
        let (inner, sealer) = (self.blobs.inner.clone(), self.sealer.clone());
        let work = move || piece.with(&inner.plain, |bytes| sealer.seal(slot, bytes));
        let sealed = self.blobs.inner.compute(work).await.map_err(stopped)??.map_err(stopped)?;
        let BlobsConfig { policy, level, least, .. } = *self.blobs.config;
        let (seed, quorum) = (seed(self.id, stripe), Quorum { policy, least });
        let scattered = scatter_at_least(&self.blobs.inner, &self.chart, level, &seed, quorum, &sealed).await?;
        let shards = sealed.shards.iter().map(|shard| shard.len() as u64).sum();
        Ok(Durable { record: sealed.record, scattered, plain, shards })
    }
}

impl BlobRecord {
    fn push(&mut self, stripe: Durable) {
        let Durable { record, scattered, plain, shards } = stripe;
        let holders = scattered.holders.iter().map(|node| node.map_or(NOWHERE, |node| self.number(node))).collect();
        let strays = scattered.strays.iter().map(|stray| (stray.index, self.number(stray.node))).collect();
        self.size += plain;
        self.stored += shards;
        self.stripes.push(BlobStripe { record, holders, strays });
    }

    /// The node's number in the table; it is added if it is new.
    fn number(&mut self, node: NodeId) -> u16 {
        let known = self.nodes.iter().position(|known| *known == node);
        let at = known.unwrap_or_else(|| {
            self.nodes.push(node);
            self.nodes.len() - 1
        });
        u16::try_from(at).ok().filter(|&at| at != NOWHERE).expect("a map has fewer candidates than that")
    }

    /// Per shard, its node; `None` where it is nowhere or the table does not have it.
    fn holders(&self, stripe: &BlobStripe) -> Vec<Option<NodeId>> {
        stripe.holders.iter().map(|&at| self.nodes.get(usize::from(at)).copied()).collect()
    }
}

#[cfg(test)]
mod tests;
