//! Handlers about names on the planetary network.

use std::net::Ipv6Addr;

use atoll_control::{ApiError, Kind, NameRequest, NameStatus, NamedNode, NamesStatus, OwnerName, ResolvedName};
use atoll_ids::{NodeId, OwnerId, PlanetaryAddress};
use atoll_names::{Found, GivenName, StoreError, Zone};
use axum::extract::{Query, State};
use axum::response::Json;
use serde::Deserialize;

use super::{Answer, Refused, Shared};

/// The top of all names.
const TOP: &str = ".atoll";

impl From<StoreError> for Refused {
    fn from(error: StoreError) -> Self {
        let kind = match &error {
            StoreError::Kv(_) => Kind::Unavailable,
            StoreError::Corrupt { .. } => Kind::Broken,
            StoreError::TooMany => Kind::Conflict,
        };
        Self(ApiError::new(kind, error.to_string()))
    }
}

/// Which name a request is about.
#[derive(Deserialize)]
pub(super) struct Asked {
    name: String,
}

fn input(message: impl std::fmt::Display) -> Refused {
    Refused(ApiError::new(Kind::Input, message.to_string()))
}

pub(super) async fn list(State(parts): Shared) -> Json<NamesStatus> {
    let zone = parts.names.names().zone();
    let listed = zone.listed().iter().map(|listed| NameStatus {
        name: listed.name.clone(),
        kind: match listed.kind {
            atoll_names::Kind::Node => "node".into(),
            atoll_names::Kind::Alias => "alias".into(),
        },
        node: listed.node,
        owner: listed.owner,
        address: listed.node.planetary_address().to_string(),
    });
    let owners = zone.book().owners.iter().map(|(name, owner)| OwnerName { name: name.to_string(), owner: *owner });
    Json(NamesStatus {
        server: parts.names.server().map(|server| server.to_string()),
        note: parts.names.note(),
        upstreams: parts.names.upstreams().iter().map(ToString::to_string).collect(),
        names: listed.collect(),
        owners: owners.collect(),
    })
}

pub(super) async fn give(
    State(parts): Shared,
    Query(asked): Query<Asked>,
    Json(request): Json<NameRequest>,
) -> Answer<()> {
    let name: GivenName = asked.name.parse().map_err(input)?;
    let id = match &name {
        GivenName::Owner(_) => {
            let owner: OwnerId = request.target.parse().map_err(input)?;
            // Both are keys and look alike.
            let as_node = NodeId::from_bytes(*owner.as_bytes());
            if as_node == parts.node || parts.link.peer(&as_node).is_some() {
                let said = format!("{owner} is a node's id, not an owner's");
                return Err(Refused(ApiError::new(Kind::Input, said).with_help("a name for a node ends in .mine")));
            }
            *owner.as_bytes()
        }
        GivenName::Alias(_) => *node(&parts.names.names().zone(), &request.target)?.as_bytes(),
    };
    parts.names.give(&name, id).await?;
    Ok(Json(()))
}

/// The one node that a text names, by its id or by name.
pub(super) fn node(zone: &Zone, target: &str) -> Result<NodeId, Refused> {
    if let Ok(node) = target.parse() {
        return Ok(node);
    }
    let (name, found) = find(zone, target);
    match found {
        Found::Nodes(nodes) => match nodes.as_slice() {
            [node] => Ok(*node),
            several => Err(input(format!("{name} stands for {} nodes; name one of them", several.len()))),
        },
        _ => Err(Refused(ApiError::new(Kind::NotFound, format!("{target} is no node's id, nor is {name} one's name")))),
    }
}

/// The name in full and what is under it.
fn find(zone: &Zone, text: &str) -> (String, Found) {
    let mut name = text.trim_end_matches('.').to_ascii_lowercase();
    if !name.ends_with(TOP) {
        name.push_str(TOP);
    }
    let found = zone.find(&name.split('.').collect::<Vec<_>>());
    (name, found)
}

pub(super) async fn take_back(State(parts): Shared, Query(asked): Query<Asked>) -> Answer<()> {
    let name: GivenName = asked.name.parse().map_err(input)?;
    if parts.names.take_back(&name).await? {
        return Ok(Json(()));
    }
    Err(Refused(ApiError::new(Kind::NotFound, format!("the name {name} was not given here"))))
}

pub(super) async fn resolve(State(parts): Shared, Query(asked): Query<Asked>) -> Answer<ResolvedName> {
    let zone = parts.names.names().zone();
    let not_found =
        |what: String| Refused(ApiError::new(Kind::NotFound, what).with_help("`atoll net names` lists what there is"));
    if let Ok(address) = asked.name.parse::<Ipv6Addr>() {
        let address = PlanetaryAddress::from_ip(address).map_err(input)?;
        let (node, name) =
            zone.at(address.ip()).ok_or_else(|| not_found(format!("no node here has the address {address}")))?;
        let node = NamedNode { address: address.to_string(), name: Some(name.to_owned()), node };
        return Ok(Json(ResolvedName { name: address.to_string(), nodes: vec![node] }));
    }
    let (name, found) = find(&zone, &asked.name);
    let nodes = match found {
        Found::Nodes(nodes) => nodes,
        Found::Nothing(_) | Found::Elsewhere | Found::Name(_) => {
            return Err(not_found(format!("there is no {name}")));
        }
        Found::Empty(_) | Found::Apex(_) | Found::Server => return Err(not_found(format!("{name} is no node"))),
    };
    let named = |node: NodeId| {
        let address = node.planetary_address();
        let best = zone.at(address.ip()).map(|(_, name)| name.to_owned());
        NamedNode { address: address.to_string(), name: best, node }
    };
    Ok(Json(ResolvedName { name, nodes: nodes.into_iter().map(named).collect() }))
}
