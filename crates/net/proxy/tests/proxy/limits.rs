//! A peer that wants too much gets what there is for one, and the others theirs.

use atoll_link::Traffic;
use atoll_proxy::{Limits, PROTOCOL};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::timeout;

use crate::support::{Make, Node, OTHER, PATIENCE, asks, echo, eventually, pair, pair_of};

#[tokio::test]
async fn hundreds_of_connections_of_one_peer_are_refused_and_others_served() {
    let limits = Limits { per_peer: 40, ..Limits::default() };
    let (one, other) = pair_of(Make::default(), Make { limits, ..Make::default() }).await;
    let third = Node::start(Make::default()).await;
    third.joins(&other).await;
    let port = echo().await;
    other.allow(port);
    let mut held = Vec::new();
    for _ in 0..40 {
        held.push(one.socks(OTHER, port).await.unwrap());
    }
    // In three waves: the link itself serves a peer no more than 256 streams.
    for _ in 0..3 {
        let more = (0..100).map(|_| one.socks(OTHER, port));
        for refused in futures_util::future::join_all(more).await {
            assert_eq!(refused.unwrap_err(), 1);
        }
    }
    asks(&mut third.socks(OTHER, port).await.unwrap()).await;
    for stream in &mut held {
        asks(stream).await;
    }
    drop(held);
    eventually("they are over", || one.reacher.counts().now().open == 0).await;
    eventually("there, too", || other.server.counts().now().open == 0).await;
    asks(&mut one.socks(OTHER, port).await.unwrap()).await;
}

#[tokio::test]
async fn what_is_no_request_gets_no_answer() {
    let (one, other) = pair().await;
    let check = async |said: &[u8]| {
        let mut stream = one.handle.open(other.id(), PROTOCOL, Traffic::Control).await.unwrap();
        stream.write_all(said).await.unwrap();
        stream.shutdown().await.unwrap();
        let mut answer = Vec::new();
        assert!(timeout(PATIENCE, stream.read_to_end(&mut answer)).await.unwrap().is_err(), "{said:?}");
        assert_eq!(answer, b"");
    };
    check(b"").await;
    check(b"\x05\0\0\0hello").await;
    check(b"\xff\xff\xff\xffhello").await;
    check(&[7, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0]).await;
    assert_eq!(other.server.counts().now().connected, 0);
}

#[tokio::test]
async fn a_peer_that_says_nothing_is_not_waited_for() {
    let limits = Limits { request_within: std::time::Duration::from_millis(200), ..Limits::default() };
    let (one, other) = pair_of(Make::default(), Make { limits, ..Make::default() }).await;
    let mut stream = one.handle.open(other.id(), PROTOCOL, Traffic::Bulk).await.unwrap();
    let ended = timeout(PATIENCE, stream.read(&mut [0; 1])).await.unwrap();
    assert!(ended.is_err(), "{ended:?}");
}
