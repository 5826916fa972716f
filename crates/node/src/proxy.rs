//! Reaching out: the proxy for programs of this machine, what peers reach through this node, and the settings of both.
//!
//! A machine on which the proxy's usual port is taken is no reason not to start: the Unix socket beside the control socket does as well.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use atoll_control::{ProxyCounts, ProxyStatus};
use atoll_ids::{NodeId, OwnerId};
use atoll_link::LinkHandle;
use atoll_names::{Found, Names};
use atoll_proxy::{CountsNow, DialServer, ExitRule, Front, Grants, Here, NameError, Reacher, Route, Routes, Users};
use atoll_settings::{Key, Kind, Settings, SettingsError};
use futures_util::future::BoxFuture;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::config::Config;
use crate::daemon::NodeError;
use crate::network::{NetworkHandle, list};
use crate::peer_table::PeerTable;

/// The proxy's port unless another is configured: beside those of metrics and dashboard.
const USUAL: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 5780);

/// The name of the Unix socket below the data directory.
const SOCKET_NAME: &str = "proxy.sock";

/// What names of the planetary network end with, and that with the dot before it.
const TOP: &str = "atoll";
const SUFFIX: &str = ".atoll";

/// What stands for this node's own owner in names.
const MINE: &str = "mine";

/// Where programs find the proxy.
pub(crate) const PROXY: Key = Key {
    name: "network.proxy",
    kind: Kind::Text,
    default: Some("auto"),
    doc: "a SOCKS5 and HTTP proxy for programs of this machine: an address on loopback, off, or auto (127.0.0.1:5780 if it is free)",
    flag: None,
};

/// Who may use it.
pub(crate) const PROXY_USERS: Key = Key {
    name: "network.proxy_users",
    kind: Kind::List(&Kind::Text),
    default: Some(""),
    doc: "numbers of users of this machine that may use the proxy beside root and the node's own, or all",
    flag: None,
};

/// What others reach through this node.
pub(crate) const EXIT: Key = Key {
    name: "network.exit",
    kind: Kind::List(&Kind::Text),
    default: Some(""),
    doc: "who may reach what beyond this node through it: `owner:ID internet tcp/443`, `node:ID 10.1.0.0/16`; nobody unless named",
    flag: None,
};

/// Through whom this node reaches others.
pub(crate) const EXIT_VIA: Key = Key {
    name: "network.exit_via",
    kind: Kind::List(&Kind::Text),
    default: Some(""),
    doc: "nodes that take what the proxy is asked for outside the planetary network: NODEID, 10.1.0.0/16=NODEID, corp.example=NODEID",
    flag: None,
};

/// What the settings come to.
#[derive(Debug, Clone)]
pub(crate) struct ProxyConfig {
    listen: Listen,
    users: Users,
    /// What peers reach through this node.
    pub(crate) exit: Vec<ExitRule>,
    routes: Routes,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Listen {
    Off,
    Auto,
    At(SocketAddr),
}

impl ProxyConfig {
    /// Reads the settings.
    pub(crate) fn from_settings(settings: &Settings) -> Result<Self, SettingsError> {
        let listen: String = settings.get("network.proxy");
        let listen = match listen.as_str() {
            "off" => Listen::Off,
            "auto" => Listen::Auto,
            address => {
                let address: SocketAddr = address.parse().map_err(|_| {
                    settings.refuse("network.proxy", "that is neither an address with a port nor off nor auto")
                })?;
                if !address.ip().is_loopback() {
                    return Err(settings.refuse("network.proxy", "the proxy is served on loopback only"));
                }
                Listen::At(address)
            }
        };
        let users: Vec<String> = settings.get("network.proxy_users");
        let users = if users.iter().any(|user| user == "all") {
            Users::All
        } else {
            let number = |user: &String| user.parse::<u32>();
            let numbers: Result<BTreeSet<u32>, _> = users.iter().map(number).collect();
            let refuse = |_| settings.refuse("network.proxy_users", "users are named by number (see `id -u NAME`)");
            Users::own_and(numbers.map_err(refuse)?)
        };
        let routes: Vec<Route> = list(settings, "network.exit_via")?;
        Ok(Self { listen, users, exit: list(settings, "network.exit")?, routes: Routes::new(routes) })
    }
}

/// What the rules are asked of.
struct NodeGrants {
    peers: PeerTable,
    network: NetworkHandle,
    /// Ports of this node on loopback.
    own: Vec<u16>,
}

impl Grants for NodeGrants {
    fn owner(&self, node: &NodeId) -> Option<OwnerId> {
        self.peers.owner(node)
    }

    fn allows(&self, peer: NodeId, owner: Option<OwnerId>, port: u16, named: bool) -> bool {
        self.network.allows_tcp(peer, owner, port, named)
    }

    fn here(&self) -> Here {
        here(&self.network, &self.own)
    }
}

fn here(network: &NetworkHandle, own: &[u16]) -> Here {
    match network.tun() {
        Some(tun) => Here::Interface(tun.status().address.ip()),
        None => Here::Loopback { own: own.to_vec() },
    }
}

/// Names as this node answers for them (`atoll_names`), and `<node>.atoll` for those of its own owner. Whose a node is, it has proven.
struct OwnNames {
    peers: PeerTable,
    names: Names,
}

impl OwnNames {
    /// As the proxy asks.
    fn resolver(self) -> impl Fn(&str) -> BoxFuture<'static, Result<NodeId, NameError>> + Send + Sync {
        let own = Arc::new(self);
        move |name| {
            let (own, name) = (own.clone(), name.to_owned());
            Box::pin(async move {
                // Right after a start nobody has said yet what it is called.
                own.peers.settled().await;
                find(&own.names, &name)
            })
        }
    }
}

fn find(names: &Names, name: &str) -> Result<NodeId, NameError> {
    let unknown = || NameError::Unknown { name: name.to_owned() };
    let wanted = name.trim_end_matches('.').to_ascii_lowercase();
    let wanted = wanted.strip_suffix(SUFFIX).ok_or_else(unknown)?;
    let labels: Vec<&str> = match wanted.contains('.') {
        true => wanted.split('.').chain([TOP]).collect(),
        false => vec![wanted, MINE, TOP],
    };
    match names.zone().find(&labels) {
        Found::Nodes(nodes) => match nodes.as_slice() {
            [node] => Ok(*node),
            several => Err(NameError::Ambiguous { name: name.to_owned(), nodes: several.len() }),
        },
        _ => Err(unknown()),
    }
}

/// The proxy and the serving side of a node.
pub(crate) struct Proxy {
    pub(crate) reacher: Reacher,
    server: DialServer,
    address: Option<SocketAddr>,
    socket: Option<PathBuf>,
    note: Option<String>,
    front: Mutex<Option<Front>>,
}

/// What the proxy is built upon.
pub(crate) struct ProxyGround {
    pub(crate) link: LinkHandle,
    pub(crate) peers: PeerTable,
    pub(crate) names: Names,
    pub(crate) network: NetworkHandle,
    /// Served already, and denying everything until now.
    pub(crate) dials: DialServer,
    /// Where else this node listens on loopback.
    pub(crate) own: [Option<SocketAddr>; 2],
}

impl Proxy {
    /// Binds what programs speak to, and lets peers in as the rules say.
    pub(crate) async fn open(config: &Config, ground: ProxyGround) -> Result<Self, NodeError> {
        let ProxyGround { link, peers, names, network, dials, own } = ground;
        let names = OwnNames { peers: peers.clone(), names };
        let (data_dir, config) = (&config.data_dir, &config.proxy);
        let mut notes = Vec::new();
        let tcp = match config.listen {
            Listen::Off => {
                notes.push("network.proxy is off".to_owned());
                None
            }
            Listen::Auto => {
                TcpListener::bind(USUAL).await.map_err(|error| notes.push(format!("{USUAL}: {error}"))).ok()
            }
            Listen::At(address) => Some(TcpListener::bind(address).await.map_err(|source| NodeError::Io {
                what: format!("cannot serve the proxy at {address} (setting network.proxy; port 0 chooses a free one)"),
                source,
            })?),
        };
        let path = data_dir.join(SOCKET_NAME);
        let unix = match config.listen {
            Listen::Off => None,
            _ => crate::api::bind(&path).map_err(|error| notes.push(format!("{}: {error}", path.display()))).ok(),
        };
        let address = tcp.as_ref().and_then(|listener| listener.local_addr().ok());
        let own: Vec<u16> = own.into_iter().chain([address]).flatten().map(|address| address.port()).collect();
        let (at, ports) = (network.clone(), own.clone());
        let reacher = Reacher::new(link, Arc::new(names.resolver()), move || here(&at, &ports), config.routes.clone());
        dials.open(Arc::new(NodeGrants { peers, network, own }));
        let socket = unix.is_some().then_some(path);
        let front = Front::new(reacher.clone(), config.users.clone(), tcp, unix);
        let note = (!notes.is_empty()).then(|| notes.join("; "));
        Ok(Self { reacher, server: dials, address, socket, note, front: Mutex::new(Some(front)) })
    }

    /// Serves programs until told to stop.
    pub(crate) async fn run(&self, stop: CancellationToken) {
        let front = self.front.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(front) = front else { return };
        front.run(stop).await;
        if let Some(Err(error)) = self.socket.as_ref().map(std::fs::remove_file) {
            tracing::debug!(%error, "the proxy's socket was gone already");
        }
    }

    /// What it is and what went through.
    pub(crate) fn status(&self) -> ProxyStatus {
        ProxyStatus {
            address: self.address.map(|address| address.to_string()),
            socket: self.socket.as_ref().map(|path| path.display().to_string()),
            note: self.note.clone(),
            exit_via: self.reacher.routes().texts(),
            exit: self.server.exit_rules().iter().map(ToString::to_string).collect(),
            programs: counts(self.reacher.counts().now()),
            peers: counts(self.server.counts().now()),
        }
    }
}

fn counts(now: CountsNow) -> ProxyCounts {
    let CountsNow { open, connected, denied, sent, received } = now;
    ProxyCounts { open, connected, denied, sent_bytes: sent, received_bytes: received }
}
