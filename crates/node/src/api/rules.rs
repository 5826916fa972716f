//! Handlers about what passes the planetary interface: rules, grants, and why something passes or not.

use atoll_control::{
    AllowRequest, ApiError, CheckAnswer, CheckRequest, CheckSide, DenyRequest, Kind, LookedAt, NetRule, PeerStatus,
};
use atoll_ids::NodeId;
use atoll_tun::{Cause, Direction, Explanation, Miss, NOTE_CHARS_MAX, Probe, Reason, Rule, Who};
use axum::extract::State;
use axum::response::Json;
use jiff::{SignedDuration, Timestamp};

use super::{Answer, Shared};
use crate::check;
use crate::daemon::Parts;
use crate::grants::{GrantError, Origin};

/// The longest grant that has an end, in seconds: a hundred years.
const GRANT_SECONDS_MAX: u64 = 100 * 366 * 86_400;

/// The fewest characters by which a node's id is recognised.
const ID_CHARS_MIN: usize = 6;

pub(super) async fn list(State(parts): Shared) -> Json<Vec<NetRule>> {
    let rules = parts.network.rules().into_iter().map(|(rule, origin)| shown(&rule, &origin));
    let routes = parts.network.tun().map(|tun| tun.status().routes).unwrap_or_default();
    let pods = routes.into_iter().filter_map(|(prefix, node)| {
        let rule = format!("node:{} to pods of {prefix}'s network, from {prefix}", node?);
        Some(NetRule { grant: None, rule, origin: "eVDC".to_owned(), over: false })
    });
    Json(rules.chain(pods).collect())
}

fn shown(rule: &Rule, origin: &Origin) -> NetRule {
    NetRule {
        grant: match origin {
            Origin::Grant(number) => Some(*number),
            Origin::Setting(_) => None,
        },
        rule: rule.to_string(),
        origin: origin.to_string(),
        over: rule.until.is_some_and(|until| until <= Timestamp::now()),
    }
}

impl From<GrantError> for ApiError {
    fn from(error: GrantError) -> Self {
        let kind = match error {
            GrantError::Already { .. } => Kind::Conflict,
            GrantError::NoGroup(_) | GrantError::Unknown(_) => Kind::NotFound,
            GrantError::Past(_) | GrantError::FromSettings { .. } => Kind::Input,
            GrantError::TooMany | GrantError::Store(_) => Kind::Unavailable,
        };
        Self::new(kind, error.to_string())
    }
}

fn input(error: impl std::fmt::Display) -> ApiError {
    ApiError::new(Kind::Input, error.to_string())
}

pub(super) async fn allow(State(parts): Shared, Json(request): Json<AllowRequest>) -> Answer<NetRule> {
    let who = match request.who.parse::<Who>() {
        Ok(who) => who,
        Err(error) if ["owner:", "node:", "group:"].iter().any(|kind| request.who.starts_with(kind)) => {
            return Err(input(error).into());
        }
        Err(_) => Who::Node(find(&parts, &request.who).await?),
    };
    let until = request.for_seconds.map(|seconds| -> Result<Timestamp, ApiError> {
        let seconds = i64::try_from(seconds.min(GRANT_SECONDS_MAX)).map_err(input)?;
        let until = Timestamp::now().checked_add(SignedDuration::from_secs(seconds)).map_err(input)?;
        Timestamp::from_second(until.as_second()).map_err(input)
    });
    let note = request.note.map(|note| note.trim().to_owned()).filter(|note| !note.is_empty());
    if let Some(note) = &note
        && (note.chars().count() > NOTE_CHARS_MAX || note.chars().any(char::is_control))
    {
        return Err(input(format!("a note is one line of at most {NOTE_CHARS_MAX} characters")).into());
    }
    let direction = if request.out { Direction::Out } else { Direction::In };
    let rule = Rule { direction, who, what: request.what.parse().map_err(input)?, until: until.transpose()?, note };
    let number = parts.network.allow(rule.clone()).await.map_err(ApiError::from)?;
    tracing::info!(%rule, number, "a grant is given");
    Ok(Json(shown(&rule, &Origin::Grant(number))))
}

pub(super) async fn deny(State(parts): Shared, Json(request): Json<DenyRequest>) -> Answer<Vec<NetRule>> {
    let taken = parts.network.deny(&request.rule).await.map_err(ApiError::from)?;
    for (number, rule) in &taken {
        tracing::info!(%rule, number, "a grant is taken back");
    }
    Ok(Json(taken.iter().map(|(number, rule)| shown(rule, &Origin::Grant(*number))).collect()))
}

pub(super) async fn check(State(parts): Shared, Json(request): Json<CheckRequest>) -> Answer<CheckAnswer> {
    let probe: Probe = request.what.parse().map_err(input)?;
    let (from, to) = (find(&parts, &request.from).await?, find(&parts, &request.to).await?);
    let (peer, outward) = match (from == parts.node, to == parts.node) {
        (true, false) => (to, true),
        (false, true) => (from, false),
        (true, true) => return Err(input("both ends are this node: what it says to itself passes no filter").into()),
        (false, false) => {
            let help = "ask one of the two: a node says what it lets in and out only about itself and whoever asks";
            return Err(ApiError::new(Kind::Input, "neither end is this node").with_help(help).into());
        }
    };
    let here = own_side(&parts, peer, outward, probe);
    let there = peer_side(&parts, peer, !outward, probe).await;
    let sides = if outward { vec![here, there] } else { vec![there, here] };
    let passes = match sides.iter().map(|side| side.passes).collect::<Vec<_>>()[..] {
        [Some(true), Some(true)] => Some(true),
        [Some(false), _] | [_, Some(false)] => Some(false),
        _ => None,
    };
    Ok(Json(CheckAnswer { from, to, what: probe.to_string(), passes, sides }))
}

/// This node's side of what it begins (`outward`), or the peer does.
fn own_side(parts: &Parts, peer: NodeId, outward: bool, probe: Probe) -> CheckSide {
    let direction = if outward { Direction::Out } else { Direction::In };
    let mut side = CheckSide {
        node: parts.node,
        sends: outward,
        passes: Some(false),
        why: String::new(),
        rule: None,
        looked_at: Vec::new(),
        help: None,
    };
    let (explanation, rules) = match parts.network.check(direction, peer, probe) {
        Ok(answer) => answer,
        Err(why_not) => return CheckSide { why: format!("there is no interface: {why_not}"), ..side },
    };
    let rule = |at: usize| rules.get(at).map(|(rule, origin)| shown(rule, origin));
    let Explanation { verdict, looked_at } = explanation;
    side.passes = Some(verdict.is_ok());
    side.why = verdict.map_or_else(refusal, |cause| permission(cause).to_owned());
    side.rule = verdict.ok().and_then(Cause::rule).and_then(rule);
    // Rules of the other direction are not about this at all.
    let missed = looked_at.into_iter().filter(|(_, miss)| *miss != Miss::Direction);
    side.looked_at =
        missed.filter_map(|(at, miss)| Some(LookedAt { rule: rule(at)?, why_not: missing(miss).to_owned() })).collect();
    side.help = match verdict {
        Err(Reason::Unsolicited) => Some(format!("atoll net allow node:{peer} {probe}")),
        Err(Reason::NotListed) => Some(format!("atoll net allow --out node:{peer} {probe}")),
        Err(Reason::Stranger | Reason::Nowhere) => Some("atoll join, with a ticket of that node".to_owned()),
        _ => None,
    };
    side
}

/// The peer's side, as it says.
async fn peer_side(parts: &Parts, peer: NodeId, outward: bool, probe: Probe) -> CheckSide {
    let answer = check::ask(&parts.link, peer, outward, probe).await;
    // A rule is what is missing there, and not an interface, say.
    let mut takes_a_rule = false;
    let (passes, why, rule) = match answer {
        check::Answer::Passes(rule) => {
            let why = if rule.is_some() { "a rule allows it" } else { "nothing restricts it" };
            (Some(true), why.to_owned(), rule)
        }
        check::Answer::Refused(word) => {
            let reason = Reason::ALL.into_iter().find(|reason| reason.word() == word);
            takes_a_rule = matches!(reason, Some(Reason::Unsolicited | Reason::NotListed));
            (Some(false), reason.map_or(word, refusal), None)
        }
        check::Answer::Declined(why_not) => (None, why_not, None),
    };
    let out = if outward { " --out" } else { "" };
    let help = takes_a_rule.then(|| format!("on that node: atoll net allow{out} node:{} {probe}", parts.node));
    let rule = rule.map(|rule| NetRule { grant: None, rule, origin: "that node".to_owned(), over: false });
    CheckSide { node: peer, sends: outward, passes, why, rule, looked_at: Vec::new(), help }
}

fn permission(cause: Cause) -> &'static str {
    match cause {
        Cause::Rule(_) => "a rule allows it",
        Cause::Unrestricted => "what goes out is not restricted (network.out)",
        Cause::Answer => "it answers something",
        Cause::AboutAnswer => "it is about something that was said",
        Cause::Piece => "it is a piece of something that passed",
        Cause::Pods => "it stays within a pod network",
    }
}

fn refusal(reason: Reason) -> String {
    match reason {
        Reason::Unsolicited => "no rule lets it in",
        Reason::NotListed => "only what is listed goes out (network.out), and no rule lists it",
        Reason::Stranger | Reason::Nowhere => "the other node is no peer",
        Reason::Underlay => "that port carries the connections between the nodes themselves",
        Reason::Revoked => "its rule was taken away or ran out",
        other => other.word(),
    }
    .to_owned()
}

fn missing(miss: Miss) -> &'static str {
    match miss {
        Miss::Direction => "is about the other direction",
        Miss::Who => "is about others",
        Miss::What => "is about something else",
        Miss::Over => "ran out",
        Miss::Other => "is about the beginning of a conversation",
    }
}

/// The node that somebody means: `me`, an id or the beginning of one, a planetary address, a name as peers say it or in full.
pub(super) async fn find(parts: &Parts, text: &str) -> Result<NodeId, ApiError> {
    if let Ok(node) = text.parse() {
        return Ok(node);
    }
    let own = PeerName { node: parts.node, name: parts.config.name.clone() };
    let look = || {
        let peers: Vec<PeerName> = parts.peers.status().into_iter().map(PeerName::from).collect();
        meant(text, own.clone(), &peers).or_else(|error| match error.kind {
            Kind::NotFound => super::names::node(&parts.names.names().zone(), text).map_err(|_| error),
            _ => Err(error),
        })
    };
    match look() {
        // Right after a start nobody has said yet what it is called.
        Err(error) if error.kind == Kind::NotFound => {
            parts.peers.settled().await;
            look()
        }
        found => found,
    }
}

/// What a node can be called by.
#[derive(Clone)]
struct PeerName {
    node: NodeId,
    name: Option<String>,
}

impl From<PeerStatus> for PeerName {
    fn from(peer: PeerStatus) -> Self {
        Self { node: peer.node, name: peer.name }
    }
}

fn meant(text: &str, own: PeerName, peers: &[PeerName]) -> Result<NodeId, ApiError> {
    if text == "me" {
        return Ok(own.node);
    }
    if let Ok(node) = text.parse() {
        return Ok(node);
    }
    let is_meant = |peer: &&PeerName| {
        peer.name.as_deref() == Some(text)
            || peer.node.planetary_address().to_string() == text
            || text.len() >= ID_CHARS_MIN && peer.node.to_string().starts_with(text)
    };
    let found: Vec<NodeId> = std::iter::once(&own).chain(peers).filter(is_meant).map(|peer| peer.node).collect();
    match found[..] {
        [node] => Ok(node),
        [] => Err(ApiError::new(
            Kind::NotFound,
            format!("no node is called {:?}", text.chars().take(80).collect::<String>()),
        )
        .with_help("`me`, or a name, id or address that `atoll net status` shows")),
        _ => {
            let ids: Vec<String> = found.iter().map(ToString::to_string).collect();
            Err(ApiError::new(Kind::Conflict, format!("{text:?} could be any of these: {}", ids.join(" "))))
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;

    #[test]
    fn nodes_are_found_by_what_they_are_called() {
        let id = |number: u8| NodeId::from_bytes([number; 32]);
        let peer = |number, name: &str| PeerName { node: id(number), name: Some(name.to_owned()) };
        let peers = [peer(2, "attic"), peer(3, "cellar"), peer(4, "cellar")];
        let check = |text: &str, expect: Result<NodeId, Kind>| {
            assert_eq!(meant(text, peer(1, "desk"), &peers).map_err(|error| error.kind), expect, "{text}");
        };
        check("me", Ok(id(1)));
        check("desk", Ok(id(1)));
        check("attic", Ok(id(2)));
        check("cellar", Err(Kind::Conflict));
        check("roof", Err(Kind::NotFound));
        check(&id(2).to_string(), Ok(id(2)));
        check(&id(2).short().to_string(), Ok(id(2)));
        check(&id(2).planetary_address().to_string(), Ok(id(2)));
        // A stranger has an id as well; what is said about it is said.
        check(&id(9).to_string(), Ok(id(9)));
    }
}
