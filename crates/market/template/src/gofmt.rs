//! Go's `fmt` for template values: `%v` and its siblings, widths, flags, and the marks Go leaves for wrong arguments
//! (`%!d(string=x)`). What is printed is compared with real Go in `tests/`.
//!
//! Not here: `%p`, `%U` and Go-syntax (`%#v`) of anything but plain values; they print as Go marks an unknown verb.

use crate::value::{DEPTH_MAX, Value};

/// Widest field; Go itself allows a million, which would let a short template ask for much memory.
const WIDTH_MAX: usize = 10_000;

/// A value as `%v` prints it, which is also how an action prints it; nil is `<nil>` (an action prints `<no value>` instead).
#[must_use]
pub(crate) fn plain(value: &Value) -> String {
    let mut out = String::new();
    write_v(&mut out, value, 0);
    out
}

fn write_v(out: &mut String, value: &Value, depth: usize) {
    if depth > DEPTH_MAX {
        return;
    }
    match value {
        Value::Nil => out.push_str("<nil>"),
        Value::Bool(it) => out.push_str(if *it { "true" } else { "false" }),
        Value::Int(it) | Value::Int64(it) => out.push_str(&it.to_string()),
        Value::Float(it) => out.push_str(&float_v(*it)),
        Value::Str(it) => out.push_str(it),
        Value::List(items) => {
            out.push('[');
            for (index, item) in items.iter().enumerate() {
                if index > 0 {
                    out.push(' ');
                }
                write_v(out, item, depth + 1);
            }
            out.push(']');
        }
        Value::Map(map) => {
            out.push_str("map[");
            for (index, (key, item)) in map.entries().iter().enumerate() {
                if index > 0 {
                    out.push(' ');
                }
                out.push_str(key);
                out.push(':');
                write_v(out, item, depth + 1);
            }
            out.push(']');
        }
        Value::Object(it) => write_v(out, &it.plain(), depth + 1),
    }
}

/// A float as `%v` prints it: the shortest digits, an exponent below 1e-4 and from 1e6 (hence `1.234567e+06` for a large number
/// of a values file, as in Helm).
#[must_use]
pub(crate) fn float_v(it: f64) -> String {
    general(it, None, false)
}

fn special(it: f64) -> Option<String> {
    if it.is_nan() {
        return Some("NaN".into());
    }
    it.is_infinite().then(|| if it > 0.0 { "+Inf".into() } else { "-Inf".into() })
}

/// `%e` with two exponent digits at least, as C and Go write it.
fn exponential(it: f64, precision: Option<usize>) -> String {
    if let Some(text) = special(it) {
        return text;
    }
    let text = precision.map_or_else(|| format!("{it:e}"), |digits| format!("{it:.digits$e}"));
    let (mantissa, exponent) = text.split_once('e').unwrap_or((&text, "0"));
    let (sign, digits) = exponent.strip_prefix('-').map_or(('+', exponent), |digits| ('-', digits));
    format!("{mantissa}e{sign}{digits:0>2}")
}

/// `%g`: the exponent form below 1e-4 and from ten to the precision.
fn general(it: f64, precision: Option<usize>, keep_zeros: bool) -> String {
    if let Some(text) = special(it) {
        return text;
    }
    if it == 0.0 {
        return if it.is_sign_negative() { "-0".into() } else { "0".into() };
    }
    let digits = precision.map(|it| it.max(1));
    let scientific = digits.map_or_else(|| format!("{it:e}"), |digits| format!("{it:.*e}", digits - 1));
    let exponent: i32 = scientific.split_once('e').and_then(|(_, it)| it.parse().ok()).unwrap_or(0);
    // What Go takes when it is free to choose the digits.
    const LIMIT_OF_SHORTEST: i32 = 6;
    let limit = digits.map_or(LIMIT_OF_SHORTEST, |digits| i32::try_from(digits).unwrap_or(i32::MAX));
    let trim = |text: String| {
        if keep_zeros || !text.contains('.') {
            text
        } else {
            text.trim_end_matches('0').trim_end_matches('.').to_owned()
        }
    };
    if exponent < -4 || exponent >= limit {
        let text = exponential(it, digits.map(|it| it - 1));
        let (mantissa, tail) = text.split_once('e').unwrap_or((&text, "+00"));
        return format!("{}e{tail}", trim(mantissa.to_owned()));
    }
    let Some(digits) = digits else { return format!("{it}") };
    let after = i64::try_from(digits).unwrap_or(0) - 1 - i64::from(exponent);
    trim(format!("{it:.*}", usize::try_from(after.max(0)).unwrap_or(0)))
}

/// Text in Go's double quotes (`%q`).
#[must_use]
pub(crate) fn quote(text: &str) -> String {
    let mut out = String::from("\"");
    for it in text.chars() {
        match it {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\u{7}' => out.push_str("\\a"),
            '\u{8}' => out.push_str("\\b"),
            '\u{b}' => out.push_str("\\v"),
            '\u{c}' => out.push_str("\\f"),
            it if it < ' ' || it == '\u{7f}' => out.push_str(&format!("\\x{:02x}", u32::from(it))),
            '\u{80}'..='\u{a0}' | '\u{ad}' | '\u{2028}' | '\u{2029}' | '\u{feff}' => {
                out.push_str(&format!("\\u{:04x}", u32::from(it)));
            }
            it => out.push(it),
        }
    }
    out.push('"');
    out
}

#[derive(Default, Clone, Copy)]
struct Flags {
    minus: bool,
    plus: bool,
    sharp: bool,
    space: bool,
    zero: bool,
    width: Option<usize>,
    precision: Option<usize>,
}

/// `fmt.Sprintf`.
#[must_use]
pub(crate) fn sprintf(format: &str, arguments: &[Value]) -> String {
    let mut out = String::new();
    let mut rest = format.chars().peekable();
    let mut next = 0;
    while let Some(it) = rest.next() {
        if it != '%' {
            out.push(it);
            continue;
        }
        let mut flags = Flags::default();
        while let Some(flag) = rest.next_if(|it| "-+# 0".contains(*it)) {
            match flag {
                '-' => flags.minus = true,
                '+' => flags.plus = true,
                '#' => flags.sharp = true,
                ' ' => flags.space = true,
                _ => flags.zero = true,
            }
        }
        flags.width = number(&mut rest, arguments, &mut next, &mut out, &mut flags.minus);
        if rest.next_if_eq(&'.').is_some() {
            let mut ignored = false;
            flags.precision = number(&mut rest, arguments, &mut next, &mut out, &mut ignored).or(Some(0));
        }
        let Some(verb) = rest.next() else {
            out.push_str("%!(NOVERB)");
            break;
        };
        if verb == '%' {
            out.push('%');
        } else if let Some(argument) = arguments.get(next) {
            next += 1;
            out.push_str(&formatted(argument, verb, flags));
        } else {
            out.push_str(&format!("%!{verb}(MISSING)"));
        }
    }
    if next < arguments.len() {
        let extra: Vec<String> = arguments[next..].iter().map(typed).collect();
        out.push_str(&format!("%!(EXTRA {})", extra.join(", ")));
    }
    out
}

/// A width or a precision: digits, or `*` that takes it from the arguments.
fn number(
    rest: &mut std::iter::Peekable<std::str::Chars<'_>>,
    arguments: &[Value],
    next: &mut usize,
    out: &mut String,
    minus: &mut bool,
) -> Option<usize> {
    if rest.next_if_eq(&'*').is_some() {
        let given = arguments.get(*next);
        *next += 1;
        let Some(Value::Int(it) | Value::Int64(it)) = given else {
            out.push_str("%!(BADWIDTH)");
            return None;
        };
        *minus |= *it < 0;
        return usize::try_from(it.unsigned_abs()).ok().map(|it| it.min(WIDTH_MAX));
    }
    let mut seen = None;
    while let Some(digit) = rest.next_if(char::is_ascii_digit) {
        let digit = digit.to_digit(10).unwrap_or(0) as usize;
        seen = Some((seen.unwrap_or(0) * 10 + digit).min(WIDTH_MAX));
    }
    seen
}

fn typed(value: &Value) -> String {
    match value {
        Value::Nil => "<nil>".into(),
        other => format!("{}={}", other.type_name(), plain(other)),
    }
}

fn formatted(value: &Value, verb: char, flags: Flags) -> String {
    match verb {
        'T' => return padded(value.type_name(), flags, false),
        'v' if flags.sharp => return padded(go_syntax(value, 0), flags, false),
        _ => {}
    }
    match value {
        Value::Nil if verb == 'v' => padded("<nil>".into(), flags, false),
        Value::Nil => format!("%!{verb}(<nil>)"),
        Value::Bool(_) if matches!(verb, 'v' | 't') => padded(plain(value), flags, false),
        Value::Int(it) | Value::Int64(it) => integer(*it, verb, flags).unwrap_or_else(|| wrong(value, verb)),
        Value::Float(it) => float(*it, verb, flags).unwrap_or_else(|| wrong(value, verb)),
        Value::Str(it) => text(it, verb, flags).unwrap_or_else(|| wrong(value, verb)),
        Value::List(items) => {
            let items: Vec<String> = items.iter().map(|it| formatted(it, verb, flags)).collect();
            format!("[{}]", items.join(" "))
        }
        Value::Map(map) => {
            let entry = |(key, it): (String, Value)| {
                format!("{}:{}", formatted(&Value::str(key), verb, flags), formatted(&it, verb, flags))
            };
            if Value::Map(map.clone()).measure().is_err() {
                return "map[...]".into();
            }
            format!("map[{}]", map.entries().into_iter().map(entry).collect::<Vec<_>>().join(" "))
        }
        Value::Object(it) => formatted(&it.plain(), verb, flags),
        Value::Bool(_) => wrong(value, verb),
    }
}

fn wrong(value: &Value, verb: char) -> String {
    format!("%!{verb}({})", typed(value))
}

fn integer(it: i64, verb: char, flags: Flags) -> Option<String> {
    let magnitude = it.unsigned_abs();
    let digits = match verb {
        'd' | 'v' => magnitude.to_string(),
        'b' => format!("{magnitude:b}"),
        'o' if flags.sharp => format!("0{magnitude:o}"),
        'o' => format!("{magnitude:o}"),
        'O' => format!("0o{magnitude:o}"),
        'x' if flags.sharp => format!("0x{magnitude:x}"),
        'x' => format!("{magnitude:x}"),
        'X' if flags.sharp => format!("0X{magnitude:X}"),
        'X' => format!("{magnitude:X}"),
        'c' => return Some(padded(rune(it).to_string(), flags, false)),
        'q' => return Some(padded(format!("'{}'", rune(it)), flags, false)),
        'U' => return Some(padded(format!("U+{magnitude:04X}"), flags, false)),
        _ => return None,
    };
    let digits = match flags.precision {
        Some(least) => format!("{digits:0>least$}"),
        None => digits,
    };
    Some(padded(signed(it < 0, digits, flags), flags, flags.zero && flags.precision.is_none()))
}

fn rune(it: i64) -> char {
    u32::try_from(it).ok().and_then(char::from_u32).unwrap_or(char::REPLACEMENT_CHARACTER)
}

fn signed(negative: bool, digits: String, flags: Flags) -> String {
    match (negative, flags.plus, flags.space) {
        (true, ..) => format!("-{digits}"),
        (_, true, _) => format!("+{digits}"),
        (_, _, true) => format!(" {digits}"),
        _ => digits,
    }
}

fn float(it: f64, verb: char, flags: Flags) -> Option<String> {
    let size = it.abs();
    let digits = match verb {
        'f' | 'F' => special(size).unwrap_or_else(|| format!("{size:.*}", flags.precision.unwrap_or(6))),
        'e' => exponential(size, Some(flags.precision.unwrap_or(6))),
        'E' => exponential(size, Some(flags.precision.unwrap_or(6))).to_uppercase(),
        'g' | 'v' => general(size, flags.precision, flags.sharp),
        'G' => general(size, flags.precision, flags.sharp).to_uppercase(),
        _ => return None,
    };
    let digits = digits.strip_prefix('+').map_or(digits.clone(), ToOwned::to_owned);
    let negative = it.is_sign_negative() && !it.is_nan();
    let text = if it.is_infinite() && !negative { "+Inf".into() } else { signed(negative, digits, flags) };
    Some(padded(text, flags, flags.zero && it.is_finite()))
}

fn text(it: &str, verb: char, flags: Flags) -> Option<String> {
    let cut: String = match flags.precision {
        Some(most) => it.chars().take(most).collect(),
        None => it.to_owned(),
    };
    let text = match verb {
        's' | 'v' => cut,
        'q' if flags.sharp && !cut.contains('`') && !cut.chars().any(|it| it < ' ' && it != '\t') => format!("`{cut}`"),
        'q' => quote(&cut),
        'x' => data_encoding::HEXLOWER.encode(cut.as_bytes()),
        'X' => data_encoding::HEXUPPER.encode(cut.as_bytes()),
        _ => return None,
    };
    Some(padded(text, flags, flags.zero))
}

/// Fills up to the width: spaces before, or after with `-`; zeros go behind the sign.
fn padded(text: String, flags: Flags, zeros: bool) -> String {
    let missing = flags.width.unwrap_or(0).saturating_sub(text.chars().count());
    if missing == 0 {
        return text;
    }
    if flags.minus {
        return text + &" ".repeat(missing);
    }
    if !zeros {
        return " ".repeat(missing) + &text;
    }
    let sign = text.len() - text.trim_start_matches(['+', '-', ' ']).len();
    let sign = sign.min(1);
    format!("{}{}{}", &text[..sign], "0".repeat(missing), &text[sign..])
}

/// `%#v`.
fn go_syntax(value: &Value, depth: usize) -> String {
    if depth > DEPTH_MAX {
        return "...".into();
    }
    match value {
        Value::Str(it) => quote(it),
        Value::Nil if depth > 0 => "interface {}(nil)".into(),
        Value::List(items) => {
            let items: Vec<String> = items.iter().map(|it| go_syntax(it, depth + 1)).collect();
            format!("[]interface {{}}{{{}}}", items.join(", "))
        }
        Value::Map(map) => {
            let entry = |(key, it): (String, Value)| format!("{}:{}", quote(&key), go_syntax(&it, depth + 1));
            let entries: Vec<String> = map.entries().into_iter().map(entry).collect();
            format!("map[string]interface {{}}{{{}}}", entries.join(", "))
        }
        other => plain(other),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_go_prints() {
        let check =
            |format: &str, value: Value, expect: &str| assert_eq!(sprintf(format, &[value]), expect, "{format}");
        check("%v", Value::Float(1e21), "1e+21");
        check("%v", Value::Float(1_234_567.0), "1.234567e+06");
        check("%v", Value::Float(0.000_01), "1e-05");
        check("%v", Value::Float(8080.0), "8080");
        check("%d", Value::Float(3.0), "%!d(float64=3)");
        check("%.2f", Value::Float(3.456), "3.46");
        check("%05d", Value::Int(-42), "-0042");
        check("%-6s|", Value::str("ab"), "ab    |");
        check("%6.2f|", Value::Float(2.346), "  2.35|");
        check("%q", Value::str("a\"b\n"), "\"a\\\"b\\n\"");
        check("%s", Value::Int(3), "%!s(int=3)");
        check("%x", Value::str("hi"), "6869");
        check("%t", Value::Bool(true), "true");
        check("%T", Value::Float(1.0), "float64");
        check("%s", Value::list(vec![Value::str("a"), Value::str("b")]), "[a b]");
        check("%d%%", Value::Int(5), "5%");
        check("%d %d", Value::Int(5), "5 %!d(MISSING)");
        check("x", Value::Int(5), "x%!(EXTRA int=5)");
        check("%g", Value::Float(1e6), "1e+06");
        check("%e", Value::Float(123456.789), "1.234568e+05");
    }
}
