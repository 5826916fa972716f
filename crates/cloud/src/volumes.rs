//! Volumes of an eVDC: file systems on zstor whose secret and head are kept as a Secret of the Kubernetes API.
//!
//! One Secret per volume, in `kube-system`, for nodes with a pod that has the volume (its PersistentVolume names it): `config` (JSON), `secret` (32 bytes), `head` (sealed by the secret). The head is swung by an
//! update that names the Secret's `resourceVersion`, which the API server takes only if nobody else was faster: that is the fence
//! ([`HeadStore`]). It works the same on any Kubernetes.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use std::sync::{Arc, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use atoll_agent::{Attached, Problem, VolumeDriver, VolumeRequest};
use atoll_controllers::{ProvisionError, Provisioner, VolumeRequest as Claim};
use atoll_engine::Homes;
use atoll_fs::{
    FuseOptions, HeadError, HeadStore, Mounted, Pace, Policy, StoredHead, Volume, VolumeConfig, VolumeError,
    VolumeName, VolumeOptions, VolumeSecret, VolumeStatus, clear_stale,
};
use atoll_ids::{NodeId, OwnerId};
use atoll_link::LinkHandle;
use atoll_shard::ShardHome;
use bytes::Bytes;
use futures_util::FutureExt as _;
use futures_util::future::{BoxFuture, join_all};
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use kube::api::{DeleteParams, ObjectMeta, PostParams};
use kube::{Api, Client};
use tokio::sync::Mutex;
use tokio::time::timeout;

use crate::assignment::Assigned;
use crate::homes::TenantHomes;

/// Where the Secrets of volumes lie.
const NAMESPACE: &str = "kube-system";

/// What their names begin with.
const PREFIX: &str = "atoll-volume-";

/// The StorageClass parameter that names a policy.
const POLICY_PARAMETER: &str = "policy";

/// A shard whose node is gone for this long is made again elsewhere. Shorter than for a person's own volumes: a tenant's nodes are strangers'.
const HEAL_AFTER: Duration = Duration::from_secs(30);

/// Bytes of shards that a volume makes again per second, at most: what it does meanwhile goes first.
const HEAL_RATE: u64 = 32 << 20;

/// How often volumes look whether there is something to heal.
const HEAL_EVERY: Duration = Duration::from_secs(10);

/// What was written last gets this long to be stored when a member ends. A node that is told to stop has ten seconds for everything.
const END_WITHIN: Duration = Duration::from_secs(5);

const CONFIG: &str = "config";
const SECRET: &str = "secret";
const HEAD: &str = "head";

fn options() -> VolumeOptions {
    let pace = Some(Arc::new(Pace::new(HEAL_RATE)));
    VolumeOptions { heal_after: HEAL_AFTER, heal_every: HEAL_EVERY, pace, ..VolumeOptions::default() }
}

/// Keeps the head of one volume in its Secret.
struct SecretHeads {
    api: Api<Secret>,
    name: String,
}

/// A node whose last pod with the volume has been deleted may not touch it any more: that is a fence like another writer.
fn unavailable(error: &kube::Error) -> HeadError {
    if is_status(error, 403) {
        return HeadError::Moved;
    }
    HeadError::Unavailable { why: error.to_string() }
}

fn is_status(error: &kube::Error, code: u16) -> bool {
    matches!(error, kube::Error::Api(status) if status.code == code)
}

impl SecretHeads {
    async fn get(&self) -> Result<Secret, HeadError> {
        self.api.get(&self.name).await.map_err(|error| unavailable(&error))
    }

    async fn replace(&self, expected: Option<String>, head: Option<Bytes>) -> Result<String, HeadError> {
        let mut secret = self.get().await?;
        let data = secret.data.get_or_insert_default();
        match &expected {
            None if data.contains_key(HEAD) => return Err(HeadError::Moved),
            // Without the version that was expected, an update would overwrite what came in between.
            Some(_) if secret.metadata.resource_version != expected => return Err(HeadError::Moved),
            _ => {}
        }
        match head {
            Some(head) => data.insert(HEAD.to_owned(), ByteString(head.to_vec())),
            None => data.remove(HEAD),
        };
        match self.api.replace(&self.name, &PostParams::default(), &secret).await {
            Ok(stored) => Ok(stored.metadata.resource_version.unwrap_or_default()),
            Err(error) if is_status(&error, 409) => Err(HeadError::Moved),
            Err(error) => Err(unavailable(&error)),
        }
    }
}

impl HeadStore for SecretHeads {
    fn load(&self) -> BoxFuture<'_, Result<Option<StoredHead>, HeadError>> {
        async move {
            let secret = match self.get().await {
                // To this node there is none any more.
                Err(HeadError::Moved) => return Ok(None),
                found => found?,
            };
            let revision = secret.metadata.resource_version.clone().unwrap_or_default();
            let head = secret.data.and_then(|mut data| data.remove(HEAD));
            Ok(head.map(|head| StoredHead { revision, bytes: Bytes::from(head.0) }))
        }
        .boxed()
    }

    fn swing(&self, expected: Option<String>, head: Bytes) -> BoxFuture<'_, Result<String, HeadError>> {
        self.replace(expected, Some(head)).boxed()
    }

    fn remove(&self, expected: String) -> BoxFuture<'_, Result<(), HeadError>> {
        self.replace(Some(expected), None).map(|done| done.map(drop)).boxed()
    }
}

/// A volume as its Secret describes it.
struct Described {
    config: VolumeConfig,
    secret: VolumeSecret,
    heads: Arc<SecretHeads>,
}

async fn describe(client: &Client, handle: &str) -> Result<Option<Described>, String> {
    let api: Api<Secret> = Api::namespaced(client.clone(), NAMESPACE);
    let name = format!("{PREFIX}{handle}");
    let Some(found) = api.get_opt(&name).await.map_err(|error| error.to_string())? else { return Ok(None) };
    let data = found.data.unwrap_or_default();
    let part = |key: &str| data.get(key).ok_or_else(|| format!("the Secret {NAMESPACE}/{name} has no {key}"));
    let config = serde_json::from_slice(&part(CONFIG)?.0).map_err(|error| format!("the volume's config: {error}"))?;
    let secret: [u8; 32] = part(SECRET)?.0[..].try_into().map_err(|_| "the volume's secret has not 32 bytes")?;
    let heads = Arc::new(SecretHeads { api, name });
    Ok(Some(Described { config, secret: VolumeSecret::from_bytes(secret), heads }))
}

/// The policy of a volume whose StorageClass names none: any two nodes may vanish, with as little on top as so many nodes allow.
fn usual_policy(homes: usize) -> Option<&'static str> {
    match homes {
        0 | 1 => None,
        2 => Some("1+1"),
        3 => Some("1+2"),
        4 => Some("2+2"),
        5 => Some("3+2"),
        _ => Some("4+2"),
    }
}

/// Makes and deletes volumes, beside the API server.
pub struct KubeProvisioner {
    client: Client,
    tenant: OwnerId,
    homes: Arc<dyn Homes>,
}

impl KubeProvisioner {
    /// Volumes of `tenant` on `homes`.
    pub fn new(client: Client, tenant: OwnerId, homes: Arc<dyn Homes>) -> Self {
        Self { client, tenant, homes }
    }

    async fn make(&self, claim: Claim) -> Result<String, ProvisionError> {
        let wrong = |what: &str, error: &dyn std::fmt::Display| ProvisionError::Refused(format!("{what}: {error}"));
        let name: VolumeName = claim.name.parse().map_err(|error| wrong("its name", &error))?;
        let homes = self.homes.list().iter().filter(|home| home.weight > 0).count();
        let policy = claim.parameters.get(POLICY_PARAMETER).map(String::as_str).or_else(|| usual_policy(homes));
        let policy = policy.ok_or_else(|| ProvisionError::TryAgain("no two nodes of this eVDC lend storage".into()))?;
        let policy: Policy = policy.parse().map_err(|error| wrong("parameter policy", &error))?;
        if policy.shards() > homes {
            let text = format!("{policy} needs {} nodes that lend storage; this eVDC knows {homes}", policy.shards());
            return Err(ProvisionError::TryAgain(text));
        }
        self.make_with(&claim, name, policy).await.map_err(ProvisionError::TryAgain)
    }

    async fn make_with(&self, claim: &Claim, name: VolumeName, policy: Policy) -> Result<String, String> {
        let mut config = VolumeConfig::new(name, self.tenant, policy);
        // One more than can be read: with nodes missing, writing goes on for as long as a further death loses nothing. Healing makes the rest again.
        config.least = u8::try_from(policy.data() + 1).expect("a policy has at most 96 shards");
        config.capacity_bytes = claim.bytes;
        let secret = VolumeSecret::generate();
        let data = BTreeMap::from([
            (CONFIG.to_owned(), ByteString(serde_json::to_vec(&config).map_err(|error| error.to_string())?)),
            (SECRET.to_owned(), ByteString(secret.as_bytes().to_vec())),
        ]);
        let metadata = ObjectMeta { name: Some(format!("{PREFIX}{}", claim.name)), ..ObjectMeta::default() };
        let object =
            Secret { metadata, data: Some(data), type_: Some("atoll.cloud/volume".into()), ..Secret::default() };
        let api: Api<Secret> = Api::namespaced(self.client.clone(), NAMESPACE);
        match api.create(&PostParams::default(), &object).await {
            Ok(_) => {}
            // Made by an earlier try that was broken off: that one's secret holds.
            Err(error) if is_status(&error, 409) => {}
            Err(error) => return Err(error.to_string()),
        }
        let described = describe(&self.client, &claim.name).await?.ok_or("the volume was removed again")?;
        match Volume::format(&described.config, &described.secret, &*described.heads).await {
            Ok(()) | Err(VolumeError::Exists { .. }) => Ok(claim.name.clone()),
            Err(error) => Err(error.to_string()),
        }
    }

    async fn unmake(&self, handle: &str) -> Result<(), String> {
        let Some(Described { config, secret, heads }) = describe(&self.client, handle).await? else { return Ok(()) };
        let (api, name) = (heads.api.clone(), heads.name.clone());
        match Volume::destroy(config, &secret, self.homes.clone(), heads, options()).await {
            Ok(0) | Err(VolumeError::NotFound { .. }) => {}
            Ok(left) => tracing::warn!(handle, left, "shards of a deleted volume are left on nodes that do not answer"),
            Err(error) => return Err(error.to_string()),
        }
        match api.delete(&name, &DeleteParams::default()).await {
            Ok(_) => Ok(()),
            Err(error) if is_status(&error, 404) => Ok(()),
            Err(error) => Err(error.to_string()),
        }
    }
}

impl Provisioner for KubeProvisioner {
    fn create(&self, request: Claim) -> BoxFuture<'_, Result<String, ProvisionError>> {
        self.make(request).boxed()
    }

    fn delete(&self, handle: String) -> BoxFuture<'_, Result<(), ProvisionError>> {
        async move { self.unmake(&handle).await.map_err(ProvisionError::TryAgain) }.boxed()
    }

    fn secret(&self, handle: &str) -> Option<(String, String)> {
        Some((NAMESPACE.to_owned(), format!("{PREFIX}{handle}")))
    }
}

/// A volume's handle and its mount, if there is one. Whoever mounts or unmounts there has it.
type Slot = Arc<Mutex<Option<(String, Mounted)>>>;

/// What a member has mounted. Kept apart from [`KubeVolumes`], which ends in the middle of whatever it does: what was written is flushed all the same.
#[derive(Default)]
pub struct Mounts(std::sync::Mutex<HashMap<PathBuf, Slot>>);

impl Mounts {
    fn slots(&self) -> MutexGuard<'_, HashMap<PathBuf, Slot>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn slot(&self, target: &Path) -> Slot {
        self.slots().entry(target.to_owned()).or_default().clone()
    }

    /// Flushes and unmounts all, as far as that is done in time. Containers run on; what they had open there is gone.
    pub async fn end(&self) {
        let slots: Vec<Slot> = std::mem::take(&mut *self.slots()).into_values().collect();
        let ends = slots.iter().map(|slot| async {
            let Some((handle, mounted)) = slot.lock().await.take() else { return };
            match timeout(END_WITHIN, mounted.unmount()).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => tracing::warn!(handle, %error, "what a volume was told last is not stored"),
                Err(_) => tracing::warn!(handle, "what a volume was told last could not be stored in time"),
            }
        });
        join_all(ends).await;
    }
}

/// How the volumes that members on this node have mounted are doing. Cheap to clone.
#[derive(Clone, Default)]
pub struct MountedVolumes(Arc<std::sync::Mutex<Vec<Weak<Mounts>>>>);

impl MountedVolumes {
    /// Takes in what one more member mounts.
    pub(crate) fn add(&self, mounts: &Arc<Mounts>) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|known| known.strong_count() > 0);
        all.push(Arc::downgrade(mounts));
    }

    /// Their handles and how they are doing. One that is just being mounted or unmounted is left out.
    pub fn status(&self) -> Vec<(String, VolumeStatus)> {
        let all: Vec<Arc<Mounts>> =
            self.0.lock().unwrap_or_else(PoisonError::into_inner).iter().filter_map(Weak::upgrade).collect();
        let slots: Vec<Slot> =
            all.iter().flat_map(|mounts| mounts.slots().values().cloned().collect::<Vec<_>>()).collect();
        let told = |slot: &Slot| {
            let slot = slot.try_lock().ok()?;
            slot.as_ref().map(|(handle, mounted)| (handle.clone(), mounted.status()))
        };
        let mut volumes: Vec<_> = slots.iter().filter_map(told).collect();
        volumes.sort_by(|one, other| one.0.cmp(&other.0));
        volumes
    }
}

/// Mounts volumes on a member.
pub struct KubeVolumes {
    client: Client,
    homes: Arc<dyn Homes>,
    mounts: Arc<Mounts>,
}

impl KubeVolumes {
    /// Volumes on `homes`.
    pub fn new(client: Client, homes: Arc<dyn Homes>, mounts: Arc<Mounts>) -> Self {
        Self { client, homes, mounts }
    }

    async fn attach(&self, request: &VolumeRequest) -> Result<Attached, String> {
        let slot = self.mounts.slot(&request.target);
        let mut slot = slot.lock().await;
        if let Some((handle, known)) = slot.as_ref() {
            if *handle != request.handle {
                return Err(format!("volume {handle} is mounted there"));
            }
            if known.status().fenced {
                return Err("it was taken over by another node".into());
            }
            if known.is_in_place().await {
                return Ok(Attached::Kept);
            }
        }
        if let Some((handle, dead)) = slot.take() {
            tracing::warn!(handle, at = %request.target.display(), "a volume is not mounted any more; it is mounted anew");
            dead.unmount().await.map_err(|error| format!("what it was told last is not stored: {error}"))?;
        }
        if request.read_only {
            return Err("volumes are not mounted read-only".into());
        }
        let target = request.target.clone();
        let cleared = tokio::task::spawn_blocking(move || clear_stale(&target)).await;
        cleared.map_err(|error| error.to_string())?.map_err(|error| format!("the stale mount stays: {error}"))?;
        let described = describe(&self.client, &request.handle).await?;
        let Described { config, secret, heads } = described.ok_or("there is no such volume")?;
        let volume = Volume::open(config, &secret, self.homes.clone(), heads, options()).await;
        let volume = volume.map_err(|error| error.to_string())?;
        match Mounted::mount(volume.clone(), &request.target, FuseOptions::default()).await {
            Ok(mount) => {
                tracing::info!(handle = request.handle, at = %request.target.display(), "a volume is mounted");
                *slot = Some((request.handle.clone(), mount));
                Ok(Attached::Anew)
            }
            Err(error) => {
                // Nothing was written; how the closing goes says nothing.
                let _: Result<(), _> = volume.close().await;
                Err(error.to_string())
            }
        }
    }
}

impl VolumeDriver for KubeVolumes {
    fn mount<'a>(&'a self, request: &'a VolumeRequest) -> BoxFuture<'a, Result<Attached, Problem>> {
        async move { self.attach(request).await.map_err(|why| Problem(format!("volume {}: {why}", request.handle))) }
            .boxed()
    }

    fn unmount<'a>(&'a self, target: &'a Path) -> BoxFuture<'a, Result<(), Problem>> {
        async move {
            let slot = self.mounts.slots().remove(target);
            let known = match slot {
                Some(slot) => slot.lock().await.take(),
                None => None,
            };
            let Some((handle, mounted)) = known else {
                let target = target.to_owned();
                let cleared = tokio::task::spawn_blocking(move || clear_stale(&target)).await;
                let cleared = cleared.map_err(|error| Problem(error.to_string()))?;
                return cleared.map(drop).map_err(|error| Problem(format!("the stale mount stays: {error}")));
            };
            mounted.unmount().await.map_err(|error| Problem(format!("volume {handle}: {error:?}")))
        }
        .boxed()
    }
}

/// Gives the homes of an eVDC's volumes.
pub type HomesOf = dyn Fn(&Assigned) -> Arc<dyn Homes> + Send + Sync;

/// The homes of an eVDC's volumes: its members and the tenant's own node.
pub fn homes_of(
    link: &LinkHandle,
    peers: &Arc<dyn Homes>,
    assigned: &Assigned,
    local: Option<Arc<dyn ShardHome>>,
) -> Arc<dyn Homes> {
    let members = assigned.membership.members.iter().map(|member| member.node);
    let among: BTreeSet<NodeId> = members.chain([assigned.membership.home]).collect();
    let grant = assigned.assignment.storage.clone();
    Arc::new(TenantHomes::new(link.clone(), peers.clone(), among, grant, local))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;

    #[test]
    fn the_usual_policy_fits_and_survives_two_deaths_where_it_can() {
        for homes in 2..40 {
            let policy: Policy = usual_policy(homes).unwrap().parse().unwrap();
            assert!(policy.shards() <= homes);
            assert_eq!(policy.parity(), if homes == 2 { 1 } else { 2 });
        }
        assert_eq!(usual_policy(1), None);
    }
}
