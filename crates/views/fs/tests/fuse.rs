//! A volume mounted through the kernel: ordinary calls of `std::fs`, a crash, and the same files on another mount. Takes root (or fusermount3) and `/dev/fuse`.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt, PermissionsExt, symlink};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use atoll_engine::testing::MemoryNodes;
use atoll_fs::{
    FuseOptions, KvHeadStore, MountError, Mounted, Volume, VolumeConfig, VolumeOptions, VolumeSecret, clear_stale,
    unmount,
};
use atoll_ids::OwnerId;
use atoll_kv::{Embedded, EmbeddedConfig, KeyValue};
use tokio::task::spawn_blocking;

/// How long the process that is to be killed waits for that, should whoever kills it have died.
const SLEEP_MAX: Duration = Duration::from_secs(60);

struct World {
    nodes: Arc<MemoryNodes>,
    heads: Arc<KvHeadStore>,
    config: VolumeConfig,
    secret: VolumeSecret,
    dir: tempfile::TempDir,
}

/// A test that fails leaves no mountpoint behind either.
impl Drop for World {
    fn drop(&mut self) {
        for name in ["one", "two"] {
            let _ = unmount(&self.dir.path().join(name));
        }
    }
}

impl World {
    async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let kv: Arc<dyn KeyValue> = Arc::new(Embedded::open(dir.path().join("kv"), EmbeddedConfig::default()).unwrap());
        let config = VolumeConfig::new("disk0".parse().unwrap(), OwnerId::from_bytes([7; 32]), "4+2".parse().unwrap());
        let heads = Arc::new(KvHeadStore::new(kv, &config.name));
        let secret = VolumeSecret::generate();
        Volume::format(&config, &secret, heads.as_ref()).await.unwrap();
        for name in ["one", "two"] {
            fs::create_dir(dir.path().join(name)).unwrap();
        }
        Self { nodes: MemoryNodes::new(6), heads, config, secret, dir }
    }

    async fn mount(&self, name: &str) -> Mounted {
        self.mount_flushing(name, VolumeOptions::default().flush_every).await
    }

    async fn mount_flushing(&self, name: &str, flush_every: Duration) -> Mounted {
        let options = VolumeOptions { patience: Duration::from_secs(10), flush_every, ..VolumeOptions::default() };
        let (nodes, heads) = (self.nodes.clone(), self.heads.clone());
        let volume = Volume::open(self.config.clone(), &self.secret, nodes, heads, options).await.unwrap();
        let at = self.dir.path().join(name);
        Mounted::mount(volume, &at, FuseOptions::default())
            .await
            .unwrap_or_else(|error| panic!("{error}; this test needs root or `apt-get install fuse3`, and /dev/fuse"))
    }
}

/// Everything below a directory: type, mode, size, content or target.
fn see(root: &Path) -> BTreeMap<String, (u32, u64, Vec<u8>)> {
    let mut seen = BTreeMap::new();
    let mut todo = vec![root.to_owned()];
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
            let size = if metadata.is_dir() { 0 } else { metadata.len() };
            let name = path.strip_prefix(root).unwrap().to_string_lossy().into_owned();
            seen.insert(name, (metadata.mode(), size, content));
        }
    }
    seen
}

fn content(seed: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut bytes);
    bytes
}

/// The everyday calls; what each gives is compared on the spot.
fn everyday(root: &Path) {
    fs::create_dir_all(root.join("a/b/c")).unwrap();
    fs::write(root.join("a/small"), b"hello").unwrap();
    let large = content(1, 5_000_000);
    fs::write(root.join("a/b/large"), &large).unwrap();
    assert_eq!(fs::read(root.join("a/b/large")).unwrap(), large);
    let mut log = OpenOptions::new().append(true).create(true).open(root.join("log")).unwrap();
    for line in 0..100 {
        writeln!(log, "line {line}").unwrap();
    }
    assert_eq!(fs::read_to_string(root.join("log")).unwrap().lines().count(), 100);
    symlink("a/small", root.join("link")).unwrap();
    assert_eq!(fs::read(root.join("link")).unwrap(), b"hello");
    fs::hard_link(root.join("a/small"), root.join("hard")).unwrap();
    assert_eq!(fs::metadata(root.join("hard")).unwrap().nlink(), 2);
    fs::rename(root.join("a/b"), root.join("moved")).unwrap();
    fs::set_permissions(root.join("hard"), PermissionsExt::from_mode(0o600)).unwrap();
    assert_eq!(fs::metadata(root.join("a/small")).unwrap().mode() & 0o7777, 0o600);
    assert!(fs::remove_dir(root.join("a")).is_err());

    let sparse = File::create(root.join("sparse")).unwrap();
    sparse.set_len(3 << 20).unwrap();
    sparse.write_all_at(b"end", (3 << 20) - 3).unwrap();
    let read = fs::read(root.join("sparse")).unwrap();
    assert!(read.len() == 3 << 20 && read.ends_with(b"end") && read[..1000] == [0; 1000]);
    assert!(fs::metadata(root.join("sparse")).unwrap().blocks() < 100);
    sparse.set_len(10).unwrap();
    sparse.set_len(20).unwrap();
    assert_eq!(fs::read(root.join("sparse")).unwrap(), [0; 20]);

    let mut open =
        OpenOptions::new().read(true).write(true).create(true).truncate(true).open(root.join("tmp")).unwrap();
    open.write_all(b"unlinked while open").unwrap();
    fs::remove_file(root.join("tmp")).unwrap();
    open.seek(SeekFrom::Start(9)).unwrap();
    let mut rest = String::new();
    open.read_to_string(&mut rest).unwrap();
    assert_eq!(rest, "while open");
    assert!(!root.join("tmp").exists());
    let exclusive = OpenOptions::new().write(true).create_new(true).custom_flags(0).open(root.join("hard"));
    assert_eq!(exclusive.unwrap_err().kind(), std::io::ErrorKind::AlreadyExists);

    for number in 0..500 {
        fs::write(root.join(format!("moved/c/{number}")), format!("{number}")).unwrap();
    }
    for number in (0..500).step_by(2) {
        fs::remove_file(root.join(format!("moved/c/{number}"))).unwrap();
    }
    assert_eq!(fs::read_dir(root.join("moved/c")).unwrap().count(), 250);
    log.lock().unwrap();
    assert!(File::open(root.join("log")).unwrap().try_lock().is_err(), "flock holds between open files");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn files_survive_the_process_and_move_to_another_mount() {
    let world = World::new().await;
    let first = world.mount("one").await;
    let root = first.path().to_owned();
    let before = spawn_blocking(move || {
        everyday(&root);
        File::open(root.join("log")).unwrap().sync_all().unwrap();
        let before = see(&root);
        fs::write(root.join("not synced"), b"x").unwrap();
        before
    })
    .await
    .unwrap();

    // The second mount takes over while the first still believes it is alone.
    let second = world.mount("two").await;
    let (one, two) = (first.path().to_owned(), second.path().to_owned());
    spawn_blocking(move || {
        assert_eq!(see(&two), before);
        let refused = File::open(one.join("log")).unwrap().sync_all().unwrap_err();
        assert_eq!(refused.raw_os_error(), Some(116), "ESTALE: {refused}");
        assert!(fs::write(one.join("late"), b"x").is_err());
        fs::write(two.join("new"), b"written by the second").unwrap();
    })
    .await
    .unwrap();
    assert!(first.status().fenced && first.unmount().await.is_err());
    second.unmount().await.unwrap();
    assert_eq!(fs::read_dir(world.dir.path().join("two")).unwrap().count(), 0, "unmounted");

    let third = world.mount("one").await;
    assert_eq!(fs::read(third.path().join("new")).unwrap(), b"written by the second");
    third.unmount().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unmounting_does_not_wait_for_open_files_or_dead_nodes() {
    let world = World::new().await;
    let mounted = world.mount("one").await;
    let root = mounted.path().to_owned();
    let path = root.join("open");
    let open = spawn_blocking(move || {
        let mut open = File::create(&path).unwrap();
        open.write_all(&[1; 1000]).unwrap();
        open
    })
    .await
    .unwrap();
    for number in 0..6 {
        world.nodes.kill(number, true);
    }
    let probe = root.clone();
    let space = spawn_blocking(move || fs::metadata(probe).is_ok());
    assert!(tokio::time::timeout(Duration::from_secs(2), space).await.unwrap().unwrap(), "stat does not hang");
    let begun = Instant::now();
    assert!(mounted.unmount().await.is_err(), "what was written could not be stored");
    assert!(begun.elapsed() < Duration::from_secs(25), "{:?}", begun.elapsed());
    assert_eq!(fs::read_dir(&root).unwrap().count(), 0);
    let mut open = open;
    let late = spawn_blocking(move || open.write_all(b"late").is_err());
    assert!(tokio::time::timeout(Duration::from_secs(5), late).await.unwrap().unwrap());
}

/// `sync(2)` is not told to file systems in user space; what bounds the loss of what nobody synced is time.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_nobody_synced_is_stored_after_a_while() {
    let world = World::new().await;
    let never = world.mount_flushing("one", Duration::from_secs(3600)).await;
    let root = never.path().to_owned();
    let write = move |root: &Path| {
        fs::write(root.join("file"), b"nobody synced this").unwrap();
        rustix::fs::sync();
        rustix::fs::syncfs(File::open(root).unwrap()).unwrap();
    };
    spawn_blocking(move || write(&root)).await.unwrap();
    assert!(
        !never.status().clean,
        "sync(2) and syncfs returned, and nothing was stored: if they do reach us, say so in the docs"
    );
    drop(never);

    let soon = world.mount_flushing("one", Duration::from_millis(200)).await;
    let root = soon.path().to_owned();
    spawn_blocking(move || {
        assert!(!root.join("file").exists());
        write(&root);
    })
    .await
    .unwrap();
    let begun = Instant::now();
    while !soon.status().clean {
        assert!(begun.elapsed() < Duration::from_secs(10), "never stored");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    drop(soon);
    let after = world.mount("one").await;
    assert_eq!(fs::read(after.path().join("file")).unwrap(), b"nobody synced this");
    after.unmount().await.unwrap();
}

/// The other half of the next test: a process of its own that mounts and then sleeps until it is killed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn helper_that_is_killed() {
    let Some(at) = std::env::var_os("ATOLL_FS_TEST_MOUNT") else { return };
    let world = World::new().await;
    let options = VolumeOptions::default();
    let (nodes, heads) = (world.nodes.clone(), world.heads.clone());
    let volume = Volume::open(world.config.clone(), &world.secret, nodes, heads, options).await.unwrap();
    let _mounted = Mounted::mount(volume, Path::new(&at), FuseOptions::default()).await.unwrap();
    fs::write(Path::new(&at).join("ready"), b"").unwrap();
    tokio::time::sleep(SLEEP_MAX).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mountpoint_left_by_a_killed_process_is_taken_away() {
    let world = World::new().await;
    let at = world.dir.path().join("one");
    let mut child = std::process::Command::new(std::env::current_exe().unwrap())
        .args([OsStr::new("--exact"), OsStr::new("helper_that_is_killed"), OsStr::new("--nocapture")])
        .env("ATOLL_FS_TEST_MOUNT", &at)
        .stdout(std::process::Stdio::null())
        .spawn()
        .unwrap();
    let begun = Instant::now();
    while !at.join("ready").exists() {
        assert!(begun.elapsed() < Duration::from_secs(30), "the other process never mounted");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(fs::read_dir(&at).is_err(), "nobody answers there");
    let mounted = world.mount("one").await;
    fs::write(at.join("works"), b"again").unwrap();
    let (nodes, heads) = (world.nodes.clone(), world.heads.clone());
    let other =
        Volume::open(world.config.clone(), &world.secret, nodes, heads, VolumeOptions::default()).await.unwrap();
    let twice = Mounted::mount(other.clone(), &at, FuseOptions::default()).await;
    assert!(matches!(twice, Err(MountError::Mounted { .. })));
    assert!(mounted.unmount().await.is_err(), "fenced by the other");
    let mounted = Mounted::mount(other, &at, FuseOptions::default()).await.unwrap();
    mounted.unmount().await.unwrap();
    assert!(!clear_stale(&at).unwrap());
    assert!(unmount(&at).is_err(), "nothing is mounted there");
}
