//! The nftables table of one eVDC, as libnftables-json(5) (pure). It is put together from typed values only, so nothing can be smuggled in.
//!
//! Base chains accept what is not this eVDC's: several eVDCs have a table each, a packet passes all of them, and one that drops is enough.
//! What concerns this eVDC's pods is decided in `from_pod`, `to_pod` and `pod_to_node`, which end closed; what policies say of it, before that
//! (`rules/policies.rs`).

use std::collections::BTreeMap;
use std::net::Ipv6Addr;

use serde_json::{Value, json};

use crate::address::INTERFACE_PREFIX;
use crate::config::{Config, PodKey};
use crate::policies::Policies;
use crate::records::PodRecord;
use crate::services::{Affinity, Backends, Difference, ServicePort, Services};

mod policies;

pub(crate) use policies::Move;

/// Commands for one table.
pub(crate) struct Rules<'a> {
    config: &'a Config,
    table: String,
}

impl<'a> Rules<'a> {
    pub(crate) fn new(config: &'a Config) -> Self {
        Self { config, table: config.tag.table() }
    }

    /// The whole table in place of whatever was there, in one transaction.
    pub(crate) fn replace(
        &self,
        pods: &BTreeMap<PodKey, PodRecord>,
        services: &Services,
        policies: &Policies,
    ) -> Vec<Value> {
        let mut commands = self.absent();
        commands.push(json!({"add": {"table": self.named_table()}}));
        commands.extend(self.sets());
        commands.extend(self.chains());
        commands.extend(self.leaving_pod());
        commands.extend(self.entering_pod());
        commands.extend(self.pod_to_node());
        commands.extend(self.base_rules());
        commands.extend(self.policy_base());
        commands.extend(self.change_policies(&Policies::default(), policies, &[]));
        for (key, pod) in pods {
            let after = policies.verdicts(key);
            commands.extend(self.move_pod(&Move { interface: &pod.interface, before: None, after: Some(&after) }));
            commands.extend(self.add_pod(pod));
        }
        let added = Difference { added: services.iter().collect(), ..Difference::default() };
        commands.extend(self.change_services(&added));
        commands
    }

    /// No table. Adding it first makes the deletion succeed when there was none.
    pub(crate) fn absent(&self) -> Vec<Value> {
        let table = self.named_table();
        vec![json!({"add": {"table": table}}), json!({"delete": {"table": table}})]
    }

    pub(crate) fn add_pod(&self, pod: &PodRecord) -> Vec<Value> {
        self.pod_elements(pod).into_iter().map(|element| json!({"add": {"element": element}})).collect()
    }

    /// Adds first, so that it does not matter whether all of them were there.
    pub(crate) fn remove_pod(&self, pod: &PodRecord) -> Vec<Value> {
        let mut commands = self.add_pod(pod);
        commands.extend(self.pod_elements(pod).into_iter().map(|element| json!({"delete": {"element": element}})));
        commands
    }

    fn pod_elements(&self, pod: &PodRecord) -> [Value; 3] {
        [
            self.element("interfaces", json!(pod.interface)),
            self.element("pods", json!({"concat": [pod.interface, pod.address]})),
            self.element("hairpin", json!({"concat": [pod.address, pod.address]})),
        ]
    }

    /// A chain per Service port, found by one map; a changed one gets a new rule in the same transaction that takes the old away.
    pub(crate) fn change_services(&self, difference: &Difference<'_>) -> Vec<Value> {
        let mut commands = Vec::new();
        for (port, backends) in &difference.added {
            commands.push(json!({"add": {"chain": self.chain(&chain_of(port))}}));
            commands.push(self.rule(&chain_of(port), &translate(port, backends)));
            commands.push(json!({"add": {"element": self.service_element(port)}}));
        }
        for (port, backends) in &difference.changed {
            commands.push(json!({"flush": {"chain": self.chain(&chain_of(port))}}));
            commands.push(self.rule(&chain_of(port), &translate(port, backends)));
        }
        for port in &difference.removed {
            commands.push(json!({"delete": {"element": self.service_element(port)}}));
            commands.push(json!({"flush": {"chain": self.chain(&chain_of(port))}}));
            commands.push(json!({"delete": {"chain": self.chain(&chain_of(port))}}));
        }
        commands
    }

    fn service_element(&self, port: &ServicePort) -> Value {
        let key = json!({"concat": [port.address, port.protocol.as_str(), port.port]});
        self.element("services", json!([key, {"goto": {"target": chain_of(port)}}]))
    }

    fn sets(&self) -> Vec<Value> {
        let set = |name: &str, kind: Value| json!({"add": {"set": self.inside(name, json!({"type": kind}))}});
        let services = json!({"type": ["ipv6_addr", "inet_proto", "inet_service"], "map": "verdict"});
        let mut sets = vec![
            set("interfaces", json!("ifname")),
            set("pods", json!(["ifname", "ipv6_addr"])),
            set("hairpin", json!(["ipv6_addr", "ipv6_addr"])),
            set("node_services", json!(["inet_proto", "inet_service"])),
            json!({"add": {"map": self.inside("services", services)}}),
        ];
        for open in &self.config.node_services {
            let key = json!({"concat": [open.protocol.as_str(), open.port]});
            sets.push(json!({"add": {"element": self.element("node_services", key)}}));
        }
        sets
    }

    fn chains(&self) -> Vec<Value> {
        let base = |name: &str, kind: &str, hook: &str, priority: i32| {
            let how = json!({"type": kind, "hook": hook, "prio": priority, "policy": "accept"});
            json!({"add": {"chain": self.inside(name, how)}})
        };
        // Priorities as nft(8) names them: dstnat -100, filter 0, srcnat 100.
        let mut chains = vec![
            base("nat_in", "nat", "prerouting", -100),
            base("nat_own", "nat", "output", -100),
            base("nat_out", "nat", "postrouting", 100),
            base("forward", "filter", "forward", 0),
            base("input", "filter", "input", 0),
            base("output", "filter", "output", 0),
        ];
        let plain = ["from_pod", "to_pod", "pod_to_node"];
        chains.extend(plain.map(|name| json!({"add": {"chain": self.chain(name)}})));
        chains
    }

    fn base_rules(&self) -> Vec<Value> {
        let by_service =
            json!({"vmap": {"key": {"concat": [address("daddr"), meta("l4proto"), port()]}, "data": "@services"}});
        let own = json!({"concat": [address("saddr"), address("daddr")]});
        let node_address = self.config.node_address();
        let mut rules = vec![
            self.rule("nat_in", &[matches("==", meta("iifname"), json!("@interfaces")), by_service.clone()]),
            self.rule("nat_own", &[by_service]),
            // A pod that reaches itself by its Service: it would drop a packet that comes from its own address.
            self.rule(
                "nat_out",
                &[matches("==", own, json!("@hairpin")), json!({"snat": {"family": "ip6", "addr": node_address}})],
            ),
            self.rule("forward", &[matches("==", meta("iifname"), json!("@interfaces")), jump("from_pod")]),
            self.rule("forward", &[matches("==", meta("oifname"), json!("@interfaces")), jump("to_pod")]),
            self.rule("input", &[matches("==", meta("iifname"), json!("@interfaces")), jump("pod_to_node")]),
            // From elsewhere the node answers at its address in the eVDC only what it asked itself, and at a Service's nothing.
            self.rule("input", &[matches("!=", meta("iifname"), json!("lo")), self.to_services(), drop_it()]),
            self.rule(
                "input",
                &[
                    matches("!=", meta("iifname"), json!("lo")),
                    matches("==", address("daddr"), json!(node_address)),
                    not_a_reply(),
                    drop_it(),
                ],
            ),
        ];
        rules.extend(self.refuse("output", &[self.to_services()]));
        if let Some(planetary) = &self.config.planetary {
            // Forwarding is on for the whole host: it must not make this node a way into the planetary network, or out of it, for others.
            let pods = json!(format!("{INTERFACE_PREFIX}*"));
            let pair = [("oifname", "iifname"), ("iifname", "oifname")];
            rules.extend(pair.map(|(one, other)| {
                let crossing = matches("==", meta(one), json!(planetary));
                self.rule("forward", &[crossing, matches("!=", meta(other), pods.clone()), drop_it()])
            }));
        }
        rules
    }

    fn leaving_pod(&self) -> Vec<Value> {
        let mut rules = self.only_itself("from_pod");
        rules.push(self.rule("from_pod", &[matches("==", meta("oifname"), json!("@interfaces")), accept()]));
        if let Some(planetary) = &self.config.planetary {
            let out = matches("==", meta("oifname"), json!(planetary));
            rules.push(self.rule("from_pod", &[out, self.in_evdc("daddr"), accept()]));
        }
        rules.push(self.rule("from_pod", &[json!({"reject": {"type": "icmpv6", "expr": "admin-prohibited"}})]));
        rules
    }

    fn entering_pod(&self) -> Vec<Value> {
        let mut rules = Vec::new();
        if let Some(planetary) = &self.config.planetary {
            let from = matches("==", meta("iifname"), json!(planetary));
            rules.push(self.rule("to_pod", &[from, self.in_evdc("saddr"), accept()]));
        }
        // What came from a pod of this eVDC was accepted in `from_pod`, before.
        rules.push(self.rule("to_pod", &[drop_it()]));
        rules
    }

    fn pod_to_node(&self) -> Vec<Value> {
        let mut rules = self.only_itself("pod_to_node");
        let reply =
            json!({"match": {"op": "in", "left": {"ct": {"key": "state"}}, "right": ["established", "related"]}});
        rules.push(self.rule("pod_to_node", &[reply, accept()]));
        rules.extend(self.refuse("pod_to_node", &[self.to_services()]));
        let open = json!({"concat": [meta("l4proto"), port()]});
        let here = matches("==", address("daddr"), json!(self.config.node_address()));
        rules.push(self.rule("pod_to_node", &[here, matches("==", open, json!("@node_services")), accept()]));
        rules.push(self.rule("pod_to_node", &[drop_it()]));
        rules
    }

    /// A pod speaks IPv6, from its own address.
    fn only_itself(&self, chain: &str) -> Vec<Value> {
        let sender = json!({"concat": [meta("iifname"), address("saddr")]});
        vec![
            self.rule(chain, &[matches("!=", meta("nfproto"), json!("ipv6")), drop_it()]),
            self.rule(chain, &[matches("!=", sender, json!("@pods")), drop_it()]),
        ]
    }

    /// A Service without endpoints refuses at once, as a closed port does.
    fn refuse(&self, chain: &str, when: &[Value]) -> Vec<Value> {
        let tcp = [when, &[matches("==", meta("l4proto"), json!("tcp")), json!({"reject": {"type": "tcp reset"}})]];
        let rest = [when, &[json!({"reject": {"type": "icmpv6", "expr": "port-unreachable"}})]];
        vec![self.rule(chain, &tcp.concat()), self.rule(chain, &rest.concat())]
    }

    fn to_services(&self) -> Value {
        within("daddr", &self.config.services)
    }

    fn in_evdc(&self, side: &str) -> Value {
        within(side, &self.config.evdc)
    }

    fn named_table(&self) -> Value {
        json!({"family": "inet", "name": self.table})
    }

    fn chain(&self, name: &str) -> Value {
        self.inside(name, json!({}))
    }

    fn inside(&self, name: &str, mut what: Value) -> Value {
        what["family"] = json!("inet");
        what["table"] = json!(self.table);
        what["name"] = json!(name);
        what
    }

    fn element(&self, set: &str, element: Value) -> Value {
        self.inside(set, json!({"elem": [element]}))
    }

    fn rule(&self, chain: &str, expressions: &[Value]) -> Value {
        let rule = json!({"family": "inet", "table": self.table, "chain": chain, "expr": expressions});
        json!({"add": {"rule": rule}})
    }
}

fn chain_of(port: &ServicePort) -> String {
    format!("s-{:032x}-{}-{}", port.address.to_bits(), port.protocol.as_str(), port.port)
}

/// Destination and port by a map over the number of the endpoint, in one step.
fn translate(port: &ServicePort, backends: &Backends) -> [Value; 2] {
    let count = backends.endpoints.len();
    let key = match backends.affinity {
        Affinity::None => json!({"numgen": {"mode": "random", "mod": count, "offset": 0}}),
        Affinity::Client => json!({"jhash": {"mod": count, "expr": address("saddr")}}),
    };
    let target = |(index, (address, port)): (usize, &(Ipv6Addr, u16))| json!([index, {"concat": [address, port]}]);
    let set: Vec<Value> = backends.endpoints.iter().enumerate().map(target).collect();
    [
        matches("==", meta("l4proto"), json!(port.protocol.as_str())),
        json!({"dnat": {"family": "ip6", "addr": {"map": {"key": key, "data": {"set": set}}}}}),
    ]
}

fn within(side: &str, prefix: &crate::address::Prefix) -> Value {
    matches("==", address(side), json!({"prefix": {"addr": prefix.address(), "len": prefix.bits()}}))
}

fn matches(operator: &str, left: Value, right: Value) -> Value {
    json!({"match": {"op": operator, "left": left, "right": right}})
}

fn not_a_reply() -> Value {
    json!({"match": {"op": "in", "left": {"ct": {"key": "state"}}, "right": ["new", "invalid", "untracked"]}})
}

fn meta(key: &str) -> Value {
    json!({"meta": {"key": key}})
}

fn address(side: &str) -> Value {
    json!({"payload": {"protocol": "ip6", "field": side}})
}

fn port() -> Value {
    json!({"payload": {"protocol": "th", "field": "dport"}})
}

fn jump(chain: &str) -> Value {
    json!({"jump": {"target": chain}})
}

fn accept() -> Value {
    json!({"accept": null})
}

fn drop_it() -> Value {
    json!({"drop": null})
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;
    use crate::services::Protocol;

    #[test]
    fn one_endpoint_more_touches_one_service() {
        let config = Config {
            tag: "x".parse().unwrap(),
            run_dir: std::path::PathBuf::new(),
            evdc: "fd00:1:2::/48".parse().unwrap(),
            node: "fd00:1:2:3::/64".parse().unwrap(),
            services: "fd00:1:2:ffff::/112".parse().unwrap(),
            planetary: Some("atoll0".to_owned()),
            mtu: None,
            node_services: Vec::new(),
        };
        let port = |last: u16| ServicePort {
            address: Ipv6Addr::new(0xfd00, 1, 2, 0xffff, 0, 0, 0, last),
            protocol: Protocol::Tcp,
            port: 80,
        };
        let backends = |last: u16| Backends {
            endpoints: (5..=last).map(|n| (Ipv6Addr::new(0xfd00, 1, 2, 3, 0, 1, 0, n), 8080)).collect(),
            affinity: Affinity::None,
        };
        let before: Services = (1..=1000).map(|n| (port(n), backends(5))).collect();
        let mut after = before.clone();
        after.insert(port(7), backends(6));
        let commands = Rules::new(&config).change_services(&crate::services::difference(&before, &after));
        assert_eq!(commands.len(), 2, "flush one chain, add one rule");
        assert!(commands[1].to_string().contains("\"mod\":2"));
    }
}
