//! The tree against a simple model, its journal cut at every record, checkpoints.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use proptest::prelude::*;

use super::change::FrameReader;
use super::names::{Make, Rename};
use super::ops::{SetAttr, XattrMode};
use super::*;

const NOW: Time = Time { seconds: 1, nanoseconds: 2 };

fn make(kind: Kind) -> Make {
    Make { kind, perm: 0o755, uid: 1, gid: 2, rdev: 0, target: Vec::new() }
}

/// What can be seen of a tree: paths with what is there, and the content of files.
type Seen = BTreeMap<String, (Attr, Vec<u8>)>;

fn see(tree: &Tree) -> Seen {
    let mut seen = Seen::new();
    walk(tree, ROOT, String::new(), &mut seen);
    seen
}

fn walk(tree: &Tree, ino: Ino, path: String, seen: &mut Seen) {
    let mut content = Vec::new();
    match &tree.inode(ino).unwrap().body {
        Body::File(extents) => {
            for (at, extent) in extents.iter() {
                content.extend_from_slice(format!("{at}+{}", extent.len).as_bytes());
                if let Place::Memory(bytes) = &extent.place {
                    content.extend_from_slice(bytes);
                }
            }
        }
        Body::Symlink(target) => content.clone_from(target),
        Body::Directory(directory) => {
            for (_, name, child) in directory.after(0) {
                walk(tree, child, format!("{path}/{}", String::from_utf8_lossy(name)), seen);
            }
        }
        Body::Other => {}
    }
    seen.insert(path, (tree.attr(ino).unwrap(), content));
}

/// Link counts, parents and sums must follow from the names and extents.
fn check_invariants(tree: &Tree) {
    let mut names: BTreeMap<Ino, u32> = BTreeMap::new();
    let mut subdirs: BTreeMap<Ino, u32> = BTreeMap::new();
    let (mut used, mut live) = (0, BTreeMap::<BlobId, u64>::new());
    for (&ino, inode) in &tree.inodes {
        match &inode.body {
            Body::Directory(directory) => {
                for (_, _, child) in directory.after(0) {
                    *names.entry(child).or_insert(0) += 1;
                    if let Body::Directory(below) = &tree.inodes[&child].body {
                        assert_eq!(below.parent, ino);
                        *subdirs.entry(ino).or_insert(0) += 1;
                    }
                }
            }
            Body::File(extents) => {
                for (_, extent) in extents.iter() {
                    used += extent.len;
                    if let Place::Stored { blob, .. } = extent.place {
                        *live.entry(blob).or_insert(0) += extent.len;
                    }
                }
            }
            Body::Symlink(_) | Body::Other => {}
        }
    }
    for (ino, inode) in &tree.inodes {
        let expected = match inode.attr.kind {
            Kind::Directory if *ino == ROOT || names.contains_key(ino) => 2 + subdirs.get(ino).unwrap_or(&0),
            Kind::Directory => 0,
            _ => *names.get(ino).unwrap_or(&0),
        };
        assert_eq!(inode.attr.nlink, expected, "links of {ino}");
    }
    assert_eq!(tree.used_bytes, used);
    for (id, blob) in &tree.blobs {
        assert_eq!(blob.live, live.get(id).copied().unwrap_or(0), "live bytes of blob {id}");
    }
}

/// A name, as (directory, name), of a small world in which things meet.
type Path = (u8, u8);

#[derive(Clone, Debug)]
enum Op {
    Make(Path, bool),
    Symlink(Path),
    Link(Path, Path),
    Unlink(Path),
    Rmdir(Path),
    Rename(Path, Path, u8),
    Write(Path, u8, u8),
    Truncate(Path, u8),
    Xattr(Path, u8),
    Flush(bool),
}

fn path() -> impl Strategy<Value = Path> {
    (0u8..4, 0u8..4)
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        3 => (path(), any::<bool>()).prop_map(|(path, dir)| Op::Make(path, dir)),
        1 => path().prop_map(Op::Symlink),
        1 => (path(), path()).prop_map(|(from, to)| Op::Link(from, to)),
        1 => path().prop_map(Op::Unlink),
        1 => path().prop_map(Op::Rmdir),
        3 => (path(), path(), 0u8..3).prop_map(|(from, to, how)| Op::Rename(from, to, how)),
        3 => (path(), any::<u8>(), 1u8..50).prop_map(|(path, at, len)| Op::Write(path, at, len)),
        1 => (path(), any::<u8>()).prop_map(|(path, size)| Op::Truncate(path, size)),
        1 => (path(), 0u8..3).prop_map(|(path, name)| Op::Xattr(path, name)),
        1 => any::<bool>().prop_map(Op::Flush),
    ]
}

/// The directory that a number means: the root or a directory in it, if it is one.
fn dir(tree: &Tree, number: u8) -> Ino {
    let found = tree.lookup(ROOT, format!("n{number}").as_bytes());
    found.ok().filter(|(_, attr)| attr.kind == Kind::Directory).map_or(ROOT, |(ino, _)| ino)
}

fn name(number: u8) -> Vec<u8> {
    format!("n{number}").into_bytes()
}

fn find(tree: &Tree, path: Path) -> Result<Ino, Errno> {
    Ok(tree.lookup(dir(tree, path.0), &name(path.1))?.0)
}

/// Does it; most operations of a random script are refused, which must change nothing.
fn run(tree: &mut Tree, op: &Op, step: u8) -> Result<(), Errno> {
    match *op {
        Op::Make(path, is_dir) => {
            let kind = if is_dir { Kind::Directory } else { Kind::File };
            tree.make(dir(tree, path.0), &name(path.1), make(kind), NOW).map(drop)
        }
        Op::Symlink(path) => {
            let link = Make { target: vec![step], ..make(Kind::Symlink) };
            tree.make(dir(tree, path.0), &name(path.1), link, NOW).map(drop)
        }
        Op::Link(from, to) => {
            let ino = find(tree, from)?;
            tree.link(ino, dir(tree, to.0), &name(to.1), NOW).map(drop)
        }
        Op::Unlink(path) => tree.unlink(dir(tree, path.0), &name(path.1), NOW),
        Op::Rmdir(path) => tree.rmdir(dir(tree, path.0), &name(path.1), NOW),
        Op::Rename(from, to, how) => {
            let how = [Rename::Replace, Rename::NoReplace, Rename::Exchange][usize::from(how)];
            let (a, b) = (dir(tree, from.0), dir(tree, to.0));
            tree.rename((a, &name(from.1)), (b, &name(to.1)), how, NOW)
        }
        Op::Write(path, at, len) => {
            let bytes = Bytes::from(vec![step; usize::from(len)]);
            tree.write(find(tree, path)?, at.into(), bytes, NOW)
        }
        Op::Truncate(path, size) => {
            let set = SetAttr { size: Some(size.into()), ..SetAttr::default() };
            tree.set_attr(find(tree, path)?, set, NOW).map(drop)
        }
        Op::Xattr(path, number) => {
            let attribute = [b"user.".to_vec(), name(number)].concat();
            tree.set_xattr(find(tree, path)?, &attribute, &[step], XattrMode::Either, NOW)
        }
        Op::Flush(_) => Ok(()),
    }
}

/// A zstor that keeps segments and blobs in memory.
#[derive(Default)]
struct Kept {
    checkpoint: Option<(Vec<u8>, u64)>,
    journal: Vec<Transaction>,
    blobs: HashMap<BlobId, Vec<u8>>,
}

impl Kept {
    fn flush(&mut self, tree: &mut Tree, whole: bool) {
        let snapshot = tree.snapshot(whole);
        let mut last = snapshot.attrs.clone();
        for pack in tree.pack(&snapshot.parts, 64) {
            let manifest = BlobManifest::from_bytes(Bytes::from(pack.blob.to_le_bytes().to_vec()));
            last.push(Change::Blob { blob: pack.blob, manifest: manifest.clone(), size: pack.len });
            last.extend(pack.changes());
            let bytes: Vec<u8> = pack.parts.iter().flat_map(|part| part.bytes.to_vec()).collect();
            self.blobs.insert(pack.blob, bytes);
            tree.settle(&pack, &manifest, false).unwrap();
        }
        tree.sweep();
        if let Some(whole) = snapshot.whole {
            self.checkpoint = Some(whole);
            self.journal.clear();
        } else {
            self.journal.extend(snapshot.transactions);
        }
        self.journal.push(Transaction(last));
        assert!(tree.dirty.is_empty() && tree.dirty_bytes == 0);
    }

    /// What a mount after so many records of the journal sees.
    fn mount(&self, records: usize) -> Tree {
        let mut tree = Tree::default();
        if let Some((frames, count)) = &self.checkpoint {
            let mut reader = FrameReader::default();
            // In pieces, as stripes come.
            for piece in frames.chunks(100) {
                reader.push(piece);
                reader.take().unwrap().iter().for_each(|transaction| tree.replay(transaction, None).unwrap());
            }
            reader.finish(*count).unwrap();
        }
        for transaction in &self.journal[..records] {
            tree.replay(transaction, None).unwrap();
        }
        tree
    }

    /// The bytes of a file.
    fn content(&self, tree: &Tree, ino: Ino) -> Vec<u8> {
        let size = tree.attr(ino).unwrap().size;
        let mut all = vec![0; size as usize];
        for (at, extent) in tree.read(ino, 0, size).unwrap().0 {
            let bytes = match &extent.place {
                Place::Memory(bytes) => bytes.to_vec(),
                Place::Stored { blob, from } => {
                    self.blobs[blob][*from as usize..(*from + extent.len) as usize].to_vec()
                }
            };
            all[at as usize..at as usize + bytes.len()].copy_from_slice(&bytes);
        }
        all
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    /// Whatever is done and whenever it is flushed, a mount sees exactly what was there at the last flush; and every cut of the journal gives a sound tree.
    #[test]
    fn a_mount_sees_what_was_flushed(script in prop::collection::vec(op(), 1..60)) {
        let mut tree = Tree::format(NOW);
        let mut kept = Kept::default();
        // Content by inode, as plain bytes.
        let mut model: BTreeMap<Ino, Vec<u8>> = BTreeMap::new();
        for (step, op) in (0u8..).zip(&script) {
            let before = see(&tree);
            let target = match op {
                Op::Write(path, ..) | Op::Truncate(path, _) => find(&tree, *path).ok(),
                _ => None,
            };
            let done = run(&mut tree, op, step);
            match (op, target, done) {
                (_, _, Err(_)) => prop_assert_eq!(&before, &see(&tree), "refused but changed: {:?}", op),
                (Op::Write(_, at, len), Some(ino), Ok(())) => {
                    let content = model.entry(ino).or_default();
                    let (at, end) = (usize::from(*at), usize::from(*at) + usize::from(*len));
                    content.resize(content.len().max(end), 0);
                    content[at..end].fill(step);
                }
                (Op::Truncate(_, size), Some(ino), Ok(())) => model.entry(ino).or_default().resize((*size).into(), 0),
                _ => {}
            }
            check_invariants(&tree);
            if let Op::Flush(whole) = op {
                kept.flush(&mut tree, *whole);
                let mounted = kept.mount(kept.journal.len());
                check_invariants(&mounted);
                prop_assert_eq!(see(&mounted), see(&tree));
                let dead = |tree: &Tree| tree.dead_blobs().into_iter().collect::<BTreeSet<_>>();
                prop_assert_eq!(dead(&mounted), dead(&tree));
            }
            for (&ino, content) in &model {
                if tree.inodes.contains_key(&ino) {
                    prop_assert_eq!(&kept.content(&tree, ino), content);
                }
            }
        }
        kept.flush(&mut tree, false);
        let first = usize::from(kept.checkpoint.is_none());
        for records in first..=kept.journal.len() {
            check_invariants(&kept.mount(records));
        }
        let mounted = kept.mount(kept.journal.len());
        prop_assert_eq!(see(&mounted), see(&tree));
    }

    #[test]
    fn decoders_do_not_panic(bytes in prop::collection::vec(any::<u8>(), 0..200), frames in 0u64..3) {
        let _ = change::decode_segment(&bytes);
        let mut segment = change::Header { data_bytes: 0, frames }.encode();
        segment.extend_from_slice(&bytes);
        let _ = change::decode_segment(&segment);
    }
}

#[test]
fn what_is_unlinked_while_held_stays_until_released() {
    let mut tree = Tree::format(NOW);
    let (ino, _) = tree.make(ROOT, b"a", make(Kind::File), NOW).unwrap();
    tree.hold(ino);
    tree.hold(ino);
    tree.write(ino, 0, Bytes::from_static(b"still here"), NOW).unwrap();
    tree.unlink(ROOT, b"a", NOW).unwrap();
    assert_eq!(tree.attr(ino).unwrap().nlink, 0);
    tree.release(ino, 1);
    assert_eq!(tree.read(ino, 0, 5).unwrap().0.len(), 1);
    tree.release(ino, 1);
    assert_eq!(tree.attr(ino), Err(Errno::NotFound));
    assert_eq!((tree.used_bytes, tree.dirty_bytes), (0, 0));
}

#[test]
fn a_listing_continues_while_names_come_and_go() {
    let mut tree = Tree::format(NOW);
    for number in 0..20 {
        tree.make(ROOT, &name(number), make(Kind::File), NOW).unwrap();
    }
    let first = tree.list(ROOT, 0, 7).unwrap();
    assert_eq!((first[0].name.as_slice(), first[1].name.as_slice()), (b".".as_slice(), b"..".as_slice()));
    for number in 0..5 {
        tree.unlink(ROOT, &name(number), NOW).unwrap();
    }
    tree.make(ROOT, b"later", make(Kind::File), NOW).unwrap();
    let rest = tree.list(ROOT, first[6].number, 100).unwrap();
    let names: Vec<Vec<u8>> = rest.into_iter().map(|listed| listed.name).collect();
    let expected: Vec<Vec<u8>> = (5..20).map(name).chain([b"later".to_vec()]).collect();
    assert_eq!(names, expected);
}

#[test]
fn refusals() {
    let mut tree = Tree::format(NOW);
    let (dir, _) = tree.make(ROOT, b"d", make(Kind::Directory), NOW).unwrap();
    let (file, _) = tree.make(dir, b"f", make(Kind::File), NOW).unwrap();
    let (below, _) = tree.make(dir, b"e", make(Kind::Directory), NOW).unwrap();
    assert_eq!(tree.rmdir(ROOT, b"d", NOW), Err(Errno::NotEmpty));
    assert_eq!(tree.unlink(ROOT, b"d", NOW), Err(Errno::IsDirectory));
    assert_eq!(tree.rmdir(dir, b"f", NOW), Err(Errno::NotDirectory));
    assert_eq!(tree.rename((ROOT, b"d"), (below, b"x"), Rename::Replace, NOW), Err(Errno::Invalid));
    assert_eq!(tree.link(dir, ROOT, b"x", NOW), Err(Errno::NotPermitted));
    assert_eq!(tree.make(ROOT, &[b'a'; 256], make(Kind::File), NOW).unwrap_err(), Errno::NameTooLong);
    assert_eq!(tree.make(file, b"a", make(Kind::File), NOW).unwrap_err(), Errno::NotDirectory);
    assert_eq!(tree.set_xattr(file, b"system.posix_acl_access", b"", XattrMode::Either, NOW), Err(Errno::NotSupported));
    assert_eq!(tree.set_xattr(file, b"user.a", b"", XattrMode::Replace, NOW), Err(Errno::NoData));
    assert_eq!(tree.write(file, u64::MAX, Bytes::from_static(b"x"), NOW), Err(Errno::TooLarge));
    assert_eq!(tree.seek(file, 0, false), Err(Errno::Invalid));
}

#[test]
fn holes_are_found() {
    let mut tree = Tree::format(NOW);
    let (file, _) = tree.make(ROOT, b"f", make(Kind::File), NOW).unwrap();
    tree.write(file, 10, Bytes::from_static(b"0123456789"), NOW).unwrap();
    tree.write(file, 20, Bytes::from_static(b"0123456789"), NOW).unwrap();
    let set = SetAttr { size: Some(50), ..SetAttr::default() };
    tree.set_attr(file, set, NOW).unwrap();
    for (at, hole, expected) in [(0, false, 10), (0, true, 0), (12, true, 30), (12, false, 12), (35, true, 35)] {
        assert_eq!(tree.seek(file, at, hole), Ok(expected), "from {at}, hole: {hole}");
    }
    assert_eq!(tree.seek(file, 30, false), Err(Errno::Invalid));
}

/// What version 1 wrote must be read for ever.
#[test]
fn version_1_of_a_record_is_still_read() {
    let attr = Attr { size: 300, ..Tree::format(NOW).attr(ROOT).unwrap() };
    let manifest = BlobManifest::from_bytes(Bytes::from_static(b"manifest"));
    let all = Transaction(vec![
        Change::Inode { ino: 1, attr },
        Change::Gone { ino: 2 },
        Change::Entry { dir: 1, name: b"a".to_vec(), ino: 3 },
        Change::NoEntry { dir: 1, name: b"b".to_vec() },
        Change::Target { ino: 4, target: b"c".to_vec() },
        Change::Xattr { ino: 5, name: b"user.d".to_vec(), value: Some(vec![6]) },
        Change::Cut { ino: 7, from: 8 },
        Change::Stored { ino: 9, at: 10, len: 11, blob: 12, from: 13 },
        Change::Blob { blob: 14, manifest, size: 15 },
        Change::Own { blob: 16, size: 17 },
        Change::BlobGone { blob: 18 },
    ]);
    assert_eq!(atoll_wire::encode(&all), TRANSACTION_V1);
    assert_eq!(atoll_wire::decode::<Transaction>(TRANSACTION_V1).unwrap(), all);
    let header = change::Header { data_bytes: 258, frames: 3 };
    assert_eq!(header.encode()[..17], [1, 0, 0, 0, 0, 0, 0, 0, 2, 1, 0, 0, 0, 0, 0, 0, 3]);
    assert_eq!(change::Header::decode(&header.encode()), Ok(header));
}

const TRANSACTION_V1: &[u8] = b"\x01\x00\x0b\x00\x01\x01\xed\x03\x00\x00\x02\xac\x02\x00\x02\x02\x02\x02\x02\x02\x01\x02\x02\x01\x01a\
    \x03\x03\x01\x01b\x04\x04\x01c\x05\x05\x06user.d\x01\x01\x06\x06\x07\x08\x07\t\n\x0b\x0c\r\x08\x0e\x08manifest\x0f\t\x10\x11\n\x12";
