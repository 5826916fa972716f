//! What is known of nodes and of the pods on them, and the decision over it.

use std::collections::{BTreeMap, HashMap};

use k8s_openapi::api::core::v1::{Node, Pod, PodAffinityTerm, Taint, VolumeNodeAffinity};
use thiserror::Error;

use crate::{filter::Demand, labels::Labels, resources::Resources, score};

/// Nodes and the pods bound to them. Whoever binds a pod also says so here at once, so that the next decision counts it.
#[derive(Debug, Default)]
pub struct Cluster {
    pub(crate) nodes: BTreeMap<String, NodeState>,
    pub(crate) namespaces: BTreeMap<String, Labels>,
    /// Where each pod is, by its uid.
    places: HashMap<String, String>,
}

/// One node. It may have pods before the node itself is known.
#[derive(Debug, Default)]
pub(crate) struct NodeState {
    pub(crate) is_known: bool,
    pub(crate) is_ready: bool,
    pub(crate) is_cordoned: bool,
    pub(crate) labels: Labels,
    pub(crate) taints: Vec<Taint>,
    pub(crate) allocatable: Resources,
    pub(crate) used: Resources,
    pub(crate) pods: BTreeMap<String, PodInfo>,
}

/// What other pods' placement depends on.
#[derive(Debug, Clone, Default)]
pub(crate) struct PodInfo {
    pub(crate) namespace: String,
    pub(crate) labels: Labels,
    pub(crate) requests: Resources,
    pub(crate) host_ports: Vec<HostPort>,
    pub(crate) owner: Option<String>,
    pub(crate) keeps_away_from: Vec<PodAffinityTerm>,
    pub(crate) is_leaving: bool,
}

/// A port of the node that a pod takes for itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct HostPort {
    pub(crate) address: String,
    pub(crate) protocol: String,
    pub(crate) port: i32,
}

impl HostPort {
    pub(crate) fn meets(&self, other: &Self) -> bool {
        let any = |address: &str| matches!(address, "" | "0.0.0.0" | "::");
        self.port == other.port
            && self.protocol == other.protocol
            && (any(&self.address) || any(&other.address) || self.address == other.address)
    }
}

/// No node takes the pod: how many nodes there are, and how many give each reason. Its text is what Kubernetes writes into the event.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub struct Unschedulable {
    /// All nodes.
    pub nodes: usize,
    /// How many nodes give a reason; one node may give several.
    pub reasons: BTreeMap<String, usize>,
}

impl std::fmt::Display for Unschedulable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.nodes == 0 {
            return write!(f, "no nodes available to schedule pods");
        }
        let mut reasons: Vec<String> = self.reasons.iter().map(|(reason, count)| format!("{count} {reason}")).collect();
        reasons.sort();
        write!(f, "0/{} nodes are available: {}.", self.nodes, reasons.join(", "))
    }
}

impl Cluster {
    /// Learns a node or what changed of it.
    pub fn set_node(&mut self, node: &Node) {
        let Some(name) = node.metadata.name.clone() else { return };
        let spec = node.spec.as_ref();
        let status = node.status.as_ref();
        let conditions = status.and_then(|status| status.conditions.as_deref()).unwrap_or_default();
        let ready = conditions.iter().find(|condition| condition.type_ == "Ready");
        let state = self.nodes.entry(name).or_default();
        state.is_known = true;
        state.is_ready = ready.is_none_or(|condition| condition.status == "True");
        state.is_cordoned = spec.and_then(|spec| spec.unschedulable).unwrap_or(false);
        state.labels = node.metadata.labels.clone().unwrap_or_default();
        state.taints = spec.and_then(|spec| spec.taints.clone()).unwrap_or_default();
        let has = status.and_then(|status| status.allocatable.as_ref().or(status.capacity.as_ref()));
        state.allocatable = Resources::of(has);
    }

    /// Forgets a node; pods bound to it are remembered until they are forgotten themselves.
    pub fn remove_node(&mut self, name: &str) {
        if let Some(state) = self.nodes.get_mut(name) {
            *state =
                NodeState { pods: std::mem::take(&mut state.pods), used: state.used.clone(), ..NodeState::default() };
            self.nodes.retain(|_, state| state.is_known || !state.pods.is_empty());
        }
    }

    /// Learns the labels of a namespace, which terms of affinity may select by.
    pub fn set_namespace(&mut self, name: &str, labels: Labels) {
        self.namespaces.insert(name.to_owned(), labels);
    }

    /// Learns a pod that is bound, or what changed of it. One that is not bound, or has ended, takes nothing.
    pub fn set_pod(&mut self, pod: &Pod) {
        let Some(uid) = pod.metadata.uid.as_deref() else { return };
        self.remove_pod(uid);
        let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
        let node = pod.spec.as_ref().and_then(|spec| spec.node_name.clone()).filter(|node| !node.is_empty());
        let (Some(node), false) = (node, matches!(phase, Some("Succeeded" | "Failed"))) else { return };
        let info = PodInfo::of(pod);
        let state = self.nodes.entry(node.clone()).or_default();
        state.used.add(&info.requests);
        state.pods.insert(uid.to_owned(), info);
        self.places.insert(uid.to_owned(), node);
    }

    /// Forgets a pod.
    pub fn remove_pod(&mut self, uid: &str) {
        let Some(state) = self.places.remove(uid).and_then(|node| self.nodes.get_mut(&node)) else { return };
        if let Some(info) = state.pods.remove(uid) {
            state.used.subtract(&info.requests);
        }
    }

    /// The best node for a pod; `volumes` says from where its volumes can be reached.
    ///
    /// # Errors
    /// If no node meets what the pod requires, with the reasons.
    pub fn place(&self, pod: &Pod, volumes: &[VolumeNodeAffinity]) -> Result<String, Unschedulable> {
        let demand = Demand::new(self, pod, volumes);
        let mut reasons: BTreeMap<String, usize> = BTreeMap::new();
        let mut fitting = Vec::new();
        for (name, node) in self.known_nodes() {
            let against = demand.against(name, node);
            if against.is_empty() {
                fitting.push((name, node));
            }
            for reason in against {
                *reasons.entry(reason).or_default() += 1;
            }
        }
        score::best(self, &demand, &fitting).ok_or_else(|| Unschedulable { nodes: self.known_nodes().count(), reasons })
    }

    pub(crate) fn known_nodes(&self) -> impl Iterator<Item = (&str, &NodeState)> {
        self.nodes.iter().filter(|(_, node)| node.is_known).map(|(name, node)| (name.as_str(), node))
    }
}

impl PodInfo {
    pub(crate) fn of(pod: &Pod) -> Self {
        let meta = &pod.metadata;
        let Some(spec) = pod.spec.as_ref() else { return Self::default() };
        let ports = spec.containers.iter().flat_map(|container| container.ports.iter().flatten());
        let host_ports = ports.filter_map(|port| {
            Some(HostPort {
                address: port.host_ip.clone().unwrap_or_default(),
                protocol: port.protocol.clone().unwrap_or_else(|| "TCP".to_owned()),
                port: port.host_port.filter(|port| *port > 0)?,
            })
        });
        let anti_affinity = spec.affinity.as_ref().and_then(|affinity| affinity.pod_anti_affinity.as_ref());
        let owner = meta.owner_references.iter().flatten().find(|owner| owner.controller == Some(true));
        Self {
            namespace: meta.namespace.clone().unwrap_or_default(),
            labels: meta.labels.clone().unwrap_or_default(),
            requests: Resources::requested(spec),
            host_ports: host_ports.collect(),
            owner: owner.map(|owner| owner.uid.clone()),
            keeps_away_from: anti_affinity
                .and_then(|it| it.required_during_scheduling_ignored_during_execution.clone())
                .unwrap_or_default(),
            is_leaving: meta.deletion_timestamp.is_some(),
        }
    }
}
