//! The Node object and its Lease: made when the agent starts, kept true while it runs. From how the renewals go it is known how long the
//! API server has been out of reach.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::api::core::v1::{
    Node, NodeAddress, NodeCondition, NodeDaemonEndpoints, NodeSpec, NodeStatus, NodeSystemInfo,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta, Time};
use kube::Api;
use kube::api::{Patch, PatchParams, PostParams};
use serde_json::json;
use tokio::sync::watch as channel;
use tokio::time::Instant;

use crate::agent::{Config, Shared};

/// Where kubelets have theirs.
const LEASES: &str = "kube-node-lease";

/// The status is told again this often though nothing changed (kubelet: 5 min; ours is small).
const STATUS_AGAIN: Duration = Duration::from_secs(60);

/// A renewal that hangs is a renewal that failed.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(8);

/// How often it is looked whether the node is cut off.
const LOOK: Duration = Duration::from_millis(500);

/// Never returns.
pub(crate) async fn run(shared: Arc<Shared>, cut_off: channel::Sender<bool>) {
    let mut heard = Instant::now();
    let mut renew = Instant::now();
    let mut status_at: Option<Instant> = None;
    loop {
        if Instant::now() >= renew {
            renew = Instant::now() + shared.config.lease_renew;
            let due = status_at.is_none_or(|at| at.elapsed() >= STATUS_AGAIN);
            match tokio::time::timeout(REQUEST_TIMEOUT.min(shared.config.cut_off_after), beat(&shared, due)).await {
                Ok(Ok(())) => {
                    heard = Instant::now();
                    if due {
                        status_at = Some(heard);
                    }
                }
                Ok(Err(error)) => {
                    tracing::warn!(%error, "the API server did not take the node's heartbeat");
                    status_at = None;
                }
                Err(_) => {
                    tracing::warn!("the API server does not answer");
                    status_at = None;
                }
            }
        }
        let is_cut_off = heard.elapsed() > shared.config.cut_off_after;
        let changed = cut_off.send_if_modified(|was| std::mem::replace(was, is_cut_off) != is_cut_off);
        if changed && is_cut_off {
            tracing::warn!("cut off from the API server: pods with volumes that one node may write are stopped");
        }
        tokio::time::sleep(LOOK.min(shared.config.lease_renew)).await;
    }
}

/// The Lease first: a status told before it could be taken for that of a node that is gone. The controllers write `Ready=Unknown` for such a
/// node, and only the node itself takes that back, so it looks each time.
async fn beat(shared: &Shared, with_status: bool) -> Result<(), kube::Error> {
    renew_lease(shared).await?;
    if with_status || !is_ready(shared).await? {
        register(shared).await?;
    }
    Ok(())
}

/// Whether the API says of this node that it is ready.
async fn is_ready(shared: &Shared) -> Result<bool, kube::Error> {
    let api: Api<Node> = Api::all(shared.client.clone());
    let live = api.get_opt(&shared.config.node_name).await?;
    let conditions = live.and_then(|live| live.status).and_then(|status| status.conditions).unwrap_or_default();
    Ok(conditions.iter().any(|condition| condition.type_ == "Ready" && condition.status == "True"))
}

async fn register(shared: &Shared) -> Result<(), kube::Error> {
    let api: Api<Node> = Api::all(shared.client.clone());
    let name = &shared.config.node_name;
    let live = match api.get_opt(name).await? {
        Some(live) => live,
        None => api.create(&PostParams::default(), &node(&shared.config)).await?,
    };
    let labels = labels(&shared.config);
    let has = |(key, value): (&String, &String)| live.metadata.labels.iter().flatten().any(|it| it == (key, value));
    if !labels.iter().all(has) {
        let patch = json!({"metadata": {"labels": labels}});
        api.patch(name, &PatchParams::default(), &Patch::Merge(&patch)).await?;
    }
    let status = status(&shared.config, live.status.unwrap_or_default(), Timestamp::now());
    let patch = json!({ "status": status });
    api.patch_status(name, &PatchParams::default(), &Patch::Merge(&patch)).await.map(drop)
}

fn labels(config: &Config) -> BTreeMap<String, String> {
    let standard = [
        ("kubernetes.io/hostname", config.node_name.as_str()),
        ("kubernetes.io/os", "linux"),
        ("kubernetes.io/arch", architecture()),
    ];
    let mut labels: BTreeMap<String, String> =
        standard.into_iter().map(|(key, value)| (key.to_owned(), value.to_owned())).collect();
    labels.extend(config.labels.clone());
    labels
}

/// As Go names it.
fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

fn node(config: &Config) -> Node {
    let taints = Some(config.taints.clone()).filter(|taints| !taints.is_empty());
    Node {
        metadata: ObjectMeta {
            name: Some(config.node_name.clone()),
            labels: Some(labels(config)),
            ..ObjectMeta::default()
        },
        spec: Some(NodeSpec { taints, ..NodeSpec::default() }),
        status: None,
    }
}

/// The node's status: the lease's figures, well as long as this program says so; conditions that others set are kept.
fn status(config: &Config, live: NodeStatus, now: Timestamp) -> NodeStatus {
    let quantity = |text: String| Quantity(text);
    let amounts: BTreeMap<String, Quantity> = [
        ("cpu", quantity(format!("{}m", config.cpu_millis))),
        ("memory", quantity(config.memory_bytes.to_string())),
        ("ephemeral-storage", quantity(config.storage_bytes.to_string())),
        ("pods", quantity(config.pods_max.to_string())),
    ]
    .into_iter()
    .map(|(name, amount)| (name.to_owned(), amount))
    .collect();
    let address = |type_: &str, address: &String| NodeAddress { type_: type_.to_owned(), address: address.clone() };
    let mut addresses: Vec<NodeAddress> = config.addresses.iter().map(|it| address("InternalIP", it)).collect();
    addresses.push(address("Hostname", &config.node_name));
    NodeStatus {
        allocatable: Some(amounts.clone()),
        capacity: Some(amounts),
        addresses: Some(addresses),
        conditions: Some(conditions(live.conditions.unwrap_or_default(), now)),
        node_info: Some(info(config)),
        daemon_endpoints: Some(NodeDaemonEndpoints::default()),
        ..NodeStatus::default()
    }
}

fn conditions(live: Vec<NodeCondition>, now: Timestamp) -> Vec<NodeCondition> {
    let own = [
        ("MemoryPressure", "False", "KubeletHasSufficientMemory", "kubelet has sufficient memory available"),
        ("DiskPressure", "False", "KubeletHasNoDiskPressure", "kubelet has no disk pressure"),
        ("PIDPressure", "False", "KubeletHasSufficientPID", "kubelet has sufficient PID available"),
        ("Ready", "True", "KubeletReady", "kubelet is posting ready status"),
    ];
    let since = |type_: &str, status: &str| {
        let same = live.iter().find(|it| it.type_ == type_ && it.status == status);
        same.and_then(|it| it.last_transition_time.clone()).unwrap_or(Time(now))
    };
    let mut conditions: Vec<NodeCondition> = own
        .iter()
        .map(|(type_, status, reason, message)| NodeCondition {
            type_: (*type_).to_owned(),
            status: (*status).to_owned(),
            reason: Some((*reason).to_owned()),
            message: Some((*message).to_owned()),
            last_heartbeat_time: Some(Time(now)),
            last_transition_time: Some(since(type_, status)),
        })
        .collect();
    conditions.extend(live.into_iter().filter(|it| own.iter().all(|(type_, ..)| it.type_ != *type_)));
    conditions
}

fn info(config: &Config) -> NodeSystemInfo {
    let read = |path: &str| std::fs::read_to_string(path).map(|text| text.trim().to_owned()).unwrap_or_default();
    let release = read("/etc/os-release");
    let name = release.lines().find_map(|line| line.strip_prefix("PRETTY_NAME=")).unwrap_or("Linux").trim_matches('"');
    let machine = read("/etc/machine-id");
    NodeSystemInfo {
        architecture: architecture().to_owned(),
        boot_id: read("/proc/sys/kernel/random/boot_id"),
        container_runtime_version: concat!("atoll://", env!("CARGO_PKG_VERSION")).to_owned(),
        kernel_version: read("/proc/sys/kernel/osrelease"),
        kube_proxy_version: String::new(),
        kubelet_version: config.version.clone(),
        system_uuid: machine.clone(),
        machine_id: machine,
        operating_system: "linux".to_owned(),
        os_image: name.to_owned(),
        swap: None,
    }
}

async fn renew_lease(shared: &Shared) -> Result<(), kube::Error> {
    let api: Api<Lease> = Api::namespaced(shared.client.clone(), LEASES);
    let name = &shared.config.node_name;
    let spec = LeaseSpec {
        holder_identity: Some(name.clone()),
        lease_duration_seconds: i32::try_from(shared.config.lease_duration.as_secs()).ok(),
        renew_time: Some(MicroTime(Timestamp::now())),
        ..LeaseSpec::default()
    };
    let patch = json!({ "spec": spec });
    match api.patch(name, &PatchParams::default(), &Patch::Merge(&patch)).await {
        Err(kube::Error::Api(status)) if status.code == 404 => {
            let metadata = ObjectMeta { name: Some(name.clone()), ..ObjectMeta::default() };
            api.create(&PostParams::default(), &Lease { metadata, spec: Some(spec) }).await.map(drop)
        }
        other => other.map(drop),
    }
}
