//! Records of buckets, objects and manifests. They are opened under the owner's key before they are decoded, so damage ends there; what is
//! decoded may still be of another version, or made by someone who has the key.
#![allow(clippy::unwrap_used, reason = "tests")]

use atoll_codec::{Codec, ObjectKey, Policy};
use atoll_engine::{ObjectMeta, decode_any};
use atoll_fuzz::fuzz;
use atoll_ids::{NodeId, ObjectId, OwnerId};
use atoll_placement::{DomainLevel, Map};
use atoll_wire::{Versioned, encode, version_of};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

/// The engine's records have no constructors for strangers; their encoding is that of a tuple of their fields.
#[derive(Serialize, Deserialize)]
#[serde(bound(deserialize = "T: DeserializeOwned"))]
struct Record<T>(T);

impl<T: Serialize + DeserializeOwned> Versioned for Record<T> {
    const VERSION: u16 = 1;
    const NAME: &'static str = "record";
}

fn encoded<T: Serialize + DeserializeOwned>(fields: T) -> Vec<u8> {
    encode(&Record(fields))
}

/// A record of each kind, with the engine's name for it.
fn records() -> Vec<(&'static str, Vec<u8>)> {
    let policy = Policy::new(4, 2).unwrap();
    let (key, id, owner) = (ObjectKey::generate(), ObjectId::from_bytes([3; 16]), OwnerId::from_bytes([1; 32]));
    let sealer = Codec::new(policy).sealer(&key);
    let stripe = sealer.seal(sealer.next().unwrap(), b"content").unwrap().record;
    let (salt, wrapped, map) = (sealer.salt(), key.wrap(&[1; 32], id), Map::new(Vec::new()).unwrap().id());
    let level = DomainLevel::Site;
    let created = 1_800_000_000_000_000_000_i128;
    let place = (5_u8, NodeId::from_bytes([9; 32]));
    let entry = (0_u16, 0_u16, stripe, vec![place], vec![place, place]);
    let body = (wrapped.clone(), policy, level, vec![salt, salt], vec![map], 2_u64, 4096_u64, vec![entry.clone()]);
    let tail = (id, wrapped, policy, level, salt, Some(map), 7_u32, 8_u64, 9_u32);
    vec![
        ("owner mark", encoded(owner)),
        ("bucket record", encoded((policy, level, created, false))),
        ("object record", encoded((id, 7_u64, created, ObjectMeta::default(), [4_u8; 32], body.clone()))),
        ("manifest page", encoded(vec![entry.clone(), entry])),
        ("upload reservation", encoded(tail.clone())),
        ("garbage record", encoded((0_u8, id, body))),
        ("garbage record", encoded((1_u8, tail))),
    ]
}

#[test]
fn stored_records() {
    let records = records();
    for (name, bytes) in &records {
        assert!(decode_any(bytes).contains(name), "the {name} of this test is not what the engine stores");
    }
    fuzz!(30_000, records.into_iter().map(|(_, bytes)| bytes).collect(), |bytes: &[u8]| {
        let understood = decode_any(bytes);
        assert!(understood.is_empty() || version_of(bytes).is_some_and(|version| version > 0), "{understood:?}");
    });
}
