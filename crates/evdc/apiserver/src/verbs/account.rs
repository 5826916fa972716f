//! What a new pod gets of its ServiceAccount (Kubernetes' admission plug-in of that name): credentials for this API as files, unless pod or account say
//! otherwise, and the account's Secrets for fetching images.

use serde_json::{Value, json};

use crate::{
    error::ApiError,
    object::{child, list, name_suffix, namespace, text},
    server::{Context, Server},
};

/// Where every in-cluster client looks.
const MOUNT_PATH: &str = "/var/run/secrets/kubernetes.io/serviceaccount";

/// An hour, and seven seconds by which Kubernetes tells these tokens from those that somebody asked an hour for.
const TOKEN_SECONDS: i64 = 3607;

/// Completes a new pod.
pub(super) async fn admit(server: &Server, context: &Context, pod: &mut Value) -> Result<(), ApiError> {
    let accounts = context.registry.get("", "v1", "serviceaccounts").ok_or_else(ApiError::no_route)?;
    let account = server.store.get(&accounts, namespace(pod), text(pod, &["spec", "serviceAccountName"])).await?;
    // One that is not there yet is waited for by the node: it gives the token.
    let account = account.unwrap_or_default();
    let pulls = list(&account, &["imagePullSecrets"]);
    if !pulls.is_empty() && list(pod, &["spec", "imagePullSecrets"]).is_empty() {
        child(pod, "spec")["imagePullSecrets"] = pulls.into();
    }
    let says = |object: &Value| object.get("automountServiceAccountToken").and_then(Value::as_bool);
    if says(&pod["spec"]).or(says(&account)).unwrap_or(true) {
        mount(pod);
    }
    Ok(())
}

/// Adds the files to all containers that have nothing there.
fn mount(pod: &mut Value) {
    let volume = format!("kube-api-access-{}", name_suffix());
    let mut mounted = false;
    for group in ["initContainers", "containers"] {
        for container in pod["spec"].get_mut(group).and_then(Value::as_array_mut).into_iter().flatten() {
            if list(container, &["volumeMounts"]).iter().any(|mount| text(mount, &["mountPath"]) == MOUNT_PATH) {
                continue;
            }
            mounted = true;
            push(container, "volumeMounts", json!({"name": volume, "readOnly": true, "mountPath": MOUNT_PATH}));
        }
    }
    if mounted {
        let sources = json!([
            {"serviceAccountToken": {"expirationSeconds": TOKEN_SECONDS, "path": "token"}},
            {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
            {"downwardAPI": {"items": [{"path": "namespace", "fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.namespace"}}]}},
        ]);
        let projected = json!({"defaultMode": 0o644, "sources": sources});
        push(child(pod, "spec"), "volumes", json!({"name": volume, "projected": projected}));
    }
}

fn push(object: &mut Value, field: &str, item: Value) {
    match object.get_mut(field).and_then(Value::as_array_mut) {
        Some(items) => items.push(item),
        None => object[field] = json!([item]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_container_finds_its_credentials_once() {
        let own = json!([{"name": "own", "mountPath": MOUNT_PATH}]);
        let mut pod = json!({"spec": {
            "containers": [{"name": "a"}, {"name": "b", "volumeMounts": own.clone()}],
            "initContainers": [{"name": "c", "volumeMounts": [{"name": "x", "mountPath": "/x"}]}]}});
        mount(&mut pod);
        let spec = &pod["spec"];
        let volume = text(&spec["volumes"][0], &["name"]);
        assert!(volume.starts_with("kube-api-access-"), "{volume}");
        assert_eq!(spec["containers"][0]["volumeMounts"][0]["name"], volume);
        assert_eq!(spec["containers"][1]["volumeMounts"], own, "what is mounted there already stays");
        assert_eq!(spec["initContainers"][0]["volumeMounts"][1]["mountPath"], MOUNT_PATH);
        mount(&mut pod);
        assert_eq!(list(&pod, &["spec", "volumes"]).len(), 1, "a second time changes nothing");
    }
}
