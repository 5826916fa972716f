//! The writing side: lines from pieces, files of a limited size.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

use jiff::Timestamp;

use super::{LINE_BYTES_MAX, Stream, rotated};
use crate::error::{RuntimeError, io_error};
use crate::spec::LogTarget;

/// A log that is being written. A full disk loses lines and nothing else: the container must not stop for its log.
pub(crate) struct LogWriter {
    path: PathBuf,
    bytes_max: u64,
    files: u32,
    file: Option<File>,
    size: u64,
    /// What has come of the current line of each stream.
    begun: [Vec<u8>; 2],
}

impl LogWriter {
    pub(crate) fn open(target: &LogTarget) -> Result<Self, RuntimeError> {
        let folder = target.path.parent().unwrap_or(Path::new("/"));
        fs::create_dir_all(folder).map_err(io_error("create", folder))?;
        let file = append(&target.path).map_err(io_error("open", &target.path))?;
        let size = file.metadata().map_err(io_error("look at", &target.path))?.len();
        Ok(Self {
            path: target.path.clone(),
            bytes_max: target.max_bytes.0.max(1),
            files: target.files.max(1),
            file: Some(file),
            size,
            begun: [Vec::new(), Vec::new()],
        })
    }

    /// Takes a piece of output.
    pub(crate) fn append(&mut self, stream: Stream, piece: &[u8]) {
        let now = Timestamp::now();
        let mut entries = Vec::with_capacity(piece.len() + 64);
        let mut begun = std::mem::take(&mut self.begun[stream as usize]);
        for part in piece.split_inclusive(|&byte| byte == b'\n') {
            begun.extend_from_slice(part);
            let whole = begun.pop_if(|last| *last == b'\n').is_some();
            let mut rest = begun.as_slice();
            while rest.len() > LINE_BYTES_MAX {
                let (line, after) = rest.split_at(LINE_BYTES_MAX);
                entry(&mut entries, now, stream, true, line);
                rest = after;
            }
            if whole {
                entry(&mut entries, now, stream, false, rest);
                begun.clear();
            } else {
                begun = rest.to_vec();
            }
        }
        self.begun[stream as usize] = begun;
        self.write(&entries);
    }

    /// Writes what never got its line end.
    pub(crate) fn finish(&mut self) {
        for stream in [Stream::Stdout, Stream::Stderr] {
            let begun = std::mem::take(&mut self.begun[stream as usize]);
            if !begun.is_empty() {
                let mut entries = Vec::new();
                entry(&mut entries, Timestamp::now(), stream, false, &begun);
                self.write(&entries);
            }
        }
    }

    fn write(&mut self, entries: &[u8]) {
        if entries.is_empty() {
            return;
        }
        if self.size > 0 && self.size + entries.len() as u64 > self.bytes_max {
            self.rotate();
        }
        // Gone, perhaps with its folder, or not to be opened when it was rotated: tried again with every piece.
        if self.file.is_none() {
            self.file = append(&self.path).ok();
        }
        if let Some(file) = &mut self.file
            && file.write_all(entries).is_ok()
        {
            self.size += entries.len() as u64;
        }
    }

    fn rotate(&mut self) {
        for age in (0..self.files.saturating_sub(1)).rev() {
            // Not there is the usual case for old ones.
            let _ = fs::rename(rotated(&self.path, age), rotated(&self.path, age + 1));
        }
        if self.files == 1 {
            let _ = fs::remove_file(&self.path);
        }
        self.file = append(&self.path).ok();
        self.size = 0;
    }
}

fn append(path: &Path) -> std::io::Result<File> {
    OpenOptions::new().create(true).append(true).open(path)
}

fn entry(entries: &mut Vec<u8>, at: Timestamp, stream: Stream, partial: bool, text: &[u8]) {
    let tag = if partial { 'P' } else { 'F' };
    entries.extend_from_slice(format!("{at:.9} {} {tag} ", stream.as_str()).as_bytes());
    entries.extend_from_slice(text);
    entries.push(b'\n');
}
