//! A fixture of version 1, and every way to tamper with a statement.
#![allow(clippy::unwrap_used, reason = "tests")]

use data_encoding::HEXLOWER;
use proptest::prelude::{any, proptest};
use proptest::prop_assert;

use super::*;
use crate::{NodeKey, OwnerKey};

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Promise {
    bytes: u64,
    until: u64,
}

impl Versioned for Promise {
    const VERSION: u16 = 1;
    const NAME: &'static str = "promise";
}

impl Statement for Promise {
    const DOMAIN: &'static str = "atoll/test-promise";
}

/// Encoded exactly like a promise, but meaning something else.
#[derive(Debug, Serialize, Deserialize)]
struct Threat {
    bytes: u64,
    until: u64,
}

impl Versioned for Threat {
    const VERSION: u16 = 1;
    const NAME: &'static str = "threat";
}

impl Statement for Threat {
    const DOMAIN: &'static str = "atoll/test-threat";
}

/// A signed promise as version 1 encodes it. Must be readable for ever.
const V1: &str = concat!(
    // Version of `Signed`; the promise: its length, version and body.
    "0100",
    "0c",
    "0100",
    "8080808004",
    "80a8d6b907",
    // The signer.
    "ea4a6c63e29c520abef5507b132ec5f9954776aebebe7b92421eea691446d22c",
    // One signature: algorithm, length, bytes (made by another implementation of Ed25519 from the documented message).
    "01",
    "01",
    "40",
    "dfb28da0064ff173d72e31ee464652a10be8d8ebd606a0a24933a5bd8263fe43",
    "590af47be92e99bfc3895576528a99ce85160369ef0417e56cfb5bd6c478310c",
);

fn key() -> OwnerKey {
    OwnerKey::from_secret_bytes(&[7; 32])
}

fn promise() -> Promise {
    Promise { bytes: 1 << 30, until: 2_000_000_000 }
}

#[test]
fn the_first_version_is_still_read_and_written() {
    let signed = Signed::sign(&promise(), &key());
    assert_eq!(HEXLOWER.encode(&encode(&signed)), V1);
    let read: Signed<Promise> = decode(&HEXLOWER.decode(V1.as_bytes()).unwrap()).unwrap();
    assert_eq!(read, signed);
    assert_eq!(read.verify().unwrap(), (promise(), key().public()));
    assert_eq!(read.verify_by(&key().public()).unwrap(), promise());
    assert_eq!(read.claimed_signer(), &key().public());
}

#[test]
fn the_message_is_as_documented() {
    let message = message::<Promise>(&encode(&Promise { bytes: 5, until: 6 })).unwrap();
    assert_eq!(message, b"atoll statement\0\x12\0\0\0atoll/test-promise\x01\0\x02\0\0\0\x05\x06");
    assert!(super::message::<Promise>(&[1]).is_none());
}

#[test]
fn another_signer_is_refused() {
    let node = NodeKey::from_secret_bytes(&[8; 32]);
    let signed = Signed::sign(&promise(), &node);
    assert!(signed.verify().is_ok());
    let error = signed.verify_by(&key().public()).unwrap_err();
    assert_eq!(error.to_string(), format!("this promise is signed by {} and not by {}", node.id(), key().id()));
    // Claiming to be the expected signer does not help.
    let mut forged = signed;
    forged.inner.signer = key().public();
    assert_eq!(forged.verify_by(&key().public()), Err(VerifyError::Invalid { what: "promise" }));
}

#[test]
fn a_statement_is_not_taken_for_another_kind() {
    let bytes = encode(&Signed::sign(&promise(), &key()));
    let threat: Signed<Threat> = decode(&bytes).unwrap();
    assert_eq!(threat.verify().unwrap_err(), VerifyError::Invalid { what: "threat" });
}

#[test]
fn the_version_of_the_statement_is_signed() {
    let mut signed = Signed::sign(&promise(), &key());
    signed.inner.statement[0] = 2;
    assert_eq!(signed.verify(), Err(VerifyError::Invalid { what: "promise" }));
}

#[test]
fn unknown_algorithms_are_ignored_but_do_not_suffice() {
    let signed = Signed::sign(&promise(), &key());
    let unknown = Signature { algorithm: 2, bytes: vec![0; 7219] };

    let mut both = signed.clone();
    both.inner.signatures.insert(0, unknown.clone());
    let both: Signed<Promise> = decode(&encode(&both)).unwrap();
    assert!(both.verify().is_ok());

    let mut unknown_only = signed.clone();
    unknown_only.inner.signatures = vec![unknown];
    assert_eq!(unknown_only.verify(), Err(VerifyError::NoKnownSignature { what: "promise" }));

    let mut none = signed.clone();
    none.inner.signatures.clear();
    assert_eq!(none.verify(), Err(VerifyError::NoKnownSignature { what: "promise" }));

    // One valid signature does not excuse an invalid one.
    let mut one_wrong = signed;
    one_wrong.inner.signatures.push(Signature { algorithm: ED25519, bytes: vec![0; 64] });
    assert_eq!(one_wrong.verify(), Err(VerifyError::Invalid { what: "promise" }));
}

#[test]
fn a_small_order_key_signs_nothing() {
    // The neutral element as key and R, with s = 0: satisfies the plain verification equation for every message.
    let mut forged = Signed::sign(&promise(), &key());
    forged.inner.signer = std::array::from_fn(|i| u8::from(i == 0));
    let mut signature = vec![0; 64];
    signature[0] = 1;
    forged.inner.signatures[0].bytes = signature;
    assert_eq!(forged.verify(), Err(VerifyError::Invalid { what: "promise" }));
}

/// `Debug` of what a stranger sent shows who claims to speak and nothing of what was said.
#[test]
fn debug_is_short() {
    let shown = format!("{:?}", Signed::sign(&promise(), &key()));
    assert_eq!(shown, format!("Signed {{ bytes: 12, claimed_signer: \"{}\", algorithms: [1] }}", key().id()));
}

/// Where a version is no longer understood, the signature still is: "update" and "forged" stay apart.
#[test]
fn a_newer_statement_is_verified_and_then_refused() {
    let statement = [&[9, 0][..], &[1, 2, 3]].concat();
    let mut signed = Signed::sign(&promise(), &key());
    signed.inner.signatures[0].bytes = key().sign(&message::<Promise>(&statement).unwrap()).to_vec();
    signed.inner.statement = statement;
    let expect = DecodeError::Version { name: "promise", found: 9, known: 1 };
    assert_eq!(signed.verify(), Err(VerifyError::Decode(expect)));
}

#[test]
fn oversized_statements_are_refused_when_read() {
    #[track_caller]
    fn check(change: impl FnOnce(&mut Inner)) {
        let mut signed = Signed::sign(&promise(), &key());
        change(&mut signed.inner);
        assert!(matches!(decode::<Signed<Promise>>(&encode(&signed)), Err(DecodeError::Malformed { .. })));
    }
    check(|inner| inner.statement = vec![0; STATEMENT_BYTES_MAX + 1]);
    check(|inner| inner.signatures = vec![inner.signatures[0].clone(); SIGNATURES_MAX + 1]);
    check(|inner| inner.signatures[0].bytes = vec![0; SIGNATURE_BYTES_MAX + 1]);
}

/// Every change of one bit of the encoding is noticed.
#[test]
fn every_flipped_bit_is_noticed() {
    let bytes = encode(&Signed::sign(&promise(), &key()));
    for at in 0..bytes.len() * 8 {
        let mut changed = bytes.clone();
        changed[at / 8] ^= 1 << (at % 8);
        let verified = decode::<Signed<Promise>>(&changed).is_ok_and(|signed| signed.verify().is_ok());
        assert!(!verified, "bit {at}");
    }
}

proptest! {
    #[test]
    fn what_is_signed_is_verified(bytes in any::<u64>(), until in any::<u64>(), seed in any::<[u8; 32]>()) {
        let value = Promise { bytes, until };
        let signed = Signed::sign(&value, &NodeKey::from_secret_bytes(&seed));
        let read: Signed<Promise> = decode(&encode(&signed)).unwrap();
        prop_assert!(read.verify().unwrap().0 == value);
    }

    #[test]
    fn arbitrary_bytes_are_never_verified(body in any::<Vec<u8>>(), statement in any::<Vec<u8>>(), signer in any::<[u8; 32]>()) {
        let framed = [&[1, 0], &body[..]].concat();
        let verified = decode::<Signed<Promise>>(&framed).is_ok_and(|signed| signed.verify().is_ok());
        prop_assert!(!verified);
        let signatures = vec![Signature { algorithm: ED25519, bytes: body }];
        let inner = Inner { statement, signer, signatures };
        let forged = Signed::<Promise> { inner, statement: PhantomData };
        prop_assert!(forged.verify().is_err());
    }
}
