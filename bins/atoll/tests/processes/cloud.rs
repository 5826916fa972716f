//! The cloud with real processes, real containers and a foreign client: machines rented, pods on two of them, a page through the gateway, a rollout
//! without a failed request, everything given back. Needs root, kubectl and curl.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use atoll_grid::NodeProcess;
use atoll_images::{Builder, Content, Reference, Store, StoreConfig};

use crate::common::{lone_node, output, run, run_json};

/// A web server in a few lines of std, compiled by the test, so that its image is small: it answers with its version and the pod's name, and
/// with many of these where more than one packet is asked for.
const SERVER: &str = r##"
use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;

fn main() {
    let listener = TcpListener::bind("[::]:8080").unwrap();
    let name = std::env::var("POD").unwrap_or_default();
    let version = std::env::var("VERSION").unwrap_or_default();
    for stream in listener.incoming().flatten() {
        let (name, version) = (name.clone(), version.clone());
        std::thread::spawn(move || {
            let mut out = stream.try_clone().unwrap();
            let mut lines = BufReader::new(stream).lines().map_while(Result::ok);
            // Request after request until the other side closes.
            loop {
                let head: Vec<String> = lines.by_ref().take_while(|line| !line.is_empty()).collect();
                let Some(request) = head.first() else { break };
                let times = if request.contains("/many ") { 10_000 } else { 1 };
                let body = format!("{version} {name}\n").repeat(times);
                let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", body.len());
                if out.write_all(head.as_bytes()).and_then(|()| out.write_all(body.as_bytes())).is_err() {
                    break;
                }
            }
        });
    }
}
"##;

const OBJECTS: &str = r#"
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  replicas: 2
  selector: {matchLabels: {app: web}}
  strategy: {rollingUpdate: {maxUnavailable: 0, maxSurge: 1}}
  template:
    metadata: {labels: {app: web}}
    spec:
      terminationGracePeriodSeconds: 5
      affinity:
        podAntiAffinity:
          preferredDuringSchedulingIgnoredDuringExecution:
          - weight: 100
            podAffinityTerm: {topologyKey: kubernetes.io/hostname, labelSelector: {matchLabels: {app: web}}}
      containers:
      - name: web
        image: example/server:1
        env:
        - {name: VERSION, value: one}
        - {name: POD, valueFrom: {fieldRef: {fieldPath: metadata.name}}}
        readinessProbe: {tcpSocket: {port: 8080}, periodSeconds: 1}
        resources: {requests: {cpu: 10m}, limits: {memory: 32Mi}}
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {selector: {app: web}, ports: [{port: 80, targetPort: 8080}]}
---
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata: {name: web}
spec:
  rules:
  - host: web.cloud.example
    http: {paths: [{path: /, pathType: Prefix, backend: {service: {name: web, port: {number: 80}}}}]}
"#;

struct World {
    folder: tempfile::TempDir,
    // Ended in this order: what was rented is given back before the nodes go.
    rented: Rented,
    _nodes: Vec<NodeProcess>,
}

/// Gives the eVDC back even if the test fails: containers outlive their nodes.
struct Rented(PathBuf);

impl Drop for Rented {
    fn drop(&mut self) {
        output(&self.0, &["evdc", "rm", "hello"], b"");
        let began = Instant::now();
        // Nodes that are ended too soon leave networks and containers.
        while self.0.parent().is_some_and(|folder| !is_clear(folder)) && began.elapsed() < Duration::from_secs(10) {
            std::thread::sleep(Duration::from_millis(100));
        }
    }
}

/// Whether the nodes that lent have removed what ran on them.
fn is_clear(folder: &Path) -> bool {
    let members = |name: &str| std::fs::read_dir(folder.join(name).join("members")).map_or(0, Iterator::count);
    ["one", "two", "three"].iter().all(|name| members(name) == 0)
}

async fn world() -> World {
    assert!(rustix::process::geteuid().is_root(), "containers need root: run the tests as root");
    let folder = tempfile::tempdir().unwrap();
    let lends = ["lend.cpu=1000", "lend.memory=512M", "lend.storage=512M", "storage.capacity=1G"];
    let gateway = ["gateway.domain=cloud.example", "gateway.https=127.0.0.1:0", "gateway.http=127.0.0.1:0"];
    let mut nodes = vec![lone_node(&folder.path().join("home"), &["storage.capacity=1G"]).await.unwrap()];
    nodes.push(lone_node(&folder.path().join("gateway"), &gateway).await.unwrap());
    for name in ["one", "two", "three"] {
        nodes.push(lone_node(&folder.path().join(name), &lends).await.unwrap());
    }
    let home = folder.path().join("home");
    let ticket = run_json(&home, &["invite", "--uses", "4"])["ticket"].as_str().unwrap().to_owned();
    for name in ["gateway", "one", "two", "three"] {
        run(&folder.path().join(name), &["join", &ticket], b"");
    }
    World { rented: Rented(home), folder, _nodes: nodes }
}

impl World {
    fn home(&self) -> &Path {
        &self.rented.0
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn kubectl(&self, arguments: &[&str]) -> String {
        let kubeconfig = self.path("kubeconfig");
        let ran = Command::new("kubectl").arg("--kubeconfig").arg(kubeconfig).args(arguments).output();
        let ran = ran.expect("kubectl is not installed: apt-get install kubernetes-client");
        assert!(ran.status.success(), "kubectl {arguments:?}: {}", String::from_utf8_lossy(&ran.stderr));
        String::from_utf8(ran.stdout).unwrap()
    }

    /// The page through the gateway.
    fn page(&self, port: &str) -> Output {
        let ran = Command::new("curl")
            .args(["-sS", "--fail", "--max-time", "20", "--cacert"])
            .arg(self.path("ca.pem"))
            .args(["--resolve", &format!("web.cloud.example:{port}:127.0.0.1")])
            .arg(format!("https://web.cloud.example:{port}/"))
            .output();
        ran.expect("curl is not installed: apt-get install curl")
    }
}

/// The image, as an archive.
pub(crate) fn image(folder: &Path) -> String {
    let (source, program, archive) = (folder.join("server.rs"), folder.join("server"), folder.join("server.tar"));
    std::fs::write(&source, SERVER).unwrap();
    let compiled = Command::new("rustc")
        .args([
            "--edition",
            "2021",
            "-C",
            "opt-level=1",
            "-C",
            "strip=symbols",
            "-C",
            "target-feature=+crt-static",
            "-o",
        ])
        .args([&program, &source])
        .status();
    assert!(compiled.unwrap().success(), "the server does not compile");
    let store = Store::open(StoreConfig { dir: folder.join("built"), limits: Default::default() }).unwrap();
    let name: Reference = "example/server:1".parse().unwrap();
    let builder = Builder::new().file("/server", Content::Host(program), 0o755).entrypoint(["/server"]);
    builder.build(&store, &name).unwrap();
    store.save(&name, &archive).unwrap();
    archive.to_str().unwrap().to_owned()
}

pub(crate) fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    let began = Instant::now();
    while !holds() {
        assert!(began.elapsed() < Duration::from_secs(90), "it does not come to this: {what}");
        std::thread::sleep(Duration::from_millis(200));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_page_is_served_from_rented_machines_and_rolled_over() {
    let world = world().await;
    let home = world.home();
    let gateway = run_json(&world.path("gateway"), &["id", "show"])["node"].as_str().unwrap().to_owned();
    let rent = ["--nodes", "3", "--cpu", "500", "--memory", "256M", "--storage", "256M"];
    let through = ["--gateway", &gateway, "--domain", "cloud.example"];
    run(home, &[&["evdc", "create", "hello"], &rent[..], &through[..]].concat(), b"");
    let kubeconfig = world.path("kubeconfig");
    run(home, &["kubeconfig", "hello", "--file", kubeconfig.to_str().unwrap()], b"");
    wait_until("three nodes", || world.kubectl(&["get", "nodes", "-o", "name"]).lines().count() == 3);
    world.kubectl(&["wait", "--for=condition=Ready", "nodes", "--all", "--timeout=90s"]);

    run(home, &["image", "load", &image(world.folder.path())], b"");
    let objects = world.path("objects.yaml");
    std::fs::write(&objects, OBJECTS).unwrap();
    world.kubectl(&["apply", "-f", objects.to_str().unwrap()]);
    world.kubectl(&["rollout", "status", "deployment/web", "--timeout=120s"]);

    std::fs::write(world.path("ca.pem"), run(&world.path("gateway"), &["gateway", "ca"], b"")).unwrap();
    let status = || run_json(&world.path("gateway"), &["gateway", "status"]);
    wait_until("two replicas at the gateway", || status()["routes"][0]["replicas"] == 2);
    let port = status()["https"][0].as_str().unwrap().rsplit_once(':').unwrap().1.to_owned();
    let names: std::collections::BTreeSet<String> = (0..8).map(|_| text(&world.page(&port))).collect();
    assert_eq!(names.len(), 2, "both replicas answer: {names:?}");

    world.kubectl(&["set", "env", "deployment/web", "VERSION=two"]);
    let rolled = std::thread::scope(|scope| {
        let rolling = scope.spawn(|| world.kubectl(&["rollout", "status", "deployment/web", "--timeout=120s"]));
        let mut last = String::new();
        while !rolling.is_finished() {
            last = text(&world.page(&port));
        }
        rolling.join().unwrap();
        last
    });
    assert!(!rolled.is_empty());
    wait_until("only the new version", || (0..4).all(|_| text(&world.page(&port)).starts_with("two ")));

    run(home, &["evdc", "rm", "hello"], b"");
    wait_until("nothing left", || is_clear(world.folder.path()));
    let mounts = std::fs::read_to_string("/proc/mounts").unwrap();
    let folder = world.folder.path().to_str().unwrap();
    assert!(!mounts.contains(folder), "mounts are left: {mounts}");
}

/// The answer; a failed request fails the test.
fn text(ran: &Output) -> String {
    assert!(ran.status.success(), "a request failed: {}", String::from_utf8_lossy(&ran.stderr));
    String::from_utf8_lossy(&ran.stdout).into_owned()
}
