//! Amounts as Kubernetes writes them (`resource.Quantity`): `500m`, `1.5Gi`, `2e3`. Not a type for arithmetic: callers add whole units.

use std::str::FromStr;

use thiserror::Error;

/// An amount, exact to a billionth; what is finer is rounded up, as Kubernetes does.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Quantity {
    nanos: i128,
}

/// Text that is no amount.
#[derive(Debug, Error, PartialEq, Eq)]
#[error(
    "quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$', and {0:?} does not"
)]
pub struct QuantityError(String);

/// Billionths in one.
const NANO: i128 = 1_000_000_000;

/// The largest amount, 2⁶³ − 1; what is more counts as this, as in Kubernetes.
const MAX: i128 = (i64::MAX as i128) * NANO;

/// Longest text that is read; the longest canonical form has 28 characters.
const TEXT_BYTES_MAX: usize = 64;

impl Quantity {
    /// In whole units, rounded up.
    #[must_use]
    pub fn value(self) -> i64 {
        self.rounded_up(NANO)
    }

    /// In thousandths, rounded up; what does not fit counts as `i64::MAX`.
    #[must_use]
    pub fn milli(self) -> i64 {
        self.rounded_up(NANO / 1000)
    }

    fn rounded_up(self, unit: i128) -> i64 {
        let whole = self.nanos.div_euclid(unit) + i128::from(self.nanos.rem_euclid(unit) > 0);
        i64::try_from(whole).unwrap_or(if whole < 0 { i64::MIN } else { i64::MAX })
    }
}

impl FromStr for Quantity {
    type Err = QuantityError;

    fn from_str(text: &str) -> Result<Self, QuantityError> {
        parse(text).ok_or_else(|| QuantityError(text.chars().take(TEXT_BYTES_MAX).collect()))
    }
}

fn parse(text: &str) -> Option<Quantity> {
    if text.len() > TEXT_BYTES_MAX {
        return None;
    }
    let (negative, unsigned) = match text.as_bytes().first()? {
        b'-' => (true, &text[1..]),
        b'+' => (false, &text[1..]),
        _ => (false, text),
    };
    let end = unsigned.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(unsigned.len());
    let (number, suffix) = unsigned.split_at(end);
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if fraction.contains('.') || (whole.is_empty() && fraction.is_empty()) {
        return None;
    }
    let (multiplier, exponent) = scale(suffix)?;
    let digits: Vec<u8> = whole.bytes().chain(fraction.bytes()).map(|digit| digit - b'0').collect();
    let fraction_digits = i32::try_from(fraction.len()).ok()?;
    let magnitude = scaled(&digits, multiplier, exponent - fraction_digits + 9);
    Some(Quantity { nanos: if negative { -magnitude } else { magnitude } })
}

/// What a suffix multiplies by: a number, and a power of ten.
fn scale(suffix: &str) -> Option<(i128, i32)> {
    let power_of_ten = |power| Some((1, power));
    let power_of_two = |power: u32| Some((1_i128 << power, 0));
    match suffix {
        "n" => power_of_ten(-9),
        "u" => power_of_ten(-6),
        "m" => power_of_ten(-3),
        "" => power_of_ten(0),
        "k" => power_of_ten(3),
        "M" => power_of_ten(6),
        "G" => power_of_ten(9),
        "T" => power_of_ten(12),
        "P" => power_of_ten(15),
        "E" => power_of_ten(18),
        "Ki" => power_of_two(10),
        "Mi" => power_of_two(20),
        "Gi" => power_of_two(30),
        "Ti" => power_of_two(40),
        "Pi" => power_of_two(50),
        "Ei" => power_of_two(60),
        _ => {
            let exponent = suffix.strip_prefix(['e', 'E'])?;
            // Beyond this everything is zero or the largest amount anyway.
            power_of_ten(exponent.parse::<i32>().ok()?.clamp(-100, 100))
        }
    }
}

/// `digits` · `multiplier` · 10^`exponent`, rounded up, at most [`MAX`].
fn scaled(digits: &[u8], multiplier: i128, exponent: i32) -> i128 {
    let mut value: i128 = 0;
    for digit in digits {
        value = value.saturating_mul(10).saturating_add(i128::from(*digit));
    }
    value = value.saturating_mul(multiplier);
    let mut inexact = false;
    for _ in 0..exponent.unsigned_abs() {
        if exponent > 0 {
            value = value.saturating_mul(10);
        } else {
            inexact |= value % 10 != 0;
            value /= 10;
        }
    }
    (value + i128::from(inexact && value < MAX)).min(MAX)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn amounts() {
        let check = |text: &str, milli: i64, value: i64| {
            let quantity: Quantity = text.parse().unwrap();
            assert_eq!((quantity.milli(), quantity.value()), (milli, value), "{text}");
        };
        check("0", 0, 0);
        check("1", 1000, 1);
        check("100m", 100, 1);
        check("0.1", 100, 1);
        check(".5", 500, 1);
        check("5.", 5000, 5);
        check("+1.5", 1500, 2);
        check("-1.5", -1500, -1);
        check("1Ki", 1_024_000, 1024);
        check("1.5Gi", 1_610_612_736_000, 1_610_612_736);
        check("64M", 64_000_000_000, 64_000_000);
        check("2e3", 2_000_000, 2000);
        check("2E3", 2_000_000, 2000);
        check("1E", i64::MAX, 1_000_000_000_000_000_000);
        check("12e-1", 1200, 2);
        check("1n", 1, 1);
        check("0.0000000001", 1, 1);
        check("99999999999Ei", i64::MAX, i64::MAX);
    }

    #[test]
    fn what_is_no_amount() {
        for text in ["", "-", ".", "1.2.3", "1 Gi", "1gi", "one", "1e", "0x10", "1KiB", "--1", &"1".repeat(65)] {
            assert!(text.parse::<Quantity>().is_err(), "{text}");
        }
        assert!("1x".parse::<Quantity>().unwrap_err().to_string().contains("regular expression"));
    }

    proptest! {
        #[test]
        fn parsing_does_not_panic(text in "[+-]?[0-9.]{0,40}[eEinumkKMGTP]{0,2}[-+0-9]{0,12}") {
            let _ = text.parse::<Quantity>();
        }

        #[test]
        fn whole_numbers_are_themselves(value: i32) {
            prop_assert_eq!(value.to_string().parse::<Quantity>().unwrap().value(), i64::from(value));
        }
    }
}
