//! Handlers about the planetary network.

use atoll_control::{
    ApiError, DroppedPackets, FastStatus, InterfaceStatus, Kind, NeighbourStatus, NetPath, NetPaths, NetPeer, NetRoute,
    NetStatus,
};
use atoll_ids::NodeId;
use atoll_link::{Candidate, Path as LinkPath};
use atoll_tun::TunStatus;
use axum::extract::{Query, State};
use axum::response::Json;
use serde::Deserialize;

use super::{Answer, Shared};
use crate::daemon::Parts;

pub(super) async fn status(State(parts): Shared) -> Json<NetStatus> {
    let neighbours = parts.link.neighbours().into_iter().map(|neighbour| NeighbourStatus {
        node: neighbour.node,
        addresses: neighbour.addresses.iter().map(ToString::to_string).collect(),
        heard_seconds: neighbour.heard.as_secs(),
    });
    Json(NetStatus {
        address: parts.node.planetary_address().to_string(),
        interface: parts.network.tun().map(|tun| interface(tun.status())),
        note: parts.network.note(),
        fast: fast(&parts),
        peers: peers(&parts),
        neighbours: neighbours.collect(),
    })
}

/// To which node the ways are asked for, in any way in which it can be named.
#[derive(Deserialize)]
pub(super) struct Asked {
    node: String,
}

pub(super) async fn path(State(parts): Shared, Query(asked): Query<Asked>) -> Answer<NetPaths> {
    let node = super::rules::find(&parts, &asked.node).await?;
    let paths = parts.link.paths(node).await;
    let paths = paths.ok_or_else(|| ApiError::new(Kind::NotFound, format!("{node} is no peer of this node")))?;
    let name_of = |node: NodeId| parts.peers.status().into_iter().find(|peer| peer.node == node)?.name;
    let path = |candidate: Candidate| NetPath {
        kind: match &candidate.path {
            LinkPath::Direct(_) => "direct",
            LinkPath::Relay(_) => "relay",
            LinkPath::Via(_) => "via",
        }
        .to_owned(),
        address: match &candidate.path {
            LinkPath::Direct(address) => Some(address.to_string()),
            LinkPath::Relay(url) => Some(url.clone()),
            LinkPath::Via(_) => None,
        },
        via: if let LinkPath::Via(relay) = candidate.path { relay } else { None },
        via_name: if let LinkPath::Via(Some(relay)) = candidate.path { name_of(relay) } else { None },
        used: candidate.used,
        rtt_ms: candidate.round_trip.map(|round_trip| round_trip.as_secs_f64() * 1e3),
        loss: candidate.loss,
        silent_seconds: candidate.silent.map(|silent| silent.as_secs_f64()),
        state: candidate.state,
    };
    let candidates = paths.candidates.into_iter().map(path).collect();
    Ok(Json(NetPaths { node, name: name_of(node), candidates, why: paths.why }))
}

fn interface(status: TunStatus) -> InterfaceStatus {
    let dropped =
        |(reason, packets): (atoll_tun::Reason, u64)| DroppedPackets { reason: reason.word().into(), packets };
    InterfaceStatus {
        name: status.name,
        mtu: status.mtu,
        packets_sent: status.sent,
        packets_received: status.received,
        packets_dropped: status.dropped.into_iter().map(dropped).collect(),
        flows: status.flows as u64,
        rules: status.rules.iter().map(ToString::to_string).collect(),
        routes: status
            .routes
            .iter()
            .map(|(prefix, node)| NetRoute { prefix: prefix.to_string(), node: *node })
            .collect(),
    }
}

fn fast(parts: &Parts) -> Option<FastStatus> {
    let packets = parts.link.packets();
    let ports = packets.fast_ports();
    let counts = packets.fast_counts();
    (!ports.is_empty()).then_some(FastStatus {
        ports,
        packets_sealed: counts.sealed,
        packets_opened: counts.opened,
        packets_replayed: counts.replayed,
        packets_forged: counts.forged,
        packets_stray: counts.stray,
        packets_congested: counts.congested,
    })
}

fn peers(parts: &Parts) -> Vec<NetPeer> {
    let packets = parts.link.packets();
    let peer = |peer: atoll_control::PeerStatus| {
        let carried = parts.link.carried(&peer.node);
        let connected = parts.link.peer(&peer.node).and_then(|peer| peer.connected);
        NetPeer {
            node: peer.node,
            name: peer.name,
            address: peer.node.planetary_address().to_string(),
            path: connected.as_ref().map(|connected| connected.path.to_string()),
            rtt_ms: connected.map(|connected| connected.round_trip.as_secs_f64() * 1e3),
            mtu: packets.mtu(&peer.node).map(|mtu| mtu as u64),
            sent_bytes: carried.sent_bytes,
            received_bytes: carried.received_bytes,
            fast: packets.fast_path(&peer.node).map(|address| address.to_string()),
        }
    };
    parts.peers.status().into_iter().map(peer).collect()
}
