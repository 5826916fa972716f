//! StatefulSets: pods with names, places in an order, and volumes that stay theirs.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use jiff::Timestamp;
use k8s_openapi::api::{
    apps::v1::{StatefulSet, StatefulSetSpec, StatefulSetStatus},
    core::v1::{PersistentVolumeClaim, PersistentVolumeClaimVolumeSource, Pod, Volume},
};
use kube::api::DeleteParams;
use serde_json::json;

use crate::{
    driver::Again,
    objects::{Key, controlled_by, has_ended, is_available, is_leaving, is_ready, name, template_hash},
    replicaset::{pod_from, pods_of},
    statefulset::plan::{Action, Found, Wanted, plan},
    world::{Failure, World},
};

mod plan;

const REVISION: &str = "controller-revision-hash";

pub(crate) async fn look(world: &World, key: &Key) -> Result<Again, Failure> {
    let Some(set) = world.stateful_sets.get(key) else { return Ok(None) };
    let Some(spec) = set.spec.as_ref().filter(|_| !is_leaving(&set.metadata)) else { return Ok(None) };
    let revision = format!("{}-{}", name(&set.metadata), template_hash(&spec.template, 0));
    let (found, again) = found(world, &set, spec, &revision);
    for action in plan(&wanted(spec), &found) {
        match action {
            Action::Create(ordinal) => make(world, &set, spec, ordinal, &revision).await?,
            Action::Delete(ordinal) => {
                let pod = Key { name: pod_name(&set, ordinal), ..key.clone() };
                if let Some(pod) = world.pods.get(&pod) {
                    world.delete(&*pod, DeleteParams::default()).await?;
                    let message = format!("delete Pod {} in StatefulSet {} successful", name(&pod.metadata), key.name);
                    world.events.normal(&*set, "SuccessfulDelete", message).await;
                }
            }
        }
    }
    let status = status(world, &set, spec, &revision);
    if set.status.as_ref() != Some(&status) {
        world.patch_status::<StatefulSet>(key, json!(status)).await?;
    }
    Ok(again)
}

fn wanted(spec: &StatefulSetSpec) -> Wanted {
    let start = spec.ordinals.as_ref().and_then(|ordinals| ordinals.start).unwrap_or(0);
    let strategy = spec.update_strategy.as_ref();
    let partition = strategy.and_then(|it| it.rolling_update.as_ref()).and_then(|it| it.partition).unwrap_or(0);
    let on_delete = strategy.and_then(|it| it.type_.as_deref()) == Some("OnDelete");
    Wanted {
        ordinals: start..start.saturating_add(spec.replicas.unwrap_or(1)),
        is_parallel: spec.pod_management_policy.as_deref() == Some("Parallel"),
        update_from: (!on_delete).then(|| start.saturating_add(partition)),
    }
}

fn pod_name(set: &StatefulSet, ordinal: i32) -> String {
    format!("{}-{ordinal}", name(&set.metadata))
}

fn ordinal_of(set: &StatefulSet, pod: &Pod) -> Option<i32> {
    name(&pod.metadata).strip_prefix(name(&set.metadata))?.strip_prefix('-')?.parse().ok()
}

fn has_revision(pod: &Pod, revision: &str) -> bool {
    pod.metadata.labels.as_ref().and_then(|labels| labels.get(REVISION)).is_some_and(|own| own == revision)
}

/// The pods by ordinal, and when one of them will have been ready for long enough.
fn found(world: &World, set: &StatefulSet, spec: &StatefulSetSpec, revision: &str) -> (BTreeMap<i32, Found>, Again) {
    let mut again: Again = None;
    let mut found = BTreeMap::new();
    for pod in pods_of(world, &set.metadata) {
        let Some(ordinal) = ordinal_of(set, &pod) else { continue };
        let available = is_available(&pod, spec.min_ready_seconds.unwrap_or(0), Timestamp::now());
        if let Err(left) = available {
            let left = Duration::try_from(left).unwrap_or_default() + Duration::from_millis(10);
            again = Some(again.map_or(left, |other| other.min(left)));
        }
        let state = Found {
            is_leaving: is_leaving(&pod.metadata),
            has_ended: has_ended(&pod),
            is_available: available.unwrap_or(false),
            is_updated: has_revision(&pod, revision),
        };
        found.insert(ordinal, state);
    }
    (found, again)
}

async fn make(
    world: &World,
    set: &StatefulSet,
    spec: &StatefulSetSpec,
    ordinal: i32,
    revision: &str,
) -> Result<(), Failure> {
    for claim in claims(set, spec, ordinal) {
        let key = Key::of(&claim.metadata);
        if world.claims.get(&key).is_none() {
            match world.create(&claim).await {
                // One that is there and only not known yet will do.
                Err(failure) if failure.is_race() => {}
                made => made?,
            }
        }
    }
    let pod = pod(set, spec, ordinal, revision);
    let made = world.create(&pod).await;
    let pod_name = name(&pod.metadata);
    match &made {
        Ok(()) => {
            let message = format!("create Pod {pod_name} in StatefulSet {} successful", name(&set.metadata));
            world.events.normal(set, "SuccessfulCreate", message).await;
        }
        Err(failure) => {
            let message =
                format!("create Pod {pod_name} in StatefulSet {} failed error: {failure}", name(&set.metadata));
            world.events.warning(set, "FailedCreate", message).await;
        }
    }
    made
}

/// The claims of one pod; they stay when the pod or the set goes.
fn claims(set: &StatefulSet, spec: &StatefulSetSpec, ordinal: i32) -> Vec<PersistentVolumeClaim> {
    let templates = spec.volume_claim_templates.iter().flatten();
    let claim = |template: &PersistentVolumeClaim| {
        let mut claim = template.clone();
        claim.metadata.name = Some(claim_name(set, template, ordinal));
        claim.metadata.namespace.clone_from(&set.metadata.namespace);
        let labels = claim.metadata.labels.get_or_insert_default();
        labels.extend(spec.selector.match_labels.clone().unwrap_or_default());
        claim.status = None;
        claim
    };
    templates.map(claim).collect()
}

fn claim_name(set: &StatefulSet, template: &PersistentVolumeClaim, ordinal: i32) -> String {
    format!("{}-{}", name(&template.metadata), pod_name(set, ordinal))
}

fn pod(set: &StatefulSet, spec: &StatefulSetSpec, ordinal: i32, revision: &str) -> Pod {
    let mut pod = pod_from(&spec.template, controlled_by(set), set.metadata.namespace.clone());
    let pod_name = pod_name(set, ordinal);
    let labels = pod.metadata.labels.get_or_insert_default();
    labels.insert("statefulset.kubernetes.io/pod-name".to_owned(), pod_name.clone());
    labels.insert("apps.kubernetes.io/pod-index".to_owned(), ordinal.to_string());
    labels.insert(REVISION.to_owned(), revision.to_owned());
    let pod_spec = pod.spec.get_or_insert_default();
    pod_spec.hostname = Some(pod_name.clone());
    pod_spec.subdomain.clone_from(&spec.service_name);
    let volumes = pod_spec.volumes.get_or_insert_default();
    for template in spec.volume_claim_templates.iter().flatten() {
        let claim_name = claim_name(set, template, ordinal);
        volumes.retain(|volume| volume.name != name(&template.metadata));
        volumes.push(Volume {
            name: name(&template.metadata).to_owned(),
            persistent_volume_claim: Some(PersistentVolumeClaimVolumeSource { claim_name, read_only: Some(false) }),
            ..Volume::default()
        });
    }
    pod.metadata.name = Some(pod_name);
    pod
}

fn status(world: &World, set: &StatefulSet, spec: &StatefulSetSpec, revision: &str) -> StatefulSetStatus {
    let old = set.status.clone().unwrap_or_default();
    let pods: Vec<Arc<Pod>> = pods_of(world, &set.metadata).into_iter().filter(|pod| !has_ended(pod)).collect();
    let min_ready_seconds = spec.min_ready_seconds.unwrap_or(0);
    let now = Timestamp::now();
    let count = |which: &dyn Fn(&Pod) -> bool| {
        i32::try_from(pods.iter().filter(|pod| !is_leaving(&pod.metadata) && which(pod)).count()).unwrap_or(i32::MAX)
    };
    let (ready, updated) = (count(&is_ready), count(&|pod| has_revision(pod, revision)));
    let is_done = updated == spec.replicas.unwrap_or(1) && ready == updated;
    let current = if is_done { Some(revision.to_owned()) } else { old.current_revision.or(Some(revision.to_owned())) };
    let available = count(&|pod| is_available(pod, min_ready_seconds, now).unwrap_or(false));
    StatefulSetStatus {
        observed_generation: set.metadata.generation,
        replicas: i32::try_from(pods.len()).unwrap_or(i32::MAX),
        ready_replicas: Some(ready),
        available_replicas: Some(available),
        updated_replicas: Some(updated),
        current_replicas: Some(count(&|pod| current.as_ref().is_some_and(|current| has_revision(pod, current)))),
        current_revision: current,
        update_revision: Some(revision.to_owned()),
        collision_count: old.collision_count,
        conditions: old.conditions,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;

    #[test]
    fn a_pod_has_its_name_its_place_and_its_volume() {
        let set: StatefulSet = serde_json::from_value(json!({
            "metadata": {"name": "db", "namespace": "n", "uid": "u"},
            "spec": {"serviceName": "dbs", "selector": {"matchLabels": {"app": "db"}},
                "template": {"metadata": {"labels": {"app": "db"}}, "spec": {"containers": [], "volumes": [{"name": "data", "emptyDir": {}}]}},
                "volumeClaimTemplates": [{"metadata": {"name": "data"}, "spec": {"accessModes": ["ReadWriteOnce"]}}]}}))
        .unwrap();
        let spec = set.spec.as_ref().unwrap();
        let pod = json!(pod(&set, spec, 2, "db-x"));
        assert_eq!(pod["metadata"]["name"], "db-2");
        assert_eq!(pod["metadata"]["labels"]["apps.kubernetes.io/pod-index"], "2");
        assert_eq!(pod["metadata"]["ownerReferences"][0]["uid"], "u");
        assert_eq!(pod["spec"]["hostname"], "db-2");
        assert_eq!(pod["spec"]["subdomain"], "dbs");
        assert_eq!(
            pod["spec"]["volumes"],
            json!([{"name": "data", "persistentVolumeClaim": {"claimName": "data-db-2", "readOnly": false}}])
        );
        let claim = json!(claims(&set, spec, 2)[0]);
        assert_eq!(claim["metadata"], json!({"name": "data-db-2", "namespace": "n", "labels": {"app": "db"}}));
    }
}
