//! The agent: what runs beside the pods' workers, and what they share.
//!
//! It watches the pods that are bound to this node and gives each a worker; programs Services; keeps the Node and its Lease true; measures for how
//! long the API server has been out of reach. When it ends, containers run on; the next one on the same folder takes them up. It starts
//! from its own records, so it stops what must stop even if the API server never answers.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io;
use std::net::{Ipv6Addr, SocketAddrV6};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use atoll_podnet::{PodKey, Prefix};
use atoll_runtime::{GroupName, Runtime, SandboxId};
use futures_util::StreamExt;
use k8s_openapi::api::core::v1::{Pod, PodSpec, Service, Taint};
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, watcher};
use kube::{Api, Client};
use tokio::sync::{Semaphore, watch as channel};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::log_files;
use crate::policy_watch;
use crate::records;
use crate::report::Events;
use crate::seams::{ImageSource, Network, Problem, VolumeDriver};
use crate::service_watch;
use crate::services;
use crate::volumes::Volumes;
use crate::worker::{Wish, Worker};

/// Images fetched at the same time: enough to use the line, few enough that the first of fifty pods does not wait for the last.
const PULLS_AT_ONCE: usize = 4;

/// A pod's variables name Services; so long it waits for them to be known (kubelet waits as well).
const SERVICES_PATIENCE: Duration = Duration::from_secs(10);

/// A pod waits so long for its policies before it says so; then it tries again.
const POLICIES_PATIENCE: Duration = Duration::from_secs(10);

/// What the node is, and how the agent behaves.
#[derive(Clone, Debug)]
pub struct Config {
    /// The Node's name.
    pub node_name: String,
    /// Labels besides `kubernetes.io/{hostname,os,arch}`, such as `atoll.cloud/owner`.
    pub labels: BTreeMap<String, String>,
    /// Set when the Node is made, not changed later.
    pub taints: Vec<Taint>,
    /// The node's addresses, the first being the pods' hostIP.
    pub addresses: Vec<String>,
    /// What the lease gives: thousandths of a core.
    pub cpu_millis: u64,
    /// What the lease gives: bytes of memory.
    pub memory_bytes: u64,
    /// What the lease gives: bytes for images, logs and `emptyDir`.
    pub storage_bytes: u64,
    /// The most pods.
    pub pods_max: u32,
    /// Where pods' records, volumes and logs are.
    pub dir: PathBuf,
    /// The same for what must not touch a disk; in memory (`/run/...`).
    pub volatile_dir: PathBuf,
    /// The runtime's group over all pods of the lease; made by the node, with the lease's limits.
    pub group: Option<GroupName>,
    /// Whether pods may mount the node's own files.
    pub host_path: bool,
    /// Where on this node pods find the API: stands behind the Service `kubernetes`.
    pub api: Option<SocketAddrV6>,
    /// Where pods of each Node have their addresses. Policies count nobody's pods at others; not known: any address is believed.
    pub subnets: Option<channel::Receiver<BTreeMap<String, Prefix>>>,
    /// Name servers for pods' resolv.conf.
    pub dns: Vec<Ipv6Addr>,
    /// `cluster.local` by custom.
    pub cluster_domain: String,
    /// How often the Node's Lease is renewed (kubelet: 10 s).
    pub lease_renew: Duration,
    /// For how long it holds (kubelet: 40 s).
    pub lease_duration: Duration,
    /// Out of the API's reach for this long, pods with exclusive volumes are stopped. It must be less than what the controllers wait before they
    /// start them elsewhere.
    pub cut_off_after: Duration,
    /// `kubeletVersion` of the Node.
    pub version: String,
}

impl Config {
    /// With Kubernetes' own times and nothing allowed.
    #[must_use]
    pub fn new(node_name: &str, dir: PathBuf, volatile_dir: PathBuf) -> Self {
        Self {
            node_name: node_name.to_owned(),
            labels: BTreeMap::new(),
            taints: Vec::new(),
            addresses: Vec::new(),
            cpu_millis: 1_000,
            memory_bytes: 1 << 30,
            storage_bytes: 10 << 30,
            pods_max: 110,
            dir,
            volatile_dir,
            group: None,
            host_path: false,
            api: None,
            subnets: None,
            dns: Vec::new(),
            cluster_domain: "cluster.local".to_owned(),
            lease_renew: Duration::from_secs(10),
            lease_duration: Duration::from_secs(40),
            cut_off_after: Duration::from_secs(40),
            version: concat!("v1.33.0-atoll-", env!("CARGO_PKG_VERSION")).to_owned(),
        }
    }
}

/// What the node hands in.
#[derive(Clone)]
pub struct Parts {
    /// Signed in as `system:node:<name>` of group `system:nodes`.
    pub client: Client,
    /// What runs containers.
    pub runtime: Arc<dyn Runtime>,
    /// What gives pods a network.
    pub network: Arc<dyn Network>,
    /// Where images come from.
    pub images: Arc<dyn ImageSource>,
    /// What mounts claims.
    pub volumes: Arc<dyn VolumeDriver>,
}

/// What all workers use.
pub(crate) struct Shared {
    pub(crate) config: Config,
    pub(crate) client: Client,
    pub(crate) runtime: Arc<dyn Runtime>,
    pub(crate) network: Arc<dyn Network>,
    pub(crate) images: Arc<dyn ImageSource>,
    pub(crate) volumes: Volumes,
    pub(crate) events: Events,
    pub(crate) host_ips: Vec<String>,
    pub(crate) pulls: Semaphore,
    pub(crate) cut_off: channel::Receiver<bool>,
    pub(crate) services: channel::Receiver<Option<Arc<Vec<Service>>>>,
    /// Changes whenever policies were programmed.
    pub(crate) policies: channel::Receiver<u64>,
}

impl Shared {
    /// Waits until it is known what the pod may; until then its network is closed.
    pub(crate) async fn policies_known(&self, pod: &PodKey) -> Result<(), Problem> {
        let mut programmed = self.policies.clone();
        let known = async {
            loop {
                programmed.borrow_and_update();
                if self.network.is_known(pod).await {
                    return;
                }
                if programmed.changed().await.is_err() {
                    // The agent ends.
                    std::future::pending::<()>().await;
                }
            }
        };
        let late =
            || Problem("its NetworkPolicies are not known yet; until they are, its network is closed".to_owned());
        tokio::time::timeout(POLICIES_PATIENCE, known).await.map_err(|_| late())
    }

    pub(crate) async fn service_variables(&self, namespace: &str, links: bool) -> BTreeMap<String, String> {
        let mut known = self.services.clone();
        let known = tokio::time::timeout(SERVICES_PATIENCE, known.wait_for(Option::is_some)).await;
        let list = known.ok().and_then(Result::ok).and_then(|known| (*known).clone());
        list.map(|list| services::variables(list.iter(), namespace, links)).unwrap_or_default()
    }

    pub(crate) fn log_path(&self, pod: &Pod, container: &str, attempt: u32) -> PathBuf {
        log_files::folder(&self.config.dir.join("logs"), pod).join(container).join(format!("{attempt}.log"))
    }

    /// resolv.conf as Kubernetes words it.
    pub(crate) fn resolver(&self, pod: &Pod, spec: &PodSpec) -> String {
        let namespace = pod.metadata.namespace.as_deref().unwrap_or("default");
        let domain = &self.config.cluster_domain;
        let own = spec.dns_config.clone().unwrap_or_default();
        let cluster = !matches!(spec.dns_policy.as_deref(), Some("None"));
        let mut text = String::new();
        if cluster {
            self.config.dns.iter().for_each(|server| text.push_str(&format!("nameserver {server}\n")));
        }
        own.nameservers.iter().flatten().for_each(|server| text.push_str(&format!("nameserver {server}\n")));
        let standard = [format!("{namespace}.svc.{domain}"), format!("svc.{domain}"), domain.clone()];
        let searches: Vec<String> =
            standard.into_iter().filter(|_| cluster).chain(own.searches.unwrap_or_default()).collect();
        if !searches.is_empty() {
            text.push_str(&format!("search {}\n", searches.join(" ")));
        }
        let options = own.options.unwrap_or_default().into_iter().filter_map(|it| {
            let name = it.name?;
            Some(it.value.map_or(name.clone(), |value| format!("{name}:{value}")))
        });
        let options: Vec<String> = std::iter::once("ndots:5".to_owned()).chain(options).collect();
        text.push_str(&format!("options {}\n", options.join(" ")));
        text
    }
}

/// Why the agent cannot begin.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Its folders.
    #[error("could not use the agent's folder {path}: {source}")]
    Folder {
        /// Which.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// The agent of one node in one eVDC.
pub struct Agent {
    shared: Arc<Shared>,
    cut_off: channel::Sender<bool>,
    services: channel::Sender<Option<Arc<Vec<Service>>>>,
    policies: channel::Sender<u64>,
}

struct Known {
    wish: channel::Sender<Wish>,
}

impl Agent {
    /// Makes ready; nothing runs yet. Needs a tokio runtime.
    ///
    /// # Errors
    ///
    /// Folders that cannot be made.
    pub fn new(config: Config, parts: Parts) -> Result<Self, StartError> {
        for path in [config.dir.join("pods"), config.dir.join("logs"), config.volatile_dir.clone()] {
            std::fs::create_dir_all(&path).map_err(|source| StartError::Folder { path, source })?;
        }
        // Secrets and tokens of pods lie below it, readable to whoever the pod runs as.
        let private = std::fs::set_permissions(&config.volatile_dir, PermissionsExt::from_mode(0o700));
        private.map_err(|source| StartError::Folder { path: config.volatile_dir.clone(), source })?;
        let (cut_off, cut_off_seen) = channel::channel(false);
        let (services, services_seen) = channel::channel(None);
        let (policies, policies_seen) = channel::channel(0);
        let volumes = Volumes {
            client: parts.client.clone(),
            driver: parts.volumes,
            dir: config.dir.join("pods"),
            volatile: config.volatile_dir.clone(),
            host_path: config.host_path,
            tokens: Arc::default(),
        };
        let shared = Shared {
            events: Events::start(parts.client.clone(), &config.node_name),
            host_ips: config.addresses.clone(),
            pulls: Semaphore::new(PULLS_AT_ONCE),
            cut_off: cut_off_seen,
            services: services_seen,
            policies: policies_seen,
            client: parts.client,
            runtime: parts.runtime,
            network: parts.network,
            images: parts.images,
            volumes,
            config,
        };
        Ok(Self { shared: Arc::new(shared), cut_off, services, policies })
    }

    /// For logs and commands; works as long as any clone of it is held.
    #[must_use]
    pub fn streams(&self) -> crate::streams::Streams {
        let shared = &self.shared;
        let logs = shared.config.dir.join("logs");
        crate::streams::Streams::new(shared.runtime.clone(), shared.network.clone(), logs, shared.config.group.clone())
    }

    /// Runs until `stop`; containers run on after it.
    pub async fn run(self, stop: CancellationToken) {
        let Self { shared, cut_off, services, policies } = self;
        let node = crate::node::run(shared.clone(), cut_off);
        let services = service_watch::run(shared.clone(), services);
        let policies = policy_watch::run(shared.clone(), policies);
        let logs = log_files::run(shared.clone());
        let pods = Pods { shared, known: HashMap::new(), workers: JoinSet::new(), stop: stop.clone(), swept: false };
        tokio::select! {
            () = node => {}
            () = services => {}
            () = policies => {}
            () = logs => {}
            () = pods.run() => {}
            () = stop.cancelled() => {}
        }
    }
}

/// Who has a worker.
struct Pods {
    shared: Arc<Shared>,
    known: HashMap<String, Known>,
    workers: JoinSet<String>,
    stop: CancellationToken,
    swept: bool,
}

impl Pods {
    async fn run(mut self) {
        self.resume();
        let api: Api<Pod> = Api::all(self.shared.client.clone());
        let mine = watcher::Config::default().fields(&format!("spec.nodeName={}", self.shared.config.node_name));
        let mut events = pin!(watcher(api, mine).default_backoff());
        let mut listed = BTreeSet::new();
        loop {
            let event = tokio::select! {
                event = events.next() => event,
                Some(ended) = self.workers.join_next() => {
                    if let Ok(uid) = ended {
                        self.known.remove(&uid);
                    }
                    continue;
                }
            };
            match event {
                Some(Ok(watcher::Event::Init)) => listed.clear(),
                Some(Ok(watcher::Event::InitApply(pod))) => {
                    listed.extend(pod.metadata.uid.clone());
                    self.wanted(pod, false);
                }
                Some(Ok(watcher::Event::InitDone)) => self.all_listed(&listed).await,
                Some(Ok(watcher::Event::Apply(pod))) => self.wanted(pod, false),
                Some(Ok(watcher::Event::Delete(pod))) => self.wanted(pod, true),
                Some(Err(error)) => tracing::debug!(%error, "watching pods; trying again"),
                None => return,
            }
        }
    }

    /// What ran here before, whatever the API server says later.
    fn resume(&mut self) {
        match records::load_all(&self.shared.config.dir.join("pods")) {
            Ok(found) => {
                for record in found {
                    self.worker(Wish { pod: Arc::new(record.pod), gone: false, confirmed: false }, record.exclusive);
                }
            }
            Err(error) => tracing::error!(%error, "the records of pods cannot be read"),
        }
    }

    fn wanted(&mut self, pod: Pod, gone: bool) {
        let uid = pod.metadata.uid.clone().unwrap_or_default();
        if let Some(known) = self.known.get(&uid) {
            let fresh = Arc::new(pod);
            known.wish.send_modify(|wish| {
                wish.pod = fresh;
                wish.gone |= gone;
                wish.confirmed = true;
            });
            return;
        }
        // One that never ran here and is over, or gone, needs nothing.
        let leaving = pod.metadata.deletion_timestamp.is_some();
        if !gone && (leaving || !crate::observed::is_over(&pod)) {
            self.worker(Wish { pod: Arc::new(pod), gone, confirmed: true }, false);
        }
    }

    fn worker(&mut self, wish: Wish, exclusive: bool) {
        let Some(key) = key_of(&wish.pod) else {
            tracing::warn!(uid = ?wish.pod.metadata.uid, "a pod's uid cannot name its files; it is left alone");
            return;
        };
        let uid = key.as_str().to_owned();
        let (wish, seen) = channel::channel(wish);
        let worker = Worker::new(self.shared.clone(), uid.clone(), key, seen, exclusive);
        let stop = self.stop.clone();
        self.known.insert(uid.clone(), Known { wish });
        self.workers.spawn(async move {
            // On the heap: a worker's future is large, and there are many.
            Box::pin(worker.run(stop)).await;
            uid
        });
    }

    /// What the API server does not list is gone; what nobody knows of is removed, once.
    async fn all_listed(&mut self, listed: &BTreeSet<String>) {
        for (uid, known) in &self.known {
            if !listed.contains(uid) {
                known.wish.send_modify(|wish| wish.gone = true);
            }
        }
        if !std::mem::replace(&mut self.swept, true) {
            self.sweep(listed).await;
        }
    }

    /// Records are written before anything is made, so what has none is nobody's.
    async fn sweep(&self, listed: &BTreeSet<String>) {
        let own = &self.shared.config.group;
        let sandboxes = self.shared.runtime.sandboxes().await.unwrap_or_default();
        for sandbox in sandboxes.iter().filter(|it| it.group == *own && !self.known.contains_key(it.id.as_str())) {
            tracing::info!(sandbox = %sandbox.id, "removing a sandbox that belongs to no pod");
            if let Err(error) = self.shared.runtime.remove_sandbox(&sandbox.id).await {
                tracing::warn!(%error, "it could not be removed");
            }
        }
        for key in self.shared.network.attached() {
            if !self.known.contains_key(key.as_str())
                && let Err(error) = self.shared.network.detach(&key).await
            {
                tracing::warn!(%error, "a network that belongs to no pod could not be removed");
            }
        }
        // A pod that is over has no worker, and its logs are read all the same.
        let known: BTreeSet<String> = self.known.keys().chain(listed).cloned().collect();
        if let Err(error) = log_files::sweep(&self.shared.config.dir.join("logs"), &known) {
            tracing::warn!(%error, "logs that belong to no pod could not be removed");
        }
    }
}

/// The pod's uid as the name of its files and its sandbox.
fn key_of(pod: &Pod) -> Option<PodKey> {
    let uid = pod.metadata.uid.as_deref()?;
    uid.parse::<SandboxId>().ok()?;
    uid.parse().ok()
}
