//! The kernel without instructions of its own: a product is two look-ups, by low and by high nibble.

use std::ops::Range;

use super::tables::Nibbles;

/// Rows at a time: one, for there are no registers to win.
pub(super) const ROWS_MAX: usize = 1;

/// One row over the positions in `range`: the sum of the products of the tables with the inputs.
pub(super) fn band(tables: &[Nibbles], inputs: &[&[u8]], outputs: &mut [&mut [u8]], range: Range<usize>) {
    for output in outputs {
        let output = &mut output[range.clone()];
        output.fill(0);
        for (table, input) in tables.iter().zip(inputs) {
            for (sum, &byte) in output.iter_mut().zip(&input[range.clone()]) {
                *sum ^= table[usize::from(byte & 15)] ^ table[usize::from(16 + (byte >> 4))];
            }
        }
    }
}
