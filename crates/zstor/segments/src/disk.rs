//! The seam between the log and the disk: everything the log does to files goes through [`Disk`] and [`DiskFile`].
//!
//! [`FileDisk`] is the real one. Tests put one in its place that forgets what was not synced, fails on demand or cuts
//! writes short. A disk is one flat directory; it knows nothing of segments.

use std::io;
use std::sync::Arc;

mod file;

pub use file::FileDisk;

/// One directory of files. All methods block.
pub trait Disk: Send + Sync + 'static {
    /// Names of the files in the directory, in any order.
    ///
    /// # Errors
    /// Those of reading the directory.
    fn list(&self) -> io::Result<Vec<String>>;

    /// Opens an existing file for reading and writing.
    ///
    /// # Errors
    /// If it is not there or cannot be opened.
    fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>>;

    /// Creates a file. The name is durable only after [`Disk::sync_dir`].
    ///
    /// # Errors
    /// If there is one already or it cannot be created.
    fn create(&self, name: &str) -> io::Result<Arc<dyn DiskFile>>;

    /// Gives a file another name, replacing nothing. Durable only after [`Disk::sync_dir`].
    ///
    /// # Errors
    /// If that cannot be done; then the old name still holds.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;

    /// Removes a file. Durable only after [`Disk::sync_dir`].
    ///
    /// # Errors
    /// If that cannot be done.
    fn remove(&self, name: &str) -> io::Result<()>;

    /// Makes creations, renames and removals durable.
    ///
    /// # Errors
    /// If that failed; what is durable is then unknown.
    fn sync_dir(&self) -> io::Result<()>;

    /// A fresh random id for a segment; from the operating system's generator, except in simulations, which want to
    /// repeat themselves.
    ///
    /// # Errors
    /// If there is no randomness to be had.
    fn segment_id(&self) -> io::Result<[u8; 16]> {
        let mut id = [0; 16];
        getrandom::fill(&mut id).map_err(|e| io::Error::other(e.to_string()))?;
        Ok(id)
    }
}

/// An open file. Offsets, lengths and addresses of buffers are multiples of
/// [`BLOCK_BYTES`](crate::format::BLOCK_BYTES).
pub trait DiskFile: Send + Sync + 'static {
    /// Its length in bytes.
    ///
    /// # Errors
    /// Those of asking.
    fn length(&self) -> io::Result<u64>;

    /// Reads into `buffer` from `offset`, up to the end of the file; how many bytes that were.
    ///
    /// # Errors
    /// If the disk cannot read.
    fn pread(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize>;

    /// Writes all of `bytes` at `offset`. Durable only after [`DiskFile::sync`].
    ///
    /// # Errors
    /// If not all was written; any part may have been.
    fn pwrite(&self, bytes: &[u8], offset: u64) -> io::Result<()>;

    /// Makes what was written, and the file's length, durable: fdatasync.
    ///
    /// # Errors
    /// If that failed. What is durable is then unknown, and a second sync that succeeds means nothing.
    fn sync(&self) -> io::Result<()>;

    /// Makes the file `bytes` long and reserves the space. New bytes read as zeros.
    ///
    /// # Errors
    /// If there is no space ([`io::ErrorKind::StorageFull`]) or that cannot be done.
    fn allocate(&self, bytes: u64) -> io::Result<()>;

    /// Cuts the file to `bytes`, giving the space back.
    ///
    /// # Errors
    /// If that cannot be done.
    fn truncate(&self, bytes: u64) -> io::Result<()>;
}
