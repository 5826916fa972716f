//! What neighbours say to each other about routes, headers of forwarded packets, and what a node does on hearing it from somebody hostile.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::time::Duration;

use atoll_fuzz::fuzz;
use atoll_ids::NodeId;
use atoll_keys::{NodeKey, Signed};
use atoll_route::{
    Address, Beacon, Header, Hop, Input, Message, Output, Phase, Request, Router, Update, decode_message,
};
use atoll_wire::{decode, encode};

/// Milliseconds since 1970.
const NOW_MS: u64 = 1_800_000_000_000;

fn node(number: u8) -> NodeId {
    NodeId::from_bytes([number; 32])
}

fn valid() -> Vec<Vec<u8>> {
    let key = NodeKey::from_secret_bytes(&[7; 32]);
    let beacon = Signed::sign(&Beacon { node: key.id(), sequence: NOW_MS, landmark: true }, &key);
    let updates = vec![Update::Route { beacon, metric_us: 1000, path: vec![1, 300] }, Update::Gone { node: node(3) }];
    let requests = vec![Request { node: node(9), sequence: 5, metric_us: 7, hops: 3 }];
    vec![encode(&Message { updates, requests })]
}

#[test]
fn messages() {
    decode_message::<Signed<Beacon>>(&valid()[0]).unwrap();
    fuzz!(30_000, valid(), |bytes: &[u8]| {
        match decode_message::<Signed<Beacon>>(bytes) {
            Ok(message) => assert_eq!(decode_message(&encode(&message)), Ok(message)),
            Err(error) => assert!(!error.to_string().is_empty()),
        }
    });
}

#[test]
fn headers() {
    let core: Router<Signed<Beacon>> = Router::new(node(9));
    let address = Address { landmark: node(9), path: vec![1, 2, 3] };
    let phases = [Phase::Direct, Phase::Labels(vec![4, 5]), Phase::Landmark(address)];
    let valid = phases.map(|phase| encode(&Header { to: node(1), phase, hops: 9 }));
    fuzz!(30_000, valid.to_vec(), |bytes: &[u8]| {
        if let Ok(header) = decode::<Header>(bytes) {
            assert_eq!(decode::<Header>(&encode(&header)), Ok(header.clone()));
            // Who has no neighbours forwards nothing.
            assert!(!matches!(core.forward(header), Hop::Next(..)));
        }
    });
}

/// A node hears it from a neighbour; only what the one honest key signed becomes a route.
#[test]
fn what_a_node_makes_of_messages() {
    let now = Duration::from_millis(NOW_MS);
    let signer = NodeKey::from_secret_bytes(&[7; 32]).id();
    let mut core: Router<Signed<Beacon>> = Router::new(node(9));
    for neighbour in [node(1), node(2)] {
        core.step(now, Input::Up { neighbour, round_trip: Duration::from_millis(10) });
    }
    fuzz!(5_000, valid(), |bytes: &[u8]| {
        let Ok(message) = decode_message::<Signed<Beacon>>(bytes) else { return };
        let mut core = core.clone();
        let mut out = core.step(now, Input::Received { from: node(1), message });
        let later = core.wake(now);
        assert!(later >= now);
        out.extend(core.step(later + Duration::from_secs(1), Input::Tick));
        for output in out {
            if let Output::Send { message, .. } = output {
                decode_message::<Signed<Beacon>>(&encode(&message)).unwrap();
            }
        }
        let counts = core.counts();
        let routes = counts.vicinity + counts.landmarks;
        assert!(routes == usize::from(core.next_hop(&signer).is_some()), "a route to somebody who signed nothing");
    });
}
