//! The chart engine's [`Cluster`] over [`Objects`].

use std::time::Duration;

use atoll_chart::{Cluster, ClusterError, ObjectRef};
use serde_json::Value as Json;
use tokio::time::{Instant, sleep};

use crate::objects::Objects;

/// How long a hook may run: Helm's own default.
const HOOK_WITHIN: Duration = Duration::from_secs(300);

/// Between two looks at a hook.
const LOOK_EVERY: Duration = Duration::from_millis(500);

impl Cluster for Objects {
    async fn get(&self, object: &ObjectRef, namespace: &str) -> Result<Option<Json>, ClusterError> {
        self.get(object, namespace).await
    }

    async fn apply(&self, object: &Json, namespace: &str) -> Result<(), ClusterError> {
        self.apply(object, namespace, false).await.map(drop)
    }

    async fn create(&self, object: &Json, namespace: &str) -> Result<(), ClusterError> {
        self.create(object, namespace).await
    }

    async fn delete(&self, object: &ObjectRef, namespace: &str) -> Result<bool, ClusterError> {
        self.delete(object, namespace).await
    }

    async fn secrets(&self, namespace: Option<&str>, selector: &str) -> Result<Vec<Json>, ClusterError> {
        self.list("v1", "Secret", namespace, selector).await
    }

    async fn wait_done(&self, object: &ObjectRef, namespace: &str) -> Result<(), ClusterError> {
        let deadline = Instant::now() + HOOK_WITHIN;
        loop {
            let Some(found) = self.get(object, namespace).await? else {
                return Err(ClusterError::Refused(format!("{object} was deleted before it was done")));
            };
            match ended(&found) {
                Some(Ok(())) => return Ok(()),
                Some(Err(why)) => return Err(ClusterError::Refused(why)),
                None if Instant::now() >= deadline => {
                    let seconds = HOOK_WITHIN.as_secs();
                    return Err(ClusterError::Unavailable(format!("{object} is not done after {seconds} s")));
                }
                None => sleep(LOOK_EVERY).await,
            }
        }
    }
}

/// How a hook's object ended; `None` if it has not.
fn ended(object: &Json) -> Option<Result<(), String>> {
    let status = &object["status"];
    match object["kind"].as_str() {
        Some("Pod") => match status["phase"].as_str() {
            Some("Succeeded") => Some(Ok(())),
            Some("Failed") => Some(Err(status["message"].as_str().unwrap_or("the pod failed").to_owned())),
            _ => None,
        },
        Some("Job") => status["conditions"].as_array().into_iter().flatten().find_map(|condition| {
            match (condition["type"].as_str(), condition["status"].as_str()) {
                (Some("Complete"), Some("True")) => Some(Ok(())),
                (Some("Failed"), Some("True")) => {
                    Some(Err(condition["message"].as_str().unwrap_or("the job failed").to_owned()))
                }
                _ => None,
            }
        }),
        // A ConfigMap that is a hook is done when it is there.
        _ => Some(Ok(())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn hooks_end() {
        let check = |object: Json, expect: Option<Result<(), &str>>| {
            assert_eq!(ended(&object), expect.map(|it| it.map_err(ToOwned::to_owned)), "{object}");
        };
        check(json!({"kind": "Pod", "status": {"phase": "Running"}}), None);
        check(json!({"kind": "Pod", "status": {"phase": "Succeeded"}}), Some(Ok(())));
        check(json!({"kind": "Pod", "status": {"phase": "Failed", "message": "OOM"}}), Some(Err("OOM")));
        check(json!({"kind": "Job", "status": {"conditions": [{"type": "Complete", "status": "False"}]}}), None);
        check(json!({"kind": "Job", "status": {"conditions": [{"type": "Complete", "status": "True"}]}}), Some(Ok(())));
        let failed =
            json!({"kind": "Job", "status": {"conditions": [{"type": "Failed", "status": "True", "message": "x"}]}});
        check(failed, Some(Err("x")));
        check(json!({"kind": "ConfigMap"}), Some(Ok(())));
    }
}
