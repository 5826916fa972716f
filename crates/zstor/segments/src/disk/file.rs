//! The real disk: a directory, written past the page cache where the file system allows it.
//!
//! Why O_DIRECT: buffered, the log reaches half of what the disk can do, and evicts from the page cache what others
//! need of it. Where the file system refuses (some tmpfs, overlay and network file systems), files are opened buffered,
//! which is as safe and slower; a line in the log says so once.
//!
//! The directory is locked while it is open: a second opener gets [`io::ErrorKind::WouldBlock`].

use super::{Disk, DiskFile};
use crate::aligned::AlignedBuffer;
use crate::format::BLOCK_BYTES;
use rustix::fs::{FallocateFlags, OFlags, fallocate};
use std::fs::{File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

const LOCK_NAME: &str = "lock";
const PROBE_NAME: &str = "probe.tmp";

/// A directory of segment files.
#[derive(Debug)]
pub struct FileDisk {
    dir: PathBuf,
    flags: i32,
    _lock: File,
}

impl FileDisk {
    /// Opens the directory, creating it where needed, locks it, and finds out whether it takes O_DIRECT.
    ///
    /// # Errors
    /// [`io::ErrorKind::WouldBlock`] if another process holds it; otherwise those of the file system.
    pub fn open(dir: &Path) -> io::Result<Self> {
        std::fs::create_dir_all(dir)?;
        let lock = OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(dir.join(LOCK_NAME))?;
        lock.try_lock().map_err(|e| match e {
            TryLockError::WouldBlock => io::Error::from(io::ErrorKind::WouldBlock),
            TryLockError::Error(e) => e,
        })?;
        let direct = OFlags::DIRECT.bits() as i32;
        let flags = match probe(&dir.join(PROBE_NAME), direct) {
            Ok(()) => direct,
            Err(e) if refused(&e) => {
                tracing::warn!(dir = %dir.display(), "the file system takes no O_DIRECT; shards go through the page cache, which is slower");
                0
            }
            // A full disk must still open: reading and deleting need no space.
            Err(e) if e.kind() == io::ErrorKind::StorageFull => direct,
            Err(e) => return Err(e),
        };
        Ok(Self { dir: dir.to_owned(), flags, _lock: lock })
    }

    /// Whether files are written past the page cache.
    pub fn is_direct(&self) -> bool {
        self.flags != 0
    }

    fn options(&self) -> OpenOptions {
        let mut options = OpenOptions::new();
        options.read(true).write(true).mode(0o600).custom_flags(self.flags);
        options
    }
}

/// Some file systems refuse O_DIRECT when a file is opened, some when it is written.
fn refused(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::InvalidInput | io::ErrorKind::Unsupported)
}

fn probe(path: &Path, flags: i32) -> io::Result<()> {
    let result = OpenOptions::new()
        .create(true)
        .truncate(true)
        .write(true)
        .mode(0o600)
        .custom_flags(flags)
        .open(path)
        .and_then(|file| file.write_all_at(AlignedBuffer::zeroed(BLOCK_BYTES).bytes(), 0));
    match std::fs::remove_file(path) {
        Err(e) if result.is_ok() && e.kind() != io::ErrorKind::NotFound => Err(e),
        _ => result,
    }
}

impl Disk for FileDisk {
    fn list(&self) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in std::fs::read_dir(&self.dir)? {
            if let Ok(name) = entry?.file_name().into_string()
                && name != LOCK_NAME
            {
                names.push(name);
            }
        }
        Ok(names)
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        Ok(Arc::new(self.options().open(self.dir.join(name))?))
    }

    fn create(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        Ok(Arc::new(self.options().create_new(true).open(self.dir.join(name))?))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        std::fs::rename(self.dir.join(from), self.dir.join(to))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        std::fs::remove_file(self.dir.join(name))
    }

    fn sync_dir(&self) -> io::Result<()> {
        File::open(&self.dir)?.sync_all()
    }
}

impl DiskFile for File {
    fn length(&self) -> io::Result<u64> {
        Ok(self.metadata()?.len())
    }

    fn pread(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let mut done = 0;
        while done < buffer.len() {
            match self.read_at(&mut buffer[done..], offset + done as u64) {
                Ok(0) => break,
                Ok(n) => done += n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                // O_DIRECT refuses to go on from an unaligned place, and only the end of the file leaves us at one.
                Err(e) if e.kind() == io::ErrorKind::InvalidInput && !done.is_multiple_of(BLOCK_BYTES) => break,
                Err(e) => return Err(e),
            }
        }
        Ok(done)
    }

    fn pwrite(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.write_all_at(bytes, offset)
    }

    fn sync(&self) -> io::Result<()> {
        self.sync_data()
    }

    fn allocate(&self, bytes: u64) -> io::Result<()> {
        match fallocate(self, FallocateFlags::empty(), 0, bytes) {
            Ok(()) => Ok(()),
            // The file system cannot reserve: the length alone has to do, and a full disk shows when a batch is
            // written.
            Err(rustix::io::Errno::OPNOTSUPP) => self.set_len(bytes),
            Err(e) => Err(e.into()),
        }
    }

    fn truncate(&self, bytes: u64) -> io::Result<()> {
        self.set_len(bytes)
    }
}
