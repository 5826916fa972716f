//! Which node a pod goes to. Pure: it holds what it was told of nodes and pods ([`Cluster`]) and answers [`Cluster::place`]; watching and binding are
//! the controllers' part.
//!
//! Nodes are filtered by Kubernetes' rules, then the rest is scored by its default weights; the reasons against a node are worded as Kubernetes words them,
//! since people search for those words. Filters: cordon, readiness, node name, taints, node selector and affinity, host ports, resources (cpu, memory,
//! ephemeral storage, pods, extended ones), where volumes can be reached, topology spread, pod affinity and anti-affinity (both directions). Scores: free and
//! balanced resources, preferred node and pod affinity, taints, spread (also of the pods of one owner, so that replicas part without being told).
//!
//! Not here: preemption and priorities (the driver orders its queue), `preferred` terms of pods that run already, images on nodes, volumes' own
//! topology beyond the node affinity that a PersistentVolume states, dynamic resource claims.
//!
//! **Invariants.** A node that is answered meets every required rule for what the cluster was told. The answer is a function of that: the same
//! cluster and pod give the same node.
//!
//! **Failure.** [`Unschedulable`] counts the reasons over all nodes.

pub use crate::{
    cluster::{Cluster, Unschedulable},
    labels::{Labels, node_selected, selects, tolerates, untolerated},
    quantity::{Quantity, QuantityError},
    resources::Resources,
};

mod cluster;
mod filter;
mod labels;
mod quantity;
mod resources;
mod score;

#[cfg(test)]
mod tests;
