//! Kubernetes' quantities (`500m`, `1Gi`) as whole numbers of thousandths or bytes.

/// In thousandths: `500m` is 500, `2` is 2000. `None` if it is no quantity or not a whole number of thousandths.
pub(crate) fn thousandths(text: &str) -> Option<u64> {
    const SUFFIXES: [(&str, u64); 13] = [
        ("Ki", 1 << 10),
        ("Mi", 1 << 20),
        ("Gi", 1 << 30),
        ("Ti", 1 << 40),
        ("Pi", 1 << 50),
        ("Ei", 1 << 60),
        ("k", 1_000),
        ("M", 1_000_000),
        ("G", 1_000_000_000),
        ("T", 1_000_000_000_000),
        ("P", 1_000_000_000_000_000),
        ("E", 1_000_000_000_000_000_000),
        ("", 1),
    ];
    if let Some(digits) = text.strip_suffix('m') {
        return decimal(digits, 1);
    }
    let (digits, unit) = SUFFIXES.iter().find_map(|(suffix, unit)| Some((text.strip_suffix(suffix)?, *unit)))?;
    decimal(digits, u128::from(unit) * 1000)
}

/// In whole units, such as bytes.
pub(crate) fn units(text: &str) -> Option<u64> {
    thousandths_wide(text).filter(|it| it % 1000 == 0).and_then(|it| u64::try_from(it / 1000).ok())
}

fn thousandths_wide(text: &str) -> Option<u128> {
    // Bytes times a thousand of an exbibyte do not fit 64 bits, so the unit is applied last.
    thousandths(text).map(u128::from).or_else(|| {
        let at = text.find(|it: char| it.is_ascii_alphabetic())?;
        let unit = thousandths(&format!("1{}", &text[at..]))?;
        text[..at].parse::<u128>().ok()?.checked_mul(u128::from(unit))
    })
}

fn decimal(digits: &str, unit: u128) -> Option<u64> {
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    let plain = |it: &str| it.chars().all(|it| it.is_ascii_digit());
    if whole.is_empty() || !plain(whole) || !plain(fraction) || fraction.len() > 9 {
        return None;
    }
    let scale = 10_u128.checked_pow(u32::try_from(fraction.len()).ok()?)?;
    let number: u128 = format!("{whole}{fraction}").parse().ok()?;
    let product = number.checked_mul(unit)?;
    (product % scale == 0).then_some(product / scale).and_then(|it| u64::try_from(it).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities() {
        let check = |text: &str, expect: Option<u64>| assert_eq!(thousandths(text), expect, "{text}");
        check("1", Some(1000));
        check("500m", Some(500));
        check("0.5", Some(500));
        check("1Ki", Some(1_024_000));
        check("1.5k", Some(1_500_000));
        check("0.0001", None);
        check("", None);
        check("Gi", None);
        check("-1", None);
        check("1x", None);
        assert_eq!(units("1Gi"), Some(1 << 30));
        assert_eq!(units("4Ti"), Some(4 << 40));
        assert_eq!(units("1m"), None);
    }
}
