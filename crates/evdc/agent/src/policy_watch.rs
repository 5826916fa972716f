//! Keeps the pod network's policies as the API server has them. Changes that come together are compiled and programmed together; a change to a pod elsewhere
//! comes to elements of sets.
//!
//! Of pods it reads `PodEndpoint`s: the API server shows a node no more of those that it does not run.

use std::collections::BTreeSet;
use std::net::Ipv6Addr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use atoll_podnet::Protocol;
use futures_util::StreamExt;
use k8s_openapi::api::core::v1::{Namespace, ObjectReference};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use kube::core::{DynamicObject, GroupVersionKind};
use kube::discovery::ApiResource;
use kube::{Api, ResourceExt};
use serde::Deserialize;
use tokio::sync::watch as channel;

use crate::agent::Shared;
use crate::mirror::{Mirror, follow, sleep_until};
use crate::policies::{Labels, LeftOut, NamedPort, Objects, Place, Policy, compile};

/// A rollout changes several pods within milliseconds; new pods wait for this, so it is short.
const TOGETHER: Duration = Duration::from_millis(10);

/// Of the time that compiling and programming took, this many times as much passes before it is done again: whoever changes objects all the time does not
/// get more than a small part of this node for it, which no lease pays for.
const PAUSE_TIMES: u32 = 4;

/// After the network refused.
const TRY_AGAIN: Duration = Duration::from_secs(2);

/// What a PodEndpoint says.
#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct EndpointSpec {
    node_name: String,
    #[serde(rename = "podIPs")]
    pod_ips: Vec<String>,
    ports: Vec<EndpointPort>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct EndpointPort {
    name: String,
    container_port: i32,
    protocol: String,
}

fn endpoints() -> ApiResource {
    ApiResource::from_gvk(&GroupVersionKind::gvk("networking.atoll.cloud", "v1", "PodEndpoint"))
}

/// `programmed` counts up each time that policies are in force.
pub(crate) async fn run(shared: Arc<Shared>, programmed: channel::Sender<u64>) {
    let mut pods = pin!(follow(Api::all_with(shared.client.clone(), &endpoints())));
    let mut namespaces = pin!(follow::<Namespace>(Api::all(shared.client.clone())));
    let mut policies = pin!(follow::<NetworkPolicy>(Api::all(shared.client.clone())));
    let (mut pod_mirror, mut namespace_mirror, mut policy_mirror) = (Mirror::new(), Mirror::new(), Mirror::new());
    let mut subnets = shared.config.subnets.clone();
    let mut due: Option<tokio::time::Instant> = None;
    let (mut told, mut rested) = (BTreeSet::new(), tokio::time::Instant::now());
    loop {
        let changed = tokio::select! {
            Some(event) = pods.next() => pod_mirror.take(event, |it| Arc::new(place(&it))),
            Some(event) = namespaces.next() => namespace_mirror.take(event, |it| Arc::new(labels(&it))),
            Some(event) = policies.next() => policy_mirror.take(event, |it| Arc::new(policy(it))),
            () = changed(&mut subnets) => true,
            () = sleep_until(due) => {
                due = None;
                let objects = Objects {
                    policies: policy_mirror.objects.values().cloned().collect(),
                    namespaces: namespace_mirror.objects.iter().map(|(key, it)| (key.1.clone(), it.clone())).collect(),
                    pods: pod_mirror.objects.values().cloned().collect(),
                };
                let began = tokio::time::Instant::now();
                let done = program(&shared, objects, &mut told).await;
                rested = tokio::time::Instant::now() + began.elapsed() * PAUSE_TIMES;
                if done {
                    programmed.send_modify(|times| *times += 1);
                } else {
                    due = Some(tokio::time::Instant::now() + TRY_AGAIN);
                }
                false
            }
        };
        let complete = pod_mirror.complete && namespace_mirror.complete && policy_mirror.complete;
        if changed && complete && due.is_none() {
            due = Some(rested.max(tokio::time::Instant::now() + TOGETHER));
        }
    }
}

/// When there are other members; never, if it is not known who they are.
async fn changed<T>(known: &mut Option<channel::Receiver<T>>) {
    let ended = match known {
        Some(known) => known.changed().await.is_err(),
        None => std::future::pending().await,
    };
    if ended {
        *known = None;
    }
}

async fn program(shared: &Arc<Shared>, objects: Objects, told: &mut BTreeSet<LeftOut>) -> bool {
    let config = shared.clone();
    // A large eVDC takes milliseconds, one that is made to be slow may take more: not on the threads that serve everything else.
    let compiled = tokio::task::spawn_blocking(move || {
        let subnets = config.config.subnets.as_ref().map(|known| known.borrow().clone());
        compile(&config.config.node_name, &objects, subnets.as_ref())
    });
    let Ok(compiled) = compiled.await else { return false };
    match shared.network.set_policies(&compiled.policies).await {
        Ok(refused) => {
            let general = refused.into_iter().map(|why| LeftOut { policy: None, why });
            let notes: BTreeSet<LeftOut> = compiled.left_out.into_iter().chain(general).collect();
            for note in notes.difference(told) {
                tracing::warn!(%note, "part of a NetworkPolicy allows nothing");
                tell(shared, note);
            }
            *told = notes;
            true
        }
        Err(problem) => {
            tracing::warn!(%problem, "NetworkPolicies could not be programmed; trying again");
            false
        }
    }
}

/// Whoever wrote the policy does not see this node's log; an Event is where they look.
fn tell(shared: &Shared, note: &LeftOut) {
    let Some((namespace, name)) = note.policy.clone() else { return };
    let about = ObjectReference {
        api_version: Some("networking.k8s.io/v1".to_owned()),
        kind: Some("NetworkPolicy".to_owned()),
        namespace: Some(namespace),
        name: Some(name),
        ..ObjectReference::default()
    };
    shared.events.about(about, true, "NotEnforced", &note.why);
}

fn labels(object: &impl ResourceExt) -> Labels {
    object.labels().clone()
}

fn policy(object: NetworkPolicy) -> Policy {
    Policy {
        namespace: object.namespace().unwrap_or_default(),
        name: object.name_any(),
        spec: object.spec.unwrap_or_default(),
    }
}

fn place(object: &DynamicObject) -> Place {
    // The kind is the API server's own; what cannot be read leaves a pod that is nobody's peer.
    let spec = object.data.get("spec").cloned().unwrap_or_default();
    let spec: EndpointSpec = serde_json::from_value(spec).unwrap_or_default();
    let port = |port: EndpointPort| {
        let protocol = match port.protocol.as_str() {
            "TCP" => Protocol::Tcp,
            "UDP" => Protocol::Udp,
            _ => return None,
        };
        Some(NamedPort { name: port.name, protocol, number: u16::try_from(port.container_port).ok()? })
    };
    Place {
        uid: object.uid().unwrap_or_default(),
        namespace: object.namespace().unwrap_or_default(),
        labels: labels(object),
        node: spec.node_name,
        addresses: spec.pod_ips.iter().filter_map(|ip| ip.parse::<Ipv6Addr>().ok()).collect(),
        ports: spec.ports.into_iter().filter_map(port).collect(),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;

    #[test]
    fn a_pod_endpoint_is_read() {
        let read = |value: serde_json::Value| place(&serde_json::from_value(value).unwrap());
        let found = read(serde_json::json!({"apiVersion": "networking.atoll.cloud/v1", "kind": "PodEndpoint",
            "metadata": {"name": "p", "namespace": "d", "uid": "u", "labels": {"a": "b"}},
            "spec": {"nodeName": "n1", "podIPs": ["fd00::5", "10.0.0.5"], "ports": [
                {"name": "http", "containerPort": 80, "protocol": "TCP"}, {"name": "s", "containerPort": 1, "protocol": "SCTP"}]}}));
        let http = NamedPort { name: "http".to_owned(), protocol: Protocol::Tcp, number: 80 };
        assert_eq!((found.uid.as_str(), found.node.as_str(), found.ports.as_slice()), ("u", "n1", &[http][..]));
        assert_eq!(found.addresses, ["fd00::5".parse::<Ipv6Addr>().unwrap()]);
        let empty = read(serde_json::json!({"metadata": {"name": "p"}}));
        assert_eq!(empty, Place::default());
    }
}
