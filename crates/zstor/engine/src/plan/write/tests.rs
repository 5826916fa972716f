//! Tables and properties of the write plan.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::collections::HashMap;

use proptest::prelude::*;

use super::*;

fn seats(groups: &[usize], suspects: &[usize]) -> Vec<Seat> {
    let seat = |(i, &group): (usize, &usize)| Seat {
        node: NodeId::from_bytes([i as u8; 32]),
        group,
        suspect: suspects.contains(&i),
    };
    groups.iter().enumerate().map(seat).collect()
}

fn pairs(sends: &[Send]) -> Vec<(usize, usize)> {
    sends.iter().map(|send| (send.index, send.seat)).collect()
}

#[test]
fn first_orders() {
    #[track_caller]
    fn check(groups: &[usize], suspects: &[usize], expect: &[(usize, usize)]) {
        let mut plan = WritePlan::new(3, seats(groups, suspects));
        assert_eq!(pairs(&plan.start()), expect);
    }
    check(&[0, 1, 2, 3], &[], &[(0, 0), (1, 1), (2, 2)]);
    check(&[0, 1, 2, 3], &[1], &[(0, 0), (2, 2), (1, 3)]);
    // No spare: the suspect is asked after all.
    check(&[0, 1, 2], &[1], &[(0, 0), (2, 2), (1, 1)]);
    // The spare is in the domain of another shard: it will not do.
    check(&[0, 1, 2, 2], &[1], &[(0, 0), (2, 2), (1, 1)]);
    // The spare is in the domain that is left free.
    check(&[0, 1, 2, 1], &[1], &[(0, 0), (2, 2), (1, 3)]);
    // Too few seats.
    check(&[0, 1], &[], &[(0, 0), (1, 1)]);
}

#[test]
fn a_late_seat_is_hedged_and_both_copies_are_known() {
    let mut plan = WritePlan::new(2, seats(&[0, 1, 2, 3], &[]));
    plan.start();
    assert_eq!(plan.late(0), Some(Send { index: 0, seat: 2 }));
    plan.stored(1, 1);
    assert_eq!(plan.standing(), Standing::Pending);
    plan.stored(0, 2);
    assert_eq!(plan.standing(), Standing::Complete);
    assert_eq!(plan.exceptions(), [(0, NodeId::from_bytes([2; 32]))]);
    assert_eq!(plan.strays(), [(0, NodeId::from_bytes([0; 32]))]);
    plan.stored(0, 0);
    assert_eq!(plan.strays(), [(0, NodeId::from_bytes([0; 32]))], "a second copy stays known");
}

#[test]
fn a_suspect_stands_in_for_a_late_seat_when_nobody_else_is_left() {
    let mut plan = WritePlan::new(2, seats(&[0, 1, 2, 3], &[2, 3]));
    plan.start();
    assert_eq!(plan.late(1), Some(Send { index: 1, seat: 2 }));
    plan.stored(0, 0);
    plan.stored(1, 2);
    assert_eq!(plan.standing(), Standing::Complete, "the seat that hangs is not waited for");
}

#[test]
fn without_spares_a_failure_is_final() {
    let mut plan = WritePlan::new(2, seats(&[0, 1], &[]));
    plan.start();
    assert_eq!(plan.late(1), None, "nobody else: keep waiting");
    assert_eq!(plan.failed(1, 1, false), None);
    assert_eq!(plan.standing(), Standing::Hopeless);
    assert!(plan.outstanding().iter().all(|send| send.index == 0));
}

proptest! {
    /// Any order of acknowledgements, failures and delays keeps the promises of the module.
    #[test]
    fn promises(
        shards in 1usize..6,
        groups in prop::collection::vec(0usize..8, 0..12),
        suspects in prop::collection::vec(0usize..12, 0..4),
        script in prop::collection::vec((0usize..100, 0u8..3), 0..60),
    ) {
        let mut plan = WritePlan::new(shards, seats(&groups, &suspects));
        let mut outstanding = plan.start();
        let mut asked: HashMap<usize, usize> = HashMap::new();
        let mut note = |sends: &[Send]| for send in sends {
            assert!(asked.insert(send.seat, send.index).is_none(), "a seat is asked once");
        };
        note(&outstanding);
        for (pick, what) in script {
            if outstanding.is_empty() || plan.standing() != Standing::Pending { break; }
            let at = pick % outstanding.len();
            let Send { index, seat } = outstanding[at];
            let more = match what {
                0 => { outstanding.remove(at); plan.stored(index, seat); None }
                1 => { outstanding.remove(at); plan.failed(index, seat, seat % 2 == 0) }
                _ => plan.late(index),
            };
            note(more.as_slice());
            outstanding.extend(more);
        }
        if plan.standing() == Standing::Pending { prop_assert!(!outstanding.is_empty()); }
        let mut used: Vec<usize> = Vec::new();
        for (index, home) in plan.homes.iter().enumerate() {
            for &seat in home.iter() { used.push(seat); prop_assert_eq!(plan.uses[seat], Use::Tried(index)); }
        }
        let mut domains: Vec<usize> = used.iter().map(|&seat| groups[seat]).collect();
        domains.sort_unstable();
        let distinct = { let mut d = domains.clone(); d.dedup(); d.len() };
        // The ranking promises distinct domains among the first `shards`; this random one does not, so only spares are held to it.
        if groups.iter().take(shards).collect::<std::collections::HashSet<_>>().len() == shards.min(groups.len()) {
            prop_assert_eq!(distinct, domains.len());
        }
    }
}
