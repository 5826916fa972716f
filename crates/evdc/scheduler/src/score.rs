//! Which of the nodes that would do is best. Every score is brought to 0…100 over the candidates and weighted as Kubernetes does by default.

use k8s_openapi::api::core::v1::{PodAffinityTerm, PreferredSchedulingTerm, WeightedPodAffinityTerm};

use crate::{
    cluster::{Cluster, NodeState},
    filter::{Demand, term_selects},
    labels::{node_matches, tolerates},
};

/// The best score of one rule.
const FULL: i64 = 100;

/// What a pod that asks for nothing counts as in scores, so that such pods spread too; Kubernetes' own figures.
const CPU_MILLI_DEFAULT: i64 = 100;
const MEMORY_BYTES_DEFAULT: i64 = 200 << 20;

const TAINTS_WEIGHT: i64 = 3;
const NODE_AFFINITY_WEIGHT: i64 = 2;
const POD_AFFINITY_WEIGHT: i64 = 2;
const SPREAD_WEIGHT: i64 = 2;

type Candidate<'a> = (&'a str, &'a NodeState);

/// The best candidate; among equals one that depends on the pod, so that not all go to the first.
pub(crate) fn best(cluster: &Cluster, demand: &Demand<'_>, candidates: &[Candidate<'_>]) -> Option<String> {
    let each =
        |score: &dyn Fn(&NodeState) -> i64| -> Vec<i64> { candidates.iter().map(|(_, node)| score(node)).collect() };
    let mut totals: Vec<i64> = each(&|node| resources(demand, node));
    let mut add = |scores: Vec<i64>, weight: i64| {
        for (total, score) in totals.iter_mut().zip(scores) {
            *total += weight * score;
        }
    };
    add(fewest_first(&each(&|node| unwanted_taints(demand, node))), TAINTS_WEIGHT);
    let affinity = candidates.iter().map(|(name, node)| preferred_node(demand, name, node)).collect::<Vec<_>>();
    add(most_first(&affinity), NODE_AFFINITY_WEIGHT);
    add(most_first(&preferred_neighbours(cluster, demand, candidates)), POD_AFFINITY_WEIGHT);
    add(fewest_first(&each(&|node| crowd(demand, node))), SPREAD_WEIGHT);
    let seed = demand.info.labels.values().fold(demand.info.namespace.clone(), |seed, label| seed + label);
    let ranked = candidates.iter().zip(totals).max_by_key(|((name, _), total)| (*total, tie_breaker(&seed, name)));
    ranked.map(|((name, _), _)| (*name).to_owned())
}

/// FNV-1a: any spread of ties will do, as long as it is the same everywhere.
fn tie_breaker(seed: &str, name: &str) -> u64 {
    let bytes = seed.bytes().chain([0]).chain(name.bytes());
    bytes.fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

fn most_first(scores: &[i64]) -> Vec<i64> {
    let (low, high) = (scores.iter().min().copied().unwrap_or(0), scores.iter().max().copied().unwrap_or(0));
    scores.iter().map(|score| if high == low { 0 } else { FULL * (score - low) / (high - low) }).collect()
}

fn fewest_first(scores: &[i64]) -> Vec<i64> {
    let (low, high) = (scores.iter().min().copied().unwrap_or(0), scores.iter().max().copied().unwrap_or(0));
    scores.iter().map(|score| if high == low { FULL } else { FULL * (high - score) / (high - low) }).collect()
}

/// How much stays free, and how evenly cpu and memory are used.
fn resources(demand: &Demand<'_>, node: &NodeState) -> i64 {
    let used = |name: &str, default: i64| {
        let pods = node.pods.values().map(|pod| pod.requests.get(name));
        let wanted = pods.chain([demand.info.requests.get(name)]);
        wanted.map(|amount| if amount == 0 { default } else { amount }).sum::<i64>()
    };
    let share = |name: &str, default: i64| {
        let all = node.allocatable.get(name);
        if all <= 0 { FULL } else { (used(name, default).saturating_mul(FULL) / all).clamp(0, FULL) }
    };
    let (cpu, memory) = (share("cpu", CPU_MILLI_DEFAULT), share("memory", MEMORY_BYTES_DEFAULT));
    let free = FULL - i64::midpoint(cpu, memory);
    let balance = FULL - (cpu - memory).abs() / 2;
    free + balance
}

fn unwanted_taints(demand: &Demand<'_>, node: &NodeState) -> i64 {
    let tolerations = demand.spec.tolerations.as_deref().unwrap_or_default();
    let soft = node.taints.iter().filter(|taint| taint.effect == "PreferNoSchedule");
    let unwanted = soft.filter(|taint| !tolerations.iter().any(|toleration| tolerates(toleration, taint)));
    i64::try_from(unwanted.count()).unwrap_or(i64::MAX)
}

fn preferred_node(demand: &Demand<'_>, name: &str, node: &NodeState) -> i64 {
    let affinity = demand.spec.affinity.as_ref().and_then(|it| it.node_affinity.as_ref());
    let terms = affinity.and_then(|it| it.preferred_during_scheduling_ignored_during_execution.as_deref());
    let matching = |term: &&PreferredSchedulingTerm| node_matches(&term.preference, name, &node.labels);
    terms.unwrap_or_default().iter().filter(matching).map(|term| i64::from(term.weight)).sum()
}

fn preferred_neighbours(cluster: &Cluster, demand: &Demand<'_>, candidates: &[Candidate<'_>]) -> Vec<i64> {
    let affinity = demand.spec.affinity.as_ref();
    let near = affinity.and_then(|it| it.pod_affinity.as_ref());
    let near = near.and_then(|it| it.preferred_during_scheduling_ignored_during_execution.as_deref());
    let apart = affinity.and_then(|it| it.pod_anti_affinity.as_ref());
    let apart = apart.and_then(|it| it.preferred_during_scheduling_ignored_during_execution.as_deref());
    let mut scores = vec![0; candidates.len()];
    let mut add = |terms: Option<&[WeightedPodAffinityTerm]>, sign: i64| {
        for term in terms.unwrap_or_default() {
            let counts = matching_by_domain(cluster, demand, &term.pod_affinity_term);
            for (score, (_, node)) in scores.iter_mut().zip(candidates) {
                let domain = node.labels.get(&term.pod_affinity_term.topology_key).map(String::as_str);
                *score += sign * i64::from(term.weight) * domain.and_then(|domain| counts.get(domain)).unwrap_or(&0);
            }
        }
    };
    add(near, 1);
    add(apart, -1);
    scores
}

fn matching_by_domain<'a>(
    cluster: &'a Cluster,
    demand: &Demand<'_>,
    term: &PodAffinityTerm,
) -> std::collections::BTreeMap<&'a str, i64> {
    let mut counts = std::collections::BTreeMap::new();
    for (_, node) in cluster.known_nodes() {
        let Some(domain) = node.labels.get(&term.topology_key) else { continue };
        let matching = node.pods.values().filter(|pod| term_selects(cluster, term, &demand.info, pod)).count();
        *counts.entry(domain.as_str()).or_default() += i64::try_from(matching).unwrap_or(i64::MAX);
    }
    counts
}

/// How many pods are there already that this one should rather not meet: by its wishes, or, without any, those of its own owner.
fn crowd(demand: &Demand<'_>, node: &NodeState) -> i64 {
    let mut wishes = demand.wished_spread().peekable();
    if wishes.peek().is_some() {
        let there = wishes.filter_map(|spread| {
            let domain = node.labels.get(&spread.constraint.topology_key)?;
            spread.counts.get(domain.as_str()).copied()
        });
        return i64::try_from(there.sum::<usize>()).unwrap_or(i64::MAX);
    }
    let siblings = node.pods.values().filter(|pod| pod.owner.is_some() && pod.owner == demand.info.owner);
    i64::try_from(siblings.count()).unwrap_or(i64::MAX)
}
