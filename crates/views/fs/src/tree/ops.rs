//! Operations on what has attributes: attributes, content, extended attributes, listings.

use bytes::Bytes;

use super::change::{Attr, Change, Ino, Kind, Time};
use super::extents::{Extent, Place};
use super::{Body, Tree};
use crate::errno::Errno;

/// Largest file in bytes: what offsets in the kernel's page cache can name, and far beyond any volume.
pub const FILE_BYTES_MAX: u64 = 1 << 62;
/// Longest name of an extended attribute in bytes, as everywhere in Linux.
const XATTR_NAME_MAX: usize = 255;
/// Longest value, as everywhere in Linux.
const XATTR_VALUE_MAX: usize = 64 << 10;
/// All extended attributes of one inode together: they are kept in memory.
const XATTRS_MAX: usize = 256 << 10;

/// What `setattr` sets.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct SetAttr {
    pub(crate) perm: Option<u16>,
    pub(crate) uid: Option<u32>,
    pub(crate) gid: Option<u32>,
    pub(crate) size: Option<u64>,
    pub(crate) atime: Option<Time>,
    pub(crate) mtime: Option<Time>,
}

/// A name in a listing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Listed {
    /// Where the listing goes on after it.
    pub(crate) number: u64,
    pub(crate) name: Vec<u8>,
    pub(crate) ino: Ino,
    pub(crate) kind: Kind,
}

/// Whether `setxattr` makes or replaces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum XattrMode {
    Either,
    Create,
    Replace,
}

impl Tree {
    pub(crate) fn set_attr(&mut self, ino: Ino, set: SetAttr, now: Time) -> Result<Attr, Errno> {
        let mut attr = self.attr(ino)?;
        let mut changes = Vec::with_capacity(2);
        if let Some(size) = set.size {
            self.extents(ino)?;
            if size > FILE_BYTES_MAX {
                return Err(Errno::TooLarge);
            }
            if size < attr.size {
                changes.push(Change::Cut { ino, from: size });
            }
            attr.size = size;
            attr.mtime = now;
        }
        attr.perm = set.perm.map_or(attr.perm, |perm| perm & 0o7777);
        attr.uid = set.uid.unwrap_or(attr.uid);
        attr.gid = set.gid.unwrap_or(attr.gid);
        attr.atime = set.atime.unwrap_or(attr.atime);
        attr.mtime = set.mtime.unwrap_or(attr.mtime);
        attr.ctime = now;
        changes.push(Change::Inode { ino, attr });
        self.commit(changes)?;
        Ok(attr)
    }

    /// Takes bytes into memory. They become durable, with the size and time of change, by the next flush.
    pub(crate) fn write(&mut self, ino: Ino, at: u64, bytes: Bytes, now: Time) -> Result<(), Errno> {
        self.extents(ino)?;
        let len = bytes.len() as u64;
        let end = at.checked_add(len).filter(|&end| end <= FILE_BYTES_MAX).ok_or(Errno::TooLarge)?;
        if len == 0 {
            return Ok(());
        }
        self.place(ino, at, Extent { len, place: Place::Memory(bytes) }).map_err(|_| Errno::Io)?;
        let inode = self.inodes.get_mut(&ino).ok_or(Errno::NotFound)?;
        inode.attr.size = inode.attr.size.max(end);
        inode.attr.mtime = now;
        inode.attr.ctime = now;
        self.version += 1;
        Ok(())
    }

    /// What lies in a range of a file, and the end of the range cut to the file's size.
    pub(crate) fn read(&self, ino: Ino, at: u64, len: u64) -> Result<(Vec<(u64, Extent)>, u64), Errno> {
        let extents = self.extents(ino)?;
        let end = at.saturating_add(len).min(self.attr(ino)?.size).max(at);
        Ok((extents.within(at, end), end))
    }

    /// Where the next byte that is (or is not) a hole lies, from `at` on.
    pub(crate) fn seek(&self, ino: Ino, at: u64, hole: bool) -> Result<u64, Errno> {
        let size = self.attr(ino)?.size;
        if at >= size {
            return Err(Errno::Invalid);
        }
        let mut end = at;
        for (start, extent) in self.extents(ino)?.within(at, size) {
            if !hole {
                return Ok(start);
            }
            if start > end {
                break;
            }
            end = start + extent.len;
        }
        if hole { Ok(end.min(size)) } else { Err(Errno::Invalid) }
    }

    pub(crate) fn target(&self, ino: Ino) -> Result<&[u8], Errno> {
        match &self.inode(ino)?.body {
            Body::Symlink(target) => Ok(target),
            _ => Err(Errno::Invalid),
        }
    }

    /// Up to `limit` names after a number, with what they are.
    pub(crate) fn list(&self, dir: Ino, after: u64, limit: usize) -> Result<Vec<Listed>, Errno> {
        let directory = self.directory(dir)?;
        let special = [(1, b".".to_vec(), dir), (2, b"..".to_vec(), directory.parent.max(super::ROOT))];
        let special = special.into_iter().filter(|(number, _, _)| *number > after);
        let names = directory.after(after.max(2)).map(|(number, name, ino)| (number, name.to_vec(), ino));
        let kind = |ino: Ino| self.inodes.get(&ino).map_or(Kind::File, |inode| inode.attr.kind);
        let listed = |(number, name, ino)| Listed { number, name, ino, kind: kind(ino) };
        Ok(special.chain(names).take(limit).map(listed).collect())
    }

    pub(crate) fn xattr(&self, ino: Ino, name: &[u8]) -> Result<&[u8], Errno> {
        let inode = self.inode(ino)?;
        check_namespace(name)?;
        inode.xattrs.get(name).map(Vec::as_slice).ok_or(Errno::NoData)
    }

    /// All names, each ended by NUL, as `listxattr` gives them.
    pub(crate) fn xattr_names(&self, ino: Ino) -> Result<Vec<u8>, Errno> {
        let names = self.inode(ino)?.xattrs.keys();
        Ok(names.flat_map(|name| name.iter().copied().chain([0])).collect())
    }

    pub(crate) fn set_xattr(
        &mut self,
        ino: Ino,
        name: &[u8],
        value: &[u8],
        mode: XattrMode,
        now: Time,
    ) -> Result<(), Errno> {
        check_namespace(name)?;
        let inode = self.inode(ino)?;
        match (inode.xattrs.contains_key(name), mode) {
            (true, XattrMode::Create) => return Err(Errno::Exists),
            (false, XattrMode::Replace) => return Err(Errno::NoData),
            _ => {}
        }
        let others = inode.xattrs.iter().filter(|(key, _)| *key != name).map(|(key, value)| key.len() + value.len());
        if value.len() > XATTR_VALUE_MAX || others.sum::<usize>() + name.len() + value.len() > XATTRS_MAX {
            return Err(Errno::TooBig);
        }
        self.change_xattr(ino, name, Some(value.to_vec()), now)
    }

    pub(crate) fn remove_xattr(&mut self, ino: Ino, name: &[u8], now: Time) -> Result<(), Errno> {
        self.xattr(ino, name)?;
        self.change_xattr(ino, name, None, now)
    }

    fn change_xattr(&mut self, ino: Ino, name: &[u8], value: Option<Vec<u8>>, now: Time) -> Result<(), Errno> {
        let attr = Attr { ctime: now, ..self.attr(ino)? };
        self.commit(vec![Change::Xattr { ino, name: name.to_vec(), value }, Change::Inode { ino, attr }])
    }
}

/// POSIX ACLs (`system.`) are not offered: a file system that stored them without obeying them would be worse than one that refuses.
fn check_namespace(name: &[u8]) -> Result<(), Errno> {
    let known = [b"user.".as_slice(), b"trusted.", b"security."].iter().any(|space| name.starts_with(space));
    match known {
        true if name.len() <= XATTR_NAME_MAX => Ok(()),
        true => Err(Errno::NameTooLong),
        false => Err(Errno::NotSupported),
    }
}
