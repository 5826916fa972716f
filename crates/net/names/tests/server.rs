//! The server as programs see it: asked by dig, a foreign client, and by hand where dig would not misbehave.
//! Takes dig (Debian: bind9-dnsutils).

#![allow(clippy::unwrap_used, reason = "tests")]

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use atoll_ids::{NodeId, OwnerId};
use atoll_names::{Bind, Forward, KnownNode, Listener, Names, Store};
use hickory_proto::op::{Edns, Message, MessageType, Query, ResponseCode};
use hickory_proto::rr::rdata::{A, NULL};
use hickory_proto::rr::{Name, RData, Record, RecordType};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio_util::sync::CancellationToken;

fn node(number: u8) -> NodeId {
    NodeId::from_bytes([number; 32])
}

fn address(number: u8) -> String {
    node(number).planetary_address().to_string()
}

/// A server with a few names that ends with the test.
struct Served {
    at: SocketAddr,
    names: Names,
    stop: CancellationToken,
}

impl Served {
    async fn new(upstreams: Option<&[SocketAddr]>) -> Self {
        let mine = OwnerId::from_bytes([0x81; 32]);
        let known =
            |number: u8, name: &str| KnownNode { node: node(number), owner: Some(mine), name: Some(name.into()) };
        let names = Names::new(mine);
        let crowd = (10..60).map(|number| known(number, "crowd"));
        names.set_nodes(crowd.chain([known(1, "attic")]).collect());
        let listener = Listener::bind(Bind::At("127.0.0.1:0".parse().unwrap())).await.unwrap();
        let (at, stop) = (listener.address(), CancellationToken::new());
        tokio::spawn(listener.run(names.clone(), upstreams.map(Forward::new), stop.clone()));
        Self { at, names, stop }
    }

    async fn dig(&self, arguments: &[&str]) -> String {
        let port = self.at.port().to_string();
        let mut dig = tokio::process::Command::new("dig");
        dig.args(["@127.0.0.1", "-p", &port, "+time=10", "+tries=1"]).args(arguments);
        let output = dig.output().await.expect("dig is there: apt-get install bind9-dnsutils");
        String::from_utf8(output.stdout).unwrap()
    }

    /// What dig says in the fewest words.
    async fn short(&self, arguments: &[&str]) -> String {
        self.dig(&[&["+short"], arguments].concat()).await.trim().to_owned()
    }

    async fn by_hand(&self, message: &[u8]) -> Option<Message> {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        socket.send_to(message, self.at).await.unwrap();
        let mut answer = vec![0; 65535];
        let received = tokio::time::timeout(Duration::from_secs(10), socket.recv(&mut answer)).await.ok()?;
        Some(Message::from_vec(&answer[..received.unwrap()]).unwrap())
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

fn query(name: &str, kind: RecordType) -> Message {
    let mut query = Message::query();
    query.metadata.recursion_desired = true;
    query.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
    query
}

#[tokio::test]
async fn dig_finds_what_there_is_and_is_told_what_there_is_not() {
    let served = Served::new(None).await;
    assert_eq!(served.short(&["attic.mine.atoll", "AAAA"]).await, address(1));
    assert_eq!(served.short(&["+tcp", "attic.mine.atoll", "AAAA"]).await, address(1));
    assert_eq!(served.short(&["+noedns", "ATTIC.mine.atoll", "AAAA"]).await, address(1));
    assert_eq!(served.short(&[&format!("{}.node.atoll", node(99)), "AAAA"]).await, address(99));
    assert_eq!(served.short(&["-x", &address(1)]).await, "attic.mine.atoll.");
    assert_eq!(served.short(&["atoll", "NS"]).await, "ns.atoll.");
    assert_eq!(served.short(&["ns.atoll", "A"]).await, "127.0.0.1");
    assert!(served.short(&["atoll", "SOA"]).await.starts_with("ns.atoll. hostmaster.atoll. "));

    let said = served.dig(&["attic.mine.atoll", "AAAA"]).await;
    assert!(said.contains("status: NOERROR") && said.contains("flags: qr aa rd;"), "{said}");
    assert!(said.contains("EDNS: version: 0, flags:; udp: 1232"), "{said}");
    let said = served.dig(&["cellar.mine.atoll", "AAAA"]).await;
    assert!(said.contains("status: NXDOMAIN") && said.contains("SOA\tns.atoll."), "{said}");
    let said = served.dig(&["attic.mine.atoll", "A"]).await;
    assert!(said.contains("status: NOERROR") && said.contains("ANSWER: 0, AUTHORITY: 1"), "{said}");
    let said = served.dig(&["example.org", "A"]).await;
    assert!(said.contains("status: REFUSED") && !said.contains(" ra;"), "{said}");
    let said = served.dig(&["+edns=7", "+noednsnegotiation", "attic.mine.atoll", "AAAA"]).await;
    assert!(said.contains("status: BADVERS"), "{said}");
    let said = served.dig(&["atoll", "AXFR"]).await;
    assert!(said.contains("Transfer failed"), "{said}");

    // Cut over UDP, whole when dig comes back over TCP.
    let said = served.dig(&["+noedns", "crowd.mine.atoll", "AAAA"]).await;
    assert!(said.contains("Truncated, retrying in TCP mode") && said.contains("ANSWER: 32"), "{said}");
    let said = served.dig(&["+noedns", "+ignore", "crowd.mine.atoll", "AAAA"]).await;
    assert!(said.contains("flags: qr aa tc rd;") && said.contains("ANSWER: 0"), "{said}");
}

#[tokio::test]
async fn names_change_while_it_answers() {
    let (served, folder) = (Served::new(None).await, tempfile::tempdir().unwrap());
    let kv = atoll_kv::Embedded::open(folder.path(), atoll_kv::EmbeddedConfig::default()).unwrap();
    let store = Store::new(Arc::new(kv));
    assert_eq!(served.short(&["wiki.mine.atoll", "AAAA"]).await, "");
    store.give(&"wiki.mine".parse().unwrap(), *node(7).as_bytes()).await.unwrap();
    served.names.set_book(store.book().await.unwrap());
    assert_eq!(served.short(&["wiki.mine.atoll", "AAAA"]).await, address(7));
    assert_eq!(served.short(&["-x", &address(7)]).await, "wiki.mine.atoll.");
}

#[tokio::test]
async fn rubbish_is_answered_as_such_or_not_at_all() {
    let served = Served::new(None).await;
    let whole = query("attic.mine.atoll.", RecordType::AAAA).to_vec().unwrap();
    let said = served.by_hand(&whole[..whole.len() - 3]).await.unwrap();
    assert_eq!(said.metadata.response_code, ResponseCode::FormErr);
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let mut answer = whole.clone();
    answer[2] |= 0x80;
    for nothing in [&b""[..], b"short", &answer] {
        socket.send_to(nothing, served.at).await.unwrap();
    }
    // Had any of these been answered, that would come first.
    socket.send_to(&whole, served.at).await.unwrap();
    let mut received = [0; 4096];
    let length = socket.recv(&mut received).await.unwrap();
    let received = Message::from_vec(&received[..length]).unwrap();
    assert_eq!(received.answers.len(), 1);

    let mut stream = TcpStream::connect(served.at).await.unwrap();
    stream.write_all(&u16::MAX.to_be_bytes()).await.unwrap();
    assert!(stream.read_u8().await.is_err(), "a question of 64 KiB is not waited for");
}

/// A resolver that answers every question with one address, and remembers what it was asked.
struct Upstream {
    at: SocketAddr,
    asked: Arc<Mutex<Vec<String>>>,
}

/// A type that nobody knows, with content that could be anything.
const UNKNOWN_TYPE: u16 = 65_399;

impl Upstream {
    async fn new(misbehaves: bool) -> Self {
        let udp = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let at = udp.local_addr().unwrap();
        let tcp = TcpListener::bind(at).await.unwrap();
        let asked = Arc::new(Mutex::new(Vec::new()));
        let (over_udp, over_tcp) = (asked.clone(), asked.clone());
        tokio::spawn(async move {
            let mut buffer = [0; 4096];
            while let Ok((length, from)) = udp.recv_from(&mut buffer).await {
                let answer = Self::answer(&buffer[..length], &over_udp, "UDP");
                if misbehaves {
                    // As somebody would who guesses numbers, or questions.
                    let mut other = answer.clone();
                    other[0] ^= 1;
                    udp.send_to(&other, from).await.unwrap();
                    let mut other = answer.clone();
                    other[13] ^= 1;
                    udp.send_to(&other, from).await.unwrap();
                    udp.send_to(b"rubbish", from).await.unwrap();
                }
                udp.send_to(&answer, from).await.unwrap();
            }
        });
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = tcp.accept().await {
                let mut question = vec![0; usize::from(stream.read_u16().await.unwrap())];
                stream.read_exact(&mut question).await.unwrap();
                let answer = Self::answer(&question, &over_tcp, "TCP");
                let length = u16::try_from(answer.len()).unwrap();
                stream.write_all(&[&length.to_be_bytes()[..], &answer].concat()).await.unwrap();
            }
        });
        Self { at, asked }
    }

    fn answer(question: &[u8], asked: &Mutex<Vec<String>>, over: &str) -> Vec<u8> {
        let question = Message::from_vec(question).unwrap();
        let name = question.queries[0].name.clone();
        asked.lock().unwrap().push(format!("{name} {over}"));
        let mut answer = Message::new(question.metadata.id, MessageType::Response, question.metadata.op_code);
        answer.metadata.recursion_available = true;
        answer.queries = question.queries;
        answer.edns = question.edns.map(|_| Edns::new());
        let data = match answer.queries[0].query_type {
            RecordType::A => RData::A(A([192, 0, 2, 7].into())),
            _ => RData::Unknown { code: RecordType::Unknown(UNKNOWN_TYPE), rdata: NULL::with(b"\x00\xff.".to_vec()) },
        };
        answer.add_answer(Record::from_rdata(name, 60, data));
        answer.to_vec().unwrap()
    }

    fn asked(&self) -> Vec<String> {
        std::mem::take(&mut *self.asked.lock().unwrap())
    }
}

/// An address at which nobody answers.
fn nobody() -> SocketAddr {
    std::net::UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

#[tokio::test]
async fn the_rest_is_asked_of_others_and_nothing_else_is() {
    let upstream = Upstream::new(true).await;
    let served = Served::new(Some(&[nobody(), upstream.at])).await;
    assert_eq!(served.short(&["example.org", "A"]).await, "192.0.2.7");
    assert_eq!(upstream.asked(), ["example.org. UDP"]);
    assert_eq!(served.short(&["+tcp", "example.org", "A"]).await, "192.0.2.7");
    assert_eq!(upstream.asked(), ["example.org. TCP"]);
    let said = served.dig(&["example.org", &format!("TYPE{UNKNOWN_TYPE}")]).await;
    assert!(said.contains("\\# 3 00FF2E") && said.contains("ra"), "{said}");
    assert_eq!(upstream.asked(), ["example.org. UDP"]);

    assert_eq!(served.short(&["attic.mine.atoll", "AAAA"]).await, address(1));
    let own = ["cellar.mine.atoll", "atoll", "x.y.z.ATOLL", "attic.mine.atoll", "6.0.ip6.arpa"];
    for name in own {
        served.dig(&[name, "MX"]).await;
    }
    served.dig(&["-x", "6ff::1"]).await;
    assert_eq!(upstream.asked(), [""; 0], "questions about our names are nobody else's business");
}

#[tokio::test]
async fn resolvers_that_do_not_answer_are_said_not_to() {
    let served = Served::new(Some(&[nobody()])).await;
    let said = served.dig(&["example.org", "A"]).await;
    assert!(said.contains("status: SERVFAIL"), "{said}");
    let silent = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let upstream = Upstream::new(false).await;
    let served = Served::new(Some(&[silent.local_addr().unwrap(), upstream.at])).await;
    let began = Instant::now();
    assert_eq!(served.short(&["example.org", "A"]).await, "192.0.2.7");
    assert!(began.elapsed() < Duration::from_secs(4), "programs wait five seconds");
    let began = Instant::now();
    assert_eq!(served.short(&["example.org", "A"]).await, "192.0.2.7");
    assert!(began.elapsed() < Duration::from_secs(2), "who answered last is asked first: {:?}", began.elapsed());
}

#[tokio::test]
async fn connections_are_bounded_and_idle_ones_make_room() {
    let served = Served::new(None).await;
    let mut idle = Vec::new();
    for _ in 0..32 {
        idle.push(TcpStream::connect(served.at).await.unwrap());
    }
    // Each has to be taken before the next is one too many.
    let mut late = TcpStream::connect(served.at).await.unwrap();
    let question = query("attic.mine.atoll.", RecordType::AAAA).to_vec().unwrap();
    let length = u16::try_from(question.len()).unwrap();
    late.write_all(&[&length.to_be_bytes()[..], &question].concat()).await.unwrap();
    let early = tokio::time::timeout(Duration::from_secs(2), late.read_u16()).await;
    assert!(early.is_err(), "a thirty-third connection was answered beside 32 others");
    assert_eq!(served.short(&["attic.mine.atoll", "AAAA"]).await, address(1), "datagrams are answered meanwhile");
    let length = tokio::time::timeout(Duration::from_secs(20), late.read_u16()).await;
    assert!(length.expect("idle connections are closed").unwrap() > 12);
}
