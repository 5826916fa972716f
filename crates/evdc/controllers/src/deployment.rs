//! Deployments: a ReplicaSet per template, and the way from one to the next.

use std::{collections::BTreeMap, sync::Arc};

use jiff::Timestamp;
use k8s_openapi::{
    api::{
        apps::v1::{Deployment, DeploymentSpec, ReplicaSet, ReplicaSetSpec},
        core::v1::PodTemplateSpec,
    },
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use kube::api::DeleteParams;
use serde_json::json;

use crate::{
    deployment::plan::{Rollout, Set, scale, slack},
    driver::Again,
    objects::{Key, controlled_by, has_ended, is_controlled_by, is_leaving, name, scaled, template_hash},
    replicaset::pods_of,
    world::{Failure, World},
};

mod plan;
mod status;

const HASH: &str = "pod-template-hash";
const REVISION: &str = "deployment.kubernetes.io/revision";
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// Old ReplicaSets kept to roll back to, if the Deployment does not say; Kubernetes' default.
const HISTORY: i32 = 10;

pub(crate) async fn look(world: &World, key: &Key) -> Result<Again, Failure> {
    let Some(deployment) = world.deployments.get(key) else { return Ok(None) };
    let Some(spec) = deployment.spec.as_ref().filter(|_| !is_leaving(&deployment.metadata)) else { return Ok(None) };
    let sets = sets_of(world, &deployment);
    let new = sets.iter().find(|set| is_of_template(set, &spec.template)).cloned();
    let is_paused = spec.paused == Some(true);
    match &new {
        None if !is_paused => make_set(world, &deployment, spec, &sets).await?,
        _ => {
            if let Some(new) = new.as_ref().filter(|_| !is_paused) {
                set_revision(world, &deployment, new, &sets).await?;
            }
            roll(world, &deployment, spec, new.as_ref(), &sets).await?;
        }
    }
    let sets = sets_of(world, &deployment);
    let new = sets.iter().find(|set| is_of_template(set, &spec.template));
    let (_, unavailable) = slack_of(spec);
    let least = spec.replicas.unwrap_or(1) - unavailable;
    let current = world.deployments.get(key).unwrap_or(deployment);
    let (status, again) = status::status(&current, new.map(|set| &**set), &sets, least, Timestamp::now());
    if current.status.as_ref() != Some(&status) {
        world.patch_status::<Deployment>(key, json!(status)).await?;
    }
    Ok(again)
}

/// Its ReplicaSets, oldest first.
fn sets_of(world: &World, deployment: &Deployment) -> Vec<Arc<ReplicaSet>> {
    let mut sets = world.replica_sets.in_namespace(crate::objects::namespace(&deployment.metadata));
    sets.retain(|set| is_controlled_by(&set.metadata, &deployment.metadata) && !is_leaving(&set.metadata));
    sets.sort_by_key(|set| (set.metadata.creation_timestamp.clone().map(|time| time.0), set.metadata.name.clone()));
    sets
}

fn is_of_template(set: &ReplicaSet, template: &PodTemplateSpec) -> bool {
    let Some(mut own) = set.spec.as_ref().and_then(|spec| spec.template.clone()) else { return false };
    let labels = own.metadata.as_mut().and_then(|meta| meta.labels.as_mut());
    labels.and_then(|labels| labels.remove(HASH));
    // An object without labels and one with none are the same template.
    let plain = |template: &PodTemplateSpec| {
        let mut value = json!(template);
        if value["metadata"]["labels"] == json!({}) {
            value["metadata"] = json!({});
        }
        value["metadata"].as_object_mut().map(|meta| meta.remove("creationTimestamp"));
        if value["metadata"] == json!({}) {
            value["metadata"] = json!(null);
        }
        value
    };
    plain(&own) == plain(template)
}

fn slack_of(spec: &DeploymentSpec) -> (i32, i32) {
    let strategy = spec.strategy.as_ref();
    let rolling = strategy.and_then(|strategy| strategy.rolling_update.as_ref());
    let replicas = spec.replicas.unwrap_or(1);
    if strategy.and_then(|strategy| strategy.type_.as_deref()) == Some("Recreate") {
        return (0, replicas);
    }
    let surge = scaled(rolling.and_then(|it| it.max_surge.as_ref()), "25%", replicas, true);
    let unavailable = scaled(rolling.and_then(|it| it.max_unavailable.as_ref()), "25%", replicas, false);
    let (surge, unavailable) = slack(surge, unavailable);
    (surge, unavailable.min(replicas))
}

async fn make_set(
    world: &World,
    deployment: &Deployment,
    spec: &DeploymentSpec,
    sets: &[Arc<ReplicaSet>],
) -> Result<(), Failure> {
    let collisions = deployment.status.as_ref().and_then(|status| status.collision_count).unwrap_or(0);
    let hash = template_hash(&spec.template, collisions);
    let mut template = spec.template.clone();
    let mut selector = spec.selector.clone();
    let labels = template.metadata.get_or_insert_default().labels.get_or_insert_default();
    labels.insert(HASH.to_owned(), hash.clone());
    let labels = labels.clone();
    selector.match_labels.get_or_insert_default().insert(HASH.to_owned(), hash.clone());
    let mut annotations: BTreeMap<String, String> = deployment.metadata.annotations.clone().unwrap_or_default();
    annotations.remove(LAST_APPLIED);
    annotations.insert(REVISION.to_owned(), (highest_revision(sets) + 1).to_string());
    let set = ReplicaSet {
        metadata: ObjectMeta {
            name: Some(format!("{}-{hash}", name(&deployment.metadata))),
            namespace: deployment.metadata.namespace.clone(),
            labels: Some(labels),
            annotations: Some(annotations),
            owner_references: Some(controlled_by(deployment)),
            ..ObjectMeta::default()
        },
        spec: Some(ReplicaSetSpec {
            replicas: Some(0),
            min_ready_seconds: spec.min_ready_seconds,
            selector,
            template: Some(template),
        }),
        status: None,
    };
    match world.create(&set).await {
        Ok(()) => {
            // The set's own event brings the next look, which scales it.
            world.queues.deployments.push(Key::of(&deployment.metadata));
            Ok(())
        }
        Err(failure) if failure.is_race() => {
            // The name is taken: by a set of this template that is about to be seen, or by something else.
            let taken = world.replica_sets.get(&Key::of(&set.metadata));
            if taken.is_some_and(|taken| !is_of_template(&taken, &spec.template)) {
                let status = json!({"collisionCount": collisions + 1});
                world.patch_status::<Deployment>(&Key::of(&deployment.metadata), status).await?;
            }
            Err(failure)
        }
        Err(failure) => {
            let message = format!("Failed to create new replica set {:?}: {failure}", name(&set.metadata));
            world.events.warning(deployment, "ReplicaSetCreateError", message).await;
            Err(failure)
        }
    }
}

fn revision(set: &ReplicaSet) -> i64 {
    let revision = set.metadata.annotations.as_ref().and_then(|annotations| annotations.get(REVISION));
    revision.and_then(|revision| revision.parse().ok()).unwrap_or(0)
}

fn highest_revision(sets: &[Arc<ReplicaSet>]) -> i64 {
    sets.iter().map(|set| revision(set)).max().unwrap_or(0)
}

/// The set in use has the highest revision; one that is rolled back to gets a new one.
async fn set_revision(
    world: &World,
    deployment: &Deployment,
    new: &ReplicaSet,
    sets: &[Arc<ReplicaSet>],
) -> Result<(), Failure> {
    let others: Vec<_> = sets.iter().filter(|set| set.metadata.name != new.metadata.name).cloned().collect();
    let wanted = revision(new).max(highest_revision(&others) + 1).to_string();
    if revision(new).to_string() != wanted {
        let patch = json!({"metadata": {"annotations": {REVISION: wanted}}});
        world.patch::<ReplicaSet>(&Key::of(&new.metadata), patch).await?;
    }
    let own = deployment.metadata.annotations.as_ref().and_then(|annotations| annotations.get(REVISION));
    if own != Some(&wanted) {
        let patch = json!({"metadata": {"annotations": {REVISION: wanted}}});
        world.patch::<Deployment>(&Key::of(&deployment.metadata), patch).await?;
    }
    Ok(())
}

async fn roll(
    world: &World,
    deployment: &Deployment,
    spec: &DeploymentSpec,
    new: Option<&Arc<ReplicaSet>>,
    sets: &[Arc<ReplicaSet>],
) -> Result<(), Failure> {
    let replicas = spec.replicas.unwrap_or(1);
    let old: Vec<&Arc<ReplicaSet>> =
        sets.iter().filter(|set| new.is_none_or(|new| new.metadata.name != set.metadata.name)).collect();
    let is_paused = spec.paused == Some(true);
    let Some(new) = new.or_else(|| old.last().copied()) else { return Ok(()) };
    if is_paused {
        // While paused only the number counts, and only where no rollout is half done.
        if old.iter().all(|set| set.metadata.name == new.metadata.name || replicas_of(set) == 0) {
            return scale_set(world, deployment, new, replicas).await;
        }
        return Ok(());
    }
    let (surge, unavailable) = slack_of(spec);
    let recreate = spec.strategy.as_ref().and_then(|strategy| strategy.type_.as_deref()) == Some("Recreate");
    let pods = old.iter().flat_map(|set| pods_of(world, &set.metadata)).filter(|pod| !has_ended(pod));
    let rollout = Rollout { replicas, surge, unavailable, recreate, old_pods: pods.count() };
    let old_numbers: Vec<Set> = old.iter().map(|set| numbers(set)).collect();
    let (count, counts) = scale(rollout, numbers(new), &old_numbers);
    scale_set(world, deployment, new, count).await?;
    for (set, count) in old.iter().zip(counts) {
        scale_set(world, deployment, set, count).await?;
    }
    let seconds = spec.min_ready_seconds.unwrap_or(0);
    if new.spec.as_ref().and_then(|spec| spec.min_ready_seconds).unwrap_or(0) != seconds {
        let patch = json!({"spec": {"minReadySeconds": seconds}});
        world.patch::<ReplicaSet>(&Key::of(&new.metadata), patch).await?;
    }
    forget_history(world, spec, &old).await
}

fn replicas_of(set: &ReplicaSet) -> i32 {
    set.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1)
}

fn numbers(set: &ReplicaSet) -> Set {
    let available = set.status.as_ref().and_then(|status| status.available_replicas).unwrap_or(0);
    Set { replicas: replicas_of(set), available }
}

async fn scale_set(world: &World, deployment: &Deployment, set: &ReplicaSet, count: i32) -> Result<(), Failure> {
    let from = replicas_of(set);
    if from == count {
        return Ok(());
    }
    world.patch::<ReplicaSet>(&Key::of(&set.metadata), json!({"spec": {"replicas": count}})).await?;
    let direction = if count > from { "up" } else { "down" };
    let message = format!("Scaled {direction} replica set {} from {from} to {count}", name(&set.metadata));
    world.events.normal(deployment, "ScalingReplicaSet", message).await;
    Ok(())
}

/// Deletes the oldest sets beyond the history that is kept.
async fn forget_history(world: &World, spec: &DeploymentSpec, old: &[&Arc<ReplicaSet>]) -> Result<(), Failure> {
    let kept = usize::try_from(spec.revision_history_limit.unwrap_or(HISTORY)).unwrap_or(0);
    let is_done = |set: &&&Arc<ReplicaSet>| {
        let status = set.status.as_ref();
        replicas_of(set) == 0
            && status
                .is_some_and(|status| status.replicas == 0 && status.observed_generation >= set.metadata.generation)
    };
    let mut done: Vec<&&Arc<ReplicaSet>> = old.iter().filter(is_done).collect();
    done.sort_by_key(|set| revision(set));
    for set in done.iter().take(done.len().saturating_sub(kept)) {
        let set: &ReplicaSet = set;
        world.delete(set, DeleteParams::background()).await?;
    }
    Ok(())
}
