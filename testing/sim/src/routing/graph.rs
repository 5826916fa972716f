//! Who is linked to whom.

use std::collections::BTreeSet;

use crate::random::Random;

/// A shape of a network in which packets have to be forwarded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// Places on a plane, each linked to some of those nearest to it: radio, cables between houses.
    Plane,
    /// Each newcomer links to three, more likely to who has many links already: some hubs with very many.
    Hubs,
}

/// Links a node of [`Shape::Plane`] makes to its nearest; others make some to it.
const NEAREST: usize = 4;

/// Links a newcomer of [`Shape::Hubs`] makes.
const JOINS: usize = 3;

/// Links as two nodes and a round trip in microseconds. All nodes are connected.
pub(super) fn links(shape: Shape, nodes: usize, random: &mut Random) -> Vec<(u32, u32, u32)> {
    let places: Vec<(f64, f64)> = (0..nodes).map(|_| (random.unit(), random.unit())).collect();
    let pairs = match shape {
        Shape::Plane => plane(&places),
        Shape::Hubs => hubs(nodes, random),
    };
    // A link takes a millisecond, and up to 100 from one corner to the other, as by different underlays a third more or less.
    let round_trip = |a: u32, b: u32, random: &mut Random| {
        let (from, to) = (places[a as usize], places[b as usize]);
        let distance = (from.0 - to.0).hypot(from.1 - to.1) / 2_f64.sqrt();
        ((1000.0 + 99_000.0 * distance) * (0.7 + 0.6 * random.unit())) as u32
    };
    pairs.into_iter().map(|(a, b)| (a, b, round_trip(a, b, random))).collect()
}

fn plane(places: &[(f64, f64)]) -> BTreeSet<(u32, u32)> {
    let side = ((places.len() as f64 / 4.0).sqrt() as usize).max(1);
    let cell = |place: &(f64, f64)| ((place.0 * side as f64) as usize, (place.1 * side as f64) as usize);
    let mut cells: Vec<Vec<u32>> = vec![Vec::new(); side * side];
    for (number, place) in places.iter().enumerate() {
        let (x, y) = cell(place);
        cells[x * side + y].push(number as u32);
    }
    let mut pairs = BTreeSet::new();
    for (number, place) in places.iter().enumerate() {
        let (x, y) = cell(place);
        let mut near: Vec<(u64, u32)> = Vec::new();
        for x in x.saturating_sub(2)..(x + 3).min(side) {
            for other in (y.saturating_sub(2)..(y + 3).min(side)).flat_map(|y| &cells[x * side + y]) {
                let there = places[*other as usize];
                let distance = (place.0 - there.0).hypot(place.1 - there.1);
                near.push(((distance * 1e12) as u64, *other));
            }
        }
        near.sort_unstable();
        let others = near.iter().map(|(_, other)| *other).filter(|other| *other != number as u32).take(NEAREST);
        pairs.extend(others.map(|other| (other.min(number as u32), other.max(number as u32))));
    }
    join_parts(places.len(), &mut pairs);
    pairs
}

fn hubs(nodes: usize, random: &mut Random) -> BTreeSet<(u32, u32)> {
    let mut pairs = BTreeSet::new();
    // Every end of a link, so that choosing one at random chooses by number of links.
    let mut ends: Vec<u32> = vec![0];
    for number in 1..nodes as u32 {
        for _ in 0..JOINS {
            let other = ends[random.below(ends.len())];
            if other != number && pairs.insert((other, number)) {
                ends.push(other);
                ends.push(number);
            }
        }
    }
    join_parts(nodes, &mut pairs);
    pairs
}

/// Links parts that are not connected, each to the one before.
fn join_parts(nodes: usize, pairs: &mut BTreeSet<(u32, u32)>) {
    let mut part: Vec<u32> = (0..nodes as u32).collect();
    fn root(part: &mut [u32], mut at: u32) -> u32 {
        while part[at as usize] != at {
            part[at as usize] = part[part[at as usize] as usize];
            at = part[at as usize];
        }
        at
    }
    for (a, b) in pairs.iter() {
        let (a, b) = (root(&mut part, *a), root(&mut part, *b));
        part[a as usize] = b;
    }
    for number in 1..nodes as u32 {
        let (a, b) = (root(&mut part, number - 1), root(&mut part, number));
        if a != b {
            pairs.insert((number - 1, number));
            part[a as usize] = b;
        }
    }
}
