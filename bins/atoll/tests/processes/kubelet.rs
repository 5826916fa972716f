//! What kubectl asks of pods on rented machines: logs, commands, ports; on the node that serves the API and on another. And what a lease limits: memory,
//! and its own time. Needs root, kubectl, curl and script.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use atoll_grid::NodeProcess;
use atoll_images::{Builder, Content, Reference, Store, StoreConfig};

use crate::common::{lone_node, output, run, run_json};

/// What runs in the pods, in a few lines of std, compiled by the test, so that its image is small.
const PROGRAM: &str = r##"
use std::io::{BufRead, IsTerminal, Read, Write};
use std::time::Duration;

fn main() {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match words.as_slice() {
        // Says who it is and answers on the pod's own loopback alone.
        ["serve", ..] => {
            let name = std::env::var("HOSTNAME").unwrap_or_default();
            println!("one of {name}");
            println!("two of {name}");
            let listener = std::net::TcpListener::bind("127.0.0.1:8080").unwrap();
            for mut stream in listener.incoming().flatten() {
                let _ = stream.write_all(format!("port of {name}\n").as_bytes());
            }
        }
        ["say", out, err, code] => {
            println!("{out}");
            eprintln!("{err}");
            std::process::exit(code.parse().unwrap());
        }
        ["count"] => {
            let mut bytes = Vec::new();
            std::io::stdin().read_to_end(&mut bytes).unwrap();
            println!("{} bytes", bytes.len());
        }
        ["terminal"] => {
            println!("terminal: {}", std::io::stdin().is_terminal() && std::io::stdout().is_terminal());
            let mut line = String::new();
            std::io::stdin().lock().read_line(&mut line).unwrap();
            println!("typed: {}", line.trim());
            std::process::exit(4);
        }
        ["read", path] => print!("{}", std::fs::read_to_string(path).unwrap()),
        ["env", name] => print!("{}", std::env::var(name).unwrap()),
        ["crash"] => {
            println!("said before the crash");
            std::process::exit(1);
        }
        ["eat", mebibytes] => {
            let mut eaten = Vec::new();
            for _ in 0..mebibytes.parse::<usize>().unwrap() {
                eaten.push(vec![7_u8; 1 << 20]);
            }
            println!("ate {}", eaten.len());
            std::thread::sleep(Duration::from_secs(600));
        }
        other => panic!("{other:?}"),
    }
}
"##;

struct World {
    // Ended in this order: what was rented is given back before the nodes go, and what they keep goes last.
    rented: Rented,
    _nodes: Vec<NodeProcess>,
    home: Option<NodeProcess>,
    folder: tempfile::TempDir,
}

/// Gives the eVDC back even if the test fails: containers outlive their nodes.
struct Rented(PathBuf);

impl Drop for Rented {
    fn drop(&mut self) {
        output(&self.0, &["evdc", "rm", "hello"], b"");
        let began = Instant::now();
        while self.0.parent().is_some_and(|folder| !is_clear(folder)) && began.elapsed() < Duration::from_secs(60) {
            std::thread::sleep(Duration::from_millis(100));
        }
    }
}

/// Whether the nodes that lent have removed what ran on them.
fn is_clear(folder: &Path) -> bool {
    let members = |name: &str| std::fs::read_dir(folder.join(name).join("members")).map_or(0, Iterator::count);
    ["one", "two"].iter().all(|name| members(name) == 0)
}

/// An eVDC named `hello` of two nodes, with the image in it.
async fn world(settings: &[&str]) -> World {
    assert!(rustix::process::geteuid().is_root(), "containers need root: run the tests as root");
    let folder = tempfile::tempdir().unwrap();
    let lends = ["lend.cpu=1000", "lend.memory=256M", "lend.storage=256M", "storage.capacity=1G"];
    let home = folder.path().join("home");
    let started = lone_node(&home, &[&["storage.capacity=1G"], settings].concat()).await.unwrap();
    let mut nodes = Vec::new();
    for name in ["one", "two"] {
        nodes.push(lone_node(&folder.path().join(name), &lends).await.unwrap());
    }
    let ticket = run_json(&home, &["invite", "--uses", "2"])["ticket"].as_str().unwrap().to_owned();
    for name in ["one", "two"] {
        run(&folder.path().join(name), &["join", &ticket], b"");
    }
    let world = World { rented: Rented(home), _nodes: nodes, home: Some(started), folder };
    run(
        world.home(),
        &["evdc", "create", "hello", "--nodes", "2", "--cpu", "500m", "--memory", "128M", "--storage", "128M"],
        b"",
    );
    let kubeconfig = world.path("kubeconfig");
    run(world.home(), &["kubeconfig", "hello", "--file", kubeconfig.to_str().unwrap()], b"");
    wait_until("two nodes", || world.kubectl(&["get", "nodes", "-o", "name"]).lines().count() == 2);
    world.kubectl(&["wait", "--for=condition=Ready", "nodes", "--all", "--timeout=90s"]);
    run(world.home(), &["image", "load", &image(world.folder.path())], b"");
    world
}

impl World {
    fn home(&self) -> &Path {
        &self.rented.0
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new("kubectl");
        command.arg("--kubeconfig").arg(self.path("kubeconfig")).args(arguments);
        command
    }

    fn output(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().expect("kubectl is not installed: apt-get install kubernetes-client")
    }

    fn kubectl(&self, arguments: &[&str]) -> String {
        let ran = self.output(arguments);
        assert!(ran.status.success(), "kubectl {arguments:?}: {}", String::from_utf8_lossy(&ran.stderr));
        String::from_utf8(ran.stdout).unwrap()
    }

    /// A pod on the node of this number.
    fn pod(&self, name: &str, node: usize, words: &[&str], restart: &str) {
        let nodes = self.kubectl(&["get", "nodes", "-o", "jsonpath={.items[*].metadata.name}"]);
        let node = nodes.split(' ').nth(node).unwrap();
        let pod = serde_json::json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": {
            "nodeName": node, "restartPolicy": restart, "terminationGracePeriodSeconds": 1,
            "containers": [{"name": "main", "image": "example/program:1", "args": words}]}});
        let file = self.path(&format!("{name}.json"));
        std::fs::write(&file, pod.to_string()).unwrap();
        self.kubectl(&["apply", "-f", file.to_str().unwrap()]);
    }

    fn field(&self, pod: &str, path: &str) -> String {
        self.kubectl(&["get", "pod", pod, "-o", &format!("jsonpath={{{path}}}")])
    }

    /// Folders of logs on both nodes.
    fn logs(&self) -> Vec<String> {
        let of = |name: &str| {
            let members = std::fs::read_dir(self.path(name).join("members")).into_iter().flatten().flatten();
            let logs = members.flat_map(|member| std::fs::read_dir(member.path().join("logs")).into_iter().flatten());
            logs.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect::<Vec<_>>()
        };
        [of("one"), of("two")].concat()
    }
}

/// The image, as an archive.
fn image(folder: &Path) -> String {
    let (source, program, archive) = (folder.join("program.rs"), folder.join("program"), folder.join("program.tar"));
    std::fs::write(&source, PROGRAM).unwrap();
    let options =
        ["--edition", "2021", "-C", "opt-level=1", "-C", "strip=symbols", "-C", "target-feature=+crt-static", "-o"];
    let compiled = Command::new("rustc").args(options).args([&program, &source]).status();
    assert!(compiled.unwrap().success(), "the program does not compile");
    let store = Store::open(StoreConfig { dir: folder.join("built"), limits: Default::default() }).unwrap();
    let name: Reference = "example/program:1".parse().unwrap();
    let builder = Builder::new().file("/program", Content::Host(program), 0o755).entrypoint(["/program"]);
    builder.build(&store, &name).unwrap();
    store.save(&name, &archive).unwrap();
    archive.to_str().unwrap().to_owned()
}

fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    let began = Instant::now();
    while !holds() {
        assert!(began.elapsed() < Duration::from_secs(90), "it does not come to this: {what}");
        std::thread::sleep(Duration::from_millis(200));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn kubectl_reaches_into_pods_wherever_they_run() {
    let world = world(&[]).await;
    let pods = ["first", "second"];
    for (number, name) in pods.iter().enumerate() {
        world.pod(name, number, &["serve"], "Always");
    }
    for name in pods {
        world.kubectl(&["wait", "--for=condition=Ready", &format!("pod/{name}"), "--timeout=60s"]);
        logs_of(&world, name);
        commands_in(&world, name);
        port_of(&world, name);
        api_from(&world, name);
    }
    let missing = world.output(&["exec", "first", "--", "/nothing"]);
    let why = String::from_utf8_lossy(&missing.stderr).into_owned();
    assert!(!missing.status.success() && why.contains("/nothing"), "{why}");

    world.pod("crashing", 0, &["crash"], "Always");
    wait_until("a second attempt", || world.field("crashing", ".status.containerStatuses[0].restartCount") == "1");
    assert_eq!(world.kubectl(&["logs", "crashing", "--previous"]), "said before the crash\n");

    // More than the lease has, with no limit of its own: the lease's stops it, and what else runs under it stays.
    world.pod("hungry", 1, &["eat", "400"], "Never");
    wait_until("the pod is stopped", || world.field("hungry", ".status.phase") == "Failed");
    assert_eq!(world.field("hungry", ".status.containerStatuses[0].state.terminated.reason"), "OOMKilled");
    assert_eq!(world.field("second", ".status.phase"), "Running");

    assert_eq!(world.logs().len(), 4, "{:?}", world.logs());
    world.kubectl(&["delete", "pod", "first", "second", "crashing", "hungry", "--timeout=60s"]);
    wait_until("logs go with their pods", || world.logs().is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_lease_that_runs_out_ends_its_pods_and_gives_all_back() {
    let mut world = world(&["rent.seconds=40"]).await;
    let token = world.folder.path().file_name().unwrap().to_str().unwrap().to_owned();
    world.pod("kept", 0, &["serve", &token], "Always");
    world.kubectl(&["wait", "--for=condition=Ready", "pod/kept", "--timeout=60s"]);
    assert_eq!(running(&token), 1);
    // Nobody renews any more.
    world.home.take().unwrap().kill().await.unwrap();
    wait_until("nothing runs and nothing is left", || running(&token) == 0 && is_clear(world.folder.path()));
    let mounts = std::fs::read_to_string("/proc/mounts").unwrap();
    assert!(!mounts.contains(&token), "mounts are left: {mounts}");
}

/// The API as a pod reaches it: by its Service's address, with its own token, under the authority that it is given.
fn api_from(world: &World, name: &str) {
    let file = |file: &str| {
        let path = format!("/var/run/secrets/kubernetes.io/serviceaccount/{file}");
        world.kubectl(&["exec", name, "--", "/program", "read", &path])
    };
    let variable = |variable: &str| world.kubectl(&["exec", name, "--", "/program", "env", variable]);
    assert_eq!(file("namespace"), "default");
    let authority = world.path("api-ca.pem");
    std::fs::write(&authority, file("ca.crt")).unwrap();
    let uid = world.field(name, ".metadata.uid");
    let folders =
        |of: &Path| std::fs::read_dir(of).into_iter().flatten().flatten().map(|it| it.path()).collect::<Vec<_>>();
    let members = folders(Path::new("/run/atoll")).into_iter().flat_map(|node| folders(&node));
    let mut networks = members.map(|member| member.join("net/netns").join(&uid));
    let network = networks.find(|path| path.exists()).expect("the pod has a network");
    let (host, port) = (variable("KUBERNETES_SERVICE_HOST"), variable("KUBERNETES_SERVICE_PORT"));
    let asked = Command::new("nsenter")
        .arg(format!("--net={}", network.display()))
        .args(["curl", "-sS", "--max-time", "20", "--cacert"])
        .arg(&authority)
        .args(["-H", &format!("Authorization: Bearer {}", file("token"))])
        .arg(format!("https://[{host}]:{port}/api/v1/namespaces/default/secrets"))
        .output()
        .unwrap();
    let answer = String::from_utf8_lossy(&asked.stdout).into_owned();
    let refused = r#"User \"system:serviceaccount:default:default\" cannot list resource \"secrets\""#;
    assert!(answer.contains(refused), "{answer} {}", String::from_utf8_lossy(&asked.stderr));
}

/// Processes of the pod that was given this token.
fn running(token: &str) -> usize {
    let started_as = format!("/program\0serve\0{token}\0");
    let processes = std::fs::read_dir("/proc").unwrap().flatten();
    processes.filter(|it| std::fs::read_to_string(it.path().join("cmdline")).is_ok_and(|it| it == started_as)).count()
}

fn logs_of(world: &World, name: &str) {
    assert_eq!(world.kubectl(&["logs", name]), format!("one of {name}\ntwo of {name}\n"));
    let timed = world.kubectl(&["logs", name, "-c", "main", "--tail=1", "--timestamps"]);
    let (time, line) = timed.trim().split_once(' ').unwrap();
    assert!(time.ends_with('Z') && line == format!("two of {name}"), "{timed}");
    let mut following = world.command(&["logs", "-f", name]).stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(following.stdout.take().unwrap()).lines();
    assert_eq!(lines.next().unwrap().unwrap(), format!("one of {name}"));
    following.kill().unwrap();
    following.wait().unwrap();
}

fn commands_in(world: &World, name: &str) {
    let said = world.output(&["exec", name, "--", "/program", "say", "out", "err", "7"]);
    assert_eq!((said.stdout.as_slice(), said.status.code()), (&b"out\n"[..], Some(7)), "{said:?}");
    assert!(said.stderr.starts_with(b"err\n"), "{said:?}");
    let mut counting = world.command(&["exec", "-i", name, "--", "/program", "count"]);
    let mut counting = counting.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    counting.stdin.take().unwrap().write_all(&vec![7; 3_000_000]).unwrap();
    assert_eq!(counting.wait_with_output().unwrap().stdout, b"3000000 bytes\n");
    // A terminal on this side as well: kubectl asks for one in the pod only then.
    let kubectl =
        format!("kubectl --kubeconfig {} exec -it {name} -- /program terminal", world.path("kubeconfig").display());
    let mut typing = Command::new("script");
    let typing = typing.args(["-qec", &kubectl, "/dev/null"]).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut typing = typing.spawn().expect("script is not installed: apt-get install bsdutils");
    let mut shown = BufReader::new(typing.stdout.take().unwrap());
    let mut text = String::new();
    shown.read_line(&mut text).unwrap();
    assert!(text.contains("terminal: true"), "{text}");
    let mut stdin = typing.stdin.take().unwrap();
    stdin.write_all(b"hello\r").unwrap();
    shown.read_to_string(&mut text).unwrap();
    assert!(text.contains("typed: hello"), "{text}");
    assert_eq!(typing.wait().unwrap().code(), Some(4));
}

fn port_of(world: &World, name: &str) {
    let forwarding = ["port-forward", "--address", "127.0.0.1", &format!("pod/{name}"), ":8080"];
    let mut forwarding = world.command(&forwarding).stdout(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(forwarding.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
    // Forwarding from 127.0.0.1:41234 -> 8080
    let port: u16 = line.split([':', ' ']).nth(3).unwrap().parse().unwrap();
    let mut answer = String::new();
    TcpStream::connect(("127.0.0.1", port)).unwrap().read_to_string(&mut answer).unwrap();
    assert_eq!(answer, format!("port of {name}\n"));
    forwarding.kill().unwrap();
    forwarding.wait().unwrap();
}
