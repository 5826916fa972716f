//! Newest wins, old is refused, and a flood displaces nobody who proved themselves.
#![allow(clippy::unwrap_used, reason = "tests")]

use super::*;
use crate::record::{LIFETIME, SKEW, millis};
use crate::testing::Plain;

const NOW: u64 = 1_800_000_000_000;

fn node(number: u32) -> NodeId {
    let mut bytes = [1; 32];
    bytes[..4].copy_from_slice(&number.to_le_bytes());
    NodeId::from_bytes(bytes)
}

fn at(network: u32) -> SocketAddr {
    format!("[2a00:{:x}:{:x}::1]:1", network >> 16, network & 0xffff).parse().unwrap()
}

fn store() -> Store<Plain> {
    Store::new(Key::of(&node(u32::MAX)))
}

fn put(store: &mut Store<Plain>, number: u32, sequence: u64, from: u32, network: u32) -> Put {
    let record = Plain::new(node(number), sequence);
    store.put(NOW, &record, record.open().unwrap(), &node(from), at(network))
}

#[test]
fn the_newest_wins_whoever_brings_it() {
    let mut store = store();
    assert_eq!(put(&mut store, 1, NOW, 1, 1), Put::News);
    assert_eq!(put(&mut store, 1, NOW, 1, 1), Put::Known);
    assert_eq!(put(&mut store, 1, NOW - 1, 2, 2), Put::Known);
    assert_eq!(put(&mut store, 1, NOW + 1, 2, 2), Put::News);
    assert_eq!(store.get(NOW, Key::of(&node(1))).unwrap().0.sequence, NOW + 1);
}

#[test]
fn what_is_old_or_of_the_future_is_refused() {
    let mut store = store();
    assert_eq!(put(&mut store, 1, NOW - millis(LIFETIME), 1, 1), Put::Refused);
    assert_eq!(put(&mut store, 1, NOW + millis(SKEW) + 1, 1, 1), Put::Refused);
    assert_eq!(put(&mut store, 1, NOW - millis(LIFETIME) + 1, 1, 1), Put::News);
    assert!(store.get(NOW + 1, Key::of(&node(1))).is_none());
    store.expire(NOW + 1);
    assert_eq!(store.len(), 0);
}

#[test]
fn a_flood_of_made_up_keys_displaces_nobody() {
    let mut store = store();
    for number in 0..500 {
        assert_eq!(put(&mut store, number, NOW, number, number), Put::News);
    }
    // Brought by others from many networks; and by themselves, from one.
    for number in 1000..5000 {
        put(&mut store, number, NOW, 7, number);
        put(&mut store, 10_000 + number, NOW, 10_000 + number, 99_999);
    }
    assert!(store.len() <= RECORDS_MAX);
    for number in 0..500 {
        assert!(store.get(NOW, Key::of(&node(number))).is_some(), "{number} was displaced");
    }
    let of_one = store.kept.values().filter(|kept| kept.network == Network::narrow(at(99_999))).count();
    assert_eq!(of_one, PER_NETWORK_MAX);
}

#[test]
fn proven_records_of_one_network_give_way_before_those_of_many() {
    let mut store = store();
    for network in 0..100 {
        for number in 0..PER_NETWORK_MAX as u32 {
            let number = 1_000_000 + network * 100 + number;
            put(&mut store, number, NOW, number, network);
        }
    }
    assert_eq!(store.len(), RECORDS_MAX);
    for number in 0..100 {
        assert_eq!(put(&mut store, number, NOW, number, 1000 + number), Put::News);
    }
    for number in 0..100 {
        assert!(store.get(NOW, Key::of(&node(number))).is_some());
    }
}
