//! Keeps the pod network's Services as the API server has them, and lets workers read them. Changes that come together are programmed together.

use std::collections::BTreeMap;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{Stream, StreamExt};
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Api, ResourceExt};
use tokio::sync::watch as channel;

use crate::agent::Shared;
use crate::services::picture;

/// A rollout changes several slices within milliseconds; a client notices no difference to programming each.
const TOGETHER: Duration = Duration::from_millis(10);

/// After the network refused.
const TRY_AGAIN: Duration = Duration::from_secs(2);

type Objects<K> = BTreeMap<(String, String), K>;

/// One kind's objects as last seen.
struct Mirror<K> {
    objects: Objects<K>,
    fresh: Objects<K>,
    complete: bool,
}

impl<K: ResourceExt> Mirror<K> {
    fn new() -> Self {
        Self { objects: Objects::new(), fresh: Objects::new(), complete: false }
    }

    /// Whether the picture may be different now.
    fn take(&mut self, event: Event<K>) -> bool {
        let key = |object: &K| (object.namespace().unwrap_or_default(), object.name_any());
        match event {
            Event::Init => self.fresh.clear(),
            Event::InitApply(object) => {
                self.fresh.insert(key(&object), object);
            }
            Event::InitDone => {
                self.objects = std::mem::take(&mut self.fresh);
                self.complete = true;
                return true;
            }
            Event::Apply(object) => {
                self.objects.insert(key(&object), object);
                return true;
            }
            Event::Delete(object) => {
                self.objects.remove(&key(&object));
                return true;
            }
        }
        false
    }
}

pub(crate) async fn run(shared: Arc<Shared>, known: channel::Sender<Option<Arc<Vec<Service>>>>) {
    let mut services = pin!(stream::<Service>(&shared));
    let mut slices = pin!(stream::<EndpointSlice>(&shared));
    let (mut service_mirror, mut slice_mirror) = (Mirror::new(), Mirror::new());
    let mut due: Option<tokio::time::Instant> = None;
    let mut told = Vec::new();
    loop {
        let changed = tokio::select! {
            Some(event) = services.next() => taken(&mut service_mirror, event),
            Some(event) = slices.next() => taken(&mut slice_mirror, event),
            () = sleep_until(due) => {
                due = None;
                let _ = known.send(Some(Arc::new(service_mirror.objects.values().cloned().collect())));
                if !program(&shared, &service_mirror, &slice_mirror, &mut told).await {
                    due = Some(tokio::time::Instant::now() + TRY_AGAIN);
                }
                false
            }
        };
        if changed && service_mirror.complete && slice_mirror.complete && due.is_none() {
            due = Some(tokio::time::Instant::now() + TOGETHER);
        }
    }
}

fn stream<K>(shared: &Shared) -> impl Stream<Item = Result<Event<K>, watcher::Error>> + use<K>
where
    K: kube::Resource<DynamicType = ()> + Clone + std::fmt::Debug + for<'a> serde::Deserialize<'a> + Send + 'static,
{
    let api: Api<K> = Api::all(shared.client.clone());
    watcher(api, watcher::Config::default()).default_backoff()
}

fn taken<K: ResourceExt>(mirror: &mut Mirror<K>, event: Result<Event<K>, watcher::Error>) -> bool {
    event.map_or_else(
        |error| {
            tracing::debug!(%error, "watching Services; trying again");
            false
        },
        |event| mirror.take(event),
    )
}

async fn sleep_until(due: Option<tokio::time::Instant>) {
    match due {
        Some(due) => tokio::time::sleep_until(due).await,
        None => std::future::pending().await,
    }
}

async fn program(
    shared: &Shared,
    services: &Mirror<Service>,
    slices: &Mirror<EndpointSlice>,
    told: &mut Vec<String>,
) -> bool {
    let picture = picture(services.objects.values(), slices.objects.values(), shared.config.api);
    match shared.network.set_services(&picture.services).await {
        Ok(refused) => {
            let notes: Vec<String> = picture.left_out.into_iter().chain(refused).collect();
            for note in notes.iter().filter(|note| !told.contains(note)) {
                tracing::warn!(note, "part of a Service is not programmed");
            }
            *told = notes;
            true
        }
        Err(problem) => {
            tracing::warn!(%problem, "Services could not be programmed; trying again");
            false
        }
    }
}
