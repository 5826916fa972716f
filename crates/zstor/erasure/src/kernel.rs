//! `outputs = matrix × inputs`, on the instruction set at hand.
//!
//! [`Plan`] is a matrix prepared for one [`Kernel`], and [`Plan::apply`] the safe door to everything under `kernel/`. The
//! work is cut in two directions. *Bands* of a few rows are what fits in registers: each input vector is loaded once per
//! band and its products are summed up for all rows of the band before anything is stored. *Tiles* of positions are what
//! fits in the first-level cache, so that the second band of a matrix with many rows finds the inputs there.
//!
//! Invariant: a plan of a kernel exists only on a processor that has it ([`Plan::new`] asserts), and the kernels see
//! only slices that are long enough ([`Plan::apply`] asserts). Both assertions state what `Code` has checked; a
//! failure is a bug in this crate.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod gfni256;
#[cfg(target_arch = "x86_64")]
mod gfni512;
#[cfg(target_arch = "aarch64")]
mod neon;
mod portable;
mod tables;

use std::fmt;
use std::ops::Range;

#[cfg(target_arch = "x86_64")]
use tables::Affine;
use tables::Nibbles;

/// Bytes of one input that a tile spans, when a matrix has several bands. A multiple of every kernel's step (128 or
/// 192 bytes, less than that elsewhere), and with 16 inputs 24 KiB: half of the 48 KiB first-level data cache of today's servers, and
/// most of the 32 KiB of older ones.
const TILE_BYTES: usize = 1536;

/// Vectors are at most this long: shorter shards are padded to it.
const VECTOR_BYTES_MAX: usize = 64;

/// An instruction set the arithmetic is written for. All give the same bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kernel {
    /// x86-64 with GFNI and AVX-512 (F, BW): 64 bytes per multiplication.
    Gfni512,
    /// x86-64 with GFNI and AVX2: 32 bytes per multiplication.
    Gfni256,
    /// x86-64 with AVX2: two nibble look-ups per 32 bytes.
    Avx2,
    /// AArch64: two nibble look-ups per 16 bytes.
    Neon,
    /// Plain Rust, everywhere.
    Portable,
}

impl Kernel {
    /// All kernels, fastest first.
    const ALL: [Self; 5] = [Self::Gfni512, Self::Gfni256, Self::Avx2, Self::Neon, Self::Portable];

    /// The fastest this processor can run.
    pub fn detect() -> Self {
        Self::ALL.into_iter().find(|kernel| kernel.is_available()).unwrap_or(Self::Portable)
    }

    /// Those this processor can run, fastest first.
    pub fn available() -> Vec<Self> {
        Self::ALL.into_iter().filter(|kernel| kernel.is_available()).collect()
    }

    /// Whether this processor can run it.
    pub fn is_available(self) -> bool {
        match self {
            #[cfg(target_arch = "x86_64")]
            Self::Gfni512 => {
                is_x86_feature_detected!("gfni")
                    && is_x86_feature_detected!("avx512f")
                    && is_x86_feature_detected!("avx512bw")
            }
            #[cfg(target_arch = "x86_64")]
            Self::Gfni256 => is_x86_feature_detected!("gfni") && is_x86_feature_detected!("avx2"),
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => is_x86_feature_detected!("avx2"),
            #[cfg(target_arch = "aarch64")]
            Self::Neon => std::arch::is_aarch64_feature_detected!("neon"),
            Self::Portable => true,
            _ => false,
        }
    }
}

impl fmt::Display for Kernel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Gfni512 => "GFNI+AVX-512",
            Self::Gfni256 => "GFNI+AVX2",
            Self::Avx2 => "AVX2",
            Self::Neon => "NEON",
            Self::Portable => "portable",
        })
    }
}

/// A matrix, prepared for one kernel.
#[derive(Debug)]
pub(crate) struct Plan {
    rows: usize,
    /// The columns as the tables have them, see [`scattered`].
    order: Vec<usize>,
    tables: Tables,
}

/// The kernel, and the coefficients in its form, as [`arrange`] puts them.
#[derive(Debug)]
enum Tables {
    #[cfg(target_arch = "x86_64")]
    Gfni512(Vec<Affine>),
    #[cfg(target_arch = "x86_64")]
    Gfni256(Vec<Affine>),
    #[cfg(target_arch = "x86_64")]
    Avx2(Vec<Nibbles>),
    #[cfg(target_arch = "aarch64")]
    Neon(Vec<Nibbles>),
    Portable(Vec<Nibbles>),
}

impl Plan {
    /// Prepares a matrix given row by row, for a kernel that is available.
    pub(crate) fn new(kernel: Kernel, columns: usize, matrix: &[u8]) -> Self {
        assert!(kernel.is_available(), "a plan for a kernel this processor lacks");
        assert!(columns > 0 && matrix.len().is_multiple_of(columns), "a matrix has full rows");
        let order = scattered(columns);
        let matrix: Vec<u8> =
            matrix.chunks_exact(columns).flat_map(|row| order.iter().map(|&column| row[column])).collect();
        let tables = match kernel {
            #[cfg(target_arch = "x86_64")]
            Kernel::Gfni512 => Tables::Gfni512(arrange(&matrix, columns, gfni512::ROWS_MAX, tables::affine)),
            #[cfg(target_arch = "x86_64")]
            Kernel::Gfni256 => Tables::Gfni256(arrange(&matrix, columns, gfni256::ROWS_MAX, tables::affine)),
            #[cfg(target_arch = "x86_64")]
            Kernel::Avx2 => Tables::Avx2(arrange(&matrix, columns, avx2::ROWS_MAX, tables::nibbles)),
            #[cfg(target_arch = "aarch64")]
            Kernel::Neon => Tables::Neon(arrange(&matrix, columns, neon::ROWS_MAX, tables::nibbles)),
            _ => Tables::Portable(arrange(&matrix, columns, portable::ROWS_MAX, tables::nibbles)),
        };
        Self { rows: matrix.len() / columns, order, tables }
    }

    /// Overwrites the outputs, one per row, with the matrix times the inputs, one per column, which `input` gives by
    /// number. All are equally long.
    pub(crate) fn apply<'a>(&self, input: impl Fn(usize) -> &'a [u8], outputs: &mut [&mut [u8]]) {
        let inputs: Vec<&[u8]> = self.order.iter().map(|&column| input(column)).collect();
        self.apply_ordered(&inputs, outputs);
    }

    /// [`Plan::apply`] to inputs in the order of the tables.
    fn apply_ordered(&self, inputs: &[&[u8]], outputs: &mut [&mut [u8]]) {
        assert!(inputs.len() == self.order.len() && outputs.len() == self.rows, "as many slices as the matrix says");
        let length = inputs[0].len();
        assert!(inputs.iter().all(|input| input.len() == length), "equally long inputs");
        assert!(outputs.iter().all(|output| output.len() == length), "outputs as long as the inputs");
        if length == 0 {
            return;
        }
        if length < self.length_min() {
            return self.apply_padded(inputs, outputs);
        }
        // What the kernels ask for holds: `new` made their tables only after it found the instructions to be there, in
        // bands of at most the kernel's rows, which `bands` takes apart again; every slice has `length` bytes, at
        // least one vector.
        match &self.tables {
            #[cfg(target_arch = "x86_64")]
            Tables::Gfni512(tables) => bands(tables, gfni512::ROWS_MAX, inputs, outputs, |t, i, o, range| {
                // SAFETY: see above.
                unsafe { gfni512::band(t, i, o, range) }
            }),
            #[cfg(target_arch = "x86_64")]
            Tables::Gfni256(tables) => bands(tables, gfni256::ROWS_MAX, inputs, outputs, |t, i, o, range| {
                // SAFETY: see above.
                unsafe { gfni256::band(t, i, o, range) }
            }),
            #[cfg(target_arch = "x86_64")]
            Tables::Avx2(tables) => bands(tables, avx2::ROWS_MAX, inputs, outputs, |t, i, o, range| {
                // SAFETY: see above.
                unsafe { avx2::band(t, i, o, range) }
            }),
            #[cfg(target_arch = "aarch64")]
            Tables::Neon(tables) => bands(tables, neon::ROWS_MAX, inputs, outputs, |t, i, o, range| {
                // SAFETY: see above.
                unsafe { neon::band(t, i, o, range) }
            }),
            Tables::Portable(tables) => bands(tables, portable::ROWS_MAX, inputs, outputs, portable::band),
        }
    }

    /// The shortest shard the kernel takes: one vector, for those that finish a shard with a vector overlapping the
    /// one before.
    fn length_min(&self) -> usize {
        match &self.tables {
            #[cfg(target_arch = "x86_64")]
            Tables::Gfni512(_) => 1,
            #[cfg(target_arch = "x86_64")]
            Tables::Gfni256(_) => gfni256::VECTOR_BYTES,
            #[cfg(target_arch = "x86_64")]
            Tables::Avx2(_) => avx2::VECTOR_BYTES,
            #[cfg(target_arch = "aarch64")]
            Tables::Neon(_) => neon::VECTOR_BYTES,
            Tables::Portable(_) => 1,
        }
    }

    /// For shards shorter than a vector: works on copies that are not.
    fn apply_padded(&self, inputs: &[&[u8]], outputs: &mut [&mut [u8]]) {
        let padded: Vec<[u8; VECTOR_BYTES_MAX]> = inputs
            .iter()
            .map(|input| {
                let mut copy = [0; VECTOR_BYTES_MAX];
                copy[..input.len()].copy_from_slice(input);
                copy
            })
            .collect();
        let mut results = vec![[0; VECTOR_BYTES_MAX]; outputs.len()];
        let padded: Vec<&[u8]> = padded.iter().map(|copy| copy.as_slice()).collect();
        self.apply_ordered(&padded, &mut results.iter_mut().map(|result| result.as_mut_slice()).collect::<Vec<_>>());
        for (output, result) in outputs.iter_mut().zip(&results) {
            output.copy_from_slice(&result[..output.len()]);
        }
    }
}

/// The numbers below `columns`, shuffled, the same way every time.
///
/// Shards of a stripe tend to lie at equal distances in memory. On Zen 5, 16 such inputs visited in turn are coded a fifth
/// slower than the same inputs in disorder. The explanation that fits: a load instruction in a loop over them looks like a
/// walk with a constant stride, and the processor prefetches along a way that no one goes on.
fn scattered(columns: usize) -> Vec<usize> {
    let mut order: Vec<usize> = (0..columns).collect();
    let mut state: u32 = 2;
    for last in (1..columns).rev() {
        // A linear congruential generator (Numerical Recipes, "quick and dirty"). Any disorder will do.
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        order.swap(last, (state >> 16) as usize % (last + 1));
    }
    order
}

/// Rows per band, when at most `rows_max` fit: as equal as can be, for a band of one row does as many loads as a full
/// one.
fn band_rows(rows: usize, rows_max: usize) -> usize {
    rows.div_ceil(rows.div_ceil(rows_max).max(1)).max(1)
}

/// The coefficients in the order the kernels read them: band by band, in a band column by column, in a column row by
/// row.
fn arrange<T>(matrix: &[u8], columns: usize, rows_max: usize, table: impl Fn(u8) -> T) -> Vec<T> {
    let rows: Vec<&[u8]> = matrix.chunks_exact(columns).collect();
    let mut tables = Vec::with_capacity(matrix.len());
    for band in rows.chunks(band_rows(rows.len(), rows_max)) {
        for column in 0..columns {
            tables.extend(band.iter().map(|row| table(row[column])));
        }
    }
    tables
}

/// Runs `band` over all bands and tiles, with the tables, inputs and outputs of the band and the positions of the tile.
fn bands<T>(
    tables: &[T],
    rows_max: usize,
    inputs: &[&[u8]],
    outputs: &mut [&mut [u8]],
    band: impl Fn(&[T], &[&[u8]], &mut [&mut [u8]], Range<usize>),
) {
    let length = inputs[0].len();
    let rows = band_rows(outputs.len(), rows_max);
    let tile = if rows < outputs.len() { TILE_BYTES } else { length };
    for start in (0..length).step_by(tile) {
        let range = start..length.min(start + tile);
        for (tables, outputs) in tables.chunks(rows * inputs.len()).zip(outputs.chunks_mut(rows)) {
            band(tables, inputs, outputs, range.clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bands_are_even() {
        let check = |rows, rows_max, expected| assert_eq!(band_rows(rows, rows_max), expected, "{rows} by {rows_max}");
        check(4, 4, 4);
        check(9, 8, 5);
        check(17, 8, 6);
        check(1, 6, 1);
    }

    #[test]
    fn every_input_is_visited_once() {
        for columns in [1, 2, 16, 255] {
            let mut order = scattered(columns);
            order.sort_unstable();
            assert!(order.into_iter().eq(0..columns));
        }
    }

    #[test]
    fn tables_are_read_in_order() {
        let matrix = [11, 12, 21, 22, 31, 32];
        assert_eq!(arrange(&matrix, 2, 2, |c| c), [11, 21, 12, 22, 31, 32]);
    }
}
