//! Multiplication by a fixed coefficient, in the forms that instructions take.

use crate::field::multiply;

/// Multiplication as a matrix over GF(2), for `gf2p8affineqb`: bit i of the product is the parity of byte 7-i and the
/// multiplicand (Intel SDM, "GF2P8AFFINEQB").
#[cfg(target_arch = "x86_64")]
pub(super) type Affine = u64;

/// Multiplication as two look-ups: products with 0..16, then with 0x00, 0x10, …, 0xf0.
pub(super) type Nibbles = [u8; 32];

/// The bit matrix of a coefficient.
#[cfg(target_arch = "x86_64")]
pub(super) fn affine(coefficient: u8) -> Affine {
    let mut matrix = 0;
    for column in 0..8 {
        let product = multiply(coefficient, 1 << column);
        for bit in 0..8 {
            matrix |= u64::from(product >> bit & 1) << (8 * (7 - bit) + column);
        }
    }
    matrix
}

/// The nibble tables of a coefficient.
pub(super) fn nibbles(coefficient: u8) -> Nibbles {
    std::array::from_fn(|i| multiply(coefficient, if i < 16 { i as u8 } else { (i as u8 - 16) << 4 }))
}
