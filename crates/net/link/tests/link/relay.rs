//! Two nodes that have no path to each other, and others that reach both. One listens on IPv4 only, the other on IPv6 only: nothing is direct between them.

use std::time::{Duration, Instant};

use atoll_link::{LinkConfig, OpenError, Path, RelayBudget, Traffic};
use bytes::Bytes;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

use crate::support::{ECHO, Node, PATIENCE, on_loopback};

pub(crate) const GENEROUS: RelayBudget = RelayBudget { rate: 64 << 20, rate_per_user: 64 << 20 };

pub(crate) fn listening_on(addresses: &[&str], relay: Option<RelayBudget>) -> LinkConfig {
    let bind: Vec<_> = addresses.iter().map(|address| address.parse().unwrap()).collect();
    LinkConfig {
        // A socket that dials TCP is of either family.
        lane_bind: Vec::new(),
        bind,
        relay,
        packets: true,
        dial_timeout: Duration::from_secs(5),
        ..on_loopback()
    }
}

pub(crate) fn relaying(relay: Option<RelayBudget>) -> LinkConfig {
    listening_on(&["127.0.0.1:0", "[::1]:0"], relay)
}

pub(crate) async fn know_each_other(one: &Node, other: &Node) {
    one.handle.introduce(other.handle.own_record()).await.unwrap();
    other.handle.introduce(one.handle.own_record()).await.unwrap();
}

/// The two, connected with every one of `relays` and with nobody else.
async fn islands(relays: &[&Node]) -> (Node, Node) {
    let one = Node::start_with(listening_on(&["127.0.0.1:0"], None)).await;
    let other = Node::start_with(listening_on(&["[::1]:0"], None)).await;
    for relay in relays {
        for island in [&one, &other] {
            know_each_other(island, relay).await;
            island.until_connected(relay.id()).await;
            relay.until_connected(island.id()).await;
        }
    }
    know_each_other(&one, &other).await;
    (one, other)
}

pub(crate) fn path(from: &Node, to: &Node) -> Option<Path> {
    from.handle.peer(&to.id())?.connected.map(|connected| connected.path)
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_and_packets_pass_through_a_relay() {
    let relay = Node::start_with(relaying(Some(GENEROUS))).await;
    let (one, other) = islands(&[&relay]).await;
    let began = Instant::now();
    one.asks(other.id(), Traffic::Control).await;
    assert!(began.elapsed() < Duration::from_secs(4), "{:?} until the first answer", began.elapsed());
    other.asks(one.id(), Traffic::Bulk).await;
    one.until_connected(other.id()).await;
    assert_eq!(path(&one, &other), Some(Path::Via(Some(relay.id()))));

    let message: Vec<u8> = (0..4 << 20).map(|at: u32| (at * 31 % 251) as u8).collect();
    let stream = one.handle.open(other.id(), ECHO, Traffic::Bulk).await.unwrap();
    let (mut reader, mut writer) = tokio::io::split(stream);
    let sent = message.clone();
    let writing = tokio::spawn(async move {
        writer.write_all(&sent).await.unwrap();
        writer.shutdown().await.unwrap();
    });
    let mut received = Vec::new();
    timeout(PATIENCE, reader.read_to_end(&mut received)).await.unwrap().unwrap();
    writing.await.unwrap();
    assert!(received == message);

    let packet = Bytes::from(vec![0x67; 1420]);
    let arriving = async {
        let mut batch = Vec::new();
        loop {
            assert!(other.handle.packets().receive(&mut batch).await);
            if batch.drain(..).any(|(from, arrived)| from == one.id() && arrived == packet) {
                return;
            }
        }
    };
    let sending = async {
        loop {
            let _: Result<(), _> = one.handle.packets().send(other.id(), packet.clone());
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    let outcome = timeout(PATIENCE, async {
        tokio::select! {
            () = arriving => {}
            () = sending => {}
        }
    });
    outcome.await.unwrap();

    let counts = relay.handle.relay_counts().for_others;
    assert!(counts.carried_bytes > 8 << 20, "{counts:?}");
    let paths = one.handle.paths(other.id()).await.unwrap();
    let used: Vec<_> = paths.candidates.iter().filter(|candidate| candidate.used).collect();
    assert_eq!(used.len(), 1, "{paths:?}");
    assert_eq!(used[0].path, Path::Via(Some(relay.id())));
    assert!(used[0].round_trip.is_some(), "{paths:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_relay_whose_owner_does_not_offer_it_says_so() {
    let relay = Node::start_with(relaying(None)).await;
    let (one, other) = islands(&[&relay]).await;
    let refused = one.handle.open(other.id(), ECHO, Traffic::Control).await;
    assert!(matches!(refused, Err(OpenError::Unreachable { .. })), "{:?}", refused.err());
    let paths = one.handle.paths(other.id()).await.unwrap();
    let said = &paths.candidates.last().unwrap().state;
    assert!(said.contains("its owner turned that off"), "{paths:?}");
    let counts = relay.handle.relay_counts().for_others;
    assert_eq!((counts.carried, counts.carried_bytes), (0, 0));
    assert!(counts.refused > 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn when_a_relay_dies_the_same_stream_goes_on_by_another() {
    let relays = [Node::start_with(relaying(Some(GENEROUS))).await, Node::start_with(relaying(Some(GENEROUS))).await];
    let (one, other) = islands(&[&relays[0], &relays[1]]).await;
    let mut stream = one.handle.open(other.id(), ECHO, Traffic::Control).await.unwrap();
    // Both have been measured when one is used and the other answers.
    let both = async {
        loop {
            let paths = one.handle.paths(other.id()).await.unwrap();
            if paths.candidates.iter().filter(|candidate| candidate.round_trip.is_some()).count() >= 2 {
                return;
            }
        }
    };
    timeout(PATIENCE, both).await.unwrap();
    let used = loop {
        one.until_connected(other.id()).await;
        if let Some(Path::Via(Some(relay))) = path(&one, &other) {
            break relay;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    let [first, second] = relays;
    let (dies, stays) = if first.id() == used { (first, second) } else { (second, first) };
    // Ends it without telling anybody.
    drop((dies.link, dies.handle));
    let died = Instant::now();
    for _ in 0..20 {
        stream.write_all(b"still there?").await.unwrap();
        let mut answer = [0; 12];
        timeout(PATIENCE, stream.read_exact(&mut answer)).await.unwrap().unwrap();
        assert_eq!(&answer, b"still there?");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let outage = died.elapsed() - Duration::from_millis(400);
    eprintln!("a relay died: {outage:?} until the stream went on");
    assert!(outage < Duration::from_secs(4), "{outage:?}");
    one.until(other.id(), "by the other relay", |peer| {
        peer.connected.as_ref().is_some_and(|connected| connected.path == Path::Via(Some(stays.id())))
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn strangers_use_no_relay_and_are_reached_by_none() {
    let relay = Node::start_with(relaying(Some(GENEROUS))).await;
    let (one, other) = islands(&[&relay]).await;
    one.asks(other.id(), Traffic::Control).await;
    let carried = relay.handle.relay_counts().for_others.refused;

    // It knows the relay and a target of it, and nobody knows it.
    let stranger = Node::start_with(listening_on(&["127.0.0.1:0"], None)).await;
    stranger.handle.introduce(relay.handle.own_record()).await.unwrap();
    stranger.handle.introduce(other.handle.own_record()).await.unwrap();
    let refused = stranger.handle.open(other.id(), ECHO, Traffic::Control).await;
    assert!(matches!(refused, Err(OpenError::Unreachable { .. })), "{:?}", refused.err());
    assert_eq!(relay.handle.relay_counts().for_others.refused, carried, "it did not get as far as asking");

    // A peer of the relay wants to reach somebody whom the relay does not know.
    let unknown = Node::start_with(listening_on(&["[::1]:0"], None)).await;
    know_each_other(&one, &unknown).await;
    let refused = one.handle.open(unknown.id(), ECHO, Traffic::Control).await;
    assert!(matches!(refused, Err(OpenError::Unreachable { .. })), "{:?}", refused.err());
    let paths = one.handle.paths(unknown.id()).await.unwrap();
    assert!(paths.candidates.iter().any(|way| way.state.contains("does not know that node")), "{paths:?}");

    // A peer of the relay that the target does not know gets no answer from it.
    let other_peer = Node::start_with(listening_on(&["127.0.0.1:0"], None)).await;
    know_each_other(&other_peer, &relay).await;
    other_peer.until_connected(relay.id()).await;
    other_peer.handle.introduce(other.handle.own_record()).await.unwrap();
    let refused = other_peer.handle.open(other.id(), ECHO, Traffic::Control).await;
    assert!(matches!(refused, Err(OpenError::Unreachable { .. })), "{:?}", refused.err());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_cannot_get_more_than_its_share() {
    let budget = RelayBudget { rate: 1 << 20, rate_per_user: 128 << 10 };
    let relay = Node::start_with(relaying(Some(budget))).await;
    let (one, other) = islands(&[&relay]).await;
    one.asks(other.id(), Traffic::Control).await;
    let (before, began) = (relay.handle.relay_counts().for_others, Instant::now());
    // As fast as it goes, and without caring for what is lost.
    let flood = async {
        loop {
            let packets = vec![Bytes::from(vec![0x61; 1200]); 32];
            let _: Result<(), _> = one.handle.packets().send_many(other.id(), &packets);
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let _: Result<(), _> = timeout(Duration::from_secs(4), flood).await;
    let (after, time) = (relay.handle.relay_counts().for_others, began.elapsed());
    let carried = after.carried_bytes - before.carried_bytes;
    // The other one answers, with a share of its own; it says little.
    let allowed = 128.0 * 1024.0 * time.as_secs_f64() * 1.25 + 64.0 * 1024.0;
    assert!((carried as f64) < allowed, "{carried} bytes in {time:?}; {allowed} were allowed");
    assert!(carried > 256 << 10, "{carried} bytes in {time:?}");
    assert!(after.refused_budget > before.refused_budget, "{after:?}");
    // Streams still get through beside what is left over.
    one.asks(other.id(), Traffic::Control).await;
}

/// Two that could reach each other and do not know where the other is: the relay brings them together, then they go directly.
#[tokio::test(flavor = "multi_thread")]
async fn a_direct_path_takes_over_where_there_is_one() {
    let relay = Node::start_with(relaying(Some(GENEROUS))).await;
    let here = listening_on(&["127.0.0.1:0"], None);
    let (one, other) = (Node::start_with(here.clone()).await, Node::start_with(here).await);
    for node in [&one, &other] {
        know_each_other(node, &relay).await;
        node.until_connected(relay.id()).await;
        relay.until_connected(node.id()).await;
    }
    one.handle.introduce(crate::support::nowhere(&other.key, 1)).await.unwrap();
    other.handle.introduce(crate::support::nowhere(&one.key, 1)).await.unwrap();
    let direct = async {
        while !matches!(path(&one, &other), Some(Path::Direct(_))) {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    timeout(PATIENCE, direct).await.unwrap();
    assert!(relay.handle.relay_counts().for_others.carried > 0);
    other.asks(one.id(), Traffic::Bulk).await;
}
