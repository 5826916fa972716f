//! Stripe records, wrapped keys and shards, from stores and nodes that may lie; and maps of a placement.
#![allow(clippy::unwrap_used, reason = "tests")]

use atoll_codec::{Codec, ObjectKey, Policy, SealedStripe, StripeRecord, WrappedKey};
use atoll_fuzz::fuzz;
use atoll_ids::{Domain, NodeId, ObjectId};
use atoll_placement::{Candidate, DomainLevel, Map};
use atoll_wire::{Versioned, decode, encode};
use bytes::Bytes;
use serde::{Deserialize, Serialize};

/// Records and keys lie inside versioned values; this is the smallest one.
#[derive(Serialize, Deserialize)]
struct Stored<T>(T);

impl<T: Serialize + serde::de::DeserializeOwned> Versioned for Stored<T> {
    const VERSION: u16 = 1;
    const NAME: &'static str = "part of a manifest";
}

const OBJECT: ObjectId = ObjectId::from_bytes([3; 16]);

/// Text that compresses, then bytes that do not, so that both kinds of stripe are tried.
fn plains() -> [Vec<u8>; 2] {
    let noise = (0..3000_u32).map(|at| (at.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    [b"all work and no play ".repeat(200), noise]
}

/// A stripe with all of its shards numbered.
fn seal(codec: &Codec, key: &ObjectKey, plain: &[u8]) -> (atoll_codec::Opener, StripeRecord, Vec<(usize, Bytes)>) {
    let sealer = codec.sealer(key);
    let slot = sealer.next().unwrap();
    let SealedStripe { record, shards, .. } = sealer.seal(slot, plain).unwrap();
    (codec.opener(key, sealer.salt()), record, shards.into_iter().enumerate().collect())
}

#[test]
fn records() {
    let codec = Codec::new(Policy::new(4, 2).unwrap());
    let key = ObjectKey::generate();
    for plain in plains() {
        let (opener, record, shards) = seal(&codec, &key, &plain);
        assert_eq!(opener.open(&record, &shards).unwrap(), plain);
        fuzz!(20_000, vec![encode(&Stored(record.clone()))], |bytes: &[u8]| {
            let Ok(Stored(found)) = decode::<Stored<StripeRecord>>(bytes) else { return };
            let _ = found.shard_len(codec.policy());
            if let Ok(opened) = opener.open(&found, &shards) {
                assert_eq!(opened, plain, "other bytes than were sealed");
            }
            if let Ok(rebuilt) = opener.rebuild(&found, &shards[2..], &[0, 1]) {
                assert_eq!(rebuilt, [shards[0].1.clone(), shards[1].1.clone()]);
            }
        });
    }
}

#[test]
fn shards() {
    let codec = Codec::new(Policy::new(4, 2).unwrap());
    let key = ObjectKey::generate();
    let [plain, _] = plains();
    let (opener, record, shards) = seal(&codec, &key, &plain);
    let shard_len = shards[0].1.len();
    let joined = shards[1..5].iter().flat_map(|(_, shard)| shard.to_vec()).collect();
    fuzz!(20_000, vec![joined], |bytes: &[u8]| {
        let given: Vec<(usize, Bytes)> = bytes
            .chunks(shard_len)
            .map(Bytes::copy_from_slice)
            .enumerate()
            .map(|(at, shard)| (at + 1, shard))
            .collect();
        for (index, shard) in &given {
            let genuine = shards.get(*index).is_some_and(|(_, original)| original == shard);
            assert_eq!(opener.check(&record, *index, shard), genuine);
        }
        if let Ok(opened) = opener.open(&record, &given) {
            assert_eq!(opened, plain, "other bytes than were sealed");
        }
        if let Ok(rebuilt) = opener.rebuild(&record, &given, &[0]) {
            assert_eq!(rebuilt, [shards[0].1.clone()]);
        }
    });
}

#[test]
fn wrapped_keys() {
    let key = ObjectKey::generate();
    let wrapped = key.wrap(&[1; 32], OBJECT);
    fuzz!(50_000, vec![encode(&Stored(wrapped.clone()))], |bytes: &[u8]| {
        if let Ok(Stored(found)) = decode::<Stored<WrappedKey>>(bytes) {
            assert_eq!(found.unwrap(&[1; 32], OBJECT).is_ok(), found == wrapped);
        }
    });
}

#[test]
fn placement_maps() {
    let candidate = |byte: u8| {
        let domain = Domain::new(None, &format!("site {}", byte % 3), ["be", "eg"][usize::from(byte % 2)]).unwrap();
        Candidate { id: NodeId::from_bytes([byte; 32]), weight: u64::from(byte) << 30, domain }
    };
    let map = Map::new((1..=8).map(candidate).collect()).unwrap();
    fuzz!(20_000, vec![encode(&map)], |bytes: &[u8]| {
        let Ok(found) = decode::<Map>(bytes) else { return };
        let again = decode::<Map>(&encode(&found)).unwrap();
        assert_eq!((again.id(), &again), (found.id(), &found));
        assert_eq!(found.id() == map.id(), found == map);
        for level in DomainLevel::ALL {
            if let Ok(mut placed) = found.place(&[5; 16], 4, level) {
                assert!(placed.iter().all(|index| *index < found.candidates().len()));
                placed.sort_unstable();
                placed.dedup();
                assert_eq!(placed.len(), 4);
            }
        }
    });
}
