//! Handlers about the cloud: offers, eVDCs, the gateway.

use std::sync::atomic::Ordering;

use atoll_cloud::{Evdc, Pick, TenantError, Wish};
use atoll_control::{
    Amount, ApiError, EvdcRequest, EvdcStatus, GatewayRequest, GatewayRoute, GatewayStatus, ImageStatus, Kind,
    Kubeconfig, LoadRequest, MemberStatus, OfferStatus,
};
use atoll_deploy::Note;
use atoll_gateway::PathKind;
use atoll_images::{Image, ImageError, Reference, Store};
use atoll_lease::Capacity;
use axum::extract::{Path, Query, State};
use axum::response::Json;

use super::{Answer, Refused, Shared};
use crate::daemon::Parts;

/// The most nodes of one eVDC: what a membership holds.
const NODES_MAX: usize = atoll_lease::MEMBERS_MAX;

fn amount(capacity: Capacity) -> Amount {
    let Capacity { cpu_milli, memory, storage, pods } = capacity;
    Amount { cpu_milli, memory, storage, pods }
}

fn refused(error: &TenantError) -> Refused {
    let (kind, help) = match error {
        TenantError::TooFew(_) => {
            (Kind::Unavailable, Some("ask for less, or join more nodes; `atoll offers` shows what is lent"))
        }
        TenantError::Membership(_) => (Kind::Input, None),
        TenantError::Exists(_) | TenantError::Stands(_) => (Kind::Conflict, None),
        TenantError::Leaving { .. } => {
            (Kind::Unavailable, Some("their leases end by themselves; or take another name"))
        }
        TenantError::NotFound(_) => (Kind::NotFound, Some("`atoll evdc ls` lists them")),
        TenantError::Node { .. } => (Kind::Unavailable, Some("the node tries again by itself; so can you")),
        TenantError::Gateway(_) => (Kind::Input, Some("`atoll join` its ticket")),
        TenantError::Store(_) | TenantError::Corrupt(_) | TenantError::Random => (Kind::Broken, None),
    };
    let error = ApiError::new(kind, error.to_string());
    Refused(match help {
        Some(help) => error.with_help(help),
        None => error,
    })
}

pub(super) async fn offers(State(parts): Shared) -> Json<Vec<OfferStatus>> {
    Json(all_offers(&parts).await)
}

pub(crate) async fn all_offers(parts: &Parts) -> Vec<OfferStatus> {
    let names: std::collections::HashMap<_, _> =
        parts.peers.status().into_iter().map(|peer| (peer.node, peer.name)).collect();
    let offers = parts.cloud.tenant.offers().await.into_iter().map(|offer| OfferStatus {
        node: offer.node,
        name: names.get(&offer.node).cloned().flatten(),
        owner: offer.owner,
        total: amount(offer.total),
        free: amount(offer.free),
        currency: offer.price.currency,
        micro_per_hour: offer.price.micro_per_hour,
    });
    offers.collect()
}

/// The eVDCs of this node's owner, for whoever only looks: none if they cannot be read.
pub(crate) async fn all_evdcs(parts: &Parts) -> Vec<EvdcStatus> {
    let all = parts.cloud.tenant.all().await.unwrap_or_default();
    all.iter().map(|evdc| status(parts, evdc)).collect()
}

pub(super) async fn evdcs(State(parts): Shared) -> Answer<Vec<EvdcStatus>> {
    let all = parts.cloud.tenant.all().await.map_err(|error| refused(&error))?;
    Ok(Json(all.iter().map(|evdc| status(&parts, evdc)).collect()))
}

pub(super) async fn evdc(State(parts): Shared, Path(name): Path<String>) -> Answer<EvdcStatus> {
    let evdc = parts.cloud.tenant.get(&name).await.map_err(|error| refused(&error))?;
    Ok(Json(status(&parts, &evdc)))
}

pub(super) async fn create(
    State(parts): Shared,
    Path(name): Path<String>,
    Json(request): Json<EvdcRequest>,
) -> Answer<EvdcStatus> {
    let wrong = |text: String| Refused(ApiError::new(Kind::Input, text));
    if request.nodes == 0 || request.nodes > NODES_MAX {
        return Err(wrong(format!("an eVDC has 1 to {NODES_MAX} nodes")));
    }
    if request.each.cpu_milli == 0 || request.each.memory.0 == 0 {
        return Err(wrong("processor and memory of each node must be more than nothing".into()));
    }
    if let Some(gateway) = &request.gateway
        && parts.link.peer(&gateway.node).is_none()
    {
        return Err(refused(&TenantError::Gateway(gateway.node)));
    }
    let Amount { cpu_milli, memory, storage, pods } = request.each;
    let wish = Wish {
        name,
        nodes: request.nodes,
        each: Capacity { cpu_milli, memory, storage, pods },
        price_max: request.price_max,
        gateway: request.gateway.map(|gateway| (gateway.node, gateway.domain.to_ascii_lowercase())),
    };
    let evdc = parts.cloud.tenant.create(wish).await.map_err(|error| refused(&error))?;
    let served = parts.cloud.ports.serve(&evdc, &parts.stop).await;
    served.map_err(|error| ApiError::new(Kind::Broken, error.to_string()))?;
    Ok(Json(status(&parts, &evdc)))
}

/// Answers with what could not be done at once.
pub(super) async fn remove(State(parts): Shared, Path(name): Path<String>) -> Answer<Vec<String>> {
    let evdc = parts.cloud.tenant.get(&name).await.map_err(|error| refused(&error))?;
    let (told, warnings) = std::sync::mpsc::channel();
    let warn = move |note: Note| {
        if let Note::Warning(text) = note {
            let _: Result<(), _> = told.send(text);
        }
    };
    let given = parts.deploy.give_back(&name, &warn).await;
    given.map_err(|error| super::apps::refused(&error))?;
    let ended = parts.cloud.ports.end(&evdc.id).await;
    ended.map_err(|error| ApiError::new(Kind::Broken, error.to_string()))?;
    Ok(Json(warnings.try_iter().collect()))
}

pub(super) async fn kubeconfig(State(parts): Shared, Path(name): Path<String>) -> Answer<Kubeconfig> {
    let evdc = parts.cloud.tenant.get(&name).await.map_err(|error| refused(&error))?;
    let served = parts.cloud.ports.serve(&evdc, &parts.stop).await;
    served.map_err(|error| ApiError::new(Kind::Broken, error.to_string()))?;
    let url =
        parts.cloud.ports.url(&evdc.id).ok_or_else(|| ApiError::new(Kind::Broken, "the port was closed again"))?;
    let credentials = parts.cloud.tenant.credentials(&name).await.map_err(|error| refused(&error))?;
    Ok(Json(Kubeconfig { kubeconfig: atoll_cloud::kubeconfig(&name, &url, &credentials) }))
}

pub(super) async fn gateway(State(parts): Shared) -> Answer<GatewayStatus> {
    let status = gateway_status(&parts).ok_or_else(|| {
        ApiError::new(Kind::NotFound, "this node is no gateway").with_help("set gateway.domain and start it again")
    })?;
    Ok(Json(status))
}

pub(crate) fn gateway_status(parts: &Parts) -> Option<GatewayStatus> {
    let role = parts.cloud.gateway.as_ref()?;
    let route = |route: atoll_gateway::RouteStatus| GatewayRoute {
        host: route.host,
        path: route.path,
        exact: route.kind == PathKind::Exact,
        replicas: route.replicas,
    };
    let stats = role.gateway.stats();
    Some(GatewayStatus {
        domain: role.domain.clone(),
        https: role.https.iter().map(ToString::to_string).collect(),
        authority: role.authority.pem().to_owned(),
        routes: role.gateway.routes().into_iter().map(route).collect(),
        nodes: role.gateway.nodes(),
        requests: stats.requests.load(Ordering::Relaxed),
        failed: stats.failed.load(Ordering::Relaxed),
    })
}

/// The image store blocks; it is asked on a thread of its own.
async fn images_do<T, F>(parts: &Parts, work: F) -> Result<T, Refused>
where
    T: Send + 'static,
    F: FnOnce(&Store) -> Result<T, ImageError> + Send + 'static,
{
    let store = parts.cloud.images.clone();
    let done = tokio::task::spawn_blocking(move || work(&store)).await;
    let done = done.map_err(|error| ApiError::new(Kind::Broken, error.to_string()))?;
    done.map_err(|error| {
        let kind = if matches!(error, ImageError::NotFound(_)) { Kind::NotFound } else { Kind::Input };
        Refused(ApiError::new(kind, error.to_string()))
    })
}

fn reference(name: &str) -> Result<Reference, Refused> {
    name.parse().map_err(|error| Refused(ApiError::new(Kind::Input, format!("{name:?}: {error}"))))
}

pub(super) fn image(image: &Image) -> ImageStatus {
    ImageStatus { name: image.reference.to_string(), id: image.id.to_string(), size: image.size }
}

pub(super) async fn images(State(parts): Shared) -> Answer<Vec<ImageStatus>> {
    let all = images_do(&parts, Store::list).await?;
    Ok(Json(all.iter().map(image).collect()))
}

pub(super) async fn load_image(State(parts): Shared, Json(request): Json<LoadRequest>) -> Answer<Vec<ImageStatus>> {
    let name = request.name.as_deref().map(reference).transpose()?;
    let path = std::path::PathBuf::from(request.path);
    let loaded = images_do(&parts, move |store| store.load(&path, name.as_ref())).await?;
    Ok(Json(loaded.iter().map(image).collect()))
}

pub(super) async fn remove_image(State(parts): Shared, Query(named): Query<Named>) -> Answer<()> {
    let wanted = reference(&named.name)?;
    if images_do(&parts, move |store| store.remove(&wanted)).await? {
        return Ok(Json(()));
    }
    Err(ApiError::new(Kind::NotFound, format!("there is no image {}", named.name)).into())
}

/// The name in a query.
#[derive(serde::Deserialize)]
pub(super) struct Named {
    name: String,
}

fn status(parts: &Parts, evdc: &Evdc) -> EvdcStatus {
    let waited_for = |pick: &&Pick| pick.lease.is_none() || pick.told != evdc.serial;
    let waited_for: Vec<&str> = evdc.picks.iter().filter(waited_for).map(|pick| pick.member.name.as_str()).collect();
    let problem = (!waited_for.is_empty()).then(|| format!("not rented or not told yet: {}", waited_for.join(", ")));
    let member = |pick: &Pick| MemberStatus {
        name: pick.member.name.clone(),
        node: pick.member.node,
        owner: pick.offer.owner,
        control: Some(pick.member.node) == evdc.control(),
        storage_only: pick.is_storage_only(),
        until: pick.lease.as_ref().and_then(|lease| lease.check().ok()).map(|terms| terms.not_after),
        told: pick.told == evdc.serial,
    };
    let gateway = evdc.wish.gateway.clone();
    EvdcStatus {
        name: evdc.wish.name.clone(),
        id: evdc.id,
        ready: evdc.is_ready(),
        problem,
        api: parts.cloud.ports.url(&evdc.id),
        gateway: gateway.map(|(node, domain)| GatewayRequest { node, domain }),
        each: amount(evdc.wish.each),
        members: evdc.picks.iter().map(member).collect(),
    }
}
