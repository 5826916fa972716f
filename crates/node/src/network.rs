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

use atoll_ids::NodeId;
use atoll_link::{FixedPeer, LinkConfig, LinkHandle, Packets};
use atoll_settings::{Key, Kind, Settings, SettingsError};
use atoll_tun::{PacketLink, PeerEntry, Routes, Rule, Tun, TunConfig, TunHandle};
use bytes::Bytes;
use futures_util::future::BoxFuture;
use tokio_util::sync::CancellationToken;

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
    doc: "what peers may begin over the interface: `peers icmp`, `owner:ID tcp/443`, `node:ID udp/5000-6000`, `node:ID`",
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

/// What the settings come to.
#[derive(Debug, Clone)]
pub(crate) struct NetworkConfig {
    /// The interface's name, or why there is none.
    interface: Result<String, &'static str>,
    rules: Vec<Rule>,
    peers: Vec<FixedPeer>,
    lan: bool,
}

impl NetworkConfig {
    /// Reads the settings. `bind` is where the link listens.
    pub(crate) fn from_settings(settings: &Settings, bind: &[SocketAddr]) -> Result<Self, SettingsError> {
        let on_loopback = bind.iter().all(|address| address.ip().is_loopback());
        let interface: String = settings.get("network.interface");
        let lan: String = settings.get("network.lan");
        Ok(Self {
            interface: match interface.as_str() {
                "off" => Err("network.interface is off"),
                "auto" if on_loopback => Err("network.bind is loopback only"),
                "auto" => Ok(DEFAULT_NAME.to_owned()),
                _ => Ok(interface),
            },
            rules: list(settings, "network.allow")?,
            peers: list(settings, "network.peers")?,
            lan: lan == "on" && !on_loopback,
        })
    }
}

/// The values of a setting that is a list.
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
}

/// What others see of it. Cheap to clone.
#[derive(Clone)]
pub(crate) struct NetworkHandle {
    tun: Result<TunHandle, String>,
    /// Why the interface is no more.
    ended: Arc<OnceLock<String>>,
}

impl Network {
    /// Raises the interface if there is to be one and there can be.
    pub(crate) async fn raise(config: &NetworkConfig, node: NodeId) -> Self {
        let tun = match &config.interface {
            Ok(name) => {
                let tun = TunConfig { name: name.clone(), address: node.planetary_address() };
                Tun::raise(tun, config.rules.clone()).await.map_err(|error| error.to_string())
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
        Self { tun, config: config.clone() }
    }

    /// What the link has to know.
    pub(crate) fn configure(&self, link: LinkConfig) -> LinkConfig {
        LinkConfig { peers: self.config.peers.clone(), lan: self.config.lan, packets: self.tun.is_ok(), ..link }
    }

    /// Something to look at it with.
    pub(crate) fn handle(&self) -> NetworkHandle {
        let tun = self.tun.as_ref().map(Tun::handle).map_err(Clone::clone);
        NetworkHandle { tun, ended: Arc::default() }
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
    filter.set_underlay_ports(link.addresses().quic.iter().map(SocketAddr::port).collect());
}

impl NetworkHandle {
    /// The interface, for whoever runs pods or shows how it fares.
    pub(crate) fn tun(&self) -> Option<&TunHandle> {
        self.tun.as_ref().ok().filter(|_| self.ended.get().is_none())
    }

    /// The interface's name, and where the pod networks behind it are kept.
    pub(crate) fn planetary(&self) -> Option<(String, Routes)> {
        self.tun().map(|tun| (tun.status().name, tun.routes()))
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
}
