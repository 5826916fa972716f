//! Tests of environments: order of sources, references, kubelet's words, expansion.

#![allow(clippy::unwrap_used, reason = "tests")]

use serde_json::json;

use super::*;

fn pod() -> Pod {
    serde_json::from_value(json!({
        "metadata": {"name": "p", "namespace": "d", "uid": "u", "labels": {"app": "web"}},
        "spec": {"nodeName": "n", "containers": [{"name": "one", "resources": {"limits": {"cpu": "1500m"}}}]}
    }))
    .unwrap()
}

fn inputs() -> Inputs {
    let mut inputs = Inputs::default();
    let map = json!({"metadata": {"name": "cm"}, "data": {"A": "from-map", "B": "b"}});
    let secret = json!({"metadata": {"name": "s"}, "data": {"KEY": "c2VjcmV0"}});
    inputs.config_maps.insert("cm".to_owned(), serde_json::from_value(map).unwrap());
    inputs.secrets.insert("s".to_owned(), serde_json::from_value(secret).unwrap());
    inputs
}

fn environment_of(container: serde_json::Value) -> Result<Variables, ConfigProblem> {
    let mut container = container;
    container["name"] = json!("one");
    let container: Container = serde_json::from_value(container).unwrap();
    let facts = Facts {
        pod_ip: Some("fd00::5".to_owned()),
        host_ips: vec!["fd00::1".to_owned()],
        cpu_millis: 4_000,
        memory_bytes: 1 << 30,
    };
    let services = Variables::from([("SVC_SERVICE_HOST".to_owned(), "fd00::9".to_owned())]);
    environment(&pod(), &container, &inputs(), &services, &["PATH=/bin".to_owned(), "A=image".to_owned()], &facts)
}

fn check(container: serde_json::Value, name: &str, expected: Option<&str>) {
    let found = environment_of(container.clone()).unwrap();
    assert_eq!(found.get(name).map(String::as_str), expected, "{name} of {container}");
}

#[test]
fn later_sources_win() {
    check(json!({}), "A", Some("image"));
    check(json!({}), "SVC_SERVICE_HOST", Some("fd00::9"));
    let from = json!([{"configMapRef": {"name": "cm"}}, {"prefix": "P_", "secretRef": {"name": "s"}}]);
    check(json!({"envFrom": from}), "A", Some("from-map"));
    check(json!({"envFrom": from}), "P_KEY", Some("secret"));
    check(json!({"envFrom": from, "env": [{"name": "A", "value": "own $(B)"}]}), "A", Some("own b"));
}

#[test]
fn variables_come_from_objects_and_fields() {
    let one = |source: serde_json::Value| json!({"env": [{"name": "X", "valueFrom": source}]});
    check(one(json!({"fieldRef": {"fieldPath": "metadata.name"}})), "X", Some("p"));
    check(one(json!({"fieldRef": {"fieldPath": "metadata.labels['app']"}})), "X", Some("web"));
    check(one(json!({"fieldRef": {"fieldPath": "status.podIP"}})), "X", Some("fd00::5"));
    check(one(json!({"fieldRef": {"fieldPath": "spec.nodeName"}})), "X", Some("n"));
    check(one(json!({"secretKeyRef": {"name": "s", "key": "KEY"}})), "X", Some("secret"));
    check(one(json!({"configMapKeyRef": {"name": "none", "key": "A", "optional": true}})), "X", None);
    let cpu = json!({"resourceFieldRef": {"containerName": "one", "resource": "limits.cpu"}});
    check(one(cpu), "X", Some("2"));
    let millis = json!({"resourceFieldRef": {"containerName": "one", "resource": "limits.cpu", "divisor": "1m"}});
    check(one(millis), "X", Some("1500"));
    check(one(json!({"resourceFieldRef": {"resource": "limits.memory", "divisor": "1Mi"}})), "X", Some("1024"));
}

#[test]
fn what_is_missing_is_named_in_kubelets_words() {
    let check = |container: serde_json::Value, message: &str| {
        assert_eq!(environment_of(container).unwrap_err().0, message);
    };
    let one = |source: serde_json::Value| json!({"env": [{"name": "X", "valueFrom": source}]});
    check(one(json!({"configMapKeyRef": {"name": "none", "key": "A"}})), "configmap \"none\" not found");
    check(one(json!({"secretKeyRef": {"name": "s", "key": "Z"}})), "couldn't find key Z in Secret s");
    check(json!({"envFrom": [{"secretRef": {"name": "none"}}]}), "secret \"none\" not found");
    check(one(json!({"fieldRef": {"fieldPath": "spec.secret"}})), "unsupported fieldPath: spec.secret");
}

#[test]
fn expansion_is_kubernetes_own() {
    let variables = Variables::from([("A".to_owned(), "1".to_owned())]);
    let check = |text: &str, expected: &str| assert_eq!(expand(text, &variables), expected, "{text}");
    check("$(A)", "1");
    check("a$(A)b$(A)", "a1b1");
    check("$(B)", "$(B)");
    check("$$(A)", "$(A)");
    check("$A", "$A");
    check("$", "$");
    check("$(A", "$(A");
    check("$$$(A)", "$1");
    check("é$(A)é", "é1é");
}
