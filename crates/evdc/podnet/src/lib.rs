//! Pod interfaces, routes between nodes, Service addresses and policies as nftables maps.
//!
//! One [`PodNet`] is the network of one eVDC on one node. "The host" is the network namespace in which this process lives,
//! whatever that is. Per pod there is a network namespace (held by a bind mount, so it outlives this process), a veth pair, one IPv6
//! address out of the node's /64, and a host route. The eVDC is a /48; what is not on this node leaves by the planetary interface.
//! This is not the planetary network (`net/tun` carries packets to other nodes), not DNS, and knows nothing of Kubernetes.
//!
//! # Invariants
//!
//! - **Closed by default.** A pod sends only from its own address; it reaches the pods of its eVDC, its Services, and those ports of the
//!   node that [`Config::node_services`] names, nothing else. Nobody but pods of the eVDC and the node itself reaches a pod.
//! - **An address belongs to one pod** as long as its namespace lives; it is computed from the pod's key, so that a lost record changes nothing.
//! - **No neighbour discovery**: both ends of a veth know each other's link address from the start, so there is nothing to wait for and nothing to forge.
//! - **Services are maps**: one look-up finds a Service port, one more the endpoint; both are replaced in one transaction. A Service leads
//!   only to addresses of the eVDC, never to the node's own services.
//! - **Policies are maps**: one look-up by interface finds the rules of a pod, one more in a set its peer. Pods with the same rules share a chain that
//!   is never changed, only replaced; a pod elsewhere that comes or goes is an element of a set. All of a change is one transaction.
//! - **Closed until known**: a pod is attached under the policy that [`PodNet::set_policies`] last gave for it, or closed in both directions; this also after a
//!   restart, whose first rules are those last in force. Its own node reaches a pod in any case, as Kubernetes has it.
//! - **Everything can be done twice** with the same result, also after a crash half-way; [`PodNet::tear_down`] leaves nothing but the kernel's
//!   forwarding switch, which others may have come to rely on.
//!
//! # How it fails
//!
//! [`PodNetError`] says what was tried and what the tool (`ip`, `nft`, `nsenter`, `unshare`) answered. Without root or without the tools
//! [`PodNet::open`] refuses with what to install.

mod address;
mod command;
mod config;
mod host;
mod net;
mod policies;
mod records;
mod rules;
mod services;

pub use address::{Prefix, PrefixError};
pub use command::{CommandError, Tool};
pub use config::{Config, ConfigError, EvdcTag, NodeService, PodKey};
pub use net::{Attachment, PodNet, PodNetError};
pub use policies::{
    Allow, GROUP_MEMBERS_MAX, Group, Peers, PodPolicy, Policies, PolicyRefusal, PolicyUpdate, Ports, RULE_PARTS_MAX,
};
pub use services::{
    Affinity, Backends, ENDPOINTS_MAX, Protocol, Refusal, SERVICE_PORTS_MAX, ServicePort, Services, Update,
};
