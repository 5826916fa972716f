//! What a flush takes from the tree and gives back: a snapshot to disperse, and where its bytes are now.
//!
//! Between the two the file system goes on. A written extent is recognised afterwards by the memory it shares with the snapshot, which keeps that memory
//! alive, so no other write can have taken its place unseen.

use atoll_engine::BlobManifest;
use bytes::Bytes;

use super::change::{Change, Ino, Transaction, push_frame};
use super::extents::{BlobId, Extent, Extents, Place};
use super::{Body, Contradiction, Tree};

/// Changes per record of a checkpoint: a record is decoded whole.
const CHECKPOINT_BATCH: usize = 512;

/// Written bytes of a file.
#[derive(Clone, Debug)]
pub(crate) struct Part {
    pub(crate) ino: Ino,
    pub(crate) at: u64,
    pub(crate) bytes: Bytes,
}

/// Parts that go into one blob, in order, the first at `start`.
#[derive(Clone, Debug)]
pub(crate) struct Pack {
    pub(crate) blob: BlobId,
    pub(crate) start: u64,
    pub(crate) len: u64,
    pub(crate) parts: Vec<Part>,
}

/// What is to be made durable.
#[derive(Debug, Default)]
pub(crate) struct Snapshot {
    /// What happened since the last one.
    pub(crate) transactions: Vec<Transaction>,
    /// Attributes of the files with written bytes.
    pub(crate) attrs: Vec<Change>,
    pub(crate) parts: Vec<Part>,
    /// Dead blobs: deleted when this is durable.
    pub(crate) doomed: Vec<BlobId>,
    pub(crate) version: u64,
    /// Instead of the transactions: frames that make the whole tree, and how many.
    pub(crate) whole: Option<(Vec<u8>, u64)>,
}

impl Snapshot {
    pub(crate) fn part_bytes(&self) -> u64 {
        self.parts.iter().map(|part| part.bytes.len() as u64).sum()
    }
}

impl Pack {
    /// Where its parts are, as changes; parts that continue each other are one.
    pub(crate) fn changes(&self) -> Vec<Change> {
        let mut changes: Vec<Change> = Vec::new();
        let mut from = self.start;
        for part in &self.parts {
            let more = part.bytes.len() as u64;
            match changes.last_mut() {
                Some(Change::Stored { ino, at, len, .. }) if *ino == part.ino && *at + *len == part.at => *len += more,
                _ => {
                    let (ino, at, blob) = (part.ino, part.at, self.blob);
                    changes.push(Change::Stored { ino, at, len: more, blob, from });
                }
            }
            from += more;
        }
        changes
    }
}

impl Tree {
    /// Takes what is not yet durable; with `whole`, as one description of everything.
    pub(crate) fn snapshot(&mut self, whole: bool) -> Snapshot {
        let mut snapshot = Snapshot {
            transactions: std::mem::take(&mut self.pending),
            doomed: self.dead_blobs(),
            version: self.version,
            whole: whole.then(|| self.encode_whole()),
            ..Snapshot::default()
        };
        for &ino in &self.dirty {
            let Some(inode) = self.inodes.get(&ino) else { continue };
            let Body::File(extents) = &inode.body else { continue };
            snapshot.attrs.push(Change::Inode { ino, attr: inode.attr });
            for (at, extent) in extents.iter() {
                if let Place::Memory(bytes) = &extent.place {
                    snapshot.parts.push(Part { ino, at, bytes: bytes.clone() });
                }
            }
        }
        snapshot
    }

    /// Puts back what could not be made durable.
    pub(crate) fn restore(&mut self, transactions: Vec<Transaction>) {
        self.pending.splice(0..0, transactions);
    }

    /// Cuts parts into packs of at most `pack_bytes`.
    pub(crate) fn pack(&mut self, parts: &[Part], pack_bytes: usize) -> Vec<Pack> {
        let mut packs: Vec<Pack> = Vec::new();
        for part in parts {
            let (mut at, mut bytes) = (part.at, part.bytes.clone());
            while !bytes.is_empty() {
                let room = packs.last().map_or(0, |pack| pack_bytes - usize::try_from(pack.len).unwrap_or(pack_bytes));
                if room == 0 {
                    packs.push(Pack { blob: self.fresh_blob(), start: 0, len: 0, parts: Vec::new() });
                    continue;
                }
                let piece = bytes.split_to(room.min(bytes.len()));
                let len = piece.len() as u64;
                if let Some(pack) = packs.last_mut() {
                    pack.len += len;
                    pack.parts.push(Part { ino: part.ino, at, bytes: piece });
                }
                at += len;
            }
        }
        packs
    }

    /// The bytes of a pack are durable in this blob now: whatever of them is still current refers to it from here on.
    pub(crate) fn settle(&mut self, pack: &Pack, manifest: &BlobManifest, pinned: bool) -> Result<(), Contradiction> {
        self.apply_blob(pack.blob, manifest, pack.start + pack.len, pinned);
        let mut from = pack.start;
        for part in &pack.parts {
            let len = part.bytes.len() as u64;
            for (at, extent) in self.current(part) {
                let place = Place::Stored { blob: pack.blob, from: from + (at - part.at) };
                self.place(part.ino, at, Extent { len: extent.len, place })?;
            }
            from += len;
        }
        Ok(())
    }

    /// Forgets which files were written to, where nothing of it is only in memory any more.
    pub(crate) fn sweep(&mut self) {
        let dirty = std::mem::take(&mut self.dirty);
        self.dirty = dirty.into_iter().filter(|&ino| self.extents(ino).is_ok_and(Extents::is_dirty)).collect();
    }

    /// What of a part has not been overwritten or cut off since.
    fn current(&self, part: &Part) -> Vec<(u64, Extent)> {
        let Ok(extents) = self.extents(part.ino) else { return Vec::new() };
        let mut found = extents.within(part.at, part.at + part.bytes.len() as u64);
        found.retain(|(at, extent)| match &extent.place {
            Place::Memory(bytes) => {
                let skip = usize::try_from(at - part.at).unwrap_or(usize::MAX);
                part.bytes.get(skip..).is_some_and(|rest| rest.as_ptr() == bytes.as_ptr())
            }
            Place::Stored { .. } => false,
        });
        found
    }

    /// Everything that is not only in memory, as frames.
    fn encode_whole(&self) -> (Vec<u8>, u64) {
        let mut writer = Writer::default();
        for (&blob, it) in &self.blobs {
            writer.push(Change::Blob { blob, manifest: it.manifest.clone(), size: it.size });
        }
        for (&ino, inode) in &self.inodes {
            writer.push(Change::Inode { ino, attr: inode.attr });
            if let Body::Symlink(target) = &inode.body {
                writer.push(Change::Target { ino, target: target.clone() });
            }
            for (name, value) in &inode.xattrs {
                writer.push(Change::Xattr { ino, name: name.clone(), value: Some(value.clone()) });
            }
        }
        for (&ino, inode) in &self.inodes {
            match &inode.body {
                Body::Directory(directory) => {
                    for (_, name, child) in directory.after(0) {
                        writer.push(Change::Entry { dir: ino, name: name.to_vec(), ino: child });
                    }
                }
                Body::File(extents) => {
                    for (at, extent) in extents.iter() {
                        if let Place::Stored { blob, from } = extent.place {
                            writer.push(Change::Stored { ino, at, len: extent.len, blob, from });
                        }
                    }
                }
                Body::Symlink(_) | Body::Other => {}
            }
        }
        writer.finish()
    }
}

/// Writes changes as frames of many.
#[derive(Default)]
struct Writer {
    frames: Vec<u8>,
    count: u64,
    batch: Transaction,
}

impl Writer {
    fn push(&mut self, change: Change) {
        self.batch.0.push(change);
        if self.batch.0.len() == CHECKPOINT_BATCH {
            self.turn();
        }
    }

    fn turn(&mut self) {
        push_frame(&mut self.frames, &self.batch);
        self.batch.0.clear();
        self.count += 1;
    }

    fn finish(mut self) -> (Vec<u8>, u64) {
        if !self.batch.0.is_empty() {
            self.turn();
        }
        (self.frames, self.count)
    }
}
