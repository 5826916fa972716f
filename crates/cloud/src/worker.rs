//! A member's part: network, agent and gateway connection for each eVDC that this node was assigned to.

use std::collections::BTreeMap;
use std::net::SocketAddrV6;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use atoll_agent::{Agent, Config, Parts, StoreImages};
use atoll_gateway::{Connector, Dial, DialError, PROTOCOL as GATEWAY_PROTOCOL, Served};
use atoll_ids::{EvdcId, NodeId};
use atoll_images::{ImageError, Store};
use atoll_kubelet::Kubelet;
use atoll_lease::Member;
use atoll_link::{LinkHandle, Traffic};
use atoll_podnet::{EvdcTag, NodeService, PodNet, Protocol};
use atoll_runtime::{GroupName, GroupSpec, Resources, Runtime};
use atoll_tun::{Prefix, Routes};
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use k8s_openapi::api::core::v1::Taint;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::assignment::{Assigned, Assignments};
use crate::control::ControlPlanes;
use crate::dial::ApiAddress;
use crate::images::from_home;
use crate::ingress;
use crate::kubelet::Kubelets;
use crate::protocol::{Answer, Credentials, PROTOCOL, Request, ask};
use crate::provider::Whom;
use crate::remains;
use crate::volumes::{HomesOf, KubeVolumes, MountedVolumes, Mounts};

/// What a member cannot do yet is tried again after this.
const RETRY: Duration = Duration::from_secs(2);

/// How often clearing up after a lease is tried: what is in the way is mostly a container that is just ending.
const CLEAR_TRIES: u32 = 4;

/// Between two tries.
const CLEAR_PAUSE: Duration = Duration::from_secs(1);

/// Where, below what does not outlive the machine's running, the pod network of a member is kept.
const NETWORK_DIR: &str = "net";

/// Where API servers listen by custom.
const API_PORT: u16 = 6443;

/// Processes and threads of all pods of a lease, for each pod that it allows: Kubernetes' own usual limit per pod.
const PIDS_PER_POD: u32 = 1024;

/// What members are made of. Cheap to clone.
#[derive(Clone)]
pub struct WorkerParts {
    /// How to get to others.
    pub link: LinkHandle,
    /// What this node was assigned.
    pub assignments: Assignments,
    /// The API servers on this node: an agent beside one needs no stream to it.
    pub planes: ControlPlanes,
    /// Told of the agents, which answer for their pods.
    pub kubelets: Kubelets,
    /// What runs containers.
    pub runtime: Arc<dyn Runtime>,
    /// Where images lie.
    pub images: Store,
    /// The planetary interface: its name, and where pod networks are.
    pub planetary: Option<(String, Routes)>,
    /// Where volumes lie.
    pub homes: Arc<HomesOf>,
    /// Told what is mounted.
    pub mounted: MountedVolumes,
    /// Where members keep what stays.
    pub dir: PathBuf,
    /// Where they keep what does not outlive the machine's running.
    pub run_dir: PathBuf,
}

/// The members that run.
pub struct Workers {
    parts: WorkerParts,
    running: BTreeMap<EvdcId, Running>,
}

struct Running {
    assigned: Assigned,
    stop: CancellationToken,
    tasks: TaskTracker,
    /// New members do not interrupt what runs; the agent hears of them.
    subnets: watch::Sender<Subnets>,
}

/// Where the pods of each member have their addresses, by the name of its Node.
type Subnets = BTreeMap<String, atoll_podnet::Prefix>;

impl Workers {
    /// Nothing runs yet.
    pub fn new(parts: WorkerParts) -> Self {
        Self { parts, running: BTreeMap::new() }
    }

    /// Does a member's part for every assignment until told to stop. Containers run on after that.
    pub async fn run(mut self, stop: CancellationToken) {
        self.clear_remains().await;
        let mut changes = self.parts.assignments.changes();
        loop {
            changes.mark_unchanged();
            self.follow(&stop).await;
            tokio::select! {
                () = stop.cancelled() => break,
                changed = changes.changed() => if changed.is_err() { break },
            }
        }
        for running in self.running.into_values() {
            running.end().await;
        }
    }

    /// What ended while this node was down, or was killed in the middle of clearing up.
    async fn clear_remains(&self) {
        for assignment in remains::of(&self.parts.dir).await {
            let Ok(assigned) = assignment.once(self.parts.link.node_id()) else { continue };
            if self.parts.assignments.get(&assigned.membership.evdc).is_none() {
                tracing::info!(evdc = %assigned.membership.evdc.short(), "clearing up after a lease that ended");
                clear(&self.parts, &assigned).await;
            }
        }
    }

    async fn follow(&mut self, stop: &CancellationToken) {
        // Where nothing but storage is rented, nothing runs.
        let runs = |it: &Assigned| it.terms.capacity.cpu_milli > 0;
        let wanted: BTreeMap<EvdcId, Assigned> =
            self.parts.assignments.all().into_iter().filter(runs).map(|it| (it.membership.evdc, it)).collect();
        let gone: Vec<EvdcId> = self.running.keys().filter(|id| !wanted.contains_key(id)).copied().collect();
        for id in gone {
            if let Some(running) = self.running.remove(&id) {
                let assigned = running.assigned.clone();
                running.end().await;
                clear(&self.parts, &assigned).await;
            }
        }
        for (id, assigned) in wanted {
            route(&self.parts, &assigned);
            match self.running.get_mut(&id) {
                // Renewed leases and new members change routes and claims, not what runs.
                Some(running) if same_work(&running.assigned, &assigned) => {
                    running.subnets.send_replace(subnets(&assigned));
                    running.assigned = assigned;
                }
                Some(_) => {
                    if let Some(running) = self.running.remove(&id) {
                        running.end().await;
                    }
                    self.running.insert(id, start(&self.parts, assigned, stop));
                }
                None => {
                    self.running.insert(id, start(&self.parts, assigned, stop));
                }
            }
        }
    }
}

/// Whether the agent can go on as it is.
fn same_work(one: &Assigned, other: &Assigned) -> bool {
    one.terms.capacity == other.terms.capacity
        && one.membership.control == other.membership.control
        && one.membership.gateway == other.membership.gateway
        && one.member == other.member
        && one.assignment.claim == other.assignment.claim
}

impl Running {
    async fn end(self) {
        self.stop.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }
}

/// The pod networks of all members: packets of a /64 go to its member, and come from nobody else.
fn route(parts: &WorkerParts, assigned: &Assigned) {
    let Some((_, routes)) = &parts.planetary else { return };
    for member in &assigned.membership.members {
        let Ok(prefix) = Prefix::new(assigned.membership.subnet(member), 64) else { continue };
        let set = if member.node == assigned.member.node {
            routes.set_local(prefix)
        } else {
            routes.set(prefix, member.node)
        };
        if let Err(error) = set {
            tracing::warn!(member = member.name, %error, "the pod network of a member is not routed");
        }
    }
}

fn start(parts: &WorkerParts, assigned: Assigned, stop: &CancellationToken) -> Running {
    let (stop, tasks) = (stop.child_token(), TaskTracker::new());
    // Ends between two steps, wherever it is: what is half done is done again by the next start.
    let (subnets, known) = watch::channel(subnets(&assigned));
    tasks.spawn(work(parts.clone(), assigned.clone(), known, stop.clone()));
    Running { assigned, stop, tasks, subnets }
}

async fn work(parts: WorkerParts, assigned: Assigned, subnets: watch::Receiver<Subnets>, stop: CancellationToken) {
    let evdc = assigned.membership.evdc;
    let mounts = Arc::new(Mounts::default());
    parts.mounted.add(&mounts);
    loop {
        let tried = stop.run_until_cancelled(member(&parts, &assigned, &subnets, &mounts, &stop).boxed()).await;
        match tried {
            None | Some(Ok(())) => break,
            Some(Err(why)) => tracing::warn!(evdc = %evdc.short(), why, "a member's part cannot be done yet"),
        }
        if stop.run_until_cancelled(tokio::time::sleep(RETRY)).await.is_none() {
            break;
        }
    }
    mounts.end().await;
}

async fn member(
    parts: &WorkerParts,
    assigned: &Assigned,
    subnets: &watch::Receiver<Subnets>,
    mounts: &Arc<Mounts>,
    stop: &CancellationToken,
) -> Result<(), String> {
    let membership = &assigned.membership;
    let dir = parts.dir.join(membership.evdc.to_string());
    remains::note(&dir, &assigned.assignment).await?;
    let client = client(parts, assigned).await?;
    let network = open_network(parts, assigned).await?;
    let group = group(assigned)?;
    let capacity = assigned.terms.capacity;
    let limits = Resources {
        memory: Some(capacity.memory),
        cpu_millis_max: Some(capacity.cpu_milli),
        cpu_millis_request: None,
        pids: Some(capacity.pods.saturating_mul(PIDS_PER_POD)),
    };
    let limited = parts.runtime.set_group(GroupSpec { name: group.clone(), limits }).await;
    limited.map_err(|error| error.to_string())?;
    let mut config = Config::new(&assigned.member.name, dir.clone(), run_dir(parts, assigned).join("agent"));
    config.labels = BTreeMap::from([
        ("atoll.cloud/node".to_owned(), label(&assigned.member.node)),
        ("atoll.cloud/owner".to_owned(), label(&assigned.terms.provider)),
    ]);
    config.addresses = vec![assigned.member.node.planetary_address().ip().to_string()];
    if assigned.is_control() {
        config.taints = vec![beside_the_api()];
    }
    config.cpu_millis = capacity.cpu_milli.into();
    config.memory_bytes = capacity.memory.0;
    config.storage_bytes = capacity.storage.0;
    config.pods_max = capacity.pods;
    config.group = Some(group);
    let api = api_of(parts, assigned)?;
    let listener =
        TcpListener::bind(api).await.map_err(|error| format!("pods cannot reach the API at {api}: {error}"))?;
    config.api = Some(api);
    config.subnets = Some(subnets.clone());
    let fetch = from_home(parts.link.clone(), membership.home, dir.join("incoming"));
    let agent = Agent::new(
        config,
        Parts {
            client: client.clone(),
            runtime: parts.runtime.clone(),
            network: Arc::new(network),
            images: Arc::new(StoreImages::new(parts.images.clone(), fetch)),
            volumes: Arc::new(KubeVolumes::new(client.clone(), (parts.homes)(assigned), mounts.clone())),
        },
    );
    let agent = agent.map_err(|error| error.to_string())?;
    parts.kubelets.set(membership.evdc, Kubelet::new(Arc::new(agent.streams())), stop.clone());
    tracing::info!(evdc = membership.name, member = assigned.member.name, "the agent is up");
    let serve_api = serve_api(parts, assigned, listener, stop);
    tokio::join!(agent.run(stop.clone()), serve_gateway(parts, assigned, client, stop), serve_api);
    Ok(())
}

/// Pods go elsewhere as long as there is room: the member that serves the API is missed most.
fn beside_the_api() -> Taint {
    let (key, effect) = ("node-role.kubernetes.io/control-plane".into(), "PreferNoSchedule".into());
    Taint { key, effect, ..Taint::default() }
}

/// Where pods of this member find the API: at the member's own address in the eVDC.
fn api_of(parts: &WorkerParts, assigned: &Assigned) -> Result<SocketAddrV6, String> {
    let config = network_config(&parts.run_dir, None, assigned)?;
    Ok(SocketAddrV6::new(config.node_address(), API_PORT, 0, 0))
}

/// As the tenant has signed them.
fn subnets(assigned: &Assigned) -> Subnets {
    let membership = &assigned.membership;
    let subnet = |member: &Member| {
        // Of 64 bits, as all of them; see `Membership::subnet`.
        Some((member.name.clone(), atoll_podnet::Prefix::new(membership.subnet(member), 64).ok()?))
    };
    membership.members.iter().filter_map(subnet).collect()
}

/// Carries pods' connections to the API. TLS is between them and the API server, which knows them by their tokens.
async fn serve_api(parts: &WorkerParts, assigned: &Assigned, listener: TcpListener, stop: &CancellationToken) {
    let (evdc, control) = (assigned.membership.evdc, assigned.membership.control);
    if control == assigned.member.node {
        return parts.planes.serve_local(evdc, listener, stop.clone()).await;
    }
    ApiAddress { link: parts.link.clone(), control, evdc }.serve_local(listener, stop.clone()).await;
}

/// An id as a label's value: at most 63 characters (Kubernetes, "Labels and Selectors").
fn label(id: &impl std::fmt::Display) -> String {
    id.to_string().chars().take(63).collect()
}

fn group(assigned: &Assigned) -> Result<GroupName, String> {
    let name = format!("lease-{}", assigned.terms.id);
    name.parse().map_err(|error| format!("{name}: {error}"))
}

fn run_dir(parts: &WorkerParts, assigned: &Assigned) -> PathBuf {
    run_dir_of(&parts.run_dir, assigned)
}

fn run_dir_of(run_dir: &Path, assigned: &Assigned) -> PathBuf {
    run_dir.join(assigned.membership.evdc.to_string())
}

/// Takes away what is left of a member's pod network while its node does not run. Pods must not run any more either.
///
/// # Errors
/// What is in the way, in words.
pub async fn remove_network(run_dir: &Path, assigned: &Assigned) -> Result<(), String> {
    if !run_dir_of(run_dir, assigned).join(NETWORK_DIR).exists() {
        return Ok(());
    }
    // The planetary interface went with the node, and the routes into it with that.
    let network = network(run_dir, None, assigned).await?;
    network.tear_down().await.map_err(|error| error.to_string())
}

async fn open_network(parts: &WorkerParts, assigned: &Assigned) -> Result<PodNet, String> {
    let planetary = parts.planetary.as_ref().map(|(name, _)| name.clone());
    network(&parts.run_dir, planetary, assigned).await
}

async fn network(run_dir: &Path, planetary: Option<String>, assigned: &Assigned) -> Result<PodNet, String> {
    PodNet::open(network_config(run_dir, planetary, assigned)?).await.map_err(|error| error.to_string())
}

fn network_config(
    run_dir: &Path,
    planetary: Option<String>,
    assigned: &Assigned,
) -> Result<atoll_podnet::Config, String> {
    let membership = &assigned.membership;
    let prefix = |address, length| atoll_podnet::Prefix::new(address, length).map_err(|error| error.to_string());
    // Several members of one eVDC may be on one machine and share its firewall, so the tag names the member, too.
    let tag = format!("{}-{}", membership.evdc.short(), assigned.member.subnet);
    let tag: EvdcTag = tag.parse().map_err(|error| format!("{error}"))?;
    Ok(atoll_podnet::Config {
        tag,
        run_dir: run_dir_of(run_dir, assigned).join(NETWORK_DIR),
        evdc: prefix(membership.prefix(), 48)?,
        node: prefix(membership.subnet(&assigned.member), 64)?,
        services: prefix(membership.services(), 112)?,
        planetary,
        mtu: None,
        node_services: vec![NodeService { protocol: Protocol::Tcp, port: API_PORT }],
    })
}

async fn client(parts: &WorkerParts, assigned: &Assigned) -> Result<kube::Client, String> {
    let (evdc, control) = (assigned.membership.evdc, assigned.membership.control);
    if control == assigned.member.node {
        return parts.planes.client(evdc, Whom::Member(assigned.member.name.clone())).await;
    }
    let credentials = credentials(&parts.link, control, evdc).await?;
    let address = ApiAddress { link: parts.link.clone(), control, evdc };
    address.client(&credentials).map_err(|error| error.to_string())
}

async fn credentials(link: &LinkHandle, control: NodeId, evdc: EvdcId) -> Result<Credentials, String> {
    let stream = link.open(control, PROTOCOL, Traffic::Control).await.map_err(|error| error.to_string())?;
    match ask(stream, &Request::Credentials(evdc)).await.map_err(|error| error.to_string())? {
        Answer::Credentials(credentials) => Ok(credentials),
        Answer::Refused(why) => Err(why),
        Answer::Done => Err("it answered something else than was asked".into()),
    }
}

/// Opens streams to a gateway through the link.
struct GatewayDial {
    link: LinkHandle,
    gateway: NodeId,
}

impl Dial for GatewayDial {
    fn dial(&self) -> BoxFuture<'_, Result<atoll_gateway::BoxStream, DialError>> {
        async move {
            let opened = self.link.open(self.gateway, GATEWAY_PROTOCOL, Traffic::Control).await;
            let stream = opened.map_err(|error| DialError(error.to_string()))?;
            Ok(Box::new(stream) as atoll_gateway::BoxStream)
        }
        .boxed()
    }
}

async fn serve_gateway(parts: &WorkerParts, assigned: &Assigned, client: kube::Client, stop: &CancellationToken) {
    let Some((gateway, _)) = &assigned.membership.gateway else { return };
    let claims = assigned.assignment.claim.iter().cloned().collect();
    let (served, receiver) = watch::channel(Served { claims, ..Served::default() });
    let dial = GatewayDial { link: parts.link.clone(), gateway: *gateway };
    let connector = Connector::new(Arc::new(dial), receiver);
    let follow = ingress::follow(client, assigned.member.name.clone(), served, stop.clone());
    tokio::join!(connector.run(stop.clone()), follow);
}

/// Ends the containers of a lease and removes their network.
async fn end_what_runs(parts: &WorkerParts, assigned: &Assigned) -> Result<(), String> {
    let group = group(assigned)?;
    let text = |error: &dyn std::fmt::Display| error.to_string();
    for sandbox in parts.runtime.sandboxes().await.map_err(|error| text(&error))? {
        if sandbox.group.as_ref() == Some(&group) {
            parts.runtime.remove_sandbox(&sandbox.id).await.map_err(|error| text(&error))?;
            remove_rootfs(parts.images.clone(), sandbox.id.to_string()).await?;
        }
    }
    parts.runtime.remove_group(&group).await.map_err(|error| text(&error))?;
    open_network(parts, assigned).await?.tear_down().await.map_err(|error| text(&error))
}

/// The lease is over: ends what runs under it and removes what it kept here. What resists keeps its note, and is cleared up at the next start.
async fn clear(parts: &WorkerParts, assigned: &Assigned) {
    let mut cleared = end_what_runs(parts, assigned).await;
    for _ in 1..CLEAR_TRIES {
        let Err(error) = &cleared else { break };
        tracing::debug!(error, "clearing up is tried again");
        tokio::time::sleep(CLEAR_PAUSE).await;
        cleared = end_what_runs(parts, assigned).await;
    }
    if let Err(error) = cleared {
        let evdc = assigned.membership.evdc.short();
        tracing::warn!(%evdc, error, "what an ended lease left cannot be removed whole; it is tried again at the next start");
        return;
    }
    if let Some((_, routes)) = &parts.planetary {
        for member in &assigned.membership.members {
            if let Ok(prefix) = Prefix::new(assigned.membership.subnet(member), 64) {
                routes.remove(prefix);
            }
        }
    }
    // The folder with the note of what is to be cleared goes last.
    let dirs = [run_dir(parts, assigned), parts.dir.join(assigned.membership.evdc.to_string())];
    for dir in dirs {
        remove(&dir).await;
    }
    // Gone with its last eVDC; while there are others it is not empty.
    let _: std::io::Result<()> = tokio::fs::remove_dir(&parts.run_dir).await;
}

/// Unmounts and removes the file systems of a sandbox's containers, which are named after it.
async fn remove_rootfs(images: Store, sandbox: String) -> Result<(), String> {
    let removed = tokio::task::spawn_blocking(move || {
        let of_sandbox = |id: &String| id.strip_prefix(&sandbox).is_some_and(|rest| rest.starts_with('.'));
        for id in images.rootfs_ids()?.iter().filter(|id| of_sandbox(id)) {
            images.remove_rootfs(id)?;
        }
        Ok::<_, ImageError>(())
    });
    removed.await.map_err(|error| error.to_string())?.map_err(|error| error.to_string())
}

/// Removes a folder. What is still mounted in it is a tenant's data or was left by a process that was killed: it is detached first.
async fn remove(dir: &Path) {
    let below = dir.to_owned();
    let detached = tokio::task::spawn_blocking(move || atoll_fs::unmount_below(&below)).await;
    match detached.map_err(std::io::Error::other).and_then(|detached| detached) {
        Ok(_) => {}
        Err(error) => {
            return tracing::warn!(dir = %dir.display(), %error, "something stays mounted where an ended lease was");
        }
    }
    if let Err(error) = tokio::fs::remove_dir_all(dir).await
        && error.kind() != std::io::ErrorKind::NotFound
    {
        tracing::warn!(dir = %dir.display(), %error, "what an ended lease left cannot be removed");
    }
}
