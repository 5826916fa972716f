//! Volumes on demand: a claim of a StorageClass with our provisioner gets a file system and the PersistentVolume that stands for it.
//!
//! Making and deleting file systems is behind [`Provisioner`]. The volume is named after the claim's uid, so a provisioner that is asked twice, as after a
//! crash, makes one. A volume is deleted only when its claim is gone and no pod uses it any more.

use futures_util::future::BoxFuture;
use k8s_openapi::api::{
    core::v1::{PersistentVolume, PersistentVolumeClaim, Pod},
    storage::v1::StorageClass,
};
use kube::{
    Api,
    api::{DeleteParams, Patch, PostParams},
};
use serde_json::{Value, json};
use std::{collections::BTreeMap, sync::Arc, time::Duration};
use thiserror::Error;

use atoll_scheduler::Quantity;

use crate::{
    driver::Again,
    objects::{Key, MANAGER, has_ended, is_leaving, name, uid},
    world::{Failure, World, writer},
};

/// The `provisioner` of the StorageClasses that are served here, and the CSI driver of their volumes.
pub const PROVISIONER: &str = "zstor.atoll.cloud";

/// The node that a claim's first pod will be on; written by the scheduler.
pub(crate) const SELECTED_NODE: &str = "volume.kubernetes.io/selected-node";

const DEFAULT_CLASS: &str = "storageclass.kubernetes.io/is-default-class";

/// How often to see whether the last pod that uses a volume without a claim has ended.
const IN_USE_AGAIN: Duration = Duration::from_secs(5);

/// A file system to be made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VolumeRequest {
    /// Unique for the claim; a request of the same name is the same request.
    pub name: String,
    /// How much it must hold.
    pub bytes: u64,
    /// The `parameters` of the StorageClass.
    pub parameters: BTreeMap<String, String>,
    /// Whose it is: namespace and name of the claim.
    pub claim: (String, String),
}

/// Why a file system was not made or deleted.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ProvisionError {
    /// Asking again will not help; the user reads this as an event on the claim.
    #[error("the volume cannot be provided: {0}")]
    Refused(String),
    /// It may work later.
    #[error("the volume could not be provided and is tried again: {0}")]
    TryAgain(String),
}

/// Makes and deletes file systems.
pub trait Provisioner: Send + Sync + 'static {
    /// Makes a file system, or finds the one of this name, and answers its handle.
    fn create(&self, request: VolumeRequest) -> BoxFuture<'_, Result<String, ProvisionError>>;

    /// Deletes the file system of a handle; that there is none any more is no failure.
    fn delete(&self, handle: String) -> BoxFuture<'_, Result<(), ProvisionError>>;

    /// Namespace and name of the Secret that a node needs to mount it, if there is one: where pods with the volume run may read it.
    fn secret(&self, _handle: &str) -> Option<(String, String)> {
        None
    }
}

pub(crate) async fn look_at_claim(world: &World, key: &Key) -> Result<Again, Failure> {
    let Some(claim) = world.claims.get(key).filter(|claim| !is_leaving(&claim.metadata)) else { return Ok(None) };
    let Some(spec) = claim.spec.as_ref() else { return Ok(None) };
    if let Some(wanted) = spec.volume_name.as_deref().filter(|wanted| !wanted.is_empty()) {
        let Some(volume) = world.volumes.get(&Key::new("", wanted)) else { return Ok(None) };
        if is_for(&volume, &claim) {
            bind(world, &claim, &volume).await?;
        }
        return Ok(None);
    }
    if let Some(volume) = world.volumes.all().into_iter().find(|volume| has_claim(volume, &claim)) {
        bind(world, &claim, &volume).await?;
        return Ok(None);
    }
    let Some(class) = class_of(world, spec.storage_class_name.as_deref()) else { return Ok(None) };
    if class.provisioner != PROVISIONER {
        return Ok(None);
    }
    let waits = class.volume_binding_mode.as_deref() == Some("WaitForFirstConsumer");
    if waits && claim.metadata.annotations.as_ref().is_none_or(|it| !it.contains_key(SELECTED_NODE)) {
        let message = "waiting for first consumer to be created before binding".to_owned();
        world.events.normal(&*claim, "WaitForFirstConsumer", message).await;
        return Ok(None);
    }
    provision(world, &claim, &class).await
}

fn class_of(world: &World, name: Option<&str>) -> Option<Arc<StorageClass>> {
    match name {
        // The empty name says that no class is meant.
        Some("") => None,
        Some(name) => world.classes.get(&Key::new("", name)),
        None => world.classes.all().into_iter().find(|class| {
            class.metadata.annotations.as_ref().and_then(|it| it.get(DEFAULT_CLASS)).is_some_and(|it| it == "true")
        }),
    }
}

fn has_claim(volume: &PersistentVolume, claim: &PersistentVolumeClaim) -> bool {
    let reference = volume.spec.as_ref().and_then(|spec| spec.claim_ref.as_ref());
    claim.metadata.uid.is_some() && reference.is_some_and(|reference| reference.uid == claim.metadata.uid)
}

/// Whether the volume is this claim's or nobody's.
fn is_for(volume: &PersistentVolume, claim: &PersistentVolumeClaim) -> bool {
    let Some(reference) = volume.spec.as_ref().and_then(|spec| spec.claim_ref.as_ref()) else { return true };
    match &reference.uid {
        Some(uid) => Some(uid) == claim.metadata.uid.as_ref(),
        None => reference.name == claim.metadata.name && reference.namespace == claim.metadata.namespace,
    }
}

fn volume_name(claim: &PersistentVolumeClaim) -> String {
    format!("pvc-{}", uid(&claim.metadata))
}

async fn provision(world: &World, claim: &PersistentVolumeClaim, class: &StorageClass) -> Result<Again, Failure> {
    let request = match request(claim, class) {
        Ok(request) => request,
        Err(why) => {
            world.events.warning(claim, "ProvisioningFailed", why).await;
            return Ok(None);
        }
    };
    let handle = match world.provisioner.create(request).await {
        Ok(handle) => handle,
        Err(error) => {
            world.events.warning(claim, "ProvisioningFailed", error.to_string()).await;
            return if matches!(error, ProvisionError::Refused(_)) { Ok(None) } else { Err(error.into()) };
        }
    };
    let api = Api::<PersistentVolume>::all(world.client.clone());
    let params = PostParams { field_manager: Some(MANAGER.to_owned()), ..PostParams::default() };
    let secret = world.provisioner.secret(&handle);
    let volume = match api.create(&params, &volume_for(claim, class, &handle, secret)).await {
        Err(kube::Error::Api(status)) if status.code == 409 => api.get(&volume_name(claim)).await?,
        created => created?,
    };
    world.learn(volume.clone());
    let message = format!("Successfully provisioned volume {}", name(&volume.metadata));
    world.events.normal(claim, "ProvisioningSucceeded", message).await;
    bind(world, claim, &volume).await?;
    Ok(None)
}

fn request(claim: &PersistentVolumeClaim, class: &StorageClass) -> Result<VolumeRequest, String> {
    let spec = claim.spec.as_ref().ok_or("the claim has no spec")?;
    if spec.volume_mode.as_deref() == Some("Block") {
        return Err(format!("{PROVISIONER} provides file systems; volumeMode Block is not provided"));
    }
    if spec.data_source.is_some() || spec.data_source_ref.is_some() {
        return Err(format!("{PROVISIONER} makes empty volumes; a dataSource is not provided"));
    }
    let requests = spec.resources.as_ref().and_then(|resources| resources.requests.as_ref());
    let storage = requests.and_then(|requests| requests.get("storage")).ok_or("the claim requests no storage")?;
    let amount: Quantity = storage.0.parse().map_err(|error| format!("spec.resources.requests.storage: {error}"))?;
    Ok(VolumeRequest {
        name: volume_name(claim),
        bytes: u64::try_from(amount.value()).map_err(|_| "the claim requests less than no storage")?,
        parameters: class.parameters.clone().unwrap_or_default(),
        claim: (crate::objects::namespace(&claim.metadata).to_owned(), name(&claim.metadata).to_owned()),
    })
}

fn volume_for(
    claim: &PersistentVolumeClaim,
    class: &StorageClass,
    handle: &str,
    secret: Option<(String, String)>,
) -> PersistentVolume {
    let spec = claim.spec.clone().unwrap_or_default();
    let requests = spec.resources.and_then(|resources| resources.requests).unwrap_or_default();
    let volume = json!({
        "metadata": {
            "name": volume_name(claim),
            "annotations": {"pv.kubernetes.io/provisioned-by": PROVISIONER},
        },
        "spec": {
            "capacity": {"storage": requests.get("storage")},
            "accessModes": spec.access_modes,
            "volumeMode": "Filesystem",
            "mountOptions": class.mount_options,
            "persistentVolumeReclaimPolicy": class.reclaim_policy.as_deref().unwrap_or("Delete"),
            "storageClassName": class.metadata.name,
            "claimRef": {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "name": claim.metadata.name,
                "namespace": claim.metadata.namespace, "uid": claim.metadata.uid},
            "csi": {"driver": PROVISIONER, "volumeHandle": handle, "volumeAttributes": class.parameters,
                "nodeStageSecretRef": secret.map(|(namespace, name)| json!({"namespace": namespace, "name": name}))},
        },
    });
    serde_json::from_value(volume).unwrap_or_default()
}

/// Makes both sides say so. Each step is done only if it is not done yet.
async fn bind(world: &World, claim: &PersistentVolumeClaim, volume: &PersistentVolume) -> Result<(), Failure> {
    let key = Key::of(&claim.metadata);
    let volume_spec = volume.spec.clone().unwrap_or_default();
    if !has_claim(volume, claim) {
        let reference = json!({"apiVersion": "v1", "kind": "PersistentVolumeClaim", "name": key.name,
            "namespace": key.namespace, "uid": claim.metadata.uid});
        let patch =
            json!({"metadata": {"resourceVersion": volume.metadata.resource_version}, "spec": {"claimRef": reference}});
        let api = Api::<PersistentVolume>::all(world.client.clone());
        world.learn(api.patch(name(&volume.metadata), &writer(), &Patch::Merge(patch)).await?);
    }
    let spec = claim.spec.as_ref();
    if spec.and_then(|spec| spec.volume_name.as_deref()) != volume.metadata.name.as_deref() {
        let mut spec_patch = json!({"volumeName": volume.metadata.name});
        if spec.is_some_and(|spec| spec.storage_class_name.is_none()) {
            spec_patch["storageClassName"] = json!(volume_spec.storage_class_name);
        }
        let annotations =
            json!({"pv.kubernetes.io/bind-completed": "yes", "pv.kubernetes.io/bound-by-controller": "yes"});
        let patch = json!({"metadata": {"annotations": annotations}, "spec": spec_patch});
        world.patch::<PersistentVolumeClaim>(&key, patch).await?;
    }
    if claim.status.as_ref().and_then(|status| status.phase.as_deref()) != Some("Bound") {
        let status =
            json!({"phase": "Bound", "accessModes": volume_spec.access_modes, "capacity": volume_spec.capacity});
        world.patch_status::<PersistentVolumeClaim>(&key, status).await?;
    }
    set_phase(world, volume, "Bound").await
}

async fn set_phase(world: &World, volume: &PersistentVolume, phase: &str) -> Result<(), Failure> {
    if volume.status.as_ref().and_then(|status| status.phase.as_deref()) != Some(phase) {
        let api = Api::<PersistentVolume>::all(world.client.clone());
        let patch: Patch<Value> = Patch::Merge(json!({"status": {"phase": phase}}));
        world.learn(api.patch_status(name(&volume.metadata), &writer(), &patch).await?);
    }
    Ok(())
}

pub(crate) async fn look_at_volume(world: &World, key: &Key) -> Result<Again, Failure> {
    let Some(volume) = world.volumes.get(key).filter(|volume| !is_leaving(&volume.metadata)) else { return Ok(None) };
    let Some(spec) = volume.spec.as_ref() else { return Ok(None) };
    let Some(reference) = spec.claim_ref.as_ref().filter(|reference| reference.uid.is_some()) else {
        set_phase(world, &volume, "Available").await?;
        return Ok(None);
    };
    let part = |part: &Option<String>| part.clone().unwrap_or_default();
    let claim = Key { namespace: part(&reference.namespace), name: part(&reference.name) };
    let is_it = |found: &PersistentVolumeClaim| found.metadata.uid == reference.uid;
    if world.claims.get(&claim).is_some_and(|found| is_it(&found)) {
        return Ok(None);
    }
    // What is not known may only be not known yet: deleting needs the server's own word.
    let api = Api::<PersistentVolumeClaim>::namespaced(world.client.clone(), &claim.namespace);
    if api.get_opt(&claim.name).await?.is_some_and(|found| is_it(&found)) {
        return Ok(None);
    }
    set_phase(world, &volume, "Released").await?;
    let Some(csi) = spec.csi.as_ref().filter(|csi| csi.driver == PROVISIONER) else { return Ok(None) };
    if spec.persistent_volume_reclaim_policy.as_deref() != Some("Delete") {
        return Ok(None);
    }
    if world.pods.in_namespace(&claim.namespace).iter().any(|pod| !has_ended(pod) && uses(pod, &claim.name)) {
        return Ok(Some(IN_USE_AGAIN));
    }
    if let Err(error) = world.provisioner.delete(csi.volume_handle.clone()).await {
        world.events.warning(&*volume, "VolumeFailedDelete", error.to_string()).await;
        return if matches!(error, ProvisionError::Refused(_)) { Ok(None) } else { Err(error.into()) };
    }
    let api = Api::<PersistentVolume>::all(world.client.clone());
    match api.delete(&key.name, &DeleteParams::default()).await {
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(None),
        deleted => Ok(deleted.map(|_| None)?),
    }
}

/// The claims that a pod uses.
pub(crate) fn claims_of(pod: &Pod) -> impl Iterator<Item = &str> {
    let volumes = pod.spec.as_ref().and_then(|spec| spec.volumes.as_deref()).unwrap_or_default();
    volumes.iter().filter_map(|volume| Some(volume.persistent_volume_claim.as_ref()?.claim_name.as_str()))
}

fn uses(pod: &Pod, claim: &str) -> bool {
    claims_of(pod).any(|used| used == claim)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;

    fn claim(spec: Value) -> PersistentVolumeClaim {
        serde_json::from_value(json!({"metadata": {"name": "data", "namespace": "n", "uid": "u1"}, "spec": spec}))
            .unwrap()
    }

    fn class() -> StorageClass {
        serde_json::from_value(
            json!({"metadata": {"name": "zstor"}, "provisioner": PROVISIONER, "parameters": {"policy": "4+2"}}),
        )
        .unwrap()
    }

    #[test]
    fn requests_and_refusals() {
        let good = claim(json!({"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}));
        let asked = request(&good, &class()).unwrap();
        assert_eq!((asked.name.as_str(), asked.bytes), ("pvc-u1", 1 << 30));
        assert_eq!(asked.parameters["policy"], "4+2");
        for (spec, words) in [
            (json!({"volumeMode": "Block"}), "Block is not provided"),
            (json!({"dataSource": {"kind": "VolumeSnapshot", "name": "s"}}), "dataSource is not provided"),
            (json!({}), "requests no storage"),
            (json!({"resources": {"requests": {"storage": "much"}}}), "spec.resources.requests.storage"),
        ] {
            let why = request(&claim(spec), &class()).unwrap_err();
            assert!(why.contains(words), "{why}");
        }
    }

    #[test]
    fn the_volume_of_a_claim() {
        let good = claim(json!({"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}));
        let volume = volume_for(&good, &class(), "fs-7", Some(("system".to_owned(), "key-7".to_owned())));
        assert!(has_claim(&volume, &good) && is_for(&volume, &good));
        let spec = json!(volume.spec);
        assert_eq!(spec["csi"]["driver"], PROVISIONER);
        assert_eq!(spec["csi"]["volumeHandle"], "fs-7");
        assert_eq!(spec["csi"]["nodeStageSecretRef"], json!({"namespace": "system", "name": "key-7"}));
        assert_eq!(spec["capacity"]["storage"], "1Gi");
        assert_eq!(spec["persistentVolumeReclaimPolicy"], "Delete");
        let mut other = claim(json!({}));
        other.metadata.uid = Some("u2".to_owned());
        assert!(!has_claim(&volume, &other) && !is_for(&volume, &other));
    }
}
