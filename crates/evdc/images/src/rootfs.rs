//! A container's root file system: an overlay of its image's layers under a directory that is its own.
//!
//! `rootfs/<id>/` holds `upper` and `work` (what the container writes), `merged` (where it is mounted) and a record of its image, which
//! keeps the layers from being collected. Making one that is there mounts it again if need be, so a restart is harmless. The mount is
//! `nodev`: a device node that a container makes in it opens nothing.

use std::fs::{self, File, OpenOptions};
use std::io::Read;
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};
use serde::{Deserialize, Serialize};

use crate::digest::Digest;
use crate::error::{ImageError, io_error, sys_error};
use crate::store::{Image, Store, write_file};
use crate::users::{self, User};

/// Version of the record.
const RECORD_VERSION: u32 = 1;
/// Longest record: digests of at most a few hundred layers.
const RECORD_BYTES_MAX: u64 = 1 << 20;
/// Longest id; it names a directory.
const ID_BYTES_MAX: usize = 128;
/// What `statfs` calls an overlay.
const OVERLAYFS_MAGIC: i64 = 0x794c_7630;

/// A mounted root file system.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rootfs {
    /// Whose.
    pub id: String,
    /// Where it is mounted.
    pub path: PathBuf,
    /// Which image's: the digest of its manifest.
    pub manifest: Digest,
}

#[derive(Serialize, Deserialize)]
struct Record {
    version: u32,
    manifest: Digest,
    layers: Vec<Digest>,
}

impl Rootfs {
    /// Who `USER` of an image, or a container's own wish, means here: `uid`, `uid:gid`, `name`, `name:group`, or nothing for root.
    pub fn user(&self, wanted: &str) -> Result<User, ImageError> {
        users::find(&self.path, wanted)
    }
}

impl Store {
    /// Makes and mounts the root file system of a container. Needs root. The same again is the same, mounted.
    pub fn rootfs(&self, image: &Image, id: &str) -> Result<Rootfs, ImageError> {
        if !rustix::process::geteuid().is_root() {
            return Err(ImageError::NeedsRoot("mounting a container's root file system"));
        }
        let _ingest = self.inner.ingest();
        let dir = self.rootfs_path(id)?;
        for folder in ["upper", "work", "merged"] {
            let folder = dir.join(folder);
            fs::create_dir_all(&folder).map_err(io_error("create", &folder))?;
        }
        let record = match self.read_rootfs(id)? {
            Some(record) => record,
            None => {
                let layers = image.layers.iter().map(|layer| layer.diff_id).collect();
                let record = Record { version: RECORD_VERSION, manifest: image.manifest, layers };
                let bytes = crate::archive::json(&record)?;
                write_file(&self.inner.blobs.temporary(), &dir.join("rootfs.json"), &bytes)?;
                record
            }
        };
        if record.manifest != image.manifest {
            return Err(ImageError::refused(format!("root file system {id}"), "it exists already, of another image"));
        }
        for layer in &image.layers {
            self.ensure_unpacked(layer)?;
        }
        self.mount_overlay(&dir, &record.layers)?;
        Ok(Rootfs { id: id.to_owned(), path: dir.join("merged"), manifest: record.manifest })
    }

    /// The root file system of that id, if it was made; mounted again if the machine was restarted since.
    pub fn rootfs_of(&self, id: &str) -> Result<Option<Rootfs>, ImageError> {
        let dir = self.rootfs_path(id)?;
        let Some(record) = self.read_rootfs(id)? else { return Ok(None) };
        self.mount_overlay(&dir, &record.layers)?;
        Ok(Some(Rootfs { id: id.to_owned(), path: dir.join("merged"), manifest: record.manifest }))
    }

    /// Unmounts and removes a root file system with everything written into it. Harmless if there is none.
    pub fn remove_rootfs(&self, id: &str) -> Result<(), ImageError> {
        let dir = self.rootfs_path(id)?;
        let merged = dir.join("merged");
        while is_overlay(&merged) {
            unmount(&merged, UnmountFlags::DETACH).map_err(sys_error("unmount", &merged))?;
        }
        match fs::remove_dir_all(&dir) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(io_error("remove", &dir)(error)),
            _ => Ok(()),
        }
    }

    /// Ids of all root file systems.
    pub fn rootfs_ids(&self) -> Result<Vec<String>, ImageError> {
        let dir = self.inner.rootfs_dir();
        let mut ids = Vec::new();
        for entry in fs::read_dir(&dir).map_err(io_error("list", &dir))? {
            let entry = entry.map_err(io_error("list", &dir))?;
            ids.extend(entry.file_name().into_string());
        }
        ids.sort();
        Ok(ids)
    }

    /// Content of the layers that a root file system needs.
    pub(crate) fn rootfs_layers(&self, id: &str) -> Result<Vec<Digest>, ImageError> {
        Ok(self.read_rootfs(id)?.map(|record| record.layers).unwrap_or_default())
    }

    fn rootfs_path(&self, id: &str) -> Result<PathBuf, ImageError> {
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte);
        if id.is_empty() || id.len() > ID_BYTES_MAX || id.starts_with('.') || !id.bytes().all(allowed) {
            let reason = "it has 1 to 128 letters, digits, underscores, dots and hyphens, and no dot first";
            return Err(ImageError::refused(format!("the id {id:?}"), reason));
        }
        Ok(self.inner.rootfs_dir().join(id))
    }

    fn read_rootfs(&self, id: &str) -> Result<Option<Record>, ImageError> {
        let path = self.rootfs_path(id)?.join("rootfs.json");
        let mut bytes = Vec::new();
        match File::open(&path).and_then(|file| file.take(RECORD_BYTES_MAX).read_to_end(&mut bytes)) {
            Ok(_) => {}
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(io_error("read", &path)(error)),
        }
        let record = serde_json::from_slice(&bytes);
        let record: Record =
            record.map_err(|error| ImageError::refused(path.display().to_string(), error.to_string()))?;
        if record.version != RECORD_VERSION {
            return Err(ImageError::refused(path.display().to_string(), "a newer Atoll wrote it"));
        }
        Ok(Some(record))
    }

    fn mount_overlay(&self, dir: &Path, layers: &[Digest]) -> Result<(), ImageError> {
        let merged = dir.join("merged");
        if is_overlay(&merged) {
            return Ok(());
        }
        // By file descriptor: a path may have a colon or a comma, and all of them together no more than a page.
        let handle = |path: &Path| {
            let mut options = OpenOptions::new();
            options.read(true).custom_flags(rustix::fs::OFlags::PATH.bits().cast_signed());
            options.open(path).map_err(io_error("open", path))
        };
        let mut lower = Vec::new();
        for &layer in layers.iter().rev() {
            lower.push(handle(&self.inner.layer_dir(layer).join("fs"))?);
        }
        if lower.is_empty() {
            let empty = dir.join("empty");
            fs::create_dir_all(&empty).map_err(io_error("create", &empty))?;
            lower.push(handle(&empty)?);
        }
        let (upper, work) = (handle(&dir.join("upper"))?, handle(&dir.join("work"))?);
        let name = |file: &File| format!("/proc/self/fd/{}", file.as_raw_fd());
        let stack: Vec<String> = lower.iter().map(name).collect();
        let options = format!("lowerdir={},upperdir={},workdir={}", stack.join(":"), name(&upper), name(&work));
        let options = std::ffi::CString::new(options).map_err(|error| io_error("mount", &merged)(error.into()))?;
        mount("overlay", &merged, "overlay", MountFlags::NODEV, options.as_c_str()).map_err(sys_error("mount", &merged))
    }
}

fn is_overlay(path: &Path) -> bool {
    // The folder around it may itself lie on an overlay, so the device must differ as well.
    use std::os::unix::fs::MetadataExt;
    let device = |path: &Path| fs::metadata(path).map(|metadata| metadata.dev()).ok();
    let kind = rustix::fs::statfs(path).map(|stat| stat.f_type);
    kind == Ok(OVERLAYFS_MAGIC) && path.parent().is_some_and(|parent| device(parent) != device(path))
}
