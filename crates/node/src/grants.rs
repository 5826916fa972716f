//! What peers may begin over the interface, and this node with them: the rules of the settings, and grants that were given at run time and are kept.
//!
//! Both are rules of the filter, told to it at once. Grants lie in the store under `grant/<number>`; one that has run out is forgotten when the next one is given.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use atoll_kv::{KeyValue, KvError, Mutation, Scan};
use atoll_tun::{Policy, Rule};
use atoll_wire::{Versioned, decode, encode};
use bytes::Bytes;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// Grants lie under `grant/<number>`.
const PREFIX: &str = "grant/";

/// Grants at once: more than a person oversees; the settings' groups are for more than that.
const GRANTS_MAX: usize = 1000;

/// A grant as it is stored: its text, as everywhere.
#[derive(Debug, Serialize, Deserialize)]
struct Record {
    rule: String,
}

impl Versioned for Record {
    const VERSION: u16 = 1;
    const NAME: &'static str = "grant";
}

/// Where a rule comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Origin {
    /// The settings: the default, the file, the environment or a flag.
    Setting(String),
    /// A grant, by this number.
    Grant(u32),
}

/// Why a grant is not given or taken back.
#[derive(Debug, thiserror::Error)]
pub(crate) enum GrantError {
    /// The same is allowed already.
    #[error("{rule} is allowed already, by {by}")]
    Already {
        /// The rule that allows it.
        rule: String,
        /// Where that comes from.
        by: String,
    },
    /// It names a group that is not there.
    #[error("there is no group {0}; groups are in the setting network.groups")]
    NoGroup(String),
    /// Its end is past.
    #[error("it would have ended before it began: {0} is past")]
    Past(Timestamp),
    /// There are too many.
    #[error("there are {GRANTS_MAX} grants already; take some back, or name a group in network.groups")]
    TooMany,
    /// There is no such grant.
    #[error("there is no grant {0}; `atoll net rules` shows what there is")]
    Unknown(String),
    /// It is no grant but comes from the settings.
    #[error("{rule} comes from {origin}; it goes away there, with a restart")]
    FromSettings {
        /// The rule.
        rule: String,
        /// Which setting's value it is of.
        origin: String,
    },
    /// The store refuses; nothing has changed.
    #[error("it could not be written down, and nothing has changed: {0}")]
    Store(#[from] KvError),
}

/// The rules and grants of this node. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Grants {
    shared: Arc<Shared>,
}

struct Shared {
    kv: Arc<dyn KeyValue>,
    /// What the settings say.
    fixed: Policy,
    origin: String,
    /// Held while it is told, so that places in the policy mean what they meant.
    given: Mutex<BTreeMap<u32, Rule>>,
    /// Held over a change: one at a time.
    changing: tokio::sync::Mutex<()>,
}

fn key(number: u32) -> Bytes {
    // Padded, so that they come in their order.
    Bytes::from(format!("{PREFIX}{number:010}"))
}

fn is_over(rule: &Rule) -> bool {
    rule.until.is_some_and(|until| until <= Timestamp::now())
}

impl Grants {
    /// What was granted until now, beside `fixed`, which comes from `origin`.
    pub(crate) async fn load(kv: Arc<dyn KeyValue>, fixed: Policy, origin: String) -> Result<Self, KvError> {
        let mut given = BTreeMap::new();
        for entry in kv.scan(Scan::new(PREFIX, GRANTS_MAX)).await? {
            let number = std::str::from_utf8(&entry.key).ok().and_then(|key| key.strip_prefix(PREFIX)?.parse().ok());
            let rule = decode::<Record>(&entry.value).ok().and_then(|record| record.rule.parse().ok());
            match (number, rule) {
                (Some(number), Some(rule)) => drop(given.insert(number, rule)),
                // Closed is the safe side.
                _ => tracing::warn!(key = ?entry.key, "a grant cannot be read, and does not hold"),
            }
        }
        let shared = Shared { kv, fixed, origin, given: Mutex::new(given), changing: tokio::sync::Mutex::default() };
        Ok(Self { shared: Arc::new(shared) })
    }

    fn given(&self) -> MutexGuard<'_, BTreeMap<u32, Rule>> {
        self.shared.given.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// All of it, as the filter takes it.
    pub(crate) fn policy(&self) -> Policy {
        self.policy_of(&self.given())
    }

    fn policy_of(&self, given: &BTreeMap<u32, Rule>) -> Policy {
        let mut policy = self.shared.fixed.clone();
        policy.rules.extend(given.values().cloned());
        policy
    }

    /// What the filter says, with the rules in the order of its policy: nothing changes in between.
    pub(crate) fn ask<T>(&self, filter: impl FnOnce() -> T) -> (T, Vec<(Rule, Origin)>) {
        let given = self.given();
        (filter(), self.list(&given))
    }

    fn list(&self, given: &BTreeMap<u32, Rule>) -> Vec<(Rule, Origin)> {
        let origin = || Origin::Setting(self.shared.origin.clone());
        let fixed = self.shared.fixed.rules.iter().map(|rule| (rule.clone(), origin()));
        fixed.chain(given.iter().map(|(number, rule)| (rule.clone(), Origin::Grant(*number)))).collect()
    }

    /// Every rule with where it comes from.
    pub(crate) fn rules(&self) -> Vec<(Rule, Origin)> {
        self.list(&self.given())
    }

    /// Gives a grant; `tell` is told the policy. One that differs from another only in its end or its note replaces it.
    pub(crate) async fn allow(&self, rule: Rule, tell: impl Fn(Policy)) -> Result<u32, GrantError> {
        let _changing = self.shared.changing.lock().await;
        self.check(&rule)?;
        let (over, number, count) = {
            let given = self.given();
            let over: Vec<u32> = given.iter().filter(|(_, rule)| is_over(rule)).map(|(number, _)| *number).collect();
            let next = given.keys().next_back().map_or(1, |last| last.saturating_add(1));
            let same = given.iter().find(|(_, given)| means_the_same(given, &rule)).map(|(number, _)| *number);
            (over, same.unwrap_or(next), given.len())
        };
        if count - over.len() >= GRANTS_MAX {
            return Err(GrantError::TooMany);
        }
        let record = Record { rule: rule.to_string() };
        let gone = over.iter().filter(|gone| **gone != number).map(|gone| Mutation::Delete { key: key(*gone) });
        let put = Mutation::Put { key: key(number), value: Bytes::from(encode(&record)) };
        self.shared.kv.commit(Vec::new(), gone.chain([put]).collect()).await?;
        let mut given = self.given();
        given.retain(|number, _| !over.contains(number));
        given.insert(number, rule);
        tell(self.policy_of(&given));
        Ok(number)
    }

    fn check(&self, rule: &Rule) -> Result<(), GrantError> {
        if let atoll_tun::Who::Group(name) = &rule.who
            && !self.shared.fixed.groups.iter().any(|group| group.name == *name)
        {
            return Err(GrantError::NoGroup(name.clone()));
        }
        if let Some(until) = rule.until.filter(|until| *until <= Timestamp::now()) {
            return Err(GrantError::Past(until));
        }
        let same = self.shared.fixed.rules.iter().find(|fixed| means_the_same(fixed, rule) && fixed.until.is_none());
        same.map_or(Ok(()), |fixed| {
            Err(GrantError::Already { rule: fixed.to_string(), by: self.shared.origin.clone() })
        })
    }

    /// Takes grants back: by number, or by what they say. Gives those that were.
    pub(crate) async fn deny(&self, what: &str, tell: impl Fn(Policy)) -> Result<Vec<(u32, Rule)>, GrantError> {
        let _changing = self.shared.changing.lock().await;
        let what = what.trim();
        let rule: Option<Rule> = what.parse().ok();
        let found: Vec<u32> = {
            let given = self.given();
            let is_meant = |number: &u32, given: &Rule| {
                what.parse() == Ok(*number) || rule.as_ref().is_some_and(|rule| means_the_same(rule, given))
            };
            given.iter().filter(|(number, given)| is_meant(number, given)).map(|(number, _)| *number).collect()
        };
        if found.is_empty() {
            let fixed = |fixed: &&Rule| rule.as_ref().is_some_and(|rule| means_the_same(rule, fixed));
            return Err(match self.shared.fixed.rules.iter().find(fixed) {
                Some(fixed) => GrantError::FromSettings { rule: fixed.to_string(), origin: self.shared.origin.clone() },
                None => GrantError::Unknown(what.chars().take(160).collect()),
            });
        }
        let gone = found.iter().map(|number| Mutation::Delete { key: key(*number) }).collect();
        self.shared.kv.commit(Vec::new(), gone).await?;
        let mut given = self.given();
        let taken = found.into_iter().filter_map(|number| given.remove(&number).map(|rule| (number, rule))).collect();
        tell(self.policy_of(&given));
        Ok(taken)
    }
}

/// Whether two rules allow the same, for however long and whatever for.
fn means_the_same(one: &Rule, other: &Rule) -> bool {
    (one.direction, &one.who, one.what) == (other.direction, &other.who, other.what)
}

impl std::fmt::Display for Origin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Setting(origin) => f.write_str(origin),
            Self::Grant(number) => write!(f, "grant {number}"),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use atoll_kv::{Embedded, EmbeddedConfig};

    use super::*;

    struct World {
        folder: tempfile::TempDir,
        fixed: Policy,
    }

    impl World {
        fn new(rules: &[&str]) -> Self {
            let rules: Vec<Rule> = rules.iter().map(|rule| rule.parse().unwrap()).collect();
            let groups = vec!["admins".parse().unwrap()];
            Self { folder: tempfile::tempdir().unwrap(), fixed: Policy { rules, groups, ..Policy::default() } }
        }

        async fn open(&self) -> Grants {
            let kv = Embedded::open(self.folder.path(), EmbeddedConfig::default()).unwrap();
            Grants::load(Arc::new(kv), self.fixed.clone(), "atoll.toml:3".to_owned()).await.unwrap()
        }
    }

    fn rule(text: &str) -> Rule {
        text.parse().unwrap()
    }

    fn texts(grants: &Grants) -> Vec<String> {
        grants.rules().into_iter().map(|(rule, origin)| format!("{origin}: {rule}")).collect()
    }

    #[tokio::test]
    async fn grants_stay_until_they_are_taken_back() {
        let world = World::new(&["peers icmp"]);
        let grants = world.open().await;
        let told = Mutex::new(0);
        let tell = |policy: Policy| *told.lock().unwrap() = policy.rules.len();
        assert_eq!(grants.allow(rule("peers tcp/22 until 2999-01-01T00:00Z # for now"), tell).await.unwrap(), 1);
        assert_eq!(grants.allow(rule("group:admins"), tell).await.unwrap(), 2);
        assert_eq!(*told.lock().unwrap(), 3);
        // Given again, it is the same one.
        assert_eq!(grants.allow(rule("peers tcp/22"), tell).await.unwrap(), 1);
        drop(grants);

        let grants = world.open().await;
        let expect = ["atoll.toml:3: peers icmp", "grant 1: peers tcp/22", "grant 2: group:admins"];
        assert_eq!(texts(&grants), expect);
        assert_eq!(grants.deny("2", tell).await.unwrap()[0].1, rule("group:admins"));
        assert_eq!(grants.deny("peers tcp/22", tell).await.unwrap()[0].0, 1);
        assert_eq!(*told.lock().unwrap(), 1);
        drop(grants);
        assert_eq!(texts(&world.open().await), expect[..1]);
    }

    #[tokio::test]
    async fn what_cannot_be_is_told() {
        let world = World::new(&["peers icmp", "peers tcp/80 until 2999-01-01T00:00Z"]);
        let grants = world.open().await;
        let nobody = |_: Policy| panic!("nothing has changed");
        let told = |error: GrantError| error.to_string();
        let allow = async |text: &str| told(grants.allow(rule(text), nobody).await.unwrap_err());
        assert!(allow("peers icmp # again").await.contains("is allowed already, by atoll.toml:3"));
        assert!(allow("group:strangers").await.contains("there is no group strangers"));
        assert!(allow("peers tcp/1 until 2001-01-01T00:00Z").await.contains("is past"));
        let deny = async |text: &str| told(grants.deny(text, nobody).await.unwrap_err());
        assert!(deny("7").await.contains("there is no grant 7"));
        assert!(deny("peers icmp").await.contains("comes from atoll.toml:3"));
        // One with an end may be given for longer.
        assert_eq!(grants.allow(rule("peers tcp/80"), |_| ()).await.unwrap(), 1);
    }

    #[tokio::test]
    async fn there_are_only_so_many() {
        let world = World::new(&[]);
        let grants = world.open().await;
        {
            let mut given = grants.given();
            for number in 1..=GRANTS_MAX as u32 {
                given.insert(number, rule(&format!("peers tcp/{number}")));
            }
        }
        assert!(matches!(grants.allow(rule("peers udp/1"), |_| ()).await, Err(GrantError::TooMany)));
        // One that ran out makes room.
        grants.given().insert(5, rule("peers tcp/5 until 2001-01-01T00:00Z"));
        assert_eq!(grants.allow(rule("peers udp/1"), |_| ()).await.unwrap(), GRANTS_MAX as u32 + 1);
        assert_eq!(grants.rules().len(), GRANTS_MAX);
    }
}
