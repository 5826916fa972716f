//! The loops: one per kind that is watched, one per controller. They end with the token.

use std::{future::Future, pin::pin, sync::Arc, time::Duration};

use futures_util::{StreamExt, future::BoxFuture};
use k8s_openapi::api::{
    apps::v1::{Deployment, ReplicaSet, StatefulSet},
    coordination::v1::Lease,
    core::v1::{Namespace, Node, PersistentVolume, PersistentVolumeClaim, Pod, Service, ServiceAccount},
    discovery::v1::EndpointSlice,
    storage::v1::StorageClass,
};
use kube::{
    Api, Client,
    runtime::{WatchStreamExt, watcher, watcher::Event},
};
use tokio::{sync::oneshot, task::JoinSet};
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use crate::{
    Config, Provisioner, accounts, deployment, endpoints, garbage, namespaces, nodes,
    objects::Key,
    queue::Queue,
    replicaset, scheduling, statefulset, volumes,
    world::{Failure, Kind, World},
};

/// When to look at an object again without a signal; `None` if only a signal can change anything.
pub(crate) type Again = Option<Duration>;

pub(crate) async fn run(
    client: Client,
    config: Config,
    provisioner: Arc<dyn Provisioner>,
    shutdown: CancellationToken,
) {
    let world = Arc::new(World::new(client, config, provisioner));
    let mut tasks = JoinSet::new();
    let mut listed = Vec::new();
    // Deciding on half a view would delete what is only not known yet, so all kinds are listed first.
    macro_rules! watch {
        ($($kind:ty),*) => {$(
            let (sender, receiver) = oneshot::channel();
            listed.push(receiver);
            tasks.spawn(cancelled(shutdown.clone(), watch::<$kind>(Arc::clone(&world), sender)));
        )*};
    }
    watch!(
        Pod,
        Node,
        Deployment,
        ReplicaSet,
        StatefulSet,
        Service,
        EndpointSlice,
        PersistentVolumeClaim,
        PersistentVolume,
        StorageClass,
        Namespace,
        ServiceAccount,
        Lease
    );
    let all_listed = async {
        for receiver in listed {
            // A watch ends only with the token.
            let _ = receiver.await;
        }
    };
    if shutdown.run_until_cancelled(all_listed).await.is_some() {
        start_controllers(&world, &mut tasks, &shutdown);
    }
    shutdown.cancelled().await;
    while let Some(ended) = tasks.join_next().await {
        if let Err(error) = ended {
            warn!(%error, "a controller ended by a panic");
        }
    }
}

fn start_controllers(world: &Arc<World>, tasks: &mut JoinSet<()>, shutdown: &CancellationToken) {
    macro_rules! control {
        ($($name:literal: $queue:ident by $look:path;)*) => {$({
            let look: Look = |world, key| Box::pin($look(world, key));
            let work = control($name, Arc::clone(world), |world| &world.queues.$queue, look);
            tasks.spawn(cancelled(shutdown.clone(), work));
        })*};
    }
    control! {
        "deployment": deployments by deployment::look;
        "replicaset": replica_sets by replicaset::look;
        "statefulset": stateful_sets by statefulset::look;
        "endpoints": endpoints by endpoints::look;
        "claims": claims by volumes::look_at_claim;
        "volumes": volumes by volumes::look_at_volume;
        "nodes": nodes by nodes::look;
        "namespaces": namespaces by namespaces::look;
        "accounts": accounts by accounts::look;
        "scheduler": scheduling by scheduling::look;
    }
    tasks.spawn(cancelled(shutdown.clone(), resync(Arc::clone(world))));
    tasks.spawn(garbage::run(world.client.clone(), shutdown.clone()));
}

async fn cancelled(shutdown: CancellationToken, work: impl Future<Output = ()>) {
    let _ = shutdown.run_until_cancelled(work).await;
}

/// Keeps the cache of one kind.
async fn watch<K: Kind>(world: Arc<World>, listed: oneshot::Sender<()>) {
    let mut listed = Some(listed);
    let mut list = Vec::new();
    let api = Api::<K>::all(world.client.clone());
    let mut events = pin!(watcher(api, watcher::Config::default()).default_backoff());
    while let Some(event) = events.next().await {
        match event {
            Ok(Event::Init) => list.clear(),
            Ok(Event::InitApply(object)) => list.push(Arc::new(object)),
            Ok(Event::InitDone) => {
                let gone = K::cache(&world).replace(&list);
                gone.iter().for_each(|object| K::route(&world, object, true));
                list.drain(..).for_each(|object| K::route(&world, &object, false));
                if let Some(listed) = listed.take() {
                    let _ = listed.send(());
                }
            }
            Ok(Event::Apply(object)) => world.learn(object),
            Ok(Event::Delete(object)) => world.forget(&object),
            Err(error) => warn!(%error, kind = %K::kind(&()), "the watch failed and is started again"),
        }
    }
}

/// One look at one object.
type Look = for<'a> fn(&'a World, &'a Key) -> BoxFuture<'a, Result<Again, Failure>>;

/// Looks at one object after the other.
async fn control(name: &'static str, world: Arc<World>, queue: fn(&World) -> &Queue, look: Look) {
    let queue = queue(&world);
    loop {
        let key = queue.next().await;
        match look(&world, &key).await {
            Ok(again) => {
                queue.succeeded(&key);
                again.into_iter().for_each(|wait| queue.push_after(key.clone(), wait));
            }
            Err(failure) => {
                if failure.is_race() {
                    debug!(controller = name, %key, %failure, "asked anew");
                } else {
                    warn!(controller = name, %key, %failure, "failed and is tried again");
                }
                queue.failed(key);
            }
        }
    }
}

async fn resync(world: Arc<World>) {
    loop {
        tokio::time::sleep(world.config.resync).await;
        let queues = &world.queues;
        let all = [
            (world.deployments.keys(), &queues.deployments),
            (world.replica_sets.keys(), &queues.replica_sets),
            (world.stateful_sets.keys(), &queues.stateful_sets),
            (world.services.keys(), &queues.endpoints),
            (world.claims.keys(), &queues.claims),
            (world.volumes.keys(), &queues.volumes),
            (world.nodes.keys(), &queues.nodes),
            (world.namespaces.keys(), &queues.namespaces),
            (world.namespaces.keys(), &queues.accounts),
        ];
        for (keys, queue) in all {
            keys.into_iter().for_each(|key| queue.push(key));
        }
        scheduling::retry_all(&world);
    }
}
