//! Rules: which nodes may send here, and on which topics.
//!
//! As text, a rule is *who* and a pattern of topics: `own`, `peers status.*`, `owner:ID backup.**`, `node:ID`. Without a pattern it is every topic. There
//! are only rules that allow: what none of them names is refused. Whether an answer to a message of one's own is let in is not a matter of
//! rules: who asks wants to hear.

use std::fmt;
use std::str::FromStr;

use atoll_ids::{NodeId, OwnerId};

use crate::topic::{Pattern, Topic};

/// Whom a rule, or a consumer, means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Who {
    /// The nodes of this node's own owner.
    Own,
    /// Every node that this one knows.
    Peers,
    /// The known nodes of one owner.
    Owner(OwnerId),
    /// One node.
    Node(NodeId),
}

/// One rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// Whom it is about.
    pub from: Who,
    /// On which topics they may send.
    pub topics: Pattern,
}

/// Why a text is not a rule.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not a rule: {reason} (a rule is like `own`, `peers status.*` or `owner:ID backup.**`)")]
pub struct RuleError {
    text: String,
    reason: String,
}

/// What the rules say about a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It may come in.
    Yes,
    /// It may not.
    No,
    /// That depends on whose node it is, which is not known yet.
    Unknown,
}

/// The rules of a node.
#[derive(Debug, Clone)]
pub struct Rules {
    own: OwnerId,
    rules: Vec<Rule>,
}

impl Rules {
    /// The rules of a node that belongs to `own`.
    #[must_use]
    pub fn new(own: OwnerId, rules: Vec<Rule>) -> Self {
        Self { own, rules }
    }

    /// Whether `from`, a known node which belongs to `owner` if that is known, may send on a topic.
    #[must_use]
    pub fn judge(&self, from: &NodeId, owner: Option<&OwnerId>, topic: &Topic) -> Verdict {
        let mut verdict = Verdict::No;
        for rule in self.rules.iter().filter(|rule| rule.topics.matches(topic)) {
            match self.is(&rule.from, from, owner) {
                Some(true) => return Verdict::Yes,
                Some(false) => {}
                None => verdict = Verdict::Unknown,
            }
        }
        verdict
    }

    fn is(&self, who: &Who, node: &NodeId, owner: Option<&OwnerId>) -> Option<bool> {
        match who {
            Who::Peers => Some(true),
            Who::Node(it) => Some(it == node),
            Who::Owner(it) => owner.map(|owner| owner == it),
            Who::Own => owner.map(|owner| *owner == self.own),
        }
    }

    /// Whether a node of this owner is meant; of an unknown owner it is not.
    pub(crate) fn means(&self, who: &Who, node: &NodeId, owner: Option<&OwnerId>) -> bool {
        self.is(who, node, owner).unwrap_or(false)
    }
}

impl FromStr for Who {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "own" => return Ok(Self::Own),
            "peers" => return Ok(Self::Peers),
            _ => {}
        }
        if let Some(id) = text.strip_prefix("owner:") {
            return id.parse().map(Self::Owner).map_err(|error| format!("{error}"));
        }
        if let Some(id) = text.strip_prefix("node:") {
            return id.parse().map(Self::Node).map_err(|error| format!("{error}"));
        }
        Err(format!("{text:?} is nobody; it is `own`, `peers`, `owner:ID` or `node:ID`"))
    }
}

impl fmt::Display for Who {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Own => f.write_str("own"),
            Self::Peers => f.write_str("peers"),
            Self::Owner(owner) => write!(f, "owner:{owner}"),
            Self::Node(node) => write!(f, "node:{node}"),
        }
    }
}

impl FromStr for Rule {
    type Err = RuleError;

    fn from_str(text: &str) -> Result<Self, RuleError> {
        // More characters than a rule takes would drown the message.
        let refuse = |reason| RuleError { text: text.chars().take(250).collect(), reason };
        let mut words = text.split_whitespace();
        let who = words.next().ok_or_else(|| refuse("it is empty".to_owned()))?;
        let from = who.parse().map_err(refuse)?;
        let topics = words.next().map_or(Ok(Pattern::everything()), str::parse);
        let topics = topics.map_err(|error| refuse(error.to_string()))?;
        match words.next() {
            Some(word) => Err(refuse(format!("{word:?} is one word too many"))),
            None => Ok(Self { from, topics }),
        }
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.from)?;
        if self.topics == Pattern::everything() { Ok(()) } else { write!(f, " {}", self.topics) }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;

    const NODE: NodeId = NodeId::from_bytes([7; 32]);
    const OWNER: OwnerId = OwnerId::from_bytes([8; 32]);

    #[test]
    fn rules_are_written_as_they_are_read() {
        let texts =
            ["own".to_owned(), "peers status.*".to_owned(), format!("owner:{OWNER} a.**"), format!("node:{NODE}")];
        for text in texts {
            assert_eq!(text.parse::<Rule>().unwrap().to_string(), text);
        }
        assert_eq!("own **".parse::<Rule>().unwrap().to_string(), "own");
    }

    #[test]
    fn what_is_wrong_is_told() {
        #[track_caller]
        fn check(text: &str, expect: &str) {
            let error = text.parse::<Rule>().unwrap_err().to_string();
            assert!(error.contains(expect), "{expect:?} is not in {error:?}");
        }
        check("", "it is empty");
        check("everybody a", "\"everybody\" is nobody");
        check("peers a..b", "a word between its dots is empty");
        check("peers a b", "\"b\" is one word too many");
        check("node:xyz", "not a rule");
    }

    #[test]
    fn what_no_rule_names_stays_out() {
        #[track_caller]
        fn check(rules: &[&str], owner: Option<OwnerId>, topic: &str, expected: Verdict) {
            let rules = Rules::new(OWNER, rules.iter().map(|rule| rule.parse().unwrap()).collect());
            assert_eq!(rules.judge(&NODE, owner.as_ref(), &topic.parse().unwrap()), expected, "{topic} from {owner:?}");
        }
        let other = OwnerId::from_bytes([9; 32]);
        check(&[], Some(OWNER), "a", Verdict::No);
        check(&["own"], Some(OWNER), "a", Verdict::Yes);
        check(&["own"], Some(other), "a", Verdict::No);
        check(&["own"], None, "a", Verdict::Unknown);
        check(&["own b"], None, "a", Verdict::No);
        check(&["own", "peers a"], None, "a", Verdict::Yes);
        check(&["peers a.*"], Some(other), "b.c", Verdict::No);
        check(&[&format!("owner:{other} x")], Some(other), "x", Verdict::Yes);
        check(&[&format!("node:{NODE} x")], None, "x", Verdict::Yes);
        check(&[&format!("node:{} x", NodeId::from_bytes([1; 32]))], None, "x", Verdict::No);
    }
}
