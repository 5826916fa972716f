//! This node's part in the cloud: tenant of others, provider to others, gateway.
//!
//! The link needs its handlers before it is bound, and they need the link: so the link is given [`Doors`], which open once the rest is there.

use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use atoll_cloud::{Assignments, ControlPlanes, Provider, Tenant};
use atoll_gateway::{Authority, FrontConfig, Gateway, GatewayConfig, Names, serve_https, serve_redirect};
use atoll_ids::NodeId;
use atoll_keys::OwnerKey;
use atoll_kv::KeyValue;
use atoll_lease::Keeper;
use atoll_link::{BoxStream, LinkHandle, StreamHandler};
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::config::{Config, GatewaySettings};
use crate::daemon::NodeError;
use crate::kube_ports::KubePorts;

/// Leases are renewed after half a day, and members that were away are told what they missed: a look every half minute is enough for both.
const PURSUE_EVERY: Duration = Duration::from_secs(30);

/// What peers may open streams for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Door {
    Lease,
    Evdc,
    Kube,
    Gateway,
}

impl Door {
    /// All of them, with their protocols.
    pub(crate) const ALL: [(Self, &'static str); 4] = [
        (Self::Lease, atoll_lease::PROTOCOL),
        (Self::Evdc, atoll_cloud::PROTOCOL),
        (Self::Kube, atoll_cloud::KUBE_PROTOCOL),
        (Self::Gateway, atoll_gateway::PROTOCOL),
    ];
}

/// What stands behind the doors.
struct Behind {
    provider: Provider,
    planes: ControlPlanes,
    gateway: Option<Gateway>,
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

/// This node's part in the cloud.
pub(crate) struct Cloud {
    pub(crate) tenant: Tenant,
    pub(crate) keeper: Keeper,
    pub(crate) assignments: Assignments,
    pub(crate) gateway: Option<GatewayRole>,
    pub(crate) ports: KubePorts,
    provider: Provider,
    planes: ControlPlanes,
}

impl Cloud {
    /// Opens what this node remembers of its part, and the doors to it.
    pub(crate) async fn open(
        config: &Config,
        owner: &Arc<OwnerKey>,
        kv: &Arc<dyn KeyValue>,
        link: &LinkHandle,
        doors: &Doors,
    ) -> Result<Self, NodeError> {
        let node = link.node_id();
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        let keeper = Keeper::open(kv.clone(), node, owner.clone(), config.lend, config.price.clone()).await?;
        let assignments = Assignments::open(kv.clone(), node, now).await?;
        let dir = config.data_dir.join("evdc");
        let planes = ControlPlanes::new(&dir, assignments.clone(), homes);
        let provider = Provider::new(keeper.clone(), assignments.clone(), link.clone(), Arc::new(planes.clone()));
        let gateway = match &config.gateway {
            Some(settings) => Some(GatewayRole::open(config, settings, node, kv).await?),
            None => None,
        };
        let tenant = Tenant::new(owner.clone(), kv.clone(), link.clone());
        let ports = KubePorts::new(kv.clone(), link.clone());
        let behind = Behind {
            provider: provider.clone(),
            planes: planes.clone(),
            gateway: gateway.as_ref().map(|role| role.gateway.clone()),
        };
        assert!(doors.0.set(behind).is_ok(), "the doors are opened once");
        Ok(Self { tenant, keeper, assignments, gateway, ports, provider, planes })
    }

    /// Does this node's part until told to stop.
    pub(crate) async fn run(&self, stop: CancellationToken) {
        let tasks = TaskTracker::new();
        tasks.spawn(self.provider.clone().run(stop.clone()));
        tasks.spawn(self.planes.clone().run(stop.clone()));
        tasks.spawn(pursue(self.tenant.clone(), self.ports.clone(), stop.clone()));
        if let Some(gateway) = &self.gateway {
            gateway.serve(&tasks, &stop);
        }
        tasks.close();
        tasks.wait().await;
    }
}

/// Keeps the eVDCs of this node's owner as they were wished.
async fn pursue(tenant: Tenant, ports: KubePorts, stop: CancellationToken) {
    let mut ticks = tokio::time::interval(PURSUE_EVERY);
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
