//! What the agent tells the API server about pods: their status, events, and that one is gone. Events may be lost under pressure, the rest
//! is told again until it is heard.

use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Event, EventSource, ObjectReference, Pod, PodStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use kube::api::{DeleteParams, Patch, PatchParams, PostParams, Preconditions};
use kube::{Api, Client};
use serde_json::{Value, json};
use tokio::sync::mpsc;

/// Events that wait to be sent; further ones are dropped: nothing hangs on them, and a burst must not hold pods up.
const EVENTS_WAITING_MAX: usize = 256;

/// How the agent signs its events.
pub(crate) const COMPONENT: &str = "atoll-agent";

/// Sends events in the background.
#[derive(Clone)]
pub(crate) struct Events {
    queue: mpsc::Sender<Event>,
    node: Arc<str>,
}

impl Events {
    /// Its sender ends with the last clone.
    pub(crate) fn start(client: Client, node: &str) -> Self {
        let (queue, mut waiting) = mpsc::channel::<Event>(EVENTS_WAITING_MAX);
        tokio::spawn(async move {
            while let Some(event) = waiting.recv().await {
                let namespace = event.metadata.namespace.clone().unwrap_or_default();
                let api: Api<Event> = Api::namespaced(client.clone(), &namespace);
                if let Err(error) = api.create(&PostParams::default(), &event).await {
                    tracing::debug!(%error, "an event was not recorded");
                }
            }
        });
        Self { queue, node: node.into() }
    }

    /// About the pod, or about one container of it.
    pub(crate) fn send(&self, pod: &Pod, container: Option<&str>, warning: bool, reason: &str, message: &str) {
        let meta = &pod.metadata;
        let involved = ObjectReference {
            api_version: Some("v1".to_owned()),
            kind: Some("Pod".to_owned()),
            name: meta.name.clone(),
            namespace: meta.namespace.clone(),
            uid: meta.uid.clone(),
            resource_version: meta.resource_version.clone(),
            field_path: container.map(|name| format!("spec.containers{{{name}}}")),
        };
        self.about(involved, warning, reason, message);
    }

    /// About any object of a namespace.
    pub(crate) fn about(&self, involved: ObjectReference, warning: bool, reason: &str, message: &str) {
        let now = Timestamp::now();
        let name = format!("{}.{:x}", involved.name.as_deref().unwrap_or("pod"), now.as_nanosecond());
        let event = Event {
            metadata: ObjectMeta { name: Some(name), namespace: involved.namespace.clone(), ..ObjectMeta::default() },
            involved_object: involved,
            reason: Some(reason.to_owned()),
            message: Some(message.chars().take(1_024).collect()),
            type_: Some(if warning { "Warning" } else { "Normal" }.to_owned()),
            count: Some(1),
            first_timestamp: Some(Time(now)),
            last_timestamp: Some(Time(now)),
            source: Some(EventSource { component: Some(COMPONENT.to_owned()), host: Some(self.node.to_string()) }),
            reporting_component: Some(COMPONENT.to_owned()),
            reporting_instance: Some(self.node.to_string()),
            ..Event::default()
        };
        if self.queue.try_send(event).is_err() {
            tracing::debug!(reason, "an event was dropped: too many wait");
        }
    }
}

/// What became of a message about a pod.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Heard {
    /// It was taken.
    Yes,
    /// There is no such pod (any more), or another one of this name.
    Gone,
}

/// The merge patch that makes the status so; the pod's uid in it keeps it from a namesake. Kubernetes' own merge would keep what is left out.
pub(crate) fn status_patch(uid: &str, status: &PodStatus) -> Value {
    let mut status = serde_json::to_value(status).unwrap_or_default();
    for optional in ["message", "reason"] {
        if status.get(optional).is_none() {
            status[optional] = Value::Null;
        }
    }
    json!({"metadata": {"uid": uid}, "status": status})
}

pub(crate) async fn send_status(client: &Client, pod: &Pod, status: &PodStatus) -> Result<Heard, kube::Error> {
    let (Some(namespace), Some(name), Some(uid)) = (&pod.metadata.namespace, &pod.metadata.name, &pod.metadata.uid)
    else {
        return Ok(Heard::Gone);
    };
    let api: Api<Pod> = Api::namespaced(client.clone(), namespace);
    let patch = Patch::Merge(status_patch(uid, status));
    heard(api.patch_status(name, &PatchParams::default(), &patch).await.map(drop))
}

/// Removes the pod for good: only this one, and only because nothing of it is left here.
pub(crate) async fn delete(client: &Client, pod: &Pod) -> Result<Heard, kube::Error> {
    let (Some(namespace), Some(name), Some(uid)) = (&pod.metadata.namespace, &pod.metadata.name, &pod.metadata.uid)
    else {
        return Ok(Heard::Gone);
    };
    let api: Api<Pod> = Api::namespaced(client.clone(), namespace);
    let only_this = Preconditions { uid: Some(uid.clone()), resource_version: None };
    let how = DeleteParams::default().grace_period(0).preconditions(only_this);
    heard(api.delete(name, &how).await.map(drop))
}

/// 404: gone. 409 and 422: the uid is another's.
fn heard(result: Result<(), kube::Error>) -> Result<Heard, kube::Error> {
    match result {
        Ok(()) => Ok(Heard::Yes),
        Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409 | 422) => Ok(Heard::Gone),
        Err(error) => Err(error),
    }
}
