//! The whole way of a request: TLS in front, a session and data streams behind, replicas that are real TCP servers.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::collections::HashMap;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use atoll_gateway::{
    Authority, BoxStream, Claim, Connector, Dial, DialError, FrontConfig, Gateway, GatewayConfig, Names, PathKind,
    Route, Served, serve_https,
};
use atoll_ids::NodeId;
use atoll_keys::{NodeKey, OwnerKey, Signed};
use atoll_kv::{Embedded, EmbeddedConfig};
use bytes::Bytes;
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

const HOST: &str = "guestbook.cloud.example";

/// Dials the gateway in the same process, unless the network is cut.
struct InProcess {
    gateway: Gateway,
    peer: NodeId,
    cut: Arc<AtomicBool>,
}

impl Dial for InProcess {
    fn dial(&self) -> BoxFuture<'_, Result<BoxStream, DialError>> {
        async move {
            if self.cut.load(Ordering::Relaxed) {
                return Err(DialError("the network is cut".into()));
            }
            let (here, there) = tokio::io::duplex(1 << 16);
            let (gateway, peer) = (self.gateway.clone(), self.peer);
            tokio::spawn(async move { gateway.handle(peer, Box::new(there)).await });
            Ok(Box::new(here) as BoxStream)
        }
        .boxed()
    }
}

struct World {
    gateway: Gateway,
    node: NodeId,
    front: SocketAddr,
    tls: Arc<ClientConfig>,
    stop: CancellationToken,
    _folder: tempfile::TempDir,
}

struct Replica {
    served: watch::Sender<Served>,
    cut: Arc<AtomicBool>,
    stop: CancellationToken,
}

async fn world() -> World {
    let folder = tempfile::tempdir().unwrap();
    let kv = Arc::new(Embedded::open(folder.path().join("kv"), EmbeddedConfig::default()).unwrap());
    let node = NodeKey::generate().id();
    let gateway = Gateway::new(GatewayConfig { node, names: Names::new(kv, "cloud.example") });
    let authority = Arc::new(Authority::open(&folder.path().join("ca")).unwrap());
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(authority.pem().as_bytes()).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let tls = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (front, stop) = (listener.local_addr().unwrap(), CancellationToken::new());
    tokio::spawn(serve_https(listener, gateway.clone(), authority, FrontConfig::default(), stop.clone()));
    World { gateway, node, front, tls: Arc::new(tls), stop, _folder: folder }
}

impl World {
    /// A node of `tenant` whose replica listens on `target`.
    fn replica(&self, tenant: &OwnerKey, target: SocketAddr) -> Replica {
        let peer = NodeKey::generate().id();
        let claim =
            Claim { tenant: tenant.id(), node: peer, gateway: self.node, hosts: vec!["*".into()], not_after: u64::MAX };
        let served = Served {
            claims: vec![Signed::sign(&claim, tenant)],
            routes: vec![Route { host: HOST.into(), path: "/".into(), kind: PathKind::Prefix, replica: 7 }],
            targets: HashMap::from([(7, target)]),
        };
        let (served, receiver) = watch::channel(served);
        let (cut, stop) = (Arc::new(AtomicBool::new(false)), CancellationToken::new());
        let dial = InProcess { gateway: self.gateway.clone(), peer, cut: cut.clone() };
        tokio::spawn(Connector::new(Arc::new(dial), receiver).run(stop.clone()));
        Replica { served, cut, stop }
    }

    async fn replicas(&self, expected: usize) {
        let count = || self.gateway.routes().iter().map(|route| route.replicas).sum::<usize>();
        tokio::time::timeout(Duration::from_secs(20), async {
            while count() != expected {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        })
        .await
        .unwrap_or_else(|_| panic!("there are {} replicas, not {expected}", count()));
    }

    async fn connect(&self, host: &str, protocol: &[u8]) -> Option<tokio_rustls::client::TlsStream<TcpStream>> {
        let mut config = (*self.tls).clone();
        config.alpn_protocols = vec![protocol.to_vec()];
        let stream = TcpStream::connect(self.front).await.unwrap();
        let name = ServerName::try_from(host.to_owned()).unwrap();
        tokio_rustls::TlsConnector::from(Arc::new(config)).connect(name, stream).await.ok()
    }

    async fn request(&self, method: Method, body: &'static str) -> (StatusCode, String) {
        let stream = self.connect(HOST, b"http/1.1").await.unwrap();
        let (mut send, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection);
        let request = Request::builder().method(method).uri("/x").header("host", HOST);
        let response = send.send_request(request.body(Full::new(Bytes::from(body))).unwrap()).await.unwrap();
        text(response).await
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

async fn text(response: Response<Incoming>) -> (StatusCode, String) {
    let status = response.status();
    let bytes = response.into_body().collect().await.unwrap().to_bytes();
    (status, String::from_utf8(bytes.to_vec()).unwrap())
}

/// A replica that says its name, what it was asked and by whom.
async fn server(name: &'static str) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let service = service_fn(move |request: Request<Incoming>| async move {
                let header = |name: &str| request.headers().get(name).map_or("-", |it| it.to_str().unwrap()).to_owned();
                let head = format!(
                    "{name} {} {} host={} proto={} for={}",
                    request.method(),
                    request.uri(),
                    header("host"),
                    header("x-forwarded-proto"),
                    header("x-forwarded-for"),
                );
                let body = request.into_body().collect().await.unwrap().to_bytes();
                let text = format!("{head} body={}", String::from_utf8_lossy(&body));
                Ok::<_, Infallible>(Response::new(Full::new(Bytes::from(text))))
            });
            tokio::spawn(hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service));
        }
    });
    address
}

/// A port on which nothing listens.
async fn dead() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap()
}

#[tokio::test]
async fn a_request_reaches_its_replica_by_http_1_and_2() {
    let (world, tenant) = (world().await, OwnerKey::generate());
    let _replica = world.replica(&tenant, server("one").await);
    world.replicas(1).await;
    let (status, answer) = world.request(Method::POST, "hello").await;
    assert_eq!(status, StatusCode::OK);
    assert_eq!(answer, format!("one POST /x host={HOST} proto=https for=127.0.0.1 body=hello"));

    let stream = world.connect(HOST, b"h2").await.unwrap();
    let (mut send, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    let request = Request::builder().uri(format!("https://{HOST}/y?z")).body(Full::new(Bytes::new())).unwrap();
    let (status, answer) = text(send.send_request(request).await.unwrap()).await;
    assert_eq!((status, answer), (StatusCode::OK, format!("one GET /y?z host={HOST} proto=https for=127.0.0.1 body=")));
}

#[tokio::test]
async fn a_large_body_streams_through() {
    let (world, tenant) = (world().await, OwnerKey::generate());
    let _replica = world.replica(&tenant, server("one").await);
    world.replicas(1).await;
    let body: &'static str = "x".repeat(1 << 20).leak();
    let (status, answer) = world.request(Method::PUT, body).await;
    assert_eq!(status, StatusCode::OK);
    assert!(answer.ends_with(body));
}

#[tokio::test]
async fn a_replica_that_takes_no_connections_is_passed_over() {
    let (world, tenant) = (world().await, OwnerKey::generate());
    let _dead = world.replica(&tenant, dead().await);
    let _alive = world.replica(&tenant, server("two").await);
    world.replicas(2).await;
    for _ in 0..6 {
        let (status, answer) = world.request(Method::POST, "kept").await;
        assert_eq!(status, StatusCode::OK, "{answer}");
        assert!(answer.starts_with("two POST"));
    }
    assert!(world.gateway.stats().retried.load(Ordering::Relaxed) >= 1);
}

#[tokio::test]
async fn replicas_come_and_go_without_a_failed_request() {
    let (world, tenant) = (world().await, OwnerKey::generate());
    let first = world.replica(&tenant, server("old").await);
    world.replicas(1).await;
    let asking = async {
        for _ in 0..200 {
            let (status, answer) = world.request(Method::GET, "").await;
            assert_eq!(status, StatusCode::OK, "{answer}");
        }
        world.request(Method::GET, "").await.1
    };
    let rolling = async {
        let second = world.replica(&tenant, server("new").await);
        world.replicas(2).await;
        first.served.send_modify(|served| served.routes.clear());
        world.replicas(1).await;
        second
    };
    let (last, _second) = tokio::join!(asking, rolling);
    assert!(last.starts_with("new "), "{last}");
}

#[tokio::test]
async fn a_node_that_is_cut_off_is_left_and_taken_again() {
    let (world, tenant) = (world().await, OwnerKey::generate());
    let target = server("one").await;
    let replica = world.replica(&tenant, target);
    world.replicas(1).await;
    replica.cut.store(true, Ordering::Relaxed);
    replica.stop.cancel();
    world.replicas(0).await;
    assert!(world.connect(HOST, b"http/1.1").await.is_none(), "no certificate is made for a host nobody answers for");
    let again = world.replica(&tenant, target);
    world.replicas(1).await;
    // Its data streams cannot be dialled: there is an answer, and it says so.
    again.cut.store(true, Ordering::Relaxed);
    let (status, answer) = world.request(Method::GET, "").await;
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE, "{answer}");
}

#[tokio::test]
async fn a_name_stays_its_first_tenants() {
    let (world, tenant, thief) = (world().await, OwnerKey::generate(), OwnerKey::generate());
    let _mine = world.replica(&tenant, server("mine").await);
    world.replicas(1).await;
    let target = server("stolen").await;
    let peer = NodeKey::generate().id();
    let claim =
        Claim { tenant: thief.id(), node: peer, gateway: world.node, hosts: vec!["*".into()], not_after: u64::MAX };
    let served = Served {
        claims: vec![Signed::sign(&claim, &thief)],
        routes: vec![Route { host: HOST.into(), path: "/".into(), kind: PathKind::Prefix, replica: 0 }],
        targets: HashMap::from([(0, target)]),
    };
    let dial = InProcess { gateway: world.gateway.clone(), peer, cut: Arc::default() };
    let (_served, receiver) = watch::channel(served);
    let connector = Connector::new(Arc::new(dial), receiver);
    let mut status = connector.status();
    tokio::spawn(connector.run(world.stop.clone()));
    let refused = status.wait_for(|status| !status.refused.is_empty()).await.unwrap().refused.clone();
    assert_eq!(refused, [(HOST.to_owned(), "it belongs to another tenant".to_owned())]);
    for _ in 0..4 {
        assert!(world.request(Method::GET, "").await.1.starts_with("mine"));
    }
}

#[tokio::test]
async fn a_web_socket_is_passed_through() {
    let (world, tenant) = (world().await, OwnerKey::generate());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let target = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.read_u8().await.unwrap());
        }
        assert!(String::from_utf8_lossy(&head).to_lowercase().contains("upgrade: websocket"));
        let answer = b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n";
        stream.write_all(answer).await.unwrap();
        let mut bytes = [0; 4];
        stream.read_exact(&mut bytes).await.unwrap();
        bytes.reverse();
        stream.write_all(&bytes).await.unwrap();
    });
    let _replica = world.replica(&tenant, target);
    world.replicas(1).await;
    let mut stream = world.connect(HOST, b"http/1.1").await.unwrap();
    let request = format!("GET /ws HTTP/1.1\r\nhost: {HOST}\r\nconnection: Upgrade\r\nupgrade: websocket\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.unwrap());
    }
    assert!(head.starts_with(b"HTTP/1.1 101 "), "{}", String::from_utf8_lossy(&head));
    stream.write_all(b"ping").await.unwrap();
    let mut answer = [0; 4];
    stream.read_exact(&mut answer).await.unwrap();
    assert_eq!(&answer, b"gnip");
}
