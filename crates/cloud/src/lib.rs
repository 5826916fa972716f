//! An eVDC put together from its parts.
//!
//! | who | does |
//! |---|---|
//! | the tenant's own node | chooses offers, signs leases and the [membership](atoll_lease::Membership), hands every member its [`Assignment`] |
//! | the member named as control | runs the API server with controllers and scheduler, hands out credentials |
//! | every member | runs the agent, mounts volumes, dials the gateway |
//!
//! # Invariants
//! - A node does nothing for an eVDC without an assignment that holds a lease both signed, which runs, and a membership of the same tenant that names the
//!   node ([`Assignment::check`]).
//! - An assignment is on disk before it is acknowledged; a restarted node goes on with it.
//! - Credentials for the Kubernetes API go only to members, over a connection that proves who they are; those of an administrator only to the
//!   tenant's own node.
//! - Logs of pods and commands in them are for the member named as control alone, which asks its own API's RBAC first.

mod assignment;
mod companions;
mod control;
mod dial;
mod homes;
mod images;
mod ingress;
mod kubelet;
mod protocol;
mod provider;
mod remains;
mod tenant;
mod volumes;
mod worker;

pub use assignment::{Assigned, Assignment, AssignmentError, Assignments, StoreError};
pub use control::{ControlError, ControlPlanes};
pub use dial::{API_SERVER_NAME, ApiAddress, DialError, KUBE_PROTOCOL, named};
pub use homes::TenantHomes;
pub use images::{FromHome, IMAGE_PROTOCOL, ImageServer};
pub use ingress::follow as follow_ingresses;
pub use kubelet::{KUBELET_PROTOCOL, Kubelets};
pub use protocol::{Admission, Answer, Credentials, PROTOCOL, Request, ask, decode_request, hear, kubeconfig};
pub use provider::{Issue, Provider, Whom};
pub use tenant::{Evdc, Pick, Tenant, TenantError, Wish};
pub use volumes::{HomesOf, KubeProvisioner, KubeVolumes, MountedVolumes, Mounts, homes_of};
pub use worker::{WorkerParts, Workers, remove_network};
