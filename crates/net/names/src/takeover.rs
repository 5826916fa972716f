//! `resolv.conf` written by this node, and put back as it was.
//!
//! Before anything is changed, a note on the disk says what there was and what is about to be written, so that whoever comes after a crash can undo it: the same
//! node when it starts again, or `atoll down --clear`. What was there also lies beside the file as `….before-atoll`, for a person without this program.
//!
//! Invariants:
//! - The file is replaced whole by a rename; no program ever sees half of it.
//! - It is put back only while its content is what the note says that this node wrote. What somebody else has written since is theirs and stays.
//! - Undoing can be interrupted and done again. Once it is done there is neither a note nor a copy.

use std::ffi::OsString;
use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use atoll_wire::{Versioned, decode, encode};
use serde::{Deserialize, Serialize};

use crate::resolv_conf::ResolvConf;

/// A `resolv.conf` has a few lines; more is something else.
const FILE_BYTES_MAX: u64 = 64 << 10;

/// What every file of ours says on its first line, so that a node recognises another's.
const MARK: &str = "Written by atoll";

/// Who may read the note: it says nothing secret, and a person may want to look.
const NOTE_MODE: u32 = 0o644;

/// The mode of a file that was not there before: programs of all users read it.
const NEW_MODE: u32 = 0o644;

/// What was changed, where, and what there was before.
#[derive(Debug, Serialize, Deserialize)]
struct Note {
    /// The file.
    path: Vec<u8>,
    before: Before,
    /// What this node wrote.
    ours: Vec<u8>,
}

impl Versioned for Note {
    const VERSION: u16 = 1;
    const NAME: &'static str = "note about resolv.conf";
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
enum Before {
    Nothing,
    File {
        content: Vec<u8>,
        mode: u32,
        owner: u32,
        group: u32,
    },
    /// A symbolic link, as systemd-resolved and NetworkManager make it.
    Link(Vec<u8>),
}

/// Why `resolv.conf` is not written, or not put back.
#[derive(Debug, thiserror::Error)]
pub enum TakeError {
    /// Another node wrote it.
    #[error("{} was written by another atoll node ({said}); stop that one, or `atoll down --clear` with its --data-dir", path.display())]
    Taken {
        /// The file.
        path: PathBuf,
        /// What it says.
        said: String,
    },
    /// It cannot be replaced by a rename.
    #[error("{} is mounted on its own (a container's?) and cannot be replaced in one go; name this node in it by hand", path.display())]
    Mounted {
        /// The file.
        path: PathBuf,
    },
    /// It cannot be a `resolv.conf`.
    #[error("{} has more than 64 KiB or is no plain file; is network.resolv_conf the right path?", path.display())]
    Odd {
        /// The file.
        path: PathBuf,
    },
    /// The note cannot be read.
    #[error("{}: {source}; what was there before lies beside resolv.conf as resolv.conf.before-atoll", path.display())]
    Note {
        /// The note.
        path: PathBuf,
        /// What is wrong with it.
        source: atoll_wire::DecodeError,
    },
    /// The system refuses.
    #[error("cannot {what} {}: {source}", path.display())]
    Io {
        /// What was tried.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
}

/// The file is ours.
#[derive(Debug, PartialEq, Eq)]
pub struct Taken {
    /// What it said before.
    pub before: ResolvConf,
}

/// What came of undoing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GivenBack {
    /// Nothing was to be undone.
    Nothing,
    /// It is as it was.
    Restored,
    /// Somebody else has changed it since, and it is left as they have it.
    LeftAlone,
}

/// One thing done to the disk. A test stops before any of them, as a crash would.
trait Disk {
    fn may(&mut self) -> io::Result<()>;
}

/// Every one is done.
struct Real;

impl Disk for Real {
    fn may(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Writes `resolv.conf` at `path` as `write` makes it of what it said; `note` is where it is noted down. `who` says in one line whose file it is.
///
/// # Errors
/// [`TakeError`]; nothing is changed then but perhaps a note, which [`give_back`] removes.
pub fn take(path: &Path, note: &Path, own: std::net::IpAddr, who: &str) -> Result<Taken, TakeError> {
    take_on(&mut Real, path, note, own, who)
}

/// Undoes what [`take`] did, whether or not it got to its end.
///
/// # Errors
/// [`TakeError`]; it can be called again.
pub fn give_back(note: &Path) -> Result<GivenBack, TakeError> {
    give_back_on(&mut Real, note)
}

/// Whether the file is still as this node wrote it.
#[must_use]
pub fn is_taken(note: &Path) -> bool {
    let noted = read_note(note).ok().flatten();
    noted.is_some_and(|noted| fs::read(noted.path()).is_ok_and(|content| content == noted.ours))
}

impl Note {
    fn path(&self) -> PathBuf {
        PathBuf::from(OsString::from_vec(self.path.clone()))
    }
}

fn failed(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> TakeError {
    move |source| TakeError::Io { what, path: path.to_path_buf(), source }
}

fn beside(path: &Path, ending: &str) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(ending);
    path.with_file_name(name)
}

/// A file on its way to become the one at `path`.
fn fresh(path: &Path) -> PathBuf {
    beside(path, ".atoll-new")
}

/// What was there before, for a person.
fn copy_of(path: &Path) -> PathBuf {
    beside(path, ".before-atoll")
}

fn take_on(
    disk: &mut impl Disk,
    path: &Path,
    note: &Path,
    own: std::net::IpAddr,
    who: &str,
) -> Result<Taken, TakeError> {
    give_back_on(disk, note)?;
    let content = content_of(path)?;
    let text = String::from_utf8_lossy(&content);
    if let Some(said) = text.lines().next().filter(|line| line.contains(MARK)) {
        return Err(TakeError::Taken {
            path: path.to_path_buf(),
            said: said.trim_start_matches('#').trim().to_owned(),
        });
    }
    let before = ResolvConf::parse(&text);
    let copy = copy_of(path);
    let heading = format!(
        "{MARK}: {who}.\nWhat was here before is in {} and comes back when that node ends.",
        copy.file_name().unwrap_or_default().to_string_lossy()
    );
    let ours = before.with_first(own, &heading).into_bytes();
    let noted = Note { path: path.as_os_str().as_bytes().to_vec(), before: before_of(path, &content)?, ours };
    replace(disk, note, &encode(&noted), NOTE_MODE)?;
    replace(disk, &copy, &content, NOTE_MODE)?;
    let mode = match &noted.before {
        Before::File { mode, .. } => *mode,
        Before::Nothing | Before::Link(_) => NEW_MODE,
    };
    replace(disk, path, &noted.ours, mode)?;
    Ok(Taken { before })
}

/// What programs read at `path` now; empty if there is nothing, which is no error for them either.
fn content_of(path: &Path) -> Result<Vec<u8>, TakeError> {
    match fs::metadata(path) {
        Ok(found) if !found.is_file() || found.len() > FILE_BYTES_MAX => {
            Err(TakeError::Odd { path: path.to_path_buf() })
        }
        Ok(_) => fs::read(path).map_err(failed("read", path)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(source) => Err(failed("read", path)(source)),
    }
}

fn before_of(path: &Path, content: &[u8]) -> Result<Before, TakeError> {
    let found = match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Before::Nothing),
        found => found.map_err(failed("look at", path))?,
    };
    if found.is_symlink() {
        let to = fs::read_link(path).map_err(failed("look at", path))?;
        return Ok(Before::Link(to.into_os_string().into_vec()));
    }
    let mode = found.permissions().mode() & 0o7777;
    Ok(Before::File { content: content.to_vec(), mode, owner: found.uid(), group: found.gid() })
}

fn give_back_on(disk: &mut impl Disk, note: &Path) -> Result<GivenBack, TakeError> {
    let Some(noted) = read_note(note)? else { return Ok(GivenBack::Nothing) };
    let path = noted.path();
    let is_link = fs::symlink_metadata(&path).is_ok_and(|found| found.is_symlink());
    let is_ours = !is_link && fs::read(&path).is_ok_and(|content| content == noted.ours);
    let outcome = if is_ours {
        restore(disk, &path, &noted.before)?;
        GivenBack::Restored
    } else if is_as_before(&path, &noted.before) {
        // Stopped before it was written, or after it was put back.
        GivenBack::Nothing
    } else {
        GivenBack::LeftAlone
    };
    let copy = copy_of(&path);
    // What somebody else wrote may be in place of what is in the copy; a person decides.
    if outcome != GivenBack::LeftAlone {
        remove(disk, &copy)?;
    }
    // What was begun and did not become a file.
    remove(disk, &fresh(&copy))?;
    remove(disk, &fresh(&path))?;
    remove(disk, note)?;
    Ok(outcome)
}

fn is_as_before(path: &Path, before: &Before) -> bool {
    let content = fs::read(path).unwrap_or_default();
    match (before_of(path, &content), before) {
        (Ok(Before::File { content: now, .. }), Before::File { content, .. }) => now == *content,
        (Ok(now), before) => now == *before,
        (Err(_), _) => false,
    }
}

fn restore(disk: &mut impl Disk, path: &Path, before: &Before) -> Result<(), TakeError> {
    match before {
        Before::Nothing => remove(disk, path),
        Before::File { content, mode, owner, group } => {
            replace(disk, path, content, *mode)?;
            // Only root can, and only root could have taken a file of somebody else's.
            if let Err(error) = std::os::unix::fs::chown(path, Some(*owner), Some(*group)) {
                tracing::debug!(%error, path = %path.display(), "the file is this user's now");
            }
            Ok(())
        }
        Before::Link(to) => {
            let fresh = fresh(path);
            remove(disk, &fresh)?;
            disk.may().map_err(failed("write", &fresh))?;
            let to = Path::new(std::ffi::OsStr::from_bytes(to));
            std::os::unix::fs::symlink(to, &fresh).map_err(failed("write", &fresh))?;
            rename(disk, &fresh, path)
        }
    }
}

/// Writes the whole file or nothing: a crash at any moment leaves the one or the other.
fn replace(disk: &mut impl Disk, path: &Path, content: &[u8], mode: u32) -> Result<(), TakeError> {
    let fresh = fresh(path);
    remove(disk, &fresh)?;
    disk.may().map_err(failed("write", &fresh))?;
    let mut options = OpenOptions::new();
    let mut file = options.write(true).create_new(true).mode(mode).open(&fresh).map_err(failed("write", &fresh))?;
    disk.may().map_err(failed("write", &fresh))?;
    // The mode as it was, whatever this process's umask takes away.
    let written = file.set_permissions(fs::Permissions::from_mode(mode));
    written.and_then(|()| file.write_all(content)).map_err(failed("write", &fresh))?;
    file.sync_all().map_err(failed("write", &fresh))?;
    rename(disk, &fresh, path)
}

fn rename(disk: &mut impl Disk, from: &Path, to: &Path) -> Result<(), TakeError> {
    disk.may().map_err(failed("replace", to))?;
    if let Err(source) = fs::rename(from, to) {
        let _: io::Result<()> = fs::remove_file(from);
        return Err(match source.kind() {
            io::ErrorKind::ResourceBusy => TakeError::Mounted { path: to.to_path_buf() },
            _ => failed("replace", to)(source),
        });
    }
    sync_folder(to)
}

fn remove(disk: &mut impl Disk, path: &Path) -> Result<(), TakeError> {
    disk.may().map_err(failed("remove", path))?;
    match fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => {
            removed.map_err(failed("remove", path))?;
            sync_folder(path)
        }
    }
}

fn sync_folder(path: &Path) -> Result<(), TakeError> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    fs::File::open(folder).and_then(|folder| folder.sync_all()).map_err(failed("write", folder))
}

fn read_note(note: &Path) -> Result<Option<Note>, TakeError> {
    match fs::read(note) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        read => {
            let bytes = read.map_err(failed("read", note))?;
            let decoded = decode(&bytes).map_err(|source| TakeError::Note { path: note.to_path_buf(), source });
            decoded.map(Some)
        }
    }
}

#[cfg(test)]
mod tests;
