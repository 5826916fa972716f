//! A directory of images.
//!
//! ```text
//! blobs/sha256/<digest>     manifests, configurations, layers as they were sent
//! images/<hash of name>     which manifest a name stands for
//! layers/<diff id>/fs       layers unpacked
//! rootfs/<container>/       overlay mounts (see `rootfs`)
//! tmp/                      what is being made; emptied when the store is opened
//! ```
//!
//! Everything becomes visible by one rename after it was checked and flushed, so a crash leaves garbage in `tmp/` at most. One process
//! uses a store at a time; the node's own lock sees to that. Within the process all calls may run in parallel.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use atoll_ids::ByteCount;
use serde::{Deserialize, Serialize};

use crate::blobs::Blobs;
use crate::digest::{Digest, HashingReader};
use crate::error::{ImageError, io_error, sys_error};
use crate::format::{self, ImageConfig, ImageManifest, Manifest, Platform};
use crate::limits::Limits;
use crate::reference::Reference;
use crate::unpack::unpack_layer;

/// Version of the records in `images/`.
const RECORD_VERSION: u32 = 1;
/// Longest record; a name has 600 bytes at most.
const RECORD_BYTES_MAX: u64 = 64 << 10;

/// Padding of a tar file's last member and its end mark, at most.
const ARCHIVE_END_BYTES: u64 = 3 * 512;

/// Where a store is and what it accepts.
#[derive(Clone, Debug)]
pub struct StoreConfig {
    /// Its directory, made if it is not there.
    pub dir: PathBuf,
    /// What images may cost.
    pub limits: Limits,
}

/// A directory of images; clones are the same store. All calls but [`Store::pull`] block: use `spawn_blocking` from async code.
#[derive(Clone, Debug)]
pub struct Store {
    pub(crate) inner: Arc<Inner>,
}

#[derive(Debug)]
pub(crate) struct Inner {
    pub(crate) dir: PathBuf,
    pub(crate) limits: Limits,
    pub(crate) blobs: Blobs,
    /// How many images are coming in; nothing is collected meanwhile, as their blobs belong to no image yet.
    ingests: Mutex<usize>,
}

/// An image in the store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Image {
    /// Under which name.
    pub reference: Reference,
    /// Digest of its configuration: what `docker image ls` calls the image's id.
    pub id: Digest,
    /// Digest of its manifest.
    pub manifest: Digest,
    /// Bytes of its blobs.
    pub size: ByteCount,
    /// For which machines.
    pub platform: Platform,
    /// How it wants to be run.
    pub config: ImageConfig,
    /// From the lowest to the topmost.
    pub layers: Vec<Layer>,
}

/// One layer of an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layer {
    /// Of the blob.
    pub digest: Digest,
    /// Of the tar file in it.
    pub diff_id: Digest,
    /// Bytes of the blob.
    pub size: ByteCount,
}

/// What garbage collection removed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Collected {
    /// Blobs.
    pub blobs: u64,
    /// Unpacked layers.
    pub layers: u64,
    /// Bytes of those blobs; the unpacked files come on top.
    pub bytes: ByteCount,
}

/// What a name stands for.
#[derive(Serialize, Deserialize)]
struct Record {
    version: u32,
    reference: String,
    manifest: Digest,
}

/// While it lives, nothing is collected.
pub(crate) struct Ingest<'a>(&'a Inner);

impl Drop for Ingest<'_> {
    fn drop(&mut self) {
        *self.0.ingests() -= 1;
    }
}

impl Inner {
    fn ingests(&self) -> MutexGuard<'_, usize> {
        self.ingests.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn ingest(&self) -> Ingest<'_> {
        *self.ingests() += 1;
        Ingest(self)
    }

    fn record_path(&self, reference: &Reference) -> PathBuf {
        self.dir.join("images").join(Digest::of(reference.to_string().as_bytes()).hex())
    }

    /// Where a layer is, unpacked.
    pub(crate) fn layer_dir(&self, diff_id: Digest) -> PathBuf {
        self.dir.join("layers").join(diff_id.hex())
    }

    pub(crate) fn rootfs_dir(&self) -> PathBuf {
        self.dir.join("rootfs")
    }
}

impl Store {
    /// Opens a store, making its directory if needed, and removes what an earlier process left unfinished.
    pub fn open(config: StoreConfig) -> Result<Self, ImageError> {
        let StoreConfig { dir, limits } = config;
        let temporary = dir.join("tmp");
        if temporary.exists() {
            fs::remove_dir_all(&temporary).map_err(io_error("empty", &temporary))?;
        }
        let blobs = dir.join("blobs").join("sha256");
        for folder in [&temporary, &blobs, &dir.join("images"), &dir.join("layers"), &dir.join("rootfs")] {
            fs::create_dir_all(folder).map_err(io_error("create", folder))?;
        }
        let blobs = Blobs::new(blobs, temporary);
        Ok(Self { inner: Arc::new(Inner { dir, limits, blobs, ingests: Mutex::new(0) }) })
    }

    /// The image of that name, if it is here.
    pub fn get(&self, reference: &Reference) -> Result<Option<Image>, ImageError> {
        let path = self.inner.record_path(reference);
        match read_record(&path)? {
            Some(record) => self.image(reference.clone(), record.manifest).map(Some),
            None => Ok(None),
        }
    }

    /// All images, by name.
    pub fn list(&self) -> Result<Vec<Image>, ImageError> {
        let mut images = Vec::new();
        for (_, record) in self.records()? {
            let reference = record.reference.parse::<Reference>();
            let reference = reference.map_err(|error| ImageError::refused("a record", error.to_string()))?;
            images.push(self.image(reference, record.manifest)?);
        }
        images.sort_by(|a, b| a.reference.cmp(&b.reference));
        Ok(images)
    }

    /// Gives an image one more name, or moves the name to it.
    pub fn tag(&self, image: &Image, reference: &Reference) -> Result<Image, ImageError> {
        let _ingest = self.inner.ingest();
        self.record(reference, image.manifest)?;
        self.image(reference.clone(), image.manifest)
    }

    /// Forgets a name. Whether there was one. What only it needed goes with the next [`gc`](Self::gc).
    pub fn remove(&self, reference: &Reference) -> Result<bool, ImageError> {
        let path = self.inner.record_path(reference);
        match fs::remove_file(&path) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(io_error("remove", &path)(error)),
        }
    }

    /// Removes blobs and layers that no name and no container needs. [`ImageError::Busy`] while images come in.
    pub fn gc(&self) -> Result<Collected, ImageError> {
        let ingests = self.inner.ingests();
        if *ingests > 0 {
            return Err(ImageError::Busy);
        }
        let (mut blobs, mut layers) = (BTreeSet::new(), BTreeSet::new());
        for (_, record) in self.records()? {
            let manifest = self.manifest(record.manifest)?;
            blobs.extend([record.manifest, manifest.config.digest].map(|digest| digest.hex()));
            blobs.extend(manifest.layers.iter().map(|layer| layer.digest.hex()));
            layers.extend(self.configuration(&manifest)?.rootfs.diff_ids.iter().map(Digest::hex));
        }
        for id in self.rootfs_ids()? {
            layers.extend(self.rootfs_layers(&id)?.iter().map(Digest::hex));
        }
        let mut collected = Collected::default();
        for path in unwanted(self.inner.blobs.dir(), &blobs)? {
            collected.bytes.0 += fs::metadata(&path).map(|metadata| metadata.len()).unwrap_or(0);
            fs::remove_file(&path).map_err(io_error("remove", &path))?;
            collected.blobs += 1;
        }
        for path in unwanted(&self.inner.dir.join("layers"), &layers)? {
            // Away in one step first: half a layer must never be taken for a whole one.
            let doomed = self.inner.blobs.temporary();
            fs::rename(&path, &doomed).map_err(io_error("remove", &path))?;
            fs::remove_dir_all(&doomed).map_err(io_error("remove", &doomed))?;
            collected.layers += 1;
        }
        drop(ingests);
        Ok(collected)
    }

    fn records(&self) -> Result<Vec<(PathBuf, Record)>, ImageError> {
        let dir = self.inner.dir.join("images");
        let mut records = Vec::new();
        for entry in fs::read_dir(&dir).map_err(io_error("list", &dir))? {
            let path = entry.map_err(io_error("list", &dir))?.path();
            // Removed meanwhile is as if it had not been listed.
            records.extend(read_record(&path)?.map(|record| (path, record)));
        }
        Ok(records)
    }

    fn record(&self, reference: &Reference, manifest: Digest) -> Result<(), ImageError> {
        let record = Record { version: RECORD_VERSION, reference: reference.to_string(), manifest };
        let bytes = serde_json::to_vec(&record).map_err(|error| ImageError::refused("a record", error.to_string()))?;
        write_file(&self.inner.blobs.temporary(), &self.inner.record_path(reference), &bytes)
    }

    pub(crate) fn manifest(&self, digest: Digest) -> Result<ImageManifest, ImageError> {
        let limits = &self.inner.limits;
        let bytes = self.inner.blobs.read(digest, limits.manifest_bytes_max.0)?;
        match format::parse_manifest(&bytes, limits)? {
            Manifest::Image(manifest) => Ok(manifest),
            Manifest::Index(_) => Err(ImageError::refused("a manifest", "it is an index where an image should be")),
        }
    }

    fn configuration(&self, manifest: &ImageManifest) -> Result<format::Configuration, ImageError> {
        let limits = &self.inner.limits;
        let bytes = self.inner.blobs.read(manifest.config.digest, limits.manifest_bytes_max.0)?;
        let configuration = format::parse_config(&bytes, limits)?;
        let (diffs, layers) = (configuration.rootfs.diff_ids.len(), manifest.layers.len());
        if diffs != layers {
            let reason = format!("it describes {diffs} layers and the manifest {layers}");
            return Err(ImageError::refused("a configuration", reason));
        }
        Ok(configuration)
    }

    fn image(&self, reference: Reference, manifest_digest: Digest) -> Result<Image, ImageError> {
        let manifest = self.manifest(manifest_digest)?;
        let configuration = self.configuration(&manifest)?;
        let layers: Vec<Layer> = std::iter::zip(&manifest.layers, &configuration.rootfs.diff_ids)
            .map(|(layer, &diff_id)| Layer { digest: layer.digest, diff_id, size: ByteCount(layer.size) })
            .collect();
        let size = manifest.config.size + manifest.layers.iter().map(|layer| layer.size).sum::<u64>();
        Ok(Image {
            reference,
            id: manifest.config.digest,
            manifest: manifest_digest,
            size: ByteCount(size),
            platform: configuration.platform,
            config: configuration.config,
            layers,
        })
    }

    /// Makes an image of blobs that are all here. As root its layers are unpacked first, so a hostile one never gets a name.
    pub(crate) fn commit(&self, reference: &Reference, manifest: Digest) -> Result<Image, ImageError> {
        let image = self.image(reference.clone(), manifest)?;
        if let Some(missing) = image.layers.iter().find(|layer| !self.inner.blobs.has(layer.digest)) {
            return Err(ImageError::refused(reference.to_string(), format!("its layer {} is missing", missing.digest)));
        }
        let machine = Platform::current();
        if !image.platform.architecture.is_empty() && !image.platform.runs_on(&machine) {
            return Err(ImageError::NoPlatform {
                reference: reference.to_string(),
                wanted: machine.to_string(),
                offered: image.platform.to_string(),
            });
        }
        if rustix::process::geteuid().is_root() {
            for layer in &image.layers {
                self.ensure_unpacked(layer)?;
            }
        }
        self.record(reference, manifest)?;
        Ok(image)
    }

    /// The directory with a layer's files, unpacked now unless it was before.
    pub(crate) fn ensure_unpacked(&self, layer: &Layer) -> Result<PathBuf, ImageError> {
        let dir = self.inner.layer_dir(layer.diff_id);
        let files = dir.join("fs");
        if files.is_dir() {
            return Ok(files);
        }
        if !rustix::process::geteuid().is_root() {
            return Err(ImageError::NeedsRoot("unpacking a layer"));
        }
        let unfinished = self.inner.blobs.temporary();
        let made = self.unpack(layer, &unfinished).and_then(|()| match fs::rename(&unfinished, &dir) {
            // Someone else unpacked the same layer meanwhile.
            Err(_) if files.is_dir() => Ok(()),
            other => other.map_err(io_error("create", &dir)),
        });
        if unfinished.exists() {
            fs::remove_dir_all(&unfinished).map_err(io_error("remove", &unfinished))?;
        }
        made.map(|()| files)
    }

    fn unpack(&self, layer: &Layer, dir: &Path) -> Result<(), ImageError> {
        let files = dir.join("fs");
        fs::create_dir_all(&files).map_err(io_error("create", &files))?;
        let limits = &self.inner.limits;
        let blob = BufReader::with_capacity(256 << 10, self.inner.blobs.open(layer.digest)?);
        // Headers and padding come on top of the files' content; twice as much is surely not a layer within limits.
        let bytes_max = limits.layer_bytes_max.0.saturating_mul(2);
        let mut archive = HashingReader::new(decompress(blob)?, bytes_max);
        // Some writers (umoci insert) leave out the padding and the end mark. What is really missing shows in the digest.
        unpack_layer((&mut archive).chain(std::io::repeat(0).take(ARCHIVE_END_BYTES)), &files, limits)?;
        let subject = format!("layer {}", layer.digest);
        let found = archive.finish().map_err(|error| ImageError::refused(&subject, error.to_string()))?;
        if found != layer.diff_id {
            return Err(ImageError::WrongDigest { subject, expected: layer.diff_id, found });
        }
        let fd = File::open(&files).map_err(io_error("open", &files))?;
        rustix::fs::syncfs(&fd).map_err(sys_error("flush", &files))
    }
}

fn unwanted(dir: &Path, wanted: &BTreeSet<String>) -> Result<Vec<PathBuf>, ImageError> {
    let mut paths = Vec::new();
    for entry in fs::read_dir(dir).map_err(io_error("list", dir))? {
        let entry = entry.map_err(io_error("list", dir))?;
        let name: OsString = entry.file_name();
        if !name.to_str().is_some_and(|name| wanted.contains(name)) {
            paths.push(entry.path());
        }
    }
    Ok(paths)
}

fn read_record(path: &Path) -> Result<Option<Record>, ImageError> {
    let mut bytes = Vec::new();
    match File::open(path).and_then(|file| file.take(RECORD_BYTES_MAX).read_to_end(&mut bytes)) {
        Ok(_) => {}
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(io_error("read", path)(error)),
    }
    let subject = || path.display().to_string();
    let record: Record =
        serde_json::from_slice(&bytes).map_err(|error| ImageError::refused(subject(), error.to_string()))?;
    if record.version != RECORD_VERSION {
        let reason = format!("it has version {}; a newer Atoll wrote it", record.version);
        return Err(ImageError::refused(subject(), reason));
    }
    Ok(Some(record))
}

/// All or nothing, also across a crash.
pub(crate) fn write_file(temporary: &Path, path: &Path, bytes: &[u8]) -> Result<(), ImageError> {
    let mut file = File::create(temporary).map_err(io_error("create", temporary))?;
    file.write_all(bytes).and_then(|()| file.sync_data()).map_err(io_error("write", temporary))?;
    fs::rename(temporary, path).map_err(io_error("create", path))
}

/// By what the bytes are, not by what the manifest calls them: writers differ, and the digest of the content is checked anyway.
pub(crate) fn decompress<'a>(mut blob: impl std::io::BufRead + 'a) -> Result<Box<dyn Read + 'a>, ImageError> {
    let start = blob.fill_buf().map_err(|error| ImageError::refused("a layer", error.to_string()))?;
    if start.starts_with(&[0x1f, 0x8b]) {
        return Ok(Box::new(flate2::bufread::MultiGzDecoder::new(blob)));
    }
    if start.starts_with(&[0x28, 0xb5, 0x2f, 0xfd]) {
        let decoder = zstd::stream::read::Decoder::with_buffer(blob);
        return Ok(Box::new(decoder.map_err(|error| ImageError::refused("a layer", error.to_string()))?));
    }
    Ok(Box::new(blob))
}
