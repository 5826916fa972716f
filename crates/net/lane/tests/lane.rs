//! Lanes between two keys in one process, over real TCP on loopback.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::time::Duration;

use atoll_keys::NodeKey;
use atoll_lane::{Accepted, Acceptor, Connector, HANDSHAKE_BYTES_MAX, LaneError, LaneStream};
use proptest::prelude::{Strategy, any};
use proptest::{collection, proptest};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

const PROTOCOL: &str = "atoll/test/1";

struct Server {
    key: NodeKey,
    acceptor: Acceptor,
    listener: TcpListener,
}

impl Server {
    async fn start() -> Self {
        let key = NodeKey::generate();
        let acceptor = Acceptor::new(&key, &["atoll/other/1", PROTOCOL]).unwrap();
        Self { key, acceptor, listener: TcpListener::bind("127.0.0.1:0").await.unwrap() }
    }

    fn address(&self) -> SocketAddr {
        self.listener.local_addr().unwrap()
    }

    async fn accept(&self) -> Result<Accepted, LaneError> {
        self.acceptor.accept(self.listener.accept().await.unwrap().0).await
    }

    async fn lane_from(&self, client: &NodeKey, via: SocketAddr) -> (LaneStream, LaneStream) {
        let connector = Connector::new(client);
        let (ours, theirs) = tokio::join!(connector.connect(via, self.key.id(), PROTOCOL), self.accept());
        (ours.unwrap(), theirs.unwrap().stream)
    }
}

async fn pair() -> (LaneStream, LaneStream) {
    let server = Server::start().await;
    server.lane_from(&NodeKey::generate(), server.address()).await
}

/// What passes through the man in the middle, and what he does with it.
#[derive(Clone, Copy)]
enum Tamper {
    /// Flips a bit of the byte at this position of the client's stream.
    Flip(usize),
    /// Ends the client's stream after so many bytes, with a proper FIN.
    Cut(usize),
}

/// A listener that passes one connection on to `to`, tampering with what the client sends.
async fn man_in_the_middle(to: SocketAddr, tamper: Tamper) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let (mut client_read, mut client_write) = listener.accept().await.unwrap().0.into_split();
        let (mut server_read, mut server_write) = TcpStream::connect(to).await.unwrap().into_split();
        let back = tokio::spawn(async move {
            let _: Result<u64, _> = tokio::io::copy(&mut server_read, &mut client_write).await;
        });
        let mut passed = 0;
        let mut buffer = vec![0; 8192];
        while let Ok(count @ 1..) = client_read.read(&mut buffer).await {
            let mut end = count;
            match tamper {
                Tamper::Flip(at) if (passed..passed + count).contains(&at) => buffer[at - passed] ^= 0x10,
                Tamper::Cut(at) if passed + count >= at => end = at - passed,
                _ => {}
            }
            if server_write.write_all(&buffer[..end]).await.is_err() || end < count {
                break;
            }
            passed += count;
        }
        let _: Result<(), _> = server_write.shutdown().await;
        let _: Result<(), _> = back.await;
    });
    address
}

#[tokio::test]
async fn both_ends_know_each_other_and_what_protects_them() {
    let server = Server::start().await;
    let client = NodeKey::generate();
    let connector = Connector::new(&client);
    let (ours, theirs) = tokio::join!(connector.connect(server.address(), server.key.id(), PROTOCOL), server.accept());
    let (ours, theirs) = (ours.unwrap(), theirs.unwrap());
    assert_eq!(ours.peer(), server.key.id());
    assert_eq!(theirs.peer, client.id());
    assert_eq!(theirs.stream.peer(), client.id());
    assert_eq!(theirs.protocol, PROTOCOL);
    for end in [&ours, &theirs.stream] {
        assert_eq!(end.key_exchange(), "X25519MLKEM768");
        assert_eq!(end.cipher(), "TLS13_AES_256_GCM_SHA384");
    }
}

fn pieces() -> impl Strategy<Value = Vec<Vec<u8>>> {
    // Sizes around nothing, one record, and more than one chunk.
    let size = proptest::prop_oneof![0usize..40, 16_300usize..16_500, 250_000usize..300_000];
    let piece = (size, any::<u8>()).prop_map(|(size, seed)| (0..size).map(|at| seed ^ (at % 251) as u8).collect());
    collection::vec(piece, 0..6)
}

proptest! {
    #![proptest_config(proptest::test_runner::Config::with_cases(24))]

    #[test]
    fn what_is_written_is_read(sent in pieces(), answer in pieces(), read_size in 1usize..70_000, vectored: bool) {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        runtime.block_on(async move {
            let (ours, theirs) = pair().await;
            let (expected_there, expected_here) = (sent.concat(), answer.concat());
            let here = tokio::spawn(exchange(ours, sent, read_size, vectored));
            let there = tokio::spawn(exchange(theirs, answer, 30_000, !vectored));
            assert!(here.await.unwrap() == expected_here, "what came back differs");
            assert!(there.await.unwrap() == expected_there, "what arrived differs");
        });
    }
}

/// Writes `pieces` and reads to the end at the same time, `read_size` bytes at once.
async fn exchange(lane: LaneStream, pieces: Vec<Vec<u8>>, read_size: usize, vectored: bool) -> Vec<u8> {
    let (mut reader, mut writer) = tokio::io::split(lane);
    let writing = tokio::spawn(async move {
        for piece in pieces {
            let (head, mut tail) = piece.split_at(piece.len().min(4));
            if vectored && !head.is_empty() {
                let slices = [std::io::IoSlice::new(head), std::io::IoSlice::new(tail)];
                let count = writer.write_vectored(&slices).await.unwrap();
                assert!(count >= head.len(), "a fresh chunk has room for a header");
                tail = &tail[count - head.len()..];
            } else {
                writer.write_all(head).await.unwrap();
            }
            writer.write_all(tail).await.unwrap();
        }
        writer.shutdown().await.unwrap();
    });
    let mut all = Vec::new();
    let mut buffer = vec![0; read_size];
    loop {
        match reader.read(&mut buffer).await.unwrap() {
            0 => break,
            count => all.extend_from_slice(&buffer[..count]),
        }
    }
    writing.await.unwrap();
    all
}

#[tokio::test]
async fn somebody_elses_key_is_refused_and_both_ends_say_so() {
    let server = Server::start().await;
    let connector = Connector::new(&NodeKey::generate());
    let expected = NodeKey::generate().id();
    let (ours, theirs) = tokio::join!(connector.connect(server.address(), expected, PROTOCOL), server.accept());
    match ours.unwrap_err() {
        LaneError::WrongNode(wrong) => {
            assert_eq!((wrong.expected, wrong.found), (expected, server.key.id()));
        }
        other => panic!("{other:?}"),
    }
    let refusal = theirs.unwrap_err();
    assert!(matches!(refusal, LaneError::Refused(_)), "{refusal:?}");
    assert!(!refusal.is_transient());
}

#[tokio::test]
async fn an_unknown_protocol_is_refused_by_both_ends() {
    let server = Server::start().await;
    let connector = Connector::new(&NodeKey::generate());
    let (ours, theirs) =
        tokio::join!(connector.connect(server.address(), server.key.id(), "atoll/test/2"), server.accept());
    assert_eq!(ours.unwrap_err().to_string(), "the other end does not speak atoll/test/2");
    assert_eq!(theirs.unwrap_err().to_string(), "the other end does not speak atoll/other/1 or atoll/test/1");
}

#[tokio::test]
async fn a_protocol_name_that_tls_cannot_carry_is_refused_before_anything_is_sent() {
    let key = NodeKey::generate();
    let long = "x".repeat(256);
    for name in ["", long.as_str()] {
        assert!(matches!(Acceptor::new(&key, &[name]), Err(LaneError::ProtocolName(_))));
        let nowhere = "127.0.0.1:1".parse().unwrap();
        let refused = Connector::new(&key).connect(nowhere, key.id(), name).await;
        assert!(matches!(refused, Err(LaneError::ProtocolName(_))));
    }
}

#[tokio::test]
async fn nobody_listening_is_worth_another_try() {
    let free = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = free.local_addr().unwrap();
    drop(free);
    let key = NodeKey::generate();
    let error = Connector::new(&key).connect(address, key.id(), PROTOCOL).await.unwrap_err();
    assert!(matches!(error, LaneError::Connect { .. }), "{error:?}");
    assert!(error.is_transient());
}

#[tokio::test]
async fn closing_one_direction_leaves_the_other() {
    let (mut ours, mut theirs) = pair().await;
    ours.write_all(b"question").await.unwrap();
    ours.shutdown().await.unwrap();
    assert_eq!(ours.write(b"more").await.unwrap_err().kind(), ErrorKind::BrokenPipe);
    let mut question = Vec::new();
    theirs.read_to_end(&mut question).await.unwrap();
    assert_eq!(question, b"question");
    theirs.write_all(b"answer").await.unwrap();
    theirs.shutdown().await.unwrap();
    let mut answer = Vec::new();
    ours.read_to_end(&mut answer).await.unwrap();
    assert_eq!(answer, b"answer");
    assert_eq!(ours.read(&mut [0; 1]).await.unwrap(), 0, "the end stays the end");
}

#[tokio::test]
async fn a_lane_dropped_without_shutdown_is_no_clean_end() {
    let (mut ours, mut theirs) = pair().await;
    ours.write_all(b"half a st").await.unwrap();
    drop(ours);
    let mut received = Vec::new();
    let error = theirs.read_to_end(&mut received).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::UnexpectedEof);
    assert_eq!(received, b"half a st");
}

/// Sends `message` through a man in the middle; gives what arrived and how it ended.
async fn through(tamper: Tamper, message: &[u8]) -> (Vec<u8>, std::io::Result<usize>) {
    let server = Server::start().await;
    let proxy = man_in_the_middle(server.address(), tamper).await;
    let (mut ours, mut theirs) = server.lane_from(&NodeKey::generate(), proxy).await;
    let mut received = Vec::new();
    let send = async {
        // Fails when the other end gave up first.
        let _: std::io::Result<()> = ours.write_all(message).await;
        let _: std::io::Result<()> = ours.shutdown().await;
    };
    let (end, ()) = tokio::join!(theirs.read_to_end(&mut received), send);
    assert!(theirs.read(&mut [0; 1]).await.map_or(true, |count| count == 0), "nothing after an error");
    (received, end)
}

/// More than the client's part of any handshake, so that what is hit is data.
const BEHIND_THE_HANDSHAKE: usize = 4096;

#[tokio::test]
async fn a_bit_flipped_on_the_way_is_an_error_and_never_other_bytes() {
    let message: Vec<u8> = (0..200_000usize).map(|at| (at * 7 % 253) as u8).collect();
    for at in [BEHIND_THE_HANDSHAKE, 20_000, 20_001, 100_000, 199_000] {
        let (received, end) = through(Tamper::Flip(at), &message).await;
        assert!(message.starts_with(&received), "flipped at {at}: wrong bytes were handed on");
        assert_eq!(end.unwrap_err().kind(), ErrorKind::InvalidData, "flipped at {at}");
    }
}

#[tokio::test]
async fn a_stream_cut_on_the_way_is_an_error_even_between_records() {
    let message = vec![9; 100_000];
    for at in [BEHIND_THE_HANDSHAKE, 50_000, 90_001] {
        let (received, end) = through(Tamper::Cut(at), &message).await;
        assert!(message.starts_with(&received));
        assert_eq!(end.unwrap_err().kind(), ErrorKind::UnexpectedEof, "cut at {at}");
    }
}

#[tokio::test]
async fn an_untouched_message_passes_the_same_proxy() {
    let message = vec![3; 100_000];
    let (received, end) = through(Tamper::Flip(usize::MAX), &message).await;
    assert_eq!(end.unwrap(), message.len());
    assert!(received == message);
}

#[tokio::test]
async fn handshakes_do_not_survive_a_flipped_bit() {
    for at in [0, 60, 600, 1300, 1500] {
        let server = Server::start().await;
        let proxy = man_in_the_middle(server.address(), Tamper::Flip(at)).await;
        let connector = Connector::new(&NodeKey::generate());
        let (ours, theirs) = tokio::join!(connector.connect(proxy, server.key.id(), PROTOCOL), server.accept());
        assert!(theirs.is_err(), "flipped at {at}");
        // The client has its answer before the server has checked the client's last message.
        if let Ok(mut lane) = ours {
            assert!(lane.read(&mut [0; 1]).await.is_err(), "flipped at {at}");
        }
    }
}

#[tokio::test]
async fn whoever_does_not_speak_tls_is_refused() {
    for hello in [&b"GET / HTTP/1.1\r\n\r\n"[..], &[0; 64], &[0xff; 64], b"\x16\x03\x01\x00\x05aaaaa", b""] {
        let server = Server::start().await;
        let address = server.address();
        let stranger = async {
            let mut tcp = TcpStream::connect(address).await.unwrap();
            tcp.write_all(hello).await.unwrap();
            tcp.shutdown().await.unwrap();
            // Whatever comes back, the connection ends.
            let _: std::io::Result<usize> = tcp.read_to_end(&mut Vec::new()).await;
        };
        let (accepted, ()) = tokio::join!(server.accept(), stranger);
        let error = accepted.unwrap_err();
        assert!(matches!(error, LaneError::Tls(_) | LaneError::Io(_)), "{hello:?}: {error:?}");
    }
}

#[tokio::test]
async fn an_endless_hello_is_cut_short() {
    let server = Server::start().await;
    let address = server.address();
    let stranger = async {
        let mut tcp = TcpStream::connect(address).await.unwrap();
        // A client hello that says it is 60,000 bytes long, in records of 4,000.
        let mut sent = 0;
        let mut fragment = vec![0x16, 0x03, 0x01, 0x0f, 0xa0];
        fragment.resize(5 + 4000, 0);
        fragment[5..9].copy_from_slice(&[0x01, 0x00, 0xea, 0x60]);
        while tcp.write_all(&fragment).await.is_ok() && sent < 100 * HANDSHAKE_BYTES_MAX {
            sent += fragment.len();
            fragment[5..9].copy_from_slice(&[0; 4]);
            tokio::task::yield_now().await;
        }
    };
    let (accepted, ()) = tokio::join!(server.accept(), stranger);
    let error = accepted.unwrap_err();
    assert!(matches!(error, LaneError::TooMuch { limit: HANDSHAKE_BYTES_MAX }), "{error:?}");
}

#[tokio::test(start_paused = true)]
async fn whoever_connects_and_says_nothing_is_dropped_in_time() {
    let server = Server::start().await;
    let _silent = TcpStream::connect(server.address()).await.unwrap();
    let before = tokio::time::Instant::now();
    let error = server.accept().await.unwrap_err();
    assert!(matches!(error, LaneError::Timeout { .. }), "{error:?}");
    assert_eq!(before.elapsed().as_secs(), 10);
    assert!(error.is_transient());
}

#[tokio::test(start_paused = true)]
async fn a_listener_that_never_answers_is_given_up() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let key = NodeKey::generate();
    let connector = Connector::new(&key).with_connect_timeout(Duration::from_secs(1));
    let error = connector.connect(listener.local_addr().unwrap(), key.id(), PROTOCOL).await.unwrap_err();
    assert!(matches!(error, LaneError::Timeout { what: "the handshake", .. }), "{error:?}");
}

#[tokio::test]
async fn new_keys_in_mid_stream_change_nothing() {
    let (mut ours, mut theirs) = pair().await;
    for turn in 0..5u8 {
        ours.rekey().unwrap();
        ours.write_all(&[turn; 40_000]).await.unwrap();
        let mut there = vec![0; 40_000];
        theirs.read_exact(&mut there).await.unwrap();
        assert!(there.iter().all(|byte| *byte == turn));
        theirs.write_all(&[!turn; 40_000]).await.unwrap();
        let mut here = vec![0; 40_000];
        ours.read_exact(&mut here).await.unwrap();
        assert!(here.iter().all(|byte| *byte == !turn));
    }
}

#[tokio::test]
async fn a_reader_that_stalls_stalls_the_writer_and_loses_nothing() {
    let (mut ours, mut theirs) = pair().await;
    let piece = vec![1; 256 * 1024];
    let mut written = 0;
    // Sockets buffer some megabytes; whoever can write 256 MiB against a reader that sleeps is not held back.
    while let Ok(outcome) = tokio::time::timeout(Duration::from_millis(200), ours.write(&piece)).await {
        written += outcome.unwrap();
        assert!(written < 256 << 20, "the writer is not held back");
    }
    assert!(ours.held_bytes() < 600 * 1024, "{} bytes in buffers", ours.held_bytes());
    let finish = async {
        ours.shutdown().await.unwrap();
    };
    let count = async {
        let mut all = 0;
        let mut buffer = vec![0; 1 << 20];
        loop {
            match theirs.read(&mut buffer).await.unwrap() {
                0 => break all,
                count => all += count,
            }
        }
    };
    let ((), read) = tokio::join!(finish, count);
    assert_eq!(read, written, "every accepted byte arrives once");
}

#[tokio::test]
async fn a_lane_at_rest_holds_no_buffers() {
    let (mut ours, mut theirs) = pair().await;
    assert_eq!((ours.held_bytes(), theirs.held_bytes()), (0, 0), "after the handshake");
    let message = vec![1; 1 << 20];
    let mut all = vec![0; 1 << 20];
    let (written, read) = tokio::join!(ours.write_all(&message), theirs.read_exact(&mut all));
    written.unwrap();
    read.unwrap();
    let waiting = tokio::time::timeout(Duration::from_millis(20), theirs.read(&mut all)).await;
    assert!(waiting.is_err(), "nothing more comes");
    ours.flush().await.unwrap();
    assert_eq!((ours.held_bytes(), theirs.held_bytes()), (0, 0));
}
