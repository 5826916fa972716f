//! Ranking the candidates of a map for a seed, and taking the first ones in domains of their own.

use std::cmp::Ordering;

use thiserror::Error;

use crate::ln::neg_ln;
use crate::map::{DomainLevel, Map};

/// Starts what is hashed. With seed and node id it makes 64 bytes: one block of BLAKE3, and so one compression.
const DRAW_CONTEXT: &[u8; 16] = b"atoll/placement1";

/// Fewer domains than places.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error(
    "{needed} different failure domains of level \"{level}\" are needed and {available} are available: \
     add nodes, state where they are, or choose a policy with fewer shards or a narrower failure domain"
)]
pub struct PlaceError {
    /// Places asked for.
    pub needed: usize,
    /// Domains with at least one candidate of a weight above 0.
    pub available: usize,
    /// The level.
    pub level: DomainLevel,
}

/// All candidates with a weight above 0 in the order in which a stripe would take them, as indexes into [`Map::candidates`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ranking {
    order: Vec<usize>,
    distinct: usize,
}

impl Ranking {
    /// The first of each domain: a stripe of n shards lives on the first n of these.
    pub fn distinct(&self) -> &[usize] {
        &self.order[..self.distinct]
    }

    /// The first of each domain, then the others. All but the first [`distinct`](Self::distinct) share a domain with an earlier one.
    pub fn all(&self) -> &[usize] {
        &self.order
    }
}

impl IntoIterator for Ranking {
    type Item = usize;
    type IntoIter = std::vec::IntoIter<usize>;

    fn into_iter(self) -> Self::IntoIter {
        self.order.into_iter()
    }
}

/// A candidate's score for a seed, the fraction `time / weight`. The weight is above 0.
#[derive(Clone, Copy)]
struct Arrival {
    /// -ln(u), below 2⁶².
    time: u64,
    weight: u64,
    index: usize,
}

impl Arrival {
    /// Compares the fractions exactly: both products are below 2¹²⁶. Equal ones go by index, which is by node id.
    fn compare(&self, other: &Self) -> Ordering {
        let own = u128::from(self.time) * u128::from(other.weight);
        let others = u128::from(other.time) * u128::from(self.weight);
        own.cmp(&others).then(self.index.cmp(&other.index))
    }
}

impl Map {
    /// The order in which a stripe with this seed takes candidates, at a level of failure domains.
    pub fn ranking(&self, seed: &[u8; 16], level: DomainLevel) -> Ranking {
        let mut order = self.arrivals(seed);
        if level == DomainLevel::Node {
            return Ranking { distinct: order.len(), order };
        }
        let domains = self.domains(level);
        let mut taken = vec![false; domains.len()];
        let mut again = Vec::new();
        order.retain(|&index| {
            let first = !std::mem::replace(&mut taken[domains[index] as usize], true);
            if !first {
                again.push(index);
            }
            first
        });
        let distinct = order.len();
        order.extend(again);
        Ranking { order, distinct }
    }

    /// The candidates that keep a stripe of `n` shards, shard i on the i-th, each in a failure domain of its own.
    ///
    /// # Errors
    /// [`PlaceError`] when there are not as many domains.
    pub fn place(&self, seed: &[u8; 16], n: usize, level: DomainLevel) -> Result<Vec<usize>, PlaceError> {
        let Ranking { mut order, distinct } = self.ranking(seed, level);
        if distinct < n {
            return Err(PlaceError { needed: n, available: distinct, level });
        }
        order.truncate(n);
        Ok(order)
    }

    /// Who may take over a shard of a stripe, best first, while `holding` keep the others: candidates that are not among them and share
    /// no domain with any of them. After one is chosen, add it to `holding` before choosing another.
    pub fn spares(&self, seed: &[u8; 16], level: DomainLevel, holding: &[usize]) -> Vec<usize> {
        let domains = self.domains(level);
        let mut taken = vec![false; domains.len()];
        for domain in holding.iter().filter_map(|&index| domains.get(index)) {
            taken[*domain as usize] = true;
        }
        let mut order = self.arrivals(seed);
        order.retain(|&index| !taken[domains[index] as usize]);
        order
    }

    /// Candidates with a weight by score alone.
    fn arrivals(&self, seed: &[u8; 16]) -> Vec<usize> {
        let mut message = [0; 64];
        message[..16].copy_from_slice(DRAW_CONTEXT);
        message[16..32].copy_from_slice(seed);
        let weighted = self.candidates().iter().enumerate().filter(|(_, candidate)| candidate.weight > 0);
        let mut arrivals: Vec<Arrival> = weighted
            .map(|(index, candidate)| {
                message[32..].copy_from_slice(candidate.id.as_bytes());
                Arrival { time: neg_ln(draw(&message)), weight: candidate.weight, index }
            })
            .collect();
        arrivals.sort_unstable_by(Arrival::compare);
        arrivals.into_iter().map(|arrival| arrival.index).collect()
    }
}

fn draw(message: &[u8; 64]) -> u64 {
    let hash = blake3::hash(message);
    let (first, _) = hash.as_bytes().split_first_chunk::<8>().expect("a hash has 32 bytes");
    u64::from_le_bytes(*first)
}
