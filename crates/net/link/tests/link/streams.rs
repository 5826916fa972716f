//! Streams: what they carry, how they end, and what holds them back.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use atoll_ids::NodeId;
use atoll_keys::NodeKey;
use atoll_link::{BoxStream, Link, LinkConfig, MemoryPeers, OpenError, Refusal, Traffic};
use futures_util::future::BoxFuture;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::sync::Notify;

use crate::support::{ECHO, Node, PATIENCE, on_loopback, pair, pair_with};

const BOTH: [Traffic; 2] = [Traffic::Control, Traffic::Bulk];

fn pattern(bytes: usize) -> Vec<u8> {
    (0..bytes).map(|at| (at * 31 % 251) as u8).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn large_transfers_arrive_whole_both_ways() {
    let (one, other) = pair().await;
    for (traffic, bytes) in [(Traffic::Control, 6 << 20), (Traffic::Bulk, 24 << 20)] {
        let message = pattern(bytes);
        let stream = other.handle.open(one.id(), ECHO, traffic).await.unwrap();
        let (mut reader, mut writer) = tokio::io::split(stream);
        let sent = message.clone();
        let writing = tokio::spawn(async move {
            writer.write_all(&sent).await.unwrap();
            writer.shutdown().await.unwrap();
        });
        let mut received = Vec::new();
        tokio::time::timeout(PATIENCE, reader.read_to_end(&mut received)).await.unwrap().unwrap();
        writing.await.unwrap();
        assert!(received == message, "{traffic:?}");
    }
}

#[tokio::test]
async fn bulk_takes_a_lane_and_control_does_not() {
    let (one, other) = pair().await;
    for (traffic, lanes) in [(Traffic::Control, 0), (Traffic::Bulk, 1)] {
        let stream = other.handle.open(one.id(), ECHO, traffic).await.unwrap();
        assert_eq!(other.handle.peer(&one.id()).unwrap().lanes, lanes, "{traffic:?}");
        drop(stream);
        assert_eq!(other.handle.peer(&one.id()).unwrap().lanes, 0);
    }
}

async fn keeps(node: &Node, peer: NodeId, connections: usize) {
    let waiting = async {
        while node.handle.peer(&peer).unwrap().connections != connections {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(PATIENCE, waiting).await.unwrap();
}

#[tokio::test]
async fn a_connection_is_kept_while_something_is_open_on_it() {
    let config = LinkConfig { keep_idle: Duration::from_millis(400), ..on_loopback() };
    let (one, other) = pair_with(config.clone(), config.clone()).await;
    let third = Node::start_with(config).await;
    third.handle.join(&one.handle.invite(PATIENCE, 1).unwrap()).await.unwrap();
    let mut held = one.handle.open(other.id(), ECHO, Traffic::Control).await.unwrap();
    for _ in 0..2 {
        // What was opened later, by either end, is over long before.
        one.asks(third.id(), Traffic::Control).await;
        third.asks(one.id(), Traffic::Control).await;
        keeps(&one, third.id(), 0).await;
        keeps(&third, one.id(), 0).await;
    }
    assert_eq!(one.handle.peer(&other.id()).unwrap().connections, 1);
    assert_eq!(other.handle.peer(&one.id()).unwrap().connections, 1);
    held.write_all(b"still there?").await.unwrap();
    held.shutdown().await.unwrap();
    let mut answer = Vec::new();
    held.read_to_end(&mut answer).await.unwrap();
    assert_eq!(answer, b"still there?");
    drop(held);
    keeps(&one, other.id(), 0).await;
    keeps(&other, one.id(), 0).await;
    other.asks(one.id(), Traffic::Control).await;
}

#[tokio::test]
async fn what_is_said_aside_takes_no_connection_of_its_own() {
    let (one, other) = pair().await;
    one.until_connected(other.id()).await;
    other.until_connected(one.id()).await;
    one.asks(other.id(), Traffic::Aside).await;
    other.asks(one.id(), Traffic::Aside).await;
    let refused = one.handle.open(other.id(), "atoll/unheard-of/1", Traffic::Aside).await;
    assert!(matches!(refused, Err(OpenError::Refused { reason: Refusal::Protocol, .. })));
    for (node, peer) in [(&one, &other), (&other, &one)] {
        assert_eq!(node.handle.peer(&peer.id()).unwrap().connections, 0);
    }
    one.handle.forget(&other.id()).await.unwrap();
    assert!(other.handle.open(one.id(), ECHO, Traffic::Aside).await.is_err());
}

async fn closed_port() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap()
}

#[tokio::test]
async fn where_no_lane_leads_bulk_takes_quic() {
    // One address where nobody listens, and one where somebody else does.
    let somebody = Node::start().await;
    let mut config = on_loopback();
    config.lane_bind = Vec::new();
    config.lane_external = vec![closed_port().await, somebody.handle.addresses().lane[0]];
    let (one, other) = pair_with(config, on_loopback()).await;
    assert_eq!(other.handle.peer(&one.id()).unwrap().record.lane.len(), 2, "it believes there are lanes");
    for _ in 0..2 {
        other.asks(one.id(), Traffic::Bulk).await;
    }
    let _stream = other.handle.open(one.id(), ECHO, Traffic::Bulk).await.unwrap();
    assert_eq!(other.handle.peer(&one.id()).unwrap().lanes, 0);
}

#[tokio::test]
async fn a_protocol_that_is_not_served_is_refused() {
    let (one, other) = pair().await;
    for traffic in BOTH {
        let refused = other.handle.open(one.id(), "atoll/nothing/1", traffic).await.err().unwrap();
        assert_eq!(refused, OpenError::Refused { node: one.id(), reason: Refusal::Protocol }, "{traffic:?}");
    }
}

#[tokio::test]
async fn names_that_cannot_be_protocols_are_refused() {
    let handler = Arc::new(|_: NodeId, _: BoxStream| -> BoxFuture<'static, ()> { Box::pin(async {}) });
    for names in [vec![""], vec!["atoll/join/1"], vec!["atoll/hello/2"], vec!["twice", "twice"]] {
        let key = Arc::new(NodeKey::generate());
        let mut builder = Link::builder(key, on_loopback(), Arc::new(MemoryPeers::default()));
        for name in &names {
            builder = builder.protocol(name, handler.clone());
        }
        assert!(builder.bind().await.is_err(), "{names:?}");
    }
}

#[tokio::test]
async fn a_stream_dropped_before_its_end_is_an_error_for_the_reader() {
    let (report, mut reports) = tokio::sync::mpsc::channel(1);
    let handler = move |_: NodeId, mut stream: BoxStream| -> BoxFuture<'static, ()> {
        let report = report.clone();
        Box::pin(async move {
            let mut received = Vec::new();
            let end = stream.read_to_end(&mut received).await.map_err(|error| error.kind());
            report.send((received.len(), end)).await.unwrap();
        })
    };
    let (one, other) = serving("atoll/read/1", Arc::new(handler)).await;
    for traffic in BOTH {
        let mut whole = other.handle.open(one.id(), "atoll/read/1", traffic).await.unwrap();
        whole.write_all(&[1; 1000]).await.unwrap();
        whole.shutdown().await.unwrap();
        assert_eq!(reports.recv().await.unwrap(), (1000, Ok(1000)), "{traffic:?}");

        let mut half = other.handle.open(one.id(), "atoll/read/1", traffic).await.unwrap();
        half.write_all(&[1; 1000]).await.unwrap();
        half.flush().await.unwrap();
        drop(half);
        let (_, end) = reports.recv().await.unwrap();
        assert!(end.is_err(), "{traffic:?}: {end:?}");
    }
}

/// Two nodes of which the first serves one more protocol.
async fn serving(name: &'static str, handler: Arc<dyn atoll_link::StreamHandler>) -> (Node, Node) {
    let (key, store) = (Arc::new(NodeKey::generate()), Arc::new(MemoryPeers::default()));
    let link = Link::builder(key.clone(), on_loopback(), store.clone()).protocol(name, handler).bind().await.unwrap();
    let one = Node { key, store, handle: link.handle(), link };
    let other = Node::start().await;
    let ticket = one.handle.invite(Duration::from_secs(60), 1).unwrap();
    other.handle.join(&ticket).await.unwrap();
    (one, other)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_that_stalls_stalls_the_writer() {
    let go = Arc::new(Notify::new());
    let (report, mut reports) = tokio::sync::mpsc::channel(1);
    let wait = go.clone();
    let handler = move |_: NodeId, mut stream: BoxStream| -> BoxFuture<'static, ()> {
        let (wait, report) = (wait.clone(), report.clone());
        Box::pin(async move {
            wait.notified().await;
            let read = tokio::io::copy(&mut stream, &mut tokio::io::sink()).await.unwrap();
            report.send(read).await.unwrap();
        })
    };
    let (one, other) = serving("atoll/stall/1", Arc::new(handler)).await;
    let piece = vec![7; 256 * 1024];
    for traffic in BOTH {
        let mut stream = other.handle.open(one.id(), "atoll/stall/1", traffic).await.unwrap();
        let mut written = 0u64;
        while let Ok(wrote) = tokio::time::timeout(Duration::from_millis(300), stream.write(&piece)).await {
            written += wrote.unwrap() as u64;
            assert!(written < 64 << 20, "{traffic:?}: nothing holds the writer back");
        }
        go.notify_one();
        stream.shutdown().await.unwrap();
        assert_eq!(reports.recv().await.unwrap(), written, "{traffic:?}: every byte once");
    }
}

#[tokio::test]
async fn a_shutdown_waits_for_streams_as_long_as_it_may() {
    let go = Arc::new(Notify::new());
    let wait = go.clone();
    let handler = move |_: NodeId, mut stream: BoxStream| -> BoxFuture<'static, ()> {
        let wait = wait.clone();
        Box::pin(async move {
            wait.notified().await;
            stream.write_all(b"done").await.unwrap();
            stream.shutdown().await.unwrap();
            // Until the other end has it.
            let _: std::io::Result<usize> = stream.read_to_end(&mut Vec::new()).await;
        })
    };
    let handler = Arc::new(handler);
    for (patient, expect) in [(true, true), (false, false)] {
        let (one, other) = serving("atoll/slow/1", handler.clone()).await;
        let mut stream = other.handle.open(one.id(), "atoll/slow/1", Traffic::Control).await.unwrap();
        let Node { link, handle, .. } = one;
        let deadline = if patient { PATIENCE } else { Duration::from_millis(50) };
        let ending = tokio::spawn(link.shutdown(deadline));
        if patient {
            go.notify_one();
            let mut answer = [0; 4];
            stream.read_exact(&mut answer).await.unwrap();
            assert_eq!(&answer, b"done");
            stream.shutdown().await.unwrap();
            drop(stream);
        }
        assert_eq!(ending.await.unwrap(), expect);
        assert_eq!(handle.open(other.id(), ECHO, Traffic::Control).await.err().unwrap(), OpenError::Closed);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn more_lanes_than_a_peer_may_have_become_quic_streams() {
    let (one, other) = pair().await;
    let mut streams = Vec::new();
    for _ in 0..70 {
        streams.push(other.handle.open(one.id(), ECHO, Traffic::Bulk).await.unwrap());
    }
    assert_eq!(other.handle.peer(&one.id()).unwrap().lanes, 64);
    drop(streams);
    other.asks(one.id(), Traffic::Bulk).await;
}
