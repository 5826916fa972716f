//! What a node may besides RBAC, as Kubernetes' Node authorizer and NodeRestriction have it: a node sees what its own pods need, and speaks for itself
//! alone. A member of an eVDC is somebody else's machine; what never runs there must not be readable there.
//!
//! [`decide`] and [`restrict`] are pure. What they leave open is looked up in the store, every time: a pod that has left takes its rights with it.
//!
//! One rule is ours: a node may also *update* the Secret that a PersistentVolume of its pods names as its `nodeStageSecretRef`: the head of a file system on
//! zstor lies there.

use std::sync::Arc;

use serde_json::Value;

use crate::{
    auth::{User, rbac::Attributes},
    error::ApiError,
    object::{list, name, namespace, text},
    server::Server,
};

/// The group of nodes, and what their names begin with.
pub(crate) const NODES: &str = "system:nodes";
const NODE_PREFIX: &str = "system:node:";

/// Where nodes keep their leases.
const LEASES: &str = "kube-node-lease";

/// Labels that only others put on a node, for those who choose nodes by them.
const RESTRICTED_LABEL: &str = "node-restriction.kubernetes.io/";

/// The pods of one node are read at once; a lease has room for fewer.
const PODS_MAX: usize = 10_000;

const READ: &[&str] = &["get", "list", "watch"];
const WRITE: &[&str] = &["create", "patch", "update"];

/// The node that a user is.
pub(crate) fn node_of(user: &User) -> Option<&str> {
    user.name.strip_prefix(NODE_PREFIX).filter(|node| !node.is_empty() && user.is_in(NODES))
}

/// Whether a node may, as far as the request alone says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Decision {
    /// It may.
    Yes,
    /// RBAC may say otherwise.
    No,
    /// If one of its pods needs it.
    IfNeeded,
}

/// Decides for the node of this name. `selector` is the request's `fieldSelector`.
pub(crate) fn decide(node: &str, wanted: &Attributes, selector: &str) -> Decision {
    let verb = wanted.verb.as_str();
    let own = wanted.name == node;
    let yes = |is: bool| if is { Decision::Yes } else { Decision::No };
    let needed = |is: bool| if is { Decision::IfNeeded } else { Decision::No };
    let selects = |field: &str| selector.split(',').any(|term| term.replace("==", "=") == format!("{field}={node}"));
    match (wanted.group.as_str(), wanted.resource.as_str(), wanted.subresource.as_str()) {
        ("", "nodes", "") if verb == "create" => Decision::Yes,
        ("", "nodes", "") if matches!(verb, "list" | "watch") => yes(selects("metadata.name")),
        ("", "nodes", "") => yes(own && matches!(verb, "get" | "patch" | "update")),
        ("", "nodes", "status") => yes(own && matches!(verb, "get" | "patch" | "update")),
        ("", "pods", "") if matches!(verb, "list" | "watch") => yes(selects("spec.nodeName")),
        ("", "pods", "") => needed(matches!(verb, "get" | "delete")),
        ("", "pods", "status") => needed(matches!(verb, "get" | "patch" | "update")),
        ("", "secrets", "") => needed(matches!(verb, "get" | "update")),
        ("", "configmaps" | "persistentvolumeclaims" | "persistentvolumes" | "serviceaccounts", "") => {
            needed(verb == "get")
        }
        ("", "serviceaccounts", "token") => needed(verb == "create"),
        ("", "services" | "endpoints", "") | ("discovery.k8s.io", "endpointslices", "") => yes(READ.contains(&verb)),
        ("storage.k8s.io", "storageclasses", "") => yes(READ.contains(&verb)),
        // What policies are made of: who may speak with whom, and where pods are. Of other nodes' pods nothing else.
        ("", "namespaces", "")
        | ("networking.k8s.io", "networkpolicies", "")
        | ("networking.atoll.cloud", "podendpoints", "") => yes(READ.contains(&verb)),
        ("" | "events.k8s.io", "events", "") => yes(WRITE.contains(&verb)),
        ("coordination.k8s.io", "leases", "") => yes(wanted.namespace == LEASES
            && (verb == "create" || own && matches!(verb, "get" | "patch" | "update" | "delete"))),
        _ => Decision::No,
    }
}

/// Why a node may not write this object; `None` if it may. `old` is what it was.
pub(crate) fn restrict(node: &str, kind: &str, old: Option<&Value>, new: &Value) -> Option<String> {
    match kind {
        "Node" if name(new) != node => Some(format!("node {node:?} cannot write node {:?}", name(new))),
        "Node" => {
            if let Some(old) = old
                && list(old, &["spec", "taints"]) != list(new, &["spec", "taints"])
            {
                return Some(format!("node {node:?} cannot change its taints"));
            }
            let labels = |object: &Value| -> Vec<(String, Value)> {
                let labels = object["metadata"]["labels"].as_object().cloned().unwrap_or_default();
                labels.into_iter().filter(|(label, _)| is_restricted(label)).collect()
            };
            (labels(new) != old.map(labels).unwrap_or_default())
                .then(|| format!("node {node:?} cannot set labels of {RESTRICTED_LABEL}"))
        }
        "Lease" if name(new) != node => Some(format!("node {node:?} cannot write the lease {:?}", name(new))),
        _ => None,
    }
}

fn is_restricted(label: &str) -> bool {
    label.split_once('/').is_some_and(|(domain, _)| {
        let restricted = RESTRICTED_LABEL.trim_end_matches('/');
        domain == restricted || domain.ends_with(&format!(".{restricted}"))
    })
}

/// What pods name, one line for each kind of object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Named {
    ConfigMap,
    Secret,
    Claim,
}

/// Whether a pod's spec names the object. The places are those of `core/v1`: volumes, projected volumes, environments, pull secrets.
fn names(pod: &Value, kind: Named, wanted: &str) -> bool {
    let is = |value: &Value, path: &[&str]| text(value, path) == wanted;
    let volume = |volume: &Value| match kind {
        Named::ConfigMap => is(volume, &["configMap", "name"]),
        Named::Secret => is(volume, &["secret", "secretName"]),
        Named::Claim => is(volume, &["persistentVolumeClaim", "claimName"]),
    };
    let source = match kind {
        Named::ConfigMap => "configMap",
        Named::Secret => "secret",
        Named::Claim => return list(pod, &["spec", "volumes"]).iter().any(volume),
    };
    let projected =
        |volume: &Value| list(volume, &["projected", "sources"]).iter().any(|part| is(part, &[source, "name"]));
    let (whole, key) = match kind {
        Named::ConfigMap => ("configMapRef", "configMapKeyRef"),
        _ => ("secretRef", "secretKeyRef"),
    };
    let container = |container: &Value| {
        list(container, &["envFrom"]).iter().any(|from| is(from, &[whole, "name"]))
            || list(container, &["env"]).iter().any(|one| is(one, &["valueFrom", key, "name"]))
    };
    let pulls = kind == Named::Secret && list(pod, &["spec", "imagePullSecrets"]).iter().any(|it| is(it, &["name"]));
    let volumes = list(pod, &["spec", "volumes"]);
    let containers = ["containers", "initContainers", "ephemeralContainers"];
    pulls
        || volumes.iter().any(|it| volume(it) || projected(it))
        || containers.iter().any(|group| list(pod, &["spec", group]).iter().any(container))
}

fn account_of(pod: &Value) -> &str {
    match text(pod, &["spec", "serviceAccountName"]) {
        "" => "default",
        account => account,
    }
}

/// Whether one of the node's pods needs what is asked for.
pub(crate) async fn needed(server: &Arc<Server>, node: &str, wanted: &Attributes) -> Result<bool, ApiError> {
    let Attributes { namespace, name: wanted_name, .. } = wanted;
    if wanted_name.is_empty() {
        return Ok(false);
    }
    match wanted.resource.as_str() {
        "pods" => {
            let pod = get(server, "pods", namespace, wanted_name).await?;
            Ok(pod.is_some_and(|pod| text(&pod, &["spec", "nodeName"]) == node))
        }
        "persistentvolumes" => match get(server, "persistentvolumes", "", wanted_name).await? {
            Some(volume) => mounts(server, node, &volume).await,
            None => Ok(false),
        },
        "secrets" if wanted.verb == "update" => stages(server, node, namespace, wanted_name).await,
        "secrets" => {
            let pods = pods_on(server, node, namespace).await?;
            if pods.iter().any(|pod| names(pod, Named::Secret, wanted_name)) {
                return Ok(true);
            }
            Ok(pulls(server, &pods, namespace, wanted_name).await?
                || stages(server, node, namespace, wanted_name).await?)
        }
        kind => {
            let pods = pods_on(server, node, namespace).await?;
            Ok(pods.iter().any(|pod| match kind {
                "configmaps" => names(pod, Named::ConfigMap, wanted_name),
                "persistentvolumeclaims" => names(pod, Named::Claim, wanted_name),
                "serviceaccounts" => account_of(pod) == wanted_name,
                _ => false,
            }))
        }
    }
}

/// Whether an account of these pods names the Secret for fetching images.
async fn pulls(server: &Arc<Server>, pods: &[Value], namespace: &str, secret: &str) -> Result<bool, ApiError> {
    let accounts: std::collections::BTreeSet<&str> = pods.iter().map(account_of).collect();
    for account in accounts {
        let account = get(server, "serviceaccounts", namespace, account).await?.unwrap_or_default();
        if list(&account, &["imagePullSecrets"]).iter().any(|it| text(it, &["name"]) == secret) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Whether a volume of the node's pods is staged with this Secret.
async fn stages(server: &Arc<Server>, node: &str, namespace: &str, secret: &str) -> Result<bool, ApiError> {
    let resource = server.registry().get("", "v1", "persistentvolumes").ok_or_else(ApiError::no_route)?;
    for volume in server.store.all(&resource, "").await? {
        let of = |field: &str| text(&volume, &["spec", "csi", "nodeStageSecretRef", field]).to_owned();
        if of("name") == secret && of("namespace") == namespace && mounts(server, node, &volume).await? {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Whether one of the node's pods names the claim that this volume is bound to.
async fn mounts(server: &Arc<Server>, node: &str, volume: &Value) -> Result<bool, ApiError> {
    let claim = |field: &str| text(volume, &["spec", "claimRef", field]).to_owned();
    let (claim_namespace, claim_name) = (claim("namespace"), claim("name"));
    if claim_name.is_empty() {
        return Ok(false);
    }
    // The claim must say so as well: anyone who makes a volume may name any claim in it.
    let found = get(server, "persistentvolumeclaims", &claim_namespace, &claim_name).await?;
    if found.is_none_or(|found| text(&found, &["spec", "volumeName"]) != name(volume)) {
        return Ok(false);
    }
    let pods = pods_on(server, node, &claim_namespace).await?;
    Ok(pods.iter().any(|pod| names(pod, Named::Claim, &claim_name)))
}

async fn pods_on(server: &Arc<Server>, node: &str, of_namespace: &str) -> Result<Vec<Value>, ApiError> {
    if of_namespace.is_empty() {
        return Ok(Vec::new());
    }
    let resource = server.registry().get("", "v1", "pods").ok_or_else(ApiError::no_route)?;
    let prefix = server.store.prefix(&resource, of_namespace);
    let mine = |pod: &Value| text(pod, &["spec", "nodeName"]) == node && namespace(pod) == of_namespace;
    Ok(server.store.list(&prefix, None, PODS_MAX, None, mine).await?.objects)
}

async fn get(server: &Arc<Server>, plural: &str, of_namespace: &str, wanted: &str) -> Result<Option<Value>, ApiError> {
    let resource = server.registry().get("", "v1", plural).ok_or_else(ApiError::no_route)?;
    server.store.get(&resource, of_namespace, wanted).await
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_node_speaks_for_itself_alone() {
        let check = |verb: &str, what: &str, name: &str, selector: &str, expected: Decision| {
            let (group, resource) = what.rsplit_once(':').unwrap_or(("", what));
            let (resource, subresource) = resource.split_once('/').unwrap_or((resource, ""));
            let namespace = if resource == "leases" { LEASES } else { "default" };
            let wanted = Attributes {
                verb: verb.to_owned(),
                group: group.to_owned(),
                resource: resource.to_owned(),
                subresource: subresource.to_owned(),
                namespace: namespace.to_owned(),
                name: name.to_owned(),
                path: None,
            };
            assert_eq!(decide("n1", &wanted, selector), expected, "{verb} {what} {name} {selector}");
        };
        use Decision::{IfNeeded, No, Yes};
        check("get", "nodes", "n1", "", Yes);
        check("get", "nodes", "n2", "", No);
        check("list", "nodes", "", "", No);
        check("patch", "nodes/status", "n1", "", Yes);
        check("patch", "nodes/status", "n2", "", No);
        check("delete", "nodes", "n1", "", No);
        check("list", "pods", "", "", No);
        check("list", "pods", "", "spec.nodeName=n2", No);
        check("watch", "pods", "", "status.phase=Running,spec.nodeName==n1", Yes);
        check("get", "pods", "p", "", IfNeeded);
        check("create", "pods", "", "", No);
        check("create", "pods/exec", "p", "", No);
        check("get", "secrets", "s", "", IfNeeded);
        check("update", "secrets", "s", "", IfNeeded);
        check("list", "secrets", "", "", No);
        check("watch", "configmaps", "", "", No);
        check("update", "configmaps", "c", "", No);
        check("create", "serviceaccounts/token", "a", "", IfNeeded);
        check("watch", "services", "", "", Yes);
        check("watch", "networking.k8s.io:networkpolicies", "", "", Yes);
        check("create", "networking.k8s.io:networkpolicies", "", "", No);
        check("watch", "networking.atoll.cloud:podendpoints", "", "", Yes);
        check("list", "namespaces", "", "", Yes);
        check("patch", "namespaces", "n", "", No);
        check("update", "services", "s", "", No);
        check("update", "coordination.k8s.io:leases", "n1", "", Yes);
        check("update", "coordination.k8s.io:leases", "n2", "", No);
        check("create", "rbac.authorization.k8s.io:clusterrolebindings", "", "", No);
    }

    #[test]
    fn a_node_does_not_choose_its_pods() {
        let node = |labels: Value, taints: Value| json!({"metadata": {"name": "n1", "labels": labels}, "spec": {"taints": taints}});
        let old = node(json!({"a": "b"}), json!([]));
        let refused = |new: &Value, old: Option<&Value>| restrict("n1", "Node", old, new).is_some();
        assert!(!refused(&node(json!({"a": "c"}), json!([])), Some(&old)));
        assert!(refused(&node(json!({"node-restriction.kubernetes.io/a": "c"}), json!([])), Some(&old)));
        assert!(refused(&node(json!({"x.node-restriction.kubernetes.io/a": "c"}), json!([])), None));
        assert!(refused(&node(json!({}), json!([{"key": "k"}])), Some(&old)), "taints are not its own");
        assert!(!refused(&node(json!({}), json!([{"key": "k"}])), None), "but it may begin with some");
        assert!(restrict("n2", "Node", None, &old).is_some());
        assert!(restrict("n2", "Lease", None, &old).is_some());
    }

    #[test]
    fn what_pods_name_is_found_in_every_place() {
        let pod = json!({"spec": {
            "imagePullSecrets": [{"name": "s0"}],
            "volumes": [
                {"secret": {"secretName": "s1"}}, {"configMap": {"name": "c1"}}, {"persistentVolumeClaim": {"claimName": "p1"}},
                {"projected": {"sources": [{"secret": {"name": "s2"}}, {"configMap": {"name": "c2"}}]}},
            ],
            "containers": [{"env": [{"valueFrom": {"secretKeyRef": {"name": "s3"}}}]}],
            "initContainers": [{"envFrom": [{"configMapRef": {"name": "c3"}}, {"secretRef": {"name": "s4"}}]}],
        }});
        for number in 0..5 {
            assert!(names(&pod, Named::Secret, &format!("s{number}")), "s{number}");
        }
        for number in 1..4 {
            assert!(names(&pod, Named::ConfigMap, &format!("c{number}")), "c{number}");
        }
        assert!(names(&pod, Named::Claim, "p1"));
        for (kind, other) in
            [(Named::Secret, "c1"), (Named::ConfigMap, "s1"), (Named::Claim, "s1"), (Named::Secret, "")]
        {
            assert!(!names(&json!({"spec": {"containers": [{}]}}), kind, "x"));
            assert!(other.is_empty() || !names(&pod, kind, other), "{other}");
        }
    }
}
