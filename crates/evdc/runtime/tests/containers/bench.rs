//! What all cases share: an image of this very program, and a runtime on a directory of its own.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use atoll_ids::ByteCount;
use atoll_images::{Builder, Image, Limits, Store, StoreConfig};
use atoll_runtime::logs::{LogQuery, Stream, read};
use atoll_runtime::{
    Capabilities, CgroupRoot, ContainerId, ContainerSpec, Embedded, EmbeddedConfig, Exit, LogTarget, Network,
    PidNamespace, Resources, Runtime, SandboxId, SandboxSpec, User,
};

/// Long enough for any case on a machine that has other things to do.
const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) struct Bench {
    dir: tempfile::TempDir,
    pub(crate) store: Store,
    pub(crate) image: Image,
    pub(crate) runtime: Embedded,
}

/// Where the cgroups of this run are.
pub(crate) fn cgroup_name() -> String {
    format!("atoll-test-{}", std::process::id())
}

pub(crate) fn sandbox(id: &str) -> SandboxSpec {
    SandboxSpec {
        id: id.parse().unwrap(),
        group: None,
        hostname: format!("host-{id}"),
        resources: Resources::default(),
        labels: BTreeMap::from([("app".to_owned(), id.to_owned())]),
    }
}

impl Bench {
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = StoreConfig { dir: dir.path().join("images"), limits: Limits::default() };
        let store = Store::open(store).unwrap();
        let image = Builder::current_executable("/bin/workload").unwrap();
        let image = image.build(&store, &"localhost/workload".parse().unwrap()).unwrap();
        let mut config = EmbeddedConfig::new(dir.path().join("runtime"));
        config.cgroup_root = CgroupRoot::beside_own(&cgroup_name());
        let runtime = Embedded::open(config).unwrap();
        Self { dir, store, image, runtime }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// A container of this program, to be changed before it is made.
    pub(crate) fn container(&self, id: &str, words: &[&str]) -> ContainerSpec {
        let rootfs = self.store.rootfs(&self.image, id).unwrap();
        let args = ["/bin/workload", "workload"].into_iter().chain(words.iter().copied());
        ContainerSpec {
            id: id.parse().unwrap(),
            sandbox: id.parse().unwrap(),
            attempt: 2,
            labels: BTreeMap::new(),
            rootfs: rootfs.path,
            read_only_rootfs: false,
            args: args.map(str::to_owned).collect(),
            env: vec![("COLOUR".to_owned(), "blue".to_owned())],
            cwd: PathBuf::from("/"),
            user: User::default(),
            mounts: Vec::new(),
            network: Network::None,
            pid: PidNamespace::Private,
            capabilities: Capabilities::default(),
            no_new_privileges: true,
            rlimits: Vec::new(),
            sysctls: BTreeMap::new(),
            resources: Resources::default(),
            oom_score_adj: 500,
            log: LogTarget { path: self.path(&format!("logs/{id}/0.log")), max_bytes: ByteCount(1 << 20), files: 3 },
        }
    }

    /// A sandbox and a container in it, running.
    pub(crate) async fn run(&self, spec: ContainerSpec) -> ContainerId {
        let id = spec.id.clone();
        self.runtime.create_sandbox(sandbox(spec.sandbox.as_str())).await.unwrap();
        self.runtime.create(spec).await.unwrap();
        self.runtime.start(&id).await.unwrap();
        id
    }

    pub(crate) async fn wait(&self, id: &ContainerId) -> Exit {
        tokio::time::timeout(PATIENCE, self.runtime.wait(id)).await.expect("the container should end").unwrap()
    }

    /// Output so far, lines joined.
    pub(crate) fn output(&self, id: &str, stream: Stream) -> String {
        let lines = read(&self.path(&format!("logs/{id}/0.log")), &LogQuery::default()).unwrap();
        let lines = lines.iter().filter(|line| line.stream == stream);
        lines.map(|line| String::from_utf8_lossy(&line.text).into_owned() + "\n").collect()
    }

    /// Waits until a container has said something.
    pub(crate) async fn until_said(&self, id: &str, words: &str) {
        let mut follow = atoll_runtime::logs::Follow::new(&self.path(&format!("logs/{id}/0.log")));
        let said = async {
            loop {
                let lines = follow.next().await.unwrap();
                if lines.iter().any(|line| String::from_utf8_lossy(&line.text).contains(words)) {
                    return;
                }
            }
        };
        tokio::time::timeout(PATIENCE, said).await.unwrap_or_else(|_| panic!("{id} should say {words}"));
    }

    /// Runs to the end in a sandbox of its own and removes everything: output and exit.
    pub(crate) async fn run_to_end(&self, spec: ContainerSpec) -> (String, Exit) {
        let (name, sandbox) = (spec.id.to_string(), spec.sandbox.clone());
        let id = self.run(spec).await;
        let exit = self.wait(&id).await;
        let output = self.output(&name, Stream::Stdout);
        self.remove(&sandbox, &[&name]).await;
        (output, exit)
    }

    pub(crate) async fn remove(&self, sandbox: &SandboxId, containers: &[&str]) {
        self.runtime.remove_sandbox(sandbox).await.unwrap();
        for id in containers {
            self.store.remove_rootfs(id).unwrap();
        }
    }

    /// Removes what cases that failed have left, so that nothing stays mounted or running.
    pub(crate) fn close(&self) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let other = Embedded::open(EmbeddedConfig::new(self.path("other-node"))).unwrap();
            for node in [&self.runtime, &other] {
                for sandbox in node.sandboxes().await.unwrap() {
                    node.remove_sandbox(&sandbox.id).await.unwrap();
                }
            }
        });
        for id in self.store.rootfs_ids().unwrap() {
            self.store.remove_rootfs(&id).unwrap();
        }
        let own = std::fs::read_to_string("/proc/self/cgroup").unwrap();
        let memory = own.lines().find_map(|line| line.split_once(":memory:").map(|(_, path)| path)).unwrap_or("/");
        let relative = PathBuf::from(memory.trim_start_matches('/')).join(cgroup_name());
        for hierarchy in std::fs::read_dir("/sys/fs/cgroup").unwrap().flatten() {
            remove_tree(&hierarchy.path().join(&relative));
        }
        remove_tree(&PathBuf::from("/sys/fs/cgroup").join(&relative));
    }
}

fn remove_tree(dir: &std::path::Path) {
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        if entry.path().is_dir() {
            remove_tree(&entry.path());
        }
    }
    // Parents that other hierarchies got along with ours go, too, while they are empty.
    let _ = std::fs::remove_dir(dir);
}
