//! A relay that lies: it answers and carries probes, and drops the rest.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use atoll_ids::NodeId;
use atoll_keys::{NodeKey, Signed};
use atoll_link::{AddressRecord, FRAME_BYTES_MAX, Hello, Path, Traffic, decode_hello};
use atoll_relay::{Frame, Parcel};
use iroh::endpoint::{Connection, QuicTransportConfig, presets};
use iroh::{Endpoint, EndpointAddr, PublicKey, RelayMode, SecretKey};
use rustls::crypto::aws_lc_rs;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::Mutex;
use tokio::time::{sleep, timeout};

use crate::relay::{GENEROUS, islands, know_each_other, path, relaying};
use crate::support::{ECHO, Node, PATIENCE};

const HELLO: &str = "atoll/hello/1";
const RELAY: &str = "atoll/relay/1";

/// A node made by hand, of which there is no more than a relay takes.
struct Liar {
    key: NodeKey,
    endpoint: Endpoint,
    places: HashMap<NodeId, SocketAddr>,
    /// What it dialled, to hand on what others send.
    ways: Mutex<HashMap<NodeId, Connection>>,
    drops: AtomicBool,
}

impl Liar {
    /// For these, whom it knows.
    async fn start(users: &[&Node]) -> Arc<Self> {
        let key = NodeKey::generate();
        let transport = QuicTransportConfig::builder().initial_mtu(1400).build();
        let builder = Endpoint::builder(presets::Empty)
            .secret_key(SecretKey::from_bytes(&key.secret_bytes()))
            .crypto_provider(Arc::new(aws_lc_rs::default_provider()))
            .transport_config(transport)
            .relay_mode(RelayMode::Disabled)
            .alpns([RELAY, HELLO].map(|name| name.as_bytes().to_vec()).to_vec())
            .clear_ip_transports();
        let at = |text: &str| text.parse::<SocketAddr>().unwrap();
        let builder = builder.bind_addr(at("127.0.0.1:0")).unwrap().bind_addr(at("[::1]:0")).unwrap();
        let endpoint = builder.bind().await.unwrap();
        let places = users.iter().map(|user| (user.id(), user.handle.addresses().quic[0])).collect();
        let (ways, drops) = (Mutex::default(), AtomicBool::new(false));
        let liar = Arc::new(Self { key, endpoint, places, ways, drops });
        tokio::spawn(liar.clone().run());
        for user in users {
            user.handle.introduce(liar.record()).await.unwrap();
            user.until_connected(liar.key.id()).await;
        }
        liar
    }

    fn record(&self) -> Signed<AddressRecord> {
        let quic = self.endpoint.bound_sockets();
        Signed::sign(
            &AddressRecord { node: self.key.id(), sequence: 1, quic, lane: Vec::new(), relay: None },
            &self.key,
        )
    }

    async fn run(self: Arc<Self>) {
        while let Some(incoming) = self.endpoint.accept().await {
            let liar = self.clone();
            tokio::spawn(async move {
                let Ok(connection) = incoming.await else { return };
                if connection.alpn() == RELAY.as_bytes() {
                    liar.relay(connection).await
                } else {
                    liar.greet(connection).await
                }
            });
        }
    }

    async fn greet(&self, connection: Connection) {
        while let Ok((mut say, mut hear)) = connection.accept_bi().await {
            let frame = atoll_wire::read_frame(&mut hear, FRAME_BYTES_MAX).await.unwrap().unwrap();
            decode_hello(&frame).unwrap();
            let hello = Hello { record: self.record(), known: 0, instance: 1 };
            atoll_wire::write_frame(&mut say, &atoll_wire::encode(&hello), FRAME_BYTES_MAX).await.unwrap();
            say.finish().unwrap();
        }
    }

    async fn relay(&self, connection: Connection) {
        let from = NodeId::from_bytes(*connection.remote_id().as_bytes());
        while let Ok(frame) = connection.read_datagram().await {
            let Ok(Frame::Forward { to, payload }) = Frame::decode(frame) else { continue };
            let is_probe = matches!(Parcel::decode(payload.clone()), Ok(Parcel::Probe(_) | Parcel::Echo(_)));
            if is_probe || !self.drops.load(Ordering::Relaxed) {
                let way = self.way(to).await;
                let _: Result<(), _> = way.send_datagram(Frame::Deliver { from, payload }.encode());
            }
        }
    }

    async fn way(&self, to: NodeId) -> Connection {
        let mut ways = self.ways.lock().await;
        if let Some(way) = ways.get(&to).filter(|way| way.close_reason().is_none()) {
            return way.clone();
        }
        let at = EndpointAddr::new(PublicKey::from_bytes(to.as_bytes()).unwrap()).with_ip_addr(self.places[&to]);
        let way = self.endpoint.connect(at, RELAY.as_bytes()).await.unwrap();
        ways.insert(to, way.clone());
        way
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_relay_that_carries_probes_and_drops_the_rest_is_left() {
    let (one, other) = islands(&[]).await;
    let liar = Liar::start(&[&one, &other]).await;
    let opening = async {
        loop {
            match one.handle.open(other.id(), ECHO, Traffic::Control).await {
                Ok(stream) => return stream,
                Err(_) => sleep(Duration::from_millis(50)).await,
            }
        }
    };
    let mut stream = timeout(PATIENCE, opening).await.unwrap();
    let by_liar = Path::Via(Some(liar.key.id()));
    one.until(other.id(), "by the liar", |_| path(&one, &other).as_ref() == Some(&by_liar)).await;

    let honest = Node::start_with(relaying(Some(GENEROUS))).await;
    for island in [&one, &other] {
        know_each_other(island, &honest).await;
        island.until_connected(honest.id()).await;
        honest.until_connected(island.id()).await;
    }
    let measured = async {
        loop {
            let paths = one.handle.paths(other.id()).await.unwrap();
            if paths.candidates.iter().filter(|way| way.round_trip.is_some()).count() >= 2 {
                return;
            }
        }
    };
    timeout(PATIENCE, measured).await.unwrap();
    assert_eq!(path(&one, &other), Some(by_liar), "both are as good, so it stays");

    liar.drops.store(true, Ordering::Relaxed);
    let began = Instant::now();
    for _ in 0..20 {
        stream.write_all(b"still there?").await.unwrap();
        let mut answer = [0; 12];
        timeout(PATIENCE, stream.read_exact(&mut answer)).await.unwrap().unwrap();
        assert_eq!(&answer, b"still there?");
        sleep(Duration::from_millis(20)).await;
    }
    let outage = began.elapsed().saturating_sub(Duration::from_millis(400));
    eprintln!("a relay began to drop all but probes: {outage:?} until the stream went on");
    assert!(outage < Duration::from_secs(4), "{outage:?}");
    let by_honest = Path::Via(Some(honest.id()));
    one.until(other.id(), "by the other relay", |_| path(&one, &other).as_ref() == Some(&by_honest)).await;
}
