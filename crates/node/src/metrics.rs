//! `/metrics` and `/healthz` over HTTP on loopback, for whoever watches the machine.
//!
//! Names and meanings are in [`NAMES`]; a test compares that list with what is served.

use std::sync::Arc;

use atoll_shard::ShardServerStats;
use atoll_telemetry::{MetricError, Metrics};
use axum::Router;
use axum::http::header::CONTENT_TYPE;
use axum::routing::get;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::daemon::Parts;

/// Every metric of the node itself with its help text; those of the process are `atoll-telemetry`'s.
pub const NAMES: &[(&str, &str)] = &[
    ("atoll_peers", "Peers this node knows"),
    ("atoll_peers_reachable", "Peers that answered the last probe"),
    ("atoll_storage_capacity_bytes", "Bytes this node lends"),
    ("atoll_storage_used_bytes", "Bytes taken of what this node lends"),
    ("atoll_storage_shards", "Shards this node keeps"),
    ("atoll_shard_stored_bytes_total", "Shard bytes stored for peers"),
    ("atoll_shard_read_bytes_total", "Shard bytes read for peers"),
];

/// Serves until told to stop.
pub(crate) async fn serve(listener: TcpListener, parts: Arc<Parts>, stop: CancellationToken) {
    let metrics = match registry(&parts) {
        Ok(metrics) => metrics,
        Err(error) => return tracing::error!(%error, "metrics cannot be served"),
    };
    let router = Router::new()
        .route(
            "/metrics",
            get(move || async move { ([(CONTENT_TYPE, atoll_telemetry::metrics::CONTENT_TYPE)], metrics.encode()) }),
        )
        .route("/healthz", get(|| async { "ok\n" }));
    let served = axum::serve(listener, router).with_graceful_shutdown(async move { stop.cancelled().await });
    if let Err(error) = served.await {
        tracing::warn!(%error, "metrics are not served any more");
    }
}

fn registry(parts: &Arc<Parts>) -> Result<Metrics, MetricError> {
    let metrics = Metrics::new();
    atoll_telemetry::process::register(&metrics)?;
    for (name, help) in NAMES {
        let (parts, name) = (parts.clone(), *name);
        metrics.register_computed(name, help, move || value(&parts, name))?;
    }
    Ok(metrics)
}

#[expect(clippy::cast_precision_loss, reason = "Prometheus' values are 64-bit floats")]
fn value(parts: &Parts, name: &str) -> f64 {
    let storage = || parts.segments.as_ref().map(crate::storage::status);
    let stats = || parts.shard_stats.as_deref().map(ShardServerStats::snapshot);
    let value = match name {
        "atoll_peers" => parts.peers.status().len() as u64,
        "atoll_peers_reachable" => parts.peers.status().iter().filter(|peer| peer.reachable).count() as u64,
        "atoll_storage_capacity_bytes" => storage().map_or(0, |storage| storage.capacity.0),
        "atoll_storage_used_bytes" => storage().map_or(0, |storage| storage.used.0),
        "atoll_storage_shards" => storage().map_or(0, |storage| storage.shards),
        "atoll_shard_stored_bytes_total" => stats().map_or(0, |stats| stats.put_bytes),
        "atoll_shard_read_bytes_total" => stats().map_or(0, |stats| stats.get_bytes),
        _ => 0,
    };
    value as f64
}
