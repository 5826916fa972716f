//! Handlers about what is stored, other than the long jobs.

use std::io;

use atoll_codec::{Policy, PolicyError};
use atoll_control::{ApiError, BucketInfo, BucketRequest, Kind, Listing, ObjectInfo, Usage};
use atoll_engine::{LIST_MAX, ListQuery, ObjectMeta, PutOptions, Source};
use atoll_ids::{BucketName, ByteCount};
use axum::body::Body;
use axum::extract::{Path, Query, State};
use axum::response::{Json, Response};
use futures_util::{StreamExt as _, stream};
use jiff::Timestamp;
use serde::Deserialize;
use tokio_util::io::StreamReader;

use super::{Answer, Refused, Shared};
use crate::daemon::Parts;
use crate::failure::told;

#[derive(Deserialize)]
pub(super) struct Under {
    bucket: BucketName,
    #[serde(default)]
    prefix: String,
    #[serde(default)]
    delimiter: String,
    #[serde(default)]
    after: String,
}

#[derive(Deserialize)]
pub(super) struct Object {
    bucket: BucketName,
    key: String,
}

fn bucket_info(bucket: &atoll_engine::BucketInfo) -> BucketInfo {
    BucketInfo { name: bucket.name.clone(), policy: bucket.policy.to_string(), created: bucket.created.to_string() }
}

/// The engine's view of an object as the API shows it.
fn object_info(bucket: &BucketName, info: &atoll_engine::ObjectInfo) -> ObjectInfo {
    ObjectInfo {
        bucket: bucket.clone(),
        key: info.key.clone(),
        kind: match info.meta.kind {
            atoll_engine::ObjectKind::File => atoll_control::ObjectKind::File,
            atoll_engine::ObjectKind::Symlink(_) => atoll_control::ObjectKind::Symlink,
            atoll_engine::ObjectKind::Directory => atoll_control::ObjectKind::Directory,
        },
        size: info.size,
        stored: info.stored,
        version: info.id.to_string(),
        blake3: info.content.to_hex().to_string(),
        policy: info.policy.to_string(),
        stripes: info.stripes,
        modified: info.meta.modified.map(|time| time.to_string()),
        created: info.created.to_string(),
        mode: info.meta.mode,
    }
}

pub(super) async fn buckets(State(parts): Shared) -> Answer<Vec<BucketInfo>> {
    let buckets = parts.engine.buckets().await.map_err(|error| told(&error))?;
    Ok(Json(buckets.iter().map(bucket_info).collect()))
}

/// The buckets, for whoever only looks: none if they cannot be read.
pub(crate) async fn all_buckets(parts: &Parts) -> Vec<BucketInfo> {
    parts.engine.buckets().await.map(|buckets| buckets.iter().map(bucket_info).collect()).unwrap_or_default()
}

pub(super) async fn create_bucket(
    State(parts): Shared,
    Path(name): Path<BucketName>,
    Json(request): Json<BucketRequest>,
) -> Answer<BucketInfo> {
    let policy: Policy =
        request.policy.parse().map_err(|error: PolicyError| ApiError::new(Kind::Input, error.to_string()))?;
    let made = parts.engine.create_bucket(&name, policy).await.map_err(|error| told(&error))?;
    Ok(Json(bucket_info(&made)))
}

pub(super) async fn remove_bucket(State(parts): Shared, Path(name): Path<BucketName>) -> Answer<()> {
    parts.engine.remove_bucket(&name).await.map_err(|error| told(&error))?;
    Ok(Json(()))
}

pub(super) async fn list(State(parts): Shared, Query(under): Query<Under>) -> Answer<Listing> {
    let mut delimiter = under.delimiter.chars();
    let (delimiter, more) = (delimiter.next(), delimiter.next());
    if more.is_some() {
        return Err(ApiError::new(Kind::Input, "a delimiter is one character").into());
    }
    let after = (!under.after.is_empty()).then_some(under.after);
    let query = ListQuery { prefix: under.prefix, delimiter, after, limit: LIST_MAX };
    let page = parts.engine.list(&under.bucket, &query).await;
    let page = page.map_err(|error| told(&error))?;
    Ok(Json(Listing {
        objects: page.objects.iter().map(|info| object_info(&under.bucket, info)).collect(),
        prefixes: page.common_prefixes,
        next: page.next,
    }))
}

pub(super) async fn stat(State(parts): Shared, Query(object): Query<Object>) -> Answer<ObjectInfo> {
    let info = parts.engine.stat(&object.bucket, &object.key).await;
    Ok(Json(object_info(&object.bucket, &info.map_err(|error| told(&error))?)))
}

pub(super) async fn usage(State(parts): Shared, Query(under): Query<Under>) -> Answer<Usage> {
    let usage = parts.engine.usage(&under.bucket, &under.prefix).await;
    let usage = usage.map_err(|error| told(&error))?;
    Ok(Json(Usage { objects: usage.objects, bytes: ByteCount(usage.bytes), stored: ByteCount(usage.stored) }))
}

pub(super) async fn upload(State(parts): Shared, Query(object): Query<Object>, body: Body) -> Answer<ObjectInfo> {
    parts.peers.settled().await;
    let content = body.into_data_stream().map(|chunk| chunk.map_err(io::Error::other));
    let source = Source::Stream(Box::pin(StreamReader::new(content)), None);
    let meta = ObjectMeta { modified: Some(Timestamp::now()), ..ObjectMeta::default() };
    let stored =
        parts.engine.put(&object.bucket, &object.key, source, PutOptions { meta, ..PutOptions::default() }).await;
    let info = stored.map_err(|error| told(&error))?;
    Ok(Json(object_info(&object.bucket, &info)))
}

/// Streams an object. An error in the middle breaks the connection off, so that it cannot be taken for the end.
pub(super) async fn download(State(parts): Shared, Query(object): Query<Object>) -> Result<Response, Refused> {
    parts.peers.settled().await;
    let reader = parts.engine.get(&object.bucket, &object.key, None).await;
    let reader = reader.map_err(|error| told(&error))?;
    let length = reader.info().size;
    let content = stream::unfold(reader, |mut reader| async move {
        let chunk = reader.next().await?;
        if let Err(error) = &chunk {
            tracing::warn!(%error, "a download broke off");
        }
        Some((chunk, reader))
    });
    let response = Response::builder().header("content-length", length).body(Body::from_stream(content));
    response.map_err(|error| ApiError::new(Kind::Broken, error.to_string()).into())
}
