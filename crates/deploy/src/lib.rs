//! Applications and stacks in a tenant's eVDCs. This is where the marketplace and the plans meet the cloud: charts become releases over `kube`, a plan's
//! changes become leases, an eVDC, releases and objects.
//!
//! | part | what it does |
//! |---|---|
//! | [`Objects`] | objects of any kind on one Kubernetes API: the `Cluster` of the chart engine |
//! | [`Deploy`] | releases: install, upgrade, roll back, remove, look; the built-in image; eVDCs given back with their volumes |
//! | [`Deploy::plan`], [`Deploy::apply`], [`Deploy::drift`] | stacks: the `Cloud` of the plan engine, one change at a time |
//!
//! # Invariants
//! - Everything can be broken off anywhere and begun again: releases by their records, stacks by their inventory, leases and eVDCs by the tenant's store.
//! - What a stack did not make is not touched, and a plan that would take single nodes from an eVDC that stands is refused before anything is done.
//! - Any conformant Kubernetes will do: nothing here asks for what only our API server offers.
//!
//! Not here: how a chart renders, how a plan is made, how nodes are rented; and the `lookup` of templates, which finds nothing.

mod apps;
mod cluster;
mod error;
mod evdcs;
mod images;
mod inventories;
mod objects;
mod pods;
mod rollout;
mod stack_cloud;
mod stacks;
mod tell;

pub use apps::{AppState, Install, ObjectState, Removed, values};
pub use error::{DeployError, Kind};
pub use images::SAMPLE;
pub use objects::Objects;
pub use pods::PodState;
pub use stacks::{Applied, StackName, Wanted, digest};
pub use tell::{Note, Tell};

use std::sync::Arc;

use atoll_cloud::Tenant;
use atoll_ids::NodeId;
use atoll_images::Store;
use atoll_kv::KeyValue;
use atoll_link::LinkHandle;

/// The gateways among the peers, with their domains.
pub type Gateways = dyn Fn() -> Vec<(NodeId, String)> + Send + Sync;

/// Applications and stacks of one tenant. Cheap to clone.
#[derive(Clone)]
pub struct Deploy {
    tenant: Tenant,
    link: LinkHandle,
    kv: Arc<dyn KeyValue>,
    images: Store,
    gateways: Arc<Gateways>,
    /// One change of stacks at a time.
    changing: Arc<tokio::sync::Mutex<()>>,
}

impl Deploy {
    /// Of `tenant`, whose members fetch images from `images`.
    pub fn new(
        tenant: Tenant,
        link: LinkHandle,
        kv: Arc<dyn KeyValue>,
        images: Store,
        gateways: Arc<Gateways>,
    ) -> Self {
        Self { tenant, link, kv, images, gateways, changing: Arc::default() }
    }
}
