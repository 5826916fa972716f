//! What pods may hear and say (pure): per pod the rules it is held to, and the groups of addresses that those rules name. Whoever compiles them from
//! NetworkPolicies knows Kubernetes; here are only addresses, ports and pods' keys.
//!
//! Rules allow, nothing else. A pod that is not among [`Policies::pods`] is closed in both directions: it was attached before anybody said what it may.
//! Whatever is above a limit is left out, so that less is allowed and never more, and named in a [`PolicyRefusal`].

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::Ipv6Addr;

use serde::{Deserialize, Serialize};

use crate::config::{Config, PodKey};
use crate::services::Protocol;

/// Members of all groups of one node together. A thousand pods in a hundred groups; one transaction with as many takes about a second.
pub const GROUP_MEMBERS_MAX: usize = 100_000;

/// Rules of all pods of one node together, each counted with its blocks and ports. Pods with the same rules share them. This many take some seconds to
/// program, of the thirty that a tool is given.
pub const RULE_PARTS_MAX: usize = 20_000;

/// Hexadecimal digits of a group's name: 128 bits of a hash.
const GROUP_DIGITS: usize = 32;

/// Names addresses that come and go together, such as the pods that a selector selects.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Group(String);

impl Group {
    /// The group of this description: the same text is the same group.
    #[must_use]
    pub fn of(description: &str) -> Self {
        Self(hash("group", description.as_bytes()))
    }

    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for Group {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let hexadecimal = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
        let good = text.len() == GROUP_DIGITS && text.bytes().all(hexadecimal);
        if good { Ok(Self(text)) } else { Err(format!("{text:?} names no group")) }
    }
}

impl From<Group> for String {
    fn from(group: Group) -> Self {
        group.0
    }
}

fn hash(what: &str, bytes: &[u8]) -> String {
    let hash = blake3::derive_key(&format!("atoll podnet v1 {what}"), bytes);
    hash[..GROUP_DIGITS / 2].iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Who is at the other end.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Peers {
    /// Anyone.
    All,
    /// These and no others.
    Of {
        /// Addresses that come and go.
        group: Option<Group>,
        /// Spans of addresses, first and last: sorted and apart from each other.
        blocks: Vec<(Ipv6Addr, Ipv6Addr)>,
    },
}

/// What is spoken.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Ports {
    /// Any protocol, any port.
    All,
    /// These and no others.
    Of {
        /// Spans of TCP ports, first and last: sorted and apart from each other.
        tcp: Vec<(u16, u16)>,
        /// The same of UDP.
        udp: Vec<(u16, u16)>,
        /// Ports that are others at each destination: see [`Policies::named_ports`].
        named: BTreeSet<(Protocol, Group)>,
    },
}

/// One rule: lets pass what is of these peers and on these ports.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub struct Allow {
    /// Who is at the other end: the sender of what a pod hears, the receiver of what it says.
    pub peers: Peers,
    /// The ports, always the receiver's.
    pub ports: Ports,
}

impl Allow {
    fn parts(&self) -> usize {
        let blocks = match &self.peers {
            Peers::All => 0,
            Peers::Of { blocks, .. } => blocks.len(),
        };
        let ports = match &self.ports {
            Ports::All => 0,
            Ports::Of { tcp, udp, named } => tcp.len() + udp.len() + named.len(),
        };
        1 + blocks + ports
    }

    fn groups(&self) -> impl Iterator<Item = &Group> {
        match &self.peers {
            Peers::Of { group, .. } => group.iter(),
            Peers::All => None.iter(),
        }
    }

    fn named(&self) -> impl Iterator<Item = &Group> {
        let named = match &self.ports {
            Ports::Of { named, .. } => Some(named),
            Ports::All => None,
        };
        named.into_iter().flatten().map(|(_, group)| group)
    }
}

/// What one pod is held to. `None`: anything; no rules: nothing. Answers pass in any case.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct PodPolicy {
    /// Who may connect to it.
    pub ingress: Option<Vec<Allow>>,
    /// To whom it may connect.
    pub egress: Option<Vec<Allow>>,
}

/// What is known of the pods of this node, and the groups that their rules name.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Policies {
    /// By pod. One that is not here is closed.
    pub pods: BTreeMap<PodKey, PodPolicy>,
    /// Addresses.
    pub groups: BTreeMap<Group, BTreeSet<Ipv6Addr>>,
    /// Which port each destination means by a name.
    pub named_ports: BTreeMap<Group, BTreeSet<(Ipv6Addr, u16)>>,
}

/// Something that is not enforced as given; what it would have allowed is closed.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum PolicyRefusal {
    /// More than [`GROUP_MEMBERS_MAX`].
    #[error(
        "the groups of this node's policies have {0} members; beyond the first {GROUP_MEMBERS_MAX} nobody is let in"
    )]
    TooManyMembers(usize),
    /// More than [`RULE_PARTS_MAX`].
    #[error(
        "the rules of this node's policies have more than {RULE_PARTS_MAX} parts; pod {0} and those after it allow nothing"
    )]
    TooManyRules(PodKey),
}

/// What [`crate::PodNet::set_policies`] did.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct PolicyUpdate {
    /// Commands that the kernel was given; 0 when all was in force.
    pub changed: usize,
    /// What was left out.
    pub refused: Vec<PolicyRefusal>,
}

/// What of the wanted policies can be: within the limits, groups that are named, addresses of the eVDC.
pub(crate) fn admit(config: &Config, wanted: &Policies) -> (Policies, Vec<PolicyRefusal>) {
    let mut refused = Vec::new();
    let pods = admit_pods(&wanted.pods, &mut refused);
    let rules = || pods.values().flat_map(|pod| pod.ingress.iter().chain(&pod.egress)).flatten();
    let groups: BTreeSet<&Group> = rules().flat_map(Allow::groups).collect();
    let named: BTreeSet<&Group> = rules().flat_map(Allow::named).collect();
    let (mut room, mut wanted_members) = (GROUP_MEMBERS_MAX, 0);
    let mut fits = |address: &Ipv6Addr| {
        wanted_members += 1;
        let good = room > 0 && config.evdc.contains(*address);
        room -= usize::from(good);
        good
    };
    let members = |group: &&Group| {
        let all = wanted.groups.get(group).into_iter().flatten();
        ((*group).clone(), all.filter(|address| fits(address)).copied().collect())
    };
    let groups = groups.iter().map(members).collect();
    let members = |group: &&Group| {
        let all = wanted.named_ports.get(group).into_iter().flatten();
        ((*group).clone(), all.filter(|(address, _)| fits(address)).copied().collect())
    };
    let named_ports = named.iter().map(members).collect();
    if room == 0 && wanted_members > GROUP_MEMBERS_MAX {
        refused.push(PolicyRefusal::TooManyMembers(wanted_members));
    }
    (Policies { pods, groups, named_ports }, refused)
}

fn admit_pods(wanted: &BTreeMap<PodKey, PodPolicy>, refused: &mut Vec<PolicyRefusal>) -> BTreeMap<PodKey, PodPolicy> {
    let (mut room, mut counted) = (RULE_PARTS_MAX, BTreeSet::new());
    let mut over = None;
    let mut fit = |direction: &'static str, pod: &PodKey, rules: &Option<Vec<Allow>>| -> Option<Vec<Allow>> {
        let rules = rules.as_ref()?;
        let parts: usize = rules.iter().map(Allow::parts).sum();
        if counted.insert(chain_of(direction, rules)) {
            if parts > room {
                over.get_or_insert_with(|| pod.clone());
                room = 0;
                return Some(Vec::new());
            }
            room -= parts;
        }
        Some(rules.clone())
    };
    let admitted = wanted
        .iter()
        .map(|(pod, policy)| {
            let (ingress, egress) = (fit("i", pod, &policy.ingress), fit("e", pod, &policy.egress));
            (pod.clone(), PodPolicy { ingress, egress })
        })
        .collect();
    refused.extend(over.map(PolicyRefusal::TooManyRules));
    admitted
}

/// What is done with a pod's packets of one direction.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Verdict {
    /// No policy speaks of it.
    Open,
    /// Nothing is known of it.
    Closed,
    /// This chain decides.
    Chain(String),
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Open => "open",
            Self::Closed => "closed",
            Self::Chain(name) => name,
        })
    }
}

/// The same for both directions.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Verdicts {
    pub(crate) ingress: Verdict,
    pub(crate) egress: Verdict,
}

/// The name of a chain is made of what is in it: pods with the same rules share one, and one that is there is right.
fn chain_of(direction: &str, rules: &[Allow]) -> String {
    let bytes = serde_json::to_vec(rules).unwrap_or_else(|_| unreachable!("rules are addresses, numbers and text"));
    format!("{direction}-{}", hash("chain", &bytes))
}

impl Policies {
    pub(crate) fn verdicts(&self, pod: &PodKey) -> Verdicts {
        let verdict = |direction: &str, rules: &Option<Vec<Allow>>| match rules {
            None => Verdict::Open,
            Some(rules) => Verdict::Chain(chain_of(direction, rules)),
        };
        match self.pods.get(pod) {
            None => Verdicts { ingress: Verdict::Closed, egress: Verdict::Closed },
            Some(pod) => Verdicts { ingress: verdict("i", &pod.ingress), egress: verdict("e", &pod.egress) },
        }
    }

    /// All chains by name: whether its peers are senders, and its rules.
    pub(crate) fn chains(&self) -> BTreeMap<String, (bool, &[Allow])> {
        let mut chains = BTreeMap::new();
        for pod in self.pods.values() {
            for (direction, rules) in [("i", &pod.ingress), ("e", &pod.egress)] {
                if let Some(rules) = rules {
                    chains.insert(chain_of(direction, rules), (direction == "i", rules.as_slice()));
                }
            }
        }
        chains
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;

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

    fn only(group: &Group) -> PodPolicy {
        let peers = Peers::Of { group: Some(group.clone()), blocks: Vec::new() };
        PodPolicy { ingress: Some(vec![Allow { peers, ports: Ports::All }]), egress: None }
    }

    #[test]
    fn a_pod_of_which_nothing_is_known_is_closed() {
        let known: PodKey = "known".parse().unwrap();
        let policies =
            Policies { pods: BTreeMap::from([(known.clone(), PodPolicy::default())]), ..Policies::default() };
        let check = |pod: &str, expected: Verdict| {
            let found = policies.verdicts(&pod.parse().unwrap());
            assert_eq!(found, Verdicts { ingress: expected.clone(), egress: expected }, "{pod}");
        };
        check("known", Verdict::Open);
        check("other", Verdict::Closed);
    }

    #[test]
    fn above_a_limit_less_is_allowed() {
        let group = Group::of("many");
        let pods = BTreeMap::from([("p".parse().unwrap(), only(&group))]);
        let member = |n: usize| config().evdc.host(0x10_0000 + n as u64);
        let stranger = "fd77::1".parse().unwrap();
        let unused = (Group::of("unused"), BTreeSet::from([member(1)]));
        let check = |count: usize, refusals: usize| {
            let members = (0..count).map(member).chain([stranger]).collect();
            let groups = BTreeMap::from([(group.clone(), members), unused.clone()]);
            let (found, refused) = admit(&config(), &Policies { pods: pods.clone(), groups, ..Policies::default() });
            assert_eq!((found.groups.len(), refused.len()), (1, refusals));
            assert_eq!(found.groups[&group].len(), count.min(GROUP_MEMBERS_MAX));
            assert!(!found.groups[&group].contains(&stranger), "who is not of the eVDC is in no group");
        };
        check(3, 0);
        check(GROUP_MEMBERS_MAX + 1, 1);
    }

    #[test]
    fn rules_above_the_limit_leave_a_pod_isolated() {
        let rules = |n: u16| {
            let ports = Ports::Of { tcp: vec![(n, n)], udp: Vec::new(), named: BTreeSet::new() };
            let rule = Allow { peers: Peers::All, ports };
            PodPolicy { ingress: Some(vec![rule; 8_000]), egress: None }
        };
        let pods = (1..=3_u16).map(|n| (format!("p{n}").parse().unwrap(), rules(n))).collect();
        let (found, refused) = admit(&config(), &Policies { pods, ..Policies::default() });
        let lengths: Vec<usize> = found.pods.values().map(|pod| pod.ingress.as_ref().unwrap().len()).collect();
        assert_eq!(lengths, [8_000, 0, 0]);
        assert_eq!(refused, [PolicyRefusal::TooManyRules("p2".parse().unwrap())]);
        let same = (1..=3_u16).map(|n| (format!("p{n}").parse().unwrap(), rules(1))).collect();
        assert!(
            admit(&config(), &Policies { pods: same, ..Policies::default() }).1.is_empty(),
            "shared is counted once"
        );
    }

    #[test]
    fn records_keep_what_was_meant() {
        let group = Group::of("g");
        let mut policy = only(&group);
        policy.egress = Some(vec![Allow {
            peers: Peers::All,
            ports: Ports::Of {
                tcp: vec![(80, 90)],
                udp: Vec::new(),
                named: BTreeSet::from([(Protocol::Udp, group.clone())]),
            },
        }]);
        let policies = Policies {
            pods: BTreeMap::from([("p".parse().unwrap(), policy)]),
            groups: BTreeMap::from([(group.clone(), BTreeSet::from(["fd00:1:2::5".parse().unwrap()]))]),
            named_ports: BTreeMap::from([(group, BTreeSet::from([("fd00:1:2::5".parse().unwrap(), 53)]))]),
        };
        let text = serde_json::to_string(&policies).unwrap();
        assert_eq!(serde_json::from_str::<Policies>(&text).unwrap(), policies);
        assert!(serde_json::from_str::<Group>("\"../x\"").is_err());
    }
}
