//! What nodes tell each other about themselves: tickets, the frames of joining and meeting, address records.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::net::SocketAddr;

use atoll_fuzz::fuzz;
use atoll_ids::NodeId;
use atoll_keys::{NodeKey, Signed};
use atoll_link::{
    AddressRecord, Hello, JoinAnswer, JoinHello, JoinRefusal, RecordError, StoredPeer, Ticket, TicketError,
    decode_hello, decode_join_answer, decode_join_hello, is_dialable, open_record,
};
use atoll_wire::{DecodeError, Versioned, decode, encode};
use data_encoding::BASE32_NOPAD;
use serde::{Deserialize, Serialize};

/// What a ticket's text starts with.
const TICKET_PREFIX: &str = "atoll1";

fn key() -> NodeKey {
    NodeKey::from_secret_bytes(&[7; 32])
}

fn record(key: &NodeKey) -> AddressRecord {
    let places = vec!["192.0.2.1:4000".parse().unwrap(), "[2001:db8::1]:4000".parse().unwrap()];
    let relay = Some("https://relay.example".to_owned());
    AddressRecord { node: key.id(), sequence: 5, quic: places.clone(), lane: places, relay }
}

/// The fields of a ticket, whose type has no constructor for strangers: record, secret, end.
#[derive(Serialize, Deserialize)]
struct TicketBody(Signed<AddressRecord>, [u8; 16], u64);

impl Versioned for TicketBody {
    const VERSION: u16 = 1;
    const NAME: &'static str = "ticket";
}

/// The same with relays: each a node and its addresses for QUIC and for lanes.
#[derive(Serialize, Deserialize)]
struct TicketBodyWithRelays(Signed<AddressRecord>, [u8; 16], u64, Vec<(NodeId, Vec<SocketAddr>, Vec<SocketAddr>)>);

impl Versioned for TicketBodyWithRelays {
    const VERSION: u16 = 2;
    const NAME: &'static str = "ticket";
}

fn ticket_body_with_relays() -> Vec<u8> {
    let record = record(&key());
    let relay = (NodeId::from_bytes([3; 32]), record.quic.clone(), record.lane.clone());
    let signed = Signed::sign(&record, &key());
    encode(&TicketBodyWithRelays(signed, [9; 16], 1_800_000_000, vec![relay.clone(), relay]))
}

fn ticket_body() -> Vec<u8> {
    encode(&TicketBody(Signed::sign(&record(&key()), &key()), [9; 16], 1_800_000_000))
}

/// The text of a ticket with this body, its checksum made to fit.
fn ticket_text(body: &[u8]) -> String {
    let hash = blake3::derive_key("atoll 2026-11 ticket checksum v1", body);
    format!("{TICKET_PREFIX}{}", BASE32_NOPAD.encode(&[body, &hash[..4]].concat()).to_ascii_lowercase())
}

#[test]
fn ticket_texts() {
    let originals = [ticket_body(), ticket_body_with_relays()].map(|body| ticket_text(&body));
    for original in &originals {
        assert_eq!(original.parse::<Ticket>().unwrap().to_string(), *original);
    }
    fuzz!(20_000, originals.iter().map(|text| text.clone().into_bytes()).collect(), |bytes: &[u8]| {
        let text = String::from_utf8_lossy(bytes);
        match text.parse::<Ticket>() {
            Ok(ticket) => assert!(originals.contains(&ticket.to_string()), "a changed ticket passed"),
            Err(error) => assert!(!error.to_string().is_empty()),
        }
    });
}

#[test]
fn tickets_behind_their_checksum() {
    fuzz!(3_000, vec![ticket_body(), ticket_body_with_relays()], |bytes: &[u8]| {
        match ticket_text(bytes).parse::<Ticket>() {
            // Secret, end and relays are not signed, but what the inviting node says about itself is.
            Ok(ticket) => {
                assert_eq!(*ticket.record(), record(&key()));
                assert!(ticket.relays().count() <= 3);
                assert_eq!(ticket.to_string().parse(), Ok(ticket));
            }
            Err(error) => assert_ne!(error, TicketError::Damaged, "the checksum of this test is not the ticket's"),
        }
    });
}

/// What is decoded must be the same when encoded and decoded again.
fn stable<T: Versioned + PartialEq + std::fmt::Debug>(bytes: &[u8], decode: fn(&[u8]) -> Result<T, DecodeError>) {
    if let Ok(value) = decode(bytes) {
        assert_eq!(decode(&encode(&value)), Ok(value));
    }
}

#[test]
fn frames_of_joining_and_meeting() {
    let key = key();
    let record = Signed::sign(&record(&key), &key);
    let valid = vec![
        encode(&JoinHello { record: record.clone(), proof: [3; 32] }),
        encode(&JoinAnswer::Welcome { record: record.clone() }),
        encode(&JoinAnswer::Refused(JoinRefusal::UsedUp)),
        encode(&Hello { record: record.clone(), known: 7, instance: 8 }),
        encode(&StoredPeer { record, last_seen: 9 }),
    ];
    fuzz!(30_000, valid, |bytes: &[u8]| {
        stable(bytes, decode_join_hello);
        stable(bytes, decode_join_answer);
        stable(bytes, decode_hello);
        stable(bytes, decode::<StoredPeer>);
    });
}

/// Records that their node did sign, whatever they say: a peer may be hostile.
#[test]
fn address_records_behind_their_signature() {
    let key = key();
    fuzz!(3_000, vec![encode(&record(&key))], |bytes: &[u8]| {
        stable(bytes, decode::<AddressRecord>);
        let Ok(mut said) = decode::<AddressRecord>(bytes) else { return };
        let own = said.node == key.id();
        // What is its node's own may still be larger than is accepted.
        let refused = open_record(&Signed::sign(&said, &key));
        assert_eq!(!matches!(refused, Err(RecordError::Foreign { .. })), own);
        said.node = key.id();
        if let Ok(opened) = open_record(&Signed::sign(&said, &key)) {
            assert!(opened.quic.iter().chain(&opened.lane).all(is_dialable));
        }
    });
}
