//! The kernel without instructions of its own: a product is two look-ups, by low and by high nibble.

use crate::field::multiply;

/// Products of one coefficient with 0..16, then with 0x00, 0x10, …, 0xf0.
pub(super) type Table = [u8; 32];

/// The table of a coefficient.
pub(super) fn table(coefficient: u8) -> Table {
    std::array::from_fn(|i| {
        multiply(
            coefficient,
            if i < 16 { i as u8 } else { (i as u8 - 16) << 4 },
        )
    })
}

/// One output: the sum of the products of its tables with the inputs.
pub(super) fn row(tables: &[Table], inputs: &[&[u8]], output: &mut [u8]) {
    output.fill(0);
    for (table, input) in tables.iter().zip(inputs) {
        for (sum, &byte) in output.iter_mut().zip(*input) {
            *sum ^= table[usize::from(byte & 15)] ^ table[usize::from(16 + (byte >> 4))];
        }
    }
}
