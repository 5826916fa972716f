//! The reading side: all that there is of a log through its files, or what is added to it from now on.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use jiff::Timestamp;

use super::{LINE_BYTES_MAX, LogLine, rotated};
use crate::error::{RuntimeError, io_error};

/// Most files that are looked for; more than any rotation keeps.
const FILES_MAX: u32 = 100;
/// Longest line in a file: an entry's text and what stands before it.
const ENTRY_BYTES_MAX: usize = LINE_BYTES_MAX + 256;
/// Most that is read for one [`Follow::available`].
const AVAILABLE_BYTES_MAX: u64 = 1 << 20;
/// How often a log that is followed is looked at: a person does not notice, and a node does not either.
const FOLLOW_PERIOD: Duration = Duration::from_millis(100);

/// Which lines of a log.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LogQuery {
    /// The last so many entries; `None` for all.
    pub tail: Option<usize>,
    /// Not older than this.
    pub since: Option<Timestamp>,
    /// The first so many bytes of text; `None` for all there are, which rotation limits.
    pub bytes_max: Option<usize>,
}

/// Reads a log through all its files, oldest first. A log that is not there has no lines. Blocks.
pub fn read(path: &Path, query: &LogQuery) -> Result<Vec<LogLine>, RuntimeError> {
    let mut lines = VecDeque::new();
    let mut bytes = 0;
    let ages = (0..FILES_MAX).take_while(|&age| age == 0 || rotated(path, age).exists()).count();
    for age in (0..u32::try_from(ages).unwrap_or(FILES_MAX)).rev() {
        let file = match File::open(rotated(path, age)) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(io_error("read", path)(error)),
        };
        let mut reader = BufReader::new(file);
        while let Some(line) = next(&mut reader).map_err(io_error("read", path))? {
            if query.since.is_some_and(|since| line.at < since) {
                continue;
            }
            lines.push_back(line);
            if query.tail.is_some_and(|tail| lines.len() > tail) {
                lines.pop_front();
            }
        }
    }
    let fits = |line: &LogLine| {
        bytes += line.text.len() + 1;
        query.bytes_max.is_none_or(|bytes_max| bytes <= bytes_max)
    };
    let mut lines = Vec::from(lines);
    let kept = lines.iter().map(fits).take_while(|&fits| fits).count();
    lines.truncate(kept);
    Ok(lines)
}

/// The next entry; what is not one is passed over, an unfinished one is the end.
fn next(reader: &mut impl BufRead) -> io::Result<Option<LogLine>> {
    loop {
        let mut line = Vec::new();
        reader.by_ref().take(ENTRY_BYTES_MAX as u64).read_until(b'\n', &mut line)?;
        if line.is_empty() {
            return Ok(None);
        }
        if line.pop_if(|last| *last == b'\n').is_some()
            && let Some(line) = LogLine::parse(&line)
        {
            return Ok(Some(line));
        }
    }
}

/// Reads a log as it grows, through rotations.
#[derive(Debug)]
pub struct Follow {
    path: PathBuf,
    file: Option<File>,
    unfinished: Vec<u8>,
}

impl Follow {
    /// From the beginning of the current file, which need not be there yet.
    pub fn new(path: &Path) -> Self {
        Self { path: path.to_owned(), file: None, unfinished: Vec::new() }
    }

    /// From the end of the current file: only what is written from now on.
    pub fn from_end(path: &Path) -> Self {
        let file = File::open(path).ok().and_then(|mut file| {
            io::Seek::seek(&mut file, io::SeekFrom::End(0)).ok()?;
            Some(file)
        });
        Self { path: path.to_owned(), file, unfinished: Vec::new() }
    }

    /// What has been written since the last call; empty if nothing. Blocks for the disk only.
    pub fn available(&mut self) -> Result<Vec<LogLine>, RuntimeError> {
        let mut lines = Vec::new();
        loop {
            if self.file.is_none() {
                self.file = File::open(&self.path).ok();
            }
            let Some(file) = &mut self.file else { return Ok(lines) };
            // Looked for first: after the rotation nothing more is written to the old file.
            let newer = newer(&self.path, file);
            let mut bytes = std::mem::take(&mut self.unfinished);
            let read = file.by_ref().take(AVAILABLE_BYTES_MAX).read_to_end(&mut bytes);
            let read = read.map_err(io_error("read", &self.path))?;
            let end = bytes.iter().rposition(|&byte| byte == b'\n').map_or(0, |at| at + 1);
            self.unfinished = bytes.split_off(end);
            self.unfinished.truncate(ENTRY_BYTES_MAX);
            lines.extend(bytes.split(|&byte| byte == b'\n').filter_map(LogLine::parse));
            if read as u64 >= AVAILABLE_BYTES_MAX {
                return Ok(lines);
            }
            match newer {
                Some(newer) => self.file = Some(newer),
                None => return Ok(lines),
            }
        }
    }

    /// Waits until something is written, and gives it.
    pub async fn next(&mut self) -> Result<Vec<LogLine>, RuntimeError> {
        loop {
            let lines = self.available()?;
            if !lines.is_empty() {
                return Ok(lines);
            }
            tokio::time::sleep(FOLLOW_PERIOD).await;
        }
    }
}

/// The file that was begun after this one, if it was rotated away.
fn newer(path: &Path, file: &File) -> Option<File> {
    let own = file.metadata().ok()?;
    let mut newer = None;
    for age in 0..FILES_MAX {
        let Ok(other) = File::open(rotated(path, age)) else { break };
        let metadata = other.metadata().ok()?;
        if (metadata.dev(), metadata.ino()) == (own.dev(), own.ino()) {
            return newer;
        }
        newer = Some(other);
    }
    // So old that it is no more: on with the oldest there is.
    newer
}
