//! What a Deployment says of itself. Pure.

use std::{sync::Arc, time::Duration};

use jiff::Timestamp;
use k8s_openapi::{
    api::apps::v1::{Deployment, DeploymentCondition, DeploymentStatus, ReplicaSet},
    apimachinery::pkg::apis::meta::v1::Time,
};

use crate::{
    driver::Again,
    objects::{name, whole_seconds},
};

/// When a rollout without progress counts as failed, if the Deployment does not say; Kubernetes' default.
const DEADLINE_SECONDS: i32 = 600;

/// The status, and when it changes without a signal. `least` is how many pods must be available.
pub(crate) fn status(
    deployment: &Deployment,
    new: Option<&ReplicaSet>,
    all: &[Arc<ReplicaSet>],
    least: i32,
    now: Timestamp,
) -> (DeploymentStatus, Again) {
    let old = deployment.status.clone().unwrap_or_default();
    let of = |count: fn(&ReplicaSet) -> Option<i32>| all.iter().filter_map(|set| count(set)).sum::<i32>();
    let replicas = of(|set| set.status.as_ref().map(|status| status.replicas));
    let ready = of(|set| set.status.as_ref()?.ready_replicas);
    let available = of(|set| set.status.as_ref()?.available_replicas);
    let updated = new.and_then(|set| set.status.as_ref()).map_or(0, |status| status.replicas);
    let asked = of(|set| set.spec.as_ref()?.replicas);
    let mut status = DeploymentStatus {
        observed_generation: deployment.metadata.generation,
        replicas: Some(replicas),
        updated_replicas: Some(updated),
        ready_replicas: Some(ready),
        available_replicas: Some(available),
        unavailable_replicas: Some((asked - available).max(0)),
        collision_count: old.collision_count,
        ..DeploymentStatus::default()
    };
    let mut conditions = old.conditions.clone().unwrap_or_default();
    let (is_available, reason, message) = if available >= least {
        ("True", "MinimumReplicasAvailable", "Deployment has minimum availability.")
    } else {
        ("False", "MinimumReplicasUnavailable", "Deployment does not have minimum availability.")
    };
    set_condition(&mut conditions, "Available", is_available, reason, message.to_owned(), now, false);
    let again = progress(deployment, new, &old, &status, &mut conditions, now);
    status.conditions = Some(conditions);
    (status, again)
}

fn progress(
    deployment: &Deployment,
    new: Option<&ReplicaSet>,
    old: &DeploymentStatus,
    status: &DeploymentStatus,
    conditions: &mut Vec<DeploymentCondition>,
    now: Timestamp,
) -> Again {
    let spec = deployment.spec.as_ref()?;
    let set = new.map_or_else(|| name(&deployment.metadata), |set| name(&set.metadata));
    let wanted = Some(spec.replicas.unwrap_or(1));
    let is_complete = new.is_some()
        && [status.updated_replicas, status.replicas, status.available_replicas].iter().all(|count| *count == wanted);
    let mut set_progress = |value: &str, reason: &str, message: String, is_news: bool| {
        set_condition(conditions, "Progressing", value, reason, message, now, is_news);
    };
    if spec.paused == Some(true) {
        set_progress("Unknown", "DeploymentPaused", "Deployment is paused".to_owned(), false);
        return None;
    }
    if is_complete {
        let message = format!("ReplicaSet \"{set}\" has successfully progressed.");
        set_progress("True", "NewReplicaSetAvailable", message, false);
        return None;
    }
    let gone = |status: &DeploymentStatus| status.replicas.unwrap_or(0) - status.updated_replicas.unwrap_or(0);
    let has_progressed = status.updated_replicas > old.updated_replicas
        || status.ready_replicas > old.ready_replicas
        || status.available_replicas > old.available_replicas
        || gone(status) < gone(old);
    let before = old.conditions.iter().flatten().find(|condition| condition.type_ == "Progressing");
    let is_new =
        before.is_none_or(|it| matches!(it.reason.as_deref(), Some("NewReplicaSetAvailable" | "DeploymentPaused")));
    if has_progressed || (is_new && status.observed_generation != old.observed_generation) || before.is_none() {
        set_progress("True", "ReplicaSetUpdated", format!("ReplicaSet \"{set}\" is progressing."), true);
    } else if is_new {
        // Complete before, and only a pod is missing now: that is no rollout.
        return None;
    }
    let since =
        before.filter(|_| !has_progressed).and_then(|it| it.last_update_time.as_ref()).map_or(now, |time| time.0);
    let deadline = i64::from(spec.progress_deadline_seconds.unwrap_or(DEADLINE_SECONDS));
    let left = deadline - now.duration_since(since).as_secs();
    if left > 0 {
        return Some(Duration::from_secs(left.unsigned_abs()));
    }
    set_progress(
        "False",
        "ProgressDeadlineExceeded",
        format!("ReplicaSet \"{set}\" has timed out progressing."),
        false,
    );
    None
}

fn set_condition(
    conditions: &mut Vec<DeploymentCondition>,
    type_: &str,
    value: &str,
    reason: &str,
    message: String,
    now: Timestamp,
    is_news: bool,
) {
    let now = Some(Time(whole_seconds(now)));
    let old = conditions.iter_mut().find(|condition| condition.type_ == type_);
    let same = old.as_ref().is_some_and(|old| {
        old.status == value && old.reason.as_deref() == Some(reason) && old.message.as_deref() == Some(&message)
    });
    if same && !is_news {
        return;
    }
    let turned = old.as_ref().is_none_or(|old| old.status != value);
    let transition = old.as_ref().and_then(|old| old.last_transition_time.clone());
    let condition = DeploymentCondition {
        type_: type_.to_owned(),
        status: value.to_owned(),
        reason: Some(reason.to_owned()),
        message: Some(message),
        last_transition_time: if turned { now.clone() } else { transition },
        last_update_time: now,
    };
    match old {
        Some(old) => *old = condition,
        None => conditions.push(condition),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use serde_json::{Value, json};

    use super::*;

    const START: &str = "2026-01-01T00:00:00Z";

    fn step(deployment: &mut Deployment, replicas: i32, available: i32, now: &str) -> Vec<String> {
        let set = json!({"metadata": {"name": "web-1"}, "spec": {"replicas": replicas, "selector": {}},
            "status": {"replicas": replicas, "readyReplicas": available, "availableReplicas": available}});
        let set = Arc::new(serde_json::from_value::<ReplicaSet>(set).unwrap());
        let (status, _) = status(deployment, Some(&set), std::slice::from_ref(&set), 2, now.parse().unwrap());
        let conditions = status.conditions.iter().flatten();
        let texts =
            conditions.map(|it| format!("{} {} {}", it.type_, it.status, it.reason.as_deref().unwrap())).collect();
        deployment.status = Some(status);
        texts
    }

    #[test]
    fn a_rollout_progresses_completes_or_times_out() {
        let value: Value = json!({"metadata": {"name": "web", "generation": 1}, "spec": {"replicas": 2, "selector": {}, "template": {}}});
        let mut deployment: Deployment = serde_json::from_value(value).unwrap();
        let unavailable = "Available False MinimumReplicasUnavailable";
        assert_eq!(step(&mut deployment, 0, 0, START), [unavailable, "Progressing True ReplicaSetUpdated"]);
        assert_eq!(step(&mut deployment, 2, 0, "2026-01-01T00:00:10Z")[1], "Progressing True ReplicaSetUpdated");
        assert_eq!(step(&mut deployment, 2, 1, "2026-01-01T00:09:00Z")[1], "Progressing True ReplicaSetUpdated");
        assert_eq!(step(&mut deployment, 2, 1, "2026-01-01T00:18:59Z")[1], "Progressing True ReplicaSetUpdated");
        assert_eq!(
            step(&mut deployment, 2, 1, "2026-01-01T00:19:00Z")[1],
            "Progressing False ProgressDeadlineExceeded"
        );
        let done = ["Available True MinimumReplicasAvailable", "Progressing True NewReplicaSetAvailable"];
        assert_eq!(step(&mut deployment, 2, 2, "2026-01-01T01:00:00Z"), done);
        // A pod that falls out later is no rollout.
        assert_eq!(step(&mut deployment, 2, 1, "2026-01-01T02:00:00Z"), [unavailable, done[1]]);
    }
}
