//! What all controllers share: the client, what is known of the cluster, whom a change concerns.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use atoll_scheduler::Cluster;
use k8s_openapi::api::{
    apps::v1::{Deployment, ReplicaSet, StatefulSet},
    coordination::v1::Lease,
    core::v1::{Namespace, Node, PersistentVolume, PersistentVolumeClaim, Pod, Service, ServiceAccount},
    discovery::v1::EndpointSlice,
    storage::v1::StorageClass,
};
use kube::{
    Api, Client, Resource,
    api::{DeleteParams, Patch, PatchParams, PostParams},
};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;

use crate::{
    Config, Provisioner,
    cache::Cache,
    events::Events,
    objects::{Key, MANAGER, has_ended, is_leaving, name, namespace, node_of, owner_key, uid},
    queue::Queue,
};

/// Why a look at an object failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    #[error("{0}")]
    Api(Box<kube::Error>),
    #[error(transparent)]
    Provision(#[from] crate::ProvisionError),
}

impl From<kube::Error> for Failure {
    fn from(error: kube::Error) -> Self {
        Self::Api(Box::new(error))
    }
}

impl Failure {
    /// Whether another write was faster, or the object is gone: what to do is asked anew, and nobody need hear of it.
    pub(crate) fn is_race(&self) -> bool {
        matches!(self, Self::Api(error) if matches!(&**error, kube::Error::Api(status) if matches!(status.code, 404 | 409)))
    }
}

/// One queue per controller.
#[derive(Default)]
pub(crate) struct Queues {
    pub(crate) deployments: Queue,
    pub(crate) replica_sets: Queue,
    pub(crate) stateful_sets: Queue,
    pub(crate) endpoints: Queue,
    pub(crate) claims: Queue,
    pub(crate) volumes: Queue,
    pub(crate) nodes: Queue,
    pub(crate) namespaces: Queue,
    pub(crate) accounts: Queue,
    pub(crate) scheduling: Queue,
}

/// What is known of the cluster and how to change it.
pub(crate) struct World {
    pub(crate) client: Client,
    pub(crate) config: Config,
    pub(crate) provisioner: Arc<dyn Provisioner>,
    pub(crate) queues: Queues,
    pub(crate) events: Events,
    pub(crate) pods: Cache<Pod>,
    pub(crate) nodes: Cache<Node>,
    pub(crate) deployments: Cache<Deployment>,
    pub(crate) replica_sets: Cache<ReplicaSet>,
    pub(crate) stateful_sets: Cache<StatefulSet>,
    pub(crate) services: Cache<Service>,
    pub(crate) slices: Cache<EndpointSlice>,
    pub(crate) claims: Cache<PersistentVolumeClaim>,
    pub(crate) volumes: Cache<PersistentVolume>,
    pub(crate) classes: Cache<StorageClass>,
    pub(crate) namespaces: Cache<Namespace>,
    pub(crate) accounts: Cache<ServiceAccount>,
    pub(crate) leases: Cache<Lease>,
    pub(crate) renewals: Mutex<crate::nodes::Renewals>,
    /// Pods that found no node.
    pub(crate) waiting: Mutex<BTreeSet<Key>>,
    cluster: Mutex<Cluster>,
}

/// A kind that is watched.
pub(crate) trait Kind:
    Resource<DynamicType = ()> + Clone + std::fmt::Debug + DeserializeOwned + Serialize + Send + Sync + 'static
{
    fn cache(world: &World) -> &Cache<Self>;
    /// Says whom a change of the object, or its end, concerns.
    fn route(world: &World, object: &Self, is_gone: bool);
}

impl World {
    pub(crate) fn new(client: Client, config: Config, provisioner: Arc<dyn Provisioner>) -> Self {
        Self {
            events: Events::new(client.clone()),
            client,
            config,
            provisioner,
            queues: Queues::default(),
            pods: Cache::default(),
            nodes: Cache::default(),
            deployments: Cache::default(),
            replica_sets: Cache::default(),
            stateful_sets: Cache::default(),
            services: Cache::default(),
            slices: Cache::default(),
            claims: Cache::default(),
            volumes: Cache::default(),
            classes: Cache::default(),
            namespaces: Cache::default(),
            accounts: Cache::default(),
            leases: Cache::default(),
            renewals: Mutex::default(),
            waiting: Mutex::default(),
            cluster: Mutex::default(),
        }
    }

    /// The scheduler's view.
    pub(crate) fn cluster(&self) -> MutexGuard<'_, Cluster> {
        self.cluster.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes news of an object and says whom it concerns.
    pub(crate) fn learn<K: Kind>(&self, object: K) {
        let object = Arc::new(object);
        if K::cache(self).put(&object) {
            K::route(self, &object, false);
        }
    }

    pub(crate) fn forget<K: Kind>(&self, object: &K) {
        K::cache(self).remove(object);
        K::route(self, object, true);
    }

    pub(crate) async fn create<K>(&self, object: &K) -> Result<(), Failure>
    where
        K: Kind + Resource<Scope = k8s_openapi::NamespaceResourceScope>,
    {
        let api = Api::<K>::namespaced(self.client.clone(), namespace(object.meta()));
        let params = PostParams { field_manager: Some(MANAGER.to_owned()), ..PostParams::default() };
        self.learn(api.create(&params, object).await?);
        Ok(())
    }

    pub(crate) async fn patch<K>(&self, key: &Key, patch: Value) -> Result<(), Failure>
    where
        K: Kind + Resource<Scope = k8s_openapi::NamespaceResourceScope>,
    {
        let api = Api::<K>::namespaced(self.client.clone(), &key.namespace);
        self.learn(api.patch(&key.name, &writer(), &Patch::Merge(patch)).await?);
        Ok(())
    }

    pub(crate) async fn patch_status<K>(&self, key: &Key, status: Value) -> Result<(), Failure>
    where
        K: Kind + Resource<Scope = k8s_openapi::NamespaceResourceScope>,
    {
        let api = Api::<K>::namespaced(self.client.clone(), &key.namespace);
        let patch = Patch::Merge(serde_json::json!({ "status": status }));
        self.learn(api.patch_status(&key.name, &writer(), &patch).await?);
        Ok(())
    }

    /// Deletes exactly this object, not one that took its name. That it is gone already is no failure.
    pub(crate) async fn delete<K>(&self, object: &K, params: DeleteParams) -> Result<(), Failure>
    where
        K: Kind + Resource<Scope = k8s_openapi::NamespaceResourceScope>,
    {
        let api = Api::<K>::namespaced(self.client.clone(), namespace(object.meta()));
        let preconditions = kube::api::Preconditions { uid: object.meta().uid.clone(), resource_version: None };
        let params = params.preconditions(preconditions);
        match api.delete(name(object.meta()), &params).await {
            // What waits for something is still there; what does not is answered with a status.
            Ok(answer) => match answer.left().filter(|left| is_leaving(left.meta())) {
                Some(left) => self.learn(left),
                None => self.forget(object),
            },
            Err(kube::Error::Api(status)) if status.code == 404 => self.forget(object),
            Err(error) => return Err(error.into()),
        }
        Ok(())
    }
}

pub(crate) fn writer() -> PatchParams {
    PatchParams { field_manager: Some(MANAGER.to_owned()), ..PatchParams::default() }
}

impl Kind for Pod {
    fn cache(world: &World) -> &Cache<Self> {
        &world.pods
    }

    fn route(world: &World, pod: &Self, is_gone: bool) {
        let queues = &world.queues;
        let meta = &pod.metadata;
        if let Some(owner) = owner_key(meta, "ReplicaSet") {
            // A Deployment that recreates waits for the last pod of the old sets.
            let set = world.replica_sets.get(&owner).filter(|_| is_gone);
            if let Some(deployment) = set.and_then(|set| owner_key(&set.metadata, "Deployment")) {
                queues.deployments.push(deployment);
            }
            queues.replica_sets.push(owner);
        }
        owner_key(meta, "StatefulSet").into_iter().for_each(|owner| queues.stateful_sets.push(owner));
        for service in world.services.in_namespace(namespace(meta)) {
            if crate::endpoints::selects(&service, pod) {
                queues.endpoints.push(Key::of(&service.metadata));
            }
        }
        let mut cluster = world.cluster();
        if is_gone {
            cluster.remove_pod(uid(meta));
        } else {
            cluster.set_pod(pod);
        }
        drop(cluster);
        match node_of(pod) {
            None if !is_gone => queues.scheduling.push(Key::of(meta)),
            None => {}
            Some(node) if is_leaving(meta) || is_gone || has_ended(pod) => {
                queues.nodes.push(Key::new("", node));
                crate::scheduling::retry_all(world);
            }
            Some(_) => {}
        }
    }
}

impl Kind for Node {
    fn cache(world: &World) -> &Cache<Self> {
        &world.nodes
    }

    fn route(world: &World, node: &Self, is_gone: bool) {
        let mut cluster = world.cluster();
        if is_gone {
            cluster.remove_node(name(&node.metadata));
        } else {
            cluster.set_node(node);
        }
        drop(cluster);
        world.queues.nodes.push(Key::of(&node.metadata));
        crate::scheduling::retry_all(world);
    }
}

impl Kind for Deployment {
    fn cache(world: &World) -> &Cache<Self> {
        &world.deployments
    }

    fn route(world: &World, deployment: &Self, _: bool) {
        world.queues.deployments.push(Key::of(&deployment.metadata));
    }
}

impl Kind for ReplicaSet {
    fn cache(world: &World) -> &Cache<Self> {
        &world.replica_sets
    }

    fn route(world: &World, set: &Self, _: bool) {
        world.queues.replica_sets.push(Key::of(&set.metadata));
        owner_key(&set.metadata, "Deployment").into_iter().for_each(|owner| world.queues.deployments.push(owner));
    }
}

impl Kind for StatefulSet {
    fn cache(world: &World) -> &Cache<Self> {
        &world.stateful_sets
    }

    fn route(world: &World, set: &Self, _: bool) {
        world.queues.stateful_sets.push(Key::of(&set.metadata));
    }
}

impl Kind for Service {
    fn cache(world: &World) -> &Cache<Self> {
        &world.services
    }

    fn route(world: &World, service: &Self, _: bool) {
        world.queues.endpoints.push(Key::of(&service.metadata));
    }
}

impl Kind for EndpointSlice {
    fn cache(world: &World) -> &Cache<Self> {
        &world.slices
    }

    fn route(world: &World, slice: &Self, _: bool) {
        let service = slice.metadata.labels.as_ref().and_then(|labels| labels.get("kubernetes.io/service-name"));
        service.into_iter().for_each(|name| world.queues.endpoints.push(Key::new(namespace(&slice.metadata), name)));
    }
}

impl Kind for PersistentVolumeClaim {
    fn cache(world: &World) -> &Cache<Self> {
        &world.claims
    }

    fn route(world: &World, claim: &Self, is_gone: bool) {
        world.queues.claims.push(Key::of(&claim.metadata));
        let volume = claim.spec.as_ref().and_then(|spec| spec.volume_name.as_deref());
        volume.filter(|_| is_gone).into_iter().for_each(|name| world.queues.volumes.push(Key::new("", name)));
        crate::scheduling::retry_all(world);
    }
}

impl Kind for PersistentVolume {
    fn cache(world: &World) -> &Cache<Self> {
        &world.volumes
    }

    fn route(world: &World, volume: &Self, _: bool) {
        world.queues.volumes.push(Key::of(&volume.metadata));
        if let Some(claim) = volume.spec.as_ref().and_then(|spec| spec.claim_ref.as_ref()) {
            let part = |part: &Option<String>| part.clone().unwrap_or_default();
            world.queues.claims.push(Key { namespace: part(&claim.namespace), name: part(&claim.name) });
        }
    }
}

impl Kind for StorageClass {
    fn cache(world: &World) -> &Cache<Self> {
        &world.classes
    }

    fn route(world: &World, _: &Self, _: bool) {
        world.claims.keys().into_iter().for_each(|claim| world.queues.claims.push(claim));
    }
}

impl Kind for Namespace {
    fn cache(world: &World) -> &Cache<Self> {
        &world.namespaces
    }

    fn route(world: &World, namespace: &Self, _: bool) {
        let key = Key::of(&namespace.metadata);
        world.cluster().set_namespace(&key.name, namespace.metadata.labels.clone().unwrap_or_default());
        world.queues.namespaces.push(key.clone());
        world.queues.accounts.push(key);
    }
}

impl Kind for ServiceAccount {
    fn cache(world: &World) -> &Cache<Self> {
        &world.accounts
    }

    fn route(world: &World, account: &Self, is_gone: bool) {
        if is_gone {
            world.queues.accounts.push(Key::new("", namespace(&account.metadata)));
        }
    }
}

impl Kind for Lease {
    fn cache(world: &World) -> &Cache<Self> {
        &world.leases
    }

    fn route(world: &World, lease: &Self, _: bool) {
        if namespace(&lease.metadata) == crate::nodes::LEASE_NAMESPACE {
            let key = Key::new("", name(&lease.metadata));
            crate::nodes::renewed(world, lease);
            // The node itself is only looked at when its Lease was late; a look now would change nothing.
            if world.nodes.get(&key).is_some_and(|node| crate::nodes::is_gone(&node)) {
                world.queues.nodes.push(key);
            }
        }
    }
}
