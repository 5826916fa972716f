//! The shard protocol: what a client sends a storage node, and what a storage node answers. Either end may be hostile.
#![allow(clippy::unwrap_used, reason = "tests")]

use atoll_fuzz::fuzz;
use atoll_ids::{ByteCount, NodeId, ShardId};
use atoll_keys::{OwnerKey, Signed};
use atoll_shard::{
    HomeStat, PutOutcome, Refusal, ShardEntry, StorageGrant,
    protocol::{Answer, Code, Greeting, HEADER_BYTES, Header, Hello, RefusedHello, Request, ServerLimits, Welcome},
};
use atoll_wire::{decode, encode};
use bytes::Bytes;

fn id(byte: u8) -> ShardId {
    ShardId::from_bytes([byte; 16])
}

/// The header of a frame and the body that goes with it, as much of it as is there.
fn split(bytes: &[u8]) -> Option<(Header, Bytes)> {
    let (header, rest) = bytes.split_first_chunk::<HEADER_BYTES>()?;
    let header = Header::decode(header).ok()?;
    assert_eq!(Header::decode(&header.to_bytes()).unwrap(), header);
    let body = &rest[..rest.len().min(header.length as usize)];
    Some((header, Bytes::copy_from_slice(body)))
}

#[test]
fn requests() {
    let requests = [
        Request::Put { id: id(1), crc: 7, payload: Bytes::from_static(b"payload") },
        Request::Get(id(2)),
        Request::Delete(id(3)),
        Request::List { after: None, limit: 10 },
        Request::List { after: Some(id(4)), limit: u32::MAX },
        Request::Stat,
        Request::Verify(id(5)),
        Request::Ping,
    ];
    fuzz!(100_000, requests.iter().map(|request| request.encode(9)).collect(), |bytes: &[u8]| {
        let Some((header, body)) = split(bytes) else { return };
        if let Ok(request) = Request::decode(header, body.clone()) {
            let encoded = request.encode(header.request);
            assert_eq!(encoded, [&header.to_bytes()[..], &body].concat(), "accepted what the encoder does not make");
        }
    });
}

#[test]
fn answers() {
    let stat = |quota| HomeStat { shards: 3, used: ByteCount(5), quota, free: ByteCount(7) };
    let answers = [
        Answer::Stored(PutOutcome::Stored),
        Answer::Stored(PutOutcome::AlreadyThere),
        Answer::Shard(Bytes::from_static(b"payload")),
        Answer::Deleted,
        Answer::Listing(vec![ShardEntry { id: id(1), len: 1 }, ShardEntry { id: id(2), len: 2 }]),
        Answer::Stats(stat(None)),
        Answer::Stats(stat(Some(ByteCount(11)))),
        Answer::Verified,
        Answer::Pong,
        Answer::Failed { code: Code::Quota, text: "no more room".to_owned() },
        Answer::End { text: "shutting down".to_owned() },
    ];
    fuzz!(100_000, answers.iter().map(|answer| answer.encode(9)).collect(), |bytes: &[u8]| {
        let Some((header, body)) = split(bytes) else { return };
        if let Ok(answer) = Answer::decode(header, body.clone()) {
            let encoded = answer.encode(header.request);
            assert_eq!(encoded, [&header.to_bytes()[..], &body].concat(), "accepted what the encoder does not make");
        }
    });
}

#[test]
fn first_frames() {
    let owner = OwnerKey::from_secret_bytes(&[2; 32]);
    let node = NodeId::from_bytes([9; 32]);
    let grant = StorageGrant { owner: owner.id(), node, not_before: 100, not_after: 200 };
    let welcome = Welcome { limits: ServerLimits::default(), quota: Some(ByteCount(5)), used: ByteCount(3) };
    let refused = RefusedHello { why: Refusal::Grant, text: "no".to_owned() };
    let valid = vec![
        encode(&Hello { grant: Signed::sign(&grant, &owner) }),
        encode(&Greeting::Welcome(welcome)),
        encode(&Greeting::Refused(refused)),
    ];
    fuzz!(30_000, valid, |bytes: &[u8]| {
        if let Ok(hello) = decode::<Hello>(bytes) {
            assert_eq!(decode::<Hello>(&encode(&hello)).unwrap().grant, hello.grant);
        }
        if let Ok(greeting) = decode::<Greeting>(bytes) {
            assert_eq!(decode::<Greeting>(&encode(&greeting)).unwrap(), greeting);
        }
    });
}
