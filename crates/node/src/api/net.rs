//! Handlers about the planetary network.

use std::net::Ipv6Addr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use atoll_control::{
    ApiError, DroppedPackets, FastStatus, InterfaceStatus, Kind, NeighbourStatus, NetFound, NetPath, NetPaths, NetPeer,
    NetRoute, NetStatus,
};
use atoll_ids::{NodeId, PlanetaryAddress};
use atoll_link::{Candidate, FindError, Found, Miss, Path as LinkPath};
use atoll_tun::TunStatus;
use axum::extract::{Query, State};
use axum::response::Json;
use serde::Deserialize;

use super::{Answer, Refused, Shared, rules};
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

/// Who is looked for: a node's id or planetary address, or what a peer is called.
#[derive(Deserialize)]
pub(super) struct Sought {
    who: String,
}

pub(super) async fn find(State(parts): Shared, Query(Sought { who }): Query<Sought>) -> Answer<NetFound> {
    let address = match who.parse::<Ipv6Addr>() {
        Ok(ip) => PlanetaryAddress::from_ip(ip)
            .map_err(|error| Refused(ApiError::new(Kind::Input, format!("{who}: {error}"))))?,
        Err(_) => rules::find(&parts, &who).await?.planetary_address(),
    };
    let found = parts.link.find(address).await.map_err(|error| not_found(address, error))?;
    let Found { record, steps, took } = found;
    let signed = UNIX_EPOCH + Duration::from_millis(record.sequence);
    let peer = parts.peers.status().into_iter().find(|peer| peer.node == record.node);
    let own = parts.config.name.clone().filter(|_| record.node == parts.node);
    Ok(Json(NetFound {
        node: record.node,
        address: address.to_string(),
        name: peer.and_then(|peer| peer.name).or(own),
        addresses: crate::addresses(&record.quic, &record.lane),
        relay: record.relay,
        sequence: record.sequence,
        age_seconds: SystemTime::now().duration_since(signed).unwrap_or_default().as_secs_f64(),
        steps,
        took_ms: took.as_secs_f64() * 1e3,
    }))
}

fn not_found(address: PlanetaryAddress, error: FindError) -> Refused {
    let (kind, help) = match &error {
        FindError::Off => (Kind::Conflict, "with it off a node speaks with its peers only; it takes a restart"),
        FindError::Closed | FindError::Crowded | FindError::Lately | FindError::Missed(Miss::Busy) => {
            (Kind::Unavailable, "try again in a few seconds")
        }
        FindError::Missed(Miss::NobodyAnswered) => {
            (Kind::Unavailable, "join a node that finds others (`atoll join TICKET`), or wait for a peer to answer")
        }
        FindError::Missed(Miss::NoRecord) => (Kind::NotFound, "it is off, has network.find = off, or never was"),
    };
    Refused(ApiError::new(kind, format!("{address} is not found: {error}")).with_help(help))
}

/// To which node the ways are asked for, in any way in which it can be named.
#[derive(Deserialize)]
pub(super) struct Asked {
    node: String,
}

pub(super) async fn path(State(parts): Shared, Query(asked): Query<Asked>) -> Answer<NetPaths> {
    let node = rules::find(&parts, &asked.node).await?;
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
