//! Services and their endpoints: as what the pod network programs, and as the variables that pods are given (pure). Services without an
//! address (headless, `ExternalName`) have neither; IPv4 addresses, SCTP and node ports are not programmed, and said so by [`Picture::left_out`].

use std::collections::BTreeMap;
use std::net::{Ipv6Addr, SocketAddrV6};

use atoll_podnet::{Affinity, Backends, Protocol, Services};
use k8s_openapi::api::core::v1::{Service, ServicePort};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointSlice};

/// The label that leads from a slice to its Service.
const SERVICE_NAME: &str = "kubernetes.io/service-name";

/// What Services come to.
#[derive(Clone, Debug, Default)]
pub struct Picture {
    /// For the pod network.
    pub services: Services,
    /// What cannot be, for the log: Service and reason.
    pub left_out: Vec<String>,
}

/// From all Services and slices of the eVDC, and where on this node the API is found.
#[must_use]
pub fn picture<'a>(
    services: impl IntoIterator<Item = &'a Service>,
    slices: impl IntoIterator<Item = &'a EndpointSlice>,
    api: Option<SocketAddrV6>,
) -> Picture {
    let mut by_service: BTreeMap<(&str, &str), Vec<&EndpointSlice>> = BTreeMap::new();
    for slice in slices {
        let name = slice.metadata.labels.as_ref().and_then(|labels| labels.get(SERVICE_NAME));
        if let (Some(namespace), Some(name)) = (&slice.metadata.namespace, name) {
            by_service.entry((namespace, name)).or_default().push(slice);
        }
    }
    let mut picture = Picture::default();
    for service in services {
        let (Some(namespace), Some(name)) = (&service.metadata.namespace, &service.metadata.name) else { continue };
        let slices = by_service.get(&(namespace.as_str(), name.as_str())).map_or(&[][..], Vec::as_slice);
        let mut left_out = |why: &str| picture.left_out.push(format!("Service {namespace}/{name}: {why}"));
        if service.spec.as_ref().is_some_and(|spec| matches!(spec.type_.as_deref(), Some("NodePort" | "LoadBalancer")))
        {
            left_out("its node ports are not opened; it is reached at its cluster address and through the gateway");
        }
        let addresses = addresses(service);
        if addresses.is_empty() && has_address(service) {
            left_out("its address is IPv4; pods of this eVDC speak IPv6");
        }
        for port in ports(service) {
            let Some(protocol) = protocol(port.protocol.as_deref()) else {
                left_out("only TCP and UDP are programmed");
                continue;
            };
            for &address in &addresses {
                let Ok(number) = u16::try_from(port.port) else { continue };
                let key = atoll_podnet::ServicePort { address, protocol, port: number };
                let backends = match api {
                    // Every node has its own way to the API: no slice could name it.
                    Some(api) if is_api(service) => {
                        Backends { endpoints: vec![(*api.ip(), api.port())], affinity: Affinity::None }
                    }
                    _ => backends(service, port, slices),
                };
                picture.services.insert(key, backends);
            }
        }
    }
    picture
}

/// Whether this is the Service that stands for the API itself.
fn is_api(service: &Service) -> bool {
    let is = |text: &Option<String>, wanted: &str| text.as_deref() == Some(wanted);
    is(&service.metadata.namespace, "default") && is(&service.metadata.name, "kubernetes")
}

fn ports(service: &Service) -> impl Iterator<Item = &ServicePort> {
    service.spec.iter().filter_map(|spec| spec.ports.as_ref()).flatten()
}

fn cluster_ips(service: &Service) -> Vec<&str> {
    let Some(spec) = &service.spec else { return Vec::new() };
    let all = spec.cluster_ips.iter().flatten().chain(&spec.cluster_ip).map(String::as_str);
    all.filter(|ip| !ip.is_empty() && *ip != "None").collect()
}

fn has_address(service: &Service) -> bool {
    !cluster_ips(service).is_empty()
}

fn addresses(service: &Service) -> Vec<Ipv6Addr> {
    let mut addresses: Vec<Ipv6Addr> = cluster_ips(service).iter().filter_map(|ip| ip.parse().ok()).collect();
    addresses.sort_unstable();
    addresses.dedup();
    addresses
}

fn protocol(name: Option<&str>) -> Option<Protocol> {
    match name {
        None | Some("TCP") => Some(Protocol::Tcp),
        Some("UDP") => Some(Protocol::Udp),
        Some(_) => None,
    }
}

fn backends(service: &Service, port: &ServicePort, slices: &[&EndpointSlice]) -> Backends {
    let spec = service.spec.as_ref();
    let affinity = match spec.and_then(|spec| spec.session_affinity.as_deref()) {
        Some("ClientIP") => Affinity::Client,
        _ => Affinity::None,
    };
    let mut ready = targets(port, slices, |endpoint| condition(endpoint, |it| it.ready, true));
    if ready.is_empty() {
        // As kube-proxy: rather the ones that are ending and still serve than nobody.
        ready = targets(port, slices, |endpoint| {
            condition(endpoint, |it| it.serving, false) && condition(endpoint, |it| it.terminating, false)
        });
    }
    Backends { endpoints: ready, affinity }
}

fn condition(
    endpoint: &Endpoint,
    of: impl Fn(&k8s_openapi::api::discovery::v1::EndpointConditions) -> Option<bool>,
    default: bool,
) -> bool {
    endpoint.conditions.as_ref().and_then(of).unwrap_or(default)
}

fn targets(port: &ServicePort, slices: &[&EndpointSlice], wanted: impl Fn(&Endpoint) -> bool) -> Vec<(Ipv6Addr, u16)> {
    let name = port.name.as_deref().unwrap_or_default();
    let mut targets = Vec::new();
    for slice in slices {
        let number = slice.ports.iter().flatten().find(|it| it.name.as_deref().unwrap_or_default() == name);
        let Some(number) = number.and_then(|it| u16::try_from(it.port?).ok()) else { continue };
        for endpoint in slice.endpoints.iter().filter(|it| wanted(it)) {
            targets.extend(endpoint.addresses.iter().filter_map(|ip| ip.parse().ok()).map(|ip| (ip, number)));
        }
    }
    targets.sort_unstable();
    targets.dedup();
    targets
}

/// The variables by which a pod of this namespace finds Services: those of its namespace if it wants them, and `kubernetes` always.
#[must_use]
pub fn variables<'a>(
    services: impl IntoIterator<Item = &'a Service>,
    namespace: &str,
    links: bool,
) -> BTreeMap<String, String> {
    let mut variables = BTreeMap::new();
    for service in services {
        let (Some(within), Some(name)) = (&service.metadata.namespace, &service.metadata.name) else { continue };
        if is_api(service) || (links && within == namespace) {
            describe(service, name, &mut variables);
        }
    }
    variables
}

fn describe(service: &Service, name: &str, variables: &mut BTreeMap<String, String>) {
    let Some(host) = cluster_ips(service).first().copied() else { return };
    let prefix = name.to_ascii_uppercase().replace('-', "_");
    let bracketed = if host.contains(':') { format!("[{host}]") } else { host.to_owned() };
    let mut set = |name: String, value: String| {
        variables.insert(name, value);
    };
    for (index, port) in ports(service).enumerate() {
        let number = port.port;
        let protocol = port.protocol.as_deref().unwrap_or("TCP");
        let lower = protocol.to_ascii_lowercase();
        let url = format!("{lower}://{bracketed}:{number}");
        if index == 0 {
            set(format!("{prefix}_SERVICE_HOST"), host.to_owned());
            set(format!("{prefix}_SERVICE_PORT"), number.to_string());
            set(format!("{prefix}_PORT"), url.clone());
        }
        if let Some(port_name) = port.name.as_deref().filter(|name| !name.is_empty()) {
            let port_name = port_name.to_ascii_uppercase().replace('-', "_");
            set(format!("{prefix}_SERVICE_PORT_{port_name}"), number.to_string());
        }
        let link = format!("{prefix}_PORT_{number}_{protocol}");
        set(link.clone(), url);
        set(format!("{link}_PROTO"), lower);
        set(format!("{link}_PORT"), number.to_string());
        set(format!("{link}_ADDR"), host.to_owned());
    }
}

#[cfg(test)]
mod tests;
