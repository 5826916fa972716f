//! The shapes of names. Each check answers with what the shape is when a name does not have it.

use crate::kinds::Resource;

const SUBDOMAIN: &str = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')";
const LABEL: &str = "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')";
const LABEL_1035: &str = "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an alphabetic character, and end with an alphanumeric character (e.g. 'my-name',  or 'abc-123', regex used for validation is '[a-z]([-a-z0-9]*[a-z0-9])?')";
const QUALIFIED: &str = "name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')";
const LABEL_VALUE: &str = "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used for validation is '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')";
const DATA_KEY: &str = "a valid config key must consist of alphanumeric characters, '-', '_' or '.' (e.g. 'key.name',  or 'KEY_NAME',  or 'key-name', regex used for validation is '[-._a-zA-Z0-9]+')";
const PORT_CHARS: &str = "must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-), none at the beginning, at the end or beside another, and at least one letter";
const PORT_LENGTH: &str = "must be no more than 15 characters";
const PATH_SEGMENT: &str = "may not be '.' or '..', or contain '/' or '%'";

/// The name of an object of this resource.
pub(super) fn object_name(resource: &Resource, name: &str) -> Option<&'static str> {
    match (resource.group.as_str(), resource.kind.as_str()) {
        ("rbac.authorization.k8s.io", _) => {
            let fits = name != "." && name != ".." && !name.contains(['/', '%']) && name.len() <= 253;
            (!fits).then_some(PATH_SEGMENT)
        }
        ("", "Namespace") => label(name),
        ("", "Service") => {
            (label(name).is_some() || name.starts_with(|c: char| c.is_ascii_digit())).then_some(LABEL_1035)
        }
        _ => subdomain(name),
    }
}

pub(super) fn label(name: &str) -> Option<&'static str> {
    (!is_label(name)).then_some(LABEL)
}

fn is_label(name: &str) -> bool {
    let inner = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    (1..=63).contains(&name.len()) && name.chars().all(inner) && !name.starts_with('-') && !name.ends_with('-')
}

pub(super) fn subdomain(name: &str) -> Option<&'static str> {
    let part = |part: &str| {
        let inner = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        !part.is_empty() && part.chars().all(inner) && !part.starts_with('-') && !part.ends_with('-')
    };
    (name.len() > 253 || !name.split('.').all(part)).then_some(SUBDOMAIN)
}

fn is_name_part(name: &str) -> bool {
    let ends = |c: Option<char>| c.is_some_and(|c| c.is_ascii_alphanumeric());
    let inner = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    name.len() <= 63 && name.chars().all(inner) && ends(name.chars().next()) && ends(name.chars().next_back())
}

/// The key of a label or an annotation: a name, with a domain before it or not.
pub(super) fn qualified(key: &str) -> Option<&'static str> {
    let (prefix, name) = key.split_once('/').map_or((None, key), |(prefix, name)| (Some(prefix), name));
    if prefix.is_some_and(|prefix| subdomain(&prefix.to_lowercase()).is_some()) {
        return Some(SUBDOMAIN);
    }
    (!is_name_part(name)).then_some(QUALIFIED)
}

pub(super) fn label_value(value: &str) -> Option<&'static str> {
    (!value.is_empty() && !is_name_part(value)).then_some(LABEL_VALUE)
}

/// The name of a port: RFC 6335, in lower case.
pub(super) fn port(name: &str) -> Option<&'static str> {
    let inner = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    let hyphens = name.starts_with('-') || name.ends_with('-') || name.contains("--");
    let fits = name.chars().all(inner) && !hyphens && name.contains(|c: char| c.is_ascii_lowercase());
    if name.len() > 15 { Some(PORT_LENGTH) } else { (!fits).then_some(PORT_CHARS) }
}

pub(super) fn data_key(key: &str) -> Option<&'static str> {
    let inner = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    let fits = (1..=253).contains(&key.len()) && key.chars().all(inner) && key != "." && key != "..";
    (!fits).then_some(DATA_KEY)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_have_their_shapes() {
        let check = |found: Option<&str>, fits: bool, name: &str| assert_eq!(found.is_none(), fits, "{name}");
        for (name, fits) in [("a", true), ("a.b-c", true), ("", false), ("A", false), ("a..b", false), ("-a", false)] {
            check(subdomain(name), fits, name);
        }
        for (name, fits) in [("a-1", true), ("a.b", false), ("a-", false)] {
            check(label(name), fits, name);
        }
        for (name, fits) in
            [("app", true), ("app.kubernetes.io/name", true), ("a b", false), ("/x", false), ("x/", false)]
        {
            check(qualified(name), fits, name);
        }
        for (name, fits) in [("", true), ("v1.2_x", true), ("-x", false), ("a/b", false)] {
            check(label_value(name), fits, name);
        }
    }
}
