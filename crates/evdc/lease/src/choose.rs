//! Which of the offers to take: pure, so that the same offers give the same choice everywhere.
//!
//! Cheapest first, but owners in turn: with as many owners as nodes wanted, no two nodes are the same owner's, so that one owner who leaves takes one
//! node away and not the eVDC.

use std::collections::BTreeMap;

use atoll_ids::OwnerId;
use thiserror::Error;

use crate::statements::{Capacity, Offer};

/// There are too few offers.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{wanted} nodes with {each} each are wanted; {found} of the {asked} nodes that answered lend that much")]
pub struct TooFew {
    /// Nodes wanted.
    pub wanted: usize,
    /// Of each.
    pub each: Capacity,
    /// Nodes that would do.
    pub found: usize,
    /// Offers looked at.
    pub asked: usize,
}

/// Chooses `count` nodes, each with `each` free, in the order in which they are to be asked. `held` are the owners of nodes that are rented already, once
/// for each: one node after the other gives the same owners as all at once.
///
/// # Errors
/// [`TooFew`]
pub fn choose<'a>(
    offers: &'a [Offer],
    count: usize,
    each: Capacity,
    held: &[OwnerId],
) -> Result<Vec<&'a Offer>, TooFew> {
    let mut fitting: Vec<&Offer> = offers.iter().filter(|offer| offer.free.holds(&each)).collect();
    // The node's id last: any order will do, as long as it is always the same.
    fitting.sort_by_key(|offer| (offer.price.micro_per_hour, offer.node));
    let found = fitting.len();
    if found < count {
        return Err(TooFew { wanted: count, each, found, asked: offers.len() });
    }
    let mut turns: BTreeMap<OwnerId, usize> = BTreeMap::new();
    for owner in held {
        *turns.entry(*owner).or_default() += 1;
    }
    let mut ranked: Vec<(usize, &Offer)> = fitting
        .into_iter()
        .map(|offer| {
            let turn = turns.entry(offer.owner).or_default();
            *turn += 1;
            (*turn, offer)
        })
        .collect();
    ranked.sort_by_key(|(turn, _)| *turn);
    Ok(ranked.into_iter().take(count).map(|(_, offer)| offer).collect())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use atoll_ids::{ByteCount, NodeId};

    use super::*;
    use crate::statements::Price;

    fn offer(node: u8, owner: u8, price: u64, memory: u64) -> Offer {
        let total = Capacity { cpu_milli: 1000, memory: ByteCount(memory), storage: ByteCount(0), pods: 1 };
        Offer {
            node: NodeId::from_bytes([node; 32]),
            owner: OwnerId::from_bytes([owner; 32]),
            total,
            free: total,
            price: Price { currency: String::new(), micro_per_hour: price },
            not_after: 0,
        }
    }

    #[test]
    fn owners_come_in_turn_the_cheapest_first() {
        let each = Capacity { memory: ByteCount(10), ..Capacity::default() };
        let offers =
            [offer(1, 1, 1, 10), offer(2, 1, 2, 10), offer(3, 2, 9, 10), offer(4, 3, 5, 9), offer(5, 1, 3, 10)];
        let check = |count: usize, expected: &[u8]| {
            let nodes: Vec<u8> =
                choose(&offers, count, each, &[]).unwrap().iter().map(|it| it.node.as_bytes()[0]).collect();
            assert_eq!(nodes, expected);
        };
        check(1, &[1]);
        check(2, &[1, 3]);
        check(3, &[1, 3, 2]);
        check(4, &[1, 3, 2, 5]);
        assert_eq!(choose(&offers, 5, each, &[]), Err(TooFew { wanted: 5, each, found: 4, asked: 5 }));
        // One after the other: the owner who has lent already comes later.
        let held = [OwnerId::from_bytes([1; 32])];
        assert_eq!(choose(&offers[1..], 1, each, &held).unwrap()[0].node.as_bytes()[0], 3);
    }
}
