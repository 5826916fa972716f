//! The table of acquaintances and its limits.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::collections::BTreeSet;

use super::*;

/// Writes down who is met and who is parted with.
#[derive(Default)]
struct Diary(Mutex<Vec<(NodeId, bool)>>);

impl Society for Diary {
    fn met(&self, who: &Acquaintance) {
        self.0.lock().unwrap().push((who.node, true));
    }

    fn parted(&self, node: &NodeId) {
        self.0.lock().unwrap().push((*node, false));
    }
}

fn node(number: usize) -> NodeId {
    let mut bytes = [3; 32];
    bytes[..8].copy_from_slice(&(number as u64).to_le_bytes());
    NodeId::from_bytes(bytes)
}

fn somebody(number: usize, at: &str) -> (Acquaintance, SocketAddr) {
    let (node, at) = (node(number), at.parse().unwrap());
    let record = AddressRecord { node, sequence: 1, quic: vec![at], lane: Vec::new(), relay: None };
    (Acquaintance { node, record, credentials: Vec::new() }, at)
}

fn apart(number: usize) -> String {
    format!("[2a00:{:x}:{:x}::1]:1", number >> 8, number & 0xff)
}

fn admit(table: &Acquaintances, number: usize, at: &str, wanted: bool) -> Result<Vec<NodeId>, Crowded> {
    let (who, at) = somebody(number, at);
    table.admit((who, at, wanted), &BTreeSet::new())
}

#[test]
fn the_table_is_bounded_and_who_was_used_least_lately_goes() {
    let diary = Arc::new(Diary::default());
    let table = Acquaintances::new(diary.clone());
    for number in 0..ACQUAINTANCES_MAX {
        assert_eq!(admit(&table, number, &apart(number), false), Ok(Vec::new()));
    }
    // The first is used again, the second is in use all the time.
    assert_eq!(admit(&table, 0, &apart(0), false), Ok(Vec::new()));
    let (who, at) = somebody(9999, &apart(9999));
    assert_eq!(table.admit((who, at, false), &BTreeSet::from([node(1)])), Ok(vec![node(2)]));
    assert_eq!(table.count(), ACQUAINTANCES_MAX);
    let diary = diary.0.lock().unwrap();
    assert_eq!(diary[diary.len() - 2..], [(node(2), false), (node(9999), true)]);
}

#[test]
fn one_network_has_a_limited_number_of_places() {
    #[track_caller]
    fn check(at: impl Fn(usize) -> String, max: usize) {
        let table = Acquaintances::new(Arc::new(()));
        for number in 0..ACQUAINTANCES_MAX {
            admit(&table, number, &at(number), false).unwrap();
        }
        assert_eq!(table.count(), max);
    }
    check(|number| format!("[2a00:1:1:1::{number:x}]:1"), PER_NARROW_MAX);
    check(|number| format!("[2a00:1:1:{number:x}::1]:1"), PER_WIDE_MAX);
    check(apart, ACQUAINTANCES_MAX);
}

#[test]
fn strangers_do_not_displace_those_that_were_looked_for() {
    let table = Acquaintances::new(Arc::new(()));
    let at = |number: usize| format!("192.0.2.1:{number}");
    for number in 1..=PER_NARROW_MAX {
        admit(&table, number, &at(number), true).unwrap();
    }
    assert_eq!(admit(&table, 100, &at(100), false), Err(Crowded));
    assert_eq!(admit(&table, 100, &at(100), true), Ok(vec![node(1)]));
}

#[test]
fn what_one_has_shown_is_kept_and_records_do_not_get_older() {
    let table = Acquaintances::new(Arc::new(()));
    let (mut who, at) = somebody(1, "192.0.2.1:1");
    (who.record.sequence, who.credentials) = (5, b"mine".to_vec());
    table.admit((who.clone(), at, false), &BTreeSet::new()).unwrap();
    admit(&table, 1, "192.0.2.1:1", true).unwrap();
    assert_eq!(table.all(), [who]);
    assert_eq!(table.at(node(1).planetary_address()), Some(node(1)));
    assert_eq!(table.at(node(2).planetary_address()), None);
}

#[test]
fn introductions_are_limited() {
    let key = atoll_keys::NodeKey::generate();
    let record = AddressRecord { node: key.id(), sequence: 1, quic: Vec::new(), lane: Vec::new(), relay: None };
    let of = |bytes: usize| Introduction { record: Signed::sign(&record, &key), credentials: vec![7; bytes] };
    let good = of(CREDENTIALS_BYTES_MAX);
    assert_eq!(decode_introduction(&atoll_wire::encode(&good)), Ok(good));
    let refused = decode_introduction(&atoll_wire::encode(&of(CREDENTIALS_BYTES_MAX + 1)));
    assert_eq!(refused, Err(IntroductionError::Credentials { found: CREDENTIALS_BYTES_MAX + 1 }));
}
