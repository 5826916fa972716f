//! The pods of an eVDC, for whoever wants to see where its applications run and how they fare.

use serde_json::Value as Json;

use crate::Deploy;
use crate::error::{DeployError, doing};

/// A pod as its API has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodState {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// The member that it is on, once it is on one.
    pub node: Option<String>,
    /// `Running`, `Pending`, …, `Terminating`; or why it waits, such as `ImagePullBackOff`.
    pub state: String,
    /// Whether it takes requests.
    pub ready: bool,
    /// How often its containers were started again.
    pub restarts: u64,
}

impl Deploy {
    /// The pods of an eVDC, by namespace and name.
    ///
    /// # Errors
    /// [`DeployError`]
    pub async fn pods(&self, evdc: &str) -> Result<Vec<PodState>, DeployError> {
        let objects = self.objects(evdc).await?;
        let pods = objects.list("v1", "Pod", None, "").await.map_err(doing("reading pods"))?;
        let mut pods: Vec<_> = pods.iter().map(pod).collect();
        pods.sort_by(|a, b| (&a.namespace, &a.name).cmp(&(&b.namespace, &b.name)));
        Ok(pods)
    }
}

fn pod(pod: &Json) -> PodState {
    let text = |value: &Json| value.as_str().unwrap_or_default().to_owned();
    let containers = || pod["status"]["containerStatuses"].as_array().into_iter().flatten();
    let waits_for = containers().find_map(|it| it["state"]["waiting"]["reason"].as_str());
    let conditions = || pod["status"]["conditions"].as_array().into_iter().flatten();
    let leaving = !pod["metadata"]["deletionTimestamp"].is_null();
    PodState {
        namespace: text(&pod["metadata"]["namespace"]),
        name: text(&pod["metadata"]["name"]),
        node: pod["spec"]["nodeName"].as_str().map(str::to_owned),
        state: match waits_for {
            _ if leaving => "Terminating".to_owned(),
            Some(reason) => reason.to_owned(),
            None => text(&pod["status"]["phase"]),
        },
        ready: conditions().any(|it| it["type"] == "Ready" && it["status"] == "True"),
        restarts: containers().filter_map(|it| it["restartCount"].as_u64()).sum(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn pods_say_how_they_fare() {
        let check = |status: Json, deleted: Json, expect: (&str, bool, u64)| {
            let object = json!({"metadata": {"namespace": "default", "name": "web-1", "deletionTimestamp": deleted},
                "spec": {"nodeName": "node-2"}, "status": status});
            let seen = pod(&object);
            assert_eq!((seen.state.as_str(), seen.ready, seen.restarts), expect, "{object}");
            assert_eq!((seen.name.as_str(), seen.node.as_deref()), ("web-1", Some("node-2")));
        };
        let runs = json!({"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}],
            "containerStatuses": [{"restartCount": 2, "state": {"running": {}}}, {"restartCount": 1, "state": {"running": {}}}]});
        check(runs.clone(), Json::Null, ("Running", true, 3));
        check(runs, json!("2026-11-30T00:00:00Z"), ("Terminating", true, 3));
        let waits = json!({"phase": "Pending",
            "containerStatuses": [{"restartCount": 0, "state": {"waiting": {"reason": "ImagePullBackOff"}}}]});
        check(waits, Json::Null, ("ImagePullBackOff", false, 0));
        check(json!({}), Json::Null, ("", false, 0));
    }
}
