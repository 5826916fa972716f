//! The little of ELF that tells which program loads another.

use std::path::PathBuf;

/// Where the program headers are, how long each is, how many: offsets in the header of a 64-bit ELF file.
const PROGRAM_HEADERS: (usize, usize, usize) = (0x20, 0x36, 0x38);
/// Type of the header that names the interpreter.
const PT_INTERP: u32 = 3;

/// The dynamic loader a 64-bit little-endian program asks for; `None` for a static one, and for anything that is not such a program.
/// `start` is the beginning of the file, in which loaders' names lie by convention.
pub(crate) fn interpreter(start: &[u8]) -> Option<PathBuf> {
    if !is_elf(start) || start.get(4..6)? != [2, 1] {
        return None;
    }
    let number = |at: usize, bytes: usize| -> Option<u64> {
        let field = start.get(at..at.checked_add(bytes)?)?;
        Some(field.iter().rev().fold(0, |number, &byte| number << 8 | u64::from(byte)))
    };
    let table = usize::try_from(number(PROGRAM_HEADERS.0, 8)?).ok()?;
    let (length, count) = (number(PROGRAM_HEADERS.1, 2)?, number(PROGRAM_HEADERS.2, 2)?);
    for index in 0..count {
        let header = table.checked_add(usize::try_from(index * length).ok()?)?;
        if number(header, 4)? == u64::from(PT_INTERP) {
            let from = usize::try_from(number(header + 8, 8)?).ok()?;
            let bytes = usize::try_from(number(header + 0x20, 8)?).ok()?;
            let name = start.get(from..from.checked_add(bytes)?)?;
            let name = name.split(|&byte| byte == 0).next()?;
            return Some(PathBuf::from(std::str::from_utf8(name).ok()?));
        }
    }
    None
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
}
