//! The network role: the planetary interface over the link, and the settings of both.
//!
//! The interface is raised before the link binds its sockets. Raised later it would be a change of the machine's network, upon which iroh binds everything anew
//! and, on a machine without a default route, holds connections up for seconds.
//!
//! A machine that cannot have an interface, or is not to, is no reason not to start: streams work without.

use std::net::SocketAddr;
use std::str::FromStr;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use atoll_fast::{Burst, Cut, Inbox};
use atoll_ids::{ByteCount, NodeId, OwnerId};
use atoll_link::{FixedPeer, LinkConfig, LinkHandle, Packets, RelayBudget};
use atoll_settings::{Key, Kind, Settings, SettingsError};
use atoll_tun::{
    Asked, Direction, Explanation, GROUPS_MAX, Group, Out, PacketLink, PeerEntry, Policy, Probe, RULES_MAX, Routes,
    Rule, Tun, TunConfig, TunHandle, Who, allows, allows_by_name,
};
use bytes::Bytes;
use futures_util::future::BoxFuture;
use jiff::Timestamp;
use tokio_util::sync::CancellationToken;

use crate::grants::{GrantError, Grants, Origin};
use crate::names::NamesConfig;
use crate::peer_table::PeerTable;

/// The interface's name unless another is configured.
const DEFAULT_NAME: &str = "atoll0";

/// Peers come and go in groups; the filter's table is made anew once for a group.
const SETTLE: Duration = Duration::from_millis(50);

/// The settings of this role beside those of the link.
pub(crate) const INTERFACE: Key = Key {
    name: "network.interface",
    kind: Kind::Text,
    default: Some("auto"),
    doc: "the planetary interface: a name, off, or auto (atoll0, and none where network.bind is loopback only)",
    flag: None,
};

/// See [`INTERFACE`].
pub(crate) const ALLOW: Key = Key {
    name: "network.allow",
    kind: Kind::List(&Kind::Text),
    default: Some("peers icmp"),
    doc: "what peers may begin over the interface: `peers icmp`, `owner:ID tcp/443`, `node:ID udp/5000-6000 until 2026-12-31T00:00Z # note`, `group:NAME`; with `to` before it, what this node may begin (network.out)",
    flag: None,
};

/// See [`INTERFACE`].
pub(crate) const GROUPS: Key = Key {
    name: "network.groups",
    kind: Kind::List(&Kind::Text),
    default: Some(""),
    doc: "nodes and owners under one name, for rules: `admins owner:ID node:ID`",
    flag: None,
};

/// See [`INTERFACE`].
pub(crate) const OUT: Key = Key {
    name: "network.out",
    kind: Kind::Choice(&["all", "listed"]),
    default: Some("all"),
    doc: "what this node may begin over the interface: all, or what rules with `to` list",
    flag: None,
};

/// See [`INTERFACE`].
pub(crate) const CHECK: Key = Key {
    name: "network.check",
    kind: Kind::Choice(&["on", "off"]),
    default: Some("on"),
    doc: "tell a peer that asks whether the rules let it in (`atoll net check`); it learns about itself alone",
    flag: None,
};

/// See [`INTERFACE`].
pub(crate) const PEERS: Key = Key {
    name: "network.peers",
    kind: Kind::List(&Kind::Text),
    default: Some(""),
    doc: "nodes known without a ticket, as NODEID@ADDRESS:PORT; they have to know this one, too",
    flag: None,
};

/// See [`INTERFACE`].
pub(crate) const LAN: Key = Key {
    name: "network.lan",
    kind: Kind::Choice(&["on", "off"]),
    default: Some("on"),
    doc: "tell the local network by multicast (UDP port 5770) where this node is, and listen for peers there",
    flag: None,
};

/// See [`INTERFACE`].
pub(crate) const FAST: Key = Key {
    name: "network.fast",
    kind: Kind::Choice(&["on", "off"]),
    default: Some("on"),
    doc: "send packets as UDP datagrams of their own, sealed, many at a time, wherever these get through; off: inside QUIC only",
    flag: None,
};

/// See [`INTERFACE`].
pub(crate) const FAST_PORT: Key = Key {
    name: "network.fast_port",
    kind: Kind::Integer { min: 0, max: 65_535 },
    default: Some("0"),
    doc: "the UDP port for those, on the addresses of network.bind; 0 takes a free one. Open it where a firewall keeps peers out",
    flag: None,
};

/// Whether this node relays. A node's address and the peers that it is connected with are used either way; what costs is bandwidth, and that is bounded.
pub(crate) const RELAY: Key = Key {
    name: "relay.offer",
    kind: Kind::Choice(&["on", "off"]),
    default: Some("on"),
    doc: "carry encrypted packets between peers of this node that cannot reach each other, within relay.rate",
    flag: None,
};

/// 8 Mbit/s: a pod's API and a call get through, and most uplinks do not notice. It is the owner's to raise.
pub(crate) const RELAY_RATE: Key = Key {
    name: "relay.rate",
    kind: Kind::ByteCount,
    default: Some("1M"),
    doc: "bytes per second carried for all peers together; each byte comes in and goes out",
    flag: None,
};

/// See [`RELAY_RATE`]: no single peer takes all of it.
pub(crate) const RELAY_RATE_PER_USER: Key = Key {
    name: "relay.rate_per_user",
    kind: Kind::ByteCount,
    default: Some("512K"),
    doc: "bytes per second carried for one peer",
    flag: None,
};

/// What the settings come to.
#[derive(Debug, Clone)]
pub(crate) struct NetworkConfig {
    /// The interface's name, or why there is none.
    interface: Result<String, &'static str>,
    /// What the settings say about packets.
    pub(crate) policy: Policy,
    /// Where the rules come from.
    pub(crate) rules_origin: String,
    answers: bool,
    peers: Vec<FixedPeer>,
    lan: bool,
    /// What the node says of names.
    pub(crate) names: NamesConfig,
    /// `None` is off.
    fast_port: Option<u16>,
    relay: Option<RelayBudget>,
}

impl NetworkConfig {
    /// Reads the settings. `bind` is where the link listens.
    pub(crate) fn from_settings(settings: &Settings, bind: &[SocketAddr]) -> Result<Self, SettingsError> {
        let on_loopback = bind.iter().all(|address| address.ip().is_loopback());
        let interface: String = settings.get("network.interface");
        let lan: String = settings.get("network.lan");
        let fast: String = settings.get("network.fast");
        Ok(Self {
            interface: match interface.as_str() {
                "off" => Err("network.interface is off"),
                "auto" if on_loopback => Err("network.bind is loopback only"),
                "auto" => Ok(DEFAULT_NAME.to_owned()),
                _ => Ok(interface),
            },
            policy: policy(settings)?,
            rules_origin: settings.origin("network.allow").to_string(),
            answers: settings.get::<String>("network.check") == "on",
            peers: list(settings, "network.peers")?,
            lan: lan == "on" && !on_loopback,
            names: NamesConfig::from_settings(settings)?,
            fast_port: (fast == "on").then(|| settings.get("network.fast_port")),
            relay: relay(settings)?,
        })
    }
}

fn policy(settings: &Settings) -> Result<Policy, SettingsError> {
    let rules: Vec<Rule> = list(settings, "network.allow")?;
    let groups: Vec<Group> = list(settings, "network.groups")?;
    if rules.len() > RULES_MAX / 2 {
        return Err(settings.refuse("network.allow", format!("there are more than {} rules", RULES_MAX / 2)));
    }
    let twice = groups.iter().enumerate().find(|(at, one)| groups[..*at].iter().any(|other| other.name == one.name));
    if let Some((_, group)) = twice {
        return Err(settings.refuse("network.groups", format!("the group {} is there twice", group.name)));
    }
    if groups.len() > GROUPS_MAX {
        return Err(settings.refuse("network.groups", format!("there are more than {GROUPS_MAX} groups")));
    }
    let missing = rules.iter().find_map(|rule| match &rule.who {
        Who::Group(name) if !groups.iter().any(|group| group.name == *name) => Some(name),
        _ => None,
    });
    if let Some(name) = missing {
        return Err(settings.refuse("network.allow", format!("there is no group {name} in network.groups")));
    }
    let out = if settings.get::<String>("network.out") == "listed" { Out::Listed } else { Out::All };
    Ok(Policy { rules, groups, out })
}

fn relay(settings: &Settings) -> Result<Option<RelayBudget>, SettingsError> {
    let offer: String = settings.get("relay.offer");
    let (rate, rate_per_user): (ByteCount, ByteCount) =
        (settings.get("relay.rate"), settings.get("relay.rate_per_user"));
    for (name, rate) in [("relay.rate", rate), ("relay.rate_per_user", rate_per_user)] {
        if rate.0 == 0 && offer == "on" {
            return Err(
                settings.refuse(name, "nothing is carried at that rate; set relay.offer = \"off\" to relay nothing")
            );
        }
    }
    Ok((offer == "on").then_some(RelayBudget { rate: rate.0, rate_per_user: rate_per_user.0 }))
}

pub(crate) fn list<T>(settings: &Settings, name: &str) -> Result<Vec<T>, SettingsError>
where
    T: FromStr<Err: std::fmt::Display>,
{
    let texts: Vec<String> = settings.get(name);
    let parsed = texts.iter().map(|text| text.parse().map_err(|error: T::Err| settings.refuse(name, error)));
    parsed.collect()
}

/// The interface of a node, or why it has none.
pub(crate) struct Network {
    tun: Result<Tun, String>,
    config: NetworkConfig,
    grants: Grants,
    ended: Arc<OnceLock<String>>,
}

/// What others see of it. Cheap to clone.
#[derive(Clone)]
pub(crate) struct NetworkHandle {
    tun: Result<TunHandle, String>,
    /// Why the interface is no more.
    ended: Arc<OnceLock<String>>,
    grants: Grants,
    /// Whether peers' questions are answered.
    answers: bool,
}

impl Network {
    /// Raises the interface if there is to be one and there can be.
    pub(crate) async fn raise(config: &NetworkConfig, node: NodeId, grants: Grants) -> Self {
        let tun = match &config.interface {
            Ok(name) => {
                let tun = TunConfig { name: name.clone(), address: node.planetary_address() };
                Tun::raise(tun, grants.policy()).await.map_err(|error| error.to_string())
            }
            Err(why_not) => Err((*why_not).to_owned()),
        };
        match (&tun, &config.interface) {
            (Ok(_), Ok(name)) => {
                tracing::info!(interface = name, address = %node.planetary_address(), "interface is up")
            }
            (Err(why_not), Ok(_)) => tracing::warn!(why_not, "no planetary interface; everything else works"),
            _ => {}
        }
        Self { tun, config: config.clone(), grants, ended: Arc::default() }
    }

    /// What the link has to know.
    pub(crate) fn configure(&self, link: LinkConfig) -> LinkConfig {
        let NetworkConfig { peers, lan, fast_port, relay, .. } = self.config.clone();
        LinkConfig { peers, lan, relay, fast_port, packets: self.tun.is_ok(), ..link }
    }

    /// Something to look at it with.
    pub(crate) fn handle(&self) -> NetworkHandle {
        let tun = self.tun.as_ref().map(Tun::handle).map_err(Clone::clone);
        let (ended, grants) = (self.ended.clone(), self.grants.clone());
        NetworkHandle { tun, ended, grants, answers: self.config.answers }
    }

    /// Carries packets until told to stop. The interface goes with it.
    pub(crate) async fn run(self, handle: NetworkHandle, link: LinkHandle, peers: PeerTable, stop: CancellationToken) {
        let (Ok(tun), Ok(filter)) = (self.tun, &handle.tun) else { return };
        // Tables first: the first packet is judged by them.
        tell(filter, &link, &peers);
        tokio::select! {
            () = stop.cancelled() => {}
            () = keep_telling(filter, &link, &peers) => {}
            ended = tun.run(Arc::new(Carrier(link.packets()))) => {
                if let Err(error) = ended {
                    tracing::error!(%error, "the planetary interface ended; restart the node to have it again");
                    let _: Result<(), String> = handle.ended.set(error.to_string());
                }
            }
        }
    }
}

/// Keeps the filter's tables to who is known and whose it is.
async fn keep_telling(filter: &TunHandle, link: &LinkHandle, peers: &PeerTable) {
    let (mut changes, mut answers) = (link.changes(), peers.answers());
    loop {
        let changed = tokio::select! {
            changed = changes.changed() => changed,
            changed = answers.changed() => changed,
        };
        if changed.is_err() {
            return;
        }
        tell(filter, link, peers);
        tokio::time::sleep(SETTLE).await;
    }
}

fn tell(filter: &TunHandle, link: &LinkHandle, peers: &PeerTable) {
    filter.set_peers(peers.status().into_iter().map(|peer| PeerEntry { node: peer.node, owner: peer.owner }));
    let quic = link.addresses();
    let ports = quic.quic.iter().map(SocketAddr::port).chain(link.packets().fast_ports());
    filter.set_underlay_ports(ports.collect());
}

impl NetworkHandle {
    /// The interface, for whoever runs pods or shows how it fares.
    pub(crate) fn tun(&self) -> Option<&TunHandle> {
        self.tun.as_ref().ok().filter(|_| self.ended.get().is_none())
    }

    /// Whether the filter's rules let a peer begin TCP to a port here; if `named`, only those that name the protocol.
    pub(crate) fn allows_tcp(&self, peer: NodeId, owner: Option<OwnerId>, port: u16, named: bool) -> bool {
        let (policy, now, asked) = (self.grants.policy(), Timestamp::now(), Asked::Tcp(port));
        if named { allows_by_name(&policy, now, peer, owner, asked) } else { allows(&policy, now, peer, owner, asked) }
    }

    /// The interface's name, and where the pod networks behind it are kept.
    pub(crate) fn planetary(&self) -> Option<(String, Routes)> {
        self.tun().map(|tun| (tun.status().name, tun.routes()))
    }

    /// Every rule with where it comes from.
    pub(crate) fn rules(&self) -> Vec<(Rule, Origin)> {
        self.grants.rules()
    }

    /// Gives a grant, which counts from now on. Its number.
    pub(crate) async fn allow(&self, rule: Rule) -> Result<u32, GrantError> {
        self.grants.allow(rule, |policy| self.tell(policy)).await
    }

    /// Takes grants back, by number or by what they say; what was begun under them ends.
    pub(crate) async fn deny(&self, what: &str) -> Result<Vec<(u32, Rule)>, GrantError> {
        self.grants.deny(what, |policy| self.tell(policy)).await
    }

    fn tell(&self, policy: Policy) {
        if let Ok(tun) = &self.tun {
            tun.set_policy(policy);
        }
    }

    /// Whether a node could begin something with this one, or this one with it, and the rules that the explanation speaks of; or why there is no interface.
    pub(crate) fn check(
        &self,
        direction: Direction,
        node: NodeId,
        probe: Probe,
    ) -> Result<(Explanation, Vec<(Rule, Origin)>), String> {
        let tun = match (&self.tun, self.ended.get()) {
            (_, Some(why_not)) | (Err(why_not), None) => return Err(why_not.clone()),
            (Ok(tun), None) => tun,
        };
        Ok(self.grants.ask(|| tun.check(direction, node, probe)))
    }

    /// Whether peers' questions are answered.
    pub(crate) fn answers(&self) -> bool {
        self.answers
    }

    /// What the status says about it.
    pub(crate) fn note(&self) -> String {
        match (&self.tun, self.ended.get()) {
            (_, Some(why_not)) | (Err(why_not), None) => format!("no interface: {why_not}"),
            (Ok(tun), None) => {
                let status = tun.status();
                let warning = status.unguarded.map(|reason| format!(", not kept off the local network: {reason}"));
                format!("interface {}{}", status.name, warning.unwrap_or_default())
            }
        }
    }
}

/// The link as the interface needs it.
struct Carrier(Packets);

impl PacketLink for Carrier {
    fn send(&self, to: NodeId, packets: &[Bytes]) {
        if let Err(error) = self.0.send_many(to, packets) {
            tracing::trace!(peer = %to.short(), %error, "packets are not sent");
        }
    }

    fn receive<'a>(&'a self, batch: &'a mut Vec<(NodeId, Bytes)>) -> BoxFuture<'a, bool> {
        Box::pin(self.0.receive(batch))
    }

    fn send_burst<'a>(&'a self, to: NodeId, burst: Burst<'a>) -> Option<BoxFuture<'a, ()>> {
        self.0.send_burst(to, burst)
    }

    fn send_cut<'a>(&'a self, to: NodeId, cut: Cut<'a>) -> Option<BoxFuture<'a, ()>> {
        self.0.send_cut(to, cut)
    }

    fn narrow(&self, to: &NodeId) -> Option<usize> {
        self.0.narrow(to)
    }

    fn receive_into<'a>(&'a self, inbox: &'a mut Inbox) -> BoxFuture<'a, bool> {
        Box::pin(self.0.receive_into(inbox))
    }
}
