//! Blobs in files named by their digest. A blob is there in full, on disk and checked, or it is not there.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use crate::digest::{Digest, Hasher};
use crate::error::{ImageError, io_error};

/// Read and written at a time.
const BUFFER_BYTES: usize = 256 << 10;

/// The folder of blobs and the one where they grow.
#[derive(Debug)]
pub(crate) struct Blobs {
    dir: PathBuf,
    temporary: PathBuf,
    next: AtomicU64,
}

impl Blobs {
    pub(crate) fn new(dir: PathBuf, temporary: PathBuf) -> Self {
        Self { dir, temporary, next: AtomicU64::new(0) }
    }

    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    pub(crate) fn path(&self, digest: Digest) -> PathBuf {
        self.dir.join(digest.hex())
    }

    pub(crate) fn has(&self, digest: Digest) -> bool {
        self.path(digest).is_file()
    }

    /// A name in the temporary folder that nothing else has.
    pub(crate) fn temporary(&self) -> PathBuf {
        self.temporary.join(format!("{}", self.next.fetch_add(1, Ordering::Relaxed)))
    }

    pub(crate) fn open(&self, digest: Digest) -> Result<File, ImageError> {
        let path = self.path(digest);
        File::open(&path).map_err(io_error("read", &path))
    }

    /// All of a small blob, checked.
    pub(crate) fn read(&self, digest: Digest, bytes_max: u64) -> Result<Vec<u8>, ImageError> {
        let mut bytes = Vec::new();
        let read = self.open(digest)?.take(bytes_max + 1).read_to_end(&mut bytes);
        read.map_err(io_error("read", &self.path(digest)))?;
        let found = Digest::of(&bytes);
        if found != digest {
            let subject = self.path(digest).display().to_string();
            return Err(ImageError::WrongDigest { subject, expected: digest, found });
        }
        Ok(bytes)
    }

    pub(crate) fn writer(&self, bytes_max: u64) -> Result<BlobWriter<'_>, ImageError> {
        let path = self.temporary();
        let file = File::create(&path).map_err(io_error("create", &path))?;
        Ok(BlobWriter { blobs: self, file, path, hasher: Hasher::default(), bytes_max })
    }

    /// Takes bytes that are made here.
    pub(crate) fn put_bytes(&self, bytes: &[u8]) -> Result<Digest, ImageError> {
        let digest = Digest::of(bytes);
        if !self.has(digest) {
            let mut writer = self.writer(bytes.len() as u64)?;
            writer.append(bytes)?;
            writer.commit(Some(digest))?;
        }
        Ok(digest)
    }

    /// Takes a blob of known digest and size, unless it is there.
    pub(crate) fn put(&self, mut from: impl Read, digest: Digest, size: u64) -> Result<(), ImageError> {
        if self.has(digest) {
            return Ok(());
        }
        let mut writer = self.writer(size)?;
        let mut buffer = vec![0; BUFFER_BYTES];
        loop {
            let read = from.read(&mut buffer).map_err(|error| ImageError::refused("an archive", error.to_string()))?;
            if read == 0 {
                break;
            }
            writer.append(&buffer[..read])?;
        }
        writer.commit(Some(digest)).map(drop)
    }
}

/// A blob that grows. Dropped without [`commit`](Self::commit), nothing of it stays.
pub(crate) struct BlobWriter<'a> {
    blobs: &'a Blobs,
    file: File,
    path: PathBuf,
    hasher: Hasher,
    bytes_max: u64,
}

impl BlobWriter<'_> {
    pub(crate) fn append(&mut self, bytes: &[u8]) -> Result<(), ImageError> {
        self.write_all(bytes).map_err(io_error("write", &self.path))
    }

    /// On disk under its digest, if it is the expected one.
    pub(crate) fn commit(mut self, expected: Option<Digest>) -> Result<(Digest, u64), ImageError> {
        let hasher = std::mem::take(&mut self.hasher);
        let size = hasher.bytes();
        let found = hasher.digest();
        if let Some(expected) = expected.filter(|&expected| expected != found) {
            return Err(ImageError::WrongDigest { subject: "a blob".to_owned(), expected, found });
        }
        self.file.sync_data().map_err(io_error("flush", &self.path))?;
        let path = self.blobs.path(found);
        fs::rename(&self.path, &path).map_err(io_error("create", &path))?;
        Ok((found, size))
    }
}

impl Write for BlobWriter<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.hasher.bytes() + bytes.len() as u64 > self.bytes_max {
            return Err(io::Error::other(format!(
                "the blob is longer than the {} bytes it should have",
                self.bytes_max
            )));
        }
        let written = self.file.write(bytes)?;
        self.hasher.update(&bytes[..written]);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

impl Drop for BlobWriter<'_> {
    fn drop(&mut self) {
        // After a commit there is nothing by this name any more.
        let _ = fs::remove_file(&self.path);
    }
}
