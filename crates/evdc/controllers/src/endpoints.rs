//! EndpointSlices: which pods answer for a Service, and whether they are ready.
//!
//! Slices have names that follow from the Service, family and ports, so two passes never make two of the same. Services without a selector are left
//! to whoever made them.

use std::{collections::BTreeMap, net::IpAddr};

use k8s_openapi::{
    api::{
        core::v1::{ObjectReference, Pod, Service, ServicePort},
        discovery::v1::{Endpoint, EndpointConditions, EndpointPort, EndpointSlice},
    },
    apimachinery::pkg::{apis::meta::v1::ObjectMeta, util::intstr::IntOrString},
};
use kube::api::DeleteParams;
use serde_json::json;

use crate::{
    driver::Again,
    objects::{Key, MANAGER, controlled_by, has_ended, is_leaving, is_ready, name, namespace, node_of},
    world::{Failure, World},
};

const SERVICE: &str = "kubernetes.io/service-name";
const MANAGED_BY: &str = "endpointslice.kubernetes.io/managed-by";

/// Most endpoints in one slice, so that one pod's change does not send all of a large Service; Kubernetes' default.
const ENDPOINTS_MAX: usize = 100;

pub(crate) async fn look(world: &World, key: &Key) -> Result<Again, Failure> {
    let service = world.services.get(key).filter(|service| !is_leaving(&service.metadata));
    let mut wanted = BTreeMap::new();
    if let Some(service) = &service {
        if selector(service).is_none() {
            return Ok(None);
        }
        let pods = world.pods.in_namespace(&key.namespace);
        let pods: Vec<&Pod> = pods.iter().map(|pod| &**pod).filter(|pod| selects(service, pod)).collect();
        wanted = slices(service, &pods).into_iter().map(|slice| (name(&slice.metadata).to_owned(), slice)).collect();
    }
    for slice in world.slices.in_namespace(&key.namespace) {
        let labels = slice.metadata.labels.as_ref();
        let label = |key: &str| labels.and_then(|labels| labels.get(key)).map(String::as_str);
        if label(SERVICE) != Some(&key.name) || label(MANAGED_BY) != Some(MANAGER) || is_leaving(&slice.metadata) {
            continue;
        }
        match wanted.remove(name(&slice.metadata)) {
            None => world.delete(&*slice, DeleteParams::default()).await?,
            Some(new) if slice.endpoints != new.endpoints || slice.ports != new.ports => {
                let patch = json!({"endpoints": new.endpoints, "ports": new.ports});
                world.patch::<EndpointSlice>(&Key::of(&slice.metadata), patch).await?;
            }
            Some(_) => {}
        }
    }
    for slice in wanted.values() {
        world.create(slice).await?;
    }
    Ok(None)
}

fn selector(service: &Service) -> Option<&BTreeMap<String, String>> {
    service.spec.as_ref()?.selector.as_ref().filter(|selector| !selector.is_empty())
}

/// Whether the Service selects the pod.
pub(crate) fn selects(service: &Service, pod: &Pod) -> bool {
    let labels = pod.metadata.labels.as_ref();
    namespace(&service.metadata) == namespace(&pod.metadata)
        && selector(service).is_some_and(|selector| {
            selector.iter().all(|(key, value)| labels.and_then(|labels| labels.get(key)) == Some(value))
        })
}

/// Endpoints with the same ports.
type Group = (Vec<EndpointPort>, Vec<Endpoint>);

/// The slices of a Service: by address family, by what its ports are in the pods, and by number.
fn slices(service: &Service, pods: &[&Pod]) -> Vec<EndpointSlice> {
    let ports = service.spec.as_ref().and_then(|spec| spec.ports.as_deref()).unwrap_or_default();
    let mut groups: BTreeMap<(&'static str, String), Group> = BTreeMap::new();
    for pod in pods.iter().filter(|pod| !has_ended(pod)) {
        let resolved: Vec<EndpointPort> = ports.iter().filter_map(|port| resolve(port, pod)).collect();
        for address in addresses(pod) {
            let family = if address.is_ipv4() { "ipv4" } else { "ipv6" };
            let group = groups.entry((family, json!(resolved).to_string())).or_default();
            group.0.clone_from(&resolved);
            group.1.push(endpoint(service, pod, address));
        }
    }
    let mut slices = Vec::new();
    let mut numbers: BTreeMap<&str, usize> = BTreeMap::new();
    for ((family, _), (ports, mut endpoints)) in groups {
        endpoints.sort_by(|a, b| a.addresses.cmp(&b.addresses));
        for endpoints in endpoints.chunks(ENDPOINTS_MAX) {
            let number = numbers.entry(family).or_default();
            slices.push(slice(service, family, *number, ports.clone(), endpoints.to_vec()));
            *number += 1;
        }
    }
    if slices.is_empty() {
        // A Service without endpoints has a slice that says so, which is what clients wait for.
        let families = service.spec.as_ref().and_then(|spec| spec.ip_families.as_deref()).unwrap_or_default();
        let family = if families.first().is_some_and(|family| family == "IPv4") { "ipv4" } else { "ipv6" };
        slices.push(slice(service, family, 0, Vec::new(), Vec::new()));
    }
    slices
}

fn slice(
    service: &Service,
    family: &str,
    number: usize,
    ports: Vec<EndpointPort>,
    endpoints: Vec<Endpoint>,
) -> EndpointSlice {
    let label = |key: &str, value: &str| (key.to_owned(), value.to_owned());
    let mut labels = service.metadata.labels.clone().unwrap_or_default();
    labels.extend([label(SERVICE, name(&service.metadata)), label(MANAGED_BY, MANAGER)]);
    if service.spec.as_ref().and_then(|spec| spec.cluster_ip.as_deref()) == Some("None") {
        labels.extend([label("service.kubernetes.io/headless", "")]);
    }
    EndpointSlice {
        metadata: ObjectMeta {
            name: Some(format!("{}-{family}-{number}", name(&service.metadata))),
            namespace: service.metadata.namespace.clone(),
            labels: Some(labels),
            owner_references: Some(controlled_by(service)),
            ..ObjectMeta::default()
        },
        address_type: if family == "ipv4" { "IPv4" } else { "IPv6" }.to_owned(),
        endpoints,
        ports: Some(ports),
    }
}

fn addresses(pod: &Pod) -> Vec<IpAddr> {
    let Some(status) = pod.status.as_ref() else { return Vec::new() };
    let all = status.pod_ips.iter().flatten().map(|ip| &ip.ip);
    let mut addresses: Vec<IpAddr> = all.chain(&status.pod_ip).filter_map(|ip| ip.parse().ok()).collect();
    addresses.sort();
    addresses.dedup();
    addresses
}

/// What a port of the Service is in this pod; `None` if the pod has no port of that name.
fn resolve(port: &ServicePort, pod: &Pod) -> Option<EndpointPort> {
    let protocol = port.protocol.clone().unwrap_or_else(|| "TCP".to_owned());
    let number = match &port.target_port {
        None | Some(IntOrString::Int(0)) => port.port,
        Some(IntOrString::Int(number)) => *number,
        Some(IntOrString::String(wanted)) => {
            let containers = pod.spec.as_ref()?.containers.iter();
            let mut ports = containers.flat_map(|container| container.ports.iter().flatten());
            let is_it = |own: &k8s_openapi::api::core::v1::ContainerPort| {
                own.name.as_ref() == Some(wanted) && own.protocol.as_deref().unwrap_or("TCP") == protocol
            };
            ports.find(|own| is_it(own))?.container_port
        }
    };
    Some(EndpointPort {
        name: Some(port.name.clone().unwrap_or_default()),
        port: Some(number),
        protocol: Some(protocol),
        app_protocol: port.app_protocol.clone(),
    })
}

fn endpoint(service: &Service, pod: &Pod, address: IpAddr) -> Endpoint {
    let spec = service.spec.as_ref();
    let publishes_all = spec.and_then(|spec| spec.publish_not_ready_addresses) == Some(true);
    let is_serving = is_ready(pod);
    let is_going = is_leaving(&pod.metadata);
    let pod_spec = pod.spec.as_ref();
    let subdomain = pod_spec.and_then(|spec| spec.subdomain.as_deref());
    let hostname = pod_spec.and_then(|spec| spec.hostname.clone());
    Endpoint {
        addresses: vec![address.to_string()],
        conditions: Some(EndpointConditions {
            ready: Some(publishes_all || (is_serving && !is_going)),
            serving: Some(is_serving),
            terminating: Some(is_going),
        }),
        hostname: hostname.filter(|_| subdomain == service.metadata.name.as_deref()),
        node_name: node_of(pod).map(str::to_owned),
        target_ref: Some(ObjectReference {
            kind: Some("Pod".to_owned()),
            name: pod.metadata.name.clone(),
            namespace: pod.metadata.namespace.clone(),
            uid: pod.metadata.uid.clone(),
            ..ObjectReference::default()
        }),
        ..Endpoint::default()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use serde_json::Value;

    use super::*;

    fn service(ports: Value) -> Service {
        serde_json::from_value(json!({"metadata": {"name": "web", "namespace": "n", "uid": "s"},
            "spec": {"selector": {"app": "web"}, "ports": ports}}))
        .unwrap()
    }

    fn pod(at: usize, ready: bool, leaving: bool, port: i32) -> Pod {
        let mut pod: Pod = serde_json::from_value(json!({"metadata": {"name": format!("p{at}"), "namespace": "n", "labels": {"app": "web"}},
            "spec": {"nodeName": "a", "containers": [{"name": "c", "ports": [{"name": "http", "containerPort": port}]}]},
            "status": {"podIP": format!("fd00::{at:x}"), "podIPs": [{"ip": format!("fd00::{at:x}")}],
                "conditions": [{"type": "Ready", "status": if ready { "True" } else { "False" }}]}}))
        .unwrap();
        pod.metadata.deletion_timestamp = leaving.then(crate::objects::now);
        pod
    }

    fn made(service: &Service, pods: &[Pod]) -> Vec<EndpointSlice> {
        slices(service, &pods.iter().collect::<Vec<_>>())
    }

    #[test]
    fn readiness_and_leaving() {
        let service = service(json!([{"port": 80, "targetPort": "http"}]));
        let made = made(&service, &[pod(1, true, false, 8080), pod(2, false, false, 8080), pod(3, true, true, 8080)]);
        assert_eq!(made.len(), 1);
        let conditions: Vec<_> = made[0].endpoints.iter().map(|it| it.conditions.clone().unwrap()).collect();
        let flags: Vec<_> =
            conditions.iter().map(|it| (it.ready.unwrap(), it.serving.unwrap(), it.terminating.unwrap())).collect();
        assert_eq!(flags, [(true, true, false), (false, false, false), (false, true, true)]);
        assert_eq!(made[0].ports.as_ref().unwrap()[0].port, Some(8080));
        assert_eq!(made[0].address_type, "IPv6");
    }

    #[test]
    fn pods_whose_ports_differ_and_many_pods() {
        let service = service(json!([{"port": 80, "targetPort": "http"}]));
        let two = made(&service, &[pod(1, true, false, 8080), pod(2, true, false, 9090)]);
        assert_eq!(two.iter().map(|it| it.ports.as_ref().unwrap()[0].port.unwrap()).collect::<Vec<_>>(), [8080, 9090]);
        let pods: Vec<Pod> = (1..=201).map(|at| pod(at, true, false, 80)).collect();
        let many = made(&service, &pods);
        assert_eq!(many.iter().map(|it| it.endpoints.len()).collect::<Vec<_>>(), [100, 100, 1]);
        assert_eq!(name(&many[2].metadata), "web-ipv6-2");
        let none = made(&service, &[]);
        assert_eq!((none.len(), none[0].endpoints.len()), (1, 0));
    }
}
