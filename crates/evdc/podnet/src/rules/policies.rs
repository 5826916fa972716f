//! Policies as chains of their own, before those that say what pods may at all: `egress` decides what a pod says, `ingress` what it hears. An `accept` in
//! one of them goes on to the next, so both ends have to allow and the pod network's own rules still apply.
//!
//! One look-up by interface finds a pod's chain, one more in a set its peer, however many there are. What the node itself sends to its pods passes
//! neither chain (it is not forwarded), nor does what pods say to the node: Kubernetes lets a pod and its own node speak.

use std::collections::BTreeSet;
use std::net::Ipv6Addr;

use serde_json::{Value, json};

use super::{Rules, accept, address, drop_it, matches, meta, port};
use crate::policies::{Allow, Group, Peers, Policies, Ports, Verdict, Verdicts};
use crate::services::Protocol;

/// Members in one command: keeps a command at a size that messages about it can be read.
const ELEMENTS_AT_ONCE: usize = 1_000;

/// A pod whose verdicts change: its interface, what they were and what they become. `None`: it has no elements yet, or none any more.
pub(crate) struct Move<'a> {
    pub(crate) interface: &'a str,
    pub(crate) before: Option<&'a Verdicts>,
    pub(crate) after: Option<&'a Verdicts>,
}

impl Rules<'_> {
    pub(super) fn policy_base(&self) -> Vec<Value> {
        let map = |name: &str| json!({"add": {"map": self.inside(name, json!({"type": "ifname", "map": "verdict"}))}});
        // Before `forward` (0): see there for what is refused whatever policies say.
        let base = |name: &str, priority: i32| {
            let how = json!({"type": "filter", "hook": "forward", "prio": priority, "policy": "accept"});
            json!({"add": {"chain": self.inside(name, how)}})
        };
        let mut commands = vec![
            map("egress_pods"),
            map("ingress_pods"),
            base("egress", -2),
            base("ingress", -1),
            json!({"add": {"chain": self.chain("closed")}}),
            self.rule("closed", &[drop_it()]),
        ];
        let state = |state: &str| json!({"match": {"op": "in", "left": {"ct": {"key": "state"}}, "right": state}});
        let own = json!({"concat": [address("saddr"), address("daddr")]});
        for (chain, interface) in [("egress", "iifname"), ("ingress", "oifname")] {
            let answer = matches("==", json!({"ct": {"key": "direction"}}), json!("reply"));
            let from_here = matches("==", meta("iifname"), json!("@interfaces"));
            let decide = json!({"vmap": {"key": meta(interface), "data": format!("@{chain}_pods")}});
            commands.extend([
                self.rule(chain, &[state("related"), accept()]),
                // Only what answers: who began is judged by every packet, so a connection ends with its permission.
                self.rule(chain, &[state("established"), answer, accept()]),
                // A pod always reaches itself, also by its Service.
                self.rule(chain, &[from_here, matches("==", own.clone(), json!("@hairpin")), accept()]),
                self.rule(chain, &[decide]),
            ]);
        }
        commands
    }

    /// From what is in force to what shall be. Only differences: what is added comes first, then pods move over, then what nobody uses goes.
    pub(crate) fn change_policies(&self, before: &Policies, after: &Policies, moves: &[Move<'_>]) -> Vec<Value> {
        let mut commands = Vec::new();
        for (group, members) in &after.groups {
            let old = before.groups.get(group);
            self.change_set(&peers_set(group), json!("ipv6_addr"), old, members, &|it| json!(it), &mut commands);
        }
        for (group, members) in &after.named_ports {
            let (kind, old) = (json!(["ipv6_addr", "inet_service"]), before.named_ports.get(group));
            let element = |(address, port): &(Ipv6Addr, u16)| json!({"concat": [address, port]});
            self.change_set(&named_set(group), kind, old, members, &element, &mut commands);
        }
        let (old_chains, new_chains) = (before.chains(), after.chains());
        for (name, (inward, rules)) in new_chains.iter().filter(|(name, _)| !old_chains.contains_key(*name)) {
            commands.push(json!({"add": {"chain": self.chain(name)}}));
            for expressions in rules.iter().flat_map(|rule| expressions(*inward, rule)) {
                commands.push(self.rule(name, &expressions));
            }
            commands.push(self.rule(name, &[drop_it()]));
        }
        commands.extend(moves.iter().flat_map(|it| self.move_pod(it)));
        for name in old_chains.keys().filter(|name| !new_chains.contains_key(*name)) {
            commands.push(json!({"flush": {"chain": self.chain(name)}}));
            commands.push(json!({"delete": {"chain": self.chain(name)}}));
        }
        let unused = before.groups.keys().filter(|group| !after.groups.contains_key(group)).map(peers_set);
        let unused_named = before.named_ports.keys().filter(|group| !after.named_ports.contains_key(group));
        for name in unused.chain(unused_named.map(named_set)) {
            commands.push(json!({"delete": {"set": self.inside(&name, json!({}))}}));
        }
        commands
    }

    /// A pod's elements in the maps that find its chains.
    pub(crate) fn move_pod(&self, it: &Move<'_>) -> Vec<Value> {
        let mut commands = Vec::new();
        let of = |side: Option<&Verdicts>, ingress: bool| {
            side.map_or(Verdict::Open, |it| if ingress { it.ingress.clone() } else { it.egress.clone() })
        };
        for (map, ingress) in [("egress_pods", false), ("ingress_pods", true)] {
            let (before, after) = (of(it.before, ingress), of(it.after, ingress));
            if before == after {
                continue;
            }
            if before != Verdict::Open {
                commands.push(json!({"delete": {"element": self.element(map, json!(it.interface))}}));
            }
            if after != Verdict::Open {
                let target = json!({"goto": {"target": after.to_string()}});
                commands.push(json!({"add": {"element": self.element(map, json!([it.interface, target]))}}));
            }
        }
        commands
    }

    fn change_set<T: Ord>(
        &self,
        name: &str,
        kind: Value,
        before: Option<&BTreeSet<T>>,
        after: &BTreeSet<T>,
        element: &dyn Fn(&T) -> Value,
        commands: &mut Vec<Value>,
    ) {
        if before.is_none() {
            commands.push(json!({"add": {"set": self.inside(name, json!({"type": kind}))}}));
        }
        let nobody = BTreeSet::new();
        let before = before.unwrap_or(&nobody);
        for (verb, members) in [("delete", before.difference(after)), ("add", after.difference(before))] {
            let elements: Vec<Value> = members.map(element).collect();
            for some in elements.chunks(ELEMENTS_AT_ONCE) {
                commands.push(json!({verb: {"element": self.inside(name, json!({"elem": some}))}}));
            }
        }
    }
}

fn peers_set(group: &Group) -> String {
    format!("g-{}", group.as_str())
}

fn named_set(group: &Group) -> String {
    format!("n-{}", group.as_str())
}

/// One rule as what nftables matches at once: each way in which the peer may match, with each way in which the port may.
fn expressions(inward: bool, rule: &Allow) -> Vec<Vec<Value>> {
    let peer = address(if inward { "saddr" } else { "daddr" });
    let peers: Vec<Vec<Value>> = match &rule.peers {
        Peers::All => vec![Vec::new()],
        Peers::Of { group, blocks } => {
            let group = group.iter().map(|it| json!(format!("@{}", peers_set(it))));
            let spans = blocks.iter().map(|(first, last)| span(json!(first), json!(last))).collect::<Vec<_>>();
            let blocks = (!spans.is_empty()).then(|| json!({"set": spans}));
            group.chain(blocks).map(|set| vec![matches("==", peer.clone(), set)]).collect()
        }
    };
    let ports = ports(&rule.ports);
    let pair = |peer: &Vec<Value>| {
        let with = |port: &Vec<Value>| [peer.as_slice(), port, &[accept()]].concat();
        ports.iter().map(with).collect::<Vec<_>>()
    };
    peers.iter().flat_map(pair).collect()
}

fn ports(ports: &Ports) -> Vec<Vec<Value>> {
    let Ports::Of { tcp, udp, named } = ports else { return vec![Vec::new()] };
    let speaks = |protocol: Protocol| matches("==", meta("l4proto"), json!(protocol.as_str()));
    let mut found = Vec::new();
    for (protocol, spans) in [(Protocol::Tcp, tcp), (Protocol::Udp, udp)] {
        if spans.as_slice() == [(0, u16::MAX)] {
            found.push(vec![speaks(protocol)]);
        } else if !spans.is_empty() {
            let set: Vec<Value> = spans.iter().map(|(first, last)| span(json!(first), json!(last))).collect();
            found.push(vec![speaks(protocol), matches("==", port(), json!({"set": set}))]);
        }
    }
    let destination = json!({"concat": [address("daddr"), port()]});
    for (protocol, group) in named {
        let set = json!(format!("@{}", named_set(group)));
        found.push(vec![speaks(*protocol), matches("==", destination.clone(), set)]);
    }
    found
}

fn span(first: Value, last: Value) -> Value {
    if first == last { first } else { json!({"range": [first, last]}) }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use std::collections::BTreeMap;

    use super::*;
    use crate::config::Config;
    use crate::policies::PodPolicy;

    fn config() -> Config {
        Config {
            tag: "x".parse().unwrap(),
            run_dir: std::path::PathBuf::new(),
            evdc: "fd00:1:2::/48".parse().unwrap(),
            node: "fd00:1:2:3::/64".parse().unwrap(),
            services: "fd00:1:2:ffff::/112".parse().unwrap(),
            planetary: None,
            mtu: None,
            node_services: Vec::new(),
        }
    }

    #[test]
    fn a_pod_elsewhere_is_one_element() {
        let group = Group::of("web");
        let rule = Allow { peers: Peers::Of { group: Some(group.clone()), blocks: Vec::new() }, ports: Ports::All };
        let policies = |members: u16| Policies {
            pods: BTreeMap::from([(
                "p".parse().unwrap(),
                PodPolicy { ingress: Some(vec![rule.clone()]), egress: None },
            )]),
            groups: BTreeMap::from([(
                group.clone(),
                (1..=members).map(|n| Ipv6Addr::new(0xfd00, 1, 2, 4, 0, 1, 0, n)).collect(),
            )]),
            ..Policies::default()
        };
        let config = config();
        let commands = Rules::new(&config).change_policies(&policies(1000), &policies(1001), &[]);
        assert_eq!(commands.len(), 1, "{commands:?}");
        assert!(commands[0]["add"]["element"]["elem"].as_array().is_some_and(|it| it.len() == 1));
        assert!(Rules::new(&config).change_policies(&policies(7), &policies(7), &[]).is_empty());
    }

    #[test]
    fn rules_do_not_grow_with_blocks_and_ports() {
        let blocks = (0..500_u16)
            .map(|n| (Ipv6Addr::new(0xfd00, 1, 2, n, 0, 0, 0, 0), Ipv6Addr::new(0xfd00, 1, 2, n, 0, 0, 0, 9)))
            .collect();
        let ports = Ports::Of {
            tcp: (1..500).map(|n| (n * 10, n * 10)).collect(),
            udp: vec![(0, u16::MAX)],
            named: BTreeSet::from([(Protocol::Tcp, Group::of("http"))]),
        };
        let rule = Allow { peers: Peers::Of { group: Some(Group::of("web")), blocks }, ports };
        assert_eq!(expressions(true, &rule).len(), 6);
        let nobody = Allow { peers: Peers::Of { group: None, blocks: Vec::new() }, ports: Ports::All };
        assert!(expressions(true, &nobody).is_empty(), "who allows nobody has no rule");
    }
}
