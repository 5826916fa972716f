//! Handlers about the node itself.

use atoll_control::{ApiError, ConfigEntry, InviteRequest, Invited, JoinRequest, Joined, Kind, NodeStatus};
use atoll_ids::NodeId;
use atoll_link::{Ticket, TicketError};
use axum::extract::{Path, State};
use axum::response::Json;

use super::{Answer, Shared};

pub(super) async fn status(State(parts): Shared) -> Json<NodeStatus> {
    Json(parts.status().await)
}

pub(super) async fn config(State(parts): Shared) -> Json<Vec<ConfigEntry>> {
    Json(parts.config.entries())
}

pub(super) async fn shutdown(State(parts): Shared) -> Json<()> {
    tracing::info!("told to stop through the control socket");
    parts.stop.cancel();
    Json(())
}

pub(super) async fn invite(State(parts): Shared, Json(request): Json<InviteRequest>) -> Answer<Invited> {
    let ttl = std::time::Duration::from_secs(request.ttl_seconds);
    let ticket = parts.link.invite(ttl, request.uses);
    let ticket = ticket.map_err(|error| ApiError::new(Kind::Input, error.to_string()))?;
    Ok(Json(Invited { ticket: ticket.to_string() }))
}

pub(super) async fn join(State(parts): Shared, Json(request): Json<JoinRequest>) -> Answer<Joined> {
    let ticket: Ticket = request.ticket.parse().map_err(|error: TicketError| {
        ApiError::new(Kind::Input, error.to_string()).with_help("copy the whole line that `atoll invite` printed")
    })?;
    let peer = parts.link.join(&ticket).await.map_err(|error| {
        let help = "is the inviting node running and reachable from here? behind a router it is reached by a relay, which is a node that it has joined before it \
                    made the ticket; a ticket works as often and as long as it was made for";
        ApiError::new(Kind::Unavailable, error.to_string()).with_help(help)
    })?;
    parts.peers.probe(peer.id).await;
    let status = parts.peers.status().into_iter().find(|status| status.node == peer.id);
    let peer = status.ok_or_else(|| ApiError::new(Kind::Broken, "the peer was forgotten again"))?;
    let through = parts.link.joined_through(&peer.node);
    Ok(Json(Joined { peer, through }))
}

pub(super) async fn forget(State(parts): Shared, Path(node): Path<NodeId>) -> Answer<()> {
    let known = parts.link.forget(&node).await;
    if known.map_err(|error| ApiError::new(Kind::Broken, error.to_string()))? {
        return Ok(Json(()));
    }
    Err(ApiError::new(Kind::NotFound, format!("{node} is no peer of this node")).into())
}
