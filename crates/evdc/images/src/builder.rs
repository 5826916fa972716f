//! Small images made of files at hand, without any other tool. The same files give the same image.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{BufWriter, Read, Seek as _, SeekFrom, Write};
use std::path::{Path, PathBuf};

use crate::archive::{descriptor, json};
use crate::blobs::BlobWriter;
use crate::digest::{Digest, Hasher};
use crate::elf;
use crate::error::{ImageError, io_error};
use crate::format::{CONFIG, Configuration, ImageConfig, LAYER, Layers, Platform};
use crate::reference::Reference;
use crate::store::{Image, Store};
use crate::tarball::Tarball;

/// Enough of a program to hold its headers and the name of its loader.
const ELF_START_BYTES: u64 = 4096;
/// Accounts of every image made here: root, and nobody for what needs no rights.
const PASSWD: &str = "root:x:0:0:root:/:/sbin/nologin\nnobody:x:65534:65534:nobody:/:/sbin/nologin\n";
const GROUP: &str = "root:x:0:\nnogroup:x:65534:\n";

/// What a file of an image contains.
#[derive(Clone, Debug)]
pub enum Content {
    /// These bytes.
    Bytes(Vec<u8>),
    /// What this file of the host contains when the image is built.
    Host(PathBuf),
    /// The same of a program, without what only debuggers read: symbols and debug information are most of a program as it is built, and every node that
    /// runs the image fetches it.
    Program(PathBuf),
}

/// How the layer is packed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Compression {
    /// Not at all: fastest for an image that stays on this machine.
    #[default]
    None,
    /// Readable everywhere.
    Gzip,
    /// Smaller and faster than gzip; older tools cannot read it.
    Zstd,
}

#[derive(Clone, Debug)]
enum Node {
    Directory(u32),
    File(Content, u32),
    Symlink(String),
}

/// An image in the making: one layer and a configuration.
#[derive(Clone, Debug, Default)]
pub struct Builder {
    nodes: BTreeMap<String, Node>,
    config: ImageConfig,
    compression: Compression,
}

impl Builder {
    /// Nothing but root, nobody and a `/tmp`.
    pub fn new() -> Self {
        let accounts = |text: &str| Content::Bytes(text.as_bytes().to_vec());
        let builder = Self::default().dir("/tmp", 0o1777);
        builder.file("/etc/passwd", accounts(PASSWD), 0o644).file("/etc/group", accounts(GROUP), 0o644)
    }

    /// The running program at `path`, with the shared libraries that it has mapped and its loader, as entry point.
    pub fn current_executable(path: &str) -> Result<Self, ImageError> {
        let proc = Path::new("/proc/self/exe");
        let own = fs::read_link(proc).map_err(io_error("read", proc))?;
        // The link's target may be gone or another by now; what runs is what /proc/self/exe opens.
        let mut builder = Self::new().file(path, Content::Program(proc.to_owned()), 0o755);
        builder.add_loader(proc)?;
        let maps = Path::new("/proc/self/maps");
        let maps = fs::read_to_string(maps).map_err(io_error("read", maps))?;
        let mapped = maps.lines().filter_map(|line| Some(Path::new(&line[line.find('/')?..])));
        for library in mapped.filter(|mapped| *mapped != own && !mapped.to_string_lossy().ends_with(" (deleted)")) {
            builder.add_library(library)?;
        }
        Ok(builder.entrypoint([path]))
    }

    /// A file with its permission bits.
    pub fn file(mut self, path: &str, content: Content, mode: u32) -> Self {
        self.nodes.insert(key(path), Node::File(content, mode));
        self
    }

    /// A directory with its permission bits. Those that files need are made without being asked for.
    pub fn dir(mut self, path: &str, mode: u32) -> Self {
        self.nodes.insert(key(path), Node::Directory(mode));
        self
    }

    /// A symbolic link.
    pub fn symlink(mut self, path: &str, target: &str) -> Self {
        self.nodes.insert(key(path), Node::Symlink(target.to_owned()));
        self
    }

    /// What is always run.
    pub fn entrypoint<T: Into<String>>(mut self, words: impl IntoIterator<Item = T>) -> Self {
        self.config.entrypoint = words.into_iter().map(Into::into).collect();
        self
    }

    /// Default arguments.
    pub fn cmd<T: Into<String>>(mut self, words: impl IntoIterator<Item = T>) -> Self {
        self.config.cmd = words.into_iter().map(Into::into).collect();
        self
    }

    /// A variable of the environment.
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.config.env.push(format!("{name}={value}"));
        self
    }

    /// A label.
    pub fn label(mut self, name: &str, value: &str) -> Self {
        self.config.labels.insert(name.to_owned(), value.to_owned());
        self
    }

    /// Who it runs as.
    pub fn user(mut self, user: &str) -> Self {
        user.clone_into(&mut self.config.user);
        self
    }

    /// Where it starts.
    pub fn working_dir(mut self, path: &str) -> Self {
        path.clone_into(&mut self.config.working_dir);
        self
    }

    /// How the layer is packed.
    pub fn compression(mut self, compression: Compression) -> Self {
        self.compression = compression;
        self
    }

    /// Puts the image into the store.
    pub fn build(&self, store: &Store, reference: &Reference) -> Result<Image, ImageError> {
        let _ingest = store.inner.ingest();
        let writer = store.inner.blobs.writer(store.inner.limits.blob_bytes_max.0)?;
        let (diff_id, digest, size) = self.write_layer(writer)?;
        let configuration = Configuration {
            platform: Platform::current(),
            config: self.config.clone(),
            rootfs: Layers { kind: "layers".to_owned(), diff_ids: vec![diff_id] },
        };
        let configuration = json(&configuration)?;
        let config = descriptor(CONFIG, store.inner.blobs.put_bytes(&configuration)?, configuration.len() as u64);
        let suffix = match self.compression {
            Compression::None => "",
            Compression::Gzip => "+gzip",
            Compression::Zstd => "+zstd",
        };
        let layer = descriptor(&format!("{LAYER}{suffix}"), digest, size);
        let manifest = store.put_manifest(config, vec![layer])?;
        store.commit(reference, manifest)
    }

    fn write_layer(&self, blob: BlobWriter<'_>) -> Result<(Digest, Digest, u64), ImageError> {
        let path = Path::new("layer");
        let failed = io_error("compress", path);
        let (diff_id, blob) = match self.compression {
            Compression::None => self.write_tar(BufWriter::new(blob)).and_then(|(diff_id, blob)| {
                Ok((diff_id, blob.into_inner().map_err(|error| failed(error.into_error()))?))
            })?,
            Compression::Gzip => {
                let gzip = flate2::write::GzEncoder::new(blob, flate2::Compression::default());
                let (diff_id, gzip) = self.write_tar(gzip)?;
                (diff_id, gzip.finish().map_err(failed)?)
            }
            Compression::Zstd => {
                let zstd = zstd::stream::write::Encoder::new(blob, 0).map_err(io_error("compress", path))?;
                let (diff_id, zstd) = self.write_tar(zstd)?;
                (diff_id, zstd.finish().map_err(failed)?)
            }
        };
        let (digest, size) = blob.commit(None)?;
        Ok((diff_id, digest, size))
    }

    fn write_tar<W: Write>(&self, writer: W) -> Result<(Digest, W), ImageError> {
        let mut tarball = Tarball::new(HashingWriter { inner: writer, hasher: Hasher::default() }, Path::new("layer"));
        for (path, node) in self.with_parents() {
            match node {
                Node::Directory(mode) => tarball.directory(&format!("{path}/"), mode)?,
                Node::Symlink(target) => tarball.symlink(&path, &target)?,
                Node::File(Content::Bytes(bytes), mode) => tarball.bytes(&path, mode, &bytes)?,
                Node::File(Content::Host(host), mode) => {
                    let file = File::open(&host).map_err(io_error("read", &host))?;
                    let size = file.metadata().map_err(io_error("look at", &host))?.len();
                    tarball.file(&path, mode, size, file)?;
                }
                Node::File(Content::Program(host), mode) => {
                    let mut file = File::open(&host).map_err(io_error("read", &host))?;
                    let size = file.metadata().map_err(io_error("look at", &host))?.len();
                    match elf::stripped(&start_of(&host)?).filter(|(_, end)| *end < size) {
                        Some((head, end)) => {
                            let rest = file.seek(SeekFrom::Start(head.len() as u64));
                            rest.map_err(io_error("read", &host))?;
                            let rest = file.take(end - head.len() as u64);
                            tarball.file(&path, mode, end, head.as_slice().chain(rest))?;
                        }
                        None => tarball.file(&path, mode, size, file)?,
                    }
                }
            }
        }
        let writer = tarball.finish()?;
        Ok((writer.hasher.digest(), writer.inner))
    }

    /// Sorted, so that parents come before what is in them and the archive does not depend on the order of calls.
    fn with_parents(&self) -> BTreeMap<String, Node> {
        let mut all = self.nodes.clone();
        for path in self.nodes.keys() {
            let mut at = path.as_str();
            while let Some((parent, _)) = at.rsplit_once('/') {
                all.entry(parent.to_owned()).or_insert(Node::Directory(0o755));
                at = parent;
            }
        }
        all
    }

    /// A program's loader goes where the program looks for it, whatever links lead there on the host.
    fn add_loader(&mut self, program: &Path) -> Result<(), ImageError> {
        let start = start_of(program)?;
        if let Some(loader) = elf::interpreter(&start) {
            let real = fs::canonicalize(&loader).map_err(io_error("find", &loader))?;
            self.nodes.insert(key(&loader.to_string_lossy()), Node::File(Content::Host(real), 0o755));
        }
        Ok(())
    }

    /// A library, and the links beside it by which programs know it.
    fn add_library(&mut self, library: &Path) -> Result<(), ImageError> {
        let path = key(&library.to_string_lossy());
        if self.nodes.contains_key(&path) || !elf::is_elf(&start_of(library)?) {
            return Ok(());
        }
        self.nodes.insert(path, Node::File(Content::Host(library.to_owned()), 0o755));
        let (Some(dir), Some(name)) = (library.parent(), library.file_name()) else { return Ok(()) };
        let stem = name.to_string_lossy().split(".so").next().unwrap_or_default().to_owned();
        for entry in fs::read_dir(dir).map_err(io_error("list", dir))? {
            let entry = entry.map_err(io_error("list", dir))?;
            let other = entry.file_name().to_string_lossy().into_owned();
            let points_here = || fs::canonicalize(entry.path()).is_ok_and(|path| path == library);
            if other.starts_with(&format!("{stem}.so")) && other != name.to_string_lossy() && points_here() {
                let link = key(&entry.path().to_string_lossy());
                self.nodes.entry(link).or_insert_with(|| Node::Symlink(name.to_string_lossy().into_owned()));
            }
        }
        Ok(())
    }
}

fn key(path: &str) -> String {
    path.trim_matches('/').to_owned()
}

fn start_of(path: &Path) -> Result<Vec<u8>, ImageError> {
    let mut start = Vec::new();
    let read = File::open(path).and_then(|file| file.take(ELF_START_BYTES).read_to_end(&mut start));
    read.map_err(io_error("read", path))?;
    Ok(start)
}

struct HashingWriter<W> {
    inner: W,
    hasher: Hasher,
}

impl<W: Write> Write for HashingWriter<W> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let written = self.inner.write(bytes)?;
        self.hasher.update(&bytes[..written]);
        Ok(written)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.inner.flush()
    }
}
