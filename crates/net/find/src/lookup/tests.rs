//! Lookups end, ask nobody twice, and their paths share nobody.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::collections::BTreeSet;

use proptest::collection::vec;
use proptest::prelude::{any, proptest};
use proptest::prop_assert;

use super::*;

fn contact(number: u32) -> Contact {
    let mut bytes = [2; 32];
    bytes[..4].copy_from_slice(&number.to_le_bytes());
    let at = format!("[2a00:{:x}:{:x}::1]:1", number >> 16, number & 0xffff);
    Contact { node: NodeId::from_bytes(bytes), at: at.parse().unwrap() }
}

fn lookup(seeds: &[u32]) -> Lookup {
    let me = NodeId::from_bytes([9; 32]);
    let seeds = seeds.iter().map(|number| contact(*number)).collect();
    Lookup::new(me, Purpose::Refresh, Key::from([0; 16]), 0, seeds)
}

#[test]
fn a_lookup_that_knows_nobody_is_done() {
    let mut lookup = lookup(&[]);
    assert!(lookup.next(0).is_empty());
    assert!(lookup.is_done() && !lookup.was_answered());
}

#[test]
fn a_late_answer_makes_the_path_ask_another_and_still_counts() {
    let mut lookup = lookup(&[1, 2, 3, 4, 5, 6]);
    let first = lookup.next(0);
    assert_eq!(first.len(), PATHS);
    assert!(lookup.next(LATE_MS - 1).is_empty());
    assert_eq!(lookup.wake_ms(1), Some(LATE_MS));
    assert_eq!(lookup.next(LATE_MS).len(), PATHS);
    assert_eq!(lookup.answered(first[0].0, &first[0].1.node, &[contact(7)]), 1);
    assert!(lookup.was_answered());
}

/// Somebody answers with neighbours of the key that they made up, all in one network.
#[test]
fn made_up_neighbours_do_not_fill_a_shortlist() {
    let mut lookup = lookup(&[1]);
    let (path, asked) = lookup.next(0)[0];
    let at = "[2001:db8::1]:1".parse().unwrap();
    let made_up: Vec<Contact> = (100..108).map(|number| Contact { at, ..contact(number) }).collect();
    lookup.answered(path, &asked.node, &made_up);
    assert!(lookup.paths.iter().all(|path| path.len() <= 1 + NARROW_MAX));
}

proptest! {
    /// Whatever is answered, by whomever it pleases not to.
    #[test]
    fn it_ends_and_asks_nobody_twice(
        seeds in vec(0..40_u32, 1..9),
        answers in vec((any::<bool>(), vec(0..400_u32, 0..8)), 0..200),
    ) {
        let mut lookup = lookup(&seeds);
        let mut asked = BTreeSet::new();
        let mut answers = answers.into_iter();
        let mut now = 0;
        loop {
            let questions = lookup.next(now);
            if questions.is_empty() {
                prop_assert!(lookup.is_done());
                break;
            }
            for (path, contact_asked) in questions {
                prop_assert!(asked.insert(contact_asked.node), "asked twice");
                match answers.next() {
                    Some((true, contacts)) => {
                        let contacts: Vec<Contact> = contacts.into_iter().map(contact).collect();
                        lookup.answered(path, &contact_asked.node, &contacts);
                    }
                    _ => lookup.silent(path, &contact_asked.node),
                }
            }
            now += 1;
        }
        prop_assert!(asked.len() <= ASKED_MAX + PATHS);
    }
}
