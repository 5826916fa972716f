//! Keeps the pod network's Services as the API server has them, and lets workers read them. Changes that come together are programmed together.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::Api;
use tokio::sync::watch as channel;

use crate::agent::Shared;
use crate::mirror::{Mirror, follow, sleep_until};
use crate::services::picture;

/// A rollout changes several slices within milliseconds; a client notices no difference to programming each.
const TOGETHER: Duration = Duration::from_millis(10);

/// After the network refused.
const TRY_AGAIN: Duration = Duration::from_secs(2);

pub(crate) async fn run(shared: Arc<Shared>, known: channel::Sender<Option<Arc<Vec<Service>>>>) {
    let mut services = pin!(follow::<Service>(Api::all(shared.client.clone())));
    let mut slices = pin!(follow::<EndpointSlice>(Api::all(shared.client.clone())));
    let (mut service_mirror, mut slice_mirror) = (Mirror::new(), Mirror::new());
    let mut due: Option<tokio::time::Instant> = None;
    let mut told = Vec::new();
    loop {
        let changed = tokio::select! {
            Some(event) = services.next() => service_mirror.take(event, |it| it),
            Some(event) = slices.next() => slice_mirror.take(event, |it| it),
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
