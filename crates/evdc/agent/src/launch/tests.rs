//! Tests of what the runtime is asked for, and of what is refused.

#![allow(clippy::unwrap_used, reason = "tests")]

use serde_json::{Value, json};

use super::*;

fn spec_of(spec: Value, container: Value) -> (PodSpec, Container) {
    let mut container = container;
    container["name"] = json!("one");
    let mut spec = spec;
    spec["containers"] = json!([container]);
    let spec: PodSpec = serde_json::from_value(spec).unwrap();
    let container = spec.containers[0].clone();
    (spec, container)
}

fn launched(spec: Value, container: Value) -> Result<ContainerSpec, ConfigProblem> {
    let (spec, container) = spec_of(spec, container);
    let pod = Pod { spec: Some(spec.clone()), ..Pod::default() };
    let image = ImageFacts {
        entrypoint: vec!["/entry".to_owned()],
        cmd: vec!["default".to_owned()],
        working_dir: "/work".to_owned(),
        ..ImageFacts::default()
    };
    let folders = [("data".to_owned(), PathBuf::from("/vol/data")), ("conf".to_owned(), PathBuf::from("/vol/conf"))];
    let mounted = Mounted { folders: folders.into(), exclusive: false };
    let launch = Launch {
        pod: &pod,
        spec: &spec,
        container: &container,
        uid: "uid-1",
        attempt: 2,
        image: &image,
        rootfs: PathBuf::from("/rootfs"),
        user: UserIds::default(),
        environment: BTreeMap::from([("A".to_owned(), "1".to_owned())]),
        mounted: &mounted,
        namespace: Path::new("/netns"),
        own_mounts: vec![(PathBuf::from("/etc/hosts"), PathBuf::from("/own/hosts"))],
        log: PathBuf::from("/log"),
        log_bytes: 10 << 20,
        memory_bytes: 1 << 30,
    };
    launch.spec()
}

#[test]
fn command_lines_are_put_together_as_kubernetes_says() {
    let check = |container: Value, expected: &[&str]| {
        assert_eq!(launched(json!({}), container.clone()).unwrap().args, expected, "{container}");
    };
    check(json!({}), &["/entry", "default"]);
    check(json!({"args": ["x$(A)"]}), &["/entry", "x1"]);
    check(json!({"command": ["/c"]}), &["/c"]);
    check(json!({"command": ["/c"], "args": ["y"]}), &["/c", "y"]);
}

#[test]
fn users_come_from_the_nearest_word() {
    let check = |spec: Value, container: Value, expected: Option<(u32, u32)>| {
        let found = launched(spec, container).ok().map(|it| (it.user.uid, it.user.gid));
        assert_eq!(found, expected);
    };
    let as_user = |uid: i64| json!({"securityContext": {"runAsUser": uid}});
    check(json!({}), json!({}), Some((0, 0)));
    check(as_user(5), json!({}), Some((5, 0)));
    check(as_user(5), as_user(7), Some((7, 0)));
    check(json!({"securityContext": {"runAsNonRoot": true}}), json!({}), None);
    check(json!({"securityContext": {"runAsNonRoot": true}}), as_user(7), Some((7, 0)));
    check(as_user(-1), json!({}), None);
    let grouped =
        launched(json!({"securityContext": {"fsGroup": 9, "supplementalGroups": [8, 9]}}), json!({})).unwrap();
    assert_eq!(grouped.user.additional_gids, [8, 9]);
}

#[test]
fn mounts_are_ordered_and_own_files_give_way() {
    let volumes = json!({"volumes": [{"name": "data", "emptyDir": {}}, {"name": "conf", "configMap": {"name": "c"}}]});
    let mounts = json!([{"name": "conf", "mountPath": "/a/b/c"}, {"name": "data", "mountPath": "/a"}, {"name": "data", "mountPath": "/etc/hosts"}]);
    let spec = launched(volumes.clone(), json!({"volumeMounts": mounts})).unwrap();
    let found: Vec<(String, bool)> =
        spec.mounts.iter().map(|it| (it.target.display().to_string(), it.read_only)).collect();
    let expected = [("/a", false), ("/etc/hosts", false), ("/a/b/c", true)];
    assert_eq!(found, expected.map(|(target, read_only)| (target.to_owned(), read_only)));
    let escape = json!([{"name": "data", "mountPath": "/a/../../etc"}]);
    assert!(launched(volumes.clone(), json!({"volumeMounts": escape})).is_err());
    assert!(launched(volumes, json!({"volumeMounts": [{"name": "none", "mountPath": "/a"}]})).is_err());
}

#[test]
fn limits_become_the_runtimes() {
    let limits = json!({"resources": {"limits": {"memory": "64Mi", "cpu": "250m"}, "requests": {"cpu": "100m"}}});
    let resources = launched(json!({}), limits).unwrap().resources;
    assert_eq!(resources.memory, Some(ByteCount(64 << 20)));
    assert_eq!((resources.cpu_millis_max, resources.cpu_millis_request), (Some(250), Some(100)));
}

#[test]
fn what_is_not_done_is_refused_by_name() {
    let check = |spec: Value, container: Value, word: &str| {
        let (spec, container) = spec_of(spec, container);
        let why = refused(&spec, &container);
        assert!(why.as_ref().is_some_and(|why| why.contains(word)), "{word}: {why:?}");
    };
    check(json!({"hostNetwork": true}), json!({}), "hostNetwork");
    check(json!({"hostPID": true}), json!({}), "hostPID");
    check(json!({}), json!({"securityContext": {"privileged": true}}), "privileged");
    check(json!({}), json!({"tty": true}), "tty");
    check(json!({}), json!({"volumeMounts": [{"name": "v", "mountPath": "/a", "subPath": "x"}]}), "subPath");
    check(json!({}), json!({"livenessProbe": {"grpc": {"port": 1}}}), "gRPC");
    check(json!({}), json!({"readinessProbe": {"httpGet": {"port": 1, "scheme": "HTTPS"}}}), "HTTPS");
    check(json!({"runtimeClassName": "kata"}), json!({}), "runtimeClassName");
    let (spec, container) =
        spec_of(json!({"securityContext": {"seccompProfile": {"type": "RuntimeDefault"}}}), json!({}));
    assert_eq!(refused(&spec, &container), None);
}
