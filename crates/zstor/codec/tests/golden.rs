//! Objects that older versions stored still open: keys, records and shards in `fixtures/`, one file per format, kept for ever.
//!
//! A fixture cannot be made twice, since every sealer draws its salt: [`make_a_fixture`] writes one for a new format.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::fmt::Write;

use atoll_codec::{Codec, ObjectKey, Opener, Policy, RunSalt, StripeRecord, WrappedKey};
use atoll_ids::{ObjectId, ShardId};
use bytes::Bytes;
use serde::{Deserialize, Serialize, de::DeserializeOwned};

/// Bytes in hexadecimal; whatever is stored by postcard is in that encoding.
#[derive(Serialize, Deserialize)]
struct Fixture {
    kek: String,
    object: ObjectId,
    policy: Policy,
    wrapped_key: String,
    salt: String,
    stripes: Vec<Stripe>,
}

#[derive(Serialize, Deserialize)]
struct Stripe {
    plain: String,
    record: String,
    ids: Vec<ShardId>,
    shards: Vec<String>,
    crc64_of_first_shard: u64,
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").unwrap();
        text
    })
}

fn unhex(text: &str) -> Vec<u8> {
    (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap()).collect()
}

fn stored<T: DeserializeOwned>(text: &str) -> T {
    postcard::from_bytes(&unhex(text)).unwrap()
}

fn check(fixture: &str) {
    let fixture: Fixture = serde_json::from_str(fixture).unwrap();
    let wrapped: WrappedKey = stored(&fixture.wrapped_key);
    let key = wrapped.unwrap(&unhex(&fixture.kek).try_into().unwrap(), fixture.object).unwrap();
    let opener = Opener::new(&key, stored::<RunSalt>(&fixture.salt), fixture.policy);
    let mut compressed = 0;
    for stripe in &fixture.stripes {
        let record: StripeRecord = stored(&stripe.record);
        compressed += usize::from(record.is_compressed());
        let shards: Vec<(usize, Bytes)> = stripe.shards.iter().map(|shard| unhex(shard).into()).enumerate().collect();
        assert_eq!(atoll_codec::crc64(&shards[0].1), stripe.crc64_of_first_shard);
        for (index, shard) in &shards {
            assert!(opener.check(&record, *index, shard), "the tag of shard {index}");
            assert_eq!(opener.shard_id(record.counter(), *index), stripe.ids[*index]);
        }
        let (k, m) = (fixture.policy.data(), fixture.policy.parity());
        assert_eq!(opener.open(&record, &shards[..k]).unwrap(), unhex(&stripe.plain));
        assert_eq!(opener.open(&record, &shards[m..]).unwrap(), unhex(&stripe.plain), "with all of the parity");
        let missing: Vec<usize> = (0..m).collect();
        let rebuilt = opener.rebuild(&record, &shards, &missing).unwrap();
        assert!(rebuilt.iter().zip(&shards).all(|(rebuilt, (_, shard))| rebuilt == shard));
    }
    assert!(compressed > 0 && compressed < fixture.stripes.len(), "both kinds of stripe are in the fixture");
}

#[test]
fn format_1() {
    check(include_str!("fixtures/format-1.json"));
}

#[test]
#[ignore = "writes fixtures/new.json, to be kept under the name of a new format"]
fn make_a_fixture() {
    let (kek, object, policy) = ([0x4b; 32], ObjectId::from_bytes([0x0b; 16]), "4+2".parse().unwrap());
    let codec = Codec::new(policy);
    let key = ObjectKey::generate();
    let sealer = codec.sealer(&key);
    let text = b"A text that says itself again, ".repeat(20);
    let plaintexts = [&text[..], b"x", b"seventeen letters"];
    let stripes = plaintexts.into_iter().map(|plain| {
        let stripe = sealer.seal(sealer.next().unwrap(), plain).unwrap();
        Stripe {
            plain: hex(plain),
            record: hex(&postcard::to_stdvec(&stripe.record).unwrap()),
            ids: stripe.ids,
            crc64_of_first_shard: atoll_codec::crc64(&stripe.shards[0]),
            shards: stripe.shards.iter().map(|shard| hex(shard)).collect(),
        }
    });
    let fixture = Fixture {
        kek: hex(&kek),
        object,
        policy,
        wrapped_key: hex(&postcard::to_stdvec(&key.wrap(&kek, object)).unwrap()),
        salt: hex(&postcard::to_stdvec(&sealer.salt()).unwrap()),
        stripes: stripes.collect(),
    };
    let json = serde_json::to_string_pretty(&fixture).unwrap();
    check(&json);
    std::fs::write(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/new.json"), json + "\n").unwrap();
}
