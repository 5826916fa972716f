//! Pods of one eVDC on machines of their own: they reach each other over the planetary interface and nobody else reaches them, but visitors by the
//! gateway. Needs root, kubectl and curl.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use atoll_grid::{NodeProcess, Start};
use atoll_lab::{Host, Lab};
use serde_json::Value;

use crate::cloud::image;
use crate::common::{program, run, run_json};
use crate::world::wait_until;

pub(crate) const MEMBERS: [&str; 3] = ["one", "two", "three"];

/// `web` twice on different machines; `lone` once, on a third that is not the API's unless there is no other.
const OBJECTS: &str = r#"
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  replicas: 2
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      terminationGracePeriodSeconds: 1
      affinity:
        podAntiAffinity:
          requiredDuringSchedulingIgnoredDuringExecution:
          - {topologyKey: kubernetes.io/hostname, labelSelector: {matchLabels: {app: web}}}
      containers:
      - name: web
        image: example/server:1
        env:
        - {name: VERSION, value: web}
        - {name: POD, valueFrom: {fieldRef: {fieldPath: metadata.name}}}
        readinessProbe: {tcpSocket: {port: 8080}, periodSeconds: 1}
        resources: {limits: {memory: 32Mi}}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: lone}
spec:
  replicas: 1
  selector: {matchLabels: {app: lone}}
  template:
    metadata: {labels: {app: lone}}
    spec:
      terminationGracePeriodSeconds: 1
      containers:
      - name: lone
        image: example/server:1
        env: [{name: VERSION, value: lone}]
        readinessProbe: {tcpSocket: {port: 8080}, periodSeconds: 1}
        resources: {limits: {memory: 32Mi}}
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {selector: {app: web}, ports: [{port: 80, targetPort: 8080}]}
---
apiVersion: v1
kind: Service
metadata: {name: lone}
spec: {selector: {app: lone}, ports: [{port: 80, targetPort: 8080}]}
---
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata: {name: web}
spec:
  rules:
  - host: web.cloud.example
    http: {paths: [{path: /, pathType: Prefix, backend: {service: {name: web, port: {number: 80}}}}]}
"#;

/// Nodes on machines of their own: a tenant, a gateway, three that lend, and one that nobody rents.
pub(crate) struct World {
    pub(crate) nodes: BTreeMap<&'static str, NodeProcess>,
    // Ended in this order: what runs in containers, then the machines, then the folder.
    _containers: Containers,
    pub(crate) lab: Lab,
    folder: tempfile::TempDir,
}

/// Ends what outlives the nodes, also when the test fails.
struct Containers(Vec<(Host, PathBuf)>);

impl Drop for Containers {
    fn drop(&mut self) {
        for (host, data_dir) in &self.0 {
            let mut clear = host.command(program());
            clear.arg("--data-dir").arg(data_dir).args(["down", "--clear"]).stdout(Stdio::null());
            let _: std::io::Result<_> = clear.status();
        }
    }
}

/// A pod as the API shows it.
#[derive(Debug, Clone)]
pub(crate) struct Pod {
    pub(crate) name: String,
    pub(crate) node: String,
    pub(crate) address: String,
    pub(crate) uid: String,
}

impl World {
    pub(crate) async fn raise() -> Self {
        assert!(rustix::process::geteuid().is_root(), "containers need root: run the tests as root");
        let (lab, folder) = (Lab::new(6).unwrap(), tempfile::tempdir().unwrap());
        let lends = ["lend.cpu=1000", "lend.memory=512M", "lend.storage=512M", "storage.capacity=1G"];
        let rented: Vec<(&str, &[&str])> = MEMBERS.iter().map(|name| (*name, &lends[..])).collect();
        let gateway = ["gateway.domain=cloud.example", "storage.capacity=64M"];
        let others: [(&str, &[&str]); 3] =
            [("home", &["storage.capacity=1G"]), ("gateway", &gateway), ("bystander", &["storage.capacity=64M"])];
        let mut nodes = BTreeMap::new();
        let mut containers = Vec::new();
        for (host, (name, settings)) in lab.hosts().iter().zip(others.into_iter().chain(rented)) {
            let data_dir = folder.path().join(name);
            let settings = settings.iter().map(|setting| (*setting).to_owned()).collect();
            let start = Start { program: program(), settings, host: Some(host.clone()), keep: false };
            nodes.insert(name, NodeProcess::start(name, &data_dir, start).await.unwrap());
            containers.push((host.clone(), data_dir));
        }
        let world = Self { nodes, _containers: Containers(containers), lab, folder };
        let ticket = run_json(&world.dir("home"), &["invite", "--uses", "5"])["ticket"].as_str().unwrap().to_owned();
        for name in MEMBERS.into_iter().chain(["gateway", "bystander"]) {
            run(&world.dir(name), &["join", &ticket], b"");
        }
        world
    }

    pub(crate) fn dir(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(crate) fn host(&self, name: &str) -> &Host {
        let order = ["home", "gateway", "bystander", "one", "two", "three"];
        self.lab.host(order.iter().position(|it| *it == name).unwrap())
    }

    pub(crate) fn kubectl(&self, arguments: &[&str]) -> String {
        let mut kubectl = self.host("home").command("kubectl");
        let ran = kubectl.arg("--kubeconfig").arg(self.dir("kubeconfig")).args(arguments).output();
        let ran = ran.expect("kubectl is not installed: apt-get install kubernetes-client");
        assert!(ran.status.success(), "kubectl {arguments:?}: {}", String::from_utf8_lossy(&ran.stderr));
        String::from_utf8(ran.stdout).unwrap()
    }

    pub(crate) fn pods(&self, app: &str) -> Vec<Pod> {
        let list = self.kubectl(&["get", "pods", "-l", &format!("app={app}"), "-o", "json"]);
        let list: Value = serde_json::from_str(&list).unwrap();
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let pod = |item: &Value| Pod {
            name: text(&item["metadata"]["name"]),
            node: text(&item["spec"]["nodeName"]),
            address: text(&item["status"]["podIP"]),
            uid: text(&item["metadata"]["uid"]),
        };
        list["items"].as_array().unwrap().iter().map(pod).collect()
    }

    pub(crate) fn service(&self, name: &str) -> String {
        self.kubectl(&["get", "service", name, "-o", "jsonpath={.spec.clusterIP}"])
    }

    /// The machine of the node with this name in the eVDC.
    pub(crate) fn machine(&self, node: &str) -> (&'static str, &Host) {
        let evdc = run_json(&self.dir("home"), &["evdc", "show", "hello"]);
        let member = evdc["members"].as_array().unwrap().iter().find(|it| it["name"] == node).unwrap();
        let id = |name: &str| run_json(&self.dir(name), &["id", "show"])["node"].clone();
        let name = MEMBERS.into_iter().find(|name| id(name) == member["node"]).unwrap();
        (name, self.host(name))
    }

    /// The page through the gateway, seen from a machine that takes no part.
    pub(crate) fn page(&self) -> Output {
        let mut curl = self.lab.outside().command("curl");
        curl.args(["-sS", "--fail", "--max-time", "20", "--cacert"]).arg(self.dir("ca.pem"));
        curl.args(["--resolve", &format!("web.cloud.example:443:{}", self.host("gateway").ipv4())]);
        curl.arg("https://web.cloud.example/").output().expect("curl is not installed: apt-get install curl")
    }
}

impl Pod {
    /// Runs a program in the pod's network.
    pub(crate) fn command(&self, program: &str) -> Command {
        // Other nodes of this machine come and go meanwhile.
        let entries = |folder: PathBuf| std::fs::read_dir(folder).into_iter().flatten().flatten().map(|it| it.path());
        let evdcs = entries("/run/atoll".into()).flat_map(entries);
        let mut places = evdcs.map(|evdc| evdc.join("net/netns").join(&self.uid)).filter(|place| place.exists());
        let mut command = Command::new("nsenter");
        command.arg(format!("--net={}", places.next().unwrap().display())).arg("--").arg(program);
        command
    }
}

/// What answers there, if anything does.
pub(crate) fn fetch(mut curl: Command, url: &str) -> Result<String, String> {
    let ran = curl.args(["-sS", "--fail", "--max-time", "4", "--noproxy", "*", url]).output().unwrap();
    match ran.status.success() {
        true => Ok(String::from_utf8(ran.stdout).unwrap()),
        false => Err(String::from_utf8_lossy(&ran.stderr).into_owned()),
    }
}

pub(crate) fn rent(world: &World) {
    let home = world.dir("home");
    let gateway = run_json(&world.dir("gateway"), &["id", "show"])["node"].as_str().unwrap().to_owned();
    let rent = ["--nodes", "3", "--cpu", "500m", "--memory", "256M", "--storage", "256M"];
    let through = ["--gateway", &gateway, "--domain", "cloud.example"];
    run(&home, &[&["evdc", "create", "hello"], &rent[..], &through[..]].concat(), b"");
    run(&home, &["kubeconfig", "hello", "--file", world.dir("kubeconfig").to_str().unwrap()], b"");
    wait_until("three nodes", || world.kubectl(&["get", "nodes", "-o", "name"]).lines().count() == 3);
    world.kubectl(&["wait", "--for=condition=Ready", "nodes", "--all", "--timeout=90s"]);
    run(&home, &["image", "load", &image(world.folder.path())], b"");
    let objects = world.dir("objects.yaml");
    std::fs::write(&objects, OBJECTS).unwrap();
    world.kubectl(&["apply", "-f", objects.to_str().unwrap()]);
    for name in ["web", "lone"] {
        world.kubectl(&["rollout", "status", &format!("deployment/{name}"), "--timeout=120s"]);
    }
    std::fs::write(world.dir("ca.pem"), run(&world.dir("gateway"), &["gateway", "ca"], b"")).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn pods_reach_each_other_across_machines_and_nobody_else_reaches_them() {
    let mut world = World::raise().await;
    rent(&world);
    let (web, lone) = (world.pods("web"), world.pods("lone").remove(0));
    assert_ne!(web[0].node, web[1].node);
    reach_each_other(&world, &web, &lone);
    nobody_else(&world, &web[0]);
    visitors_come_by_the_gateway(&world, &web);

    // The node of a pod is killed and comes back: what runs on it is as before, and so is the way to it.
    let (name, _) = world.machine(&web[1].node);
    let node = world.nodes.get_mut(name).unwrap();
    node.kill().await.unwrap();
    let url = format!("http://[{}]:8080/", web[1].address);
    fetch(web[0].command("curl"), &url).expect_err("nobody carries its packets");
    world.nodes.get_mut(name).unwrap().start_again().await.unwrap();
    wait_until("the way to a pod of a node that came back", || fetch(web[0].command("curl"), &url).is_ok());
    wait_until("the way from it", || {
        fetch(web[1].command("curl"), &format!("http://[{}]:8080/", web[0].address)).is_ok()
    });

    nothing_is_left_where_it_was_cleared(&mut world, name, &url, &web[0]).await;
    run(&world.dir("home"), &["evdc", "rm", "hello"], b"");
    let is_clear = |name: &&str| std::fs::read_dir(world.dir(name).join("members")).map_or(0, Iterator::count) == 0;
    wait_until("nothing left", || MEMBERS.iter().all(&is_clear));
    for name in MEMBERS {
        let tables = world.host(name).command("nft").args(["list", "tables"]).output().unwrap();
        let tables = String::from_utf8(tables.stdout).unwrap();
        assert!(!tables.contains("table inet atoll-"), "{name}: {tables}");
        let routes = world.host(name).command("ip").args(["-6", "route"]).output().unwrap();
        let routes = String::from_utf8(routes.stdout).unwrap();
        assert!(!routes.contains("/48 dev atoll0"), "{name}: {routes}");
    }
}

fn reach_each_other(world: &World, web: &[Pod], lone: &Pod) {
    for (from, to) in [(&web[0], &web[1]), (&web[1], &web[0])] {
        let url = format!("http://[{}]:8080/", to.address);
        let answer = fetch(from.command("curl"), &url).unwrap();
        assert_eq!(answer, format!("web {}\n", to.name));
        // Many packets: none of them is too large for what is in between.
        let answer = fetch(from.command("curl"), &format!("{url}many")).unwrap();
        assert_eq!(answer.lines().count(), 10_000);
    }
    let far = web.iter().find(|pod| pod.node != lone.node).unwrap();
    assert_eq!(fetch(far.command("curl"), &format!("http://[{}]/", world.service("lone"))).unwrap(), "lone \n");
    let url = format!("http://[{}]/", world.service("web"));
    let seen: std::collections::BTreeSet<String> =
        (0..20).map(|_| fetch(lone.command("curl"), &url).unwrap()).collect();
    assert_eq!(seen.len(), 2, "both replicas answer for their Service: {seen:?}");
}

fn nobody_else(world: &World, pod: &Pod) {
    let url = format!("http://[{}]:8080/", pod.address);
    let ip = |host: &Host, arguments: &[&str]| {
        assert!(host.command("ip").args(arguments).status().unwrap().success(), "ip {arguments:?}");
    };
    // Peers that are no members, and would send.
    let (member, machine) = world.machine(&pod.node);
    let ticket = run(&world.dir(member), &["invite"], b"");
    run(&world.dir("bystander"), &["join", ticket.trim()], b"");
    let address = run_json(&world.dir(member), &["status"])["planetary_address"].as_str().unwrap().to_owned();
    wait_until("the bystander reaches the node itself", || {
        world.host("bystander").command("ping").args(["-6", "-c1", "-W2", &address]).output().unwrap().status.success()
    });
    for name in ["bystander", "home", "gateway"] {
        ip(world.host(name), &["-6", "route", "replace", &format!("{}/128", pod.address), "dev", "atoll0"]);
        fetch(world.host(name).command("curl"), &url).expect_err(name);
    }
    // Machines on the same cable that know the way.
    for host in [world.lab.outside(), world.host("bystander")] {
        let via = machine.ipv6().to_string();
        ip(host, &["-6", "route", "replace", &format!("{}/128", pod.address), "via", &via, "dev", "eth0"]);
        fetch(host.command("curl"), &url).expect_err("past the interface");
    }
    // And a pod gets to nothing but its eVDC: neither to the node's network nor to its planetary address.
    for target in [machine.ipv6().to_string(), address] {
        let mut ping = pod.command("ping");
        let answered = ping.args(["-6", "-c1", "-W1", &target]).output().unwrap().status.success();
        assert!(!answered, "a pod reaches {target}");
    }
}

fn visitors_come_by_the_gateway(world: &World, web: &[Pod]) {
    let status = || run_json(&world.dir("gateway"), &["gateway", "status"]);
    wait_until("two replicas at the gateway", || status()["routes"][0]["replicas"] == 2);
    let seen: std::collections::BTreeSet<String> = (0..8)
        .map(|_| {
            let ran = world.page();
            assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
            String::from_utf8(ran.stdout).unwrap()
        })
        .collect();
    let expected: std::collections::BTreeSet<String> = web.iter().map(|pod| format!("web {}\n", pod.name)).collect();
    assert_eq!(seen, expected);
}

/// A killed node's machine is cleared; the node that is started there again has its lease still, and the pods start anew.
async fn nothing_is_left_where_it_was_cleared(world: &mut World, name: &'static str, url: &str, other: &Pod) {
    world.nodes.get_mut(name).unwrap().kill().await.unwrap();
    let data_dir = world.dir(name);
    assert!(mounted(&data_dir), "its containers outlive a node");
    let mut clear = world.host(name).command(program());
    let cleared =
        clear.arg("--data-dir").arg(&data_dir).args(["--output", "json", "down", "--clear"]).output().unwrap();
    assert!(cleared.status.success(), "{}", String::from_utf8_lossy(&cleared.stderr));
    let cleared: Value = serde_json::from_slice(&cleared.stdout).unwrap();
    assert!(cleared["pods"].as_u64() >= Some(1), "{cleared}");
    assert!(!mounted(&data_dir));
    assert_eq!(std::fs::read_dir(data_dir.join("runtime/containers")).unwrap().count(), 0);
    let tables = world.host(name).command("nft").args(["list", "tables"]).output().unwrap();
    assert!(!String::from_utf8(tables.stdout).unwrap().contains("inet atoll-"));
    world.nodes.get_mut(name).unwrap().start_again().await.unwrap();
    wait_until("the pods of a cleared node run again", || fetch(other.command("curl"), url).is_ok());
}

fn mounted(folder: &Path) -> bool {
    std::fs::read_to_string("/proc/mounts").unwrap().contains(folder.to_str().unwrap())
}
