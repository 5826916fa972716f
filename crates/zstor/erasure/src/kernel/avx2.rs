//! AVX2, for x86-64 without GFNI (Haswell to Cascade Lake, Zen to Zen 3).
//!
//! A multiplication is two `vpshufb` look-ups, by low and by high nibble, on 32 bytes. The end of a shard is done with
//! a vector that overlaps the one before it, which computes a few bytes twice and needs shards of at least one vector.

use std::arch::x86_64::{
    __m256i, _mm_loadu_si128, _mm256_and_si256, _mm256_broadcastsi128_si256, _mm256_loadu_si256, _mm256_set1_epi8,
    _mm256_setzero_si256, _mm256_shuffle_epi8, _mm256_srli_epi64, _mm256_storeu_si256, _mm256_xor_si256,
};
use std::ops::Range;

use super::tables::Nibbles;

/// Rows at a time: with 4, two vectors of sums each and their nibbles fill 12 of the 16 registers.
pub(super) const ROWS_MAX: usize = 4;

/// Bytes of a vector.
pub(super) const VECTOR_BYTES: usize = 32;

/// Overwrites the positions in `range` of all outputs.
///
/// # Safety
/// The processor has AVX2. There are 1 to [`ROWS_MAX`] outputs. All slices are at least `range.end` long, and
/// `range.end` is at least [`VECTOR_BYTES`].
#[target_feature(enable = "avx2")]
pub(super) unsafe fn band(tables: &[Nibbles], inputs: &[&[u8]], outputs: &mut [&mut [u8]], range: Range<usize>) {
    // SAFETY: the caller's promises are those of `rows`, with R = outputs.len().
    unsafe {
        match outputs.len() {
            1 => rows::<1, 2>(tables, inputs, outputs, range),
            2 => rows::<2, 2>(tables, inputs, outputs, range),
            3 => rows::<3, 2>(tables, inputs, outputs, range),
            _ => rows::<4, 2>(tables, inputs, outputs, range),
        }
    }
}

/// [`band`] for R outputs, V vectors of each at a time.
///
/// # Safety
/// As [`band`], and there are exactly R outputs.
#[target_feature(enable = "avx2")]
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
#[target_feature(enable = "avx2")]
#[inline]
unsafe fn step<const R: usize, const V: usize>(
    tables: &[Nibbles],
    inputs: &[&[u8]],
    outputs: &[*mut u8; R],
    at: usize,
) {
    let low_bits = _mm256_set1_epi8(15);
    let mut sums = [[_mm256_setzero_si256(); V]; R];
    for (table, input) in tables.chunks_exact(R).zip(inputs) {
        let (mut low, mut high) = ([low_bits; V], [low_bits; V]);
        for v in 0..V {
            // SAFETY: the caller says these bytes are there.
            let x = unsafe { _mm256_loadu_si256(input.as_ptr().add(at + v * VECTOR_BYTES).cast()) };
            low[v] = _mm256_and_si256(x, low_bits);
            high[v] = _mm256_and_si256(_mm256_srli_epi64::<4>(x), low_bits);
        }
        for row in 0..R {
            let (a, b) = broadcast(&table[row]);
            for v in 0..V {
                let product = _mm256_xor_si256(_mm256_shuffle_epi8(a, low[v]), _mm256_shuffle_epi8(b, high[v]));
                sums[row][v] = _mm256_xor_si256(sums[row][v], product);
            }
        }
    }
    for row in 0..R {
        for (v, &sum) in sums[row].iter().enumerate() {
            // SAFETY: as above.
            unsafe { _mm256_storeu_si256(outputs[row].add(at + v * VECTOR_BYTES).cast(), sum) };
        }
    }
}

/// The tables of low and high nibbles, each in both halves of a vector.
#[target_feature(enable = "avx2")]
#[inline]
fn broadcast(table: &Nibbles) -> (__m256i, __m256i) {
    // SAFETY: two times 16 of the table's 32 bytes.
    let (low, high) =
        unsafe { (_mm_loadu_si128(table.as_ptr().cast()), _mm_loadu_si128(table.as_ptr().add(16).cast())) };
    (_mm256_broadcastsi128_si256(low), _mm256_broadcastsi128_si256(high))
}
