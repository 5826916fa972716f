//! What people type and files carry as text: ids, amounts, names, policies, recovery phrases, and the settings file. What is read prints as
//! something that is read as the same.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::{fmt, str::FromStr};

use atoll_codec::Policy;
use atoll_fuzz::fuzz;
use atoll_ids::{BucketName, ByteCount, NodeId, ObjectId, OwnerId, PlanetaryAddress, ShardId};
use atoll_keys::OwnerKey;
use atoll_placement::DomainLevel;
use atoll_settings::{Key, Kind, Settings, Sources};

/// Reads the text as a `T`; if it is one, its own text must be read as an equal one.
fn round<T: FromStr + fmt::Display + PartialEq + fmt::Debug>(text: &str)
where
    T::Err: fmt::Display,
{
    match text.parse::<T>() {
        Ok(value) => assert_eq!(value.to_string().parse::<T>().ok(), Some(value), "{text:?}"),
        Err(error) => assert!(!error.to_string().is_empty()),
    }
}

#[test]
fn plain_values() {
    let key = OwnerKey::from_secret_bytes(&[5; 32]);
    let node = NodeId::from_bytes([9; 32]);
    let valid = [
        key.id().to_string(),
        node.to_string(),
        node.planetary_address().to_string(),
        ShardId::from_bytes([3; 16]).to_string(),
        ObjectId::from_bytes([0xab; 16]).to_string(),
        "1.5 GiB".to_owned(),
        "18446744073709551615".to_owned(),
        "100G".to_owned(),
        "a-bucket.example".to_owned(),
        "16+4".to_owned(),
        "country".to_owned(),
    ];
    fuzz!(50_000, valid.map(String::into_bytes).to_vec(), |bytes: &[u8]| {
        let text = String::from_utf8_lossy(bytes);
        round::<NodeId>(&text);
        round::<OwnerId>(&text);
        round::<PlanetaryAddress>(&text);
        round::<ShardId>(&text);
        round::<ObjectId>(&text);
        round::<BucketName>(&text);
        round::<Policy>(&text);
        round::<DomainLevel>(&text);
        // Displayed it is rounded for people; the exact text is the one that is stored.
        if let Ok(count) = text.parse::<ByteCount>() {
            assert_eq!(count.exact().to_string().parse(), Ok(count), "{text:?}");
        }
    });
}

#[test]
fn phrases() {
    let key = OwnerKey::from_secret_bytes(&[5; 32]);
    let phrase = key.phrase().to_text().as_bytes().to_vec();
    let numbered =
        key.phrase().words().enumerate().map(|(at, word)| format!("{}. {word}\n", at + 1)).collect::<String>();
    fuzz!(2_000, vec![phrase, numbered.into_bytes()], |bytes: &[u8]| {
        let text = String::from_utf8_lossy(bytes);
        match OwnerKey::from_phrase(&text) {
            Ok(key) => assert_eq!(OwnerKey::from_phrase(&key.phrase().to_text()).unwrap().id(), key.id()),
            Err(error) => assert!(!error.to_string().is_empty()),
        }
    });
}

const KEYS: &[Key] = &[
    key("name", Kind::Text),
    key("storage.enabled", Kind::Bool),
    key("storage.capacity", Kind::ByteCount),
    key("storage.path", Kind::Path),
    key("limits.peers", Kind::Integer { min: 1, max: 100 }),
    key("limits.wait", Kind::Duration),
    key("log.format", Kind::Choice(&["human", "json"])),
    key("link.bind", Kind::List(&Kind::SocketAddr)),
];

const fn key(name: &'static str, kind: Kind) -> Key {
    Key { name, kind, default: None, doc: "What the test sets.", flag: None }
}

const FILE: &str = "name = \"here\"\n[storage]\nenabled = true\ncapacity = '1.5 GiB'\npath = \"/srv\"\n\
    [limits]\npeers = 7\nwait = \"1h30m\"\n[log]\nformat = \"json\"\n[link]\nbind = [\"127.0.0.1:0\", \"[::1]:0\"]\n";

#[test]
fn settings_files() {
    Settings::load(KEYS, &Sources::new().file("atoll.toml", FILE)).unwrap();
    fuzz!(10_000, vec![FILE.as_bytes().to_vec()], |bytes: &[u8]| {
        let text = String::from_utf8_lossy(bytes);
        match Settings::load(KEYS, &Sources::new().file("atoll.toml", text.as_ref())) {
            Ok(settings) => settings.iter().for_each(|entry| assert!(!entry.key.name.is_empty())),
            Err(error) => assert!(error.to_string().contains("atoll.toml"), "{error}"),
        }
    });
}

#[test]
fn settings_variables() {
    let values = ["true", "1.5 GiB", "/srv", "7", "1h30m", "json", "127.0.0.1:0,[::1]:0"];
    fuzz!(3_000, values.map(|value| value.as_bytes().to_vec()).to_vec(), |bytes: &[u8]| {
        let text = String::from_utf8_lossy(bytes);
        for key in KEYS {
            let sources = Sources::new().environment([(key.variable(), text.as_ref())]);
            if let Err(error) = Settings::load(KEYS, &sources) {
                assert!(error.to_string().contains(&key.variable()), "{error}");
            }
        }
    });
}
