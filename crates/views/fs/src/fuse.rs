//! The FUSE driver: the kernel's requests, answered from a volume.
//!
//! What needs only the tree is answered on the thread that read the request. What may have to wait for nodes (reading what is not cached, `fsync`, changes while
//! memory is full) is a task on the tokio runtime, so a cut network never occupies the few threads that answer `stat` and `df`. The kernel bounds how
//! many requests it has outstanding, and so these tasks.
//!
//! An inode stays as long as the kernel refers to it (`lookup` to `forget`), which covers open files: so a file that is unlinked while open lives until
//! it is closed, without a table of open files. Permissions are the kernel's to check (`default_permissions`), locks too.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use fuser::{
    BsdFileFlags, FileAttr, FileHandle, Filesystem, FopenFlags, Generation, INodeNo, InitFlags, KernelConfig,
    LockOwner, OpenFlags, RenameFlags, ReplyAttr, ReplyCreate, ReplyData, ReplyDirectory, ReplyDirectoryPlus,
    ReplyEmpty, ReplyEntry, ReplyLseek, ReplyOpen, ReplyStatfs, ReplyWrite, ReplyXattr, Request, TimeOrNow, WriteFlags,
};
use tokio::runtime::Handle;

use crate::errno::Errno;
use crate::tree::change::{Ino, Kind};
use crate::tree::names::{Make, NAME_BYTES_MAX, Rename};
use crate::tree::ops::{Listed, SetAttr, XattrMode};
use crate::tree::{Body, INODES_MAX, Tree};
use crate::volume::{Shared, Volume, now};
use convert::{attr, errno, file_type, kind, perm, time_or_now};

mod convert;

/// How long the kernel may answer from what it was told: nobody else changes a mounted volume, so this only bounds a defect.
const TTL: Duration = Duration::from_secs(60);
/// Largest write and read-ahead of the kernel in bytes: a stripe.
const TRANSFER_BYTES_MAX: u32 = 1 << 20;
/// Read-ahead and other requests that the kernel has under way by itself.
const BACKGROUND_MAX: u16 = 64;
/// Names that are looked at for one answer to `readdir`; the kernel's buffer holds fewer.
const LISTED_MAX: usize = 1024;
/// What `SEEK_DATA` and `SEEK_HOLE` are, from `<unistd.h>`.
const SEEK_DATA: i32 = 3;
const SEEK_HOLE: i32 = 4;
/// Flags of `setxattr`, from `<sys/xattr.h>`.
const XATTR_CREATE: i32 = 1;
const XATTR_REPLACE: i32 = 2;

/// Answers for one volume.
pub(crate) struct Driver {
    shared: Arc<Shared>,
    volume: Volume,
    runtime: Handle,
}

type Answer<T> = Result<T, Errno>;

impl Driver {
    pub(crate) fn new(volume: Volume, runtime: Handle) -> Self {
        Self { shared: volume.shared.clone(), volume, runtime }
    }

    /// Carries out a change: at once, or in a task when it has to wait for room.
    fn change<T: Send + 'static>(
        &self,
        change: impl FnOnce(&Shared) -> Answer<T> + Send + 'static,
        answer: impl FnOnce(Answer<T>) + Send + 'static,
    ) {
        if !self.shared.is_crowded() {
            answer(change(&self.shared));
            return;
        }
        let shared = self.shared.clone();
        self.runtime.spawn(async move {
            let room = shared.room().await;
            answer(room.and_then(|()| change(&shared)));
        });
    }

    /// A change of the tree.
    fn alter<T: Send + 'static>(
        &self,
        change: impl FnOnce(&mut Tree) -> Answer<T> + Send + 'static,
        answer: impl FnOnce(Answer<T>) + Send + 'static,
    ) {
        let change = move |shared: &Shared| {
            shared.writable()?;
            change(&mut shared.tree())
        };
        self.change(change, answer);
    }

    fn sync(&self, reply: ReplyEmpty) {
        let volume = self.volume.clone();
        self.runtime.spawn(async move { empty(reply, volume.sync().await) });
    }

    fn make(&self, dir: INodeNo, name: &OsStr, make: Make, answer: impl FnOnce(Answer<FileAttr>) + Send + 'static) {
        let name = name.as_bytes().to_vec();
        let change = move |tree: &mut Tree| {
            let (ino, _) = tree.make(dir.0, &name, make, now())?;
            hand_out(tree, ino)
        };
        self.alter(change, answer);
    }
}

/// The attributes as the kernel wants them.
fn shown(tree: &Tree, ino: Ino) -> Answer<FileAttr> {
    let inode = tree.inode(ino)?;
    let held = match &inode.body {
        Body::File(extents) => extents.bytes(),
        Body::Directory(_) | Body::Symlink(_) | Body::Other => 0,
    };
    Ok(attr(ino, &inode.attr, held))
}

/// The same for an answer by which the kernel comes to refer to the inode.
fn hand_out(tree: &mut Tree, ino: Ino) -> Answer<FileAttr> {
    let shown = shown(tree, ino)?;
    tree.hold(ino);
    Ok(shown)
}

fn empty(reply: ReplyEmpty, answer: Answer<()>) {
    match answer {
        Ok(()) => reply.ok(),
        Err(error) => reply.error(errno(error)),
    }
}

fn entry(reply: ReplyEntry, answer: Answer<FileAttr>) {
    match answer {
        Ok(attr) => reply.entry(&TTL, &attr, Generation(0)),
        Err(error) => reply.error(errno(error)),
    }
}

/// Answers an extended attribute's value or the list of names: the size if that is asked for, else the bytes if they fit.
fn xattr(reply: ReplyXattr, size: u32, answer: Answer<Vec<u8>>) {
    match answer {
        Ok(bytes) => match u32::try_from(bytes.len()) {
            Ok(len) if size == 0 => reply.size(len),
            Ok(len) if len <= size => reply.data(&bytes),
            _ => reply.error(fuser::Errno::ERANGE),
        },
        Err(error) => reply.error(errno(error)),
    }
}

impl Filesystem for Driver {
    fn init(&mut self, _req: &Request, config: &mut KernelConfig) -> std::io::Result<()> {
        let wanted =
            InitFlags::FUSE_PARALLEL_DIROPS | InitFlags::FUSE_DO_READDIRPLUS | InitFlags::FUSE_READDIRPLUS_AUTO;
        // Each only makes it faster; what an old kernel does not know, or has less of, is done without.
        let _ = config.add_capabilities(wanted & config.capabilities());
        let _ = config.set_max_write(TRANSFER_BYTES_MAX);
        if let Err(most) = config.set_max_readahead(TRANSFER_BYTES_MAX) {
            let _ = config.set_max_readahead(most);
        }
        let _ = config.set_max_background(BACKGROUND_MAX);
        Ok(())
    }

    fn lookup(&self, _req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let mut tree = self.shared.tree();
        let found = tree.lookup(parent.0, name.as_bytes()).and_then(|(ino, _)| hand_out(&mut tree, ino));
        drop(tree);
        entry(reply, found);
    }

    fn forget(&self, _req: &Request, ino: INodeNo, nlookup: u64) {
        self.shared.tree().release(ino.0, nlookup);
    }

    fn getattr(&self, _req: &Request, ino: INodeNo, _fh: Option<FileHandle>, reply: ReplyAttr) {
        let found = shown(&self.shared.tree(), ino.0);
        match found {
            Ok(attr) => reply.attr(&TTL, &attr),
            Err(error) => reply.error(errno(error)),
        }
    }

    fn setattr(
        &self,
        _req: &Request,
        ino: INodeNo,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        size: Option<u64>,
        atime: Option<TimeOrNow>,
        mtime: Option<TimeOrNow>,
        _ctime: Option<SystemTime>,
        _fh: Option<FileHandle>,
        _crtime: Option<SystemTime>,
        _chgtime: Option<SystemTime>,
        _bkuptime: Option<SystemTime>,
        _flags: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let change = move |tree: &mut Tree| {
            let now = now();
            let (atime, mtime) = (atime.map(|time| time_or_now(time, now)), mtime.map(|time| time_or_now(time, now)));
            tree.set_attr(ino.0, SetAttr { perm: mode.map(perm), uid, gid, size, atime, mtime }, now)?;
            shown(tree, ino.0)
        };
        self.alter(change, move |answer| match answer {
            Ok(attr) => reply.attr(&TTL, &attr),
            Err(error) => reply.error(errno(error)),
        });
    }

    fn readlink(&self, _req: &Request, ino: INodeNo, reply: ReplyData) {
        let target = self.shared.tree().target(ino.0).map(<[u8]>::to_vec);
        match target {
            Ok(target) => reply.data(&target),
            Err(error) => reply.error(errno(error)),
        }
    }

    fn mknod(
        &self,
        req: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        _umask: u32,
        rdev: u32,
        reply: ReplyEntry,
    ) {
        match kind(mode) {
            Ok(kind) => {
                let (uid, gid) = (req.uid(), req.gid());
                let make = Make { kind, perm: perm(mode), uid, gid, rdev, target: Vec::new() };
                self.make(parent, name, make, |answer| entry(reply, answer));
            }
            Err(error) => reply.error(errno(error)),
        }
    }

    fn mkdir(&self, req: &Request, parent: INodeNo, name: &OsStr, mode: u32, _umask: u32, reply: ReplyEntry) {
        let (uid, gid) = (req.uid(), req.gid());
        let make = Make { kind: Kind::Directory, perm: perm(mode), uid, gid, rdev: 0, target: Vec::new() };
        self.make(parent, name, make, |answer| entry(reply, answer));
    }

    fn unlink(&self, _req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let name = name.as_bytes().to_vec();
        self.alter(move |tree| tree.unlink(parent.0, &name, now()), |answer| empty(reply, answer));
    }

    fn rmdir(&self, _req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let name = name.as_bytes().to_vec();
        self.alter(move |tree| tree.rmdir(parent.0, &name, now()), |answer| empty(reply, answer));
    }

    fn symlink(&self, req: &Request, parent: INodeNo, link_name: &OsStr, target: &Path, reply: ReplyEntry) {
        let (uid, gid, target) = (req.uid(), req.gid(), target.as_os_str().as_bytes().to_vec());
        let make = Make { kind: Kind::Symlink, perm: 0o777, uid, gid, rdev: 0, target };
        self.make(parent, link_name, make, |answer| entry(reply, answer));
    }

    fn rename(
        &self,
        _req: &Request,
        parent: INodeNo,
        name: &OsStr,
        newparent: INodeNo,
        newname: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        let how = match flags {
            none if none.is_empty() => Rename::Replace,
            RenameFlags::RENAME_NOREPLACE => Rename::NoReplace,
            RenameFlags::RENAME_EXCHANGE => Rename::Exchange,
            // RENAME_WHITEOUT: only an overlay's upper layer asks for it.
            _ => return reply.error(fuser::Errno::EINVAL),
        };
        let (name, newname) = (name.as_bytes().to_vec(), newname.as_bytes().to_vec());
        let change = move |tree: &mut Tree| tree.rename((parent.0, &name), (newparent.0, &newname), how, now());
        self.alter(change, |answer| empty(reply, answer));
    }

    fn link(&self, _req: &Request, ino: INodeNo, newparent: INodeNo, newname: &OsStr, reply: ReplyEntry) {
        let newname = newname.as_bytes().to_vec();
        let change = move |tree: &mut Tree| {
            tree.link(ino.0, newparent.0, &newname, now())?;
            hand_out(tree, ino.0)
        };
        self.alter(change, |answer| entry(reply, answer));
    }

    fn open(&self, _req: &Request, _ino: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        reply.opened(FileHandle(0), FopenFlags::FOPEN_KEEP_CACHE);
    }

    fn read(
        &self,
        _req: &Request,
        ino: INodeNo,
        _fh: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let shared = self.shared.clone();
        self.runtime.spawn(async move {
            match shared.read(ino.0, offset, size.into()).await {
                Ok(bytes) => reply.data(&bytes),
                Err(error) => reply.error(errno(error)),
            }
        });
    }

    fn write(
        &self,
        _req: &Request,
        ino: INodeNo,
        _fh: FileHandle,
        offset: u64,
        data: &[u8],
        _write_flags: WriteFlags,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let bytes = Bytes::copy_from_slice(data);
        let written = u32::try_from(data.len()).unwrap_or(u32::MAX);
        self.change(
            move |shared| shared.write(ino.0, offset, bytes),
            move |answer| match answer {
                Ok(()) => reply.written(written),
                Err(error) => reply.error(errno(error)),
            },
        );
    }

    fn flush(&self, _req: &Request, _ino: INodeNo, _fh: FileHandle, _owner: LockOwner, reply: ReplyEmpty) {
        // Closing is not syncing; but whoever can no longer store what was written is told so.
        empty(reply, self.shared.writable());
    }

    fn fsync(&self, _req: &Request, _ino: INodeNo, _fh: FileHandle, _datasync: bool, reply: ReplyEmpty) {
        self.sync(reply);
    }

    fn fsyncdir(&self, _req: &Request, _ino: INodeNo, _fh: FileHandle, _datasync: bool, reply: ReplyEmpty) {
        self.sync(reply);
    }

    fn readdir(&self, _req: &Request, ino: INodeNo, _fh: FileHandle, offset: u64, mut reply: ReplyDirectory) {
        let listed = self.shared.tree().list(ino.0, offset, LISTED_MAX);
        match listed {
            Ok(names) => {
                for Listed { number, name, ino, kind } in names {
                    if reply.add(INodeNo(ino), number, file_type(kind), OsStr::from_bytes(&name)) {
                        break;
                    }
                }
                reply.ok();
            }
            Err(error) => reply.error(errno(error)),
        }
    }

    fn readdirplus(&self, _req: &Request, dir: INodeNo, _fh: FileHandle, offset: u64, mut reply: ReplyDirectoryPlus) {
        let mut tree = self.shared.tree();
        let names = match tree.list(dir.0, offset, LISTED_MAX) {
            Ok(names) => names,
            Err(error) => return reply.error(errno(error)),
        };
        for Listed { number, name, ino, .. } in names {
            let Ok(attr) = shown(&tree, ino) else { continue };
            if reply.add(INodeNo(ino), number, OsStr::from_bytes(&name), &TTL, &attr, Generation(0)) {
                break;
            }
            // The kernel refers to all it is told of, except to the directory itself and the one above.
            if number > 2 {
                tree.hold(ino);
            }
        }
        drop(tree);
        reply.ok();
    }

    fn statfs(&self, _req: &Request, _ino: INodeNo, reply: ReplyStatfs) {
        const BLOCK: u64 = 4096;
        let (used, inodes) = {
            let tree = self.shared.tree();
            (tree.used_bytes.div_ceil(BLOCK), tree.inodes.len() as u64)
        };
        let all = (self.shared.capacity() / BLOCK).max(used);
        let most = INODES_MAX as u64;
        let name = u32::try_from(NAME_BYTES_MAX).unwrap_or(u32::MAX);
        let free = all - used;
        let block = u32::try_from(BLOCK).unwrap_or(u32::MAX);
        reply.statfs(all, free, free, most, most.saturating_sub(inodes), block, name, block);
    }

    fn setxattr(
        &self,
        _req: &Request,
        ino: INodeNo,
        name: &OsStr,
        value: &[u8],
        flags: i32,
        _position: u32,
        reply: ReplyEmpty,
    ) {
        let mode = match flags {
            XATTR_CREATE => XattrMode::Create,
            XATTR_REPLACE => XattrMode::Replace,
            _ => XattrMode::Either,
        };
        let (name, value) = (name.as_bytes().to_vec(), value.to_vec());
        let change = move |tree: &mut Tree| tree.set_xattr(ino.0, &name, &value, mode, now());
        self.alter(change, |answer| empty(reply, answer));
    }

    fn getxattr(&self, _req: &Request, ino: INodeNo, name: &OsStr, size: u32, reply: ReplyXattr) {
        let found = self.shared.tree().xattr(ino.0, name.as_bytes()).map(<[u8]>::to_vec);
        xattr(reply, size, found);
    }

    fn listxattr(&self, _req: &Request, ino: INodeNo, size: u32, reply: ReplyXattr) {
        let names = self.shared.tree().xattr_names(ino.0);
        xattr(reply, size, names);
    }

    fn removexattr(&self, _req: &Request, ino: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let name = name.as_bytes().to_vec();
        self.alter(move |tree| tree.remove_xattr(ino.0, &name, now()), |answer| empty(reply, answer));
    }

    fn create(
        &self,
        req: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        _umask: u32,
        _flags: i32,
        reply: ReplyCreate,
    ) {
        let (uid, gid) = (req.uid(), req.gid());
        let make = Make { kind: Kind::File, perm: perm(mode), uid, gid, rdev: 0, target: Vec::new() };
        self.make(parent, name, make, |answer| match answer {
            Ok(attr) => reply.created(&TTL, &attr, Generation(0), FileHandle(0), FopenFlags::FOPEN_KEEP_CACHE),
            Err(error) => reply.error(errno(error)),
        });
    }

    fn fallocate(
        &self,
        _req: &Request,
        _ino: INodeNo,
        _fh: FileHandle,
        _offset: u64,
        _length: u64,
        _mode: i32,
        reply: ReplyEmpty,
    ) {
        reply.error(errno(Errno::NotSupported));
    }

    fn lseek(&self, _req: &Request, ino: INodeNo, _fh: FileHandle, offset: i64, whence: i32, reply: ReplyLseek) {
        let (Ok(at), SEEK_DATA | SEEK_HOLE) = (u64::try_from(offset), whence) else {
            return reply.error(fuser::Errno::EINVAL);
        };
        let found = self.shared.tree().seek(ino.0, at, whence == SEEK_HOLE);
        match found.map(i64::try_from) {
            Ok(Ok(offset)) => reply.offset(offset),
            // Beyond the end, or no data after: both are ENXIO.
            Err(Errno::Invalid) | Ok(Err(_)) => reply.error(fuser::Errno::ENXIO),
            Err(error) => reply.error(errno(error)),
        }
    }
}
