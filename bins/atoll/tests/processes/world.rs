//! A small cloud for tests: a tenant, a gateway and three nodes that lend, as real processes on this machine. Needs root, kubectl and curl.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use atoll_grid::NodeProcess;
use serde_json::Value as Json;

use crate::common::{lone_node, output, run, run_json};

/// The nodes that lend.
const LENDERS: [&str; 3] = ["one", "two", "three"];

/// See the module's documentation.
pub(crate) struct World {
    // Ended in this order: what was rented is given back before the nodes go, and what they keep goes last.
    rented: Rented,
    _nodes: Vec<NodeProcess>,
    pub(crate) folder: tempfile::TempDir,
}

/// Gives every eVDC back even if the test fails: containers outlive their nodes.
struct Rented(PathBuf);

impl Drop for Rented {
    fn drop(&mut self) {
        let listed = output(&self.0, &["--output", "json", "evdc", "ls"], b"");
        let all: Json = serde_json::from_slice(&listed.stdout).unwrap_or_default();
        for name in all.as_array().into_iter().flatten().filter_map(|evdc| evdc["name"].as_str()) {
            output(&self.0, &["evdc", "rm", name], b"");
        }
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
    LENDERS.iter().all(|name| members(name) == 0)
}

/// Raises it.
pub(crate) async fn world() -> World {
    assert!(rustix::process::geteuid().is_root(), "containers need root: run the tests as root");
    let folder = tempfile::tempdir().unwrap();
    let lends = ["lend.cpu=1000", "lend.memory=512M", "lend.storage=512M", "storage.capacity=1G"];
    let gateway = ["gateway.domain=cloud.example", "gateway.https=127.0.0.1:0", "gateway.http=127.0.0.1:0"];
    let mut nodes = vec![lone_node(&folder.path().join("home"), &["storage.capacity=1G"]).await.unwrap()];
    nodes.push(lone_node(&folder.path().join("gateway"), &gateway).await.unwrap());
    for name in LENDERS {
        nodes.push(lone_node(&folder.path().join(name), &lends).await.unwrap());
    }
    let home = folder.path().join("home");
    let ticket = run_json(&home, &["invite", "--uses", "4"])["ticket"].as_str().unwrap().to_owned();
    for name in ["gateway"].iter().chain(&LENDERS) {
        run(&folder.path().join(name), &["join", &ticket], b"");
    }
    World { rented: Rented(home), _nodes: nodes, folder }
}

impl World {
    /// The tenant's data directory.
    pub(crate) fn home(&self) -> &Path {
        &self.rented.0
    }

    /// A path in the world's folder.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Whether the nodes that lent have removed what ran on them.
    pub(crate) fn is_clear(&self) -> bool {
        is_clear(self.folder.path())
    }

    /// No file system of this world is mounted any more.
    pub(crate) fn assert_no_mounts(&self) {
        let mounts = std::fs::read_to_string("/proc/mounts").unwrap();
        let folder = self.folder.path().to_str().unwrap();
        assert!(!mounts.contains(folder), "mounts are left: {mounts}");
    }

    /// kubectl, with the kubeconfig that the test wrote.
    pub(crate) fn kubectl(&self, arguments: &[&str]) -> String {
        let kubeconfig = self.path("kubeconfig");
        let ran = Command::new("kubectl").arg("--kubeconfig").arg(kubeconfig).args(arguments).output();
        let ran = ran.expect("kubectl is not installed: apt-get install kubernetes-client");
        assert!(ran.status.success(), "kubectl {arguments:?}: {}", String::from_utf8_lossy(&ran.stderr));
        String::from_utf8(ran.stdout).unwrap()
    }

    /// What the gateway says of itself.
    pub(crate) fn gateway_status(&self) -> Json {
        run_json(&self.path("gateway"), &["gateway", "status"])
    }

    /// Writes the gateway's certificate where [`Self::page`] looks for it; gives the gateway's port.
    pub(crate) fn trust_gateway(&self) -> String {
        std::fs::write(self.path("ca.pem"), run(&self.path("gateway"), &["gateway", "ca"], b"")).unwrap();
        let status = self.gateway_status();
        status["https"][0].as_str().unwrap().rsplit_once(':').unwrap().1.to_owned()
    }

    /// A page through the gateway, by curl with further arguments.
    pub(crate) fn page(&self, host: &str, port: &str, path: &str, arguments: &[&str]) -> Output {
        let ran = Command::new("curl")
            .args(["-sS", "--fail", "--max-time", "20", "--cacert"])
            .arg(self.path("ca.pem"))
            .args(["--resolve", &format!("{host}:{port}:127.0.0.1")])
            .args(arguments)
            .arg(format!("https://{host}:{port}{path}"))
            .output();
        ran.expect("curl is not installed: apt-get install curl")
    }
}

/// Waits until something holds.
pub(crate) fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    let began = Instant::now();
    while !holds() {
        assert!(began.elapsed() < Duration::from_secs(90), "it does not come to this: {what}");
        std::thread::sleep(Duration::from_millis(200));
    }
}

/// The answer; a failed request fails the test.
pub(crate) fn text(ran: &Output) -> String {
    assert!(ran.status.success(), "a request failed: {}", String::from_utf8_lossy(&ran.stderr));
    String::from_utf8_lossy(&ran.stdout).into_owned()
}
