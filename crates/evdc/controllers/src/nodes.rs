//! The life of nodes: whether one is still heard of, what taints that gives, and what becomes of the pods on one that is not.
//!
//! A node is heard of when its Lease changes, by this process's own clock: clocks of nodes need not agree, and a restart gives everyone a full grace
//! period anew.

use std::{
    collections::{BTreeSet, HashMap},
    sync::{Arc, PoisonError},
    time::{Duration, Instant},
};

use jiff::Timestamp;
use k8s_openapi::api::{
    coordination::v1::Lease,
    core::v1::{Node, Pod, Taint, Toleration},
};
use kube::{
    Api,
    api::{DeleteParams, Patch},
};
use serde_json::json;
use tracing::info;

use crate::{
    Config,
    driver::Again,
    objects::{Key, has_ended, is_leaving, is_ready, name, node_condition, node_of, now},
    world::{Failure, World, writer},
};

/// Where nodes' Leases are.
pub(crate) const LEASE_NAMESPACE: &str = "kube-node-lease";

const NOT_READY: &str = "node.kubernetes.io/not-ready";
const UNREACHABLE: &str = "node.kubernetes.io/unreachable";

/// When each node was last heard of.
#[derive(Default)]
pub(crate) struct Renewals(HashMap<String, (Option<Timestamp>, Instant)>);

impl Renewals {
    fn heard(&mut self, node: &str, time: Option<Timestamp>) -> Instant {
        let entry = self.0.entry(node.to_owned()).or_insert_with(|| (time, Instant::now()));
        if entry.0 != time {
            *entry = (time, Instant::now());
        }
        entry.1
    }
}

fn renewals(world: &World) -> std::sync::MutexGuard<'_, Renewals> {
    world.renewals.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A node's Lease has changed.
pub(crate) fn renewed(world: &World, lease: &Lease) {
    let time = lease.spec.as_ref().and_then(|spec| spec.renew_time.as_ref()).map(|time| time.0);
    renewals(world).heard(name(&lease.metadata), time);
}

/// Whether the node counts as gone.
pub(crate) fn is_gone(node: &Node) -> bool {
    node_condition(node, "Ready") == Some("Unknown")
}

pub(crate) async fn look(world: &World, key: &Key) -> Result<Again, Failure> {
    let pods = pods_on(world, &key.name);
    let lease = world.leases.get(&Key::new(LEASE_NAMESPACE, &key.name));
    let time = lease.as_ref().and_then(|lease| lease.spec.as_ref()?.renew_time.as_ref()).map(|time| time.0);
    let silent = renewals(world).heard(&key.name, time).elapsed();
    let is_late = silent >= world.config.node_grace;
    let soon = world.config.node_grace.saturating_sub(silent) + Duration::from_millis(10);
    let Some(node) = world.nodes.get(key) else {
        if pods.is_empty() {
            renewals(world).0.remove(&key.name);
            return Ok(None);
        }
        // Nobody will confirm the end of pods on a node that does not exist.
        if is_late {
            for pod in pods {
                force_delete(world, &pod, "the node does not exist").await?;
            }
        }
        return Ok((!is_late).then_some(soon));
    };
    if is_late && !is_gone(&node) {
        info!(node = key.name, silent_seconds = silent.as_secs(), "the node is not heard of any more");
        set_unknown(world, &node).await?;
        return Ok(Some(Duration::ZERO));
    }
    set_taints(world, &node).await?;
    let node = world.nodes.get(key).unwrap_or(node);
    let mut again = (!is_late).then_some(soon);
    for pod in pods {
        let next = look_at_pod(world, &node, &pod).await?;
        again = again.into_iter().chain(next).min();
    }
    Ok(again)
}

fn pods_on(world: &World, node: &str) -> Vec<Arc<Pod>> {
    world.pods.all().into_iter().filter(|pod| node_of(pod) == Some(node) && !has_ended(pod)).collect()
}

async fn set_unknown(world: &World, node: &Node) -> Result<(), Failure> {
    let before = node.status.as_ref().and_then(|status| status.conditions.as_deref()).unwrap_or_default();
    let heartbeat = before.iter().find(|it| it.type_ == "Ready").and_then(|it| it.last_heartbeat_time.clone());
    let condition = json!({"type": "Ready", "status": "Unknown", "reason": "NodeStatusUnknown",
        "message": "Kubelet stopped posting node status.", "lastTransitionTime": now(), "lastHeartbeatTime": heartbeat});
    let patch = Patch::Strategic(json!({"status": {"conditions": [condition]}}));
    let api = Api::<Node>::all(world.client.clone());
    world.learn(api.patch_status(name(&node.metadata), &writer(), &patch).await?);
    world
        .events
        .normal(node, "NodeNotReady", format!("Node {} status is now: NodeNotReady", name(&node.metadata)))
        .await;
    Ok(())
}

/// The taints that a node's readiness gives, with those that others gave.
fn taints(node: &Node) -> Vec<Taint> {
    let own = match node_condition(node, "Ready") {
        Some("True") | None => None,
        Some("Unknown") => Some(UNREACHABLE),
        Some(_) => Some(NOT_READY),
    };
    let before = node.spec.as_ref().and_then(|spec| spec.taints.clone()).unwrap_or_default();
    let is_ours = |taint: &Taint| matches!(taint.key.as_str(), NOT_READY | UNREACHABLE);
    let mut taints: Vec<Taint> =
        before.iter().filter(|taint| !is_ours(taint) || Some(taint.key.as_str()) == own).cloned().collect();
    for effect in ["NoSchedule", "NoExecute"] {
        if let Some(key) = own
            && !taints.iter().any(|taint| taint.key == key && taint.effect == effect)
        {
            let (key, effect) = (key.to_owned(), effect.to_owned());
            taints.push(Taint { key, effect, time_added: Some(now()), value: None });
        }
    }
    taints
}

async fn set_taints(world: &World, node: &Node) -> Result<(), Failure> {
    let wanted = taints(node);
    let before = node.spec.as_ref().and_then(|spec| spec.taints.as_deref()).unwrap_or_default();
    if before != wanted.as_slice() {
        let version = &node.metadata.resource_version;
        let patch = json!({"metadata": {"resourceVersion": version}, "spec": {"taints": wanted}});
        let api = Api::<Node>::all(world.client.clone());
        world.learn(api.patch(name(&node.metadata), &writer(), &Patch::Merge(patch)).await?);
    }
    Ok(())
}

async fn look_at_pod(world: &World, node: &Node, pod: &Pod) -> Result<Again, Failure> {
    let is_gone = is_gone(node);
    if is_gone && is_ready(pod) {
        let condition =
            json!({"type": "Ready", "status": "False", "reason": "NodeNotReady", "lastTransitionTime": now()});
        let api = Api::<Pod>::namespaced(world.client.clone(), crate::objects::namespace(&pod.metadata));
        let patch = Patch::Strategic(json!({"status": {"conditions": [condition]}}));
        world.learn(api.patch_status(name(&pod.metadata), &writer(), &patch).await?);
    }
    match verdict(&world.config, node, pod, Timestamp::now()) {
        Verdict::Stay => Ok(None),
        Verdict::Wait(left) => Ok(Some(left)),
        Verdict::Evict => {
            let node = name(&node.metadata);
            world
                .events
                .normal(pod, "TaintManagerEviction", format!("Marking for deletion Pod: node {node} is tainted"))
                .await;
            world.delete(pod, DeleteParams::default()).await?;
            Ok(None)
        }
        Verdict::ForceDelete => {
            force_delete(world, pod, "the node is not heard of, and the time for it to confirm is over").await?;
            Ok(None)
        }
    }
}

async fn force_delete(world: &World, pod: &Pod, why: &str) -> Result<(), Failure> {
    info!(pod = %Key::of(&pod.metadata), why, "deleted without confirmation");
    world.delete(pod, DeleteParams::default().grace_period(0)).await
}

/// What becomes of a pod on a node.
#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    Stay,
    Wait(Duration),
    Evict,
    ForceDelete,
}

fn verdict(config: &Config, node: &Node, pod: &Pod, now: Timestamp) -> Verdict {
    let until = |end: Timestamp, then: Verdict| {
        let left = Duration::try_from(end.duration_since(now)).unwrap_or_default();
        if left.is_zero() { then } else { Verdict::Wait(left + Duration::from_millis(10)) }
    };
    if is_leaving(&pod.metadata) {
        // The deletion's time is when it should be over; it was asked for that much earlier.
        let grace = pod.metadata.deletion_grace_period_seconds.unwrap_or(0).max(0).unsigned_abs();
        let asked = pod.metadata.deletion_timestamp.as_ref().map_or(now, |time| before(time.0, grace));
        if !is_gone(node) {
            return Verdict::Stay;
        }
        return until(after(asked, config.force_delete_after), Verdict::ForceDelete);
    }
    let taints = node.spec.as_ref().and_then(|spec| spec.taints.as_deref()).unwrap_or_default();
    let tolerations = pod.spec.as_ref().and_then(|spec| spec.tolerations.as_deref()).unwrap_or_default();
    let ends: BTreeSet<Timestamp> =
        taints.iter().filter_map(|taint| end_under(config, taint, tolerations, now)).collect();
    ends.first().map_or(Verdict::Stay, |end| until(*end, Verdict::Evict))
}

/// When a pod has to go because of a taint.
fn end_under(config: &Config, taint: &Taint, tolerations: &[Toleration], now: Timestamp) -> Option<Timestamp> {
    if taint.effect != "NoExecute" {
        return None;
    }
    let tolerating: Vec<&Toleration> =
        tolerations.iter().filter(|toleration| atoll_scheduler::tolerates(toleration, taint)).collect();
    let since = taint.time_added.as_ref().map_or(now, |time| time.0);
    if tolerating.is_empty() && !matches!(taint.key.as_str(), NOT_READY | UNREACHABLE) {
        return Some(since);
    }
    Some(after(since, config.stay(&tolerating)?))
}

fn after(time: Timestamp, wait: Duration) -> Timestamp {
    time.checked_add(wait).unwrap_or(Timestamp::MAX)
}

fn before(time: Timestamp, seconds: u64) -> Timestamp {
    time.checked_sub(Duration::from_secs(seconds)).unwrap_or(Timestamp::MIN)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use serde_json::Value;

    use super::*;

    fn node(ready: &str, taints: Value) -> Node {
        serde_json::from_value(json!({"metadata": {"name": "a"}, "spec": {"taints": taints},
            "status": {"conditions": [{"type": "Ready", "status": ready}]}}))
        .unwrap()
    }

    fn pod(meta: Value, tolerations: Value) -> Pod {
        serde_json::from_value(json!({"metadata": meta, "spec": {"containers": [], "tolerations": tolerations}}))
            .unwrap()
    }

    #[test]
    fn taints_follow_readiness() {
        let keys = |node: &Node| taints(node).iter().map(|it| format!("{}:{}", it.key, it.effect)).collect::<Vec<_>>();
        let other = json!([{"key": "mine", "effect": "NoSchedule"}, {"key": NOT_READY, "effect": "NoExecute"}]);
        assert_eq!(keys(&node("True", other.clone())), ["mine:NoSchedule"]);
        let unreachable = [format!("{UNREACHABLE}:NoSchedule"), format!("{UNREACHABLE}:NoExecute")];
        assert_eq!(keys(&node("Unknown", other.clone()))[1..], unreachable);
        assert_eq!(
            keys(&node("False", other)),
            ["mine:NoSchedule".to_owned(), format!("{NOT_READY}:NoExecute"), format!("{NOT_READY}:NoSchedule")]
        );
    }

    #[test]
    fn who_stays_and_who_goes() {
        let config = Config {
            evict_after: Duration::from_secs(300),
            force_delete_after: Duration::from_secs(30),
            ..Config::default()
        };
        let gone =
            node("Unknown", json!([{"key": UNREACHABLE, "effect": "NoExecute", "timeAdded": "2026-01-01T00:00:00Z"}]));
        let check = |node: &Node, pod: &Pod, at: &str, expect: Verdict| {
            let found = match verdict(&config, node, pod, at.parse().unwrap()) {
                Verdict::Wait(left) => Verdict::Wait(Duration::from_secs(left.as_secs())),
                other => other,
            };
            assert_eq!(found, expect, "at {at}");
        };
        let plain = pod(json!({}), json!([]));
        check(&gone, &plain, "2026-01-01T00:01:00Z", Verdict::Wait(Duration::from_secs(240)));
        check(&gone, &plain, "2026-01-01T00:05:00Z", Verdict::Evict);
        check(&node("True", json!([])), &plain, "2026-01-01T00:05:00Z", Verdict::Stay);
        let short = pod(
            json!({}),
            json!([{"key": UNREACHABLE, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 5}]),
        );
        check(&gone, &short, "2026-01-01T00:00:05Z", Verdict::Evict);
        let ever = pod(json!({}), json!([{"operator": "Exists"}]));
        check(&gone, &ever, "2026-02-01T00:00:00Z", Verdict::Stay);
        let drained =
            node("True", json!([{"key": "drain", "effect": "NoExecute", "timeAdded": "2026-01-01T00:00:00Z"}]));
        check(&drained, &plain, "2026-01-01T00:00:00Z", Verdict::Evict);
        let leaving =
            pod(json!({"deletionTimestamp": "2026-01-01T00:01:00Z", "deletionGracePeriodSeconds": 30}), json!([]));
        check(&gone, &leaving, "2026-01-01T00:00:50Z", Verdict::Wait(Duration::from_secs(10)));
        check(&gone, &leaving, "2026-01-01T00:01:00Z", Verdict::ForceDelete);
        check(&node("True", json!([])), &leaving, "2026-02-01T00:00:00Z", Verdict::Stay);
    }
}
