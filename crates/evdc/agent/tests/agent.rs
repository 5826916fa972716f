//! The whole agent over an API server in memory and a runtime that only pretends: what is started, stopped, taken up, told and left behind.
#![allow(clippy::unwrap_used, reason = "tests")]

#[path = "agent/api.rs"]
mod api;
#[path = "agent/world.rs"]
mod world;

use atoll_agent::streams::Streams;
use atoll_kubelet::{Command, CommandIo, LogWish, Pods, Refusal};
use atoll_podnet::Policies;
use serde_json::{Value, json};
use world::World;

const POD: &str = "/api/v1/namespaces/default/pods";

fn pod(name: &str, spec: Value) -> Value {
    let mut spec = spec;
    spec["nodeName"] = json!("n1");
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": "default", "uid": format!("uid-{name}")}, "spec": spec})
}

fn simple(name: &str) -> Value {
    pod(name, json!({"restartPolicy": "Always", "containers": [{"name": "one", "image": "img", "command": ["/x"]}]}))
}

fn phase_is(phase: &'static str) -> impl Fn(&Value) -> bool {
    move |pod| pod["status"]["phase"] == phase
}

fn is_ready(pod: &Value) -> bool {
    pod["status"]["conditions"]
        .as_array()
        .into_iter()
        .flatten()
        .any(|it| it["type"] == "Ready" && it["status"] == "True")
}

#[tokio::test]
async fn a_pod_runs_is_told_and_is_deleted() {
    let world = World::new();
    let logs = |pod: &str| world.dir().join(format!("agent/logs/default_{pod}_uid-{pod}/one"));
    std::fs::create_dir_all(logs("old")).unwrap();
    let agent = world.start();
    world.api.create(POD, simple("web"));
    let seen = world.api.until(POD, "web", is_ready).await;
    assert!(logs("web").exists() && !logs("old").exists(), "logs of pods that nobody knows of are removed");
    assert_eq!(seen["status"]["podIP"], "fd00::1:1");
    assert_eq!(seen["status"]["containerStatuses"][0]["containerID"], "atoll://uid-web.one.0");
    let node = world.api.until("/api/v1/nodes", "n1", |node| node["status"]["conditions"].is_array()).await;
    assert_eq!(node["metadata"]["labels"]["kubernetes.io/hostname"], "n1");
    let leases = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases";
    world.api.until(leases, "n1", |lease| lease["spec"]["holderIdentity"] == "n1").await;

    world.api.change(POD, "web", |pod| {
        pod["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
        pod["metadata"]["deletionGracePeriodSeconds"] = json!(30);
    });
    world.api.until_gone(POD, "web").await;
    assert_eq!(world.runtime.signals("uid-web.one.0"), [15], "asked politely, and that was enough");
    assert!(world.runtime.is_empty() && world.network.is_empty(), "nothing is left");
    assert!(!world.dir().join("agent/pods/uid-web").exists() && !logs("web").exists());
    let reasons = world.api.event_reasons();
    for reason in ["Pulled", "Created", "Started", "Killing"] {
        assert!(reasons.iter().any(|it| it == reason), "{reason} of {reasons:?}");
    }
    agent.stop().await;
}

#[tokio::test]
async fn a_container_that_ends_starts_again_and_then_backs_off() {
    let world = World::new();
    let agent = world.start();
    world.api.create(POD, simple("web"));
    world.api.until(POD, "web", is_ready).await;
    world.runtime.end("uid-web.one.0", 3);
    let again = |pod: &Value| is_ready(pod) && pod["status"]["containerStatuses"][0]["restartCount"] == 1;
    let seen = world.api.until(POD, "web", again).await;
    assert_eq!(seen["status"]["containerStatuses"][0]["lastState"]["terminated"]["exitCode"], 3);
    world.runtime.end("uid-web.one.1", 3);
    let waiting =
        |pod: &Value| pod["status"]["containerStatuses"][0]["state"]["waiting"]["reason"] == "CrashLoopBackOff";
    let seen = world.api.until(POD, "web", waiting).await;
    assert_eq!(seen["status"]["phase"], "Running");
    agent.stop().await;
}

#[tokio::test]
async fn the_next_agent_takes_up_what_runs() {
    let world = World::new();
    let agent = world.start();
    world.api.create(POD, simple("stays"));
    world.api.create(POD, simple("goes"));
    world.api.until(POD, "stays", is_ready).await;
    world.api.until(POD, "goes", is_ready).await;
    agent.stop().await;
    assert_eq!(world.runtime.running(), 2, "containers outlive the agent");
    world.api.remove(POD, "goes");

    let agent = world.start();
    world.runtime.until(|running| running == ["uid-stays.one.0"]).await;
    world.runtime.end("uid-stays.one.0", 1);
    let again = |pod: &Value| is_ready(pod) && pod["status"]["containerStatuses"][0]["restartCount"] == 1;
    world.api.until(POD, "stays", again).await;
    assert_eq!(world.runtime.created("uid-stays.one.0"), 1, "nothing was started twice");
    agent.stop().await;
}

#[tokio::test]
async fn a_job_is_over_once() {
    let world = World::new();
    let agent = world.start();
    let spec = json!({"restartPolicy": "Never", "initContainers": [{"name": "init", "image": "img", "command": ["/x"]}],
        "containers": [{"name": "one", "image": "img", "command": ["/x"]}]});
    world.api.create(POD, pod("job", spec));
    world.runtime.until(|running| running == ["uid-job.init.0"]).await;
    world.runtime.end("uid-job.init.0", 0);
    world.runtime.until(|running| running == ["uid-job.one.0"]).await;
    world.runtime.end("uid-job.one.0", 0);
    let seen = world.api.until(POD, "job", phase_is("Succeeded")).await;
    assert_eq!(seen["status"]["containerStatuses"][0]["state"]["terminated"]["reason"], "Completed");
    world.network.until_empty().await;
    agent.stop().await;
}

/// A claim `data`, bound to the volume `vol-1`.
fn claim_data(world: &World) {
    let claims = "/api/v1/namespaces/default/persistentvolumeclaims";
    let claim = json!({"metadata": {"name": "data", "namespace": "default"},
        "spec": {"accessModes": ["ReadWriteOnce"], "volumeName": "pv"}, "status": {"phase": "Bound"}});
    world.api.create(claims, claim);
    let volume = json!({"metadata": {"name": "pv"}, "spec": {"csi": {"driver": "atoll", "volumeHandle": "vol-1"}}});
    world.api.create("/api/v1/persistentvolumes", volume);
}

/// A pod `db` that has it mounted.
fn database() -> Value {
    let spec = json!({"restartPolicy": "Always", "terminationGracePeriodSeconds": 1,
        "volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": "data"}}],
        "containers": [{"name": "one", "image": "img", "command": ["/x"], "volumeMounts": [{"name": "v", "mountPath": "/data"}]}]});
    pod("db", spec)
}

#[tokio::test]
async fn claims_are_mounted_and_given_back_when_cut_off() {
    let world = World::new();
    claim_data(&world);
    let agent = world.start();
    world.api.create(POD, database());
    world.api.create(POD, simple("web"));
    world.api.until(POD, "db", is_ready).await;
    world.api.until(POD, "web", is_ready).await;
    assert_eq!(world.volumes.mounted(), ["vol-1"]);
    world.api.cut(true);
    world.runtime.until(|running| running == ["uid-web.one.0"]).await;
    world.volumes.until_empty().await;
    world.api.cut(false);
    world.runtime.until(|running| running.len() == 2).await;
    assert_eq!(world.volumes.mounted(), ["vol-1"]);
    agent.stop().await;
}

#[tokio::test]
async fn a_container_that_lost_its_volume_starts_again_and_says_why() {
    let world = World::new();
    claim_data(&world);
    let agent = world.start();
    let spec = json!({"restartPolicy": "Always", "volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": "data"}}],
        "containers": [
            {"name": "one", "image": "img", "command": ["/x"], "volumeMounts": [{"name": "v", "mountPath": "/data"}]},
            {"name": "two", "image": "img", "command": ["/x"]}]});
    world.api.create(POD, pod("db", spec));
    world.api.until(POD, "db", is_ready).await;
    agent.stop().await;
    world.volumes.lose();

    let began = std::time::Instant::now();
    let agent = world.start();
    let again = |pod: &Value| is_ready(pod) && pod["status"]["containerStatuses"][0]["restartCount"] == 1;
    let seen = world.api.until(POD, "db", again).await;
    assert!(began.elapsed() < std::time::Duration::from_secs(5), "without back-off: {:?}", began.elapsed());
    let last = &seen["status"]["containerStatuses"][0]["lastState"]["terminated"];
    assert_eq!(last["reason"], "VolumeLost", "{last}");
    assert!(last["message"].as_str().unwrap().contains("\"v\""), "{last}");
    assert_eq!(seen["status"]["containerStatuses"][1]["restartCount"], 0, "the other has lost nothing");
    assert_eq!(world.volumes.mounted(), ["vol-1"]);
    assert!(world.api.event_reasons().iter().any(|it| it == "VolumeLost"));
    agent.stop().await;

    // Taken up with its volume as it was: nothing is restarted.
    let agent = world.start();
    world.runtime.end("uid-db.two.0", 1);
    world.api.until(POD, "db", |pod| pod["status"]["containerStatuses"][1]["restartCount"] == 1).await;
    assert_eq!(world.runtime.created("uid-db.one.1"), 1);
    assert_eq!(world.runtime.signals("uid-db.one.1"), [0; 0]);
    agent.stop().await;
}

#[tokio::test]
async fn an_agent_that_comes_back_takes_no_volume_that_went_elsewhere() {
    let world = World::new();
    claim_data(&world);
    let agent = world.start();
    world.api.create(POD, database());
    world.api.until(POD, "db", is_ready).await;
    agent.stop().await;
    world.volumes.lose();
    // Nobody waited for this node: the pod was made anew on another one, which writes the volume now.
    world.api.remove(POD, "db");

    let agent = world.start();
    world.runtime.until(<[String]>::is_empty).await;
    world.network.until_empty().await;
    assert_eq!(world.volumes.times(), 1, "it was not mounted again");
    agent.stop().await;
}

#[tokio::test]
async fn configuration_comes_from_objects_and_waits_for_them() {
    let world = World::new();
    let agent = world.start();
    let spec = json!({"containers": [{"name": "one", "image": "img", "command": ["/x"], "envFrom": [{"secretRef": {"name": "s"}}],
        "volumeMounts": [{"name": "v", "mountPath": "/conf"}]}], "volumes": [{"name": "v", "configMap": {"name": "c"}}]});
    world.api.create(POD, pod("web", spec));
    world
        .api
        .until(POD, "web", |pod| {
            pod["status"]["containerStatuses"][0]["state"]["waiting"]["message"]
                .as_str()
                .is_some_and(|it| it.contains("configmap"))
        })
        .await;
    let map = json!({"metadata": {"name": "c", "namespace": "default"}, "data": {"file": "text"}});
    world.api.create("/api/v1/namespaces/default/configmaps", map);
    let secret = json!({"metadata": {"name": "s", "namespace": "default"}, "data": {"KEY": "c2VjcmV0"}});
    world.api.create("/api/v1/namespaces/default/secrets", secret);
    world.api.until(POD, "web", is_ready).await;
    let spec = world.runtime.spec("uid-web.one.0");
    assert!(spec.env.contains(&("KEY".to_owned(), "secret".to_owned())));
    let file = world.dir().join("volatile/uid-web/v/file");
    assert_eq!(std::fs::read_to_string(file).unwrap(), "text");
    agent.stop().await;
}

#[tokio::test]
async fn what_is_refused_says_so_and_probes_decide() {
    let world = World::new();
    let agent = world.start();
    let privileged = json!({"containers": [{"name": "one", "image": "img", "securityContext": {"privileged": true}}]});
    world.api.create(POD, pod("owner", privileged));
    let seen = world
        .api
        .until(POD, "owner", |pod| {
            pod["status"]["containerStatuses"][0]["state"]["waiting"]["reason"] == "CreateContainerConfigError"
        })
        .await;
    let message = seen["status"]["containerStatuses"][0]["state"]["waiting"]["message"].as_str().unwrap();
    assert!(message.contains("privileged"), "{message}");

    let probe = json!({"exec": {"command": ["/ok"]}, "periodSeconds": 1, "failureThreshold": 1});
    let probed = json!({"restartPolicy": "Always", "terminationGracePeriodSeconds": 1,
        "containers": [{"name": "one", "image": "img", "command": ["/x"], "livenessProbe": probe}]});
    world.api.create(POD, pod("probed", probed));
    world.api.until(POD, "probed", is_ready).await;
    world.runtime.set_exec(1);
    let again = |pod: &Value| pod["status"]["containerStatuses"][0]["restartCount"] == 1;
    world.api.until(POD, "probed", again).await;
    assert!(world.api.event_reasons().iter().any(|it| it == "Unhealthy"));
    agent.stop().await;
}

#[tokio::test]
async fn services_reach_the_network() {
    let world = World::new();
    let agent = world.start();
    let service = json!({"metadata": {"name": "web", "namespace": "default"},
        "spec": {"clusterIP": "fd00::9", "ports": [{"port": 80}]}});
    world.api.create("/api/v1/namespaces/default/services", service);
    let slice = json!({"metadata": {"name": "web-1", "namespace": "default", "labels": {"kubernetes.io/service-name": "web"}},
        "addressType": "IPv6", "ports": [{"port": 8080}], "endpoints": [{"addresses": ["fd00::1:1"]}]});
    world.api.create("/apis/discovery.k8s.io/v1/namespaces/default/endpointslices", slice);
    world.network.until_services(|services| services.values().any(|it| it.endpoints.len() == 1)).await;
    world.api.create(POD, simple("client"));
    world.api.until(POD, "client", is_ready).await;
    let spec = world.runtime.spec("uid-client.one.0");
    assert!(spec.env.contains(&("WEB_SERVICE_HOST".to_owned(), "fd00::9".to_owned())));
    agent.stop().await;
}

#[tokio::test]
async fn nobody_reaches_into_the_pods_of_another_evdc() {
    let world = World::new();
    let agent = world.start();
    world.api.create(POD, simple("web"));
    world.api.until(POD, "web", is_ready).await;
    world.runtime.set_exec(5);
    let run = async |streams: &Streams| {
        let command = Command {
            namespace: "default".to_owned(),
            pod: "web".to_owned(),
            container: "one".to_owned(),
            args: vec!["/x".to_owned()],
            ..Command::default()
        };
        let io = CommandIo { stdin: None, stdout: None, stderr: None, sizes: tokio::sync::mpsc::channel(1).1 };
        Pods::exec(streams, command, io).await
    };
    assert_eq!(run(&agent.streams).await, Ok(5));
    // The same machine and runtime, a pod of the same name, another lease.
    let other = world.streams_of("lease-other");
    assert!(matches!(run(&other).await, Err(Refusal::NotFound(_))));
    let wish = LogWish { namespace: "default".to_owned(), pod: "web".to_owned(), ..LogWish::default() };
    assert!(matches!(Pods::logs(&other, wish).await, Err(Refusal::NotFound(_))));
    assert!(matches!(other.dial("default", "web", 80).await, Err(Refusal::Invalid(_))));
    agent.stop().await;
}

#[tokio::test]
async fn a_pod_waits_until_it_is_known_what_it_may() {
    let world = World::new();
    let agent = world.start();
    world.api.hold_endpoints(true);
    world.api.create(POD, simple("web"));
    world.network.until_attached().await;
    assert_eq!(world.runtime.created("uid-web.one.0"), 0, "attached and closed, and nothing runs");
    world.api.hold_endpoints(false);
    world.api.until(POD, "web", is_ready).await;
    world.network.until_policies(|policies| policies.pods.len() == 1).await;
    let policy = json!({"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
        "metadata": {"name": "np", "namespace": "default"}, "spec": {"podSelector": {}}});
    world.api.create("/apis/networking.k8s.io/v1/namespaces/default/networkpolicies", policy);
    let isolated = |policies: &Policies| policies.pods.values().all(|it| it.ingress == Some(Vec::new()));
    world.network.until_policies(isolated).await;

    let odd = json!({"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": {"name": "odd", "namespace": "default"},
        "spec": {"podSelector": {}, "ingress": [{"ports": [{"protocol": "SCTP", "port": 1}]}]}});
    world.api.create("/apis/networking.k8s.io/v1/namespaces/default/networkpolicies", odd);
    world.api.until_event("NotEnforced").await;
    agent.stop().await;
}

#[tokio::test]
async fn a_pod_that_is_gone_waits_for_no_policies() {
    let world = World::new();
    let agent = world.start();
    world.api.hold_endpoints(true);
    world.api.create(POD, simple("web"));
    world.network.until_attached().await;
    world.api.remove(POD, "web");
    world.network.until_empty().await;
    assert_eq!(world.runtime.created("uid-web.one.0"), 0);
    agent.stop().await;
}
