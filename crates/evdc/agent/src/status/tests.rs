//! Tests of the status: phases, conditions, kubelet's words.

#![allow(clippy::unwrap_used, reason = "tests")]

use serde_json::{Value, json};

use super::*;
use crate::observed::{Health, Seen};

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(1_000_000 + seconds).unwrap()
}

fn pod(spec: Value) -> Pod {
    serde_json::from_value(json!({"metadata": {"name": "p", "namespace": "d", "uid": "u"}, "spec": spec})).unwrap()
}

fn simple() -> Pod {
    pod(json!({"restartPolicy": "Always", "containers": [{"name": "one", "image": "i"}]}))
}

fn ended(code: i32, reason: &str) -> Ended {
    Ended {
        id: "u.one.0".to_owned(),
        code,
        signal: None,
        reason: reason.to_owned(),
        message: String::new(),
        started_at: Some(at(0)),
        finished_at: at(5),
    }
}

fn observed(state: SeenState, attempt: u32, crashes: u32) -> Observed {
    let latest = Some(Seen { attempt, id: format!("u.one.{attempt}"), image_id: "sha256:1".to_owned(), state });
    let history = History { latest, crashes, ..History::default() };
    let address = Some("fd00::5".parse().unwrap());
    Observed { prepared: true, address, containers: [("one".to_owned(), history)].into(), ..Observed::default() }
}

fn seen(pod: &Pod, observed: &Observed) -> Value {
    serde_json::to_value(status(pod, observed, &["fd00::1".to_owned()], at(6))).unwrap()
}

fn condition<'a>(status: &'a Value, type_: &str) -> &'a Value {
    status["conditions"].as_array().unwrap().iter().find(|it| it["type"] == type_).unwrap()
}

#[test]
fn a_running_pod_is_ready() {
    let status = seen(&simple(), &observed(SeenState::Running { since: at(1) }, 2, 2));
    assert_eq!(status["phase"], "Running");
    assert_eq!((&status["podIP"], &status["hostIP"]), (&json!("fd00::5"), &json!("fd00::1")));
    let one = &status["containerStatuses"][0];
    assert_eq!(one["containerID"], "atoll://u.one.2");
    assert_eq!((&one["ready"], &one["started"], &one["restartCount"]), (&json!(true), &json!(true), &json!(2)));
    assert_eq!(one["state"]["running"]["startedAt"], "1970-01-12T13:46:41Z");
    for type_ in ["PodScheduled", "Initialized", "ContainersReady", "Ready", "PodReadyToStartContainers"] {
        assert_eq!(condition(&status, type_)["status"], "True", "{type_}");
    }
    assert_eq!(status["qosClass"], "BestEffort");
}

#[test]
fn containers_are_worded_as_kubelet_words_them() {
    let check = |observed: Observed, phase: &str, state: Value| {
        let status = seen(&simple(), &observed);
        assert_eq!((&status["phase"], &status["containerStatuses"][0]["state"]), (&json!(phase), &state));
    };
    check(Observed::default(), "Pending", json!({"waiting": {"reason": "ContainerCreating"}}));
    let looping = observed(SeenState::Exited(ended(1, "Error")), 3, 4);
    let message = "back-off 40s restarting failed container=one pod=p_d(u)";
    check(looping, "Running", json!({"waiting": {"reason": "CrashLoopBackOff", "message": message}}));
    let mut pulling = Observed::default();
    let waiting = Waiting { reason: "ImagePullBackOff".to_owned(), message: "Back-off".to_owned(), until: at(9) };
    pulling.containers.insert("one".to_owned(), History { waiting: Some(waiting), ..History::default() });
    check(pulling, "Pending", json!({"waiting": {"reason": "ImagePullBackOff", "message": "Back-off"}}));
}

#[test]
fn an_end_is_told_with_its_reason() {
    let killed = observed(SeenState::Exited(ended(137, "OOMKilled")), 0, 2);
    let status = seen(&simple(), &killed);
    let last = &status["containerStatuses"][0]["lastState"]["terminated"];
    assert_eq!((&last["reason"], &last["exitCode"]), (&json!("OOMKilled"), &json!(137)));
    let ready = condition(&status, "Ready");
    assert_eq!(ready["reason"], "ContainersNotReady");
    assert_eq!(ready["message"], "containers with unready status: [one]");
}

#[test]
fn phases_of_pods_that_end() {
    let check = |policy: &str, code: i32, phase: &str| {
        let pod = pod(json!({"restartPolicy": policy, "containers": [{"name": "one"}]}));
        let observed = observed(SeenState::Exited(ended(code, "")), 0, 1);
        assert_eq!(seen(&pod, &observed)["phase"], phase, "{policy} {code}");
    };
    check("Never", 0, "Succeeded");
    check("Never", 1, "Failed");
    check("OnFailure", 0, "Succeeded");
    check("OnFailure", 1, "Running");
    check("Always", 0, "Running");
}

#[test]
fn init_containers_hold_the_pod_back() {
    let pod = pod(json!({"initContainers": [{"name": "init"}], "containers": [{"name": "one"}]}));
    let status = seen(&pod, &Observed::default());
    assert_eq!(status["containerStatuses"][0]["state"]["waiting"]["reason"], "PodInitializing");
    let initialized = condition(&status, "Initialized");
    assert_eq!(initialized["reason"], "ContainersNotInitialized");
    assert_eq!(initialized["message"], "containers with incomplete status: [init]");
}

#[test]
fn readiness_and_gates() {
    let mut unready = observed(SeenState::Running { since: at(1) }, 0, 0);
    unready.containers.get_mut("one").unwrap().health = Health { ready: false, ..Health::default() };
    assert_eq!(condition(&seen(&simple(), &unready), "Ready")["status"], "False");
    let mut gated = simple();
    gated.spec.as_mut().unwrap().readiness_gates =
        serde_json::from_value(json!([{"conditionType": "example.com/ok"}])).unwrap();
    let well = observed(SeenState::Running { since: at(1) }, 0, 0);
    let status = seen(&gated, &well);
    assert_eq!(condition(&status, "Ready")["reason"], "ReadinessGatesNotReady");
    assert_eq!(condition(&status, "ContainersReady")["status"], "True");
    gated.status =
        serde_json::from_value(json!({"conditions": [{"type": "example.com/ok", "status": "True"}]})).unwrap();
    let status = seen(&gated, &well);
    assert_eq!(condition(&status, "Ready")["status"], "True");
    assert_eq!(condition(&status, "example.com/ok")["status"], "True", "others' conditions are kept");
}

#[test]
fn times_of_transitions_stay() {
    let mut pod = simple();
    let well = observed(SeenState::Running { since: at(1) }, 0, 0);
    pod.status = Some(status(&pod, &well, &[], at(10)));
    let later = status(&pod, &well, &[], at(20));
    assert_eq!(Some(&later), pod.status.as_ref());
}

#[test]
fn quality_of_service() {
    let check = |resources: Value, expected: &str| {
        let pod = pod(json!({"containers": [{"name": "one", "resources": resources}]}));
        assert_eq!(quality(&pod.spec.unwrap()), expected);
    };
    check(json!({}), "BestEffort");
    check(json!({"requests": {"cpu": "1"}}), "Burstable");
    check(json!({"limits": {"cpu": "1", "memory": "1Gi"}}), "Guaranteed");
    let same = json!({"cpu": "1", "memory": "1Gi"});
    check(json!({"limits": same.clone(), "requests": same.clone()}), "Guaranteed");
    check(json!({"limits": same, "requests": {"cpu": "500m", "memory": "1Gi"}}), "Burstable");
}
