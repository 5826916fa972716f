//! Somebody who does not keep to the rules of finding: a bare iroh endpoint that says what it likes.

use std::sync::Arc;
use std::time::Duration;

use atoll_find::{Answer, Ask, Contact, Key, Message, decode_message};
use atoll_ids::NodeId;
use atoll_keys::{NodeKey, Signed};
use atoll_link::{AddressRecord, Introduction, LinkHandle};
use iroh::endpoint::{Connection, presets};
use iroh::{Endpoint, EndpointAddr, EndpointId, RelayMode, SecretKey};
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use tokio::time::{sleep, timeout};

use crate::acquaint::{finding, until_joined};
use crate::support::{Node, PATIENCE, nowhere};

const FIND: &str = "atoll/find/1";

const PACKET: &str = "atoll/packet/1";

type Record = Signed<AddressRecord>;

/// An endpoint, its key, and where it is.
struct Stranger {
    key: NodeKey,
    endpoint: Endpoint,
}

impl Stranger {
    async fn start() -> Self {
        let key = NodeKey::generate();
        let provider =
            CryptoProvider { kx_groups: vec![aws_lc_rs::kx_group::X25519MLKEM768], ..aws_lc_rs::default_provider() };
        let builder = Endpoint::builder(presets::Empty)
            .secret_key(SecretKey::from_bytes(&key.secret_bytes()))
            .crypto_provider(Arc::new(provider))
            .relay_mode(RelayMode::Disabled)
            .clear_address_lookup()
            .alpns(vec![FIND.as_bytes().to_vec(), PACKET.as_bytes().to_vec()])
            .clear_ip_transports()
            .bind_addr("127.0.0.1:0".parse::<std::net::SocketAddr>().unwrap())
            .unwrap();
        Self { key, endpoint: builder.bind().await.unwrap() }
    }

    fn contact(&self) -> Contact {
        Contact { node: self.key.id(), at: self.endpoint.bound_sockets()[0] }
    }

    async fn dial(&self, to: &LinkHandle, protocol: &str) -> Connection {
        let id = EndpointId::from_bytes(to.node_id().as_bytes()).unwrap();
        let to = EndpointAddr::new(id).with_ip_addr(to.addresses().quic[0]);
        timeout(PATIENCE, self.endpoint.connect(to, protocol.as_bytes())).await.unwrap().unwrap()
    }

    /// Asks as one that can be asked, so that it gets into tables.
    fn ask(&self, connection: &Connection, keep: Option<Record>) {
        let key = Key::of(&self.key.id());
        let ask = Ask { id: 1, serves: true, key, contacts: 8, newer_than: Some(0), keep };
        connection.send_datagram(atoll_wire::encode(&Message::Ask(ask)).into()).unwrap();
    }
}

/// Answers every question with lies: a record that somebody else signed, and contacts who do not exist right next to the key.
async fn lie(stranger: Arc<Stranger>, connection: Connection, wanted: NodeId) {
    while let Ok(bytes) = connection.read_datagram().await {
        let Ok(Message::<Record>::Ask(ask)) = decode_message(&bytes) else { continue };
        let record = AddressRecord {
            node: wanted,
            sequence: u64::MAX / 2,
            quic: vec![stranger.contact().at],
            lane: Vec::new(),
            relay: None,
        };
        let record = Some(Signed::sign(&record, &stranger.key));
        let nobody = |port| Contact { node: wanted, at: ([127, 0, 0, 1], port).into() };
        let made_up = |port| Contact { node: NodeKey::generate().id(), at: ([127, 0, 0, 1], port).into() };
        let contacts = (1..=2).map(nobody).chain((3..=8).map(made_up)).collect();
        let answer = Message::Answer(Answer { id: ask.id, record, contacts });
        let _: Result<(), _> = connection.send_datagram(atoll_wire::encode(&answer).into());
        let _: Result<(), _> = connection.send_datagram(vec![0xff; 900].into());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn lies_lead_nobody_astray() {
    let [middle, one, other] =
        [Node::start_with(finding()).await, Node::start_with(finding()).await, Node::start_with(finding()).await];
    for node in [&one, &other] {
        node.handle.join(&middle.handle.invite(Duration::from_secs(60), 1).unwrap()).await.unwrap();
    }
    let liars: Vec<Arc<Stranger>> =
        [Stranger::start().await, Stranger::start().await, Stranger::start().await].map(Arc::new).into();
    for liar in &liars {
        let (listening, wanted) = (liar.clone(), other.id());
        tokio::spawn(async move {
            while let Some(incoming) = listening.endpoint.accept().await {
                let Ok(connection) = incoming.await else { continue };
                tokio::spawn(lie(listening.clone(), connection, wanted));
            }
        });
        let connection = liar.dial(&one.handle, FIND).await;
        liar.ask(&connection, None);
        tokio::spawn(lie(liar.clone(), connection, wanted));
    }
    // All of them answer, so all are in the table beside the two honest ones.
    let waiting = async {
        while one.handle.find_counts().is_none_or(|counts| counts.contacts < 4) {
            sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(PATIENCE, waiting).await.unwrap();
    until_joined(&other).await;
    let found = timeout(PATIENCE, one.handle.find(other.id().planetary_address())).await.unwrap().unwrap();
    assert_eq!(found.record, other.handle.addresses());
    let nobody = NodeKey::generate().id().planetary_address();
    assert!(timeout(PATIENCE, one.handle.find(nobody)).await.unwrap().is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_strangers_is_bounded() {
    let node = Node::start_with(finding()).await;
    let mut connections = Vec::new();
    for _ in 0..12 {
        let stranger = Stranger::start().await;
        for _ in 0..14 {
            let connection = stranger.dial(&node.handle, FIND).await;
            // Foreign records are not proven and not kept for long; of its own it has one.
            stranger.ask(&connection, Some(nowhere(&NodeKey::generate(), 1)));
            connections.push((stranger.endpoint.clone(), connection));
        }
    }
    let counts = node.handle.find_counts().unwrap();
    assert!(counts.connections <= 128 + 64, "{counts:?}");
    assert!(counts.records == 0 && counts.acquaintances == 0, "{counts:?}");
    // Who is silent is not kept.
    let waiting = async {
        while node.handle.find_counts().unwrap().connections > 0 {
            sleep(Duration::from_millis(100)).await;
        }
    };
    timeout(PATIENCE, waiting).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn who_does_not_introduce_itself_or_speaks_for_another_is_closed_out() {
    let (node, stranger) = (Node::start_with(finding()).await, Stranger::start().await);
    let place = |key: &NodeKey| {
        let record = AddressRecord {
            node: key.id(),
            sequence: 1,
            quic: vec![stranger.contact().at],
            lane: Vec::new(),
            relay: None,
        };
        Signed::sign(&record, key)
    };
    let other = NodeKey::generate();
    let said = [
        atoll_wire::encode(&Introduction { record: place(&other), credentials: Vec::new() }),
        atoll_wire::encode(&Introduction { record: place(&stranger.key), credentials: vec![0; 513] }),
        b"let me in".to_vec(),
        Vec::new(),
    ];
    for bytes in said {
        let connection = stranger.dial(&node.handle, PACKET).await;
        let (mut say, _hear) = connection.open_bi().await.unwrap();
        atoll_wire::write_frame(&mut say, &bytes, 4096).await.unwrap();
        connection.send_datagram(vec![1; 100].into()).unwrap();
        timeout(PATIENCE, connection.closed()).await.unwrap();
    }
    let connection = stranger.dial(&node.handle, PACKET).await;
    timeout(PATIENCE, connection.closed()).await.unwrap();
    assert!(node.handle.acquaintances().is_empty());
    assert_eq!(node.handle.packets().counts().received, 0);
    // And who does is let in.
    let connection = stranger.dial(&node.handle, PACKET).await;
    let (mut say, mut hear) = connection.open_bi().await.unwrap();
    let introduction = Introduction { record: place(&stranger.key), credentials: Vec::new() };
    atoll_wire::write_frame(&mut say, &atoll_wire::encode(&introduction), 4096).await.unwrap();
    let answer = timeout(PATIENCE, atoll_wire::read_frame(&mut hear, 4096)).await.unwrap().unwrap().unwrap();
    let answer = atoll_link::decode_introduction(&answer).unwrap();
    assert_eq!(answer.record, node.handle.own_record());
    assert_eq!(node.handle.acquaintances().len(), 1);
}
