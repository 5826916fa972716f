//! Rules: who may begin a conversation with this node, or be begun one with, and about what.
//!
//! As text, a rule is *who* and *what*, and may have an end and a note:
//!
//! ```text
//! peers icmp
//! anyone tcp/443
//! owner:o… tcp/443
//! node:n… udp/5000-6000 until 2026-12-31T00:00:00Z # the backup of the attic
//! group:admins
//! to peers tcp/443
//! ```
//!
//! Without *what* (or with `all`) it is everything. There are only rules that allow: what none of them names stays out, so their order does not matter and none
//! can undo another. A rule that begins with `to` is about what goes out, and counts where a [`Policy`] says that only what is listed does.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

use atoll_ids::{NodeId, OwnerId};
use jiff::Timestamp;

/// Rules at once: each is looked at for every peer when they change.
pub const RULES_MAX: usize = 4096;

/// Groups at once.
pub const GROUPS_MAX: usize = 256;

/// Members of a group.
pub const MEMBERS_MAX: usize = 4096;

/// The longest note, in characters: a line.
pub const NOTE_CHARS_MAX: usize = 120;

/// The longest name of a group, as that of a DNS label.
const NAME_CHARS_MAX: usize = 63;

/// Whom a rule is about. Packets of nodes that the filter was not told of get nowhere, whatever rules say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Who {
    /// Every peer of this node.
    Peers,
    /// Every node, acquaintances included.
    Anyone,
    /// The nodes of one owner, as far as they have proven it.
    Owner(OwnerId),
    /// One node.
    Node(NodeId),
    /// The members of a [`Group`].
    Group(String),
}

/// What a rule allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum What {
    /// Everything.
    Everything,
    /// Echo requests.
    Icmp,
    /// TCP to these ports.
    Tcp(Ports),
    /// UDP to these ports.
    Udp(Ports),
}

/// A range of ports, both ends included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ports {
    /// The lowest.
    pub first: u16,
    /// The highest.
    pub last: u16,
}

impl Ports {
    /// All of them.
    pub const ALL: Self = Self { first: 0, last: u16::MAX };

    /// Whether a port is among them.
    #[must_use]
    pub fn contains(self, port: u16) -> bool {
        (self.first..=self.last).contains(&port)
    }
}

/// Which way a conversation is begun.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// By a peer, with this node.
    In,
    /// By this node, with a peer.
    Out,
}

/// One rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// Which way.
    pub direction: Direction,
    /// Whom it is about.
    pub who: Who,
    /// What it allows.
    pub what: What,
    /// When it ends to hold, in whole seconds.
    pub until: Option<Timestamp>,
    /// What it is for, to people.
    pub note: Option<String>,
}

/// Nodes and owners under one name.
///
/// As text: `admins owner:o… node:n…`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Group {
    /// Its name: letters, digits, `-` and `_`.
    pub name: String,
    /// The owners whose nodes are in it.
    pub owners: BTreeSet<OwnerId>,
    /// The nodes in it.
    pub nodes: BTreeSet<NodeId>,
}

/// What a node may begin with others.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Out {
    /// Everything.
    #[default]
    All,
    /// What a rule with `to` names. Answers go out all the same.
    Listed,
}

/// Everything that the filter goes by.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Policy {
    /// The rules; those beyond [`RULES_MAX`] do not count.
    pub rules: Vec<Rule>,
    /// The groups that they name. One that is not here has no members.
    pub groups: Vec<Group>,
    /// What may go out.
    pub out: Out,
}

impl From<Vec<Rule>> for Policy {
    fn from(rules: Vec<Rule>) -> Self {
        Self { rules, ..Self::default() }
    }
}

impl Policy {
    /// Whether a rule is about this node, whose owner is known to be this one, and which may be a mere acquaintance.
    pub(crate) fn concerns(&self, who: &Who, node: NodeId, owner: Option<OwnerId>, is_peer: bool) -> bool {
        match who {
            Who::Peers => is_peer,
            Who::Anyone => true,
            Who::Owner(named) => owner == Some(*named),
            Who::Node(named) => node == *named,
            Who::Group(name) => {
                let group = self.groups.iter().find(|group| group.name == *name);
                group.is_some_and(|group| {
                    group.nodes.contains(&node) || owner.is_some_and(|owner| group.owners.contains(&owner))
                })
            }
        }
    }
}

/// Why a text is not a rule.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{text:?} is not a rule: {reason} (a rule is like `peers icmp`, `node:ID tcp/22` or `owner:ID udp/5000-6000 until 2026-12-31T00:00Z # what for`)"
)]
pub struct RuleError {
    text: String,
    reason: String,
}

/// Why a text is not a group.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not a group: {reason} (a group is like `admins owner:ID node:ID`)")]
pub struct GroupError {
    text: String,
    reason: String,
}

/// Why a word is not part of a rule.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct WordError(String);

impl WordError {
    pub(crate) fn new(reason: String) -> Self {
        Self(reason)
    }
}

impl From<WordError> for String {
    fn from(error: WordError) -> Self {
        error.0
    }
}

/// More characters than a rule takes would drown the message.
fn cut(text: &str) -> String {
    text.chars().take(160).collect()
}

impl FromStr for Rule {
    type Err = RuleError;

    fn from_str(text: &str) -> Result<Self, RuleError> {
        parse_rule(text).map_err(|reason| RuleError { text: cut(text), reason })
    }
}

fn parse_rule(text: &str) -> Result<Rule, String> {
    let (rule, note) = match text.split_once('#') {
        Some((rule, note)) => (rule, Some(check_note(note.trim())?)),
        None => (text, None),
    };
    let mut words = rule.split_whitespace().peekable();
    let direction = if words.next_if_eq(&"to").is_some() { Direction::Out } else { Direction::In };
    let who = parse_who(words.next().ok_or("it is empty")?)?;
    let what = match words.next_if(|word| *word != "until") {
        Some(what) => parse_what(what)?,
        None => What::Everything,
    };
    let until = match words.next_if_eq(&"until") {
        Some(_) => Some(parse_time(words.next().ok_or("it says `until` and not when")?)?),
        None => None,
    };
    match words.next() {
        Some(word) => Err(format!("{word:?} is one word too many")),
        None => Ok(Rule { direction, who, what, until, note: note.filter(|note| !note.is_empty()) }),
    }
}

/// Checks that a text can be a rule's note.
///
/// # Errors
///
/// What is wrong with it.
fn check_note(note: &str) -> Result<String, String> {
    if note.chars().any(char::is_control) {
        return Err("its note has control characters".to_owned());
    }
    if note.chars().count() > NOTE_CHARS_MAX {
        return Err(format!("its note is longer than {NOTE_CHARS_MAX} characters"));
    }
    Ok(note.to_owned())
}

fn parse_time(text: &str) -> Result<Timestamp, String> {
    let time: Timestamp = text.parse().map_err(|_| format!("{text:?} is not a time like 2026-12-31T00:00Z"))?;
    Timestamp::from_second(time.as_second()).map_err(|error| error.to_string())
}

impl FromStr for Who {
    type Err = WordError;

    fn from_str(text: &str) -> Result<Self, WordError> {
        parse_who(text).map_err(WordError)
    }
}

fn parse_who(text: &str) -> Result<Who, String> {
    if let Some(name) = text.strip_prefix("group:") {
        return group_name(name).map(Who::Group);
    }
    match member(text)? {
        Some(Member::Owner(owner)) => Ok(Who::Owner(owner)),
        Some(Member::Node(node)) => Ok(Who::Node(node)),
        None if text == "peers" => Ok(Who::Peers),
        None if text == "anyone" => Ok(Who::Anyone),
        None => Err(format!("{text:?} is nobody; there are `peers`, `anyone`, `owner:ID`, `node:ID` and `group:NAME`")),
    }
}

enum Member {
    Owner(OwnerId),
    Node(NodeId),
}

fn member(text: &str) -> Result<Option<Member>, String> {
    if let Some(id) = text.strip_prefix("owner:") {
        return id.parse().map(|owner| Some(Member::Owner(owner))).map_err(|error| format!("{error}"));
    }
    if let Some(id) = text.strip_prefix("node:") {
        return id.parse().map(|node| Some(Member::Node(node))).map_err(|error| format!("{error}"));
    }
    Ok(None)
}

fn group_name(name: &str) -> Result<String, String> {
    let is_fine = |character: char| character.is_ascii_alphanumeric() || "-_".contains(character);
    if !(1..=NAME_CHARS_MAX).contains(&name.len()) || !name.chars().all(is_fine) {
        return Err(format!("{name:?} cannot name a group: 1 to {NAME_CHARS_MAX} letters, digits, - and _"));
    }
    Ok(name.to_owned())
}

impl FromStr for Group {
    type Err = GroupError;

    fn from_str(text: &str) -> Result<Self, GroupError> {
        parse_group(text).map_err(|reason| GroupError { text: cut(text), reason })
    }
}

fn parse_group(text: &str) -> Result<Group, String> {
    let mut words = text.split_whitespace();
    let name = group_name(words.next().ok_or("it is empty")?)?;
    let mut group = Group { name, owners: BTreeSet::new(), nodes: BTreeSet::new() };
    for word in words {
        match member(word)? {
            Some(Member::Owner(owner)) => group.owners.insert(owner),
            Some(Member::Node(node)) => group.nodes.insert(node),
            None => return Err(format!("{word:?} is no member; members are `owner:ID` and `node:ID`")),
        };
        if group.owners.len() + group.nodes.len() > MEMBERS_MAX {
            return Err(format!("it has more than {MEMBERS_MAX} members"));
        }
    }
    Ok(group)
}

impl FromStr for What {
    type Err = WordError;

    fn from_str(text: &str) -> Result<Self, WordError> {
        parse_what(text).map_err(WordError)
    }
}

fn parse_what(text: &str) -> Result<What, String> {
    let (protocol, ports) = match text.split_once('/') {
        Some((protocol, ports)) => (protocol, Some(ports)),
        None => (text, None),
    };
    let ports = ports.map(parse_ports).transpose()?;
    match (protocol, ports) {
        ("tcp", ports) => Ok(What::Tcp(ports.unwrap_or(Ports::ALL))),
        ("udp", ports) => Ok(What::Udp(ports.unwrap_or(Ports::ALL))),
        ("icmp", None) => Ok(What::Icmp),
        ("all", None) => Ok(What::Everything),
        ("icmp" | "all", Some(_)) => Err(format!("{protocol} has no ports")),
        _ => Err(format!("{protocol:?} is not a protocol; there are tcp, udp, icmp and all")),
    }
}

fn parse_ports(text: &str) -> Result<Ports, String> {
    let port = |text: &str| text.parse::<u16>().map_err(|_| format!("{text:?} is not a port from 0 to 65535"));
    let (first, last) = match text.split_once('-') {
        Some((first, last)) => (port(first)?, port(last)?),
        None => (port(text)?, port(text)?),
    };
    if first > last {
        return Err(format!("{text} is no range: the first port is above the last"));
    }
    Ok(Ports { first, last })
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.direction == Direction::Out {
            f.write_str("to ")?;
        }
        write!(f, "{}", self.who)?;
        if self.what != What::Everything {
            write!(f, " {}", self.what)?;
        }
        if let Some(until) = self.until {
            write!(f, " until {until}")?;
        }
        self.note.as_ref().map_or(Ok(()), |note| write!(f, " # {note}"))
    }
}

impl fmt::Display for Who {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Peers => f.write_str("peers"),
            Self::Anyone => f.write_str("anyone"),
            Self::Owner(owner) => write!(f, "owner:{owner}"),
            Self::Node(node) => write!(f, "node:{node}"),
            Self::Group(name) => write!(f, "group:{name}"),
        }
    }
}

impl fmt::Display for What {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Everything => f.write_str("all"),
            Self::Icmp => f.write_str("icmp"),
            Self::Tcp(ports) => write!(f, "tcp{ports}"),
            Self::Udp(ports) => write!(f, "udp{ports}"),
        }
    }
}

impl fmt::Display for Ports {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.first, self.last) {
            (0, u16::MAX) => Ok(()),
            (first, last) if first == last => write!(f, "/{first}"),
            (first, last) => write!(f, "/{first}-{last}"),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use proptest::prelude::{any, prop_assert_eq, proptest};

    use super::*;

    #[test]
    fn rules_are_written_as_they_are_read() {
        let (node, owner) = (NodeId::from_bytes([7; 32]), OwnerId::from_bytes([8; 32]));
        let texts = [
            "peers icmp".to_owned(),
            "anyone tcp/443".to_owned(),
            "peers".to_owned(),
            format!("owner:{owner} tcp/443"),
            format!("node:{node} udp/5000-6000"),
            format!("node:{node} tcp"),
            "group:admins tcp/22".to_owned(),
            "to peers udp/53".to_owned(),
            "to group:mail-out_1".to_owned(),
            "peers until 2026-12-31T00:00:00Z".to_owned(),
            format!("owner:{owner} tcp/1-2 until 2026-12-31T23:59:59Z # the attic, till it is moved # really"),
            "peers # everything".to_owned(),
        ];
        for text in texts {
            assert_eq!(text.parse::<Rule>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn what_is_written_in_other_ways_means_the_same() {
        #[track_caller]
        fn check(text: &str, expect: &str) {
            assert_eq!(text.parse::<Rule>().unwrap().to_string(), expect);
        }
        check("peers all", "peers");
        check("  peers\ttcp/0-65535 ", "peers tcp");
        check("peers tcp/7-7", "peers tcp/7");
        check("peers until 2026-12-31T00:00Z", "peers until 2026-12-31T00:00:00Z");
        check("peers tcp/1 until 2026-12-31T02:00:00.5+02:00#x", "peers tcp/1 until 2026-12-31T00:00:00Z # x");
        check("peers icmp #", "peers icmp");
    }

    #[test]
    fn what_is_wrong_is_told() {
        #[track_caller]
        fn check(text: &str, expect: &str) {
            let error = text.parse::<Rule>().unwrap_err().to_string();
            assert!(error.contains(expect), "{expect:?} is not in {error:?}");
        }
        check("", "it is empty");
        check("to", "it is empty");
        check("everybody tcp/1", "\"everybody\" is nobody");
        check("peers sctp/1", "\"sctp\" is not a protocol");
        check("peers icmp/1", "icmp has no ports");
        check("peers tcp/70000", "\"70000\" is not a port");
        check("peers tcp/9-8", "the first port is above the last");
        check("peers tcp/1 udp/1", "\"udp/1\" is one word too many");
        check("node:xyz", "not a rule");
        check("group:", "cannot name a group");
        check("group:a/b tcp", "cannot name a group");
        check("peers tcp/1 until", "not when");
        check("peers tcp/1 until tomorrow", "is not a time");
        check("peers until 2026-12-31", "is not a time");
        check("peers # a\u{1b}[2J", "control characters");
        check(&format!("peers # {}", "a".repeat(NOTE_CHARS_MAX + 1)), "is longer than");
    }

    #[test]
    fn groups_are_read() {
        let (node, owner) = (NodeId::from_bytes([7; 32]), OwnerId::from_bytes([8; 32]));
        let group: Group = format!("admins node:{node} owner:{owner}").parse().unwrap();
        assert_eq!((group.nodes.len(), group.owners.len(), group.name.as_str()), (1, 1, "admins"));
        for wrong in ["", "a b", "a peers", "a! node:x", "a group:b"] {
            assert!(wrong.parse::<Group>().is_err(), "{wrong}");
        }
    }

    proptest! {
        /// Whatever is read can be written, and is read again as the same.
        #[test]
        fn any_rule_survives_its_text(out: bool, who in 0u8..5, kind in 0u8..4, ports: (u16, u16), until in proptest::option::of(any::<i32>()), note in proptest::option::of("[ -~]{1,60}")) {
            let (first, last) = (ports.0.min(ports.1), ports.0.max(ports.1));
            let rule = Rule {
                direction: if out { Direction::Out } else { Direction::In },
                who: match who {
                    0 => Who::Peers,
                    1 => Who::Owner(OwnerId::from_bytes([9; 32])),
                    2 => Who::Node(NodeId::from_bytes([9; 32])),
                    3 => Who::Anyone,
                    _ => Who::Group("some-group".to_owned()),
                },
                what: match kind {
                    0 => What::Everything,
                    1 => What::Icmp,
                    2 => What::Tcp(Ports { first, last }),
                    _ => What::Udp(Ports { first, last }),
                },
                until: until.map(|seconds| Timestamp::from_second(seconds.into()).unwrap()),
                note: note.map(|note| note.trim().to_owned()).filter(|note| !note.is_empty()),
            };
            prop_assert_eq!(rule.to_string().parse::<Rule>().unwrap(), rule);
        }

        #[test]
        fn any_text_is_read_or_refused(text: String) {
            let _: Result<Rule, RuleError> = text.parse();
            let _: Result<Group, GroupError> = text.parse();
        }
    }
}
