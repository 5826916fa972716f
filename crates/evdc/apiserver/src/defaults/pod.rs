//! Defaults of pods and their templates.

use serde_json::{Value, json};

use super::{GRACE_SECONDS, each};
use crate::object::{child, default, fields, list, text};

/// Mode of files in a volume, 0644.
const FILE_MODE: i64 = 0o644;

/// Fills in a pod's spec.
pub(super) fn spec(spec: &mut Value) {
    default(spec, "restartPolicy", "Always");
    default(spec, "terminationGracePeriodSeconds", GRACE_SECONDS);
    default(spec, "dnsPolicy", "ClusterFirst");
    default(spec, "schedulerName", "default-scheduler");
    child(spec, "securityContext");
    // The old name of the account is still written by some clients, and read by others.
    let account = match (text(spec, &["serviceAccountName"]), text(spec, &["serviceAccount"])) {
        ("", old) => old.to_owned(),
        (name, _) => name.to_owned(),
    };
    if !account.is_empty() {
        fields(spec).insert("serviceAccountName".to_owned(), account.clone().into());
        fields(spec).insert("serviceAccount".to_owned(), account.into());
    }
    let host_network = spec["hostNetwork"] == true;
    for field in ["containers", "initContainers", "ephemeralContainers"] {
        for container in each(spec, field) {
            self::container(container, host_network);
        }
    }
    for volume in each(spec, "volumes") {
        self::volume(volume);
    }
}

/// What only a pod has, and no template.
pub(super) fn status(pod: &mut Value) {
    let spec = child(pod, "spec");
    default(spec, "enableServiceLinks", true);
    default(spec, "priority", 0);
    default(spec, "preemptionPolicy", "PreemptLowerPriority");
    if text(spec, &["serviceAccountName"]).is_empty() {
        fields(spec).insert("serviceAccountName".to_owned(), "default".into());
        fields(spec).insert("serviceAccount".to_owned(), "default".into());
    }
    tolerations(spec);
    let class = quality(spec);
    pod["status"] = json!({"phase": "Pending", "qosClass": class});
}

/// How long a pod stays bound to a node that is not ready or cannot be reached; added to every pod that does not say.
fn tolerations(spec: &mut Value) {
    const SECONDS: i64 = 300;
    let mut tolerations = list(spec, &["tolerations"]).to_vec();
    for key in ["node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"] {
        let covers = |it: &Value| {
            let effect = text(it, &["effect"]);
            let matches_key = it["key"] == key || text(it, &["key"]).is_empty() && it["operator"] == "Exists";
            matches_key && (effect.is_empty() || effect == "NoExecute")
        };
        if !tolerations.iter().any(covers) {
            tolerations
                .push(json!({"key": key, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": SECONDS}));
        }
    }
    fields(spec).insert("tolerations".to_owned(), tolerations.into());
}

/// The pod's quality of service by its requests and limits.
fn quality(spec: &Value) -> &'static str {
    let containers: Vec<&Value> = list(spec, &["containers"]).iter().chain(list(spec, &["initContainers"])).collect();
    let amounts = |container: &Value, of: &str| -> Vec<(String, Value)> {
        let amounts = container["resources"][of].as_object().cloned().unwrap_or_default();
        amounts.into_iter().filter(|(name, _)| name == "cpu" || name == "memory").collect()
    };
    if containers.iter().all(|it| amounts(it, "requests").is_empty() && amounts(it, "limits").is_empty()) {
        return "BestEffort";
    }
    let guaranteed = containers.iter().all(|it| {
        let limits = amounts(it, "limits");
        limits.len() == 2 && amounts(it, "requests") == limits
    });
    if guaranteed { "Guaranteed" } else { "Burstable" }
}

fn container(container: &mut Value, host_network: bool) {
    default(container, "terminationMessagePath", "/dev/termination-log");
    default(container, "terminationMessagePolicy", "File");
    if container.get("imagePullPolicy").is_none() && container.get("image").is_some() {
        let policy = if is_latest(text(container, &["image"])) { "Always" } else { "IfNotPresent" };
        default(container, "imagePullPolicy", policy);
    }
    for port in each(container, "ports") {
        default(port, "protocol", "TCP");
        if host_network {
            let number = port["containerPort"].clone();
            default(port, "hostPort", number);
        }
    }
    // A limit without a request is its own request.
    let limits = container["resources"]["limits"].as_object().cloned().unwrap_or_default();
    let resources = child(container, "resources");
    for (name, amount) in limits {
        default(child(resources, "requests"), &name, amount);
    }
    for probe in ["livenessProbe", "readinessProbe", "startupProbe"] {
        if let Some(probe) = container.get_mut(probe).filter(|probe| probe.is_object()) {
            self::probe(probe);
        }
    }
    for variable in each(container, "env") {
        if let Some(reference) = variable.pointer_mut("/valueFrom/fieldRef") {
            default(reference, "apiVersion", "v1");
        }
    }
    if let Some(lifecycle) = container.get_mut("lifecycle") {
        for hook in ["postStart", "preStop"] {
            if let Some(get) = lifecycle.get_mut(hook).and_then(|hook| hook.get_mut("httpGet")) {
                http_get(get);
            }
        }
    }
}

/// Whether an image names no version, or the latest.
fn is_latest(image: &str) -> bool {
    if image.contains('@') {
        return false;
    }
    let last = image.rsplit('/').next().unwrap_or_default();
    last.split_once(':').is_none_or(|(_, tag)| tag == "latest")
}

fn probe(probe: &mut Value) {
    default(probe, "timeoutSeconds", 1);
    default(probe, "periodSeconds", 10);
    default(probe, "successThreshold", 1);
    default(probe, "failureThreshold", 3);
    if let Some(get) = probe.get_mut("httpGet") {
        http_get(get);
    }
    if let Some(grpc) = probe.get_mut("grpc") {
        default(grpc, "service", "");
    }
}

fn http_get(get: &mut Value) {
    default(get, "path", "/");
    default(get, "scheme", "HTTP");
}

fn volume(volume: &mut Value) {
    let fields = fields(volume);
    if fields.len() == 1 && fields.contains_key("name") {
        fields.insert("emptyDir".to_owned(), json!({}));
    }
    for source in ["configMap", "secret", "projected", "downwardAPI"] {
        if let Some(source) = volume.get_mut(source) {
            default(source, "defaultMode", FILE_MODE);
        }
    }
    if let Some(path) = volume.get_mut("hostPath") {
        default(path, "type", "");
    }
    if let Some(projected) = volume.get_mut("projected") {
        for source in each(projected, "sources") {
            if let Some(token) = source.get_mut("serviceAccountToken") {
                default(token, "expirationSeconds", 3600);
            }
            if let Some(downward) = source.get_mut("downwardAPI") {
                downward_items(downward);
            }
        }
    }
    if let Some(downward) = volume.get_mut("downwardAPI") {
        downward_items(downward);
    }
}

fn downward_items(downward: &mut Value) {
    for item in each(downward, "items") {
        if let Some(reference) = item.get_mut("fieldRef") {
            default(reference, "apiVersion", "v1");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pull_policy_depends_on_the_tag() {
        let check = |image: &str, latest: bool| assert_eq!(is_latest(image), latest, "{image}");
        check("nginx", true);
        check("nginx:latest", true);
        check("nginx:1.2", false);
        check("host:5000/nginx", true);
        check("host:5000/nginx:1", false);
        check("nginx@sha256:abc", false);
    }

    #[test]
    fn quality_follows_requests_and_limits() {
        let check = |resources: Value, class: &str| {
            let spec = json!({"containers": [{"resources": resources}]});
            assert_eq!(quality(&spec), class, "{spec}");
        };
        check(json!({}), "BestEffort");
        check(json!({"requests": {"cpu": "1"}}), "Burstable");
        check(
            json!({"requests": {"cpu": "1", "memory": "1Gi"}, "limits": {"cpu": "1", "memory": "1Gi"}}),
            "Guaranteed",
        );
        check(json!({"requests": {"cpu": "1", "memory": "1Gi"}, "limits": {"cpu": "2", "memory": "1Gi"}}), "Burstable");
    }
}
