//! A durable list of entries in one append-only file.
//!
//! The file is a header line and then a line per entry: CRC-32 of the rest, how many bytes of the file were on the disk before this
//! was written (both hexadecimal), JSON. An entry is acknowledged after fdatasync of the file that holds it. Lines that a crash left
//! torn lie behind everything that was on the disk, were never acknowledged and are cut off at the next start. A damaged line that a
//! later one knows to have been on the disk is damage, and opening is refused rather than losing what follows.
//!
//! One thread writes; what arrives while it syncs shares the next sync. After a failed write the store takes no more entries, because
//! what the disk then holds is not known: a restart finds out.

use std::collections::HashSet;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::Path;
use std::sync::{Arc, RwLock};

use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, oneshot};

/// The first line; the number is the format's version.
const HEADER: &str = "atoll guestbook 1\n";
const FILE: &str = "entries.log";

/// Most entries, which are all kept in memory: with the limits of each that is 250 MB at the very most, and usually 20.
pub const ENTRIES_MAX: usize = 100_000;
/// Longest name, in bytes.
pub const NAME_BYTES_MAX: usize = 100;
/// Longest text, in bytes.
pub const TEXT_BYTES_MAX: usize = 2000;
/// Longest id, in bytes.
const ID_BYTES_MAX: usize = 64;
/// Writes that wait for the disk.
const QUEUE: usize = 256;

/// What somebody wrote. The id is chosen by the client, so that sending it again does not write it again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Who sends it chooses it at random.
    pub id: String,
    /// Who wrote it.
    pub name: String,
    /// What was written.
    pub text: String,
}

/// Why the store cannot be opened or written.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The file system said no.
    #[error("{path}: {source}")]
    Io {
        /// The file or folder.
        path: String,
        /// What the system said.
        source: io::Error,
    },
    /// Another process has it.
    #[error("{0} is in use by another process")]
    Locked(String),
    /// It is damaged, other than by a crash.
    #[error("{path} is damaged at byte {at}, and there are entries behind it: restore it from a backup")]
    Damaged {
        /// The file.
        path: String,
        /// Where.
        at: usize,
    },
    /// The file is of something else.
    #[error("{0} is no guestbook of a version that is known")]
    Foreign(String),
    /// The entry breaks a limit.
    #[error("{0}")]
    Refused(&'static str),
    /// A write failed; the store takes none any more.
    #[error("the store stopped after a failed write")]
    Stopped,
}

type Write1 = (Entry, oneshot::Sender<Result<(), StoreError>>);

/// A store; clones are the same store.
#[derive(Debug, Clone)]
pub struct Store {
    entries: Arc<RwLock<Vec<Entry>>>,
    queue: mpsc::Sender<Write1>,
}

impl Store {
    /// Opens or makes the store in a folder, and starts its writer.
    ///
    /// # Errors
    /// The folder cannot be used, another process has it, or the file is damaged.
    pub fn open(folder: &Path) -> Result<Self, StoreError> {
        let path = folder.join(FILE);
        let shown = path.display().to_string();
        let failed = |source| StoreError::Io { path: shown.clone(), source };
        let mut file = OpenOptions::new().read(true).append(true).create(true).open(&path).map_err(failed)?;
        match file.try_lock() {
            // A file system without locks leaves it to the volume that only one mounts it.
            Ok(()) | Err(std::fs::TryLockError::Error(_)) => {}
            Err(std::fs::TryLockError::WouldBlock) => return Err(StoreError::Locked(shown)),
        }
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).map_err(failed)?;
        let (entries, good) = read(&bytes, &shown)?;
        if good < bytes.len() {
            file.set_len(u64::try_from(good).unwrap_or(u64::MAX)).map_err(failed)?;
        }
        if good == 0 {
            file.write_all(HEADER.as_bytes()).map_err(failed)?;
        }
        file.seek(SeekFrom::End(0)).map_err(failed)?;
        file.sync_all().map_err(failed)?;
        // The file's name, too, must outlive a crash.
        File::open(folder).and_then(|it| it.sync_all()).map_err(failed)?;
        let known = entries.iter().map(|it| it.id.clone()).collect();
        let entries = Arc::new(RwLock::new(entries));
        let (queue, arriving) = mpsc::channel(QUEUE);
        let durable = file.metadata().map_err(failed)?.len();
        let writer = Writer { file, durable, known, entries: entries.clone(), arriving };
        let thread = std::thread::Builder::new().name("guestbook-writer".into());
        thread.spawn(move || writer.run()).map_err(failed)?;
        Ok(Self { entries, queue })
    }

    /// The last `count` entries, the oldest first.
    #[must_use]
    pub fn last(&self, count: usize) -> Vec<Entry> {
        let entries = self.entries.read().unwrap_or_else(std::sync::PoisonError::into_inner);
        entries[entries.len().saturating_sub(count)..].to_vec()
    }

    /// How many there are.
    #[must_use]
    pub fn count(&self) -> usize {
        self.entries.read().unwrap_or_else(std::sync::PoisonError::into_inner).len()
    }

    /// Whether it takes entries.
    #[must_use]
    pub fn is_open(&self) -> bool {
        !self.queue.is_closed()
    }

    /// Adds an entry; returns once it is on the disk. One whose id is there already is left as it is.
    ///
    /// # Errors
    /// The entry breaks a limit, or the disk failed.
    pub async fn add(&self, entry: Entry) -> Result<(), StoreError> {
        check(&entry)?;
        let (done, wait) = oneshot::channel();
        self.queue.send((entry, done)).await.map_err(|_| StoreError::Stopped)?;
        wait.await.map_err(|_| StoreError::Stopped)?
    }
}

fn check(entry: &Entry) -> Result<(), StoreError> {
    let id = |it: char| it.is_ascii_alphanumeric() || it == '-';
    if entry.id.is_empty() || entry.id.len() > ID_BYTES_MAX || !entry.id.chars().all(id) {
        return Err(StoreError::Refused("the id must be 1 to 64 letters, digits and dashes"));
    }
    if entry.name.trim().is_empty() || entry.name.len() > NAME_BYTES_MAX {
        return Err(StoreError::Refused("a name is needed, of at most 100 bytes"));
    }
    if entry.text.trim().is_empty() || entry.text.len() > TEXT_BYTES_MAX {
        return Err(StoreError::Refused("a text is needed, of at most 2000 bytes"));
    }
    Ok(())
}

struct Writer {
    file: File,
    /// Bytes of the file that are on the disk.
    durable: u64,
    known: HashSet<String>,
    entries: Arc<RwLock<Vec<Entry>>>,
    arriving: mpsc::Receiver<Write1>,
}

impl Writer {
    fn run(mut self) {
        while let Some(first) = self.arriving.blocking_recv() {
            let mut batch = vec![first];
            while batch.len() < QUEUE
                && let Ok(next) = self.arriving.try_recv()
            {
                batch.push(next);
            }
            if let Err(error) = self.write(batch) {
                tracing::error!(%error, "the guestbook's disk failed; no more entries are taken");
                return;
            }
        }
    }

    fn write(&mut self, batch: Vec<Write1>) -> io::Result<()> {
        let mut bytes = Vec::new();
        let (mut added, mut waiting) = (Vec::new(), Vec::new());
        let present = self.known.len();
        for (entry, done) in batch {
            if self.known.contains(&entry.id) {
                waiting.push(done);
            } else if present + added.len() >= ENTRIES_MAX {
                // Whoever asked may have gone.
                let _ = done.send(Err(StoreError::Refused("the guestbook is full")));
            } else {
                bytes.extend_from_slice(&line(&entry, self.durable)?);
                self.known.insert(entry.id.clone());
                added.push(entry);
                waiting.push(done);
            }
        }
        if !bytes.is_empty() {
            self.file.write_all(&bytes)?;
            self.file.sync_data()?;
            self.durable += u64::try_from(bytes.len()).unwrap_or(0);
        }
        self.entries.write().unwrap_or_else(std::sync::PoisonError::into_inner).extend(added);
        for done in waiting {
            // Whoever asked may have gone.
            let _ = done.send(Ok(()));
        }
        Ok(())
    }
}

fn checksum(body: &[u8]) -> u64 {
    crc_fast::checksum(crc_fast::CrcAlgorithm::Crc32IsoHdlc, body)
}

fn line(entry: &Entry, durable: u64) -> io::Result<Vec<u8>> {
    let body = format!("{durable:x} {}", serde_json::to_string(entry)?);
    Ok(format!("{:08x} {body}\n", checksum(body.as_bytes())).into_bytes())
}

/// An entry, and how much of the file was on the disk before it.
fn parse(line: &[u8]) -> Option<(usize, Entry)> {
    let hex = |it: &str| u64::from_str_radix(it, 16).ok();
    let (sum, body) = std::str::from_utf8(line).ok()?.split_once(' ')?;
    if sum.len() != 8 || hex(sum)? != checksum(body.as_bytes()) {
        return None;
    }
    let (durable, json) = body.split_once(' ')?;
    Some((usize::try_from(hex(durable)?).ok()?, serde_json::from_str(json).ok()?))
}

/// The entries of a file and how many of its bytes are good.
///
/// # Errors
/// It is of something else, or damaged other than at its end.
pub fn read(bytes: &[u8], path: &str) -> Result<(Vec<Entry>, usize), StoreError> {
    let header = HEADER.as_bytes();
    if bytes.len() < header.len() && header.starts_with(bytes) {
        return Ok((Vec::new(), 0));
    }
    let Some(mut rest) = bytes.strip_prefix(header) else { return Err(StoreError::Foreign(path.to_owned())) };
    let (mut entries, mut good) = (Vec::new(), header.len());
    while let Some(end) = rest.iter().position(|it| *it == b'\n') {
        let Some((_, entry)) = parse(&rest[..end]) else {
            let mut behind = rest[end + 1..].split(|it| *it == b'\n').filter_map(parse);
            let damaged = behind.any(|(durable, _)| durable > good);
            let path = path.to_owned();
            return if damaged { Err(StoreError::Damaged { path, at: good }) } else { Ok((entries, good)) };
        };
        entries.push(entry);
        good += end + 1;
        rest = &rest[end + 1..];
    }
    Ok((entries, good))
}
