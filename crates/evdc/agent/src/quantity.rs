//! Kubernetes quantities as whole thousandths (pure). What does not parse is `None`: the API server has validated it, so that is a damaged object.

use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

/// The quantity in thousandths, rounded up.
#[must_use]
pub fn thousandths(quantity: &Quantity) -> Option<i128> {
    let text = quantity.0.trim();
    let split = text.find(|c: char| !(c.is_ascii_digit() || c == '.' || c == '-' || c == '+')).unwrap_or(text.len());
    let (number, suffix) = text.split_at(split);
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let negative = whole.starts_with('-');
    let whole = whole.trim_start_matches(['-', '+']);
    // Beyond nine decimals and twenty-one digits nothing means anything.
    if whole.len() > 21 || fraction.len() > 9 || (whole.is_empty() && fraction.is_empty()) {
        return None;
    }
    let digits: i128 = format!("0{whole}{fraction}").parse().ok()?;
    let (multiply, divide) = scale(suffix)?;
    let divide = divide.checked_mul(10_i128.checked_pow(u32::try_from(fraction.len()).ok()?)?)?;
    let scaled = digits.checked_mul(multiply)?.checked_mul(1_000)?;
    let value = scaled.checked_add(divide - 1)? / divide;
    Some(if negative { -value } else { value })
}

/// In whole units, rounded up.
#[must_use]
pub fn units(quantity: &Quantity) -> Option<u64> {
    let value = thousandths(quantity)?;
    u64::try_from(value.checked_add(999)? / 1_000).ok()
}

fn scale(suffix: &str) -> Option<(i128, i128)> {
    Some(match suffix {
        "" => (1, 1),
        "n" => (1, 1_000_000_000),
        "u" => (1, 1_000_000),
        "m" => (1, 1_000),
        "k" => (1_000, 1),
        "M" => (1_000_000, 1),
        "G" => (1_000_000_000, 1),
        "T" => (1_000_000_000_000, 1),
        "P" => (1_000_000_000_000_000, 1),
        "E" => (1_000_000_000_000_000_000, 1),
        "Ki" => (1 << 10, 1),
        "Mi" => (1 << 20, 1),
        "Gi" => (1 << 30, 1),
        "Ti" => (1 << 40, 1),
        "Pi" => (1 << 50, 1),
        "Ei" => (1 << 60, 1),
        _ => {
            let exponent: i32 = suffix.strip_prefix(['e', 'E'])?.parse().ok()?;
            let power = 10_i128.checked_pow(exponent.unsigned_abs().min(19))?;
            if exponent < 0 { (1, power) } else { (power, 1) }
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_are_read_as_kubernetes_writes_them() {
        let check = |text: &str, expected: Option<i128>| {
            assert_eq!(thousandths(&Quantity(text.to_owned())), expected, "{text}");
        };
        check("1", Some(1_000));
        check("500m", Some(500));
        check("0.5", Some(500));
        check(".5", Some(500));
        check("1.5Gi", Some(1_610_612_736_000));
        check("128Mi", Some(134_217_728_000));
        check("1e3", Some(1_000_000));
        check("1E", Some(1_000_000_000_000_000_000_000));
        check("100n", Some(1));
        check("-1", Some(-1_000));
        check("", None);
        check("abc", None);
        check("1Qi", None);
        check(&"9".repeat(40), None);
        assert_eq!(units(&Quantity("1500m".to_owned())), Some(2));
    }
}
