//! Placement maps as the engine uses them: the current one, built from the homes that are up, and those that stored objects were placed by.
//!
//! A map is stored once under its content id, in the same commit as the first object that refers to it. Maps are small and only made when the set of
//! nodes changes, so they are kept for good.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use atoll_ids::{NodeId, ObjectId};
use atoll_placement::{Candidate, DomainLevel, Map, MapId};

use crate::error::MetaError;
use crate::homes::Homes;
use crate::keyspace;
use crate::plan::write::Seat;
use crate::store::Store;

/// Maps kept in memory. More sets of nodes than this are hardly met in one run of reads; the rest is read again.
const CACHED_MAX: usize = 64;

/// The seed of a stripe's ranking: its object's id plus its number, as 128-bit numbers. The ranking hashes it.
pub(crate) fn seed(object: ObjectId, stripe: u64) -> [u8; 16] {
    u128::from_le_bytes(*object.as_bytes()).wrapping_add(u128::from(stripe)).to_le_bytes()
}

/// A map with its id.
#[derive(Debug)]
pub(crate) struct Chart {
    pub(crate) map: Map,
}

impl Chart {
    pub(crate) fn id(&self) -> MapId {
        self.map.id()
    }

    /// The nodes of a stripe in the order of its ranking; shard *i* belongs on the *i*-th.
    pub(crate) fn ranked(&self, seed: &[u8; 16], level: DomainLevel) -> Vec<NodeId> {
        let candidates = self.map.candidates();
        self.map.ranking(seed, level).into_iter().map(|at| candidates[at].id).collect()
    }

    /// The same as seats of a write plan. `unwilling` says whom to pass over.
    pub(crate) fn seats(&self, seed: &[u8; 16], level: DomainLevel, unwilling: impl Fn(NodeId) -> bool) -> Vec<Seat> {
        let candidates = self.map.candidates();
        let ranking = self.map.ranking(seed, level);
        let mut groups: HashMap<Group<'_>, usize> = HashMap::new();
        let mut seat = |at: usize| {
            let candidate = &candidates[at];
            let next = groups.len();
            let group = *groups.entry(Group::of(candidate, level)).or_insert(next);
            Seat { node: candidate.id, group, suspect: unwilling(candidate.id) }
        };
        ranking.into_iter().map(&mut seat).collect()
    }

    /// Whether two nodes may fail together at a level. Nodes that are not in the map are taken for different.
    pub(crate) fn together(&self, a: NodeId, b: NodeId, level: DomainLevel) -> bool {
        let group = |node| self.map.index_of(node).map(|at| Group::of(&self.map.candidates()[at], level));
        a == b || matches!((group(a), group(b)), (Some(a), Some(b)) if a == b)
    }
}

/// What two nodes share that may fail together at a level. What a node does not state counts as shared with all who do not, as in placement.
#[derive(PartialEq, Eq, Hash)]
enum Group<'a> {
    Node(NodeId),
    Owner(Option<atoll_ids::OwnerId>),
    Site(&'a str, &'a str),
    Country(&'a str),
}

impl<'a> Group<'a> {
    fn of(candidate: &'a Candidate, level: DomainLevel) -> Self {
        let domain = &candidate.domain;
        match level {
            DomainLevel::Node => Self::Node(candidate.id),
            DomainLevel::Owner => Self::Owner(domain.owner),
            DomainLevel::Site => Self::Site(&domain.country, &domain.site),
            DomainLevel::Country => Self::Country(&domain.country),
        }
    }
}

#[derive(Default)]
struct State {
    current: Option<Arc<Chart>>,
    known: HashMap<MapId, Arc<Chart>>,
    stored: HashSet<MapId>,
}

/// The maps in use.
#[derive(Default)]
pub(crate) struct Charts {
    state: Mutex<State>,
}

impl Charts {
    fn state(&self) -> MutexGuard<'_, State> {
        // Every statement under the lock leaves the maps whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The map of the homes that are up now.
    pub(crate) fn current(&self, homes: &dyn Homes) -> Arc<Chart> {
        let up = homes.list().into_iter().filter(|home| home.up);
        let mut candidates: Vec<Candidate> =
            up.map(|home| Candidate { id: home.node, weight: home.weight, domain: home.domain }).collect();
        candidates.sort_unstable_by_key(|candidate| candidate.id);
        candidates.dedup_by_key(|candidate| candidate.id);
        candidates.truncate(atoll_placement::CANDIDATES_MAX);
        let mut state = self.state();
        if let Some(current) = state.current.as_ref().filter(|chart| chart.map.candidates() == candidates) {
            return current.clone();
        }
        let map = Map::new(candidates).expect("the candidates are distinct and within the limit");
        let chart = Arc::new(Chart { map });
        state.remember(&chart);
        state.current = Some(chart.clone());
        chart
    }

    /// The map with this id.
    pub(crate) async fn load(&self, store: &Store, id: MapId) -> Result<Arc<Chart>, MetaError> {
        if let Some(chart) = self.state().known.get(&id) {
            return Ok(chart.clone());
        }
        let missing = || MetaError::Tampered { what: format!("placement map {id}") };
        let map: Map = store.get(keyspace::map(id)).await?.ok_or_else(missing)?.value;
        if map.id() != id {
            return Err(missing());
        }
        let chart = Arc::new(Chart { map });
        let mut state = self.state();
        state.stored.insert(id);
        state.remember(&chart);
        Ok(chart)
    }

    /// Whether the map is known to be in the store.
    pub(crate) fn is_stored(&self, id: MapId) -> bool {
        self.state().stored.contains(&id)
    }

    /// Notes that a commit with the map went through.
    pub(crate) fn mark_stored(&self, id: MapId) {
        self.state().stored.insert(id);
    }
}

impl State {
    fn remember(&mut self, chart: &Arc<Chart>) {
        if self.known.len() >= CACHED_MAX {
            self.known.clear();
        }
        self.known.insert(chart.id(), chart.clone());
    }
}
