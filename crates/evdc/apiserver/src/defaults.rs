//! What Kubernetes fills in when a field is not given. Controllers and clients rely on these values being there.

use serde_json::{Value, json};

use crate::{
    kinds::Resource,
    object::{at, child, default, fields, list, now, text},
};

mod pod;

/// How long a pod may take to end.
pub(crate) const GRACE_SECONDS: i64 = 30;

/// Fills in what is missing in an object that is new, or takes the place of `old`.
pub(crate) fn apply(resource: &Resource, object: &mut Value, old: Option<&Value>) {
    if resource.custom.is_some() {
        return;
    }
    match (resource.group.as_str(), resource.kind.as_str()) {
        ("", "Namespace") => namespace(object, old),
        ("", "Pod") => {
            pod::spec(child(object, "spec"));
            if old.is_none() {
                pod::status(object);
            }
        }
        ("", "Service") => service(child(object, "spec")),
        ("", "Secret") => secret(object),
        ("", "PersistentVolume") => persistent_volume(object, old),
        ("", "PersistentVolumeClaim") => {
            claim_spec(child(object, "spec"));
            if old.is_none() {
                object["status"] = json!({"phase": "Pending"});
            }
        }
        ("apps", "Deployment") => deployment(child(object, "spec")),
        ("apps", "ReplicaSet") => replica_set(object, old),
        ("apps", "StatefulSet") => stateful_set(child(object, "spec")),
        ("discovery.k8s.io", "EndpointSlice") => endpoint_slice(object),
        ("networking.k8s.io", "Ingress") => ingress(object),
        ("networking.k8s.io", "NetworkPolicy") => network_policy(child(object, "spec")),
        ("storage.k8s.io", "StorageClass") => {
            default(object, "reclaimPolicy", "Delete");
            default(object, "volumeBindingMode", "Immediate");
        }
        ("rbac.authorization.k8s.io", "RoleBinding" | "ClusterRoleBinding") => binding(object),
        ("apiextensions.k8s.io", "CustomResourceDefinition") => definition(object, old),
        _ => {}
    }
}

/// Each item of a list.
fn each<'a>(value: &'a mut Value, field: &str) -> impl Iterator<Item = &'a mut Value> {
    value.get_mut(field).and_then(Value::as_array_mut).into_iter().flatten()
}

fn namespace(object: &mut Value, old: Option<&Value>) {
    let name = crate::object::name(object).to_owned();
    child(child(object, "metadata"), "labels")["kubernetes.io/metadata.name"] = name.into();
    if old.is_none() {
        child(object, "spec")["finalizers"] = json!(["kubernetes"]);
        object["status"] = json!({"phase": "Active"});
    }
}

fn service(spec: &mut Value) {
    default(spec, "sessionAffinity", "None");
    default(spec, "type", "ClusterIP");
    let kind = text(spec, &["type"]).to_owned();
    if kind != "ExternalName" {
        default(spec, "internalTrafficPolicy", "Cluster");
    }
    if matches!(kind.as_str(), "NodePort" | "LoadBalancer") {
        default(spec, "externalTrafficPolicy", "Cluster");
    }
    if kind == "LoadBalancer" {
        default(spec, "allocateLoadBalancerNodePorts", true);
    }
    let headless = spec["clusterIP"] == "None";
    for port in each(spec, "ports") {
        default(port, "protocol", "TCP");
        let number = port["port"].clone();
        let target = &port["targetPort"];
        if target.is_null() || *target == 0 || *target == "" || headless && target.is_null() {
            fields(port).insert("targetPort".to_owned(), number);
        }
    }
    if spec["sessionAffinity"] == "ClientIP" {
        default(child(child(spec, "sessionAffinityConfig"), "clientIP"), "timeoutSeconds", 10_800);
    }
}

fn secret(object: &mut Value) {
    default(object, "type", "Opaque");
    // Text given for convenience becomes data; it is never read back.
    if let Some(Value::Object(texts)) = fields(object).remove("stringData") {
        let data = child(object, "data");
        for (key, text) in texts {
            data[key] = data_encoding::BASE64.encode(text.as_str().unwrap_or_default().as_bytes()).into();
        }
    }
}

fn persistent_volume(object: &mut Value, old: Option<&Value>) {
    let spec = child(object, "spec");
    default(spec, "persistentVolumeReclaimPolicy", "Retain");
    default(spec, "volumeMode", "Filesystem");
    if old.is_none() {
        object["status"] = json!({"phase": "Pending"});
    }
}

fn claim_spec(spec: &mut Value) {
    default(spec, "volumeMode", "Filesystem");
}

fn deployment(spec: &mut Value) {
    default(spec, "replicas", 1);
    default(spec, "revisionHistoryLimit", 10);
    default(spec, "progressDeadlineSeconds", 600);
    let strategy = child(spec, "strategy");
    default(strategy, "type", "RollingUpdate");
    if strategy["type"] == "RollingUpdate" {
        let rolling = child(strategy, "rollingUpdate");
        default(rolling, "maxUnavailable", "25%");
        default(rolling, "maxSurge", "25%");
    }
    template(spec);
}

fn replica_set(object: &mut Value, old: Option<&Value>) {
    let spec = child(object, "spec");
    default(spec, "replicas", 1);
    template(spec);
    if old.is_none() {
        object["status"] = json!({"replicas": 0});
    }
}

fn stateful_set(spec: &mut Value) {
    default(spec, "replicas", 1);
    default(spec, "revisionHistoryLimit", 10);
    default(spec, "podManagementPolicy", "OrderedReady");
    let strategy = child(spec, "updateStrategy");
    default(strategy, "type", "RollingUpdate");
    if strategy["type"] == "RollingUpdate" {
        default(child(strategy, "rollingUpdate"), "partition", 0);
    }
    let retention = child(spec, "persistentVolumeClaimRetentionPolicy");
    default(retention, "whenDeleted", "Retain");
    default(retention, "whenScaled", "Retain");
    template(spec);
    for claim in each(spec, "volumeClaimTemplates") {
        default(claim, "apiVersion", "v1");
        default(claim, "kind", "PersistentVolumeClaim");
        claim_spec(child(claim, "spec"));
        claim["status"] = json!({"phase": "Pending"});
    }
}

fn template(spec: &mut Value) {
    let template = child(spec, "template");
    child(template, "metadata");
    pod::spec(child(template, "spec"));
}

fn endpoint_slice(object: &mut Value) {
    for port in each(object, "ports") {
        default(port, "name", "");
        default(port, "protocol", "TCP");
    }
}

fn ingress(object: &mut Value) {
    for rule in each(child(object, "spec"), "rules") {
        if let Some(http) = rule.get_mut("http") {
            for path in each(http, "paths") {
                // Required since v1; an empty one is told by validation.
                default(path, "path", "/");
            }
        }
    }
}

/// Who writes no types means what comes in, and what goes out if there are rules for it.
fn network_policy(spec: &mut Value) {
    child(spec, "podSelector");
    for direction in ["ingress", "egress"] {
        for rule in each(spec, direction) {
            for port in each(rule, "ports") {
                default(port, "protocol", "TCP");
            }
        }
    }
    if list(spec, &["policyTypes"]).is_empty() {
        let egress = !list(spec, &["egress"]).is_empty();
        fields(spec)
            .insert("policyTypes".to_owned(), if egress { json!(["Ingress", "Egress"]) } else { json!(["Ingress"]) });
    }
}

fn binding(object: &mut Value) {
    default(child(object, "roleRef"), "apiGroup", "rbac.authorization.k8s.io");
    for subject in each(object, "subjects") {
        if subject["kind"] == "User" || subject["kind"] == "Group" {
            default(subject, "apiGroup", "rbac.authorization.k8s.io");
        }
    }
}

/// A definition is established as soon as it is stored: this server serves it from then on.
fn definition(object: &mut Value, old: Option<&Value>) {
    let spec = child(object, "spec");
    let names = child(spec, "names");
    let kind = text(names, &["kind"]).to_owned();
    default(names, "singular", kind.to_lowercase());
    default(names, "listKind", format!("{kind}List"));
    default(child(spec, "conversion"), "strategy", "None");
    let names = spec["names"].clone();
    let versions = list(spec, &["versions"]);
    let stored = versions.iter().find(|version| version["storage"] == true).map(|version| version["name"].clone());
    let mut kept: Vec<Value> = old.map(|old| list(old, &["status", "storedVersions"]).to_vec()).unwrap_or_default();
    kept.extend(stored.filter(|stored| !kept.contains(stored)));
    let since = old.and_then(|old| at(old, &["status", "conditions"])?.get(0)?.get("lastTransitionTime").cloned());
    let since = since.unwrap_or_else(|| now().into());
    let condition = |kind: &str, reason: &str, message: &str| json!({"type": kind, "status": "True", "reason": reason, "message": message, "lastTransitionTime": since});
    object["status"] = json!({
        "acceptedNames": names, "storedVersions": kept,
        "conditions": [
            condition("NamesAccepted", "NoConflicts", "no conflicts found"),
            condition("Established", "InitialNamesAccepted", "the initial names have been accepted"),
        ],
    });
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;
    use crate::kinds::Registry;

    fn applied(group: &str, plural: &str, mut object: Value) -> Value {
        apply(&Registry::builtin().get(group, "v1", plural).unwrap(), &mut object, None);
        object
    }

    #[test]
    fn workloads_are_filled_in() {
        let found = applied(
            "apps",
            "deployments",
            json!({"spec": {"template": {"spec": {"containers": [{"name": "a", "image": "x"}]}}}}),
        );
        assert_eq!((&found["spec"]["replicas"], &found["spec"]["revisionHistoryLimit"]), (&json!(1), &json!(10)));
        assert_eq!(found["spec"]["strategy"]["rollingUpdate"], json!({"maxUnavailable": "25%", "maxSurge": "25%"}));
        let pod = &found["spec"]["template"]["spec"];
        assert_eq!(
            (&pod["restartPolicy"], &pod["containers"][0]["imagePullPolicy"]),
            (&json!("Always"), &json!("Always"))
        );
        let again = applied("apps", "deployments", found.clone());
        assert_eq!(again, found, "defaults do not change what is complete");
    }

    #[test]
    fn policies_say_what_they_are_about() {
        let check = |spec: Value, types: &[&str]| {
            let found = applied("networking.k8s.io", "networkpolicies", json!({"spec": spec}));
            assert_eq!(found["spec"]["policyTypes"], json!(types), "{spec}");
            assert!(found["spec"]["podSelector"].is_object());
        };
        check(json!({}), &["Ingress"]);
        check(json!({"podSelector": {}, "egress": []}), &["Ingress"]);
        check(json!({"egress": [{}]}), &["Ingress", "Egress"]);
        check(json!({"egress": [{}], "policyTypes": ["Egress"]}), &["Egress"]);
        let ports = json!({"spec": {"ingress": [{"ports": [{"port": 53, "protocol": "UDP"}, {"port": 80}]}]}});
        let found = applied("networking.k8s.io", "networkpolicies", ports);
        assert_eq!(found["spec"]["ingress"][0]["ports"][1], json!({"port": 80, "protocol": "TCP"}));
        assert_eq!(found["spec"]["ingress"][0]["ports"][0]["protocol"], "UDP");
    }

    #[test]
    fn services_and_secrets_are_filled_in() {
        let found =
            applied("", "services", json!({"spec": {"ports": [{"port": 80}, {"port": 1, "targetPort": "http"}]}}));
        assert_eq!(found["spec"]["ports"][0], json!({"port": 80, "protocol": "TCP", "targetPort": 80}));
        assert_eq!(found["spec"]["ports"][1]["targetPort"], "http");
        let found = applied("", "secrets", json!({"stringData": {"a": "b"}, "data": {"c": "ZA=="}}));
        assert_eq!((&found["data"], &found["type"]), (&json!({"a": "Yg==", "c": "ZA=="}), &json!("Opaque")));
        assert!(found.get("stringData").is_none());
    }
}
