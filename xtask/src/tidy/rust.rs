//! As much of Rust's syntax as the rules need: where comments, strings and tests are, and where functions begin and end.
//!
//! It is no parser. It relies on code that compiles and is formatted; for other code it may count wrong but does not fail.

/// A function with a body.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Function {
    pub(super) name: String,
    /// Line of the `fn`, counted from 1.
    pub(super) line: usize,
    /// Lines from the `fn` to its closing brace.
    pub(super) lines: usize,
}

/// The source with the contents of comments, strings and characters blanked, so that what is left is code. Offsets and lines stay.
pub(super) fn code_only(source: &str) -> String {
    let bytes = source.as_bytes();
    let mut code = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let skipped = not_code(bytes, at);
        if skipped == 0 {
            code.push(if bytes[at].is_ascii() { bytes[at] } else { b' ' });
            at += 1;
        } else {
            let end = (at + skipped).min(bytes.len());
            code.extend(bytes[at..end].iter().map(|byte| if *byte == b'\n' { b'\n' } else { b' ' }));
            at = end;
        }
    }
    String::from_utf8(code).expect("only ASCII was kept")
}

/// Length of the comment or literal that starts at `at`; 0 when there is none.
fn not_code(bytes: &[u8], at: usize) -> usize {
    let rest = &bytes[at..];
    match rest {
        [b'/', b'/', ..] => rest.iter().position(|byte| *byte == b'\n').unwrap_or(rest.len()),
        [b'/', b'*', ..] => block_comment(rest),
        [b'"', ..] => string(rest),
        [b'r', ..] if starts_literal(bytes, at) => raw_string(rest),
        [b'\'', ..] => character(rest),
        _ => 0,
    }
}

/// Whether the `r` at `at` can begin a raw string: it is not inside a word, other than after the `b` or `c` of its prefix.
fn starts_literal(bytes: &[u8], at: usize) -> bool {
    let word_ends = |end: usize| end == 0 || !is_word(bytes[end - 1]);
    word_ends(at) || (matches!(bytes[at - 1], b'b' | b'c') && word_ends(at - 1))
}

fn block_comment(rest: &[u8]) -> usize {
    let (mut depth, mut at) = (0_usize, 0);
    while at + 1 < rest.len() {
        match &rest[at..at + 2] {
            b"/*" => (depth, at) = (depth + 1, at + 2),
            b"*/" => (depth, at) = (depth - 1, at + 2),
            _ => at += 1,
        }
        if depth == 0 {
            return at;
        }
    }
    rest.len()
}

fn string(rest: &[u8]) -> usize {
    let mut at = 1;
    while at < rest.len() {
        match rest[at] {
            b'\\' => at += 2,
            b'"' => return at + 1,
            _ => at += 1,
        }
    }
    rest.len()
}

fn raw_string(rest: &[u8]) -> usize {
    let hashes = rest[1..].iter().take_while(|byte| **byte == b'#').count();
    if rest.get(1 + hashes) != Some(&b'"') {
        return 0;
    }
    let mut end = vec![b'"'];
    end.resize(1 + hashes, b'#');
    let body = 2 + hashes;
    let length = rest[body..].windows(end.len()).position(|window| window == end);
    length.map_or(rest.len(), |length| body + length + end.len())
}

/// A character literal, or 0 for a lifetime.
fn character(rest: &[u8]) -> usize {
    /// Quote, four bytes of UTF-8, quote.
    const PLAIN_MAX: usize = 6;
    let closing = |from: usize| rest.iter().skip(from).position(|byte| *byte == b'\'').map(|at| from + at + 1);
    match rest.get(1) {
        Some(b'\\') => closing(3).unwrap_or(0),
        Some(first) if first.is_ascii() => 3 * usize::from(rest.get(2) == Some(&b'\'')),
        Some(_) => closing(2).filter(|length| *length <= PLAIN_MAX).unwrap_or(0),
        None => 0,
    }
}

/// The code without items under `#[cfg(test)]`.
pub(super) fn without_tests(code: &str) -> String {
    let mut kept = code.as_bytes().to_vec();
    for (start, _) in code.match_indices("#[cfg(") {
        let Some(end) = code[start..].find(']').map(|length| start + length + 1) else { continue };
        let attribute = &code[start..end];
        if words(attribute).any(|(_, word)| word == "test") && !attribute.contains("not(test)") {
            let end = item_end(code.as_bytes(), end);
            kept[start..end].iter_mut().filter(|byte| **byte != b'\n').for_each(|byte| *byte = b' ');
        }
    }
    String::from_utf8(kept).expect("blanking whole bytes of ASCII")
}

/// Where the item that starts at `from` ends: after its body, or its semicolon when it has none.
fn item_end(code: &[u8], from: usize) -> usize {
    match body_start(code, from) {
        Some(open) => body_end(code, open),
        None => code[from..].iter().position(|byte| *byte == b';').map_or(code.len(), |length| from + length + 1),
    }
}

/// The brace that opens the body of the item at `from`; `None` when a semicolon comes first.
fn body_start(code: &[u8], from: usize) -> Option<usize> {
    let mut depth = 0_usize;
    for (at, byte) in code.iter().enumerate().skip(from) {
        match byte {
            b'(' | b'[' => depth += 1,
            b')' | b']' => depth = depth.saturating_sub(1),
            b';' if depth == 0 => return None,
            b'{' if depth == 0 => return Some(at),
            _ => {}
        }
    }
    None
}

/// Just after the brace that closes the one at `open`.
fn body_end(code: &[u8], open: usize) -> usize {
    let mut depth = 0_usize;
    for (at, byte) in code.iter().enumerate().skip(open) {
        match byte {
            b'{' => depth += 1,
            b'}' => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return at + 1;
        }
    }
    code.len()
}

/// The functions with a body in `code` (which must be [`code_only`]).
pub(super) fn functions(code: &str) -> Vec<Function> {
    let mut functions = Vec::new();
    let mut all = words(code).peekable();
    while let Some((start, word)) = all.next() {
        let Some((at, name)) = all.peek().copied().filter(|_| word == "fn") else { continue };
        // In a type, `fn` is followed by a parenthesis, and the next word is an argument.
        if !code[start + 2..at].trim().is_empty() {
            continue;
        }
        if let Some(open) = body_start(code.as_bytes(), at) {
            let end = body_end(code.as_bytes(), open);
            functions.push(Function {
                name: name.to_owned(),
                line: line_of(code, start),
                lines: line_of(code, end) - line_of(code, start) + 1,
            });
        }
    }
    functions
}

/// The identifiers, keywords and numbers in `code`, with their offsets.
pub(super) fn words(code: &str) -> impl Iterator<Item = (usize, &str)> {
    let bytes = code.as_bytes();
    let mut at = 0;
    std::iter::from_fn(move || {
        let start = at + bytes[at..].iter().position(|byte| is_word(*byte))?;
        let length = bytes[start..].iter().position(|byte| !is_word(*byte)).unwrap_or(bytes.len() - start);
        at = start + length;
        Some((start, &code[start..at]))
    })
}

/// Line of an offset, counted from 1.
pub(super) fn line_of(text: &str, offset: usize) -> usize {
    1 + text.as_bytes()[..offset].iter().filter(|byte| **byte == b'\n').count()
}

fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_'
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_and_literals_are_blanked() {
        let check = |source: &str, expected: &str| {
            let found = code_only(source);
            assert_eq!(found.len(), source.len(), "{source}");
            let found: Vec<_> = found.split_whitespace().collect();
            assert_eq!(found.join(" "), expected, "{source}");
        };
        check("a // unsafe\nb", "a b");
        check("a /* x /* y */ z */ b", "a b");
        check(r#"a "x \" y" b"#, "a b");
        check("a r#\"x \" y\"# b", "a b");
        check("a br\"\\\" b", "a b b");
        check("var\"x\" b", "var b");
        check("a '{' b '\\'' c '\\u{7d}' d 'é' e", "a b c d e");
        check("fn f<'a>(x: &'a str) -> &'static str { x }", "fn f<'a>(x: &'a str) -> &'static str { x }");
        check("r#type b", "r#type b");
        check("\"unfinished", "");
    }

    #[test]
    fn tests_are_left_out() {
        let code = "fn a() {}\n#[cfg(test)]\nmod tests {\n fn b() { if x { } }\n}\n#[cfg(not(test))]\nfn c() {}\n#[cfg(test)]\nmod more;\nfn d() {}\n";
        let names: Vec<_> = functions(&without_tests(code)).into_iter().map(|function| function.name).collect();
        assert_eq!(names, ["a", "c", "d"]);
    }

    #[test]
    fn functions_are_measured() {
        let code = "trait T {\n fn declared(&self, x: [u8; 4]);\n}\nimpl T for X {\n fn short(&self) -> [u8; 4] { [0; 4] }\n\n fn long(\n  f: fn(u8) -> u8,\n ) where\n  X: Y,\n {\n  match x { _ => {} }\n }\n}\n";
        let expected = [("short", 5, 1), ("long", 7, 7)];
        let expected = expected.map(|(name, line, lines)| Function { name: name.to_owned(), line, lines });
        assert_eq!(functions(code), expected);
    }
}
