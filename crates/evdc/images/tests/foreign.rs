//! Images come and go through the tools that others use: skopeo and umoci.
//!
//! Needs root, and the Debian packages skopeo and umoci: apt-get install skopeo umoci

#![allow(clippy::unwrap_used, reason = "tests")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use atoll_images::{Builder, Compression, Content, Digest, Image, Limits, Reference, Store, StoreConfig};

struct Place {
    dir: tempfile::TempDir,
    store: Store,
}

impl Place {
    fn new() -> Self {
        assert!(
            rustix::process::geteuid().is_root(),
            "mounting needs root: run with sudo -E cargo test -p atoll-images"
        );
        let dir = tempfile::tempdir().unwrap();
        let store = open(&dir.path().join("store"));
        Self { dir, store }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn build(&self, name: &str, compression: Compression) -> Image {
        let builder = Builder::new()
            .file("/bin/app", Content::Bytes(b"#!/bin/sh\n".to_vec()), 0o755)
            .file("/data/kept", Content::Bytes(b"kept".to_vec()), 0o600)
            .file("/data/gone", Content::Bytes(vec![0; 100_000]), 0o644)
            .symlink("/current", "data/kept")
            .entrypoint(["/bin/app"])
            .cmd(["serve"])
            .env("COLOUR", "blue")
            .label("org.example", "yes")
            .user("nobody")
            .working_dir("/data");
        builder.compression(compression).build(&self.store, &reference(name)).unwrap()
    }

    fn files(&self, image: &Image, id: &str) -> Vec<(String, Vec<u8>)> {
        let rootfs = self.store.rootfs(image, id).unwrap();
        let mut files = Vec::new();
        collect(&rootfs.path, &rootfs.path, &mut files);
        self.store.remove_rootfs(id).unwrap();
        files
    }
}

fn collect(root: &Path, dir: &Path, files: &mut Vec<(String, Vec<u8>)>) {
    let mut entries: Vec<_> = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect();
    entries.sort();
    for path in entries {
        let name = path.strip_prefix(root).unwrap().display().to_string();
        if path.is_symlink() {
            files.push((name, fs::read_link(&path).unwrap().into_os_string().into_encoded_bytes()));
        } else if path.is_dir() {
            files.push((name + "/", Vec::new()));
            collect(root, &path, files);
        } else {
            files.push((name, fs::read(&path).unwrap()));
        }
    }
}

fn open(dir: &Path) -> Store {
    Store::open(StoreConfig { dir: dir.to_owned(), limits: Limits::default() }).unwrap()
}

fn reference(name: &str) -> Reference {
    name.parse().unwrap()
}

fn run(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output();
    let output = output.unwrap_or_else(|error| panic!("{program}: {error}; run apt-get install skopeo umoci"));
    assert!(output.status.success(), "{program} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn skopeo(from: &str, to: &str, options: &[&str]) {
    run("skopeo", &[&["copy", "--insecure-policy", "--quiet"], options, &[from, to]].concat());
}

#[test]
fn there_and_back_through_skopeo() {
    let place = Place::new();
    let image = place.build("example.org/app:1", Compression::None);
    assert_eq!(image.layers[0].digest, image.layers[0].diff_id);
    let files = place.files(&image, "first");
    let ours = place.path("ours.tar");
    place.store.save(&image.reference, &ours).unwrap();
    let ours = format!("oci-archive:{}", ours.display());
    let inspected = run("skopeo", &["inspect", "--config", &ours]);
    assert!(inspected.contains("COLOUR=blue") && inspected.contains("/bin/app"), "{inspected}");
    let kinds: [(&str, &str, &str, &[&str]); 4] = [
        ("docker-archive", "docker.tar", ":example.org/app:2", &[]),
        ("oci-archive", "oci.tar", ":example.org/app:2", &[]),
        ("oci", "layout", ":example.org/app:2", &["--dest-compress", "--dest-compress-format", "gzip"]),
        ("oci", "zstd", ":example.org/app:2", &["--dest-compress", "--dest-compress-format", "zstd"]),
    ];
    for (kind, name, suffix, options) in kinds {
        let path = place.path(name);
        skopeo(&ours, &format!("{kind}:{}{suffix}", path.display()), options);
        let other = Place::new();
        let loaded = other.store.load(&path, None).unwrap();
        assert_eq!(loaded.len(), 1, "{name}");
        assert_eq!(loaded[0].reference, reference("example.org/app:2"), "{name}");
        assert_eq!(loaded[0].layers[0].diff_id, image.layers[0].diff_id, "{name}");
        let (found, made) = (&loaded[0].config, &image.config);
        assert_eq!((&found.entrypoint, &found.cmd, &found.env), (&made.entrypoint, &made.cmd, &made.env), "{name}");
        assert_eq!((&found.user, &found.labels), (&made.user, &made.labels), "{name}");
        assert_eq!(other.files(&loaded[0], "again"), files, "{name}");
    }
    let packed =
        fs::read_dir(place.path("zstd/blobs/sha256")).unwrap().map(|entry| fs::read(entry.unwrap().path()).unwrap());
    assert!(
        packed.into_iter().any(|blob| blob.starts_with(&[0x28, 0xb5, 0x2f, 0xfd])),
        "skopeo should have packed zstd"
    );
}

#[test]
fn layers_of_umoci_remove_what_they_remove() {
    let place = Place::new();
    let image = place.build("example.org/app:1", Compression::Gzip);
    let archive = place.path("app.tar");
    place.store.save(&image.reference, &archive).unwrap();
    let layout = place.path("layout").display().to_string();
    skopeo(&format!("oci-archive:{}", archive.display()), &format!("oci:{layout}:1"), &[]);
    let bundle = place.path("bundle");
    run("umoci", &["unpack", "--image", &format!("{layout}:1"), &bundle.display().to_string()]);
    assert_eq!(fs::read(bundle.join("rootfs/data/kept")).unwrap(), b"kept");
    fs::remove_file(bundle.join("rootfs/data/gone")).unwrap();
    fs::write(bundle.join("rootfs/data/new"), "new").unwrap();
    run("umoci", &["repack", "--image", &format!("{layout}:2"), &bundle.display().to_string()]);
    let empty = place.path("empty");
    fs::create_dir(&empty).unwrap();
    fs::write(empty.join("only"), "this").unwrap();
    run("umoci", &["insert", "--opaque", "--image", &format!("{layout}:2"), &empty.display().to_string(), "/bin"]);
    skopeo(&format!("oci:{layout}:2"), &format!("oci-archive:{}", place.path("two.tar").display()), &[]);
    let loaded = place.store.load(&place.path("two.tar"), Some(&reference("example.org/app:2"))).unwrap().remove(0);
    assert!(loaded.layers.len() >= 3);
    assert_eq!(loaded.layers[0].diff_id, image.layers[0].diff_id, "the lowest layer is shared");
    let files = place.files(&loaded, "changed");
    let names: Vec<&str> = files.iter().map(|(name, _)| name.as_str()).collect();
    assert!(names.contains(&"data/kept") && names.contains(&"data/new") && !names.contains(&"data/gone"), "{names:?}");
    assert!(names.contains(&"bin/only") && !names.contains(&"bin/app"), "{names:?}");
}

#[test]
fn the_same_files_are_the_same_image() {
    let (one, two) = (Place::new(), Place::new());
    for compression in [Compression::None, Compression::Gzip, Compression::Zstd] {
        let images = [&one, &two].map(|place| place.build("example.org/app:1", compression));
        assert_eq!(images[0].manifest, images[1].manifest);
        let archives = [&one, &two].map(|place| {
            place.store.save(&reference("example.org/app:1"), &place.path("a.tar")).unwrap();
            Digest::of(&fs::read(place.path("a.tar")).unwrap())
        });
        assert_eq!(archives[0], archives[1]);
    }
}

#[test]
fn names_come_and_go_and_garbage_goes() {
    let place = Place::new();
    let image = place.build("example.org/app:1", Compression::Zstd);
    let tagged = place.store.tag(&image, &reference("example.org/app:stable")).unwrap();
    assert_eq!(tagged.id, image.id);
    assert_eq!(place.store.list().unwrap().len(), 2);
    assert!(place.store.remove(&image.reference).unwrap());
    assert!(!place.store.remove(&image.reference).unwrap());
    assert_eq!(place.store.gc().unwrap().blobs, 0);
    let rootfs = place.store.rootfs(&tagged, "user").unwrap();
    assert_eq!(rootfs.user(&tagged.config.user).unwrap().uid, 65534);
    fs::write(rootfs.path.join("written"), "by the container").unwrap();
    assert!(place.store.remove(&tagged.reference).unwrap());
    let collected = place.store.gc().unwrap();
    assert_eq!((collected.blobs, collected.layers), (3, 0), "the container still needs the layer");
    let again = open(&place.path("store")).rootfs_of("user").unwrap().unwrap();
    assert_eq!(fs::read(again.path.join("data/kept")).unwrap(), b"kept");
    assert!(again.path.join("written").exists());
    place.store.remove_rootfs("user").unwrap();
    place.store.remove_rootfs("user").unwrap();
    assert_eq!(place.store.gc().unwrap().layers, 1);
    assert!(place.store.get(&tagged.reference).unwrap().is_none());
    let built = place.build("example.org/app:1", Compression::Zstd);
    assert_eq!(place.files(&built, "anew").len(), place.files(&built, "anew2").len());
}

#[test]
fn what_is_not_an_image_is_refused() {
    let place = Place::new();
    let check = |path: &Path, words: &str| {
        let error = place.store.load(path, None).unwrap_err();
        assert!(error.to_string().contains(words), "{error} is not about {words}");
        assert!(place.store.list().unwrap().is_empty());
    };
    let empty = place.path("empty");
    fs::create_dir(&empty).unwrap();
    check(&empty, "neither index.json");
    fs::write(place.path("noise.tar"), [7; 2000]).unwrap();
    check(&place.path("noise.tar"), "refused");
    let image = place.build("example.org/app:1", Compression::None);
    place.store.save(&image.reference, &place.path("good.tar")).unwrap();
    place.store.remove(&image.reference).unwrap();
    place.store.gc().unwrap();
    let good = fs::read(place.path("good.tar")).unwrap();
    let content = good.windows(4).position(|four| four == b"kept").unwrap();
    let mut bad = good.clone();
    bad[content] ^= 1;
    fs::write(place.path("bad.tar"), bad).unwrap();
    check(&place.path("bad.tar"), "should have digest");
    fs::write(place.path("cut.tar"), &good[..good.len() / 2]).unwrap();
    check(&place.path("cut.tar"), "");
    place.store.load(&place.path("good.tar"), None).unwrap();
}
