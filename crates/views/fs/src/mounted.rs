//! Mounting a volume on a directory, and taking it away again without ever hanging.
//!
//! A process that was killed leaves its mountpoint behind: every call on it answers `ENOTCONN`. [`Mounted::mount`] finds that and takes it away first.
//!
//! Unmounting writes the kernel's dirty pages, takes no more changes, flushes (all within the volume's patience), and then detaches the directory by force: calls
//! of programs that still have files open fail from then on. Nothing here waits for a program.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use fuser::{BackgroundSession, Config, MountOption, SessionACL};
use rustix::fs::statfs;
use rustix::mount::UnmountFlags;
use thiserror::Error;
use tokio::runtime::Handle;
use tokio::task::spawn_blocking;
use tokio::time::{sleep, timeout};

use crate::errno::Errno;
use crate::fuse::Driver;
use crate::volume::{Volume, VolumeStatus};

/// What a mountpoint answers whose process is gone (`ENOTCONN`).
const NOT_CONNECTED: i32 = 107;
/// What `statfs` says of FUSE (`FUSE_SUPER_MAGIC`, from `<linux/magic.h>`).
const FUSE_MAGIC: i64 = 0x6573_5546;
/// Mounts on top of each other that are taken away: each crash can leave one.
const STALE_MAX: usize = 16;
/// How long the driver's threads are waited for after the connection was ended.
const FAREWELL: Duration = Duration::from_secs(2);
const FAREWELL_STEP: Duration = Duration::from_millis(10);
/// Threads that read requests when nothing else is said: what waits is not on them.
const THREADS: usize = 2;

/// How to mount.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FuseOptions {
    /// Let other users in, as the modes of files say. Without root it takes `user_allow_other` in `/etc/fuse.conf`.
    pub allow_other: bool,
    /// Threads that read the kernel's requests, 1 to 16.
    pub threads: usize,
}

impl Default for FuseOptions {
    fn default() -> Self {
        Self { allow_other: true, threads: THREADS }
    }
}

/// Why a volume was not mounted.
#[derive(Debug, Error)]
pub enum MountError {
    /// It is not a directory that can be mounted on.
    #[error("cannot mount on {}: {error}", at.display())]
    Directory {
        /// The directory.
        at: PathBuf,
        /// What the operating system said.
        error: io::Error,
    },
    /// A volume is mounted there by a process that lives.
    #[error("{} is a mountpoint already; unmount it first: `atoll fs umount {}`", at.display(), at.display())]
    Mounted {
        /// The directory.
        at: PathBuf,
    },
    /// The kernel has no FUSE here.
    #[error("cannot mount on {}: there is no /dev/fuse; load the kernel's fuse module, or give this container the device", at.display())]
    NoDevice {
        /// The directory.
        at: PathBuf,
    },
    /// This user may not mount.
    #[error("cannot mount on {}: mounting takes root or fusermount3 (apt-get install fuse3): {error}", at.display())]
    NotPermitted {
        /// The directory.
        at: PathBuf,
        /// What the operating system said.
        error: io::Error,
    },
}

/// A volume mounted on a directory. Dropping it detaches the directory without flushing; [`Mounted::unmount`] does both.
pub struct Mounted {
    volume: Volume,
    at: PathBuf,
    session: Option<BackgroundSession>,
}

/// Takes away mounts on a directory whose process is gone. Whether there were any.
///
/// # Errors
/// What the operating system says, when it may not be taken away.
pub fn clear_stale(at: &Path) -> io::Result<bool> {
    for found in 0..STALE_MAX {
        // Not `stat`, which the kernel may answer from what the dead process told it last.
        match statfs(at) {
            Err(error) if error.raw_os_error() == NOT_CONNECTED => unmount(at)?,
            _ => return Ok(found > 0),
        }
    }
    Ok(true)
}

/// Detaches whatever is mounted on a directory, by force: it returns at once, also when files are open, and calls on these fail.
///
/// # Errors
/// What the operating system says; `EINVAL` if nothing is mounted there.
pub fn unmount(at: &Path) -> io::Result<()> {
    match rustix::mount::unmount(at, UnmountFlags::DETACH | UnmountFlags::FORCE) {
        Err(rustix::io::Errno::PERM) => {
            let done = std::process::Command::new("fusermount3").args(["-u", "-z", "--"]).arg(at).output()?;
            let said = || io::Error::other(String::from_utf8_lossy(&done.stderr).trim().to_owned());
            if done.status.success() { Ok(()) } else { Err(said()) }
        }
        other => Ok(other?),
    }
}

/// Detaches everything that is mounted below a directory, whoever serves it, the innermost first: nothing must be mounted where files are about to be
/// removed. How many there were.
///
/// # Errors
/// What the operating system says of the first that stays.
pub fn unmount_below(dir: &Path) -> io::Result<usize> {
    let table = fs::read("/proc/self/mountinfo")?;
    let found = mounts_below(&table, dir);
    for at in found.iter().rev() {
        rustix::mount::unmount(at, UnmountFlags::DETACH)?;
    }
    Ok(found.len())
}

/// The mountpoints below a directory, in the order of mounting. The table is that of proc(5): the fifth field, with octal escapes.
fn mounts_below(table: &[u8], dir: &Path) -> Vec<PathBuf> {
    let points = table.split(|&byte| byte == b'\n').filter_map(|line| line.split(|&byte| byte == b' ').nth(4));
    points.map(unescape).filter(|at| at.starts_with(dir) && at != dir).collect()
}

/// The kernel writes space, tab, newline and backslash as three octal digits.
fn unescape(field: &[u8]) -> PathBuf {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&first, after)) = rest.split_first() {
        let digits = after.get(..3).filter(|_| first == b'\\').and_then(|it| std::str::from_utf8(it).ok());
        match digits.and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            Some(byte) => {
                bytes.push(byte);
                rest = &after[3..];
            }
            None => {
                bytes.push(first);
                rest = after;
            }
        }
    }
    PathBuf::from(OsString::from_vec(bytes))
}

impl Mounted {
    /// Mounts an open volume on a directory, which must exist. Needs a multi-threaded tokio runtime.
    ///
    /// # Errors
    /// [`MountError`]; the volume stays open.
    pub async fn mount(volume: Volume, at: &Path, options: FuseOptions) -> Result<Self, MountError> {
        let (driver, runtime) = (volume.clone(), Handle::current());
        let place = at.to_owned();
        let mounted = spawn_blocking(move || mount(driver, &place, options, runtime)).await;
        let stopped = |error| MountError::Directory { at: at.to_owned(), error: io::Error::other(error) };
        let (session, at) = mounted.map_err(stopped)??;
        Ok(Self { volume, at, session: Some(session) })
    }

    /// Where it is mounted.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.at
    }

    /// The volume.
    #[must_use]
    pub fn volume(&self) -> &Volume {
        &self.volume
    }

    /// How it is doing.
    #[must_use]
    pub fn status(&self) -> VolumeStatus {
        self.volume.status()
    }

    /// Whether it still is mounted there: a person may have detached it by other means, and its threads may have ended.
    pub async fn is_in_place(&self) -> bool {
        if self.session.as_ref().is_none_or(|session| session.guard.is_finished()) {
            return false;
        }
        let at = self.at.clone();
        let looked = spawn_blocking(move || is_fuse_mountpoint(&at)).await;
        matches!(looked, Ok(Ok(true)))
    }

    /// Flushes, detaches the directory, ends the mount. Takes at most twice the volume's patience and a few seconds.
    ///
    /// # Errors
    /// As [`Volume::close`]; the mount has ended all the same.
    pub async fn unmount(mut self) -> Result<(), Errno> {
        let (root, patience) = (self.at.clone(), self.volume.shared.options.patience);
        // What programs wrote through memory maps is still the kernel's.
        let _ = timeout(patience, spawn_blocking(move || fs::File::open(root).map(rustix::fs::syncfs))).await;
        let done = self.volume.close().await;
        let detached = self.detach();
        if let Some(session) = detached {
            let mut waited = Duration::ZERO;
            while !session.guard.is_finished() && waited < FAREWELL {
                sleep(FAREWELL_STEP).await;
                waited += FAREWELL_STEP;
            }
            if session.guard.is_finished() {
                let _ = spawn_blocking(move || session.join()).await;
            } else {
                // Its threads end with the last open file; the driver only fails by then.
                std::mem::forget(session);
            }
        }
        done
    }

    fn detach(&mut self) -> Option<BackgroundSession> {
        let session = self.session.take()?;
        if let Err(error) = unmount(&self.at) {
            tracing::debug!(target: "atoll::fs", at = %self.at.display(), %error, "was not mounted any more");
        }
        Some(session)
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        drop(self.detach());
    }
}

fn mount(
    volume: Volume,
    at: &Path,
    options: FuseOptions,
    runtime: Handle,
) -> Result<(BackgroundSession, PathBuf), MountError> {
    let directory = |error| MountError::Directory { at: at.to_owned(), error };
    clear_stale(at).map_err(directory)?;
    let place = at.canonicalize().map_err(directory)?;
    if !place.is_dir() {
        return Err(directory(io::Error::from(io::ErrorKind::NotADirectory)));
    }
    if is_fuse_mountpoint(&place).map_err(directory)? {
        return Err(MountError::Mounted { at: place });
    }
    if !Path::new("/dev/fuse").exists() {
        return Err(MountError::NoDevice { at: place });
    }
    let mut config = Config::default();
    let name = format!("atoll:{}", volume.config().name);
    config.mount_options =
        vec![MountOption::FSName(name), MountOption::Subtype("atoll".to_owned()), MountOption::DefaultPermissions];
    config.acl = if options.allow_other { SessionACL::All } else { SessionACL::Owner };
    config.n_threads = Some(options.threads.clamp(1, 16));
    let refused = |error| MountError::NotPermitted { at: place.clone(), error };
    let session = fuser::spawn_mount(Driver::new(volume, runtime), &place, &config).map_err(refused)?;
    Ok((session, place))
}

/// Whether a FUSE file system is mounted exactly there.
fn is_fuse_mountpoint(at: &Path) -> io::Result<bool> {
    let Some(parent) = at.parent() else { return Ok(false) };
    let crossed = fs::metadata(at)?.dev() != fs::metadata(parent)?.dev();
    Ok(crossed && statfs(at)?.f_type == FUSE_MAGIC)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mountpoints_below_a_directory() {
        let table = b"1 0 0:1 / / rw - ext4 /dev/vda rw\n2 1 0:2 / /a/b rw - tmpfs t rw\n3 2 0:3 / /a/b/c\\040d rw - fuse.atoll x rw\n\
            4 1 0:4 / /ab rw - tmpfs t rw\n5 1 0:5 / /a/\\134040 rw - tmpfs t rw\n6 1\n";
        let below = mounts_below(table, Path::new("/a"));
        assert_eq!(below, [Path::new("/a/b"), Path::new("/a/b/c d"), Path::new("/a/\\040")]);
        assert!(mounts_below(table, Path::new("/a/b/c")).is_empty());
    }
}
