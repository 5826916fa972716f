//! ReplicaSets: as many pods as asked for.

use std::{cmp::Reverse, collections::BTreeMap, sync::Arc, time::Duration};

use jiff::Timestamp;
use k8s_openapi::{
    api::{
        apps::v1::{ReplicaSet, ReplicaSetStatus},
        core::v1::{Pod, PodTemplateSpec},
    },
    apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference},
};
use kube::api::DeleteParams;
use serde_json::json;

use crate::{
    driver::Again,
    objects::{
        Key, controlled_by, is_active, is_available, is_controlled_by, is_leaving, is_ready, name, node_of, pod_phase,
    },
    world::{Failure, World},
};

/// Most pods made or deleted in one look, so that one large set does not hold up the others.
const BURST: usize = 100;

pub(crate) async fn look(world: &World, key: &Key) -> Result<Again, Failure> {
    let Some(set) = world.replica_sets.get(key) else { return Ok(None) };
    let Some(spec) = set.spec.as_ref().filter(|_| !is_leaving(&set.metadata)) else { return Ok(None) };
    let pods = pods_of(world, &set.metadata);
    let active: Vec<Arc<Pod>> = pods.into_iter().filter(|pod| is_active(pod)).collect();
    let wanted = usize::try_from(spec.replicas.unwrap_or(1)).unwrap_or(0);
    if active.len() < wanted {
        let template = spec.template.clone().unwrap_or_default();
        for _ in 0..(wanted - active.len()).min(BURST) {
            make(world, &set, &template).await?;
        }
    } else {
        for pod in victims(&active, active.len() - wanted).into_iter().take(BURST) {
            world.delete(&*pod, DeleteParams::default()).await?;
            world.events.normal(&*set, "SuccessfulDelete", format!("Deleted pod: {}", name(&pod.metadata))).await;
        }
    }
    let active: Vec<Arc<Pod>> = pods_of(world, &set.metadata).into_iter().filter(|pod| is_active(pod)).collect();
    let (status, again) = status(&set, &active, Timestamp::now());
    if set.status.as_ref() != Some(&status) {
        world.patch_status::<ReplicaSet>(key, json!(status)).await?;
    }
    let unfinished = (active.len() != wanted).then_some(Duration::ZERO);
    Ok(unfinished.or(again))
}

/// The pods that this object controls.
pub(crate) fn pods_of(world: &World, owner: &ObjectMeta) -> Vec<Arc<Pod>> {
    let mut pods = world.pods.in_namespace(owner.namespace.as_deref().unwrap_or_default());
    pods.retain(|pod| is_controlled_by(&pod.metadata, owner));
    pods
}

async fn make(world: &World, set: &ReplicaSet, template: &PodTemplateSpec) -> Result<(), Failure> {
    let mut pod = pod_from(template, controlled_by(set), set.metadata.namespace.clone());
    pod.metadata.generate_name = Some(format!("{}-", name(&set.metadata)));
    match world.create(&pod).await {
        Ok(()) => Ok(()),
        Err(failure) => {
            world.events.warning(set, "FailedCreate", format!("Error creating: {failure}")).await;
            Err(failure)
        }
    }
}

/// A pod as the template has it; its name is the caller's.
pub(crate) fn pod_from(template: &PodTemplateSpec, owners: Vec<OwnerReference>, namespace: Option<String>) -> Pod {
    let meta = template.metadata.clone().unwrap_or_default();
    Pod {
        metadata: ObjectMeta {
            namespace,
            labels: meta.labels,
            annotations: meta.annotations,
            finalizers: meta.finalizers,
            owner_references: Some(owners),
            ..ObjectMeta::default()
        },
        spec: template.spec.clone(),
        status: None,
    }
}

/// The pods that are missed least: those without a node, not running, not ready, cheap to delete, on a node with many of them, young.
fn victims(pods: &[Arc<Pod>], count: usize) -> Vec<Arc<Pod>> {
    let mut there: BTreeMap<&str, usize> = BTreeMap::new();
    for pod in pods {
        *there.entry(node_of(pod).unwrap_or_default()).or_default() += 1;
    }
    let rank = |pod: &Arc<Pod>| {
        let annotations = pod.metadata.annotations.as_ref();
        let cost = annotations.and_then(|it| it.get("controller.kubernetes.io/pod-deletion-cost"));
        let crowd = there.get(node_of(pod).unwrap_or_default()).copied().unwrap_or(0);
        (
            node_of(pod).is_some(),
            pod_phase(pod) == "Running",
            is_ready(pod),
            cost.and_then(|cost| cost.parse::<i32>().ok()).unwrap_or(0),
            Reverse(crowd),
            Reverse(pod.metadata.creation_timestamp.as_ref().map(|time| time.0)),
        )
    };
    let mut ranked = pods.to_vec();
    ranked.sort_by_key(rank);
    ranked.truncate(count);
    ranked
}

fn status(set: &ReplicaSet, active: &[Arc<Pod>], now: Timestamp) -> (ReplicaSetStatus, Again) {
    let min_ready_seconds = set.spec.as_ref().and_then(|spec| spec.min_ready_seconds).unwrap_or(0);
    let mut again: Again = None;
    let mut available = 0;
    for pod in active {
        match is_available(pod, min_ready_seconds, now) {
            Ok(is_available) => available += i32::from(is_available),
            Err(left) => {
                let left = Duration::try_from(left).unwrap_or_default() + Duration::from_millis(10);
                again = Some(again.map_or(left, |other| other.min(left)));
            }
        }
    }
    let template = set.spec.as_ref().and_then(|spec| spec.template.as_ref()?.metadata.as_ref()?.labels.as_ref());
    let labelled = |pod: &&Arc<Pod>| {
        template
            .into_iter()
            .flatten()
            .all(|(key, value)| pod.metadata.labels.as_ref().and_then(|it| it.get(key)) == Some(value))
    };
    let count = |count: usize| i32::try_from(count).unwrap_or(i32::MAX);
    let status = ReplicaSetStatus {
        replicas: count(active.len()),
        fully_labeled_replicas: Some(count(active.iter().filter(labelled).count())),
        ready_replicas: Some(count(active.iter().filter(|pod| is_ready(pod)).count())),
        available_replicas: Some(available),
        observed_generation: set.metadata.generation,
        conditions: set.status.as_ref().and_then(|status| status.conditions.clone()),
        ..ReplicaSetStatus::default()
    };
    (status, again)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;

    fn pod(name: &str, node: Option<&str>, phase: &str, ready: bool, age: &str) -> Arc<Pod> {
        Arc::new(
            serde_json::from_value(json!({"metadata": {"name": name, "creationTimestamp": age}, "spec": {"nodeName": node, "containers": []},
                "status": {"phase": phase, "conditions": [{"type": "Ready", "status": if ready { "True" } else { "False" },
                    "lastTransitionTime": "2026-01-01T00:00:00Z"}]}}))
            .unwrap(),
        )
    }

    #[test]
    fn who_is_missed_least() {
        let (old, young) = ("2026-01-01T00:00:00Z", "2026-01-02T00:00:00Z");
        let pods = [
            pod("old", Some("b"), "Running", true, old),
            pod("young", Some("c"), "Running", true, young),
            pod("crowded-1", Some("a"), "Running", true, old),
            pod("crowded-2", Some("a"), "Running", true, young),
            pod("unready", Some("d"), "Running", false, old),
            pod("pending", Some("e"), "Pending", false, old),
            pod("nowhere", None, "Pending", false, old),
        ];
        let order: Vec<_> = victims(&pods, 9).iter().map(|pod| name(&pod.metadata).to_owned()).collect();
        assert_eq!(order, ["nowhere", "pending", "unready", "crowded-2", "crowded-1", "young", "old"]);
        assert_eq!(victims(&pods, 2).len(), 2);
    }

    #[test]
    fn available_only_after_long_enough() {
        let set: ReplicaSet = serde_json::from_value(
            json!({"metadata": {"generation": 3}, "spec": {"minReadySeconds": 60, "selector": {}}}),
        )
        .unwrap();
        let ready = [pod("a", Some("n"), "Running", true, "2026-01-01T00:00:00Z")];
        let at = |time: &str| status(&set, &ready, time.parse().unwrap());
        let (early, again) = at("2026-01-01T00:00:20Z");
        assert_eq!(
            (early.ready_replicas, early.available_replicas, early.observed_generation),
            (Some(1), Some(0), Some(3))
        );
        assert!(again.unwrap() > Duration::from_secs(39));
        let (late, again) = at("2026-01-01T00:01:00Z");
        assert_eq!((late.available_replicas, again), (Some(1), None));
    }
}
