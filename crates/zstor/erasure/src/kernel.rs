//! `outputs = matrix × inputs`, on the instruction set at hand.
//!
//! [`Plan`] is a matrix prepared for one [`Kernel`]; [`Plan::apply`] is the safe door to everything under `kernel/`.

mod portable;

use std::fmt;

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
    const ALL: [Self; 5] = [
        Self::Gfni512,
        Self::Gfni256,
        Self::Avx2,
        Self::Neon,
        Self::Portable,
    ];

    /// The fastest this processor can run.
    pub fn detect() -> Self {
        Self::ALL
            .into_iter()
            .find(|kernel| kernel.is_available())
            .unwrap_or(Self::Portable)
    }

    /// Those this processor can run, fastest first.
    pub fn available() -> Vec<Self> {
        Self::ALL
            .into_iter()
            .filter(|kernel| kernel.is_available())
            .collect()
    }

    /// Whether this processor can run it.
    pub fn is_available(self) -> bool {
        matches!(self, Self::Portable)
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

/// A matrix, prepared.
#[derive(Debug)]
pub(crate) struct Plan {
    columns: usize,
    tables: Vec<portable::Table>,
}

impl Plan {
    /// Prepares a matrix given row by row.
    pub(crate) fn new(_kernel: Kernel, columns: usize, matrix: &[u8]) -> Self {
        Self {
            columns,
            tables: matrix.iter().map(|&c| portable::table(c)).collect(),
        }
    }

    /// Overwrites the outputs, one per row, with the matrix times the inputs, one per column.
    pub(crate) fn apply(&self, inputs: &[&[u8]], outputs: &mut [&mut [u8]]) {
        for (tables, output) in self.tables.chunks_exact(self.columns).zip(outputs) {
            portable::row(tables, inputs, output);
        }
    }
}
