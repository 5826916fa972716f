//! Images in files: OCI layouts, OCI archives and docker-archives are read; OCI archives are written.
//!
//! An archive is read where it lies: one pass notes where its members are, so nothing is unpacked beside the store.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::{BufReader, Read};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::digest::{Digest, HashingReader};
use crate::error::{ImageError, io_error};
use crate::format::{
    self, CONFIG, CONTAINERD_NAME, Descriptor, INDEX, ImageManifest, Index, LAYER, MANIFEST, Manifest, Platform,
    REF_NAME,
};
use crate::reference::Reference;
use crate::store::{Image, Store};
use crate::tarball::Tarball;

/// Most members of an archive: blobs of a few hundred images.
const MEMBERS_MAX: usize = 100_000;
/// Indexes within indexes; real ones have one in another.
const INDEX_DEPTH_MAX: usize = 3;
/// The file that marks an OCI layout, and its content.
const LAYOUT: (&str, &str) = ("oci-layout", r#"{"imageLayoutVersion":"1.0.0"}"#);

impl Store {
    /// Takes the images from an OCI layout (a directory), an OCI archive or a docker-archive.
    ///
    /// `name` names the image where the archive holds one; otherwise its own names are used, and an image without one is refused.
    pub fn load(&self, path: &Path, name: Option<&Reference>) -> Result<Vec<Image>, ImageError> {
        let _ingest = self.inner.ingest();
        let source = Source::open(path)?;
        let found = if let Some(index) = source.read("index.json", self.inner.limits.manifest_bytes_max.0)? {
            self.load_layout(&source, &index)?
        } else if let Some(list) = source.read("manifest.json", self.inner.limits.manifest_bytes_max.0)? {
            self.load_docker(&source, &list)?
        } else {
            let reason =
                "it has neither index.json (OCI) nor manifest.json (Docker); a compressed archive must be decompressed";
            return Err(ImageError::refused(path.display().to_string(), reason));
        };
        self.name_and_commit(path, found, name)
    }

    fn name_and_commit(
        &self,
        path: &Path,
        found: Vec<(Option<Reference>, Digest)>,
        name: Option<&Reference>,
    ) -> Result<Vec<Image>, ImageError> {
        let refused = |reason: &str| ImageError::refused(path.display().to_string(), reason);
        let distinct: std::collections::BTreeSet<_> = found.iter().map(|(_, digest)| *digest).collect();
        match (name, distinct.len()) {
            (_, 0) => Err(refused("there is no image in it")),
            (Some(name), 1) => Ok(vec![self.commit(name, found[0].1)?]),
            (Some(_), _) => Err(refused("it holds several images, which cannot all have the name that was given")),
            (None, _) => {
                let named = found.into_iter().map(|(own, digest)| {
                    own.map(|own| (own, digest)).ok_or_else(|| refused("its image has no name; give one"))
                });
                let named: Vec<(Reference, Digest)> = named.collect::<Result<_, _>>()?;
                named.into_iter().map(|(name, digest)| self.commit(&name, digest)).collect()
            }
        }
    }

    fn load_layout(&self, source: &Source, index: &[u8]) -> Result<Vec<(Option<Reference>, Digest)>, ImageError> {
        let index = match format::parse_manifest(index, &self.inner.limits)? {
            Manifest::Index(index) => index,
            Manifest::Image(_) => return Err(ImageError::refused("index.json", "it is not an index")),
        };
        let mut found = Vec::new();
        for descriptor in &index.manifests {
            let name = [CONTAINERD_NAME, REF_NAME].iter().find_map(|key| descriptor.annotations.get(*key));
            // An annotation that is only a tag names nothing.
            let name = name.filter(|name| name.contains(['/', ':'])).and_then(|name| name.parse().ok());
            let manifest = self.take_manifest(source, descriptor, INDEX_DEPTH_MAX)?;
            found.push((name, manifest));
        }
        Ok(found)
    }

    /// Follows indexes to the image for this machine and takes its blobs.
    fn take_manifest(&self, source: &Source, at: &Descriptor, depth: usize) -> Result<Digest, ImageError> {
        let limits = &self.inner.limits;
        let bytes = source.blob(at.digest)?.read_all(limits.manifest_bytes_max.0)?;
        check_digest(&bytes, at.digest)?;
        match format::parse_manifest(&bytes, limits)? {
            Manifest::Index(_) if depth == 0 => Err(ImageError::refused("an index", "indexes are nested too deeply")),
            Manifest::Index(index) => {
                let chosen = choose(&index, &Platform::current(), &at.digest.to_string())?;
                self.take_manifest(source, chosen, depth - 1)
            }
            Manifest::Image(manifest) => {
                for blob in std::iter::once(&manifest.config).chain(&manifest.layers) {
                    self.inner.blobs.put(source.blob(blob.digest)?, blob.digest, blob.size)?;
                }
                self.inner.blobs.put_bytes(&bytes)
            }
        }
    }

    fn load_docker(&self, source: &Source, list: &[u8]) -> Result<Vec<(Option<Reference>, Digest)>, ImageError> {
        let entries: Vec<DockerEntry> =
            serde_json::from_slice(list).map_err(|error| ImageError::refused("manifest.json", error.to_string()))?;
        let mut found = Vec::new();
        for entry in entries {
            let manifest = self.take_docker(source, &entry)?;
            let names: Vec<Reference> =
                entry.repo_tags.unwrap_or_default().iter().filter_map(|tag| tag.parse().ok()).collect();
            if names.is_empty() {
                found.push((None, manifest));
            }
            found.extend(names.into_iter().map(|name| (Some(name), manifest)));
        }
        Ok(found)
    }

    /// Docker's archives have no manifest as registries know it, and layers without compression: one is made for them.
    fn take_docker(&self, source: &Source, entry: &DockerEntry) -> Result<Digest, ImageError> {
        let limits = &self.inner.limits;
        let missing = |what: &str| ImageError::refused("a docker-archive", format!("{what} is missing"));
        let config = source.read(&entry.config, limits.manifest_bytes_max.0)?.ok_or_else(|| missing(&entry.config))?;
        let configuration = format::parse_config(&config, limits)?;
        if entry.layers.len() != configuration.rootfs.diff_ids.len() || entry.layers.len() > limits.layers_max {
            return Err(ImageError::refused("a docker-archive", "its layers are not those of its configuration"));
        }
        let mut layers = Vec::new();
        for name in &entry.layers {
            let member = || source.member(name)?.ok_or_else(|| missing(name));
            let size = member()?.size;
            if size > limits.blob_bytes_max.0 {
                return Err(ImageError::refused(name, format!("it is longer than {}", limits.blob_bytes_max)));
            }
            let digest = HashingReader::new(BufReader::new(member()?), size);
            let digest = digest.finish().map_err(|error| ImageError::refused(name, error.to_string()))?;
            self.inner.blobs.put(member()?, digest, size)?;
            layers.push(descriptor(LAYER, digest, size));
        }
        let config = descriptor(CONFIG, self.inner.blobs.put_bytes(&config)?, config.len() as u64);
        self.put_manifest(config, layers)
    }

    /// Writes the manifest of an image that is put together here.
    pub(crate) fn put_manifest(&self, config: Descriptor, layers: Vec<Descriptor>) -> Result<Digest, ImageError> {
        let manifest = ImageManifest { schema_version: 2, media_type: MANIFEST.to_owned(), config, layers };
        self.inner.blobs.put_bytes(&json(&manifest)?)
    }

    /// Writes one image as an OCI archive. The same image gives the same bytes.
    pub fn save(&self, reference: &Reference, path: &Path) -> Result<(), ImageError> {
        let _ingest = self.inner.ingest();
        let image = self.get(reference)?.ok_or_else(|| ImageError::NotFound(reference.to_string()))?;
        let manifest = self.manifest(image.manifest)?;
        let bytes = self.inner.blobs.read(image.manifest, self.inner.limits.manifest_bytes_max.0)?;
        let mut at = descriptor(MANIFEST, image.manifest, bytes.len() as u64);
        at.platform = Some(image.platform);
        at.annotations.insert(CONTAINERD_NAME.to_owned(), reference.to_string());
        at.annotations.insert(REF_NAME.to_owned(), reference.tag().unwrap_or("latest").to_owned());
        let index = Index { schema_version: 2, media_type: INDEX.to_owned(), manifests: vec![at] };
        let file = File::create(path).map_err(io_error("create", path))?;
        let mut tarball = Tarball::new(std::io::BufWriter::new(file), path);
        tarball.bytes(LAYOUT.0, 0o644, LAYOUT.1.as_bytes())?;
        tarball.bytes("index.json", 0o644, &json(&index)?)?;
        let blobs: BTreeMap<Digest, u64> = std::iter::once(&manifest.config)
            .chain(&manifest.layers)
            .map(|blob| (blob.digest, blob.size))
            .chain([(image.manifest, bytes.len() as u64)])
            .collect();
        for (digest, size) in blobs {
            let name = format!("blobs/sha256/{}", digest.hex());
            tarball.file(&name, 0o644, size, self.inner.blobs.open(digest)?)?;
        }
        let file = tarball.finish()?.into_inner().map_err(|error| io_error("write", path)(error.into_error()))?;
        file.sync_all().map_err(io_error("flush", path))
    }
}

/// The manifest in an index that is for this machine.
pub(crate) fn choose<'a>(index: &'a Index, machine: &Platform, reference: &str) -> Result<&'a Descriptor, ImageError> {
    let is_ours = |it: &&Descriptor| it.platform.as_ref().is_some_and(|platform| platform.runs_on(machine));
    if let Some(found) = index.manifests.iter().find(is_ours) {
        return Ok(found);
    }
    // A single image that does not say what it is for is taken at its word; its configuration is checked later.
    match index.manifests.as_slice() {
        [only] if only.platform.is_none() => Ok(only),
        others => {
            let offered = others.iter().filter_map(|it| it.platform.as_ref()).map(ToString::to_string);
            Err(ImageError::NoPlatform {
                reference: reference.to_owned(),
                wanted: machine.to_string(),
                offered: offered.take(20).collect::<Vec<_>>().join(", "),
            })
        }
    }
}

/// A descriptor without the fields that only indexes use.
pub(crate) fn descriptor(media_type: &str, digest: Digest, size: u64) -> Descriptor {
    Descriptor { media_type: media_type.to_owned(), digest, size, platform: None, annotations: BTreeMap::new() }
}

/// JSON of something made here.
pub(crate) fn json(value: &impl serde::Serialize) -> Result<Vec<u8>, ImageError> {
    serde_json::to_vec(value).map_err(|error| ImageError::refused("an image", error.to_string()))
}

fn check_digest(bytes: &[u8], expected: Digest) -> Result<(), ImageError> {
    let found = Digest::of(bytes);
    if found == expected {
        return Ok(());
    }
    Err(ImageError::WrongDigest { subject: "a manifest".to_owned(), expected, found })
}

/// One image of a docker-archive's `manifest.json`.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct DockerEntry {
    config: String,
    #[serde(default)]
    repo_tags: Option<Vec<String>>,
    layers: Vec<String>,
}

/// Where the members of an archive are.
enum Source {
    Directory(PathBuf),
    Tar { file: File, path: PathBuf, members: HashMap<String, Place> },
}

#[derive(Clone)]
enum Place {
    Here {
        offset: u64,
        size: u64,
    },
    /// `docker save` once wrote layers that two images share as links.
    Elsewhere(String),
}

/// One member, to be read.
struct Member {
    file: File,
    offset: u64,
    size: u64,
    left: u64,
}

impl Read for Member {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let wanted = buffer.len().min(usize::try_from(self.left).unwrap_or(usize::MAX));
        let read = self.file.read_at(&mut buffer[..wanted], self.offset)?;
        self.offset += read as u64;
        self.left -= read as u64;
        Ok(read)
    }
}

impl Member {
    fn read_all(self, bytes_max: u64) -> Result<Vec<u8>, ImageError> {
        if self.size > bytes_max {
            return Err(ImageError::refused("an archive", format!("a manifest has {} bytes", self.size)));
        }
        let mut bytes = Vec::new();
        let mut reader = self;
        reader.read_to_end(&mut bytes).map_err(|error| ImageError::refused("an archive", error.to_string()))?;
        Ok(bytes)
    }
}

impl Source {
    fn open(path: &Path) -> Result<Self, ImageError> {
        if path.is_dir() {
            return Ok(Self::Directory(path.to_owned()));
        }
        let file = File::open(path).map_err(io_error("open", path))?;
        let broken = |error: std::io::Error| ImageError::refused(path.display().to_string(), error.to_string());
        let mut members = HashMap::new();
        let mut archive = tar::Archive::new(&file);
        // With seeks: the content of gigabytes of blobs is not read to find where they are.
        for entry in archive.entries_with_seek().map_err(broken)? {
            let entry = entry.map_err(broken)?;
            let name = String::from_utf8_lossy(&entry.path_bytes()).trim_start_matches("./").to_owned();
            let link = || entry.link_name_bytes().map(|link| String::from_utf8_lossy(&link).into_owned());
            let place = match entry.header().entry_type() {
                tar::EntryType::Regular => Place::Here { offset: entry.raw_file_position(), size: entry.size() },
                tar::EntryType::Symlink => Place::Elsewhere(beside(&name, &link().unwrap_or_default())),
                tar::EntryType::Link => Place::Elsewhere(link().unwrap_or_default()),
                _ => continue,
            };
            members.insert(name, place);
            if members.len() > MEMBERS_MAX {
                return Err(ImageError::refused(path.display().to_string(), "it has too many members"));
            }
        }
        Ok(Self::Tar { file, path: path.to_owned(), members })
    }

    fn member(&self, name: &str) -> Result<Option<Member>, ImageError> {
        match self {
            Self::Directory(dir) => {
                if name.split('/').any(|part| part == "..") || name.starts_with('/') {
                    return Err(ImageError::refused(name, "it leads out of the layout"));
                }
                let path = dir.join(name);
                let file = match File::open(&path) {
                    Ok(file) => file,
                    Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
                    Err(error) => return Err(io_error("open", &path)(error)),
                };
                let size = file.metadata().map_err(io_error("look at", &path))?.len();
                Ok(Some(Member { file, offset: 0, size, left: size }))
            }
            Self::Tar { file, path, members } => {
                let mut place = members.get(name);
                if let Some(Place::Elsewhere(target)) = place {
                    place = members.get(target);
                }
                let Some(&Place::Here { offset, size }) = place else { return Ok(None) };
                let file = file.try_clone().map_err(io_error("open", path))?;
                Ok(Some(Member { file, offset, size, left: size }))
            }
        }
    }

    fn read(&self, name: &str, bytes_max: u64) -> Result<Option<Vec<u8>>, ImageError> {
        self.member(name)?.map(|member| member.read_all(bytes_max)).transpose()
    }

    fn blob(&self, digest: Digest) -> Result<Member, ImageError> {
        let name = format!("blobs/sha256/{}", digest.hex());
        self.member(&name)?.ok_or_else(|| ImageError::refused("an archive", format!("{name} is missing")))
    }
}

/// A link's target, relative to the folder of the link.
fn beside(name: &str, target: &str) -> String {
    let mut parts: Vec<&str> = name.split('/').collect();
    parts.pop();
    for part in target.split('/') {
        match part {
            ".." => drop(parts.pop()),
            "" | "." => {}
            part => parts.push(part),
        }
    }
    parts.join("/")
}
