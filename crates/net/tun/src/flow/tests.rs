//! Conversations: how long they last, and who loses what when there are too many.
#![allow(clippy::unwrap_used, reason = "tests")]

use proptest::prelude::{any, prop_assert, prop_assert_eq, proptest};

use super::*;

fn udp(peer: PeerIndex, ours: u16) -> Key {
    Key::new(Protocol::Udp, peer, ours, 53)
}

fn flags(letters: &str) -> Option<TcpFlags> {
    let has = |letter: char| letters.contains(letter);
    Some(TcpFlags { opens: has('S') && !has('A'), finishes: has('F'), resets: has('R') })
}

/// Them speaking in it, if it goes on.
fn hears(flows: &mut Flows, now: Instant, key: Key, flags: Option<TcpFlags>) -> bool {
    let found = flows.find(now, key);
    if let Some(found) = found {
        flows.goes_on(now, found, Opener::Them, flags);
    }
    found.is_some()
}

#[test]
fn a_key_is_what_it_was_made_of() {
    let key = Key::new(Protocol::Echo, 0xab_cdef, 7, 65_535);
    assert_eq!((key.protocol(), key.peer(), key.ours(), key.theirs()), (Protocol::Echo, 0xab_cdef, 7, 65_535));
}

#[test]
fn a_conversation_ends_when_it_is_silent() {
    let (mut flows, start) = (Flows::default(), Instant::now());
    flows.begin(start, udp(1, 1), Opener::Us);
    assert!(!hears(&mut flows, start + UDP_ASKED, udp(1, 1), None));
    assert!(hears(&mut flows, start + UDP_ASKED / 2, udp(1, 1), None));
    // Answered, it stays longer.
    assert!(flows.find(start + UDP_ASKED / 2 + UDP_ASKED * 2, udp(1, 1)).is_some());
    assert!(flows.find(start + UDP_ASKED / 2 + UDP_ANSWERED, udp(1, 1)).is_none());
    flows.sweep(start + UDP_ASKED / 2 + UDP_ANSWERED);
    assert_eq!((flows.len(), flows.by_count.len()), (0, 0));
}

#[test]
fn an_ended_connection_is_forgotten_soon() {
    let (mut flows, start) = (Flows::default(), Instant::now());
    let key = Key::new(Protocol::Tcp, 1, 1, 53);
    flows.begin(start, key, Opener::Us);
    assert!(hears(&mut flows, start, key, flags("SA")));
    assert!(flows.find(start + TCP_OPEN / 2, key).is_some());
    assert!(hears(&mut flows, start, key, flags("FA")));
    assert!(flows.find(start + TCP_CLOSING, key).is_none());
    // Opened anew from the same port by who opened it before, and only by that one.
    assert!(hears(&mut flows, start, key, flags("S")));
    assert!(flows.find(start + TCP_CLOSING, key).is_none());
    let found = flows.find(start, key).unwrap();
    flows.goes_on(start, found, Opener::Us, flags("S"));
    assert!(hears(&mut flows, start, key, flags("SA")));
    assert!(flows.find(start + TCP_OPEN / 2, key).is_some());
}

/// Fills the table with conversations that one peer begins, and says what is left of another's.
fn flood(flows: &mut Flows, now: Instant, peers: std::ops::Range<PeerIndex>, each: u16) {
    for port in 0..each {
        for peer in peers.clone() {
            flows.begin(now, Key::new(Protocol::Udp, peer, 9, port), Opener::Them);
        }
    }
}

#[test]
fn a_flood_takes_nothing_from_others() {
    let (mut flows, now) = (Flows::default(), Instant::now());
    // Sixteen quiet peers with a thousand conversations each; nobody answered half of them yet.
    for peer in 0..16 {
        for port in 0..1000 {
            flows.begin(now, udp(peer, port), Opener::Us);
            if port % 2 == 0 {
                assert!(hears(&mut flows, now, udp(peer, port), None));
            }
        }
    }
    // One begins all that it can, then four together fill the table, and go on.
    flood(&mut flows, now, 16..17, u16::MAX);
    assert_eq!(flows.len(), 16_000 + FLOWS_PER_REMOTE_MAX);
    flood(&mut flows, now, 16..20, 30_000);
    assert_eq!(flows.len(), FLOWS_MAX);
    for peer in 0..16 {
        assert!((0..1000).all(|port| flows.find(now, udp(peer, port)).is_some()), "peer {peer} lost something");
    }
    // Somebody new finds a place.
    flows.begin(now, udp(30, 9), Opener::Us);
    assert!(flows.find(now, udp(30, 9)).is_some());
    assert_eq!(flows.len(), FLOWS_MAX);
}

#[test]
fn a_flood_takes_the_floods_own_first() {
    let (mut flows, start) = (Flows::default(), Instant::now());
    flows.begin(start, udp(1, 1), Opener::Us);
    assert!(hears(&mut flows, start, udp(1, 1), None));
    flows.begin(start, udp(1, 2), Opener::Us);
    flood(&mut flows, start, 1..2, u16::MAX);
    assert_eq!(flows.len(), FLOWS_PER_REMOTE_MAX);
    assert!(flows.find(start, udp(1, 1)).is_some(), "it went on in both directions");
    assert!(flows.find(start, udp(1, 2)).is_some(), "we asked");
}

#[test]
fn of_what_goes_on_the_silent_one_goes() {
    let (mut flows, start) = (Flows::default(), Instant::now());
    let key = |port: u16| Key::new(Protocol::Udp, 1, port, 1);
    let most = FLOWS_PER_REMOTE_MAX as u16;
    for port in 0..most {
        flows.begin(start, key(port), Opener::Us);
        assert!(hears(&mut flows, start, key(port), None));
    }
    let later = start + Duration::from_secs(1);
    assert!(hears(&mut flows, later, key(0), None));
    flows.begin(later, key(most), Opener::Us);
    assert!(flows.find(later, key(0)).is_some(), "it spoke since");
    assert_eq!(flows.len(), usize::from(most));
}

proptest! {
    /// Whatever happens, the lists and counts say the same as the table.
    #[test]
    fn the_books_agree(steps in proptest::collection::vec((any::<u8>(), 0u32..4, 0u16..6, any::<u8>()), 0..200)) {
        let (mut flows, mut now) = (Flows::default(), Instant::now());
        for (what, peer, port, letter) in steps {
            let key = Key::new(Protocol::Tcp, peer, port, 1);
            match what % 6 {
                0 => flows.begin(now, key, if letter % 2 == 0 { Opener::Us } else { Opener::Them }),
                1 => flows.sweep(now),
                2 => flows.forget(peer),
                3 => now += Duration::from_secs(u64::from(letter)),
                _ => {
                    if let Some(found) = flows.find(now, key) {
                        let by = if what % 2 == 0 { Opener::Us } else { Opener::Them };
                        flows.goes_on(now, found, by, flags(["S", "SA", "A", "F", "R"][usize::from(letter) % 5]));
                    }
                }
            }
            let mut listed = 0;
            for (peer, share) in flows.shares.iter().enumerate() {
                let mut count = 0;
                for (class, list) in share.lists.iter().enumerate() {
                    let (mut at, mut before) = (list.first, NONE);
                    while at != NONE {
                        let flow = &flows.slots[at as usize];
                        prop_assert_eq!((flow.key.peer() as usize, flow.class(), flow.before), (peer, class, before));
                        prop_assert_eq!(flows.index.get(&flow.key), Some(&at));
                        (before, at) = (at, flow.after);
                        count += 1;
                    }
                    prop_assert_eq!(list.last, before);
                }
                prop_assert_eq!(share.count, count);
                prop_assert_eq!(flows.by_count.contains(&(count, peer as u32)), count > 0);
                listed += count as usize;
            }
            prop_assert_eq!(listed, flows.len());
            prop_assert!(flows.slots.len() == flows.len() + flows.free.len());
        }
    }
}
