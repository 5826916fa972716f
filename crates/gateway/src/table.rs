//! Which replica answers a request: a pure table of hosts, paths and replicas.
//!
//! Paths match as an Ingress says: `Exact` before `Prefix`, longer prefixes before shorter ones, prefixes by whole elements. Among the replicas of a rule,
//! the one with the fewest requests under way is chosen, in turn among equals.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use serde::{Deserialize, Serialize};

/// How a path is compared (Kubernetes Ingress `pathType`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum PathKind {
    /// The whole path is this one.
    Exact,
    /// The path begins with these elements.
    Prefix,
}

/// What a node's replica answers.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Route {
    /// The host, lower case.
    pub host: String,
    /// The path, beginning with `/`.
    pub path: String,
    /// How the path is compared.
    pub kind: PathKind,
    /// The node's own number for the replica.
    pub replica: u32,
}

/// A replica: a session and the number that its node gave it.
pub(crate) type ReplicaKey = (u64, u32);

#[derive(Debug, PartialEq, Eq, PartialOrd, Ord, Clone)]
struct Rule {
    path: String,
    kind: PathKind,
}

#[derive(Debug, Default)]
struct Load {
    under_way: usize,
    /// When it was last chosen, in choices; the one not chosen for longest comes first among equals.
    turn: u64,
}

/// The table.
#[derive(Debug, Default)]
pub struct Table {
    hosts: HashMap<String, BTreeMap<Rule, BTreeSet<ReplicaKey>>>,
    loads: HashMap<ReplicaKey, Load>,
    turns: u64,
}

/// What became of a choice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Choice {
    /// This replica; its count went up, and [`Table::done`] brings it down.
    Replica(ReplicaKey),
    /// The host is unknown, or no rule of it matches the path.
    NoRule,
    /// There is a rule, but every replica was tried.
    NoReplica,
}

impl Table {
    /// Replaces what a session's replicas answer.
    pub(crate) fn set(&mut self, session: u64, routes: &[Route]) {
        self.hosts.values_mut().for_each(|rules| {
            rules.values_mut().for_each(|replicas| replicas.retain(|key| key.0 != session));
        });
        for route in routes {
            let rule = Rule { path: normal(&route.path), kind: route.kind };
            let rules = self.hosts.entry(route.host.clone()).or_default();
            rules.entry(rule).or_default().insert((session, route.replica));
        }
        self.hosts.retain(|_, rules| {
            rules.retain(|_, replicas| !replicas.is_empty());
            !rules.is_empty()
        });
        let named: BTreeSet<u32> = routes.iter().map(|route| route.replica).collect();
        self.loads.retain(|key, load| key.0 != session || named.contains(&key.1) || load.under_way > 0);
    }

    /// Chooses a replica for a request, not among those `tried`.
    pub(crate) fn choose(&mut self, host: &str, path: &str, tried: &[ReplicaKey]) -> Choice {
        let Some(rules) = self.hosts.get(host) else { return Choice::NoRule };
        let matching = rules.iter().filter(|(rule, _)| rule.matches(path));
        let Some((_, replicas)) = matching.max_by_key(|(rule, _)| (rule.kind == PathKind::Exact, rule.path.len()))
        else {
            return Choice::NoRule;
        };
        let load = |key: &ReplicaKey| self.loads.get(key).map_or((0, 0), |load| (load.under_way, load.turn));
        let Some(key) = replicas.iter().filter(|key| !tried.contains(key)).min_by_key(|key| load(key)).copied() else {
            return Choice::NoReplica;
        };
        self.turns += 1;
        let load = self.loads.entry(key).or_default();
        load.under_way += 1;
        load.turn = self.turns;
        Choice::Replica(key)
    }

    /// A request at this replica ended.
    pub(crate) fn done(&mut self, key: ReplicaKey) {
        if let Some(load) = self.loads.get_mut(&key) {
            load.under_way = load.under_way.saturating_sub(1);
        }
    }

    /// Hosts, their rules and how many replicas each has.
    pub(crate) fn rules(&self) -> Vec<(String, String, PathKind, usize)> {
        let mut all: Vec<_> = self
            .hosts
            .iter()
            .flat_map(|(host, rules)| {
                rules.iter().map(|(rule, replicas)| (host.clone(), rule.path.clone(), rule.kind, replicas.len()))
            })
            .collect();
        all.sort();
        all
    }

    /// Whether any replica answers for this host.
    pub(crate) fn knows(&self, host: &str) -> bool {
        self.hosts.contains_key(host)
    }
}

/// Prefixes are compared by elements, so a slash at the end means nothing.
fn normal(path: &str) -> String {
    match path.trim_end_matches('/') {
        "" => "/".to_owned(),
        trimmed => trimmed.to_owned(),
    }
}

impl Rule {
    fn matches(&self, path: &str) -> bool {
        match self.kind {
            PathKind::Exact => normal(path) == self.path,
            PathKind::Prefix if self.path == "/" => true,
            PathKind::Prefix => {
                path.strip_prefix(&self.path).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn route(host: &str, path: &str, kind: PathKind, replica: u32) -> Route {
        Route { host: host.into(), path: path.into(), kind, replica }
    }

    #[test]
    fn the_most_particular_rule_wins() {
        let mut table = Table::default();
        table.set(
            1,
            &[
                route("a", "/", PathKind::Prefix, 0),
                route("a", "/api/", PathKind::Prefix, 1),
                route("a", "/api/v1", PathKind::Prefix, 2),
                route("a", "/api/v1", PathKind::Exact, 3),
            ],
        );
        let mut check = |host: &str, path: &str, expected: Choice| {
            assert_eq!(table.choose(host, path, &[]), expected, "{host}{path}");
        };
        check("a", "/", Choice::Replica((1, 0)));
        check("a", "/apix", Choice::Replica((1, 0)));
        check("a", "/api", Choice::Replica((1, 1)));
        check("a", "/api/v1", Choice::Replica((1, 3)));
        check("a", "/api/v1/x", Choice::Replica((1, 2)));
        check("b", "/", Choice::NoRule);
    }

    #[test]
    fn load_is_spread_and_the_tried_are_left_out() {
        let mut table = Table::default();
        table.set(1, &[route("a", "/", PathKind::Prefix, 0)]);
        table.set(2, &[route("a", "/", PathKind::Prefix, 0)]);
        let first = table.choose("a", "/", &[]);
        let second = table.choose("a", "/", &[]);
        assert_ne!(first, second, "the idle one is next");
        let (Choice::Replica(first), Choice::Replica(second)) = (first, second) else { panic!("no replica") };
        table.done(first);
        assert_eq!(table.choose("a", "/", &[]), Choice::Replica(first), "the other is busy");
        assert_eq!(table.choose("a", "/", &[first]), Choice::Replica(second));
        assert_eq!(table.choose("a", "/", &[first, second]), Choice::NoReplica);
        table.set(1, &[]);
        assert_eq!(table.choose("a", "/", &[]), Choice::Replica((2, 0)), "an ended session answers nothing");
        table.set(2, &[]);
        assert!(!table.knows("a"));
    }

    #[test]
    fn equals_take_turns() {
        let mut table = Table::default();
        for session in 1..=3 {
            table.set(session, &[route("a", "/", PathKind::Prefix, 0)]);
        }
        let mut seen = Vec::new();
        for _ in 0..6 {
            let Choice::Replica(key) = table.choose("a", "/", &[]) else { panic!("no replica") };
            table.done(key);
            seen.push(key.0);
        }
        assert_eq!(seen[..3], seen[3..]);
        seen.truncate(3);
        seen.sort_unstable();
        assert_eq!(seen, [1, 2, 3]);
    }
}
