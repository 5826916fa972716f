//! The scheduler's hands: takes pods without a node one after the other, asks [`atoll_scheduler`] and binds.

use std::sync::Arc;

use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod, VolumeNodeAffinity};
use kube::{
    Api,
    api::{Patch, PostParams},
};
use serde_json::{Value, json};

use crate::{
    driver::Again,
    objects::{Key, has_ended, is_leaving, name, node_of, now},
    volumes::{PROVISIONER, SELECTED_NODE, claims_of},
    world::{Failure, World, writer},
};

/// Puts all pods that found no node back in the queue: something has changed that may let them.
pub(crate) fn retry_all(world: &World) {
    let mut waiting = world.waiting.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    std::mem::take(&mut *waiting).into_iter().for_each(|key| world.queues.scheduling.push(key));
}

pub(crate) async fn look(world: &World, key: &Key) -> Result<Again, Failure> {
    let Some(pod) = world.pods.get(key) else { return Ok(None) };
    if node_of(&pod).is_some() || is_leaving(&pod.metadata) || has_ended(&pod) || !is_ours(world, &pod) {
        return Ok(None);
    }
    let volumes = match volumes(world, &pod) {
        Ok(volumes) => volumes,
        Err(why) => return refuse(world, &pod, why).await,
    };
    let decision = world.cluster().place(&pod, &volumes.reachable_from);
    match decision {
        Err(why) => refuse(world, &pod, why.to_string()).await,
        Ok(node) if volumes.unbound.is_empty() => bind(world, &pod, &node).await,
        Ok(node) => {
            for claim in &volumes.unbound {
                let patch = json!({"metadata": {"annotations": {SELECTED_NODE: node}}});
                world.patch::<PersistentVolumeClaim>(&Key::of(&claim.metadata), patch).await?;
            }
            wait(world, key);
            Ok(None)
        }
    }
}

fn wait(world: &World, key: &Key) {
    world.waiting.lock().unwrap_or_else(std::sync::PoisonError::into_inner).insert(key.clone());
}

fn is_ours(world: &World, pod: &Pod) -> bool {
    let spec = pod.spec.as_ref();
    let scheduler = spec.and_then(|spec| spec.scheduler_name.as_deref()).unwrap_or("default-scheduler");
    let is_gated = spec.and_then(|spec| spec.scheduling_gates.as_ref()).is_some_and(|gates| !gates.is_empty());
    scheduler == world.config.scheduler_name && !is_gated
}

/// What the pod's claims mean for its place.
#[derive(Default)]
struct Volumes {
    reachable_from: Vec<VolumeNodeAffinity>,
    /// Claims that wait to hear where the pod goes.
    unbound: Vec<Arc<PersistentVolumeClaim>>,
}

fn volumes(world: &World, pod: &Pod) -> Result<Volumes, String> {
    let mut volumes = Volumes::default();
    for claim_name in claims_of(pod) {
        let key = Key::new(crate::objects::namespace(&pod.metadata), claim_name);
        let claim =
            world.claims.get(&key).ok_or_else(|| format!("persistentvolumeclaim \"{claim_name}\" not found"))?;
        if is_leaving(&claim.metadata) {
            return Err(format!("persistentvolumeclaim \"{claim_name}\" is being deleted"));
        }
        let bound = claim.spec.as_ref().and_then(|spec| spec.volume_name.as_deref()).filter(|name| !name.is_empty());
        let phase = claim.status.as_ref().and_then(|status| status.phase.as_deref());
        match bound.filter(|_| phase == Some("Bound")) {
            Some(volume) => {
                let volume = world
                    .volumes
                    .get(&Key::new("", volume))
                    .ok_or_else(|| format!("persistentvolume \"{volume}\" not found"))?;
                volumes.reachable_from.extend(volume.spec.as_ref().and_then(|spec| spec.node_affinity.clone()));
            }
            None if waits_for_consumer(world, &claim) => volumes.unbound.push(claim),
            None => return Err("pod has unbound immediate PersistentVolumeClaims".to_owned()),
        }
    }
    Ok(volumes)
}

fn waits_for_consumer(world: &World, claim: &PersistentVolumeClaim) -> bool {
    let class = claim.spec.as_ref().and_then(|spec| spec.storage_class_name.as_deref());
    let class = class.and_then(|class| world.classes.get(&Key::new("", class)));
    class.is_some_and(|class| {
        class.provisioner == PROVISIONER && class.volume_binding_mode.as_deref() == Some("WaitForFirstConsumer")
    })
}

async fn bind(world: &World, pod: &Pod, node: &str) -> Result<Again, Failure> {
    let key = Key::of(&pod.metadata);
    let binding = json!({
        "apiVersion": "v1",
        "kind": "Binding",
        "metadata": {"name": key.name, "namespace": key.namespace, "uid": pod.metadata.uid},
        "target": {"apiVersion": "v1", "kind": "Node", "name": node},
    });
    let api = Api::<Pod>::namespaced(world.client.clone(), &key.namespace);
    let _: Value = api.create_subresource("binding", &key.name, &PostParams::default(), &binding).await?;
    // Counted at once and at its new version, so that neither the next decision nor a late watch event misses it.
    world.learn(api.get(&key.name).await?);
    let message = format!("Successfully assigned {key} to {node}");
    world.events.normal(pod, "Scheduled", message).await;
    Ok(None)
}

async fn refuse(world: &World, pod: &Pod, why: String) -> Result<Again, Failure> {
    let key = Key::of(&pod.metadata);
    wait(world, &key);
    let conditions = pod.status.as_ref().and_then(|status| status.conditions.as_deref()).unwrap_or_default();
    let before = conditions.iter().find(|condition| condition.type_ == "PodScheduled");
    if before.is_some_and(|before| before.message.as_ref() == Some(&why)) {
        return Ok(None);
    }
    let condition = json!({"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": why,
        "lastTransitionTime": before.and_then(|it| it.last_transition_time.clone()).unwrap_or_else(now)});
    let api = Api::<Pod>::namespaced(world.client.clone(), &key.namespace);
    let patch = Patch::Strategic(json!({"status": {"conditions": [condition]}}));
    let patched = api.patch_status(name(&pod.metadata), &writer(), &patch).await?;
    // Without routing it: the pod itself has not changed.
    world.pods.put(&Arc::new(patched));
    world.events.warning(pod, "FailedScheduling", why).await;
    Ok(None)
}
