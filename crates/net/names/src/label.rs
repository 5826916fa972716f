//! Labels: what a node calls itself as part of a host name, and the names that an owner gives by hand.
//!
//! Only letters, digits and dashes (RFC 1035, section 2.3.1), in lower case, so that no two labels look the same and every program takes them. Labels with
//! dashes in the third and fourth place are reserved for encodings (RFC 5890, section 2.3.1) and never occur.

use std::fmt;
use std::str::FromStr;

use atoll_ids::{NodeId, OwnerId};

/// The longest label (RFC 1035, section 2.3.4).
const LABEL_BYTES_MAX: usize = 63;

/// Labels directly below `atoll` that mean something of their own.
const RESERVED: [&str; 3] = ["mine", "node", "ns"];

/// The top of all names.
pub(crate) const TOP: &str = "atoll";

/// What stands for this node's owner.
pub(crate) const MINE: &str = "mine";

/// One part of a name between dots.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Label(String);

/// Why a text cannot be a name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LabelError {
    /// Empty, or longer than a label may be.
    #[error("each part of a name has 1 to 63 characters, {text:?} has {found}")]
    Length {
        /// The part, cut to a readable length.
        text: String,
        /// Characters it has.
        found: usize,
    },
    /// A character that no host name has.
    #[error("a name has only letters, digits and dashes, not {found:?}")]
    Character {
        /// The first such character.
        found: char,
    },
    /// A dash where none may be.
    #[error("a part of a name neither starts nor ends with a dash, nor has dashes in its third and fourth place")]
    Dash,
    /// A label that means something already.
    #[error("{text:?} cannot be given: it means something of its own")]
    Reserved {
        /// The label.
        text: String,
    },
    /// Neither one label nor one below `mine`.
    #[error("{text:?} cannot be given: an owner's name has one part (`anna`), an alias ends in .mine (`wiki.mine`)")]
    Shape {
        /// The text, cut to a readable length.
        text: String,
    },
}

/// 80 characters: enough to recognise what was typed.
fn shown(text: &str) -> String {
    text.chars().take(80).collect()
}

impl Label {
    /// The host name that a node's own name comes to: in lower case, every run of other characters than letters and digits one dash, none at either end,
    /// cut to 63 characters. `None` if nothing is left.
    pub fn of(name: &str) -> Option<Self> {
        let mut label = String::new();
        for character in name.chars() {
            match character.to_ascii_lowercase() {
                plain if plain.is_ascii_alphanumeric() => label.push(plain),
                _ if label.is_empty() || label.ends_with('-') => {}
                _ => label.push('-'),
            }
        }
        Self::cut(&label, LABEL_BYTES_MAX)
    }

    /// At most this many bytes of a text that is otherwise a label.
    fn cut(text: &str, bytes_max: usize) -> Option<Self> {
        let cut = text.get(..bytes_max.min(text.len()))?.trim_end_matches('-');
        (!cut.is_empty()).then(|| Self(cut.to_owned()))
    }

    /// The same with the first characters of an id behind it: for nodes of one owner that have the same name.
    #[must_use]
    pub(crate) fn told_apart(&self, node: NodeId) -> Self {
        let ending = format!("-{}", node.short());
        let front = self.0.get(..(LABEL_BYTES_MAX - ending.len()).min(self.0.len())).unwrap_or_default();
        Self(format!("{}{ending}", front.trim_end_matches('-')))
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Label {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl FromStr for Label {
    type Err = LabelError;

    fn from_str(text: &str) -> Result<Self, LabelError> {
        let found = text.chars().count();
        if !(1..=LABEL_BYTES_MAX).contains(&found) {
            return Err(LabelError::Length { text: shown(text), found });
        }
        if let Some(found) = text.chars().find(|c| !c.is_ascii_alphanumeric() && *c != '-') {
            return Err(LabelError::Character { found });
        }
        if text.starts_with('-') || text.ends_with('-') || text.get(2..4) == Some("--") {
            return Err(LabelError::Dash);
        }
        Ok(Self(text.to_ascii_lowercase()))
    }
}

/// A name that this node's owner gave.
///
/// Text: `anna` for an owner, whose nodes are then `….anna.atoll`; `wiki.mine` for a node, which is then `wiki.mine.atoll`. Read with or without `.atoll`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum GivenName {
    /// An owner's.
    Owner(Label),
    /// A node's.
    Alias(Label),
}

impl fmt::Display for GivenName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Owner(label) => write!(f, "{label}"),
            Self::Alias(label) => write!(f, "{label}.{MINE}"),
        }
    }
}

impl FromStr for GivenName {
    type Err = LabelError;

    fn from_str(text: &str) -> Result<Self, LabelError> {
        let lower = text.trim_end_matches('.').to_ascii_lowercase();
        let below = lower.strip_suffix(TOP).and_then(|rest| rest.strip_suffix('.')).unwrap_or(&lower);
        match below.split('.').collect::<Vec<_>>().as_slice() {
            [owner] => {
                let label: Label = owner.parse()?;
                // An id as a name would pass for the owner with that id.
                if RESERVED.contains(owner) || *owner == TOP || owner.parse::<OwnerId>().is_ok() {
                    return Err(LabelError::Reserved { text: shown(owner) });
                }
                Ok(Self::Owner(label))
            }
            [alias, MINE] => alias.parse().map(Self::Alias),
            _ => Err(LabelError::Shape { text: shown(text) }),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use proptest::prelude::{any, proptest};
    use proptest::{prop_assert, prop_assert_eq};

    use super::*;

    #[test]
    fn names_of_nodes_become_host_names() {
        #[track_caller]
        fn check(name: &str, expect: Option<&str>) {
            assert_eq!(Label::of(name).as_ref().map(Label::as_str), expect, "{name:?}");
        }
        check("attic", Some("attic"));
        check("Web1", Some("web1"));
        check("Anna's old laptop", Some("anna-s-old-laptop"));
        check("  -- rack 7 / left --  ", Some("rack-7-left"));
        check("xn--bcher-kva", Some("xn-bcher-kva"));
        check("a--b", Some("a-b"));
        check("Küche", Some("k-che"));
        check("web1.anna.atoll", Some("web1-anna-atoll"));
        check("7", Some("7"));
        check("", None);
        check("---", None);
        check("厨房", None);
        check(&"a".repeat(100), Some(&"a".repeat(63)));
        check(&format!("{}- b", "a".repeat(62)), Some(&"a".repeat(62)));
    }

    #[test]
    fn names_that_can_be_given() {
        #[track_caller]
        fn check(text: &str, expect: &str) {
            let said = match text.parse::<GivenName>() {
                Ok(name) => name.to_string(),
                Err(error) => error.to_string(),
            };
            assert!(said.contains(expect), "{text:?}: {said}");
        }
        check("anna", "anna");
        check("Anna.atoll.", "anna");
        check("wiki.mine", "wiki.mine");
        check("WIKI.mine.atoll", "wiki.mine");
        check("node.mine", "node.mine");
        for reserved in ["mine", "node", "ns", "atoll", &"a".repeat(52)] {
            check(reserved, "of its own");
        }
        check("wiki.anna", "ends in .mine");
        check("a.wiki.mine", "ends in .mine");
        check("", "has 0");
        check(".mine", "has 0");
        check(&"b".repeat(64), "has 64");
        check("an_na", "'_'");
        check("-anna", "dash");
        check("xn--anna", "dash");
        check("änna", "'ä'");
    }

    proptest! {
        #[test]
        fn any_name_on_a_card_comes_to_a_label_or_none(name in any::<String>(), near in "[-a-zA-Z0-9 ._é]{0,80}", id in any::<[u8; 32]>()) {
            for name in [name, near] {
                let Some(label) = Label::of(&name) else {
                    prop_assert!(!name.chars().any(|c| c.is_ascii_alphanumeric()));
                    continue;
                };
                prop_assert_eq!(label.as_str().parse::<Label>().unwrap(), label.clone());
                prop_assert_eq!(Label::of(label.as_str()), Some(label.clone()), "it is what it comes to");
                let apart = label.told_apart(NodeId::from_bytes(id));
                prop_assert_eq!(apart.as_str().parse::<Label>().unwrap(), apart);
            }
        }
    }
}
