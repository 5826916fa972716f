//! Handlers of long jobs: they answer at once with a stream of events, one JSON object a line, and drop the job when the
//! receiver goes away.

use std::future::Future;
use std::sync::Arc;

use atoll_control::{
    ApiError, Event, GetRequest, HealRequest, HealSummary, Kind, PutRequest, RemoveRequest, Summary, TransferSummary,
};
use atoll_engine::{Engine, HealOptions};
use axum::body::Body;
use axum::extract::State;
use axum::response::{Json, Response};
use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use tokio::sync::mpsc;

use super::{Refused, Shared};
use crate::failure::told;
use crate::transfer::{self, EVENTS_WAITING_MAX};

pub(super) async fn put(State(parts): Shared, Json(request): Json<PutRequest>) -> Result<Response, Refused> {
    parts.peers.settled().await;
    // Said at once, not after a walk through the sources.
    parts.engine.bucket(&request.bucket).await.map_err(|error| told(&error))?;
    let engine = parts.engine.clone();
    respond(|events| async move { transfer::put::run(engine, request, events).await.map(Summary::Transfer) })
}

pub(super) async fn get(State(parts): Shared, Json(request): Json<GetRequest>) -> Result<Response, Refused> {
    parts.peers.settled().await;
    let engine = parts.engine.clone();
    respond(|events| async move { transfer::get::run(engine, request, events).await.map(Summary::Transfer) })
}

pub(super) async fn remove(State(parts): Shared, Json(request): Json<RemoveRequest>) -> Result<Response, Refused> {
    let engine = parts.engine.clone();
    respond(|events| async move {
        let done: Result<TransferSummary, ApiError> = transfer::remove::run(engine, request, events).await;
        done.map(Summary::Transfer)
    })
}

pub(super) async fn heal(State(parts): Shared, Json(request): Json<HealRequest>) -> Result<Response, Refused> {
    // Which nodes are there decides what counts as lost: ask them now.
    parts.peers.refresh().await;
    let engine = parts.engine.clone();
    let manual = parts.healing.manual();
    respond(|events| async move {
        let _first = manual;
        run_heal(engine, request, events).await.map(Summary::Heal)
    })
}

async fn run_heal(engine: Engine, request: HealRequest, events: mpsc::Sender<Event>) -> Result<HealSummary, ApiError> {
    let began = std::time::Instant::now();
    let progress = events.clone();
    let options = HealOptions {
        bucket: request.bucket,
        dry_run: request.dry_run,
        deep: request.deep,
        progress: Some(Arc::new(move |so_far: atoll_engine::HealProgress| {
            let event = Event::Progress {
                items: so_far.objects,
                items_total: None,
                bytes: so_far.rebuilt_bytes,
                bytes_total: None,
            };
            // A receiver that is behind gets a later one.
            let _ = progress.try_send(event);
        })),
        ..HealOptions::default()
    };
    let report = tokio::select! {
        report = engine.heal(options) => report.map_err(|error| told(&error))?,
        () = events.closed() => return Err(ApiError::new(Kind::Unavailable, "cancelled")),
    };
    Ok(HealSummary {
        objects: report.objects,
        stripes: report.stripes,
        missing: report.missing,
        rotten: report.rotten,
        rebuilt: report.rebuilt,
        rebuilt_bytes: report.rebuilt_bytes,
        unrecoverable: report.unrecoverable.iter().map(|lost| format!("{}/{}", lost.bucket, lost.key)).collect(),
        seconds: began.elapsed().as_secs_f64(),
    })
}

/// Runs a job and streams what it tells, and how it ends. It goes on when nobody listens any more, unless it looks for that itself.
pub(super) fn respond<F, J>(job: F) -> Result<Response, Refused>
where
    F: FnOnce(mpsc::Sender<Event>) -> J,
    J: Future<Output = Result<Summary, ApiError>> + Send + 'static,
{
    let (send, receive) = mpsc::channel(EVENTS_WAITING_MAX);
    let running = job(send.clone());
    tokio::spawn(async move {
        let last = match running.await {
            Ok(summary) => Event::Done { summary },
            Err(error) => Event::Failed { error },
        };
        // Nobody listens any more: then nobody misses it.
        let _ = send.send(last).await;
    });
    let lines = stream::unfold(receive, |mut receive| async move { Some((receive.recv().await?, receive)) });
    let body = Body::from_stream(lines.map(|event| line(&event)));
    let response = Response::builder().header("content-type", "application/x-ndjson").body(body);
    response.map_err(|error| ApiError::new(Kind::Broken, error.to_string()).into())
}

fn line(event: &Event) -> Result<Bytes, serde_json::Error> {
    let mut line = serde_json::to_vec(event)?;
    line.push(b'\n');
    Ok(line.into())
}
