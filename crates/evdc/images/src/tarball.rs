//! Tar files that are the same whenever they are made of the same things: no time, no names of users, entries as they are given.

use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use tar::{EntryType, Header};

use crate::error::{ImageError, io_error};

/// A tar file that is being written.
pub(crate) struct Tarball<W: Write> {
    builder: tar::Builder<W>,
    path: PathBuf,
}

impl<W: Write> Tarball<W> {
    /// `path` is for messages.
    pub(crate) fn new(writer: W, path: &Path) -> Self {
        Self { builder: tar::Builder::new(writer), path: path.to_owned() }
    }

    fn append(&mut self, mut header: Header, name: &str, content: impl Read) -> Result<(), ImageError> {
        header.set_mtime(0);
        header.set_uid(0);
        header.set_gid(0);
        self.builder.append_data(&mut header, name, content).map_err(io_error("write", &self.path))
    }

    pub(crate) fn bytes(&mut self, name: &str, mode: u32, bytes: &[u8]) -> Result<(), ImageError> {
        self.file(name, mode, bytes.len() as u64, bytes)
    }

    /// A file of which exactly `size` bytes are expected; one that changes its length meanwhile is an error.
    pub(crate) fn file(&mut self, name: &str, mode: u32, size: u64, content: impl Read) -> Result<(), ImageError> {
        let mut header = Header::new_gnu();
        header.set_entry_type(EntryType::Regular);
        header.set_mode(mode);
        header.set_size(size);
        let mut content = Counted { inner: content.take(size), read: 0 };
        self.append(header, name, &mut content)?;
        if content.read != size {
            return Err(ImageError::refused(name, "it became shorter while it was read"));
        }
        Ok(())
    }

    pub(crate) fn directory(&mut self, name: &str, mode: u32) -> Result<(), ImageError> {
        let mut header = Header::new_gnu();
        header.set_entry_type(EntryType::Directory);
        header.set_mode(mode);
        header.set_size(0);
        self.append(header, name, std::io::empty())
    }

    pub(crate) fn symlink(&mut self, name: &str, target: &str) -> Result<(), ImageError> {
        let mut header = Header::new_gnu();
        header.set_entry_type(EntryType::Symlink);
        header.set_mode(0o777);
        header.set_size(0);
        header.set_mtime(0);
        header.set_uid(0);
        header.set_gid(0);
        self.builder.append_link(&mut header, name, target).map_err(io_error("write", &self.path))
    }

    pub(crate) fn finish(self) -> Result<W, ImageError> {
        self.builder.into_inner().map_err(io_error("write", &self.path))
    }
}

struct Counted<R> {
    inner: R,
    read: u64,
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let read = self.inner.read(buffer)?;
        self.read += read as u64;
        Ok(read)
    }
}
