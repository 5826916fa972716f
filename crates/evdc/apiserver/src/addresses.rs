//! Addresses and node ports of Services, each given to one Service at a time.
//!
//! An allocation is a key of its own that is written in the same commit as the Service, on the condition that it does not exist, and removed in the commit that
//! removes the Service: two servers on one store cannot give an address out twice, and a crash leaves none behind.

use std::net::{IpAddr, Ipv6Addr};

use atoll_kv::{Condition, Mutation};
use serde_json::{Value, json};

use crate::{
    error::{ApiError, Cause},
    kinds::Resource,
    object::{child, fields, list, name, random, text},
    server::{Context, Server},
    verbs::admit::Extras,
};

/// Node ports, as Kubernetes gives them out.
const NODE_PORTS: std::ops::RangeInclusive<i64> = 30_000..=32_767;

/// How many random picks are looked at before the range counts as full: at nine tenths full, one in ten thousand allocations would fail.
const PICKS_MAX: usize = 100;

/// The address of the Service `kubernetes`, which is the API itself: the first of the range, as Kubernetes has it.
pub(crate) fn own((network, _): (Ipv6Addr, u8)) -> Ipv6Addr {
    Ipv6Addr::from_bits(network.to_bits() | 1)
}

/// The object of that Service, and the allocation of its address. What stands behind it is the nodes' business: no slice names it.
pub(crate) fn own_service(server: &Server) -> (Value, Mutation) {
    let address = own(server.config.service_range).to_string();
    let service = json!({"apiVersion": "v1", "kind": "Service",
        "metadata": {"name": "kubernetes", "namespace": "default", "labels": {"component": "apiserver", "provider": "kubernetes"}},
        "spec": {"type": "ClusterIP", "clusterIP": address, "clusterIPs": [address], "ipFamilies": ["IPv6"],
            "ipFamilyPolicy": "SingleStack", "sessionAffinity": "None", "internalTrafficPolicy": "Cluster",
            "ports": [{"name": "https", "port": 443, "protocol": "TCP", "targetPort": 6443}]},
        "status": {"loadBalancer": {}}});
    let key = server.store.side_key(&address_key(&address));
    (service, Mutation::Put { key, value: "default/kubernetes".into() })
}

fn address_key(address: &str) -> String {
    format!("service-addresses/{address}")
}

fn port_key(port: i64) -> String {
    format!("node-ports/{port}")
}

/// Gives a Service its address and ports, or takes those it asks for; one that has them keeps them.
pub(crate) async fn assign(
    server: &Server,
    context: &Context,
    old: Option<&Value>,
    object: &mut Value,
    extras: &mut Extras,
) -> Result<(), ApiError> {
    let kind = text(object, &["spec", "type"]).to_owned();
    let held = old.map(|old| text(old, &["spec", "clusterIP"]).to_owned()).unwrap_or_default();
    if kind == "ExternalName" {
        for field in ["clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy"] {
            fields(child(object, "spec")).remove(field);
        }
        give_back(server, &held, extras);
        return Ok(());
    }
    let mut wanted = text(object, &["spec", "clusterIP"]).to_owned();
    if wanted.is_empty() {
        wanted.clone_from(&held);
    }
    if wanted.is_empty() {
        wanted = pick_address(server).await?;
    }
    if wanted != held {
        if !held.is_empty() && held != "None" && !wanted.is_empty() {
            let cause = Cause::invalid("spec.clusterIPs[0]", &json!([wanted]), "may not change once set");
            return Err(ApiError::invalid(context.resource.about(), name(object), &[cause]));
        }
        take_address(server, context, object, &wanted, extras).await?;
    }
    let spec = child(object, "spec");
    spec["clusterIP"] = wanted.clone().into();
    spec["clusterIPs"] = json!([wanted]);
    spec["ipFamilies"] = json!(["IPv6"]);
    spec["ipFamilyPolicy"] = "SingleStack".into();
    assign_ports(server, context, &kind, old, object, extras).await
}

fn give_back(server: &Server, address: &str, extras: &mut Extras) {
    if !address.is_empty() && address != "None" {
        extras.mutations.push(Mutation::Delete { key: server.store.side_key(&address_key(address)) });
    }
}

async fn take_address(
    server: &Server,
    context: &Context,
    object: &Value,
    address: &str,
    extras: &mut Extras,
) -> Result<(), ApiError> {
    if address == "None" {
        return Ok(());
    }
    let invalid = |detail: &str| {
        let cause = Cause::invalid("spec.clusterIPs", &json!([address]), detail);
        ApiError::invalid(context.resource.about(), name(object), &[cause])
    };
    let parsed: IpAddr = address.parse().map_err(|_| invalid("must be a valid IP address"))?;
    let (network, bits) = server.config.service_range;
    let inside =
        matches!(parsed, IpAddr::V6(parsed) if parsed.to_bits() >> (128 - bits) == network.to_bits() >> (128 - bits));
    if !inside {
        return Err(invalid(&format!(
            "failed to allocate IP {address}: the provided IP is not in the valid range {network}/{bits}"
        )));
    }
    if server.store.side(&address_key(address)).await?.is_some() {
        return Err(invalid(&format!("failed to allocate IP {address}: provided IP is already allocated")));
    }
    take(server, &address_key(address), object, extras);
    Ok(())
}

/// Adds the writing of an allocation that must not exist yet.
fn take(server: &Server, key: &str, object: &Value, extras: &mut Extras) {
    let key = server.store.side_key(key);
    let owner = format!("{}/{}", crate::object::namespace(object), name(object));
    extras.conditions.push(Condition::Absent { key: key.clone() });
    extras.mutations.push(Mutation::Put { key, value: owner.into() });
}

async fn pick_address(server: &Server) -> Result<String, ApiError> {
    let (network, bits) = server.config.service_range;
    let host_mask = u128::MAX >> bits;
    for _ in 0..PICKS_MAX {
        let host = u128::from_le_bytes(random::<16>()) & host_mask;
        // The first 256 are left for Services that ask for an address.
        if host < 256 && host_mask > 511 || host == 0 {
            continue;
        }
        let address = Ipv6Addr::from_bits(network.to_bits() & !host_mask | host).to_string();
        if server.store.side(&address_key(&address)).await?.is_none() {
            return Ok(address);
        }
    }
    Err(ApiError::internal(format!("failed to allocate a service IP: the range {network}/{bits} is full")))
}

async fn assign_ports(
    server: &Server,
    context: &Context,
    kind: &str,
    old: Option<&Value>,
    object: &mut Value,
    extras: &mut Extras,
) -> Result<(), ApiError> {
    let held = old.map(ports).unwrap_or_default();
    let needs = matches!(kind, "NodePort" | "LoadBalancer")
        && object["spec"]["allocateLoadBalancerNodePorts"] != Value::Bool(false);
    if needs {
        for index in 0..list(object, &["spec", "ports"]).len() {
            assign_port(server, context, index, old, &held, object, extras).await?;
        }
    } else {
        for port in object["spec"]["ports"].as_array_mut().into_iter().flatten() {
            fields(port).remove("nodePort");
        }
    }
    let kept = ports(object);
    for port in held.iter().filter(|port| !kept.contains(port)) {
        extras.mutations.push(Mutation::Delete { key: server.store.side_key(&port_key(*port)) });
    }
    Ok(())
}

async fn assign_port(
    server: &Server,
    context: &Context,
    index: usize,
    old: Option<&Value>,
    held: &[i64],
    object: &mut Value,
    extras: &mut Extras,
) -> Result<(), ApiError> {
    let asked = object["spec"]["ports"][index]["nodePort"].as_i64().filter(|port| *port != 0);
    // A port that does not say keeps what the same port had.
    let same = |old: &Value| {
        list(old, &["spec", "ports"]).iter().find(|it| it["port"] == object["spec"]["ports"][index]["port"]).cloned()
    };
    let kept = asked.or_else(|| old.and_then(same).and_then(|port| port["nodePort"].as_i64()));
    let port = match kept {
        Some(port) => port,
        None => pick_port(server, &ports(object)).await?,
    };
    if !held.contains(&port) {
        let taken = server.store.side(&port_key(port)).await?.is_some();
        if taken || !NODE_PORTS.contains(&port) {
            let detail = if taken {
                "provided port is already allocated"
            } else {
                "provided port is not in the valid range. The range of valid ports is 30000-32767"
            };
            let cause = Cause::invalid(format!("spec.ports[{index}].nodePort"), &port.into(), detail);
            return Err(ApiError::invalid(context.resource.about(), name(object), &[cause]));
        }
        take(server, &port_key(port), object, extras);
    }
    object["spec"]["ports"][index]["nodePort"] = port.into();
    Ok(())
}

async fn pick_port(server: &Server, in_use: &[i64]) -> Result<i64, ApiError> {
    for _ in 0..PICKS_MAX {
        let span = NODE_PORTS.end() - NODE_PORTS.start() + 1;
        let port = NODE_PORTS.start() + i64::from(u16::from_le_bytes(random::<2>())) % span;
        if !in_use.contains(&port) && server.store.side(&port_key(port)).await?.is_none() {
            return Ok(port);
        }
    }
    Err(ApiError::internal("failed to allocate a node port: the range is full"))
}

fn ports(object: &Value) -> Vec<i64> {
    let ports = list(object, &["spec", "ports"]).iter();
    ports.filter_map(|port| port["nodePort"].as_i64()).filter(|port| *port != 0).collect()
}

/// What is given back when an object goes.
pub(crate) fn release(server: &Server, resource: &Resource, object: &Value) -> Vec<Mutation> {
    let mut extras = Extras::default();
    if resource.is("", "Service") {
        give_back(server, text(object, &["spec", "clusterIP"]), &mut extras);
        let keys = ports(object).into_iter().map(|port| server.store.side_key(&port_key(port)));
        extras.mutations.extend(keys.map(|key| Mutation::Delete { key }));
    }
    extras.mutations
}
