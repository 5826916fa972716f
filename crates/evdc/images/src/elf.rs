//! The little of ELF that tells which program loads another, and how much of one is loaded.

use std::path::PathBuf;

/// Where the program headers are, how long each is, how many: offsets in the header of a 64-bit ELF file.
const PROGRAM_HEADERS: (usize, usize, usize) = (0x20, 0x36, 0x38);
/// Bytes of the header of a 64-bit ELF file.
const HEADER_BYTES: usize = 64;
/// Type of the header that names the interpreter.
const PT_INTERP: u32 = 3;
/// Where the section headers are and how many, with the index of their names: what only linkers and debuggers read.
const SECTION_HEADERS: [(usize, usize); 2] = [(0x28, 8), (0x3c, 4)];

/// The dynamic loader a 64-bit little-endian program asks for; `None` for a static one, and for anything that is not such a program.
/// `start` is the beginning of the file, in which loaders' names lie by convention.
pub(crate) fn interpreter(start: &[u8]) -> Option<PathBuf> {
    for header in segments(start)? {
        if number(start, header, 4)? == u64::from(PT_INTERP) {
            let from = usize::try_from(number(start, header + 8, 8)?).ok()?;
            let bytes = usize::try_from(number(start, header + 0x20, 8)?).ok()?;
            let name = start.get(from..from.checked_add(bytes)?)?;
            let name = name.split(|&byte| byte == 0).next()?;
            return Some(PathBuf::from(std::str::from_utf8(name).ok()?));
        }
    }
    None
}

/// The header of a program without its section headers, and how many bytes of the file its segments and their table take: what follows is for linkers and
/// debuggers only, and a program is whole without it. `None` for what is no 64-bit little-endian program.
pub(crate) fn stripped(start: &[u8]) -> Option<(Vec<u8>, u64)> {
    let headers = segments(start)?;
    let mut end =
        headers.iter().map(|header| *header as u64 + number(start, PROGRAM_HEADERS.1, 2).unwrap_or(0)).max()?;
    for header in headers {
        let (from, bytes) = (number(start, header + 8, 8)?, number(start, header + 0x20, 8)?);
        end = end.max(from.checked_add(bytes)?);
    }
    let mut head = start.get(..HEADER_BYTES)?.to_vec();
    for (at, bytes) in SECTION_HEADERS {
        head[at..at + bytes].fill(0);
    }
    Some((head, end))
}

/// Where the program headers are.
fn segments(start: &[u8]) -> Option<Vec<usize>> {
    if !is_elf(start) || start.get(4..6)? != [2, 1] {
        return None;
    }
    let table = usize::try_from(number(start, PROGRAM_HEADERS.0, 8)?).ok()?;
    let (length, count) = (number(start, PROGRAM_HEADERS.1, 2)?, number(start, PROGRAM_HEADERS.2, 2)?);
    let at = |index: u64| table.checked_add(usize::try_from(index * length).ok()?).filter(|at| *at < start.len());
    (0..count).map(at).collect()
}

fn number(start: &[u8], at: usize, bytes: usize) -> Option<u64> {
    let field = start.get(at..at.checked_add(bytes)?)?;
    Some(field.iter().rev().fold(0, |number, &byte| number << 8 | u64::from(byte)))
}

/// Whether these bytes begin an ELF file.
pub(crate) fn is_elf(start: &[u8]) -> bool {
    start.starts_with(b"\x7fELF")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn own_loader_is_found_and_nonsense_survived() {
        let own = std::fs::read("/proc/self/exe").unwrap();
        let found = interpreter(&own[..4096]);
        assert!(found.is_none_or(|path| path.exists()));
        assert_eq!(interpreter(b"#!/bin/sh"), None);
        for cut in 0..200 {
            interpreter(&own[..cut]);
        }
        let mut odd = own[..4096].to_vec();
        odd[0x20..0x28].fill(0xff);
        assert_eq!(interpreter(&odd), None);
    }

    #[test]
    fn a_program_runs_without_what_debuggers_read() {
        let own = std::fs::read("/proc/self/exe").unwrap();
        let (head, end) = stripped(&own[..4096]).unwrap();
        let end = usize::try_from(end).unwrap();
        assert!(end < own.len(), "a test is built with symbols");
        let folder = tempfile::tempdir().unwrap();
        let program = folder.path().join("program");
        std::fs::write(&program, [&head[..], &own[head.len()..end]].concat()).unwrap();
        std::fs::set_permissions(&program, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        let ran = std::process::Command::new(&program).arg("--list").output().unwrap();
        assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
        assert!(String::from_utf8_lossy(&ran.stdout).contains("a_program_runs_without"));
        assert_eq!(stripped(b"#!/bin/sh"), None);
        for cut in 0..200 {
            stripped(&own[..cut]);
        }
    }
}
