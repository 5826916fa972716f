//! Decisions as tables: nodes, pods that are there, the pod to place, and the node or the reasons.
#![allow(clippy::unwrap_used, reason = "tests")]

use k8s_openapi::api::core::v1::{Node, Pod, VolumeNodeAffinity};
use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

fn node(name: &str, extra: Value) -> Node {
    let mut node = json!({"metadata": {"name": name, "labels": {"kubernetes.io/hostname": name}},
        "status": {"allocatable": {"cpu": "2", "memory": "4Gi", "pods": "3"}}});
    overlay(&mut node, extra);
    serde_json::from_value(node).unwrap()
}

fn pod(name: &str, place: Option<&str>, spec: Value) -> Pod {
    let mut pod = json!({"metadata": {"name": name, "uid": name, "namespace": "default", "labels": {"app": "web"}},
        "spec": {"nodeName": place, "containers": [{"name": "c", "resources": {"requests": {"cpu": "500m"}}}]}});
    overlay(&mut pod["spec"], spec);
    serde_json::from_value(pod).unwrap()
}

fn overlay(base: &mut Value, extra: Value) {
    match (base, extra) {
        (Value::Object(base), Value::Object(extra)) => {
            for (name, value) in extra {
                overlay(base.entry(name).or_insert(Value::Null), value);
            }
        }
        (base, extra) => *base = extra,
    }
}

fn cluster(nodes: &[(&str, Value)], pods: &[(&str, &str, Value)]) -> Cluster {
    let mut cluster = Cluster::default();
    nodes.iter().for_each(|(name, extra)| cluster.set_node(&node(name, extra.clone())));
    pods.iter().for_each(|(name, place, spec)| cluster.set_pod(&pod(name, Some(place), spec.clone())));
    cluster
}

fn check(cluster: &Cluster, spec: Value, expect: Result<&str, &str>) {
    let placed = cluster.place(&pod("new", None, spec.clone()), &[]);
    assert_eq!(placed.as_deref().map_err(ToString::to_string), expect.map_err(str::to_owned), "{spec}");
}

#[test]
fn reasons_are_worded_as_kubernetes_words_them() {
    check(&cluster(&[], &[]), json!({}), Err("no nodes available to schedule pods"));
    let tainted = json!({"spec": {"taints": [{"key": "node.kubernetes.io/unreachable", "effect": "NoSchedule"}]}});
    let three = cluster(
        &[
            ("a", json!({"spec": {"unschedulable": true}})),
            ("b", tainted),
            ("c", json!({"status": {"allocatable": {"cpu": "100m", "memory": "1Mi"}}})),
        ],
        &[],
    );
    let much = json!({"containers": [{"name": "c", "resources": {"requests": {"cpu": "500m", "memory": "1Gi"}}}]});
    check(
        &three,
        much,
        Err("0/3 nodes are available: 1 Insufficient cpu, 1 Insufficient memory, \
             1 node(s) had untolerated taint {node.kubernetes.io/unreachable: }, 1 node(s) were unschedulable."),
    );
    let two = cluster(&[("a", json!({})), ("b", json!({}))], &[]);
    check(
        &two,
        json!({"nodeSelector": {"disk": "ssd"}}),
        Err("0/2 nodes are available: 2 node(s) didn't match Pod's node affinity/selector."),
    );
    let unready = json!({"status": {"conditions": [{"type": "Ready", "status": "Unknown"}]}});
    check(&cluster(&[("a", unready)], &[]), json!({}), Err("0/1 nodes are available: 1 node(s) were not ready."));
}

#[test]
fn resources_ports_and_counts() {
    let full = cluster(&[("a", json!({}))], &[("1", "a", json!({})), ("2", "a", json!({})), ("3", "a", json!({}))]);
    check(&full, json!({}), Err("0/1 nodes are available: 1 Too many pods."));
    let big = json!({"containers": [{"name": "c", "resources": {"limits": {"cpu": "1600m"}}}]});
    let used = cluster(&[("a", json!({}))], &[("1", "a", json!({}))]);
    check(&used, big, Err("0/1 nodes are available: 1 Insufficient cpu."));
    let starting = json!({"initContainers": [{"name": "i", "resources": {"requests": {"cpu": "3"}}}]});
    check(&used, starting, Err("0/1 nodes are available: 1 Insufficient cpu."));
    check(
        &used,
        json!({"overhead": {"example.com/gpu": "1"}}),
        Err("0/1 nodes are available: 1 Insufficient example.com/gpu."),
    );
    let port = json!({"containers": [{"name": "c", "ports": [{"containerPort": 80, "hostPort": 80}]}]});
    let ported = cluster(&[("a", json!({})), ("b", json!({}))], &[("1", "a", port.clone())]);
    check(&ported, port, Ok("b"));
}

#[test]
fn pods_that_ended_or_went_take_nothing() {
    let mut one = cluster(&[("a", json!({"status": {"allocatable": {"pods": "1"}}}))], &[("1", "a", json!({}))]);
    check(&one, json!({}), Err("0/1 nodes are available: 1 Too many pods."));
    let mut ended = pod("1", Some("a"), json!({}));
    ended.status = serde_json::from_value(json!({"phase": "Succeeded"})).unwrap();
    one.set_pod(&ended);
    check(&one, json!({}), Ok("a"));
    one.set_pod(&pod("1", Some("a"), json!({})));
    one.remove_node("a");
    check(&one, json!({}), Err("no nodes available to schedule pods"));
    one.set_node(&node("a", json!({"status": {"allocatable": {"pods": "1"}}})));
    check(&one, json!({}), Err("0/1 nodes are available: 1 Too many pods."));
    one.remove_pod("1");
    check(&one, json!({}), Ok("a"));
}

#[test]
fn affinity_in_both_directions() {
    let term = json!({"labelSelector": {"matchLabels": {"app": "web"}}, "topologyKey": "kubernetes.io/hostname"});
    let apart = json!({"affinity": {"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [term]}}});
    let near = json!({"affinity": {"podAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [term]}}});
    let nodes = [("a", json!({})), ("b", json!({}))];
    check(&cluster(&nodes, &[("1", "a", json!({}))]), apart.clone(), Ok("b"));
    check(&cluster(&nodes, &[("1", "a", json!({}))]), near.clone(), Ok("a"));
    check(&cluster(&nodes, &[("1", "a", apart.clone())]), json!({}), Ok("b"));
    let both = cluster(&nodes, &[("1", "a", json!({})), ("2", "b", json!({}))]);
    check(&both, apart.clone(), Err("0/2 nodes are available: 2 node(s) didn't match pod anti-affinity rules."));
    let keeping = cluster(&nodes[..1], &[("1", "a", apart)]);
    check(
        &keeping,
        json!({}),
        Err("0/1 nodes are available: 1 node(s) didn't satisfy existing pods anti-affinity rules."),
    );
    // The first of its kind may go anywhere.
    check(&cluster(&nodes[..1], &[]), near, Ok("a"));
    let other = json!({"labelSelector": {"matchLabels": {"app": "db"}}, "topologyKey": "kubernetes.io/hostname"});
    let near_other = json!({"affinity": {"podAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [other]}}});
    check(
        &cluster(&nodes[..1], &[]),
        near_other,
        Err("0/1 nodes are available: 1 node(s) didn't match pod affinity rules."),
    );
}

#[test]
fn spread() {
    let spread = |when: &str| {
        json!({"topologySpreadConstraints": [{"maxSkew": 1, "topologyKey": "kubernetes.io/hostname", "whenUnsatisfiable": when,
            "labelSelector": {"matchLabels": {"app": "web"}}}]})
    };
    let nodes = [("a", json!({})), ("b", json!({})), ("c", json!({"spec": {"unschedulable": true}}))];
    let skewed = cluster(&nodes[..2], &[("1", "a", json!({})), ("2", "a", json!({})), ("3", "b", json!({}))]);
    check(&skewed, spread("DoNotSchedule"), Ok("b"));
    check(&skewed, spread("ScheduleAnyway"), Ok("b"));
    // A cordoned node counts as a domain without pods, as in Kubernetes.
    let cordoned = cluster(&nodes, &[("1", "a", json!({})), ("2", "b", json!({}))]);
    check(
        &cordoned,
        spread("DoNotSchedule"),
        Err(
            "0/3 nodes are available: 1 node(s) were unschedulable, 2 node(s) didn't match pod topology spread constraints.",
        ),
    );
}

#[test]
fn preferences() {
    let soft = json!({"spec": {"taints": [{"key": "k", "effect": "PreferNoSchedule"}]}});
    check(&cluster(&[("a", soft), ("b", json!({}))], &[]), json!({}), Ok("b"));
    let ssd = json!({"metadata": {"labels": {"disk": "ssd"}}});
    let prefer = json!({"affinity": {"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [
        {"weight": 10, "preference": {"matchExpressions": [{"key": "disk", "operator": "Exists"}]}}]}}});
    check(&cluster(&[("a", ssd.clone()), ("b", json!({}))], &[]), prefer.clone(), Ok("a"));
    check(&cluster(&[("a", json!({})), ("b", ssd)], &[]), prefer, Ok("b"));
    let term = json!({"labelSelector": {"matchLabels": {"app": "web"}}, "topologyKey": "kubernetes.io/hostname"});
    let near = json!({"affinity": {"podAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [{"weight": 100, "podAffinityTerm": term}]}}});
    check(&cluster(&[("a", json!({})), ("b", json!({}))], &[("1", "b", json!({}))]), near, Ok("b"));
    check(&cluster(&[("a", json!({})), ("b", json!({}))], &[("1", "b", json!({}))]), json!({}), Ok("a"));
}

#[test]
fn replicas_part_without_being_told() {
    let owned = |name: &str, place: Option<&str>| {
        let mut pod = pod(name, place, json!({"containers": [{"name": "c"}]}));
        let owner =
            json!([{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "r", "uid": "r", "controller": true}]);
        pod.metadata.owner_references = serde_json::from_value(owner).unwrap();
        pod
    };
    let mut cluster =
        cluster(&[("a", json!({"status": {"allocatable": {"cpu": "64", "memory": "64Gi"}}})), ("b", json!({}))], &[]);
    cluster.set_pod(&owned("1", Some("a")));
    assert_eq!(cluster.place(&owned("2", None), &[]).unwrap(), "b");
}

#[test]
fn volumes_say_where() {
    let volume: VolumeNodeAffinity = serde_json::from_value(json!({"required": {"nodeSelectorTerms": [
        {"matchExpressions": [{"key": "kubernetes.io/hostname", "operator": "In", "values": ["b"]}]}]}}))
    .unwrap();
    let two = cluster(&[("a", json!({})), ("b", json!({}))], &[]);
    let placed = two.place(&pod("new", None, json!({})), std::slice::from_ref(&volume));
    assert_eq!(placed.unwrap(), "b");
    let one = cluster(&[("a", json!({}))], &[]);
    let error = one.place(&pod("new", None, json!({})), &[volume]).unwrap_err();
    assert_eq!(error.to_string(), "0/1 nodes are available: 1 node(s) had volume node affinity conflict.");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever is placed one after the other, no node is ever given more than it has, and a refusal names a reason for every node.
    #[test]
    fn nodes_are_never_overcommitted(requests in prop::collection::vec(1_i64..1200, 1..40), nodes in 1_usize..5) {
        let mut cluster = Cluster::default();
        for at in 0..nodes {
            cluster.set_node(&node(&format!("n{at}"), json!({"status": {"allocatable": {"pods": "100"}}})));
        }
        let mut used = std::collections::BTreeMap::new();
        for (at, milli) in requests.iter().enumerate() {
            let spec = json!({"containers": [{"name": "c", "resources": {"requests": {"cpu": format!("{milli}m")}}}]});
            let name = format!("p{at}");
            match cluster.place(&pod(&name, None, spec.clone()), &[]) {
                Ok(place) => {
                    *used.entry(place.clone()).or_insert(0) += milli;
                    prop_assert!(used[&place] <= 2000);
                    cluster.set_pod(&pod(&name, Some(&place), spec));
                }
                Err(error) => {
                    prop_assert_eq!(error.reasons.get("Insufficient cpu"), Some(&nodes));
                    for at in 0..nodes {
                        let there = *used.get(&format!("n{at}")).unwrap_or(&0);
                        prop_assert!(there + milli > 2000);
                    }
                }
            }
        }
    }
}
