//! Between the kernel's words and ours.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use fuser::{FileAttr, FileType, INodeNo, TimeOrNow};

use crate::errno::Errno;
use crate::tree::change::{Attr, Ino, Kind, Time};

/// `S_IFMT` and what it selects, from `<sys/stat.h>`.
const TYPE_MASK: u32 = 0o170_000;
const FIFO: u32 = 0o010_000;
const CHAR_DEVICE: u32 = 0o020_000;
const BLOCK_DEVICE: u32 = 0o060_000;
const FILE: u32 = 0o100_000;
const SOCKET: u32 = 0o140_000;

pub(super) fn file_type(kind: Kind) -> FileType {
    match kind {
        Kind::File => FileType::RegularFile,
        Kind::Directory => FileType::Directory,
        Kind::Symlink => FileType::Symlink,
        Kind::Fifo => FileType::NamedPipe,
        Kind::Socket => FileType::Socket,
        Kind::CharDevice => FileType::CharDevice,
        Kind::BlockDevice => FileType::BlockDevice,
    }
}

/// What `mknod` is to make.
pub(super) fn kind(mode: u32) -> Result<Kind, Errno> {
    match mode & TYPE_MASK {
        0 | FILE => Ok(Kind::File),
        FIFO => Ok(Kind::Fifo),
        SOCKET => Ok(Kind::Socket),
        CHAR_DEVICE => Ok(Kind::CharDevice),
        BLOCK_DEVICE => Ok(Kind::BlockDevice),
        _ => Err(Errno::Invalid),
    }
}

/// Permission bits of a mode.
pub(super) fn perm(mode: u32) -> u16 {
    u16::try_from(mode & 0o7777).expect("twelve bits fit sixteen")
}

pub(super) fn attr(ino: Ino, attr: &Attr, held_bytes: u64) -> FileAttr {
    FileAttr {
        ino: INodeNo(ino),
        size: attr.size,
        blocks: held_bytes.div_ceil(512),
        atime: time(attr.atime),
        mtime: time(attr.mtime),
        ctime: time(attr.ctime),
        crtime: UNIX_EPOCH,
        kind: file_type(attr.kind),
        perm: attr.perm,
        nlink: attr.nlink,
        uid: attr.uid,
        gid: attr.gid,
        rdev: attr.rdev,
        blksize: 4096,
        flags: 0,
    }
}

fn time(time: Time) -> SystemTime {
    let whole = Duration::from_secs(time.seconds.unsigned_abs());
    let base = if time.seconds < 0 { UNIX_EPOCH.checked_sub(whole) } else { UNIX_EPOCH.checked_add(whole) };
    base.and_then(|base| base.checked_add(Duration::from_nanos(time.nanoseconds.into()))).unwrap_or(UNIX_EPOCH)
}

/// A time before 1970 has negative seconds and nanoseconds that count forward from them.
pub(super) fn from_system(time: SystemTime) -> Time {
    match time.duration_since(UNIX_EPOCH) {
        Ok(since) => {
            Time { seconds: i64::try_from(since.as_secs()).unwrap_or(i64::MAX), nanoseconds: since.subsec_nanos() }
        }
        Err(before) => {
            let before = before.duration();
            let seconds = -i64::try_from(before.as_secs()).unwrap_or(i64::MAX);
            match before.subsec_nanos() {
                0 => Time { seconds, nanoseconds: 0 },
                nanos => Time { seconds: seconds - 1, nanoseconds: 1_000_000_000 - nanos },
            }
        }
    }
}

pub(super) fn time_or_now(time: TimeOrNow, now: Time) -> Time {
    match time {
        TimeOrNow::SpecificTime(time) => from_system(time),
        TimeOrNow::Now => now,
    }
}

pub(super) fn errno(error: Errno) -> fuser::Errno {
    match error {
        Errno::NotFound => fuser::Errno::ENOENT,
        Errno::Exists => fuser::Errno::EEXIST,
        Errno::NotDirectory => fuser::Errno::ENOTDIR,
        Errno::IsDirectory => fuser::Errno::EISDIR,
        Errno::NotEmpty => fuser::Errno::ENOTEMPTY,
        Errno::NameTooLong => fuser::Errno::ENAMETOOLONG,
        Errno::Invalid => fuser::Errno::EINVAL,
        Errno::NotPermitted => fuser::Errno::EPERM,
        Errno::TooManyLinks => fuser::Errno::EMLINK,
        Errno::TooLarge => fuser::Errno::EFBIG,
        Errno::NoSpace => fuser::Errno::ENOSPC,
        Errno::TooBig => fuser::Errno::E2BIG,
        Errno::NoData => fuser::Errno::ENODATA,
        Errno::NotSupported => fuser::Errno::ENOTSUP,
        Errno::Io => fuser::Errno::EIO,
        Errno::Stale => fuser::Errno::ESTALE,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_go_both_ways() {
        for (seconds, nanoseconds) in [(0, 0), (1, 5), (-1, 0), (-1, 999_999_999), (-5, 3), (1 << 33, 999_999_999)] {
            let there = Time { seconds, nanoseconds };
            assert_eq!(from_system(time(there)), there, "{there:?}");
        }
    }
}
