//! Fuzzing of every decoder of foreign bytes: what the targets in `tests/` share.
//!
//! A target is an ordinary test. It runs a decoder on arbitrary bytes and, half of the time or more, on valid input with a few edits,
//! which gets past magic numbers and lengths to where the mistakes are. It holds that nothing panics, that what is accepted means the same
//! when encoded and decoded again, and whatever else the decoder promises.
//!
//! In a test run each target has the small budget of [`fuzz!`]. For longer, `BOLERO_RANDOM_ITERATIONS` and `BOLERO_RANDOM_TEST_TIME_MS` raise it,
//! and `cargo bolero test -p atoll-fuzz <target>` runs a target under a coverage-guided fuzzer. A failure prints its input, and its seed for
//! `BOLERO_RANDOM_SEED`.

use std::borrow::Cow;

/// The library the targets run on, for [`fuzz!`].
pub use bolero;

/// Most edits of a valid input: a few find more than many, which only make noise of it.
const EDITS_MAX: usize = 6;

/// Bytes of the script that describe one edit.
const EDIT_BYTES: usize = 4;

/// Values at the borders of what a byte, a length or an index can be.
const BORDERS: [u8; 6] = [0x00, 0x01, 0x7f, 0x80, 0xfe, 0xff];

/// Runs `$check` (a function from `&[u8]`) on inputs made by [`input`] from the valid inputs `$valid`, a `Vec<Vec<u8>>`, and first on those
/// themselves. The budget is `$runs` inputs or a second and a half, whichever is reached first.
#[macro_export]
macro_rules! fuzz {
    ($runs:expr, $valid:expr, $check:expr) => {{
        let valid: Vec<Vec<u8>> = $valid;
        let check = ::std::panic::AssertUnwindSafe($check);
        for bytes in &valid {
            check(bytes);
        }
        $crate::bolero::check!()
            .with_iterations($runs)
            .with_test_time(::std::time::Duration::from_millis(1500))
            .with_max_len(512)
            .for_each(|bytes: &[u8]| check(&$crate::input(bytes, &valid)));
    }};
}

/// The input that the fuzzer's bytes stand for: for a quarter of the first bytes (or without valid inputs) the rest as it is, otherwise one of
/// the valid inputs, edited as the rest says.
pub fn input<'a>(bytes: &'a [u8], valid: &[Vec<u8>]) -> Cow<'a, [u8]> {
    let [first, which, script @ ..] = bytes else { return Cow::Borrowed(bytes) };
    if first % 4 == 0 || valid.is_empty() {
        return Cow::Borrowed(&bytes[1..]);
    }
    let mut input = valid[usize::from(*which) % valid.len()].clone();
    let edits = 1 + usize::from(first / 4) % EDITS_MAX;
    for edit in script.chunks_exact(EDIT_BYTES).take(edits) {
        apply(&mut input, [edit[0], edit[1], edit[2], edit[3]]);
    }
    Cow::Owned(input)
}

/// One edit: what, where (as a fraction of the length), and a value.
fn apply(input: &mut Vec<u8>, [what, high, low, value]: [u8; EDIT_BYTES]) {
    let at = (usize::from(u16::from_be_bytes([high, low])) * (input.len() + 1)) >> 16;
    let border = BORDERS[usize::from(value) % BORDERS.len()];
    let rest = input.len() - at;
    match what % 8 {
        0 => input.truncate(at),
        1 => input.insert(at, value),
        2 if rest > 0 => drop(input.remove(at)),
        3 if rest > 0 => input[at] ^= 1 << (value % 8),
        4 if rest > 0 => input[at] = value,
        5 if rest > 0 => input[at] = border,
        // A whole length, count or offset.
        6 => input[at..at + rest.min(4)].fill(border),
        _ => {
            let repeated = input[at..at + rest.min(usize::from(value))].to_vec();
            input.splice(at..at, repeated);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn inputs_are_raw_or_edited() {
        let valid = vec![b"hello".to_vec(), b"world".to_vec()];
        let check = |bytes: &[u8], expected: &[u8]| assert_eq!(&input(bytes, &valid)[..], expected, "{bytes:?}");
        check(&[], b"");
        check(&[1], b"\x01");
        check(&[0, b'r', b'a', b'w'], b"raw");
        check(&[1, 0], b"hello");
        check(&[1, 3], b"world");
        check(&[1, 0, 0, 0x80, 0, 0], b"hel");
        check(&[1, 0, 1, 0, 0, b'!'], b"!hello");
        check(&[1, 0, 1, 0xff, 0xff, b'!'], b"hello!");
        check(&[1, 0, 2, 0, 0, 0], b"ello");
        check(&[1, 0, 3, 0, 0, 5], b"Hello");
        check(&[1, 0, 4, 0, 0, b'J'], b"Jello");
        check(&[1, 0, 5, 0, 0, 5], b"\xffello");
        check(&[1, 0, 6, 0, 0, 5], b"\xff\xff\xff\xffo");
        check(&[1, 0, 7, 0, 0, 2], b"hehello");
        check(&[5, 0, 4, 0, 0, b'J', 4, 0xff, 0xff, b'!', 1, 0xff, 0xff, b'!'], b"Jello");
    }

    #[test]
    fn edits_never_leave_the_input() {
        for what in 0..8 {
            for place in [0, 1, 0x7fff, 0x8000, 0xffff_u16] {
                for length in 0..6 {
                    let [high, low] = place.to_be_bytes();
                    apply(&mut vec![7; length], [what, high, low, 255]);
                }
            }
        }
    }
}
