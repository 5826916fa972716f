//! Directory trees: one made up for a demo, and the digest by which two trees are compared byte for byte.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read as _, Write as _};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

/// Read and written at once.
const CHUNK_BYTES: usize = 1 << 20;

/// What tree to make up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TreeSpec {
    /// Files in all.
    pub files: usize,
    /// Bytes in all, near enough.
    pub bytes: u64,
    /// Two trees of one seed are equal.
    pub seed: u64,
}

/// How many of the files are big; they share nine tenths of the bytes.
const BIG_FILES: usize = 4;

/// Makes up a tree: a few big files and many small ones in nested folders, every second one text and the others incompressible.
///
/// # Errors
/// What the file system refuses, and [`io::ErrorKind::Interrupted`] once `stop` is set.
pub fn generate(folder: &Path, spec: TreeSpec, stop: &AtomicBool) -> io::Result<()> {
    let mut random = blake3::Hasher::new().update(&spec.seed.to_le_bytes()).finalize_xof();
    let big = BIG_FILES.min(spec.files);
    let small = spec.files - big;
    let big_bytes = if small == 0 { spec.bytes } else { spec.bytes / 10 * 9 };
    for index in 0..big {
        let path = folder.join(format!("big/{index}.{}", extension(index)));
        write_file(&path, big_bytes / big as u64, index, &mut random, stop)?;
    }
    let mean = if small == 0 { 0 } else { (spec.bytes - big_bytes) / small as u64 };
    for index in 0..small {
        let mut draw = [0; 8];
        random.fill(&mut draw);
        // Between nothing and twice the mean, so that empty files and odd lengths are among them.
        let size = if mean == 0 { 0 } else { u64::from_le_bytes(draw) % (2 * mean + 1) };
        let path = folder.join(format!("small/{}/{}/{index}.{}", index % 16, index / 16 % 16, extension(index)));
        write_file(&path, size, index, &mut random, stop)?;
    }
    Ok(())
}

fn extension(index: usize) -> &'static str {
    if index.is_multiple_of(2) { "txt" } else { "bin" }
}

fn write_file(
    path: &Path,
    size: u64,
    index: usize,
    random: &mut blake3::OutputReader,
    stop: &AtomicBool,
) -> io::Result<()> {
    if stop.load(Ordering::Relaxed) {
        return Err(io::ErrorKind::Interrupted.into());
    }
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent)?;
    }
    let mut file = File::create(path)?;
    let mut left = size;
    let mut chunk = vec![0; CHUNK_BYTES];
    while left > 0 && !stop.load(Ordering::Relaxed) {
        let length = usize::try_from(left.min(CHUNK_BYTES as u64)).unwrap_or(CHUNK_BYTES);
        random.fill(&mut chunk[..length]);
        if index.is_multiple_of(2) {
            to_text(&mut chunk[..length]);
        }
        file.write_all(&chunk[..length])?;
        left -= length as u64;
    }
    Ok(())
}

/// Turns random bytes into words: four of six bits each, spaces and line ends in between. It compresses about as prose does.
fn to_text(bytes: &mut [u8]) {
    const LETTERS: &[u8; 16] = b"etaoinshrdlcumwf";
    for (index, byte) in bytes.iter_mut().enumerate() {
        *byte = match (index % 64, *byte) {
            (63, _) => b'\n',
            (_, 0..48) => b' ',
            (_, other) => LETTERS[usize::from(other & 15)],
        };
    }
}

/// What one entry of a tree is, content included.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Entry {
    /// A file: length and BLAKE3.
    File(u64, [u8; 32]),
    /// A symbolic link and its target.
    Symlink(PathBuf),
    /// An empty directory.
    Directory,
}

/// Everything in a tree by its path below the top. Anything that is not a file, link or directory is left out, as `put` does.
///
/// # Errors
/// What the file system refuses.
pub fn digest(folder: &Path) -> io::Result<BTreeMap<Vec<u8>, Entry>> {
    let mut entries = BTreeMap::new();
    let mut pending = vec![folder.to_path_buf()];
    let mut chunk = vec![0; CHUNK_BYTES];
    while let Some(directory) = pending.pop() {
        let mut empty = true;
        for entry in fs::read_dir(&directory)? {
            empty = false;
            let path = entry?.path();
            let kind = path.symlink_metadata()?.file_type();
            let found = if kind.is_dir() {
                pending.push(path);
                continue;
            } else if kind.is_symlink() {
                Entry::Symlink(fs::read_link(&path)?)
            } else if kind.is_file() {
                hash_file(&path, &mut chunk)?
            } else {
                continue;
            };
            entries.insert(relative(folder, &path), found);
        }
        if empty && directory != folder {
            entries.insert(relative(folder, &directory), Entry::Directory);
        }
    }
    Ok(entries)
}

fn relative(folder: &Path, path: &Path) -> Vec<u8> {
    path.strip_prefix(folder).unwrap_or(path).as_os_str().as_bytes().to_vec()
}

fn hash_file(path: &Path, chunk: &mut [u8]) -> io::Result<Entry> {
    let mut file = File::open(path)?;
    let mut hasher = blake3::Hasher::new();
    loop {
        let read = file.read(chunk)?;
        if read == 0 {
            return Ok(Entry::File(hasher.count(), *hasher.finalize().as_bytes()));
        }
        hasher.update(&chunk[..read]);
    }
}

/// Where two trees differ: the first few paths of each kind, for a message.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Difference {
    /// In the first, not in the second.
    pub missing: Vec<String>,
    /// In the second, not in the first.
    pub added: Vec<String>,
    /// In both, with other content.
    pub changed: Vec<String>,
}

impl Difference {
    /// Compares `found` with what was `expected`; `None` if they are equal.
    #[must_use]
    pub fn between(expected: &BTreeMap<Vec<u8>, Entry>, found: &BTreeMap<Vec<u8>, Entry>) -> Option<Self> {
        let name = |path: &Vec<u8>| String::from_utf8_lossy(path).into_owned();
        let mut difference = Self::default();
        for (path, entry) in expected {
            match found.get(path) {
                None => difference.missing.push(name(path)),
                Some(other) if other != entry => difference.changed.push(name(path)),
                Some(_) => {}
            }
        }
        difference.added.extend(found.keys().filter(|path| !expected.contains_key(*path)).map(name));
        (difference != Self::default()).then_some(difference)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;

    static GO_ON: AtomicBool = AtomicBool::new(false);
    const SPEC: TreeSpec = TreeSpec { files: 40, bytes: 400_000, seed: 7 };

    #[test]
    fn one_seed_makes_one_tree_of_about_the_right_size() {
        let (first, second) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        generate(first.path(), SPEC, &GO_ON).unwrap();
        generate(second.path(), SPEC, &GO_ON).unwrap();
        let tree = digest(first.path()).unwrap();
        assert_eq!(Difference::between(&tree, &digest(second.path()).unwrap()), None);
        assert_eq!(tree.len(), SPEC.files);
        let bytes: u64 = tree.values().map(|entry| if let Entry::File(length, _) = entry { *length } else { 0 }).sum();
        assert!((SPEC.bytes / 2..SPEC.bytes * 2).contains(&bytes), "{bytes}");
    }

    #[test]
    fn every_kind_of_difference_is_seen() {
        let (first, second) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        for folder in [first.path(), second.path()] {
            generate(folder, SPEC, &GO_ON).unwrap();
            fs::create_dir(folder.join("empty")).unwrap();
            std::os::unix::fs::symlink("big", folder.join("link")).unwrap();
        }
        let expected = digest(first.path()).unwrap();
        assert_eq!(expected[&b"empty"[..]], Entry::Directory);
        assert_eq!(expected[&b"link"[..]], Entry::Symlink("big".into()));
        fs::remove_file(second.path().join("big/0.txt")).unwrap();
        fs::write(second.path().join("new"), b"").unwrap();
        let mut bytes = fs::read(second.path().join("big/1.bin")).unwrap();
        bytes[100] ^= 1;
        fs::write(second.path().join("big/1.bin"), bytes).unwrap();
        let difference = Difference::between(&expected, &digest(second.path()).unwrap()).unwrap();
        assert_eq!(difference.missing, ["big/0.txt"]);
        assert_eq!(difference.added, ["new"]);
        assert_eq!(difference.changed, ["big/1.bin"]);
    }
}
