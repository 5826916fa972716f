//! What nodes say to their peers: cards, on whose owner's behalf, and questions about their filters with the answers.
#![allow(clippy::unwrap_used, reason = "tests")]

use atoll_fuzz::fuzz;
use atoll_ids::{NodeId, OwnerId};
use atoll_keys::{OwnerKey, Signed, Statement};
use atoll_node::{CheckAnswer, CheckQuestion, check_card};
use atoll_tun::Probe;
use atoll_wire::{Versioned, decode, encode};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

/// A card as it is sent. The type itself has no constructor for strangers.
#[derive(Clone, Serialize, Deserialize)]
#[serde(bound = "")]
struct SentCard<T> {
    name: Option<String>,
    version: String,
    storage: Option<[u64; 3]>,
    site: String,
    country: String,
    ownership: Signed<T>,
    gateway: Option<String>,
}

impl<T: Statement + DeserializeOwned> Versioned for SentCard<T> {
    const VERSION: u16 = 2;
    const NAME: &'static str = "card";
}

#[derive(Serialize, Deserialize)]
struct SentOwnership {
    owner: OwnerId,
    node: NodeId,
}

impl Versioned for SentOwnership {
    const VERSION: u16 = 1;
    const NAME: &'static str = "ownership";
}

impl Statement for SentOwnership {
    const DOMAIN: &'static str = "atoll/ownership";
}

#[test]
fn cards() {
    let node = NodeId::from_bytes([9; 32]);
    let owner = OwnerKey::from_secret_bytes(&[2; 32]);
    let card = SentCard {
        name: Some("here".to_owned()),
        version: "0.1.0".to_owned(),
        storage: Some([1 << 40, 1 << 30, 12]),
        site: "cellar".to_owned(),
        country: "BE".to_owned(),
        ownership: Signed::sign(&SentOwnership { owner: owner.id(), node }, &owner),
        gateway: None,
    };
    check_card(&encode(&card), node).unwrap();
    // Version 1 ended before the gateway.
    let mut older = encode(&card);
    older.pop();
    older[0] = 1;
    check_card(&older, node).unwrap();
    let gateway = SentCard { gateway: Some("cloud.example".to_owned()), ..card };
    fuzz!(5_000, vec![encode(&gateway), older], |bytes: &[u8]| {
        if let Ok(checked) = check_card(bytes, node) {
            assert_eq!(checked.domain.owner, Some(owner.id()), "an owner that did not sign");
            assert!(checked.name.is_none_or(|name| !name.chars().any(char::is_control)));
        }
    });
}

#[test]
fn questions_about_filters() {
    let question = CheckQuestion::new(false, Probe::Tcp(443));
    let answer = CheckAnswer::Passes(Some("peers tcp/443".to_owned()));
    fuzz!(20_000, vec![encode(&question), encode(&answer)], |bytes: &[u8]| {
        if let Ok(question) = decode::<CheckQuestion>(bytes) {
            assert!(decode::<CheckQuestion>(&encode(&question)).is_ok());
        }
        if let Ok(answer) = decode::<CheckAnswer>(bytes) {
            assert_eq!(decode::<CheckAnswer>(&encode(&answer)).unwrap(), answer);
        }
    });
}
