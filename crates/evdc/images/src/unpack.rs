//! A layer's tar file becomes a directory that overlayfs can stack.
//!
//! The archive is hostile. Every path is taken apart into components; `..` is refused, and parents are opened with
//! `openat2(RESOLVE_IN_ROOT)` relative to the layer's directory, so a link in the archive can lead anywhere within the layer and nowhere
//! else. The last component is created by a call that follows no link. Device nodes are refused, as are sparse files, whiteouts that name
//! no file, and anything over the limits. Extended headers are read with a limit, not by the tar library.
//!
//! Whiteouts (`.wh.name`) become overlayfs's character device 0/0, opaque directories (`.wh..wh..opq`) its attribute. Of extended
//! attributes, `user.*` and `security.capability` are kept and the rest is left out: `trusted.*` would speak to overlayfs itself.
//!
//! Needs root: ownership and whiteouts cannot be made otherwise. What was written before an error is the caller's to remove.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use rustix::fs::{
    AtFlags, Dev, FileType, Gid, Mode, OFlags, ResolveFlags, Timespec, Timestamps, Uid, XattrFlags, chownat, fchmod,
    fchown, fsetxattr, futimens, linkat, mkdirat, mknodat, openat, openat2, statat, symlinkat, unlinkat, utimensat,
};
use rustix::io::Errno;
use tar::EntryType;

use crate::error::{ImageError, sys_error};
use crate::limits::Limits;

/// Before the name of a file that the layer removes.
const WHITEOUT: &[u8] = b".wh.";
/// In a directory whose lower content the layer hides.
const OPAQUE: &[u8] = b".wh..wh..opq";
/// Other names of the kind belong to a file system long gone.
const WHITEOUT_META: &[u8] = b".wh..wh.";
/// Before an extended attribute in a pax header.
const XATTR: &[u8] = b"SCHILY.xattr.";

/// What a layer turned out to be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Unpacked {
    /// Entries, without extended headers.
    pub entries: u64,
    /// Content of its regular files.
    pub bytes: u64,
}

/// Unpacks a tar stream (already decompressed) into an existing directory.
pub fn unpack_layer(archive: impl Read, dir: &Path, limits: &Limits) -> Result<Unpacked, ImageError> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = rustix::fs::open(dir, flags, Mode::empty()).map_err(sys_error("open", dir))?;
    let mut unpacker =
        Unpacker { root: Rc::new(root), limits, done: Unpacked::default(), directories: Vec::new(), parent: None };
    let mut pending = Pending::default();
    let mut archive = tar::Archive::new(archive);
    for entry in archive.entries().map_err(broken)?.raw(true) {
        let mut entry = entry.map_err(broken)?;
        match entry.header().entry_type() {
            EntryType::GNULongName => pending.path = Some(until_nul(header_body(&mut entry, limits)?)),
            EntryType::GNULongLink => pending.link = Some(until_nul(header_body(&mut entry, limits)?)),
            EntryType::XHeader => pending.read_pax(&header_body(&mut entry, limits)?)?,
            EntryType::XGlobalHeader => drop(header_body(&mut entry, limits)?),
            kind => unpacker.entry(kind, &mut entry, std::mem::take(&mut pending))?,
        }
    }
    unpacker.finish()
}

fn broken(error: io::Error) -> ImageError {
    ImageError::refused("a layer", format!("its archive cannot be read: {error}"))
}

fn header_body(entry: &mut tar::Entry<'_, impl Read>, limits: &Limits) -> Result<Vec<u8>, ImageError> {
    let mut body = Vec::new();
    entry.by_ref().take(limits.header_bytes_max as u64 + 1).read_to_end(&mut body).map_err(broken)?;
    if body.len() > limits.header_bytes_max {
        return Err(ImageError::refused(
            "a layer",
            format!("an extended header is over {} bytes", limits.header_bytes_max),
        ));
    }
    Ok(body)
}

fn until_nul(mut bytes: Vec<u8>) -> Vec<u8> {
    let end = bytes.iter().position(|&byte| byte == 0).unwrap_or(bytes.len());
    bytes.truncate(end);
    bytes
}

/// What extended headers say about the entry that follows them.
#[derive(Default)]
struct Pending {
    path: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    uid: Option<u64>,
    gid: Option<u64>,
    size: Option<u64>,
    mtime: Option<Timespec>,
    xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

impl Pending {
    fn read_pax(&mut self, body: &[u8]) -> Result<(), ImageError> {
        for record in tar::PaxExtensions::new(body) {
            let record = record.map_err(broken)?;
            let (key, value) = (record.key_bytes(), record.value_bytes());
            let number = || std::str::from_utf8(value).ok().and_then(|text| text.parse().ok());
            match key {
                b"path" => self.path = Some(value.to_vec()),
                b"linkpath" => self.link = Some(value.to_vec()),
                b"uid" => self.uid = number(),
                b"gid" => self.gid = number(),
                b"size" => self.size = number(),
                b"mtime" => self.mtime = std::str::from_utf8(value).ok().and_then(pax_time),
                _ if key.starts_with(b"GNU.sparse.") => {
                    return Err(ImageError::refused("a layer", "it has a sparse file, which images do not"));
                }
                _ => {
                    let name = key.strip_prefix(XATTR).unwrap_or_default();
                    if name.starts_with(b"user.") || name == b"security.capability" {
                        self.xattrs.push((name.to_vec(), value.to_vec()));
                    }
                }
            }
        }
        Ok(())
    }
}

/// `seconds[.fraction]`; before 1970 is 1970.
fn pax_time(text: &str) -> Option<Timespec> {
    let (seconds, fraction) = text.split_once('.').unwrap_or((text, ""));
    let digits: String = fraction.chars().chain(std::iter::repeat('0')).take(9).collect();
    Some(Timespec { tv_sec: seconds.parse::<i64>().ok()?.max(0), tv_nsec: digits.parse().ok()? })
}

/// Everything about an entry but its content.
struct Attributes {
    shown: String,
    uid: Uid,
    gid: Gid,
    mode: Mode,
    times: Timestamps,
    xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

struct Unpacker<'a> {
    root: Rc<OwnedFd>,
    limits: &'a Limits,
    done: Unpacked,
    /// Directories and their times, which are set when nothing is written into them any more.
    directories: Vec<(PathBuf, Timestamps)>,
    /// The parent of the last entry, most likely that of the next.
    parent: Option<(PathBuf, Rc<OwnedFd>)>,
}

impl Unpacker<'_> {
    fn entry(
        &mut self,
        kind: EntryType,
        entry: &mut tar::Entry<'_, impl Read>,
        pending: Pending,
    ) -> Result<(), ImageError> {
        let path = pending.path.clone().unwrap_or_else(|| entry.header().path_bytes().into_owned());
        let link = pending.link.clone().or_else(|| entry.header().link_name_bytes().map(|name| name.into_owned()));
        let size = entry.header().entry_size().map_err(broken)?;
        let components = self.components(&path)?;
        let attributes = attributes(entry.header(), &path, pending, size)?;
        self.count(&attributes.shown, size)?;
        let Some((name, parents)) = components.split_last() else {
            return self.root_itself(kind, &attributes);
        };
        let parent = self.directory(parents, &attributes.shown)?;
        if name.starts_with(WHITEOUT) {
            return whiteout(&parent, name, &attributes.shown);
        }
        let name = OsStr::from_bytes(name);
        let is_directory = kind == EntryType::Directory || (kind == EntryType::Regular && path.ends_with(b"/"));
        clear(&parent, name, is_directory, &attributes.shown)?;
        match kind {
            _ if is_directory => {
                self.make_directory(&parent, name, &attributes)?;
                let path: PathBuf = components.iter().map(|part| OsStr::from_bytes(part)).collect();
                self.directories.push((path, attributes.times));
                Ok(())
            }
            EntryType::Regular | EntryType::Continuous => regular(&parent, name, &attributes, entry),
            EntryType::Symlink => symlink(&parent, name, &attributes, &self.target(link, &attributes.shown)?),
            EntryType::Link => self.hard_link(&parent, name, &attributes, &self.target(link, &attributes.shown)?),
            EntryType::Fifo => fifo(&parent, name, &attributes),
            EntryType::Char | EntryType::Block => {
                Err(ImageError::refused(attributes.shown, "it is a device node, and images bring none"))
            }
            other => Err(ImageError::refused(attributes.shown, format!("entries of type {other:?} are not known"))),
        }
    }

    fn count(&mut self, shown: &str, size: u64) -> Result<(), ImageError> {
        self.done.entries += 1;
        self.done.bytes = self.done.bytes.saturating_add(size);
        if self.done.entries > self.limits.layer_entries_max {
            let reason = format!("the layer has more than {} entries", self.limits.layer_entries_max);
            return Err(ImageError::refused(shown, reason));
        }
        if self.done.bytes > self.limits.layer_bytes_max.0 {
            let reason = format!("the layer's files have more than {}", self.limits.layer_bytes_max);
            return Err(ImageError::refused(shown, reason));
        }
        Ok(())
    }

    fn target(&self, link: Option<Vec<u8>>, shown: &str) -> Result<Vec<u8>, ImageError> {
        let link =
            link.filter(|link| !link.is_empty() && link.len() < self.limits.path_bytes_max && !link.contains(&0));
        link.ok_or_else(|| ImageError::refused(shown, "it is a link without a usable target"))
    }

    /// The names of a path without what means nothing.
    fn components<'p>(&self, path: &'p [u8]) -> Result<Vec<&'p [u8]>, ImageError> {
        let refuse = |reason: &str| Err(ImageError::refused(show(path), reason));
        if path.len() >= self.limits.path_bytes_max || path.contains(&0) {
            return refuse("its path is too long or contains a zero byte");
        }
        let parts: Vec<&[u8]> =
            path.split(|&byte| byte == b'/').filter(|part| !part.is_empty() && *part != b".").collect();
        if parts.contains(&&b".."[..]) {
            return refuse("its path leads out of the layer");
        }
        Ok(parts)
    }

    fn root_itself(&mut self, kind: EntryType, attributes: &Attributes) -> Result<(), ImageError> {
        if kind != EntryType::Directory {
            return Err(ImageError::refused("a layer", "its root is not a directory"));
        }
        self.directories.push((PathBuf::new(), attributes.times.clone()));
        dress(&self.root, attributes)
    }

    /// Opens a directory of the layer, making those of its parents that no entry has made.
    fn directory(&mut self, parts: &[&[u8]], shown: &str) -> Result<Rc<OwnedFd>, ImageError> {
        let path: PathBuf = parts.iter().map(|part| OsStr::from_bytes(part)).collect();
        if let Some((_, fd)) = self.parent.as_ref().filter(|(cached, _)| *cached == path) {
            return Ok(Rc::clone(fd));
        }
        let fd = Rc::new(self.open_or_make(parts, &path, shown)?);
        self.parent = Some((path, Rc::clone(&fd)));
        Ok(fd)
    }

    fn open_or_make(&self, parts: &[&[u8]], path: &Path, shown: &str) -> Result<OwnedFd, ImageError> {
        match self.open_directory(path) {
            Ok(fd) => Ok(fd),
            Err(Errno::NOENT) => {
                let (name, parents) =
                    parts.split_last().ok_or_else(|| failed(shown, "open its parent", Errno::NOENT))?;
                let parent = self.open_or_make(parents, path.parent().unwrap_or(Path::new("")), shown)?;
                let name = OsStr::from_bytes(name);
                mkdirat(&parent, name, Mode::from_raw_mode(0o755))
                    .map_err(|errno| failed(shown, "make its parent", errno))?;
                open_child(&parent, name, shown)
            }
            Err(errno) => Err(failed(shown, "open its parent", errno)),
        }
    }

    fn open_directory(&self, path: &Path) -> Result<OwnedFd, Errno> {
        let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS | ResolveFlags::NO_XDEV;
        loop {
            match openat2(&self.root, path, flags, Mode::empty(), resolve) {
                // A rename elsewhere on the system raced with the walk.
                Err(Errno::AGAIN) => {}
                other => return other,
            }
        }
    }

    fn make_directory(&self, parent: &OwnedFd, name: &OsStr, attributes: &Attributes) -> Result<(), ImageError> {
        match mkdirat(parent, name, Mode::from_raw_mode(0o700)) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(errno) => return Err(failed(&attributes.shown, "make", errno)),
        }
        dress(&open_child(parent, name, &attributes.shown)?, attributes)
    }

    fn hard_link(
        &self,
        parent: &OwnedFd,
        name: &OsStr,
        attributes: &Attributes,
        target: &[u8],
    ) -> Result<(), ImageError> {
        let parts = self.components(target)?;
        let (last, parents) =
            parts.split_last().ok_or_else(|| ImageError::refused(&attributes.shown, "it links to the root"))?;
        let path: PathBuf = parents.iter().map(|part| OsStr::from_bytes(part)).collect();
        let from =
            self.open_directory(&path).map_err(|errno| failed(&attributes.shown, "find what it links to", errno))?;
        // No flag: a link at the end is linked itself, not followed.
        linkat(&from, OsStr::from_bytes(last), parent, name, AtFlags::empty())
            .map_err(|errno| failed(&attributes.shown, "link", errno))
    }

    fn finish(self) -> Result<Unpacked, ImageError> {
        for (path, times) in self.directories.iter().rev() {
            // One that a later entry replaced has no time to be set.
            if let Ok(fd) = self.open_directory(path) {
                futimens(&fd, times).map_err(sys_error("set the time of", path))?;
            }
        }
        Ok(self.done)
    }
}

fn attributes(header: &tar::Header, path: &[u8], pending: Pending, size: u64) -> Result<Attributes, ImageError> {
    let shown = show(path);
    if pending.size.is_some_and(|said| said != size) {
        return Err(ImageError::refused(shown, "its two headers disagree on its size"));
    }
    let id = |extended: Option<u64>, plain: io::Result<u64>| -> Result<u32, ImageError> {
        let id = extended.map_or(plain, Ok).map_err(broken)?;
        u32::try_from(id).map_err(|_| ImageError::refused(&shown, format!("there is no user or group {id}")))
    };
    let seconds = i64::try_from(header.mtime().unwrap_or(0)).unwrap_or(0);
    let time = pending.mtime.unwrap_or(Timespec { tv_sec: seconds, tv_nsec: 0 });
    Ok(Attributes {
        uid: Uid::from_raw(id(pending.uid, header.uid())?),
        gid: Gid::from_raw(id(pending.gid, header.gid())?),
        mode: Mode::from_raw_mode(header.mode().map_err(broken)? & 0o7777),
        times: Timestamps { last_access: time, last_modification: time },
        xattrs: pending.xattrs,
        shown,
    })
}

/// A path for a message, whatever bytes it has.
fn show(path: &[u8]) -> String {
    let cut = &path[..path.len().min(200)];
    format!("the entry {:?} of a layer", String::from_utf8_lossy(cut))
}

/// The system's refusal of what the archive asks for is the archive's fault, unless the disk is.
fn failed(shown: &str, what: &'static str, errno: Errno) -> ImageError {
    match errno {
        Errno::NOSPC | Errno::IO | Errno::DQUOT | Errno::ROFS | Errno::MFILE | Errno::NFILE | Errno::NOMEM => {
            ImageError::Io { what, path: PathBuf::from(shown), source: errno.into() }
        }
        Errno::PERM if !rustix::process::geteuid().is_root() => ImageError::NeedsRoot("unpacking a layer"),
        _ => ImageError::refused(shown, format!("cannot {what}: {}", io::Error::from(errno))),
    }
}

fn open_child(parent: &OwnedFd, name: &OsStr, shown: &str) -> Result<OwnedFd, ImageError> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    openat(parent, name, flags, Mode::empty()).map_err(|errno| failed(shown, "open", errno))
}

/// Makes room for an entry that comes again. A directory stays for a directory.
fn clear(parent: &OwnedFd, name: &OsStr, for_directory: bool, shown: &str) -> Result<(), ImageError> {
    let stat = match statat(parent, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => stat,
        Err(Errno::NOENT) => return Ok(()),
        Err(errno) => return Err(failed(shown, "look at", errno)),
    };
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::Directory if for_directory => Ok(()),
        FileType::Directory => Err(ImageError::refused(shown, "it replaces a directory of the same layer")),
        _ => unlinkat(parent, name, AtFlags::empty()).map_err(|errno| failed(shown, "replace", errno)),
    }
}

fn whiteout(parent: &OwnedFd, name: &[u8], shown: &str) -> Result<(), ImageError> {
    if name == OPAQUE {
        let set = fsetxattr(parent, "trusted.overlay.opaque", b"y", XattrFlags::empty());
        return set.map_err(|errno| failed(shown, "make its directory opaque", errno));
    }
    if name.starts_with(WHITEOUT_META) {
        return Ok(());
    }
    let hidden = &name[WHITEOUT.len()..];
    if hidden.is_empty() || hidden == b"." || hidden == b".." {
        return Err(ImageError::refused(shown, "it is a whiteout of nothing"));
    }
    match mknodat(parent, OsStr::from_bytes(hidden), FileType::CharacterDevice, Mode::empty(), 0 as Dev) {
        // A whiteout is about lower layers; what this layer brings itself stays.
        Ok(()) | Err(Errno::EXIST) => Ok(()),
        Err(errno) => Err(failed(shown, "make a whiteout", errno)),
    }
}

/// Owner first: changing it clears the set-user-ID bit, which the mode may then set.
fn dress(fd: &OwnedFd, attributes: &Attributes) -> Result<(), ImageError> {
    let failed = |what| move |errno| failed(&attributes.shown, what, errno);
    fchown(fd, Some(attributes.uid), Some(attributes.gid)).map_err(failed("set the owner"))?;
    fchmod(fd, attributes.mode).map_err(failed("set the mode"))?;
    for (name, value) in &attributes.xattrs {
        match fsetxattr(fd, OsStr::from_bytes(name), value, XattrFlags::empty()) {
            // Not every file system has user attributes; an image must not depend on them.
            Ok(()) | Err(Errno::NOTSUP) => {}
            Err(errno) => return Err(failed("set an attribute")(errno)),
        }
    }
    Ok(())
}

fn regular(parent: &OwnedFd, name: &OsStr, attributes: &Attributes, content: &mut impl Read) -> Result<(), ImageError> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let fd = openat(parent, name, flags, Mode::from_raw_mode(0o600))
        .map_err(|errno| failed(&attributes.shown, "create", errno))?;
    let mut file = File::from(fd);
    io::copy(content, &mut file).map_err(|error| match error.raw_os_error() {
        Some(_) => ImageError::Io { what: "write", path: PathBuf::from(&attributes.shown), source: error },
        None => ImageError::refused(&attributes.shown, error.to_string()),
    })?;
    let fd = OwnedFd::from(file);
    dress(&fd, attributes)?;
    futimens(&fd, &attributes.times).map_err(|errno| failed(&attributes.shown, "set the time", errno))
}

fn symlink(parent: &OwnedFd, name: &OsStr, attributes: &Attributes, target: &[u8]) -> Result<(), ImageError> {
    symlinkat(OsStr::from_bytes(target), parent, name).map_err(|errno| failed(&attributes.shown, "make", errno))?;
    dress_unopened(parent, name, attributes)
}

fn fifo(parent: &OwnedFd, name: &OsStr, attributes: &Attributes) -> Result<(), ImageError> {
    mknodat(parent, name, FileType::Fifo, attributes.mode, 0 as Dev)
        .map_err(|errno| failed(&attributes.shown, "make", errno))?;
    dress_unopened(parent, name, attributes)
}

fn dress_unopened(parent: &OwnedFd, name: &OsStr, attributes: &Attributes) -> Result<(), ImageError> {
    let failed = |what| move |errno| failed(&attributes.shown, what, errno);
    chownat(parent, name, Some(attributes.uid), Some(attributes.gid), AtFlags::SYMLINK_NOFOLLOW)
        .map_err(failed("set the owner"))?;
    utimensat(parent, name, &attributes.times, AtFlags::SYMLINK_NOFOLLOW).map_err(failed("set the time"))
}
