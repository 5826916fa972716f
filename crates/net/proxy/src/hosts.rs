//! What may be a host's name.

/// The longest name (RFC 1035, section 2.3.4), without a dot at its end.
const NAME_BYTES_MAX: usize = 253;

/// The longest part of one.
const LABEL_BYTES_MAX: usize = 63;

/// Letters, digits, dashes and underscores in parts of 1 to 63 bytes that neither begin nor end with a dash (RFC 1123, section 2.1; underscores are no hosts' but in
/// use). Nothing that could disturb a log, a terminal or a resolver.
pub fn is_host_name(text: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
    let label = |label: &str| {
        (1..=LABEL_BYTES_MAX).contains(&label.len())
            && label.bytes().all(plain)
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    text.len() <= NAME_BYTES_MAX && text.split('.').all(label)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_hosts() {
        let check = |text: &str, expect: bool| assert_eq!(is_host_name(text), expect, "{text:?}");
        check("localhost", true);
        check("a-b.example", true);
        check("_dmarc.example", true);
        check("127.1", true);
        check("", false);
        check(".", false);
        check("a..b", false);
        check("example.", false);
        check("-a.example", false);
        check("a-.example", false);
        check("a b", false);
        check("a:1", false);
        check("ä.example", false);
        check(&"a".repeat(64), false);
        check(&["a"; 127].join("."), true);
        check(&["a"; 128].join("."), false);
    }
}
