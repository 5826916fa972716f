//! NetworkPolicies in a rented eVDC, on machines of their own: applied by kubectl, enforced on every node, and what they leave alone. Needs root, kubectl
//! and curl.

use std::process::Output;

use crate::common::run;
use crate::pods::{MEMBERS, Pod, World, fetch, rent};
use crate::world::wait_until;

/// Only `web` and who is called a friend reach `web`, at its port.
const POLICY: &str = r#"
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: web}
spec:
  podSelector: {matchLabels: {app: web}}
  ingress:
  - from:
    - podSelector: {matchLabels: {app: web}}
    - podSelector: {matchLabels: {role: friend}}
    ports: [{port: 8080, protocol: TCP}]
"#;

/// `lone` says nothing to anyone.
const SILENCE: &str = r#"
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: lone}
spec: {podSelector: {matchLabels: {app: lone}}, policyTypes: [Egress]}
"#;

fn apply(world: &World, name: &str, text: &str) -> Output {
    let file = world.dir(name);
    std::fs::write(&file, text).unwrap();
    let mut kubectl = world.host("home").command("kubectl");
    kubectl.arg("--kubeconfig").arg(world.dir("kubeconfig")).args(["apply", "-f"]).arg(file).output().unwrap()
}

fn apply_well(world: &World, name: &str, text: &str) {
    let applied = apply(world, name, text);
    assert!(applied.status.success(), "{}", String::from_utf8_lossy(&applied.stderr));
}

fn url(pod: &Pod) -> String {
    format!("http://[{}]:8080/", pod.address)
}

fn reaches(from: &Pod, url: &str) -> bool {
    fetch(from.command("curl"), url).is_ok()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn what_kubectl_applies_is_enforced_on_every_node() {
    let mut world = World::raise().await;
    rent(&world);
    let (web, lone) = (world.pods("web"), world.pods("lone").remove(0));
    let service = format!("http://[{}]/", world.service("web"));
    assert!(web.iter().all(|pod| reaches(&lone, &url(pod))), "without a policy all is open");

    apply_well(&world, "policy.yaml", POLICY);
    let shown = world.kubectl(&["get", "netpol"]);
    let lines: Vec<Vec<&str>> = shown.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!((&lines[0][..], &lines[1][..2]), (&["NAME", "POD-SELECTOR", "AGE"][..], &["web", "app=web"][..]));
    wait_until("the policy on both nodes", || web.iter().all(|pod| !reaches(&lone, &url(pod))));
    assert!(!reaches(&lone, &service), "nor by the Service");
    assert!(reaches(&web[0], &url(&web[1])) && reaches(&web[1], &url(&web[0])), "who is let in");
    assert!(world.page().status.success(), "the gateway's connections come from a pod's own node");

    world.kubectl(&["label", "pod", &lone.name, "role=friend"]);
    wait_until("a label lets it in", || web.iter().all(|pod| reaches(&lone, &url(pod))));
    assert!(reaches(&lone, &service));
    world.kubectl(&["label", "pod", &lone.name, "role-"]);
    wait_until("and out again", || web.iter().all(|pod| !reaches(&lone, &url(pod))));

    a_new_pod_is_held_to_it(&world, &web[0], &lone);
    a_node_that_was_killed_keeps_it(&mut world, &lone).await;
    what_goes_out(&world, &lone);

    let sctp = POLICY.replace("protocol: TCP", "protocol: SCTP");
    let refused = apply(&world, "sctp.yaml", &sctp);
    let words = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success() && words.contains("supported values: \"TCP\", \"UDP\""), "{words}");

    world.kubectl(&["delete", "netpol", "--all"]);
    let web = world.pods("web");
    wait_until("all is open again", || web.iter().all(|pod| reaches(&lone, &url(pod))));
    run(&world.dir("home"), &["evdc", "rm", "hello"], b"");
    let is_clear = |name: &&str| std::fs::read_dir(world.dir(name).join("members")).map_or(0, Iterator::count) == 0;
    wait_until("nothing left", || MEMBERS.iter().all(&is_clear));
}

/// Another takes the place of one that is deleted, and nobody had to be told of it.
fn a_new_pod_is_held_to_it(world: &World, old: &Pod, lone: &Pod) {
    world.kubectl(&["delete", "pod", &old.name]);
    world.kubectl(&["rollout", "status", "deployment/web", "--timeout=120s"]);
    let pods = world.pods("web");
    let new = pods.iter().find(|pod| pod.uid != old.uid && !pod.address.is_empty());
    let web: Vec<&Pod> = pods.iter().filter(|pod| pod.uid != old.uid && !pod.address.is_empty()).collect();
    assert!(new.is_some() && web.len() == 2, "{pods:?}");
    assert!(web.iter().all(|pod| !reaches(lone, &url(pod))), "it is ready, and closed to others");
    wait_until("its peers know it", || reaches(web[0], &url(web[1])) && reaches(web[1], &url(web[0])));
}

async fn a_node_that_was_killed_keeps_it(world: &mut World, lone: &Pod) {
    let web = world.pods("web");
    let (name, _) = world.machine(&web[1].node);
    world.nodes.get_mut(name).unwrap().kill().await.unwrap();
    assert!(!reaches(lone, &url(&web[1])));
    world.nodes.get_mut(name).unwrap().start_again().await.unwrap();
    wait_until("the way to a pod of a node that came back", || {
        assert!(!reaches(lone, &url(&web[1])), "there is no moment in which it is open");
        reaches(&web[0], &url(&web[1]))
    });
}

fn what_goes_out(world: &World, lone: &Pod) {
    world.kubectl(&["label", "pod", &lone.name, "role=friend"]);
    let web = world.pods("web");
    wait_until("it is let in", || reaches(lone, &url(&web[0])));
    apply_well(world, "silence.yaml", SILENCE);
    wait_until("and not let out", || web.iter().all(|pod| !reaches(lone, &url(pod))));
    assert!(reaches(&web[0], &url(lone)), "its answers pass");
}
