//! Who is not served, and how the client is told.

use atoll_keys::{NodeKey, OwnerKey, Signed};
use atoll_shard::limits::CLOCK_SKEW_SECONDS;
use atoll_shard::protocol::{Answer, Greeting, RefusedHello, Request};
use atoll_shard::{Admission, GrantError, HomeError, Refusal, ServeError, ShardClient, ShardHome, StorageGrant};

use crate::world::{World, grant, id, now};

/// What a client with this grant is told.
async fn refusal(world: &World, grant: Signed<StorageGrant>) -> (Refusal, String) {
    let client = ShardClient::new(world.host, world.dial(), grant);
    match client.get(id(1)).await {
        Err(HomeError::Refused { node, why, text }) if node == world.host => (why, text),
        other => panic!("not refused: {other:?}"),
    }
}

#[tokio::test]
async fn bad_grants() {
    let world = World::new();
    let statement =
        |not_before, not_after| StorageGrant { owner: world.owner.id(), node: world.node, not_before, not_after };
    let check = async |grant, expected: &str| {
        let (why, text) = refusal(&world, grant).await;
        assert_eq!(why, Refusal::Grant);
        assert!(text.contains(expected), "{text}");
    };
    check(grant(&world.owner, NodeKey::generate().id()), "is for node").await;
    let past = now() - CLOCK_SKEW_SECONDS - 2;
    check(Signed::sign(&statement(0, past), &world.owner), "expired").await;
    let future = now() + CLOCK_SKEW_SECONDS + 60;
    check(Signed::sign(&statement(future, future + 60), &world.owner), "valid from").await;
    // Signed properly, but by somebody else than the owner it names; even by the node itself.
    check(Signed::sign(&statement(0, u64::MAX), &OwnerKey::generate()), "not signed by the owner").await;
    check(Signed::sign(&statement(0, u64::MAX), &NodeKey::generate()), "not signed by the owner").await;
    assert_eq!(world.server.stats().snapshot().refused, 5);

    // Within the tolerance of clocks.
    let client = |grant| ShardClient::new(world.host, world.dial(), grant);
    let soon = now() + CLOCK_SKEW_SECONDS - 60;
    client(Signed::sign(&statement(soon, u64::MAX), &world.owner)).ping().await.unwrap();
    let just = now() - CLOCK_SKEW_SECONDS + 60;
    client(Signed::sign(&statement(0, just), &world.owner)).ping().await.unwrap();
}

#[tokio::test]
async fn forged_bytes() {
    let world = World::new();
    let mut bytes = atoll_wire::encode(&world.grant());
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    let Ok(forged) = atoll_wire::decode::<Signed<StorageGrant>>(&bytes) else { return };
    assert_eq!(refusal(&world, forged).await.0, Refusal::Grant);
}

#[tokio::test]
async fn policy() {
    let world = World::with_policy(|_, _| Admission::Refuse { text: "only friends".to_owned() });
    assert_eq!(refusal(&world, world.grant()).await, (Refusal::Policy, "only friends".to_owned()));
    let mut raw = world.raw();
    raw.send_hello(world.grant()).await;
    let refused = RefusedHello { why: Refusal::Policy, text: "only friends".to_owned() };
    assert_eq!(raw.greeting().await, Greeting::Refused(refused));
    let (answers, end) = raw.end().await;
    assert!(answers.is_empty() && matches!(end, Err(ServeError::Policy { .. })));
}

#[tokio::test]
async fn a_renewed_grant_works_at_once() {
    let world = World::new();
    let expired = StorageGrant { owner: world.owner.id(), node: world.node, not_before: 0, not_after: 1 };
    let client = ShardClient::new(world.host, world.dial(), Signed::sign(&expired, &world.owner));
    let refused = client.ping().await;
    assert!(matches!(refused, Err(HomeError::Refused { why: Refusal::Grant, .. })));
    // In back-off the reason stays the same.
    assert_eq!(client.ping().await, refused);
    assert!(client.health().back_off.is_some());
    client.renew(world.grant());
    client.ping().await.unwrap();
    assert_eq!(client.health().back_off, None);
}

#[tokio::test]
async fn a_grant_that_runs_out_ends_the_stream() {
    let world = World::new();
    let not_after = now() - CLOCK_SKEW_SECONDS + 1;
    let short = StorageGrant { owner: world.owner.id(), node: world.node, not_before: 0, not_after };
    let mut raw = world.raw();
    raw.send_hello(Signed::sign(&short, &world.owner)).await;
    assert!(matches!(raw.greeting().await, Greeting::Welcome(_)));
    raw.send(&Request::Ping.encode(1)).await;
    let (answers, end) = raw.end().await;
    assert!(matches!(end, Err(ServeError::GrantEnded)), "{end:?}");
    assert!(matches!(&answers[..], [Answer::Pong, Answer::End { text }] if text.contains("grant")), "{answers:?}");
}

#[test]
fn the_check_itself() {
    let owner = OwnerKey::generate();
    let node = NodeKey::generate().id();
    let statement = StorageGrant { owner: owner.id(), node, not_before: 1000, not_after: 2000 };
    let signed = Signed::sign(&statement, &owner);
    let check = |now, expected| assert_eq!(atoll_shard::grant::check(&signed, node, now), expected, "at {now}");
    let skew = CLOCK_SKEW_SECONDS;
    check(999 - skew, Err(GrantError::TooEarly { not_before: 1000, now: 999 - skew }));
    check(1000 - skew, Ok(statement.clone()));
    check(1500, Ok(statement.clone()));
    check(2000 + skew, Ok(statement.clone()));
    check(2001 + skew, Err(GrantError::Expired { not_after: 2000, now: 2001 + skew }));
}
