//! NetworkPolicies as what the pod network enforces on this node (pure): policies, namespaces and the places of all pods go in, the rules of each pod of
//! this node come out.
//!
//! The meaning is Kubernetes': a pod that a policy selects is isolated in the directions of its `policyTypes`, and what any policy that selects it allows
//! is allowed. Peers are judged by address: the addresses that pods' own nodes report, blocks as they are written. A port by name is what the
//! connection's destination calls so: of the pod itself on the way in, of each destination on the way out.
//!
//! What cannot be enforced never opens anything: it isolates, allows nothing, and stands in [`Compiled::left_out`].

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::fmt;
use std::net::Ipv6Addr;
use std::sync::Arc;

use atoll_podnet::{Allow, Group, Peers, PodPolicy, Policies, Ports, Prefix, Protocol};
use k8s_openapi::api::networking::v1::{
    NetworkPolicyEgressRule, NetworkPolicyIngressRule, NetworkPolicyPeer, NetworkPolicyPort, NetworkPolicySpec,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

mod blocks;

/// Policies of an eVDC that are enforced; the API server takes no more. Rules of further ones, in order of their names, allow nothing.
pub const POLICIES_MAX: usize = 1_000;

/// Rules, peers, ports, exceptions, and labels and values of selectors of one policy together; the API server takes none that is larger.
pub const PARTS_MAX: usize = 1_000;

/// Labels and values of the selectors of peers that are looked up for one node, each selector counted with one more. Each is compared with every pod.
pub const SELECTIONS_MAX: usize = 20_000;

/// Rules of all pods of one node together, each counted for every pod that it is about: what compiling costs. More than the kernel is given, because pods
/// with the same rules share them there.
pub const RULES_MAX: usize = 200_000;

/// Pods that can be peers, in order of namespace and name.
pub const PODS_MAX: usize = 10_000;

/// Labels of a pod or a namespace.
pub type Labels = BTreeMap<String, String>;

/// A container's port that has a name.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NamedPort {
    /// Its name.
    pub name: String,
    /// TCP or UDP; others are not spoken of by any rule.
    pub protocol: Protocol,
    /// Its number.
    pub number: u16,
}

/// Where a pod is and how it is selected.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Place {
    /// `metadata.uid`.
    pub uid: String,
    /// `metadata.namespace`.
    pub namespace: String,
    /// `metadata.labels`.
    pub labels: Labels,
    /// The Node's name.
    pub node: String,
    /// As its node reports them; none before it has any and after it is over.
    pub addresses: Vec<Ipv6Addr>,
    /// Ports with names.
    pub ports: Vec<NamedPort>,
}

/// A policy as it is compiled.
#[derive(Clone, PartialEq, Debug)]
pub struct Policy {
    /// `metadata.namespace`.
    pub namespace: String,
    /// `metadata.name`.
    pub name: String,
    /// `spec`.
    pub spec: NetworkPolicySpec,
}

/// All objects that policies are made of.
#[derive(Clone, Debug, Default)]
pub struct Objects {
    /// In order of namespace and name.
    pub policies: Vec<Arc<Policy>>,
    /// Labels by name.
    pub namespaces: BTreeMap<String, Arc<Labels>>,
    /// All pods of the eVDC.
    pub pods: Vec<Arc<Place>>,
}

/// Something that is not enforced as written, and why.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct LeftOut {
    /// Namespace and name of the policy; none, if it is about all of them.
    pub policy: Option<(String, String)>,
    /// In words.
    pub why: String,
}

impl fmt::Display for LeftOut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.policy {
            Some((namespace, name)) => write!(f, "NetworkPolicy {namespace}/{name}: {}", self.why),
            None => f.write_str(&self.why),
        }
    }
}

/// What the objects come to.
#[derive(Clone, Debug, Default)]
pub struct Compiled {
    /// For the pod network.
    pub policies: Policies,
    /// To be told to whoever wrote them.
    pub left_out: BTreeSet<LeftOut>,
}

/// For the pods of the node of this name. `subnets`: where pods of each Node have their addresses, if that is known; a node that reports others for its pods
/// is not believed, as it could make its neighbours' pods somebody's peers.
#[must_use]
pub fn compile(node: &str, objects: &Objects, subnets: Option<&BTreeMap<String, Prefix>>) -> Compiled {
    let peers = &objects.pods[..objects.pods.len().min(PODS_MAX)];
    let large = objects.policies.iter().map(|policy| weight(&policy.spec) > PARTS_MAX).collect();
    let done = Compiled::default();
    let mut compiler = Compiler { objects, peers, large, subnets, selections: SELECTIONS_MAX, rules: RULES_MAX, done };
    if peers.len() < objects.pods.len() {
        let why = format!("there are more than {PODS_MAX} pods; the others are nobody's peers");
        compiler.done.left_out.insert(LeftOut { policy: None, why });
    }
    for pod in objects.pods.iter().filter(|pod| pod.node == node) {
        let Ok(key) = pod.uid.parse() else { continue };
        let policy = compiler.pod(pod);
        compiler.done.policies.pods.insert(key, policy);
    }
    compiler.done
}

struct Compiler<'a> {
    objects: &'a Objects,
    peers: &'a [Arc<Place>],
    /// By policy: whether it is larger than [`PARTS_MAX`].
    large: Vec<bool>,
    /// How many of [`SELECTIONS_MAX`] are left.
    selections: usize,
    /// How many of [`RULES_MAX`] are left.
    rules: usize,
    subnets: Option<&'a BTreeMap<String, Prefix>>,
    done: Compiled,
}

/// A rule of either direction.
struct Rule<'a> {
    peers: &'a [NetworkPolicyPeer],
    ports: &'a [NetworkPolicyPort],
}

fn inward(rule: &NetworkPolicyIngressRule) -> Rule<'_> {
    Rule { peers: rule.from.as_deref().unwrap_or_default(), ports: rule.ports.as_deref().unwrap_or_default() }
}

fn outward(rule: &NetworkPolicyEgressRule) -> Rule<'_> {
    Rule { peers: rule.to.as_deref().unwrap_or_default(), ports: rule.ports.as_deref().unwrap_or_default() }
}

/// Whether a policy is about what comes in, and about what goes out.
fn directions(spec: &NetworkPolicySpec) -> (bool, bool) {
    let types = spec.policy_types.as_deref().unwrap_or_default();
    let named = |wanted: &str| types.iter().any(|it| it == wanted);
    match types {
        // The API server writes them down; this is what it writes.
        [] => (true, spec.egress.as_ref().is_some_and(|rules| !rules.is_empty())),
        // One that is not known might be either.
        _ if types.iter().any(|it| it != "Ingress" && it != "Egress") => (true, true),
        _ => (named("Ingress"), named("Egress")),
    }
}

/// What a policy is made of, counted: what reading it costs.
fn weight(spec: &NetworkPolicySpec) -> usize {
    let rule = |rule: Rule<'_>| 1 + rule.ports.len() + rule.peers.iter().map(peer_weight).sum::<usize>();
    let ingress = spec.ingress.iter().flatten().map(|it| rule(inward(it)));
    let egress = spec.egress.iter().flatten().map(|it| rule(outward(it)));
    spec.pod_selector.as_ref().map_or(0, selector_weight) + ingress.chain(egress).sum::<usize>()
}

fn peer_weight(peer: &NetworkPolicyPeer) -> usize {
    let selectors = peer.pod_selector.iter().chain(&peer.namespace_selector).map(selector_weight);
    let except = peer.ip_block.iter().flat_map(|block| &block.except).map(Vec::len);
    1 + selectors.chain(except).sum::<usize>()
}

fn selector_weight(selector: &LabelSelector) -> usize {
    let labels = selector.match_labels.as_ref().map_or(0, BTreeMap::len);
    let values = selector.match_expressions.iter().flatten().map(|it| 1 + it.values.as_ref().map_or(0, Vec::len));
    labels + values.sum::<usize>()
}

impl<'a> Compiler<'a> {
    fn pod(&mut self, pod: &'a Place) -> PodPolicy {
        let mut policy = PodPolicy::default();
        let objects = self.objects;
        for (index, it) in objects.policies.iter().enumerate().filter(|(_, it)| it.namespace == pod.namespace) {
            let large = self.large[index];
            let selected = match &it.spec.pod_selector {
                Some(selector) if !large => matches(selector, &pod.labels),
                _ => Some(true),
            };
            let readable = match selected {
                Some(false) => continue,
                Some(true) if large => {
                    let why =
                        format!("it has more than {PARTS_MAX} parts; it isolates its namespace and allows nothing");
                    self.leave_out(it, &why);
                    false
                }
                Some(true) if index < POLICIES_MAX => true,
                Some(true) => {
                    self.leave_out(it, &format!("there are more than {POLICIES_MAX} policies; it allows nothing"));
                    false
                }
                None => {
                    self.leave_out(it, "its podSelector cannot be read; it isolates its namespace and allows nothing");
                    false
                }
            };
            let (ingress, egress) = directions(&it.spec);
            if ingress {
                let rules = it.spec.ingress.iter().flatten().map(inward).filter(|_| readable);
                let rules = rules.filter_map(|rule| self.rule(it, &rule, Some(pod)));
                policy.ingress.get_or_insert_default().extend(rules);
            }
            if egress {
                let rules = it.spec.egress.iter().flatten().map(outward).filter(|_| readable);
                let rules = rules.filter_map(|rule| self.rule(it, &rule, None));
                policy.egress.get_or_insert_default().extend(rules);
            }
        }
        // The same rule twice is one.
        for rules in policy.ingress.iter_mut().chain(&mut policy.egress) {
            let mut seen = HashSet::new();
            rules.retain(|rule| seen.insert(rule.clone()));
        }
        policy
    }

    fn leave_out(&mut self, policy: &Policy, why: &str) {
        let of = Some((policy.namespace.clone(), policy.name.clone()));
        self.done.left_out.insert(LeftOut { policy: of, why: why.to_owned() });
    }

    /// `target`: the pod that is connected to, if that is always the same.
    fn rule(&mut self, policy: &'a Policy, rule: &Rule<'a>, target: Option<&Place>) -> Option<Allow> {
        let Some(left) = self.rules.checked_sub(1) else {
            self.leave_out(
                policy,
                &format!("the pods here have more than {RULES_MAX} rules; its others allow nothing"),
            );
            return None;
        };
        self.rules = left;
        let peers = self.peers(policy, rule.peers)?;
        Some(Allow { peers, ports: self.ports(policy, rule.ports, target) })
    }

    fn peers(&mut self, policy: &'a Policy, peers: &'a [NetworkPolicyPeer]) -> Option<Peers> {
        if peers.is_empty() {
            return Some(Peers::All);
        }
        let mut spans = Vec::new();
        let mut selectors = Vec::new();
        for peer in peers {
            match &peer.ip_block {
                Some(block) => match blocks::spans(block) {
                    Ok(found) => spans.extend(found),
                    Err(why) => self.leave_out(policy, &why),
                },
                None if peer.namespace_selector.is_none() && peer.pod_selector.is_none() => {
                    self.leave_out(policy, "one of its peers names nobody");
                }
                None => selectors.push((&peer.namespace_selector, &peer.pod_selector)),
            }
        }
        let group = match selectors.is_empty() {
            true => None,
            false => self.group(policy, &selectors),
        };
        let blocks = blocks::merged(spans);
        (group.is_some() || !blocks.is_empty()).then_some(Peers::Of { group, blocks })
    }

    /// The pods that any of these selects. The same selectors are the same group, whoever asks; only those of other namespaces are not.
    fn group(
        &mut self,
        policy: &'a Policy,
        selectors: &[(&'a Option<LabelSelector>, &'a Option<LabelSelector>)],
    ) -> Option<Group> {
        let local = selectors.iter().any(|(namespaces, _)| namespaces.is_none());
        let within = local.then_some(policy.namespace.as_str());
        let group = Group::of(&serde_json::to_string(&(within, selectors)).ok()?);
        if self.done.policies.groups.contains_key(&group) {
            return Some(group);
        }
        let compared = |(one, two): &(&Option<LabelSelector>, &Option<LabelSelector>)| {
            1 + [one, two].iter().map(|it| it.as_ref().map_or(0, selector_weight)).sum::<usize>()
        };
        let Some(left) = self.selections.checked_sub(selectors.iter().map(compared).sum()) else {
            let why = format!("the selectors of all peers have more than {SELECTIONS_MAX} parts; its are not let in");
            self.leave_out(policy, &why);
            return None;
        };
        self.selections = left;
        let mut members = BTreeSet::new();
        for (namespaces, pods) in selectors {
            let found = self.select(&policy.namespace, namespaces.as_ref(), pods.as_ref());
            match found {
                Some(found) => members.extend(found),
                None => self.leave_out(policy, "a selector of its peers cannot be read; it selects nobody"),
            }
        }
        self.done.policies.groups.insert(group.clone(), members);
        Some(group)
    }

    fn select(
        &self,
        own: &str,
        namespaces: Option<&LabelSelector>,
        pods: Option<&LabelSelector>,
    ) -> Option<Vec<Ipv6Addr>> {
        let of = |namespace: &String, labels: &Labels| match namespaces {
            None => Some(namespace == own),
            Some(selector) => matches(selector, labels),
        };
        // Selectors that cannot be read are so whatever they are asked of.
        of(&String::new(), &Labels::new())?;
        pods.map_or(Some(true), |selector| matches(selector, &Labels::new()))?;
        let all = self.objects.namespaces.iter();
        let within: BTreeSet<&String> =
            all.filter(|(name, labels)| of(name, labels) == Some(true)).map(|(name, _)| name).collect();
        let selected = |pod: &&Arc<Place>| {
            within.contains(&pod.namespace) && pods.is_none_or(|selector| matches(selector, &pod.labels) == Some(true))
        };
        Some(self.peers.iter().filter(selected).flat_map(|pod| self.addresses(pod)).collect())
    }

    fn addresses<'p>(&self, pod: &'p Place) -> impl Iterator<Item = Ipv6Addr> + use<'p, 'a> {
        let subnets = self.subnets;
        pod.addresses.iter().copied().filter(move |address| {
            subnets.is_none_or(|subnets| subnets.get(&pod.node).is_some_and(|subnet| subnet.contains(*address)))
        })
    }

    fn ports(&mut self, policy: &Policy, ports: &[NetworkPolicyPort], target: Option<&Place>) -> Ports {
        if ports.is_empty() {
            return Ports::All;
        }
        let (mut tcp, mut udp, mut named) = (Vec::new(), Vec::new(), BTreeSet::new());
        for port in ports {
            let protocol = match port.protocol.as_deref() {
                None | Some("TCP") => Protocol::Tcp,
                Some("UDP") => Protocol::Udp,
                Some(other) => {
                    self.leave_out(policy, &format!("{other} is not spoken by the pod network; it is not let through"));
                    continue;
                }
            };
            let spans = match protocol {
                Protocol::Tcp => &mut tcp,
                Protocol::Udp => &mut udp,
            };
            match (&port.port, target) {
                (None, _) => spans.push((0, u16::MAX)),
                (Some(IntOrString::Int(first)), _) => {
                    let last = port.end_port.unwrap_or(*first);
                    match (u16::try_from(*first), u16::try_from(last)) {
                        (Ok(first), Ok(last)) if first <= last => spans.push((first, last)),
                        _ => self.leave_out(policy, &format!("{first} to {last} are no ports")),
                    }
                }
                (Some(IntOrString::String(name)), Some(pod)) => {
                    let found = pod.ports.iter().filter(|it| it.name == *name && it.protocol == protocol);
                    spans.extend(found.map(|it| (it.number, it.number)));
                }
                (Some(IntOrString::String(name)), None) => {
                    named.insert((protocol, self.destinations(protocol, name)));
                }
            }
        }
        Ports::Of { tcp: blocks::merged(tcp), udp: blocks::merged(udp), named }
    }

    /// Which port each pod calls so.
    fn destinations(&mut self, protocol: Protocol, name: &str) -> Group {
        let group = Group::of(&format!("port {protocol:?} {name}"));
        if !self.done.policies.named_ports.contains_key(&group) {
            let mut found = BTreeSet::new();
            for pod in self.peers {
                for port in pod.ports.iter().filter(|it| it.name == name && it.protocol == protocol) {
                    found.extend(self.addresses(pod).map(|address| (address, port.number)));
                }
            }
            self.done.policies.named_ports.insert(group.clone(), found);
        }
        group
    }
}

/// Kubernetes' label selectors; `None` when there is an operator that is none.
fn matches(selector: &LabelSelector, labels: &Labels) -> Option<bool> {
    let mut all = selector.match_labels.iter().flatten().all(|(key, value)| labels.get(key) == Some(value));
    for need in selector.match_expressions.iter().flatten() {
        let found = labels.get(&need.key);
        let listed = found.is_some_and(|found| need.values.iter().flatten().any(|value| value == found));
        all &= match need.operator.as_str() {
            "In" => listed,
            "NotIn" => !listed,
            "Exists" => found.is_some(),
            "DoesNotExist" => found.is_none(),
            _ => return None,
        };
    }
    Some(all)
}

#[cfg(test)]
mod tests;
