//! [`Map`]: the candidates of a placement, checked, in one canonical order, with an id of their content.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use atoll_ids::{Domain, NodeId};
use atoll_wire::Versioned;
use serde::{Deserialize, Serialize};
use thiserror::Error;

/// Candidates in a map, at most: a placement visits each, so this bounds it at some 10 ms, and a map at some 10 MiB.
pub const CANDIDATES_MAX: usize = 65_536;

/// Context string of a map's id.
const MAP_ID: &str = "atoll 2026-11 placement map v1";

/// A node that may keep shards.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Candidate {
    /// The node.
    pub id: NodeId,
    /// How much it should get relative to others: its capacity in bytes. With 0 it gets nothing, for a node that is being emptied.
    pub weight: u64,
    /// With what it may fail together.
    pub domain: Domain,
}

/// What no two shards of a stripe may share.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DomainLevel {
    /// The same machine.
    #[default]
    Node,
    /// The same owner.
    Owner,
    /// The same site of the same country.
    Site,
    /// The same country.
    Country,
}

impl DomainLevel {
    /// All levels, from the narrowest to the widest.
    pub const ALL: [Self; 4] = [Self::Node, Self::Owner, Self::Site, Self::Country];

    const fn name(self) -> &'static str {
        match self {
            Self::Node => "node",
            Self::Owner => "owner",
            Self::Site => "site",
            Self::Country => "country",
        }
    }
}

impl fmt::Display for DomainLevel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// A text that names no level.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("\"{text}\" is not a failure domain: choose node, owner, site or country")]
pub struct ParseLevelError {
    /// The text.
    pub text: String,
}

impl FromStr for DomainLevel {
    type Err = ParseLevelError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let found = Self::ALL.into_iter().find(|level| level.name() == text);
        found.ok_or_else(|| ParseLevelError { text: text.to_owned() })
    }
}

/// The id of a map: equal exactly when the candidates are. Text form: 32 hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct MapId([u8; 16]);

impl MapId {
    /// The id with these bytes.
    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }

    /// Its bytes.
    pub const fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }
}

impl fmt::Display for MapId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&format!("{:032x}", u128::from_be_bytes(self.0)))
    }
}

impl fmt::Debug for MapId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "MapId({self})")
    }
}

/// Candidates that make no map.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum MapError {
    /// Above [`CANDIDATES_MAX`].
    #[error("a placement map has at most {CANDIDATES_MAX} nodes, this one has {found}")]
    TooMany {
        /// Candidates given.
        found: usize,
    },
    /// A node listed twice.
    #[error("node {node} is listed twice in a placement map")]
    Duplicate {
        /// The node.
        node: NodeId,
    },
}

/// Candidates for the shards of a grid, ordered by node id whatever order they were given in.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(into = "Content", try_from = "Content")]
pub struct Map {
    candidates: Vec<Candidate>,
    id: MapId,
    /// By level and candidate: the number of its domain. Equal numbers, same domain.
    domains: [Vec<u32>; DomainLevel::ALL.len()],
}

/// What is stored of a map.
#[derive(Serialize, Deserialize)]
#[serde(rename = "Map")]
struct Content {
    candidates: Vec<Candidate>,
}

impl From<Map> for Content {
    fn from(map: Map) -> Self {
        Self { candidates: map.candidates }
    }
}

impl TryFrom<Content> for Map {
    type Error = MapError;

    fn try_from(content: Content) -> Result<Self, MapError> {
        Self::new(content.candidates)
    }
}

impl Versioned for Map {
    const VERSION: u16 = 1;
    const NAME: &'static str = "placement map";
}

impl PartialEq for Map {
    fn eq(&self, other: &Self) -> bool {
        self.candidates == other.candidates
    }
}

impl Eq for Map {}

impl Map {
    /// A map of these candidates, in any order.
    ///
    /// # Errors
    /// [`MapError`]
    pub fn new(mut candidates: Vec<Candidate>) -> Result<Self, MapError> {
        if candidates.len() > CANDIDATES_MAX {
            return Err(MapError::TooMany { found: candidates.len() });
        }
        candidates.sort_unstable_by_key(|candidate| candidate.id);
        if let Some(pair) = candidates.windows(2).find(|pair| pair[0].id == pair[1].id) {
            return Err(MapError::Duplicate { node: pair[0].id });
        }
        let domains = [
            (0..).take(candidates.len()).collect(),
            number(&candidates, |domain| domain.owner),
            number(&candidates, |domain| (domain.country.as_str(), domain.site.as_str())),
            number(&candidates, |domain| domain.country.as_str()),
        ];
        Ok(Self { id: content_id(&candidates), candidates, domains })
    }

    /// The id of its content.
    pub fn id(&self) -> MapId {
        self.id
    }

    /// The candidates, ordered by node id. Placements are indexes into this.
    pub fn candidates(&self) -> &[Candidate] {
        &self.candidates
    }

    /// The index of a node.
    pub fn index_of(&self, node: NodeId) -> Option<usize> {
        self.candidates.binary_search_by_key(&node, |candidate| candidate.id).ok()
    }

    /// By candidate, the number of its domain at a level.
    pub(crate) fn domains(&self, level: DomainLevel) -> &[u32] {
        match level {
            DomainLevel::Node => &self.domains[0],
            DomainLevel::Owner => &self.domains[1],
            DomainLevel::Site => &self.domains[2],
            DomainLevel::Country => &self.domains[3],
        }
    }
}

/// Numbers the distinct values of a label in order of appearance.
fn number<'a, K: Ord>(candidates: &'a [Candidate], label: impl Fn(&'a Domain) -> K) -> Vec<u32> {
    let mut numbers = BTreeMap::new();
    let number = |candidate: &'a Candidate| {
        let next = numbers.len() as u32;
        *numbers.entry(label(&candidate.domain)).or_insert(next)
    };
    candidates.iter().map(number).collect()
}

/// A hash of all that placement depends on, every field of fixed width or after its length, so that no two contents read alike.
fn content_id(candidates: &[Candidate]) -> MapId {
    let mut hasher = blake3::Hasher::new_derive_key(MAP_ID);
    for candidate in candidates {
        hasher.update(candidate.id.as_bytes());
        hasher.update(&candidate.weight.to_le_bytes());
        match candidate.domain.owner {
            Some(owner) => hasher.update(&[1]).update(owner.as_bytes()),
            None => hasher.update(&[0]),
        };
        for label in [&candidate.domain.site, &candidate.domain.country] {
            hasher.update(&(label.len() as u64).to_le_bytes()).update(label.as_bytes());
        }
    }
    let mut id = [0; 16];
    hasher.finalize_xof().fill(&mut id);
    MapId(id)
}
