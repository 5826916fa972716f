//! The relay in virtual time: budgets hold, turns are fair, memory is bounded.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::collections::BTreeMap;

use proptest::prelude::{any, prop, proptest};

use super::*;

fn node(number: u16) -> NodeId {
    let mut id = [0; 32];
    id[..2].copy_from_slice(&number.to_le_bytes());
    NodeId::from_bytes(id)
}

fn payload(bytes: usize) -> Bytes {
    vec![0; bytes].into()
}

const TO: u16 = 1000;

/// Runs for a while: everyone of `users` keeps offering frames of its size. Gives the payload bytes carried for each.
fn run(budget: Budget, users: &[(u16, usize)], time: Duration) -> (BTreeMap<NodeId, u64>, Forwarder) {
    let (mut forwarder, began) = (Forwarder::new(budget), Instant::now());
    let (mut now, mut carried) = (began, BTreeMap::new());
    while now < began + time {
        for (user, bytes) in users {
            while forwarder.offer(now, node(*user), node(TO), payload(*bytes)).is_ok() {}
        }
        loop {
            match forwarder.next(now) {
                Next::Send { from, payload, .. } => *carried.entry(from).or_default() += payload.len() as u64,
                Next::Wait(wait) => {
                    now += wait.min(Duration::from_millis(10));
                    break;
                }
                Next::Nothing => break,
            }
        }
    }
    (carried, forwarder)
}

#[test]
fn nobody_gets_more_than_its_share_and_all_no_more_than_the_budget() {
    let check = |budget: Budget, users: &[(u16, usize)]| {
        let time = Duration::from_secs(10);
        let (carried, _) = run(budget, users, time);
        let allowed = |rate: u64| rate * time.as_secs() + (rate / 4).max(BURST_LEAST);
        for (user, bytes) in &carried {
            assert!(*bytes <= allowed(budget.rate_per_user), "{user:?} had {bytes}");
        }
        let all: u64 = carried.values().sum();
        assert!(all <= allowed(budget.rate), "{all} altogether");
        all
    };
    let budget = Budget { rate: 100_000, rate_per_user: 40_000 };
    // One alone has its share and no more; three have the budget and no more. Headers count.
    let alone = check(budget, &[(1, 1200)]);
    assert!((380_000..420_000).contains(&alone), "{alone}");
    let three = check(budget, &[(1, 1200), (2, 1200), (3, 1200)]);
    assert!((950_000..1_030_000).contains(&three), "{three}");
}

#[test]
fn who_sends_small_frames_gets_as_many_bytes_as_who_sends_large_ones() {
    let budget = Budget { rate: 100_000, rate_per_user: 100_000 };
    let (carried, _) = run(budget, &[(1, 1400), (2, 100), (3, 700)], Duration::from_secs(20));
    let with_headers = |user: u16, size: u64| carried[&node(user)] / size * (size + HEADER_BYTES as u64);
    let shares = [with_headers(1, 1400), with_headers(2, 100), with_headers(3, 700)];
    let (least, most) = (shares.iter().min().unwrap(), shares.iter().max().unwrap());
    assert!(most - least < most / 20, "{shares:?}");
}

#[test]
fn one_who_sends_little_is_not_delayed_by_one_who_sends_much() {
    let (mut forwarder, now) = (Forwarder::new(Budget { rate: 100_000, rate_per_user: 100_000 }), Instant::now());
    while forwarder.offer(now, node(1), node(TO), payload(1200)).is_ok() {}
    assert!(matches!(forwarder.next(now), Next::Send { .. }));
    forwarder.offer(now, node(2), node(TO), payload(100)).unwrap();
    let order: Vec<NodeId> = std::iter::from_fn(|| match forwarder.next(now) {
        Next::Send { from, .. } => Some(from),
        _ => None,
    })
    .take(4)
    .collect();
    assert!(order.contains(&node(2)), "{order:?}");
}

#[test]
fn what_is_too_much_is_refused_and_counted() {
    let (mut forwarder, now) = (Forwarder::new(Budget { rate: 1000, rate_per_user: 1000 }), Instant::now());
    let mut taken = 0;
    let refusal = loop {
        match forwarder.offer(now, node(1), node(TO), payload(1000)) {
            Ok(()) => taken += 1,
            Err(refusal) => break refusal,
        }
    };
    assert_eq!(refusal, Refusal::Budget);
    assert!(taken * 1000 <= USER_QUEUE_BYTES_MAX);
    let counts = forwarder.counts(now);
    assert_eq!((counts.refused, counts.refused_budget, counts.users), (1, 1, 1));
}

#[test]
fn one_user_too_many_waits_until_another_was_quiet() {
    let (mut forwarder, now) = (Forwarder::new(Budget { rate: 1 << 20, rate_per_user: 1 << 20 }), Instant::now());
    for user in 0..USERS_MAX as u16 {
        forwarder.offer(now, node(user), node(TO), payload(10)).unwrap();
    }
    let late = node(USERS_MAX as u16);
    assert_eq!(forwarder.offer(now, late, node(TO), payload(10)), Err(Refusal::Crowded));
    while matches!(forwarder.next(now), Next::Send { .. }) {}
    assert_eq!(forwarder.offer(now + QUIET, late, node(TO), payload(10)), Ok(()));
}

proptest! {
    #[test]
    fn memory_is_bounded_and_every_frame_comes_out_once_and_in_order(
        steps in prop::collection::vec((0u16..8, 1usize..1500, 0u64..30, any::<bool>()), 1..400)
    ) {
        let (mut forwarder, mut now) = (Forwarder::new(Budget { rate: 50_000, rate_per_user: 20_000 }), Instant::now());
        let (mut offered, mut came): (BTreeMap<NodeId, Vec<usize>>, BTreeMap<NodeId, Vec<usize>>) = Default::default();
        for (user, bytes, pause, take) in steps {
            now += Duration::from_millis(pause);
            if forwarder.offer(now, node(user), node(TO), payload(bytes)).is_ok() {
                offered.entry(node(user)).or_default().push(bytes);
            }
            if take && let Next::Send { from, payload, .. } = forwarder.next(now) {
                came.entry(from).or_default().push(payload.len());
            }
            assert!(forwarder.waiting <= QUEUE_BYTES_MAX);
            assert!(forwarder.users.values().all(|user| user.bytes <= USER_QUEUE_BYTES_MAX));
        }
        loop {
            match forwarder.next(now) {
                Next::Send { from, payload, .. } => came.entry(from).or_default().push(payload.len()),
                Next::Wait(wait) => now += wait,
                Next::Nothing => break,
            }
        }
        assert_eq!(offered, came);
        assert_eq!(forwarder.waiting, 0);
        assert!(forwarder.turns.is_empty());
    }
}

#[test]
fn a_stranger_gets_little_until_it_is_one_no_more() {
    let budget = Budget { rate: 1 << 20, rate_per_user: 1 << 20 };
    let (mut forwarder, began) = (Forwarder::new(budget), Instant::now());
    let mut carried_for = |began: Instant, guest: bool| {
        let (mut now, mut carried) = (began, 0);
        while now < began + Duration::from_secs(10) {
            let offer = if guest { Forwarder::offer_from_guest } else { Forwarder::offer };
            while offer(&mut forwarder, now, node(1), node(TO), payload(1000)).is_ok() {}
            while let Next::Send { payload, .. } = forwarder.next(now) {
                carried += payload.len() as u64;
            }
            now += Duration::from_millis(10);
        }
        carried
    };
    let carried = carried_for(began, true);
    assert!((GUEST_RATE * 8..GUEST_RATE * 11 + BURST_LEAST).contains(&carried), "{carried}");
    let carried = carried_for(began + Duration::from_secs(10), false);
    assert!(carried > 8 << 20, "{carried}");
}

/// Strangers come, send what they may and are replaced by others, all the time; a peer has its share all the same.
#[test]
fn strangers_that_come_and_go_have_a_small_part_together() {
    let budget = Budget { rate: 800_000, rate_per_user: 800_000 };
    let (mut forwarder, began) = (Forwarder::new(budget), Instant::now());
    let (time, peer) = (Duration::from_secs(5), node(1));
    let (mut now, mut number) = (began, 1000);
    let (mut of_peer, mut of_guests) = (0u64, 0u64);
    while now < began + time {
        for _ in 0..16 {
            number += 1;
            while forwarder.offer_from_guest(now, node(number), peer, payload(1200)).is_ok() {}
        }
        while forwarder.offer(now, peer, node(TO), payload(1200)).is_ok() {}
        loop {
            match forwarder.next(now) {
                Next::Send { from, payload, .. } if from == peer => of_peer += payload.len() as u64,
                Next::Send { payload, .. } => of_guests += payload.len() as u64,
                Next::Wait(_) | Next::Nothing => break,
            }
        }
        for gone in number - 15..=number {
            forwarder.leave(&node(gone));
        }
        now += Duration::from_millis(10);
    }
    let rate = |bytes: u64| bytes / time.as_secs();
    assert!(rate(of_guests) <= budget.rate / GUESTS_PART + 10_000, "{}", rate(of_guests));
    assert!(rate(of_peer) >= budget.rate / 2, "{}", rate(of_peer));
    let counts = forwarder.counts(now);
    assert!(forwarder.users.len() <= 1 && counts.waiting_bytes <= USER_QUEUE_BYTES_MAX as u64, "{counts:?}");
}

#[test]
fn who_was_a_stranger_and_became_a_peer_does_not_leave() {
    let (mut forwarder, now) = (Forwarder::new(Budget { rate: 100_000, rate_per_user: 100_000 }), Instant::now());
    forwarder.offer_from_guest(now, node(1), node(2), payload(100)).unwrap();
    forwarder.offer(now, node(1), node(2), payload(100)).unwrap();
    forwarder.leave(&node(1));
    assert!(matches!(forwarder.next(now), Next::Send { .. }) && matches!(forwarder.next(now), Next::Send { .. }));
    assert_eq!(forwarder.next(now), Next::Nothing);
}
