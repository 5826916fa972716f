//! Tests of the pure core: what is observed in, the next step out.

#![allow(clippy::unwrap_used, reason = "tests")]

use serde_json::json;

use super::*;
use crate::observed::{Ended, Health, Seen, Waiting};

fn now() -> Timestamp {
    Timestamp::from_second(1_000_000).unwrap()
}

fn pod(policy: &str) -> Pod {
    serde_json::from_value(json!({
        "metadata": {"name": "p", "namespace": "d", "uid": "u"},
        "spec": {"restartPolicy": policy, "initContainers": [{"name": "init"}],
            "containers": [{"name": "one"}, {"name": "two"}]}
    }))
    .unwrap()
}

fn history(state: Option<SeenState>, crashes: u32) -> History {
    let latest = state.map(|state| Seen { attempt: crashes, id: "c".to_owned(), image_id: String::new(), state });
    History { latest, crashes, ..History::default() }
}

fn running() -> History {
    history(Some(SeenState::Running { since: now() }), 0)
}

fn exited(code: i32, crashes: u32) -> History {
    let ended = Ended {
        id: "c".to_owned(),
        code,
        signal: None,
        reason: String::new(),
        message: String::new(),
        started_at: None,
        finished_at: now(),
    };
    history(Some(SeenState::Exited(ended)), crashes)
}

fn observed(containers: &[(&str, History)]) -> Observed {
    let containers = containers.iter().map(|(name, history)| ((*name).to_owned(), history.clone())).collect();
    Observed { prepared: true, containers, start_time: Some(now()), ..Observed::default() }
}

fn start(name: &str, attempt: u32) -> Option<Action> {
    Some(Action::Start { name: name.to_owned(), attempt })
}

fn check(what: &str, pod: &Pod, observed: &Observed, expected: Option<Action>) -> Plan {
    let plan = decide(pod, observed, now());
    assert_eq!(plan.action, expected, "{what}");
    plan
}

#[test]
fn a_pod_starts_in_order() {
    let pod = pod("Always");
    check("first its sandbox", &pod, &Observed::default(), Some(Action::Prepare));
    check("then its init container", &pod, &observed(&[]), start("init", 0));
    check("alone", &pod, &observed(&[("init", running())]), None);
    check("then the others", &pod, &observed(&[("init", exited(0, 1))]), start("one", 0));
    check("both", &pod, &observed(&[("init", exited(0, 1)), ("one", running())]), start("two", 0));
    let all = observed(&[("init", exited(0, 1)), ("one", running()), ("two", running())]);
    assert_eq!(check("and that is it", &pod, &all, None).again_at, None);
    let lost = observed(&[("one", running()), ("two", running())]);
    check("init containers do not run again under running ones", &pod, &lost, None);
}

#[test]
fn restarts_follow_the_policy_and_back_off() {
    let second = |seconds| now().saturating_add(SignedDuration::from_secs(seconds)).unwrap();
    let check = |policy: &str, code: i32, crashes: u32, expected: Option<Action>, again: Option<Timestamp>| {
        let observed = observed(&[("init", exited(0, 1)), ("one", exited(code, crashes)), ("two", running())]);
        let plan = decide(&pod(policy), &observed, now());
        assert_eq!((plan.action, plan.again_at), (expected, again), "{policy} {code} {crashes}");
    };
    check("Always", 0, 1, start("one", 2), None);
    check("Always", 1, 1, start("one", 2), None);
    check("Always", 1, 2, None, Some(second(10)));
    check("Always", 1, 3, None, Some(second(20)));
    check("Always", 1, 9, None, Some(second(300)));
    check("Always", 1, 4_000_000_000, None, Some(second(300)));
    check("OnFailure", 1, 1, start("one", 2), None);
    check("OnFailure", 0, 1, None, None);
    check("Never", 1, 1, None, None);
}

#[test]
fn a_pod_that_is_over_is_cleared_away() {
    let done = |code| observed(&[("init", exited(0, 1)), ("one", exited(code, 1)), ("two", exited(0, 1))]);
    check("all ended", &pod("Never"), &done(1), Some(Action::Remove { forget: false }));
    check("well", &pod("OnFailure"), &done(0), Some(Action::Remove { forget: false }));
    let cleared = Observed { prepared: false, ..done(0) };
    check("once", &pod("OnFailure"), &cleared, None);
    let init = observed(&[("init", exited(1, 1))]);
    check("an init container that failed for good", &pod("Never"), &init, Some(Action::Remove { forget: false }));
    let mut told = pod("Always");
    told.status = serde_json::from_value(json!({"phase": "Failed"})).unwrap();
    check("what the API says is over stays over", &told, &Observed::default(), None);
}

#[test]
fn leaving_goes_step_by_step() {
    let mut pod = pod("Always");
    pod.metadata.deletion_timestamp = Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(now()));
    pod.metadata.deletion_grace_period_seconds = Some(7);
    let stop = Action::StopAll { grace: SignedDuration::from_secs(7), failure: None };
    check("end what runs", &pod, &observed(&[("one", running())]), Some(stop));
    let ended = observed(&[("one", exited(143, 1))]);
    check("remove", &pod, &ended, Some(Action::Remove { forget: true }));
    let removed = Observed { removed: true, prepared: false, ..ended.clone() };
    check("tell", &pod, &removed, Some(Action::Delete));
    check("a pod that is gone is not deleted", &pod, &Observed { gone: true, ..removed }, None);
    check("one that never began goes too", &pod, &Observed::default(), Some(Action::Remove { forget: true }));
}

#[test]
fn a_node_that_is_cut_off_stops_what_must_not_run_twice() {
    let cut = Observed { cut_off: true, ..observed(&[("init", exited(0, 1)), ("one", running()), ("two", running())]) };
    check("others run on", &pod("Always"), &cut, None);
    let exclusive = Observed { exclusive: true, ..cut };
    let stop = Action::StopAll { grace: GRACE_CUT_OFF, failure: None };
    check("this one stops", &pod("Always"), &exclusive, Some(stop));
    let stopped = observed(&[("one", exited(143, 1)), ("two", exited(143, 1))]);
    let stopped = Observed { exclusive: true, cut_off: true, ..stopped };
    check("and gives its volume back", &pod("Always"), &stopped, Some(Action::Remove { forget: false }));
    let idle = Observed { prepared: false, ..stopped };
    check("and waits", &pod("Always"), &idle, None);
    check("until the API is back", &pod("Always"), &Observed { cut_off: false, ..idle }, Some(Action::Prepare));
}

#[test]
fn what_waits_is_tried_when_its_time_has_come() {
    let later = now().saturating_add(SignedDuration::from_secs(3)).unwrap();
    let held = |until| {
        let waiting = Some(Waiting { reason: String::new(), message: String::new(), until });
        observed(&[("init", exited(0, 1)), ("one", History { waiting, ..History::default() }), ("two", running())])
    };
    assert_eq!(check("not yet", &pod("Always"), &held(later), None).again_at, Some(later));
    check("now", &pod("Always"), &held(now()), start("one", 0));
}

#[test]
fn probes_and_deadlines_end_containers() {
    let sick = Health { unhealthy: Some("sick".to_owned()), ..Health::default() };
    let one = History { health: sick, ..running() };
    let observed = observed(&[("init", exited(0, 1)), ("one", one), ("two", running())]);
    let stop = Action::Stop { name: "one".to_owned(), why: "sick".to_owned(), grace: None };
    check("liveness", &pod("Always"), &observed, Some(stop));
    let mut short = pod("Always");
    short.spec.as_mut().unwrap().active_deadline_seconds = Some(0);
    let plan = decide(&short, &observed, now());
    assert!(
        matches!(plan.action, Some(Action::StopAll { failure: Some((reason, _)), .. }) if reason == "DeadlineExceeded")
    );
}

#[test]
fn sidecars_start_first_and_stay() {
    let pod: Pod = serde_json::from_value(json!({
        "metadata": {"name": "p", "uid": "u"},
        "spec": {"restartPolicy": "Never", "initContainers": [{"name": "side", "restartPolicy": "Always"}],
            "containers": [{"name": "one"}]}
    }))
    .unwrap();
    check("first", &pod, &observed(&[]), start("side", 0));
    let starting = History { health: Health { started: false, ..Health::default() }, ..running() };
    check("until it has started", &pod, &observed(&[("side", starting)]), None);
    check("then the others", &pod, &observed(&[("side", running())]), start("one", 0));
    let crashed = observed(&[("side", exited(0, 1)), ("one", running())]);
    check("it starts again beside them", &pod, &crashed, start("side", 2));
    let done = observed(&[("side", running()), ("one", exited(0, 1))]);
    check("and ends after them", &pod, &done, Some(Action::StopAll { grace: GRACE_DEFAULT, failure: None }));
}
