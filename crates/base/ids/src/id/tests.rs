//! Golden text forms, round trips, and refusals of ids.
#![allow(clippy::unwrap_used, reason = "tests")]

use proptest::prelude::{any, proptest};
use proptest::{prop_assert, prop_assert_eq};

use super::*;

fn counting() -> [u8; 32] {
    std::array::from_fn(|i| u8::try_from(i).unwrap())
}

#[test]
fn golden_text_forms() {
    let node = NodeId::from_bytes(counting());
    assert_eq!(node.to_string(), "aaaqeayeaudaocajbifqydiob4ibceqtcqkrmfyydenbwha5dypq");
    assert_eq!(node.short().to_string(), "aaaqeayeau");
    assert_eq!(format!("{node:?}"), "NodeId(aaaqeayeaudaocajbifqydiob4ibceqtcqkrmfyydenbwha5dypq)");
    assert_eq!(format!("{:>12}", node.short()), "  aaaqeayeau");

    let owner = OwnerId::from_bytes([0xff; 32]);
    assert_eq!(owner.to_string(), format!("{}q", "7".repeat(51)));

    let shard = ShardId::from_bytes(std::array::from_fn(|i| u8::try_from(i * 17).unwrap()));
    assert_eq!(shard.to_string(), "00112233445566778899aabbccddeeff");
    assert_eq!(shard.short().to_string(), "0011223344");
}

#[test]
fn serde_is_text_in_json_and_raw_bytes_in_postcard() {
    let node = NodeId::from_bytes(counting());
    assert_eq!(serde_json::to_string(&node).unwrap(), format!("\"{node}\""));
    assert_eq!(postcard::to_stdvec(&node).unwrap(), counting());
    let object = ObjectId::from_bytes([0xab; 16]);
    assert_eq!(serde_json::to_string(&object).unwrap(), format!("\"{}\"", "ab".repeat(16)));
    assert_eq!(postcard::to_stdvec(&object).unwrap(), [0xab; 16]);
}

#[test]
fn what_is_no_id_is_refused_with_the_reason() {
    #[track_caller]
    fn check<T: FromStr<Err = ParseIdError> + fmt::Debug>(text: &str, expect: &str) {
        assert_eq!(text.parse::<T>().unwrap_err().to_string(), expect);
    }
    check::<NodeId>("", "a node id has 52 characters, this text has 0: was it copied whole?");
    check::<OwnerId>(&"a".repeat(53), "an owner id has 52 characters, this text has 53: was it copied whole?");
    check::<NodeId>(
        &format!("a1{}", "a".repeat(50)),
        "a node id is written in base32 (a to z, 2 to 7); the character '1' at position 2 is not",
    );
    check::<NodeId>(
        &format!("{}é", "a".repeat(51)),
        "a node id is written in base32 (a to z, 2 to 7); the character 'é' at position 52 is not",
    );
    check::<NodeId>(
        &format!("{}b", "a".repeat(51)),
        "this is not a node id: its last character cannot occur there; was it copied whole?",
    );
    check::<ShardId>(
        &"g".repeat(32),
        "a shard id is written in hexadecimal (0 to 9, a to f); the character 'g' at position 1 is not",
    );
    assert!(serde_json::from_str::<NodeId>("\"aaaa\"").is_err());
    assert!(postcard::from_bytes::<NodeId>(&[0; 31]).is_err());
}

proptest! {
    #[test]
    fn every_id_survives_text_json_and_postcard(key in any::<[u8; 32]>(), half in any::<[u8; 16]>()) {
        let (node, shard) = (NodeId::from_bytes(key), ShardId::from_bytes(half));
        prop_assert_eq!(node.to_string().parse::<NodeId>().unwrap(), node);
        prop_assert_eq!(node.to_string().to_uppercase().parse::<NodeId>().unwrap(), node);
        prop_assert_eq!(shard.to_string().parse::<ShardId>().unwrap(), shard);
        prop_assert_eq!(serde_json::from_str::<NodeId>(&serde_json::to_string(&node).unwrap()).unwrap(), node);
        prop_assert_eq!(postcard::from_bytes::<ShardId>(&postcard::to_stdvec(&shard).unwrap()).unwrap(), shard);
        prop_assert_eq!(node.as_bytes(), &key);
        prop_assert_eq!(NodeId::from_slice(&key), Some(node));
        prop_assert_eq!(NodeId::from_slice(&key[1..]), None);
        prop_assert_eq!(ShardId::from_slice(&key), None);
    }

    /// A text is read only if it is the canonical form in some case: no two spellings for one id.
    #[test]
    fn what_is_read_is_canonical(text in "[a-zA-Z2-7]{52}") {
        if let Ok(node) = text.parse::<NodeId>() {
            prop_assert_eq!(node.to_string(), text.to_lowercase());
        }
    }

    #[test]
    fn arbitrary_text_never_panics(text in any::<String>()) {
        prop_assert!(text.parse::<NodeId>().is_err());
        let _ = text.parse::<ObjectId>();
    }
}
