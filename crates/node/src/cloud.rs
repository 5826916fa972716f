//! This node's part in the cloud: tenant of others, provider to others, gateway.
//!
//! The link needs its handlers before it is bound, and they need the link: so the link is given [`Doors`], which open once the rest is there.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use atoll_cloud::{
    Assigned, Assignments, ControlPlanes, Evdc, HomesOf, ImageServer, Kubelets, MountedVolumes, Provider, Tenant,
    WorkerParts, Workers, homes_of,
};
use atoll_deploy::Deploy;
use atoll_engine::Homes;
use atoll_gateway::{Authority, FrontConfig, Gateway, GatewayConfig, Names, serve_https, serve_redirect};
use atoll_ids::{ByteCount, NodeId, OwnerId};
use atoll_images::{Limits, Store, StoreConfig};
use atoll_keys::OwnerKey;
use atoll_kv::KeyValue;
use atoll_lease::Keeper;
use atoll_link::{BoxStream, LinkHandle, StreamHandler};
use atoll_runtime::{Embedded, EmbeddedConfig};
use atoll_segments::Segments;
use atoll_shard::ShardHome;
use atoll_tun::Routes;
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::config::{Config, GatewaySettings, Rooms};
use crate::daemon::NodeError;
use crate::kube_ports::KubePorts;
use crate::peer_table::PeerTable;
use crate::storage::LocalHome;

/// Leases that are short are looked at more often. Members that were away are told what they missed: a look every half minute is enough.
const PURSUE_EVERY: Duration = Duration::from_secs(30);

/// What peers may open streams for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Door {
    Lease,
    Evdc,
    Kube,
    Kubelet,
    Gateway,
    Image,
}

impl Door {
    /// All of them, with their protocols.
    pub(crate) const ALL: [(Self, &'static str); 6] = [
        (Self::Lease, atoll_lease::PROTOCOL),
        (Self::Evdc, atoll_cloud::PROTOCOL),
        (Self::Kube, atoll_cloud::KUBE_PROTOCOL),
        (Self::Kubelet, atoll_cloud::KUBELET_PROTOCOL),
        (Self::Gateway, atoll_gateway::PROTOCOL),
        (Self::Image, atoll_cloud::IMAGE_PROTOCOL),
    ];
}

/// What stands behind the doors.
struct Behind {
    provider: Provider,
    planes: ControlPlanes,
    kubelets: Kubelets,
    gateway: Option<Gateway>,
    images: ImageServer,
    tenant: Tenant,
}

impl Behind {
    /// Whether the peer is of an eVDC of this node's owner: to whom its images are sent.
    async fn rents_to_us(&self, peer: NodeId) -> bool {
        let evdcs = self.tenant.all().await.unwrap_or_default();
        evdcs.iter().flat_map(|evdc| &evdc.picks).any(|pick| pick.member.node == peer && pick.lease.is_some())
    }
}

/// Handlers that begin to serve once [`Cloud::open`] has put something behind them; before that, streams are dropped and peers try again.
#[derive(Clone, Default)]
pub(crate) struct Doors(Arc<OnceLock<Behind>>);

impl Doors {
    pub(crate) fn handler(&self, door: Door) -> Arc<dyn StreamHandler> {
        let doors = self.clone();
        Arc::new(move |peer: NodeId, stream: BoxStream| -> BoxFuture<'static, ()> {
            let doors = doors.clone();
            async move {
                let Some(behind) = doors.0.get() else { return };
                match door {
                    Door::Lease => behind.provider.handle_lease(peer, stream).await,
                    Door::Evdc => behind.provider.handle(peer, stream).await,
                    Door::Kube => behind.planes.handle(peer, stream).await,
                    Door::Kubelet => behind.kubelets.handle(peer, stream).await,
                    Door::Image => behind.images.handle(peer, behind.rents_to_us(peer).await, stream).await,
                    Door::Gateway => match &behind.gateway {
                        Some(gateway) => gateway.handle(peer, Box::new(stream)).await,
                        None => tracing::debug!(peer = %peer.short(), "a node dialled in, but this is no gateway"),
                    },
                }
            }
            .boxed()
        })
    }
}

/// This node as a gateway.
pub(crate) struct GatewayRole {
    pub(crate) gateway: Gateway,
    pub(crate) authority: Arc<Authority>,
    pub(crate) domain: String,
    pub(crate) https: Vec<SocketAddr>,
    listeners: std::sync::Mutex<Vec<(TcpListener, bool)>>,
}

/// What the cloud is built upon.
pub(crate) struct Ground {
    pub(crate) owner: Arc<OwnerKey>,
    pub(crate) kv: Arc<dyn KeyValue>,
    pub(crate) link: LinkHandle,
    pub(crate) peers: Arc<dyn Homes>,
    pub(crate) segments: Option<Segments>,
    /// Told what tenants rent.
    pub(crate) rooms: Rooms,
    /// The planetary interface's name, and where pod networks are.
    pub(crate) planetary: Option<(String, Routes)>,
}

/// This node's part in the cloud.
pub(crate) struct Cloud {
    pub(crate) tenant: Tenant,
    pub(crate) assignments: Assignments,
    pub(crate) gateway: Option<GatewayRole>,
    pub(crate) ports: KubePorts,
    pub(crate) images: Store,
    /// Volumes of tenants that are mounted here.
    pub(crate) volumes: MountedVolumes,
    /// What keeps this node from running workloads, if anything does.
    pub(crate) no_compute: Option<String>,
    workers: std::sync::Mutex<Option<Workers>>,
    segments: Option<Segments>,
    rooms: Rooms,
    provider: Provider,
    planes: ControlPlanes,
}

impl Cloud {
    /// Opens what this node remembers of its part, and the doors to it.
    pub(crate) async fn open(config: &Config, ground: Ground, doors: &Doors) -> Result<Self, NodeError> {
        let Ground { owner, kv, link, peers, segments, rooms, planetary } = &ground;
        let node = link.node_id();
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        let keeper = Keeper::open(kv.clone(), node, owner.clone(), config.lend, config.price.clone()).await?;
        let assignments = Assignments::open(kv.clone(), node, now).await?;
        let dir = config.data_dir.join("evdc");
        let homes = homes(node, link, peers, segments);
        let kubelets = Kubelets::new(assignments.clone());
        let planes = ControlPlanes::new(&dir, assignments.clone(), homes.clone(), link.clone(), kubelets.clone());
        let provider = Provider::new(keeper.clone(), assignments.clone(), link.clone(), Arc::new(planes.clone()));
        let gateway = match &config.gateway {
            Some(settings) => Some(GatewayRole::open(config, settings, node, kv).await?),
            None => None,
        };
        let tenant = Tenant::new(owner.clone(), kv.clone(), link.clone()).with_leases_of(config.lease);
        let ports = KubePorts::new(kv.clone(), link.clone());
        let images = open_images(config).await?;
        let volumes = MountedVolumes::default();
        let workers = match compute(config) {
            Ok((runtime, run_dir)) => Ok(Workers::new(WorkerParts {
                link: link.clone(),
                assignments: assignments.clone(),
                planes: planes.clone(),
                kubelets: kubelets.clone(),
                runtime: Arc::new(runtime),
                images: images.clone(),
                planetary: planetary.clone(),
                homes,
                mounted: volumes.clone(),
                dir: config.data_dir.join("members"),
                run_dir,
            })),
            Err(why) => Err(why),
        };
        let no_compute = workers.as_ref().err().cloned();
        let behind = Behind {
            provider: provider.clone(),
            planes: planes.clone(),
            kubelets,
            gateway: gateway.as_ref().map(|role| role.gateway.clone()),
            images: ImageServer::new(images.clone(), config.data_dir.join("images").join("outgoing")),
            tenant: tenant.clone(),
        };
        assert!(doors.0.set(behind).is_ok(), "the doors are opened once");
        let workers = std::sync::Mutex::new(workers.ok());
        let (segments, rooms) = (segments.clone(), rooms.clone());
        Ok(Self {
            tenant,
            assignments,
            gateway,
            ports,
            images,
            volumes,
            no_compute,
            workers,
            segments,
            rooms,
            provider,
            planes,
        })
    }

    /// Applications and stacks of this node's owner.
    pub(crate) fn deploy(&self, link: &LinkHandle, kv: &Arc<dyn KeyValue>, peers: &PeerTable) -> Deploy {
        let peers = peers.clone();
        let gateways = move || {
            let all = peers.status().into_iter();
            all.filter_map(|peer| Some((peer.node, peer.gateway?))).collect()
        };
        Deploy::new(self.tenant.clone(), link.clone(), kv.clone(), self.images.clone(), Arc::new(gateways))
    }

    /// Serves the APIs of the eVDCs that there are on their ports, and no others.
    pub(crate) async fn serve_apis(&self, before: &[Evdc], stop: &CancellationToken) {
        let all = self.tenant.all().await.unwrap_or_default();
        let there = |evdc: &Evdc| all.iter().any(|it| it.id == evdc.id && !it.removing);
        for gone in before.iter().filter(|it| !there(it)) {
            if let Err(error) = self.ports.end(&gone.id).await {
                tracing::warn!(name = gone.wish.name, %error, "the port of an eVDC's API is not forgotten");
            }
        }
        for evdc in all.iter().filter(|it| !it.removing && !it.reserved) {
            if let Err(error) = self.ports.serve(evdc, stop).await {
                tracing::warn!(name = evdc.wish.name, %error, "no port for the API of an eVDC");
            }
        }
    }

    /// Does this node's part until told to stop.
    pub(crate) async fn run(&self, stop: CancellationToken) {
        let tasks = TaskTracker::new();
        tasks.spawn(self.provider.clone().run(stop.clone()));
        // Members flush their volumes when they end, and what a volume is lies in its API server.
        let planes_stop = CancellationToken::new();
        tasks.spawn(self.planes.clone().run(planes_stop.clone()));
        tasks.spawn(pursue(self.tenant.clone(), self.ports.clone(), stop.clone()));
        if let Some(gateway) = &self.gateway {
            gateway.serve(&tasks, &stop);
        }
        let workers = self.workers.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take();
        let members_stop = stop.clone();
        tasks.spawn(async move {
            match workers {
                Some(workers) => workers.run(members_stop).await,
                None => members_stop.cancelled().await,
            }
            planes_stop.cancel();
        });
        if let Some(segments) = self.segments.clone() {
            let limits = limit_storage(self.assignments.clone(), segments, self.rooms.clone(), stop.clone());
            tasks.spawn(limits);
        }
        tasks.close();
        tasks.wait().await;
    }
}

/// Where the volumes of an eVDC lie, seen from this node.
fn homes(node: NodeId, link: &LinkHandle, peers: &Arc<dyn Homes>, segments: &Option<Segments>) -> Arc<HomesOf> {
    let (link, peers, segments) = (link.clone(), peers.clone(), segments.clone());
    Arc::new(move |assigned: &Assigned| {
        let tenant = assigned.membership.tenant;
        let local = segments.clone().map(|segments| LocalHome::new(node, tenant, segments) as Arc<dyn ShardHome>);
        homes_of(&link, &peers, assigned, local)
    })
}

async fn open_images(config: &Config) -> Result<Store, NodeError> {
    let store = StoreConfig { dir: config.data_dir.join("images"), limits: Limits::default() };
    let opened = tokio::task::spawn_blocking(move || Store::open(store)).await;
    let opened = opened.map_err(|error| NodeError::Io {
        what: "opening the image store was cut off".into(),
        source: std::io::Error::other(error),
    })?;
    Ok(opened?)
}

/// What runs containers here, and where what is gone after a restart of the machine lies; or why none run.
fn compute(config: &Config) -> Result<(Embedded, PathBuf), String> {
    if config.lend.cpu_milli == 0 {
        return Err("lends nothing: set lend.cpu and lend.memory".into());
    }
    if !rustix::process::geteuid().is_root() {
        return Err("workloads need root: namespaces, mounts and cgroups".into());
    }
    let runtime = Embedded::open(EmbeddedConfig::new(config.data_dir.join(RUNTIME_DIR)));
    Ok((runtime.map_err(|error| error.to_string())?, run_dir(&config.data_dir)))
}

/// Where containers and their records lie, below the data directory.
pub(crate) const RUNTIME_DIR: &str = "runtime";

/// Where what is gone after a restart of the machine lies. Nodes of one machine are told apart by where their state lies.
pub(crate) fn run_dir(data_dir: &Path) -> PathBuf {
    let name = blake3::hash(data_dir.as_os_str().as_encoded_bytes()).to_hex();
    PathBuf::from("/run/atoll").join(&name.as_str()[..RUN_NAME_CHARS])
}

/// Characters of the name of a node's folder below `/run/atoll`: 48 bits.
const RUN_NAME_CHARS: usize = 12;

/// Gives each tenant the room that its leases name, and no more.
async fn limit_storage(assignments: Assignments, segments: Segments, rooms: Rooms, stop: CancellationToken) {
    let mut changes = assignments.changes();
    loop {
        changes.mark_unchanged();
        let mut rented: BTreeMap<OwnerId, ByteCount> = BTreeMap::new();
        for assigned in assignments.all() {
            rented.entry(assigned.terms.tenant).or_default().0 += assigned.terms.capacity.storage.0;
        }
        for (tenant, room) in &rented {
            segments.set_quota(*tenant, Some(room.0));
        }
        // For the streams that begin from here on.
        rooms.set(rented);
        tokio::select! {
            () = stop.cancelled() => return,
            changed = changes.changed() => if changed.is_err() { return },
        }
    }
}

/// Keeps the eVDCs of this node's owner as they were wished.
async fn pursue(tenant: Tenant, ports: KubePorts, stop: CancellationToken) {
    let mut ticks = tokio::time::interval(tenant.pursue_every().min(PURSUE_EVERY));
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = ticks.tick() => {}
        }
        let evdcs = match tenant.all().await {
            Ok(evdcs) => evdcs,
            Err(error) => {
                tracing::warn!(%error, "the eVDCs of this node's owner cannot be read");
                continue;
            }
        };
        for evdc in evdcs {
            let name = &evdc.wish.name;
            if evdc.removing {
                if let Err(error) = tenant.remove(name).await {
                    tracing::debug!(name, %error, "an eVDC is not given back to everyone yet");
                }
                continue;
            }
            if evdc.reserved {
                continue;
            }
            if let Err(error) = ports.serve(&evdc, &stop).await {
                tracing::warn!(name, %error, "no port for the API of an eVDC");
            }
            if let Err(error) = tenant.pursue(name).await {
                tracing::warn!(name, %error, "an eVDC is not as wished");
            }
        }
    }
}

impl GatewayRole {
    async fn open(
        config: &Config,
        settings: &GatewaySettings,
        node: NodeId,
        kv: &Arc<dyn KeyValue>,
    ) -> Result<Self, NodeError> {
        let authority = Authority::open(&config.data_dir.join("gateway"))?;
        let names = Names::new(kv.clone(), &settings.domain);
        let gateway = Gateway::new(GatewayConfig { node, names });
        let mut listeners = Vec::new();
        let mut https = Vec::new();
        let both = [(&settings.https, true, "gateway.https"), (&settings.http, false, "gateway.http")];
        for (addresses, secure, setting) in both {
            for address in addresses {
                let listener = TcpListener::bind(address).await.map_err(|source| NodeError::Io {
                    what: format!("the gateway cannot listen at {address} (setting {setting})"),
                    source,
                })?;
                if secure {
                    https.extend(listener.local_addr());
                }
                listeners.push((listener, secure));
            }
        }
        let (authority, domain) = (Arc::new(authority), settings.domain.clone());
        Ok(Self { gateway, authority, domain, https, listeners: std::sync::Mutex::new(listeners) })
    }

    fn serve(&self, tasks: &TaskTracker, stop: &CancellationToken) {
        let port = self.https.first().map_or(443, SocketAddr::port);
        let listeners = std::mem::take(&mut *self.listeners.lock().unwrap_or_else(std::sync::PoisonError::into_inner));
        for (listener, secure) in listeners {
            let (stop, config) = (stop.clone(), FrontConfig::default());
            if secure {
                let (gateway, authority) = (self.gateway.clone(), self.authority.clone());
                tasks.spawn(async move {
                    if let Err(error) = serve_https(listener, gateway, authority, config, stop).await {
                        tracing::error!(%error, "the gateway does not serve HTTPS");
                    }
                });
            } else {
                tasks.spawn(serve_redirect(listener, port, config, stop));
            }
        }
    }
}
