//! Names of files in a shard directory: segments `seg-0000002a.log`, files kept ready `spare-7.new`, or `spare-7.ready`
//! when all of their blocks are written.

/// The segment with this sequence number.
pub(crate) fn segment(sequence: u32) -> String {
    format!("seg-{sequence:08x}.log")
}

/// The sequence number in a segment's name.
pub(crate) fn segment_sequence(name: &str) -> Option<u32> {
    let digits = name.strip_prefix("seg-")?.strip_suffix(".log")?;
    let sequence = u32::from_str_radix(digits, 16).ok()?;
    (segment(sequence) == name).then_some(sequence)
}

/// A file for a future segment.
pub(crate) fn spare(number: u64) -> String {
    format!("spare-{number}.new")
}

/// The same, written from end to end.
pub(crate) fn ready_spare(number: u64) -> String {
    format!("spare-{number}.ready")
}

/// Whether a spare of this name is written from end to end.
pub(crate) fn is_ready(name: &str) -> bool {
    name.ends_with(".ready")
}

/// The number in a spare's name.
pub(crate) fn spare_number(name: &str) -> Option<u64> {
    name.strip_prefix("spare-")?
        .strip_suffix(".new")
        .or_else(|| name.strip_prefix("spare-")?.strip_suffix(".ready"))?
        .parse()
        .ok()
}
