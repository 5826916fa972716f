//! A database on a file system on zstor, while `atoll` is killed under it: on its own node, on the node of the API, on the tenant's. Nothing that was synced
//! is lost, nothing hangs, and nothing is left when the machines are given back. Needs root, /dev/fuse and kubectl.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc::{Sender, channel};
use std::time::{Duration, Instant};

use atoll_grid::NodeProcess;
use atoll_images::{Builder, Content, Reference, Store, StoreConfig};
use serde_json::Value;

use crate::common::{lone_node, output, run, run_json};

/// A database in a few lines of std: it answers a line when that is synced, and `?` with all lines.
const DATABASE: &str = r##"
use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;

fn main() {
    let listener = TcpListener::bind("[::]:7000").unwrap();
    let path = "/data/lines";
    let mut file = std::fs::OpenOptions::new().append(true).create(true).open(path).unwrap();
    for stream in listener.incoming().flatten() {
        let mut out = stream.try_clone().unwrap();
        for line in BufReader::new(stream).lines().map_while(Result::ok) {
            let answer = if line == "?" {
                std::fs::read_to_string(path).map(|all| all.lines().collect::<Vec<_>>().join(" "))
            } else {
                file.write_all(format!("{line}\n").as_bytes()).and_then(|()| file.sync_all()).map(|()| "stored".to_owned())
            };
            let answer = answer.unwrap_or_else(|error| format!("error: {error}"));
            if out.write_all(format!("{answer}\n").as_bytes()).is_err() {
                break;
            }
        }
    }
}
"##;

const OBJECTS: &str = r#"
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: db}
spec:
  serviceName: db
  replicas: 1
  selector: {matchLabels: {app: db}}
  template:
    metadata: {labels: {app: db}}
    spec:
      nodeSelector: {kubernetes.io/hostname: NODE}
      containers:
      - name: db
        image: example/database:1
        volumeMounts: [{name: data, mountPath: /data}]
        readinessProbe: {tcpSocket: {port: 7000}, periodSeconds: 1}
        resources: {requests: {cpu: 10m}, limits: {memory: 32Mi}}
  volumeClaimTemplates:
  - metadata: {name: data}
    spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 16Mi}}}
"#;

/// How long the database may be away when `atoll` on its node was killed and is up again: a connection to the API, the mount, the restart.
const BACK_WITHIN: Duration = Duration::from_secs(30);
const PATIENCE: Duration = Duration::from_secs(120);

struct World {
    folder: tempfile::TempDir,
    nodes: Vec<NodeProcess>,
}

/// Gives the eVDC back even if the test fails: containers outlive their nodes.
impl Drop for World {
    fn drop(&mut self) {
        output(&self.path("home"), &["evdc", "rm", "hello"], b"");
        let began = Instant::now();
        while !self.is_clear() && began.elapsed() < Duration::from_secs(10) {
            std::thread::sleep(Duration::from_millis(100));
        }
    }
}

impl World {
    async fn raise() -> Self {
        assert!(rustix::process::geteuid().is_root(), "containers need root: run the tests as root");
        let folder = tempfile::tempdir().unwrap();
        let lends = ["lend.cpu=1000", "lend.memory=512M", "lend.storage=512M", "storage.capacity=1G"];
        let mut nodes = vec![lone_node(&folder.path().join("home"), &["storage.capacity=1G"]).await.unwrap()];
        for name in ["one", "two", "three"] {
            nodes.push(lone_node(&folder.path().join(name), &lends).await.unwrap());
        }
        let world = Self { folder, nodes };
        let ticket = run_json(&world.path("home"), &["invite", "--uses", "3"])["ticket"].as_str().unwrap().to_owned();
        for name in ["one", "two", "three"] {
            run(&world.path(name), &["join", &ticket], b"");
        }
        world
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn node(&mut self, id: &str) -> &mut NodeProcess {
        let find = |node: &&mut NodeProcess| run_json(node.data_dir(), &["id", "show"])["node"] == id;
        self.nodes.iter_mut().find(find).unwrap()
    }

    /// Whether the nodes that lent have removed what ran on them.
    fn is_clear(&self) -> bool {
        let members = |name: &str| std::fs::read_dir(self.path(name).join("members")).map_or(0, Iterator::count);
        ["one", "two", "three"].iter().all(|name| members(name) == 0)
    }

    fn try_kubectl(&self, arguments: &[&str]) -> Result<String, String> {
        let config = self.path("kubeconfig");
        let mut command = Command::new("kubectl");
        command.arg("--kubeconfig").arg(config).arg("--request-timeout=10s").args(arguments);
        let ran = command.output().expect("kubectl is not installed: apt-get install kubernetes-client");
        let said = String::from_utf8_lossy(&ran.stderr).into_owned();
        if ran.status.success() { Ok(String::from_utf8(ran.stdout).unwrap()) } else { Err(said) }
    }

    fn kubectl(&self, arguments: &[&str]) -> String {
        self.try_kubectl(arguments).unwrap_or_else(|said| panic!("kubectl {arguments:?}: {said}"))
    }

    fn pod(&self) -> Option<Value> {
        serde_json::from_str(&self.try_kubectl(&["get", "pod", "db-0", "-o", "json"]).ok()?).ok()
    }

    fn address(&self) -> Option<SocketAddr> {
        format!("[{}]:7000", self.pod()?["status"]["podIP"].as_str()?).parse().ok()
    }

    /// Asks the database, which may be away.
    fn ask(&self, line: &str) -> Option<String> {
        ask(self.address()?, line)
    }

    /// Adds lines, each of which is synced.
    fn add(&self, lines: &mut Vec<String>, many: usize) -> String {
        for _ in 0..many {
            let line = format!("line-{}", lines.len());
            assert_eq!(self.ask(&line).as_deref(), Some("stored"), "{line}");
            lines.push(line);
        }
        lines.join(" ")
    }
}

fn ask(address: SocketAddr, line: &str) -> Option<String> {
    let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(2)).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(20))).ok()?;
    stream.write_all(format!("{line}\n").as_bytes()).ok()?;
    let mut answer = String::new();
    BufReader::new(stream).read_line(&mut answer).ok()?;
    Some(answer.trim().to_owned()).filter(|answer| !answer.is_empty())
}

/// Adds lines until one is not stored; says so of each that is, and gives these.
fn load(address: SocketAddr, stored: &Sender<()>) -> Vec<String> {
    let mut lines = Vec::new();
    loop {
        let line = format!("load-{}", lines.len());
        if ask(address, &line).as_deref() != Some("stored") {
            return lines;
        }
        lines.push(line);
        let _ = stored.send(());
    }
}

fn wait_until(what: &str, within: Duration, mut holds: impl FnMut() -> bool) {
    let began = Instant::now();
    while !holds() {
        assert!(began.elapsed() < within, "it does not come to this in {within:?}: {what}");
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// The image, as an archive.
fn image(folder: &Path) -> String {
    let (source, program, archive) = (folder.join("db.rs"), folder.join("db"), folder.join("db.tar"));
    std::fs::write(&source, DATABASE).unwrap();
    let flags = ["--edition", "2021", "-C", "opt-level=1", "-C", "strip=symbols", "-C", "target-feature=+crt-static"];
    let compiled = Command::new("rustc").args(flags).arg("-o").args([&program, &source]).status();
    assert!(compiled.unwrap().success(), "the database does not compile");
    let store = Store::open(StoreConfig { dir: folder.join("built"), limits: Default::default() }).unwrap();
    let name: Reference = "example/database:1".parse().unwrap();
    let builder = Builder::new().file("/db", Content::Host(program), 0o755).entrypoint(["/db"]);
    builder.build(&store, &name).unwrap();
    store.save(&name, &archive).unwrap();
    archive.to_str().unwrap().to_owned()
}

/// `df` looks at every mount of the machine, the dead ones too.
fn df_does_not_hang() {
    let mut child = Command::new("df").stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    wait_until("df ends", Duration::from_secs(10), || child.try_wait().unwrap().is_some());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_database_outlives_the_killing_of_atoll_under_it() {
    let mut world = World::raise().await;
    let home = world.path("home");
    let rent = ["--nodes", "3", "--cpu", "500m", "--memory", "256M", "--storage", "256M"];
    run(&home, &[&["evdc", "create", "hello"], &rent[..]].concat(), b"");
    let kubeconfig = world.path("kubeconfig");
    run(&home, &["kubeconfig", "hello", "--file", kubeconfig.to_str().unwrap()], b"");
    wait_until("three nodes", PATIENCE, || {
        world.try_kubectl(&["get", "nodes", "-o", "name"]).is_ok_and(|nodes| nodes.lines().count() == 3)
    });
    let evdc = run_json(&home, &["evdc", "show", "hello"]);
    let member = |control: bool| {
        let members = evdc["members"].as_array().unwrap();
        let found = members.iter().find(|member| member["control"] == control).unwrap();
        let of = |field: &str| found[field].as_str().unwrap().to_owned();
        (of("name"), of("node"))
    };
    let ((name, host), (_, control)) = (member(false), member(true));
    run(&home, &["image", "load", &image(world.folder.path())], b"");
    let objects = world.path("objects.yaml");
    std::fs::write(&objects, OBJECTS.replace("NODE", &name)).unwrap();
    world.kubectl(&["apply", "-f", objects.to_str().unwrap()]);
    wait_until("the database answers", PATIENCE, || world.ask("line-0").as_deref() == Some("stored"));
    let mut lines = vec!["line-0".to_owned()];
    world.add(&mut lines, 5);

    // On its own node, under load: the container runs on, and its files are gone under it.
    let (address, (tell, told)) = (world.address().unwrap(), channel());
    let writer = std::thread::spawn(move || load(address, &tell));
    (0..20).for_each(|_| told.recv_timeout(PATIENCE).unwrap());
    world.node(&host).kill().await.unwrap();
    lines.extend(writer.join().unwrap());
    df_does_not_hang();
    assert!(ask(address, "?").unwrap().starts_with("error"), "nobody serves the volume");
    world.node(&host).start_again().await.unwrap();
    let (began, synced) = (Instant::now(), lines.join(" "));
    wait_until("every synced line after the restart", BACK_WITHIN, || {
        world.ask("?").is_some_and(|all| all.starts_with(&synced))
    });
    eprintln!("the database was back {:.1} s after its node", began.elapsed().as_secs_f64());
    let all = world.ask("?").unwrap();
    // The one that was under way may have come through.
    let more: Vec<String> = all[synced.len()..].split_whitespace().map(str::to_owned).collect();
    assert!(more.len() <= 1, "{more:?}");
    lines.extend(more);
    let restarted = || world.pod().map(|pod| pod["status"]["containerStatuses"][0].clone()).unwrap_or_default();
    wait_until("the restart is told", PATIENCE, || restarted()["restartCount"] == 1);
    assert_eq!(restarted()["lastState"]["terminated"]["reason"], "VolumeLost", "{}", restarted());
    let events = || world.try_kubectl(&["get", "events", "-o", "jsonpath={.items[*].reason}"]).unwrap_or_default();
    wait_until("an event says so", PATIENCE, || events().contains("VolumeLost"));
    let container = restarted()["containerID"].clone();
    let all = world.add(&mut lines, 5);

    // Where the API is, and where the tenant is: the pod is not touched.
    for node in [&control, &evdc_home(&home)] {
        world.node(node).kill().await.unwrap();
        world.node(node).start_again().await.unwrap();
        wait_until("kubectl works again", PATIENCE, || world.try_kubectl(&["get", "nodes"]).is_ok());
        wait_until("every synced line", PATIENCE, || world.ask("?").as_deref() == Some(&all));
    }
    let all = world.add(&mut lines, 5);
    // Ended in order, it stores what nobody synced, too; the container starts again here as well.
    world.node(&host).stop().await.unwrap();
    world.node(&host).start_again().await.unwrap();
    wait_until("every line after an orderly stop", BACK_WITHIN, || world.ask("?").as_deref() == Some(&all));
    wait_until("told again", PATIENCE, || {
        let pod = world.pod().map(|pod| pod["status"]["containerStatuses"][0].clone()).unwrap_or_default();
        pod["restartCount"] == 2 && pod["lastState"]["terminated"]["containerID"] == container
    });

    // Killed once more and given back while it is down: what is left is cleared up when it returns.
    world.node(&host).kill().await.unwrap();
    output(&home, &["evdc", "rm", "hello"], b"");
    world.node(&host).start_again().await.unwrap();
    wait_until("given back", PATIENCE, || {
        output(&home, &["evdc", "rm", "hello"], b"");
        run_json(&home, &["evdc", "ls"]).as_array().is_some_and(Vec::is_empty)
    });
    wait_until("nothing left", PATIENCE, || world.is_clear());
    let mounts = std::fs::read_to_string("/proc/mounts").unwrap();
    let folder = world.folder.path().to_str().unwrap();
    assert!(!mounts.contains(folder), "mounts are left: {mounts}");
    let ours: Vec<u32> = world.nodes.iter().filter_map(NodeProcess::pid).collect();
    assert_eq!(others_of(folder, &ours), Vec::<String>::new(), "processes are left");
}

fn evdc_home(home: &Path) -> String {
    run_json(home, &["id", "show"])["node"].as_str().unwrap().to_owned()
}

/// Command lines that name a folder, of processes other than these.
fn others_of(folder: &str, ours: &[u32]) -> Vec<String> {
    let processes = std::fs::read_dir("/proc").unwrap().filter_map(Result::ok);
    let pids = processes.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let lines = pids.filter(|pid| !ours.contains(pid) && *pid != std::process::id()).filter_map(|pid| {
        let line = std::fs::read(format!("/proc/{pid}/cmdline")).ok()?;
        Some(String::from_utf8_lossy(&line).replace('\0', " "))
    });
    lines.filter(|line| line.contains(folder)).collect()
}
