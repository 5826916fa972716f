//! The controllers against the API server of this workspace, with nodes whose kubelets only say that pods run.
#![allow(clippy::unwrap_used, missing_docs, unreachable_pub, reason = "tests")]

use k8s_openapi::api::{
    apps::v1::{Deployment, ReplicaSet, StatefulSet},
    core::v1::{Namespace, PersistentVolumeClaim, Pod, Service},
    discovery::v1::EndpointSlice,
    storage::v1::StorageClass,
};
use kube::{
    Api, ResourceExt,
    api::{DeleteParams, ListParams, Patch, PatchParams, PostParams},
};
use serde_json::{Value, json};

use crate::harness::{Harness, is_ready, node_of};

#[path = "cluster/harness.rs"]
mod harness;

fn template(image: &str) -> Value {
    json!({"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [{"name": "c", "image": image}]}})
}

fn count_ready(pods: &[Pod]) -> usize {
    pods.iter().filter(|pod| is_ready(pod) && pod.metadata.deletion_timestamp.is_none()).count()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rollout_is_never_below_what_is_available() {
    let cluster = Harness::start(&["a", "b", "c"]).await;
    let rolling = json!({"rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}});
    cluster
        .make::<Deployment>(json!({"metadata": {"name": "web"}, "spec": {"replicas": 3, "strategy": rolling,
            "selector": {"matchLabels": {"app": "web"}}, "template": template("web:1")}}))
        .await;
    cluster
        .make::<Service>(
            json!({"metadata": {"name": "web"}, "spec": {"selector": {"app": "web"}, "ports": [{"port": 80}]}}),
        )
        .await;
    cluster.pods_until("three pods", |pods| count_ready(pods) == 3).await;
    let slices = Api::<EndpointSlice>::default_namespaced(cluster.client.clone());
    let three = async || {
        let slice = slices.get_opt("web-ipv6-0").await.unwrap()?;
        (slice.endpoints.len() == 3).then_some(())
    };
    cluster.until("three endpoints", three).await;
    let api = Api::<Deployment>::default_namespaced(cluster.client.clone());
    let patch = json!({"spec": {"template": template("web:2")}});
    api.patch("web", &PatchParams::default(), &Patch::Strategic(patch)).await.unwrap();
    let mut nodes = std::collections::BTreeSet::new();
    let rolled = |pods: &[Pod]| {
        assert!(count_ready(pods) >= 3, "fewer than promised");
        assert!(pods.iter().filter(|pod| pod.metadata.deletion_timestamp.is_none()).count() <= 4, "more than promised");
        nodes = pods.iter().map(|pod| node_of(pod).to_owned()).collect();
        pods.len() == 3
            && pods.iter().all(|pod| pod.spec.as_ref().unwrap().containers[0].image.as_deref() == Some("web:2"))
    };
    cluster.pods_until("the rollout", rolled).await;
    let finished = async || {
        let status = api.get("web").await.unwrap().status?;
        let progressing = status.conditions?.into_iter().find(|it| it.type_ == "Progressing")?;
        (status.updated_replicas == Some(3) && progressing.reason.as_deref() == Some("NewReplicaSetAvailable"))
            .then_some(())
    };
    cluster.until("the Deployment saying so", finished).await;
    let sets = Api::<ReplicaSet>::default_namespaced(cluster.client.clone());
    assert_eq!(sets.list(&ListParams::default()).await.unwrap().items.len(), 2, "the old set is kept to roll back to");
    // Deleting the Deployment takes everything with it.
    api.delete("web", &DeleteParams::background()).await.unwrap();
    cluster.pods_until("the end of all pods", <[Pod]>::is_empty).await;
    cluster
        .until("the end of all sets", async || {
            sets.list(&ListParams::default()).await.unwrap().items.is_empty().then_some(())
        })
        .await;
}

async fn database(cluster: &Harness, replicas: i32) {
    let class = json!({"metadata": {"name": "zstor"}, "provisioner": atoll_controllers::PROVISIONER});
    let classes = Api::<StorageClass>::all(cluster.client.clone());
    classes.create(&PostParams::default(), &serde_json::from_value(class).unwrap()).await.unwrap();
    let namespace = json!({"metadata": {"name": "shop"}});
    let namespaces = Api::<Namespace>::all(cluster.client.clone());
    namespaces.create(&PostParams::default(), &serde_json::from_value(namespace).unwrap()).await.unwrap();
    let claim = json!({"metadata": {"name": "data"}, "spec": {"accessModes": ["ReadWriteOnce"], "storageClassName": "zstor",
        "resources": {"requests": {"storage": "1Gi"}}}});
    cluster
        .make::<StatefulSet>(json!({"metadata": {"name": "db", "namespace": "shop"}, "spec": {"serviceName": "db", "replicas": replicas,
            "selector": {"matchLabels": {"app": "web"}}, "template": template("db:1"), "volumeClaimTemplates": [claim]}}))
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stateful_set_keeps_its_order_and_its_volumes() {
    let cluster = Harness::start(&["a", "b"]).await;
    database(&cluster, 3).await;
    let in_order = |pods: &[Pod]| {
        let names: Vec<String> = pods.iter().map(ResourceExt::name_any).collect();
        assert_eq!(names, ["db-0", "db-1", "db-2"][..names.len()], "not in order");
        let before_last = &pods[..pods.len().saturating_sub(1)];
        assert!(before_last.iter().all(is_ready), "one came before the others were ready");
        count_ready(pods) == 3
    };
    cluster.pods_until("three pods in order", in_order).await;
    assert_eq!(cluster.volumes.0.lock().unwrap().len(), 3);
    let api = Api::<StatefulSet>::namespaced(cluster.client.clone(), "shop");
    api.patch("db", &PatchParams::default(), &Patch::Merge(json!({"spec": {"replicas": 1}}))).await.unwrap();
    cluster.pods_until("one pod", |pods| pods.len() == 1 && pods[0].name_any() == "db-0").await;
    let claims = Api::<PersistentVolumeClaim>::namespaced(cluster.client.clone(), "shop");
    assert_eq!(claims.list(&ListParams::default()).await.unwrap().items.len(), 3, "claims stay");
    // With the namespace everything goes, in the end the volumes.
    let namespaces = Api::<Namespace>::all(cluster.client.clone());
    namespaces.delete("shop", &DeleteParams::default()).await.unwrap();
    cluster
        .until("the end of the namespace", async || namespaces.get_opt("shop").await.unwrap().is_none().then_some(()))
        .await;
    cluster.until("the end of the volumes", async || cluster.volumes.0.lock().unwrap().is_empty().then_some(())).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pods_of_a_dead_node_move() {
    let cluster = Harness::start(&["a", "b"]).await;
    database(&cluster, 1).await;
    let mut place = String::new();
    let runs = |pods: &[Pod]| {
        place = pods.first().map(|pod| node_of(pod).to_owned()).unwrap_or_default();
        count_ready(pods) == 1
    };
    cluster.pods_until("the database", runs).await;
    cluster.kill(&place);
    let moved = |pods: &[Pod]| {
        assert!(pods.len() <= 1, "two pods of one name");
        pods.iter().all(|pod| node_of(pod) != place && !node_of(pod).is_empty()) && count_ready(pods) == 1
    };
    cluster.pods_until("the database on the other node", moved).await;
    assert_eq!(cluster.volumes.0.lock().unwrap().len(), 1, "the volume is the same");
}
