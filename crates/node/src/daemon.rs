//! The running node: builds what the configuration names, serves until told to stop, and ends in order.
//!
//! Order matters. The lock comes first, keys before anything that needs an identity, the store before what remembers things in it, storage
//! before the link that serves it, the control socket last: once it answers, the node is up.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use atoll_control::{NodeStatus, RoleStatus, VolumeStatus};
use atoll_deploy::Deploy;
use atoll_engine::{Engine, EngineConfig, Pace};
use atoll_fs::VolumeOptions;
use atoll_ids::{Domain, NodeId, OwnerId};
use atoll_keys::{KeyFileError, NodeKey, OwnerKey};
use atoll_kv::{Embedded, EmbeddedConfig, KeyValue};
use atoll_link::{Link, LinkConfig, LinkHandle};
use atoll_proxy::{DialServer, Limits};
use atoll_segments::{Segments, SegmentsConfig};
use atoll_shard::{ShardServer, ShardServerStats};
use tokio::net::{TcpListener, UnixListener};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::bus::{BusDoor, BusRole};
use crate::card::{self, Card};
use crate::check::{self, CheckHandler};
use crate::cloud::{Cloud, Door, Doors, Ground};
use crate::config::{Config, ConfigError, Role, Rooms};
use crate::data_dir::{DataDir, DataDirError};
use crate::filesystems::{self, Filesystems};
use crate::grants::Grants;
use crate::handlers::{CardHandler, ShardHandler};
use crate::healing::Healing;
use crate::names::{NameService, NamesHandle};
use crate::network::{Network, NetworkHandle};
use crate::peer_table::PeerTable;
use crate::peers::KvPeers;
use crate::proxy::{Proxy, ProxyGround};
use crate::{api, dashboard, metrics, names, ports, sockets, storage};

/// Requests under way get this long to end once the node is told to stop; then it ends all the same. systemd kills after 90 s.
const STOP_WITHIN: Duration = Duration::from_secs(10);

/// What stripes on their way may hold in memory, each way: three groups of four stripes of 4+2.
const STRIPE_BYTES_IN_FLIGHT: usize = 30 << 20;

/// Why a node does not start, or does not go on.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    /// The configuration is wrong.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The data directory cannot be used.
    #[error(transparent)]
    DataDir(#[from] DataDirError),
    /// A key file cannot be used.
    #[error(transparent)]
    Key(#[from] KeyFileError),
    /// The key-value store cannot be opened.
    #[error(transparent)]
    Kv(#[from] atoll_kv::OpenError),
    /// What the node remembers cannot be read or written.
    #[error(transparent)]
    Remember(#[from] atoll_kv::KvError),
    /// The segments cannot be opened.
    #[error(transparent)]
    Segments(#[from] atoll_segments::OpenError),
    /// The network cannot be used.
    #[error(transparent)]
    Link(#[from] atoll_link::BindError),
    /// The engine cannot be opened.
    #[error(transparent)]
    Engine(#[from] atoll_engine::OpenError),
    /// What is kept of messages cannot be read.
    #[error(transparent)]
    Messages(#[from] atoll_bus::StoreError),
    /// The leases cannot be read.
    #[error(transparent)]
    Leases(#[from] atoll_lease::KeeperError),
    /// What this node was assigned cannot be read.
    #[error(transparent)]
    Assignments(#[from] atoll_cloud::StoreError),
    /// The image store cannot be opened.
    #[error(transparent)]
    Images(#[from] atoll_images::ImageError),
    /// The gateway's authority cannot be used.
    #[error(transparent)]
    Authority(#[from] atoll_gateway::AuthorityError),
    /// The server for names cannot be had.
    #[error("{0} (setting network.dns_bind)")]
    Names(#[from] atoll_names::BindError),
    /// What is remembered of names cannot be read.
    #[error(transparent)]
    RememberedNames(#[from] atoll_names::StoreError),
    /// The link lost its sockets: the node has ended in order, and one started in its place can be reached again.
    #[error("this node was cut off: its UDP sockets could not be bound anew when the machine's network changed")]
    CutOff,
    /// A socket or the disk refuses.
    #[error("{what}: {source}")]
    Io {
        /// What was tried.
        what: String,
        /// What the system says.
        source: io::Error,
    },
}

/// What the handlers of the control API and the metrics share.
pub(crate) struct Parts {
    pub(crate) config: Config,
    pub(crate) node: NodeId,
    pub(crate) owner: OwnerId,
    pub(crate) link: LinkHandle,
    pub(crate) peers: PeerTable,
    pub(crate) engine: Engine,
    pub(crate) filesystems: Filesystems,
    pub(crate) healing: Healing,
    pub(crate) cloud: Cloud,
    pub(crate) deploy: Deploy,
    pub(crate) segments: Option<Segments>,
    pub(crate) shard_stats: Option<Arc<ShardServerStats>>,
    pub(crate) stop: CancellationToken,
    pub(crate) network: NetworkHandle,
    pub(crate) names: NamesHandle,
    pub(crate) proxy: Proxy,
    pub(crate) bus: BusRole,
    metrics: Option<SocketAddr>,
    dashboard: Option<SocketAddr>,
    started: Instant,
}

/// A node that is up.
pub struct Node {
    parts: Arc<Parts>,
    link: Link,
    network: Network,
    names: NameService,
    bus: atoll_bus::Bus,
    control: UnixListener,
    metrics: Option<TcpListener>,
    dashboard: Option<TcpListener>,
    // Held until the very end: the next node may start when it is free.
    _data_dir: DataDir,
}

/// Tells a node to stop. Cheap to clone.
#[derive(Debug, Clone)]
pub struct StopHandle(CancellationToken);

impl StopHandle {
    /// Begins the orderly end.
    pub fn stop(&self) {
        self.0.cancel();
    }
}

impl Node {
    /// Brings a node up.
    ///
    /// # Errors
    /// [`NodeError`]: what is in the way and what to do about it. Nothing stays behind but the folder and its keys.
    pub async fn start(config: Config) -> Result<Self, NodeError> {
        let started = Instant::now();
        let data_dir = DataDir::lock(&config.data_dir)?;
        let node_key = Arc::new(NodeKey::load_or_create(&data_dir.node_key())?);
        let owner_key = Arc::new(OwnerKey::load_or_create(&data_dir.owner_key())?);
        let (node, owner) = (node_key.id(), owner_key.id());
        tracing::info!(node = %node.short(), owner = %owner.short(), data = %data_dir.path().display(), "starting");
        // First of all: a machine whose resolver died with the last node may need another to reach anything.
        names::put_back(data_dir.path()).await;
        let kv = open_kv(&data_dir)?;
        let domain = Domain::new(Some(owner), &config.site, &config.country).map_err(ConfigError::from)?;
        let segments = open_segments(&config, &data_dir, &kv).await?;
        let (rooms, doors, bus) = (Rooms::default(), Doors::default(), BusDoor::default());
        let shards = segments.clone().map(|segments| ShardServer::new(segments, config.admission(&rooms)));
        let shard_stats = shards.as_ref().map(ShardServer::stats);
        let stop = CancellationToken::new();
        let ownership = Card::own(&owner_key, node);
        let make_card = card_maker(&config, &segments, ownership.clone());
        let dials = DialServer::new(config.proxy.exit.clone(), Limits::default(), stop.clone());
        let served = Served { make_card, shards, doors: doors.clone(), dials: dials.clone(), bus };
        let network = raise_network(&config, node, &kv).await?;
        let link = bind_link(&config, (&network, card::to_show(ownership)), &node_key, &kv, &served, &stop).await?;
        let handle = link.handle();
        let local = segments.clone().map(|segments| (segments, domain));
        let peers = PeerTable::new(node, owner_key.clone(), handle.clone(), local);
        let bus = served.bus.open(&config, kv.clone(), (node, owner), &peers).await?;
        let ground = Ground {
            owner: owner_key.clone(),
            kv: kv.clone(),
            link: handle.clone(),
            peers: Arc::new(peers.clone()),
            segments: segments.clone(),
            rooms,
            planetary: network.handle().planetary(),
        };
        let names = NameService::start(&config, (node, owner), &kv, data_dir.path()).await?;
        let cloud = Cloud::open(&config, ground, &doors).await?;
        let deploy = cloud.deploy(&handle, &kv, &peers);
        let (engine, filesystems, healing) = open_data(&config, kv, owner_key, &peers).await?;
        let Local { control, metrics, dashboard, own } = Local::bind(&config, &data_dir).await?;
        let net = network.handle();
        let (link_too, peers_too, names_too) = (handle.clone(), peers.clone(), names.handle().names().clone());
        let ground =
            ProxyGround { link: link_too, peers: peers_too, names: names_too, network: net.clone(), dials, own };
        let proxy = Proxy::open(&config, ground).await?;
        let parts = Parts {
            config,
            node,
            owner,
            link: handle,
            peers,
            engine,
            filesystems,
            healing,
            cloud,
            deploy,
            segments,
            shard_stats,
            stop,
            network: net,
            names: names.handle(),
            proxy,
            bus: BusRole::new(bus.handle()),
            metrics: own[0],
            dashboard: own[1],
            started,
        };
        Ok(Self { parts: Arc::new(parts), link, network, names, bus, control, metrics, dashboard, _data_dir: data_dir })
    }

    /// Who it is and how it fares.
    pub async fn status(&self) -> NodeStatus {
        self.parts.status().await
    }

    /// Something to stop it with.
    #[must_use]
    pub fn stop_handle(&self) -> StopHandle {
        StopHandle(self.parts.stop.clone())
    }

    /// Serves until it is told to stop, then ends what is under way within a deadline.
    ///
    /// # Errors
    /// [`NodeError::Io`] if the control socket breaks.
    pub async fn run(self) -> Result<(), NodeError> {
        let Self { parts, link, network, names, bus, control, metrics, dashboard, _data_dir } = self;
        let stop = parts.stop.clone();
        let socket = parts.config.data_dir.join(atoll_control::SOCKET_NAME);
        let mut tasks: Vec<JoinHandle<()>> = vec![tokio::spawn(parts.peers.clone().run(stop.clone()))];
        tasks.push(tokio::spawn(parts.filesystems.clone().run(stop.clone())));
        tasks.push(tokio::spawn(parts.healing.clone().run(stop.clone())));
        let (cloud, cloud_stop) = (parts.clone(), stop.clone());
        tasks.push(tokio::spawn(async move { cloud.cloud.run(cloud_stop).await }));
        let (proxy, proxy_stop) = (parts.clone(), stop.clone());
        tasks.push(tokio::spawn(async move { proxy.proxy.run(proxy_stop).await }));
        let carrying = network.run(parts.network.clone(), parts.link.clone(), parts.peers.clone(), stop.clone());
        tasks.push(tokio::spawn(carrying));
        let interface = parts.network.planetary().map(|(interface, _)| interface);
        tasks.push(tokio::spawn(names.run(interface, parts.link.clone(), parts.peers.clone(), stop.clone())));
        tasks.push(tokio::spawn(bus.run(crate::bus::link(parts.link.clone()), stop.clone())));
        if let Some(listener) = metrics {
            tasks.push(tokio::spawn(metrics::serve(listener, parts.clone(), stop.clone())));
        }
        if let Some(listener) = dashboard {
            tasks.push(tokio::spawn(dashboard::run(listener, parts.clone(), stop.clone())));
        }
        let mut serving = tokio::spawn(api::serve(control, parts.clone(), stop.clone()));
        let mut cut_off = false;
        let ended_early = tokio::select! {
            () = stop.cancelled() => None,
            ended = &mut serving => Some(ended),
            () = sockets::lost(&parts.link) => {
                cut_off = true;
                None
            }
        };
        tracing::info!("stopping");
        stop.cancel();
        let deadline = tokio::time::Instant::now() + STOP_WITHIN;
        if ended_early.is_none() && tokio::time::timeout_at(deadline, &mut serving).await.is_err() {
            tracing::warn!("requests were still under way and are cut off");
            serving.abort();
        }
        for task in tasks {
            if tokio::time::timeout_at(deadline, task).await.is_err() {
                tracing::warn!("a background task did not end in time");
            }
        }
        if let Err(error) = parts.engine.close().await {
            tracing::warn!(%error, "the engine did not end in order");
        }
        link.shutdown(deadline.saturating_duration_since(tokio::time::Instant::now())).await;
        if let Some(segments) = &parts.segments {
            segments.close().await;
        }
        if let Err(error) = std::fs::remove_file(&socket) {
            tracing::debug!(%error, "the control socket was gone already");
        }
        tracing::info!("stopped");
        match ended_early {
            Some(Ok(Err(source))) => Err(NodeError::Io { what: "the control socket broke".into(), source }),
            _ if cut_off => Err(NodeError::CutOff),
            _ => Ok(()),
        }
    }
}

impl Parts {
    /// Who the node is and how it fares.
    pub(crate) async fn status(&self) -> NodeStatus {
        self.peers.freshen().await;
        let addresses = self.link.addresses();
        NodeStatus {
            node: self.node,
            name: self.config.name.clone(),
            owner: self.owner,
            planetary_address: self.node.planetary_address().to_string(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            uptime_seconds: self.started.elapsed().as_secs(),
            data_dir: self.config.data_dir.display().to_string(),
            addresses: crate::addresses(&addresses.quic, &addresses.lane),
            metrics: self.metrics.map(|address| address.to_string()),
            dashboard: self.dashboard.map(|address| format!("http://{address}")),
            roles: roles(&self.config, &self.network, &self.cloud),
            storage: self.segments.as_ref().map(storage::status),
            peers: self.peers.status(),
            healing: Some(self.healing.status()),
            volumes: self.volumes(),
        }
    }
}

impl Parts {
    /// Volumes of tenants that are mounted here.
    pub(crate) fn volumes(&self) -> Vec<VolumeStatus> {
        let told = |(name, live)| VolumeStatus { name, mounted: filesystems::mounted(live) };
        self.cloud.volumes.status().into_iter().map(told).collect()
    }
}

fn engine_config() -> EngineConfig {
    EngineConfig {
        put_bytes_max: STRIPE_BYTES_IN_FLIGHT,
        get_bytes_max: STRIPE_BYTES_IN_FLIGHT,
        ..EngineConfig::default()
    }
}

pub(crate) fn open_kv(data_dir: &DataDir) -> Result<Arc<dyn KeyValue>, NodeError> {
    Ok(Arc::new(Embedded::open(data_dir.kv(), EmbeddedConfig::default())?))
}

async fn open_segments(
    config: &Config,
    data_dir: &DataDir,
    kv: &Arc<dyn KeyValue>,
) -> Result<Option<Segments>, NodeError> {
    if !config.has(Role::Storage) {
        return Ok(None);
    }
    let folder = config.shards.clone().unwrap_or_else(|| data_dir.shards());
    let capacity = ports::capacity(config.capacity, &folder, kv).await?;
    let opened = tokio::task::spawn_blocking(move || Segments::open(&folder, SegmentsConfig::new(capacity.0))).await;
    let segments = opened.map_err(|error| NodeError::Io {
        what: "opening the segments was cut off".into(),
        source: io::Error::other(error),
    })??;
    Ok(Some(segments))
}

/// What this node answers when a peer asks who it is, made anew for each question.
fn card_maker(
    config: &Config,
    segments: &Option<Segments>,
    ownership: atoll_keys::Signed<card::Ownership>,
) -> Arc<dyn Fn() -> Card + Send + Sync> {
    let (name, place) = (config.name.clone(), (config.site.clone(), config.country.clone()));
    let (segments, gateway) = (segments.clone(), config.gateway.as_ref().map(|gateway| gateway.domain.clone()));
    Arc::new(move || {
        let storage = segments.as_ref().map(storage::status);
        Card::new(name.clone(), place.clone(), storage, gateway.clone(), ownership.clone())
    })
}

/// What peers are served.
struct Served {
    make_card: Arc<dyn Fn() -> Card + Send + Sync>,
    shards: Option<ShardServer>,
    doors: Doors,
    dials: DialServer,
    bus: BusDoor,
}

/// The owner's objects and file systems, and what keeps them whole.
async fn open_data(
    config: &Config,
    kv: Arc<dyn KeyValue>,
    owner_key: Arc<OwnerKey>,
    peers: &PeerTable,
) -> Result<(Engine, Filesystems, Healing), NodeError> {
    let engine = Engine::open(engine_config(), kv.clone(), owner_key.clone(), Arc::new(peers.clone())).await?;
    let pace = Arc::new(Pace::new(config.healing.rate.0));
    let volumes =
        VolumeOptions { heal_after: config.healing.after, pace: Some(pace.clone()), ..VolumeOptions::default() };
    let filesystems = Filesystems::new(owner_key, kv, peers.clone(), volumes);
    let healing = Healing::new(config.healing.clone(), pace, engine.clone(), filesystems.clone(), peers.clone());
    Ok((engine, filesystems, healing))
}

/// What people and programs of this machine speak to.
struct Local {
    control: UnixListener,
    metrics: Option<TcpListener>,
    dashboard: Option<TcpListener>,
    /// Where the last two listen.
    own: [Option<SocketAddr>; 2],
}

impl Local {
    async fn bind(config: &Config, data_dir: &DataDir) -> Result<Self, NodeError> {
        let metrics = bind_local(config.metrics, "metrics", "node.metrics").await?;
        let dashboard = bind_local(config.dashboard, "the dashboard", "node.dashboard").await?;
        let control = api::bind(&data_dir.control_socket())
            .map_err(|source| NodeError::Io { what: "cannot open the control socket".into(), source })?;
        let own = [&metrics, &dashboard].map(|it| it.as_ref().and_then(|listener| listener.local_addr().ok()));
        Ok(Self { control, metrics, dashboard, own })
    }
}

/// The interface, with the rules of the settings and those given since.
async fn raise_network(config: &Config, node: NodeId, kv: &Arc<dyn KeyValue>) -> Result<Network, NodeError> {
    let (policy, origin) = (config.network.policy.clone(), config.network.rules_origin.clone());
    let grants = Grants::load(kv.clone(), policy, origin).await?;
    Ok(Network::raise(&config.network, node, grants).await)
}

async fn bind_link(
    config: &Config,
    (network, credentials): (&Network, Vec<u8>),
    node_key: &Arc<NodeKey>,
    kv: &Arc<dyn KeyValue>,
    served: &Served,
    stop: &CancellationToken,
) -> Result<Link, NodeError> {
    let remembered = ports::remembered(kv).await?;
    let link_config = network.configure(LinkConfig {
        bind: ports::prefer(&config.bind, remembered.quic),
        lane_bind: ports::prefer(&config.lane, remembered.lane),
        relays: config.relays.clone(),
        credentials,
        ..LinkConfig::default()
    });
    let build = |link_config: LinkConfig| {
        let mut builder = Link::builder(node_key.clone(), link_config, KvPeers::new(kv.clone()))
            .society(network.society())
            .protocol(card::PROTOCOL, Arc::new(CardHandler::new(served.make_card.clone())))
            .protocol(check::PROTOCOL, Arc::new(CheckHandler::new(network.handle())))
            .protocol(atoll_proxy::PROTOCOL, Arc::new(served.dials.clone()))
            .protocol(atoll_bus::PROTOCOL, Arc::new(served.bus.clone()));
        for (door, protocol) in Door::ALL {
            builder = builder.protocol(protocol, served.doors.handler(door));
        }
        if let Some(shards) = &served.shards {
            builder = builder.protocol(atoll_shard::ALPN, Arc::new(ShardHandler::new(shards.clone(), stop.clone())));
        }
        builder.bind()
    };
    let link = match build(link_config.clone()).await {
        // A remembered port may be taken by now; any other is as good where the configuration names none.
        Err(atoll_link::BindError::PortInUse { .. })
            if link_config.bind != config.bind || link_config.lane_bind != config.lane =>
        {
            build(LinkConfig { bind: config.bind.clone(), lane_bind: config.lane.clone(), ..link_config }).await?
        }
        built => built?,
    };
    ports::remember(kv, &link.handle().addresses()).await?;
    Ok(link)
}

async fn bind_local(address: Option<SocketAddr>, what: &str, setting: &str) -> Result<Option<TcpListener>, NodeError> {
    let Some(address) = address else { return Ok(None) };
    let bound = TcpListener::bind(address).await;
    let bound = bound.map_err(|source| NodeError::Io {
        what: format!("cannot serve {what} at {address} (setting {setting}; port 0 chooses a free one)"),
        source,
    })?;
    Ok(Some(bound))
}

fn roles(config: &Config, network: &NetworkHandle, cloud: &Cloud) -> Vec<RoleStatus> {
    let role = |role: &str, active: bool, note: Option<String>| RoleStatus { role: role.into(), active, note };
    let left_out = |it: Role| (!config.has(it)).then(|| "left out by node.roles".to_owned());
    let no_compute = cloud.no_compute.clone();
    let no_domain = || Some("set gateway.domain".to_owned());
    let gateway = cloud.gateway.as_ref();
    vec![
        role("network", true, Some(network.note())),
        role("storage", config.has(Role::Storage), left_out(Role::Storage)),
        role("compute", no_compute.is_none(), left_out(Role::Compute).or(no_compute)),
        role(
            "gateway",
            gateway.is_some(),
            left_out(Role::Gateway).or_else(|| {
                gateway.map_or_else(no_domain, |role| Some(format!("answers for names below {}", role.domain)))
            }),
        ),
    ]
}
