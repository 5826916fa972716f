//! GFNI+AVX2, for processors with GFNI and no AVX-512 (Alder Lake and its successors, Zen with AVX-512 switched off).
//!
//! A multiplication is one `gf2p8affineqb` on 32 bytes. The end of a shard is done with a vector that overlaps the one
//! before it, which computes a few bytes twice and needs shards of at least one vector.

use std::arch::x86_64::{
    __m256i, _mm256_gf2p8affine_epi64_epi8, _mm256_loadu_si256, _mm256_set1_epi64x, _mm256_setzero_si256,
    _mm256_storeu_si256, _mm256_xor_si256,
};
use std::ops::Range;

use super::tables::Affine;

/// Rows at a time: with 4, two vectors of sums each fill half of the 16 registers.
pub(super) const ROWS_MAX: usize = 4;

/// Bytes of a vector.
pub(super) const VECTOR_BYTES: usize = 32;

/// Overwrites the positions in `range` of all outputs.
///
/// # Safety
/// The processor has GFNI and AVX2. There are 1 to [`ROWS_MAX`] outputs. All slices are at least `range.end` long, and
/// `range.end` is at least [`VECTOR_BYTES`].
#[target_feature(enable = "gfni,avx2")]
pub(super) unsafe fn band(tables: &[Affine], inputs: &[&[u8]], outputs: &mut [&mut [u8]], range: Range<usize>) {
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
#[target_feature(enable = "gfni,avx2")]
unsafe fn rows<const R: usize, const V: usize>(
    tables: &[Affine],
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
#[target_feature(enable = "gfni,avx2")]
#[inline]
unsafe fn step<const R: usize, const V: usize>(tables: &[Affine], inputs: &[&[u8]], outputs: &[*mut u8; R], at: usize) {
    let mut sums = [[_mm256_setzero_si256(); V]; R];
    for (table, input) in tables.chunks_exact(R).zip(inputs) {
        let mut x = [_mm256_setzero_si256(); V];
        for (v, vector) in x.iter_mut().enumerate() {
            // SAFETY: the caller says these bytes are there.
            *vector = unsafe { _mm256_loadu_si256(input.as_ptr().add(at + v * VECTOR_BYTES).cast()) };
        }
        for row in 0..R {
            let a = _mm256_set1_epi64x(table[row].cast_signed());
            for v in 0..V {
                sums[row][v] = _mm256_xor_si256(sums[row][v], multiply(x[v], a));
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

#[target_feature(enable = "gfni,avx2")]
#[inline]
fn multiply(x: __m256i, table: __m256i) -> __m256i {
    _mm256_gf2p8affine_epi64_epi8::<0>(x, table)
}
