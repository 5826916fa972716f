//! `-ln(u)` of a 64-bit draw in integers only, so that every processor and compiler gives the same bits.
//!
//! A draw h stands for u = h / 2⁶⁴. Write h = 2⁶³⁻ᶻ · m with 1 ≤ m < 2; then -ln(u) = (z + 1)·ln 2 - ln m, and ln m = ln c + ln(1 + t), where c is
//! the largest multiple of 1/256 not above m and 0 ≤ t < 2⁻⁸. ln c is in a table that the compiler computes from the series of
//! the inverse hyperbolic tangent; ln(1 + t) is a polynomial of degree 6, whose remainder is below 2⁻⁵⁸.

/// Bits after the binary point of [`neg_ln`].
const FRACTION_BITS: u32 = 56;

/// Leading bits of the mantissa, after its first, that select a table entry.
const TABLE_BITS: u32 = 8;
const TABLE_LEN: usize = 1 << TABLE_BITS;

/// ln(1 + i/256) · 2⁶⁴.
const LN_TABLE: [u64; TABLE_LEN] = {
    let mut table = [0; TABLE_LEN];
    let mut i = 0;
    while i < TABLE_LEN {
        table[i] = ln_of_ratio(i as u128);
        i += 1;
    }
    table
};

/// ln 2 · 2⁶⁴.
const LN_2: u64 = ln_of_ratio(TABLE_LEN as u128);

/// ln((256 + i) / 256) · 2⁶⁴ for i ≤ 256, as 2·artanh(z) = 2·(z + z³/3 + z⁵/5 + …) with z = i / (512 + i) ≤ 1/3.
const fn ln_of_ratio(i: u128) -> u64 {
    // 96 bits after the point, so that roundings of the series stay below the 64 that are kept.
    let z = (i << 96) / (2 * TABLE_LEN as u128 + i);
    let z_squared = mul_96(z, z);
    let (mut power, mut sum, mut odd) = (z, 0, 1);
    while power > 0 {
        sum += power / odd;
        power = mul_96(power, z_squared);
        odd += 2;
    }
    ((2 * sum) >> 32) as u64
}

/// a·b for numbers below 1 with 96 bits after the point. Drops the low halves, an error below 2⁻⁹⁴.
const fn mul_96(a: u128, b: u128) -> u128 {
    ((a >> 32) * (b >> 32)) >> 32
}

/// a·b for fractions of 2⁶⁴.
fn mul(a: u64, b: u64) -> u64 {
    ((u128::from(a) * u128::from(b)) >> 64) as u64
}

/// ln(1 + t) for t < 2⁻⁸, both as fractions of 2⁶⁴: t - t²·(1/2 - t·(1/3 - t·(1/4 - t·(1/5 - t/6)))).
fn ln_1p(t: u64) -> u64 {
    let reciprocal = |n: u64| u64::MAX / n;
    let tail = reciprocal(5) - mul(t, reciprocal(6));
    let tail = reciprocal(4) - mul(t, tail);
    let tail = reciprocal(3) - mul(t, tail);
    let tail = reciprocal(2) - mul(t, tail);
    t - mul(mul(t, t), tail)
}

/// -ln(h / 2⁶⁴) · 2⁵⁶, within 2 of the true value; below 2⁶². A draw of 0, for which it would be infinite, counts as 1.
pub(crate) fn neg_ln(h: u64) -> u64 {
    let h = h.max(1);
    let zeros = h.leading_zeros();
    let mantissa = h << zeros;
    let index = (mantissa >> (63 - TABLE_BITS)) as usize & (TABLE_LEN - 1);
    let rest = mantissa & ((1 << (63 - TABLE_BITS)) - 1);
    // t = rest / (256 + index) in units of 2⁻⁵⁵, so shifted by 9 in units of 2⁻⁶⁴; rest < 2⁵⁵.
    let t = (rest << (TABLE_BITS + 1)) / (TABLE_LEN + index) as u64;
    let ln_mantissa = LN_TABLE[index] + ln_1p(t);
    let sum = u128::from(zeros) * u128::from(LN_2) + u128::from(LN_2.saturating_sub(ln_mantissa));
    (sum >> (64 - FRACTION_BITS)) as u64
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn check(h: u64, expect: f64) {
        let found = neg_ln(h) as f64 / 2f64.powi(FRACTION_BITS as i32);
        assert!((found - expect).abs() <= 1e-14 * expect.max(1.0), "{h:#x}: {found} but expected {expect}");
    }

    #[test]
    fn known_values() {
        let ln_2 = std::f64::consts::LN_2;
        check(1 << 63, ln_2);
        check(1, 64.0 * ln_2);
        check(0, 64.0 * ln_2);
        check(3 << 62, (4.0f64 / 3.0).ln());
        check(u64::MAX, 0.0);
        // 1 - 2⁻³²: the logarithm is the difference, and needs its absolute precision.
        let near_one = neg_ln(u64::MAX - u64::from(u32::MAX));
        assert!(near_one.abs_diff(1 << (FRACTION_BITS - 32)) <= 2, "{near_one}");
        assert_eq!(LN_2, 0xb172_17f7_d1cf_79ab);
        assert!(neg_ln(0) < 1 << 62);
    }

    /// Placements depend on every bit: these values can never change.
    #[test]
    fn values_are_pinned() {
        assert_eq!(neg_ln(1), PINNED[0]);
        assert_eq!(neg_ln(0x0123_4567_89ab_cdef), PINNED[1]);
        assert_eq!(neg_ln(0x9e37_79b9_7f4a_7c15), PINNED[2]);
        assert_eq!(neg_ln(0xfedc_ba98_7654_3210), PINNED[3]);
    }
    /// Rounded down from values computed with 60 digits.
    const PINNED: [u64; 4] =
        [3_196_577_161_300_663_914, 390_271_164_050_704_321, 34_674_966_336_395_302, 320_969_769_178_346];

    proptest! {
        #[test]
        fn agrees_with_floating_point(h in 1u64.., zeros in 0u32..64) {
            let h = (h >> zeros).max(1);
            // Difference of logarithms, since h / 2⁶⁴ as a double would lose digits near 1.
            let expect = if h > 1 << 63 { -(-((u64::MAX - h) as f64 + 1.0) / 2f64.powi(64)).ln_1p() } else { 64.0 * std::f64::consts::LN_2 - (h as f64).ln() };
            check(h, expect);
        }

        #[test]
        fn never_increases(a: u64, b: u64, close in 0u64..1 << 20) {
            // Over distances above the rounding of the result, larger draws have smaller logarithms.
            for (low, high) in [(a.min(b), a.max(b)), (a, a.saturating_add(close << 20))] {
                prop_assert!(neg_ln(low) + 2 >= neg_ln(high));
            }
        }
    }
}
