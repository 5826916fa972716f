//! What a pod requires of a node. Everything that depends on other nodes is counted once per pod, not once per node.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::{
    Affinity, Pod, PodAffinityTerm, PodSpec, Toleration, TopologySpreadConstraint, VolumeNodeAffinity,
};

use crate::{
    cluster::{Cluster, NodeState, PodInfo},
    labels::{node_selected, selects, untolerated},
};

/// A pod to be placed, with what its rules see of the cluster.
pub(crate) struct Demand<'a> {
    pub(crate) info: PodInfo,
    pub(crate) spec: &'a PodSpec,
    volumes: &'a [VolumeNodeAffinity],
    wants_near: Vec<Domains<'a>>,
    wants_apart: Vec<Domains<'a>>,
    /// Domains that pods there keep this pod out of.
    kept_out_of: BTreeSet<(&'a str, &'a str)>,
    spread: Vec<Spread<'a>>,
}

/// Where pods are that a term selects.
struct Domains<'a> {
    key: &'a str,
    found: BTreeSet<&'a str>,
    /// No such pod is anywhere and this one is such a pod: the first of its kind may go anywhere.
    is_first: bool,
}

/// How many pods that a constraint selects each domain has.
pub(crate) struct Spread<'a> {
    pub(crate) constraint: &'a TopologySpreadConstraint,
    pub(crate) counts: BTreeMap<&'a str, usize>,
    minimum: usize,
    selects_itself: bool,
}

static NO_SPEC: std::sync::LazyLock<PodSpec> = std::sync::LazyLock::new(PodSpec::default);

impl<'a> Demand<'a> {
    pub(crate) fn new(cluster: &'a Cluster, pod: &'a Pod, volumes: &'a [VolumeNodeAffinity]) -> Self {
        let spec = pod.spec.as_ref().unwrap_or(&NO_SPEC);
        let info = PodInfo::of(pod);
        let affinity = spec.affinity.as_ref();
        let near = affinity.and_then(|it| it.pod_affinity.as_ref());
        let near = near.and_then(|it| it.required_during_scheduling_ignored_during_execution.as_deref());
        let apart = affinity.and_then(|it| it.pod_anti_affinity.as_ref());
        let apart = apart.and_then(|it| it.required_during_scheduling_ignored_during_execution.as_deref());
        let domains = |terms: Option<&'a [PodAffinityTerm]>| -> Vec<Domains<'a>> {
            terms.unwrap_or_default().iter().map(|term| Domains::of(cluster, &info, term)).collect()
        };
        let (wants_near, wants_apart) = (domains(near), domains(apart));
        let kept_out_of = kept_out_of(cluster, &info);
        let mut demand = Self { info, spec, volumes, wants_near, wants_apart, kept_out_of, spread: Vec::new() };
        let constraints = spec.topology_spread_constraints.as_deref().unwrap_or_default();
        demand.spread = constraints.iter().map(|constraint| demand.count(cluster, constraint)).collect();
        demand
    }

    /// The constraints that are wishes.
    pub(crate) fn wished_spread(&self) -> impl Iterator<Item = &Spread<'a>> {
        self.spread.iter().filter(|spread| spread.constraint.when_unsatisfiable == "ScheduleAnyway")
    }

    fn count(&self, cluster: &'a Cluster, constraint: &'a TopologySpreadConstraint) -> Spread<'a> {
        let selected = |pod: &PodInfo| {
            let selector = constraint.label_selector.as_ref().is_some_and(|it| selects(it, &pod.labels));
            let same = |key: &String| self.info.labels.get(key).is_none_or(|value| pod.labels.get(key) == Some(value));
            selector && constraint.match_label_keys.iter().flatten().all(same)
        };
        let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
        for (name, node) in cluster.known_nodes() {
            let Some(domain) = node.labels.get(&constraint.topology_key) else { continue };
            let honors_taints = constraint.node_taints_policy.as_deref() == Some("Honor");
            let ignores_affinity = constraint.node_affinity_policy.as_deref() == Some("Ignore");
            if (ignores_affinity || self.selects_node(name, node)) && !(honors_taints && self.taint(node).is_some()) {
                let pods = node.pods.values().filter(|pod| pod.namespace == self.info.namespace && !pod.is_leaving);
                *counts.entry(domain).or_default() += pods.filter(|pod| selected(pod)).count();
            }
        }
        let enough = counts.len() >= usize::try_from(constraint.min_domains.unwrap_or(1)).unwrap_or(1);
        let minimum = counts.values().copied().min().filter(|_| enough).unwrap_or(0);
        Spread { constraint, counts, minimum, selects_itself: selected(&self.info) }
    }

    fn tolerations(&self) -> &[Toleration] {
        self.spec.tolerations.as_deref().unwrap_or_default()
    }

    fn taint(&self, node: &NodeState) -> Option<String> {
        let taint = untolerated(&node.taints, self.tolerations(), &["NoSchedule", "NoExecute"])?;
        let value = taint.value.as_deref().unwrap_or_default();
        Some(format!("node(s) had untolerated taint {{{}: {value}}}", taint.key))
    }

    fn selects_node(&self, name: &str, node: &NodeState) -> bool {
        let labelled = self.spec.node_selector.iter().flatten().all(|(key, value)| node.labels.get(key) == Some(value));
        let affinity = self.spec.affinity.as_ref().and_then(|it: &Affinity| it.node_affinity.as_ref());
        let required = affinity.and_then(|it| it.required_during_scheduling_ignored_during_execution.as_ref());
        labelled && required.is_none_or(|required| node_selected(required, name, &node.labels))
    }

    /// Why the pod cannot go to the node: the first rule that fails, as Kubernetes gives it; for resources all that lack. Empty if it can.
    pub(crate) fn against(&self, name: &str, node: &NodeState) -> Vec<String> {
        let one = |reason: &str| vec![reason.to_owned()];
        let tolerates_cordon = node.is_cordoned && self.tolerates_cordon();
        if node.is_cordoned && !tolerates_cordon {
            return one("node(s) were unschedulable");
        }
        if self.spec.node_name.as_deref().is_some_and(|wanted| !wanted.is_empty() && wanted != name) {
            return one("node(s) didn't match the requested node name");
        }
        if let Some(reason) = self.taint(node) {
            return vec![reason];
        }
        if !node.is_ready {
            return one("node(s) were not ready");
        }
        if !self.selects_node(name, node) {
            return one("node(s) didn't match Pod's node affinity/selector");
        }
        let taken = |port| node.pods.values().flat_map(|pod| &pod.host_ports).any(|other| other.meets(port));
        if self.info.host_ports.iter().any(taken) {
            return one("node(s) didn't have free ports for the requested pod ports");
        }
        let lacking = self.lacking(node);
        if !lacking.is_empty() {
            return lacking;
        }
        let reachable = |volume: &VolumeNodeAffinity| {
            volume.required.as_ref().is_none_or(|required| node_selected(required, name, &node.labels))
        };
        if !self.volumes.iter().all(reachable) {
            return one("node(s) had volume node affinity conflict");
        }
        self.against_spread(node).or_else(|| self.against_neighbours(node)).into_iter().map(str::to_owned).collect()
    }

    fn tolerates_cordon(&self) -> bool {
        let taint = k8s_openapi::api::core::v1::Taint {
            key: "node.kubernetes.io/unschedulable".to_owned(),
            effect: "NoSchedule".to_owned(),
            ..Default::default()
        };
        untolerated(&[taint], self.tolerations(), &["NoSchedule"]).is_none()
    }

    fn lacking(&self, node: &NodeState) -> Vec<String> {
        let mut lacking = Vec::new();
        let pods = node.allocatable.get("pods");
        if pods > 0 && i64::try_from(node.pods.len()).is_ok_and(|there| there >= pods) {
            lacking.push("Too many pods".to_owned());
        }
        for (name, amount) in self.info.requests.iter() {
            if amount > 0 && node.allocatable.get(name).saturating_sub(node.used.get(name)) < amount {
                lacking.push(format!("Insufficient {name}"));
            }
        }
        lacking
    }

    fn against_spread(&self, node: &NodeState) -> Option<&'static str> {
        for spread in self.spread.iter().filter(|it| it.constraint.when_unsatisfiable == "DoNotSchedule") {
            let Some(domain) = node.labels.get(&spread.constraint.topology_key) else {
                return Some("node(s) didn't match pod topology spread constraints (missing required label)");
            };
            let there = spread.counts.get(domain.as_str()).copied().unwrap_or(0) + usize::from(spread.selects_itself);
            let skew = there.saturating_sub(spread.minimum);
            if skew > usize::try_from(spread.constraint.max_skew).unwrap_or(0) {
                return Some("node(s) didn't match pod topology spread constraints");
            }
        }
        None
    }

    fn against_neighbours(&self, node: &NodeState) -> Option<&'static str> {
        let domain = |key: &str| node.labels.get(key).map(String::as_str);
        let near = |it: &Domains<'_>| domain(it.key).is_some_and(|domain| it.is_first || it.found.contains(domain));
        if !self.wants_near.iter().all(near) {
            return Some("node(s) didn't match pod affinity rules");
        }
        if self.wants_apart.iter().any(|it| domain(it.key).is_some_and(|domain| it.found.contains(domain))) {
            return Some("node(s) didn't match pod anti-affinity rules");
        }
        let kept_out = self.kept_out_of.iter().any(|(key, value)| domain(key) == Some(value));
        kept_out.then_some("node(s) didn't satisfy existing pods anti-affinity rules")
    }
}

impl<'a> Domains<'a> {
    fn of(cluster: &'a Cluster, pod: &PodInfo, term: &'a PodAffinityTerm) -> Self {
        let mut found = BTreeSet::new();
        let mut is_anywhere = false;
        for (_, node) in cluster.known_nodes() {
            if node.pods.values().any(|other| term_selects(cluster, term, pod, other)) {
                is_anywhere = true;
                found.extend(node.labels.get(&term.topology_key).map(String::as_str));
            }
        }
        let is_first = !is_anywhere && term_selects(cluster, term, pod, pod);
        Self { key: &term.topology_key, found, is_first }
    }
}

/// Whether a term of `pod` selects `other`.
pub(crate) fn term_selects(cluster: &Cluster, term: &PodAffinityTerm, pod: &PodInfo, other: &PodInfo) -> bool {
    let names = term.namespaces.as_deref().unwrap_or_default();
    let in_namespace = match (&term.namespace_selector, names.is_empty()) {
        (None, true) => pod.namespace == other.namespace,
        (selector, _) => {
            let selected = |labels| selector.as_ref().is_some_and(|selector| selects(selector, labels));
            names.contains(&other.namespace)
                || selected(cluster.namespaces.get(&other.namespace).unwrap_or(&BTreeMap::new()))
        }
    };
    let same = |key: &String| pod.labels.get(key).is_none_or(|value| other.labels.get(key) == Some(value));
    let differs = |key: &String| pod.labels.get(key).is_none_or(|value| other.labels.get(key) != Some(value));
    in_namespace
        && term.label_selector.as_ref().is_some_and(|selector| selects(selector, &other.labels))
        && term.match_label_keys.iter().flatten().all(same)
        && term.mismatch_label_keys.iter().flatten().all(differs)
}

fn kept_out_of<'a>(cluster: &'a Cluster, pod: &PodInfo) -> BTreeSet<(&'a str, &'a str)> {
    let mut kept_out = BTreeSet::new();
    for (_, node) in cluster.known_nodes() {
        for other in node.pods.values() {
            let terms = other.keeps_away_from.iter().filter(|term| term_selects(cluster, term, other, pod));
            kept_out.extend(
                terms.filter_map(|term| {
                    Some((term.topology_key.as_str(), node.labels.get(&term.topology_key)?.as_str()))
                }),
            );
        }
    }
    kept_out
}
