//! Which nodes keep the shards of a stripe: a pure function of a seed and a [`Map`] of candidates, so that it is computed wherever it is
//! needed and only exceptions are written down. Not here: whether a node is up, how shards get there.
//!
//! # Weighted rendezvous hashing
//!
//! For a seed (say, of a stripe) every candidate draws a number u in (0, 1), the hash of seed and node id, and gets the score
//! `-ln(u) / weight`: an exponentially distributed arrival time whose rate is the weight. Whoever arrives first ranks first.
//! From the properties of such a race:
//!
//! - **Shares.** A candidate ranks first for a fraction `weight / sum of weights` of all seeds. (With n > 1 places a large candidate gets
//!   less than its proportional share of all places, since it can have only one of each stripe.)
//! - **Minimal movement.** A candidate's score depends on nothing but itself. When one joins, a place either stays or goes to the newcomer;
//!   when one leaves, only its places are given anew; and when a weight changes, only places from or to that candidate move.
//!
//! # Failure domains
//!
//! At a [`DomainLevel`] each candidate is in one domain. A ranking lists the first of every domain in order of score; the first n of
//! those are the place of a stripe of n shards, in domains of their own *always*: with fewer domains than n, placing fails. The rest of the
//! ranking are spares. Joining or leaving of one candidate changes at most one member of a place, also with domains.
//! A site or country that a node does not state is one domain together with all other unstated ones, as nothing says that they would
//! not fail together.
//!
//! The *set* of nodes moves minimally, their *order* does not: a newcomer that ranks first shifts the others by one. Whoever moves
//! stripes from one map to another compares sets and records where a shard of given index stayed as an exception.
//!
//! # The same everywhere, for ever
//!
//! A placement computed by another build on another processor must be the same, or data is not found. So there is no floating point:
//! the logarithm is computed in integers (`ln.rs`), and scores are compared as exact fractions by cross-multiplication. Draws are BLAKE3 hashes.
//! Tests pin the results.
//!
//! # Cost
//!
//! One hash of 64 bytes, one logarithm and a share of a sort per candidate, together about 0.14 µs: 1 µs for 6 nodes, 7 for 50, some 10 ms for the
//! largest map. Sealing the stripe takes 180 µs.
//!
//! # Failure domains
//!
//! At a [`DomainLevel`] each candidate is in one domain. A ranking lists the first of every domain in order of score; the first n of
//! those are the place of a stripe of n shards, in domains of their own *always*: with fewer domains than n, placing fails. The rest of the
//! ranking are spares. Joining or leaving of one candidate changes at most one member of a place, also with domains.
//! A site or country that a node does not state is one domain together with all other unstated ones, as nothing says that they would
//! not fail together.
//!
//! The *set* of nodes moves minimally, their *order* does not: a newcomer that ranks first shifts the others by one. Whoever moves
//! stripes from one map to another compares sets and records where a shard of given index stayed as an exception.
//!
//! # The same everywhere, for ever
//!
//! A placement computed by another build on another processor must be the same, or data is not found. So there is no floating point:
//! the logarithm is computed in integers (`ln.rs`), and scores are compared as exact fractions by cross-multiplication. Draws are BLAKE3 hashes.
//! Tests pin the results.
//!
//! # Cost
//!
//! One hash of 64 bytes, one logarithm and a share of a sort per candidate: about 0.1 µs each, so under 10 µs for 50 nodes and some
//! 10 ms for the largest map.
//!
//! # Failure
//!
//! [`MapError`] for candidates that make no map, [`PlaceError`] for too few domains. Foreign bytes that decode to a `Map` went through the
//! same checks as [`Map::new`].

mod ln;
mod map;
mod rank;

pub use map::{CANDIDATES_MAX, Candidate, DomainLevel, Map, MapError, MapId, ParseLevelError};
pub use rank::{PlaceError, Ranking};
