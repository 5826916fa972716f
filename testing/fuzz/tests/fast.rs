//! What comes from the network for the fast path: sealed packets, the terms of a path, and counters.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::cell::RefCell;
use std::collections::HashSet;
use std::time::Instant;

use atoll_fast::{
    HEADER_BYTES, Half, Header, Kind, OpenError, Opener, Ports, Sealer, Secret, Side, TAG_BYTES, Terms, Window,
    decode_terms,
};
use atoll_fuzz::fuzz;
use atoll_ids::NodeId;
use atoll_wire::{decode, encode};

/// What the dialler seals with and the acceptor opens with.
fn path() -> (Sealer, Opener) {
    let (one, two) = (NodeId::from_bytes([1; 32]), NodeId::from_bytes([2; 32]));
    let secret = Secret::export(|out| {
        out.fill(7);
        Ok::<(), ()>(())
    })
    .unwrap();
    let (ours, theirs) = (Half::draw(3, Ports::default()), Half::draw(4, Ports::default()));
    let (our_terms, their_terms) = (ours.terms().clone(), theirs.terms().clone());
    let (sealer, _) = ours.join(&secret, Side::Dialler, &one, &two, &their_terms);
    let (_, opener) = theirs.join(&secret, Side::Acceptor, &two, &one, &our_terms);
    (sealer, opener)
}

fn sealed(sealer: &mut Sealer, text: &[u8]) -> Vec<u8> {
    let mut slot = [&[0; HEADER_BYTES][..], text, &[0; TAG_BYTES]].concat();
    sealer.seal(Kind::Packet, &mut slot).unwrap();
    slot
}

#[test]
fn sealed_packets() {
    let (mut sealer, opener) = path();
    let opener = RefCell::new(opener);
    let genuine = sealed(&mut sealer, b"a packet");
    fuzz!(30_000, vec![genuine.clone()], |bytes: &[u8]| {
        let mut changed = bytes.to_vec();
        if bytes != genuine {
            let error = opener.borrow_mut().open(Instant::now(), &mut changed).unwrap_err();
            // No sealer comes to the last counter, and no window takes it.
            let last = Header::read(bytes).is_some_and(|header| header.counter == u64::MAX);
            assert!(last || !matches!(error, OpenError::Replayed), "nothing was opened yet");
        }
    });
    let (mut opener, mut once) = (opener.into_inner(), genuine.clone());
    let (kind, text) = opener.open(Instant::now(), &mut once).unwrap();
    assert_eq!((kind, &*text), (Kind::Packet, &b"a packet"[..]));
    assert_eq!(opener.open(Instant::now(), &mut genuine.clone()).unwrap_err(), OpenError::Replayed);
}

#[test]
fn headers() {
    let (mut sealer, _) = path();
    fuzz!(20_000, vec![sealed(&mut sealer, b"")], |bytes: &[u8]| {
        if let Some(header) = Header::read(bytes) {
            assert!(bytes.len() >= HEADER_BYTES + TAG_BYTES && header.epoch < 1 << 24);
        }
    });
}

#[test]
fn terms_of_a_path() {
    let valid = Half::draw(9, Ports { v4: 4000, v6: 4001 }).terms().clone();
    fuzz!(20_000, vec![encode(&valid)], |bytes: &[u8]| {
        if let Ok(terms) = decode_terms(bytes) {
            assert_eq!(decode::<Terms>(&encode(&terms)), Ok(terms.clone()));
            let (one, two) = (NodeId::from_bytes([1; 32]), NodeId::from_bytes([2; 32]));
            let secret = Secret::export(|_| Ok::<(), ()>(())).unwrap();
            let _ = Half::draw(1, Ports::default()).join(&secret, Side::Acceptor, &one, &two, &terms);
        }
    });
}

/// Eight bytes are a counter. Whatever the order, each is seen once.
#[test]
fn counters() {
    let seed = [0u64, 5, 8128, 8127, 1 << 40, 3, u64::MAX - 1].map(u64::to_be_bytes).concat();
    fuzz!(20_000, vec![seed], |bytes: &[u8]| {
        let (mut window, mut seen) = (Window::default(), HashSet::new());
        for counter in bytes.chunks_exact(8).map(|bytes| u64::from_be_bytes(bytes.try_into().unwrap())) {
            if window.is_new(counter) {
                window.see(counter);
                assert!(seen.insert(counter), "{counter} twice");
            }
        }
    });
}
