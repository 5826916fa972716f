//! GFNI+AVX-512. A multiplication is one `gf2p8affineqb` on 64 bytes; inputs go in pairs, so that one `vpternlogd`
//! adds two products to a sum.
//!
//! With 10+4 that is 40 multiplications and 20 additions for 640 bytes of data; at two multiplications per cycle (Zen 5)
//! they are the limit as long as loads stay below two per cycle, which is what several vectors per step (V) are for: a
//! coefficient is loaded once for all of them. More vectors than two or three measure slower, most with few inputs;
//! stores that hold up loads of the next step with the same low 12 address bits would explain it. The end of a shard is
//! done with masked loads and stores.

use std::arch::x86_64::{
    __m512i, __mmask64, _MM_HINT_T0, _mm_prefetch, _mm512_gf2p8affine_epi64_epi8, _mm512_loadu_si512,
    _mm512_mask_storeu_epi8, _mm512_maskz_loadu_epi8, _mm512_set1_epi64, _mm512_setzero_si512, _mm512_storeu_si512,
    _mm512_ternarylogic_epi64, _mm512_xor_si512,
};
use std::ops::Range;

use super::tables::Affine;

/// Rows at a time: with 8, two vectors of sums each, their inputs and coefficients still fit in 32 registers.
pub(super) const ROWS_MAX: usize = 8;

/// From this many rows on, inputs are prefetched a step ahead: there is enough arithmetic per load that it costs
/// nothing where the data is in the second-level cache, and it gains a few per cent where it is not.
const PREFETCH_ROWS_MIN: usize = 4;

/// Bytes of a vector.
const VECTOR_BYTES: usize = 64;

/// `a ^ b ^ c` as a truth table.
const XOR3: i32 = 0x96;

/// Overwrites the positions in `range` of all outputs.
///
/// # Safety
/// The processor has GFNI, AVX-512F and AVX-512BW. There are 1 to [`ROWS_MAX`] outputs. All slices are at least
/// `range.end` long.
#[target_feature(enable = "gfni,avx512f,avx512bw")]
pub(super) unsafe fn band(tables: &[Affine], inputs: &[&[u8]], outputs: &mut [&mut [u8]], range: Range<usize>) {
    // Vectors per step by measurement, see the module's text.
    // SAFETY: the caller's promises are those of `grouped`, with R = outputs.len().
    unsafe {
        match outputs.len() {
            1 => grouped::<1, 2>(tables, inputs, outputs, range),
            2 => grouped::<2, 2>(tables, inputs, outputs, range),
            3 => grouped::<3, 3>(tables, inputs, outputs, range),
            4 => grouped::<4, 3>(tables, inputs, outputs, range),
            5 => grouped::<5, 3>(tables, inputs, outputs, range),
            6 => grouped::<6, 2>(tables, inputs, outputs, range),
            7 => grouped::<7, 2>(tables, inputs, outputs, range),
            _ => grouped::<8, 2>(tables, inputs, outputs, range),
        }
    }
}

/// [`rows`] with inputs in groups of four where that leaves none over, else of two: the end of the loop over inputs is
/// hard to predict, so a loop of half the length is worth its code.
///
/// # Safety
/// As [`rows`].
#[target_feature(enable = "gfni,avx512f,avx512bw")]
unsafe fn grouped<const R: usize, const V: usize>(
    tables: &[Affine],
    inputs: &[&[u8]],
    outputs: &mut [&mut [u8]],
    range: Range<usize>,
) {
    // SAFETY: the caller's promises are the same.
    unsafe {
        if inputs.len().is_multiple_of(4) {
            rows::<R, V, 4>(tables, inputs, outputs, range);
        } else {
            rows::<R, V, 2>(tables, inputs, outputs, range);
        }
    }
}

/// [`band`] for R outputs, V vectors of each at a time, with inputs in groups of G.
///
/// # Safety
/// As [`band`], and there are exactly R outputs.
#[target_feature(enable = "gfni,avx512f,avx512bw")]
unsafe fn rows<const R: usize, const V: usize, const G: usize>(
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
            let sums = step::<R, V, G>(tables, inputs, at);
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
unsafe fn step<const R: usize, const V: usize, const G: usize>(
    tables: &[Affine],
    inputs: &[&[u8]],
    at: usize,
) -> [[__m512i; V]; R] {
    let mut sums = [[_mm512_setzero_si512(); V]; R];
    let mut groups = inputs.chunks_exact(G);
    let mut group_tables = tables.chunks_exact(G * R);
    for (tables, group) in (&mut group_tables).zip(&mut groups) {
        for (table, pair) in tables.chunks_exact(2 * R).zip(group.chunks_exact(2)) {
            // SAFETY: the caller says these bytes are there.
            let (x, y) = unsafe { (load::<R, V>(pair[0], at), load::<R, V>(pair[1], at)) };
            for row in 0..R {
                let (a, b) = (broadcast(table[row]), broadcast(table[R + row]));
                for v in 0..V {
                    sums[row][v] =
                        _mm512_ternarylogic_epi64::<XOR3>(sums[row][v], multiply(x[v], a), multiply(y[v], b));
                }
            }
        }
    }
    for (table, last) in group_tables.remainder().chunks_exact(R).zip(groups.remainder()) {
        // SAFETY: as above.
        let x = unsafe { load::<R, V>(last, at) };
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

/// V vectors from position `at`, and the next V prefetched if R rows warrant it.
///
/// # Safety
/// The processor has the instructions; the input has V vectors from `at`.
#[target_feature(enable = "avx512f")]
#[inline]
unsafe fn load<const R: usize, const V: usize>(input: &[u8], at: usize) -> [__m512i; V] {
    let mut vectors = [_mm512_setzero_si512(); V];
    for (v, vector) in vectors.iter_mut().enumerate() {
        let here = input.as_ptr().wrapping_add(at + v * VECTOR_BYTES);
        if R >= PREFETCH_ROWS_MIN {
            // A hint, which may name any address, also one past the input.
            _mm_prefetch::<_MM_HINT_T0>(here.wrapping_add(V * VECTOR_BYTES).cast());
        }
        // SAFETY: the caller says these bytes are there.
        *vector = unsafe { _mm512_loadu_si512(here.cast()) };
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
