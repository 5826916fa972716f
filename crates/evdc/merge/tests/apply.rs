//! Server-side apply: the examples of Kubernetes' documentation and of its library's behaviour as tables, and what must hold for any configurations.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::collections::BTreeMap;

use atoll_merge::{ApplyError, FieldSet, Schema, Writer, apply, record_update};
use proptest::prelude::*;
use serde_json::{Value, json};

fn writer(manager: &str) -> Writer {
    Writer {
        manager: manager.to_owned(),
        api_version: "apps/v1".to_owned(),
        subresource: None,
        time: "2026-01-01T00:00:00Z".to_owned(),
        ignored: Vec::new(),
    }
}

/// One write of a story.
enum Step {
    Apply(&'static str, Value),
    Force(&'static str, Value),
    /// An update that lays this over the live object as a merge patch does.
    Update(&'static str, Value),
}

use Step::{Apply, Force, Update};

/// Runs the story; the last write may fail.
fn run(kind: &str, steps: Vec<Step>) -> Result<Value, ApplyError> {
    let schema = Schema::of("apps", kind);
    let mut live: Option<Value> = None;
    for step in steps {
        live = Some(match step {
            Apply(manager, config) => apply(&schema, live.as_ref(), &config, &writer(manager), false)?,
            Force(manager, config) => apply(&schema, live.as_ref(), &config, &writer(manager), true)?,
            Update(manager, patch) => {
                let mut new = live.clone().unwrap_or_else(|| json!({}));
                atoll_merge::merge_patch(&mut new, &patch);
                record_update(&schema, live.as_ref(), &mut new, &writer(manager));
                new
            }
        });
    }
    Ok(live.unwrap())
}

fn owners(object: &Value) -> BTreeMap<String, FieldSet> {
    let entries = object.pointer("/metadata/managedFields").and_then(Value::as_array).cloned().unwrap_or_default();
    let owner =
        |entry: &Value| (entry["manager"].as_str().unwrap().to_owned(), FieldSet::decode(&entry["fieldsV1"]).unwrap());
    entries.iter().map(owner).collect()
}

fn check(steps: Vec<Step>, expect: Value, owned: &[(&str, Value)]) {
    let mut object = run("Deployment", steps).unwrap();
    let found = owners(&object);
    object["metadata"].as_object_mut().map(|metadata| metadata.remove("managedFields"));
    if object["metadata"] == json!({}) || object["metadata"].is_null() {
        object.as_object_mut().unwrap().remove("metadata");
    }
    assert_eq!(object, expect);
    let expected: BTreeMap<String, FieldSet> =
        owned.iter().map(|(name, fields)| ((*name).to_owned(), FieldSet::decode(fields).unwrap())).collect();
    assert_eq!(found, expected);
}

fn containers(list: Value) -> Value {
    json!({"spec": {"template": {"spec": {"containers": list}}}})
}

fn containers_owned(fields: Value) -> Value {
    json!({"f:spec": {"f:template": {"f:spec": {"f:containers": fields}}}})
}

fn named(names: &[&str]) -> Value {
    containers(names.iter().map(|name| json!({ "name": name })).collect())
}

fn named_owned(names: &[&str]) -> Value {
    let key = |name: &&str| (format!("k:{{\"name\":\"{name}\"}}"), json!({".": {}, "f:name": {}}));
    containers_owned(Value::Object(names.iter().map(key).collect()))
}

#[test]
fn several_appliers_share_a_list() {
    check(
        vec![Apply("one", named(&["a", "b"])), Apply("two", named(&["c"])), Apply("one", named(&["a"]))],
        named(&["a", "c"]),
        &[("one", named_owned(&["a"])), ("two", named_owned(&["c"]))],
    );
    check(
        vec![Apply("one", named(&["a", "b", "c"])), Apply("two", named(&["c", "d"])), Apply("one", named(&["a"]))],
        named(&["a", "c", "d"]),
        &[("one", named_owned(&["a"])), ("two", named_owned(&["c", "d"]))],
    );
}

#[test]
fn the_same_value_is_shared_and_another_is_a_conflict() {
    let replicas = |n: i32| json!({"spec": {"replicas": n}});
    let owned = json!({"f:spec": {"f:replicas": {}}});
    check(
        vec![Apply("one", replicas(3)), Apply("two", replicas(3))],
        replicas(3),
        &[("one", owned.clone()), ("two", owned.clone())],
    );
    let error = run("Deployment", vec![Apply("one", replicas(3)), Apply("two", replicas(4))]).unwrap_err();
    assert_eq!(error.to_string(), "Apply failed with 1 conflict: conflict with \"one\": .spec.replicas");
    check(vec![Apply("one", replicas(3)), Force("two", replicas(4))], replicas(4), &[("two", owned.clone())]);
    // From the documentation: the autoscaler takes the field over, the user gives it up.
    check(
        vec![
            Apply("user", json!({"spec": {"replicas": 3, "paused": true}})),
            Update("hpa", replicas(5)),
            Apply("user", json!({"spec": {"paused": true}})),
        ],
        json!({"spec": {"replicas": 5, "paused": true}}),
        &[("hpa", owned), ("user", json!({"f:spec": {"f:paused": {}}}))],
    );
}

#[test]
fn conflicts_list_every_owner_and_path() {
    let image = |image: &str| containers(json!([{"name": "web", "image": image}]));
    let steps = vec![
        Apply("one", image("nginx:1")),
        Update("two", json!({"spec": {"replicas": 2, "paused": true}})),
        Apply(
            "three",
            json!({"spec": {"replicas": 3, "paused": false,
            "template": {"spec": {"containers": [{"name": "web", "image": "nginx:2"}]}}}}),
        ),
    ];
    let ApplyError::Conflicts(conflicts) = run("Deployment", steps).unwrap_err() else { panic!("no conflict") };
    assert_eq!(
        conflicts.to_string(),
        "Apply failed with 3 conflicts: conflicts with \"one\":\n- .spec.template.spec.containers[name=\"web\"].image\n\
         conflicts with \"two\" using apps/v1 at 2026-01-01T00:00:00Z:\n- .spec.paused\n- .spec.replicas"
    );
    let causes = conflicts.causes();
    assert_eq!(causes[0].field, ".spec.template.spec.containers[name=\"web\"].image");
    assert_eq!(causes[1].message, "conflict with \"two\" using apps/v1 at 2026-01-01T00:00:00Z");
}

#[test]
fn what_is_no_longer_applied_goes_unless_someone_owns_it() {
    let labels = |labels: Value| json!({"metadata": {"labels": labels}});
    check(
        vec![Apply("one", labels(json!({"a": "1", "b": "2"}))), Apply("one", labels(json!({"a": "1"})))],
        labels(json!({"a": "1"})),
        &[("one", json!({"f:metadata": {"f:labels": {"f:a": {}}}}))],
    );
    check(
        vec![
            Apply("one", labels(json!({"a": "1", "b": "2"}))),
            Update("two", labels(json!({"c": "3"}))),
            Apply("one", json!({"spec": {"replicas": 1}})),
        ],
        json!({"metadata": {"labels": {"c": "3"}}, "spec": {"replicas": 1}}),
        &[("one", json!({"f:spec": {"f:replicas": {}}})), ("two", json!({"f:metadata": {"f:labels": {"f:c": {}}}}))],
    );
    // An empty list that its applier leaves goes as a whole.
    check(
        vec![
            Apply("one", json!({"spec": {"replicas": 1, "template": {"spec": {"containers": [{"name": "a"}]}}}})),
            Apply("one", json!({"spec": {"replicas": 1}})),
        ],
        json!({"spec": {"replicas": 1}}),
        &[("one", json!({"f:spec": {"f:replicas": {}}}))],
    );
}

#[test]
fn atomic_lists_and_keys_with_defaults() {
    let tolerations = |keys: &[&str]| json!({"spec": {"template": {"spec": {"tolerations": keys.iter().map(|key| json!({"key": key})).collect::<Vec<_>>()}}}});
    assert!(run("Deployment", vec![Apply("one", tolerations(&["a"])), Apply("two", tolerations(&["b"]))]).is_err());
    let port = |port: Value| containers(json!([{"name": "a", "ports": [port]}]));
    let object = run(
        "Deployment",
        vec![
            Apply("one", port(json!({"containerPort": 80}))),
            Apply("two", port(json!({"containerPort": 80, "protocol": "TCP"}))),
            Apply("three", port(json!({"containerPort": 80, "protocol": "UDP"}))),
        ],
    );
    let ports = object.unwrap().pointer("/spec/template/spec/containers/0/ports").cloned().unwrap();
    assert_eq!(ports, json!([{"containerPort": 80, "protocol": "TCP"}, {"containerPort": 80, "protocol": "UDP"}]));
    let twice = run("Deployment", vec![Apply("one", named(&["a", "a"]))]).unwrap_err();
    assert_eq!(twice.to_string(), ".spec.template.spec.containers[name=\"a\"]: duplicate entries");
    let none = run("Deployment", vec![Apply("one", containers(json!([{"image": "a"}])))]).unwrap_err();
    assert!(none.to_string().contains("identify"), "{none}");
}

#[test]
fn what_was_there_before_the_first_apply_is_owned() {
    let schema = Schema::of("apps", "Deployment");
    let live = json!({"metadata": {"name": "web", "uid": "u"}, "spec": {"replicas": 1, "paused": true}});
    let error = apply(&schema, Some(&live), &json!({"spec": {"replicas": 2}}), &writer("one"), false).unwrap_err();
    assert!(error.to_string().contains("\"before-first-apply\" using apps/v1"), "{error}");
    let object = apply(&schema, Some(&live), &json!({"spec": {"replicas": 1}}), &writer("one"), false).unwrap();
    assert_eq!(owners(&object).keys().collect::<Vec<_>>(), ["before-first-apply", "one"]);
    assert_eq!(object["metadata"]["uid"], "u");
}

#[test]
fn endpoints_ignore_what_they_do_not_change() {
    let schema = Schema::of("apps", "Deployment");
    let main = Writer { ignored: vec![vec!["status".to_owned()]], ..writer("one") };
    let config = json!({"spec": {"replicas": 1}, "status": {"replicas": 7}});
    let mut live = apply(&schema, None, &config, &main, false).unwrap();
    assert_eq!(owners(&live)["one"], FieldSet::decode(&json!({"f:spec": {"f:replicas": {}}})).unwrap());
    let status = Writer {
        ignored: vec![vec!["spec".to_owned()], vec!["metadata".to_owned()]],
        subresource: Some("status".to_owned()),
        ..writer("controller")
    };
    let before = live.clone();
    live["status"]["replicas"] = json!(8);
    record_update(&schema, Some(&before), &mut live, &status);
    let error = apply(
        &schema,
        Some(&live),
        &json!({"status": {"replicas": 9}}),
        &Writer { ignored: Vec::new(), ..main },
        false,
    );
    let text = error.unwrap_err().to_string();
    assert!(text.contains("\"controller\" with subresource \"status\" using apps/v1 at"), "{text}");
}

#[test]
fn what_cannot_be_applied() {
    let schema = Schema::of("", "ConfigMap");
    let error =
        |config: Value, manager: &str| apply(&schema, None, &config, &writer(manager), true).unwrap_err().to_string();
    assert!(error(json!({}), "").contains("fieldManager: Required value"));
    assert!(error(json!([]), "one").contains("must be an object"));
    assert_eq!(
        error(json!({"metadata": {"managedFields": [{"manager": "x"}]}}), "one"),
        "metadata.managedFields must be nil"
    );
}

#[test]
fn updates_keep_clear_and_fold_ownership() {
    let schema = Schema::of("", "ConfigMap");
    let mut object = json!({"metadata": {"name": "c"}, "data": {}});
    record_update(&schema, None, &mut object, &writer("first"));
    for n in 0..15 {
        let live = object.clone();
        object["data"][format!("k{n}")] = json!("v");
        // A client that leaves ownership out does not lose it.
        object["metadata"].as_object_mut().unwrap().remove("managedFields");
        let time = format!("2026-01-01T00:00:{:02}Z", n + 1);
        record_update(&schema, Some(&live), &mut object, &Writer { time, ..writer(&format!("m{n}")) });
    }
    let found = owners(&object);
    assert_eq!(found.len(), 10);
    assert!(found.contains_key("ancient-changes") && found.contains_key("m14") && !found.contains_key("m0"));
    let live = object.clone();
    record_update(&schema, Some(&live), &mut object, &Writer { time: "later".to_owned(), ..writer("m14") });
    assert_eq!(object, live, "a write that changes nothing changes nothing");
    object["metadata"]["managedFields"] = json!([{}]);
    record_update(&schema, Some(&live), &mut object, &writer("first"));
    assert!(object["metadata"].get("managedFields").is_none());
}

/// Configurations that meet each other: few names, few values.
fn configs() -> impl Strategy<Value = Value> {
    let value = prop_oneof![Just(json!("x")), Just(json!("y")), Just(json!(1))];
    let labels = prop::collection::btree_map("[ab]", value.clone(), 0..3);
    let container =
        (prop::collection::btree_map("image|tty", value.clone(), 0..2), prop::collection::btree_set("[pq]", 0..3));
    let containers = prop::collection::btree_map("[abc]", container, 0..4);
    let finalizers = prop::collection::btree_set("[fg]", 0..3);
    (labels, containers, finalizers, prop::option::of(0..3)).prop_map(|(labels, containers, finalizers, replicas)| {
        let container =
            |(name, (fields, env)): (String, (BTreeMap<String, Value>, std::collections::BTreeSet<String>))| {
                let mut object =
                    json!({"name": name, "env": env.iter().map(|name| json!({"name": name})).collect::<Vec<_>>()});
                object.as_object_mut().unwrap().extend(fields);
                object
            };
        let mut config = json!({"metadata": {"name": "n", "labels": labels, "finalizers": finalizers},
            "spec": {"template": {"spec": {"containers": containers.into_iter().map(container).collect::<Vec<_>>()}}}});
        if let Some(replicas) = replicas {
            config["spec"]["replicas"] = json!(replicas);
        }
        config
    })
}

/// The merge patch that makes `to` of `from`: null for what is gone.
fn diff(from: &Value, to: &Value) -> Value {
    let (Value::Object(old), Value::Object(new)) = (from, to) else { return to.clone() };
    let mut patch: serde_json::Map<String, Value> =
        old.keys().filter(|name| !new.contains_key(*name)).map(|name| (name.clone(), Value::Null)).collect();
    for (name, value) in new {
        match old.get(name) {
            Some(before) if before == value => {}
            Some(before) => drop(patch.insert(name.clone(), diff(before, value))),
            None => drop(patch.insert(name.clone(), value.clone())),
        }
    }
    Value::Object(patch)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn applying_twice_is_applying_once(first in configs(), second in configs()) {
        let schema = Schema::of("apps", "Deployment");
        let live = apply(&schema, None, &first, &writer("one"), false).unwrap();
        let live = apply(&schema, Some(&live), &second, &writer("two"), true).unwrap();
        let later = Writer { time: "2026-02-02T00:00:00Z".to_owned(), ..writer("two") };
        let again = apply(&schema, Some(&live), &second, &later, false).unwrap();
        prop_assert_eq!(&again, &live);
    }

    #[test]
    fn unforced_applies_leave_others_alone(first in configs(), second in configs(), third in configs()) {
        let schema = Schema::of("apps", "Deployment");
        let live = apply(&schema, None, &first, &writer("one"), false).unwrap();
        let before = owners(&live)["one"].clone();
        let Ok(live) = apply(&schema, Some(&live), &second, &writer("two"), false) else { return Ok(()) };
        prop_assert_eq!(&owners(&live)["one"], &before);
        // Whoever leaves takes only what is theirs: what the first applied is still there, so applying it again changes nothing.
        let live = apply(&schema, Some(&live), &third, &writer("two"), false);
        let Ok(live) = live else { return Ok(()) };
        let again = apply(&schema, Some(&live), &first, &writer("one"), false).unwrap();
        prop_assert_eq!(owners(&again), owners(&live));
    }

    #[test]
    fn forced_applies_disown(first in configs(), second in configs()) {
        let schema = Schema::of("apps", "Deployment");
        let live = apply(&schema, None, &first, &writer("one"), false).unwrap();
        let forced = apply(&schema, Some(&live), &second, &writer("two"), true).unwrap();
        // What both own now was not changed by the second.
        let unforced = apply(&schema, Some(&live), &second, &writer("two"), false);
        prop_assert_eq!(unforced.is_ok(), owners(&forced).get("one") == owners(&live).get("one"));
    }

    #[test]
    fn a_diff_patches_back(from in configs(), to in configs()) {
        let mut patched = from.clone();
        atoll_merge::merge_patch(&mut patched, &diff(&from, &to));
        prop_assert_eq!(&patched, &to);
        // Strategic merge of an object with itself changes nothing.
        atoll_merge::strategic_merge(&Schema::of("apps", "Deployment"), &mut patched, &to).unwrap();
        prop_assert_eq!(&patched, &to);
    }

    #[test]
    fn decoding_any_fields_does_not_panic(text in "\\{\"[fkvi.]:?[a\\{\\}\\[0-9é]{0,6}\":\\{\\}\\}") {
        if let Ok(value) = serde_json::from_str::<Value>(&text)
            && let Ok(set) = FieldSet::decode(&value)
        {
            prop_assert_eq!(FieldSet::decode(&set.encode()).unwrap(), set);
        }
    }
}
