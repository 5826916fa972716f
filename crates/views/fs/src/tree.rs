//! The whole file system in memory: inodes, names, extents, blobs. Pure: no clock, no network, no disk.
//!
//! Operations (`ops.rs`, `names.rs`) look, decide, and make a list of [`Change`]s; [`Tree::apply`] is the only thing that changes anything, and replay uses
//! the same. So what an operation does now and what its record does after a crash cannot differ.
//!
//! Written bytes are in memory until a flush (`flush.rs`) has dispersed them; then the extent is replaced by a reference to a blob. A blob whose last
//! reference is gone is dead, and is deleted once the change that killed it is durable.
//!
//! Limit: everything but file content is in memory, some 300 bytes per file; [`INODES_MAX`] bounds it. Invariants: a directory's names point to inodes
//! that exist; `nlink` counts names; a blob's `live` is the sum of the extents that refer to it.

use std::collections::btree_map::Entry as OrderEntry;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use atoll_engine::BlobManifest;

pub(crate) mod change;
pub(crate) mod extents;
pub(crate) mod flush;
pub(crate) mod names;
pub(crate) mod ops;

use change::{Attr, Change, Ino, Kind, ROOT, Time, Transaction};
use extents::{BlobId, Extent, Extents, Place};

use crate::errno::Errno;

/// Files, directories and links of one volume, at most: about 300 MiB of memory with names.
pub const INODES_MAX: usize = 1_000_000;

/// Something with attributes.
#[derive(Debug)]
pub(crate) struct Inode {
    pub(crate) attr: Attr,
    pub(crate) body: Body,
    pub(crate) xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
}

#[derive(Debug)]
pub(crate) enum Body {
    File(Extents),
    Directory(Directory),
    Symlink(Vec<u8>),
    Other,
}

/// The names in a directory. Each has a number that stays as long as the name does, so that a listing can be continued while names come and go.
#[derive(Debug, Default)]
pub(crate) struct Directory {
    pub(crate) parent: Ino,
    names: HashMap<Arc<[u8]>, (Ino, u64)>,
    order: BTreeMap<u64, Arc<[u8]>>,
    next: u64,
}

/// A blob that files refer to, or that waits to be deleted.
#[derive(Clone, Debug)]
pub(crate) struct Blob {
    pub(crate) manifest: BlobManifest,
    pub(crate) size: u64,
    /// Bytes that extents refer to.
    pub(crate) live: u64,
    /// It is a segment that the head names: it stays until the head does not, though no file refers to it.
    pub(crate) pinned: bool,
}

/// A change that contradicts what there is: the journal is damaged, or a newer program wrote it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a record of the journal contradicts those before it")]
pub struct Contradiction;

/// The file system.
#[derive(Debug, Default)]
pub(crate) struct Tree {
    pub(crate) inodes: HashMap<Ino, Inode>,
    pub(crate) blobs: HashMap<BlobId, Blob>,
    next_ino: Ino,
    next_blob: BlobId,
    /// What happened since the last snapshot.
    pub(crate) pending: Vec<Transaction>,
    /// Files with bytes that are only in memory.
    pub(crate) dirty: BTreeSet<Ino>,
    pub(crate) dirty_bytes: u64,
    /// Bytes of all extents.
    pub(crate) used_bytes: u64,
    /// Counts everything that a flush would have to make durable.
    pub(crate) version: u64,
    /// How often the kernel holds an inode; what it holds stays though its last name is gone.
    held: HashMap<Ino, u64>,
}

impl Directory {
    pub(crate) fn get(&self, name: &[u8]) -> Option<Ino> {
        self.names.get(name).map(|(ino, _)| *ino)
    }

    pub(crate) fn len(&self) -> usize {
        self.names.len()
    }

    /// Names after a number, with theirs.
    pub(crate) fn after(&self, number: u64) -> impl Iterator<Item = (u64, &[u8], Ino)> {
        let range = self.order.range(number.saturating_add(1)..);
        range.filter_map(|(&at, name)| Some((at, name.as_ref(), self.get(name)?)))
    }

    fn set(&mut self, name: &[u8], ino: Ino) {
        if let Some(entry) = self.names.get_mut(name) {
            entry.0 = ino;
            return;
        }
        let name: Arc<[u8]> = name.into();
        self.next += 1;
        // The first two numbers are "." and "..".
        let number = self.next + 2;
        self.names.insert(name.clone(), (ino, number));
        if let OrderEntry::Vacant(place) = self.order.entry(number) {
            place.insert(name);
        }
    }

    fn unset(&mut self, name: &[u8]) -> bool {
        let Some((_, number)) = self.names.remove(name) else { return false };
        self.order.remove(&number).is_some()
    }
}

impl Inode {
    fn new(attr: Attr) -> Self {
        let body = match attr.kind {
            Kind::File => Body::File(Extents::default()),
            Kind::Directory => Body::Directory(Directory::default()),
            Kind::Symlink => Body::Symlink(Vec::new()),
            Kind::Fifo | Kind::Socket | Kind::CharDevice | Kind::BlockDevice => Body::Other,
        };
        Self { attr, body, xattrs: BTreeMap::new() }
    }
}

impl Tree {
    /// An empty file system.
    pub(crate) fn format(now: Time) -> Self {
        let mut tree = Self::default();
        let times = (now, now, now);
        let attr = Attr {
            kind: Kind::Directory,
            perm: 0o755,
            uid: 0,
            gid: 0,
            nlink: 2,
            size: 0,
            rdev: 0,
            atime: times.0,
            mtime: times.1,
            ctime: times.2,
        };
        let made = tree.commit(vec![Change::Inode { ino: ROOT, attr }]);
        debug_assert!(made.is_ok());
        tree
    }

    /// Carries changes out and remembers them for the next segment.
    pub(crate) fn commit(&mut self, changes: Vec<Change>) -> Result<(), Errno> {
        self.version += 1;
        self.note(changes)
    }

    /// The same for what need not be made durable soon.
    pub(crate) fn note(&mut self, changes: Vec<Change>) -> Result<(), Errno> {
        for change in &changes {
            self.apply(change, None).map_err(|Contradiction| Errno::Io)?;
        }
        self.pending.push(Transaction(changes));
        Ok(())
    }

    /// Carries out a transaction from a segment, which `own` is the manifest of.
    pub(crate) fn replay(
        &mut self,
        transaction: &Transaction,
        own: Option<&BlobManifest>,
    ) -> Result<(), Contradiction> {
        transaction.0.iter().try_for_each(|change| self.apply(change, own))
    }

    fn apply(&mut self, change: &Change, own: Option<&BlobManifest>) -> Result<(), Contradiction> {
        match change {
            Change::Inode { ino, attr } => return self.apply_inode(*ino, attr),
            Change::Gone { ino } => {
                let inode = self.inodes.remove(ino).ok_or(Contradiction)?;
                self.dirty.remove(ino);
                if let Body::File(mut extents) = inode.body {
                    self.let_go(extents.remove(0, u64::MAX));
                }
            }
            Change::Entry { dir, name, ino } => {
                let child = self.inodes.get_mut(ino).ok_or(Contradiction)?;
                if let Body::Directory(directory) = &mut child.body {
                    directory.parent = *dir;
                }
                self.directory_mut(*dir).ok_or(Contradiction)?.set(name, *ino);
            }
            Change::NoEntry { dir, name } => {
                let was = self.directory_mut(*dir).ok_or(Contradiction)?.unset(name);
                return if was { Ok(()) } else { Err(Contradiction) };
            }
            Change::Target { ino, target } => match self.inodes.get_mut(ino).map(|inode| &mut inode.body) {
                Some(Body::Symlink(place)) => place.clone_from(target),
                _ => return Err(Contradiction),
            },
            Change::Xattr { ino, name, value } => {
                let xattrs = &mut self.inodes.get_mut(ino).ok_or(Contradiction)?.xattrs;
                match value {
                    Some(value) => drop(xattrs.insert(name.clone(), value.clone())),
                    None => drop(xattrs.remove(name)),
                }
            }
            Change::Cut { ino, from } => {
                let removed = self.extents_mut(*ino).ok_or(Contradiction)?.remove(*from, u64::MAX);
                self.let_go(removed);
            }
            Change::Stored { ino, at, len, blob, from } => {
                let within =
                    self.blobs.get(blob).is_some_and(|it| from.checked_add(*len).is_some_and(|end| end <= it.size));
                if !within || at.checked_add(*len).is_none() {
                    return Err(Contradiction);
                }
                let place = Place::Stored { blob: *blob, from: *from };
                return self.place(*ino, *at, Extent { len: *len, place });
            }
            Change::Blob { blob, manifest, size } => self.apply_blob(*blob, manifest, *size, false),
            Change::Own { blob, size } => self.apply_blob(*blob, own.ok_or(Contradiction)?, *size, true),
            Change::BlobGone { blob } => {
                let gone = self.blobs.remove(blob).ok_or(Contradiction)?;
                return if gone.live == 0 { Ok(()) } else { Err(Contradiction) };
            }
        }
        Ok(())
    }

    fn apply_inode(&mut self, ino: Ino, attr: &Attr) -> Result<(), Contradiction> {
        self.next_ino = self.next_ino.max(ino);
        match self.inodes.get_mut(&ino) {
            Some(inode) if inode.attr.kind == attr.kind => inode.attr = *attr,
            Some(_) => return Err(Contradiction),
            None => drop(self.inodes.insert(ino, Inode::new(*attr))),
        }
        Ok(())
    }

    fn apply_blob(&mut self, blob: BlobId, manifest: &BlobManifest, size: u64, pinned: bool) {
        self.next_blob = self.next_blob.max(blob);
        let entry = self.blobs.entry(blob);
        let place = entry.or_insert(Blob { manifest: manifest.clone(), size, live: 0, pinned });
        place.manifest = manifest.clone();
    }

    /// Puts an extent in its place and keeps the sums.
    pub(crate) fn place(&mut self, ino: Ino, at: u64, extent: Extent) -> Result<(), Contradiction> {
        self.used_bytes += extent.len;
        match extent.place {
            Place::Memory(_) => {
                self.dirty_bytes += extent.len;
                self.dirty.insert(ino);
            }
            Place::Stored { blob, .. } => self.blobs.get_mut(&blob).ok_or(Contradiction)?.live += extent.len,
        }
        let replaced = self.extents_mut(ino).ok_or(Contradiction)?.insert(at, extent);
        self.let_go(replaced);
        Ok(())
    }

    /// Keeps the sums when extents are gone.
    pub(crate) fn let_go(&mut self, removed: Vec<Extent>) {
        for extent in removed {
            self.used_bytes = self.used_bytes.saturating_sub(extent.len);
            match extent.place {
                Place::Memory(_) => self.dirty_bytes = self.dirty_bytes.saturating_sub(extent.len),
                Place::Stored { blob, .. } => {
                    if let Some(blob) = self.blobs.get_mut(&blob) {
                        blob.live = blob.live.saturating_sub(extent.len);
                    }
                }
            }
        }
    }

    pub(crate) fn fresh_blob(&mut self) -> BlobId {
        self.next_blob += 1;
        self.next_blob
    }

    fn fresh_ino(&mut self) -> Ino {
        self.next_ino = self.next_ino.max(ROOT) + 1;
        self.next_ino
    }

    pub(crate) fn inode(&self, ino: Ino) -> Result<&Inode, Errno> {
        self.inodes.get(&ino).ok_or(Errno::NotFound)
    }

    pub(crate) fn attr(&self, ino: Ino) -> Result<Attr, Errno> {
        Ok(self.inode(ino)?.attr)
    }

    pub(crate) fn directory(&self, ino: Ino) -> Result<&Directory, Errno> {
        match &self.inode(ino)?.body {
            Body::Directory(directory) => Ok(directory),
            _ => Err(Errno::NotDirectory),
        }
    }

    fn directory_mut(&mut self, ino: Ino) -> Option<&mut Directory> {
        match &mut self.inodes.get_mut(&ino)?.body {
            Body::Directory(directory) => Some(directory),
            _ => None,
        }
    }

    pub(crate) fn extents(&self, ino: Ino) -> Result<&Extents, Errno> {
        match &self.inode(ino)?.body {
            Body::File(extents) => Ok(extents),
            Body::Directory(_) => Err(Errno::IsDirectory),
            Body::Symlink(_) | Body::Other => Err(Errno::Invalid),
        }
    }

    pub(crate) fn extents_mut(&mut self, ino: Ino) -> Option<&mut Extents> {
        match &mut self.inodes.get_mut(&ino)?.body {
            Body::File(extents) => Some(extents),
            _ => None,
        }
    }

    /// The kernel holds it once more.
    pub(crate) fn hold(&mut self, ino: Ino) {
        *self.held.entry(ino).or_insert(0) += 1;
    }

    /// The kernel holds it so many times less; what has no name any more goes with the last.
    pub(crate) fn release(&mut self, ino: Ino, times: u64) {
        if let Some(held) = self.held.get_mut(&ino) {
            *held = held.saturating_sub(times);
            if *held > 0 {
                return;
            }
            self.held.remove(&ino);
        }
        if self.inodes.get(&ino).is_some_and(|inode| inode.attr.nlink == 0) {
            let gone = self.commit(vec![Change::Gone { ino }]);
            debug_assert!(gone.is_ok());
        }
    }

    fn is_held(&self, ino: Ino) -> bool {
        self.held.contains_key(&ino)
    }

    /// Removes what was unlinked while open when the last mount ended.
    pub(crate) fn drop_orphans(&mut self) {
        let orphans: Vec<Ino> =
            self.inodes.iter().filter(|(_, inode)| inode.attr.nlink == 0).map(|(&ino, _)| ino).collect();
        for ino in orphans {
            self.release(ino, 0);
        }
    }

    /// Blobs that nothing refers to and no head names.
    pub(crate) fn dead_blobs(&self) -> Vec<BlobId> {
        self.blobs.iter().filter(|(_, blob)| blob.live == 0 && !blob.pinned).map(|(&id, _)| id).collect()
    }
}

#[cfg(test)]
mod tests;
