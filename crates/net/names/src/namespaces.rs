//! Whether this process sees the machine as its first process does: what is said to the machine's resolver is wrong in a network of one's own.

use std::io;

/// Whether this process shares a namespace (`net`, `mnt`; namespaces(7)) with the first process.
///
/// # Errors
/// What the system says: looking at the first process takes root.
pub fn is_of_first(kind: &str) -> io::Result<bool> {
    let of = |process: &str| std::fs::read_link(format!("/proc/{process}/ns/{kind}"));
    Ok(of("1")? == of("self")?)
}
