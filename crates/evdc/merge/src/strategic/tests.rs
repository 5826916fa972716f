//! The examples of Kubernetes' documentation ("Update API Objects in Place Using kubectl patch", the API conventions on strategic merge patch), and
//! what goes wrong.
#![allow(clippy::unwrap_used, reason = "tests")]

use serde_json::json;

use super::*;

fn check(group: &str, kind: &str, object: Value, patch: Value, expect: Result<Value, &str>) {
    let mut patched = object.clone();
    match (strategic_merge(&Schema::of(group, kind), &mut patched, &patch), expect) {
        (Ok(()), Ok(expect)) => assert_eq!(patched, expect, "{patch}"),
        (Err(error), Err(words)) => {
            assert!(error.to_string().contains(words), "{error}: not about {words}");
            assert_eq!(patched, object, "changed by a failed patch");
        }
        (result, expect) => panic!("{patch}: {result:?} made {patched}, expected {expect:?}"),
    }
}

fn pod(spec: Value) -> Value {
    json!({ "spec": spec })
}

/// A Deployment whose pods have this spec.
fn template(spec: Value) -> Value {
    json!({"spec": {"template": {"spec": spec}}})
}

#[test]
fn the_documented_examples() {
    let demo = template(json!({"containers": [{"name": "patch-demo-ctr", "image": "nginx"}],
        "tolerations": [{"effect": "NoSchedule", "key": "dedicated", "value": "test-team"}]}));
    let second = template(json!({"containers": [{"name": "patch-demo-ctr-2", "image": "redis"}]}));
    let both = template(json!({"containers": [{"name": "patch-demo-ctr-2", "image": "redis"},
        {"name": "patch-demo-ctr", "image": "nginx"}],
        "tolerations": [{"effect": "NoSchedule", "key": "dedicated", "value": "test-team"}]}));
    check("apps", "Deployment", demo.clone(), second, Ok(both));
    let tolerations = template(json!({"tolerations": [{"effect": "NoSchedule", "key": "disktype", "value": "ssd"}]}));
    let replaced = template(json!({"containers": [{"name": "patch-demo-ctr", "image": "nginx"}],
        "tolerations": [{"effect": "NoSchedule", "key": "disktype", "value": "ssd"}]}));
    check("apps", "Deployment", demo, tolerations, Ok(replaced));
    let rolling = json!({"spec": {"strategy": {"rollingUpdate": {"maxSurge": "30%"}, "type": "RollingUpdate"}}});
    let recreate = json!({"spec": {"strategy": {"$retainKeys": ["type"], "type": "Recreate"}}});
    check("apps", "Deployment", rolling, recreate, Ok(json!({"spec": {"strategy": {"type": "Recreate"}}})));
}

#[test]
fn lists_that_are_maps() {
    let two = pod(
        json!({"containers": [{"name": "nginx", "image": "nginx-1.0"}, {"name": "log-tailer", "image": "log-tailer-1.0"}]}),
    );
    let only = |name: &str, image: &str| json!({"name": name, "image": image});
    let expect = |containers: Value| Ok(pod(json!({ "containers": containers })));
    let replace = pod(json!({"containers": [{"name": "nginx", "image": "nginx-1.1"}, {"$patch": "replace"}]}));
    check("", "Pod", two.clone(), replace, expect(json!([only("nginx", "nginx-1.1")])));
    let delete = pod(json!({"containers": [{"$patch": "delete", "name": "log-tailer"}]}));
    check("", "Pod", two.clone(), delete, expect(json!([only("nginx", "nginx-1.0")])));
    let unset = pod(json!({"containers": [{"name": "nginx", "image": null}]}));
    check("", "Pod", two.clone(), unset, expect(json!([{"name": "nginx"}, only("log-tailer", "log-tailer-1.0")])));
    check("", "Pod", two.clone(), pod(json!({"containers": [{"image": "x"}]})), Err("declared merge key: name"));
    check("", "Pod", two.clone(), pod(json!({"containers": ["x"]})), Err("declared merge key: name"));
    check("", "Pod", two.clone(), pod(json!({"containers": [{"$patch": "swap", "name": "x"}]})), Err("swap"));
    check("", "Pod", two, json!([]), Err("must be an object"));
    let ports = json!({"spec": {"ports": [{"port": 80, "name": "web"}, {"port": 443}]}});
    let renamed = json!({"spec": {"ports": [{"port": 443, "name": "tls"}]}});
    let merged = json!({"spec": {"ports": [{"port": 80, "name": "web"}, {"port": 443, "name": "tls"}]}});
    check("", "Service", ports, renamed, Ok(merged));
}

#[test]
fn objects_replaced_and_emptied() {
    let two = json!({"data": {"a": "1", "b": "2"}});
    let with = |directive: &str| json!({"data": {"$patch": directive, "c": "3"}});
    check("", "ConfigMap", two.clone(), with("replace"), Ok(json!({"data": {"c": "3"}})));
    check("", "ConfigMap", two.clone(), with("delete"), Ok(json!({"data": {}})));
    check("", "ConfigMap", two.clone(), with("merge"), Ok(json!({"data": {"a": "1", "b": "2", "c": "3"}})));
    check("", "ConfigMap", two.clone(), json!({"data": {"a": null, "d": null}}), Ok(json!({"data": {"b": "2"}})));
    check(
        "",
        "ConfigMap",
        two.clone(),
        json!({"data": {"$retainKeys": ["b"], "c": "3"}}),
        Err("$retainKeys does not list c"),
    );
    check(
        "",
        "ConfigMap",
        two,
        json!({"metadata": {"labels": {"a": null, "b": "c"}}}),
        Ok(json!({"data": {"a": "1", "b": "2"}, "metadata": {"labels": {"b": "c"}}})),
    );
    let budget = json!({"spec": {"selector": {"matchLabels": {"a": "1"}}}});
    let other = json!({"spec": {"selector": {"matchLabels": {"b": "2"}}}});
    check("policy", "PodDisruptionBudget", budget, other.clone(), Ok(other));
}

#[test]
fn lists_of_plain_values() {
    let finalizers = |names: &[&str]| json!({"metadata": {"finalizers": names}});
    check("", "Pod", finalizers(&["a", "b"]), finalizers(&["c", "b"]), Ok(finalizers(&["c", "a", "b"])));
    let delete = json!({"metadata": {"$deleteFromPrimitiveList/finalizers": ["a"]}});
    check("", "Pod", finalizers(&["a", "b"]), delete, Ok(finalizers(&["b"])));
    let args = |args: &[&str]| pod(json!({"containers": [{"name": "x", "args": args}]}));
    check("", "Pod", args(&["1", "2"]), args(&["3"]), Ok(args(&["3"])));
    check(
        "",
        "Pod",
        finalizers(&["a"]),
        json!({"metadata": {"$deleteFromPrimitiveList/finalizers": 1}}),
        Err("finalizers"),
    );
}

#[test]
fn the_order_of_elements() {
    let names = |names: &[&str]| {
        let items: Vec<Value> = names.iter().map(|name| json!({ "name": name })).collect();
        pod(json!({ "containers": items }))
    };
    let ordered = |order: &[&str], patch: Value| {
        let order: Vec<Value> = order.iter().map(|name| json!({ "name": name })).collect();
        let mut patch = patch;
        patch["spec"]["$setElementOrder/containers"] = Value::Array(order);
        patch
    };
    check(
        "",
        "Pod",
        names(&["a", "b", "c"]),
        ordered(&["c", "a", "b"], json!({"spec": {}})),
        Ok(names(&["c", "a", "b"])),
    );
    check("", "Pod", names(&["a", "c"]), ordered(&["a", "b", "c"], names(&["b"])), Ok(names(&["a", "b", "c"])));
    // An item that the patch does not know keeps its place before what stood behind it.
    check(
        "",
        "Pod",
        names(&["a", "s", "c"]),
        ordered(&["a", "b", "c"], names(&["b"])),
        Ok(names(&["a", "b", "s", "c"])),
    );
    check(
        "",
        "Pod",
        names(&["a"]),
        json!({"spec": {"$setElementOrder/tolerations": ["a"], "tolerations": []}}),
        Err("tolerations"),
    );
    check("", "Pod", names(&["a"]), json!({"spec": {"$setElementOrder/containers": "a"}}), Err("takes a list"));
}
