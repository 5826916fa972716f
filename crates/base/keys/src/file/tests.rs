//! Key files: golden bytes, every damaged byte, permissions, races.
#![allow(clippy::unwrap_used, reason = "tests")]

use proptest::prelude::{any, proptest};
use proptest::{prop_assert, prop_assert_eq};

use super::*;
use crate::{NodeKey, OwnerKey};

/// Version 1, for ever. The checksums were computed by an independent implementation of BLAKE3.
const NODE_V1: &str = "atoll-node-key v1 aaaqeayeaudaocajbifqydiob4ibceqtcqkrmfyydenbwha5dypq 4sj7jdkrhiuudwxd\n";
const OWNER_V1: &str = "atoll-owner-key v1 aaaqeayeaudaocajbifqydiob4ibceqtcqkrmfyydenbwha5dypq y2snwvbrim57rlle\n";

fn seed() -> [u8; 32] {
    std::array::from_fn(|i| u8::try_from(i).unwrap())
}

fn put(path: &Path, text: &[u8], mode: u32) {
    let _ = fs::remove_file(path);
    fs::write(path, text).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

#[test]
fn golden_lines() {
    assert_eq!(*render(KeyKind::Node, &seed()), NODE_V1);
    assert_eq!(*render(KeyKind::Owner, &seed()), OWNER_V1);
    assert_eq!(*parse(NODE_V1.as_bytes(), KeyKind::Node).unwrap(), seed());
    assert_eq!(*parse(OWNER_V1.trim_end().as_bytes(), KeyKind::Owner).unwrap(), seed());
}

#[test]
fn refusals_say_what_to_do() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("node.key");
    let check = |text: &[u8], mode: u32, expect: &str| {
        put(&path, text, mode);
        let error = NodeKey::load(&path).unwrap_err().to_string();
        assert_eq!(error.replace(path.to_str().unwrap(), "FILE"), expect);
    };
    let damaged = |reason: &str| {
        format!(
            "the node key in FILE is damaged: {reason}; put back a copy of it, or move it away and let a new key be made, \
             which gives this node a new id"
        )
    };
    check(b"", 0o600, &damaged("it is empty"));
    check(b" \n", 0o600, &damaged("it is empty"));
    check(b"\xff\xfe", 0o600, &damaged("it is not text"));
    check(b"hello", 0o600, &damaged("it does not start like a key file"));
    check(b"atoll-node-key", 0o600, &damaged("it names no version"));
    check(&NODE_V1.as_bytes()[..40], 0o600, &damaged("the key in it is cut short or changed"));
    check(&NODE_V1.as_bytes()[..80], 0o600, &damaged("its checksum does not match"));
    check(NODE_V1.repeat(2).as_bytes(), 0o600, &damaged("its checksum does not match"));
    check(NODE_V1.repeat(20).as_bytes(), 0o600, &damaged("its checksum does not match"));
    check(
        NODE_V1.replace("v1", "v2").as_bytes(),
        0o600,
        "the node key in FILE has format v2, and this program reads v1: update atoll",
    );
    check(
        OWNER_V1.as_bytes(),
        0o600,
        "FILE holds an owner key where a node key is expected; were two files exchanged?",
    );
    check(
        b"-----BEGIN OPENSSH PRIVATE KEY-----\n",
        0o600,
        "FILE holds a PEM file of another program where a node key is expected; were two files exchanged?",
    );
    check(NODE_V1.as_bytes(), 0o640, "FILE is open to other users (mode 0640); run: chmod 600 FILE");
    check(NODE_V1.as_bytes(), 0o602, "FILE is open to other users (mode 0602); run: chmod 600 FILE");
    put(&path, NODE_V1.as_bytes(), 0o400);
    assert_eq!(*NodeKey::load(&path).unwrap().secret_bytes(), seed());
    assert!(matches!(OwnerKey::load(&path), Err(KeyFileError::Foreign { found: "a node key", .. })));
}

#[test]
fn what_is_not_there_or_no_file_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("none");
    assert!(matches!(NodeKey::load(&path), Err(KeyFileError::NotFound { .. })));
    assert!(matches!(NodeKey::load(directory.path()), Err(KeyFileError::Corrupt { reason: "it is not a file", .. })));
    rustix::fs::mknodat(CWD, &path, rustix::fs::FileType::Fifo, rustix::fs::Mode::RWXU, 0).unwrap();
    assert!(matches!(NodeKey::load(&path), Err(KeyFileError::Corrupt { reason: "it is not a file", .. })));
    let nowhere = path.join("node.key");
    assert!(matches!(NodeKey::create(&nowhere), Err(KeyFileError::Io { action: "create", .. })));
    assert!(matches!(NodeKey::create(Path::new("/")), Err(KeyFileError::Io { .. } | KeyFileError::Exists { .. })));
}

#[test]
fn created_once_with_mode_0600_and_nothing_left_beside() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("owner.key");
    let key = OwnerKey::load_or_create(&path).unwrap();
    assert_eq!(OwnerKey::load_or_create(&path).unwrap().id(), key.id());
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o7777, 0o600);
    let before = fs::read(&path).unwrap();
    assert!(matches!(OwnerKey::create(&path), Err(KeyFileError::Exists { .. })));
    assert_eq!(fs::read(&path).unwrap(), before);
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
}

#[test]
fn a_damaged_file_is_never_replaced() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("node.key");
    put(&path, b"", 0o600);
    assert!(matches!(NodeKey::load_or_create(&path), Err(KeyFileError::Corrupt { .. })));
    assert_eq!(fs::read(&path).unwrap(), b"");
}

#[test]
fn of_many_makers_all_get_the_same_key() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("node.key");
    let ids: Vec<_> = std::thread::scope(|scope| {
        let make = || NodeKey::load_or_create(&path).unwrap().id();
        let makers: Vec<_> = (0..8).map(|_| scope.spawn(make)).collect();
        makers.into_iter().map(|maker| maker.join().unwrap()).collect()
    });
    assert!(ids.iter().all(|id| *id == ids[0]));
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
}

#[test]
fn paths_are_quoted_for_the_shell() {
    assert_eq!(shell_quoted(Path::new("/a/b-c_d.key")), "/a/b-c_d.key");
    assert_eq!(shell_quoted(Path::new("/my keys/it's")), r"'/my keys/it'\''s'");
}

/// Every change of one byte, and every cut, is noticed.
#[test]
fn damage_is_noticed_at_every_byte() {
    let line = NODE_V1.trim_end().as_bytes();
    for at in 0..line.len() {
        assert!(parse(&line[..at], KeyKind::Node).is_err(), "cut at {at}");
        for flip in [1, 2, 0x20, 0x80] {
            let mut changed = line.to_vec();
            changed[at] ^= flip;
            assert!(parse(&changed, KeyKind::Node).is_err(), "byte {at} xor {flip}");
        }
    }
}

proptest! {
    #[test]
    fn every_seed_is_read_back(seed in any::<[u8; 32]>()) {
        for kind in [KeyKind::Node, KeyKind::Owner] {
            let line = render(kind, &seed);
            prop_assert_eq!(*parse(line.as_bytes(), kind).unwrap(), seed);
            prop_assert!(line.len() < FILE_BYTES_MAX);
        }
    }

    #[test]
    fn arbitrary_files_never_panic(bytes in any::<Vec<u8>>(), text in "atoll-(node|owner)-key v[0-9]{0,6} [a-z2-7]{50,54} .{0,20}") {
        prop_assert!(parse(&bytes, KeyKind::Node).is_err());
        prop_assert!(parse(text.as_bytes(), KeyKind::Owner).is_err());
    }
}
