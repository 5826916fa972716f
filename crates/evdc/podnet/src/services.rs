//! Services as values, which of them are refused, and what changes between two sets of them (pure).

use std::collections::BTreeMap;
use std::net::Ipv6Addr;

use serde::{Deserialize, Serialize};

use crate::config::Config;

/// Endpoints of one Service port that are used; of more, the first in order. One map of this size is replaced in one message to the kernel.
pub const ENDPOINTS_MAX: usize = 1_000;

/// Service ports of one eVDC. The whole set is kept in memory and, at a start, programmed in one transaction.
pub const SERVICE_PORTS_MAX: usize = 20_000;

/// What a Service speaks. SCTP is not programmed.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

impl Protocol {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        }
    }
}

/// Where clients connect to.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct ServicePort {
    /// The Service's address (ClusterIP).
    pub address: Ipv6Addr,
    /// Its protocol.
    pub protocol: Protocol,
    /// Its port.
    pub port: u16,
}

/// How one of several endpoints is chosen.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Affinity {
    /// At random for every connection.
    #[default]
    None,
    /// By the client's address: the same as long as the endpoints stay the same.
    Client,
}

/// Who answers behind a Service port. No endpoints: connections are refused at once.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Backends {
    /// Address and port of each that is ready.
    pub endpoints: Vec<(Ipv6Addr, u16)>,
    /// How one is chosen.
    pub affinity: Affinity,
}

/// All Service ports of the eVDC.
pub type Services = BTreeMap<ServicePort, Backends>;

/// Something in the given Services that is not programmed, and why. The rest is.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Refusal {
    /// Would take over an address that is not a Service's.
    #[error("{0} is not in the eVDC's Service prefix")]
    NotAServiceAddress(Ipv6Addr),
    /// Would lead out of the eVDC, to the node itself, or to another Service.
    #[error("{endpoint} cannot be an endpoint of {service}: only addresses of the eVDC's pods can")]
    NotAPod {
        /// Which Service.
        service: Ipv6Addr,
        /// What was given.
        endpoint: Ipv6Addr,
    },
    /// More than [`ENDPOINTS_MAX`].
    #[error("{service} has {count} endpoints; the first {ENDPOINTS_MAX} are used")]
    TooManyEndpoints {
        /// Which Service.
        service: Ipv6Addr,
        /// How many.
        count: usize,
    },
    /// More than [`SERVICE_PORTS_MAX`].
    #[error("{0} Service ports are too many; the first {SERVICE_PORTS_MAX} are used")]
    TooManyPorts(usize),
}

/// What [`crate::PodNet::set_services`] did.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Update {
    /// Ports that were added or got other endpoints.
    pub changed: usize,
    /// Ports that were taken away.
    pub removed: usize,
    /// What was left out.
    pub refused: Vec<Refusal>,
}

/// What of the wanted Services can be, in one canonical form (sorted, each endpoint once, none without endpoints).
pub(crate) fn admit(config: &Config, wanted: &Services) -> (Services, Vec<Refusal>) {
    let mut refused = Vec::new();
    if wanted.len() > SERVICE_PORTS_MAX {
        refused.push(Refusal::TooManyPorts(wanted.len()));
    }
    let mut admitted = Services::new();
    for (port, backends) in wanted.iter().take(SERVICE_PORTS_MAX) {
        if !config.services.contains(port.address) {
            refused.push(Refusal::NotAServiceAddress(port.address));
            continue;
        }
        let mut endpoints = Vec::with_capacity(backends.endpoints.len());
        for &(address, target) in &backends.endpoints {
            if may_serve(config, address, port.protocol, target) {
                endpoints.push((address, target));
            } else {
                refused.push(Refusal::NotAPod { service: port.address, endpoint: address });
            }
        }
        endpoints.sort_unstable();
        endpoints.dedup();
        if endpoints.len() > ENDPOINTS_MAX {
            refused.push(Refusal::TooManyEndpoints { service: port.address, count: endpoints.len() });
            endpoints.truncate(ENDPOINTS_MAX);
        }
        if !endpoints.is_empty() {
            admitted.insert(*port, Backends { endpoints, affinity: backends.affinity });
        }
    }
    (admitted, refused)
}

/// The node itself connects to Services (the gateway does so for anyone), so an endpoint must not lead back into the node.
fn may_serve(config: &Config, address: Ipv6Addr, protocol: Protocol, port: u16) -> bool {
    if address == config.node_address() {
        return config.node_services.iter().any(|open| open.port == port && open.protocol == protocol);
    }
    config.evdc.contains(address) && !config.services.contains(address)
}

/// The difference between what is programmed and what shall be.
#[derive(Debug, Default)]
pub(crate) struct Difference<'a> {
    pub(crate) added: Vec<(&'a ServicePort, &'a Backends)>,
    pub(crate) changed: Vec<(&'a ServicePort, &'a Backends)>,
    pub(crate) removed: Vec<&'a ServicePort>,
}

pub(crate) fn difference<'a>(before: &'a Services, after: &'a Services) -> Difference<'a> {
    let mut difference = Difference::default();
    for (port, backends) in after {
        match before.get(port) {
            None => difference.added.push((port, backends)),
            Some(old) if old != backends => difference.changed.push((port, backends)),
            Some(_) => {}
        }
    }
    difference.removed = before.keys().filter(|port| !after.contains_key(port)).collect();
    difference
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;
    use crate::config::NodeService;

    fn config() -> Config {
        Config {
            tag: "x".parse().unwrap(),
            run_dir: std::path::PathBuf::new(),
            evdc: "fd00:1:2::/48".parse().unwrap(),
            node: "fd00:1:2:3::/64".parse().unwrap(),
            services: "fd00:1:2:ffff::/112".parse().unwrap(),
            planetary: None,
            mtu: None,
            node_services: vec![NodeService { protocol: Protocol::Udp, port: 53 }],
        }
    }

    fn port(address: &str, protocol: Protocol) -> ServicePort {
        ServicePort { address: address.parse().unwrap(), protocol, port: 80 }
    }

    fn backends(endpoints: &[(&str, u16)]) -> Backends {
        let endpoints = endpoints.iter().map(|(address, port)| (address.parse().unwrap(), *port)).collect();
        Backends { endpoints, affinity: Affinity::None }
    }

    #[test]
    fn a_service_leads_only_to_pods_of_the_evdc() {
        let check = |address: &str, protocol, endpoint: (&str, u16), good: bool| {
            let wanted = Services::from([(port(address, protocol), backends(&[endpoint]))]);
            let (admitted, refused) = admit(&config(), &wanted);
            assert_eq!((admitted.len() == 1, refused.is_empty()), (good, good), "{address} {endpoint:?}");
        };
        check("fd00:1:2:ffff::9", Protocol::Tcp, ("fd00:1:2:3::5", 8080), true);
        check("fd00:1:2:ffff::9", Protocol::Tcp, ("fd00:1:2:4::5", 8080), true);
        check("fd00:1:2:ffff::9", Protocol::Tcp, ("fd00:1:9::5", 8080), false);
        check("fd00:1:2:ffff::9", Protocol::Tcp, ("::1", 8080), false);
        check("fd00:1:2:ffff::9", Protocol::Tcp, ("fd00:1:2:ffff::1", 80), false);
        check("fd00:1:2:ffff::9", Protocol::Tcp, ("fd00:1:2:3::1", 22), false);
        check("fd00:1:2:ffff::9", Protocol::Tcp, ("fd00:1:2:3::1", 53), false);
        check("fd00:1:2:ffff::9", Protocol::Udp, ("fd00:1:2:3::1", 53), true);
        check("fd00:1:2:3::9", Protocol::Tcp, ("fd00:1:2:3::5", 8080), false);
    }

    #[test]
    fn limits_hold_and_order_does_not_matter() {
        let many: Vec<_> = (0..=ENDPOINTS_MAX as u64).map(|n| (config().node.host(0x2_0000 + n), 1)).rev().collect();
        let wanted = Services::from([(
            port("fd00:1:2:ffff::9", Protocol::Tcp),
            Backends { endpoints: many, ..Backends::default() },
        )]);
        let (admitted, refused) = admit(&config(), &wanted);
        let endpoints = &admitted.values().next().unwrap().endpoints;
        assert_eq!((endpoints.len(), refused.len()), (ENDPOINTS_MAX, 1));
        assert!(endpoints.is_sorted());
    }

    #[test]
    fn only_differences_are_programmed() {
        let (one, two, three) =
            (port("fd00::1", Protocol::Tcp), port("fd00::2", Protocol::Tcp), port("fd00::3", Protocol::Udp));
        let (a, b) = (backends(&[("fd00::a", 1)]), backends(&[("fd00::b", 1)]));
        let before = Services::from([(one, a.clone()), (two, a.clone())]);
        let after = Services::from([(one, b.clone()), (three, b.clone())]);
        let found = difference(&before, &after);
        assert_eq!((found.added, found.changed, found.removed), (vec![(&three, &b)], vec![(&one, &b)], vec![&two]));
        let none = difference(&after, &after);
        assert!(none.added.is_empty() && none.changed.is_empty() && none.removed.is_empty());
    }
}
