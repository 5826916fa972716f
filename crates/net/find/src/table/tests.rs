//! What gets in, what stays, and what a flood of made-up nodes can do.
#![allow(clippy::unwrap_used, reason = "tests")]

use proptest::prelude::{any, proptest};
use proptest::{collection::vec, prop_assert};

use super::*;

fn node(number: u32) -> NodeId {
    let mut bytes = [0; 32];
    bytes[..4].copy_from_slice(&number.to_le_bytes());
    NodeId::from_bytes(bytes)
}

/// Each node in a /48 of its own.
fn apart(number: u32) -> Contact {
    let at = format!("[2a00:{:x}:{:x}::1]:1", number >> 16, number & 0xffff);
    Contact { node: node(number), at: at.parse().unwrap() }
}

fn table() -> Table {
    Table::new(Key::of(&node(u32::MAX)))
}

#[test]
fn the_nearest_are_always_there_and_buckets_are_bounded() {
    let mut table = table();
    for number in 0..2000 {
        table.answered(u64::from(number), apart(number));
    }
    let mut all: Vec<u32> = (0..2000).collect();
    all.sort_by_key(|number| table.me.distance(Key::of(&node(*number))));
    let near: Vec<NodeId> = table.near().iter().map(|entry| entry.contact.node).collect();
    assert_eq!(near, all[..NEAR].iter().map(|number| node(*number)).collect::<Vec<_>>());
    // log2(2000 / 16) ≈ 7 full buckets beyond the nearest.
    assert!((NEAR + 6 * BUCKET..=NEAR + 9 * BUCKET).contains(&table.len()), "{}", table.len());
    let estimate = table.estimate();
    assert!((1000..4000).contains(&estimate), "{estimate}");
}

#[test]
fn a_flood_from_one_network_gets_a_few_places() {
    let mut table = table();
    for number in 0..50 {
        table.answered(0, apart(number));
    }
    let before = table.len();
    for number in 1000..50_000 {
        let at = format!("[2001:db8:7:9::{:x}]:1", number & 0xffff).parse().unwrap();
        table.answered(1, Contact { node: node(number), at });
    }
    assert!(table.len() <= before + NARROW_MAX.1);
    for number in 1000..50_000 {
        let at = format!("[2001:db8:7:{:x}::1]:1", number & 0xffff).parse().unwrap();
        table.answered(1, Contact { node: node(number), at });
    }
    let flood = table.entries.iter().filter(|entry| entry.since_ms == 1).count();
    assert!(flood <= WIDE_MAX.1, "{flood}");
}

#[test]
fn who_is_silent_twice_is_dropped_and_once_is_forgiven() {
    let mut table = table();
    table.answered(0, apart(1));
    assert!(table.failed(&node(1)));
    table.answered(1, apart(1));
    assert!(table.failed(&node(1)));
    assert_eq!(table.len(), 1);
    assert!(table.failed(&node(1)));
    assert_eq!(table.len(), 0);
    assert!(!table.failed(&node(1)));
}

#[test]
fn spares_are_few_and_only_who_would_get_in() {
    let mut table = table();
    for number in 0..100 {
        table.offer(apart(number));
    }
    assert_eq!(table.spares.len(), SPARES_MAX);
    let asked = table.next_spare().unwrap();
    table.answered(0, asked);
    table.offer(asked);
    assert!(!table.spares.contains(&asked));
}

proptest! {
    #[test]
    fn the_closest_are_the_closest(numbers in vec(0..5000_u32, 1..200), target in any::<[u8; 16]>(), count in 1..10_usize) {
        let mut table = table();
        for number in &numbers {
            table.answered(0, apart(*number));
        }
        let target = Key::from(target);
        let found = table.closest(target, count, &node(numbers[0]));
        let mut expected: Vec<Contact> = table.entries.iter().map(|entry| entry.contact).collect();
        expected.retain(|contact| contact.node != node(numbers[0]));
        expected.sort_by_key(|contact| target.distance(Key::of(&contact.node)));
        expected.truncate(count);
        prop_assert!(found == expected);
        prop_assert!(table.entries.is_sorted_by_key(|entry| table.me.distance(entry.key)));
    }
}
