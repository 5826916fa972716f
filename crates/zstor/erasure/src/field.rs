//! GF(2⁸) modulo 0x11d, and the coefficients of the code. Scalar and slow-ish: this runs once per erasure pattern,
//! never per byte.
//!
//! Addition and subtraction are exclusive or. No function here fails; those that divide say what must not be zero.

/// x⁸+x⁴+x³+x²+1: primitive, so x generates every non-zero element, and what ISA-L, `reed-solomon-erasure` and RAID-6
/// use.
const POLYNOMIAL: u16 = 0x11d;

/// Order of the multiplicative group.
const ORDER: usize = 255;

/// `EXP[i]` = xⁱ, written twice over so that the sum of two logarithms needs no reduction.
const EXP: [u8; 2 * ORDER] = exp_table();

/// `LOG[EXP[i]]` = i for i < 255; `LOG[0]` is meaningless.
const LOG: [u8; 256] = log_table();

const fn exp_table() -> [u8; 2 * ORDER] {
    let mut table = [0; 2 * ORDER];
    let mut power: u16 = 1;
    let mut i = 0;
    while i < 2 * ORDER {
        table[i] = power as u8;
        power <<= 1;
        if power > 0xff {
            power ^= POLYNOMIAL;
        }
        i += 1;
    }
    table
}

const fn log_table() -> [u8; 256] {
    let mut table = [0; 256];
    let mut i = 0;
    while i < ORDER {
        table[EXP[i] as usize] = i as u8;
        i += 1;
    }
    table
}

/// The product of two elements.
pub(crate) fn multiply(a: u8, b: u8) -> u8 {
    if a == 0 || b == 0 {
        return 0;
    }
    EXP[log(a) + log(b)]
}

/// The logarithm of `a`, which is not zero.
fn log(a: u8) -> usize {
    debug_assert_ne!(a, 0);
    usize::from(LOG[usize::from(a)])
}

/// The matrix that turns the values of a polynomial of degree below `known.len()` at the points `known` into its
/// values at the points `wanted`: row by row, `coefficients[row * known.len() + column]`.
///
/// The points must all be distinct, across both lists: then no factor below is zero.
pub(crate) fn interpolation(known: &[u8], wanted: &[u8]) -> Vec<u8> {
    // All factors are differences of distinct points, so the products are sums of logarithms. A sum has at most 256
    // terms below 255.
    let weights: Vec<usize> =
        known.iter().map(|&p| known.iter().filter(|&&q| q != p).map(|&q| log(p ^ q)).sum()).collect();
    let mut coefficients = Vec::with_capacity(known.len() * wanted.len());
    for &t in wanted {
        let numerator: usize = known.iter().map(|&q| log(t ^ q)).sum();
        for (&p, weight) in known.iter().zip(&weights) {
            let denominator = (log(t ^ p) + weight) % ORDER;
            coefficients.push(EXP[(numerator + ORDER - denominator) % ORDER]);
        }
    }
    coefficients
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Multiplication from its definition: carry-less, then reduced.
    fn long_multiply(a: u8, b: u8) -> u8 {
        let mut product: u16 = 0;
        for bit in 0..8 {
            if b >> bit & 1 == 1 {
                product ^= u16::from(a) << bit;
            }
        }
        for bit in (8..16).rev() {
            if product >> bit & 1 == 1 {
                product ^= POLYNOMIAL << (bit - 8);
            }
        }
        product as u8
    }

    #[test]
    fn multiplication_is_that_of_the_field() {
        for a in 0..=255 {
            for b in 0..=255 {
                assert_eq!(multiply(a, b), long_multiply(a, b), "{a} × {b}");
            }
        }
    }

    /// The value at `point` of the polynomial with these coefficients, lowest first.
    fn evaluate(polynomial: &[u8], point: u8) -> u8 {
        polynomial.iter().rev().fold(0, |value, &c| multiply(value, point) ^ c)
    }

    #[test]
    fn interpolation_finds_values_of_the_polynomial() {
        let polynomial = [7, 0, 255, 29, 128];
        let known = [0, 3, 200, 17, 255];
        let wanted = [1, 2, 4, 254];
        let matrix = interpolation(&known, &wanted);
        for (row, &t) in matrix.chunks(known.len()).zip(&wanted) {
            let value = row.iter().zip(&known).fold(0, |sum, (&c, &p)| sum ^ multiply(c, evaluate(&polynomial, p)));
            assert_eq!(value, evaluate(&polynomial, t), "at {t}");
        }
    }
}
