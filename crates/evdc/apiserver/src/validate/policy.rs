//! NetworkPolicies: what Kubernetes' API refuses, and what no node here could enforce: SCTP, and more than a node's rules have room for.

use std::net::IpAddr;

use serde_json::Value;

use super::{labels, names, port};
use crate::{
    error::Cause,
    object::{list, text},
};

/// Most rules, peers, ports, exceptions, and labels and values of selectors of one policy, counted together. A policy is read by every node upon every change
/// to any pod, and nodes have room for some tens of thousands of all policies together. They count in the same way.
const PARTS_MAX: usize = 1_000;

const PROTOCOLS: [&str; 2] = ["TCP", "UDP"];
const TYPES: [&str; 2] = ["Ingress", "Egress"];

/// Kubernetes' words for what is no block of addresses.
const CIDR: &str = "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)";

/// What is wrong with `spec`.
pub(super) fn spec(spec: &Value, causes: &mut Vec<Cause>) {
    let mut parts = selector(&spec["podSelector"], "spec.podSelector", causes);
    for (direction, peers) in [("ingress", "from"), ("egress", "to")] {
        for (index, rule) in list(spec, &[direction]).iter().enumerate() {
            let path = format!("spec.{direction}[{index}]");
            let (ports, others) = (list(rule, &["ports"]), list(rule, &[peers]));
            parts += 1 + ports.len() + others.len();
            for (index, it) in ports.iter().enumerate() {
                policy_port(it, &format!("{path}.ports[{index}]"), causes);
            }
            for (index, it) in others.iter().enumerate() {
                parts += list(it, &["ipBlock", "except"]).len();
                parts += peer(it, &format!("{path}.{peers}[{index}]"), causes);
            }
        }
    }
    if parts > PARTS_MAX {
        let message = format!(
            "Too many: {parts}: must have at most {PARTS_MAX} rules, peers, ports, exceptions and values of selectors together; spread them over several policies"
        );
        causes.push(Cause { field: "spec".to_owned(), reason: "FieldValueTooMany", message });
    }
    let types = list(spec, &["policyTypes"]);
    if types.len() > TYPES.len() {
        let detail = "may not specify more than two policyTypes";
        causes.push(Cause::invalid("spec.policyTypes", &spec["policyTypes"], detail));
        return;
    }
    for (index, it) in types.iter().enumerate() {
        if !it.as_str().is_some_and(|it| TYPES.contains(&it)) {
            causes.push(Cause::not_supported(format!("spec.policyTypes[{index}]"), it, &TYPES));
        }
    }
}

fn policy_port(it: &Value, path: &str, causes: &mut Vec<Cause>) {
    if let Some(protocol) = it.get("protocol")
        && !protocol.as_str().is_some_and(|protocol| PROTOCOLS.contains(&protocol))
    {
        causes.push(Cause::not_supported(format!("{path}.protocol"), protocol, &PROTOCOLS));
    }
    let (number, end) = (it.get("port"), it.get("endPort"));
    let mut no_end = |when: &str| {
        if let Some(end) = end {
            let detail = format!("may not be specified when `port` is {when}");
            causes.push(Cause::invalid(format!("{path}.endPort"), end, &detail));
        }
    };
    match number {
        None => no_end("not specified"),
        Some(Value::String(name)) => {
            no_end("non-numeric");
            if let Some(why) = names::port(name) {
                causes.push(Cause::invalid(format!("{path}.port"), &name.as_str().into(), why));
            }
        }
        Some(number) => {
            port(number, &format!("{path}.port"), causes);
            if let Some(end) = end {
                let field = format!("{path}.endPort");
                if end.as_i64() < number.as_i64() {
                    causes.push(Cause::invalid(field.as_str(), end, "must be greater than or equal to `port`"));
                }
                port(end, &field, causes);
            }
        }
    }
}

/// Counts what its selectors are made of.
fn peer(it: &Value, path: &str, causes: &mut Vec<Cause>) -> usize {
    let (mut selectors, mut parts) = (0, 0);
    for field in ["podSelector", "namespaceSelector"] {
        if let Some(found) = it.get(field) {
            selectors += 1;
            parts += selector(found, &format!("{path}.{field}"), causes);
        }
    }
    match it.get("ipBlock") {
        None if selectors == 0 => causes.push(Cause::required(path, "must specify a peer")),
        None => {}
        Some(found) => {
            if selectors > 0 {
                causes.push(Cause::forbidden(path, "may not specify both ipBlock and another peer"));
            }
            block(found, &format!("{path}.ipBlock"), causes);
        }
    }
    parts
}

fn block(it: &Value, path: &str, causes: &mut Vec<Cause>) {
    let field = format!("{path}.cidr");
    let cidr = text(it, &["cidr"]);
    if cidr.is_empty() {
        return causes.push(Cause::required(field, ""));
    }
    let Some(whole) = cidr_of(cidr) else {
        return causes.push(Cause::invalid(field, &cidr.into(), CIDR));
    };
    for (index, except) in list(it, &["except"]).iter().enumerate() {
        let field = format!("{path}.except[{index}]");
        match except.as_str().and_then(cidr_of) {
            None => causes.push(Cause::invalid(field, except, CIDR)),
            Some(part) if !is_inside(part, whole) => {
                causes.push(Cause::invalid(field, except, "must be a strict subset of `cidr`"));
            }
            Some(_) => {}
        }
    }
}

/// Address and length. Bits beyond the length may be set, as Kubernetes lets them.
fn cidr_of(text: &str) -> Option<(IpAddr, u32)> {
    let (address, length) = text.split_once('/')?;
    let address: IpAddr = address.parse().ok()?;
    let plain = !length.is_empty() && length.bytes().all(|byte| byte.is_ascii_digit());
    let length: u32 = length.parse().ok().filter(|_| plain)?;
    (length <= if address.is_ipv4() { 32 } else { 128 }).then_some((address, length))
}

fn is_inside((part, length): (IpAddr, u32), (whole, shorter): (IpAddr, u32)) -> bool {
    // The bits that both have to share, at the top of 128.
    let bits = |address: IpAddr| match address {
        IpAddr::V4(address) => u128::from(address.to_bits()) << 96,
        IpAddr::V6(address) => address.to_bits(),
    };
    let same = shorter == 0 || (bits(part) ^ bits(whole)) >> (128 - shorter) == 0;
    part.is_ipv4() == whole.is_ipv4() && same && shorter < length
}

/// Whether a policy has blocks of IPv4 addresses, which are nobody's in an eVDC.
pub(crate) fn has_ipv4(object: &Value) -> bool {
    let sides = [("ingress", "from"), ("egress", "to")];
    let peers = sides
        .iter()
        .flat_map(|(direction, peers)| list(object, &["spec", direction]).iter().flat_map(|rule| list(rule, &[peers])));
    peers.filter_map(|peer| cidr_of(text(peer, &["ipBlock", "cidr"]))).any(|(address, _)| address.is_ipv4())
}

/// Counts what it is made of.
fn selector(it: &Value, path: &str, causes: &mut Vec<Cause>) -> usize {
    let mut parts = it["matchLabels"].as_object().map_or(0, serde_json::Map::len);
    labels(it.get("matchLabels"), &format!("{path}.matchLabels"), causes);
    for (index, expression) in list(it, &["matchExpressions"]).iter().enumerate() {
        let path = format!("{path}.matchExpressions[{index}]");
        let values = list(expression, &["values"]);
        parts += 1 + values.len();
        match text(expression, &["operator"]) {
            "In" | "NotIn" if values.is_empty() => {
                let detail = "must be specified when `operator` is 'In' or 'NotIn'";
                causes.push(Cause::required(format!("{path}.values"), detail));
            }
            "In" | "NotIn" => {}
            "Exists" | "DoesNotExist" if !values.is_empty() => {
                let detail = "may not be specified when `operator` is 'Exists' or 'DoesNotExist'";
                causes.push(Cause::forbidden(format!("{path}.values"), detail));
            }
            "Exists" | "DoesNotExist" => {}
            other => {
                let field = format!("{path}.operator");
                causes.push(Cause::invalid(field, &other.into(), "not a valid selector operator"));
            }
        }
        let key = text(expression, &["key"]);
        if let Some(why) = names::qualified(key) {
            causes.push(Cause::invalid(format!("{path}.key"), &key.into(), why));
        }
        for (index, value) in values.iter().enumerate() {
            if let Some(why) = names::label_value(value.as_str().unwrap_or_default()) {
                causes.push(Cause::invalid(format!("{path}.values[{index}]"), value, why));
            }
        }
    }
    parts
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn check(value: Value, expected: &[(&str, &str)]) {
        let mut causes = Vec::new();
        spec(&value, &mut causes);
        let found: Vec<_> = causes.iter().map(|cause| (cause.field.as_str(), cause.message.as_str())).collect();
        let fits = found.len() == expected.len()
            && found.iter().zip(expected).all(|(found, wanted)| found.0 == wanted.0 && found.1.contains(wanted.1));
        assert!(fits, "{value}: {found:?}");
    }

    fn ingress(rule: Value) -> Value {
        json!({"podSelector": {}, "ingress": [rule]})
    }

    #[test]
    fn ports_are_checked() {
        let ports = |port: Value| ingress(json!({"ports": [port]}));
        let at = |field: &str| format!("spec.ingress[0].ports[0].{field}");
        check(ports(json!({})), &[]);
        check(ports(json!({"protocol": "UDP", "port": 53})), &[]);
        check(ports(json!({"port": "http"})), &[]);
        check(ports(json!({"port": 80, "endPort": 80})), &[]);
        check(ports(json!({"port": 80, "endPort": 79})), &[(&at("endPort"), "greater than or equal to `port`")]);
        check(ports(json!({"port": "http", "endPort": 79})), &[(&at("endPort"), "non-numeric")]);
        check(ports(json!({"endPort": 79})), &[(&at("endPort"), "not specified")]);
        check(ports(json!({"port": 0})), &[(&at("port"), "between 1 and 65535")]);
        check(ports(json!({"port": 1, "endPort": 65_536})), &[(&at("endPort"), "between 1 and 65535")]);
        check(ports(json!({"port": "Not a name"})), &[(&at("port"), "must contain only")]);
        check(ports(json!({"port": "a-name-too-long-x"})), &[(&at("port"), "no more than 15")]);
        check(ports(json!({"protocol": "SCTP"})), &[(&at("protocol"), "supported values: \"TCP\", \"UDP\"")]);
    }

    #[test]
    fn peers_are_checked() {
        let from = |peer: Value| ingress(json!({"from": [peer]}));
        let at = |field: &str| format!("spec.ingress[0].from[0]{field}");
        check(from(json!({"podSelector": {}, "namespaceSelector": {"matchLabels": {"a": "b"}}})), &[]);
        check(from(json!({})), &[(&at(""), "must specify a peer")]);
        check(
            from(json!({"podSelector": {}, "ipBlock": {"cidr": "fd00::/8"}})),
            &[(&at(""), "may not specify both ipBlock and another peer")],
        );
        check(from(json!({"ipBlock": {}})), &[(&at(".ipBlock.cidr"), "Required value")]);
        for bad in ["fd00::", "fd00::/129", "10.0.0.0/33", "10.0.0/8", "x/8", "fd00::/+8"] {
            check(from(json!({"ipBlock": {"cidr": bad}})), &[(&at(".ipBlock.cidr"), "valid CIDR")]);
        }
        let except = |cidr: &str, except: &str| from(json!({"ipBlock": {"cidr": cidr, "except": [except]}}));
        let subset = "must be a strict subset of `cidr`";
        check(except("fd00::/8", "fd00:1::/32"), &[]);
        check(except("::/0", "fd00:1::/32"), &[]);
        check(except("10.0.0.0/8", "10.1.0.0/16"), &[]);
        check(except("fd00::/8", "fd00::/8"), &[(&at(".ipBlock.except[0]"), subset)]);
        check(except("fd00::/8", "fc00::/16"), &[(&at(".ipBlock.except[0]"), subset)]);
        check(except("::/0", "10.0.0.0/8"), &[(&at(".ipBlock.except[0]"), subset)]);
        check(except("fd00::/8", "no"), &[(&at(".ipBlock.except[0]"), "valid CIDR")]);
    }

    #[test]
    fn selectors_and_types_are_checked() {
        let selects = |expression: Value| json!({"podSelector": {"matchExpressions": [expression]}});
        let at = |field: &str| format!("spec.podSelector.matchExpressions[0].{field}");
        check(selects(json!({"key": "a", "operator": "In", "values": ["b"]})), &[]);
        check(selects(json!({"key": "a", "operator": "In"})), &[(&at("values"), "must be specified when")]);
        check(
            selects(json!({"key": "a", "operator": "Exists", "values": ["b"]})),
            &[(&at("values"), "may not be specified when")],
        );
        check(selects(json!({"key": "a", "operator": "Near"})), &[(&at("operator"), "not a valid selector operator")]);
        check(selects(json!({"key": "a b", "operator": "Exists"})), &[(&at("key"), "name part must consist")]);
        check(json!({"podSelector": {"matchLabels": {"a": "-"}}}), &[("spec.podSelector.matchLabels", "valid label")]);
        check(json!({"policyTypes": ["Egress", "Ingress"]}), &[]);
        check(
            json!({"policyTypes": ["Both"]}),
            &[("spec.policyTypes[0]", "supported values: \"Ingress\", \"Egress\"")],
        );
        check(json!({"policyTypes": ["Egress", "Egress", "Egress"]}), &[("spec.policyTypes", "more than two")]);
    }

    #[test]
    fn a_policy_has_an_end() {
        let ports = |count: usize| ingress(json!({"ports": vec![json!({"port": 1}); count]}));
        check(ports(PARTS_MAX - 1), &[]);
        check(ports(PARTS_MAX), &[("spec", "Too many: 1001")]);
        let values = |count: usize| json!({"podSelector": {"matchExpressions": [{"key": "a", "operator": "In", "values": vec!["b"; count]}]}});
        check(values(PARTS_MAX - 1), &[]);
        check(values(PARTS_MAX), &[("spec", "Too many: 1001")]);
    }
}
