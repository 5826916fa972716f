//! The node of the API: an API server, controllers and scheduler for each eVDC whose membership names this node as control.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use atoll_apiserver::{ApiServer, ClientCertificate, Config, User};
use atoll_ids::{EvdcId, NodeId};
use atoll_kv::{Embedded, EmbeddedConfig};
use atoll_link::{BoxStream, LinkHandle};
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use thiserror::Error;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::assignment::{Assigned, Assignments};
use crate::companions;
use crate::dial::{each_connection, named};
use crate::kubelet::{Kubelets, ToMembers};
use crate::protocol::Credentials;
use crate::provider::{Issue, Whom};
use crate::volumes::{HomesOf, KubeProvisioner};

/// Certificates of members and administrators. They are asked for anew at every start, and the eVDC can be made anew; there is no revoking them.
const CREDENTIALS_VALID: Duration = Duration::from_secs(30 * 24 * 3600);

/// Whoever asks for an API server that is just being started waits this long.
const START_WITHIN: Duration = Duration::from_secs(20);

/// Connections that are under way when an API server ends get this long.
const END_WITHIN: Duration = Duration::from_secs(2);

/// The bits of a Service network: the lowest /112 of subnet 0, so that there are 65,535 Services.
const SERVICE_BITS: u8 = 112;

/// Why an API server does not run.
#[derive(Debug, Error)]
pub enum ControlError {
    /// Its store cannot be opened.
    #[error(transparent)]
    Store(#[from] atoll_kv::OpenError),
    /// It cannot be opened.
    #[error(transparent)]
    Server(#[from] atoll_apiserver::OpenError),
}

/// The API servers of this node. Cheap to clone.
#[derive(Clone)]
pub struct ControlPlanes {
    inner: Arc<Inner>,
}

struct Inner {
    dir: PathBuf,
    assignments: Assignments,
    homes: Arc<HomesOf>,
    link: LinkHandle,
    kubelets: Kubelets,
    running: Mutex<BTreeMap<EvdcId, Plane>>,
    changes: watch::Sender<u64>,
}

#[derive(Clone)]
struct Plane {
    api: ApiServer,
    stop: CancellationToken,
    tasks: TaskTracker,
}

impl ControlPlanes {
    /// API servers whose state lies below `dir`, a folder for each eVDC. Pods of other members are reached by `link`, those of this node by `kubelets`.
    pub fn new(
        dir: &Path,
        assignments: Assignments,
        homes: Arc<HomesOf>,
        link: LinkHandle,
        kubelets: Kubelets,
    ) -> Self {
        let (dir, running, changes) = (dir.to_owned(), Mutex::default(), watch::Sender::new(0));
        Self { inner: Arc::new(Inner { dir, assignments, homes, link, kubelets, running, changes }) }
    }

    /// Runs an API server for each assignment that asks for one, until told to stop.
    pub async fn run(self, stop: CancellationToken) {
        let mut changes = self.inner.assignments.changes();
        loop {
            changes.mark_unchanged();
            self.follow().await;
            tokio::select! {
                () = stop.cancelled() => break,
                changed = changes.changed() => if changed.is_err() { break },
            }
        }
        let running = std::mem::take(&mut *self.running());
        for plane in running.into_values() {
            plane.end().await;
        }
    }

    async fn follow(&self) {
        let wanted: BTreeMap<EvdcId, Assigned> = self
            .inner
            .assignments
            .all()
            .into_iter()
            .filter(Assigned::is_control)
            .map(|it| (it.membership.evdc, it))
            .collect();
        let gone: Vec<EvdcId> = self.running().keys().filter(|id| !wanted.contains_key(id)).copied().collect();
        for id in gone {
            let plane = self.running().remove(&id);
            if let Some(plane) = plane {
                plane.end().await;
                tracing::info!(evdc = %id.short(), "an API server ended: its lease is over; its objects are kept");
            }
        }
        for (id, assigned) in wanted {
            if self.running().contains_key(&id) {
                continue;
            }
            match self.start(&assigned).await {
                Ok(plane) => {
                    tracing::info!(evdc = %id.short(), name = assigned.membership.name, "the API server is up");
                    self.running().insert(id, plane);
                }
                Err(error) => tracing::error!(evdc = %id.short(), %error, "the API server cannot be started"),
            }
        }
        self.inner.changes.send_modify(|count| *count += 1);
    }

    async fn start(&self, assigned: &Assigned) -> Result<Plane, ControlError> {
        let dir = self.inner.dir.join(assigned.membership.evdc.to_string());
        let store = dir.join("kv");
        let opened = tokio::task::spawn_blocking(move || {
            std::fs::create_dir_all(&store).ok();
            Embedded::open(store, EmbeddedConfig::watched())
        });
        let kv = Arc::new(opened.await.expect("opening a store does not panic")?);
        let mut config = Config::new(dir.join("pki"));
        config.service_range = (assigned.membership.services(), SERVICE_BITS);
        let api = ApiServer::open(kv, config).await?;
        api.set_node_proxy(Arc::new(ToMembers {
            evdc: assigned.membership.evdc,
            assignments: self.inner.assignments.clone(),
            link: self.inner.link.clone(),
            local: self.inner.kubelets.clone(),
        }));
        let (stop, tasks) = (CancellationToken::new(), TaskTracker::new());
        let administrator = User::new("system:admin", ["system:masters"]);
        let client = kube::Client::new(api.local_service(administrator), "default");
        let homes = (self.inner.homes)(assigned);
        let provisioner = Arc::new(KubeProvisioner::new(client.clone(), assigned.membership.tenant, homes));
        tasks.spawn(companions::run(client, provisioner, api.authority_pem().to_owned(), stop.clone()));
        Ok(Plane { api, stop, tasks })
    }

    /// What is left of an eVDC that was given back is nobody's: the objects are removed with their keys. One whose lease merely ran out is kept.
    async fn remove_state(&self, id: EvdcId) {
        let plane = self.running().remove(&id);
        if let Some(plane) = plane {
            plane.end().await;
        }
        let dir = self.inner.dir.join(id.to_string());
        if let Err(error) = tokio::fs::remove_dir_all(&dir).await
            && error.kind() != std::io::ErrorKind::NotFound
        {
            tracing::warn!(dir = %dir.display(), %error, "the state of an eVDC that was given back cannot be removed");
        }
    }

    /// Serves a stream of [`KUBE_PROTOCOL`](crate::KUBE_PROTOCOL) to a member or the tenant.
    pub async fn handle(&self, peer: NodeId, mut stream: BoxStream) {
        let evdc = match named(&mut stream).await {
            Ok(evdc) => evdc,
            Err(error) => return tracing::debug!(peer = %peer.short(), error, "a stream to an API server"),
        };
        let entitled = self
            .inner
            .assignments
            .get(&evdc)
            .is_some_and(|assigned| assigned.membership.home == peer || assigned.membership.member(peer).is_some());
        if !entitled {
            return tracing::debug!(peer = %peer.short(), "a stream to an API server, from nobody of the eVDC");
        }
        let Some(plane) = self.plane(evdc).await else { return };
        if let Err(error) = plane.api.serve(stream, plane.stop.clone()).await {
            tracing::debug!(peer = %peer.short(), %error, "a connection to an API server ended");
        }
    }

    /// Serves connections of a listener on this node, until told to stop: those of pods.
    pub(crate) async fn serve_local(&self, evdc: EvdcId, listener: TcpListener, stop: CancellationToken) {
        each_connection(listener, stop, |local| {
            let planes = self.clone();
            async move {
                let plane = planes.plane(evdc).await.ok_or("the API server of this eVDC does not run")?;
                plane.api.serve(local, plane.stop.clone()).await.map_err(|error| error.to_string())
            }
        })
        .await;
    }

    /// The running API server, waiting for one that is being started.
    async fn plane(&self, evdc: EvdcId) -> Option<Plane> {
        let mut changes = self.inner.changes.subscribe();
        let found = timeout(START_WITHIN, async {
            loop {
                if let Some(plane) = self.running().get(&evdc).cloned() {
                    return plane;
                }
                if changes.changed().await.is_err() {
                    std::future::pending::<()>().await;
                }
            }
        });
        found.await.ok()
    }

    /// A client of an API server on this node, without a connection in between.
    ///
    /// # Errors
    /// In words, if it does not run.
    pub async fn client(&self, evdc: EvdcId, whom: Whom) -> Result<kube::Client, String> {
        let plane = self.plane(evdc).await.ok_or("the API server of this eVDC does not run")?;
        let (user, group) = identity(whom);
        Ok(kube::Client::new(plane.api.local_service(User::new(user, [group])), "default"))
    }

    fn running(&self) -> MutexGuard<'_, BTreeMap<EvdcId, Plane>> {
        self.inner.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The names that Kubernetes gives nodes and administrators (its documentation, "Using Node Authorization").
fn identity(whom: Whom) -> (String, &'static str) {
    match whom {
        Whom::Member(name) => (format!("system:node:{name}"), "system:nodes"),
        Whom::Administrator => ("kubernetes-admin".to_owned(), "system:masters"),
    }
}

impl Plane {
    async fn end(self) {
        self.stop.cancel();
        self.tasks.close();
        if timeout(END_WITHIN, self.tasks.wait()).await.is_err() {
            tracing::warn!("controllers did not end in time");
        }
        self.api.shutdown(END_WITHIN).await;
    }
}

impl Issue for ControlPlanes {
    fn removed(&self, evdc: EvdcId) -> BoxFuture<'_, ()> {
        self.remove_state(evdc).boxed()
    }

    fn issue(&self, evdc: EvdcId, whom: Whom) -> BoxFuture<'_, Result<Credentials, String>> {
        async move {
            let plane = self.plane(evdc).await.ok_or("the API server of this eVDC does not run")?;
            let (user, group) = identity(whom);
            let issued = plane.api.issue_client(&user, &[group], CREDENTIALS_VALID);
            let ClientCertificate { certificate_pem, key_pem, .. } = issued.map_err(|error| error.to_string())?;
            let authority = plane.api.authority_pem().to_owned();
            Ok(Credentials { authority, certificate: certificate_pem, key: key_pem })
        }
        .boxed()
    }
}
