//! What nodes say to each other about where nodes are, and what a node does on hearing it from somebody hostile.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::time::Duration;

use atoll_find::{Answer, Ask, Config, Contact, Find, Input, Key, Message, Output, Tell, Whereabouts, decode_message};
use atoll_fuzz::fuzz;
use atoll_ids::NodeId;
use atoll_keys::{NodeKey, Signed, Statement};
use atoll_wire::{Versioned, encode};
use serde::{Deserialize, Serialize};

/// A record of the kind that the network has, in short.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Address {
    node: NodeId,
    sequence: u64,
}

impl Versioned for Address {
    const VERSION: u16 = 1;
    const NAME: &'static str = "address";
}

impl Statement for Address {
    const DOMAIN: &'static str = "atoll/test-address";
}

impl Whereabouts for Address {
    fn node(&self) -> NodeId {
        self.node
    }

    fn sequence(&self) -> u64 {
        self.sequence
    }

    fn is_within_limits(&self) -> bool {
        true
    }
}

type Record = Signed<Address>;

/// Milliseconds since 1970.
const NOW_MS: u64 = 1_800_000_000_000;

fn contact(number: u8) -> Contact {
    Contact { node: NodeId::from_bytes([number; 32]), at: format!("[2a00:{number:x}::1]:4000").parse().unwrap() }
}

fn record() -> Record {
    let key = NodeKey::from_secret_bytes(&[7; 32]);
    Signed::sign(&Address { node: key.id(), sequence: NOW_MS }, &key)
}

fn valid() -> Vec<Vec<u8>> {
    let key = Key::of(&contact(1).node);
    let ask = Ask { id: 1, serves: true, key, contacts: 8, newer_than: Some(5), keep: Some(record()) };
    let answer = Answer { id: 1, record: Some(record()), contacts: vec![contact(2); 8] };
    let tell = Tell { record: record(), hops: 2 };
    [Message::Ask(ask), Message::Answer(answer), Message::Tell(tell)].iter().map(encode).collect()
}

#[test]
fn messages() {
    for bytes in valid() {
        decode_message::<Record>(&bytes).unwrap();
    }
    fuzz!(30_000, valid(), |bytes: &[u8]| {
        match decode_message::<Record>(bytes) {
            Ok(message) => assert_eq!(decode_message(&encode(&message)), Ok(message)),
            Err(error) => assert!(!error.to_string().is_empty()),
        }
    });
}

/// A node hears it from a peer that it has asked something, and says nothing that is not a message, and nobody unsigned is found.
#[test]
fn what_a_node_makes_of_messages() {
    let now = Duration::from_millis(NOW_MS);
    let mut core: Find<Record> = Find::new(contact(9).node, Config { serves: true, seed: 1, sparing: true });
    core.step(now, Input::Peer { contact: contact(1), connected: true });
    core.step(now, Input::Begin(contact(1)));
    fuzz!(5_000, valid(), |bytes: &[u8]| {
        let Ok(message) = decode_message::<Record>(bytes) else { return };
        let mut core = core.clone();
        for output in core.step(now, Input::Received { from: contact(1), message }) {
            match output {
                Output::Send { message, .. } => {
                    decode_message::<Record>(&encode(&message)).unwrap();
                }
                Output::Found { record, .. } => assert!(record.verify().is_ok()),
                Output::NotFound { .. } | Output::Sign { .. } => {}
            }
        }
        assert!(core.wake(now) >= now && core.counts().records <= 1);
    });
}
