//! What rendezvous hashing promises: the domain rule always, shares by weight, and nothing moves that need not.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::collections::{BTreeMap, BTreeSet, HashSet};

use atoll_ids::{Domain, NodeId, OwnerId};
use atoll_placement::{CANDIDATES_MAX, Candidate, DomainLevel, Map, MapError, PlaceError};
use proptest::prelude::*;

fn node(number: u64) -> NodeId {
    NodeId::from_bytes(*blake3::hash(&number.to_le_bytes()).as_bytes())
}

fn seed(number: u64) -> [u8; 16] {
    u128::from(number).wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835).to_le_bytes()
}

fn candidate(number: u64, weight: u64) -> Candidate {
    Candidate { id: node(number), weight, domain: Domain::default() }
}

/// A candidate somewhere among 4 owners, 3 countries and 4 names of sites, some of them unstated.
fn placed(number: u64, weight: u64, labels: (u8, u8, u8)) -> Candidate {
    let (owner, country, site) = labels;
    let owner = (owner > 0).then(|| OwnerId::from_bytes([owner; 32]));
    let label = |kind: &str, number: u8| if number == 0 { String::new() } else { format!("{kind}{number}") };
    let domain = Domain::new(owner, &label("site", site), &label("country", country)).unwrap();
    Candidate { id: node(number), weight, domain }
}

fn label(candidate: &Candidate, level: DomainLevel) -> String {
    let Domain { owner, site, country } = &candidate.domain;
    match level {
        DomainLevel::Node => candidate.id.to_string(),
        DomainLevel::Owner => format!("{owner:?}"),
        DomainLevel::Site => format!("{country}/{site}"),
        DomainLevel::Country => country.clone(),
    }
}

fn ids(map: &Map, indexes: &[usize]) -> BTreeSet<NodeId> {
    indexes.iter().map(|&index| map.candidates()[index].id).collect()
}

fn grid() -> impl Strategy<Value = Vec<Candidate>> {
    let weight = prop_oneof![1 => Just(0u64), 8 => 1u64..1 << 45, 1 => Just(u64::MAX)];
    let spec = (weight, (0u8..4, 0u8..3, 0u8..4));
    proptest::collection::vec(spec, 1..40)
        .prop_map(|specs| (0..).zip(specs).map(|(number, (weight, labels))| placed(number, weight, labels)).collect())
}

fn level() -> impl Strategy<Value = DomainLevel> {
    proptest::sample::select(&DomainLevel::ALL[..])
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn the_domain_rule_holds_always(grid in grid(), level in level(), n in 1usize..12, draw: u64) {
        let map = Map::new(grid.clone()).unwrap();
        let weighted = || map.candidates().iter().filter(|candidate| candidate.weight > 0);
        let domains: HashSet<String> = weighted().map(|candidate| label(candidate, level)).collect();
        let ranking = map.ranking(&seed(draw), level);
        prop_assert_eq!(ranking.distinct().len(), domains.len());
        let all: BTreeSet<NodeId> = weighted().map(|candidate| candidate.id).collect();
        prop_assert_eq!(ranking.all().len(), all.len());
        prop_assert_eq!(ids(&map, ranking.all()), all);

        match map.place(&seed(draw), n, level) {
            Ok(place) => {
                prop_assert_eq!(place.as_slice(), &ranking.distinct()[..n]);
                let labels: HashSet<String> = place.iter().map(|&index| label(&map.candidates()[index], level)).collect();
                prop_assert_eq!(labels.len(), n);
                // Spares share no domain with who stays, may be in that of who left, and are not who stays.
                let (left, holding) = place.split_first().unwrap();
                for spare in map.spares(&seed(draw), level, holding) {
                    prop_assert!(!holding.contains(&spare));
                    let own = label(&map.candidates()[spare], level);
                    prop_assert!(holding.iter().all(|&index| label(&map.candidates()[index], level) != own));
                }
                let first = map.spares(&seed(draw), level, holding).into_iter().next();
                prop_assert_eq!(first, Some(*left), "who left was the best of those that may");
            }
            Err(error) => {
                prop_assert!(domains.len() < n);
                prop_assert_eq!(error, PlaceError { needed: n, available: domains.len(), level });
            }
        }
    }

    #[test]
    fn order_of_input_does_not_matter(grid in grid(), level in level(), draw: u64) {
        let map = Map::new(grid.clone()).unwrap();
        let reversed = Map::new(grid.into_iter().rev().collect()).unwrap();
        prop_assert_eq!(map.id(), reversed.id());
        prop_assert_eq!(map.ranking(&seed(draw), level), reversed.ranking(&seed(draw), level));
        let decoded: Map = atoll_wire::decode(&atoll_wire::encode(&map)).unwrap();
        prop_assert_eq!(&decoded, &map);
        prop_assert_eq!(decoded.id(), map.id());
    }

    #[test]
    fn one_joining_or_leaving_moves_at_most_one_place(grid in grid(), level in level(), n in 1usize..8, draw: u64) {
        let with = Map::new(grid.clone()).unwrap();
        let changed = grid[0].id;
        let without = Map::new(grid[1..].to_vec()).unwrap();
        let (Ok(before), Ok(after)) = (without.place(&seed(draw), n, level), with.place(&seed(draw), n, level)) else { return Ok(()) };
        let (before, after) = (ids(&without, &before), ids(&with, &after));
        let joined: Vec<_> = after.difference(&before).collect();
        prop_assert!(joined.is_empty() || joined == [&changed], "only the newcomer may gain a place");
        prop_assert!(before.difference(&after).count() == joined.len());
    }

    #[test]
    fn a_new_weight_moves_places_from_or_to_that_node_only(grid in grid(), weight in 0u64..1 << 45, level in level(), n in 1usize..8, draw: u64) {
        let old = Map::new(grid.clone()).unwrap();
        let mut grid = grid;
        grid[0].weight = weight;
        let new = Map::new(grid.clone()).unwrap();
        let (Ok(before), Ok(after)) = (old.place(&seed(draw), n, level), new.place(&seed(draw), n, level)) else { return Ok(()) };
        let (before, after) = (ids(&old, &before), ids(&new, &after));
        let moved: Vec<_> = before.symmetric_difference(&after).collect();
        prop_assert!(moved.is_empty() || moved.len() == 2 && moved.contains(&&grid[0].id), "{moved:?}");
    }
}

#[test]
fn shares_are_proportional_to_weight() {
    const SEEDS: u64 = 40_000;
    let weights = [1u64 << 40, 2 << 40, 3 << 40, 500 << 30, 12 << 40, 0];
    let map = Map::new((0..).zip(weights).map(|(number, weight)| candidate(number, weight)).collect()).unwrap();
    let mut counts = BTreeMap::new();
    for number in 0..SEEDS {
        let first = map.place(&seed(number), 1, DomainLevel::Node).unwrap()[0];
        *counts.entry(map.candidates()[first].id).or_insert(0u64) += 1;
    }
    let total: u64 = weights.iter().sum();
    for (number, weight) in (0..).zip(weights) {
        let found = counts.get(&node(number)).copied().unwrap_or(0) as f64;
        let share = weight as f64 / total as f64;
        let expect = SEEDS as f64 * share;
        // Five standard deviations of the binomial distribution; the seeds are fixed, so this passes always or never.
        let tolerance = 5.0 * (expect * (1.0 - share)).sqrt();
        assert!(
            (found - expect).abs() <= tolerance,
            "weight {weight}: {found} of {SEEDS}, expected {expect} ± {tolerance}"
        );
    }
}

#[test]
fn equal_nodes_share_all_places_evenly() {
    const SEEDS: u64 = 6000;
    let map = Map::new((0..12).map(|number| candidate(number, 1 << 40)).collect()).unwrap();
    let mut counts = vec![vec![0u64; 6]; 12];
    for number in 0..SEEDS {
        for (position, index) in map.place(&seed(number), 6, DomainLevel::Node).unwrap().into_iter().enumerate() {
            counts[index][position] += 1;
        }
    }
    for (index, positions) in counts.iter().enumerate() {
        assert!(positions.iter().all(|count| (400..600).contains(count)), "candidate {index}: {positions:?}");
    }
}

#[test]
fn a_newcomer_takes_its_share_and_no_more() {
    let old = Map::new((0..9).map(|number| candidate(number, 1 << 40)).collect()).unwrap();
    let new = Map::new((0..10).map(|number| candidate(number, 1 << 40)).collect()).unwrap();
    let changed = (0..5000).filter(|&number| {
        let place = |map: &Map| ids(map, &map.place(&seed(number), 1, DomainLevel::Node).unwrap());
        place(&old) != place(&new)
    });
    let changed = changed.count();
    assert!((400..600).contains(&changed), "{changed} of 5000 moved, a tenth is expected");
}

#[test]
fn too_few_domains_say_how_many() {
    let grid = (0..8).map(|number| placed(number, 1, (1, 1, 1 + (number % 3) as u8))).collect();
    let map = Map::new(grid).unwrap();
    let error = map.place(&seed(1), 6, DomainLevel::Site).unwrap_err();
    assert_eq!(error, PlaceError { needed: 6, available: 3, level: DomainLevel::Site });
    assert!(
        error.to_string().starts_with("6 different failure domains of level \"site\" are needed and 3 are available")
    );
    assert_eq!(map.place(&seed(1), 2, DomainLevel::Country).unwrap_err().available, 1);
    assert_eq!(map.place(&seed(1), 8, DomainLevel::Node).unwrap().len(), 8);
    let empty = Map::new(vec![]).unwrap();
    assert_eq!(empty.place(&seed(1), 1, DomainLevel::Node).unwrap_err().available, 0);
    assert_eq!(empty.place(&seed(1), 0, DomainLevel::Node).unwrap(), Vec::<usize>::new());
}

#[test]
fn unusable_candidates_are_refused_on_every_way_in() {
    let twice = vec![candidate(1, 1), candidate(2, 1), candidate(1, 2)];
    assert_eq!(Map::new(twice.clone()).unwrap_err(), MapError::Duplicate { node: node(1) });
    assert!(postcard::from_bytes::<Map>(&postcard::to_stdvec(&twice).unwrap()).is_err());
    let json = serde_json::json!({ "candidates": twice });
    assert!(serde_json::from_value::<Map>(json).unwrap_err().to_string().contains("listed twice"));
    let many: Vec<_> = (0..=CANDIDATES_MAX as u64)
        .map(|number| {
            let mut id = [0; 32];
            id[..8].copy_from_slice(&number.to_le_bytes());
            Candidate { id: NodeId::from_bytes(id), weight: 1, domain: Domain::default() }
        })
        .collect();
    assert_eq!(Map::new(many.clone()).unwrap_err(), MapError::TooMany { found: CANDIDATES_MAX + 1 });
    let most = Map::new(many[1..].to_vec()).unwrap();
    assert_eq!(most.ranking(&seed(1), DomainLevel::Site).distinct().len(), 1);
    assert_eq!(most.index_of(many[9].id).map(|index| most.candidates()[index].id), Some(many[9].id));
    assert_eq!(most.index_of(many[0].id), None);
}

#[test]
fn ids_tell_every_content_apart() {
    let base = placed(1, 5, (1, 1, 1));
    let mut others = vec![vec![], vec![base.clone()], vec![base.clone(), placed(2, 5, (1, 1, 1))]];
    others.push(vec![Candidate { weight: 6, ..base.clone() }]);
    for (owner, site, country) in [
        (None, "site1", "country1"),
        (base.domain.owner, "", "site1country1"),
        (base.domain.owner, "site1country1", ""),
    ] {
        others.push(vec![Candidate { domain: Domain::new(owner, site, country).unwrap(), ..base.clone() }]);
    }
    let ids: HashSet<_> = others.iter().map(|candidates| Map::new(candidates.clone()).unwrap().id()).collect();
    assert_eq!(ids.len(), others.len());
}

#[test]
fn levels_have_one_name() {
    for level in DomainLevel::ALL {
        assert_eq!(level.to_string().parse(), Ok(level));
        assert_eq!(serde_json::to_value(level).unwrap(), level.to_string());
    }
    assert!("rack".parse::<DomainLevel>().unwrap_err().to_string().contains("node, owner, site or country"));
}

/// What is stored depends on these: they can never change.
#[test]
fn placements_and_map_ids_are_pinned() {
    let grid =
        (0..10).map(|number| placed(number, (number + 1) << 38, (0, 1 + (number % 2) as u8, (number % 4) as u8)));
    let map = Map::new(grid.collect()).unwrap();
    let number_of = |index: usize| (0..10).find(|&number| node(number) == map.candidates()[index].id).unwrap();
    let rankings: Vec<Vec<u64>> =
        [(1, DomainLevel::Node), (2, DomainLevel::Node), (1, DomainLevel::Site), (2, DomainLevel::Country)]
            .map(|(number, level)| map.ranking(&seed(number), level).into_iter().map(number_of).collect())
            .to_vec();
    let expect = [
        [8, 4, 7, 6, 9, 5, 2, 3, 0, 1],
        [9, 5, 2, 8, 3, 4, 6, 7, 1, 0],
        [8, 7, 6, 9, 4, 5, 2, 3, 0, 1],
        [9, 2, 5, 8, 3, 4, 6, 7, 1, 0],
    ];
    assert_eq!(rankings, expect);
    assert_eq!(map.id().to_string(), "039d23860ae42178778d452cbf79b61b");
    // A map as version 1 stored it. It stays when there is a version 2.
    let stored = include_str!("fixtures/map-1.hex").trim_end();
    let bytes: Vec<u8> =
        (0..stored.len()).step_by(2).map(|at| u8::from_str_radix(&stored[at..at + 2], 16).unwrap()).collect();
    assert_eq!(atoll_wire::decode::<Map>(&bytes).unwrap(), map);
}
