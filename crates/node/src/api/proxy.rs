//! Handlers about reaching out.

use std::io;

use atoll_control::{ApiError, Kind, ProxyRequest, ProxyStatus};
use atoll_link::OpenError;
use atoll_proxy::{Denial, ReachError, Reached, RouteError, Routes, Target};
use axum::body::Body;
use axum::extract::{Query, State};
use axum::response::{Json, Response};
use futures_util::{StreamExt as _, TryStreamExt as _};
use serde::Deserialize;
use tokio::io::{AsyncWriteExt as _, WriteHalf};
use tokio_util::io::{ReaderStream, StreamReader};
use tokio_util::sync::CancellationToken;

use super::{Answer, Refused, Shared};

/// Bytes read at once from the other end, each a chunk of the answer.
const CHUNK_BYTES: usize = 64 << 10;

pub(super) async fn status(State(parts): Shared) -> Json<ProxyStatus> {
    Json(parts.proxy.status())
}

pub(super) async fn set(State(parts): Shared, Json(request): Json<ProxyRequest>) -> Answer<ProxyStatus> {
    let routes: Result<Vec<_>, RouteError> = request.exit_via.iter().map(|route| route.parse()).collect();
    let routes = routes.map_err(|error| ApiError::new(Kind::Input, error.to_string()))?;
    parts.proxy.reacher.set_routes(Routes::new(routes));
    Ok(Json(parts.proxy.status()))
}

/// Where to connect to.
#[derive(Debug, Deserialize)]
pub(super) struct Place {
    target: String,
    port: u16,
}

/// Connects: the request's body goes there, what comes back is the answer's. An error in the middle breaks the answer off, so that it cannot be taken for the end.
pub(super) async fn connect(State(parts): Shared, Query(place): Query<Place>, body: Body) -> Result<Response, Refused> {
    let target: Target = place.target.parse().map_err(|error| ApiError::new(Kind::Input, format!("{error}")))?;
    let reached = parts.proxy.reacher.open(&target, place.port).await.map_err(|error| told(&error))?;
    let (reader, writer) = tokio::io::split(reached);
    let broken = CancellationToken::new();
    let (sending, stop) = (broken.clone(), parts.stop.clone());
    tokio::spawn(async move {
        let sent = tokio::select! {
            sent = send(body, writer) => sent,
            () = stop.cancelled() => Err(io::Error::other("this node stops")),
        };
        if let Err(error) = sent {
            tracing::debug!(%error, "what was to be sent broke off");
            sending.cancel();
        }
    });
    let reader = ReaderStream::with_capacity(reader, CHUNK_BYTES);
    // Without `broken`, a program that went away would hold the other end.
    let content = futures_util::stream::unfold(Some((reader, broken)), |reading| async move {
        let (mut reader, broken) = reading?;
        tokio::select! {
            biased;
            part = reader.next() => match part? {
                Ok(part) => Some((Ok(part), Some((reader, broken)))),
                Err(error) => Some((Err(error), None)),
            },
            () = broken.cancelled() => Some((Err(io::Error::other("what was to be sent broke off")), None)),
        }
    });
    let response = Response::builder().body(Body::from_stream(content));
    response.map_err(|error| ApiError::new(Kind::Broken, error.to_string()).into())
}

async fn send(body: Body, mut writer: WriteHalf<Reached>) -> io::Result<()> {
    let mut input = StreamReader::new(body.into_data_stream().map_err(io::Error::other));
    tokio::io::copy_buf(&mut input, &mut writer).await?;
    writer.shutdown().await
}

fn told(error: &ReachError) -> ApiError {
    let (kind, help) = match error {
        ReachError::UnknownAddress { .. } | ReachError::Name(_) | ReachError::Open(OpenError::UnknownPeer { .. }) => {
            (Kind::NotFound, Some("`atoll net status` lists the nodes that are known"))
        }
        ReachError::NoExit { .. } | ReachError::OwnExit { .. } => (Kind::Input, None),
        ReachError::Denied { denial: Denial::NotAllowed, .. } => {
            (Kind::Input, Some("its owner allows it there, with a rule like `owner:ID tcp/22` in network.allow"))
        }
        ReachError::Denied { denial: Denial::Closed, .. } => {
            (Kind::Unavailable, Some("is the program running there, and listening on that port?"))
        }
        _ => (Kind::Unavailable, None),
    };
    let told = ApiError::new(kind, error.to_string());
    match help {
        Some(help) => told.with_help(help),
        None => told,
    }
}
