//! Between object keys and local paths: which key a file gets, and which file a key may become.

use std::os::unix::ffi::OsStrExt as _;
use std::path::{Component, Path, PathBuf};

/// Why a key cannot be a path below a directory.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{key:?} is no path below a directory ({why})")]
pub(crate) struct UnsafeKey {
    key: String,
    why: &'static str,
}

/// Where an object is written below `directory`. Nothing outside of it can be named: a key is foreign input.
pub(crate) fn path_below(directory: &Path, key: &str) -> Result<PathBuf, UnsafeKey> {
    let refuse = |why| Err(UnsafeKey { key: key.to_owned(), why });
    if key.is_empty() {
        return refuse("it is empty");
    }
    if key.contains('\0') {
        return refuse("it holds a NUL byte");
    }
    for part in key.strip_suffix('/').unwrap_or(key).split('/') {
        match part {
            "" => return refuse("a part of it is empty"),
            "." | ".." => return refuse("a part of it is . or .."),
            _ => {}
        }
    }
    let path = Path::new(key);
    debug_assert!(path.components().all(|part| matches!(part, Component::Normal(_))));
    Ok(directory.join(path))
}

/// The key of a file at `relative` below a stored directory, `None` if its name is not UTF-8.
pub(crate) fn key_of(prefix: &str, relative: &Path) -> Option<String> {
    let text = std::str::from_utf8(relative.as_os_str().as_bytes()).ok()?;
    Some(format!("{prefix}{text}"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;

    #[test]
    fn a_key_stays_below_its_directory() {
        let check = |key: &str, expected: Option<&str>| {
            let path = path_below(Path::new("/to"), key).ok();
            assert_eq!(path.as_deref(), expected.map(Path::new), "{key:?}");
        };
        check("a", Some("/to/a"));
        check("a/b c/ü", Some("/to/a/b c/ü"));
        check("empty/", Some("/to/empty/"));
        check("..a/...", Some("/to/..a/..."));
        check("", None);
        check("/", None);
        check("/etc/passwd", None);
        check("../x", None);
        check("a/../../x", None);
        check("a/./x", None);
        check("a//x", None);
        check("a/..", None);
        check("a\0b", None);
    }

    #[test]
    fn keys_are_the_relative_path_behind_the_prefix() {
        assert_eq!(key_of("p/", Path::new("a/b")).as_deref(), Some("p/a/b"));
        assert_eq!(key_of("", Path::new(std::ffi::OsStr::from_bytes(b"\xff"))), None);
    }
}
