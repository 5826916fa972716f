//! Packets beside the connection: the fast path between nodes on loopback.

use std::net::UdpSocket;
use std::time::Duration;

use atoll_link::{FastCounts, LinkConfig, PacketRefusal};
use bytes::Bytes;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::support::{Node, PATIENCE, on_loopback, pair_with};

fn carrying() -> LinkConfig {
    LinkConfig { packets: true, ..on_loopback() }
}

fn inside_only() -> LinkConfig {
    LinkConfig { fast_port: None, ..carrying() }
}

/// Takes in what comes to a node, as an interface does.
struct Taking {
    got: mpsc::UnboundedReceiver<Vec<u8>>,
    task: JoinHandle<()>,
}

impl Taking {
    fn at(node: &Node) -> Self {
        let (give, got) = mpsc::unbounded_channel();
        let packets = node.handle.packets();
        let task = tokio::spawn(async move {
            let mut batch = Vec::new();
            while packets.receive(&mut batch).await {
                for (_, packet) in batch.drain(..) {
                    let _: Result<(), _> = give.send(packet.to_vec());
                }
            }
        });
        Self { got, task }
    }

    /// Sends until a packet arrives that was sent after all others.
    async fn arrives(&mut self, from: &Node, to: &Node, packet: &[u8]) {
        let arriving = async { while self.got.recv().await.unwrap() != packet {} };
        let sending = async {
            loop {
                let _: Result<(), PacketRefusal> = from.handle.packets().send(to.id(), Bytes::copy_from_slice(packet));
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        let outcome = timeout(PATIENCE, async {
            tokio::select! {
                () = arriving => {}
                () = sending => {}
            }
        });
        outcome.await.unwrap();
    }
}

impl Drop for Taking {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn is_fast(from: &Node, to: &Node) -> bool {
    from.handle.packets().fast_path(&to.id()).is_some()
}

/// Sends until packets take the fast path, and one arrived on it.
async fn until_fast(from: &Node, to: &Node, taking: &mut Taking) {
    let before = to.handle.packets().fast_counts().opened;
    let going = async {
        while !is_fast(from, to) || to.handle.packets().fast_counts().opened == before {
            taking.arrives(from, to, b"on the way").await;
        }
    };
    timeout(PATIENCE, going).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn packets_go_beside_the_connection_both_ways_and_after_a_restart() {
    let (one, other) = pair_with(carrying(), carrying()).await;
    let (mut at_one, mut at_other) = (Taking::at(&one), Taking::at(&other));
    until_fast(&one, &other, &mut at_other).await;
    until_fast(&other, &one, &mut at_one).await;
    // Many at once, of all sizes.
    let packets: Vec<Bytes> = (0..200u8).map(|at| Bytes::from(vec![0x60 | at; usize::from(at) * 7 + 1])).collect();
    let before = other.handle.packets().fast_counts().opened;
    one.handle.packets().send_many(other.id(), &packets).unwrap();
    for packet in &packets {
        let mut arrived = Vec::new();
        while arrived.is_empty() || arrived == b"on the way" {
            arrived = timeout(PATIENCE, at_other.got.recv()).await.unwrap().unwrap();
        }
        assert_eq!(arrived, packet[..]);
    }
    assert!(other.handle.packets().fast_counts().opened >= before + 200);

    drop(at_other);
    let other = other.restart_with(carrying()).await;
    let mut at_other = Taking::at(&other);
    until_fast(&one, &other, &mut at_other).await;
    until_fast(&other, &one, &mut at_one).await;
    let FastCounts { forged, replayed, .. } = one.handle.packets().fast_counts();
    assert_eq!((forged, replayed), (0, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_without_a_fast_path_gets_its_packets_inside_the_connection() {
    for (ours, theirs) in [(carrying(), inside_only()), (inside_only(), carrying())] {
        let (one, other) = pair_with(ours, theirs).await;
        let (mut at_one, mut at_other) = (Taking::at(&one), Taking::at(&other));
        at_other.arrives(&one, &other, b"there").await;
        at_one.arrives(&other, &one, b"and back").await;
        assert!(!is_fast(&one, &other) && !is_fast(&other, &one));
        assert_eq!(one.handle.packets().fast_counts(), FastCounts::default());
    }
}

/// The peer takes nothing in, so it answers no probes: as if UDP of our own did not get through.
#[tokio::test(flavor = "multi_thread")]
async fn a_path_on_which_nothing_is_answered_is_not_used_and_left_within_a_second() {
    let (one, other) = pair_with(carrying(), carrying()).await;
    let (_at_one, mut at_other) = (Taking::at(&one), Taking::at(&other));
    until_fast(&one, &other, &mut at_other).await;
    drop(at_other);
    let began = std::time::Instant::now();
    let leaving = async {
        while is_fast(&one, &other) {
            let _: Result<(), PacketRefusal> = one.handle.packets().send(other.id(), Bytes::from_static(b"lost"));
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(PATIENCE, leaving).await.unwrap();
    // Long for a busy machine: 1 s where it is not.
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    let mut at_other = Taking::at(&other);
    at_other.arrives(&one, &other, b"inside").await;
    until_fast(&one, &other, &mut at_other).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_strangers_send_goes_nowhere() {
    let (one, other) = pair_with(carrying(), carrying()).await;
    let (_at_one, mut at_other) = (Taking::at(&one), Taking::at(&other));
    until_fast(&one, &other, &mut at_other).await;
    let port = other.handle.packets().fast_ports()[0];
    let stranger = UdpSocket::bind("127.0.0.1:0").unwrap();
    for junk in [&b""[..], b"x", &[0x10; 32], &[0; 1312], &[0xff; 2000]] {
        stranger.send_to(junk, ("127.0.0.1", port)).unwrap();
    }
    let counted = async {
        // The empty one is none at all.
        while other.handle.packets().fast_counts().stray < 4 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(PATIENCE, counted).await.unwrap();
    at_other.arrives(&one, &other, b"genuine").await;
    assert!(is_fast(&one, &other));
}
