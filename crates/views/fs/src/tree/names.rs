//! Operations on names: making, linking, removing, renaming. Each is one transaction.

use super::change::{Attr, Change, Ino, Kind, ROOT, Time};
use super::{INODES_MAX, Tree};
use crate::errno::Errno;

/// Longest name in bytes, as everywhere in Linux.
pub(crate) const NAME_BYTES_MAX: usize = 255;
/// Longest target of a symbolic link: `PATH_MAX` without its NUL.
const TARGET_BYTES_MAX: usize = 4095;
/// Names one file can have, as on ext4.
const LINKS_MAX: u32 = 65_000;

/// What to make under a name.
#[derive(Clone, Debug)]
pub(crate) struct Make {
    pub(crate) kind: Kind,
    pub(crate) perm: u16,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) rdev: u32,
    /// Of a symbolic link.
    pub(crate) target: Vec<u8>,
}

/// What a rename does with what has the new name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rename {
    Replace,
    NoReplace,
    Exchange,
}

fn check_name(name: &[u8]) -> Result<(), Errno> {
    match name {
        b"" | b"." | b".." => Err(Errno::Invalid),
        name if name.len() > NAME_BYTES_MAX => Err(Errno::NameTooLong),
        name if name.contains(&b'/') || name.contains(&0) => Err(Errno::Invalid),
        _ => Ok(()),
    }
}

impl Tree {
    pub(crate) fn lookup(&self, dir: Ino, name: &[u8]) -> Result<(Ino, Attr), Errno> {
        if name.len() > NAME_BYTES_MAX {
            return Err(Errno::NameTooLong);
        }
        let directory = self.directory(dir)?;
        let ino = match name {
            b"." => dir,
            b".." => directory.parent.max(ROOT),
            name => directory.get(name).ok_or(Errno::NotFound)?,
        };
        Ok((ino, self.attr(ino)?))
    }

    /// The directory's attributes after a name came or went, with so many subdirectories more.
    fn touched(&self, dir: Ino, subdirectories: i32, now: Time) -> Result<Change, Errno> {
        let mut attr = self.attr(dir)?;
        attr.nlink = attr.nlink.saturating_add_signed(subdirectories);
        attr.mtime = now;
        attr.ctime = now;
        Ok(Change::Inode { ino: dir, attr })
    }

    /// A directory that takes new names.
    fn check_free(&self, dir: Ino, name: &[u8]) -> Result<(), Errno> {
        check_name(name)?;
        let directory = self.directory(dir)?;
        match (self.attr(dir)?.nlink, directory.get(name)) {
            (0, _) => Err(Errno::NotFound),
            (_, Some(_)) => Err(Errno::Exists),
            _ => Ok(()),
        }
    }

    pub(crate) fn make(&mut self, dir: Ino, name: &[u8], make: Make, now: Time) -> Result<(Ino, Attr), Errno> {
        self.check_free(dir, name)?;
        if make.target.len() > TARGET_BYTES_MAX {
            return Err(Errno::NameTooLong);
        }
        if self.inodes.len() >= INODES_MAX {
            return Err(Errno::NoSpace);
        }
        let is_dir = make.kind == Kind::Directory;
        let parent = self.attr(dir)?;
        let (mut gid, mut perm) = (make.gid, make.perm & 0o7777);
        if parent.perm & 0o2000 != 0 {
            gid = parent.gid;
            perm |= if is_dir { 0o2000 } else { 0 };
        }
        let attr = Attr {
            kind: make.kind,
            perm,
            uid: make.uid,
            gid,
            nlink: if is_dir { 2 } else { 1 },
            size: make.target.len() as u64,
            rdev: make.rdev,
            atime: now,
            mtime: now,
            ctime: now,
        };
        let ino = self.fresh_ino();
        let mut changes = vec![Change::Inode { ino, attr }];
        if make.kind == Kind::Symlink {
            changes.push(Change::Target { ino, target: make.target });
        }
        changes.push(Change::Entry { dir, name: name.to_vec(), ino });
        changes.push(self.touched(dir, i32::from(is_dir), now)?);
        self.commit(changes)?;
        Ok((ino, attr))
    }

    pub(crate) fn link(&mut self, ino: Ino, dir: Ino, name: &[u8], now: Time) -> Result<Attr, Errno> {
        let mut attr = self.attr(ino)?;
        if attr.kind == Kind::Directory {
            return Err(Errno::NotPermitted);
        }
        self.check_free(dir, name)?;
        match attr.nlink {
            0 => return Err(Errno::NotFound),
            LINKS_MAX.. => return Err(Errno::TooManyLinks),
            _ => {}
        }
        attr.nlink += 1;
        attr.ctime = now;
        let touched = self.touched(dir, 0, now)?;
        let entry = Change::Entry { dir, name: name.to_vec(), ino };
        self.commit(vec![Change::Inode { ino, attr }, entry, touched])?;
        Ok(attr)
    }

    /// What happens to an inode that loses a name.
    fn unnamed(&self, ino: Ino, now: Time) -> Result<Change, Errno> {
        let mut attr = self.attr(ino)?;
        attr.nlink = if attr.kind == Kind::Directory { 0 } else { attr.nlink.saturating_sub(1) };
        attr.ctime = now;
        let stays = attr.nlink > 0 || self.is_held(ino);
        Ok(if stays { Change::Inode { ino, attr } } else { Change::Gone { ino } })
    }

    pub(crate) fn unlink(&mut self, dir: Ino, name: &[u8], now: Time) -> Result<(), Errno> {
        check_name(name)?;
        let (ino, attr) = self.lookup(dir, name)?;
        if attr.kind == Kind::Directory {
            return Err(Errno::IsDirectory);
        }
        let (touched, unnamed) = (self.touched(dir, 0, now)?, self.unnamed(ino, now)?);
        self.commit(vec![Change::NoEntry { dir, name: name.to_vec() }, unnamed, touched])
    }

    pub(crate) fn rmdir(&mut self, dir: Ino, name: &[u8], now: Time) -> Result<(), Errno> {
        check_name(name)?;
        let (ino, _) = self.lookup(dir, name)?;
        if self.directory(ino)?.len() > 0 {
            return Err(Errno::NotEmpty);
        }
        let (touched, unnamed) = (self.touched(dir, -1, now)?, self.unnamed(ino, now)?);
        self.commit(vec![Change::NoEntry { dir, name: name.to_vec() }, unnamed, touched])
    }

    /// Whether `dir` is `ancestor` or lies below it.
    fn is_below(&self, dir: Ino, ancestor: Ino) -> Result<bool, Errno> {
        let (mut at, mut steps) = (dir, 0);
        while at != ancestor {
            steps += 1;
            if at == ROOT || at == 0 || steps > INODES_MAX {
                return Ok(false);
            }
            at = self.directory(at)?.parent;
        }
        Ok(true)
    }

    pub(crate) fn rename(&mut self, from: (Ino, &[u8]), to: (Ino, &[u8]), how: Rename, now: Time) -> Result<(), Errno> {
        check_name(from.1)?;
        check_name(to.1)?;
        let (ino, attr) = self.lookup(from.0, from.1)?;
        let target = match self.lookup(to.0, to.1) {
            Ok(found) => Some(found),
            Err(Errno::NotFound) if self.attr(to.0)?.nlink > 0 => None,
            Err(error) => return Err(error),
        };
        let is_dir = attr.kind == Kind::Directory;
        if is_dir && self.is_below(to.0, ino)? {
            return Err(Errno::Invalid);
        }
        match (target, how) {
            (Some(_), Rename::NoReplace) => Err(Errno::Exists),
            (None, Rename::Exchange) => Err(Errno::NotFound),
            (Some((other, _)), _) if other == ino => Ok(()),
            (Some((other, other_attr)), Rename::Exchange) => {
                if other_attr.kind == Kind::Directory && self.is_below(from.0, other)? {
                    return Err(Errno::Invalid);
                }
                self.exchange((from, ino, attr), (to, other, other_attr), now)
            }
            (target, _) => self.move_onto((from, ino, attr), to, target, now),
        }
    }

    fn exchange(&mut self, a: ((Ino, &[u8]), Ino, Attr), b: ((Ino, &[u8]), Ino, Attr), now: Time) -> Result<(), Errno> {
        let (((dir_a, name_a), ino_a, attr_a), ((dir_b, name_b), ino_b, attr_b)) = (a, b);
        let directories = |attr: Attr| i32::from(attr.kind == Kind::Directory);
        let more = if dir_a == dir_b { 0 } else { directories(attr_b) - directories(attr_a) };
        let mut changes = vec![
            Change::Entry { dir: dir_a, name: name_a.to_vec(), ino: ino_b },
            Change::Entry { dir: dir_b, name: name_b.to_vec(), ino: ino_a },
            Change::Inode { ino: ino_a, attr: Attr { ctime: now, ..attr_a } },
            Change::Inode { ino: ino_b, attr: Attr { ctime: now, ..attr_b } },
            self.touched(dir_a, more, now)?,
        ];
        if dir_a != dir_b {
            changes.push(self.touched(dir_b, -more, now)?);
        }
        self.commit(changes)
    }

    fn move_onto(
        &mut self,
        (from, ino, attr): ((Ino, &[u8]), Ino, Attr),
        to: (Ino, &[u8]),
        target: Option<(Ino, Attr)>,
        now: Time,
    ) -> Result<(), Errno> {
        let is_dir = attr.kind == Kind::Directory;
        let mut replaced_dirs = 0;
        let mut changes = vec![
            Change::NoEntry { dir: from.0, name: from.1.to_vec() },
            Change::Entry { dir: to.0, name: to.1.to_vec(), ino },
            Change::Inode { ino, attr: Attr { ctime: now, ..attr } },
        ];
        if let Some((other, other_attr)) = target {
            match (is_dir, other_attr.kind == Kind::Directory) {
                (true, false) => return Err(Errno::NotDirectory),
                (false, true) => return Err(Errno::IsDirectory),
                (true, true) if self.directory(other)?.len() > 0 => return Err(Errno::NotEmpty),
                (true, true) => replaced_dirs = 1,
                (false, false) => {}
            }
            changes.push(self.unnamed(other, now)?);
        }
        if from.0 == to.0 {
            changes.push(self.touched(from.0, -replaced_dirs, now)?);
        } else {
            changes.push(self.touched(from.0, -i32::from(is_dir), now)?);
            changes.push(self.touched(to.0, i32::from(is_dir) - replaced_dirs, now)?);
        }
        self.commit(changes)
    }
}
