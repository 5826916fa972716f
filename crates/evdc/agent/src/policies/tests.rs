//! Tests of policies: tables of who reaches whom, a property against a direct reading of Kubernetes' words, and what a large eVDC costs.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::time::{Duration, Instant};

use atoll_podnet::PodKey;
use proptest::prelude::{Just, Strategy, any, prop, prop_assert_eq, prop_oneof, proptest};
use serde_json::{Value, json};

use super::*;

const HTTP: u16 = 8080;

fn place(namespace: &str, name: &str, labels: &[(&str, &str)], node: &str, last: u16) -> Place {
    let subnet = if node == "n1" { 1 } else { 2 };
    let port = |name: &str, protocol, number| NamedPort { name: name.to_owned(), protocol, number };
    Place {
        uid: format!("{namespace}.{name}"),
        namespace: namespace.to_owned(),
        labels: labels.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect(),
        node: node.to_owned(),
        addresses: vec![Ipv6Addr::new(0xfd00, 0, 0, subnet, 0, 0, 0, last)],
        ports: vec![port("http", Protocol::Tcp, HTTP + last), port("dns", Protocol::Udp, 53)],
    }
}

/// Two namespaces, pods on two nodes; all that is asked about runs on `n1`.
fn objects(policies: &[(&str, Value)]) -> Objects {
    let policy = |(index, (namespace, spec)): (usize, &(&str, Value))| {
        let spec = serde_json::from_value(spec.clone()).unwrap();
        Arc::new(Policy { namespace: (*namespace).to_owned(), name: format!("np{index}"), spec })
    };
    let namespace = |name: &str, team: &str| {
        let labels =
            [("team".to_owned(), team.to_owned()), ("kubernetes.io/metadata.name".to_owned(), name.to_owned())];
        (name.to_owned(), Arc::new(Labels::from(labels)))
    };
    let pods = [
        place("shop", "db", &[("app", "db")], "n1", 1),
        place("shop", "web", &[("app", "web")], "n1", 2),
        place("shop", "far", &[("app", "web"), ("tier", "far")], "n2", 3),
        place("ops", "web", &[("app", "web")], "n1", 4),
        place("ops", "probe", &[("app", "probe")], "n2", 5),
    ];
    Objects {
        policies: policies.iter().enumerate().map(policy).collect(),
        namespaces: BTreeMap::from([namespace("shop", "sales"), namespace("ops", "ops")]),
        pods: pods.map(Arc::new).to_vec(),
    }
}

/// What the kernel makes of compiled policies: whether a connection of this pod, in this direction, passes.
fn passes(policies: &Policies, pod: &str, inward: bool, from: Ipv6Addr, to: (Ipv6Addr, Protocol, u16)) -> bool {
    let Some(policy) = policies.pods.get(&pod.parse::<PodKey>().unwrap()) else { return false };
    let Some(rules) = (if inward { &policy.ingress } else { &policy.egress }) else { return true };
    let (address, protocol, port) = to;
    let peer = if inward { from } else { address };
    rules.iter().any(|rule| {
        let of_peers = match &rule.peers {
            Peers::All => true,
            Peers::Of { group, blocks } => {
                group.as_ref().is_some_and(|group| policies.groups[group].contains(&peer))
                    || blocks.iter().any(|(first, last)| (*first..=*last).contains(&peer))
            }
        };
        let of_ports = match &rule.ports {
            Ports::All => true,
            Ports::Of { tcp, udp, named } => {
                let spans = if protocol == Protocol::Tcp { tcp } else { udp };
                spans.iter().any(|(first, last)| (*first..=*last).contains(&port))
                    || named
                        .iter()
                        .any(|(of, group)| *of == protocol && policies.named_ports[group].contains(&(address, port)))
            }
        };
        of_peers && of_ports
    })
}

/// Which of `ns/pod` reach this pod, or are reached by it, at their (its) port of this protocol and number; 0: the one that is called `http` there.
fn reach(policies: &[(&str, Value)], pod: &str, inward: bool, port: (Protocol, u16)) -> Vec<String> {
    let objects = objects(policies);
    let compiled = compile("n1", &objects, None).policies;
    let own = objects.pods.iter().find(|it| it.uid == pod).unwrap();
    let others = objects.pods.iter().filter(|it| it.uid != pod);
    let reaches = |other: &&Arc<Place>| {
        let (from, to) = if inward { (&***other, &**own) } else { (&**own, &***other) };
        let number = if port.1 == 0 { to.ports[0].number } else { port.1 };
        passes(&compiled, pod, inward, from.addresses[0], (to.addresses[0], port.0, number))
    };
    others.filter(reaches).map(|it| it.uid.clone()).collect()
}

const EVERYONE: [&str; 4] = ["shop.web", "shop.far", "ops.web", "ops.probe"];
const ANY_TCP: (Protocol, u16) = (Protocol::Tcp, 1);

#[test]
fn who_is_let_in() {
    let check = |spec: Value, expected: &[&str]| {
        assert_eq!(reach(&[("shop", spec.clone())], "shop.db", true, ANY_TCP), expected, "{spec}");
    };
    let from = |peers: Value| json!({"podSelector": {"matchLabels": {"app": "db"}}, "ingress": [{"from": peers}]});
    check(json!({"podSelector": {"matchLabels": {"app": "other"}}}), &EVERYONE);
    check(json!({"podSelector": {}}), &[]);
    check(json!({}), &[]);
    check(json!({"podSelector": {}, "policyTypes": ["Egress"]}), &EVERYONE);
    check(json!({"podSelector": {}, "ingress": [{}]}), &EVERYONE);
    check(json!({"podSelector": {}, "ingress": []}), &[]);
    check(from(json!([])), &EVERYONE);
    check(from(json!([{"podSelector": {}}])), &["shop.web", "shop.far"]);
    check(from(json!([{"podSelector": {"matchLabels": {"tier": "far"}}}])), &["shop.far"]);
    check(from(json!([{"namespaceSelector": {}}])), &EVERYONE);
    check(from(json!([{"namespaceSelector": {"matchLabels": {"team": "ops"}}}])), &["ops.web", "ops.probe"]);
    let both =
        json!({"namespaceSelector": {"matchLabels": {"team": "ops"}}, "podSelector": {"matchLabels": {"app": "web"}}});
    check(from(json!([both])), &["ops.web"]);
    let either = json!([{"namespaceSelector": {"matchLabels": {"team": "ops"}}}, {"podSelector": {"matchLabels": {"tier": "far"}}}]);
    check(from(either), &["shop.far", "ops.web", "ops.probe"]);
    let expression = |it: Value| from(json!([{"podSelector": {"matchExpressions": [it]}}]));
    check(expression(json!({"key": "tier", "operator": "DoesNotExist"})), &["shop.web"]);
    check(expression(json!({"key": "tier", "operator": "NotIn", "values": ["far"]})), &["shop.web"]);
    check(expression(json!({"key": "tier", "operator": "Exists"})), &["shop.far"]);
    check(expression(json!({"key": "app", "operator": "In", "values": ["web", "x"]})), &["shop.web", "shop.far"]);
    check(from(json!([{"ipBlock": {"cidr": "fd00:0:0:2::/64"}}])), &["shop.far", "ops.probe"]);
    check(from(json!([{"ipBlock": {"cidr": "::/0", "except": ["fd00:0:0:2::/64"]}}])), &["shop.web", "ops.web"]);
    check(from(json!([{"ipBlock": {"cidr": "10.0.0.0/8"}}])), &[]);
}

#[test]
fn policies_add_up() {
    let db = || json!({"matchLabels": {"app": "db"}});
    let policies = [
        ("shop", json!({"podSelector": {}})),
        (
            "shop",
            json!({"podSelector": db(), "ingress": [{"from": [{"podSelector": {"matchLabels": {"tier": "far"}}}]}]}),
        ),
        (
            "shop",
            json!({"podSelector": db(), "ingress": [{"ports": [{"port": 9}], "from": [{"namespaceSelector": {}}]}]}),
        ),
        ("ops", json!({"podSelector": db(), "ingress": [{}]})),
    ];
    assert_eq!(reach(&policies, "shop.db", true, ANY_TCP), ["shop.far"], "one of another namespace is not about it");
    assert_eq!(reach(&policies, "shop.db", true, (Protocol::Tcp, 9)), EVERYONE);
    assert_eq!(reach(&policies, "shop.db", true, (Protocol::Udp, 9)), ["shop.far"]);
    assert_eq!(reach(&policies, "ops.web", true, ANY_TCP).len(), 4, "and none is about this one");
    assert_eq!(reach(&policies, "shop.db", false, ANY_TCP), EVERYONE, "what goes out is another matter");
}

#[test]
fn ports_of_what_comes_in() {
    let check = |ports: Value, port: (Protocol, u16), good: bool| {
        let spec = json!({"podSelector": {"matchLabels": {"app": "db"}}, "ingress": [{"ports": ports}]});
        let found = reach(&[("shop", spec.clone())], "shop.db", true, port);
        assert_eq!(!found.is_empty(), good, "{spec} {port:?}");
    };
    check(json!([{"port": 80}]), (Protocol::Tcp, 80), true);
    check(json!([{"port": 80}]), (Protocol::Udp, 80), false);
    check(json!([{"port": 80}]), (Protocol::Tcp, 81), false);
    check(json!([{"port": 80, "endPort": 90}]), (Protocol::Tcp, 90), true);
    check(json!([{"port": 80, "endPort": 90}]), (Protocol::Tcp, 91), false);
    check(json!([{"protocol": "UDP"}]), (Protocol::Udp, 65_535), true);
    check(json!([{"protocol": "UDP"}]), (Protocol::Tcp, 1), false);
    check(json!([{"port": "http"}]), (Protocol::Tcp, HTTP + 1), true);
    check(json!([{"port": "http"}]), (Protocol::Tcp, HTTP + 2), false);
    check(json!([{"port": "http", "protocol": "UDP"}]), (Protocol::Udp, HTTP + 1), false);
    check(json!([{"port": "dns", "protocol": "UDP"}]), (Protocol::Udp, 53), true);
    check(json!([{"port": "nothing"}]), (Protocol::Tcp, 80), false);
    check(json!([{"port": 70_000}]), (Protocol::Tcp, 4_464), false);
    check(json!([{"port": 80, "protocol": "SCTP"}]), (Protocol::Tcp, 80), false);
}

#[test]
fn what_is_let_out() {
    let check = |rule: Value, port: (Protocol, u16), expected: &[&str]| {
        let spec = json!({"podSelector": {}, "policyTypes": ["Egress"], "egress": [rule]});
        assert_eq!(reach(&[("shop", spec.clone())], "shop.db", false, port), expected, "{spec}");
    };
    check(json!({}), ANY_TCP, &EVERYONE);
    check(json!({"to": [{"podSelector": {}}]}), ANY_TCP, &["shop.web", "shop.far"]);
    check(json!({"to": [{"ipBlock": {"cidr": "fd00:0:0:2::3/128"}}]}), ANY_TCP, &["shop.far"]);
    // Each destination's own number.
    check(json!({"ports": [{"port": "http"}]}), (Protocol::Tcp, 0), &EVERYONE);
    check(json!({"ports": [{"port": "http"}]}), (Protocol::Tcp, HTTP + 4), &["ops.web"]);
    let named_there = json!({"ports": [{"port": "http"}], "to": [{"podSelector": {}}]});
    check(named_there.clone(), (Protocol::Tcp, 0), &["shop.web", "shop.far"]);
    check(named_there, (Protocol::Tcp, HTTP + 4), &[]);
    check(json!({"ports": [{"port": "dns", "protocol": "UDP"}]}), (Protocol::Udp, 53), &EVERYONE);
    check(json!({"ports": [{"port": "dns", "protocol": "UDP"}]}), (Protocol::Tcp, 53), &[]);
}

#[test]
fn a_node_is_believed_about_its_own_subnet() {
    let policy = json!({"podSelector": {}, "ingress": [{"from": [{"podSelector": {}}]}]});
    let mut objects = objects(&[("shop", policy)]);
    // One of another node's pods, reported with an address of this node's.
    let stolen = Ipv6Addr::new(0xfd00, 0, 0, 1, 0, 0, 0, 4);
    Arc::make_mut(&mut objects.pods[2]).addresses.push(stolen);
    let subnet = |node: &str, number: u16| {
        (node.to_owned(), Prefix::new(Ipv6Addr::new(0xfd00, 0, 0, number, 0, 0, 0, 0), 64).unwrap())
    };
    let subnets = BTreeMap::from([subnet("n1", 1), subnet("n2", 2)]);
    let members = |subnets: Option<&BTreeMap<String, Prefix>>| {
        let groups = compile("n1", &objects, subnets).policies.groups;
        groups.into_values().next().unwrap()
    };
    assert!(members(None).contains(&stolen));
    assert_eq!(members(Some(&subnets)).len(), 3);
    assert!(!members(Some(&subnets)).contains(&stolen));
    assert!(members(Some(&BTreeMap::new())).is_empty(), "nobody's node, nobody's pod");
}

fn first_note(compiled: &Compiled) -> String {
    compiled.left_out.first().unwrap().to_string()
}

#[test]
fn what_cannot_be_enforced_allows_nothing_and_is_named() {
    let check = |spec: Value, word: &str| {
        let compiled = compile("n1", &objects(&[("shop", spec.clone())]), None);
        assert_eq!(compiled.left_out.len(), 1, "{spec}: {:?}", compiled.left_out);
        assert!(first_note(&compiled).contains(word), "{:?}", compiled.left_out);
        let port = (Ipv6Addr::new(0xfd00, 0, 0, 1, 0, 0, 0, 1), Protocol::Tcp, 80);
        let web = Ipv6Addr::new(0xfd00, 0, 0, 1, 0, 0, 0, 2);
        assert!(!passes(&compiled.policies, "shop.db", true, web, port), "{spec}");
    };
    let odd = json!({"matchExpressions": [{"key": "a", "operator": "Near"}]});
    check(json!({"ingress": [{"ports": [{"protocol": "SCTP"}]}]}), "SCTP");
    check(json!({"ingress": [{"from": [{"ipBlock": {"cidr": "10.0.0.0/8"}}]}]}), "IPv4");
    check(json!({"ingress": [{"from": [{"ipBlock": {"cidr": "nonsense"}}]}]}), "no block");
    check(json!({"ingress": [{"from": [{"podSelector": odd}]}]}), "cannot be read");
    check(json!({"ingress": [{"from": [{}]}]}), "names nobody");
    check(json!({"podSelector": odd, "ingress": [{}]}), "isolates its namespace");
    let many = |count: usize| vec![json!({"port": 80}); count];
    check(json!({"podSelector": {"matchLabels": {"app": "x"}}, "ingress": [{"ports": many(PARTS_MAX)}]}), "1000 parts");
    let last = json!({"podSelector": {}, "ingress": [{}]});
    let mut policies = vec![("ops", json!({})); POLICIES_MAX];
    policies.push(("shop", last));
    let compiled = compile("n1", &objects(&policies), None);
    assert!(first_note(&compiled).contains("more than 1000 policies"), "{:?}", compiled.left_out);
    assert_eq!(compiled.policies.pods[&"shop.db".parse().unwrap()].ingress, Some(Vec::new()));
}

#[test]
fn rules_have_an_end() {
    let rules = |n: u16| (0..495_u16).map(|m| json!({"ports": [{"port": 1 + n * 100 + m}]})).collect::<Vec<_>>();
    let policies: Vec<(&str, Value)> = (0..200).map(|n| ("shop", json!({"ingress": rules(n)}))).collect();
    let started = Instant::now();
    let compiled = compile("n1", &objects(&policies), None);
    eprintln!("{RULES_MAX} rules in {:?}", started.elapsed());
    assert!(compiled.left_out.is_empty(), "as many as there may be: {:?}", compiled.left_out.first());
    let count = |compiled: &Compiled, pod: &str| {
        compiled.policies.pods[&pod.parse().unwrap()].ingress.as_ref().map_or(0, Vec::len)
    };
    assert_eq!(count(&compiled, "shop.db"), 199 * 100 + 495, "the same rule twice is one");
    let mut objects = objects(&policies);
    objects.pods.push(Arc::new(place("shop", "third", &[], "n1", 9)));
    let compiled = compile("n1", &objects, None);
    assert!(first_note(&compiled).contains("more than 200000 rules"), "{:?}", compiled.left_out);
    assert_eq!(count(&compiled, "shop.db"), 199 * 100 + 495);
}

#[test]
fn selectors_have_an_end() {
    let values = |n: usize| (0..900).map(|m| json!(format!("v{n}-{m}"))).collect::<Vec<_>>();
    let from = |n: usize| json!([{"podSelector": {"matchExpressions": [{"key": "app", "operator": "NotIn", "values": values(n)}]}}]);
    let policies: Vec<(&str, Value)> =
        (0..30).map(|n| ("shop", json!({"podSelector": {}, "ingress": [{"from": from(n)}]}))).collect();
    let compiled = compile("n1", &objects(&policies), None);
    assert_eq!(compiled.policies.groups.len(), SELECTIONS_MAX / 902);
    assert!(compiled.left_out.iter().all(|note| note.why.contains("more than 20000 parts")), "{:?}", compiled.left_out);
    assert!(!compiled.left_out.is_empty());
}

#[test]
fn a_pod_elsewhere_changes_members_alone() {
    let policy = json!({"podSelector": {"matchLabels": {"app": "db"}}, "ingress": [{"from": [{"podSelector": {}}]}]});
    let mut objects = objects(&[("shop", policy)]);
    let before = compile("n1", &objects, None).policies;
    objects.pods.push(Arc::new(place("shop", "new", &[], "n2", 9)));
    let after = compile("n1", &objects, None).policies;
    assert_eq!(before.pods, after.pods);
    assert_eq!(before.groups.keys().collect::<Vec<_>>(), after.groups.keys().collect::<Vec<_>>());
    assert_ne!(before.groups, after.groups);
}

/// A thousand pods and a hundred policies; the time is printed with `--nocapture`.
#[test]
fn a_large_evdc_is_compiled_quickly() {
    let app = |n: usize| json!({"matchLabels": {"app": format!("a{}", n % 50)}});
    let policies: Vec<(&str, Value)> = (0..100)
        .map(|n| {
            let from = json!([{"podSelector": app(n + 1)}, {"namespaceSelector": {"matchLabels": {"team": "ops"}}, "podSelector": app(n + 2)},
                {"ipBlock": {"cidr": "fd00::/16", "except": ["fd00:0:0:2::/64"]}}]);
            let rule = json!({"from": from, "ports": [{"port": "http"}, {"port": 53, "protocol": "UDP"}]});
            let out = json!({"to": [{"podSelector": app(n + 3)}], "ports": [{"port": "http"}]});
            ("shop", json!({"podSelector": app(n), "policyTypes": ["Ingress", "Egress"], "ingress": [rule], "egress": [out]}))
        })
        .collect();
    let mut objects = objects(&policies);
    objects.pods = (0..1000_u16)
        .map(|n| {
            let (namespace, node) = (["shop", "ops"][usize::from(n % 2)], ["n1", "n2"][usize::from(n >= 100)]);
            Arc::new(place(namespace, &format!("p{n}"), &[("app", &format!("a{}", n / 2 % 50))], node, n))
        })
        .collect();
    let started = Instant::now();
    let compiled = compile("n1", &objects, None);
    let took = started.elapsed();
    eprintln!("1,000 pods and 100 policies, 100 pods here: {took:?}, {} groups", compiled.policies.groups.len());
    assert_eq!(compiled.policies.pods.len(), 100);
    assert!(took < Duration::from_secs(1), "{took:?}");
}

/// Kubernetes' words, read one after the other for a single connection.
mod naive {
    use super::*;

    pub(super) fn passes(
        objects: &Objects,
        pod: &Place,
        inward: bool,
        from: Ipv6Addr,
        to: (Ipv6Addr, Protocol, u16),
    ) -> bool {
        let about = |policy: &&Arc<Policy>| {
            let types = policy.spec.policy_types.clone().unwrap_or_default();
            policy.namespace == pod.namespace
                && types.iter().any(|it| it == if inward { "Ingress" } else { "Egress" })
                && selects(policy.spec.pod_selector.as_ref().unwrap(), &pod.labels)
        };
        let policies: Vec<&Arc<Policy>> = objects.policies.iter().filter(about).collect();
        let peer = if inward { from } else { to.0 };
        let allows = |policy: &&Arc<Policy>| {
            let rules: Vec<Rule<'_>> = if inward {
                policy.spec.ingress.iter().flatten().map(super::inward).collect()
            } else {
                policy.spec.egress.iter().flatten().map(outward).collect()
            };
            rules.iter().any(|rule| {
                (rule.peers.is_empty() || rule.peers.iter().any(|it| is_peer(objects, policy, it, peer)))
                    && (rule.ports.is_empty() || rule.ports.iter().any(|it| is_port(objects, it, to)))
            })
        };
        policies.is_empty() || policies.iter().any(allows)
    }

    fn is_peer(objects: &Objects, policy: &Policy, peer: &NetworkPolicyPeer, address: Ipv6Addr) -> bool {
        if let Some(block) = &peer.ip_block {
            let within = |text: &str| text.parse::<Prefix>().unwrap().contains(address);
            return within(&block.cidr) && !block.except.iter().flatten().any(|it| within(it));
        }
        objects.pods.iter().filter(|pod| pod.addresses.contains(&address)).any(|pod| {
            let namespace = match &peer.namespace_selector {
                None => pod.namespace == policy.namespace,
                Some(selector) => selects(selector, &objects.namespaces[&pod.namespace]),
            };
            namespace && peer.pod_selector.as_ref().is_none_or(|selector| selects(selector, &pod.labels))
        })
    }

    fn is_port(
        objects: &Objects,
        port: &NetworkPolicyPort,
        (address, protocol, number): (Ipv6Addr, Protocol, u16),
    ) -> bool {
        let same = port.protocol.as_deref().unwrap_or("TCP") == if protocol == Protocol::Tcp { "TCP" } else { "UDP" };
        let fits = match &port.port {
            None => true,
            Some(IntOrString::Int(first)) => (*first..=port.end_port.unwrap_or(*first)).contains(&i32::from(number)),
            Some(IntOrString::String(name)) => {
                let there = objects.pods.iter().filter(|pod| pod.addresses.contains(&address));
                there
                    .flat_map(|pod| &pod.ports)
                    .any(|it| it.name == *name && it.protocol == protocol && it.number == number)
            }
        };
        same && fits
    }

    fn selects(selector: &LabelSelector, labels: &Labels) -> bool {
        let labelled = selector.match_labels.iter().flatten().all(|(key, value)| labels.get(key) == Some(value));
        labelled
            && selector.match_expressions.iter().flatten().all(|need| {
                let value = labels.get(&need.key);
                let values = need.values.clone().unwrap_or_default();
                match need.operator.as_str() {
                    "In" => value.is_some_and(|value| values.contains(value)),
                    "NotIn" => value.is_none_or(|value| !values.contains(value)),
                    "Exists" => value.is_some(),
                    _ => value.is_none(),
                }
            })
    }
}

fn a_selector() -> impl Strategy<Value = Value> {
    let key = || prop_oneof![Just("app"), Just("tier"), Just("team")];
    let value = || prop_oneof![Just("db"), Just("web"), Just("far"), Just("ops"), Just("sales")];
    prop_oneof![
        Just(json!({})),
        (key(), value()).prop_map(|(key, value)| json!({"matchLabels": {key: value}})),
        (key(), prop::collection::vec(value(), 1..3), any::<bool>()).prop_map(|(key, values, not)| {
            let operator = if not { "NotIn" } else { "In" };
            json!({"matchExpressions": [{"key": key, "operator": operator, "values": values}]})
        }),
        (key(), any::<bool>()).prop_map(|(key, not)| {
            let operator = if not { "DoesNotExist" } else { "Exists" };
            json!({"matchExpressions": [{"key": key, "operator": operator}]})
        }),
    ]
}

fn a_peer() -> impl Strategy<Value = Value> {
    let block = prop_oneof![
        Just(json!({"cidr": "::/0"})),
        Just(json!({"cidr": "fd00:0:0:2::/64"})),
        Just(json!({"cidr": "::/0", "except": ["fd00:0:0:1::/64", "fd00:0:0:2::4/127"]})),
        Just(json!({"cidr": "fd00::/16", "except": ["fd00:0:0:1::2/127", "fd00:0:0:1::2/128"]})),
    ];
    prop_oneof![
        a_selector().prop_map(|it| json!({"podSelector": it})),
        a_selector().prop_map(|it| json!({"namespaceSelector": it})),
        (a_selector(), a_selector()).prop_map(|(one, two)| json!({"podSelector": one, "namespaceSelector": two})),
        block.prop_map(|it| json!({"ipBlock": it})),
    ]
}

fn a_port() -> impl Strategy<Value = Value> {
    let protocol = || prop_oneof![Just("TCP"), Just("UDP")];
    prop_oneof![
        protocol().prop_map(|it| json!({"protocol": it})),
        (protocol(), 79_i32..83).prop_map(|(protocol, port)| json!({"protocol": protocol, "port": port})),
        (protocol(), 50_i32..83, 0_i32..6)
            .prop_map(|(protocol, port, more)| json!({"protocol": protocol, "port": port, "endPort": port + more})),
        (protocol(), prop_oneof![Just("http"), Just("dns"), Just("none")])
            .prop_map(|(protocol, name)| json!({"protocol": protocol, "port": name})),
    ]
}

fn a_policy() -> impl Strategy<Value = (&'static str, Value)> {
    let rules = |peers: &'static str| {
        let rule = (prop::collection::vec(a_peer(), 0..3), prop::collection::vec(a_port(), 0..3));
        prop::collection::vec(rule.prop_map(move |(them, ports)| json!({peers: them, "ports": ports})), 0..3)
    };
    let types = prop_oneof![Just(json!(["Ingress"])), Just(json!(["Egress"])), Just(json!(["Ingress", "Egress"]))];
    let namespace = prop_oneof![Just("shop"), Just("ops")];
    (namespace, a_selector(), types, rules("from"), rules("to")).prop_map(
        |(namespace, pods, types, ingress, egress)| {
            (namespace, json!({"podSelector": pods, "policyTypes": types, "ingress": ingress, "egress": egress}))
        },
    )
}

/// As nobody's API server would let them be: any text where a block, an operator or a name of a protocol should stand, any number for a port.
fn a_hostile_policy() -> impl Strategy<Value = (&'static str, Value)> {
    let text = || prop_oneof![Just("::/0".to_owned()), Just("In".to_owned()), Just("TCP".to_owned()), "[ -~]{0,12}"];
    let selector = (text(), text(), prop::collection::vec(text(), 0..3)).prop_map(
        |(key, operator, values)| json!({"matchExpressions": [{"key": key, "operator": operator, "values": values}]}),
    );
    let peer = prop_oneof![
        (text(), prop::collection::vec(text(), 0..3))
            .prop_map(|(cidr, except)| json!({"ipBlock": {"cidr": cidr, "except": except}})),
        selector.prop_map(|it| json!({"podSelector": it})),
        Just(json!({})),
    ];
    let port = (text(), any::<i32>(), any::<i32>())
        .prop_map(|(protocol, port, end)| json!({"protocol": protocol, "port": port, "endPort": end}));
    let rule = (prop::collection::vec(peer, 1..4), prop::collection::vec(port, 0..3));
    let rule = rule.prop_map(|(peers, ports)| json!({"from": peers, "ports": ports}));
    prop::collection::vec(rule, 0..3).prop_map(|rules| ("shop", json!({"podSelector": {}, "ingress": rules})))
}

proptest! {
    #[test]
    fn hostile_policies_are_compiled_and_isolate(policies in prop::collection::vec(a_hostile_policy(), 1..4)) {
        let compiled = compile("n1", &objects(&policies), None);
        let isolated = |pod: &str| compiled.policies.pods[&pod.parse().unwrap()].ingress.is_some();
        prop_assert_eq!((isolated("shop.db"), isolated("shop.web"), isolated("ops.web")), (true, true, false));
    }

    #[test]
    fn compiled_policies_mean_what_kubernetes_says(policies in prop::collection::vec(a_policy(), 0..5)) {
        let objects = objects(&policies);
        let compiled = compile("n1", &objects, None);
        prop_assert_eq!(&compiled.left_out, &BTreeSet::new());
        let stranger = Ipv6Addr::new(0xfd00, 0, 0, 7, 0, 0, 0, 1);
        let addresses = || objects.pods.iter().map(|pod| pod.addresses[0]).chain([stranger]);
        for pod in objects.pods.iter().filter(|pod| pod.node == "n1") {
            for other in addresses() {
                for (inward, from, to) in [(true, other, pod.addresses[0]), (false, pod.addresses[0], other)] {
                    for protocol in [Protocol::Tcp, Protocol::Udp] {
                        for port in [1, 53, 80, 82, HTTP + 1, HTTP + 4] {
                            let to = (to, protocol, port);
                            let expected = naive::passes(&objects, pod, inward, from, to);
                            let found = passes(&compiled.policies, &pod.uid, inward, from, to);
                            prop_assert_eq!(found, expected, "{} inward={} {} {:?}", pod.uid, inward, from, to);
                        }
                    }
                }
            }
        }
    }
}
