//! Whether what was applied has come up: `kubectl rollout status` as a function, and waiting for it.

use std::collections::BTreeMap;
use std::time::Duration;

use atoll_chart::ObjectRef;
use serde_json::Value as Json;
use tokio::time::{Instant, sleep};

use crate::error::{DeployError, doing};
use crate::objects::Objects;
use crate::tell::{Note, Tell};

/// How long something may take to come up: images of a gigabyte come over slow lines, and Helm waits as long.
const READY_WITHIN: Duration = Duration::from_secs(300);

/// Between two looks.
const LOOK_EVERY: Duration = Duration::from_millis(300);

/// How far a workload is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Progress {
    /// Replicas of the wanted version that are ready.
    pub(crate) ready: u64,
    /// Replicas wanted.
    pub(crate) wanted: u64,
    /// Whether nothing is left to do.
    pub(crate) done: bool,
}

/// How far an object is; `None` for kinds that are there as soon as they are written.
pub(crate) fn progress(object: &Json) -> Option<Progress> {
    let (spec, status) = (&object["spec"], &object["status"]);
    let count = |it: &Json| it.as_u64().unwrap_or(0);
    let wanted = spec["replicas"].as_u64().unwrap_or(1);
    let seen = count(&status["observedGeneration"]) >= count(&object["metadata"]["generation"]);
    let (ready, updated) = (count(&status["readyReplicas"]), count(&status["updatedReplicas"]));
    match object["kind"].as_str()? {
        "Deployment" => {
            let available = count(&status["availableReplicas"]);
            let only_new = count(&status["replicas"]) == updated;
            let done = seen && updated >= wanted && only_new && available >= wanted;
            Some(Progress { ready: ready.min(updated), wanted, done })
        }
        "StatefulSet" => {
            let one_version = status["updateRevision"] == status["currentRevision"];
            let done = seen && ready >= wanted && (updated >= wanted || one_version);
            Some(Progress { ready: if one_version { ready } else { ready.min(updated) }, wanted, done })
        }
        _ => None,
    }
}

/// Waits until all of the objects have come up, telling what is waited for whenever that changes.
pub(crate) async fn wait(objects: &Objects, all: &[Json], namespace: &str, tell: &Tell) -> Result<(), DeployError> {
    let deadline = Instant::now() + READY_WITHIN;
    let workloads: Vec<ObjectRef> = all.iter().filter(|it| progress(it).is_some()).map(ObjectRef::of).collect();
    let mut told = String::new();
    loop {
        let mut missing = Vec::new();
        for of in &workloads {
            let found = objects.get(of, namespace).await;
            // An API that does not answer just now may soon: its node may be starting again.
            match found {
                Ok(Some(object)) => missing.extend(progress(&object).filter(|it| !it.done).map(|it| say(of, it))),
                Ok(None) => missing.push(format!("{of} was deleted")),
                Err(error) => missing.push(error.to_string()),
            }
        }
        if missing.is_empty() {
            return Ok(());
        }
        let text = missing.join(", ");
        if Instant::now() >= deadline {
            let why = complaints(objects, namespace, all).await.unwrap_or_default();
            let missing = [text].into_iter().chain(why).collect::<Vec<_>>().join("; ");
            return Err(DeployError::NotReady {
                what: "what was applied".into(),
                seconds: READY_WITHIN.as_secs(),
                missing,
            });
        }
        if text != told {
            tell(Note::Waiting(text.clone()));
            told = text;
        }
        sleep(LOOK_EVERY).await;
    }
}

fn say(of: &ObjectRef, Progress { ready, wanted, .. }: Progress) -> String {
    format!("{} {}: {ready} of {wanted} ready", of.kind, of.name)
}

/// What the pods of these workloads complain of.
async fn complaints(objects: &Objects, namespace: &str, all: &[Json]) -> Result<Vec<String>, DeployError> {
    let mut said = BTreeMap::new();
    for workload in all.iter().filter(|it| progress(it).is_some()) {
        let labels = workload["spec"]["selector"]["matchLabels"].as_object().into_iter().flatten();
        let selector: Vec<String> = labels.map(|(key, it)| format!("{key}={}", it.as_str().unwrap_or(""))).collect();
        let namespace = workload["metadata"]["namespace"].as_str().unwrap_or(namespace);
        let pods =
            objects.list("v1", "Pod", Some(namespace), &selector.join(",")).await.map_err(doing("reading pods"))?;
        for pod in pods {
            if let Some(why) = complaint(&pod) {
                said.insert(pod["metadata"]["name"].as_str().unwrap_or_default().to_owned(), why);
            }
        }
    }
    Ok(said.into_iter().map(|(pod, why)| format!("pod {pod}: {why}")).collect())
}

/// Why a pod is not ready, as far as it says so.
fn complaint(pod: &Json) -> Option<String> {
    let status = &pod["status"];
    let waiting = status["containerStatuses"].as_array().into_iter().flatten().find_map(|container| {
        let waiting = &container["state"]["waiting"];
        let reason = waiting["reason"].as_str()?;
        Some([reason, waiting["message"].as_str().unwrap_or("")].join(" ").trim().to_owned())
    });
    waiting.or_else(|| {
        let conditions = status["conditions"].as_array().into_iter().flatten();
        let failing = conditions.filter(|it| it["status"] == "False" && it["message"].is_string());
        failing.filter_map(|it| it["message"].as_str()).next().map(ToOwned::to_owned)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn workloads_come_up() {
        let check = |object: Json, expect: Option<(u64, u64, bool)>| {
            let found = progress(&object).map(|it| (it.ready, it.wanted, it.done));
            assert_eq!(found, expect, "{object}");
        };
        let deployment = |status: Json| json!({"kind": "Deployment", "metadata": {"generation": 2}, "spec": {"replicas": 2}, "status": status});
        check(deployment(json!({})), Some((0, 2, false)));
        let old = json!({"observedGeneration": 1, "replicas": 2, "updatedReplicas": 2, "readyReplicas": 2, "availableReplicas": 2});
        check(deployment(old), Some((2, 2, false)));
        let surge = json!({"observedGeneration": 2, "replicas": 3, "updatedReplicas": 2, "readyReplicas": 3, "availableReplicas": 3});
        check(deployment(surge), Some((2, 2, false)));
        let done = json!({"observedGeneration": 2, "replicas": 2, "updatedReplicas": 2, "readyReplicas": 2, "availableReplicas": 2});
        check(deployment(done), Some((2, 2, true)));
        let set =
            |status: Json| json!({"kind": "StatefulSet", "metadata": {"generation": 1}, "spec": {}, "status": status});
        let rolling = json!({"observedGeneration": 1, "readyReplicas": 1, "updatedReplicas": 0, "currentRevision": "a", "updateRevision": "b"});
        check(set(rolling), Some((0, 1, false)));
        let done = json!({"observedGeneration": 1, "readyReplicas": 1, "currentRevision": "b", "updateRevision": "b"});
        check(set(done), Some((1, 1, true)));
        check(json!({"kind": "Service"}), None);
    }

    #[test]
    fn pods_say_what_is_wrong() {
        let check = |status: Json, expect: Option<&str>| {
            assert_eq!(complaint(&json!({"status": status})).as_deref(), expect, "{status}");
        };
        let waiting = json!({"state": {"waiting": {"reason": "ErrImagePull", "message": "no such image"}}});
        check(json!({"containerStatuses": [waiting]}), Some("ErrImagePull no such image"));
        let unscheduled = json!({"type": "PodScheduled", "status": "False", "message": "0 of 2 nodes fit"});
        check(json!({"conditions": [unscheduled]}), Some("0 of 2 nodes fit"));
        check(json!({"conditions": [{"status": "True", "message": "x"}]}), None);
    }
}
