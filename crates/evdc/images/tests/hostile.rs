//! Layers that try to get out, or to cost too much.
//!
//! Needs root, as unpacking does.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::Path;

use atoll_ids::ByteCount;
use atoll_images::{ImageError, Limits, Unpacked, unpack_layer};
use proptest::prelude::*;
use tar::{EntryType, Header};

/// One entry, as bytes that a well-meaning writer would refuse to write.
fn entry(kind: EntryType, path: &str, link: &str, content: &[u8]) -> Vec<u8> {
    let mut header = Header::new_ustar();
    header.as_old_mut().name[..path.len()].copy_from_slice(path.as_bytes());
    header.as_old_mut().linkname[..link.len()].copy_from_slice(link.as_bytes());
    header.set_entry_type(kind);
    header.set_mode(0o4755);
    header.set_uid(1000);
    header.set_gid(1001);
    header.set_mtime(86_400);
    header.set_size(content.len() as u64);
    header.set_cksum();
    let mut bytes = header.as_bytes().to_vec();
    bytes.extend_from_slice(content);
    bytes.resize(bytes.len().next_multiple_of(512), 0);
    bytes
}

fn file(path: &str, content: &str) -> Vec<u8> {
    entry(EntryType::Regular, path, "", content.as_bytes())
}

fn pax(records: &[(&str, &str)]) -> Vec<u8> {
    let mut body = String::new();
    for (key, value) in records {
        let rest = format!(" {key}={value}\n");
        let mut length = rest.len() + 1;
        while length != length.to_string().len() + rest.len() {
            length = length.to_string().len() + rest.len();
        }
        body += &format!("{length}{rest}");
    }
    entry(EntryType::XHeader, "pax", "", body.as_bytes())
}

/// A directory for the layer beside something that must stay as it is.
struct Place(tempfile::TempDir);

impl Place {
    fn new() -> Self {
        assert!(
            rustix::process::geteuid().is_root(),
            "unpacking needs root: run with sudo -E cargo test -p atoll-images"
        );
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("layer")).unwrap();
        fs::write(dir.path().join("secret"), "untouched").unwrap();
        Self(dir)
    }

    fn layer(&self) -> std::path::PathBuf {
        self.0.path().join("layer")
    }

    fn unpack(&self, entries: &[Vec<u8>], limits: &Limits) -> Result<Unpacked, ImageError> {
        let mut archive = entries.concat();
        archive.resize(archive.len() + 1024, 0);
        let result = unpack_layer(archive.as_slice(), &self.layer(), limits);
        let beside: Vec<_> = fs::read_dir(self.0.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(beside.len(), 2, "something appeared outside: {beside:?}");
        assert_eq!(fs::read_to_string(self.0.path().join("secret")).unwrap(), "untouched");
        result
    }
}

#[test]
fn what_tries_to_leave_is_refused() {
    let check = |entries: &[Vec<u8>], words: &str| {
        let error = Place::new().unpack(entries, &Limits::default()).unwrap_err();
        assert!(error.to_string().contains(words), "{error} is not about {words}");
    };
    let symlink = |path: &str, target: &str| entry(EntryType::Symlink, path, target, b"");
    let link = |path: &str, target: &str| entry(EntryType::Link, path, target, b"");
    check(&[file("../secret", "x")], "out of the layer");
    check(&[file("a/../../secret", "x")], "out of the layer");
    check(&[pax(&[("path", "../secret")]), file("ok", "x")], "out of the layer");
    check(&[entry(EntryType::GNULongName, "././@LongLink", "", b"../secret\0"), file("ok", "x")], "out of the layer");
    check(&[link("stolen", "../secret")], "out of the layer");
    check(&[link("stolen", "/secret")], "No such file");
    check(&[symlink("up", ".."), link("stolen", "up/secret")], "No such file");
    check(&[entry(EntryType::Directory, "d", "", b""), link("d2", "d")], "cannot link");
    check(&[entry(EntryType::Char, "null", "", b"")], "device node");
    check(&[entry(EntryType::Block, "sda", "", b"")], "device node");
    check(&[file(".wh.", "")], "whiteout of nothing");
    check(&[file(".wh...", "")], "whiteout of nothing");
    check(&[symlink("loop", "loop"), file("loop/x", "")], "cannot");
    check(&[file("f", ""), file("f/x", "")], "cannot");
    check(&[file("d/f", ""), file("d", "")], "replaces a directory");
    check(&[pax(&[("size", "4000000000")]), file("f", "x")], "disagree");
    check(&[pax(&[("GNU.sparse.major", "1")]), file("f", "x")], "sparse");
    check(&[entry(EntryType::GNUSparse, "f", "", b"")], "not known");
    check(&[pax(&[("uid", "99999999999")]), file("f", "x")], "no user or group");
    check(&[file("f", &"whole".repeat(500))[..600].to_vec()], "");
}

/// Links may lead anywhere: they are resolved inside the layer, so what is written through them stays in it.
#[test]
fn links_lead_nowhere_else() {
    let place = Place::new();
    let outside = place.0.path().display().to_string();
    let entries = [
        entry(EntryType::Symlink, "up", "../../../..", b""),
        entry(EntryType::Symlink, "out", &outside[..outside.len().min(99)], b""),
        entry(EntryType::Symlink, "etc", "/", b""),
        file("up/secret", "inside"),
        file("etc/inside", "x"),
    ];
    place.unpack(&entries, &Limits::default()).unwrap();
    assert_eq!(fs::read_to_string(place.layer().join("secret")).unwrap(), "inside");
    assert!(place.layer().join("inside").exists());
    let through = place.unpack(&[file("out/secret", "x")], &Limits::default());
    assert!(through.is_err() || fs::read_to_string(place.layer().join(&outside[1..]).join("secret")).unwrap() == "x");
    // A file that comes twice replaces the link of that name, and not what the link points to.
    place.unpack(&[entry(EntryType::Symlink, "s", &outside, b""), file("s", "plain")], &Limits::default()).unwrap();
    assert!(fs::symlink_metadata(place.layer().join("s")).unwrap().is_file());
}

#[test]
fn what_costs_too_much_is_refused() {
    let limits = Limits {
        layer_bytes_max: ByteCount(100),
        layer_entries_max: 5,
        path_bytes_max: 64,
        header_bytes_max: 600,
        ..Limits::default()
    };
    let check = |entries: &[Vec<u8>], words: &str| {
        let error = Place::new().unpack(entries, &limits).unwrap_err();
        assert!(error.to_string().contains(words), "{error} is not about {words}");
    };
    check(&[file("a", &"x".repeat(60)), file("b", &"x".repeat(60))], "files have more than");
    check(&vec![file("a", ""); 6], "more than 5 entries");
    check(&[file(&"a/".repeat(40), "")], "too long");
    check(&[entry(EntryType::GNULongName, "l", "", &[b'a'; 700]), file("a", "")], "extended header");
    check(&[entry(EntryType::XGlobalHeader, "g", "", &[b'a'; 700])], "extended header");
    check(&[pax(&[("path", &"a".repeat(500))]), file("a", "")], "too long");
}

#[test]
fn a_decent_layer_is_as_it_was() {
    let place = Place::new();
    let xattr = pax(&[
        ("SCHILY.xattr.user.note", "kept"),
        ("SCHILY.xattr.trusted.overlay.redirect", "/etc"),
        ("mtime", "172800.25"),
        ("path", "deep/in/there/file"),
    ]);
    let entries = [
        entry(EntryType::Directory, "./", "", b""),
        xattr,
        file("short", "content"),
        entry(EntryType::Link, "hard", "deep/in/there/file", b""),
        entry(EntryType::Symlink, "soft", "/deep/in", b""),
        entry(EntryType::Fifo, "fifo", "", b""),
        file("deep/.wh.gone", ""),
        file("deep/in/.wh..wh..opq", ""),
        file("deep/.wh..wh.plnk", ""),
    ];
    let unpacked = place.unpack(&entries, &Limits::default()).unwrap();
    assert_eq!(unpacked, Unpacked { entries: 8, bytes: 7 });
    let at = |path: &str| place.layer().join(path);
    let stat = fs::metadata(at("deep/in/there/file")).unwrap();
    assert_eq!((stat.uid(), stat.gid(), stat.permissions().mode() & 0o7777), (1000, 1001, 0o4755));
    assert_eq!((stat.mtime(), stat.mtime_nsec(), stat.nlink()), (172_800, 250_000_000, 2));
    assert_eq!(fs::metadata(place.layer()).unwrap().mtime(), 86_400);
    let attribute = |path: &str, name: &str| {
        let mut value = [0; 100];
        rustix::fs::getxattr(at(path), name, &mut value).map(|length| value[..length].to_vec()).ok()
    };
    assert_eq!(attribute("hard", "user.note").as_deref(), Some(&b"kept"[..]));
    assert_eq!(attribute("hard", "trusted.overlay.redirect"), None);
    assert_eq!(attribute("deep/in", "trusted.overlay.opaque").as_deref(), Some(&b"y"[..]));
    let whiteout = fs::symlink_metadata(at("deep/gone")).unwrap();
    assert!(whiteout.file_type().is_char_device() && whiteout.rdev() == 0);
    assert_eq!(fs::read_link(at("soft")).unwrap(), Path::new("/deep/in"));
    assert!(fs::symlink_metadata(at("fifo")).unwrap().file_type().is_fifo());
    assert_eq!(fs::read_dir(at("deep")).unwrap().count(), 2);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]
    /// Whatever the bytes, nothing appears outside and nothing panics.
    #[test]
    fn any_damage_stays_inside(at in 0_usize..4096, value in any::<u8>(), cut in 0_usize..4096) {
        let place = Place::new();
        let mut archive = [
            pax(&[("path", "a/b")]),
            file("x", "content"),
            entry(EntryType::Symlink, "s", "..", b""),
            file("s/y", ""),
            entry(EntryType::Link, "l", "a/b", b""),
        ].concat();
        let at = at % archive.len();
        archive[at] = value;
        archive.truncate(archive.len() - cut % archive.len());
        let _ = place.unpack(&[archive], &Limits::default());
    }
}
