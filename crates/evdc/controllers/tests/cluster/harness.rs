//! An API server in this process, the controllers on it, and nodes whose kubelets only say that pods run.

use std::{
    collections::BTreeSet,
    future::Future,
    sync::{Arc, Mutex},
    time::Duration,
};

use atoll_apiserver::{ApiServer, Config as ServerConfig, MASTERS, User};
use atoll_controllers::{Config, ProvisionError, Provisioner, VolumeRequest};
use atoll_kv::{Embedded, EmbeddedConfig};
use futures_util::{StreamExt, future::BoxFuture};
use jiff::Timestamp;
use k8s_openapi::api::{coordination::v1::Lease, core::v1::Node, core::v1::Pod};
use kube::{
    Api, Client, ResourceExt,
    api::{DeleteParams, Patch, PatchParams, PostParams},
    runtime::{WatchStreamExt, watcher},
};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

/// How long anything may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(40);

/// What the kubelets share.
type Alive = Arc<Mutex<BTreeSet<String>>>;

/// File systems that exist.
#[derive(Default)]
pub struct Volumes(pub Mutex<BTreeSet<String>>);

impl Provisioner for Volumes {
    fn create(&self, request: VolumeRequest) -> BoxFuture<'_, Result<String, ProvisionError>> {
        self.0.lock().unwrap().insert(request.name.clone());
        Box::pin(async move { Ok(request.name) })
    }

    fn delete(&self, handle: String) -> BoxFuture<'_, Result<(), ProvisionError>> {
        self.0.lock().unwrap().remove(&handle);
        Box::pin(async { Ok(()) })
    }
}

pub struct Harness {
    pub client: Client,
    pub volumes: Arc<Volumes>,
    alive: Alive,
    shutdown: CancellationToken,
    _server: ApiServer,
    _dir: tempfile::TempDir,
}

impl Drop for Harness {
    fn drop(&mut self) {
        self.shutdown.cancel();
    }
}

impl Harness {
    /// A cluster with these nodes.
    pub async fn start(nodes: &[&str]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let kv = Embedded::open(dir.path().join("kv"), EmbeddedConfig::watched()).unwrap();
        let server = ApiServer::open(Arc::new(kv), ServerConfig::new(dir.path().join("keys"))).await.unwrap();
        let client = Client::new(server.local_service(User::new("test", [MASTERS])), "default");
        let shutdown = CancellationToken::new();
        let volumes = Arc::new(Volumes::default());
        let config = Config {
            node_grace: Duration::from_secs(3),
            evict_after: Duration::ZERO,
            force_delete_after: Duration::from_secs(1),
            ..Config::default()
        };
        tokio::spawn(atoll_controllers::run(client.clone(), config, Arc::<Volumes>::clone(&volumes), shutdown.clone()));
        let alive: Alive = Arc::new(Mutex::new(nodes.iter().map(|node| (*node).to_owned()).collect()));
        for node in nodes {
            add_node(&client, node).await;
        }
        tokio::spawn(cancelled(shutdown.clone(), renew(client.clone(), Arc::clone(&alive))));
        tokio::spawn(cancelled(shutdown.clone(), run_pods(client.clone(), Arc::clone(&alive))));
        Self { client, volumes, alive, shutdown, _server: server, _dir: dir }
    }

    /// The node's kubelet is gone from now on.
    pub fn kill(&self, node: &str) {
        self.alive.lock().unwrap().remove(node);
    }

    pub async fn make<K>(&self, object: Value) -> K
    where
        K: kube::Resource<DynamicType = (), Scope = k8s_openapi::NamespaceResourceScope>
            + Clone
            + std::fmt::Debug
            + serde::de::DeserializeOwned
            + serde::Serialize,
    {
        let api =
            Api::<K>::namespaced(self.client.clone(), object["metadata"]["namespace"].as_str().unwrap_or("default"));
        let object = serde_json::from_value(object).unwrap();
        api.create(&PostParams::default(), &object).await.unwrap()
    }

    /// Follows all pods until `done`, which sees every change and all pods after it.
    pub async fn pods_until(&self, what: &str, mut done: impl FnMut(&[Pod]) -> bool) {
        let mut pods: Vec<Pod> = Vec::new();
        let mut events =
            std::pin::pin!(watcher(Api::<Pod>::all(self.client.clone()), watcher::Config::default()).default_backoff());
        let follow = async {
            while let Some(event) = events.next().await {
                let event = event.unwrap();
                let is_listing = matches!(event, watcher::Event::Init | watcher::Event::InitApply(_));
                match event {
                    watcher::Event::Init => pods.clear(),
                    watcher::Event::Apply(pod) | watcher::Event::InitApply(pod) => {
                        pods.retain(|other| other.uid() != pod.uid());
                        pods.push(pod);
                    }
                    watcher::Event::Delete(pod) => pods.retain(|other| other.uid() != pod.uid()),
                    watcher::Event::InitDone => {}
                }
                pods.sort_by_key(ResourceExt::name_any);
                if !is_listing && done(&pods) {
                    return true;
                }
            }
            false
        };
        let is_done = tokio::time::timeout(PATIENCE, follow).await.unwrap_or(false);
        assert!(is_done, "{what} did not happen; pods: {:#?}", pods.iter().map(describe).collect::<Vec<_>>());
    }

    /// Asks until the answer is there.
    pub async fn until<T, F: Future<Output = Option<T>>>(&self, what: &str, mut ask: impl FnMut() -> F) -> T {
        let asking = async {
            loop {
                if let Some(answer) = ask().await {
                    return answer;
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        tokio::time::timeout(PATIENCE, asking).await.unwrap_or_else(|_| panic!("{what} did not happen"))
    }
}

fn describe(pod: &Pod) -> String {
    let spec = pod.spec.as_ref().unwrap();
    let conditions = pod.status.as_ref().and_then(|status| status.conditions.as_ref());
    let says: Vec<_> = conditions.into_iter().flatten().map(|it| (&it.type_, &it.status, &it.message)).collect();
    format!("{} on {:?}, leaving {:?}: {says:?}", pod.name_any(), spec.node_name, pod.metadata.deletion_timestamp)
}

pub fn is_ready(pod: &Pod) -> bool {
    let conditions = pod.status.as_ref().and_then(|status| status.conditions.as_ref());
    conditions.into_iter().flatten().any(|it| it.type_ == "Ready" && it.status == "True")
}

pub fn node_of(pod: &Pod) -> &str {
    pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref()).unwrap_or_default()
}

async fn cancelled(shutdown: CancellationToken, work: impl Future<Output = ()>) {
    let _ = shutdown.run_until_cancelled(work).await;
}

async fn add_node(client: &Client, name: &str) {
    let node = json!({"metadata": {"name": name, "labels": {"kubernetes.io/hostname": name}}});
    let api = Api::<Node>::all(client.clone());
    api.create(&PostParams::default(), &serde_json::from_value(node).unwrap()).await.unwrap();
    let status = json!({"status": {"allocatable": {"cpu": "4", "memory": "8Gi", "pods": "110"},
        "conditions": [{"type": "Ready", "status": "True", "reason": "KubeletReady", "lastTransitionTime": "2026-01-01T00:00:00Z"}]}});
    api.patch_status(name, &PatchParams::default(), &Patch::Merge(status)).await.unwrap();
}

/// Renews the Leases of the nodes that are alive.
async fn renew(client: Client, alive: Alive) {
    let api = Api::<Lease>::namespaced(client, "kube-node-lease");
    loop {
        let nodes = alive.lock().unwrap().clone();
        for node in nodes {
            let lease = json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": node},
                "spec": {"holderIdentity": node, "renewTime": Timestamp::now().to_string()}});
            let _ = api.patch(&node, &PatchParams::apply("kubelet").force(), &Patch::Apply(lease)).await;
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}

/// Says of pods on live nodes that they run, and confirms that they ended.
async fn run_pods(client: Client, alive: Alive) {
    // With pauses: once the server has ended, every attempt fails without waiting for anything, and who only tries again would never be cancelled.
    let events = watcher(Api::<Pod>::all(client.clone()), watcher::Config::default()).default_backoff();
    let mut events = std::pin::pin!(events.applied_objects());
    let mut address = 1_u32;
    while let Some(event) = events.next().await {
        let Ok(pod) = event else { continue };
        if !alive.lock().unwrap().contains(node_of(&pod)) {
            continue;
        }
        let api = Api::<Pod>::namespaced(client.clone(), &pod.namespace().unwrap());
        if pod.metadata.deletion_timestamp.is_some() {
            let _ = api.delete(&pod.name_any(), &DeleteParams::default().grace_period(0)).await;
        } else if !is_ready(&pod) {
            address += 1;
            let ip = format!("fd00::{address:x}");
            let status = json!({"status": {"phase": "Running", "podIP": ip, "podIPs": [{"ip": ip}],
                "conditions": [{"type": "Ready", "status": "True", "lastTransitionTime": Timestamp::now().to_string()}]}});
            let _ = api.patch_status(&pod.name_any(), &PatchParams::default(), &Patch::Strategic(status)).await;
        }
    }
}
