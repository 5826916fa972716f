//! Number literals and Go's `strconv` of texts, as templates need them.
//!
//! Not here: complex numbers, which are refused as bad syntax.

/// A number literal.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Literal {
    Int(i64),
    Float(f64),
}

/// Reads a literal: decimal, `0x`, `0o`, `0b`, a leading zero for octal, `_` between digits, or a float.
pub(crate) fn parse(text: &str) -> Option<Literal> {
    if let Some(it) = int_any_base(text) {
        return Some(Literal::Int(it));
    }
    let hex = text.trim_start_matches(['+', '-']).to_ascii_lowercase().starts_with("0x");
    if hex || !text.contains(['.', 'e', 'E']) {
        return None;
    }
    float(&text.replace('_', "")).map(Literal::Float)
}

/// A float in Go's spelling; names such as `nan` only where Go takes them.
pub(crate) fn float(text: &str) -> Option<f64> {
    let digits = text.trim_start_matches(['+', '-']);
    if !digits.starts_with(|it: char| it.is_ascii_digit() || it == '.') {
        return None;
    }
    text.parse().ok()
}

/// An integer as `strconv.ParseInt(s, 0, 64)` reads it.
pub(crate) fn int_any_base(text: &str) -> Option<i64> {
    let (negative, digits) = match text.strip_prefix('-') {
        Some(digits) => (true, digits),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    let lower = digits.to_ascii_lowercase();
    let (radix, digits) = [("0x", 16), ("0o", 8), ("0b", 2)]
        .iter()
        .find_map(|(prefix, radix)| Some((*radix, lower.strip_prefix(prefix)?)))
        .unwrap_or(if lower.len() > 1 && lower.starts_with('0') { (8, &lower[1..]) } else { (10, &lower) });
    let clean = digits.replace('_', "");
    if clean.is_empty() || !clean.chars().all(|it| it.is_digit(radix)) {
        return None;
    }
    let signed = if negative { format!("-{clean}") } else { clean };
    i64::from_str_radix(&signed, radix).ok()
}

/// A text in Go's double quotes, single quotes or back quotes, without them.
pub(crate) fn unquote(text: &str) -> Option<String> {
    let mut chars = text.chars();
    let quote = chars.next()?;
    let body = chars.as_str().strip_suffix(quote)?;
    if quote == '`' {
        return Some(body.replace('\r', ""));
    }
    let mut bytes = Vec::with_capacity(body.len());
    let mut rest = body.chars();
    while let Some(it) = rest.next() {
        if it != '\\' {
            bytes.extend_from_slice(it.encode_utf8(&mut [0; 4]).as_bytes());
            continue;
        }
        let simple = match rest.next()? {
            'n' => '\n',
            't' => '\t',
            'r' => '\r',
            'a' => '\u{7}',
            'b' => '\u{8}',
            'f' => '\u{c}',
            'v' => '\u{b}',
            '\\' => '\\',
            it @ ('"' | '\'') if it == quote => it,
            'x' => {
                bytes.push(u8::try_from(coded(&mut rest, 2, 16)?).ok()?);
                continue;
            }
            'u' => char::from_u32(coded(&mut rest, 4, 16)?)?,
            'U' => char::from_u32(coded(&mut rest, 8, 16)?)?,
            it @ '0'..='7' => {
                let high = it.to_digit(8)? * 64;
                bytes.push(u8::try_from(high + coded(&mut rest, 2, 8)?).ok()?);
                continue;
            }
            _ => return None,
        };
        bytes.extend_from_slice(simple.encode_utf8(&mut [0; 4]).as_bytes());
    }
    // A text that is not UTF-8 cannot be a value here; Go would carry the bytes along.
    String::from_utf8(bytes).ok()
}

fn coded(rest: &mut std::str::Chars<'_>, digits: usize, radix: u32) -> Option<u32> {
    (0..digits).try_fold(0, |it, _| Some(it * radix + rest.next()?.to_digit(radix)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn literals() {
        let check = |text: &str, expect: Option<Literal>| assert_eq!(parse(text), expect, "{text}");
        check("12", Some(Literal::Int(12)));
        check("-0x1F", Some(Literal::Int(-31)));
        check("017", Some(Literal::Int(15)));
        check("1_000", Some(Literal::Int(1000)));
        check("1e3", Some(Literal::Float(1000.0)));
        check(".5", Some(Literal::Float(0.5)));
        check("1x", None);
        check("3i", None);
        check("-", None);
        assert_eq!(unquote(r#""a\tb\x41\u00e9""#), Some("a\tbAé".into()));
        assert_eq!(unquote(r"'\''"), Some("'".into()));
        assert_eq!(unquote(r#""\q""#), None);
    }
}
