//! From Ingresses to what this node's replicas answer at the gateway.
//!
//! The node looks only for endpoints of its own: each member says for itself what it answers, so no member has to be believed for another.
//! Rules without a host, and default backends, are left out: a gateway is shared, and only names are anyone's.

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, SocketAddr};

use atoll_gateway::{PathKind, Route, Served, is_host};
use futures_util::{StreamExt as _, stream};
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::networking::v1::{Ingress, IngressBackend};
use kube::runtime::{WatchStreamExt as _, reflector, watcher};
use kube::{Api, Client, ResourceExt as _};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// The label by which an EndpointSlice says whose it is (Kubernetes, "EndpointSlices", ownership).
const SERVICE_NAME: &str = "kubernetes.io/service-name";

/// Numbers replicas, so that one keeps its number for as long as its address is the same.
#[derive(Debug, Default)]
struct Numbers {
    given: HashMap<SocketAddr, u32>,
    next: u32,
}

impl Numbers {
    fn of(&mut self, address: SocketAddr) -> u32 {
        *self.given.entry(address).or_insert_with(|| {
            self.next += 1;
            self.next
        })
    }
}

/// What the cluster says at one moment.
#[derive(Debug, Default)]
struct Seen {
    ingresses: Vec<Ingress>,
    services: Vec<Service>,
    slices: Vec<EndpointSlice>,
}

/// Keeps `served` true for the replicas of `node` until told to stop. The claims in it are left as they are.
pub async fn follow(client: Client, node: String, served: watch::Sender<Served>, stop: CancellationToken) {
    let (ingresses, ingress_writer) = reflector::store::<Ingress>();
    let (services, service_writer) = reflector::store::<Service>();
    let (slices, slice_writer) = reflector::store::<EndpointSlice>();
    let config = watcher::Config::default;
    let changes = stream::select_all([
        reflector(ingress_writer, watcher(Api::all(client.clone()), config()))
            .default_backoff()
            .map(|it| it.map(drop))
            .boxed(),
        reflector(service_writer, watcher(Api::all(client.clone()), config()))
            .default_backoff()
            .map(|it| it.map(drop))
            .boxed(),
        reflector(slice_writer, watcher(Api::all(client), config())).default_backoff().map(|it| it.map(drop)).boxed(),
    ]);
    let mut changes = std::pin::pin!(changes);
    let mut numbers = Numbers::default();
    loop {
        let changed = tokio::select! {
            () = stop.cancelled() => return,
            changed = changes.next() => changed,
        };
        match changed {
            Some(Ok(())) => {}
            Some(Err(error)) => {
                tracing::debug!(%error, "watching Ingresses goes on after a pause");
                continue;
            }
            None => return,
        }
        let seen = Seen {
            ingresses: ingresses.state().iter().map(|it| (**it).clone()).collect(),
            services: services.state().iter().map(|it| (**it).clone()).collect(),
            slices: slices.state().iter().map(|it| (**it).clone()).collect(),
        };
        let (routes, targets) = seen.answered_by(&node, &mut numbers);
        served.send_if_modified(|served| {
            let differs = served.routes != routes || served.targets != targets;
            (served.routes, served.targets) = (routes, targets);
            differs
        });
    }
}

impl Seen {
    fn answered_by(&self, node: &str, numbers: &mut Numbers) -> (Vec<Route>, HashMap<u32, SocketAddr>) {
        let mut routes = Vec::new();
        let mut targets = HashMap::new();
        for ingress in &self.ingresses {
            let namespace = ingress.namespace().unwrap_or_default();
            let rules = ingress.spec.iter().flat_map(|spec| spec.rules.iter().flatten());
            for rule in rules {
                let Some(host) = rule.host.as_deref().map(str::to_ascii_lowercase).filter(|host| is_host(host)) else {
                    continue;
                };
                for path in rule.http.iter().flat_map(|http| &http.paths) {
                    let kind = if path.path_type == "Exact" { PathKind::Exact } else { PathKind::Prefix };
                    for address in self.endpoints(&namespace, &path.backend, node) {
                        let replica = numbers.of(address);
                        let path = path.path.clone().unwrap_or_else(|| "/".into());
                        routes.push(Route { host: host.clone(), path, kind, replica });
                        targets.insert(replica, address);
                    }
                }
            }
        }
        routes.sort_by(|a, b| (&a.host, &a.path, a.kind, a.replica).cmp(&(&b.host, &b.path, b.kind, b.replica)));
        routes.dedup();
        (routes, targets)
    }

    /// Ready endpoints of the backend on this node.
    fn endpoints(&self, namespace: &str, backend: &IngressBackend, node: &str) -> Vec<SocketAddr> {
        let Some(backend) = &backend.service else { return Vec::new() };
        let is_it = |service: &&Service| {
            service.namespace().as_deref() == Some(namespace) && service.name_any() == backend.name
        };
        let Some(service) = self.services.iter().find(is_it) else { return Vec::new() };
        let ports = service.spec.iter().flat_map(|spec| spec.ports.iter().flatten());
        let wanted = backend.port.as_ref();
        let mut ports = ports.filter(|port| match wanted.map(|wanted| (&wanted.name, wanted.number)) {
            Some((Some(name), _)) => port.name.as_ref() == Some(name),
            Some((None, Some(number))) => port.port == number,
            _ => false,
        });
        let Some(port) = ports.next() else { return Vec::new() };
        let own = |slice: &&EndpointSlice| {
            let labels: &BTreeMap<String, String> = slice.labels();
            slice.namespace().as_deref() == Some(namespace) && labels.get(SERVICE_NAME) == Some(&backend.name)
        };
        let mut addresses = Vec::new();
        for slice in self.slices.iter().filter(own) {
            let number = slice
                .ports
                .iter()
                .flatten()
                .find(|it| it.name.clone().unwrap_or_default() == port.name.clone().unwrap_or_default());
            let Some(number) = number.and_then(|it| u16::try_from(it.port?).ok()) else { continue };
            for endpoint in &slice.endpoints {
                let ready = endpoint.conditions.as_ref().and_then(|it| it.ready).unwrap_or(true);
                if ready && endpoint.node_name.as_deref() == Some(node) {
                    let parsed = endpoint.addresses.iter().filter_map(|text| text.parse::<IpAddr>().ok());
                    addresses.extend(parsed.map(|address| SocketAddr::new(address, number)));
                }
            }
        }
        addresses
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use serde_json::json;

    use super::*;

    fn seen() -> Seen {
        let ingress = json!({
            "metadata": {"name": "web", "namespace": "a"},
            "spec": {"rules": [
                {"host": "Guestbook.example", "http": {"paths": [
                    {"path": "/", "pathType": "Prefix", "backend": {"service": {"name": "web", "port": {"number": 80}}}},
                    {"path": "/x", "pathType": "Exact", "backend": {"service": {"name": "web", "port": {"name": "http"}}}},
                    {"path": "/y", "pathType": "Exact", "backend": {"service": {"name": "web", "port": {"number": 81}}}},
                ]}},
                {"http": {"paths": [{"path": "/", "pathType": "Prefix", "backend": {"service": {"name": "web", "port": {"number": 80}}}}]}},
            ]},
        });
        let service = json!({
            "metadata": {"name": "web", "namespace": "a"},
            "spec": {"ports": [{"name": "http", "port": 80, "targetPort": 8080}]},
        });
        let slice = json!({
            "metadata": {"name": "web-1", "namespace": "a", "labels": {"kubernetes.io/service-name": "web"}},
            "addressType": "IPv6",
            "ports": [{"name": "http", "port": 8080}],
            "endpoints": [
                {"addresses": ["fd00::1"], "nodeName": "one", "conditions": {"ready": true}},
                {"addresses": ["fd00::2"], "nodeName": "two", "conditions": {"ready": true}},
                {"addresses": ["fd00::3"], "nodeName": "one", "conditions": {"ready": false}},
            ],
        });
        Seen {
            ingresses: vec![serde_json::from_value(ingress).unwrap()],
            services: vec![serde_json::from_value(service).unwrap()],
            slices: vec![serde_json::from_value(slice).unwrap()],
        }
    }

    #[test]
    fn a_node_answers_with_its_own_ready_replicas() {
        let (mut numbers, mut seen) = (Numbers::default(), seen());
        let (routes, targets) = seen.answered_by("one", &mut numbers);
        let paths: Vec<_> = routes.iter().map(|it| (it.host.as_str(), it.path.as_str(), it.kind)).collect();
        assert_eq!(paths, [("guestbook.example", "/", PathKind::Prefix), ("guestbook.example", "/x", PathKind::Exact)]);
        assert_eq!(targets, HashMap::from([(1, "[fd00::1]:8080".parse().unwrap())]));
        // A replica keeps its number when others come.
        seen.slices[0].endpoints[2].conditions.as_mut().unwrap().ready = Some(true);
        let (_, targets) = seen.answered_by("one", &mut numbers);
        assert_eq!(targets[&1], "[fd00::1]:8080".parse().unwrap());
        assert_eq!(targets.len(), 2);
        let (routes, _) = seen.answered_by("three", &mut numbers);
        assert!(routes.is_empty());
    }

    #[test]
    fn another_namespace_is_another_service() {
        let mut seen = seen();
        seen.slices[0].metadata.namespace = Some("b".into());
        assert!(seen.answered_by("one", &mut Numbers::default()).0.is_empty());
    }
}
