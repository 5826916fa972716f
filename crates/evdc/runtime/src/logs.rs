//! Containers' output in files, in CRI's format: `2026-01-02T03:04:05.123456789Z stdout F text`, `P` instead of `F` for a line that goes
//! on. Written by the supervisor, read by anyone, also while it grows and is rotated (`path`, `path.1`, `path.2`, … from new to old).

mod read;
mod write;

use std::path::{Path, PathBuf};

use jiff::Timestamp;

pub use read::{Follow, LogQuery, read};
pub(crate) use write::LogWriter;

/// A line longer than this is cut into several entries, as all CRI runtimes do.
const LINE_BYTES_MAX: usize = 16 << 10;

/// Where a line was written to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

impl Stream {
    /// As it is written in the log.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Stdout => "stdout",
            Self::Stderr => "stderr",
        }
    }
}

/// One entry of a log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogLine {
    /// When it was read from the container.
    pub at: Timestamp,
    /// Where from.
    pub stream: Stream,
    /// Whether the line goes on in the next entry of this stream.
    pub partial: bool,
    /// Its bytes, without a line end.
    pub text: Vec<u8>,
}

impl LogLine {
    /// Reads one line of a log file, without its line end. `None` if it is not in the format.
    pub fn parse(line: &[u8]) -> Option<Self> {
        let mut parts = line.splitn(4, |&byte| byte == b' ');
        let at = std::str::from_utf8(parts.next()?).ok()?.parse().ok()?;
        let stream = match parts.next()? {
            b"stdout" => Stream::Stdout,
            b"stderr" => Stream::Stderr,
            _ => return None,
        };
        // Tags may be several with colons between; the first is the one that is defined.
        let partial = match parts.next()?.split(|&byte| byte == b':').next()? {
            b"P" => true,
            b"F" => false,
            _ => return None,
        };
        Some(Self { at, stream, partial, text: parts.next().unwrap_or_default().to_vec() })
    }
}

/// The file that was current `age` rotations ago.
fn rotated(path: &Path, age: u32) -> PathBuf {
    if age == 0 {
        return path.to_owned();
    }
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{age}"));
    PathBuf::from(name)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use atoll_ids::ByteCount;
    use proptest::prelude::*;

    use super::*;
    use crate::spec::LogTarget;

    fn writer(dir: &Path, max_bytes: u64) -> LogWriter {
        let target = LogTarget { path: dir.join("logs/0.log"), max_bytes: ByteCount(max_bytes), files: 3 };
        LogWriter::open(&target).unwrap()
    }

    fn texts(lines: &[LogLine]) -> Vec<String> {
        lines.iter().map(|line| String::from_utf8_lossy(&line.text).into_owned()).collect()
    }

    #[test]
    fn lines_are_whole_whatever_the_pieces() {
        let dir = tempfile::tempdir().unwrap();
        let mut log = writer(dir.path(), 1 << 20);
        for piece in ["a", "b\nc\n", "\n", "rest"] {
            log.append(Stream::Stdout, piece.as_bytes());
        }
        log.append(Stream::Stderr, "é\u{0}x\n".as_bytes());
        log.append(Stream::Stderr, &vec![b'y'; LINE_BYTES_MAX + 5]);
        log.finish();
        let lines = read(&dir.path().join("logs/0.log"), &LogQuery::default()).unwrap();
        let long: Vec<_> = lines.iter().filter(|line| line.text.starts_with(b"y")).collect();
        assert_eq!(texts(&lines)[..4], ["ab", "c", "", "é\u{0}x"]);
        assert_eq!(texts(&lines)[5], "rest");
        assert_eq!(
            long.iter().map(|line| (line.text.len(), line.partial)).collect::<Vec<_>>(),
            [(LINE_BYTES_MAX, true), (5, false)]
        );
    }

    #[test]
    fn old_files_go_and_the_rest_is_read_in_order() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("logs/0.log");
        let mut log = writer(dir.path(), 500);
        let mut follow = Follow::new(&path);
        let mut followed = Vec::new();
        for number in 0..40 {
            log.append(Stream::Stdout, format!("line {number}\n").as_bytes());
            if number % 3 == 0 {
                followed.extend(follow.available().unwrap());
            }
        }
        followed.extend(follow.available().unwrap());
        assert_eq!(texts(&followed), (0..40).map(|number| format!("line {number}")).collect::<Vec<_>>());
        let all = read(&path, &LogQuery::default()).unwrap();
        assert!(all.len() < 40 && all.len() > 10, "{}", all.len());
        assert_eq!(texts(&all).last().unwrap(), "line 39");
        let tail = read(&path, &LogQuery { tail: Some(12), ..LogQuery::default() }).unwrap();
        assert_eq!(texts(&tail), (28..40).map(|number| format!("line {number}")).collect::<Vec<_>>());
        let none = read(&path, &LogQuery { since: Some(Timestamp::MAX), ..LogQuery::default() }).unwrap();
        assert!(none.is_empty());
        assert!(!rotated(&path, 3).exists() && rotated(&path, 2).exists());
        assert!(read(&dir.path().join("none"), &LogQuery::default()).unwrap().is_empty());
    }

    proptest! {
        #[test]
        fn foreign_lines_are_survived(line in proptest::collection::vec(any::<u8>(), 0..80)) {
            LogLine::parse(&line);
        }
    }
}
