//! One stored object, shown as the version that was asked for.
//!
//! Events have two shapes here (core and events.k8s.io), and pods have one of which only what concerns other nodes is seen; all other kinds have one, and
//! custom resources convert by their name alone (strategy `None`).

use serde_json::{Map, Value, json};

use crate::{
    kinds::{Resource, builtin::POD_ENDPOINTS},
    object::{fields, list, text},
};

/// Fields of a core event and what events.k8s.io calls them.
const EVENT_FIELDS: [(&str, &str); 6] = [
    ("message", "note"),
    ("involvedObject", "regarding"),
    ("source", "deprecatedSource"),
    ("firstTimestamp", "deprecatedFirstTimestamp"),
    ("lastTimestamp", "deprecatedLastTimestamp"),
    ("count", "deprecatedCount"),
];

/// Names that differ only between the two shapes.
const REPORTING: [(&str, &str); 1] = [("reportingComponent", "reportingController")];

/// Makes a stored object one of this resource.
pub(crate) fn show(resource: &Resource, object: &mut Value) {
    if resource.is("events.k8s.io", "Event") {
        rename(object, |(core, new)| (core, new));
    }
    if resource.is(POD_ENDPOINTS, "PodEndpoint") {
        endpoint(object);
    }
    name_kind(resource, object);
}

/// Makes of a pod what others than its node may know of it: where it is and how its ports are called, by which NetworkPolicies are enforced. A node is
/// somebody else's machine: what a pod runs, and with which settings, is no business of those that it does not run on. Annotations are left out as well,
/// since kubectl keeps whole objects there.
fn endpoint(pod: &mut Value) {
    let kept = |name: &str| -> Option<(String, Value)> { Some((name.to_owned(), pod["metadata"].get(name)?.clone())) };
    let metadata = ["name", "namespace", "uid", "labels", "resourceVersion", "creationTimestamp", "deletionTimestamp"];
    let metadata: Map<String, Value> = metadata.into_iter().filter_map(kept).collect();
    // Kubernetes gives the address of a pod that is over to another one; one in its node's network has none of its own.
    let over = matches!(text(pod, &["status", "phase"]), "Succeeded" | "Failed") || pod["spec"]["hostNetwork"] == true;
    let addresses: Vec<&Value> = list(pod, &["status", "podIPs"]).iter().map(|it| &it["ip"]).collect();
    let mut ports = Vec::new();
    // Containers that run beside the others have ports, too (sidecars).
    for container in ["containers", "initContainers"].iter().flat_map(|field| list(pod, &["spec", field])) {
        let named = list(container, &["ports"]).iter().filter(|port| !text(port, &["name"]).is_empty());
        ports.extend(named.map(|port| {
            let protocol = if port["protocol"].is_null() { json!("TCP") } else { port["protocol"].clone() };
            json!({"name": port["name"], "containerPort": port["containerPort"], "protocol": protocol})
        }));
    }
    let spec = json!({
        "nodeName": text(pod, &["spec", "nodeName"]), "ports": ports,
        "podIPs": if over { Vec::new() } else { addresses },
    });
    *pod = json!({"metadata": metadata, "spec": spec});
}

/// Makes an object of this resource one to store.
pub(crate) fn store(resource: &Resource, object: &mut Value) {
    if resource.is("events.k8s.io", "Event") {
        rename(object, |(core, new)| (new, core));
        fields(object).insert("apiVersion".to_owned(), "v1".into());
    }
}

/// Writes `apiVersion` and `kind`.
pub(crate) fn name_kind(resource: &Resource, object: &mut Value) {
    let fields = fields(object);
    fields.insert("apiVersion".to_owned(), resource.api_version().into());
    fields.insert("kind".to_owned(), resource.kind.clone().into());
}

fn rename(object: &mut Value, direction: impl Fn((&'static str, &'static str)) -> (&'static str, &'static str)) {
    let fields = fields(object);
    for pair in EVENT_FIELDS.into_iter().chain(REPORTING) {
        let (from, to) = direction(pair);
        if let Some(value) = fields.remove(from) {
            fields.insert(to.to_owned(), value);
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;
    use crate::kinds::Registry;

    #[test]
    fn others_see_of_a_pod_where_it_is_and_nothing_else() {
        let resource = Registry::builtin().get(POD_ENDPOINTS, "v1", "podendpoints").unwrap();
        let pod = json!({"metadata": {"name": "p", "namespace": "d", "uid": "u", "labels": {"a": "b"}, "annotations": {"x": "secret"},
                "managedFields": ["secret"]},
            "spec": {"nodeName": "n1", "containers": [{"name": "c", "image": "secret", "env": [{"name": "P", "value": "secret"}],
                "ports": [{"name": "http", "containerPort": 80}, {"containerPort": 81}]}],
                "initContainers": [{"name": "s", "ports": [{"name": "dns", "containerPort": 53, "protocol": "UDP"}]}]},
            "status": {"phase": "Running", "podIP": "fd00::5", "podIPs": [{"ip": "fd00::5"}], "message": "secret"}});
        let shown = |mut pod: Value| {
            show(&resource, &mut pod);
            pod
        };
        let found = shown(pod.clone());
        assert_eq!(
            found,
            json!({"apiVersion": "networking.atoll.cloud/v1", "kind": "PodEndpoint",
            "metadata": {"name": "p", "namespace": "d", "uid": "u", "labels": {"a": "b"}},
            "spec": {"nodeName": "n1", "podIPs": ["fd00::5"], "ports": [
                {"name": "http", "containerPort": 80, "protocol": "TCP"}, {"name": "dns", "containerPort": 53, "protocol": "UDP"}]}})
        );
        let mut over = pod.clone();
        over["status"]["phase"] = "Failed".into();
        assert_eq!(shown(over)["spec"]["podIPs"], json!([]));
        assert_eq!(shown(json!({}))["spec"]["podIPs"], json!([]), "one that has nothing yet");
    }
}
