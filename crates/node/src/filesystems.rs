//! The owner's file systems on this node: made, listed, mounted, removed.
//!
//! What one is ([`VolumeDescriptor`]), its head and where it is to be mounted lie in the key-value store; everything else is in zstor. A mount is a wish: the
//! node mounts again what it had mounted when it starts, and takes the dead mount that its killed predecessor left away first.

mod error;
mod record;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::Duration;

use atoll_control::{FsMounted, FsStatus};
use atoll_engine::Homes as _;
use atoll_fs::{
    FuseOptions, HealReport, KvHeadStore, Mounted, Policy, Volume, VolumeConfig, VolumeDescriptor, VolumeError,
    VolumeName, VolumeOptions, VolumeSecret, VolumeStatus,
};
use atoll_ids::ByteCount;
use atoll_keys::OwnerKey;
use atoll_kv::KeyValue;
use futures_util::future::join_all;
use tokio::sync::Mutex;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

pub(crate) use error::FsError;
use record::Records;

use crate::peer_table::PeerTable;

/// How often it is looked whether what is to be mounted is.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// What was written last gets this long to be stored when the node stops. It has ten seconds for everything.
const END_WITHIN: Duration = Duration::from_secs(6);

/// See the module's documentation. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Filesystems {
    inner: Arc<Inner>,
}

struct Inner {
    owner: Arc<OwnerKey>,
    records: Records,
    kv: Arc<dyn KeyValue>,
    peers: PeerTable,
    options: VolumeOptions,
    slots: std::sync::Mutex<BTreeMap<VolumeName, Arc<Mutex<Slot>>>>,
}

/// One file system on this node. Whoever does something with it holds it.
#[derive(Default)]
struct Slot {
    mounted: Option<Mounted>,
    problem: Option<String>,
}

/// How a mounted volume is doing, as the control API says it.
pub(crate) fn mounted(live: VolumeStatus) -> FsMounted {
    FsMounted {
        inodes: live.inodes,
        used: ByteCount(live.used_bytes),
        dirty: ByteCount(live.dirty_bytes),
        stored: live.clean,
        degraded: live.degraded_blobs,
        rebuilt: live.rebuilt_shards,
        beyond_repair: live.lost_stripes,
        failing: live.failing,
    }
}

impl Filesystems {
    /// File systems of `owner`, described in `kv`, on the homes that `peers` are.
    pub(crate) fn new(owner: Arc<OwnerKey>, kv: Arc<dyn KeyValue>, peers: PeerTable, options: VolumeOptions) -> Self {
        let (records, slots) = (Records::new(kv.clone()), std::sync::Mutex::default());
        Self { inner: Arc::new(Inner { owner, records, kv, peers, options, slots }) }
    }

    fn slots(&self) -> MutexGuard<'_, BTreeMap<VolumeName, Arc<Mutex<Slot>>>> {
        self.inner.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn slot(&self, name: &VolumeName) -> Arc<Mutex<Slot>> {
        self.slots().entry(name.clone()).or_default().clone()
    }

    fn heads(&self, name: &VolumeName) -> Arc<KvHeadStore> {
        Arc::new(KvHeadStore::new(self.inner.kv.clone(), name))
    }

    async fn described(&self, name: &VolumeName) -> Result<(VolumeConfig, VolumeSecret), FsError> {
        let found = self.inner.records.descriptor(name).await?;
        let found = found.ok_or_else(|| FsError::NotFound(name.clone()))?;
        let secret = found.open(&self.inner.owner)?;
        Ok((found.config, secret))
    }

    /// Makes one.
    pub(crate) async fn create(
        &self,
        name: VolumeName,
        policy: Policy,
        capacity: Option<ByteCount>,
    ) -> Result<FsStatus, FsError> {
        self.inner.peers.settled().await;
        let homes = self.inner.peers.list().iter().filter(|home| home.weight > 0).count();
        if policy.shards() > homes {
            return Err(FsError::TooFewNodes { policy, homes });
        }
        let slot = self.slot(&name);
        let _slot = slot.lock().await;
        let mut config = VolumeConfig::new(name.clone(), self.inner.owner.id(), policy);
        config.capacity_bytes = capacity.map_or(0, |capacity| capacity.0);
        let heads = self.heads(&name);
        // One that was begun and has no head yet is begun anew.
        if self.inner.records.descriptor(&name).await?.is_some() {
            let (config, secret) = self.described(&name).await?;
            match Volume::peek(&config, &secret, &*heads).await {
                Err(VolumeError::NotFound { .. }) => {}
                _ => return Err(FsError::Exists(name)),
            }
        }
        let secret = VolumeSecret::generate();
        self.inner.records.describe(&name, &VolumeDescriptor::new(config.clone(), &secret, &self.inner.owner)).await?;
        Volume::format(&config, &secret, &*heads).await?;
        drop(_slot);
        self.status(&name).await
    }

    /// Removes one that is not mounted, with everything in it. How many shards are left on nodes that do not answer.
    pub(crate) async fn remove(&self, name: &VolumeName) -> Result<u64, FsError> {
        let slot = self.slot(name);
        let slot = slot.lock().await;
        if let Some(at) = self.inner.records.mount(name).await? {
            return Err(FsError::Mounted { name: name.clone(), at });
        }
        let (config, secret) = self.described(name).await?;
        self.inner.peers.settled().await;
        let homes = Arc::new(self.inner.peers.clone());
        let destroyed = Volume::destroy(config, &secret, homes, self.heads(name), self.inner.options.clone()).await;
        let left = match destroyed {
            Ok(left) => left,
            // An earlier try was broken off after the head was gone.
            Err(VolumeError::NotFound { .. }) => 0,
            Err(error) => return Err(error.into()),
        };
        self.inner.records.forget(name).await?;
        drop(slot);
        self.slots().remove(name);
        Ok(left)
    }

    /// Mounts one on a directory, now and whenever the node starts.
    pub(crate) async fn mount(&self, name: &VolumeName, at: &Path) -> Result<FsStatus, FsError> {
        let slot = self.slot(name);
        let mut held = slot.lock().await;
        let (config, secret) = self.described(name).await?;
        if let Some(mounted) = &held.mounted {
            if mounted.path() != at {
                return Err(FsError::Mounted { name: name.clone(), at: mounted.path().to_owned() });
            }
        } else {
            let before = self.inner.records.mount(name).await?;
            self.inner.records.wish(name, at).await?;
            match self.attach(config, &secret, at).await {
                Ok(mounted) => *held = Slot { mounted: Some(mounted), problem: None },
                Err(error) => {
                    if before.is_none() {
                        self.inner.records.unwish(name).await?;
                    }
                    return Err(error);
                }
            }
        }
        drop(held);
        self.status(name).await
    }

    async fn attach(&self, config: VolumeConfig, secret: &VolumeSecret, at: &Path) -> Result<Mounted, FsError> {
        self.inner.peers.settled().await;
        let (name, homes) = (config.name.clone(), Arc::new(self.inner.peers.clone()));
        let volume = Volume::open(config, secret, homes, self.heads(&name), self.inner.options.clone()).await?;
        // Only root may let others in without a word in /etc/fuse.conf.
        let options = FuseOptions { allow_other: rustix::process::geteuid().is_root(), ..FuseOptions::default() };
        match Mounted::mount(volume.clone(), at, options).await {
            Ok(mounted) => {
                tracing::info!(%name, at = %at.display(), "a file system is mounted");
                Ok(mounted)
            }
            Err(error) => {
                // Nothing was written; how the closing goes says nothing.
                let _: Result<(), _> = volume.close().await;
                Err(error.into())
            }
        }
    }

    /// Stores what was written and unmounts.
    pub(crate) async fn unmount(&self, name: &VolumeName) -> Result<(), FsError> {
        let slot = self.slot(name);
        let mut slot = slot.lock().await;
        if self.inner.records.mount(name).await?.is_none() {
            self.described(name).await?;
            return Err(FsError::NotMounted(name.clone()));
        }
        let mounted = std::mem::take(&mut *slot).mounted;
        let done = match mounted {
            Some(mounted) => mounted.unmount().await,
            None => Ok(()),
        };
        self.inner.records.unwish(name).await?;
        done.map_err(|error| FsError::Unstored { name: name.clone(), error })
    }

    /// All of them, by name.
    pub(crate) async fn list(&self) -> Result<Vec<FsStatus>, FsError> {
        let mut all = Vec::new();
        for name in self.inner.records.names().await? {
            all.push(self.status(&name).await?);
        }
        Ok(all)
    }

    /// How one is doing.
    pub(crate) async fn status(&self, name: &VolumeName) -> Result<FsStatus, FsError> {
        let (config, secret) = self.described(name).await?;
        let path = self.inner.records.mount(name).await?;
        let slot = self.slot(name);
        // Whoever holds it for long is mounting, unmounting or healing it.
        let (live, problem) = match slot.try_lock() {
            Ok(slot) => (slot.mounted.as_ref().map(Mounted::status), slot.problem.clone()),
            Err(_) => (None, Some("something is being done with it right now".to_owned())),
        };
        let (epoch, sequence) = match &live {
            Some(live) => (live.epoch, live.sequence),
            None => Volume::peek(&config, &secret, &*self.heads(name)).await?,
        };
        let problem = live.as_ref().and_then(|live| live.fenced.then(|| "it was taken over".to_owned())).or(problem);
        Ok(FsStatus {
            name: name.to_string(),
            policy: config.policy.to_string(),
            least: config.least,
            capacity: (config.capacity_bytes > 0).then_some(ByteCount(config.capacity_bytes)),
            epoch,
            sequence,
            problem: problem.filter(|_| path.is_some()),
            path,
            mounted: live.map(mounted),
        })
    }

    /// Keeps mounted what is to be mounted, until told to stop; then stores what was written and unmounts. The wishes stay.
    pub(crate) async fn run(self, stop: CancellationToken) {
        loop {
            if stop.run_until_cancelled(self.remount()).await.is_none() {
                break;
            }
            if stop.run_until_cancelled(tokio::time::sleep(LOOK_EVERY)).await.is_none() {
                break;
            }
        }
        let slots: Vec<Arc<Mutex<Slot>>> = self.slots().values().cloned().collect();
        let ends = slots.iter().map(|slot| async {
            let Some(mounted) = slot.lock().await.mounted.take() else { return };
            let at = mounted.path().to_owned();
            match timeout(END_WITHIN, mounted.unmount()).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => tracing::warn!(at = %at.display(), %error, "what was written last is not stored"),
                Err(_) => tracing::warn!(at = %at.display(), "what was written last could not be stored in time"),
            }
        });
        if timeout(END_WITHIN, join_all(ends)).await.is_err() {
            tracing::warn!("file systems could not all be unmounted in time");
        }
    }

    async fn remount(&self) {
        match self.inner.records.mounts().await {
            Ok(wishes) => drop(join_all(wishes.iter().map(|(name, at)| self.remount_one(name, at))).await),
            Err(error) => tracing::warn!(%error, "what is to be mounted cannot be read"),
        }
    }

    async fn remount_one(&self, name: &VolumeName, at: &Path) {
        let slot = self.slot(name);
        let mut slot = slot.lock().await;
        if let Some(mounted) = slot.mounted.take() {
            if mounted.is_in_place().await {
                slot.mounted = Some(mounted);
                return;
            }
            // Whoever detached it by other means wants it gone.
            tracing::warn!(%name, at = %at.display(), "a file system was unmounted by other means");
            if let Err(error) = mounted.unmount().await {
                tracing::warn!(%name, %error, "what was written last is not stored");
            }
            if let Err(error) = self.inner.records.unwish(name).await {
                tracing::warn!(%name, %error, "that it is not mounted any more cannot be noted");
            }
            return;
        }
        // It may have been unmounted since the list was read.
        if !matches!(self.inner.records.mount(name).await, Ok(Some(wish)) if wish == at) {
            return;
        }
        let tried = match self.described(name).await {
            Ok((config, secret)) => self.attach(config, &secret, at).await,
            Err(error) => Err(error),
        };
        match tried {
            Ok(mounted) => *slot = Slot { mounted: Some(mounted), problem: None },
            Err(error) => {
                let problem = error.to_string();
                if slot.problem.as_ref() != Some(&problem) {
                    tracing::warn!(%name, at = %at.display(), problem, "a file system cannot be mounted yet");
                }
                slot.problem = Some(problem);
            }
        }
    }

    /// Heals those that are not mounted: mounted ones do so by themselves. What was found, and how many there are.
    pub(crate) async fn heal_idle(&self) -> Result<(HealReport, usize), FsError> {
        let mut sum = HealReport::default();
        let names = self.inner.records.names().await?;
        for name in &names {
            let slot = self.slot(name);
            let held = slot.lock().await;
            if held.mounted.is_some() || self.inner.records.mount(name).await?.is_some() {
                continue;
            }
            let (config, secret) = self.described(name).await?;
            let homes = Arc::new(self.inner.peers.clone());
            let volume = Volume::open(config, &secret, homes, self.heads(name), self.inner.options.clone()).await?;
            let healed = volume.heal(|_| {}).await;
            let closed = volume.close().await;
            let report = healed.and_then(|report| closed.map(|()| report));
            sum.absorb(&report.map_err(|error| FsError::Unstored { name: name.clone(), error })?);
            drop(held);
        }
        Ok((sum, names.len()))
    }

    /// The path as the records keep it: absolute, without links.
    pub(crate) fn place(path: &Path) -> std::io::Result<PathBuf> {
        path.canonicalize()
    }
}
