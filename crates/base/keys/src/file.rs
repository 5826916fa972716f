//! Key files: one line of text, mode 0600.
//!
//! ```text
//! atoll-node-key v1 <seed: 52 characters of base32> <checksum: 16 characters of base32>
//! ```
//!
//! The checksum is 80 bits of BLAKE3 over all that stands before it. It finds damage, not forgery: who can write the file has
//! the key anyway. A file is accepted only if writing its key again would give the same line, so there is one spelling per key.
//!
//! Files are written beside their place, synced, and moved there without ever replacing a file; the directory is synced after.
//! So a crash leaves the whole key or none, and no key is lost by being overwritten.

use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use data_encoding::{BASE32_NOPAD_NOCASE, HEXLOWER};
use rustix::fs::{CWD, OFlags, RenameFlags};
use zeroize::Zeroizing;

/// The version of the line that is written.
const VERSION: &str = "v1";

/// Separates the checksum from every other use of BLAKE3.
const CHECKSUM_CONTEXT: &str = "atoll 2026-11 key file checksum v1";

/// 80 bits: damage goes unnoticed once in 10²⁴ times, and the checksum is 16 characters without a remainder.
const CHECKSUM_BYTES: usize = 10;

/// No key file is longer (a line has 90 bytes); more is not read.
const FILE_BYTES_MAX: usize = 512;

/// Whose key a file holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyKind {
    /// A node's.
    Node,
    /// An owner's.
    Owner,
}

impl KeyKind {
    fn header(self) -> &'static str {
        match self {
            Self::Node => "atoll-node-key",
            Self::Owner => "atoll-owner-key",
        }
    }

    fn remedy(self) -> &'static str {
        match self {
            Self::Node => {
                "put back a copy of it, or move it away and let a new key be made, which gives this node a new id"
            }
            Self::Owner => {
                "put back a copy of it, or move it away and restore the key from its 24 words: atoll id restore"
            }
        }
    }
}

impl fmt::Display for KeyKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Node => "node key",
            Self::Owner => "owner key",
        })
    }
}

/// Why a key file could not be used or made. Except perhaps [`KeyFileError::Io`], a person has to change something first.
#[derive(Debug, thiserror::Error)]
pub enum KeyFileError {
    /// There is no such file.
    #[error("there is no {kind} at {}", path.display())]
    NotFound {
        /// The file.
        path: PathBuf,
        /// What was to be read from it.
        kind: KeyKind,
    },
    /// There is such a file, and a new one was to be made.
    #[error("{} is there already and is not overwritten; move it away first if its key is not wanted any more", path.display())]
    Exists {
        /// The file.
        path: PathBuf,
    },
    /// Empty, cut, or changed.
    #[error("the {kind} in {} is damaged: {reason}; {}", path.display(), kind.remedy())]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// What was expected in it.
        kind: KeyKind,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// A key file, but not of this kind of key.
    #[error("{} holds {found} where a {expected} is expected; were two files exchanged?", path.display())]
    Foreign {
        /// The file.
        path: PathBuf,
        /// What was expected in it.
        expected: KeyKind,
        /// What it holds, with an article: `an owner key`.
        found: &'static str,
    },
    /// Written by a newer program.
    #[error("the {kind} in {} has format {found}, and this program reads {VERSION}: update atoll", path.display())]
    Version {
        /// The file.
        path: PathBuf,
        /// What was expected in it.
        kind: KeyKind,
        /// The version found, for example `v2`.
        found: String,
    },
    /// Others than the user can read or write it.
    #[error("{} is open to other users (mode {mode:04o}); run: chmod 600 {}", path.display(), shell_quoted(path))]
    Permissions {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// The file system failed.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// What was being done, as a verb: `read`.
        action: &'static str,
        /// The failure.
        source: io::Error,
    },
}

/// The path as it can be pasted into a shell.
fn shell_quoted(path: &Path) -> String {
    let text = path.display().to_string();
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-+@:".contains(c);
    if !text.is_empty() && text.chars().all(plain) { text } else { format!("'{}'", text.replace('\'', r"'\''")) }
}

fn io_error<'a>(path: &'a Path, action: &'static str) -> impl FnOnce(io::Error) -> KeyFileError + 'a {
    move |source| KeyFileError::Io { path: path.to_owned(), action, source }
}

/// Why the text of a file is not the key that is wanted.
#[derive(Debug, PartialEq, Eq)]
enum Problem {
    Corrupt(&'static str),
    Foreign(&'static str),
    Version(String),
}

impl Problem {
    fn of_file(self, path: &Path, kind: KeyKind) -> KeyFileError {
        let path = path.to_owned();
        match self {
            Self::Corrupt(reason) => KeyFileError::Corrupt { path, kind, reason },
            Self::Foreign(found) => KeyFileError::Foreign { path, expected: kind, found },
            Self::Version(found) => KeyFileError::Version { path, kind, found },
        }
    }
}

/// Reads the seed of a key of this kind.
pub(crate) fn load(path: &Path, kind: KeyKind) -> Result<Zeroizing<[u8; 32]>, KeyFileError> {
    // Without O_NONBLOCK, opening a named pipe would wait for somebody to write to it.
    let nonblocking = OFlags::NONBLOCK.bits().cast_signed();
    let file =
        OpenOptions::new().read(true).custom_flags(nonblocking).open(path).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => KeyFileError::NotFound { path: path.to_owned(), kind },
            _ => io_error(path, "open")(error),
        })?;
    // Asked of the open file, so that what was checked is what is read.
    let metadata = file.metadata().map_err(io_error(path, "examine"))?;
    if !metadata.is_file() {
        return Err(Problem::Corrupt("it is not a file").of_file(path, kind));
    }
    let mode = metadata.permissions().mode() & 0o7777;
    if mode & 0o077 != 0 {
        return Err(KeyFileError::Permissions { path: path.to_owned(), mode });
    }
    // Reserved beforehand: a buffer that grows leaves its old self behind in memory.
    let mut text = Zeroizing::new(Vec::with_capacity(FILE_BYTES_MAX + 1));
    file.take(FILE_BYTES_MAX as u64 + 1).read_to_end(&mut text).map_err(io_error(path, "read"))?;
    parse(&text, kind).map_err(|problem| problem.of_file(path, kind))
}

fn parse(bytes: &[u8], kind: KeyKind) -> Result<Zeroizing<[u8; 32]>, Problem> {
    if bytes.trim_ascii().is_empty() {
        return Err(Problem::Corrupt("it is empty"));
    }
    if bytes.starts_with(b"-----BEGIN ") {
        return Err(Problem::Foreign("a PEM file of another program"));
    }
    let text = std::str::from_utf8(bytes).map_err(|_| Problem::Corrupt("it is not text"))?;
    let mut words = text.split_ascii_whitespace();
    match words.next() {
        Some(header) if header == kind.header() => {}
        Some("atoll-node-key") => return Err(Problem::Foreign("a node key")),
        Some("atoll-owner-key") => return Err(Problem::Foreign("an owner key")),
        _ => return Err(Problem::Corrupt("it does not start like a key file")),
    }
    match words.next() {
        Some(VERSION) => {}
        Some(v) if is_version(v) => return Err(Problem::Version(v.to_owned())),
        _ => return Err(Problem::Corrupt("it names no version")),
    }
    let seed = words.next().unwrap_or_default().as_bytes();
    let mut decoded = Zeroizing::new([0; 32]);
    if BASE32_NOPAD_NOCASE.decode_len(seed.len()) != Ok(decoded.len())
        || BASE32_NOPAD_NOCASE.decode_mut(seed, decoded.as_mut()).is_err()
    {
        return Err(Problem::Corrupt("the key in it is cut short or changed"));
    }
    if render(kind, &decoded).as_bytes().trim_ascii_end() != bytes.trim_ascii_end() {
        return Err(Problem::Corrupt("its checksum does not match"));
    }
    Ok(decoded)
}

/// `v` and a number of at most five digits: damage rarely looks like that.
fn is_version(text: &str) -> bool {
    text.strip_prefix('v').is_some_and(|number| number.len() <= 5 && number.parse::<u16>().is_ok())
}

fn render(kind: KeyKind, seed: &[u8; 32]) -> Zeroizing<String> {
    let mut line = Zeroizing::new(String::with_capacity(FILE_BYTES_MAX));
    line.push_str(kind.header());
    line.push(' ');
    line.push_str(VERSION);
    line.push(' ');
    BASE32_NOPAD_NOCASE.encode_append(seed, &mut line);
    line.make_ascii_lowercase();
    let checksum = blake3::derive_key(CHECKSUM_CONTEXT, line.as_bytes());
    line.push(' ');
    BASE32_NOPAD_NOCASE.encode_append(&checksum[..CHECKSUM_BYTES], &mut line);
    line.make_ascii_lowercase();
    line.push('\n');
    line
}

/// Writes a new key file; see the top of this file for what a crash can leave.
pub(crate) fn save(path: &Path, kind: KeyKind, seed: &[u8; 32]) -> Result<(), KeyFileError> {
    let directory = match path.parent() {
        Some(parent) if parent != Path::new("") => parent,
        _ => Path::new("."),
    };
    let temporary = Temporary::beside(path, directory)?;
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&temporary.0)
        .map_err(io_error(&temporary.0, "create"))?;
    file.write_all(render(kind, seed).as_bytes()).map_err(io_error(&temporary.0, "write"))?;
    file.sync_all().map_err(io_error(&temporary.0, "sync"))?;
    move_into_place(&temporary.0, path).map_err(|error| match error.kind() {
        io::ErrorKind::AlreadyExists => KeyFileError::Exists { path: path.to_owned() },
        _ => io_error(path, "create")(error),
    })?;
    File::open(directory).and_then(|directory| directory.sync_all()).map_err(io_error(directory, "sync"))
}

/// Renames without replacing. Where the file system cannot do that in one step, a hard link does the same; the temporary name is
/// removed by its owner.
fn move_into_place(from: &Path, to: &Path) -> io::Result<()> {
    match rustix::fs::renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
        Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOSYS) => fs::hard_link(from, to),
        other => other.map_err(io::Error::from),
    }
}

/// A file that is removed when this is dropped, if it still has that name.
struct Temporary(PathBuf);

impl Temporary {
    /// A name that nobody else uses: two processes may be making the same key file.
    fn beside(path: &Path, directory: &Path) -> Result<Self, KeyFileError> {
        let Some(name) = path.file_name() else {
            let source = io::Error::from(io::ErrorKind::InvalidInput);
            return Err(KeyFileError::Io { path: path.to_owned(), action: "create", source });
        };
        let mut random = [0; 8];
        getrandom::fill(&mut random).expect("the operating system always has randomness");
        let mut temporary = std::ffi::OsString::from(".");
        temporary.push(name);
        temporary.push(format!(".{}.new", HEXLOWER.encode(&random)));
        Ok(Self(directory.join(temporary)))
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        // After the move there is nothing to remove; a failure leaves a file that nothing reads.
        let _ = fs::remove_file(&self.0);
    }
}

#[cfg(test)]
mod tests;
