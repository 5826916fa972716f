//! NEON, which every AArch64 processor of a server, a phone or a small board has.
//!
//! A multiplication is two `tbl` look-ups, by low and by high nibble, on 16 bytes. The end of a shard is done with a
//! vector that overlaps the one before it, which computes a few bytes twice and needs shards of at least one vector.

use std::arch::aarch64::{vandq_u8, vdupq_n_u8, veorq_u8, vld1q_u8, vqtbl1q_u8, vshrq_n_u8, vst1q_u8};
use std::ops::Range;

use super::tables::Nibbles;

/// Rows at a time: with 4, two vectors of sums each, their nibbles and tables take about half of the 32 registers.
pub(super) const ROWS_MAX: usize = 4;

/// Bytes of a vector.
pub(super) const VECTOR_BYTES: usize = 16;

/// Overwrites the positions in `range` of all outputs.
///
/// # Safety
/// The processor has NEON. There are 1 to [`ROWS_MAX`] outputs. All slices are at least `range.end` long, and
/// `range.end` is at least [`VECTOR_BYTES`].
#[target_feature(enable = "neon")]
pub(super) unsafe fn band(tables: &[Nibbles], inputs: &[&[u8]], outputs: &mut [&mut [u8]], range: Range<usize>) {
    // SAFETY: the caller's promises are those of `rows`, with R = outputs.len().
    unsafe {
        match outputs.len() {
            1 => rows::<1, 4>(tables, inputs, outputs, range),
            2 => rows::<2, 4>(tables, inputs, outputs, range),
            3 => rows::<3, 2>(tables, inputs, outputs, range),
            _ => rows::<4, 2>(tables, inputs, outputs, range),
        }
    }
}

/// [`band`] for R outputs, V vectors of each at a time.
///
/// # Safety
/// As [`band`], and there are exactly R outputs.
#[target_feature(enable = "neon")]
unsafe fn rows<const R: usize, const V: usize>(
    tables: &[Nibbles],
    inputs: &[&[u8]],
    outputs: &mut [&mut [u8]],
    range: Range<usize>,
) {
    let outputs: [*mut u8; R] = std::array::from_fn(|row| outputs[row].as_mut_ptr());
    let mut at = range.start;
    // SAFETY: every step covers positions from `at` to at most `range.end`, within which the caller says all slices
    // are. The last one starts a vector before `range.end`, which the caller says is not before the start.
    unsafe {
        while at + V * VECTOR_BYTES <= range.end {
            step::<R, V>(tables, inputs, &outputs, at);
            at += V * VECTOR_BYTES;
        }
        while at + VECTOR_BYTES <= range.end {
            step::<R, 1>(tables, inputs, &outputs, at);
            at += VECTOR_BYTES;
        }
        if at < range.end {
            step::<R, 1>(tables, inputs, &outputs, range.end - VECTOR_BYTES);
        }
    }
}

/// R rows of V vectors at position `at`.
///
/// # Safety
/// The processor has the instructions; all inputs and outputs have V vectors from `at`.
#[target_feature(enable = "neon")]
#[inline]
unsafe fn step<const R: usize, const V: usize>(
    tables: &[Nibbles],
    inputs: &[&[u8]],
    outputs: &[*mut u8; R],
    at: usize,
) {
    let low_bits = vdupq_n_u8(15);
    let mut sums = [[vdupq_n_u8(0); V]; R];
    for (table, input) in tables.chunks_exact(R).zip(inputs) {
        let (mut low, mut high) = ([low_bits; V], [low_bits; V]);
        for v in 0..V {
            // SAFETY: the caller says these bytes are there.
            let x = unsafe { vld1q_u8(input.as_ptr().add(at + v * VECTOR_BYTES)) };
            low[v] = vandq_u8(x, low_bits);
            high[v] = vshrq_n_u8::<4>(x);
        }
        for row in 0..R {
            // SAFETY: two times 16 of the table's 32 bytes.
            let (a, b) = unsafe { (vld1q_u8(table[row].as_ptr()), vld1q_u8(table[row].as_ptr().add(16))) };
            for v in 0..V {
                let product = veorq_u8(vqtbl1q_u8(a, low[v]), vqtbl1q_u8(b, high[v]));
                sums[row][v] = veorq_u8(sums[row][v], product);
            }
        }
    }
    for row in 0..R {
        for (v, &sum) in sums[row].iter().enumerate() {
            // SAFETY: as above.
            unsafe { vst1q_u8(outputs[row].add(at + v * VECTOR_BYTES), sum) };
        }
    }
}
