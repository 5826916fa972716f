//! GFNI+AVX-512. A multiplication is one `gf2p8affineqb` on 64 bytes; inputs go in pairs, so that one `vpternlogd` adds two products to a sum.
//!
//! With 10+4 that is 40 multiplications and 20 additions for 640 bytes of data; at two multiplications per cycle (Zen 5) they are the limit
//! as long as loads stay below two per cycle, which is what several vectors per step (V) are for: a coefficient is loaded once for
//! all of them. The end of a shard is done with masked loads and stores.

use std::arch::x86_64::{
    __m512i, __mmask64, _mm512_gf2p8affine_epi64_epi8, _mm512_loadu_si512, _mm512_mask_storeu_epi8,
    _mm512_maskz_loadu_epi8, _mm512_set1_epi64, _mm512_setzero_si512, _mm512_storeu_si512, _mm512_ternarylogic_epi64,
    _mm512_xor_si512,
};
use std::ops::Range;

use super::tables::Affine;

/// Rows at a time: with 8, two vectors of sums each, their inputs and coefficients still fit in 32 registers.
pub(super) const ROWS_MAX: usize = 8;

/// Bytes of a vector.
const VECTOR_BYTES: usize = 64;

/// `a ^ b ^ c` as a truth table.
const XOR3: i32 = 0x96;

/// Overwrites the positions in `range` of all outputs.
///
/// # Safety
/// The processor has GFNI, AVX-512F and AVX-512BW. There are 1 to [`ROWS_MAX`] outputs. All slices are at least `range.end` long.
#[target_feature(enable = "gfni,avx512f,avx512bw")]
pub(super) unsafe fn band(tables: &[Affine], inputs: &[&[u8]], outputs: &mut [&mut [u8]], range: Range<usize>) {
    // As many vectors per step as leave no sum without a register.
    // SAFETY: the caller's promises are those of `rows`, with R = outputs.len().
    unsafe {
        match outputs.len() {
            1 => rows::<1, 8>(tables, inputs, outputs, range),
            2 => rows::<2, 4>(tables, inputs, outputs, range),
            3 => rows::<3, 4>(tables, inputs, outputs, range),
            4 => rows::<4, 4>(tables, inputs, outputs, range),
            5 => rows::<5, 3>(tables, inputs, outputs, range),
            6 => rows::<6, 3>(tables, inputs, outputs, range),
            7 => rows::<7, 2>(tables, inputs, outputs, range),
            _ => rows::<8, 2>(tables, inputs, outputs, range),
        }
    }
}

/// [`band`] for R outputs, V vectors of each at a time.
///
/// # Safety
/// As [`band`], and there are exactly R outputs.
#[target_feature(enable = "gfni,avx512f,avx512bw")]
unsafe fn rows<const R: usize, const V: usize>(
    tables: &[Affine],
    inputs: &[&[u8]],
    outputs: &mut [&mut [u8]],
    range: Range<usize>,
) {
    let outputs: [*mut u8; R] = std::array::from_fn(|row| outputs[row].as_mut_ptr());
    let mut at = range.start;
    while at + V * VECTOR_BYTES <= range.end {
        // SAFETY: the V vectors from `at` end at or before `range.end`, within which the caller says all slices are.
        unsafe {
            let sums = step::<R, V>(tables, inputs, at);
            for row in 0..R {
                for (v, &sum) in sums[row].iter().enumerate() {
                    _mm512_storeu_si512(outputs[row].add(at + v * VECTOR_BYTES).cast(), sum);
                }
            }
        }
        at += V * VECTOR_BYTES;
    }
    while at < range.end {
        let mask = __mmask64::MAX >> (VECTOR_BYTES - (range.end - at).min(VECTOR_BYTES));
        // SAFETY: the mask leaves only bytes before `range.end`; masked-out bytes are neither read nor written.
        unsafe {
            let sums = masked_step::<R>(tables, inputs, at, mask);
            for row in 0..R {
                _mm512_mask_storeu_epi8(outputs[row].add(at).cast(), mask, sums[row]);
            }
        }
        at += VECTOR_BYTES;
    }
}

/// The sums of R rows for V vectors from position `at`.
///
/// # Safety
/// The processor has the instructions; all inputs have V vectors from `at`.
#[target_feature(enable = "gfni,avx512f,avx512bw")]
#[inline]
unsafe fn step<const R: usize, const V: usize>(tables: &[Affine], inputs: &[&[u8]], at: usize) -> [[__m512i; V]; R] {
    let mut sums = [[_mm512_setzero_si512(); V]; R];
    let (table_pairs, table_last) = tables.split_at(inputs.len() / 2 * 2 * R);
    let mut pairs = inputs.chunks_exact(2);
    for (table, pair) in table_pairs.chunks_exact(2 * R).zip(&mut pairs) {
        // SAFETY: the caller says these bytes are there.
        let (x, y) = unsafe { (load::<V>(pair[0], at), load::<V>(pair[1], at)) };
        for row in 0..R {
            let (a, b) = (broadcast(table[row]), broadcast(table[R + row]));
            for v in 0..V {
                sums[row][v] = _mm512_ternarylogic_epi64::<XOR3>(sums[row][v], multiply(x[v], a), multiply(y[v], b));
            }
        }
    }
    for (table, last) in table_last.chunks_exact(R).zip(pairs.remainder()) {
        // SAFETY: as above.
        let x = unsafe { load::<V>(last, at) };
        for row in 0..R {
            let a = broadcast(table[row]);
            for v in 0..V {
                sums[row][v] = _mm512_xor_si512(sums[row][v], multiply(x[v], a));
            }
        }
    }
    sums
}

/// The sums of R rows for the bytes of one vector from position `at` that `mask` selects.
///
/// # Safety
/// The processor has the instructions; all inputs have the selected bytes.
#[target_feature(enable = "gfni,avx512f,avx512bw")]
#[inline]
unsafe fn masked_step<const R: usize>(tables: &[Affine], inputs: &[&[u8]], at: usize, mask: __mmask64) -> [__m512i; R] {
    let mut sums = [_mm512_setzero_si512(); R];
    for (table, input) in tables.chunks_exact(R).zip(inputs) {
        // SAFETY: the caller says the selected bytes are there; the others are not touched.
        let x = unsafe { _mm512_maskz_loadu_epi8(mask, input.as_ptr().add(at).cast()) };
        for row in 0..R {
            sums[row] = _mm512_xor_si512(sums[row], multiply(x, broadcast(table[row])));
        }
    }
    sums
}

/// V vectors from position `at`.
///
/// # Safety
/// The processor has the instructions; the input has V vectors from `at`.
#[target_feature(enable = "avx512f")]
#[inline]
unsafe fn load<const V: usize>(input: &[u8], at: usize) -> [__m512i; V] {
    let mut vectors = [_mm512_setzero_si512(); V];
    for (v, vector) in vectors.iter_mut().enumerate() {
        // SAFETY: the caller says these bytes are there.
        *vector = unsafe { _mm512_loadu_si512(input.as_ptr().add(at + v * VECTOR_BYTES).cast()) };
    }
    vectors
}

#[target_feature(enable = "avx512f")]
#[inline]
fn broadcast(table: Affine) -> __m512i {
    _mm512_set1_epi64(table.cast_signed())
}

#[target_feature(enable = "gfni,avx512f")]
#[inline]
fn multiply(x: __m512i, table: __m512i) -> __m512i {
    _mm512_gf2p8affine_epi64_epi8::<0>(x, table)
}
