//! Topics, like `backup.done`, and the patterns that choose among them.
//!
//! A topic is one or more words joined by dots. A pattern is the same with `*` for any one word and, as its last word, `**` for any number of words,
//! none included: `backup.*` is `backup.done` but not `backup.done.twice`, `backup.**` is both and `backup`, and `**` is everything.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Most bytes of a topic or a pattern: names that people give. It is kept in memory for every message.
pub const TOPIC_BYTES_MAX: usize = 128;

/// What a message is about.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Topic(Box<str>);

/// Which topics are meant.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Pattern(Box<str>);

/// Why a text is no topic or no pattern.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is no {what}: {reason} ({what}s are like {example})")]
pub struct TopicError {
    text: String,
    what: &'static str,
    reason: &'static str,
    example: &'static str,
}

impl TopicError {
    fn new(text: &str, pattern: bool, reason: &'static str) -> Self {
        let (what, example) = if pattern { ("pattern", "`backup.*` or `**`") } else { ("topic", "`backup.done`") };
        // More characters than a topic takes would drown the message.
        Self { text: text.chars().take(TOPIC_BYTES_MAX + 1).collect(), what, reason, example }
    }
}

impl Topic {
    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    fn words(&self) -> impl Iterator<Item = &str> {
        self.0.split('.')
    }
}

impl Pattern {
    /// The pattern that every topic matches.
    #[must_use]
    pub fn everything() -> Self {
        Self("**".into())
    }

    /// The pattern that matches this topic alone.
    #[must_use]
    pub fn exactly(topic: &Topic) -> Self {
        Self(topic.0.clone())
    }

    /// Whether a topic is meant.
    #[must_use]
    pub fn matches(&self, topic: &Topic) -> bool {
        let mut words = topic.words();
        for wanted in self.0.split('.') {
            if wanted == "**" {
                return true;
            }
            match words.next() {
                Some(word) if wanted == "*" || wanted == word => {}
                _ => return false,
            }
        }
        words.next().is_none()
    }
}

/// Checks what topics and patterns have in common. `wild` is whether a word that is not a plain one is welcome.
fn check(text: &str, pattern: bool, wild: impl Fn(&str, bool) -> bool) -> Result<(), TopicError> {
    let refuse = |reason| Err(TopicError::new(text, pattern, reason));
    if text.len() > TOPIC_BYTES_MAX {
        return refuse("it has more than 128 bytes");
    }
    let mut words = text.split('.').peekable();
    while let Some(word) = words.next() {
        let plain = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
        if word.is_empty() {
            return refuse("a word between its dots is empty");
        }
        if !word.chars().all(plain) && !wild(word, words.peek().is_none()) {
            return refuse("its words are of a-z A-Z 0-9 - _");
        }
    }
    Ok(())
}

impl FromStr for Topic {
    type Err = TopicError;

    fn from_str(text: &str) -> Result<Self, TopicError> {
        check(text, false, |_, _| false)?;
        Ok(Self(text.into()))
    }
}

impl FromStr for Pattern {
    type Err = TopicError;

    fn from_str(text: &str) -> Result<Self, TopicError> {
        check(text, true, |word, last| word == "*" || word == "**" && last)?;
        Ok(Self(text.into()))
    }
}

macro_rules! text_form {
    ($name:ident) => {
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }

        impl TryFrom<String> for $name {
            type Error = TopicError;

            fn try_from(text: String) -> Result<Self, TopicError> {
                text.parse()
            }
        }

        impl From<$name> for String {
            fn from(it: $name) -> Self {
                it.0.into()
            }
        }
    };
}

text_form!(Topic);
text_form!(Pattern);

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn patterns_choose() {
        #[track_caller]
        fn check(pattern: &str, topic: &str, expected: bool) {
            let (pattern, topic): (Pattern, Topic) = (pattern.parse().unwrap(), topic.parse().unwrap());
            assert_eq!(pattern.matches(&topic), expected, "{pattern} and {topic}");
        }
        check("backup.done", "backup.done", true);
        check("backup.done", "backup", false);
        check("backup", "backup.done", false);
        check("backup.*", "backup.done", true);
        check("backup.*", "backup", false);
        check("backup.*", "backup.done.twice", false);
        check("*.done", "backup.done", true);
        check("*.done", "done", false);
        check("backup.**", "backup", true);
        check("backup.**", "backup.done.twice", true);
        check("backup.**", "backups", false);
        check("**", "a", true);
        check("*", "a.b", false);
        check("Backup", "backup", false);
    }

    #[test]
    fn what_is_wrong_is_told() {
        #[track_caller]
        fn check<T: FromStr<Err = TopicError> + fmt::Debug>(text: &str, expected: &str) {
            let error = text.parse::<T>().unwrap_err().to_string();
            assert!(error.contains(expected), "{expected:?} is not in {error:?}");
        }
        check::<Topic>("", "is empty");
        check::<Topic>("a..b", "is empty");
        check::<Topic>("a.", "is empty");
        check::<Topic>("a b", "is no topic: its words are of");
        check::<Topic>("a.*", "its words are of");
        check::<Topic>(&"x".repeat(129), "more than 128 bytes");
        check::<Pattern>("**.a", "is no pattern");
        check::<Pattern>("a*", "its words are of");
    }

    proptest! {
        #[test]
        fn a_topic_is_chosen_by_itself_and_by_every_generalisation(words in prop::collection::vec("[a-z0-9_-]{1,8}", 1..6), at in 0_usize..6) {
            let topic: Topic = words.join(".").parse().unwrap();
            prop_assert!(Pattern::exactly(&topic).matches(&topic));
            prop_assert!(Pattern::everything().matches(&topic));
            let at = at % words.len();
            let mut one = words.clone();
            one[at] = "*".to_owned();
            prop_assert!(one.join(".").parse::<Pattern>().unwrap().matches(&topic));
            let mut rest = words[..at].to_vec();
            rest.push("**".to_owned());
            prop_assert!(rest.join(".").parse::<Pattern>().unwrap().matches(&topic));
            prop_assert_eq!(topic.to_string().parse::<Topic>().unwrap(), topic);
        }
    }
}
