//! File systems by command, and data that is made whole without anybody asking. Needs root (or fusermount3) and /dev/fuse.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use atoll_grid::NodeProcess;
use serde_json::Value;

use crate::common::{fail, lone_node, output, run, run_json};

const PATIENCE: Duration = Duration::from_secs(90);

struct World {
    folder: tempfile::TempDir,
    home: NodeProcess,
    nodes: Vec<NodeProcess>,
}

impl World {
    /// Home that lends nothing and heals after two seconds, and nodes that lend storage.
    async fn raise(nodes: usize) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let settings = ["node.roles=network", "storage.heal_after=2s"];
        let home = lone_node(&folder.path().join("home"), &settings).await.unwrap();
        let mut world = Self { folder, home, nodes: Vec::new() };
        for _ in 0..nodes {
            world.add().await;
        }
        world
    }

    async fn add(&mut self) {
        let path = self.folder.path().join(format!("node{}", self.nodes.len()));
        let node = lone_node(&path, &["node.roles=network,storage", "storage.capacity=1G"]).await.unwrap();
        let ticket = run_json(self.home.data_dir(), &["invite"])["ticket"].as_str().unwrap().to_owned();
        run(&path, &["join", &ticket], b"");
        self.nodes.push(node);
    }

    fn run(&self, arguments: &[&str]) -> String {
        run(self.home.data_dir(), arguments, b"")
    }

    fn show(&self, name: &str) -> Value {
        run_json(self.home.data_dir(), &["fs", "show", name])
    }

    fn healing(&self) -> Value {
        run_json(self.home.data_dir(), &["status"])["healing"].clone()
    }

    fn directory(&self, name: &str) -> PathBuf {
        let path = self.folder.path().join(name);
        fs::create_dir(&path).unwrap();
        path
    }
}

/// A test that fails leaves no mountpoint behind.
impl Drop for World {
    fn drop(&mut self) {
        let below = self.folder.path().to_owned();
        let mounts = fs::read_to_string("/proc/mounts").unwrap_or_default();
        for at in
            mounts.lines().filter_map(|line| line.split(' ').nth(1)).filter(|at| Path::new(at).starts_with(&below))
        {
            let _ = rustix::mount::unmount(at, rustix::mount::UnmountFlags::DETACH);
        }
    }
}

fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    let began = Instant::now();
    while !holds() {
        assert!(began.elapsed() < PATIENCE, "it does not come to this: {what}");
        std::thread::sleep(Duration::from_millis(100));
    }
}

fn content(seed: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut bytes);
    bytes
}

fn plant(root: &Path) {
    fs::create_dir_all(root.join("a/b")).unwrap();
    for number in 0..200 {
        fs::write(root.join(format!("a/b/{number}")), content(number, 100 + number as usize * 37)).unwrap();
    }
    fs::write(root.join("large"), content(1000, 9_000_000)).unwrap();
    fs::set_permissions(root.join("a/b/7"), fs::Permissions::from_mode(0o751)).unwrap();
    symlink("a/b/7", root.join("link")).unwrap();
}

/// Everything below a directory: mode, and content or target.
fn see(root: &Path) -> BTreeMap<PathBuf, (u32, Vec<u8>)> {
    let (mut seen, mut todo) = (BTreeMap::new(), vec![root.to_owned()]);
    while let Some(dir) = todo.pop() {
        for entry in fs::read_dir(&dir).unwrap() {
            let path = entry.unwrap().path();
            let metadata = fs::symlink_metadata(&path).unwrap();
            let content = if metadata.is_dir() {
                todo.push(path.clone());
                Vec::new()
            } else if metadata.is_symlink() {
                fs::read_link(&path).unwrap().into_os_string().into_encoded_bytes()
            } else {
                fs::read(&path).unwrap()
            };
            seen.insert(path.strip_prefix(root).unwrap().to_owned(), (metadata.mode(), content));
        }
    }
    seen
}

fn copy(from: &Path, to: &Path) {
    let copied = std::process::Command::new("cp").arg("-a").arg(from.join(".")).arg(to).status().unwrap();
    assert!(copied.success());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_tree_copied_into_a_file_system_outlives_the_node() {
    let mut world = World::raise(3).await;
    let (source, at, other) = (world.directory("source"), world.directory("at"), world.directory("other"));
    let (dir, data) = (at.to_str().unwrap(), world.home.data_dir().to_owned());
    plant(&source);

    assert!(fail(&data, &["fs", "create", "docs", "--policy", "4+2"]).contains("needs 6 nodes"));
    world.run(&["fs", "create", "docs", "--policy", "2+1"]);
    assert!(fail(&data, &["fs", "create", "docs", "--policy", "2+1"]).contains("already"));
    assert!(fail(&data, &["fs", "mount", "docs", "/nonexistent"]).contains("/nonexistent"));
    assert!(fail(&data, &["fs", "mount", "nothing", dir]).contains("no file system nothing"));
    // Another machine does not have what it takes, and says so.
    let elsewhere = fail(world.nodes[0].data_dir(), &["fs", "mount", "docs", dir]);
    assert!(elsewhere.contains("the node that made it alone"), "{elsewhere}");

    world.run(&["fs", "mount", "docs", dir]);
    world.run(&["fs", "mount", "docs", dir]);
    assert!(fail(&data, &["fs", "mount", "docs", other.to_str().unwrap()]).contains("is mounted on"));
    assert!(fail(&data, &["fs", "rm", "docs"]).contains("is mounted on"));
    copy(&source, &at);
    let before = see(&source);
    assert_eq!(see(&at), before);
    world.run(&["fs", "umount", dir]);
    assert_eq!(fs::read_dir(&at).unwrap().count(), 0);
    world.run(&["fs", "mount", "docs", dir]);
    assert_eq!(see(&at), before);

    // Killed after an fsync: the node mounts it again by itself, with everything of before.
    let mut synced = File::create(at.join("synced")).unwrap();
    synced.write_all(b"every byte of it").unwrap();
    synced.sync_all().unwrap();
    world.home.kill().await.unwrap();
    assert_eq!(synced.write_all(b"x").unwrap_err().raw_os_error(), Some(107), "nobody serves it");
    drop(synced);
    world.home.start_again().await.unwrap();
    wait_until("it is mounted again", || world.show("docs")["mounted"].is_object());
    assert_eq!(fs::read(at.join("synced")).unwrap(), b"every byte of it");
    fs::remove_file(at.join("synced")).unwrap();
    assert_eq!(see(&at), before);

    // What nobody synced is stored within seconds: sync(2) does not reach the file system, time does.
    fs::write(at.join("unsynced"), b"stored all the same").unwrap();
    wait_until("it is stored", || world.show("docs")["mounted"]["stored"] == true);
    world.home.kill().await.unwrap();
    world.home.start_again().await.unwrap();
    wait_until("it is mounted again", || world.show("docs")["mounted"].is_object());
    assert_eq!(fs::read(at.join("unsynced")).unwrap(), b"stored all the same");

    // Ended in order it stores everything, and what was detached by other means stays so.
    fs::write(at.join("last"), b"words").unwrap();
    world.home.stop().await.unwrap();
    world.home.start_again().await.unwrap();
    wait_until("it is mounted again", || world.show("docs")["mounted"].is_object());
    assert_eq!(fs::read(at.join("last")).unwrap(), b"words");
    rustix::mount::unmount(&at, rustix::mount::UnmountFlags::DETACH).unwrap();
    wait_until("it is known not to be mounted", || world.show("docs")["path"].is_null());
    assert!(fail(&data, &["fs", "umount", "docs"]).contains("is not mounted"));
    world.run(&["fs", "rm", "docs"]);
    assert_eq!(run_json(&data, &["fs", "ls"]), serde_json::json!([]));
    for node in &world.nodes {
        let shards = run_json(node.data_dir(), &["status"])["storage"]["shards"].clone();
        assert_eq!(shards, 0, "nothing is left on {}", node.data_dir().display());
    }
    assert!(!fs::read_to_string("/proc/mounts").unwrap().contains(world.folder.path().to_str().unwrap()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn what_a_dead_node_kept_is_made_again_by_itself() {
    let mut world = World::raise(4).await;
    let (source, at, back) = (world.directory("source"), world.directory("at"), world.directory("back"));
    plant(&source);
    world.run(&["bucket", "create", "photos", "--policy", "2+1"]);
    world.run(&["put", &format!("{}/", source.display()), "photos/"]);
    world.run(&["fs", "create", "docs", "--policy", "2+1"]);
    world.run(&["fs", "mount", "docs", at.to_str().unwrap()]);
    copy(&source, &at);
    world.run(&["fs", "umount", "docs"]);

    // One after the other, more than the policy bears at once.
    for dead in [0, 1] {
        let rebuilt = world.healing()["rebuilt"].as_u64().unwrap();
        world.nodes[dead].kill().await.unwrap();
        wait_until("it is seen to be away", || world.healing()["away"].as_array().unwrap().len() == dead + 1);
        if dead == 1 {
            // Three nodes for three shards, of which one is dead: there is no place until another joins.
            wait_until("it says that nodes are missing", || world.healing()["unplaced"].as_u64() > Some(0));
            world.add().await;
        }
        wait_until("everything is whole again", || {
            let now = world.healing();
            let whole = now["running"] == false && now["degraded"] == now["mended"] && now["unplaced"] == 0;
            whole && now["rebuilt"].as_u64().unwrap() > rebuilt
        });
        let seen = run(world.home.data_dir(), &["status"], b"");
        assert!(seen.contains("is away for"), "{seen}");
    }
    // And one more, without time to heal: everything is still there.
    world.nodes[2].kill().await.unwrap();
    world.run(&["get", "photos/", back.to_str().unwrap()]);
    assert_eq!(see(&back), see(&source));
    world.run(&["fs", "mount", "docs", at.to_str().unwrap()]);
    assert_eq!(see(&at), see(&source));
    output(world.home.data_dir(), &["fs", "umount", "docs"], b"");
}
