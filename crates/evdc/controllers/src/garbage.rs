//! Garbage collection: what nobody owns any more goes. It watches the metadata of every kind that the server has, custom ones too.
//!
//! It acts only when every kind has been listed, and asks the server itself before it deletes: a view that is late must not delete what is owned.

use std::{
    collections::{BTreeSet, HashMap},
    pin::pin,
    time::Duration,
};

use futures_util::StreamExt;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use kube::{
    Api, Client,
    api::{DeleteParams, DynamicObject, PartialObjectMeta, Patch, Preconditions},
    core::ApiResource,
    discovery::{Discovery, Scope, verbs},
    runtime::{WatchStreamExt, watcher, watcher::Event},
};
use serde_json::json;
use tokio::{sync::mpsc, task::JoinSet, time::interval};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use crate::{
    garbage::graph::{Graph, Item, Work},
    objects::uid,
    world::{Failure, writer},
};

mod graph;

/// How often the kinds that the server has are asked for, and what failed is tried again.
const REDISCOVER: Duration = Duration::from_secs(20);

/// News that wait to be taken; the watches wait when there are more.
const NEWS_MAX: usize = 1024;

type Metadata = PartialObjectMeta<DynamicObject>;

/// A kind that is watched.
struct Kind {
    resource: ApiResource,
    is_namespaced: bool,
    is_listed: bool,
    /// While it is listed anew: what was known and has not been seen again.
    unseen: BTreeSet<String>,
}

struct Collector {
    client: Client,
    graph: Graph,
    kinds: Vec<Kind>,
    dirty: BTreeSet<String>,
}

/// Works until the token.
pub(crate) async fn run(client: Client, shutdown: CancellationToken) {
    let mut collector = Collector { client, graph: Graph::default(), kinds: Vec::new(), dirty: BTreeSet::new() };
    let (sender, mut news) = mpsc::channel(NEWS_MAX);
    let mut watches = JoinSet::new();
    let mut rediscover = interval(REDISCOVER);
    loop {
        tokio::select! {
            () = shutdown.cancelled() => return,
            _ = rediscover.tick() => match collector.discover().await {
                Ok(new) => for kind in new {
                    let resource = collector.kinds[kind].resource.clone();
                    watches.spawn(watch(collector.client.clone(), kind, resource, sender.clone()));
                },
                Err(error) => warn!(%error, "cannot ask for the kinds that the server has"),
            },
            Some((kind, event)) = news.recv() => collector.take(kind, event),
        }
        if news.is_empty() && collector.kinds.iter().all(|kind| kind.is_listed) {
            collector.collect().await;
        }
    }
}

async fn watch(client: Client, kind: usize, resource: ApiResource, sender: mpsc::Sender<(usize, Event<ObjectMeta>)>) {
    let api = Api::<Metadata>::all_with(client, &resource);
    let mut events = pin!(watcher(api, watcher::Config::default()).default_backoff());
    while let Some(event) = events.next().await {
        let event = match event {
            Ok(Event::Apply(object)) => Event::Apply(object.metadata),
            Ok(Event::Delete(object)) => Event::Delete(object.metadata),
            Ok(Event::InitApply(object)) => Event::InitApply(object.metadata),
            Ok(Event::Init) => Event::Init,
            Ok(Event::InitDone) => Event::InitDone,
            Err(error) => {
                debug!(%error, kind = resource.kind, "the watch failed and is started again");
                continue;
            }
        };
        if sender.send((kind, event)).await.is_err() {
            return;
        }
    }
}

impl Collector {
    /// Finds kinds that are not watched yet and numbers them.
    async fn discover(&mut self) -> Result<Vec<usize>, kube::Error> {
        let discovery = Discovery::new(self.client.clone()).run().await?;
        let mut new = Vec::new();
        for (resource, capabilities) in discovery.groups().flat_map(kube::discovery::ApiGroup::recommended_resources) {
            let works =
                [verbs::LIST, verbs::WATCH, verbs::DELETE].iter().all(|verb| capabilities.supports_operation(verb));
            let is_known = self
                .kinds
                .iter()
                .any(|kind| kind.resource.group == resource.group && kind.resource.kind == resource.kind);
            // Events come and go in numbers, and own nothing.
            if works && !is_known && resource.kind != "Event" {
                new.push(self.kinds.len());
                let is_namespaced = capabilities.scope == Scope::Namespaced;
                self.kinds.push(Kind { resource, is_namespaced, is_listed: false, unseen: BTreeSet::new() });
            }
        }
        Ok(new)
    }

    fn take(&mut self, kind: usize, event: Event<ObjectMeta>) {
        match event {
            Event::Init => self.kinds[kind].unseen = self.graph.of_resource(kind),
            Event::Apply(meta) | Event::InitApply(meta) => {
                self.kinds[kind].unseen.remove(uid(&meta));
                let concerned = self.graph.apply(kind, &meta);
                self.dirty.extend(concerned);
            }
            Event::Delete(meta) => {
                let concerned = self.graph.remove(uid(&meta));
                self.dirty.extend(concerned);
            }
            Event::InitDone => {
                self.kinds[kind].is_listed = true;
                for id in std::mem::take(&mut self.kinds[kind].unseen) {
                    let concerned = self.graph.remove(&id);
                    self.dirty.extend(concerned);
                }
            }
        }
    }

    async fn collect(&mut self) {
        for id in std::mem::take(&mut self.dirty) {
            for work in self.graph.work(&id) {
                match self.act(&work).await {
                    Ok(()) => {}
                    Err(failure) if failure.is_race() => debug!(%failure, ?work, "asked anew"),
                    Err(failure) => {
                        warn!(%failure, ?work, "garbage collection failed and is tried again");
                        self.dirty.insert(id.clone());
                    }
                }
            }
        }
    }

    async fn act(&self, work: &Work) -> Result<(), Failure> {
        let id = match work {
            Work::CheckOwners(id) | Work::Delete(id) | Work::Release(id, _) | Work::Disown { dependent: id, .. } => id,
        };
        let Some(item) = self.graph.get(id) else { return Ok(()) };
        let Some(api) = self.api(item.resource, &item.key.namespace) else { return Ok(()) };
        let name = &item.key.name;
        match work {
            Work::CheckOwners(_) if self.has_owner(item).await? => Ok(()),
            Work::CheckOwners(_) | Work::Delete(_) => {
                let kind = &self.kinds[item.resource].resource.kind;
                info!(%kind, object = %item.key, "deleted, as its owners are gone or go");
                let preconditions = Preconditions { uid: Some(id.clone()), resource_version: None };
                // What has dependents of its own and is waited for has to wait for them too.
                let waits = matches!(work, Work::Delete(_));
                let params = if waits { DeleteParams::foreground() } else { DeleteParams::background() };
                api.delete(name, &params.preconditions(preconditions)).await?;
                Ok(())
            }
            Work::Release(_, finalizer) => {
                let left: Vec<&String> = item.finalizers.iter().filter(|other| other != finalizer).collect();
                let patch = json!({"metadata": {"uid": id, "finalizers": left}});
                api.patch(name, &writer(), &Patch::Merge(patch)).await?;
                Ok(())
            }
            Work::Disown { owner, .. } => {
                let left: Vec<&OwnerReference> = item.owners.iter().filter(|other| other.uid != *owner).collect();
                let patch = json!({"metadata": {"uid": id, "ownerReferences": left}});
                api.patch(name, &writer(), &Patch::Merge(patch)).await?;
                Ok(())
            }
        }
    }

    fn api(&self, kind: usize, namespace: &str) -> Option<Api<Metadata>> {
        let kind = self.kinds.get(kind)?;
        Some(match kind.is_namespaced {
            true => Api::namespaced_with(self.client.clone(), namespace, &kind.resource),
            false => Api::all_with(self.client.clone(), &kind.resource),
        })
    }

    /// Whether the server knows one of the owners. An owner of a kind that the server does not have counts as there: the kind may only be late.
    async fn has_owner(&self, item: &Item) -> Result<bool, Failure> {
        let numbers: HashMap<(&str, &str), usize> = self
            .kinds
            .iter()
            .enumerate()
            .map(|(at, kind)| ((kind.resource.group.as_str(), kind.resource.kind.as_str()), at))
            .collect();
        for owner in &item.owners {
            let group = owner.api_version.split_once('/').map_or("", |(group, _)| group);
            let number = numbers.get(&(group, owner.kind.as_str())).copied();
            let Some(api) = number.and_then(|number| self.api(number, &item.key.namespace)) else { return Ok(true) };
            if api.get_opt(&owner.name).await?.is_some_and(|found| found.metadata.uid.as_ref() == Some(&owner.uid)) {
                return Ok(true);
            }
        }
        Ok(false)
    }
}
