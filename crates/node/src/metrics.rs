//! `/metrics` and `/healthz` over HTTP on loopback, for whoever watches the machine.
//!
//! Names and meanings are in [`NAMES`]; a test compares that list with what is served.

use std::sync::Arc;

use atoll_control::ProxyCounts;
use atoll_link::FindCounts;
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
    ("atoll_heal_running", "1 while the owner's data is being healed"),
    ("atoll_heal_nodes_away", "Nodes that keep shards of the owner and are away"),
    ("atoll_heal_stripes_below_full", "Stripes known to have fewer shards than they should"),
    ("atoll_heal_beyond_repair", "Objects and file systems of which too few shards are left"),
    ("atoll_heal_rebuilt_shards_total", "Shards made again"),
    ("atoll_heal_rebuilt_bytes_total", "Bytes of shards made again"),
    ("atoll_volumes_mounted", "Volumes of tenants that are mounted here"),
    ("atoll_volumes_parts_below_full", "Parts of these that were stored with shards missing and are not healed yet"),
    ("atoll_volumes_rebuilt_shards", "Shards of these made again since they were mounted"),
    ("atoll_bus_waiting", "Messages in the outbox, counted for each recipient"),
    ("atoll_bus_unread", "Messages in the inbox that nobody has taken"),
    ("atoll_bus_delivered_total", "Messages delivered, counted for each recipient"),
    ("atoll_bus_arrived_total", "Messages that arrived"),
    ("atoll_bus_expired_total", "Messages whose time was over in the outbox or the inbox"),
    ("atoll_bus_turned_away_total", "Times a message of a peer was not taken: not allowed, no room, or not yet"),
    ("atoll_volumes_beyond_repair", "Stripes of these that too few shards are left of"),
    ("atoll_proxy_open", "Connections that programs of this machine have open through the proxy"),
    ("atoll_proxy_denied_total", "Requests of theirs that did not come to a connection"),
    ("atoll_proxy_bytes_total", "Bytes carried for them, both ways"),
    ("atoll_dial_open", "Connections that peers have open to and through this node"),
    ("atoll_dial_denied_total", "Requests of theirs that did not come to a connection"),
    ("atoll_dial_bytes_total", "Bytes carried for them, both ways"),
    ("atoll_find_records", "Records of where nodes are that this node keeps for others"),
    ("atoll_find_contacts", "Nodes that answered and are kept in mind for lookups"),
    ("atoll_find_acquaintances", "Nodes that are no peers and with which packets are exchanged"),
    ("atoll_find_lookups_total", "Nodes looked for on behalf of programs and people here"),
    ("atoll_find_sent_messages_total", "Messages about where nodes are that were sent"),
    ("atoll_find_sent_bytes_total", "Their bytes, without what carries them"),
    ("atoll_find_dialled_total", "Connections made for them"),
    ("atoll_relay_carried_bytes_total", "Bytes carried between peers that cannot reach each other"),
    ("atoll_relay_carried_packets_total", "Packets carried between them"),
    ("atoll_relay_refused_packets_total", "Packets not carried, for whatever reason"),
    (
        "atoll_relay_refused_budget_packets_total",
        "Packets not carried because relay.rate or relay.rate_per_user was used up",
    ),
    ("atoll_relay_users", "Peers that packets were carried for in the last ten seconds"),
    ("atoll_relay_waiting_bytes", "Bytes that wait to be carried"),
    ("atoll_relayed_sent_packets_total", "Packets this node sent through others"),
    ("atoll_relayed_received_packets_total", "Packets that reached this node through others"),
    ("atoll_relayed_unsent_packets_total", "Packets this node gave up because no relay took them"),
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
    let relay = || parts.link.relay_counts();
    let find = |of: fn(FindCounts) -> u64| parts.link.find_counts().map_or(0, of);
    let value = match name {
        "atoll_peers" => parts.peers.status().len() as u64,
        "atoll_peers_reachable" => parts.peers.status().iter().filter(|peer| peer.reachable).count() as u64,
        "atoll_storage_capacity_bytes" => storage().map_or(0, |storage| storage.capacity.0),
        "atoll_storage_used_bytes" => storage().map_or(0, |storage| storage.used.0),
        "atoll_storage_shards" => storage().map_or(0, |storage| storage.shards),
        "atoll_shard_stored_bytes_total" => stats().map_or(0, |stats| stats.put_bytes),
        "atoll_shard_read_bytes_total" => stats().map_or(0, |stats| stats.get_bytes),
        "atoll_heal_running" => u64::from(parts.healing.status().running),
        "atoll_heal_nodes_away" => parts.healing.status().away.len() as u64,
        "atoll_heal_stripes_below_full" => parts.healing.status().below_full(),
        "atoll_heal_beyond_repair" => parts.healing.status().beyond_repair,
        "atoll_heal_rebuilt_shards_total" => parts.healing.status().rebuilt,
        "atoll_heal_rebuilt_bytes_total" => parts.healing.status().rebuilt_bytes.0,
        "atoll_volumes_mounted" => parts.volumes().len() as u64,
        "atoll_volumes_parts_below_full" => parts.volumes().iter().map(|it| it.mounted.degraded).sum(),
        "atoll_volumes_rebuilt_shards" => parts.volumes().iter().map(|it| it.mounted.rebuilt).sum(),
        "atoll_volumes_beyond_repair" => parts.volumes().iter().map(|it| it.mounted.beyond_repair).sum(),
        "atoll_proxy_open" => parts.proxy.status().programs.open,
        "atoll_proxy_denied_total" => parts.proxy.status().programs.denied,
        "atoll_proxy_bytes_total" => carried(parts.proxy.status().programs),
        "atoll_dial_open" => parts.proxy.status().peers.open,
        "atoll_dial_denied_total" => parts.proxy.status().peers.denied,
        "atoll_dial_bytes_total" => carried(parts.proxy.status().peers),
        "atoll_bus_waiting" => parts.bus.handle.counts().waiting,
        "atoll_bus_unread" => parts.bus.handle.counts().unread,
        "atoll_bus_delivered_total" => parts.bus.handle.counts().delivered,
        "atoll_bus_arrived_total" => parts.bus.handle.counts().arrived,
        "atoll_bus_expired_total" => parts.bus.handle.counts().expired,
        "atoll_bus_turned_away_total" => parts.bus.handle.counts().turned_away,
        "atoll_find_records" => find(|counts| counts.records as u64),
        "atoll_find_contacts" => find(|counts| counts.contacts as u64),
        "atoll_find_acquaintances" => find(|counts| counts.acquaintances as u64),
        "atoll_find_lookups_total" => find(|counts| counts.looked_up),
        "atoll_find_sent_messages_total" => find(|counts| counts.sent),
        "atoll_find_sent_bytes_total" => find(|counts| counts.sent_bytes),
        "atoll_find_dialled_total" => find(|counts| counts.dialled),
        "atoll_relay_carried_bytes_total" => relay().for_others.carried_bytes,
        "atoll_relay_carried_packets_total" => relay().for_others.carried,
        "atoll_relay_refused_packets_total" => relay().for_others.refused,
        "atoll_relay_refused_budget_packets_total" => relay().for_others.refused_budget,
        "atoll_relay_users" => relay().for_others.users,
        "atoll_relay_waiting_bytes" => relay().for_others.waiting_bytes,
        "atoll_relayed_sent_packets_total" => relay().sent,
        "atoll_relayed_received_packets_total" => relay().received,
        "atoll_relayed_unsent_packets_total" => relay().unsent,
        _ => 0,
    };
    value as f64
}

fn carried(counts: ProxyCounts) -> u64 {
    counts.sent_bytes + counts.received_bytes
}
